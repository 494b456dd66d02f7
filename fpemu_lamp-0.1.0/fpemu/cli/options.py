"""Options of the commands of both packages, and what is wrong with the value of one."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeAlias

import typer

import fpemu
from fpemu._printing import clean, echo

__all__ = ["Debug", "Version", "number", "usage"]

# What a number is called in messages and in help texts, and what limits there are for one.
_KINDS: Final = {int: ("an integer", "INTEGER"), float: ("a number", "NUMBER")}
_LIMITS: Final = {
    "least": ("at least", ">=", operator.ge),
    "above": ("above", ">", operator.gt),
    "most": ("at most", "<=", operator.le),
}


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


def number(
    kind: type[int] | type[float], help: str, *, metavar: str | None = None, **limits: float
) -> Any:
    """An option that takes a number, whose errors say what was given and what is expected.

    Parameters
    ----------
    kind : type
        int or float; what is not finite is none.
    help : str
        Its help text.
    metavar : str, optional
        What stands for its value in help texts.  By default, the kind with its limits.
    **limits : int or float
        ``least`` and ``most``, which are themselves allowed, and ``above``, which is not.

    Returns
    -------
    typer.models.OptionInfo
        For ``Annotated``.
    """
    noun, symbol = _KINDS[kind]
    words = " and ".join(f"{_LIMITS[name][0]} {limit}" for name, limit in limits.items())
    signs = ", ".join(f"{_LIMITS[name][1]} {limit}" for name, limit in limits.items())
    expected = f"{noun} that is {words}" if limits else noun

    def parse(given: Any) -> float:
        with contextlib.suppress(ValueError, OverflowError):
            value = kind(given)
            fits = (_LIMITS[name][2](value, limit) for name, limit in limits.items())
            if math.isfinite(value) and all(fits):
                return value
        raise typer.BadParameter(clean(f"expected {expected}, not {str(given)!r}"))

    return typer.Option(help=help, parser=parse, metavar=metavar or f"{symbol} {signs}".strip())


@contextlib.contextmanager
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
