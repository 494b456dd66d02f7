"""Look-ahead at every nonlinearity at once, and what it does where a format's range ends.

    python analysis/lookahead.py [--model embedded] [--machines ps4 ps7] [--tokens 128] [--output .]

First, overflow: the model's products summed in fp8 e4m3, or their operands in it without scales;
how many tokens are lost without look-ahead, and what is left with it, where it recomputes nothing
but what overflowed, or a share more.

Then, where to spend recomputation on a machine whose products are all in low precision: on the
arguments of the softmax, the norms, the activations, or on the logits alone; on all of them alike;
and on all with budgets of their own: on other text the divergence that the products of each place
cause alone is measured at every budget, and of all combinations the one with the least sum is taken
that keeps a limit of the work.  Compared at equal shares of multiply-adds in high precision, on
held-out text.  A machine arguments-NAME is as NAME in
the products that look-ahead looks at; the others, such as those of the values, are in float32.

Writes lookahead_overflow.csv, lookahead.csv and lookahead.png.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import lamp
from lamp import LAMP, Hardware, Product, checkpoints
from lamp.evaluation.metrics import evaluate, reference_logits
from lamp.studies import spread_windows

RULES = {"softmax": "total_variation", "norm": "norm", "activation": "activation", "logits": "kl"}
PLACES = tuple(RULES)
LEVELS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
STEPS = {
    "softmax": ("scores",),
    "norm": ("attention_output", "mlp_down"),
    "activation": ("mlp_up",),
    "logits": ("lm_head",),
}
LIMITS = tuple(10.0**power for power in np.arange(-4, 0.01, 0.5))
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
NEVER = 1e30  # no score is above it
LOOKED_AT = tuple(step for steps in STEPS.values() for step in steps)
ARGUMENTS = "arguments-"  # before a machine's name: what look-ahead looks at is as there, no more
OVERFLOWING = {
    "sums in e4m3": Hardware("e4m3 sums", **dict.fromkeys(LOOKED_AT, "float8_e4m3fn")),
    "operands in e4m3": Hardware(
        "e4m3 operands", **dict.fromkeys(LOOKED_AT, Product("float32", "float8_e4m3fn"))
    ),
}
STYLES = {
    "softmax": ("#0072B2", "o", "softmax alone"),
    "norm": ("#009E73", "^", "norms alone"),
    "activation": ("#E69F00", "v", "activations alone"),
    "logits": ("#CC79A7", "D", "logits alone"),
    "alike": ("#56B4E9", "s", "all with the same budget"),
    "together": ("#D55E00", "*", "all, budgets found on other text"),
}


@dataclass(frozen=True)
class Overflow:
    """A run on a machine whose range is small."""

    model: str
    machine: str
    look_ahead: str
    lost: float  # the share of tokens whose logits hold NaN or infinity
    kl: float  # of the others
    flip_rate: float
    recomputation_rate: float
    high_precision_share: float


@dataclass(frozen=True)
class Spent:
    """A run with budgets, on the text that they were chosen on and on another."""

    model: str
    machine: str
    method: str
    softmax: float
    norm: float
    activation: float
    logits: float
    share: float
    kl_where_chosen: float
    kl: float
    flip_rate: float


def machine(name: str) -> Hardware:
    """A machine, or one in float32 but for the products that look-ahead looks at."""
    found = lamp.hardware(name.removeprefix(ARGUMENTS))
    if not name.startswith(ARGUMENTS):
        return found
    return Hardware(name, **{step: getattr(found, step) for step in LOOKED_AT})


class Text:
    """Windows and the reference's logits for them."""

    def __init__(self, model: Any, windows: Any) -> None:
        self.windows = windows
        self.reference = reference_logits(model.with_hardware("fp64"), windows)

    def metrics(self, model: Any) -> Any:
        with np.errstate(invalid="ignore"):
            return evaluate(self.reference, model, self.windows)


def tokens_of(model: Any, name: str, count: int) -> Any:
    """A text; a model whose tokenizer is not to be had writes its own."""
    if name == "mgm":
        parts = [model.generate([5], 255, temperature=1.0, seed=seed) for seed in range(8)]
        return np.concatenate(parts)
    return model.encode(checkpoints.read_text())


def settings(budgets: dict[str, float]) -> list[LAMP]:
    """Rules for the places that have a budget."""
    return [
        LAMP(RULES[place], budget=budget, weights="norms", on=place)
        for place, budget in budgets.items()
        if budget
    ]


# --- overflow -------------------------------------------------------------------------------------


