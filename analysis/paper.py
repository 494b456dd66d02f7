"""The paper's experiments: look-ahead on attention scores against random choices and against none.

    python analysis/paper.py [--version 2] [--model embedded] [--store paper.sqlite] [--jobs 1]
    python analysis/paper.py --as-published --length 1024 --reference fp32 --model gpt2-xl
    python analysis/paper.py --downstream

Scores are accumulated in PS(mu), mu stored bits, term after term; a rule recomputes some in
float32, and a control as many at random; the texts are natural, or their tokens are shuffled.
Version 1 has the rule normwise with tau from 2.0 (none) down to 1.02 and a control within each row;
version 2 the rules strict and relaxed, and a control over whole padded rows.  With --scaled the
thresholds of version 2 shrink as rows grow.  The reference is the same model in float64, or in
float32 as in the paper (--reference fp32).  All runs are kept in a store, so that a second call
does what is missing alone.

Numbers are means over the texts, four that come with lamp unless others are named, and intervals
are from the texts: Student's, of the logarithms of factors and shares.  Writes

paper_NAME_vN.csv         each rule at each tau: divergence, flips, perplexity, share recomputed
paper_NAME_vN_shares.csv  the share to recompute for a divergence 10, 100 and 1000 times smaller
paper_NAME_vN.png         the divergence and the flips against the share recomputed

and prints the second; with one kind of text alone (--kinds) it is part of the names.  --downstream
measures the perplexities of float32, of mu = 4 alone and of mu = 4 with the relaxed rule instead,
and writes paper_NAME_downstream.csv, a line for each text.
findings.py makes the tables of the documentation from these files.

--as-published takes the arithmetic of the authors' code: sums in float32 that are rounded to mu
bits afterwards, a double rounding, and GELU by the error function whatever the model says.  The
model is any that lamp.from_pretrained takes; one without a tokenizer, as mgm, reads token numbers
from a file (--texts).

Reference: Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623v1, section 5, and 2601.21623v2.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from over_texts import TEXTS, geometric, mean, write
from rich.console import Console
from rich.table import Table

import lamp
from lamp.studies import Run, Store

FACTORS = (10, 100, 1000)
KINDS = ("natural", "shuffled")
LENGTH = 1024  # that thresholds are scaled by


@dataclass(frozen=True)
class Version:
    """What a version of the paper measures: rules by name, and what they are called in text."""

    stored_bits: tuple[int, ...]
    taus: Mapping[str, tuple[float, ...]]  # of each rule
    rules: Mapping[str, str]  # rule and control as one name: the text of a setting
    curves: Mapping[str, tuple[str, str, str]]  # line, marker, label

    def control(self, rule: str) -> str:
        """The control of a rule."""
        (name,) = {"random", f"{rule}, padded"} & {*self.rules}
        return name


VERSIONS = {
    1: Version(
        tuple(range(2, 23, 2)),
        {"normwise": (2.0, 1.8, 1.6, 1.4, 1.2, 1.1, 1.05, 1.02)},
        {
            "normwise": "softmax:normwise:{normwise}",
            "random": "softmax:random:{normwise_control}:seed={seed}",
        },
        {
            "normwise": ("-", "o", "version 1's rule"),
            "random": (":", "x", "random control"),
        },
    ),
    2: Version(
        tuple(range(4, 23, 3)),
        {
            "strict": (50.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
            "relaxed": (0.9, 0.3, 0.09, 0.03, 9e-3, 3e-3, 9e-4, 3e-4, 9e-5),
        },
        {
            "strict": "softmax:strict:{strict}",
            "relaxed": "softmax:relaxed:{relaxed}",
            "strict, padded": "softmax:strict:{strict_control}:control=padded:seed={seed}",
            "relaxed, padded": "softmax:relaxed:{relaxed_control}:control=padded:seed={seed}",
        },
        {
            "strict": ("-", "o", "strict rule"),
            "relaxed": ("--", "^", "relaxed rule"),
            "strict, padded": (":", "x", "control of strict"),
            "relaxed, padded": (":", "+", "control of relaxed"),
        },
    ),
}
DOWNSTREAM = ("none", "softmax:relaxed:0.09", "softmax:relaxed:0.03")


def study(version: int, options: argparse.Namespace) -> lamp.Study:
    """All runs for a model."""
    published = VERSIONS[version]
    scaled = f":length={LENGTH}" if options.scaled else ""
    taus: dict[str, tuple[float, ...]] = {}
    for rule, values in published.taus.items():
        taus[rule] = tuple(options.taus or values)[:: options.tau_every]
        taus[f"{rule}_control"] = taus[rule][:: options.control_every]
    return lamp.Study(
        f"paper version {version}, {_described(options)}",
        models=[options.model],
        texts=_texts(options),
        hardware=["published-ps{mu}" if options.as_published else "scores-ps{mu}"],
        lamp=["none", *(text + scaled for text in published.rules.values())],
        reference=options.reference,
        grid={"mu": options.stored_bits or published.stored_bits, **taus, "seed": (0,)},
    )


def downstream(options: argparse.Namespace) -> lamp.Study:
    """The perplexities of float32 and of four stored bits."""
    return lamp.Study(
        f"paper downstream, {_described(options)}",
        models=[options.model],
        texts=[text for text in _texts(options) if not text["shuffled"]],
        hardware=["published-ps4" if options.as_published else "scores-ps4"],
        lamp=DOWNSTREAM,
        reference="fp32",
    )


def _described(options: argparse.Namespace) -> str:
    facts = [Path(options.model).name, options.reference]
    facts += ["as published"] * options.as_published + ["scaled"] * options.scaled
    facts += [] if set(options.kinds) == set(KINDS) else [f"{kind} text" for kind in options.kinds]
    return ", ".join(facts)


def _texts(options: argparse.Namespace) -> list[dict[str, Any]]:
    part = {"tokens": options.tokens, "length": options.length}
    return [
        {**part, "source": text, "name": f"{text}, {kind}", "shuffled": kind == "shuffled"}
        for kind in options.kinds
        for text in options.texts
    ]


def with_published_gelu(model: str, folder: Path) -> str:
    """A folder with the model's files, whose configuration names GELU by the error function."""
    source = lamp.checkpoints.directory(model)
    copy = folder / f"{Path(model).name}-as-published"
    copy.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and not (copy / file.name).exists():
            (copy / file.name).symlink_to(file.resolve())
    configuration = json.loads((source / "config.json").read_text())
    (copy / "config.json").unlink()
    configuration["activation_function"] = "gelu"
    (copy / "config.json").write_text(json.dumps(configuration, indent=2))
    return str(copy)


