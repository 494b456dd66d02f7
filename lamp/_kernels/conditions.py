"""Kernels that pick the fewest components of a softmax which meet a condition.

A NaN comes before all numbers.  What lies behind the components of a row is not looked at.  No
result depends on the number of threads; of equal components the first is picked.

Loops fill slices: an assignment to a slice would compile Numba's error messages, too.  Counters
begin at ``np.int64(0)``: the type of a literal 0 is one of its own, for which the functions that
take it would be compiled again.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, words
from lamp._kernels.ordering import (
    BINS,
    LAST_BIN,
    before,
    bin_of,
    fill_bins,
    gather,
    gather_largest,
    heapify,
    pop_largest,
    quick_sum,
    sift_down,
    sift_up,
    sort,
    sorting,
)

__all__ = [
    "least_componentwise",
    "least_normwise",
    "normwise",
]

Mask = NDArray[np.bool_]
Lengths = NDArray[np.int64]

_COST: Final = 2.0  # nanoseconds of a component
_INFINITE: Final = np.uint32(0x7F800000)  # the word of a float32 number
_REACH_SHIFT: Final = 8  # by which a search near a guess begins with less than the range of words
_HALVINGS: Final = 4  # of a search, after which it looks whether what is left is equal
_UNITS: Final = 2.0**52  # in one, of numbers in fixed point


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
        if row == start:
            guess = nothing
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
        low, beyond = _least_of_sum(z[row], fixed, length, goal, least, greatest, guess)
        guess = low
        each = np.int64(np.float64(words.floating(low)) * _UNITS)
        most = (goal - beyond + each - 1) // each  # of the numbers that equal the least
        before = beyond + (most - 1) * each
        if before > goal - margin or before + each < goal + margin:
            _normwise_row(work.keys, work.places, z[row], length, tau, mask[row])
            continue
        ties, room = np.int64(0), words.subtract(greatest, low)
        for j in range(length):
            # Negative zeros have the greatest words.
            mask[row, j] = words.subtract(words.word(z[row, j]), low) <= room
            ties += words.word(z[row, j]) == low
        j = length - 1
        while ties > most:
            if words.word(z[row, j]) == low:
                mask[row, j] = False
                ties -= 1
            j -= 1


@caching.inline
def _least_of_sum(z, fixed, length, goal, least, greatest, guess):  # type: ignore[no-untyped-def]
    """The largest word such that the numbers not below it sum to a goal, or to more.

    The search begins near a `guess`, and looks from time to time whether all numbers between its
    bounds are equal.  Also the sum of the numbers above.
    """
    low, high, beyond = least, words.add(greatest, 1), np.int64(0)
    reach, halvings = words.shift_right(words.subtract(high, low), _REACH_SHIFT), np.int64(0)
    has_low, has_high = False, False  # near the guess
    middle = words.add(low, words.shift_right(words.subtract(high, low), 1))
    if low < guess < high:
        middle = guess
    while words.subtract(high, low) > 1:
        found = np.int64(0)
        for j in range(length):
            found += fixed[j] if words.word(z[j]) >= middle else 0
        if found >= goal:
            low, has_low = middle, True
        else:
            high, beyond, has_high = middle, found, True
        half = words.shift_right(words.subtract(high, low), 1)
        if not (has_low and has_high):
            step = words.maximum(words.minimum(reach, half), 1)
            middle = words.add(low, step) if has_low else words.subtract(high, step)
            reach = words.shift_left(words.minimum(words.maximum(reach, 1), half), 2)
            continue
        halvings += 1
        if halvings % _HALVINGS == 0:
            low = _least_not_below(z, length, low, high)
            middle = words.add(low, 1)
        else:
            middle = words.add(low, half)
    return low, beyond


@caching.inline
def _least_not_below(z, length, low, high):  # type: ignore[no-untyped-def]
    """The least word of a row that is not below another, at most `high`."""
    least = high
    for j in range(length):
        word = words.word(z[j])
        least = words.minimum(least, word if word >= low else high)
    return least


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
    heapify(keys, places, size)
    taken = 0.0
    while size > 0 and taken + 2.0 * smallest < 2.0 - tau:
        mask[places[0]] = True
        taken += keys[0]
        size = pop_largest(keys, places, size)


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
    launching.run(kernel, count, *arguments, cost=cost, workspace=lambda: sorting(columns))
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
            given[j] = np.float64(rows.z[row, j]) + 0.0  # a zero has no sign
            total += given[j]
        if not total < np.inf:  # a NaN
            _pick_first(mask, row, length if count < 0 else count, length)
            continue
        if _leave_out_smallest(given, length, count, limit.tau, work, mask[row]):
            continue
        sort(given, length, work)
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
    smallest, total = np.inf, quick_sum(given, length)
    for j in range(length):
        smallest = min(smallest, given[j])
    top = fill_bins(given, length, work)
    for bin_ in range(BINS):
        work.sums[bin_] = 0.0
    for j in range(length if count < 0 else 0):
        work.sums[bin_of(given[j], top)] += given[j]
    margin = (4.0 * length + 64.0) * 2.0**-53 * (1.0 + total)
    goal = tau - max(0.0, 1.0 - 2.0 * smallest) if count < 0 else np.inf
    most = length - count if count >= 0 else length  # that are left out
    if length == most and total < goal - margin:
        for j in range(length):
            mask[j] = False
        return True
    if goal < margin or most <= 0:
        return False
    bin_, kept, left_out = LAST_BIN, 0.0, np.int64(0)
    while bin_ >= 0 and kept + work.sums[bin_] <= goal and left_out + work.numbers[0, bin_] <= most:
        kept += work.sums[bin_]
        left_out += work.numbers[0, bin_]
        bin_ -= 1
    if bin_ < 0:
        return False
    size = gather(given, length, top, bin_, bin_, work)
    sort(work.gathered, size, work)
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
        largest = _caps_and_costs(
            rows.weights[row, :length], rows.z[row, :length], given, costs, narrow
        )
        if not _are_finite(largest, given, costs, length):
            _pick_first(mask, row, length, length)  # a NaN, or an infinite weight
            continue
        number = np.int64(0)
        for j in range(length):
            given[number], costs[number], members[number] = given[j], costs[j], j
            number += np.int64(given[j] <= limit.tau)
        sort(given, number, work)
        best, best_size, least = 0, np.int64(0), np.inf
        size = np.int64(0)
        for visit in range(2):  # find the best cap; then go there again
            size, kept, is_heap = np.int64(0), 0.0, False
            for k in range(number if visit == 0 else best):
                place = order[k]
                keys[size], places[size] = costs[place], place
                size += 1
                if is_heap:
                    sift_up(keys, places, size - 1)
                kept += costs[place]
                left = limit.tau - caps[k]
                if kept > left and not is_heap:
                    heapify(keys, places, size)
                    is_heap = True
                while size > 0 and kept > left:
                    kept -= keys[0]
                    size = pop_largest(keys, places, size)
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
    """As within tau, but as many components are left out under each cap."""
    columns = rows.z.shape[1]
    given, costs = np.empty(columns, np.float64), np.empty(columns, np.float64)
    keys, places = np.empty(columns, np.float64), np.empty(columns, np.int64)
    pushed, popped = np.empty(columns, np.int64), np.empty(columns, np.int64)
    narrow = np.empty((2, columns), np.uint32)
    for row in range(start, stop):
        length, count = rows.lengths[row], limit.counts[row]
        largest = _caps_and_costs(
            rows.weights[row, :length], rows.z[row, :length], given, costs, narrow
        )
        is_usual = _are_finite(largest, given, costs, length)
        if not is_usual or count == 0 or count >= length:
            _pick_first(mask, row, count, length)
            continue
        _exchange_largest(
            given, costs, narrow, length, count, False, work, keys, places, pushed, popped,
            mask[row],
        )  # fmt: skip


@caching.kernel
def _caps_and_costs(weights, z, caps, costs, narrow):  # type: ignore[no-untyped-def]
    """Caps and costs, and words of float32 numbers in the same order; returns the largest word."""
    size = z.size
    caps, narrow_caps = caps[:size], narrow[0, :size]
    costs, narrow_costs = costs[:size], narrow[1, :size]
    largest = np.uint32(0)
    for j in range(size):
        weight, share = abs(np.float64(weights[j])), np.float64(z[j]) + 0.0  # a zero has no sign
        cap = weight * (1.0 - 2.0 * share)
        cost = weight * share
        nothing = 0.0 * share
        caps[j] = cap if cap > 0.0 else 0.0
        costs[j] = cost if share > 0.0 else nothing
        narrow_caps[j] = words.word(np.float32(caps[j]))
        narrow_costs[j] = words.word(np.float32(costs[j]))
        largest = words.maximum(largest, words.maximum(narrow_caps[j], narrow_costs[j]))
    return largest


@caching.inline
def _are_finite(largest, caps, costs, length):  # type: ignore[no-untyped-def]
    """Whether the sum of caps and costs is, of whose words the `largest` is known."""
    return largest < _INFINITE or quick_sum(caps, length) + quick_sum(costs, length) < np.inf


@caching.kernel
def _exchange_largest(  # type: ignore[no-untyped-def]
    given, costs, narrow, length, count, in_order, work, keys, places, pushed, popped, mask
):
    """Pick `count` components by the few largest caps and costs; whether nothing was sorted for it.

    Which choice is best is decided by sums of costs that are formed in the order of the caps.  The
    bits of a sum in another order are others, but are enough where no two choices come near to
    each other, unless it has to be `in_order`.
    """
    cap = _find_exchanges(
        given, costs, narrow, length, count, work, keys, places, pushed, popped, mask
    )
    cost = quick_sum(costs, length)
    kept = cost
    for k in range(count):
        kept -= costs[pushed[k]]
    best, gap = _best_exchange(given, costs, cap, kept, pushed, popped, count)
    margin = (8.0 * length + 64.0) * 2.0**-53 * (cost + given[pushed[count - 1]])
    is_sure = gap > margin and not in_order
    if not is_sure:
        sort(given, length, work)
        kept = 0.0
        for k in range(length - count):
            kept += costs[work.order[k]]
        best, _ = _best_exchange(given, costs, cap, kept, pushed, popped, count)
    for k in range(best):
        mask[pushed[k]] = False
    for k in range(best):
        mask[popped[k]] = True
    return is_sure


@caching.inline
def _find_exchanges(  # type: ignore[no-untyped-def]
    given, costs, narrow, length, count, work, keys, places, pushed, popped, mask
):
    """Mark the components with the largest caps, and find what they may be exchanged for.

    Left out are all but those.  In ascending order of their caps they are `pushed` among the
    others, each for the one that then costs the most, which is `popped` and may be itself.  Returns
    the largest cap of those that are left out at first.
    """
    size = gather_largest(given, narrow[0], length, count + 1, work.guesses[:1], work)
    sort(work.gathered, size, work)
    for k in range(count):
        pushed[k] = work.members[work.order[size - count + k]]
        mask[pushed[k]] = True
    cap = work.keys[size - count - 1]
    most = min(2 * count, length)
    size = gather_largest(costs, narrow[1], length, most, work.guesses[1:], work)
    waiting = np.int64(0)
    for k in range(size):
        keys[waiting], places[waiting] = work.gathered[k], work.members[k]
        waiting += np.int64(not mask[work.members[k]])
    heapify(keys, places, waiting)
    for k in range(count):
        place = pushed[k]
        if waiting == 0 or before(costs[place], place, keys[0], places[0]):
            popped[k] = place
        else:
            popped[k] = places[0]
            keys[0], places[0] = costs[place], place
            sift_down(keys, places, np.int64(0), waiting)
    return cap


@caching.part
def _best_exchange(given, costs, cap, kept, pushed, popped, count):  # type: ignore[no-untyped-def]
    """How many exchanges are best, and by how much no other number is as good.

    Those left out at first cost what is `kept`; `cap` is the largest of theirs.
    """
    least = kept + cap
    best, second, same = np.int64(0), np.inf, True  # as the best choice
    for k in range(count):
        place = pushed[k]
        kept += costs[place]
        kept -= costs[popped[k]]
        kappa = kept + given[place]
        same &= popped[k] == place
        if same:
            least = min(least, kappa)
        elif kappa < least:
            best, second, least, same = np.int64(k + 1), least, kappa, True
        else:
            second = min(second, kappa)
    return best, second - least


@caching.inline
def _pick_first(mask, row, count, length):  # type: ignore[no-untyped-def]
    """Pick the first `count` components of a row and no others."""
    for j in range(length):
        mask[row, j] = j < count
