"""Make the tables and figures of the findings in the README and the documentation.

    python analysis/findings.py [--data docs/_static/data] [--check]

The numbers are those of claims.py and paper.py, whose CSV files are in the folder.  In README.md
and docs/*.md a table stands between the lines `<!-- findings: NAME -->` and `<!-- end -->`, and is
replaced.  Figures are SVG files in docs/_static/figures; the same numbers give the same bytes.
--check writes nothing and fails if a page has another table than the files.
"""

from __future__ import annotations

import argparse
import io
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
from claims import ALL, NONE, RATES, Claimed
from matplotlib import colormaps
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from one_percent import FILES as ONE_PERCENT_FILES
from one_percent import FORMATS, IN_PRACTICE, ORDERS, Found, Row, unique
from one_percent import RATES as ONE_PERCENT_RATES
from one_percent import RULES as AT_RATES
from over_texts import DATA, GEMMA, TEXTS, geometric, mean, read
from paper import FACTORS, KINDS, VERSIONS, Perplexity, Point, Share
from tuning import Row as Tuning

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FIGURES: Final = ROOT / "docs" / "_static" / "figures"
WIDTH: Final = 7.3  # inches: 10 points are 13 pixels where the figure is 700 pixels wide
MODELS: Final = {"embedded": "embedded", "smollm2": "SmolLM2"}
TAUS: Final = ("1.5", "1.2", "1.05")

# Color (Okabe and Ito's, which color-blind readers can tell apart), marker and label of each rule.
RULES: Final[Mapping[str, tuple[str, str, str]]] = {
    "random": ("#5b626d", "s", "random choice"),
    "version 1": ("#d55e00", "o", "version 1's rule"),
    "one threshold": ("#0072b2", "D", "one threshold per layer on |y| z(1 \N{MINUS SIGN} z)"),
}
STYLE: Final = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dfe3e8",
    "svg.hashsalt": "fpemu-lamp",
}


class Data:
    """All results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.claims = read(folder / "claims.csv", Claimed)
        self.at_rates = Found(unique(read(folder / ONE_PERCENT_FILES[0], Row)))

    def claim(self, group: str, machine: str, rule: str, beside: str = "", text: str = ALL) -> Any:
        """A row of claims.csv."""
        key = group, machine, rule, beside, text
        (found,) = (
            row
            for row in self.claims
            if (row.group, row.machine, row.rule, row.beside, row.text) == key
        )
        return found

    def shares(self, model: str, version: int) -> list[Share]:
        """What paper.py says has to be recomputed."""
        files = sorted(self.folder.glob(f"paper_{model}_v{version}*_shares.csv"))
        return [row for file in files for row in read(file, Share)]

    def points(self, model: str, version: int) -> list[Point]:
        """The curves of paper.py."""
        files = sorted(self.folder.glob(f"paper_{model}_v{version}*.csv"))
        curves = [file for file in files if not file.stem.endswith("_shares")]
        return [row for file in curves for row in read(file, Point)]

    def perplexities(self, model: str) -> list[Perplexity]:
        """The downstream experiment of paper.py."""
        return read(self.folder / f"paper_{model}_downstream.csv", Perplexity)


# --- tables ---------------------------------------------------------------------------------------


def number(x: float, digits: int = 2) -> str:
    """A number in two digits or more: 0.96, 4.1, 17, 120."""
    if not math.isfinite(x):
        return "-"
    rounded = float(f"{x:.{digits}g}")
    return f"{rounded:.{max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)}f}"


def interval(value: float, low: float, high: float) -> str:
    """A number and the ends of its interval."""
    return f"{number(value)} [{number(low)}, {number(high)}]"


def times(row: Claimed | Point) -> str:
    """How many times smaller a divergence is."""
    return interval(row.times, row.low, row.high)


def percent(x: float) -> str:
    """A share."""
    return f"{number(100 * x)}%"


def shares_of(row: Share) -> str:
    """A share to recompute, or on how many texts it is reached."""
    if not row.reached:
        return ""
    if row.reached < len(TEXTS):
        return f"on {row.reached} of {len(TEXTS)} texts"
    return f"{percent(row.share)} [{percent(row.low)}, {percent(row.high)}]"


def with_error(value: float, error: float) -> str:
    """A divergence and its standard error."""
    return f"{value:.1e} ± {error:.0e}"


def share_with_error(value: float, error: float) -> str:
    """A share and its standard error, in percent."""
    return f"{100 * value:.1f}% ± {100 * error:.1f}"


def verdict(row: Claimed) -> str:
    """On how many texts the second run is decidedly better, and worse."""
    if row.smaller == len(TEXTS):
        return "smaller on all"
    words = [f"smaller on {row.smaller}"] if row.smaller else []
    words += [f"larger on {row.larger}"] if row.larger else []
    undecided = len(TEXTS) - row.smaller - row.larger
    return ", ".join(words + ([f"undecided on {undecided}"] if undecided else []))


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """A table, whose first columns are words."""
    lines = ["---"] * left + ["---:"] * (len(headings) - left)
    return [f"| {' | '.join(cells)} |" for cells in (headings, lines, *rows)]


def shown(name: str) -> str:
    """A name of a score as Markdown shows it in a table."""
    for plain, written in (("-z", "\N{MINUS SIGN}z"), ("v-o", "v\N{MINUS SIGN}o"), ("|", "\\|")):
        name = name.replace(plain, written)
    return name.replace("**2", "\N{SUPERSCRIPT TWO}")


def equal_rates(data: Data, machines: Sequence[str]) -> list[str]:
    """Version 1's rule, a random choice and one threshold per layer."""
    rows = []
    for machine in machines:
        for tau in TAUS:
            names = [f"{rule}, tau {tau}" for rule in RULES]
            found = [data.claim("rates", machine, name, NONE) for name in names]
            pair = data.claim("rates", machine, names[2], names[1])
            rows.append(
                [
                    machine,
                    percent(found[1].recomputed),
                    *map(times, found),
                    times(pair),
                    verdict(pair),
                ]
            )
    headings = [
        "scores", "recomputed", "random choice", "version 1's rule", "one threshold",
        "threshold below version 1", "on the four texts",
    ]  # fmt: skip
    return markdown(headings, rows)


