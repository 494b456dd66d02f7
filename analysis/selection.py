"""Which scores to recompute: rules at equal recomputation rates, on the embedded model.

    python analysis/selection.py [--windows 6] [--tokens 256] [--jobs 2] [--output .]

Two experiments.  In the model: the scores of all layers in a small format, a share of them
recomputed in float32, and the Kullback-Leibler divergence of the next-token distributions from the
same model in float64, window by window, with bootstrap confidence intervals; it takes apart what
the choice of the rows' shares, of the weights and their power, of values and sink columns and of
the order of summation contribute.  In a layer: what is left of the errors of z, of the attention
output and of the rows' divergence, by layer and head, also for the best choice knowing the true
errors.

Writes selection_model.csv, selection_layers.csv, selection_weights.csv (how well each weight tells
the true errors) and selection.png.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fpemu
import lamp
from lamp import LAMP, checkpoints
from lamp.evaluation.metrics import evaluate, reference_logits
from lamp.lookahead.selection import select_rows, value_distances
from lamp.models.attention import softmax
from lamp.studies import spread_windows

SEED = 2026
RATES = (0.01, 0.03, 0.1)
LAYER_RATE = 0.03
FORMATS = {
    **{f"PS({mu})": f"e8m{mu}" for mu in (2, 3, 4, 5, 6, 8, 10)},
    "fp8 e4m3": "float8_e4m3fn",
    "fp8 e5m2": "float8_e5m2",
}
BEST = "R2**2 z(1-z), model"

# How a rule is named, and its settings; those with "model" take one threshold for all layers, which
# is searched for; the others take the rate as a budget.
RULES: dict[str, dict[str, Any]] = {
    "random": {"rule": "random", "scope": "row"},
    "paper's rule, model": {"rule": "normwise"},
    "optimal normwise, model": {"rule": "normwise_optimal"},
    "z(1-z), row": {"rule": "total_variation", "scope": "row"},
    "z(1-z), layer": {"rule": "total_variation", "scope": "all"},
    "z(1-z), model": {"rule": "total_variation"},
    "|y| z(1-z), model": {"rule": "total_variation", "weights": "abs"},
    "|q||k| z(1-z), model": {"rule": "total_variation", "weights": "products"},
    "norms z(1-z), model": {"rule": "total_variation", "weights": "norms"},
    "R1 z(1-z), model": {"rule": "total_variation", "weights": "running_1"},
    "R2 z(1-z), model": {"rule": "total_variation", "weights": "running_2"},
    "|y|**2 z(1-z), model": {"rule": "kl", "weights": "abs"},
    "norms**2 z(1-z), model": {"rule": "kl", "weights": "norms"},
    BEST: {"rule": "kl", "weights": "running_2"},
    "R2**2 z(1-z), layer": {"rule": "kl", "weights": "running_2", "scope": "all"},
    "R2**2 z(1-z), row": {"rule": "kl", "weights": "running_2", "scope": "row"},
    "R2**2 z(1-z) and first column, model": {
        "rule": "kl",
        "weights": "running_2",
        "leading_columns": 1,
    },
    "R2 z |v-o|, model": {"rule": "value_aware", "weights": "running_2"},
    "|y| z |v-o|, model": {"rule": "value_aware", "weights": "abs"},
}
ELSEWHERE = ("random", "paper's rule, model", BEST, "R2 z(1-z), model", "R2 z |v-o|, model")
SHOWN = ("random", "paper's rule, model", "z(1-z), model", "|y| z(1-z), model", BEST)
COLOURS = ("#999999", "#d55e00", "#e69f00", "#0072b2", "#009e73")
ORDERS: dict[str, Callable[[str], fpemu.Accumulator]] = {
    "sequential": fpemu.Sequential,
    "blocks of 8": lambda format: fpemu.Blocked(format, 8, format),
    "pairwise": fpemu.Pairwise,
}


@dataclass(frozen=True)
class ModelRow:
    """A rule in the model."""

    format: str
    order: str
    rule: str
    rate: float  # asked for; 0 without recomputation
    recomputed: float
    kl: float  # mean over windows, nats per token
    gain: float  # geometric mean over windows of (kl without recomputation) / kl
    gain_low: float  # 95% confidence interval
    gain_high: float
    flips: float


@dataclass(frozen=True)
class LayerRow:
    """A rule in a head of a layer, at one rate over the layer."""

    format: str
    layer: int
    head: int
    rule: str
    rate: float
    recomputed: float  # in this head
    tv: float  # mean over rows of the error of z in the 1-norm
    output: float  # relative error of the head's output
    kl: float  # mean over rows of KL(z || z^)


# --- the model ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """A model, its texts, and the reference's logits."""

    model: lamp.GPT2
    windows: Any
    reference: Any

    @classmethod
    def of(cls, windows: int, tokens: int) -> Study:
        model = lamp.GPT2.from_pretrained("embedded")
        text = spread_windows(model.encode(checkpoints.read_text()), tokens, windows)
        return cls(model, text, reference_logits(model.with_hardware("fp64"), text))

    def run(self, accumulator: fpemu.Accumulator, settings: LAMP | None, count: int) -> Any:
        """The metrics of the first windows."""
        machine = lamp.Hardware("study", scores=accumulator)
        model = self.model.with_hardware(machine, settings)
        pairs = zip(self.reference[:count], self.windows[:count], strict=True)
        return [evaluate(logits, model, window) for logits, window in pairs]

    def threshold(
        self, accumulator: fpemu.Accumulator, options: dict[str, Any], rate: float
    ) -> float:
        """The tau of a rule with which the first two windows are recomputed at a rate."""
        limited = options["rule"] == "normwise"
        low, high = (1e-6, 1.0) if limited else (1e-9, 1e2)
        for _ in range(18):
            middle = float(np.sqrt(low * high))
            tau = 1.0 + middle if limited else middle
            found = self.run(accumulator, LAMP(**options, tau=tau), 2)
            actual = np.mean([each.recomputation_rate for each in found])
            if abs(actual / rate - 1) < 0.02:
                break
            low, high = (middle, high) if actual > rate else (low, middle)
        return tau


