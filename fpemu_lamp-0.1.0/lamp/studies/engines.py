"""Where the runs of a sweep are measured: in this process, in others on this machine, on a cluster.

An engine has workers.  Each is reached by an executor of :mod:`concurrent.futures`: one that runs
in this thread, a pool of one process, or a dask client's
(:meth:`distributed.Client.get_executor`).  A sweep gives a run to a worker that is free and waits
for the first runs to end.

A pool of several processes would not do: when one process dies, a pool ends all of them.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import replace
from functools import lru_cache
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numba

from fpemu._kernels import launching
from lamp.studies.environment import physical_memory
from lamp.studies.runs import Result, now
from lamp.studies.tasks import Task
from lamp.studies.worker import Worker, package_version

__all__ = ["Cluster", "Engine", "InProcess", "Processes", "engine"]

_SHARE: Final = 4  # reference logits may take a fourth of the memory
_UNKNOWN_MEMORY: Final = 2**31
_ATTEMPTS: Final = 3  # of a run whose process dies
_LOCAL: Final = "local"
_PATIENCE = "20s"  # how long a scheduler may take to answer
_REFRESH: Final = 2.0  # seconds after which the workers of a cluster are listed again


def engine(
    jobs: int | None = None,
    cluster: Any = None,
    *,
    memory: int | None = None,
    spill: Path | None = None,
) -> Engine:
    """Return the engine for a sweep.

    Parameters
    ----------
    jobs : int, optional
        The number of processes; 0, 1 and None measure in this process.
    cluster : str or distributed.Client, optional
        The address of a dask scheduler, a client, or ``"local"`` for a cluster of `jobs` workers on
        this machine.  By default no cluster is used.
    memory : int, optional
        Bytes of reference logits that all workers on a machine together may keep in memory; by
        default a fourth of its memory.
    spill : Path, optional
        The folder for reference logits that do not fit, for workers on this machine.

    Returns
    -------
    Engine

    Raises
    ------
    ValueError
        If `jobs` or `memory` is negative.
    ModuleNotFoundError
        If a cluster is asked for and dask is not installed.
    OSError
        If the cluster cannot be reached.
    RuntimeError
        If the processes cannot begin, or the workers of the cluster have other versions.
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


class Engine(ABC):
    """Measures runs on workers."""

    def __init__(self) -> None:
        self._pending: dict[Future[Result], tuple[str, Task]] = {}
        self.report: Callable[[float], None] = lambda share: None
        """Is called with the share of a run that is done, where runs are in this process."""

    @abstractmethod
    def _capacities(self) -> Mapping[str, int]:
        """The number of runs that each worker takes at a time."""

    @abstractmethod
    def _begin(self, worker: str, task: Task) -> Future[Result]:
        """Hand a run to the executor of a worker."""

    @abstractmethod
    def _end(self, *, now: bool) -> None:
        """Let the executors go."""

    def _lost(self, worker: str, task: Task, error: Exception) -> Result | None:
        """Return how a run ended that a worker has not ended; None if it begins again."""
        return _failure(f"{type(error).__name__}: {error}")

    def free(self) -> list[str]:
        """Return the workers that can take a run, each as often as it can take one."""
        busy = Counter(worker for worker, _ in self._pending.values())
        return [
            worker
            for worker, capacity in self._capacities().items()
            for _ in range(capacity - busy[worker])
        ]

    def submit(self, worker: str, task: Task) -> None:
        """Give a run to a worker."""
        self._pending[self._begin(worker, task)] = worker, task

    def wait(self, seconds: float) -> list[tuple[Task, Result]]:
        """Return the runs that have ended, once there are any; none after that many seconds."""
        ended = []
        for future in wait(self._pending, seconds, FIRST_COMPLETED).done:
            worker, task = self._pending.pop(future)
            try:
                result: Result | None = future.result()
            except (Exception, CancelledError) as error:
                result = self._lost(worker, task, error)
            if result is not None:
                ended.append((task, result))
        return ended

    def close(self, *, now: bool = False) -> None:
        """Let the workers go.

        Parameters
        ----------
        now : bool
            Whether they stop in the middle of their runs.
        """
        self._end(now=now)
        self._pending.clear()


def _failure(error: str, trace: str = "") -> Result:
    return Result(None, 0.0, now(), now(), {}, error, trace)


def _died(times: int, trace: str = "") -> Result:
    message = f"the process that ran it died {times} times, perhaps for lack of memory"
    return _failure(message, trace)


