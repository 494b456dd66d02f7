"""How fast ``fpemu.matmul`` is, against numpy's float32 product and against its peers.

One command prints everything; the targets are those of the design::

    python analysis/bench_matmul.py
    python analysis/bench_matmul.py --size 256 --json products.json

apytypes has an accumulator of its own; with the other peers the sum is formed step by step:
``acc = rounded(acc + a[:, k] * b[k, :])`` on whole matrices, the product in float32, the sum in
float32 or float64.  Each peer is compared with fpemu twice: with the accumulator that describes
what the peer does, and with one rounding of ``acc + a*b``, which is what fpemu is timed on.
"members" are inputs that are bfloat16 numbers, among whose sums there are many exact ties.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmark import (
    Peer,
    best_seconds,
    count_differences,
    environment,
    load_peers,
    number,
    print_environment,
    print_table,
    quietly,
    verdict,
    write_json,
)
from numpy.typing import NDArray

import fpemu

Matrix = NDArray[np.float32]

FORMATS: Final = ("e8m4", "e8m7", "e8m10", "float32", "float16", "e4m3")
BLOCK: Final = 16
DATA: Final = ("normal", "members")
TARGET_FORMATS: Final = ("e8m4", "e8m7", "e8m10")
NUMPY_TARGET: Final = 0.2
APYTYPES_TARGET: Final = 200.0
FULL_SIZE_PEERS: Final = ("torch", "ml_dtypes")


@dataclass(frozen=True)
class NumpyRow:
    """fpemu and numpy's float32 product, in G multiply-adds a second."""

    accumulator: str
    data: str
    fpemu: float
    numpy: float
    ratio: float
    target: float | None


@dataclass(frozen=True)
class PeerRow:
    """fpemu and a peer, in G multiply-adds a second; how many results differ, of ``size**2``.

    `recipe` is the accumulator that describes what the peer does.
    """

    accumulator: str
    data: str
    peer: str
    size: int
    fpemu_size: int
    fpemu: float
    speed: float
    ratio: float
    target: float | None
    recipe: str
    recipe_differences: int
    fused_differences: int


def accumulators() -> list[fpemu.Accumulator]:
    """Everything to measure, in the order of the table."""
    return [*map(fpemu.Sequential, FORMATS), fpemu.Blocked("e8m7", BLOCK)]


def make_matrices(data: str, size: int) -> tuple[Matrix, Matrix]:
    """Two square matrices of normal numbers, rounded to bfloat16 if they are to be members."""
    generator = np.random.default_rng(2026)
    a, b = generator.standard_normal((2, size, size), dtype=np.float32)
    if data == "members":
        a, b = fpemu.round(a, "bfloat16"), fpemu.round(b, "bfloat16")
    return a, b


def has_target(accumulator: fpemu.Accumulator) -> bool:
    """Whether the design has a target for this accumulator."""
    return isinstance(accumulator, fpemu.Sequential) and accumulator.format.name in TARGET_FORMATS


def measure_numpy(
    accumulator: fpemu.Accumulator, data: str, size: int, repetitions: int
) -> NumpyRow:
    """Time fpemu and numpy on the same matrices."""
    a, b = make_matrices(data, size)
    seconds = best_seconds(
        {"numpy": lambda: a @ b, "fpemu": lambda: fpemu.matmul(a, b, accumulator)}, repetitions
    )
    speed = {name: size**3 / time / 1e9 for name, time in seconds.items()}
    return NumpyRow(
        str(accumulator),
        data,
        speed["fpemu"],
        speed["numpy"],
        speed["fpemu"] / speed["numpy"],
        NUMPY_TARGET if has_target(accumulator) else None,
    )


def stepwise(round_: Callable[[Any], Any], a: Any, b: Any, zero: Any) -> Any:
    """Sum the outer products of columns and rows, each sum rounded."""
    total = zero
    for k in range(a.shape[1]):
        total = round_(total + a[:, k : k + 1] * b[k : k + 1])
    return total


@dataclass(frozen=True)
class Product:
    """A peer's product of two given matrices, and the accumulator that describes it."""

    recipe: fpemu.Sequential
    compute: Callable[[], Any]
    values: Callable[[Any], Any]


def apytypes_product(format: fpemu.Format, a: Matrix, b: Matrix) -> Product:
    """apytypes' own accumulator: products and sums rounded into the format."""
    import apytypes

    left, right = (apytypes.APyFloatArray.from_array(x, exp_bits=8, man_bits=23) for x in (a, b))

    def compute() -> Any:
        with apytypes.APyFloatAccumulatorContext(
            exp_bits=format.exponent_bits,
            man_bits=format.precision - 1,
            quantization=apytypes.QuantizationMode.TIES_EVEN,
        ):
            return left @ right

    return Product(fpemu.Sequential(format, fused=False), compute, lambda x: x.to_numpy())


def peer_product(peer: Peer, format: fpemu.Format, a: Matrix, b: Matrix) -> Product | None:
    """The peer's product of two matrices; None where it does not do this format."""
    if peer.name == "apytypes":
        return apytypes_product(format, a, b)
    rounder = peer.rounder(format, "rne")
    if rounder is None or rounder.sums is None:
        return None
    left, right, zero = map(rounder.prepare, (a, b, np.zeros((len(a), b.shape[1]), np.float32)))
    return Product(
        fpemu.Sequential(rounder.format, product="float32", via=rounder.sums),
        lambda: stepwise(rounder.apply, left, right, zero),
        rounder.values,
    )


