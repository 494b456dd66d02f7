"""Elementary functions in float64, from basic operations alone.

No mathematical library is part of a result, so that results are the same on every machine.  Series
are cut off below half a unit in the last place.  Each function states a bound on its relative error
in units of 2**-53, which the tests check.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fpemu._kernels import words
from fpemu._kernels.caching import inline, kernel
from fpemu._kernels.expansions import (
    LN2_HIGH,
    LN2_LOW,
    TWO_OVER_SQRT_PI,
    clipped,
    exp_series,
    exponent_and_significand,
    log_series,
    power_of_two,
    reduced,
)

__all__ = ["erf", "erfc", "exp", "expm1", "log", "sigmoid", "tanh"]

_EXP_TERMS: Final = 13
_FRACTION_TERMS: Final = 80  # of the continued fraction, enough from 2 on
_MANY_FRACTION_TERMS: Final = 240  # from 1 on
_LARGEST_EXP: Final = 709.782712893384
_SMALLEST_EXP: Final = -745.1332191019412


@inline
def _reduced_expm1(x: float) -> Any:
    """``(k, p)`` with ``exp(x) = 2**k (1 + p)``."""
    k, r, rest = reduced(x)
    return k, r + exp_series(r, rest, _EXP_TERMS)


@inline
def exp(x: float) -> Any:
    """``e**x``; error below 1.5 units (one unit of the smallest subnormal where it underflows)."""
    k, series = _reduced_expm1(clipped(x, _SMALLEST_EXP - 1.0, _LARGEST_EXP + 1.0))
    # In two factors, as 2**k alone may overflow or underflow.
    half = k >> 1
    value = (1.0 + series) * power_of_two(half)
    value *= power_of_two(k - half)
    return value if x == x else x


@inline
def expm1(x: float) -> Any:
    """``e**x - 1``; error below 4 units."""
    k, series = _reduced_expm1(clipped(x, -50.0, _LARGEST_EXP + 1.0))
    half = k >> 1
    scale = power_of_two(half)
    # 2**k (1 + series) - 1, in an order that keeps the digits of the series when k is small.
    if k == 0:
        value = series
    elif k < 60:
        power = scale * power_of_two(k - half)
        value = words.fused_multiply_add(power, series, power - 1.0)
    else:
        value = (1.0 + series) * scale * power_of_two(k - half)
    return value if x == x and x != 0.0 else x


@inline
def log(x: float) -> Any:
    """The natural logarithm; error below 2 units."""
    exponent, m = exponent_and_significand(x)
    k = np.float64(exponent)
    f = m - 1.0  # exact
    correction, half_square = log_series(f)
    value = k * LN2_HIGH - ((half_square - (correction + k * LN2_LOW)) - f)
    if not 0.0 < x < np.inf:  # log(0), log of a negative number, of infinity or NaN
        value = -np.inf if x == 0.0 else np.nan if x < 0.0 else x
    return value


@inline
def tanh(x: float) -> Any:
    """The hyperbolic tangent; error below 8 units."""
    size = clipped(abs(x), 0.0, 30.0)
    t = expm1(2.0 * size)
    value = np.copysign(t / (t + 2.0), x)
    return value if x == x else x


@inline
def sigmoid(x: float) -> Any:
    """``1 / (1 + e**-x)``; error below 4 units."""
    return 1.0 / (1.0 + exp(-x))


@inline
def _exp_minus_square(x: float) -> Any:
    """``e**(-x**2)``, corrected for the rounding error of the square."""
    square = x * x
    value = exp(-square)
    return value - value * words.fused_multiply_add(x, x, -square)


@inline
def _erfc_fraction(size: float, terms: int) -> Any:
    """``erfc(size)`` by a continued fraction, which needs about 190/size**2 terms."""
    fraction = size
    for n in range(terms, 0, -1):
        fraction = size + 0.5 * n / fraction
    return 0.5 * TWO_OVER_SQRT_PI * _exp_minus_square(size) / fraction


@kernel
def _erf_series(x):  # type: ignore[no-untyped-def]
    """``erf(x)`` by the series ``2/sqrt(pi) e**(-x**2) sum_n 2**n x**(2n+1) / (2n+1)!!``.

    All terms have the same sign.
    """
    term = x
    total = x
    n = 0
    while abs(term) > 1e-18 * abs(total):
        n += 1
        term *= 2.0 * x * x / (2 * n + 1)
        total += term
    return TWO_OVER_SQRT_PI * _exp_minus_square(x) * total


@kernel
def erf(x):  # type: ignore[no-untyped-def]
    """The error function; error below 16 units.

    A series below 2; from 2 on, one minus the continued fraction of erfc, whose error hardly counts
    (Abramowitz & Stegun 7.1.6 and 7.1.14).
    """
    size = abs(x)
    if not size < 6.0:
        return x if x != x else np.copysign(1.0, x)
    if size >= 2.0:
        return np.copysign(1.0 - _erfc_fraction(size, _FRACTION_TERMS), x)
    return _erf_series(x)


@kernel
def erfc(x):  # type: ignore[no-untyped-def]
    """``1 - erf(x)``; error below 64 units, also where the value is tiny."""
    if x >= 2.0:
        return _erfc_fraction(clipped(x, 2.0, 40.0), _FRACTION_TERMS)
    if x >= 1.0:
        return _erfc_fraction(x, _MANY_FRACTION_TERMS)
    return 1.0 - erf(x)
