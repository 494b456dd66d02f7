"""The subcommand `lamp compare`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from fpemu import _printing as printing
from fpemu._printing import note
from lamp.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamp.evaluation import Comparison, Text
    from lamp.machines import Difference


def compare(
    machines: options.Settings,
    model: options.Model = "embedded",
    text: options.Source = None,
    token_ids: options.TokenIds = None,
    tokens: options.Tokens = "4096",
    length: options.Length = None,
    stride: options.Stride = None,
    field: options.Field = "text",
    special_tokens: options.SpecialTokens = True,
    reference: options.Reference = "fp64",
    shuffle: options.Shuffle = False,
    seed: options.ShuffleSeed = None,
    json: options.Json = False,
) -> None:
    """Run a model over a text on several machines, and compare the machines and the results."""
    from lamp import evaluation, integrations
    from lamp.cli import inputs, outputs
    from lamp.machines import differences

    asked = inputs.Asked(
        text, token_ids, tokens, length, stride, field, special_tokens, shuffle, seed
    )
    settings = options.settings(machines)
    exact = options.machine(reference, "--reference")
    with outputs.noted():
        network = integrations.from_pretrained(model, hardware=settings[0].hardware)
        read = asked.read(network)
        total = read.compared * len(settings)
        with outputs.progress_bar(f"{len(settings)} machines", total) as progress:
            found = evaluation.side_by_side(
                network, read, settings, reference=exact, progress=progress
            )
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
    note(outputs.describe(model, network, read))
    _print(found, differing, read, exact.name)


def _print(
    found: Sequence[Comparison], differing: Sequence[Difference], read: Text, reference: str
) -> None:
    from lamp.cli import outputs
    from lamp.reports import console as report

    console = printing.console()
    named = list(zip(report.LETTERS, found, strict=False))
    console.print()
    for letter, run in named:
        console.print(f"{letter}  {run.setting}")
    if differing:
        console.print("\nWhat differs", style="bold")
        console.print(report.differences_table(differing, console.width))
    else:
        console.print("\nAll steps compute alike.")
    console.print(f"\n{report.comparison_heading(found, reference)}", style="bold")
    console.print(report.comparison_table(found))
    if whence := report.where_errors_are_from(found[0].metrics):
        console.print(f"\n{whence}", style="dim")
    for line in report.more_than_first(found):
        console.print(line)
    on_runs = {f"Note on {letter}": run.notes() for letter, run in named}
    outputs.print_notes(console, {"Note": read.notes(), **on_runs})
