"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import typer

from lamp.hardware import Hardware
from lamp.machines import hardware
from lamp.report import LETTERS
from lamp.rules import LAMP
from lamp.runs import Setting

Parsed = TypeVar("Parsed")


@contextmanager
def usage(option: str | None = None) -> Iterator[None]:
    """What is wrong in here is bad usage: of an option, if one is named."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _parser(parse: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """A parser for an option; what a TOML file says wrong is a failure, not bad usage."""

    def parsed(text: str) -> Parsed:
        if ".toml" in text:
            return parse(text)
        with usage():
            return parse(text)

    return parsed


def _hardware(text: str) -> Hardware:
    return hardware(text)


def check_machines(settings: list[Setting]) -> None:
    """There are several, and letters for all."""
    if not 2 <= len(settings) <= len(LETTERS):
        names = " ".join(map(str, settings))
        message = f"expected 2 to {len(LETTERS)} machines, not {len(settings)}: {names}"
        raise typer.BadParameter(message, param_hint="MACHINE")


def check_source(text: str | None, token_ids: str | None) -> None:
    """A text and token numbers are not both given."""
    if text is not None and token_ids is not None:
        hint = "--text, --token-ids"
        raise typer.BadParameter("give a text or token numbers, not both", param_hint=hint)


def shuffle_seed(shuffle: bool, seed: int | None) -> int | None:
    """The seed that tokens are shuffled with; None if they are not."""
    if seed is not None and not shuffle:
        message = f"{seed} is the seed of --shuffle, which is not given"
        raise typer.BadParameter(message, param_hint="--seed")
    return (seed or 0) if shuffle else None


Model = Annotated[
    str,
    typer.Option(
        help="A transformers directory, a GGUF file, a name on the Hugging Face hub, 'embedded', "
        "or a model from a Python package: smollm2, mgm.",
        metavar="NAME|DIR|FILE",
    ),
]
Machine = Annotated[
    Hardware,
    typer.Option(
        help="The machine: a name that 'lamp hardware list' shows, or a file that ends in .toml.",
        parser=_parser(_hardware),
        metavar="NAME|FILE.toml",
    ),
]
Reference = Annotated[
    Hardware,
    typer.Option(
        help="The machine to compare with.", parser=_parser(_hardware), metavar="NAME|FILE.toml"
    ),
]
# Not "tv" for short in a help text: what writes it takes that between colons for an emoji.
Rules = Annotated[
    list[LAMP] | None,
    typer.Option(
        help="What look-ahead recomputes, such as softmax:total_variation:0.01 or norm:norm:1%; "
        "may be given once for each place: softmax, norm, activation, logits.",
        parser=_parser(LAMP.parse),
        metavar="PLACE:RULE:AMOUNT",
    ),
]
Settings = Annotated[
    list[Setting],
    typer.Argument(
        help="Two machines or more: names or .toml files, each with what look-ahead recomputes on "
        "it, such as scores-ps4+softmax:total_variation:0.01.",
        parser=_parser(Setting.parse),
        metavar="MACHINE[+LAMP]",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        help="A UTF-8 text file, or '-' for standard input; left out, the held-out sample that "
        "comes with the embedded model.",
        metavar="FILE|-",
    ),
]
TokenIds = Annotated[
    str | None,
    typer.Option(
        help="Token numbers in place of a text: integers between white space, or a .npy file.",
        metavar="FILE",
    ),
]
Tokens = Annotated[int, typer.Option(min=1, help="Read so many tokens of the text, at most.")]
Length = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tokens in a window, each window being a text of its own; left out, as many as the "
        "model has positions, but at most 512.",
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="From the beginning of one window to the next: those before are context alone and "
        "compared with nothing; left out, the length.",
    ),
]
Shuffle = Annotated[
    bool, typer.Option("--shuffle", help="Shuffle the tokens: a control without any language.")
]
ShuffleSeed = Annotated[int | None, typer.Option(min=0, help="The seed of --shuffle; left out, 0.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object, numbers in full precision, for programs."),
]
