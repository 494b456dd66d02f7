"""lamp: where precision matters in f(g(x)), and language models under simulated hardware."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from fpemu import __version__ as __version__

if TYPE_CHECKING:
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

# A module is imported when one of its names is first used, so that `import lamp` costs nothing.
_NAMES: Final = {
    "bounds": "compositions evaluations",
    "evaluation": "Metrics evaluate",
    "lookahead": "LAMP select",
    "machines": "Function Hardware Product Sum hardware",
    "models": "GPT2 Llama checkpoints from_pretrained",
    "studies": "Study sweep",
}
_MODULES: Final = {name: module for module, names in _NAMES.items() for name in names.split()}


if not TYPE_CHECKING:  # to which every name is known by its import above

    def __getattr__(name: str) -> Any:
        """A public name from its module, or a module of the package."""
        module = f"{__name__}.{_MODULES.get(name, name)}"
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        if name in _MODULES:
            found = globals()[name] = getattr(found, name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
