"""The inner loop of a matrix product, as vector code that keeps its accumulators in registers.

Numba's loops go through memory for every accumulator at every step; written out as vectors the
loop runs at the speed of the arithmetic units.  One builder makes the plain and the rounded loop,
in float32 and float64 lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from fpemu._kernels.panels import COLUMNS
from fpemu._kernels.vectors import spread

__all__ = [
    "PLAIN_ROWS",
    "ROUNDED_ROWS",
    "VECTOR_BITS",
    "advance_plain",
    "advance_plain_rows",
    "advance_ranged",
    "advance_ranged_rows",
    "advance_ranged_running",
    "advance_rounded",
    "advance_rounded_rows",
    "advance_rounded_running",
    "settle_ranged",
    "settle_ranged_rows",
    "settle_rounded",
    "settle_rounded_rows",
]

PLAIN_ROWS: Final = 4
"""Rows that the plain loop advances together, to use each element of a panel that often."""

# Twice the accumulators are more registers than narrower machines have.
ROUNDED_ROWS: Final = 2 if get_host_cpu_features().get("avx512f") else 1
"""Rows that the rounded loops advance together."""

VECTOR_BITS: Final = 512  # narrower machines split a vector, with no change of result
_INDEX: Final = ir.IntType(64)


class _Lanes:
    """The vector types and constants of a float type."""

    def __init__(self, number: ir.Type, bits: int) -> None:
        self.count = VECTOR_BITS // bits
        self.bits = bits
        self.number = number
        self.numbers = ir.VectorType(number, self.count)
        self.words = ir.VectorType(ir.IntType(bits), self.count)

    def constant(self, word: int) -> ir.Constant:
        return ir.Constant(self.words, [ir.Constant(ir.IntType(self.bits), word)] * self.count)

    def spread(self, builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
        """A vector whose lanes all are the scalar."""
        return spread(builder, scalar, self.count)

    def multiply_add(self, builder: ir.IRBuilder) -> ir.Function:
        """The vector fma."""
        kind = ir.FunctionType(self.numbers, [self.numbers] * 3)
        name = f"llvm.fma.v{self.count}f{self.bits}"
        return cgutils.get_or_insert_function(builder.module, kind, name)

    def absolute(self, builder: ir.IRBuilder) -> ir.Function:
        """The vector of magnitudes."""
        kind = ir.FunctionType(self.numbers, [self.numbers])
        name = f"llvm.fabs.v{self.count}f{self.bits}"
        return cgutils.get_or_insert_function(builder.module, kind, name)


class _RoundedStep:
    """Rounded multiply-adds, at first guess and at second look.

    See ``_fast_parameters`` of the sequential kernels for the proof.  ``half`` is half a unit in
    the last place of the format as an increment of the carrier's bits, ``tail`` the bits below that
    unit, ``dropped`` their number; if `ranged`, results outside ``least .. least + span`` in
    magnitude are doubtful.
    """

    def __init__(
        self, lanes: _Lanes, builder: ir.IRBuilder, parameters: Sequence[ir.Value], *, ranged: bool
    ) -> None:
        self.lanes = lanes
        self.builder = builder
        self.ranged = ranged
        self.half, self.tail, self.dropped, self.least, self.span = (
            lanes.spread(builder, parameter) for parameter in parameters
        )
        self.magnitude = lanes.constant(2 ** (lanes.bits - 1) - 1)

    def begin_guess(self) -> None:
        """Forget what was seen: called at the head of every step."""
        self.lowest = self.lanes.constant(2**self.lanes.bits - 1)
        self.farthest = self.lanes.constant(0)

    def guess(self, number: ir.Value) -> ir.Value:
        """Round half up: right but for ties, whose sum with ``half`` has an empty tail."""
        builder = self.builder
        raised = builder.add(builder.bitcast(number, self.lanes.words), self.half)
        low = builder.and_(raised, self.tail)
        rounded = builder.xor(raised, low)
        self.lowest = self._extreme("<", self.lowest, low)
        if self.ranged:
            self.farthest = self._extreme(">", self.farthest, self._offset(rounded))
        return builder.bitcast(rounded, self.lanes.numbers)

    def _offset(self, rounded: ir.Value) -> ir.Value:
        return self.builder.sub(self.builder.and_(rounded, self.magnitude), self.least)

    def _extreme(self, order: str, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_unsigned(order, a, b), a, b)

    def is_doubtful(self) -> ir.Value:
        """Whether a guess was a tie or out of range."""
        flags = self.builder.icmp_unsigned("==", self.lowest, self.lanes.constant(0))
        if self.ranged:
            outside = self.builder.icmp_unsigned(">", self.farthest, self.span)
            flags = self.builder.or_(flags, outside)
        mask = self.builder.bitcast(flags, ir.IntType(self.lanes.count))
        return self.builder.icmp_unsigned("!=", mask, mask.type(0))

    def second_look(self, a: ir.Value, b: ir.Value, old: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Round ``old + a*b`` half to even; and whether that is not sure to be right.

        It is right for ties that are the sum exactly.  The sum is exact if and only if both
        ``a*b = sum - old`` and ``sum - a*b = old`` hold in the lanes' arithmetic, and for zeros.
        """
        builder, lanes = self.builder, self.lanes
        multiply_add = lanes.multiply_add(builder)
        number = builder.call(multiply_add, [a, b, old])
        bits = builder.bitcast(number, lanes.words)
        one = lanes.constant(1)
        odd = builder.and_(builder.lshr(bits, self.dropped), one)
        raised = builder.add(builder.add(bits, builder.sub(self.half, one)), odd)
        rounded = builder.xor(raised, builder.and_(raised, self.tail))
        tie = builder.icmp_unsigned("==", builder.and_(bits, self.tail), self.half)
        rest = builder.call(multiply_add, [a, b, builder.fsub(old, number)])
        back = builder.call(multiply_add, [builder.fneg(a), b, number])
        zero = ir.Constant(lanes.numbers, None)
        inexact = builder.or_(
            builder.fcmp_unordered("!=", rest, zero), builder.fcmp_unordered("!=", back, old)
        )
        undecided = builder.and_(tie, inexact)
        if self.ranged:
            outside = builder.icmp_unsigned(">", self._offset(rounded), self.span)
            nonzero = builder.fcmp_unordered("!=", number, zero)
            undecided = builder.or_(undecided, builder.and_(outside, nonzero))
        return builder.bitcast(rounded, lanes.numbers), undecided


