"""Atomic writing: a file is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["check", "write"]


def check(path: Path) -> None:
    """Raise an error if a file cannot be written, before its content is computed.

    Parameters
    ----------
    path : Path

    Raises
    ------
    FileNotFoundError
        If its folder does not exist.
    IsADirectoryError
        If there is a folder in its place.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {str(path.parent)!r} for {str(path)!r}")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder, not a file to write")


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.  An existing file is replaced.

    Parameters
    ----------
    path : Path
        The file.  Its folder must exist.
    content : bytes
        What the file is to hold.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    IsADirectoryError
        If `path` is a folder.
    """
    check(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
