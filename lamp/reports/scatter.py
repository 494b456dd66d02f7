"""What is lost against what is paid: a mark a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lamp.reports import frames
from lamp.reports.drawing import Drawing, Entry, Line, Mark, Shape
from lamp.reports.fronts import front
from lamp.reports.quantities import Quantity, described
from lamp.reports.results import NONE, Case, Results, rule
from lamp.reports.scales import Axis

__all__ = ["scatter"]


def scatter(study: Results, x: Quantity, y: Quantity) -> list[Drawing]:
    """What is lost against what is paid, for each model and text that has runs with look-ahead.

    Parameters
    ----------
    study : Results
    x, y : Quantity
        What is paid, what is lost.

    Returns
    -------
    list of Drawing
    """
    return [_Scatter(study, case, x, y).drawing() for case in study.cases if case.looked_ahead]


@dataclass(frozen=True)
class _Scatter:
    """One drawing of what is lost against what is paid."""

    study: Results
    case: Case
    x: Quantity
    y: Quantity

    def drawing(self) -> Drawing:
        """It."""
        x, y, case = self.x, self.y, self.case
        up = frames.up(y, map(y.value, case.records))
        left = frames.margin(frames.names(up))
        across = frames.across(x, map(x.value, case.looked_ahead), left)
        shapes: list[Shape] = [*frames.frame(across, up, x.title, y.title)]
        shapes += self._levels(across, up)
        shapes += self._fronts(across, up)
        for record in case.looked_ahead:
            place = across.place(x.value(record)), up.place(y.value(record))
            kind = self.study.colour(record), self.study.shape(record)
            shapes.append(Mark(*place, *kind, described(record, y, x)))
        return Drawing(
            f"{y.name}-{x.name}",
            case.title,
            f"{y.title}, against {x.title}: {len(case.looked_ahead)} runs of {case.title}",
            frames.WIDTH,
            frames.HEIGHT,
            tuple(shapes),
            self._legend(),
        )

    def _levels(self, across: Axis, up: Axis) -> Iterator[Line]:
        """Runs without look-ahead: they cost nothing, so that they are lines."""
        left, right = frames.ends(across)
        values = [self.y.value(record) for record in self.case.plain]
        banded = [value for value in values if up.in_band(value)]
        shares = (i / (len(banded) + 1) for i in range(1, len(banded) + 1))
        for record, value in zip(self.case.plain, values, strict=True):
            height = up.place(value, next(shares)) if up.in_band(value) else up.place(value)
            title = f"{described(record, self.y)}, no look-ahead"
            points = (left, height), (right, height)
            yield Line(points, "level", self.study.colour(record), title)

    def _fronts(self, across: Axis, up: Axis) -> Iterator[Line]:
        """The fronts, each from run to run."""
        for records in self.case.by_machine().values():
            points = [(self.x.value(record), self.y.value(record)) for record in records]
            best = [points[i] for i in front(points) if records[i].lamp != NONE]
            if len(best) > 1:
                places = tuple((across.place(x), up.place(y)) for x, y in best)
                yield Line(places, "front", self.study.colour(records[0]))

    def _legend(self) -> tuple[Entry, ...]:
        present = set(self.case.by_machine())
        machines = (Entry(n, i) for i, n in enumerate(self.study.machines) if n in present)
        followed = {rule(record.lamp) for record in self.case.looked_ahead}
        rules = (
            Entry(name, None, i, "rule")
            for i, name in enumerate(self.study.rules, 1)
            if name in followed
        )
        level = [Entry("no look-ahead", role="level")] if self.case.plain else []
        return (*machines, *rules, *level, Entry("Pareto front of a machine", role="front"))
