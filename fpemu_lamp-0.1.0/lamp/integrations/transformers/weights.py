"""Weights on a machine: large ones stay those of the loaded model, for any number of machines.

The numbers of a machine are made when a product asks for them.  Rounding a matrix takes far less
time than a product with many rows, so they are kept for products with few rows only, and only where
they are others than those of the model.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fpemu
from fpemu import Format, Packed
from lamp.integrations.transformers.kinds import is_experts
from lamp.integrations.transformers.running import wide
from lamp.integrations.transformers.structure import Structure
from lamp.machines import Operand
from lamp.models import packed
from lamp.models.layers import Matrix

__all__ = ["Shared", "check_finite", "held", "large", "memory"]

_STRIP: Final = 2**18  # weights that are rounded at once: few, so that memory has no gaps
_LOOKED_AT: Final = 256  # rows of weights between two looks at whether rounding changes them


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
        self._shape = parts[0].shape[1], sum(part.shape[0] for part in parts)

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return self._shape

    @property
    def weight(self) -> NDArray[Any]:
        """The numbers of the machine, made anew unless they are kept."""
        return self.columns(slice(0, self.shape[1]))

    def columns(self, part: slice) -> NDArray[Any]:
        """Some columns; a part of kept numbers begins with a multiple of 64."""
        if self._weight is None:
            return self._made(part)
        return packed.numbers(packed.columns(Operand(self._weight), part).values)

    def _numbers(self, few: bool) -> Any:
        """The numbers of the machine; those for few rows are kept, in the width of their format."""
        if self._weight is None and few:
            self._weight = self._codes() if packed.is_worth_it(self.size) else None
            if self._weight is None:
                self._weight = self._made(slice(0, self.shape[1]))
        return self._weight

    def _codes(self) -> Packed | None:
        """The numbers of the machine packed, if they are others than the model's and narrow."""
        if not (self._rounds and Packed.holds(self.format)):
            return None
        parts = (Packed(self._made(part), self.format) for part in self._strips())
        try:
            return Packed.beside(parts, self.shape[1])
        except ValueError:  # an infinity
            return None

    def _strips(self) -> list[slice]:
        """Columns that are rounded together."""
        inputs, outputs = self.shape
        width = max(1, _STRIP // (inputs * 64)) * 64
        return [slice(i, min(i + width, outputs)) for i in range(0, outputs, width)]

    def _made(self, columns: slice) -> NDArray[Any]:
        """Columns as the machine holds them."""
        pieces = self._pieces(columns)
        made = [self._held(piece) if self._rounds else wide(piece) for piece in pieces]
        return (made[0] if len(made) == 1 else np.concatenate(made)).T

    def _pieces(self, columns: slice) -> list[torch.Tensor]:
        """The rows of the model's weights that are some columns."""
        ends = itertools.accumulate(len(part) for part in self._parts)
        pieces = [
            part[max(columns.start - end + len(part), 0) : max(columns.stop - end + len(part), 0)]
            for part, end in zip(self._parts, ends, strict=True)
        ]
        return [piece for piece in pieces if len(piece)]

    def _held(self, piece: torch.Tensor) -> NDArray[Any]:
        return held(piece, self.format, self._carrier)

    @functools.cached_property
    def _rounds(self) -> bool:
        """Whether the machine holds other numbers than the model."""
        pieces = (piece for part in self._parts for piece in part.split(_LOOKED_AT))
        return not all(_same(self._held(piece), wide(piece)) for piece in pieces)
