"""What commands and pages show: texts from elsewhere are cleaned here, and here alone."""

from __future__ import annotations

import os
import re
import textwrap
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions
    from rich.table import Column, Table

__all__ = ["clean", "console", "echo", "fitting_table", "note", "plain_table", "print_table"]

_WHOLE: Final = 100_000  # columns, of a table that no terminal shows
_LEAST_COLUMN: Final = 20  # characters of a column whose words are wrapped
_INDENT: Final = "  "  # of what stands under a label

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
        """Cleans each text on its way to what renders it, cells of tables among them.

        Lines of sentences are broken here: rich would leave the blank at their end.
        """

        def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
            if not (soft_wrap or markup):
                objects = tuple(self._broken(x) if isinstance(x, str) else x for x in objects)
            super().print(*objects, soft_wrap=soft_wrap, **options)

        def _broken(self, text: str) -> str:
            return "\n".join(
                _wrapped(line, self.width, hanging="") if len(line) > self.width else line
                for line in text.split("\n")
            )

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
    """A table whose lines end without blanks, and that fits a terminal without cutting a value.

    Where a terminal is too narrow for the columns with their words whole, labels, which are what a
    first column that may be folded has, are put on lines of their own.  Where it is too narrow even
    so, each row becomes a few lines: each value with its heading.

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
        """A table that chooses its layout by the width that there is."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
            width = options.max_width
            parts = self._whole(console, width) or self._below_labels(console, width)
            if options.no_wrap:  # a word that is longer than a line goes beyond its end
                options = options.update_width(_WHOLE)
            for part, indent in parts or self._as_lines(width):
                for line in console.render_lines(part, options, pad=False):
                    text = "".join(segment.text for segment in line).rstrip()
                    yield Segment(indent if text else "")
                    yield from Segment.adjust_line_length(line, cell_len(text), pad=False)
                    yield Segment.line()

        def _whole(self, console: Console, width: int) -> list[tuple[Any, str]]:
            """The table with all words whole; nothing if it is wider."""
            widths = self._widths(console, self.columns, width)
            if not widths:
                return []
            drawn = self._drawn(self.columns, widths, range(self.row_count))
            drawn.title, drawn.title_justify = self.title, self.title_justify
            return [(drawn, "")]

        def _below_labels(self, console: Console, width: int) -> list[tuple[Any, str]]:
            """Each row below its label; nothing if the first column has none, or rows are wider."""
            labels, *others = self.columns
            if (labels.overflow, labels.justify) != ("fold", "left") or not others:
                return []
            widths = self._widths(console, others, width - len(_INDENT))
            if not widths:
                return []
            headed = self.show_header and any(column.header for column in others)
            parts: list[tuple[Any, str]] = []
            if headed:
                heading = [(Text(str(labels.header), "bold"), "")] if labels.header else []
                parts += [*heading, (self._drawn(others, widths, ()), _INDENT)]
            for number, label in enumerate(map(clean, map(str, labels.cells))):
                if label:
                    parts.append((Text(_label(label, width), "bold"), ""))
                row = self._drawn(others, widths, [number])
                row.show_header = False
                parts.append((row, _INDENT))
            return [(self.title, ""), *parts] if self.title else parts

        def _as_lines(self, width: int) -> Iterator[tuple[Any, str]]:
            """The rows, a few lines for each, and how these are styled."""
            if self.title:
                yield self.title, ""
            headers = [str(column.header).replace("-\n", "") for column in self.columns]
            names = [" ".join(header.split()) for header in headers]
            if self.columns[0].justify == "left":
                names[0] = ""  # a label is known by itself
            for row in zip(*(column.cells for column in self.columns), strict=True):
                (name, first), *others = zip(names, map(clean, map(str, row)), strict=True)
                yield Text(_label(f"{name} {first}".strip(), width), "bold"), ""
                for name, cell in others:
                    if cell:
                        text = f"{name}: {cell}" if name else cell
                        yield Text(_wrapped(text, width, _INDENT)), ""

        def _drawn(self, columns: Sequence[Column], widths: Sequence[int], rows: Any) -> Table:
            """Some columns and rows in widths that are given."""
            drawn = Table(**look)
            drawn.padding = self.padding
            for column, width in zip(columns, widths, strict=True):
                drawn.add_column(
                    column.header,
                    width=width,
                    justify=column.justify,
                    vertical=column.vertical,
                    style=column.style,
                )
            cells = [list(column.cells) for column in columns]
            for number in rows:
                row = self.rows[number]
                of_row = (each[number] for each in cells)
                drawn.add_row(*of_row, style=row.style, end_section=row.end_section)
            return drawn

        def _widths(
            self, console: Console, columns: Sequence[Column], width: int
        ) -> list[int] | None:
            """The widths of columns that together have a width, with all words whole, if any."""
            spans = [_span(column) for column in columns]
            most = [high for _, high in spans]
            wide = console.options.update(width=_WHOLE, max_width=_WHOLE)
            around = Measurement.get(console, wide, self._drawn(columns, most, ())).maximum
            room = width - (around - sum(most))
            if sum(most) <= room:
                return most
            levels = ([min(max(low, n), high) for low, high in spans] for n in range(width))
            return max((each for each in levels if sum(each) <= room), key=sum, default=None)

    return Fitting(**look)


def _span(column: Column) -> tuple[int, int]:
    """The width of a column's longest word, and of its longest line."""
    from rich.cells import cell_len

    lines = [line for text in (column.header, *column.cells) for line in str(text).split("\n")]
    words = lines if column.no_wrap else [word for line in lines for word in line.split()]
    least = max(column.min_width or 0, *map(cell_len, words), 0)
    return least, max(least, *map(cell_len, lines))


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


def _label(text: str, width: int) -> str:
    """A label within a width, its later lines indented if their words leave room for it."""
    longest = max(map(len, text.split()), default=0)
    return _wrapped(text, width, hanging=_INDENT if longest + len(_INDENT) <= width else "")


def _wrapped(text: str, width: int, indent: str = "", hanging: str = _INDENT) -> str:
    """A text within a width, but for words that are longer."""
    return textwrap.fill(
        text,
        max(width, 8),
        initial_indent=indent,
        subsequent_indent=f"{indent}{hanging}",
        break_long_words=False,
        break_on_hyphens=False,
    )
