"""What happens inside a forward pass: every step of a layer, errors from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fpemu
from lamp.machines import Function
from lamp.models.attention import softmax
from lamp.models.weights import Shape

__all__ = ["DepthMap", "ResidualStreams", "Trace", "TracedSteps", "score_errors"]


@dataclass(frozen=True)
class Trace:
    """All steps of a layer, or of what lies behind the last one.

    Parameters
    ----------
    layer : int
        The layer's number, from 0; the number of layers behind the last one.
    steps : mapping of str to ndarray
        Results in the order in which they are computed:

        - ``"stream"``, (tokens, width): the residual stream in front of the layer;
        - ``"norm_1"``, (tokens, width);
        - ``"query"``, (heads, tokens, d); ``"key"`` and ``"value"``, (key heads, tokens, d);
        - ``"low_scores"``, (heads, tokens, tokens): scores before recomputation; zeros stand for
          later tokens here and in the next three;
        - ``"mask"``: which scores were recomputed, or by which of several products, see
          :func:`lamp.select`; ``"scores"``; ``"probabilities"``;
        - ``"heads"``, (tokens, heads d): attention of all heads side by side;
        - ``"attention_output"``, (tokens, width): the residual stream after attention;
        - ``"norm_2"``, (tokens, width);
        - ``"mlp_up"``, (tokens, inner): the arguments of the activation;
        - ``"activation"``, (tokens, inner): its values, times what they gate;
        - ``"mlp_down"``, (tokens, width): the residual stream behind the layer.

        Where look-ahead is on, ``"attention_output_mask"``, ``"mlp_up_mask"`` and
        ``"mlp_down_mask"`` say the same of components.  A rule of scores, if attention goes by
        rows, has behind ``"low_scores"``: ``"seen"``, (tokens, tokens), which keys a row sees;
        ``"high_scores"``, all of them in the highest precision that recomputes; and, if it has
        weights, ``"error_weights"``, which it takes errors to be proportional to.

        Behind the last layer there are ``"stream"``; ``"final_norm"``, (tokens, width);
        ``"lm_head_mask"`` if logits are recomputed; ``"logits"``, (tokens, vocabulary).

        A model of transformers has the steps that it computes:

        - no ``"norm_1"`` where it has no norm in front of attention, and no ``"norm_2"`` where it
          has none in front of the feed-forward layer;
        - no ``"attention_output"`` where both stand side by side, and are added together;
        - ``"query_norm"`` and ``"key_norm"``, (heads, tokens, d), or (tokens, heads d) of a norm of
          all heads together;
        - ``"attention_output_norm"`` and ``"mlp_down_norm"``, (tokens, width), of what is added to
          the residual stream, or of the sum;
        - with experts, in place of ``"mlp_up"`` and ``"activation"``: ``"router"``, (tokens,
          experts), its logits; ``"experts"``, (tokens, k), the numbers of each token's experts, and
          ``"shares"``, what their outputs are multiplied by; then of each of them ``"expert_up"``,
          (tokens, k, m), gate and factor as the model has them; ``"expert_activation"``, (tokens,
          k, inner); and ``"expert_down"``, (tokens, k, width).
    errors : mapping of str to ndarray of float64
        ``"scores"`` and ``"probabilities"`` minus those of the same queries and keys in float64.
    """

    layer: int
    steps: Mapping[str, NDArray[Any]]
    errors: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class DepthMap:
    """Errors of the residual stream from layer to layer.

    Parameters
    ----------
    errors : ndarray of float64, shape (layers + 1, tokens)
        2-norm of each token's error, before the first layer and after each.
    sizes : ndarray of float64, shape (layers + 1, tokens)
        2-norm of the reference's residual stream.
    """

    errors: NDArray[np.float64]
    sizes: NDArray[np.float64]

    @property
    def relative(self) -> NDArray[np.float64]:
        """Errors over sizes."""
        return self.errors / self.sizes


@dataclass
class TracedSteps:
    """An observer that copies every result of one layer."""

    layer: int
    steps: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __call__(self, name: str, layer: int, numbers: NDArray[Any]) -> None:
        """Take a result of a forward pass."""
        if layer == self.layer:
            self.steps[name] = numbers.copy()


@dataclass
class ResidualStreams:
    """An observer that copies the residual stream before the first layer and after each."""

    found: list[NDArray[np.float64]] = field(default_factory=list)

    def __call__(self, name: str, layer: int, numbers: NDArray[Any]) -> None:
        """Take a result of a forward pass."""
        if name == "stream":
            self.found.append(numbers.astype(np.float64))


def score_errors(steps: Mapping[str, NDArray[Any]], shape: Shape) -> dict[str, NDArray[np.float64]]:
    """Scores and probabilities of a layer minus those of its queries and keys in float64."""
    query, key = (steps[name].astype(np.float64) for name in ("query", "key"))
    exact = query @ np.repeat(key, shape.heads // shape.key_heads, axis=0).transpose(0, 2, 1)
    exact /= np.sqrt(shape.dimension) if shape.scaled else 1.0
    tokens = exact.shape[1]
    lengths = np.tile(np.arange(1, tokens + 1), exact.shape[0])
    flat = np.ascontiguousarray(exact).reshape(-1, tokens)
    probabilities = softmax(flat, lengths, Function(fpemu.formats.float64)).reshape(exact.shape)
    return {
        "scores": np.where(np.tri(tokens, dtype=np.bool_), steps["scores"] - exact, 0.0),
        "probabilities": steps["probabilities"] - probabilities,
    }
