"""The files of pictures, whose kind is told by the name: PNG, SVG or PDF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from fpemu import _writing

__all__ = ["KINDS", "check"]

# Without these the same figure would not give the same bytes.
KINDS: Final[dict[str, dict[str, Any]]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""The kinds of files, and what is not written into them."""


def check(path: str | os.PathLike[str] | None) -> None:
    """Raise an error if there is a path to which no picture can be written.

    Parameters
    ----------
    path : str or path-like, optional

    Raises
    ------
    ValueError
        If the name ends in no kind of picture.
    OSError
        As :func:`fpemu._writing.check`.
    """
    if path is None:
        return
    if Path(path).suffix[1:].lower() not in KINDS:
        known = ", ".join(f".{kind}" for kind in KINDS)
        raise ValueError(f"path {os.fspath(path)!r} ends in no kind of picture: expected {known}")
    _writing.check(path)
