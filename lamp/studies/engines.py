"""Where the runs of a sweep are measured: in this process, in others on this machine, on a cluster.

An engine has workers.  It is given a run for a worker that is free, and tells how runs ended.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numba

from fpemu._kernels import launching
from lamp.studies.store import Outcome, now
from lamp.studies.worker import Task, Worker, package_version, physical_memory

__all__ = ["Cluster", "Engine", "InProcess", "Processes", "engine"]

_SHARE: Final = 4  # of the memory for reference logits: a fourth
_UNKNOWN_MEMORY: Final = 2**31
_ATTEMPTS: Final = 3  # of a run whose process dies
_LOCAL: Final = "local"
_PATIENCE = "20s"  # for a scheduler that does not answer
_REFRESH: Final = 2.0  # seconds after which workers of a cluster are counted again


class Engine(ABC):
    """Measures runs."""

    @abstractmethod
    def free(self) -> list[str]:
        """The workers that can take a run, each as often as it can take one."""

    @abstractmethod
    def submit(self, worker: str, task: Task) -> None:
        """Give a run to a worker."""

    @abstractmethod
    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Runs that have ended, as soon as there are any; none if that takes longer."""

    @abstractmethod
    def close(self, *, now: bool = False) -> None:
        """Let workers go; if now, in the middle of their runs."""


