"""Where compiled kernels are kept on disk, and of which sources.

A kernel has functions of other files compiled into it, so the cache goes by the contents of all
files that hold compiled code: the folders ``_kernels`` of this package and of the kernel's own.  An
edit anywhere else recompiles nothing, and equal sources share a cache wherever they are installed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Final

import numba
from numba.misc.appdirs import AppDirs

__all__ = ["folder_of", "is_to_be_filled", "stamp_of", "warn"]

_HERE: Final = Path(__file__).parent
_STALE: Final = 30 * 86400  # seconds after which an unused cache of other sources is removed


@functools.cache
def _digest(sources: Path) -> str:
    """A digest of a file or of the source files of a folder."""
    files = sorted(sources.rglob("*.py")) if sources.is_dir() else [sources]
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def stamp_of(module: str, file: str) -> str:
    """A digest of all sources that the code compiled for a function may come from."""
    package = sys.modules.get(module.partition(".")[0])
    folders = [Path(path) / "_kernels" for path in getattr(package, "__path__", ())]
    sources = {_HERE, *(folder for folder in folders if folder.is_dir())}
    if os.path.isfile(file) and not any(Path(file).is_relative_to(folder) for folder in sources):
        sources.add(Path(file))
    return "-".join(sorted(_digest(source) for source in sources))


@functools.cache
def folder_of(stamp: str) -> Path | None:
    """The folder of a stamp, made if it is not there; None, with a warning, if it cannot be."""
    root = Path(numba.config.CACHE_DIR or AppDirs("fpemu", appauthor=False).user_cache_dir)
    if not (numba.config.CACHE_DIR or root.is_absolute()):
        warn("there is no home directory")
        return None
    version = f"numba{numba.__version__}-python{platform.python_version()}"
    folder = root / f"fpemu-{stamp}-{version}"
    try:
        if not folder.is_dir():
            _remove_stale(root)
            folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        warn(f"{folder}: {error.strerror or error}")
        return None
    return folder


def is_to_be_filled(package: str) -> bool:
    """Whether the cache of a package's kernels can be written, and has none yet."""
    folder = folder_of(stamp_of(package, ""))
    return folder is not None and not any(folder.glob("*.nbc"))


def _remove_stale(root: Path) -> None:
    """Remove the caches of other sources that nobody has used for long."""
    for folder in root.glob("fpemu-*-numba*"):
        try:
            if time.time() - folder.stat().st_mtime > _STALE:
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
        except OSError:
            continue  # another process was quicker, or it is not ours to remove


_warned: Final[list[str]] = []


def warn(reason: str) -> None:
    """Say once in a process that kernels are not kept."""
    if not _warned:
        _warned.append(reason)
        warnings.warn(
            "compiled kernels cannot be kept on disk and are compiled again in every process "
            f"({reason}): set NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
