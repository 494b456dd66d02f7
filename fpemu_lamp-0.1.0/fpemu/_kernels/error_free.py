"""Arithmetic by error-free transformations, rounded once into a target.

The error of a float64 sum, product, quotient or square root is known exactly, or at least its sign.
The result can thus be rounded to odd and then into any format of at least two bits less, as if it
were exact.  Where an error would underflow, the operands are scaled first.  Formats of more bits
need integer arithmetic.

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
from fpemu._kernels.exact import fma_word, quotient_word, scaled, scaled_quotient, scaled_root
from fpemu._kernels.facts import FormatFacts, RoundingFacts
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
    "rounded_multiply_add",
    "scaled_to_odd",
    "takes_odd",
    "two_product",
    "two_sum",
]

ODD_PRECISION: Final = 51
"""An odd float64 number may be rounded again to this precision."""

_FLOAT64_EMAX: Final = 1023
_LEAST_EXPONENT: Final = -1074
_FRACTION_BITS: Final = 52
_FRACTION: Final = np.uint64(2**52 - 1)
_IMPLICIT: Final = np.uint64(2**52)
_FIELDS: Final = 2047
_LARGEST: Final = np.uint64(0x7FEFFFFFFFFFFFFF)

# Magnitudes between which neither an error underflows nor a result overflows.
_SMALL: Final = 2.0**-900
_LARGE: Final = 2.0**900


# --- error-free transformations and rounding to odd -----------------------------------------------


def takes_odd(format: FormatFacts, rounding: RoundingFacts) -> bool:
    """Whether a float64 number rounded to odd rounds into a format as the exact number does.

    Two conditions are needed.  Each binade of float64 has two bits more than that of the format.
    Numbers beyond float64 round as its largest number does; that fails if that number is truncated
    to the largest member of the format and an overflow gives infinity.
    """
    return (
        format.precision <= ODD_PRECISION
        and format.quantum_exponent >= _LEAST_EXPONENT + 2
        and (format.emax < _FLOAT64_EMAX or rounding.overflow != "infinity")
    )


def holds_float32_sums(format: FormatFacts) -> bool:
    """Whether :func:`add_float32` adds members of a format and products of float32 numbers.

    The odd sum has two bits more than the format, and no sum overflows float64.
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
    """The rounded product and its error, exactly unless the error underflows."""
    product = a * b
    return product, words.fused_multiply_add(a, b, -product)


@inline
def odd(result: float, error: float) -> Any:
    """The word of ``result + error`` rounded to odd, if `result` is its rounding to nearest.

    Only the sign of the error counts.  If the last bit is even and the error is not zero, the
    result is the odd neighbor in the direction of the error.
    """
    bits = words.word(result)
    opposite = words.shift_right(words.bit_xor(words.word(error), bits), 63)
    neighbor = words.subtract(words.bit_or(bits, 1), words.shift_left(opposite, 1))
    # The comparison with a NaN error (of an infinite result) is false.
    return neighbor if (abs(error) > 0.0) & (words.bit_and(bits, 1) == 0) else bits


@inline
def odd_sum(a: float, b: float) -> Any:
    """The word of ``a + b`` rounded to odd."""
    total, error = two_sum(a, b)
    return odd(total, error)


@inline
def _odd_sum(a: float, b: float, target: Target) -> Any:
    """The word of ``a + b`` rounded to odd; an exact zero has the sign that the mode gives it."""
    bits = odd_sum(a, b)
    if target.zero_sum != 0 and a + b == 0.0 and words.word(a) != words.word(b):
        bits = target.zero_sum  # IEEE 754 section 6.3: -0 when rounding down
    return bits


@inline
def add_float32(a: float, b: float, target: Target, kind: int) -> Any:
    """``a + b`` rounded once into a target of precision at most 51.

    The sum must not overflow float64: `a` and `b` are products of float32 numbers or members of a
    format that holds such sums.
    """
    return words.floating(round_word(_odd_sum(a, b, target), target, kind))


@inline
def rounded_multiply_add(
    a: float, b: float, addend: float, target: Target, kind: int, wide: bool
) -> Any:
    """``a*b + addend`` rounded once, as :func:`add_float32` if it does, or of any `wide` numbers.

    What is not `wide` has factors that are float32 numbers, or one that is 1.
    """
    if wide:
        return words.floating(fma_word(a, b, addend, target, kind))
    return add_float32(addend, a * b, target, kind)


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


