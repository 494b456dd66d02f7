"""Pairwise sums by the processor's arithmetic, in float32 or a narrower format.

Most are of fused products and rounded to nearest.

A tree is taken as subtrees of two and three terms, whose sums are merged on a stack in float32:

- ``a0*b0 + a1*b1`` in float64 has one rounding, as the first product is exact and an fma adds the
  second.  Rounded once more to float32 it is wrong only where it is a tie of float32 and not exact,
  or subnormal in float32: then the sum is rounded to odd first.  Where all products are exact in
  float32, its own fma does it.
- ``a*b + c`` of three terms is an fma of float32.
- Sums in float32 are the processor's.

Into a format of precision p, exact sums of two products go by rounding to odd in float64; sums of
its numbers, of which float32 has at least ``2 p + 2`` bits, are rounded to float32 and once more,
which is the same as once.

Sums rounded to odd in float32 whose products are rounded first (Arm's) have subnormal numbers
flushed to zeros of their sign.  A product that is not flushed is exact.  That of a sum needs the
sign of the error of the processor's, which is a float32 number.  Sums that may have been rounded to
infinity instead of to the largest number are doubtful: their rows are for the general kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, words
from fpemu._kernels.caching import inline
from fpemu._kernels.error_free import odd_sum
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import (
    COLUMNS,
    Arrays,
    Operands,
    aligned,
    longest,
    pieces,
    read_only,
    right_of,
    target_at,
    targets_of,
)
from fpemu._kernels.panels import extent, fill
from fpemu._kernels.rounding import (
    NEAREST_EVEN,
    Shortcut,
    Target,
    is_own_format,
    round_number,
    round_word,
    shortcut_of,
)

__all__ = ["product", "takes", "takes_odd"]

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)
_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)
_TAIL: Final = np.uint64(2**29 - 1)  # the bits of float64 that float32 does not have
_HALF: Final = np.uint64(2**28)
_SMALLEST_NORMAL: Final = 2.0**-126
_LEAST_EXPONENT: Final = -149
_LARGE: Final = 2.0**128
_FLOAT32_PRECISION: Final = 24
_FLOAT32_EMIN: Final = -126
_HUGE: Final = np.float32(2.0**127)  # from here on a sum may have been rounded beyond all numbers
_DEEPEST: Final = 64  # rows of sums, those below included
_WORK_PER_PIECE: Final = 2**16  # multiply-adds worth a thread
_MOST_ROWS: Final = 256  # of a piece of work
_FILLING: Final = 4  # rows that are multiplied in the time that it takes to fill a panel

# How the sums of two products are formed.
_EXACT, _WIDE, _ROUNDED, _ODD = range(4)

# Rows of sums: the total, one for what replaces another, and from here on subtrees that wait.
_TOTAL, _NEXT, _BOTTOM = range(3)


class _Rounding(NamedTuple):
    """How a kernel rounds from float64 and float32; no arrays, which would be counted."""

    wide: Shortcut
    narrow: Shortcut
    wide_target: Target
    narrow_target: Target


class _Trees(NamedTuple):
    """The trees of a sum, and the format of its subtrees."""

    block: int
    sizes: Any  # of subtrees, two or three terms, in their order
    merges: Any  # how many subtrees each completes
    add_trees: bool
    wide: Shortcut  # from float64
    narrow: Shortcut  # from float32
    wide_targets: Any
    narrow_targets: Any


class _Plan(NamedTuple):
    """How a product is taken."""

    rows: int  # of the result, in a piece
    steps: int  # of the operands, without what fills the last tree up


class _Work(NamedTuple):
    """What a thread works in."""

    sums: Any
    panel: Any  # a panel of the right operand
    left: Any  # a row of the left one


def takes(format: FormatFacts, rounding: RoundingFacts, terms: int) -> bool:
    """Whether the sums of trees of so many terms can be formed here."""
    to_infinity = rounding.overflow in ("ieee", "infinity")  # the same rule to nearest
    return terms >= 2 and rounding.mode == "rne" and to_infinity and _holds(format, rounding)


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


def _holds(format: FormatFacts, rounding: RoundingFacts) -> bool:
    if is_own_format(format, _FLOAT32):
        return True
    return 2 * format.precision + 2 <= _FLOAT32_PRECISION and all(
        shortcut_of(format, rounding, dtype).limit for dtype in (_FLOAT32, _FLOAT64)
    )


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


def _products_are_exact(operands: Operands) -> bool:
    """Whether float32 holds all products of float32 numbers."""
    left = extent(operands.a)
    if left.precision >= _FLOAT32_PRECISION:
        return False
    right = extent(operands.b)
    return (
        left.precision + right.precision <= _FLOAT32_PRECISION
        and left.greatest * right.greatest < _LARGE
        and left.last_bit + right.last_bit >= _LEAST_EXPONENT
    )


# --- sums of a row of columns ---------------------------------------------------------------------


# Rows are given by their numbers: a view of one would be counted at every use.


@inline
def _flushed(x: Any) -> Any:
    """A zero of its sign for a subnormal number."""
    return np.copysign(np.float32(0.0), x) if abs(x) < np.float32(_SMALLEST_NORMAL) else x


@inline
def _odd(a: Any, b: Any) -> Any:
    """The sum of two float32 numbers rounded to odd and flushed, and whether that is doubtful."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    bits = words.word(total)
    opposite = words.shift_right(words.bit_xor(words.word(error), bits), 31)
    neighbor = words.subtract(words.bit_or(bits, 1), words.shift_left(opposite, 1))
    even = words.bit_and(bits, 1) == 0
    odd = words.floating(neighbor if (error != np.float32(0.0)) & even else bits)
    return _flushed(odd), not abs(total) < _HUGE


