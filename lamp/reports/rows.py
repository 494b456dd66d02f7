"""Rows of marks, one a machine: how fast they are, how far off."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Final

from lamp.reports import frames
from lamp.reports.drawing import Box, Drawing, Entry, Line, Mark, Shape, Text
from lamp.reports.quantities import KL, SPEED, Quantity, described
from lamp.reports.results import Results
from lamp.reports.scales import Axis, axis
from lamp.studies import Run

__all__ = ["divergences", "speeds"]

_STRIP: Final = 40.0  # the height of a row


def speeds(study: Results) -> list[Drawing]:
    """Tokens a second by machine, for each model.

    Parameters
    ----------
    study : Results

    Returns
    -------
    list of Drawing
    """
    models: dict[str, list[Run]] = {}
    for record in study.done:
        models.setdefault(record.model, []).append(record)
    return [_rows(study, name, records, SPEED, log=False) for name, records in models.items()]


def divergences(study: Results) -> list[Drawing]:
    """KL divergence by machine, for each model and text that has been run without look-ahead alone.

    Parameters
    ----------
    study : Results

    Returns
    -------
    list of Drawing
    """
    return [
        _rows(study, case.title, case.records, KL, log=True)
        for case in study.cases
        if not case.looked_ahead
    ]


def _rows(
    study: Results, title: str, records: Sequence[Run], quantity: Quantity, *, log: bool
) -> Drawing:
    """A row of marks a machine."""
    across = axis(
        [quantity.value(record) for record in records],
        8.0,
        frames.RIGHT - 8,
        log=log,
        label=quantity.label,
        room=frames.ROOM,
        band=30.0,
    )
    machines = [m for m in study.machines if any(r.hardware == m for r in records)]
    bottom = 8 + _STRIP * len(machines)
    shapes: list[Shape] = []
    for x, label in across.ticks:
        shapes.append(Line(((x, 0), (x, bottom)), "grid"))
        shapes.append(Text(x, bottom + 18, label, anchor="middle"))
    for band in across.bands:
        shapes.append(Box(min(band.start, band.stop), 0, abs(band.stop - band.start), bottom))
        shapes.append(Text(band.middle, bottom + 18, band.name, anchor="middle"))
    shapes.append(Line(((0, bottom), (frames.RIGHT, bottom)), "axis"))
    shapes.append(Text(frames.RIGHT, bottom + 42, quantity.title, "label", "end"))
    for i, machine in enumerate(machines):
        own = [record for record in records if record.hardware == machine]
        shapes += _row(study, machine, own, across, quantity, 8 + _STRIP * i)
    summary = f"{quantity.title}, by machine: {len(records)} runs of {title}"
    legend = (*study.legend(records), Entry("median", role="median"))
    return Drawing(quantity.name, title, summary, frames.WIDTH, bottom + 54, tuple(shapes), legend)


def _row(
    study: Results,
    machine: str,
    records: Sequence[Run],
    across: Axis,
    quantity: Quantity,
    y: float,
) -> Iterator[Shape]:
    yield Text(0, y + 10, frames.short(machine), "name", title=machine)
    colour = study.machines.index(machine)
    finite = [v for v in map(quantity.value, records) if math.isfinite(v)]
    for record in records:
        x = across.place(quantity.value(record))
        yield Mark(x, y + 24, colour, study.shape(record), described(record, quantity))
    if len(finite) > 2:
        x = across.place(statistics.median(finite))
        yield Line(((x, y + 14), (x, y + 34)), "median")
