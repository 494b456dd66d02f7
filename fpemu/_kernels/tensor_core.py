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

One kernel (:func:`_fused_range`) goes through rows and panels of columns.  What sums the terms of a
row is a part of it (:mod:`fpemu._kernels.parts`), one for each kind of block, and what rounds the
sums of a block is another, one for each kind of rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, narrow_core, parts, random_bits, words
from fpemu._kernels.caching import inline
from fpemu._kernels.exact import fma_word_at
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.narrow_core import CoreFacts, FlooredFacts, Scales
from fpemu._kernels.operands import (
    COLUMNS,
    INNER,
    OUTER,
    RANDOM_TYPE,
    Operands,
    Random,
    aligned,
    in_order,
    panels,
    random_of,
    read_only,
)
from fpemu._kernels.parts import Part
from fpemu._kernels.rounding import (
    STOCHASTIC,
    Carrier,
    Shortcut,
    kind_of,
    known_mode,
    round_number,
    with_mode,
)
from fpemu._kernels.significands import ZERO
from fpemu._kernels.targets import TABLE_TYPE, shortcut_at, shortcuts_of, target_at, targets_of

__all__ = ["Scales", "floored_product", "product", "scaled_product", "with_canonical_nan"]

_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)
_EXPONENT: Final = np.uint64(0x7FF << 52)
_NO_FLOOR: Final = 2.0**-600  # below every product's exponent
_LEAST: Final = 2.0**-126  # the least exponent of float32
_INFINITE_PRODUCT: Final = 2.0**128  # CDNA3
_CANONICAL_NAN: Final = 0x7FFFFFFF
_COST: Final = 4.0  # nanoseconds of a multiply-add
_STRIP: Final = 2**22  # numbers of a right operand that are taken at once


class ScaledCoreFacts(Protocol):
    """What is to be known of a :class:`fpemu.ScaledCore`."""

    @property
    def core(self) -> CoreFacts: ...
    @property
    def scale(self) -> FormatFacts: ...


class _Side(NamedTuple):
    """One operand: finite numbers, the powers of two of their exponents, and all numbers."""

    values: Any
    powers: Any
    raw: Any


class _Drawn(NamedTuple):
    """Where random bits come from, and which belong to an element of a strip of the result."""

    random: Random
    columns: int  # of the whole result
    first: int  # column of the strip


class _Rounding(NamedTuple):
    """How the sums of a block are rounded."""

    shortcuts: Any  # one, in a row
    targets: Any  # one, for where the shortcut does not apply
    random: Random
    zero: float  # what is added to what is rounded: -0.0 if zeros keep their signs


class _Unit(NamedTuple):
    """What a kernel is told of the unit."""

    block: int
    group: int
    floor: float  # the least power that terms are aligned to
    top: float  # 2**fraction_bits
    sum_top: float  # FlooredCore: 2**sum_fraction_bits, 2**result_fraction_bits
    result_top: float
    reach: float
    initial_least: float  # the power of a subnormal accumulator
    others: bool  # whether there are infinities or NaNs
    limit: float  # products from here on are infinite
    rounding: _Rounding
    sum_row: int  # the address of the part that sums the terms of a row
    round_sums: int  # and of that which rounds the sums of a block
    columns: int  # of the whole result, of which this is a strip
    first: int  # column of the strip


class _Row(NamedTuple):
    """What a thread works in: numbers for every column."""

    acc: Any
    total: Any
    largest: Any
    scale: Any
    second_total: Any
    second_largest: Any
    special: Any
    groups: Any  # (groups of a block, COLUMNS)


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
    flat = read_only(x, x.dtype).reshape(-1)
    values, powers = np.empty(flat.size), np.empty(flat.size)
    others = _split(flat, np.ldexp(1.0, format.emin), values, powers)
    return values.reshape(x.shape), powers.reshape(x.shape), bool(others)