def _data(context: Any, builder: ir.IRBuilder, kind: Any, array: Any) -> tuple[ir.Value, ir.Value]:
    """The data pointer and the last extent of a C-contiguous array."""
    fields = arrayobj.make_array(kind)(context, builder, array)
    shape = cgutils.unpack_tuple(builder, fields.shape, kind.ndim)
    return fields.data, shape[-1]


def _tile_intrinsic(rows: int, emit: Callable[..., ir.Value], last: Any = types.intp) -> Any:
    """An intrinsic ``f(a, row, origin, panel, accumulators, step, last, parameters)`` of a tile.

    ``emit(builder, tile, left, panel, step, last, words)`` writes its code: `left` has the data of
    the rows ``row`` to ``row + rows`` of `a` from the term `origin` on, that of step 0; `words` the
    parameters; an array `last` is its data.
    """

    def typed(  # type: ignore[no-untyped-def]
        _typing_context, a, row, origin, panel, accumulators, step, last_, parameters
    ):
        index = types.intp
        signature = index(a, index, index, panel, accumulators, index, last, parameters)
        lanes = {
            types.float32: _Lanes(ir.FloatType(), 32),
            types.float64: _Lanes(ir.DoubleType(), 64),
        }[a.dtype]

        def generate(  # type: ignore[no-untyped-def]
            context, builder, signature, arguments
        ):
            kinds = signature.args
            a_data, row_length = _data(context, builder, kinds[0], arguments[0])
            panel_data, _ = _data(context, builder, kinds[3], arguments[3])
            tile_data, _ = _data(context, builder, kinds[4], arguments[4])
            _, row, origin, _, _, step, last_value, parameters = arguments
            if isinstance(kinds[6], types.Array):
                last_value, _ = _data(context, builder, kinds[6], last_value)
            starts = [builder.mul(builder.add(row, _INDEX(r)), row_length) for r in range(rows)]
            left = [builder.gep(a_data, [builder.add(start, origin)]) for start in starts]
            tile = _Tile(lanes, builder, tile_data, rows)
            words = cgutils.unpack_tuple(builder, parameters, len(kinds[7]))
            return emit(builder, tile, left, panel_data, step, last_value, words)

        return signature, generate

    return intrinsic(typed)


