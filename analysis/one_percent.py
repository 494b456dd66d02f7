"""What can be had at 1%: order of summation, rule, rate and format, on three models.

    python analysis/one_percent.py [--models embedded smollm2] [--windows 6] [--jobs 2] [--output .]
    LAMP_GEMMA3=FOLDER python analysis/one_percent.py --models gemma3-270m ...
    python analysis/one_percent.py --levels ...

The scores of all layers are summed in a small format, a share of them is recomputed in float32, and
the Kullback-Leibler divergence of the next-token distributions is taken against the same model in
float64, window by window.  The ascending orders and the thresholds of all rules, one for the whole
model, are found on a calibration text that is not the test text; the shares that come out on the
test text are reported, not those asked for.  "true errors" are rules whose weights are the errors
themselves: the limit of what weights can do.  Windows begin with the tokens that the tokenizer puts
in front of a text, if any.

Writes one_percent.csv, a line for each window of each run, and one_percent_limits.csv, what a
perfect ordering would leave; a second call does what is missing alone.  Prints tables in Markdown
and draws one_percent.svg.

With --levels, scores are recomputed in one or two precisions by the KL score, at the cost in bits
of accumulators that a rate of recomputation in float32 has; writes one_percent_levels.csv.
"""

from __future__ import annotations

import argparse
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from over_texts import FOLDERS, GEMMA, append, geometric, loaded, read
from rich.console import Console
from rich.progress import Progress

import fpemu
import lamp
from lamp import LAMP, Hardware, Metrics, Product
from lamp.evaluation import Estimate, Source, evaluate, reference_logits
from lamp.evaluation.uncertainty import ratio
from lamp.lookahead import value_distances
from lamp.studies import spread_windows

RATES: Final = (0.01, 0.03, 0.003, 0.1)  # in the order in which they are run
FORMATS: Final = {
    "PS(4)": "e8m4",
    "PS(2)": "e8m2",
    "PS(7)": "e8m7",
    "e4m3": "float8_e4m3fn",
    "e5m2": "float8_e5m2",
}
SATURATING: Final = fpemu.Rounding("rne", "saturate")
ORDERS: Final[dict[str, tuple[Callable[[str], fpemu.Accumulator], str | None]]] = {
    "sequential": (lambda f: fpemu.Sequential(f, SATURATING), None),
    "ascending": (lambda f: fpemu.Sequential(f, SATURATING), "ascending"),
    "blocks of 8": (lambda f: _blocks(f), None),
    "pairwise": (lambda f: fpemu.Pairwise(f, SATURATING), None),
    "ascending blocks": (lambda f: _blocks(f), "ascending"),
}
"""The accumulator of each order of summation, and the order of the channels."""

LEVELS: Final[dict[str, tuple[tuple[str, ...], tuple[float, ...]]]] = {
    "float32": (("float32",), (1.0,)),
    "PS(10)": (("e8m10",), (1.0,)),
    "PS(7)": (("e8m7",), (1.0,)),
    "PS(10), float32": (("e8m10", "float32"), (0.5, 0.5)),
    "PS(7), PS(10)": (("e8m7", "e8m10"), (0.5, 0.5)),
    "PS(7), PS(10), best taus": (("e8m7", "e8m10"), ()),
    "PS(7), PS(10), float32, best taus": (("e8m7", "e8m10", "float32"), ()),
}
"""The precisions to recompute in, the lowest first, and the share of the cost of each; none where
it follows from the taus that are best by the model of errors."""

CALIBRATION: Final = 0.25  # the last part of a text, on which orders and thresholds are found
MODELS: Final = {"embedded": 256, "smollm2": 128, GEMMA: 128}  # and the tokens of their windows
TARGET: Final = 100.0
FILES: Final = ("one_percent.csv", "one_percent_limits.csv")
LEVEL_FILES: Final = ("one_percent_levels.csv",)


def _blocks(format: str) -> fpemu.Accumulator:
    return fpemu.Blocked(format, 8, fpemu.Sequential(format, SATURATING), SATURATING)


# --- rules ----------------------------------------------------------------------------------------


