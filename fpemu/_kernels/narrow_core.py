"""Products of tensor cores in narrow lanes: exponents in integers, products in float32.

See :mod:`fpemu._kernels.narrow_blocks` for the code of a block and its proof.  A thread takes a
panel of columns for some rows of the result.  It reads the terms of the panel from the operand as
it lies in memory, some at a time, and splits them into numbers and exponents while they are at
hand: nothing of the right operand is copied as a whole, and one row takes as many threads as many.
What splits terms and what adds blocks are parts of the kernel (:mod:`fpemu._kernels.parts`), which
is compiled for the types of exponents alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, cast

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from fpemu._kernels import caching, directed_blocks, launching, parts, words
from fpemu._kernels.caching import inline
from fpemu._kernels.directions import turn_back, turn_toward_zero
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.narrow_blocks import (
    HIGHEST,
    LOWEST,
    ROWS,
    ZERO,
    Shape,
    add_floored,
    add_grouped,
    add_nearest,
    add_truncated,
    begin_parts,
    prepare_group,
    prepare_pair,
    prepare_scaled_pair,
)
from fpemu._kernels.operands import (
    COLUMNS,
    Operands,
    aligned,
    in_order,
    longest,
    pieces,
    read_only,
    source_of,
)
from fpemu._kernels.panels import fill
from fpemu._kernels.parts import Part

__all__ = ["CoreFacts", "FlooredFacts", "Scales", "Unit", "floored_unit", "product", "unit_of"]

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)
_PRODUCT_BITS: Final = 24  # of a product that is exact in float32
_MOST_FRACTION_BITS: Final = 27  # of which two products have a sum within int32
_FLOAT32_EMIN: Final = -126
_FLOAT32_PRECISION: Final = 24
_LONGEST_GROUP: Final = 32  # terms, a bit each
_ZERO_WORD: Final = np.uint32(2**32 + ZERO)
_DEPTH: Final = 256  # terms of a panel that are at hand together, about
_SPLIT_COST: Final = 3.0  # nanoseconds of a number
_COST: Final = 0.6  # of a multiply-add
_MOST_ROWS: Final = 1024  # of a piece of work: their numbers stay in a cache
_FILLING: Final = 8  # rows that are multiplied in the time that it takes to split a panel

_TRUNCATED, _NEAREST, _FLOORED, _GROUPED, _DIRECTED, _CHOPPED, _CROWDED = range(7)
_GUARDED: Final = (_DIRECTED, _CHOPPED, _CROWDED)  # kinds that refuse some first accumulators
_ADDING: Final = {
    _TRUNCATED: add_truncated,
    _NEAREST: add_nearest,
    _FLOORED: add_floored,
    _GROUPED: add_grouped,
    _DIRECTED: directed_blocks.add_directed,
    _CHOPPED: directed_blocks.add_chopped,
    _CROWDED: directed_blocks.add_chopped_crowded,
}
_PREPARING_PAIRS: Final = (prepare_pair, prepare_scaled_pair)


class _CommonFacts(Protocol):
    """What is to be known of every unit."""

    def __hash__(self) -> int: ...

    @property
    def format(self) -> FormatFacts: ...
    @property
    def rounding(self) -> RoundingFacts: ...
    @property
    def input_formats(self) -> tuple[FormatFacts | None, FormatFacts | None]: ...
    @property
    def block(self) -> int: ...
    @property
    def fraction_bits(self) -> int: ...


class CoreFacts(_CommonFacts, Protocol):
    """What is to be known of a unit that truncates or rounds once a block."""

    @property
    def exponent_floor(self) -> int | None: ...
    @property
    def initial_format(self) -> FormatFacts: ...
    @property
    def order(self) -> tuple[int, ...] | None: ...
    @property
    def group(self) -> int: ...


class FlooredFacts(_CommonFacts, Protocol):
    """What is to be known of CDNA3's."""

    @property
    def sum_fraction_bits(self) -> int: ...
    @property
    def result_fraction_bits(self) -> int: ...
    @property
    def halves(self) -> bool: ...
    @property
    def reach(self) -> int | None: ...


class Unit(NamedTuple):
    """A unit in narrow lanes."""

    kind: int
    shape: Shape
    leasts: tuple[tuple[int, int], tuple[int, int]]  # of numbers and of scales, by operand
    order: tuple[int, ...]  # of a run of terms