def _advance(
    rows: int, *, rounded: bool = False, ranged: bool = False, running: bool = False
) -> Any:
    """An intrinsic that takes a tile from a step on up to the step ``last``.

    Each step adds ``a[row + r, origin + step] * panel[step, c]`` to ``accumulators[r, c]`` for
    ``r < rows`` and all columns.  The plain loop ends with the steps, the rounded one before the
    first step that is doubtful.  Returns the number of the step it has reached.
    """

    def emit(  # type: ignore[no-untyped-def]
        builder, tile, left, panel, step, last, words
    ):
        rounded_step = _RoundedStep(tile.lanes, builder, words, ranged=ranged) if rounded else None
        return _emit_loop(builder, tile, left, panel, step, last, rounded_step, running)

    return _tile_intrinsic(rows, emit)


def _settle(rows: int, *, ranged: bool = False) -> Any:
    """An intrinsic that takes a second look at a doubtful step.

    Accumulators that it leaves undecided stay as they were.  Their bits are set in the array
    ``last`` (int64), which has one number for each vector of the tile, row by row.  Returns 0.
    """

    def emit(  # type: ignore[no-untyped-def]
        builder, tile, left, panel, step, undecided, words
    ):
        rounded_step = _RoundedStep(tile.lanes, builder, words, ranged=ranged)
        old = [tile.load(builder, place) for place in tile.places]
        new = []
        factors = tile.factors(builder, left, panel, step)
        for number, ((a, b), total) in enumerate(zip(factors, old, strict=True)):
            value, open_ = rounded_step.second_look(a, b, total)
            new.append(builder.select(open_, total, value))
            mask = builder.bitcast(open_, ir.IntType(tile.lanes.count))
            place = builder.gep(undecided, [_INDEX(number)])
            builder.store(builder.zext(mask, _INDEX), place)
        tile.store(builder, new, tile.places)
        return _INDEX(0)

    return _tile_intrinsic(rows, emit, types.Array(types.int64, 1, "C"))


