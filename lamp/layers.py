"""The steps of a transformer around attention and the matrix products.

Kernels compute in float64, in a fixed order, and round once into the type of their input; no
function of the platform's mathematical library is part of a result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Accumulator, elementary, parallel

__all__ = ["ACTIVATIONS", "activation", "check_activation", "layer_norm", "linear"]

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
        One of :data:`ACTIVATIONS`, by transformers' names.

    Returns
    -------
    ndarray
        `x`.

    Raises
    ------
    ValueError
        If there is no such activation, or `x` is not C-contiguous.
    """
    check_activation(name)
    if not x.flags.c_contiguous:
        raise ValueError("an activation works in place: x must be C-contiguous")
    parallel.run(ACTIVATIONS[name], x.size, x.reshape(-1), grain=_GRAIN)
    return x


def check_activation(name: str) -> None:
    """Raise a ValueError if there is no activation of that name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: expected {', '.join(ACTIVATIONS)}")


_SQRT_HALF: Final = np.sqrt(0.5)
_SQRT_2_OVER_PI: Final = np.sqrt(2.0 / np.pi)


@parallel.kernel
def _gelu_range(start, stop, x):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        y = np.float64(x[i])
        x[i] = 0.5 * y * (1.0 + elementary.erf(y * _SQRT_HALF))


@parallel.kernel
def _gelu_new_range(start, stop, x):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        y = np.float64(x[i])
        inner = _SQRT_2_OVER_PI * (y + 0.044715 * (y * y * y))
        x[i] = 0.5 * y * (1.0 + elementary.tanh(inner))


@parallel.kernel
def _silu_range(start, stop, x):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        y = np.float64(x[i])
        x[i] = y * elementary.sigmoid(y)


@parallel.kernel
def _relu_range(start, stop, x):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        # Written so that NaN stays NaN.
        x[i] = x[i] if not x[i] < 0 else 0


ACTIVATIONS: Final[dict[str, Callable[..., None]]] = {
    "gelu": _gelu_range,
    "gelu_new": _gelu_new_range,
    "gelu_pytorch_tanh": _gelu_new_range,
    "silu": _silu_range,
    "swish": _silu_range,
    "relu": _relu_range,
}
"""The kernels of the activations, by transformers' names."""
