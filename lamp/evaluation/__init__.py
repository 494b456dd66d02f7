"""How far a model on a machine is from its reference, on texts."""

from lamp.evaluation import numerics, runs, texts
from lamp.evaluation.metrics import Metrics, Totals, evaluate, reference_logits
from lamp.evaluation.runs import Run, Setting, Text, setting_parts
from lamp.evaluation.texts import HELD_OUT, STANDARD_INPUT, Source, read_standard_input

__all__ = [
    "HELD_OUT",
    "STANDARD_INPUT",
    "Metrics",
    "Run",
    "Setting",
    "Source",
    "Text",
    "Totals",
    "evaluate",
    "numerics",
    "read_standard_input",
    "reference_logits",
    "runs",
    "setting_parts",
    "texts",
]
