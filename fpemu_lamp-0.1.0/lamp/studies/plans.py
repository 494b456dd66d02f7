"""Plans: the runs of a study with everything that they read, checked before anything runs.

A study may have millions of runs.  A :class:`Planner` goes through them as often as it is asked to,
and remembers what they read, but not them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lamp import integrations
from lamp.evaluation import STANDARD_INPUT, Setting, Source, Text, numerics, standard_input
from lamp.integrations import TaskSource
from lamp.studies.runs import Run, TaskRun
from lamp.studies.study import Point
from lamp.studies.tasks import Checkpoint, Task, windows_digest

__all__ = ["Plan", "Planner", "Points", "planned"]


class Points(Protocol):
    """What a sweep needs of a study."""

    @property
    def name(self) -> str:
        """The name, unique within a store."""

    def record(self) -> dict[str, Any]:
        """Return what the study says as plain data."""

    def walk(self) -> Iterator[Point]:
        """Iterate over the points."""

    def blamed(self, *place: str) -> AbstractContextManager[None]:
        """Raise errors from here on with the file and line of a place."""


@dataclass(frozen=True)
class Plan:
    """The runs of a study and their tasks.

    Parameters
    ----------
    runs : list of Run
        The runs in the study's order, without results.
    tasks : dict of str to Task
        By key; runs that differ in their labels only share a task.
    notes : list of str
        What differs from what the study asks for, in words.
    """

    runs: list[Run]
    tasks: dict[str, Task]
    notes: list[str]


def planned(study: Points, digests: Callable[[Path], str]) -> Plan:
    """Plan the runs of a study; read and check all that can be before anything runs.

    Parameters
    ----------
    study : Study or whatever has points as a study has
        The study.
    digests : callable
        Gives the SHA-256 of a file.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError, FileNotFoundError, ModuleNotFoundError
        If something is impossible or missing; the message says where in the study.
    """
    planner = Planner(study, digests)
    plan = Plan([], {}, planner.notes)
    for run, task in planner.walk():
        plan.runs.append(run)
        plan.tasks.setdefault(task.key, task)
    return plan


class Planner:
    """Goes through the runs of a study, each with its task.

    Parameters
    ----------
    study, digests
        As for :func:`planned`.

    Attributes
    ----------
    notes : list of str
        What differs from what the study asks for, in words, as far as it was gone through.
    """

    def __init__(self, study: Points, digests: Callable[[Path], str]) -> None:
        self.notes: list[str] = []
        self._study = study
        self._digests = digests
        self._checkpoints: dict[str, Checkpoint] = {}
        self._readers: dict[str, Any] = {}
        self._texts: dict[tuple[str, Source | TaskSource], tuple[Text | TaskSource, str]] = {}
        self._given: Any = None

    def check(self) -> None:
        """Raise what :meth:`walk` raises, in less time."""
        for _ in self._points():
            pass

    def walk(self) -> Iterator[tuple[Run, Task]]:
        """Iterate over the runs in the study's order; each time the same.

        Yields
        ------
        tuple of (Run, Task)
            Runs that differ in their labels only have equal tasks.
        """
        for point in self._points():
            pair, model = self._texts[point.model, point.source], self._checkpoints[point.model]
            is_task = isinstance(point.source, TaskSource)
            reference = None if is_task else point.reference
            task = Task(model, *pair, point.setting, reference, numerics.NUMERICS)
            labels: Mapping[str, Any] = {**point.labels, "variables": point.variables}
            if is_task:
                yield TaskRun(task.key, **labels, subject=task.reference_key), task
            else:
                yield Run(task.key, **labels), task

    def _points(self) -> Iterator[Point]:
        """Iterate over the points, and those of the references of tasks; read what they read."""
        exact: set[tuple[str, Source | TaskSource]] = set()
        for point in self._study.walk():
            pair = point.model, point.source
            if pair not in self._texts:
                self._read(point)
            if isinstance(point.source, TaskSource):
                if pair not in exact:
                    exact.add(pair)
                    yield _exact(point)
                if self._is_exact(point):
                    continue
            yield point

    def _read(self, point: Point) -> None:
        """Read the model and the text or task of a point."""
        model, source = point.model, point.source
        if model not in self._checkpoints:
            with self._study.blamed(*point.places["model"]):
                self._checkpoints[model] = Checkpoint.of(model, self._digests)
                self._readers[model] = integrations.reader(model)
        with self._study.blamed(*point.places["text"]):
            if isinstance(source, TaskSource):
                self._texts[model, source] = source, source.digest(self._readers[model])
                return
            if self._given is None and source.source == STANDARD_INPUT:
                self._given = standard_input()
            text = source.read(self._readers[model], self._given)
        self._texts[model, source] = text, windows_digest(text)
        self.notes.extend(note for note in text.notes() if note not in self.notes)

    def _is_exact(self, point: Point) -> bool:
        """Whether the point of a task is that of its reference."""
        exact = _exact(point)
        if point.labels != exact.labels:
            return False
        if point.setting != exact.setting:
            with self._study.blamed("", "reference"):
                name = point.labels["reference"]
                raise ValueError(f"another machine is called {name!r}, like the reference")
        return True


def _exact(point: Point) -> Point:
    """The point of the reference, which does the same task."""
    labels = {**point.labels, "hardware": point.labels["reference"], "lamp": "none"}
    return replace(point, setting=Setting(point.reference), labels=labels, variables={})
