"""The studies of a store: their runs in groups, means over seeds, and rules against a baseline."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from fpemu import _html
from lamp.evaluation import ESTIMATED, Compared, Metrics, Sums, ratio
from lamp.integrations import ComparedScore, compared_scores
from lamp.studies import Run, Store, TaskRun

__all__ = [
    "NONE",
    "PART",
    "Beside",
    "Mean",
    "Pair",
    "Results",
    "Rung",
    "Scored",
    "compared",
    "front",
    "grouped",
    "is_part",
    "metrics",
    "read",
    "rule",
    "scored",
    "speed",
]

NONE: Final = "none"
"""The label of runs without look-ahead."""

PART: Final = re.compile(r"(.+?)@(\d{1,5}|outside)\.([a-z_]+)=(.+)")
"""What :func:`lamp.rank` calls a machine with one step of one layer exchanged."""

_Key = TypeVar("_Key")
_Item = TypeVar("_Item")

_VARIABLE: Final = re.compile(r"\{(\w+)\}")
_JOINED: Final = re.compile(r"\+(?=[A-Za-z])")  # not the sign in an amount such as 1e+1
_SEED: Final = re.compile(r":?\bseed=\d+")
_LABELS: Final = ("model", "text", "hardware", "lamp")
_MEANS: Final = (*ESTIMATED, "high_precision_share")
_MOST: Final = 10  # studies named in a message


def metrics(run: Run) -> Metrics:
    """The metrics of a run that is done."""
    assert run.metrics is not None
    return run.metrics


def is_part(run: Run) -> bool:
    """Whether a run's machine is another one with one step of one layer exchanged."""
    return PART.fullmatch(run.hardware) is not None


def speed(run: Run) -> float:
    """Tokens per second of a run that is done; NaN if its time could not be measured."""
    return metrics(run).tokens / run.seconds if run.seconds else math.nan


def rule(lamp: str) -> str:
    """A label of look-ahead without amounts and seeds; a label of any other form is its own rule.

    Examples
    --------
    >>> from lamp.reports.results import rule
    >>> rule("softmax:total_variation:1%:weights=abs+norm:norm:5%")
    'softmax:total_variation:weights=abs+norm:norm'
    """
    settings = (setting.split(":") for setting in _JOINED.split(_SEED.sub("", lamp)))
    return "+".join(":".join(parts[:2] + parts[3:]) for parts in settings)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which finite points are on the Pareto front: both coordinates are to be small.

    Of equal points only the first is on the front.  The indices go from left to right.

    Examples
    --------
    >>> from lamp.reports.results import front
    >>> front([(1, 5), (2, 3), (3, 4), (4, 1)])
    [0, 1, 3]
    """
    finite = (i for i, point in enumerate(points) if all(map(math.isfinite, point)))
    found: list[int] = []
    for i in sorted(finite, key=lambda i: points[i]):
        if not found or points[i][1] < points[found[-1]][1]:
            found.append(i)
    return found


def grouped(items: Iterable[_Item], key: Callable[[_Item], _Key]) -> dict[_Key, list[_Item]]:
    """Items that have a key in common, in the order in which the keys come first."""
    found: dict[_Key, list[_Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


@dataclass(frozen=True)
class Mean(Run):
    """The mean of runs that differ in their seeds alone; its errors are over the seeds."""

    seeds: int = 1


def _mean(runs: Sequence[Run]) -> Mean:
    first, each = runs[0], [metrics(run) for run in runs]
    ones = np.ones(len(runs))
    means = {name: ratio(np.array([getattr(m, name) for m in each]), ones) for name in _MEANS}
    given: dict[str, Any] = {name: mean.value for name, mean in means.items()}
    given |= {f"{name}_error": means[name].error for name in ESTIMATED}
    rates = {
        step: tuple(np.mean(rows, axis=0).tolist())
        for step in metrics(first).step_rates
        for rows in [[found.step_rates.get(step, ()) for found in each]]
        if len(set(map(len, rows))) == 1  # always so, unless the store was tampered with
    }
    sums = [
        Sums(parts[0].positions, *np.mean([part[1:] for part in parts], axis=0).tolist())
        for parts in zip(*(found.sums for found in each), strict=False)
    ]
    given |= {"clusters": len(runs), "windows": len(runs), "step_rates": rates, "sums": tuple(sums)}
    seconds = math.fsum(run.seconds or 0.0 for run in runs) / len(runs)
    found = replace(metrics(first), **given)
    known = {**vars(first), **_without_seeds(first), "metrics": found, "seconds": seconds}
    return Mean(**known, seeds=len(runs))


def _without_seeds(run: Run) -> dict[str, str]:
    return {name: _SEED.sub("", getattr(run, name)) for name in _LABELS}


def _but_for_seeds(run: Run) -> tuple[Any, ...]:
    """What runs have in common that differ in their seeds alone; runs not done are alone."""
    if run.state != "done":
        return (run.position,)
    others = sorted((name, str(x)) for name, x in run.variables.items() if name != "seed")
    return (*_without_seeds(run).values(), run.reference, *others)


class Beside(NamedTuple):
    """A run and its baseline on the same tokens, and how they compare."""

    run: Run
    baseline: Run
    found: Compared


def compared(study: Results) -> Iterator[Beside]:
    """Each run beside the baseline of its model, text and machine.

    The baseline is the run without look-ahead, or else the first.  Runs of stores that have no sums
    of clusters are left out.
    """
    for pair in study.pairs:
        groups = grouped(pair.records, lambda run: (run.hardware, run.reference))
        for runs in groups.values():
            baseline = min(runs, key=lambda run: run.lamp != NONE)
            for run in runs:
                found = metrics(run).against(metrics(baseline))
                if run is not baseline and found is not None:
                    yield Beside(run, baseline, found)


class Scored(NamedTuple):
    """A run that is a task of lm-evaluation-harness, and a score of it beside the reference's."""

    run: TaskRun
    score: ComparedScore


