"""What the documentation says of models on machines, measured on four texts with intervals.

    python analysis/claims.py [--groups rates rules orders places overflow depth weights machines
                               gemma]

A claim compares a run with another: how many times smaller its Kullback-Leibler divergence from
float64 is.  On a text that is the geometric mean over windows, with Student's interval of the
logarithms, and the paired difference of the two divergences over windows tells whether one is
smaller.  On all texts it is the geometric mean over the texts, with an interval from the texts'
numbers: claims are about texts, not about windows of one.

rates     version 1's rule, a random choice and one threshold per layer at equal rates
rules     one threshold for the model by various scores, at 10%, 3% and 1%
orders    sums in blocks and pairwise, without and with recomputation
places    all products in low precision: the softmax alone, the logits alone, all places
overflow  SmolLM2 with operands in e4m3 without scales: what is lost, and what look-ahead saves
weights   rank correlations of the weights with the true errors of scores, mean over layers
depth     how much of the error of the residual stream is there behind the first layer
machines  SmolLM2 on machines of narrow formats, without and with look-ahead
gemma     the same of Gemma 3 270M, which LAMP_GEMMA3 names (docs/your-model.md)

Scores are summed term after term in the order of the channels, unless a run says otherwise.  The
thresholds of `rules` and `orders` are searched for on the text itself until the share recomputed is
near the one asked for: rules are compared at the same share.  The budgets of `places` are found on
the last quarter of the held-out sample, which no window here touches.

Writes claims.csv, a line for each run on each text and on all of them.  Runs are kept in a folder,
so that a second call does what is missing alone.  findings.py makes tables and figures from it.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from lookahead import LEVELS, NEVER, OVERFLOWING, PLACES, RULES, Allocation, Text, settings
from numpy.typing import NDArray
from over_texts import GEMMA, TEXTS, geometric, loaded, mean, read, write
from selection import Heads, ranks, record

import fpemu
from lamp import LAMP, Hardware, checkpoints
from lamp.evaluation import Estimate, Source, Totals, paired, ratio, reference_logits
from lamp.evaluation.texts import windows as as_windows
from lamp.studies import spread_windows

ALL: Final = "all"
USED: Final = 0.75  # the part of a text that windows are from; the rest is for calibration
NONE: Final = "nothing"
RATES: Final = (0.1, 0.03, 0.01)
NEAR: Final = 0.03  # how far a share recomputed may be from the one asked for, relatively


@dataclass(frozen=True)
class Claimed:
    """A run on a text or on all texts, beside another."""

    group: str
    model: str
    machine: str
    rule: str
    text: str
    tokens: int
    windows: int
    value: float  # nats per token; a median relative error of `depth`, a correlation of `weights`
    error: float  # its standard error
    flips: float
    lost: float  # the share of tokens without a number
    recomputed: float  # of candidate components
    work: float  # of the multiply-adds of all products, added to them
    beside: str = ""  # the rule that it is compared with, on the machine below
    times: float = math.nan  # smaller
    low: float = math.nan
    high: float = math.nan
    smaller: int = 0  # the number of texts on which the paired difference is decided
    larger: int = 0


@dataclass(frozen=True)
class Measured:
    """The positions of a run, window by window, and what it recomputed."""

    positions: tuple[NDArray[np.float64], ...]
    recomputed: float
    work: float

    @property
    def divergences(self) -> list[NDArray[np.float64]]:
        """Of the tokens that are not lost."""
        return [part[np.isfinite(part[:, 0]), 0] for part in self.positions]

    def mean(self) -> Estimate:
        """The mean divergence."""
        kept = self.divergences
        return ratio(np.array([x.sum() for x in kept]), np.array([float(len(x)) for x in kept]))


@dataclass(frozen=True)
class Row:
    """A run to be told of: what it is called, and which rule it is compared with."""

    machine: str
    rule: str
    found: Measured
    beside: str = ""
    other: Measured | None = None


# --- a model on a text ----------------------------------------------------------------------------


class Study:
    """A model on windows of a text; its runs are kept in a folder."""

    def __init__(self, name: str, text: str, length: int, count: int, folder: Path) -> None:
        self.name, self.text, self.length, self.count = name, text, length, count
        self.folder = folder / f"{name}-{text}-{count}x{length}"
        self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def windows(self) -> NDArray[np.int64]:
        """Spread over the first three quarters of the text, behind what begins texts."""
        text = Source(self.text, tokens=None).read(loaded(self.name))
        found = spread_windows(text.tokens[: int(USED * len(text.tokens))], self.length, self.count)
        begins = np.array([text.begins] * len(found), np.int64).reshape(len(found), -1)
        return np.hstack([begins, found])

    @functools.cached_property
    def reference(self) -> NDArray[np.float64]:
        """The logits in float64."""
        return reference_logits(loaded(self.name).with_hardware("fp64"), self.windows)

    def run(self, machine: str | Hardware, rules: Sequence[LAMP] = ()) -> Measured:
        """A run, from the folder if it is there."""
        called = machine if isinstance(machine, str) else machine.name
        key = re.sub(r"[^\w.%=-]+", "_", "+".join([called, *map(str, rules)]))
        path = self.folder / f"{key}.npz"
        if not path.exists():
            totals = Totals()
            model = loaded(self.name).with_hardware(machine, list(rules) or None)
            with np.errstate(invalid="ignore"):
                for logits, window in zip(
                    self.reference, as_windows(self.windows, None, None), strict=True
                ):
                    totals.add(logits, model.forward(window.tokens), window)
            metrics = totals.metrics()
            shares = metrics.recomputation_rate, metrics.high_precision_share
            np.savez(path, positions=np.stack(totals.positions), shares=np.array(shares))
        with np.load(path) as found:
            return Measured(tuple(found["positions"]), *map(float, found["shares"]))

    def at_rate(
        self, machine: str | Hardware, options: Mapping[str, Any], rate: float, start: float
    ) -> tuple[Measured, float]:
        """A rule whose tau recomputes a share, and the logarithm of that tau: a secant's search."""
        floor = 1.0 if options["rule"] == "normwise" else 0.0
        seen: list[tuple[float, float, Measured]] = []
        place = start
        for _ in range(8):
            found = self.run(machine, [LAMP(**options, tau=floor + round_to_digits(place))])
            off = math.log(max(found.recomputed, 1e-6) / rate)
            seen.append((place, off, found))
            if abs(off) < NEAR:
                break
            slope = -1.0
            if len(seen) > 1 and off != seen[-2][1]:
                slope = (off - seen[-2][1]) / (place - seen[-2][0])
            place -= float(np.clip(off / (slope if slope < -0.05 else -1.0), -3.0, 3.0))
            if floor:
                place = min(place, -1e-3)
        place, _, found = min(seen, key=lambda each: abs(each[1]))
        return found, place


