"""Enclosures of elementary functions in float64 arithmetic, rounded to odd.

An enclosure is an unevaluated sum ``high + low``, a bound on its error and a power of two.  Both
ends of the enclosure are rounded to odd.  If no number of p + 2 bits lies between them, either end
rounds into a format of p bits as the exact value does, in any mode.  The kernels therefore know
neither format nor mode; they report the enclosures that hold such a number as undecided.

The code uses only ``+ - * /``, square root and the fused multiply-add, so that no mathematical
library is part of a result.  Error bounds are counted in units of ``u = 2**-53``; each is at least
twice what a first-order analysis of its terms gives.

References
----------
S. Boldo and G. Melquiond, Emulation of FMA and correctly rounded sums: proved algorithms using
rounding to odd, IEEE Trans. Computers 57 (2008).  J.-M. Muller et al., Handbook of Floating-Point
Arithmetic, 2nd ed., sections 4.3 and 10.  C99, Annex F (special values).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from math import factorial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, random_bits, words
from fpemu._kernels.caching import inline
from fpemu._kernels.error_free import odd_sum, scaled_to_odd, two_product, two_sum
from fpemu._kernels.exact import number_word_at
from fpemu._kernels.expansions import (
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    TWO_OVER_SQRT_PI,
    clipped,
    exp_series,
    exponent_and_significand,
    log_series,
    nearest_integer,
    power_of_two,
    reduced,
)
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.random_bits import wide_bits
from fpemu._kernels.rounding import (
    DETERMINISTIC,
    STOCHASTIC,
    read_bits,
    round_word,
    unused_bits,
)
from fpemu._kernels.targets import target_at, targets_of

__all__ = [
    "ENCLOSURES",
    "NAMES",
    "bits_to_decide",
    "check_decidable",
    "low_bits_of",
    "odd_of",
    "odd_values",
    "rounder",
    "unused_by",
]

_MOST_PRECISION: Final = 24
_MOST_RANDOM_BITS: Final = 20  # more would leave too many elements undecided


def _tanh_series(terms: int) -> tuple[float, ...]:
    """The coefficients of ``x**3, x**5, ...`` in tanh x, from ``tanh' = 1 - tanh**2``."""
    series = [Fraction(1)]
    for n in range(1, terms + 1):
        square = sum((series[i] * series[n - 1 - i] for i in range(n)), Fraction(0))
        series.append(-square / (2 * n + 1))
    return tuple(float(c) for c in series[1:])


# Constants in two parts, the nearest float64 and the nearest float64 to the rest.
_LN2: Final = float.fromhex("0x1.62e42fefa39efp-1")
_LN2_REST: Final = float.fromhex("0x1.abc9e3b39803fp-56")
_LOG2_E_REST: Final = float.fromhex("0x1.777d0ffda0d24p-56")
_TWO_OVER_SQRT_PI_REST: Final = float.fromhex("0x1.1ae3a914fed80p-56")
_SQRT_TWO_OVER_PI: Final = float.fromhex("0x1.9884533d43651p-1")
_SQRT_HALF: Final = float.fromhex("0x1.6a09e667f3bcdp-1")
# gelu_tanh is x / (1 + e**-v) with v = 2 sqrt(2/pi) (x + 0.044715 x**3).
_GELU_LINEAR: Final = float.fromhex("0x1.9884533d43651p+0")
_GELU_LINEAR_REST: Final = float.fromhex("-0x1.cbc0d30ebfd15p-54")
_GELU_CUBIC: Final = float.fromhex("0x1.2444f2a4d8b4bp-4")
_GELU_CUBIC_REST: Final = float.fromhex("-0x1.6c843a29d1c70p-61")

