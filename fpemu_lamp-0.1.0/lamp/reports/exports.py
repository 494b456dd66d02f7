"""Results for other programs, in full precision: CSV, Parquet, data frames.

A run on a text has a line, and so has each score of a task.  What a line does not have is empty.
The columns:

``study``, ``position``, ``model``, ``text``, ``hardware``, ``lamp``, ``reference``
    The run: its study, its place there (from 0), and its labels.  The text of a task is its label.
variables of the grid
    A column for each, called as it is, or ``grid_`` and its name where another column is called so.
``state``
    ``done``, ``failed`` or ``missing``.
``tokens``, ``clusters``, ``windows``, ``kl``, ``flip_rate`` and so on, ``kl_error`` and so on
    The metrics of a run on a text and their standard errors, as in :class:`lamp.Metrics`.
``baseline``, ``kl_factor``, ``kl_more``, ``flip_rate_more``, each with ``_error``
    ``baseline`` is the position of the run that a run on a text is compared with, on the same
    tokens: the one without look-ahead on its machine, or the first there.  The divergence is
    ``kl_factor`` times and by ``kl_more`` larger than the baseline's, the share of flips by
    ``flip_rate_more``.
``task``, ``metric``, ``filter``, ``documents``, ``higher_is_better``
    A score of a task as lm-evaluation-harness calls it, and the number of its documents.
``score``, ``score_error``, ``reference_score``, ``reference_score_error``
    The score and its standard error, and those of the reference.
``score_more``, ``score_more_error``, ``changed``
    How much larger the score is than the reference's, with the standard error of the differences
    document by document; and how many documents have another score of their own.
``not_finite``
    The number of tokens of a task whose logits held NaN or infinity.
``seconds``, ``started_at``, ``finished_at``, ``error``, ``environment``, ``key``
    As in :class:`lamp.studies.Run`.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from lamp._files import writing
from lamp.evaluation import NUMBERS, without_nan
from lamp.reports.runs import Beside, compared, scored
from lamp.studies import TaskRun

if TYPE_CHECKING:
    from lamp.integrations import ComparedScore, Score
    from lamp.studies import Run

__all__ = [
    "Study",
    "as_csv",
    "as_json",
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
_SCORES: Final = (
    *("score", "score_error", "reference_score", "reference_score_error"),
    *("score_more", "score_more_error"),
)
_OF_TASKS: Final = (
    *("task", "metric", "filter", "documents", "higher_is_better"),
    *_SCORES,
    *("changed", "not_finite"),
)
_AFTER: Final = (
    *("state", *_COUNTS, *NUMBERS),
    *("baseline", *_ESTIMATES),
    *_OF_TASKS,
    *(*_ENDED, "key"),
)
_INTEGERS: Final = ("position", "baseline", *_COUNTS, "documents", "changed", "not_finite")
_REALS: Final = ("seconds", *NUMBERS, *_ESTIMATES, *_SCORES)
_OF_FORMULAS: Final = ("=", "+", "-", "@")
_BLANKS: Final = ("\t", "\r", "\n")


class Study(Protocol):
    """What is written of a study; :class:`lamp.reports.Results` has it."""

    # Results has a method that exports it, so that a type from there would be a circle.

    @property
    def records(self) -> Sequence[Run]:
        """Its runs on texts."""

    @property
    def tasks(self) -> Sequence[TaskRun]:
        """Its runs that are tasks."""

    @property
    def variables(self) -> Mapping[str, Sequence[Any]]:
        """The values of each variable of its grid."""


def write_csv(studies: Sequence[Study], path: Path) -> None:
    """Write all runs and scores as a CSV file, one per line.

    :mod:`lamp.reports.exports` documents the columns.

    Parameters
    ----------
    studies : sequence of Results
    path : Path
        The file; its folder must exist.
    """
    writing.check(path)
    writing.write(path, as_csv(studies))


def write_parquet(studies: Sequence[Study], path: Path) -> None:
    """Write all runs and scores as a Parquet file, with the columns of :func:`write_csv`.

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


def to_pandas(studies: Sequence[Study]) -> Any:
    """All runs and scores as a data frame, with the columns of :func:`write_csv`.

    Parameters
    ----------
    studies : sequence of Results

    Returns
    -------
    pandas.DataFrame
        One row per run on a text and per score of a task; what a row does not have is missing.

    Raises
    ------
    ModuleNotFoundError
        If pandas is not installed.

    Examples
    --------
    >>> from lamp import reports
    >>> frame = reports.to_pandas(reports.read("study.sqlite"))  # doctest: +SKIP
    >>> frame.groupby("hardware").kl.mean()  # doctest: +SKIP
    >>> frame.pivot_table("score", "hardware", ["task", "metric"])  # doctest: +SKIP
    """
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "data frames need pandas: pip install pandas", name="pandas"
        ) from error
    rows = ({name: _whole(value) for name, value in line.items()} for line in lines(studies))
    return pandas.DataFrame(rows, columns=columns(studies))


