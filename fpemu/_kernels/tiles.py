"""The inner loop of a matrix product, as vector code that keeps its accumulators in registers.

Numba's loops go through memory for every accumulator at every step; written out as vectors the
loop runs at the speed of the arithmetic units.  One builder makes the plain and the rounded loop,
in float32 and float64 lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from fpemu._kernels.panels import MANY_REGISTERS, TILE_COLUMNS
from fpemu._kernels.vectors import (
    DOUBLES,
    FLOATS,
    INT64,
    Vectors,
    data_of,
    every,
    spread,
    vector_of,
)

__all__ = [
    "MOST_STEPS",
    "ONE_ROW",
    "PLAIN_ROWS",
    "ROUNDED_ROWS",
    "Rows",
    "add_block_plain",
    "add_block_plain_rows",
    "add_kept",
    "add_plain",
    "add_rounded",
    "advance_keeping",
    "advance_ranged",
    "advance_ranged_rows",
    "advance_rounded",
    "advance_rounded_rows",
    "settle",
    "settle_added",
    "settle_ranged",
    "settle_ranged_rows",
    "settle_rounded",
    "settle_rounded_rows",
    "steps_at_once",
    "sum_plain",
    "sum_plain_rows",
]


class Rows(NamedTuple):
    """How many rows a loop advances together, in lanes of float32 and of float64."""

    narrow: int
    wide: int

    def of(self, bits: int) -> int:
        """The rows in lanes of so many bits."""
        return self.narrow if bits == 32 else self.wide


PLAIN_ROWS: Final = Rows(6, 3) if MANY_REGISTERS else Rows(6, 6)
"""Rows of the plain loop, to use an element of a panel as often.

Their accumulators are 24 of the 32 registers of a processor with AVX-512.  They are 12 of 16 of
others, which take a tile by a vector's columns at a time.
"""

ROUNDED_ROWS: Final = Rows(2, 2) if MANY_REGISTERS else Rows(2, 1)
"""Rows of the rounded loops."""

ONE_ROW: Final = Rows(1, 1)
"""Those of a tile of one row."""

MOST_STEPS: Final = 32
"""Steps that rounded loops take before they look for doubts."""

_OF_A_REGISTER: Final = 8 if MANY_REGISTERS else 4
"""Float64 numbers of a register: magnitudes of more would be taken before they are taken apart."""

_LEAST_RUN: Final = 4  # steps that are worth being taken at once by rounded loops


class _Lanes:
    """A vector of float32 or float64 numbers, and that of their words."""

    def __init__(self, numbers: ir.VectorType) -> None:
        self.numbers = numbers
        self.number, self.count = numbers.element, numbers.count
        self.bits = 32 if self.number == FLOATS.element else 64
        self.words = ir.VectorType(ir.IntType(self.bits), self.count)

    def constant(self, word: int) -> ir.Constant:
        return every(self.words, word)

    def word(self, builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
        """An integer of 64 bits as a word of the lanes, if that holds it."""
        return number if self.bits == 64 else builder.trunc(number, self.words.element)

    def spread(self, builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
        """A vector whose lanes all are the scalar."""
        return spread(builder, scalar, self.count)


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
            lanes.spread(builder, lanes.word(builder, parameter)) for parameter in parameters
        )
        self.magnitude = lanes.constant(2 ** (lanes.bits - 1) - 1)

    def nothing_seen(self) -> list[ir.Value]:
        """What tells doubtful guesses: the lowest tail, and how far out of range numbers were."""
        return [self.lanes.constant(2**self.lanes.bits - 1), self.lanes.constant(0)]

    def guess(
        self, numbers: Sequence[ir.Value], seen: Sequence[ir.Value]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        """Round half up: right but for ties, whose sum with ``half`` has an empty tail."""
        builder, words = self.builder, self.lanes.words
        lowest, farthest = seen
        guesses = []
        for number in numbers:
            raised = builder.add(builder.bitcast(number, words), self.half)
            low = builder.and_(raised, self.tail)
            rounded = builder.xor(raised, low)
            lowest = self._extreme("<", lowest, low)
            if self.ranged:
                farthest = self._extreme(">", farthest, self._offset(rounded))
            guesses.append(builder.bitcast(rounded, self.lanes.numbers))
        return guesses, [lowest, farthest]

    def _offset(self, rounded: ir.Value) -> ir.Value:
        return self.builder.sub(self.builder.and_(rounded, self.magnitude), self.least)

    def _extreme(self, order: str, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_unsigned(order, a, b), a, b)

    def is_doubtful(self, seen: Sequence[ir.Value]) -> ir.Value:
        """Whether a guess was a tie or out of range."""
        lowest, farthest = seen
        flags = self.builder.icmp_unsigned("==", lowest, self.lanes.constant(0))
        if self.ranged:
            outside = self.builder.icmp_unsigned(">", farthest, self.span)
            flags = self.builder.or_(flags, outside)
        mask = self.builder.bitcast(flags, ir.IntType(self.lanes.count))
        return self.builder.icmp_unsigned("!=", mask, mask.type(0))

    def second_look(self, a: ir.Value, b: ir.Value, old: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Round ``old + a*b`` half to even; and whether that is not sure to be right.

        It is right for ties that are the sum exactly.  The sum is exact if and only if both
        ``a*b = sum - old`` and ``sum - a*b = old`` hold in the lanes' arithmetic, and for zeros.
        """
        builder, lanes = self.builder, self.lanes
        call = Vectors(builder).call
        number = call("fma", a, b, old)
        bits = builder.bitcast(number, lanes.words)
        one = lanes.constant(1)
        odd = builder.and_(builder.lshr(bits, self.dropped), one)
        raised = builder.add(builder.add(bits, builder.sub(self.half, one)), odd)
        rounded = builder.xor(raised, builder.and_(raised, self.tail))
        tie = builder.icmp_unsigned("==", builder.and_(bits, self.tail), self.half)
        rest = call("fma", a, b, builder.fsub(old, number))
        back = call("fma", builder.fneg(a), b, number)
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


