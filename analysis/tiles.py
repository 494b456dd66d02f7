"""The price of whole parts: KL divergence against the share recomputed, for parts of several sizes.

    python analysis/tiles.py [--windows 6] [--csv tiles.csv] [--output docs/_static/figures]

Attention by tiles recomputes a part of a tile as a whole if one of its scores passes the relaxed
rule.  The embedded model reads held-out text on machines whose scores are summed in few bits; parts
are as large as FlashAttention's, smaller, and single scores.  Runs that the CSV has are not
repeated.  The figure has standard errors over windows, and the same CSV gives the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from findings import ROOT, STYLE, WIDTH, save
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from over_texts import append, read

import fpemu
import lamp
from lamp import LAMP, Hardware, Product, Tiled, checkpoints
from lamp.evaluation import evaluate, reference_logits
from lamp.studies import spread_windows

LENGTH: Final = 512
TAUS: Final = (0.5, 0.25, 0.125, 2.0**-4, 2.0**-6, 2.0**-8)
SATURATING: Final = fpemu.Rounding("rne", "saturate")
E4M3: Final = Product(fpemu.Sequential("float8_e4m3fn", SATURATING), rounding=SATURATING)
TABLE: Final = lamp.Function("e5m3", steps="bfloat16")
MACHINES: Final[Mapping[str, tuple[Product, Tiled]]] = {
    "scores in PS(4)": (Product("e8m4"), Tiled()),
    "scores in e4m3": (E4M3, Tiled()),
    "e4m3, exponentials in e5m3": (E4M3, Tiled(exponential=TABLE, rescaling=TABLE)),
}
"""The step scores of each machine, and its attention by tiles."""

# Rows of a tile, parts of its 64 columns, color (Okabe and Ito's), marker.
PARTS: Final[Mapping[str, tuple[int, int, str, str]]] = {
    "128 \N{MULTIPLICATION SIGN} 16": (128, 4, "#d55e00", "o"),
    "16 \N{MULTIPLICATION SIGN} 16": (16, 4, "#cc79a7", "s"),
    "1 \N{MULTIPLICATION SIGN} 16": (1, 4, "#0072b2", "D"),
    "single scores": (1, 64, "#009e73", "^"),
}
"""Each size of parts, queries times keys."""


@dataclass(frozen=True)
class Row:
    """One run: the size of parts and tau, or no rule; shares and divergence with their errors."""

    machine: str
    part: str
    tau: float
    windows: int
    share: float
    share_error: float
    kl: float
    kl_error: float

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What tells runs apart."""
        return self.machine, self.part, self.tau, self.windows


def plans() -> Iterator[tuple[str, str, float]]:
    """Machine, parts and tau of all runs; infinite without a rule."""
    for machine in MACHINES:
        yield machine, "none", np.inf
        for part in PARTS:
            for tau in TAUS:
                yield machine, part, tau


def measure(machine: str, part: str, tau: float, given: Sequence[Any]) -> Row:
    """One run on the windows."""
    model, windows, reference = given
    scores, tiled = MACHINES[machine]
    rule = None
    if part != "none":
        rows, parts, *_ = PARTS[part]
        tiled, rule = replace(tiled, rows=rows, parts=parts), LAMP("relaxed", tau)
    hardware = Hardware(machine, scores=scores, attention=tiled)
    found = evaluate(reference, model.with_hardware(hardware, rule), windows)
    rate, kl = found.estimate("recomputation_rate"), found.estimate("kl")
    errors = rate.error if rule else 0.0, kl.error
    return Row(machine, part, tau, len(windows), rate.value, errors[0], kl.value, errors[1])


def draw(rows: Sequence[Row]) -> Figure:
    """KL divergence against the share of scores recomputed, a panel for each machine."""
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(1, len(MACHINES), sharex=True, sharey=True)
    for axes, machine in zip(grid, MACHINES, strict=True):
        (without,) = (row for row in rows if row.machine == machine and row.part == "none")
        axes.axhline(without.kl, color="#1c1f24", lw=1.2, ls="--", zorder=1)
        band = without.kl - without.kl_error, without.kl + without.kl_error
        axes.axhspan(*band, color="#1c1f24", alpha=0.12, lw=0, zorder=0)
        for part, (_, _, color, marker) in PARTS.items():
            chosen = sorted(
                (row.share, row.kl, row.share_error, row.kl_error)
                for row in rows
                if (row.machine, row.part) == (machine, part)
            )
            x, y, across, up = np.array(chosen).T
            axes.errorbar(
                100 * x, y, up, 100 * across, color=color, marker=marker, ms=4.5, lw=1.5,
                elinewidth=1.0, label=part,
            )  # fmt: skip
        axes.set_title(machine, loc="left")
        axes.set_yscale("log")
        axes.set_xlim(0, 102)
        axes.set_ylim(1e-6, 0.3)  # below, all but a few scores are recomputed
        axes.set_xticks([0, 25, 50, 75, 100], ["0", "25%", "50%", "75%", "all"])
        axes.minorticks_off()
    grid[0].annotate(
        "nothing recomputed", (3, grid[0].lines[0].get_ydata()[0]), (0, 5),
        textcoords="offset points", fontsize=9,
    )  # fmt: skip
    grid[0].set_ylabel("KL divergence, nats per token")
    figure.supxlabel("share of attention scores recomputed in float32", fontsize=10)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=len(PARTS), frameon=False,
        title="parts recomputed as a whole, queries \N{MULTIPLICATION SIGN} keys",
        alignment="left",
    )  # fmt: skip
    return figure


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A table in Markdown: each machine and size at the tau whose divergence is a tenth at most."""
    yield "| machine | parts | share recomputed at a tenth of the KL divergence |"
    yield "| --- | --- | --- |"
    for machine in MACHINES:
        (without,) = (row for row in rows if row.machine == machine and row.part == "none")
        for part in PARTS:
            good = [
                row
                for row in rows
                if (row.machine, row.part) == (machine, part) and row.kl <= without.kl / 10
            ]
            best = min(good, key=lambda row: row.share, default=None)
            found = "never"
            if best is not None:
                found = f"{best.share:.1%} ± {best.share_error:.1%} (tau {best.tau:g})"
            yield f"| {machine} | {part} | {found} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=6, help=f"of {LENGTH} tokens")
    parser.add_argument("--csv", type=Path, default=Path("tiles.csv"), help="results")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "_static" / "figures", help="a folder"
    )
    options = parser.parse_args()
    if not options.output.is_dir():
        parser.error(f"--output: there is no folder {options.output}")
    done = {row.key for row in read(options.csv, Row)}
    wanted = [plan for plan in plans() if (*plan, options.windows) not in done]
    if wanted:
        model = lamp.from_pretrained("embedded")
        tokens = model.encode(checkpoints.read_text())
        windows = spread_windows(tokens, LENGTH, options.windows)
        given = model, windows, reference_logits(model.with_hardware("fp64"), windows)
        for plan in wanted:
            append(options.csv, [measure(*plan, given)])
    drawn = {(*plan, options.windows) for plan in plans()}
    rows = [row for row in read(options.csv, Row) if row.key in drawn]
    with matplotlib.rc_context(STYLE):
        save(draw(rows), options.output / "tiles.svg")
    print("\n".join(table(rows)))
    print(f"Wrote {options.output / 'tiles.svg'}")


if __name__ == "__main__":
    main()
