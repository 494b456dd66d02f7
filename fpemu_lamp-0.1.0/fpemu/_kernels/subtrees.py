"""Trees of products as vector code: those of some rows by the columns of a panel.

A tree is taken as subtrees of two and three terms.  The sums of a subtree, of all rows and columns
of a tile, stay in registers until they have been merged with those that wait on a stack in memory.

- ``a0*b0 + a1*b1`` in float64 has one rounding, as the first product is exact and an fma adds the
  second.  Rounded once more to float32 it is wrong only where it is a tie of float32 and not exact,
  or subnormal in float32: then the sum is rounded to odd first.  Where all products are exact in
  float32, its own fma does it.
- ``a*b + c`` of three terms is an fma of float32.
- Sums in float32 are the processor's.

Into a format of precision p, of which float32 has at least ``2 p + 2`` bits, sums of its numbers
are rounded to float32 and once more, which is the same as once.  Sums with products may be rounded
to odd in float32 instead, or to nearest where that is no tie of the format.

Sums rounded to odd whose products are rounded first (Arm's) have subnormal numbers flushed to zeros
of their sign.  A product that is not flushed is exact.  Sums that may have been rounded to infinity
instead of to the largest number are doubtful: their rows are for the general kernel.

The error of the processor's sum is a number of its type, and only its sign is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from fpemu._kernels.panels import COLUMNS, TILE_COLUMNS
from fpemu._kernels.vectors import (
    DOUBLES,
    FLOATS,
    INT64,
    INTS,
    LANES,
    LONGS,
    Vectors,
    every,
)

__all__ = ["FIELDS", "NATIVE", "NUMBERS", "ODD", "ROWS", "Rounding", "Way", "sum_trees"]

ROWS: Final = 4
"""Rows that are summed together."""

NATIVE, FIELDS, NUMBERS, ODD = range(4)
"""How sums in float32 are rounded: not at all; into a format with all its exponents, in integers;
into another one, in numbers; to odd, and flushed."""

_HALF_FLOATS: Final = ir.VectorType(ir.FloatType(), LANES // 2)
_HALF_INTS: Final = ir.VectorType(INTS.element, LANES // 2)
_FLAG: Final = ir.IntType(1)
_SIGN: Final = 2**31
_MAGNITUDE: Final = 2**31 - 1
_EXPONENT: Final = 0x7F800000
_SMALLEST_NORMAL: Final = 0x00800000
_HUGE: Final = 0x7F000000  # 2**127: from here on a sum may have been rounded beyond all numbers
_TAIL: Final = 2**29 - 1  # the bits of float64 that float32 does not have, in its lower half
_TIE: Final = 2**28
_HALVES: Final = 2.0**24  # half units of a number in [2**23, 2**24)

_Sums = list[Any]


class Way(NamedTuple):
    """How sums are formed; a kernel is compiled for each."""

    wide: bool  # whether products are formed in float64, as not all are exact in float32
    rounding: int  # of sums


class Rounding(NamedTuple):
    """A format, in words of float32."""

    excess: Any  # how many bits its numbers do not have
    half: Any  # the highest of them
    tail: Any  # all of them
    lowest: Any  # its smallest normal number
    highest: Any  # the first power of two beyond its largest one
    shift: Any  # what multiplies a power of two so that adding it rounds to its last bit
    largest: Any
    overflow: Any
    tiny: Any  # whether sums that are subnormal in float32 may have been rounded twice


class _Tile(Vectors):
    """Sums of some rows and columns."""

    def __init__(  # type: ignore[no-untyped-def]
        self, builder, way, rounding, left, wide, panel, groups
    ) -> None:
        super().__init__(builder)
        self.way, self.left, self.wide, self.panel, self.groups = way, left, wide, panel, groups
        self.rounding = Rounding._make(map(self.spread, rounding))
        self.tiny = builder.icmp_signed("!=", Rounding._make(rounding).tiny, INTS.element(0))
        self.places = [(r, g) for g in range(groups) for r in range(len(left))]
        self.tie = self.greatest = every(INTS, 0)

    # --- operands ---

    def factors(self, step: ir.Value) -> tuple[_Sums, _Sums]:
        """A number of each row, and vectors of a row of the panel."""
        builder = self.builder
        left = [self.spread(builder.load(builder.gep(row, [step]))) for row in self.left]
        first = builder.mul(step, INT64(COLUMNS))
        places = [builder.add(first, INT64(LANES * g)) for g in range(self.groups)]
        return left, [self.load(self.panel, place, FLOATS) for place in places]

    def wide_factors(self, step: ir.Value) -> tuple[_Sums, _Sums]:
        """The same in float64: a vector of the panel is two."""
        builder, count = self.builder, LANES // 2
        left = [self.spread(builder.load(builder.gep(row, [step])), count) for row in self.wide]
        first = builder.mul(step, INT64(COLUMNS))
        places = [builder.add(first, INT64(count * h)) for h in range(2 * self.groups)]
        numbers = [self.load(self.panel, place, _HALF_FLOATS) for place in places]
        wide = [builder.fpext(each, DOUBLES) for each in numbers]
        return left, list(zip(wide[::2], wide[1::2], strict=True))

    # --- rounding ---

    def bits(self, number: ir.Value) -> ir.Value:
        return self.builder.bitcast(number, INTS if number.type == FLOATS else LONGS)

    def magnitude(self, bits: ir.Value) -> ir.Value:
        return self.builder.and_(bits, every(INTS, _MAGNITUDE))

    def odd(self, bits: ir.Value, error: ir.Value, inexact: ir.Value) -> ir.Value:
        """The word of a number plus an error of which only the sign counts, rounded to odd.

        If it is not zero, what is nearer to zero or has it as its last bit is the odd neighbor.
        """
        builder, kind = self.builder, bits.type
        nearer = builder.ashr(error, every(kind, kind.element.width - 1))
        return builder.select(inexact, builder.or_(builder.add(bits, nearer), every(kind, 1)), bits)

    def odd_sum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The word of ``a + b`` rounded to odd."""
        builder = self.builder
        total = builder.fadd(a, b)
        part = builder.fsub(total, a)
        error = builder.fadd(builder.fsub(a, builder.fsub(total, part)), builder.fsub(b, part))
        inexact = builder.fcmp_ordered("!=", error, every(error.type, 0.0))
        bits = self.bits(total)
        return self.odd(bits, builder.xor(self.bits(error), bits), inexact)

    def narrowed(self, bits: ir.Value) -> ir.Value:
        """The word in float32 of a word of float64, rounded to odd."""
        builder = self.builder
        number = builder.bitcast(bits, DOUBLES)
        nearest = builder.fptrunc(number, _HALF_FLOATS)
        error = builder.fsub(number, builder.fpext(nearest, DOUBLES))
        signs = builder.ashr(builder.xor(self.bits(error), bits), every(LONGS, 63))
        return self.odd(
            builder.bitcast(nearest, _HALF_INTS),
            builder.trunc(signs, _HALF_INTS),
            builder.fcmp_ordered("!=", error, every(DOUBLES, 0.0)),
        )

    def rounded(self, bits: ir.Value, *, quick: bool = False) -> ir.Value:
        """A sum rounded once more; `quick` is for what is no tie, and remembers whether it is."""
        if self.way.rounding == ODD:
            return self.flushed(bits, summed=True)
        rounded = self.by_fields if self.way.rounding == FIELDS else self.by_numbers
        return rounded(bits, quick)

    def by_fields(self, bits: ir.Value, quick: bool) -> ir.Value:
        builder, (excess, half, tail, *_) = self.builder, self.rounding
        if quick:
            self.watch(builder.and_(builder.xor(bits, half), tail))
        else:
            odd = builder.and_(builder.lshr(bits, excess), every(INTS, 1))
            half = builder.add(builder.sub(half, every(INTS, 1)), odd)
        raised = builder.add(bits, half)
        return builder.bitcast(builder.and_(raised, builder.not_(tail)), FLOATS)

    def by_numbers(self, bits: ir.Value, quick: bool) -> ir.Value:
        """Rounded by adding a power of two, see :func:`fpemu._kernels.rounding.round_number`."""
        builder, rounding = self.builder, self.rounding
        magnitude = self.magnitude(bits)
        field = self.larger(builder.and_(bits, every(INTS, _EXPONENT)), rounding.lowest)
        power = builder.add(self.smaller(field, rounding.highest), rounding.shift)
        exact, constant = builder.bitcast(magnitude, FLOATS), builder.bitcast(power, FLOATS)
        nearest = builder.fsub(builder.fadd(exact, constant), constant)
        if quick:
            halves = builder.fmul(builder.fsub(exact, nearest), every(FLOATS, _HALVES))
            self.watch(builder.xor(self.magnitude(self.bits(halves)), power))
        beyond = builder.fcmp_ordered(">", nearest, builder.bitcast(rounding.largest, FLOATS))
        result = builder.select(beyond, rounding.overflow, self.bits(nearest))
        sign = builder.and_(bits, every(INTS, -_SIGN))
        return builder.bitcast(builder.or_(result, sign), FLOATS)

    def flushed(self, bits: ir.Value, *, summed: bool = False) -> ir.Value:
        """A zero of its sign for a subnormal number; the greatest sum is remembered."""
        builder, magnitude = self.builder, self.magnitude(bits)
        if summed:
            self.greatest = self.larger(self.greatest, magnitude)
        small = builder.icmp_signed("<", magnitude, every(INTS, _SMALLEST_NORMAL))
        zero = builder.and_(bits, every(INTS, -_SIGN))
        return builder.bitcast(builder.select(small, zero, bits), FLOATS)

    def watch(self, distance: ir.Value) -> None:
        """Remember a distance from a tie, as a number that is not negative."""
        self.tie = self.smaller(self.tie, distance)

    # --- sums ---

    def product(self, a: ir.Value, b: ir.Value) -> ir.Value:
        product = self.builder.fmul(a, b)
        return self.flushed(self.bits(product)) if self.way.rounding == ODD else product

    def pair(self, step: ir.Value) -> _Sums:
        """The sums of two products each."""
        following = self.builder.add(step, INT64(1))
        if self.way.wide:
            return self.settled(lambda quick: self.wide_pair(step, following, quick))
        (a, b), (c, d) = self.factors(step), self.factors(following)
        if self.way.rounding == NATIVE:
            multiply = self.builder.fmul
            return [self.call("fma", c[r], d[g], multiply(a[r], b[g])) for r, g in self.places]
        return [
            self.rounded(self.odd_sum(self.product(a[r], b[g]), self.product(c[r], d[g])))
            for r, g in self.places
        ]

    def wide_pair(self, step: ir.Value, following: ir.Value, quick: bool) -> _Sums:
        builder = self.builder
        (a, b), (c, d) = self.wide_factors(step), self.wide_factors(following)
        sums = []
        for r, g in self.places:
            firsts = [builder.fmul(a[r], half) for half in b[g]]
            if quick:
                halves = [
                    self.call("fma", c[r], half, first)
                    for half, first in zip(d[g], firsts, strict=True)
                ]
                sums.append(self.nearest(halves))
            else:
                seconds = [builder.fmul(c[r], half) for half in d[g]]
                sums.append(self.careful(firsts, seconds))
        return sums

    def nearest(self, halves: _Sums) -> ir.Value:
        """Sums of float64 in float32, and rounded; they are watched."""
        builder = self.builder
        number = self.joined(*(builder.fptrunc(half, _HALF_FLOATS) for half in halves))
        if self.way.rounding != NATIVE:
            return self.rounded(self.bits(number), quick=True)
        lower = [INTS.element(2 * i) for i in range(LANES)]
        low = builder.shuffle_vector(
            *(builder.bitcast(half, INTS) for half in halves), ir.Constant(INTS, lower)
        )
        self.watch(builder.and_(builder.xor(low, every(INTS, _TIE)), every(INTS, _TAIL)))
        return number

    def careful(self, a: _Sums, b: _Sums) -> ir.Value:
        """The sum of halves in float64, rounded once."""
        builder = self.builder
        odd = [self.odd_sum(x, y) for x, y in zip(a, b, strict=True)]
        if self.way.rounding != NATIVE:
            return self.rounded(self.joined(*map(self.narrowed, odd)))
        halves = (builder.fptrunc(builder.bitcast(bits, DOUBLES), _HALF_FLOATS) for bits in odd)
        return self.joined(*halves)

    def settled(self, sums_of: Callable[[bool], _Sums]) -> _Sums:
        """Quick sums, or careful ones if one of them may be wrong."""
        builder = self.builder
        self.tie = every(INTS, _MAGNITUDE)
        quick = sums_of(True)
        doubtful = self.any(builder.icmp_signed("==", self.tie, every(INTS, 0)))
        if self.way.rounding == NATIVE:
            [doubtful] = self.where(
                self.tiny, lambda: [builder.or_(doubtful, self.is_tiny(quick))], [doubtful]
            )
        return self.where(doubtful, lambda: sums_of(False), quick, likely=False)

    def is_tiny(self, sums: _Sums) -> ir.Value:
        """Whether a sum is zero or no larger than the smallest normal number."""
        least = every(INTS, _MAGNITUDE)
        for sum_ in sums:
            least = self.smaller(least, self.magnitude(self.bits(sum_)))
        return self.any(self.builder.icmp_signed("<=", least, every(INTS, _SMALLEST_NORMAL)))

    def third(self, step: ir.Value, sums: _Sums) -> _Sums:
        """Sums with the product of one more step."""
        if self.way.wide and self.way.rounding != NATIVE:
            return self.settled(lambda quick: self.wide_third(step, sums, quick))
        a, b = self.factors(step)
        if self.way.rounding == NATIVE:
            return [
                self.call("fma", a[r], b[g], sum_)
                for (r, g), sum_ in zip(self.places, sums, strict=True)
            ]
        return [
            self.rounded(self.odd_sum(self.product(a[r], b[g]), sum_))
            for (r, g), sum_ in zip(self.places, sums, strict=True)
        ]

    def wide_third(self, step: ir.Value, sums: _Sums, quick: bool) -> _Sums:
        builder = self.builder
        a, b = self.factors(step) if quick else self.wide_factors(step)
        found = []
        for (r, g), sum_ in zip(self.places, sums, strict=True):
            if quick:
                total = self.call("fma", a[r], b[g], sum_)
                found.append(self.rounded(self.bits(total), quick=True))
            else:
                wide = [builder.fpext(self.half(sum_, h), DOUBLES) for h in (0, 1)]
                found.append(self.careful([builder.fmul(a[r], half) for half in b[g]], wide))
        return found

    def add(self, a: _Sums, b: _Sums) -> _Sums:
        """Sums of sums."""
        if self.way.rounding == ODD:
            return [self.rounded(self.odd_sum(x, y)) for x, y in zip(a, b, strict=True)]
        sums = [self.builder.fadd(x, y) for x, y in zip(a, b, strict=True)]
        if self.way.rounding == NATIVE:
            return sums
        return [self.rounded(self.bits(sum_)) for sum_ in sums]

    def watched(self, sums_of: Callable[..., _Sums], *arguments: Any, beyond: ir.Value) -> _Sums:
        """Sums, and whether one is huge where that is asked for."""
        self.greatest = every(INTS, 0)
        sums = sums_of(*arguments)
        if self.way.rounding == ODD:
            huge = self.builder.icmp_signed(">=", self.greatest, every(INTS, _HUGE))
            beyond = self.builder.or_(beyond, self.any(huge))
        return [*sums, beyond]

    # --- trees ---

    def where(
        self,
        condition: ir.Value,
        then: Callable[[], Sequence[ir.Value]],
        otherwise: Sequence[ir.Value],
        *,
        likely: bool = True,
    ) -> _Sums:
        """``then()`` under a condition."""
        builder, before = self.builder, self.builder.block
        with builder.if_then(condition, likely=likely):
            new = then()
            inside = builder.block
        found = []
        for value, other in zip(new, otherwise, strict=True):
            phi = builder.phi(value.type)
            phi.add_incoming(value, inside)
            phi.add_incoming(other, before)
            found.append(phi)
        return found

    def subtree(self, first: ir.Value, size: ir.Value, beyond: ir.Value) -> _Sums:
        """The sums of a subtree of two or three terms."""
        builder = self.builder
        pair = builder.sub(builder.add(first, size), INT64(2))
        *sums, beyond = self.watched(self.pair, pair, beyond=beyond)
        return self.where(
            builder.icmp_signed(">", size, INT64(2)),
            lambda: self.watched(self.third, first, sums, beyond=beyond),
            [*sums, beyond],
        )

    def trees(  # type: ignore[no-untyped-def]
        self, stack, level, sizes, merges, subtrees, count, begin, more
    ) -> ir.Value:
        """Sum trees of so many subtrees each on a stack; whether a sum is huge.

        `begin` is what lies on the stack, ``more`` what a whole tree is merged with beside its own.
        """
        builder = self.builder

        def places(top: ir.Value) -> list[ir.Value]:
            first = builder.mul(top, INT64(level))
            return [builder.add(first, INT64(r * COLUMNS + g * LANES)) for r, g in self.places]

        def merge(_: ir.Value, state: _Sums) -> _Sums:
            *sums, beyond, top = state
            waiting = [self.load(stack, place, FLOATS) for place in places(top)]
            merged = self.watched(self.add, waiting, sums, beyond=beyond)
            return [*merged, builder.sub(top, INT64(1))]

        def next_subtree(_: ir.Value, state: _Sums) -> _Sums:
            number, first, top, beyond = state
            size = builder.load(builder.gep(sizes, [number]))
            found = self.subtree(first, size, beyond)
            following = builder.add(number, INT64(1))
            is_last = builder.icmp_signed("==", following, subtrees)
            own = builder.load(builder.gep(merges, [number]))
            merging = builder.add(own, builder.select(is_last, more, INT64(0)))
            *sums, beyond, top = self.where(
                builder.icmp_signed(">", merging, INT64(0)),
                lambda: self.loop(INT64(0), merging, 1, [*found, top], merge),
                [*found, top],
            )
            top = builder.add(top, INT64(1))
            for sum_, place in zip(sums, places(top), strict=True):
                self.store(sum_, stack, place)
            number = builder.select(is_last, INT64(0), following)
            return [number, builder.add(first, size), top, beyond]

        begun = [INT64(0), INT64(0), begin, _FLAG(0)]
        return self.loop(INT64(0), count, 1, begun, next_subtree)[-1]


