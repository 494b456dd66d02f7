"""Evaluation: models on machines compared with a reference, on texts."""

from lamp.evaluation import numerics
from lamp.evaluation.comparisons import Comparison, compare, side_by_side, without_nan
from lamp.evaluation.metrics import Metrics, Totals, evaluate, reference_logits
from lamp.evaluation.numerics import versions
from lamp.evaluation.settings import Setting, setting_parts
from lamp.evaluation.sources import (
    HELD_OUT,
    STANDARD_INPUT,
    Source,
    read_standard_input,
    standard_input,
)
from lamp.evaluation.texts import Text, window_sizes

__all__ = [
    "HELD_OUT",
    "STANDARD_INPUT",
    "Comparison",
    "Metrics",
    "Setting",
    "Source",
    "Text",
    "Totals",
    "compare",
    "evaluate",
    "numerics",
    "read_standard_input",
    "standard_input",
    "reference_logits",
    "setting_parts",
    "side_by_side",
    "versions",
    "window_sizes",
    "without_nan",
]