# Coefficients for Horner's rule; the terms left out are below 2**-58 of the sum.
_EXP_TERMS: Final = 14
_TANH_SERIES: Final = _tanh_series(15)
_ERF_SERIES: Final = tuple((-1) ** n / (factorial(n) * (2.0 * n + 1)) for n in range(1, 21))
# (1 + 2a) e**(a**2) erfc(a) as a polynomial in t = (a - 3)/(a + 3): it interpolates at the 24
# Chebyshev points of 0.7 <= a <= 41 and is within 2**-63 (computed in mpmath with 250 bits; a test
# computes it again).
_ERFC_CENTER: Final = 3.0
_ERFC_POLYNOMIAL: Final = (
    1.2530080582697296,
    -0.1356211061245812,
    -0.04756229435345121,
    0.12964515870276247,
    -0.1192736634152717,
    0.06830802734392998,
    -0.023770514919755053,
    0.0025293918165908997,
    0.001888690375587915,
    -0.0007798322748443236,
    -0.00010515993860443677,
    0.00012509936230383119,
    4.950223297276737e-06,
    -2.0100635530074277e-05,
    -7.341094421439853e-07,
    3.472914020550638e-06,
    3.62941748848772e-07,
    -6.188108789598018e-07,
    -1.5077005220485722e-07,
    1.0705785624964922e-07,
    4.949351394120112e-08,
    -1.987081455073681e-08,
    -1.057952499981334e-08,
    4.396966235018911e-09,
)

_UNIT: Final = 2.0**-53
_TINY: Final = 2.0**-300  # below it, only the sign of x**2 counts beside x
_LIFT: Final = 2.0**600  # scales tiny arguments so that products do not underflow
_LIFT_EXPONENT: Final = 600
_STICKY: Final = 2.0**-100  # stands for any positive number smaller than itself


# --- parts of the enclosures ----------------------------------------------------------------------


@inline
def _power_of_two(exponent: Any) -> Any:
    """``2.0**exponent``; below -1000 that of -1000, small enough to stand for it in a sum."""
    return power_of_two(exponent if exponent > -1000 else np.int64(-1000))


@inline
def _exp_rest(r: float, rest: float) -> Any:
    """``exp(r + rest) - 1 - r`` and a bound on its error, for ``|r| <= 0.36``."""
    value = exp_series(r, rest, _EXP_TERMS)
    return value, 8.0 * _UNIT * abs(value) + 2.0 * abs(rest)


@inline
def _exp_parts(x: float, low: float) -> Any:
    """``(k, r, q, e)`` with ``exp(x + low) = 2**k (1 + r + q)``, q within e; |x| up to 2000."""
    k, near, rest = reduced(x)
    rest += low
    r = near + rest
    q, error = _exp_rest(r, rest - (r - near))
    return k, r, q, error + (0.0 if k == 0 else 2.0**-70)


@inline
def _log_parts(f: float) -> Any:
    """``(low, e)`` with ``log(1 + f) = f + low``, for ``|f| <= 0.42``, low within e."""
    correction, half_square = log_series(f)
    low = correction - half_square
    return low, 16.0 * _UNIT * abs(low)


@inline
def _tanh_rest(a: float) -> Any:
    """``tanh a - a`` for ``|a| <= 0.36``, within 6 units of itself."""
    z = a * a
    series = _TANH_SERIES[14]
    for n in range(13, -1, -1):
        series = words.fused_multiply_add(series, z, _TANH_SERIES[n])
    return a * z * series


@inline
def _erf_series(z: float) -> Any:
    """``sqrt(pi)/2 erf(x)/x - 1`` at ``z = x**2 <= 1``, within 6 units of itself."""
    series = _ERF_SERIES[19]
    for n in range(18, -1, -1):
        series = words.fused_multiply_add(series, z, _ERF_SERIES[n])
    return z * series


@inline
def _erfc_parts(a: float, square: float, low: float) -> Any:
    """``(k, v)`` with ``erfc(a) = 2**k v``, within 30 units, for ``a**2 = square + low``."""
    k, r, q, _ = _exp_parts(-square, -low)
    t = (a - _ERFC_CENTER) / (a + _ERFC_CENTER)
    value = _ERFC_POLYNOMIAL[23]
    for n in range(22, -1, -1):
        value = words.fused_multiply_add(value, t, _ERFC_POLYNOMIAL[n])
    return k, (1.0 + (r + q)) * value / (1.0 + 2.0 * a)


@inline
def _lifted(x: float) -> Any:
    """A number scaled up if it is tiny, and the exponent that undoes the scaling."""
    tiny = abs(x) < _TINY
    return (x * _LIFT if tiny else x), np.int64(-_LIFT_EXPONENT if tiny else 0)


