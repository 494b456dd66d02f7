"""Panels: columns of a right operand in the order in which kernels of products read them.

A panel has the numbers of :data:`COLUMNS` columns side by side, one row per term.  Kernels fill it
part by part from the operand as it lies in memory, by rows or by columns, while the part is in a
cache; nothing is copied as a whole.  An operand may also be held by codes of 8 or 16 bits, which
are made numbers as they are read.
"""

from __future__ import annotations

import ctypes
import functools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np import numpy_support
from numpy.typing import DTypeLike, NDArray

from fpemu._kernels import caching, launching, parts, words
from fpemu._kernels.caching import inline
from fpemu._kernels.facts import FormatFacts
from fpemu._kernels.rounding import LAYOUTS
from fpemu._kernels.vectors import (
    FLOATS,
    INT64,
    INTS,
    LANES,
    Vectors,
    data_of,
    every,
    has_features,
    spread,
    vector_of,
)

__all__ = [
    "COLUMNS",
    "MANY_REGISTERS",
    "Extent",
    "Narrow",
    "Right",
    "Source",
    "TILE_COLUMNS",
    "Widening",
    "aligned",
    "extent",
    "fill",
    "last_bit_exponent",
    "narrowed",
    "panels",
    "right_of",
    "source_of",
]

MANY_REGISTERS: Final = has_features("avx512f")
"""Whether the processor has 32 vector registers of 512 bits; others have half of each."""

COLUMNS: Final = 64
"""Columns of a panel."""

TILE_COLUMNS: Final = 64 if MANY_REGISTERS else 32
"""Columns of a tile whose accumulators stay in registers, and of panels for such; a part of 64."""

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)
_LINE: Final = 64  # bytes
_NOT_FINITE: Final = -(2**20)  # the exponent of a last bit that is not there
_STRIP: Final = 2**16  # numbers that are looked at at once
_DEPTH: Final = 64  # terms of a panel that are made codes at once
_COST: Final = 0.7  # nanoseconds of a number that is put in its place
_CODE_COST: Final = 3.0  # of one that a code is made of
_LOOK_COST: Final = 0.2  # of one that is looked at


class Right(NamedTuple):
    """A right operand as it lies in memory: how far apart its numbers are, in numbers."""

    memory: Any  # flat
    batch: int
    panel: int
    step: int
    column: int
    columns: int  # how many there are
    widening: tuple[Any, ...]  # see `Widening`


def aligned(shape: tuple[int, ...], dtype: DTypeLike = np.float64) -> Any:
    """An array, not filled, on a cache line: vectors across two cost a tenth of a kernel's time."""
    dtype = np.dtype(dtype)
    memory = np.empty(math.prod(shape) * dtype.itemsize + _LINE, np.uint8)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory.data)) % _LINE
    return np.ndarray(shape, dtype, memory, start)


# --- codes ----------------------------------------------------------------------------------------


class Widening(NamedTuple):
    """How codes of a sign, an exponent and a significand become float32 numbers.

    The magnitude of a code, shifted to where float32 has it, is a float32 number whose exponent is
    off by the difference of the biases, so `offset` is added to its bits.  That is wrong where the
    exponent's field is 0: such a magnitude stands for a multiple of the smallest subnormal number.
    With one more in the field it is that number plus the smallest normal one, which is subtracted,
    exactly.  Of these two numbers the right one has the bits that are the smaller integer.  Where
    the field is 0, a fraction f gives f times the smallest normal number, and (1 + f)/2 of it by
    the offset; else v by the offset, and 2v less the smallest normal number, or beyond infinity.
    """

    magnitude: Any  # the bits below the sign
    shift: Any
    offset: Any
    sign_shift: Any

    @classmethod
    def of(cls, format: FormatFacts) -> tuple[Widening, np.dtype[Any]] | None:
        """The codes of a format's finite numbers, and their type; None if 16 bits do not do."""
        if not format.signed or format.emin < -126 or format.emax > 127:
            return None
        fields = (format.emax - format.emin + 1).bit_length()
        low = fields + format.precision - 1
        if low > 15:
            return None
        width = 8 if low <= 7 else 16
        shift = 24 - format.precision
        offset = (format.emin + 126) << 23
        facts = (2**low - 1, shift, offset, 31 - low)
        signs = cls._make(map(np.uint32, facts))
        return signs, np.dtype(f"u{width // 8}")


