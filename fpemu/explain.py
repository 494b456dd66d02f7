"""Codes and roundings in words, for the command `fpemu`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from fpemu._arguments import integer
from fpemu._environment import in_default_environment
from fpemu.codec import encode
from fpemu.formats import Format
from fpemu.reference import decode_exact, round_exact

__all__ = [
    "Anatomy",
    "Code",
    "RoundingStep",
    "StochasticStep",
    "anatomy",
    "codes",
    "neighbors",
    "number",
    "plain",
    "rounding_steps",
    "stochastic_steps",
]

_MANY: Final = Fraction(10) ** 300  # ulps, of which no float can hold more by far
_EXPONENT_DIGITS: Final = 4
_HEXADECIMAL: Final = re.compile(
    r"([+-]?)0x(?=[0-9a-f.]*[0-9a-f])([0-9a-f]*)\.?([0-9a-f]*)(?:p([+-]?\d{1,4}))?"
)
MODES: Final = ("rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto")


@dataclass(frozen=True)
class Anatomy:
    """The bit fields of a value of a format; a field that the format lacks is empty."""

    code: int
    sign: str
    exponent: str
    fraction: str
    meaning: str


@dataclass(frozen=True)
class RoundingStep:
    """One mode's result, the error in units in the last place, and the reason in words."""

    mode: str
    result: float
    error: float
    reason: str


@in_default_environment
def number(text: str) -> float | Fraction:
    """The number that a text stands for, exactly.

    Parameters
    ----------
    text : str
        A decimal or hexadecimal number, ``inf`` or ``nan``.

    Returns
    -------
    float or Fraction
        A float if it is a float64 number, infinite or NaN.

    Raises
    ------
    ValueError
        If the text is no number, or has an exponent of more than four digits.
    """
    if hexadecimal := _HEXADECIMAL.fullmatch(text.strip().lower()):
        return plain(_exact_hexadecimal(*hexadecimal.groups(default="")), text.strip()[0] == "-")
    try:
        nearest = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    mantissa, _, exponent = text.lower().partition("e")
    if not any(map(str.isdigit, mantissa)):
        return nearest  # inf or nan
    if len(exponent.strip().lstrip("+-0")) > _EXPONENT_DIGITS:
        raise ValueError(f"the exponent of {text!r} has more than {_EXPONENT_DIGITS} digits")
    return plain(Fraction(text.strip()), math.copysign(1.0, nearest) < 0)


def plain(exact: Fraction, negative: bool) -> float | Fraction:
    """A number as a float if it is a float64 number, a zero with the sign that it has."""
    if exact == 0:
        return -0.0 if negative else 0.0
    try:
        nearest = float(exact)
    except OverflowError:
        return exact
    return nearest if Fraction(nearest) == exact else exact


def _exact_hexadecimal(sign: str, integer: str, fraction: str, exponent: str) -> Fraction:
    significand = Fraction(int(integer + fraction, 16), 16 ** len(fraction))
    return significand * Fraction(2) ** int(exponent or 0) * (-1 if sign == "-" else 1)


@in_default_environment
def anatomy(value: float, format: Format) -> Anatomy:
    """The bit fields of a value.

    Parameters
    ----------
    value : float
        A value of the format.
    format : Format
        The format.

    Returns
    -------
    Anatomy

    Raises
    ------
    ValueError
        If `value` is not a value of the format.
    """
    return _fields(int(encode(value, format)), value, format)


def _fields(code: int, value: float, format: Format) -> Anatomy:
    """The bit fields of a code, whose value is known."""
    bits = f"{code:0{format.bits}b}"
    if format.twos_complement:
        multiple = round(math.ldexp(value, -format.quantum_exponent))
        meaning = f"two's complement: {multiple} * 2**{format.quantum_exponent}"
        return Anatomy(code, bits[:1], "", bits[1:], meaning)
    sign = bits[:1] if format.signed else ""
    exponent = bits[len(sign) : len(sign) + format.exponent_bits]
    fraction = bits[len(sign) + format.exponent_bits :]
    return Anatomy(code, sign, exponent, fraction, _meaning(value, format))


@dataclass(frozen=True)
class Code:
    """A code of a format: its fields, the kind of its value, and the value."""

    code: int
    anatomy: Anatomy
    kind: str
    value: float

    @property
    def bits(self) -> str:
        """The fields, with spaces between them."""
        parts = (self.anatomy.sign, self.anatomy.exponent, self.anatomy.fraction)
        return " ".join(part for part in parts if part)


