"""The command `lamp compare`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from lamp.cli import options
from lamp.evaluation import HELD_OUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamp.evaluation import Comparison, Text
    from lamp.machines import Difference


def compare(
    machines: options.Settings,
    model: options.Model = "embedded",
    text: options.Source = HELD_OUT,
    token_ids: options.TokenIds = None,
    tokens: options.Tokens = 4096,
    length: options.Length = None,
    stride: options.Stride = None,
    reference: options.Reference = "fp64",
    shuffle: options.Shuffle = False,
    seed: options.ShuffleSeed = None,
    json: options.Json = False,
) -> None:
    """Run a model on a text under several machines, side by side, and say what differs in them."""
    from lamp import evaluation
    from lamp.cli import inputs, outputs
    from lamp.machines import differences
    from lamp.models import loading as models

    options.check_source(text, token_ids)
    shuffled = options.shuffle_seed(shuffle, seed)
    settings = options.settings(machines)
    exact = options.machine(reference, "--reference")
    network = models.from_pretrained(model, hardware=settings[0].hardware)
    read = inputs.read_text(
        network,
        text=text,
        token_ids=token_ids,
        tokens=tokens,
        length=length,
        stride=stride,
        shuffled=shuffled,
    )
    total = len(read.tokens) * len(settings)
    with outputs.progress_bar(f"{len(settings)} machines", total) as progress:
        found = evaluation.side_by_side(network, read, settings, reference=exact, progress=progress)
    look_ahead = any(each.lamp for each in settings)
    differing = differences([each.hardware for each in settings], recomputed=look_ahead)
    if json:
        outputs.print_json(
            {
                "model": outputs.model_record(model, network),
                "text": read.record(),
                "reference": exact.name,
                "runs": [each.record() for each in found],
                "differences": [asdict(each) for each in differing],
                "notes": read.notes(),
            }
        )
        return
    typer.echo(outputs.describe(model, network, read))
    _print(found, differing, read, exact.name)


def _print(
    found: Sequence[Comparison], differing: Sequence[Difference], read: Text, reference: str
) -> None:
    from lamp.cli import outputs
    from lamp.reports import console as report

    console = outputs.console()
    named = list(zip(report.LETTERS, found, strict=False))
    console.print()
    for letter, run in named:
        console.print(f"{letter}  {run.setting}")
    if differing:
        console.print("\nWhat differs", style="bold")
        console.print(report.differences_table(differing, console.width))
    else:
        console.print("\nAll steps compute alike.")
    exact = report.perplexity(found[0].metrics.reference_perplexity)
    console.print(f"\nHow far they are from {reference}, whose perplexity is {exact}", style="bold")
    console.print(report.comparison_table(found, reference))
    on_runs = {f"Note on {letter}": run.notes() for letter, run in named}
    outputs.print_notes(console, {"Note": read.notes(), **on_runs})