def rule_of(record: Run) -> str:
    """The rule of a run and its control, ``"none"`` without look-ahead."""
    if record.lamp == "none":
        return "none"
    settings = lamp.LAMP.parse(record.lamp)
    return f"{settings.rule}, {settings.control}" if settings.control != "none" else settings.rule


@dataclass(frozen=True)
class Point:
    """A rule at a tau, over all texts."""

    kind: str
    stored_bits: int
    rule: str
    tau: float  # NaN without look-ahead
    texts: int
    tokens: int  # of all texts
    recomputed: float
    kl: float
    kl_error: float
    flips: float
    flips_error: float
    perplexity: float  # how many times that of the reference
    perplexity_low: float
    perplexity_high: float
    times: float  # smaller than without look-ahead the divergence is
    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """What has to be recomputed for a divergence so many times smaller, over all texts."""

    kind: str
    stored_bits: int
    rule: str
    kl: float  # without look-ahead
    kl_error: float
    factor: int
    reached: int  # by so many texts
    share: float
    low: float
    high: float
    at_random: float  # the largest factor of the control
    at_random_low: float
    at_random_high: float


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of a run on a text, and that of float32."""

    text: str
    tokens: int
    rule: str
    recomputed: float
    perplexity: float
    perplexity_error: float
    reference: float


class Runs:
    """The metrics of all runs, by kind of text, precision, rule and tau; and by text."""

    def __init__(self, records: Sequence[Run]) -> None:
        self.found: dict[tuple[str, int, str, float], dict[str, Any]] = {}
        for record in records:
            if record.metrics is not None:
                text, _, kind = record.text.rpartition(", ")
                rule = rule_of(record)
                tau = math.nan if rule == "none" else lamp.LAMP.parse(record.lamp).tau
                key = kind, record.variables["mu"], rule, _key(tau)
                self.found.setdefault(key, {})[text] = record.metrics

    def bases(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The runs without look-ahead, by kind and precision."""
        return {key[:2]: texts for key, texts in self.found.items() if key[2] == "none"}

    def curve(self, kind: str, mu: int, rule: str, text: str) -> list[Any]:
        """The metrics of a rule on a text, by recomputation rate."""
        found = [
            texts[text]
            for key, texts in self.found.items()
            if key[:3] == (kind, mu, rule) and text in texts
        ]
        return sorted(found, key=lambda metrics: metrics.recomputation_rate)

    def point(self, key: tuple[str, int, str, float]) -> Point:
        """A rule at a tau."""
        texts, bases = self.found[key], self.bases()[key[:2]]
        logs = [math.log(bases[text].kl / each.kl) for text, each in texts.items()]
        worse = [math.log(each.perplexity / each.reference_perplexity) for each in texts.values()]
        (kl, kl_error), (flips, flips_error), (recomputed, _) = (
            mean([getattr(each, name) for each in texts.values()])
            for name in ("kl", "flip_rate", "recomputation_rate")
        )
        return Point(
            *key[:3], key[3] or math.nan, len(texts), sum(each.tokens for each in texts.values()),
            recomputed, kl, kl_error, flips, flips_error, *geometric(worse), *geometric(logs),
        )  # fmt: skip

    def points(self) -> list[Point]:
        """All rules at all taus, by the share recomputed."""
        found = [self.point(key) for key in self.found]
        return sorted(
            found, key=lambda each: (each.kind, each.stored_bits, each.rule, each.recomputed)
        )

    def shares(self, version: Version) -> list[Share]:
        """What has to be recomputed, of each kind, precision, rule and factor."""
        found = []
        for (kind, mu), bases in sorted(self.bases().items()):
            for rule in version.taus:
                control = version.control(rule)
                best = {
                    text: math.log(base.kl / min(m.kl for m in self.curve(kind, mu, control, text)))
                    for text, base in bases.items()
                }
                kl = mean([base.kl for base in bases.values()])
                for factor in FACTORS:
                    shares = [
                        rate_for(base.kl, self.curve(kind, mu, rule, text), factor)
                        for text, base in bases.items()
                    ]
                    logs = [math.log(share) for share in shares if not math.isnan(share)]
                    interval = geometric(logs) if logs else (math.nan,) * 3
                    found.append(
                        Share(
                            kind, mu, rule, *kl, factor, len(logs), *interval,
                            *geometric(list(best.values())),
                        )
                    )  # fmt: skip
        return found


