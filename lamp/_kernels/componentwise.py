"""The rule that picks the fewest components under a componentwise condition.

``kappa(S) = sum_{j not in S} w_j z_j + max(0, max_{i not in S} w_i (1 - 2 z_i))``, with a cost
``w_j z_j`` and a cap ``w_i (1 - 2 z_i)``, at least 0, of each component.

The best choice of a number of components picks the t largest caps, for some t, and of the others
the largest costs.  As t grows by one, the next cap is picked.  If its cost was picked already,
nothing else changes; if it was not, the smallest cost that is picked is given back.  Once as many
of the largest caps and costs are sorted, a walk over all t takes a step for each component that is
picked.  The fewest components within tau are a number that is sought.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fpemu._kernels import caching, words
from lamp._kernels.conditions import Condition, clear, pick_first
from lamp._kernels.ordering import (
    END,
    gather,
    least_of_largest,
    quick_sum,
    sort_members,
    with_some_more,
)

__all__ = ["COMPONENTWISE"]

_INFINITE: Final = np.uint32(0x7F800000)  # the word of a float32 number
_ZERO: Final = np.uint32(0)
_LEFT_OUT: Final = np.int8(0)
_BY_COST: Final = np.int8(1)
_BY_CAP: Final = np.int8(2)


@caching.part
def _read(weights, z, costs, caps):  # type: ignore[no-untyped-def]
    """Costs and caps of a row; whether all are finite."""
    size = z.size
    keys, narrow = costs.keys[:size], costs.narrow[:size]
    cap_keys, narrow_caps = caps.keys[:size], caps.narrow[:size]
    largest = _ZERO
    for j in range(size):
        weight, share = abs(np.float64(weights[j])), np.float64(z[j]) + 0.0  # a zero has no sign
        cap = weight * (1.0 - 2.0 * share)
        cost = weight * share
        nothing = 0.0 * share
        cap_keys[j] = cap if cap > 0.0 else 0.0
        keys[j] = cost if share > 0.0 else nothing
        narrow_caps[j] = words.word(np.float32(cap_keys[j]))
        narrow[j] = words.word(np.float32(keys[j]))
        largest = words.maximum(largest, words.maximum(narrow_caps[j], narrow[j]))
    return largest < _INFINITE or quick_sum(cap_keys, size) + quick_sum(keys, size) < np.inf


# --- sorted lists ---------------------------------------------------------------------------------


@caching.part
def _sort_caps(length, count, most, guess, work):  # type: ignore[no-untyped-def]
    """The `count` largest caps, and maybe a few more, in ascending order; how many.

    Those above `most`, which are among them, are not sorted.
    """
    narrow, sorting = work.caps.narrow, work.sorting
    least, _, _ = least_of_largest(narrow, length, count, with_some_more(count), guess)
    work.guesses[1] = least
    above = min(words.add(words.word(np.float32(most)), 1), END)
    size = gather(narrow, length, least, above, sorting.members)
    sort_members(work.caps.keys, size, False, sorting)
    while size > 0 and sorting.keys[size - 1] > most:
        size -= 1
    for k in range(size):
        work.cap_sizes[k], work.cap_places[k] = sorting.keys[k], sorting.order[k]
    return size


@caching.part
def _sort_costs(costs, length, low, work):  # type: ignore[no-untyped-def]
    """The costs from a word on in ascending order; how many."""
    sorting = work.sorting
    size = gather(costs.narrow, length, low, END, sorting.members)
    sort_members(costs.keys, size, True, sorting)
    for k in range(size):
        work.costs[k], work.cost_places[k] = sorting.keys[k], sorting.order[k]
    return size


@caching.part
def _walk(number, caps, count, most, length, work):  # type: ignore[no-untyped-def]
    """The best choice of `count` components: its kappa, and how many are picked for their caps.

    So many costs and caps are sorted; no more than `most` are picked for their caps.  The states
    say what is picked where the walk ends.  Sums do not depend on how many are sorted.
    """
    costs, places, state = work.costs, work.cost_places, work.state
    for j in range(length):
        state[j] = _LEFT_OUT
    first, kept = number - count, work.sums[count]
    for k in range(first, number):
        state[places[k]] = _BY_COST
    least, steps = kept + work.cap_sizes[caps - 1], np.int64(0)
    for step in range(1, min(most, count, caps - 1) + 1):
        place = work.cap_places[caps - step]
        if state[place] == _LEFT_OUT:
            kept -= work.numbers.keys[place]
            while state[places[first]] != _BY_COST:
                first += 1
            kept += costs[first]
            state[places[first]] = _LEFT_OUT
        state[place] = _BY_CAP
        kappa = kept + work.cap_sizes[caps - 1 - step]
        if kappa <= least:
            least, steps = kappa, np.int64(step)
    return least, steps


# --- a row ----------------------------------------------------------------------------------------


@caching.part
def _leave_to_caps(length, tau, work):  # type: ignore[no-untyped-def]
    """The costs without those that are picked for their cap alone, as it is above tau.

    How many are left, and the largest of their caps.
    """
    costs, open_, caps = work.numbers, work.open, work.caps
    left, largest = np.int64(0), words.word(0.0)
    for j in range(length):
        is_left = caps.keys[j] <= tau
        left += np.int64(is_left)
        largest = words.maximum(largest, words.word(caps.keys[j] if is_left else 0.0))
        open_.keys[j] = costs.keys[j] if is_left else 0.0
        open_.narrow[j] = costs.narrow[j] if is_left else _ZERO
    return left, words.floating(largest)


@caching.part
def _begin(costs, length, forced, left, count, tau, guesses, work):  # type: ignore[no-untyped-def]
    """Sort what walks need that pick up to a number of components besides those above tau.

    These are `forced` by their caps, and so many are `left`.  What all others cost where the k
    largest costs are picked is ``work.sums[k]``.  Returns the number, maybe more than `count`, and
    how many costs and caps are sorted.
    """
    low, _, _ = least_of_largest(costs.narrow, length, count, with_some_more(count), guesses[0])
    work.guesses[0] = low
    number = _sort_costs(costs, length, low, work)
    most = min(number, left)
    work.sums[0] = quick_sum(costs.keys, length)
    for k in range(number):
        work.sums[k + 1] = work.sums[k] - work.costs[number - 1 - k]
    caps = _sort_caps(length, min(forced + most + 1, length), tau, guesses[1], work)
    return most, number, caps


@caching.part
def _fewest(length, forced, left, low, tau, guess, work):  # type: ignore[no-untyped-def]
    """The fewest components whose kappa is at most `low`, besides those with a cap above tau.

    Also how many costs and caps are sorted.  The search begins near a `guess`.
    """
    wanted = min(guess + 1, left)
    most, number, caps = _begin(work.open, length, forced, left, wanted, tau, work.guesses, work)
    few, many = np.int64(-1), left  # that do not do, and that do
    middle, reach = min(guess, left - 1), np.int64(1)
    while many - few > 1:
        if middle > most:
            most, number, caps = _begin(
                work.open, length, forced, left, middle, tau, work.guesses, work
            )
        kappa, _ = _walk(number, caps, middle, middle, length, work)
        if kappa <= low:
            many = middle
        else:
            few = middle
        if few < 0 or many == left:
            middle = max(many - reach, 0) if few < 0 else min(few + reach, left - 1)
            reach *= 2
        else:
            middle = (few + many) // 2
    if many > most:
        most, number, caps = _begin(work.open, length, forced, left, many, tau, work.guesses, work)
    return many, number, caps


@caching.inline
def _mark(number, caps, count, length, tau, work, mask):  # type: ignore[no-untyped-def]
    """Mark what the best choice picks, and the components with a cap above tau."""
    _, steps = _walk(number, caps, count, count, length, work)
    _walk(number, caps, count, steps, length, work)
    for j in range(length):
        mask[j] = work.caps.keys[j] > tau or work.state[j] != _LEFT_OUT


@caching.kernel
def _pick(start, stop, work, rows, limit, mask):  # type: ignore[no-untyped-def]
    guess, nothing = np.int64(0), np.int64(0)
    for row in range(start, stop):
        length, count, picked = rows.lengths[row], limit.counts[row], mask[row]
        z, weights = rows.z[row, :length], rows.weights[row, :length]
        is_usual = _read(weights, z, work.numbers, work.caps)
        if not is_usual or count == 0 or count >= length:
            pick_first(picked, length if count < 0 else count)
            continue
        clear(picked, length)
        tau, left = np.inf, length
        if count < 0:
            tau = limit.tau
            left, cap = _leave_to_caps(length, tau, work)
            if quick_sum(work.open.keys, length) <= tau - cap:
                for j in range(length):
                    picked[j] = work.caps.keys[j] > tau
                continue
            count, number, caps = _fewest(length, length - left, left, tau, tau, guess, work)
            guess = count
        else:
            guesses = limit.guesses[row] if limit.guesses[row, 1] > 0 else work.guesses
            _, number, caps = _begin(
                work.numbers, length, nothing, length, count, tau, guesses, work
            )
        if count == left:
            pick_first(picked, length)
        else:
            _mark(number, caps, count, length, tau, work, picked)


@caching.kernel
def _curves(start, stop, work, rows, low, high, found):  # type: ignore[no-untyped-def]
    guess = np.int64(0)
    for row in range(start, stop):
        length, kappas = rows.lengths[row], found.kappas[row]
        z, weights = rows.z[row, :length], rows.weights[row, :length]
        found.counts[row] = length
        if not _read(weights, z, work.numbers, work.caps):
            continue
        left, cap = _leave_to_caps(length, high, work)
        found.counts[row] = length - left
        if quick_sum(work.open.keys, length) <= low - cap:
            continue
        count, number, caps = _fewest(length, length - left, left, low, high, guess, work)
        guess = count
        found.counts[row] += count
        for k in range(2):
            found.guesses[row, k] = work.guesses[k]
        for k in range(min(count, kappas.size)):
            fewer = count - 1 - k
            kappa, _ = _walk(number, caps, fewer, fewer, length, work)
            if kappa > high:
                break
            kappas[k] = kappa


COMPONENTWISE: Final = Condition(_pick, _curves, (0.0, 2.0), True)