@inline
def _logistic(factor: float, exponent: Any, v: float, low: float) -> Any:
    """The enclosure of ``2**exponent factor / (1 + exp(-(v + low)))``."""
    # Near zero, 1/2 + tanh(v/2)/2.
    half = 0.5 * v
    t = half + _tanh_rest(clipped(half, -0.36, 0.36))
    if abs(v) < _TINY:
        t = np.copysign(_STICKY, v) if v != 0.0 else v
    small = abs(v) < 0.7
    size = clipped(abs(v), 0.0, 800.0)
    k, r, q, _ = _exp_parts(-size, -low if v > 0.0 else low)
    e = 1.0 + (r + q)
    power = _power_of_two(k)
    quotient = e / (1.0 + e * power)
    positive = v > 0.0
    high = factor if positive else factor * quotient
    lower = -factor * quotient * power if positive else 0.0
    if small:
        high = 0.5 * factor
        lower = high * t
    error = 16.0 * _UNIT * (abs(lower) if positive or small else abs(high))
    return high, lower, error, exponent + (np.int64(0) if positive or small else k)


# --- the functions: each returns (high, low, error, exponent) -------------------------------------
#
# The exact value lies within ``2**exponent error`` of ``2**exponent (high + low)``.


@inline
def _exact(value: float) -> Any:
    return value, 0.0, 0.0, np.int64(0)


@inline
def _exp(x: float) -> Any:
    k, r, q, error = _exp_parts(clipped(x, -800.0, 800.0), 0.0)
    low = r + q
    error += 2.0 * _UNIT * abs(low)
    if not abs(x) < np.inf:
        return _exact(0.0 if x < 0.0 else x)
    return 1.0, low, error, k


@inline
def _exp2(x: float) -> Any:
    held = clipped(x, -1200.0, 1200.0)
    k, multiple = nearest_integer(held)
    f = held - multiple
    r = f * _LN2
    rest = words.fused_multiply_add(f, _LN2, -r) + f * _LN2_REST
    q, error = _exp_rest(r, rest)
    low = r + q
    error += 2.0 * _UNIT * abs(low)
    if not abs(x) < np.inf:
        return _exact(0.0 if x < 0.0 else x)
    return 1.0, low, error, k


@inline
def _expm1(x: float) -> Any:
    # In units of 2**k the value is 1 - 2**-k + r + q.
    k, r, q, error = _exp_parts(clipped(x, -300.0, 800.0), 0.0)
    difference, rest = two_sum(1.0, -_power_of_two(-k))
    high, further = two_sum(difference, r)
    low = (rest + further) + q
    error += 4.0 * _UNIT * (abs(low) + abs(rest))
    lifted, exponent = _lifted(x)
    if exponent != 0:
        high, low, error, k = lifted, abs(lifted) * _STICKY, 0.0, exponent
    if not abs(x) < np.inf or x == 0.0:
        return _exact(-1.0 if x < 0.0 else x)
    return high, low, error, k


@inline
def _log(x: float) -> Any:
    inside = 0.0 < x < np.inf
    k, m = exponent_and_significand(x if inside else 1.0)
    f = m - 1.0  # exact
    low, error = _log_parts(f)
    high, rest = two_sum(k * LN2_HIGH, f)
    further = k * LN2_LOW
    error += 4.0 * _UNIT * (abs(rest) + abs(further) + abs(low))
    if not inside:
        return _exact(-np.inf if x == 0.0 else np.nan if x < 0.0 else x)
    return high, rest + (further + low), error, np.int64(0)


@inline
def _log2(x: float) -> Any:
    inside = 0.0 < x < np.inf
    k, m = exponent_and_significand(x if inside else 1.0)
    f = m - 1.0
    natural, error = _log_parts(f)
    product, below = two_product(f, LOG2_E)
    high, rest = two_sum(np.float64(k), product)
    low = rest + (below + f * _LOG2_E_REST + natural * LOG2_E)
    error = 2.0 * error + 4.0 * _UNIT * (abs(low) + abs(rest) + abs(natural))
    if not inside:
        return _exact(-np.inf if x == 0.0 else np.nan if x < 0.0 else x)
    return high, low, error, np.int64(0)