def _lanes_of(data: ir.Value) -> _Lanes:
    """The lanes of the numbers behind a pointer."""
    return _Lanes(vector_of(data.type.pointee))


def _rows_of(
    context: Any,
    builder: ir.IRBuilder,
    kind: Any,
    place: Sequence[ir.Value],
    rows: int,
    last_row: ir.Value | None = None,
) -> list[ir.Value]:
    """The data of some rows of an array, from a term on: `place` is the array, row and term.

    The row before `last_row` stands for those behind it.
    """
    a, row, origin = place
    array = arrayobj.make_array(kind)(context, builder, a)
    length = cgutils.unpack_tuple(builder, array.shape)[-1]
    numbers = [builder.add(row, INT64(r)) for r in range(rows)]
    if last_row is not None:
        most = builder.sub(last_row, INT64(1))
        numbers = [
            builder.select(builder.icmp_signed("<", number, most), number, most)
            for number in numbers
        ]
    starts = [builder.mul(number, length) for number in numbers]
    return [builder.gep(array.data, [builder.add(start, origin)]) for start in starts]


def _tile_intrinsic(rows: Rows, emit: Callable[..., ir.Value], last: Any = types.intp) -> Any:
    """An intrinsic ``f(a, row, origin, panel, accumulators, step, last, parameters)`` of a tile.

    ``emit(builder, tile, left, panel, step, last, words)`` writes its code: `left` has the data of
    the rows of `a` from the row `row` and from the term `origin` on, that of step 0; `words` the
    parameters; an array `last` is its data.
    """

    def typed(  # type: ignore[no-untyped-def]
        _typing_context, a, row, origin, panel, accumulators, step, last_, parameters
    ):
        index = types.intp
        signature = index(a, index, index, panel, accumulators, index, last, parameters)

        def generate(  # type: ignore[no-untyped-def]
            context, builder, signature, arguments
        ):
            kinds = signature.args
            panel_data, tile_data = (
                data_of(context, builder, kinds[i], arguments[i]) for i in (3, 4)
            )
            last_value, parameters = arguments[6:]
            if isinstance(kinds[6], types.Array):
                last_value = data_of(context, builder, kinds[6], last_value)
            lanes = _lanes_of(tile_data)
            count = rows.of(lanes.bits)
            left = _rows_of(context, builder, kinds[0], arguments[:3], count)
            step = arguments[5]
            tile = _Tile(lanes, builder, tile_data, count)
            words = cgutils.unpack_tuple(builder, parameters, len(kinds[7]))
            return emit(builder, tile, left, panel_data, step, last_value, words)

        return signature, generate

    return intrinsic(typed)


