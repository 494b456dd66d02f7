"""Numbers that are recomputed are put in place; and softmax of scores, all in one pass over rows.

Of such a softmax scores are recomputed where they exceed a threshold.  It is what
:mod:`lamp._kernels.transformer` and :mod:`lamp._kernels.scoring` do one after the other,
with the same operations on each number, while a row is in the first-level cache.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching
from lamp._kernels.scoring import Arguments, Scoring, component_score, score_arguments
from lamp._kernels.transformer import TOGETHER, divide, exponentiate, largest, sums

__all__ = ["Scores", "Threshold", "put", "softmax_above"]

_COST: Final = 8.0  # nanoseconds of a score
_BLOCK: Final = 64  # exponentials that are computed together
_PIECE: Final = 64  # numbers that are replaced together
_PUT_COST: Final = 1.0  # nanoseconds of one of them


class Threshold(NamedTuple):
    """Which components are recomputed: those whose score is not at most that of their row.

    Parameters
    ----------
    of_arguments : bool
        Whether scores are those of `arguments`, else of `scoring`.
    arguments : Arguments
    scoring : Scoring
        Its sensitivity is that of softmax, or the probability itself.
    limits : ndarray of float64, shape (rows,)
    """

    of_arguments: bool
    arguments: Arguments
    scoring: Scoring
    limits: NDArray[np.float64]


class Scores(NamedTuple):
    """The rows to recompute, C-contiguous arrays of one shape.

    Parameters
    ----------
    low : ndarray
        In low precision; those that are recomputed are put in here.
    high : ndarray
        In high precision, of the same type.
    mask : ndarray of bool
        Which overflowed; becomes which are recomputed.
    weights : ndarray
        Of components; `low` itself where none are used.
    lengths : ndarray of int64, shape (rows,)
    """

    low: NDArray[Any]
    high: NDArray[Any]
    mask: NDArray[np.bool_]
    weights: NDArray[Any]
    lengths: NDArray[np.int64]


class _Workspace(NamedTuple):
    """What a thread works in: the exponentials of some rows, their largest, and a row of scores."""

    exponentials: NDArray[np.float64]
    tops: NDArray[np.float64]
    scores: NDArray[np.float64]


def softmax_above(scores: Scores, threshold: Threshold) -> NDArray[Any]:
    """Recompute what exceeds a threshold, in place, and return the softmax of the rows."""
    rows, columns = scores.low.shape
    out = np.empty_like(scores.low)

    def workspace() -> _Workspace:
        return _Workspace(np.empty((TOGETHER, columns)), np.empty(TOGETHER), np.empty(columns))

    arguments = *scores, threshold, out
    cost = _COST * columns
    launching.run(_softmax_above, rows, *arguments, cost=cost, workspace=workspace)
    return out


@caching.kernel
def _softmax_above(  # type: ignore[no-untyped-def]
    start, stop, work, low, high, mask, weights, lengths, threshold, out
):
    exponentials, tops = work.exponentials, work.tops
    for first in range(start, stop, TOGETHER):
        last = min(first + TOGETHER, stop)
        for row in range(first, last):
            _put(low[row], high[row], mask[row], lengths[row])
            tops[row - first] = largest(low[row], lengths[row])
            exponentiate(exponentials[row - first], low[row], tops[row - first], lengths[row])
        totals = sums(exponentials, lengths, first, last)
        for row in range(first, last):
            slot, length = row - first, lengths[row]
            divide(exponentials[slot], totals[slot], length, out[row])
            _score(work.scores, out[row], low[row], weights[row], length, threshold)
            _pick(mask[row], work.scores, length, threshold.limits[row])
            _put(low[row], high[row], mask[row], length)
            _exponentiate_again(exponentials[slot], low[row], mask[row], length, tops[slot])
        totals = sums(exponentials, lengths, first, last)
        for row in range(first, last):
            divide(exponentials[row - first], totals[row - first], lengths[row], out[row])


@caching.inline
def _put(low, high, mask, length):  # type: ignore[no-untyped-def]
    _put_where(low[:length], high[:length], mask[:length], True)


@caching.inline
def _pick(mask, scores, length, limit):  # type: ignore[no-untyped-def]
    for j in range(length):
        mask[j] |= not scores[j] <= limit
    for j in range(length, mask.size):
        mask[j] = False


@caching.inline
def _score(scores, z, y, weights, length, threshold):  # type: ignore[no-untyped-def]
    if threshold.of_arguments:
        score_arguments(scores, z, y, length, threshold.arguments)
    else:
        for j in range(length):
            scores[j] = component_score(z[j], weights[j], threshold.scoring)
        for j in range(min(threshold.scoring.leading, length)):
            scores[j] = np.nan  # which comes first


@caching.inline
def _exponentiate_again(exponentials, y, mask, length, before):  # type: ignore[no-untyped-def]
    """Only where numbers are others, unless the largest is."""
    top = largest(y, length)
    for first in range(0, length, _BLOCK):
        last = min(first + _BLOCK, length)
        changed = top != before  # as NaN always is
        for j in range(first, last):
            changed |= mask[j]
        if changed:
            exponentiate(exponentials[first:last], y[first:last], top, last - first)


def put(low: NDArray[Any], high: NDArray[Any], mask: NDArray[np.uint8], number: int) -> None:
    """Replace the numbers of flat arrays whose mask is a number, in place."""
    blocks = -(-low.size // _PIECE)
    arguments = low, *launching.reading(high, mask), np.uint8(number)
    launching.run(_put_blocks, blocks, *arguments, cost=_PUT_COST * _PIECE)


@caching.kernel
def _put_blocks(start, stop, low, high, mask, number):  # type: ignore[no-untyped-def]
    for block in range(start, stop):
        first, last = block * _PIECE, min((block + 1) * _PIECE, low.size)
        _put_where(low[first:last], high[first:last], mask[first:last], number)


@caching.inline
def _put_where(low, high, mask, number):  # type: ignore[no-untyped-def]
    """Replace numbers of a row whose mask is a number."""
    for j in range(low.size):
        before, after = low[j], high[j]  # both are read: a processor then chooses among many
        low[j] = after if mask[j] == number else before