def needed(data: Data, precisions: Mapping[str, Sequence[int]]) -> list[str]:
    """What has to be recomputed for a divergence so many times smaller."""
    rows = []
    for model, words in MODELS.items():
        for version in VERSIONS:
            shares = data.shares(model, version)
            for first in shares[:: len(FACTORS)]:
                if first.stored_bits not in precisions[model]:
                    continue
                here = [
                    row
                    for row in shares
                    if (row.kind, row.stored_bits, row.rule)
                    == (first.kind, first.stored_bits, first.rule)
                ]
                rule = "version 1" if first.rule == "normwise" else first.rule
                rows.append(
                    [
                        words, rule, first.kind, str(first.stored_bits),
                        with_error(first.kl, first.kl_error), *map(shares_of, here),
                        interval(first.at_random, first.at_random_low, first.at_random_high),
                    ]
                )  # fmt: skip
    headings = [
        "model", "rule", "text", "stored bits", "KL without, nats",
        *(f"{factor} times" for factor in FACTORS), "at random, at the most",
    ]  # fmt: skip
    return markdown(headings, rows, left=3)


def downstream(data: Data) -> list[str]:
    """Perplexities of four stored bits, by text, and their ratios over all texts."""
    rows = []
    for model, words in MODELS.items():
        found = data.perplexities(model)
        if not found:
            continue
        for rule in dict.fromkeys(row.rule for row in found):
            here = {row.text: row for row in found if row.rule == rule}
            logs = [math.log(row.perplexity / row.reference) for row in here.values()]
            ratios = " [".join(f"{x:.4f}" for x in geometric(logs)[:2])
            share = sum(row.recomputed for row in here.values()) / len(here)
            name = "nothing" if rule == "none" else rule.split(":", 1)[1].replace(":", ", tau ")
            rows.append(
                [
                    words, name, percent(share) if share else "",
                    *(f"{here[text].perplexity:.3f}" for text in TEXTS),
                    f"{ratios}, {geometric(logs)[2]:.4f}]",
                ]
            )  # fmt: skip
        reference = {row.text: f"{row.reference:.3f}" for row in found}
        rows.append([words, "float32", "", *(reference[text] for text in TEXTS), "1"])
    headings = ["model", "recomputed in PS(4)", "share", *TEXTS, "times float32's"]
    return markdown(headings, rows, left=2)