class _Tile:
    """A block of accumulators: its vectors' places in memory, and loads and stores.

    Below its rows may lie as many rows of running sums of magnitudes, and of squares.
    """

    def __init__(self, lanes: _Lanes, builder: ir.IRBuilder, data: ir.Value, rows: int) -> None:
        self.lanes = lanes
        self.vectors = COLUMNS // lanes.count
        self.rows = rows
        self.places, self.magnitudes, self.squares = (
            [
                self.place(builder, data, _INDEX((band * rows + r) * COLUMNS), v)
                for r in range(rows)
                for v in range(self.vectors)
            ]
            for band in range(3)
        )

    def place(self, builder: ir.IRBuilder, data: ir.Value, offset: ir.Value, v: int) -> ir.Value:
        start = builder.add(offset, _INDEX(v * self.lanes.count))
        return builder.bitcast(builder.gep(data, [start]), self.lanes.numbers.as_pointer())

    def load(self, builder: ir.IRBuilder, place: ir.Value) -> ir.Value:
        return builder.load(place, align=self.lanes.bits // 8)

    def factors(
        self, builder: ir.IRBuilder, left: Sequence[ir.Value], panel: ir.Value, step: ir.Value
    ) -> list[tuple[ir.Value, ir.Value]]:
        """What is multiplied in a step, accumulator by accumulator."""
        offset = builder.mul(step, _INDEX(COLUMNS))
        right = [
            self.load(builder, self.place(builder, panel, offset, v)) for v in range(self.vectors)
        ]
        pairs = []
        for row in left:
            scalar = self.lanes.spread(builder, builder.load(builder.gep(row, [step])))
            pairs += [(scalar, column) for column in right]
        return pairs

    def store(
        self, builder: ir.IRBuilder, values: Sequence[ir.Value], places: Sequence[ir.Value]
    ) -> None:
        for value, place in zip(values, places, strict=True):
            builder.store(value, place, align=self.lanes.bits // 8)


def _emit_loop(
    builder: ir.IRBuilder,
    tile: _Tile,
    left: Sequence[ir.Value],
    panel: ir.Value,
    first: ir.Value,
    stop: ir.Value,
    rounded_step: _RoundedStep | None,
    running: bool,
) -> ir.Value:
    """The loop over steps; the accumulators live in registers while it runs."""
    lanes = tile.lanes
    multiply_add = lanes.multiply_add(builder)
    places = [*tile.places, *tile.magnitudes, *tile.squares] if running else tile.places
    count = len(tile.places)
    before = builder.block
    loop = builder.append_basic_block("advance.loop")
    proceed = builder.append_basic_block("advance.proceed")
    leave = builder.append_basic_block("advance.leave")
    initial = [tile.load(builder, place) for place in places]
    builder.cbranch(builder.icmp_signed("<", first, stop), loop, leave)

    builder.position_at_end(loop)
    step = builder.phi(_INDEX)
    old = [builder.phi(lanes.numbers) for _ in initial]
    factors = tile.factors(builder, left, panel, step)
    sums = [
        builder.call(multiply_add, [a, b, total])
        for (a, b), total in zip(factors, old[:count], strict=True)
    ]
    new = sums
    if rounded_step is None:
        builder.branch(proceed)
    else:
        rounded_step.begin_guess()
        new = [rounded_step.guess(number) for number in sums]
        builder.cbranch(rounded_step.is_doubtful(), leave, proceed)

    builder.position_at_end(proceed)
    if running:
        magnitudes, squares = old[count : 2 * count], old[2 * count :]
        absolute = lanes.absolute(builder)
        new = [
            *new,
            *(
                builder.fadd(sum_, builder.call(absolute, [number]))
                for sum_, number in zip(magnitudes, new, strict=True)
            ),
            *(
                builder.call(multiply_add, [number, number, sum_])
                for sum_, number in zip(squares, new, strict=True)
            ),
        ]
    following = builder.add(step, _INDEX(1))
    builder.cbranch(builder.icmp_signed("<", following, stop), loop, leave)

    step.add_incoming(first, before)
    step.add_incoming(following, proceed)
    for phi, start, value in zip(old, initial, new, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(value, proceed)

    builder.position_at_end(leave)
    reached = builder.phi(_INDEX)
    reached.add_incoming(first, before)
    reached.add_incoming(following, proceed)
    final = [builder.phi(lanes.numbers) for _ in initial]
    for phi, start, value in zip(final, initial, new, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(value, proceed)
    if rounded_step is not None:  # left before a doubtful step, with what it began with
        reached.add_incoming(step, loop)
        for phi, value in zip(final, old, strict=True):
            phi.add_incoming(value, loop)
    tile.store(builder, final, places)
    return reached


advance_plain = _advance(1)
advance_plain_rows = _advance(PLAIN_ROWS)
advance_rounded = _advance(1, rounded=True)
advance_rounded_rows = _advance(ROUNDED_ROWS, rounded=True)
advance_ranged = _advance(1, rounded=True, ranged=True)
advance_ranged_rows = _advance(ROUNDED_ROWS, rounded=True, ranged=True)
advance_rounded_running = _advance(1, rounded=True, running=True)
advance_ranged_running = _advance(1, rounded=True, ranged=True, running=True)
settle_rounded = _settle(1)
settle_rounded_rows = _settle(ROUNDED_ROWS)
settle_ranged = _settle(1, ranged=True)
settle_ranged_rows = _settle(ROUNDED_ROWS, ranged=True)
