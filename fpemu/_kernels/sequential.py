"""Matrix products over the accumulators that take term after term: Sequential and Blocked.

One kernel (:func:`_product_kernel`) walks over the output in tiles of rows and columns.  How a tile
advances along the inner dimension is one of five flavours, most of them parts
(:mod:`fpemu._kernels.tile_parts`):

- plain: the carrier's own multiply-adds, where the accumulator is in the carrier's own format;
- fast, narrow or wide: multiply-adds in the carrier, rounded to the format by adding half a unit
  and clearing the tail; the few steps in which that may be wrong are done exactly;
- exact, narrow or wide: error-free transformations, or integer arithmetic, in every step.

Narrow ones take operands that are float32 numbers, wide ones any float64 numbers.  All give the
same bits where more than one applies.  The sums of blocks are added in one of these ways, too: by
the carrier's addition where the outer accumulator is in its format, rounded in lanes, or exactly.
Sums of which a rounding is stochastic are formed element by element (:func:`_stochastic_kernel`),
or in lanes by :mod:`fpemu._kernels.stochastic_sums`; those beside which running sums are wanted, by
:mod:`fpemu._kernels.running_sums`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import (
    caching,
    few_rows,
    launching,
    parts,
    random_bits,
    running_sums,
    stochastic_sums,
    tiles,
    words,
)
from fpemu._kernels.error_free import holds_float32_sums
from fpemu._kernels.exact import fma_word_at
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import (
    INNER,
    OUTER,
    PRODUCTS,
    VIA,
    Operands,
    Random,
    aligned,
    longest,
    random_of,
    read_only,
    source_of,
)
from fpemu._kernels.panels import MANY_REGISTERS, TILE_COLUMNS, fill
from fpemu._kernels.rounding import (
    DETERMINISTIC,
    LAYOUTS,
    STOCHASTIC,
    Carrier,
    is_own_format,
    kind_of,
    known_mode,
    with_mode,
    word_of,
)
from fpemu._kernels.significands import ZERO
from fpemu._kernels.targets import target_at, targets_of
from fpemu._kernels.tile_parts import Lanes, adding, advancing, call_to_advance, forming, lanes_of
from fpemu._kernels.tile_steps import (
    EXACT,
    EXACT_NARROW,
    EXACT_WIDE,
    FAST_NARROW,
    FAST_WIDE,
    NO_OUTER,
    PLAIN_NARROW,
    PLAIN_WIDE,
    WIDE,
    How,
    Sum,
    begin,
    put,
)
from fpemu._kernels.vectors import VECTOR_BYTES

__all__ = ["blocked_product", "product"]

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)
_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)

# A result is a tie once in 2**dropped times; from here on the exact steps do not matter.
_FAST_DROPPED: Final = 10
# Nanoseconds of a multiply-add: by the arithmetic of the lanes, rounded, and by draws.
_PLAIN_COST, _COST, _STOCHASTIC_COST = 0.035, 0.7, 10.0
_LEAST_ROWS = 32  # that take as long as filling a panel
_PART_ROWS, _MOST_ROWS = 128, 1024  # of a thread's share, if there are as many
_ROWS_PER_PANEL: Final = 64  # that a share has at least, if it has several panels
_PANEL_BYTES: Final = 2**17  # of what is filled in at once: that stays in the second cache
# Of those of a share: half of a second cache, or where that is smaller a quarter, as it holds rows
# of both other matrices, too.
_PANELS_BYTES: Final = 2**19 if MANY_REGISTERS else 2**17
_RUN: Final = 64  # terms that are looked at at once for zeros at the end of rows
_UNKNOWN: Final = -1
_NOT_FAST: Final = (0,) * 5


class SequentialFacts(Protocol):
    """What is to be known of a :class:`fpemu.Sequential`."""

    @property
    def format(self) -> FormatFacts: ...
    @property
    def rounding(self) -> RoundingFacts: ...
    @property
    def fused(self) -> bool: ...
    @property
    def product(self) -> FormatFacts | None: ...
    @property
    def via(self) -> FormatFacts | None: ...
    @property
    def roundoff(self) -> float: ...


class BlockedFacts(Protocol):
    """What is to be known of a :class:`fpemu.Blocked`."""

    @property
    def format(self) -> FormatFacts: ...
    @property
    def rounding(self) -> RoundingFacts: ...
    @property
    def block(self) -> int: ...
    @property
    def inner(self) -> SequentialFacts: ...
    @property
    def roundoff(self) -> float: ...


class _Tile(NamedTuple):
    """What a thread works in."""

    inner: Any  # tiles of accumulators
    total: Any  # those of the outer accumulators
    terms: Any  # for each tile: how many terms of its rows may be other than zero
    undecided: Any  # a bit for every accumulator of a tile, a number for every vector of them
    panels: Any  # some terms of panels of the right operand
    finite: Any  # for each panel: whether all its numbers are finite, or _UNKNOWN


# --- the steps of a tile ------------------------------------------------------------------------


@numba.njit(inline="always")
def _sum_plain(  # type: ignore[no-untyped-def]
    a, row, last_row, origin, panel, tile, first, stop, begins, ends, target, at, column
):
    """Take sums from step ``first`` to ``stop`` by the lanes' own arithmetic, and put them."""
    if last_row - row > 1:
        tiles.sum_plain_rows(
            a, row, last_row, origin, panel, tile, first, stop, begins, ends, target, at, column
        )
    else:
        tiles.sum_plain(
            a, row, last_row, origin, panel, tile, first, stop, begins, ends, target, at, column
        )


