"""The subcommands of `lamp` in one application."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from fpemu.cli import documents, options, process
from lamp.cli import hardware
from lamp.cli.compare import compare
from lamp.cli.demo import demo
from lamp.cli.depth import depth
from lamp.cli.generate import generate
from lamp.cli.rank import rank
from lamp.cli.report import report
from lamp.cli.run import run
from lamp.cli.status import status
from lamp.cli.sweep import sweep
from lamp.cli.tasks import evaluate
from lamp.cli.tune import tune
from lamp.cli.warm import warm

__all__ = ["app", "main"]

app = typer.Typer(
    name="lamp",
    help="Run language models on simulated hardware, with look-ahead mixed precision.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main(debug: options.Debug = False, version: options.Version = False) -> None:
    """Options of all subcommands."""


for command in (
    run,
    generate,
    compare,
    depth,
    rank,
    sweep,
    tune,
    status,
    report,
    demo,
    documents.docs,
    warm,
):
    app.command()(command)
app.command("eval")(evaluate)
app.add_typer(hardware.app, name="hardware")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; :func:`fpemu.cli.process.call` says how it ends.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows ``lamp`` on the command line; by default, the arguments of the process.
    """
    process.call(app, "lamp", arguments)
