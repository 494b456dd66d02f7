"""Results as files for other programs: CSV and Parquet, one line per run, in full precision."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp._files import writing
from lamp.evaluation import NUMBERS
from lamp.reports.results import Beside, compared

if TYPE_CHECKING:
    from lamp.reports.results import Results
    from lamp.studies import Run

__all__ = [
    "as_csv",
    "as_parquet",
    "columns",
    "lines",
    "to_pandas",
    "write_csv",
    "write_parquet",
    "written_csv",
]

_LABELS: Final = ("model", "text", "hardware", "lamp", "reference")
_COUNTS: Final = ("tokens", "clusters", "windows")
_ENDED: Final = ("seconds", "started_at", "finished_at", "error", "environment")
_COMPARED: Final = ("kl_factor", "kl_more", "flip_rate_more")
_ESTIMATES: Final = [f"{name}{end}" for name in _COMPARED for end in ("", "_error")]
_BEFORE: Final = ("study", "position", *_LABELS)
_AFTER: Final = (
    *("state", *_COUNTS, *NUMBERS),
    *("baseline", *_ESTIMATES),
    *(*_ENDED, "key"),
)
_OF_FORMULAS: Final = ("=", "+", "-", "@")
_BLANKS: Final = ("\t", "\r", "\n")


def write_csv(studies: Sequence[Results], path: Path) -> None:
    """Write all runs as a CSV file, one per line.

    ``baseline`` is the position of the run that a run is compared with, on the same tokens; the
    divergence is ``kl_factor`` times and by ``kl_more`` larger than its, the share of flips by
    ``flip_rate_more``, each with its standard error.

    Parameters
    ----------
    studies : sequence of Results
    path : Path
        The file; its folder must exist.
    """
    writing.check(path)
    writing.write(path, as_csv(studies))


def write_parquet(studies: Sequence[Results], path: Path) -> None:
    """Write all runs as a Parquet file, with the columns of :func:`write_csv`.

    Parameters
    ----------
    studies : sequence of Results
    path : Path
        The file; its folder must exist.

    Raises
    ------
    ModuleNotFoundError
        If pyarrow is not installed.
    """
    writing.check(path)
    writing.write(path, as_parquet(studies))


def to_pandas(studies: Sequence[Results]) -> Any:
    """All runs as a data frame, with the columns of :func:`write_csv`.

    Parameters
    ----------
    studies : sequence of Results

    Returns
    -------
    pandas.DataFrame
        One row per run; what a run does not have is missing.

    Raises
    ------
    ModuleNotFoundError
        If pandas is not installed.

    Examples
    --------
    >>> from lamp import reports
    >>> frame = reports.to_pandas(reports.read("study.sqlite"))  # doctest: +SKIP
    >>> frame.groupby("hardware").kl.mean()  # doctest: +SKIP
    """
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "data frames need pandas: pip install pandas", name="pandas"
        ) from error
    rows = ({name: _whole(value) for name, value in line.items()} for line in lines(studies))
    return pandas.DataFrame(rows, columns=columns(studies))


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
    found = []
    for study in studies:
        known = {each.run.position: each for each in compared(study)}
        found += [_line(run, variables, known.get(run.position)) for run in study.records]
    return found


def _line(run: Run, variables: Mapping[str, str], beside: Beside | None) -> dict[str, Any]:
    estimates = beside.found if beside else ()
    numbers = [number for each in estimates for number in (each.value, each.error)]
    return {
        **{name: getattr(run, name) for name in (*_BEFORE, "state", *_ENDED, "key")},
        **{column: run.variables.get(name) for name, column in variables.items()},
        **{name: getattr(run.metrics, name, None) for name in (*_COUNTS, *NUMBERS)},
        "baseline": beside and beside.baseline.position,
        **dict(zip(_ESTIMATES, numbers or repeat(None, len(_ESTIMATES)), strict=True)),
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
    if name in ("position", "baseline", *_COUNTS):
        return values, arrow.int64()
    if name in ("seconds", *NUMBERS, *_ESTIMATES):
        return values, arrow.float64()
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int, float} and name not in (*_BEFORE, *_AFTER):
        number, kind = (float, arrow.float64()) if float in kinds else (int, arrow.int64())
        return [None if value is None else number(value) for value in values], kind
    texts = [value if value is None else _whole(str(value)) for value in values]
    return texts, arrow.string()


def _whole(value: Any) -> Any:
    """A value whose text has whole characters: JSON may have halves, which UTF-8 has not."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
