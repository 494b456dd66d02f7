"""Clocks: wall time without that of compiling kernels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from numba.core import event

__all__ = ["Clock"]


class Clock:
    """Adds up the wall time of blocks, but for the time in which kernels are compiled or loaded.

    Which kernels a forward pass needs depends on its length, so that a pass ahead cannot compile
    them all.

    Attributes
    ----------
    seconds : float
        The wall time of all blocks so far.

    Examples
    --------
    >>> import time
    >>> from lamp.evaluation import Clock
    >>> clock = Clock()
    >>> for _ in range(2):
    ...     with clock.running():
    ...         time.sleep(0.01)
    >>> clock.seconds > 0.01
    True
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Add the wall time of a block, also of one that ends in an exception."""
        compiling = event.TimingListener()
        start = time.perf_counter()
        try:
            with event.install_listener("numba:compiler_lock", compiling):  # held to load, too
                yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds += elapsed - (compiling.duration if compiling.done else 0.0)
