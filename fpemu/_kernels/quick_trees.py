"""Pairwise sums by the processor's arithmetic, in float32 or a narrower format.

Most are of fused products and rounded to nearest.  See :mod:`fpemu._kernels.subtrees` for how trees
are summed, and why every bit is right.  What sums the trees of some rows is a part of the kernel
(:mod:`fpemu._kernels.parts`).
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, parts
from fpemu._kernels.caching import inline
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import (
    COLUMNS,
    Arrays,
    Operands,
    aligned,
    longest,
    pieces,
    read_only,
    source_of,
)
from fpemu._kernels.panels import Extent, extent, fill
from fpemu._kernels.parts import Part
from fpemu._kernels.rounding import is_own_format, shortcut_of
from fpemu._kernels.subtrees import (
    FIELDS,
    NATIVE,
    NUMBERS,
    ODD,
    ROWS,
    Rounding,
    Way,
    sum_trees,
)

__all__ = ["product", "takes", "takes_odd"]

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)
_SMALLEST_NORMAL: Final = 2.0**-126
_INFINITY: Final = 0x7F800000
_FRACTION_BITS: Final = 23
_LEAST_EXPONENT: Final = -149
_LARGE: Final = 2.0**128
_FLOAT32_PRECISION: Final = 24
_FLOAT32_EMIN: Final = -126
_FLOAT32_EMAX: Final = 127
_DEEPEST: Final = 64  # rows of sums, those below included
_COST: Final = 0.4  # nanoseconds of a multiply-add
_MOST_ROWS: Final = 1024  # of a piece of work
_FEW_ROWS: Final = 16  # for which the right operand is not looked at
_FILLING: Final = 4  # rows that are multiplied in the time that it takes to fill a panel


class _Trees(NamedTuple):
    """The trees of a sum."""

    block: int  # terms
    sizes: Any  # of subtrees, two or three terms, in their order
    merges: Any  # how many subtrees each completes
    begin: int  # the level of the total, or -1 if there is one tree and nothing else
    more: int  # whether a tree is added to the total


class _Plan(NamedTuple):
    """How a product is taken."""

    rows: int  # of the result, in a piece
    steps: int  # of the operands, without what fills the last tree up
    wide: bool  # whether rows are wanted in float64, too
    cleaned: bool  # whether NaN have to be the plain one, see `_is_cleaned`
    flushed: bool  # whether subnormal numbers of the right operand are zeros
    sum_rows: int  # the addresses of the parts that sum trees of ROWS rows, and of one
    sum_row: int


class _Work(NamedTuple):
    """What a thread works in."""

    sums: Any
    panel: Any  # a panel of the right operand
    left: Any  # rows of the left one in float64, if that is asked for


def takes(format: FormatFacts, rounding: RoundingFacts, terms: int) -> bool:
    """Whether the sums of trees of so many terms can be formed here."""
    to_infinity = rounding.overflow in ("ieee", "infinity")  # the same rule to nearest
    return (
        terms >= 2
        and rounding.mode == "rne"
        and to_infinity
        and _way_of_sums(format, rounding) is not None
    )


def takes_odd(
    format: FormatFacts, rounding: RoundingFacts, inputs: FormatFacts | None, terms: int
) -> bool:
    """Whether trees of rounded products can be formed here whose subnormal numbers are flushed."""
    return (
        terms >= 2
        and rounding.mode == "rto"
        and rounding.overflow == "infinity"
        and is_own_format(format, _FLOAT32)
        and inputs is not None
        and 2 * inputs.precision <= _FLOAT32_PRECISION
        and inputs.emin == _FLOAT32_EMIN
    )


def _way_of_sums(format: FormatFacts, rounding: RoundingFacts) -> int | None:
    """How sums in float32 are rounded; None if they cannot be."""
    if rounding.mode == "rto":
        return ODD
    if is_own_format(format, _FLOAT32):
        return NATIVE
    within = format.emin >= _FLOAT32_EMIN and format.emax <= _FLOAT32_EMAX
    if not (within and 2 * format.precision + 2 <= _FLOAT32_PRECISION):
        return None
    shortcut = shortcut_of(format, rounding, _FLOAT32)
    if not (shortcut.limit and shortcut.overflow == shortcut.overflow_negative):
        return None
    excess = _FLOAT32_PRECISION - format.precision
    beyond = (shortcut.largest + 2**excess, shortcut.overflow)
    # The only bit of a significand of precision 1 is in no field.
    fields = format.emin == _FLOAT32_EMIN and beyond == (_INFINITY, _INFINITY)
    if fields and format.precision > 1:
        return FIELDS
    return NUMBERS if format.emax + 1 + excess <= _FLOAT32_EMAX else None


def _rounding_of(format: FormatFacts, rounding: RoundingFacts, tiny: bool) -> Rounding:
    """What the kernels of narrower formats need to know."""
    excess = _FLOAT32_PRECISION - format.precision
    shortcut = shortcut_of(format, rounding, _FLOAT32)
    words = (
        excess,
        2**excess >> 1,
        2**excess - 1,
        shortcut.smallest_normal,
        (format.emax + 1 + _FLOAT32_EMAX) << _FRACTION_BITS,
        excess << _FRACTION_BITS,
        shortcut.largest,
        shortcut.overflow,
        tiny,
    )
    return Rounding._make(np.int32(word) for word in words)


@functools.lru_cache(maxsize=256)
def _subtrees(terms: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sizes of the subtrees of two and three terms, and the merges after each."""
    sizes: list[int] = []
    merges: list[int] = []

    def take(count: int) -> None:
        if count <= 3:
            sizes.append(count)
            merges.append(0)
            return
        take(count // 2)
        take(count - count // 2)
        merges[-1] += 1

    take(terms)
    return np.array(sizes, np.int64), np.array(merges, np.int64)


def _products_are_exact(left: Extent, right: Extent) -> bool:
    """Whether float32 holds all products."""
    return (
        left.precision + right.precision <= _FLOAT32_PRECISION
        and left.greatest * right.greatest < _LARGE
        and left.last_bit + right.last_bit >= _LEAST_EXPONENT
    )


@inline
def _plain(x: Any) -> Any:
    """A number as it is, and for any NaN the one without a sign."""
    return x if x == x else np.float32(np.nan)


@numba.njit(inline="always")
def _fill_panel(panel, right, batch, number, steps, cleaned, flushed):  # type: ignore[no-untyped-def]
    """Fill a panel with terms as the kernel reads them, and with zeros behind them."""
    if steps > 0:
        fill(panel, right, batch, number, 0, steps)
    for s in range(steps, panel.shape[0]):
        for j in range(COLUMNS):
            panel[s, j] = 0.0
    if cleaned:
        for s in range(steps):
            for j in range(COLUMNS):
                panel[s, j] = _plain(panel[s, j])
    if flushed:
        least = np.float32(_SMALLEST_NORMAL)
        for s in range(steps):
            for j in range(COLUMNS):
                x = panel[s, j]
                panel[s, j] = np.copysign(np.float32(0.0), x) if abs(x) < least else x


# --- parts of the kernel --------------------------------------------------------------------------

_INDEX: Final = types.intp
_INDICES: Final = types.Array(types.int64, 1, "C")
_TO_SUM: Final = (
    types.Array(types.float32, 3, "C", readonly=True),
    types.Array(types.float64, 2, "C"),
    types.Array(types.float32, 2, "C"),
    types.Array(types.float32, 3, "C"),
    *[_INDICES] * 2,
    types.UniTuple(_INDEX, 5),
    types.NamedUniTuple(types.int32, len(Rounding._fields), Rounding),
)
_SUMMED: Final = parts.takes(*_TO_SUM)
_call_to_sum: Final = parts.calling(len(_TO_SUM))

sum_trees_of_rows: Any = None  # what a part is made for


def _sum(left, wide, panel, sums, sizes, merges, place, rounding):  # type: ignore[no-untyped-def]
    return np.int64(sum_trees_of_rows((left, wide, panel, sums, sizes, merges), place, rounding))


@functools.cache
def _summing(way: Way, rows: int) -> Part:
    """The part that sums the trees of so many rows by a panel, see :func:`sum_trees`.

    ``f(left, wide, panel, sums, sizes, merges, place, rounding)``: whether a sum is huge.
    """
    function = caching.specialized(
        _sum,
        is_part=True,
        known_as=f"{way.wide}-{way.rounding}-{rows}",
        sum_trees_of_rows=sum_trees(way, rows),
    )
    return parts.compiled(function, *_TO_SUM)


# --- the kernel -----------------------------------------------------------------------------------


@caching.kernel
def _tree_range(start, stop, work, arrays, trees, plan, rounding, doubtful):  # type: ignore[no-untyped-def]
    _, rows, steps = arrays.left.shape
    sums, panel = work.sums, work.panel
    subtrees = steps // trees.block * trees.sizes.size
    panels = (arrays.out.shape[2] + COLUMNS - 1) // COLUMNS
    parts = (rows + plan.rows - 1) // plan.rows
    for index in range(start, stop):
        stack, p = index // panels, index % panels
        batch, column = stack // parts, p * COLUMNS
        top = (stack - batch * parts) * plan.rows
        last = min(top + plan.rows, rows)
        if column >= longest(arrays.lengths, top, last):
            continue
        _fill_panel(panel, arrays.right, batch, p, plan.steps, plan.cleaned, plan.flushed)
        row = top
        while row < last:
            first, together = row, ROWS if last - row >= ROWS else 1
            row += together
            if column >= longest(arrays.lengths, first, row):
                continue
            for r in range(together):
                if plan.wide:
                    for s in range(steps):
                        work.left[r, s] = arrays.left[batch, first + r, s]
                for j in range(COLUMNS):
                    sums[0, r, j] = 0.0
                if arrays.initial.size > 0:
                    for j in range(min(COLUMNS, arrays.lengths[first + r] - column)):
                        sums[0, r, j] = _plain(arrays.initial[batch, first + r, column + j])
            beyond = 0
            if steps > 0:
                beyond = _call_to_sum(
                    plan.sum_rows if together > 1 else plan.sum_row, _SUMMED, arrays.left,
                    work.left, panel, sums, trees.sizes, trees.merges,
                    ((batch * rows + first) * steps, steps, subtrees, trees.begin, trees.more),
                    rounding,
                )  # fmt: skip
            for r in range(together):
                if beyond != 0:
                    doubtful[batch, first + r] = True
                for j in range(min(COLUMNS, arrays.lengths[first + r] - column)):
                    # The processor's NaN have a sign.
                    arrays.out[batch, first + r, column + j] = _plain(sums[0, r, j])


def _is_cleaned(way: Way) -> bool:
    """Whether NaN have to be the plain one: in integers others are rounded to numbers.

    Where all products are exact there is none.
    """
    return way == Way(True, FIELDS)


def _way_of(operands: Operands, format: FormatFacts, rounding: RoundingFacts) -> tuple[Way, bool]:
    """How sums are formed, and whether one that is subnormal in float32 may not be exact there."""
    of_sums = _way_of_sums(format, rounding)
    assert of_sums is not None
    if of_sums == ODD:
        return Way(False, of_sums), False
    left = extent(operands.a)
    if left.precision >= _FLOAT32_PRECISION and operands.shape[1] < _FEW_ROWS:
        return Way(True, of_sums), True
    right = extent(operands.b)
    tiny = left.last_bit + right.last_bit < _LEAST_EXPONENT
    return Way(not _products_are_exact(left, right), of_sums), tiny


def product(
    operands: Operands, format: FormatFacts, rounding: RoundingFacts, block: int, add_trees: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The product of narrow operands by trees of `block` terms, the last one filled with zeros.

    Parameters
    ----------
    operands : Operands
        Float32 numbers.
    format, rounding : FormatFacts, RoundingFacts
        What :func:`takes` or :func:`takes_odd` has accepted.
    block : int
        Terms of a tree.
    add_trees : bool
        Whether trees are added to a total, which begins with the initial value.

    Returns
    -------
    tuple of ndarray of float32, shape (batch, m, n), and ndarray of bool, shape (batch, m)
        The product, and the rows of which it is not known.
    """
    out = np.zeros(operands.shape, np.float32)
    doubtful = np.zeros(operands.shape[:2], np.bool_)
    steps = operands.steps
    whole = steps + -steps % block
    left: Any = operands.a
    if whole > steps:
        left = np.pad(left, ((0, 0), (0, 0), (0, whole - steps)))
    way, tiny = _way_of(operands, format, rounding)
    if _is_cleaned(way) and np.isnan(left).any():
        left = np.where(np.isnan(left), np.float32(np.nan), left)
    sizes, merges = _subtrees(block)
    trees = _Trees(
        block=block,
        sizes=sizes,
        merges=merges,
        begin=0 if add_trees else -1,
        more=int(add_trees),
    )
    rows, count, cost = pieces(operands, most=_MOST_ROWS, filling=_FILLING, cost=_COST)
    launching.run(
        _tree_range,
        count,
        Arrays(
            left=read_only(left, np.float32),
            right=source_of(operands.b, _FLOAT32),
            initial=operands.initial_as(np.float32),
            lengths=read_only(operands.row_lengths, np.int64),
            out=out,
            running=operands.running,
        ),
        trees,
        _Plan(
            *(rows, steps, way.wide, _is_cleaned(way)),
            flushed=way.rounding == ODD,
            sum_rows=_summing(way, ROWS).address if operands.shape[1] >= ROWS else 0,
            sum_row=_summing(way, 1).address,
        ),
        _rounding_of(format, rounding, tiny),
        doubtful,
        cost=cost,
        workspace=lambda: _Work(
            aligned((_DEEPEST, ROWS, COLUMNS), np.float32),
            aligned((max(whole, 1), COLUMNS), np.float32),
            aligned((ROWS, whole if way.wide else 0)),
        ),
    )
    return out, doubtful
