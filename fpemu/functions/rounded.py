"""Correctly rounded elementary functions for formats of at most 24 significand bits.

A kernel encloses the exact value in float64 arithmetic and rounds both ends of the enclosure to
odd (``fpemu._kernels.enclosures``).  If no number of 26 bits lies in the enclosure, either end
rounds into the format as the exact value does, in any mode: a rounding depends on two bits beyond
the format's and a sticky bit.  The few enclosures that hold a number of 26 bits are evaluated by
mpmath, in increasing precision, until they hold none (Ziv's strategy).  A stochastic mode depends
on as many bits beyond the format's as it draws at random.

The iteration ends.  A transcendental function has values of 26 bits only at arguments where the
kernels are exact: at 0 or 1, and for base two at integers or powers of two.  (That erf has no other
rational value is believed, not proved; mpmath would end with an error.)  `rsqrt` and `reciprocal`
have such values only at powers of four and two, where the kernels are exact too.

References
----------
A. Ziv, Fast evaluation of elementary mathematical functions with correctly rounded last bit, ACM
TOMS 17 (1991).  S. Boldo and G. Melquiond, Emulation of FMA and correctly rounded sums: proved
algorithms using rounding to odd, IEEE Trans. Computers 57 (2008).  J.-M. Muller et al., Handbook of
Floating-Point Arithmetic, 2nd ed., sections 4.3 and 10.  C99, Annex F (special values).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from fpemu import formats as _formats
from fpemu._kernels import enclosures, launching
from fpemu.carriers import Carrier, as_carrier, check_no_nan, check_out, result_dtype
from fpemu.formats import Format, FormatLike
from fpemu.multiprecision import odd_value
from fpemu.rounding import Rounding, RoundingLike, as_rounding
from fpemu.rounding import round as round_into

__all__ = [
    "erf",
    "exp",
    "exp2",
    "expm1",
    "gelu",
    "gelu_tanh",
    "log",
    "log1p",
    "log2",
    "reciprocal",
    "relu",
    "rsqrt",
    "sigmoid",
    "silu",
    "tanh",
]

_QUOTIENTS: Final = ("reciprocal", "rsqrt")  # of a zero, which has no sign in P3109
_Documented = TypeVar("_Documented", bound=Callable[..., Any])


# --- arrays ---------------------------------------------------------------------------------------

_COST: Final = 20.0  # nanoseconds of an element
_BLOCK: Final = 1 << 14  # elements of the intermediate arrays, so that they stay in the cache


def _evaluate(name: str, x: Carrier, format: Format, rounding: Rounding, result: Carrier) -> None:
    """Write the rounded function of a flat array into a flat result."""
    bits = enclosures.bits_to_decide(format, rounding)
    round_odd = enclosures.rounder(format, rounding)
    invalid: list[int] = []

    def work(start: int, stop: int) -> None:
        for first in range(start, stop, _BLOCK):
            part = slice(first, min(first + _BLOCK, stop))
            arguments = x[part].astype(np.float64)
            odd, undecided = enclosures.odd_values(name, arguments, bits)
            for i in np.flatnonzero(undecided):
                odd[i] = odd_value(name, float(arguments[i]))
            if format.p3109 and name in _QUOTIENTS:
                odd[arguments == 0] = np.nan
            if not format.has_nan and np.isnan(odd).any():
                invalid.append(first + int(np.argmax(np.isnan(odd))))
                return
            round_odd(odd, first)
            result[part] = odd

    launching.run(work, x.size, cost=_COST)
    if invalid:
        at = min(invalid)
        raise ValueError(f"{name}({x[at]}) is NaN (element {at}), but {format} has no NaN")


@launching.default_environment()
def _function(
    name: str, x: ArrayLike, format: FormatLike, rounding: RoundingLike, out: Carrier | None
) -> Any:
    """Check the arguments and compute the function."""
    format = _formats.format(format)
    rounding = as_rounding(rounding)
    enclosures.check_decidable(name, format, rounding)
    array = as_carrier(x)
    check_no_nan(array, format)
    dtype = result_dtype(format, array)
    place = None if out is None else check_out(out, array.shape, format)
    order: Literal["C", "F"] = "F" if array.flags.fnc and not rounding.is_stochastic else "C"
    result = np.empty(array.shape, dtype, order=order)
    flat = cast(Carrier, np.asarray(array, order=order).reshape(-1, order=order))
    _evaluate(name, flat, format, rounding, result.reshape(-1, order=order))
    if place is None:
        return result[()]
    place[...] = result
    return out


_DOCUMENTATION: Final = """

    Parameters
    ----------
    x : array_like
        Real numbers, any shape; they need not be members of the format.
    format : Format or str
        The format of the result, of at most 24 significand bits (relu: any).
    rounding : Rounding or str
        The rounding, or just its mode.  Stochastic rounding truncates the discarded fraction to
        `random_bits` bits, at most 20 and by default 20 (relu: as :func:`fpemu.round`).
    out : ndarray, optional
        Array for the result; may be `x` itself.

    Returns
    -------
    ndarray or scalar
        The exact value at each element, rounded once; float32 if `x` is float32 and the format
        fits, else float64.

    Raises
    ------
    ValueError
        If the format has more than 24 significand bits, `out` has the wrong shape, or a value is
        NaN and the format has no NaN.
    TypeError
        If `x` does not hold real numbers of at most 64 bits.