SCORES: Final = {
    "version 1": "the rule of version 1, one tau",
    "z(1-z), layer": "the largest z(1-z) of every layer",
    "z(1-z)": "one threshold on z(1-z) for the model",
    "|y| z(1-z)": "the same times |y| (version 2's `strict`)",
    "norms z(1-z)": "the same times the norms of q and k",
    "R2 z(1-z)": "the same times R2, the running sum of squares",
    "R2**2 z(1-z)": "the same times R2 squared",
    "R2 z |v-o|": "R2 z times the distance of the value from the output",
}


def by_model(data: Data) -> list[str]:
    """Rules at equal rates, one threshold for the model."""
    rows = []
    for rule, words in SCORES.items():
        found = [data.claim("rules", "PS(4)", f"{rule}, {rate:.0%}", NONE) for rate in RATES[::-1]]
        rows.append([shown(words), *map(times, found)])
    return markdown(["rule", *(f"{rate:.0%}" for rate in RATES[::-1])], rows)


PAIRS: Final = (
    ("z(1-z)", "version 1"),
    ("z(1-z)", "z(1-z), layer"),
    ("R2 z(1-z)", "z(1-z)"),
    ("R2 z(1-z)", "|y| z(1-z)"),
    ("R2**2 z(1-z)", "R2 z(1-z)"),
    ("R2 z |v-o|", "R2 z(1-z)"),
)


def pairs(data: Data) -> list[str]:
    """Two rules beside each other."""

    rows = []
    for rule, other in PAIRS:
        cells = []
        for rate in RATES[::-1]:
            row = data.claim("rules", "PS(4)", f"{rule}, {rate:.0%}", f"{other}, {rate:.0%}")
            cells.append(f"{times(row)}; {verdict(row)}")
        rows.append([f"{shown(rule)} below {shown(other)}", *cells])
    return markdown(["rules", *(f"{rate:.0%}" for rate in RATES[::-1])], rows)


def orders(data: Data) -> list[str]:
    """Orders of summation, beside sums term after term."""
    rows = []
    for order in ("blocks of 8", "pairwise"):
        names = [NONE, *(f"R2**2 z(1-z), {rate:.0%}" for rate in RATES[::-1])]
        found = [data.claim("orders", f"PS(4), {order}", name, NONE) for name in names]
        rows.append([order, *map(times, found)])
    return markdown(["sums", "nothing", *(f"{rate:.0%}" for rate in RATES[::-1])], rows)


def places(data: Data) -> list[str]:
    """All products in low precision."""
    rows = []
    for name in (
        "scores, 30%",
        "logits, 1%",
        "all places, 1% of the work",
        "all places, 10% of the work",
    ):
        found = [data.claim("places", f"PS({mu}), all products", name, NONE) for mu in (4, 7)]
        cells = [f"{times(row)}; {verdict(row)}" for row in found]
        rows.append([name, *(f"{percent(row.work)}" for row in found), *cells])
    without = [data.claim("places", f"PS({mu}), all products", NONE) for mu in (4, 7)]
    headings = ["recomputed", "work, PS(4)", "work, PS(7)"] + [
        f"PS({mu}): {with_error(row.value, row.error)} nats without"
        for mu, row in zip((4, 7), without, strict=True)
    ]
    return markdown(headings, rows)


def overflow(data: Data) -> list[str]:
    """Tokens lost to NaN."""
    rows = []
    for name, beside in (
        (NONE, ""),
        ("overflowed components", ""),
        ("and 3% more", "overflowed components"),
    ):
        found = data.claim("overflow", "e4m3 operands", name, beside)
        lost = found.lost == 1.0
        rows.append(
            [
                name, percent(found.lost) if found.lost else "0",
                "" if lost else f"{found.value:.3f} ± {found.error:.3f}",
                "" if lost else percent(found.recomputed), "" if lost else percent(found.work),
                f"{times(found)}; {verdict(found)}" if beside else "",
            ]
        )  # fmt: skip
    headings = ["recomputed", "tokens lost", "KL, nats", "components", "work", "times smaller"]
    return markdown(headings, rows)


