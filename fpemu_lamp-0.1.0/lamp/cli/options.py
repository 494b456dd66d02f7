"""Options that several subcommands have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fpemu.cli.options import number, usage

if TYPE_CHECKING:
    from lamp.evaluation import Setting
    from lamp.machines import Hardware

# --- what they mean -------------------------------------------------------------------------------


def machine(name: str, option: str) -> Hardware:
    """The machine that an option names; an error in a TOML file is a failure, not bad usage."""
    from lamp.machines import hardware

    if name.endswith(".toml"):
        return hardware(name)
    with usage(option):
        return hardware(name)


def setting(name: str, rules: Iterable[str], options: tuple[str, str]) -> Setting:
    """A machine and its look-ahead rules, and the options that give them."""
    from lamp.evaluation import Setting
    from lamp.lookahead import LAMP

    chosen = machine(name, options[0])
    with usage(options[1]):
        return Setting(chosen, [LAMP.parse(rule) for rule in rules])


def settings(texts: Sequence[str], least: int = 2) -> list[Setting]:
    """The machines of a comparison: at least two or so, and one letter for each."""
    from lamp.evaluation import setting_parts
    from lamp.reports import console

    most = len(console.LETTERS)
    if not least <= len(texts) <= most:
        message = f"expected {least} to {most} machines, not {len(texts)}: {' '.join(texts)}"
        raise typer.BadParameter(message, param_hint="MACHINES")
    found = [setting(*setting_parts(text), ("MACHINES", "MACHINES")) for text in texts]
    called: dict[str, Hardware] = {}
    for text, each in zip(texts, found, strict=True):
        if called.setdefault(each.hardware.name, each.hardware) != each.hardware:
            message = f"{text}: another machine is called {each.hardware.name!r}: rename one"
            raise typer.BadParameter(message, param_hint="MACHINES")
    return found


def count(tokens: str) -> int | None:
    """The number of tokens to read; None for all."""
    if tokens == "all":
        return None
    if not tokens.isdecimal() or not int(tokens):
        message = f"{tokens!r} is no number of tokens: expected a positive integer, or all"
        raise typer.BadParameter(message, param_hint="--tokens")
    return int(tokens)


# --- what they are --------------------------------------------------------------------------------

Model = Annotated[
    str,
    typer.Option(
        help="The model: 'embedded', a transformers directory, a GGUF file, a name on the Hugging "
        "Face hub, or a model from a Python package (smollm2, mgm).",
        metavar="NAME|DIR|FILE",
    ),
]
Machine = Annotated[
    str,
    typer.Option(
        help="The machine: a name from 'lamp hardware list' or a .toml file.",
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
        help="A look-ahead rule, such as softmax:total_variation:0.01 or norm:norm:1%.  Give at "
        "most one rule per place, softmax, norm, activation, logits, or several with layers=... "
        "behind all but one.",
        metavar="PLACE:RULE:AMOUNT",
    ),
]
Settings = Annotated[
    list[str],
    typer.Argument(
        help="Two or more machines: names or .toml files, each with its look-ahead rules joined "
        "by +, such as ps4+softmax:kl:0.01.",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        help="The text: a UTF-8 file, JSON (.json, .jsonl) or a table (.csv, .tsv, .parquet) with "
        "a field for the text, one of them compressed (.gz, .bz2, .xz), or '-' for standard "
        "input; or a text that comes with lamp: macbeth, twelfth-night, ecclesiastes, jargon, or "
        "held-out, the default, which is both plays.",
        metavar="FILE|-",
    ),
]
TokenIds = Annotated[
    str | None,
    typer.Option(
        help="Token ids in place of a text: integers separated by white space, or a .npy file.",
        metavar="FILE",
    ),
]
Field = Annotated[
    str, typer.Option(help="The field or column of JSON and tables that holds the text.")
]
SpecialTokens = Annotated[
    bool,
    typer.Option(
        "--special-tokens/--no-special-tokens",
        help="Begin every window with the tokens that the model's tokenizer puts in front of a "
        "text, if any, and end the text with those that it puts behind one.",
    ),
]
Tokens = Annotated[
    str,
    typer.Option(help="Read at most this many tokens of the text, or 'all'.", metavar="COUNT|all"),
]
Length = Annotated[
    int | None,
    number(
        int,
        "Tokens per window; the model reads each window as a text of its own.  By default, "
        "the model's number of positions, but at most 512.",
        least=1,
    ),
]
Stride = Annotated[
    int | None,
    number(
        int,
        "Tokens between the starts of two windows.  Tokens that are in the window before, "
        "too, are context alone and not compared.  By default, the length.",
        least=1,
    ),
]
Shuffle = Annotated[
    bool, typer.Option("--shuffle", help="Shuffle the tokens: a control without any language.")
]
ShuffleSeed = Annotated[int | None, number(int, "The seed of --shuffle; 0 by default.", least=0)]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, with numbers in full precision.")
]
