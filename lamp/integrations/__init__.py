"""Models of other libraries on simulated machines.

Nothing of torch or transformers is imported before a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fpemu._lazy import lazy

if TYPE_CHECKING:
    from lamp.integrations.loading import from_pretrained, reader
    from lamp.integrations.transformers import Simulated, simulate

__all__ = ["Simulated", "from_pretrained", "reader", "simulate"]

_NAMES: Final = {
    "loading": "from_pretrained reader",
    "transformers": "Simulated simulate",
}

if not TYPE_CHECKING:  # to which every name is known by its import above
    __getattr__, __dir__ = lazy(__name__, _NAMES)
