"""The steps of a transformer around attention and the matrix products.

Kernels compute in float64, in a fixed order, and round once into the type of their input; no
function of the platform's mathematical library is part of a result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Accumulator, parallel
from lamp import activations

__all__ = ["activation", "layer_norm", "linear"]

_GRAIN: Final = 2**12  # elements worth a thread


def linear(
    x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None, accumulator: Accumulator
) -> NDArray[Any]:
    """``x @ weight + bias``: the bias is added in the type of the product.

    The sum is then rounded into the type of `x`, whatever the accumulator.

    Parameters
    ----------
    x : ndarray, shape (rows, inputs)
    weight : ndarray, shape (inputs, outputs)
    bias : ndarray, shape (outputs,), or None
    accumulator : Accumulator
        Sums of the product.

    Returns
    -------
    ndarray, shape (rows, outputs)
    """
    product: NDArray[Any] = fpemu.matmul(x, weight, accumulator)
    if bias is not None:
        product += bias
    return product.astype(x.dtype, copy=False)


def layer_norm(
    x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any], epsilon: float
) -> NDArray[Any]:
    """Normalise each row to mean 0 and variance 1, then scale and shift.

    Parameters
    ----------
    x : ndarray, shape (rows, n)
    weight, bias : ndarray, shape (n,)
    epsilon : float
        Is added to the variance.

    Returns
    -------
    ndarray, shape (rows, n)
    """
    out = np.empty_like(x)
    grain = max(1, _GRAIN // x.shape[1])
    parallel.run(_layer_norm_rows, x.shape[0], x, weight, bias, epsilon, out, grain=grain)
    return out


@parallel.kernel
def _layer_norm_rows(start, stop, x, weight, bias, epsilon, out):  # type: ignore[no-untyped-def]
    n = x.shape[1]
    for row in range(start, stop):
        total = 0.0
        for j in range(n):
            total += np.float64(x[row, j])
        mean = total / n
        squares = 0.0
        for j in range(n):
            deviation = np.float64(x[row, j]) - mean
            squares += deviation * deviation
        scale = 1.0 / np.sqrt(squares / n + epsilon)
        for j in range(n):
            normalised = (np.float64(x[row, j]) - mean) * scale
            out[row, j] = normalised * np.float64(weight[j]) + np.float64(bias[j])


def activation(x: NDArray[Any], name: str) -> NDArray[Any]:
    """Apply an activation to each element, in place.

    Parameters
    ----------
    x : ndarray, C-contiguous
        The arguments, which the values replace.
    name : str
        One of :data:`lamp.activations.ACTIVATIONS`, by transformers' names.

    Returns
    -------
    ndarray
        `x`.

    Raises
    ------
    ValueError
        If there is no such activation, or `x` is not C-contiguous.
    """
    function = activations.activation(name).value
    if not x.flags.c_contiguous:
        raise ValueError("an activation works in place: x must be C-contiguous")
    parallel.run(_in_place(function), x.size, x.reshape(-1), grain=_GRAIN)
    return x


@functools.cache
def _in_place(function: Callable[..., Any]) -> Callable[..., None]:
    """The kernel that applies a scalar function in float64 to each element."""

    @parallel.kernel
    def activation_range(start, stop, x):  # type: ignore[no-untyped-def]
        for i in range(start, stop):
            x[i] = function(np.float64(x[i]))

    return cast(Callable[..., None], activation_range)
