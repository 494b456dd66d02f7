"""Sequential sums beside the sums of the magnitudes of their partial sums, or of their squares.

Sums are formed as in :mod:`fpemu._kernels.sequential`, in lanes of their own width; the running
sums are float64 numbers.  Few columns are taken at once, so that all these stay in registers, and
only the running sums that are wanted are formed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import numba
import numpy as np

from fpemu._kernels import caching, launching, tiles, words
from fpemu._kernels.error_free import add_float32
from fpemu._kernels.exact import fma_word
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import (
    Operands,
    aligned,
    longest,
    pieces,
    right_of,
    target_at,
    targets_of,
)
from fpemu._kernels.panels import MANY_REGISTERS, TILE_COLUMNS, fill_tile
from fpemu._kernels.rounding import Carrier, kind_of

__all__ = ["product"]

_PANEL_BYTES: Final = 2**17
_FEW_COLUMNS: Final = 16  # beside which both running sums fit 16 registers
_MOST_ROWS: Final = 64  # of a piece
_FILLING: Final = 8  # rows that take as long as filling a panel
_WORK_PER_PIECE: Final = 2**18  # multiply-adds worth a thread


class _Sum(NamedTuple):
    """What of a sum is data."""

    rows: int  # of the output that a thread takes at once
    targets: Any
    fast: tuple[Any, ...]  # parameters of the rounded loop


class _Work(NamedTuple):
    """What a thread works in."""

    tiles: Any  # for each row: accumulators
    running: Any  # the sums of their magnitudes and of their squares
    undecided: Any  # a bit for every accumulator of a group, a number for every vector of them
    panel: Any


@numba.njit(inline="always")
def _settle_exactly(  # type: ignore[no-untyped-def]
    left, panel, step, tile, column, columns, undecided, target, kind, wide
):
    """Do what is undecided of a step."""
    width = tiles.VECTOR_BITS // 8 // tile.itemsize
    for vector in range(columns // width):
        lanes, j = undecided[vector], column + vector * width
        while lanes != 0:
            if lanes & 1:
                total, right = np.float64(tile[0, j]), np.float64(panel[step, j])
                if wide:
                    total = words.floating(fma_word(left, right, total, target, kind))
                else:
                    total = add_float32(total, left * right, target, kind)
                tile[0, j] = total
            lanes >>= 1
            j += 1


@numba.njit(inline="always")
def _add(tile, running, column, columns):  # type: ignore[no-untyped-def]
    """Add the magnitudes and squares of some accumulators to their running sums."""
    for j in range(column, column + columns):
        number = np.float64(tile[0, j])
        running[0, j] += abs(number)
        running[1, j] += number * number


@functools.cache
def _kernel(
    rounded: bool, ranged: bool, wide: bool, first: bool, second: bool
) -> Callable[..., None]:
    """The kernel of sums in the lanes' own arithmetic, or `rounded`, in a range if `ranged`.

    The operands are float32 numbers unless they are `wide`.
    """
    columns = TILE_COLUMNS if MANY_REGISTERS or not (first and second) else _FEW_COLUMNS
    advance = tiles.advance_running(
        columns, rounded=rounded, ranged=ranged, first=first, second=second
    )
    settle = tiles.settle_running(columns, ranged=ranged)

    @caching.kernel
    def running_range(start, stop, work, arrays, sums, kind):  # type: ignore[no-untyped-def]
        """Panels of columns, for some rows of the output, whose sums stay in the workspace."""
        _, rows, steps = arrays.left.shape
        lengths, out, panel = arrays.lengths, arrays.out, work.panel
        target = target_at(sums.targets, 0)
        panels = (out.shape[2] + TILE_COLUMNS - 1) // TILE_COLUMNS
        parts, run = (rows + sums.rows - 1) // sums.rows, tiles.MOST_STEPS
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
                    tile, running = work.tiles[row - first_row], work.running[row - first_row]
                    width = min(TILE_COLUMNS, lengths[row] - column)
                    if origin == 0:
                        for j in range(TILE_COLUMNS):
                            tile[0, j] = running[0, j] = running[1, j] = 0.0
                        for j in range(width if arrays.initial.size > 0 else 0):
                            tile[0, j] = arrays.initial[batch, row, column + j]
                    for group in range(0, width, columns):
                        step = 0
                        while True:
                            before = step
                            step = advance(
                                a, row, origin, panel, tile, running, group, step, end - origin,
                                (run, *sums.fast),
                            )  # fmt: skip
                            run = tiles.steps_at_once(run, step - before, step >= end - origin)
                            if not rounded or step >= end - origin:
                                break
                            settle(
                                a, row, origin, panel, tile, running, group, step, work.undecided,
                                sums.fast,
                            )  # fmt: skip
                            left = np.float64(a[row, origin + step])
                            _settle_exactly(
                                left, panel, step, tile, group, columns, work.undecided, target,
                                kind, wide,
                            )  # fmt: skip
                            _add(tile, running, group, columns)
                            step += 1
            for row in range(first_row, last_row):
                tile, running = work.tiles[row - first_row], work.running[row - first_row]
                width = max(0, min(TILE_COLUMNS, lengths[row] - column))
                for j in range(width):
                    out[batch, row, column + j] = tile[0, j]
                    if first:
                        arrays.running[0, batch, row, column + j] = running[0, j]
                    if second:
                        arrays.running[1, batch, row, column + j] = running[1, j]
                for j in range(column + width, min(column + TILE_COLUMNS, out.shape[2])):
                    out[batch, row, j] = 0.0

    return cast(Callable[..., None], running_range)


def product(
    operands: Operands,
    format: FormatFacts,
    rounding: RoundingFacts,
    dtype: np.dtype[Any],
    fast: tuple[Any, ...] | None,
    *,
    ranged: bool,
) -> Carrier:
    """The product of operands that want running sums, in lanes of `dtype`.

    Parameters
    ----------
    operands : Operands
    format, rounding : FormatFacts, RoundingFacts
        What every sum is rounded into, to nearest.
    dtype : dtype
        Of the lanes.
    fast : tuple, or None
        The parameters of the rounded loop; None where the lanes' own arithmetic does.
    ranged : bool
        Whether results outside the format's normal numbers are looked at again.

    Returns
    -------
    ndarray, shape (batch, m, n)
    """
    out = np.empty(operands.shape, dtype)
    wanted = "first" in operands.asked, "second" in operands.asked
    depth = max(1, min(operands.steps, _PANEL_BYTES // (TILE_COLUMNS * dtype.itemsize)))
    rows, _, grain = pieces(operands, most=_MOST_ROWS, filling=_FILLING, work=_WORK_PER_PIECE)
    batch, height, columns = operands.shape
    number = batch * -(-height // max(rows, 1)) * -(-columns // TILE_COLUMNS)
    launching.run(
        _kernel(fast is not None, ranged, not operands.narrow, *wanted),
        number,
        operands.arrays(dtype, out, right_of(operands.b, dtype)),
        _Sum(rows, targets_of((format, rounding)), (0.0,) if fast is None else fast),
        kind_of(rounding),
        grain=grain,
        workspace=lambda: _Work(
            aligned((rows, 1, TILE_COLUMNS), dtype),
            aligned((rows, 2, TILE_COLUMNS), np.float64),
            np.zeros(TILE_COLUMNS, np.int64),
            aligned((depth, TILE_COLUMNS), dtype),
        ),
    )
    return out