@numba.njit(inline="always")
def _terms(a, row, last_row):  # type: ignore[no-untyped-def]
    """How many leading terms of some rows are to be taken, at least one: the others are zeros."""
    steps = a.shape[1]
    most = min(1, steps)
    for r in range(row, last_row):
        terms, found = steps, False
        while terms > most:
            run = a[r, max(terms - _RUN, 0) : terms]
            for i in range(run.size):
                found |= run[i] != 0
            if found:
                break
            terms -= run.size
        most = max(most, terms)
    return most


@numba.njit(inline="always")
def _has_negative_zero(tile):  # type: ignore[no-untyped-def]
    """Whether an accumulator is a negative zero, which a product of zeros may change."""
    found = False
    for r in range(tile.shape[0]):
        for j in range(TILE_COLUMNS):
            found |= tile[r, j] == 0 and np.signbit(tile[r, j])
    return found


@numba.njit(inline="always")
def _is_finite(panel, terms):  # type: ignore[no-untyped-def]
    """Whether the products of zeros and the numbers of a panel are zeros."""
    found = True
    for step in range(terms):
        for j in range(TILE_COLUMNS):
            found &= abs(panel[step, j]) < np.inf
    return found


@numba.njit(inline="always")
def _together(rows, height, plain):  # type: ignore[no-untyped-def]
    """How many of the rows that are left the next tile has; plain ones may miss some."""
    return min(height, rows) if plain or rows >= height else 1


# --- the kernel ---------------------------------------------------------------------------------


def _rows_together(flavour: int, dtype: np.dtype[Any]) -> int:
    """How many rows of the output a tile has."""
    rows = {
        PLAIN_NARROW: tiles.PLAIN_ROWS,
        PLAIN_WIDE: tiles.PLAIN_ROWS,
        FAST_NARROW: tiles.ROUNDED_ROWS,
        FAST_WIDE: tiles.ROUNDED_ROWS,
    }
    return rows[flavour].of(8 * dtype.itemsize) if flavour in rows else 1


