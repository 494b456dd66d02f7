"""The subcommand `lamp rank`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpemu import _printing as printing
from fpemu._printing import echo
from fpemu.cli.options import number, usage
from lamp.cli import options
from lamp.cli.sweep import Cluster, Jobs, Memory, interrupted

if TYPE_CHECKING:
    from lamp.tuning import Rank

Store = Annotated[
    Path,
    typer.Option(help="The SQLite file of the runs, which a second call finds.", metavar="FILE"),
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Also write the rank into a folder: rank.json, rank.csv, rank.svg, rank.png.",
        metavar="DIR",
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(help="Only these steps, separated by commas.", metavar="STEP[,STEP]"),
]
Layers = Annotated[
    str | None,
    typer.Option(help="Only these layers, such as 0-2,-1, and nothing outside.", metavar="NUMBERS"),
]
Alone = Annotated[
    bool,
    typer.Option("--alone", help="Leave out what is won when a step is put right: half the runs."),
]
Top = Annotated[
    int, number(int, "How many steps the table has; --json and --output have all.", least=1)
]


def rank(
    hardware: options.Machine,
    model: options.Model = "embedded",
    text: options.Source = None,
    tokens: options.Tokens = "1024",
    length: options.Length = None,
    stride: options.Stride = None,
    field: options.Field = "text",
    special_tokens: options.SpecialTokens = True,
    reference: options.Reference = "fp64",
    lamp: options.Rules = None,
    steps: Steps = None,
    layers: Layers = None,
    alone: Alone = False,
    store: Store = Path("rank.sqlite"),
    output: Output = None,
    top: Top = 20,
    jobs: Jobs = None,
    cluster: Cluster = None,
    memory: Memory = None,
    json: options.Json = False,
) -> None:
    """Rank the steps of each layer by the divergence that each causes alone.

    All else is computed on the reference.  Ctrl-C stops after the runs in progress; the same
    command does the rest later.
    """
    from lamp import evaluation, studies, tuning
    from lamp.machines import read_numbers

    setting = options.setting(hardware, lamp or (), ("--hardware", "--lamp"))
    exact = options.machine(reference, "--reference")
    with usage("--steps"):
        chosen = None if steps is None else tuning.ranked_steps(map(str.strip, steps.split(",")))
    with usage("--layers"):
        numbers = None if layers is None else read_numbers(layers)
    source = evaluation.Source(
        evaluation.HELD_OUT if text is None else text,
        field=field,
        tokens=options.count(tokens),
        length=length,
        stride=stride,
        special_tokens=special_tokens,
    )
    try:
        found = tuning.rank(
            model,
            setting.hardware,
            store=store,
            source=source,
            exact=exact,
            lamp=setting.lamp,
            steps=chosen,
            layers=numbers,
            repaired=not alone,
            jobs=jobs,
            cluster=cluster,
            memory=memory,
            progress=True,
        )
    except studies.Interrupted:
        raise interrupted() from None
    if output is not None:
        from lamp.reports import ranks

        written = ranks.write_rank(found, output)
        echo(f"{output}: {', '.join(path.name for path in written)}", err=json)
    if json:
        from lamp.cli import outputs

        outputs.print_json(found.record())
    else:
        _print(found, top, store)


def _print(found: Rank, top: int, store: Path) -> None:
    from lamp.reports import ranks

    console = printing.console()
    console.print(f"{found.model}: {found.layers} layers; {found.text}")
    console.print(ranks.heading(found))
    console.print(f"\nThe divergence of each step alone, in {found.exact} else", style="bold")
    console.print(ranks.rank_table(found, top))
    left = len(found.parts) - top
    if left > 0:
        console.print(f"and {left} more", style="dim")
    for kind, title in (("step", "By step"), ("place", "By layer")):
        console.print(f"\n{title}", style="bold")
        console.print(ranks.sums_table(found, kind))
    console.print(f"\nruns and page: lamp report {store}", style="dim")
