"""What commands and pages show: texts from elsewhere are cleaned here, and here alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["clean", "console", "echo"]

# Control characters but for tabs and ends of lines, marks that turn the direction of what follows,
# other ends of lines, halves of characters, and what Unicode says is no character.
_UNFIT: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\ufdd0-\ufdef\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    r"""A text with a replacement character for each one that must not reach a terminal or a page.

    A control character may be an order to a terminal, and a mark of direction may show a name as
    another one.

    Parameters
    ----------
    text : str

    Returns
    -------
    str

    Examples
    --------
    >>> from fpemu._printing import clean
    >>> clean("red: \x1b[31m")
    'red: \ufffd[31m'
    """
    return _UNFIT.sub("\ufffd", text)


def echo(text: object = "", *, nl: bool = True, err: bool = False) -> None:
    """Print a text, cleaned.

    Parameters
    ----------
    text : object
    nl : bool
        Whether to end the line.
    err : bool
        Whether to print it on standard error.
    """
    import typer

    typer.echo(clean(str(text)), nl=nl, err=err)


def console(*, stderr: bool = False, markup: bool = False) -> Console:
    """A console that cleans what it shows; names are shown as they are, not as emoji codes.

    Parameters
    ----------
    stderr : bool
        Whether it is standard error.
    markup : bool
        Whether texts have marks such as ``[bold]``.

    Returns
    -------
    rich.console.Console
    """
    from rich.console import Console

    class Clean(Console):
        """Cleans each text on its way to what renders it, cells of tables among them."""

        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(clean(text), **options)

    return Clean(highlight=False, markup=markup, emoji=False, stderr=stderr)
