"""Tasks of lm-evaluation-harness on simulated machines; needs the extra ``eval``."""

from lamp.integrations.harness.scores import Score, Scores, evaluate_tasks

__all__ = ["Score", "Scores", "evaluate_tasks"]