def overflows(model: Any, name: str, text: Text) -> Iterator[Overflow]:
    """Each machine without look-ahead, with what overflowed recomputed, and with 3% more."""
    only = [LAMP(RULES[place], tau=NEVER, on=place) for place in PLACES]
    more = settings(dict.fromkeys(PLACES, 0.03))
    for machine_name, small in OVERFLOWING.items():
        for words, rules in (("none", None), ("overflowed", only), ("and 3%", more)):
            run = model.with_hardware(small, rules)
            with np.errstate(invalid="ignore"):
                parts = [run.forward(window) for window in text.windows]
            logits = np.stack([part.logits for part in parts])
            good = np.isfinite(logits).all(axis=-1)
            divergence, flips = kept(text.reference[good], logits[good])
            yield Overflow(
                name,
                machine_name,
                words,
                1.0 - float(good.mean()),
                divergence,
                flips,
                float(np.mean([part.recomputation_rate for part in parts])),
                sum(part.repeated for part in parts) / sum(part.multiply_adds for part in parts),
            )


def kept(reference: Any, logits: Any) -> tuple[float, float]:
    """The divergence and the flips of tokens that are not lost."""
    if not len(logits):
        return math.nan, math.nan
    metrics = evaluate(reference[None], _Given(logits), np.zeros(len(logits)))
    return metrics.kl, metrics.flip_rate


class _Given:
    """Logits in the place of a model."""

    def __init__(self, logits: Any) -> None:
        self.logits = logits

    def forward(self, tokens: Any) -> Any:
        return lamp.models.Forward(self.logits, {}, 1)


# --- budgets --------------------------------------------------------------------------------------


class Allocation:
    """Budgets of the places on one machine."""

    def __init__(self, model: Any, name: str, machine: str, chosen: Text, held_out: Text) -> None:
        self.model, self.name, self.machine = model, name, machine
        self.chosen, self.held_out = chosen, held_out
        self._known: dict[tuple[float, ...], tuple[float, float]] = {}

    def _at(self, budgets: dict[str, float]) -> tuple[float, float]:
        """The divergence on the text where budgets are chosen, and the share of the work."""
        key = tuple(budgets.values())
        if key not in self._known:
            metrics = self.chosen.metrics(self._run(budgets))
            self._known[key] = metrics.kl, metrics.high_precision_share
        return self._known[key]

    def _run(self, budgets: dict[str, float]) -> Any:
        return self.model.with_hardware(machine(self.machine), settings(budgets) or None)

    def spent(self, method: str, budgets: dict[str, float]) -> Spent:
        """A row of the results."""
        kl, share = self._at(budgets)
        found = self.held_out.metrics(self._run(budgets))
        return Spent(
            self.name, self.machine, method, **budgets, share=share, kl_where_chosen=kl,
            kl=found.kl, flip_rate=found.flip_rate,
        )  # fmt: skip

    def alone(self, place: str) -> Iterator[Spent]:
        for level in LEVELS:
            yield self.spent(place, {**dict.fromkeys(PLACES, 0.0), place: level})

    def alike(self) -> Iterator[Spent]:
        for level in LEVELS:
            yield self.spent("alike", dict.fromkeys(PLACES, level))

    def together(self) -> Iterator[Spent]:
        """The budgets that promise the least divergence at a share of the work, share by share.

        Errors of different places add up, and so do their divergences, nearly: those of each place
        are measured alone, on a machine that is low nowhere else, and every combination of budgets
        has their sum.
        """
        alone = {place: [self._isolated(place, level) for level in LEVELS] for place in PLACES}
        done: list[dict[str, float]] = []
        for limit in (0.0, *LIMITS):
            budgets = self._best(alone, limit)
            if budgets not in done:
                done.append(budgets)
                yield self.spent("together", budgets)

    def _isolated(self, place: str, level: float) -> tuple[float, float]:
        """Divergence and share of the work where the products of one place alone are low."""
        low = machine(self.machine)
        alone = Hardware(place, **{step: getattr(low, step) for step in STEPS[place]})
        model = self.model.with_hardware(alone, settings({place: level}) or None)
        metrics = self.chosen.metrics(model)
        return metrics.kl, metrics.high_precision_share

    @staticmethod
    def _best(alone: dict[str, list[tuple[float, float]]], limit: float) -> dict[str, float]:
        """Of all combinations that keep a limit, the one with the least sum of divergences."""
        found = []
        for choice in itertools.product(range(len(LEVELS)), repeat=len(PLACES)):
            parts = [alone[place][index] for place, index in zip(PLACES, choice, strict=True)]
            if sum(share for _, share in parts) <= limit:
                found.append((sum(kl for kl, _ in parts), choice))
        levels = (LEVELS[index] for index in min(found)[1])
        return dict(zip(PLACES, levels, strict=True))


