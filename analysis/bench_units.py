"""How fast matrix units run: multiply-adds a second, and their ratio to numpy and to a plain loop.

    python analysis/bench_units.py [--size 512] [--repetitions 5]

The loop is the exact oracle of the tests, one inner product at a time in Python, where it is at
hand.  The design asks for 0.5 G multiply-adds a second on two cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import fastest

import fpemu
from fpemu import devices

TARGET = 0.5
UNITS = (
    "volta.mma.float16",
    "ampere.mma.bfloat16",
    "ampere.mma.tf32",
    "ada.mma.e4m3",
    "hopper.wgmma.float16",
    "hopper.wgmma.e4m3",
    "hopper.mma.e4m3",
    "hopper.wgmma-promoted.e4m3",
    "blackwell.tcgen05.e2m1",
    "ampere.mma.float64",
    "cdna1.mfma.float16",
    "cdna2.mfma.float16",
    "cdna3.mfma.bfloat16",
    "cdna3.mfma.e4m3fnuz",
    "intel.amx.bfloat16",
    "arm.bfdot.bfloat16",
)


def oracles() -> dict[str, Any]:
    """The plain loops by name; none where the tests are not at hand."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        from tests.oracle import units
    except ImportError:
        return {}
    return dict(units.UNITS)


def operands(accumulator: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random members of the unit's formats."""
    generator = np.random.default_rng(0)
    formats = [format or fpemu.format("float32") for format in accumulator.input_formats]
    a, b = (
        np.asarray(fpemu.round(generator.normal(size=(size, size)), format)) for format in formats
    )
    return a.astype(np.float32), b.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="of the square matrices")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    size, known = options.size, oracles()
    square = np.random.default_rng(1).normal(size=(size, size)).astype(np.float32)
    numpy_rate = size**3 / fastest(lambda: square @ square, 20) / 1e9
    print(f"numpy float32 matmul: {numpy_rate:.1f} G multiply-adds/s\n")
    print(f"{'unit':30} {'G/s':>7} {'of numpy':>9} {'of a loop':>10}  at least {TARGET}")
    for name in UNITS:
        accumulator = devices.get(name)
        a, b = operands(accumulator, size)

        def run(a: Any = a, b: Any = b, accumulator: Any = accumulator) -> Any:
            return fpemu.matmul(a, b, accumulator)

        rate = size**3 / fastest(run, options.repetitions) / 1e9
        times = "-"
        if name in known:
            row, column = a[0].tolist(), b[:, 0].tolist()
            loop = size / fastest(lambda: known[name](row, column), 3) / 1e9  # noqa: B023
            times = f"{rate / loop:,.0f}"
        met = "yes" if rate >= TARGET else "NO"
        print(f"{name:30} {rate:7.2f} {rate / numpy_rate:9.4f} {times:>10}  {met}")


if __name__ == "__main__":
    main()
