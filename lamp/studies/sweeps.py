"""Sweeps: a study's runs, those that a store does not hold yet, on an engine.

Runs are measured in an order in which a worker keeps its model and its reference as long as it can.
The process that sweeps alone writes to the store: a run when it has ended, in one transaction.
Several sweeps may be at one store; each run that it does, a sweep claims before it begins.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from lamp.evaluation import STANDARD_INPUT, Source, numerics, read_standard_input, runs
from lamp.models import loading as models
from lamp.studies.engines import Engine, engine
from lamp.studies.store import Member, Outcome, Record, Store
from lamp.studies.study import Case, Study
from lamp.studies.worker import Checkpoint, Task, file_digest, windows_digest

__all__ = ["Interrupted", "Plan", "Status", "Sweep", "planned", "sweep"]

_TICK: Final = 0.5  # seconds between looks at the clock
_LOOK: Final = 1.0  # seconds between looks at what other sweeps are at
_BEAT: Final = 10.0  # seconds between signs of life, a fraction of the lease of a claim

Progress = Callable[["Status"], None]


@dataclass(frozen=True)
class Sweep:
    """What a sweep has come to.

    Parameters
    ----------
    study : str
        The name of the study.
    store : Path
        Where its results are.
    records : tuple of Record
        All runs of the study, in its order, those of earlier sweeps included.
    ran : int
        How many runs this sweep did.
    notes : tuple of str
        What is not as the study asks for, in words.
    """

    study: str
    store: Path
    records: tuple[Record, ...]
    ran: int
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Record, ...]:
        """The runs that have failed; the next sweep tries them again."""
        return tuple(record for record in self.records if record.state == "failed")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C: the runs that had begun have ended and are in the store.

    Parameters
    ----------
    sweep : Sweep
        What the sweep has come to.
    """

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(f"the sweep of {sweep.study} was interrupted")
        self.sweep = sweep


@dataclass
class Status:
    """How far a sweep is; the same object all along.

    Parameters
    ----------
    study : str
        The name of the study.
    total : int
        How many runs it has.
    before : int
        How many of them were done before.
    running : dict
        By key, the runs that are measured, by which worker, and since when.
    ended : list
        Runs and how they ended, in this order.
    elsewhere : int
        Runs that another sweep is at.
    stopping : bool
        Whether Ctrl-C was pressed.
    begun : float
        ``time.monotonic()`` at the beginning.
    """

    study: str
    total: int
    before: int
    running: dict[str, tuple[Member, str, float]] = field(default_factory=dict)
    ended: list[tuple[Member, Outcome]] = field(default_factory=list)
    elsewhere: int = 0
    stopping: bool = False
    begun: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> int:
        """How many runs have failed."""
        return sum(outcome.metrics is None for _, outcome in self.ended)

    @property
    def left(self) -> int:
        """How many runs are to be done."""
        return self.total - self.before - len(self.ended)

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None if nothing has ended yet."""
        if not self.ended:
            return None
        return (time.monotonic() - self.begun) / len(self.ended) * self.left


# --- planning -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The runs of a study.

    Parameters
    ----------
    members : list of Member
        In the study's order.
    tasks : dict
        By key; those that are equal but for their labels are one.
    notes : list of str
        What is not as the study asks for, in words.
    """

    members: list[Member]
    tasks: dict[str, Task]
    notes: list[str]


def planned(study: Study, digests: Callable[[Path], str]) -> Plan:
    """The runs of a study, after all is checked that can be before anything runs.

    Parameters
    ----------
    study : Study
        The study.
    digests : callable
        Gives the SHA-256 of a file.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError, FileNotFoundError, ModuleNotFoundError
        If something is impossible or missing; says where in the study.
    """
    checkpoints: dict[str, Checkpoint] = {}
    texts: dict[tuple[str, Source], tuple[runs.Text, str]] = {}
    readers: dict[str, Any] = {}
    plan = Plan([], {}, [])
    cases = study.cases()
    given = None
    if any(case.source.source == STANDARD_INPUT for case in cases):
        given = read_standard_input()
    for case in cases:
        if case.model not in checkpoints:
            with study.blamed(*case.places["model"]):
                checkpoints[case.model] = Checkpoint.of(case.model, digests)
                readers[case.model] = models.reader(case.model)
        pair = case.model, case.source
        if pair not in texts:
            with study.blamed(*case.places["text"]):
                text = case.source.read(readers[case.model], given)
                texts[pair] = text, windows_digest(text)
            plan.notes.extend(note for note in text.notes() if note not in plan.notes)
        task = _task(case, checkpoints[case.model], *texts[pair])
        plan.members.append(Member(key=task.key, variables=case.variables, **case.labels))
        plan.tasks.setdefault(task.key, task)
    return plan


def _task(case: Case, checkpoint: Checkpoint, text: runs.Text, digest: str) -> Task:
    return Task(checkpoint, text, digest, case.setting, case.reference, numerics.NUMERICS)


