"""How a machine evaluates f, with bounds of the rounding errors.

References
----------
P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax
functions", IMA J. Numer. Anal. 41, 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Accumulator, Format, Rounding
from fpemu.formats import FormatLike
from fpemu.rounding import RoundingLike, as_rounding
from lamp._kernels.callables import call, name_of
from lamp._kernels.rows import Float64, exp, outward, total
from lamp.bounds.compositions import Composition, LayerNorm, RMSNorm, Softmax

__all__ = [
    "NEAREST",
    "ByKernel",
    "Evaluation",
    "InFloat64",
    "NormSteps",
    "RoundedOnce",
    "SoftmaxSteps",
]

NEAREST: Final = ("rne", "rna", "rnz")
"""The modes that round to nearest."""

_UNIT: Final = 2.0**-53


class Evaluation(Protocol):
    """Interface of an evaluation of f: computed value and bound of its error.

    A bound by an evaluation of one's own says that its `error` is taken on trust.
    """

    def value(self, composition: Composition, y: Float64) -> Float64:
        """The computed f(y)."""
        ...

    def error(self, composition: Composition, y: Float64) -> Float64:
        """A bound of ``|value - f(y)|``."""
        ...


def _largest(*arithmetic: Format | Accumulator) -> float:
    """The largest magnitude that overflows in none of some formats and accumulators."""
    limits = [math.inf]
    for each in arithmetic:
        if isinstance(each, Format):
            limits.append(each.max_finite)
        else:
            fields = vars(each).values()
            limits.append(_largest(*(x for x in fields if isinstance(x, Format | Accumulator))))
    return min(limits)


class _Unit(NamedTuple):
    """The largest error of a rounding: relative for normal results, absolute for others."""

    relative: float
    absolute: float


def _unit(format: Format, rounding: Rounding) -> _Unit:
    if not format.subnormals:
        return _Unit(2 * format.unit_roundoff, format.smallest_normal)
    smallest = format.smallest_subnormal
    if rounding.mode in NEAREST:
        # Half of float64's smallest number is not a number.
        return _Unit(format.unit_roundoff, smallest / 2 or smallest)
    return _Unit(2 * format.unit_roundoff, smallest)


@dataclass(frozen=True)
class InFloat64:
    """f computed in float64, as its composition does."""

    is_proved: ClassVar[bool] = True

    def value(self, composition: Composition, y: Float64) -> Float64:
        """The computed f(y)."""
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
        The format of the result.
    rounding : Rounding or str
        How the result is rounded.
    """

    is_proved: ClassVar[bool] = True

    format: Format
    rounding: Rounding

    def __init__(self, format: FormatLike, rounding: RoundingLike = "rne") -> None:
        object.__setattr__(self, "format", fpemu.format(format))
        object.__setattr__(self, "rounding", as_rounding(rounding))

    def value(self, composition: Composition, y: Float64) -> Float64:
        """The computed f(y)."""
        return np.asarray(fpemu.round(composition.value(y), self.format, self.rounding), np.float64)

    def error(self, composition: Composition, y: Float64) -> Float64:
        """A bound of ``|value - f(y)|``; infinite where the value is not finite."""
        of_value = composition.value_error(y)
        value = np.abs(composition.value(y))
        rounded = self.value(composition, y)
        unit = _unit(self.format, self.rounding)
        error = outward(of_value + unit.relative * value + unit.absolute, 4)
        saturated = np.abs(rounded) < value * (1.0 - 2.0 * unit.relative)
        of_saturation = outward(of_value + np.abs(value - np.abs(rounded)), 4)
        error = np.where(saturated, of_saturation + error, error)
        return np.where(np.isfinite(rounded), error, np.inf)

    def __str__(self) -> str:
        return f"in float64, rounded once into {self.format} ({self.rounding.mode})"


