"""RMSNorm and LayerNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mpmath
import numpy as np
from numpy.typing import ArrayLike

from lamp._kernels import jacobians
from lamp._kernels.rows import Float64, others, outward, rows_of, total
from lamp.bounds.compositions.base import (
    Composition,
    as_vector,
    check_norm,
    few_ulps,
    ratio,
    with_errors,
    with_vector,
)

__all__ = ["LayerNorm", "RMSNorm"]

_UNIT: Final = 2.0**-53


def _check_epsilon(epsilon: float) -> float:
    if not 0.0 <= epsilon < np.inf:
        raise ValueError(f"epsilon must be a nonnegative number, not {epsilon!r}")
    return float(epsilon)


def _check_gain(gain: Float64 | None, y: Float64) -> None:
    if gain is not None and gain.shape[-1] != y.shape[-1]:
        columns = y.shape[-1]
        raise ValueError(
            f"y has rows of {columns} components, but gain and bias have {gain.shape[-1]}"
        )


class _Norm(Composition):
    """What both norms share: a gain, and the epsilon under the root."""

    gain: Float64 | None
    epsilon: float

    def _scaled(self, x: Float64) -> Float64:
        return x if self.gain is None else np.asarray(x * self.gain)

    def _widened(self, x: Float64) -> Float64:
        """Bounds of errors times the magnitude of the gain."""
        return x if self.gain is None else np.asarray(x * np.abs(self.gain))

    def _magnitudes_of_gain(self, n: int) -> Float64:
        return np.ones(n) if self.gain is None else np.abs(self.gain)


class RMSNorm(_Norm):
    """``f_i = gain_i y_i / r``, ``r = sqrt(mean(y**2) + epsilon)``.

    With ``x = y / r``, the Jacobian is ``J = diag(gain) (I - x x^T / n) / r``.  Relative errors
    behave as in a softmax: ``d log f_i / d log y_j = [i = j] - p_j`` with ``p_j = x_j**2 / n``.

    Parameters
    ----------
    gain : array_like, shape (n,), optional
        By default 1.
    epsilon : float
    """

    is_proved = True
    name = "rms_norm"

    def __init__(self, gain: ArrayLike | None = None, epsilon: float = 1e-5) -> None:
        self.gain = as_vector(gain, "gain")
        self.epsilon = _check_epsilon(epsilon)

    def _normalized(self, y: Float64) -> tuple[Float64, Float64]:
        """``x = y / r``, and r with a last axis of length 1."""
        _check_gain(self.gain, y)
        root = np.sqrt(total(y * y) / y.shape[-1] + self.epsilon)
        return y / root, root

    def value(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value`."""
        return np.asarray(self._scaled(self._normalized(rows_of(y, "y"))[0]))

    def value_error(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value_error`: no step of it cancels."""
        rows = rows_of(y, "y")
        return few_ulps(self.value(rows), rows.shape[-1])

    def value_mpmath(self, y: Sequence[Any]) -> list[Any]:
        """See :meth:`Composition.value_mpmath`."""
        root = mpmath.sqrt(mpmath.fsum(x * x for x in y) / len(y) + mpmath.mpf(self.epsilon))
        gains = [1.0] * len(y) if self.gain is None else self.gain.tolist()
        return [gain * x / root for gain, x in zip(gains, y, strict=True)]

    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """See :meth:`Composition.jacobian_product`."""
        rows, vectors = with_vector(y, direction, "direction")
        x, root = self._normalized(rows)
        return np.asarray(self._scaled(vectors - x * (total(x * vectors) / x.shape[-1])) / root)

    def amplified(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.amplified`."""
        rows, bounds = with_errors(y, errors)
        x, root = self._normalized(rows)
        size = np.abs(x)
        n = rows.shape[-1]
        own = np.abs(1.0 - x * x / n) * bounds
        return np.asarray(self._widened(own + size * others(size * bounds) / n) / root)

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.enclosure`.  It is attained.

        ``|f_i|`` increases with ``|y_i|`` and decreases with the other ``|y_j|``.
        """
        rows, bounds = with_errors(y, errors)
        x, _ = self._normalized(rows)
        size, n = np.abs(rows), rows.shape[-1]
        least, most = np.maximum(size - bounds, 0.0), size + bounds
        with np.errstate(invalid="ignore", over="ignore"):
            fewest, greatest = others(least * least), others(most * most)

            def end(numerator: Float64, rest: Float64) -> Float64:
                quotient = numerator / np.sqrt((numerator * numerator + rest) / n + self.epsilon)
                # Of an infinite numerator, of no terms, and of a zero over zero.
                limit = np.where(numerator > 0, np.sqrt(n), 0.0)
                return np.where(np.isfinite(numerator) & (quotient >= 0), quotient, limit)

            high = end(most, fewest)
            low = np.where(size > bounds, end(least, greatest), -end(bounds - size, fewest))
        value = np.abs(x)
        moved = np.maximum(high - value, value - low)
        slack = (8.0 * n + 256.0) * _UNIT * (high + np.abs(low) + value)
        return outward(self._widened(moved + slack), n)

    def sensitivity(self, y: ArrayLike, norm: int = 1) -> Float64:
        """See :meth:`Composition.sensitivity`."""
        check_norm(norm)
        x, root = self._normalized(rows_of(y, "y"))
        n = x.shape[-1]
        gain = self._magnitudes_of_gain(n)
        size, own = np.abs(x), gain * np.abs(1.0 - x * x / n)
        if norm == 1:
            return np.asarray((own + size * others(gain * size) / n) / root)
        return np.asarray(np.sqrt(own * own + (size / n) ** 2 * others((gain * size) ** 2)) / root)


class LayerNorm(_Norm):
    """``f_i = gain_i (y_i - mean) / s + bias_i``, ``s = sqrt(var(y) + epsilon)``.

    With ``x = (y - mean) / s``, the Jacobian is ``J = diag(gain) (I - (1 1^T + x x^T) / n) / s``.

    Parameters
    ----------
    gain, bias : array_like, shape (n,), optional
        By default 1 and 0.
    epsilon : float
    """

    is_proved = True
    name = "layer_norm"

    def __init__(
        self,
        gain: ArrayLike | None = None,
        bias: ArrayLike | None = None,
        epsilon: float = 1e-5,
    ) -> None:
        self.gain, self.bias = as_vector(gain, "gain"), as_vector(bias, "bias")
        self.epsilon = _check_epsilon(epsilon)

    def _normalized(self, y: Float64) -> tuple[Float64, Float64]:
        """``x = (y - mean) / s``, and s with a last axis of length 1."""
        for parameter in (self.gain, self.bias):
            _check_gain(parameter, y)
        n = y.shape[-1]
        centered = y - total(y) / n
        deviation = np.sqrt(total(centered * centered) / n + self.epsilon)
        with np.errstate(invalid="ignore"):
            return np.where(centered == 0, 0.0, centered / deviation), deviation

    def value(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value`."""
        scaled = self._scaled(self._normalized(rows_of(y, "y"))[0])
        return np.asarray(scaled if self.bias is None else scaled + self.bias)

    def value_error(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value_error`.

        The mean may cancel, so the error of y - mean is relative to the largest ``|y|``.
        """
        rows = rows_of(y, "y")
        n = rows.shape[-1]
        off = (4.0 * n + 64.0) * _UNIT * np.abs(rows).max(axis=-1, keepdims=True)
        x, deviation = self._normalized(rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            # The mean's error moves s up by no more than itself.
            moved = ratio(off * (1.0 + np.abs(x)), np.maximum(deviation - off, 0.0))
        moved = self._widened(moved + (8.0 * n + 64.0) * _UNIT * np.abs(x))
        return outward(moved + 4.0 * _UNIT * np.abs(self.value(rows)), n)

    def value_mpmath(self, y: Sequence[Any]) -> list[Any]:
        """See :meth:`Composition.value_mpmath`."""
        n = len(y)
        mean = mpmath.fsum(y) / n
        centered = [x - mean for x in y]
        deviation = mpmath.sqrt(mpmath.fsum(x * x for x in centered) / n + mpmath.mpf(self.epsilon))
        gains = [1.0] * n if self.gain is None else self.gain.tolist()
        biases = [0.0] * n if self.bias is None else self.bias.tolist()
        return [
            (gain * x / deviation if x else mpmath.mpf(0)) + bias
            for gain, x, bias in zip(gains, centered, biases, strict=True)
        ]

    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """See :meth:`Composition.jacobian_product`."""
        rows, vectors = with_vector(y, direction, "direction")
        x, deviation = self._normalized(rows)
        moved = vectors - (total(vectors) + x * total(x * vectors)) / x.shape[-1]
        return np.asarray(self._scaled(moved) / deviation)

    def amplified(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.amplified`.  It takes n**2 operations per row."""
        rows, bounds = with_errors(y, errors)
        x, deviation = self._normalized(rows)
        moved = jacobians.layer_norm(np.broadcast_to(x, bounds.shape), bounds)
        return np.asarray(self._widened(moved) / deviation)

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.enclosure`.

        Let R be the root mean square of the errors, which centering does not increase, and
        ``D = |I - 1 1^T / n| errors``.  Where ``R < s``, x_i changes by at most
        ``(D_i + |x_i| R) / (s - R)``; it never changes by more than ``sqrt(n - 1) + |x_i|``, since
        components of x lie within ``sqrt(n - 1)``.
        """
        rows, bounds = with_errors(y, errors)
        n = rows.shape[-1]
        x, deviation = self._normalized(rows)
        size = np.abs(x)
        off = (4.0 * n + 64.0) * _UNIT * np.abs(rows).max(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            root = outward(np.sqrt(total(bounds * bounds) / n), n)
            own = bounds * ((n - 1.0) / n) + others(bounds) / n
            # s and |y - mean| are known up to the error of the mean, relative errors aside.
            left = deviation * (1.0 - (8.0 * n + 64.0) * _UNIT) - off - root
            centered = size + off / np.where(deviation > off, deviation - off, 0.0)
            moved = (own + centered * root) / left
        widest = np.sqrt(n - 1.0) + size
        moved = np.where((left > 0) & (moved < widest), moved, widest)
        return outward(self._widened(moved), n)

    def sensitivity(self, y: ArrayLike, norm: int = 1) -> Float64:
        """See :meth:`Composition.sensitivity`.  The 1-norm takes n**2 operations per row."""
        check_norm(norm)
        rows = rows_of(y, "y")
        x, deviation = self._normalized(rows)
        n = x.shape[-1]
        gain = self._magnitudes_of_gain(n)
        if norm == 1:
            # The matrix is symmetric but for the gain, which multiplies its rows.
            return jacobians.layer_norm(x, np.broadcast_to(gain, x.shape)) / deviation
        # sum_i gain_i**2 ([i=j] - (1 + x_i x_j)/n)**2
        squares = gain * gain * np.ones_like(x)
        zeroth, first, second = total(squares), total(squares * x), total(squares * x * x)
        diagonal = squares * (1.0 - 2.0 * (1.0 + x * x) / n)
        rest = (zeroth + 2.0 * x * first + x * x * second) / n**2
        return np.asarray(np.sqrt(np.maximum(diagonal + rest, 0.0)) / deviation)
