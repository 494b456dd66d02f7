"""Reference implementations: rounding, inner products and functions by their definitions.

This module shares no code with the kernels.  Every function follows the definition of what it
computes, one number at a time, and is slow.  Tests compare the kernels with it, and users can check
their own arithmetic and error bounds against it.

Rational values are computed in exact rational arithmetic, all others in mpmath.  Results do not
depend on the precision of mpmath's global context, and functions restore it.  That context is not
thread-safe, so neither are the functions of this module.

References
----------
IEEE Std 754-2019, sections 4.3 (rounding), 6.3 (the sign of zero) and 7.4 (overflow).  C99, Annex F
(special values of functions).  A. Ziv, Fast evaluation of elementary mathematical functions with
correctly rounded last bit, ACM TOMS 17 (1991).
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Final, Protocol, TypeAlias

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import formats
from fpemu.formats import Format, FormatLike, in_default_environment

__all__ = [
    "attention",
    "decode_exact",
    "dot",
    "dot_exact",
    "function",
    "gelu",
    "layer_norm",
    "members",
    "rms_norm",
    "round_exact",
    "softmax",
]

Number: TypeAlias = "numbers.Rational | int | float | np.floating | np.integer | mpmath.mpf"


class RoundingLike(Protocol):
    """Anything that says how to round, such as :class:`fpemu.Rounding`."""

    @property
    def mode(self) -> str:
        """One of the rounding modes."""

    @property
    def overflow(self) -> str:
        """``"ieee"``, ``"saturate"``, ``"propagate"`` or ``"infinity"``."""


# The integer that ``below + rest / unit`` rounds to, where ``0 <= rest < unit``.  To nearest, a tie
# goes up if one is added.
_TO_INTEGER: Final[dict[str, Callable[[int, int, int], int]]] = {
    "rne": lambda below, rest, unit: below + (2 * rest + below % 2 > unit),
    "rna": lambda below, rest, unit: below + (2 * rest + (below >= 0) > unit),
    "rnz": lambda below, rest, unit: below + (2 * rest + (below < 0) > unit),
    "rtz": lambda below, rest, unit: below + (below < 0 < rest),
    "rtp": lambda below, rest, unit: below + (rest > 0),
    "rtn": lambda below, rest, unit: below,
    "rto": lambda below, rest, unit: below + (rest > 0 and below % 2 == 0),
}
_OVERFLOWS: Final = ("ieee", "saturate", "propagate", "infinity")

# No finite number of any format lies beyond these exponents.
_FAR: Final = 4096


@in_default_environment
def round_exact(
    x: Number,
    format: FormatLike,
    rounding: str | RoundingLike = "rne",
    overflow: str | None = None,
) -> float:
    """The member of a format that a real number rounds to.

    Parameters
    ----------
    x : Fraction or another rational number, int, float or mpmath.mpf
        The number, taken exactly; a float or mpf may be infinite or NaN, a float may be -0.
    format : Format or str
        The format to round into.
    rounding : str or Rounding
        A mode (``"rne"``, ``"rna"``, ``"rnz"``, ``"rtz"``, ``"rtp"``, ``"rtn"``, ``"rto"``) or an
        object with attributes ``mode`` and ``overflow``.
    overflow : {"ieee", "saturate", "propagate", "infinity"}, optional
        By default that of `rounding` if it is an object, else ``"ieee"``.

    Returns
    -------
    float
        The rounded value.

    Raises
    ------
    ValueError
        If `x` is NaN and the format has no NaN, or a mode or overflow rule is unknown.  Stochastic
        modes are not supported, because their result is not unique.
    TypeError
        If `x` is not a real number.

    Notes
    -----
    With precision p, a nonzero number of exponent e is divided by the quantum
    ``2**max(e-p+1, emin-p+1)``.  The mode rounds the quotient to an integer, and that integer times
    the quantum is the result if it lies in the range of the format.  "Even" and "odd" refer to that
    integer, so that at precision 1 a tie between two powers of two goes to the larger magnitude
    (IEEE 754-2019 §4.3.1); in P3109 formats they refer to the code.

    Examples
    --------
    >>> from fractions import Fraction
    >>> from fpemu.reference import round_exact
    >>> round_exact(Fraction(1, 3), "bfloat16")
    0.333984375
    >>> round_exact(65520, "float16"), round_exact(65520, "float16", "rtz")
    (inf, 65504.0)
    """
    target = formats.format(format)
    mode, overflow = _mode_and_overflow(rounding, overflow)
    exact = _ratio(x)
    if isinstance(exact, tuple):
        return _round_nonzero(*exact, target, mode, overflow)
    negative = math.copysign(1.0, exact) < 0
    if math.isnan(exact):
        if not target.has_nan:
            raise ValueError(f"x is nan, and format {target.name!r} has no NaN")
        return math.nan
    if math.isinf(exact):
        if negative and not target.signed:
            return _invalid(target)
        return _infinity(target, negative, overflow)
    return _zero(target, negative)


def _mode_and_overflow(rounding: str | RoundingLike, overflow: str | None) -> tuple[str, str]:
    if isinstance(rounding, str):
        mode, overflow = rounding, overflow or "ieee"
    else:
        mode, overflow = rounding.mode, overflow or rounding.overflow
    if mode not in _TO_INTEGER:
        raise ValueError(f"rounding mode {mode!r} is none of {', '.join(_TO_INTEGER)}")
    if overflow not in _OVERFLOWS:
        raise ValueError(f"overflow {overflow!r} is none of {', '.join(_OVERFLOWS)}")
    return mode, overflow


def _exact(x: Number) -> Fraction | float:
    """`x` as a Fraction, or as a float if it is zero, infinite or NaN."""
    ratio = _ratio(x)
    return Fraction(*ratio) if isinstance(ratio, tuple) else ratio


_FLOATS: Final = (float, np.floating)


def _ratio(x: Number) -> tuple[int, int] | float:
    """Numerator and denominator of `x`, or `x` as a float if it is zero, infinite or NaN."""
    if isinstance(x, _FLOATS):
        return x.as_integer_ratio() if math.isfinite(x) and x != 0 else float(x)
    if isinstance(x, mpmath.mpf):
        return _ratio_of_mpf(x)
    if isinstance(x, numbers.Rational):
        return (int(x.numerator), int(x.denominator)) if x else 0.0
    raise TypeError(
        f"x must be a rational number, a float or an mpmath.mpf, not {type(x).__name__}"
    )


def _ratio_of_mpf(x: mpmath.mpf) -> tuple[int, int] | float:
    if not mpmath.isfinite(x) or x == 0:
        return float(x)
    exponent = int(mpmath.mag(x))
    # The exponent of an mpf can be too large to write the number out.  Numbers far beyond the range
    # of all formats round alike.
    if abs(exponent) > _FAR:
        return _scaled(int(mpmath.sign(x)), 1, _FAR if exponent > 0 else -_FAR)
    numerator, denominator = mpmath.libmp.to_rational(x._mpf_)
    return int(numerator), int(denominator)


def _round_nonzero(
    numerator: int, denominator: int, target: Format, mode: str, overflow: str
) -> float:
    negative = numerator < 0
    exponent = _exponent(numerator, denominator)
    quantum_exponent = max(exponent - target.precision + 1, target.quantum_exponent)
    quotient = _scaled(numerator, denominator, -quantum_exponent)
    multiple = _rounded_to_integer(*quotient, quantum_exponent, target, mode)
    magnitude = _ldexp(abs(multiple), quantum_exponent)
    if not target.subnormals and magnitude < target.smallest_normal:
        magnitude = 0.0
    if magnitude == 0 and target.has_zero:
        return _zero(target, negative)
    if negative and not target.signed:
        return _invalid(target)
    if magnitude == 0:
        return _signed(target.smallest_normal, negative)
    if magnitude > target.max_finite:
        return _overflowed(target, negative, mode, overflow)
    return _signed(magnitude, negative)


def _rounded_to_integer(
    numerator: int, denominator: int, quantum_exponent: int, target: Format, mode: str
) -> int:
    below, rest = divmod(numerator, denominator)
    if not (target.p3109 and target.precision == 1):
        return _TO_INTEGER[mode](below, rest, denominator)
    # Each code is a power of two, and the quotient lies between the codes of 0 and 1 or of 1 and 2.
    offset = quantum_exponent + target.bias - 1 if abs(numerator) >= denominator else 0
    offset = -offset if numerator < 0 else offset
    return _TO_INTEGER[mode](below + offset, rest, denominator) - offset


def _exponent(numerator: int, denominator: int) -> int:
    """``floor(log2 |x|)`` of a fraction x."""
    exponent = numerator.bit_length() - denominator.bit_length()
    if denominator & (denominator - 1) == 0:  # a power of two, as those of floats are
        return exponent
    # |x| lies between 2**(exponent-1) and 2**(exponent+1).
    numerator, denominator = _scaled(numerator, denominator, -exponent)
    return exponent if abs(numerator) >= denominator else exponent - 1


def _scaled(numerator: int, denominator: int, exponent: int) -> tuple[int, int]:
    """A fraction times ``2**exponent``."""
    if exponent >= 0:
        return numerator << exponent, denominator
    return numerator, denominator << -exponent


def _ldexp(integer: int, exponent: int) -> float:
    """``integer * 2**exponent``, a float64 number or infinity if it is larger than all of them."""
    try:
        return math.ldexp(integer, exponent)
    except OverflowError:
        return math.inf


def _signed(magnitude: float, negative: bool) -> float:
    return -magnitude if negative else magnitude


def _zero(target: Format, negative: bool) -> float:
    if not target.has_zero:
        return _invalid(target)
    return -0.0 if negative and target.has_negative_zero else 0.0


def _invalid(target: Format) -> float:
    """The result of an invalid operation, such as rounding -1 into an unsigned format."""
    if target.has_nan and not target.p3109:
        return math.nan
    return 0.0 if target.has_zero else target.smallest_normal


def _infinity(target: Format, negative: bool, overflow: str) -> float:
    if target.infinities and overflow != "saturate":
        return _signed(math.inf, negative)
    if target.p3109 or overflow in ("saturate", "propagate") or not target.has_nan:
        return _signed(target.max_finite, negative)
    return math.nan


def _overflowed(target: Format, negative: bool, mode: str, overflow: str) -> float:
    """The result for a finite number beyond the largest (IEEE 754-2019 §7.4)."""
    away = mode in ("rne", "rna", "rnz") or mode == ("rtn" if negative else "rtp")
    if target.p3109 and mode == "rto":
        away = target.max_finite_code % 2 == 0
    if overflow in ("saturate", "propagate") or not (away or overflow == "infinity"):
        return _signed(target.max_finite, negative)
    return _infinity(target, negative, overflow)


@in_default_environment
def decode_exact(code: int, format: FormatLike) -> float:
    """The value of a code.

    Parameters
    ----------
    code : int
        Between 0 and ``2**bits - 1``.
    format : Format or str

    Returns
    -------
    float
        The value.  In a format without subnormals their codes give zeros of their sign.

    Raises
    ------
    ValueError
        If `code` is out of range.

    Examples
    --------
    >>> from fpemu.reference import decode_exact
    >>> decode_exact(0x3C01, "float16"), decode_exact(0xFF, "float8_e4m3fn")
    (1.0009765625, nan)
    """
    source, code = formats.format(format), operator.index(code)
    if not 0 <= code < 2**source.bits:
        raise ValueError(f"code {code} is not in 0..{2**source.bits - 1}")
    return _decoded(code, source)


def _decoded(code: int, source: Format) -> float:
    sign_bit = 2 ** (source.bits - 1)
    if source.twos_complement:
        multiple = code - 2**source.bits if code >= sign_bit else code
        return math.ldexp(multiple, source.quantum_exponent)
    negative = source.signed and code >= sign_bit
    if code == sign_bit and source.signed and not source.negative_zero:
        return math.nan
    unsigned_code = code - sign_bit if negative else code
    if unsigned_code > source.max_finite_code:
        is_infinity = source.infinities and unsigned_code == source.max_finite_code + 1
        return _signed(math.inf, negative) if is_infinity else math.nan
    field, fraction = divmod(unsigned_code, 2 ** (source.precision - 1))
    if field == 0 and source.has_zero:
        if fraction == 0 or not source.subnormals:
            return _zero(source, negative)
        significand, exponent = fraction, source.emin
    else:
        significand, exponent = 2 ** (source.precision - 1) + fraction, field - source.bias
    magnitude = math.ldexp(significand, exponent - source.precision + 1)
    return _signed(magnitude, negative)


@in_default_environment
def members(format: FormatLike) -> list[float]:
    """All finite values of a format of at most 16 bits.

    Parameters
    ----------
    format : Format or str

    Returns
    -------
    list of float
        In ascending order, with -0 before +0 if the format has both.

    Raises
    ------
    ValueError
        If the format is wider than 16 bits.

    Examples
    --------
    >>> from fpemu.reference import members
    >>> members("float4_e2m1fn")[8:]
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    source = formats.format(format)
    if source.bits > 16:
        raise ValueError(f"format {source.name!r} has {source.bits} bits; at most 16 are listed")
    values = (_decoded(code, source) for code in range(2**source.bits))
    if source.twos_complement:  # whose lowest code is no member
        values = (value for value in values if abs(value) <= source.max_finite)
    # Without subnormals several codes decode to zero.
    distinct = {(value, math.copysign(1.0, value)) for value in values if math.isfinite(value)}
    return [value for value, _ in sorted(distinct)]


