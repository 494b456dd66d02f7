"""Scores in tasks of lm-evaluation-harness: of a model on one machine, and beside a reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from lamp.evaluation import Estimate, ratio

__all__ = ["ComparedScore", "Score", "TaskResult", "compared_scores", "scores_of"]

_ERROR: Final = "_stderr"


@dataclass(frozen=True)
class Score:
    """A score of a model in a task, on one machine.

    Parameters
    ----------
    task, metric, filter : str
        As the harness calls them; the filter is ``"none"`` for answers as they are.
    version : str
        The version of the task.
    count : int
        The number of documents; 0 for a group of tasks.
    value, error : float
        The score and its standard error, by the harness; NaN where it gives none.
    higher_is_better : bool or None
        Whether it is, if the harness says so.
    documents : mapping of int to float
        The score of each document by its number; empty if the score is not their mean.
    """

    task: str
    metric: str
    filter: str
    version: str
    count: int
    value: float
    error: float
    higher_is_better: bool | None
    documents: Mapping[int, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class TaskResult:
    """What a model achieved in a task, on one machine.

    Parameters
    ----------
    scores : tuple of Score
        The metrics of the task, or of all tasks of a group.
    not_finite : int
        The number of tokens whose logits held NaN or infinity.
    digest : str
        The SHA-256 of all that was asked, as :meth:`TaskSource.digest` gives it.
    results : mapping
        What the harness gives; empty for a result that comes from a store.
    """

    scores: tuple[Score, ...]
    not_finite: int
    digest: str = ""
    results: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class ComparedScore:
    """A score of a task on a machine, beside the reference's.

    Parameters
    ----------
    task, metric, filter : str
        As the harness calls them; the filter is ``"none"`` for answers as they are.
    count : int
        The number of documents; 0 for a group of tasks.
    value, reference : float
        The score on the machine, and on the reference.
    value_error, reference_error : float
        Their standard errors, by the harness; NaN where it gives none.
    difference : Estimate or None
        How much larger the score is than the reference's, with the error of the differences
        document by document, which is smaller than what the two errors say; None if the score is
        not the mean of its documents.
    changed : int or None
        The number of documents whose own score is another; None as above.
    higher_is_better : bool or None
        Whether it is, if the harness says so.
    """

    task: str
    metric: str
    filter: str
    count: int
    value: float
    value_error: float
    reference: float
    reference_error: float
    difference: Estimate | None
    changed: int | None
    higher_is_better: bool | None


def scores_of(results: Mapping[str, Any]) -> Iterator[Score]:
    """The scores in what the harness gives.

    Parameters
    ----------
    results : mapping
        As ``lm_eval.simple_evaluate`` returns it, with samples.

    Yields
    ------
    Score
    """
    for task, entries in results["results"].items():
        better = results.get("higher_is_better", {}).get(task, {})
        counts = results.get("n-samples", {}).get(task, {})
        for name, value in entries.items():
            metric, comma, kind = name.partition(",")
            if not comma or metric.endswith(_ERROR) or not _is_number(value):
                continue
            documents = _documents(results.get("samples", {}).get(task, ()), metric, kind)
            mean = math.fsum(documents.values()) / len(documents) if documents else math.nan
            yield Score(
                task,
                metric,
                kind,
                str(results.get("versions", {}).get(task, "")),
                int(counts.get("effective", 0)),
                float(value),
                _number(entries.get(f"{metric}{_ERROR},{kind}")),
                better.get(metric),
                documents if math.isclose(mean, value, abs_tol=1e-12) else {},
            )


def compared_scores(
    scores: Iterable[Score], references: Iterable[Score]
) -> Iterator[ComparedScore]:
    """Scores beside those of the reference in the same task.

    Parameters
    ----------
    scores, references : iterable of Score

    Yields
    ------
    ComparedScore
        Scores that the reference lacks are left out.
    """
    known = {(each.task, each.metric, each.filter): each for each in references}
    for score in scores:
        other = known.get((score.task, score.metric, score.filter))
        if other is None:
            continue
        own, others = score.documents, other.documents
        paired = len(own) > 0 and own.keys() == others.keys()
        differences = np.array([own[each] - others[each] for each in own] if paired else [])
        yield ComparedScore(
            score.task,
            score.metric,
            score.filter,
            score.count,
            score.value,
            score.error,
            other.value,
            other.error,
            ratio(differences, np.ones(len(differences))) if paired else None,
            int(np.count_nonzero(differences)) if paired else None,
            score.higher_is_better,
        )


def _documents(samples: Any, metric: str, kind: str) -> dict[int, float]:
    """A metric of each document, by its number."""
    return {
        int(sample["doc_id"]): float(sample[metric])
        for sample in samples
        if sample.get("filter", kind) == kind and _is_number(sample.get(metric))
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def _number(value: Any) -> float:
    """A number; NaN for the harness's "N/A"."""
    return float(value) if _is_number(value) else math.nan
