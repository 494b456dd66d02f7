"""The judge: rounding and inner products in exact rational arithmetic, one number at a time.

Nothing here shares code with the kernels.  Every function reads like the definition of what it
computes and is as slow as that makes it; tests hold the kernels against it, and users can hold
their own arithmetic and error bounds against it.

References
----------
IEEE Std 754-2019, sections 4.3 (rounding), 6.3 (the sign of zero) and 7.4 (overflow).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Final, Protocol, TypeAlias

import mpmath
import numpy as np

from fpemu import formats
from fpemu.formats import Format, FormatLike

__all__ = ["decode_exact", "dot", "dot_exact", "members", "round_exact"]

Number: TypeAlias = "Fraction | int | float | np.floating | np.integer | mpmath.mpf"


class RoundingLike(Protocol):
    """Anything that says how to round, such as :class:`fpemu.Rounding`."""

    @property
    def mode(self) -> str:
        """One of the rounding modes."""

    @property
    def overflow(self) -> str:
        """``"ieee"`` or ``"saturate"``."""


_HALF: Final = Fraction(1, 2)


def _nearest_ties_away(t: Fraction) -> int:
    return math.floor(t + _HALF) if t > 0 else math.ceil(t - _HALF)


def _nearest_ties_toward_zero(t: Fraction) -> int:
    return math.ceil(t - _HALF) if t > 0 else math.floor(t + _HALF)


def _odd(t: Fraction) -> int:
    below = math.floor(t)
    return below if t == below or below % 2 == 1 else below + 1


_TO_INTEGER: Final[dict[str, Callable[[Fraction], int]]] = {
    "rne": round,  # Python rounds a Fraction to nearest with ties to even
    "rna": _nearest_ties_away,
    "rnz": _nearest_ties_toward_zero,
    "rtz": math.trunc,
    "rtp": math.ceil,
    "rtn": math.floor,
    "rto": _odd,
}
_OVERFLOWS: Final = ("ieee", "saturate")

# No finite number of any format lies beyond these exponents.
_FAR: Final = 4096


def round_exact(
    x: Number,
    format: FormatLike,
    rounding: str | RoundingLike = "rne",
    overflow: str | None = None,
) -> float:
    """The member of a format that a real number rounds to.

    Parameters
    ----------
    x : Fraction, int, float or mpmath.mpf
        The number, taken exactly; a float or mpf may be infinite or NaN, a float may be -0.
    format : Format or str
        The format to round into.
    rounding : str or Rounding
        A mode (``"rne"``, ``"rna"``, ``"rnz"``, ``"rtz"``, ``"rtp"``, ``"rtn"``, ``"rto"``) or an
        object with attributes ``mode`` and ``overflow``.
    overflow : {"ieee", "saturate"}, optional
        Left out: that of `rounding` if it is an object, else ``"ieee"``.

    Returns
    -------
    float
        The rounded value.

    Raises
    ------
    ValueError
        If `x` is NaN and the format has no NaN, or a mode or overflow rule is unknown.  Stochastic
        rounding is unknown here: it has no one result.
    TypeError
        If `x` is not a real number.

    Notes
    -----
    With precision p, a nonzero number of exponent e is divided by the quantum
    ``2**max(e-p+1, emin-p+1)``; the quotient is rounded to an integer by the mode, and that integer
    times the quantum is the rounded number as long as it lies in the range of the format.  "Even"
    and "odd" speak of that integer, so that at precision 1 a tie between two powers of two goes to
    the larger magnitude (IEEE 754-2019 §4.3.1).

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
    exact = _exact(x)
    if isinstance(exact, Fraction):
        return _round_nonzero(exact, target, mode, overflow)
    negative = math.copysign(1.0, exact) < 0
    if math.isnan(exact):
        if not target.has_nan:
            raise ValueError(f"x is nan, and format {target.name!r} has no NaN")
        return math.nan
    if math.isinf(exact):
        if negative and not target.signed:
            return _invalid(target)
        if overflow == "saturate":
            return _signed(target.max_finite, negative)
        return _infinity(target, negative)
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
    if isinstance(x, mpmath.mpf):
        return _exact_mpf(x)
    if isinstance(x, float | np.floating):
        finite_nonzero = math.isfinite(x) and x != 0
        return Fraction(*x.as_integer_ratio()) if finite_nonzero else float(x)
    if isinstance(x, Fraction):
        return x or 0.0
    if isinstance(x, int | np.integer):
        return Fraction(int(x)) if x else 0.0
    raise TypeError(
        f"x must be a Fraction, an int, a float or an mpmath.mpf, not {type(x).__name__}"
    )


