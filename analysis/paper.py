"""The paper's experiments: look-ahead on attention scores against random choices and against none.

    python analysis/paper.py [--version 2] [--model embedded] [--store paper.sqlite] [--jobs 1]
    python analysis/paper.py --as-published --length 1024 --reference fp32 --model gpt2-xl
    python analysis/paper.py --downstream

Scores are accumulated in PS(mu), mu stored bits; a rule recomputes some in float32, and a control
as many at random; the text is natural, or its tokens are shuffled.  Version 1 has the rule normwise
with tau from 2.0 (none) down to 1.02 and a control within each row; version 2 the rules strict and
relaxed, and a control over whole padded rows.  With --scaled the thresholds of version 2 shrink as
rows grow.  The reference is the same model in float64, or in float32 as in the paper (--reference
fp32).  All runs are kept in a store, so that a second call does what is missing alone.

Writes paper_NAME_vN.png (the Kullback-Leibler divergence and the flip rate against the share of
products recomputed) and prints how much has to be recomputed for a divergence 10, 100 and 1000
times smaller.  --downstream prints the perplexity of float32, of mu = 4 alone and of mu = 4 with
the relaxed rule instead.

--as-published takes the arithmetic of the authors' code: sums in float32 that are rounded to mu
bits afterwards, a double rounding, and GELU by the error function whatever the model says.  The
model is any that lamp.from_pretrained takes; one without a tokenizer, as mgm, reads token numbers
from a file (--text).

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
from rich.console import Console
from rich.table import Table

import lamp
from lamp.studies import Run, Store

FACTORS = (10, 100, 1000)
KINDS = {False: "natural", True: "shuffled"}
LENGTH = 1024  # that thresholds are scaled by


@dataclass(frozen=True)
class Version:
    """What a version of the paper measures: rules by name, and what they are called in text."""

    stored_bits: tuple[int, ...]
    taus: Mapping[str, tuple[float, ...]]  # of each rule
    rules: Mapping[str, str]  # rule and control as one name: the text of a setting
    curves: Mapping[str, tuple[str, str, str]]  # line, marker, label


VERSIONS = {
    1: Version(
        tuple(range(2, 23, 2)),
        {"normwise": (2.0, 1.8, 1.6, 1.4, 1.2, 1.1, 1.05, 1.02)},
        {
            "normwise": "softmax:normwise:{normwise}",
            "random": "softmax:random:{normwise}:seed={seed}",
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
            "strict, padded": "softmax:strict:{strict}:control=padded:seed={seed}",
            "relaxed, padded": "softmax:relaxed:{relaxed}:control=padded:seed={seed}",
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
    taus = {rule: tuple(options.taus or values) for rule, values in published.taus.items()}
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
        texts=_texts(options)[:1],
        hardware=["published-ps4" if options.as_published else "scores-ps4"],
        lamp=DOWNSTREAM,
        reference="fp32",
    )


def _described(options: argparse.Namespace) -> str:
    facts = [Path(options.model).name, options.reference]
    facts += ["as published"] * options.as_published + ["scaled"] * options.scaled
    return ", ".join(facts)


def _texts(options: argparse.Namespace) -> list[dict[str, Any]]:
    part = {"source": options.text, "tokens": options.tokens, "length": options.length}
    return [{**part, "name": name, "shuffled": kind} for kind, name in KINDS.items()]


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


def chosen(records: Sequence[Run], text: str, mu: int, rule: str) -> list[Any]:
    """The metrics of the runs of a curve, by recomputation rate."""
    found = [
        record.metrics
        for record in records
        if record.text == text
        and record.variables["mu"] == mu
        and rule_of(record) == rule
        and record.metrics is not None
    ]
    return sorted(found, key=lambda metrics: metrics.recomputation_rate)


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


def precisions(records: Sequence[Run]) -> list[int]:
    """The numbers of stored bits."""
    return sorted({record.variables["mu"] for record in records})


def table(records: Sequence[Run], model: str, version: Version) -> Table:
    """How much has to be recomputed."""
    title = f"{model}: scores recomputed for a divergence that many times smaller"
    found = Table(title=title, title_justify="left")
    for heading in ("text", "mu", "rule", "KL", "flips"):
        found.add_column(heading)
    for factor in FACTORS:
        found.add_column(f"{factor}x")
    found.add_column("random, at the most")
    for text in KINDS.values():
        for mu in precisions(records):
            (base,) = chosen(records, text, mu, "none")
            for rule in version.taus:
                curve = chosen(records, text, mu, rule)
                controls = [name for name in version.rules if name in ("random", f"{rule}, padded")]
                control = chosen(records, text, mu, controls[0])
                rates = [rate_for(base.kl, curve, factor) for factor in FACTORS]
                best = base.kl / min(metrics.kl for metrics in control)
                cells = ["-" if math.isnan(rate) else f"{rate:.1%}" for rate in rates]
                facts = [text, str(mu), rule, f"{base.kl:.2e}", f"{base.flip_rate:.2%}"]
                found.add_row(*facts, *cells, f"{best:.1f}x")
        found.add_section()
    return found


def perplexities(records: Sequence[Run], model: str) -> Table:
    """The perplexity of each run beside that of float32."""
    found = Table(title=f"{model}: perplexity", title_justify="left")
    for heading in ("scores", "rule", "perplexity", "recomputed"):
        found.add_column(heading)
    (first, *_) = [record.metrics for record in records if record.metrics is not None]
    found.add_row("float32", "", f"{first.reference_perplexity:.3f}", "")
    for record in records:
        if record.metrics is not None:
            share = f"{record.metrics.recomputation_rate:.1%}"
            found.add_row("PS(4)", record.lamp, f"{record.metrics.perplexity:.3f}", share)
    return found


def plot(records: Sequence[Run], model: str, version: Version, path: Path) -> None:
    """Divergence and flips against the share that is recomputed, one colour a precision."""
    figure = Figure(figsize=(11.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    bits = precisions(records)
    colours = _colours(bits)
    for column, text in enumerate(KINDS.values()):
        for row, name in enumerate(("kl", "flip_rate")):
            axes = panels[row][column]
            for mu in bits:
                for rule, (style, marker, _) in version.curves.items():
                    curve = chosen(records, text, mu, rule)
                    points = [(m.recomputation_rate, getattr(m, name)) for m in curve]
                    points = [(x, y) for x, y in points if x and y]
                    if points:
                        x, y = zip(*points, strict=True)
                        axes.plot(
                            x, y, style, color=colours[mu], marker=marker, markersize=3.5, lw=1.1
                        )
                for base in chosen(records, text, mu, "none"):
                    if getattr(base, name):
                        axes.axhline(getattr(base, name), color=colours[mu], lw=0.6, alpha=0.6)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.25)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        panels[0][column].set_title(f"{text} text", loc="left", weight="bold")
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
    figure.suptitle(f"{model}: look-ahead recomputation of attention scores", x=0.01, ha="left")
    figure.savefig(path, dpi=160)


def _colours(bits: Sequence[int]) -> dict[int, Any]:
    scale = Normalize(min(bits), max(bits) + 2)  # the lightest yellow is hard to see
    return {mu: colormaps["viridis"](scale(mu)) for mu in bits}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--version", type=int, choices=VERSIONS, default=2)
    parser.add_argument("--model", default="embedded", help="a name or a directory")
    parser.add_argument("--text", default="held-out", help="a text file")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--length", type=int, default=256, help="of a window")
    parser.add_argument("--stored-bits", type=int, nargs="+")
    parser.add_argument("--taus", type=float, nargs="+", help="of every rule")
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
    name = Path(options.model).name
    if options.as_published:
        options.model = with_published_gelu(options.model, options.output.absolute())
    planned = downstream(options) if options.downstream else study(options.version, options)
    lamp.sweep(planned, store=options.store, jobs=options.jobs)
    with Store.open(options.store) as store:
        records = list(store.runs(planned.name))
    console = Console(width=110, emoji=False, markup=False)
    if options.downstream:
        console.print(perplexities(records, name))
        return
    version = VERSIONS[options.version]
    console.print(table(records, name, version))
    path = options.output / f"paper_{name}_v{options.version}.png"
    plot(records, name, version, path)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