def columns(studies: Iterable[Study]) -> list[str]:
    """The names of the columns, those of the grids' variables among them."""
    return [*_BEFORE, *_variables(studies).values(), *_AFTER]


def _variables(studies: Iterable[Study]) -> dict[str, str]:
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


def lines(studies: Sequence[Study]) -> Iterator[dict[str, Any]]:
    """All runs and scores of studies, in order: column to value, None where there is none."""
    variables = _variables(studies)
    for study in studies:
        known = {each.run.position: each for each in compared(study.records)}
        beside: dict[tuple[Any, ...], ComparedScore] = {
            (each.run.position, *_which(each.score)): each.score for each in scored(study.tasks)
        }
        for run in sorted([*study.records, *study.tasks], key=lambda run: run.position):
            common = _line(run, variables, known.get(run.position))
            scores = _scores(run, beside) if isinstance(run, TaskRun) else ()
            yield from [common | score for score in scores] or [common]


def _line(run: Run, variables: Mapping[str, str], beside: Beside | None) -> dict[str, Any]:
    estimates = beside.found if beside else ()
    numbers = [number for each in estimates for number in (each.value, each.error)]
    return {
        **{name: getattr(run, name) for name in (*_BEFORE, "state", *_ENDED, "key")},
        **{column: run.variables.get(name) for name, column in variables.items()},
        **{name: getattr(run.metrics, name, None) for name in (*_COUNTS, *NUMBERS)},
        "baseline": beside and beside.baseline.position,
        **dict(zip(_ESTIMATES, numbers or repeat(None, len(_ESTIMATES)), strict=True)),
        **dict.fromkeys(_OF_TASKS),
    }


def _which(score: Score | ComparedScore) -> tuple[str, str, str]:
    """What tells the scores of a run from each other."""
    return score.task, score.metric, score.filter


def _scores(
    run: TaskRun, beside: Mapping[tuple[Any, ...], ComparedScore]
) -> Iterator[dict[str, Any]]:
    """The columns of each score of a task, beside the reference's where that is known."""
    for score in run.result.scores if run.result else ():
        other = beside.get((run.position, *_which(score)))
        more = other and other.difference
        values = (
            *_which(score),
            *(score.count, score.higher_is_better, score.value, score.error),
            *((other.reference, other.reference_error) if other else (None, None)),
            *((more.value, more.error) if more else (None, None)),
            *(other and other.changed, run.result and run.result.not_finite),
        )
        yield dict(zip(_OF_TASKS, values, strict=True))


def as_csv(studies: Sequence[Study]) -> bytes:
    """All runs and scores as CSV."""
    return written_csv(columns(studies), lines(studies))


def as_json(record: Mapping[str, Any]) -> bytes:
    """A record as JSON, where null stands for NaN and infinities."""
    return f"{json.dumps(without_nan(record), indent=2, allow_nan=False)}\n".encode()


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


def as_parquet(studies: Sequence[Study]) -> bytes:
    """All runs and scores as Parquet: NaN is NaN, and None is null."""
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Parquet files need pyarrow: pip install 'fpemu-lamp[parquet]'", name="pyarrow"
        ) from error
    found = list(lines(studies))
    arrays = {
        name: arrow.array(*_typed(arrow, name, [line[name] for line in found]), from_pandas=False)
        for name in columns(studies)
    }
    written = io.BytesIO()
    parquet.write_table(arrow.table(arrays), written)
    return written.getvalue()


def _typed(arrow: Any, name: str, values: list[Any]) -> tuple[list[Any], Any]:
    """The values of a column and their type: that of the store, or what a variable's have."""
    if name in _INTEGERS:
        return values, arrow.int64()
    if name in _REALS:
        return values, arrow.float64()
    if name == "higher_is_better":
        return values, arrow.bool_()
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int, float} and name not in (*_BEFORE, *_AFTER):
        number, kind = (float, arrow.float64()) if float in kinds else (int, arrow.int64())
        return [None if value is None else number(value) for value in values], kind
    texts = [value if value is None else _whole(str(value)) for value in values]
    return texts, arrow.string()


def _whole(value: Any) -> Any:
    """A value whose text has whole characters: JSON may have halves, which UTF-8 has not."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