def _key(tau: float | None) -> float:
    """A tau as part of a key: NaN, which is not equal to itself, as zero."""
    return 0.0 if tau is None or math.isnan(tau) else tau


def rate_for(base: float, curve: Sequence[Any], factor: float) -> float:
    """The rate at which the divergence is that many times smaller: between two runs, by logarithms.

    NaN where no run gets there.
    """
    before = None
    for metrics in curve:
        if metrics.kl <= base / factor:
            if before is None or not before.recomputation_rate:
                return float(metrics.recomputation_rate)
            x = [math.log(m.kl) for m in (metrics, before)]
            y = [math.log(m.recomputation_rate) for m in (metrics, before)]
            return math.exp(float(np.interp(math.log(base / factor), x, y)))
        before = metrics
    return math.nan


def table(shares: Sequence[Share], model: str) -> Table:
    """How much has to be recomputed."""
    title = f"{model}: scores recomputed for smaller divergences, 95% intervals of so many texts"
    found = Table(title=title, title_justify="left")
    for heading in ("text", "mu", "rule", "KL"):
        found.add_column(heading)
    for factor in FACTORS:
        found.add_column(f"{factor}x")
    found.add_column("random, at the most")
    for rows in (shares[i : i + len(FACTORS)] for i in range(0, len(shares), len(FACTORS))):
        first = rows[0]
        facts = [first.kind, str(first.stored_bits), first.rule, f"{first.kl:.2e}"]
        cells = [
            f"{row.share:.1%} [{row.low:.1%}, {row.high:.1%}] of {row.reached}"
            if row.reached
            else "-"
            for row in rows
        ]
        found.add_row(*facts, *cells, f"{first.at_random:.1f}x")
    return found


def perplexities(records: Sequence[Run]) -> list[Perplexity]:
    """The perplexity of each run on each text beside that of float32."""
    return [
        Perplexity(
            record.text.rpartition(", ")[0], record.metrics.tokens, record.lamp,
            record.metrics.recomputation_rate, record.metrics.perplexity,
            record.metrics.perplexity_error, record.metrics.reference_perplexity,
        )
        for record in records
        if record.metrics is not None
    ]  # fmt: skip


