"""Figures, drawn by matplotlib: marks against two axes, rows of marks, heat maps.

The page and the pictures are drawn by the same functions.  matplotlib's SVG was taken over
Vega-Lite and Plotly, which draw in the browser: their bundles add 0.8 and 4.8 MB to a page of
0.5 MB, Vega evaluates code that a strict content security policy forbids, nothing is seen without
scripts, and a PNG needs a browser or a binary of 30 MB.  What they would add (tooltips, picking out
machines and rules) takes a title in each mark and forty lines of script.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from fpemu.pictures.colors import HUES, LIGHT
from lamp.reports import numbers
from lamp.reports.runs import grouped
from lamp.reports.scales import Scale

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = [
    "OUTSIDE",
    "SHAPES",
    "WIDTH",
    "Block",
    "Entry",
    "Line",
    "Picture",
    "Point",
    "Sheet",
    "columns",
    "handle",
    "heat_map",
    "heat_scale",
    "plot",
    "short",
    "strips",
    "style",
]

SHAPES: Final = "os^DvP*X"
"""matplotlib's markers of rules; "o" is no look-ahead."""

OUTSIDE: Final = "outside"
"""The column of a heat map that has what is in no layer."""

WIDTH: Final = 520
"""The width of figures, in points on paper and units of the page."""

_HEIGHT: Final = 384
_LETTER: Final = 0.62  # the width of a letter, in heights of one
_LONGEST: Final = 60  # letters of a label
_STRIP: Final = 44  # the height of a row of marks
_ROW: Final = 21  # the height of a row of a heat map
_FAINTEST: Final = 1e-4  # the rate that is as good as none
_STRONG: Final = 0.3  # the rate from which a color is strong enough for light letters
_SCALE: Final = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # the rates that explain a heat map's colors
_CELLS: Final = 8  # the most layers whose numbers fit into their cells
_SIZES: Final = {"*": 11.5, "X": 9.0, "P": 9.0, "s": 6.9, "D": 6.5}  # of markers of equal area
# The width of a line of a role, how it looks, and how it looks dashed.
_LINES: Final[dict[str, tuple[float, Any, Any]]] = {
    "level": (1.5, (0, (1, 2)), (0, (1, 5))),
    "front": (1.0, "-", (0, (5, 3))),
    "path": (2.0, "-", (0, (5, 3))),
    "median": (1.6, "-", "-"),
}
_BAND: Final[dict[str, Any]] = {"linewidth": 0, "alpha": 0.13}
_BAR: Final[dict[str, Any]] = {"elinewidth": 1.2, "zorder": 3}
_STYLE: Final[Any] = {
    "font.family": "sans-serif",
    "text.parse_math": False,  # no part of a label is a formula
    "text.color": LIGHT["ink"],
    "svg.fonttype": "none",
    "svg.hashsalt": "lamp",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": LIGHT["soft"],
    "axes.labelcolor": LIGHT["soft"],
    "axes.labelsize": "medium",
    "axes.titlecolor": LIGHT["soft"],
    "axes.titlesize": "medium",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LIGHT["line"],
    "legend.frameon": False,
    **{f"{way}tick.color": LIGHT["soft"] for way in "xy"},
    **{f"{way}tick.labelsize": "medium" for way in "xy"},
    **{f"{way}tick.{part}.size": 0 for way in "xy" for part in ("major", "minor")},
}


class Point(NamedTuple):
    """A mark: its place, the numbers of its color and shape, its tooltip, and its errors."""

    x: float
    y: float
    color: int
    shape: int
    tooltip: str
    x_error: float = math.nan
    y_error: float = math.nan


class Line(NamedTuple):
    """A line through points, in the first's color; that of one point is level, from end to end.

    Its role is "level" (no look-ahead), "front" (thin) or "path" (bold).  Levels and paths have a
    band of one error.
    """

    points: Sequence[Point]
    role: str = "front"
    tooltip: str = ""


class Block(NamedTuple):
    """A run in a heat map: its name, its tooltip, and the rates of each step's layers.

    With options, these are the numbers of one each.  NaN stands for nothing.  A block without a
    name has no line for it.
    """

    name: str
    tooltip: str
    rates: Mapping[str, Sequence[float]]
    options: Sequence[str] = ()


