"""Sums, products, quotients and square roots in integer arithmetic, rounded once into a target.

These are exact for any float64 operands, any format and any mode.  They are used where
floating-point arithmetic would lose an error term.  A stochastic mode needs more of a result than
its place between two numbers of the format: 128 bits, of which the last is sticky.

References
----------
IEEE Std 754-2019, sections 5.4.1 and 6.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fpemu._kernels import words
from fpemu._kernels.caching import inline
from fpemu._kernels.rounding import STOCHASTIC, Target, round_word
from fpemu._kernels.significands import (
    INFINITY,
    ONE,
    SIGN,
    ZERO,
    round_pair,
    round_significand,
    unpack,
)

__all__ = [
    "divide_word",
    "divide_word_at",
    "fma_word",
    "fma_word_at",
    "multiply_word",
    "multiply_word_at",
    "number_word_at",
    "quotient_word",
    "round_shifted",
    "scaled",
    "scaled_quotient",
    "scaled_root",
    "sqrt_word",
    "sqrt_word_at",
]

_ROOT_BITS = 98  # of a square root, beside the 27 before the point


@inline
def _shift_pair(high: Any, low: Any, distance: int) -> Any:
    """A 128-bit integer shifted right, with a sticky lowest bit."""
    if distance == 0:
        return high, low
    if distance < 64:
        lost = words.shift_left(low, np.uint64(64 - distance))
        carried = words.shift_left(high, np.uint64(64 - distance))
        low = words.bit_or(words.shift_right(low, np.uint64(distance)), carried)
        high = words.shift_right(high, np.uint64(distance))
    elif distance < 128:
        rest = distance - 64
        lost = words.bit_or(low, words.shift_left(high, np.uint64(64 - rest)) if rest else ZERO)
        low = words.shift_right(high, np.uint64(rest))
        high = ZERO
    else:
        lost = words.bit_or(high, low)
        high = low = ZERO
    return high, words.bit_or(low, ONE if lost != 0 else ZERO)


@inline
def _zero_of(sign_a: Any, sign_b: Any, target: Target) -> Any:
    """The word of an exact sum of zero, from the signs of its terms."""
    negative = (sign_a if sign_a == sign_b else target.zero_sum) != 0
    return target.zero_negative if negative else target.zero


@inline
def round_shifted(
    sign: Any,
    high: Any,
    low: Any,
    exponent: int,
    target: Target,
    kind: int,
    random: Any,
    unused: Any,
) -> Any:
    """The word of a 128-bit integer, not zero, times ``2**exponent``, rounded into the target."""
    if high == 0:
        high, low = low, ZERO
        exponent -= 64
    shift = np.int64(words.leading_zeros(high))
    if shift > 0:
        carried = words.shift_right(low, np.uint64(64 - shift))
        high = words.bit_or(words.shift_left(high, np.uint64(shift)), carried)
        low = words.shift_left(low, np.uint64(shift))
    return round_pair(sign, high, low, exponent - shift + 64, target, kind, random, unused)


@inline
def number_word_at(bits: Any, target: Target, kind: int, random: Any, unused: Any) -> Any:
    """The word of a float64 number rounded into the target, random bits as for `round_pair`."""
    magnitude = words.bit_and(bits, ~SIGN)
    if kind != STOCHASTIC or magnitude == 0 or magnitude >= INFINITY:
        return round_word(bits, target, kind)
    sign = words.bit_and(bits, SIGN)
    significand, exponent = unpack(magnitude)
    return round_pair(sign, significand, ZERO, exponent, target, kind, random, unused)


@inline
def fma_word(a: float, b: float, c: float, target: Target, kind: int) -> Any:
    """`fma_word_at` for the kinds that need no random bits."""
    return fma_word_at(a, b, c, target, kind, ZERO, ZERO)


@inline
def fma_word_at(
    a: float, b: float, c: float, target: Target, kind: int, random: Any, unused: Any
) -> Any:
    """The word of ``a*b + c`` rounded once into the target, for any float64 operands.

    `random` and `unused` are as for :func:`~fpemu._kernels.significands.round_pair`.
    """
    bits_a, bits_b, bits_c = words.word(a), words.word(b), words.word(c)
    sign_c = words.bit_and(bits_c, SIGN)
    sign_p = words.bit_and(words.bit_xor(bits_a, bits_b), SIGN)
    magnitude_a = words.bit_and(bits_a, ~SIGN)
    magnitude_b = words.bit_and(bits_b, ~SIGN)
    magnitude_c = words.bit_and(bits_c, ~SIGN)
    if magnitude_a >= INFINITY or magnitude_b >= INFINITY:
        return round_word(words.word(a * b + c), target, kind)
    if magnitude_c >= INFINITY:  # a*b is finite, though it may overflow in float64
        return round_word(bits_c, target, kind)
    if magnitude_a == 0 or magnitude_b == 0:
        if magnitude_c == 0:
            return _zero_of(sign_p, sign_c, target)
        return number_word_at(bits_c, target, kind, random, unused)

    left, exponent_a = unpack(magnitude_a)
    right, exponent_b = unpack(magnitude_b)
    high = words.multiply_high(left, right)
    low = left * right
    exponent = exponent_a + exponent_b  # of the lowest of the 128 bits
    sign = sign_p
    if magnitude_c != 0:
        # The highest bit of each term goes to 126 (or 125), so that a sum does not overflow.
        high, low = _shift_pair(high, low, 1)
        exponent += 1
        high_c, exponent_c = unpack(magnitude_c)
        high_c = words.shift_right(high_c, 1)
        low_c = ZERO
        exponent_c += 1 - 64
        if exponent_c >= exponent:
            high, low = _shift_pair(high, low, exponent_c - exponent)
            exponent = exponent_c
        else:
            high_c, low_c = _shift_pair(high_c, low_c, exponent - exponent_c)
        if sign_p == sign_c:
            total = words.add(low, low_c)
            high = words.add(words.add(high, high_c), ONE if total < low else ZERO)
            low = total
        else:
            if high < high_c or (high == high_c and low < low_c):
                high, high_c = high_c, high
                low, low_c = low_c, low
                sign = sign_c
            borrow = ONE if low < low_c else ZERO
            high = words.subtract(words.subtract(high, high_c), borrow)
            low = words.subtract(low, low_c)
            if high == 0 and low == 0:
                return _zero_of(sign_p, sign_c, target)
    return round_shifted(sign, high, low, exponent, target, kind, random, unused)


@inline
def _round_with_error(
    sign: Any, result: float, error: float, exponent: int, target: Target, kind: int
) -> Any:
    """The word of ``(result + error) * 2**exponent``, if `result` > 0 is its nearest float64.

    Only the sign of the error counts, so that ``result + error`` must not be a tie of the target.
    A result with a negative error must not be a power of two; no quotient or square root of float64
    numbers is rounded up to one.
    """
    significand, place = unpack(words.word(result))
    if error > 0.0:
        significand = words.bit_or(significand, ONE)
    if error < 0.0:
        significand = words.subtract(significand, ONE)
    return round_significand(sign, significand, place + exponent, target, kind)


@inline
def scaled(magnitude: Any) -> Any:
    """A positive finite magnitude as ``m * 2**e``, m a float64 in [2**52, 2**53)."""
    significand, exponent = unpack(magnitude)
    return np.float64(np.int64(words.shift_right(significand, 11))), exponent + 11


@inline
def scaled_quotient(magnitude_a: Any, magnitude_b: Any) -> Any:
    """``(q, r, e)``: the quotient of positive finite magnitudes is ``q * 2**e``, rounded.

    The remainder r has the sign of the error of q.
    """
    dividend, exponent_a = scaled(magnitude_a)
    divisor, exponent_b = scaled(magnitude_b)
    quotient = dividend / divisor
    remainder = words.fused_multiply_add(-quotient, divisor, dividend)
    return quotient, remainder, exponent_a - exponent_b


@inline
def scaled_root(magnitude: Any) -> Any:
    """``(s, r, e)``: the square root of a positive finite magnitude is ``s * 2**e``, rounded.

    The remainder r has the sign of the error of s.
    """
    radicand, exponent = scaled(magnitude)
    if exponent % 2 != 0:
        radicand *= 2.0
        exponent -= 1
    root = np.sqrt(radicand)
    return root, words.fused_multiply_add(-root, root, radicand), exponent // 2


@inline
def _quotient_pair(dividend: Any, divisor: Any) -> Any:
    """``dividend / divisor * 2**121`` as a 128-bit integer, for integers in [2**52, 2**53).

    Long division in digits of 11 bits: the remainder is below 2**53 and leaves room for 11 bits.
    """
    high, low = ZERO, np.uint64(1 if dividend >= divisor else 0)
    remainder = dividend - low * divisor
    for _ in range(11):
        remainder = words.shift_left(remainder, 11)
        digit = remainder // divisor
        remainder -= digit * divisor
        high = words.bit_or(words.shift_left(high, 11), words.shift_right(low, 53))
        low = words.bit_or(words.shift_left(low, 11), digit)
    # The quotient has at most 122 bits, which leaves room for the sticky bit.
    high = words.bit_or(words.shift_left(high, 1), words.shift_right(low, 63))
    return high, words.bit_or(words.shift_left(low, 1), ONE if remainder != 0 else ZERO)


@inline
def quotient_word(a: float, b: float, target: Target) -> Any:
    """The word of ``a / b`` where one of the two is zero, infinite or NaN."""
    return words.bit_or(words.word(a / b), target.pole if b == 0.0 else ZERO)


@inline
def divide_word(a: float, b: float, target: Target, kind: int) -> Any:
    """`divide_word_at` for the kinds that need no random bits."""
    return divide_word_at(a, b, target, kind, ZERO, ZERO)


@inline
def divide_word_at(a: float, b: float, target: Target, kind: int, random: Any, unused: Any) -> Any:
    """The word of ``a / b`` rounded once into the target, for any float64 operands."""
    magnitude_a = words.bit_and(words.word(a), ~SIGN)
    magnitude_b = words.bit_and(words.word(b), ~SIGN)
    if magnitude_a >= INFINITY or magnitude_b >= INFINITY or magnitude_a == 0 or magnitude_b == 0:
        return round_word(quotient_word(a, b, target), target, kind)
    sign = words.bit_and(words.bit_xor(words.word(a), words.word(b)), SIGN)
    if kind == STOCHASTIC:
        left, exponent_a = unpack(magnitude_a)
        right, exponent_b = unpack(magnitude_b)
        high, low = _quotient_pair(words.shift_right(left, 11), words.shift_right(right, 11))
        exponent = exponent_a - exponent_b - 122
        return round_shifted(sign, high, low, exponent, target, kind, random, unused)
    quotient, remainder, exponent = scaled_quotient(magnitude_a, magnitude_b)
    # No quotient of two numbers lies halfway between two numbers of their precision.
    return _round_with_error(sign, quotient, remainder, exponent, target, kind)


@inline
def _root_pair(radicand: Any) -> Any:
    """``sqrt(radicand) * 2**99`` as a 128-bit integer, for an integer in [2**52, 2**54).

    The digit-by-digit method, one bit at a time.  The remainder is at most twice the root, which
    has 125 bits.
    """
    low = np.uint64(np.sqrt(np.float64(radicand)))
    if low * low > radicand:
        low -= ONE
    high, rest_high, rest_low = ZERO, ZERO, radicand - low * low
    for _ in range(_ROOT_BITS):
        rest_high = words.bit_or(words.shift_left(rest_high, 2), words.shift_right(rest_low, 62))
        rest_low = words.shift_left(rest_low, 2)
        # The next bit is set if the rest holds 4*root + 1.
        trial_high = words.bit_or(words.shift_left(high, 2), words.shift_right(low, 62))
        trial_low = words.bit_or(words.shift_left(low, 2), 1)
        high = words.bit_or(words.shift_left(high, 1), words.shift_right(low, 63))
        low = words.shift_left(low, 1)
        if rest_high > trial_high or (rest_high == trial_high and rest_low >= trial_low):
            borrow = ONE if rest_low < trial_low else ZERO
            rest_high = words.subtract(words.subtract(rest_high, trial_high), borrow)
            rest_low = words.subtract(rest_low, trial_low)
            low = words.bit_or(low, 1)
    sticky = ONE if words.bit_or(rest_high, rest_low) != 0 else ZERO
    high = words.bit_or(words.shift_left(high, 1), words.shift_right(low, 63))
    return high, words.bit_or(words.shift_left(low, 1), sticky)


@inline
def sqrt_word(a: float, target: Target, kind: int) -> Any:
    """`sqrt_word_at` for the kinds that need no random bits."""
    return sqrt_word_at(a, target, kind, ZERO, ZERO)


@inline
def sqrt_word_at(a: float, target: Target, kind: int, random: Any, unused: Any) -> Any:
    """The word of the square root of `a` rounded once into the target, for any float64."""
    bits = words.word(a)
    if bits >= INFINITY or bits == 0:  # infinite, NaN, negative or zero
        return round_word(words.word(np.sqrt(a)), target, kind)
    if kind == STOCHASTIC:
        significand, exponent = unpack(bits)
        exponent += 11
        odd = exponent & 1
        high, low = _root_pair(words.shift_right(significand, np.uint64(11 - odd)))
        exponent = (exponent - odd) // 2 - (_ROOT_BITS + 1)
        return round_shifted(ZERO, high, low, exponent, target, kind, random, unused)
    root, remainder, exponent = scaled_root(bits)
    # Nor does a square root.
    return _round_with_error(ZERO, root, remainder, exponent, target, kind)


@inline
def multiply_word(a: float, b: float, target: Target, kind: int) -> Any:
    """`multiply_word_at` for the kinds that need no random bits."""
    return multiply_word_at(a, b, target, kind, ZERO, ZERO)


@inline
def multiply_word_at(
    a: float, b: float, target: Target, kind: int, random: Any, unused: Any
) -> Any:
    """The word of ``a * b`` rounded once into the target, for any float64 operands."""
    sign = words.bit_and(words.bit_xor(words.word(a), words.word(b)), SIGN)
    return fma_word_at(a, b, words.floating(sign), target, kind, random, unused)
