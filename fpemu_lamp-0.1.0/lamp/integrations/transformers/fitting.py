"""What is known where the modules of a model are put on a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lamp.integrations.transformers.running import Run, array
from lamp.integrations.transformers.structure import Structure
from lamp.integrations.transformers.weights import Shared
from lamp.models.layers import Norm

__all__ = ["Fitting"]


@dataclass
class Fitting:
    """What the functions that replace those of modules are made from.

    Parameters
    ----------
    model : torch.nn.Module
        The model; its weights are those of the machine.
    structure : Structure
    run : Run
        The state of its passes.
    """

    model: nn.Module
    structure: Structure
    run: Run
    _matrices: dict[tuple[str, ...], Shared] = field(default_factory=dict)

    def module(self, name: str) -> Any:
        """A module by its name."""
        return self.model.get_submodule(name)

    def replace(self, name: str, function: Callable[..., Any]) -> None:
        """Give a module another forward function."""
        self.module(name).forward = function

    @property
    def has_head(self) -> bool:
        """Whether one of the products gives logits of tokens."""
        return any(map(self.is_head, self.structure.products))

    def is_head(self, name: str) -> bool:
        """Whether a linear layer gives logits of tokens."""
        head = self.model.get_output_embeddings()
        is_behind = self.structure.products[name].step == "lm_head"
        return head is not None and is_behind and self.module(name) is head

    def matrix(self, *names: str) -> Shared:
        """The weights of linear layers, side by side; the same object for the same layers."""
        if names not in self._matrices:
            modules = [self.module(name) for name in names]
            parts = [_rows(module) for module in modules]
            biases = [None if module.bias is None else array(module.bias) for module in modules]
            self._matrices[names] = self.shared(names[0], parts, _joined(biases, parts))
        return self._matrices[names]

    def shared(self, name: str, parts: Sequence[torch.Tensor], bias: NDArray[Any] | None) -> Shared:
        """Weights of a module, as the machine's layer holds them."""
        format = self.structure.format_of(name, self.run.hardware)
        return Shared(parts, bias, format, self.run.carrier)

    def norm(self, name: str) -> Norm:
        """The weights of a norm."""
        module, kind = self.module(name), self.structure.norms[name]
        weight = array(module.weight)
        if kind.one_more:
            weight = 1.0 + weight.astype(np.float64)
        bias = getattr(module, "bias", None)
        return Norm(weight, None if bias is None else array(bias), kind.centered)


def _rows(module: Any) -> torch.Tensor:
    """The weights of a linear layer, of shape (outputs, inputs)."""
    weight: torch.Tensor = module.weight.detach()
    return weight if isinstance(module, nn.Linear) else weight.T


def _joined(biases: list[NDArray[Any] | None], parts: list[torch.Tensor]) -> NDArray[Any] | None:
    """The biases of linear layers, side by side: zeros for those that have none, if any has one."""
    given = [bias for bias in biases if bias is not None]
    if not given:
        return None
    zeros = (np.zeros(len(part), given[0].dtype) for part in parts)
    pairs = zip(biases, zeros, strict=True)
    return np.concatenate([zero if bias is None else bias for bias, zero in pairs])
