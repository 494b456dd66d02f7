"""Elementary functions in float64, from the basic operations alone.

The platform's mathematical library is no part of a result, so that it is the same on every machine.
Polynomials are Taylor's or the like, cut off below half a unit in the last place; each function
states the relative error that the tests hold it to, in units of 2**-53.
"""

from __future__ import annotations

from math import factorial
from typing import Any, Final

import numpy as np

from fpemu._kernels import words
from fpemu._kernels.caching import inline, kernel

__all__ = ["erf", "erfc", "exp", "expm1", "log", "sigmoid", "tanh"]

_LOG2_E: Final = 1.4426950408889634
# ln 2 in two parts; the first has so many zeros at its end that its multiples are exact.
_LN2_HIGH: Final = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
_SHIFTER: Final = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer
_EXP_TERMS: Final = tuple(1.0 / factorial(n) for n in range(2, 15))
_ATANH_TERMS: Final = tuple(2.0 / (2 * n + 3) for n in range(12))
_TWO_OVER_SQRT_PI: Final = 1.1283791670955126
_FRACTION_TERMS: Final = 80  # of the continued fraction, enough from 2 on
_MANY_FRACTION_TERMS: Final = 240  # from 1 on
_SQRT_HALF_WORD: Final = np.uint64(0x3FE6A09E667F3BCD)
_LARGEST_EXP: Final = 709.782712893384
_SMALLEST_EXP: Final = -745.1332191019412
_FRACTION_BITS: Final = 52
_ONE_WORD: Final = np.uint64(1023 << 52)


@inline
def _power_of_two(exponent: Any) -> Any:
    """``2.0**exponent`` for -1022 <= exponent <= 1023."""
    return words.floating(np.uint64(exponent + 1023) << np.uint64(_FRACTION_BITS))


@inline
def _reduced(x: float) -> Any:
    """An integer k and ``r = x - k ln 2``, at most 0.347 in magnitude, with its rounding error."""
    shifted = x * _LOG2_E + _SHIFTER
    multiple = shifted - _SHIFTER
    high = words.fused_multiply_add(-multiple, _LN2_HIGH, x)
    r = words.fused_multiply_add(-multiple, _LN2_LOW, high)
    rest = words.fused_multiply_add(-multiple, _LN2_LOW, high - r)
    return np.int64(multiple), r, rest


@inline
def _exp_minus_one_series(r: float, rest: float) -> Any:
    """``exp(r + rest) - 1``; the first term left out, r**15/15!, is below 2**-61 of the sum."""
    tail = _EXP_TERMS[12]
    for n in range(11, -1, -1):
        tail = words.fused_multiply_add(tail, r, _EXP_TERMS[n])
    return r + words.fused_multiply_add(r * r, tail, rest)


@inline
def exp(x: float) -> Any:
    """``e**x``; error below 1.5 units (one unit of the smallest subnormal where it underflows)."""
    clipped = min(max(x, _SMALLEST_EXP - 1.0), _LARGEST_EXP + 1.0)
    k, r, rest = _reduced(clipped)
    # In two factors, as 2**k alone may overflow or underflow.
    half = k >> 1
    value = (1.0 + _exp_minus_one_series(r, rest)) * _power_of_two(half)
    value *= _power_of_two(k - half)
    return value if x == x else x


@inline
def expm1(x: float) -> Any:
    """``e**x - 1``; error below 4 units."""
    clipped = min(max(x, -50.0), _LARGEST_EXP + 1.0)
    k, r, rest = _reduced(clipped)
    series = _exp_minus_one_series(r, rest)
    half = k >> 1
    scale = _power_of_two(half)
    # 2**k (1 + series) - 1, in an order that keeps the digits of the series when k is small.
    if k == 0:
        value = series
    elif k < 60:
        power = scale * _power_of_two(k - half)
        value = words.fused_multiply_add(power, series, power - 1.0)
    else:
        value = (1.0 + series) * scale * _power_of_two(k - half)
    return value if x == x and x != 0.0 else x


@inline
def log(x: float) -> Any:
    """The natural logarithm; error below 2 units."""
    subnormal = x < 2.0**-1022
    bits = words.word(x * 2.0**54 if subnormal else x)
    # x = 2**k m with m in [sqrt(1/2), sqrt(2)).
    offset = np.int64(bits - _SQRT_HALF_WORD) >> np.int64(_FRACTION_BITS)
    k = np.float64(offset - 54 if subnormal else offset)
    m = words.floating(bits - (np.uint64(offset) << np.uint64(_FRACTION_BITS)))
    f = m - 1.0  # exact
    s = f / (2.0 + f)
    z = s * s
    # log m = 2 atanh s; the first term left out is below 2**-61.
    series = _ATANH_TERMS[11]
    for n in range(10, -1, -1):
        series = words.fused_multiply_add(series, z, _ATANH_TERMS[n])
    half_square = 0.5 * f * f
    correction = s * (half_square + z * series)
    value = k * _LN2_HIGH - ((half_square - (correction + k * _LN2_LOW)) - f)
    if not 0.0 < x < np.inf:  # log(0), log of a negative number, of infinity or NaN
        value = -np.inf if x == 0.0 else np.nan if x < 0.0 else x
    return value


@inline
def tanh(x: float) -> Any:
    """The hyperbolic tangent; error below 8 units."""
    size = min(abs(x), 30.0)
    t = expm1(2.0 * size)
    value = np.copysign(t / (t + 2.0), x)
    return value if x == x else x


@inline
def sigmoid(x: float) -> Any:
    """``1 / (1 + e**-x)``; error below 4 units."""
    return 1.0 / (1.0 + exp(-x))


@inline
def _exp_minus_square(x: float) -> Any:
    """``e**(-x**2)``, the rounding error of the square made good."""
    square = x * x
    value = exp(-square)
    return value - value * words.fused_multiply_add(x, x, -square)


@inline
def _erfc_fraction(size: float, terms: int) -> Any:
    """``erfc(size)`` by a continued fraction, which takes about 190/size**2 terms."""
    fraction = size
    for n in range(terms, 0, -1):
        fraction = size + 0.5 * n / fraction
    return 0.5 * _TWO_OVER_SQRT_PI * _exp_minus_square(size) / fraction


@kernel
def _erf_series(x):  # type: ignore[no-untyped-def]
    """``erf(x)`` by the series ``2/sqrt(pi) e**(-x**2) sum_n 2**n x**(2n+1) / (2n+1)!!``.

    All terms are of one sign.
    """
    term = x
    total = x
    n = 0
    while abs(term) > 1e-18 * abs(total):
        n += 1
        term *= 2.0 * x * x / (2 * n + 1)
        total += term
    return _TWO_OVER_SQRT_PI * _exp_minus_square(x) * total


@kernel
def erf(x):  # type: ignore[no-untyped-def]
    """The error function; error below 16 units.

    Up to 2 a series, from there on one minus the continued fraction of erfc, which counts for
    little (Abramowitz & Stegun 7.1.6 and 7.1.14).
    """
    size = abs(x)
    if not size < 6.0:
        return x if x != x else np.copysign(1.0, x)
    if size >= 2.0:
        return np.copysign(1.0 - _erfc_fraction(size, _FRACTION_TERMS), x)
    return _erf_series(x)


@kernel
def erfc(x):  # type: ignore[no-untyped-def]
    """``1 - erf(x)``; error below 64 units, however small it is."""
    if x >= 2.0:
        return _erfc_fraction(min(x, 40.0), _FRACTION_TERMS)
    if x >= 1.0:
        return _erfc_fraction(x, _MANY_FRACTION_TERMS)
    return 1.0 - erf(x)
