"""The commands `lamp sweep` and `lamp status`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamp.cli import options

if TYPE_CHECKING:
    from lamp.studies import Run, Store, Sweep

_INTERRUPTED = 130
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_MOST_SHOWN = 10


def _memory(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size, such as 500M or 4G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


Study = Annotated[
    Path,
    typer.Argument(
        help="A TOML file, as 'python -m pydoc lamp.studies.study' describes it.", metavar="STUDY"
    ),
]
Target = Annotated[
    Path | None,
    typer.Option(
        help="The SQLite file of the results; left out, the study's name with the ending .sqlite.",
        metavar="FILE",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="How many processes measure runs at once; left out, one, and as many as there are "
        "cores in a local cluster.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="The address of a dask scheduler, or 'local' for a cluster on this machine.",
        metavar="ADDRESS",
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        help="How much memory reference logits may take, such as 4G; left out, a fourth of the "
        "machine's.",
        parser=_memory,
        metavar="SIZE",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check the study and show what there is to do; run nothing."),
]
Results = Annotated[Path, typer.Argument(help="The SQLite file of a sweep.", metavar="STORE")]


def sweep(
    study: Study,
    store: Target = None,
    jobs: Jobs = None,
    cluster: Cluster = None,
    memory: Memory = None,
    dry_run: DryRun = False,
) -> None:
    """Do the runs of a study that its store does not hold yet.

    Ctrl-C ends the sweep after the runs that have begun; the same command goes on.
    """
    from lamp import studies

    target = study.with_suffix(".sqlite") if store is None else store
    if dry_run:
        _show_plan(study, target)
        return
    try:
        found = studies.sweep(
            study, store=target, jobs=jobs, cluster=cluster, memory=memory, progress=True
        )
    except studies.Interrupted as stop:
        _summarise(stop.sweep)
        typer.echo("Interrupted: the same command does the rest.", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except OSError as error:
        if not target.is_file() or isinstance(error, FileNotFoundError):
            raise
        raise OSError(
            f"{error}.  What has ended is in {target}: the same command goes on"
        ) from error
    _summarise(found)
    if found.failed:
        raise typer.Exit(1)


def _summarise(found: Sweep) -> None:
    states = [record.state for record in found.runs]
    missing = states.count("missing")
    left = f", {missing} to do" if missing else ""
    for note in found.notes:
        typer.echo(f"Note: {note}.", err=True)
    for record in found.failed[:_MOST_SHOWN]:
        typer.echo(f"failed: {record}: {record.error}", err=True)
    if len(found.failed) > _MOST_SHOWN:
        typer.echo(f"failed: {len(found.failed) - _MOST_SHOWN} more", err=True)
    typer.echo(
        f"{found.study}: {_runs(len(states))}, {found.ran} of them new, {len(found.failed)} failed"
        f"{left}; results in {found.store}"
    )


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _show_plan(study: Path, target: Path) -> None:
    from lamp.studies import Store, file_digest, planned
    from lamp.studies import Study as Parsed

    plan = planned(Parsed.load(study), file_digest)
    done: frozenset[str] = frozenset()
    if target.is_file():
        with Store.open(target) as opened:
            done = opened.finished()
    for member in plan.runs:
        typer.echo(f"{'done   ' if member.key in done else 'missing'}  {member}")
    for note in plan.notes:
        typer.echo(f"Note: {note}.", err=True)
    missing = sum(key not in done for key in plan.tasks)
    typer.echo(f"{_runs(len(plan.tasks))}, {missing} to do; results in {target}")


# --- status ---------------------------------------------------------------------------------------


def status(store: Results, json: options.Json = False) -> None:
    """Show how far the studies of a store are, and their last results."""
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
        runs = [_plain(record) for record in store.runs(name)]
        studies.append({"name": name, "total": counts.total, **asdict(counts), "runs": runs})
    outputs.print_json({"store": str(store.path), "studies": studies})


def _plain(record: Run) -> dict[str, Any]:
    """A run as plain data."""
    from dataclasses import asdict

    found = asdict(record)
    return found


def _print_status(store: Store) -> None:
    from rich.table import Table

    from lamp.cli import outputs

    console = outputs.console()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("study")
    for column in ("runs", "done", "failed", "missing", "running"):
        table.add_column(column, justify="right")
    records: list[Run] = []
    for name in store.studies():
        counts = store.counts(name)
        cells = counts.total, counts.done, counts.failed, counts.missing, counts.running
        table.add_row(name, *map(str, cells))
        records += store.runs(name)
    console.print(table)
    ended = sorted((r for r in records if r.finished_at), key=lambda r: r.finished_at or "")
    if ended:
        console.print()
        console.print(_last(ended[: -_MOST_SHOWN - 1 : -1]))
    for record in [r for r in records if r.state == "failed"][:_MOST_SHOWN]:
        console.print(f"\nfailed: {record}: {record.error}")


def _last(records: list[Run]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("last runs", overflow="fold")
    for column in ("KL", "flips", "recomputed", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    for record in records:
        metrics = record.metrics
        cells = ["failed", "", ""]
        if metrics is not None:
            rate = f"{metrics.recomputation_rate:.2%}" if metrics.layer_rates else "-"
            cells = [f"{metrics.kl:.2e}", f"{metrics.flip_rate:.2%}", rate]
        table.add_row(str(record), *cells, f"{record.seconds:.2f}")
    return table
