"""Sequential sums beside the sums of the magnitudes of their partial sums, or of their squares.

Sums are formed as in :mod:`fpemu._kernels.sequential`, in lanes of their own width.  Those of some
steps are kept; what is kept is then added to the running sums, which are float64 numbers, in a loop
of its own.  So the sums of both loops stay in registers, and float32 numbers become float64 on
their way from memory.  Only the running sums that are wanted are formed.  Those of blocks are
formed for the sums within blocks and for the outer ones, and added in proportion to the units of
both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import numpy as np

from fpemu._kernels import caching, launching, parts, tiles
from fpemu._kernels.operands import Operands, aligned, longest, pieces, source_of
from fpemu._kernels.panels import TILE_COLUMNS, fill
from fpemu._kernels.rounding import Carrier
from fpemu._kernels.tile_parts import Lanes, call_to_keep, keeping
from fpemu._kernels.tile_steps import How, Sum, begin, clear, put

__all__ = ["finish", "product"]

_PANEL_BYTES: Final = 2**17
_MOST_ROWS: Final = 64  # of a piece
_FILLING: Final = 8  # rows that take as long as filling a panel
_COST: Final = 1.0  # nanoseconds of a multiply-add
_FINISH_COST: Final = 1.0  # of a finished number


class _Work(NamedTuple):
    """What a thread works in; all but the last three for each tile of rows."""

    inner: Any  # accumulators
    total: Any  # the outer ones; the same where there are no blocks
    running: Any  # the sums of the magnitudes of `inner`, and behind them of their squares
    outer_running: Any  # those of `total`
    kept: Any  # the sums of some steps
    undecided: Any  # a bit for every accumulator of a tile, a number for every vector of them
    panel: Any


@functools.cache
def _kernel(lanes: Lanes) -> Callable[..., None]:
    """The kernel of sums by a part for such accumulators."""
    to_keep = parts.takes(*lanes.to_keep)

    @caching.kernel
    def running_range(start, stop, work, arrays, sums, wanted, units):  # type: ignore[no-untyped-def]
        """Panels of columns, for some rows of the output, whose sums stay in the workspace.

        Behind the last rows there may be too few for a tile: it then begins before them.
        """
        _, rows, steps = arrays.left.shape
        lengths, out, panel, undecided = arrays.lengths, arrays.out, work.panel, work.undecided
        panels = (out.shape[2] + TILE_COLUMNS - 1) // TILE_COLUMNS
        shares, run = (rows + sums.rows - 1) // sums.rows, tiles.MOST_STEPS
        height = work.inner.shape[1]
        for index in range(start, stop):
            stack, p = index // panels, index % panels
            batch, column = stack // shares, p * TILE_COLUMNS
            first_row = (stack - batch * shares) * sums.rows
            last_row = min(first_row + sums.rows, rows)
            a = arrays.left[batch]
            some = longest(lengths, first_row, last_row) > column
            for origin in range(0, max(steps, 1) if some else 0, panel.shape[0]):
                end = min(origin + panel.shape[0], steps)
                fill(panel, arrays.right, batch, p, origin, end)
                for begin_row in range(first_row, last_row, height):
                    row, slot = min(begin_row, rows - height), (begin_row - first_row) // height
                    tile, total = work.inner[slot], work.total[slot]
                    running, outer_running = work.running[slot], work.outer_running[slot]
                    if origin == 0:
                        begin(total, arrays.initial, batch, row, height, column)
                        clear(running, 2 * height)
                        if sums.blocked:
                            clear(outer_running, 2 * height)
                    if longest(lengths, row, row + height) > column:
                        run = call_to_keep(
                            sums.advance, to_keep, a, row, origin, panel, tile, work.kept, running,
                            undecided, total, outer_running, origin, end, run, sums,
                        )  # fmt: skip
            for row in range(first_row, last_row):
                begin_row = row - (row - first_row) % height
                slot, r = (row - first_row) // height, row - min(begin_row, rows - height)
                running, outer_running = work.running[slot], work.outer_running[slot]
                put(out, batch, work.total[slot][r:], lengths, row, 1, column, sums.blocked)
                width = max(0, min(TILE_COLUMNS, lengths[row] - column))
                for i in range(2):
                    result = arrays.running[
                        i, batch, row, column : column + (width if wanted[i] else 0)
                    ]
                    of_tile, of_blocks = running[i * height + r], outer_running[i * height + r]
                    for j in range(result.size):
                        sum_ = of_tile[j]
                        result[j] = of_blocks[j] + units[i] * sum_ if sums.blocked else sum_

    return cast(Callable[..., None], running_range)


def product(operands: Operands, how: How, sums: Sum, lanes: Lanes, unit: float) -> Carrier:
    """The product of operands that want running sums.

    Parameters
    ----------
    operands : Operands
    how : How
    sums : Sum
        Of any number of rows and panels.
    lanes : Lanes
        Of one type.
    unit : float
        The unit of the roundings within blocks in that of the outer ones.

    Returns
    -------
    ndarray, shape (batch, m, n)
    """
    dtype = lanes.inner
    out = np.empty(operands.shape, dtype)
    depth = max(1, min(operands.steps, _PANEL_BYTES // (TILE_COLUMNS * dtype.itemsize)))
    rows, number, cost = pieces(
        operands, most=_MOST_ROWS, filling=_FILLING, cost=_COST, width=TILE_COLUMNS
    )
    together = tiles.ONE_ROW if how.exact else tiles.ROUNDED_ROWS
    height = together.of(8 * dtype.itemsize)
    if operands.shape[1] < height:
        together, height = tiles.ONE_ROW, 1
    wanted = ("first" in operands.asked, "second" in operands.asked)
    # Beside exact steps it takes no time to form both, and one part does.
    first, second = (each or how.exact for each in wanted)
    advance = keeping(how, lanes, together, first=first, second=second)
    launching.run(
        _kernel(lanes),
        number,
        operands.arrays(dtype, out, source_of(operands.b, dtype, TILE_COLUMNS)),
        sums._replace(rows=rows, advance=advance.address),
        wanted,
        (unit, unit * unit),
        cost=cost,
        workspace=lambda: _workspace(-(-rows // height), height, depth, dtype, how.blocked),
    )
    return out


def _workspace(slots: int, height: int, depth: int, dtype: np.dtype[Any], blocked: bool) -> _Work:
    inner = aligned((slots, height, TILE_COLUMNS), dtype)
    running = aligned((slots, 2 * height, TILE_COLUMNS), np.float64)
    return _Work(
        inner,
        aligned(inner.shape, dtype) if blocked else inner,
        running,
        aligned(running.shape, np.float64) if blocked else running,
        aligned((tiles.MOST_STEPS, height, TILE_COLUMNS), dtype),
        np.zeros(height * TILE_COLUMNS, np.int64),
        aligned((depth, TILE_COLUMNS), dtype),
    )


@caching.kernel
def _finish_rows(start, stop, running, lengths, asked, factor):  # type: ignore[no-untyped-def]
    for index in range(start, stop):
        length = lengths[index % lengths.size]
        first = running[0, index, : length if asked[0] else 0]
        second = running[1, index, : length if asked[1] else 0]
        for j in range(first.size):
            first[j] *= factor
        for j in range(second.size):
            second[j] = np.sqrt(second[j])


def finish(operands: Operands, factor: float) -> None:
    """Multiply first running sums by a factor, and take roots of the sums of squares, in place.

    Only what is asked for, and where there are sums: of zeros that are not written there may be
    many, which take no memory until then.
    """
    if not operands.wants_running:  # as the product has no elements
        return
    running = operands.running.reshape(2, -1, operands.running.shape[-1])
    launching.run(
        _finish_rows,
        running.shape[1],
        running,
        operands.row_lengths,
        tuple(name in operands.asked for name in ("first", "second")),
        factor,
        cost=_FINISH_COST * running.shape[2],
    )