def weights(data: Data) -> list[str]:
    """Rank correlations of weights with the true errors."""
    words = {
        "running_2": "R2", "running_1": "R1", "abs": "|y|", "products": "the sum of |q| |k|",
        "norms": "the norms of q and k",
    }  # fmt: skip
    found = {name: data.claim("weights", "PS(4)", name) for name in words}
    cells = [f"{row.value:.2f} ± {row.error:.1g}" for row in found.values()]
    return markdown(
        ["weight", *(shown(each) for each in words.values())], [["correlation", *cells]]
    )


def depth(data: Data) -> list[str]:
    """The error behind the last layer, and how much of it is there behind the first."""
    words = {"fp32": "float32", "bf16": "bfloat16", "ps7": "PS(7)", "hopper-fp8": "Hopper's fp8"}
    rows = []
    for machine, name in words.items():
        row = data.claim("depth", machine, "behind the last layer", "behind the first layer")
        rows.append([name, f"{row.value:.2g} ± {row.error:.1g}", times(row)])
    headings = ["machine", "median relative error behind the last layer", "behind the first, of it"]
    return markdown(headings, rows)


def machines(data: Data) -> list[str]:
    """Divergences and flips of real models on machines of narrow formats."""
    names = {"machines": "SmolLM2", "gemma": "Gemma 3 270M"}
    rows = []
    for row in data.claims:
        if row.group not in names or row.text != ALL:
            continue
        of_texts = (data.claim(row.group, row.machine, row.rule, row.beside, t) for t in TEXTS)
        flips = [each.flips for each in of_texts]
        rows.append(
            [
                names[row.group], row.machine, row.rule, percent(row.work) if row.work else "",
                with_error(row.value, row.error), share_with_error(*mean(flips)),
                times(row) if row.beside else "",
            ]
        )  # fmt: skip
    headings = [
        "model", "machine", "recomputed", "work", "KL, nats", "other tokens", "times smaller",
    ]  # fmt: skip
    return markdown(headings, rows, left=3)


def one_percent(data: Data, model: str, format: str = "PS(4)", rate: float = 0.01) -> list[str]:
    """Orders of summation and rules at a rate, below the same order without recomputation."""
    found, known = data.at_rates, [name for name in AT_RATES if name not in IN_PRACTICE]
    columns = [
        rule
        for rule in IN_PRACTICE
        if all((model, format, order, rule, rate) in found for order in ORDERS)
    ]
    start = model, format, "sequential", "none", 0.0
    rows = []
    for order in ORDERS:
        base, at = (model, format, order, "none", 0.0), (model, format, order)
        best = found.best(*at, rate)
        if best is None:
            continue
        gains = [interval(*found.gain(base, (*at, rule, rate))) for rule in columns]
        limit = max(found.gain(base, (*at, rule, rate)) for rule in known)
        without = found.kl(*base)
        rows.append(
            [
                order, with_error(without.value, without.error), *gains, interval(*limit),
                interval(*found.gain(start, (*at, best, rate))),
            ]
        )  # fmt: skip
    headings = [
        "order of summation", "without, nats", *columns, "errors known",
        "best rule, below sequential sums without",
    ]  # fmt: skip
    return markdown(headings, rows)


def at_all_rates(data: Data, model: str) -> list[str]:
    """The best rule of every format, order and rate, below sequential sums without."""
    found, rates = data.at_rates, sorted(ONE_PERCENT_RATES)
    rows = []
    for format in sorted(FORMATS):
        start = model, format, "sequential", "none", 0.0
        for order in ORDERS:
            at = model, format, order
            if (*at, "none", 0.0) not in found:
                continue
            without = found.kl(*at, "none", 0.0).value
            cells = []
            for rate in rates:
                best = found.best(*at, rate)
                key = *at, best, rate
                cells.append("" if best is None else f"{interval(*found.gain(start, key))}, {best}")
            rows.append([format, order, f"{without:.1e}", *cells])
    headings = ["scores in", "order of summation", "without, nats", *map(percent, rates)]
    return markdown(headings, rows, left=2)


