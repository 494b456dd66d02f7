"""Heat maps of what each step of each layer costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from lamp.machines import STEPS
from lamp.reports import figures
from lamp.reports.figures import Block, Entry, Picture
from lamp.reports.results import Pair, Results
from lamp.reports.runs import NONE, PART, is_part, metrics

if TYPE_CHECKING:
    from lamp.studies import Run
    from lamp.tuning import Rank

__all__ = ["Shares", "maps", "picture", "shares"]

_Cells = Mapping[tuple[str, str], float]  # by layer and step


def _setting(run: Run) -> str:
    """A machine and its rules; the name of a machine with a step exchanged says them itself."""
    return run.hardware if run.lamp == NONE or is_part(run) else f"{run.hardware}+{run.lamp}"


class Shares(NamedTuple):
    """What steps cost on a machine, as shares of its divergence, by layer and step."""

    machine: str
    exact: str
    whole: Run
    alone: _Cells
    won: _Cells


def maps(study: Results) -> list[Picture]:
    """What each step costs, for each machine of which steps of layers were measured alone."""
    return [
        _picture(pair.title, each.machine, each.exact, each.alone, each.won)
        for pair in study.pairs
        for each in shares(pair)
    ]


def shares(pair: Pair) -> Iterator[Shares]:
    """What steps cost on each machine that is among the runs, and so are its steps alone."""
    runs = {_setting(run): run for run in pair.records}
    cells: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for name, run in runs.items():
        if match := PART.fullmatch(name):
            base, layer, step, other = match.groups()
            cells.setdefault((base, other), {})[layer, step] = metrics(run).kl
    for (exact, machine), alone in cells.items():
        whole = runs.get(machine)
        if whole is None or exact != whole.reference or not metrics(whole).kl > 0:
            continue
        total = metrics(whole).kl
        repaired = cells.get((machine, exact), {})
        yield Shares(
            machine,
            exact,
            whole,
            {place: divergence / total for place, divergence in alone.items()},
            {place: 1.0 - divergence / total for place, divergence in repaired.items()},
        )


def picture(found: Rank) -> Picture:
    """A rank as a heat map: what steps cost alone, and what is won when they are put right."""
    shares = {(part.place, part.step): found.share(part) for part in found.parts}
    won = {
        (part.place, part.step): part.won.value / found.whole.value
        for part in found.parts
        if part.won is not None
    }
    return _picture(f"{found.model} · {found.text}", found.machine, found.exact, shares, won)


def _picture(title: str, machine: str, exact: str, shares: _Cells, won: _Cells) -> Picture:
    own = {"each step alone": shares, f"won with it in {exact}": won}
    names = figures.columns(layer for layer, _ in (*shares, *won))
    rows = {name: _rows(cells, names) for name, cells in own.items()}
    blocks = [Block(name, name, each) for name, each in rows.items() if each]
    legend = (
        Entry("share of the machine's divergence", role="note"),
        *figures.heat_scale("nothing", "100%"),
    )
    summary = f"share of the divergence of {machine} by step and layer: {len(shares)} steps"
    draw = partial(figures.heat_map, blocks, names)
    return Picture("ranks", title, summary, legend, draw, machine)


def _rows(cells: _Cells, names: Sequence[str]) -> dict[str, list[float]]:
    """Steps by layers, in the order in which a model computes them."""
    measured = {step for _, step in cells}
    steps = (step for step in ("weights", *STEPS, "attention") if step in measured)
    return {step: [cells.get((name, step), math.nan) for name in names] for step in steps}
