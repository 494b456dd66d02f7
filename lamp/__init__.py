"""lamp: where precision matters in f(g(x)), and language models under simulated hardware."""

from lamp import bounds, testing
from lamp.bounds import compositions, evaluations
from lamp.evaluation import Metrics, evaluate
from lamp.lookahead import LAMP, select
from lamp.machines import Function, Hardware, Product, Sum, hardware
from lamp.models import GPT2, Llama, checkpoints, from_pretrained
from lamp.studies import Study, sweep

__all__ = [
    "GPT2",
    "LAMP",
    "Function",
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
