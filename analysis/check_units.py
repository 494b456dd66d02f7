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
from fpemu import devices

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fpemu.test_devices import KINDS, ORDINARY
from tests.oracle.bits import differences
from tests.oracle.units import UNITS

SIDE = 20  # rows and columns of a product


def count_differences(name: str, inner_products: int) -> tuple[int, int]:
    """How many inner products of a unit were compared, and how many differ."""
    unit, accumulator = UNITS[name], devices.get(name)
    generator = np.random.default_rng(len(name))
    done = wrong = 0
    while done < inner_products:
        kind: Any = KINDS[done // SIDE**2 % len(KINDS)]
        length = int(generator.choice([1, 2, 4, 8, 11, 16, 24]))
        a = kind(generator, unit.input_format, (SIDE, length))
        b = kind(generator, unit.input_format, (length, SIDE))
        c = kind(generator, unit.c_format, (SIDE, SIDE))
        rows, columns = a.tolist(), b.T.tolist()
        expected = [
            [unit(row, column, float(c[i, j])) for j, column in enumerate(columns)]
            for i, row in enumerate(rows)
        ]
        wrong += differences(fpemu.matmul(a, b, accumulator, c=c), expected).size
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
    for name in (options.names or ORDINARY)[part::parts]:
        done, wrong = count_differences(name, options.inner_products)
        total_wrong += wrong
        print(f"{name:40} {done} inner products, {wrong} differ", flush=True)
    raise SystemExit(1 if total_wrong else 0)


if __name__ == "__main__":
    main()
