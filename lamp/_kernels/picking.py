"""Kernels that take components: the largest scores, or the fewest that meet a condition.

Scores are nonnegative float32 numbers, whose words are ordered as they are; a NaN comes before all
numbers and a component that does not exist has a negative score.  No result depends on the number
of threads; of equal components the first is taken.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching

__all__ = [
    "above",
    "largest",
    "largest_of_rows",
    "least_componentwise",
    "least_normwise",
    "normwise",
    "shuffle",
    "uniform",
]

Mask = NDArray[np.bool_]
Lengths = NDArray[np.int64]

_GRAIN: Final = 16  # rows worth a thread
_PIECES: Final = 64  # of an array whose largest elements are sought
_DIGIT: Final = 11  # bits of a word looked at together


# --- scores ---------------------------------------------------------------------------------------


def above(scores: NDArray[np.float32], threshold: float) -> Mask:
    """Which scores are above a threshold, NaN being above all."""
    mask = np.greater(scores, np.float32(threshold))
    mask |= np.isnan(scores)
    return mask


def largest(scores: NDArray[np.float32], count: int) -> Mask:
    """The `count` largest scores of an array, at most as many as there are components."""
    mask = np.zeros(scores.size, np.bool_)
    if count:
        words = np.ascontiguousarray(scores).reshape(-1).view(np.uint32)
        threshold, left, ties = _threshold(words, count)
        before = np.concatenate([[0], np.cumsum(ties)[:-1]])
        launching.run(_mark, _PIECES, words, threshold, left - before, mask)
    return mask.reshape(scores.shape)


def _threshold(words: NDArray[np.uint32], count: int) -> tuple[np.uint32, int, NDArray[np.int64]]:
    """The least of the `count` largest words, how many equal to it are among those and in pieces.

    Radix selection: histograms of a few bits at a time tell in which bin it lies.
    """
    known, shift = np.uint32(0), 31
    ties = np.zeros(_PIECES, np.int64)
    while shift > 0:
        width = min(shift, _DIGIT)
        histograms = np.zeros((_PIECES, 1 << width), np.int64)
        launching.run(_histogram, _PIECES, words, known, shift, shift - width, histograms)
        # How many lie in a bin or above it.
        above_bin = histograms.sum(axis=0)[::-1].cumsum()[::-1]
        bin_ = int(np.nonzero(above_bin >= count)[0][-1])
        count -= int(above_bin[bin_ + 1]) if bin_ + 1 < len(above_bin) else 0
        shift -= width
        known |= np.uint32(bin_ << shift)
        ties = histograms[:, bin_]
    return known, count, ties


@caching.kernel
def _histogram(start, stop, words, known, shift, low, histograms):  # type: ignore[no-untyped-def]
    """Of pieces of the array: the bits from `low` to `shift` of words that agree above those."""
    size = words.size
    bits = np.uint32(histograms.shape[1] - 1)
    for piece in range(start, stop):
        for i in range(piece * size // _PIECES, (piece + 1) * size // _PIECES):
            word = words[i]
            if word >> np.uint32(shift) == known >> np.uint32(shift):
                histograms[piece, (word >> np.uint32(low)) & bits] += 1


@caching.kernel
def _mark(start, stop, words, threshold, left, mask):  # type: ignore[no-untyped-def]
    """Mark words above the threshold, and in each piece the first few that equal it."""
    for piece in range(start, stop):
        ties = left[piece]
        for i in range(piece * words.size // _PIECES, (piece + 1) * words.size // _PIECES):
            if words[i] >> np.uint32(31) == 0:
                if words[i] > threshold:
                    mask[i] = True
                elif words[i] == threshold:
                    mask[i] = ties > 0
                    ties -= 1


def largest_of_rows(scores: NDArray[np.float32], counts: Lengths) -> Mask:
    """The `counts[i]` largest scores of each row, at most as many as the row has."""
    mask = np.zeros(scores.shape, np.bool_)
    words = np.ascontiguousarray(scores).view(np.uint32)
    launching.run(_largest_rows, len(scores), words, counts, mask, grain=_GRAIN)
    return mask


@caching.kernel
def _largest_rows(start, stop, words, counts, mask):  # type: ignore[no-untyped-def]
    """A heap yields the largest one after the other: keys are words, which are integers."""
    keys = np.empty(words.shape[1], np.float64)
    places = np.empty(words.shape[1], np.int64)
    for row in range(start, stop):
        size = 0
        for j in range(words.shape[1]):
            if words[row, j] >> np.uint32(31) == 0:
                keys[size], places[size] = np.float64(words[row, j]), j
                size += 1
        for root in range(size // 2 - 1, -1, -1):
            _sift(keys, places, root, size)
        for _ in range(counts[row]):
            mask[row, places[0]] = True
            size -= 1
            keys[0], places[0] = keys[size], places[size]
            _sift(keys, places, 0, size)


# --- softmax conditions ---------------------------------------------------------------------------


def normwise(z: NDArray[Any], lengths: Lengths, tau: float) -> Mask:
    """The authors' rule: see :class:`lamp.LAMP`."""
    mask = np.zeros(z.shape, np.bool_)
    launching.run(_normwise_rows, len(z), z, lengths, tau, mask, grain=_GRAIN)
    return mask


