"""The subcommand `lamp tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpemu import _printing as printing
from fpemu._printing import echo
from fpemu.cli.options import number
from lamp.cli import options
from lamp.cli.sweep import Cluster, Jobs, Memory, Target, interrupted

if TYPE_CHECKING:
    from lamp.tuning import Tuned

Menu = Annotated[
    Path,
    typer.Argument(
        help="A TOML file; 'python -m pydoc lamp.tuning.menus' describes it.", metavar="STUDY"
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Also write the machine, all results and the front into a folder: machine.toml, "
        "tuned.json, front.csv, front.svg, front.png.",
        metavar="DIR",
    ),
]
Rounds = Annotated[
    int, number(int, "How often a solution is measured and repaired, at most.", least=1)
]


def tune(
    study: Menu,
    store: Target = None,
    output: Output = None,
    rounds: Rounds = 12,
    jobs: Jobs = None,
    cluster: Cluster = None,
    memory: Memory = None,
    json: options.Json = False,
) -> None:
    """Find the cheapest machine for an allowed divergence, step by step and layer by layer.

    Ctrl-C stops after the runs in progress; the same command does the rest later.
    """
    from lamp import studies, tuning

    try:
        found = tuning.tune(
            study,
            store=store,
            rounds=rounds,
            jobs=jobs,
            cluster=cluster,
            memory=memory,
            progress=True,
        )
    except studies.Interrupted:
        raise interrupted() from None
    if output is not None:
        from lamp.reports import fronts

        written = fronts.write_tuned(found, output)
        echo(f"{output}: {', '.join(path.name for path in written)}", err=json)
    if json:
        from lamp.cli import outputs

        outputs.print_json(found.record())
    else:
        _print(found)


def _print(found: Tuned) -> None:
    from lamp.cli import outputs
    from lamp.reports import fronts

    console = printing.console()
    console.print(fronts.sentence(found.record()))
    for heading, table in (
        (
            "What was chosen, with its share of the cost and of what the choices add",
            fronts.choices_table,
        ),
        (
            f"Beside other machines: cost, and {found.menu.metric} predicted and measured",
            fronts.machines_table,
        ),
        ("How it was found", fronts.rounds_table),
    ):
        console.print(f"\n{heading}", style="bold")
        console.print(table(found))
    ran = f"{found.ran} run{'s' * (found.ran != 1)} new; results in {found.store}"
    console.print(f"\n{ran}", style="dim")
    outputs.print_notes(console, {"Note": list(found.notes)})
