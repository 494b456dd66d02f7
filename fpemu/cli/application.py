"""The subcommands of `fpemu`.

What a subcommand needs is imported when it runs, so that ``fpemu --help`` is quick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fpemu._printing import console, echo
from fpemu.cli import documents, options, process, warming

if TYPE_CHECKING:
    from rich.table import Table

    from fpemu.formats import Format

__all__ = ["app", "main"]

_TABLE_BITS: Final = 10

app = typer.Typer(
    name="fpemu",
    help="Look into floating-point formats, roundings and matrix units, bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main(debug: options.Debug = False, version: options.Version = False) -> None:
    """Options of all subcommands."""


app.command()(documents.docs)
app.command()(warming.warm)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; :func:`fpemu.cli.process.call` says how it ends.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows ``fpemu`` on the command line; by default, the arguments of the process.
    """
    process.call(app, "fpemu", arguments)


def _format(name: str) -> Format:
    """The format that an argument names."""
    from fpemu import formats

    with options.usage("FORMAT"):
        return formats.format(name)


def _table(padding: int) -> Table:
    """A table without lines, with spaces between its columns."""
    from rich.table import Table

    return Table(box=None, header_style="bold", padding=(0, padding, 0, 0))


def _print(table: Table) -> None:
    console().print(table)


@app.command()
def formats() -> None:
    """List the named formats and their limits."""
    from fpemu.formats import named_formats

    table = _table(1)
    table.add_column("format", no_wrap=True)
    for heading in ("p", "emin", "emax", "largest", "normal", "subnormal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("has", no_wrap=True)
    for format in named_formats().values():
        specials = {
            "inf": format.infinities,
            "nan": format.has_nan,
            "-0": format.has_negative_zero,
            "no 0": not format.has_zero,
        }
        table.add_row(
            format.name,
            *map(str, (format.precision, format.emin, format.emax)),
            f"{format.max_finite:.3g}",
            f"{format.smallest_normal:.3g}",
            f"{format.smallest_subnormal:.3g}" if format.subnormals else "-",
            " ".join(name for name, present in specials.items() if present),
        )
    _print(table)
    echo("\nnormal, subnormal: the smallest positive numbers of each kind.")
    echo("Other names: e{E}m{M}, ps{M} = e8m{M}, and P3109's Binary{K}p{P}{s|u}{e|f}.")


@app.command()
def devices(
    pattern: Annotated[
        str, typer.Argument(help="List only units whose names contain this text.")
    ] = "",
) -> None:
    """List the matrix units of real hardware: how each forms an inner product, and the source."""
    from fpemu import devices as units

    found = [unit for unit in units.entries() if pattern in unit.name]
    if not found:
        raise ValueError(f"no unit has {pattern!r} in its name: fpemu devices lists all units")
    table = _table(2)
    table.add_column("unit", no_wrap=True)
    table.add_column("how it sums")
    table.add_column("source", style="dim")
    for unit in found:
        table.add_row(unit.name, str(unit.accumulator), unit.source)
    _print(table)
    echo("\nThe documentation of fpemu.devices lists the sources: pydoc fpemu.devices")


@app.command(context_settings={"ignore_unknown_options": True})
def show(
    format: Annotated[str, typer.Argument(help="The format, such as float8_e4m3fn or e5m7.")],
    value: Annotated[
        str, typer.Argument(help="A number, taken exactly: 0.3, -1e9, 0x1.8p-3, inf or nan.")
    ],
    overflow: Annotated[
        str, typer.Option(help="The result of overflow: ieee, saturate, propagate, infinity.")
    ] = "ieee",
) -> None:
    """Show how a number is rounded into a format in each rounding mode, and why."""
    from fpemu import explain
    from fpemu.rounding import Rounding

    chosen = _format(format)
    with options.usage("--overflow"):
        Rounding(overflow=overflow)
    with options.usage("VALUE"):
        number = explain.number(value)
        steps = explain.rounding_steps(number, chosen, overflow)
    nearest = explain.anatomy(steps[0].result, chosen)
    echo(f"{repr(number) if isinstance(number, float) else value} in {chosen}")
    fields = {"sign": nearest.sign, "exponent": nearest.exponent, "fraction": nearest.fraction}
    bits = "  ".join(f"{name} {field}" for name, field in fields.items() if field)
    echo(f"rne      {steps[0].result!r}  (code {nearest.code:#x})")
    echo(f"bits     {bits}")
    echo(f"meaning  {nearest.meaning}")
    if not isinstance(number, float) or math.isfinite(number):
        below, above = explain.bracket(number, chosen)
        echo(f"next     {below!r} below, {above!r} above")
    table = _table(2)
    table.add_column("mode")
    table.add_column("result", justify="right", no_wrap=True)
    table.add_column("error, ulp", justify="right", no_wrap=True)
    table.add_column("because")
    for step in steps:
        error = "-" if math.isnan(step.error) else f"{step.error:+.3g}"
        table.add_row(step.mode, repr(step.result), error, step.reason)
    echo()
    _print(table)


@app.command()
def table(
    format: Annotated[str, typer.Argument(help=f"A format of at most {_TABLE_BITS} bits.")],
) -> None:
    """List every code of a small format: its bits and its value."""
    from fpemu.codec import decode

    chosen = _format(format)
    if chosen.bits > _TABLE_BITS:
        message = f"{chosen} has {chosen.bits} bits, too many codes to list: at most {_TABLE_BITS}"
        raise typer.BadParameter(message, param_hint="FORMAT")
    for code in range(2**chosen.bits):
        value = float(decode(code, chosen))
        bits = f"{code:0{chosen.bits}b}"
        split = int(chosen.signed), int(chosen.signed) + chosen.exponent_bits
        parts = (bits[: split[0]], bits[split[0] : split[1]], bits[split[1] :])
        echo(f"{code:#06x}  {' '.join(part for part in parts if part)}  {value!r}")


@app.command()
def plot(
    format: Annotated[list[str], typer.Argument(help="One or more formats.")],
    output: Annotated[Path, typer.Option(help="The picture to write.", dir_okay=False)],
) -> None:
    """Plot the spacing and the relative rounding error of formats over their range."""
    from fpemu import explain

    explain.plot_formats([_format(name) for name in format], output)
    echo(f"Wrote {output}")
