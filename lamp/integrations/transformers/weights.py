"""Weights on a machine: large ones stay those of the loaded model, for any number of machines.

The numbers of a machine are made when a product asks for them.  Rounding a matrix takes far less
time than a product with many rows, so they are kept for products with few rows only, and only where
they are others than those of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fpemu
from fpemu import Format
from lamp.integrations.transformers.kinds import is_experts
from lamp.integrations.transformers.running import wide
from lamp.integrations.transformers.structure import Structure
from lamp.machines import Operand, Product
from lamp.models.layers import MANY_ROWS, Matrix

__all__ = ["Shared", "check_finite", "held", "large", "memory"]


def large(model: nn.Module, structure: Structure) -> frozenset[int]:
    """The ids of the parameters that stay as they are: machines round what they read of them.

    They are the weights of linear layers, of experts and of embeddings.
    """
    found = [model.get_submodule(name).weight for name in structure.products]
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            found.append(module.weight)
        if is_experts(module):
            found += [each for each in module.parameters(recurse=False) if each.ndim == 3]
    return frozenset(map(id, found))


def memory(parameters: Iterable[torch.Tensor]) -> frozenset[int]:
    """Where parameters are in memory."""
    return frozenset(each.untyped_storage().data_ptr() for each in parameters)


def check_finite(model: nn.Module) -> None:
    """Raise a ValueError if a parameter holds NaN or an infinity."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            what = "NaN" if bool(torch.isnan(parameter).any()) else "an infinity"
            raise ValueError(f"{name} holds {what}, expected numbers")


def held(numbers: torch.Tensor, format: Format, carrier: np.dtype[Any]) -> NDArray[Any]:
    """Weights as a machine holds them, in float32 if the model or the machine's carrier is."""
    plain = wide(numbers)
    if format.precision >= 24 and plain.dtype == np.float32:
        return plain
    rounded = np.asarray(fpemu.round(plain, format))
    return rounded.astype(min(plain.dtype, carrier), copy=False)


def _same(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bits."""
    words = np.dtype(f"u{x.itemsize}")
    return x.dtype == y.dtype and np.array_equal(x.view(words), y.view(words))


class Shared(Matrix):
    """The weights of linear layers that read the same numbers, side by side, on a machine.

    Parameters
    ----------
    parts : sequence of torch.Tensor, shapes (outputs, inputs)
        As the model has them.
    bias : ndarray, shape (outputs,), optional
        As the machine has it.
    format : Format
        Of the weights on the machine.
    carrier : numpy.dtype
        Of the machine.
    """

    def __init__(
        self,
        parts: Sequence[torch.Tensor],
        bias: NDArray[Any] | None,
        format: Format,
        carrier: np.dtype[Any],
    ) -> None:
        super().__init__(None, bias, format)
        self._parts, self._carrier = parts, carrier
        self._rounds: bool | None = None  # whether the machine holds other numbers, once known

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return self._parts[0].shape[1], sum(part.shape[0] for part in self._parts)

    @property
    def weight(self) -> NDArray[Any]:
        """The numbers of the machine, made anew unless they are kept."""
        if self._weight is not None:
            return self._weight
        found = self._of_machine()
        return (found[0] if len(found) == 1 else np.concatenate(found)).T

    def _of_machine(self) -> list[NDArray[Any]]:
        """The parts as the machine holds them."""
        if self._rounds is False:
            return [wide(part) for part in self._parts]
        found = [held(part, self.format, self._carrier) for part in self._parts]
        if self._rounds is None:
            pairs = zip(found, self._parts, strict=True)
            self._rounds = not all(_same(numbers, wide(part)) for numbers, part in pairs)
        return found if self._rounds else [wide(part) for part in self._parts]

    def operand(self, step: Product, rows: int) -> Operand:
        """The weights as the right operand of a step; those for few rows are kept."""
        if rows < MANY_ROWS and self.is_operand(step):
            self._weight = self.weight
        return super().operand(step, rows)