@caching.kernel
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
        if not total < np.inf:  # a NaN
            mask[row, :length] = True
            continue
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


def least_normwise(z: NDArray[Any], lengths: Lengths, tau: float, counts: Lengths | None) -> Mask:
    """The fewest components S with ``kappa(S) <= tau``, or `counts` of each row with the least.

    ``kappa(S) = sum_{j not in S} z_j + max(0, 1 - 2 min_{i not in S} z_i)``, 0 if S is all.
    """
    mask = np.zeros(z.shape, np.bool_)
    given = np.full(len(z), -1) if counts is None else counts
    launching.run(_least_normwise_rows, len(z), z, lengths, tau, given, mask, grain=_GRAIN)
    return mask


@caching.kernel
def _least_normwise_rows(start, stop, z, lengths, tau, counts, mask):  # type: ignore[no-untyped-def]
    """The components left out are a window of the row in ascending order.

    Fix the smallest of them: that fixes the second term, and the cheapest ones to leave out with it
    are the next in order.  As the window's beginning moves up, a value leaves the sum and the
    second term falls: the end never has to move back.
    """
    for row in range(start, stop):
        length = lengths[row]
        values = z[row, :length].astype(np.float64)
        for j in range(length):
            mask[row, j] = True
        if not values.sum() < np.inf:  # a NaN
            if counts[row] >= 0:
                mask[row, counts[row] : length] = False
            continue
        order = np.argsort(values, kind="mergesort")
        sums = np.zeros(length + 1)
        for j in range(length):
            sums[j + 1] = sums[j] + values[order[j]]
        begin, end, least = 0, 0, np.inf
        if counts[row] >= 0:
            size = length - counts[row]
            for first in range(length - size + 1 if size > 0 else 0):
                kappa = (
                    sums[first + size] - sums[first] + max(0.0, 1.0 - 2.0 * values[order[first]])
                )
                if kappa < least:
                    begin, end, least = first, first + size, kappa
        else:
            last = 0
            for first in range(length):
                cap = max(0.0, 1.0 - 2.0 * values[order[first]])
                last = max(last, first)
                while last < length and sums[last + 1] - sums[first] + cap <= tau:
                    last += 1
                kappa = sums[last] - sums[first] + cap
                better = last - first == end - begin and kappa < least
                if last > first and (last - first > end - begin or better):
                    begin, end, least = first, last, kappa
        for j in range(begin, end):
            mask[row, order[j]] = False


def least_componentwise(
    z: NDArray[Any], w: NDArray[Any], lengths: Lengths, tau: float, counts: Lengths | None
) -> Mask:
    """The fewest components S with ``kappa(S) <= tau``, or `counts` of each row with the least.

    ``kappa(S) = sum_{j not in S} w_j z_j + max(0, max_{i not in S} w_i (1 - 2 z_i))``.
    """
    mask = np.zeros(z.shape, np.bool_)
    given = np.full(len(z), -1) if counts is None else counts
    launching.run(_least_componentwise_rows, len(z), z, w, lengths, tau, given, mask, grain=_GRAIN)
    return mask


