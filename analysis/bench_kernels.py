"""Products on every kind of accumulator against numpy's float32 product, with their targets.

    python analysis/bench_kernels.py [--size 768] [--rows 768] [--turns 7] [--markdown]

Each product is timed in turns with numpy's of the same size; `--rows 1` has those of generation,
`--columns` that the right operand lies in memory by columns.  The table has the median of the rates
in G multiply-adds a second with their least and greatest, and the median of the ratios to numpy.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from benchmark import environment, number, print_environment, print_table, seconds_in_turns

import fpemu
from fpemu import devices, scaling


@dataclass(frozen=True)
class Work:
    """A product to be timed; the rate that the design asks for, in G multiply-adds a second."""

    name: str
    accumulator: Any
    inputs: tuple[str, str] = ("float32", "float32")
    target: float | None = None
    share: float | None = None  # of numpy's, where the design asks for that

    @classmethod
    def unit(cls, name: str, target: float) -> Work:
        """A product on a matrix unit, of members of its formats."""
        unit = devices.get(name)
        left, right = unit.input_formats
        return cls(name, unit, (left.name, right.name), target)


WORKS: Final = (
    Work("Sequential float32", fpemu.Sequential("float32"), share=0.8),
    Work("Sequential float64", fpemu.Sequential("float64"), share=0.4),
    Work("Sequential e8m7", fpemu.Sequential("e8m7"), share=0.3),
    Work("Sequential float16", fpemu.Sequential("float16"), share=0.25),
    Work(
        "Sequential e8m7, stochastic",
        fpemu.Sequential("e8m7", fpemu.Rounding("sr", seed=1)),
        target=1.7,
    ),
    Work("Blocked float32, blocks of 16", fpemu.Blocked("float32", 16), target=65),
    Work("Pairwise float32", fpemu.Pairwise("float32"), target=16),
    Work("Pairwise float32", fpemu.Pairwise("float32"), ("bfloat16", "bfloat16"), 50),
    Work("Pairwise e8m7", fpemu.Pairwise("e8m7")),
    Work("Exact float32", fpemu.Exact("float32"), target=4),
    Work.unit("arm.bfdot.bfloat16", 5),
    Work.unit("hopper.wgmma.e4m3", 25),
    Work.unit("hopper.wgmma.bfloat16", 18),
    Work.unit("ampere.mma.float16", 18),
    Work.unit("ampere.mma.tf32", 18),
    Work.unit("blackwell.tcgen05.e4m3", 18),
    Work.unit("volta.mma.float16", 18),
    Work.unit("cdna3.mfma.bfloat16", 8),
)
SCALED: Final = (
    ("blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32", "mxfp8_e4m3"),
    (
        "blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16",
        "nvfp4",
    ),
)


def matrices(options: argparse.Namespace, formats: tuple[str, str]) -> tuple[Any, Any]:
    """Two matrices of normal numbers, rounded, as the options have them."""
    generator, size = np.random.default_rng(0), options.size
    shapes = (options.rows or size, size), (size, size)
    a, b = (
        np.asarray(fpemu.round(generator.standard_normal(shape, np.float32), format), np.float32)
        for shape, format in zip(shapes, formats, strict=True)
    )
    return a, np.asfortranarray(b) if options.columns else b


def product(work: Work, options: argparse.Namespace) -> Any:
    """A call that multiplies two matrices."""
    a, b = matrices(options, work.inputs)
    return lambda: fpemu.matmul(a, b, work.accumulator)


def scaled_product(name: str, format: str, options: argparse.Namespace) -> Any:
    """A call that multiplies two block-scaled matrices."""
    given = matrices(options, ("float32", "float32"))
    a, b = (scaling.quantize(x, format, axis=axis) for x, axis in zip(given, (1, 0), strict=True))
    unit = devices.get(name)
    return lambda: scaling.matmul(a, b, unit)


def row(
    name: str, call: Any, target: float | None, share: float | None, options: argparse.Namespace
) -> list[str]:
    """A row of the table."""
    x, y = matrices(options, ("float32", "float32"))
    seconds = seconds_in_turns({"numpy": lambda: x @ y, "fpemu": call}, options.turns)
    rates = [x.size * options.size / time / 1e9 for time in seconds["fpemu"]]
    ratios = [n / f for n, f in zip(seconds["numpy"], seconds["fpemu"], strict=True)]
    wanted = "-" if target is None else number(target)
    wanted = wanted if share is None else f"{number(share)} of numpy's"
    spread = f"{number(min(rates))} to {number(max(rates))}"
    return [
        name, number(statistics.median(rates)), spread,
        number(statistics.median(ratios)), wanted,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=768, help="of the square matrices")
    parser.add_argument("--rows", type=int, help="of the left matrix, where they are others")
    parser.add_argument("--columns", action="store_true", help="the right one lies by columns")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--markdown", action="store_true", help="print rows of Markdown")
    options = parser.parse_args()
    print_environment(environment(()), {})
    rows = []
    for work in WORKS:
        name = (
            work.name
            if work.inputs[0] != "bfloat16" or "." in work.name
            else (f"{work.name}, bfloat16 inputs")
        )
        rows.append(row(name, product(work, options), work.target, work.share, options))
    for name, format in SCALED:
        rows.append(row(name, scaled_product(name, format, options), 8, None, options))
    headers = ["product", "G/s", "least to greatest", "of numpy's", "target"]
    if options.markdown:
        for cells in (headers, ["---", *["---:"] * 4], *rows):
            print("| " + " | ".join(cells) + " |")
    else:
        print_table(
            f"{options.rows or options.size} x {options.size} x {options.size}", headers, rows
        )


if __name__ == "__main__":
    main()
