"""Arithmetic by error-free transformations, rounded once into a target.

The error of a float64 sum, product, quotient or square root is known exactly, or at least its sign:
so the result can be made odd and, having two bits more than the format, be rounded again without
harm.  Where the error underflows, the result overflows, or the format has no fewer bits than
float64, integer arithmetic does it.

References
----------
S. Boldo, G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using
rounding to odd", IEEE Trans. Comput. 57(4), 2008.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fpemu._kernels import words
from fpemu._kernels.caching import inline
from fpemu._kernels.exact import divide_word, fma_word, multiply_word, sqrt_word
from fpemu._kernels.facts import FormatFacts
from fpemu._kernels.rounding import Target, round_word
from fpemu._kernels.significands import ONE, SIGN, ZERO

__all__ = [
    "ODD_PRECISION",
    "add_float32",
    "holds_float32_sums",
    "multiply_add_float32",
    "multiply_add_float64",
    "odd",
    "odd_sum",
    "quick_add",
    "quick_divide",
    "quick_multiply",
    "quick_sqrt",
    "two_product",
    "two_sum",
]

ODD_PRECISION: Final = 51
"""An odd float64 number may be rounded again to this precision."""

_FLOAT64_EMAX: Final = 1023

_MINUS_ONE: Final = np.uint64(2**64 - 1)

# Magnitudes between which neither an error underflows nor a result overflows.
_SMALL: Final = 2.0**-900
_LARGE: Final = 2.0**900


# --- by error-free transformations --------------------------------------------------------------


def holds_float32_sums(format: FormatFacts) -> bool:
    """Whether float64 arithmetic adds its members to products of float32 numbers exactly enough.

    The precision leaves the odd sum two bits to spare, and no sum overflows float64.
    """
    return format.precision <= ODD_PRECISION and format.emax < _FLOAT64_EMAX


@inline
def two_sum(a: float, b: float) -> Any:
    """The rounded sum and its error, exactly (Knuth's TwoSum)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@inline
def two_product(a: float, b: float) -> Any:
    """The rounded product and its error, exactly but for underflow."""
    product = a * b
    return product, words.fused_multiply_add(a, b, -product)


@inline
def odd(result: float, error: float) -> Any:
    """The word of ``result + error`` rounded to odd, `result` being its rounding to nearest.

    Only the sign of the error counts.  Where there is one and the last bit is even, the result's
    odd neighbour in the direction of the error is the rounding to odd.
    """
    # Without branches, so that loops become vector code.  A NaN error (of an infinite result) is
    # neither positive nor negative.
    bits = words.word(result)
    step = ONE if (error > 0.0) == (result > 0.0) else _MINUS_ONE
    inexact = (error > 0.0) | (error < 0.0)
    even = words.bit_and(bits, 1) == 0
    return words.add(bits, step if inexact & even else ZERO)


@inline
def odd_sum(a: float, b: float) -> Any:
    """The word of ``a + b`` rounded to odd."""
    total, error = two_sum(a, b)
    return odd(total, error)


@inline
def add_float32(a: float, b: float, target: Target, kind: int) -> Any:
    """``a + b`` rounded once into a target of precision at most 51.

    The sum must not overflow float64: `a` and `b` are products of float32 numbers or members of a
    format that holds such sums.
    """
    bits = odd_sum(a, b)
    if target.zero_sum != 0 and a + b == 0.0 and words.word(a) != words.word(b):
        bits = target.zero_sum  # IEEE 754 section 6.3: -0 when rounding down
    return words.floating(round_word(bits, target, kind))


@inline
def multiply_add_float32(
    total: float,
    a: float,
    b: float,
    target: Target,
    product_target: Target,
    via_target: Target,
    kind: int,
    unfused: bool,
    via: bool,
) -> Any:
    """One step of an accumulation of products of float32 numbers, held in float64."""
    product = a * b  # exact: 48 bits, exponents within float64's
    if unfused:
        product = words.floating(round_word(words.word(product), product_target, kind))
    if via:
        total = add_float32(total, product, via_target, kind)
        return words.floating(round_word(words.word(total), target, kind))
    return add_float32(total, product, target, kind)


@inline
def multiply_add_float64(
    total: float,
    a: float,
    b: float,
    target: Target,
    product_target: Target,
    via_target: Target,
    kind: int,
    unfused: bool,
    via: bool,
) -> Any:
    """One step of an accumulation of products of any float64 numbers."""
    if unfused:
        zero = words.floating(words.bit_and(words.bit_xor(words.word(a), words.word(b)), SIGN))
        a = words.floating(fma_word(a, b, zero, product_target, kind))
        b = 1.0
    if via:
        total = words.floating(fma_word(a, b, total, via_target, kind))
        return words.floating(round_word(words.word(total), target, kind))
    return words.floating(fma_word(a, b, total, target, kind))


# --- whichever is quicker -----------------------------------------------------------------------


@inline
def quick_add(a: float, b: float, target: Target, kind: int) -> Any:
    """`fma_word(1, a, b)`, for a target of at most ODD_PRECISION."""
    if abs(a + b) < np.inf and a + b != 0.0:
        return round_word(odd_sum(a, b), target, kind)
    return fma_word(1.0, a, b, target, kind)


@inline
def quick_multiply(a: float, b: float, target: Target, kind: int) -> Any:
    """`multiply_word`, for a target of at most ODD_PRECISION."""
    product = a * b
    if _SMALL < abs(product) < _LARGE:
        error = words.fused_multiply_add(a, b, -product)
        return round_word(odd(product, error), target, kind)
    return multiply_word(a, b, target, kind)


@inline
def quick_divide(a: float, b: float, target: Target, kind: int) -> Any:
    """`divide_word`, for a target of at most ODD_PRECISION."""
    quotient = a / b
    if _SMALL < abs(a) < _LARGE and _SMALL < abs(b) < _LARGE and _SMALL < abs(quotient) < _LARGE:
        error = words.fused_multiply_add(-quotient, b, a)
        return round_word(odd(quotient, error if b > 0.0 else -error), target, kind)
    return divide_word(a, b, target, kind)


@inline
def quick_sqrt(a: float, target: Target, kind: int) -> Any:
    """`sqrt_word`, for a target of at most ODD_PRECISION."""
    if _SMALL < a < _LARGE:
        root = np.sqrt(a)
        return round_word(odd(root, words.fused_multiply_add(-root, root, a)), target, kind)
    return sqrt_word(a, target, kind)
