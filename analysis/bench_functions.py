"""How fast the correctly rounded functions are, and how often they need mpmath.

One command prints everything; the targets are those of the design::

    python analysis/bench_functions.py
    python analysis/bench_functions.py --elements 1000000 --json functions.json

Speeds are millions of float32 elements a second on one core, rounded to nearest into float32.  The
peers are numpy's own functions and expressions in float32 and float64, which are not correctly
rounded (the share of results in float32 that differ stands beside them), and mpmath at 80 bits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mpmath
import numba
import numpy as np
from benchmark import best_seconds, environment, number, print_environment, print_table, write_json
from numpy.typing import NDArray

from fpemu import functions
from fpemu._kernels import enclosures

Floats = NDArray[np.floating[Any]]

EXP_TARGET: Final = 50.0
UNDECIDED_TARGET: Final = 1.0
MPMATH_SAMPLE: Final = 500
BITS: Final = 26  # that decide the rounding of a float32 result to nearest, less the sticky bit
POSITIVE: Final = ("log", "log2", "log1p", "rsqrt")


def _gelu_tanh(x: Floats) -> Floats:
    cubic = x.dtype.type(0.044715) * x * x * x
    scale = x.dtype.type(np.sqrt(2 / np.pi))
    return x / 2 * (1 + np.tanh(scale * (x + cubic)))


NUMPY: Final[dict[str, Callable[[Floats], Floats]]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": np.reciprocal,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
}
MPMATH: Final[dict[str, Callable[[Any], Any]]] = {
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log2": lambda x: mpmath.log(x, 2),
    "log1p": mpmath.log1p,
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "erf": mpmath.erf,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x: (
        x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + 0.044715 * x**3)))
    ),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
}


@dataclass(frozen=True)
class Row:
    """Millions of elements a second, and shares in a million."""

    function: str
    speed: float
    undecided: float
    numpy32: float | None
    numpy64: float | None
    mpmath: float
    numpy32_wrong: float | None


def arguments(name: str, count: int) -> NDArray[np.float32]:
    """Normal numbers of standard deviation 3, positive where the function wants that."""
    x = (3 * np.random.default_rng(0).standard_normal(count)).astype(np.float32)
    return np.abs(x) if name in POSITIVE else x


def measure(name: str, count: int, repetitions: int) -> Row:
    """Time one function and its peers on one thread."""
    x = arguments(name, count)
    wide = x.astype(np.float64)
    out = np.empty_like(x)
    function = getattr(functions, name)
    calls: dict[str, Callable[[], Any]] = {"fpemu": lambda: function(x, "float32", out=out)}
    if name in NUMPY:
        calls["numpy32"] = lambda: NUMPY[name](x)
        calls["numpy64"] = lambda: NUMPY[name](wide)
    seconds = best_seconds(calls, repetitions)
    sample = [mpmath.mpf(float(v)) for v in x[:MPMATH_SAMPLE]]
    with mpmath.workprec(80):
        mp_seconds = best_seconds({"": lambda: [MPMATH[name](v) for v in sample]}, 2)[""]

    def speed(peer: str) -> float | None:
        return count / seconds[peer] / 1e6 if peer in seconds else None

    wrong = np.mean(NUMPY[name](x) != function(x, "float32")) * 1e6 if name in NUMPY else None
    return Row(
        name,
        count / seconds["fpemu"] / 1e6,
        float(enclosures.odd_values(name, x, BITS)[1].mean() * 1e6),
        speed("numpy32"),
        speed("numpy64"),
        len(sample) / mp_seconds / 1e6,
        None if wrong is None else float(wrong),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and compare with the design's targets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--elements", type=int, default=10_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.elements < 1 or options.repetitions < 1:
        parser.error("elements and repetitions must be positive")
    numba.set_num_threads(1)
    facts = environment(["mpmath"])
    print_environment(facts, {})
    rows = [measure(name, options.elements, options.repetitions) for name in MPMATH]
    print_table(
        f"float32 to float32, rne, {options.elements} elements, one core, M elements/s",
        [
            "function",
            "fpemu",
            "numpy f32",
            "numpy f64",
            "mpmath",
            "to mpmath /1e6",
            "f32 wrong /1e6",
        ],
        [
            [
                row.function,
                number(row.speed),
                number(row.numpy32),
                number(row.numpy64),
                number(row.mpmath),
                f"{row.undecided:.2f}",
                number(row.numpy32_wrong),
            ]
            for row in rows
        ],
    )
    exp = next(row for row in rows if row.function == "exp")
    met = exp.speed >= EXP_TARGET and all(row.undecided < UNDECIDED_TARGET for row in rows)
    print(
        f"\nexp {exp.speed:.0f} M/s (target {EXP_TARGET:.0f}); most undecided "
        f"{max(row.undecided for row in rows):.2f} in 10^6 (target below {UNDECIDED_TARGET:.0f}): "
        f"{'met' if met else 'missed'}"
    )
    if options.json:
        write_json(options.json, facts, {"functions": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