def tuned(data: Data) -> list[str]:
    """Tuned machines beside the one whose divergence is allowed, and the nearest uniform ones."""
    rows = []
    for model, words in MODELS.items():
        found = read(data.folder / f"tuning_{model}.csv", Tuning)
        for question in dict.fromkeys(row.question for row in found):
            own = [row for row in found if row.question == question]
            (best,) = (row for row in own if row.kind == "tuned")
            (limit,) = (row for row in own if row.kind == "allowed")
            uniform = sorted((row for row in own if row.kind == "uniform"), key=lambda x: x.cost)
            holding = [row for row in uniform if holds(row, limit)]
            losing = [row for row in uniform if not holds(row, limit)]
            beside = [limit, *holding[:1], *losing[-1:]]
            rows += [tuned_row(f"{words}, {question}", "tuned", best)]
            rows += [
                tuned_row("", row.machine, row) for row in sorted(beside, key=lambda x: x.cost)
            ]
    return markdown(["model", "machine", "cost", "predicted", "KL, held-out text"], rows, left=2)


def holds(row: Tuning, limit: Tuning) -> bool:
    """Whether a machine causes no more than what is allowed, on both texts."""
    return row.calibration <= limit.calibration and row.held_out <= limit.held_out


def tuned_row(model: str, machine: str, row: Tuning) -> list[str]:
    """A row of the table of tuned machines."""
    bits = "" if math.isnan(row.accumulator_bits) else f", {number(row.accumulator_bits, 3)} bits"
    ends = f"[{row.held_out_low:.2e}, {row.held_out_high:.2e}]"
    predicted = "-" if math.isnan(row.predicted) else f"{row.predicted:.2e}"
    divergence = f"{row.held_out:.2e} {ends}"
    return [model, f"{machine}{bits}", number(row.times_tuned, 3), predicted, divergence]


TABLES: Final[Mapping[str, Callable[[Data], list[str]]]] = {
    "one-percent-embedded": lambda data: one_percent(data, "embedded"),
    "one-percent-smollm2": lambda data: one_percent(data, "smollm2"),
    "one-percent-all-embedded": lambda data: at_all_rates(data, "embedded"),
    "one-percent-all-smollm2": lambda data: at_all_rates(data, "smollm2"),
    "one-percent-gemma3": lambda data: one_percent(data, GEMMA),
    "one-percent-all-gemma3": lambda data: at_all_rates(data, GEMMA),
    "rates-ps4": lambda data: equal_rates(data, ["PS(4)"]),
    "rates": lambda data: equal_rates(data, ["PS(2)", "PS(4)", "PS(7)"]),
    "shares-ps4": lambda data: needed(data, {"embedded": (4,), "smollm2": (4,)}),
    "shares": lambda data: needed(data, {"embedded": range(23), "smollm2": range(23)}),
    "downstream": downstream,
    "rules": by_model,
    "pairs": pairs,
    "orders": orders,
    "places": places,
    "overflow": overflow,
    "depth": depth,
    "weights": weights,
    "machines": machines,
    "tuned": tuned,
}
_MARKED: Final = re.compile(r"(<!-- findings: ([\w-]+) -->\n).*?(^<!-- end -->$)", re.M | re.S)


def filled(page: str, data: Data) -> str:
    """A page with the tables of the results."""

    def table(found: re.Match[str]) -> str:
        lines = "\n".join(TABLES[found[2]](data))
        return f"{found[1]}\n{lines}\n\n{found[3]}"

    return _MARKED.sub(table, page)


# --- figures --------------------------------------------------------------------------------------


def bars(axes: Any, rows: Sequence[Any], color: str, marker: str) -> None:
    """Shares of the divergence that are left, with their intervals, from all of it at 0%."""
    left, ends = [1.0 / row.times for row in rows], lengths(rows)
    rates = [100 * row.recomputed for row in rows]
    axes.plot([0.0, *rates], [1.0, *left], color=color, lw=1.6, zorder=2)
    axes.errorbar(
        rates, left, ends, color=color, marker=marker, ls="none", ms=5.5, capsize=3,
        elinewidth=1.2, zorder=3,
    )  # fmt: skip


def lengths(rows: Sequence[Any]) -> list[list[float]]:
    """The lengths of the bars of shares that are left, down and up."""
    return [
        [1.0 / row.times - 1.0 / row.high for row in rows],
        [1.0 / row.low - 1.0 / row.times for row in rows],
    ]


