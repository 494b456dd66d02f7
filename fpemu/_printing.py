"""What commands and pages show: texts from elsewhere are cleaned here, and here alone."""

from __future__ import annotations

import os
import re
import textwrap
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions
    from rich.table import Column, Table

__all__ = ["clean", "console", "echo", "fitting_table", "note", "plain_table", "print_table"]

_WHOLE: Final = 100_000  # columns, of a table that no terminal shows
_LEAST_COLUMN: Final = 20  # characters of a column whose words are wrapped
_LABEL: Final = 12  # the least width of a column of labels that are broken

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


def note(text: str, indent: str = "") -> None:
    """Print a sentence, on a terminal in lines that end between two words.

    What is no terminal, such as a pipe, gets it on one line, unless the environment says how many
    COLUMNS there are.

    Parameters
    ----------
    text : str
        Its own ends of lines stay.
    indent : str
        What the second and later lines of a wrapped line begin with.
    """
    shown = console()
    if not _is_wide(shown):
        lines = (_wrapped(line, shown.width, hanging=indent) for line in text.split("\n"))
        text = "\n".join(lines)
    echo(text)


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


def plain_table(padding: int = 2) -> Table:
    """A table without lines, for :func:`print_table`.

    Parameters
    ----------
    padding : int
        The spaces between its columns.

    Returns
    -------
    rich.table.Table
    """
    return fitting_table(box=None, header_style="bold", padding=(0, padding, 0, 0))


def fitting_table(**look: Any) -> Table:
    """A table whose lines end without blanks, and that cuts no value, however narrow a terminal is.

    Where a terminal is too narrow for the columns, each row becomes a few lines: each value with
    its heading.

    Parameters
    ----------
    look : dict
        As ``rich.table.Table`` takes it.

    Returns
    -------
    rich.table.Table
        Its cells are texts.
    """
    from rich.cells import cell_len
    from rich.measure import Measurement
    from rich.segment import Segment
    from rich.table import Table
    from rich.text import Text

    class Fitting(Table):
        """A table that knows how narrow it can be."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
            whole = options.update(width=_WHOLE, max_width=_WHOLE)
            least = Measurement.get(console, whole, self).minimum - sum(map(_spare, self.columns))
            if least > options.max_width:
                yield from filter(None, [self.title])
                yield from (Text(line, style) for line, style in self._lines(options.max_width))
                return
            drawn: Any = super().__rich_console__(console, options)
            for line in Segment.split_lines(drawn):
                text = "".join(part.text for part in line).rstrip()
                yield from Segment.adjust_line_length(line, cell_len(text), pad=False)
                yield Segment.line()

        def _lines(self, width: int) -> Iterator[tuple[str, str]]:
            """The rows, a few lines for each, and how these are styled."""
            headers = [str(column.header).replace("-\n", "") for column in self.columns]
            names = [" ".join(header.split()) for header in headers]
            if self.columns[0].justify == "left":
                names[0] = ""  # a label is known by itself
            for row in zip(*(column.cells for column in self.columns), strict=True):
                (name, first), *others = zip(names, map(clean, map(str, row)), strict=True)
                yield _wrapped(f"{name} {first}".strip(), width), "bold"
                for name, cell in others:
                    if cell:
                        yield _wrapped(f"{name}: {cell}" if name else cell, width, "  "), ""

    return Fitting(**look)


def _spare(column: Column) -> int:
    """How much narrower than its longest word a column can be: labels are broken, numbers not."""
    if (column.overflow, column.justify) != ("fold", "left"):
        return 0
    words = [word for text in (column.header, *column.cells) for word in str(text).split()]
    return max(0, max(map(len, words), default=0) - _LABEL)


def print_table(table: Table) -> None:
    """Print a table without cutting a value, however narrow the terminal is.

    What is no terminal, such as a pipe, gets every row on one line, unless the environment says how
    many COLUMNS there are.

    Parameters
    ----------
    table : rich.table.Table
        Of :func:`plain_table`.
    """
    shown = console()
    if _is_wide(shown):
        shown.width = _WHOLE
    for column in table.columns:
        if not column.no_wrap:
            longest = max([len(str(cell)) for cell in column.cells], default=0)
            column.min_width = min(longest, _LEAST_COLUMN)
    shown.print(table, soft_wrap=True)


def _is_wide(shown: Console) -> bool:
    """Whether lines may be as long as they are: what is printed goes to no terminal."""
    return not (shown.is_terminal or os.environ.get("COLUMNS", "").isdecimal())


def _wrapped(text: str, width: int, indent: str = "", hanging: str = "  ") -> str:
    """A text within a width, but for words that are longer."""
    return textwrap.fill(
        text,
        max(width, 8),
        initial_indent=indent,
        subsequent_indent=f"{indent}{hanging}",
        break_long_words=False,
        break_on_hyphens=False,
    )