def _row(groups: int) -> _Row:
    """A workspace in one piece of memory."""
    numbers = aligned((len(_Row._fields) - 1 + groups, COLUMNS))
    return _Row._make([*numbers[:-groups], numbers[-groups:]])


# --- the steps of a block, on a row of accumulators -----------------------------------------------


@numba.njit(inline="always")
def _align(largest, left, powers, first, stop, stride):  # type: ignore[no-untyped-def]
    """Raise `largest` to the largest power of the products of a block."""
    for step in range(first, stop, stride):
        for j in range(COLUMNS):
            power = left[step] * powers[step, j]
            largest[j] = power if power > largest[j] else largest[j]


@numba.njit(inline="always")
def _add_truncated(total, scale, left, values, first, stop, stride):  # type: ignore[no-untyped-def]
    """Add the scaled and truncated products of a block to `total`."""
    for step in range(first, stop, stride):
        for j in range(COLUMNS):
            total[j] += words.truncate(left[step] * values[step, j] * scale[j])


@numba.njit(inline="always")
def _add_groups(work, left, powers_left, values, powers, first, stop, group):  # type: ignore[no-untyped-def]
    """Sum the groups of a block exactly; raise `largest` to the power of the scales of one.

    A group takes part if one of its products is not zero, even if they cancel.
    """
    groups, largest, part = work.groups, work.largest, work.special
    for g in range((stop - first + group - 1) // group):
        begin = first + g * group
        for j in range(COLUMNS):
            groups[g, j] = 0.0
            part[j] = 0.0
        for step in range(begin, min(begin + group, stop)):
            for j in range(COLUMNS):
                product = left[step] * values[step, j]
                groups[g, j] += product
                part[j] = max(part[j], abs(product))
        for j in range(COLUMNS):
            power = powers_left[begin] * powers[begin, j]
            taken = part[j] != 0.0 and power > largest[j]
            largest[j] = power if taken else largest[j]


@numba.njit(inline="always")
def _fused_block(work, left, powers_left, values, powers, first, stop, unit, grouped):  # type: ignore[no-untyped-def]
    """A block of a tensor core; the exact sums are left in `total`.

    If `grouped`, its groups of products are summed exactly and enter with their scales' exponent.
    """
    acc, largest, scale, total = work.acc, work.largest, work.scale, work.total
    for j in range(COLUMNS):
        power = _power(acc[j], unit.initial_least)
        largest[j] = power if power > unit.floor else unit.floor
    if grouped:
        _add_groups(work, left, powers_left, values, powers, first, stop, unit.group)
    else:
        _align(largest, powers_left, powers, first, stop, 1)
    for j in range(COLUMNS):
        scale[j] = unit.top / largest[j]
        total[j] = words.truncate(acc[j] * scale[j])
    if grouped:
        for g in range((stop - first + unit.group - 1) // unit.group):
            for j in range(COLUMNS):
                total[j] += words.truncate(work.groups[g, j] * scale[j])
    else:
        _add_truncated(total, scale, left, values, first, stop, 1)
    for j in range(COLUMNS):
        # Zero sums are positive, and sums that round to zero, see `_core_unit`.
        total[j] = total[j] / scale[j] + 0.0


@numba.njit(inline="always")
def _truncated_products(  # type: ignore[no-untyped-def]
    largest, scale, total, left, powers_left, values, powers, first, stop, stride, top
):
    """The sum of products truncated behind the largest of their exponents, in units of `scale`."""
    for j in range(COLUMNS):
        largest[j] = 0.0
    _align(largest, powers_left, powers, first, stop, stride)
    for j in range(COLUMNS):
        scale[j] = top / largest[j] if largest[j] > 0.0 else 0.0
        total[j] = 0.0
    _add_truncated(total, scale, left, values, first, stop, stride)


@numba.njit(inline="always")
def _floored_block(work, left, powers_left, values, powers, first, stop, unit, halves):  # type: ignore[no-untyped-def]
    """A block of CDNA3: products truncated; their sum, the accumulator and the result floored."""
    acc, largest, scale, total = work.acc, work.largest, work.scale, work.total
    second_largest, second_total = work.second_largest, work.second_total
    top, stride = unit.top, 2 if halves else 1
    _truncated_products(
        largest, scale, total, left, powers_left, values, powers, first, stop, stride, top
    )
    if halves:
        for j in range(COLUMNS):
            total[j] = total[j] / scale[j] if largest[j] > 0.0 else 0.0
        _truncated_products(
            second_largest, scale, second_total, left, powers_left, values, powers,
            first + 1, stop, stride, top,
        )  # fmt: skip
        for j in range(COLUMNS):
            second = second_total[j] / scale[j] if second_largest[j] > 0.0 else 0.0
            both = max(largest[j], second_largest[j])
            common = top / both if both > 0.0 else 0.0
            total[j] = words.floor(total[j] * common) + words.floor(second * common)
            largest[j] = both
            scale[j] = common
    for j in range(COLUMNS):
        products = total[j] / scale[j] if largest[j] > 0.0 else 0.0
        power = max(_power(acc[j], _LEAST), _LEAST)  # a zero has the least exponent
        addend = 0.0 if power < largest[j] * unit.reach else acc[j]
        both = max(largest[j], power)
        floored = words.floor(products * (unit.sum_top / both)) / unit.sum_top
        exact = (floored + words.floor(addend * (top / both)) / top) * both
        power = max(_power(exact, _LEAST), _LEAST)
        result = words.floor(exact * (unit.result_top / power)) * (power / unit.result_top)
        total[j] = result + 0.0


@numba.njit(inline="always")
def _settle(work, left, values, first, stop, unit):  # type: ignore[no-untyped-def]
    """Make `total` the accumulators, but where there is an infinity or a NaN among the terms."""
    acc, total, special = work.acc, work.total, work.special
    if not unit.others:
        for j in range(COLUMNS):
            acc[j] = total[j] if abs(acc[j]) < np.inf else acc[j]
        return
    for j in range(COLUMNS):
        special[j] = 0.0 if abs(acc[j]) < np.inf else acc[j]
    for step in range(first, stop):
        for j in range(COLUMNS):
            product = left[step] * values[step, j]
            infinite = np.copysign(np.inf, product) if abs(product) >= unit.limit else product
            special[j] += 0.0 if abs(infinite) < np.inf else infinite
    for j in range(COLUMNS):
        acc[j] = total[j] if special[j] == 0.0 else special[j]


# --- parts of the kernel --------------------------------------------------------------------------

_LIMIT: Final = Shortcut._fields.index("limit")  # 0 where it does not apply
_TENSOR, _GROUPED, _FLOORED, _HALVES = range(4)

_INDEX: Final = types.intp
_VECTOR: Final = types.Array(types.float64, 1, "C")
_LEFT, _RIGHT = (types.Array(types.float64, n, "C", readonly=True) for n in (1, 2))
_ROUNDING: Final = types.NamedTuple(
    [
        *[TABLE_TYPE] * 2,
        RANDOM_TYPE,
        types.float64,
    ],
    _Rounding,
)
_UNIT: Final = types.NamedTuple(
    [
        *[_INDEX] * 2,
        *[types.float64] * 6,
        types.boolean,
        types.float64,
        _ROUNDING,
        *[_INDEX] * 4,
    ],
    _Unit,
)
_ROW: Final = types.NamedTuple([*[_VECTOR] * 7, types.Array(types.float64, 2, "C")], _Row)
_TO_ROUND: Final = _VECTOR, _INDEX, _INDEX, _ROUNDING
_TO_SUM: Final = _ROW, *[_LEFT] * 3, *[_RIGHT] * 3, _INDEX, _UNIT
_ROUNDED: Final = parts.takes(*_TO_ROUND)
_SUMMED: Final = parts.takes(*_TO_SUM)
_call_to_round: Final = parts.calling(len(_TO_ROUND))
_call_to_sum: Final = parts.calling(len(_TO_SUM))


@functools.cache
def _rounding(kind: int, mode: str, quick: bool) -> Part:
    """The part ``f(sums, element, number, rounding)`` that rounds the sums of a block.

    They are rounded by the shortcut if `quick`, which has to apply.  Random bits are those of some
    elements from a first one on, and of the number of a block.
    """

    @caching.part
    def round_sums(sums, element, number, rounding):  # type: ignore[no-untyped-def]
        if quick:
            shortcut = with_mode(shortcut_at(rounding.shortcuts, 0), mode)
            for j in range(COLUMNS):
                sums[j] = round_number(sums[j], shortcut, kind) + rounding.zero
        else:
            target, bits = target_at(rounding.targets, INNER), ZERO
            key, unused = rounding.random
            for j in range(COLUMNS):
                if kind == STOCHASTIC:
                    bits = random_bits.step_bits(element + j, number, OUTER, key, unused)
                word = fma_word_at(sums[j], 1.0, 0.0, target, kind, bits, unused)
                sums[j] = words.floating(word) + rounding.zero
        return 0

    return parts.compiled(round_sums, *_TO_ROUND)


@functools.cache
def _summing(variant: int) -> Part:
    """The part that sums the terms of a row of the left operand and of a panel, block by block.

    ``f(work, left, powers_left, raw_left, right, powers, raw, element, unit)``: it takes the
    accumulators of `work` on; `element` is the first of the sums.
    """
    floored, halves = variant in (_FLOORED, _HALVES), variant == _HALVES
    grouped = variant == _GROUPED

    @caching.part
    def sum_row(work, left, powers_left, raw_left, right, powers, raw, element, unit):  # type: ignore[no-untyped-def]
        for first in range(0, left.size, unit.block):
            last = min(first + unit.block, left.size)
            if floored:
                _floored_block(work, left, powers_left, right, powers, first, last, unit, halves)
            else:
                _fused_block(work, left, powers_left, right, powers, first, last, unit, grouped)
            _call_to_round(
                unit.round_sums, _ROUNDED, work.total, element, first // unit.block, unit.rounding
            )
            _settle(work, raw_left, raw, first, last, unit)
        return 0

    return parts.compiled(sum_row, *_TO_SUM)


@caching.kernel
def _fused_range(start, stop, work, a, b, initial, lengths, out, unit):  # type: ignore[no-untyped-def]
    _, rows, _ = a.values.shape
    acc = work.acc
    for p in range(b.values.shape[1]):
        column = p * COLUMNS
        for index in range(start, stop):
            batch = index // rows
            row = index - batch * rows
            end = min(COLUMNS, lengths[row] - column)
            if end <= 0:
                continue
            for j in range(COLUMNS):
                acc[j] = 0.0
            if initial.size > 0:
                for j in range(end):
                    acc[j] = initial[batch, row, column + j]
            _call_to_sum(
                unit.sum_row, _SUMMED, work, a.values[batch, row], a.powers[batch, row],
                a.raw[batch, row], b.values[batch, p], b.powers[batch, p], b.raw[batch, p],
                index * unit.columns + unit.first + column, unit,
            )  # fmt: skip
            for j in range(end):
                out[batch, row, column + j] = acc[j]


# --- products -------------------------------------------------------------------------------------


def _sides(
    operands: Operands, formats: tuple[FormatFacts | None, FormatFacts | None]
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
    operands: Operands, a: _Side, b: _Side, variant: int, unit: _Unit, rounding: RoundingFacts
) -> Carrier:
    """The product by the kernel, in float32."""
    out = np.zeros(operands.shape)
    if out.size == 0:
        return out
    steps = a.values.shape[2]
    batch, rows, columns = out.shape
    launching.require_shapes(
        *((x, (batch, rows, steps)) for x in a), *((x, (batch, steps, columns)) for x in b)
    )
    packed = panels(b.values, _FLOAT64)
    quick = bool(unit.rounding.shortcuts[0, _LIMIT]) and not rounding.is_stochastic
    # Truncation by the code for any mode would take Volta, which rounds after every four terms, a
    # third of its speed.
    mode = known_mode(rounding, "rtz") if quick else ""
    launching.run(
        _fused_range,
        out.shape[0] * out.shape[1],
        _Side(*(read_only(x, _FLOAT64) for x in a)),
        _Side(
            packed,
            panels(b.powers, _FLOAT64),
            packed if b.raw is b.values else panels(b.raw, _FLOAT64),
        ),
        operands.initial_as(_FLOAT64),
        read_only(operands.row_lengths, np.int64),
        out,
        unit._replace(
            sum_row=_summing(variant).address,
            round_sums=_rounding(kind_of(rounding), mode, quick).address,
        ),
        cost=_COST * steps * out.shape[2],
        workspace=lambda: _row(unit.block // unit.group),
    )
    return with_canonical_nan(out.astype(np.float32))


def with_canonical_nan(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give every NaN the bits that the units give it, in place."""
    with np.errstate(invalid="ignore"):
        least = np.min(x, initial=np.inf)
    if np.isnan(least):  # some number is
        x.view(np.uint32)[np.isnan(x)] = _CANONICAL_NAN
    return x


def _in_strips(operands: Operands, product: Callable[[Operands, slice], Carrier]) -> Carrier:
    """A product by strips of columns, as what a right operand is split into is larger than it."""
    batch, _, columns = operands.shape
    height = max(1, batch * operands.b.shape[1])
    width = max(1, _STRIP // height // COLUMNS) * COLUMNS
    if columns <= width:
        return product(operands, slice(0, columns))
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


def _draws(operands: Operands, rounding: RoundingFacts) -> Callable[[slice], _Drawn]:
    """The random bits of a product, by the columns of a strip; drawn once if there is no seed."""
    random, columns = random_of(rounding), operands.shape[2]
    return lambda here: _Drawn(random, columns, here.start)


def _rounding_of(
    accumulator: CoreFacts | FlooredFacts, random: Random, *, zero: float
) -> _Rounding:
    """How an accumulator rounds the sums of a block."""
    format, rounding = accumulator.format, accumulator.rounding
    return _Rounding(
        shortcuts_of((format, rounding)),
        targets_of((format, rounding)),
        random,
        zero,
    )


def _core_unit(core: CoreFacts, drawn: _Drawn, *, group: int, others: bool) -> _Unit:
    floor = core.exponent_floor
    return _Unit(
        block=core.block,
        group=group,
        floor=_NO_FLOOR if floor is None else 2.0**floor,
        top=2.0**core.fraction_bits,
        sum_top=0.0,
        result_top=0.0,
        reach=0.0,
        initial_least=2.0**core.initial_format.emin,
        others=others,
        limit=np.inf,
        rounding=_rounding_of(core, drawn.random, zero=0.0),
        sum_row=0,
        round_sums=0,
        columns=drawn.columns,
        first=drawn.first,
    )


def _best(
    operands: Operands,
    scales: Scales | None,
    unit: narrow_core.Unit | None,
    wide: Callable[[Operands, Scales | None], Carrier],
) -> Carrier:
    """A product in narrow lanes; rows that they do not hold, and others, in float64."""
    if unit is None or not operands.narrow:
        return wide(operands.with_numbers(), scales)
    out, doubtful = narrow_core.product(operands, scales, unit)
    rows = np.flatnonzero(doubtful.any(axis=0))
    if rows.size:
        initial = operands.initial
        again = replace(
            operands.with_numbers(),
            a=operands.a[:, rows],
            initial=None if initial is None else initial[:, rows],
            row_lengths=operands.row_lengths[rows],
        )
        some = None if scales is None else scales._replace(left=scales.left[:, rows])
        out[:, rows] = wide(again, some)
    return with_canonical_nan(out)


def product(operands: Operands, accumulator: CoreFacts) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays on a tensor core."""
    drawn, order = _draws(operands, accumulator.rounding), accumulator.order

    def product_of(strip: Operands, here: slice) -> Carrier:
        if order is not None:
            strip = replace(
                strip,
                a=in_order(strip.a, order, 2, len(order)),
                b=in_order(strip.b, order, 1, len(order)),
            )
        left, right, others = _sides(strip, accumulator.input_formats)
        unit = _core_unit(accumulator, drawn(here), group=1, others=others)
        return _run(strip, left, right, _TENSOR, unit, accumulator.rounding)

    def wide(operands: Operands, _: Any) -> Carrier:
        return _in_strips(operands, product_of)

    return _best(operands, None, narrow_core.unit_of(accumulator, None), wide)


def scaled_product(operands: Operands, scales: Scales, unit: ScaledCoreFacts) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays of elements and their scales."""
    core = unit.core
    drawn = _draws(operands, core.rounding)
    variant = _GROUPED if core.group > 1 else _TENSOR

    def wide(operands: Operands, scales: Any) -> Carrier:
        steps = operands.steps
        of_left = np.repeat(scales.left, scales.each, 2)[:, :, :steps]
        of_right = np.repeat(scales.right, scales.each, 1)[:, :steps]

        def product_of(strip: Operands, here: slice) -> Carrier:
            left, right = (
                _scaled_side(x, scale, format, unit)
                for x, scale, format in zip(
                    (strip.a, strip.b),
                    (of_left, of_right[:, :, here]),
                    core.input_formats,
                    strict=True,
                )
            )
            others = not all(np.isfinite(side.raw).all() for side in (left, right))
            described = _core_unit(core, drawn(here), group=core.group, others=others)
            return _run(strip, left, right, variant, described, core.rounding)

        return _in_strips(operands, product_of)

    return _best(operands, scales, narrow_core.unit_of(core, unit.scale), wide)


def _scaled_side(
    x: Carrier, scale: NDArray[Any], format: FormatFacts | None, unit: ScaledCoreFacts
) -> _Side:
    """An operand whose exponents are those of its scales and, without groups, its elements."""
    assert format is not None
    values, powers, _ = _values_and_powers(x, format)
    scale_values, scale_powers, _ = _values_and_powers(scale, unit.scale)
    powers = scale_powers if unit.core.group > 1 else powers * scale_powers
    return _Side(values * scale_values, powers, x.astype(np.float64) * scale)


def floored_product(operands: Operands, accumulator: FlooredFacts) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays on CDNA3's matrix core."""
    random, columns = random_of(accumulator.rounding), operands.shape[2]
    reach = accumulator.reach

    def product_of(strip: Operands, here: slice) -> Carrier:
        left, right, others = _sides(strip, accumulator.input_formats)
        greatest = [np.max(np.abs(side.values), initial=0.0) for side in (left, right)]
        unit = _Unit(
            block=accumulator.block,
            group=1,
            floor=_NO_FLOOR,
            top=2.0**accumulator.fraction_bits,
            sum_top=2.0**accumulator.sum_fraction_bits,
            result_top=2.0**accumulator.result_fraction_bits,
            reach=0.0 if reach is None else 2.0**-reach,
            initial_least=0.0,
            others=others or bool(greatest[0] * greatest[1] >= _INFINITE_PRODUCT),
            limit=_INFINITE_PRODUCT,
            rounding=_rounding_of(accumulator, random, zero=-0.0),
            sum_row=0,
            round_sums=0,
            columns=columns,
            first=here.start,
        )
        variant = _HALVES if accumulator.halves else _FLOORED
        return _run(strip, left, right, variant, unit, accumulator.rounding)

    def wide(operands: Operands, _: Any) -> Carrier:
        return _in_strips(operands, product_of)

    return _best(operands, None, narrow_core.floored_unit(accumulator), wide)
