"""Matrix products over the accumulators that take term after term: Sequential and Blocked.

One driver (:func:`_product_kernel`) walks over the output in tiles of rows and columns; how a tile
advances along the inner dimension is one of five flavours, from a plain chain of multiply-adds to
integer arithmetic.  All give the same bits where more than one applies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numba
import numpy as np

from fpemu._kernels import caching, launching, random_bits, tiles, words
from fpemu._kernels.error_free import (
    add_float32,
    holds_float32_sums,
    multiply_add_float32,
    multiply_add_float64,
)
from fpemu._kernels.exact import fma_word, fma_word_at
from fpemu._kernels.facts import FormatFacts
from fpemu._kernels.operands import INNER, OUTER, PRODUCTS, VIA, Operands, panels
from fpemu._kernels.rounding import (
    LAYOUTS,
    NEAREST_EVEN,
    STOCHASTIC,
    Carrier,
    is_own_format,
    kind_of,
    target_of,
    unused_bits,
    word_of,
)
from fpemu._kernels.significands import ZERO

__all__ = ["product"]

# The flavours.  NARROW ones take operands that are float32 numbers, WIDE ones any float64 numbers.
_NO_OUTER, _PLAIN, _FAST_NARROW, _FAST_WIDE, _EXACT_NARROW, _EXACT_WIDE = range(6)

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)
_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)

# A result is a tie once in 2**dropped times; from here on the exact steps do not matter.
_FAST_DROPPED: Final = 10
_VECTOR_BYTES: Final = tiles.VECTOR_BITS // 8
_WORK_PER_PIECE: Final = 2**20  # multiply-adds worth a thread
_STOCHASTIC_WORK: Final = 2**14


@dataclass(frozen=True)
class _Chain:
    """How a tile advances: a flavour, the compile-time and the run-time parameters it takes."""

    flavour: int
    kind: int = NEAREST_EVEN
    unfused: bool = False
    via: bool = False
    ranged: bool = False
    dtype: np.dtype[Any] = _FLOAT64  # of the operands and of the tile
    fast: tuple[Any, ...] = ()
    target: Any = None
    product_target: Any = None
    via_target: Any = None


# --- the kernel ---------------------------------------------------------------------------------


@numba.njit(inline="always")
def _advance_fast(a, row, full, panel, tile, first, stop, fast, ranged, running):  # type: ignore[no-untyped-def]
    """Take a tile on to the first doubtful step, or to ``stop``."""
    if running:
        if ranged:
            return tiles.advance_ranged_running(a, row, panel, tile, first, stop, fast)
        return tiles.advance_rounded_running(a, row, panel, tile, first, stop, fast)
    if ranged:
        if full:
            return tiles.advance_ranged_rows(a, row, panel, tile, first, stop, fast)
        return tiles.advance_ranged(a, row, panel, tile, first, stop, fast)
    if full:
        return tiles.advance_rounded_rows(a, row, panel, tile, first, stop, fast)
    return tiles.advance_rounded(a, row, panel, tile, first, stop, fast)


@numba.njit(inline="always")
def _settle(a, row, full, panel, tile, step, undecided, fast, ranged):  # type: ignore[no-untyped-def]
    """Do a doubtful step but for the accumulators whose bits it sets in ``undecided``."""
    if ranged:
        if full:
            return tiles.settle_ranged_rows(a, row, panel, tile, step, undecided, fast)
        return tiles.settle_ranged(a, row, panel, tile, step, undecided, fast)
    if full:
        return tiles.settle_rounded_rows(a, row, panel, tile, step, undecided, fast)
    return tiles.settle_rounded(a, row, panel, tile, step, undecided, fast)


@numba.njit(inline="always")
def _exact_step(  # type: ignore[no-untyped-def]
    total, left, right, target, product_target, via_target, kind, unfused, via, wide
):
    if wide:
        return multiply_add_float64(
            total, left, right, target, product_target, via_target, kind, unfused, via
        )
    return multiply_add_float32(
        total, left, right, target, product_target, via_target, kind, unfused, via
    )


@numba.njit(inline="always")
def _add_running(tile):  # type: ignore[no-untyped-def]
    """Add the magnitudes and squares of a row of accumulators to the rows below it."""
    for j in range(tile.shape[1]):
        number = np.float64(tile[0, j])
        tile[1, j] += abs(number)
        tile[2, j] += number * number


@numba.njit(inline="always")
def _advance_plain(a, row, full, panel, tile, first, stop, fast):  # type: ignore[no-untyped-def]
    """Take a tile from step ``first`` to ``stop`` by the lanes' own arithmetic."""
    if full:
        tiles.advance_plain_rows(a, row, panel, tile, first, stop, fast)
    else:
        tiles.advance_plain(a, row, panel, tile, first, stop, fast)


