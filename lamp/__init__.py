"""lamp: where precision matters in f(g(x)), and language models under simulated hardware."""

from lamp import bounds, checkpoints, compositions, evaluations, testing
from lamp.gpt2 import GPT2
from lamp.hardware import Function, Hardware, Product, Sum
from lamp.llama import Llama
from lamp.machines import hardware
from lamp.metrics import Metrics, evaluate
from lamp.models import from_pretrained
from lamp.rules import LAMP
from lamp.selection import select
from lamp.studies import Study
from lamp.sweeping import sweep

__all__ = [
    "Function",
    "GPT2",
    "LAMP",
    "Hardware",
    "Llama",
    "Metrics",
    "Product",
    "Study",
    "Sum",
    "bounds",
    "checkpoints",
    "compositions",
    "evaluate",
    "evaluations",
    "from_pretrained",
    "hardware",
    "select",
    "sweep",
    "testing",
]
