"""Errors through a whole layer at once, by the Jacobian's blocks and a bound of the second order.

Step by step a bound multiplies norms; the norm of a product of matrices may be far below.  A layer
is ``F = M(A(x))``, A attention and M the feed-forward layer, both with their residual connections.
An error d of its argument, ``||d_s|| <= r_s`` for each token s, moves the result at token t by at
most ``sum_s ||J_ts|| r_s`` and what is of second order.  ``J_ts`` is the block of the Jacobian that
takes the row of s to that of t, at the point that the machine has computed.

Matrices are computed in float64, from numbers that are off a little themselves; both is in a slack
that is proportional to the product of the Frobenius norms of all factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamp._kernels.rows import Float64, expm1, outward, total
from lamp.bounds.compositions import Entrywise, LayerNorm, RMSNorm, Softmax
from lamp.models.layers import Norm
from lamp.models.weights import Block, Shape

__all__ = ["carried", "length", "norm_of", "sure"]

_UNIT: Final = 2.0**-53
_LOST: Final = 2.0**-530  # numbers below it have squares that underflow
_RARE: Final = 1.0 / 16.0  # the share of a bound for which norms of products will do


def sure(bound: Float64, terms: int) -> Float64:
    """A bound rounded up; infinite where infinity met zero."""
    return outward(np.where(np.isnan(bound), np.inf, bound), terms)


def length(x: Float64) -> Float64:
    """2-norms of rows, rounded up, of shape (..., 1)."""
    found = np.sqrt(np.sum(x * x, axis=-1, keepdims=True))
    return sure(found + _LOST * np.sqrt(x.shape[-1]), x.shape[-1])


def norm_of(matrix: Float64) -> float:
    """An upper bound of the spectral norm, at most ``n**(1/32)`` times it."""
    return float(norms_of(matrix[np.newaxis], 4)[0])


def norms_of(matrices: Float64, squarings: int) -> Float64:
    """Upper bounds of the spectral norms of matrices, of shape (count, rows, columns).

    ``||A||^2 = ||A^T A||``, several times over; then the Frobenius norm.  A product in float64 of
    matrices of n terms is off by less than ``(n + 2) u ||A||_F ||B||_F``.
    """
    power = matrices if matrices.shape[1] > matrices.shape[2] else matrices.transpose(0, 2, 1)
    scale = np.abs(power).max(axis=(1, 2), initial=0.0)
    usable = (scale > 0.0) & (scale < np.inf)
    power = power / np.where(usable, scale, 1.0)[:, np.newaxis, np.newaxis]
    lost = []
    for _ in range(squarings):
        square = np.sum(power * power, axis=(1, 2))
        lost.append(outward((power.shape[1] + 4.0) * _UNIT * square, power[0].size))
        power = power.transpose(0, 2, 1) @ power
    found = outward(np.sqrt(np.sum(power * power, axis=(1, 2))), power[0].size)
    for each in reversed(lost):
        found = outward(np.sqrt(found + each), 1)
    return np.where(usable, outward(found * scale, 1), scale)


# --- a norm ---------------------------------------------------------------------------------------


class _Normed:
    """A norm without its gain at rows x: ``u``, and how errors of x reach it.

    The Jacobian is ``(I - 1 1^T / n - u u^T / n) / root``, the second term for LayerNorm alone.
    """

    def __init__(self, x: Float64, exact: Norm, epsilon: float) -> None:
        f = LayerNorm(None, None, epsilon) if exact.centered else RMSNorm(None, epsilon)
        n = x.shape[1]
        centered = x - total(x) / n if exact.centered else x
        self.u, self.off = f.value(x), f.value_error(x)
        self.root = np.sqrt(total(centered * centered) / n + epsilon)
        rounded = (8.0 * n + 64.0) * _UNIT * np.abs(x).max(-1, keepdims=True)
        self.least = self.root * (1.0 - (8.0 * n + 64.0) * _UNIT) - rounded
        self._centered, self._n = exact.centered, n

    @property
    def slack(self) -> Float64:
        """How far the Jacobian is off, relative to the norm of its factors."""
        rounding = (self._n + 64.0) * 2.0**-50 + (self.root / self.least - 1.0)
        return np.asarray(length(self.off) + rounding)

    def _share(self, ball: Float64) -> Float64:
        share = sure(ball / (self.least * np.sqrt(self._n)), 2)
        return np.where((self.least > 0) & (share < 1), share, np.inf)

    def moved(self, ball: Float64) -> Float64:
        """Bounds of the errors of u, by Dunkl and Williams."""
        share = self._share(ball)
        with np.errstate(invalid="ignore"):
            found = np.sqrt(self._n) * 2.0 * share / (2.0 - share)
        return np.where(np.isinf(share), np.inf, sure(found, 4))

    def bent(self, ball: Float64) -> Float64:
        """Bounds of what is of second order in them.

        ``x / ||x||`` has second derivatives of norm ``2 / sqrt(3)`` on the unit sphere, which grow
        inward.
        """
        share = self._share(ball)
        with np.errstate(invalid="ignore"):
            found = 0.58 * np.sqrt(self._n) * (share / (1.0 - share)) ** 2
        return np.where(np.isinf(share), np.inf, sure(found, 4))

    def before(self, rows: Any, matrices: Float64) -> Float64:
        """The Jacobian of rows times matrices, (rows, n, columns)."""
        u, n = self.u[rows][:, :, np.newaxis], self._n
        found = matrices - u * (u.transpose(0, 2, 1) @ matrices) / n
        if self._centered:
            found -= matrices.sum(axis=1, keepdims=True) / n
        return np.asarray(found / self.root[rows][:, :, np.newaxis])


# --- the feed-forward layer -----------------------------------------------------------------------


class _FeedForward:
    """``x + (f(u G + b) * (u H + c)) D`` at rows x; without a gate the second factor is 1."""

    def __init__(self, x: Float64, exact: Block, shape: Shape) -> None:
        self.f = Entrywise(shape.activation)
        self.norm = _Normed(x, exact.norm_2, shape.epsilon)
        first = exact.mlp_up if exact.gate is None else exact.gate
        self.down = exact.mlp_down.weight.astype(np.float64)
        self.inner, self.y, self.of_y = self._linear(exact.norm_2, first)
        if exact.gate is None:
            self.other, self.factor = None, np.ones_like(self.y)
            self.of_factor = np.zeros_like(self.of_y)
        else:
            self.other, self.factor, self.of_factor = self._linear(exact.norm_2, exact.mlp_up)

    def _linear(self, norm: Norm, matrix: Any) -> tuple[Float64, Float64, Float64]:
        """A matrix behind the gain, its product with u, and bounds of that product's errors."""
        weight = matrix.weight.astype(np.float64)
        scaled = norm.weight.astype(np.float64)[:, np.newaxis] * weight
        y, n = self.norm.u @ scaled, len(weight)
        size = np.abs(self.norm.u) @ np.abs(scaled)
        if norm.bias is not None:
            y, size = y + norm.bias @ weight, size + np.abs(norm.bias) @ np.abs(weight)
        if matrix.bias is not None:
            y, size = y + matrix.bias, size + np.abs(matrix.bias)
        off = sure(self.norm.off @ np.abs(scaled), n) + (4.0 * n + 64.0) * _UNIT * size
        return scaled, y, off.max(-1, keepdims=True)

    @cached_property
    def _sizes(self) -> tuple[Float64, Float64]:
        """The largest factor and the largest value of f of each row."""
        value = np.abs(self.f.value(self.y)) + self.f.activation.steepest * self.of_y + 2.0**-40
        factor = np.abs(self.factor) + self.of_factor
        return factor.max(-1, keepdims=True), value.max(-1, keepdims=True)

    @cached_property
    def _norms(self) -> tuple[float, float, float]:
        """Of both matrices of the first product, and of the last."""
        other = 0.0 if self.other is None else norm_of(self.other)
        return norm_of(self.inner), other, norm_of(self.down)

    @cached_property
    def matrices(self) -> Float64:
        """The Jacobian of each row, (rows, n, n)."""
        slopes, values = self.f.slope(self.y) * self.factor, self.f.value(self.y)
        found = np.empty((len(self.y), len(self.inner), len(self.inner)))
        for row in range(len(found)):
            behind = (self.inner * slopes[row]) @ self.down
            if self.other is not None:
                behind = behind + (self.other * values[row]) @ self.down
            found[row] = np.eye(len(behind)) + self.norm.before([row], behind[np.newaxis])[0]
        return found

    @cached_property
    def slack(self) -> Float64:
        """How far, in norm, `matrices` are from the Jacobians."""
        factor, value = self._sizes
        inner, other, down = self._norms
        steepest, curvature = self.f.activation.steepest, self.f.activation.curvature
        slopes = (curvature * self.of_y + 2.0**-44) * factor + steepest * self.of_factor
        values = steepest * self.of_y + 2.0**-44 * (1.0 + value)
        slack = slopes * inner + values * other
        slack = slack + (steepest * factor * inner + value * other) * self.norm.slack
        rounding = np.linalg.norm(self.inner) * steepest * factor
        if self.other is not None:
            rounding = rounding + np.linalg.norm(self.other) * value
        rounding = 2.0**-52 * (sum(self.down.shape)) * np.linalg.norm(self.down) * rounding
        return np.asarray((4.0 * slack * down + 16.0 * rounding) / self.norm.least)

    @cached_property
    def norms(self) -> Float64:
        """Bounds of the norms of the Jacobians, (rows, 1)."""
        found = np.array([norm_of(matrix) for matrix in self.matrices])[:, np.newaxis]
        return np.asarray(found + self.slack)

    def second_order(self, ball: Float64) -> Float64:
        """Bounds, in the 2-norm, of what errors within balls do beyond the Jacobian.

        With errors a and b of both factors that is ``f''/2 a^2`` times the second factor, and
        ``f' a b``; and the Jacobian of all behind the norm, times what is of second order there.
        """
        factor, value = self._sizes
        inner, other, down = self._norms
        steepest, curvature = self.f.activation.steepest, self.f.activation.curvature
        column = float(length(self.inner.T).max())
        moved = self.norm.moved(ball)
        found = (steepest * factor * inner + value * other) * self.norm.bent(ball)
        found = found + 0.5 * curvature * factor * inner * column * moved**2
        found = found + steepest * column * other * moved**2
        return sure(down * found, 8 * len(self.down))


