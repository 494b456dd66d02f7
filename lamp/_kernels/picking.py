"""Kernels that pick components: the largest scores, or the fewest that meet a condition.

Scores are nonnegative float32 numbers, which are ordered as their bits are.  A NaN comes before all
numbers.  What lies behind the components of a row is not looked at.  No result depends on the
number of threads; of equal components the first is picked.

Two things save time of compilation.  Loops fill slices: an assignment to a slice would compile
Numba's error messages, too.  Counters begin at ``np.int64(0)``: the type of a literal 0 is one of
its own, for which the functions that take it would be compiled again.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, elementary, launching, words

__all__ = [
    "Arguments",
    "Scoring",
    "above",
    "above_arguments",
    "component_score",
    "largest",
    "largest_of_rows",
    "least_componentwise",
    "least_normwise",
    "normwise",
    "ordered_arguments",
    "put",
    "put_where",
    "running_largest",
    "running_score",
    "score",
    "score_arguments",
    "shuffle",
    "uniform",
]

Mask = NDArray[np.bool_]
Lengths = NDArray[np.int64]

_COST: Final = 2.0  # nanoseconds of a component
_PIECES: Final = 16  # of an array whose largest elements are sought
_DIGIT: Final = 11  # bits of a word looked at together
_BLOCK: Final = 64  # elements that are replaced together
_PUT_COST: Final = 1.0  # nanoseconds of one of them
_DIGITS: Final = 4  # by which keys are sorted
_BINS: Final = 2**8
_FEW_MORE: Final = 4  # keys that are gathered in less time than they take to be told apart
_FEW: Final = 48  # keys that take longer to be sorted by digits than by insertion
_BIN_SHIFT: Final = 49  # of a word: eight bins between two powers of 2
_LAST_BIN: Final = _BINS - 1
_UNITS: Final = 2.0**52  # in one, of numbers in fixed point


# --- scores ---------------------------------------------------------------------------------------


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


def ordered_arguments(
    z: NDArray[Any], y: NDArray[Any], lengths: Lengths, scoring: Arguments
) -> NDArray[np.float32]:
    """Nonnegative numbers in the order of the scores of arguments.

    Where there is no component the result is not filled.
    """
    out = np.empty(z.shape, np.float32)
    _run_arguments(_ordered_arguments, z, y, lengths, scoring, out)
    return out


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


@caching.kernel
def _ordered_arguments(start, stop, scores, z, y, lengths, scoring, out):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        score_arguments(scores, z[row], y[row], lengths[row], scoring)
        for j in range(lengths[row]):
            score = 1.0 / (1.0 - scores[j]) if scoring.running else scores[j]
            out[row, j] = abs(score) if score == score else np.nan


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

    Radix selection: histograms of a few bits at a time narrow down where the word lies.
    """
    known, shift = np.uint32(0), 31
    ties = np.zeros(_PIECES, np.int64)
    while shift > 0:
        width = min(shift, _DIGIT)
        histograms = np.zeros((_PIECES, 1 << width), np.uint32)
        arguments = words_, lengths, known, np.uint32(shift), np.uint32(shift - width), histograms
        launching.run(_histogram, _PIECES, *arguments, cost=_COST * words_.size / _PIECES)
        # How many lie in a bin or above it.
        above_bin = histograms.sum(axis=0, dtype=np.int64)[::-1].cumsum()[::-1]
        bin_ = int(np.nonzero(above_bin >= count)[0][-1])
        count -= int(above_bin[bin_ + 1]) if bin_ + 1 < len(above_bin) else 0
        shift -= width
        known |= np.uint32(bin_ << shift)
        ties = histograms[:, bin_].astype(np.int64)
    return known, count, ties