def scored(study: Results) -> Iterator[Scored]:
    """The scores of a study's tasks, each beside that of the reference in the same task.

    Those of the reference itself are left out, and so are all as long as it has not done the task.
    """
    done = [run for run in study.tasks if run.result is not None]
    exact = {run.subject: run for run in done if (run.hardware, run.lamp) == (run.reference, NONE)}
    for run in done:
        other = exact.get(run.subject)
        if other is not None and other is not run and run.result and other.result:
            for score in compared_scores(run.result.scores, other.result.scores):
                yield Scored(run, score)


@dataclass(frozen=True)
class Pair:
    """A model and a text, with their runs that are done, in the study's order."""

    model: str
    text: str
    records: tuple[Run, ...]

    @property
    def title(self) -> str:
        """The model and the text."""
        return f"{self.model} · {self.text}"

    @property
    def plain(self) -> tuple[Run, ...]:
        """The runs without look-ahead."""
        return tuple(run for run in self.records if run.lamp == NONE)

    @property
    def looked_ahead(self) -> tuple[Run, ...]:
        """The runs with look-ahead."""
        return tuple(run for run in self.records if run.lamp != NONE)

    def by_machine(self) -> dict[str, list[Run]]:
        """Its runs by machine."""
        return grouped(self.records, lambda run: run.hardware)


class Rung(NamedTuple):
    """Where a machine is in a family: in ``ps{mu}``, at the value of the variable ``mu``."""

    family: str
    variable: str
    value: float


