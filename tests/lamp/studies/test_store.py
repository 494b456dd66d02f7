"""Stores: what is written is read, and nothing that happens to a file loses a result."""

import contextlib
import dataclasses
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from lamp.evaluation.metrics import Metrics
from lamp.studies import Result, Run, Store
from lamp.studies.runs import Counts, now

METRICS = Metrics(
    tokens=7,
    kl=0.1 + 0.2,
    flip_rate=1 / 3,
    reference_perplexity=5e-324,
    perplexity=1.7976931348623157e308,
    recomputation_rate=2**-60,
    layer_rates=(0.25, 0.5),
    step_rates={"scores": (0.125, 1.0), "mlp_up": (0.0, 1e-17)},
    high_precision_share=1e-300,
)
PLACE = {"host": "here", "cores": 2}


def planned(key, **labels):
    names = {"model": "m", "text": "t", "hardware": "h", "lamp": "none", "reference": "fp64"}
    return Run(key, **{**names, **labels}, variables={"mu": 4, "tau": 1.5})


def result(metrics=METRICS, error="", place=PLACE):
    return Result(metrics, 1.25, now(), now(), place, error, error and f"Traceback: {error}")


FAILED = result(None, "it broke")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.sqlite"


@pytest.fixture
def filled(path):
    """A store with a run that is done and one that is missing."""
    with Store.open(path, write=True) as store:
        store.plan("study", {"name": "study"}, [planned("a"), planned("b")])
        store.finish("a", '{"x":1}', result())
    return path


def only(runs):
    (run,) = runs
    return run


# --- what is written is read ----------------------------------------------------------------------


def test_what_is_written_is_read(path):
    labels = {"model": "a 'model'", "text": "Grüße\n", "hardware": "", "lamp": "softmax:tv:1%"}
    written = planned("a", **labels)
    with Store.open(path, write=True) as store:
        store.plan("study", {"name": "study", "grid": {"mu": [4]}}, [written, planned("b")])
        assert store.finish("a", '{"x": [1, 2]}', result())
    with Store.open(path) as store:
        done, missing = store.runs("study")
        assert (done.study, done.position, done.state) == ("study", 0, "done")
        labels = ("key", *labels, "reference", "variables")
        assert [getattr(done, label) for label in labels] == [
            getattr(written, label) for label in labels
        ]
        assert done.metrics == METRICS
        assert (done.seconds, done.error) == (1.25, None)
        assert done.started_at <= done.finished_at <= now()
        assert store.environments() == {done.environment: PLACE}
        assert store.configuration("a") == {"x": [1, 2]}
        assert (missing.key, missing.state, missing.metrics) == ("b", "missing", None)
        assert store.studies() == {"study": {"name": "study", "grid": {"mu": [4]}}}
        with pytest.raises(KeyError):
            store.configuration("b")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_survive(path, value):
    names = ("kl", "flip_rate", "reference_perplexity", "perplexity", "recomputation_rate")
    changed = dict.fromkeys(names, value)
    layers = {"layer_rates": (value, 0.5), "step_rates": {"scores": (0.5, value)}}
    metrics = dataclasses.replace(METRICS, **changed, **layers)
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned("a")])
        store.finish("a", "{}", result(metrics))
        found = only(store.runs()).metrics
    # NaN is not equal to itself, but looks like it.
    assert repr(found) == repr(dataclasses.replace(metrics, step_rates=found.step_rates))
    assert {step: repr(rates) for step, rates in found.step_rates.items()} == {
        "scores": repr((0.5, value))
    }


def test_a_store_may_have_any_name(tmp_path):
    path = tmp_path / "a?b=c#d %20 é.sqlite"
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned("a")])
    with Store.open(path) as store:
        assert only(store.runs()).state == "missing"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_says_why(path):
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned("a")])
        store.finish("a", "{}", FAILED)
        run = only(store.runs())
        assert (run.state, run.metrics, run.error) == ("failed", None, "it broke")
        assert store.traceback("a") == "Traceback: it broke"
        assert store.finished() == frozenset()


def test_success_replaces_failure_and_nothing_replaces_success(path):
    other = result(dataclasses.replace(METRICS, kl=9.0, step_rates={}, layer_rates=()))
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned("a")])
        assert store.finish("a", "{}", FAILED)
        assert store.finish("a", "{}", result(None, "again"))
        assert only(store.runs()).error == "again"
        assert store.finish("a", "{}", result())
        assert only(store.runs()).error is None
        for late in (other, FAILED):
            assert not store.finish("a", "{}", late)
        assert only(store.runs()).metrics == METRICS
        assert store.finished() == {"a"}


