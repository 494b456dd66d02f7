"""Roundings in words and pictures of formats, for the command `fpemu`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from fpemu._environment import in_default_environment
from fpemu.codec import encode
from fpemu.formats import Format
from fpemu.reference import round_exact

__all__ = ["Anatomy", "RoundingStep", "anatomy", "plot_formats", "rounding_steps"]

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
    code = int(encode(value, format))
    bits = f"{code:0{format.bits}b}"
    sign = bits[:1] if format.signed else ""
    exponent = bits[len(sign) : len(sign) + format.exponent_bits]
    fraction = bits[len(sign) + format.exponent_bits :]
    return Anatomy(code, sign, exponent, fraction, _meaning(value, format))


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
def bracket(value: float, format: Format) -> tuple[float, float]:
    """The nearest values below and above a finite number, which is both if it is a value itself."""
    return round_exact(value, format, "rtn"), round_exact(value, format, "rtp")


@in_default_environment
def rounding_steps(value: float, format: Format, overflow: str = "ieee") -> list[RoundingStep]:
    """The rounding of a number in every deterministic mode.

    Parameters
    ----------
    value : float
        A number; NaN only if the format has it.
    format : Format
        The format.
    overflow : {"ieee", "saturate", "propagate", "infinity"}
        The result of overflow, as in :class:`fpemu.Rounding`.

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
    return [
        RoundingStep(
            mode, result, _error(value, result, format), _reason(value, format, mode, result)
        )
        for mode, result in results.items()
    ]


def _error(value: float, result: float, format: Format) -> float:
    """``result - value`` in units in the last place of the format at the value."""
    if not (math.isfinite(value) and math.isfinite(result)):
        return math.nan if value != result else 0.0
    return float((Fraction(result) - Fraction(value)) / _unit(value, format))


def _unit(value: float, format: Format) -> Fraction:
    exponent = math.frexp(value)[1] - 1 if value else format.emin
    return Fraction(2) ** (max(exponent, format.emin) - format.precision + 1)


_DIRECTIONS: Final = {
    "rtz": "toward zero",
    "rtp": "up",
    "rtn": "down",
    "rto": "to the neighbor whose {last} is odd",
}


def _reason(value: float, format: Format, mode: str, result: float) -> str:
    """Why a mode gives its result."""
    if math.isnan(value) or math.isinf(value):
        return "not a finite number"
    if result == value:
        return "zero" if value == 0 else "a value of the format"
    if not format.signed and value < 0:
        return "negative, and the format is unsigned"
    if abs(value) > format.max_finite:
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


def _rounds_to_largest(value: float, format: Format) -> bool:
    half = _unit(format.max_finite, format) / 2
    return abs(Fraction(value)) <= Fraction(format.max_finite) + half


def plot_formats(formats: Sequence[Format], path: Path) -> None:
    """Plot the spacing of formats and their largest relative rounding error over their range.

    Parameters
    ----------
    formats : sequence of Format
        The formats.
    path : Path
        The picture to write; its ending says its kind.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    spacing, error = figure.subplots(2, 1, sharex=True)
    for format in formats:
        low, high = format.quantum_exponent, format.emax
        exponents = np.arange(low, high + 1)
        quantum = np.maximum(exponents - format.precision + 1, format.quantum_exponent)
        label = f"{format} (p = {format.precision})"
        (line,) = spacing.step(exponents, quantum, where="post", label=label)
        # The largest relative error of rounding to nearest: half the spacing over the number.
        error.step(exponents, quantum - 1 - exponents, where="post", color=line.get_color())
    spacing.set_ylabel("log2 of the spacing")
    error.set_ylabel("log2 of the largest relative error")
    error.set_xlabel("log2 of the number, from the smallest to the largest binade")
    for axes in (spacing, error):
        axes.grid(alpha=0.3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    spacing.legend(frameon=False)
    figure.savefig(path, dpi=160)
