"""Draw the figures of the README and of the documentation from files that commands have written.

    lamp demo
    python analysis/figures.py [--demo demo/results.csv] [--output docs/_static/figures]

Each figure is an SVG file.  The same file gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

ROOT = Path(__file__).parents[1]
WIDTH = 7.3  # inches: 10 points are 13 pixels where the figure is 700 pixels wide

# Color (Okabe and Ito's, which color-blind readers can tell apart), marker and label of each rule.
RULES: Mapping[str, tuple[str, str, str]] = {
    "random": ("#5b626d", "s", "random choice"),
    "normwise": ("#d55e00", "o", "version 1's rule"),
    "total_variation": ("#0072b2", "D", "one threshold per layer on |y| z(1 \N{MINUS SIGN} z)"),
}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dfe3e8",
    "svg.hashsalt": "fpemu-lamp",
}

Runs = Sequence[Mapping[str, str]]


def rule_of(run: Mapping[str, str]) -> str:
    """The name of a run's rule, without its weights."""
    return run["rule"].partition(",")[0]


def divergence_axis(axes: Any, divergences: Sequence[float]) -> None:
    """A logarithmic axis; where a divergence is zero, linear below the smallest that is not."""
    if min(divergences) > 0:
        axes.set_yscale("log")
    else:
        smallest = min((kl for kl in divergences if kl > 0), default=1.0)
        axes.set_yscale("symlog", linthresh=smallest)


def panel(axes: Any, runs: Runs) -> None:
    """The curves of one precision; each begins at the run without look-ahead."""
    (without,) = (run for run in runs if run["rule"] == "none")
    for rule, (color, marker, label) in RULES.items():
        chosen = [without, *(run for run in runs if rule_of(run) == rule)]
        points = sorted(
            (100 * float(run["recomputation_rate"]), float(run["kl"])) for run in chosen
        )
        axes.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.6, zorder=2)
        # The first point is that of all three rules.
        axes.plot(*zip(*points[1:], strict=True), color=color, marker=marker, ls="none", zorder=3)
    axes.plot(0, float(without["kl"]), color="#1c1f24", marker="o", clip_on=False, zorder=4)


def equal_rates(path: Path) -> Figure:
    """KL divergence against the share of scores recomputed, a panel for each precision."""
    with path.open(newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    precisions = sorted({int(run["stored_bits"]) for run in runs})
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(1, len(precisions), sharex=True, sharey=True, squeeze=False)[0]
    for axes, precision in zip(grid, precisions, strict=True):
        panel(axes, [run for run in runs if int(run["stored_bits"]) == precision])
        axes.set_title(f"{precision} stored bits, PS({precision})", loc="left")
        axes.set_xticks(range(0, 41, 10), [f"{share}%" for share in range(0, 41, 10)])
        axes.set_xlim(0, 40)
    divergence_axis(grid[0], [float(run["kl"]) for run in runs])
    grid[0].set_ylabel("KL divergence, nats per token")
    figure.supxlabel("share of attention scores recomputed in float32", fontsize=10)
    handles = [
        Line2D([], [], color=color, marker=marker, label=label)
        for color, marker, label in RULES.values()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
    return figure


FIGURES = {"demo": ("kl_against_share_recomputed.svg", equal_rates)}


def save(figure: Figure, path: Path) -> None:
    """Write a figure on a white ground, without the date."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", facecolor="white", metadata={"Date": None})
    path.write_bytes(content.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--demo", type=Path, default=Path("demo/results.csv"), help="written by `lamp demo`"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "_static" / "figures", help="a folder"
    )
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for source, (name, draw) in FIGURES.items():
        path: Path = getattr(options, source)
        if not path.is_file():
            parser.error(f"--{source} {path}: there is no such file")
        with matplotlib.rc_context(STYLE):
            save(draw(path), options.output / name)
        print(f"Wrote {options.output / name}")


if __name__ == "__main__":
    main()
