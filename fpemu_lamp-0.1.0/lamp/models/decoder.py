"""A decoder: a language model that reads and writes text on a simulated machine.

:class:`Decoder` is what all families have in common, for callers.  How a token goes through the
model is in :mod:`lamp.models.transformer`; a family (:mod:`lamp.models.gpt2`,
:mod:`lamp.models.llama`) says how its configuration and its tensors are read.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import _html
from fpemu._kernels.launching import default_environment
from lamp._kernels import rows
from lamp.lookahead import LAMP, LookAhead
from lamp.machines import Hardware, HardwareLike, hardware
from lamp.models import checkpoints
from lamp.models.cache import Cache
from lamp.models.reference import residual_streams
from lamp.models.sampling import Sampler
from lamp.models.tiles import check_rule
from lamp.models.tokens import check_numbers, check_stop, check_tokens
from lamp.models.traces import DepthMap, ResidualStreams, Trace, TracedSteps, score_errors
from lamp.models.transformer import Forward, Observer, State, forward
from lamp.models.weights import Shape, Weights

__all__ = ["Decoder"]


class Decoder(ABC):
    """A language model that runs on a simulated machine.

    Parameters
    ----------
    config : object
        The configuration of its family.
    tensors : mapping of str to ndarray
        Its weights, under transformers' names.
    hardware : Hardware or str
        The machine.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead, at most one per place.
    source : Path, optional
        The checkpoint that the tokenizer is read from.
    """

    family: ClassVar[str]
    """The model's type, by its name in transformers."""

    is_native: ClassVar[bool] = True
    """Whether the steps are those of ``lamp.models.transformer``, not of transformers."""

    continues_texts: bool = True
    """Whether the model reads one text, and says at each token what the next one is."""

    @property
    def kind(self) -> str:
        """What the model is, in words."""
        return type(self).__name__

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

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {what}" for name, what in self._facts())
        return f"<{self.kind}: {facts}>"

    def _repr_html_(self) -> str:
        return _html.facts(self.kind, self._facts())

    def _facts(self) -> Iterator[tuple[str, str]]:
        """What it is and runs on, in words."""
        shape = self.shape
        if self._source is not None:
            yield "from", self._source.name
        yield "layers", f"{shape.layers} of width {shape.width}"
        yield "heads", f"{shape.heads} of dimension {shape.dimension}"
        yield "tokens", f"{shape.vocabulary:,}, at most {shape.positions:,} of them in a text"
        yield "machine", self.hardware.name
        yield "look-ahead", ", ".join(map(str, self.look_ahead.rules)) or "none"

    def _set_machine(self, spec: HardwareLike, lamp: LAMP | Iterable[LAMP] | None) -> None:
        self.hardware: Hardware = hardware(spec)
        self.hardware.check_layers(self.shape.layers, self.kind)
        for machine in self.hardware.machines.values():
            _check_order(machine, self.shape)
        self.lamp = lamp
        self.look_ahead = LookAhead.of(lamp)
        self.look_ahead.check(self.hardware)
        self.look_ahead.check_layers(self.shape.layers, self.kind)
        for layer in range(self.shape.layers):
            place = layer, self.shape.layers
            rule = self.look_ahead.of_layer(*place).softmax
            check_rule(rule, self.hardware.of_layer(*place).attention)

    @property
    def _is_causal(self) -> bool:
        """Whether nothing that is computed for a token depends on later tokens."""
        return self.look_ahead.is_causal_on(self.hardware)

    @staticmethod
    @abstractmethod
    def _configure(config: Mapping[str, Any]) -> Any:
        """The family's configuration from the one in a checkpoint, checked."""

    @staticmethod
    @abstractmethod
    def _shape(config: Any) -> Shape:
        """The sizes in a configuration."""

    @staticmethod
    @abstractmethod
    def _load(tensors: Mapping[str, NDArray[Any]], config: Any, hardware: Hardware) -> Weights:
        """The weights as a machine holds them, from tensors under transformers' names."""

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | os.PathLike[str] = "embedded",
        *,
        hardware: HardwareLike = "fp32",
        lamp: LAMP | Iterable[LAMP] | None = None,
    ) -> Self:
        """Load a trained model.

        Parameters
        ----------
        path_or_name : str or path-like
            A transformers directory, a GGUF file, a name on the Hugging Face hub, ``"embedded"``,
            or a name in :data:`lamp.checkpoints.PACKAGED`.
        hardware : Hardware or str
            The machine.
        lamp : LAMP or iterable of LAMP, optional
            The rules of look-ahead, at most one per place.

        Returns
        -------
        Decoder
            Of the class this is called on.

        Raises
        ------
        FileNotFoundError
            If there is no such model, or a file is missing.
        ValueError
            If the checkpoint is of another type of model, or tensors are missing or misshapen.
        """
        source = checkpoints.directory(path_or_name)
        config, tensors = cls._read_config(source), checkpoints.load_tensors(source)
        return cls(config, tensors, hardware=hardware, lamp=lamp, source=source)

    @classmethod
    def _read_config(cls, source: Path) -> Any:
        """The configuration of a checkpoint."""
        config = checkpoints.load_config(source, cls.family)
        try:
            return cls._configure(config)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise ValueError(f"{source} describes no {cls.family} model: {error}") from error

    def with_hardware(
        self, hardware: HardwareLike, lamp: LAMP | Iterable[LAMP] | None = None
    ) -> Self:
        """The same model on another machine.

        Parameters
        ----------
        hardware : Hardware or str
            The machine.
        lamp : LAMP or iterable of LAMP, optional
            The rules of look-ahead; without them nothing is recomputed.

        Returns
        -------
        Decoder
            Shares the weights if both machines hold them in the same format.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._set_machine(hardware, lamp)
        if self._stored != other._stored:
            other._weights = self._load(self._tensors, self.config, other.hardware)
        return other

    @property
    def _stored(self) -> tuple[Any, ...]:
        """What the numbers of the weights depend on: the formats in each layer and behind them."""
        machine, count = self.hardware, self.shape.layers
        formats = (machine.of_layer(layer, count).weights for layer in range(count + 1))
        return machine.carrier, *formats

    def check_native(self, what: str) -> None:
        """Raise a ValueError if a model's steps are not those of ``lamp.models.transformer``.

        Parameters
        ----------
        what : str
            What follows these steps, in the plural.

        Raises
        ------
        ValueError
        """
        if not self.is_native:
            raise ValueError(
                f"{what} follow the steps of a native model, but {self!r} runs through "
                "transformers. lamp.from_pretrained loads a GPT-2 or a Llama natively; of other "
                "models, lamp.evaluate and depth_map without digits compare a machine with float64"
            )

    def notes(self) -> list[str]:
        """Say what the machine names and the model does not have, and what it does not compute.

        Returns
        -------
        list of str
            Empty for a native model, which has all steps, and computes nothing else.
        """
        return []

    # --- text -------------------------------------------------------------------------------------

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, loaded on first use; see :class:`lamp.models.Tokenizer`."""
        if self._source is None:
            raise ValueError("the model was not made from a directory: it has no tokenizer")
        return checkpoints.load_tokenizer(self._source)

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a text.

        Those of ``generation_config.json`` if it names any, else those that ``config.json`` and the
        tokenizer name; of a GGUF file, those that end a text, a turn or a message.
        """
        source, end = self._source, getattr(self.tokenizer, "eos_token_id", None)
        found = () if source is None else checkpoints.end_tokens(source, end)
        return tuple(number for number in found if 0 <= number < self.shape.vocabulary)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> NDArray[np.int64]:
        """The tokens of a text.

        Parameters
        ----------
        text : str
        add_special_tokens : bool
            Whether to add the tokens that the tokenizer puts around a text, such as the one that
            begins texts of Llama 2 and 3.

        Returns
        -------
        ndarray of int64

        Raises
        ------
        TypeError
            If `text` is not a string.
        ValueError
            If `text` is not Unicode, or the tokenizer has no tokens for it.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text is not Unicode: {error}") from error
        tokenizer = self.tokenizer
        try:
            numbers = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        except Exception as error:  # tokenizers raises plain exceptions
            raise ValueError(f"the tokenizer of {self._source} fails: {error}") from error
        return np.array(numbers, dtype=np.int64)

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
            numbers = check_numbers(numbers, self.shape.vocabulary)
        text: str = self.tokenizer.decode(np.atleast_1d(numbers).tolist())
        return text

    # --- forward pass -----------------------------------------------------------------------------

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
        numbers = check_tokens(tokens, self.shape, batch=True)
        if numbers.ndim == 1:
            return self.forward(numbers).logits
        logits = np.empty((*numbers.shape, self.shape.vocabulary), self.hardware.carrier)
        for row, place in zip(numbers, logits, strict=True):
            place[:] = self.forward(row).logits
        return logits

    @default_environment()
    def forward(self, tokens: ArrayLike) -> Forward:
        """Send a text through the model.

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
        return self._forward(check_tokens(tokens, self.shape), None)

    def _forward(
        self, numbers: NDArray[np.int64], cache: Cache | None, observer: Observer | None = None
    ) -> Forward:
        """A forward pass of the tokens behind those of a cache, which they are appended to."""
        state = State(self.shape, self.hardware, self.look_ahead, cache, observer)
        return forward(numbers, self._weights, state)

    @default_environment()
    def trace(self, tokens: ArrayLike, layer: int) -> Trace:
        """All steps of a layer in a forward pass.

        Parameters
        ----------
        tokens : array_like of int, shape (length,)
            Token numbers.
        layer : int
            The layer's number, from 0; the number of layers is what lies behind the last one.

        Returns
        -------
        Trace

        Raises
        ------
        ValueError
            If there is no such layer, or as in :meth:`forward`.
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
        if not isinstance(layer, (int, np.integer)) or not 0 <= layer <= self.shape.layers:
            raise ValueError(f"layer {layer!r} is not in 0..{self.shape.layers}")
        traced = TracedSteps(int(layer))
        self._forward(check_tokens(tokens, self.shape), None, traced)
        return Trace(traced.layer, traced.steps, self._errors(traced.steps, traced.layer))

    def _errors(
        self, steps: Mapping[str, NDArray[Any]], layer: int
    ) -> dict[str, NDArray[np.float64]]:
        """What a trace says of the errors of its steps."""
        return score_errors(steps, self.shape) if "query" in steps else {}

    @default_environment()
    def depth_map(self, tokens: ArrayLike, *, digits: int | None = None) -> DepthMap:
        """How far the residual stream is from that of the same weights, layer by layer.

        Parameters
        ----------
        tokens : array_like of int, shape (length,)
            Token numbers.
        digits : int, optional
            The reference is computed by mpmath to this number of decimal digits, which takes long
            but for tiny models; left out, in float64.

        Returns
        -------
        DepthMap

        Raises
        ------
        ValueError
            As in :meth:`forward`, or if there are fewer than 17 digits, or digits for a model of
            transformers.
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
        numbers = check_tokens(tokens, self.shape)
        if digits is not None:
            self.check_native("references by mpmath")
        double = self.with_hardware("fp64")
        expected: Any = double._residual_streams(numbers)
        found: Any = self._residual_streams(numbers)
        if digits is None:
            errors = found - expected
        else:
            expected = residual_streams(double._weights, self.shape, numbers.tolist(), digits)
            with mpmath.workdps(int(digits)):
                errors = (found.astype(object) - expected).astype(np.float64)
            expected = expected.astype(np.float64)
        return DepthMap(_norms(errors), _norms(expected))

    def _residual_streams(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The residual stream before the first layer and after each."""
        streams = ResidualStreams()
        self._forward(numbers, None, streams)
        return np.stack(streams.found)

    # --- generation -------------------------------------------------------------------------------

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
        r"""Continue a text, and give each token as soon as it is chosen.

        Parameters
        ----------
        tokens, count, temperature, top_k, top_p, seed, stop
            As in :meth:`generate`; they are checked before the first token is asked for.

        Returns
        -------
        iterator of int
            The tokens of the continuation; if one of `stop` comes, it is the last.

        Raises
        ------
        ValueError, TypeError
            As in :meth:`generate`; for a logit that is NaN when its token is asked for.

        Examples
        --------
        >>> import lamp
        >>> model = lamp.GPT2.from_pretrained("embedded")
        >>> for token in model.stream(model.encode("ROMEO.\nO, she doth"), 4):
        ...     print(model.decode([token]), end="|")
         not| know| her|,|
        """
        if not self.continues_texts:
            raise ValueError(
                f"{self!r} does not continue texts: expected a decoder with a head, which says at "
                "each token what the next one is"
            )
        sampler = Sampler(temperature, top_k, top_p, seed)
        text = check_tokens(tokens, self.shape)
        if not isinstance(count, (int, np.integer)) or count < 0:
            raise ValueError(f"count must be an integer that is not negative, not {count!r}")
        total = len(text) + int(count)
        if total > self.shape.positions:
            raise ValueError(
                f"{len(text)} tokens and {count} more are beyond the model's "
                f"{self.shape.positions} positions"
            )
        return self._stream(text, total, sampler, check_stop(stop, self.shape.vocabulary))

    def _new_cache(self, capacity: int) -> Any:
        """An empty cache of keys and values, with a `length`."""
        return Cache(self.shape, self.hardware.carrier, capacity)

    def _stream(
        self, text: NDArray[np.int64], total: int, sampler: Sampler, stop: frozenset[int]
    ) -> Iterator[int]:
        cache = self._new_cache(total) if self._is_causal else None
        while len(text) < total:
            unread = text if cache is None else text[cache.length :]
            with default_environment():  # left again before the caller has the token
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
        stochastic roundings, trees of sums over the tokens, or a rule that is not causal, such as
        the normwise one.

        Parameters
        ----------
        tokens : array_like of int, shape (length,)
            The beginning of the text.
        count : int
            The number of tokens to add.
        temperature : float
            Logits are divided by it before the softmax; at 0 the most probable token is taken, the
            first of equal ones.
        top_k : int, optional
            Draw from the k most probable tokens only.
        top_p : float, optional
            Draw from the smallest number of most probable tokens whose probabilities sum to at
            least this.
        seed : int
            Seed of the draws.
        stop : array_like of int
            Tokens that end the text, such as :attr:`end_tokens`: the first of them to be chosen is
            the last token.

        Returns
        -------
        ndarray of int64, shape (length + count,) or shorter
            The beginning and its continuation.

        Raises
        ------
        ValueError
            If there are no tokens, more in all than the model has positions, a token is not in the
            vocabulary, a parameter is out of range, or a logit is NaN; if the model does not
            continue texts.
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


def _check_order(machine: Hardware, shape: Shape) -> None:
    """Raise a ValueError if a machine's order of channels is not one of the model's."""
    order = machine.scores.order
    if isinstance(order, str):
        raise ValueError(
            f"the order of channels of {machine.name!r} is yet to be found, {order!r} on a text: "
            "see lamp.calibrated, or `lamp hardware calibrate`"
        )
    expected = shape.layers, shape.heads, shape.dimension
    if order is not None and order.shape != expected:
        of_machine, of_model = (
            f"{layers} layers, {heads} heads, {channels} channels"
            for layers, heads, channels in (order.shape, expected)
        )
        raise ValueError(
            f"{machine.name!r} has an order of channels for {of_machine}, but the model has "
            f"{of_model}"
        )


def _norms(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """2-norms along the last axis."""
    return np.sqrt(rows.total(np.square(x)))[..., 0]
