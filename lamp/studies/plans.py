"""Plans: the runs of a study with everything that they read, checked before anything runs."""

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

__all__ = ["Plan", "Points", "planned", "walk"]


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
    plan = Plan([], {}, [])
    for point, task in walk(study, digests, plan.notes):
        labels: Mapping[str, Any] = point.labels
        if task.reference is None:
            own = TaskRun(task.key, **labels, variables=point.variables, subject=task.reference_key)
            plan.runs.append(own)
        else:
            plan.runs.append(Run(task.key, **labels, variables=point.variables))
        plan.tasks.setdefault(task.key, task)
    return plan


def walk(
    study: Points, digests: Callable[[Path], str], notes: list[str]
) -> Iterator[tuple[Point, Task]]:
    """Iterate over the points of a study and their tasks, as :func:`planned` has them.

    Parameters
    ----------
    study, digests
        As for :func:`planned`.
    notes : list of str
        Notes are appended to it.

    Yields
    ------
    tuple of (Point, Task)
    """
    checkpoints: dict[str, Checkpoint] = {}
    texts: dict[tuple[str, Source | TaskSource], tuple[Text | TaskSource, str]] = {}
    readers: dict[str, Any] = {}
    given = None

    def task(point: Point) -> Task:
        pair, model = texts[point.model, point.source], checkpoints[point.model]
        reference = None if isinstance(point.source, TaskSource) else point.reference
        return Task(model, *pair, point.setting, reference, numerics.NUMERICS)

    for point in study.walk():
        if point.model not in checkpoints:
            with study.blamed(*point.places["model"]):
                checkpoints[point.model] = Checkpoint.of(point.model, digests)
                readers[point.model] = integrations.reader(point.model)
        pair, source = (point.model, point.source), point.source
        if isinstance(source, TaskSource):
            exact = _exact(point)
            if pair not in texts:
                with study.blamed(*point.places["text"]):
                    texts[pair] = source, source.digest(readers[point.model])
                yield exact, task(exact)
            if point.labels == exact.labels:
                if point.setting != exact.setting:
                    with study.blamed("", "reference"):
                        name = point.labels["reference"]
                        raise ValueError(f"another machine is called {name!r}, like the reference")
                continue
        elif pair not in texts:
            if given is None and source.source == STANDARD_INPUT:
                given = standard_input()
            with study.blamed(*point.places["text"]):
                text = source.read(readers[point.model], given)
                texts[pair] = text, windows_digest(text)
            notes.extend(note for note in text.notes() if note not in notes)
        yield point, task(point)


def _exact(point: Point) -> Point:
    """The point of the reference, which does the same task."""
    labels = {**point.labels, "hardware": point.labels["reference"], "lamp": "none"}
    return replace(point, setting=Setting(point.reference), labels=labels, variables={})
