"""Which charts a report has, in which order, and what is said of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from lamp.machines import STEPS
from lamp.reports import figures, front_maps, layer_maps
from lamp.reports.figures import Block, Entry, Line, Picture, Point
from lamp.reports.quantities import FLIPS, KL, RATE, SHARE, SPEED, Quantity, described
from lamp.reports.rank_maps import maps
from lamp.reports.results import Pair, Results, Rung
from lamp.reports.runs import MOST, NONE, evenly, front, grouped, is_part, metrics, rule
from lamp.reports.scales import Scale

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = [
    "ERRORS",
    "Chart",
    "charts",
    "demo",
    "divergences",
    "heat_maps",
    "ladders",
    "scatter",
    "speeds",
]

_WORK: Final = (
    ("KL against recomputation rate", RATE, KL),
    ("KL against work in high precision", SHARE, KL),
    ("Flips against recomputation rate", RATE, FLIPS),
)
ERRORS: Final = Entry("bars and bands: one standard error", role="note")
_FRONT: Final = Entry("Pareto front of a rule", role="front")
_HEAT: Final = figures.heat_scale("none recomputed", "all")
_MOST: Final = 12  # runs in a heat map


@dataclass(frozen=True)
class Chart:
    """Pictures that belong together."""

    title: str
    note: str
    pictures: Sequence[Picture]

    @property
    def leads(self) -> bool:
        """Whether it is what the study is about, and so comes before the tables."""
        return self.title in _LEADING

    @property
    def groups(self) -> list[list[Picture]]:
        """The pictures that are side by side: those of one name, or all if each has its own."""
        groups = [[*group] for _, group in itertools.groupby(self.pictures, attrgetter("name"))]
        return groups if len(groups[0]) > 1 else [[*self.pictures]]

    @property
    def legend(self) -> list[Entry]:
        """What colors and shapes mean in any of the pictures: machines, rules, lines."""
        entries = dict.fromkeys(entry for each in self.pictures for entry in each.legend)
        return sorted(entries, key=_rank)


def _rank(entry: Entry) -> tuple[bool, bool, int]:
    color, shape = entry.color, entry.shape
    return color is None, shape is None, (color if color is not None else shape) or 0


def charts(study: Results) -> list[Chart]:
    """The charts of a study, those for which it has runs."""
    drawn = (Chart(title, note, pictures(runs(study))) for title, note, runs, pictures in _CHARTS)
    return [chart for chart in drawn if chart.pictures]


# --- what is lost against what is paid ------------------------------------------------------------


def _work(study: Results) -> list[Picture]:
    return [each for name, x, y in _WORK for each in scatter(study, x, y, name)]


def scatter(study: Results, x: Quantity, y: Quantity, name: str = "") -> list[Picture]:
    """What is lost against what is paid, for each model and text that has runs with look-ahead."""
    return [
        replace(_scatter(study, pair, x, y, _fronts, (_FRONT, ERRORS)), name=name)
        for pair in study.pairs
        if pair.looked_ahead and len(pair.records) > 1
    ]


def _scatter(
    study: Results,
    pair: Pair,
    x: Quantity,
    y: Quantity,
    joined: Callable[[Sequence[Run], Sequence[Point]], Iterable[Sequence[Point]]],
    notes: Iterable[Entry],
) -> Picture:
    """Marks of runs with look-ahead, lines through some of each machine's, and levels of others."""
    mark = partial(_point, study, y=y)
    points = [mark(run, x=x) for run in pair.looked_ahead]
    lines = [
        Line([mark(run)], "level", f"{described(run, y)}, no look-ahead") for run in pair.plain
    ]
    for runs in pair.by_machine().values():
        found = joined(runs, [mark(run, x=x) for run in runs])
        lines += [Line(each) for each in found if len(each) > 1]
    machines = dict.fromkeys(run.hardware for run in pair.records)
    rules = {study.shape(run) for run in pair.looked_ahead}
    legend = (
        *(Entry(name, study.machines.index(name)) for name in machines),
        *(Entry(study.rules[i], None, i, "rule") for i in sorted(rules)),
        *[Entry("no look-ahead", role="level")] * bool(pair.plain),
        *notes,
    )
    draw = partial(
        figures.plot,
        _scale(x, pair.looked_ahead, across=True),
        _scale(y, pair.records),
        points,
        lines,
    )
    summary = f"{y.title}, against {x.title}: {len(points)} runs of {pair.title}"
    return Picture(f"{y.name}-{x.name}", pair.title, summary, legend, draw)


