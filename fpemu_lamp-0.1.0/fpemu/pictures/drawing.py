"""What all pictures have in common: their style, logarithmic axes, and how they are written."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from fpemu import _writing
from fpemu._printing import clean
from fpemu.pictures.colors import HUES, LIGHT
from fpemu.pictures.files import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = [
    "SHAPES",
    "STYLE",
    "WIDTH",
    "Picture",
    "color",
    "handle",
    "label",
    "legend",
    "logarithmic",
    "painted",
    "powers",
    "rc_context",
]

WIDTH: Final = 7.3
"""The width of pictures, in inches: ten points are 13 pixels where one is 700 pixels wide."""

SHAPES: Final = "os^DvP*X"
"""matplotlib's markers, in the order of what they stand for."""

_TICKS: Final = 10
_STEPS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # between the exponents of ticks
_CLOSE: Final = 1e-9
_LINE: Final = 80  # letters of a legend's line
_SAMPLE: Final = 8  # letters that the sample of an entry is as wide as

STYLE: Final[Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": LIGHT["ink"],
    "svg.hashsalt": "fpemu",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": LIGHT["soft"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.titlesize": "medium",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LIGHT["line"],
    "legend.frameon": False,
    "figure.facecolor": LIGHT["paper"],
    "savefig.facecolor": LIGHT["paper"],
    "savefig.dpi": 160,
    **{f"{way}tick.color": LIGHT["soft"] for way in "xy"},
    **{f"{way}tick.labelcolor": LIGHT["ink"] for way in "xy"},
}


class Picture(Figure):
    """A figure that notebooks show, also where pyplot has not been imported."""

    def _repr_png_(self) -> bytes:
        return painted(self, "png")

    def write(self, path: str | os.PathLike[str] | None) -> None:
        """Write the picture, whole or not at all, if there is a path; its ending says the kind."""
        if path is not None:
            _writing.write(path, painted(self, Path(path).suffix[1:].lower()))


def painted(figure: Figure, kind: str) -> bytes:
    """The bytes of a figure as a file of a kind.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    kind : {"png", "svg", "pdf"}

    Returns
    -------
    bytes
        The same ones for the same figure.
    """
    written = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(written, format=kind, metadata=KINDS[kind])
    return written.getvalue()


def color(number: int) -> str:
    """A color that the color-blind can tell from its neighbors."""
    return LIGHT[f"c{number % HUES}"]


def label(name: str) -> str:
    """A name as matplotlib shows it as it is, no part of it a formula."""
    return clean(name).replace("$", r"\$")


def handle(
    text: str, color: str, dashes: Any = "-", marker: str = "", width: float = 1.5
) -> Line2D:
    """An entry of a legend."""
    look: Any = {"ls": dashes, "lw": width, "marker": marker, "ms": 4.5}
    return Line2D([], [], color=color, label=text, solid_capstyle="butt", **look)


def legend(picture: Figure, handles: Sequence[Line2D]) -> None:
    """A legend above a picture, in as many columns as fit."""
    if handles:
        longest = max(len(str(each.get_label())) for each in handles) + _SAMPLE
        columns = min(len(handles), max(1, _LINE // longest))
        picture.legend(handles=[*handles], loc="outside upper left", ncols=columns)


def powers(low: float, high: float, base: int) -> list[float]:
    """Powers of a base from low to high, with as many steps between them as leave room.

    matplotlib's own locator looks beyond the ends, where float64 may have no numbers.
    """
    first, last = (math.log(end) / math.log(base) for end in (low, high))
    exponents = range(math.ceil(first - _CLOSE), math.floor(last + _CLOSE) + 1)
    step = next(step for step in _STEPS if len(exponents) <= step * _TICKS)
    return [float(base) ** each for each in exponents if each % step == 0]


def logarithmic(axes: Axes, way: str, ends: tuple[float, float], base: int) -> None:
    """Make an axis logarithmic, with powers of the base as its ticks.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    way : {"x", "y"}
    ends : pair of float
        The ends of the axis.
    base : int
    """
    axis: Axis = getattr(axes, f"{way}axis")
    getattr(axes, f"set_{way}lim")(*ends)  # first, as the scale would have others computed
    getattr(axes, f"set_{way}scale")("log", base=base)
    ticks = powers(*ends, base)
    labels = [f"${base}^{{{round(math.log(each) / math.log(base))}}}$" for each in ticks]
    if len(ticks) < 2:  # within a binade
        ticks, labels = [*ends], [f"{end:.3g}" for end in ends]
    axis.set_ticks(ticks, labels)
    axis.set_minor_locator(NullLocator())
