"""What is known where the modules of a model are put on a machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from fpemu import Format
from lamp.integrations.transformers.running import Run, array
from lamp.integrations.transformers.structure import Structure
from lamp.models.layers import Matrix, Norm

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

    @functools.cached_property
    def matrices(self) -> dict[str, Matrix]:
        """The weights of the linear layers."""
        return {name: self._matrix(name) for name in self.structure.products}

    @functools.cached_property
    def joined(self) -> dict[tuple[str, ...], Matrix]:
        """The weights of linear layers that are one product."""
        return {}

    def format_of(self, name: str) -> Format:
        """The format in which the machine holds the weights of a module."""
        return self.structure.format_of(name, self.run.hardware)

    def _matrix(self, name: str) -> Matrix:
        module = self.module(name)
        weight = array(module.weight)
        bias = None if module.bias is None else array(module.bias)
        shaped = weight.T if isinstance(module, nn.Linear) else weight
        return Matrix(shaped, bias, self.format_of(name))

    def norm(self, name: str) -> Norm:
        """The weights of a norm."""
        module, kind = self.module(name), self.structure.norms[name]
        weight = array(module.weight)
        if kind.one_more:
            weight = 1.0 + weight.astype(np.float64)
        bias = getattr(module, "bias", None)
        return Norm(weight, None if bias is None else array(bias), kind.centered)