@caching.kernel
def _least_componentwise_rows(  # type: ignore[no-untyped-def]
    start, stop, z, w, lengths, tau, counts, mask
):
    """The second term is one of n caps.  They are gone through upward, with a heap of what is kept.

    Under a cap, the most that can be left out are those with the smallest ``w z``.  What was taken
    from the heap for one cap cannot be left out under a larger one: there are more components then
    and less is left of tau.
    """
    for row in range(start, stop):
        length = lengths[row]
        caps, costs = np.empty(length), np.empty(length)
        total = 0.0
        for j in range(length):
            weight, share = np.float64(w[row, j]), np.float64(z[row, j])
            caps[j] = max(0.0, weight * (1.0 - 2.0 * share))
            costs[j] = weight * share if share > 0.0 else 0.0 * share
            total += costs[j] + caps[j]
            mask[row, j] = True
        if not total < np.inf:  # a NaN, or an infinite weight
            if counts[row] >= 0:
                mask[row, counts[row] : length] = False
            continue
        order = np.argsort(caps, kind="mergesort")
        most = length - counts[row] if counts[row] >= 0 else length
        best, best_size, least = 0, 0, np.inf
        for run in range(2):  # find the best cap; then go there again
            keys, places = np.empty(length), np.empty(length, np.int64)
            size, kept = 0, 0.0
            stop_at = length if run == 0 else best
            for k in range(stop_at):
                place = order[k]
                keys[size], places[size] = costs[place], place
                size += 1
                _raise(keys, places, size - 1)
                kept += costs[place]
                limit = tau - caps[place] if counts[row] < 0 else np.inf
                while size > 0 and (kept > limit or size > most):
                    kept -= keys[0]
                    size -= 1
                    keys[0], places[0] = keys[size], places[size]
                    _sift(keys, places, 0, size)
                if size == 0:
                    kept = 0.0
                kappa = kept + caps[place]
                better = size == best_size and kappa < least
                if run == 0 and size > 0 and (size > best_size or better):
                    best, best_size, least = k + 1, size, kappa
        for j in range(size):
            mask[row, places[j]] = False


# --- heaps ----------------------------------------------------------------------------------------


@caching.kernel
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


@caching.kernel
def _raise(keys, places, leaf):  # type: ignore[no-untyped-def]
    """Restore the heap order above a new leaf."""
    key, place = keys[leaf], places[leaf]
    while leaf > 0:
        parent = (leaf - 1) // 2
        if not _before(key, place, keys[parent], places[parent]):
            break
        keys[leaf], places[leaf] = keys[parent], places[parent]
        leaf = parent
    keys[leaf], places[leaf] = key, place


@caching.inline
def _before(key, place, other_key, other_place):  # type: ignore[no-untyped-def]
    return key > other_key or (key == other_key and place < other_place)


# --- at random ------------------------------------------------------------------------------------


def shuffle(mask: Mask, lengths: Lengths, seed: int, stream: int, first_row: int) -> None:
    """Put each row's selected components in places drawn at random, in place.

    The draws are keyed by (seed, stream, row, draw), so that no thread depends on another.
    """
    key = np.uint64(seed % 2**64), np.uint64(stream % 2**64)
    launching.run(_shuffle_rows, len(mask), lengths, *key, first_row, mask, grain=_GRAIN)


@caching.kernel
def _shuffle_rows(start, stop, lengths, seed, stream, first_row, mask):  # type: ignore[no-untyped-def]
    """Fisher-Yates."""
    for row in range(start, stop):
        key = _mixed(_mixed(_mixed(seed) ^ stream) ^ np.uint64(first_row + row))
        for j in range(lengths[row] - 1, 0, -1):
            # The remainder's bias is below 2**-40 for any row that fits in memory.
            other = np.int64(_mixed(key + np.uint64(j)) % np.uint64(j + 1))
            mask[row, j], mask[row, other] = mask[row, other], mask[row, j]


def uniform(lengths: Lengths, columns: int, seed: int, stream: int, first_row: int) -> Any:
    """Scores drawn at random, -1 where there is no component: float32, shape (rows, columns)."""
    scores = np.full((len(lengths), columns), -1.0, np.float32)
    key = np.uint64(seed % 2**64), np.uint64(stream % 2**64)
    launching.run(_uniform_rows, len(lengths), lengths, *key, first_row, scores, grain=_GRAIN)
    return scores


@caching.kernel
def _uniform_rows(start, stop, lengths, seed, stream, first_row, scores):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        key = _mixed(_mixed(_mixed(seed) ^ stream) ^ np.uint64(first_row + row))
        for j in range(lengths[row]):
            scores[row, j] = np.float64(_mixed(key + np.uint64(j)) >> np.uint64(40)) * 2.0**-24


@caching.inline
def _mixed(counter):  # type: ignore[no-untyped-def]
    """SplitMix64: a 64-bit counter to 64 well-mixed bits (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = counter + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