# --- operations for targets that take odd numbers ------------------------------------------------


@inline
def scaled_to_odd(bits: Any, exponent: Any) -> Any:
    """The word of a number times ``2**exponent``, rounded to odd; zero, inf and NaN as they are.

    The largest finite number is odd and represents all larger ones.
    """
    sign = words.bit_and(bits, SIGN)
    magnitude = words.bit_xor(bits, sign)
    raw = np.int64(words.shift_right(magnitude, _FRACTION_BITS))
    field = raw + exponent
    significand = words.bit_or(words.bit_and(magnitude, _FRACTION), _IMPLICIT)
    dropped = np.uint64(0 if field > 0 else 1 - field if field > -62 else 63)
    kept = words.shift_right(significand, dropped)
    sticky = ZERO if words.shift_left(kept, dropped) == significand else ONE
    normal = words.add(magnitude, words.shift_left(np.uint64(exponent), _FRACTION_BITS))
    result = normal if field > 0 else words.bit_or(kept, sticky)
    result = result if field < _FIELDS else _LARGEST
    unchanged = raw == 0 or raw == _FIELDS or exponent == 0
    return bits if unchanged else words.bit_or(result, sign)


@inline
def _signed(bits: Any, a: float, b: float) -> Any:
    """A positive word with the sign of ``a * b``."""
    return words.bit_or(bits, words.bit_and(words.bit_xor(words.word(a), words.word(b)), SIGN))


@inline
def _is_finite_nonzero(a: float) -> Any:
    """Whether a number is neither zero, infinite nor NaN."""
    return 0.0 < abs(a) < np.inf


@inline
def quick_add(a: float, b: float, target: Target, kind: int) -> Any:
    """`fma_word(1, a, b)`, for a target that :func:`takes_odd`."""
    bits = odd_sum(a, b)
    if not 0.0 < abs(a + b) < np.inf:
        bits = _odd_sum(a, b, target)
        if abs(a + b) == np.inf and abs(a) < np.inf and abs(b) < np.inf:
            bits = words.subtract(bits, 1)  # the largest finite number represents larger ones
    return round_word(bits, target, kind)


@inline
def quick_multiply(a: float, b: float, target: Target, kind: int) -> Any:
    """`multiply_word`, for a target that :func:`takes_odd`."""
    product, error = two_product(a, b)
    bits = odd(product, error)
    if not _SMALL < abs(product) < _LARGE and _is_finite_nonzero(a) and _is_finite_nonzero(b):
        left, exponent_a = scaled(words.word(abs(a)))
        right, exponent_b = scaled(words.word(abs(b)))
        product, error = two_product(left, right)
        bits = _signed(scaled_to_odd(odd(product, error), exponent_a + exponent_b), a, b)
    return round_word(bits, target, kind)


@inline
def quick_divide(a: float, b: float, target: Target, kind: int) -> Any:
    """`divide_word`, for a target that :func:`takes_odd`."""
    quotient = a / b
    error = words.fused_multiply_add(-quotient, b, a)
    bits = odd(quotient, error if b > 0.0 else -error)
    inside = _SMALL < abs(a) < _LARGE and _SMALL < abs(b) < _LARGE
    if not (inside and _SMALL < abs(quotient) < _LARGE):
        bits = quotient_word(a, b, target)
        if _is_finite_nonzero(a) and _is_finite_nonzero(b):
            quotient, error, exponent = scaled_quotient(words.word(abs(a)), words.word(abs(b)))
            bits = _signed(scaled_to_odd(odd(quotient, error), exponent), a, b)
    return round_word(bits, target, kind)


@inline
def quick_sqrt(a: float, target: Target, kind: int) -> Any:
    """`sqrt_word`, for a target that :func:`takes_odd`."""
    root = np.sqrt(a)
    bits = odd(root, words.fused_multiply_add(-root, root, a))
    if not _SMALL < a < _LARGE:
        bits = words.word(root)
        if 0.0 < a < np.inf:
            root, error, exponent = scaled_root(words.word(a))
            bits = scaled_to_odd(odd(root, error), exponent)
    return round_word(bits, target, kind)
