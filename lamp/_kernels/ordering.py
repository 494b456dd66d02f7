"""Orders of a row: its numbers sorted, its largest ones gathered, and heaps.

Loops fill slices: an assignment to a slice would compile Numba's error messages, too.  Counters
begin at ``np.int64(0)``: the type of a literal 0 is one of its own, for which the functions that
take it would be compiled again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, words

__all__ = [
    "BINS",
    "LAST_BIN",
    "Sorting",
    "before",
    "bin_of",
    "fill_bins",
    "gather",
    "gather_largest",
    "heapify",
    "least_of_largest",
    "pop_largest",
    "quick_sum",
    "sift_up",
    "sift_down",
    "sort",
    "sorting",
    "with_some_more",
]

_DIGITS: Final = 4  # by which keys are sorted
BINS: Final = 2**8
_FEW_MORE: Final = 4  # keys, however few are wanted
_FEW: Final = 48  # keys that take longer to be sorted by digits than by insertion
_BIN_SHIFT: Final = 49  # of a word: eight bins between two powers of 2
LAST_BIN: Final = BINS - 1
_FIRST_REACH: Final = np.uint32(2**18)  # of a search among words, beside a guess
_LAST_REACH: Final = np.uint32(2**28)  # that is extended, to four times as much
_HALVINGS: Final = 4  # of a search, after which it looks whether what is left is equal


class Sorting(NamedTuple):
    """What a row is sorted in: the sorted keys and their places, words twice, and counts.

    Of parts of a row that are sorted, the keys and their places in the row; of bins, how many keys
    they have and their sums; and guesses of the least of the largest caps and costs.
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
    guesses: NDArray[np.uint32]


def sorting(columns: int) -> Sorting:
    return Sorting(
        np.empty(columns),
        np.empty(columns, np.int64),
        np.empty(columns, np.uint64),
        np.empty(columns, np.uint64),
        np.empty((_DIGITS, BINS), np.int64),
        np.empty(columns + 1),
        np.empty(columns + 1, np.int64),
        np.empty((4, BINS), np.int64),
        np.empty(BINS),
        np.zeros(2, np.uint32),
    )


@caching.kernel
def sort(keys, length, work):  # type: ignore[no-untyped-def]
    """Keys that are not negative in ascending order, and their places, of equal ones the first.

    The upper halves of their bits are sorted digit by digit, with the places in the lower halves;
    the few keys that differ in their lower halves alone are put right by insertion.
    """
    counts, given, sorted_ = work.counts, work.words, work.spare
    digits = _DIGITS if length > _FEW else 0
    for digit in range(digits):
        for bin_ in range(BINS):
            counts[digit, bin_] = 0
    for j in range(length):
        word = words.word(keys[j]) & np.uint64(0x7FFFFFFF00000000)
        given[j] = word | np.uint64(j)
        for digit in range(digits):
            counts[digit, _digit_of(word, digit)] += 1
    for digit in range(digits):
        if counts[digit, _digit_of(given[0], digit)] < length:
            place = np.int64(0)
            for bin_ in range(BINS):
                count = counts[digit, bin_]
                counts[digit, bin_] = place
                place += count
            for j in range(length):
                bin_ = _digit_of(given[j], digit)
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
def _digit_of(word, digit):  # type: ignore[no-untyped-def]
    return np.int64((word >> np.uint64(32 + 8 * digit)) & np.uint64(BINS - 1))


@caching.part
def quick_sum(keys, length):  # type: ignore[no-untyped-def]
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
def fill_bins(keys, length, work):  # type: ignore[no-untyped-def]
    """Count keys that are not negative, by bins; the height of the largest, which is in the first.

    Keys side by side, which may be in one bin, are counted apart: no addition waits for another.
    """
    numbers = work.numbers
    top = np.int64(0)
    for j in range(length):
        top = max(top, _height(keys[j]))
    for bin_ in range(BINS):
        for part in range(4):
            numbers[part, bin_] = 0
    for j in range(length):
        numbers[j & 3, bin_of(keys[j], top)] += 1
    for bin_ in range(BINS):
        numbers[0, bin_] += numbers[1, bin_] + numbers[2, bin_] + numbers[3, bin_]
    return top


@caching.inline
def _height(key):  # type: ignore[no-untyped-def]
    return np.int64(words.word(key) >> np.uint64(_BIN_SHIFT))


@caching.inline
def bin_of(key, top):  # type: ignore[no-untyped-def]
    return min(top - _height(key), LAST_BIN)


