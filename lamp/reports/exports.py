"""Results as files for other programs: CSV and Parquet, one line per run, in full precision."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from lamp.evaluation import NUMBERS
from lamp.reports.results import Results

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = ["as_csv", "as_parquet", "columns", "lines", "written_csv"]

_LABELS: Final = ("model", "text", "hardware", "lamp", "reference")
_COUNTS: Final = ("position", "tokens", "clusters", "windows")
_OF_FORMULAS: Final = ("=", "+", "-", "@")
_BLANKS: Final = ("\t", "\r", "\n")
_ENDED: Final = ("seconds", "started_at", "finished_at", "error", "environment")
_BEFORE: Final = ("study", "position", *_LABELS)
_AFTER: Final = ("state", *_COUNTS[1:], *NUMBERS, *_ENDED, "key")


def columns(studies: Iterable[Results]) -> list[str]:
    """The names of the columns, those of the grids' variables among them."""
    return [*_BEFORE, *_variables(studies).values(), *_AFTER]


def _variables(studies: Iterable[Results]) -> dict[str, str]:
    """Columns by variable: they are called alike, unless another column is called so."""
    names = dict.fromkeys(name for study in studies for name in study.variables)
    taken = {*_BEFORE, *_AFTER, *names}
    found = {}
    for name in names:
        column = name
        while column in (*_BEFORE, *_AFTER) or (column != name and column in taken):
            column = f"grid_{column}"
        taken.add(column)
        found[name] = column
    return found


def lines(studies: Sequence[Results]) -> list[dict[str, Any]]:
    """All runs of studies, one after the other: column to value, None where there is none."""
    variables = _variables(studies)
    return [_line(record, variables) for study in studies for record in study.records]


def _line(record: Run, variables: Mapping[str, str]) -> dict[str, Any]:
    member, metrics = record, record.metrics
    return {
        "study": record.study,
        "position": record.position,
        **{label: getattr(member, label) for label in _LABELS},
        **{column: member.variables.get(name) for name, column in variables.items()},
        "state": record.state,
        **{name: getattr(metrics, name, None) for name in (*_COUNTS[1:], *NUMBERS)},
        **{name: getattr(record, name) for name in _ENDED},
        "key": member.key,
    }


def as_csv(studies: Sequence[Results]) -> bytes:
    """All runs as CSV."""
    return written_csv(columns(studies), lines(studies))


def written_csv(names: Sequence[str], values: Iterable[Mapping[str, Any]]) -> bytes:
    """A CSV file with a heading, in UTF-8: NaN is ``nan``, infinity ``inf``, None is empty.

    Texts that a spreadsheet would take for a formula begin with an apostrophe.
    """
    written = _Rows(newline="")
    writer = csv.DictWriter(written, names, lineterminator="\r\n")
    writer.writerow({name: _harmless(name) for name in names})
    for line in values:
        writer.writerow({name: _harmless(value) for name, value in line.items()})
    return written.getvalue().encode("utf-8", "replace")


class _Rows(io.StringIO):
    r"""Rows that end in ``\n``; csv before Python 3.13 quotes nothing but what ends its rows."""

    def write(self, row: str) -> int:
        return super().write(row.removesuffix("\r\n") + "\n")


def _harmless(value: Any) -> Any:
    """A value of which a spreadsheet makes no formula."""
    if isinstance(value, str) and value.lstrip().startswith(_OF_FORMULAS):
        return f"'{value}"
    return f"'{value}" if isinstance(value, str) and value[:1] in _BLANKS else value


def as_parquet(studies: Sequence[Results]) -> bytes:
    """All runs as Parquet: NaN is NaN, and None is null."""
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Parquet files need pyarrow: pip install 'fpemu-lamp[parquet]'", name="pyarrow"
        ) from error
    found = lines(studies)
    arrays = {
        name: arrow.array(*_typed(arrow, name, [line[name] for line in found]), from_pandas=False)
        for name in columns(studies)
    }
    written = io.BytesIO()
    parquet.write_table(arrow.table(arrays), written)
    return written.getvalue()


def _typed(arrow: Any, name: str, values: list[Any]) -> tuple[list[Any], Any]:
    """The values of a column and their type: that of the store, or what a variable's have."""
    if name in _COUNTS:
        return values, arrow.int64()
    if name in (*NUMBERS, "seconds"):
        return values, arrow.float64()
    given = [value for value in values if value is not None]
    if name not in (*_BEFORE, *_AFTER) and given:
        if all(isinstance(value, int) for value in given):
            return values, arrow.int64()
        if all(isinstance(value, (int, float)) for value in given):
            return [None if value is None else float(value) for value in values], arrow.float64()
    return [None if value is None else _encodable(str(value)) for value in values], arrow.string()


def _encodable(text: str) -> str:
    """A text without halves of characters, which JSON may have and UTF-8 has not."""
    return text.encode("utf-8", "replace").decode()
