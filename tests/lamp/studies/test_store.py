"""Stores: what is written is read, and nothing that happens to a file loses a result."""

import contextlib
import dataclasses
import errno
import math
import os
import pathlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

import pytest

from lamp.evaluation.metrics import Metrics, Sums
from lamp.studies import Members, Result, Run, Store
from lamp.studies import store as stores
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
    kl_error=0.1,
    flip_rate_error=2 / 3,
    reference_perplexity_error=math.inf,
    perplexity_error=5e-324,
    recomputation_rate_error=0.0,
    clusters=16,
    windows=1,
    sums=(Sums(4, 0.1, 0), Sums(3, math.inf, 3)),
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


def test_runs_are_chosen_by_state_and_by_when_they_ended(path):
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned(key) for key in "abcdef"])
        store.plan("other", {}, [planned("g"), planned("a")])
        for place, key in enumerate("dgcab"):
            failed = key in "gc"
            ended = dataclasses.replace(
                result(None, "it broke") if failed else result(),
                finished_at=f"2026-01-01T00:00:0{place}+00:00",
            )
            store.finish(key, "{}", ended)

        def keys(*chosen, **last):
            return "".join(run.key for run in store.runs(*chosen, **last))

        assert [keys("study", state) for state in (None, "done", "failed", "missing")] == [
            "abcdef",
            "abd",
            "c",
            "ef",
        ]
        assert keys(last=4) == "baacg"  # a is in two studies
        assert [keys("study", last=2), keys("study", "failed", last=2)] == ["ba", "c"]
        assert [keys(state="failed", last=1), keys("other", last=5)] == ["c", "ag"]
        assert store.finished("cdxa") == {"a", "d"}
        assert store.finished() == {"a", "b", "d"}
        assert all(run.metrics == METRICS for run in store.runs(state="done", last=2))


def test_runs_are_read_in_batches_as_of_one_moment(path, monkeypatch):
    monkeypatch.setattr("lamp.studies.store._BATCH", 2)
    with Store.open(path, write=True) as store, Store.open(path) as reader:
        store.plan("study", {}, [planned(key) for key in "edcba"])
        for key in "abc":
            store.finish(key, "{}", result())
        every, one = reader.runs(), reader.each_run()
        assert [(run.key, run.metrics) for run in every[:3]] == [
            ("e", None), ("d", None), ("c", METRICS)
        ]  # fmt: skip
        found = [next(one)]
        for key in "de":
            store.finish(key, "{}", result())
        assert [*found, *one] == every  # what has ended meanwhile is not in it
        assert [run.metrics for run in reader.each_run()] == [METRICS] * 5


def test_a_plan_may_have_more_runs_than_are_held_at_a_time(path):
    runs = [planned(f"{number % 1500:04}", lamp=str(number)) for number in range(2500)]
    with Members.of(iter(runs)) as members, Store.open(path, write=True) as store:
        store.plan("study", {}, members)
        found = store.runs("study")
        assert [(run.key, run.lamp) for run in found] == [(run.key, run.lamp) for run in runs]
        assert list(members) == [dataclasses.replace(run, position=i) for i, run in enumerate(runs)]
        assert store.counts("study").total == 1500
        store.finish("0003", "{}", result())
        store.finish("1400", "{}", result())
        total, positions = members.missing(store.finished)
        # The first of those with one key.
        assert total == 1500
        assert positions.tolist() == [i for i in range(1500) if i not in (3, 1400)]
        assert ("0003" in members, "3" in members) == (True, False)


def test_a_plan_that_finds_no_room_says_where():
    with Members() as members:
        members._connection.execute("PRAGMA max_page_count = 3")
        with pytest.raises(
            OSError, match=r"no room for the plan .* TMPDIR names another"
        ) as raised:
            members.add(planned(str(number)) for number in range(1000))
    assert raised.value.errno == errno.ENOSPC


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


@pytest.fixture
def unhurried(monkeypatch):
    """Digests are remembered however lately a file has changed."""
    monkeypatch.setattr(stores, "_RACY", 0)


