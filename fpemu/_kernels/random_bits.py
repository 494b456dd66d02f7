"""Random bits as a function of a key and a counter: Philox4x32-7.

No state passes from one draw to the next, so that the bits of an element depend on its index alone,
not on threads or on what was drawn before.

References
----------
J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

import numpy as np

from fpemu._kernels import words
from fpemu._kernels.caching import inline, kernel

__all__ = [
    "BLOCK_WORDS",
    "MULTIPLIER_A",
    "MULTIPLIER_C",
    "draw",
    "element_word",
    "fill_block",
    "further_word",
    "key_of",
    "key_of_round",
    "mixed",
    "step_bits",
    "times",
    "wide_bits",
]

BLOCK_WORDS: Final = 2048
"""Words in a block of random bits."""

_ROUNDS: Final = 7  # the least that pass every test of the paper
_PAIRS: Final = BLOCK_WORDS // 8  # of draws
MULTIPLIER_A: Final = np.uint32(0xD2511F53)
"""What the first word of a counter is multiplied by in every round."""

MULTIPLIER_C: Final = np.uint32(0xCD9E8D57)
"""The same of the third word."""

_WEYL_FIRST: Final = np.uint32(0x9E3779B9)
_WEYL_SECOND: Final = np.uint32(0xBB67AE85)


def key_of(seed: int | None) -> tuple[np.uint32, np.uint32]:
    """The key of a seed (taken modulo 2**64); fresh entropy for None."""
    number = secrets.randbits(64) if seed is None else seed % 2**64
    return np.uint32(number & 0xFFFFFFFF), np.uint32(number >> 32)


@inline
def key_of_round(first: Any, second: Any, number: int) -> Any:
    """The key of a round of the generator, from 0, as 64-bit words."""
    count = np.uint64(number)
    first = words.add(np.uint64(first), words.multiply(count, np.uint64(_WEYL_FIRST)))
    second = words.add(np.uint64(second), words.multiply(count, np.uint64(_WEYL_SECOND)))
    return words.bit_and(first, 2**32 - 1), words.bit_and(second, 2**32 - 1)


@inline
def draw(a: Any, b: Any, c: Any, d: Any, first: Any, second: Any) -> Any:
    """Four words of 32 random bits for a counter of four words and a key of two."""
    for _ in range(_ROUNDS):
        high_a = words.multiply_high(MULTIPLIER_A, a)
        low_a = words.multiply(MULTIPLIER_A, a)
        high_c = words.multiply_high(MULTIPLIER_C, c)
        low_c = words.multiply(MULTIPLIER_C, c)
        a = words.bit_xor(words.bit_xor(high_c, b), first)
        b = low_c
        c = words.bit_xor(words.bit_xor(high_a, d), second)
        d = low_a
        first = words.add(first, _WEYL_FIRST)
        second = words.add(second, _WEYL_SECOND)
    return a, b, c, d


@inline
def times(multiplier: Any, word: Any) -> Any:
    """The 64 bits of the product of a multiplier of 32 bits with the low half of a word."""
    return words.multiply(words.bit_and(word, 2**32 - 1), np.uint64(multiplier))


@inline
def mixed(product: Any, other: Any, key: Any) -> Any:
    """The high half of a product, with a word and a key in it; what is above 32 bits is garbage."""
    return words.bit_xor(words.bit_xor(words.shift_right(product, 32), other), key)


@inline
def _draw_in_halves(a: Any, b: Any, first: Any, second: Any) -> Any:
    """`draw` for a counter of two words, in the low halves of 64-bit words, above which is garbage.

    So the products of vectors need not be put together from both of their halves.
    """
    c = d = words.subtract(b, b)
    for number in range(_ROUNDS):
        product_a, product_c = times(MULTIPLIER_A, a), times(MULTIPLIER_C, c)
        key_a, key_c = key_of_round(first, second, number)
        a, c = mixed(product_c, b, key_a), mixed(product_a, d, key_c)
        b, d = product_c, product_a
    return a, b, c, d


@inline
def _joined(low: Any, high: Any) -> Any:
    """The low halves of two words."""
    return words.bit_or(words.bit_and(low, 2**32 - 1), words.shift_left(high, 32))


@kernel
def fill_block(block, key, out):  # type: ignore[no-untyped-def]
    """The random words of a block: word ``j`` is word ``j // 512`` of its draw ``j % 512``."""
    high = np.uint64(block) >> np.uint64(23)  # bits 32 and up of block * 512
    low = (np.uint64(block) << np.uint64(9)) & np.uint64(0xFFFFFFFF)
    pairs = out.view(np.uint64)
    of_a, of_b = pairs[:_PAIRS], pairs[_PAIRS : 2 * _PAIRS]
    of_c, of_d = pairs[2 * _PAIRS : 3 * _PAIRS], pairs[3 * _PAIRS : 4 * _PAIRS]
    for i in range(_PAIRS):
        counter = words.add(low, np.uint64(2 * i))
        a, b, c, d = _draw_in_halves(counter, high, key[0], key[1])
        counter = words.add(counter, np.uint64(1))
        next_a, next_b, next_c, next_d = _draw_in_halves(counter, high, key[0], key[1])
        of_a[i], of_b[i] = _joined(a, next_a), _joined(b, next_b)
        of_c[i], of_d[i] = _joined(c, next_c), _joined(d, next_d)


