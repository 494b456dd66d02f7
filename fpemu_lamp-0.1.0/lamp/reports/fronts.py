"""What tuning has found: tables, pictures, and a folder with all of it.

The sentence and the pictures are made from the record of a result,
:meth:`lamp.tuning.Tuned.record`, which the store of its runs has, too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp.machines import files
from lamp.reports import numbers, tables
from lamp.reports.console import columns_table, headed_table
from lamp.reports.front_maps import pictures_of, sentence

if TYPE_CHECKING:
    from rich.table import Table

    from lamp.tuning import Measured, Tuned

__all__ = [
    "choices_table",
    "machines_table",
    "pictures_of",
    "rounds_table",
    "sentence",
    "write_tuned",
]

_COLUMNS: Final = (
    "name",
    "kind",
    "cost",
    "predicted",
    *(f"{text}{end}" for text in ("calibration", "held_out") for end in ("", "_low", "_high")),
)


# --- tables ---------------------------------------------------------------------------------------


def choices_table(found: Tuned) -> Table:
    """What was chosen for each step and its layers; layers that are alike in a row."""
    table = headed_table(("step", "layers", "chosen", "cost", "adds"), left=3)
    added = math.fsum(max(each.divergence, 0.0) for each in found.choices)
    for step, of_step in itertools.groupby(found.choices, key=lambda each: each.step):
        for i, (option, group) in enumerate(itertools.groupby(of_step, key=lambda x: x.option)):
            alike = list(group)
            layers = ",".join(each.layers for each in alike)
            cost = sum(each.cost for each in alike) / found.result.cost
            share = sum(each.divergence for each in alike) / added if added else 0.0
            table.add_row("" if i else step, layers, option, f"{cost:.1%}", f"{share:.1%}")
    return table


def machines_table(found: Tuned) -> Table:
    """The result beside uniform machines and corners of the front, the cheapest first."""
    named = {"tuned": "tuned", "front": "on the front"}
    name = tables.Column("", lambda item: named.get(item["kind"], item["name"]))
    machines = tables.machines(found.record())
    table = columns_table((name, *tables.BESIDE[2:]), machines)
    for row, item in zip(table.rows, machines, strict=True):
        row.style = "bold" if item["kind"] == "tuned" else ""
    return table


def rounds_table(found: Tuned) -> Table:
    """What each round predicted and measured, and what was done then."""
    headings = ("round", "cost", "gap", "predicted", "calibration", "held-out", "then")
    table = headed_table(headings)
    table.columns[-1].justify = "left"
    for column in table.columns:
        column.vertical = "top"
    fixed = found.result.cost - min(
        (each.cost for each in found.rounds if each.holds), default=math.nan
    )
    for number, each in enumerate(found.rounds, 1):
        table.add_row(
            str(number),
            numbers.factor((each.cost + fixed) / found.result.cost),
            f"{each.solution.gap / (each.cost + fixed):.2%}",
            numbers.scientific(each.predicted),
            *(
                numbers.scientific(each.readings[text].value)
                for text in ("calibration", "held_out")
            ),
            each.repair or ("it holds" if each.holds else "it does not hold"),
        )
    return table


# --- files ----------------------------------------------------------------------------------------


def write_tuned(found: Tuned, folder: Path) -> list[Path]:
    """Write the machine, all that was found, and the front.

    Parameters
    ----------
    found : lamp.tuning.Tuned
    folder : Path
        It is made if there is none.

    Returns
    -------
    list of Path
        ``machine.toml``, ``tuned.json``, ``front.csv``, ``front.svg`` and ``front.png``.

    Raises
    ------
    NotADirectoryError
        If the folder is a file.
    """
    from lamp.reports import exports, pictures

    def contents() -> Iterator[tuple[str, bytes]]:
        yield "machine.toml", files.dumps(found.machine).encode()
        yield "tuned.json", exports.as_json(found.record())
        yield "front.csv", exports.written_csv(_COLUMNS, map(_line, _all(found)))
        front, _ = pictures_of(found.record())
        for kind in ("svg", "png"):
            yield f"front.{kind}", pictures.painted(front, kind, found.menu.name)

    return pictures.write_folder(folder, "results", contents())


def _all(found: Tuned) -> Sequence[Measured]:
    return (found.result, *found.front, *found.others)


def _line(each: Measured) -> dict[str, Any]:
    """A line of the CSV file."""
    line: dict[str, Any] = {name: getattr(each, name) for name in _COLUMNS[:4]}
    for text in ("calibration", "held_out"):
        reading = each.readings.get(text)
        ends = (math.nan,) * 3 if reading is None else reading
        line |= dict(zip((text, f"{text}_low", f"{text}_high"), ends, strict=True))
    return line
