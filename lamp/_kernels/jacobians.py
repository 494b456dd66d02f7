"""Sums over the entries of Jacobians, row by row, without forming the matrices."""

from __future__ import annotations

from typing import Final

import numpy as np

from fpemu._kernels import caching, launching
from lamp._kernels.rows import Float64

__all__ = ["layer_norm", "value_distances", "weighted_distances"]

_COST: Final = 1.0  # nanoseconds of an entry


def layer_norm(x: Float64, errors: Float64) -> Float64:
    """``|J| errors`` of a LayerNorm with deviation and gain 1.

    Parameters
    ----------
    x : ndarray of float64, shape (..., n)
        The normalized rows.
    errors : ndarray of float64, shape (..., n)
        The same shape; nonnegative.

    Returns
    -------
    ndarray of float64, shape (..., n)
        ``sum_j |[i=j] - (1 + x_i x_j) / n| errors_j``.
    """
    n = x.shape[-1]
    rows = np.ascontiguousarray(x).reshape(-1, n)
    of_rows = np.ascontiguousarray(errors).reshape(-1, n)
    out = np.empty_like(rows)
    cost = _COST * n**2
    launching.run(_layer_norm_rows, len(rows), *launching.reading(rows, of_rows), out, cost=cost)
    return out.reshape(x.shape)


@caching.kernel
def _layer_norm_rows(start, stop, x, errors, out):  # type: ignore[no-untyped-def]
    n = x.shape[1]
    for row in range(start, stop):
        for i in range(n):
            sum_ = 0.0
            for j in range(n):
                entry = (1.0 + x[row, i] * x[row, j]) / n
                sum_ += abs((1.0 if i == j else 0.0) - entry) * errors[row, j]
            out[row, i] = sum_


def weighted_distances(weights: Float64, values: Float64, output: Float64) -> Float64:
    """Weighted sums of the distances of values from an output, component by component.

    Parameters
    ----------
    weights : ndarray of float64, shape (..., n)
    values : ndarray of float64, shape (n, m)
    output : ndarray of float64, shape (..., m)

    Returns
    -------
    ndarray of float64, shape (..., m)
        ``sum_j weights_j |values_jc - output_c|``.
    """
    rows = np.ascontiguousarray(weights).reshape(-1, weights.shape[-1])
    outputs = output.reshape(-1, output.shape[-1])
    out = np.empty_like(outputs)
    arrays = launching.reading(rows, values, outputs)
    launching.run(_weighted_distance_rows, len(rows), *arrays, out, cost=_COST * values.size)
    return out.reshape(output.shape)


@caching.kernel
def _weighted_distance_rows(start, stop, weights, values, outputs, out):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for c in range(values.shape[1]):
            out[row, c] = 0.0
        for j in range(values.shape[0]):
            weight = weights[row, j]
            if weight != 0.0:  # infinity times no distance is no error
                for c in range(values.shape[1]):
                    distance = abs(values[j, c] - outputs[row, c])
                    out[row, c] += weight * distance if distance > 0.0 else 0.0


def value_distances(values: Float64, output: Float64, norm: int) -> Float64:
    """The distance of every value from an output.

    Parameters
    ----------
    values : ndarray of float64, shape (n, m)
    output : ndarray of float64, shape (..., m)
    norm : {1, 2}

    Returns
    -------
    ndarray of float64, shape (..., n)
        ``||values_j - output||``.
    """
    outputs = output.reshape(-1, output.shape[-1])
    out = np.empty((len(outputs), len(values)))
    arrays = launching.reading(values, outputs)
    arguments = *arrays, norm == 2, out
    launching.run(_value_distance_rows, len(outputs), *arguments, cost=_COST * values.size)
    return out.reshape(*output.shape[:-1], len(values))


@caching.kernel
def _value_distance_rows(start, stop, values, outputs, squared, out):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        for j in range(values.shape[0]):
            sum_ = 0.0
            for c in range(values.shape[1]):
                distance = abs(values[j, c] - outputs[row, c])
                sum_ += distance * distance if squared else distance
            out[row, j] = np.sqrt(sum_) if squared else sum_
