"""Scores of components: how much each of their errors counts.

A score is the sensitivity of the function at a component times what its error is proportional to,
or is computed from the argument alone.  What lies behind the components of a row is not looked at.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, elementary, launching
from lamp._kernels.ordering import Lengths, Mask

__all__ = [
    "Arguments",
    "Scoring",
    "above",
    "above_arguments",
    "component_score",
    "running_largest",
    "running_score",
    "score",
    "score_arguments",
]

_COST: Final = 2.0  # nanoseconds of a component


class Scoring(NamedTuple):
    """How a component is scored.

    Parameters
    ----------
    spread : bool
        Whether the sensitivity is ``z (1 - z)`` of the given z: half the column sums of the
        absolute Jacobian of softmax.  Otherwise it is given.
    power : int
        The power of the weight in the score: 0, 1 or 2.
    leading : int
        How many leading columns come before all others.
    """

    spread: bool
    power: int
    leading: int


def score(
    given: NDArray[Any], weights: NDArray[Any], lengths: Lengths, scoring: Scoring
) -> NDArray[np.float32]:
    """The sensitivity of each component times a power of its weight, as a magnitude.

    Where there is no component the result is not filled.
    """
    out = np.empty(given.shape, np.float32)
    arrays = launching.reading(given, weights, lengths)
    launching.run(_score_rows, len(given), *arrays, scoring, out, cost=_COST * given.shape[1])
    return out


def above(
    given: NDArray[Any],
    weights: NDArray[Any],
    lengths: Lengths,
    scoring: Scoring,
    threshold: float,
) -> Mask:
    """Whether each of these scores is above a threshold, as NaN always is."""
    mask = np.empty(given.shape, np.bool_)
    arrays = launching.reading(given, weights, lengths)
    arguments = *arrays, scoring, np.float32(threshold), mask
    launching.run(_above_rows, len(given), *arguments, cost=_COST * given.shape[1])
    return mask


@caching.inline
def component_score(share, weight, scoring):  # type: ignore[no-untyped-def]
    score = np.float64(share)
    if scoring.spread:
        score *= 1.0 - score
    if scoring.power > 0:
        factor = np.float64(weight)
        score *= factor if scoring.power == 1 else factor * factor
    return np.float32(abs(score) if score == score else np.nan)


@caching.kernel
def _score_rows(start, stop, given, weights, lengths, scoring, out):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for j in range(lengths[row]):
            out[row, j] = component_score(given[row, j], weights[row, j], scoring)
        for j in range(min(scoring.leading, lengths[row])):
            out[row, j] = np.nan  # which comes first


@caching.kernel
def _above_rows(start, stop, given, weights, lengths, scoring, threshold, mask):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for j in range(lengths[row]):
            mask[row, j] = not component_score(given[row, j], weights[row, j], scoring) <= threshold
        for j in range(min(scoring.leading, lengths[row])):
            mask[row, j] = True
        for j in range(lengths[row], mask.shape[1]):
            mask[row, j] = False


class Arguments(NamedTuple):
    """How a component is scored by its argument y and the z that came of it.

    The score is ``2 z (1 - z) |y|``, or if `running` the logarithm of ``|y| exp(y)`` over the row's
    largest: by logarithms no exponential overflows.  NaN is one that comes before all others.

    Parameters
    ----------
    running : bool
    leading : int
        How many leading columns come before all others.
    """

    running: bool
    leading: int


def above_arguments(
    z: NDArray[Any],
    y: NDArray[Any],
    lengths: Lengths,
    scoring: Arguments,
    thresholds: NDArray[np.float64],
) -> Mask:
    """Whether each score of an argument is above the threshold of its row, as NaN always is."""
    mask = np.empty(z.shape, np.bool_)
    _run_arguments(_above_arguments, z, y, lengths, scoring, *launching.reading(thresholds), mask)
    return mask


def _run_arguments(
    kernel: Any, z: NDArray[Any], y: NDArray[Any], lengths: Lengths, *arguments: Any
) -> None:
    arguments = *launching.reading(z, y, lengths), *arguments
    columns = z.shape[1]
    cost = _COST * columns
    launching.run(kernel, len(z), *arguments, cost=cost, workspace=lambda: np.empty(columns))


@caching.kernel
def _above_arguments(start, stop, scores, z, y, lengths, scoring, thresholds, mask):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        score_arguments(scores, z[row], y[row], lengths[row], scoring)
        for j in range(lengths[row]):
            mask[row, j] = not scores[j] <= thresholds[row]
        for j in range(lengths[row], mask.shape[1]):
            mask[row, j] = False


@caching.inline
def score_arguments(scores, z, y, length, scoring):  # type: ignore[no-untyped-def]
    if scoring.running:
        _score_running(scores, y, length)
    else:
        for j in range(length):
            share = np.float64(z[j])
            scores[j] = 2.0 * share * (1.0 - share) * abs(np.float64(y[j]))
    for j in range(min(scoring.leading, length)):
        scores[j] = np.nan


@caching.inline
def _score_running(scores, y, length):  # type: ignore[no-untyped-def]
    largest = -np.inf
    for j in range(length):
        scores[j] = running_score(np.float64(y[j]))
    for j in range(length):
        largest = running_largest(largest, np.float64(y[j]), scores[j])
    whole = not largest < np.inf
    for j in range(length):
        score = np.nan if whole else scores[j] - largest
        if largest == -np.inf and score != score and y[j] == 0.0:
            score = -np.inf  # all are: none is sensitive
        scores[j] = score


@caching.inline
def running_score(number: float) -> Any:
    """``log |y| + y``."""
    return elementary.log(abs(number)) + number


@caching.inline
def running_largest(largest: float, number: float, score: float) -> Any:
    """The largest score with one more, of which a NaN stays and -inf has none."""
    if number != -np.inf and largest == largest and not score <= largest:
        return score
    return largest