@inline
def _log1p(x: float) -> Any:
    inside = -1.0 < x < np.inf
    held = x if inside else 1.0
    near = -0.29 < held < 0.41
    total, lost = two_sum(1.0, held)
    k, m = exponent_and_significand(total)
    f = held if near else m - 1.0
    k = np.int64(0) if near else k
    low, error = _log_parts(f)
    correction = 0.0 if near else lost / total  # its square is below 2**-106
    high, rest = two_sum(k * LN2_HIGH, f)
    further = k * LN2_LOW + correction
    error += 4.0 * _UNIT * (abs(rest) + abs(further) + abs(low))
    low = rest + (further + low)
    lifted, exponent = _lifted(held)
    if exponent != 0:
        high, low, error = lifted, -abs(lifted) * _STICKY, 0.0
    if not inside or x == 0.0:
        return _exact(-np.inf if x == -1.0 else np.nan if x < -1.0 else x)
    return high, low, error, exponent


@inline
def _tanh(x: float) -> Any:
    size = abs(x)
    rest = _tanh_rest(clipped(x, -0.36, 0.36))
    # 1 - 2 / (e**2x + 1), the quotient as 2 e**-2x / (1 + e**-2x).
    k, r, q, _ = _exp_parts(-2.0 * clipped(size, 0.0, 300.0), 0.0)
    e = (1.0 + (r + q)) * _power_of_two(k)
    lifted, exponent = _lifted(x)
    high, low = lifted, -lifted * _STICKY if exponent != 0 else rest
    if size >= 0.35:
        high = np.copysign(1.0, x)
        low = -high * (2.0 * e / (1.0 + e))
    if not size < np.inf or x == 0.0:
        return _exact(np.copysign(1.0, x) if size == np.inf else x)
    return high, low, 16.0 * _UNIT * abs(low), exponent


@inline
def _sigmoid(x: float) -> Any:
    if not abs(x) < np.inf:
        return _exact(x if x != x else 1.0 if x > 0.0 else 0.0)
    return _logistic(1.0, np.int64(0), x, 0.0)


@inline
def _silu(x: float) -> Any:
    if not abs(x) < np.inf or x == 0.0:
        return _exact(-0.0 if x == -np.inf else x)
    lifted, exponent = _lifted(x)
    return _logistic(lifted if x > -800.0 else -800.0, exponent, x, 0.0)


@inline
def _gelu_tanh(x: float) -> Any:
    held = clipped(x, -60.0, 60.0)
    square, square_rest = two_product(held, held)
    cubic, cubic_rest = two_product(_GELU_CUBIC, square)
    cubic_rest += _GELU_CUBIC * square_rest + _GELU_CUBIC_REST * square
    slope, slope_rest = two_sum(_GELU_LINEAR, cubic)
    slope_rest += _GELU_LINEAR_REST + cubic_rest
    v, v_rest = two_product(slope, held)
    v_rest += slope_rest * held
    if not abs(x) < np.inf or x == 0.0:
        return _exact(-0.0 if x == -np.inf else x)
    lifted, exponent = _lifted(x)
    return _logistic(lifted if x > -60.0 else -60.0, exponent, v, v_rest)


@inline
def _erf(x: float) -> Any:
    size = abs(x)
    lifted, exponent = _lifted(x)
    high, low = two_product(TWO_OVER_SQRT_PI, lifted)
    square = clipped(size, 0.0, 1.0)
    correction = high * _erf_series(square * square)
    further = _TWO_OVER_SQRT_PI_REST * lifted
    error = 4.0 * _UNIT * (abs(low) + abs(further)) + 32.0 * _UNIT * abs(correction)
    low += further + correction
    a = clipped(size, 1.0, 26.0)
    product, rest = two_product(a, a)
    k, value = _erfc_parts(a, product, rest)
    if size >= 1.0:
        high = np.copysign(1.0, x)
        low = -high * (value * _power_of_two(k))
        error = 64.0 * _UNIT * abs(low)
    if not size < np.inf or x == 0.0:
        return _exact(np.copysign(1.0, x) if size == np.inf else x)
    return high, low, error, exponent


