"""How performance scales with threads and with size.

    python analysis/bench_threads.py [--turns 7] [--seconds 50] [--write]

Every kind of kernel is timed on one thread and on more, up to all cores, in turns; beyond, a model
says what to expect.  Then arrays and products of growing size are timed, down to those whose time
is that of a call.  The measurements go to docs/_static/data/threads.csv and sizes.csv; --write also
puts the tables into docs/threads.md, between `<!-- threads: NAME -->` and `<!-- end -->`.

The model: let t(1) and t(n) be the medians on one thread and on the most.  Amdahl's law gives the
serial share s = (n t(n) / t(1) - 1) / (n - 1), from 0 to 1, and on m threads the speedup
1 / (s + (1 - s) / m).  The share holds all that keeps threads from being as quick as one alone:
Python around the kernel, work that is not split, and what cores share, as caches and memory.  A
kernel that moves b bytes takes no less than b over the memory's rate, that of a copy on all cores.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
from benchmark import environment, number, print_environment, print_table, seconds_in_turns

import fpemu
import lamp
from fpemu import devices, functions

ROOT: Final = Path(__file__).parents[1]
DATA: Final = ROOT / "docs" / "_static" / "data"
PAGE: Final = ROOT / "docs" / "threads.md"
BEYOND: Final = (4, 8, 16)  # threads of the model
ELEMENTS: Final = 10**7
SIDE: Final = 768
LARGE: Final = 10**6  # elements or multiply-adds of which one call in a turn is enough
MOST_REPEATED: Final = 300

Call = Callable[[], Any]


@dataclass(frozen=True)
class Threads:
    """A kernel on some threads: the median of its seconds, and the speedup with its spread."""

    work: str
    bytes: float  # that a call moves at least
    threads: int
    seconds: float
    speedup: float
    least: float
    greatest: float


@dataclass(frozen=True)
class Size:
    """A call on an array of some elements, or a product of some multiply-adds, on all threads."""

    work: str
    count: int
    seconds: float


# --- what is timed --------------------------------------------------------------------------------


def numbers(*shape: int, format: str = "float32") -> Any:
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    return np.asarray(fpemu.round(x, format), np.float32)


def product(accumulator: Any, side: int = SIDE) -> Call:
    """A call that multiplies two square matrices of members of the accumulator's formats."""
    formats = (each.name if each else "float32" for each in accumulator.input_formats)
    a, b = (numbers(side, side, format=format) for format in formats)
    return lambda: fpemu.matmul(a, b, accumulator)


def works() -> dict[str, tuple[Call, float]]:
    """The kinds of kernels, and how many bytes each moves at least."""
    x, y, out = numbers(ELEMENTS), numbers(ELEMENTS), np.empty(ELEMENTS, np.float32)
    rows = numbers(2048, 512)
    matrices = 3 * 4 * SIDE**2
    model = lamp.from_pretrained("embedded").with_hardware("fp32")
    tokens = np.arange(256) % 500
    return {
        "copy": (lambda: copied(x, out), 8 * ELEMENTS),
        "`round` into e8m7": (lambda: fpemu.round(x, "e8m7", out=out), 8 * ELEMENTS),
        "`round` into e8m7, sr": (
            lambda: fpemu.round(x, "e8m7", fpemu.Rounding("sr", seed=1), out=out),
            8 * ELEMENTS,
        ),
        "`add` into bfloat16": (lambda: fpemu.add(x, y, "bfloat16", out=out), 12 * ELEMENTS),
        "`softmax` of rows in float32": (lambda: functions.softmax(rows, "float32"), 8 * rows.size),
        "`Sequential` float32": (product(fpemu.Sequential("float32")), matrices),
        "`Sequential` e8m7": (product(fpemu.Sequential("e8m7")), matrices),
        "`Pairwise` float32": (product(fpemu.Pairwise("float32")), matrices),
        "hopper.wgmma.e4m3": (product(devices.get("hopper.wgmma.e4m3")), matrices),
        "forward pass, embedded model, 256 tokens": (lambda: model.logits(tokens), 0),
    }


def copied(x: Any, out: Any) -> None:
    """A copy on as many threads as kernels have."""
    threads = numba.get_num_threads()
    parts = zip(np.array_split(x, threads), np.array_split(out, threads), strict=True)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts))


def on(threads: int, call: Call) -> Call:
    def limited() -> None:
        numba.set_num_threads(threads)
        call()

    return limited


def repeatedly(call: Call, times: int) -> Call:
    """Many calls of what is short, of which the first alone comes to cold caches and threads."""

    def again() -> None:
        for _ in range(times):
            call()

    return again


def measured_threads(turns: int, seconds: float) -> list[Threads]:
    """Each kind of kernel on one thread, two, and all."""
    cores = numba.config.NUMBA_NUM_THREADS
    counts = sorted({1, min(2, cores), cores})
    kinds = works()
    found = []
    for work, (call, moved) in kinds.items():
        calls = {str(count): on(count, call) for count in counts}
        times = seconds_in_turns(calls, turns, seconds / len(kinds))
        for count in counts:
            of_one = zip(times["1"], times[str(count)], strict=True)
            ratios = [alone / together for alone, together in of_one]
            median = statistics.median(times[str(count)])
            speedup = statistics.median(ratios)
            found.append(Threads(work, moved, count, median, speedup, min(ratios), max(ratios)))
    numba.set_num_threads(cores)
    return found


