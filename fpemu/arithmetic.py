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
from fpemu.rounding import (
    RNA,
    RNE,
    RNZ,
    RTN,
    RTO,
    RTP,
    Target,
    inline,
    round_word,
    signed_result,
)

__all__: list[str] = []

_BIAS = 1023
_FRACTION_BITS = 52
_FRACTION = np.uint64(2**52 - 1)
_IMPLICIT = np.uint64(2**52)
_SIGN = np.uint64(2**63)
_INFINITY = np.uint64(0x7FF << 52)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_HALF = np.uint64(2**63)


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
        bits = _SIGN  # IEEE 754 section 6.3: a sum that is zero is -0 when rounding down
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
def rounds_up(odd: bool, against_half: int, negative: bool, mode: int) -> bool:
    """Whether an inexact magnitude goes up, its tail being below (-1), at (0) or above half."""
    if mode == RNE:
        return against_half > 0 or (against_half == 0 and odd)
    if mode == RNA:
        return against_half >= 0
    if mode == RNZ:
        return against_half > 0
    if mode == RTP:
        return not negative
    if mode == RTN:
        return negative
    return not odd if mode == RTO else False


@inline
def round_significand(sign: Any, significand: Any, exponent: int, target: Target, mode: int) -> Any:
    """The word of ``significand * 2**exponent`` rounded into the target.

    The significand has its highest bit set; its lowest bit may stand for any nonzero rest.
    """
    quantum = np.int64(target.quantum_field) - (_BIAS + _FRACTION_BITS)
    excess = np.int64(target.quantum_field) - np.int64(target.normal_field)
    # A normal_field of 0 stands for emin = -1023, below float64's own normal numbers.
    dropped = max(64 - _FRACTION_BITS - 1 + excess, quantum - exponent)
    if dropped < 64:
        kept = words.shift_right(significand, np.uint64(dropped))
        tail = words.shift_left(significand, np.uint64(64 - dropped))
    else:
        kept = _ZERO
        tail = significand if dropped == 64 else _ONE
    if tail != 0:
        against_half = 1 if tail > _HALF else 0 if tail == _HALF else -1
        if rounds_up(words.bit_and(kept, 1) != 0, against_half, sign != 0, mode):
            kept = words.add(kept, 1)
    return signed_result(_assemble(kept, exponent + dropped), sign, target)


@inline
def _assemble(integer: Any, exponent: int) -> Any:
    """The magnitude word of ``integer * 2**exponent``, at most 2**53 each; infinity beyond."""
    if integer == 0:
        return integer
    top = 63 - np.int64(words.leading_zeros(integer))
    field = top + exponent + _BIAS
    if field >= 2 * _BIAS + 1:
        return _INFINITY
    if field <= 0:
        shift = exponent + _BIAS + _FRACTION_BITS - 1
        return words.shift_left(integer, np.uint64(shift))
    if top <= _FRACTION_BITS:
        fraction = words.shift_left(integer, np.uint64(_FRACTION_BITS - top))
    else:
        fraction = words.shift_right(integer, np.uint64(top - _FRACTION_BITS))
    return words.add(
        words.bit_and(fraction, _FRACTION), words.shift_left(np.uint64(field), _FRACTION_BITS)
    )


@inline
def _unpack(magnitude: Any) -> Any:
    """Significand with its highest bit at 63, and its exponent, of a nonzero finite magnitude."""
    field = np.int64(words.shift_right(magnitude, _FRACTION_BITS))
    fraction = words.bit_and(magnitude, _FRACTION)
    significand = words.bit_or(fraction, _IMPLICIT) if field > 0 else fraction
    shift = np.int64(words.leading_zeros(significand))
    return (
        words.shift_left(significand, np.uint64(shift)),
        max(field, np.int64(1)) - _BIAS - _FRACTION_BITS - shift,
    )


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
        lost = words.bit_or(low, words.shift_left(high, np.uint64(64 - rest)) if rest else _ZERO)
        low = words.shift_right(high, np.uint64(rest))
        high = _ZERO
    else:
        lost = words.bit_or(high, low)
        high = low = _ZERO
    return high, words.bit_or(low, _ONE if lost != 0 else _ZERO)


