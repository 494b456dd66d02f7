"""Which charts a report has, in which order, and what is said of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from lamp.machines import STEPS
from lamp.reports import figures
from lamp.reports.figures import Block, Entry, Line, Picture, Point
from lamp.reports.labels import NONE
from lamp.reports.quantities import FLIPS, KL, RATE, SHARE, SPEED, Quantity, described
from lamp.reports.results import Pair, Results, front, grouped, metrics
from lamp.reports.scales import Scale, scale

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = ["TIME", "Chart", "charts", "divergences", "heat_maps", "ladders", "scatter", "speeds"]

TIME: Final = "Time"
"""The title of the last chart, which goes with a table."""

_WORK: Final = (
    ("KL against recomputation rate", RATE, KL),
    ("KL against work in high precision", SHARE, KL),
    ("Flips against recomputation rate", RATE, FLIPS),
)
_MOST: Final = 12  # runs in a heat map
_FAMILY_ROOM: Final = 0.09  # of a label on a ladder's horizontal axis


@dataclass(frozen=True)
class Chart:
    """Pictures that belong together.

    Parameters
    ----------
    title, note : str
    groups : tuple of tuple of (str, Picture)
        Each picture with a name that tells it from others of the same model and text; those of a
        group are side by side.
    """

    title: str
    note: str
    groups: tuple[tuple[tuple[str, Picture], ...], ...]

    @property
    def named(self) -> list[tuple[str, Picture]]:
        """All pictures, with their names."""
        return [each for group in self.groups for each in group]

    @property
    def legend(self) -> tuple[Entry, ...]:
        """What colors and shapes mean in any of the pictures: machines, rules, lines."""
        entries = dict.fromkeys(entry for _, each in self.named for entry in each.legend)
        return tuple(sorted(entries, key=_rank))


def _rank(entry: Entry) -> tuple[bool, bool, int]:
    color, shape = entry.color, entry.shape
    return color is None, shape is None, (color if color is not None else shape) or 0


def charts(study: Results) -> Sequence[Chart]:
    """The charts of a study, those for which it has runs."""
    return [
        *_work(study),
        *_chart(
            "Divergence by machine",
            "Each mark is a run without look-ahead.",
            divergences(study),
        ),
        *_chart(
            "Precision ladders",
            "KL along families of machines. Thin lines join runs with the same look-ahead.",
            ladders(study),
        ),
        *_chart(
            "Where it recomputes",
            "Recomputed share by step and layer, for at most twelve runs on the Pareto front of "
            "each model and text.",
            heat_maps(study),
        ),
        *_chart(
            TIME,
            "Each mark is a run. Seconds are those of forward passes and comparisons; loading the "
            "model and computing the reference are left out.",
            speeds(study),
        ),
    ]


def _work(study: Results) -> list[Chart]:
    note = (
        "Each mark is a run: its color is the machine, its shape the rule. Thin lines are Pareto "
        "fronts: no other run on the same machine beats theirs. Dotted lines are runs without "
        "look-ahead."
    )
    groups = [tuple((name, each) for each in scatter(study, x, y)) for name, x, y in _WORK]
    if not groups[0]:
        return []
    if len(groups[0]) == 1:
        groups = [tuple(each for group in groups for each in group)]
    return [Chart("Divergence against work", note, tuple(groups))]


def _chart(title: str, note: str, pictures: Iterable[Picture]) -> list[Chart]:
    group = tuple(("", picture) for picture in pictures)
    return [Chart(title, note, (group,))] if group else []


def _across(quantity: Quantity, records: Iterable[Run], *, log: bool = True) -> Scale:
    """A horizontal axis."""
    values = map(quantity.value, records)
    return scale(quantity.title, values, label=quantity.label, log=log, room=0.17, band=0.085)


def _up(quantity: Quantity, records: Iterable[Run]) -> Scale:
    """A vertical axis."""
    values = map(quantity.value, records)
    return scale(quantity.title, values, label=quantity.label, room=0.09, band=0.065)


def _point(study: Results, record: Run, x: float, y: float, *tooltip: Quantity) -> Point:
    """The mark of a run."""
    return Point(x, y, study.color(record), study.shape(record), described(record, *tooltip))


def _shapes(study: Results, records: Iterable[Run]) -> tuple[Entry, ...]:
    """What the shapes of runs mean; nothing if all have the same."""
    shapes = {study.shape(record) for record in records}
    names = ("no look-ahead", *study.rules[1:])
    return tuple(Entry(names[i], None, i, "rule") for i in sorted(shapes) if len(shapes) > 1)


# --- what is lost against what is paid ------------------------------------------------------------


def scatter(study: Results, x: Quantity, y: Quantity) -> list[Picture]:
    """What is lost against what is paid, for each model and text that has runs with look-ahead."""
    return [_scatter(study, pair, x, y) for pair in study.pairs if pair.looked_ahead]


def _scatter(study: Results, pair: Pair, x: Quantity, y: Quantity) -> Picture:
    across, up = _across(x, pair.looked_ahead), _up(y, pair.records)
    points = [
        _point(study, record, across.place(x.value(record)), up.place(y.value(record)), y, x)
        for record in pair.looked_ahead
    ]
    lines = [*_levels(study, pair, y, up), *_fronts(study, pair, (x, across), (y, up))]
    machines = dict.fromkeys(record.hardware for record in pair.records)
    rules = {study.shape(record) for record in pair.looked_ahead}
    legend = (
        *(Entry(name, study.machines.index(name)) for name in machines),
        *(Entry(study.rules[i], None, i, "rule") for i in sorted(rules)),
        *[Entry("no look-ahead", role="level")] * bool(pair.plain),
        Entry("Pareto front of a machine", role="front"),
    )
    summary = f"{y.title}, against {x.title}: {len(points)} runs of {pair.title}"
    draw = partial(figures.plot, across, up, points, lines)
    return Picture(f"{y.name}-{x.name}", pair.title, summary, legend, draw)


def _levels(study: Results, pair: Pair, y: Quantity, up: Scale) -> Iterator[Line]:
    """Runs without look-ahead as level lines: they recompute nothing.

    Those in a band have a height of their own each.
    """
    values = [y.value(record) for record in pair.plain]
    count = 1 + sum(map(up.in_band, values))
    shares = (i / count for i in range(1, count))
    for record, value in zip(pair.plain, values, strict=True):
        height = up.place(value, next(shares)) if up.in_band(value) else value
        tooltip = f"{described(record, y)}, no look-ahead"
        yield Line(((math.nan, height),), study.color(record), "level", tooltip)


def _fronts(
    study: Results, pair: Pair, x: tuple[Quantity, Scale], y: tuple[Quantity, Scale]
) -> Iterator[Line]:
    """The Pareto front of each machine, from run to run."""
    (paid, across), (lost, up) = x, y
    for records in pair.by_machine().values():
        points = [(paid.value(record), lost.value(record)) for record in records]
        best = [points[i] for i in front(points) if records[i].lamp != NONE]
        if len(best) > 1:
            places = tuple((across.place(x), up.place(y)) for x, y in best)
            yield Line(places, study.color(records[0]))


# --- along families of machines -------------------------------------------------------------------


def ladders(study: Results) -> list[Picture]:
    """KL along each family of two machines or more, for each model and text."""
    found = []
    for pair in study.pairs:
        variables: dict[str, dict[str, list[tuple[float, Run]]]] = {}
        for record in pair.records:
            if (rung := study.rung(record)) is not None:
                families = variables.setdefault(rung.variable, {})
                families.setdefault(rung.family, []).append((rung.value, record))
        found += [
            _ladder(study, pair, variable, families)
            for variable, families in variables.items()
            if any(len({value for value, _ in rungs}) > 1 for rungs in families.values())
        ]
    return found


def _ladder(
    study: Results,
    pair: Pair,
    variable: str,
    families: Mapping[str, Sequence[tuple[float, Run]]],
) -> Picture:
    rungs = [rung for each in families.values() for rung in each]
    values, records = sorted({value for value, _ in rungs}), [record for _, record in rungs]
    bits = any(f"ps{{{variable}}}" in family for family in families)
    title = f"{variable}, stored significand bits" if bits else variable
    across = scale(title, values, log=False, label="{:g}".format, marked=values, room=_FAMILY_ROOM)
    up = _up(KL, records)
    points, lines = [], []
    for color, own in enumerate(families.values()):
        by_lamp: dict[str, list[tuple[float, Run]]] = {}
        for value, record in sorted(own, key=lambda rung: rung[0]):
            by_lamp.setdefault(record.lamp, []).append((value, record))
        for lamp, chosen in by_lamp.items():
            marks = [
                _point(study, r, v, up.place(KL.value(r)), KL)._replace(color=color)
                for v, r in chosen
            ]
            points += marks
            finite = [math.isfinite(KL.value(record)) for _, record in chosen]
            role = "path" if lamp == NONE else "front"
            lines += [Line(places, color, role) for places in _stretches(marks, finite)]
    legend = (
        *(Entry(name, i, role="path") for i, name in enumerate(families)),
        *_shapes(study, records),
    )
    summary = f"{KL.title}, against {title}: {len(points)} runs of {pair.title}"
    draw = partial(figures.plot, across, up, points, lines)
    return Picture(f"ladder-{variable}", pair.title, summary, legend, draw)


def _stretches(
    marks: Sequence[Point], joined: Sequence[bool]
) -> Iterator[tuple[tuple[float, float], ...]]:
    """Where the marks to be joined are, from one that is not to the next."""
    marked = zip(marks, joined, strict=True)
    for together, stretch in itertools.groupby(marked, key=lambda mark: mark[1]):
        places = tuple((mark.x, mark.y) for mark, _ in stretch)
        if together and len(places) > 1:
            yield places


# --- by machine -----------------------------------------------------------------------------------


def speeds(study: Results) -> list[Picture]:
    """Tokens per second by machine, for each model."""
    models = grouped(study.done, lambda record: record.model)
    return [_strips(study, name, records, SPEED, log=False) for name, records in models.items()]


def divergences(study: Results) -> list[Picture]:
    """KL by machine, for each model and text of which no run looks ahead."""
    return [
        _strips(study, pair.title, pair.records, KL, log=True)
        for pair in study.pairs
        if not pair.looked_ahead
    ]


def _strips(
    study: Results, title: str, records: Sequence[Run], quantity: Quantity, *, log: bool
) -> Picture:
    across = _across(quantity, records, log=log)
    machines = grouped(records, lambda record: record.hardware)
    rows = {
        name: [_point(study, r, quantity.value(r), 0.0, quantity) for r in machines[name]]
        for name in study.machines
        if name in machines
    }
    legend = (*_shapes(study, records), Entry("median", role="median"))
    summary = f"{quantity.title}, by machine: {len(records)} runs of {title}"
    draw = partial(figures.strips, across, rows)
    return Picture(quantity.name, title, summary, legend, draw)


# --- by step and layer ----------------------------------------------------------------------------


def heat_maps(study: Results) -> list[Picture]:
    """What is recomputed in each step and layer, for each model and text.

    All runs that recompute anything are shown if they are few, else some on the Pareto front.
    """
    best = study.fronts(RATE.value, KL.value)
    found = []
    for pair in study.pairs:
        records = [
            record
            for record in pair.looked_ahead
            if any(itertools.chain.from_iterable(metrics(record).step_rates.values()))
        ]
        if len(records) > _MOST:
            on_front = [record for record in records if record.position in best]
            records = _spread(on_front or records)
        if records:
            blocks = [_block(record) for record in records]
            summary = f"share recomputed by step and layer: {len(records)} runs of {pair.title}"
            draw = partial(figures.heat_map, blocks)
            found.append(Picture("layers", pair.title, summary, figures.heat_scale(), draw))
    return found


def _spread(records: Sequence[Run]) -> list[Run]:
    """At most twelve of them, evenly from first to last."""
    if len(records) <= _MOST:
        return list(records)
    return [records[round(i * (len(records) - 1) / (_MOST - 1))] for i in range(_MOST)]


def _block(record: Run) -> Block:
    """The rates of a run, in the order in which steps come in a model."""
    given = metrics(record).step_rates
    known = [step for step in STEPS if step in given]
    rates = {step: given[step] for step in (*known, *sorted(set(given) - set(known)))}
    name = f"{record.hardware} + {record.lamp}"
    return Block(name, described(record, KL, RATE), rates)
