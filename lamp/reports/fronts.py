"""What tuning has found: tables, pictures, and a folder with all of it.

Sentences and pictures are made from the record of a result, :meth:`lamp.tuning.Tuned.record`, which
the store of its runs has, too.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lamp._files import writing
from lamp.evaluation import without_nan
from lamp.machines import read_numbers
from lamp.reports import figures, numbers, scales
from lamp.reports.console import headed_table
from lamp.reports.figures import Picture

if TYPE_CHECKING:
    from rich.table import Table

    from lamp.tuning import Measured, Reading, Tuned

__all__ = [
    "choices_table",
    "machines_table",
    "pictures_of",
    "rounds_table",
    "sentence",
    "write_tuned",
]

_METRICS: Final = {"kl": "KL divergence, nats per token", "flips": "flips"}
_SHORT: Final = {"kl": "KL", "flips": "flips"}
_UNITS: Final = {
    "bits": "bits of arithmetic per token",
    "accumulators": "accumulator bits per token",
}
_TUNED, _UNIFORM, _FRONT = 6, 1, 0  # shapes: a star, a square, a circle
_COLUMNS: Final = (
    "name",
    "kind",
    "cost",
    "predicted",
    *(f"{text}{end}" for text in ("calibration", "held_out") for end in ("", "_low", "_high")),
)


# --- in words and tables --------------------------------------------------------------------------


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
        times = _real(machine["cost"]) / record["cost"]
        if not math.isnan(times):  # as with a table of costs of one's own
            limit += f", which costs {numbers.factor(times)} times as much"
    uniform = record["cheapest_uniform"]
    beside = "no uniform machine of the menu holds"
    if uniform is not None:
        times = f"costs {record['factor']:.3g} times as much"
        beside = f"{uniform}, the cheapest uniform machine that holds, {times}"
    reading = _reading(record)
    measured = f"{_SHORT[metric]} {numbers.scientific(reading.value)}{_interval(reading)}"
    return (
        f"{record['hardware']}: {measured} on held-out text, at most {limit}.  Its accumulators "
        f"have {record['accumulator_bits']:.3g} bits on average; {beside}."
    )


def _metric(record: Mapping[str, Any]) -> str:
    return str(next(iter(record["tuning"]["allowed"])))


def _real(number: float | None) -> float:
    """A number of a record, where those that JSON cannot hold are None."""
    return math.nan if number is None else number


def _reading(record: Mapping[str, Any]) -> _Reading:
    """The divergence on the held-out text."""
    held_out = record["divergence"]["held_out"]
    return _Reading(*map(_real, (held_out["value"], *held_out["interval"])))


class _Reading(NamedTuple):
    """A divergence, and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def _interval(reading: Reading | _Reading) -> str:
    """The confidence interval in brackets, or nothing."""
    if math.isnan(reading.low):
        return ""
    return f" [{numbers.scientific(reading.low)}, {numbers.scientific(reading.high)}]"


def choices_table(found: Tuned) -> Table:
    """What was chosen for each step and its layers; layers that are alike in a row."""
    table = headed_table(("step", "layers", "chosen", "cost", "adds"), left=3)
    added = math.fsum(max(each.divergence, 0.0) for each in found.choices)
    for step, of_step in itertools.groupby(found.choices, key=lambda each: each.step):
        for i, (option, group) in enumerate(itertools.groupby(of_step, key=lambda x: x.option)):
            alike = list(group)
            layers = ",".join(each.layers for each in alike)
            cost = sum(each.cost for each in alike) / found.result.cost
            share = sum(each.divergence for each in alike) / added if added else 0.0
            table.add_row("" if i else step, layers, option, f"{cost:.1%}", f"{share:.1%}")
    return table


def machines_table(found: Tuned) -> Table:
    """The result beside uniform machines and corners of the front, the cheapest first."""
    measured = [each for each in (*found.front, *found.others) if each.readings]
    headings = ("", "cost", "predicted", "calibration", "held-out", "95% interval")
    table = headed_table(headings, left=1)
    best = found.result
    for each in sorted([best, *measured], key=lambda each: (math.isnan(each.cost), each.cost)):
        held_out = each.readings["held_out"]
        table.add_row(
            {"tuned": "tuned", "front": "on the front"}.get(each.kind, each.name),
            numbers.factor(each.cost / best.cost) if each.cost == each.cost else "-",
            numbers.scientific(each.predicted) if each.predicted == each.predicted else "-",
            numbers.scientific(each.readings["calibration"].value),
            numbers.scientific(held_out.value),
            _interval(held_out).strip(" []"),
            style="bold" if each is best else "",
        )
    return table