@numba.njit(inline="always")
def _add_products(sums, top, left, right, s, way, rounding):  # type: ignore[no-untyped-def]
    """Put the sum of the products of two steps, rounded once, into a row of sums."""
    if way == _EXACT:
        for j in range(COLUMNS):
            exact = left[s] * right[s, j]
            sums[top, j] = words.fused_multiply_add(left[s + 1], right[s + 1, j], exact)
        return False
    if way == _ODD:
        beyond = False
        for j in range(COLUMNS):
            first, second = _flushed(left[s] * right[s, j]), _flushed(left[s + 1] * right[s + 1, j])
            sums[top, j], doubt = _odd(first, second)
            beyond |= doubt
        return beyond
    a, c = np.float64(left[s]), np.float64(left[s + 1])
    doubtful = False
    if way == _WIDE:
        for j in range(COLUMNS):
            exact = a * np.float64(right[s, j])
            sum_ = words.fused_multiply_add(c, np.float64(right[s + 1, j]), exact)
            tie = words.bit_and(words.word(sum_), _TAIL) == _HALF
            doubtful |= tie | ((abs(sum_) < _SMALLEST_NORMAL) & (sum_ != 0.0))
            sums[top, j] = np.float32(sum_)
        if doubtful:
            for j in range(COLUMNS):
                bits = odd_sum(a * np.float64(right[s, j]), c * np.float64(right[s + 1, j]))
                sums[top, j] = np.float32(words.floating(bits))
        return False
    for j in range(COLUMNS):
        bits = odd_sum(a * np.float64(right[s, j]), c * np.float64(right[s + 1, j]))
        sum_ = words.floating(bits)
        doubtful |= not abs(sum_) < np.inf
        sums[top, j] = np.float32(round_number(sum_, rounding.wide, NEAREST_EVEN))
    if doubtful:
        target = rounding.wide_target
        for j in range(COLUMNS):
            bits = odd_sum(a * np.float64(right[s, j]), c * np.float64(right[s + 1, j]))
            sums[top, j] = np.float32(words.floating(round_word(bits, target, NEAREST_EVEN)))
    return False


@numba.njit(inline="always")
def _add_product(sums, top, left, right, s, way, rounding):  # type: ignore[no-untyped-def]
    """Add the product of a step to a row of sums, rounded once."""
    beyond = False
    if way == _ODD:
        for j in range(COLUMNS):
            sums[top, j], doubt = _odd(_flushed(left[s] * right[s, j]), sums[top, j])
            beyond |= doubt
        return beyond
    if way != _ROUNDED:
        for j in range(COLUMNS):
            sums[top, j] = words.fused_multiply_add(left[s], right[s, j], sums[top, j])
        return beyond
    a, target = np.float64(left[s]), rounding.wide_target
    for j in range(COLUMNS):
        bits = odd_sum(a * np.float64(right[s, j]), np.float64(sums[top, j]))
        sums[top, j] = np.float32(words.floating(round_word(bits, target, NEAREST_EVEN)))
    return beyond


@numba.njit(inline="always")
def _add(sums, to, other, way, rounding):  # type: ignore[no-untyped-def]
    """Add a row of sums to another, rounded once."""
    beyond = False
    if way == _ODD:
        for j in range(COLUMNS):
            sums[to, j], doubt = _odd(sums[to, j], sums[other, j])
            beyond |= doubt
        return beyond
    if way != _ROUNDED:
        for j in range(COLUMNS):
            sums[to, j] += sums[other, j]
        return beyond
    limit, doubtful = words.floating(rounding.narrow.limit), False
    for j in range(COLUMNS):
        sum_ = sums[to, j] + sums[other, j]
        doubtful |= not abs(sum_) < limit
        sums[_NEXT, j] = round_number(sum_, rounding.narrow, NEAREST_EVEN)
    if doubtful:
        target = rounding.narrow_target
        for j in range(COLUMNS):
            bits = round_word(words.word(sums[to, j] + sums[other, j]), target, NEAREST_EVEN)
            sums[_NEXT, j] = words.floating(bits)
    for j in range(COLUMNS):
        sums[to, j] = sums[_NEXT, j]
    return beyond


