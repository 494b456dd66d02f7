"""The inner loop of a matrix product, as vector code that keeps its accumulators in registers.

Numba's loops go through memory for every accumulator at every step; written out as vectors the
loop runs at the speed of the arithmetic units.  One builder makes the plain and the rounded loop,
in float32 and float64 lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

__all__ = [
    "COLUMNS",
    "ROWS",
    "advance_plain",
    "advance_plain_rows",
    "advance_ranged",
    "advance_rounded",
]

COLUMNS: Final = 64
"""Columns of a panel, and of a tile of accumulators."""

ROWS: Final = 4
"""Rows that the plain loop advances together, to use each element of a panel that often."""

_VECTOR_BITS: Final = 512  # narrower machines split a vector, with no change of result
_INDEX: Final = ir.IntType(64)


class _Lanes:
    """The vector types and constants of a float type."""

    def __init__(self, number: ir.Type, bits: int) -> None:
        self.count = _VECTOR_BITS // bits
        self.bits = bits
        self.number = number
        self.numbers = ir.VectorType(number, self.count)
        self.words = ir.VectorType(ir.IntType(bits), self.count)

    def constant(self, word: int) -> ir.Constant:
        return ir.Constant(self.words, [ir.Constant(ir.IntType(self.bits), word)] * self.count)

    def spread(self, builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
        """A vector whose lanes all are the scalar."""
        vector = ir.VectorType(scalar.type, self.count)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, _INDEX(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.count), None)
        return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


class _RoundedStep:
    """Rounded multiply-adds, and whether any of their results has to be computed again exactly.

    See :func:`fpemu.linalg.fast_parameters` for the proof.  ``half`` is half a unit in the last
    place of the format as an increment of the carrier's bits, ``tail`` the bits below that unit; if
    `ranged`, results outside ``least .. least + span`` in magnitude are left to the exact step.
    """

    def __init__(
        self, lanes: _Lanes, builder: ir.IRBuilder, parameters: Sequence[ir.Value], *, ranged: bool
    ) -> None:
        self.lanes = lanes
        self.builder = builder
        self.ranged = ranged
        self.half, self.tail, self.least, self.span = (
            lanes.spread(builder, parameter) for parameter in parameters
        )
        self.magnitude = lanes.constant(2 ** (lanes.bits - 1) - 1)

    def begin(self) -> None:
        """Forget what was seen: called at the head of every step."""
        self.lowest = self.lanes.constant(2**self.lanes.bits - 1)
        self.farthest = self.lanes.constant(0)

    def round(self, number: ir.Value) -> ir.Value:
        builder = self.builder
        raised = builder.add(builder.bitcast(number, self.lanes.words), self.half)
        low = builder.and_(raised, self.tail)
        rounded = builder.xor(raised, low)
        self.lowest = self._extreme("<", self.lowest, low)
        if self.ranged:
            offset = builder.sub(builder.and_(rounded, self.magnitude), self.least)
            self.farthest = self._extreme(">", self.farthest, offset)
        return builder.bitcast(rounded, self.lanes.numbers)

    def _extreme(self, order: str, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_unsigned(order, a, b), a, b)

    def needs_exact(self) -> ir.Value:
        """Whether a result was a tie or out of range."""
        builder = self.builder
        flags = builder.icmp_unsigned("==", self.lowest, self.lanes.constant(0))
        if self.ranged:
            outside = builder.icmp_unsigned(">", self.farthest, self.span)
            flags = builder.or_(flags, outside)
        mask = builder.bitcast(flags, ir.IntType(self.lanes.count))
        return builder.icmp_unsigned("!=", mask, mask.type(0))


def _data(context: Any, builder: ir.IRBuilder, kind: Any, array: Any) -> tuple[ir.Value, ir.Value]:
    """The data pointer and the last extent of a C-contiguous array."""
    fields = arrayobj.make_array(kind)(context, builder, array)
    shape = cgutils.unpack_tuple(builder, fields.shape, kind.ndim)
    return fields.data, shape[-1]


def _advance(rows: int, *, rounded: bool = False, ranged: bool = False) -> Any:
    """An intrinsic ``advance(a, row, panel, accumulators, first, stop, parameters)``.

    From step ``first`` up to ``stop`` it adds ``a[row + r, step] * panel[step, c]`` to
    ``accumulators[r, c]`` for ``r < rows`` and all columns.  The plain loop ends with the steps,
    the rounded one before the first step that has to be done exactly.  Returns the number of the
    step it has reached.
    """

    def typed(  # type: ignore[no-untyped-def]
        _typing_context, a, row, panel, accumulators, first, stop, parameters
    ):
        index = types.intp
        signature = index(a, index, panel, accumulators, index, index, parameters)
        lanes = {
            types.float32: _Lanes(ir.FloatType(), 32),
            types.float64: _Lanes(ir.DoubleType(), 64),
        }[a.dtype]

        def generate(  # type: ignore[no-untyped-def]
            context, builder, signature, arguments
        ):
            a_data, row_length = _data(context, builder, signature.args[0], arguments[0])
            panel_data, _ = _data(context, builder, signature.args[2], arguments[2])
            tile_data, _ = _data(context, builder, signature.args[3], arguments[3])
            row, first, stop = arguments[1], arguments[4], arguments[5]
            left = [
                builder.gep(a_data, [builder.mul(builder.add(row, _INDEX(r)), row_length)])
                for r in range(rows)
            ]
            tile = _Tile(lanes, builder, tile_data, rows)
            step_of = None
            if rounded:
                words = cgutils.unpack_tuple(builder, arguments[6], len(signature.args[6]))
                step_of = _RoundedStep(lanes, builder, words, ranged=ranged)
            return _emit_loop(builder, tile, left, panel_data, first, stop, step_of)

        return signature, generate

    return intrinsic(typed)


class _Tile:
    """A block of accumulators: its vectors' places in memory, and loads and stores."""

    def __init__(self, lanes: _Lanes, builder: ir.IRBuilder, data: ir.Value, rows: int) -> None:
        self.lanes = lanes
        self.vectors = COLUMNS // lanes.count
        self.rows = rows
        self.places = [
            self.place(builder, data, _INDEX(r * COLUMNS), v)
            for r in range(rows)
            for v in range(self.vectors)
        ]

    def place(self, builder: ir.IRBuilder, data: ir.Value, offset: ir.Value, v: int) -> ir.Value:
        start = builder.add(offset, _INDEX(v * self.lanes.count))
        return builder.bitcast(builder.gep(data, [start]), self.lanes.numbers.as_pointer())

    def load(self, builder: ir.IRBuilder, place: ir.Value) -> ir.Value:
        return builder.load(place, align=self.lanes.bits // 8)

    def store(self, builder: ir.IRBuilder, values: Sequence[ir.Value]) -> None:
        for value, place in zip(values, self.places, strict=True):
            builder.store(value, place, align=self.lanes.bits // 8)


def _emit_loop(
    builder: ir.IRBuilder,
    tile: _Tile,
    left: Sequence[ir.Value],
    panel: ir.Value,
    first: ir.Value,
    stop: ir.Value,
    rounded_step: _RoundedStep | None,
) -> ir.Value:
    """The loop over steps; the accumulators live in registers while it runs."""
    lanes = tile.lanes
    multiply_add = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(lanes.numbers, [lanes.numbers] * 3),
        f"llvm.fma.v{lanes.count}f{lanes.bits}",
    )
    before = builder.block
    loop = builder.append_basic_block("advance.loop")
    proceed = builder.append_basic_block("advance.proceed")
    leave = builder.append_basic_block("advance.leave")
    initial = [tile.load(builder, place) for place in tile.places]
    builder.cbranch(builder.icmp_signed("<", first, stop), loop, leave)

    builder.position_at_end(loop)
    step = builder.phi(_INDEX)
    old = [builder.phi(lanes.numbers) for _ in initial]
    offset = builder.mul(step, _INDEX(COLUMNS))
    right = [tile.load(builder, tile.place(builder, panel, offset, v)) for v in range(tile.vectors)]
    if rounded_step is not None:
        rounded_step.begin()
    new = []
    for r in range(tile.rows):
        scalar = builder.load(builder.gep(left[r], [step]))
        spread = lanes.spread(builder, scalar)
        for v in range(tile.vectors):
            number = builder.call(multiply_add, [spread, right[v], old[r * tile.vectors + v]])
            new.append(number if rounded_step is None else rounded_step.round(number))
    if rounded_step is not None:
        builder.cbranch(rounded_step.needs_exact(), leave, proceed)
    else:
        builder.branch(proceed)

    builder.position_at_end(proceed)
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
    if rounded_step is not None:
        reached.add_incoming(step, loop)
    final = []
    for start, held, value in zip(initial, old, new, strict=True):
        phi = builder.phi(lanes.numbers)
        phi.add_incoming(start, before)
        phi.add_incoming(value, proceed)
        if rounded_step is not None:
            phi.add_incoming(held, loop)
        final.append(phi)
    tile.store(builder, final)
    return reached


advance_plain = _advance(1)
advance_plain_rows = _advance(ROWS)
advance_rounded = _advance(1, rounded=True)
advance_ranged = _advance(1, rounded=True, ranged=True)
