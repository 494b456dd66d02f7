"""The output of commands: JSON and tables on standard output, progress on standard error."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from fpemu._printing import console, echo
from lamp import evaluation
from lamp.machines import UnusedStepWarning
from lamp.models import Decoder

if TYPE_CHECKING:
    from rich.console import Console

_PARTS: Final = 10_000  # of JSON, printed at a time


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object; NaN and infinities are null, and "nulls" says which they are.

    What is given as an iterator is printed item by item, and never held as a whole.
    """
    nulls: dict[str, str] = {}  # which is written last, when all of them are known
    whole = {**record, "versions": evaluation.versions(), "nulls": nulls}
    parts = _written(whole, "", "", nulls)
    while part := "".join(itertools.islice(parts, _PARTS)):
        echo(part, nl=False)
    echo()


def _written(value: Any, path: str, indent: str, nulls: dict[str, str]) -> Iterator[str]:
    """The parts of a value as JSON, indented by two spaces a level."""
    if isinstance(value, Mapping):
        ends, items = "{}", ((f"{json.dumps(name)}: ", name, x) for name, x in value.items())
    elif isinstance(value, Iterable) and not isinstance(value, str):
        ends, items = "[]", (("", number, x) for number, x in enumerate(value))
    else:
        if isinstance(value, float) and not math.isfinite(value):
            nulls[path] = str(value)
            value = None
        yield json.dumps(value, allow_nan=False)
        return
    between = ends[0]
    for label, name, each in items:
        yield f"{between}\n{indent}  {label}"
        yield from _written(each, f"{path}.{name}".removeprefix("."), f"{indent}  ", nulls)
        between = ","
    yield f"\n{indent}{ends[1]}" if between == "," else ends


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
def noted() -> Iterator[None]:
    """Leave to the notes on results what they say: no warning says it, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedStepWarning)
        yield


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