@numba.njit(inline="always")
def _fill_panel(panel, right, batch, number, steps, way):  # type: ignore[no-untyped-def]
    """Fill a panel with terms as the unit reads them, and with zeros behind them."""
    if steps > 0:
        fill(panel, right, batch, number, 0, steps)
    for s in range(steps, panel.shape[0]):
        for j in range(COLUMNS):
            panel[s, j] = 0.0
    if way == _ODD:
        for s in range(steps):
            for j in range(COLUMNS):
                panel[s, j] = _flushed(panel[s, j])


@functools.cache
def _kernel(way: int) -> Callable[..., None]:
    """The kernel of one way to form sums of two products."""

    @caching.kernel
    def tree_range(start, stop, work, arrays, trees, plan, doubtful):  # type: ignore[no-untyped-def]
        _, rows, steps = arrays.left.shape
        sums, panel, left = work.sums, work.panel, work.left
        rounding = _Rounding(
            trees.wide,
            trees.narrow,
            target_at(trees.wide_targets, 0),
            target_at(trees.narrow_targets, 0),
        )
        panels = (arrays.out.shape[2] + COLUMNS - 1) // COLUMNS
        parts = (rows + plan.rows - 1) // plan.rows
        for index in range(start, stop):
            stack, p = index // panels, index % panels
            batch, column = stack // parts, p * COLUMNS
            top_row = (stack - batch * parts) * plan.rows
            last_row = min(top_row + plan.rows, rows)
            if column >= longest(arrays.lengths, top_row, last_row):
                continue
            _fill_panel(panel, arrays.right, batch, p, plan.steps, way)
            for row in range(top_row, last_row):
                end = min(COLUMNS, arrays.lengths[row] - column)
                if end <= 0:
                    continue
                for s in range(steps):
                    left[s] = arrays.left[batch, row, s]
                for j in range(COLUMNS):
                    sums[_TOTAL, j] = 0.0
                if arrays.initial.size > 0:
                    for j in range(end):
                        sums[_TOTAL, j] = arrays.initial[batch, row, column + j]
                beyond = False
                for first in range(0, steps, trees.block):
                    top, term = _BOTTOM - 1, first
                    for q in range(trees.sizes.size):
                        top += 1
                        following = term + trees.sizes[q]
                        pair = following - 2
                        beyond |= _add_products(sums, top, left, panel, pair, way, rounding)
                        if term < pair:
                            beyond |= _add_product(sums, top, left, panel, term, way, rounding)
                        term = following
                        for _ in range(trees.merges[q]):
                            top -= 1
                            beyond |= _add(sums, top, top + 1, way, rounding)
                    if trees.add_trees:
                        beyond |= _add(sums, _TOTAL, _BOTTOM, way, rounding)
                    else:
                        for j in range(COLUMNS):
                            sums[_TOTAL, j] = sums[_BOTTOM, j]
                if beyond:
                    doubtful[batch, row] = True
                for j in range(end):
                    arrays.out[batch, row, column + j] = sums[_TOTAL, j]

    return cast(Callable[..., None], tree_range)


def _way_of(operands: Operands, format: FormatFacts, rounding: RoundingFacts) -> int:
    if rounding.mode == "rto":
        return _ODD
    if not is_own_format(format, _FLOAT32):
        return _ROUNDED
    return _EXACT if _products_are_exact(operands) else _WIDE


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
    left = np.pad(operands.a, ((0, 0), (0, 0), (0, whole - steps)))
    sizes, merges = _subtrees(block)
    trees = _Trees(
        block=block,
        sizes=sizes,
        merges=merges,
        add_trees=add_trees,
        wide=shortcut_of(format, rounding, _FLOAT64),
        narrow=shortcut_of(format, rounding, _FLOAT32),
        wide_targets=targets_of((format, rounding)),
        narrow_targets=targets_of((format, rounding), dtype=_FLOAT32),
    )
    rows, count, grain = pieces(operands, most=_MOST_ROWS, filling=_FILLING, work=_WORK_PER_PIECE)
    launching.run(
        _kernel(_way_of(operands, format, rounding)),
        count,
        Arrays(
            left=read_only(left, np.float32),
            right=right_of(operands.b, _FLOAT32),
            initial=operands.initial_as(np.float32),
            lengths=read_only(operands.row_lengths, np.int64),
            out=out,
            running=operands.running,
        ),
        trees,
        _Plan(rows, steps),
        doubtful,
        grain=grain,
        workspace=lambda: _Work(
            aligned((_DEEPEST, COLUMNS), np.float32),
            aligned((max(whole, 1), COLUMNS), np.float32),
            aligned((max(whole, 1),), np.float32),
        ),
    )
    out[np.isnan(out)] = np.nan  # the processor's have a sign
    return out, doubtful
