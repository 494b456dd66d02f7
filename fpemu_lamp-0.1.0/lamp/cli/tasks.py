"""The subcommand `lamp eval`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fpemu import _printing as printing
from fpemu._printing import echo, note
from fpemu.cli.options import number
from lamp.cli import options
from lamp.cli.sweep import interrupted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamp.evaluation import Setting
    from lamp.integrations import Scores, TaskSource
    from lamp.machines import Hardware

_STUDY: Final = "lamp eval"
"""The study of a store that has the runs of this command."""


def evaluate(
    tasks: Annotated[
        list[str],
        typer.Option(
            help="Tasks of lm-evaluation-harness, by their names, separated by commas.",
            metavar="TASK[,TASK]",
        ),
    ],
    model: options.Model = "embedded",
    hardware: options.Machine = "fp32",
    lamp: options.Rules = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="A folder with tasks of your own: YAML files as the harness has them."),
    ] = None,
    reference: options.Reference = "fp64",
    limit: Annotated[
        int | None, number(int, "Do the first documents of each task only.", least=1)
    ] = None,
    shots: Annotated[
        int | None,
        number(
            int,
            "Examples in front of each question.  By default, the task's own number.",
            least=0,
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put questions into the model's chat template.")
    ] = False,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Keep the results in this SQLite file, and do only what it does not have yet.",
            metavar="FILE",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Let a model do tasks of lm-evaluation-harness on a machine and on a reference."""
    names = [name.strip() for each in tasks for name in each.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("give at least one task", param_hint="--tasks")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when the harness is imported
    from lamp import integrations
    from lamp.cli import outputs

    setting = options.setting(hardware, lamp or (), ("--hardware", "--lamp"))
    exact = options.machine(reference, "--reference")
    sources = [integrations.TaskSource(name, folder, limit, shots, chat) for name in names]
    if store is None:
        network = integrations.from_pretrained(model)
        found = integrations.evaluate_tasks(network, setting, sources, reference=exact)
    else:
        network = integrations.reader(model)
        found = _stored(store, model, setting, exact, sources)
    if json:
        outputs.print_json({"model": outputs.model_record(model, network), **found.record()})
        return
    note(f"{model}: {network.family}, {network.shape.layers} layers")
    _print(found)


def _stored(
    store: Path, model: str, setting: Setting, exact: Hardware, sources: Sequence[TaskSource]
) -> Scores:
    """The scores of a model on a machine, as runs of a store, where they are not there yet."""
    from lamp import studies
    from lamp.integrations import Scores

    study = studies.Study(
        _STUDY,
        models=[model],
        tasks=sources,
        hardware=[setting.hardware],
        lamp=[setting.lamp],
        reference=exact,
    )
    try:
        runs = studies.sweep(study, store=store, progress=True, grow=True).runs
    except studies.Interrupted:
        raise interrupted() from None
    failed = [run for run in runs if run.state == "failed"]
    for run in failed:
        echo(f"failed: {run}: {run.error}", err=True)
    if failed:
        raise typer.Exit(1)
    results, references = (
        {
            run.text: run.result
            for run in runs
            if isinstance(run, studies.TaskRun)
            and run.result is not None
            and (run.hardware, run.lamp) == labels
        }
        for labels in (
            (setting.hardware.name, "+".join(map(str, setting.lamp)) or "none"),
            (exact.name, "none"),
        )
    )
    return Scores(setting, exact.name, results, references)


def _print(found: Scores) -> None:
    from lamp.cli import outputs
    from lamp.reports import console as report

    console = printing.console()
    console.print(str(found.setting))
    for heading, table in report.scores_tables(found):
        console.print(f"\n{heading}", style="bold")
        console.print(table)
    if any(score.difference for score in found.scores):
        words = "more: than the reference, with the error of the differences document by document."
        console.print(f"\n{words}", style="dim")
    outputs.print_notes(console, {"Note": found.notes()})
