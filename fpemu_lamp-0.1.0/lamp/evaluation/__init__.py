"""Evaluation: models on machines compared with a reference, on texts."""

from lamp.evaluation import numerics
from lamp.evaluation.clocks import Clock
from lamp.evaluation.comparisons import Comparison, compare, side_by_side, without_nan
from lamp.evaluation.metrics import (
    ESTIMATED,
    NUMBERS,
    Compared,
    Metrics,
    Sums,
    Totals,
    evaluate,
    reference_logits,
)
from lamp.evaluation.numerics import versions
from lamp.evaluation.sampling import Samples, samples, stochastic
from lamp.evaluation.settings import Setting, setting_parts
from lamp.evaluation.sources import (
    HELD_OUT,
    SAMPLES,
    STANDARD_INPUT,
    Source,
    read_standard_input,
    special_tokens,
    standard_input,
)
from lamp.evaluation.texts import Text, window_sizes
from lamp.evaluation.uncertainty import Bounded, Estimate, paired, ratio

__all__ = [
    "ESTIMATED",
    "HELD_OUT",
    "NUMBERS",
    "SAMPLES",
    "STANDARD_INPUT",
    "Bounded",
    "Clock",
    "Compared",
    "Comparison",
    "Estimate",
    "Metrics",
    "Samples",
    "Setting",
    "Source",
    "Sums",
    "Text",
    "Totals",
    "compare",
    "evaluate",
    "numerics",
    "paired",
    "ratio",
    "read_standard_input",
    "standard_input",
    "reference_logits",
    "samples",
    "setting_parts",
    "special_tokens",
    "side_by_side",
    "stochastic",
    "versions",
    "window_sizes",
    "without_nan",
]
