"""Record what this processor's VDPBF16PS and TDPBF16PS give, as data of the tests.

    python analysis/record_silicon.py [--folder tests/data]

Writes vdpbf16ps.npz and tdpbf16ps.npz, for the instructions that the processor has.  tests/data has
a README that names the processor of the files there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.oracle import pairs, silicon

# Terms of an inner product, and how many inner products of every kind.
ROWS = {"vdpbf16ps": {2: 2000}, "tdpbf16ps": {4: 1800, 32: 200}}


def record(instruction: str, path: Path) -> None:
    """Write operands and results of every kind to a file."""
    generator = np.random.default_rng(2026)
    arrays = {}
    for kind, draw in pairs.KINDS.items():
        for terms, rows in ROWS[instruction].items():
            a, b, c = draw(generator, rows, terms)
            out = silicon.results(instruction, a, b, c)
            given = {"a": a, "b": b, "c": c.view(np.uint32), "out": out.view(np.uint32)}
            arrays |= {f"{kind}_{terms}_{name}": x for name, x in given.items()}
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("tests/data"))
    folder = parser.parse_args().folder
    for instruction in ROWS:
        if reason := silicon.missing(instruction):
            print(f"{instruction}: {reason}")
        else:
            record(instruction, folder / f"{instruction}.npz")


if __name__ == "__main__":
    main()
