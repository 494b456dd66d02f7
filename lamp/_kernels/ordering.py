"""Numbers of a row in order: all of them, or those between two words.

Numbers are not negative, so that they are ordered as their bits are.  Searches look at `narrow`,
the words of float32 numbers, of which a processor compares many at once; numbers in float64 are as
large as those are, or these are equal.

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
    "END",
    "Lengths",
    "Mask",
    "Numbers",
    "Sorting",
    "enclose",
    "gather",
    "least_of_largest",
    "mark_largest",
    "numbers_of",
    "quick_sum",
    "sort",
    "sort_members",
    "sorting",
    "mark_from",
    "sum_below",
    "sum_from",
    "with_some_more",
]

Mask = NDArray[np.bool_]
Lengths = NDArray[np.int64]

END: Final = np.uint32(2**31 - 1)  # above the words of all numbers, and of infinity

_DIGITS: Final = 4  # by which keys are sorted
_BINS: Final = 2**8
_FEW_MORE: Final = 4  # keys, however few are wanted
_FEW: Final = 64  # keys that take longer to be sorted by digits than by comparing all with all
_BLOCK: Final = 32  # words that are looked at together
_BITS: Final = np.uint32(1) << np.arange(32, dtype=np.uint32)
_FIRST_REACH: Final = np.uint32(2**18)  # of a search among words, beside a guess
_LAST_REACH: Final = np.uint32(2**28)  # that is extended, to four times as much
_HALVINGS: Final = 4  # of a search, after which it looks whether what is left is equal
_UNITS: Final = 2.0**30  # that a sum of numbers in fixed point has
_ROUNDINGS: Final = 256  # units that roundings to float32 may change a sum by: 3 * 2**-24 of it
_USUAL: Final = 1e28  # sums up to this, and down to its inverse, are formed in fixed point


class Numbers(NamedTuple):
    """Numbers of a row, their words in float32, and themselves in fixed point."""

    keys: NDArray[np.float64]
    narrow: NDArray[np.uint32]
    fixed: NDArray[np.uint32]


def numbers_of(columns: int) -> Numbers:
    return Numbers(np.empty(columns), np.empty(columns, np.uint32), np.empty(columns, np.uint32))


class Sorting(NamedTuple):
    """What numbers are sorted in: the sorted keys and their places, words twice, and counts.

    Also the places of those that are gathered, and room for numbers.
    """

    keys: NDArray[np.float64]
    order: NDArray[np.int64]
    words: NDArray[np.uint64]
    spare: NDArray[np.uint64]
    counts: NDArray[np.int64]
    members: NDArray[np.int64]
    given: NDArray[np.float64]


def sorting(columns: int) -> Sorting:
    return Sorting(
        np.empty(columns),
        np.empty(columns, np.int64),
        np.empty(columns, np.uint64),
        np.empty(columns, np.uint64),
        np.empty((_DIGITS, _BINS), np.int64),
        np.empty(columns + 1, np.int64),
        np.empty(columns),
    )


# --- sums -----------------------------------------------------------------------------------------


@caching.part
def quick_sum(keys, length):  # type: ignore[no-untyped-def]
    """A sum in any order: eight numbers are added at once."""
    a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = length - length % 8
    for j in range(0, whole, 8):
        a += keys[j]
        b += keys[j + 1]
        c += keys[j + 2]
        d += keys[j + 3]
        e += keys[j + 4]
        f += keys[j + 5]
        g += keys[j + 6]
        h += keys[j + 7]
    for j in range(whole, length):
        a += keys[j]
    return ((a + e) + (b + f)) + ((c + g) + (d + h))


@caching.inline
def sum_from(numbers, length, word, room):  # type: ignore[no-untyped-def]
    """The sum, in any order, of the numbers whose words are not below one."""
    keys, narrow = numbers.keys, numbers.narrow
    for j in range(length):
        room[j] = keys[j] if np.int32(narrow[j]) >= np.int32(word) else 0.0
    return quick_sum(room, length)


@caching.inline
def sum_below(numbers, length, word, room):  # type: ignore[no-untyped-def]
    """The sum, in any order, of the numbers whose words are below one."""
    keys, narrow = numbers.keys, numbers.narrow
    for j in range(length):
        room[j] = keys[j] if np.int32(narrow[j]) < np.int32(word) else 0.0
    return quick_sum(room, length)


# --- sorting --------------------------------------------------------------------------------------


@caching.kernel
def sort(keys, length, work):  # type: ignore[no-untyped-def]
    """Keys that are not negative in ascending order, and their places, of equal ones the first.

    The upper halves of their bits are sorted, with the places in the lower halves; the few keys
    that differ in their lower halves alone are put right by insertion.
    """
    for j in range(length):
        work.words[j] = (words.word(keys[j]) & np.uint64(0x7FFFFFFF00000000)) | np.uint64(j)
    if length <= _FEW:
        _sort_few(work.words, length, work.spare)
        sorted_ = work.spare
    else:
        sorted_ = _sort_many(work.words, length, work.spare, work.counts)
    for j in range(length):
        place = np.int64(sorted_[j] & np.uint64(0xFFFFFFFF))
        key, slot = keys[place], j
        while slot > 0 and work.keys[slot - 1] > key:
            work.keys[slot], work.order[slot] = work.keys[slot - 1], work.order[slot - 1]
            slot -= 1
        work.keys[slot], work.order[slot] = key, place


@caching.inline
def _sort_few(given, length, sorted_):  # type: ignore[no-untyped-def]
    """Put each word where so many are less: a processor compares several at once."""
    for j in range(length):
        less = np.int64(0)
        for k in range(length):
            less += np.int64(np.int64(given[k]) < np.int64(given[j]))
        sorted_[less] = given[j]


@caching.inline
def _sort_many(given, length, sorted_, counts):  # type: ignore[no-untyped-def]
    """Sort words digit by digit, between two arrays; the one where they end."""
    for digit in range(_DIGITS):
        for bin_ in range(_BINS):
            counts[digit, bin_] = 0
    for j in range(length):
        for digit in range(_DIGITS):
            counts[digit, _digit_of(given[j], digit)] += 1
    for digit in range(_DIGITS):
        if counts[digit, _digit_of(given[0], digit)] < length:
            place = np.int64(0)
            for bin_ in range(_BINS):
                count = counts[digit, bin_]
                counts[digit, bin_] = place
                place += count
            for j in range(length):
                bin_ = _digit_of(given[j], digit)
                sorted_[counts[digit, bin_]] = given[j]
                counts[digit, bin_] += 1
            given, sorted_ = sorted_, given
    return given


@caching.inline
def _digit_of(word, digit):  # type: ignore[no-untyped-def]
    return np.int64((word >> np.uint64(32 + 8 * digit)) & np.uint64(_BINS - 1))


@caching.part
def sort_members(keys, size, backward, work):  # type: ignore[no-untyped-def]
    """Numbers of gathered places in ascending order, and the places: of equal ones the first.

    If `backward` of equal ones the last, so that the first come first from the end.
    """
    members, given = work.members, work.given
    for k in range(size if backward else 0, size // 2, -1):
        members[k - 1], members[size - k] = members[size - k], members[k - 1]
    for k in range(size):
        given[k] = keys[members[k]]
    sort(given, size, work)
    for k in range(size):
        work.order[k] = members[work.order[k]]


# --- searching ------------------------------------------------------------------------------------


@caching.part
def gather(narrow, length, low, high, members):  # type: ignore[no-untyped-def]
    """The places of the words from `low` to below `high`; how many.

    A block of words is looked at together: each is a bit of another word, the first the lowest.
    """
    size, width = np.int64(0), words.subtract(high, low)
    for begin in range(0, length, _BLOCK):
        found = np.uint32(0)
        if begin + _BLOCK <= length:
            for j in range(_BLOCK):
                is_one = words.subtract(narrow[begin + j], low) < width
                found = words.bit_or(found, _BITS[j] if is_one else np.uint32(0))
        else:
            for j in range(length - begin):
                is_one = words.subtract(narrow[begin + j], low) < width
                found = words.bit_or(found, _BITS[j] if is_one else np.uint32(0))
        while found > 0:
            rest = words.bit_and(found, words.subtract(found, 1))
            members[size] = begin + 31 - words.leading_zeros(words.bit_xor(found, rest))
            size += 1
            found = rest
    return size


@caching.inline
def with_some_more(count):  # type: ignore[no-untyped-def]
    """How many keys are gathered in less time than it takes to tell which `count` are largest."""
    return count + count // 4 + _FEW_MORE


@caching.inline
def _next_word(low, high, reach):  # type: ignore[no-untyped-def]
    """Where a search goes on between two bounds: beside the only one that is known, or half way."""
    half = words.shift_right(words.subtract(high, low), 1)
    if low > 0 and high < END:
        return words.add(low, half), reach
    step = words.minimum(reach, half)
    middle = words.subtract(high, step) if low == 0 else words.add(low, step)
    return middle, words.shift_left(words.minimum(reach, _LAST_REACH), 2)


@caching.part
def least_of_largest(numbers, length, count, most, guess):  # type: ignore[no-untyped-def]
    """A word that `count` of the words or more are not below; if it can be, no more than `most`.

    It is found by bisection: a processor counts many at once.  The search begins near a `guess`,
    and looks from time to time whether all words between its bounds are equal.  Also how many words
    are not below the result, and how many are above if those are more than `most`.
    """
    low, high = np.uint32(0), END
    at_least, beyond = length, np.int64(0)  # how many are not below the two
    middle, reach, halvings = max(np.uint32(1), guess), _FIRST_REACH, np.int64(0)
    while words.subtract(high, low) > 1 and at_least > most:
        found = np.uint32(0)
        for j in range(length):
            found = words.add(found, np.uint32(np.int32(numbers[j]) >= np.int32(middle)))
        if np.int64(found) >= count:
            low, at_least = middle, np.int64(found)
        else:
            high, beyond = middle, np.int64(found)
        halvings += np.int64(low > 0 and high < END)
        if halvings == _HALVINGS:
            halvings, least = np.int64(0), high
            for j in range(length):
                least = words.minimum(least, numbers[j] if numbers[j] >= low else high)
            low = least
            middle = words.add(low, 1)
        else:
            middle, reach = _next_word(low, high, reach)
    return low, at_least, beyond


@caching.part
def enclose(numbers, length, total, short, enough, few, guess):  # type: ignore[no-untyped-def]
    """Words `low` and `high`: the numbers from `low` on sum to `enough`, from `high` on to `short`.

    That is, to no less than the one, and no more than the other.  Some `few` numbers may be beyond
    each of these bounds, or more where it cannot be told in fixed point, in which a processor adds
    many numbers at once.  `total` is the sum of all; the search begins near a `guess`.  Returns
    both words, each followed by the number of numbers from it on.
    """
    low, at_least = np.uint32(0), length
    high, beyond = END, np.int64(0)
    if not 1.0 / _USUAL < total < _USUAL:
        return low, at_least, high, beyond
    narrow, fixed = numbers.narrow, numbers.fixed
    scale, margin = np.float32(_UNITS / total), np.float64(length + _ROUNDINGS)
    for j in range(length):
        fixed[j] = np.uint32(np.int32(words.floating(narrow[j]) * scale))
    least = np.int64(min(max(np.ceil(enough / total * _UNITS + margin), 0.0), 2.0**32))
    most = np.int64(max(np.floor(short / total * _UNITS - margin), -1.0))
    upper, above, middle, reach = END, np.int64(0), max(np.uint32(1), guess), _FIRST_REACH
    while words.subtract(upper, low) > 1 and at_least - above > few:
        found, count = _sum_from(narrow, fixed, length, middle)
        if found >= least:
            low, at_least = middle, count
        else:
            upper, above = middle, count
            if found <= most:
                high, beyond = middle, count
        middle, reach = _next_word(low, upper, reach)
    while words.subtract(high, upper) > 1 and above - beyond > few:
        middle, reach = _next_word(upper, high, reach)
        found, count = _sum_from(narrow, fixed, length, middle)
        if found <= most:
            high, beyond = middle, count
        else:
            upper, above = middle, count
    return low, at_least, high, beyond


@caching.inline
def _sum_from(narrow, fixed, length, word):  # type: ignore[no-untyped-def]
    """The sum of the numbers from a word on, in fixed point, and how many there are."""
    found, count = np.uint32(0), np.uint32(0)
    for j in range(length):
        is_one = np.int32(narrow[j]) >= np.int32(word)
        found = words.add(found, fixed[j] if is_one else np.uint32(0))
        count = words.add(count, np.uint32(is_one))
    return np.int64(found), np.int64(count)


@caching.part
def mark_largest(numbers, length, count, guess, first, work, mask):  # type: ignore[no-untyped-def]
    """Mark the `count` largest numbers, of equal ones the `first` or the last.

    The search begins near a `guess`.  Returns the least of their words.
    """
    narrow, least = numbers.narrow, guess
    at_least, beyond = _numbers_from(narrow, length, guess)
    if not beyond < count <= at_least:
        least, at_least, beyond = least_of_largest(narrow, length, count, count, guess)
    if at_least == count:
        mark_from(narrow, length, least, 0, 0, work, mask)
    else:
        above = words.add(least, 1)
        size = gather(narrow, length, least, above, work.members)
        sort_members(numbers.keys, size, first, work)
        mark_from(narrow, length, above, size, count - beyond, work, mask)
    return least


@caching.inline
def mark_from(narrow, length, word, size, count, work, mask):  # type: ignore[no-untyped-def]
    """Mark the numbers from a word on, and the last `count` of those that are sorted."""
    for j in range(length):
        mask[j] = np.int32(narrow[j]) >= np.int32(word)
    for k in range(size - count, size):
        mask[work.order[k]] = True


@caching.inline
def _numbers_from(narrow, length, word):  # type: ignore[no-untyped-def]
    """How many words are at least and how many above another."""
    at_least, beyond = np.uint32(0), np.uint32(0)
    for j in range(length):
        at_least = words.add(at_least, np.uint32(np.int32(narrow[j]) >= np.int32(word)))
        beyond = words.add(beyond, np.uint32(np.int32(narrow[j]) > np.int32(word)))
    return np.int64(at_least), np.int64(beyond)
