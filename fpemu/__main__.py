"""The `fpemu` command."""

from __future__ import annotations

import sys
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


@app.command(name="round")
def round_value(
    value: Annotated[float, typer.Argument(help="The number to round.")],
    format: Annotated[str, typer.Argument(help="The format, such as float8_e4m3fn or e5m7.")],
    mode: Annotated[str, typer.Option(help="rne, rna, rnz, rtz, rtp, rtn or rto.")] = "rne",
    overflow: Annotated[str, typer.Option(help="ieee or saturate.")] = "ieee",
) -> None:
    """Round a number into a format."""
    typer.echo(repr(float(fpemu.round(value, format, fpemu.Rounding(mode, overflow)))))


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