def rates_figure(data: Data) -> Figure:
    """The divergence left against the share of scores recomputed, a panel for each precision."""
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, mu in zip(grid, (2, 4, 7), strict=True):
        for rule, (color, marker, _) in RULES.items():
            rows = [data.claim("rates", f"PS({mu})", f"{rule}, tau {tau}", NONE) for tau in TAUS]
            bars(axes, rows, color, marker)
        axes.plot(0, 1, color="#1c1f24", marker="o", clip_on=False, zorder=4)
        without = data.claim("rates", f"PS({mu})", NONE)
        axes.set_title(f"{mu} stored bits, PS({mu})\n{without.value:.2g} nats without", loc="left")
        axes.set_xticks(range(0, 41, 20), [f"{share}%" for share in range(0, 41, 20)])
        axes.set_xlim(0, 50)
        axes.set_yscale("log")
    grid[0].set_ylabel("KL divergence left, share of that without")
    figure.supxlabel("share of attention scores recomputed in float32", fontsize=10)
    handles = [
        Line2D([], [], color=color, marker=marker, label=label)
        for color, marker, label in RULES.values()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
    return figure


def paper_figure(data: Data, version: int) -> Figure:
    """The grid of a version: divergence left against the share recomputed, by precision."""
    points, published = data.points("embedded", version), VERSIONS[version]
    panels = [(kind, rule) for kind in KINDS for rule in published.taus]
    bits = sorted({point.stored_bits for point in points})
    rows_of_panels = len(panels) // 2
    figure = Figure(figsize=(WIDTH, 0.9 + 3.0 * rows_of_panels), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(rows_of_panels, 2, sharex=True, sharey=True, squeeze=False)
    colors = {mu: colormaps["viridis"](0.9 * i / (len(bits) - 1)) for i, mu in enumerate(bits)}
    for axes, (kind, rule) in zip(grid.ravel(), panels, strict=True):
        for mu in bits:
            for name, style, marker in ((rule, "-", "o"), (published.control(rule), ":", "x")):
                rows = [
                    point
                    for point in points
                    if (point.kind, point.stored_bits, point.rule) == (kind, mu, name)
                    and point.recomputed > 1e-3
                ]
                left, ends = [1.0 / row.times for row in rows], lengths(rows)
                axes.errorbar(
                    [100 * row.recomputed for row in rows], left, ends, color=colors[mu],
                    ls=style, marker=marker, ms=3, lw=1.1, elinewidth=0.8,
                )  # fmt: skip
        axes.set_title(f"{published.curves[rule][2]}, {kind} text", loc="left")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([0.3, 1, 3, 10, 30], ["0.3%", "1%", "3%", "10%", "30%"])
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.supylabel("share of the KL divergence left", fontsize=10)
    figure.supxlabel("share of attention scores recomputed in float32", fontsize=10)
    handles = [Line2D([], [], color=colors[mu], lw=4, label=f"PS({mu})") for mu in bits]
    handles += [
        Line2D([], [], color="0.3", marker="o", ms=4, label="rule"),
        Line2D([], [], color="0.3", ls=":", marker="x", ms=4, label="control"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False)
    return figure


DRAWN: Final[Mapping[str, Callable[[Data], Figure]]] = {
    "kl_against_share_recomputed.svg": rates_figure,
    "paper_version_1.svg": lambda data: paper_figure(data, 1),
    "paper_version_2.svg": lambda data: paper_figure(data, 2),
}


def save(figure: Figure, path: Path) -> None:
    """Write a figure on a white ground, without the date."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", facecolor="white", metadata={"Date": None})
    path.write_bytes(content.getvalue())


def changed(data: Data) -> Iterator[tuple[Path, str]]:
    """The pages whose tables are not those of the results, as they would be."""
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        if (new := filled(page, data)) != page:
            yield path, new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the results")
    parser.add_argument("--check", action="store_true", help="compare the pages, write nothing")
    options = parser.parse_args()
    data = Data(options.data)
    if options.check:
        found = [str(path) for path, _ in changed(data)]
        sys.exit(f"other tables than the results: {', '.join(found)}" if found else 0)
    for path, page in changed(data):
        path.write_text(page, encoding="utf-8")
        print(f"Wrote {path}")
    for name, draw in DRAWN.items():
        with matplotlib.rc_context(STYLE):
            save(draw(data), FIGURES / name)
        print(f"Wrote {FIGURES / name}")


if __name__ == "__main__":
    main()