@inline
def _zero_of(sign_a: Any, sign_b: Any, target: Target, mode: int) -> Any:
    """The zero that a sum of terms of these signs gives when it is exactly zero."""
    negative = sign_a != 0 if sign_a == sign_b else mode == RTN
    return target.zero_negative if negative else target.zero


@inline
def fma_word(a: float, b: float, c: float, target: Target, mode: int) -> Any:
    """The word of ``a*b + c`` rounded once into the target, for any float64 operands."""
    bits_a, bits_b, bits_c = words.word(a), words.word(b), words.word(c)
    sign_c = words.bit_and(bits_c, _SIGN)
    sign_p = words.bit_and(words.bit_xor(bits_a, bits_b), _SIGN)
    magnitude_a = words.bit_and(bits_a, ~_SIGN)
    magnitude_b = words.bit_and(bits_b, ~_SIGN)
    magnitude_c = words.bit_and(bits_c, ~_SIGN)
    if magnitude_a >= _INFINITY or magnitude_b >= _INFINITY:
        return round_word(words.word(a * b + c), target, mode)
    if magnitude_c >= _INFINITY:  # a*b is finite, whatever float64 makes of it
        return round_word(bits_c, target, mode)
    if magnitude_a == 0 or magnitude_b == 0:
        if magnitude_c == 0:
            return _zero_of(sign_p, sign_c, target, mode)
        return round_word(bits_c, target, mode)

    left, exponent_a = _unpack(magnitude_a)
    right, exponent_b = _unpack(magnitude_b)
    high = words.multiply_high(left, right)
    low = left * right
    exponent = exponent_a + exponent_b  # of the lowest of the 128 bits
    sign = sign_p
    if magnitude_c != 0:
        # The highest bit of each term goes to 126 (or 125), so that a sum does not overflow.
        high, low = _shift_pair(high, low, 1)
        exponent += 1
        high_c, exponent_c = _unpack(magnitude_c)
        high_c = words.shift_right(high_c, 1)
        low_c = _ZERO
        exponent_c += 1 - 64
        if exponent_c >= exponent:
            high, low = _shift_pair(high, low, exponent_c - exponent)
            exponent = exponent_c
        else:
            high_c, low_c = _shift_pair(high_c, low_c, exponent - exponent_c)
        if sign_p == sign_c:
            total = words.add(low, low_c)
            high = words.add(words.add(high, high_c), _ONE if total < low else _ZERO)
            low = total
        else:
            if high < high_c or (high == high_c and low < low_c):
                high, high_c = high_c, high
                low, low_c = low_c, low
                sign = sign_c
            borrow = _ONE if low < low_c else _ZERO
            high = words.subtract(words.subtract(high, high_c), borrow)
            low = words.subtract(low, low_c)
            if high == 0 and low == 0:
                return _zero_of(sign_p, sign_c, target, mode)
    if high == 0:
        high, low = low, _ZERO
        exponent -= 64
    shift = np.int64(words.leading_zeros(high))
    if shift > 0:
        carried = words.shift_right(low, np.uint64(64 - shift))
        high = words.bit_or(words.shift_left(high, np.uint64(shift)), carried)
        low = words.shift_left(low, np.uint64(shift))
    significand = words.bit_or(high, _ONE if low != 0 else _ZERO)
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
        zero = words.floating(words.bit_and(words.bit_xor(words.word(a), words.word(b)), _SIGN))
        a = words.floating(fma_word(a, b, zero, product_target, mode))
        b = 1.0
    if via:
        total = words.floating(fma_word(a, b, total, via_target, mode))
        return words.floating(round_word(words.word(total), target, mode))
    return words.floating(fma_word(a, b, total, target, mode))
