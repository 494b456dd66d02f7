"""How tiles of accumulators are taken along their terms: parts of kernels, each compiled once.

Kernels of products (:mod:`fpemu._kernels.sequential`) and of running sums
(:mod:`fpemu._kernels.running_sums`) walk over the output.  What takes their tiles along the terms
is a part, and what adds the sums of blocks is another.  So a kernel is compiled for the types of
its accumulators alone, and each way to form sums for itself.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numba
import numpy as np
from numba import types
from numba.np import numpy_support

from fpemu._kernels import caching, parts, tiles
from fpemu._kernels.operands import INNER, OUTER, PRODUCTS, VIA
from fpemu._kernels.panels import MANY_REGISTERS, TILE_COLUMNS
from fpemu._kernels.parts import Part
from fpemu._kernels.rounding import DETERMINISTIC, with_mode
from fpemu._kernels.targets import TABLE_TYPE, target_at
from fpemu._kernels.tile_steps import (
    How,
    Sum,
    add_block,
    advance_exactly,
    clear,
    fast_at,
    settle_exactly,
)
from fpemu._kernels.vectors import VECTOR_BYTES

__all__ = [
    "Lanes",
    "adding",
    "advancing",
    "call_to_advance",
    "call_to_keep",
    "forming",
    "keeping",
    "lanes_of",
]

_FEW_COLUMNS: Final = 16  # beside which both running sums fit 16 registers

_INDEX: Final = types.intp
_UNDECIDED: Final = types.Array(types.int64, 1, "C")
_RUNNING: Final = types.Array(types.float64, 2, "C")
_SUM: Final = types.NamedTuple(
    [
        *[_INDEX] * 3,
        *[types.boolean] * 4,
        TABLE_TYPE,
        types.Array(types.uint64, 2, "C", readonly=True),
        *[_INDEX] * 3,
    ],
    Sum,
)

call_to_advance: Final = parts.calling(12)
call_to_keep: Final = parts.calling(14)
_call_to_add: Final = parts.calling(4)
_call_to_form: Final = parts.calling(9)


class Lanes:
    """The types of inner and outer accumulators, and what parts for them take.

    Parameters
    ----------
    inner, outer : dtype
        The same where there are no outer ones.
    """

    def __init__(self, inner: np.dtype[Any], outer: np.dtype[Any]) -> None:
        self.inner, self.outer = inner, outer
        number, total = (numpy_support.from_dtype(dtype) for dtype in (inner, outer))
        left = types.Array(number, 2, "C", readonly=True)
        tile, totals = (types.Array(kind, 2, "C") for kind in (number, total))
        kept, rest = types.Array(number, 3, "C"), (*[_INDEX] * 3, _SUM)
        self.to_add = totals, tile, _UNDECIDED, _SUM
        self.to_form = left, *[_INDEX] * 2, tile, tile, *[_INDEX] * 2, _UNDECIDED, _SUM
        self.to_advance = left, *[_INDEX] * 3, tile, tile, _UNDECIDED, totals, *rest
        self.to_keep = (
            *(left, *[_INDEX] * 2, tile, tile, kept, _RUNNING, _UNDECIDED, totals, _RUNNING),
            *rest,
        )


@functools.cache
def lanes_of(inner: np.dtype[Any], outer: np.dtype[Any]) -> Lanes:
    """The same for the same types, so that parts are looked up by it."""
    return Lanes(inner, outer)


# --- the sums of blocks ---------------------------------------------------------------------------


@functools.cache
def adding(how: How, lanes: Lanes) -> Part:
    """The part ``f(total, tile, undecided, sums)`` that adds the sums of a block, see `add_block`.

    It does what `how` says of the outer accumulators.
    """
    return parts.compiled(_adding(how.plain_outer, how.quick_outer, how.wide_outer), *lanes.to_add)


@functools.cache
def _adding(plain: bool, quick: bool, wide: bool) -> Any:
    @caching.part
    def add(total, tile, undecided, sums):  # type: ignore[no-untyped-def]
        target = target_at(sums.targets, OUTER)
        rows = tile.shape[0]
        add_block(total, tile, rows, undecided, fast_at(sums.fast, 1), target, plain, quick, wide)
        return 0

    return add


# --- sums formed one by one -----------------------------------------------------------------------


@functools.cache
def forming(how: How, lanes: Lanes) -> Part:
    """The part that forms sums exactly and rounds each once, those of whole steps or what is left.

    ``f(a, row, origin, panel, tile, first, count, undecided, sums)``, as :func:`advancing`'s.
    Where vector code takes the steps, it does what that left `undecided` of step `first`, in
    `count` vectors of the tile; else it takes a tile of one row from step `first` on, to `count`.
    """
    function = _forming(how.quick, how.kind, how.mode, how.wide, how.staged)
    return parts.compiled(function, *lanes.to_form)


@functools.cache
def _forming(quick: bool, kind: int, mode: str, wide: bool, staged: bool) -> Any:
    @caching.part
    def form(a, row, origin, panel, tile, first, count, undecided, sums):  # type: ignore[no-untyped-def]
        target = with_mode(target_at(sums.targets, INNER), mode)
        if quick:
            settle_exactly(a, row, origin, panel, tile, first, undecided, count, target, kind, wide)
        else:
            of_product, of_via = target_at(sums.targets, PRODUCTS), target_at(sums.targets, VIA)
            advance_exactly(
                a, row, origin, panel, tile, first, count, target, kind, wide, staged,
                of_product, of_via, sums.unfused, sums.via,
            )  # fmt: skip
        return 0

    return form


@numba.njit(inline="always")
def _are_some(undecided, vectors):  # type: ignore[no-untyped-def]
    """Whether an accumulator of so many vectors is undecided."""
    lanes = 0
    for vector in range(vectors):
        lanes |= undecided[vector]
    return lanes != 0


# --- products -------------------------------------------------------------------------------------


@functools.cache
def advancing(how: How, lanes: Lanes) -> Part:
    """The part that takes a tile from one term to another, and adds the sums of blocks.

    ``f(a, row, together, origin, panel, tile, undecided, total, first, stop, run, sums)``: the
    tile has rows of `a` from `row` on, of which so many are there, and a panel that holds terms
    from `origin` on.  `run` is how many fast steps it takes at once at first; it returns how many
    it would take the next time.
    """
    function = _advancing(
        how.plain, how.quick, how.ranged, how.adds_alike, how.plain_outer,
        parts.takes(*lanes.to_form), parts.takes(*lanes.to_add),
    )  # fmt: skip
    return parts.compiled(function, *lanes.to_advance)


@functools.cache
def _advancing(
    plain: bool,
    quick: bool,
    ranged: bool,
    alike: bool,
    plain_outer: bool,
    to_form: str,
    to_add: str,
) -> Any:
    @caching.part
    def advance(  # type: ignore[no-untyped-def]
        a, row, together, origin, panel, tile, undecided, total, first, stop, run, sums
    ):
        fast, steps, height = fast_at(sums.fast, 0), a.shape[1], tile.shape[0]
        place = first % sums.block
        while first < stop:
            last = min(first + sums.block - place, stop)
            ends = last == first + sums.block - place or last == steps
            if plain:
                _add_block_plain(
                    a, row, row + together, origin, panel, tile, first - origin, last - origin,
                    place == 0, ends and alike, total,
                )  # fmt: skip
            else:
                if sums.blocked and place == 0:
                    clear(tile, height)
                if quick:
                    run = _advance_quickly(
                        a, row, origin, together == height, panel, tile, undecided, first - origin,
                        last - origin, run, fast, ranged, to_form, sums,
                    )  # fmt: skip
                else:
                    _call_to_form(
                        sums.form, to_form, a, row, origin, panel, tile, first - origin,
                        last - origin, undecided, sums,
                    )  # fmt: skip
            if plain_outer:
                if ends and not alike:
                    for r in range(height):
                        tiles.add_plain(tile, total, r, 0, fast)
            elif sums.blocked and ends:
                _call_to_add(sums.add, to_add, total, tile, undecided, sums)
            first, place = last, 0
        return run

    return advance


@numba.njit(inline="always")
def _add_block_plain(  # type: ignore[no-untyped-def]
    a, row, last_row, origin, panel, tile, first, stop, begins, ends, total
):
    """Form the sums of a block, or of a part of it, and add them where it ends."""
    if last_row - row > 1:
        tiles.add_block_plain_rows(
            a, row, last_row, origin, panel, tile, first, stop, begins, ends, total, 0, 0
        )
    else:
        tiles.add_block_plain(
            a, row, last_row, origin, panel, tile, first, stop, begins, ends, total, 0, 0
        )


@numba.njit(inline="always")
def _advance_fast(  # type: ignore[no-untyped-def]
    a, row, origin, full, panel, tile, first, stop, run, fast, ranged
):
    """Take a tile on to the first doubtful step, or to ``stop``."""
    given = (run, *fast)
    if ranged:
        if full:
            return tiles.advance_ranged_rows(a, row, origin, panel, tile, first, stop, given)
        return tiles.advance_ranged(a, row, origin, panel, tile, first, stop, given)
    if full:
        return tiles.advance_rounded_rows(a, row, origin, panel, tile, first, stop, given)
    return tiles.advance_rounded(a, row, origin, panel, tile, first, stop, given)


@numba.njit(inline="always")
def _settle(  # type: ignore[no-untyped-def]
    a, row, origin, full, panel, tile, step, undecided, fast, ranged
):
    """Do a doubtful step but for the accumulators whose bits it sets in ``undecided``."""
    if ranged:
        if full:
            return tiles.settle_ranged_rows(a, row, origin, panel, tile, step, undecided, fast)
        return tiles.settle_ranged(a, row, origin, panel, tile, step, undecided, fast)
    if full:
        return tiles.settle_rounded_rows(a, row, origin, panel, tile, step, undecided, fast)
    return tiles.settle_rounded(a, row, origin, panel, tile, step, undecided, fast)


@numba.njit(inline="always")
def _advance_quickly(  # type: ignore[no-untyped-def]
    a, row, origin, full, panel, tile, undecided, first, stop, run, fast, ranged, to_form, sums
):
    """Take a tile from step ``first`` to ``stop``: fast steps, and exact ones where those doubt.

    Returns how many steps it is to take at once, ``run``, the next time.
    """
    vectors = (tile.size if full else TILE_COLUMNS) // (VECTOR_BYTES // tile.itemsize)
    step = first
    while True:
        before = step
        step = _advance_fast(a, row, origin, full, panel, tile, step, stop, run, fast, ranged)
        run = tiles.steps_at_once(run, step - before, step >= stop)
        if step >= stop:
            break
        _settle(a, row, origin, full, panel, tile, step, undecided, fast, ranged)
        if _are_some(undecided, vectors):
            _call_to_form(
                sums.form, to_form, a, row, origin, panel, tile, step, vectors, undecided, sums
            )
        step += 1
    return run


# --- running sums ---------------------------------------------------------------------------------


@numba.njit(inline="always")
def _add_to_running(tile, running):  # type: ignore[no-untyped-def]
    """Add the magnitudes and squares of accumulators to their running sums."""
    rows = tile.shape[0]
    for r in range(rows):
        for j in range(TILE_COLUMNS):
            number = np.float64(tile[r, j])
            running[r, j] += abs(number)
            running[rows + r, j] += number * number


@functools.cache
def keeping(how: How, lanes: Lanes, rows: tiles.Rows, *, first: bool, second: bool) -> Part:
    """The part that takes a tile from one term to another beside one kind of running sums, or both.

    ``f(a, row, origin, panel, tile, kept, running, undecided, total, outer_running, first, stop,
    run, sums)``: as that of :func:`advancing`, of a tile all of whose rows are there.  `running`
    are the running sums of `tile`, and `outer_running` those of `total`; what some steps give is
    `kept` before it is added to them.
    """
    columns = TILE_COLUMNS if MANY_REGISTERS or not (first and second) else _FEW_COLUMNS
    function = caching.specialized(
        _keep,
        is_part=True,
        known_as="-".join(map(str, (
            how.quick, how.exact, how.exact and how.wide, how.ranged, *rows, first, second,
        ))),
        advance=tiles.advance_keeping(rows, rounded=how.quick, ranged=how.ranged),
        settle=tiles.settle(rows, ranged=how.ranged),
        add_kept=tiles.add_kept(rows, columns, first=first, second=second),
        columns=columns,
        exact=how.exact,
        quick=how.quick,
        wide=how.exact and how.wide,
        to_form=parts.takes(*lanes.to_form),
        to_add=parts.takes(*lanes.to_add),
    )  # fmt: skip
    return parts.compiled(function, *lanes.to_keep)


# What a part that keeps is made for.
advance: Any = None
settle: Any = None
add_kept: Any = None
columns: Any = None  # whose running sums are advanced together
exact: Any = None
quick: Any = None
wide: Any = None
to_form: Any = None
to_add: Any = None


def _keep(  # type: ignore[no-untyped-def]
    a, row, origin, panel, tile, kept, running, undecided, total, outer_running, first, stop, run,
    sums,
):  # fmt: skip
    target = target_at(sums.targets, INNER)
    of_product, of_via = target_at(sums.targets, PRODUCTS), target_at(sums.targets, VIA)
    fast, steps, height, taken = fast_at(sums.fast, 0), a.shape[1], tile.shape[0], 0
    vectors = tile.size // (VECTOR_BYTES // tile.itemsize)
    # What a run of steps begins with is put aside, for which short blocks are too short.
    in_runs = not sums.blocked or sums.block > tiles.MOST_STEPS
    place = first % sums.block
    while first < stop:
        last = min(first + sums.block - place, stop)
        ends = last == first + sums.block - place or last == steps
        if sums.blocked and place == 0:
            clear(tile, height)
        step, until = first - origin, last - origin
        while step < until:
            if exact:
                advance_exactly(
                    a, row, origin, panel, tile, step, step + 1, target, DETERMINISTIC, wide, True,
                    of_product, of_via, sums.unfused, sums.via,
                )  # fmt: skip
                _add_to_running(tile, running)
                step += 1
            else:
                before, most = step, min(step + tiles.MOST_STEPS, until)
                step = advance(
                    a, row, origin, panel, tile, kept, step, most,
                    (run if in_runs else 0, *fast),
                )  # fmt: skip
                for at in range(0, tile.size, columns):
                    add_kept(kept, step - before, running, at)
                taken += step - before
                run = tiles.steps_at_once(run, taken, step >= most)
                if quick and step < most:
                    taken = 0
                    settle(a, row, origin, panel, tile, step, undecided, fast)
                    if _are_some(undecided, vectors):
                        _call_to_form(
                            sums.form, to_form, a, row, origin, panel, tile, step, vectors,
                            undecided, sums,
                        )  # fmt: skip
                    _add_to_running(tile, running)
                    step += 1
        if sums.blocked and ends:
            _call_to_add(sums.add, to_add, total, tile, undecided, sums)
            _add_to_running(total, outer_running)
        first, place = last, 0
    return run
