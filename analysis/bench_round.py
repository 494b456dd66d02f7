"""How fast ``fpemu.round`` is, against a copy of the same memory and against its peers.

One command prints everything; the targets are those of the design::

    python analysis/bench_round.py
    python analysis/bench_round.py --elements 1000000 --json rounding.json

The ratio to the copy is that of ``fpemu.round(x, format, mode, out=result)`` to ``numpy.copyto``
into a warm array, split over as many threads.  The ratio to a peer is that of calls that make a
new array, as the peers do; for large arrays the system's clearing of the new pages then takes most
of fpemu's time, so that the ratio of a call with ``out=`` stands beside it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from benchmark import (
    Carrier,
    Peer,
    Rounder,
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
from fpemu._kernels import launching

FORMATS: Final = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "e8m5", "float16")
DIRECTED: Final = ("rtz", "rtp", "rtn", "rto", "rna")
DIRECTED_FORMATS: Final = ("bfloat16", "float8_e4m3fn")
FLOAT64_FORMATS: Final = ("bfloat16", "float8_e4m3fn", "e8m5", "float16", "float32")
TARGET_FORMATS: Final = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "e8m5")
COPY_TARGET: Final = 0.8
STOCHASTIC_COPY_TARGET: Final = 0.35
PEER_TARGETS: Final = {"gfloat": 100.0, "pychop (torch)": 50.0, "apytypes": 15.0}
ML_DTYPES_E4M3FN_TARGET: Final = 40.0
SAMPLE: Final = 100_000


@dataclass(frozen=True)
class Work:
    """One thing to measure: a format, a mode, a carrier and a kind of data."""

    format: str
    mode: str = "rne"
    carrier: str = "float32"
    data: str = "normal"

    @property
    def rounding(self) -> fpemu.Rounding:
        """The rounding, with a seed where it draws random numbers."""
        return fpemu.Rounding(self.mode, seed=1 if self.mode == "sr" else None)

    @property
    def copy_target(self) -> float | None:
        """The design's least ratio to a parallel copy, if it has one for this work."""
        if self.carrier != "float32" or self.data != "normal" or self.format not in TARGET_FORMATS:
            return None
        return STOCHASTIC_COPY_TARGET if self.mode == "sr" else COPY_TARGET


@dataclass(frozen=True)
class CopyRow:
    """fpemu and the copy on one piece of work, in million elements a second."""

    work: Work
    into_out: float
    new_array: float
    parallel_copy: float
    single_copy: float
    ratio: float
    target: float | None


@dataclass(frozen=True)
class PeerRow:
    """fpemu and a peer on one piece of work, in million elements a second.

    `ratio` is that of a call that makes a new array, `out_ratio` that of one with ``out=``.  The
    differences are those among `SAMPLE` elements of the data, and among as many hard cases.
    """

    work: Work
    peer: str
    peer_format: str
    fpemu: float
    speed: float
    ratio: float
    out_ratio: float
    target: float | None
    differences: int | None
    hard_differences: int | None


def all_work() -> list[Work]:
    """Everything to measure, in the order of the table."""
    return [
        *(Work(format) for format in FORMATS),
        *(Work(format, mode) for format in DIRECTED_FORMATS for mode in DIRECTED),
        *(Work(format, "sr") for format in DIRECTED_FORMATS),
        *(Work(format, data="wide") for format in DIRECTED_FORMATS),
        *(Work(format, carrier="float64") for format in FLOAT64_FORMATS),
    ]


def make_data(work: Work, elements: int) -> Carrier:
    """Normal numbers, or numbers of every exponent from underflow to overflow of the format."""
    generator = np.random.default_rng(2026)
    dtype = np.float32 if work.carrier == "float32" else np.float64
    if work.data == "normal":
        return generator.standard_normal(elements, dtype=dtype)
    format = fpemu.format(work.format)
    exponents = generator.uniform(format.quantum_exponent - 2, format.emax + 2, elements)
    with np.errstate(over="ignore", under="ignore"):
        numbers: Carrier = (np.exp2(exponents) * generator.choice([-1, 1], elements)).astype(dtype)
    return numbers