def round_to_digits(logarithm: float) -> float:
    """The exponential in four digits, as it is written in a setting."""
    return float(f"{math.exp(logarithm):.4g}")


# --- what is claimed ------------------------------------------------------------------------------


def rates(study: Study) -> Iterator[Row]:
    """Rules at the rate of version 1's, per layer."""
    for mu in (4, 2, 7):
        machine = f"scores-ps{mu}"
        base = study.run(machine)
        yield Row(f"PS({mu})", NONE, base)
        for tau in (1.5, 1.2, 1.05):
            first = study.run(machine, [LAMP("normwise", tau=tau)])
            random = study.run(machine, [LAMP("random", tau=tau)])
            budget = float(f"{first.recomputed:.4g}")
            threshold = study.run(machine, [LAMP("total_variation", budget=budget, weights="abs")])
            names = [f"{name}, tau {tau}" for name in ("version 1", "random", "one threshold")]
            for name, found in zip(names, (first, random, threshold), strict=True):
                yield Row(f"PS({mu})", name, found, NONE, base)
            yield Row(f"PS({mu})", names[2], threshold, names[0], first)


def _scored(weights: str, rule: str = "total_variation") -> dict[str, Any]:
    return {"rule": rule, "weights": weights}


BY_MODEL: Final = {
    "version 1": {"rule": "normwise"},
    "z(1-z)": {"rule": "total_variation"},
    "|y| z(1-z)": _scored("abs"),
    "norms z(1-z)": _scored("norms"),
    "R2 z(1-z)": _scored("running_2"),
    "R2**2 z(1-z)": _scored("running_2", "kl"),
    "R2 z |v-o|": _scored("running_2", "value_aware"),
}
STARTS: dict[tuple[str, str, float], float] = {}  # where the search ended on another text