# --- attention ------------------------------------------------------------------------------------


class _Head(NamedTuple):
    """A head at rows: its matrices (n, d) and (d, n), and what is computed from them.

    ``z`` and ``o`` are its probabilities and outputs; ``apart`` has the distances of values from
    them and ``keys`` those of keys from the mean key of each row, of shape (tokens, tokens).
    """

    of_query: Float64
    of_key: Float64
    of_value: Float64
    of_output: Float64
    query: Float64
    key: Float64
    value: Float64
    z: Float64
    o: Float64
    apart: Float64
    keys: Float64


@dataclass
class _Slack:
    """How far the numbers behind blocks are off, the largest over tokens and heads.

    Vectors are queries, keys and values; weights are probabilities, relatively.
    """

    rounding: float
    vectors: float
    weights: float
    block: float
    size: float


class _Attention:
    """``x + sum_h softmax(q k^T) v O`` at rows x, causal."""

    def __init__(self, x: Float64, exact: Block, shape: Shape) -> None:
        self.norm = _Normed(x, exact.norm_1, shape.epsilon)
        gain, weight = exact.norm_1.weight.astype(np.float64), exact.qkv.weight.astype(np.float64)
        self._weight, self._bias = gain[:, np.newaxis] * weight, 0.0
        constant = np.zeros(weight.shape[1])
        for bias, matrix in ((exact.norm_1.bias, weight), (exact.qkv.bias, None)):
            if bias is not None:
                constant += bias if matrix is None else bias @ matrix
                size = 1.0 if matrix is None else float(np.linalg.norm(matrix))
                self._bias += float(np.linalg.norm(bias)) * size
        y = self.norm.u @ self._weight + constant
        heads, own = shape.heads, shape.key_heads
        columns = np.split(y, heads + 2 * own, axis=1)
        matrices = np.split(self._weight, heads + 2 * own, axis=1)
        outputs = np.split(exact.attention_output.weight.astype(np.float64), heads)
        dimension = columns[0].shape[1]
        self.divisor = float(np.sqrt(dimension)) if shape.scaled else 1.0
        self.turns = _turns(shape.rotary, len(x), dimension)
        turned = [(c[:, np.newaxis] @ self.turns)[:, 0] for c in columns[: heads + own]]
        self.turning = _turning(self.turns)
        self.heads = []
        for head in range(heads):
            key = heads + head * own // heads
            q, k, v = turned[head], turned[key], columns[key + own]
            scores = np.where(np.tri(len(x), dtype=np.bool_), q @ k.T / self.divisor, -np.inf)
            z = Softmax().value(scores)
            o, mean = z @ v, z @ k
            apart, keys = (
                length(rows[np.newaxis] - center[:, np.newaxis])[..., 0]
                for rows, center in ((v, o), (k, mean))
            )
            parts = (matrices[head], matrices[key], matrices[key + own], outputs[head])
            self.heads.append(_Head(*parts, q, k, v, z, o, apart, keys))

    @cached_property
    def slack(self) -> _Slack:
        """How far what is computed is off."""
        tokens, n = self.norm.u.shape
        gamma = 2.0**-50 * (n + tokens + self._weight.shape[1] + 4096.0)
        of_weight = float(np.linalg.norm(self._weight))
        of_norm = float(self.norm.slack.max())
        sums = of_weight * np.sqrt(n) + self._bias
        vectors = self.turning * (of_weight * of_norm + 2.0 * gamma * sums)
        query, key, value = (
            max(float(length(getattr(head, name)).max()) for head in self.heads)
            for name in ("query", "key", "value")
        )
        scores = (vectors * (query + key + vectors) + gamma * query * key) / self.divisor
        weights = float(expm1(np.array([2.0 * scores]))[0]) + gamma if scores < 1.0 else np.inf
        size, off = 1.0, 0.0
        for head in self.heads:
            of_q, of_k, of_v, of_o = (float(np.linalg.norm(matrix)) for matrix in head[:4])
            left, right = self.turning * of_k * query / self.divisor, 2.0 * value * of_o
            of_left = self.turning * of_k * (vectors + 2.0 * gamma * query) / self.divisor
            of_right = of_o * (4.0 * vectors + (2.0 * weights + 4.0 * gamma) * value)
            spread = 2.0 * key * value
            of_spread = spread * (4.0 * weights + 4.0 * gamma) + 4.0 * vectors * (key + value)
            outer = self.turning * of_q * of_o / self.divisor
            size += left * right + of_v * of_o + outer * spread
            off += (left + of_left) * of_right + of_left * right + outer * of_spread
            off += (weights + 8.0 * gamma) * (left * right + of_v * of_o + outer * spread)
        least = float(self.norm.least.min())
        block = (off + size * (4.0 * of_norm + 8.0 * gamma)) / least
        return _Slack(gamma, vectors, weights, block, 1.0 + size / least)

    @cached_property
    def _spectral(self) -> list[tuple[float, ...]]:
        """Norms of the four matrices of each head."""
        return [tuple(norm_of(matrix) for matrix in head[:4]) for head in self.heads]

    def _lefts(self, head: _Head, row: int, columns: Any) -> Float64:
        """``of_key q / divisor`` for keys of some columns, turned by their positions."""
        turned = self.turns[columns] @ head.query[row]
        return np.asarray(turned @ head.of_key.T / self.divisor)

    @cached_property
    def _crude(self) -> Float64:
        """Bounds of the norms of all blocks behind the norm, (tokens, tokens), by factors."""
        tokens = len(self.norm.u)
        found = np.zeros((tokens, tokens))
        for head, (of_q, of_k, of_v, of_o) in zip(self.heads, self._spectral, strict=True):
            left = self.turning * of_k * length(head.query) / self.divisor
            found += head.z * (left * head.apart * of_o + of_v * of_o)
            spread = total(head.z * head.keys * head.apart)[:, 0]
            found[np.diag_indices(tokens)] += self.turning * of_q * of_o * spread / self.divisor
        slack = 2.0 * self.slack.block * self.norm.root.max() * np.tri(tokens)
        return sure(found * (1.0 + 2.0**-20) + slack, 1)

    def crude(self) -> Float64:
        """Bounds of the norms of all blocks, by factors."""
        return sure(np.eye(len(self.norm.u)) + self._crude / self.norm.least.T, 2)

    def blocks(self, row: int, columns: NDArray[np.int64]) -> Float64:
        """The blocks of a row, (columns, n, n)."""
        n = self.norm.u.shape[1]
        lefts, rights = np.empty((2, len(columns), len(self.heads), n))
        shared = np.zeros((len(columns), n * n))
        middle = np.zeros((n, n))
        for index, head in enumerate(self.heads):
            weights = head.z[row, columns, np.newaxis]
            lefts[:, index] = weights * self._lefts(head, row, columns)
            rights[:, index] = (head.value[columns] - head.o[row]) @ head.of_output
            shared += weights * (head.of_value @ head.of_output).reshape(1, -1)
            seen = slice(0, row + 1)
            mean = head.z[row] @ head.key
            spread = (head.z[row, seen, np.newaxis] * (head.key[seen] - mean)).T @ (
                head.value[seen] - head.o[row]
            )
            middle += head.of_query @ (self.turns[row] @ spread @ head.of_output) / self.divisor
        found = lefts.transpose(0, 2, 1) @ rights + shared.reshape(-1, n, n)
        own = columns == row
        found[own] += middle
        found = self.norm.before(columns, found)
        found[own] += np.eye(n)
        return found

    def second_order(self, ball: Float64) -> Float64:
        """Bounds, in the 2-norm, of what errors within balls do beyond the Jacobian.

        Scores, to which any number may be added, are off by e with ``|e| <= E``.  Then the share
        of a value changes by e and at most ``e^2 exp(2E)/2 + |e| (exp(E) - 1)``; a product of two
        errors, of query and key, is of second order as well.
        """
        moved, slack = self.norm.moved(ball), self.slack
        found = self._crude @ self.norm.bent(ball)
        for head, (of_q, of_k, of_v, of_o) in zip(self.heads, self._spectral, strict=True):
            query, key, value = (
                self.turning * of_q * moved,
                self.turning * of_k * moved,
                of_v * moved,
            )
            both = query * key.T / self.divisor
            keys = head.keys + 4.0 * (slack.vectors + slack.weights * length(head.key).max())
            off = query * keys + (length(head.query) + slack.vectors) * key.T
            off = np.where(head.z > 0, off / self.divisor + both, 0.0)
            most = off.max(-1, keepdims=True)
            steep = np.where(most < 300.0, expm1(np.minimum(most, 300.0)), np.inf)
            bent = 0.5 * off**2 * (1.0 + steep) ** 2 + off * steep + both
            values = float(length(head.value).max())
            apart = head.apart + 4.0 * (slack.vectors + slack.weights * values)
            change = apart * bent + ((1.0 + steep) ** 2 - 1.0) * value.T
            change = np.where(head.z > 0, head.z * (1.0 + slack.weights) * change, 0.0)
            found = found + of_o * total(change)
        return sure(found * (1.0 + 2.0**-20), 8 * len(ball))


