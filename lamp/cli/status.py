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
    from collections.abc import Iterator

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
    from rich.table import Table

    console = printing.console()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("study")
    for column in ("runs", "done", "failed", "missing", "running"):
        table.add_column(column, justify="right")
    for name in store.studies():
        counts = store.counts(name)
        cells = counts.total, counts.done, counts.failed, counts.missing, counts.running
        table.add_row(name, *map(str, cells))
    console.print(table)
    if ended := store.runs(last=_MOST_SHOWN):
        console.print()
        console.print(_last(ended))
    if done := store.task_runs(state="done", last=_MOST_SHOWN):
        console.print()
        console.print(_last_tasks(done))
    failed = [each(state="failed", last=_MOST_SHOWN) for each in (store.runs, store.task_runs)]
    for run in [*failed[0], *failed[1]][:_MOST_SHOWN]:
        console.print(f"\nfailed: {run}: {run.error}")


def _last_tasks(runs: list[TaskRun]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("last tasks", overflow="fold")
    table.add_column("metric")
    for column in ("score", "±", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        name, time = str(run), f"{run.seconds:.2f}"
        for score in run.result.scores if run.result else ():
            error = "" if math.isnan(score.error) else f"{score.error:.2g}"
            table.add_row(name, score.metric, f"{score.value:.3f}", error, time)
            name = time = ""
    return table


def _last(runs: list[Run]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("last runs", overflow="fold")
    for column in ("KL", "flips", "recomputed", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        metrics = run.metrics
        cells = ["failed", "", ""]
        if metrics is not None:
            rate = f"{metrics.recomputation_rate:.2%}" if metrics.layer_rates else "-"
            cells = [f"{metrics.kl:.2e}", f"{metrics.flip_rate:.2%}", rate]
        table.add_row(str(run), *cells, f"{run.seconds:.2f}")
    return table
