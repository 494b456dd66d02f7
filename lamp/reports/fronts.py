"""What tuning has found: tables, the front as a picture, and a folder with all of it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp._files import writing
from lamp.reports import numbers
from lamp.reports.console import headed_table

if TYPE_CHECKING:
    from rich.table import Table

    from lamp.reports.figures import Picture
    from lamp.tuning import Measured, Reading, Tuned

__all__ = [
    "choices_table",
    "front_picture",
    "machines_table",
    "rounds_table",
    "sentence",
    "write_tuned",
]

_METRICS: Final = {"kl": "KL divergence, nats per token", "flips": "flips"}
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


def sentence(found: Tuned) -> str:
    """What was found, in a sentence or two."""
    reading = found.result.readings["held_out"]
    metric = {"kl": "KL", "flips": "flips"}[found.menu.metric]
    allowed = found.menu.allowed[found.menu.metric]
    if isinstance(allowed, float):
        limit = numbers.factor(allowed)
    else:
        (machine,) = (each for each in found.others if each.kind == "allowed")
        limit = f"that of {machine.name}"
        if not math.isnan(machine.cost):  # as with a table of costs of one's own
            times = numbers.factor(machine.cost / found.result.cost)
            limit += f", which costs {times} times as much"
    uniform = found.cheapest_uniform
    beside = "no uniform machine of the menu holds"
    if uniform is not None:
        times = f"costs {found.factor:.3g} times as much"
        beside = f"{uniform.name}, the cheapest uniform machine that holds, {times}"
    measured = f"{metric} {numbers.scientific(reading.value)}{_interval(reading)}"
    return (
        f"{found.machine.name}: {measured} on held-out text, at most {limit}.  Its accumulators "
        f"have {found.accumulator_bits:.3g} bits on average; {beside}."
    )


def _interval(reading: Reading) -> str:
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


def front_picture(found: Tuned) -> Picture:
    """Divergence against cost: the predicted front, machines on it, and uniform ones."""
    from lamp.reports import figures, scales

    uniform = [each for each in found.others if each.kind == "uniform"]
    marked = [(each, 0, _FRONT) for each in found.front if each.readings]
    marked += [(each, color, _UNIFORM) for color, each in enumerate(uniform, 1)]
    marked += [(found.result, 0, _TUNED)]
    line = [(each.cost, each.predicted) for each in found.front if each.predicted > 0]
    allowed = found.allowed["held_out"]
    values = [allowed, *(y for _, y in line), *(_held_out(each).value for each, *_ in marked)]
    errors = [0.0, *(0.0 for _ in line), *(_reach(_held_out(each)) for each, *_ in marked)]
    costs = [*(x for x, _ in line), *(each.cost for each, *_ in marked)]
    unit = "cost per token"
    if isinstance(found.menu.costs, str):
        unit = _UNITS[found.menu.costs]
    x = scales.Scale(unit, costs, numbers.power, across=True)
    y = scales.Scale(_METRICS[found.menu.metric], values, numbers.power, errors=errors)
    points = [
        figures.Point(
            each.cost,
            _held_out(each).value,
            color,
            shape,
            f"{each.name}\n{numbers.scientific(_held_out(each).value)}{_interval(_held_out(each))}",
            y_error=_reach(_held_out(each)),
        )
        for each, color, shape in marked
    ]
    lines = [
        figures.Line([figures.Point(math.nan, allowed, 0, _FRONT, "")], "level", "allowed"),
        figures.Line([figures.Point(*each, 0, _FRONT, "") for each in line]),
    ]
    legend = (
        figures.Entry("tuned", 0, _TUNED, "rule"),
        figures.Entry("on the front, held-out text", 0, _FRONT, "rule"),
        figures.Entry("the front as predicted", 0, role="front"),
        *(
            figures.Entry(f"{each.name} everywhere", color, _UNIFORM)
            for color, each in enumerate(uniform, 1)
        ),
        figures.Entry("allowed", 0, role="level"),
        figures.Entry("bars: 95% intervals", role="note"),
    )
    summary = f"{_METRICS[found.menu.metric]}, against {unit}"
    title = f"{found.menu.record()['model']}, {found.menu.held_out.label}"
    return figures.Picture(
        "front", title, summary, legend, partial(figures.plot, x, y, points, lines)
    )


def _held_out(each: Measured) -> Reading:
    return each.readings["held_out"]


def _reach(reading: Reading) -> float:
    """Half of the confidence interval."""
    return 0.5 * (reading.high - reading.low)


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
    from lamp.evaluation import without_nan
    from lamp.reports import exports, pictures

    pictures.make_folder(folder, "results")
    record = json.dumps(without_nan(found.record()), indent=2, allow_nan=False)
    picture = front_picture(found)
    contents = {
        "tuned.json": f"{record}\n".encode(),
        "front.csv": exports.written_csv(_COLUMNS, map(_line, _all(found))),
        **{
            f"front.{kind}": pictures.painted(picture, kind, found.menu.name)
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
