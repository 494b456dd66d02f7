"""The limits of formats under numpy's names: :func:`finfo`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fpemu import _html
from fpemu import formats as _formats
from fpemu._environment import in_default_environment
from fpemu.formats import Format, FormatLike

__all__ = ["FloatInfo", "finfo"]


@dataclass(frozen=True)
class FloatInfo:
    """The limits of a format, with the attributes of ``numpy.finfo``; made by :func:`finfo`.

    Attributes
    ----------
    format : Format
        The format, in place of numpy's `dtype`.
    bits : int
        The number of bits of a code.
    eps, epsneg : float
        The distance from 1 to the next larger and to the next smaller number.
    machep, negep : int
        Their exponents: ``eps == 2.0**machep`` and ``epsneg == 2.0**negep``.
    max, min : float
        The largest and the least finite number.  The least of an unsigned format is its zero, or
        the smallest positive number if it has none.
    maxexp : int
        The least exponent e for which ``2.0**e`` overflows.
    minexp : int
        The exponent of `smallest_normal`.
    nexp, iexp : int
        The number of bits of the exponent field.
    nmant : int
        The number of stored significand bits.
    precision : int
        The number of decimal digits that hold: ``-log10(eps)``, rounded down.
    resolution : float
        ``10.0**-precision``
    smallest_normal, tiny : float
        The smallest positive number of full precision.
    smallest_subnormal : float
        The smallest positive number; `smallest_normal` if there are no subnormal numbers.
    """

    format: Format
    bits: int
    eps: float
    epsneg: float
    machep: int
    negep: int
    max: float
    min: float
    maxexp: int
    minexp: int
    nexp: int
    nmant: int
    precision: int
    resolution: float
    smallest_normal: float
    smallest_subnormal: float

    @property
    def iexp(self) -> int:
        """`nexp`, as numpy also calls it."""
        return self.nexp

    @property
    def tiny(self) -> float:
        """`smallest_normal`, as numpy also calls it."""
        return self.smallest_normal

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution!r}, min={self.min!r}, max={self.max!r}, "
            f"format={self.format})"
        )

    def __str__(self) -> str:
        rows = (
            ("precision", "resolution"),
            ("machep", "eps"),
            ("negep", "epsneg"),
            ("minexp", "smallest_normal"),
            ("maxexp", "max"),
            ("nexp", "min"),
            ("nmant", "smallest_subnormal"),
        )
        lines = [
            f"{left:<9} = {getattr(self, left):>5}   {right:<18} = {getattr(self, right)!r}"
            for left, right in rows
        ]
        return "\n".join([f"Limits of {self.format}, of {self.bits} bits", *lines])

    def _repr_html_(self) -> str:
        title, _, lines = str(self).partition("\n")
        return _html.facts(title, [("", _html.lines(lines))])


@in_default_environment
def finfo(format: FormatLike | Any) -> FloatInfo:
    """The limits of a format, as ``numpy.finfo`` gives them for a dtype.

    Parameters
    ----------
    format : Format, str or dtype
        The format, or anything that has one as its attribute `format`, such as an
        :class:`fpemu.Array`.

    Returns
    -------
    FloatInfo

    Raises
    ------
    ValueError
        If the name is unknown or stands for several formats.
    TypeError
        If `format` is no format.

    Examples
    --------
    >>> import fpemu
    >>> limits = fpemu.finfo("float8_e4m3fn")
    >>> limits.max, limits.eps, limits.smallest_subnormal
    (448.0, 0.125, 0.001953125)
    >>> print(fpemu.finfo("bfloat16"))
    Limits of bfloat16, of 16 bits
    precision =     2   resolution         = 0.01
    machep    =    -7   eps                = 0.0078125
    negep     =    -8   epsneg             = 0.00390625
    minexp    =  -126   smallest_normal    = 1.1754943508222875e-38
    maxexp    =   128   max                = 3.3895313892515355e+38
    nexp      =     8   min                = -3.3895313892515355e+38
    nmant     =     7   smallest_subnormal = 9.183549615799121e-41
    """
    # A string has a method of that name.
    own = None if isinstance(format, str) else getattr(format, "format", None)
    known = _formats.format(format if own is None else own)
    machep = max(1 - known.precision, known.quantum_exponent)
    negep = max(-known.precision, known.quantum_exponent)
    if not known.subnormals and known.has_zero and known.emin == 0:
        negep = 0  # below 1 there is zero alone
    digits = int(-math.log10(2.0**machep))
    least = 0.0 if known.has_zero else known.smallest_subnormal
    return FloatInfo(
        format=known,
        bits=known.bits,
        eps=2.0**machep,
        epsneg=2.0**negep,
        machep=machep,
        negep=negep,
        max=known.max_finite,
        min=-known.max_finite if known.signed else least,
        maxexp=known.emax + 1,
        minexp=known.emin,
        nexp=known.exponent_bits,
        nmant=known.precision - 1,
        precision=digits,
        resolution=10.0**-digits,
        smallest_normal=known.smallest_normal,
        smallest_subnormal=known.smallest_subnormal,
    )
