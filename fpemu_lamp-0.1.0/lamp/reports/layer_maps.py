"""Heat maps of machines that differ by layer: how each step is computed in which layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from lamp.machines import LAYER_FIELDS, Hardware, Product, spelled
from lamp.machines import summary as operands_and_sums
from lamp.reports import figures
from lamp.reports.figures import Block, Entry, Picture
from lamp.reports.results import Results

__all__ = ["maps"]

_MOST: Final = 12  # machines that are shown
_REST: Final = "rest"

_Column = tuple[str, Hardware]  # layers that are alike and follow each other, and their machine
_Cell = tuple[Hardware, str]  # a machine, and a field of it


def maps(study: Results) -> list[Picture]:
    """How the layers of machines compute steps, for each machine that differs by layer.

    Equal steps have the same color in all pictures.
    """
    machines = dict(itertools.islice(study.layered.items(), _MOST))
    cells = {name: _rows(machine) for name, machine in machines.items()}
    every = [cell for rows in cells.values() for row in rows.values() for cell in row]
    labels = dict(zip(every, _labels(every), strict=True))
    options = [*dict.fromkeys(labels.values())]
    return [
        _picture(name, machine, cells[name], labels, options) for name, machine in machines.items()
    ]


def _picture(
    name: str,
    machine: Hardware,
    cells: Mapping[str, Sequence[_Cell]],
    labels: Mapping[_Cell, str],
    options: Sequence[str],
) -> Picture:
    rows = {field: [options.index(labels[cell]) for cell in row] for field, row in cells.items()}
    used = sorted({number for row in rows.values() for number in row})
    legend = tuple(Entry(options[number], number, role="option") for number in used)
    layers = [layer for layer, _ in _columns(machine)]
    draw = partial(figures.heat_map, [Block("", name, rows, options)], layers)
    summary = f"how layers {', '.join(layers)} compute the steps in which they differ"
    return Picture("machine", name, summary, legend, draw)


def _rows(machine: Hardware) -> dict[str, list[_Cell]]:
    """The steps in which layers differ, from layer to layer."""
    own = [each for _, each in _columns(machine)]
    return {
        field: [(each, field) for each in own]
        for field in LAYER_FIELDS
        if any(getattr(each, field) != getattr(own[0], field) for each in own)
    }


def _columns(machine: Hardware) -> list[_Column]:
    """The layers from front to end, the rest between those that count from either side."""
    groups: list[tuple[list[int], Any]] = []
    for number, steps in machine.layers:
        if groups and groups[-1] == ([*groups[-1][0][:-1], number - 1], steps):
            groups[-1][0].append(number)
        else:
            groups.append(([number], steps))
    named = [(spelled(numbers), machine.machines[numbers[0]]) for numbers, _ in groups]
    front = sum(numbers[0] >= 0 for numbers, _ in groups)
    return [*named[:front], (_REST, machine.machines[None]), *named[front:]]


def _labels(cells: Sequence[_Cell]) -> list[str]:
    """What cells say: a few words where these tell all steps apart, else more, else all."""
    steps = [_step(cell) for cell in cells]
    for words in (_few, _more):
        labels = [words(*cell) for cell in cells]
        if len(set(labels)) == len(set(zip(labels, steps, strict=True))):
            return labels
    return [_all(*cell) for cell in cells]


def _step(cell: _Cell) -> Any:
    machine, field = cell
    return getattr(machine, field)


def _few(machine: Hardware, field: str) -> str:
    """Operands and sums of a product; all of anything else."""
    step = getattr(machine, field)
    return operands_and_sums(machine, field) if isinstance(step, Product) else _all(machine, field)


def _more(machine: Hardware, field: str) -> str:
    """The same, and the format of a product's result."""
    step = getattr(machine, field)
    result = f" -> {step.output}" if isinstance(step, Product) else ""
    return f"{_few(machine, field)}{result}"


def _all(machine: Hardware, field: str) -> str:
    step = getattr(machine, field)
    if field == "weights":
        return f"stored in {step}"
    if step is None:
        return "by rows"
    return " / ".join(map(str, step)) if isinstance(step, tuple) else str(step)