def _by_rate(study: Study, machine: str | Hardware, called: str, rule: str) -> Iterator[Any]:
    """A rule at each rate, beginning where the last search ended."""
    last = -1.0
    for rate in RATES:
        start = STARTS.get((called, rule, rate), last)
        found, last = study.at_rate(machine, BY_MODEL[rule], rate, start)
        STARTS[called, rule, rate] = last
        yield rate, found


def rules(study: Study) -> Iterator[Row]:
    """One threshold for the model, by various scores."""
    machine = "scores-ps4"
    base = study.run(machine)
    yield Row("PS(4)", NONE, base)
    found = {rule: dict(_by_rate(study, machine, machine, rule)) for rule in BY_MODEL}
    for rate in RATES:
        share = LAMP("total_variation", budget=rate)
        layers = study.run(machine, [share])
        yield Row("PS(4)", f"z(1-z), layer, {rate:.0%}", layers, NONE, base)
        for rule, each in found.items():
            yield Row("PS(4)", f"{rule}, {rate:.0%}", each[rate], NONE, base)
        for rule, other in (
            ("z(1-z)", "version 1"), ("R2 z(1-z)", "z(1-z)"), ("R2 z(1-z)", "|y| z(1-z)"),
            ("R2**2 z(1-z)", "R2 z(1-z)"), ("R2 z |v-o|", "R2 z(1-z)"),
        ):  # fmt: skip
            pair = found[rule][rate], found[other][rate]
            yield Row("PS(4)", f"{rule}, {rate:.0%}", pair[0], f"{other}, {rate:.0%}", pair[1])
        pair = found["z(1-z)"][rate], layers
        yield Row("PS(4)", f"z(1-z), {rate:.0%}", pair[0], f"z(1-z), layer, {rate:.0%}", pair[1])


ORDERS: Final = {
    "blocks of 8": fpemu.Blocked("e8m4", 8, "e8m4"),
    "pairwise": fpemu.Pairwise("e8m4"),
}


def orders(study: Study) -> Iterator[Row]:
    """Other orders of summation beside sums term after term without recomputation."""
    base = study.run("scores-ps4")
    yield Row("PS(4)", NONE, base)
    for order, accumulator in ORDERS.items():
        machine = Hardware(f"scores-ps4 {order}", scores=accumulator)
        called = f"PS(4), {order}"
        yield Row(called, NONE, study.run(machine), NONE, base)
        for rate, found in _by_rate(study, machine, called, "R2**2 z(1-z)"):
            yield Row(called, f"R2**2 z(1-z), {rate:.0%}", found, NONE, base)


@functools.lru_cache(maxsize=1)
def _calibration(name: str) -> tuple[Any, Text]:
    model = loaded(name)
    tokens = model.encode(checkpoints.read_text())
    return model, Text(model, spread_windows(tokens[int(USED * len(tokens)) :], 128, 2))


@functools.lru_cache
def budgets(name: str, machine: str, folder: Path) -> dict[float, dict[str, float]]:
    """The budgets of the places for two shares of the work, found on the calibration text."""
    path = folder / f"budgets-{name}-{machine}.json"
    if not path.exists():
        model, text = _calibration(name)
        allocation = Allocation(model, name, machine, text, text)
        alone = {
            place: [allocation._isolated(place, level) for level in LEVELS] for place in PLACES
        }
        path.write_text(json.dumps([allocation._best(alone, share) for share in (0.01, 0.1)]))
    return dict(zip((0.01, 0.1), json.loads(path.read_text()), strict=True))


