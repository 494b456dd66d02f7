"""Elementwise functions: activations, alone and times a matrix, and addition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np
from numpy.typing import ArrayLike

from lamp._kernels import activations
from lamp._kernels.rows import Float64, mapped, outward, product, rows_of, total
from lamp.bounds.compositions.base import (
    Composition,
    as_matrix,
    check_norm,
    few_ulps,
    with_errors,
    with_vector,
)

__all__ = ["Entrywise", "EntrywiseProduct", "Residual"]


class Entrywise(Composition):
    """An activation of every component: gelu, gelu_new, silu, relu, sigmoid, tanh.

    Let L and M be bounds of ``|f'|`` and ``|f''|``.  Between y - h and y + h the slope is at most
    ``min(L, |f'(y)| + M h)``, so f changes by at most ``h min(L, |f'(y)| + M h / 2)``.

    Parameters
    ----------
    name : str
        One of :data:`lamp._kernels.activations.ACTIVATIONS`.
    """

    is_proved = True

    def __init__(self, name: str) -> None:
        self.activation = activations.activation(name)
        self.name = name

    def value(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value`."""
        return mapped(self.activation.value, rows_of(y, "y"))

    def slope(self, y: ArrayLike) -> Float64:
        """The slopes f'(y).

        Parameters
        ----------
        y : array_like, shape (..., n)

        Returns
        -------
        ndarray of float64, shape (..., n)
        """
        return mapped(self.activation.slope, rows_of(y, "y"))

    def value_error(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value_error`: the activations are accurate to a few ulps."""
        rows = rows_of(y, "y")
        return few_ulps(self.value(rows), rows.shape[-1])

    def value_mpmath(self, y: Sequence[Any]) -> list[Any]:
        """See :meth:`Composition.value_mpmath`."""
        return [self.activation.value_mpmath(x) for x in y]

    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """See :meth:`Composition.jacobian_product`."""
        rows, vectors = with_vector(y, direction, "direction")
        return self.slope(rows) * vectors

    def amplified(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.amplified`."""
        rows, bounds = with_errors(y, errors)
        return np.abs(self.slope(rows)) * bounds

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.enclosure`.  For relu it is attained."""
        rows, bounds = with_errors(y, errors)
        with np.errstate(invalid="ignore", over="ignore"):
            if np.isinf(self.activation.curvature):  # relu: f(y + h) - f(y), f(y) - f(y - h)
                moved = np.where(rows > 0, bounds, np.maximum(rows + bounds, 0.0))
            else:
                # The slope is known up to 2**-45.
                steepest = (
                    np.abs(self.slope(rows)) + 2.0**-45 + 0.5 * self.activation.curvature * bounds
                )
                moved = bounds * np.minimum(steepest, self.activation.steepest)
        return outward(moved, 1)

    def sensitivity(self, y: ArrayLike, norm: int = 1) -> Float64:
        """See :meth:`Composition.sensitivity`: ``|f'(y)|`` in every norm."""
        check_norm(norm)
        return np.abs(self.slope(y))


class EntrywiseProduct(Composition):
    """``f(y) W``: an activation times a matrix.

    Parameters
    ----------
    name : str
        One of :data:`lamp._kernels.activations.ACTIVATIONS`.
    matrix : array_like, shape (n, m)
        W.
    """

    is_proved = True

    def __init__(self, name: str, matrix: ArrayLike) -> None:
        self.first = Entrywise(name)
        self.matrix = as_matrix(matrix, "matrix")
        self.name = f"{name} times a matrix"

    def value(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value`."""
        return product(self.first.value(y), self.matrix)

    def value_error(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value_error`."""
        magnitude = product(np.abs(self.first.value(y)), np.abs(self.matrix))
        return outward(magnitude, len(self.matrix)) - magnitude

    def value_mpmath(self, y: Sequence[Any]) -> list[Any]:
        """See :meth:`Composition.value_mpmath`."""
        values = self.first.value_mpmath(y)
        return [
            mpmath.fsum(x * mpmath.mpf(float(w)) for x, w in zip(values, column, strict=True))
            for column in self.matrix.T
        ]

    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """See :meth:`Composition.jacobian_product`."""
        return product(self.first.jacobian_product(y, direction), self.matrix)

    def amplified(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.amplified`."""
        return product(self.first.amplified(y, errors), np.abs(self.matrix))

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.enclosure`."""
        moved = product(self.first.enclosure(y, errors), np.abs(self.matrix))
        return outward(moved, len(self.matrix))

    def sensitivity(self, y: ArrayLike, norm: int = 1) -> Float64:
        """See :meth:`Composition.sensitivity`: ``|f'(y_j)| ||W_j||``."""
        check_norm(norm)
        size = np.abs(self.matrix)
        lengths = total(size) if norm == 1 else np.sqrt(total(size * size))
        return self.first.sensitivity(y, norm) * lengths[:, 0]


class Residual(Composition):
    """``x + y``: a layer's output added to the residual stream.

    Parameters
    ----------
    stream : array_like, shape (n,)
        x.
    """

    is_proved = True
    name = "residual addition"

    def __init__(self, stream: ArrayLike) -> None:
        self.stream = rows_of(stream, "stream")

    def value(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value`."""
        return with_vector(y, self.stream, "stream")[1] + rows_of(y, "y")

    def value_error(self, y: ArrayLike) -> Float64:
        """See :meth:`Composition.value_error`: one rounding."""
        rows = rows_of(y, "y")
        return few_ulps(self.value(rows), rows.shape[-1])

    def value_mpmath(self, y: Sequence[Any]) -> list[Any]:
        """See :meth:`Composition.value_mpmath`."""
        if self.stream.ndim != 1:
            raise ValueError(f"stream must be one row, not of shape {self.stream.shape}")
        return [mpmath.mpf(float(x)) + each for x, each in zip(self.stream, y, strict=True)]

    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """See :meth:`Composition.jacobian_product`."""
        return np.array(with_vector(y, direction, "direction")[1])

    def amplified(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.amplified`."""
        return np.array(with_errors(y, errors)[1])

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """See :meth:`Composition.enclosure`."""
        return np.array(with_errors(y, errors)[1])

    def sensitivity(self, y: ArrayLike, norm: int = 1) -> Float64:
        """See :meth:`Composition.sensitivity`: 1."""
        check_norm(norm)
        return np.ones_like(rows_of(y, "y"))
