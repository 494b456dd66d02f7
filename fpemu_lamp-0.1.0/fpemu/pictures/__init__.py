"""Pictures of formats and of the errors of sums, drawn by matplotlib (extra ``plot``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fpemu._lazy import lazy

if TYPE_CHECKING:
    from fpemu.pictures import colors, files
    from fpemu.pictures.errors import plot_errors
    from fpemu.pictures.files import KINDS
    from fpemu.pictures.formats import PANELS, plot_formats

__all__ = ["KINDS", "PANELS", "colors", "files", "plot_errors", "plot_formats"]

# What takes only the colors or the kinds of files loads nothing that computes.
_NAMES: Final = {"errors": "plot_errors", "files": "KINDS", "formats": "PANELS plot_formats"}

if not TYPE_CHECKING:  # to which every name is known by its import above
    __getattr__, __dir__ = lazy(__name__, _NAMES)