def measure_peer(
    peer: Peer, format: fpemu.Format, data: str, sizes: tuple[int, int], budget: float
) -> PeerRow | None:
    """Check a peer and time it against fpemu; None where it does not do this format.

    `sizes` are those of fpemu and of slow peers; each speed is that of its own size.
    """
    size = sizes[0] if peer.name in FULL_SIZE_PEERS else sizes[1]
    a, b = make_matrices(data, size)
    product = peer_product(peer, format, a, b)
    if product is None:
        return None
    accumulator = fpemu.Sequential(format)
    full_a, full_b = make_matrices(data, sizes[0])
    theirs = np.asarray(quietly(lambda: product.values(product.compute()))())
    seconds = best_seconds(
        {
            "fpemu": lambda: fpemu.matmul(full_a, full_b, accumulator),
            "peer": quietly(product.compute),
        },
        5,
        budget,
    )
    ours, speed = sizes[0] ** 3 / seconds["fpemu"] / 1e9, size**3 / seconds["peer"] / 1e9
    targeted = peer.name == "apytypes" and has_target(accumulator)
    return PeerRow(
        str(accumulator),
        data,
        peer.name,
        size,
        sizes[0],
        ours,
        speed,
        ours / speed,
        APYTYPES_TARGET if targeted else None,
        str(product.recipe),
        count_differences(fpemu.matmul(a, b, product.recipe), theirs),
        count_differences(fpemu.matmul(a, b, accumulator), theirs),
    )


def print_numpy_rows(rows: Sequence[NumpyRow], size: int) -> None:
    """Print the table of fpemu against numpy."""
    cells = [
        [
            row.accumulator,
            row.data,
            *map(number, (row.fpemu, row.numpy, row.ratio, row.target)),
            verdict(row.ratio, row.target),
        ]
        for row in rows
    ]
    print_table(
        f"fpemu.matmul and numpy's float32 product, {size} x {size} x {size}, G multiply-adds/s",
        ["accumulator", "data", "fpemu", "numpy", "ratio", "target", "met"],
        cells,
    )


def print_peer_rows(rows: Sequence[PeerRow]) -> None:
    """Print the table of fpemu against its peers."""
    cells = [
        [
            row.accumulator,
            row.data,
            row.peer,
            *map(number, (row.fpemu, row.speed, row.ratio, row.target)),
            verdict(row.ratio, row.target),
            str(row.size),
            str(row.recipe_differences),
            str(row.fused_differences),
            row.recipe,
        ]
        for row in rows
    ]
    headers = ["accumulator", "data", "peer", "fpemu", "peer's", "ratio", "target", "met"]
    print_table(
        "fpemu.matmul and its peers, G multiply-adds/s; peer's matrix size; results that differ "
        "from the peer's recipe and from one rounding a term",
        [*headers, "size", "recipe", "fused", "the peer's recipe"],
        cells,
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Benchmark fpemu.matmul.")
    parser.add_argument("--size", type=int, default=512, help="rows, terms and columns (512)")
    parser.add_argument("--peer-size", type=int, default=128, help="the same of slow peers (128)")
    parser.add_argument("--repetitions", type=int, default=25, help="turns against numpy (25)")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds per peer and row (2)")
    parser.add_argument("--without-peers", action="store_true", help="numpy alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    if min(arguments.size, arguments.peer_size, arguments.repetitions) < 1:
        parser.error("--size, --peer-size and --repetitions must be at least 1")
    return arguments


def measure_peers(peers: Sequence[Peer], sizes: tuple[int, int], budget: float) -> list[PeerRow]:
    """All peers on all formats with a target and both kinds of data."""
    rows = []
    for name in TARGET_FORMATS:
        for data in DATA:
            for peer in peers:
                row = measure_peer(peer, fpemu.format(name), data, sizes, budget)
                if row is not None:
                    rows.append(row)
            print(f"measured {name} {data} against peers", file=sys.stderr)
    return rows


def main() -> None:
    """Measure, print, and write the numbers."""
    arguments = parse_arguments()
    peers, missing = ([], {}) if arguments.without_peers else load_peers()
    facts = environment(dict.fromkeys(peer.modules[-1].split(".")[0] for peer in peers))
    facts["size"] = arguments.size
    print_environment(facts, missing)
    against_numpy = []
    for accumulator in accumulators():
        for data in DATA:
            against_numpy.append(
                measure_numpy(accumulator, data, arguments.size, arguments.repetitions)
            )
            print(f"measured {accumulator} {data}", file=sys.stderr)
    print_numpy_rows(against_numpy, arguments.size)
    sizes = (arguments.size, arguments.peer_size)
    against_peers = measure_peers(peers, sizes, arguments.budget)
    if against_peers:
        print_peer_rows(against_peers)
    if arguments.json:
        write_json(arguments.json, facts, {"numpy": against_numpy, "peers": against_peers})


if __name__ == "__main__":
    main()