@inline
def further_word(index: Any, number: Any, key: Any) -> Any:
    """Word `number` (from 0) of the random bits kept for the element `index` alone."""
    counter = np.uint64(index)
    low = np.uint32(counter & np.uint64(0xFFFFFFFF))
    high = np.uint32(counter >> np.uint64(32))
    word, _, _, _ = draw(low, high, np.uint32(number + 1), np.uint32(0), key[0], key[1])
    return word


@inline
def element_word(index: Any, key: Any) -> Any:
    """The 64 random bits of element `index` of a call, which are words of the block it is in."""
    place = np.uint64(index)
    counter = words.bit_or(
        words.shift_left(words.shift_right(place, 10), 9), words.bit_and(place, 511)
    )
    low = np.uint32(words.bit_and(counter, 0xFFFFFFFF))
    high = np.uint32(words.shift_right(counter, 32))
    zero = np.uint32(0)
    a, b, c, d = draw(low, high, zero, zero, key[0], key[1])
    second_half = words.bit_and(place, 512) != 0
    upper, lower = (b, d) if second_half else (a, c)
    return words.bit_or(words.shift_left(np.uint64(upper), 32), np.uint64(lower))


@inline
def step_word(element: Any, step: Any, stream: Any, key: Any) -> Any:
    """The 64 random bits of a step of a sum: those of an element of the result and a stream."""
    index, number = np.uint64(element), np.uint64(step)
    low = np.uint32(words.bit_and(index, 0xFFFFFFFF))
    high = np.uint32(words.shift_right(index, 32))
    # The last word, from 1 up, keeps these apart from the bits of elementwise operations.
    a, b, _, _ = draw(low, high, np.uint32(number), np.uint32(stream + 1), key[0], key[1])
    return words.bit_or(words.shift_left(np.uint64(a), 32), np.uint64(b))


@inline
def step_bits(element: Any, step: Any, stream: Any, key: Any, unused: Any) -> Any:
    """`step_word` without its ``unused`` low bits."""
    bits = step_word(element, step, stream, key)
    return words.shift_left(words.shift_right(bits, unused), unused)


@inline
def wide_bits(random: Any, i: int, per_block: int) -> Any:
    """The 64 random bits of element i of a block."""
    high = words.shift_left(np.uint64(random[i]), 32)
    return words.bit_or(high, np.uint64(random[per_block + i]))
