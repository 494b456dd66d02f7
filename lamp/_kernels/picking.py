"""Kernels that pick the components with the largest scores, of an array or of each row.

Scores are nonnegative float32 numbers, which are ordered as their bits are.  A NaN comes before all
numbers.  What lies behind the components of a row is not looked at.  No result depends on the
number of threads; of equal components the first is picked.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, words
from lamp._kernels.ordering import Lengths, Mask, least_of_largest, with_some_more
from lamp._kernels.scoring import Arguments, running_score, score_arguments

__all__ = [
    "largest",
    "largest_arguments",
    "largest_arguments_of_rows",
    "largest_of_rows",
    "sampled",
]

_COST: Final = 2.0  # nanoseconds of a component
_PIECES: Final = 16  # of an array whose largest elements are sought
_DIGIT: Final = 11  # bits of a word looked at together
_BITS: Final = 31  # of a word that is not negative
_SAMPLE: Final = 2**17  # components by which the least of the largest is guessed
_LEAST_INCREASING: Final = 0.5  # an argument from which on running scores increase
_NEWTON_STEPS: Final = 7
_NEAR: Final = 1e-9  # what a score may be off by
_MARGIN: Final = 2.0**-20  # in which numbers might be equal in float32
_SIGN: Final = np.uint32(0x80000000)
_INFINITE: Final = np.uint32(0x7F800000)  # the word of a float32 number


# --- the largest numbers --------------------------------------------------------------------------


def largest(scores: NDArray[np.float32], lengths: Lengths, count: int) -> Mask:
    """The `count` largest scores of an array, which has at least that many components."""
    words_, lengths = launching.reading(scores.view(np.uint32), lengths)
    mask = np.zeros(scores.shape, np.bool_)
    if count:
        threshold, left, ties = _threshold(words_, lengths, count)
        before = np.concatenate([[0], np.cumsum(ties)[:-1]])
        arguments = words_, lengths, threshold, left - before, mask
        launching.run(_mark, _PIECES, *arguments, cost=_COST * words_.size / _PIECES)
    return mask


def _threshold(
    words_: NDArray[np.uint32], lengths: Lengths, count: int
) -> tuple[np.uint32, int, NDArray[np.int64]]:
    """The least of the `count` largest words, and how many equal it: of those, and by piece.

    Radix selection: histograms of a few bits at a time narrow down where the word lies, from a
    guess on that a sample gives.
    """
    low, shift = _bracket(words_, lengths, count)
    while True:
        width = min(shift, _DIGIT)
        histograms, higher = np.zeros((_PIECES, 1 << width), np.uint32), np.zeros(_PIECES, np.int64)
        arguments = words_, lengths, np.uint32(low), np.uint32(shift - width), histograms, higher
        launching.run(_histogram, _PIECES, *arguments, cost=_COST * words_.size / _PIECES)
        # How many lie in a bin or above it.
        above_bin = histograms.sum(axis=0, dtype=np.int64)[::-1].cumsum()[::-1]
        left = count - int(higher.sum())
        if not 0 < left <= above_bin[0]:  # the guess was wrong
            low, shift = 0, _BITS
            continue
        bin_ = int(np.nonzero(above_bin >= left)[0][-1])
        shift -= width
        low += bin_ << shift
        if shift == 0:
            left -= int(above_bin[bin_ + 1]) if bin_ + 1 < len(above_bin) else 0
            return np.uint32(low), left, histograms[:, bin_].astype(np.int64)


def _bracket(words_: NDArray[np.uint32], lengths: Lengths, count: int) -> tuple[int, int]:
    """A word, and the number of bits by which the least of the `count` largest may exceed it."""
    rows = sampled(lengths)
    if rows is None:
        return 0, _BITS
    sample = _existing(words_[rows], lengths[rows])
    if not sample.size:
        return 0, _BITS
    rank = count * sample.size // int(lengths.sum())
    least, most = max(rank * 7 // 8 - 32, 1), min(rank * 9 // 8 + 32, sample.size)
    low, high = np.partition(sample, (-most, -least))[[-most, -least]].tolist()
    return low, max((high - low).bit_length(), 1)


@caching.kernel
def _histogram(start, stop, words_, lengths, low, shift, histograms, higher):  # type: ignore[no-untyped-def]
    """Histograms, by piece, of the words from `low` on, and how many are higher than its bins."""
    rows, bins = lengths.size, np.uint32(histograms.shape[1])
    room = words.shift_left(bins, shift)
    high = words.add(low, room)
    for piece in range(start, stop):
        for row in range(piece * rows // _PIECES, (piece + 1) * rows // _PIECES):
            above_all = np.uint32(0)
            for j in range(lengths[row]):
                above_all = words.add(above_all, np.uint32(words_[row, j] >= high))
            higher[piece] += np.int64(above_all)
            for j in range(lengths[row]):
                offset = words.subtract(words_[row, j], low)
                if offset < room:
                    histograms[piece, words.shift_right(offset, shift)] += np.uint32(1)


@caching.kernel
def _mark(start, stop, words_, lengths, threshold, left, mask):  # type: ignore[no-untyped-def]
    """Mark the words above the threshold, and in each piece the first `left` that equal it."""
    rows = lengths.size
    for piece in range(start, stop):
        ties = left[piece]
        for row in range(piece * rows // _PIECES, (piece + 1) * rows // _PIECES):
            ties -= _mark_row(words_[row], lengths[row], threshold, ties, mask[row])


@caching.inline
def _mark_row(row, length, threshold, most, mask):  # type: ignore[no-untyped-def]
    """Mark the words above a threshold and the first `most` that equal it; how many do."""
    ties = np.int64(0)
    for j in range(length):
        mask[j] = row[j] >= threshold
        ties += row[j] == threshold
    left = ties - max(most, 0)
    j = length - 1
    while left > 0:
        if row[j] == threshold:
            mask[j] = False
            left -= 1
        j -= 1
    return ties


def largest_of_rows(scores: NDArray[np.float32], lengths: Lengths, counts: Lengths) -> Mask:
    """The `counts[i]` largest scores of each row, which has at least that many components."""
    mask = np.zeros(scores.shape, np.bool_)
    arrays = launching.reading(scores.view(np.uint32), lengths, counts)
    launching.run(_largest_rows, len(scores), *arrays, mask, cost=_COST * scores.shape[1])
    return mask


@caching.kernel
def _largest_rows(start, stop, words_, lengths, counts, mask):  # type: ignore[no-untyped-def]
    low = np.uint32(0)
    for row in range(start, stop):
        numbers, length, count = words_[row], lengths[row], counts[row]
        if count > 0:
            low, at_least, beyond = least_of_largest(numbers, length, count, count, low)
            for j in range(length):
                mask[row, j] = numbers[j] >= low
            if at_least != count:
                _mark_row(numbers, length, low, count - beyond, mask[row])


# --- the largest scores of arguments --------------------------------------------------------------


def largest_arguments(
    z: NDArray[Any], y: NDArray[Any], lengths: Lengths, scoring: Arguments, count: int
) -> Mask:
    """The `count` largest scores of arguments, of an array with at least that many components."""
    floor = _floor(z, y, lengths, scoring, count)
    scores, found = _ordered(z, y, lengths, scoring, floor=floor)
    if floor > 0.0 and found.sum() < count:
        scores, _ = _ordered(z, y, lengths, scoring)
    return largest(scores, lengths, count)


def largest_arguments_of_rows(
    z: NDArray[Any], y: NDArray[Any], lengths: Lengths, scoring: Arguments, counts: Lengths
) -> Mask:
    """The `counts[i]` largest scores of the arguments of each row, which has at least as many."""
    scores, _ = _ordered(z, y, lengths, scoring, counts=counts)
    return largest_of_rows(scores, lengths, counts)


def _floor(
    z: NDArray[Any], y: NDArray[Any], lengths: Lengths, scoring: Arguments, count: int
) -> float:
    """A number that most likely some more than `count` scores are not below; 0 if none is known."""
    rows = sampled(lengths)
    if rows is None or not scoring.running:
        return 0.0
    lengths, total = lengths[rows], int(lengths.sum())
    scores, _ = _ordered(
        np.ascontiguousarray(z[rows]), np.ascontiguousarray(y[rows]), lengths, scoring
    )
    sample = _existing(scores, lengths)
    more = int(1.25 * count / total * sample.size) + 64
    return float(np.partition(sample, -more)[-more]) if more < sample.size else 0.0


def sampled(lengths: Lengths) -> slice | None:
    """Rows that stand for all of many components; None of few."""
    stride = int(lengths.sum()) // _SAMPLE
    # Odd: rows are often as many as a power of 2 for each of some heads.
    return slice(None, None, stride | 1) if stride > 1 else None


def _existing(rows: NDArray[Any], lengths: Lengths) -> NDArray[Any]:
    """The components of some rows, one behind the other."""
    return np.asarray(rows[np.arange(rows.shape[1]) < lengths[:, np.newaxis]])


def _ordered(
    z: NDArray[Any],
    y: NDArray[Any],
    lengths: Lengths,
    scoring: Arguments,
    *,
    floor: float = 0.0,
    counts: Lengths | None = None,
) -> tuple[NDArray[np.float32], Lengths]:
    """Nonnegative numbers in the order of the scores of arguments, but for small ones.

    Those below a `floor` may be 0, and those that are not among the `counts[i]` largest of a row.
    Where there is no component the result is not filled, nor in rows whose count is 0.  Also how
    many of each row are not below the floor.
    """
    out, found = np.empty(z.shape, np.float32), np.zeros(len(z), np.int64)
    columns = z.shape[1]
    wanted = np.full(len(z), -1) if counts is None else counts
    launching.run(
        _ordered_arguments,
        len(z),
        *launching.reading(z, y, lengths),
        scoring,
        *launching.reading(wanted),
        floor,
        out,
        found,
        cost=_COST * columns,
        workspace=lambda: _Workspace(
            np.empty(columns), np.empty(columns, np.uint32), np.empty(columns, np.int64)
        ),
    )
    return out, found


class _Workspace(NamedTuple):
    """What a thread orders arguments in: scores, words of arguments, and places of some."""

    scores: NDArray[np.float64]
    words: NDArray[np.uint32]
    members: NDArray[np.int64]


@caching.kernel
def _ordered_arguments(  # type: ignore[no-untyped-def]
    start, stop, work, z, y, lengths, scoring, counts, floor, out, found
):
    """Scores of all arguments, or where it is known how large these have to be, of those alone.

    A score of a row is a number ``1 / (1 + largest - score)``, which increases with the argument.
    Numbers of arguments that differ by a `_MARGIN` of its inverse differ in float32.
    """
    guess = np.uint32(0)
    for row in range(start, stop):
        length, numbers = lengths[row], out[row, : lengths[row]]
        if counts[row] == 0:
            continue
        highest = np.uint32(0)
        if scoring.running and scoring.leading == 0 and y.itemsize == 4:
            highest = _highest(y[row], length, work.words)
        least, cut = np.inf, 0.0
        if highest > 0:
            largest = running_score(np.float64(words.floating(highest)))
            if counts[row] > 0:
                most = with_some_more(counts[row])
                guess, _, _ = least_of_largest(work.words, length, counts[row], most, guess)
                least = np.float64(words.floating(guess))
            elif floor > 0.0:
                least = _argument_of(largest + 1.0 - 1.0 / floor)
        if _LEAST_INCREASING <= least < np.inf:
            cut = least - (1.0 + largest - running_score(least)) * _MARGIN
        if cut > 0.0:
            size = np.int64(0)
            for j in range(length):
                work.members[size] = j
                size += np.int64(y[row, j] >= cut)
                numbers[j] = 0.0
            for k in range(size):
                score = running_score(np.float64(y[row, work.members[k]])) - largest
                numbers[work.members[k]] = 1.0 / (1.0 - score)
        else:
            score_arguments(work.scores, z[row], y[row], length, scoring)
            for j in range(length):
                score = work.scores[j]
                score = 1.0 / (1.0 - score) if scoring.running else score
                numbers[j] = abs(score) if score == score else np.nan
        for j in range(length):
            found[row] += not numbers[j] < floor


@caching.inline
def _highest(y, length, positive):  # type: ignore[no-untyped-def]
    """The word of the largest argument of a row, if the score of no smaller one is larger, or 0.

    The running score increases from -1 on to the left of 0, falls, and increases from 0 on; from
    0.5 on it is larger than anywhere below.  Numbers of float32 are so far apart that roundings do
    not change that.  Also the words of the arguments, of negative ones 0.
    """
    highest, farthest = np.uint32(0), np.uint32(0)
    for j in range(length):
        word = words.word(np.float32(y[j]))
        farthest = words.maximum(farthest, words.bit_and(word, np.uint32(0x7FFFFFFF)))
        positive[j] = word if word < _SIGN else np.uint32(0)
        highest = words.maximum(highest, positive[j])
    usual = farthest < _INFINITE and words.floating(highest) >= _LEAST_INCREASING
    return highest if usual else np.uint32(0)


@caching.inline
def _argument_of(score):  # type: ignore[no-untyped-def]
    """The positive argument with a running score, by Newton's method; inf if it finds none."""
    number = max(score, 1.0)
    for _ in range(_NEWTON_STEPS):
        number -= (running_score(number) - score) * number / (number + 1.0)
        number = max(number, 0.25)
    return number if abs(running_score(number) - score) < _NEAR else np.inf