@dataclass(frozen=True, repr=False)
class Results:
    """A study and its runs.

    Parameters
    ----------
    store : str
        The name of the store's file.
    name : str
        The study.
    definition : mapping
        What the study's file says.
    records : tuple of Run
        Its runs in order; those that are missing or have failed are among them.
    environments : mapping
        Where they ran, by ``Run.environment``.
    tasks : tuple of TaskRun
        Its runs that are tasks of lm-evaluation-harness, likewise.
    """

    store: str
    name: str
    definition: Mapping[str, Any]
    records: tuple[Run, ...]
    environments: Mapping[str, Mapping[str, Any]]
    tasks: tuple[TaskRun, ...] = ()

    def __repr__(self) -> str:
        counted = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"<Results of study {self.name!r} in {self.store!r}: {counted or 'no runs'}>"

    def _repr_html_(self) -> str:
        return _html.facts(f"Results of study {self.name} in {self.store}", self.counts.items())

    @cached_property
    def all(self) -> tuple[Run, ...]:
        """All runs, those that are tasks among them, in order."""
        return tuple(sorted([*self.records, *self.tasks], key=lambda run: run.position))

    def having(self, state: str) -> tuple[Run, ...]:
        """All runs in a state: done, failed, or missing."""
        return tuple(run for run in self.all if run.state == state)

    @cached_property
    def done(self) -> tuple[Run, ...]:
        """The runs on texts that are done."""
        return tuple(run for run in self.records if run.state == "done")

    @cached_property
    def counts(self) -> Counter[str]:
        """How many runs are in which state; a run that has two names counts once."""
        return Counter({run.key: run.state for run in self.all}.values())

    @cached_property
    def averaged(self) -> Results:
        """The study with the mean of runs that differ in their seeds alone in place of them."""
        groups = grouped(self.records, _but_for_seeds).values()
        apart = ([*{run.key: run for run in runs}.values()] for runs in groups)
        means = (runs[0] if len(runs) == 1 else _mean(runs) for runs in apart)
        return replace(self, records=tuple(means))

    def labels(self, kind: str) -> tuple[str, ...]:
        """All labels of a kind, such as "hardware" or "lamp", in the study's order."""
        return tuple(dict.fromkeys(getattr(run, kind) for run in self.records))

    def stated(self, kind: str) -> Sequence[str]:
        """What the study's file says of a kind, with its variables; else the labels of its runs.

        Machines with a step exchanged are left out.
        """
        said = self.definition.get(kind)
        if isinstance(said, list) and said and all(isinstance(each, str) for each in said):
            return [each for each in said if not PART.fullmatch(each)]
        return [each for each in self.labels(kind) if not PART.fullmatch(each)]

    @property
    def tuned(self) -> Mapping[str, Any] | None:
        """What tuning has found, if these are the runs in which it was compared with others."""
        found = self.definition.get("tuned")
        return found if isinstance(found, dict) else None

    @property
    def is_stage(self) -> bool:
        """Whether the runs are those of a stage of tuning, but the last."""
        return "menu" in self.definition and self.tuned is None

    @property
    def failures(self) -> dict[str, list[Run]]:
        """The runs that failed, by reason."""
        return grouped(self.having("failed"), lambda run: run.error or "for no known reason")

    @cached_property
    def machines(self) -> tuple[str, ...]:
        """All machines; the place of one in this order is its color."""
        return self.labels("hardware")

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """All rules of look-ahead, behind "none"; the place of one is its shape."""
        return tuple(dict.fromkeys([NONE, *map(rule, self.labels("lamp"))]))

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Each model and text of which runs are done."""
        found = grouped(self.done, lambda run: (run.model, run.text))
        return tuple(Pair(*pair, tuple(runs)) for pair, runs in found.items())

    @cached_property
    def variables(self) -> dict[str, list[Any]]:
        """The values of each variable of the grid, in the study's order."""
        grid = self.definition.get("grid")
        names = grid if isinstance(grid, dict) else ()
        found: dict[str, dict[Any, None]] = {name: {} for name in names}
        for run in self.records:
            for name, value in run.variables.items():
                found.setdefault(name, {}).setdefault(value)
        return {name: list(values) for name, values in found.items() if values}

    @cached_property
    def _families(self) -> list[tuple[str, str]]:
        """The study's entries of hardware that have one variable, and its name."""
        entries = self.definition.get("hardware")
        listed = entries if isinstance(entries, list) else []
        named = (entry for entry in listed if isinstance(entry, str))
        found = ((entry, set(_VARIABLE.findall(entry))) for entry in named)
        return [(entry, names.pop()) for entry, names in found if len(names) == 1]

    def rung(self, run: Run) -> Rung | None:
        """Where its machine is in a family with one variable, a number; None if it is in none."""
        for entry, variable in self._families:
            value = run.variables.get(variable)
            filled = entry.replace(f"{{{variable}}}", str(value))
            if isinstance(value, (int, float)) and filled == run.hardware:
                return Rung(entry, variable, float(value))
        return None

    def color(self, run: Run) -> int:
        """The number of a run's machine."""
        return self.machines.index(run.hardware)

    def shape(self, run: Run) -> int:
        """The number of a run's rule; 0 is no look-ahead."""
        return self.rules.index(rule(run.lamp))

    def fronts(self, x: Callable[[Run], float], y: Callable[[Run], float]) -> frozenset[int]:
        """The positions of runs on the Pareto front of their model, text and machine.

        Both measures are to be small.
        """
        groups = (runs for pair in self.pairs for runs in pair.by_machine().values())
        return frozenset(
            runs[i].position for runs in groups for i in front([(x(run), y(run)) for run in runs])
        )


def read(store: str | os.PathLike[str], study: str | None = None) -> list[Results]:
    """The studies of a store and their runs.

    Parameters
    ----------
    store : str or path-like
        The store's file.
    study : str, optional
        The name of one study; all of them if it is left out.

    Returns
    -------
    list of Results
        By name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LookupError
        If there is no such study; the message names near ones.
    ValueError
        If the file is no store, or has no studies.
    """
    with Store.open(store) as opened:
        definitions, environments = opened.studies(), opened.environments()
        if not definitions:
            raise ValueError(f"the store {opened.path} has no studies yet")
        if study is not None and study not in definitions:
            near = difflib.get_close_matches(study, definitions, 3, 0.6)
            hint = (
                f"did you mean {', '.join(near)}?" if near else f"it has {_listed([*definitions])}"
            )
            raise LookupError(f"the store {opened.path} has no study {study!r}: {hint}")
        return [
            _results(opened, name, definition, environments)
            for name, definition in definitions.items()
            if study in (None, name)
        ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _results(
    store: Store,
    name: str,
    definition: Mapping[str, Any],
    environments: Mapping[str, Mapping[str, Any]],
) -> Results:
    runs, tasks = tuple(store.runs(name)), tuple(store.task_runs(name))
    used = {run.environment for run in (*runs, *tasks)}
    places = {key: place for key, place in environments.items() if key in used}
    return Results(store.path.name, name, definition, runs, places, tasks)