def best_within(rows: list[Spent], method: str, share: float) -> float:
    """The divergence on held-out text of the run that was best where it was chosen."""
    allowed = [row for row in rows if row.method == method and row.share <= share]
    return min(allowed, key=lambda row: row.kl_where_chosen).kl


# --- output ---------------------------------------------------------------------------------------


def write(path: Path, rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def overflow_table(rows: list[Overflow]) -> Table:
    table = Table(title="Where a format's range ends", title_justify="left")
    for name in ("machine", "recomputed", "tokens lost", "KL of the others", "flips", "rate"):
        table.add_column(name)
    table.add_column("of the work")
    for row in rows:
        table.add_row(
            row.machine,
            row.look_ahead,
            f"{row.lost:.1%}",
            f"{row.kl:.3g}",
            f"{row.flip_rate:.1%}",
            f"{row.recomputation_rate:.2%}",
            f"{row.high_precision_share:.2%}",
        )
    return table


def budget_table(rows: list[Spent], machine: str) -> Table:
    rows = [row for row in rows if row.machine == machine]
    table = Table(title=f"{machine}: KL at a share of the work in float32", title_justify="left")
    table.add_column("recomputed")
    for share in (0.0, *SHARES):
        table.add_column(f"{share:g}" if not share else f"{share:.1%}")
    for method, (_, _, words) in STYLES.items():
        found = (best_within(rows, method, share) for share in (0.0, *SHARES))
        table.add_row(words, *(f"{kl:.2e}" for kl in found))
    return table


def plot(rows: list[Spent], path: Path) -> None:
    machines = list(dict.fromkeys(row.machine for row in rows))
    figure = Figure(figsize=(4.6 * len(machines) + 2.6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(machines), squeeze=False)[0]
    for axes, machine in zip(panels, machines, strict=True):
        here = [row for row in rows if row.machine == machine]
        base = next(row.kl for row in here if not row.share)
        axes.axhline(base, color="0.4", linewidth=0.8)
        for method, (colour, marker, words) in STYLES.items():
            points = sorted((r.share, r.kl) for r in here if r.method == method and r.share)
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=words)
        axes.set_xscale("log")
        axes.set_yscale("log")
        # Nothing low is left where all is recomputed: that is below any sensible axis.
        axes.set_ylim(max(min(row.kl for row in here) / 1.2, base / 100), 1.3 * base)
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda kl, _: f"{kl:g}")
        axes.set_title(machine, loc="left", weight="bold")
        axes.set_xlabel("multiply-adds done again in float32")
        axes.grid(alpha=0.3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("KL(float64 || model), nats per token")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="a name or a directory")
    parser.add_argument("--machines", nargs="*", default=["ps4", "ps7", "arguments-ps4"])
    parser.add_argument("--windows", type=int, default=2, help="of either text")
    parser.add_argument("--tokens", type=int, default=128, help="in a window")
    parser.add_argument("--output", type=Path, default=Path(), help="an existing folder")
    options = parser.parse_args()
    console, model = Console(width=120), lamp.from_pretrained(options.model)
    tokens = tokens_of(model, options.model, options.tokens)
    windows = spread_windows(tokens, options.tokens, 2 * options.windows)
    # In turns, so that both texts are from all over.
    chosen, held_out = Text(model, windows[::2]), Text(model, windows[1::2])

    found = list(overflows(model, options.model, held_out))
    console.print(overflow_table(found))
    write(options.output / "lookahead_overflow.csv", found)

    rows: list[Spent] = []
    with Progress(console=Console(stderr=True)) as progress:
        runs = (len(PLACES) + 1) * len(LEVELS) + len(LIMITS) + 1
        task = progress.add_task("budgets", total=runs * len(options.machines))
        for machine in options.machines:
            allocation = Allocation(model, options.model, machine, chosen, held_out)
            parts = [*map(allocation.alone, PLACES), allocation.alike(), allocation.together()]
            for part in parts:
                for row in part:
                    rows.append(row)
                    progress.advance(task)
            console.print(budget_table(rows, machine))
            write(options.output / "lookahead.csv", rows)
    if rows:
        plot(rows, options.output / "lookahead.png")


if __name__ == "__main__":
    main()
