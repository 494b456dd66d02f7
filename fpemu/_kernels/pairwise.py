"""Matrix products summed by balanced binary trees: Pairwise.

The terms are taken in index order and merged on a stack: once a subtree is complete, its sum
replaces those of its halves.  A product of float32 numbers is exact in float64 and waits on the
stack as it is; wider factors wait themselves, to be multiplied and added in a superaccumulator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, random_bits, words
from fpemu._kernels.error_free import add_float32, holds_float32_sums
from fpemu._kernels.exact import fma_word_at, multiply_word_at
from fpemu._kernels.facts import FormatFacts
from fpemu._kernels.operands import INNER, OUTER, PRODUCTS, Operands, panels
from fpemu._kernels.rounding import (
    STOCHASTIC,
    Carrier,
    is_own_format,
    kind_of,
    round_word,
    target_of,
    unused_bits,
)
from fpemu._kernels.significands import SIGN, ZERO
from fpemu._kernels.superaccumulator import DIGITS, add_product, round_digits

__all__ = ["product"]

_COLUMNS: Final = 64
_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)
_WORK_PER_PIECE: Final = 2**15  # multiply-adds worth a thread
_DEEPEST: Final = 64  # subtrees that wait at a time, in trees of fewer than 2**63 terms

# How sums are formed: in float32 by the processor, in float64 made odd, in integer arithmetic.
_NATIVE, _NARROW, _WIDE = range(3)


@caching.kernel
def _merges_after(counts):  # type: ignore[no-untyped-def]
    """How many subtrees a term completes, by its index, in a tree of ``counts.size`` terms."""
    for i in range(counts.size):
        low, high = 0, counts.size
        while high - low > 1:
            if high - 1 == i:
                counts[i] += 1
            middle = low + (high - low) // 2
            if i < middle:
                high = middle
            else:
                low = middle


def _merges(terms: int) -> NDArray[np.int64]:
    counts = np.zeros(terms, np.int64)
    _merges_after(counts)
    return counts


@numba.njit(inline="always")
def _flushed(x, least):  # type: ignore[no-untyped-def]
    """A zero of its sign for a number below `least` in magnitude."""
    return x * (least - least) if abs(x) < least else x


@numba.njit(inline="always")
def _sum(x, y, target, kind, way, random, unused):  # type: ignore[no-untyped-def]
    if way == _NATIVE:
        return x + y
    if way == _NARROW and kind != STOCHASTIC:
        return add_float32(x, y, target, kind)
    return words.floating(fma_word_at(1.0, x, y, target, kind, random, unused))


@numba.njit(inline="always")
def _leaf(a, b, product_target, kind, fused, way, random, unused):  # type: ignore[no-untyped-def]
    """A product: exact if fused (and narrow), else rounded."""
    if way == _NATIVE or (fused and way == _NARROW):
        return a * b
    if fused:
        return a  # a wide product is formed when it is merged
    if way == _NARROW and kind != STOCHASTIC:
        return words.floating(round_word(words.word(a * b), product_target, kind))
    return words.floating(multiply_word_at(a, b, product_target, kind, random, unused))


@numba.njit(inline="always")
def _exact_sum(digits, a, b, c, d, target, kind, random, unused):  # type: ignore[no-untyped-def]
    """``a*b + c*d`` rounded once."""
    special, negative = 0.0, 0
    for x, y in ((a, b), (c, d)):
        sign = words.bit_and(words.bit_xor(words.word(x), words.word(y)), SIGN)
        negative += 1 if sign != 0 else 0
        if abs(x) < np.inf and abs(y) < np.inf:
            add_product(digits, x, y)
        else:
            special += x * y
    # IEEE 754 section 6.3
    minus = negative == 2 or (negative == 1 and target.zero_sum != 0)
    zero = target.zero_negative if minus else target.zero
    bits = round_digits(digits, zero, target, kind, random, unused)
    return words.floating(round_word(words.word(special), target, kind) if special != 0.0 else bits)


@numba.njit(inline="always")
def _merge(  # type: ignore[no-untyped-def]
    stack, factors, top, least, target, kind, fused, way, flush, digits,
    element, number, stream, key, unused, running,
):  # fmt: skip
    """Replace the two highest subtrees on the stack by their sum; add it to the running sums."""
    random = ZERO
    for j in range(stack.shape[1]):
        if kind == STOCHASTIC:
            random = random_bits.step_bits(element + j, number, stream, key, unused)
        if fused and way == _WIDE:
            total = _exact_sum(
                digits, stack[top - 1, j], factors[top - 1, j], stack[top, j], factors[top, j],
                target, kind, random, unused,
            )  # fmt: skip
            factors[top - 1, j] = 1.0
        else:
            total = _sum(stack[top - 1, j], stack[top, j], target, kind, way, random, unused)
        stack[top - 1, j] = _flushed(total, least) if flush else total
    _add_running(running, stack[top - 1])


@numba.njit(inline="always")
def _add_running(running, numbers):  # type: ignore[no-untyped-def]
    """Add magnitudes and squares of rounded sums, where there is room for them."""
    for j in range(running.shape[1]):
        number = np.float64(numbers[j])
        running[0, j] += abs(number)
        running[1, j] += number * number


@functools.cache
def _product_kernel(kind: int, fused: bool, way: int, flush: bool) -> Callable[..., None]:
    """The kernel of one way to form sums; the arguments are constants to the compiler."""
    wide_products = fused and way == _WIDE

    @caching.kernel
    def tree_range(  # type: ignore[no-untyped-def]
        start, stop, a, panels_b, initial, out, lengths, block, add_trees, merges, least,
        target, product_target, key, unused, sums,
    ):  # fmt: skip
        _, rows, steps = a.shape
        running = np.zeros((2, _COLUMNS if sums.size > 0 else 0))
        stack = np.zeros((_DEEPEST, _COLUMNS), a.dtype)
        # The second factor of what waits on the stack, where products are not formed at once.
        factors = np.ones((_DEEPEST if wide_products else 1, _COLUMNS))
        total = np.zeros(_COLUMNS, a.dtype)
        digits = np.zeros(DIGITS if wide_products else 1, np.int64)
        for p in range(panels_b.shape[1]):
            for index in range(start, stop):
                batch = index // rows
                row = index - batch * rows
                if p * _COLUMNS >= lengths[row]:
                    continue
                end = min(_COLUMNS, lengths[row] - p * _COLUMNS)
                left, right = a[batch, row], panels_b[batch, p]
                element = index * out.shape[2] + p * _COLUMNS
                merged = 0
                random = ZERO
                total[:] = 0.0
                running[:] = 0.0
                if initial.size > 0:
                    total[:end] = initial[batch, row, p * _COLUMNS : p * _COLUMNS + end]
                for first in range(0, steps, block):
                    top = -1
                    for i in range(block):
                        top += 1
                        step = first + i
                        for j in range(_COLUMNS):
                            if kind == STOCHASTIC and not fused:
                                random = random_bits.step_bits(
                                    element + j, step, PRODUCTS, key, unused
                                )
                            x = _leaf(
                                left[step], right[step, j], product_target, kind, fused, way,
                                random, unused,
                            )  # fmt: skip
                            stack[top, j] = _flushed(x, least) if flush else x
                            if wide_products:
                                factors[top, j] = right[step, j]
                        # One call of _merge for both kinds of sums makes less code to compile.
                        outer = 1 if add_trees and i == block - 1 else 0
                        for number in range(merges[i] + outer):
                            stream, place = INNER, merged
                            if number == merges[i]:  # the tree is added to the total
                                for j in range(_COLUMNS):
                                    stack[1, j] = stack[0, j]
                                    stack[0, j] = total[j]
                                    if wide_products:
                                        factors[1, j] = factors[0, j]
                                        factors[0, j] = 1.0
                                top, stream, place = 1, OUTER, first // block
                            else:
                                merged += 1
                            _merge(
                                stack, factors, top, least, target, kind, fused, way, flush, digits,
                                element, place, stream, key, unused, running,
                            )  # fmt: skip
                            top -= 1
                    if block == 1 and not add_trees:  # a lone product is still to be rounded
                        for j in range(_COLUMNS):
                            if kind == STOCHASTIC:
                                random = random_bits.step_bits(element + j, 0, INNER, key, unused)
                            x, y = np.float64(stack[0, j]), factors[0, j] if wide_products else 1.0
                            bits = multiply_word_at(x, y, target, kind, random, unused)
                            stack[0, j] = words.floating(bits)
                        _add_running(running, stack[0])
                    for j in range(_COLUMNS):
                        total[j] = stack[0, j]
                for j in range(end):
                    out[batch, row, p * _COLUMNS + j] = total[j]
                if sums.size > 0:
                    sums[:, batch, row, p * _COLUMNS : p * _COLUMNS + end] = running[:, :end]

    return cast(Callable[..., None], tree_range)


def _way_of(accumulator: Any, narrow: bool) -> int:
    """How sums can be formed: native float32 arithmetic rounds to nearest and knows no flushing."""
    formats = (accumulator.format, accumulator.product or accumulator.format)
    rounding = accumulator.rounding
    to_infinity = rounding.overflow != "saturate"  # which is IEEE's rule to nearest as well
    native = rounding.mode == "rne" and to_infinity and not accumulator.fused
    if narrow and native and all(is_own_format(each, np.dtype(np.float32)) for each in formats):
        return _NATIVE
    holds_sums = all(map(holds_float32_sums, formats))
    return _NARROW if narrow and holds_sums else _WIDE


def _inputs(x: Carrier, accumulator: Any, format: FormatFacts | None) -> Carrier:
    """The operand as the unit reads it: its subnormals flushed if it does that."""
    if accumulator.flush is None or format is None:
        return x
    zeros = x * x.dtype.type(0) if accumulator.flush == "signed" else np.zeros_like(x)
    subnormal = (x != 0) & (np.abs(x) < format.smallest_normal)
    return cast(Carrier, np.where(subnormal, zeros, x))


def product(operands: Operands, accumulator: Any) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays, summed by trees."""
    batch, rows, columns = operands.shape
    steps = operands.a.shape[2]
    way = _way_of(accumulator, operands.narrow)
    dtype = np.dtype(np.float32 if way == _NATIVE else np.float64)
    out = np.zeros(operands.shape, dtype)
    if out.size == 0:
        return out
    format, rounding = accumulator.format, accumulator.rounding
    inputs = accumulator.inputs
    left: Any = _inputs(operands.a, accumulator, inputs)
    right: Any = _inputs(operands.b, accumulator, inputs)
    initial = operands.initial
    if initial is not None:
        initial = _inputs(initial, accumulator, format)
    block = accumulator.block or max(steps, 1)
    if steps % block:  # the last tree is filled up with zeros
        left = np.pad(left, ((0, 0), (0, 0), (0, -steps % block)))
        right = np.pad(right, ((0, 0), (0, -steps % block), (0, 0)))
    launching.run(
        _product_kernel(kind_of(rounding), accumulator.fused, way, accumulator.flush is not None),
        batch * rows,
        np.ascontiguousarray(left, dtype=dtype),
        panels(right.astype(dtype, copy=False), _COLUMNS),
        np.zeros((0, 0, 0), dtype) if initial is None else initial.astype(dtype),
        out,
        operands.row_lengths,
        block,
        accumulator.block is not None or initial is not None,
        _merges(block),
        dtype.type(format.smallest_normal),
        target_of(format, rounding, _FLOAT64),
        target_of(accumulator.product or format, rounding, _FLOAT64),
        random_bits.key_of(rounding.seed),
        unused_bits(rounding),
        operands.running,
        grain=max(1, _WORK_PER_PIECE // (max(steps, 1) * columns)),
    )
    return out
