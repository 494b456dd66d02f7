"""mpmath for several threads: private contexts, used by one thread at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mpmath

__all__ = ["own_context"]


class _Guard:
    """A lock that is free in a forked process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.lock = threading.Lock()


_guard = _Guard()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guard.forget)


@contextmanager
def own_context() -> Iterator[Any]:
    """A private mpmath context, whose precision no other code changes.

    mpmath caches constants such as pi without a lock, so only one thread at a time holds a context;
    others wait.

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