@numba.njit(inline="always")
def _advance_quickly(  # type: ignore[no-untyped-def]
    a, row, full, panel, tile, first, stop,
    fast, target, product_target, via_target, wide, kind, ranged, running,
):  # fmt: skip
    """Take a tile from step ``first`` to ``stop``: fast steps, and exact ones where those doubt."""
    # The lanes of a vector of accumulators are bits of one of these numbers.
    width = _VECTOR_BYTES // a.itemsize
    undecided = np.zeros(tile.size // width, np.int64)
    several = full and not running  # a tile with running sums has one row of accumulators
    step = _advance_fast(a, row, several, panel, tile, first, stop, fast, ranged, running)
    while step < stop:
        _settle(a, row, several, panel, tile, step, undecided, fast, ranged)
        for vector in range((tile.size if several else tiles.COLUMNS) // width):
            lanes = undecided[vector]
            lane = vector * width
            while lanes != 0:
                if lanes & 1:
                    r, j = lane // tiles.COLUMNS, lane % tiles.COLUMNS
                    tile[r, j] = _exact_step(
                        np.float64(tile[r, j]), np.float64(a[row + r, step]),
                        np.float64(panel[step, j]), target, product_target, via_target,
                        kind, False, False, wide,
                    )  # fmt: skip
                lanes >>= 1
                lane += 1
        if running:
            _add_running(tile)
        step = _advance_fast(a, row, several, panel, tile, step + 1, stop, fast, ranged, running)


@numba.njit(inline="always")
def _advance_exactly(  # type: ignore[no-untyped-def]
    a, row, panel, tile, first, stop,
    target, product_target, via_target, wide, kind, unfused, via, running,
):  # fmt: skip
    """Take a tile of one row from step ``first`` to ``stop`` by exact steps alone."""
    for step in range(first, stop):
        left = np.float64(a[row, step])
        for j in range(tiles.COLUMNS):
            tile[0, j] = _exact_step(
                np.float64(tile[0, j]), left, np.float64(panel[step, j]),
                target, product_target, via_target, kind, unfused, via, wide,
            )  # fmt: skip
        if running:
            _add_running(tile)


@numba.njit(inline="always")
def _begin(tile, initial, batch, row, together, column):  # type: ignore[no-untyped-def]
    """Fill a tile with the initial values of its accumulators, zero where there are none."""
    tile[:] = 0.0
    if initial.size > 0:
        end = min(tile.shape[1], initial.shape[2] - column)
        for r in range(together):
            for j in range(end):
                tile[r, j] = initial[batch, row + r, column + j]


@numba.njit(inline="always")
def _add_block(total, tile, height, target, kind, wide):  # type: ignore[no-untyped-def]
    """Round the sums of a block into the outer accumulators."""
    for r in range(height):
        for j in range(tile.shape[1]):
            term = np.float64(tile[r, j])
            if wide:
                total[r, j] = words.floating(fma_word(1.0, term, total[r, j], target, kind))
            else:
                total[r, j] = add_float32(total[r, j], term, target, kind)


def _rows_together(flavour: int) -> int:
    """How many rows of the output a tile has."""
    rows = {
        _PLAIN: tiles.PLAIN_ROWS,
        _FAST_NARROW: tiles.ROUNDED_ROWS,
        _FAST_WIDE: tiles.ROUNDED_ROWS,
    }
    return rows.get(flavour, 1)


@functools.cache
def _product_kernel(
    flavour: int,
    kind: int,
    unfused: bool,
    via: bool,
    ranged: bool,
    outer: int,
    outer_kind: int,
    running: bool,
) -> Callable[..., None]:
    """The kernel of a flavour; `outer` is that of the outer accumulator, or _NO_OUTER.

    The arguments are constants to the compiler.
    """
    plain = flavour == _PLAIN
    quick = flavour in (_FAST_NARROW, _FAST_WIDE)
    wide = flavour in (_FAST_WIDE, _EXACT_WIDE)
    blocked = outer != _NO_OUTER
    wide_outer = outer == _EXACT_WIDE
    height = 1 if running else _rows_together(flavour)
    bands = 3 if running else 1
    columns = tiles.COLUMNS

    @caching.kernel
    def product_range(  # type: ignore[no-untyped-def]
        start, stop, a, panels, initial, out, lengths, block,
        fast, target, product_target, via_target, outer_target, sums, inner_share,
    ):  # fmt: skip
        _, rows, steps = a.shape
        groups = (rows + height - 1) // height
        tile = np.zeros((bands * height, columns), a.dtype)
        total = np.zeros((bands * height, columns), np.float64)
        for p in range(panels.shape[1]):
            for group in range(start, stop):
                batch = group // groups
                first_row = (group - batch * groups) * height
                last_row = min(first_row + height, rows)
                together = height if last_row - first_row == height else 1
                longest = 0
                for row in range(first_row, last_row):
                    longest = max(longest, lengths[row])
                if p * columns >= longest:
                    continue
                for row in range(first_row, last_row, together):
                    if blocked:
                        tile[:] = 0.0
                        _begin(total, initial, batch, row, together, p * columns)
                    else:
                        _begin(tile, initial, batch, row, together, p * columns)
                    for first in range(0, steps, block):
                        if blocked:
                            tile[:height] = 0.0
                        last = min(first + block, steps)
                        full = together == height
                        # Constants decide which of these is compiled at all.
                        if plain:
                            _advance_plain(
                                a[batch], row, full, panels[batch, p], tile, first, last, fast
                            )
                        elif quick:
                            _advance_quickly(
                                a[batch], row, full, panels[batch, p], tile, first, last,
                                fast, target, product_target, via_target, wide, kind, ranged,
                                running,
                            )  # fmt: skip
                        else:
                            _advance_exactly(
                                a[batch], row, panels[batch, p], tile, first, last,
                                target, product_target, via_target, wide, kind, unfused, via,
                                running,
                            )  # fmt: skip
                        if blocked:
                            _add_block(total, tile, height, outer_target, outer_kind, wide_outer)
                            if running:
                                _add_running(total)
                    for r in range(together):
                        end = min((p + 1) * columns, lengths[row + r])
                        for j in range(p * columns, end):
                            if blocked:
                                out[batch, row + r, j] = total[r, j - p * columns]
                            else:
                                out[batch, row + r, j] = tile[r, j - p * columns]
                    if running:
                        for j in range(p * columns, min((p + 1) * columns, lengths[row])):
                            for i in range(2):
                                inner = tile[1 + i, j - p * columns]
                                if blocked:
                                    outer_sum = total[1 + i, j - p * columns]
                                    inner = outer_sum + inner_share ** (1 + i) * inner
                                sums[i, batch, row, j] = inner

    return cast(Callable[..., None], product_range)


# --- which flavour ------------------------------------------------------------------------------


def _fast_parameters(
    format: FormatFacts, dtype: np.dtype[Any], products_exponent: int
) -> tuple[tuple[Any, ...], bool] | None:
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
    return tuple(layout.word(value) for value in parameters), ranged


def _chain_of(accumulator: Any, operands: Operands, blocked: bool) -> _Chain:
    """How to run a sequential accumulator on the operands; `blocked` ones begin at zero."""
    narrow = operands.narrow
    format, rounding = accumulator.format, accumulator.rounding
    kind = kind_of(rounding)
    once = accumulator.fused and accumulator.via is None
    nearest_ieee = once and kind == NEAREST_EVEN and rounding.overflow == "ieee"
    chain = _Chain(
        flavour=_EXACT_WIDE,
        kind=kind,
        unfused=not accumulator.fused,
        via=accumulator.via is not None,
        target=target_of(format, rounding, _FLOAT64),
        product_target=target_of(accumulator.product or format, rounding, _FLOAT64),
        via_target=target_of(accumulator.via or format, rounding, _FLOAT64),
    )
    running = operands.running.size > 0  # in float64 lanes, in which no square overflows
    if nearest_ieee and narrow and is_own_format(format, _FLOAT32) and not running:
        return replace(chain, flavour=_PLAIN, dtype=_FLOAT32)
    if nearest_ieee and is_own_format(format, _FLOAT64) and not running:
        return replace(chain, flavour=_PLAIN)
    if once and kind == NEAREST_EVEN:
        products_exponent = operands.last_bit_exponent(with_initial=not blocked)
        fast = None
        if narrow and not running:
            fast = _fast_parameters(format, _FLOAT32, products_exponent)
        if fast is not None:
            flavour, dtype = _FAST_NARROW, _FLOAT32
        elif fast := _fast_parameters(format, _FLOAT64, products_exponent):
            flavour, dtype = _FAST_NARROW if narrow else _FAST_WIDE, _FLOAT64
        if fast is not None:
            ranged = fast[1] or rounding.overflow != "ieee"
            return replace(chain, flavour=flavour, dtype=dtype, fast=fast[0], ranged=ranged)
    formats = (format, accumulator.product or format, accumulator.via or format)
    if narrow and all(holds_float32_sums(each) for each in formats):
        return replace(chain, flavour=_EXACT_NARROW)
    return chain


# --- products -----------------------------------------------------------------------------------


def product(operands: Operands, accumulator: Any) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays, in the carrier it is computed in."""
    if accumulator.is_stochastic:
        return _stochastic_product(operands, accumulator)
    a, b, initial = operands.a, operands.b, operands.initial
    batch, rows, steps = a.shape
    sequential = accumulator.inner if hasattr(accumulator, "inner") else accumulator
    chain = _chain_of(sequential, operands, hasattr(accumulator, "inner"))
    block, outer, outer_kind, outer_target = max(steps, 1), _NO_OUTER, NEAREST_EVEN, chain.target
    if hasattr(accumulator, "inner"):
        block, outer_kind = accumulator.block, kind_of(accumulator.rounding)
        outer_target = target_of(accumulator.format, accumulator.rounding, _FLOAT64)
        both = (accumulator.format, sequential.format)
        safe = operands.narrow and all(holds_float32_sums(each) for each in both)
        outer = _EXACT_NARROW if safe else _EXACT_WIDE
    out = np.zeros((batch, rows, b.shape[2]), _FLOAT64 if outer != _NO_OUTER else chain.dtype)
    if out.size == 0:
        return out
    running = operands.running.size > 0
    height = 1 if running else _rows_together(chain.flavour)
    groups = batch * -(-rows // height)
    launching.run(
        _product_kernel(
            chain.flavour,
            chain.kind,
            chain.unfused,
            chain.via,
            chain.ranged,
            outer,
            outer_kind,
            running,
        ),
        groups,
        np.ascontiguousarray(a, dtype=chain.dtype),
        panels(b.astype(chain.dtype, copy=False), tiles.COLUMNS),
        np.zeros((0, 0, 0), out.dtype) if initial is None else initial.astype(out.dtype),
        out,
        operands.row_lengths,
        block,
        chain.fast or (out.dtype.type(0),),
        chain.target,
        chain.product_target,
        chain.via_target,
        outer_target,
        operands.running,
        sequential.roundoff / accumulator.roundoff,
        grain=max(1, _WORK_PER_PIECE // (height * max(steps, 1) * b.shape[2])),
    )
    return out


# --- stochastic rounding --------------------------------------------------------------------------


@numba.njit(inline="always")
def _multiply_add(a, b, c, target, kind, element, step, stream, key, unused):  # type: ignore[no-untyped-def]
    """``a*b + c`` rounded once, with the random bits of a step where the mode needs any."""
    random = ZERO
    if kind == STOCHASTIC:
        random = random_bits.step_bits(element, step, stream, key, unused)
    return words.floating(fma_word_at(a, b, c, target, kind, random, unused))


@functools.cache
def _stochastic_kernel(
    kind: int, unfused: bool, via: bool, blocked: bool, outer_kind: int
) -> Callable[..., None]:
    """The kernel for sums of which a rounding is stochastic, element by element."""

    @caching.kernel
    def stochastic_range(  # type: ignore[no-untyped-def]
        start, stop, a, columns, initial, out, lengths, block,
        target, product_target, via_target, outer_target, key, unused, outer_key, outer_unused,
    ):  # fmt: skip
        _, rows, steps = a.shape
        for index in range(start, stop):
            batch = index // rows
            row = index - batch * rows
            for j in range(lengths[row]):
                element = index * columns.shape[1] + j
                total = initial[batch, row, j] if initial.size > 0 else 0.0
                for first in range(0, steps, block):
                    inner = 0.0 if blocked else total
                    for step in range(first, min(first + block, steps)):
                        x: Any = np.float64(a[batch, row, step])
                        y: Any = np.float64(columns[batch, j, step])
                        if unfused:
                            zero = np.copysign(0.0, x) * np.copysign(1.0, y)
                            x = _multiply_add(
                                x, y, zero, product_target, kind,
                                element, step, PRODUCTS, key, unused,
                            )  # fmt: skip
                            y = 1.0
                        if via:
                            inner = _multiply_add(
                                x, y, inner, via_target, kind, element, step, VIA, key, unused
                            )
                            x, y, inner = inner, 1.0, np.copysign(0.0, inner)
                        inner = _multiply_add(
                            x, y, inner, target, kind, element, step, INNER, key, unused
                        )
                    if blocked:
                        inner = _multiply_add(
                            1.0, inner, total, outer_target, outer_kind, element, first // block,
                            OUTER, outer_key, outer_unused,
                        )  # fmt: skip
                    total = inner
                out[batch, row, j] = total

    return cast(Callable[..., None], stochastic_range)


def _stochastic_product(operands: Operands, accumulator: Any) -> Carrier:
    batch, rows, columns = operands.shape
    steps = operands.a.shape[2]
    blocked = hasattr(accumulator, "inner")
    inner = accumulator.inner if hasattr(accumulator, "inner") else accumulator
    outer = accumulator.rounding
    out = np.zeros(operands.shape)
    initial = operands.initial
    launching.run(
        _stochastic_kernel(
            kind_of(inner.rounding),
            not inner.fused,
            inner.via is not None,
            blocked,
            kind_of(outer),
        ),
        batch * rows,
        np.ascontiguousarray(operands.a),
        np.ascontiguousarray(operands.b.transpose(0, 2, 1)),
        np.zeros((0, 0, 0)) if initial is None else initial.astype(np.float64),
        out,
        operands.row_lengths,
        accumulator.block if hasattr(accumulator, "inner") else max(steps, 1),
        target_of(inner.format, inner.rounding, _FLOAT64),
        target_of(inner.product or inner.format, inner.rounding, _FLOAT64),
        target_of(inner.via or inner.format, inner.rounding, _FLOAT64),
        target_of(accumulator.format, outer, _FLOAT64),
        random_bits.key_of(inner.rounding.seed),
        unused_bits(inner.rounding),
        random_bits.key_of(outer.seed),
        unused_bits(outer),
        grain=max(1, _STOCHASTIC_WORK // (max(steps, 1) * max(columns, 1))),
    )
    return out
