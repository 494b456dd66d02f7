"""Softmax, alone and times the values of an attention head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mpmath
import numpy as np
from numpy.typing import ArrayLike

from lamp._kernels import jacobians
from lamp._kernels.rows import Float64, exp, expm1, others, outward, product, rows_of, total
from lamp.bounds.compositions.base import (
    Composition,
    as_matrix,
    check_norm,
    few_ulps,
    with_errors,
    with_vector,
)

__all__ = ["Softmax", "SoftmaxProduct"]

_UNIT: Final = 2.0**-53


def _softmax(y: Float64) -> Float64:
    exponentials = exp(y - y.max(axis=-1, keepdims=True))
    return exponentials / total(exponentials)


def _shrinkage(errors: Float64) -> Float64:
    """``1 - e**-errors``."""
    return -expm1(-errors)


class Softmax(Composition):
    """``z = exp(y) / sum(exp(y))``, with ``J = diag(z) - z z^T``.  Scores of -inf are masked.

    The enclosure is attained: ``z^_i / z_i = e^d_i / sum_j z_j e^d_j`` increases with d_i and
    decreases with the other d_j.

    Examples
    --------
    >>> from lamp.bounds.compositions import Softmax
    >>> Softmax().value([0.0, 0.0])
    array([0.5, 0.5])
    >>> Softmax().amplified([0.0, 0.0], [0.25, 0.0])
    array([0.0625, 0.0625])
    """

    is_proved = True
    name = "softmax"

    def value(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value`."""
        return _softmax(rows_of(y, "y"))

    def value_error(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value_error`: no step of it cancels."""
        rows = rows_of(y, "y")
        return few_ulps(self.value(rows), rows.shape[-1])

    def value_mpmath(self, y: Sequence[Any]) -> list[Any]:
        """See :meth:`Composition.value_mpmath`."""
        largest = max(y)
        exponentials = [mpmath.exp(x - largest) for x in y]
        sum_ = mpmath.fsum(exponentials)
        return [x / sum_ for x in exponentials]

    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """See :meth:`Composition.jacobian_product`."""
        rows, vectors = with_vector(y, direction, "direction")
        z = _softmax(rows)
        return z * (vectors - total(z * vectors))

    def jacobian(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.jacobian`.  ``z_i (1 - z_i)`` is computed without cancellation."""
        z = _softmax(rows_of(y, "y"))
        matrix = -z[..., :, np.newaxis] * z[..., np.newaxis, :]
        places = np.arange(z.shape[-1])
        matrix[..., places, places] = z * others(z)
        return matrix

    def amplified(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.amplified`."""
        rows, bounds = with_errors(y, errors)
        z = _softmax(rows)
        return z * (others(z) * bounds + others(z * bounds))

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.enclosure`."""
        rows, bounds = with_errors(y, errors)
        z = _softmax(rows)
        rest = others(z)
        # Up: z_i (e^h_i - sum_j z_j e^+-h_j) / sum, with both divided by e^h_i and 1 = sum z.
        shrunk = _shrinkage(bounds)
        own = exp(-bounds)
        rising = shrunk * rest + own * others(z * shrunk)
        with np.errstate(invalid="ignore"):  # 0 / 0 where an error may be infinite
            up = z * rising / (z + own * others(z * own))
        # Down: the same with the signs changed, divided by the largest exponential.
        most = bounds.max(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            grown = np.where(bounds == most, 1.0, exp(bounds - most))
            falling = others(z * grown * shrunk) + exp(-most) * shrunk * rest
            down = z * falling / (z * exp(-bounds - most) + others(z * grown))
        # No probability falls by more than itself or grows by more than the rest.
        down = np.where(np.isfinite(most) & (down < z), down, z)
        up = np.where(up < rest, up, rest)
        return outward(np.maximum(up, down), rows.shape[-1])

    def sensitivity(self, y: ArrayLike, norm: int = 1) -> Float64:
        """See :meth:`Composition.sensitivity`: ``2 z (1 - z)`` in the 1-norm."""
        check_norm(norm)
        z = _softmax(rows_of(y, "y"))
        if norm == 1:
            return 2.0 * z * others(z)
        rest = others(z)
        return z * np.sqrt(rest * rest + others(z * z))


class SoftmaxProduct(Composition):
    """``o = softmax(y) V``: the output of an attention head.

    To first order ``do_c = sum_j z_j (V_jc - o_c) dy_j``.  Errors d of any size give
    ``o^ - o = sum_j z_j (e^d_j - 1) (V_j - o) / sum_j z_j e^d_j``.

    Parameters
    ----------
    values : array_like, shape (n, m)
        V.
    """

    is_proved = True
    name = "softmax times values"

    def __init__(self, values: ArrayLike) -> None:
        self.values = as_matrix(values, "values")

    def _probabilities(self, y: Float64) -> Float64:
        if y.shape[-1] != len(self.values):
            raise ValueError(
                f"y has rows of {y.shape[-1]} components, but there are {len(self.values)} values"
            )
        return _softmax(y)

    def value(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value`."""
        return product(self._probabilities(rows_of(y, "y")), self.values)

    def value_error(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value_error`."""
        z = self._probabilities(rows_of(y, "y"))
        magnitude = product(z, np.abs(self.values))
        return outward(magnitude, z.shape[-1]) - magnitude

    def value_mpmath(self, y: Sequence[Any]) -> list[Any]:
        """See :meth:`Composition.value_mpmath`."""
        z = Softmax().value_mpmath(y)
        return [
            mpmath.fsum(p * mpmath.mpf(float(v)) for p, v in zip(z, column, strict=True))
            for column in self.values.T
        ]

    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """See :meth:`Composition.jacobian_product`."""
        return product(Softmax().jacobian_product(y, direction), self.values)

    def amplified(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.amplified`."""
        rows, bounds = with_errors(y, errors)
        z = self._probabilities(rows)
        return jacobians.weighted_distances(z * bounds, self.values, product(z, self.values))

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.enclosure`."""
        rows, bounds = with_errors(y, errors)
        z = self._probabilities(rows)
        output = product(z, self.values)
        n = rows.shape[-1]
        with np.errstate(invalid="ignore", over="ignore"):
            grown = np.where(z > 0, z * expm1(bounds), 0.0)
            # The distance of values from the output is known up to the rounding of the output.
            slack = outward(np.abs(self.values).max(axis=0), n) * (4.0 * n + 4096.0) * _UNIT
            least = total(z * exp(-bounds))
            moved = jacobians.weighted_distances(grown, self.values, output)
            moved = moved / least + total(grown) / least * slack
        farthest = np.maximum(self.values.max(axis=0) - output, output - self.values.min(axis=0))
        moved = np.where(moved < farthest + slack, moved, farthest + slack)
        return outward(moved, n)

    def sensitivity(self, y: ArrayLike, norm: int = 1) -> Float64:
        """See :meth:`Composition.sensitivity`: ``z_j ||V_j - o||``."""
        check_norm(norm)
        z = self._probabilities(rows_of(y, "y"))
        output = product(z, self.values)
        return z * jacobians.value_distances(self.values, output, norm)
