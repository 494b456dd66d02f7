"""A transformer that writes text, under a Hardware: numpy and Numba alone.

What differs between families of models is data: which weights there are, the kind of the norms,
rotary tables, a gate.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray

import fpemu
from fpemu._kernels.launching import default_environment
from lamp._kernels import activations, rows
from lamp.bounds.compositions import LayerNorm, RMSNorm
from lamp.lookahead import LAMP, LookAhead, Recomputation, error_weights, replace_selected
from lamp.machines import Function, Hardware, HardwareLike, Product, Sum, hardware
from lamp.models import checkpoints
from lamp.models.attention import attention, softmax
from lamp.models.exact import streams
from lamp.models.layers import Matrix, Norm, activation, add, left_operand, linear, norm, overflowed
from lamp.models.sampling import Sampler
from lamp.models.weights import Block, Shape, Weights

__all__ = ["Cache", "Decoder", "DepthMap", "Forward", "Trace"]

Observer = Callable[[str, int, NDArray[Any]], None]

_STREAMS = {"scores": 0, "attention_output": 1, "mlp_up": 2, "mlp_down": 3, "lm_head": 4}
_STREAM_STEP = 2**32  # more than there are layers


@dataclass(frozen=True)
class Forward:
    """What a forward pass gives.

    Parameters
    ----------
    logits : ndarray, shape (tokens, vocabulary)
        Next-token logits at each position.
    recomputed : mapping of str to tuple of Recomputation
        For every step that look-ahead is on for (scores, attention_output, mlp_up, mlp_down) what
        it recomputed in each layer; for lm_head, the only one.
    multiply_adds : int
        Of all products, once each.
    """

    logits: NDArray[Any]
    recomputed: Mapping[str, tuple[Recomputation, ...]]
    multiply_adds: int

    @property
    def recomputation_rate(self) -> float:
        """The recomputed share of all components that look-ahead looks at; 0 if there are none."""
        parts = [part for layers in self.recomputed.values() for part in layers]
        components = sum(part.components for part in parts)
        return sum(part.selected for part in parts) / components if components else 0.0

    @property
    def repeated(self) -> int:
        """Multiply-adds that recomputation takes."""
        parts = (part for layers in self.recomputed.values() for part in layers)
        return sum(part.selected * part.terms for part in parts)


@dataclass(frozen=True)
class Trace:
    """What happens in a layer.

    Parameters
    ----------
    layer : int
    steps : mapping of str to ndarray
        In the order of the steps: ``"stream"``, what comes into the layer, (tokens, width);
        ``"norm_1"``; ``"query"``, ``"key"``, ``"value"``, (heads, tokens, d); ``"low_scores"``,
        before recomputation, ``"mask"``, which are recomputed, ``"scores"`` and
        ``"probabilities"``, (heads, tokens, tokens), zeros for later tokens; ``"heads"``;
        ``"attention_output"``, the stream plus it; ``"norm_2"``; ``"mlp_up"``, the arguments of the
        activation; ``"activation"``; ``"mlp_down"``, the stream plus it.  Where look-ahead is on,
        ``"attention_output_mask"`` and the like.
    errors : mapping of str to ndarray
        ``"scores"`` and ``"probabilities"`` less those of the same queries and keys in float64.
    """

    layer: int
    steps: Mapping[str, NDArray[Any]]
    errors: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class DepthMap:
    """How errors of the residual stream grow from layer to layer.

    Parameters
    ----------
    errors : ndarray of float64, shape (layers + 1, tokens)
        Of every token the length of the error, before the first layer and after each.
    sizes : ndarray of float64, shape (layers + 1, tokens)
        The length of the reference's stream.
    """

    errors: NDArray[np.float64]
    sizes: NDArray[np.float64]

    @property
    def relative(self) -> NDArray[np.float64]:
        """Errors over sizes."""
        return self.errors / self.sizes


class Cache:
    """Keys and values of the tokens that a model has read.

    Parameters
    ----------
    shape : Shape
        The sizes of the model.
    dtype : numpy.dtype
        The type of its numbers.
    capacity : int
        For how many tokens there is room.
    """

    def __init__(self, shape: Shape, dtype: np.dtype[Any], capacity: int) -> None:
        sizes = (shape.layers, 2, shape.key_heads, capacity, shape.dimension)
        self._numbers = np.empty(sizes, dtype)
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


class Decoder(ABC):
    """A language model that runs on a simulated machine.

    Parameters
    ----------
    config : object
        Its configuration, as its family has it.
    tensors : mapping
        Its weights, under transformers' names.
    hardware : Hardware or str
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        What to recompute; several are for as many places.
    source : Path, optional
        The checkpoint that the tokenizer is taken from.
    """

    family: ClassVar[str]
    """transformers' name of the kind of model."""

    def __init__(
        self,
        config: Any,
        tensors: Mapping[str, NDArray[Any]],
        *,
        hardware: HardwareLike = "fp32",
        lamp: LAMP | Iterable[LAMP] | None = None,
        source: Path | None = None,
    ) -> None:
        self.config = config
        self.shape = self._shape(config)
        self._tensors = tensors
        self._source = source
        self._set_machine(hardware, lamp)
        self._weights = self._load(tensors, config, self.hardware)

    def _set_machine(self, spec: HardwareLike, lamp: LAMP | Iterable[LAMP] | None) -> None:
        self.hardware: Hardware = hardware(spec)
        self.lamp = lamp
        self.look_ahead = LookAhead.of(lamp)

    @staticmethod
    @abstractmethod
    def _configure(config: Mapping[str, Any]) -> Any:
        """The configuration in a checkpoint's, checked."""

    @staticmethod
    @abstractmethod
    def _shape(config: Any) -> Shape:
        """The sizes that a configuration says."""

    @staticmethod
    @abstractmethod
    def _load(tensors: Mapping[str, NDArray[Any]], config: Any, hardware: Hardware) -> Weights:
        """The weights by transformers' names, as a machine holds them."""

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | os.PathLike[str] = "embedded",
        *,
        hardware: HardwareLike = "fp32",
        lamp: LAMP | Iterable[LAMP] | None = None,
    ) -> Self:
        """A trained model.

        Parameters
        ----------
        path_or_name : str or path-like
            A transformers directory, a GGUF file, a name on the Hugging Face hub, ``"embedded"``,
            or a name in :data:`lamp.checkpoints.PACKAGED`.
        hardware : Hardware or str
            The machine.
        lamp : LAMP or iterable of LAMP, optional
            What to recompute; several are for as many places.

        Returns
        -------
        Decoder
            Of the class this is called on.

        Raises
        ------
        FileNotFoundError
            If there is no such model, or a file is missing.
        ValueError
            If the checkpoint is of another kind of model, or tensors are missing or misshapen.
        """
        source = checkpoints.directory(path_or_name)
        config = cls._configure(checkpoints.load_config(source, cls.family))
        tensors = checkpoints.load_tensors(source)
        return cls(config, tensors, hardware=hardware, lamp=lamp, source=source)

    def with_hardware(
        self, hardware: HardwareLike, lamp: LAMP | Iterable[LAMP] | None = None
    ) -> Self:
        """The same weights on another machine.

        Parameters
        ----------
        hardware : Hardware or str
            The machine.
        lamp : LAMP or iterable of LAMP, optional
            What to recompute; nothing if left out.

        Returns
        -------
        Decoder
            Shares the weights where they are held in the same format.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._set_machine(hardware, lamp)
        ours, theirs = self.hardware, other.hardware
        if (ours.weights, ours.carrier) != (theirs.weights, theirs.carrier):
            other._weights = self._load(self._tensors, self.config, theirs)
        return other

    # --- text -------------------------------------------------------------------------------------

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

    # --- forward ----------------------------------------------------------------------------------

    def logits(self, tokens: ArrayLike) -> NDArray[Any]:
        """Next-token logits at each position.

        Parameters
        ----------
        tokens : array_like of int, shape (length,) or (batch, length)
            Token numbers.

        Returns
        -------
        ndarray, shape (length, vocabulary) or (batch, length, vocabulary)
            Members of the output format of the hardware's lm_head, in its carrier.

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
        logits = np.empty((*numbers.shape, self.shape.vocabulary), self.hardware.carrier)
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

    def _forward(
        self, numbers: NDArray[np.int64], cache: Cache | None, observe: Observer | None = None
    ) -> Forward:
        """Tokens behind those of a cache, which they are added to."""
        weights = self._weights
        first = 0 if cache is None else cache.length
        work = _Work(self.hardware, self.look_ahead, self.shape, observe)
        x = work.embedded(weights, numbers, first)
        following = [*(block.norm_1 for block in weights.blocks[1:]), weights.norm]
        h = work.normed(x, weights.blocks[0].norm_1, 0, "norm_1")
        for layer, (block, after) in enumerate(zip(weights.blocks, following, strict=True)):
            machine = work.machine.derived(layer)
            heads = self._heads(linear(h, block.qkv, machine.qkv), first, machine.qkv)
            joined = work.attended(heads, machine, cache, layer)
            step = "attention_output"
            x = work.into_stream(x, joined, (block, step, block.norm_2), machine, layer)
            work.seen(step, layer, x)
            h = work.normed(x, block.norm_2, layer, "norm_2")
            h = work.activated(h, block, machine, layer)
            x = work.into_stream(x, h, (block, "mlp_down", after), machine, layer)
            work.seen("mlp_down", layer, x)
            work.seen("stream", layer + 1, x)
            last = layer + 1 == self.shape.layers
            h = work.normed(x, after, layer + 1, "final_norm" if last else "norm_1")
        if cache is not None:
            cache.length += len(numbers)
        logits = work.logits(h, weights.head)
        layers = {step: tuple(parts) for step, parts in work.recomputed.items()}
        return Forward(logits, layers, self._multiply_adds(first, len(numbers)))

    def _heads(
        self, qkv: NDArray[Any], first: int, step: Product
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Queries, keys and values, (heads, rows, d) each, of a product's rows."""
        shape = self.shape
        counts = [shape.heads, shape.key_heads, shape.key_heads]
        ends = np.cumsum(counts) * shape.dimension
        parts = np.split(qkv, ends[:-1], axis=1)
        query, key, value = (
            np.ascontiguousarray(part.reshape(len(qkv), count, -1).transpose(1, 0, 2))
            for part, count in zip(parts, counts, strict=True)
        )
        rotary = shape.rotary
        if rotary is None:
            return query, key, value
        turned = []
        for name, heads in (("query", query), ("key", key)):
            rounding = step.rounding.derived("rotary", name)
            x = fpemu.round(rotary.turned(heads, first), step.output, rounding)
            turned.append(x.astype(qkv.dtype, copy=False))
        return turned[0], turned[1], value

    def _multiply_adds(self, first: int, count: int) -> int:
        """Multiply-adds of the products for some tokens behind others."""
        shape, weights = self.shape, self._weights
        pairs = count * first + count * (count + 1) // 2
        total = weights.head.weight.size * count
        for block in weights.blocks:
            matrices = (block.qkv, block.attention_output, block.mlp_up, block.mlp_down, block.gate)
            total += count * sum(matrix.weight.size for matrix in matrices if matrix is not None)
            total += 2 * pairs * shape.heads * shape.dimension
        return int(total)

    @default_environment()
    def trace(self, tokens: ArrayLike, layer: int) -> Trace:
        """All that happens in a layer, for study.

        Parameters
        ----------
        tokens : array_like of int, shape (length,)
            Token numbers.
        layer : int
            From 0.

        Returns
        -------
        Trace

        Raises
        ------
        ValueError
            If there is no such layer, or as :meth:`forward`.
        TypeError
            If tokens are not integers.

        Examples
        --------
        >>> import lamp
        >>> model = lamp.GPT2.from_pretrained("embedded", hardware="scores-ps4")
        >>> trace = model.trace(model.encode("Now is the winter"), 2)
        >>> trace.steps["scores"].shape, bool(abs(trace.errors["scores"]).max() < 2.0)
        ((4, 5, 5), True)
        """
        if not isinstance(layer, (int, np.integer)) or not 0 <= layer < self.shape.layers:
            raise ValueError(f"layer {layer!r} is not in 0..{self.shape.layers - 1}")
        steps: dict[str, NDArray[Any]] = {}

        def observe(name: str, at: int, numbers: NDArray[Any]) -> None:
            if at == layer:
                steps[name] = numbers.copy()

        self._forward(self._check_tokens(tokens), None, observe)
        return Trace(layer, steps, self._errors(steps))

    def _errors(self, steps: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
        """Scores and probabilities less those in float64."""
        shared = self.shape.heads // self.shape.key_heads
        query, key = (steps[name].astype(np.float64) for name in ("query", "key"))
        exact = query @ np.repeat(key, shared, axis=0).transpose(0, 2, 1)
        exact /= np.sqrt(self.shape.dimension) if self.shape.scaled else 1.0
        exists = np.tri(exact.shape[1], dtype=np.bool_)
        flat = np.ascontiguousarray(exact).reshape(-1, exact.shape[1])
        lengths = np.tile(np.arange(1, exact.shape[1] + 1), exact.shape[0])
        shares = softmax(flat, lengths, Function(fpemu.formats.float64)).reshape(exact.shape)
        return {
            "scores": np.where(exists, steps["scores"] - exact, 0.0),
            "probabilities": steps["probabilities"] - shares,
        }

    @default_environment()
    def depth_map(self, tokens: ArrayLike, *, digits: int | None = None) -> DepthMap:
        """How far the residual stream is from that of the same weights, layer after layer.

        Parameters
        ----------
        tokens : array_like of int, shape (length,)
            Token numbers.
        digits : int, optional
            Compare with mpmath in so many decimal digits, which a tiny model alone has time for;
            left out, with float64.

        Returns
        -------
        DepthMap

        Raises
        ------
        ValueError
            As :meth:`forward`.
        TypeError
            If tokens are not integers.

        Examples
        --------
        >>> import lamp
        >>> model = lamp.GPT2.from_pretrained("embedded", hardware="bf16")
        >>> errors = model.depth_map(model.encode("Now is the winter")).relative
        >>> errors.shape, bool(errors.max() < 0.1)
        ((7, 5), True)
        """
        numbers = self._check_tokens(tokens)
        exact = self.with_hardware("fp64")
        expected: Any = exact._streams(numbers)
        own: Any = self._streams(numbers)
        if digits is not None:
            expected = streams(exact._weights, self.shape, numbers.tolist(), digits)
            with mpmath.workdps(digits):
                difference = (own.astype(object) - expected).astype(np.float64)
            expected = expected.astype(np.float64)
        else:
            difference = own - expected
        errors, sizes = (np.sqrt(rows.total(np.square(x)))[..., 0] for x in (difference, expected))
        return DepthMap(errors, sizes)

    def _streams(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        found: list[NDArray[np.float64]] = []

        def observe(name: str, at: int, x: NDArray[Any]) -> None:
            if name == "stream" and at == len(found):
                found.append(x.astype(np.float64))

        self._forward(numbers, None, observe)
        return np.stack(found)

    def stream(
        self,
        tokens: ArrayLike,
        count: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: ArrayLike = (),
    ) -> Iterator[int]:
        r"""Continue a text and give each token as soon as it is chosen.

        Parameters
        ----------
        tokens, count, temperature, top_k, top_p, seed, stop
            As :meth:`generate`, and checked before the first token is asked for.

        Returns
        -------
        iterator of int
            The tokens behind the beginning; one of `stop`, if it comes, is the last.

        Raises
        ------
        ValueError, TypeError
            As :meth:`generate`; for a logit that is NaN when its token is asked for.

        Examples
        --------
        >>> import lamp
        >>> model = lamp.GPT2.from_pretrained("embedded")
        >>> for token in model.stream(model.encode("ROMEO.\nO, she doth"), 4):
        ...     print(model.decode([token]), end="|")
         not| know| her|,|
        """
        sampler = Sampler(temperature, top_k, top_p, seed)
        text = self._check_tokens(tokens)
        if not isinstance(count, (int, np.integer)) or count < 0:
            raise ValueError(f"count must be an integer that is not negative, not {count!r}")
        total = len(text) + int(count)
        if total > self.shape.positions:
            raise ValueError(
                f"{len(text)} tokens and {count} more are beyond the model's "
                f"{self.shape.positions} positions"
            )
        return self._stream(text, total, sampler, self._check_stop(stop))

    def _stream(
        self, text: NDArray[np.int64], total: int, sampler: Sampler, stop: frozenset[int]
    ) -> Iterator[int]:
        cache = None
        if self.hardware.is_causal and self.look_ahead.is_causal:
            cache = Cache(self.shape, self.hardware.carrier, total)
        while len(text) < total:
            unread = text if cache is None else text[cache.length :]
            with default_environment():  # not while the caller has the token
                token = sampler.draw(self._forward(unread, cache).logits[-1])
            text = np.append(text, token)
            yield token
            if token in stop:
                return

    def generate(
        self,
        tokens: ArrayLike,
        count: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: ArrayLike = (),
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
        stop : array_like of int
            Tokens that end the text, such as the tokenizer's ``eos_token_id``: the first of them
            that is chosen is the last token.

        Returns
        -------
        ndarray of int64, shape (length + count,) or shorter
            Beginning and continuation.

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
        added = self.stream(
            tokens, count, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
        )
        return np.concatenate([np.asarray(tokens, np.int64), np.fromiter(added, np.int64)])

    # --- checks -----------------------------------------------------------------------------------

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
        if length > self.shape.positions:
            raise ValueError(
                f"{length} tokens are more than the model's {self.shape.positions} positions"
            )
        return self._check_numbers(numbers)

    def _check_stop(self, stop: ArrayLike) -> frozenset[int]:
        numbers = np.atleast_1d(np.asarray(stop))
        if not numbers.size:
            return frozenset()
        try:
            return frozenset(self._check_numbers(numbers).tolist())
        except (ValueError, TypeError) as error:
            raise type(error)(f"stop: {error}") from error

    def _check_numbers(self, numbers: NDArray[Any]) -> NDArray[np.int64]:
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"tokens must be integers, not {numbers.dtype}")
        outside = (numbers < 0) | (numbers >= self.shape.vocabulary)
        if outside.any():
            index = tuple(np.argwhere(outside)[0].tolist())
            row = f" of row {index[0]}" if len(index) == 2 else ""
            position = f" at position {index[-1]}{row}" if index else ""
            raise ValueError(
                f"token {numbers[index]}{position} is not in 0..{self.shape.vocabulary - 1}"
            )
        return numbers.astype(np.int64)


class _Work:
    """The steps of one forward pass, and what is recomputed in them."""

    def __init__(
        self, machine: Hardware, look_ahead: LookAhead, shape: Shape, observe: Observer | None
    ) -> None:
        self.machine, self._look_ahead, self._shape = machine, look_ahead, shape
        self._observe = observe
        self.recomputed: dict[str, list[Recomputation]] = {}

    def seen(self, name: str, layer: int, numbers: NDArray[Any]) -> None:
        """Show numbers to the observer."""
        if self._observe is not None:
            self._observe(name, layer, numbers)

    def _count(self, step: str, found: Recomputation) -> None:
        self.recomputed.setdefault(step, []).append(found)

    def embedded(self, weights: Weights, numbers: NDArray[np.int64], first: int) -> NDArray[Any]:
        """The stream before the first layer."""
        x = weights.tokens[numbers]
        if weights.positions is None:
            x = np.asarray(_rounded_sum(x, self.machine.embedding))
        else:
            positions = weights.positions[first : first + len(numbers)]
            x = add(x, positions, self.machine.embedding)
        self.seen("stream", 0, x)
        return x

    def normed(self, x: NDArray[Any], parameters: Norm, layer: int, name: str) -> NDArray[Any]:
        """The stream through a norm."""
        machine = self.machine.derived(layer)
        h = norm(x, parameters, self._shape.epsilon, machine.norm)
        self.seen(name, layer, h)
        return h

    def attended(
        self,
        heads: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
        machine: Hardware,
        cache: Cache | None,
        layer: int,
    ) -> NDArray[Any]:
        """What the heads give, side by side."""
        query, key, value = heads
        for name, numbers in zip(("query", "key", "value"), heads, strict=True):
            self.seen(name, layer, numbers)
        if cache is not None:
            key, value = cache.extended(layer, key, value)
        observe = self._observe
        output, found = attention(
            query,
            key,
            value,
            hardware=machine,
            lamp=self._look_ahead.softmax,
            layer=layer,
            scaled=self._shape.scaled,
            observe=None if observe is None else lambda name, x: observe(name, layer, x),
        )
        if self._look_ahead.softmax is not None:
            self._count("scores", found)
        joined = output.transpose(1, 0, 2).reshape(query.shape[1], -1)
        self.seen("heads", layer, joined)
        return joined

    def into_stream(
        self,
        x: NDArray[Any],
        h: NDArray[Any],
        where: tuple[Block, str, Norm],
        machine: Hardware,
        layer: int,
    ) -> NDArray[Any]:
        """The stream plus a product, whose components the norm behind it decides about."""
        block, name, following = where
        matrix, step = getattr(block, name), getattr(machine, name)
        settings, twin = self._look_ahead.norm, machine.recomputed
        if settings is None:
            return add(x, linear(h, matrix, step), machine.residual)
        low, high, beyond = _both(h, matrix, step, twin)
        low = add(x, low, machine.residual)
        beyond |= overflowed(low, machine.residual.output)
        high = add(x, high, Sum(twin.output, twin.rounding))
        np.copyto(low, high, where=beyond)
        kind = LayerNorm if following.centred else RMSNorm
        sensitivity = kind(following.weight, epsilon=self._shape.epsilon).sensitivity(low, 2)
        return self._recomputed(
            (low, high, beyond), settings, (h, matrix), name, layer, sensitivity=sensitivity
        )

    def activated(
        self, h: NDArray[Any], block: Block, machine: Hardware, layer: int
    ) -> NDArray[Any]:
        """What the feed-forward layer makes of the normed stream, before it goes down."""
        settings, twin, step = self._look_ahead.activation, machine.recomputed, machine.mlp_up
        gated, mended = None, 0
        matrix = block.mlp_up if block.gate is None else block.gate
        if block.gate is not None:
            gated, mended = _mended(h, block.mlp_up, step, None if settings is None else twin)
        if settings is None:
            y = linear(h, matrix, step)
        else:
            y, high, beyond = _both(h, matrix, step, twin)
            np.copyto(y, high, where=beyond)
            slope = activations.activation(self._shape.activation).slope
            sensitivity = (
                np.abs(rows.mapped(slope, y.astype(np.float64))) * block.mlp_down.row_norms
            )
            if gated is not None:
                sensitivity *= np.abs(gated)
            y = self._recomputed(
                (y, high, beyond),
                settings,
                (h, matrix),
                "mlp_up",
                layer,
                sensitivity=sensitivity,
                besides=mended,
            )
        self.seen("mlp_up", layer, y)
        out = activation(y, self._shape.activation, machine.activation)
        if gated is not None:
            f = machine.activation
            out = np.asarray(fpemu.multiply(out, gated, f.output, f.rounding)).astype(h.dtype)
        self.seen("activation", layer, out)
        return out

    def logits(self, h: NDArray[Any], head: Matrix) -> NDArray[Any]:
        """The logits, those recomputed that their probabilities ask for."""
        step, settings = self.machine.lm_head, self._look_ahead.logits
        if settings is None:
            return linear(h, head, step)
        low, high, beyond = _both(h, head, step, self.machine.recomputed)
        np.copyto(low, high, where=beyond)
        lengths = np.full(len(low), low.shape[1], np.int64)
        shares = softmax(low, lengths, Function(self.machine.recomputed.output))
        return self._recomputed(
            (low, high, beyond), settings, (h, head), "lm_head", self._shape.layers, shares=shares
        )

    def _recomputed(
        self,
        parts: tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]],
        settings: LAMP,
        factors: tuple[NDArray[Any], Matrix],
        name: str,
        layer: int,
        *,
        shares: NDArray[Any] | None = None,
        sensitivity: NDArray[Any] | None = None,
        besides: int = 0,
    ) -> NDArray[Any]:
        """Components of a product, with those replaced that a rule takes; `besides` count, too."""
        (low, high, beyond), (h, matrix) = parts, factors
        step = getattr(self.machine, name)
        weights: Any = None
        if settings.weights == "abs":
            weights = np.abs(low)
        elif settings.weights != "one":
            operands = left_operand(h, step), matrix.operand(step, len(h))
            weights = error_weights(settings.weights, (h, matrix.weight), operands, step)
        stream = layer + _STREAMS[name] * _STREAM_STEP
        mask = replace_selected(
            low,
            high,
            beyond,
            settings,
            probabilities=shares,
            sensitivity=sensitivity,
            weights=weights,
            stream=stream,
        )
        selected = int(np.count_nonzero(mask)) + besides
        self._count(name, Recomputation(selected, mask.size, matrix.weight.shape[0]))
        self.seen(f"{name}_mask", layer, mask)
        return low


def _both(
    h: NDArray[Any], matrix: Matrix, step: Product, twin: Product
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """A product as its step computes it, in the high precision, and where the step overflowed."""
    beyond = np.zeros((len(h), matrix.weight.shape[1]), np.bool_)
    return linear(h, matrix, step, beyond), linear(h, matrix, twin), beyond


def _mended(
    h: NDArray[Any], matrix: Matrix, step: Product, twin: Product | None
) -> tuple[NDArray[Any], int]:
    """A product, and how many components overflowed and are of the high precision, if there is."""
    if twin is None:
        return linear(h, matrix, step), 0
    beyond = np.zeros((len(h), matrix.weight.shape[1]), np.bool_)
    low = linear(h, matrix, step, beyond)
    if beyond.any():
        np.copyto(low, linear(h, matrix, twin), where=beyond)
    return low, int(np.count_nonzero(beyond))


def _rounded_sum(x: NDArray[Any], step: Sum) -> Any:
    """Token embeddings to which nothing is added."""
    return fpemu.round(x, step.output, step.rounding).astype(x.dtype, copy=False)
