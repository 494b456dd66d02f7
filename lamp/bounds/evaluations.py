"""How a machine evaluates f, and how far its roundings put it off.

References
----------
P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax
functions", IMA J. Numer. Anal. 41, 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

import fpemu
from fpemu import Accumulator, Format, Rounding
from fpemu.formats import FormatLike
from fpemu.rounding import RoundingLike, as_rounding
from lamp._kernels.rows import Float64, exp, outward, total
from lamp.bounds.compositions import Composition, LayerNorm, RMSNorm, Softmax

__all__ = ["NEAREST", "Evaluation", "InFloat64", "NormSteps", "RoundedOnce", "SoftmaxSteps"]

NEAREST: Final = ("rne", "rna", "rnz")
"""The modes that round to nearest."""

_UNIT: Final = 2.0**-53


class Evaluation(Protocol):
    """How a machine evaluates f, and how far that can be off."""

    def value(self, composition: Composition, y: Float64) -> Float64:
        """What it computes for f(y)."""
        ...

    def error(self, composition: Composition, y: Float64) -> Float64:
        """A bound of ``|value - f(y)|``."""
        ...


def _largest(*arithmetic: Format | Accumulator) -> float:
    """The least of the largest numbers of formats and accumulators: below it nothing overflows."""
    limits = [math.inf]
    for each in arithmetic:
        if isinstance(each, Format):
            limits.append(each.max_finite)
        else:
            fields = vars(each).values()
            limits.append(_largest(*(x for x in fields if isinstance(x, Format | Accumulator))))
    return min(limits)


@dataclass(frozen=True)
class InFloat64:
    """f as its composition computes it, in float64."""

    def value(self, composition: Composition, y: Float64) -> Float64:
        """What it computes for f(y)."""
        return composition.value(y)

    def error(self, composition: Composition, y: Float64) -> Float64:
        """A bound of ``|value - f(y)|``."""
        return composition.value_error(y)

    def __str__(self) -> str:
        return "in float64"


@dataclass(frozen=True, init=False)
class RoundedOnce:
    """f computed in float64 and rounded once into a format.

    Parameters
    ----------
    format : Format or str
    rounding : Rounding or str
    """

    format: Format
    rounding: Rounding

    def __init__(self, format: FormatLike, rounding: RoundingLike = "rne") -> None:
        object.__setattr__(self, "format", fpemu.format(format))
        object.__setattr__(self, "rounding", as_rounding(rounding))

    def value(self, composition: Composition, y: Float64) -> Float64:
        """What it computes for f(y)."""
        return np.asarray(fpemu.round(composition.value(y), self.format, self.rounding), np.float64)

    def error(self, composition: Composition, y: Float64) -> Float64:
        """A bound of ``|value - f(y)|``: infinite where the value is."""
        off = composition.value_error(y)
        value = np.abs(composition.value(y))
        rounded = self.value(composition, y)
        unit, smallest = _units(self.format, self.rounding)
        error = outward(off + unit * value + smallest, 4)
        # Where it saturates, the error is there to be seen.
        saturated = np.abs(rounded) < value * (1.0 - 2.0 * unit)
        error = np.where(
            saturated, outward(off + np.abs(value - np.abs(rounded)), 4) + error, error
        )
        return np.where(np.isfinite(rounded), error, np.inf)

    def __str__(self) -> str:
        return f"in float64, rounded once into {self.format} ({self.rounding.mode})"


def _units(format: Format, rounding: Rounding) -> tuple[float, float]:
    """The largest relative error of a rounding to a normal number, the absolute one below."""
    nearest = rounding.mode in NEAREST
    smallest = format.smallest_subnormal if format.subnormals else format.smallest_normal
    unit = format.unit_roundoff
    return (
        (unit, smallest / 2 or smallest) if nearest and format.subnormals else (2 * unit, smallest)
    )


@dataclass(frozen=True, init=False)
class SoftmaxSteps:
    """Softmax as :func:`fpemu.functions.softmax` computes it: every step rounded.

    Parameters
    ----------
    format : Format or str
        The format of the result and of steps whose format is left out.
    rounding : Rounding or str
    difference, exponential : Format or str, optional
        The formats of ``y - max(y)`` and of its exponential.
    accumulator : Accumulator, optional
        How the exponentials are summed; ``Sequential(format, rounding)`` if left out.

    Notes
    -----
    With ``t_j = e |y_j - max y| + s`` for the rounded differences, e and s the relative and
    absolute error of a rounding, every exponential has a factor within ``e**+-t_j (1 + e)`` and is
    off by s where it is subnormal; the sum adds ``(1 + B)`` and A; the quotient a rounding.  The
    largest exponential is one, so absolute errors are relative to a sum of at least 1.
    """

    format: Format
    rounding: Rounding
    difference: Format
    exponential: Format
    accumulator: Accumulator

    def __init__(
        self,
        format: FormatLike,
        rounding: RoundingLike = "rne",
        *,
        difference: FormatLike | None = None,
        exponential: FormatLike | None = None,
        accumulator: Accumulator | None = None,
    ) -> None:
        how = as_rounding(rounding)
        of_result = fpemu.format(format)
        fields = {
            "format": of_result,
            "rounding": how,
            "difference": fpemu.format(difference or of_result),
            "exponential": fpemu.format(exponential or of_result),
            "accumulator": accumulator or fpemu.Sequential(of_result, how.derived("accumulator")),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def value(self, composition: Composition, y: Float64) -> Float64:
        """What it computes for f(y)."""
        if not isinstance(composition, Softmax):
            raise TypeError(f"steps of a softmax do not evaluate {composition}")
        return np.asarray(
            fpemu.functions.softmax(
                y,
                self.format,
                self.rounding,
                difference=self.difference,
                exponential=self.exponential,
                accumulator=self.accumulator,
            ),
            np.float64,
        )

    def error(self, composition: Composition, y: Float64) -> Float64:
        """A bound of ``|value - f(y)|``."""
        n = y.shape[-1]
        z = composition.value(y)
        masked = z == 0.0
        unit_d, least_d = _units(self.difference, self.rounding)
        unit_e, least_e = _units(self.exponential, self.rounding)
        unit_q, least_q = _units(self.format, self.rounding)
        relative = self.accumulator.error_bound(n)
        absolute = self.accumulator.underflow_bound(n, largest=1.0)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            distance = np.where(np.isfinite(y), y.max(axis=-1, keepdims=True) - y, 0.0)
            shift = unit_d * distance + least_d
            # The range of differences may end before the difference does: exponentials are >= 0.
            far = distance > self.difference.max_finite
            grown, shrunk = z * exp(shift), np.where(far, 0.0, z * exp(-shift))
            grown = np.where(
                far, outward(z + math.exp(-min(self.difference.max_finite, 700.0)), 1), grown
            )
            above = (1.0 + relative) * ((1.0 + unit_e) * total(grown) + n * least_e) + absolute
            below = (1.0 - relative) * ((1.0 - unit_e) * total(shrunk) - n * least_e) - absolute
            high = (grown * (1.0 + unit_e) + least_e) / below * (1.0 + unit_q) + least_q
            low = (shrunk * (1.0 - unit_e) - least_e) / above * (1.0 - unit_q) - least_q
            error = np.maximum(high - z, z - low) + (16.0 * n + 16384.0) * _UNIT * (high + z)
            # A sum that overflows, to infinity say, would make zeros of all.
            sums = total(exp(-distance)) * above
        sure = (below > 0) & (sums < _largest(self.accumulator)) & np.isfinite(error)
        error = np.where(sure, error, np.inf)
        return np.where(masked & ~np.isfinite(y), 0.0, outward(error, n))

    def __str__(self) -> str:
        return (
            f"in steps: difference {self.difference}, exponential {self.exponential}, sum "
            f"{self.accumulator}, quotient {self.format} ({self.rounding.mode})"
        )


@dataclass(frozen=True, init=False)
class NormSteps:
    """RMSNorm or LayerNorm as :mod:`fpemu.functions` computes them: every step rounded.

    Parameters
    ----------
    format : Format or str
        The format of the result and of steps whose format is left out.
    rounding : Rounding or str
    statistics, centred, normalised, scaled : Format or str, optional
        The formats of the steps; RMSNorm has no `centred` and no `scaled`.
    accumulator : Accumulator, optional
        How sums are formed; ``Sequential(format, rounding)`` if left out.

    Notes
    -----
    Intervals are carried from step to step.  Errors d of the differences ``y - mean`` change their
    root mean square by no more than that of d.
    """

    format: Format
    rounding: Rounding
    statistics: Format
    centred: Format
    normalised: Format
    scaled: Format
    accumulator: Accumulator

    def __init__(
        self,
        format: FormatLike,
        rounding: RoundingLike = "rne",
        *,
        statistics: FormatLike | None = None,
        centred: FormatLike | None = None,
        normalised: FormatLike | None = None,
        scaled: FormatLike | None = None,
        accumulator: Accumulator | None = None,
    ) -> None:
        how = as_rounding(rounding)
        of_result = fpemu.format(format)
        fields = {
            "format": of_result,
            "rounding": how,
            "statistics": fpemu.format(statistics or of_result),
            "centred": fpemu.format(centred or of_result),
            "normalised": fpemu.format(normalised or of_result),
            "scaled": fpemu.format(scaled or of_result),
            "accumulator": accumulator or fpemu.Sequential(of_result, how.derived("accumulator")),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def value(self, composition: Composition, y: Float64) -> Float64:
        """What it computes for f(y)."""
        if not isinstance(composition, RMSNorm | LayerNorm):
            raise TypeError(f"steps of a norm do not evaluate {composition}")
        options: dict[str, Any] = {
            "weight": composition.gain,
            "epsilon": composition.epsilon,
            "statistics": self.statistics,
            "normalised": self.normalised,
            "accumulator": self.accumulator,
        }
        if isinstance(composition, RMSNorm):
            found = fpemu.functions.rms_norm(y, self.format, self.rounding, **options)
        else:
            options |= {"bias": composition.bias, "centred": self.centred, "scaled": self.scaled}
            found = fpemu.functions.layer_norm(y, self.format, self.rounding, **options)
        return np.asarray(found, np.float64)

    def error(self, composition: Composition, y: Float64) -> Float64:
        """A bound of ``|value - f(y)|``; infinite where a step may overflow or divide by zero."""
        gain = getattr(composition, "gain", None)
        bias = getattr(composition, "bias", None)
        n = y.shape[-1]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            exact, off = self._differences(composition, y)
            root = np.sqrt(total(exact * exact) / n)
            moved = outward(np.sqrt(total(off * off) / n), n)
            largest = np.abs(exact).max(axis=-1, keepdims=True) + moved * np.sqrt(n)
            low = np.maximum(root * (1 - _slack(n)) - moved, 0.0)
            high = root * (1 + _slack(n)) + moved
            least, most, squares = self._roots(low, high, composition, largest, n)
            size = np.abs(exact)
            true = 1.0 / np.sqrt(root * root + _epsilon(composition))
            far = (size + off) * most - size * true
            near = size * true - (size - off) * np.where(size > off, least, most)
            error = np.maximum(far, near) + 4 * _slack(n) * size * (most + true)
            value = size * true
            last = gain is None and bias is None
            error = self._rounded(error, value, self.format if last else self.normalised)
            if gain is not None:
                error, value = error * np.abs(gain), value * np.abs(gain)
                error = self._rounded(error, value, self.format if bias is None else self.scaled)
            if bias is not None:
                value = np.abs(composition.value(y))
                error = self._rounded(error, value, self.format)
            error = outward(error + composition.value_error(y), n)
            sure = squares * n < _largest(self.accumulator)
            sure &= np.maximum(squares, most) < _largest(self.statistics)
            sure &= total(np.abs(y)) * 2 < _largest(self.accumulator, self.statistics)
            sure &= largest < _largest(self.centred)
            reached = np.abs(composition.value(y)) + error
            others = (self.normalised, self.scaled, self.format)
            sure = sure & (np.maximum(reached, (size + off) * most) < _largest(*others))
        return np.where(sure & np.isfinite(error), error, np.inf)

    def _differences(self, composition: Composition, y: Float64) -> tuple[Float64, Float64]:
        """What is normalised, and how far its computed values are off."""
        if isinstance(composition, RMSNorm):
            return y, np.zeros_like(y)
        n = y.shape[-1]
        mean = total(y) / n
        magnitude = outward(total(np.abs(y)), n)
        unit, smallest = _units(self.statistics, self.rounding)
        sum_error = self.accumulator.error_bound(n) * magnitude
        sum_error += self.accumulator.underflow_bound(n, largest=float(np.abs(y).max(initial=1.0)))
        # float64's own roundings are far below these, but not below none.
        own = _slack(n) * magnitude
        of_mean = sum_error / n * (1 + unit) + unit * np.abs(mean) + smallest + own
        unit, smallest = _units(self.centred, self.rounding)
        exact = y - mean
        return exact, of_mean * (1 + unit) + unit * np.abs(exact) + smallest + own

    def _roots(
        self, low: Float64, high: Float64, composition: Composition, largest: Float64, n: int
    ) -> tuple[Float64, Float64, Float64]:
        """The interval of the computed ``1 / sqrt(mean square + epsilon)``; the largest square."""
        unit, smallest = _units(self.statistics, self.rounding)
        relative = self.accumulator.error_bound(n)
        most = max(1.0, float(np.max(largest, initial=1.0)))
        absolute = self.accumulator.underflow_bound(n, largest=most) / n
        epsilon = _epsilon(composition)

        def rounded(x: Float64, sign: int) -> Float64:
            return np.maximum(x * (1 + sign * unit) + sign * smallest, 0.0)

        squares = (
            np.maximum(low * low * (1 - relative) - absolute, 0.0),
            high * high * (1 + relative) + absolute,
        )
        raised = [
            rounded(rounded(each, sign) + epsilon, sign)
            for each, sign in zip(squares, (-1, 1), strict=True)
        ]
        low_root, high_root = (1.0 / np.sqrt(each) for each in reversed(raised))
        return rounded(low_root, -1), rounded(high_root, 1), raised[1]

    def _rounded(self, error: Float64, value: Float64, format: Format) -> Float64:
        """The error after a rounding of what is off by an error from a value."""
        unit, smallest = _units(format, self.rounding)
        return error * (1 + unit) + unit * value + smallest

    def __str__(self) -> str:
        return (
            f"in steps: statistics {self.statistics}, sums {self.accumulator}, normalised "
            f"{self.normalised}, result {self.format} ({self.rounding.mode})"
        )


def _epsilon(composition: Composition) -> float:
    return float(getattr(composition, "epsilon", 0.0))


def _slack(n: int) -> float:
    """More than the relative errors of float64's own sums and roots of n terms."""
    return (8.0 * n + 64.0) * _UNIT
