"""What a sweep costs over the bare loop of evaluations that it replaces.

    python analysis/bench_sweep.py [--runs 100] [--tokens 2048] [--jobs 2] [--model smollm2]

A study on the embedded model is swept in this process; after each of its runs the same evaluation
is done by itself, so that what disturbs the machine disturbs both.  The design asks for an overhead
below 2%, and for 100 runs within 10 minutes on two cores.  With --jobs the study is swept by
processes as well.  With --model the ways in which a worker can come by its reference logits are
compared on that model.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import lamp
from lamp import evaluation
from lamp.evaluation import Metrics, Source, reference_logits
from lamp.studies import Result, Status, Store, file_digest, planned
from lamp.studies.runs import now
from lamp.studies.worker import Worker

OVERHEAD = 0.02
MINUTES = 10.0
RULES = ("none", "softmax:normwise:{tau}", "softmax:random:{tau}", "softmax:tv:{budget}%")
AMOUNTS: dict[str, Any] = {"tau": [1.5, 1.2, 1.05], "budget": [1, 3, 10]}
SETTINGS = 10  # that the rules stand for


def study(count: int, text: Source) -> lamp.Study:
    """About as many runs, ten for each number of stored bits."""
    bits = list(range(1, max(1, count // SETTINGS) + 1))
    machines = ["scores-ps{mu}"]
    return lamp.Study(
        "bench", texts=[text], hardware=machines, lamp=RULES, grid={"mu": bits, **AMOUNTS}
    )


class Bare:
    """The loop that people write without a sweep."""

    def __init__(self, text: Source) -> None:
        start = time.perf_counter()
        self.model = lamp.from_pretrained("embedded")
        self.text = text.read(self.model)
        windows = self.text.tokens.reshape(-1, self.text.length)
        self.reference = reference_logits(self.model.with_hardware("fp64"), windows)
        self.seconds = time.perf_counter() - start

    def evaluate(self, setting: evaluation.Setting) -> Metrics:
        """One round of it."""
        start = time.perf_counter()
        model = self.model.with_hardware(setting.hardware, setting.lamp)
        text = self.text
        found = lamp.evaluate(self.reference, model, text.tokens, length=text.length)
        self.seconds += time.perf_counter() - start
        return found


def compare(count: int, tokens: int, folder: Path) -> float:
    """Sweep and loop in turns; how long the sweep took."""
    text = Source(tokens=tokens)
    chosen = study(count, text)
    settings = {
        point.labels["hardware"] + point.labels["lamp"]: point.setting for point in chosen.points()
    }
    Bare(Source(tokens=512)).evaluate(next(iter(settings.values())))  # compiles, imports
    bare = Bare(text)
    for setting in settings.values():
        bare.model.with_hardware(setting.hardware, setting.lamp).forward([1, 2])
    beginning, done, aside = bare.seconds, 0, 0.0

    def follow(status: Status) -> None:
        nonlocal done, aside
        start = time.perf_counter()
        for run, result in status.since(done):
            done += 1
            assert bare.evaluate(settings[run.hardware + run.lamp]) == result.metrics
        aside += time.perf_counter() - start

    start = time.perf_counter()
    swept = lamp.sweep(chosen, store=folder / "bench.sqlite", progress=follow)
    seconds = time.perf_counter() - start - aside
    measured = sum(run.seconds or 0.0 for run in swept.runs)
    overhead = seconds / bare.seconds - 1
    print(
        f"{swept.ran} runs of {tokens} tokens: loop {bare.seconds:.1f} s ({beginning:.1f} s of it "
        f"model and reference), sweep {seconds:.1f} s\n"
        f"overhead {overhead:.2%}, below {OVERHEAD:.0%}: {_verdict(overhead < OVERHEAD)}\n"
        f"of the sweep's time {measured:.1f} s are forward passes and comparisons\n"
        f"within {MINUTES:.0f} minutes: {_verdict(seconds < 60 * MINUTES)}"
    )
    start = time.perf_counter()
    assert lamp.sweep(chosen, store=folder / "bench.sqlite").ran == 0
    print(f"a second call, which finds nothing to do: {time.perf_counter() - start:.2f} s")
    return seconds


def _verdict(met: bool) -> str:
    return "yes" if met else "NO"


def with_processes(count: int, tokens: int, jobs: int, folder: Path) -> None:
    """The same by several processes."""
    start = time.perf_counter()
    lamp.sweep(study(count, Source(tokens=tokens)), store=folder / "jobs.sqlite", jobs=jobs)
    print(f"{jobs} processes: {time.perf_counter() - start:.1f} s, their beginning included")


def costs_of_the_store(folder: Path) -> None:
    """Transactions, by themselves."""
    with Store.open(folder / "bench.sqlite") as store:
        (run, *_) = store.runs("bench")
    result = Result(run.metrics, 1.0, now(), now(), {})
    count = 200
    with Store.open(folder / "writes.sqlite", write=True) as store:
        start = time.perf_counter()
        for index in range(count):
            store.claim(str(index), "bench")
            store.finish(str(index), "{}" * 2000, result)
        each = (time.perf_counter() - start) / count
    print(f"a claim and a result on the disk: {each * 1e3:.1f} ms")


def references(model: str, tokens: int, folder: Path) -> None:
    """What a run costs when its reference is in memory, in a file, computed again."""
    text = Source(tokens=tokens)
    chosen = lamp.Study("reference", models=[model], texts=[text], hardware=["fp32", "bf16", "ps4"])
    tasks = list(planned(chosen, file_digest).tasks.values())
    ways = {
        "in memory": Worker(2**40),
        "in a file": Worker(0, folder / "references"),
        "computed again": Worker(0),
    }
    print(f"\n{model}, {tokens} tokens: seconds of a run, of them not in its own forward passes")
    for name, worker in ways.items():
        cells = []
        for task in tasks:
            start = time.perf_counter()
            result = worker.run(task)
            assert result.metrics is not None, result.error
            seconds = time.perf_counter() - start
            cells.append(f"{seconds:8.2f} {seconds - result.seconds:6.2f}")
        print(f"{name:16}{'   '.join(cells)}")
    sizes = [file.stat().st_size for file in (folder / "references").glob("*.npy")]
    print(f"the file has {sum(sizes) / 2**20:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--model")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare(options.runs, options.tokens, folder)
        costs_of_the_store(folder)
        if options.jobs:
            with_processes(options.runs, options.tokens, options.jobs, folder)
        if options.model:
            references(options.model, options.tokens, folder)


if __name__ == "__main__":
    main()