@dataclass(frozen=True)
class ByKernel:
    """f computed by a function of one's own, with what bounds its errors.

    Parameters
    ----------
    kernel : callable
        Takes a row, a float64 vector of n numbers, and returns the m computed numbers; compiled by
        Numba or not.
    error_bound : callable
        Takes a row, too, and returns bounds of the m errors ``|kernel(y) - f(y)|``, infinite where
        there is none.

    Examples
    --------
    >>> import numba
    >>> import fpemu
    >>> from lamp import compositions, evaluations
    >>> add = fpemu.jit.adder("bfloat16")
    >>> @numba.njit
    ... def shifted(y):
    ...     out = y.copy()
    ...     for j in range(len(y)):
    ...         out[j] = add(y[j], 1.0)
    ...     return out
    >>> machine = evaluations.ByKernel(shifted, lambda y: 2.0**-8 * abs(y + 1.0))
    >>> machine.value(compositions.Residual([1.0, 1.0]), [2.0, 2.0**-9])
    array([3., 1.])
    """

    kernel: Callable[..., Any]
    error_bound: Callable[..., Any]

    def __post_init__(self) -> None:
        for name in ("kernel", "error_bound"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function of a row, not {getattr(self, name)!r}")

    def _of_rows(self, role: str, y: Float64) -> Float64:
        function = getattr(self, role)
        rows = np.asarray(y, np.float64)
        found = [
            np.array(call(function, role, row.copy()), np.float64)
            for row in rows.reshape(-1, rows.shape[-1])
        ]
        shapes = {each.shape for each in found}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                f"{role} {name_of(function)} must return a vector for a row, always of one length, "
                f"not shapes {sorted(shapes)}"
            )
        return np.array(found).reshape(*rows.shape[:-1], -1)

    def value(self, composition: Composition, y: Float64) -> Float64:
        """The computed f(y)."""
        return self._of_rows("kernel", y)

    def error(self, composition: Composition, y: Float64) -> Float64:
        """A bound of ``|value - f(y)|``, as `error_bound` states it."""
        return self._of_rows("error_bound", y)

    def __str__(self) -> str:
        return f"by {name_of(self.kernel)}, bound by {name_of(self.error_bound)}"


@dataclass(frozen=True, init=False)
class SoftmaxSteps:
    """Softmax as :func:`fpemu.functions.softmax` computes it, with every step rounded.

    Parameters
    ----------
    format : Format or str
        The format of the result, and of every step that is not given its own.
    rounding : Rounding or str
        How all steps are rounded.
    difference, exponential : Format or str, optional
        The formats of ``y - max(y)`` and of its exponential.
    accumulator : Accumulator, optional
        How the exponentials are summed, by default ``Sequential(format, rounding)``.

    Notes
    -----
    Let e and s be the relative and the absolute error of a rounding.  Rounded differences are off
    by ``t_j = e |y_j - max y| + s``, so every exponential has a factor within ``e**+-t_j (1 + e)``,
    and an error of s where it is subnormal.  The sum adds a factor ``1 + B`` and an error A, the
    quotient one more rounding.  The largest exponential is 1, so that absolute errors are relative
    to a sum of at least 1.
    """

    is_proved: ClassVar[bool] = True

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
        """The computed f(y)."""
        if type(composition).value is not Softmax.value:
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
        """A bound of ``|value - f(y)|``; infinite where a sum may overflow or vanish."""
        n, z = y.shape[-1], composition.value(y)
        unit = _unit(self.format, self.rounding)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            distance = np.where(np.isfinite(y), y.max(axis=-1, keepdims=True) - y, 0.0)
            low, high, below, above = self._exponentials(z, distance)
            high = high / below * (1.0 + unit.relative) + unit.absolute
            low = low / above * (1.0 - unit.relative) - unit.absolute
            error = np.maximum(high - z, z - low) + (16.0 * n + 16384.0) * _UNIT * (high + z)
            # A sum that overflows, for example to infinity, would make all results zero.
            sums = total(exp(-distance)) * above
        sure = (below > 0) & (sums < _largest(self.accumulator)) & np.isfinite(error)
        error = np.where(sure, error, np.inf)
        masked = (z == 0.0) & ~np.isfinite(y)
        return np.where(masked, 0.0, outward(error, n))

    def _exponentials(
        self, z: Float64, distance: Float64
    ) -> tuple[Float64, Float64, Float64, Float64]:
        """Bounds of the computed exponentials and of their sum, each over the exact sum."""
        n = z.shape[-1]
        of_difference = _unit(self.difference, self.rounding)
        unit = _unit(self.exponential, self.rounding)
        relative = self.accumulator.error_bound(n)
        absolute = self.accumulator.underflow_bound(n, largest=1.0)
        shift = of_difference.relative * distance + of_difference.absolute
        # Where the difference exceeds its format, the exponential may be any number below this.
        far, least = distance > self.difference.max_finite, min(self.difference.max_finite, 700.0)
        grown, shrunk = z * exp(shift), np.where(far, 0.0, z * exp(-shift))
        grown = np.where(far, outward(z + math.exp(-least), 1), grown)
        low = shrunk * (1.0 - unit.relative) - unit.absolute
        high = grown * (1.0 + unit.relative) + unit.absolute
        below = (1.0 - unit.relative) * total(shrunk) - n * unit.absolute
        above = (1.0 + unit.relative) * total(grown) + n * unit.absolute
        return low, high, (1.0 - relative) * below - absolute, (1.0 + relative) * above + absolute

    def __str__(self) -> str:
        return (
            f"in steps: difference {self.difference}, exponential {self.exponential}, sum "
            f"{self.accumulator}, quotient {self.format} ({self.rounding.mode})"
        )


