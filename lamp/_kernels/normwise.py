"""The rule of the paper, and the one that picks the fewest components under the same condition.

The condition number of a row of a softmax is the sum of the probabilities that are not picked, and
a term that goes by the smallest of them.  Both rules look for the least of the largest numbers that
sum to a goal, by bisection among words and in fixed point; the few numbers near it are sorted, and
sums in float64 decide.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fpemu._kernels import caching, words
from lamp._kernels.conditions import Condition, clear, pick_first
from lamp._kernels.ordering import (
    END,
    enclose,
    gather,
    mark_from,
    mark_largest,
    quick_sum,
    sort,
    sort_members,
    sum_below,
    sum_from,
)

__all__ = ["FEWEST", "PAPER"]

_FEW: Final = 8  # numbers that are sorted
_ZERO: Final = np.uint32(0)


@caching.inline
def _read(z, length, work):  # type: ignore[no-untyped-def]
    """The probabilities of a row, whose zeros have no sign; their sum."""
    keys, narrow = work.numbers.keys, work.numbers.narrow
    for j in range(length):
        keys[j] = np.float64(z[j]) + 0.0
        narrow[j] = words.word(np.float32(keys[j]))
    return quick_sum(keys, length)


@caching.inline
def _smallest(keys, length):  # type: ignore[no-untyped-def]
    least = words.word(np.inf)
    for j in range(length):
        least = words.minimum(least, words.word(keys[j]))
    return words.floating(least)


@caching.inline
def _margin(length, total):  # type: ignore[no-untyped-def]
    """What the order of a sum may change it by."""
    return (4.0 * length + 64.0) * 2.0**-53 * (1.0 + total)


@caching.inline
def _mean_word(total, length):  # type: ignore[no-untyped-def]
    """Where the search for a curve begins: other rows do not say in which order kappas are sums."""
    return words.word(np.float32(total / max(length, 1)))


@caching.part
def _near_goal(length, total, short, enough, first, work):  # type: ignore[no-untyped-def]
    """Sort the numbers among which the largest begin to sum to `short`, and then to `enough`.

    Returns how many they are, the words from which on they are and above which, and how many
    numbers there are from each on.
    """
    numbers, sorting = work.numbers, work.sorting
    low, at_least, high, beyond = enclose(
        numbers, length, total, short, enough, _FEW, work.guesses[0]
    )
    work.guesses[0] = low
    size = gather(numbers.narrow, length, low, high, sorting.members)
    sort_members(numbers.keys, size, first, sorting)
    return size, low, high, at_least, beyond


# --- the rule of the paper ------------------------------------------------------------------------


@caching.inline
def _second_term(z, length, keys):  # type: ignore[no-untyped-def]
    """Twice the smallest number of a row, of which masked ones are 0."""
    return 2.0 * _smallest(keys, length) if length == z.size else 0.0


@caching.part
def _sort_for_paper(length, total, twice, tau, work):  # type: ignore[no-untyped-def]
    """Which components are picked: those from a word on, and of so many sorted ones the last.

    The rule picks components in descending order while the sum of those before, which it forms in
    that order, and the second term are below ``2 - tau``.  Where a sum in another order comes as
    near to that as roundings may change it, the row is sorted.
    """
    goal, margin = 2.0 - tau, _margin(length, total)
    keys = work.sorting.keys
    size, _, high, at_least, _ = _near_goal(length, total, goal - twice, goal - twice, True, work)
    taken = sum_from(work.numbers, length, high, work.sorting.given)
    before, count = -np.inf, np.int64(0)
    while count < size and taken + twice < goal:
        count += 1
        before = taken
        taken += keys[size - count]
    is_enough = taken + twice > goal + margin or (count == size and at_least == length)
    if not (before + twice < goal - margin and is_enough):
        high, size, count, taken = END, length, np.int64(0), 0.0
        for j in range(length):
            work.sorting.members[j] = j
        sort_members(work.numbers.keys, length, True, work.sorting)
        while count < size and taken + twice < goal:
            count += 1
            taken += keys[size - count]
    return high, size, count


@caching.kernel
def _pick_paper(start, stop, work, rows, limit, mask):  # type: ignore[no-untyped-def]
    numbers, sorting = work.numbers, work.sorting
    for row in range(start, stop):
        length, count, guess = rows.lengths[row], limit.counts[row], limit.guesses[row, 0]
        picked = mask[row]
        total = _read(rows.z[row], length, work)
        if not total < np.inf:
            pick_first(picked, length if count < 0 else count)
            continue
        clear(picked, length)
        if count < 0:
            twice = _second_term(rows.z[row], length, numbers.keys)
            high, size, count = _sort_for_paper(length, total, twice, limit.tau, work)
            mark_from(numbers.narrow, length, high, size, count, sorting, picked)
        else:
            guess = guess if guess > 0 else work.guesses[0]
            work.guesses[0] = mark_largest(numbers, length, count, guess, True, sorting, picked)


@caching.kernel
def _curves_of_paper(start, stop, work, rows, low, high, found):  # type: ignore[no-untyped-def]
    """With the sum S of the k largest, ``2 - 2 min z - S`` is the least tau for k components."""
    sums, keys = work.sums, work.sorting.keys
    for row in range(start, stop):
        length, kappas = rows.lengths[row], found.kappas[row]
        found.counts[row] = length
        total = _read(rows.z[row], length, work)
        if not total < np.inf:
            continue
        twice = _second_term(rows.z[row], length, work.numbers.keys)
        work.guesses[0] = _mean_word(total, length)
        size, _, above, _, beyond = _near_goal(
            length, total, 2.0 - high - twice, 2.0 - low - twice, True, work
        )
        sums[0] = sum_from(work.numbers, length, above, work.sorting.given)
        count = np.int64(0)
        while count < size and 2.0 - (sums[count] + twice) > low:
            count += 1
            sums[count] = sums[count - 1] + keys[size - count]
        found.counts[row] = beyond + count
        found.guesses[row, 0] = words.word(np.float32(keys[size - count])) if count > 0 else above
        number = np.int64(0)
        while number < min(count, kappas.size) and 2.0 - (sums[count - 1 - number] + twice) <= high:
            kappas[number] = 2.0 - (sums[count - 1 - number] + twice)
            number += 1


PAPER: Final = Condition(_pick_paper, _curves_of_paper, (1.0, 2.0), False)


# --- the fewest components ------------------------------------------------------------------------
# kappa(S) = sum_{j not in S} z_j + max(0, 1 - 2 min_{i not in S} z_i), 0 if S is all.  The
# components left out are a window of the row in ascending order: fix the smallest of them; that
# fixes the second term, and the cheapest ones to leave out with it are the next in order.


@caching.inline
def _cap(smallest):  # type: ignore[no-untyped-def]
    return max(0.0, 1.0 - 2.0 * smallest)


@caching.inline
def _number_not_above(keys, length, bound):  # type: ignore[no-untyped-def]
    few = np.int64(0)
    for j in range(length):
        few += np.int64(keys[j] <= bound)
    return few


@caching.part
def _sort_for_fewest(length, total, tau, work):  # type: ignore[no-untyped-def]
    """Which components are picked if the smallest are left out; whether no window is as good.

    Those from a word on, and of so many sorted ones the last.

    Let v be the least that is picked, and z_0, z_1, ... the row in ascending order.  A window that
    begins with z_f has f numbers, v or more, that the one of its size at the beginning has not, in
    place of the f smallest, and its second term is less by ``2 (z_f - z_0)`` at most: its kappa is
    larger if ``f v > (f + 2) z_f``.  If m numbers are at most ``0.333 v``, that holds for all f
    below m.  From there on, unless it holds, z_f is at least ``v m / (m + 2)``: a window within tau
    has at most ``2 + (tau - 1) / z_f`` numbers then, as they are no less than z_f and sum to no
    more than ``tau - 1 + 2 z_f``, and that must be too few.  Sums are compared with a margin for
    what their order changes.
    """
    given, keys = work.numbers.keys, work.sorting.keys
    goal, margin = tau - _cap(_smallest(given, length)), _margin(length, total)
    nothing = np.int64(0)
    if total < goal - margin:
        return END, nothing, nothing, True
    if goal < margin:
        return END, nothing, nothing, False
    size, low, high, at_least, _ = _near_goal(
        length, total, total - goal, total - goal, False, work
    )
    kept = sum_below(work.numbers, length, low, work.sorting.given)
    last = np.int64(0)
    while last < size and kept + keys[last] <= goal:
        kept += keys[last]
        last += 1
    if last == size:
        return END, nothing, nothing, False
    least, left_out = keys[last], length - at_least + last
    few = _number_not_above(given, length, 0.333 * least)
    room = max(0.0, tau - 1.0) * (few + 2) * 1.001
    sure = goal - kept > margin and kept + least - goal > margin and least > 2000.0 * margin
    sure &= room < (left_out - 2.001) * few * least
    return high, size, size - last, sure


@caching.inline
def _is_sure_of(length, total, count, least, given):  # type: ignore[no-untyped-def]
    """Whether leaving out the smallest is best where `count` numbers are picked.

    As above: no window of that size begins behind `count` numbers, and as many are small.
    """
    few = _number_not_above(given, length, 0.333 * least)
    return few > count and least > 2000.0 * _margin(length, total)


@caching.part
def _sort_windows(length, work):  # type: ignore[no-untyped-def]
    """The row in ascending order, and its running sums."""
    sort(work.numbers.keys, length, work.sorting)
    work.sums[0] = 0.0
    for j in range(length):
        work.sums[j + 1] = work.sums[j] + work.sorting.keys[j]


@caching.part
def _longest_window(length, tau, work):  # type: ignore[no-untyped-def]
    """The size of the longest window within tau.

    As its beginning moves up, a value leaves the sum and the second term falls: the end never has
    to move back.
    """
    values, sums = work.sorting.keys, work.sums
    size, last = np.int64(0), np.int64(0)
    for first in range(length):
        cap = _cap(values[first])
        last = max(last, np.int64(first))
        while last < length and sums[last + 1] - sums[first] + cap <= tau:
            last += 1
        size = max(size, last - first)
    return size


@caching.part
def _best_window(length, size, work):  # type: ignore[no-untyped-def]
    """Where the best window of a size begins, and its kappa."""
    begin, least = np.int64(0), np.inf
    for first in range(length - size + 1 if size > 0 else 0):
        cap = _cap(work.sorting.keys[first])
        kappa = work.sums[first + size] - work.sums[first] + cap
        if kappa < least:
            begin, least = np.int64(first), kappa
    return begin, least


@caching.kernel
def _pick_fewest(start, stop, work, rows, limit, mask):  # type: ignore[no-untyped-def]
    numbers, sorting = work.numbers, work.sorting
    for row in range(start, stop):
        length, count, guess = rows.lengths[row], limit.counts[row], limit.guesses[row, 0]
        picked, within = mask[row], count < 0
        total = _read(rows.z[row], length, work)
        if not total < np.inf:
            pick_first(picked, length if within else count)
            continue
        clear(picked, length)
        if within:
            high, size, more, sure = _sort_for_fewest(length, total, limit.tau, work)
            if sure:
                mark_from(numbers.narrow, length, high, size, more, sorting, picked)
        else:
            guess = guess if guess > 0 else work.guesses[0]
            word = mark_largest(numbers, length, count, guess, False, sorting, picked)
            work.guesses[0] = word
            least = np.float64(words.floating(word)) * 0.999
            sure = count == 0 or count == length
            sure = sure or _is_sure_of(length, total, count, least, numbers.keys)
        if not sure:
            _sort_windows(length, work)
            size = _longest_window(length, limit.tau, work) if within else length - count
            begin, _ = _best_window(length, size, work)
            pick_first(picked, length)
            for k in range(begin, begin + size):
                picked[sorting.order[k]] = False


@caching.kernel
def _curves_of_fewest(start, stop, work, rows, low, high, found):  # type: ignore[no-untyped-def]
    """Most rows leave out the smallest: one after the other that are picked within `low`."""
    given, keys = work.numbers.keys, work.sorting.keys
    for row in range(start, stop):
        length, kappas = rows.lengths[row], found.kappas[row]
        found.counts[row] = length
        total = _read(rows.z[row], length, work)
        if not total < np.inf:
            continue
        cap = _cap(_smallest(given, length))
        work.guesses[0] = _mean_word(total, length)
        size, word, _, at_least, _ = _near_goal(
            length, total, total - (high - cap), total - (low - cap), False, work
        )
        kept = sum_below(work.numbers, length, word, work.sorting.given)
        last, number = np.int64(0), np.int64(0)
        while last < size and kept + cap + keys[last] <= low:
            kept += keys[last]
            last += 1
        count = at_least - last
        if last < size and _is_sure_of(length, total, count, keys[last], given):
            found.guesses[row, 0] = words.word(np.float32(keys[last]))
            while last < size and number < kappas.size and kept + cap + keys[last] <= high:
                kept += keys[last]
                kappas[number] = kept + cap
                last += 1
                number += 1
        else:
            _sort_windows(length, work)
            count = length - _longest_window(length, low, work)
            while number < min(count, kappas.size):
                _, kappa = _best_window(length, length - count + number + 1, work)
                if kappa > high:
                    break
                kappas[number] = kappa
                number += 1
        found.counts[row] = count


FEWEST: Final = Condition(_pick_fewest, _curves_of_fewest, (0.0, 2.0), False)
