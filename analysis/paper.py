"""The paper's experiment: look-ahead on attention scores against random choices and against none.

    python analysis/paper.py [--model embedded] [--store paper.sqlite] [--tokens 2048] [--jobs 1]

Scores are accumulated in PS(mu), mu stored bits from 2 to 22; the paper's rule recomputes some in
float32, tau from 2.0 (none) down to 1.02 (more and more), and the control as many in every row,
drawn at random; the text is natural, or its tokens are shuffled.  The reference is the same model
in float64, or in float32 as in the paper (--reference fp32).  All runs are kept in a store, so that
a second call does what is missing alone.

Writes paper_NAME.png (the Kullback-Leibler divergence and the flip rate against the share of
products recomputed) and prints how much has to be recomputed for a divergence 10, 100 and 1000
times smaller.  The model is any that lamp.from_pretrained takes; one without a tokenizer, as mgm,
reads token numbers from a file (--text).

Reference: Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623, section 5.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
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

STORED_BITS = tuple(range(2, 23, 2))
TAUS = (2.0, 1.8, 1.6, 1.4, 1.2, 1.1, 1.05, 1.02)
FACTORS = (10, 100, 1000)
KINDS = {False: "natural", True: "shuffled"}
RULES = {"normwise": ("-", "o", "paper's rule"), "random": (":", "x", "random control")}


def study(
    model: str,
    text: str,
    tokens: int,
    length: int,
    reference: str,
    stored_bits: Sequence[int],
    taus: Sequence[float],
) -> lamp.Study:
    """All runs for a model."""
    part = {"source": text, "tokens": tokens, "length": length}
    return lamp.Study(
        f"paper, {Path(model).name}, {reference}",
        models=[model],
        texts=[{**part, "name": name, "shuffled": kind} for kind, name in KINDS.items()],
        hardware=["scores-ps{mu}"],
        lamp=["none", "softmax:normwise:{tau}", "softmax:random:{tau}:seed={seed}"],
        reference=reference,
        grid={"mu": stored_bits, "tau": taus, "seed": (0,)},
    )


def rule_of(record: Run) -> str:
    """The rule of a run, ``"none"`` without look-ahead."""
    parts = record.lamp.split(":")
    return parts[1] if len(parts) > 1 else "none"


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


def table(records: Sequence[Run], model: str) -> Table:
    """How much has to be recomputed."""
    title = f"{model}: scores recomputed for a divergence that many times smaller"
    found = Table(title=title, title_justify="left")
    for heading in ("text", "mu", "KL", "flips"):
        found.add_column(heading)
    for factor in FACTORS:
        found.add_column(f"{factor}x")
    found.add_column("random, at the most")
    for text in KINDS.values():
        for mu in precisions(records):
            (base,) = chosen(records, text, mu, "none")
            curve = chosen(records, text, mu, "normwise")
            control = chosen(records, text, mu, "random")
            rates = [rate_for(base.kl, curve, factor) for factor in FACTORS]
            best = base.kl / min(metrics.kl for metrics in control)
            cells = ["-" if math.isnan(rate) else f"{rate:.1%}" for rate in rates]
            found.add_row(
                text, str(mu), f"{base.kl:.2e}", f"{base.flip_rate:.2%}", *cells, f"{best:.1f}x"
            )
        found.add_section()
    return found


def plot(records: Sequence[Run], model: str, path: Path) -> None:
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
                for rule, (style, marker, _) in RULES.items():
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
        for style, marker, label in RULES.values()
    ]
    handles.append(Line2D([], [], color="0.25", lw=0.6, label="no recomputation"))
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    figure.suptitle(f"{model}: look-ahead recomputation of attention scores", x=0.01, ha="left")
    figure.savefig(path, dpi=160)


def _colours(bits: Sequence[int]) -> dict[int, Any]:
    scale = Normalize(min(bits), max(bits) + 2)  # the lightest yellow is hard to see
    return {mu: colormaps["viridis"](scale(mu)) for mu in bits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="a name or a directory")
    parser.add_argument("--text", default="held-out", help="a text file")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--length", type=int, default=256, help="of a window")
    parser.add_argument("--stored-bits", type=int, nargs="+", default=STORED_BITS)
    parser.add_argument("--taus", type=float, nargs="+", default=TAUS)
    parser.add_argument("--reference", default="fp64", help="the paper's is fp32")
    parser.add_argument("--store", type=Path, default=Path("paper.sqlite"))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--output", type=Path, default=Path(), help="an existing folder")
    options = parser.parse_args()
    planned = study(
        options.model,
        options.text,
        options.tokens,
        options.length,
        options.reference,
        options.stored_bits,
        options.taus,
    )
    lamp.sweep(planned, store=options.store, jobs=options.jobs)
    with Store.open(options.store) as store:
        records = list(store.runs(planned.name))
    name = Path(options.model).name
    Console(width=110).print(table(records, name))
    path = options.output / f"paper_{name}.png"
    plot(records, name, path)
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