def hard_cases(format: fpemu.Format) -> NDArray[np.float32]:
    """Members of a format, midpoints and their neighbors, and arbitrary float32 numbers."""
    generator = np.random.default_rng(7)
    share = SAMPLE // 6
    values = make_data(Work(format.name, data="wide"), share).astype(np.float32)
    low, high = (np.asarray(fpemu.round(values, format, mode)) for mode in ("rtn", "rtp"))
    with np.errstate(over="ignore", invalid="ignore"):
        middle = (low.astype(np.float64) / 2 + high.astype(np.float64) / 2).astype(np.float32)
        below, above = (np.nextafter(middle, np.float32(end)) for end in (-np.inf, np.inf))
    bits = generator.integers(0, 2**32, SAMPLE - 5 * share, dtype=np.uint32)
    return np.concatenate([low, high, middle, below, above, bits.view(np.float32)])


class ParallelCopy:
    """numpy's copy, split over as many threads as fpemu uses."""

    def __init__(self) -> None:
        self.threads = launching.thread_count()
        self.pool = ThreadPoolExecutor(self.threads)

    def __call__(self, source: Carrier, target: Carrier) -> None:
        """Copy `source` into `target`."""
        bounds = [len(source) * piece // self.threads for piece in range(self.threads + 1)]
        pieces = [slice(*pair) for pair in itertools.pairwise(bounds)]
        list(self.pool.map(lambda piece: np.copyto(target[piece], source[piece]), pieces))


def measure_copy(work: Work, elements: int, repetitions: int, copy: ParallelCopy) -> CopyRow:
    """Time fpemu and the copy on the same arrays."""
    data = make_data(work, elements)
    result: Any = np.zeros_like(data)
    rounding = work.rounding
    seconds = best_seconds(
        {
            "copy": lambda: copy(data, result),
            "out": lambda: fpemu.round(data, work.format, rounding, out=result),
            "new": lambda: fpemu.round(data, work.format, rounding),
            "single": lambda: np.copyto(result, data),
        },
        repetitions,
    )
    speed = {name: elements / time / 1e6 for name, time in seconds.items()}
    return CopyRow(
        work,
        into_out=speed["out"],
        new_array=speed["new"],
        parallel_copy=speed["copy"],
        single_copy=speed["single"],
        ratio=speed["out"] / speed["copy"],
        target=work.copy_target,
    )


def peer_target(work: Work, peer: str) -> float | None:
    """The design's least ratio to a peer, if it has one for this work."""
    if work.mode == "sr" or work.format not in TARGET_FORMATS:
        return None
    if peer == "ml_dtypes" and work.format == "float8_e4m3fn":
        return ML_DTYPES_E4M3FN_TARGET
    return PEER_TARGETS.get(peer)


def differences(rounder: Rounder, mode: str, sample: NDArray[np.float32]) -> int | None:
    """How many results of a peer differ from fpemu's; None where the results are random."""
    if mode == "sr":
        return None
    theirs = quietly(lambda: rounder.values(rounder.apply(rounder.prepare(sample))))()
    return count_differences(fpemu.round(sample, rounder.format, mode), theirs)


def measure_peer(work: Work, peer: Peer, elements: int, budget: float) -> PeerRow | None:
    """Check a peer on samples and time it against fpemu; None where it does not do this work."""
    rounder = peer.rounder(fpemu.format(work.format), work.mode)
    if rounder is None:
        return None
    data = make_data(work, elements)
    prepared = rounder.prepare(np.asarray(data, np.float32))
    rounding = work.rounding
    result: Any = np.zeros_like(data)
    calls: dict[str, Callable[[], Any]] = {
        "out": lambda: fpemu.round(data, work.format, rounding, out=result),
        "fpemu": lambda: fpemu.round(data, work.format, rounding),
        "peer": quietly(lambda: rounder.apply(prepared)),
    }
    seconds = best_seconds(calls, 10, budget)
    return PeerRow(
        work,
        peer.name,
        rounder.format.name,
        fpemu=elements / seconds["fpemu"] / 1e6,
        speed=elements / seconds["peer"] / 1e6,
        ratio=seconds["peer"] / seconds["fpemu"],
        out_ratio=seconds["peer"] / seconds["out"],
        target=peer_target(work, peer.name),
        differences=differences(rounder, work.mode, np.asarray(data[:SAMPLE], np.float32)),
        hard_differences=differences(rounder, work.mode, hard_cases(rounder.format)),
    )


def print_copy_rows(rows: Sequence[CopyRow]) -> None:
    """Print the table of fpemu against the copy."""
    headers = ["format", "mode", "carrier", "data"]
    headers += ["into out", "new array", "copy", "1 thread", "ratio", "target", "met"]
    cells = [
        [
            row.work.format,
            row.work.mode,
            row.work.carrier,
            row.work.data,
            *map(number, (row.into_out, row.new_array, row.parallel_copy, row.single_copy)),
            number(row.ratio),
            number(row.target),
            verdict(row.ratio, row.target),
        ]
        for row in rows
    ]
    print_table(
        "fpemu.round and a parallel copy, M elements/s; ratio of 'into out' to the copy",
        headers,
        cells,
    )


def print_peer_rows(rows: Sequence[PeerRow]) -> None:
    """Print the table of fpemu against its peers."""
    headers = ["format", "mode", "peer", "fpemu", "peer's", "ratio", "with out="]
    headers += ["target", "met", "differ", "hard"]
    cells = [
        [
            row.work.format,
            row.work.mode,
            row.peer + ("" if row.peer_format == row.work.format else f" as {row.peer_format}"),
            number(row.fpemu),
            number(row.speed),
            number(row.ratio),
            number(row.out_ratio),
            number(row.target),
            verdict(row.ratio, row.target),
            *("-" if n is None else str(n) for n in (row.differences, row.hard_differences)),
        ]
        for row in rows
    ]
    print_table(
        "fpemu.round and its peers, float32, M elements/s; "
        f"results that differ from fpemu's among {SAMPLE} of the data and {SAMPLE} hard cases",
        headers,
        cells,
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Benchmark fpemu.round.")
    parser.add_argument("--elements", type=int, default=10**7, help="array length (10**7)")
    parser.add_argument("--repetitions", type=int, default=40, help="turns against the copy (40)")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds per peer and row (2)")
    parser.add_argument("--formats", nargs="+", metavar="NAME", help="these formats alone")
    parser.add_argument("--modes", nargs="+", metavar="MODE", help="these modes alone")
    parser.add_argument("--without-peers", action="store_true", help="the copy alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    if arguments.elements < 1 or arguments.repetitions < 1:
        parser.error("--elements and --repetitions must be at least 1")
    return arguments


def available_work(
    formats: Sequence[str] | None = None, modes: Sequence[str] | None = None
) -> list[Work]:
    """The work asked for that this version of fpemu can do; says what it cannot."""
    available = []
    for work in all_work():
        if (formats and work.format not in formats) or (modes and work.mode not in modes):
            continue
        try:
            fpemu.round(np.ones(1, np.float32), work.format, work.rounding)
        except NotImplementedError as error:
            print(f"{work.format} {work.mode}: skipped, NotImplementedError ({error})")
        else:
            available.append(work)
    return available


def main() -> None:
    """Measure, print, and write the numbers."""
    arguments = parse_arguments()
    peers, missing = ([], {}) if arguments.without_peers else load_peers()
    facts = environment(dict.fromkeys(peer.modules[-1].split(".")[0] for peer in peers))
    facts["elements"] = arguments.elements
    print_environment(facts, missing)
    works = available_work(arguments.formats, arguments.modes)
    copy = ParallelCopy()
    copies = []
    for work in works:
        copies.append(measure_copy(work, arguments.elements, arguments.repetitions, copy))
        print(f"measured {work.format} {work.mode} {work.carrier}", file=sys.stderr)
    print_copy_rows(copies)
    against = []
    for work in works if peers else []:
        if work.carrier == "float64" or work.data != "normal":
            continue
        rows = (measure_peer(work, peer, arguments.elements, arguments.budget) for peer in peers)
        against += [row for row in rows if row is not None]
        print(f"measured {work.format} {work.mode} against peers", file=sys.stderr)
    if against:
        print_peer_rows(against)
    if arguments.json:
        write_json(arguments.json, facts, {"copy": copies, "peers": against})


if __name__ == "__main__":
    main()
