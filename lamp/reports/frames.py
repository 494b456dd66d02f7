"""The frames of charts: axes, their bands and what is written along them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from lamp.reports.drawing import Box, Line, Shape, Text
from lamp.reports.quantities import Quantity
from lamp.reports.scales import Axis, axis

__all__ = [
    "HEIGHT",
    "RIGHT",
    "ROOM",
    "WIDTH",
    "across",
    "ends",
    "frame",
    "margin",
    "names",
    "short",
    "up",
]

WIDTH: Final = 520.0
"""Of all drawings."""

HEIGHT: Final = 384.0
"""Of charts with a vertical axis."""

RIGHT: Final = 508.0
"""Where axes end."""

ROOM: Final = 66.0
"""For a label along a horizontal axis."""

_TOP: Final = 34.0
_BOTTOM: Final = 330.0
_LETTER: Final = 8.4  # the width of a letter, at most
_LONGEST: Final = 60  # letters of a name in a drawing


def up(quantity: Quantity, values: Iterable[float]) -> Axis:
    """A vertical axis.

    Parameters
    ----------
    quantity : Quantity
    values : iterable of float
        All that have to have a place.

    Returns
    -------
    Axis
    """
    return axis(values, _BOTTOM, _TOP, label=quantity.label)


def across(quantity: Quantity, values: Iterable[float], left: float) -> Axis:
    """A horizontal axis.

    Parameters
    ----------
    quantity : Quantity
    values : iterable of float
        All that have to have a place.
    left : float
        Where it begins.

    Returns
    -------
    Axis
    """
    return axis(values, left, RIGHT, label=quantity.label, room=ROOM, band=30.0)


def margin(labels: Iterable[str]) -> float:
    """What labels take on the left.

    Parameters
    ----------
    labels : iterable of str

    Returns
    -------
    float
    """
    return 12 + _LETTER * max(map(len, labels), default=1)


def names(line: Axis) -> Sequence[str]:
    """All that is written along an axis.

    Parameters
    ----------
    line : Axis

    Returns
    -------
    sequence of str
    """
    return [label for _, label in line.ticks] + [band.name for band in line.bands]


def ends(line: Axis) -> tuple[float, float]:
    """Where an axis and its bands begin and end.

    Parameters
    ----------
    line : Axis

    Returns
    -------
    (float, float)
        The smaller first.
    """
    places = [line.start, line.stop]
    places += [place for band in line.bands for place in (band.start, band.stop)]
    return min(places), max(places)


def frame(across: Axis, up: Axis, x_title: str, y_title: str) -> Iterator[Shape]:
    """Axes, their bands, and what is written along them.

    Parameters
    ----------
    across, up : Axis
        The horizontal and the vertical one.
    x_title, y_title : str
        What they show.

    Yields
    ------
    Shape
    """
    (left, right), (top, bottom) = ends(across), ends(up)
    for band in up.bands:
        yield Box(left, min(band.start, band.stop), right - left, abs(band.stop - band.start))
        yield Text(left - 8, band.middle + 4, band.name, anchor="end")
    for band in across.bands:
        yield Box(min(band.start, band.stop), top, abs(band.stop - band.start), bottom - top)
        yield Text(band.middle, bottom + 18, band.name, anchor="middle")
    for y, label in up.ticks:
        yield Line(((left, y), (right, y)), "grid")
        yield Text(left - 8, y + 4, label, anchor="end")
    for x, label in across.ticks:
        yield Line(((x, top), (x, bottom)), "grid")
        yield Text(x, bottom + 18, label, anchor="middle")
    yield Line(((left, bottom), (right, bottom)), "axis")
    yield Text(0, 14, y_title, "label")
    yield Text(RIGHT, bottom + 42, x_title, "label", "end")


def short(name: str) -> str:
    """A name that fits into a drawing.

    Parameters
    ----------
    name : str

    Returns
    -------
    str
    """
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