@caching.kernel
def _histogram(start, stop, words_, lengths, known, shift, low, histograms):  # type: ignore[no-untyped-def]
    """Histograms, by piece, of the bits `low` to `shift` of words whose higher bits are `known`."""
    rows = lengths.size
    high = words.shift_right(known, shift)
    bits = np.uint32(histograms.shape[1] - 1)
    for piece in range(start, stop):
        for row in range(piece * rows // _PIECES, (piece + 1) * rows // _PIECES):
            for j in range(lengths[row]):
                word = words_[row, j]
                if words.shift_right(word, shift) == high:
                    bin_ = words.bit_and(words.shift_right(word, low), bits)
                    histograms[piece, bin_] += np.uint32(1)


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
    for row in range(start, stop):
        numbers, length, count = words_[row], lengths[row], counts[row]
        if count > 0:
            low, at_least, beyond = _least_of_largest(numbers, length, count, count)
            for j in range(length):
                mask[row, j] = numbers[j] >= low
            if at_least != count:
                _mark_row(numbers, length, low, count - beyond, mask[row])


@caching.inline
def _least_of_largest(numbers, length, count, most):  # type: ignore[no-untyped-def]
    """A word that `count` of the words or more are not below; if it can be, no more than `most`.

    It is found by bisection: a processor counts many at once.  Also how many words are not below
    it, and how many are above if those are more than `most`.
    """
    low, high = np.uint32(0), np.uint32(2**31)
    at_least, beyond = length, np.int64(0)  # how many are not below the two
    while words.subtract(high, low) > 1 and at_least > most:
        middle = words.add(low, words.shift_right(words.subtract(high, low), 1))
        found = np.uint32(0)
        for j in range(length):
            found = words.add(found, np.uint32(numbers[j] >= middle))
        if np.int64(found) >= count:
            low, at_least = middle, np.int64(found)
        else:
            high, beyond = middle, np.int64(found)
    return low, at_least, beyond


def put(low: NDArray[Any], high: NDArray[Any], mask: NDArray[np.uint8], number: int) -> None:
    """Replace the numbers of flat arrays whose mask is a number, in place."""
    blocks = -(-low.size // _BLOCK)
    arguments = low, *launching.reading(high, mask), np.uint8(number)
    launching.run(_put_blocks, blocks, *arguments, cost=_PUT_COST * _BLOCK)


@caching.kernel
def _put_blocks(start, stop, low, high, mask, number):  # type: ignore[no-untyped-def]
    for block in range(start, stop):
        first, last = block * _BLOCK, min((block + 1) * _BLOCK, low.size)
        put_where(low[first:last], high[first:last], mask[first:last], number)


@caching.inline
def put_where(low, high, mask, number):  # type: ignore[no-untyped-def]
    """Replace numbers of a row whose mask is a number."""
    for j in range(low.size):
        before, after = low[j], high[j]  # both are read: a processor then chooses among many
        low[j] = after if mask[j] == number else before


# --- softmax conditions ---------------------------------------------------------------------------


class Rows(NamedTuple):
    """The rows of a softmax: probabilities, weights of their errors, and how many exist."""

    z: NDArray[Any]
    weights: NDArray[Any]
    lengths: Lengths


class Limit(NamedTuple):
    """How many components a row may take: as tau requires, or `counts` if they are not -1."""

    tau: float
    counts: Lengths


def _limit(rows: int, tau: float, counts: Lengths | None) -> Limit:
    return Limit(tau, *launching.reading(np.full(rows, -1) if counts is None else counts))


def normwise(z: NDArray[Any], lengths: Lengths, tau: float) -> Mask:
    """The rule of the paper: see :class:`lamp.LAMP`."""
    mask = np.empty(z.shape, np.bool_)
    columns = z.shape[1]
    arguments = *launching.reading(z, lengths), tau, mask
    launching.run(
        _normwise_rows,
        len(z),
        *arguments,
        cost=_COST * columns,
        workspace=lambda: _row_of(columns),
    )
    return mask


class _Row(NamedTuple):
    """What a thread works in: a row in fixed point, and a heap of its numbers."""

    fixed: NDArray[np.int64]
    keys: NDArray[np.float64]
    places: NDArray[np.int64]


def _row_of(columns: int) -> _Row:
    return _Row(np.empty(columns, np.int64), np.empty(columns), np.empty(columns, np.int64))


@caching.kernel
def _normwise_rows(start, stop, work, z, lengths, tau, mask):  # type: ignore[no-untyped-def]
    """The least number that is picked, by bisection, with sums in fixed point.

    The rule adds up float64 numbers in descending order.  Those sums and the ones here, in units of
    2**-52, differ by less than a unit for each term and each rounding: where a sum comes nearer to
    the goal than that, or numbers are not probabilities, the row is done as the rule says.
    """
    fixed = work.fixed
    for row in range(start, stop):
        length = lengths[row]
        nothing = words.word(z[row, 0])
        nothing = words.subtract(nothing, nothing)
        sign = words.subtract(nothing, 1)
        sign = words.subtract(sign, words.shift_right(sign, 1))
        least, greatest, total = words.subtract(sign, 1), nothing, np.int64(0)
        for j in range(length):
            bits = words.bit_xor(words.word(z[row, j]), words.bit_and(words.word(z[row, j]), sign))
            least, greatest = words.minimum(least, bits), words.maximum(greatest, bits)
        usual = words.floating(greatest) <= 1.0
        for j in range(length if usual else 0):
            fixed[j] = np.int64(np.float64(z[row, j]) * _UNITS)
            total += fixed[j]
        smallest = np.float64(words.floating(least)) if length == z.shape[1] else 0.0
        goal = np.int64((2.0 - tau - 2.0 * smallest) * _UNITS)
        margin = 4 * length + 64
        for j in range(length, mask.shape[1]):
            mask[row, j] = False
        if not usual or abs(goal) <= margin or abs(goal - total) <= margin:
            _normwise_row(work.keys, work.places, z[row], length, tau, mask[row])
            continue
        if goal < 0 or goal > total:
            _pick_first(mask, row, length if goal > 0 else 0, length)
            continue
        low, high, beyond = least, words.add(greatest, 1), np.int64(0)
        while words.subtract(high, low) > 1:
            middle = words.add(low, words.shift_right(words.subtract(high, low), 1))
            found = np.int64(0)
            for j in range(length):
                found += fixed[j] if words.word(z[row, j]) >= middle else 0
            if found >= goal:
                low = middle
            else:
                high, beyond = middle, found
        each = np.int64(np.float64(words.floating(low)) * _UNITS)
        most = (goal - beyond + each - 1) // each  # of the numbers that equal the least
        before = beyond + (most - 1) * each
        if before > goal - margin or before + each < goal + margin:
            _normwise_row(work.keys, work.places, z[row], length, tau, mask[row])
            continue
        ties = np.int64(0)
        for j in range(length):
            mask[row, j] = words.word(z[row, j]) >= low
            ties += words.word(z[row, j]) == low
        j = length - 1
        while ties > most:
            if words.word(z[row, j]) == low:
                mask[row, j] = False
                ties -= 1
            j -= 1


@caching.part
def _normwise_row(keys, places, z, length, tau, mask):  # type: ignore[no-untyped-def]
    """A heap yields the largest probabilities without sorting the row."""
    smallest = 0.0 if length < z.size else np.inf
    total = 0.0
    for j in range(length):
        smallest = min(smallest, np.float64(z[j]))
        total += np.float64(z[j])
        mask[j] = False
    if not total < np.inf:  # a NaN
        for j in range(length):
            mask[j] = True
        return
    goal = 2.0 - tau - 2.0 * smallest
    # All components below this sum to less than total - goal, so that the others suffice; the
    # factor leaves room for the rounding of the sums.
    least = (total - goal) / max(length, 1) * 0.999
    size = np.int64(0)
    for j in range(length):
        if z[j] >= least:
            keys[size], places[size] = np.float64(z[j]), j
            size += 1
    _heapify(keys, places, size)
    taken = 0.0
    while size > 0 and taken + 2.0 * smallest < 2.0 - tau:
        mask[places[0]] = True
        taken += keys[0]
        size = _pop(keys, places, size)


def least_normwise(z: NDArray[Any], lengths: Lengths, tau: float, counts: Lengths | None) -> Mask:
    """The fewest components S with ``kappa(S) <= tau``, or `counts` of each row with the least.

    ``kappa(S) = sum_{j not in S} z_j + max(0, 1 - 2 min_{i not in S} z_i)``, 0 if S is all.
    """
    return _run_least(_least_normwise_rows, Rows(z, z, lengths), tau, counts)


def _run_least(kernel: Any, rows: Rows, tau: float, counts: Lengths | None) -> Mask:
    mask: Mask = np.zeros(rows.z.shape, np.bool_)
    count, columns = rows.z.shape
    arguments = Rows(*launching.reading(*rows)), _limit(count, tau, counts), mask
    cost = _COST * columns
    launching.run(kernel, count, *arguments, cost=cost, workspace=lambda: _sorting(columns))
    return mask


@caching.kernel
def _least_normwise_rows(start, stop, work, rows, limit, mask):  # type: ignore[no-untyped-def]
    """The components left out are a window of the row in ascending order.

    Fix the smallest of them: that fixes the second term, and the cheapest ones to leave out with it
    are the next in order.  As the window's beginning moves up, a value leaves the sum and the
    second term falls: the end never has to move back.  In most rows the window begins with the
    smallest of all, for which nothing has to be sorted.
    """
    columns = rows.z.shape[1]
    given, sums = np.empty(columns, np.float64), np.zeros(columns + 1)
    values, order = work.keys, work.order
    for row in range(start, stop):
        length, count = rows.lengths[row], limit.counts[row]
        total = 0.0
        for j in range(length):
            given[j] = np.float64(rows.z[row, j])
            total += given[j]
        if not total < np.inf:  # a NaN
            _pick_first(mask, row, length if count < 0 else count, length)
            continue
        if _leave_out_smallest(given, length, count, limit.tau, work, mask[row]):
            continue
        _sort(given, length, work)
        for j in range(length):
            sums[j + 1] = sums[j] + values[j]
        begin, end, least = 0, 0, np.inf
        if count >= 0:
            size = length - count
            for first in range(length - size + 1 if size > 0 else 0):
                cap = max(0.0, 1.0 - 2.0 * values[first])
                kappa = sums[first + size] - sums[first] + cap
                if kappa < least:
                    begin, end, least = first, first + size, kappa
        else:
            last = 0
            for first in range(length):
                cap = max(0.0, 1.0 - 2.0 * values[first])
                last = max(last, first)
                while last < length and sums[last + 1] - sums[first] + cap <= limit.tau:
                    last += 1
                kappa = sums[last] - sums[first] + cap
                better = last - first == end - begin and kappa < least
                if last > first and (last - first > end - begin or better):
                    begin, end, least = first, last, kappa
        _pick_first(mask, row, length, length)
        for j in range(begin, end):
            mask[row, order[j]] = False


@caching.kernel
def _leave_out_smallest(given, length, count, tau, work, mask):  # type: ignore[no-untyped-def]
    """Leave out the smallest components, as many as may be; whether no other window is as good.

    Let v be the least that is picked, and z_0, z_1, ... the row in ascending order.  A window that
    begins with z_f has f numbers, v or more, that the one of its size at the beginning has not, in
    place of the f smallest, and its second term is less by ``2 (z_f - z_0)`` at most: its kappa is
    larger if ``f v > (f + 2) z_f``.  If m numbers are at most ``0.333 v``, that holds for all f
    below m.  From there on, unless it holds, z_f is at least ``v m / (m + 2)``: a window within tau
    has at most ``2 + (tau - 1) / z_f`` numbers then, as they are no less than z_f and sum to no
    more than ``tau - 1 + 2 z_f``, and that must be too few.  Where the size is given, m must be
    above all f.  Sums are compared with a margin for what their order changes.
    """
    smallest, total = np.inf, _quick_sum(given, length)
    for j in range(length):
        smallest = min(smallest, given[j])
    top = _fill_bins(given, length, work)
    for bin_ in range(_BINS):
        work.sums[bin_] = 0.0
    for j in range(length if count < 0 else 0):
        work.sums[_bin(given[j], top)] += given[j]
    margin = (4.0 * length + 64.0) * 2.0**-53 * (1.0 + total)
    goal = tau - max(0.0, 1.0 - 2.0 * smallest) if count < 0 else np.inf
    most = length - count if count >= 0 else length  # that are left out
    if length == most and total < goal - margin:
        for j in range(length):
            mask[j] = False
        return True
    if goal < margin or most <= 0:
        return False
    bin_, kept, left_out = _LAST_BIN, 0.0, np.int64(0)
    while bin_ >= 0 and kept + work.sums[bin_] <= goal and left_out + work.numbers[0, bin_] <= most:
        kept += work.sums[bin_]
        left_out += work.numbers[0, bin_]
        bin_ -= 1
    if bin_ < 0:
        return False
    size = _gather(given, length, top, bin_, bin_, work)
    _sort(work.gathered, size, work)
    last = np.int64(0)
    while last < size and kept + work.keys[last] <= goal and left_out < most:
        kept += work.keys[last]
        last += 1
        left_out += 1
    if last == size:
        return False
    least = work.keys[last]
    few = np.int64(0)
    for j in range(length):
        few += given[j] <= 0.333 * least
    if count >= 0:
        sure = few > count
    else:
        sure = goal - kept > margin and kept + least - goal > margin
        room = max(0.0, tau - 1.0) * (few + 2) * 1.001
        sure = sure and room < (left_out - 2.001) * few * least
    if not sure or least < 2000.0 * margin:
        return False
    for j in range(length):
        mask[j] = given[j] >= least
    for k in range(last):
        if work.keys[k] == least:
            mask[work.members[work.order[k]]] = False
    return True


def least_componentwise(
    z: NDArray[Any], w: NDArray[Any], lengths: Lengths, tau: float, counts: Lengths | None
) -> Mask:
    """The fewest components S with ``kappa(S) <= tau``, or `counts` of each row with the least.

    ``kappa(S) = sum_{j not in S} w_j z_j + max(0, max_{i not in S} w_i (1 - 2 z_i))``.
    """
    kernel = _componentwise_rows_within if counts is None else _componentwise_rows_of_counts
    return _run_least(kernel, Rows(z, w, lengths), tau, counts)


@caching.kernel
def _componentwise_rows_within(start, stop, work, rows, limit, mask):  # type: ignore[no-untyped-def]
    """The second term is one of n caps.  They are visited upward, with a heap of what is left out.

    Under a cap, the most that can be left out are those with the smallest ``w z``.  What was taken
    from the heap for one cap cannot be left out under a larger one: there are more components then
    and less is left of tau.  Those with a cap above tau are picked, and not looked at.
    """
    columns = rows.z.shape[1]
    given, costs = np.empty(columns, np.float64), np.empty(columns, np.float64)
    caps, order, members = work.keys, work.order, np.empty(columns, np.int64)
    keys, places = np.empty(columns, np.float64), np.empty(columns, np.int64)
    narrow = np.empty((2, columns), np.uint32)
    for row in range(start, stop):
        length = rows.lengths[row]
        _caps_and_costs(rows.weights[row, :length], rows.z[row, :length], given, costs, narrow)
        if not _quick_sum(given, length) + _quick_sum(costs, length) < np.inf:
            _pick_first(mask, row, length, length)  # a NaN, or an infinite weight
            continue
        number = np.int64(0)
        for j in range(length):
            given[number], costs[number], members[number] = given[j], costs[j], j
            number += np.int64(given[j] <= limit.tau)
        _sort(given, number, work)
        best, best_size, least = 0, np.int64(0), np.inf
        size = np.int64(0)
        for visit in range(2):  # find the best cap; then go there again
            size, kept = np.int64(0), 0.0
            for k in range(number if visit == 0 else best):
                place = order[k]
                keys[size], places[size] = costs[place], place
                size += 1
                _raise(keys, places, size - 1)
                kept += costs[place]
                left = limit.tau - caps[k]
                while size > 0 and kept > left:
                    kept -= keys[0]
                    size = _pop(keys, places, size)
                if size == 0:
                    kept = 0.0
                kappa = kept + caps[k]
                better = size == best_size and kappa < least
                if visit == 0 and size > 0 and (size > best_size or better):
                    best, best_size, least = k + 1, size, kappa
        _pick_first(mask, row, length, length)
        for j in range(size):
            mask[row, members[places[j]]] = False


@caching.kernel
def _componentwise_rows_of_counts(start, stop, work, rows, limit, mask):  # type: ignore[no-untyped-def]
    """As within tau, but as many components are left out under each cap.

    Which cap is best is decided by sums of costs that are formed in the order of the caps.  The
    bits of a sum in another order are others, but are enough where no two choices come near to
    each other: only then nothing has to be sorted.
    """
    columns = rows.z.shape[1]
    given, costs = np.empty(columns, np.float64), np.empty(columns, np.float64)
    keys, places = np.empty(columns, np.float64), np.empty(columns, np.int64)
    pushed, popped = np.empty(columns, np.int64), np.empty(columns, np.int64)
    narrow = np.empty((2, columns), np.uint32)
    for row in range(start, stop):
        length, count = rows.lengths[row], limit.counts[row]
        _caps_and_costs(rows.weights[row, :length], rows.z[row, :length], given, costs, narrow)
        cost = _quick_sum(costs, length)
        if not _quick_sum(given, length) + cost < np.inf or count == 0 or count >= length:
            _pick_first(mask, row, count, length)
            continue
        for in_order in range(2):
            if in_order:
                _sort(given, length, work)
                cost = 0.0
                for k in range(length - count):
                    cost += costs[work.order[k]]
            if _exchange_largest(
                given, costs, narrow, length, count, cost, in_order, work, keys, places, pushed,
                popped, mask[row],
            ):  # fmt: skip
                break


@caching.kernel
def _caps_and_costs(weights, z, caps, costs, narrow):  # type: ignore[no-untyped-def]
    """Caps and costs, and the words of float32 numbers that are in the same order."""
    size = z.size
    caps, narrow_caps = caps[:size], narrow[0, :size]
    costs, narrow_costs = costs[:size], narrow[1, :size]
    for j in range(size):
        weight, share = abs(np.float64(weights[j])), np.float64(z[j])
        cap = weight * (1.0 - 2.0 * share)
        cost = weight * share
        nothing = 0.0 * share
        caps[j] = cap if cap > 0.0 else 0.0
        costs[j] = cost if share > 0.0 else nothing
        narrow_caps[j] = words.word(np.float32(caps[j]))
        narrow_costs[j] = words.word(np.float32(costs[j]))


@caching.kernel
def _exchange_largest(  # type: ignore[no-untyped-def]
    given, costs, narrow, length, count, cost, in_order, work, keys, places, pushed, popped, mask
):
    """Pick `count` components by the few largest caps and costs; whether that is sure.

    Left out are all but those with the largest caps.  These are taken in one after the other, each
    for the one that then costs the most, which may be itself.  If `in_order`, `cost` is that of
    those left out at first, in the order of their caps, and the choice is sure; otherwise it is
    that of all in any order, and no two choices may come near to each other.
    """
    for j in range(length):
        mask[j] = False
    size = _gather_largest(given, narrow[0], length, count + 1, work)
    _sort(work.gathered, size, work)
    largest = work.keys[size - count - 1]  # of those left out
    kept = cost
    for k in range(count):
        pushed[k] = work.members[work.order[size - count + k]]
        mask[pushed[k]] = True
        kept -= 0.0 if in_order else costs[pushed[k]]
    least = kept + largest
    margin = (8.0 * length + 64.0) * 2.0**-53 * (cost + work.keys[size - 1])
    size = _gather_largest(costs, narrow[1], length, min(2 * count, length), work)
    waiting = np.int64(0)
    for k in range(size):
        keys[waiting], places[waiting] = work.gathered[k], work.members[k]
        waiting += np.int64(not mask[work.members[k]])
    _heapify(keys, places, waiting)
    best, second, same = 0, np.inf, True  # as the best choice
    for k in range(count):
        place = pushed[k]
        keys[waiting], places[waiting] = costs[place], place
        _raise(keys, places, waiting)
        kept += costs[place]
        kept -= keys[0]
        popped[k] = places[0]
        _pop(keys, places, waiting + 1)
        kappa = kept + given[place]
        same &= popped[k] == place
        if same:
            least = min(least, kappa)
        elif kappa < least:
            best, second, least, same = k + 1, least, kappa, True
        else:
            second = min(second, kappa)
    if not (in_order or second - least > margin):
        return False
    for k in range(best):
        mask[pushed[k]] = False
    for k in range(best):
        mask[popped[k]] = True
    return True


@caching.inline
def _pick_first(mask, row, count, length):  # type: ignore[no-untyped-def]
    """Pick the first `count` components of a row and no others."""
    for j in range(length):
        mask[row, j] = j < count


# --- orders -------------------------------------------------------------------------------------


class Sorting(NamedTuple):
    """What a row is sorted in: the sorted keys and their places, words twice, and counts.

    Of parts of a row that are sorted, the keys and their places in the row; and of bins, how many
    keys they have and their sums.
    """

    keys: NDArray[np.float64]
    order: NDArray[np.int64]
    words: NDArray[np.uint64]
    spare: NDArray[np.uint64]
    counts: NDArray[np.int64]
    gathered: NDArray[np.float64]
    members: NDArray[np.int64]
    numbers: NDArray[np.int64]
    sums: NDArray[np.float64]


def _sorting(columns: int) -> Sorting:
    return Sorting(
        np.empty(columns),
        np.empty(columns, np.int64),
        np.empty(columns, np.uint64),
        np.empty(columns, np.uint64),
        np.empty((_DIGITS, _BINS), np.int64),
        np.empty(columns + 1),
        np.empty(columns + 1, np.int64),
        np.empty((4, _BINS), np.int64),
        np.empty(_BINS),
    )


@caching.kernel
def _sort(keys, length, work):  # type: ignore[no-untyped-def]
    """Keys that are not negative in ascending order, and their places, of equal ones the first.

    The upper halves of their bits are sorted digit by digit, with the places in the lower halves;
    the few keys that differ in their lower halves alone are put right by insertion.
    """
    counts, given, sorted_ = work.counts, work.words, work.spare
    digits = _DIGITS if length > _FEW else 0
    for digit in range(digits):
        for bin_ in range(_BINS):
            counts[digit, bin_] = 0
    for j in range(length):
        word = words.word(keys[j]) & np.uint64(0x7FFFFFFF00000000)
        given[j] = word | np.uint64(j)
        for digit in range(digits):
            counts[digit, _bin_of(word, digit)] += 1
    for digit in range(digits):
        if counts[digit, _bin_of(given[0], digit)] < length:
            place = np.int64(0)
            for bin_ in range(_BINS):
                count = counts[digit, bin_]
                counts[digit, bin_] = place
                place += count
            for j in range(length):
                bin_ = _bin_of(given[j], digit)
                sorted_[counts[digit, bin_]] = given[j]
                counts[digit, bin_] += 1
            given, sorted_ = sorted_, given
    for j in range(length):
        place = np.int64(given[j] & np.uint64(0xFFFFFFFF))
        key, slot = keys[place], j
        while slot > 0 and work.keys[slot - 1] > key:
            work.keys[slot], work.order[slot] = work.keys[slot - 1], work.order[slot - 1]
            slot -= 1
        work.keys[slot], work.order[slot] = key, place


@caching.inline
def _bin_of(word, digit):  # type: ignore[no-untyped-def]
    return np.int64((word >> np.uint64(32 + 8 * digit)) & np.uint64(_BINS - 1))


@caching.part
def _quick_sum(keys, length):  # type: ignore[no-untyped-def]
    """A sum in any order: four numbers are added at once."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = length - length % 4
    for j in range(0, whole, 4):
        a += keys[j]
        b += keys[j + 1]
        c += keys[j + 2]
        d += keys[j + 3]
    for j in range(whole, length):
        a += keys[j]
    return (a + b) + (c + d)


@caching.part
def _fill_bins(keys, length, work):  # type: ignore[no-untyped-def]
    """Count keys that are not negative, by bins; the height of the largest, which is in the first.

    Keys side by side, which may be in one bin, are counted apart: no addition waits for another.
    """
    numbers = work.numbers
    top = np.int64(0)
    for j in range(length):
        top = max(top, _height(keys[j]))
    for bin_ in range(_BINS):
        for part in range(4):
            numbers[part, bin_] = 0
    for j in range(length):
        numbers[j & 3, _bin(keys[j], top)] += 1
    for bin_ in range(_BINS):
        numbers[0, bin_] += numbers[1, bin_] + numbers[2, bin_] + numbers[3, bin_]
    return top


@caching.inline
def _height(key):  # type: ignore[no-untyped-def]
    return np.int64(words.word(key) >> np.uint64(_BIN_SHIFT))


@caching.inline
def _bin(key, top):  # type: ignore[no-untyped-def]
    return min(top - _height(key), _LAST_BIN)


@caching.part
def _gather(keys, length, top, first, last, work):  # type: ignore[no-untyped-def]
    """The keys of bins `first` to `last`, and their places, one behind the other; how many."""
    size = np.int64(0)
    for j in range(length):
        bin_ = _bin(keys[j], top)
        work.gathered[size], work.members[size] = keys[j], j
        size += np.int64((bin_ >= first) & (bin_ <= last))
    return size


@caching.part
def _gather_largest(keys, narrow, length, count, work):  # type: ignore[no-untyped-def]
    """The `count` largest keys, and maybe a few more, and their places; how many.

    Keys are as large as their words in `narrow` are, or these are equal.
    """
    least, _, _ = _least_of_largest(narrow, length, count, count + count // 4 + _FEW_MORE)
    size = np.int64(0)
    for j in range(length):
        work.gathered[size], work.members[size] = keys[j], j
        size += np.int64(narrow[j] >= least)
    return size


# --- heaps ----------------------------------------------------------------------------------------
# Larger keys come first, of equal ones the smaller place.


@caching.inline
def _heapify(keys, places, size):  # type: ignore[no-untyped-def]
    for root in range(size // 2 - 1, -1, -1):
        _sift(keys, places, root, size)


@caching.inline
def _pop(keys, places, size):  # type: ignore[no-untyped-def]
    """Remove the first element; the size that is left."""
    keys[0], places[0] = keys[size - 1], places[size - 1]
    _sift(keys, places, np.int64(0), size - 1)
    return size - 1


@caching.part
def _sift(keys, places, root, size):  # type: ignore[no-untyped-def]
    """Restore the order below a root."""
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


@caching.part
def _raise(keys, places, leaf):  # type: ignore[no-untyped-def]
    """Restore the order above a new leaf."""
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


class Key(NamedTuple):
    """What random draws are keyed by, so that no thread depends on another."""

    seed: np.uint64
    stream: np.uint64
    first_row: np.uint64


def _key(seed: int, stream: int, first_row: int) -> Key:
    return Key(*(np.uint64(number % 2**64) for number in (seed, stream, first_row)))


def shuffle(mask: Mask, lengths: Lengths, seed: int, stream: int, first_row: int) -> None:
    """Move each row's selected components to places drawn at random, in place."""
    key = _key(seed, stream, first_row)
    arguments = *launching.reading(lengths), key, mask
    launching.run(_shuffle_rows, len(mask), *arguments, cost=_COST * mask.shape[1])


@caching.kernel
def _shuffle_rows(start, stop, lengths, key, mask):  # type: ignore[no-untyped-def]
    """Fisher-Yates."""
    for row in range(start, stop):
        base = _mix(_mix(_mix(key.seed) ^ key.stream) ^ (key.first_row + np.uint64(row)))
        for j in range(lengths[row] - 1, 0, -1):
            # The remainder's bias is below 2**-40 for any row that fits in memory.
            other = np.int64(_mix(base + np.uint64(j)) % np.uint64(j + 1))
            mask[row, j], mask[row, other] = mask[row, other], mask[row, j]


def uniform(lengths: Lengths, columns: int, seed: int, stream: int, first_row: int) -> Any:
    """Scores drawn at random, -1 where there is no component: float32, shape (rows, columns)."""
    scores = np.full((len(lengths), columns), -1.0, np.float32)
    key = _key(seed, stream, first_row)
    arguments = *launching.reading(lengths), key, scores
    launching.run(_uniform_rows, len(lengths), *arguments, cost=_COST * columns)
    return scores


@caching.kernel
def _uniform_rows(start, stop, lengths, key, scores):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        base = _mix(_mix(_mix(key.seed) ^ key.stream) ^ (key.first_row + np.uint64(row)))
        for j in range(lengths[row]):
            scores[row, j] = np.float64(_mix(base + np.uint64(j)) >> np.uint64(40)) * 2.0**-24


@caching.inline
def _mix(counter):  # type: ignore[no-untyped-def]
    """SplitMix64: a 64-bit counter to 64 well-mixed bits (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = counter + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
