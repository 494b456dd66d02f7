"""The code of a block of a tensor core in narrow lanes, as vectors of 16 columns.

A block's products are scaled so that its largest exponent E becomes ``2**fraction_bits``, and
truncated; what is left are integers.  In narrow lanes every step is exact but that truncation:

- Exponents of float32 numbers are small integers.  A zero's is so far below that the sum of two,
  one of them a zero's, still tells that the product is zero.
- A product has at most 24 bits, and where it is not truncated to zero it lies above ``2**(E - F)``.
  With E in ``_LOWEST .. _HIGHEST`` neither overflows in float32, nor do the last bits of the one
  that counts go below ``2**-149``; what does is truncated to zero either way.
- A power of two is a float32 number, so that scaling is exact; where it underflows the result is
  truncated to zero.
- A truncated product is below ``2**(F + 2)``, an accumulator below ``2**(F + 1)``: as many as
  ``2**(29 - F) - 1`` products and an accumulator have a sum within int32.  Sums of longer blocks
  are taken in parts, which are added in float64.

Blocks with other exponents are doubtful: their rows are for the kernel in float64.

A **floored** block (CDNA3) ends in float64, of which every step is exact: the sum of the products,
in int32, and the accumulator become integers by a scale and a floor, and the sum t of these loses
the bits of its word behind `result_fraction_bits`, a negative one after all of them are added.
That is the floor behind t's own exponent; if it is below -126, where the unit floors behind that,
nothing is lost either way, as t is a multiple of ``2**(_LOWEST - 32)``.

A **grouped** block (mxf4nvf4) has sums of few bits, which float32 holds exactly; they are scaled,
truncated and added in float64.  Each group's exponent stands beside a mask of the elements that are
not zero: two masks with a bit in common tell that a product is not zero.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from fpemu._kernels.directions import call_apart
from fpemu._kernels.panels import COLUMNS, MANY_REGISTERS, TILE_COLUMNS
from fpemu._kernels.vectors import (
    DOUBLES,
    FLOATS,
    INT32,
    INT64,
    INTS,
    LANES,
    LONGS,
    PAIRS,
    Vectors,
    data_of,
    every,
)

__all__ = [
    "HIGHEST",
    "LOWEST",
    "NONE",
    "ROWS",
    "TILE_GROUPS",
    "ZERO",
    "Block",
    "Operand",
    "Shape",
    "add_floored",
    "add_grouped",
    "add_nearest",
    "add_truncated",
    "adding",
    "arrays_of",
    "begin_parts",
    "prepare_group",
    "prepare_pair",
    "prepare_scaled_pair",
]

LOWEST: Final = -95
HIGHEST: Final = 125
"""Between these lies the largest exponent of blocks that are not doubtful."""

ZERO: Final = -(2**14)
"""The exponent of a zero: two have the sum of the least int16."""

NONE: Final = -1000
"""Above all sums with the exponent of a zero, below all others."""

ROWS: Final = 2
"""Rows of accumulators that a call advances."""

TILE_GROUPS: Final = TILE_COLUMNS // LANES
"""Vectors of columns that are advanced together, so that registers hold their sums and scales."""

_TILE_ROWS: Final = ROWS if MANY_REGISTERS else 1  # that are advanced together

_NOT_FINITE: Final = 128  # the exponent of infinity and NaN
_LEAST: Final = -(2**15)  # the exponent of products if all of them are zero
_EMIN: Final = -126
_WORDS: Final = 2 * _TILE_ROWS * TILE_COLUMNS  # of a part: sums and exponents
_FLAGS: Final = ir.VectorType(ir.IntType(1), LANES)
_MAGNITUDE: Final = 2**31 - 1
_SMALLEST_NORMAL: Final = 0x00800000
_INFINITY: Final = 0x7F800000


class Shape(NamedTuple):
    """A unit, as far as its blocks need to know it."""

    block: int
    part: int  # terms that are summed in int32, beside an accumulator or without
    group: int  # terms that are summed exactly
    fraction_bits: int
    floor: int  # the least exponent that terms are aligned to
    highest: int  # the greatest of a block that is not doubtful
    initial_least: int  # the exponent of a subnormal accumulator
    kept: int  # the bits of a float64 number that truncation keeps
    least_field: int  # the bits of the format's smallest normal number in float64
    shift: int  # what makes a power of two, added to a number, round it to the format
    largest: int  # the bits of the largest number in float32
    sum_bits: int  # floored: fraction bits of the sum of the products
    lost: int  # floored: the bits of a float64 number behind those of the result
    reach: int  # floored: how far below the products an accumulator still counts


# --- operands -------------------------------------------------------------------------------------


class Operand:
    """The code that splits numbers of a right operand into what blocks read."""

    def __init__(self, builder: ir.IRBuilder, raw: ir.Value, values: ir.Value) -> None:
        self.vectors, self.builder = Vectors(builder), builder
        self.raw, self.values = raw, values

    def numbers(
        self, place: ir.Value, to: ir.Value, scale: ir.Value | None
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Numbers, what they are times their scales, and the bits of the magnitudes of these.

        The products are stored.  Of one that lanes do not hold the bits are at least infinity's.
        """
        builder = self.builder
        x = self.vectors.load(self.raw, place, FLOATS)
        value = x if scale is None else builder.fmul(x, scale)
        magnitude = builder.and_(builder.bitcast(value, INTS), every(INTS, _MAGNITUDE))
        if scale is not None:  # a product is exact unless it is subnormal
            small = builder.icmp_unsigned("<", magnitude, every(INTS, _SMALLEST_NORMAL))
            changed = builder.fcmp_unordered("!=", value, x)
            lost = builder.and_(small, changed)
            magnitude = builder.select(lost, every(INTS, _MAGNITUDE), magnitude)
        self.vectors.store(value, self.values, to)
        return x, value, magnitude

    def is_strange(self, magnitude: ir.Value) -> ir.Value:
        """Whether lanes do not hold one of the numbers whose greatest magnitudes these are."""
        infinity = every(INTS, _INFINITY)
        return self.vectors.any(self.builder.icmp_unsigned(">=", magnitude, infinity))

    def is_not_zero(self, x: ir.Value) -> ir.Value:
        return self.builder.fcmp_unordered("!=", x, ir.Constant(FLOATS, None))

    def exponent(self, x: ir.Value, least: ir.Value) -> ir.Value:
        """That of finite numbers, at least `least`."""
        builder = self.builder
        field = builder.lshr(builder.bitcast(x, INTS), every(INTS, 23))
        field = builder.and_(field, every(INTS, 255))
        return self.vectors.larger(builder.sub(field, every(INTS, 127)), least)


