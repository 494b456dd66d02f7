"""How the error of an inner product grows with its length, by accumulator.

    python analysis/accumulators.py [--largest 1048576] [--draws 4] [--output .]

Writes accumulators.csv (median and maximum over the draws, and the bound), and the figures
sums_in_few_bits.svg and sums_on_units.svg of the documentation.
Errors are relative to the sum of magnitudes; the data are members of each unit's input format.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
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
MARKERS = "osD^vPX"
FIGURES = {"sums_in_few_bits": (SHOWN_SMALL, 1e-6), "sums_on_units": (SHOWN_UNITS, 1e-10)}


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


def plot(rows: list[Row], names: Sequence[str], least: float, path: Path) -> None:
    """Some accumulators on positive terms, left, and on terms of both signs."""
    figure = Figure(figsize=(7.3, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for data, axes in zip(("positive", "of both signs"), panels, strict=True):
        for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
            found = [row for row in rows if (row.data, row.accumulator) == (data, name)]
            draw_line(axes, found, colour, marker)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylim(least, 2)
        axes.set_title(f"terms {data}", loc="left")
        axes.set_xlabel("number of terms")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("error / sum of magnitudes")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


def draw_line(axes: Any, rows: list[Row], colour: str, marker: str) -> None:
    """The medians of an accumulator, and its bound where it says anything, dashed."""
    lengths = [row.length for row in rows]
    medians = np.array([row.median for row in rows])
    axes.plot(lengths, np.where(medians > 0, medians, np.nan), color=colour,
              label=rows[0].accumulator, marker=marker, markersize=3)  # fmt: skip
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
    print(f"Wrote {table}")
    for name, (shown, least) in FIGURES.items():
        picture = options.output / f"{name}.svg"
        plot(rows, shown, least, picture)
        print(f"Wrote {picture}")


if __name__ == "__main__":
    main()