def test_a_file_is_read_again_only_when_it_changes(path, tmp_path, monkeypatch, unhurried):
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


def test_the_digest_of_a_file_that_has_just_changed_is_not_remembered(path, tmp_path, monkeypatch):
    # Two changes within a tick of the clock have one time.
    file = tmp_path / "file"
    found = []
    with Store.open(path, write=True) as store:
        for changed in (time.time_ns() + 10**12, 1):
            monkeypatch.setattr(stores, "last_change", lambda status, changed=changed: changed)
            for content in (b"one", b"two"):
                file.write_bytes(content)
                found.append(store.digest(file))
    just, before, old, remembered = found
    assert just != before
    assert old == remembered == just


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
    # One process imports what they need, and forks: all four are ready when the pipe ends.
    script = (
        "import os, sys; from lamp.studies import Result, Store\n"
        "from lamp.studies.runs import now\n"
        "ready, go = os.pipe()\n"
        "for child in range(4):\n"
        "    if os.fork() == 0:\n"
        "        os.close(go)\n"
        "        os.read(ready, 1)\n"
        "        with Store.open(sys.argv[1], write=True) as store:\n"
        "            for run in range(20):\n"
        "                result = Result(None, 0.0, now(), now(), {}, str(child))\n"
        "                store.finish(f'{child}-{run}', '{}', result)\n"
        "        os._exit(0)\n"
        "os.close(go)\n"
        "print([os.wait()[1] for child in range(4)])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=False
    )
    assert run.stdout == "[0, 0, 0, 0]\n", run.stderr
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
        connection.execute("PRAGMA user_version = 6")
    refused(filled, "schema 6, .*; this one knows schema 5: a newer version reads it")


def test_a_store_of_the_last_schema_is_brought_up_to_date_by_who_writes(filled):
    newer = ("notes", "clusters", "scores", "answers", "task_members")
    dropped = " ".join(f"DROP TABLE {table};" for table in newer)
    tampered(filled, f"DROP VIEW task_results; {dropped} PRAGMA user_version = 2;")
    with pytest.raises(ValueError, match=r"schema 2.*lamp sweep brings it up to date"):
        Store.open(filled)
    with Store.open(filled, write=True) as store:
        old, _ = store.runs()
        store.finish("b", "{}", result())
    assert old.metrics == dataclasses.replace(METRICS, sums=())
    with Store.open(filled) as store:
        assert [run.metrics for run in store.runs()] == [old.metrics, METRICS]


def test_what_a_model_says_of_itself_is_kept_and_older_stores_have_none_of_it(filled):
    tampered(filled, "DROP TABLE notes; PRAGMA user_version = 4;")
    with pytest.raises(ValueError, match=r"schema 4.*lamp sweep brings it up to date"):
        Store.open(filled)
    notes = ("it has no norm", "Grüße")
    with Store.open(filled, write=True) as store:
        store.finish("b", "{}", result(None, "it broke"))
        assert store.finish("b", "{}", dataclasses.replace(result(), notes=notes))
        assert not store.finish("b", "{}", dataclasses.replace(result(), notes=("again",)))
    with Store.open(filled) as store:
        assert [run.notes for run in store.runs()] == [(), notes]
    tampered(filled, "UPDATE notes SET note = x'00ff'")
    with Store.open(filled) as store, pytest.raises(ValueError, match="note is b"):
        store.runs()


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
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        Store.open(path.parent, write=True)
    assert list(path.parent.iterdir()) == []


# --- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def disk():
    """A disk of a megabyte; gives its folder and what mounts it with other options.

    Not below pytest's folders: a disk that a killed run leaves behind could not be removed by the
    runs that come after.
    """
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="disk-"))

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
        )

    run = mount("size=1m")
    try:
        if run.returncode:
            pytest.skip(f"no disk can be mounted here: {run.stderr}")
        yield folder, lambda options: subprocess.run(["mount", "-o", options, folder], check=True)
        subprocess.run(["umount", folder], check=True)
    finally:
        folder.rmdir()


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


# --- what others have written to a store ----------------------------------------------------------


