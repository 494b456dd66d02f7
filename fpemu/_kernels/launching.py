"""Kernels on all cores, in a known floating-point environment.

Kernels are serial, release the GIL and compute each element from its inputs alone; this module
gives every thread its range of elements.  Plain threads rather than Numba's parallel regions:
Numba's default threading layer must not be entered by two Python threads at once, and none of its
layers is safe after a fork in every case.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
from numba.np.ufunc import parallel as numba_parallel

from fpemu._environment import default_environment

__all__ = ["default_environment", "run", "thread_count"]


def thread_count() -> int:
    """How many threads a call uses: Numba's setting (``NUMBA_NUM_THREADS``, set_num_threads).

    ``numba.get_num_threads`` would launch Numba's own threads, which nothing here needs, and holds
    a lock that forked processes share: all would hang once one has been killed while it had it.
    """
    try:
        numba.threading_layer()
    except ValueError:  # not launched yet, so nobody has set anything
        return int(numba.config.NUMBA_NUM_THREADS)
    return int(getattr(numba_parallel, "_get_num_threads", numba.get_num_threads)())


class _Pool:
    """The worker threads of this process: made when first needed, forgotten after a fork."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._workers = 0

    def executor(self, workers: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None or workers > self._workers:
                self._executor = ThreadPoolExecutor(workers, thread_name_prefix="fpemu")
                self._workers = workers
            return self._executor


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def _own(workspace: Callable[[], Any] | None) -> tuple[Any, ...]:
    """The workspace of a thread, as arguments."""
    return () if workspace is None else (workspace(),)


def _run_range(function: Callable[..., Any], start: int, stop: int, arguments: Any) -> None:
    with default_environment():
        function(start, stop, *arguments)


def run(
    function: Callable[..., Any],
    count: int,
    *arguments: Any,
    grain: int = 1,
    workspace: Callable[[], Any] | None = None,
) -> None:
    """Call ``function(start, stop, *arguments)`` over ranges that cover ``range(count)``.

    Parameters
    ----------
    function : callable
        A kernel that writes the results of elements ``start`` to ``stop`` and nothing else.
    count : int
        Number of elements.
    *arguments
        Passed on.
    grain : int
        The smallest range worth a thread.
    workspace : callable, optional
        Makes the arrays that a thread works in, ``function(start, stop, workspace(), ...)``: a
        kernel that allocates none compiles in less time.
    """
    threads = min(thread_count(), count // grain)
    if threads <= 1:
        _run_range(function, 0, count, (*_own(workspace), *arguments))
        return
    # Ranges shorter than a thread's share even out work that grows with the index.
    pieces = min(4 * threads, count // grain)
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    queue = itertools.pairwise(bounds)
    guard = threading.Lock()

    def work() -> None:
        own = _own(workspace)
        with default_environment():
            while True:
                with guard:
                    piece = next(queue, None)
                if piece is None:
                    return
                function(piece[0], piece[1], *own, *arguments)

    futures = [_pool.executor(threads).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for future in futures:
            future.result()