@functools.cache
def _product_kernel(lanes: Lanes, *, plain: bool) -> Callable[..., None]:
    """The kernel of sums by the lanes' own arithmetic, `plain`, or by a part for them."""
    to_advance = parts.takes(*lanes.to_advance)

    @caching.kernel
    def product_range(start, stop, work, arrays, sums):  # type: ignore[no-untyped-def]
        """Panels of columns side by side, for some rows of the output.

        Tiles go row by row through all panels: the rows stay in the first cache and the panels in
        the second, and the output is written in the order of memory.  There is one tile if all
        terms are filled in at once, else one for each place.
        """
        _, rows, steps = arrays.left.shape
        right, lengths, out = arrays.right, arrays.lengths, arrays.out
        panels = (out.shape[2] + TILE_COLUMNS - 1) // TILE_COLUMNS
        groups = (panels + sums.panels - 1) // sums.panels
        shares = (rows + sums.rows - 1) // sums.rows
        height, depth = work.inner.shape[1], work.panels.shape[1]
        slots = 1 if steps > depth else 0  # of a tile
        run = tiles.MOST_STEPS
        fresh = plain and steps > 0 and arrays.initial.size == 0  # zero without being filled
        for index in range(start, stop):
            stack, group = index // groups, index % groups
            batch, first_panel = stack // shares, group * sums.panels
            first_row = (stack - batch * shares) * sums.rows
            last_row = min(first_row + sums.rows, rows)
            last_panel = min(first_panel + sums.panels, panels)
            most = longest(lengths, first_row, last_row)
            a = arrays.left[batch]
            for origin in range(0, max(steps, 1), depth):
                end = min(origin + depth, steps)
                for p in range(first_panel, last_panel):
                    if p * TILE_COLUMNS < most:
                        fill(work.panels[p - first_panel], right, batch, p, origin, end)
                        work.finite[p - first_panel] = _UNKNOWN
                row, slot = first_row, 0
                while row < last_row:
                    together = _together(last_row - row, height, sums.plain)
                    reach, whole = 0, lengths[row] if together == height else 0
                    for r in range(row, row + together):
                        reach, whole = max(reach, lengths[r]), min(whole, lengths[r])
                    if plain and origin == 0:
                        terms = _terms(a, row, row + together)
                        for p in range(last_panel - first_panel):
                            work.terms[slot + p * slots] = terms
                    for p in range(first_panel, last_panel):
                        column, panel = p * TILE_COLUMNS, work.panels[p - first_panel]
                        inner, total = work.inner[slot], work.total[slot]
                        wanted, is_put = column < reach, False
                        if origin == 0 and wanted and not fresh:
                            begin(total, arrays.initial, batch, row, together, column)
                        first = origin
                        if plain:
                            while first < end and wanted:
                                terms = work.terms[slot]
                                if first >= terms:  # zeros are left
                                    finite = work.finite[p - first_panel]
                                    if finite == _UNKNOWN:
                                        finite = np.int64(_is_finite(panel, end - origin))
                                        work.finite[p - first_panel] = finite
                                    if finite and not _has_negative_zero(inner):
                                        break
                                    work.terms[slot] = terms = steps
                                last = min(end, terms)
                                is_put = last == steps and column + TILE_COLUMNS <= whole
                                _sum_plain(
                                    a, row, row + together, origin, panel, inner,
                                    first - origin, last - origin, fresh and first == 0, is_put,
                                    out[batch], row, column,
                                )  # fmt: skip
                                first = last
                        elif first < end and wanted:
                            run = call_to_advance(
                                sums.advance, to_advance, a, row, together, origin, panel, inner,
                                work.undecided, total, first, end, run, sums,
                            )  # fmt: skip
                        if end == steps and not is_put:
                            put(out, batch, total, lengths, row, together, column, sums.blocked)
                        slot += slots
                    row += together

    return cast(Callable[..., None], product_range)