@in_default_environment
def dot_exact(a: Iterable[Number], b: Iterable[Number]) -> Fraction:
    """The exact inner product of two vectors of finite numbers.

    Parameters
    ----------
    a, b : iterable of float, int or Fraction
        Vectors of the same length; arrays of floats or of integers, too.

    Returns
    -------
    Fraction
        The exact value.

    Raises
    ------
    ValueError
        If the lengths differ or an element is not finite.

    Examples
    --------
    >>> from fpemu.reference import dot_exact
    >>> dot_exact([1e300, 1.0, -1e300], [1.0, 0.5, 1.0])
    Fraction(1, 2)
    """
    left, right = _finite(a, "a"), _finite(b, "b")
    if len(left) != len(right):
        raise ValueError(f"a has {len(left)} elements and b has {len(right)}")
    # One fraction in the end: each would be reduced to its lowest terms.
    numerator, denominator = 0, 1
    for x, y in zip(left, right, strict=True):
        common = math.lcm(denominator, x[1] * y[1])
        term = x[0] * y[0] * (common // (x[1] * y[1]))
        numerator, denominator = numerator * (common // denominator) + term, common
    return Fraction(numerator, denominator)


def _finite(vector: Iterable[Number], name: str) -> list[tuple[int, int]]:
    """Numerators and denominators."""
    ratios = []
    for index, element in enumerate(vector):
        ratio = _ratio(element)
        if isinstance(ratio, float):
            if ratio != 0:
                raise ValueError(
                    f"{name}[{index}] is {element}; an exact product needs finite numbers"
                )
            ratio = 0, 1
        ratios.append(ratio)
    return ratios


@in_default_environment
def dot(
    a: Iterable[Number],
    b: Iterable[Number],
    format: FormatLike,
    rounding: str | RoundingLike = "rne",
    overflow: str | None = None,
) -> float:
    """The correctly rounded inner product of two vectors of finite numbers.

    Parameters
    ----------
    a, b : iterable of float, int or Fraction
        Vectors of the same length.
    format, rounding, overflow
        As in :func:`round_exact`.

    Returns
    -------
    float
        An inner product that is exactly zero gives +0.

    Raises
    ------
    ValueError
        As :func:`dot_exact` and :func:`round_exact`.

    Examples
    --------
    >>> from fpemu.reference import dot
    >>> dot([1.0, 2.0**-30], [1.0, 1.0], "bfloat16", "rtp")
    1.0078125
    """
    return round_exact(dot_exact(a, b), format, rounding, overflow)


# --- functions of one number ---------------------------------------------------------------------

_NAN: Final = math.nan
_INF: Final = math.inf
# The values at -inf, -0, +0 and +inf (C99, Annex F, where it has the function).
_SPECIAL_VALUES: Final = {
    "erf": (-1.0, -0.0, 0.0, 1.0),
    "exp": (0.0, 1.0, 1.0, _INF),
    "exp2": (0.0, 1.0, 1.0, _INF),
    "expm1": (-1.0, -0.0, 0.0, _INF),
    "gelu": (-0.0, -0.0, 0.0, _INF),
    "gelu_tanh": (-0.0, -0.0, 0.0, _INF),
    "log": (_NAN, -_INF, -_INF, _INF),
    "log1p": (_NAN, -0.0, 0.0, _INF),
    "log2": (_NAN, -_INF, -_INF, _INF),
    "reciprocal": (-0.0, -_INF, _INF, 0.0),
    "relu": (0.0, 0.0, 0.0, _INF),
    "rsqrt": (_NAN, -_INF, _INF, 0.0),
    "sigmoid": (0.0, 0.5, 0.5, 1.0),
    "silu": (-0.0, -0.0, 0.0, _INF),
    "sqrt": (_NAN, -0.0, 0.0, _INF),
    "tanh": (-1.0, -0.0, 0.0, 1.0),
}


def _square_root(x: Fraction) -> Fraction | float | None:
    if x < 0:
        return _NAN
    root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
    return root if root * root == x else None


def _reciprocal_square_root(x: Fraction) -> Fraction | float | None:
    root = _square_root(x)
    return 1 / root if isinstance(root, Fraction) else root


def _logarithm(x: Fraction) -> Fraction | float | None:
    return _NAN if x < 0 else 0.0 if x == 1 else None


def _logarithm_to_base_2(x: Fraction) -> Fraction | float | None:
    if x > 0 and x == Fraction(2) ** (exponent := _exponent(*x.as_integer_ratio())):
        return Fraction(exponent) or 0.0
    return _logarithm(x)


def _logarithm_of_1_plus(x: Fraction) -> Fraction | float | None:
    return _NAN if x < -1 else -_INF if x == -1 else None


# Rational, infinite and undefined values at nonzero numbers; None elsewhere.
_RATIONAL_VALUES: Final[dict[str, Callable[[Fraction], Fraction | float | None]]] = {
    "exp2": lambda x: Fraction(2) ** x.numerator if x.denominator == 1 else None,
    "log": _logarithm,
    "log1p": _logarithm_of_1_plus,
    "log2": _logarithm_to_base_2,
    "reciprocal": lambda x: 1 / x,
    "relu": lambda x: x if x > 0 else 0.0,
    "rsqrt": _reciprocal_square_root,
    "sqrt": _square_root,
}
# All other values.  No formula cancels where it is used, and none amplifies the error of an
# intermediate result by more than 2**16.
_DEFINITIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "erf": mpmath.erf,
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.exp(x * mpmath.log(2)),
    "expm1": mpmath.expm1,
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "gelu_tanh": lambda x: (
        x / (1 + mpmath.exp(-mpmath.sqrt(8 / mpmath.pi) * (x + 44715 * x**3 / 1000000)))
    ),
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "log2": lambda x: mpmath.log(x) / mpmath.log(2),
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "sqrt": mpmath.sqrt,
    "tanh": mpmath.tanh,
}

# Values at arguments beyond _FAR_OUT.  They are so close to their limit that any number as close
# rounds alike: an argument is a ratio of integers of at most _FAR bits, so that it is a member of
# the format or a midpoint, or differs from all of them by more than 2**-4150.  Both the value and
# the number that replaces it are closer to the limit than that.
_FAR_OUT: Final = {"erf": 60, "gelu": 80, "gelu_tanh": 40}
_USUALLY_FAR_OUT: Final = 3000
_NOTHING: Final = Fraction(1, 2**8400)
_FAR_VALUES: Final[dict[str, tuple[Callable[[Fraction], Fraction], ...]]] = {
    **dict.fromkeys(("exp", "exp2"), (lambda _: _NOTHING, lambda _: 1 / _NOTHING)),
    "expm1": (lambda _: _NOTHING - 1, lambda _: 1 / _NOTHING),
    **dict.fromkeys(("erf", "tanh"), (lambda _: _NOTHING - 1, lambda _: 1 - _NOTHING)),
    "sigmoid": (lambda _: _NOTHING, lambda _: 1 - _NOTHING),
    **dict.fromkeys(
        ("gelu", "gelu_tanh", "silu"), (lambda _: -_NOTHING, lambda x: x * (1 - _NOTHING))
    ),
}

_FIRST_PRECISION: Final = 128
_LAST_PRECISION: Final = 2**14
_GUARD_BITS: Final = 32
_REMEMBERED: Final = 1024  # enclosures


@in_default_environment
def function(
    name: str,
    x: Number,
    format: FormatLike,
    rounding: str | RoundingLike = "rne",
    overflow: str | None = None,
) -> float:
    """The correctly rounded value of an elementary function.

    Parameters
    ----------
    name : str
        One of ``erf exp exp2 expm1 gelu gelu_tanh log log1p log2 reciprocal relu rsqrt sigmoid silu
        sqrt tanh``, as :mod:`fpemu.functions` defines them.
    x : Fraction, int, float or mpmath.mpf
        The argument, taken exactly: any float, infinities, NaN and -0 included, or any ratio of
        integers of at most 4096 bits.
    format, rounding, overflow
        As in :func:`round_exact`; any format, float64 included.

    Returns
    -------
    float
        The exact value rounded once.

    Raises
    ------
    ValueError
        If `name` is unknown, `x` has more bits, the value is NaN and the format has no NaN, or as
        :func:`round_exact`.
    TypeError
        If `x` is not a real number.
    ArithmeticError
        If 16384 bits do not separate the value from a number where the rounding changes.  No such
        argument is known.

    Notes
    -----
    Ziv's strategy: mpmath encloses the value in increasing precision until both ends of the
    enclosure round alike.  The iteration ends, because a value of a transcendental function is
    neither a member of a format nor a midpoint, except at known arguments, which are treated as
    exact: 0, 1 for the logarithms, integers for exp2 and powers of two for log2.  (For erf, gelu
    and gelu_tanh this is believed, not proved.)  Rational square roots are exact too.

    References
    ----------
    A. Ziv, ACM TOMS 17 (1991).  C99, Annex F.  A. Baker, Transcendental Number Theory, chapter 1
    (the theorem of Lindemann and Weierstrass).

    Examples
    --------
    >>> from fpemu.reference import function
    >>> function("exp", 1, "float64"), function("exp", 1, "bfloat16", "rtz")
    (2.718281828459045, 2.703125)
    >>> function("tanh", 1e300, "float64"), function("tanh", 1e300, "float64", "rtz")
    (1.0, 0.9999999999999999)
    """
    if name not in _SPECIAL_VALUES:
        raise ValueError(f"function {name!r} is none of {', '.join(_SPECIAL_VALUES)}")
    target = formats.format(format)
    rounded = functools.partial(round_exact, format=target, rounding=rounding, overflow=overflow)
    exact = _exact_argument(x, "x")
    if isinstance(exact, Fraction):
        value = _known_value(name, exact)
        if value is None:
            return _rounded_by_ziv(name, exact, rounded)
    else:
        value = _value_at_zero_or_infinity(name, exact)
    if target.p3109 and exact == 0 and name in ("reciprocal", "rsqrt"):
        value = math.nan  # zero has no sign
    if isinstance(value, float) and math.isnan(value) and not target.has_nan:
        raise ValueError(f"{name}({x}) is nan, and format {target.name!r} has no NaN")
    return rounded(value)


def _exact_argument(x: Number, name: str) -> Fraction | float:
    """`_exact`, for numbers that can be written out."""
    exact = _exact(x)
    if isinstance(exact, Fraction):
        bits = max(exact.numerator.bit_length(), exact.denominator.bit_length())
        if bits > _FAR:  # as are the numbers that stand for an mpf further out
            raise ValueError(f"{name} is no ratio of integers of at most {_FAR} bits")
    return exact


def _value_at_zero_or_infinity(name: str, x: float) -> float:
    at_minus_infinity, at_minus_zero, at_zero, at_infinity = _SPECIAL_VALUES[name]
    if math.isnan(x):
        return x
    if math.isinf(x):
        return at_infinity if x > 0 else at_minus_infinity
    return at_minus_zero if math.copysign(1.0, x) < 0 else at_zero


def _known_value(name: str, x: Fraction) -> Fraction | float | None:
    """The value or a number that rounds as it does; None if the value must be enclosed."""
    if name in _FAR_VALUES and abs(x) >= _FAR_OUT.get(name, _USUALLY_FAR_OUT):
        below, above = _FAR_VALUES[name]
        return above(x) if x > 0 else below(x)
    rational = _RATIONAL_VALUES.get(name)
    return None if rational is None else rational(x)


def _rounded_by_ziv(name: str, x: Fraction, rounded: Callable[[Any], float]) -> float:
    precision = _FIRST_PRECISION
    while precision <= _LAST_PRECISION:
        # repr distinguishes the signs of zeros and makes all NaNs equal.
        ends = {repr(rounded(end)): end for end in _enclosure(name, x, precision)}
        if len(ends) == 1:
            return rounded(*ends.values())
        precision *= 2
    raise ArithmeticError(
        f"{_LAST_PRECISION} bits do not decide how {name}({mpmath.nstr(_mpf(x))}) rounds"
    )


@functools.lru_cache(_REMEMBERED)  # an argument is asked for in several formats and modes
def _enclosure(name: str, x: Fraction, precision: int) -> tuple[Any, ...]:
    """Numbers whose least and greatest enclose the value.

    The argument is enclosed first, because it may have more bits than the precision.  If the
    function has an extremum between both ends, the margin covers it.
    """
    with mpmath.workprec(precision + _GUARD_BITS):
        arguments = {_mpf(x, "f"), _mpf(x, "c")}  # floor and ceiling, mostly the same
        values = [_DEFINITIONS[name](argument) for argument in arguments]
    with mpmath.workprec(2 * precision + _GUARD_BITS):
        margin = mpmath.ldexp(1, -precision)
        return tuple(value * (1 + sign * margin) for value in values for sign in (-1, 1))


def _mpf(x: Fraction, direction: str = "n") -> Any:
    """`x` rounded once to mpmath's working precision."""
    parts = mpmath.libmp.from_rational(x.numerator, x.denominator, mpmath.mp.prec, direction)
    return mpmath.mp.make_mpf(parts)


# --- vectors, in any precision -------------------------------------------------------------------

Vector: TypeAlias = "ArrayLike | Sequence[mpmath.mpf]"
_Exact: TypeAlias = "NDArray[np.object_]"  # of Fractions

_BITS_PER_DIGIT: Final = math.log2(10)
_SPARE_BITS: Final = 32  # cover the accumulated rounding errors of a few operations


@in_default_environment
def softmax(x: Vector, *, digits: int = 50) -> NDArray[np.object_]:
    """``exp(x) / sum(exp(x))`` along the last axis, to any number of digits.

    Parameters
    ----------
    x : array_like of float or mpmath.mpf
        Finite numbers, at least one-dimensional, taken exactly.  Integers and Fractions are
        accepted too.
    digits : int
        The accuracy: the relative error of each component is at most ``10**-digits``.

    Returns
    -------
    ndarray of mpmath.mpf
        Shape of `x`.  Further arithmetic on these numbers uses the precision of mpmath's global
        context, see :func:`mpmath.workdps`.

    Raises
    ------
    ValueError
        If an element is infinite, NaN or not a ratio of integers of at most 4096 bits (the message
        names its index), `x` is a scalar, its last axis is empty, or `digits` is not positive.
    TypeError
        If an element is not a real number.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, Accurately computing the log-sum-exp and softmax
    functions, IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import mpmath
    >>> from fpemu.reference import softmax
    >>> mpmath.nstr(softmax([0.0, 1.0])[1], 40)
    '0.7310585786300048792511592418218362743651'
    """
    bits = _working_bits(digits)
    return _by_rows(lambda row: _softmax(row, Fraction(1), bits), _exact_vectors(x, "x"))


def _softmax(scores: Sequence[Fraction], square: Fraction, bits: int) -> list[Any]:
    """The softmax of scores times the square root of `square`."""
    top = max(scores)
    # The relative error of an exponential is the absolute error of its argument.
    more = _exponent_bits(max(top - score for score in scores) * (1 + square))
    with mpmath.workprec(bits + more + len(scores).bit_length()):
        factor = mpmath.sqrt(_mpf(square))
        exponentials = [mpmath.exp(_mpf(score - top) * factor) for score in scores]
        total = mpmath.fsum(exponentials)
        return [exponential / total for exponential in exponentials]


@in_default_environment
def layer_norm(
    x: Vector,
    epsilon: Number = 1e-5,
    weight: Vector | None = None,
    bias: Vector | None = None,
    *,
    digits: int = 50,
) -> NDArray[np.object_]:
    """``(x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias`` along the last axis.

    Parameters
    ----------
    x : array_like of float or mpmath.mpf
        As for :func:`softmax`.
    epsilon : float, Fraction or mpmath.mpf
        A nonnegative number, taken exactly: 1e-5 is the float64 number next to ``10**-5``.
    weight, bias : array_like of float or mpmath.mpf, optional
        Vectors of the length of the last axis of `x`; by default ones and zeros.
    digits : int
        The accuracy: the error of each component is at most ``10**-digits`` times the sum of the
        magnitudes of the scaled component and of the bias, a relative error if there is no bias.

    Returns
    -------
    ndarray of mpmath.mpf
        Shape of `x`; see :func:`softmax`.

    Raises
    ------
    ValueError, TypeError
        As :func:`softmax`, for any of the arguments; also if `weight` or `bias` has the wrong
        shape, `epsilon` is negative, or `epsilon` and the variance of a row are both 0.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, Layer normalization, arXiv 1607.06450 (2016).

    Examples
    --------
    >>> from fpemu.reference import layer_norm
    >>> [float(z) for z in layer_norm([1.0, 2.0, 3.0, 6.0], epsilon=0.5, bias=[0.0, 0.0, 0.0, 1.0])]
    [-1.0, -0.5, 0.0, 2.5]
    """
    return _normalized(x, epsilon, weight, bias, digits, centered=True)


@in_default_environment
def rms_norm(
    x: Vector,
    epsilon: Number = 1e-5,
    weight: Vector | None = None,
    *,
    digits: int = 50,
) -> NDArray[np.object_]:
    """``x / sqrt(mean(x**2) + epsilon) * weight`` along the last axis.

    Parameters
    ----------
    x, epsilon, weight
        As for :func:`layer_norm`.
    digits : int
        The accuracy: the relative error of each component is at most ``10**-digits``.

    Returns
    -------
    ndarray of mpmath.mpf
        Shape of `x`; see :func:`softmax`.

    Raises
    ------
    ValueError, TypeError
        As :func:`layer_norm`.

    References
    ----------
    B. Zhang, R. Sennrich, Root mean square layer normalization, NeurIPS 2019.

    Examples
    --------
    >>> from fpemu.reference import rms_norm
    >>> [float(z) for z in rms_norm([1.0, -7.0], epsilon=0.0)]
    [0.2, -1.4]
    """
    return _normalized(x, epsilon, weight, None, digits, centered=False)


def _normalized(
    x: Vector,
    epsilon: Number,
    weight: Vector | None,
    bias: Vector | None,
    digits: int,
    *,
    centered: bool,
) -> NDArray[np.object_]:
    bits, rows = _working_bits(digits), _exact_vectors(x, "x")
    weights = _exact_parameter(weight, "weight", rows.shape[-1], 1)
    biases = _exact_parameter(bias, "bias", rows.shape[-1], 0)
    exact_epsilon = Fraction(_exact_finite(epsilon, "epsilon"))
    if exact_epsilon < 0:
        raise ValueError(f"epsilon must be a nonnegative number, not {epsilon}")

    def normalized_row(row: Sequence[Fraction]) -> list[Any]:
        center = _mean(row) if centered else Fraction(0)
        deviations = [element - center for element in row]
        square = _mean([deviation**2 for deviation in deviations]) + exact_epsilon
        if square == 0:
            raise ValueError("epsilon is 0 and a row has variance 0: the result would be 0/0")
        scaled = [d * factor for d, factor in zip(deviations, weights, strict=True)]
        with mpmath.workprec(bits):
            root = mpmath.sqrt(_mpf(square))
            return [_mpf(d) / root + _mpf(b) for d, b in zip(scaled, biases, strict=True)]

    return _by_rows(normalized_row, rows)


def _mean(numbers: Sequence[Fraction]) -> Fraction:
    return sum(numbers, Fraction(0)) / len(numbers)


@in_default_environment
def gelu(x: Vector, *, digits: int = 50) -> NDArray[np.object_]:
    """``x Phi(x)`` of each element, with the normal distribution function Phi.

    Parameters
    ----------
    x : array_like of float or mpmath.mpf
        As for :func:`softmax`.
    digits : int
        The accuracy: the relative error of each component is at most ``10**-digits``.

    Returns
    -------
    ndarray of mpmath.mpf
        Shape of `x`; see :func:`softmax`.

    Raises
    ------
    ValueError, TypeError
        As :func:`softmax`.

    References
    ----------
    D. Hendrycks, K. Gimpel, Gaussian error linear units (GELUs), arXiv 1606.08415 (2016).

    Examples
    --------
    >>> import mpmath
    >>> from fpemu.reference import gelu
    >>> mpmath.nstr(gelu([-1.0])[0], 40)
    '-0.1586552539314570514147674543679620775221'
    """
    bits = _working_bits(digits)

    def element_gelu(element: Fraction) -> Any:
        # erfc multiplies the relative error of its argument by twice the argument's square.
        with mpmath.workprec(bits + 2 * _exponent_bits(element)):
            return _DEFINITIONS["gelu"](_mpf(element))

    return _by_rows(lambda row: list(map(element_gelu, row)), _exact_vectors(x, "x"))


@in_default_environment
def attention(
    q: Vector, k: Vector, v: Vector, causal: bool = False, *, digits: int = 50
) -> NDArray[np.object_]:
    """``softmax(q k^T / sqrt(d)) v``, the softmax by rows.

    Parameters
    ----------
    q : array_like of float or mpmath.mpf, shape (queries, d)
        Elements as for :func:`softmax`.
    k, v : array_like of float or mpmath.mpf, shapes (keys, d) and (keys, columns)
        Keys and their values.
    causal : bool
        Whether query i attends only to keys 0 to i.  There must then be as many keys as queries.
    digits : int
        The accuracy: with the weights z of a row, the error of each component is at most
        ``10**-digits`` times ``sum_j z_j |v_j|``.

    Returns
    -------
    ndarray of mpmath.mpf, shape (queries, columns)
        See :func:`softmax`.

    Raises
    ------
    ValueError, TypeError
        As :func:`softmax`, for any of the arguments; also if they are not matrices of matching
        shapes.

    References
    ----------
    A. Vaswani et al., Attention is all you need, NeurIPS 2017, section 3.2.1.

    Examples
    --------
    >>> from fpemu.reference import attention
    >>> z = attention([[1.0], [0.0]], [[2.0], [2.0]], [[3.0], [5.0]], causal=True)
    >>> z.astype(float)
    array([[3.],
           [4.]])
    """
    bits = _working_bits(digits)
    queries, keys, values = _matrices(q, k, v, causal)
    result = np.empty((queries.shape[0], values.shape[1]), object)
    for i, query in enumerate(queries):
        count = i + 1 if causal else len(keys)
        scores = [sum(query * key, Fraction(0)) for key in keys[:count]]
        weights = _softmax(scores, Fraction(1, len(query)), bits)
        with mpmath.workprec(bits + count.bit_length()):
            for j, column in enumerate(values[:count].T):
                result[i, j] = mpmath.fdot(weights, map(_mpf, column))
    return result


def _matrices(q: Vector, k: Vector, v: Vector, causal: bool) -> tuple[_Exact, _Exact, _Exact]:
    queries, keys, values = _exact_vectors(q, "q"), _exact_vectors(k, "k"), _exact_vectors(v, "v")
    shapes = f"q {queries.shape}, k {keys.shape}, v {values.shape}"
    if not queries.ndim == keys.ndim == values.ndim == 2:
        raise ValueError(f"attention takes matrices, not shapes {shapes}")
    if queries.shape[1] != keys.shape[1] or len(keys) != len(values) or len(keys) == 0:
        raise ValueError(
            f"shapes must be (queries, d), (keys, d) and (keys, columns), not {shapes}"
        )
    if causal and len(queries) != len(keys):
        raise ValueError(f"causal attention needs as many queries as keys, not shapes {shapes}")
    return queries, keys, values


def _working_bits(digits: int) -> int:
    if digits < 1:
        raise ValueError(f"digits must be positive, not {digits}")
    return math.ceil(digits * _BITS_PER_DIGIT) + _SPARE_BITS


def _exponent_bits(x: Fraction) -> int:
    """Number of bits of the integer part of a number."""
    return int(abs(x)).bit_length()


def _exact_finite(x: Number, name: str) -> Fraction | float:
    exact = _exact_argument(x, name)
    if isinstance(exact, float) and not math.isfinite(exact):
        raise ValueError(f"{name} is {x}, which is not a finite number")
    return exact


def _exact_vectors(x: Vector, name: str) -> _Exact:
    """An array of Fractions whose last axis is not empty."""
    array = np.asarray(x)
    if array.dtype.kind in "fV" and np.can_cast(array.dtype, np.float64):
        array = array.astype(np.float64)  # float16 and the types of ml_dtypes
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} must hold vectors of at least one element, not {array.shape}")
    exact = np.empty(array.shape, object)
    for index, element in np.ndenumerate(array):
        place = f"{name}[{', '.join(map(str, index))}]"
        exact[index] = Fraction(_exact_finite(element, place))
    return exact


def _exact_parameter(
    parameter: Vector | None, name: str, columns: int, default: int
) -> Sequence[Fraction]:
    if parameter is None:
        return [Fraction(default)] * columns
    exact = _exact_vectors(parameter, name)
    if exact.shape != (columns,):
        raise ValueError(
            f"{name} has shape {exact.shape}, but the rows of x have {columns} elements"
        )
    return list(exact)


def _by_rows(
    function_of_row: Callable[[Sequence[Fraction]], list[Any]], x: _Exact
) -> NDArray[np.object_]:
    result = np.empty(x.shape, object)
    rows = result.reshape(-1, x.shape[-1])
    for i, row in enumerate(x.reshape(-1, x.shape[-1])):
        rows[i] = function_of_row(list(row))
    return result
