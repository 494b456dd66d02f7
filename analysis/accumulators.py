"""How the error of an inner product grows with its length, by accumulator.

    python analysis/accumulators.py [--largest 1048576] [--draws 4] [--output .]

Writes accumulators.csv (median and maximum over the draws, and the bound) and accumulators.png.
Errors are relative to the sum of magnitudes; the data are members of each unit's input format.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.progress import track

import fpemu
from fpemu import Accumulator, devices

SEED = 2026
STOCHASTIC = fpemu.Rounding("sr", seed=SEED)

SMALL = {
    **{f"PS({mu}) sequential": fpemu.Sequential(f"e8m{mu}") for mu in range(4, 11)},
    "PS(7) stochastic": fpemu.Sequential("e8m7", STOCHASTIC),
    "PS(7) blocks of 16": fpemu.Blocked("e8m7", 16),
    "PS(7) pairwise": fpemu.Pairwise("e8m7"),
    "PS(7) exact": fpemu.Exact("e8m7"),
}
UNITS = {
    "Volta fp16": "volta.mma.float16",
    "Ampere bf16": "ampere.mma.bfloat16",
    "Ada fp8": "ada.mma.e4m3",
    "Hopper fp16": "hopper.wgmma.float16",
    "Hopper fp8 (wgmma)": "hopper.wgmma.e4m3",
    "Hopper fp8, promoted": "hopper.wgmma-promoted.e4m3",
    "Hopper fp8 (mma)": "hopper.mma.e4m3",
    "Blackwell fp8": "blackwell.tcgen05.e4m3",
    "CDNA1 fp16": "cdna1.mfma.float16",
    "CDNA2 fp16": "cdna2.mfma.float16",
    "CDNA3 bf16": "cdna3.mfma.bfloat16",
    "AMX bf16": "intel.amx.bfloat16",
    "BFDOT bf16": "arm.bfdot.bfloat16",
}
SHOWN_SMALL = ("PS(4) sequential", "PS(7) sequential", "PS(10) sequential", *list(SMALL)[7:])
SHOWN_UNITS = (
    "Volta fp16",
    "Hopper fp16",
    "Hopper fp8 (wgmma)",
    "Hopper fp8, promoted",
    "CDNA2 fp16",
    "CDNA3 bf16",
)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


@dataclass(frozen=True)
class Row:
    """The errors of one accumulator at one length."""

    data: str
    accumulator: str
    length: int
    median: float
    largest: float
    bound: float


def draw(data: str, draws: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the terms, before they are rounded into a format."""
    generator = np.random.default_rng([SEED, length])
    a, b = generator.uniform(0.5, 2, (2, draws, length))
    return (a, b) if data == "positive" else (a * generator.choice([-1, 1], (draws, length)), b)


def measure(name: str, accumulator: Accumulator, data: str, draws: int, length: int) -> Row:
    """The errors of an accumulator on the draws of a length."""
    formats = [format or fpemu.format("float32") for format in accumulator.input_formats]
    a, b = (
        fpemu.round(x, format).astype(np.float32)
        for x, format in zip(draw(data, draws, length), formats, strict=True)
    )
    sums, exact = (
        fpemu.matmul(a[:, None], b[:, :, None], each).ravel().astype(np.float64)
        for each in (accumulator, fpemu.Exact("float64"))
    )
    magnitudes = np.sum(np.abs(a.astype(np.float64) * b), axis=1)
    errors = np.abs(sums - exact) / magnitudes
    bound = accumulator.error_bound(length)
    return Row(data, name, length, float(np.median(errors)), float(errors.max()), bound)


def plot(rows: list[Row], path: Path) -> None:
    """Small accumulators above, machines below; positive data left, mixed signs right."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    panels = (("small formats", SHOWN_SMALL), ("machines", SHOWN_UNITS))
    for (what, names), line in zip(panels, grid, strict=True):
        for data, axes in zip(("positive", "of both signs"), line, strict=True):
            for name, colour in zip(names, COLOURS, strict=False):
                draw_line(
                    axes, [r for r in rows if (r.data, r.accumulator) == (data, name)], colour
                )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_title(f"{what}, terms {data}", loc="left")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("error / sum of magnitudes")
        line[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        line[0].set_ylim(*((1e-6, 2) if names is SHOWN_SMALL else (1e-10, 2)))
    for axes in grid[1]:
        axes.set_xlabel("terms")
    figure.suptitle(
        "The error of an inner product: median of the draws; dashed, the proved bound",
        x=0.01,
        ha="left",
        weight="bold",
    )
    figure.savefig(path, dpi=140)


def draw_line(axes: Any, rows: list[Row], colour: str) -> None:
    lengths = [row.length for row in rows]
    medians = np.array([row.median for row in rows])
    axes.plot(lengths, np.where(medians > 0, medians, np.nan), color=colour,
              label=rows[0].accumulator, marker="o", markersize=3)  # fmt: skip
    bounds = np.array([row.bound for row in rows])
    axes.plot(lengths, np.where(bounds < 1, bounds, np.nan), color=colour, ls="--", lw=0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=2**20, help="the greatest length")
    parser.add_argument("--draws", type=int, default=4, help="inner products a length")
    parser.add_argument("--output", type=Path, default=Path("."), help="an existing folder")
    options = parser.parse_args()
    if not options.output.is_dir():
        parser.error(f"--output {options.output} is not a folder")
    if options.largest < 16 or options.draws < 1:
        parser.error("--largest must be at least 16, --draws at least 1")
    lengths = [2**e for e in range(4, options.largest.bit_length())]
    accumulators = SMALL | {name: devices.get(unit) for name, unit in UNITS.items()}
    work = [
        (name, accumulator, data, options.draws, length)
        for data in ("positive", "of both signs")
        for name, accumulator in accumulators.items()
        for length in lengths
    ]
    rows = [measure(*each) for each in track(work, description="inner products")]
    table = options.output / "accumulators.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "accumulator", "length", "median", "largest", "bound"])
        writer.writerows(vars(row).values() for row in rows)
    picture = options.output / "accumulators.png"
    plot(rows, picture)
    print(f"Wrote {table} and {picture}")


if __name__ == "__main__":
    main()
