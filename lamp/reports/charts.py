"""Which charts a report has, in which order, and what is said of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from lamp.machines import STEPS
from lamp.reports import figures
from lamp.reports.figures import Block, Entry, Line, Picture, Point
from lamp.reports.quantities import FLIPS, KL, RATE, SHARE, SPEED, Quantity, described
from lamp.reports.results import NONE, Pair, Results, Rung, front, grouped, metrics
from lamp.reports.scales import Scale

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = ["ERRORS", "Chart", "charts", "divergences", "heat_maps", "ladders", "scatter", "speeds"]

_WORK: Final = (
    ("KL against recomputation rate", RATE, KL),
    ("KL against work in high precision", SHARE, KL),
    ("Flips against recomputation rate", RATE, FLIPS),
)
ERRORS: Final = Entry("bars and bands: one standard error", role="note")
_MOST: Final = 12  # runs in a heat map

Groups = Sequence[Sequence[tuple[str, Picture]]]


@dataclass(frozen=True)
class Chart:
    """Pictures that belong together, each with a name unless its title tells it from the others.

    Those of a group are side by side.
    """

    title: str
    note: str
    groups: Groups

    @property
    def named(self) -> list[tuple[str, Picture]]:
        """All pictures, with their names."""
        return [each for group in self.groups for each in group]

    @property
    def legend(self) -> list[Entry]:
        """What colors and shapes mean in any of the pictures: machines, rules, lines."""
        entries = dict.fromkeys(entry for _, each in self.named for entry in each.legend)
        return sorted(entries, key=_rank)


def _rank(entry: Entry) -> tuple[bool, bool, int]:
    color, shape = entry.color, entry.shape
    return color is None, shape is None, (color if color is not None else shape) or 0


def charts(study: Results) -> list[Chart]:
    """The charts of a study, those for which it has runs."""
    found = ((title, note, groups(study)) for title, note, groups in _CHARTS)
    return [Chart(*each) for each in found if any(each[2])]


# --- what is lost against what is paid ------------------------------------------------------------


def _work(study: Results) -> Groups:
    groups = [[(name, each) for each in scatter(study, x, y)] for name, x, y in _WORK]
    return groups if len(groups[0]) > 1 else [list(itertools.chain(*groups))]


def scatter(study: Results, x: Quantity, y: Quantity) -> list[Picture]:
    """What is lost against what is paid, for each model and text that has runs with look-ahead."""
    return [_scatter(study, pair, x, y) for pair in study.pairs if pair.looked_ahead]


def _scatter(study: Results, pair: Pair, x: Quantity, y: Quantity) -> Picture:
    points = [_point(study, run, y, x) for run in pair.looked_ahead]
    lines = [
        Line(
            ((math.nan, y.value(run), y.error(run)),),
            study.color(run),
            "level",
            f"{described(run, y)}, no look-ahead",
        )
        for run in pair.plain
    ]
    for runs in pair.by_machine().values():
        at = [(x.value(run), y.value(run)) for run in runs]
        best = tuple((*at[i], math.nan) for i in front(at) if runs[i].lamp != NONE)
        lines += [Line(best, study.color(runs[0]))] if len(best) > 1 else []
    machines = dict.fromkeys(run.hardware for run in pair.records)
    rules = {study.shape(run) for run in pair.looked_ahead}
    legend = (
        *(Entry(name, study.machines.index(name)) for name in machines),
        *(Entry(study.rules[i], None, i, "rule") for i in sorted(rules)),
        *[Entry("no look-ahead", role="level")] * bool(pair.plain),
        Entry("Pareto front of a machine", role="front"),
        ERRORS,
    )
    summary = f"{y.title}, against {x.title}: {len(points)} runs of {pair.title}"
    draw = partial(figures.plot, _across(x, pair.looked_ahead), _up(y, pair.records), points, lines)
    return Picture(f"{y.name}-{x.name}", pair.title, summary, legend, draw)


def _across(quantity: Quantity, runs: Sequence[Run], *, log: bool = True) -> Scale:
    drawn = map(quantity.value, runs), quantity.label
    errors = map(quantity.error, runs)
    return Scale(quantity.title, *drawn, log=log, room=0.17, band=0.085, errors=errors)


def _up(quantity: Quantity, runs: Sequence[Run]) -> Scale:
    errors = map(quantity.error, runs)
    return Scale(quantity.title, map(quantity.value, runs), quantity.label, errors=errors)


def _point(study: Results, run: Run, y: Quantity, x: Quantity | None = None) -> Point:
    """The mark of a run."""
    place, error = (x.value(run), x.error(run)) if x else (math.nan, math.nan)
    tooltip = described(run, y, *[x] if x else [])
    look = study.color(run), study.shape(run), tooltip
    return Point(place, y.value(run), *look, error, y.error(run))


def _shapes(study: Results, runs: Iterable[Run]) -> tuple[Entry, ...]:
    """What the shapes of runs mean; nothing if all have the same."""
    shapes = {study.shape(run) for run in runs}
    names = ("no look-ahead", *study.rules[1:])
    return tuple(Entry(names[i], None, i, "rule") for i in sorted(shapes) if len(shapes) > 1)


# --- along families of machines -------------------------------------------------------------------


def ladders(study: Results) -> list[Picture]:
    """KL along each family of two machines or more, for each model and text."""
    found = []
    for pair in study.pairs:
        rungs = [(rung, run) for run in pair.records if (rung := study.rung(run)) is not None]
        for variable in dict.fromkeys(rung.variable for rung, _ in rungs):
            own = [(rung, run) for rung, run in rungs if rung.variable == variable]
            if len({rung.value for rung, _ in own}) > 1:
                found.append(_ladder(study, pair, variable, own))
    return found


def _ladder(
    study: Results, pair: Pair, variable: str, rungs: Sequence[tuple[Rung, Run]]
) -> Picture:
    families = [*dict.fromkeys(rung.family for rung, _ in rungs)]
    bits = any(f"ps{{{variable}}}" in family for family in families)
    title = f"{variable}, stored significand bits" if bits else variable
    values, runs = {rung.value for rung, _ in rungs}, [run for _, run in rungs]
    x = Scale(title, values, "{:g}".format, log=False, marked=[*values])
    joined: dict[tuple[int, str], list[Point]] = {}
    for rung, run in sorted(rungs, key=lambda each: each[0].value):
        color = families.index(rung.family)
        point = _point(study, run, KL)._replace(x=rung.value, color=color)
        joined.setdefault((color, run.lamp), []).append(point)
    points = list(itertools.chain(*joined.values()))
    lines = [
        Line(tuple((p.x, p.y, p.y_error) for p in part), color, role)
        for (color, lamp), own in joined.items()
        for role in ["path" if lamp == NONE else "front"]
        for finite, stretch in itertools.groupby(own, key=lambda point: math.isfinite(point.y))
        for part in [list(stretch)]
        if finite and len(part) > 1
    ]
    paths = (Entry(name, i, role="path") for i, name in enumerate(families))
    summary = f"{KL.title}, against {title}: {len(points)} runs of {pair.title}"
    draw = partial(figures.plot, x, _up(KL, runs), points, lines)
    legend = (*paths, *_shapes(study, runs), ERRORS)
    return Picture(f"ladder-{variable}", pair.title, summary, legend, draw)


# --- by machine -----------------------------------------------------------------------------------


def speeds(study: Results) -> list[Picture]:
    """Tokens per second by machine, for each model."""
    models = grouped(study.done, lambda run: run.model)
    return [_strips(study, name, runs, SPEED, log=False) for name, runs in models.items()]


def divergences(study: Results) -> list[Picture]:
    """KL by machine, for each model and text of which no run looks ahead."""
    pairs = (pair for pair in study.pairs if not pair.looked_ahead)
    return [_strips(study, pair.title, pair.records, KL, log=True) for pair in pairs]


def _strips(
    study: Results, title: str, runs: Sequence[Run], quantity: Quantity, *, log: bool
) -> Picture:
    rows: dict[str, list[Point]] = {name: [] for name in study.machines}
    for run in runs:
        point = _point(study, run, quantity)
        rows[run.hardware].append(point._replace(x=point.y, x_error=point.y_error))
    errors = [ERRORS] if any(quantity.error(run) > 0 for run in runs) else []
    legend = (*_shapes(study, runs), Entry("median", role="median"), *errors)
    summary = f"{quantity.title}, by machine: {len(runs)} runs of {title}"
    shown = {name: points for name, points in rows.items() if points}
    draw = partial(figures.strips, _across(quantity, runs, log=log), shown)
    return Picture(quantity.name, title, summary, legend, draw)


# --- by step and layer ----------------------------------------------------------------------------


def heat_maps(study: Results) -> list[Picture]:
    """What is recomputed in each step and layer, for each model and text.

    All runs that recompute anything are shown if they are few, else some on the Pareto front.
    """
    best = study.fronts(RATE.value, KL.value)
    found = []
    for pair in study.pairs:
        runs = [run for run in pair.looked_ahead if any(map(any, metrics(run).step_rates.values()))]
        if len(runs) > _MOST:
            runs = [run for run in runs if run.position in best] or runs
        if runs:
            last = min(len(runs), _MOST) - 1  # evenly from the first to the last
            chosen = [runs[round(i * (len(runs) - 1) / max(last, 1))] for i in range(last + 1)]
            summary = f"share recomputed by step and layer: {len(chosen)} runs of {pair.title}"
            draw = partial(figures.heat_map, [*map(_block, chosen)])
            found.append(Picture("layers", pair.title, summary, figures.heat_scale(), draw))
    return found


def _block(run: Run) -> Block:
    """The rates of a run, in the order in which steps come in a model."""
    given = metrics(run).step_rates
    steps = [*(step for step in STEPS if step in given), *sorted(given.keys() - {*STEPS})]
    rates = {step: given[step] for step in steps}
    return Block(f"{run.hardware} + {run.lamp}", described(run, KL, RATE), rates)


# --- what a report shows --------------------------------------------------------------------------


def _alone(pictures: Callable[[Results], list[Picture]]) -> Callable[[Results], Groups]:
    """Pictures that need no names, in a group of their own."""
    return lambda study: [[("", picture) for picture in pictures(study)]]


def _of_means(groups: Callable[[Results], Groups]) -> Callable[[Results], Groups]:
    """Pictures with one mark for runs that differ in their seeds alone."""
    return lambda study: groups(study.averaged)


_BARS: Final = (
    "Bars and bands are one standard error: over the windows of a text, or blocks of its only "
    "window, or over seeds where a mark is the mean of runs that differ in nothing else."
)
_CHARTS: Final[Sequence[tuple[str, str, Callable[[Results], Groups]]]] = (
    (
        "Divergence against work",
        "Each mark is a run: its color is the machine, its shape the rule. Thin lines are Pareto "
        "fronts: no other run on the same machine beats theirs. Dotted lines are runs without "
        f"look-ahead. {_BARS}",
        _of_means(_work),
    ),
    (
        "Divergence by machine",
        f"Each mark is a run without look-ahead. {_BARS}",
        _of_means(_alone(divergences)),
    ),
    (
        "Precision ladders",
        "KL along families of machines. Thin lines join runs with the same look-ahead, bold ones "
        f"those without. {_BARS}",
        _of_means(_alone(ladders)),
    ),
    (
        "Where it recomputes",
        "Recomputed share by step and layer, for at most twelve runs on the Pareto front of each "
        "model and text.",
        _of_means(_alone(heat_maps)),
    ),
    (
        "Time",
        "Each mark is a run. Seconds are those of forward passes and comparisons; loading the "
        "model and computing the reference are left out.",
        _alone(speeds),
    ),
)