@intrinsic
def _widen(
    _typing_context: Any, codes: Any, start: Any, panel: Any, row: Any, widening: Any
) -> Any:
    """Make a row of a panel from codes, as vectors: Numba's loops are a tenth as fast."""
    signature = types.none(codes, types.intp, panel, types.intp, widening)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, place = (data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 2))
        fields = cgutils.unpack_tuple(builder, arguments[4], len(Widening._fields))
        _emit_widened(builder, source, arguments[1], place, arguments[3], fields, COLUMNS)
        return context.get_dummy_value()

    return signature, generate


def _emit_widened(
    builder: ir.IRBuilder,
    codes: ir.Value,
    start: ir.Value,
    panel: ir.Value,
    row: ir.Value,
    widening: Sequence[ir.Value],
    width: int,
) -> None:
    """Code that makes a row of numbers from codes."""
    kept = ir.VectorType(panel.type.pointee, LANES)
    narrow = ir.VectorType(codes.type.pointee, LANES)

    magnitude, shift, offset, sign_shift = (spread(builder, x, LANES) for x in widening)
    one, sign_bit = every(INTS, 1 << 23), every(INTS, 1 << 31)
    raised = builder.add(offset, one)
    first = builder.mul(row, INT64(width))
    vectors = Vectors(builder)
    for lane in range(0, width, LANES):
        code = vectors.load(codes, builder.add(start, INT64(lane)), narrow)
        code = builder.zext(code, INTS)
        shifted = builder.shl(builder.and_(code, magnitude), shift)
        small = builder.fsub(
            builder.bitcast(builder.add(shifted, raised), FLOATS),
            builder.bitcast(raised, FLOATS),
        )
        small, large = builder.bitcast(small, INTS), builder.add(shifted, offset)
        word = builder.select(builder.icmp_unsigned("<", small, large), small, large)
        signs = builder.and_(builder.shl(code, sign_shift), sign_bit)
        number = builder.bitcast(builder.or_(word, signs), FLOATS)
        if kept != FLOATS:
            number = builder.fpext(number, kept)
        vectors.store(number, panel, builder.add(first, INT64(lane)))


@inline
def _code(number: Any, least: Any, widening: Any) -> Any:
    """The code of a float32 number, as :class:`Widening` reads it."""
    bits = words.word(number)
    sign = words.shift_right(words.bit_and(bits, 2**31), widening.sign_shift)
    bits = words.bit_and(bits, 2**31 - 1)
    magnitude = words.floating(bits)
    if magnitude < least:
        bits = words.subtract(words.word(magnitude + least), 2**23)
    shifted = words.shift_right(words.subtract(bits, widening.offset), widening.shift)
    return words.bit_or(sign, shifted)