class Entry(NamedTuple):
    """What a color, a shape or a line means in a legend.

    Without a color it has that of the text.  Its role is "machine" or "rule" (marks), "level",
    "front", "path" or "median" (lines), "rate" or "option" (the color of a rate, or of an option's
    number, in a heat map), or "note".
    """

    text: str
    color: int | None = None
    shape: int | None = None
    role: str = "machine"
    rate: float = 0.0

    @property
    def pick(self) -> str:
        """The class of the marks that the page picks out by it; empty if it stands for none."""
        if self.role == "option":
            return ""
        if self.color is not None:
            return f"m{self.color}"
        return "" if self.shape is None else f"r{self.shape}"


@dataclass(frozen=True)
class Picture:
    """A figure that can be drawn in the :func:`style` that is in force.

    Its kind is a word or two that can be part of a file's name, its title the model and text, its
    summary what is to be seen, in words.  The name tells it from others of the same title.
    """

    kind: str
    title: str
    summary: str
    legend: tuple[Entry, ...]
    draw: Callable[[], Sheet]
    name: str = ""


class Sheet:
    """A matplotlib figure with one pair of axes, and the classes and tooltips of its marks."""

    def __init__(self, height: float, labels: Iterable[str], above: float, below: float) -> None:
        """Room for labels to the left of the axes, and for lines of text above and below them."""
        from matplotlib import rcParams
        from matplotlib.figure import Figure

        em = rcParams["font.size"]
        left = em * (_LETTER * max(map(len, labels), default=0) + 0.6)
        bottom, top, right = 1.2 * em * below, height - 1.2 * em * above, WIDTH - 1.4 * em
        self.figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        box = left / WIDTH, bottom / height, (right - left) / WIDTH, (top - bottom) / height
        self.axes: Axes = self.figure.add_axes(box, facecolor="none")
        self.marked: dict[str, tuple[str, Sequence[str]]] = {}
        self.mark(self.axes.spines["bottom"], "axis")

    def mark(self, artist: Artist, classes: str, tooltips: Sequence[str] = ()) -> None:
        """Give an artist classes for the page, and a tooltip for each of its parts in order."""
        artist.set_gid(f"marked-{len(self.marked)}")
        self.marked[f"marked-{len(self.marked)}"] = classes, tooltips

    def name(self, y: float, text: str, tooltip: str) -> None:
        """Write at the left edge of the figure, at a height of the axes."""
        from matplotlib.transforms import blended_transform_factory

        where = blended_transform_factory(self.figure.transFigure, self.axes.transData)
        self.mark(self.axes.text(0.0, y, short(text), transform=where), "name", [tooltip])


@contextmanager
def style(size: float) -> Iterator[None]:
    """Figures are drawn in this, with a size of letters."""
    from matplotlib import rc_context

    with rc_context({**_STYLE, "font.size": size}), warnings.catch_warnings():
        # A label may be in a script that the font lacks; the page has other fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def short(text: str) -> str:
    """A text in one clean line, cut so that it fits into a figure."""
    line = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


# --- how marks and lines look ---------------------------------------------------------------------


def _hollow(color: int | None) -> bool:
    """Whether marks are hollow and lines dashed, so that a color can stand for a second machine."""
    return color is not None and color // HUES % 2 == 1


def _ink(color: int | None) -> str:
    return LIGHT["soft"] if color is None else LIGHT[f"c{color % HUES}"]


def _marker(color: int | None, shape: int) -> dict[str, Any]:
    ink, paper, hollow = _ink(color), LIGHT["paper"], _hollow(color)
    marker = SHAPES[shape % len(SHAPES)]
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": _SIZES.get(marker, 8.2) - 0.6 * hollow,
        "markerfacecolor": paper if hollow else ink,
        "markeredgecolor": ink if hollow else paper,
        "markeredgewidth": 1.4 if hollow else 0.8,
        "clip_on": False,
    }


def _stroke(color: int | None, role: str) -> dict[str, Any]:
    width, *patterns = _LINES[role]
    ink = LIGHT["ink"] if role == "median" else _ink(color)
    return {"color": ink, "linewidth": width, "linestyle": patterns[_hollow(color)]}


def _tint(number: int) -> Any:
    """The color of an option: fainter for a second one of the same."""
    from matplotlib.colors import to_rgba

    return to_rgba(_ink(number), 0.4 if _hollow(number) else 1.0)


