"""The subcommand `lamp generate`."""

from __future__ import annotations

import contextlib
import json as json_format
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpemu._printing import echo
from fpemu.cli.options import number, usage
from lamp.cli import options

if TYPE_CHECKING:
    from lamp.models import Continuation

_REASONS = {"end of text": ", ended by the model", "stop": ", ended by --stop"}


def generate(
    prompt: Annotated[
        str | None,
        typer.Option(
            help="The beginning of the text, taken as it is, or '-' for standard input.",
            metavar="TEXT|-",
        ),
    ] = None,
    messages: Annotated[
        Path | None,
        typer.Option(
            help="A conversation in place of a prompt, for the model's chat template: a JSON file "
            "of messages, each with a role and a content.",
            metavar="FILE.json",
        ),
    ] = None,
    model: options.Model = "embedded",
    hardware: options.Machine = "fp32",
    lamp: options.Rules = None,
    tokens: Annotated[int, number(int, "Add at most this many tokens.", least=1)] = 64,
    temperature: Annotated[
        float,
        number(
            float,
            "Divide the logits by this.  At 0, take the most probable token each time.",
            least=0,
        ),
    ] = 0.0,
    top_k: Annotated[
        int | None, number(int, "Draw from this many most probable tokens only.", least=1)
    ] = None,
    top_p: Annotated[
        float | None,
        number(
            float,
            "Draw from the fewest most probable tokens whose probabilities add up to this.",
            above=0,
            most=1,
        ),
    ] = None,
    seed: Annotated[int, number(int, "The seed of the draws.", least=0)] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="End the text where this comes; it is not printed.  May be given several times.  "
            "A text also ends with the tokens that the model ends it with.",
            metavar="TEXT",
        ),
    ] = None,
    special_tokens: Annotated[
        bool,
        typer.Option(
            "--special-tokens/--no-special-tokens",
            help="Put the tokens around the prompt that the model's tokenizer puts around a text, "
            "if any.  A chat template writes its own.",
        ),
    ] = True,
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
    from lamp.evaluation import Clock
    from lamp.models import Continuation

    setting = options.setting(hardware, lamp or (), ("--hardware", "--lamp"))
    for name, value in (("--top-k", top_k), ("--top-p", top_p)):
        if value is not None and temperature == 0.0:
            message = f"{value} has no effect at temperature 0: give a --temperature above it"
            raise typer.BadParameter(message, param_hint=name)
    if stop and "" in stop:
        raise typer.BadParameter("an empty text is everywhere", param_hint="--stop")
    given, conversation = _prompt(prompt, messages)
    network = integrations.from_pretrained(model, hardware=setting.hardware, lamp=setting.lamp)
    in_chat = chat or messages is not None
    whole = given
    if in_chat:
        option = "--chat" if messages is None else "--messages"
        whole = _in_chat(network.tokenizer, conversation, option)
    # A template writes the token that begins a text itself.
    beginning = network.encode(whole, add_special_tokens=special_tokens and not in_chat)
    if not len(beginning):
        raise typer.BadParameter(f"{given!r} has no tokens to begin with", param_hint="--prompt")
    text = Continuation(network, beginning.tolist(), network.end_tokens, stop or ())
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
    clock, pieces = Clock(), text.pieces(stream)
    if not json:
        with clock.running():
            _print(pieces, "" if in_chat else given)
        _remark(text, clock.seconds)
        return
    with clock.running():
        continuation = "".join(pieces)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    outputs.print_json(
        {
            "model": outputs.model_record(model, network),
            **setting.record(),
            "prompt": given if messages is None else conversation,
            "chat": in_chat,
            "prompt_tokens": text.beginning,
            "text": continuation,
            "tokens": text.added,
            "ended": text.ended,
            "stop": stop or [],
            "sampling": sampling,
            "seconds": clock.seconds,
            "tokens_per_second": len(text.added) / clock.seconds,
        }
    )


def _prompt(prompt: str | None, messages: Path | None) -> tuple[str, list[Any]]:
    """The beginning of the text, or the messages of a conversation."""
    from lamp.evaluation import STANDARD_INPUT, read_standard_input

    if (prompt is None) == (messages is None):
        hint = "--prompt, --messages"
        raise typer.BadParameter("give one of them", param_hint=hint)
    if messages is not None:
        return "", _conversation(messages)
    text = str(read_standard_input() if prompt == STANDARD_INPUT else prompt)
    return text, [{"role": "user", "content": text}]


def _conversation(path: Path) -> list[Any]:
    """The messages in a JSON file."""
    from lamp._files import Stream

    with contextlib.closing(Stream.open(path)) as stream:
        text = stream.head()
    try:
        found = json_format.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    found = found.get("messages") if isinstance(found, dict) else found
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path} is no list of messages, nor an object with one as 'messages'")
    for place, message in enumerate(found):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or "content" not in message:
            raise ValueError(f"{path}: message {place} has no 'role' and 'content'")
    return found


def _in_chat(tokenizer: Any, messages: list[Any], option: str) -> str:
    """Messages in the model's chat template, and the beginning of the answer."""
    if not getattr(tokenizer, "chat_template", None):
        message = "the model's tokenizer has no chat template: give a --prompt without --chat"
        raise typer.BadParameter(message, param_hint=option)
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


def _remark(text: Continuation, seconds: float) -> None:
    """Print the speed and the reason of the end, on a terminal."""
    if sys.stderr.isatty():
        count = len(text.added)
        reason = _REASONS.get(text.ended, "")
        typer.secho(f"{count} tokens, {count / seconds:.1f} a second{reason}", dim=True, err=True)
