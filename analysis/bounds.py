"""How tight the error bounds of f(g(x)) are, and whether one ever fails.

    python analysis/bounds.py [--cases 2000] [--jobs 2] [--output .]

For every composition, format, length of the inner products and kind of bound: the error of a
simulated machine over its bound, judged by mpmath on exact rational inner products, of random and
adversarial data.  Writes bounds.csv (the distributions), probabilistic.csv (how often the
probabilistic bounds fail, against what they promise) and bounds.png.  Exits with 1 if a rigorous
bound is ever exceeded.

A case is one component of one row.  ``--cases`` counts them for every composition and format.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

import fpemu
from lamp import bounds, testing
from lamp.bounds.compositions import (
    Composition,
    Entrywise,
    EntrywiseProduct,
    LayerNorm,
    Residual,
    RMSNorm,
    Softmax,
    SoftmaxProduct,
)
from lamp.bounds.evaluations import RoundedOnce

SEED = 2026
N = 16  # components of a row
TERMS = (4, 64, 256)
FORMATS = (*(f"ps{mu}" for mu in range(2, 11)), "bfloat16", "float16", "fp8 e4m3", "fp8 e5m2")
NAMES = {"fp8 e4m3": "float8_e4m3fn", "fp8 e5m2": "float8_e5m2"}
BOUNDS = {
    "deterministic": ("deterministic", "rigorous"),
    "deterministic, first order": ("deterministic", "first_order"),
    "running": ("running", "rigorous"),
    "probabilistic (1e-3)": ("probabilistic", "rigorous"),
}
RIGOROUS = ("deterministic", "running")
PROMISES = (0.5, 0.1, 0.01, 1e-3)

_generator = np.random.default_rng(SEED)
_gain, _shift = _generator.normal(size=(2, N))
_matrix = _generator.normal(size=(N, N))
COMPOSITIONS: dict[str, Composition] = {
    "softmax": Softmax(),
    "softmax V": SoftmaxProduct(_matrix),
    "RMSNorm": RMSNorm(_gain),
    "LayerNorm": LayerNorm(_gain, _shift),
    "GELU": Entrywise("gelu"),
    "gelu_new": Entrywise("gelu_new"),
    "SiLU": Entrywise("silu"),
    "ReLU": Entrywise("relu"),
    "sigmoid": Entrywise("sigmoid"),
    "tanh": Entrywise("tanh"),
    "gelu_new W": EntrywiseProduct("gelu_new", _matrix),
    "residual": Residual(_shift),
}


@dataclass(frozen=True)
class Row:
    """A distribution of errors over bounds."""

    composition: str
    format: str
    terms: int
    bound: str
    cases: int
    violations: int
    void: float  # share of bounds that are infinite
    least: float
    median: float
    largest: float


# --- data -----------------------------------------------------------------------------------------


def operands(format: fpemu.Format, terms: int, rows: int, seed: int) -> tuple[Any, Any]:
    """Factors of `rows` rows of N inner products, of four kinds in turn."""
    generator = np.random.default_rng([SEED, seed, terms])
    a = generator.normal(size=(rows, terms)) / terms**0.25
    b = generator.normal(size=(terms, N)) / terms**0.25
    kind = seed % 4
    if kind == 1:  # the second half of each product nearly undoes the first
        half = terms // 2
        a[:, half : 2 * half] = -a[:, :half]
        b[half : 2 * half] = b[:half] * (1 + generator.normal(size=(half, N)) * 2.0**-6)
    elif kind == 2:  # one component far above the others
        b[:, 3] = 4 * np.sign(a[0]) / terms**0.25
    elif kind == 3:  # exponents far apart, some products lost
        a = np.ldexp(a, generator.integers(-8, 5, a.shape))
    saturating = fpemu.Rounding(overflow="saturate")
    return tuple(np.asarray(fpemu.round(x, format, saturating), np.float64) for x in (a, b))


def accumulator_of(name: str) -> tuple[fpemu.Accumulator, fpemu.Format]:
    """The sequential accumulator of a format, and the format of its inputs."""
    format = fpemu.format(NAMES.get(name, name))
    return fpemu.Sequential(format), format if name in NAMES else fpemu.format("bfloat16")


# --- the distributions ----------------------------------------------------------------------------


def batches(inputs: fpemu.Format, terms: int, cases: int) -> Iterator[tuple[Any, Any, Any]]:
    """Data of so many inner products, with the exact ones."""
    rows = 16
    for seed in range(max(4, -(-cases // (rows * N)))):
        a, b = operands(inputs, terms, rows, seed)
        yield a, b, testing.exact_products(a, b)


def distributions(task: tuple[str, int, int]) -> list[Row]:
    """Of all compositions and formats that take the inputs of one format, at one length."""
    inputs, terms, cases = task
    ratios: dict[tuple[str, str, str], list[Any]] = {}
    limits: dict[tuple[str, str, str], list[Any]] = {}
    for a, b, exact in batches(fpemu.format(inputs), terms, cases):
        values = {
            name: testing.reference_values(composition, exact)
            for name, composition in COMPOSITIONS.items()
        }
        for format in FORMATS:
            accumulator, of_inputs = accumulator_of(format)
            if of_inputs != fpemu.format(inputs):
                continue
            for name, (kind, order) in BOUNDS.items():
                arguments = bounds.products(a, b, accumulator, kind=kind)
                for what, composition in COMPOSITIONS.items():
                    found = bounds.bound(
                        composition,
                        arguments,
                        order=order,
                        evaluation=RoundedOnce(accumulator.format),
                    )
                    key = (what, format, name)
                    ratios.setdefault(key, []).append(testing.tightness(found, values[what]))
                    limits.setdefault(key, []).append(found.value)
    return [
        summarised(
            *key, terms, np.concatenate(found, axis=None), np.concatenate(limits[key], axis=None)
        )
        for key, found in ratios.items()
    ]


def summarised(
    composition: str, format: str, name: str, terms: int, ratios: Any, limits: Any
) -> Row:
    """A row of the table."""
    finite = ratios[np.isfinite(limits)]
    held = finite if finite.size else np.zeros(1)
    return Row(
        composition,
        format,
        terms,
        name,
        ratios.size,
        int((ratios > 1).sum()),
        float(np.isinf(limits).mean()),
        float(held.min()),
        float(np.median(held)),
        float(held.max()),
    )


# --- promises -------------------------------------------------------------------------------------


def failures(format: str, terms: int, products: int) -> list[dict[str, Any]]:
    """How often the probabilistic bounds of inner products fail, against what they promise."""
    generator = np.random.default_rng([SEED, terms])
    a = np.asarray(fpemu.round(generator.normal(size=(products // 50, terms)), "bfloat16"))
    b = np.asarray(fpemu.round(generator.normal(size=(terms, 50)), "bfloat16"))
    exact = a.astype(np.float64) @ b.astype(np.float64)  # these sums are exact but for 2**-40
    found = []
    for kind, rounding in (
        ("probabilistic", fpemu.Rounding("rne")),
        ("stochastic", fpemu.Rounding("sr", seed=SEED)),
    ):
        accumulator = fpemu.Sequential(format, rounding)
        for promise in PROMISES:
            errors = bounds.products(a, b, accumulator, kind=kind, failure_probability=promise)
            failed = np.abs(errors.computed - exact) > errors.errors
            row = {"format": format, "terms": terms, "kind": kind, "promised": promise}
            found.append(row | {"products": failed.size, "failed": float(failed.mean())})
    return found


# --- output ---------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV of rows that have the same keys."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def plot(rows: list[Row], path: Path) -> None:
    """For every composition: bound over error, in the median and at its tightest, by format."""
    figure = Figure(figsize=(14, 10), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, 4, sharex=True, sharey=True)
    colours = dict(zip(BOUNDS, ("#0072b2", "#56b4e9", "#d55e00", "#009e73"), strict=True))
    places = np.arange(len(FORMATS))
    for axes, composition in zip(grid.flat, COMPOSITIONS, strict=True):
        for shift, (name, colour) in enumerate(colours.items()):
            chosen = [
                next(
                    row
                    for row in rows
                    if (row.composition, row.format, row.terms, row.bound)
                    == (composition, format, 64, name)
                )
                for format in FORMATS
            ]
            shown = [
                (1 / row.largest, 1 / row.median) if row.median > 0 else (np.nan,) * 2
                for row in chosen
            ]
            low, high = np.array(shown).T
            x = places + 0.18 * (shift - 1.5)
            axes.vlines(x, low, high, color=colour, linewidth=2, alpha=0.5)
            axes.plot(x, high, "o", color=colour, markersize=3, label=name)
            axes.plot(x, low, "_", color=colour, markersize=6)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_title(composition, loc="left")
        axes.set_xticks(places, FORMATS, rotation=90, fontsize=8)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("bound / error")
    grid[0, 0].set_ylim(0.5, 1e6)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        "Bounds of f(g(x)), 64 terms summed in index order: median (dot) and tightest case (dash)",
        x=0.01,
        ha="left",
        weight="bold",
    )
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000, help="of every composition and format")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--output", type=Path, default=Path(), help="an existing folder")
    options = parser.parse_args()
    if not options.output.is_dir():
        parser.error(f"--output: there is no folder {options.output}")
    console = Console()
    share = -(-options.cases // len(TERMS))
    inputs = ("bfloat16", *NAMES.values())
    # In parts, so that all processes have work.
    tasks = [(name, terms, share) for terms in reversed(TERMS) for name in inputs]
    rows: list[Row] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        done = pool.map(distributions, tasks)
        for found in track(done, "bounds", len(tasks), console=console):
            rows += found
    rows.sort(key=lambda row: (row.composition, FORMATS.index(row.format), row.terms))
    write(options.output / "bounds.csv", [asdict(row) for row in rows])
    promises = [
        row
        for name in ("ps7", "ps10")
        for terms in (64, 256)
        for row in failures(name, terms, 20000)
    ]
    write(options.output / "probabilistic.csv", promises)
    plot(rows, options.output / "bounds.png")
    violations = sum(row.violations for row in rows if row.bound in RIGOROUS)
    cases = sum(row.cases for row in rows if row.bound in RIGOROUS)
    console.print(f"{violations} of {cases} rigorous bounds exceeded")
    for row in promises:
        console.print(
            f"{row['kind']}, {row['format']}, {row['terms']} terms: promised {row['promised']}, "
            f"failed {row['failed']:.2g}"
        )
    raise SystemExit(1 if violations else 0)


if __name__ == "__main__":
    main()
