"""Every matrix unit against the tests' exact oracle and against MMA-Sim, at length.

    python analysis/check_units.py [--inner-products 100000] [--jobs 2] [NAME...]

The oracle is given random inner products and some directed ones, MMA-Sim as many directed ones.
The tests do the same with fewer, `make check-long` does all of it.  Exits with 1 if a unit differs.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fpemu
from fpemu import devices, scaling
from fpemu.accumulators import Promoted, ScaledCore

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fpemu.test_devices import KINDS, expected_of, scaled_operands
from tests.fpemu.test_mma_sim import by_kernel, by_oracle, drawn
from tests.oracle import directed, mma_sim
from tests.oracle.bits import differences
from tests.oracle.units import UNITS, promoted

SIDE = 20  # rows and columns of a product
LENGTHS = (1, 2, 4, 8, 11, 16, 24)
LONG = (1, 16, 33, 70, 128)  # of block-scaled products
ROWS = 500  # inner products that are drawn at once for MMA-Sim
PROMOTED = (1, 32, 128, 129, 300)


def ordinary(name: str, kind: Any, generator: np.random.Generator) -> tuple[Any, Any]:
    """A product by a unit and by its oracle."""
    unit = UNITS[name]
    length = int(generator.choice(LENGTHS))
    a = kind(generator, unit.input_formats[0], (SIDE, length))
    b = kind(generator, unit.input_formats[1], (length, SIDE))
    c = kind(generator, unit.c_format, (SIDE, SIDE))
    return fpemu.matmul(a, b, devices.get(name), c=c), expected_of(unit, a, b, c)


def block_scaled(name: str, kind: Any, generator: np.random.Generator) -> tuple[Any, Any]:
    """The same for a block-scaled unit, with scales near one another or any."""
    unit = devices.get(name)
    shape = (SIDE, int(generator.choice(LONG)), SIDE)
    a, b = scaled_operands(generator, kind, unit, shape, near=bool(generator.integers(2)))
    c = kind(generator, fpemu.format("float32"), (SIDE, SIDE))
    expected = expected_of(UNITS[name], a.elements, b.elements, c, (a.scales, b.scales))
    return scaling.matmul(a, b, unit, c=c), expected


def promotion(name: str, kind: Any, generator: np.random.Generator) -> tuple[Any, Any]:
    """The same for a unit whose sums another accumulator takes."""
    unit = UNITS[name.replace("-promoted", "")]
    length = int(generator.choice(PROMOTED))
    a = kind(generator, unit.input_formats[0], (SIDE, length))
    b = kind(generator, unit.input_formats[1], (length, SIDE))
    c = kind(generator, fpemu.format("float32"), (SIDE, SIDE))
    expected = [
        [promoted(unit, row, column, c[i, j].item()) for j, column in enumerate(b.T.tolist())]
        for i, row in enumerate(a.tolist())
    ]
    return fpemu.matmul(a, b, devices.get(name), c=c), expected


def directed_rows(name: str, kind: Any, generator: np.random.Generator) -> tuple[Any, Any, Any]:
    """Directed inner products by a unit, by its oracle and by MMA-Sim, which takes more of them."""
    operands = drawn(name, kind, generator, ROWS)
    some = [tuple(s[:SIDE] for s in x) if isinstance(x, tuple) else x[:SIDE] for x in operands]
    return by_kernel(name, *operands), by_oracle(name, *some), mma_sim.results(name, *operands)


def against_oracle(name: str, inner_products: int) -> tuple[int, int]:
    """How many random inner products of a unit were compared, and how many differ."""
    accumulator = devices.get(name)
    both = block_scaled if isinstance(accumulator, ScaledCore) else ordinary
    if isinstance(accumulator, Promoted) and name not in UNITS:
        both = promotion
    generator = np.random.default_rng(len(name))
    done = wrong = 0
    while done < inner_products:
        kind: Any = KINDS[done // SIDE**2 % len(KINDS)]
        actual, expected = both(name, kind, generator)
        wrong += differences(actual, expected).size
        done += SIDE**2
    return done, wrong


def against_mma_sim(name: str, inner_products: int) -> tuple[int, int, int]:
    """The same of directed ones; of those that the oracle is asked about, how many differ."""
    if name not in mma_sim.INSTRUCTIONS or mma_sim.missing() is not None:
        return 0, 0, 0
    generator = np.random.default_rng(len(name))
    done = wrong = by_oracle_wrong = 0
    while done < inner_products:
        kind = directed.KINDS[done // ROWS % len(directed.KINDS)]
        actual, expected, simulated = directed_rows(name, kind, generator)
        wrong += differences(actual, simulated).size
        by_oracle_wrong += differences(actual[:SIDE], expected).size
        done += ROWS
    return done, wrong, by_oracle_wrong


def count_differences(name: str, inner_products: int) -> tuple[str, int]:
    """A line about a unit, and how many inner products differ."""
    done, wrong = against_oracle(name, inner_products)
    simulated, other, directed_wrong = against_mma_sim(name, inner_products)
    line = f"{done} by the oracle, {wrong + directed_wrong} differ; "
    line += f"{simulated} by MMA-Sim, {other} differ" if simulated else "not in MMA-Sim"
    return line, wrong + directed_wrong + other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="units, all if left out")
    parser.add_argument("--inner-products", type=int, default=100_000, help="of every unit")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; all cores")
    options = parser.parse_args()
    names = options.names or devices.list()
    if reason := mma_sim.missing():
        print(reason)
    total_wrong = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        count = partial(count_differences, inner_products=options.inner_products)
        for name, (line, wrong) in zip(names, pool.map(count, names), strict=True):
            total_wrong += wrong
            print(f"{name:44} {line}", flush=True)
    raise SystemExit(1 if total_wrong else 0)


if __name__ == "__main__":
    main()
