"""How errors of the residual stream grow from layer to layer: a table, a picture, a CSV file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lamp.reports import console, exports, figures, numbers, pictures
from lamp.reports.figures import Entry, Line, Picture, Point
from lamp.reports.scales import Scale

if TYPE_CHECKING:
    from rich.table import Table

    from lamp.models import DepthMap

__all__ = ["as_csv", "depth_table", "painted", "picture", "quantiles", "record"]

SHARES: Final = (0.1, 0.5, 0.9)
"""The shares of tokens whose errors are below the three numbers of a layer."""

_COLUMNS: Final = ("machine", "layer", "token", "error", "size")

_Maps = Mapping[str, "DepthMap"]


def quantiles(found: DepthMap) -> NDArray[np.float64]:
    """The relative errors that a tenth, half and nine tenths of the tokens are below.

    Parameters
    ----------
    found : lamp.models.DepthMap

    Returns
    -------
    ndarray of float64, shape (3, layers + 1)
    """
    return np.quantile(found.relative, SHARES, axis=1)


def depth_table(maps: _Maps) -> Table:
    """The median relative error before the first layer and behind each, for each machine."""
    medians = [quantiles(found)[1] for found in maps.values()]
    rows = (
        [str(layer), *(numbers.scientific(value) for value in row)]
        for layer, row in enumerate(np.transpose(medians).tolist())
    )
    return console.headed_table(["layers", *maps], rows)


def as_csv(maps: _Maps) -> bytes:
    """The error and the size of the stream for every machine, layer and token."""
    return exports.written_csv(_COLUMNS, _lines(maps))


def _lines(maps: _Maps) -> Iterator[dict[str, Any]]:
    for machine, found in maps.items():
        for (layer, token), error in np.ndenumerate(found.errors):
            size = found.sizes[layer, token]
            values = machine, layer, token, float(error), float(size)
            yield dict(zip(_COLUMNS, values, strict=True))


def painted(maps: _Maps, title: str, kind: str = "png") -> bytes:
    """The picture as a file of a kind."""
    return pictures.painted(picture(maps, title), kind, "Errors by depth")


def picture(maps: _Maps, title: str) -> Picture:
    """A line for each machine: the median over tokens, and thin ones that hold 80% of them.

    Parameters
    ----------
    maps : mapping of str to lamp.models.DepthMap
        By the name of the machine.
    title : str
        The model and the text.

    Returns
    -------
    Picture
    """
    points, lines, legend = [], [], []
    drawn: list[float] = []
    for color, (machine, found) in enumerate(maps.items()):
        low, middle, high = quantiles(found).tolist()
        drawn += [*low, *middle, *high]
        for values, role in ((low, "front"), (high, "front"), (middle, "path")):
            own = [_point(machine, layer, x, color) for layer, x in enumerate(values)]
            lines.append(Line(own, role))
        points += own
        legend.append(Entry(machine, color, role="path"))
    layers = range(len(points) // len(maps))
    x = Scale("layers behind it", layers, "{:g}".format, log=False, marked=[*layers])
    y = Scale("relative error of the residual stream", drawn)
    legend.append(Entry("thin: 10% and 90% of the tokens are below", role="note"))
    summary = f"relative error of the residual stream, by layer: {len(maps)} machines"
    draw = partial(figures.plot, x, y, points, lines)
    return Picture("depth", title, summary, tuple(legend), draw)


def _point(machine: str, layer: int, value: float, color: int) -> Point:
    tooltip = f"{machine}\n{layer} layers: {numbers.scientific(value)}"
    return Point(layer, value, color, 0, tooltip)


def record(maps: _Maps) -> Sequence[dict[str, Any]]:
    """The quantiles of each machine as plain data."""
    found = []
    for machine, each in maps.items():
        low, middle, high = quantiles(each).tolist()
        found.append({"hardware": machine, "low": low, "median": middle, "high": high})
    return found
