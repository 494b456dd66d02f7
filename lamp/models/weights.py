"""The weights of a decoder, in a machine's format, checked against the sizes of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Format
from lamp.machines import Hardware
from lamp.models.layers import Matrix, Norm
from lamp.models.rotary import Rotary

__all__ = ["Block", "Shape", "Tensors", "Weights", "check_epsilon", "check_flags", "check_sizes"]


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder and the functions in it.

    Parameters
    ----------
    vocabulary : int
        The number of tokens.
    positions : int
        The largest number of tokens in a text.
    width : int
        The length of a vector of the residual stream.
    inner : int
        The width of the feed-forward layers.
    layers, heads, key_heads : int
        Each key head serves ``heads // key_heads`` heads.
    dimension : int
        The dimension d of a head.
    activation : str
        The activation of the feed-forward layers, by its name in transformers.
    epsilon : float
        The epsilon of every norm.
    scaled : bool
        Whether scores are divided by the square root of the head dimension.
    rotary : Rotary, optional
        How queries and keys are rotated.
    """

    vocabulary: int
    positions: int
    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    dimension: int
    activation: str
    epsilon: float
    scaled: bool = True
    rotary: Rotary | None = None


def check_sizes(config: Any, names: Iterable[str]) -> None:
    """Turn sizes of a configuration, a frozen dataclass, into ints.

    Raises
    ------
    ValueError
        If one is not a positive integer.
    """
    for name in names:
        size = getattr(config, name)
        if not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"{name} is {size!r}, expected a positive integer")
        object.__setattr__(config, name, int(size))


def check_flags(config: Any, names: Iterable[str]) -> None:
    """Raise a ValueError if a flag of a configuration is not true or false."""
    for name in names:
        if not isinstance(getattr(config, name), (bool, np.bool_)):
            raise ValueError(f"{name} is {getattr(config, name)!r}, expected true or false")


def check_epsilon(config: Any, name: str) -> None:
    """Turn the epsilon of a configuration's norms into a float.

    Raises
    ------
    ValueError
        If it is not a finite number that is at least 0.
    """
    epsilon = getattr(config, name)
    is_number = isinstance(epsilon, (int, float, np.integer, np.floating))
    if not is_number or not 0.0 <= epsilon < np.inf:
        raise ValueError(f"{name} is {epsilon!r}, expected a finite number that is not negative")
    object.__setattr__(config, name, float(epsilon))


@dataclass(frozen=True)
class Block:
    """The weights of a block; `gate` is None where the feed-forward layer has no gate."""

    norm_1: Norm
    qkv: Matrix
    attention_output: Matrix
    norm_2: Norm
    mlp_up: Matrix
    mlp_down: Matrix
    gate: Matrix | None = None

    @property
    def size(self) -> int:
        """The number of weights in the matrices, which is that of multiply-adds per token."""
        matrices = (self.qkv, self.attention_output, self.mlp_up, self.mlp_down, self.gate)
        return sum(matrix.weight.size for matrix in matrices if matrix is not None)


@dataclass(frozen=True)
class Weights:
    """All weights of a model: embeddings, blocks, the last norm, the head."""

    tokens: NDArray[Any]
    positions: NDArray[Any] | None
    blocks: tuple[Block, ...]
    norm: Norm
    head: Matrix

    def norm_after(self, layer: int) -> Norm:
        """The norm that reads the residual stream behind a layer."""
        following = layer + 1
        return self.blocks[following].norm_1 if following < len(self.blocks) else self.norm

    def multiply_adds(self, shape: Shape, position: int, tokens: int) -> int:
        """Multiply-adds of all products for tokens that begin at a position."""
        pairs = tokens * position + tokens * (tokens + 1) // 2
        attention = 2 * pairs * shape.heads * shape.dimension  # scores and values
        matrices = sum(block.size for block in self.blocks) + self.head.weight.size
        return int(tokens * matrices + attention * len(self.blocks))


class Tensors:
    """The tensors of a checkpoint as a machine holds them.

    Parameters
    ----------
    tensors : mapping
        Arrays by name.
    prefix : str
        Put in front of every name that is asked for.
    hardware : Hardware
        Tensors are rounded to nearest into its format of weights.
    """

    def __init__(
        self, tensors: Mapping[str, NDArray[Any]], prefix: str, hardware: Hardware
    ) -> None:
        self._tensors, self._prefix = tensors, prefix
        self._format: Format = hardware.weights
        self._carrier = hardware.carrier

    def check_layers(self, start: str, layers: int, field: str) -> None:
        """Raise a ValueError if the checkpoint has more layers than its configuration says."""
        surplus = f"{self._prefix}{start}{layers}."
        for name in self._tensors:
            if name.startswith(surplus):
                raise ValueError(
                    f"the checkpoint has a tensor {name!r}, but its configuration says {field} = "
                    f"{layers}"
                )

    def take(self, name: str, *shape: int, prefix: bool = True) -> NDArray[Any]:
        """A tensor by name.

        Raises
        ------
        ValueError
            If it is missing or has another shape.
        """
        full = self._prefix + name if prefix else name
        if full not in self._tensors:
            raise ValueError(
                f"the checkpoint has no tensor {full!r} of float16, bfloat16, float32 or float64"
            )
        tensor = self._tensors[full]
        if tensor.shape != shape:
            raise ValueError(f"tensor {full!r} has shape {tensor.shape}, expected {shape}")
        if self._format.precision < 24 or tensor.dtype == np.float64:
            tensor = fpemu.round(tensor, self._format)
        # A tensor in a mapped file stays there if nothing has to be done to it.
        return np.ascontiguousarray(tensor, self._carrier)

    def matrix(self, weight: NDArray[Any], bias: NDArray[Any] | None = None) -> Matrix:
        """A linear layer's weights, of shape (inputs, outputs)."""
        return Matrix(weight, bias, self._format)
