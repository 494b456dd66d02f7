"""Models of transformers on simulated machines."""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
    import transformers as _transformers  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"lamp.simulate needs {error.name}, which is not installed: "
        "pip install 'fpemu-lamp[torch,transformers]'",
        name=error.name,
    ) from error

from lamp.integrations.transformers.checkpoints import load, read
from lamp.integrations.transformers.simulated import Simulated, simulate

__all__ = ["Simulated", "load", "read", "simulate"]