@functools.cache
def sum_trees(way: Way, rows: int) -> Any:
    """An intrinsic that sums trees of so many rows by the columns of a panel.

    It takes ``(arrays, place, rounding)`` and says whether a sum is huge.  The arrays are the left
    operand, the rows once more in float64 where products are wide, a panel, a stack of the shape
    (depth, ROWS, COLUMNS), and the sizes and merges of the subtrees of a tree.  The place is where
    the first row begins in the left operand, how long a row is, how many subtrees it has in all,
    the highest level of the stack that is taken, and what a whole tree is merged with beside its
    own.
    """
    groups = TILE_COLUMNS // LANES // (2 if way.wide and rows > 1 else 1)

    @intrinsic
    def summed(_typing_context: Any, arrays: Any, place: Any, rounding: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args[0]
            views = [
                arrayobj.make_array(kind)(context, builder, value)
                for kind, value in zip(
                    kinds, cgutils.unpack_tuple(builder, arguments[0], len(kinds)), strict=True
                )
            ]
            left, wide, panel, stack, sizes, merges = (view.data for view in views)
            subtrees = cgutils.unpack_tuple(builder, views[-1].shape)[0]
            first, steps, count, begin, more = cgutils.unpack_tuple(builder, arguments[1], 5)
            apart = [builder.mul(INT64(r), steps) for r in range(rows)]
            lefts = [builder.gep(left, [builder.add(first, offset)]) for offset in apart]
            wides = [builder.gep(wide, [offset]) for offset in apart]
            words = cgutils.unpack_tuple(builder, arguments[2], len(Rounding._fields))

            def some_columns(column: ir.Value, state: _Sums) -> _Sums:
                tile = _Tile(
                    builder, way, words, lefts, wides, builder.gep(panel, [column]), groups
                )
                sums = builder.gep(stack, [column])
                beyond = tile.trees(
                    sums, ROWS * COLUMNS, sizes, merges, subtrees, count, begin, more
                )
                return [builder.or_(state[0], beyond)]

            loop = Vectors(builder).loop
            return loop(INT64(0), INT64(COLUMNS), LANES * groups, [_FLAG(0)], some_columns)[0]

        return types.boolean(arrays, place, rounding), generate

    return summed
