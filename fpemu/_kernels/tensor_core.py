"""Matrix products by fused multi-term additions: TensorCore and FlooredCore.

Everything is done in float64, of which every step is exact but the truncations and the last
rounding:

- A product of two float32 numbers has 48 bits and lies within 2**-298 .. 2**256.
- The exponent of a number stands for itself as a power of two, 0 for the number 0.  Powers are
  multiplied where exponents are added, and the larger power is that of the larger exponent.
- Scaling by a power of two that brings the largest exponent to `fraction_bits` gives numbers below
  ``2**(fraction_bits + 2)``; nothing underflows, as the least product times the least scale is
  beyond 2**-600.  What truncation leaves are integers, of which a block's sum has at most 53 bits:
  accumulators with more are refused.

Numbers that are not finite are counted apart: once a sum is infinite or NaN, they alone decide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, words
from fpemu._kernels.caching import inline
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import Operands, panels
from fpemu._kernels.rounding import (
    DETERMINISTIC,
    Carrier,
    round_number,
    shortcut_of,
)

__all__ = ["floored_product", "product", "scaled_product", "with_canonical_nan"]

_COLUMNS: Final = 64
_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)
_EXPONENT: Final = np.uint64(0x7FF << 52)
_NO_FLOOR: Final = 2.0**-600  # below every product's exponent
_INFINITE_PRODUCT: Final = 2.0**128  # CDNA3
_CANONICAL_NAN: Final = 0x7FFFFFFF
_WORK_PER_PIECE: Final = 2**17  # multiply-adds worth a thread
_STRIP: Final = 2**22  # numbers of a right operand that are taken at once


@inline
def _power(x: float, least: float) -> float:
    """``2**floor(log2 |x|)`` of a finite number, at least `least`; 0 for 0."""
    power = words.floating(words.bit_and(words.word(x), _EXPONENT))
    return 0.0 if x == 0.0 else max(power, least)


@caching.kernel
def _split(x, least, values, powers):  # type: ignore[no-untyped-def]
    """The finite numbers of a flat array and the powers of two of their exponents, others zero.

    Returns whether there are others.
    """
    others = False
    for i in range(x.size):
        number = np.float64(x[i])
        finite = abs(number) < np.inf
        values[i] = number if finite else 0.0
        powers[i] = _power(number, least) if finite else 0.0
        others |= not finite
    return others


def _values_and_powers(
    x: Carrier, format: FormatFacts
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    flat = np.ascontiguousarray(x).reshape(-1)
    values, powers = np.empty(flat.size), np.empty(flat.size)
    others = _split(flat, np.ldexp(1.0, format.emin), values, powers)
    return values.reshape(x.shape), powers.reshape(x.shape), bool(others)


# --- the steps of a block, on a row of accumulators -----------------------------------------------


@numba.njit(inline="always")
def _raise(largest, left, powers, first, stop, stride):  # type: ignore[no-untyped-def]
    """Raise `largest` to the largest power of the products of a block."""
    for step in range(first, stop, stride):
        for j in range(largest.size):
            power = left[step] * powers[step, j]
            largest[j] = power if power > largest[j] else largest[j]


@numba.njit(inline="always")
def _truncated_sum(total, scale, left, values, first, stop, stride):  # type: ignore[no-untyped-def]
    """Add the scaled and truncated products of a block to `total`."""
    for step in range(first, stop, stride):
        for j in range(total.size):
            total[j] += words.truncate(left[step] * values[step, j] * scale[j])


@numba.njit(inline="always")
def _fused_block(  # type: ignore[no-untyped-def]
    acc, largest, scale, total, left, powers_left, values, powers, first, stop,
    floor, top, initial_least, shortcut, kind,
):  # fmt: skip
    """A block of a tensor core; the exact sums are left in `total`."""
    for j in range(acc.size):
        power = _power(acc[j], initial_least)
        largest[j] = power if power > floor else floor
    _raise(largest, powers_left, powers, first, stop, 1)
    for j in range(acc.size):
        scale[j] = top / largest[j]
        total[j] = words.truncate(acc[j] * scale[j])
    _truncated_sum(total, scale, left, values, first, stop, 1)
    for j in range(acc.size):
        # Zero sums are positive.
        exact = total[j] / scale[j] + 0.0
        total[j] = round_number(exact, shortcut, kind)


@numba.njit(inline="always")
def _grouped_block(  # type: ignore[no-untyped-def]
    acc, largest, scale, total, groups, left, powers_left, values, powers, first, stop, group,
    floor, top, initial_least, shortcut, kind,
):  # fmt: skip
    """A block whose groups of products are summed exactly and enter with their scales' exponent."""
    count = (stop - first + group - 1) // group
    for j in range(acc.size):
        power = _power(acc[j], initial_least)
        largest[j] = power if power > floor else floor
    for g in range(count):
        begin = first + g * group
        groups[g, :] = 0.0
        for step in range(begin, min(begin + group, stop)):
            for j in range(acc.size):
                groups[g, j] += left[step] * values[step, j]
        for j in range(acc.size):
            power = powers_left[begin] * powers[begin, j]
            taken = groups[g, j] != 0.0 and power > largest[j]
            largest[j] = power if taken else largest[j]
    for j in range(acc.size):
        scale[j] = top / largest[j]
        total[j] = words.truncate(acc[j] * scale[j])
    for g in range(count):
        for j in range(acc.size):
            total[j] += words.truncate(groups[g, j] * scale[j])
    for j in range(acc.size):
        exact = total[j] / scale[j] + 0.0
        total[j] = round_number(exact, shortcut, kind)