def _fronts(runs: Sequence[Run], points: Sequence[Point]) -> Iterable[Sequence[Point]]:
    """The Pareto front of each rule on a machine."""
    looked_ahead = (point for run, point in zip(runs, points, strict=True) if run.lamp != NONE)
    for own in grouped(looked_ahead, lambda point: point.shape).values():
        yield [own[i] for i in front([(point.x, point.y) for point in own])]


def _by_rule(runs: Sequence[Run], points: Sequence[Point]) -> Iterable[Sequence[Point]]:
    """The runs of each rule, from left to right."""
    looked_ahead = (i for i, run in enumerate(runs) if run.lamp != NONE)
    rules = grouped(looked_ahead, lambda i: runs[i].lamp).values()
    return [sorted(points[i] for i in own) for own in rules]


def _scale(
    quantity: Quantity, runs: Sequence[Run], *, log: bool = True, across: bool = False
) -> Scale:
    values, errors = map(quantity.value, runs), map(quantity.error, runs)
    drawn = quantity.title, values, quantity.label
    return Scale(*drawn, log=log, across=across, errors=errors)


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
        for variable, own in grouped(rungs, lambda each: each[0].variable).items():
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
    points, lines = [], []
    ordered = sorted(rungs, key=lambda each: each[0].value)
    for (family, lamp), own in grouped(
        ordered, lambda each: (each[0].family, each[1].lamp)
    ).items():
        color = families.index(family)
        placed = [_point(study, run, KL)._replace(x=rung.value, color=color) for rung, run in own]
        points += placed
        parts = itertools.groupby(placed, key=lambda point: math.isfinite(point.y))
        stretches = [[*part] for finite, part in parts if finite]
        role = "path" if lamp == NONE else "front"
        lines += [Line(part, role) for part in stretches if len(part) > 1]
    paths = (Entry(name, i, role="path") for i, name in enumerate(families))
    summary = f"{KL.title}, against {title}: {len(points)} runs of {pair.title}"
    draw = partial(figures.plot, x, _scale(KL, runs), points, lines)
    legend = (*paths, *_shapes(study, runs), ERRORS)
    return Picture(f"ladder-{variable}", pair.title, summary, legend, draw)


# --- by machine -----------------------------------------------------------------------------------


def speeds(study: Results) -> list[Picture]:
    """Tokens per second by machine, for each model."""
    models = grouped(study.done, lambda run: run.model)
    several = {name: runs for name, runs in models.items() if len(runs) > 1}
    return [_strips(study, name, runs, SPEED, log=False) for name, runs in several.items()]


def divergences(study: Results) -> list[Picture]:
    """KL by machine, for each model and text of which no run looks ahead."""
    return [
        _strips(study, pair.title, pair.records, KL, log=True)
        for pair in study.pairs
        if not pair.looked_ahead and len(pair.records) > 1
    ]


def _strips(
    study: Results, title: str, runs: Sequence[Run], quantity: Quantity, *, log: bool
) -> Picture:
    rows: dict[str, list[Point]] = {name: [] for name in study.machines}
    for run in runs:
        point = _point(study, run, quantity)
        rows[run.hardware].append(point._replace(x=point.y, x_error=point.y_error))
    errors = [ERRORS] if any(quantity.error(run) > 0 for run in runs) else []
    several = any(len(points) > 2 for points in rows.values())
    medians = [Entry("median", role="median")] if several else []
    legend = (*_shapes(study, runs), *medians, *errors)
    summary = f"{quantity.title}, by machine: {len(runs)} runs of {title}"
    shown = {name: points for name, points in rows.items() if points}
    draw = partial(figures.strips, _scale(quantity, runs, log=log, across=True), shown)
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
            shown = evenly(runs, _MOST)
            summary = f"share recomputed by step and layer: {len(shown)} runs of {pair.title}"
            draw = partial(figures.heat_map, [*map(_block, shown)])
            found.append(Picture("layers", pair.title, summary, _HEAT, draw))
    return found


def _block(run: Run) -> Block:
    """The rates of a run, in the order in which steps come in a model."""
    given = metrics(run).step_rates
    steps = [*(step for step in STEPS if step in given), *sorted(given.keys() - {*STEPS})]
    rates = {step: given[step] for step in steps}
    return Block(f"{run.hardware} + {run.lamp}", described(run, KL, RATE), rates)


