"""Functions and sums along the last axis, in float64, with the same bits on every machine.

Results of numpy's functions and sums depend on the platform.  These use fpemu's elementary
functions and add in index order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fpemu
from fpemu._kernels import caching, elementary, launching
from fpemu.carriers import as_carrier

__all__ = ["Float64", "exp", "expm1", "mapped", "others", "outward", "product", "rows_of", "total"]

Float64 = NDArray[np.float64]

_COST: Final = 10.0  # nanoseconds of an element, of most functions
_SUM_COST: Final = 1.0  # in a sum
_DOUBLE: Final = fpemu.Sequential("float64")
_UNIT: Final = 2.0**-53
_TINY: Final = 2.0**-1000  # more than underflow can lose


def rows_of(x: ArrayLike, name: str) -> Float64:
    """An argument as rows of float64.

    Raises
    ------
    ValueError
        If the argument is a scalar or its last axis is empty, or an integer is not a float64
        number.
    TypeError
        If the argument does not hold real numbers of at most 64 bits.
    """
    if np.asarray(x).dtype.kind == "b":
        raise TypeError(f"{name} must hold real numbers, not bool")
    array = as_carrier(x, name)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} needs a last axis that is not empty, not shape {array.shape}")
    return array.astype(np.float64)


def mapped(
    function: Callable[..., Any], x: NDArray[Any], dtype: np.dtype[Any] | None = None
) -> NDArray[Any]:
    """A scalar function for Numba kernels, applied to every element; `dtype` is of the result."""
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty(flat.shape, flat.dtype if dtype is None else dtype)
    given = launching.reading(flat)
    launching.run(caching.mapping(function), flat.size, *given, out, cost=_COST)
    return out.reshape(x.shape)


def exp(x: Float64) -> Float64:
    """``e**x``, within 1.5 ulp."""
    return mapped(elementary.exp, x)


def expm1(x: Float64) -> Float64:
    """``e**x - 1``, within 4 ulp."""
    return mapped(elementary.expm1, x)


@caching.kernel
def _total_rows(start, stop, x, out):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        sum_ = 0.0
        for j in range(x.shape[1]):
            sum_ += x[row, j]
        out[row] = sum_


def total(x: Float64) -> Float64:
    """The sums along the last axis, which stays with length 1."""
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    out = np.empty(rows.shape[0])
    cost = _SUM_COST * x.shape[-1]
    launching.run(_total_rows, rows.shape[0], *launching.reading(rows), out, cost=cost)
    return out.reshape(*x.shape[:-1], 1)


@caching.kernel
def _others_rows(start, stop, x, out):  # type: ignore[no-untyped-def]
    n = x.shape[1]
    for row in range(start, stop):
        before = 0.0
        for j in range(n):
            out[row, j] = before
            before += x[row, j]
        after = 0.0
        for j in range(n - 1, -1, -1):
            out[row, j] += after
            after += x[row, j]


def others(x: Float64) -> Float64:
    """For every element, the sum of the other elements along the last axis.

    It is computed as the sum before plus the sum after the element, without the cancellation of
    the whole sum minus the element.
    """
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    out = np.empty_like(rows)
    cost = 2 * _SUM_COST * x.shape[-1]
    launching.run(_others_rows, rows.shape[0], *launching.reading(rows), out, cost=cost)
    return out.reshape(x.shape)


def product(x: Float64, matrix: Float64) -> Float64:
    """``x @ matrix``, with sums in index order."""
    return np.asarray(fpemu.matmul(x, matrix, _DOUBLE), np.float64)


def outward(bound: Float64, terms: int) -> Float64:
    """A bound computed in float64, increased by more than its rounding errors.

    It applies to expressions without cancellation of at most 8 sums of `terms` terms and 8000
    other roundings: each of these has a relative error of one unit, an exponential one of its
    argument, which is below 750 units.
    """
    return np.asarray(bound) * (1.0 + (8.0 * terms + 8192.0) * _UNIT) + _TINY