@inline
def _gelu(x: float) -> Any:
    size = abs(x)
    lifted, exponent = _lifted(x)
    # Near zero, x/2 (1 + erf(x / sqrt 2)).
    near = clipped(x, -1.0, 1.0)
    erf_value = _SQRT_TWO_OVER_PI * near
    erf_value += erf_value * _erf_series(0.5 * near * near)
    if exponent != 0:
        erf_value = np.copysign(_STICKY, x)
    high = 0.5 * lifted
    low = high * erf_value
    held = clipped(size, 1.0, 55.0)
    product, rest = two_product(0.5 * held, held)
    k, value = _erfc_parts(held * _SQRT_HALF, product, rest)
    error = 32.0 * _UNIT * abs(low)
    if x >= 1.0:  # x - x/2 erfc(x / sqrt 2)
        high = x
        low = -0.5 * x * (value * _power_of_two(k))
        error = 32.0 * _UNIT * abs(low)
    if x <= -1.0:  # x/2 erfc(-x / sqrt 2)
        high = -0.5 * held * value
        low = 0.0
        error = 32.0 * _UNIT * abs(high)
        exponent = k
    if not size < np.inf or x == 0.0:
        return _exact(-0.0 if x == -np.inf else x)
    return high, low, error, exponent


@inline
def _rsqrt(x: float) -> Any:
    inside = 0.0 < x < np.inf
    k, m = exponent_and_significand(x if inside else 1.0)
    odd = k & np.int64(1)
    m = m * (2.0 if odd != 0 else 1.0)
    k = (k - odd) >> np.int64(1)
    high = 1.0 / np.sqrt(m)
    # 1 - m high**2, of which 1 - m high**2 rounded is exact.
    square, square_rest = two_product(high, high)
    product, product_rest = two_product(m, square)
    residual = (1.0 - product) - words.fused_multiply_add(m, square_rest, product_rest)
    low = 0.5 * high * residual
    if not inside:
        return _exact(
            np.copysign(np.inf, x) if x == 0.0 else np.nan if x < 0.0 else 0.0 * (1.0 / x)
        )
    return high, low, 0.0 if m == 1.0 else 2.0**-100, -k


@inline
def _reciprocal(x: float) -> Any:
    size = abs(x)
    inside = 0.0 < size < np.inf
    k, m = exponent_and_significand(size if inside else 1.0)
    high = np.copysign(1.0 / m, x)
    residual = words.fused_multiply_add(-m, abs(high), 1.0)  # exact
    low = high * residual
    if not inside:
        return _exact(np.copysign(np.inf, x) if x == 0.0 else 1.0 / x)
    return high, low, 2.0**-48 * abs(low), -k


# --- from an enclosure to a number rounded to odd -------------------------------------------------


@inline
def _odd_end(high: float, low: float) -> Any:
    """The word of an end of an enclosure, ``high + low``, rounded to odd; -0 stays what it is."""
    return words.word(high) if low == 0.0 else odd_sum(high, low)


@inline
def _is_undecided(first: Any, second: Any, low: Any) -> Any:
    """Whether a number whose `low` bits are zero lies between two odd words, or is one of them."""
    apart = ((first ^ second) & ~low) != 0
    return apart | (((first & low) == 0) != ((second & low) == 0))


# --- kernels --------------------------------------------------------------------------------------

ENCLOSURES: Final = {
    "exp": _exp,
    "exp2": _exp2,
    "expm1": _expm1,
    "log": _log,
    "log2": _log2,
    "log1p": _log1p,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "rsqrt": _rsqrt,
    "reciprocal": _reciprocal,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
}
NAMES: Final = tuple(ENCLOSURES)

enclosure: Any = None  # each kernel has its own


@inline
def odd_of(high: float, low: float, error: float, exponent: Any, low_bits: Any) -> Any:
    """An enclosure as a number rounded to odd, and whether it leaves a rounding undecided."""
    first = _odd_end(high, low - error)
    second = _odd_end(high, low + error)
    odd = words.floating(scaled_to_odd(first, exponent))
    return odd, _is_undecided(first, second, low_bits)