# --- the demo -------------------------------------------------------------------------------------

_RULES: Final = {
    NONE: NONE,
    "softmax:random": "random control",
    "softmax:normwise": "normwise, version 1's rule",
    "softmax:total_variation:weights=abs": "one threshold on |y| z(1 - z)",
}
_RECOMPUTED: Final = replace(RATE, title="query-key products recomputed in float32")


def demo(study: Results) -> Picture:
    """A color for each precision, a shape for each rule, and lines that join runs of both."""

    def named(run: Run) -> Run:
        hardware = f"{run.variables['mu']} stored bits"
        return replace(run, model="", text="", hardware=hardware, lamp=_RULES[rule(run.lamp)])

    order = [*_RULES]
    ordered = sorted(
        study.records, key=lambda run: (run.variables["mu"], order.index(rule(run.lamp)))
    )
    shown = replace(study, records=tuple(map(named, ordered)))
    (pair,) = shown.pairs
    picture = _scatter(shown, pair, _RECOMPUTED, KL, _by_rule, [ERRORS])
    return replace(picture, kind="demo", title="Look-ahead in attention scores")


# --- what a report shows --------------------------------------------------------------------------

_LEADING: Final = ("The tuned machine", "What each step costs")
_BARS: Final = (
    "Bars and bands are one standard error: over the windows of a text, or blocks of its only "
    "window, or over seeds where a mark is the mean of runs that differ in nothing else."
)


def _tuned(study: Results) -> list[Picture]:
    return [] if study.tuned is None else front_maps.pictures_of(study.tuned)


def _without_parts(study: Results) -> Results:
    """The study without machines that are another one with a step exchanged."""
    return replace(study, records=tuple(run for run in study.records if not is_part(run)))


def _few(study: Results) -> Results:
    """The study with as many runs as can be drawn: fronts, each machine, and some of the others."""
    firsts = {run.hardware: run.position for run in reversed(study.records)}
    kept = {*firsts.values(), *study.fronts(RATE.value, KL.value)}
    few = evenly(study.records, MOST, lambda run: run.position in kept)
    return replace(study, records=tuple(few))


def _whole(study: Results) -> Results:
    """The runs of a study whose machines have no step exchanged."""
    return _few(_without_parts(study))


def _means(study: Results) -> Results:
    """The same, with the mean of runs that differ in their seeds alone."""
    return _few(_without_parts(study).averaged)


_Runs = Callable[["Results"], "Results"]
# Their titles, what is said of them, which runs they show, and their pictures.
_CHARTS: Final[Sequence[tuple[str, str, _Runs, Callable[[Results], list[Picture]]]]] = (
    (
        "Divergence against work",
        "Each mark is a run: its color is the machine, its shape the rule. Thin lines are Pareto "
        "fronts: no other run of the same rule and machine beats theirs. Dotted lines are runs "
        f"without look-ahead. {_BARS}",
        _means,
        _work,
    ),
    (
        "The tuned machine",
        "The cost of machines against their divergence on held-out text, with 95% intervals; and "
        "what was chosen for each step and layer.",
        _whole,
        _tuned,
    ),
    (
        "Divergence by machine",
        f"Each mark is a run without look-ahead. {_BARS}",
        _means,
        divergences,
    ),
    (
        "Precision ladders",
        "KL along families of machines. Thin lines join runs with the same look-ahead, bold ones "
        f"those without. {_BARS}",
        _means,
        ladders,
    ),
    (
        "Where it recomputes",
        "Recomputed share by step and layer, for at most twelve runs on the Pareto front of each "
        "model and text.",
        _means,
        heat_maps,
    ),
    (
        "Machines by layer",
        "How each machine computes the steps in which its layers differ, for at most twelve "
        "machines. Layers that are alike share a column. The rest is every layer without a column "
        "of its own, and what is in no layer.",
        _whole,
        layer_maps.maps,
    ),
    (
        "What each step costs",
        "The divergence that each step of each layer of a machine causes alone, all else exact, as "
        "a share of the machine's, and what the machine wins with that step alone exact.",
        lambda study: study,
        maps,
    ),
    (
        "Time",
        "Each mark is a run. Seconds are those of forward passes and comparisons; loading the "
        "model and computing the reference are left out.",
        _whole,
        speeds,
    ),
)