def _advance(rows: Rows, *, ranged: bool = False) -> Any:
    """An intrinsic that takes a tile from a step on up to the step ``last``, rounding each sum.

    Each step adds ``a[row + r, origin + step] * panel[step, c]`` to ``accumulators[r, c]`` for
    every row ``r`` of the tile and all columns.  The loop ends before the first step that is
    doubtful.  Returns the number of the step it has reached.

    The first of the parameters is how many steps are taken before it is asked whether one of them
    was doubtful: then they are taken again one by one, each asked.  That keeps no sums of before a
    step in registers.  Fewer than `_LEAST_RUN` are not worth it.
    """

    def emit(  # type: ignore[no-untyped-def]
        builder, tile, left, panel, step, last, words
    ):
        run, *parameters = words
        rounded_step = _RoundedStep(tile.lanes, builder, parameters, ranged=ranged)
        values = [tile.load(builder, place) for place in tile.places]
        step, values = _emit_runs(builder, tile, values, left, panel, step, last, run, rounded_step)
        reached, final = _emit_loop(builder, tile, values, left, panel, step, last, rounded_step)
        tile.store(builder, final, tile.places)
        return reached

    return _tile_intrinsic(rows, emit)


def _emit_runs(
    builder: ir.IRBuilder,
    tile: _Tile,
    initial: Sequence[ir.Value],
    left: Sequence[ir.Value],
    panel: ir.Value,
    first: ir.Value,
    last: ir.Value,
    run: ir.Value,
    rounded_step: _RoundedStep,
    keep: Callable[..., None] | None = None,
) -> tuple[ir.Value, list[ir.Value]]:
    """Runs of steps none of which is doubtful; the step that is reached, and the sums there.

    What every run begins with is put into the tile; see `_emit_loop` for `keep`.
    """
    vectors = Vectors(builder)
    before = builder.block
    begin, more, again, leave = (
        builder.append_basic_block(f"runs.{name}") for name in ("begin", "more", "again", "leave")
    )
    wanted = builder.and_(
        builder.icmp_signed("<=", INT64(_LEAST_RUN), run), builder.icmp_signed("<", first, last)
    )
    builder.cbranch(wanted, begin, leave)

    builder.position_at_end(begin)
    start = builder.phi(INT64)
    kept = [builder.phi(value.type) for value in initial]
    tile.store(builder, kept, tile.places)
    stop = builder.add(start, run)
    stop = builder.select(builder.icmp_signed("<", stop, last), stop, last)

    def take_step(step: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
        sums = tile.sums(builder, left, panel, step, state[:-2])
        guesses, seen = rounded_step.guess(sums, state[-2:])
        if keep is not None:
            keep(step, guesses)
        return [*guesses, *seen]

    *new, lowest, farthest = vectors.loop(
        start, stop, 1, [*kept, *rounded_step.nothing_seen()], take_step
    )
    builder.cbranch(rounded_step.is_doubtful([lowest, farthest]), again, more)

    builder.position_at_end(more)
    builder.cbranch(builder.icmp_signed("<", stop, last), begin, leave)

    builder.position_at_end(again)
    restored = [tile.load(builder, place) for place in tile.places]
    builder.branch(leave)

    for phi, from_before, from_more in zip(
        [start, *kept], [first, *initial], [stop, *new], strict=True
    ):
        phi.add_incoming(from_before, before)
        phi.add_incoming(from_more, more)
    builder.position_at_end(leave)
    reached: list[ir.Value] = []
    for values in zip([first, *initial], [stop, *new], [start, *restored], strict=True):
        phi = builder.phi(values[0].type)
        for value, block in zip(values, (before, more, again), strict=True):
            phi.add_incoming(value, block)
        reached.append(phi)
    return reached[0], reached[1:]


def _history(
    builder: ir.IRBuilder, tile: _Tile, history: ir.Value, first: ir.Value
) -> Callable[[ir.Value, Sequence[ir.Value]], None]:
    """What puts the sums of a step where those of steps from `first` on lie."""
    size = INT64(len(tile.places) * tile.lanes.count)

    def keep(step: ir.Value, sums: Sequence[ir.Value]) -> None:
        data = builder.gep(history, [builder.mul(builder.sub(step, first), size)])
        places = [tile.place(builder, data, INT64(0), v) for v in range(len(sums))]
        tile.store(builder, sums, places)

    return keep


def advance_keeping(rows: Rows, *, rounded: bool, ranged: bool) -> Any:
    """An intrinsic as :func:`_advance`'s that also keeps the sums of each step.

    ``f(a, row, origin, panel, accumulators, history, step, last, parameters)``: those of the first
    step are ``history[0]``.  There is room for those that are found to be doubtful, too.  Sums that
    are not `rounded` are formed by the lanes' own arithmetic.
    """

    def typed(  # type: ignore[no-untyped-def]
        _typing_context, a, row, origin, panel, sums, history, step, last, parameters
    ):
        index = types.intp
        signature = index(a, index, index, panel, sums, history, index, index, parameters)

        def generate(  # type: ignore[no-untyped-def]
            context, builder, signature, arguments
        ):
            kinds = signature.args
            panel_data, sums_data, history_data = (
                data_of(context, builder, kinds[i], arguments[i]) for i in (3, 4, 5)
            )
            lanes = _lanes_of(sums_data)
            count = rows.of(lanes.bits)
            step, last_value, parameters = arguments[6:]
            tile = _Tile(lanes, builder, sums_data, count)
            left = _rows_of(context, builder, kinds[0], arguments[:3], count)
            keep = _history(builder, tile, history_data, step)
            values, rounded_step = [tile.load(builder, place) for place in tile.places], None
            if rounded:
                run, *words = cgutils.unpack_tuple(builder, parameters, len(kinds[8]))
                rounded_step = _RoundedStep(lanes, builder, words, ranged=ranged)
                step, values = _emit_runs(
                    builder, tile, values, left, panel_data, step, last_value, run, rounded_step,
                    keep,
                )  # fmt: skip
            reached, final = _emit_loop(
                builder, tile, values, left, panel_data, step, last_value, rounded_step, keep
            )
            tile.store(builder, final, tile.places)
            return reached

        return signature, generate

    return intrinsic(typed)


def add_kept(rows: Rows, columns: int, *, first: bool, second: bool) -> Any:
    """An intrinsic ``f(history, steps, running, place)`` that adds what was kept to running sums.

    These are float64 numbers: for every accumulator the sum of the magnitudes of so many steps (if
    `first`), and behind all those the sum of their squares (if `second`).  Squares are rounded
    before they are added; those of float32 numbers are exact, and one operation does both.  It
    works on the sums of some columns from `place` on, which stay in registers, and float32 numbers
    become float64 on their way from memory, which needs no instructions that take vectors apart.
    """

    def typed(_typing_context, history, steps, running, place):  # type: ignore[no-untyped-def]
        signature = types.none(history, types.intp, running, types.intp)

        def generate(  # type: ignore[no-untyped-def]
            context, builder, signature, arguments
        ):
            kept, running_data = (
                data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 2)
            )
            steps, place = arguments[1], arguments[3]
            vectors = Vectors(builder)
            lanes = _Lanes(ir.VectorType(DOUBLES.element, _OF_A_REGISTER))
            fused = kept.type.pointee != lanes.number
            size = rows.of(_lanes_of(kept).bits) * TILE_COLUMNS
            parts = range(0, columns, lanes.count)
            kept, running_data = (builder.gep(data, [place]) for data in (kept, running_data))

            def with_magnitude(sum_: ir.Value, number: ir.Value) -> ir.Value:
                return builder.fadd(sum_, vectors.call("fabs", number))

            def with_square(sum_: ir.Value, number: ir.Value) -> ir.Value:
                if fused:
                    return vectors.call("fma", number, number, sum_)
                return builder.fadd(sum_, builder.fmul(number, number))

            kinds = [(0, with_magnitude)] * first + [(size, with_square)] * second
            wanted = [
                (start + part, add, i) for start, add in kinds for i, part in enumerate(parts)
            ]

            def take_step(step: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                data = builder.gep(kept, [builder.mul(step, INT64(size))])
                numbers = [_load_as(builder, lanes, data, part) for part in parts]
                return [
                    add(sum_, numbers[i]) for sum_, (_, add, i) in zip(sums, wanted, strict=True)
                ]

            with builder.if_then(builder.icmp_signed(">", steps, INT64(0))):
                old = [vectors.load(running_data, INT64(at), lanes.numbers) for at, *_ in wanted]
                new = vectors.loop(INT64(0), steps, 1, old, take_step)
                for value, (at, *_) in zip(new, wanted, strict=True):
                    vectors.store(value, running_data, INT64(at))
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(typed)


def _emit_second_look(
    builder: ir.IRBuilder,
    tile: _Tile,
    rounded_step: _RoundedStep,
    factors: Sequence[tuple[ir.Value, ir.Value]],
    old: Sequence[ir.Value],
    undecided: ir.Value,
) -> None:
    """Store what is decided of a step, and the masks of what is not."""
    new = []
    for number, ((a, b), total) in enumerate(zip(factors, old, strict=True)):
        value, open_ = rounded_step.second_look(a, b, total)
        new.append(builder.select(open_, total, value))
        mask = builder.bitcast(open_, ir.IntType(tile.lanes.count))
        place = builder.gep(undecided, [INT64(number)])
        builder.store(builder.zext(mask, INT64), place)
    tile.store(builder, new, tile.places)


def _emit_settled_step(
    builder: ir.IRBuilder,
    tile: _Tile,
    left: Sequence[ir.Value],
    panel: ir.Value,
    step: ir.Value,
    undecided: ir.Value,
    words: Sequence[ir.Value],
    ranged: bool,
) -> ir.Value:
    """A second look at a doubtful step, see :func:`settle`; returns 0."""
    rounded_step = _RoundedStep(tile.lanes, builder, words, ranged=ranged)
    old = [tile.load(builder, place) for place in tile.places]
    factors = tile.factors(builder, left, panel, step)
    _emit_second_look(builder, tile, rounded_step, factors, old, undecided)
    return INT64(0)


def settle(rows: Rows, *, ranged: bool = False) -> Any:
    """An intrinsic that takes a second look at a doubtful step.

    Accumulators that it leaves undecided stay as they were.  Their bits are set in the array
    ``last`` (int64), which has one number for each vector of the tile, row by row.  Returns 0.
    """

    def emit(  # type: ignore[no-untyped-def]
        builder, tile, left, panel, step, undecided, words
    ):
        return _emit_settled_step(builder, tile, left, panel, step, undecided, words, ranged)

    return _tile_intrinsic(rows, emit, types.Array(types.int64, 1, "C"))


def _sum(rows: Rows, *, added: bool) -> Any:
    """An intrinsic that forms sums by the plain loop.

    ``f(a, row, last_row, origin, panel, sums, step, last, begins, ends, target, at, column)``: sums
    are +0 at first if they begin here (`begins`), and what lies in `sums` otherwise.  If they end
    here (`ends`), they are put into `target`, from its row `at` and a column on, or `added` to what
    is there, in the lanes' own arithmetic; if not, they are left in `sums`.  The row before
    `last_row` stands for those that are missing.
    """

    def typed(  # type: ignore[no-untyped-def]
        _typing_context, a, row, last_row, origin, panel, sums, step, last, begins, ends, target,
        at, column,
    ):  # fmt: skip
        index, flag = types.intp, types.boolean
        signature = types.none(
            a, index, index, index, panel, sums, index, index, flag, flag, target, index, index
        )

        def generate(  # type: ignore[no-untyped-def]
            context, builder, signature, arguments
        ):
            kinds = signature.args
            a, row, last_row, origin = arguments[:4]
            panel_data, sums_data = (
                data_of(context, builder, kinds[i], arguments[i]) for i in (4, 5)
            )
            lanes = _lanes_of(sums_data)
            count = rows.of(lanes.bits)
            left = _rows_of(context, builder, kinds[0], (a, row, origin), count, last_row)
            starts = _rows_of(context, builder, kinds[10], arguments[10:], count)
            first, stop, begins, ends = arguments[6:10]
            columns = TILE_COLUMNS if count == 1 or MANY_REGISTERS else lanes.count

            def sum_columns(start: ir.Value, _: Sequence[ir.Value]) -> Sequence[ir.Value]:
                panel, sums = (builder.gep(data, [start]) for data in (panel_data, sums_data))
                tile = _Tile(lanes, builder, sums, count, columns)
                initial = _emit_loaded(builder, tile, builder.not_(begins))
                _, final = _emit_loop(builder, tile, initial, left, panel, first, stop)
                with builder.if_else(ends) as (complete, incomplete):
                    with complete:
                        places = [
                            tile.place(builder, place, start, v)
                            for place in starts
                            for v in range(tile.vectors)
                        ]
                        if added:
                            old = [tile.load(builder, place) for place in places]
                            put = [builder.fadd(x, y) for x, y in zip(old, final, strict=True)]
                        tile.store(builder, put if added else final, places)
                    with incomplete:
                        tile.store(builder, final, tile.places)
                return ()

            Vectors(builder).loop(INT64(0), INT64(TILE_COLUMNS), columns, (), sum_columns)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(typed)


def _emit_loaded(builder: ir.IRBuilder, tile: _Tile, wanted: ir.Value) -> list[ir.Value]:
    """The accumulators of a tile if they are wanted, else zeros."""
    before = builder.block
    with builder.if_then(wanted):
        kept = [tile.load(builder, place) for place in tile.places]
        loaded = builder.block
    initial = []
    for value in kept:
        phi = builder.phi(value.type)
        phi.add_incoming(ir.Constant(value.type, None), before)
        phi.add_incoming(value, loaded)
        initial.append(phi)
    return initial


def _add(emit: Callable[..., ir.Value], last: Any = types.intp) -> Any:
    """An intrinsic ``f(sums, totals, row, last, parameters)`` that adds a row of sums to totals.

    ``emit(builder, totals, terms, last, words)`` writes its code: `terms` has the sums as vectors
    of the totals' lanes, `words` the parameters; an array `last` is its data.
    """

    def typed(_typing_context, sums, totals, row, last_, parameters):  # type: ignore[no-untyped-def]
        signature = types.intp(sums, totals, types.intp, last, parameters)

        def generate(  # type: ignore[no-untyped-def]
            context, builder, signature, arguments
        ):
            kinds = signature.args
            offset = builder.mul(arguments[2], INT64(TILE_COLUMNS))
            sums_data, totals_data = (
                builder.gep(data_of(context, builder, kinds[i], arguments[i]), [offset])
                for i in range(2)
            )
            last_value = arguments[3]
            if isinstance(kinds[3], types.Array):
                last_value = data_of(context, builder, kinds[3], last_value)
            lanes = _lanes_of(totals_data)
            tile = _Tile(lanes, builder, totals_data, 1)
            terms = [
                _load_as(builder, lanes, sums_data, v * lanes.count) for v in range(tile.vectors)
            ]
            words = cgutils.unpack_tuple(builder, arguments[4], len(kinds[4]))
            return emit(builder, tile, terms, last_value, words)

        return signature, generate

    return intrinsic(typed)


def _load_as(builder: ir.IRBuilder, lanes: _Lanes, data: ir.Value, start: int) -> ir.Value:
    """A vector of numbers, widened if the lanes are wider."""
    number = data.type.pointee
    kind = ir.VectorType(number, lanes.count)
    place = builder.bitcast(builder.gep(data, [INT64(start)]), kind.as_pointer())
    vector = builder.load(place, align=4)
    return vector if number == lanes.number else builder.fpext(vector, lanes.numbers)


def _emit_plain_addition(  # type: ignore[no-untyped-def]
    builder, totals, terms, last, words
):
    """Add by the lanes' own arithmetic; returns 1."""
    old = [totals.load(builder, place) for place in totals.places]
    new = [builder.fadd(x, y) for x, y in zip(old, terms, strict=True)]
    totals.store(builder, new, totals.places)
    return INT64(1)


def _emit_rounded_addition(  # type: ignore[no-untyped-def]
    builder, totals, terms, last, words
):
    """Add with one rounding to the format; returns 0, with nothing done, if that is doubtful."""
    step = _RoundedStep(totals.lanes, builder, words, ranged=True)
    old = [totals.load(builder, place) for place in totals.places]
    sums = [builder.fadd(x, y) for x, y in zip(old, terms, strict=True)]
    new, seen = step.guess(sums, step.nothing_seen())
    sure = builder.not_(step.is_doubtful(seen))
    with builder.if_then(sure, likely=True):
        totals.store(builder, new, totals.places)
    return builder.zext(sure, INT64)


def _emit_settled_addition(  # type: ignore[no-untyped-def]
    builder, totals, terms, undecided, words
):
    """A second look at a doubtful addition, see :func:`settle`."""
    step = _RoundedStep(totals.lanes, builder, words, ranged=True)
    one = totals.lanes.spread(builder, ir.Constant(totals.lanes.number, 1.0))
    old = [totals.load(builder, place) for place in totals.places]
    _emit_second_look(builder, totals, step, [(one, term) for term in terms], old, undecided)
    return INT64(0)


class _Tile:
    """A block of accumulators: its vectors' places in memory, and loads and stores."""

    def __init__(
        self,
        lanes: _Lanes,
        builder: ir.IRBuilder,
        data: ir.Value,
        rows: int,
        columns: int = TILE_COLUMNS,
    ) -> None:
        self.lanes = lanes
        self.vectors = columns // lanes.count
        self.places = [
            self.place(builder, data, INT64(r * TILE_COLUMNS), v)
            for r in range(rows)
            for v in range(self.vectors)
        ]

        # All registers hold what there is less of, and one what there is more of.
        width = self.vectors
        by_columns = [r * width + v for v in range(width) for r in range(rows)]
        self.order = by_columns if rows < width else list(range(rows * width))

    def place(self, builder: ir.IRBuilder, data: ir.Value, offset: ir.Value, v: int) -> ir.Value:
        start = builder.add(offset, INT64(v * self.lanes.count))
        return builder.bitcast(builder.gep(data, [start]), self.lanes.numbers.as_pointer())

    def load(self, builder: ir.IRBuilder, place: ir.Value) -> ir.Value:
        return builder.load(place, align=self.lanes.bits // 8)

    def factors(
        self, builder: ir.IRBuilder, left: Sequence[ir.Value], panel: ir.Value, step: ir.Value
    ) -> list[tuple[ir.Value, ir.Value]]:
        """What is multiplied in a step, accumulator by accumulator."""
        offset = builder.mul(step, INT64(TILE_COLUMNS))
        right = [
            self.load(builder, self.place(builder, panel, offset, v)) for v in range(self.vectors)
        ]
        pairs = []
        for row in left:
            scalar = self.lanes.spread(builder, builder.load(builder.gep(row, [step])))
            pairs += [(scalar, column) for column in right]
        return pairs

    def sums(
        self,
        builder: ir.IRBuilder,
        left: Sequence[ir.Value],
        panel: ir.Value,
        step: ir.Value,
        old: Sequence[ir.Value],
    ) -> list[ir.Value]:
        """The accumulators with the products of a step."""
        vectors = Vectors(builder)
        factors = self.factors(builder, left, panel, step)
        new = list(old)
        for number in self.order:
            new[number] = vectors.call("fma", *factors[number], old[number])
        return new

    def store(
        self, builder: ir.IRBuilder, values: Sequence[ir.Value], places: Sequence[ir.Value]
    ) -> None:
        for value, place in zip(values, places, strict=True):
            builder.store(value, place, align=self.lanes.bits // 8)


def _emit_loop(
    builder: ir.IRBuilder,
    tile: _Tile,
    initial: Sequence[ir.Value],
    left: Sequence[ir.Value],
    panel: ir.Value,
    first: ir.Value,
    stop: ir.Value,
    rounded_step: _RoundedStep | None = None,
    keep: Callable[..., None] | None = None,
) -> tuple[ir.Value, list[ir.Value]]:
    """The loop over steps, whose accumulators live in registers; the step and what it leaves.

    If it is given, ``keep(step, accumulators)`` emits what is to be done with those of a step.
    """
    before = builder.block
    loop = builder.append_basic_block("advance.loop")
    proceed = builder.append_basic_block("advance.proceed")
    leave = builder.append_basic_block("advance.leave")
    builder.cbranch(builder.icmp_signed("<", first, stop), loop, leave)

    builder.position_at_end(loop)
    step = builder.phi(INT64)
    old = [builder.phi(value.type) for value in initial]
    new = tile.sums(builder, left, panel, step, old)
    if rounded_step is None:
        builder.branch(proceed)
    else:
        new, seen = rounded_step.guess(new, rounded_step.nothing_seen())
        builder.cbranch(rounded_step.is_doubtful(seen), leave, proceed)

    builder.position_at_end(proceed)
    if keep is not None:
        keep(step, new)
    following = builder.add(step, INT64(1))
    builder.cbranch(builder.icmp_signed("<", following, stop), loop, leave)

    step.add_incoming(first, before)
    step.add_incoming(following, proceed)
    for phi, start, value in zip(old, initial, new, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(value, proceed)

    builder.position_at_end(leave)
    reached = builder.phi(INT64)
    reached.add_incoming(first, before)
    reached.add_incoming(following, proceed)
    final = [builder.phi(value.type) for value in initial]
    for phi, start, value in zip(final, initial, new, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(value, proceed)
    if rounded_step is not None:  # left before a doubtful step, with what it began with
        reached.add_incoming(step, loop)
        for phi, value in zip(final, old, strict=True):
            phi.add_incoming(value, loop)
    return reached, final


@numba.njit(inline="always")
def steps_at_once(run, taken, certain):  # type: ignore[no-untyped-def]
    """A quarter of the steps from doubt to doubt: more would often be taken in vain."""
    known = min(taken // 4, MOST_STEPS)
    return max(run, known) if certain else known


advance_rounded = _advance(ONE_ROW)
advance_rounded_rows = _advance(ROUNDED_ROWS)
advance_ranged = _advance(ONE_ROW, ranged=True)
advance_ranged_rows = _advance(ROUNDED_ROWS, ranged=True)
settle_rounded = settle(ONE_ROW)
settle_rounded_rows = settle(ROUNDED_ROWS)
settle_ranged = settle(ONE_ROW, ranged=True)
settle_ranged_rows = settle(ROUNDED_ROWS, ranged=True)
sum_plain = _sum(ONE_ROW, added=False)
sum_plain_rows = _sum(PLAIN_ROWS, added=False)
add_block_plain = _sum(ONE_ROW, added=True)
add_block_plain_rows = _sum(PLAIN_ROWS, added=True)
add_plain = _add(_emit_plain_addition)
add_rounded = _add(_emit_rounded_addition)
settle_added = _add(_emit_settled_addition, types.Array(types.int64, 1, "C"))
