"""Argument reduction and series of exp and log, for the float64 functions and for enclosures.

The float64 functions add the parts that come from here and round the sum; the enclosures keep the
parts and bound their errors.

References
----------
J.-M. Muller et al., Handbook of Floating-Point Arithmetic, 2nd ed., sections 4.3 and 10.
"""

from __future__ import annotations

from math import factorial
from typing import Any, Final

import numpy as np

from fpemu._kernels import words
from fpemu._kernels.caching import inline

__all__ = [
    "FRACTION_BITS",
    "LN2_HIGH",
    "LN2_LOW",
    "LOG2_E",
    "TWO_OVER_SQRT_PI",
    "clipped",
    "exp_series",
    "exponent_and_significand",
    "log_series",
    "nearest_integer",
    "power_of_two",
    "reduced",
]

FRACTION_BITS: Final = 52
LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
TWO_OVER_SQRT_PI: Final = float.fromhex("0x1.20dd750429b6dp+0")
# ln 2 in two parts; the first has 33 bits, so that its multiples by exponents are exact.
LN2_HIGH: Final = float.fromhex("0x1.62e42fee00000p-1")
LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")

_EXP_SERIES: Final = tuple(1.0 / factorial(n) for n in range(2, 16))
_ATANH_SERIES: Final = tuple(2.0 / (2 * n + 3) for n in range(12))
_SHIFTER: Final = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer
_SHIFTER_WORD: Final = 0x4338000000000000
_SQRT_HALF_WORD: Final = 0x3FE6A09E667F3BCD


@inline
def power_of_two(exponent: Any) -> Any:
    """``2.0**exponent`` for -1022 <= exponent <= 1023."""
    return words.floating(np.uint64(exponent + 1023) << np.uint64(FRACTION_BITS))


@inline
def nearest_integer(x: float) -> Any:
    """The integer next to a number below 2**51, as an int64 and as a float64."""
    shifted = x + _SHIFTER
    return np.int64(words.word(shifted)) - np.int64(_SHIFTER_WORD), shifted - _SHIFTER


@inline
def clipped(x: float, least: float, largest: float) -> Any:
    """A number taken into a range; NaN becomes the least."""
    raised = x if x > least else least
    return raised if raised < largest else largest


@inline
def reduced(x: float) -> Any:
    """``(k, r, rest)`` with ``x = k ln 2 + r + rest``, for ``|x| <= 2000``.

    `r` is at most 0.347 in magnitude and `rest` is its rounding error.
    """
    k, multiple = nearest_integer(x * LOG2_E)
    high = words.fused_multiply_add(-multiple, LN2_HIGH, x)  # exact
    r = words.fused_multiply_add(-multiple, LN2_LOW, high)
    return k, r, words.fused_multiply_add(-multiple, LN2_LOW, high - r)


@inline
def exp_series(r: float, rest: float, terms: int) -> Any:
    """``exp(r + rest) - 1 - r`` by the first terms of its series, for ``|r| <= 0.36``.

    The first term left out of 13 is below 2**-61 of ``exp(r) - 1``, and of 14 below 2**-65.
    """
    tail = _EXP_SERIES[terms - 1]
    for n in range(terms - 2, -1, -1):
        tail = words.fused_multiply_add(tail, r, _EXP_SERIES[n])
    return words.fused_multiply_add(r * r, tail, rest)


@inline
def exponent_and_significand(x: float) -> Any:
    """``(k, m)`` with ``x = 2**k m`` and m in [sqrt(1/2), sqrt(2)), for positive finite x."""
    subnormal = x < 2.0**-1022
    bits = words.word(x * 2.0**54 if subnormal else x)
    offset = np.int64(bits - np.uint64(_SQRT_HALF_WORD)) >> np.int64(FRACTION_BITS)
    m = words.floating(bits - (np.uint64(offset) << np.uint64(FRACTION_BITS)))
    return offset - 54 if subnormal else offset, m


@inline
def log_series(f: float) -> Any:
    """``(c, h)`` with ``log(1 + f) = f - h + c`` and ``h = f**2 / 2``, for ``|f| <= 0.42``.

    With ``s = f / (2 + f)`` the logarithm is ``2 atanh s``; the first term left out is below 2**-61
    of it.
    """
    s = f / (2.0 + f)
    z = s * s
    series = _ATANH_SERIES[11]
    for n in range(10, -1, -1):
        series = words.fused_multiply_add(series, z, _ATANH_SERIES[n])
    half_square = 0.5 * f * f
    return s * (half_square + z * series), half_square