@in_default_environment
def codes(format: Format) -> list[Code]:
    """Every code of a format.

    Parameters
    ----------
    format : Format
        A format of few bits.

    Returns
    -------
    list of Code
        In ascending order of their codes.
    """
    found = []
    for code in range(2**format.bits):
        value = decode_exact(code, format)
        found.append(Code(code, _fields(code, value, format), _kind(value, format), value))
    return found


def _kind(value: float, format: Format) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinity"
    if value == 0:
        return "zero"
    return "normal" if abs(value) >= format.smallest_normal else "subnormal"


def _meaning(value: float, format: Format) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value) or value == 0:
        return f"{value:g}"
    kind = "normal" if abs(value) >= format.smallest_normal else "subnormal"
    exponent = max(math.frexp(value)[1] - 1, format.emin)
    significand = abs(value) / 2.0**exponent if exponent > -1000 else abs(value) * 2.0**-exponent
    return f"{kind}: {'-' if value < 0 else ''}{significand!r} * 2**{exponent}"


@in_default_environment
def bracket(value: float | Fraction, format: Format) -> tuple[float, float]:
    """The nearest values below and above a finite number, which is both if it is a value itself."""
    return round_exact(value, format, "rtn"), round_exact(value, format, "rtp")


@in_default_environment
def neighbors(value: float | Fraction, format: Format) -> tuple[float | None, float | None]:
    """The nearest values of a format that are smaller and larger than a finite number, if any."""
    exact = Fraction(value)
    below, above = bracket(value, format)
    if below == above:  # the value itself
        less = _unit(value, format) / 4  # than the distance of two values
        below, above = bracket(exact - less, format)[0], bracket(exact + less, format)[1]
    return (below if below < exact else None), (above if above > exact else None)


@dataclass(frozen=True)
class StochasticStep:
    """The results of a stochastic mode: each with its probability, the one toward zero first."""

    mode: str
    results: tuple[tuple[float, Fraction], ...]
    reason: str


@in_default_environment
def rounding_steps(
    value: float | Fraction, format: Format, overflow: str = "ieee", *, cancelled: bool = False
) -> list[RoundingStep]:
    """The rounding of a number in every deterministic mode.

    Parameters
    ----------
    value : float or Fraction
        A number; NaN only if the format has it.
    format : Format
        The format.
    overflow : {"ieee", "saturate", "propagate", "infinity"}
        The result of overflow, as in :class:`fpemu.Rounding`.
    cancelled : bool
        Whether `value` is a zero that is an exact sum of numbers of both signs, which is -0 if it
        is rounded down (IEEE 754-2019, section 6.3).

    Returns
    -------
    list of RoundingStep
        In the order rne, rna, rnz, rtz, rtp, rtn, rto.

    Raises
    ------
    ValueError
        If `value` is NaN and the format has no NaN, or `overflow` is unknown.
    """
    results = {mode: round_exact(value, format, mode, overflow) for mode in MODES}
    if cancelled and format.has_negative_zero:
        results["rtn"] = -0.0
    return [
        RoundingStep(
            mode, result, _error(value, result, format), _reason(value, format, mode, result)
        )
        for mode, result in results.items()
    ]


@in_default_environment
def stochastic_steps(
    value: float | Fraction, format: Format, overflow: str = "ieee", random_bits: int = 8
) -> list[StochasticStep]:
    """The results of a number in every stochastic mode, and how probable they are.

    Parameters
    ----------
    value : float or Fraction
        A number; NaN only if the format has it.
    format : Format
        The format.
    overflow : {"ieee", "saturate", "propagate", "infinity"}
        The result of overflow, as in :class:`fpemu.Rounding`.
    random_bits : int
        How many of them the modes sr_b and sr_c draw, and sr a second time: 1 to 63.

    Returns
    -------
    list of StochasticStep
        Mode sr, the same and sr_b and sr_c with `random_bits`, and sr_equal.
    """
    low, high, fraction = _around(value, format)
    ends = [round_exact(each, format, "rne", overflow) for each in (low, high)]
    steps = []
    for mode, (reason, chance) in _chances(fraction, integer("random_bits", random_bits, 1, 63)):
        up = chance if fraction else Fraction(0)
        pairs = ((ends[0], 1 - up), (ends[1], up))
        reason = reason if fraction else "nothing is discarded"
        steps.append(StochasticStep(mode, tuple(each for each in pairs if each[1]), reason))
    return steps


