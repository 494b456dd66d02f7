"""The picture of the errors of sums against their length."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from fpemu._environment import in_default_environment
from fpemu.errors import SumErrors, UnitsLike, sum_errors
from fpemu.pictures import files, loading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fpemu.pictures.drawing import Picture

__all__ = ["plot_errors"]

_DASHED: Final = (0, (4, 3))
_HEIGHT: Final = 3.8
_STRIP: Final = 0.22  # the height of a row of zeros, and of what is below them, in inches
_ROOM: Final = 3.0  # the ratio of the end of the axis to the last number
_MARGIN: Final = 1.3  # the same of the axis of lengths
_MOST_LENGTHS: Final = 10  # that have a tick
_TOP: Final = 1.0  # where a bound says nothing: the result may be as large as all terms together


@in_default_environment
def plot_errors(
    units: UnitsLike | Sequence[SumErrors],
    terms: int | Iterable[int] | None = None,
    path: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Figure:
    """Plot the errors of inner products of random vectors against their length, by unit.

    Lines are medians, bands go up to the largest errors, dashed lines are the proved bounds.
    Medians that are zero are below the axis, in a row for each unit.  Those of sums that overflow
    are not drawn.

    Parameters
    ----------
    units : accumulator, iterable or mapping of accumulators, or sequence of SumErrors
        As for :func:`fpemu.sum_errors`, or what that has measured.
    terms : int or iterable of int
        The lengths of the vectors.  Left out if `units` are measured errors.
    path : str or path-like, optional
        A file to write, ``.png``, ``.svg`` or ``.pdf``; it is written whole or not at all.
    **options
        The trials, the distribution, the inputs and the seed of :func:`fpemu.sum_errors`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        As :func:`fpemu.sum_errors`, or if the file's name ends in no kind of picture.
    TypeError
        As :func:`fpemu.sum_errors`, or if there are no lengths and `units` are not measured errors.
    OSError
        If the file cannot be written.
    ModuleNotFoundError
        If matplotlib is not installed.

    Examples
    --------
    >>> import fpemu
    >>> found = fpemu.sum_errors(["e8m7", "blocked:e8m7:16"], [16, 64, 256])
    >>> figure = fpemu.plot_errors(found)
    """
    files.check(path)
    loading.drawing()  # before the work, which would be for nothing without it
    picture = _drawn(_measured(units, terms, options))
    picture.write(path)
    return picture


def _measured(units: Any, terms: Any, options: dict[str, Any]) -> Sequence[SumErrors]:
    if terms is not None:
        return sum_errors(units, terms, **options)
    found = [*units] if isinstance(units, Iterable) and not isinstance(units, str) else []
    if not found or not all(isinstance(each, SumErrors) for each in found):
        raise TypeError("terms must be the lengths of the vectors, if units are not SumErrors")
    if options:
        raise TypeError(f"{', '.join(options)} cannot change errors that are measured already")
    return found


def _drawn(found: Sequence[SumErrors]) -> Picture:
    """Errors that are not zero above, and zeros, if there are any, below."""
    drawing = loading.drawing()
    units = _looks(found)
    zeros = [unit for unit in units if any(each.median == 0 for each in unit.found)]
    heights = [_HEIGHT, _STRIP * (len(zeros) + 0.6)] if zeros else [_HEIGHT]
    with drawing.rc_context(drawing.STYLE):
        size = drawing.WIDTH, sum(heights) + _STRIP * len(units)
        picture: Picture = drawing.Picture(figsize=size, layout="constrained")
        grid = picture.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
        axes, below = grid[0, 0], grid[-1, 0]
        drawing.logarithmic(axes, "y", _limits(found), 10)
        for unit in units:
            _draw(axes, unit)
        _set_lengths(axes, sorted({each.terms for each in found}))
        axes.set_ylabel(r"error / $\Sigma\,|a_i b_i|$")
        if zeros:
            _draw_zeros(below, zeros)
        below.set_xlabel(f"terms ({_summary(found)})")
        handles = [
            drawing.handle(drawing.label(unit.name), unit.color, marker=unit.marker)
            for unit in units
        ]
        handles.append(drawing.handle("proved bound", "0.4", _DASHED))
        handles.append(drawing.handle("up to the largest error", "0.85", width=7))
        drawing.legend(picture, handles)
    return picture


class _Unit(NamedTuple):
    """The errors of a unit, and how they look."""

    name: str
    found: Sequence[SumErrors]
    color: str
    marker: str


def _looks(found: Sequence[SumErrors]) -> list[_Unit]:
    """All units; a color and a marker together have many combinations."""
    drawing = loading.drawing()
    return [
        _Unit(
            name,
            [each for each in found if each.unit == name],
            drawing.color(number),
            drawing.SHAPES[number % len(drawing.SHAPES)],
        )
        for number, name in enumerate(dict.fromkeys(each.unit for each in found))
    ]


def _summary(found: Sequence[SumErrors]) -> str:
    """What the errors are of, in a few words."""
    kinds = dict.fromkeys(each.distribution for each in found)
    trials = sorted({each.trials for each in found})
    return f"{' and '.join(kinds)} elements, {' or '.join(map(str, trials))} trials each"


def _limits(found: Sequence[SumErrors]) -> tuple[float, float]:
    """The ends of the axis, which shows all errors; bounds may be beyond it."""
    errors = [x for each in found for x in (each.median, each.largest) if 0 < x < math.inf]
    bounds = [min(each.bound, _TOP) for each in found if each.bound > 0] or [_TOP]
    return min(errors or bounds) / _ROOM, max([*errors, *bounds]) * _ROOM


def _set_lengths(axes: Axes, terms: Sequence[int]) -> None:
    """Make the axis of lengths logarithmic, with lengths as its ticks."""
    loading.drawing().logarithmic(axes, "x", (terms[0] / _MARGIN, terms[-1] * _MARGIN), 2)
    step = -(-len(terms) // _MOST_LENGTHS)
    axes.set_xticks(terms[::step], [f"{each:,}" for each in terms[::step]])


def _draw(axes: Axes, unit: _Unit) -> None:
    """The errors of a unit, zeros left out, and its bounds."""
    terms, median, largest, bound = np.array(
        [(each.terms, each.median, each.largest, each.bound) for each in unit.found], np.float64
    ).T
    median, largest, bound = (
        np.where((x > 0) & np.isfinite(x), x, np.nan) for x in (median, largest, bound)
    )
    axes.plot(terms, median, color=unit.color, marker=unit.marker, ms=4.5, lw=1.5)
    # Where half of the errors are zero, the others go on to the end of the axis.
    least = np.where(np.isnan(median), axes.get_ylim()[0], median)
    axes.fill_between(terms, least, largest, color=unit.color, alpha=0.15, lw=0)
    axes.vlines(terms, least, largest, color=unit.color, alpha=0.3, lw=1.0)
    alone = "_" if len(terms) == 1 else ""  # of which there is no line
    axes.plot(terms, bound, color=unit.color, marker=alone, ms=12, lw=1.1, ls=_DASHED)


def _draw_zeros(axes: Axes, units: Sequence[_Unit]) -> None:
    """A row for each unit with a mark for every length at which half of its sums are exact."""
    for row, unit in enumerate(units):
        terms = [each.terms for each in unit.found if each.median == 0]
        rows = [row] * len(terms)
        axes.plot(terms, rows, color=unit.color, marker=unit.marker, ms=4.5, lw=1.5)
    axes.set_ylim(len(units) - 0.4, -0.6)
    axes.set_yticks([(len(units) - 1) / 2], ["median 0"])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
