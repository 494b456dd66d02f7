"""The command `lamp run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from lamp.commands import options

if TYPE_CHECKING:
    from lamp.runs import Run, Text


def run(
    model: options.Model = "embedded",
    hardware: options.Machine = "fp32",  # type: ignore[assignment]
    lamp: options.Rules = None,
    text: options.Source = None,
    token_ids: options.TokenIds = None,
    tokens: options.Tokens = 4096,
    length: options.Length = None,
    stride: options.Stride = None,
    reference: options.Reference = "fp64",  # type: ignore[assignment]
    shuffle: options.Shuffle = False,
    seed: options.ShuffleSeed = None,
    json: options.Json = False,
) -> None:
    """Run a model on a text under a machine, and compare it with a reference."""
    from lamp import models, runs
    from lamp.commands import inputs, outputs

    options.check_source(text, token_ids)
    shuffled = options.shuffle_seed(shuffle, seed)
    with options.usage("--lamp"):
        setting = runs.Setting(hardware, lamp or ())
    network = models.from_pretrained(model, hardware=hardware)
    read = inputs.read_text(
        network,
        text=text,
        token_ids=token_ids,
        tokens=tokens,
        length=length,
        stride=stride,
        shuffled=shuffled,
    )
    with outputs.progress_bar(hardware.name, len(read.tokens)) as progress:
        found = runs.run(network, read, setting, reference=reference, progress=progress)
    if json:
        outputs.print_json(
            {
                "model": outputs.model_record(model, network),
                "text": read.record(),
                "reference": reference.name,
                **found.record(),
                "notes": [*read.notes(), *found.notes()],
            }
        )
        return
    typer.echo(outputs.describe(model, network, read))
    _print(found, read, reference.name)


def _print(found: Run, read: Text, reference: str) -> None:
    from lamp import report
    from lamp.commands import outputs

    console = outputs.console()
    console.print()
    console.print(report.metrics_table(found, reference))
    if found.metrics.step_rates:
        console.print()
        console.print(report.rates_table(found.metrics, console.width))
    outputs.print_notes(console, {"Note": [*read.notes(), *found.notes()]})
