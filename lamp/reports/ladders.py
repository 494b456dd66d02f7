"""Ladders: KL divergence along a family of machines, such as those with mu stored bits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lamp.reports import frames
from lamp.reports.drawing import Drawing, Entry, Line, Mark, Shape
from lamp.reports.quantities import KL, described
from lamp.reports.results import NONE, Case, Results
from lamp.reports.scales import Axis, axis
from lamp.studies import Run

__all__ = ["ladders"]

_Rungs = list[tuple[float, Run]]


def ladders(study: Results) -> list[Drawing]:
    """KL divergence against the variable of a family, for each model and text.

    Parameters
    ----------
    study : Results

    Returns
    -------
    list of Drawing
        One a variable; none if there is no family of at least two machines.
    """
    found = []
    for case in study.cases:
        families: dict[str, dict[str, _Rungs]] = {}
        for record in case.records:
            place = study.family(record)
            if place is not None:
                rungs = families.setdefault(place.variable, {}).setdefault(place.family, [])
                rungs.append((place.value, record))
        found += [
            _Ladder(study, case, variable, each).drawing()
            for variable, each in families.items()
            if any(len({value for value, _ in rungs}) > 1 for rungs in each.values())
        ]
    return found


@dataclass(frozen=True)
class _Ladder:
    """One drawing."""

    study: Results
    case: Case
    variable: str
    families: Mapping[str, _Rungs]

    def drawing(self) -> Drawing:
        """It."""
        steps = [step for rungs in self.families.values() for step in rungs]
        values = sorted({value for value, _ in steps})
        up = frames.up(KL, [KL.value(record) for _, record in steps])
        left = frames.margin(frames.names(up))
        across = axis(values, left, frames.RIGHT, log=False, label="{:g}".format, marked=values)
        bits = any(f"ps{{{self.variable}}}" in family for family in self.families)
        title = f"{self.variable}, stored significand bits" if bits else self.variable
        shapes: list[Shape] = [*frames.frame(across, up, title, KL.title)]
        lines = list(self._lines(across, up))
        shapes += [line for joined, _ in lines for line in joined]
        shapes += [mark for _, marks in lines for mark in marks]
        return Drawing(
            f"ladder-{self.variable}",
            self.case.title,
            f"{KL.title}, against {title}: {len(steps)} runs of {self.case.title}",
            frames.WIDTH,
            frames.HEIGHT,
            tuple(shapes),
            self._legend([record for _, record in steps]),
        )

    def _lines(self, across: Axis, up: Axis) -> Iterator[tuple[list[Line], list[Mark]]]:
        """The runs of a family with the same look-ahead are joined, where KL is finite."""
        for colour, rungs in enumerate(self.families.values()):
            by_lamp: dict[str, _Rungs] = {}
            for value, record in sorted(rungs, key=lambda rung: rung[0]):
                by_lamp.setdefault(record.lamp, []).append((value, record))
            for lamp, chosen in by_lamp.items():
                marks = [
                    Mark(
                        across.place(value),
                        up.place(KL.value(record)),
                        colour,
                        self.study.shape(record),
                        described(record, KL),
                    )
                    for value, record in chosen
                ]
                finite = [math.isfinite(KL.value(record)) for _, record in chosen]
                lines = [
                    Line(points, "path" if lamp == NONE else "front", colour)
                    for points in _stretches(marks, finite)
                ]
                yield lines, marks

    def _legend(self, records: list[Run]) -> tuple[Entry, ...]:
        families = (Entry(name, i, role="path") for i, name in enumerate(self.families))
        return (*families, *self.study.legend(records))


def _stretches(
    marks: Sequence[Mark], joined: Sequence[bool]
) -> Iterator[tuple[tuple[float, float], ...]]:
    """Where the marks to be joined are, from one that is not to the next."""
    pairs = zip(marks, joined, strict=True)
    for together, stretch in itertools.groupby(pairs, key=lambda pair: pair[1]):
        points = tuple((mark.x, mark.y) for mark, _ in stretch)
        if together and len(points) > 1:
            yield points
