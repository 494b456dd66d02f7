"""The subcommand `lamp run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fpemu import _printing as printing
from fpemu._printing import note
from lamp.cli import options

if TYPE_CHECKING:
    from lamp.evaluation import Comparison, Text


def run(
    model: options.Model = "embedded",
    hardware: options.Machine = "fp32",
    lamp: options.Rules = None,
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
    """Run a model over a text on a machine, and compare it with a reference."""
    from lamp import evaluation, integrations
    from lamp.cli import inputs, outputs

    asked = inputs.Asked(
        text, token_ids, tokens, length, stride, field, special_tokens, shuffle, seed
    )
    setting = options.setting(hardware, lamp or (), ("--hardware", "--lamp"))
    exact = options.machine(reference, "--reference")
    with outputs.noted():
        network = integrations.from_pretrained(model, hardware=setting.hardware)
        read = asked.read(network)
        with outputs.progress_bar(setting.hardware.name, read.compared) as progress:
            found = evaluation.compare(network, read, setting, reference=exact, progress=progress)
    if json:
        outputs.print_json(
            {
                "model": outputs.model_record(model, network),
                "text": read.record(),
                "reference": exact.name,
                **found.record(),
                "notes": [*read.notes(), *found.notes()],
            }
        )
        return
    note(outputs.describe(model, network, read))
    _print(found, read, exact.name)


def _print(found: Comparison, read: Text, reference: str) -> None:
    from lamp.cli import outputs
    from lamp.reports import console as report

    console = printing.console()
    console.print()
    console.print(report.metrics_table(found, reference))
    if whence := report.where_errors_are_from(found.metrics):
        console.print(f"\n{whence}", style="dim")
    if found.metrics.step_rates:
        console.print()
        console.print(report.rates_table(found.metrics, console.width))
    outputs.print_notes(console, {"Note": [*read.notes(), *found.notes()]})
