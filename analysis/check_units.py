"""Every matrix unit against the tests' exact oracle, at length.

    python analysis/check_units.py [--inner-products 100000] [--jobs 2] [NAME...]

The tests do the same with fewer inner products, `make check-long` does all of it: 12 million inner
products in 45 minutes of CPU.  Exits with 1 if a unit ever differs.
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
from tests.oracle.bits import differences
from tests.oracle.units import UNITS, promoted

SIDE = 20  # rows and columns of a product
LENGTHS = (1, 2, 4, 8, 11, 16, 24)
LONG = (1, 16, 33, 70, 128)  # of block-scaled products
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


def count_differences(name: str, inner_products: int) -> tuple[int, int]:
    """How many inner products of a unit were compared, and how many differ."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="units, all if left out")
    parser.add_argument("--inner-products", type=int, default=100_000, help="of every unit")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; all cores")
    options = parser.parse_args()
    names = options.names or devices.list()
    total_wrong = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        count = partial(count_differences, inner_products=options.inner_products)
        for name, (done, wrong) in zip(names, pool.map(count, names), strict=True):
            total_wrong += wrong
            print(f"{name:40} {done} inner products, {wrong} differ", flush=True)
    raise SystemExit(1 if total_wrong else 0)


if __name__ == "__main__":
    main()
