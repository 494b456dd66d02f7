"""The `lamp` command."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from lamp.cli.compare import compare
from lamp.cli.demo import demo
from lamp.cli.generate import generate
from lamp.cli.hardware import list_machines, show_machine
from lamp.cli.report import report
from lamp.cli.run import run
from lamp.cli.sweep import status, sweep

_INTERRUPTED = 130  # 128 and the number of the signal, as shells have it

app = typer.Typer(
    name="lamp",
    help="Look-ahead mixed-precision inference under simulated hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option(help="Show a traceback when something fails.")] = False,
) -> None:
    """Options that hold for every command."""


for command in (run, generate, compare, sweep, status, report, demo):
    app.command()(command)

machines = typer.Typer(help="The machines that models run on.", no_args_is_help=True)
machines.command(name="list")(list_machines)
machines.command(name="show")(show_machine)
app.add_typer(machines, name="hardware")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    The exit code is 2 for bad usage, 1 for a failure (with a traceback after ``--debug``), 130 if
    it is interrupted.

    Parameters
    ----------
    arguments : sequence of str, optional
        What stands behind ``lamp`` on the command line; left out, the process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Of the command's own options --debug is the only one; what follows the command has others.
    debug = "--debug" in itertools.takewhile(lambda word: word.startswith("-"), given)
    try:
        app(given, prog_name="lamp")
    except KeyboardInterrupt:
        _stop("interrupted", _INTERRUPTED)
    except SystemExit as stop:
        if stop.code != _INTERRUPTED:
            raise
        _stop("interrupted", _INTERRUPTED)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            raise
        _stop(str(error), 1)
    except Exception as error:  # a mistake of ours, or of a library's
        if debug:
            raise
        _stop(f"{type(error).__name__}: {error} (lamp --debug COMMAND ... shows where)", 1)


def _stop(message: str, code: int) -> None:
    typer.echo(f"lamp: {message}", err=True)
    raise SystemExit(code) from None