def _around(value: float | Fraction, format: Format) -> tuple[Any, Any, Fraction]:
    """The multiples of the spacing toward and away from zero, and the fraction between them.

    The spacing goes on beyond the largest number: what is rounded to a multiple there overflows.
    """
    if not _is_finite(value) or value == 0:
        return value, value, Fraction(0)
    unit = _unit(value, format)
    below = abs(Fraction(value)) // unit
    sign = -1 if value < 0 else 1
    low = sign * below * unit if below else math.copysign(0.0, sign)
    if not (below or format.has_zero):
        low = sign * Fraction(format.smallest_normal)
    return low, sign * (below + 1) * unit, abs(Fraction(value)) / unit - below


def _chances(fraction: Fraction, bits: int) -> list[tuple[str, tuple[str, Fraction]]]:
    """For each mode, why, and the probability of going away from zero (see `fpemu.Rounding`)."""
    steps = 2**bits
    cut = math.floor(fraction * steps)
    centered = (math.floor(fraction * 2 * steps) + 1) // 2
    nearest = round(fraction * steps)
    return [
        ("sr", ("the fraction discarded", fraction)),
        (f"sr, {bits} bits", ("the fraction cut off", Fraction(cut, steps))),
        (f"sr_b, {bits} bits", ("random bits centered", Fraction(centered, steps))),
        (f"sr_c, {bits} bits", ("the fraction to nearest", Fraction(nearest, steps))),
        ("sr_equal", ("both alike", Fraction(1, 2))),
    ]


def _is_finite(value: float | Fraction) -> bool:
    return isinstance(value, Fraction) or math.isfinite(value)


def _power_of_two(exponent: int) -> Fraction:
    return Fraction(2**exponent) if exponent >= 0 else Fraction(1, 2**-exponent)


def _error(value: float | Fraction, result: float, format: Format) -> float:
    """``result - value`` in units in the last place of the format at the value."""
    if not (_is_finite(value) and math.isfinite(result)):
        return math.nan if value != result else 0.0
    error = (Fraction(result) - Fraction(value)) / _unit(value, format)
    return float(error) if abs(error) < _MANY else math.copysign(math.inf, error)


def _unit(value: float | Fraction, format: Format) -> Fraction:
    magnitude = abs(Fraction(value))
    exponent = format.emin
    if magnitude:
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        exponent -= int(magnitude < _power_of_two(exponent))
    return Fraction(2) ** (max(exponent, format.emin) - format.precision + 1)


_DIRECTIONS: Final = {
    "rtz": "toward zero",
    "rtp": "up",
    "rtn": "down",
    "rto": "to the neighbor whose {last} is odd",
}


def _reason(value: float | Fraction, format: Format, mode: str, result: float) -> str:
    """Why a mode gives its result."""
    if not _is_finite(value):
        return "not a finite number"
    if result == value:
        return "zero" if value == 0 else "a value of the format"
    if not format.signed and value < 0:
        return "negative, and the format is unsigned"
    if not -format.max_finite <= value <= format.max_finite:
        if _rounds_to_largest(value, format):
            return f"nearer to {format.max_finite!r}, the largest finite number, than to the next"
        way = f"; rounds {_DIRECTIONS[mode]}" if mode in ("rtz", "rtp", "rtn") else ""
        return f"beyond the largest finite number, {format.max_finite!r}{way}"
    below, above = bracket(value, format)
    ends = f"{below!r} and {above!r}"
    last = "code" if format.p3109 else "significand"
    if mode in _DIRECTIONS:
        return f"between {ends}; rounds {_DIRECTIONS[mode].format(last=last)}"
    if not (math.isfinite(below) and math.isfinite(above)):
        return f"nearest to {result!r}"
    middle = (Fraction(below) + Fraction(above)) / 2
    if Fraction(value) != middle:
        return f"between {ends}; {result!r} is nearer"
    ties = {"rne": f"to the even {last}", "rna": "away from zero", "rnz": "toward zero"}
    return f"halfway between {ends}; ties go {ties[mode]}"


def _rounds_to_largest(value: float | Fraction, format: Format) -> bool:
    half = _unit(format.max_finite, format) / 2
    return abs(Fraction(value)) <= Fraction(format.max_finite) + half