class InProcess(Engine):
    """Measures one run at a time, in this thread.

    Parameters
    ----------
    worker : Worker
        Measures the runs.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def _capacities(self) -> Mapping[str, int]:
        return {"here": 1}

    def _begin(self, worker: str, task: Task) -> Future[Result]:
        ended: Future[Result] = Future()
        self._worker.report = self.report
        ended.set_result(self._worker.run(task))
        return ended

    def _end(self, *, now: bool) -> None:
        """There is nothing to end."""


# --- workers in other processes -------------------------------------------------------------------

_lock = threading.Lock()


def _worker(memory: int, spill: Path | None) -> Worker:
    """Return the worker of this process, which its threads share."""
    with _lock:
        return _only_worker(memory, spill)


_only_worker = lru_cache(maxsize=1)(Worker)


# --- processes ------------------------------------------------------------------------------------


def _become_worker(threads: int) -> None:
    """Prepare a process of a pool."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    numba.set_num_threads(threads)


def _end_with_parent() -> None:
    """Leave when the sweep is gone: the processes of a pool outlive one that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run(task: Task, memory: int, spill: Path | None) -> Result:
    return _worker(memory, spill).run(task)


class Processes(Engine):
    """Measures runs in processes on this machine, which share its cores.

    Parameters
    ----------
    jobs : int
        The number of processes.
    memory : int
        Bytes of reference logits that each may keep in memory.
    spill : Path, optional
        The folder for those that do not fit.
    """

    def __init__(self, jobs: int, memory: int, spill: Path | None = None) -> None:
        super().__init__()
        threads = launching.thread_count()
        # Where threads do not divide evenly, the first processes have one more.
        shares = [max(1, (threads + index) // jobs) for index in reversed(range(jobs))]
        self._threads = {f"process {index}": share for index, share in enumerate(shares)}
        self._limits = memory, spill
        self._attempts: Counter[str] = Counter()
        self._pools = {worker: self._pool(worker) for worker in self._threads}
        with launching.without_interrupts():
            begun = [pool.submit(os.getpid) for pool in self._pools.values()]
        try:
            for future in begun:
                future.result()
        except BrokenExecutor as error:
            self.close(now=True)
            raise RuntimeError(
                "a process of the sweep could not begin; a script that sweeps with several jobs "
                "has to do so under if __name__ == '__main__'"
            ) from error

    def _pool(self, worker: str) -> ProcessPoolExecutor:
        context, threads = multiprocessing.get_context("spawn"), self._threads[worker]
        return ProcessPoolExecutor(1, context, initializer=_become_worker, initargs=(threads,))

    def _capacities(self) -> Mapping[str, int]:
        return dict.fromkeys(self._pools, 1)

    def _begin(self, worker: str, task: Task) -> Future[Result]:
        with launching.without_interrupts():
            try:
                return self._pools[worker].submit(_run, task, *self._limits)
            except BrokenExecutor:  # its process has died
                self._pools[worker] = self._pool(worker)
                return self._pools[worker].submit(_run, task, *self._limits)

    def _lost(self, worker: str, task: Task, error: Exception) -> Result | None:
        if not isinstance(error, BrokenExecutor):
            return super()._lost(worker, task, error)
        self._attempts[task.key] += 1
        if self._attempts[task.key] == _ATTEMPTS:
            return _died(_ATTEMPTS)
        self.submit(worker, task)
        return None

    def _end(self, *, now: bool) -> None:
        for pool in self._pools.values():
            if now:  # from Python 3.14 on a pool can do so itself
                for process in list((pool._processes or {}).values()):
                    process.kill()
            pool.shutdown(wait=not now, cancel_futures=True)


# --- a cluster ------------------------------------------------------------------------------------


def _run_on_cluster(
    task: Task, text: Any, memory: int | None, spill: Path | None, sharing: int
) -> Result:
    """Measure a run on a worker of a cluster, `sharing` of whose threads are on the machine."""
    numba.set_num_threads(max(1, numba.config.NUMBA_NUM_THREADS // sharing))
    threads = _distributed().get_worker().state.nthreads
    share = (_default_memory() if memory is None else memory) * threads // max(threads, sharing)
    return _run(replace(task, text=text), share, spill)


def _given(text: Any) -> Any:
    """Return a text: as the result of a task the cluster passes it from worker to worker."""
    return text


class Cluster(Engine):
    """Measures runs on a dask cluster.

    Parameters
    ----------
    cluster : str or distributed.Client
        The address of a scheduler, ``"local"``, or a client, which is left open.
    jobs : int, optional
        The number of workers of a local cluster; by default one for each core.
    memory : int, optional
        Bytes of reference logits that the workers of a machine together may keep in memory.
    spill : Path, optional
        The folder for those that do not fit, for a local cluster.
    """

    def __init__(
        self,
        cluster: Any,
        jobs: int | None = None,
        memory: int | None = None,
        spill: Path | None = None,
    ) -> None:
        super().__init__()
        distributed = _distributed()
        self._owned = contextlib.ExitStack()
        self._memory = memory
        self._spill = spill if cluster == _LOCAL else None
        if not isinstance(cluster, str):
            self._client = cluster
        else:
            with launching.without_interrupts():
                self._client = self._connected(distributed, cluster, jobs)
        self._address = self._client.scheduler.address
        self._executors: dict[str, Executor] = {}
        self._texts: dict[str, Any] = {}
        self._threads: dict[str, int] = {}
        self._listed = -_REFRESH
        self._gone = False
        self._check_versions()

    def _connected(self, distributed: Any, cluster: str, jobs: int | None) -> Any:
        address: Any = cluster
        if cluster == _LOCAL:
            # Without limits of memory: dask counts mapped files as taken.
            address = self._owned.enter_context(
                distributed.LocalCluster(
                    n_workers=int(jobs or launching.thread_count()),
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

    def _check_versions(self) -> None:
        """Refuse a cluster whose workers have other versions of the package or its numbers."""
        found = self._client.run(package_version, on_error="return")
        for worker, version in found.items():
            if version != package_version():
                self.close(now=True)
                reason = f": {version}" if isinstance(version, Exception) else ""
                raise RuntimeError(
                    f"the worker {worker} has other packages than this process: install the same "
                    f"version everywhere{reason}"
                )

    def _capacities(self) -> Mapping[str, int]:
        if time.monotonic() - self._listed > _REFRESH:
            self._threads = dict(self._client.nthreads())
            self._listed = time.monotonic()
        return self._threads

    def _executor(self, worker: str) -> Executor:
        """Return the executor of a worker, whose runs another takes if it is lost."""
        if worker not in self._executors:
            self._executors[worker] = self._client.get_executor(
                # Not pure: the cluster may remember how a run ended in another sweep.
                workers=[worker],
                allow_other_workers=True,
                retries=_ATTEMPTS,
                pure=False,
            )
        return self._executors[worker]

    def _text(self, task: Task) -> Any:
        """Return the text of a task on the cluster, which holds each once."""
        if task.text_digest not in self._texts:
            self._texts[task.text_digest] = self._client.submit(_given, task.text, pure=False)
        return self._texts[task.text_digest]

    def _begin(self, worker: str, task: Task) -> Future[Result]:
        host = urlsplit(worker).hostname
        sharing = sum(n for each, n in self._threads.items() if urlsplit(each).hostname == host)
        # The text apart, which many runs read.
        run, text = replace(task, text=None), self._text(task)
        executor = self._executor(worker)
        return executor.submit(_run_on_cluster, run, text, self._memory, self._spill, sharing)

    def _lost(self, worker: str, task: Task, error: Exception) -> Result | None:
        if isinstance(error, _distributed().KilledWorker):
            return _died(1 + error.allowed_failures, str(error))
        if isinstance(error, CancelledError):
            self._gone = True
            return None
        return super()._lost(worker, task, error)

    def wait(self, seconds: float) -> list[tuple[Task, Result]]:
        """Return the runs that have ended; raise a ConnectionError if the cluster is gone."""
        ended = super().wait(seconds)
        # Not cancelled futures alone: a result that was on its way then ends no future.
        if not ended and (self._gone or self._client.status != "running"):
            raise ConnectionError(f"the cluster at {self._address} is gone")
        return ended

    def _end(self, *, now: bool) -> None:
        """Leave the cluster; what it still runs is of no use."""
        if self._client.status == "running":
            for executor in self._executors.values():
                executor.shutdown(wait=False)
        self._texts.clear()
        self._owned.close()


def _distributed() -> Any:
    """Import dask's scheduler and client, which only clusters need."""
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a cluster needs the packages dask and distributed, which are not installed: "
            "pip install 'fpemu-lamp[cluster]'"
        ) from error
    return distributed
