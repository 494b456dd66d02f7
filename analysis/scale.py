"""How far a study can grow: the same store from a cluster, planning, stores, long texts.

    python analysis/scale.py cluster [--runs 1000] [--workers 4]
    python analysis/scale.py planning [--runs 10000 100000 1000000]
    python analysis/scale.py stores [--runs 1000 10000 100000]
    python analysis/scale.py texts [--bytes 1000000000] [--workers 2]

`cluster` sweeps a study of a random model of two layers in this process, and again on a local dask
cluster of which a worker is killed in the middle.  It compares the stores: all rows of all tables
but times, and the hosts and paths of files.  `planning` lists a study's runs
(`lamp sweep --dry-run`), and sweeps it up to its first run.  `stores` fills a store with a study's
runs and asks for them in every way that the commands do.  `texts` sweeps a study on a text of so
many bytes and counts what workers read.  Each figure of a command is of a process of its own:
seconds to the first line that it writes, to its end, of CPU, and the most memory that it had.
Exits with 1 if the stores differ, or a worker has read a checkpoint more often than once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import pkgutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import lamp
from lamp.evaluation import SAMPLES, Source
from lamp.studies import Status
from tests.lamp import tiny_studies

BITS: Final = range(1, 11)
SEEDS: Final = range(9)
STEP: Final = len(BITS) * (1 + len(SEEDS))  # runs that there are for each value of tau

OWN: Final = {
    "runs": ("seconds", "started_at", "finished_at", "environment"),
    "studies": ("planned_at",),
}
"""Columns that differ between sweeps of one study: times and places."""
PLACES: Final = ("environments", "files")
"""Tables that do."""


def study(count: int, tokens: int = 16) -> str:
    """The TOML of a study of so many runs of the embedded model, in hundreds."""
    taus = [1 + (1 + number) / (count // STEP) for number in range(count // STEP)]
    return f"""\
name = "scale"
texts = [{{source = "held-out", tokens = {tokens}}}]
hardware = ["scores-ps{{mu}}"]
lamp = ["softmax:normwise:{{tau}}", "softmax:random:{{tau}}:seed={{seed}}"]

[grid]
mu = {[*BITS]}
seed = {[*SEEDS]}
tau = {taus}
"""


def written(folder: Path, count: int) -> Path:
    """The file of a study."""
    file = folder / f"{count}.toml"
    file.write_text(study(count), encoding="utf-8")
    return file


# --- the same store -------------------------------------------------------------------------------


def contents(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a store by table, without times and places."""
    found = {}
    address = f"{store.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if table not in PLACES:
                columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
                kept = ", ".join(name for name in columns if name not in OWN.get(table, ()))
                found[table] = sorted(db.execute(f"SELECT {kept} FROM {table}").fetchall(), key=str)
    return found


class Killer:
    """Kills a worker of a cluster when half of the runs have ended."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.killed: list[str] = []

    def __call__(self, status: Status) -> None:
        """Look at the progress of a sweep."""
        if not self.killed and 2 * status.left <= status.total and status.running:
            _, worker, _ = next(iter(status.running.values()))
            os.kill(self.client.run(os.getpid)[worker], signal.SIGKILL)
            self.killed.append(f"{worker} after {status.total - status.left} runs")


def cluster(count: int, workers: int, folder: Path) -> bool:
    """Compare a cluster's store with that of one process."""
    import distributed

    tiny_studies.study(folder)  # which writes down a model and a text
    file = folder / "tiny.toml"
    own = study(count).replace("held-out", "text.txt")
    file.write_text(f'models = ["model"]\n{own}', encoding="utf-8")
    start = time.perf_counter()
    lamp.sweep(file, store=folder / "one.sqlite")
    alone = time.perf_counter() - start
    local = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
    )
    with local, distributed.Client(local, set_as_default=False) as client:
        killer = Killer(client)
        start = time.perf_counter()
        lamp.sweep(file, store=folder / "cluster.sqlite", cluster=client, progress=killer)
        together = time.perf_counter() - start
    one, other = contents(folder / "one.sqlite"), contents(folder / "cluster.sqlite")
    print(f"one process: {alone:.0f} s; {workers} workers: {together:.0f} s")
    print(f"killed: {', '.join(killer.killed)}")
    for table, rows in one.items():
        verdict = "the same" if other[table] == rows else "DIFFERENT"
        print(f"{table:14}{len(rows):8,} rows, {verdict}")
    done = sum(row[1] == "done" for row in one["runs"])
    print(f"{done} of {count} runs are done")
    return one == other and done == count and bool(killer.killed)


# --- commands in processes of their own -----------------------------------------------------------


class Cost(NamedTuple):
    """What a process has taken."""

    first: float
    seconds: float
    cpu: float
    megabytes: float

    def __str__(self) -> str:
        return (
            f"first line {self.first:7.2f} s, end {self.seconds:7.2f} s, "
            f"CPU {self.cpu:7.2f} s, {self.megabytes:6.0f} MB"
        )


MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
process.stdout.readline()
first = time.perf_counter() - start
while process.stdout.read(2**16):
    pass
code = process.wait()
seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, first, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
"""Runs a command.  It has little memory itself: that of a process counts as its children's."""


