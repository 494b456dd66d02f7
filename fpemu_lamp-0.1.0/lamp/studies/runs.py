"""Runs, the points of a study, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from lamp.evaluation import Metrics
from lamp.integrations import TaskResult

__all__ = ["Counts", "Result", "Run", "State", "TaskRun", "now"]

State = Literal["done", "failed", "missing"]


def now() -> str:
    """Return the time as stores hold it: UTC, ISO 8601.

    Returns
    -------
    str
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Result:
    """The result of a run, as the worker that measured it gives it.

    Parameters
    ----------
    metrics : Metrics, TaskResult or None
        None if the run failed; a TaskResult for a :class:`TaskRun`.
    seconds : float
        Wall time of the forward passes and comparisons, without compiling kernels.
    started_at, finished_at : str
        As ``now`` gives them.
    environment : mapping
        The process and machine that measured it; plain data.
    error, traceback : str
        Why the run failed, in a line and in full; empty if it is done.
    notes : tuple of str
        What the model on its machine says of itself, see :meth:`lamp.models.Decoder.notes`.
    """

    metrics: Metrics | TaskResult | None
    seconds: float
    started_at: str
    finished_at: str
    environment: Mapping[str, Any]
    error: str = ""
    traceback: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A point of a study, and its result as far as the store holds one.

    Parameters
    ----------
    key : str
        The SHA-256 of everything that its result depends on.
    model, text, hardware, lamp, reference : str
        Labels for people.
    variables : mapping
        The values of the grid's variables.
    study : str
        The name of the study; empty before a store holds it.
    position : int
        The place in the study's order, from 0.
    state : {"done", "failed", "missing"}
    metrics : Metrics or None
        None unless the run is done.
    seconds : float or None
        Wall time of the forward passes and comparisons, without compiling kernels; None if the
        run is missing.
    started_at, finished_at : str or None
        UTC, as ISO 8601.
    error : str or None
        Why the run failed, in a line.
    environment : str or None
        The environment that it was measured in, a key of :meth:`Store.environments`.
    notes : tuple of str
        What the model on its machine said of itself when the run was done, such as the steps that
        the machine names and the model does not have.
    """

    key: str
    model: str
    text: str
    hardware: str
    lamp: str
    reference: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    study: str = ""
    position: int = 0
    state: State = "missing"
    metrics: Metrics | None = None
    seconds: float | None = None
    started_at: str | None = None
    finished_at: str | None = None
    error: str | None = None
    environment: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rules = "" if self.lamp == "none" else f" + {self.lamp}"
        return f"{self.model}, {self.text}: {self.hardware}{rules}"


@dataclass(frozen=True)
class TaskRun(Run):
    """A point of a study whose model does a task of lm-evaluation-harness on a machine.

    Its `text` is the label of the task, its `metrics` are None.  The reference is a run of its own:
    on the machine `reference`, with the same `subject`.

    Parameters
    ----------
    subject : str
        The SHA-256 of model, task and documents: runs that share it can be compared document by
        document.
    result : TaskResult or None
        None unless the run is done.
    """

    subject: str = ""
    result: TaskResult | None = None


@dataclass(frozen=True)
class Counts:
    """The number of a study's runs by state.

    Parameters
    ----------
    done, failed, missing : int
        Runs in each state.
    running : int
        Failed and missing runs that a process is measuring.
    """

    done: int
    failed: int
    missing: int
    running: int

    @property
    def total(self) -> int:
        """The number of all runs of the study."""
        return self.done + self.failed + self.missing
