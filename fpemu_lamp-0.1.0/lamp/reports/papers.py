"""The tables of a report as LaTeX or Markdown, for papers and notes.

A column of labels that says the same in all rows stands in the table's caption instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from fpemu._printing import clean
from lamp._files import writing
from lamp.reports import tables

if TYPE_CHECKING:
    from lamp.reports.results import Results
    from lamp.reports.tables import Table

__all__ = ["TABLE_KINDS", "as_text", "write_tables"]

_TABLES: Final[Mapping[str, Callable[[Results], Table]]] = {
    "Texts": tables.texts,
    "Machines compared": tables.tuned,
    "Rules compared": tables.comparisons,
    "Seeds": tables.seeds,
    "Tasks": tables.scores,
    "Runs": tables.runs,
}
_LATEX: Final = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "∞": r"$\infty$",
        "◆": r"$\bullet$",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
    }
)
_MARKDOWN: Final = str.maketrans({sign: f"\\{sign}" for sign in r"\`*_{}[]<>#|$~"})
TABLE_KINDS: Final = {".tex": _LATEX, ".md": _MARKDOWN}
"""The endings of files, and how signs are written that mean something there."""


def write_tables(studies: Sequence[Results], path: Path) -> None:
    """Write the tables of a report as LaTeX (.tex) or Markdown (.md).

    Parameters
    ----------
    studies : sequence of Results
    path : Path
        The file; its folder must exist.  LaTeX needs the package booktabs.

    Raises
    ------
    ValueError
        If the file's name has another ending.
    """
    if path.suffix not in TABLE_KINDS:
        raise ValueError(f"{str(path)!r} ends in no kind of table: expected .tex or .md")
    writing.check(path)
    writing.write(path, as_text(studies, path.suffix).encode())


def as_text(studies: Sequence[Results], kind: str) -> str:
    """The tables as text of a kind, ".tex" or ".md"."""
    template = _templates(kind).get_template(f"tables{kind}")
    made = (
        (study.name, [(title, make(study)) for title, make in _TABLES.items()]) for study in studies
    )
    return template.render(studies=made)


@cache
def _templates(kind: str) -> Environment:
    """The templates of a kind; all that they are given is written as plain text there."""
    written = TABLE_KINDS[kind]
    return Environment(
        loader=PackageLoader("lamp.reports"),
        finalize=lambda value: clean(str(value)).replace("\n", " ").translate(written),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        variable_start_string="<<",
        variable_end_string=">>",
        keep_trailing_newline=True,
    )
