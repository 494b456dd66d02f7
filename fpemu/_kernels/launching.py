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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Final

import numba
import numpy as np
from numba.np.ufunc import parallel as numba_parallel
from numpy.typing import NDArray

from fpemu._environment import default_environment

__all__ = [
    "default_environment",
    "pieces_for",
    "reading",
    "require_shapes",
    "run",
    "thread_count",
    "threads_for",
    "without_interrupts",
]

_SCALARS: Final = frozenset({bool, int, float, *np.sctypeDict.values()})

# Nanoseconds of work that are worth a thread: to wake it and to wait for it takes about as long.
_WORTH: Final = 300_000.0


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


def threads_for(cost: float) -> int:
    """How many threads work is worth that takes one of them so many nanoseconds."""
    if cost < 2 * _WORTH:  # most work is short, and to ask Numba takes some microseconds
        return 1
    return min(thread_count(), int(cost / _WORTH))


def pieces_for(cost: float) -> int:
    """Into how many pieces such work is worth being cut: some for each of its threads."""
    return _pieces_of(threads_for(cost))


def _pieces_of(threads: int) -> int:
    # Pieces shorter than a thread's share even out work that grows with the index.
    return 1 if threads == 1 else 4 * threads


class _Help:
    """Work that another thread does if it begins before the caller has done all of it.

    Parameters
    ----------
    work : callable
        What is to be done, beside the caller, who does the same.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._taken, self._ended = threading.Lock(), threading.Lock()
        self._ended.acquire()
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Do the work, in the other thread, unless the caller has ended."""
        if self._work is None or not self._taken.acquire(blocking=False):
            return
        try:
            self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._work = None
            self._ended.release()

    def end(self) -> BaseException | None:
        """Wait for what has begun; what has not never will.  What went wrong is returned."""
        if self._taken.acquire(blocking=False):
            self._work = None  # and lets the arrays go
        else:
            self._ended.acquire()
        return self._error


def _serve(waiting: SimpleQueue[_Help]) -> None:
    """Do what waits, for ever, in a thread of the pool."""
    with default_environment():
        while True:
            each = waiting.get()
            each.begin()
            del each  # the traceback of what went wrong holds arrays


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


class _Pool:
    """The threads of this process that help: made when first needed, forgotten after a fork.

    They wait for work, and end with the process.  An executor of
    :mod:`concurrent.futures` takes several times as long to hand one over, which is longer than
    many kernels run.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[_Help] = SimpleQueue()
        self._threads = 0

    def _reach(self, threads: int) -> None:
        """Start so many threads, or fewer where no more can be had, as at the end of a process."""
        with self._lock, without_interrupts(), contextlib.suppress(RuntimeError):
            while self._threads < threads:
                name = f"fpemu {self._threads}"
                threading.Thread(
                    target=_serve, args=(self._waiting,), name=name, daemon=True
                ).start()
                self._threads += 1

    def start(self, work: Callable[[], None], threads: int) -> list[_Help]:
        """Let so many threads do work as soon as they can, or fewer where no more can be had."""
        if self._threads < threads:
            self._reach(threads)
        helps = [_Help(work) for _ in range(min(threads, self._threads))]
        for each in helps:
            self._waiting.put(each)
        return helps


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
    cost: float = _WORTH,
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
    cost : float
        About how many nanoseconds an element takes; by default each is worth a thread.
    workspace : callable, optional
        Makes the arrays that a thread works in, ``function(start, stop, workspace(), ...)``: a
        kernel that allocates none compiles in less time.
    """
    _check_arrays(arguments)
    threads = threads_for(count * cost)
    number = min(_pieces_of(threads), count)
    if number <= 1:
        _run_range(function, 0, count, (*_own(workspace), *arguments))
        return
    bounds = [count * piece // number for piece in range(number + 1)]
    pieces = deque(itertools.pairwise(bounds))

    def work() -> None:
        own = _own(workspace)
        with default_environment():
            while True:
                try:
                    start, stop = pieces.popleft()
                except IndexError:
                    return
                function(start, stop, *own, *arguments)

    helps = _pool.start(work, min(threads, number) - 1)
    try:
        work()
    finally:
        pieces.clear()  # after an interruption, nobody goes on
        # Nobody waits for a thread that has not begun: it may wake later than the work is done.
        errors = [each.end() for each in helps]
    for error in errors:
        if error is not None:
            raise error
