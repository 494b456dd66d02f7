"""Rounding of whole arrays, see :mod:`fpemu._kernels.rounding`.

Arrays are rounded by blocks that stay in the first-level cache: in floating-point arithmetic, and
once more by exact integer arithmetic where a block holds a number that the former does not serve.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import numpy as np

from fpemu._kernels import caching, launching, random_bits, words
from fpemu._kernels.caching import inline
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.random_bits import wide_bits
from fpemu._kernels.rounding import (
    DETERMINISTIC,
    DIRECTED,
    EQUAL,
    LAYOUTS,
    MODES,
    STOCHASTIC,
    TIES,
    TO_ODD,
    Carrier,
    Target,
    is_plain,
    kind_of,
    nearest_increment,
    round_number,
    round_word,
    round_word_at,
    signed_result,
    target_of,
    unused_bits,
    word_of,
    zero_of,
)
from fpemu._kernels.targets import (
    row_reader,
    shortcut_at,
    shortcuts_of,
    table_of,
    target_at,
    targets_of,
)

__all__ = ["round_flat"]

_COST: Final = 0.7  # nanoseconds of an element
_STOCHASTIC_COST: Final = 2.0  # the same with random bits
_FLOAT32: Final = LAYOUTS[np.dtype(np.float32)]
_SIGN, _FIELD = (_FLOAT32.dtype(x).view(_FLOAT32.word) for x in (-0.0, np.inf))
_RECIPROCAL: Final = np.uint32(254 << 23)  # less the word of a power of two: that of its reciprocal
_HALF_WORD: Final = np.float32(2.0**31)
_BLOCK: Final = 2048  # elements that stay in the first-level cache while they are read twice


@functools.cache
def _array_kernel(kind: int, in_place: bool) -> Callable[..., None]:
    """The kernel of a kind, for a result that is its source if `in_place`."""

    @caching.kernel
    def round_range(start, stop, x, out, targets, shortcuts):  # type: ignore[no-untyped-def]
        target, shortcut = target_at(targets, 0), shortcut_at(shortcuts, 0)
        spare = np.empty(_BLOCK, x.dtype)
        for first in range(start, stop, _BLOCK):
            source = x[first : min(first + _BLOCK, stop)]
            result = out[first : min(first + _BLOCK, stop)]
            if in_place:  # the exact kernel may need what the quick one overwrites
                spare[: source.size] = source
                source = spare[: source.size]
            top = words.subtract(shortcut.limit, shortcut.limit)
            for i in range(source.size):
                bits = words.word(source[i])
                top = words.maximum(top, words.bit_xor(bits, words.bit_and(bits, shortcut.sign)))
                result[i] = round_number(source[i], shortcut, kind)
            if top >= shortcut.limit:
                for i in range(source.size):
                    result[i] = words.floating(round_word(words.word(source[i]), target, kind))

    return cast(Callable[..., None], round_range)


@inline
def _below_reach(bits: Any, target: Target) -> Any:
    """Whether a number is so small that more bits are dropped than a word has, and not zero."""
    magnitude = words.bit_and(bits, words.subtract(target.sign, 1))
    field = words.maximum(words.shift_right(magnitude, target.field_shift), 1)
    return magnitude != 0 and target.quantum_field > words.add(field, target.most_dropped)


@inline
def _taken_apart(bits: Any, target: Target) -> Any:
    """The significand of such a number, and how many bits are dropped from it."""
    magnitude = words.bit_and(bits, words.subtract(target.sign, 1))
    field = words.maximum(words.shift_right(magnitude, target.field_shift), 1)
    base = words.shift_left(words.subtract(field, 1), target.field_shift)
    return words.subtract(magnitude, base), words.subtract(target.quantum_field, field)


@inline
def _tiny_fraction_goes_up(bits: Any, target: Target, random: Any, unused: Any) -> Any:
    """Whether such a number goes up when its fraction is truncated to the random bits.

    `random` has its ``unused`` low bits clear; the others are an integer below ``2**r``, as is the
    truncated fraction.  The sum of the two carries with the fraction's probability.
    """
    significand, dropped = _taken_apart(bits, target)
    past = words.minimum(
        words.subtract(words.add(dropped, unused), words.add(target.most_dropped, 1)),
        target.most_dropped,
    )
    if target.fraction_bits <= target.most_dropped:
        significand = words.add(significand, nearest_increment(significand, past, target))
    fraction = words.shift_right(significand, past)
    nothing = words.subtract(fraction, fraction)
    greatest = words.shift_right(words.subtract(nothing, 1), unused)
    drawn = words.shift_right(words.bit_or(random, target.forced), unused)
    return drawn > words.subtract(greatest, fraction)


@inline
def _tiny_goes_up(bits: Any, target: Target, index: int, key: Any) -> Any:
    """Whether such a number x is rounded up to the quantum q, with probability exactly x / q.

    x / q is an integer t over ``2**d``.  A random integer of d bits is below t if its highest bits
    are zero, all but as many as a significand has, and the rest is below t.
    """
    significand, dropped = _taken_apart(bits, target)
    low = np.int64(target.field_shift) + 1
    high = np.int64(dropped) - low
    number = 0
    while high > 0:
        count = high if high < 32 else np.int64(32)
        if (
            words.shift_right(random_bits.further_word(index, number, key), np.uint32(32 - count))
            != 0
        ):
            return False
        high -= count
        number += 1
    rest = np.uint64(random_bits.further_word(index, number, key)) << np.uint64(32)
    rest |= np.uint64(random_bits.further_word(index, number + 1, key))
    return (rest >> np.uint64(64 - low)) < np.uint64(significand)


class _Sure(NamedTuple):
    """The parameters of stochastic rounding where nothing is special, in words of the carrier.

    Numbers of a block all have to be zeros or lie from `normal` or `reach` up to the largest.
    """

    beyond: Any  # one more than the word of the largest number; 0 where this does not apply
    normal: Any  # the smallest normal number: from there on as many bits are dropped everywhere
    reach: Any  # the smallest number of which no bits are dropped that no random bit meets
    used: Any  # the random bits that count
    forced: Any  # those that are set
    unused: Any  # by how much they are shifted to meet the dropped bits of a normal number
    tail: Any  # those bits
    quantum_shift: Any  # from the exponent field of a number to that of its quantum
    zero: Any  # see `fpemu._kernels.rounding.Shortcut`


@functools.lru_cache(maxsize=4096)
@launching.default_environment()
def _sures_of(format: FormatFacts, rounding: RoundingFacts, dtype: np.dtype[Any]) -> Any:
    """What the quick kernels of sr and sr_b take, in a row; they apply to no other mode."""
    layout = LAYOUTS[dtype]
    target, mode = target_of(format, rounding, dtype), MODES[rounding.mode]
    width = layout.dtype(0).itemsize * 8
    dropped = layout.precision - format.precision
    applies = (
        is_plain(format, target)
        and not (mode.equal or mode.nearest_fraction)
        and format.emin >= 1 - layout.bias
        and 0 < dropped < layout.precision
    )
    every = 2**width - 1
    # Further down the reciprocal of the quantum, or the quantum itself, is no normal number.
    scaled = 1 - layout.bias <= format.quantum_exponent - 8 and format.emax < layout.bias
    reach = word_of(float(np.ldexp(1.0, format.quantum_exponent - 8)), dtype)
    fields = (
        int(target.largest) + 1 if applies else 0,
        word_of(format.smallest_normal, dtype),
        reach if scaled else every,
        every - 2 ** int(unused_bits(rounding, width)) + 1,
        target.forced,
        width - dropped,
        2**dropped - 1,
        (format.precision - 1) << (layout.precision - 1),
    )
    return table_of((*map(layout.word, fields), zero_of(format, dtype)), dtype=dtype)


_sure_at: Final = row_reader(_Sure, "zero")


@inline
def _counted(random: Any, sure: _Sure) -> Any:
    """The random bits that count, with those that are set."""
    return words.bit_or(words.bit_and(random, sure.used), sure.forced)


@inline
def _carried(bits: Any, random: Any, sure: _Sure) -> Any:
    """A zero or a normal number, rounded: random bits that carry into those that are kept."""
    raised = words.add(bits, words.shift_right(_counted(random, sure), sure.unused))
    rounded = words.bit_xor(raised, words.bit_and(raised, sure.tail))
    return words.floating(rounded) + sure.zero


@inline
def _drawn(number: Any, random: Any, sure: _Sure) -> Any:
    """A float32 number of any size, rounded: by a fraction f of its quantum, so that f is exact.

    It goes up if the random bits, as an integer, and ``2**32 f`` have a sum of ``2**32`` or more.
    As ``2**32 f`` is even, halves of both tell that, which conversions to signed integers hold.
    """
    bits = words.word(number)
    sign = words.bit_and(bits, _SIGN)
    magnitude = words.bit_xor(bits, sign)
    field = words.maximum(words.bit_and(magnitude, _FIELD), sure.normal)
    quantum = words.subtract(field, sure.quantum_shift)
    scaled = words.floating(magnitude) * words.floating(words.subtract(_RECIPROCAL, quantum))
    below = words.truncate(scaled)
    share = np.uint32(np.int32((scaled - below) * _HALF_WORD))
    half = words.shift_right(_counted(random, sure), 1)
    carry = words.shift_right(words.add(half, share), 31)
    multiple = below + np.float32(np.int32(carry))
    rounded = words.word(multiple * words.floating(quantum))
    return words.floating(words.bit_or(rounded, sign)) + sure.zero


@functools.cache
def _stochastic_kernel(kind: int, wide: bool) -> Callable[..., None]:
    """The kernel of a stochastic mode, for float64 if `wide`: its ranges are blocks of elements."""
    per_block = random_bits.BLOCK_WORDS // 2 if wide else random_bits.BLOCK_WORDS

    @caching.kernel
    def round_blocks(start, stop, x, out, targets, sures, key, unused, exact):  # type: ignore[no-untyped-def]
        target, sure = target_at(targets, 0), _sure_at(sures, 0)
        random = np.empty(random_bits.BLOCK_WORDS, np.uint32)
        for block in range(start, stop):
            random_bits.fill_block(block, key, random)
            source = x[block * per_block : min((block + 1) * per_block, x.size)]
            result = out[block * per_block : min((block + 1) * per_block, x.size)]
            if kind == STOCHASTIC and sure.beyond != 0:
                top = words.subtract(target.one, target.one)
                least = words.subtract(top, target.one)  # of the numbers less one: zeros come last
                for i in range(source.size):
                    magnitude = words.bit_and(
                        words.word(source[i]), words.subtract(target.sign, target.one)
                    )
                    top = words.maximum(top, magnitude)
                    least = words.minimum(least, words.subtract(magnitude, target.one))
                least = words.add(least, target.one)
                if top < sure.beyond and (least >= sure.normal or top == 0):
                    for i in range(source.size):
                        bits = wide_bits(random, i, per_block) if wide else random[i]
                        result[i] = _carried(words.word(source[i]), bits, sure)
                    continue
                if not wide and top < sure.beyond and least >= sure.reach:
                    for i in range(source.size):
                        result[i] = _drawn(source[i], random[i], sure)
                    continue
            tiny = 0
            for i in range(source.size):
                tiny |= _below_reach(words.word(source[i]), target)
            for i in range(source.size):
                bits = wide_bits(random, i, per_block) if wide else random[i]
                bits = words.shift_left(words.shift_right(bits, unused), unused)
                number = words.word(source[i])
                result[i] = words.floating(round_word_at(number, target, kind, bits))
            if tiny and kind == STOCHASTIC:
                for i in range(source.size):
                    number = words.word(source[i])
                    if _below_reach(number, target):
                        if exact:
                            up = _tiny_goes_up(number, target, block * per_block + i, key)
                        else:
                            bits = wide_bits(random, i, per_block) if wide else random[i]
                            up = _tiny_fraction_goes_up(number, target, bits, unused)
                        up |= target.up_above == 0  # there is no zero to round to
                        magnitude = target.quantum if up else words.bit_xor(number, number)
                        sign = words.bit_and(number, target.sign)
                        result[i] = words.floating(signed_result(magnitude, sign, target))

    return cast(Callable[..., None], round_blocks)


def _round_stochastically(
    source: Carrier, result: Carrier, format: FormatFacts, rounding: RoundingFacts
) -> None:
    """Round flat arrays of the same type; they may be the same array."""
    dtype = source.dtype
    width = dtype.itemsize * 8
    exact = rounding.random_bits is None
    per_block = random_bits.BLOCK_WORDS * 32 // width
    kind = EQUAL if MODES[rounding.mode].equal else STOCHASTIC
    launching.run(
        _stochastic_kernel(kind, dtype == np.float64),
        -(-source.size // per_block),
        *launching.reading(source.copy() if np.shares_memory(source, result) else source),
        result,
        targets_of((format, rounding), dtype=dtype),
        _sures_of(format, rounding, dtype),
        random_bits.key_of(rounding.seed),
        LAYOUTS[dtype].word(unused_bits(rounding, width)),
        exact,
        cost=_STOCHASTIC_COST * per_block,
    )


def _array_kind(rounding: RoundingFacts) -> int:
    """The kind of the kernel of whole arrays."""
    mode, kind = MODES[rounding.mode], kind_of(rounding)
    if kind != DETERMINISTIC:
        return kind
    return TIES if mode.nearest else TO_ODD if mode.to_odd else DIRECTED


def round_flat(
    source: Carrier, result: Carrier, format: FormatFacts, rounding: RoundingFacts
) -> None:
    """Round a flat array into another of its type, or into itself."""
    launching.require_shapes((source, (source.size,)), (result, (source.size,)))
    if MODES[rounding.mode].stochastic:
        _round_stochastically(source, result, format, rounding)
        return
    launching.run(
        _array_kernel(_array_kind(rounding), np.shares_memory(source, result)),
        source.size,
        *launching.reading(source),
        result,
        targets_of((format, rounding), dtype=source.dtype),
        shortcuts_of((format, rounding), dtype=source.dtype),
        cost=_COST,
    )