def rounds_table(found: Tuned) -> Table:
    """What each round predicted and measured, and what was done then."""
    headings = ("round", "cost", "gap", "predicted", "calibration", "held-out", "then")
    table = headed_table(headings)
    table.columns[-1].justify = "left"
    for column in table.columns:
        column.vertical = "top"
    fixed = found.result.cost - min(
        (each.cost for each in found.rounds if each.holds), default=math.nan
    )
    for number, each in enumerate(found.rounds, 1):
        table.add_row(
            str(number),
            numbers.factor((each.cost + fixed) / found.result.cost),
            f"{each.solution.gap / (each.cost + fixed):.2%}",
            numbers.scientific(each.predicted),
            *(
                numbers.scientific(each.readings[text].value)
                for text in ("calibration", "held_out")
            ),
            each.repair or ("it holds" if each.holds else "it does not hold"),
        )
    return table


# --- the front ------------------------------------------------------------------------------------


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
        if _real(each["predicted"]) > 0
    ]
    allowed = figures.Point(math.nan, _real(record["allowed"]["held_out"]), 0, _FRONT, "")
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
    reading = _reading(each)
    tooltip = f"{each['name']}\n{numbers.scientific(reading.value)}{_interval(reading)}"
    reach = 0.5 * (reading.high - reading.low)
    return figures.Point(each["cost"], reading.value, color, shape, tooltip, y_error=reach)


def _choices(record: Mapping[str, Any]) -> Picture:
    """The option of each step and layer, in the color that it has in the picture of the front."""
    choices = record["choices"]
    uniform = [each["name"] for each in record["others"] if each["kind"] == "uniform"]
    chosen = dict.fromkeys(each["option"] for each in choices)
    options = [*dict.fromkeys(["", *uniform, *chosen])]
    rows: dict[str, dict[int, float]] = {}
    outside = []
    for each in choices:
        if not each["layers"]:
            outside.append(f"{each['step']} {each['option']}")
        for layer in read_numbers(each["layers"]) if each["layers"] else ():
            rows.setdefault(each["step"], {})[layer] = options.index(each["option"])
    count = 1 + max((layer for row in rows.values() for layer in row), default=-1)
    steps = {
        step: [row.get(layer, math.nan) for layer in range(count)] for step, row in rows.items()
    }
    name = record["hardware"]
    text = f"in no layer: {', '.join(outside)}"
    blocks = [figures.Block(name, name, steps, options)] if steps else []
    blocks += [figures.Block(text, text, {})] if outside else []
    legend = tuple(
        figures.Entry(option, color, _UNIFORM)
        for color, option in enumerate(options)
        if option in chosen
    )
    draw = partial(figures.heat_map, blocks)
    summary = f"what was chosen by step and layer: {', '.join(chosen)}"
    return figures.Picture("choices", _title(record), summary, legend, draw)


# --- files ----------------------------------------------------------------------------------------


def write_tuned(found: Tuned, folder: Path) -> list[Path]:
    """Write the machine, all that was found, and the front.

    Parameters
    ----------
    found : lamp.tuning.Tuned
    folder : Path
        It is made if there is none.

    Returns
    -------
    list of Path
        ``machine.toml``, ``tuned.json``, ``front.csv``, ``front.svg`` and ``front.png``.

    Raises
    ------
    NotADirectoryError
        If the folder is a file.
    """
    from lamp.reports import exports, pictures

    pictures.make_folder(folder, "results")
    record = json.dumps(without_nan(found.record()), indent=2, allow_nan=False)
    front, _ = pictures_of(found.record())
    contents = {
        "tuned.json": f"{record}\n".encode(),
        "front.csv": exports.written_csv(_COLUMNS, map(_line, _all(found))),
        **{
            f"front.{kind}": pictures.painted(front, kind, found.menu.name)
            for kind in ("svg", "png")
        },
    }
    found.machine.save(folder / "machine.toml")
    for name, content in contents.items():
        writing.write(folder / name, content)
    return [folder / name for name in ("machine.toml", *contents)]


def _all(found: Tuned) -> Sequence[Measured]:
    return (found.result, *found.front, *found.others)


def _line(each: Measured) -> dict[str, Any]:
    """A line of the CSV file."""
    line: dict[str, Any] = {name: getattr(each, name) for name in _COLUMNS[:4]}
    for text in ("calibration", "held_out"):
        reading = each.readings.get(text)
        ends = (math.nan,) * 3 if reading is None else reading
        line |= dict(zip((text, f"{text}_low", f"{text}_high"), ends, strict=True))
    return line
