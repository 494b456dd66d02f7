"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from lamp.evaluation import HELD_OUT, Setting, setting_parts
from lamp.lookahead import LAMP
from lamp.machines import Hardware, hardware
from lamp.reports import console


@contextmanager
def usage(option: str | None = None) -> Iterator[None]:
    """What is wrong in here is bad usage: of an option, if one is named."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def machine(name: str, option: str) -> Hardware:
    """The machine that an option names; what a TOML file says wrong is a failure, not bad usage."""
    if name.endswith(".toml"):
        return hardware(name)
    with usage(option):
        return hardware(name)


def setting(name: str, rules: Iterable[str], options: tuple[str, str]) -> Setting:
    """The machine that one option names, and the rules that another says."""
    chosen = machine(name, options[0])
    with usage(options[1]):
        return Setting(chosen, [LAMP.parse(rule) for rule in rules])


def settings(texts: Sequence[str]) -> list[Setting]:
    """The machines to compare: several, and letters for all."""
    if not 2 <= len(texts) <= len(console.LETTERS):
        message = (
            f"expected 2 to {len(console.LETTERS)} machines, not {len(texts)}: {' '.join(texts)}"
        )
        raise typer.BadParameter(message, param_hint="MACHINES")
    return [setting(*setting_parts(text), ("MACHINES", "MACHINES")) for text in texts]


def check_source(text: str, token_ids: str | None) -> None:
    """A text and token numbers are not both given."""
    if text != HELD_OUT and token_ids is not None:
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
    str,
    typer.Option(
        help="The machine: a name that 'lamp hardware list' shows, or a file that ends in .toml.",
        metavar="NAME|FILE.toml",
    ),
]
Reference = Annotated[
    str, typer.Option(help="The machine to compare with.", metavar="NAME|FILE.toml")
]
# Not tv for short in help texts: what writes them takes it for an emoji between colons.
Rules = Annotated[
    list[str] | None,
    typer.Option(
        help="What look-ahead recomputes, such as softmax:total_variation:0.01 or norm:norm:1%; "
        "may be given once for each place: softmax, norm, activation, logits.",
        metavar="PLACE:RULE:AMOUNT",
    ),
]
Settings = Annotated[
    list[str],
    typer.Argument(
        help="Two machines or more: names or .toml files, each with what look-ahead recomputes on "
        "it, joined by +, such as ps4+softmax:kl:0.01.",
    ),
]
Source = Annotated[
    str,
    typer.Option(
        help="A UTF-8 text file, JSON lines (.jsonl) or a table (.parquet) with a field 'text', "
        "or '-' for standard input; 'held-out' is the sample that comes with the embedded model.",
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