class Scales(NamedTuple):
    """What the numbers of both operands are multiplied by, a scale for so many terms."""

    left: NDArray[Any]  # (batch, m, blocks)
    right: NDArray[Any]  # (batch, blocks, n)
    each: int


class _Left(NamedTuple):
    """A left operand: its numbers and their exponents, (batch, m, k) in whole blocks.

    Of groups there are exponents and masks, (batch, m, groups, 2).  Where sums are directed, blocks
    come before rows, and a number has two words, see :mod:`fpemu._kernels.directed_blocks`.
    """

    values: Any  # float32
    exponents: Any  # int16, of groups and directed sums int32


class _Plan(NamedTuple):
    """How a product is taken."""

    rows: int  # of the result, in a piece
    steps: int  # of the operands
    whole: int  # steps, with what fills blocks up
    each: int  # terms that share a scale
    run: int  # terms of an order
    row_stride: int  # of the left operand
    block_stride: int
    leasts: tuple[int, int]
    scaled: bool
    guarded: bool  # whether some first accumulators are refused
    prepare: int  # the address of the part that splits terms
    add: int  # and of that which adds blocks


class _Work(NamedTuple):
    """What a thread works in."""

    accumulators: Any  # float32, those of a piece and a row that is not used
    sums: Any  # float64
    raw: Any  # float32, terms of a panel as they are
    scales: Any
    values: Any  # and in the order of the unit, times their scales
    # One after the other: int16 of pairs of terms, (terms / 2, COLUMNS, 2); int32 of groups,
    # (groups, 2, COLUMNS); int8 where sums are directed.
    exponents: Any
    order: Any  # where the terms that are at hand come from


# --- units ----------------------------------------------------------------------------------------


def _to_infinity(rounding: RoundingFacts) -> bool:
    return rounding.overflow == "infinity" or (
        rounding.overflow == "ieee" and rounding.mode == "rne"
    )


def _bits_of(formats: tuple[FormatFacts, FormatFacts], scale: FormatFacts | None) -> int:
    """The bits of a product, scales included."""
    return sum(format.precision + (0 if scale is None else scale.precision) for format in formats)


def _group_fits(
    core: CoreFacts, formats: tuple[FormatFacts, FormatFacts], scale: FormatFacts | None
) -> bool:
    """Whether float32 holds the sum of a group."""
    most = math.prod(round(x.max_finite / x.smallest_subnormal) for x in formats)
    scale_bits = 0 if scale is None else 2 * scale.precision
    return (
        scale is not None
        and core.group <= _LONGEST_GROUP
        and core.rounding.mode == "rtz"
        and core.order is None
        and (core.group * most).bit_length() + scale_bits <= _FLOAT32_PRECISION
    )


def _toward_zero(
    core: CoreFacts,
    formats: tuple[FormatFacts, FormatFacts],
    scale: FormatFacts | None,
    toward_zero: bool,
) -> int:
    """The kind of a unit that truncates; `toward_zero` tells whether multiply-adds round so."""
    plain = (
        core.format.max_finite >= 2.0**127
        and core.initial_format.emin <= directed_blocks.LEAST_EXPONENT
        and (core.exponent_floor is None or core.exponent_floor <= LOWEST)
    )
    exponents = [(each.emin, each.emax) for each in formats]
    fits = directed_blocks.fits(core.block, core.fraction_bits, exponents)
    if plain and scale is None and toward_zero and fits:
        return _DIRECTED
    largest = 4 * core.block * 2**core.fraction_bits
    if plain and largest <= 2**31:
        return _CHOPPED if largest + 2 * 2**core.fraction_bits <= 2**31 else _CROWDED
    return _TRUNCATED


def unit_of(core: CoreFacts, scale: FormatFacts | None) -> Unit | None:
    """A tensor core, whose scales have a format; None if narrow lanes cannot hold its blocks.

    They end a block by truncation in a format of float32's exponents, where no result is subnormal
    that is not exact, or by rounding to nearest, either with infinities beyond the largest number.
    """
    return _unit_of(core, scale, directed_blocks.are_there())