def test_labels_that_are_not_utf_8_are_escaped(path):
    odd = os.fsdecode(b"models/\xff")
    with Store.open(path, write=True) as store:
        store.plan(odd, {"name": odd}, [planned("a", model=odd)])
        store.finish("a", "{}", result(None, f"no {odd}"))
        run = only(store.runs(odd))
        assert (run.study, run.model, run.error) == tuple(
            text.format("models/\\udcff") for text in ("{}", "{}", "no {}")
        )
        assert store.traceback("a") == "Traceback: no models/\\udcff"
        assert only(store.studies().values()) == {"name": odd}


def test_a_store_in_a_folder_that_is_not_utf_8_is_read(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.sqlite")
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [planned("a")])
        (tmp_path / os.fsdecode(b"\xfe")).write_bytes(b"one")
        assert len(store.digest(tmp_path / os.fsdecode(b"\xfe"))) == 64
    with Store.open(path) as store:
        assert only(store.runs()).state == "missing"


def tampered(path, script):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE members SET position = 'x' WHERE position = 0", "position is 'x', not an integer"),
        ("UPDATE members SET position = -1 WHERE position = 0", "position is -1"),
        ("UPDATE members SET model = x'00ff'", "model is b"),
        ("UPDATE members SET variables = '[1]'", "variables is '.1.', not an object of JSON"),
        ("UPDATE members SET variables = '{\"a\": [1]}'", "variables is .* numbers and texts"),
        ("UPDATE members SET variables = '{\"a\": 1e999}'", "variables is"),
        ("UPDATE members SET variables = printf('{\"a\": %.5000d}', 7)", "variables is"),
        ("UPDATE members SET text = printf('%.20000c', 'x')", "text is 'xxx.*at most 10,000"),
        ("UPDATE studies SET definition = 'no'", "definition is 'no', not an object of JSON"),
        (
            "UPDATE studies SET definition = replace(printf('%.5000c', '['), '[', '[') ",
            "definition is",
        ),
        (
            "UPDATE studies SET definition = '{\"a\": ' || printf('%.900c', '[') || "
            "printf('%.900c', ']') || '}'",
            "definition is",
        ),
        ("UPDATE runs SET kl = 'y'", "kl is 'y', not a number"),
        ("UPDATE runs SET tokens = NULL", "tokens is None"),
        ("UPDATE runs SET tokens = 1.5", "tokens is 1.5"),
        ("UPDATE runs SET seconds = 9e999", "seconds is inf, not a number from 0"),
        ("UPDATE runs SET seconds = -1", "seconds is -1"),
        ("UPDATE runs SET finished_at = 'soon'", "finished_at is 'soon', not a time"),
        ("UPDATE rates SET rate = 'y'", "rate is 'y'"),
        (
            "UPDATE rates SET step = printf('%.5000c', 's') WHERE layer = 0 AND step = 'all'",
            "step is 's.*not the name of a step",
        ),
        ("UPDATE clusters SET kl = 'y'", "kl is 'y', not a number"),
        ("UPDATE clusters SET positions = -1", "positions is -1, not an integer from 0"),
        ("UPDATE environments SET record = '1'", "record is '1'"),
        (
            "PRAGMA ignore_check_constraints = 1; UPDATE runs SET state = 'gone'",
            "",
        ),
    ],
)
def test_a_value_that_a_store_cannot_have_is_named(filled, change, message):
    tampered(filled, f"PRAGMA foreign_keys = 0; {change};")
    with (
        pytest.raises(ValueError, match=f"store {filled} is damaged.*{message}"),
        Store.open(filled) as store,
    ):
        store.studies(), store.environments(), store.runs()