def places(study: Study) -> Iterator[Row]:
    """Where all products are in low precision."""
    for machine in ("ps4", "ps7"):
        called = machine.upper().replace("PS", "PS(") + "), all products"
        base = study.run(machine)
        yield Row(called, NONE, base)
        chosen = {
            "scores, 30%": {"softmax": 0.3},
            "logits, 1%": {"logits": 0.01},
            **{
                f"all places, {share:.0%} of the work": each
                for share, each in budgets(study.name, machine, study.folder.parent).items()
            },
        }
        runs = {name: study.run(machine, settings(each)) for name, each in chosen.items()}
        for name, found in runs.items():
            yield Row(called, name, found, NONE, base)
        for name in list(runs)[2:]:
            yield Row(called, name, runs[name], "scores, 30%", runs["scores, 30%"])


def overflow(study: Study) -> Iterator[Row]:
    """Operands in e4m3 without scales."""
    machine = OVERFLOWING["operands in e4m3"]
    only = [LAMP(RULES[place], tau=NEVER, on=place) for place in PLACES]
    saved = study.run(machine, only)
    more = study.run(machine, settings(dict.fromkeys(PLACES, 0.03)))
    yield Row(machine.name, NONE, study.run(machine))
    yield Row(machine.name, "overflowed components", saved)
    yield Row(machine.name, "and 3% more", more, "overflowed components", saved)


def depth(study: Study) -> Iterator[Row]:
    """The relative error of the residual stream behind the last layer, beside the first."""
    for machine in ("fp32", "bf16", "ps7", "hopper-fp8"):
        path = study.folder / f"depth-{machine}.npy"
        if not path.exists():
            model = loaded(study.name).with_hardware(machine)
            np.save(path, np.stack([model.depth_map(each).relative for each in study.windows]))
        errors = np.load(path)  # windows, layers, tokens
        first, last = (
            Measured(tuple(np.median(part, axis=1)[:, None, None]), 0.0, 0.0)
            for part in (errors[:, 1], errors[:, -1])
        )
        yield Row(machine, "behind the last layer", last, "behind the first layer", first)


def weights(study: Study) -> Iterator[Row]:
    """How well each weight tells the errors of scores in PS(4), on the first window."""
    path = study.folder / "weights.json"
    if not path.exists():
        found: dict[str, list[float]] = {}
        for recorded in record(loaded(study.name), study.windows[0]):
            heads = Heads(*recorded, fpemu.Sequential("e8m4"))
            causal = np.broadcast_to(np.tri(heads.length, dtype=bool), heads.low.shape)
            truth = ranks(heads.weights.pop("true errors")[causal])
            for name, weight in heads.weights.items():
                if name != "one":
                    correlation = np.corrcoef(ranks(weight[causal]), truth)[0, 1]
                    found.setdefault(name, []).append(float(correlation))
        path.write_text(json.dumps({name: float(np.mean(each)) for name, each in found.items()}))
    for name, correlation in json.loads(path.read_text()).items():
        yield Row("PS(4)", name, Measured((np.array([[correlation]]),), 0.0, 0.0))


LOOK_AHEAD: Final[Mapping[str, list[LAMP]]] = {
    "scores, strict, 1%": [LAMP("strict", budget=0.01)],
    "scores, relaxed, 1%": [LAMP("relaxed", budget=0.01)],
    "scores, strict, 10%": [LAMP("strict", budget=0.1)],
    "scores, activations and logits, 1%": [
        LAMP("strict", budget=0.01),
        LAMP("activation", budget=0.01),
        LAMP("total_variation", budget=0.01, on="logits"),
    ],
}
ONE, _RELAXED, _TEN, ALL_PLACES = LOOK_AHEAD
NARROW: Final = {
    "hopper-fp8": (ALL_PLACES,),
    "mxfp8": (ALL_PLACES,),
    "nvfp4": (ALL_PLACES,),
    "ps4": (ONE, _RELAXED, ALL_PLACES),
    "scores-ps4": (ONE, _RELAXED, _TEN),
}
"""Machines, and what is recomputed on each; the first three have their scores in bfloat16."""


