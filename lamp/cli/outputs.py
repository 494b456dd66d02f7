"""The output of commands: JSON and tables on standard output, progress on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fpemu._printing import console, echo
from lamp import evaluation
from lamp.models import Decoder

if TYPE_CHECKING:
    from rich.console import Console


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object; NaN and infinities are null, and "nulls" says which they are."""
    whole = evaluation.without_nan({**record, "versions": evaluation.versions()})
    echo(json.dumps(whole, indent=2, allow_nan=False))


def model_record(name: str, model: Decoder) -> dict[str, Any]:
    """A model as a JSON record."""
    shape = model.shape
    return {
        "name": name,
        "family": model.family,
        "layers": shape.layers,
        "width": shape.width,
        "vocabulary": shape.vocabulary,
        "positions": shape.positions,
    }


def describe(name: str, model: Decoder, text: evaluation.Text) -> str:
    """The model and its text in words."""
    count = len(text.windows)
    tokens = f"{text.read:,} token{'s' if text.read > 1 else ''}"
    parts = f"{count} windows of {text.length}" if count > 1 else "one window"
    strides = f", {text.stride} apart" if text.stride < text.length and count > 1 else ""
    shuffled = "" if text.shuffled is None else f", shuffled with seed {text.shuffled}"
    words = model.tokenizer.convert_ids_to_tokens(text.begins) if text.begins else []
    begins = f", beginning with {' '.join(map(str, words))}" if words else ""
    return (
        f"{name}: {model.kind}, {model.shape.layers} layers\n"
        f"{text.source}: {tokens}, {parts}{strides}{begins}{shuffled}"
    )


def print_notes(console: Console, notes: Mapping[str, list[str]]) -> None:
    """Print notes on the results, a line for each subject."""
    written = [f"{about}: {'; '.join(each)}." for about, each in notes.items() if each]
    for line in ["", *written] if written else []:
        console.print(line)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar if standard error is a terminal; yields a function that advances it."""
    from rich import progress as bars

    errors = console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    hidden = not errors.is_terminal
    with bars.Progress(*columns, console=errors, transient=True, disable=hidden) as progress:
        task = progress.add_task(description, total=total)
        yield lambda advance: progress.advance(task, advance)
