"""A decoder in mpmath, the reference that rounding errors of small models are measured against.

It is slow and shares no code with the kernels.  While it works it sets the precision of mpmath's
global context: no other thread may use mpmath then.
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

__all__ = ["residual_streams"]

Row = list[Any]

_FEWEST_DIGITS: Final = 17  # tell all float64 numbers apart


def residual_streams(
    weights: Weights, shape: Shape, tokens: Sequence[int], digits: int = 40
) -> NDArray[np.object_]:
    """The residual stream before the first layer and after each.

    Parameters
    ----------
    weights : Weights
        Taken as exact numbers.
    shape : Shape
    tokens : sequence of int
    digits : int
        Precision in decimal digits, at least 17.

    Returns
    -------
    ndarray of mpmath.mpf, shape (layers + 1, tokens, width)

    Raises
    ------
    ValueError
        If `digits` is not an integer of at least 17.
    """
    if not isinstance(digits, (int, np.integer)) or digits < _FEWEST_DIGITS:
        raise ValueError(
            f"digits must be an integer of at least {_FEWEST_DIGITS}, more than float64 has, not "
            f"{digits!r}"
        )
    with mpmath.workdps(int(digits)):
        x = _embed(weights, tokens)
        streams = [x]
        for block in weights.blocks:
            x = _run_block(block, shape, x)
            streams.append(x)
    return np.array(streams, dtype=object)


def _embed(weights: Weights, tokens: Sequence[int]) -> list[Row]:
    x = [_row(weights.tokens[token]) for token in tokens]
    if weights.positions is None:
        return x
    return [_add(row, _row(position)) for row, position in zip(x, weights.positions, strict=False)]


def _run_block(block: Block, shape: Shape, x: list[Row]) -> list[Row]:
    qkv = [_linear(_norm(row, block.norm_1, shape.epsilon), block.qkv) for row in x]
    heads = _attention(qkv, shape)
    x = [_add(row, _linear(h, block.attention_output)) for row, h in zip(x, heads, strict=True)]
    return [_add(row, _feed_forward(row, block, shape)) for row in x]


def _feed_forward(x: Row, block: Block, shape: Shape) -> Row:
    h = _norm(x, block.norm_2, shape.epsilon)
    f = activations.activation(shape.activation).value_mpmath
    up = _linear(h, block.mlp_up)
    if block.gate is None:
        inner = [f(y) for y in up]
    else:
        inner = [f(y) * u for y, u in zip(_linear(h, block.gate), up, strict=True)]
    return _linear(inner, block.mlp_down)


def _row(numbers: NDArray[Any]) -> Row:
    return [mpmath.mpf(float(x)) for x in numbers]


def _add(x: Row, y: Row) -> Row:
    return [a + b for a, b in zip(x, y, strict=True)]


def _linear(x: Row, matrix: Matrix) -> Row:
    columns = [_row(column) for column in matrix.weight.T]
    biases = [mpmath.mpf(0)] * len(columns) if matrix.bias is None else _row(matrix.bias)
    return [mpmath.fdot(x, column) + b for column, b in zip(columns, biases, strict=True)]


def _norm(x: Row, norm: Norm, epsilon: float) -> Row:
    mean = mpmath.fsum(x) / len(x) if norm.centered else mpmath.mpf(0)
    centered = [a - mean for a in x]
    root = mpmath.sqrt(mpmath.fsum(a * a for a in centered) / len(x) + mpmath.mpf(epsilon))
    scaled = [a / root * w for a, w in zip(centered, _row(norm.weight), strict=True)]
    return scaled if norm.bias is None else _add(scaled, _row(norm.bias))


def _attention(qkv: list[Row], shape: Shape) -> list[Row]:
    """Attention of all heads side by side, row after row."""
    d, shared = shape.dimension, shape.heads // shape.key_heads
    first_key, first_value = shape.heads * d, (shape.heads + shape.key_heads) * d
    result: list[Row] = [[] for _ in qkv]
    for head in range(shape.heads):
        offset = head // shared * d
        queries = [_rotate(row[head * d :][:d], shape, i) for i, row in enumerate(qkv)]
        keys = [_rotate(row[first_key + offset :][:d], shape, i) for i, row in enumerate(qkv)]
        values = [row[first_value + offset :][:d] for row in qkv]
        for i, query in enumerate(queries):
            result[i] += _attend(query, keys[: i + 1], values[: i + 1], shape)
    return result


def _attend(query: Row, keys: list[Row], values: list[Row], shape: Shape) -> Row:
    """Attention of one query to the keys that it sees."""
    root = mpmath.sqrt(shape.dimension) if shape.scaled else mpmath.mpf(1)
    scores = [mpmath.fdot(query, key) / root for key in keys]
    largest = max(scores)
    exponentials = [mpmath.exp(score - largest) for score in scores]
    total = mpmath.fsum(exponentials)
    return [mpmath.fdot(exponentials, column) / total for column in zip(*values, strict=True)]


def _rotate(x: Row, shape: Shape, position: int) -> Row:
    """A query or key, rotated by its position."""
    if shape.rotary is None:
        return x
    half = len(x) // 2
    left, right = [], []
    for a, b, frequency in zip(x[:half], x[half:], shape.rotary.frequencies(), strict=True):
        c, s = mpmath.cos(position * frequency), mpmath.sin(position * frequency)
        left.append(a * c - b * s)
        right.append(b * c + a * s)
    return left + right