def measured_sizes(turns: int, seconds: float) -> list[Size]:
    """Calls of growing size, in turns, on all threads."""
    calls: dict[tuple[str, int], Call] = {}
    for exponent in range(8):
        count = 10**exponent
        x, out = numbers(count), np.empty(count, np.float32)
        calls["`round` into e8m7", count] = lambda x=x, out=out: fpemu.round(x, "e8m7", out=out)
        calls["`add` into bfloat16", count] = lambda x=x, out=out: fpemu.add(
            x, x, "bfloat16", out=out
        )
    for side in (1, 4, 16, 64, 256, 1024):
        calls["`Sequential` float32", side**3] = product(fpemu.Sequential("float32"), side)
        calls["hopper.wgmma.e4m3", side**3] = product(devices.get("hopper.wgmma.e4m3"), side)
    often = {key: min(MOST_REPEATED, 1 + LARGE // key[1]) for key in calls}
    repeated = {str(key): repeatedly(call, often[key]) for key, call in calls.items()}
    times = seconds_in_turns(repeated, turns, seconds)
    return [Size(*key, min(times[str(key)]) / often[key]) for key in calls]


# --- the model and the tables ---------------------------------------------------------------------


def serial_share(rows: Sequence[Threads]) -> float:
    """Amdahl's share, from the most threads that were measured; NaN on one core."""
    most = max(rows, key=lambda row: row.threads)
    if most.threads == 1:
        return float("nan")
    share = (most.threads / most.speedup - 1) / (most.threads - 1)
    return min(max(share, 0.0), 1.0)


def expected(rows: Sequence[Threads], threads: int, rate: float) -> str:
    """The speedup that the model gives, with a star where the memory is the limit."""
    share, alone = serial_share(rows), rows[0].seconds
    amdahl = 1 / (share + (1 - share) / threads)
    limit = alone / (rows[0].bytes / rate) if rows[0].bytes else float("inf")
    return f"{number(min(amdahl, limit))}{'*' if limit < amdahl else ''}"


def grouped(rows: Sequence[Any]) -> Mapping[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.work, []).append(row)
    return found


def threads_table(rows: Sequence[Threads]) -> tuple[list[str], list[list[str]]]:
    kinds = grouped(rows)
    counts = [row.threads for row in kinds["copy"][1:]]
    rate = max(row.bytes / row.seconds for row in kinds["copy"])
    headers = ["work", "ms on one", *(f"speedup on {count}" for count in counts), "serial share"]
    headers += [f"model, {count}" for count in BEYOND]
    return headers, [
        [
            work,
            number(1e3 * group[0].seconds),
            *(
                f"{number(row.speedup)} ({number(row.least)} to {number(row.greatest)})"
                for row in group[1:]
            ),
            f"{100 * serial_share(group):.0f}%",
            *(expected(group, count, rate) for count in BEYOND),
        ]
        for work, group in kinds.items()
    ]


def sizes_table(rows: Sequence[Size]) -> tuple[list[str], list[list[str]]]:
    """A call's own time, the best rate, and the size from which half of that is reached."""
    headers = ["work", "one element, \N{MICRO SIGN}s", "best rate, G/s", "half of it from"]
    table = []
    for work, group in grouped(rows).items():
        best = max(row.count / row.seconds for row in group)
        half = next(row.count for row in group if row.count / row.seconds >= best / 2)
        call = group[0].seconds
        table.append([work, number(1e6 * call), number(best / 1e9), f"{half:,}"])
    return headers, table


def write_csv(file: Path, rows: Sequence[Any]) -> None:
    with file.open("w", newline="", encoding="utf-8") as output:
        writer = csv.DictWriter(output, [field.name for field in fields(rows[0])])
        writer.writeheader()
        writer.writerows(
            {key: f"{x:.6g}" if isinstance(x, float) else x for key, x in asdict(row).items()}
            for row in rows
        )


def filled(page: str, tables: Mapping[str, tuple[list[str], list[list[str]]]]) -> str:
    """A page with the tables between their marks."""
    for name, (headers, rows) in tables.items():
        marks = ["---", *["---:"] * (len(headers) - 1)]
        lines = "\n".join(f"| {' | '.join(row)} |" for row in (headers, marks, *rows))
        block = rf"(<!-- threads: {name} -->\n).*?(^<!-- end -->$)"
        page = re.sub(block, rf"\g<1>\n{lines}\n\n\g<2>", page, flags=re.M | re.S)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=50.0, help="about how long it may take")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/threads.md")
    parser.add_argument("--output", type=Path, default=DATA, help="folder of the CSV files")
    options = parser.parse_args()
    print_environment(environment(()), {})
    threads = measured_threads(options.turns, 0.75 * options.seconds)
    sizes = measured_sizes(options.turns, 0.25 * options.seconds)
    tables = {"kinds": threads_table(threads), "sizes": sizes_table(sizes)}
    for name, (headers, rows) in tables.items():
        print_table(name, headers, rows, markdown=True)
    write_csv(options.output / "threads.csv", threads)
    write_csv(options.output / "sizes.csv", sizes)
    if options.write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