def _heat() -> dict[str, Any]:
    """How rates are colored: stronger with their logarithm; zero and NaN in gray."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgba

    ends = [to_rgba(LIGHT["c0"], strength) for strength in (0.12, 1)]
    colors = LinearSegmentedColormap.from_list("rates", ends).with_extremes(bad=LIGHT["pale"])
    return {"cmap": colors, "norm": LogNorm(_FAINTEST, 1, clip=True)}


def handle(entry: Entry) -> Line2D:
    """A sample of what an entry of a legend is about, one unit wide and high."""
    from matplotlib.lines import Line2D

    if entry.role in ("rate", "option"):
        ink = _tint(entry.color or 0)
        if entry.role == "rate":
            heat = _heat()
            (ink,) = heat["cmap"](heat["norm"](np.ma.masked_equal([entry.rate], 0)))
        look = {**_marker(None, 1), "markersize": 13, "markerfacecolor": ink}
        look["markeredgecolor"] = LIGHT["line"]
    elif not entry.text or entry.role == "note":
        look = {"linestyle": "none"}
    elif entry.role == "machine" or entry.shape is not None:
        look = _marker(entry.color, entry.shape or 0)
    else:
        look = _stroke(entry.color, entry.role)
    xs = [0.5] if "marker" in look else [0.0, 1.0]
    return Line2D(xs, [0.5] * len(xs), label=short(entry.text), **look)


# --- marks against axes ---------------------------------------------------------------------------


def plot(x: Scale, y: Scale, points: Iterable[Point], lines: Sequence[Line]) -> Sheet:
    """Marks and lines against two axes."""
    sheet = Sheet(_HEIGHT, [*y.labels, *y.bands], 1.6, 2.6)
    x.draw(sheet.axes, "x")
    y.draw(sheet.axes, "y")
    sheet.axes.set_xlabel(x.title, loc="right")
    sheet.axes.set_title(y.title, loc="left", y=1)
    levels = [line for line in lines if len(line.points) == 1 and y.in_band(line.points[0].y)]
    for line in lines:
        # Levels in a band have a height of their own each.
        share = (1 + levels.index(line)) / (1 + len(levels)) if line in levels else 0.5
        _line(sheet, x, y, line, share)
    _marks(sheet, x, y, points)
    return sheet


def _line(sheet: Sheet, x: Scale, y: Scale, line: Line, share: float) -> None:
    color = line.points[0].color
    look, classes = _stroke(color, line.role), f"m{color}"
    level = len(line.points) == 1
    points = [*line.points] * (1 + level)
    xs = [*x.ends] if level else [x.place(point.x) for point in points]
    ys = [y.place(point.y, share) for point in points]
    down, up = np.array([y.reach(point.y, point.y_error) for point in points]).T
    if line.role != "front" and (down.any() or up.any()):
        band = sheet.axes.fill_between(xs, ys - down, ys + up, fc=look["color"], **_BAND)
        sheet.mark(band, f"band {classes}")
    (drawn,) = sheet.axes.plot(xs, ys, **look)
    sheet.mark(drawn, f"{line.role} {classes}", [line.tooltip] if line.tooltip else ())


def _marks(sheet: Sheet, x: Scale, y: Scale | None, points: Iterable[Point]) -> None:
    """Marks with bars of one error; those of the same color and shape are one artist each.

    Parts of an artist are in the order of points.  Without a scale, y is a place of the axes.
    """
    for (color, shape), group in grouped(points, lambda p: (p.color, p.shape)).items():
        xs, across = [x.place(p.x) for p in group], [x.reach(p.x, p.x_error) for p in group]
        ys, up = [p.y for p in group], [(0.0, 0.0) for p in group]
        if y:
            ys, up = [y.place(p.y) for p in group], [y.reach(p.y, p.y_error) for p in group]
        y_bars, x_bars = (np.array(each).T if np.any(each) else None for each in (up, across))
        look = {**_marker(color, shape), "ecolor": _ink(color), **_BAR}
        drawn, _, lines = sheet.axes.errorbar(xs, ys, y_bars, x_bars, **look)
        for line in lines:
            line.set_alpha(0.6)
            sheet.mark(line, f"bar m{color} r{shape}")
        sheet.mark(drawn, f"mark m{color} r{shape}", [point.tooltip for point in group])


def strips(x: Scale, rows: Mapping[str, Sequence[Point]]) -> Sheet:
    """A row of marks for each machine, with the median of three or more finite values."""
    sheet = Sheet(_STRIP * len(rows) + 56, (), 0.2, 2.6)
    axes = sheet.axes
    x.draw(axes, "x")
    axes.set_xlabel(x.title, loc="right")
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.2, -0.55)
    for y, (machine, points) in enumerate(rows.items()):
        sheet.name(y - 0.22, machine, machine)
        _marks(sheet, x, None, [point._replace(y=y + 0.15) for point in points])
        finite = [point.x for point in points if not x.in_band(point.x)]
        if len(finite) > 2:
            look = _stroke(None, "median")
            (drawn,) = axes.plot([statistics.median(finite)] * 2, [y - 0.08, y + 0.38], **look)
            drawn.set_zorder(4)
            sheet.mark(drawn, "median")
    return sheet


# --- heat maps ------------------------------------------------------------------------------------


def heat_map(blocks: Sequence[Block], names: Sequence[str] = ()) -> Sheet:
    """The rates of each run: its steps from top to bottom, its layers from left to right.

    Layers are numbered from 0, or have names, the last of which is always written.
    """
    layers = max(len(row) for block in blocks for row in block.rates.values())
    rows = sum(len(block.rates) + bool(block.name) + 0.6 for block in blocks)
    steps = [step for block in blocks for step in block.rates]
    sheet = Sheet(_ROW * rows + 50, steps, 2.6, 0.2)
    axes = sheet.axes
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    labels = names or [*map(str, range(layers))]
    ticks: dict[float, str] = {}
    y = 0.0
    for block in blocks:
        if block.name:
            sheet.name(y + 0.75, block.name, block.tooltip)
            y += 1
        _cells(sheet, y, block, labels, numbered=layers <= _CELLS)
        ticks |= {y + 0.5 + i: step for i, step in enumerate(block.rates)}
        y += len(block.rates) + 0.6
    axes.set(xlim=(0, layers), ylim=(y - 0.6, -0.2))
    axes.set_yticks([*ticks], labels=[*ticks.values()])
    axes.xaxis.tick_top()
    axes.set_xlabel("layer", loc="left")
    axes.xaxis.set_label_position("top")
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if layers <= 14 * n)
    last = layers - 1 if names else math.inf
    numbered = [n for n in range(layers) if n == last or (n % every == 0 and n + every <= last)]
    axes.set_xticks([n + 0.5 for n in numbered], labels=[labels[n] for n in numbered])
    return sheet


def columns(layers: Iterable[str]) -> list[str]:
    """The names of the columns of a heat map: the layers from 0 on, and what is in none, if any."""
    names = {*layers}
    count = 1 + max((int(name) for name in names if name != OUTSIDE), default=-1)
    return [*map(str, range(count)), *names & {OUTSIDE}]


def heat_scale(nothing: str, all_of_it: str) -> tuple[Entry, ...]:
    """The legend of heat maps, with words for both ends of the scale."""
    shown = {rate: numbers.short_percent(rate) for rate in _SCALE}
    shown |= {0.0: nothing, 1.0: all_of_it}
    return tuple(Entry(text, role="rate", rate=rate) for rate, text in shown.items())


def _cells(sheet: Sheet, y: float, block: Block, layers: Sequence[str], numbered: bool) -> None:
    paint = _palette(len(block.options)) if block.options else _heat()
    for i, (step, row) in enumerate(block.rates.items()):
        shown = np.ma.masked_invalid([row])
        if block.options:  # whole numbers choose colors, others are shares
            shown = np.ma.array(shown.filled(0).astype(int), mask=np.ma.getmaskarray(shown))
        else:
            shown = np.ma.masked_equal(shown, 0)
        look = {"edgecolors": LIGHT["paper"], "linewidth": 1, **paint}
        drawn = sheet.axes.pcolormesh(range(len(row) + 1), (y + i, y + i + 1), shown, **look)
        name = f"{block.name or block.tooltip}\n{step}"
        tooltips = [
            f"{name}, {_where(layer)}: {_said(block, value)}"
            for layer, value in zip(layers, row, strict=False)
        ]
        sheet.mark(drawn, "cells", tooltips)
        for layer, rate in enumerate(row if numbered and not block.options else ()):
            if math.isnan(rate):
                continue
            ink = LIGHT["paper" if rate > _STRONG else "ink"]
            where = layer + 0.5, y + i + 0.68, numbers.cell_percent(rate)
            sheet.mark(sheet.axes.text(*where, ha="center", color=ink, size="small"), "cell")


def _where(layer: str) -> str:
    return layer if layer.isalpha() else f"layer {layer}"


def _said(block: Block, value: float) -> str:
    """A cell's value in its tooltip."""
    if math.isnan(value):
        return "as in the base" if block.options else "not measured"
    return block.options[int(value)] if block.options else numbers.percent(value)


def _palette(count: int) -> dict[str, Any]:
    """A color for each of several options; none in gray."""
    from matplotlib.colors import ListedColormap, NoNorm

    colors = ListedColormap([_tint(number) for number in range(count)])
    return {"cmap": colors.with_extremes(bad=LIGHT["pale"]), "norm": NoNorm()}
