"""Tasks of lm-evaluation-harness on simulated machines; needs the extra ``eval``."""

from lamp.integrations.harness.evaluation import Scores, evaluate_tasks
from lamp.integrations.harness.scores import ComparedScore, Score, TaskResult, compared_scores
from lamp.integrations.harness.sources import TaskSource, harness

__all__ = [
    "ComparedScore",
    "Score",
    "Scores",
    "TaskResult",
    "TaskSource",
    "compared_scores",
    "evaluate_tasks",
    "harness",
]