class Known(NamedTuple):
    """What rules know of a layer's scores, and the errors, which no rule knows.

    All have the shape (heads, rows, tokens), but for the keys that each row sees, (rows, tokens);
    distances are those of values from the output.
    """

    y: NDArray[np.float64]
    z: NDArray[np.float64]
    running: NDArray[np.float64]
    errors: NDArray[np.float64]
    distances: NDArray[np.float64]
    seen: NDArray[np.bool_]

    @classmethod
    def of(cls, steps: Mapping[str, NDArray[Any]]) -> Known:
        """What is known of a layer by the steps of :meth:`lamp.GPT2.trace` with a rule."""
        low, high, running, z, value = (
            steps[name].astype(np.float64)
            for name in ("low_scores", "high_scores", "error_weights", "probabilities", "value")
        )
        value = np.repeat(value, len(z) // len(value), axis=0)
        errors = np.abs(low - high)
        return cls(low, z, running, errors, value_distances(z, value), steps["seen"])


@dataclass(frozen=True)
class Rule:
    """A rule, and the score that its tau is a threshold of."""

    options: dict[str, Any]
    score: Callable[[Known], NDArray[np.float64]]
    per_layer: bool = False  # whether it has a budget a layer in place of a tau of the model


def _normwise(known: Known) -> NDArray[np.float64]:
    """2 less the sum of the larger probabilities of the row: what version 1 compares with tau."""
    down = -np.sort(-known.z, axis=-1)
    before = np.cumsum(down, axis=-1) - down
    places = np.argsort(np.argsort(-known.z, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.asarray(2.0 - np.take_along_axis(before, places, axis=-1))


def _relaxed(known: Known) -> NDArray[np.float64]:
    """``|y| exp(y)`` over the largest of the row."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(known.y)) + known.y  # -inf for keys that a row does not see: y is 0
    return np.asarray(np.exp(logs - logs.max(axis=-1, keepdims=True)))


def _spread(known: Known) -> NDArray[np.float64]:
    return known.z * (1.0 - known.z)


RULES: Final = {
    "version 1": Rule({"rule": "normwise"}, _normwise),
    "relaxed": Rule({"rule": "relaxed"}, _relaxed),
    "strict": Rule({"rule": "strict"}, lambda known: 2 * _spread(known) * np.abs(known.y)),
    "R2 weights": Rule(
        {"rule": "total_variation", "weights": "running_2"},
        lambda known: _spread(known) * known.running,
    ),
    "KL score": Rule(
        {"rule": "kl", "weights": "running_2"}, lambda known: _spread(known) * known.running**2
    ),
    "KL score, a layer": Rule(
        {"rule": "kl", "weights": "running_2"},
        lambda known: _spread(known) * known.running**2,
        per_layer=True,
    ),
    "value-aware": Rule(
        {"rule": "value_aware", "weights": "running_2"},
        lambda known: known.distances * known.z * known.running,
    ),
    "true errors, KL score": Rule(
        {"rule": "kl", "weights": "errors"}, lambda known: _spread(known) * known.errors**2
    ),
    "true errors, value-aware": Rule(
        {"rule": "value_aware", "weights": "errors"},
        lambda known: known.distances * known.z * known.errors,
    ),
}
LOOKING: Final = LAMP("kl", weights="running_2", tau=1e30)  # no score is above it
IN_PRACTICE: Final = tuple(name for name in RULES if not name.startswith("true"))


# --- a model on a machine -------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """A model on a machine: what the runs of all rules and rates have in common."""

    model: str
    format: str
    order: str


@dataclass(frozen=True)
class Row:
    """A window of a run."""

    model: str
    format: str
    order: str
    rule: str
    rate: float  # asked for; 0 without recomputation
    window: int
    recomputed: float
    kl: float  # nats per token
    flips: float


@dataclass(frozen=True)
class Level:
    """A window of a run with one or several precisions to recompute in."""

    model: str
    format: str
    order: str
    levels: str
    rate: float  # of float32, whose cost was asked for
    window: int
    bits: float  # of the accumulators of recomputed scores, over those of the low ones
    kl: float
    flips: float


@dataclass(frozen=True)
class Limit:
    """The share of all ``z (1 - z) e**2`` that a rule leaves on the calibration text."""

    model: str
    format: str
    order: str
    rule: str
    rate: float
    left: float


@dataclass(frozen=True)
class Texts:
    """A model in float32, its windows for tests and for calibration, and the reference's logits."""

    model: Any
    windows: NDArray[np.int64]
    calibration: NDArray[np.int64]
    reference: NDArray[np.float64]

    @classmethod
    def of(
        cls, model: Any, tokens: Any, length: int, windows: int, begins: Sequence[int] = ()
    ) -> Texts:
        """Windows spread over the text before its last part, and four over its last part.

        Each is behind the tokens that begin texts.
        """
        end = round(len(tokens) * (1.0 - CALIBRATION))
        tests, last = (
            np.insert(spread_windows(part, length, count), [0] * len(begins), begins, axis=1)
            for part, count in ((tokens[:end], windows), (tokens[end:], 4))
        )
        return cls(model, tests, last, reference_logits(model.with_hardware("fp64"), tests))


@functools.lru_cache(maxsize=1)
def texts(name: str, windows: int, length: int) -> Texts:
    """The texts of a model by name: those of the sample that comes with the embedded model."""
    model = loaded(name)
    text = Source("held-out", tokens=None).read(model)
    return Texts.of(model, text.tokens, length, windows, text.begins)


def machine(group: Group, given: Texts) -> Hardware:
    """The machine of a group, its channels in order."""
    accumulator, order = ORDERS[group.order]
    step = Product(accumulator(FORMATS[group.format]), order=order, rounding=SATURATING)
    found = Hardware(f"{group.format} {group.order}", scores=step)
    return found if order is None else lamp.calibrated(found, given.model, given.calibration)


class Observer:
    """Collects the scores of all rules of every layer in a forward pass, as flat arrays."""

    def __init__(self) -> None:
        self.scores: dict[str, list[NDArray[np.float32]]] = {name: [] for name in RULES}
        self._steps: dict[str, NDArray[Any]] = {}

    def __call__(self, step: str, layer: int, numbers: NDArray[Any]) -> None:
        self._steps[step] = numbers
        if step == "probabilities":
            known = Known.of(self._steps)
            for name, rule in RULES.items():
                flat = rule.score(known)[:, known.seen].astype(np.float32).ravel()
                self.scores[name].append(flat)


def known_scores(hardware: Hardware, given: Texts) -> dict[str, NDArray[np.float32]]:
    """The scores of all rules of all pairs of the calibration text, none of them recomputed."""
    observer = Observer()
    model = given.model.with_hardware(hardware, LOOKING)
    for window in given.calibration:
        model._forward(window, None, observer)
    return {rule: np.concatenate(parts) for rule, parts in observer.scores.items()}


def threshold(scores: NDArray[np.float32], rate: float) -> float:
    """The score that a share of the scores lies above; scores that are NaN lie above all."""
    descending = -np.sort(-scores)  # NaN comes last
    missing = int(np.count_nonzero(np.isnan(scores)))
    place = round(rate * len(scores)) - missing
    return float(descending[max(place, 0)])


def left(by: NDArray[np.float32], of: NDArray[np.float32], rate: float) -> float:
    """The share of the sum `of` that is left when the largest `by` are taken away."""
    kept = np.argsort(-by, kind="stable")[round(rate * len(by)) :]
    return float(of[kept].sum(dtype=np.float64) / of.sum(dtype=np.float64))


def settings(rule: Rule, scores: NDArray[np.float32], rate: float) -> LAMP | None:
    """A rule at a rate; None where it can take no such share, such as less than one of each row."""
    if rule.per_layer:
        return LAMP(**rule.options, budget=rate)
    tau = threshold(scores, rate)
    return None if tau >= float(np.nanmax(scores)) else LAMP(**rule.options, tau=tau)


def run(
    group: Group, given: Texts, rates: Sequence[float], rules: Sequence[str] = tuple(RULES)
) -> tuple[list[Row], list[Limit]]:
    """The runs of a group by some rules at some rates, and without recomputation."""
    hardware = machine(group, given)
    scores = known_scores(hardware, given)
    truth = scores["true errors, KL score"]
    limits = [
        Limit(**asdict(group), rule=name, rate=rate, left=left(scores[name], truth, rate))
        for name in rules
        for rate in rates
    ]
    plans: list[tuple[str, float, LAMP | None]] = [("none", 0.0, None)]
    for rate in rates:
        for name in rules:
            chosen = settings(RULES[name], scores[name], rate)
            if chosen is not None:
                plans.append((name, rate, chosen))
    rows = []
    for name, rate, chosen in plans:
        model = given.model.with_hardware(hardware, chosen)
        for index, (logits, window) in enumerate(zip(given.reference, given.windows, strict=True)):
            found = evaluate(logits, model, window)
            facts = found.recomputation_rate, found.kl, found.flip_rate
            rows.append(Row(group.model, group.format, group.order, name, rate, index, *facts))
    return rows, limits


def taus_of(name: str, scores: NDArray[np.float32], rate: float, low: str) -> list[float]:
    """The taus of precisions with which they cost as many bits as a rate of scores in float32.

    By the model, a precision with the unit roundoff u leaves u**2 of a KL score.  A precision costs
    ``c`` bits more than the one before and leaves ``e`` less: it is worth it where a score times e
    exceeds c times some constant, which is the tau of all.
    """
    formats, shares = LEVELS[name]
    bits = np.array([0, *(fpemu.format(each).bits for each in formats)])
    if shares:
        rates = [part * rate * 32 / own for part, own in zip(shares, bits[1:], strict=True)]
        return [threshold(scores, sum(rates[level:])) for level in range(len(rates))]
    left = np.array([4.0 ** -fpemu.format(each).precision for each in (low, *formats)])
    ratios = np.diff(bits) / -np.diff(left)
    assert (np.diff(ratios) > 0).all(), "a precision that is never worth it"
    ascending = np.sort(scores)  # NaN comes last, above all numbers
    least, most = 1e-30, float(np.nanmax(scores))
    for _ in range(100):
        tau = math.sqrt(least * most)
        above = 1 - np.searchsorted(ascending, tau * ratios / ratios[0], "right") / len(scores)
        least, most = (least, tau) if above @ np.diff(bits) < 32 * rate else (tau, most)
    return [float(tau) for tau in most * ratios / ratios[0]]


def cost(found: Metrics, hardware: Hardware) -> float:
    """The bits of the accumulators of recomputed scores over those of the low ones."""
    if "scores_bits" in found.step_rates:
        return float(np.mean(found.step_rates["scores_bits"]))  # of layers of one size
    widths = (step.accumulator.format.bits for step in (hardware.recomputed, hardware.scores))
    return float(found.recomputation_rate) * operator.truediv(*widths)


def run_levels(group: Group, given: Texts, rates: Sequence[float]) -> tuple[list[Level]]:
    """All runs of a group with one or several precisions to recompute in."""
    hardware = machine(group, given)
    scores = known_scores(hardware, given)["KL score"]
    rows = []
    for rate in rates:
        for name, (formats, _) in LEVELS.items():
            taus = taus_of(name, scores, rate, FORMATS[group.format])
            chosen = LAMP("kl", tau=tuple(taus), weights="running_2")
            again = replace(hardware, recomputed=formats)
            model = given.model.with_hardware(again, chosen)
            for index, (logits, window) in enumerate(
                zip(given.reference, given.windows, strict=True)
            ):
                found = evaluate(logits, model, window)
                bits = cost(found, again)
                facts = group.model, group.format, group.order, name, rate, index
                rows.append(Level(*facts, bits, found.kl, found.flip_rate))
    return (rows,)


def task(group: Group, rates: tuple[float, ...], options: argparse.Namespace) -> Any:
    """A group in a process of its own."""
    length = options.length or MODELS[group.model]
    given = texts(group.model, options.windows, length)
    if options.levels:
        return run_levels(group, given, rates)
    return run(group, given, rates, options.rules)


# --- results --------------------------------------------------------------------------------------


class Found:
    """Runs by their settings: divergences and shares of their windows."""

    def __init__(self, rows: Iterable[Row | Level]) -> None:
        self.runs: dict[tuple[str, str, str, str, float], list[Any]] = {}
        for row in sorted(rows, key=lambda row: row.window):
            how = row.rule if isinstance(row, Row) else row.levels
            key = row.model, row.format, row.order, how, row.rate
            self.runs.setdefault(key, []).append(row)

    def __contains__(self, key: Any) -> bool:
        return key in self.runs

    def models(self) -> list[str]:
        """The models, in the order of MODELS."""
        here = {key[0] for key in self.runs}
        return [name for name in MODELS if name in here]

    def kl(self, *key: Any) -> Estimate:
        """The mean divergence of a run and its standard error, from the windows."""
        numbers = np.array([row.kl for row in self.runs[key]])
        return ratio(numbers, np.ones(len(numbers)))

    def recomputed(self, *key: Any) -> float:
        """The share that a run recomputed."""
        return float(np.mean([row.recomputed for row in self.runs[key]]))

    def gain(self, base: Any, key: Any) -> tuple[float, float, float]:
        """How many times smaller a divergence is than another's, and a 95% interval.

        The geometric mean over windows; the interval is Student's, of the differences of the
        logarithms, window by window.
        """
        pairs = zip(self.runs[base], self.runs[key], strict=True)
        return geometric([math.log(a.kl / b.kl) for a, b in pairs])

    def best(self, model: str, format: str, order: str, rate: float) -> str | None:
        """The rule with the smallest mean divergence of those that hardware could have."""
        here = [name for name in IN_PRACTICE if (model, format, order, name, rate) in self]
        runs = {name: self.kl(model, format, order, name, rate).value for name in here}
        return min(runs, key=lambda name: runs[name], default=None)


def _shown(gain: tuple[float, float, float]) -> str:
    value, low, high = (f"{x:.3g}" for x in gain)
    return f"{value} [{low}, {high}]"


def order_table(found: Found, model: str, format: str, rate: float) -> Iterator[str]:
    """Lines of Markdown: the orders of summation and the rules of one model, format and rate."""
    rules = [name for name in RULES if (model, format, "sequential", name, rate) in found]
    yield "| order of summation | without | " + " | ".join(rules) + " |"
    yield "|---" * (len(rules) + 2) + "|"
    for order in ORDERS:
        base = model, format, order, "none", 0.0
        if base not in found:
            continue
        cells = [f"{found.kl(*base).value:.2e} ± {found.kl(*base).error:.0e}"]
        for rule in rules:
            key = model, format, order, rule, rate
            if key in found:
                gain = _shown(found.gain(base, key))
                cells.append(f"{found.kl(*key).value:.1e}, {gain} at {found.recomputed(*key):.2%}")
            else:
                cells.append("-")
        yield f"| {order} | " + " | ".join(cells) + " |"


def best_table(found: Found, rate: float) -> Iterator[str]:
    """Lines of Markdown: the best rule and order of each model and format at one rate."""
    yield (
        "| model | format | sequential, without | best order | rule | KL | recomputed "
        "| times below the same order without | below sequential without | with true errors |"
    )
    yield "|---" * 10 + "|"
    for model in found.models():
        for format in FORMATS:
            start = model, format, "sequential", "none", 0.0
            ends = [
                (model, format, order, rule, rate)
                for order in ORDERS
                if (rule := found.best(model, format, order, rate)) is not None
            ]
            if start not in found or not ends:
                continue
            key = min(ends, key=lambda each: found.kl(*each).value)
            same = (*key[:3], "none", 0.0)
            limits = [
                found.gain(start, (*key[:3], rule, rate))
                for rule in RULES
                if rule not in IN_PRACTICE and (*key[:3], rule, rate) in found
            ]
            yield (
                f"| {model} | {format} | {found.kl(*start).value:.2e} | {key[2]} | {key[3]} "
                f"| {found.kl(*key).value:.2e} ± {found.kl(*key).error:.0e} "
                f"| {found.recomputed(*key):.2%} | {_shown(found.gain(same, key))} "
                f"| {_shown(found.gain(start, key))} | {_shown(max(limits)) if limits else '-'} |"
            )


def level_table(found: Found) -> Iterator[str]:
    """Lines of Markdown: precisions to recompute in, beside float32 at the same cost in bits."""
    last = "the last, below PS(10) alone"
    yield "| model | order of summation | cost | " + " | ".join([*LEVELS, last]) + " |"
    yield "|---" * (len(LEVELS) + 4) + "|"
    for model, format, order, how, rate in sorted(found.runs, key=str):
        base = model, format, order, "float32", rate
        if how != "float32":
            continue
        cells = []
        for name in LEVELS:
            key = *base[:3], name, rate
            bits = np.mean([row.bits for row in found.runs[key]])
            gain = "" if key == base else f", {_shown(found.gain(base, key))}"
            cells.append(
                f"{found.kl(*key).value:.2e} ± {found.kl(*key).error:.0e}{gain}, {bits:.2%}"
            )
        third = found.gain((*base[:3], "PS(10)", rate), (*base[:3], [*LEVELS][-1], rate))
        cells.append(_shown(third))
        yield f"| {model} | {order} | {rate:.1%} | " + " | ".join(cells) + " |"


# --- the figure -----------------------------------------------------------------------------------

CURVES: Final = (
    ("sequential", "version 1", "#999999", "o", "version 1 of the paper, sequential sums"),
    ("sequential", "relaxed", "#d55e00", "^", "version 2, relaxed, sequential sums"),
    ("sequential", "KL score", "#0072b2", "s", "KL score, sequential sums"),
    ("ascending", "KL score", "#56b4e9", "D", "KL score, channels ascending"),
    ("ascending blocks", "KL score", "#009e73", "v", "KL score, ascending blocks of 8"),
    ("ascending blocks", "true errors, KL score", "#000000", "*", "errors known, ascending blocks"),
)


def draw(found: Found, path: Path, format: str = "PS(4)") -> None:
    """How many times smaller divergences are, against the share recomputed; a panel a model.

    Models that were measured at one rate alone have no curves and no panel; without any there is
    no figure.
    """
    rates = {(key[0], key[4]) for key in found.runs if key[1] == format and key[4] > 0}
    models = [each for each in found.models() if sum(name == each for name, _ in rates) > 1]
    if not models:
        return
    figure = Figure(figsize=(4.7 * len(models), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    for axes, model in zip(panels, models, strict=True):
        start = model, format, "sequential", "none", 0.0
        for order, rule, colour, marker, label in CURVES:
            keys = [(model, format, order, rule, rate) for rate in sorted(RATES)]
            keys = [key for key in keys if key in found]
            if not keys or start not in found:
                continue
            values, lows, highs = np.array([found.gain(start, key) for key in keys]).T
            axes.errorbar(
                [100 * found.recomputed(*key) for key in keys],
                values,
                (values - lows, highs - values),
                color=colour,
                marker=marker,
                ms=6,
                capsize=3,
                lw=1.6,
                ls="--" if rule.startswith("true") else "-",
                label=label,
            )
            base = (*keys[0][:3], "none", 0.0)
            if order != "sequential" and rule == "KL score":
                free = found.gain(start, base)[0]
                axes.axhline(free, color=colour, lw=0.9, ls=":")  # the order alone
        axes.plot(1.0, TARGET, "x", color="#cc0000", ms=12, mew=2.5)
        axes.annotate(
            "a hundredfold\nat 1%", (1.0, TARGET), (-8, -4), textcoords="offset points",
            ha="right", va="top", color="#cc0000",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("query-key products recomputed in float32, %")
        axes.set_title(model, loc="left", weight="bold")
        axes.set_xlim(0.25, 13)
        axes.set_xticks([0.3, 1, 3, 10], ["0.3", "1", "3", "10"])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("times smaller KL than sequential sums,\nnothing recomputed")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(
        f"Scores in {format}: what a share of recomputed products buys",
        x=0.01, ha="left", weight="bold",
    )  # fmt: skip
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = [name for name in MODELS if name not in FOLDERS]
    parser.add_argument("--models", nargs="+", default=here, choices=MODELS)
    parser.add_argument("--levels", action="store_true", help="recompute in several precisions")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, help="by default all; with --levels PS(4) alone"
    )
    parser.add_argument("--orders", nargs="+", default=list(ORDERS), choices=ORDERS)
    parser.add_argument(
        "--rules",
        nargs="+",
        default=list(RULES),
        choices=RULES,
        metavar="RULE",
        help="by default all",
    )
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--windows", type=int, default=6, help="test windows")
    parser.add_argument("--length", type=int, help="tokens of a window")
    parser.add_argument("--jobs", type=int, default=2, help="processes; 0 to show what there is")
    parser.add_argument("--output", type=Path, default=Path(), help="an existing folder")
    options = parser.parse_args(arguments)
    if not options.output.is_dir():
        parser.error(f"--output: there is no folder {options.output}")
    options.formats = options.formats or (["PS(4)"] if options.levels else list(FORMATS))
    if options.jobs:
        measure(options)
    console = Console(width=400, markup=False, emoji=False, highlight=False, soft_wrap=True)
    if options.levels:
        found = Found(unique(read(options.output / LEVEL_FILES[-1], Level)))
        console.print(*level_table(found), sep="\n")
    else:
        show(Found(unique(read(options.output / FILES[0], Row))), console, options.output)


def missing(options: argparse.Namespace, held: Iterable[Any]) -> dict[Group, tuple[float, ...]]:
    """The groups, and the rates of each, at which not all rules that are asked for are done."""
    done: dict[tuple[Group, float], set[str]] = {}
    for row in held:
        at = Group(row.model, row.format, row.order), row.rate
        done.setdefault(at, set()).add(row.levels if options.levels else row.rule)
    asked = {*(LEVELS if options.levels else options.rules)}
    wanted = {
        group: tuple(rate for rate in options.rates if asked - done.get((group, rate), set()))
        for format in options.formats
        for model in options.models
        for order in options.orders
        for group in (Group(model, format, order),)
    }
    return {group: rates for group, rates in wanted.items() if rates}


def measure(options: argparse.Namespace) -> None:
    """Do the runs that are asked for and missing in the files."""
    files = [options.output / name for name in (LEVEL_FILES if options.levels else FILES)]
    # The last file is written last: what it holds is done.
    wanted = missing(options, read(files[-1], Level if options.levels else Limit))
    processes = ProcessPoolExecutor(options.jobs, initializer=numba.set_num_threads, initargs=(1,))
    with processes as pool, Progress() as progress:
        bar = progress.add_task("runs", total=len(wanted))
        waiting = [pool.submit(task, group, rates, options) for group, rates in wanted.items()]
        for finished in as_completed(waiting):
            for file, rows in zip(files, finished.result(), strict=True):
                append(file, rows)
            progress.advance(bar)


def unique(rows: Sequence[Any]) -> Iterable[Any]:
    """The last row of each window of each run."""
    facts = {"model", "format", "order", "rule", "levels", "rate", "window"}
    held = {tuple(x for name, x in asdict(row).items() if name in facts): row for row in rows}
    return held.values()


def show(found: Found, console: Console, folder: Path) -> None:
    """Print the tables of all rules, and draw the figure."""
    for model in found.models():
        for format in FORMATS:
            for rate in sorted(RATES):
                lines = list(order_table(found, model, format, rate))
                if len(lines) > 2 and (model, format, "sequential", "KL score", rate) in found:
                    console.print(f"\n{model}, {format}, {rate:.1%} asked for\n", *lines, sep="\n")
    for rate in sorted(RATES):
        console.print(f"\nThe best at {rate:.1%}\n", *best_table(found, rate), sep="\n")
    draw(found, folder / "one_percent.svg")


if __name__ == "__main__":
    main()