def test_a_study_that_changes_has_new_runs_and_the_old_ones_stay(filled):
    with Store.open(filled, write=True) as store:
        store.plan("study", {}, [planned("c")])
        store.plan(
            "other", {}, [planned("a", hardware="elsewhere"), planned("a", hardware="again")]
        )
        assert [run.key for run in store.runs("study")] == ["c"]
        assert [run.metrics for run in store.runs("other")] == [METRICS, METRICS]
        assert store.finished() == {"a"}
        # Runs are counted once, whatever they are called.
        assert store.counts("other") == Counts(done=1, failed=0, missing=0, running=0)


def test_counts_tell_states(path):
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned(key) for key in "abcd"])
        store.finish("a", "{}", result())
        store.finish("b", "{}", FAILED)
        store.claim("b", "me")
        store.claim("c", "me")
        counts = store.counts("study")
        assert counts == Counts(done=1, failed=1, missing=2, running=2)
        assert counts.total == 4


def test_the_view_is_for_people_with_sqlite(filled):
    with contextlib.closing(sqlite3.connect(filled)) as connection:
        rows = connection.execute("SELECT hardware, state, kl FROM results").fetchall()
    assert rows == [("h", "done", METRICS.kl), ("h", "missing", None)]


def test_a_file_is_read_again_only_when_it_changes(path, tmp_path, monkeypatch):
    import hashlib

    file = tmp_path / "file"
    file.write_bytes(b"one")
    with Store.open(path, write=True) as store:
        first = store.digest(file)
        assert first == hashlib.sha256(b"one").hexdigest()
        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "file_digest", None)  # to read it is an error
            assert store.digest(file) == first
        file.write_bytes(b"two")
        os.utime(file, ns=(0, 1))  # the same size: only the time tells
        assert store.digest(file) == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_is_replaced_by_one_of_equal_size_and_time_is_read_again(path, tmp_path):
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_bytes(b"one")
    other.write_bytes(b"two")
    os.utime(file, ns=(0, 1))
    with Store.open(path, write=True) as store:
        first = store.digest(file)
        time.sleep(0.05)  # a clock of files may be coarse
        os.utime(other, ns=(0, 1))
        os.replace(other, file)
        assert store.digest(file) != first


# --- claims ---------------------------------------------------------------------------------------


def test_a_claim_holds_until_the_run_has_ended(path):
    with Store.open(path, write=True) as mine, Store.open(path, write=True) as other:
        assert mine.claim("a", "me") == "claimed"
        assert mine.claim("a", "me") == "claimed"
        assert other.claim("a", "you") == "taken"
        mine.finish("a", "{}", result())
        assert other.claim("a", "you") == "done"
        assert other.claim("b", "you") == "claimed"
        other.finish("b", "{}", FAILED)
        assert mine.claim("b", "me") == "claimed"
        mine.release("me")
        assert other.claim("b", "you") == "claimed"


def test_a_claim_of_a_process_that_has_ended_is_void(path):
    script = (
        "import sys; from lamp.studies.store import Store\n"
        "print(Store.open(sys.argv[1], write=True).claim('a', 'you'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "claimed"
    with Store.open(path, write=True) as store:
        assert store.claim("a", "me") == "claimed"


def test_a_claim_that_is_not_renewed_lapses(path, monkeypatch):
    start = time.time()
    with Store.open(path, write=True) as store:
        store.claim("a", "you")
        monkeypatch.setattr(time, "time", lambda: start + 50)
        store.renew("you")
        monkeypatch.setattr(time, "time", lambda: start + 100)
        assert store.claim("a", "me") == "taken"
        monkeypatch.setattr(time, "time", lambda: start + 120)
        assert store.claim("a", "me") == "claimed"


def test_who_reads_does_not_wait_for_who_writes(filled):
    with Store.open(filled, write=True) as writer, Store.open(filled) as reader:
        with writer._transaction():
            writer._connection.execute("UPDATE runs SET kl = 0")
            assert reader.runs()[0].metrics == METRICS
        assert reader.runs()[0].metrics.kl == 0


def test_processes_that_begin_a_store_at_once_make_one(path):
    script = (
        "import sys; from lamp.studies import Result, Store; from lamp.studies.runs import now\n"
        "sys.stdin.readline()\n"
        "with Store.open(sys.argv[1], write=True) as store:\n"
        "    for run in range(20):\n"
        "        result = Result(None, 0.0, now(), now(), {}, sys.argv[2])\n"
        "        store.finish(f'{sys.argv[2]}-{run}', '{}', result)\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, path, str(index)], stdin=subprocess.PIPE, text=True
        )
        for index in range(4)
    ]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.stdin.close()
        assert child.wait() == 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (80,)


# --- files that are no stores ---------------------------------------------------------------------


