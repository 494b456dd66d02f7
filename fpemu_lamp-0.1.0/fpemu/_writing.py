"""Files are written here alone: whole or not at all, through links, and over regular files only."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["check", "opened", "write"]

_MOST_LINKS: Final = 40
_PROCESSES: Final = Path("/proc")  # where /dev/stdout and /dev/fd lead to
_OF_SQLITE: Final = ("-wal", "-shm", "-journal")  # files that SQLite keeps beside its own


def check(path: str | os.PathLike[str]) -> Path:
    """Raise an error if a file cannot be written, before its content is computed.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Path
        The file itself, where `path` is a link to it.

    Raises
    ------
    FileNotFoundError
        If its folder does not exist.
    NotADirectoryError
        If there is a file in the place of its folder.
    IsADirectoryError
        If there is a folder in its place.
    PermissionError
        If the file or its folder may not be written to.
    OSError
        If there is something else than a regular file in its place, such as a device or a pipe, or
        a file that belongs to an SQLite file beside it.
    """
    place, name = Path(path), os.fspath(path)
    for _ in range(_MOST_LINKS):
        folder = Path(os.path.realpath(place.parent))
        if not folder.is_dir():
            if folder.exists():
                raise NotADirectoryError(f"{str(place.parent)!r} is no folder for {name!r}")
            raise FileNotFoundError(f"no folder {str(place.parent)!r} for {name!r}")
        place = folder / place.name
        if _PROCESSES in place.parents:
            raise OSError(f"{name!r} is an open file of a process: expected a file to write")
        if not place.is_symlink():
            break
        place = folder / os.readlink(place)
    else:
        raise OSError(f"{name!r} is a link to itself: expected a file to write")
    _check_kind(place, name)
    return place


def _check_kind(place: Path, name: str) -> None:
    if place.is_dir():
        raise IsADirectoryError(f"{name!r} is a folder, not a file to write")
    if place.exists() and not stat.S_ISREG(place.stat().st_mode):
        raise OSError(f"{name!r} is a device or a pipe: expected a regular file to write")
    if place.exists() and not os.access(place, os.W_OK):
        raise PermissionError(f"{name!r} cannot be written to: it is read only")
    if not os.access(place.parent, os.W_OK | os.X_OK):  # where the new file is made beside it
        raise PermissionError(f"{name!r} cannot be written: its folder is read only")
    for ending in _OF_SQLITE:
        owner = place.with_name(place.name.removesuffix(ending))
        if owner != place and owner.exists():
            raise OSError(f"{name!r} belongs to the store {str(owner)!r}: name another file")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to write; it takes its place when the block has ended without an error.

    An existing file is replaced and keeps its permissions.  A link stays; the file that it is to
    is replaced.

    Parameters
    ----------
    path : str or path-like
        The file.  Its folder must exist.

    Yields
    ------
    file
        A binary file.

    Raises
    ------
    OSError
        As :func:`check`, or if the disk is full; the message names the file.
    """
    place = check(path)
    partial = place.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if place.exists():
            partial.chmod(stat.S_IMODE(place.stat().st_mode))
        os.replace(partial, place)
    except OSError as error:
        if error.filename in (None, str(partial)):
            raise type(error)(error.errno, error.strerror or str(error), os.fspath(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, whole or not at all; see :func:`opened`.

    Parameters
    ----------
    path : str or path-like
        The file.  Its folder must exist.
    content : bytes
        What the file is to hold.

    Raises
    ------
    OSError
        As :func:`opened`.
    """
    with opened(path) as file:
        file.write(content)
