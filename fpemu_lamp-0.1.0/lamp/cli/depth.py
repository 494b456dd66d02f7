"""The subcommand `lamp depth`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fpemu import _printing as printing
from fpemu._printing import echo, note
from lamp._files import writing
from lamp.cli import options

if TYPE_CHECKING:
    from lamp.evaluation import Setting, Text
    from lamp.models import Decoder, DepthMap

_ENDINGS: Final = (".csv", ".png", ".svg", ".pdf")

Machines = Annotated[
    list[str],
    typer.Argument(
        help="Machines: names or .toml files, each with its look-ahead rules joined by +.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Also write a picture (.png, .svg, .pdf), or the errors of all tokens (.csv).",
        metavar="FILE",
    ),
]


def depth(
    machines: Machines,
    model: options.Model = "embedded",
    text: options.Source = None,
    token_ids: options.TokenIds = None,
    tokens: options.Tokens = "512",
    length: options.Length = None,
    field: options.Field = "text",
    special_tokens: options.SpecialTokens = True,
    output: Output = None,
    json: options.Json = False,
) -> None:
    """Show how the errors of the residual stream grow from layer to layer, against float64."""
    from lamp import integrations
    from lamp.cli import inputs, outputs
    from lamp.reports import depths

    asked = inputs.Asked(text, token_ids, tokens, length, None, field, special_tokens)
    settings = options.settings(machines, least=1)
    if output is not None:
        _check(output)
    network = integrations.from_pretrained(model, hardware=settings[0].hardware)
    read = asked.read(network)
    with outputs.progress_bar(f"{len(settings)} machines", len(settings)) as progress:
        found = {}
        for setting in settings:
            found[str(setting)] = _measured(network, setting, read)
            progress(1)
    if output is not None:
        kind = output.suffix[1:]
        title = f"{model} · {read.source}"
        drawn = depths.as_csv(found) if kind == "csv" else depths.painted(found, title, kind)
        writing.write(output, drawn)
        echo(f"Wrote {output}", err=json)
    if json:
        record = {"model": outputs.model_record(model, network), "text": read.record()}
        outputs.print_json({**record, "runs": depths.record(found), "notes": read.notes()})
        return
    console = printing.console()
    note(outputs.describe(model, network, read))
    console.print(
        "\nMedian relative error of the residual stream behind so many layers", style="bold"
    )
    console.print(depths.depth_table(found))
    outputs.print_notes(console, {"Note": read.notes()})


def _check(output: Path) -> None:
    if output.suffix not in _ENDINGS:
        message = f"{str(output)!r} ends in none of {', '.join(_ENDINGS)}"
        raise typer.BadParameter(message, param_hint="--output")
    writing.check(output)


def _measured(network: Decoder, setting: Setting, read: Text) -> DepthMap:
    """The errors of a machine in all windows, one behind the other."""
    import numpy as np

    from lamp.models import DepthMap

    model = network.with_hardware(setting.hardware, setting.lamp)
    parts = [model.depth_map(window.tokens) for window in read.windows]
    errors, sizes = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("errors", "sizes")
    )
    return DepthMap(errors, sizes)
