"""The tensors of a checkpoint, with what is said of it when one is missing."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stored", "let_go"]


class Stored(dict[str, "NDArray[np.floating[Any]]"]):
    """Floating-point tensors by name.

    Parameters
    ----------
    tensors : mapping
        Arrays of float32 or float64 by name.
    unread : mapping of str to str
        The types of the other tensors of the checkpoint.
    source : str
        What error messages call the checkpoint.
    """

    def __init__(
        self,
        tensors: Mapping[str, NDArray[np.floating[Any]]],
        unread: Mapping[str, str],
        source: str,
    ) -> None:
        super().__init__(tensors)
        self.unread, self.source = unread, source


def let_go(array: NDArray[Any]) -> None:
    """Give the memory of an array back if it is mapped from a file, of which nobody has changed it.

    Its numbers are read from the file again when they are asked for.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