@functools.lru_cache(maxsize=256)  # to find it takes as long as a product of a row
def _unit_of(core: CoreFacts, scale: FormatFacts | None, toward_zero: bool) -> Unit | None:
    format, rounding = core.format, core.rounding
    formats = _both(core.input_formats)
    grouped = core.group > 1
    kind = _NEAREST
    if grouped:
        kind = _GROUPED
    elif rounding.mode == "rtz":
        kind = _toward_zero(core, formats, scale, toward_zero)
    fits = (
        (rounding.mode == "rne" or (rounding.mode == "rtz" and format.emin == _FLOAT32_EMIN))
        and _to_infinity(rounding)
        and format.infinities
        and format.subnormals
        and format.precision <= _FLOAT32_PRECISION
        and format.emin >= _FLOAT32_EMIN
        and format.emax <= -_FLOAT32_EMIN + 1
        and _bits_of(formats, scale) <= _PRODUCT_BITS
    )
    if grouped:
        fits = fits and _group_fits(core, formats, scale)
    else:
        fits = fits and core.block % 2 == 0 and core.fraction_bits <= _MOST_FRACTION_BITS
    if not fits:
        return None
    dropped = 53 - format.precision
    floor = 2 * LOWEST if core.exponent_floor is None else core.exponent_floor
    shape = _shape(
        block=core.block,
        part=min(core.block, _terms_within_int32(core.fraction_bits)),
        group=core.group,
        fraction_bits=core.fraction_bits,
        floor=max(floor, directed_blocks.LEAST_EXPONENT if kind == _DIRECTED else 2 * LOWEST),
        highest=HIGHEST - (_FLOAT32_PRECISION if grouped else 0),
        initial_least=core.initial_format.emin,
        kept=-(2 ** ((_FLOAT32_PRECISION if kind in _GUARDED else 53) - format.precision)),
        least_field=(format.emin + 1023) << 52,
        shift=(dropped << 52) + 2**51,
        largest=int(np.float32(format.max_finite).view(np.int32)),
    )
    return Unit(kind, shape, _leasts(formats, scale), core.order or (0,))


@functools.lru_cache(maxsize=256)
def floored_unit(core: FlooredFacts) -> Unit | None:
    """CDNA3's; None if narrow lanes cannot hold its blocks."""
    formats = _both(core.input_formats)
    bits, sum_bits, kept = core.fraction_bits, core.sum_fraction_bits, core.result_fraction_bits
    part = core.block // 2 if core.halves else core.block
    fits = (
        core.rounding.mode == "rne"
        and _to_infinity(core.rounding)
        and part % 2 == 0
        and 2 * part <= _terms_within_int32(bits)
        and _bits_of(formats, None) <= _PRODUCT_BITS
        and min(bits, kept) >= _FLOAT32_PRECISION - 1
        and kept <= 52
        # What is below the smallest normal number is a multiple of the last bit that is kept there.
        and kept - _FLOAT32_EMIN + LOWEST >= max(bits, sum_bits)
    )
    if not fits:
        return None
    shape = _shape(
        block=core.block,
        part=part,
        fraction_bits=bits,
        sum_bits=sum_bits,
        lost=2 ** (52 - kept) - 1,
        reach=2**16 if core.reach is None else core.reach,
    )
    halves = (*range(0, core.block, 2), *range(1, core.block, 2))
    return Unit(_FLOORED, shape, _leasts(formats, None), halves if core.halves else (0,))


def _shape(**given: int) -> Shape:
    """A shape; what a kind of block does not ask for is 0."""
    return Shape(**{**dict.fromkeys(Shape._fields, 0), "group": 1, "highest": HIGHEST, **given})


def _terms_within_int32(fraction_bits: int) -> int:
    """How many truncated products and an accumulator have a sum within int32, in whole pairs."""
    return int(2 ** max(29 - fraction_bits, 0) - 1) // 2 * 2


def _both(formats: tuple[FormatFacts | None, FormatFacts | None]) -> Any:
    assert None not in formats
    return formats


def _leasts(formats: tuple[FormatFacts, FormatFacts], scale: FormatFacts | None) -> Any:
    """The least exponents of numbers and of scales, by operand."""
    return tuple((format.emin, 0 if scale is None else scale.emin) for format in formats)


# --- operands -------------------------------------------------------------------------------------


@inline
def _scale_field(scale: float, least: int) -> Any:
    """The biased exponent of a float32 scale, at least that of `least`."""
    field = words.bit_and(words.shift_right(words.word(scale), 23), 255)
    return words.maximum(field, np.uint32(least + 127))


