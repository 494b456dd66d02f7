"""Steps of tiles beside those of vector code: exact ones, and how tiles begin and end.

Vector code (:mod:`fpemu._kernels.tiles`) takes tiles of accumulators from step to step.  The sums
that it leaves undecided, or does not form at all, are formed here one by one, each rounded once.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np

from fpemu._kernels import tiles
from fpemu._kernels.error_free import (
    multiply_add_float32,
    multiply_add_float64,
    rounded_multiply_add,
)
from fpemu._kernels.panels import TILE_COLUMNS
from fpemu._kernels.rounding import DETERMINISTIC
from fpemu._kernels.vectors import VECTOR_BYTES

__all__ = [
    "EXACT",
    "EXACT_NARROW",
    "EXACT_WIDE",
    "FAST_NARROW",
    "FAST_WIDE",
    "NO_OUTER",
    "PLAIN_NARROW",
    "PLAIN_WIDE",
    "WIDE",
    "How",
    "Sum",
    "add_block",
    "advance_exactly",
    "begin",
    "clear",
    "fast_at",
    "put",
    "settle_exactly",
]

# The flavours of sums, see the sequential kernels.
(
    NO_OUTER,
    PLAIN_NARROW,
    PLAIN_WIDE,
    FAST_NARROW,
    FAST_WIDE,
    EXACT_NARROW,
    EXACT_WIDE,
) = range(7)
PLAIN: Final = (PLAIN_NARROW, PLAIN_WIDE)  # by the lanes' own arithmetic
QUICK: Final = (FAST_NARROW, FAST_WIDE)  # rounded in lanes
EXACT: Final = (EXACT_NARROW, EXACT_WIDE)  # formed one by one
WIDE: Final = (PLAIN_WIDE, FAST_WIDE, EXACT_WIDE)  # of operands that are not all float32 numbers


class How(NamedTuple):
    """How a kernel forms sums, as far as that decides what is compiled at all."""

    flavour: int
    kind: int  # of the roundings
    mode: str  # see `with_mode`
    staged: bool  # whether a step may round products, or sums twice; `Sum` says whether it does
    ranged: bool  # whether results outside the format's normal numbers are looked at again
    outer: int  # the flavour of the sums of blocks, or NO_OUTER
    wide_outer: bool  # whether some of those are not sums of float32 numbers

    @property
    def plain(self) -> bool:
        """Whether the lanes' own arithmetic forms the sums."""
        return self.flavour in PLAIN

    @property
    def quick(self) -> bool:
        """Whether they are rounded in lanes."""
        return self.flavour in QUICK

    @property
    def exact(self) -> bool:
        """Whether they are formed one by one."""
        return self.flavour in EXACT

    @property
    def wide(self) -> bool:
        """Whether operands are not all float32 numbers."""
        return self.flavour in WIDE

    @property
    def blocked(self) -> bool:
        """Whether there are outer sums."""
        return self.outer != NO_OUTER

    @property
    def adds_alike(self) -> bool:
        """Whether the same lanes' own arithmetic forms the sums and the outer ones."""
        return self.plain and self.outer == self.flavour

    @property
    def plain_outer(self) -> bool:
        """As :attr:`plain`, for the outer sums."""
        return self.outer in PLAIN

    @property
    def quick_outer(self) -> bool:
        """As :attr:`quick`, for the outer sums."""
        return self.outer in QUICK


class Sum(NamedTuple):
    """How a kernel forms a sum, as far as that is data."""

    block: int
    rows: int  # of the output that a thread takes at once
    panels: int  # side by side that it takes at once
    plain: bool  # whether a tile may have rows that are not there
    blocked: bool  # whether there are outer sums
    unfused: bool  # whether products are rounded
    via: bool  # whether sums are rounded into another format on the way
    targets: Any  # in rows, as random bits are in streams: INNER, PRODUCTS, VIA, OUTER
    fast: Any  # in rows, see `_fast_parameters` of the sequential kernels: inner sums, outer ones
    advance: int  # the address of the part that takes tiles along their terms, 0 if none has to
    form: int  # of the one that forms sums one by one, where `advance` does
    add: int  # and of the one that adds the sums of blocks


@numba.njit(inline="always")
def fast_at(table, row):  # type: ignore[no-untyped-def]
    """The parameters of the fast steps of inner sums, in row 0, or of outer ones."""
    return table[row, 0], table[row, 1], table[row, 2], table[row, 3], table[row, 4]


