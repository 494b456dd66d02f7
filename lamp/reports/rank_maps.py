"""Heat maps of what each step of each layer costs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from lamp.machines import LAYER_FIELDS
from lamp.reports import figures, numbers
from lamp.reports.figures import Block, Entry, Picture
from lamp.reports.results import NONE, Pair, Results, metrics

if TYPE_CHECKING:
    from lamp.studies import Run
    from lamp.tuning import Rank

__all__ = ["is_part", "maps", "picture"]

_PART: Final = re.compile(r"(.+?)@(\d{1,5}|outside)\.([a-z_]+)=(.+)")
_SCALE: Final = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_OUTSIDE: Final = "outside"

_Cells = Mapping[tuple[str, str], float]  # by layer and step


def is_part(run: Run) -> bool:
    """Whether a run's machine is another one with one step of one layer exchanged."""
    return _PART.fullmatch(run.hardware) is not None


def maps(study: Results) -> list[Picture]:
    """What each step costs, for each machine of which steps of layers were measured alone.

    The machine itself is among the runs; its divergence is what shares are of.
    """
    return [picture for pair in study.pairs for picture in _of_pair(pair)]


def _of_pair(pair: Pair) -> Iterator[Picture]:
    plain = {run.hardware: metrics(run).kl for run in pair.records if run.lamp == NONE}
    cells: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for name, divergence in plain.items():
        if match := _PART.fullmatch(name):
            base, layer, step, other = match.groups()
            cells.setdefault((base, other), {})[layer, step] = divergence
    for (exact, machine), alone in cells.items():
        whole = plain.get(machine)
        reference = {run.reference for run in pair.records}
        if whole is None or exact not in reference or not whole > 0:
            continue
        shares = {place: divergence / whole for place, divergence in alone.items()}
        repaired = cells.get((machine, exact), {})
        won = {place: 1.0 - divergence / whole for place, divergence in repaired.items()}
        yield _picture(pair.title, machine, exact, shares, won)


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
    blocks = [*_blocks(f"{machine}: each step alone", shares)]
    blocks += _blocks(f"{machine}: won with it in {exact}", won)
    legend = (
        Entry(f"share of the divergence of {machine}", role="note"),
        *(
            Entry(numbers.short_percent(rate) if rate else "nothing", role="rate", rate=rate)
            for rate in _SCALE
        ),
    )
    summary = f"share of the divergence of {machine} by step and layer: {len(shares)} steps"
    draw = partial(figures.heat_map, blocks)
    return Picture("ranks", title, summary, legend, draw, machine)


def _blocks(name: str, cells: _Cells) -> Iterator[Block]:
    """Steps by layers; what is in no layer has a line of its own."""
    layers = [int(layer) for layer, _ in cells if layer != _OUTSIDE]
    steps = [step for step in LAYER_FIELDS if any(own == step for _, own in cells)]
    rows = {
        step: [cells.get((str(layer), step), 0.0) for layer in range(max(layers) + 1)]
        for step in steps
        if layers and any((str(layer), step) in cells for layer in layers)
    }
    if rows:
        yield Block(name, name, rows)
    outside = {step: share for (layer, step), share in cells.items() if layer == _OUTSIDE}
    if outside:
        written = (f"{step} {numbers.short_percent(share)}" for step, share in outside.items())
        text = f"in no layer: {', '.join(written)}"
        yield Block(text, f"{name}\n{text}", {})