def plot(points: Sequence[Point], model: str, version: Version, path: Path) -> None:
    """Divergence and flips against the share that is recomputed, one colour a precision."""
    kinds = [kind for kind in KINDS if any(point.kind == kind for point in points)]
    figure = Figure(figsize=(2.0 + 4.5 * len(kinds), 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(kinds), sharex=True, sharey="row", squeeze=False)
    bits = sorted({point.stored_bits for point in points})
    colours = _colours(bits)
    for column, kind in enumerate(kinds):
        for row, name in enumerate(("kl", "flips")):
            axes = panels[row][column]
            for mu in bits:
                here = [point for point in points if (point.kind, point.stored_bits) == (kind, mu)]
                for rule, (style, marker, _) in version.curves.items():
                    shown = [
                        point
                        for point in here
                        if point.rule == rule and point.recomputed and getattr(point, name)
                    ]
                    axes.errorbar(
                        [point.recomputed for point in shown], *_with_errors(shown, name),
                        color=colours[mu], ls=style, marker=marker, ms=3.5, lw=1.1, elinewidth=0.7,
                    )  # fmt: skip
                for base in here:
                    if base.rule == "none" and getattr(base, name):
                        axes.axhline(getattr(base, name), color=colours[mu], lw=0.6, alpha=0.6)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(LogLocator())
            axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.25)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        panels[0][column].set_title(f"{kind} text", loc="left", weight="bold")
        panels[1][column].set_xlabel("query-key products recomputed in float32")
    panels[0][0].set_ylabel("KL(reference || model), nats per token")
    panels[1][0].set_ylabel("tokens whose argmax flips")
    handles = [Line2D([], [], color=colours[mu], lw=4, label=f"PS({mu})") for mu in bits]
    handles += [
        Line2D([], [], color="0.25", linestyle=style, marker=marker, markersize=4, label=label)
        for style, marker, label in version.curves.values()
    ]
    handles.append(Line2D([], [], color="0.25", lw=0.6, label="no recomputation"))
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    texts = max(point.texts for point in points)
    figure.suptitle(
        f"{model}: look-ahead recomputation of attention scores; means over {texts} texts with "
        "standard errors",
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=160)


def _with_errors(points: Sequence[Point], name: str) -> tuple[list[float], list[list[float]]]:
    """Numbers and the lengths of their bars; one down to zero would not end on this axis."""
    values = [getattr(point, name) for point in points]
    errors = [getattr(point, f"{name}_error") for point in points]
    down = [min(error, 0.9 * value) for value, error in zip(values, errors, strict=True)]
    return values, [down, errors]


def _colours(bits: Sequence[int]) -> dict[int, Any]:
    scale = Normalize(min(bits), max(bits) + 2)  # the lightest yellow is hard to see
    return {mu: colormaps["viridis"](scale(mu)) for mu in bits}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--version", type=int, choices=VERSIONS, default=2)
    parser.add_argument("--model", default="embedded", help="a name or a directory")
    parser.add_argument("--texts", nargs="+", default=TEXTS, help="text files, or names")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--tokens", type=int, default=512, help="of each text")
    parser.add_argument("--length", type=int, default=256, help="of a window")
    parser.add_argument("--stored-bits", type=int, nargs="+")
    parser.add_argument("--taus", type=float, nargs="+", help="of every rule")
    parser.add_argument("--tau-every", type=int, default=1, metavar="N", help="every Nth tau")
    parser.add_argument("--control-every", type=int, default=1, metavar="N", help="of those")
    parser.add_argument("--reference", default="fp64", help="the paper's is fp32")
    parser.add_argument("--scaled", action="store_true", help="thresholds by the length of a row")
    parser.add_argument("--as-published", action="store_true", help="in the authors' arithmetic")
    parser.add_argument("--downstream", action="store_true", help="perplexities in place of curves")
    parser.add_argument("--store", type=Path, default=Path("paper.sqlite"))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--output", type=Path, default=Path(), help="an existing folder")
    options = parser.parse_args(arguments)
    if options.scaled and options.version == 1:
        parser.error("--scaled belongs to version 2")
    if not options.output.is_dir():
        parser.error(f"--output: there is no folder {options.output}")
    name = Path(options.model).name
    if options.as_published:
        options.model = with_published_gelu(options.model, options.output.absolute())
    planned = downstream(options) if options.downstream else study(options.version, options)
    lamp.sweep(planned, store=options.store, jobs=options.jobs)
    with Store.open(options.store) as store:
        records = list(store.runs(planned.name))
    if options.downstream:
        write(options.output / f"paper_{name}_downstream.csv", perplexities(records))
        return
    version, runs = VERSIONS[options.version], Runs(records)
    points, shares = runs.points(), runs.shares(version)
    called = [
        f"paper_{name}_v{options.version}",
        *(options.kinds if len(options.kinds) == 1 else ()),
    ]
    path = options.output / "_".join(called)
    write(path.with_suffix(".csv"), points)
    write(path.with_name(f"{path.name}_shares.csv"), shares)
    plot(points, name, version, path.with_suffix(".png"))
    console = Console(width=130, emoji=False, markup=False)
    console.print(table(shares, name))
    print(f"Wrote {path}.csv, {path}_shares.csv and {path}.png")


if __name__ == "__main__":
    main()
