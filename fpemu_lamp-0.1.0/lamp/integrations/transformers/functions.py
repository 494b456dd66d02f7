"""Norms, activations, rotary positions and embeddings on a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.kinds import NormKind, RotaryKind
from lamp.integrations.transformers.running import Run, array, by_text, tensor
from lamp.models import layers

__all__ = ["activation", "embedding", "norm", "rotary"]


def norm(fitting: Fitting, name: str, kind: NormKind) -> Callable[..., Any]:
    """A LayerNorm or RMSNorm."""
    run, parameters = fitting.run, fitting.norm(name)
    shown = fitting.structure.norm_names.get(name)

    def forward(x: torch.Tensor) -> torch.Tensor:
        step = run.machine.norm

        def norm(part: NDArray[Any]) -> NDArray[Any]:
            return layers.norm(part, parameters, kind.epsilon, step)

        numbers = array(x).astype(run.carrier, copy=False)
        found = tensor(by_text(norm, not step.is_stochastic, numbers))
        if shown is not None and x.ndim == 4:
            _show_heads(run, shown, found, x)
        elif shown is not None:
            run.show(shown, found)
        return found

    return forward


def _show_heads(run: Run, name: str, found: torch.Tensor, x: torch.Tensor) -> None:
    """Show the norms of all heads, of shape (heads, tokens, d).

    Either axis may come first; in the product that `x` is a part of, heads lie side by side.
    """
    if run.observer is not None:
        numbers = array(found)[0]
        run.observe(name, numbers if x.stride(1) < x.stride(2) else numbers.swapaxes(0, 1))


def activation(fitting: Fitting, name: str) -> Callable[..., Any]:
    """The activation of a feed-forward layer."""
    run = fitting.run

    def forward(x: torch.Tensor) -> torch.Tensor:
        step = run.machine.activation
        if run.place == "block":
            run.show("mlp_up", x)

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