def engine(
    jobs: int | None = None,
    cluster: Any = None,
    *,
    memory: int | None = None,
    spill: Path | None = None,
) -> Engine:
    """The engine for a sweep.

    Parameters
    ----------
    jobs : int, optional
        How many processes; 0, 1 and None for this one.
    cluster : str or distributed.Client, optional
        The address of a dask scheduler, or ``"local"`` for a cluster of `jobs` workers on this
        machine; left out, no cluster.
    memory : int, optional
        Bytes of reference logits to keep, of all workers on a machine together; left out, a fourth
        of its memory.
    spill : Path, optional
        A folder for reference logits that are more, for workers on this machine.

    Returns
    -------
    Engine

    Raises
    ------
    ValueError
        If `jobs` or `memory` is negative.
    ModuleNotFoundError
        If a cluster is wanted and dask is not installed.
    OSError
        If a cluster is not there.
    """
    for name, value in (("jobs", jobs), ("memory", memory)):
        if value is not None and value < 0:
            raise ValueError(f"{name} must be at least 0, not {value}")
    if cluster is not None:
        return Cluster(cluster, jobs, memory, spill)
    if memory is None:
        memory = _default_memory()
    if jobs is None or jobs <= 1:
        return InProcess(Worker(memory, spill))
    return Processes(jobs, memory // jobs, spill)


def _default_memory() -> int:
    return (physical_memory() or _UNKNOWN_MEMORY) // _SHARE


class InProcess(Engine):
    """One run at a time, in this thread.

    Parameters
    ----------
    worker : Worker
        What measures.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._task: Task | None = None

    def free(self) -> list[str]:
        """The only worker, unless a run waits."""
        return ["here"] if self._task is None else []

    def submit(self, worker: str, task: Task) -> None:
        """Keep a run until the next wait."""
        self._task = task

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Measure the run, however long that takes."""
        if (task := self._task) is None:
            return []
        try:
            return [(task, self._worker.run(task))]
        finally:
            self._task = None

    def close(self, *, now: bool = False) -> None:
        """Nothing to do."""


# --- processes ------------------------------------------------------------------------------------

_own: Worker | None = None  # of a process that is a worker


def _begin(memory: int, spill: Path | None, threads: int) -> None:
    """Make this process a worker."""
    global _own
    threading.Thread(target=_end_with_parent, daemon=True).start()
    numba.set_num_threads(threads)
    _own = Worker(memory, spill)


def _end_with_parent() -> None:
    """Leave when the sweep is gone: a pool's processes outlive one that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _ready() -> None:
    """What a process does to show that it has begun."""


def _run(task: Task) -> Outcome:
    assert _own is not None
    return _own.run(task)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes and threads that begin in here are spared Ctrl-C, which is for the sweep alone."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Processes(Engine):
    """Processes on this machine, which share its cores.

    Each is a pool of its own, so that one that dies leaves the others alone.

    Parameters
    ----------
    jobs : int
        How many.
    memory : int
        Bytes of reference logits that each may keep.
    spill : Path, optional
        A folder for those that are more.
    """

    def __init__(self, jobs: int, memory: int, spill: Path | None = None) -> None:
        threads = launching.thread_count()
        # Where threads do not divide evenly, the first processes have one more.
        shares = [max(1, (threads + index) // jobs) for index in reversed(range(jobs))]
        self._settings = {
            f"process {index}": (memory, spill, share) for index, share in enumerate(shares)
        }
        self._pools = {name: self._pool(name) for name in self._settings}
        self._busy: set[str] = set()
        self._attempts: Counter[str] = Counter()
        self._ended: queue.SimpleQueue[tuple[str, Task, Future[Outcome]]] = queue.SimpleQueue()
        with _without_interrupts():
            begun = [pool.submit(_ready) for pool in self._pools.values()]
        try:
            for future in begun:
                future.result()
        except BrokenProcessPool as error:
            self.close(now=True)
            raise RuntimeError(
                "a process of the sweep could not begin; a script that sweeps with several jobs "
                "has to do so under if __name__ == '__main__'"
            ) from error

    def _pool(self, name: str) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            1, mp_context=context, initializer=_begin, initargs=self._settings[name]
        )

    def free(self) -> list[str]:
        """Processes without a run."""
        return [name for name in self._pools if name not in self._busy]

    def submit(self, worker: str, task: Task) -> None:
        """Give a run to a process."""
        self._busy.add(worker)
        with _without_interrupts():
            future = self._pools[worker].submit(_run, task)
        future.add_done_callback(lambda future: self._ended.put((worker, task, future)))

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Runs that have ended; those of processes that died begin again."""
        found = []
        for worker, task, future in _taken(self._ended, seconds):
            self._busy.discard(worker)
            try:
                found.append((task, future.result()))
            except BrokenProcessPool:
                self._pools[worker].shutdown(wait=False)
                self._pools[worker] = self._pool(worker)
                self._attempts[task.key] += 1
                if self._attempts[task.key] < _ATTEMPTS:
                    self.submit(worker, task)
                else:
                    found.append((task, _died(_ATTEMPTS)))
            except Exception as error:  # the run could not be sent, or how it ended
                found.append((task, _unsent(error)))
        return found

    def close(self, *, now: bool = False) -> None:
        """End the processes."""
        for pool in self._pools.values():
            if now:
                for process in list((pool._processes or {}).values()):
                    process.kill()
            pool.shutdown(wait=not now, cancel_futures=True)


def _taken(ended: queue.SimpleQueue[Any], seconds: float) -> list[Any]:
    """What a queue holds, as soon as it holds anything."""
    try:
        found = [ended.get(timeout=seconds)]
    except queue.Empty:
        return []
    while not ended.empty():
        found.append(ended.get())
    return found


def _died(times: int, reason: str = "") -> Outcome:
    error = f"the process that ran it died {times} times, for want of memory perhaps"
    return Outcome(None, 0.0, now(), now(), {}, error, reason)


def _unsent(error: BaseException) -> Outcome:
    return Outcome(None, 0.0, now(), now(), {}, f"{type(error).__name__}: {error}")


# --- a cluster ------------------------------------------------------------------------------------

_lock = threading.Lock()


def _shared(memory: int | None, spill: Path | None, sharing: int) -> Worker:
    """The worker of this process, made when first needed; its threads share it."""
    global _own
    with _lock:
        if _own is None:
            threads = _distributed().get_worker().state.nthreads
            if memory is None:
                memory = _default_memory()
            _own = Worker(memory * threads // max(threads, sharing), spill)
        return _own


def _run_on_cluster(
    task: Task, text: Any, memory: int | None, spill: Path | None, sharing: int
) -> Outcome:
    """Measure a run on a worker of a cluster, `sharing` of whose threads are on the machine."""
    numba.set_num_threads(max(1, numba.config.NUMBA_NUM_THREADS // sharing))
    return _shared(memory, spill, sharing).run(replace(task, text=text))


def _given(text: Any) -> Any:
    """A text as the result of a task, which the cluster passes from worker to worker."""
    return text


class Cluster(Engine):
    """A dask cluster.

    Parameters
    ----------
    cluster : str or distributed.Client
        The address of a scheduler, ``"local"``, or a client, which is left open.
    jobs : int, optional
        How many workers a local cluster has; left out, one for each core.
    memory : int, optional
        Bytes of reference logits that the workers of a machine may keep.
    spill : Path, optional
        A folder for those that are more, for a local cluster.
    """

    def __init__(
        self,
        cluster: Any,
        jobs: int | None = None,
        memory: int | None = None,
        spill: Path | None = None,
    ) -> None:
        distributed = _distributed()
        self._owned = contextlib.ExitStack()
        self._memory = memory
        self._spill = spill if cluster == _LOCAL else None
        if not isinstance(cluster, str):
            self._client = cluster
        else:
            with _without_interrupts():
                self._client = self._connected(distributed, cluster, jobs)
        self._address = self._client.scheduler.address
        self._nonce = uuid.uuid4().hex
        self._running: dict[str, tuple[str, Any]] = {}
        self._texts: dict[str, Any] = {}
        self._slots: dict[str, int] = {}
        self._counted = -_REFRESH
        self._ended: queue.SimpleQueue[tuple[Task, Any]] = queue.SimpleQueue()
        self._check_code()

    def _connected(self, distributed: Any, cluster: str, jobs: int | None) -> Any:
        address: Any = cluster
        if cluster == _LOCAL:
            # Without limits of memory: dask counts what files are mapped as taken.
            address = self._owned.enter_context(
                distributed.LocalCluster(
                    n_workers=jobs or launching.thread_count(),
                    threads_per_worker=1,
                    memory_limit=0,
                    dashboard_address=":0",
                    silence_logs=logging.ERROR,
                )
            )
        try:
            return self._owned.enter_context(
                distributed.Client(address, set_as_default=False, timeout=_PATIENCE)
            )
        except (OSError, ValueError) as error:
            raise ConnectionError(f"no dask scheduler at {cluster}: {error}") from error

    def _check_code(self) -> None:
        """That all workers that there are have the same packages."""
        found = self._client.run(package_version, on_error="return")
        for worker, version in found.items():
            if version != package_version():
                self.close(now=True)
                reason = f": {version}" if isinstance(version, Exception) else ""
                raise RuntimeError(
                    f"the worker {worker} has other packages than this process: install the same "
                    f"version everywhere{reason}"
                )

    def free(self) -> list[str]:
        """Workers that have fewer runs than threads."""
        if time.monotonic() - self._counted > _REFRESH:
            self._slots = dict(self._client.nthreads())
            self._counted = time.monotonic()
        busy = Counter(worker for worker, _ in self._running.values())
        return [
            worker for worker, count in self._slots.items() for _ in range(count - busy[worker])
        ]

    def submit(self, worker: str, task: Task) -> None:
        """Give a run to a worker; another takes it if that one is lost."""
        text = self._texts.get(task.text_digest)
        if text is None:
            key = f"lamp-text-{task.text_digest}"
            text = self._client.submit(_given, task.text, key=key, pure=False)
            self._texts[task.text_digest] = text
        host = urlsplit(worker).hostname
        sharing = sum(n for each, n in self._slots.items() if urlsplit(each).hostname == host)
        future = self._client.submit(
            _run_on_cluster,
            replace(task, text=None),
            text,
            self._memory,
            self._spill,
            sharing,
            # Not the key alone: what another sweep got for it the cluster may still remember.
            key=f"lamp-run-{task.key}-{self._nonce}",
            workers=[worker],
            allow_other_workers=True,
            retries=_ATTEMPTS,
            pure=False,
        )
        self._running[task.key] = worker, future
        future.add_done_callback(lambda future: self._ended.put((task, future)))

    def wait(self, seconds: float) -> list[tuple[Task, Outcome]]:
        """Runs that have ended."""
        found = []
        for task, future in _taken(self._ended, seconds):
            self._running.pop(task.key)
            if future.status == "finished":
                found.append((task, future.result()))
            elif future.status == "error":
                found.append((task, self._failure(future.exception())))
            else:
                raise ConnectionError(f"the cluster at {self._address} is gone")
        return found

    def _failure(self, error: BaseException) -> Outcome:
        if isinstance(error, _distributed().KilledWorker):
            return _died(1 + error.allowed_failures, str(error))
        return _unsent(error)

    def close(self, *, now: bool = False) -> None:
        """Leave the cluster; what it runs by now is of no use."""
        futures = [future for _, future in self._running.values()]
        if futures:
            self._client.cancel(futures, force=True)
        self._texts.clear()
        self._owned.close()


def _distributed() -> Any:
    """Dask's scheduler and client, imported when they are needed."""
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a cluster needs the packages dask and distributed, which are not installed: "
            "pip install 'fpemu-lamp[cluster]'"
        ) from error
    return distributed
