"""GPT-2 under a Hardware: numpy and Numba alone.

References
----------
A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the layout of the
weights is that of transformers' ``GPT2LMHeadModel``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu.parallel import default_environment
from lamp import activations, checkpoints
from lamp.attention import attention
from lamp.hardware import Hardware, HardwareLike, hardware
from lamp.layers import activation, layer_norm, linear
from lamp.sampling import Sampler
from lamp.selection import LAMP

__all__ = ["GPT2", "Cache", "Forward", "GPT2Config"]

_PREFIX = "transformer."


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2, under transformers' names.

    Parameters
    ----------
    vocab_size, n_positions, n_embd, n_layer, n_head, n_inner : int
        Sizes.
    activation_function : str
        The activation of the feed-forward layers.
    layer_norm_epsilon : float
        The epsilon of every LayerNorm.
    scale_attn_weights : bool
        Whether scores are divided by the square root of the head dimension.
    """

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    activation_function: str
    layer_norm_epsilon: float
    scale_attn_weights: bool = True

    def __post_init__(self) -> None:
        activations.activation(self.activation_function)  # raises if there is none
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}, expected a positive integer")
        if not 0.0 <= self.layer_norm_epsilon < np.inf:
            raise ValueError(
                f"layer_norm_epsilon is {self.layer_norm_epsilon!r}, expected a finite number "
                "that is not negative"
            )
        if self.n_embd % self.n_head:
            raise ValueError(f"width {self.n_embd} does not divide into {self.n_head} heads")

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> GPT2Config:
        """The configuration in a transformers ``config.json``.

        Raises
        ------
        ValueError
            If it asks for something that is not implemented.
        """
        for flag in (
            "scale_attn_by_inverse_layer_idx",
            "reorder_and_upcast_attn",
            "add_cross_attention",
        ):
            if config.get(flag):
                raise ValueError(f"{flag} is not implemented")
        if not config.get("tie_word_embeddings", True):
            raise ValueError("a head that is not tied to the embedding is not implemented")
        values = {f.name: config[f.name] for f in fields(cls)}
        if values["n_inner"] is None:
            values["n_inner"] = 4 * values["n_embd"]
        return cls(**values)


@dataclass(frozen=True)
class Block:
    """The weights of a layer; matrices map rows (inputs, outputs)."""

    norm_1_weight: NDArray[Any]
    norm_1_bias: NDArray[Any]
    qkv_weight: NDArray[Any]
    qkv_bias: NDArray[Any]
    attention_weight: NDArray[Any]
    attention_bias: NDArray[Any]
    norm_2_weight: NDArray[Any]
    norm_2_bias: NDArray[Any]
    up_weight: NDArray[Any]
    up_bias: NDArray[Any]
    down_weight: NDArray[Any]
    down_bias: NDArray[Any]


@dataclass(frozen=True)
class Weights:
    """All weights of a model."""

    token_embedding: NDArray[Any]
    position_embedding: NDArray[Any]
    blocks: tuple[Block, ...]
    norm_weight: NDArray[Any]
    norm_bias: NDArray[Any]

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, NDArray[Any]], config: GPT2Config, dtype: np.dtype[Any]
    ) -> Weights:
        """Weights by transformers' names, checked and converted.

        Raises
        ------
        ValueError
            If a tensor is missing or has another shape than the configuration says, or there are
            more layers than it says.
        """
        width, inner = config.n_embd, config.n_inner
        prefix = "" if "wte.weight" in tensors else _PREFIX
        beyond = f"{prefix}h.{config.n_layer}."
        for name in tensors:
            if name.startswith(beyond):
                raise ValueError(
                    f"the checkpoint has a tensor {name!r}, but its configuration says n_layer = "
                    f"{config.n_layer}"
                )

        def take(name: str, *shape: int) -> NDArray[Any]:
            if prefix + name not in tensors:
                raise ValueError(
                    f"the checkpoint has no tensor {prefix + name!r} of float16, bfloat16, float32 "
                    "or float64"
                )
            tensor = tensors[prefix + name]
            if tensor.shape != shape:
                raise ValueError(
                    f"tensor {prefix + name!r} has shape {tensor.shape}, expected {shape}"
                )
            return np.ascontiguousarray(tensor, dtype=dtype)

        def block(layer: int) -> Block:
            at = f"h.{layer}."
            return Block(
                take(at + "ln_1.weight", width),
                take(at + "ln_1.bias", width),
                take(at + "attn.c_attn.weight", width, 3 * width),
                take(at + "attn.c_attn.bias", 3 * width),
                take(at + "attn.c_proj.weight", width, width),
                take(at + "attn.c_proj.bias", width),
                take(at + "ln_2.weight", width),
                take(at + "ln_2.bias", width),
                take(at + "mlp.c_fc.weight", width, inner),
                take(at + "mlp.c_fc.bias", inner),
                take(at + "mlp.c_proj.weight", inner, width),
                take(at + "mlp.c_proj.bias", width),
            )

        return cls(
            take("wte.weight", config.vocab_size, width),
            take("wpe.weight", config.n_positions, width),
            tuple(block(layer) for layer in range(config.n_layer)),
            take("ln_f.weight", width),
            take("ln_f.bias", width),
        )