def gains(base: Any, found: Any) -> tuple[float, float, float]:
    """How many times smaller divergences are, and a bootstrap interval over the windows."""
    logs = np.log(np.array([a.kl / b.kl for a, b in zip(base, found, strict=True)]))
    generator = np.random.default_rng(SEED)
    means = generator.choice(logs, (2000, logs.size)).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


def model_rows(task: tuple[str, str, int, int]) -> list[ModelRow]:
    """All rules for one format and order of summation."""
    name, order, windows, tokens = task
    study = Study.of(windows, tokens)
    accumulator = ORDERS[order](FORMATS[name])

    def row(rule: str, rate: float, found: Any) -> ModelRow:
        return ModelRow(
            name,
            order,
            rule,
            rate,
            float(np.mean([each.recomputation_rate for each in found])),
            float(np.mean([each.kl for each in found])),
            *gains(base, found),
            float(np.mean([each.flip_rate for each in found])),
        )

    base = study.run(accumulator, None, windows)
    rows = [row("none", 0.0, base)]
    rules = RULES if order == "sequential" else {key: RULES[key] for key in ELSEWHERE}
    for rule, options in rules.items():
        for rate in RATES:
            if "model" in rule:
                settings = LAMP(**options, tau=study.threshold(accumulator, options, rate))
            else:
                settings = LAMP(**options, budget=rate, seed=SEED)
            rows.append(row(rule, rate, study.run(accumulator, settings, windows)))
    return rows


# --- a layer --------------------------------------------------------------------------------------


def record(model: lamp.GPT2, window: Any) -> list[tuple[Any, Any, Any]]:
    """Queries, keys and values of all layers of the model in float32."""
    traces = (model.trace(window, layer).steps for layer in range(model.shape.layers))
    return [(steps["query"], steps["key"], steps["value"]) for steps in traces]