ENDLESS = (
    "DROP VIEW results; CREATE VIEW results AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL "
    "SELECT x + 1 FROM n) SELECT x AS study, x AS key FROM n"
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ENDLESS, "its view 'results'"),
        ("DROP VIEW results; CREATE TABLE results (study)", "its view 'results'"),
        ("DROP TABLE claims", "its table 'claims'"),
        ("ALTER TABLE runs DROP COLUMN kl", "its table 'runs'|after drop column"),
        ("ALTER TABLE studies ADD COLUMN x AS (1)", "its table 'studies'"),
        (
            "CREATE TRIGGER t AFTER INSERT ON members BEGIN DELETE FROM runs; END",
            "it has a trigger 't'",
        ),
    ],
)
@pytest.mark.parametrize("write", [False, True])
def test_tables_that_are_not_a_store_s_are_refused(filled, change, message, write):
    before = None
    with contextlib.suppress(sqlite3.OperationalError):  # SQLite itself refuses some
        tampered(filled, f"PRAGMA foreign_keys = 0; {change};")
        before = filled.read_bytes()
    if before is None:
        return
    with pytest.raises(ValueError, match=f"the store {filled} is damaged: {message}"):
        Store.open(filled, write=write)


def test_tables_and_views_of_a_user_do_no_harm(filled):
    tampered(filled, "CREATE VIEW best AS SELECT * FROM results; CREATE TABLE remarks (remark);")
    with Store.open(filled, write=True) as store:
        assert [run.state for run in store.runs()] == ["done", "missing"]


@pytest.mark.parametrize(
    ("pid", "expires"),
    [
        (9 * 10**18, "1"),
        ("'x'", "1"),
        (-1, "1"),
        (0, "1"),
        ("1", "'y'"),
        ("1", "1e300"),
        (2**31, 1),
    ],
)
def test_a_claim_that_nobody_can_have_made_is_none(filled, pid, expires):
    host = socket.gethostname() if expires == "1" else "elsewhere"
    soon = time.time() + 50 if expires in ("1", 1) else expires
    tampered(filled, f"INSERT INTO claims VALUES ('b', 'other', '{host}', {pid}, {soon})")
    with Store.open(filled, write=True) as store:
        if expires not in ("1", 1):
            assert store.counts("study").running == 0
        if expires != 1:
            assert store.claim("b", "me") == "claimed"


def test_the_first_process_of_a_container_may_have_made_a_claim(filled):
    host, soon = socket.gethostname(), time.time() + 50
    tampered(filled, f"INSERT INTO claims VALUES ('b', 'other', '{host}', 1, {soon})")
    with Store.open(filled, write=True) as store:
        assert store.claim("b", "me") == "taken"


def test_a_store_that_another_program_holds_is_not_read_through_the_lock(filled, monkeypatch):
    monkeypatch.setattr(stores.database, "_PATIENCE_TO_READ", 0.05)
    with contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TimeoutError, match="another program holds the store for itself"):
            Store.open(filled)
        other.execute("COMMIT")


# --- a store that goes away -----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["deleted", "replaced"])
def test_nothing_is_written_to_a_store_that_is_gone(filled, way):
    with Store.open(filled, write=True) as store:
        filled.unlink()
        if way == "replaced":
            filled.touch()
        for act in (
            lambda: store.finish("b", "{}", result()),
            lambda: store.claim("b", "me"),
            lambda: store.plan("other", {}, []),
            store.check_place,
        ):
            with pytest.raises(FileNotFoundError, match=f"store {filled} was deleted or replaced"):
                act()


def test_a_store_is_no_device_and_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(OSError, match="a device or a pipe"):
            Store.open(path, write=True)
        with pytest.raises(FileNotFoundError, match="no store"):
            Store.open(path)


# --- studies of one name --------------------------------------------------------------------------


def test_another_study_of_the_same_name_stays(filled):
    with Store.open(filled, write=True) as store:
        assert store.plan("study", {"n": 2}, [planned("a"), planned("c")]) is None
        other = store.plan("study", {"n": 3}, [planned("c")])
        assert other.startswith("study, planned 20")
        assert store.studies() == {"study": {"n": 3}, other: {"n": 2}}
        assert [(run.key, run.state) for run in store.runs(other)] == [
            ("a", "done"),
            ("c", "missing"),
        ]
        assert only(store.runs("study")).key == "c"
        assert store.plan("study", {"n": 4}, [planned("b")]) is None  # c has no result to lose
        assert set(store.studies()) == {"study", other}
