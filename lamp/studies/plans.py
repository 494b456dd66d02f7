"""Plans: the runs of a study with everything that they read, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamp.evaluation import STANDARD_INPUT, Source, Text, numerics, standard_input
from lamp.models import loading as models
from lamp.studies.runs import Run
from lamp.studies.study import Study
from lamp.studies.tasks import Checkpoint, Task, windows_digest

__all__ = ["Plan", "planned"]


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


def planned(study: Study, digests: Callable[[Path], str]) -> Plan:
    """Plan the runs of a study; read and check all that can be before anything runs.

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
        If something is impossible or missing; the message says where in the study.
    """
    checkpoints: dict[str, Checkpoint] = {}
    texts: dict[tuple[str, Source], tuple[Text, str]] = {}
    readers: dict[str, Any] = {}
    plan = Plan([], {}, [])
    points = study.points()
    given = None
    if any(point.source.source == STANDARD_INPUT for point in points):
        given = standard_input()
    for point in points:
        if point.model not in checkpoints:
            with study.blamed(*point.places["model"]):
                checkpoints[point.model] = Checkpoint.of(point.model, digests)
                readers[point.model] = models.reader(point.model)
        pair = point.model, point.source
        if pair not in texts:
            with study.blamed(*point.places["text"]):
                text = point.source.read(readers[point.model], given)
                texts[pair] = text, windows_digest(text)
            plan.notes.extend(note for note in text.notes() if note not in plan.notes)
        machines = point.setting, point.reference
        task = Task(checkpoints[point.model], *texts[pair], *machines, numerics.NUMERICS)
        labels: Mapping[str, Any] = point.labels
        plan.runs.append(Run(task.key, **labels, variables=point.variables))
        plan.tasks.setdefault(task.key, task)
    return plan
