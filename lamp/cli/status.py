"""The subcommand `lamp status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fpemu import _printing as printing
from lamp.cli import options

if TYPE_CHECKING:
    from lamp.studies import Run, Store

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

    studies = []
    for name in store.studies():
        counts = store.counts(name)
        runs = [_plain(run) for run in store.runs(name)]
        studies.append({"name": name, "total": counts.total, **asdict(counts), "runs": runs})
    outputs.print_json({"store": str(store.path), "studies": studies})


def _plain(run: Run) -> dict[str, Any]:
    """A run as plain data."""
    from dataclasses import asdict

    return asdict(run)


def _print_status(store: Store) -> None:
    from rich.table import Table

    console = printing.console()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("study")
    for column in ("runs", "done", "failed", "missing", "running"):
        table.add_column(column, justify="right")
    runs: list[Run] = []
    for name in store.studies():
        counts = store.counts(name)
        cells = counts.total, counts.done, counts.failed, counts.missing, counts.running
        table.add_row(name, *map(str, cells))
        runs += store.runs(name)
    console.print(table)
    ended = sorted((r for r in runs if r.finished_at), key=lambda r: r.finished_at or "")
    if ended:
        console.print()
        console.print(_last(ended[: -_MOST_SHOWN - 1 : -1]))
    for run in [r for r in runs if r.state == "failed"][:_MOST_SHOWN]:
        console.print(f"\nfailed: {run}: {run.error}")


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
