"""Tasks of lm-evaluation-harness on a machine and on a reference, and their scores side by side."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from lamp.evaluation import Estimate, Setting, ratio
from lamp.machines import HardwareLike
from lamp.machines import hardware as machine
from lamp.models import Decoder

__all__ = ["Score", "Scores", "evaluate_tasks", "harness"]

_RESAMPLED: Final = 1000  # times, for the errors of scores that are no means
_ERROR: Final = "_stderr"


@dataclass(frozen=True)
class Score:
    """A score of a task on a machine and on the reference.

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


@dataclass(frozen=True)
class Scores:
    """The scores of a model on a machine.

    Parameters
    ----------
    setting : Setting
        The machine and its rules.
    reference : str
        The name of the reference's machine.
    scores : list of Score
        Tasks in the order in which they were asked for, and their metrics.
    not_finite, reference_not_finite : int
        The number of tokens whose logits held NaN or infinity.
    results, reference_results : mapping
        What the harness gives, with everything that it says of tasks and versions.
    """

    setting: Setting
    reference: str
    scores: list[Score]
    not_finite: int
    reference_not_finite: int
    results: Mapping[str, Any]
    reference_results: Mapping[str, Any]

    def notes(self) -> list[str]:
        """Say in words which numbers overflowed."""
        counts = {"the machine's": self.not_finite, "the reference's": self.reference_not_finite}
        return [
            f"numbers overflowed: {whose} logits hold NaN or infinity at {count} tokens, which "
            "count as impossible"
            for whose, count in counts.items()
            if count
        ]

    def record(self) -> dict[str, Any]:
        """Return the scores as plain data; numbers may be NaN."""
        return {
            **self.setting.record(),
            "reference": self.reference,
            "scores": [asdict(score) for score in self.scores],
            "task_versions": dict(self.results.get("versions", {})),
            "not_finite": self.not_finite,
            "reference_not_finite": self.reference_not_finite,
            "notes": self.notes(),
        }


def harness(name: str) -> Any:
    """Import a module that needs lm-evaluation-harness.

    Parameters
    ----------
    name : str

    Returns
    -------
    module

    Raises
    ------
    ModuleNotFoundError
        If the harness is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "lm_eval":
            raise
        raise ModuleNotFoundError(
            "tasks need the package lm-eval, which is not installed: pip install 'fpemu-lamp[eval]'"
        ) from error


def evaluate_tasks(
    model: Decoder,
    setting: Setting,
    tasks: Sequence[str],
    *,
    reference: HardwareLike = "fp64",
    folder: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    shots: int | None = None,
    chat: bool = False,
) -> Scores:
    """Let a model do tasks on a machine and on a reference.

    Parameters
    ----------
    model : Decoder
        The weights.
    setting : Setting
        The machine and its rules.
    tasks : sequence of str
        Names of the harness, or those of files in `folder`.
    reference : Hardware or str
        The machine of the reference.
    folder : path-like, optional
        A folder with tasks of your own, as the harness has them.
    limit : int, optional
        Do the first documents of each task only.
    shots : int, optional
        The number of examples in front of each question; by default the task's own.
    chat : bool
        Whether questions are put into the model's chat template.

    Returns
    -------
    Scores

    Raises
    ------
    ModuleNotFoundError
        If lm-evaluation-harness is not installed.
    ValueError
        If a task is unknown.
    """
    kind = harness("lamp.integrations.harness.language_model").LanguageModel
    manager = _manager(tasks, folder)
    exact = machine(reference)
    asked = [kind(model, each.hardware, each.lamp) for each in (setting, Setting(exact))]
    with contextlib.redirect_stdout(sys.stderr):  # what the harness prints is no result
        found = [
            harness("lm_eval").simple_evaluate(
                each,
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                num_fewshot=shots,
                apply_chat_template=chat,
                bootstrap_iters=_RESAMPLED,
                log_samples=True,
            )
            for each in asked
        ]
    counts = [each.not_finite for each in asked]
    return Scores(setting, exact.name, list(_scores(*found)), *counts, *found)


def _manager(tasks: Sequence[str], folder: str | os.PathLike[str] | None) -> Any:
    """The harness's manager of tasks; its own ones are looked through only if they are needed."""
    make = harness("lm_eval.tasks").TaskManager
    if folder is not None:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no folder of tasks {os.fspath(folder)!r}")
        manager = make(include_path=os.fspath(folder), include_defaults=False)
        if all(task in manager.all_tasks for task in tasks):
            return manager
    manager = make(include_path=None if folder is None else os.fspath(folder))
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown:
        place = "" if folder is None else f" nor in {os.fspath(folder)}"
        raise ValueError(f"no task {unknown[0]!r} in lm-evaluation-harness{place}")
    return manager


def _scores(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[Score]:
    """The scores of two evaluations of the same tasks, side by side."""
    for task, entries in found["results"].items():
        better = found.get("higher_is_better", {}).get(task, {})
        for name, value in entries.items():
            metric, comma, kind = name.partition(",")
            if not comma or metric.endswith(_ERROR) or not _is_number(value):
                continue
            others = expected["results"][task]
            error = f"{metric}{_ERROR},{kind}"
            pairs = _pairs(found, expected, task, metric, kind)
            is_mean = len(pairs) > 0 and math.isclose(pairs[:, 0].mean(), value, abs_tol=1e-12)
            counts = found.get("n-samples", {}).get(task, {})
            yield Score(
                task,
                metric,
                kind,
                int(counts.get("effective", 0)),
                float(value),
                _number(entries.get(error)),
                _number(others.get(name)),
                _number(others.get(error)),
                _difference(pairs) if is_mean else None,
                int((pairs[:, 0] != pairs[:, 1]).sum()) if is_mean else None,
                better.get(metric),
            )


def _pairs(
    found: Mapping[str, Any], expected: Mapping[str, Any], task: str, metric: str, kind: str
) -> Any:
    """A metric of each document on the machine and on the reference; empty if it has none."""
    sides = []
    for results in (found, expected):
        samples = results.get("samples", {}).get(task, ())
        sides.append(
            {
                sample["doc_id"]: sample[metric]
                for sample in samples
                if sample.get("filter", kind) == kind and _is_number(sample.get(metric))
            }
        )
    one, other = sides
    if one.keys() != other.keys():
        return np.empty((0, 2))
    return np.array([(one[number], other[number]) for number in one], np.float64).reshape(-1, 2)


def _difference(pairs: Any) -> Estimate:
    return ratio(pairs[:, 0] - pairs[:, 1], np.ones(len(pairs)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def _number(value: Any) -> float:
    """A number; NaN for the harness's "N/A"."""
    return float(value) if _is_number(value) else math.nan
