"""JSON objects from files that nobody vouches for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

__all__ = ["read_object"]

_SURROGATE: Final = "\\ud"  # how the escape of a half of a surrogate pair begins


def read_object(path: Path, kind: str = "a JSON object") -> dict[str, Any]:
    """Read a JSON object from a file.

    Parameters
    ----------
    path : Path
        A UTF-8 file.
    kind : str
        What the file should be, for error messages.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If the file holds something else, is nested too deeply, or has a string that is not Unicode;
        the message names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        if _SURROGATE in text.lower():
            json.dumps(found, ensure_ascii=False).encode()  # raises for half a pair
    except RecursionError as error:
        raise ValueError(f"{path} is not {kind}: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path} is not {kind}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not {kind}: expected an object, not {found!r:.40}")
    return found
