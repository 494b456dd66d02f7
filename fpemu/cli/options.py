"""Options of the commands of both packages, and what is wrong with the value of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, TypeAlias

import typer

import fpemu
from fpemu._printing import clean, echo

__all__ = ["Debug", "Version", "usage"]


def _print_version(context: typer.Context, given: bool) -> None:
    if given:
        echo(f"{context.info_name} {fpemu.__version__}")
        raise typer.Exit


Debug: TypeAlias = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Version: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
    ),
]


@contextmanager
def usage(option: str | None = None) -> Iterator[None]:
    """Report errors inside the block as bad usage: exit code 2.

    Parameters
    ----------
    option : str, optional
        The option or argument whose value is wrong.

    Raises
    ------
    typer.BadParameter
        For a `ValueError` or `TypeError` inside the block.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(clean(str(error)), param_hint=option) from error
