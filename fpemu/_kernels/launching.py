"""Kernels on all cores, in a known floating-point environment.

Kernels are serial, release the GIL and compute each element from its inputs alone; this module
gives every thread its range of elements.  Plain threads rather than Numba's parallel regions:
Numba's default threading layer must not be entered by two Python threads at once, and none of its
layers is safe after a fork in every case.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numba
import numpy as np
from numba.np.ufunc import parallel as numba_parallel
from numpy.typing import NDArray

from fpemu._environment import default_environment

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = [
    "default_environment",
    "reading",
    "require_shapes",
    "run",
    "thread_count",
    "without_interrupts",
]

_SCALARS: Final = frozenset({bool, int, float, *np.sctypeDict.values()})


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


def _run(work: Callable[[], None], future: Future[None]) -> None:
    """Do work unless it has been cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back, which arrives afterwards; threads and processes begun here inherit that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_threads(executor: ThreadPoolExecutor, workers: int) -> None:
    """Start all threads of an executor at once, or as many as can be had.

    CPython loses a thread if an exception comes between its start and its registration: it is then
    never told to end, and the process waits for it for ever.
    """
    gate = threading.Event()
    with without_interrupts(), contextlib.suppress(RuntimeError):
        try:
            for _ in range(workers):
                executor.submit(gate.wait)
        finally:
            gate.set()


class _Pool:
    """The worker threads of this process: made when first needed, forgotten after a fork."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._workers = 0

    def _executor_of(self, workers: int) -> ThreadPoolExecutor:
        from concurrent.futures import ThreadPoolExecutor  # fails once the main thread has ended

        with self._lock:
            if self._executor is None or workers > self._workers:
                self._executor = ThreadPoolExecutor(workers, thread_name_prefix="fpemu")
                self._workers = workers
                _start_threads(self._executor, workers)
            return self._executor

    def start(self, work: Callable[[], None], workers: int) -> list[Future[None]]:
        """Start work on so many threads, or on fewer where no more can be had.

        None can be had while the interpreter shuts down: in functions of `atexit`, and in threads
        that go on after the main one has ended.
        """
        started: list[Future[None]] = []
        try:
            executor = self._executor_of(workers)
            for _ in range(workers):
                # An executor that cannot start a thread has taken the work in all the same.
                future: Future[None] = Future()
                started.append(future)
                executor.submit(_run, work, future)
        except RuntimeError:
            if started and started[-1].cancel():
                started.pop()
        return started


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def require_shapes(*arrays: tuple[NDArray[Any], tuple[int, ...]]) -> None:
    """Check that arrays have the shapes that a kernel indexes: it looks at no bounds.

    Parameters
    ----------
    *arrays : tuple of (ndarray, tuple of int)
        Arrays and their shapes.

    Raises
    ------
    ValueError
        If an array has another shape.
    """
    for array, shape in arrays:
        if array.shape != shape:
            raise ValueError(f"a kernel takes an array of shape {shape}, not {array.shape}")


def reading(*arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Arrays as a kernel takes them that only reads them: it is compiled once, whoever may write.

    Parameters
    ----------
    *arrays : ndarray

    Returns
    -------
    tuple of ndarray
        Views that are read-only.
    """
    views = tuple(array.view() for array in arrays)
    for view in views:
        view.flags.writeable = False
    return views


def _check_arrays(arguments: Any) -> None:
    """Raise TypeError for arrays that are not what they seem.

    A subclass may keep dimensions (numpy.matrix under reshape) or hide elements; a kernel that
    takes the array for what the base class makes of it would then write beyond its memory.
    """
    # Most tuples are the parameters of a format: a loop over each took an eighth of a token's time.
    if _SCALARS.issuperset(map(type, arguments)):
        return
    for argument in arguments:
        kind = type(argument)
        if kind in _SCALARS:
            continue
        if isinstance(argument, tuple):
            _check_arrays(argument)
        elif isinstance(argument, np.ndarray):
            plain = kind is np.ndarray and argument.dtype.isnative
            if not (plain and argument.flags.aligned):
                raise TypeError(
                    "a kernel takes plain numpy arrays, aligned and in the byte order of the "
                    f"machine, not {type(argument).__name__} of {argument.dtype}: convert it "
                    "with numpy.ascontiguousarray"
                )


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
    _check_arrays(arguments)
    most = count // grain
    threads = 1 if most <= 1 else min(thread_count(), most)
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

    futures = _pool.start(work, threads - 1)
    try:
        work()
    finally:
        # Nobody waits for a thread that has not begun: it may wake later than the work is done.
        begun = [future for future in futures if not future.cancel()]
        for future in begun:
            future.result()
