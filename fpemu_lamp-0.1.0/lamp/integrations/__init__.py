"""Models of other libraries on simulated machines, and tasks of lm-evaluation-harness.

Nothing of torch, transformers or the harness is imported before a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fpemu._lazy import lazy

if TYPE_CHECKING:
    from lamp.integrations.harness import (
        ComparedScore,
        Score,
        Scores,
        TaskResult,
        TaskSource,
        compared_scores,
        evaluate_tasks,
    )
    from lamp.integrations.loading import from_pretrained, reader
    from lamp.integrations.transformers import Simulated, simulate

__all__ = [
    "ComparedScore",
    "Score",
    "Scores",
    "Simulated",
    "TaskResult",
    "TaskSource",
    "compared_scores",
    "evaluate_tasks",
    "from_pretrained",
    "reader",
    "simulate",
]

_NAMES: Final = {
    "harness": "ComparedScore Score Scores TaskResult TaskSource compared_scores evaluate_tasks",
    "loading": "from_pretrained reader",
    "transformers": "Simulated simulate",
}

if not TYPE_CHECKING:  # to which every name is known by its import above
    __getattr__, __dir__ = lazy(__name__, _NAMES)
