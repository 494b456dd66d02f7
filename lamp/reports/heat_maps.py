"""Heat maps: how much is recomputed in each step and layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

from lamp.machines import STEPS
from lamp.reports import frames, numbers
from lamp.reports.drawing import Box, Drawing, Shape, Text
from lamp.reports.quantities import KL, RATE, described
from lamp.reports.results import Case, Results, metrics
from lamp.studies import Run

__all__ = ["heat_maps"]

_MOST: Final = 12  # runs in a drawing
_ROW: Final = 20.0
_SCALE: Final = 36.0  # the height of what tells the colours' meaning
_FAINTEST: Final = 1e-4  # the rate that is as good as none
_CELL: Final = 46.0  # the width of a cell that its number fits into


def heat_maps(study: Results) -> list[Drawing]:
    """How much is recomputed in each step and layer, for each model and text.

    Parameters
    ----------
    study : Results

    Returns
    -------
    list of Drawing
        With all runs that recompute anything if they are few, else some on the Pareto front.
    """
    best = study.fronts(RATE.value, KL.value)
    found = []
    for case in study.cases:
        runs = [record for record in case.looked_ahead if any(_rates(record))]
        if len(runs) > _MOST:
            on_front = [record for record in runs if record.position in best]
            runs = _spread(on_front or runs, _MOST)
        if runs:
            found.append(_heat_map(case, runs))
    return found


def _rates(record: Run) -> Iterator[float]:
    """Those of all steps and layers."""
    return itertools.chain.from_iterable(metrics(record).step_rates.values())


def _spread(records: Sequence[Run], most: int) -> list[Run]:
    """So many of them at most, evenly from the first to the last."""
    if len(records) <= most:
        return list(records)
    return [records[round(i * (len(records) - 1) / (most - 1))] for i in range(most)]


def _heat_map(case: Case, records: Sequence[Run]) -> Drawing:
    rates = [_by_step(record) for record in records]
    layers = max(len(row) for steps in rates for row in steps.values())
    left = frames.margin(step for steps in rates for step in steps)
    cell = (frames.RIGHT - left) / layers
    shapes: list[Shape] = [*_scale(), *_layer_numbers(left, cell, layers)]
    y = _SCALE + 38
    for record, steps in zip(records, rates, strict=True):
        member = record
        name = f"{member.hardware} + {member.lamp}"
        shapes.append(
            Text(0, y + 14, frames.short(name), "name", title=described(record, KL, RATE))
        )
        y += 21
        for step, row in steps.items():
            shapes.append(Text(left - 8, y + 14, step, anchor="end"))
            for layer, rate in enumerate(row):
                shapes += _cell(
                    left + layer * cell, y, cell, rate, f"{name}\n{step}, layer {layer}"
                )
            y += _ROW
        y += 12
    summary = f"share recomputed by step and layer: {len(records)} runs of {case.title}"
    return Drawing("layers", case.title, summary, frames.WIDTH, y, tuple(shapes))


def _by_step(record: Run) -> dict[str, tuple[float, ...]]:
    """Rates in the order in which steps come in a model."""
    given = metrics(record).step_rates
    known = [step for step in STEPS if step in given]
    return {step: given[step] for step in (*known, *sorted(set(given) - set(known)))}


def _strength(rate: float) -> float:
    """How strong the colour of a rate is: by its logarithm."""
    if not rate > 0:
        return 0.0
    return min(1.0, 0.08 + 0.92 * max(0.0, 1 - math.log10(rate) / math.log10(_FAINTEST)))


def _cell(x: float, y: float, width: float, rate: float, title: str) -> Iterator[Shape]:
    shown = numbers.short_percent(rate)
    gap = 1.5 if width > 8 else 0.4
    strength = _strength(rate)
    yield Box(x, y, width - gap, _ROW - 1.5, strength, f"{title}: {numbers.percent(rate)}")
    if width >= _CELL:
        middle = x + (width - gap) / 2
        yield Text(middle, y + 13.5, shown, "cell", "middle", strong=strength > 0.55)


def _scale() -> Iterator[Shape]:
    """What the colours mean."""
    yield Text(0, 14, "share recomputed", "label")
    rates = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    width = 56.0
    for i, rate in enumerate(rates):
        x = frames.RIGHT - width * (len(rates) - i)
        yield Box(x, 4, width - 1.5, 10, _strength(rate))
        yield Text(x + width / 2, 31, numbers.short_percent(rate), anchor="middle")


def _layer_numbers(left: float, cell: float, layers: int) -> Iterator[Shape]:
    step = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n * cell >= 24)
    yield Text(left - 8, _SCALE + 24, "layer", anchor="end")
    for layer in range(0, layers, step):
        yield Text(left + (layer + 0.5) * cell, _SCALE + 24, str(layer), anchor="middle")
