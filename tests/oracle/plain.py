"""The functions of a decoder in plain numpy, float64: by definition, with no care for rounding."""

import mpmath
import numpy as np


def norm(x, parameters, epsilon):
    """LayerNorm or RMSNorm of each row."""
    shift = 0.0 if parameters.bias is None else wide(parameters.bias)
    return _normalised(x, parameters, epsilon)[0] * wide(parameters.weight) + shift


def norm_sensitivity(x, parameters, epsilon):
    """The lengths of the columns of the Jacobian, for each row."""
    return np.array([_columns(row, parameters, epsilon) for row in x])


def _columns(row, parameters, epsilon):
    x, root = _normalised(row, parameters, epsilon)
    inner = np.eye(len(row)) - np.outer(x, x) / len(row)
    if parameters.centered:
        inner -= 1 / len(row)
    return np.linalg.norm(wide(parameters.weight)[:, np.newaxis] * inner / root, axis=0)


def _normalised(x, parameters, epsilon):
    centered = x - x.mean(-1, keepdims=True) if parameters.centered else x
    root = np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)
    return centered / root, root


def wide(x):
    return x.astype(np.float64)


def linear(x, matrix):
    return x @ wide(matrix.weight) + (0.0 if matrix.bias is None else wide(matrix.bias))


def softmax(scores):
    """Of each row; scores of minus infinity have no probability."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def causal(scores):
    """Scores without those of later tokens."""
    return np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)


def rotated(heads, rotary):
    """Queries or keys with rotary positions in them, if there are any: by complex numbers."""
    if rotary is None:
        return heads
    half = rotary.dimension // 2
    with mpmath.workdps(30):
        frequencies = np.array([float(f) for f in rotary.frequencies()])
    numbers = heads[..., :half] + 1j * heads[..., half:]
    numbers *= np.exp(1j * np.arange(heads.shape[1])[:, np.newaxis] * frequencies)
    return np.concatenate([numbers.real, numbers.imag], -1)


def gelu_new(y):
    return 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))


def gelu_new_slope(y):
    t = np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * y**2)
    return 0.5 * (1 + t) + 0.5 * y * (1 - t**2) * inner


def sigmoid(y):
    return 0.5 * (1 + np.tanh(y / 2))


def silu(y):
    return y * sigmoid(y)


def silu_slope(y):
    return sigmoid(y) * (1 + y * (1 - sigmoid(y)))


ACTIVATIONS = {"gelu_new": gelu_new, "silu": silu}
SLOPES = {"gelu_new": gelu_new_slope, "silu": silu_slope}
