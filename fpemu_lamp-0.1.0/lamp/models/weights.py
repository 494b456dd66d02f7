"""The weights of a decoder, in a machine's format, checked against the sizes of the model."""

from __future__ import annotations

import copy
import difflib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Format
from lamp.machines import Hardware
from lamp.models.layers import Matrix, Norm
from lamp.models.rotary import Rotary
from lamp.models.stored import let_go

__all__ = [
    "WRAPPERS",
    "Block",
    "Shape",
    "Tensors",
    "Weights",
]

WRAPPERS: Final = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that come from wrappers of PyTorch around a model: compiled, distributed."""

_HEAD: Final = "lm_head.weight"


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
    gated : bool
        Whether the feed-forward layers have a gate: two products of the step mlp_up.
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
    gated: bool = False


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
        return sum(matrix.size for matrix in matrices if matrix is not None)


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
        matrices = sum(block.size for block in self.blocks) + self.head.size
        return int(tokens * matrices + attention * len(self.blocks))


class Tensors:
    """The tensors of a checkpoint as a machine holds them.

    Names are those of transformers, without the prefix of a family.  What wraps a model while it is
    trained or compiled (:data:`WRAPPERS`) is taken off them.

    Parameters
    ----------
    tensors : mapping
        Arrays by name; a :class:`lamp.models.stored.Stored` tells what else the checkpoint has.
    prefix : str
        What names begin with in a model with a head, and may begin with.
    hardware : Hardware
        Tensors are rounded to nearest into its format of weights; those of a layer, see
        :meth:`of_layer`.

    Raises
    ------
    ValueError
        If two tensors have the same name.
    """

    def __init__(
        self, tensors: Mapping[str, NDArray[Any]], prefix: str, hardware: Hardware
    ) -> None:
        self._tensors = tensors
        self._unread: Mapping[str, str] = getattr(tensors, "unread", {})
        self._source = getattr(tensors, "source", "the checkpoint")
        self._names = self._plain_names(prefix)
        has_prefix = any(name.startswith(prefix) for name in self._names.values())
        self._prefix = prefix if has_prefix or not self._names else ""
        self._used: set[str] = set()
        self._hardware = hardware
        self._format: Format = hardware.weights
        self._carrier = hardware.carrier

    def _plain_names(self, prefix: str) -> dict[str, str]:
        """The names in the checkpoint by their plain ones."""
        names: dict[str, str] = {}
        for name in (*self._tensors, *self._unread):
            parts = [part for part in name.split(".") if part not in WRAPPERS]
            plain = ".".join(parts).removeprefix(prefix)
            if plain in names:
                raise ValueError(
                    f"{self._source} has two tensors for {plain!r}: {names[plain]!r} and {name!r}"
                )
            names[plain] = name
        return names

    def of_layer(self, layer: int, layers: int) -> Tensors:
        """The same tensors as the machine holds those of a layer; what is taken is noted in both.

        Parameters
        ----------
        layer : int
        layers : int
            How many layers the model has.

        Returns
        -------
        Tensors
        """
        found = copy.copy(self)
        found._format = self._hardware.of_layer(layer, layers).weights
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def check_layers(self, start: str, layers: int, field: str) -> None:
        """Raise a ValueError if the checkpoint has more layers than its configuration says."""
        for plain, name in self._names.items():
            if plain.startswith(f"{start}{layers}."):
                raise ValueError(
                    f"{self._source} has a tensor {name!r}, but its configuration says {field} = "
                    f"{layers}"
                )

    def check_rest(self, own: tuple[str, ...], harmless: re.Pattern[str]) -> None:
        """Name the tensors that have not been taken.

        Parameters
        ----------
        own : tuple of str
            How names begin of tensors that change what the model computes.
        harmless : re.Pattern
            Names of constants that older versions of transformers store.

        Raises
        ------
        ValueError
            If such a tensor has not been taken.
        """
        left = [
            plain
            for plain in self._names
            if plain not in self._used and not harmless.fullmatch(plain)
        ]
        for plain in left:
            if plain.startswith(own):
                raise ValueError(
                    f"{self._source} has a tensor {self._names[plain]!r}, which a model of its "
                    "configuration does not have"
                )
        if left:
            listed = ", ".join(self._names[plain] for plain in left[:3])
            warnings.warn(
                f"{self._source} has {len(left)} tensors that are not used: {listed}"
                + (", ..." if len(left) > 3 else ""),
                stacklevel=2,
            )

    def take(self, name: str, *shape: int, prefix: bool = True) -> NDArray[Any]:
        """A tensor by name.

        Raises
        ------
        ValueError
            If it is missing, has another shape or type, or holds NaN or an infinity.
        """
        full = self._names.get(name, (self._prefix if prefix else "") + name)
        if full not in self._tensors:
            raise ValueError(self._missing(full))
        self._used.add(name)
        tensor = self._tensors[full]
        if tensor.shape != shape:
            raise ValueError(
                f"{self._source}: tensor {full!r} has shape {tensor.shape}, expected {shape}"
            )
        if not np.isfinite(tensor).all():
            what = "NaN" if np.isnan(tensor).any() else "an infinity"
            raise ValueError(f"{self._source}: tensor {full!r} holds {what}, expected numbers")
        if self._format.precision < 24 or tensor.dtype == np.float64:
            tensor = fpemu.round(tensor, self._format)
        # A tensor in a mapped file stays there if nothing has to be done to it.
        held = np.ascontiguousarray(tensor, self._carrier)
        if not np.may_share_memory(held, self._tensors[full]):
            let_go(self._tensors[full])
        return held

    def _missing(self, full: str) -> str:
        """A message about a tensor that is not there as numbers, and what is in its place."""
        message = f"{self._source} has no tensor {full!r} of float16, bfloat16, float32 or float64"
        module = full.rpartition(".")[0] + "."
        beside = [name for name in self._unread if name == full or name.startswith(module)]
        if beside:
            listed = ", ".join(f"{name!r} of type {self._unread[name]}" for name in beside[:3])
            return f"{message}, but {listed}: quantized weights are not implemented"
        near = difflib.get_close_matches(full, self._tensors, 1, 0.5)
        return f"{message}; it has {near[0]!r}" if near else message

    def head(self, tokens: NDArray[Any], *, tied: bool) -> NDArray[Any]:
        """The weights of the head, by rows.

        A head in the checkpoint is kept even if the configuration says that it is tied, as
        transformers does.

        Parameters
        ----------
        tokens : ndarray, shape (vocabulary, width)
            The embedding of tokens.
        tied : bool
            Whether the head is the embedding, if the checkpoint has no other.
        """
        if tied and _HEAD not in self:
            return tokens
        own = self.take(_HEAD, *tokens.shape, prefix=False)
        return tokens if np.array_equal(own, tokens) else own

    def matrix(self, weight: NDArray[Any], bias: NDArray[Any] | None = None) -> Matrix:
        """A linear layer's weights, of shape (inputs, outputs)."""
        return Matrix(weight, bias, self._format)
