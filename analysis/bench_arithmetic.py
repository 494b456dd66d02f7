"""How fast elementwise arithmetic is, against the same operation of numpy.

    python analysis/bench_arithmetic.py
    python analysis/bench_arithmetic.py --elements 32768 1000000 --json arithmetic.json

fpemu and numpy take the same float32 operands and write into the same warm array, in turns; the
ratio is the median of those of single turns.  numpy computes on one thread, fpemu on as many as it
is given (``NUMBA_NUM_THREADS=1`` compares one with one).  "bias" adds a vector to each row, and
"scale" divides each row by a number of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmark import (
    environment,
    number,
    print_environment,
    print_table,
    seconds_in_turns,
    verdict,
    write_json,
)
from numpy.typing import NDArray

import fpemu
from fpemu._kernels import launching

FORMATS: Final = ("float32", "bfloat16", "float16", "float8_e4m3fn", "e8m4")
MODES: Final = {"bfloat16": ("rne", "rtp", "rna")}
TARGETS: Final = {"float32": 0.95, "bfloat16": 0.5}
COLUMNS: Final = 768
Operation = tuple[Callable[..., Any], Callable[..., Any], int, str]
OPERATIONS: Final[dict[str, Operation]] = {
    "add": (fpemu.add, np.add, 2, "whole"),
    "bias": (fpemu.add, np.add, 2, "row"),
    "multiply": (fpemu.multiply, np.multiply, 2, "whole"),
    "scale": (fpemu.divide, np.divide, 2, "column"),
    "divide": (fpemu.divide, np.divide, 2, "whole"),
    "sqrt": (fpemu.sqrt, np.sqrt, 1, "whole"),
}


@dataclass(frozen=True)
class Row:
    """One operation, in million elements a second."""

    operation: str
    format: str
    mode: str
    elements: int
    fpemu: float
    numpy: float
    ratio: float
    target: float | None


def operands(elements: int, second: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows of normal numbers, and positive ones of the same shape, for a row, or for a column."""
    generator = np.random.default_rng(2026)
    rows = max(1, elements // COLUMNS)
    shape = {"whole": (rows, COLUMNS), "row": (COLUMNS,), "column": (rows, 1)}[second]
    a = generator.standard_normal((rows, COLUMNS), np.float32)
    return a, np.abs(generator.standard_normal(shape, np.float32)) + np.float32(0.1)


def measure(name: str, format: str, mode: str, elements: int, repetitions: int) -> Row:
    """Time fpemu and numpy in turns."""
    ours, theirs, count, second = OPERATIONS[name]
    a, b = operands(elements, second)
    given = (a, b) if count == 2 else (np.abs(a),)
    out = np.zeros_like(a)
    times = seconds_in_turns(
        {
            "fpemu": lambda: ours(*given, format, mode, out=out),
            "numpy": lambda: theirs(*given, out=out),
        },
        repetitions,
    )
    ratio = float(np.median(np.array(times["numpy"]) / np.array(times["fpemu"])))
    speed = {peer: a.size / min(seconds) / 1e6 for peer, seconds in times.items()}
    target = TARGETS.get(format) if mode == "rne" else None
    return Row(name, format, mode, a.size, speed["fpemu"], speed["numpy"], ratio, target)


def print_rows(rows: list[Row]) -> None:
    """Print the table."""
    headers = ["operation", "format", "mode", "elements", "fpemu", "numpy"]
    headers += ["ratio", "target", "met"]
    cells = [
        [
            row.operation,
            row.format,
            row.mode,
            str(row.elements),
            *map(number, (row.fpemu, row.numpy, row.ratio, row.target)),
            verdict(row.ratio, row.target),
        ]
        for row in rows
    ]
    print_table("fpemu's arithmetic and numpy's, float32, M elements/s", headers, cells)


def main() -> None:
    """Measure, print, and write the numbers."""
    parser = argparse.ArgumentParser(description="Benchmark fpemu's elementwise arithmetic.")
    sizes = {"type": int, "nargs": "+", "default": [2**15, 10**7]}
    parser.add_argument("--elements", **sizes, help="array lengths (32768 and 10**7)")
    parser.add_argument("--repetitions", type=int, default=30, help="turns of each call (30)")
    parser.add_argument("--formats", nargs="+", default=FORMATS, help="these formats alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    facts = environment([]) | {"threads of fpemu": launching.thread_count()}
    print_environment(facts, {})
    rows = [
        measure(name, format, mode, elements, options.repetitions)
        for elements in options.elements
        for format in options.formats
        for mode in MODES.get(format, ("rne",))
        for name in OPERATIONS
    ]
    print_rows(rows)
    if options.json:
        write_json(options.json, facts, {"arithmetic": rows})


if __name__ == "__main__":
    main()
