"""Norms, activations, rotary positions and embeddings on a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.kinds import NormKind, RotaryKind
from lamp.integrations.transformers.running import array, by_text, tensor
from lamp.models import layers

__all__ = ["activation", "embedding", "norm", "rotary"]


def norm(fitting: Fitting, name: str, kind: NormKind) -> Callable[..., Any]:
    """A LayerNorm or RMSNorm."""
    run, parameters = fitting.run, fitting.norm(name)

    def forward(x: torch.Tensor) -> torch.Tensor:
        step = run.machine.norm

        def norm(part: NDArray[Any]) -> NDArray[Any]:
            return layers.norm(part, parameters, kind.epsilon, step)

        numbers = array(x).astype(run.carrier, copy=False)
        return tensor(by_text(norm, not step.is_stochastic, numbers))

    return forward


def activation(fitting: Fitting, name: str) -> Callable[..., Any]:
    """The activation of a feed-forward layer."""
    run = fitting.run

    def forward(x: torch.Tensor) -> torch.Tensor:
        step = run.machine.activation

        def activation(part: NDArray[Any]) -> NDArray[Any]:
            return layers.activation(part, name, step)

        return tensor(by_text(activation, not step.is_stochastic, array(x)))

    return forward


def rotary(fitting: Fitting, kind: RotaryKind) -> Callable[..., Any]:
    """Cosines and sines of positions, in float64."""

    def forward(
        x: torch.Tensor, position_ids: torch.Tensor, layer_type: str = ""
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cosine, sine = kind.tables(position_ids.numpy(), layer_type or "")
        return tensor(cosine), tensor(sine)

    return forward


def embedding(fitting: Fitting, name: str) -> Callable[..., Any]:
    """Vectors of tokens, rounded as the residual stream begins."""
    run, table = fitting.run, fitting.module(name).weight

    def forward(numbers: torch.Tensor) -> torch.Tensor:
        step, vectors = run.hardware.embedding, nn.functional.embedding(numbers, table)

        def rounded(x: NDArray[Any]) -> NDArray[Any]:
            return layers.round_into(x, step)

        return tensor(by_text(rounded, not step.is_stochastic, array(vectors)))

    return forward
