"""lamp: where precision matters in f(g(x)), and language models under simulated hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fpemu import __version__ as __version__
from fpemu._lazy import lazy

if TYPE_CHECKING:
    from lamp import bounds, testing
    from lamp.bounds import compositions, evaluations
    from lamp.evaluation import Metrics, evaluate
    from lamp.integrations import from_pretrained, simulate
    from lamp.lookahead import LAMP, select
    from lamp.machines import Function, Hardware, Product, Sum, Tiled, hardware
    from lamp.models import GPT2, Llama, calibrated, certify, checkpoints
    from lamp.studies import Study, sweep
    from lamp.tuning import rank, tune

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
    "Tiled",
    "bounds",
    "calibrated",
    "certify",
    "checkpoints",
    "compositions",
    "evaluate",
    "evaluations",
    "from_pretrained",
    "hardware",
    "rank",
    "select",
    "simulate",
    "sweep",
    "testing",
    "tune",
]

# A module is imported when one of its names is first used, so that `import lamp` costs nothing.
_NAMES: Final = {
    "bounds": "compositions evaluations",
    "evaluation": "Metrics evaluate",
    "integrations": "from_pretrained simulate",
    "lookahead": "LAMP select",
    "machines": "Function Hardware Product Sum Tiled hardware",
    "models": "GPT2 Llama calibrated certify checkpoints",
    "studies": "Study sweep",
    "tuning": "rank tune",
}

if not TYPE_CHECKING:  # to which every name is known by its import above
    __getattr__, __dir__ = lazy(__name__, _NAMES, extra="lamp")