@numba.njit(inline="always")
def _floored_block(  # type: ignore[no-untyped-def]
    acc, largest, scale, total, second_largest, second_total, left, powers_left, values, powers,
    first, stop, top, sum_top, reach, halves, shortcut, kind,
):  # fmt: skip
    """A block of CDNA3: products truncated, their sum and the accumulator floored."""
    stride = 2 if halves else 1
    largest[:] = 0.0
    _raise(largest, powers_left, powers, first, stop, stride)
    for j in range(acc.size):
        scale[j] = top / largest[j] if largest[j] > 0.0 else 0.0
        total[j] = 0.0
    _truncated_sum(total, scale, left, values, first, stop, stride)
    if halves:
        second_largest[:] = 0.0
        _raise(second_largest, powers_left, powers, first + 1, stop, stride)
        for j in range(acc.size):
            total[j] = total[j] / scale[j] if largest[j] > 0.0 else 0.0
            scale[j] = top / second_largest[j] if second_largest[j] > 0.0 else 0.0
            second_total[j] = 0.0
        _truncated_sum(second_total, scale, left, values, first + 1, stop, stride)
        for j in range(acc.size):
            second = second_total[j] / scale[j] if second_largest[j] > 0.0 else 0.0
            both = max(largest[j], second_largest[j])
            common = top / both if both > 0.0 else 0.0
            total[j] = words.floor(total[j] * common) + words.floor(second * common)
            largest[j] = both
            scale[j] = common
    for j in range(acc.size):
        products = total[j] / scale[j] if largest[j] > 0.0 else 0.0
        power = _power(acc[j], 2.0**-126)
        addend = 0.0 if power < largest[j] * reach else acc[j]
        power = 0.0 if addend == 0.0 else power
        both = max(largest[j], power)
        unit = both if both > 0.0 else 1.0
        floored = words.floor(products * (sum_top / unit)) / sum_top
        exact = (floored + words.floor(addend * (top / unit)) / top) * unit + 0.0
        total[j] = round_number(exact, shortcut, kind)


@numba.njit(inline="always")
def _settle(acc, total, special, left, values, first, stop, others, limit):  # type: ignore[no-untyped-def]
    """Make `total` the accumulators, but where there is an infinity or a NaN among the terms."""
    if not others:
        for j in range(acc.size):
            acc[j] = total[j] if abs(acc[j]) < np.inf else acc[j]
        return
    for j in range(acc.size):
        special[j] = 0.0 if abs(acc[j]) < np.inf else acc[j]
    for step in range(first, stop):
        for j in range(acc.size):
            product = left[step] * values[step, j]
            infinite = np.copysign(np.inf, product) if abs(product) >= limit else product
            special[j] += 0.0 if abs(infinite) < np.inf else infinite
    for j in range(acc.size):
        acc[j] = total[j] if special[j] == 0.0 else special[j]


_TENSOR, _GROUPED, _FLOORED, _HALVES = range(4)


