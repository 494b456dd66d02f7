"""The subcommands `lamp hardware list`, `show` and `calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpemu._printing import echo, note, plain_table, print_table
from fpemu.cli.options import usage
from lamp.cli import options

if TYPE_CHECKING:
    pass

app = typer.Typer(
    help="List, show and calibrate the machines that models run on.", no_args_is_help=True
)


@app.command("list")
def list_machines() -> None:
    """List the named machines."""
    from lamp.machines import hardware, names, summary

    table = plain_table()
    table.add_column("name", no_wrap=True)
    for column in ("stored in", "products of weights", "scores"):
        table.add_column(column)
    for name in names():
        machine = hardware(name.format(mu=4))
        same = machine.scores == machine.qkv
        scores = "the same" if same else summary(machine, "scores")
        table.add_row(name, machine.residual.output.name, summary(machine, "qkv"), scores)
    print_table(table)
    note("\nmu: 0 to 23 stored significand bits, shown for 4.  Or a file that ends in .toml.")


@app.command("show")
def show_machine(
    name: Annotated[str, typer.Argument(help="A machine's name or a .toml file.")],
    toml: Annotated[bool, typer.Option("--toml", help="Print a TOML file to start from.")] = False,
) -> None:
    """Show how a machine computes each step."""
    from lamp.machines import OTHERWISE
    from lamp.machines import files as machine_files

    machine = options.machine(name, "NAME")
    if toml:
        echo(machine_files.dumps(machine), nl=False)
        return
    table = plain_table()
    table.add_column("step", no_wrap=True)
    table.add_column("how")
    for label, how in machine.described():
        heading = how == OTHERWISE
        if heading:
            table.add_row()
        table.add_row(label, how, style="bold" if heading else None)
    note(f"{machine.name}: numbers between steps in {machine.carrier} arrays")
    print_table(table)


@app.command("calibrate")
def calibrate_machine(
    name: Annotated[str, typer.Argument(help="A machine's name or a .toml file.")],
    output: Annotated[Path, typer.Argument(help="The .toml file to write.")],
    order: Annotated[
        str | None,
        typer.Option(
            help="The order of the channels of its scores: ascending or descending.  By default, "
            "the one that the file asks for."
        ),
    ] = None,
    model: options.Model = "embedded",
    text: options.Source = None,
    token_ids: options.TokenIds = None,
    tokens: options.Tokens = "1024",
    length: options.Length = None,
    field: options.Field = "text",
    special_tokens: options.SpecialTokens = True,
) -> None:
    """Find the order of the channels of a machine's scores on a text."""
    from dataclasses import replace

    from lamp import integrations
    from lamp.cli import inputs, outputs
    from lamp.models import calibrated

    asked = inputs.Asked(text, token_ids, tokens, length, None, field, special_tokens)
    machine = options.machine(name, "NAME")
    if order is not None:
        called = f"{machine.name}-{order}"
        with usage("--order"):
            machine = machine.mapped(
                lambda each: replace(each, scores=replace(each.scores, order=order))
            )
        machine = replace(machine, name=called)
    network = integrations.from_pretrained(model)
    read = asked.read(network)
    found = calibrated(machine, network, [window.tokens for window in read.windows])
    found.save(output)
    note(outputs.describe(model, network, read))
    echo(f"{output}: {found.name}, channels {found.scores.order}")