class Heads:
    """The attention of a layer: exact and cheap scores, and what rules know of them."""

    def __init__(self, query: Any, key: Any, value: Any, accumulator: fpemu.Accumulator) -> None:
        self.heads, self.length, dimension = query.shape
        self.lengths = np.arange(1, self.length + 1)
        self.root = np.sqrt(dimension)
        self.value = value.astype(np.float64)
        keys = key.transpose(0, 2, 1)
        double, single = fpemu.Sequential("float64"), fpemu.Sequential("float32")
        self.exact = self._scores(query, keys, double)
        low, running = fpemu.matmul(
            query, keys, accumulator, row_lengths=self.lengths, running=True
        )
        self.low = np.asarray(low, np.float64) / self.root
        self.z, self.cheap = self.softmax(self.exact), self.softmax(self.low)
        lengths = (np.linalg.norm(x, axis=-1) for x in (query, key))
        of_query, of_key = lengths
        self.weights = {
            "one": np.ones_like(self.low),
            "abs": np.abs(self.low),
            "products": self._scores(np.abs(query), np.abs(keys), single),
            "norms": of_query[..., None] * of_key[:, None] / self.root,
            "running_1": running.first / self.root,
            "running_2": running.second / self.root,
            "true errors": np.abs(self.low - self.exact),
        }
        self.distances = value_distances(self.cheap, self.value) * self.cheap

    def _scores(self, query: Any, keys: Any, accumulator: fpemu.Accumulator) -> Any:
        sums = fpemu.matmul(query, keys, accumulator, row_lengths=self.lengths)
        return np.asarray(sums, np.float64) / self.root

    def _rows(self, x: Any) -> Any:
        return np.ascontiguousarray(x).reshape(-1, self.length)

    def softmax(self, y: Any) -> Any:
        """The probabilities of causal scores."""
        rows, lengths = self._rows(y), np.tile(self.lengths, self.heads)
        return softmax(rows, lengths, lamp.Function("float64")).reshape(y.shape)

    def selected(self, options: dict[str, Any], settings: LAMP, layer: int) -> Any:
        """Which scores a rule recomputes."""
        mask = select_rows(
            self._rows(self.cheap),
            np.tile(self.lengths, self.heads),
            settings,
            weights=self._rows(self.weights[options.get("weights", "one")]),
            sensitivity=self._rows(self.distances),
            stream=layer,
        )
        return mask.reshape(self.low.shape)

    def errors(self, mask: Any) -> Any:
        """By head: the error of z in the 1-norm, that of the output, the divergence of rows."""
        mixed = self.softmax(np.where(mask, self.exact, self.low))
        output = self.z @ self.value
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(self.z > 0, self.z * np.log(self.z / mixed), 0.0)
        return np.stack(
            [
                np.abs(mixed - self.z).sum(-1).mean(-1),
                np.linalg.norm(mixed @ self.value - output, axis=(1, 2))
                / np.linalg.norm(output, axis=(1, 2)),
                np.maximum(terms.sum(-1), 0.0).mean(-1),
            ],
            axis=1,
        )


def ranks(x: Any) -> Any:
    """The places of numbers in their order."""
    found = np.empty(x.size)
    found[np.argsort(x, kind="stable")] = np.arange(x.size)
    return found


TRUE_ERRORS = {
    "true errors**2 z(1-z)": {"rule": "kl", "weights": "true errors"},
    "true errors z |v-o|": {"rule": "value_aware", "weights": "true errors"},
}


@dataclass(frozen=True)
class WeightRow:
    """How well a weight tells the true errors of a layer's scores."""

    format: str
    layer: int
    weight: str
    correlation: float  # of ranks (Spearman's)


def layer_rows(task: tuple[str, int]) -> tuple[list[LayerRow], list[WeightRow]]:
    """All rules in all layers and heads, one text, at one rate of each layer; and the weights."""
    name, tokens = task
    study = Study.of(1, tokens)
    rows: list[LayerRow] = []
    weights: list[WeightRow] = []
    # One layer has no other to share a threshold with.
    single = {key: x for key, x in RULES.items() if "column" not in key and "layer" not in key}
    chosen = {key.removesuffix(", model"): x for key, x in single.items()} | TRUE_ERRORS
    for layer, recorded in enumerate(record(study.model, study.windows[0])):
        heads = Heads(*recorded, fpemu.Sequential(FORMATS[name]))
        pairs = heads.lengths.sum()
        causal = np.broadcast_to(np.tri(heads.length, dtype=bool), heads.low.shape)
        truth = ranks(heads.weights["true errors"][causal])
        weights += [
            WeightRow(name, layer, key, float(np.corrcoef(ranks(weight[causal]), truth)[0, 1]))
            for key, weight in heads.weights.items()
            if key not in ("one", "true errors")
        ]
        for rule, options in ({"none": {}} | chosen).items():
            mask = np.zeros(heads.low.shape, bool)
            if options:
                scope = "row" if rule.endswith("row") or rule == "random" else "all"
                settings = LAMP(options["rule"], budget=LAYER_RATE, scope=scope, seed=SEED)
                mask = heads.selected(options, settings, layer)
            rows += [
                LayerRow(name, layer, head, rule, LAYER_RATE, mask[head].sum() / pairs, *of_head)
                for head, of_head in enumerate(heads.errors(mask).tolist())
            ]
    return rows, weights


# --- output ---------------------------------------------------------------------------------------


