"""Blocks of tensor cores in narrow lanes: exponents in int16, products in float32, sums in int32.

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
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, words
from fpemu._kernels.caching import inline
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import COLUMNS, Operands, aligned, read_only
from fpemu._kernels.vectors import spread

__all__ = ["PRODUCT_BITS", "CoreFacts", "Shape", "product", "shape_of"]

_LOWEST: Final = -95
_HIGHEST: Final = 125
_ZERO: Final = -(2**14)  # the exponent of a zero: two have the sum of the least int16
_NOT_FINITE: Final = 128  # the exponent of infinity and NaN
_NONE: Final = -1000  # above all sums with it, below all others
PRODUCT_BITS: Final = 24
"""Of a product that is exact in float32."""

_MOST_FRACTION_BITS: Final = 27  # of which two products have a sum within int32
_ROWS: Final = 2  # that are advanced together
_CHUNK: Final = 64  # rows that go through a block of a panel while it is at hand
_FLOAT32_EMIN: Final = -126
_FLOAT32_PRECISION: Final = 24
_INFINITY: Final = 0x7F800000

_GROUPS: Final = COLUMNS // 16
_WORK_PER_PIECE: Final = 2**17  # multiply-adds worth a thread
_NUMBERS_PER_PIECE: Final = 2**15


class CoreFacts(Protocol):
    """What is to be known of a unit."""

    @property
    def format(self) -> FormatFacts: ...
    @property
    def rounding(self) -> RoundingFacts: ...
    @property
    def block(self) -> int: ...
    @property
    def fraction_bits(self) -> int: ...
    @property
    def exponent_floor(self) -> int | None: ...
    @property
    def initial_format(self) -> FormatFacts: ...


class _Left(NamedTuple):
    """A left operand: its numbers and their exponents, (batch, m, k) in whole blocks."""

    values: Any  # float32
    exponents: Any  # int16


class _Right(NamedTuple):
    """A right operand in panels: exponents stand in pairs of steps."""

    values: Any  # float32, (batch, panels, k, COLUMNS)
    exponents: Any  # int16, (batch, panels, k / 2, COLUMNS, 2)


class Shape(NamedTuple):
    """A unit, as far as narrow lanes need to know it."""

    block: int
    part: int  # terms whose sum, and an accumulator's, lies within int32
    fraction_bits: int
    floor: int  # the least exponent that terms are aligned to
    initial_least: int  # that of a subnormal accumulator
    kept: int  # the bits of a float64 number that truncation keeps
    least_field: int  # the bits of the format's smallest normal number in float64
    shift: int  # what makes a power of two, added to a number, round it to the format
    largest: int  # the bits of the largest number in float32


def shape_of(core: CoreFacts) -> Shape | None:
    """The shape of a unit; None if narrow lanes cannot hold its blocks.

    They end a block by truncation in a format of float32's exponents, where no result is subnormal,
    or by rounding to nearest, either with infinities beyond the largest number.
    """
    bits = core.fraction_bits
    format, rounding = core.format, core.rounding
    to_infinity = rounding.overflow == "infinity" or (
        rounding.overflow == "ieee" and rounding.mode == "rne"
    )
    fits = (
        core.block % 2 == 0
        and 0 <= bits <= _MOST_FRACTION_BITS
        and (rounding.mode == "rne" or (rounding.mode == "rtz" and format.emin == _FLOAT32_EMIN))
        and to_infinity
        and format.infinities
        and format.subnormals
        and format.precision <= _FLOAT32_PRECISION
        and format.emin >= _FLOAT32_EMIN
        and format.emax <= -_FLOAT32_EMIN + 1
    )
    if not fits:
        return None
    dropped = 53 - format.precision
    floor = 2 * _LOWEST if core.exponent_floor is None else core.exponent_floor
    return Shape(
        block=core.block,
        part=min(core.block, (2 ** (29 - bits) - 1) // 2 * 2),
        fraction_bits=bits,
        floor=max(floor, 2 * _LOWEST),
        initial_least=core.initial_format.emin,
        kept=-(2**dropped),
        least_field=(format.emin + 1023) << 52,
        shift=(dropped << 52) + 2**51,
        largest=int(np.float32(format.max_finite).view(np.int32)),
    )


# --- operands -------------------------------------------------------------------------------------


@inline
def _exponent(x: float, least: int) -> int:
    """That of a float32 number, at least `least`, which is no less than float32's own."""
    field = words.bit_and(words.shift_right(words.word(x), 23), 255)
    return max(int(field) - 127, least)


