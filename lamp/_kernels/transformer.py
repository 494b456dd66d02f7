"""Kernels of a transformer's functions of rows: norm and softmax.

Each computes in float64, in index order; the caller rounds the result.
"""

from __future__ import annotations

import numpy as np

from fpemu._kernels import caching, elementary

__all__ = ["norm_rows", "softmax_rows"]


@caching.kernel
def norm_rows(start, stop, x, weight, bias, epsilon, centered, out):  # type: ignore[no-untyped-def]
    """LayerNorm of rows, RMSNorm if `centered` is false."""
    n = x.shape[1]
    for row in range(start, stop):
        mean = 0.0
        if centered:
            for j in range(n):
                mean += np.float64(x[row, j])
            mean /= n
        squares = 0.0
        for j in range(n):
            deviation = np.float64(x[row, j]) - mean
            squares += deviation * deviation
        scale = 1.0 / np.sqrt(squares / n + epsilon)
        for j in range(n):
            normalized = (np.float64(x[row, j]) - mean) * scale
            out[row, j] = normalized * np.float64(weight[j]) + np.float64(bias[j])


@caching.kernel
def softmax_rows(start, stop, y, lengths, out):  # type: ignore[no-untyped-def]
    """Softmax of the first ``lengths[row]`` components of each row; the rest of `out` is kept."""
    exponentials = np.empty(y.shape[1], np.float64)
    for row in range(start, stop):
        length = lengths[row]
        largest = np.float64(y[row, 0])
        for j in range(1, length):
            largest = max(largest, np.float64(y[row, j]))
        for j in range(length):
            exponentials[j] = elementary.exp(np.float64(y[row, j]) - largest)
        total = 0.0
        for j in range(length):
            total += exponentials[j]
        for j in range(length):
            out[row, j] = exponentials[j] / total
