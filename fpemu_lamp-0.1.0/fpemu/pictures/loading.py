"""What draws, loaded when something is drawn: matplotlib is an extra."""

from __future__ import annotations

from types import ModuleType

__all__ = ["drawing"]


def drawing() -> ModuleType:
    """The module that draws.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    try:
        from fpemu.pictures import drawing
    except ModuleNotFoundError as missing:
        message = "pictures need matplotlib: pip install 'fpemu-lamp[plot]'"
        raise ModuleNotFoundError(message, name=missing.name) from missing
    return drawing