def _odd_range(x, out, undecided, low_bits):  # type: ignore[no-untyped-def]
    # LLVM compiles gelu and erf a quarter slower if nothing is counted.
    count = np.int64(0)
    for i in range(x.size):
        high, low, error, exponent = enclosure(x[i])
        out[i], doubt = odd_of(high, low, error, exponent, low_bits)
        undecided[i] = doubt
        count += np.int64(doubt)
    return count


@functools.cache
def _kernel_of(name: str) -> Any:
    return caching.specialized(_odd_range, enclosure=ENCLOSURES[name])


def low_bits_of(bits: int) -> Any:
    """The bits of a float64 number's word below its `bits` leading ones, all set."""
    return np.uint64(2 ** (53 - bits) - 1)


def odd_values(
    name: str, x: NDArray[np.float64], bits: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Enclose the function of a flat array and round it to odd.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    x : ndarray of float64, 1-d
        The arguments.
    bits : int
        Number of leading bits of a value that decide its rounding, besides the sticky bit.

    Returns
    -------
    odd : ndarray of float64
        The values, correct where they are decided.
    undecided : ndarray of bool
        Where the enclosure holds a number of `bits` bits.
    """
    odd = np.empty(x.size)
    undecided = np.empty(x.size, np.bool_)
    _kernel_of(name)(x, odd, undecided, low_bits_of(bits))
    return odd, undecided


@caching.kernel
def _round_in_place(x, targets):  # type: ignore[no-untyped-def]
    target = target_at(targets, 0)
    for i in range(x.size):
        x[i] = words.floating(round_word(words.word(x[i]), target, DETERMINISTIC))


@caching.kernel
def _round_stochastically(x, targets, first, key, unused):  # type: ignore[no-untyped-def]
    """Round elements ``first``, ``first + 1``, ... of a call, each with the bits of its index."""
    target = target_at(targets, 0)
    per_block = random_bits.BLOCK_WORDS // 2
    random = np.empty(random_bits.BLOCK_WORDS, np.uint32)
    held = np.int64(-1)
    for i in range(x.size):
        block = (first + i) // per_block
        if block != held:
            random_bits.fill_block(block, key, random)
            held = block
        drawn = wide_bits(random, first + i - block * per_block, per_block)
        drawn = words.shift_left(words.shift_right(drawn, unused), unused)
        bits = number_word_at(words.word(x[i]), target, STOCHASTIC, drawn, unused)
        x[i] = words.floating(bits)


def check_decidable(name: str, format: FormatFacts, rounding: RoundingFacts) -> None:
    """Raise ValueError for a format or a rounding that enclosures do not decide in good time."""
    if format.precision > _MOST_PRECISION:
        raise ValueError(
            f"{name} is correctly rounded for formats of at most {_MOST_PRECISION} significand "
            f"bits, but {format} has {format.precision}"
        )
    if (rounding.random_bits or 0) > _MOST_RANDOM_BITS:
        raise ValueError(
            f"{name} draws at most {_MOST_RANDOM_BITS} random_bits, not {rounding.random_bits}"
        )


def bits_to_decide(format: FormatFacts, rounding: RoundingFacts) -> int:
    """Number of leading bits of a value that decide its rounding, besides the sticky bit."""
    if rounding.is_stochastic:
        return format.precision + read_bits(rounding, _MOST_RANDOM_BITS) + 1
    return _MOST_PRECISION + 2


def unused_by(rounding: RoundingFacts) -> Any:
    """How many of the 64 bits drawn for an element a stochastic rounding leaves out."""
    if rounding.random_bits is None:
        return np.uint64(64 - _MOST_RANDOM_BITS)
    return unused_bits(rounding)


def rounder(
    format: FormatFacts, rounding: RoundingFacts
) -> Callable[[NDArray[np.float64], int], None]:
    """A function that rounds odd values in place, given the index of the first one in the call."""
    targets = targets_of((format, rounding))
    if rounding.is_stochastic:
        key = random_bits.key_of(rounding.seed)
        unused = unused_by(rounding)
        return lambda odd, first: _round_stochastically(odd, targets, first, key, unused)
    return lambda odd, _: _round_in_place(odd, targets)