def arrays_of(context: Any, builder: ir.IRBuilder, kind: Any, values: Any) -> list[ir.Value]:
    """Pointers to the data of a tuple of arrays."""
    members = cgutils.unpack_tuple(builder, values)
    return [
        data_of(context, builder, each, value)
        for each, value in zip(kind.types, members, strict=True)
    ]


def _preparing_pair(*, scaled: bool) -> Any:
    """An intrinsic that splits two rows of a panel, of which one follows the other in a block.

    ``f((raw, scales, values, exponents), (first, second, scale, second_scale, pair), leasts)`` puts
    two rows of `raw`, times rows of `scales` if `scaled`, into those of `values` that follow each
    other, and their exponents into the pair.  Returns whether lanes do not hold a number.
    """

    def typed(_typing_context, arrays, rows, leasts):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            raw, scales, values, exponents = arrays_of(
                context, builder, signature.args[0], arguments[0]
            )
            columns = INT64(COLUMNS)
            rows = [
                builder.mul(row, columns) for row in cgutils.unpack_tuple(builder, arguments[1])
            ]
            operand = Operand(builder, raw, values)
            vectors = operand.vectors
            least, least_scale = (
                vectors.spread(builder.trunc(each, INT32))
                for each in cgutils.unpack_tuple(builder, arguments[2])
            )
            pair = builder.shl(rows[4], INT64(1))

            def split(lane: ir.Value, which: int) -> tuple[ir.Value, ir.Value]:
                scale = None
                if scaled:
                    scale = vectors.load(scales, builder.add(rows[2 + which], lane), FLOATS)
                to = builder.add(builder.add(pair, INT64(COLUMNS * which)), lane)
                x, value, magnitude = operand.numbers(builder.add(rows[which], lane), to, scale)
                exponent = operand.exponent(x, least)
                if scale is not None:
                    exponent = builder.add(exponent, operand.exponent(scale, least_scale))
                is_zero = builder.not_(operand.is_not_zero(value))
                return builder.select(is_zero, every(INTS, ZERO), exponent), magnitude

            def body(lane: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
                (first, one), (second, other) = (split(lane, which) for which in range(2))
                lower = builder.and_(first, every(INTS, 2**16 - 1))
                both = builder.or_(lower, builder.shl(second, every(INTS, 16)))
                vectors.store(both, exponents, builder.add(pair, builder.shl(lane, INT64(1))))
                return [vectors.larger(old[0], vectors.larger(one, other))]

            nothing = [ir.Constant(INTS, None)]
            (greatest,) = vectors.loop(INT64(0), columns, LANES, nothing, body)
            return operand.is_strange(greatest)

        return types.boolean(arrays, rows, leasts), generate

    return intrinsic(typed)


prepare_pair, prepare_scaled_pair = _preparing_pair(scaled=False), _preparing_pair(scaled=True)


@intrinsic
def prepare_group(_typing_context, arrays, places, leasts):  # type: ignore[no-untyped-def]
    """An intrinsic that multiplies a group of rows of a panel by their common scales.

    ``f((raw, scales, values, exponents), (first, count, scale, number), leasts)`` reads `count`
    rows of `raw` and one of `scales`.  It writes as many of `values`, and exponents and masks of a
    group.  Returns whether lanes do not hold a number.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        raw, scales, values, exponents = arrays_of(
            context, builder, signature.args[0], arguments[0]
        )
        first, count, scale, number = cgutils.unpack_tuple(builder, arguments[1])
        operand = Operand(builder, raw, values)
        vectors = operand.vectors
        _, least = cgutils.unpack_tuple(builder, arguments[2])
        least = vectors.spread(builder.trunc(least, INT32))
        start = builder.mul(first, INT64(COLUMNS))

        def of_columns(lane: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            row = builder.add(builder.mul(scale, INT64(COLUMNS)), lane)
            given = vectors.load(scales, row, FLOATS)

            def body(step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
                place = builder.add(builder.add(start, builder.mul(step, INT64(COLUMNS))), lane)
                _, value, magnitude = operand.numbers(place, place, given)
                bit = vectors.spread(builder.shl(INT32(1), builder.trunc(step, INT32)))
                bits = builder.select(operand.is_not_zero(value), bit, every(INTS, 0))
                return [builder.or_(old[0], bits), vectors.larger(old[1], magnitude)]

            state = [every(INTS, 0), old[0]]
            mask, greatest = vectors.loop(INT64(0), count, 1, state, body)
            place = builder.add(builder.mul(number, INT64(2 * COLUMNS)), lane)
            vectors.store(operand.exponent(given, least), exponents, place)
            vectors.store(mask, exponents, builder.add(place, INT64(COLUMNS)))
            return [greatest]

        nothing = [ir.Constant(INTS, None)]
        (greatest,) = vectors.loop(INT64(0), INT64(COLUMNS), LANES, nothing, of_columns)
        return operand.is_strange(greatest)

    return types.boolean(arrays, places, leasts), generate


# --- a block --------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a block's terms begin in the arrays of the operands, and accumulators in theirs."""

    left: tuple[ir.Value, ...]  # a row each
    right: ir.Value
    accumulators: tuple[ir.Value, ...]
    column: ir.Value  # the first one of the panel


class _Data(NamedTuple):
    """Pointers to the data of arrays."""

    left: ir.Value
    left_exponents: ir.Value
    right: ir.Value
    right_exponents: ir.Value
    accumulators: ir.Value
    sums: ir.Value


class Block:
    """The code of a block for some rows and columns: vectors of 16 columns, row by row."""

    apart = False  # whether it rounds in another direction, see :mod:`fpemu._kernels.directions`

    def __init__(self, vectors: Vectors, data: _Data, place: _Place, shape: Shape) -> None:
        self.vectors, self.builder = vectors, vectors.builder
        self.data, self.place, self.shape = data, place, shape
        self.places = [
            self._column(row, group) for row in place.accumulators for group in range(TILE_GROUPS)
        ]

    def emit(self) -> ir.Value:
        """Put the rounded sums into the accumulators; return whether one is doubtful."""
        raise NotImplementedError

    def _column(self, start: ir.Value, group: int) -> ir.Value:
        first = self.builder.add(start, self.place.column)
        return self.builder.add(first, INT64(LANES * group))

    def spread_all(self, *numbers: ir.Value) -> list[ir.Value]:
        """Vectors of int32 of 64-bit integers."""
        return [self.vectors.spread(self.builder.trunc(number, INT32)) for number in numbers]

    def largest_exponents(self, first: ir.Value, stop: ir.Value) -> list[ir.Value]:
        """Those of the products of some terms, for every column."""
        builder, vectors, data, place = self.builder, self.vectors, self.data, self.place

        def body(step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            left = [
                builder.bitcast(
                    vectors.spread(
                        vectors.load(data.left_exponents, builder.add(row, step), INT32)
                    ),
                    PAIRS,
                )
                for row in place.left
            ]
            start = builder.mul(builder.add(place.right, step), INT64(COLUMNS))
            start = builder.add(start, builder.shl(place.column, INT64(1)))
            right = [
                vectors.load(
                    data.right_exponents, builder.add(start, INT64(2 * LANES * group)), PAIRS
                )
                for group in range(TILE_GROUPS)
            ]
            sums = [builder.add(a, b) for a in left for b in right]
            return [vectors.larger(a, b) for a, b in zip(old, sums, strict=True)]

        least = [every(PAIRS, _LEAST)] * len(self.places)
        pairs = vectors.loop(first, stop, 2, least, body)
        return [self._larger_of_pair(pair) for pair in pairs]

    def _larger_of_pair(self, pair: ir.Value) -> ir.Value:
        builder, sixteen = self.builder, every(INTS, 16)
        both = builder.bitcast(pair, INTS)
        turned = builder.or_(builder.shl(both, sixteen), builder.lshr(both, sixteen))
        larger = self.vectors.larger(pair, builder.bitcast(turned, PAIRS))
        return builder.ashr(builder.bitcast(larger, INTS), sixteen)

    def exponent_of(self, accumulator: ir.Value, least: ir.Value, zero: int = ZERO) -> ir.Value:
        """That of accumulators; of zeros it is one of its own, by default far below all others."""
        builder = self.builder
        magnitude = builder.and_(builder.bitcast(accumulator, INTS), every(INTS, _MAGNITUDE))
        field = builder.lshr(magnitude, every(INTS, 23))
        exponent = self.vectors.larger(builder.sub(field, every(INTS, 127)), least)
        is_zero = builder.icmp_signed("==", magnitude, every(INTS, 0))
        return builder.select(is_zero, every(INTS, zero), exponent)

    def power(self, exponent: ir.Value) -> ir.Value:
        """``2**exponent`` in float32."""
        biased = self.builder.add(exponent, every(INTS, 127))
        return self.builder.bitcast(self.builder.shl(biased, every(INTS, 23)), FLOATS)

    def wide_power(self, exponent: ir.Value, which: int) -> ir.Value:
        """``2**exponent`` of half of the lanes, in float64."""
        builder = self.builder
        half = builder.sext(self.vectors.half(exponent, which), LONGS)
        biased = builder.add(half, every(LONGS, 1023))
        return builder.bitcast(builder.shl(biased, every(LONGS, 52)), DOUBLES)

    def is_outside(self, largest: ir.Value) -> ir.Value:
        """Whether the largest exponent of what is not zero is out of range."""
        builder = self.builder
        span = builder.sub(self.shape.highest, INT64(LOWEST))
        offset = builder.sub(largest, every(INTS, LOWEST))
        outside = builder.icmp_unsigned(">", offset, *self.spread_all(span))
        known = builder.icmp_signed(">", largest, every(INTS, NONE))
        return builder.and_(outside, known)

    def is_doubtful(self, largest: ir.Value, own: ir.Value) -> ir.Value:
        """The same, beside an accumulator of the exponent `own` that is finite."""
        finite = self.builder.icmp_signed("!=", own, every(INTS, _NOT_FINITE))
        return self.builder.and_(self.is_outside(largest), finite)

    def add_truncated(
        self, first: ir.Value, stop: ir.Value, scales: list[ir.Value], sums: list[ir.Value]
    ) -> list[ir.Value]:
        """Add the scaled and truncated products of a part to sums in int32."""
        builder = self.builder

        def add(step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            return [
                builder.add(sum_, builder.fptosi(builder.fmul(builder.fmul(a, b), scale), INTS))
                for sum_, (a, b), scale in zip(old, self.factors(step), scales, strict=True)
            ]

        def body(step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            return add(builder.add(step, INT64(1)), add(step, old))

        return self.vectors.loop(first, stop, 2, sums, body)

    def factors(self, step: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
        """What is multiplied in a step."""
        builder, vectors, data, place = self.builder, self.vectors, self.data, self.place
        left = [
            vectors.spread(vectors.load(data.left, builder.add(row, step), ir.FloatType()))
            for row in place.left
        ]
        start = builder.mul(builder.add(place.right, step), INT64(COLUMNS))
        right = [
            vectors.load(data.right, self._column(start, group), FLOATS)
            for group in range(TILE_GROUPS)
        ]
        return [(a, b) for a in left for b in right]

    def store(self, number: int, halves: list[ir.Value], *, end: bool = True) -> None:
        """Put results of a vector of columns into place; infinities and NaNs stay as they are.

        At the `end` of a fused block zero sums are positive, and sums that round to zero, and what
        is beyond the largest number is infinite.
        """
        builder, vectors, place = self.builder, self.vectors, self.places[number]
        result = vectors.joined(*halves)
        infinity = every(INTS, _INFINITY)
        if end:
            result = builder.fadd(result, ir.Constant(FLOATS, None))
        word = builder.bitcast(result, INTS)
        if end:
            sign = builder.and_(word, every(INTS, -(2**31)))
            (largest,) = self.spread_all(self.shape.largest)
            beyond = builder.icmp_signed(">", builder.xor(word, sign), largest)
            word = builder.select(beyond, builder.or_(sign, infinity), word)
        old = vectors.load(self.data.accumulators, place, INTS)
        magnitude = builder.and_(old, every(INTS, _MAGNITUDE))
        finite = builder.icmp_signed("<", magnitude, infinity)
        vectors.store(builder.select(finite, word, old), self.data.accumulators, place)

    def narrowed(self, wide: ir.Value) -> ir.Value:
        """Half of the lanes in float32, to nearest."""
        return self.builder.fptrunc(wide, ir.VectorType(ir.FloatType(), LANES // 2))

    def truncated(self, exact: ir.Value) -> ir.Value:
        """Float64 numbers without the bits that the format does not have."""
        word = self.builder.bitcast(exact, LONGS)
        kept = self.vectors.spread(self.shape.kept, LANES // 2)
        return self.builder.bitcast(self.builder.and_(word, kept), DOUBLES)


class _Fused(Block):
    """A block of products and an accumulator that are truncated to one exponent."""

    nearest = False

    def emit(self) -> ir.Value:
        builder, vectors, shape = self.builder, self.vectors, self.shape
        fraction_bits, floor, least = self.spread_all(
            shape.fraction_bits, shape.floor, shape.initial_least
        )
        lowest = vectors.larger(floor, every(INTS, LOWEST))
        scales, sums, ends, doubtful = [], [], [], []
        products = self.largest_exponents(INT64(0), shape.block)
        for place, of_products in zip(self.places, products, strict=True):
            accumulator = vectors.load(self.data.accumulators, place, FLOATS)
            own = self.exponent_of(accumulator, least)
            largest = vectors.larger(of_products, own)
            doubtful.append(self.is_doubtful(largest, own))
            aligned_to = vectors.larger(largest, lowest)
            scales.append(self.power(builder.sub(fraction_bits, aligned_to)))
            ends.append(builder.sub(aligned_to, fraction_bits))
            sums.append(builder.fptosi(builder.fmul(accumulator, scales[-1]), INTS))
        doubt = vectors.any(functools.reduce(builder.or_, doubtful))
        with builder.if_then(builder.not_(doubt), likely=True):
            self._sum_parts(scales, sums)
            for number, end in enumerate(ends):
                self._end(number, end)
        return doubt

    def _sum_parts(self, scales: list[ir.Value], sums: list[ir.Value]) -> None:
        """Leave the sums of all parts in float64."""
        builder, vectors, shape = self.builder, self.vectors, self.shape

        def halves(parts: list[ir.Value]) -> Iterator[tuple[ir.Value, ir.Value]]:
            for number, part in enumerate(parts):
                for which in range(2):
                    wide = builder.sitofp(vectors.half(part, which), DOUBLES)
                    yield self._sum_place(number, which), wide

        for place, number in halves(self.add_truncated(INT64(0), shape.part, scales, sums)):
            vectors.store(number, self.data.sums, place)

        def add_part(first: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            following = builder.add(first, shape.part)
            inside = builder.icmp_signed("<", following, shape.block)
            stop = builder.select(inside, following, shape.block)
            nothing = [ir.Constant(INTS, None)] * len(sums)
            for place, number in halves(self.add_truncated(first, stop, scales, nothing)):
                total = vectors.load(self.data.sums, place, DOUBLES)
                vectors.store(builder.fadd(total, number), self.data.sums, place)
            return []

        with builder.if_then(builder.icmp_signed("<", shape.part, shape.block)):
            vectors.loop(shape.part, shape.block, shape.part, [], add_part)

    def _sum_place(self, number: int, which: int) -> ir.Value:
        return INT64(LANES * number + LANES // 2 * which)

    def _end(self, number: int, end: ir.Value) -> None:
        """Round the sums of a vector of columns."""
        rounded = []
        for which in range(2):
            sum_ = self.vectors.load(self.data.sums, self._sum_place(number, which), DOUBLES)
            exact = self.builder.fmul(sum_, self.wide_power(end, which))
            rounded.append(self.narrowed(self._rounded(exact)))
        self.store(number, rounded)

    def _rounded(self, exact: ir.Value) -> ir.Value:
        """Float64 numbers rounded to the format, but for overflow.

        To nearest: let q be the format's spacing at x.  ``1.5 * 2**52 * q + x`` has that spacing in
        float64, is rounded to a multiple of it, ties to even, and taking the constant off is exact.
        """
        builder, shape, count = self.builder, self.shape, LANES // 2
        if not self.nearest:
            return self.truncated(exact)
        word = builder.bitcast(exact, LONGS)
        field = builder.and_(word, every(LONGS, 0x7FF << 52))
        field = self.vectors.larger(field, self.vectors.spread(shape.least_field, count))
        constant = builder.add(field, self.vectors.spread(shape.shift, count))
        constant = builder.bitcast(constant, DOUBLES)
        return builder.fsub(builder.fadd(exact, constant), constant)


class _FusedToNearest(_Fused):
    nearest = True


class _Floored(Block):
    """A block of CDNA3: one part of products or two, floored with the accumulator."""

    def emit(self) -> ir.Value:
        builder, vectors, shape = self.builder, self.vectors, self.shape
        (fraction_bits,) = self.spread_all(shape.fraction_bits)

        def sum_part(first: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            stop = builder.add(first, shape.part)
            largest = self.largest_exponents(first, stop)
            scales = [
                self.power(builder.sub(fraction_bits, vectors.larger(each, every(INTS, LOWEST))))
                for each in largest
            ]
            nothing = [ir.Constant(INTS, None)] * len(scales)
            sums = self.add_truncated(first, stop, scales, nothing)
            doubt = [*old, *map(self.is_outside, largest)]
            second = builder.icmp_signed(">", first, INT64(0))
            for number, each in enumerate(zip(sums, largest, strict=True)):
                for what, value in enumerate(each):
                    offset = builder.select(second, self._place(1, 0, 0), self._place(0, 0, 0))
                    place = builder.add(offset, self._place(0, what, number))
                    vectors.store(value, self._words(), place)
            return [functools.reduce(builder.or_, doubt)]

        none = ir.Constant(_FLAGS, None)
        (doubtful,) = vectors.loop(INT64(0), shape.block, shape.part, [none], sum_part)
        doubt = vectors.any(doubtful)
        with builder.if_then(builder.not_(doubt), likely=True):
            for number in range(len(self.places)):
                self._end(number)
        return doubt

    def _words(self) -> ir.Value:
        return self.builder.bitcast(self.data.sums, INT32.as_pointer())

    def _place(self, part: int, what: int, number: int) -> ir.Value:
        """Where the sums (0) or the largest exponents (1) of a part are kept, in words."""
        return INT64(((2 * part + what) * len(self.places) + number) * LANES)

    def _end(self, number: int) -> None:
        builder, vectors, shape = self.builder, self.vectors, self.shape
        accumulator = vectors.load(self.data.accumulators, self.places[number], FLOATS)
        own = self.exponent_of(accumulator, every(INTS, _EMIN), _EMIN)
        sums, largest, second_sums, second = (
            vectors.load(self._words(), self._place(part, what, number), INTS)
            for part in range(2)
            for what in range(2)
        )
        products = vectors.larger(largest, second)
        aligned_to = vectors.larger(products, every(INTS, LOWEST))
        total = builder.add(
            self._floored(sums, largest, aligned_to),
            self._floored(second_sums, second, aligned_to),
        )
        reach, fraction_bits, sum_bits = self.spread_all(
            shape.reach, shape.fraction_bits, shape.sum_bits
        )
        counts = builder.icmp_signed(">=", own, builder.sub(products, reach))
        addend = builder.select(counts, accumulator, ir.Constant(FLOATS, None))
        both = vectors.larger(products, own)
        to_sum = builder.add(builder.sub(aligned_to, both), builder.sub(sum_bits, fraction_bits))
        to_addend, back = builder.sub(fraction_bits, both), builder.sub(both, sum_bits)
        self.store(
            number,
            [
                self._sum(
                    vectors.half(total, which),
                    vectors.half(addend, which),
                    *(self.wide_power(each, which) for each in (to_sum, to_addend, back)),
                )
                for which in range(2)
            ],
            end=False,
        )

    def _floored(self, sums: ir.Value, largest: ir.Value, aligned_to: ir.Value) -> ir.Value:
        """The sums of a part in units of another exponent."""
        builder, vectors = self.builder, self.vectors
        of_sums = vectors.larger(largest, every(INTS, LOWEST))
        distance = vectors.smaller(builder.sub(aligned_to, of_sums), every(INTS, 31))
        return builder.ashr(sums, distance)

    def _sum(
        self,
        total: ir.Value,
        addend: ir.Value,
        to_sum: ir.Value,
        to_addend: ir.Value,
        back: ir.Value,
    ) -> ir.Value:
        """The rounded sum of products and accumulators, half of the lanes."""
        builder, vectors, shape, count = self.builder, self.vectors, self.shape, LANES // 2
        products = builder.fmul(builder.sitofp(total, DOUBLES), to_sum)
        products = vectors.call("floor", products)
        addend = builder.fmul(builder.fpext(addend, DOUBLES), to_addend)
        addend = vectors.call("floor", addend)
        unit = builder.add(builder.sub(shape.sum_bits, shape.fraction_bits), INT64(1023))
        unit = builder.bitcast(builder.shl(unit, INT64(52)), ir.DoubleType())
        exact = builder.fadd(builder.fmul(addend, vectors.spread(unit, count)), products)
        lost = vectors.spread(shape.lost, count)
        word = builder.bitcast(exact, LONGS)
        negative = builder.ashr(word, every(LONGS, 63))
        word = builder.add(word, builder.and_(negative, lost))
        word = builder.and_(word, builder.xor(lost, every(LONGS, -1)))
        return self.narrowed(builder.fmul(builder.bitcast(word, DOUBLES), back))


def begin_parts(sums: NDArray[np.float64]) -> None:
    """Say of a workspace that there is no second part until there is one."""
    parts = sums.view(np.int32).reshape(-1)[: 2 * _WORDS].reshape(2, 2, -1)
    parts[:, 0], parts[:, 1] = 0, _LEAST


class _Grouped(Block):
    """A block whose groups of products are summed exactly."""

    def emit(self) -> ir.Value:
        builder, vectors, shape = self.builder, self.vectors, self.shape
        groups = builder.sdiv(shape.block, shape.group)
        vectors.loop(INT64(0), groups, 1, [], self._sum_group)
        left, right = (
            [builder.sdiv(start, shape.group) for start in starts]
            for starts in (self.place.left, (self.place.right,))
        )
        ends = [
            self._largest(number, left[number // TILE_GROUPS], right[0], groups)
            for number in range(len(self.places))
        ]
        doubt = vectors.any(functools.reduce(builder.or_, (doubtful for _, doubtful in ends)))
        with builder.if_then(builder.not_(doubt), likely=True):
            for number, (aligned_to, _) in enumerate(ends):
                self._end(number, aligned_to, groups)
        return doubt

    def _sums(self) -> ir.Value:
        return self.builder.bitcast(self.data.sums, ir.FloatType().as_pointer())

    def _sum_place(self, group: ir.Value, number: int) -> ir.Value:
        start = self.builder.mul(group, INT64(LANES * len(self.places)))
        return self.builder.add(start, INT64(LANES * number))

    def _sum_group(self, group: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        """Leave the exact sums of a group in float32."""
        builder, vectors = self.builder, self.vectors
        first = builder.mul(group, self.shape.group)

        def body(step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            pairs = zip(self.factors(step), old, strict=True)
            return [vectors.call("fmuladd", a, b, sum_) for (a, b), sum_ in pairs]

        nothing = [ir.Constant(FLOATS, None)] * len(self.places)
        sums = vectors.loop(first, builder.add(first, self.shape.group), 1, nothing, body)
        for number, sum_ in enumerate(sums):
            vectors.store(sum_, self._sums(), self._sum_place(group, number))
        return []

    def _largest(
        self, number: int, left: ir.Value, right: ir.Value, groups: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """The exponent that a vector of columns is aligned to, and where that is doubtful."""
        builder, vectors, shape, data = self.builder, self.vectors, self.shape, self.data
        floor, least = self.spread_all(shape.floor, shape.initial_least)

        def body(group: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            start = builder.shl(builder.add(left, group), INT64(1))
            row = builder.mul(builder.add(right, group), INT64(2 * COLUMNS))
            column = self._column(row, number % TILE_GROUPS)
            exponent, mask = (
                (
                    vectors.spread(
                        vectors.load(data.left_exponents, builder.add(start, INT64(which)), INT32)
                    ),
                    vectors.load(
                        data.right_exponents, builder.add(column, INT64(COLUMNS * which)), INTS
                    ),
                )
                for which in range(2)
            )
            some = builder.icmp_signed("!=", builder.and_(*mask), every(INTS, 0))
            sum_ = builder.select(some, builder.add(*exponent), every(INTS, _LEAST))
            return [vectors.larger(old[0], sum_)]

        (products,) = vectors.loop(INT64(0), groups, 1, [every(INTS, _LEAST)], body)
        accumulator = vectors.load(data.accumulators, self.places[number], FLOATS)
        own = self.exponent_of(accumulator, least)
        largest = vectors.larger(products, own)
        return vectors.larger(largest, floor), self.is_doubtful(largest, own)

    def _end(self, number: int, aligned_to: ir.Value, groups: ir.Value) -> None:
        """Truncate the sums of all groups and the accumulators, add and round them."""
        builder, vectors = self.builder, self.vectors
        (fraction_bits,) = self.spread_all(self.shape.fraction_bits)
        exponent = builder.sub(fraction_bits, aligned_to)
        scales = [self.wide_power(exponent, which) for which in range(2)]
        ends = [
            self.wide_power(builder.sub(aligned_to, fraction_bits), which) for which in range(2)
        ]

        def terms(numbers: ir.Value) -> list[ir.Value]:
            return [
                vectors.call(
                    "trunc",
                    builder.fmul(builder.fpext(vectors.half(numbers, which), DOUBLES), scale),
                )
                for which, scale in enumerate(scales)
            ]

        def body(group: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            sums = vectors.load(self._sums(), self._sum_place(group, number), FLOATS)
            return [builder.fadd(a, b) for a, b in zip(old, terms(sums), strict=True)]

        own = vectors.load(self.data.accumulators, self.places[number], FLOATS)
        totals = vectors.loop(INT64(0), groups, 1, terms(own), body)
        exact = [builder.fmul(total, end) for total, end in zip(totals, ends, strict=True)]
        self.store(number, [self.narrowed(self.truncated(each)) for each in exact])


def adding(kind: type[Block]) -> Any:
    """An intrinsic that adds a block to two rows of accumulators of a panel.

    ``f((left, left_exponents, right, right_exponents, accumulators, sums), place, shape)`` reads
    and writes rows of `accumulators` (float32) and works in `sums` (float64).  `place` has the
    indices of the block's first terms in both rows of the left operand, the number of its first row
    in the right one, and the indices of both accumulators.  Returns whether there is a doubtful
    column: both rows are then to be computed another way.
    """

    def typed(_typing_context, arrays, place, shape):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            parts = [
                arrays_of(context, builder, signature.args[0], arguments[0]),
                *(cgutils.unpack_tuple(builder, each) for each in arguments[1:]),
            ]
            emit = functools.partial(_emit_tiles, kind)
            return call_apart(builder, emit, parts) if kind.apart else emit(builder, *parts)

        return types.boolean(arrays, place, shape), generate

    return intrinsic(typed)


def _emit_tiles(
    kind: type[Block],
    builder: ir.IRBuilder,
    arrays: Sequence[ir.Value],
    place: Sequence[ir.Value],
    numbers: Sequence[ir.Value],
) -> ir.Value:
    """The code of a block, tile by tile."""
    vectors, data, shape = Vectors(builder), _Data(*arrays), Shape(*numbers)
    lefts, right, accumulators = place[:ROWS], place[ROWS], place[ROWS + 1 :]

    def of_rows(left: Sequence[ir.Value], own: Sequence[ir.Value], old: list[ir.Value]) -> Any:
        def of_columns(column: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            tile = _Place(tuple(left), right, tuple(own), column)
            return [builder.or_(old[0], kind(vectors, data, tile, shape).emit())]

        return vectors.loop(INT64(0), INT64(COLUMNS), TILE_COLUMNS, old, of_columns)

    def of_row(row: ir.Value, old: list[ir.Value]) -> Any:
        is_second = builder.icmp_signed(">", row, INT64(0))
        left, own = (
            [builder.select(is_second, each[1], each[0])] for each in (lefts, accumulators)
        )
        return of_rows(left, own, old)

    none = [ir.IntType(1)(0)]
    if _TILE_ROWS == ROWS:
        (doubt,) = of_rows(lefts, accumulators, none)
    else:  # a row beside itself is advanced once
        alone = builder.icmp_signed("==", *lefts)
        count = builder.select(alone, INT64(1), INT64(ROWS))
        (doubt,) = vectors.loop(INT64(0), count, 1, none, of_row)
    return doubt


add_truncated, add_nearest = adding(_Fused), adding(_FusedToNearest)
add_floored, add_grouped = adding(_Floored), adding(_Grouped)
