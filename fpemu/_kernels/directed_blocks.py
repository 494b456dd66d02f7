"""The code of a block of a tensor core whose sums float32 holds, rounded toward zero as it adds.

A sum that lies between M and 2M, M a power of two, has the last bit ``M * 2**-23``.  With
``M = 2**(E + 23 - F)``, E being the largest exponent of a block and F the unit's fraction bits,
that is the bit to which the unit truncates its products.  So a fused multiply-add that rounds
toward zero truncates a positive product and adds it, in one instruction:

- Sums are kept of positive products and of the magnitudes of negative ones, both above an M.  A
  panel has the positive numbers of its operand, others zero, beside the negative ones; the sign of
  a left number tells which of them make positive products.
- A product is below ``2**(E + 2)`` and an accumulator below ``2**(E + 1)``, so that M is not
  doubled if ``(4 * block + 2) * 2**F <= 2**23``.  Both sums are multiples of one last bit, fewer
  than ``2**23``: float32 holds their difference.
- Exponents are in int8, and all sums of two of them lie within it.  A zero's is -128, and a sum
  with it, which saturates, is below the least exponent that terms are aligned to.

The operands' formats have few exponents, ``-32 .. 15``.  A block with a product that is not zero
leaves a multiple of 2**-87, another one the leading bits of its accumulator, and no product reaches
2**32.  So accumulators that at first are zero or of magnitudes in ``2**-95 .. 2**112`` stay zero or
in ``2**-95 .. 2**113``, as long as there are fewer than 2**80 terms: their exponents, M and what a
block leaves are those of normal numbers.  Other accumulators are refused before they come here.

A **chopped** block is one of :mod:`fpemu._kernels.narrow_blocks` with more fraction bits, in int32,
whose sum is converted to float32 toward zero:

- Products alone have a sum within int32 if ``4 * block * 2**F <= 2**31``.  Where an accumulator may
  bring it out of that, a sum that overflows is doubtful.
- The sum times ``2**(E - F)`` is a normal number or zero, and infinite from 2**128 on, as it is in
  formats of float32's exponents: no block leaves a number below ``2**(LOWEST - F)``.
- An accumulator's exponent is its field.  Subnormal ones, and all below 2**-95, are refused at
  first, and no block leaves one.  An infinite one is doubtful.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fpemu._kernels import directions
from fpemu._kernels.narrow_blocks import (
    HIGHEST,
    LOWEST,
    NONE,
    TILE_GROUPS,
    Block,
    adding,
    arrays_of,
)
from fpemu._kernels.panels import COLUMNS, TILE_COLUMNS
from fpemu._kernels.vectors import FLOATS, INT32, INT64, INTS, LANES, Vectors, every

__all__ = [
    "GREATEST",
    "LEAST",
    "LEAST_EXPONENT",
    "ZERO",
    "ZERO_BYTE",
    "ZERO_WORD",
    "add_chopped",
    "add_chopped_crowded",
    "add_directed",
    "are_there",
    "fits",
    "prepare_signed",
]

LEAST_EXPONENT: Final = -95
"""The least exponent that terms are aligned to."""

LEAST: Final = np.float32(2.0**LEAST_EXPONENT)
GREATEST: Final = np.float32(2.0**112)
"""Magnitudes of first accumulators lie from one to below the other, or are zero."""

ZERO: Final = -128
"""The exponent of a zero."""

ZERO_BYTE: Final = np.uint32(ZERO & 255)
ZERO_WORD: Final = np.uint32(0x80808080).view(np.int32)  # four of them

_EXPONENTS: Final = range(-32, 16)
_LESS: Final = 1  # than exponents their bytes and those of their sums are: 128 more is a field
_SUM_BITS: Final = 23
_FRACTION_BITS: Final = range(12, _SUM_BITS)  # fewer would bring M near float32's largest numbers
_BYTE: Final = ir.IntType(8)
_BYTES: Final = ir.VectorType(_BYTE, TILE_COLUMNS)
_ROW: Final = ir.VectorType(_BYTE, COLUMNS)
_MAGNITUDE: Final = 2**31 - 1
_FIELD: Final = 0x7F800000


def are_there() -> bool:
    """Whether the processor that kernels are compiled for has multiply-adds that round so."""
    return directions.ARE_THERE


def fits(block: int, fraction_bits: int, exponents: list[tuple[int, int]]) -> bool:
    """Whether float32 holds a unit's blocks, by the least and greatest exponents it takes."""
    return (
        (4 * block + 2) * 2**fraction_bits <= 2**_SUM_BITS
        and fraction_bits in _FRACTION_BITS
        and all(each in _EXPONENTS for both in exponents for each in both)
    )


