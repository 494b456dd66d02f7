"""Interface of a row-wise function, and checks of arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lamp._kernels.rows import Float64, outward, rows_of, total

__all__ = [
    "Composition",
    "as_matrix",
    "as_vector",
    "check_norm",
    "ratio",
    "with_errors",
    "with_vector",
]


class Composition(ABC):
    """Interface of a row-wise function f: value, Jacobian, condition, enclosure.

    To test bounds of your own function, derive from this class and define `name`, `value`,
    `jacobian_product`, `amplified`, `value_mpmath`, and `enclosure` if you have a rigorous bound.
    """

    name: str

    @abstractmethod
    def value(self, y: ArrayLike) -> Float64:
        """f(y).

        Parameters
        ----------
        y : array_like, shape (..., n)
            Real numbers.

        Returns
        -------
        ndarray of float64, shape (..., m)
        """

    def value_error(self, y: ArrayLike) -> Float64:
        """A bound of ``|value(y) - f(y)|``, the error of float64.

        Parameters
        ----------
        y : array_like, shape (..., n)

        Returns
        -------
        ndarray of float64, shape (..., m)
        """
        rows = rows_of(y, "y")
        value = np.abs(self.value(rows))
        return outward(value, rows.shape[-1]) - value

    @abstractmethod
    def value_mpmath(self, y: Sequence[Any]) -> list[Any]:
        """The value at one row of mpmath numbers in mpmath's precision, the reference of tests.

        Parameters
        ----------
        y : sequence of mpmath.mpf, length n

        Returns
        -------
        list of mpmath.mpf, length m
        """

    @abstractmethod
    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """The Jacobian at y times a vector.

        Parameters
        ----------
        y, direction : array_like, shape (..., n)
            Rows, and a vector for each.

        Returns
        -------
        ndarray of float64, shape (..., m)
        """

    def jacobian(self, y: ArrayLike) -> Float64:
        """The Jacobian at y as a matrix, computed column by column.

        Parameters
        ----------
        y : array_like, shape (..., n)

        Returns
        -------
        ndarray of float64, shape (..., m, n)
        """
        rows = rows_of(y, "y")[..., np.newaxis, :]
        identity = np.eye(rows.shape[-1])
        directions = np.broadcast_to(identity, (*rows.shape[:-2], *identity.shape))
        rows = np.broadcast_to(rows, directions.shape)
        return np.swapaxes(self.jacobian_product(rows, directions), -1, -2)

    @abstractmethod
    def amplified(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """``|J(y)| errors``: a bound of the error of f(y), to first order in the errors of y.

        Parameters
        ----------
        y : array_like, shape (..., n)
        errors : array_like, shape (..., n)
            Bounds of the absolute errors of y.

        Returns
        -------
        ndarray of float64, shape (..., m)
        """

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """A bound of ``|f(y + d) - f(y)|`` for all d with ``|d| <= errors``, small or large.

        No remainder is neglected, and all roundings are outward.

        Parameters
        ----------
        y, errors : array_like, shape (..., n)
            Errors may be infinite.

        Returns
        -------
        ndarray of float64, shape (..., m)

        Raises
        ------
        NotImplementedError
            If no such bound is known.
        """
        raise NotImplementedError(f"no rigorous bound of {self.name} is known")

    def sensitivity(self, y: ArrayLike, norm: int = 1) -> Float64:
        """The norms of the Jacobian's columns: how an error of each component changes f(y).

        They are the weights by which to select components for recomputation.

        Parameters
        ----------
        y : array_like, shape (..., n)
        norm : {1, 2}
            Which norm.

        Returns
        -------
        ndarray of float64, shape (..., n)
        """
        check_norm(norm)
        columns = np.abs(self.jacobian(y))
        if norm == 1:
            return np.asarray(columns.sum(axis=-2))
        return np.asarray(np.sqrt((columns * columns).sum(axis=-2)))

    def output_condition(self, y: ArrayLike) -> Float64:
        """``sum_j |J_ij y_j| / |f_i|``: how relative errors of y are magnified in each f_i.

        Parameters
        ----------
        y : array_like, shape (..., n)

        Returns
        -------
        ndarray of float64, shape (..., m)
            0 where no error changes f_i, infinity where errors change an f_i that is 0.
        """
        rows = rows_of(y, "y")
        return ratio(self.amplified(rows, np.abs(rows)), np.abs(self.value(rows)))

    def input_condition(self, y: ArrayLike) -> Float64:
        """``|y_j| ||J_:j|| / ||f||`` in the 2-norm: how a relative error of each y_j changes f.

        Parameters
        ----------
        y : array_like, shape (..., n)

        Returns
        -------
        ndarray of float64, shape (..., n)
        """
        rows = rows_of(y, "y")
        value = self.value(rows)
        return ratio(np.abs(rows) * self.sensitivity(rows, 2), np.sqrt(total(value * value)))

    def __str__(self) -> str:
        return self.name


def ratio(numerator: Float64, denominator: Float64) -> Float64:
    """Quotients of nonnegative numbers, with 0/0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(numerator == 0, 0.0, numerator / denominator)


def check_norm(norm: int) -> None:
    """Raise a ValueError unless the norm is the 1-norm or the 2-norm."""
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, not {norm!r}")


def with_vector(y: ArrayLike, other: ArrayLike, name: str) -> tuple[Float64, Float64]:
    """Rows, and another array broadcast against them."""
    rows, values = rows_of(y, "y"), rows_of(other, name)
    if values.shape[-1] not in (1, rows.shape[-1]):
        raise ValueError(
            f"{name} has shape {values.shape}, which does not match shape {rows.shape} of y"
        )
    return rows, np.broadcast_to(values, np.broadcast_shapes(rows.shape, values.shape))


def with_errors(y: ArrayLike, errors: ArrayLike) -> tuple[Float64, Float64]:
    """Rows and the bounds of their absolute errors."""
    rows, bounds = with_vector(y, errors, "errors")
    if not (bounds >= 0).all():
        wrong = bounds[~(bounds >= 0)].ravel()[0]
        raise ValueError(f"errors must be bounds of magnitudes, but {wrong} is negative or NaN")
    return rows, bounds


def as_vector(x: ArrayLike | None, name: str) -> Float64 | None:
    """A parameter that is a vector, or None."""
    if x is None:
        return None
    array = rows_of(x, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must be a vector, not of shape {array.shape}")
    return array


def as_matrix(x: ArrayLike, name: str) -> Float64:
    """A parameter that is a matrix."""
    array = rows_of(x, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix, not of shape {array.shape}")
    return array
