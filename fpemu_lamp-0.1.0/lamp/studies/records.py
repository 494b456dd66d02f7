"""The rows of a store as records, each value checked: others may have written to the file.

A column means the same in all tables that have it, and so its name says what it may hold.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from lamp.evaluation import NUMBERS, Metrics, Sums
from lamp.integrations import Score, TaskResult
from lamp.studies.runs import Run, TaskRun

__all__ = [
    "ALL",
    "ANSWERS",
    "ENDED",
    "LABELS",
    "METRICS",
    "SCORES",
    "TASK_LABELS",
    "checked",
    "run",
    "score",
    "task_run",
]

ALL: Final = "all"
"""The step that stands for all steps together."""

LABELS: Final = ("model", "text", "hardware", "lamp", "reference")
TASK_LABELS: Final = ("model", "task", "hardware", "lamp", "reference")
_COUNTS: Final = ("tokens", "clusters", "windows")
METRICS: Final = ("tokens", *NUMBERS, "clusters", "windows")  # in the order of the table
ENDED: Final = ("seconds", "started_at", "finished_at", "error", "environment")

SCORES: Final = (  # in the order of the table, behind the key
    "number",
    "task",
    "metric",
    "filter",
    "version",
    "documents",
    "score",
    "score_error",
    "higher_is_better",
    "not_finite",
)
ANSWERS: Final = ("number", "document", "score")

_MEMBER: Final = ("study", "position", "key", *LABELS, "variables", "state")
_TASK_MEMBER: Final = (
    "study",
    "position",
    "key",
    *TASK_LABELS,
    "variables",
    "subject",
    "state",
)
_STATES: Final = ("done", "failed", "missing")
_INTEGERS: Final = range(-(2**63), 2**64)
_DEEPEST: Final = 20  # lists and objects of JSON within each other
_LONGEST_STEP: Final = 30
_MOST_SHOWN: Final = 60  # letters of a wrong value in a message


# --- what a column may hold -----------------------------------------------------------------------


class _Kind(NamedTuple):
    """What is expected, and a function that reads a value or raises an error."""

    expected: str
    read: Callable[[Any], Any]


def _require(fits: object) -> None:
    if not fits:
        raise ValueError


def _text(most: int) -> _Kind:
    def read(value: Any) -> Any:
        _require(isinstance(value, str) and len(value) <= most)
        return value

    return _Kind(f"a text of at most {most:,} letters", read)


def _step(value: Any) -> Any:
    _require(isinstance(value, str) and value.isidentifier() and len(value) <= _LONGEST_STEP)
    return value


def _count(value: Any) -> int:
    _require(isinstance(value, int) and value >= 0)
    return int(value)


def _number(value: Any) -> float:
    _require(value is None or isinstance(value, (int, float)))
    return math.nan if value is None else float(value)


def _seconds(value: Any) -> float:
    _require(isinstance(value, (int, float)) and 0 <= value < math.inf)
    return float(value)


def _time(value: Any) -> str:
    datetime.fromisoformat(value)
    return str(value)


def _state(value: Any) -> Any:
    _require(value in _STATES)
    return value


def _object(value: Any) -> dict[str, Any]:
    found = json.loads(value)
    _require(isinstance(value, str) and isinstance(found, dict))
    _check_plain(found, _DEEPEST)
    return dict(found)


def _check_plain(value: Any, deepest: int) -> None:
    _require(deepest)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        _check_plain(part, deepest - 1)
    _require(not isinstance(value, int) or value in _INTEGERS)


def _variables(value: Any) -> dict[str, Any]:
    found = _object(value)
    _require(all(isinstance(each, (str, int, float)) for each in found.values()))
    _require(all(not isinstance(x, float) or math.isfinite(x) for x in found.values()))
    return found


def _truth(value: Any) -> bool | None:
    _require(value in (None, 0, 1))
    return None if value is None else bool(value)


def _optional(kind: _Kind) -> _Kind:
    return kind._replace(read=lambda value: None if value is None else kind.read(value))


_KEY: Final = _text(10_000)
_LABEL: Final = _KEY._replace(read=lambda value: sys.intern(_KEY.read(value)))  # many runs' own
_COUNT: Final = _Kind("an integer from 0", _count)
_NUMBER: Final = _Kind("a number", _number)
_TIME: Final = _Kind("a time as ISO 8601", _time)
_OBJECT: Final = _Kind("an object of JSON", _object)
_KINDS: Final = {
    **dict.fromkeys(("study", *LABELS, "environment", "id", "name"), _LABEL),
    **dict.fromkeys(("key", "subject"), _KEY),
    "note": _KEY,
    **dict.fromkeys(("definition", "configuration", "record"), _OBJECT),
    **dict.fromkeys(("error", "traceback"), _optional(_text(10**6))),
    **dict.fromkeys(("started_at", "finished_at", "planned_at"), _TIME),
    **dict.fromkeys((*NUMBERS, "rate"), _NUMBER),
    **dict.fromkeys(("position", "layer", "cluster", "positions", "flips", *_COUNTS), _COUNT),
    **dict.fromkeys(("task", "metric", "filter", "version"), _LABEL),
    **dict.fromkeys(("number", "document", "documents", "not_finite"), _COUNT),
    **dict.fromkeys(("score", "score_error"), _NUMBER),
    "higher_is_better": _Kind("0, 1 or nothing", _truth),
    "variables": _Kind("an object of JSON with numbers and texts", _variables),
    "seconds": _Kind("a number from 0", _seconds),
    "state": _Kind(f"one of {', '.join(_STATES)}", _state),
    "step": _Kind("the name of a step", _step),
}


def checked(store: Path, names: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """Return the values of a row by their columns, JSON parsed.

    Parameters
    ----------
    store : Path
        The store, for messages.
    names : sequence of str
        The columns.
    row : sequence
        Their values.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If a value is not what its column holds; the message names store, column and value.
    """
    found = {}
    for name, value in zip(names, row, strict=True):
        kind = _KINDS[name]
        try:
            found[name] = kind.read(value)
        except (ValueError, TypeError, RecursionError):
            shown = repr(value if not isinstance(value, (str, bytes)) else value[:_MOST_SHOWN])
            raise ValueError(
                f"the store {store} is damaged: {name} is {shown[:_MOST_SHOWN]}, not "
                f"{kind.expected}"
            ) from None
    return found


# --- records --------------------------------------------------------------------------------------


def run(
    store: Path,
    row: Mapping[str, Any],
    rates: Mapping[str, Sequence[float]],
    sums: Sequence[Sums],
    notes: Sequence[str],
) -> Run:
    """Return the run of a row of the view ``results``.

    Parameters
    ----------
    store : Path
        The store, for messages.
    row : mapping
        The row.
    rates : mapping of str to sequence of float
        The recomputation rates of its layers by step.
    sums : sequence of Sums
        What its clusters add up to.
    notes : sequence of str
        What the model said of itself.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        As :func:`checked`.
    """

    def values(names: Sequence[str]) -> dict[str, Any]:
        return checked(store, names, [row[name] for name in names])

    member = values(_MEMBER)
    if member["state"] == "missing":
        return Run(**member)
    metrics = None
    if member["state"] == "done":
        steps = {step: tuple(layers) for step, layers in rates.items()}
        layers = steps.pop(ALL, ())
        given = values(METRICS)
        metrics = Metrics(layer_rates=layers, step_rates=steps, sums=tuple(sums), **given)
    return Run(**member, **values(ENDED), metrics=metrics, notes=tuple(notes))


def score(row: Mapping[str, Any], documents: Mapping[int, float]) -> Score:
    """Return the score of a row of the table ``scores``.

    Parameters
    ----------
    row : mapping
        The row, checked.
    documents : mapping of int to float
        The scores of its documents.

    Returns
    -------
    Score
    """
    return Score(
        row["task"],
        row["metric"],
        row["filter"],
        row["version"],
        row["documents"],
        row["score"],
        row["score_error"],
        row["higher_is_better"],
        documents,
    )


def task_run(
    store: Path,
    row: Mapping[str, Any],
    scores: Sequence[Score],
    not_finite: int,
    notes: Sequence[str],
) -> TaskRun:
    """Return the run of a row of the view ``task_results``.

    Parameters
    ----------
    store : Path
        The store, for messages.
    row : mapping
        The row.
    scores : sequence of Score
        Its scores.
    not_finite : int
        The number of tokens whose logits held NaN or infinity.
    notes : sequence of str
        What the model said of itself.

    Returns
    -------
    TaskRun

    Raises
    ------
    ValueError
        As :func:`checked`.
    """
    names = [*_TASK_MEMBER, *(ENDED if row["state"] != "missing" else ())]
    values = checked(store, names, [row[name] for name in names])
    values["text"] = values.pop("task")
    found = TaskResult(tuple(scores), not_finite) if values["state"] == "done" else None
    return TaskRun(**values, result=found, notes=tuple(notes))