@intrinsic
def prepare_signed(_typing_context, arrays, places, leasts):  # type: ignore[no-untyped-def]
    """An intrinsic that splits a row of a panel by sign.

    ``f((raw, scales, values, exponents), (row, to), leasts)`` puts the positive numbers of a row of
    `raw`, others zero, into a row of `values`, behind them the negative ones, and exponents into a
    row of theirs.  Returns whether lanes do not hold a number.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        raw, _, values, exponents = arrays_of(context, builder, signature.args[0], arguments[0])
        rows = cgutils.unpack_tuple(builder, arguments[1])
        row, to = (builder.mul(each, INT64(COLUMNS)) for each in rows)
        least, _ = cgutils.unpack_tuple(builder, arguments[2])
        vectors, place, fields = Vectors(builder), builder.shl(to, INT64(1)), []
        for lane in range(0, COLUMNS, LANES):
            word = vectors.load(raw, builder.add(row, INT64(lane)), INTS)
            for offset, part in enumerate(_signed_parts(vectors, word)):
                column = builder.add(place, INT64(COLUMNS * offset + lane))
                vectors.store(part, values, column)
            fields.append(_fields(builder, word))
        field = vectors.beside(fields)
        most = vectors.spread(builder.trunc(builder.add(least, INT64(127)), _BYTE), COLUMNS)
        larger = builder.select(builder.icmp_unsigned(">", field, most), field, most)
        some = builder.icmp_unsigned("!=", field, ir.Constant(_ROW, None))
        exponent = builder.sub(larger, every(_ROW, 127))
        exponent = builder.select(some, exponent, every(_ROW, ZERO))
        vectors.store(exponent, exponents, to)
        return vectors.any(builder.icmp_unsigned("==", field, every(_ROW, 255)))

    return types.boolean(arrays, places, leasts), generate


def _signed_parts(vectors: Vectors, word: ir.Value) -> list[ir.Value]:
    """The words of numbers that are positive, others zero, and of negative ones."""
    zeros = ir.Constant(INTS, None)
    return [vectors.larger(word, zeros), vectors.smaller(word, zeros)]


def _fields(builder: ir.IRBuilder, word: ir.Value) -> ir.Value:
    """The bytes of exponents.  Of words cut down to bytes the compiler would compare the words."""
    doubled = builder.shl(word, every(INTS, 1))
    codes = builder.bitcast(doubled, ir.VectorType(_BYTE, 4 * LANES))
    highest = [INT32(4 * i + 3) for i in range(LANES)]
    return builder.shuffle_vector(codes, codes, ir.Constant(INTS, highest))


class _Directed(Block):
    """A block of products and an accumulator, truncated as they are added.

    Of a block of left numbers there are their exponents, each four times in a word, and behind them
    how far behind the start of a row of the panel those numbers are that make positive products.
    """

    apart = not directions.ARE_NAMED

    def emit(self) -> ir.Value:
        builder, vectors = self.builder, self.vectors
        fraction_bits, precision_mask = self.spread_all(self.shape.fraction_bits, self.shape.kept)
        shift = builder.sub(every(INTS, _SUM_BITS), fraction_bits)
        shift = builder.shl(shift, every(INTS, 23))
        largest = self._largest_fields()
        sums = []
        for place, field in zip(self.places, largest, strict=True):
            accumulator = vectors.load(self.data.accumulators, place, FLOATS)
            word = builder.bitcast(accumulator, INTS)
            own = builder.and_(word, every(INTS, _FIELD))
            above = builder.add(vectors.larger(field, own), shift)
            above = builder.bitcast(above, FLOATS)
            for part, sign in zip(_signed_parts(vectors, word), (1.0, -1.0), strict=True):
                part = builder.bitcast(part, FLOATS)
                sums.append(self._add(part, every(FLOATS, sign), above))
        sums = vectors.loop(INT64(0), self.shape.block, 1, sums, self._add_products)
        for place, positive, negative in zip(self.places, sums[::2], sums[1::2], strict=True):
            difference = self._add(negative, every(FLOATS, -1.0), positive)
            word = builder.bitcast(difference, INTS)
            vectors.store(builder.and_(word, precision_mask), self.data.accumulators, place)
        return ir.IntType(1)(0)

    def _add(self, a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
        """``a * b + total``, rounded toward zero."""
        return directions.multiplied_and_added(self.builder, a, b, total)

    def _largest_fields(self) -> list[ir.Value]:
        """The bits of powers of two, those of the largest exponents of a block's products."""
        builder, vectors, data = self.builder, self.vectors, self.data
        floor = builder.sub(self.shape.floor, INT64(_LESS))
        floor = vectors.spread(builder.trunc(floor, _BYTE), TILE_COLUMNS)

        def body(step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            start = builder.mul(builder.add(self.place.right, step), INT64(COLUMNS))
            right = vectors.load(data.right_exponents, self._column(start, 0), _BYTES)
            new = []
            for row, most in zip(self.place.left, old, strict=True):
                word = builder.add(builder.shl(row, INT64(1)), step)
                word = vectors.load(data.left_exponents, word, INT32)
                left = builder.bitcast(vectors.spread(word, TILE_COLUMNS // 4), _BYTES)
                sum_ = vectors.call("sadd.sat", left, right)
                new.append(vectors.larger(most, sum_))
            return new

        found = vectors.loop(INT64(0), self.shape.block, 1, [floor] * len(self.place.left), body)
        fields = []
        for most in found:
            biased = builder.xor(most, every(_BYTES, -128))  # plus 128
            for group in range(TILE_GROUPS):
                lanes = [INT32(LANES * group + i) for i in range(LANES)]
                part = builder.shuffle_vector(
                    biased, ir.Constant(_BYTES, ir.Undefined), ir.Constant(INTS, lanes)
                )
                fields.append(builder.shl(builder.zext(part, INTS), every(INTS, 23)))
        return fields

    def _add_products(self, step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
        builder, vectors, data = self.builder, self.vectors, self.data
        start = builder.mul(builder.add(self.place.right, step), INT64(2 * COLUMNS))
        new = []
        for number, row in enumerate(self.place.left):
            left = vectors.load(data.left, builder.add(row, step), ir.FloatType())
            left = vectors.spread(left)
            minus = builder.fneg(left)
            word = builder.add(builder.shl(row, INT64(1)), self.shape.block)
            word = builder.add(word, step)
            offset = builder.zext(vectors.load(data.left_exponents, word, INT32), INT64)
            other = builder.xor(offset, INT64(COLUMNS))
            starts = [builder.add(start, each) for each in (offset, other)]
            for group in range(TILE_GROUPS):
                positive, negative = (
                    vectors.load(data.right, self._column(each, group), FLOATS) for each in starts
                )
                sums = old[2 * (TILE_GROUPS * number + group) :]
                new.append(self._add(left, positive, sums[0]))
                new.append(self._add(minus, negative, sums[1]))
        return new


class _Chopped(Block):
    """A block of products and an accumulator whose sum in int32 is converted toward zero."""

    crowded = False  # whether the accumulator may bring the sum out of int32

    def emit(self) -> ir.Value:
        builder, vectors = self.builder, self.vectors
        fraction_bits, precision_mask = self.spread_all(self.shape.fraction_bits, self.shape.kept)
        bias = every(INTS, 127)
        to_scale = builder.add(fraction_bits, every(INTS, 254))
        products = self.largest_exponents(INT64(0), self.shape.block)
        scales, firsts, doubtful = [], [], []
        for place, of_products in zip(self.places, products, strict=True):
            accumulator = vectors.load(self.data.accumulators, place, FLOATS)
            magnitude = builder.and_(builder.bitcast(accumulator, INTS), every(INTS, _MAGNITUDE))
            own = builder.lshr(magnitude, every(INTS, 23))
            largest = vectors.larger(builder.add(of_products, bias), own)
            offset = builder.sub(largest, every(INTS, LOWEST + 127))
            outside = builder.icmp_unsigned(">", offset, every(INTS, HIGHEST - LOWEST))
            some = builder.or_(
                builder.icmp_signed(">", of_products, every(INTS, NONE)),
                builder.icmp_signed("!=", own, every(INTS, 0)),
            )
            doubtful.append(builder.and_(outside, some))
            largest = vectors.larger(largest, every(INTS, LOWEST + 127))
            scale = builder.shl(builder.sub(to_scale, largest), every(INTS, 23))
            scales.append(builder.bitcast(scale, FLOATS))
            firsts.append(builder.fptosi(builder.fmul(accumulator, scales[-1]), INTS))
        sums = [ir.Constant(INTS, None)] * len(firsts) if self.crowded else firsts
        sums = self.add_truncated(INT64(0), self.shape.block, scales, sums)
        if self.crowded:
            totals = [builder.add(a, b) for a, b in zip(firsts, sums, strict=True)]
            overflows = [
                builder.and_(builder.xor(a, total), builder.xor(b, total))
                for a, b, total in zip(firsts, sums, totals, strict=True)
            ]
            overflow = functools.reduce(builder.or_, overflows)
            doubtful.append(builder.icmp_signed("<", overflow, every(INTS, 0)))
            sums = totals
        for place, total, scale in zip(self.places, sums, scales, strict=True):
            word = builder.bitcast(directions.converted(builder, total), INTS)
            number = builder.bitcast(builder.and_(word, precision_mask), FLOATS)
            end = builder.sub(every(INTS, 254 << 23), builder.bitcast(scale, INTS))
            result = builder.fmul(number, builder.bitcast(end, FLOATS))
            vectors.store(result, self.data.accumulators, place)
        return vectors.any(functools.reduce(builder.or_, doubtful))


class _ChoppedCrowded(_Chopped):
    crowded = True


add_directed = adding(_Directed)
add_chopped, add_chopped_crowded = adding(_Chopped), adding(_ChoppedCrowded)
