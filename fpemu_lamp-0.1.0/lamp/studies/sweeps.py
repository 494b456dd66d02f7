"""Sweeps: the runs of a study that a store does not hold yet, measured by an engine.

Runs are measured in an order in which a worker keeps its model and reference as long as possible.
The sweep's own process alone writes to the store: a run when it has ended, in one transaction.
Several sweeps may share a store: each claims a run before it measures it.

A sweep goes through the study twice: once to write down what there is to do, before anything runs,
and again while it runs.  It holds a part of the runs at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from lamp.studies.engines import Engine, engine
from lamp.studies.members import Members
from lamp.studies.plans import Planner, Points
from lamp.studies.runs import Counts, Run, State
from lamp.studies.status import Status
from lamp.studies.store import Store
from lamp.studies.study import Study
from lamp.studies.tasks import Task, file_digest

__all__ = ["Interrupted", "Sweep", "sweep"]

_TICK: Final = 0.5  # seconds to wait for a run to end, before the status is shown again
_LOOK: Final = 1.0  # seconds between attempts to claim runs that other sweeps have claimed
_BEAT: Final = 10.0  # seconds between renewals of claims, a fraction of their lease
_MOST_WAITING: Final = 10_000  # runs that are put into order, and held, at a time

Progress = Callable[[Status], None]
_Planned = tuple[Run, Task]


@dataclass(frozen=True)
class Sweep:
    """The result of a sweep.

    Parameters
    ----------
    study : str
        The name of the study.
    store : Path
        The file of its results.
    runs : tuple of Run
        All runs of the study in its order, those of earlier sweeps included; those that have failed
        alone if `brief` was asked for.
    ran : int
        The number of runs that this sweep measured.
    counts : Counts
        How many runs the study has in which state.
    notes : tuple of str
        What differs from what the study asks for, in words.
    """

    study: str
    store: Path
    runs: tuple[Run, ...]
    ran: int
    counts: Counts
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Run, ...]:
        """The runs that have failed; the next sweep tries them again."""
        return tuple(run for run in self.runs if run.state == "failed")


class Interrupted(KeyboardInterrupt):
    """Raised after Ctrl-C, when the runs that had begun have ended and are in the store.

    Parameters
    ----------
    sweep : Sweep
        The result of the sweep so far.
    """

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(f"the sweep of {sweep.study} was interrupted")
        self.sweep = sweep


def _stored(task: Task) -> tuple[Any, ...]:
    """The formats of the weights of all layers."""
    machines = task.setting.hardware.machines.items()
    return tuple((number, machine.weights) for number, machine in machines)


class _Queue:
    """Tasks that wait, grouped by the reference that they share."""

    def __init__(self, tasks: Sequence[Task] = ()) -> None:
        self._groups: dict[str, deque[Task]] = {}
        self._at: dict[str, str] = {}
        self.add(tasks)

    def add(self, tasks: Sequence[Task]) -> None:
        """Put tasks behind those that wait."""
        # Within a group, tasks follow each other whose weights are stored alike.
        formats = {_stored(task): place for place, task in enumerate(tasks)}
        for task in sorted(tasks, key=lambda task: formats[_stored(task)]):
            self._groups.setdefault(task.reference_key, deque()).append(task)

    def __bool__(self) -> bool:
        return any(self._groups.values())

    def take(self, worker: str) -> Task:
        """Take a task for a worker: of its group, else of a free group, else of the largest."""
        group = self._at.get(worker, "")
        if not self._groups.get(group):
            left = [name for name, tasks in self._groups.items() if tasks]
            taken = set(self._at.values())
            free = [name for name in left if name not in taken]
            group = free[0] if free else max(left, key=lambda name: len(self._groups[name]))
        self._at[worker] = group
        task = self._groups[group].popleft()
        if not self._groups[group]:
            del self._groups[group]
        return task


def sweep(
    study: Points | str | os.PathLike[str],
    *,
    store: str | os.PathLike[str],
    jobs: int | None = None,
    cluster: Any = None,
    memory: int | None = None,
    progress: Progress | bool = False,
    grow: bool = False,
    workers: Callable[[Path], Engine] | None = None,
    brief: bool = False,
) -> Sweep:
    """Measure the runs of a study that a store does not hold yet.

    Ctrl-C ends the sweep after the runs that have begun, a second one at once.

    Parameters
    ----------
    study : Study, str or path-like
        A study, its TOML file, or whatever has points as a study has.
    store : str or path-like
        The SQLite file of the results; it is made if there is none.
    jobs : int, optional
        The number of processes; by default this one alone.
    cluster : str or distributed.Client, optional
        A dask cluster: the address of its scheduler, ``"local"`` for one on this machine, or a
        client.
    memory : int, optional
        Bytes of reference logits to keep in memory, of all processes together; by default a fourth
        of the machine's memory.
    progress : bool or callable
        True for a table on standard error, or a function to call with the :class:`Status` whenever
        it has changed.
    grow : bool
        Whether a study of the same name that the store has keeps its other runs.
    workers : callable, optional
        Gives the engine, :func:`lamp.studies.engine`, in place of `jobs`, `cluster` and `memory`,
        from the folder for reference logits that do not fit into memory.  It is left open for the
        next sweep, unless this one ends by an error.
    brief : bool
        Whether the sweep's `runs` are to be those alone that have failed.

    Returns
    -------
    Sweep
        Runs that fail do not end a sweep; they are in its ``failed``.

    Raises
    ------
    ValueError, FileNotFoundError
        If the study says something impossible, a file is missing, or the store is no store or is
        deleted while the sweep runs.
    ModuleNotFoundError
        If a package is missing; the message names the extra.
    OSError
        If the store cannot be written to, or the cluster is gone.
    Interrupted
        After Ctrl-C; it is a KeyboardInterrupt.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import lamp
    >>> text = {"source": "held-out", "tokens": 64}
    >>> machines = ["scores-ps{mu}"]
    >>> study = lamp.Study("scores", texts=[text], hardware=machines, grid={"mu": [2, 4]})
    >>> with TemporaryDirectory() as folder:
    ...     first = lamp.sweep(study, store=f"{folder}/scores.sqlite")
    ...     second = lamp.sweep(study, store=f"{folder}/scores.sqlite")
    >>> first.ran, [run.state for run in first.runs], second.ran
    (2, ['done', 'done'], 0)
    """
    if isinstance(study, (str, os.PathLike)):
        study = Study.load(study)
    if not hasattr(study, "walk"):
        raise TypeError(f"study must be a Study or the path of a file, not {study!r}")
    file = Path(store)
    with contextlib.ExitStack() as stack:
        exists = file.exists()
        opened = stack.enter_context(Store.open(file, write=True)) if exists else None
        planner = Planner(study, file_digest if opened is None else opened.digest)
        members = stack.enter_context(Members.of(run for run, _ in planner.walk()))
        if opened is None:  # made once the study is known to be possible
            opened = stack.enter_context(Store.open(file, write=True))
        kept = opened.plan(study.name, study.record(), members, grow=grow)
        notes = list(planner.notes)
        if kept is not None:
            notes.append(
                f"{file} had another study {study.name!r}, whose results stay there as {kept!r}"
            )
        total, missing = members.missing(opened.finished)
        status = Status(study.name, total, total - len(missing))
        if missing:
            spill = file.with_name(f"{file.name}-references")
            stack.callback(shutil.rmtree, spill, ignore_errors=True)
            show = stack.enter_context(_shown(progress))
            if workers is None:
                measuring = engine(jobs, cluster, memory=memory, spill=spill)
            else:
                measuring = workers(spill)
            runner = _Runner(opened, measuring, _at(planner.walk(), missing), status, show)
            runner.run(keep=workers is not None)
        opened.check_place()
        state: State | None = "failed" if brief else None
        found = [*opened.runs(study.name, state), *opened.task_runs(study.name, state)]
        own = (run for run in found if run.key in members)
        runs = tuple(sorted(own, key=lambda run: run.position))
        counts = opened.counts(study.name)
    result = Sweep(study.name, file, runs, status.measured, counts, tuple(notes))
    if status.stopping:
        raise Interrupted(result)
    return result


def _at(runs: Iterable[_Planned], positions: Iterable[int]) -> Iterator[_Planned]:
    """Iterate over the runs at some positions, which are in order."""
    numbered = enumerate(runs)
    for position in positions:
        yield next(run for number, run in numbered if number == position)


@contextlib.contextmanager
def _shown(progress: Progress | bool) -> Iterator[Progress]:
    if callable(progress):
        yield progress
    elif progress:
        from lamp.studies.progress import shown

        with shown() as show:
            yield show
    else:
        yield lambda status: None


class _Runner:
    """Gives tasks to workers and writes down their results."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        missing: Iterator[_Planned],
        status: Status,
        progress: Progress,
    ) -> None:
        self._store = store
        self._engine = engine
        self._missing = missing
        self._status = status
        self._progress = progress
        self._runs: dict[str, Run] = {}  # that have begun or wait
        self._queue = _Queue()
        self._owner = uuid.uuid4().hex
        self._elsewhere: list[Task] = []
        self._looked = time.monotonic()
        engine.report = self._follow

    def _follow(self, share: float) -> None:
        self._status.share = share

    def run(self, *, keep: bool) -> None:
        """Measure all tasks, or until Ctrl-C; the engine may be kept after that."""
        orderly = False
        try:
            with self._interruptible(), self._alive():
                self._loop()
                orderly = True
        finally:
            if not (orderly and keep):
                self._engine.close(now=not orderly)
            with contextlib.suppress(OSError):  # claims lapse by themselves
                self._store.release(self._owner)

    def _loop(self) -> None:
        status, queue = self._status, self._queue
        while True:
            self._store.check_place()
            if not status.stopping:
                self._hand_out()
                if self._elsewhere and not queue and time.monotonic() - self._looked > _LOOK:
                    queue.add(self._elsewhere)
                    self._elsewhere = []
                    self._looked = time.monotonic()
            status.elsewhere = len(self._elsewhere)
            self._progress(status)
            if not status.running:
                if status.stopping or not (queue or self._elsewhere):
                    return
                time.sleep(_TICK)  # for another sweep, or for a worker
            for task, result in self._engine.wait(_TICK):
                self._store.finish(task.key, task.configuration, result)
                del status.running[task.key]
                status.add(self._runs.pop(task.key), result)

    def _waits(self) -> bool:
        """Whether a task waits; as long as there are any, some do."""
        if not self._queue:
            planned = [*itertools.islice(self._missing, _MOST_WAITING)]
            self._runs |= {task.key: run for run, task in planned}
            self._queue.add([task for _, task in planned])
        return bool(self._queue)

    def _hand_out(self) -> None:
        """Give every free worker a task that no other sweep has."""
        for worker in self._engine.free():
            while self._waits():
                task = self._queue.take(worker)
                claim = self._store.claim(task.key, self._owner)
                if claim == "claimed":
                    running = self._runs[task.key], worker, time.monotonic()
                    self._status.running[task.key] = running
                    self._status.share = 0.0
                    self._progress(self._status)  # before: the worker may be this process
                    self._engine.submit(worker, task)
                    break
                if claim == "taken":
                    self._elsewhere.append(task)
                else:
                    del self._runs[task.key]
                    self._status.before += 1

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let the first Ctrl-C stop the sweep after its runs, and the second at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals go to the main thread
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._status.stopping:
                raise KeyboardInterrupt
            self._status.stopping = True

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Renew claims while runs are measured."""
        over = threading.Event()

        def beat() -> None:
            # An error here is one in the sweep, too, which reports it.
            with contextlib.suppress(OSError), Store.open(self._store.path, write=True) as own:
                while not over.wait(_BEAT):
                    own.renew(self._owner)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