@dataclass(frozen=True)
class Narrow:
    """A matrix held by codes, in the order of panels.

    Parameters
    ----------
    codes : ndarray of uint8 or uint16, shape (panels, k, COLUMNS)
    widening : Widening
    shape : tuple of int
        (1, k, n), as operands are stacks.
    """

    codes: NDArray[Any]
    widening: Widening
    shape: tuple[int, int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its numbers."""
        return _FLOAT32

    def part(self, first: int, last: int) -> Narrow:
        """Some columns, the first of which is the first of a panel."""
        codes = self.codes[first // COLUMNS : -(-last // COLUMNS)]
        return Narrow(codes, self.widening, (1, self.shape[1], last - first))

    @functools.cached_property
    def extent(self) -> Extent:
        """That of its numbers."""
        height = max(1, _STRIP // (max(self.shape[1], 1) * COLUMNS)) * COLUMNS
        columns = self.shape[2]
        strips = (self.part(i, min(i + height, columns)) for i in range(0, columns, height))
        return Extent.of_all(extent(panels(strip, _FLOAT32)) for strip in strips)

    def numbers(self) -> NDArray[np.float32]:
        """All numbers, of shape (1, k, n)."""
        _, steps, columns = self.shape
        packed = panels(self, _FLOAT32)[0]
        whole: NDArray[np.float32] = packed.transpose(1, 0, 2).reshape(
            1, steps, len(packed) * COLUMNS
        )
        return whole[:, :, :columns]


def narrowed(b: NDArray[Any], format: FormatFacts) -> Narrow | None:
    """A matrix by the codes of a format; None where these do not give the same bits again."""
    found = Widening.of(format)
    if found is None:
        return None
    widening, dtype = found
    steps, columns = b.shape
    codes = np.empty((-(-columns // COLUMNS), steps, COLUMNS), dtype)
    same = np.zeros(len(codes), np.bool_)
    launching.run(
        _codes_range,
        len(codes),
        source_of(b[np.newaxis], _FLOAT32),
        np.float32(2.0**format.emin),
        widening,
        steps,
        codes.reshape(-1),
        same,
        cost=_CODE_COST * steps * COLUMNS,
        workspace=lambda: tuple(aligned((_DEPTH, COLUMNS), _FLOAT32) for _ in range(2)),
    )
    if not same.all():
        return None
    codes.flags.writeable = False
    return Narrow(codes, widening, (1, steps, columns))


class Extent(NamedTuple):
    """What the numbers of an array have in common.

    Every number is a multiple of ``2**last_bit`` and has no more than `precision` bits; `greatest`
    is the greatest magnitude, NaN if there is one.  Of zeros alone, the last bit is that of 1.
    """

    last_bit: int
    precision: int
    greatest: float

    @classmethod
    def of_all(cls, extents: Iterable[Extent]) -> Extent:
        """That of several arrays."""
        known = list(extents)
        nonzero = [each for each in known if each.greatest != 0.0]
        return cls(
            min((each.last_bit for each in nonzero), default=0),
            max((each.precision for each in nonzero), default=1),
            float(np.max([each.greatest for each in known], initial=0.0)),
        )


def extent(x: Any) -> Extent:
    """The extent of an array of float32 or float64, or of what is held by codes.

    One that is not finite has the greatest precision, and a last bit far below all others.
    """
    if isinstance(x, Narrow):
        return x.extent
    (flat,) = launching.reading(np.ravel(x, "K"))
    layout = LAYOUTS[x.dtype]
    word, implicit = layout.word, 2 ** (layout.precision - 1)
    pieces = -(-flat.size // _STRIP)
    if pieces == 0:
        return Extent(0, 1, 0.0)
    found = np.empty((pieces, 3), word)
    numbers = word(1), word(implicit - 1)
    cost = _LOOK_COST * min(flat.size, _STRIP)
    launching.run(_extents_range, pieces, flat, *numbers, found, cost=cost)
    leasts, greatests, fractions = zip(*found.tolist(), strict=True)
    greatest = float(word(max(greatests)).view(x.dtype))
    if not math.isfinite(greatest):
        return Extent(_NOT_FINITE, layout.precision, greatest)
    if greatest == 0.0:
        return Extent(0, 1, 0.0)
    last_bit = float(word(min(leasts) + 1).view(x.dtype))
    bits = functools.reduce(operator.or_, fractions, implicit)
    precision = layout.precision + 1 - (bits & -bits).bit_length()
    return Extent(math.frexp(last_bit)[1] - 1, precision, greatest)


def last_bit_exponent(x: Any) -> int:
    """An e such that every number is a multiple of 2**e; very small unless all are finite."""
    return extent(x).last_bit


@caching.kernel
def _extents_range(start, stop, x, one, fraction_bits, found):  # type: ignore[no-untyped-def]
    """The least last bit, the greatest magnitude and the bits of each strip of a flat array.

    Clearing the lowest bit of a word clears that of the number's fraction, if there is one; what it
    takes from the number is its last bit.
    """
    nothing = words.subtract(one, one)
    ones = words.subtract(nothing, one)
    magnitude_bits = words.shift_right(ones, 1)
    for piece in range(start, stop):
        least, greatest, bits = ones, nothing, nothing
        strip = x[piece * _STRIP : (piece + 1) * _STRIP]
        for i in range(strip.size):
            magnitude = words.bit_and(words.word(strip[i]), magnitude_bits)
            cleared = words.bit_and(magnitude, words.subtract(magnitude, one))
            number = words.floating(magnitude)
            rest = words.floating(cleared)
            fraction = words.bit_and(magnitude, fraction_bits)
            last = words.word(number - rest if fraction != 0 else number)
            # Taking one off turns zero into the greatest word, out of the way of the minimum.
            least = words.minimum(least, words.subtract(last, one))
            greatest = words.maximum(greatest, magnitude)
            bits = words.bit_or(bits, fraction)
        found[piece, 0], found[piece, 1], found[piece, 2] = least, greatest, bits


# --- panels ---------------------------------------------------------------------------------------


def right_of(b: Any, dtype: DTypeLike) -> Right:
    """A right operand for kernels: codes as they are, numbers in `dtype`.

    Parameters
    ----------
    b : ndarray, shape (batch, k, n), or Narrow
    dtype : dtype

    Returns
    -------
    Right
    """
    _, steps, columns = b.shape
    if isinstance(b, Narrow):
        memory = b.codes.reshape(-1)
        memory.flags.writeable = False
        return Right(memory, 0, steps * COLUMNS, COLUMNS, 1, columns, tuple(b.widening))
    b = np.asarray(b, dtype)
    strides = _strides(b)
    if strides is None:
        b, strides = np.ascontiguousarray(b), (steps * columns, columns, 1)
    memory = _memory(b, strides)
    unused = (np.uint32(0),) * len(Widening._fields)
    return Right(memory, strides[0], COLUMNS * strides[2], *strides[1:], columns, unused)


def _strides(b: NDArray[Any]) -> tuple[int, int, int] | None:
    """How far apart numbers are, if they lie side by side by rows or by columns."""
    if type(b) is not np.ndarray or any(each < 0 or each % b.itemsize for each in b.strides):
        return None
    batch, step, column = (each // b.itemsize for each in b.strides)
    if b.shape[2] == 1:
        column = 1
    elif b.shape[1] == 1:
        step = 1
    return (batch, step, column) if 1 in (step, column) else None


def _memory(b: NDArray[Any], strides: tuple[int, int, int]) -> NDArray[Any]:
    """The memory from the first number of an array to its last one, read-only."""
    by_columns = b.transpose(0, 2, 1)
    if b.flags.c_contiguous:
        memory = b.reshape(-1)
    elif by_columns.flags.c_contiguous:  # as_strided takes 10 times as long
        memory = by_columns.reshape(-1)
    else:
        extent = 1 + sum((n - 1) * stride for n, stride in zip(b.shape, strides, strict=True))
        memory = np.lib.stride_tricks.as_strided(b, (extent if b.size else 0,), (b.itemsize,))
    memory.flags.writeable = False
    return memory


class Source(NamedTuple):
    """What panels are filled from, and the part that does it."""

    part: int  # its address
    right: Right  # its memory as bytes, so that kernels are compiled once for all types of it
    zero: Any  # of the type of the panels' numbers


def source_of(b: Any, dtype: DTypeLike, width: int = COLUMNS) -> Source:
    """What kernels fill panels of numbers of a type from.

    Parameters
    ----------
    b : ndarray, shape (batch, k, n), or Narrow
    dtype : dtype
    width : int
        Of the panels, :data:`COLUMNS` or :data:`TILE_COLUMNS`: all or a part of the columns by
        which codes lie.

    Returns
    -------
    Source
    """
    right, number = right_of(b, dtype), np.dtype(dtype)
    filling = _filling(width, right.memory.dtype, number)
    right = right._replace(memory=right.memory.view(np.uint8))
    return Source(filling.address, right, number.type(0))


_RIGHT: Final = types.NamedTuple(
    [
        types.Array(types.uint8, 1, "C", readonly=True),
        *[types.intp] * 5,
        types.UniTuple(types.uint32, len(Widening._fields)),
    ],
    Right,
)


def _arguments(number: types.Type) -> tuple[types.Type, ...]:
    """The arguments of a part that fills panels of numbers of a type."""
    return types.Array(number, 2, "C"), _RIGHT, *[types.intp] * 4


@functools.cache
def _filling(width: int, memory: np.dtype[Any], number: np.dtype[Any]) -> parts.Part:
    """The part that fills panels of a width and a type from memory of a type."""
    memory_name = memory.name

    @caching.part
    def fill_rows(panel, right, batch, number, first, last):  # type: ignore[no-untyped-def]
        _fill_rows(panel, right, batch, number, first, last, width, memory_name)
        return 0

    return parts.compiled(fill_rows, *_arguments(numpy_support.from_dtype(number)))


@intrinsic
def fill(
    _typing_context: Any, panel: Any, source: Any, batch: Any, number: Any, first: Any, last: Any
) -> Any:
    """Fill some rows of a panel with the terms ``first`` to ``last`` of columns of a `Source`."""
    if source.types[-1] != panel.dtype:
        raise TypingError(f"panels of {panel.dtype} are filled from {source.types[-1]}")
    indices = [types.intp] * 4
    arguments = _arguments(panel.dtype)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, right, _ = cgutils.unpack_tuple(builder, values[1], len(Source._fields))
        parts.emit_call(context, builder, address, arguments, [values[0], right, *values[2:]])
        return context.get_dummy_value()

    return types.none(panel, source, *indices), generate


@intrinsic
def _fill_rows(
    _typing_context: Any,
    panel: Any,
    right: Any,
    batch: Any,
    number: Any,
    first: Any,
    last: Any,
    width: Any,
    memory: Any,
) -> Any:
    """The same in vector code: Numba's loops would be half of what some kernels take to compile.

    The width of panels and the type of the memory are constants.
    """
    if not isinstance(memory, types.StringLiteral):
        return None
    columns, kind = width.literal_value, numpy_support.from_dtype(np.dtype(memory.literal_value))
    signature = types.none(panel, right, *[types.intp] * 4, width, memory)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = data_of(context, builder, panel, arguments[0])
        fields = Right._make(cgutils.unpack_tuple(builder, arguments[1], len(Right._fields)))
        source = data_of(context, builder, right.types[0], fields.memory)
        source = builder.bitcast(source, context.get_data_type(kind).as_pointer())
        batch, number, first, last = arguments[2:6]
        column = builder.mul(number, INT64(columns))
        start = _place_of(builder, fields, batch, first, column)
        source = builder.gep(source, [start])
        rows = builder.sub(last, first)
        with builder.if_then(builder.icmp_signed(">", rows, INT64(0))):
            if isinstance(kind, types.Integer):
                widening = cgutils.unpack_tuple(builder, fields.widening, len(Widening._fields))
                _emit_widened_rows(builder, source, fields.step, place, rows, widening, columns)
            else:
                there = builder.sub(fields.columns, column)
                copy = _Copy(builder, source, fields.step, fields.column, place, columns)
                copy.emit(there, rows)
        return context.get_dummy_value()

    return signature, generate


def _place_of(
    builder: ir.IRBuilder, right: Right, batch: ir.Value, term: ir.Value, column: ir.Value
) -> ir.Value:
    """Where a number is in the memory of a right operand."""
    terms = (
        (batch, right.batch),
        (builder.sdiv(column, INT64(COLUMNS)), right.panel),
        (term, right.step),
        (builder.srem(column, INT64(COLUMNS)), right.column),
    )
    place = INT64(0)
    for number, apart in terms:
        place = builder.add(place, builder.mul(number, apart))
    return place


def _emit_widened_rows(
    builder: ir.IRBuilder,
    codes: ir.Value,
    step: ir.Value,
    panel: ir.Value,
    rows: ir.Value,
    widening: Sequence[ir.Value],
    width: int,
) -> None:
    def make_row(row: ir.Value, _: Sequence[ir.Value]) -> Sequence[ir.Value]:
        _emit_widened(builder, codes, builder.mul(row, step), panel, row, widening, width)
        return ()

    Vectors(builder).loop(INT64(0), rows, 1, (), make_row)


class _Copy:
    """Code that copies rows of numbers, as they lie in memory, into a panel."""

    def __init__(
        self,
        builder: ir.IRBuilder,
        source: ir.Value,
        step: ir.Value,
        column: ir.Value,
        panel: ir.Value,
        width: int,
    ) -> None:
        self.builder = builder
        self.vectors = Vectors(builder)
        self.source, self.step, self.column = source, step, column
        self.panel, self.width = panel, width
        self.kind = vector_of(source.type.pointee)
        self.lanes = self.kind.count

    def emit(self, there: ir.Value, rows: ir.Value) -> None:
        """Put zeros behind the columns that are `there`.

        Whole rows that lie side by side are copied as vectors; of whole columns that do, squares
        are transposed.  What is left goes number by number.
        """
        builder, width = self.builder, INT64(self.width)
        whole = builder.icmp_signed(">=", there, width)
        by_rows = builder.and_(whole, builder.icmp_signed("==", self.column, INT64(1)))
        with builder.if_else(by_rows) as (side_by_side, apart):
            with side_by_side:
                self.vectors.loop(INT64(0), rows, 1, (), self._copy_row)
            with apart:
                done = builder.and_(rows, INT64(-self.lanes))
                done = builder.select(whole, done, INT64(0))
                with builder.if_then(builder.icmp_signed("<", INT64(0), done)):
                    self.vectors.loop(INT64(0), done, self.lanes, (), self._transpose_band)
                with builder.if_then(builder.icmp_signed("<", done, rows)):
                    self.columns = builder.select(whole, width, there)
                    self.vectors.loop(done, rows, 1, (), self._copy_numbers)

    def _row(self, row: ir.Value) -> ir.Value:
        return self.builder.mul(row, INT64(self.width))

    def _copy_row(self, row: ir.Value, _: Sequence[ir.Value]) -> Sequence[ir.Value]:
        builder, vectors = self.builder, self.vectors
        here, there = builder.mul(row, self.step), self._row(row)
        for lane in range(0, self.width, self.lanes):
            numbers = vectors.load(self.source, builder.add(here, INT64(lane)), self.kind)
            vectors.store(numbers, self.panel, builder.add(there, INT64(lane)))
        return ()

    def _transpose_band(self, row: ir.Value, _: Sequence[ir.Value]) -> Sequence[ir.Value]:
        builder, vectors = self.builder, self.vectors

        def transpose_square(first: ir.Value, _: Sequence[ir.Value]) -> Sequence[ir.Value]:
            columns = []
            for j in range(self.lanes):
                start = builder.mul(builder.add(first, INT64(j)), self.column)
                columns.append(vectors.load(self.source, builder.add(start, row), self.kind))
            for i, numbers in enumerate(vectors.transposed(columns)):
                start = self._row(builder.add(row, INT64(i)))
                vectors.store(numbers, self.panel, builder.add(start, first))
            return ()

        vectors.loop(INT64(0), INT64(self.width), self.lanes, (), transpose_square)
        return ()

    def _copy_numbers(self, row: ir.Value, _: Sequence[ir.Value]) -> Sequence[ir.Value]:
        builder, vectors = self.builder, self.vectors
        here = builder.gep(self.source, [builder.mul(row, self.step)])
        there = builder.gep(self.panel, [self._row(row)])
        for lane in range(0, self.width, self.lanes):
            vectors.store(ir.Constant(self.kind, None), there, INT64(lane))

        def copy_number(j: ir.Value, _: Sequence[ir.Value]) -> Sequence[ir.Value]:
            number = builder.load(builder.gep(here, [builder.mul(j, self.column)]))
            builder.store(number, builder.gep(there, [j]))
            return ()

        vectors.loop(INT64(0), self.columns, 1, (), copy_number)
        return ()


@caching.kernel
def _codes_range(start, stop, work, right, least, widening, steps, codes, same):  # type: ignore[no-untyped-def]
    """Make codes of panels of float32 numbers, and numbers of the codes again, to compare both."""
    panel, again = work
    for number in range(start, stop):
        equal = True
        for first in range(0, steps, panel.shape[0]):
            last = min(first + panel.shape[0], steps)
            fill(panel, right, 0, number, first, last)
            for row in range(last - first):
                place = (number * steps + first + row) * COLUMNS
                for j in range(COLUMNS):
                    codes[place + j] = _code(panel[row, j], least, widening)
                _widen(codes, place, again, row, widening)
                for j in range(COLUMNS):
                    equal &= words.word(again[row, j]) == words.word(panel[row, j])
        same[number] = equal


@caching.kernel
def _panels_range(start, stop, right, out):  # type: ignore[no-untyped-def]
    count = out.shape[1]
    for index in range(start, stop):
        batch = index // count
        number = index - batch * count
        fill(out[batch, number], right, batch, number, 0, out.shape[2])


def panels(b: Any, dtype: DTypeLike) -> Any:
    """The columns of (batch, k, n): (batch, panels, k, COLUMNS), padded with zeros, read-only."""
    batch, steps, columns = b.shape
    packed = aligned((batch, -(-columns // COLUMNS), steps, COLUMNS), dtype)
    count, cost = batch * packed.shape[1], _COST * steps * COLUMNS
    launching.run(_panels_range, count, source_of(b, dtype), packed, cost=cost)
    packed.flags.writeable = False
    return packed
