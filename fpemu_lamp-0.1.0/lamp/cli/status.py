"""The subcommand `lamp status`."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fpemu import _printing as printing
from lamp.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

    from lamp.studies import Run, Store, TaskRun

_MOST_SHOWN: Final = 10

Results = Annotated[Path, typer.Argument(help="The SQLite file of a sweep.", metavar="STORE")]


def status(store: Results, json: options.Json = False) -> None:
    """Show the progress of the studies in a store, and their latest results."""
    from lamp.studies import Store

    with Store.open(store) as opened:
        if json:
            _print_json(opened)
        else:
            _print_status(opened)


def _print_json(store: Store) -> None:
    from dataclasses import asdict

    from lamp.cli import outputs

    def studies() -> Iterator[dict[str, Any]]:
        for name in store.studies():
            counts = store.counts(name)
            runs = map(_plain, store.each_run(name))
            found = {"name": name, "total": counts.total, **asdict(counts), "runs": runs}
            tasks = map(_plain_task, store.each_task_run(name))
            first = list(itertools.islice(tasks, 1))
            yield {**found, "tasks": itertools.chain(first, tasks)} if first else found

    outputs.print_json({"store": str(store.path), "studies": studies()})


def _plain(run: Run) -> dict[str, Any]:
    """A run as plain data."""
    from dataclasses import asdict

    return asdict(run)


def _plain_task(run: TaskRun) -> dict[str, Any]:
    """A run that is a task as plain data, without the scores of single documents."""
    found = _plain(run)
    result = found.pop("result") or {"scores": [], "not_finite": 0}
    for score in result["scores"]:
        del score["documents"]
    return {**found, "scores": result["scores"], "not_finite": result["not_finite"]}


def _print_status(store: Store) -> None:
    console = printing.console()
    counts = {name: store.counts(name) for name in store.studies()}
    headings: Sequence[str] = ("runs", "done", "failed", "missing", "running")
    rows = [
        (name, each.total, each.done, each.failed, each.missing, each.running)
        for name, each in counts.items()
    ]
    _print_table(console, ("study", *headings), ([name, *map(str, row)] for name, *row in rows))
    if ended := store.runs(last=_MOST_SHOWN):
        console.print()
        headings = ("KL", "flips", "recomputed", "s")
        _print_table(console, ("last runs", *headings), map(_cells, ended))
    if done := store.task_runs(state="done", last=_MOST_SHOWN):
        console.print()
        headings = ("metric", "score", "±", "s")
        _print_table(console, ("last tasks", *headings), itertools.chain(*map(_scores, done)))
    failed = [each(state="failed", last=_MOST_SHOWN) for each in (store.runs, store.task_runs)]
    for run in [*failed[0], *failed[1]][:_MOST_SHOWN]:
        console.print(f"\nfailed: {run}: {run.error}")
    for note in dict.fromkeys(note for run in [*ended, *done] for note in run.notes):
        console.print(f"\nnote: {note}")


def _print_table(console: Console, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table whose first column may be long."""
    table = printing.plain_table()
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        side: Any = "left" if heading == "metric" else "right"
        table.add_column(heading, justify=side, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _cells(run: Run) -> Sequence[str]:
    """The row of a run that has ended."""
    metrics, cells = run.metrics, ["failed", "", ""]
    if metrics is not None:
        rate = f"{metrics.recomputation_rate:.2%}" if metrics.layer_rates else "-"
        cells = [f"{metrics.kl:.2e}", f"{metrics.flip_rate:.2%}", rate]
    return str(run), *cells, f"{run.seconds:.2f}"


def _scores(run: TaskRun) -> Iterator[Sequence[str]]:
    """The rows of a task that is done; what repeats the row above is left out."""
    name, time = str(run), f"{run.seconds:.2f}"
    for score in run.result.scores if run.result else ():
        error = "" if math.isnan(score.error) else f"{score.error:.2g}"
        yield name, score.metric, f"{score.value:.3f}", error, time
        name = time = ""
