"""The `fpemu` command."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

import fpemu

app = typer.Typer(
    name="fpemu",
    help="What the floating-point arithmetic of a machine does, bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


_TABLE_BITS = 10


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option(help="Show a traceback when something fails.")] = False,
) -> None:
    """Options that hold for every command."""


@app.command()
def formats() -> None:
    """List the named formats and their limits."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("format", no_wrap=True)
    for heading in ("p", "emin", "emax", "largest", "normal", "subnormal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("has", no_wrap=True)
    for format in fpemu.formats.named_formats().values():
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
    Console().print(table)
    typer.echo("\nnormal, subnormal: the smallest ones.")
    typer.echo("Also: e{E}m{M}, ps{M} = e8m{M}, and P3109's binary{K}p{P}{s|u}{e|f}.")


@app.command()
def devices(
    pattern: Annotated[str, typer.Argument(help="Only units whose name contains this.")] = "",
) -> None:
    """List the matrix units of real machines: how each forms an inner product, and the source."""
    from rich.console import Console
    from rich.table import Table

    found = [device for device in fpemu.devices.entries() if pattern in device.name]
    if not found:
        raise ValueError(f"no unit has {pattern!r} in its name: run fpemu devices for all")
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("unit", no_wrap=True)
    table.add_column("how it sums")
    table.add_column("source", style="dim")
    for device in found:
        table.add_row(device.name, str(device.accumulator), device.source)
    Console().print(table)
    typer.echo("\nSources are listed in fpemu.devices' documentation: pydoc fpemu.devices")


@app.command(context_settings={"ignore_unknown_options": True})
def show(
    format: Annotated[str, typer.Argument(help="The format, such as float8_e4m3fn or e5m7.")],
    value: Annotated[float, typer.Argument(help="A number: 0.3, -1e9, inf, nan.")],
    overflow: Annotated[str, typer.Option(help="ieee or saturate.")] = "ieee",
) -> None:
    """Show what becomes of a number in a format, in every rounding mode and why."""
    from rich.console import Console
    from rich.table import Table

    from fpemu import explain

    chosen = fpemu.format(format)
    steps = explain.rounding_steps(value, chosen, fpemu.Rounding(overflow=overflow).overflow)
    nearest = explain.anatomy(steps[0].result, chosen)
    typer.echo(f"{value!r} in {chosen}")
    fields = {"sign": nearest.sign, "exponent": nearest.exponent, "fraction": nearest.fraction}
    bits = "  ".join(f"{name} {field}" for name, field in fields.items() if field)
    typer.echo(f"rne      {steps[0].result!r}  (code {nearest.code:#x})")
    typer.echo(f"bits     {bits}")
    typer.echo(f"meaning  {nearest.meaning}")
    if math.isfinite(value):
        below, above = explain.bracket(value, chosen)
        typer.echo(f"next     {below!r} below, {above!r} above")
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("mode")
    table.add_column("result", justify="right", no_wrap=True)
    table.add_column("error, ulp", justify="right", no_wrap=True)
    table.add_column("because")
    for step in steps:
        error = "-" if math.isnan(step.error) else f"{step.error:+.3g}"
        table.add_row(step.mode, repr(step.result), error, step.reason)
    typer.echo()
    Console().print(table)


@app.command()
def table(
    format: Annotated[str, typer.Argument(help="A format of at most 10 bits.")],
) -> None:
    """List all codes of a small format."""
    chosen = fpemu.format(format)
    if chosen.bits > _TABLE_BITS:
        raise ValueError(f"{chosen} has {chosen.bits} bits: too many codes to list")
    for code in range(2**chosen.bits):
        value = float(fpemu.decode(code, chosen))
        bits = f"{code:0{chosen.bits}b}"
        split = int(chosen.signed), int(chosen.signed) + chosen.exponent_bits
        parts = (bits[: split[0]], bits[split[0] : split[1]], bits[split[1] :])
        typer.echo(f"{code:#06x}  {' '.join(part for part in parts if part)}  {value!r}")


@app.command()
def plot(
    format: Annotated[list[str], typer.Argument(help="One or more formats.")],
    output: Annotated[Path, typer.Option(help="The picture to write.", dir_okay=False)],
) -> None:
    """Plot the spacing and the relative error of formats over their range."""
    from fpemu import explain

    explain.plot_formats([fpemu.format(name) for name in format], output)
    typer.echo(f"Wrote {output}")


def main() -> None:
    """Run the command: exit code 2 for bad usage, 1 for a failure (traceback with --debug)."""
    try:
        app()
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"fpemu: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