def _exact_mpf(x: mpmath.mpf) -> Fraction | float:
    if not mpmath.isfinite(x) or x == 0:
        return float(x)
    exponent = int(mpmath.mag(x))
    # The exponent of an mpf can be too large to write the number out, and numbers far beyond the
    # formats round alike.
    if abs(exponent) > _FAR:
        return _scaled(Fraction(int(mpmath.sign(x))), _FAR if exponent > 0 else -_FAR)
    numerator, denominator = mpmath.libmp.to_rational(x._mpf_)
    return Fraction(int(numerator), int(denominator))


def _round_nonzero(x: Fraction, target: Format, mode: str, overflow: str) -> float:
    negative = x < 0
    quantum_exponent = max(_exponent(x) - target.precision + 1, target.quantum_exponent)
    multiple = _TO_INTEGER[mode](_scaled(x, -quantum_exponent))
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


def _exponent(x: Fraction) -> int:
    """``floor(log2 |x|)``."""
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    # |x| lies between 2**(exponent-1) and 2**(exponent+1).
    return exponent if abs(_scaled(x, -exponent)) >= 1 else exponent - 1


def _scaled(x: Fraction, exponent: int) -> Fraction:
    """``x * 2**exponent``."""
    if exponent >= 0:
        return Fraction(x.numerator << exponent, x.denominator)
    return Fraction(x.numerator, x.denominator << -exponent)


def _ldexp(integer: int, exponent: int) -> float:
    """``integer * 2**exponent``, which is a float64 number or beyond all of them."""
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
    """What a number becomes that the format cannot even approximate."""
    if target.has_nan:
        return math.nan
    return 0.0 if target.has_zero else target.smallest_normal


def _infinity(target: Format, negative: bool) -> float:
    if target.infinities:
        return _signed(math.inf, negative)
    return math.nan if target.has_nan else _signed(target.max_finite, negative)


def _overflowed(target: Format, negative: bool, mode: str, overflow: str) -> float:
    """The result for a finite number beyond the largest (IEEE 754-2019 §7.4)."""
    away = mode in ("rne", "rna", "rnz") or mode == ("rtn" if negative else "rtp")
    if overflow == "saturate" or not away:
        return _signed(target.max_finite, negative)
    return _infinity(target, negative)


def decode_exact(code: int, format: FormatLike) -> float:
    """The value that a code stands for.

    Parameters
    ----------
    code : int
        Between 0 and ``2**bits - 1``.
    format : Format or str

    Returns
    -------
    float
        The value; a code of a format without subnormals that would be one gives a zero of its sign.

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
    source = formats.format(format)
    if not 0 <= code < 2**source.bits:
        raise ValueError(f"code {code} is not in 0..{2**source.bits - 1}")
    sign_bit = 2 ** (source.bits - 1)
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


def members(format: FormatLike) -> list[float]:
    """All finite values of a format of at most 16 bits.

    Parameters
    ----------
    format : Format or str

    Returns
    -------
    list of float
        In ascending order, -0 before +0 where the format has both.

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
    values = (decode_exact(code, source) for code in range(2**source.bits))
    # Two codes may decode alike where there are no subnormals.
    distinct = {(value, math.copysign(1.0, value)) for value in values if math.isfinite(value)}
    return [value for value, _ in sorted(distinct)]


def dot_exact(a: Iterable[float], b: Iterable[float]) -> Fraction:
    """The exact inner product of two vectors of finite numbers.

    Parameters
    ----------
    a, b : iterable of float
        Vectors of one length.

    Returns
    -------
    Fraction

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
    return sum((x * y for x, y in zip(left, right, strict=True)), Fraction(0))


def _finite(vector: Iterable[float], name: str) -> list[Fraction]:
    fractions = []
    for index, element in enumerate(vector):
        if not math.isfinite(element):
            raise ValueError(f"{name}[{index}] is {element}; an exact product needs finite numbers")
        fractions.append(Fraction(*element.as_integer_ratio()))
    return fractions


def dot(
    a: Iterable[float],
    b: Iterable[float],
    format: FormatLike,
    rounding: str | RoundingLike = "rne",
    overflow: str | None = None,
) -> float:
    """The correctly rounded inner product of two vectors of finite numbers.

    Parameters
    ----------
    a, b : iterable of float
        Vectors of one length.
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
