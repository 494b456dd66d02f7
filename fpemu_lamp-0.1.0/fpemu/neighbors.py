"""The numbers of a format next to a number: ``nextafter``, ``spacing`` and ``ulp``.

References
----------
IEEE Std 754-2019, section 5.3.1 (nextUp, nextDown).  J.-M. Muller et al., Handbook of
Floating-Point Arithmetic, 2nd ed., section 2.3.2 (Goldberg's ulp).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import formats as _formats
from fpemu._kernels import launching
from fpemu.arithmetic import add
from fpemu.carriers import Carrier, as_carrier, check_no_nan, result_dtype
from fpemu.formats import Format, FormatLike
from fpemu.limits import finfo
from fpemu.rounding import round as round_into

__all__ = ["nextafter", "spacing", "ulp"]

_LEAST: Final = 2.0**-1074  # no two numbers of any format are nearer to each other


def _gaps(x: Carrier, format: Format) -> NDArray[np.float64]:
    """The distance of the two numbers of a format around each magnitude, of finite numbers."""
    exponents = np.frexp(np.abs(x))[1] - 1
    held = np.clip(exponents, format.emin, format.emax)
    gaps = np.asarray(np.ldexp(1.0, held - format.precision + 1))
    if not format.subnormals:
        gaps[np.abs(x) < format.smallest_normal] = format.smallest_normal
    else:
        gaps[x == 0] = format.smallest_subnormal
    return gaps


@launching.default_environment()
def ulp(x: ArrayLike, format: FormatLike) -> Any:
    """The unit in the last place of a format at each number, as ``math.ulp`` has it for float64.

    Parameters
    ----------
    x : array_like
        Real numbers, any shape; they need not be members of the format.
    format : Format or str
        The format.

    Returns
    -------
    ndarray or scalar
        ``2**(max(e, emin) - p + 1)`` for a number of exponent e and a format of precision p: the
        distance of the two members around it.  At zero, the smallest positive member, and also
        below `smallest_normal` if there are no subnormal numbers; beyond the largest member, as at
        it; infinity at infinities, NaN at NaN.  float32 if `x` is and the format fits, else
        float64.

    Raises
    ------
    ValueError
        If the format is unknown.
    TypeError
        If `x` does not hold real numbers of at most 64 bits.

    See Also
    --------
    spacing : the same with numpy's conventions.

    References
    ----------
    J.-M. Muller et al., Handbook of Floating-Point Arithmetic, 2nd ed., section 2.3.2.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.ulp([1.0, -300.0, 0.3, 0.0], "float8_e4m3fn")
    array([1.250000e-01, 3.200000e+01, 3.125000e-02, 1.953125e-03])
    """
    format = _formats.format(format)
    array = as_carrier(x)
    finite = np.isfinite(array)
    gaps = np.where(finite, _gaps(np.where(finite, array, 0), format), np.abs(array))
    return gaps.astype(result_dtype(format, array))[()]


@launching.default_environment()
def spacing(x: ArrayLike, format: FormatLike) -> Any:
    """The distance from each member of a format to the next one away from zero.

    Parameters
    ----------
    x : array_like
        Real numbers, any shape; between two members it is the distance of these.
    format : Format or str
        The format.

    Returns
    -------
    ndarray or scalar
        As :func:`ulp`, but with the sign of `x`, and NaN at infinities, as in numpy.  At the
        largest number it is the spacing below, where numpy has an infinity.

    Raises
    ------
    ValueError
        If the format is unknown.
    TypeError
        If `x` does not hold real numbers of at most 64 bits.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.spacing([1.0, -1.0, 1000.0], "bfloat16")
    array([ 0.0078125, -0.0078125,  4.       ])
    """
    array = as_carrier(x)
    gaps = np.asarray(ulp(array, format))
    signed = np.where(array < 0, -gaps, gaps)
    return np.where(np.isinf(array), np.nan, signed).astype(gaps.dtype)[()]


@launching.default_environment()
def nextafter(x: ArrayLike, y: ArrayLike, format: FormatLike) -> Any:
    """The next member of a format after each number in the direction of another.

    Parameters
    ----------
    x : array_like
        Where to start from: real numbers, which need not be members of the format.
    y : array_like
        Where to go, broadcast with `x`.
    format : Format or str
        The format.

    Returns
    -------
    ndarray or scalar
        The smallest member above x where y is larger, the largest below x where y is smaller, and
        y, rounded to nearest, where both are equal.  Beyond the largest finite number comes
        infinity; in a format without infinities NaN, or, without NaN, the largest number again;
        P3109's finite formats stay at the largest, too.  Below the least number of an unsigned
        format comes what rounding down gives, see :func:`fpemu.round`.  NaN if x or y is NaN.
        float32 if both are and the format fits, else float64.

    Raises
    ------
    ValueError
        If the format is unknown, `x` and `y` do not broadcast, or a NaN meets a format without NaN.
    TypeError
        If `x` or `y` does not hold real numbers of at most 64 bits.

    References
    ----------
    IEEE Std 754-2019, section 5.3.1.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.nextafter(1.0, [2.0, 0.0], "float8_e4m3fn")
    array([1.125 , 0.9375])
    >>> fpemu.nextafter([0.0, 448.0, 0.3], 1000.0, "float8_e4m3fn")
    array([0.00195312,        nan, 0.3125    ])
    """
    format = _formats.format(format)
    given = as_carrier(x), as_carrier(y, "y")
    dtype = result_dtype(format, *given)
    for name, array in zip(("x", "y"), given, strict=True):
        check_no_nan(array, format, name)
    start, end = (array.astype(np.float64) for array in given)
    try:
        start, end = np.broadcast_arrays(start, end)
    except ValueError:
        shapes = f"{start.shape} and {end.shape}"
        raise ValueError(f"x and y do not broadcast: they have shapes {shapes}") from None
    result = np.asarray(round_into(end, format)).astype(np.float64)
    for sign, chosen in ((1.0, start < end), (-1.0, start > end)):
        result[chosen] = _beyond(start[chosen], sign, format)
    result[np.isnan(start)] = np.nan
    return result.astype(dtype)[()]


def _beyond(x: NDArray[np.float64], sign: float, format: Format) -> NDArray[np.float64]:
    """The next members after numbers, upward if the sign is positive."""
    mode, smallest = "rtp" if sign > 0 else "rtn", format.smallest_normal
    held = x if format.signed or sign < 0 else np.maximum(x, -_LEAST)
    # The exact sum lies between the number and the next member, and is rounded to that.
    moved = np.asarray(add(np.where(np.isinf(held), 0.0, held), sign * _LEAST, format, mode))
    moved = moved.astype(np.float64)
    zeros = moved == 0
    moved[zeros] = np.copysign(0.0, x[zeros]) if format.has_negative_zero else 0.0
    if not format.subnormals and (format.signed or sign > 0):
        # Rounding flushes to zero, or to the smallest number if there is no zero.
        within = 0.0 if format.has_zero else -smallest
        moved[(sign * held >= within) & (sign * held < smallest)] = sign * smallest
    last = finfo(format).min if sign > 0 else format.max_finite
    return np.where(sign * x == -np.inf, last, moved)