@dataclass(frozen=True)
class Forward:
    """What a forward pass gives.

    Parameters
    ----------
    logits : ndarray, shape (tokens, vocabulary)
        Next-token logits at each position.
    selected, pairs : ndarray of int64, shape (layers,)
        Recomputed query-key products, and all causal ones.
    """

    logits: NDArray[Any]
    selected: NDArray[np.int64]
    pairs: NDArray[np.int64]

    @property
    def recomputation_rate(self) -> float:
        """The recomputed share of all causal query-key products."""
        return float(self.selected.sum() / self.pairs.sum())


class Cache:
    """Keys and values of the tokens that a model has read.

    Parameters
    ----------
    config : GPT2Config
        The shape of the model.
    dtype : numpy.dtype
        The type of its numbers.
    capacity : int
        For how many tokens there is room.
    """

    def __init__(self, config: GPT2Config, dtype: np.dtype[Any], capacity: int) -> None:
        dimension = config.n_embd // config.n_head
        shape = (config.n_layer, 2, config.n_head, capacity, dimension)
        self._numbers = np.empty(shape, dtype)
        self.length = 0

    def extended(
        self, layer: int, key: NDArray[Any], value: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """All keys and values of a layer, those of new tokens put behind the others."""
        stop = self.length + key.shape[1]
        self._numbers[layer, 0, :, self.length : stop] = key
        self._numbers[layer, 1, :, self.length : stop] = value
        keys, values = self._numbers[layer, :, :, :stop]
        return keys, values


class GPT2:
    """A GPT-2 that runs on a simulated machine.

    Parameters
    ----------
    config : GPT2Config
        Its shape.
    tensors : mapping
        Its weights, under transformers' names.
    hardware : Hardware or str
        The machine.
    lamp : LAMP, optional
        Which attention scores to recompute.
    source : Path, optional
        The directory of the tokenizer.

    Examples
    --------
    >>> import lamp
    >>> model = lamp.GPT2.from_pretrained("embedded", hardware="ps4", lamp=lamp.LAMP(tau=1.2))
    >>> model.forward(model.encode("What's in a name?")).logits.shape[1]
    2048
    """

    def __init__(
        self,
        config: GPT2Config,
        tensors: Mapping[str, NDArray[Any]],
        *,
        hardware: HardwareLike = "fp32",
        lamp: LAMP | None = None,
        source: Path | None = None,
    ) -> None:
        self.config = config
        self.hardware: Hardware = _machine(hardware)
        self.lamp = _checked(lamp)
        self._tensors = tensors
        self._source = source
        self._weights = Weights.from_tensors(tensors, config, self.hardware.storage.carrier)

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | os.PathLike[str] = "embedded",
        *,
        hardware: HardwareLike = "fp32",
        lamp: LAMP | None = None,
    ) -> GPT2:
        """A trained model.

        Parameters
        ----------
        path_or_name : str or path-like
            A transformers directory of a GPT-2, ``"embedded"``, or a name on the Hugging Face hub.
        hardware : Hardware or str
            The machine.
        lamp : LAMP, optional
            Which attention scores to recompute.

        Returns
        -------
        GPT2

        Raises
        ------
        FileNotFoundError
            If there is no such model, or a file is missing.
        ValueError
            If the checkpoint is of another kind of model, or tensors are missing or misshapen.
        """
        source = checkpoints.directory(path_or_name)
        config = GPT2Config.from_mapping(checkpoints.load_config(source))
        tensors = checkpoints.load_tensors(source)
        return cls(config, tensors, hardware=hardware, lamp=lamp, source=source)

    def with_hardware(self, hardware: HardwareLike, lamp: LAMP | None = None) -> GPT2:
        """The same weights on another machine.

        Parameters
        ----------
        hardware : Hardware or str
            The machine.
        lamp : LAMP, optional
            Which attention scores to recompute; none if left out.

        Returns
        -------
        GPT2
            Shares the weights where the storage format is the same.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.hardware, other.lamp = _machine(hardware), _checked(lamp)
        if other.hardware.storage != self.hardware.storage:
            dtype = other.hardware.storage.carrier
            other._weights = Weights.from_tensors(self._tensors, self.config, dtype)
        return other

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, loaded when first asked for."""
        if self._source is None:
            raise ValueError("the model was not made from a directory: it has no tokenizer")
        return checkpoints.load_tokenizer(self._source)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The tokens of a text.

        Parameters
        ----------
        text : str
            Any text.

        Returns
        -------
        ndarray of int64

        Raises
        ------
        TypeError
            If `text` is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, not {type(text).__name__}")
        # verbose=False: a text longer than the model's window is cut up by the caller.
        tokens = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.array(tokens, dtype=np.int64)

    def decode(self, tokens: ArrayLike) -> str:
        """The text of tokens.

        Parameters
        ----------
        tokens : array_like of int
            Token numbers.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If a token is not in the vocabulary.
        TypeError
            If tokens are not integers.
        """
        numbers = np.asarray(tokens)
        if numbers.size:
            numbers = self._check_numbers(numbers)
        text: str = self.tokenizer.decode(numbers.tolist())
        return text

    def logits(self, tokens: ArrayLike) -> NDArray[Any]:
        """Next-token logits at each position.

        Parameters
        ----------
        tokens : array_like of int, shape (length,) or (batch, length)
            Token numbers.

        Returns
        -------
        ndarray, shape (length, vocabulary) or (batch, length, vocabulary)
            In the hardware's storage format.

        Raises
        ------
        ValueError
            If there are no tokens or too many, or a token is not in the vocabulary.
        TypeError
            If tokens are not integers.
        """
        numbers = self._check_tokens(tokens, batch=True)
        if numbers.ndim == 1:
            return self.forward(numbers).logits
        shape = (*numbers.shape, self.config.vocab_size)
        logits = np.empty(shape, self.hardware.storage.carrier)
        for row, place in zip(numbers, logits, strict=True):
            place[:] = self.forward(row).logits
        return logits

    @default_environment()
    def forward(self, tokens: ArrayLike) -> Forward:
        """One text through the model.

        Parameters
        ----------
        tokens : array_like of int, shape (length,)
            Token numbers.

        Returns
        -------
        Forward

        Raises
        ------
        ValueError
            If there are no tokens or too many, or a token is not in the vocabulary.
        TypeError
            If tokens are not integers.
        """
        return self._forward(self._check_tokens(tokens), None)

    def _forward(self, numbers: NDArray[np.int64], cache: Cache | None) -> Forward:
        """Tokens behind those of a cache, which they are added to."""
        weights, machine = self._weights, self.hardware
        first = 0 if cache is None else cache.length
        epsilon = self.config.layer_norm_epsilon
        selected, pairs = [], []
        x = (
            weights.token_embedding[numbers]
            + weights.position_embedding[first : first + len(numbers)]
        )
        for layer, block in enumerate(weights.blocks):
            h = layer_norm(x, block.norm_1_weight, block.norm_1_bias, epsilon)
            qkv = linear(h, block.qkv_weight, block.qkv_bias, machine.products)
            query, key, value = self._split_heads(qkv)
            if cache is not None:
                key, value = cache.extended(layer, key, value)
            heads, recomputation = attention(
                query,
                key,
                value,
                hardware=machine,
                lamp=self.lamp,
                layer=layer,
                scaled=self.config.scale_attn_weights,
            )
            joined = heads.transpose(1, 0, 2).reshape(x.shape)
            x += linear(joined, block.attention_weight, block.attention_bias, machine.products)
            h = layer_norm(x, block.norm_2_weight, block.norm_2_bias, epsilon)
            h = linear(h, block.up_weight, block.up_bias, machine.products)
            activation(h, self.config.activation_function)
            x += linear(h, block.down_weight, block.down_bias, machine.products)
            selected.append(recomputation.selected)
            pairs.append(recomputation.pairs)
        if cache is not None:
            cache.length += len(numbers)
        h = layer_norm(x, weights.norm_weight, weights.norm_bias, epsilon)
        logits = linear(h, weights.token_embedding.T, None, machine.products)
        return Forward(logits, np.array(selected, np.int64), np.array(pairs, np.int64))

    @default_environment()
    def generate(
        self,
        tokens: ArrayLike,
        count: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> NDArray[np.int64]:
        r"""Continue a text.

        Each token is chosen from the logits of the full forward pass over all tokens before it.
        Keys and values are kept from one token to the next where that gives the same bits: not with
        stochastic roundings, trees of sums over the tokens, or a LAMP that is not causal, as the
        normwise rule is not.

        Parameters
        ----------
        tokens : array_like of int, shape (length,)
            The beginning.
        count : int
            How many tokens to add.
        temperature : float
            What logits are divided by before they become probabilities; 0 takes the most probable
            token, the first of equal ones.
        top_k : int, optional
            Draw from the k most probable tokens only.
        top_p : float, optional
            Draw from the fewest most probable tokens that have this probability together.
        seed : int
            Of the draws.

        Returns
        -------
        ndarray of int64, shape (length + count,)

        Raises
        ------
        ValueError
            If there are no tokens, more in all than the model has positions, a token is not in the
            vocabulary, a parameter is out of range, or a logit is NaN.
        TypeError
            If tokens are not integers.

        Examples
        --------
        >>> import lamp
        >>> model = lamp.GPT2.from_pretrained("embedded")
        >>> model.decode(model.generate(model.encode("ROMEO.\nO, she doth"), 4))
        'ROMEO.\nO, she doth not know her,'
        """
        sampler = Sampler(temperature, top_k, top_p, seed)
        text = self._check_tokens(tokens)
        if not isinstance(count, (int, np.integer)) or count < 0:
            raise ValueError(f"count must be an integer that is not negative, not {count!r}")
        total = len(text) + int(count)
        if total > self.config.n_positions:
            raise ValueError(
                f"{len(text)} tokens and {count} more are beyond the model's "
                f"{self.config.n_positions} positions"
            )
        cache = None
        if self.hardware.is_causal and (self.lamp is None or self.lamp.is_causal):
            cache = Cache(self.config, self.hardware.storage.carrier, total)
        while len(text) < total:
            unread = text if cache is None else text[cache.length :]
            token = sampler.draw(self._forward(unread, cache).logits[-1])
            text = np.append(text, token)
        return text

    def _split_heads(self, qkv: NDArray[Any]) -> NDArray[Any]:
        """(length, 3 * width) to query, key and value of shape (heads, length, d)."""
        heads = self.config.n_head
        split = qkv.reshape(len(qkv), 3, heads, self.config.n_embd // heads)
        return np.ascontiguousarray(split.transpose(1, 2, 0, 3))

    def _check_tokens(self, tokens: ArrayLike, *, batch: bool = False) -> NDArray[np.int64]:
        expected = "one sequence" + (" or several of one length" if batch else "")
        try:
            numbers = np.asarray(tokens)
        except ValueError as error:  # a ragged list
            raise ValueError(f"tokens must be {expected}: {error}") from error
        if numbers.ndim != 1 and not (batch and numbers.ndim == 2):
            raise ValueError(f"tokens must be {expected}, not an array of shape {numbers.shape}")
        if not numbers.size:
            raise ValueError("there are no tokens")
        length = numbers.shape[-1]
        if length > self.config.n_positions:
            raise ValueError(
                f"{length} tokens are more than the model's {self.config.n_positions} positions"
            )
        return self._check_numbers(numbers)

    def _check_numbers(self, numbers: NDArray[Any]) -> NDArray[np.int64]:
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"tokens must be integers, not {numbers.dtype}")
        outside = (numbers < 0) | (numbers >= self.config.vocab_size)
        if outside.any():
            index = tuple(np.argwhere(outside)[0].tolist())
            row = f" of row {index[0]}" if len(index) == 2 else ""
            position = f" at position {index[-1]}{row}" if index else ""
            raise ValueError(
                f"token {numbers[index]}{position} is not in 0..{self.config.vocab_size - 1}"
            )
        return numbers.astype(np.int64)


def _checked(lamp: LAMP | None) -> LAMP | None:
    if lamp is not None and not isinstance(lamp, LAMP):
        raise TypeError(f"lamp must be a LAMP or None, not {type(lamp).__name__}")
    return lamp


_machine = hardware  # the methods' parameters of that name hide the function
