"""Pictures of formats: their numbers on a line, their spacing, their errors, functions in them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fpemu import formats as _formats
from fpemu import functions
from fpemu._environment import in_default_environment
from fpemu.formats import Format, FormatLike
from fpemu.limits import finfo
from fpemu.neighbors import ulp
from fpemu.pictures import files, loading
from fpemu.rounding import round as round_into

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fpemu.pictures.drawing import Picture

__all__ = ["PANELS", "plot_formats"]

_Numbers: TypeAlias = NDArray[np.float64]
_Line: TypeAlias = tuple[_Numbers, _Numbers]

_POINTS: Final = 4097  # more than a picture has pixels across
_PIXELS: Final = 700  # across a picture, about
_LEAST_TOOTH: Final = 4  # pixels; of narrower ones only the height is drawn
_MOST_BITS: Final = 40  # of a format between whose numbers float64 has enough others
_HALF: Final = (0.0, 2.0**-6, 2.0**-5, 2.0**-4, 0.125, 0.25, 0.375)
_PARTS: Final = np.array([*_HALF, 0.5, *(1 - part for part in _HALF[:0:-1])])
"""Where a tooth is computed, from a member to the next: in the middle the error is the largest."""
_CORNERS: Final = 9  # of the line above a binade
_WIDE: Final = 10.0  # the ratio of ends from which on a range of positive numbers is logarithmic
_FUNCTION_RANGE: Final = (-4.0, 4.0)
_FLOOR: Final = 8  # the axis of errors begins at the smallest u over this
_MOST: Final = 2.0**1022  # beyond it matplotlib overflows


@dataclass(frozen=True)
class _Window:
    """The values of a picture, and whether they are on a logarithmic scale.

    A format has so many pixels across, and errors below the floor are not seen.
    """

    low: float
    high: float
    logarithmic: bool
    pixels: float
    floor: float

    def places(self, low: float, high: float, count: int) -> _Numbers:
        """Numbers from low to high, evenly spaced on the axis."""
        parts = np.linspace(0.0, 1.0, count)
        if self.logarithmic:
            places = np.exp2(math.log2(low) * (1 - parts) + math.log2(high) * parts)
        else:
            places = low * (1 - parts) + high * parts
        return np.clip(places, low, high)

    @property
    def pixel(self) -> float:
        """The least distance from zero that is seen on a linear scale."""
        return 0.0 if self.logarithmic else self.high / self.pixels - self.low / self.pixels

    def share(self, low: float, high: float) -> float:
        """The share of the axis from low to high."""
        if self.logarithmic:
            return math.log2(high / low) / (math.log2(self.high) - math.log2(self.low))
        return (high / 2 - low / 2) / (self.high / 2 - self.low / 2)


# --- what is drawn --------------------------------------------------------------------------------


def _members(format: Format, window: _Window) -> _Numbers:
    """The numbers of a format in a window, one of those that no pixel keeps apart."""
    places = _across(format, window)
    ends = round_into(window.low, format, "rtp"), round_into(window.high, format, "rtn")
    found = np.unique([*np.asarray(round_into(places, format), np.float64), *map(float, ends)])
    return found[(found >= window.low) & (found <= window.high)]


def _binades(format: Format, window: _Window) -> _Numbers:
    """The parts of a window on which the spacing of a format is constant, a row for each."""
    low, high = _within(format, window)
    if low >= high:
        return np.empty((0, 2))
    powers = np.ldexp(1.0, np.arange(format.emin, format.emax + 1))
    ends = np.unique([*-powers, 0.0, *powers])
    ends = np.array([low, *ends[(ends > low) & (ends < high)], high])
    return np.stack([ends[:-1], ends[1:]], axis=1)


def _within(format: Format, window: _Window) -> tuple[float, float]:
    """The ends of a window, or those of the format where they are within."""
    return max(window.low, finfo(format).min), min(window.high, format.max_finite)


def _spacings(format: Format, window: _Window) -> _Line:
    """The binades of a format in a window, and the spacing in each."""
    binades = _binades(format, window)
    return binades, np.asarray(ulp(binades[:, 0] / 2 + binades[:, 1] / 2, format), np.float64)


def _across(format: Format, window: _Window) -> _Numbers:
    """Numbers from end to end of a window."""
    return window.places(window.low, window.high, _POINTS)


def _teeth(format: Format, low: float, high: float, spacing: float) -> _Line:
    """Errors of rounding in a binade, at places of which the members and the ties are some."""
    whole = np.arange(math.floor(low / spacing), math.ceil(high / spacing))
    x = np.add.outer(whole, _PARTS).reshape(-1) * spacing
    x = np.array([low, *x[(x > low) & (x < high) & (x != 0)], high])
    x = x[x != 0]
    return x, np.abs(np.asarray(round_into(x, format), np.float64) - x) / np.abs(x)


def _largest(window: _Window, low: float, high: float, spacing: float) -> _Line:
    """The largest errors of rounding to nearest in a binade."""
    x = window.places(low, high, _CORNERS)
    x = x[x != 0]
    with np.errstate(over="ignore"):
        return x, np.minimum(spacing / 2 / np.abs(x), 1.0)


def _errors(format: Format, window: _Window) -> tuple[_Line, _Line]:
    """Errors where teeth are wide enough to be seen, and elsewhere the largest errors.

    Lines are interrupted by NaN where the other one goes on.
    """
    gap = np.array([np.nan])
    seen, band = [(gap, gap)], [(gap, gap)]
    for (low, high), spacing in zip(*_spacings(format, window), strict=True):
        count = high / spacing - low / spacing
        apart = window.share(low, high) * window.pixels >= _LEAST_TOOTH * count
        if apart and format.precision <= _MOST_BITS:
            seen.append(_teeth(format, low, high, spacing))
            band.append((gap, gap))
        else:
            band.append(_largest(window, low, high, spacing))
            seen.append((gap, gap))
    x, y = (np.concatenate(each) for each in zip(*seen, strict=True))
    across, up = (np.concatenate(each) for each in zip(*band, strict=True))
    return (x, y), (across, up)


def _draw_line(
    axes: Axes, format: Format, window: _Window, members: _Numbers, color: str, row: int
) -> None:
    half = np.where(np.abs(members) < format.smallest_normal, 0.18, 0.36)
    axes.vlines(members, row - half, row + half, color=color, lw=0.9)
    axes.plot(_within(format, window), [row, row], color=color, lw=0.6)


def _draw_spacing(
    axes: Axes, format: Format, window: _Window, found: _Line, color: str, row: int
) -> None:
    binades, spacings = found
    axes.plot(binades.reshape(-1), np.repeat(spacings, 2), color=color, lw=1.5)


def _draw_error(
    axes: Axes, format: Format, window: _Window, found: tuple[_Line, _Line], color: str, row: int
) -> None:
    u = format.unit_roundoff
    teeth, band = found
    axes.plot(*teeth, color=color, lw=1.0)
    axes.plot(*band, color=color, lw=1.5)
    axes.fill_between(*band, window.floor, color=color, alpha=0.15, lw=0)
    for sign in (-1.0, 1.0):
        ends = np.sort([sign * format.smallest_normal, sign * format.max_finite])
        ends = np.clip(ends, *_within(format, window))
        if ends[0] < ends[1]:
            axes.plot(ends, [u, u], color=color, lw=1.2, ls=(0, (4, 3)))


def _draw_function(
    name: str, axes: Axes, format: Format, window: _Window, x: _Numbers, color: str, row: int
) -> None:
    function = getattr(functions, name)
    if row == 0:
        axes.plot(x, function(x, "float32"), color="0.6", lw=1.0)
    axes.plot(x, function(round_into(x, format), format), color=color, lw=1.3)


# --- panels ---------------------------------------------------------------------------------------


def _limits_of_spacing(
    formats: Sequence[Format], window: _Window, found: Sequence[_Line]
) -> tuple[float, float]:
    seen: list[float] = []
    for binades, spacings in found:
        seen += spacings[np.abs(binades).max(axis=1, initial=0.0) > window.pixel].tolist()
    least, most = min(seen, default=1.0), max(seen, default=1.0)
    return max(least / 2, math.ulp(0.0)), min(most * 2, _MOST)


def _limits_of_errors(
    formats: Sequence[Format], window: _Window, found: Sequence[tuple[_Line, _Line]]
) -> tuple[float, float]:
    least = max(format.unit_roundoff for format in formats)
    lines = [line for parts in found for _, line in parts]
    return window.floor, max(float(np.nanmax(line, initial=least)) for line in lines) * 1.5


@dataclass(frozen=True)
class _Panel:
    """A format's data and how they are drawn, the axis' name, heights in inches, log limits."""

    data: Callable[[Format, _Window], Any]
    draw: Callable[[Axes, Format, _Window, Any, str, int], None]
    label: str
    height: float
    per_format: float = 0.0
    limits: Callable[[Sequence[Format], _Window, Sequence[Any]], tuple[float, float]] | None = None


_KINDS: Final = {
    "line": _Panel(_members, _draw_line, "", 0.3, 0.35),
    "spacing": _Panel(_spacings, _draw_spacing, "spacing (ulp)", 2.1, limits=_limits_of_spacing),
    "error": _Panel(_errors, _draw_error, "relative error", 2.3, limits=_limits_of_errors),
}
_FUNCTIONS: Final = tuple(sorted({*functions.__all__} - {"layer_norm", "rms_norm", "softmax"}))

PANELS: Final = (*_KINDS, *_FUNCTIONS)
"""The kinds of panels: three of formats, and functions in them."""


def _panel(kind: str) -> _Panel:
    if kind in _FUNCTIONS:
        return _Panel(_across, partial(_draw_function, kind), f"{kind}(value)", 2.3)
    return _KINDS[kind]


@in_default_environment
def plot_formats(
    formats: FormatLike | Iterable[FormatLike],
    path: str | os.PathLike[str] | None = None,
    *,
    panels: str | Sequence[str] = ("line", "spacing", "error"),
    range: tuple[float, float] | None = None,
    scale: str | None = None,
    apart: bool = False,
) -> Figure:
    """Plot formats: their numbers, their spacing, and the relative error of rounding into them.

    Parameters
    ----------
    formats : format, or iterable of formats
        The formats, or names of them.
    path : str or path-like, optional
        A file to write, ``.png``, ``.svg`` or ``.pdf``; it is written whole or not at all.
    panels : str or sequence of str
        What is drawn, from top to bottom, against the value:

        - ``"line"``: the numbers of each format as ticks on a line; those of subnormal numbers
          are short.
        - ``"spacing"``: the unit in the last place, see :func:`fpemu.ulp`.
        - ``"error"``: ``|round(x) - x| / |x|`` of rounding to nearest, and the unit roundoff
          ``u = 2**-p`` as a dashed line, which no error exceeds in the range of normal numbers.
          Where the numbers are too close to be told apart, a band has the largest errors.
        - a function of :mod:`fpemu.functions`, such as ``"exp"``: of the value rounded into the
          format, in the format, and for comparison, gray, in float32.
    range : pair of float, optional
        The lowest and the highest value.  Left out, the positive numbers of all formats, or from
        -4 to 4 if a function is drawn.
    scale : {"linear", "log"}, optional
        The scale of the values.  Left out, logarithmic if all are positive and the highest is at
        least ten times the lowest.
    apart : bool
        Whether each format has a column of panels of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If a format or a panel is unknown, the range is empty or not finite, the scale is
        logarithmic and not all values are positive, or the file's name ends in no kind of picture.
    OSError
        If the file cannot be written.
    ModuleNotFoundError
        If matplotlib is not installed.

    References
    ----------
    J.-M. Muller et al., Handbook of Floating-Point Arithmetic, 2nd ed., sections 2.3.1, 2.3.2.

    Examples
    --------
    >>> import fpemu
    >>> figure = fpemu.plot_formats("float8_e4m3fn", panels="line", range=(0, 2))
    >>> len(figure.axes)
    1
    """
    files.check(path)
    chosen = _several(formats)
    kinds = [panels] if isinstance(panels, str) else [*panels]
    for kind in kinds or ["none"]:
        if kind not in PANELS:
            raise ValueError(f"panels has {kind!r}: expected {', '.join(PANELS)}")
    window = _window(chosen, kinds, range, scale)
    picture = _drawn(chosen, [_panel(kind) for kind in kinds], window, apart)
    picture.write(path)
    return picture


def _several(formats: Any) -> list[Format]:
    one = isinstance(formats, str | Format) or not isinstance(formats, Iterable)
    chosen = [_formats.format(each) for each in ([formats] if one else formats)]
    if not chosen:
        raise ValueError("formats must have at least one format")
    return chosen


def _window(
    formats: Sequence[Format], kinds: Sequence[str], range: Any, scale: str | None
) -> _Window:
    """The range that is asked for, or that of the formats."""
    if scale not in (None, "linear", "log"):
        raise ValueError(f"scale must be 'linear' or 'log', not {scale!r}")
    most = max(format.max_finite for format in formats)
    if range is not None:
        low, high = _checked(range)
    elif not {*_FUNCTIONS}.isdisjoint(kinds):
        low, high = _FUNCTION_RANGE
    elif scale == "linear":
        low, high = min(finfo(format).min for format in formats), most
    else:
        low, high = min(format.smallest_subnormal for format in formats), most
    if scale == "log" and low <= 0:
        raise ValueError(f"range must be positive on a logarithmic scale, not from {low:g}")
    wide = low > 0 and high / low >= _WIDE
    logarithmic = wide if scale is None else scale == "log"
    floor = min(format.unit_roundoff for format in formats) / _FLOOR
    # Where formats are together, teeth have to be wider to be told apart.
    low, high = max(low, -_MOST), min(high, _MOST)
    return _Window(low, high, logarithmic, _PIXELS / len(formats), floor)


def _checked(range: Any) -> tuple[float, float]:
    try:
        low, high = map(float, range)
    except (TypeError, ValueError):
        raise ValueError(f"range must be two numbers, not {range!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"range must be two finite numbers, the lower one first, not {range!r}")
    if max(-low, high) > _MOST:
        raise ValueError(f"range must lie within 2**1022 of zero, not {range!r}")
    return low, high


def _drawn(
    formats: Sequence[Format], panels: Sequence[_Panel], window: _Window, apart: bool
) -> Picture:
    """All panels, one below the other; formats side by side if they are apart."""
    drawing = loading.drawing()
    marked = [(format, drawing.color(number)) for number, format in enumerate(formats)]
    columns = [[i] for i in range(len(formats))] if apart else [[*range(len(formats))]]
    heights = [panel.height + panel.per_format * len(columns[0]) for panel in panels]
    with drawing.rc_context(drawing.STYLE):
        picture: Picture = drawing.Picture(
            figsize=(drawing.WIDTH, sum(heights) + 1.0), layout="constrained"
        )
        options: Any = {"sharex": True, "sharey": "row", "squeeze": False}
        grid = picture.subplots(len(panels), len(columns), height_ratios=heights, **options)
        for line, panel in zip(grid, panels, strict=True):
            found = [panel.data(format, window) for format in formats]
            for axes, column in zip(line, columns, strict=True):
                _draw(axes, panel, window, [(*marked[i], found[i]) for i in column])
            line[0].set_ylabel(panel.label)
            if panel.limits:
                drawing.logarithmic(line[0], "y", panel.limits(formats, window, found), 2)
        picture.align_ylabels(
            [line[0] for line, panel in zip(grid, panels, strict=True) if not panel.per_format]
        )
        for axes in grid[-1]:
            axes.set_xlabel("value")
        _name(picture, grid, panels, marked, apart)
    return picture


def _name(
    picture: Picture,
    grid: Any,
    panels: Sequence[_Panel],
    marked: Sequence[tuple[Format, str]],
    apart: bool,
) -> None:
    """The names of formats: above their columns, or in a legend and beside their lines."""
    drawing = loading.drawing()
    titles = [f"{drawing.label(format.name)}, p = {format.precision}" for format, _ in marked]
    handles = []
    if apart:
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, loc="left")
    else:
        colors = [color for _, color in marked]
        handles = [drawing.handle(*each) for each in zip(titles, colors, strict=True)]
    names = [] if apart else [drawing.label(format.name) for format, _ in marked]
    for line, panel in zip(grid, panels, strict=True):
        if panel.per_format:
            line[0].set_yticks([*range(len(names))], names)
    if _KINDS["error"] in panels:
        handles.append(drawing.handle("unit roundoff u = $2^{-p}$", "0.4", (0, (4, 3))))
    drawing.legend(picture, handles)


def _draw(
    axes: Axes, panel: _Panel, window: _Window, column: Sequence[tuple[Format, str, Any]]
) -> None:
    """A panel with its formats and their colors and data, the first one on top."""
    for row, (format, color, found) in enumerate(column):
        panel.draw(axes, format, window, found, color, row)
    if window.logarithmic:
        loading.drawing().logarithmic(axes, "x", (window.low, window.high), 2)
    else:
        axes.set_xlim(window.low, window.high)
    if panel.per_format:
        axes.set_ylim(len(column) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