@inline
def _scale_exponent(scale: float, least: int) -> int:
    """That of a float64 number, at least `least`."""
    field = words.bit_and(words.shift_right(words.word(scale), 52), 2047)
    return max(int(field) - 1023, least)


@inline
def _scaled(x: Any, scales: Any, place: Any, least: int, least_scale: int) -> Any:
    """A number times its scale, the exponent of both, and whether narrow lanes hold it."""
    if scales.size == 0:
        exponent = _exponent(x, least)
        return x, exponent if x != 0.0 else _ZERO, abs(x) < np.inf
    scale = scales[place]
    exact = np.float64(x) * scale
    value = np.float32(exact)
    exponent = _exponent(x, least) + _scale_exponent(scale, least_scale)
    return value, exponent if exact != 0.0 else _ZERO, value == exact and abs(value) < np.inf


@caching.kernel
def _split_rows(start, stop, x, scales, least, least_scale, values, exponents, strange):  # type: ignore[no-untyped-def]
    """Rows of a left operand; `strange` tells those with a number that narrow lanes do not hold."""
    _, rows, steps = x.shape
    for index in range(start, stop):
        batch = index // rows
        row = index - batch * rows
        held = True
        for s in range(steps):
            value, exponent, holds = _scaled(
                x[batch, row, s], scales, (batch, row, s), least, least_scale
            )
            values[batch, row, s], exponents[batch, row, s] = value, exponent
            held &= holds
        for s in range(steps, values.shape[2]):
            values[batch, row, s], exponents[batch, row, s] = 0.0, _ZERO
        strange[batch, row] = not held


@caching.kernel
def _pack_panels(start, stop, x, scales, least, least_scale, values, exponents, strange):  # type: ignore[no-untyped-def]
    """Panels of a right operand; `strange` tells those with such a number."""
    _, steps, columns = x.shape
    panels = values.shape[1]
    for index in range(start, stop):
        batch = index // panels
        panel = index - batch * panels
        first = panel * COLUMNS
        end = min(COLUMNS, columns - first)
        held = True
        for s in range(values.shape[2]):
            pair, half = s // 2, s % 2
            inside = end if s < steps else 0
            for j in range(inside):
                value, exponent, holds = _scaled(
                    x[batch, s, first + j], scales, (batch, s, first + j), least, least_scale
                )
                values[batch, panel, s, j] = value
                exponents[batch, panel, pair, j, half] = exponent
                held &= holds
            for j in range(inside, COLUMNS):
                values[batch, panel, s, j] = 0.0
                exponents[batch, panel, pair, j, half] = _ZERO
        strange[batch, panel] = not held


