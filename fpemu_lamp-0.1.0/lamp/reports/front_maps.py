"""What tuning has found in a sentence and in pictures, from the record that a store has of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from lamp.machines import read_numbers
from lamp.reports import figures, numbers, scales
from lamp.reports.figures import Picture
from lamp.tuning import Reading

__all__ = ["interval", "pictures_of", "reading", "sentence"]

_METRICS: Final = {"kl": "KL divergence, nats per token", "flips": "flips"}
_SHORT: Final = {"kl": "KL", "flips": "flips"}
_UNITS: Final = {
    "bits": "bits of arithmetic per token",
    "accumulators": "accumulator bits per token",
}
_TUNED, _UNIFORM, _FRONT = 6, 1, 0  # shapes: a star, a square, a circle


def sentence(record: Mapping[str, Any]) -> str:
    """What was found, in a sentence or two.

    Parameters
    ----------
    record : mapping
        Of :meth:`lamp.tuning.Tuned.record`.

    Returns
    -------
    str
    """
    metric = _metric(record)
    allowed = record["tuning"]["allowed"][metric]
    if isinstance(allowed, float):
        limit = numbers.factor(allowed)
    else:
        (machine,) = (each for each in record["others"] if each["kind"] == "allowed")
        limit = f"that of {machine['name']}"
        times = numbers.real(machine["cost"]) / record["cost"]
        if not math.isnan(times):  # as with a table of costs of one's own
            limit += f", which costs {numbers.factor(times)} times as much"
    uniform = record["cheapest_uniform"]
    beside = "no uniform machine of the menu holds"
    if uniform is not None:
        times = f"costs {record['factor']:.3g} times as much"
        beside = f"{uniform}, the cheapest uniform machine that holds, {times}"
    found = reading(record)
    measured = f"{_SHORT[metric]} {numbers.scientific(found.value)}{interval(found)}"
    return (
        f"{record['hardware']}: {measured} on held-out text, at most {limit}.  Its accumulators "
        f"have {record['accumulator_bits']:.3g} bits on average; {beside}."
    )


def _metric(record: Mapping[str, Any]) -> str:
    return str(next(iter(record["tuning"]["allowed"])))


def reading(record: Mapping[str, Any], text: str = "held_out") -> Reading:
    """The divergence on a text and its interval, of a machine in a record."""
    found = record["divergence"][text]
    return Reading(*map(numbers.real, (found["value"], *found["interval"])))


def interval(found: Reading) -> str:
    """The confidence interval of a reading in brackets, or nothing."""
    if math.isnan(found.low):
        return ""
    return f" [{numbers.scientific(found.low)}, {numbers.scientific(found.high)}]"


def pictures_of(record: Mapping[str, Any]) -> list[Picture]:
    """The front, and what was chosen for each step and layer.

    Parameters
    ----------
    record : mapping
        Of :meth:`lamp.tuning.Tuned.record`.

    Returns
    -------
    list of Picture
    """
    return [_front(record), _choices(record)]


def _title(record: Mapping[str, Any]) -> str:
    source = record["tuning"]["held_out"]
    return f"{record['tuning']['model']} · {source['name'] or source['source']}"


def _front(record: Mapping[str, Any]) -> Picture:
    """Divergence against cost: the predicted front, machines on it, and uniform ones."""
    metric, tuning = _METRICS[_metric(record)], record["tuning"]
    uniform = [each for each in record["others"] if each["kind"] == "uniform"]
    tuned = {**record, "name": record["hardware"]}
    marked = [(each, 0, _FRONT) for each in record["front"] if each["divergence"]]
    marked += [(each, color, _UNIFORM) for color, each in enumerate(uniform, 1)]
    points = [_point(each, color, shape) for each, color, shape in [*marked, (tuned, 0, _TUNED)]]
    line = [
        figures.Point(each["cost"], each["predicted"], 0, _FRONT, "")
        for each in record["front"]
        if numbers.real(each["predicted"]) > 0
    ]
    allowed = figures.Point(math.nan, numbers.real(record["allowed"]["held_out"]), 0, _FRONT, "")
    unit = "cost per token"
    if isinstance(tuning["costs"], str):
        unit = _UNITS[tuning["costs"]]
    drawn = [allowed, *line, *points]
    x = scales.Scale(unit, [each.x for each in (*line, *points)], numbers.power, across=True)
    y = scales.Scale(
        metric, [each.y for each in drawn], numbers.power, errors=[each.y_error for each in drawn]
    )
    lines = [figures.Line([allowed], "level", "allowed"), figures.Line(line)]
    legend = (
        figures.Entry("tuned", 0, _TUNED, "rule"),
        figures.Entry("on the front, held-out text", 0, _FRONT, "rule"),
        figures.Entry("the front as predicted", 0, role="front"),
        *(figures.Entry(each["name"], i, _UNIFORM) for i, each in enumerate(uniform, 1)),
        figures.Entry("allowed", 0, role="level"),
        figures.Entry("squares: one option everywhere; bars: 95% intervals", role="note"),
    )
    draw = partial(figures.plot, x, y, points, [each for each in lines if each.points])
    return figures.Picture("front", _title(record), f"{metric}, against {unit}", legend, draw)


def _point(each: Mapping[str, Any], color: int, shape: int) -> figures.Point:
    """The mark of a machine, with its interval on the held-out text."""
    found = reading(each)
    tooltip = f"{each['name']}\n{numbers.scientific(found.value)}{interval(found)}"
    reach = found.high - found.value  # the interval may be cut at 0
    return figures.Point(each["cost"], found.value, color, shape, tooltip, y_error=reach)


def _choices(record: Mapping[str, Any]) -> Picture:
    """The option of each step and layer, in the color that it has in the picture of the front."""
    choices = record["choices"]
    uniform = [each["name"] for each in record["others"] if each["kind"] == "uniform"]
    chosen = dict.fromkeys(each["option"] for each in choices)
    options = [*dict.fromkeys(["", *uniform, *chosen])]
    cells: dict[tuple[str, str], float] = {}
    for each in choices:
        layers = map(str, read_numbers(each["layers"])) if each["layers"] else [figures.OUTSIDE]
        cells |= {(each["step"], layer): options.index(each["option"]) for layer in layers}
    names = figures.columns(layer for _, layer in cells)
    steps = dict.fromkeys(each["step"] for each in choices)
    rows = {step: [cells.get((step, name), math.nan) for name in names] for step in steps}
    blocks = [figures.Block(record["hardware"], record["hardware"], rows, options)]
    legend = tuple(
        figures.Entry(option, color, _UNIFORM)
        for color, option in enumerate(options)
        if option in chosen
    )
    draw = partial(figures.heat_map, blocks, names)
    summary = f"what was chosen by step and layer: {', '.join(chosen)}"
    return figures.Picture("choices", _title(record), summary, legend, draw)