def _turns(rotary: Any, tokens: int, dimension: int) -> Float64:
    """The matrix that rotates a row of each position; the identity without rotary positions."""
    units = np.eye(dimension)
    if rotary is None:
        return np.broadcast_to(units, (tokens, dimension, dimension))
    every = np.broadcast_to(units[:, np.newaxis], (dimension, tokens, dimension))
    return np.ascontiguousarray(rotary.rotated(every, 0).transpose(1, 0, 2))


def _turning(turns: Float64) -> float:
    """A bound of the norms of such matrices: the norm of sums along rows and along columns."""
    sizes = np.abs(turns)
    return float(np.sqrt(sizes.sum(axis=1).max() * sizes.sum(axis=2).max()) * (1.0 + 2.0**-40))


# --- a layer --------------------------------------------------------------------------------------


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def carried(
    streams: tuple[Float64, Float64],
    ball: Float64,
    own: tuple[Float64, Float64],
    middle: Float64,
    exact: Block,
    shape: Shape,
) -> Float64:
    """Bounds of the 2-norm of the errors behind a layer.

    Parameters
    ----------
    streams : tuple of ndarray, shape (tokens, n)
        The machine's residual stream before the layer, and between attention and feed-forward.
    ball : ndarray, shape (tokens, 1)
        Bounds of the 2-norms of the errors of the first.
    own : tuple of ndarray, shape (tokens, 1)
        The same of the errors that attention and the feed-forward layer add.
    middle : ndarray, shape (tokens, 1)
        Bounds of the errors of the second stream, found otherwise.
    exact : Block
        The checkpoint's weights.
    shape : Shape

    Returns
    -------
    ndarray, shape (tokens, 1)
        Infinite where errors are too large for such bounds, or the activation has a corner.
    """
    attention, feed = _Attention(streams[0], exact, shape), _FeedForward(streams[1], exact, shape)
    if np.isinf(feed.f.activation.curvature):
        return np.full_like(ball, np.inf)
    # Attention's errors found otherwise, and the feed-forward layer's Jacobian alone.
    alone = feed.norms * middle + feed.second_order(middle) + own[1]
    alone = sure(np.where(feed.norm.least > 0, alone, np.inf), 8)
    if not (ball < attention.norm.least).all():
        return alone
    beyond = attention.second_order(ball)
    if not np.isfinite(beyond).any():
        return alone
    crude, slack = attention.crude(), attention.slack
    off = slack.block * feed.norms + (2.0 * slack.size) * feed.slack
    off = off + slack.rounding * np.sqrt(len(feed.down)) * slack.size * feed.norms
    moved = np.array(
        [
            _row(attention, feed, row, crude[row], off[row, 0], ball[:, 0])
            for row in range(len(ball))
        ]
    )
    between = np.fmin(middle, sure(moved[:, :1] + beyond + own[0], 2))
    found = moved[:, 1:] + feed.norms * (own[0] + beyond) + feed.second_order(between) + own[1]
    found = sure(np.where(feed.norm.least > 0, found, np.inf), 8 * len(ball))
    return np.asarray(np.fmin(found, alone))


def _row(
    attention: _Attention,
    feed: _FeedForward,
    row: int,
    crude: Float64,
    slack: float,
    ball: Float64,
) -> tuple[float, float]:
    """How far errors within balls move a row behind attention, and behind the layer.

    By the Jacobian: the norms of the blocks that matter, products of norms for the others.
    """
    rough = crude[: row + 1] * ball[: row + 1]
    order = np.argsort(-rough, kind="stable")
    rest = np.cumsum(rough[order][::-1])[::-1]
    exact = order[rest > _RARE * rest[0]]
    if not len(exact):
        return 0.0, 0.0
    blocks, behind = attention.blocks(row, exact), feed.norms[row, 0]
    first = np.minimum(norms_of(blocks, 3) + attention.slack.block, crude[exact])
    both = np.minimum(norms_of(blocks @ feed.matrices[row], 3) + slack, first * behind)
    others = np.sum(rough[order[len(exact) :]])
    moved = [np.sum(norms * ball[exact]) for norms in (first, both)]
    return float(sure(moved[0] + others, row + 8)), float(sure(moved[1] + others * behind, row + 8))
