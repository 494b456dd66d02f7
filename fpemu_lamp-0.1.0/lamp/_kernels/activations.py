"""The activations of a feed-forward layer and their slopes, as scalar functions.

Everything is computed in float64 from fpemu's elementary functions, with the same bits on every
machine and with small relative errors also where a value is tiny.

References
----------
D. Hendrycks, K. Gimpel, Gaussian error linear units, arXiv 1606.08415 (2016).  S. Elfwing,
E. Uchibe, K. Doya, Sigmoid-weighted linear units, Neural Networks 107 (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import mpmath
import numpy as np

from fpemu._kernels import elementary
from fpemu._kernels.caching import inline

__all__ = ["ACTIVATIONS", "Activation", "activation"]

_SQRT_HALF: Final = float(np.sqrt(0.5))
_SQRT_2_OVER_PI: Final = float(np.sqrt(2.0 / np.pi))
_1_OVER_SQRT_2_PI: Final = float(np.sqrt(0.5 / np.pi))
_CUBIC: Final = 0.044715


@inline
def _gelu(y: float) -> Any:
    return 0.5 * y * elementary.erfc(-y * _SQRT_HALF)


@inline
def _gelu_slope(y: float) -> Any:
    density = _1_OVER_SQRT_2_PI * elementary.exp(-0.5 * y * y)
    # Beyond the range of exp the product is zero, not NaN.
    product = y * density if density > 0.0 else density
    return 0.5 * elementary.erfc(-y * _SQRT_HALF) + product


@inline
def _gelu_new(y: float) -> Any:
    # (1 + tanh t) / 2 = sigmoid(2 t), without the cancellation
    return y * elementary.sigmoid(2.0 * _SQRT_2_OVER_PI * (y + _CUBIC * (y * y * y)))


@inline
def _gelu_new_slope(y: float) -> Any:
    sigmoid = elementary.sigmoid(2.0 * _SQRT_2_OVER_PI * (y + _CUBIC * (y * y * y)))
    complement = elementary.sigmoid(-2.0 * _SQRT_2_OVER_PI * (y + _CUBIC * (y * y * y)))
    change = sigmoid * complement
    inner = 2.0 * _SQRT_2_OVER_PI * (y + 3.0 * _CUBIC * (y * y * y))
    return sigmoid + inner * change if change > 0.0 else sigmoid


@inline
def _silu(y: float) -> Any:
    return y * elementary.sigmoid(y)


@inline
def _silu_slope(y: float) -> Any:
    sigmoid = elementary.sigmoid(y)
    change = sigmoid * elementary.sigmoid(-y)
    return sigmoid + y * change if change > 0.0 else sigmoid


@inline
def _relu(y: float) -> Any:
    # Written so that NaN stays NaN.
    return y if not y < 0.0 else 0.0


@inline
def _relu_slope(y: float) -> Any:
    return (1.0 if y > 0.0 else 0.0) if y == y else y


@inline
def _sigmoid(y: float) -> Any:
    return elementary.sigmoid(y)


@inline
def _sigmoid_slope(y: float) -> Any:
    return elementary.sigmoid(y) * elementary.sigmoid(-y)


@inline
def _tanh(y: float) -> Any:
    return elementary.tanh(y)


@inline
def _tanh_slope(y: float) -> Any:
    return 4.0 * elementary.sigmoid(2.0 * y) * elementary.sigmoid(-2.0 * y)


@dataclass(frozen=True)
class Activation:
    """An activation f of one variable.

    Parameters
    ----------
    name : str
        The name that transformers uses.
    value, slope : callable
        f and f' as scalar functions for Numba kernels.
    value_mpmath : callable
        f of an mpmath number in mpmath's precision.
    steepest : float
        A bound of ``|f'|``.
    curvature : float
        A bound of ``|f''|``; infinite where f has a corner.
    """

    name: str
    value: Callable[..., Any]
    slope: Callable[..., Any]
    value_mpmath: Callable[[Any], Any]
    steepest: float
    curvature: float


def _mpmath_gelu(y: Any) -> Any:
    return y * mpmath.ncdf(y)


def _mpmath_gelu_new(y: Any) -> Any:
    inner = mpmath.sqrt(2 / mpmath.pi) * (y + mpmath.mpf("0.044715") * y**3)
    return y / (1 + mpmath.exp(-2 * inner))


def _mpmath_silu(y: Any) -> Any:
    return y / (1 + mpmath.exp(-y))


def _mpmath_relu(y: Any) -> Any:
    return y if y > 0 else mpmath.mpf(0)


def _mpmath_sigmoid(y: Any) -> Any:
    return 1 / (1 + mpmath.exp(-y))


# The largest slope of gelu is Phi(t) + t phi(t) at t = sqrt(2); those of gelu_new and silu were
# found numerically.  Their curvatures are largest at 0: 2 phi(0), sqrt(2/pi), 1/2.  Those of
# sigmoid and tanh are 1/(6 sqrt 3) and 4/(3 sqrt 3).  All are rounded up; tests search for more.
_GELU_NEW: Final = Activation(
    "gelu_new", _gelu_new, _gelu_new_slope, _mpmath_gelu_new, 1.13, 0.79789
)
ACTIVATIONS: Final[dict[str, Activation]] = {
    "gelu": Activation("gelu", _gelu, _gelu_slope, _mpmath_gelu, 1.1290, 0.79789),
    "gelu_new": _GELU_NEW,
    "gelu_pytorch_tanh": _GELU_NEW,
    "silu": Activation("silu", _silu, _silu_slope, _mpmath_silu, 1.0999, 0.5),
    "swish": Activation("silu", _silu, _silu_slope, _mpmath_silu, 1.0999, 0.5),
    "relu": Activation("relu", _relu, _relu_slope, _mpmath_relu, 1.0, np.inf),
    "sigmoid": Activation("sigmoid", _sigmoid, _sigmoid_slope, _mpmath_sigmoid, 0.25, 0.09623),
    "tanh": Activation("tanh", _tanh, _tanh_slope, mpmath.tanh, 1.0, 0.76981),
}
"""The activations by transformers' names."""


def activation(name: str) -> Activation:
    """The activation with a name.

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: expected {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