def refused(path, message, kind=ValueError):
    """That a file is refused, and left as it is."""
    before = path.read_bytes()
    for write in (False, True):
        with pytest.raises(kind, match=message) as caught:
            Store.open(path, write=write)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_no_database_is_refused(path):
    path.write_text("name = 'not a store'\n" * 100)
    refused(path, "is not a store: it is no SQLite file")


def test_a_database_of_another_program_is_refused(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (key)")
        connection.commit()
    refused(path, "an SQLite file of another program")


def test_a_store_of_a_newer_version_is_refused(filled):
    with contextlib.closing(sqlite3.connect(filled)) as connection:
        connection.execute("PRAGMA user_version = 2")
    refused(filled, "schema 2, from a newer version")


def test_an_empty_file_becomes_a_store_when_it_is_written_to(path):
    path.touch()
    with pytest.raises(ValueError, match="is empty, not a store"):
        Store.open(path)
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned("a")])
    with Store.open(path) as store:
        assert only(store.runs()).state == "missing"


def test_a_damaged_page_is_noticed_whichever_it_is(filled):
    whole = filled.read_bytes()
    size = int.from_bytes(whole[16:18], "big")
    assert len(whole) >= 8 * size  # one for each table
    for start in range(size, len(whole), size):
        filled.write_bytes(whole[:start] + b"\xa5" * size + whole[start + size :])
        refused(filled, "is damaged")


def test_a_store_that_was_cut_off_is_refused(filled):
    filled.write_bytes(filled.read_bytes()[:9000])
    refused(filled, "is damaged")


def test_a_missing_store_or_folder_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"no store '.*study\.sqlite'"):
        Store.open(path)
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'"):
        Store.open(path.parent / "nowhere" / "study.sqlite", write=True)
    with pytest.raises(PermissionError, match="cannot be opened"):
        Store.open(path.parent, write=True)
    assert list(path.parent.iterdir()) == []


# --- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte; gives its folder and what mounts it with other options."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
        )

    run = mount("size=1m")
    if run.returncode:
        pytest.skip(f"no disk can be mounted here: {run.stderr}")
    yield folder, lambda options: subprocess.run(["mount", "-o", options, folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_a_store_on_a_disk_that_cannot_be_written_to_is_read(disk, filled):
    folder, mount = disk
    path = folder / filled.name
    shutil.copy(filled, path)
    mount("remount,ro")
    with Store.open(path) as store:
        assert [run.metrics for run in store.runs()] == [METRICS, None]
    with pytest.raises(PermissionError, match="cannot be") as caught:
        Store.open(path, write=True)
    assert str(path) in str(caught.value)


def test_a_store_with_a_log_on_a_disk_that_cannot_be_written_to_is_read(disk):
    folder, mount = disk
    path = folder / "study.sqlite"
    script = (
        "import os, sys; from tests.lamp.studies.test_store import *\n"
        "store = Store.open(sys.argv[1], write=True)\n"
        "store.plan('study', {}, [planned('a')]); store.finish('a', '{}', result())\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)
    log = folder / "study.sqlite-wal"
    assert log.stat().st_size
    mount("remount,ro")
    with Store.open(path) as store:
        assert only(store.runs()).metrics == METRICS
    mount("remount,rw")
    (folder / "study.sqlite-shm").unlink()
    mount("remount,ro")
    # Without its index the log cannot be read; without the log results would be missing.
    with pytest.raises(PermissionError, match=r"cannot be opened.*study\.sqlite"):
        Store.open(path)


def test_a_full_disk_loses_nothing_that_was_written(disk):
    folder, _ = disk
    path = folder / "study.sqlite"
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned("a"), planned("b")])
        store.finish("a", "{}", result())
        with (folder / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
            while other.write(bytes(1024)):
                pass
        big = result(None, "x" * 100_000)
        with pytest.raises(OSError, match="the disk is full; what the store holds is unharmed"):
            store.finish("b", "{}", big)
        with Store.open(path) as reader:
            assert [run.metrics for run in reader.runs()] == [METRICS, None]
        (folder / "other").unlink()
        assert store.finish("b", "{}", big)
        assert [run.state for run in store.runs()] == ["done", "failed"]


def test_a_store_that_may_not_grow_loses_nothing(path):
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned("a"), planned("b")])
        store.finish("a", "{}", result())
        store._connection.execute("PRAGMA max_page_count = 1")  # as small as it is
        with pytest.raises(OSError, match="the disk is full; what the store holds is unharmed"):
            store.finish("b", "{}", result(None, "x" * 100_000))
        assert store.counts("study") == Counts(done=1, failed=0, missing=1, running=0)
    with Store.open(path) as store:
        assert store.runs()[0].metrics == METRICS
