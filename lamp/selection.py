"""Which components of a softmax to recompute in higher precision.

A rule looks at the cheap scores y and probabilities z = softmax(y) alone: where is the composition
sensitive to the rounding errors in y?  :class:`LAMP` says which rule, how much, and with what
weights; :func:`select` applies it to rows.

References
----------
Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import parallel

__all__ = ["LAMP", "select"]

RULES: Final = ("normwise", "total_variation", "random")
WEIGHTS: Final = ("one", "abs")

_GRAIN: Final = 16  # rows worth a thread


@dataclass(frozen=True)
class LAMP:
    """Look-ahead recomputation of softmax scores: the rule and how much it may recompute.

    Parameters
    ----------
    rule : {"normwise", "total_variation", "random"}
        ``"normwise"``, the authors' rule: in each row, take probabilities in descending order
        while the sum of those taken before plus twice the row's smallest is below ``2 - tau``.
        ``"total_variation"``: one threshold for all rows of a layer on ``w z (1 - z)``, which
        bounds the error of z in the 1-norm.  ``"random"``: the control, as many components in each
        row as the normwise rule would take, drawn among all of the row.
    tau : float, optional
        For normwise and random, in (1, 2]: the smaller, the more is recomputed.  For
        total_variation the threshold, at least 0.
    budget : float, optional
        For total_variation, instead of `tau`: the share of a layer's components to recompute,
        those with the largest ``w z (1 - z)``.
    weights : {"one", "abs"}
        For total_variation: w = 1, or w = |y|, which models a relative error of the scores.
    seed : int
        For random.

    Raises
    ------
    ValueError
        If a field is out of range or does not belong to the rule.
    """

    rule: str = "normwise"
    tau: float | None = None
    budget: float | None = None
    weights: str = "one"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r}: expected {', '.join(RULES)}")
        if self.weights not in WEIGHTS:
            raise ValueError(f"unknown weights {self.weights!r}: expected {', '.join(WEIGHTS)}")
        if (self.tau is None) == (self.budget is None):
            raise ValueError(
                f"rule {self.rule!r} takes either tau or a budget, not {self.tau} and {self.budget}"
            )
        if self.rule == "total_variation":
            if self.tau is not None and not 0 <= self.tau < np.inf:
                raise ValueError(f"tau of total_variation must be at least 0, not {self.tau}")
            if self.budget is not None and not 0 <= self.budget <= 1:
                raise ValueError(f"budget must be a share in [0, 1], not {self.budget}")
            return
        if self.tau is None:
            raise ValueError(f"rule {self.rule!r} takes tau, not a budget")
        if not 1 < self.tau <= 2:
            raise ValueError(f"tau must lie in (1, 2], not {self.tau}")
        if self.weights != "one":
            raise ValueError(f"rule {self.rule!r} takes no weights")

    @property
    def needs_all_rows(self) -> bool:
        """Whether the selection in a row depends on the other rows."""
        return self.budget is not None


def select(
    z: ArrayLike,
    y: ArrayLike | None = None,
    *,
    rule: str | LAMP = "normwise",
    tau: float | None = None,
    budget: float | None = None,
    weights: str = "one",
    seed: int = 0,
    row_lengths: ArrayLike | None = None,
    stream: int = 0,
) -> NDArray[np.bool_]:
    """Which components to recompute.

    Parameters
    ----------
    z : array_like, shape (..., n)
        Probabilities, softmax of `y` along the last axis.
    y : array_like, shape (..., n), optional
        The scores; needed for weights ``"abs"``.
    rule, tau, budget, weights, seed
        As in :class:`LAMP`, which may be given as `rule`.  A budget is a share of all the
        components in the array.
    row_lengths : array_like of int, optional
        How many leading components of each row exist, broadcast against the rows ``z.shape[:-1]``;
        the rest are masked: never selected and never counted, but for the normwise rule they are
        zeros of the row, as in the authors' code.
    stream : int
        Random rule: distinguishes calls under one seed.

    Returns
    -------
    ndarray of bool, shape (..., n)

    Raises
    ------
    ValueError
        If a parameter is out of range, shapes differ, or `z` holds a value outside [0, 1].

    Examples
    --------
    The normwise rule stops when enough probability is covered:

    >>> import lamp
    >>> lamp.select([0.6, 0.25, 0.1, 0.05], tau=1.2)
    array([ True,  True, False, False])
    """
    settings = rule
    if not isinstance(settings, LAMP):
        settings = LAMP(rule=str(rule), tau=tau, budget=budget, weights=weights, seed=seed)
    probabilities = np.asarray(z)
    if probabilities.dtype not in (np.float32, np.float64):
        probabilities = probabilities.astype(np.float64)
    if probabilities.ndim == 0:
        raise ValueError("z needs at least one dimension")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("z must hold probabilities: a value is NaN or outside [0, 1]")
    scores = probabilities if y is None else np.asarray(y, dtype=probabilities.dtype)
    if y is None and settings.weights == "abs":
        raise ValueError("weights 'abs' need the scores y")
    if scores.shape != probabilities.shape:
        raise ValueError(f"y has shape {scores.shape}, but z has shape {probabilities.shape}")
    columns = probabilities.shape[-1]
    rows = probabilities.shape[:-1]
    lengths = np.full(rows, columns) if row_lengths is None else np.asarray(row_lengths)
    if lengths.dtype.kind not in "iu" or (
        lengths.size and (lengths.min() < 0 or lengths.max() > columns)
    ):
        raise ValueError(f"row_lengths must be integers in 0..{columns}")
    return select_rows(
        np.ascontiguousarray(probabilities).reshape(-1, columns),
        np.ascontiguousarray(scores).reshape(-1, columns),
        np.ascontiguousarray(np.broadcast_to(lengths, rows), dtype=np.int64).reshape(-1),
        settings,
        stream,
    ).reshape(probabilities.shape)


def select_rows(
    z: NDArray[Any],
    y: NDArray[Any],
    lengths: NDArray[np.int64],
    settings: LAMP,
    stream: int,
    first_row: int = 0,
) -> NDArray[np.bool_]:
    """`select` on checked, C-contiguous (rows, n) arrays, part of a larger one from `first_row`."""
    mask = np.zeros(z.shape, np.bool_)
    rows = z.shape[0]
    if settings.rule == "total_variation":
        scores = np.full(z.shape, -1.0, np.float32)
        parallel.run(
            _score_rows, rows, z, y, lengths, settings.weights == "abs", scores, grain=_GRAIN
        )
        if settings.budget is not None:
            return _largest(scores, int(np.floor(settings.budget * int(lengths.sum()))))
        return np.greater(scores, np.float32(settings.tau), out=mask)
    parallel.run(_normwise_rows, rows, z, lengths, float(settings.tau or 0), mask, grain=_GRAIN)
    if settings.rule == "random":
        key = np.uint64(settings.seed % 2**64), np.uint64(stream % 2**64)
        parallel.run(_shuffle_rows, rows, lengths, *key, first_row, mask, grain=_GRAIN)
    return mask


@parallel.kernel
def _normwise_rows(start, stop, z, lengths, tau, mask):  # type: ignore[no-untyped-def]
    """The authors' rule.  A heap yields the largest probabilities without sorting the row."""
    keys = np.empty(z.shape[1], np.float64)
    places = np.empty(z.shape[1], np.int64)
    for row in range(start, stop):
        length = lengths[row]
        smallest = 0.0 if length < z.shape[1] else np.inf
        total = 0.0
        for j in range(length):
            smallest = min(smallest, np.float64(z[row, j]))
            total += np.float64(z[row, j])
        goal = 2.0 - tau - 2.0 * smallest
        # All components below this sum to less than total - goal, so that the others suffice; the
        # factor leaves room for the rounding of the sums.
        least = (total - goal) / max(length, 1) * 0.999
        size = 0
        for j in range(length):
            if z[row, j] >= least:
                keys[size], places[size] = np.float64(z[row, j]), j
                size += 1
        for root in range(size // 2 - 1, -1, -1):
            _sift(keys, places, root, size)
        taken = 0.0
        while size > 0 and taken + 2.0 * smallest < 2.0 - tau:
            mask[row, places[0]] = True
            taken += keys[0]
            size -= 1
            keys[0], places[0] = keys[size], places[size]
            _sift(keys, places, 0, size)


@parallel.kernel
def _sift(keys, places, root, size):  # type: ignore[no-untyped-def]
    """Restore the heap order below a root: larger keys first, of equal ones the smaller place."""
    key, place = keys[root], places[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        right = child + 1
        if right < size and _before(keys[right], places[right], keys[child], places[child]):
            child = right
        if not _before(keys[child], places[child], key, place):
            break
        keys[root], places[root] = keys[child], places[child]
        root = child
    keys[root], places[root] = key, place


@parallel.inline
def _before(key, place, other_key, other_place):  # type: ignore[no-untyped-def]
    return key > other_key or (key == other_key and place < other_place)


@parallel.kernel
def _score_rows(start, stop, z, y, lengths, weighted, scores):  # type: ignore[no-untyped-def]
    """``w z (1 - z)``, half the column sums of the absolute Jacobian of softmax times w."""
    for row in range(start, stop):
        for j in range(lengths[row]):
            p = np.float64(z[row, j])
            score = p * (1.0 - p)
            if weighted:
                score *= abs(np.float64(y[row, j]))
            scores[row, j] = score


def _largest(scores: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """The `count` largest scores, of equal ones the first; negative ones are masked."""
    mask = np.zeros(scores.size, np.bool_)
    if count:
        _mark_largest(scores.reshape(-1).view(np.uint32), count, mask)
    return mask.reshape(scores.shape)


@parallel.kernel
def _mark_largest(bits, count, mask):  # type: ignore[no-untyped-def]
    """Radix selection: the bits of nonnegative floats are ordered as the floats are.

    Eleven bits at a time, a histogram tells in which bin the smallest selected score lies.
    """
    known = np.uint32(0)
    shift = 31  # bits above this one are known of the threshold
    left = count  # how many of those that agree in the known bits are selected
    while shift > 0:
        width = min(shift, 11)
        histogram = np.zeros(1 << width, np.int64)
        low = shift - width
        for word in bits:
            if word >> np.uint32(shift) == known >> np.uint32(shift):
                histogram[(word >> np.uint32(low)) & np.uint32((1 << width) - 1)] += 1
        bin_ = (1 << width) - 1
        while histogram[bin_] < left:
            left -= histogram[bin_]
            bin_ -= 1
        known |= np.uint32(bin_ << low)
        shift = low
    for i in range(bits.size):
        if bits[i] >> np.uint32(31) == 0:
            if bits[i] > known:
                mask[i] = True
            elif bits[i] == known and left > 0:
                mask[i] = True
                left -= 1


@parallel.kernel
def _shuffle_rows(start, stop, lengths, seed, stream, first_row, mask):  # type: ignore[no-untyped-def]
    """Put each row's selected components in places drawn at random (Fisher-Yates).

    The draws are keyed by (seed, stream, row, draw), so that no thread depends on another.
    """
    for row in range(start, stop):
        key = _mixed(_mixed(_mixed(seed) ^ stream) ^ np.uint64(first_row + row))
        for j in range(lengths[row] - 1, 0, -1):
            # The remainder's bias is below 2**-40 for any row that fits in memory.
            other = np.int64(_mixed(key + np.uint64(j)) % np.uint64(j + 1))
            mask[row, j], mask[row, other] = mask[row, other], mask[row, j]


@parallel.inline
def _mixed(counter):  # type: ignore[no-untyped-def]
    """SplitMix64: a 64-bit counter to 64 well-mixed bits (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = counter + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
