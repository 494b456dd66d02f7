"""Pairwise sums of fused products, rounded to nearest in float32 or a narrower format.

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
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, words
from fpemu._kernels.error_free import odd_sum
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import (
    COLUMNS,
    Operands,
    aligned,
    target_at,
    targets_of,
)
from fpemu._kernels.rounding import (
    NEAREST_EVEN,
    Shortcut,
    Target,
    is_own_format,
    round_number,
    round_word,
    shortcut_of,
)

__all__ = ["product", "takes"]

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)
_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)
_TAIL: Final = np.uint64(2**29 - 1)  # the bits of float64 that float32 does not have
_HALF: Final = np.uint64(2**28)
_SMALLEST_NORMAL: Final = 2.0**-126
_LEAST_EXPONENT: Final = -149
_LARGE: Final = 2.0**128
_FLOAT32_PRECISION: Final = 24
_CHUNK: Final = 1024  # numbers between two looks at what was found
_DEEPEST: Final = 64  # rows of sums, those below included
_WORK_PER_PIECE: Final = 2**16  # multiply-adds worth a thread

# How the sums of two products are formed.
_EXACT, _WIDE, _ROUNDED = range(3)

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


def takes(format: FormatFacts, rounding: RoundingFacts, terms: int) -> bool:
    """Whether the sums of trees of so many terms can be formed here."""
    to_infinity = rounding.overflow in ("ieee", "infinity")  # the same rule to nearest
    return terms >= 2 and rounding.mode == "rne" and to_infinity and _holds(format, rounding)


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


@caching.kernel
def _trailing_bits(x, none):  # type: ignore[no-untyped-def]
    """The bits that are set in a flat array of float32, up to where the last bit is."""
    bits = none
    for first in range(0, x.size, _CHUNK):
        for i in range(first, min(first + _CHUNK, x.size)):
            bits = words.bit_or(bits, words.word(x[i]))
        if words.bit_and(bits, 1) != 0:
            break
    return bits


def _precision(x: Any) -> int:
    """A precision that all significands of float32 numbers have."""
    flat = np.ascontiguousarray(x).reshape(-1).view()
    flat.flags.writeable = False
    significand = int(_trailing_bits(flat, np.uint32(0))) & (2**23 - 1) | 2**23
    return _FLOAT32_PRECISION + 1 - (significand & -significand).bit_length()


def _products_are_exact(operands: Operands) -> bool:
    """Whether float32 holds all products of float32 numbers."""
    bits = _precision(operands.a) + _precision(operands.b)
    if bits > _FLOAT32_PRECISION:
        return False
    greatest = [float(np.max(np.abs(x), initial=0.0)) for x in (operands.a, operands.b)]
    least = operands.last_bit_exponent(with_initial=False)
    return greatest[0] * greatest[1] < _LARGE and least >= _LEAST_EXPONENT


# --- sums of a row of columns ---------------------------------------------------------------------


# Rows are given by their numbers: a view of one would be counted at every use.


@numba.njit(inline="always")
def _add_products(sums, top, left, right, s, way, rounding):  # type: ignore[no-untyped-def]
    """Put the sum of the products of two steps, rounded once, into a row of sums."""
    if way == _EXACT:
        for j in range(COLUMNS):
            exact = left[s] * right[s, j]
            sums[top, j] = words.fused_multiply_add(left[s + 1], right[s + 1, j], exact)
        return
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
        return
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


@numba.njit(inline="always")
def _add_product(sums, top, left, right, s, way, rounding):  # type: ignore[no-untyped-def]
    """Add the product of a step to a row of sums, rounded once."""
    if way != _ROUNDED:
        for j in range(COLUMNS):
            sums[top, j] = words.fused_multiply_add(left[s], right[s, j], sums[top, j])
        return
    a, target = np.float64(left[s]), rounding.wide_target
    for j in range(COLUMNS):
        bits = odd_sum(a * np.float64(right[s, j]), np.float64(sums[top, j]))
        sums[top, j] = np.float32(words.floating(round_word(bits, target, NEAREST_EVEN)))


@numba.njit(inline="always")
def _add(sums, to, other, way, rounding):  # type: ignore[no-untyped-def]
    """Add a row of sums to another, rounded once."""
    if way != _ROUNDED:
        for j in range(COLUMNS):
            sums[to, j] += sums[other, j]
        return
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


@functools.cache
def _kernel(way: int) -> Callable[..., None]:
    """The kernel of one way to form sums of two products."""

    @caching.kernel
    def tree_range(start, stop, sums, arrays, trees):  # type: ignore[no-untyped-def]
        _, rows, steps = arrays.left.shape
        rounding = _Rounding(
            trees.wide,
            trees.narrow,
            target_at(trees.wide_targets, 0),
            target_at(trees.narrow_targets, 0),
        )
        for p in range(arrays.right.shape[1]):
            column = p * COLUMNS
            for index in range(start, stop):
                batch = index // rows
                row = index - batch * rows
                end = min(COLUMNS, arrays.lengths[row] - column)
                if end <= 0:
                    continue
                left, right = arrays.left[batch, row], arrays.right[batch, p]
                for j in range(COLUMNS):
                    sums[_TOTAL, j] = 0.0
                if arrays.initial.size > 0:
                    for j in range(end):
                        sums[_TOTAL, j] = arrays.initial[batch, row, column + j]
                for first in range(0, steps, trees.block):
                    top, term = _BOTTOM - 1, first
                    for q in range(trees.sizes.size):
                        top += 1
                        following = term + trees.sizes[q]
                        _add_products(sums, top, left, right, following - 2, way, rounding)
                        if term < following - 2:
                            _add_product(sums, top, left, right, term, way, rounding)
                        term = following
                        for _ in range(trees.merges[q]):
                            top -= 1
                            _add(sums, top, top + 1, way, rounding)
                    if trees.add_trees:
                        _add(sums, _TOTAL, _BOTTOM, way, rounding)
                    else:
                        for j in range(COLUMNS):
                            sums[_TOTAL, j] = sums[_BOTTOM, j]
                for j in range(end):
                    arrays.out[batch, row, column + j] = sums[_TOTAL, j]

    return cast(Callable[..., None], tree_range)


def product(
    operands: Operands, format: FormatFacts, rounding: RoundingFacts, block: int, add_trees: bool
) -> NDArray[np.float32]:
    """The product of narrow operands by trees of `block` terms, whose number divides theirs.

    Parameters
    ----------
    operands : Operands
        Float32 numbers.
    format, rounding : FormatFacts, RoundingFacts
        What :func:`takes` has accepted.
    block : int
        Terms of a tree.
    add_trees : bool
        Whether trees are added to a total, which begins with the initial value.

    Returns
    -------
    ndarray of float32, shape (batch, m, n)
    """
    out = np.zeros(operands.shape, np.float32)
    if is_own_format(format, _FLOAT32):
        way = _EXACT if _products_are_exact(operands) else _WIDE
    else:
        way = _ROUNDED
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
    launching.run(
        _kernel(way),
        out.shape[0] * out.shape[1],
        operands.arrays(np.float32, out),
        trees,
        grain=max(1, _WORK_PER_PIECE // max(operands.steps * out.shape[2], 1)),
        workspace=lambda: aligned((_DEEPEST, COLUMNS), np.float32),
    )
    out[np.isnan(out)] = np.nan  # the processor's have a sign
    return out