@numba.njit(inline="always")
def _scaled_row(x, scales, each, values, batch, row):  # type: ignore[no-untyped-def]
    """A row of numbers times their scales; whether there is one that narrow lanes do not hold."""
    steps = x.shape[2]
    greatest, lost = np.uint32(0), np.uint32(0)
    for first in range(0, steps, each):
        scale = scales[batch, row, first // each]
        for s in range(first, min(first + each, steps)):
            number = x[batch, row, s]
            value = number * scale
            values[batch, row, s] = value
            magnitude = words.bit_and(words.word(value), 0x7FFFFFFF)
            greatest = words.maximum(greatest, magnitude)
            # A product is exact unless it is subnormal.
            doubtful = (magnitude < np.uint32(0x00800000)) & (value != number)
            lost = words.bit_or(lost, np.uint32(1) if doubtful else np.uint32(0))
    for s in range(steps, values.shape[2]):
        values[batch, row, s] = 0.0
    return (greatest >= np.uint32(0x7F800000)) | (lost != 0)


@caching.kernel
def _split_rows(start, stop, x, scales, each, group, leasts, left, strange):  # type: ignore[no-untyped-def]
    """Rows of a left operand; `strange` tells those with a number that narrow lanes do not hold."""
    values, exponents = left.values, left.exponents
    _, rows, steps = x.shape
    for index in range(start, stop):
        batch = index // rows
        row = index - batch * rows
        strange[batch, row] = _scaled_row(x, scales, each, values, batch, row)
        for first in range(0, steps, each):
            bias = words.subtract(_scale_field(scales[batch, row, first // each], leasts[1]), 254)
            for s in range(first, min(first + each, steps)):
                field = _scale_field(x[batch, row, s], leasts[0])
                exponent = words.add(field, bias) if values[batch, row, s] != 0.0 else _ZERO_WORD
                exponents[batch, row, s] = np.int16(exponent)
        for s in range(steps, values.shape[2]):
            exponents[batch, row, s] = ZERO


@caching.kernel
def _group_rows(start, stop, x, scales, each, group, leasts, left, strange):  # type: ignore[no-untyped-def]
    """The same, in groups with common scales: their exponents, and what of them is not zero."""
    values, exponents = left.values, left.exponents
    _, rows, steps = x.shape
    for index in range(start, stop):
        batch = index // rows
        row = index - batch * rows
        strange[batch, row] = _scaled_row(x, scales, each, values, batch, row)
        for first in range(0, values.shape[2], group):
            field, mask = np.uint32(0), np.uint32(0)
            if first < steps:
                field = _scale_field(scales[batch, row, first // each], leasts[1])
            for i in range(group):
                bit = words.shift_left(np.uint32(1), np.uint32(i))
                some = values[batch, row, first + i] != 0.0
                mask = words.bit_or(mask, bit if some else np.uint32(0))
            exponents[batch, row, first // group, 0] = np.int32(words.subtract(field, 127))
            exponents[batch, row, first // group, 1] = np.int32(mask)


@caching.kernel
def _directed_rows(start, stop, x, scales, each, group, leasts, left, strange):  # type: ignore[no-untyped-def]
    """The same for sums that are directed, block by block."""
    values, exponents = left.values, left.exponents
    _, rows, steps = x.shape
    blocks, block = values.shape[1], values.shape[3]
    for index in range(start, stop):
        batch = index // rows
        row = index - batch * rows
        greatest = np.uint32(0)
        for number in range(blocks):
            first = number * block
            to, codes = values[batch, number, row], exponents[batch, number, row]
            inside = min(block, steps - first)
            for i in range(inside):
                value = x[batch, row, first + i]
                magnitude = words.bit_and(words.word(value), 0x7FFFFFFF)
                greatest = words.maximum(greatest, magnitude)
                code = words.subtract(_scale_field(value, leasts[0]), 128)
                code = directed_blocks.ZERO_BYTE if magnitude == 0 else words.bit_and(code, 255)
                code = words.bit_or(code, words.shift_left(code, 8))
                code = words.bit_or(code, words.shift_left(code, 16))
                to[i] = value
                codes[0, i] = np.int32(code)
                codes[1, i] = words.bit_and(words.shift_right(words.word(value), 25), COLUMNS)
            for i in range(inside, block):
                to[i] = 0.0
                codes[0, i] = directed_blocks.ZERO_WORD
                codes[1, i] = 0
        strange[batch, row] = greatest >= np.uint32(0x7F800000)


_SPLITTING: Final = {_GROUPED: _group_rows, _DIRECTED: _directed_rows}


def _whole(steps: int, unit: Unit) -> int:
    """So many terms and what fills up runs of an order, and blocks."""
    for length in (len(unit.order), unit.shape.block):
        steps += -steps % length
    return steps


def _split(
    operands: Operands, scales: Scales | None, unit: Unit
) -> tuple[_Left, NDArray[np.bool_]]:
    """The left operand in whole blocks, and which of its rows narrow lanes do not hold."""
    order, shape, x = unit.order, unit.shape, operands.a
    if len(order) > 1:
        x = in_order(x, order, 2, len(order))
    batch, rows, steps = x.shape
    whole = _whole(steps, unit)
    exponents: Any
    numbers: tuple[int, ...] = (batch, rows, whole)
    if unit.kind == _DIRECTED:
        numbers = (batch, whole // shape.block, rows, shape.block)
        exponents = aligned((*numbers[:3], 2, shape.block), np.int32)
    elif unit.kind == _GROUPED:
        exponents = aligned((batch, rows, whole // shape.group, 2), np.int32)
    else:
        exponents = aligned(numbers, np.int16)
    left = _Left(aligned(numbers, np.float32), exponents)
    strange = np.zeros((batch, rows), np.bool_)
    launching.run(
        _SPLITTING.get(unit.kind, _split_rows),
        strange.size,
        read_only(x, np.float32),
        read_only(np.ones((batch, rows, 1)) if scales is None else scales.left, np.float32),
        max(steps, 1) if scales is None else scales.each,
        shape.group,
        unit.leasts[0],
        left,
        strange,
        cost=_SPLIT_COST * steps,
    )
    return left, strange


# --- products -------------------------------------------------------------------------------------


@numba.njit(inline="always")
def _fill_in(raw, right, batch, panel, first, stop, last):  # type: ignore[no-untyped-def]
    """Fill the rows of a panel with terms ``first`` to ``stop``, and with zeros to ``last``."""
    if first < stop:
        fill(raw, right, batch, panel, first, stop)
    for row in range(max(stop - first, 0), last - first):
        for j in range(COLUMNS):
            raw[row, j] = 0.0


# --- parts of the kernel --------------------------------------------------------------------------

_INDEX: Final = types.intp
_NUMBERS: Final = tuple(types.Array(types.float32, n, "C") for n in (1, 2, 3))
_LEASTS: Final = types.UniTuple(_INDEX, 2)
_SHAPE: Final = types.NamedUniTuple(_INDEX, len(Shape._fields), Shape)
# The types of exponents of the left operand and of the right one.
_EXPONENTS: Final = {_GROUPED: (types.int32, types.int32), _DIRECTED: (types.int32, types.int8)}
_PAIRS_OF_EXPONENTS: Final = types.int16, types.int16

_call_to_prepare: Final = parts.calling(9)
_call_to_add: Final = parts.calling(16)

# What a part is made for.
add_block: Any = None
prepare: Any = None
grouped: Any = None
directed: Any = None
scaled: Any = None


@functools.cache
def _preparing(kind: int, scaled: bool) -> Part:
    """The part that splits terms of a panel as blocks of a kind take them.

    ``f(raw, scales, values, exponents, order, terms, each, group, leasts)``: so many terms, of
    which `each` have a scale.  It returns whether there is a number that lanes do not hold.
    """
    grouped, directed = kind == _GROUPED, kind == _DIRECTED
    function = _prepare_part(grouped, directed, scaled)
    _, exponents = _EXPONENTS.get(kind, _PAIRS_OF_EXPONENTS)
    return parts.compiled(
        function,
        *(_NUMBERS[1], _NUMBERS[1], _NUMBERS[2], types.Array(exponents, 1, "C")),
        *(types.Array(types.int64, 1, "C"), _INDEX, _INDEX, _INDEX, _LEASTS),
    )


@functools.cache
def _prepare_part(grouped: bool, directed: bool, scaled: bool) -> Any:
    return caching.specialized(
        _prepare,
        is_part=True,
        known_as=f"{grouped}-{directed}-{scaled}",
        prepare=directed_blocks.prepare_signed if directed else _PREPARING_PAIRS[scaled],
        grouped=grouped,
        directed=directed,
        scaled=scaled,
    )


def _prepare(raw, scales, values, exponents, order, terms, each, group, leasts):  # type: ignore[no-untyped-def]
    arrays = raw, scales, values, exponents  # made once, as every array in a tuple is counted
    strange = False
    if grouped:
        for g in range(terms // group):
            of_group = g * group, group, g * group // each, g
            strange |= prepare_group(arrays, of_group, leasts)
    elif directed:
        for q in range(terms):
            strange |= prepare(arrays, (order[q], q), leasts)
    else:
        for q in range(terms // 2):
            one, other = order[2 * q], order[2 * q + 1]
            scale, other_scale = 0, 0
            if scaled:
                scale, other_scale = one // each, other // each
            strange |= prepare(arrays, (one, other, scale, other_scale, q), leasts)
    return np.int64(strange)


@functools.cache
def _adding(kind: int) -> Part:
    """The part that adds blocks of a kind to rows of accumulators.

    ``f(left, left_exponents, right, right_exponents, accumulators, sums, lengths, doubtful, top,
    count, column, blocks, terms, row_stride, block_stride, shape)``: so many blocks, of which the
    first begins at `terms` in the left operand, to `count` rows from `top` on.
    """
    of_left, of_right = _EXPONENTS.get(kind, _PAIRS_OF_EXPONENTS)
    function = caching.specialized(
        _add,
        is_part=True,
        known_as=str(kind),
        add_block=_ADDING[kind],
        directed=kind == _DIRECTED,
    )
    return parts.compiled(
        function,
        *(_NUMBERS[0], types.Array(of_left, 1, "C")),
        *(_NUMBERS[2], types.Array(of_right, 1, "C")),
        *(_NUMBERS[1], types.Array(types.float64, 2, "C")),
        *(types.Array(types.int64, 1, "C", readonly=True), types.Array(types.boolean, 1, "C")),
        *[_INDEX] * 7,
        _SHAPE,
    )


def _add(  # type: ignore[no-untyped-def]
    left, left_exponents, right, right_exponents, accumulators, sums, lengths, doubtful,
    top, count, column, blocks, terms, row_stride, block_stride, shape,
):  # fmt: skip
    arrays = left, left_exponents, right, right_exponents, accumulators, sums
    if directed:  # blocks alone compute with numbers until it turns back
        rounding = turn_toward_zero()
    for number in range(blocks):
        for r in range(0, count, 2):
            # A row without a neighbor is advanced twice, once for nothing.
            other = min(r + 1, count - 1)
            if max(lengths[top + r], lengths[top + other]) <= column:
                continue
            place = (
                terms + (top + r) * row_stride,
                terms + (top + other) * row_stride,
                number * shape.block,
                r * COLUMNS,
                (other if other > r else count) * COLUMNS,
            )
            if add_block(arrays, place, shape):
                doubtful[top + r] = True
                doubtful[top + other] = True
        terms += block_stride
    if directed:
        turn_back(rounding)
    return 0


# --- the kernel -----------------------------------------------------------------------------------


@functools.cache
def _kernel(to_prepare: str, to_add: str) -> Callable[..., None]:
    """The kernel by parts that take this; it marks rows that it leaves in `doubtful`."""

    @caching.kernel
    def narrow_range(  # type: ignore[no-untyped-def]
        start, stop, work, left, right, scales, initial, lengths, out, doubtful, shape, plan
    ):
        rows, steps = out.shape[1], plan.whole
        acc, raw, panel_scales = work.accumulators, work.raw, work.scales
        block, depth, each = shape.block, raw.shape[0], plan.each
        panels = (out.shape[2] + COLUMNS - 1) // COLUMNS
        parts = (rows + plan.rows - 1) // plan.rows
        for index in range(start, stop):
            stack, p = index // panels, index % panels
            batch, column = stack // parts, p * COLUMNS
            top = (stack - batch * parts) * plan.rows
            count = min(plan.rows, rows - top)
            if column >= longest(lengths, top, top + count):
                continue
            for r in range(count + 1):
                for j in range(COLUMNS):
                    acc[r, j] = 0.0
            if initial.size > 0:
                for r in range(count):
                    refused = False
                    for j in range(min(COLUMNS, lengths[top + r] - column)):
                        given = initial[batch, top + r, column + j]
                        if plan.guarded:
                            size = abs(given)
                            held = (size >= directed_blocks.LEAST) & (
                                size < directed_blocks.GREATEST
                            )
                            refused |= not (held | (size == 0.0))
                            given = given if held else 0.0  # no doubts for the row beside it
                        acc[r, j] = given
                    if refused:
                        doubtful[batch, top + r] = True
            strange = 0
            for origin in range(0, steps, depth):
                last = min(origin + depth, steps)
                runs = min((last - origin + plan.run - 1) // plan.run * plan.run, depth)
                inside = min(origin + runs, plan.steps)
                _fill_in(raw, right, batch, p, origin, inside, origin + runs)
                if plan.scaled:
                    blocks = (inside + each - 1) // each
                    _fill_in(
                        panel_scales, scales, batch, p, origin // each, blocks,
                        (origin + runs + each - 1) // each,
                    )  # fmt: skip
                strange |= _call_to_prepare(
                    plan.prepare, to_prepare, raw, panel_scales, work.values, work.exponents,
                    work.order, last - origin, each, shape.group, plan.leasts,
                )  # fmt: skip
                _call_to_add(
                    plan.add, to_add, left.values, left.exponents, work.values, work.exponents,
                    acc, work.sums, lengths, doubtful[batch], top, count, column,
                    (last - origin) // block,
                    batch * rows * steps + origin // block * plan.block_stride,
                    plan.row_stride, plan.block_stride, shape,
                )  # fmt: skip
            for r in range(count):
                if strange != 0:
                    doubtful[batch, top + r] = True
                for j in range(min(COLUMNS, lengths[top + r] - column)):
                    out[batch, top + r, column + j] = acc[r, j]

    return cast(Callable[..., None], narrow_range)


def _workspace(rows: int, unit: Unit, each: int) -> _Work:
    """What a thread works in."""
    shape, run = unit.shape, len(unit.order)
    step = math.lcm(shape.block, run, each)
    depth = step * max(1, _DEPTH // step)
    if unit.kind == _DIRECTED:
        exponents = aligned((depth, COLUMNS), np.int8)
    elif shape.group > 1:
        exponents = aligned((depth // shape.group, 2, COLUMNS), np.int32)
    else:
        exponents = aligned((depth // 2, COLUMNS, 2), np.int16)
    sums = np.zeros((max(2 * ROWS * 2, shape.block // shape.group), COLUMNS))
    begin_parts(sums)
    return _Work(
        accumulators=aligned((rows + 1, COLUMNS), np.float32),
        sums=sums,
        raw=aligned((depth, COLUMNS), np.float32),
        scales=aligned((depth // each, COLUMNS), np.float32),
        values=aligned((depth, 2 if unit.kind == _DIRECTED else 1, COLUMNS), np.float32),
        exponents=exponents.reshape(-1),
        order=(np.arange(0, depth, run)[:, None] + np.array(unit.order)).reshape(-1),
    )


def product(
    operands: Operands, scales: Scales | None, unit: Unit
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The product of a matrix unit, and the rows of which it is not known.

    Parameters
    ----------
    operands : Operands
        Float32 numbers.
    scales : Scales or None
    unit : Unit

    Returns
    -------
    tuple of ndarray, shape (batch, m, n), and ndarray of bool, shape (batch, m)
    """
    left, doubtful = _split(operands, scales, unit)
    out = np.zeros(operands.shape, np.float32)
    rows, count, cost = pieces(operands, most=_MOST_ROWS, filling=_FILLING, cost=_COST)
    each = 1 if scales is None else scales.each
    block = unit.shape.block
    whole = _whole(operands.steps, unit)
    strides = (whole, block)
    if unit.kind == _DIRECTED:
        strides = (block, operands.shape[1] * block)
    prepare, add = _preparing(unit.kind, scales is not None), _adding(unit.kind)
    launching.run(
        _kernel(prepare.takes, add.takes),
        count,
        _Left(left.values.reshape(-1), left.exponents.reshape(-1)),
        source_of(operands.b, _FLOAT32),
        source_of(np.zeros((1, 1, 1)) if scales is None else scales.right, _FLOAT32),
        operands.initial_as(np.float32),
        read_only(operands.row_lengths, np.int64),
        out,
        doubtful,
        unit.shape,
        _Plan(
            *(rows, operands.steps, whole, each, len(unit.order), *strides, unit.leasts[1]),
            scaled=scales is not None,
            guarded=unit.kind in _GUARDED,
            prepare=prepare.address,
            add=add.address,
        ),
        cost=cost,
        workspace=lambda: _workspace(min(rows, operands.shape[1]), unit, each),
    )
    return out, doubtful