class _Root(NamedTuple):
    """The reciprocal root of a mean square, and what goes into it."""

    exact: Float64
    least: Float64  # that may be computed
    most: Float64
    square: Float64  # the largest mean square that may be computed
    largest: Float64  # of the differences that may be computed


@dataclass(frozen=True, init=False)
class NormSteps:
    """RMSNorm or LayerNorm as :mod:`fpemu.functions` computes them, with every step rounded.

    Parameters
    ----------
    format : Format or str
        The format of the result, and of every step that is not given its own.
    rounding : Rounding or str
        How all steps are rounded.
    statistics, centered, normalized, scaled : Format or str, optional
        The formats of the steps.  RMSNorm has no `centered` and no `scaled`.
    accumulator : Accumulator, optional
        How sums are formed, by default ``Sequential(format, rounding)``.

    Notes
    -----
    Intervals are carried from step to step.  Errors d of the differences ``y - mean`` change the
    root mean square of these by no more than the root mean square of d.
    """

    is_proved: ClassVar[bool] = True

    format: Format
    rounding: Rounding
    statistics: Format
    centered: Format
    normalized: Format
    scaled: Format
    accumulator: Accumulator

    def __init__(
        self,
        format: FormatLike,
        rounding: RoundingLike = "rne",
        *,
        statistics: FormatLike | None = None,
        centered: FormatLike | None = None,
        normalized: FormatLike | None = None,
        scaled: FormatLike | None = None,
        accumulator: Accumulator | None = None,
    ) -> None:
        how = as_rounding(rounding)
        of_result = fpemu.format(format)
        fields = {
            "format": of_result,
            "rounding": how,
            "statistics": fpemu.format(statistics or of_result),
            "centered": fpemu.format(centered or of_result),
            "normalized": fpemu.format(normalized or of_result),
            "scaled": fpemu.format(scaled or of_result),
            "accumulator": accumulator or fpemu.Sequential(of_result, how.derived("accumulator")),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def value(self, composition: Composition, y: Float64) -> Float64:
        """The computed f(y)."""
        own = type(composition).value in (RMSNorm.value, LayerNorm.value)
        if not (own and isinstance(composition, RMSNorm | LayerNorm)):
            raise TypeError(f"steps of a norm do not evaluate {composition}")
        options: dict[str, Any] = {
            "weight": composition.gain,
            "epsilon": composition.epsilon,
            "statistics": self.statistics,
            "normalized": self.normalized,
            "accumulator": self.accumulator,
        }
        if isinstance(composition, RMSNorm):
            found = fpemu.functions.rms_norm(y, self.format, self.rounding, **options)
        else:
            options |= {"bias": composition.bias, "centered": self.centered, "scaled": self.scaled}
            found = fpemu.functions.layer_norm(y, self.format, self.rounding, **options)
        return np.asarray(found, np.float64)

    def error(self, composition: Composition, y: Float64) -> Float64:
        """A bound of ``|value - f(y)|``; infinite where a step may overflow or divide by zero."""
        n = y.shape[-1]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            differences, off = self._differences(composition, y)
            root = self._root(composition, differences, off)
            size = np.abs(differences)
            value = size * root.exact
            far = (size + off) * root.most - value
            near = value - (size - off) * np.where(size > off, root.least, root.most)
            error = np.maximum(far, near) + 4 * _slack(n) * size * (root.most + root.exact)
            error = self._after_parameters(composition, y, error, value)
            error = outward(error + composition.value_error(y), n)
            reached = np.maximum(np.abs(composition.value(y)) + error, (size + off) * root.most)
            sure = self._is_in_range(y, root, reached)
        return np.where(sure & np.isfinite(error), error, np.inf)

    def _differences(self, composition: Composition, y: Float64) -> tuple[Float64, Float64]:
        """``y - mean`` and bounds of the errors of the computed differences; y for RMSNorm."""
        if isinstance(composition, RMSNorm):
            return y, np.zeros_like(y)
        n = y.shape[-1]
        mean = total(y) / n
        magnitude = outward(total(np.abs(y)), n)
        sum_error = self.accumulator.error_bound(n) * magnitude
        sum_error += self.accumulator.underflow_bound(n, largest=float(np.abs(y).max(initial=1.0)))
        of_float64 = _slack(n) * magnitude  # far below the others, but not zero
        unit = _unit(self.statistics, self.rounding)
        of_mean = sum_error / n * (1 + unit.relative) + unit.relative * np.abs(mean)
        of_mean = of_mean + unit.absolute + of_float64
        unit = _unit(self.centered, self.rounding)
        differences = y - mean
        off = of_mean * (1 + unit.relative) + unit.relative * np.abs(differences)
        return differences, off + unit.absolute + of_float64

    def _root(self, composition: Composition, differences: Float64, off: Float64) -> _Root:
        """The reciprocal root of the mean square, as it is and as it may be computed."""
        n, epsilon = differences.shape[-1], _epsilon(composition)
        exact = np.sqrt(total(differences * differences) / n)
        moved = outward(np.sqrt(total(off * off) / n), n)
        largest = np.abs(differences).max(axis=-1, keepdims=True) + moved * np.sqrt(n)
        low = np.maximum(exact * (1 - _slack(n)) - moved, 0.0)
        high = exact * (1 + _slack(n)) + moved
        relative = self.accumulator.error_bound(n)
        most = max(1.0, float(np.max(largest, initial=1.0)))
        absolute = self.accumulator.underflow_bound(n, largest=most) / n
        unit = _unit(self.statistics, self.rounding)

        def rounded(x: Float64, sign: int) -> Float64:
            return np.maximum(x * (1 + sign * unit.relative) + sign * unit.absolute, 0.0)

        fewest = np.maximum(low * low * (1 - relative) - absolute, 0.0)
        greatest = high * high * (1 + relative) + absolute
        below = rounded(rounded(fewest, -1) + epsilon, -1)
        above = rounded(rounded(greatest, 1) + epsilon, 1)
        return _Root(
            1.0 / np.sqrt(exact * exact + epsilon),
            rounded(1.0 / np.sqrt(above), -1),
            rounded(1.0 / np.sqrt(below), 1),
            above,
            largest,
        )

    def _after_parameters(
        self, composition: Composition, y: Float64, error: Float64, value: Float64
    ) -> Float64:
        """The error after the roundings of the normalized numbers, of gain and of bias."""
        gain, bias = getattr(composition, "gain", None), getattr(composition, "bias", None)
        last = gain is None and bias is None
        error = self._rounded(error, value, self.format if last else self.normalized)
        if gain is not None:
            error, value = error * np.abs(gain), value * np.abs(gain)
            error = self._rounded(error, value, self.format if bias is None else self.scaled)
        if bias is not None:
            error = self._rounded(error, np.abs(composition.value(y)), self.format)
        return error

    def _rounded(self, error: Float64, value: Float64, format: Format) -> Float64:
        """The error of a number of this magnitude after it is rounded once more."""
        unit = _unit(format, self.rounding)
        return error * (1 + unit.relative) + unit.relative * value + unit.absolute

    def _is_in_range(self, y: Float64, root: _Root, reached: Float64) -> NDArray[np.bool_]:
        """Whether no step can overflow; `reached` bounds the normalized numbers and results."""
        n = y.shape[-1]
        return np.asarray(
            (root.square * n < _largest(self.accumulator))
            & (np.maximum(root.square, root.most) < _largest(self.statistics))
            & (total(np.abs(y)) * 2 < _largest(self.accumulator, self.statistics))
            & (root.largest < _largest(self.centered))
            & (reached < _largest(self.normalized, self.scaled, self.format))
        )

    def __str__(self) -> str:
        return (
            f"in steps: statistics {self.statistics}, sums {self.accumulator}, normalized "
            f"{self.normalized}, result {self.format} ({self.rounding.mode})"
        )


def _epsilon(composition: Composition) -> float:
    return float(getattr(composition, "epsilon", 0.0))


def _slack(n: int) -> float:
    """More than the relative errors of sums and roots of n terms in float64."""
    return (8.0 * n + 64.0) * _UNIT