def _run(
    kernel: Callable[..., None], x: Any, scales: Any, leasts: tuple[int, int], *out: Any
) -> Any:
    """Run a kernel of preparation; which rows or panels narrow lanes do not hold."""
    strange = np.empty(out[0].shape[:2], np.bool_)
    given = np.zeros((0, 0, 0)) if scales is None else scales
    launching.run(
        kernel,
        strange.size,
        read_only(x, np.float32),
        read_only(given, np.float64),
        *leasts,
        *out,
        strange,
        grain=max(1, _NUMBERS_PER_PIECE * strange.size // max(out[0].size, 1)),
    )
    return strange


def _split(
    x: NDArray[Any], scales: NDArray[Any] | None, leasts: tuple[int, int], block: int
) -> tuple[_Left, NDArray[np.bool_]]:
    """A left operand in whole blocks, and which of its rows narrow lanes do not hold.

    Parameters
    ----------
    x : ndarray, shape (batch, m, k)
        Float32 numbers.
    scales : ndarray of float64, shape (batch, m, k), or None
    leasts : tuple of int
        The least exponents of numbers and of scales.
    block : int
        Terms of a block.

    Returns
    -------
    _Left
    strange : ndarray of bool, shape (batch, m)
    """
    batch, rows, steps = x.shape
    shape = (batch, rows, steps + -steps % block)
    left = _Left(aligned(shape, np.float32), aligned(shape, np.int16))
    return left, _run(_split_rows, x, scales, leasts, *left)


def _packed(
    x: NDArray[Any], scales: NDArray[Any] | None, leasts: tuple[int, int], block: int
) -> _Right | None:
    """A right operand, (batch, k, n); None if narrow lanes do not hold it."""
    batch, steps, columns = x.shape
    panels, whole = -(-columns // COLUMNS), steps + -steps % block
    right = _Right(
        aligned((batch, panels, whole, COLUMNS), np.float32),
        aligned((batch, panels, whole // 2, COLUMNS, 2), np.int16),
    )
    strange = _run(_pack_panels, x, scales, leasts, *right)
    return None if strange.any() else right


# --- a block --------------------------------------------------------------------------------------

_INT16, _INT32, _INT64 = (ir.IntType(bits) for bits in (16, 32, 64))
_BYTE: Final = ir.IntType(8).as_pointer()
_FLOATS: Final = ir.VectorType(ir.FloatType(), 16)
_INTS: Final = ir.VectorType(_INT32, 16)
_PAIRS: Final = ir.VectorType(_INT16, 32)
_DOUBLES: Final = ir.VectorType(ir.DoubleType(), 8)
_LONGS: Final = ir.VectorType(_INT64, 8)


def _all(kind: ir.VectorType, number: int) -> ir.Constant:
    return ir.Constant(kind, [ir.Constant(kind.element, number)] * kind.count)


class _Vectors:
    """A builder of vector code."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def _address(self, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.bitcast(self.builder.gep(base, [index]), kind.as_pointer())

    def load(self, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        """What lies at an element of an array."""
        return self.builder.load(self._address(base, index, kind), align=2)

    def store(self, value: ir.Value, base: ir.Value, index: ir.Value) -> None:
        self.builder.store(value, self._address(base, index, value.type), align=4)

    def spread(self, scalar: ir.Value, count: int = 16) -> ir.Value:
        return spread(self.builder, scalar, count)

    def half(self, vector: ir.Value, which: int) -> ir.Value:
        """The lower or the upper eight lanes."""
        lanes = [_INT32(8 * which + i) for i in range(8)]
        return self.builder.shuffle_vector(
            vector,
            ir.Constant(vector.type, ir.Undefined),
            ir.Constant(ir.VectorType(_INT32, 8), lanes),
        )

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    def loop(
        self,
        first: ir.Value,
        stop: ir.Value,
        stride: int | ir.Value,
        state: Sequence[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]],
    ) -> list[ir.Value]:
        """``state = body(step, state)`` for every step; there is at least one."""
        builder = self.builder
        before = builder.block
        inside, after = builder.append_basic_block(), builder.append_basic_block()
        builder.branch(inside)
        builder.position_at_end(inside)
        step = builder.phi(_INT64)
        old = [builder.phi(value.type) for value in state]
        new = list(body(step, old))
        following = builder.add(step, stride if isinstance(stride, ir.Value) else _INT64(stride))
        end = builder.block
        builder.cbranch(builder.icmp_signed("<", following, stop), inside, after)
        step.add_incoming(first, before)
        step.add_incoming(following, end)
        for phi, start, value in zip(old, state, new, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(value, end)
        builder.position_at_end(after)
        return new


class _Place(NamedTuple):
    """Where a block's terms begin in the arrays of the operands, and accumulators in theirs."""

    left: tuple[ir.Value, ...]  # a row each
    right: ir.Value
    accumulators: tuple[ir.Value, ...]


class _Data(NamedTuple):
    """Pointers to the data of arrays."""

    left: ir.Value
    left_exponents: ir.Value
    right: ir.Value
    right_exponents: ir.Value
    accumulators: ir.Value
    sums: ir.Value


class _Block:
    """The code of a block: vectors of 16 columns, row by row."""

    def __init__(
        self, vectors: _Vectors, data: _Data, place: _Place, shape: Shape, *, nearest: bool
    ) -> None:
        self.vectors, self.builder = vectors, vectors.builder
        self.data, self.place, self.shape, self.nearest = data, place, shape, nearest
        self.places = [
            self._column(row, group) for row in place.accumulators for group in range(_GROUPS)
        ]

    def _column(self, start: ir.Value, group: int) -> ir.Value:
        return self.builder.add(start, _INT64(16 * group))

    def largest_exponents(self) -> list[ir.Value]:
        """Those of the products of every column."""
        builder, vectors, data, place = self.builder, self.vectors, self.data, self.place

        def body(step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            left = [
                builder.bitcast(
                    vectors.spread(
                        vectors.load(data.left_exponents, builder.add(row, step), _INT32)
                    ),
                    _PAIRS,
                )
                for row in place.left
            ]
            start = builder.add(place.right, builder.mul(step, _INT64(COLUMNS)))
            right = [
                vectors.load(data.right_exponents, builder.add(start, _INT64(32 * group)), _PAIRS)
                for group in range(_GROUPS)
            ]
            sums = [builder.add(a, b) for a in left for b in right]
            return [vectors.larger(a, b) for a, b in zip(old, sums, strict=True)]

        least = [_all(_PAIRS, -(2**15))] * (_ROWS * _GROUPS)
        pairs = vectors.loop(_INT64(0), self.shape.block, 2, least, body)
        return [self._larger_of_pair(pair) for pair in pairs]

    def _larger_of_pair(self, pair: ir.Value) -> ir.Value:
        builder, both = self.builder, self.builder.bitcast(pair, _INTS)
        sixteen = _all(_INTS, 16)
        return self.vectors.larger(
            builder.ashr(both, sixteen), builder.ashr(builder.shl(both, sixteen), sixteen)
        )

    def exponent_of(self, accumulator: ir.Value, least: ir.Value) -> ir.Value:
        """That of accumulators, far below all others for zeros."""
        builder = self.builder
        magnitude = builder.and_(builder.bitcast(accumulator, _INTS), _all(_INTS, 2**31 - 1))
        field = builder.lshr(magnitude, _all(_INTS, 23))
        exponent = self.vectors.larger(builder.sub(field, _all(_INTS, 127)), least)
        is_zero = builder.icmp_signed("==", magnitude, _all(_INTS, 0))
        return builder.select(is_zero, _all(_INTS, _ZERO), exponent)

    def power(self, exponent: ir.Value) -> ir.Value:
        """``2**exponent`` in float32."""
        biased = self.builder.add(exponent, _all(_INTS, 127))
        return self.builder.bitcast(self.builder.shl(biased, _all(_INTS, 23)), _FLOATS)

    def is_doubtful(self, largest: ir.Value, own: ir.Value) -> ir.Value:
        """Whether the largest exponent, of what is not zero, is out of range.

        It does not matter beside an accumulator, of the exponent `own`, that is infinite or NaN.
        """
        builder = self.builder
        offset = builder.sub(largest, _all(_INTS, _LOWEST))
        outside = builder.icmp_unsigned(">", offset, _all(_INTS, _HIGHEST - _LOWEST))
        known = builder.icmp_signed(">", largest, _all(_INTS, _NONE))
        finite = builder.icmp_signed("!=", own, _all(_INTS, _NOT_FINITE))
        return builder.and_(outside, builder.and_(known, finite))

    def add_truncated(
        self, first: ir.Value, stop: ir.Value, scales: list[ir.Value], sums: list[ir.Value]
    ) -> list[ir.Value]:
        """Add the scaled and truncated products of a part to sums in int32."""
        builder, vectors, data, place = self.builder, self.vectors, self.data, self.place

        def add(step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            left = [
                vectors.spread(vectors.load(data.left, builder.add(row, step), ir.FloatType()))
                for row in place.left
            ]
            start = builder.add(place.right, builder.mul(step, _INT64(COLUMNS)))
            right = [
                vectors.load(data.right, self._column(start, group), _FLOATS)
                for group in range(_GROUPS)
            ]
            products = [builder.fmul(a, b) for a in left for b in right]
            return [
                builder.add(sum_, builder.fptosi(builder.fmul(product, scale), _INTS))
                for sum_, product, scale in zip(old, products, scales, strict=True)
            ]

        def body(step: ir.Value, old: list[ir.Value]) -> list[ir.Value]:
            return add(builder.add(step, _INT64(1)), add(step, old))

        return vectors.loop(first, stop, 2, sums, body)

    def emit(self) -> ir.Value:
        """Put the rounded sums into the accumulators; return whether one is doubtful."""
        builder, vectors, shape = self.builder, self.vectors, self.shape
        fraction_bits, floor, least = (
            vectors.spread(builder.trunc(number, _INT32))
            for number in (shape.fraction_bits, shape.floor, shape.initial_least)
        )
        lowest = vectors.larger(floor, _all(_INTS, _LOWEST))
        scales, sums, ends, doubtful = [], [], [], []
        for place, products in zip(self.places, self.largest_exponents(), strict=True):
            accumulator = vectors.load(self.data.accumulators, place, _FLOATS)
            own = self.exponent_of(accumulator, least)
            largest = vectors.larger(products, own)
            doubtful.append(self.is_doubtful(largest, own))
            aligned_to = vectors.larger(largest, lowest)
            scales.append(self.power(builder.sub(fraction_bits, aligned_to)))
            ends.append(builder.sub(aligned_to, fraction_bits))
            sums.append(builder.fptosi(builder.fmul(accumulator, scales[-1]), _INTS))
        mask = builder.bitcast(functools.reduce(builder.or_, doubtful), _INT16)
        doubt = builder.icmp_unsigned("!=", mask, _INT16(0))
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
                    wide = builder.sitofp(vectors.half(part, which), _DOUBLES)
                    yield self._sum_place(number, which), wide

        for place, number in halves(self.add_truncated(_INT64(0), shape.part, scales, sums)):
            vectors.store(number, self.data.sums, place)

        def add_part(first: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            following = builder.add(first, shape.part)
            inside = builder.icmp_signed("<", following, shape.block)
            stop = builder.select(inside, following, shape.block)
            nothing = [ir.Constant(_INTS, None)] * len(sums)
            for place, number in halves(self.add_truncated(first, stop, scales, nothing)):
                total = vectors.load(self.data.sums, place, _DOUBLES)
                vectors.store(builder.fadd(total, number), self.data.sums, place)
            return []

        with builder.if_then(builder.icmp_signed("<", shape.part, shape.block)):
            vectors.loop(shape.part, shape.block, shape.part, [], add_part)

    def _sum_place(self, number: int, which: int) -> ir.Value:
        return _INT64(16 * number + 8 * which)

    def _end(self, number: int, end: ir.Value) -> None:
        """Round the sums of a vector of columns; infinities and NaNs stay as they are."""
        builder, vectors, place = self.builder, self.vectors, self.places[number]
        rounded = []
        for which in range(2):
            sum_ = vectors.load(self.data.sums, self._sum_place(number, which), _DOUBLES)
            biased = builder.add(builder.sext(vectors.half(end, which), _LONGS), _all(_LONGS, 1023))
            power = builder.bitcast(builder.shl(biased, _all(_LONGS, 52)), _DOUBLES)
            exact = builder.fmul(sum_, power)
            rounded.append(builder.fptrunc(self._rounded(exact), ir.VectorType(ir.FloatType(), 8)))
        lanes = ir.Constant(_INTS, [_INT32(i) for i in range(16)])
        # Zero sums are positive, and sums that round to zero.
        result = builder.fadd(builder.shuffle_vector(*rounded, lanes), ir.Constant(_FLOATS, None))
        word = builder.bitcast(result, _INTS)
        sign = builder.and_(word, _all(_INTS, -(2**31)))
        largest = vectors.spread(builder.trunc(self.shape.largest, _INT32))
        beyond = builder.icmp_signed(">", builder.xor(word, sign), largest)
        infinity = _all(_INTS, _INFINITY)
        word = builder.select(beyond, builder.or_(sign, infinity), word)
        old = vectors.load(self.data.accumulators, place, _INTS)
        magnitude = builder.and_(old, _all(_INTS, 2**31 - 1))
        finite = builder.icmp_signed("<", magnitude, infinity)
        vectors.store(builder.select(finite, word, old), self.data.accumulators, place)

    def _rounded(self, exact: ir.Value) -> ir.Value:
        """Float64 numbers rounded to the format, but for overflow.

        To nearest: let q be the format's spacing at x.  ``1.5 * 2**52 * q + x`` has that spacing in
        float64, is rounded to a multiple of it, ties to even, and taking the constant off is exact.
        """
        builder, shape = self.builder, self.shape
        word = builder.bitcast(exact, _LONGS)
        if not self.nearest:
            return builder.bitcast(builder.and_(word, self.vectors.spread(shape.kept, 8)), _DOUBLES)
        field = builder.and_(word, _all(_LONGS, 0x7FF << 52))
        field = self.vectors.larger(field, self.vectors.spread(shape.least_field, 8))
        constant = builder.bitcast(
            builder.add(field, self.vectors.spread(shape.shift, 8)), _DOUBLES
        )
        return builder.fsub(builder.fadd(exact, constant), constant)


def _adding(*, nearest: bool) -> Any:
    """An intrinsic that adds a block to two rows of accumulators of a panel.

    ``f(left, right, accumulators, sums, place, shape)`` reads and writes rows of `accumulators`
    (float32) and works in `sums` (2 rows of float64).  `place` has the indices of the block's first
    terms in both rows of the left operand and in the right one, and of both accumulators.  Returns
    whether there is a doubtful column; the accumulators are then as they were.
    """

    def typed(_typing_context, a, b, accumulators, sums, place, shape):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            def data_of(kind: Any, array: Any) -> ir.Value:
                return arrayobj.make_array(kind)(context, builder, array).data

            def members(number: int) -> list[tuple[Any, Any]]:
                values = cgutils.unpack_tuple(builder, arguments[number])
                return list(zip(signature.args[number].types, values, strict=True))

            arrays = [*members(0), *members(1)]
            arrays += [(signature.args[i], arguments[i]) for i in (2, 3)]
            indices = [value for _, value in members(4)]
            return _Block(
                _Vectors(builder),
                _Data(*(data_of(*array) for array in arrays)),
                _Place(tuple(indices[:_ROWS]), indices[_ROWS], tuple(indices[_ROWS + 1 :])),
                Shape(*(value for _, value in members(5))),
                nearest=nearest,
            ).emit()

        return types.boolean(a, b, accumulators, sums, place, shape), generate

    return intrinsic(typed)


_add_truncated, _add_nearest = _adding(nearest=False), _adding(nearest=True)


# --- products -------------------------------------------------------------------------------------


class _Work(NamedTuple):
    """What a thread works in."""

    accumulators: Any  # float32, a chunk of rows and one that is not used
    sums: Any  # float64, of the rows that are advanced together


@functools.cache
def _kernel(nearest: bool) -> Callable[..., None]:
    """The kernel of products; it sets `doubtful` for rows that are to be computed another way."""
    add_block = _add_nearest if nearest else _add_truncated

    @caching.kernel
    def narrow_range(  # type: ignore[no-untyped-def]
        start, stop, work, a, b, initial, lengths, out, doubtful, shape
    ):
        _, rows, steps = a.values.shape
        panels, block = b.values.shape[1], shape.block
        acc, sums = work.accumulators, work.sums
        begin = start
        while begin < stop:
            batch = begin // rows
            top = begin - batch * rows
            count = min(_CHUNK, stop - begin, rows - top)
            for p in range(panels):
                column = p * COLUMNS
                for j in range(COLUMNS):
                    acc[_CHUNK, j] = 0.0
                for r in range(count):
                    for j in range(COLUMNS):
                        acc[r, j] = 0.0
                    if initial.size > 0:
                        for j in range(min(COLUMNS, lengths[top + r] - column)):
                            acc[r, j] = initial[batch, top + r, column + j]
                for first in range(0, steps, block):
                    for r in range(0, count, 2):
                        # A row without a neighbor is advanced twice, once for nothing.
                        other = min(r + 1, count - 1)
                        if max(lengths[top + r], lengths[top + other]) <= column:
                            continue
                        left = (batch * rows + top) * steps + first
                        place = (
                            left + r * steps,
                            left + other * steps,
                            ((batch * panels + p) * steps + first) * COLUMNS,
                            r * COLUMNS,
                            (other if other > r else _CHUNK) * COLUMNS,
                        )
                        if add_block(a, b, acc, sums, place, shape):
                            doubtful[batch, top + r] = True
                            doubtful[batch, top + other] = True
                for r in range(count):
                    for j in range(min(COLUMNS, lengths[top + r] - column)):
                        out[batch, top + r, column + j] = acc[r, j]
            begin += count

    return cast(Callable[..., None], narrow_range)


def product(
    operands: Operands,
    scales: tuple[NDArray[Any] | None, NDArray[Any] | None],
    leasts: tuple[tuple[int, int], tuple[int, int]],
    shape: Shape,
    nearest: bool,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """The product of a tensor core, and the rows of which it is not known.

    Parameters
    ----------
    operands : Operands
        Float32 numbers whose products have at most 24 bits.
    scales : tuple of two ndarrays or None
        What the numbers are multiplied by.
    leasts : tuple of two tuples of int
        The least exponents of numbers and scales, for each operand.
    shape : Shape
        The unit.
    nearest : bool
        Whether it rounds to nearest rather than toward zero.

    Returns
    -------
    tuple of ndarray, shape (batch, m, n), and ndarray of bool, shape (batch, m); or None
        None if narrow lanes do not hold the right operand.
    """
    right = _packed(operands.b, scales[1], leasts[1], shape.block)
    if right is None:
        return None
    left, doubtful = _split(operands.a, scales[0], leasts[0], shape.block)
    out = np.zeros(operands.shape, np.float32)
    launching.run(
        _kernel(nearest),
        doubtful.size,
        left,
        right,
        operands.initial_as(np.float32),
        read_only(operands.row_lengths, np.int64),
        out,
        doubtful,
        shape,
        grain=max(1, _WORK_PER_PIECE // max(operands.steps * out.shape[2], 1)),
        workspace=lambda: _Work(
            aligned((_CHUNK + 1, COLUMNS), np.float32), aligned((_ROWS, COLUMNS))
        ),
    )
    return out, doubtful