def write(path: Path, rows: list[Any]) -> None:
    """A CSV of dataclass instances."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def tables(
    console: Console, rows: list[ModelRow], layers: list[LayerRow], weights: list[WeightRow]
) -> None:
    """The gains of all rules at PS(4), the orders of summation, and a layer's errors."""
    table = Table(title="KL without recomputation over KL, PS(4), index order [95% interval]")
    for heading in ("rule", *(f"{rate:.0%}" for rate in RATES)):
        table.add_column(heading, no_wrap=True)
    for rule in RULES:
        found = [
            row
            for row in rows
            if (row.format, row.order, row.rule) == ("PS(4)", "sequential", rule)
        ]
        table.add_row(rule, *(f"{r.gain:.3g} [{r.gain_low:.3g}, {r.gain_high:.3g}]" for r in found))
    console.print(table)
    table = Table(
        title="KL by the order of summation, without recomputation and with the best rule"
    )
    shown = [(rule, rate) for rule in ELSEWHERE[2:] for rate in RATES]
    headings = (f"{rule.removesuffix(', model')} {rate:.0%}" for rule, rate in shown)
    for heading in ("format", "order", "none", *headings):
        table.add_column(heading)
    for name in dict.fromkeys(row.format for row in rows):
        for order in ORDERS:
            found = [
                r for r in rows if (r.format, r.order) == (name, order) and r.rule in ("none", BEST)
            ]
            table.add_row(name, order, *(f"{row.kl:.2e}" for row in found))
    console.print(table)
    table = Table(title="A layer at 3%, PS(4): geometric means over layers and heads")
    for heading in ("rule", "error of z, 1-norm", "error of output", "KL of rows"):
        table.add_column(heading, no_wrap=True)
    for rule in dict.fromkeys(row.rule for row in layers):
        chosen = [row for row in layers if row.rule == rule and row.format == "PS(4)"]
        means = (
            np.exp(np.mean(np.log([max(getattr(row, name), 1e-30) for row in chosen])))
            for name in ("tv", "output", "kl")
        )
        table.add_row(rule, *(f"{mean:.3g}" for mean in means))
    console.print(table)
    table = Table(title="Rank correlation of weights with true errors, mean over layers")
    keys = list(dict.fromkeys(row.weight for row in weights))
    for heading in ("format", *keys):
        table.add_column(heading)
    for name in dict.fromkeys(row.format for row in weights):
        means = (
            np.mean([row.correlation for row in weights if (row.format, row.weight) == (name, key)])
            for key in keys
        )
        table.add_row(name, *(f"{mean:.2f}" for mean in means))
    console.print(table)


def plot(rows: list[ModelRow], path: Path) -> None:
    """KL against the recomputed share, a panel a format."""
    figure = Figure(figsize=(14, 8), layout="constrained")
    FigureCanvasAgg(figure)
    names = [name for name in FORMATS if any(row.format == name for row in rows)]
    grid = figure.subplots(2, -(-len(names) // 2), squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        here = [row for row in rows if row.format == name]
        for order, style in zip(ORDERS, ("-", "--", ":"), strict=True):
            (none,) = [row for row in here if (row.order, row.rule) == (order, "none")]
            axes.axhline(none.kl, color="black", ls=style, lw=0.8, label=f"none, {order}")
        for rule, colour in zip(SHOWN, COLOURS, strict=True):
            found = [row for row in here if (row.order, row.rule) == ("sequential", rule)]
            rates = [100 * row.recomputed for row in found]
            axes.plot(rates, [row.kl for row in found], "o-", color=colour, ms=4, label=rule)
        found = [row for row in here if (row.order, row.rule) == ("blocks of 8", BEST)]
        axes.plot(
            [100 * row.recomputed for row in found],
            [row.kl for row in found],
            "s--",
            color=COLOURS[-1],
            ms=4,
            label=f"{BEST}, blocks of 8",
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(name, loc="left")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("recomputed, % of the products")
    for axes in grid[:, 0]:
        axes.set_ylabel("KL, nats per token")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(
        "What is left of the error when a share of the attention scores is recomputed",
        x=0.01,
        ha="left",
        weight="bold",
    )
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=6, help="texts")
    parser.add_argument("--tokens", type=int, default=256, help="tokens a text")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), metavar="FORMAT")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--output", type=Path, default=Path(), help="an existing folder")
    options = parser.parse_args()
    if not options.output.is_dir():
        parser.error(f"--output: there is no folder {options.output}")
    for name in options.formats:
        if name not in FORMATS:
            parser.error(f"--formats: {name!r} is none of {', '.join(FORMATS)}")
    console = Console(width=max(140, Console().width))
    tasks = [
        (name, order, options.windows, options.tokens)
        for order in ORDERS
        for name in options.formats
    ]
    rows: list[ModelRow] = []
    layers: list[LayerRow] = []
    weights: list[WeightRow] = []
    with ProcessPoolExecutor(
        options.jobs, initializer=numba.set_num_threads, initargs=(1,)
    ) as pool:
        for found in track(pool.map(model_rows, tasks), "model", len(tasks), console=console):
            rows += found
        each = [(name, options.tokens) for name in options.formats]
        for of_layers in track(pool.map(layer_rows, each), "layers", len(each), console=console):
            layers += of_layers[0]
            weights += of_layers[1]
    write(options.output / "selection_model.csv", rows)
    write(options.output / "selection_layers.csv", layers)
    write(options.output / "selection_weights.csv", weights)
    plot(rows, options.output / "selection.png")
    tables(console, rows, layers, weights)


if __name__ == "__main__":
    main()
