"""Tasks of lm-evaluation-harness on a machine and on a reference, side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lamp.evaluation import Setting
from lamp.integrations.harness.scores import ComparedScore, TaskResult, compared_scores
from lamp.integrations.harness.sources import TaskSource
from lamp.machines import HardwareLike
from lamp.machines import hardware as machine
from lamp.models import Decoder

__all__ = ["Scores", "evaluate_tasks"]


@dataclass(frozen=True)
class Scores:
    """The scores of a model on a machine, beside those on a reference.

    Parameters
    ----------
    setting : Setting
        The machine and its rules.
    reference : str
        The name of the reference's machine.
    results, references : mapping of str to TaskResult
        By the label of each task, in the order in which they were asked for.
    """

    setting: Setting
    reference: str
    results: Mapping[str, TaskResult]
    references: Mapping[str, TaskResult]

    @property
    def scores(self) -> list[ComparedScore]:
        """Tasks in the order in which they were asked for, and their metrics."""
        pairs = ((self.results[task], self.references[task]) for task in self.results)
        return [
            score for one, other in pairs for score in compared_scores(one.scores, other.scores)
        ]

    @property
    def not_finite(self) -> tuple[int, int]:
        """The number of tokens with NaN or infinity, on the machine and on the reference."""
        one, other = (
            sum(each.not_finite for each in results.values())
            for results in (self.results, self.references)
        )
        return one, other

    def notes(self) -> list[str]:
        """Say in words which numbers overflowed."""
        owners = ("the machine's", "the reference's")
        return [
            f"numbers overflowed: {whose} logits hold NaN or infinity at {count} tokens, which "
            "count as impossible"
            for whose, count in zip(owners, self.not_finite, strict=True)
            if count
        ]

    def record(self) -> dict[str, Any]:
        """Return the scores as plain data; numbers may be NaN."""
        on_machine, on_reference = self.not_finite
        scores = [score for result in self.results.values() for score in result.scores]
        return {
            **self.setting.record(),
            "reference": self.reference,
            "scores": [asdict(score) for score in self.scores],
            "task_versions": {score.task: score.version for score in scores},
            "not_finite": on_machine,
            "reference_not_finite": on_reference,
            "notes": self.notes(),
        }


def evaluate_tasks(
    model: Decoder,
    setting: Setting,
    tasks: Sequence[str | TaskSource],
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
        The weights: a native model, or one of transformers by :func:`lamp.from_pretrained`.
    setting : Setting
        The machine and its rules.
    tasks : sequence of str or TaskSource
        Names of the harness, or those of files in `folder`.
    reference : Hardware or str
        The machine of the reference.
    folder, limit, shots, chat
        As for :class:`TaskSource`, of tasks that are names.

    Returns
    -------
    Scores

    Raises
    ------
    ModuleNotFoundError
        If lm-evaluation-harness is not installed.
    ValueError
        If a task is unknown, or the model is no decoder.
    FileNotFoundError
        If there is no such folder.
    """
    sources = [
        each if isinstance(each, TaskSource) else TaskSource(each, folder, limit, shots, chat)
        for each in tasks
    ]
    for source in sources:
        source.manager()  # raises an error before anything is computed
    exact = machine(reference)
    found = []
    for each in (setting, Setting(exact)):
        placed = model.with_hardware(each.hardware, each.lamp)
        found.append({source.label: source.answered(placed) for source in sources})
    return Scores(setting, exact.name, *found)