# --- which flavour ------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _fast_parameters(
    format: FormatFacts, dtype: np.dtype[Any], products_exponent: int
) -> tuple[tuple[int, ...], bool] | None:
    """The parameters of the fast loop in lanes of `dtype`; whether it has to watch the range.

    The fast loop rounds ``acc + a*b`` to the P bits of a lane first (one fma) and then to the p
    bits of the format by adding half a unit and clearing the tail.  Ties of the format are numbers
    of P bits, and rounding is monotone: unless the fma gives a tie, it lies on the same side of
    every tie as the exact sum, and both round alike.  A tie is looked at again: it is the exact sum
    s = acc + x, x = a*b, if and only if fma(a, b, acc - t) = 0 and fma(-a, b, t) = acc, t being the
    fma's result.  (If t = s both hold.  If both hold, x is the rounded t - acc, a number of P bits,
    and by Dekker's theorem the error of t = fl(acc + x) is x - fl(t - acc) = 0 if |acc| >= |x|, and
    acc - fl(t - x) = 0 otherwise.  No residual underflows, as all are multiples of the lane's
    smallest subnormal.)  Ties that are not the exact sum go to the exact step.

    That is right as long as the result is a normal number of the format and not its zero.  If every
    product is a multiple of ``2**products_exponent`` then so is every sum; if that is at least the
    format's 2**emin, a nonzero result is normal, and zeros come out as zeros.  If moreover the
    format overflows where the lane does, to infinity (a carry into the exponent gives just that),
    no result needs to be watched.  Otherwise all results outside [2**emin, max_finite] but zeros go
    to the exact step, and infinities and NaN with them.

    Returns
    -------
    tuple or None
        None where the fast loop does not apply: unsigned formats, formats of one bit, too few bits
        to drop, products that are not finite or not multiples of the lane's smallest subnormal.
    """
    layout = LAYOUTS[dtype]
    dropped = layout.precision - format.precision
    if not format.signed or dropped < _FAST_DROPPED or format.emin < 1 - layout.bias:
        return None
    if format.precision == 1:  # whose ties do not go to an even significand
        return None
    if products_exponent < 2 - layout.bias - layout.precision:
        return None
    infinity = word_of(np.inf, dtype)
    tail = 2**dropped - 1
    largest = word_of(format.max_finite, dtype)
    least = word_of(format.smallest_normal, dtype)
    ranged = not (
        products_exponent >= format.emin
        and format.infinities
        and format.has_negative_zero
        and largest + tail + 1 == infinity
    )
    parameters = (2 ** (dropped - 1), tail, dropped, least, largest - least)
    return parameters, ranged


@dataclass(frozen=True)
class _Chain:
    """How a tile advances."""

    flavour: int
    dtype: np.dtype[Any] = _FLOAT64  # of the operands and of the tile
    fast: tuple[int, ...] = _NOT_FAST
    ranged: bool = False


def _chain_of(accumulator: SequentialFacts, operands: Operands, *, blocked: bool) -> _Chain:
    """How to run a sequential accumulator on the operands; `blocked` ones begin at zero."""
    format, rounding = accumulator.format, accumulator.rounding
    narrow, in_lanes = operands.narrow, operands.wants_running and blocked
    if rounding.mode == "rne" and accumulator.fused and accumulator.via is None:
        if rounding.overflow == "ieee" and not in_lanes:
            if narrow and is_own_format(format, _FLOAT32):
                return _Chain(PLAIN_NARROW, _FLOAT32)
            if is_own_format(format, _FLOAT64):
                return _Chain(PLAIN_WIDE)
        fast = _fast_chain(format, rounding, operands, blocked=blocked)
        if fast is not None:
            return fast
    formats = (format, accumulator.product or format, accumulator.via or format)
    exact_narrow = narrow and all(map(holds_float32_sums, formats))
    return _Chain(EXACT_NARROW if exact_narrow else EXACT_WIDE)


def _fast_chain(
    format: FormatFacts, rounding: RoundingFacts, operands: Operands, *, blocked: bool
) -> _Chain | None:
    """The fast loop in lanes of float32, or of float64, or None where it applies in neither."""
    narrow = operands.narrow
    products_exponent = operands.last_bit_exponent(with_initial=not blocked)
    # Running sums of blocks are formed in the lanes of their sums, and no square overflows float64.
    in_lanes = operands.wants_running and blocked
    dtypes = (_FLOAT32, _FLOAT64) if narrow and not in_lanes else (_FLOAT64,)
    for dtype in dtypes:
        found = _fast_parameters(format, dtype, products_exponent)
        if found is not None:
            parameters, ranged = found
            flavour = FAST_NARROW if narrow else FAST_WIDE
            return _Chain(flavour, dtype, parameters, ranged or rounding.overflow != "ieee")
    return None


# --- products -----------------------------------------------------------------------------------