class _Queue:
    """Runs to be done, those together that share a model and a reference."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._groups: dict[str, deque[Task]] = {}
        # In a group those together whose weights are stored alike.
        formats = {task.setting.hardware.weights: place for place, task in enumerate(tasks)}
        for task in sorted(tasks, key=lambda task: formats[task.setting.hardware.weights]):
            self._groups.setdefault(task.group, deque()).append(task)
        self._at: dict[str, str] = {}

    def __bool__(self) -> bool:
        return any(self._groups.values())

    def take(self, worker: str) -> Task:
        """A run for a worker: of its group, else of one that none is at, else of the largest."""
        group = self._at.get(worker, "")
        if not self._groups.get(group):
            left = [name for name, tasks in self._groups.items() if tasks]
            taken = set(self._at.values())
            alone = [name for name in left if name not in taken]
            group = alone[0] if alone else max(left, key=lambda name: len(self._groups[name]))
        self._at[worker] = group
        task = self._groups[group].popleft()
        if not self._groups[group]:
            del self._groups[group]
        return task


# --- sweeping -------------------------------------------------------------------------------------


def sweep(
    study: Study | str | os.PathLike[str],
    *,
    store: str | os.PathLike[str],
    jobs: int | None = None,
    cluster: Any = None,
    memory: int | None = None,
    progress: Progress | bool = False,
) -> Sweep:
    """Do the runs of a study that a store does not hold yet.

    Ctrl-C ends the sweep after the runs that have begun, a second one at once.

    Parameters
    ----------
    study : Study, str or path-like
        A study, or the TOML file of one.
    store : str or path-like
        The SQLite file of the results; it is made if there is none.
    jobs : int, optional
        How many processes measure; left out, this one alone.
    cluster : str or distributed.Client, optional
        A dask cluster: the address of its scheduler, ``"local"`` for one on this machine, or a
        client.
    memory : int, optional
        Bytes of reference logits to keep in memory, of all processes together; left out, a fourth
        of the machine's.
    progress : bool or callable
        True for a table on standard error, or what to call with a :class:`Status` when something
        has changed.

    Returns
    -------
    Sweep
        Runs that fail do not end a sweep: see its ``failed``.

    Raises
    ------
    ValueError, FileNotFoundError
        If the study says something impossible, a file is missing, or the store is none.
    ModuleNotFoundError
        If a package is missing; names the extra.
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
    >>> first.ran, [record.state for record in first.records], second.ran
    (2, ['done', 'done'], 0)
    """
    if not isinstance(study, Study):
        study = Study.load(study)
    file = Path(store)
    with contextlib.ExitStack() as stack:
        exists = file.exists()
        opened = stack.enter_context(Store.open(file, write=True)) if exists else None
        plan = planned(study, file_digest if opened is None else opened.digest)
        if opened is None:  # there is none before the study is known to be possible
            opened = stack.enter_context(Store.open(file, write=True))
        opened.plan(study.name, study.record(), plan.members)
        done = opened.finished()
        missing = [task for key, task in plan.tasks.items() if key not in done]
        status = Status(study.name, len(plan.tasks), len(plan.tasks) - len(missing))
        if missing:
            spill = file.with_name(f"{file.name}-references")
            stack.callback(shutil.rmtree, spill, ignore_errors=True)
            show = stack.enter_context(_shown(progress))
            measuring = engine(jobs, cluster, memory=memory, spill=spill)
            _Runner(opened, measuring, plan, status, show).run(missing)
        records = tuple(opened.records(study.name))
    result = Sweep(study.name, file, records, len(status.ended), tuple(plan.notes))
    if status.stopping:
        raise Interrupted(result)
    return result


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
    """Gives runs to workers and writes down how they end."""

    def __init__(
        self, store: Store, engine: Engine, plan: Plan, status: Status, progress: Progress
    ) -> None:
        self._store = store
        self._engine = engine
        self._status = status
        self._progress = progress
        self._members: dict[str, Member] = {}
        for member in plan.members:
            self._members.setdefault(member.key, member)
        self._owner = uuid.uuid4().hex
        self._elsewhere: list[Task] = []
        self._looked = time.monotonic()

    def run(self, tasks: Sequence[Task]) -> None:
        """Do runs, all or until Ctrl-C."""
        orderly = False
        try:
            with self._interruptible(), self._alive():
                self._loop(_Queue(tasks))
                orderly = True
        finally:
            self._engine.close(now=not orderly)
            with contextlib.suppress(OSError):  # claims lapse by themselves
                self._store.release(self._owner)

    def _loop(self, queue: _Queue) -> None:
        status = self._status
        while True:
            if not status.stopping:
                self._hand_out(queue)
                if self._elsewhere and not queue and time.monotonic() - self._looked > _LOOK:
                    queue, self._elsewhere = _Queue(self._elsewhere), []
                    self._looked = time.monotonic()
            status.elsewhere = len(self._elsewhere)
            self._progress(status)
            if not status.running:
                if status.stopping or not (queue or self._elsewhere):
                    return
                time.sleep(_TICK)  # for another sweep, or for a worker
            for task, outcome in self._engine.wait(_TICK):
                self._store.finish(task.key, task.configuration, outcome)
                del status.running[task.key]
                status.ended.append((self._members[task.key], outcome))

    def _hand_out(self, queue: _Queue) -> None:
        """A run for every worker that is free."""
        for worker in self._engine.free():
            while queue:
                task = queue.take(worker)
                claim = self._store.claim(task.key, self._owner)
                if claim == "claimed":
                    member = self._members[task.key]
                    self._status.running[task.key] = member, worker, time.monotonic()
                    self._progress(self._status)  # this process may be the one that measures it
                    self._engine.submit(worker, task)
                    break
                if claim == "taken":
                    self._elsewhere.append(task)
                else:
                    self._status.before += 1

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C is a wish to stop, and a second one an order."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are for the main thread alone
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
        """Claims are renewed while runs are measured."""
        over = threading.Event()

        def beat() -> None:
            # What hinders this hinders the sweep, too, which says so.
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
