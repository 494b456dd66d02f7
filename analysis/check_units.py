"""Every matrix unit against the tests' exact oracle, at length.

    python analysis/check_units.py [--inner-products 100000] [--part 0/1] [NAME...]

The tests do the same with fewer inner products.  Exits with 1 if a unit ever differs.  `--part 1/2`
takes every second unit, from the second on.
"""

from __future__ import annotations

import argparse
import sys
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
    a = kind(generator, unit.input_format, (SIDE, length))
    b = kind(generator, unit.input_format, (length, SIDE))
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
    a = kind(generator, unit.input_format, (SIDE, length))
    b = kind(generator, unit.input_format, (length, SIDE))
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
    parser.add_argument("--part", default="0/1", help="which part of the units, of how many")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    total_wrong = 0
    for name in (options.names or devices.list())[part::parts]:
        done, wrong = count_differences(name, options.inner_products)
        total_wrong += wrong
        print(f"{name:40} {done} inner products, {wrong} differ", flush=True)
    raise SystemExit(1 if total_wrong else 0)


if __name__ == "__main__":
    main()
