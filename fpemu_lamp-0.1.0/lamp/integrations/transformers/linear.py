"""Linear layers on a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray

from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.running import Run, array, by_text, tensor
from lamp.models import layers
from lamp.models.layers import Matrix

__all__ = ["count_work", "linear", "plain", "product"]


def plain(fitting: Fitting, name: str, step: str) -> Callable[..., Any]:
    """A linear layer that look-ahead does not look at."""
    run, matrix = fitting.run, fitting.matrix(name)

    def forward(x: torch.Tensor) -> torch.Tensor:
        held = run.held.pop(name, None)
        if held is not None and held[0] is x:
            return held[1]
        count_work(run, x, matrix)
        return linear(x, matrix, getattr(run.machine, step))

    return forward


def linear(x: torch.Tensor, matrix: Matrix, step: Any) -> torch.Tensor:
    """A product by a matrix, by a step of the machine."""
    return tensor(product(x, matrix, step))


def product(x: torch.Tensor, matrix: Matrix, step: Any) -> NDArray[Any]:
    """The numbers of a product by a matrix."""

    def linear(part: NDArray[Any]) -> NDArray[Any]:
        return layers.linear(part, matrix, step)

    return by_text(linear, not step.is_stochastic, array(x))


def count_work(run: Run, x: torch.Tensor, matrix: Matrix) -> None:
    """Count the multiply-adds of a product."""
    run.multiply_adds += x.numel() * matrix.shape[1]
