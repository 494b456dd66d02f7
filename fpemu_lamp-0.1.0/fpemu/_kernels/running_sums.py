"""Sequential sums beside the sums of the magnitudes of their partial sums, or of their squares.

Sums are formed as in :mod:`fpemu._kernels.sequential`, in lanes of their own width; the running
sums are float64 numbers.  Few columns are taken at once, so that all these stay in registers, and
only the running sums that are wanted are formed.  Those of blocks are formed for the sums within
blocks and for the outer ones, and added in proportion to the units of both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import numba
import numpy as np

from fpemu._kernels import caching, launching, tiles
from fpemu._kernels.operands import (
    INNER,
    OUTER,
    PRODUCTS,
    VIA,
    Operands,
    aligned,
    longest,
    pieces,
    right_of,
    target_at,
)
from fpemu._kernels.panels import MANY_REGISTERS, TILE_COLUMNS, fill_tile
from fpemu._kernels.rounding import Carrier, with_mode
from fpemu._kernels.tile_steps import (
    How,
    Sum,
    add_block,
    advance_exactly,
    begin,
    clear,
    put,
    settle_exactly,
)
from fpemu._kernels.vectors import VECTOR_BYTES

__all__ = ["product"]

_PANEL_BYTES: Final = 2**17
_FEW_COLUMNS: Final = 16  # beside which both running sums fit 16 registers
_MOST_ROWS: Final = 64  # of a piece
_FILLING: Final = 8  # rows that take as long as filling a panel
_WORK_PER_PIECE: Final = 2**18  # multiply-adds worth a thread


class _Work(NamedTuple):
    """What a thread works in, for each row."""

    inner: Any  # accumulators
    total: Any  # the outer ones; the same where there are no blocks
    running: Any  # the sums of the magnitudes of `inner` and of their squares
    outer_running: Any  # those of `total`
    undecided: Any  # a bit for every accumulator of a tile, a number for every vector of them
    panel: Any


@numba.njit(inline="always")
def _add(tile, running, column, columns):  # type: ignore[no-untyped-def]
    """Add the magnitudes and squares of some accumulators to their running sums."""
    for j in range(column, column + columns):
        number = np.float64(tile[0, j])
        running[0, j] += abs(number)
        running[1, j] += number * number


# What a kernel is made for.
advance: Any = None
settle: Any = None
columns: Any = None  # that are advanced together
exact: Any = None
quick: Any = None
wide: Any = None
kind: Any = None
mode: Any = None
unfused: Any = None
via: Any = None
blocked: Any = None
plain_outer: Any = None
quick_outer: Any = None
wide_outer: Any = None
outer_kind: Any = None


def _running_range(start, stop, work, arrays, sums, wanted, units):  # type: ignore[no-untyped-def]
    """Panels of columns, for some rows of the output, whose sums stay in the workspace."""
    _, rows, steps = arrays.left.shape
    lengths, out, panel, undecided = arrays.lengths, arrays.out, work.panel, work.undecided
    target = with_mode(target_at(sums.targets, INNER), mode)
    of_product = with_mode(target_at(sums.targets, PRODUCTS), mode)
    of_via = with_mode(target_at(sums.targets, VIA), mode)
    outer_target = target_at(sums.targets, OUTER)
    panels = (out.shape[2] + TILE_COLUMNS - 1) // TILE_COLUMNS
    parts, run = (rows + sums.rows - 1) // sums.rows, tiles.MOST_STEPS
    vectors = columns // (VECTOR_BYTES // work.inner.itemsize)
    # What a run of steps begins with is put aside, for which short blocks are too short.
    in_runs = not blocked or sums.block > tiles.MOST_STEPS
    for index in range(start, stop):
        stack, p = index // panels, index % panels
        batch, column = stack // parts, p * TILE_COLUMNS
        first_row = (stack - batch * parts) * sums.rows
        last_row = min(first_row + sums.rows, rows)
        a = arrays.left[batch]
        some = longest(lengths, first_row, last_row) > column
        for origin in range(0, max(steps, 1) if some else 0, panel.shape[0]):
            end = min(origin + panel.shape[0], steps)
            fill_tile(panel, arrays.right, batch, p, origin, end)
            for row in range(first_row, last_row):
                slot, width = row - first_row, min(TILE_COLUMNS, lengths[row] - column)
                tile, total = work.inner[slot], work.total[slot]
                running, outer_running = work.running[slot], work.outer_running[slot]
                if origin == 0:
                    begin(total, arrays.initial, batch, row, 1, column)
                    clear(running, 2)
                    if blocked:
                        clear(outer_running, 2)
                begun, place = origin, origin % sums.block
                while begun < end and width > 0:
                    last = min(begun + sums.block - place, end)
                    if blocked and place == 0:
                        clear(tile, 1)
                    if exact:
                        for step in range(begun - origin, last - origin):
                            advance_exactly(
                                a, row, origin, panel, tile, step, step + 1, target, of_product,
                                of_via, wide, kind, unfused, via,
                            )  # fmt: skip
                            _add(tile, running, 0, TILE_COLUMNS)
                    else:
                        for group in range(0, width, columns):
                            step = begun - origin
                            while True:
                                before = step
                                step = advance(
                                    a, row, origin, panel, tile, running, group, step,
                                    last - origin, (run if in_runs else 0, *sums.fast),
                                )  # fmt: skip
                                certain = step >= last - origin
                                run = tiles.steps_at_once(run, step - before, certain)
                                if not quick or certain:
                                    break
                                settle(
                                    a, row, origin, panel, tile, running, group, step, undecided,
                                    sums.fast,
                                )  # fmt: skip
                                settle_exactly(
                                    a, row, origin, panel, tile, step, group, undecided, vectors,
                                    target, kind, wide,
                                )  # fmt: skip
                                _add(tile, running, group, columns)
                                step += 1
                    if blocked and (last == begun + sums.block - place or last == steps):
                        add_block(
                            total, tile, 1, undecided, sums.outer_fast, outer_target, outer_kind,
                            plain_outer, quick_outer, wide_outer,
                        )  # fmt: skip
                        _add(total, outer_running, 0, TILE_COLUMNS)
                    begun, place = last, 0
        for row in range(first_row, last_row):
            slot, width = row - first_row, min(TILE_COLUMNS, lengths[row] - column)
            running, outer_running = work.running[slot], work.outer_running[slot]
            put(out, batch, work.total[slot], lengths, row, 1, column, blocked)
            for i in range(2):
                for j in range(width if wanted[i] else 0):
                    sum_ = running[i, j]
                    if blocked:
                        sum_ = outer_running[i, j] + units[i] * sum_
                    arrays.running[i, batch, row, column + j] = sum_


@functools.cache
def _kernel(how: How, first: bool, second: bool) -> Callable[..., None]:
    """The kernel of a way to form sums beside one kind of running sums, or both."""
    together = TILE_COLUMNS if MANY_REGISTERS or not (first and second) else _FEW_COLUMNS
    advance = tiles.advance_running(
        together, rounded=how.quick, ranged=how.ranged, first=first, second=second
    )
    found = caching.specialized(
        _running_range,
        known_as="-".join(map(str, (*how, first, second))),
        advance=advance,
        settle=tiles.settle_running(together, ranged=how.ranged),
        columns=together,
        exact=not (how.plain or how.quick),
        quick=how.quick,
        wide=how.wide,
        kind=how.kind,
        mode=how.mode,
        unfused=how.unfused,
        via=how.via,
        blocked=how.blocked,
        plain_outer=how.plain_outer,
        quick_outer=how.quick_outer,
        wide_outer=how.wide_outer,
        outer_kind=how.outer_kind,
    )
    return cast(Callable[..., None], found)


def product(operands: Operands, how: How, sums: Sum, dtype: np.dtype[Any], unit: float) -> Carrier:
    """The product of operands that want running sums, in lanes of `dtype`.

    Parameters
    ----------
    operands : Operands
    how : How
    sums : Sum
        Of any number of rows and panels.
    dtype : dtype
        Of the lanes.
    unit : float
        The unit of the roundings within blocks in that of the outer ones.

    Returns
    -------
    ndarray, shape (batch, m, n)
    """
    out = np.empty(operands.shape, dtype)
    depth = max(1, min(operands.steps, _PANEL_BYTES // (TILE_COLUMNS * dtype.itemsize)))
    rows, number, grain = pieces(
        operands, most=_MOST_ROWS, filling=_FILLING, work=_WORK_PER_PIECE, width=TILE_COLUMNS
    )
    first, second = ("first" in operands.asked, "second" in operands.asked)
    exact = not (how.plain or how.quick)
    launching.run(
        # Beside exact steps it takes no time to form both, and one kernel does.
        _kernel(how, first or exact, second or exact),
        number,
        operands.arrays(dtype, out, right_of(operands.b, dtype)),
        sums._replace(rows=rows),
        (first, second),
        (unit, unit * unit),
        grain=grain,
        workspace=lambda: _workspace(rows, depth, dtype, blocked=how.blocked),
    )
    return out


def _workspace(rows: int, depth: int, dtype: np.dtype[Any], *, blocked: bool) -> _Work:
    inner = aligned((rows, 1, TILE_COLUMNS), dtype)
    running = aligned((rows, 2, TILE_COLUMNS), np.float64)
    return _Work(
        inner,
        aligned(inner.shape, dtype) if blocked else inner,
        running,
        aligned(running.shape, np.float64) if blocked else running,
        np.zeros(TILE_COLUMNS, np.int64),
        aligned((depth, TILE_COLUMNS), dtype),
    )
