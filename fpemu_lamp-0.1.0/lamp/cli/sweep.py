"""The subcommand `lamp sweep`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fpemu._printing import echo, note
from fpemu.cli import process
from fpemu.cli.options import number

if TYPE_CHECKING:
    from lamp.studies import Sweep

_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_MOST_SHOWN: Final = 10
_MOST_LISTED: Final = 1000  # runs of a dry run


def _memory(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size, such as 500M or 4G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


Study = Annotated[
    Path,
    typer.Argument(
        help="A TOML file; 'python -m pydoc lamp.studies.study' describes it.", metavar="STUDY"
    ),
]
Target = Annotated[
    Path | None,
    typer.Option(
        help="The SQLite file of the results.  By default, the study's with the ending .sqlite.",
        metavar="FILE",
    ),
]
Jobs = Annotated[
    int | None,
    number(
        int,
        "Number of processes.  By default, one, or one per core in a local cluster.",
        least=0,
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
        help="Memory for reference logits, such as 4G.  By default, a quarter of all memory.",
        parser=_memory,
        metavar="SIZE",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check the study and list its runs; run nothing."),
]


def sweep(
    study: Study,
    store: Target = None,
    jobs: Jobs = None,
    cluster: Cluster = None,
    memory: Memory = None,
    dry_run: DryRun = False,
) -> None:
    """Run a study: all runs whose results are not in the store yet.

    Ctrl-C stops after the runs in progress; the same command does the rest later.
    """
    from lamp import studies

    target = study.with_suffix(".sqlite") if store is None else store
    if dry_run:
        _show_plan(study, target)
        return
    try:
        found = studies.sweep(
            study,
            store=target,
            jobs=jobs,
            cluster=cluster,
            memory=memory,
            progress=True,
            brief=True,
        )
    except studies.Interrupted as stop:
        _summarise(stop.sweep)
        raise interrupted() from None
    except OSError as error:
        if not target.is_file() or isinstance(error, FileNotFoundError):
            raise
        raise OSError(
            f"{error}.  Finished runs are in {target}: the same command does the rest"
        ) from error
    _summarise(found)
    if found.failed:
        raise typer.Exit(1)


def interrupted() -> typer.Exit:
    """Say that a sweep that Ctrl-C has ended goes on later; what to raise then."""
    echo("Interrupted: the same command does the rest.", err=True)
    return typer.Exit(process.INTERRUPTED)


def _summarise(found: Sweep) -> None:
    counts = found.counts
    left = f", {counts.missing} to do" if counts.missing else ""
    for each in found.notes:
        echo(f"Note: {each}.", err=True)
    for record in found.failed[:_MOST_SHOWN]:
        echo(f"failed: {record}: {record.error}", err=True)
    if len(found.failed) > _MOST_SHOWN:
        echo(f"failed: {len(found.failed) - _MOST_SHOWN} more", err=True)
    note(
        f"{found.study}: {_runs(counts.total)}, {found.ran} of them new, {counts.failed} failed"
        f"{left}; results in {found.store}"
    )


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _show_plan(study: Path, target: Path) -> None:
    """List the runs of a study as they are found, the first ones one by one."""
    from lamp.studies import Members, Planner, Store, file_digest, in_parts
    from lamp.studies import Study as Parsed

    planner = Planner(Parsed.load(study), file_digest)
    count = 0
    with contextlib.ExitStack() as stack:
        members = stack.enter_context(Members())
        store = stack.enter_context(Store.open(target)) if target.exists() else None

        def finished(keys: Iterable[str]) -> frozenset[str]:
            return frozenset() if store is None else store.finished(keys)

        for runs in in_parts(run for run, _ in planner.walk()):
            if count < _MOST_LISTED:
                done = finished([run.key for run in runs])
                for run in runs[: _MOST_LISTED - count]:
                    echo(f"{'done   ' if run.key in done else 'missing'}  {run}")
            count += len(runs)
            members.add(runs)
        total, missing = members.missing(finished)
    if count > _MOST_LISTED:
        echo(f"and {count - _MOST_LISTED:,} more")
    for each in planner.notes:
        echo(f"Note: {each}.", err=True)
    note(f"{_runs(total)}, {len(missing)} to do; results in {target}")
