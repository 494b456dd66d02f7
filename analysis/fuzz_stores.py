"""Files that people and other programs have spoilt: TOML studies and machines, and stores.

    python analysis/fuzz_stores.py [--kinds toml stores] [--cases 300] [--seed 0]

Each case changes a good file at random and gives it to the commands that read it.  A command must
end well, or with exit code 1 or 2 and a message that names the file: no traceback, nothing that a
terminal would take for an order, no more than 5 seconds and 1 GB.  Exits with 1 after a case that
fails; `--first` begins with that case.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import io
import math
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import typer.main

from lamp.cli.application import main as command
from lamp.evaluation import Metrics, Sums
from lamp.integrations import Score, TaskResult
from lamp.studies import Result, Run, Store, TaskRun
from lamp.studies.runs import now

SECONDS = 5.0
GIGABYTE = 10**9
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

# --- one case -------------------------------------------------------------------------------------


def memory() -> int:
    """The most bytes that this process has held; getrusage would count those of its parent."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024


def check(arguments: Sequence[object], file: Path, *, named: bool = True) -> str | None:
    """Run a command; what is wrong with how it ends, or None."""
    output, errors = io.StringIO(), io.StringIO()
    faulthandler.dump_traceback_later(4 * SECONDS, exit=True, file=sys.__stderr__)
    start = time.perf_counter()
    code: Any = 0
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            command([str(each) for each in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds = time.perf_counter() - start
    said = errors.getvalue()
    if seconds > SECONDS:
        return f"took {seconds:.1f} s"
    if memory() > GIGABYTE:
        return "took more than 1 GB of memory"
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if "Traceback" in said or "--debug COMMAND" in said:
        return said
    if found := UNFIT.search(output.getvalue() + said):
        return f"{found[0]!r} reached the terminal"
    # Messages of bad usage are cut into lines.
    if code and named and file.name not in re.sub(r"[\s│]", "", said):
        return f"the message does not name {file.name}: {said}"
    return None


# --- TOML -----------------------------------------------------------------------------------------

MACHINE = """
name = "mine"
preset = "hopper-fp8"
weights = "float16"
norm = "float16"

[products]
output = "bfloat16"

[scores]
accumulator = {kind = "blocked", format = "e8m7", block = 4, inner = "e8m9"}
scaling = "none"

[mlp_up]
unit = "hopper.wgmma.e5m2"
operands = "float8_e5m2"
rounding = {mode = "sr", overflow = "saturate", seed = 3, random_bits = 9}
scale = 1.0

[mlp_down.accumulator]
kind = "promoted"
inner = {unit = "hopper.wgmma.e4m3"}
format = "float32"
block = 64

[recomputed]
accumulator = {kind = "tensor_core", block = 4, fraction_bits = 23}

[softmax]
output = {name = "odd", bits = 7, precision = 4, bias = 3, infinities = false, high_nans = 0}
"""
STUDY = """
name = "scores"
models = ["embedded"]
hardware = ["fp32", "scores-ps{mu}", "mine.toml"]
lamp = ["none", "softmax:normwise:{tau}", "softmax:random:{tau}:seed={seed}"]
reference = "fp64"

[grid]
mu = [2, 4, 7]
tau = [1.5, 1.2]
seed = [0]

[[texts]]
source = "held-out"
tokens = 64
length = 32
stride = 16

[[texts]]
source = "text.txt"
tokens = 64
shuffled = true
name = "shuffled"
"""
VALUES = [
    "0",
    "-1",
    "1",
    "9223372036854775807",
    "18446744073709551616",
    "0x7fffffffffffffffffff",
    "1e999",
    "-0.0",
    "nan",
    "inf",
    "-inf",
    "true",
    "[]",
    "{}",
    "[[]]",
    '""',
    '"x"',
    '"{mu}"',
    '"{"',
    '"none"',
    '"fp64"',
    "1979-05-27",
    "07:32:00",
    '"\\u001b[31m"',
    '"\\u202e"',
    '"\\u0000"',
    '"e8m4"',
    '"e1m99"',
    '"e99999999m4"',
    '"sr"',
    '"../x"',
    '"/dev/zero"',
    '"/"',
    '[1,"a"]',
    "{a=1}",
    "1_000",
    '"all"',
    '{kind="exact",format="e8m4"}',
    '{unit="hopper"}',
    '"softmax:tv:1e9999999999999999999%"',
    '"softmax:tv:nan"',
    '"norm:norm:-1%"',
    "[0.1,0.2,0.3]",
]
VALUES += [
    f'"{"x" * 5000}"',
    "9" * 5000,
    "[" * 500,
    f"{'[' * 12}{']' * 12}",
    '"' + "{mu}" * 99 + '"',
]
LINES = (
    ".".join("a" * 5000) + " = 1",
    "[scores.accumulator]",
    "[a.b.c]",
    "[[scores]]",
    "[[texts]]",
    "[grid]",
    "= 1",
    '"\\ud800" = 1',
    "\x1b[31m = 1",
    "# \x00",
    f"mu = [{', '.join(map(str, range(2000)))}]",
    "x" * 5000 + " = 1",
    "a = " + "{a = " * 400,
)


def spoilt_text(good: str, draw: np.random.Generator) -> bytes:
    """A TOML text with one to three changes."""
    text = good
    for _ in range(draw.integers(1, 4)):
        lines = text.splitlines()
        place = int(draw.integers(len(lines))) if lines else 0
        kind = draw.integers(7)
        if kind == 0:
            lines.insert(place, str(draw.choice(LINES)))
        elif kind == 1 and lines:
            del lines[place]
        elif kind == 2 and lines:
            lines.insert(int(draw.integers(len(lines))), lines[place])
        elif kind in (3, 4) and (
            values := list(re.finditer(r'"[^"\n]*"|\b[\d.]+\b|true|false', text))
        ):
            match = values[int(draw.integers(len(values)))]
            text = text[: match.start()] + str(draw.choice(VALUES)) + text[match.end() :]
            continue
        elif kind == 5:
            return spoilt_bytes("\n".join(lines).encode(), draw)
        elif lines:
            key = lines[place].partition("=")[0]
            lines[place] = f"{key}= {draw.choice(VALUES)}"
        text = "\n".join(lines)
    return text.encode("utf-8", "replace")


def spoilt_bytes(good: bytes, draw: np.random.Generator) -> bytes:
    """Bytes with a few of them changed, cut out, put in or repeated."""
    content = bytearray(good)
    for _ in range(draw.integers(1, 6)):
        if not content:
            break
        place, size = int(draw.integers(len(content))), int(draw.integers(1, 40))
        kind = draw.integers(4)
        if kind == 0:
            content[place] = int(draw.integers(256))
        elif kind == 1:
            del content[place : place + size]
        elif kind == 2:
            content[place:place] = draw.bytes(size)
        else:
            content[place:place] = content[place : place + size] * int(draw.integers(1, 5))
    return bytes(content)


def toml_case(folder: Path, draw: np.random.Generator) -> str | None:
    """A spoilt machine or study."""
    machine, study = folder / "mine.toml", folder / "study.toml"
    (folder / "text.txt").write_text("When shall we three meet again? " * 20, encoding="utf-8")
    machine.write_text(MACHINE, encoding="utf-8")
    if draw.integers(2):
        machine.write_bytes(spoilt_text(MACHINE, draw))
        toml = ["--toml"] if draw.integers(2) else []
        return check(["hardware", "show", machine, *toml], machine)
    study.write_bytes(spoilt_text(STUDY, draw))
    return check(["sweep", study, "--dry-run"], study)


# --- stores ---------------------------------------------------------------------------------------


def good_store(path: Path) -> None:
    """A store with runs in all states."""
    metrics = Metrics(
        *(7, 1e-3, 0.25, 11.0, 12.0, 0.1, (0.25, 0.5), {"scores": (0.5, 1.0)}, 0.01),
        **{"kl_error": 1e-4, "clusters": 2, "windows": 2},
        sums=(Sums(4, 1e-3, 1), Sums(3, 6e-3, 0)),
    )
    labels = {"model": "m", "text": "t", "reference": "fp64"}
    runs = [
        Run(
            f"{i:02x}" * 32,
            hardware=f"ps{i // 4}",
            lamp="none" if i % 4 == 2 else f"softmax:random:1%:seed={i}",
            variables={"mu": i // 4, "seed": i},
            **labels,
        )
        for i in range(8)
    ]
    mean = Score("arc", "acc", "none", "1", 2, 0.5, 0.1, True, {0: 1.0, 1: 0.0})
    answered = TaskResult((mean, Score("arc", "ppl", "none", "1", 2, 9.0, math.nan, None)), 3)
    machines = ("fp64", "ps0", "ps1")
    tasks = [
        TaskRun(f"{i + 16:02x}" * 32, hardware=machine, lamp="none", subject="s", **labels)
        for i, machine in enumerate(machines)
    ]
    with Store.open(path, write=True) as store:
        for name in ("one", "two"):
            says = {"name": name, "hardware": ["ps{mu}"], "grid": {"mu": [0, 1, 2]}}
            store.plan(name, says, [*runs, *tasks])
        for run in tasks[:2]:
            place = {"host": "here"}
            store.finish(run.key, '{"x":1}', Result(answered, 1.5, now(), now(), place))
        for i, run in enumerate(runs[:6]):
            error = "" if i % 3 else "it broke"
            place = {"host": "here", "cores": 2, "memory": 2**34}
            found = None if error else metrics
            store.finish(run.key, '{"x":1}', Result(found, 1.5, now(), now(), place, error, error))
        store.claim(runs[7].key, "owner")


TABLES = (
    *("environments", "runs", "rates", "clusters", "studies", "members", "claims", "files"),
    *("task_members", "scores", "answers"),
)
ODD = (
    None,
    0,
    -1,
    9 * 10**18,
    1e308,
    float("inf"),
    "y",
    "",
    "x" * 5000,
    "\x1b[31mred",
    "\u202egnp.exe",
    "=cmd()",
    b"\xff\x00",
    "{}",
    "[]",
    "[" * 5000,
    '{"a": ' * 500 + "1" + "}" * 500,
    '{"memory": 1e999, "host": "\\u001b[2J", "cores": []}',
    '{"grid": 7, "hardware": [1]}',
    '{"mu": 1e999}',
    f'{{"mu": {"9" * 4000}}}',
    '{"mu": "\\ud800"}',
    "\ud83d".encode("utf-8", "surrogatepass"),
    "9999-99-99",
    "2026-11-29T00:00:00.000+00:00",
    "done",
    "failed",
    "missing",
)
VIEW = "DROP VIEW results; CREATE VIEW results AS "
SCHEMAS = (
    VIEW
    + "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS study FROM n",
    VIEW + "SELECT 1 AS study",
    VIEW + "SELECT *, randomblob(500000000) AS b FROM members",
    "DROP TABLE rates",
    "DROP TABLE files",
    "ALTER TABLE runs RENAME COLUMN kl TO lk",
    "ALTER TABLE claims ADD COLUMN more",
    "CREATE TRIGGER t BEFORE INSERT ON claims BEGIN SELECT RAISE(ABORT, 'no'); END",
    "CREATE INDEX i ON members (text)",
    "PRAGMA application_id = 7",
    "PRAGMA user_version = 2",
    "PRAGMA user_version = -1",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA encoding = 'UTF-16'",
    "CREATE TABLE more (x); INSERT INTO more SELECT 1",
    "DELETE FROM studies",
    "DELETE FROM members",
    "DELETE FROM environments",
    "PRAGMA writable_schema = 1; "
    "UPDATE sqlite_master SET sql = 'CREATE TABLE runs (x)' WHERE name = 'runs'",
    "PRAGMA writable_schema = 1; UPDATE sqlite_master SET rootpage = 2",
    "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = NULL",
    "PRAGMA writable_schema = 1; DELETE FROM sqlite_master WHERE name = 'members'",
)


def change_value(connection: sqlite3.Connection, draw: np.random.Generator) -> None:
    """Put an odd value into a column."""
    table = str(draw.choice(TABLES))
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    column = columns[int(draw.integers(len(columns)))]
    value = ODD[int(draw.integers(len(ODD)))]
    if isinstance(value, bytes) and draw.integers(2):
        value = sqlite3.Binary(value)
        set_to = f"CAST(? AS {draw.choice(['TEXT', 'BLOB'])})"
    else:
        set_to = "?"
    where = "" if draw.integers(2) else " WHERE abs(random()) % 2"
    connection.execute(f"UPDATE OR REPLACE {table} SET {column} = {set_to}{where}", (value,))


def store_case(folder: Path, draw: np.random.Generator) -> str | None:
    """A spoilt store: values, tables, or bytes."""
    good, path = folder / "good.sqlite", folder / "store.sqlite"
    if not good.exists():
        good_store(good)
    for each in folder.glob("store.*"):
        each.unlink()
    shutil.copy(good, path)
    kind = draw.integers(4)
    if kind < 3:
        connection = sqlite3.connect(path, isolation_level=None)
        with contextlib.closing(connection), contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA ignore_check_constraints = 1")
            for _ in range(draw.integers(1, 4)):
                if kind < 2:
                    change_value(connection, draw)
                else:
                    connection.executescript(SCHEMAS[int(draw.integers(len(SCHEMAS)))])
    else:
        beside = draw.integers(6)
        if beside < 2:
            ending = ("-wal", "-journal")[beside]
            path.with_name(path.name + ending).write_bytes(spoilt_bytes(good.read_bytes(), draw))
        else:
            path.write_bytes(spoilt_page(path.read_bytes(), draw))
    commands = [["status", path], ["status", path, "--json"]]
    if not draw.integers(6):
        commands.append(["report", path, "--csv", folder / "store.csv"])
    for each in commands:
        if wrong := check(each, path):
            return f"{' '.join(map(str, each))}: {wrong}"
    return use(path)


def spoilt_page(content: bytes, draw: np.random.Generator) -> bytes:
    """A database with a few bytes changed, most often those that say where others are."""
    changed = bytearray(content)
    pages = len(changed) // 4096
    for _ in range(draw.integers(1, 8)):
        page = 4096 * int(draw.integers(pages))
        place = page + int(draw.choice([draw.integers(100), draw.integers(4096)]))
        changed[place] = int(draw.integers(256))
    return bytes(changed[: draw.integers(len(changed))] if not draw.integers(4) else changed)


def use(path: Path) -> str | None:
    """Write to a store as a sweep does."""
    start = time.perf_counter()
    try:
        with Store.open(path, write=True) as store:
            runs = [*store.runs(), *store.task_runs()]
            store.finished()
            for run in runs[:8]:
                store.claim(run.key, "me")
            store.plan("three", {}, runs[:2])
            store.plan("tasks", {}, runs[-1:], grow=True)
            store.release("me")
    except (ValueError, OSError) as error:
        if path.name not in str(error):
            return f"the message does not name {path.name}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "took long to write to" if time.perf_counter() - start > SECONDS else None


# --- all cases ------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Path, np.random.Generator], str | None]] = {
    "toml": toml_case,
    "stores": store_case,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    # Typer would make the command anew in each case, which takes longer than to run it.
    typer.main.get_command = functools.cache(typer.main.get_command)
    failed = 0
    for kind in given.kinds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            KINDS[kind](folder, np.random.default_rng(given.seed))  # imports take their time
            for case in range(given.first, given.first + given.cases):
                wrong = KINDS[kind](folder, np.random.default_rng([given.seed, case]))
                if wrong:
                    failed += 1
                    print(f"{kind}, seed {given.seed}, case {case}: {wrong}")
        print(f"{given.cases} cases of {kind}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
