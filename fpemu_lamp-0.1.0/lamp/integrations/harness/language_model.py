"""A decoder as a language model of lm-evaluation-harness, registered there as ``lamp``.

Requests are answered one by one, as a machine is simulated: sizes of batches change nothing.  They
are sorted by their tokens, and what one shares with the one before it, such as the question in
front of a choice or the examples in front of a question, is computed once.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from numpy.typing import NDArray
from tqdm import tqdm

from lamp._kernels import rows
from lamp.evaluation import Setting, special_tokens
from lamp.integrations.loading import from_pretrained
from lamp.lookahead import LAMP
from lamp.models import Continuation, Decoder, Reading

__all__ = ["LanguageModel", "Listener"]

_Item = TypeVar("_Item")
_MOST_GENERATED: Final = 256  # tokens, as in the harness
_SAMPLING: Final = ("temperature", "top_k", "top_p")
_WITHOUT_EFFECT: Final = ("do_sample", "until", "max_gen_toks")
"""Options of generation that are read beside those of sampling."""


@register_model("lamp")
class LanguageModel(TemplateLM):
    """A decoder on a machine, as the harness asks it.

    Texts begin with the tokens that the model's tokenizer puts in front of them; where a context is
    empty, the token that begins a text stands for it, or else the one that ends it.

    Parameters
    ----------
    model : Decoder or str
        The model, or what :func:`lamp.from_pretrained` takes.
    hardware : Hardware or str, optional
        The machine; a string may have rules behind it, joined by ``+``.  By default a model that is
        loaded runs on ``"fp32"``, and a given one stays on its machine with its rules.
    lamp : str or iterable of LAMP
        More rules of look-ahead, joined by ``+`` in a string; ``"none"`` for none.
    pretrained : str, optional
        Another name of `model`, the harness's own.
    max_length : int, optional
        The number of tokens that the model reads at once; by default its positions.
    progress : bool or callable
        Whether bars are shown on a terminal; or a function to call with the share of the requests
        of a kind that is done.
    batch_size, max_batch_size, device : object
        Are given by the harness, and not used.

    Raises
    ------
    ValueError, FileNotFoundError
        If the model, the machine or a rule is unknown, or the model does not continue texts.
    """

    def __init__(
        self,
        model: Decoder | str = "embedded",
        hardware: Any = None,
        lamp: str | Iterable[LAMP] = "none",
        *,
        pretrained: str | None = None,
        max_length: int | None = None,
        progress: bool | Callable[[float], None] = True,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        found: Any = model if pretrained is None else pretrained
        if isinstance(found, str):
            setting = _setting(hardware or "fp32", lamp)
            found = from_pretrained(found, hardware=setting.hardware, lamp=setting.lamp)
        elif hardware is not None or lamp != "none":
            setting = _setting(hardware or found.hardware, lamp)
            found = found.with_hardware(setting.hardware, setting.lamp)
        if not found.continues_texts:
            raise ValueError(
                f"tasks need a decoder, which continues a text; {found.family} is an encoder or "
                "has one"
            )
        self.decoder: Decoder = found
        positions = self.decoder.shape.positions
        if max_length is not None and not 1 <= max_length <= positions:
            raise ValueError(f"max_length must lie in 1..{positions}, not {max_length}")
        self.max_length = positions if max_length is None else int(max_length)
        self.begins, _ = special_tokens(self.decoder)
        self.tokenizer = self.decoder.tokenizer
        self._quiet = None if progress is True else True  # None: bars are for terminals
        self._report = progress if callable(progress) else lambda share: None
        self.not_finite = 0
        """The number of tokens whose logits hold NaN or infinity; their probability is 0."""
        self._asked = hashlib.sha256()

    @property
    def asked(self) -> str:
        """The SHA-256 of the tokens and options of all requests."""
        return self._asked.hexdigest()

    def _note(self, *request: Any) -> None:
        self._asked.update(repr(request).encode())

    # --- tokens -----------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        ends = (getattr(self.tokenizer, "eos_token_id", None), *self.decoder.end_tokens)
        return next((int(end) for end in ends if end is not None), 0)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context."""
        begin = getattr(self.tokenizer, "bos_token_id", None)
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer, for the harness's cache of requests."""
        return str(self.decoder._source).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The tokens of a text, with those that begin one unless it has them or it is said."""
        plain: list[int] = self.decoder.encode(string, add_special_tokens=False).tolist()
        begins = list(self.begins)
        if add_special_tokens is None:
            add_special_tokens = plain[: len(begins)] != begins
        return [*begins, *plain] if add_special_tokens else plain

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation in the model's chat template."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    # --- what the harness asks --------------------------------------------------------------------

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """The same of texts; bars are for terminals."""
        quiet = disable_tqdm or bool(self._quiet) or not sys.stderr.isatty()
        found: list[tuple[float, bool]] = super().loglikelihood(requests, quiet)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **how: Any
    ) -> list[tuple[float, bool]]:
        """The logarithms of the probabilities of continuations, and whether each is the likeliest.

        Requests of the same tokens stand together, and go through the model once.
        """
        pairs = [self._pair(context, wanted) for _, context, wanted in requests]
        self._note(*pairs)
        found: dict[int, tuple[float, bool]] = {}
        for index, answer in self._answers(pairs):
            found[index] = answer
            if requests[index][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[index][0], answer)
        return [found[index] for index in range(len(requests))]

    def _pair(self, context: Sequence[int], wanted: Sequence[int]) -> tuple[list[int], list[int]]:
        """What the model reads, and the last of the tokens that it is to give behind it.

        It reads the last tokens alone if they are too many, and never none.
        """
        whole = [*(context or [self.prefix_token_id]), *wanted]
        return whole[-(self.max_length + 1) : -1], list(wanted[-self.max_length :])

    def _answers(
        self, pairs: Sequence[tuple[list[int], list[int]]]
    ) -> Iterable[tuple[int, tuple[float, bool]]]:
        """The answers to pairs and their places, as they come."""
        reading = Reading(self.decoder, max((len(read) for read, _ in pairs), default=0))
        places: dict[tuple[int, ...], list[int]] = {}
        for index, (read, _) in enumerate(pairs):
            places.setdefault(tuple(read), []).append(index)
        for tokens in self._followed(sorted(places)):
            most = max(len(pairs[index][1]) for index in places[tokens])
            logits = reading.logits(tokens, most) if most else np.empty((0, 0))
            for index in places[tokens]:
                yield index, self._score(logits, pairs[index][1])

    def _followed(self, items: Sequence[_Item]) -> Iterator[_Item]:
        """Items with a bar; what share of them is done is reported."""
        for done, item in enumerate(tqdm(items, disable=self._quiet), 1):
            yield item
            self._report(done / len(items))

    def _score(self, logits: NDArray[Any], wanted: Sequence[int]) -> tuple[float, bool]:
        if not wanted:
            return 0.0, True
        own = logits[-len(wanted) :].astype(np.float64)
        finite = np.isfinite(own.max(axis=1))  # NaN if one of them is
        self.not_finite += int(np.count_nonzero(~finite))
        if not finite.all():
            return -np.inf, False
        shifted = own - own.max(axis=1, keepdims=True)
        losses = np.log(rows.total(rows.exp(shifted)))[:, 0]
        chosen = shifted[np.arange(len(wanted)), wanted] - losses
        return float(chosen.sum()), bool((own.argmax(axis=1) == wanted).all())

    def loglikelihood_rolling(self, requests: list[Any], **how: Any) -> list[float]:
        """The logarithms of the probabilities of whole texts, in windows that share one token."""
        parts: list[list[tuple[None, list[int], list[int]]]] = []
        for request in requests:
            (text,) = request.args
            tokens = self.tok_encode(text, add_special_tokens=False)
            windows = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            parts.append([(None, *make_disjoint_window(window)) for window in windows])
        answers = iter(self._loglikelihood_tokens([window for part in parts for window in part]))
        found = [sum(value for value, _ in itertools.islice(answers, len(part))) for part in parts]
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return found

    def generate_until(self, requests: list[Any], **how: Any) -> list[str]:
        """The continuations of texts, up to a text that ends them; equal requests are done once."""
        found, known = [], dict[str, str]()
        for request in self._followed(requests):
            context, options = request.args
            asked = repr(request.args)
            if asked not in known:
                known[asked] = self._continued(context, dict(options))
            found.append(known[asked])
            self.cache_hook.add_partial("generate_until", request.args, found[-1])
        return found

    def _continued(self, context: str, options: dict[str, Any]) -> str:
        unknown = sorted(set(options) - {*_SAMPLING, *_WITHOUT_EFFECT})
        if unknown:
            raise ValueError(f"options of generation that are not implemented: {unknown}")
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else [each for each in until if each]
        count = min(int(options.get("max_gen_toks", _MOST_GENERATED)), self.max_length - 1)
        sampling = {name: options[name] for name in _SAMPLING if options.get(name) is not None}
        if not options.get("do_sample"):
            sampling = {}
        tokens = self.tok_encode(context)[-(self.max_length - count) :] or [self.prefix_token_id]
        self._note(tokens, count, until, sorted(sampling.items()))
        return self._text(tokens, count, until, sampling)

    def _text(
        self, tokens: list[int], count: int, until: list[str], sampling: dict[str, Any]
    ) -> str:
        """The continuation of tokens."""
        text = Continuation(self.decoder, tokens, self.decoder.end_tokens, until)
        stream = self.decoder.stream(tokens, count, stop=text.stop, **sampling)
        return "".join(text.pieces(stream))


class Listener(LanguageModel):
    """A model that hears what the harness asks, and answers nothing; it needs no weights."""

    def _answers(
        self, pairs: Sequence[tuple[list[int], list[int]]]
    ) -> Iterable[tuple[int, tuple[float, bool]]]:
        return ((index, (0.0, False)) for index in range(len(pairs)))

    def _text(self, *request: Any) -> str:
        return ""


def _setting(hardware: Any, rules: str | Iterable[LAMP]) -> Setting:
    """A machine and rules, from texts or from what they stand for."""
    given = Setting.parse(hardware) if isinstance(hardware, str) else Setting(hardware)
    if isinstance(rules, str):
        rules = [LAMP.parse(each) for each in rules.split("+") if each != "none"]
    return Setting(given.hardware, (*given.lamp, *rules))
