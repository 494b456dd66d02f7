"""The `lamp` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="lamp",
    help="Look-ahead mixed-precision inference under simulated hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_STORED_BITS = (2, 4, 7)
_TAUS = (1.5, 1.2, 1.05)
_RUNS = len(_STORED_BITS) * (1 + 3 * len(_TAUS))


@app.callback()
def _main(
    context: typer.Context,
    debug: Annotated[bool, typer.Option(help="Show a traceback when something fails.")] = False,
) -> None:
    context.obj = debug


machines = typer.Typer(help="The machines that models run on.", no_args_is_help=True)
app.add_typer(machines, name="hardware")


@machines.command(name="list")
def list_machines() -> None:
    """List the machines that have names."""
    from rich.console import Console
    from rich.table import Table

    from lamp.machines import hardware, names, summary

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    for column in ("stored in", "products of weights", "scores"):
        table.add_column(column)
    for name in names():
        machine = hardware(name.format(mu=4))
        same = machine.scores == machine.qkv
        scores = "the same" if same else summary(machine, "scores")
        table.add_row(name, machine.residual.output.name, summary(machine, "qkv"), scores)
    Console().print(table)
    typer.echo("\nmu: 0 to 23 stored significand bits, shown for 4.  Or a file that ends in .toml.")


@machines.command()
def show(
    name: Annotated[str, typer.Argument(help="A machine's name, or a file that ends in .toml.")],
    toml: Annotated[bool, typer.Option("--toml", help="Print a TOML file to start from.")] = False,
) -> None:
    """Show how a machine computes each step."""
    from rich.console import Console
    from rich.table import Table

    from lamp import machine_files
    from lamp.hardware import STEPS
    from lamp.machines import hardware

    machine = hardware(name)
    if toml:
        typer.echo(machine_files.dumps(machine), nl=False)
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("step", no_wrap=True)
    table.add_column("how")
    table.add_row("weights", f"stored in {machine.weights}")
    for step in STEPS:
        table.add_row(step, str(getattr(machine, step)))
    typer.echo(f"{machine.name}: numbers between steps in {machine.carrier} arrays")
    Console().print(table)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for results.csv and the plot.", file_okay=False)
    ] = Path("demo"),
    model: Annotated[
        str, typer.Option(help="A transformers directory, a hub name, or 'embedded'.")
    ] = "embedded",
    text: Annotated[
        Path | None, typer.Option(help="A UTF-8 text file; the embedded sample if left out.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="How many windows of the text.")] = 4,
    length: Annotated[int, typer.Option(min=2, help="Tokens in a window.")] = 512,
) -> None:
    """Run GPT-2 with low-precision attention scores, with and without look-ahead recomputation."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn, TimeRemainingColumn

    from lamp import checkpoints, report, studies
    from lamp.gpt2 import GPT2

    network = GPT2.from_pretrained(model)
    tokens = network.encode(checkpoints.read_text(text))
    chosen = studies.spread_windows(tokens, length, windows)
    output.mkdir(parents=True, exist_ok=True)

    results = []
    columns = (*Progress.get_default_columns()[:2], TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("compiling, reference", total=_RUNS)
        for result in studies.equal_rate_grid(network, chosen, _STORED_BITS, _TAUS):
            results.append(result)
            progress.update(task, advance=1, description=f"PS({result.stored_bits})")

    title = f"{model} model, {chosen.size} tokens: attention scores with mu stored bits"
    Console().print(report.results_table(results, title))
    table, picture = output / "results.csv", output / "kl_vs_recomputation.png"
    report.write_csv(results, table)
    report.plot_results(results, picture)
    typer.echo(f"Wrote {table} and {picture}")


def main() -> None:
    """Run the command: exit code 2 for bad usage, 1 for a failure (traceback with --debug)."""
    import sys

    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"lamp: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
