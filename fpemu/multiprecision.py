"""mpmath for several threads: a context of one's own, and nobody else at work in it meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mpmath

__all__ = ["own_context"]


class _Guard:
    """A lock that a forked process does not inherit in the state it has."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.lock = threading.Lock()


_guard = _Guard()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guard.forget)


@contextmanager
def own_context() -> Iterator[Any]:
    """An mpmath context whose precision is nobody else's.

    mpmath keeps constants such as pi in a cache that nothing guards, so only one thread at a time
    gets one.

    Yields
    ------
    mpmath.MPContext

    Examples
    --------
    >>> from fpemu.multiprecision import own_context
    >>> with own_context() as mp:
    ...     mp.dps = 30
    ...     print(mp.exp(1))
    2.71828182845904523536028747135
    """
    with _guard.lock:
        yield mpmath.MPContext()
