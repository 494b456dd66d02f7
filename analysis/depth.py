"""How rounding errors grow from layer to layer through a decoder.

    python analysis/depth.py [--model embedded] [--machines fp32 bf16 hopper-fp8 ...] [--tokens 128]

For every token and layer the relative error of the residual stream against the same weights in
float64: the median over tokens and the band from the tenth to the ninetieth percentile, one colour
a machine; beside it every token's error on the last machine.  Writes depth_NAME.png and
depth_NAME.csv.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from rich.progress import track

import lamp
from lamp import checkpoints

MACHINES = ["fp32", "fp16", "bf16", "ps7", "hopper-fp8", "blackwell-nvfp4"]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
QUANTILES = (0.1, 0.5, 0.9)


def write(path: Path, maps: dict[str, Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["machine", "layer", "token", "error", "size"])
        for machine, found in maps.items():
            for layer, (errors, sizes) in enumerate(zip(found.errors, found.sizes, strict=True)):
                for token, (error, size) in enumerate(zip(errors, sizes, strict=True)):
                    writer.writerow([machine, layer, token, error, size])


def plot(maps: dict[str, Any], model: str, path: Path) -> None:
    figure = Figure(figsize=(12.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for (machine, found), colour in zip(maps.items(), COLOURS, strict=False):
        quantiles = np.quantile(found.relative, QUANTILES, axis=1)
        low, middle, high = np.where(quantiles > 0, quantiles, np.nan)  # exact sums have no place
        layers = np.arange(len(middle))
        left.plot(layers, middle, color=colour, marker="o", markersize=3, label=machine)
        left.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
    left.set_yscale("log")
    left.set_xlabel("layers behind it")
    left.set_ylabel("relative error of the stream")
    left.set_title("Median and 80% of the tokens", loc="left", weight="bold")
    left.grid(alpha=0.3)
    left.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for side in ("top", "right"):
        left.spines[side].set_visible(False)
    machine, found = list(maps.items())[-1]
    shown = np.maximum(found.relative, np.min(found.relative[found.relative > 0]))
    picture = right.imshow(shown, aspect="auto", norm=LogNorm(), cmap="viridis", origin="lower")
    right.set_xlabel("token")
    right.set_ylabel("layers behind it")
    right.set_title(f"Every token on {machine}", loc="left", weight="bold")
    figure.colorbar(picture, ax=right, label="relative error")
    figure.suptitle(f"{model}: rounding errors of the residual stream", x=0.01, ha="left")
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="a name or a directory")
    parser.add_argument("--machines", nargs="+", default=MACHINES)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--output", type=Path, default=Path(), help="an existing folder")
    options = parser.parse_args()
    model, name = lamp.from_pretrained(options.model), Path(options.model).name
    tokens = model.encode(checkpoints.read_text())[: options.tokens]
    maps = {
        machine: model.with_hardware(machine).depth_map(tokens)
        for machine in track(options.machines, "machines")
    }
    for machine, found in maps.items():
        growth = np.median(found.relative, axis=1)
        print(f"{machine:12} median {growth[0]:.1e} before, {growth[-1]:.1e} behind the last layer")
    write(options.output / f"depth_{name}.csv", maps)
    plot(maps, name, options.output / f"depth_{name}.png")


if __name__ == "__main__":
    main()
