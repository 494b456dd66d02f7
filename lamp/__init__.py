"""lamp: where precision matters in f(g(x)), and GPT-2 under simulated hardware."""

from lamp import bounds, checkpoints, compositions, evaluations, testing
from lamp.gpt2 import GPT2
from lamp.hardware import Function, Hardware, Product, Sum
from lamp.machines import hardware
from lamp.metrics import Metrics, evaluate
from lamp.selection import LAMP, select

__all__ = [
    "Function",
    "GPT2",
    "LAMP",
    "Hardware",
    "Metrics",
    "Product",
    "Sum",
    "bounds",
    "checkpoints",
    "compositions",
    "evaluate",
    "evaluations",
    "hardware",
    "select",
    "testing",
]