def cost(*arguments: str) -> Cost:
    """Run Python with arguments."""
    command = [sys.executable, "-S", "-c", MEASURE, sys.executable, *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    code, *numbers = map(float, run.stdout.split())
    if code:
        raise RuntimeError(f"{arguments} ended with {code:.0f}")
    return Cost(*numbers)


FIRST = """
import sys
import lamp
from lamp.studies import Engine

class First(Engine):
    def _capacities(self):
        return {"here": 1}

    def _begin(self, worker, task):
        raise SystemExit

    def _end(self, *, now):
        pass

lamp.sweep(sys.argv[1], store=sys.argv[2], workers=lambda folder: First())
"""
"""A sweep that ends where its first run begins."""


def planning(counts: Iterable[int], folder: Path) -> None:
    """What plans of studies cost."""
    for count in counts:
        file, store = str(written(folder, count)), str(folder / f"{count}.sqlite")
        print(f"{count:9,} runs")
        listed = cost("-m", "lamp", "sweep", file, "--dry-run", "--store", store)
        print(f"  dry run           {listed}")
        begun = cost("-c", FIRST, file, store)
        print(f"  to the first run  {begun}, store of {os.path.getsize(store) / 1e6:.0f} MB")


ONE = """
import sys
import lamp

lamp.sweep(lamp.Study("one", texts=[{"tokens": 2048}], hardware=["bf16"]), store=sys.argv[1])
"""
COPY = """
INSERT INTO {table} SELECT {columns} FROM (SELECT DISTINCT key AS new FROM members) JOIN {table}
WHERE new NOT IN (SELECT key FROM {table}) AND key = (SELECT key FROM members WHERE study = 'one')
"""


def filled(folder: Path, count: int) -> tuple[Path, Path]:
    """A study, and a store in which all its runs are done: each has the result of the first."""
    file, store = written(folder, count), folder / f"{count}-filled.sqlite"
    cost("-c", FIRST, str(file), str(store))
    cost("-c", ONE, str(store))
    with contextlib.closing(sqlite3.connect(store)) as db:
        for table in ("runs", "rates", "clusters"):
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            columns = ", ".join("new" if name == "key" else name for name in names)
            db.execute(COPY.format(table=table, columns=columns))
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file, store


def stores(counts: Iterable[int], folder: Path) -> None:
    """What questions to a store cost."""
    for count in counts:
        file, store = map(str, filled(folder, count))
        print(f"{count:9,} runs, store of {os.path.getsize(store) / 1e6:.0f} MB")
        for name, arguments in {
            "sweep, all done": ("sweep", file, "--store", store),
            "dry run": ("sweep", file, "--dry-run", "--store", store),
            "status": ("status", store),
            "status --json": ("status", store, "--json"),
            "report": ("report", store, "--output", str(folder / "page.html")),
        }.items():
            print(f"  {name:18}{cost('-m', 'lamp', *arguments)}", flush=True)
        os.remove(store)


# --- what is read ---------------------------------------------------------------------------------

COUNTED: Final = {
    "checkpoints loaded": ("lamp.integrations", "from_pretrained"),
    "digests of files": ("lamp.studies.tasks", "file_digest"),
    "texts opened": ("lamp.evaluation.sources", "_opened"),
    "forward passes": ("lamp.models.decoder.Decoder", "forward"),
}
"""Functions whose calls are counted on each worker."""


def count_calls() -> None:
    """Begin to count, on a worker."""
    import builtins

    counts = builtins.__dict__.setdefault("_counts", dict.fromkeys(COUNTED, 0))

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counting(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*arguments, **options)

        return counting

    for name, (place, function) in COUNTED.items():
        owner = pkgutil.resolve_name(place)
        setattr(owner, function, counted(name, getattr(owner, function)))


def calls() -> dict[str, int]:
    """What was counted on a worker."""
    import builtins

    return dict(builtins.__dict__["_counts"])


def bytes_read() -> int:
    """How many bytes this process has read so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def texts(size: int, workers: int, folder: Path) -> bool:
    """What is read of a long text, and by whom; whether no worker reads a checkpoint twice."""
    import distributed

    sample = SAMPLES["held-out"].text().encode()
    with open(folder / "long.txt", "wb") as opened:
        for _ in range(size // len(sample)):
            opened.write(sample)
    print(f"a text of {(folder / 'long.txt').stat().st_size:,} bytes")
    model = lamp.from_pretrained("embedded")
    for tokens in (16, 2048):
        before, start = bytes_read(), time.perf_counter()
        Source(str(folder / "long.txt"), tokens=tokens).read(model)
        seconds = time.perf_counter() - start
        print(f"{tokens:6,} tokens: {bytes_read() - before:,} bytes are read, {seconds:.3f} s")
    file = folder / "texts.toml"
    file.write_text(study(STEP).replace("held-out", "long.txt"), encoding="utf-8")
    print(f"dry run: {cost('-m', 'lamp', 'sweep', str(file), '--dry-run')}")
    local = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
    )
    with local, distributed.Client(local, set_as_default=False) as client:
        client.run(count_calls)
        swept = lamp.sweep(file, store=folder / "texts.sqlite", cluster=client)
        found = client.run(calls)
    print(f"{swept.ran} runs on {workers} workers")
    for worker, counts in found.items():
        print(f"  {worker}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    return all(counts["checkpoints loaded"] <= 1 for counts in found.values())


# --- the command ----------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sizes: dict[str, tuple[Callable[..., Any], list[int]]] = {
        "planning": (planning, [10**4, 10**5, 10**6]),
        "stores": (stores, [10**3, 10**4, 10**5]),
    }
    for name, (_, counts) in sizes.items():
        commands.add_parser(name).add_argument("--runs", type=int, nargs="+", default=counts)
    own = commands.add_parser("cluster")
    own.add_argument("--runs", type=int, default=1000)
    own.add_argument("--workers", type=int, default=4)
    own = commands.add_parser("texts")
    own.add_argument("--bytes", type=int, default=10**9)
    own.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.command == "cluster":
            sys.exit(not cluster(options.runs, options.workers, folder))
        if options.command == "texts":
            sys.exit(not texts(options.bytes, options.workers, folder))
        sizes[options.command][0](options.runs, folder)


if __name__ == "__main__":
    main()
