"""The subcommand `lamp generate`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpemu._printing import echo
from fpemu.cli.options import usage
from lamp.cli import options

if TYPE_CHECKING:
    from lamp.models import Decoder

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""The decoding of the bytes of half a character."""


def generate(
    prompt: Annotated[
        str,
        typer.Option(
            help="The beginning of the text, taken as it is, or '-' for standard input.",
            metavar="TEXT|-",
        ),
    ],
    model: options.Model = "embedded",
    hardware: options.Machine = "fp32",
    lamp: options.Rules = None,
    tokens: Annotated[int, typer.Option(min=1, help="Add at most this many tokens.")] = 64,
    temperature: Annotated[
        float,
        typer.Option(
            help="Divide the logits by this.  At 0, take the most probable token each time."
        ),
    ] = 0.0,
    top_k: Annotated[
        int | None, typer.Option(help="Draw from this many most probable tokens only.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw from the fewest most probable tokens whose probabilities add up to this."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the draws.")] = 0,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Put the prompt into the model's chat template, and print the answer alone.",
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Continue a text token by token."""
    from lamp import integrations
    from lamp.cli import outputs
    from lamp.models import Sampler

    setting = options.setting(hardware, lamp or (), ("--hardware", "--lamp"))
    with usage():
        Sampler(temperature, top_k, top_p, seed)
    for name, value in (("--top-k", top_k), ("--top-p", top_p)):
        if value is not None and temperature == 0.0:
            message = f"{value} has no effect at temperature 0: give a --temperature above it"
            raise typer.BadParameter(message, param_hint=name)
    network = integrations.from_pretrained(model, hardware=setting.hardware, lamp=setting.lamp)
    text = _Continued.of(network, prompt, chat=chat)
    with usage("--tokens"):
        stream = network.stream(
            text.beginning,
            tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=text.stop,
        )
    start = time.perf_counter()
    pieces = text.pieces(stream)
    if not json:
        _print(pieces, "" if chat else text.prompt)
        _remark(text, time.perf_counter() - start)
        return
    continuation = "".join(pieces)
    seconds = time.perf_counter() - start
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    outputs.print_json(
        {
            "model": outputs.model_record(model, network),
            **setting.record(),
            "prompt": text.prompt,
            "chat": chat,
            "prompt_tokens": text.beginning,
            "text": continuation,
            "tokens": text.added,
            "ended": text.ended,
            "sampling": sampling,
            "seconds": seconds,
            "tokens_per_second": len(text.added) / seconds,
        }
    )


@dataclass
class _Continued:
    """A text and its continuation by a model."""

    model: Decoder
    prompt: str
    beginning: list[int]
    stop: list[int]
    added: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, model: Decoder, prompt: str, *, chat: bool) -> _Continued:
        """A prompt, in the model's chat template if wanted."""
        from lamp.evaluation import STANDARD_INPUT, read_standard_input

        text = read_standard_input() if prompt == STANDARD_INPUT else prompt
        # A template writes the token that begins a text itself.
        whole = _in_chat(model.tokenizer, text) if chat else text
        beginning = model.encode(whole, add_special_tokens=not chat)
        if not len(beginning):
            raise typer.BadParameter(f"{text!r} has no tokens to begin with", param_hint="--prompt")
        return cls(model, text, beginning.tolist(), list(model.end_tokens))

    @property
    def ended(self) -> str:
        """Why the text ends: the model has ended it, or the number of tokens is reached."""
        return "end of text" if self.added and self.added[-1] in self.stop else "count"

    def pieces(self, stream: Iterator[int]) -> Iterator[str]:
        """The text of the tokens as they come, in whole characters."""
        tokens = list(self.beginning)
        shown = self.model.decode(tokens)
        for token in stream:
            self.added.append(token)
            if token in self.stop:
                continue  # it is the last one, and no text
            tokens.append(token)
            text = self.model.decode(tokens)
            if not text.endswith(_UNFINISHED):
                yield text[len(shown) :]
                shown = text
        yield self.model.decode(tokens)[len(shown) :]


def _in_chat(tokenizer: Any, prompt: str) -> str:
    """A prompt as a user's message, and the beginning of the answer."""
    if not getattr(tokenizer, "chat_template", None):
        message = "the model's tokenizer has no chat template: leave --chat out"
        raise typer.BadParameter(message, param_hint="--chat")
    messages = [{"role": "user", "content": prompt}]
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program, and raises what it likes
        raise ValueError(f"the model's chat template fails: {error!r}") from error
    return text


def _print(pieces: Iterable[str], prompt: str) -> None:
    """Print text as it comes, cleaned on a terminal; end the last line whatever happens."""
    show = echo if sys.stdout.isatty() else typer.echo
    last = prompt
    show(prompt, nl=False)
    try:
        for piece in pieces:
            show(piece, nl=False)
            last = piece or last
    finally:
        if not last.endswith("\n"):
            echo()


def _remark(text: _Continued, seconds: float) -> None:
    """Print the speed and the reason of the end, on a terminal."""
    if sys.stderr.isatty():
        count = len(text.added)
        reason = ", ended by the model" if text.ended == "end of text" else ""
        typer.secho(f"{count} tokens, {count / seconds:.1f} a second{reason}", dim=True, err=True)
