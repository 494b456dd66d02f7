"""Exact sums of products of float32 numbers by three float64 numbers that keep their exponents.

A large number A is the anchor of a sum s: as long as the sum is small beside it, ``A + s`` stays
between two powers of two and is a multiple of the same unit.  What an addition to it loses is a
float64 number r, at most half a unit, and known by two more operations; it goes to the next sum,
whose anchor is the smaller, and what that loses to a third one.  The third needs no anchor if all
numbers are multiples of so large a power of two that no sum has more bits than float64.

A product of float32 numbers is exact in float64, so that ``fma(a, b, A + s)`` is its addition and
``fma(a, b, -h)`` what was lost, h being what the sum has grown by.  The rounded sum of the three
begins with the largest, and what is not in it is rounded to odd.

References
----------
S. M. Rump, T. Ogita, S. Oishi, "Accurate floating-point summation part I: faithful rounding", SIAM
J. Sci. Comput. 31(1), 2008.  S. Boldo, G. Melquiond, "Emulation of a FMA and correctly rounded
sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 57(4), 2008.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, words
from fpemu._kernels.caching import inline
from fpemu._kernels.error_free import odd_sum, two_sum
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import COLUMNS, Operands, aligned, longest, pieces, source_of
from fpemu._kernels.panels import fill
from fpemu._kernels.rounding import DETERMINISTIC, round_word
from fpemu._kernels.targets import target_at, targets_of
from fpemu._kernels.vectors import prefer_wide_vectors

__all__ = ["Anchors", "product"]

_FLOAT64_BITS: Final = 53
_MOST_EXPONENT: Final = 1020
_LEAST_EXPONENT: Final = -1022
_COST: Final = 0.7  # nanoseconds of a multiply-add
_MOST_ROWS: Final = 256  # of a piece of work
_FILLING: Final = 8  # rows that are multiplied in the time that it takes to fill a panel


class Anchors(NamedTuple):
    """The anchors of the larger two sums."""

    first: float
    second: float

    @classmethod
    def of(cls, bound: float, last_bit: int, terms: int) -> Anchors | None:
        """Those for so many terms, multiples of ``2**last_bit`` whose magnitudes add up to `bound`.

        None if three sums do not hold them.
        """
        if not (0 < bound < 2.0**_MOST_EXPONENT and last_bit >= _LEAST_EXPONENT):
            return None
        many = (terms + 1).bit_length()
        first = math.frexp(bound)[1] + 2  # twice the bound, and what is lost, on either side
        # What an addition loses is at most half a unit, 2**(first - 53).
        second = first - _FLOAT64_BITS + many + 2
        third = second - _FLOAT64_BITS + many
        if third > last_bit + _FLOAT64_BITS or second < _LEAST_EXPONENT + 2 * _FLOAT64_BITS:
            return None
        return cls(1.5 * 2.0**first, 1.5 * 2.0**second)


class _Work(NamedTuple):
    """What a thread works in: the sums of a row, and a panel of the right operand."""

    sums: Any
    panel: Any


@inline
def _added(first: float, second: float, third: float, a: float, b: float) -> Any:
    """The three sums with a product."""
    total = words.fused_multiply_add(a, b, first)
    rest = words.fused_multiply_add(a, b, first - total)
    following = second + rest
    return total, following, third + (rest - (following - second))


@inline
def _sum_of(first: float, second: float, third: float) -> Any:
    """The word of the sum of three numbers, rounded to odd."""
    high, low = two_sum(second, third)
    total, error = two_sum(first, high)
    return odd_sum(total, words.floating(odd_sum(error, low)))


@numba.njit(inline="always")
def _sum_row(sums, left, right, steps):  # type: ignore[no-untyped-def]
    """Add the products of a row, two at a time: the sums are read and written half as often."""
    for step in range(0, steps - 1, 2):
        a, c = left[step], left[step + 1]
        for j in range(COLUMNS):
            x, y, z = _added(sums[0, j], sums[1, j], sums[2, j], a, right[step, j])
            sums[0, j], sums[1, j], sums[2, j] = _added(x, y, z, c, right[step + 1, j])
    if steps % 2 == 1:
        a = left[steps - 1]
        for j in range(COLUMNS):
            sums[0, j], sums[1, j], sums[2, j] = _added(
                sums[0, j], sums[1, j], sums[2, j], a, right[steps - 1, j]
            )


@caching.kernel
def _anchored_range(start, stop, work, arrays, anchors, targets, height):  # type: ignore[no-untyped-def]
    prefer_wide_vectors()
    _, rows, steps = arrays.left.shape
    target, sums, right = target_at(targets, 0), work.sums, work.panel
    panels = (arrays.out.shape[2] + COLUMNS - 1) // COLUMNS
    parts = (rows + height - 1) // height
    for piece in range(start, stop):
        stack, p = piece // panels, piece % panels
        batch, column = stack // parts, p * COLUMNS
        top = (stack - batch * parts) * height
        bottom = min(top + height, rows)
        if column >= longest(arrays.lengths, top, bottom):
            continue
        fill(right, arrays.right, batch, p, 0, steps)
        for row in range(top, bottom):
            end = min(COLUMNS, arrays.lengths[row] - column)
            if end <= 0:
                continue
            for j in range(COLUMNS):
                sums[0, j], sums[1, j], sums[2, j] = anchors[0], anchors[1], 0.0
            if arrays.initial.size > 0:
                for j in range(end):
                    sums[0, j], sums[1, j], sums[2, j] = _added(
                        sums[0, j], sums[1, j], sums[2, j],
                        1.0, arrays.initial[batch, row, column + j],
                    )  # fmt: skip
            _sum_row(sums, arrays.left[batch, row], right, steps)
            for j in range(end):
                bits = _sum_of(sums[0, j] - anchors[0], sums[1, j] - anchors[1], sums[2, j])
                out = words.floating(round_word(bits, target, DETERMINISTIC))
                arrays.out[batch, row, column + j] = out


def product(
    operands: Operands, format: FormatFacts, rounding: RoundingFacts, anchors: Anchors
) -> NDArray[np.float64]:
    """The product of narrow operands, each sum rounded once.

    Parameters
    ----------
    operands : Operands
        Float32 numbers, of which there are some.
    format, rounding : FormatFacts, RoundingFacts
        Of at most 51 bits of precision; not stochastic.
    anchors : Anchors

    Returns
    -------
    ndarray of float64, shape (batch, m, n)
    """
    out = np.zeros(operands.shape)
    height, count, cost = pieces(operands, most=_MOST_ROWS, filling=_FILLING, cost=_COST)
    launching.run(
        _anchored_range,
        count,
        operands.arrays(np.float64, out, source_of(operands.b, np.float64)),
        (anchors.first, anchors.second),
        targets_of((format, rounding)),
        height,
        cost=cost,
        workspace=lambda: _Work(aligned((3, COLUMNS)), aligned((operands.steps, COLUMNS))),
    )
    return out