"""


def _documented(function: _Documented) -> _Documented:
    """Insert the shared sections after the summary of a docstring."""
    summary, _, further = (function.__doc__ or "").partition("\n")
    function.__doc__ = summary + _DOCUMENTATION + further
    return function


@_documented
def exp(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``e**x``.

    Examples
    --------
    >>> from fpemu import functions
    >>> functions.exp([0.0, 1.0, -1e6], "bfloat16")
    array([1.    , 2.71875, 0.    ])
    >>> functions.exp(-1e6, "bfloat16", "rtp")
    np.float64(9.183549615799121e-41)
    """
    return _function("exp", x, format, rounding, out)


@_documented
def exp2(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``2**x``."""
    return _function("exp2", x, format, rounding, out)


@_documented
def expm1(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``e**x - 1``, -0 at -0."""
    return _function("expm1", x, format, rounding, out)


@_documented
def log(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """The natural logarithm: -inf at zeros, NaN below."""
    return _function("log", x, format, rounding, out)


@_documented
def log2(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """The logarithm to base two: -inf at zeros, NaN below."""
    return _function("log2", x, format, rounding, out)


@_documented
def log1p(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``log(1 + x)``: -inf at -1, NaN below, -0 at -0."""
    return _function("log1p", x, format, rounding, out)


@_documented
def tanh(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """The hyperbolic tangent.

    Examples
    --------
    >>> from fpemu import functions
    >>> functions.tanh(40.0, "float16"), functions.tanh(40.0, "float16", "rtz")
    (np.float64(1.0), np.float64(0.99951171875))
    """
    return _function("tanh", x, format, rounding, out)


@_documented
def sigmoid(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """The logistic function ``1 / (1 + e**-x)``."""
    return _function("sigmoid", x, format, rounding, out)


@_documented
def erf(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """The error function."""
    return _function("erf", x, format, rounding, out)


@_documented
def rsqrt(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``1 / sqrt(x)``: an infinity of its sign at a zero (P3109: NaN), NaN below."""
    return _function("rsqrt", x, format, rounding, out)


@_documented
def reciprocal(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``1 / x``: an infinity of its sign at a zero (P3109: NaN)."""
    return _function("reciprocal", x, format, rounding, out)


@_documented
def gelu(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``x Phi(x)`` with the normal distribution function Phi; -0 at -inf."""
    return _function("gelu", x, format, rounding, out)


@_documented
def gelu_tanh(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3)))``, the constants exact; -0 at -inf."""
    return _function("gelu_tanh", x, format, rounding, out)


@_documented
def silu(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``x / (1 + e**-x)``; -0 at -inf."""
    return _function("silu", x, format, rounding, out)


@_documented
@launching.default_environment()
def relu(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``max(x, 0)``: +0 at -0."""
    array = as_carrier(x)
    positive = np.where(array <= 0, array.dtype.type(0), array)
    return round_into(positive, format, rounding, out=out)