def machines(study: Study) -> Iterator[Row]:
    """Machines of narrow formats, without and with look-ahead."""
    for machine, chosen in NARROW.items():
        base = study.run(machine)
        yield Row(machine, NONE, base)
        for name in chosen:
            yield Row(machine, name, study.run(machine, LOOK_AHEAD[name]), NONE, base)


@dataclass(frozen=True)
class Group:
    """Which rows, of which model, in windows of which length."""

    rows: Callable[[Study], Iterator[Row]]
    model: str = "embedded"
    length: int = 256
    windows: int | None = None


GROUPS: Final = {
    "rates": Group(rates),
    "places": Group(places),
    "rules": Group(rules),
    "orders": Group(orders),
    "overflow": Group(overflow, "smollm2", 64, 2),
    "depth": Group(depth, length=64),
    "weights": Group(weights, windows=1),
    "machines": Group(machines, "smollm2", 128, 1),
    "gemma": Group(machines, GEMMA, 128, 1),
}


# --- results --------------------------------------------------------------------------------------


def _logs(row: Row) -> list[float]:
    """The logarithm of how many times smaller the divergence of each window is."""
    assert row.other is not None
    pairs = zip(row.other.divergences, row.found.divergences, strict=True)
    return [math.log(a.mean() / b.mean()) for a, b in pairs]


def on_text(group: str, study: Study, row: Row) -> Claimed:
    """A row on one text."""
    positions = np.concatenate(row.found.positions)
    average = row.found.mean()
    facts: dict[str, Any] = {}
    if row.other is not None:
        facts = dict(zip(("times", "low", "high"), geometric(_logs(row)), strict=True))
        if [len(x) for x in row.found.divergences] == [len(x) for x in row.other.divergences]:
            low, high = paired(row.other.divergences, row.found.divergences).interval()
            facts |= {"smaller": int(high < 0.0), "larger": int(low > 0.0)}
    column = positions[:, 1] if positions.shape[1] > 1 else np.array([math.nan])
    return Claimed(
        group, study.name, row.machine, row.rule, study.text, len(positions),
        len(row.found.positions), average.value, average.error, float(np.mean(column)),
        float(np.mean(~np.isfinite(positions[:, 0]))), row.found.recomputed, row.found.work,
        row.beside, **facts,
    )  # fmt: skip


def on_all(rows: Sequence[Claimed]) -> Claimed:
    """A row on all texts: means over them, and intervals from them."""
    first = rows[0]
    value, error = mean([row.value for row in rows])
    means = {
        name: float(np.mean([getattr(row, name) for row in rows]))
        for name in ("flips", "lost", "recomputed", "work")
    }
    facts: dict[str, Any] = {}
    if first.beside:
        logs = [math.log(row.times) for row in rows]
        facts = dict(zip(("times", "low", "high"), geometric(logs), strict=True))
    return Claimed(
        first.group, first.model, first.machine, first.rule, ALL,
        sum(row.tokens for row in rows), sum(row.windows for row in rows), value, error,
        **means, beside=first.beside, **facts,
        smaller=sum(row.smaller for row in rows), larger=sum(row.larger for row in rows),
    )  # fmt: skip


def claimed(name: str, windows: int, folder: Path) -> Iterator[Claimed]:
    """All rows of a group: on each text, then on all."""
    group = GROUPS[name]
    count = group.windows or windows
    by_text = []
    for text in TEXTS:
        study = Study(group.model, text, group.length, count, folder)
        by_text.append([on_text(name, study, row) for row in group.rows(study)])
        print(f"{name}: {text}", flush=True)
    for rows in zip(*by_text, strict=True):
        yield from (*rows, on_all(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--windows", type=int, default=4, help="of each text")
    parser.add_argument("--runs", type=Path, default=Path("claims"), help="the folder of the runs")
    parser.add_argument("--output", type=Path, default=Path("claims.csv"))
    options = parser.parse_args(arguments)
    rows = [row for row in read(options.output, Claimed) if row.group not in options.groups]
    for name in options.groups:
        rows += claimed(name, options.windows, options.runs)
        write(options.output, rows)


if __name__ == "__main__":
    main()