@caching.part
def gather(keys, length, top, first, last, work):  # type: ignore[no-untyped-def]
    """The keys of bins `first` to `last`, and their places, one behind the other; how many."""
    size = np.int64(0)
    for j in range(length):
        bin_ = bin_of(keys[j], top)
        work.gathered[size], work.members[size] = keys[j], j
        size += np.int64((bin_ >= first) & (bin_ <= last))
    return size


@caching.inline
def with_some_more(count):  # type: ignore[no-untyped-def]
    """How many keys are gathered in less time than it takes to tell which `count` are largest."""
    return count + count // 4 + _FEW_MORE


@caching.part
def gather_largest(keys, narrow, length, count, guess, work):  # type: ignore[no-untyped-def]
    """The `count` largest keys, and maybe a few more, and their places; how many.

    Keys are as large as their words in `narrow` are, or these are equal.  The least of those words
    is the `guess` for the next row.
    """
    least, _, _ = least_of_largest(narrow, length, count, with_some_more(count), guess[0])
    guess[0] = least
    size = np.int64(0)
    for j in range(length):
        work.members[size] = j
        size += np.int64(narrow[j] >= least)
    for k in range(size):
        work.gathered[k] = keys[work.members[k]]
    return size


@caching.part
def least_of_largest(numbers, length, count, most, guess):  # type: ignore[no-untyped-def]
    """A word that `count` of the words or more are not below; if it can be, no more than `most`.

    It is found by bisection: a processor counts many at once.  The search begins near a `guess`,
    and looks from time to time whether all words between its bounds are equal.  Also how many words
    are not below the result, and how many are above if those are more than `most`.
    """
    low, high = np.uint32(0), np.uint32(2**31)
    at_least, beyond = length, np.int64(0)  # how many are not below the two
    middle, reach, halvings = max(np.uint32(1), guess), _FIRST_REACH, np.int64(0)
    while words.subtract(high, low) > 1 and at_least > most:
        found = np.uint32(0)
        for j in range(length):
            found = words.add(found, np.uint32(numbers[j] >= middle))
        if np.int64(found) >= count:
            low, at_least = middle, np.int64(found)
        else:
            high, beyond = middle, np.int64(found)
        room = words.subtract(high, low)
        if low == 0 or high == 2**31:  # the other bound is not known yet
            step = min(reach, words.shift_right(room, 1))
            middle = words.subtract(high, step) if low == 0 else words.add(low, step)
            reach = words.shift_left(min(reach, _LAST_REACH), 2)
            continue
        halvings += 1
        if halvings % _HALVINGS == 0:
            least = high
            for j in range(length):
                least = words.minimum(least, numbers[j] if numbers[j] >= low else high)
            low = least
            middle = words.add(low, 1)
        else:
            middle = words.add(low, words.shift_right(room, 1))
    return low, at_least, beyond


# --- heaps ----------------------------------------------------------------------------------------
# Larger keys come first, of equal ones the smaller place.


@caching.inline
def heapify(keys, places, size):  # type: ignore[no-untyped-def]
    for root in range(size // 2 - 1, -1, -1):
        sift_down(keys, places, root, size)


@caching.inline
def pop_largest(keys, places, size):  # type: ignore[no-untyped-def]
    """Remove the first element; the size that is left."""
    keys[0], places[0] = keys[size - 1], places[size - 1]
    sift_down(keys, places, np.int64(0), size - 1)
    return size - 1


@caching.part
def sift_down(keys, places, root, size):  # type: ignore[no-untyped-def]
    """Restore the order below a root."""
    key, place = keys[root], places[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        right = child + 1
        if right < size and before(keys[right], places[right], keys[child], places[child]):
            child = right
        if not before(keys[child], places[child], key, place):
            break
        keys[root], places[root] = keys[child], places[child]
        root = child
    keys[root], places[root] = key, place


@caching.part
def sift_up(keys, places, leaf):  # type: ignore[no-untyped-def]
    """Restore the order above a new leaf."""
    key, place = keys[leaf], places[leaf]
    while leaf > 0:
        parent = (leaf - 1) // 2
        if not before(key, place, keys[parent], places[parent]):
            break
        keys[leaf], places[leaf] = keys[parent], places[parent]
        leaf = parent
    keys[leaf], places[leaf] = key, place


@caching.inline
def before(key, place, other_key, other_place):  # type: ignore[no-untyped-def]
    return key > other_key or (key == other_key and place < other_place)