# --- exact steps --------------------------------------------------------------------------------


@numba.njit(inline="always")
def settle_exactly(  # type: ignore[no-untyped-def]
    a, row, origin, panel, tile, step, undecided, vectors, target, kind, wide
):
    """Do what is undecided of a step, in some vectors of a tile."""
    width = VECTOR_BYTES // tile.itemsize
    for vector in range(vectors):
        lanes, lane = undecided[vector], vector * width
        while lanes != 0:
            if lanes & 1:
                r, j = lane // TILE_COLUMNS, lane % TILE_COLUMNS
                tile[r, j] = rounded_multiply_add(
                    np.float64(a[row + r, origin + step]), np.float64(panel[step, j]),
                    np.float64(tile[r, j]), target, kind, wide,
                )  # fmt: skip
            lanes >>= 1
            lane += 1


@numba.njit(inline="always")
def advance_exactly(  # type: ignore[no-untyped-def]
    a, row, origin, panel, tile, first, stop, target, kind, wide, staged,
    of_product, of_via, unfused, via,
):  # fmt: skip
    """Take a tile of one row from step ``first`` to ``stop`` by exact steps alone."""
    for step in range(first, stop):
        left = a[row, origin + step]
        for j in range(TILE_COLUMNS):
            total, right = tile[0, j], panel[step, j]
            if not staged:
                tile[0, j] = rounded_multiply_add(left, right, total, target, kind, wide)
            elif wide:
                tile[0, j] = multiply_add_float64(
                    total, left, right, target, of_product, of_via, kind, unfused, via
                )
            else:
                tile[0, j] = multiply_add_float32(
                    total, left, right, target, of_product, of_via, kind, unfused, via
                )


@numba.njit(inline="always")
def add_block(  # type: ignore[no-untyped-def]
    total, tile, rows, undecided, fast, target, plain, quick, wide
):
    """Round the sums of a block into the outer accumulators."""
    width = VECTOR_BYTES // total.itemsize
    for r in range(rows):
        if plain:
            tiles.add_plain(tile, total, r, 0, fast)
        elif quick:
            if tiles.add_rounded(tile, total, r, 0, fast) == 0:
                tiles.settle_added(tile, total, r, undecided, fast)
                for vector in range(TILE_COLUMNS // width):
                    lanes, j = undecided[vector], vector * width
                    while lanes != 0:
                        if lanes & 1:
                            total[r, j] = _sum_of_block(total[r, j], tile[r, j], target, wide)
                        lanes >>= 1
                        j += 1
        else:
            for j in range(TILE_COLUMNS):
                total[r, j] = _sum_of_block(total[r, j], tile[r, j], target, wide)


@numba.njit(inline="always")
def _sum_of_block(total, term, target, wide):  # type: ignore[no-untyped-def]
    """Rounded in any mode: one addition for many terms is not worth kernels of its own."""
    return rounded_multiply_add(
        1.0, np.float64(term), np.float64(total), target, DETERMINISTIC, wide
    )


# --- begin and end ------------------------------------------------------------------------------


@numba.njit(inline="always")
def clear(tile, rows):  # type: ignore[no-untyped-def]
    """Begin the sums of some rows of a tile with zero."""
    for r in range(rows):
        for j in range(TILE_COLUMNS):
            tile[r, j] = 0.0


@numba.njit(inline="always")
def begin(tile, initial, batch, row, together, column):  # type: ignore[no-untyped-def]
    """Fill a tile with the initial values of its accumulators, zero where there are none."""
    clear(tile, tile.shape[0])
    if initial.size > 0:
        for r in range(together):
            for j in range(min(TILE_COLUMNS, initial.shape[2] - column)):
                tile[r, j] = initial[batch, row + r, column + j]


@numba.njit(inline="always")
def put(out, batch, tile, lengths, row, together, column, canonical):  # type: ignore[no-untyped-def]
    """Write what is wanted of a tile, and zeros behind it."""
    for r in range(together):
        part, numbers = out[batch, row + r, column : column + TILE_COLUMNS], tile[r]
        there = max(0, min(part.size, lengths[row + r] - column))
        for j in range(there):
            number = numbers[j]
            if canonical and number != number:
                number = np.nan  # the processor's have a sign
            part[j] = number
        for j in range(there, part.size):
            part[j] = 0.0