@functools.cache
def _product_kernel(variant: int, kind: int) -> Callable[..., None]:
    """The kernel of a kind of addition; the arguments are constants to the compiler."""
    grouped, floored = variant == _GROUPED, variant in (_FLOORED, _HALVES)
    halves = variant == _HALVES

    @caching.kernel
    def fused_range(  # type: ignore[no-untyped-def]
        start, stop, a, powers_a, raw_a, panels_b, powers_b, raw_b, initial, out, lengths,
        block, group, floor, top, sum_top, reach, initial_least, others, limit, shortcut,
    ):  # fmt: skip
        _, rows, steps = a.shape
        acc, largest, scale = np.empty(_COLUMNS), np.empty(_COLUMNS), np.empty(_COLUMNS)
        total, special = np.empty(_COLUMNS), np.empty(_COLUMNS)
        second_largest, second_total = np.empty(_COLUMNS), np.empty(_COLUMNS)
        groups = np.empty((block // group, _COLUMNS))
        for p in range(panels_b.shape[1]):
            for index in range(start, stop):
                batch = index // rows
                row = index - batch * rows
                if p * _COLUMNS >= lengths[row]:
                    continue
                end = min(_COLUMNS, lengths[row] - p * _COLUMNS)
                acc[:] = 0.0
                if initial.size > 0:
                    acc[:end] = initial[batch, row, p * _COLUMNS : p * _COLUMNS + end]
                left, powers_left = a[batch, row], powers_a[batch, row]
                values, powers = panels_b[batch, p], powers_b[batch, p]
                for first in range(0, steps, block):
                    last = min(first + block, steps)
                    if floored:
                        _floored_block(
                            acc, largest, scale, total, second_largest, second_total,
                            left, powers_left, values, powers, first, last,
                            top, sum_top, reach, halves, shortcut, kind,
                        )  # fmt: skip
                    elif grouped:
                        _grouped_block(
                            acc, largest, scale, total, groups,
                            left, powers_left, values, powers, first, last, group,
                            floor, top, initial_least, shortcut, kind,
                        )  # fmt: skip
                    else:
                        _fused_block(
                            acc, largest, scale, total,
                            left, powers_left, values, powers, first, last,
                            floor, top, initial_least, shortcut, kind,
                        )  # fmt: skip
                    _settle(
                        acc, total, special, raw_a[batch, row], raw_b[batch, p],
                        first, last, others, limit,
                    )  # fmt: skip
                for j in range(end):
                    out[batch, row, p * _COLUMNS + j] = acc[j]

    return cast(Callable[..., None], fused_range)


# --- products -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """One operand: finite numbers, the powers of two of their exponents, and all numbers."""

    values: NDArray[np.float64]
    powers: NDArray[np.float64]
    raw: NDArray[np.float64]


def _sides(
    operands: Operands, formats: tuple[FormatFacts | None, ...]
) -> tuple[_Side, _Side, bool]:
    """Both operands, and whether there are infinities or NaNs in them."""
    split = [
        _values_and_powers(x, format)
        for x, format in zip((operands.a, operands.b), formats, strict=True)
        if format is not None
    ]
    others = any(found for _, _, found in split)
    left, right = (
        _Side(values, powers, np.asarray(x, np.float64) if others else values)
        for x, (values, powers, _) in zip((operands.a, operands.b), split, strict=True)
    )
    return left, right, others


def _run(
    operands: Operands,
    sides: tuple[_Side, _Side],
    variant: int,
    output: FormatFacts,
    rounding: RoundingFacts,
    *,
    block: int,
    fraction_bits: int,
    sum_fraction_bits: int = 0,
    group: int = 1,
    floor: float = _NO_FLOOR,
    reach: float = 0.0,
    initial_least: float = 0.0,
    others: bool,
    limit: float = np.inf,
) -> Carrier:
    batch, rows, columns = operands.shape
    steps = sides[0].values.shape[2]
    out = np.zeros(operands.shape)
    if out.size == 0:
        return out
    left, right = sides
    packed = panels(right.values, _COLUMNS)
    initial = operands.initial
    launching.run(
        _product_kernel(variant, DETERMINISTIC),
        batch * rows,
        left.values,
        left.powers,
        left.raw,
        packed,
        panels(right.powers, _COLUMNS),
        panels(right.raw, _COLUMNS) if others else packed,
        np.zeros((0, 0, 0)) if initial is None else initial.astype(np.float64),
        out,
        operands.row_lengths,
        block,
        group,
        floor,
        2.0**fraction_bits,
        2.0**sum_fraction_bits,
        reach,
        initial_least,
        others,
        limit,
        shortcut_of(output, rounding, _FLOAT64),
        grain=max(1, _WORK_PER_PIECE // (max(steps, 1) * columns)),
    )
    return with_canonical_nan(out.astype(np.float32))


def with_canonical_nan(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give every NaN the bits that the units give it, in place."""
    x.view(np.uint32)[np.isnan(x)] = _CANONICAL_NAN
    return x


def _in_strips(operands: Operands, product: Callable[[Operands, slice], Carrier]) -> Carrier:
    """A product by strips of columns, as what a right operand is split into is larger than it."""
    batch, _, columns = operands.shape
    height = max(1, batch * operands.b.shape[1])
    width = max(1, _STRIP // height // _COLUMNS) * _COLUMNS
    if columns <= width:
        return product(operands, slice(None))
    out = np.empty(operands.shape, np.float32)
    for first in range(0, columns, width):
        here = slice(first, first + width)
        initial = operands.initial
        strip = replace(
            operands,
            b=operands.b[:, :, here],
            initial=None if initial is None else initial[:, :, here],
            row_lengths=np.clip(operands.row_lengths - first, 0, width),
        )
        out[:, :, here] = product(strip, here)
    return out


def product(operands: Operands, accumulator: Any) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays on a tensor core."""
    return _in_strips(operands, lambda strip, here: _product(strip, accumulator))


def _product(operands: Operands, accumulator: Any) -> Carrier:
    left, right, others = _sides(operands, accumulator.input_formats)
    floor = accumulator.exponent_floor
    return _run(
        operands,
        (_reordered(left, accumulator.order, 2), _reordered(right, accumulator.order, 1)),
        _TENSOR,
        accumulator.format,
        accumulator.rounding,
        block=accumulator.block,
        fraction_bits=accumulator.fraction_bits,
        floor=_NO_FLOOR if floor is None else 2.0**floor,
        initial_least=2.0**accumulator.initial.emin,
        others=others,
    )


def scaled_product(
    operands: Operands, scales: tuple[NDArray[Any], NDArray[Any]], unit: Any
) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays of elements, given each one's scale."""
    of_a, of_b = scales
    return _in_strips(
        operands, lambda strip, here: _scaled_product(strip, (of_a, of_b[:, :, here]), unit)
    )


def _scaled_product(
    operands: Operands, scales: tuple[NDArray[Any], NDArray[Any]], unit: Any
) -> Carrier:
    core = unit.core
    grouped = core.group > 1
    sides = []
    for x, scale, format in zip((operands.a, operands.b), scales, core.inputs, strict=True):
        values, powers, _ = _values_and_powers(x, format)
        scale_values, scale_powers, _ = _values_and_powers(scale, unit.scale)
        powers = scale_powers if grouped else powers * scale_powers
        sides.append(_Side(values * scale_values, powers, x.astype(np.float64) * scale))
    floor = core.exponent_floor
    return _run(
        operands,
        (sides[0], sides[1]),
        _GROUPED if grouped else _TENSOR,
        core.format,
        core.rounding,
        block=core.block,
        group=core.group,
        fraction_bits=core.fraction_bits,
        floor=_NO_FLOOR if floor is None else 2.0**floor,
        initial_least=2.0**core.initial.emin,
        others=not all(np.isfinite(side.raw).all() for side in sides),
    )


def _reordered(side: _Side, order: tuple[int, ...] | None, axis: int) -> _Side:
    """The terms in another order, filled up with zeros to whole runs of it."""
    if order is None:
        return side
    steps = side.values.shape[axis]
    runs = -(-steps // len(order))
    indices = (np.arange(runs)[:, None] * len(order) + np.array(order)).reshape(-1)
    widths = [(0, runs * len(order) - steps if i == axis else 0) for i in range(3)]

    def reordered(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.ascontiguousarray(np.take(np.pad(x, widths), indices, axis))

    return _Side(*map(reordered, (side.values, side.powers, side.raw)))


def floored_product(operands: Operands, accumulator: Any) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays on CDNA3's matrix core."""
    return _in_strips(operands, lambda strip, here: _floored_product(strip, accumulator))


def _floored_product(operands: Operands, accumulator: Any) -> Carrier:
    left, right, others = _sides(operands, accumulator.input_formats)
    greatest = [np.max(np.abs(side.values), initial=0.0) for side in (left, right)]
    reach = accumulator.reach
    return _run(
        operands,
        (left, right),
        _HALVES if accumulator.halves else _FLOORED,
        accumulator.format,
        accumulator.rounding,
        block=accumulator.block,
        fraction_bits=accumulator.fraction_bits,
        sum_fraction_bits=accumulator.sum_fraction_bits,
        reach=0.0 if reach is None else 2.0**-reach,
        others=others or bool(greatest[0] * greatest[1] >= _INFINITE_PRODUCT),
        limit=_INFINITE_PRODUCT,
    )
