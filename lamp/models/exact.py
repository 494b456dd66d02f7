"""A decoder in mpmath: what rounding errors of a small model are measured against.

Slow and plain; no code is shared with the kernels.  It sets the precision of mpmath's global
context while it works, so that other threads must leave mpmath alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mpmath
import numpy as np
from numpy.typing import NDArray

from lamp._kernels import activations
from lamp.models.layers import Matrix, Norm
from lamp.models.weights import Block, Shape, Weights

__all__ = ["streams"]

Row = list[Any]

_FEWEST_DIGITS: Final = 17  # what tells all float64 numbers apart


def streams(
    weights: Weights, shape: Shape, tokens: Sequence[int], digits: int = 40
) -> NDArray[np.object_]:
    """The residual stream before the first layer and after each.

    Parameters
    ----------
    weights : Weights
        Taken exactly.
    shape : Shape
    tokens : sequence of int
    digits : int
        With how many decimal digits to compute, at least 17.

    Returns
    -------
    ndarray of mpmath.mpf, shape (layers + 1, tokens, width)

    Raises
    ------
    ValueError
        If there are too few digits.
    """
    if not isinstance(digits, int) or digits < _FEWEST_DIGITS:
        raise ValueError(
            f"digits must be an integer of at least {_FEWEST_DIGITS}, more than float64 has, not "
            f"{digits!r}"
        )
    with mpmath.workdps(digits):
        x = [_row(weights.tokens[token]) for token in tokens]
        if weights.positions is not None:
            x = [_plus(row, _row(weights.positions[i])) for i, row in enumerate(x)]
        found = [x]
        for block in weights.blocks:
            x = _after(block, shape, x)
            found.append(x)
    return np.array(found, dtype=object)


def _after(block: Block, shape: Shape, x: list[Row]) -> list[Row]:
    """The stream after a layer."""
    qkv = [_linear(_norm(row, block.norm_1, shape.epsilon), block.qkv) for row in x]
    heads = _attention(qkv, shape)
    x = [_plus(row, _linear(h, block.attention_output)) for row, h in zip(x, heads, strict=True)]
    f = activations.activation(shape.activation).value_mpmath
    result = []
    for row in x:
        h = _norm(row, block.norm_2, shape.epsilon)
        up = _linear(h, block.mlp_up)
        if block.gate is None:
            inner = [f(y) for y in up]
        else:
            gate = _linear(h, block.gate)
            inner = [f(y) * u for y, u in zip(gate, up, strict=True)]
        result.append(_plus(row, _linear(inner, block.mlp_down)))
    return result


def _row(numbers: NDArray[Any]) -> Row:
    return [mpmath.mpf(float(x)) for x in numbers]


def _plus(x: Row, y: Row) -> Row:
    return [a + b for a, b in zip(x, y, strict=True)]


def _linear(x: Row, matrix: Matrix) -> Row:
    columns = [_row(column) for column in matrix.weight.T]
    biases = [mpmath.mpf(0)] * len(columns) if matrix.bias is None else _row(matrix.bias)
    return [mpmath.fdot(x, column) + b for column, b in zip(columns, biases, strict=True)]


def _norm(x: Row, norm: Norm, epsilon: float) -> Row:
    centre = mpmath.fsum(x) / len(x) if norm.centred else mpmath.mpf(0)
    centred = [a - centre for a in x]
    root = mpmath.sqrt(mpmath.fsum(a * a for a in centred) / len(x) + mpmath.mpf(epsilon))
    scaled = [a / root * w for a, w in zip(centred, _row(norm.weight), strict=True)]
    return scaled if norm.bias is None else _plus(scaled, _row(norm.bias))


def _attention(qkv: list[Row], shape: Shape) -> list[Row]:
    """All heads side by side, row after row."""
    size, shared = shape.dimension, shape.heads // shape.key_heads
    values_from = (shape.heads + shape.key_heads) * size
    root = mpmath.sqrt(size) if shape.scaled else mpmath.mpf(1)
    result: list[Row] = [[] for _ in qkv]
    for head in range(shape.heads):
        of_keys = head // shared * size
        queries = [_turned(row[head * size :][:size], shape, i) for i, row in enumerate(qkv)]
        from_ = shape.heads * size + of_keys
        keys = [_turned(row[from_:][:size], shape, i) for i, row in enumerate(qkv)]
        values = [row[values_from + of_keys :][:size] for row in qkv]
        for i, query in enumerate(queries):
            scores = [mpmath.fdot(query, key) / root for key in keys[: i + 1]]
            top = max(scores)
            shares = [mpmath.exp(score - top) for score in scores]
            total = mpmath.fsum(shares)
            for j in range(size):
                column = [value[j] for value in values[: i + 1]]
                result[i].append(mpmath.fdot(shares, column) / total)
    return result


def _turned(x: Row, shape: Shape, position: int) -> Row:
    """A query or key with its position in it."""
    if shape.rotary is None:
        return x
    half = len(x) // 2
    left, right = [], []
    for a, b, frequency in zip(x[:half], x[half:], shape.rotary.frequencies(), strict=True):
        c, s = mpmath.cos(position * frequency), mpmath.sin(position * frequency)
        left.append(a * c - b * s)
        right.append(b * c + a * s)
    return left + right
