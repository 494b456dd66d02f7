"""The weights of a decoder, in a machine's format, checked against its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Format
from lamp.machines import Hardware
from lamp.models.layers import Matrix, Norm
from lamp.models.rotary import Rotary

__all__ = ["Block", "Shape", "Tensors", "Weights"]


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder and the functions in it.

    Parameters
    ----------
    vocabulary, positions, width, inner, layers, heads, key_heads, dimension : int
        `inner` is the width of the feed-forward layers, `dimension` that of a head, `positions` the
        most tokens in a text.
    activation : str
        By transformers' name.
    epsilon : float
        Of every norm.
    scaled : bool
        Whether scores are divided by the square root of the head dimension.
    rotary : Rotary, optional
        How queries and keys are turned.
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


@dataclass(frozen=True)
class Block:
    """The weights of a layer; `gate` is that of a gated feed-forward layer."""

    norm_1: Norm
    qkv: Matrix
    attention_output: Matrix
    norm_2: Norm
    mlp_up: Matrix
    mlp_down: Matrix
    gate: Matrix | None = None


@dataclass(frozen=True)
class Weights:
    """All weights of a model."""

    tokens: NDArray[Any]
    positions: NDArray[Any] | None
    blocks: tuple[Block, ...]
    norm: Norm
    head: Matrix


class Tensors:
    """The tensors of a checkpoint as a machine holds them.

    Parameters
    ----------
    tensors : mapping
        Arrays by name.
    prefix : str
        Stands before all names that are asked for.
    hardware : Hardware
        What is not a member of its format of weights is rounded to nearest.
    """

    def __init__(
        self, tensors: Mapping[str, NDArray[Any]], prefix: str, hardware: Hardware
    ) -> None:
        self._tensors, self._prefix = tensors, prefix
        self._format: Format = hardware.weights
        self._type = hardware.carrier

    def check_layers(self, start: str, layers: int, field: str) -> None:
        """Raise a ValueError if there are tensors of more layers."""
        beyond = f"{self._prefix}{start}{layers}."
        for name in self._tensors:
            if name.startswith(beyond):
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
        # Where nothing has to be done, a tensor in a mapped file stays there.
        return np.ascontiguousarray(tensor, self._type)

    def matrix(self, weight: NDArray[Any], bias: NDArray[Any] | None = None) -> Matrix:
        """The weights of a linear layer, (inputs, outputs)."""
        return Matrix(weight, bias, self._format)