def product(operands: Operands, accumulator: SequentialFacts) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays, in the carrier it is computed in."""
    return _product(operands, accumulator, None)


def blocked_product(operands: Operands, accumulator: BlockedFacts) -> Carrier:
    """The same for blocks of terms."""
    return _product(operands, accumulator.inner, accumulator)


def _product(
    operands: Operands, accumulator: SequentialFacts, outer: BlockedFacts | None
) -> Carrier:
    roundings = (accumulator.rounding, *([] if outer is None else [outer.rounding]))
    if any(rounding.is_stochastic for rounding in roundings):
        return _stochastic_product(operands, accumulator, outer)
    if 0 in operands.shape:
        return np.empty(operands.shape)
    chain = _chain_of(accumulator, operands, blocked=outer is not None)
    outer_chain = None if outer is None else _outer_chain(chain, operands, accumulator, outer)
    final = outer_chain or chain
    how = _how(chain, operands, accumulator, outer_chain)
    if how.plain and outer is None and few_rows.takes(operands):
        return few_rows.product(operands, chain.dtype)
    lanes = lanes_of(chain.dtype, final.dtype)
    adds = outer is not None and (operands.wants_running or not how.plain_outer)
    sums = _sum_of(
        operands,
        accumulator,
        outer,
        plain=how.plain,
        fast=_table_of(chain.fast, final.fast),
        form=0 if how.plain else forming(how, lanes).address,
        add=adding(how, lanes).address if adds else 0,
    )
    if operands.wants_running:
        unit = 1.0 if outer is None else accumulator.roundoff / outer.roundoff
        return running_sums.product(operands, how, sums, lanes, unit)
    # By the lanes' own arithmetic a call would take a fifth of the time of a short sum.
    advance = 0 if how.plain and outer is None else advancing(how, lanes).address
    out = np.empty(operands.shape, final.dtype)
    height = _rows_together(chain.flavour, chain.dtype)
    depth = _depth(operands.steps, 1 if outer is None else outer.block, chain.dtype)
    cost = _PLAIN_COST if advance == 0 else _COST
    share = _share(operands, height, depth * TILE_COLUMNS * chain.dtype.itemsize, cost)
    launching.run(
        _product_kernel(lanes, plain=advance == 0),
        share.number,
        operands.arrays(chain.dtype, out, source_of(operands.b, chain.dtype, TILE_COLUMNS)),
        sums._replace(rows=share.rows, panels=share.panels, advance=advance),
        cost=share.cost,
        workspace=lambda: _tiles(
            share.panels * share.tiles if operands.steps > depth else 1,
            height,
            (share.panels, depth, TILE_COLUMNS),
            chain.dtype,
            None if outer_chain is None else outer_chain.dtype,
        ),
    )
    return out


def _how(
    chain: _Chain, operands: Operands, accumulator: SequentialFacts, outer: _Chain | None
) -> How:
    """What is to be compiled; rare ways share kernels, for which more of them is data."""
    rounding = accumulator.rounding
    rare = outer is not None or operands.wants_running
    several = not accumulator.fused or accumulator.via is not None
    staged = chain.flavour in EXACT and (rare or several)
    return How(
        chain.flavour,
        DETERMINISTIC if staged else kind_of(rounding),
        "" if staged else known_mode(rounding, "rtz"),
        staged,
        chain.ranged,
        NO_OUTER if outer is None else outer.flavour,
        (outer or chain).flavour in WIDE,
    )


def _depth(steps: int, block: int, dtype: np.dtype[Any]) -> int:
    """How many terms of a panel are filled in at once: whole blocks, if they are short."""
    most = _PANEL_BYTES // (TILE_COLUMNS * dtype.itemsize)
    return max(1, min(steps, most - most % block if block < most else most))


class _Share(NamedTuple):
    """What a thread takes at once: some rows, and panels side by side."""

    rows: int = 1
    panels: int = 1
    tiles: int = 1  # of rows
    number: int = 1  # of all shares
    cost: float = 0.0  # in nanoseconds


def _share(operands: Operands, height: int, panel_bytes: int, cost: float) -> _Share:
    """Shares, of which there are more than threads that they are worth.

    They have as many panels as a cache has room for.  Few rows take less time than filling the
    panels does, and are not worth parts.
    """
    batch, rows, columns = operands.shape
    panels = -(-columns // TILE_COLUMNS)
    each = max(1, min(panels, _PANELS_BYTES // panel_bytes, rows // _ROWS_PER_PANEL))
    groups = -(-panels // each)
    wanted = launching.pieces_for(cost * batch * rows * operands.steps * columns)
    wanted = -(-wanted // batch)
    parts = max(1, -(-rows // _MOST_ROWS), min(rows // _PART_ROWS, -(-wanted // groups)))
    each = -(-panels // max(groups, min(panels, -(-wanted // parts))))
    tall = -(-rows // (parts * height)) * height
    work = (min(tall, rows) + _LEAST_ROWS) * max(operands.steps, 1) * TILE_COLUMNS * each
    return _Share(
        rows=tall,
        panels=each,
        tiles=tall // height + height - 1,
        number=batch * -(-rows // tall) * -(-panels // each),
        cost=cost * work,
    )


def _tiles(
    slots: int,
    rows: int,
    panels: tuple[int, int, int],
    dtype: np.dtype[Any],
    outer_dtype: np.dtype[Any] | None,
) -> _Tile:
    """A workspace; only sums of blocks have outer accumulators."""
    inner = aligned((slots, rows, TILE_COLUMNS), dtype)
    total = inner if outer_dtype is None else aligned(inner.shape, outer_dtype)
    vectors = max(inner[0].nbytes, total[0, 0].nbytes) // VECTOR_BYTES
    counts = slots, vectors, panels[0]
    terms, undecided, finite = (np.zeros(count, np.int64) for count in counts)
    return _Tile(inner, total, terms, undecided, aligned(panels, dtype), finite)


def _outer_chain(
    inner: _Chain, operands: Operands, accumulator: SequentialFacts, outer: BlockedFacts
) -> _Chain:
    """How the sums of blocks, of a chain, are added up: in its lanes if they do, or wider ones."""
    format, rounding = outer.format, outer.rounding
    narrow = operands.narrow and all(map(holds_float32_sums, (accumulator.format, format)))
    if rounding.mode == "rne" and inner.flavour not in EXACT:  # whose steps take longer anyway
        dtypes = (_FLOAT32, _FLOAT64) if inner.dtype == _FLOAT32 else (_FLOAT64,)
        for dtype in dtypes:
            if is_own_format(format, dtype) and rounding.overflow == "ieee":
                return _Chain(PLAIN_NARROW if dtype == _FLOAT32 else PLAIN_WIDE, dtype)
            # The sums of blocks, infinities too, are members of their format.
            fast = _fast_parameters(format, dtype, accumulator.format.quantum_exponent)
            if fast is not None:
                return _Chain(FAST_NARROW if narrow else FAST_WIDE, dtype, fast[0])
    return _Chain(EXACT_NARROW if narrow else EXACT_WIDE)


def _sum_of(
    operands: Operands,
    accumulator: SequentialFacts,
    outer: BlockedFacts | None,
    *,
    plain: bool = False,
    fast: Any = None,
    form: int = 0,
    add: int = 0,
) -> Sum:
    """The data of a sum but for what depends on shares and parts.

    Without an outer accumulator all terms are one block.
    """
    format, rounding = accumulator.format, accumulator.rounding
    return Sum(
        block=max(operands.steps, 1) if outer is None else outer.block,
        rows=1,
        panels=1,
        plain=plain,
        blocked=outer is not None,
        unfused=not accumulator.fused,
        via=accumulator.via is not None,
        targets=targets_of(
            (format, rounding),
            (accumulator.product or format, rounding),
            (accumulator.via or format, rounding),
            (format, rounding) if outer is None else (outer.format, outer.rounding),
        ),
        fast=_table_of(_NOT_FAST, _NOT_FAST) if fast is None else fast,
        advance=0,
        form=form,
        add=add,
    )


@functools.lru_cache(maxsize=4096)
def _table_of(*rows: tuple[int, ...]) -> NDArray[np.uint64]:
    """Parameters of fast loops in rows: an array is handed on in less time than numbers."""
    table = np.array(rows, np.uint64)
    table.flags.writeable = False
    return table


# --- stochastic rounding ------------------------------------------------------------------------


class _Modes(NamedTuple):
    """How a sum with stochastic roundings is formed: which of them there are, and their bits."""

    first_stage: int  # PRODUCTS, VIA or INNER
    second_stage: int
    blocked: bool
    kind: Any
    random: Random
    outer_kind: Any
    outer_random: Random


@functools.cache
def _stochastic_kernel(mode: str) -> Callable[..., None]:
    """The kernel of sums of which a rounding is stochastic; for all modes if `mode` is ""."""

    @caching.kernel
    def stochastic_range(start, stop, arrays, sums, modes):  # type: ignore[no-untyped-def]
        """Element by element; `right` has columns as rows.

        Every rounding of a step is a stage ``x*y + addend``, so that there is one place for all.
        """
        _, rows, steps = arrays.left.shape
        bits = ZERO
        for index in range(start, stop):
            batch = index // rows
            row = index - batch * rows
            for j in range(arrays.lengths[row]):
                element = index * arrays.out.shape[2] + j
                total = arrays.initial[batch, row, j] if arrays.initial.size > 0 else 0.0
                for first in range(0, steps, sums.block):
                    last = min(first + sums.block, steps)
                    inner = 0.0 if modes.blocked else total
                    for step in range(first, last):
                        x, y = arrays.left[batch, row, step], arrays.right[batch, j, step]
                        stage = modes.first_stage
                        while stage >= 0:
                            outer = stage == OUTER
                            kind = modes.outer_kind if outer else modes.kind
                            random = modes.outer_random if outer else modes.random
                            number = first // sums.block if outer else step
                            addend = total if outer else inner
                            if stage == PRODUCTS:
                                addend = np.copysign(0.0, x) * np.copysign(1.0, y)
                            if kind == STOCHASTIC:
                                bits = random_bits.step_bits(
                                    element, number, stage, random.key, random.unused
                                )
                            target = with_mode(target_at(sums.targets, stage), mode)
                            bits_of_sum = fma_word_at(
                                x, y, addend, target, kind, bits, random.unused
                            )
                            x, y = words.floating(bits_of_sum), 1.0
                            if stage == PRODUCTS:
                                stage = modes.second_stage
                            elif stage == VIA:  # goes on as a product, with nothing to add
                                inner = np.copysign(0.0, x)
                                stage = INNER
                            elif stage == INNER:
                                inner = x
                                stage = OUTER if modes.blocked and step == last - 1 else -1
                            else:
                                stage = -1
                    total = x
                arrays.out[batch, row, j] = total

    return cast(Callable[..., None], stochastic_range)


def _stochastic_product(
    operands: Operands, accumulator: SequentialFacts, outer: BlockedFacts | None
) -> Carrier:
    batch, rows, columns = operands.shape
    single = outer is None and accumulator.fused and accumulator.via is None
    if single and stochastic_sums.takes(operands, accumulator.format, accumulator.rounding):
        return stochastic_sums.product(operands, accumulator.format, accumulator.rounding)
    out = np.zeros(operands.shape)
    outer_rounding = accumulator.rounding if outer is None else outer.rounding
    columns_first = read_only(operands.b.transpose(0, 2, 1), _FLOAT64)
    # The code for any mode takes a fifth longer than that for sr.
    same = outer_rounding.mode == accumulator.rounding.mode
    launching.run(
        _stochastic_kernel(known_mode(outer_rounding, "sr") if same else ""),
        batch * rows,
        operands.arrays(_FLOAT64, out, columns_first),
        _sum_of(operands, accumulator, outer),
        _Modes(
            PRODUCTS if not accumulator.fused else VIA if accumulator.via is not None else INNER,
            VIA if accumulator.via is not None else INNER,
            outer is not None,
            kind_of(accumulator.rounding),
            random_of(accumulator.rounding),
            kind_of(outer_rounding),
            random_of(outer_rounding),
        ),
        cost=_STOCHASTIC_COST * operands.steps * columns,
    )
    return out
