"""Exact arithmetic on carrier values, rounded once into a format: the scalar kernels.

Two ways lead to one rounding.  Where the operands are float32 numbers (held in float64), products
are exact in float64 and the error of a sum is a float64 number, so that the sum can be made odd and
rounded again without harm.  Where they are any float64 numbers, integer arithmetic does it.

References
----------
IEEE Std 754-2019, sections 5.4.1 and 6.3; S. Boldo, G. Melquiond, "Emulation of a FMA and correctly
rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 57(4), 2008.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fpemu import words
from fpemu.rounding import RTN, Target, inline, round_word
from fpemu.significand import INFINITY, ONE, SIGN, ZERO, round_significand, unpack

__all__: list[str] = []


@inline
def odd_sum(a: float, b: float) -> Any:
    """The word of ``a + b`` rounded to odd in float64.

    Knuth's TwoSum gives the error of the rounded sum exactly; where there is one and the last bit
    is even, the sum's odd neighbour in the direction of the error is the rounding to odd.
    """
    total = a + b
    b_part = total - a
    error = (a - (total - b_part)) + (b - b_part)
    bits = words.word(total)
    even = words.bit_and(bits, 1) == 0
    # Comparisons with a NaN error (of an infinite sum) are false.
    if even and error > 0.0:
        bits = words.add(bits, 1) if total > 0.0 else words.subtract(bits, 1)
    if even and error < 0.0:
        bits = words.subtract(bits, 1) if total > 0.0 else words.add(bits, 1)
    return bits


@inline
def add_float32(a: float, b: float, target: Target, mode: int) -> Any:
    """``a + b`` rounded once into a target of precision at most 51.

    The sum must not overflow float64: `a` and `b` are products of float32 numbers or members of a
    format that holds such sums.
    """
    bits = odd_sum(a, b)
    if mode == RTN and a + b == 0.0 and words.word(a) != words.word(b):
        bits = SIGN  # IEEE 754 section 6.3: a sum that is zero is -0 when rounding down
    return words.floating(round_word(bits, target, mode))


@inline
def multiply_add_float32(
    total: float,
    a: float,
    b: float,
    target: Target,
    product_target: Target,
    via_target: Target,
    mode: int,
    unfused: bool,
    via: bool,
) -> Any:
    """One step of an accumulation of products of float32 numbers, held in float64."""
    product = a * b  # exact: 48 bits, exponents within float64's
    if unfused:
        product = words.floating(round_word(words.word(product), product_target, mode))
    if via:
        total = add_float32(total, product, via_target, mode)
        return words.floating(round_word(words.word(total), target, mode))
    return add_float32(total, product, target, mode)


@inline
def _shift_pair(high: Any, low: Any, distance: int) -> Any:
    """A 128-bit integer shifted right; the lowest bit stands for all that falls off."""
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
def _zero_of(sign_a: Any, sign_b: Any, target: Target, mode: int) -> Any:
    """The zero that a sum of terms of these signs gives when it is exactly zero."""
    negative = sign_a != 0 if sign_a == sign_b else mode == RTN
    return target.zero_negative if negative else target.zero


@inline
def fma_word(a: float, b: float, c: float, target: Target, mode: int) -> Any:
    """The word of ``a*b + c`` rounded once into the target, for any float64 operands."""
    bits_a, bits_b, bits_c = words.word(a), words.word(b), words.word(c)
    sign_c = words.bit_and(bits_c, SIGN)
    sign_p = words.bit_and(words.bit_xor(bits_a, bits_b), SIGN)
    magnitude_a = words.bit_and(bits_a, ~SIGN)
    magnitude_b = words.bit_and(bits_b, ~SIGN)
    magnitude_c = words.bit_and(bits_c, ~SIGN)
    if magnitude_a >= INFINITY or magnitude_b >= INFINITY:
        return round_word(words.word(a * b + c), target, mode)
    if magnitude_c >= INFINITY:  # a*b is finite, whatever float64 makes of it
        return round_word(bits_c, target, mode)
    if magnitude_a == 0 or magnitude_b == 0:
        if magnitude_c == 0:
            return _zero_of(sign_p, sign_c, target, mode)
        return round_word(bits_c, target, mode)

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
                return _zero_of(sign_p, sign_c, target, mode)
    if high == 0:
        high, low = low, ZERO
        exponent -= 64
    shift = np.int64(words.leading_zeros(high))
    if shift > 0:
        carried = words.shift_right(low, np.uint64(64 - shift))
        high = words.bit_or(words.shift_left(high, np.uint64(shift)), carried)
        low = words.shift_left(low, np.uint64(shift))
    significand = words.bit_or(high, ONE if low != 0 else ZERO)
    return round_significand(sign, significand, exponent - shift + 64, target, mode)


@inline
def multiply_add_float64(
    total: float,
    a: float,
    b: float,
    target: Target,
    product_target: Target,
    via_target: Target,
    mode: int,
    unfused: bool,
    via: bool,
) -> Any:
    """One step of an accumulation of products of any float64 numbers."""
    if unfused:
        zero = words.floating(words.bit_and(words.bit_xor(words.word(a), words.word(b)), SIGN))
        a = words.floating(fma_word(a, b, zero, product_target, mode))
        b = 1.0
    if via:
        total = words.floating(fma_word(a, b, total, via_target, mode))
        return words.floating(round_word(words.word(total), target, mode))
    return words.floating(fma_word(a, b, total, target, mode))
