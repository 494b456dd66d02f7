"""What reports know of runs: their rules, their means over seeds, and each beside its baseline."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from lamp.evaluation import ESTIMATED, Compared, Metrics, Sums, ratio
from lamp.integrations import ComparedScore, compared_scores
from lamp.studies import Run, TaskRun

__all__ = [
    "MOST",
    "NONE",
    "PART",
    "Beside",
    "Mean",
    "Scored",
    "but_for_seeds",
    "compared",
    "evenly",
    "front",
    "grouped",
    "is_part",
    "mean",
    "metrics",
    "rule",
    "scored",
    "speed",
]

NONE: Final = "none"
"""The label of runs without look-ahead."""

PART: Final = re.compile(r"(.+?)@(\d{1,5}|outside)\.([a-z_]+)=(.+)")
"""What :func:`lamp.rank` calls a machine with one step of one layer exchanged."""

MOST: Final = 5000
"""How many runs a table or a chart shows."""

_Key = TypeVar("_Key")
_Item = TypeVar("_Item")

_JOINED: Final = re.compile(r"\+(?=[A-Za-z])")  # not the sign in an amount such as 1e+1
_SEED: Final = re.compile(r":?\bseed=\d+")
_LABELS: Final = ("model", "text", "hardware", "lamp")
_MEANS: Final = (*ESTIMATED, "high_precision_share")


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
    >>> from lamp.reports.runs import rule
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
    >>> from lamp.reports.runs import front
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


def evenly(
    items: Sequence[_Item], most: int, kept: Callable[[_Item], bool] = lambda item: False
) -> Sequence[_Item]:
    """At most so many items in their order: those to be kept, and some evenly among the others.

    Examples
    --------
    >>> from lamp.reports.runs import evenly
    >>> evenly(range(10), 5, lambda item: item == 7)
    [0, 3, 5, 7, 9]
    """
    if len(items) <= most:
        return items
    wanted = [i for i, item in enumerate(items) if kept(item)]
    others = sorted({*range(len(items))}.difference(wanted))
    chosen = [*_spread(wanted, most), *_spread(others, most - len(wanted))]
    return [items[i] for i in sorted(chosen)]


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    places = np.linspace(0, len(numbers) - 1, max(0, min(most, len(numbers))))
    return [numbers[place] for place in places.round().astype(int)]


@dataclass(frozen=True)
class Mean(Run):
    """The mean of runs that differ in their seeds alone; its errors are over the seeds."""

    seeds: int = 1


def mean(runs: Sequence[Run]) -> Mean:
    """The mean of runs that are done and differ in their seeds alone."""
    first, each = runs[0], [metrics(run) for run in runs]
    ones = np.ones(len(runs))
    means = {name: ratio(np.array([getattr(m, name) for m in each]), ones) for name in _MEANS}
    given: dict[str, Any] = {name: found.value for name, found in means.items()}
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


def but_for_seeds(run: Run) -> tuple[Any, ...]:
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


def compared(runs: Iterable[Run]) -> Iterator[Beside]:
    """Each run that is done beside the baseline of its model, text and machine.

    The baseline is the run without look-ahead, or else the first.  Runs of stores that have no sums
    of clusters are left out.
    """
    done = (run for run in runs if run.state == "done")
    for pair in grouped(done, lambda run: (run.model, run.text)).values():
        for group in grouped(pair, lambda run: (run.hardware, run.reference)).values():
            baseline = min(group, key=lambda run: run.lamp != NONE)
            for run in group:
                found = metrics(run).against(metrics(baseline))
                if run is not baseline and found is not None:
                    yield Beside(run, baseline, found)


class Scored(NamedTuple):
    """A run that is a task of lm-evaluation-harness, and a score of it beside the reference's."""

    run: TaskRun
    score: ComparedScore


def scored(tasks: Iterable[TaskRun]) -> Iterator[Scored]:
    """The scores of tasks of a study, each beside that of the reference in the same task.

    Those of the reference itself are left out, and so are all as long as it has not done the task.
    """
    done = [run for run in tasks if run.result is not None]
    exact = {run.subject: run for run in done if (run.hardware, run.lamp) == (run.reference, NONE)}
    for run in done:
        other = exact.get(run.subject)
        if other is not None and other is not run and run.result and other.result:
            for score in compared_scores(run.result.scores, other.result.scores):
                yield Scored(run, score)
