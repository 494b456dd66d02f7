"""Engines: the same numbers wherever they are computed, whoever dies."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import lamp
from fpemu._kernels import launching
from lamp.models.decoder import Decoder
from lamp.studies import engines, file_digest, planned
from lamp.studies.engines import Cluster, InProcess, Processes
from lamp.studies.worker import Worker
from tests.lamp import tiny_studies
from tests.lamp.tiny_studies import results
from tests.threads import on_threads

sys.path.insert(0, str(Path(__file__).parents[3] / "analysis"))
import scale

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")

ENOUGH = 2**30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(folder):
    """Ten runs on two texts."""
    texts = [
        {"source": "text.txt", "tokens": 40, "length": 16, "stride": 12},
        {"source": "text.txt", "tokens": 20, "shuffled": True},
    ]
    rules = ["none", "softmax:normwise:1.2"]
    grid = {"mu": [2, 4]}
    machines = ["scores-ps{mu}", "bf16"]
    return tiny_studies.study(folder, texts=texts, hardware=machines, lamp=rules, grid=grid)


@pytest.fixture(scope="module")
def expected(study, folder):
    """What the study gives in this process."""
    return results(lamp.sweep(study, store=folder / "expected.sqlite").runs)


@pytest.fixture(scope="module")
def cluster():
    """Two workers with a thread each."""
    with launching.without_interrupts():
        local = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
        )
    with local, distributed.Client(local, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def processes():
    engine = Processes(2, ENOUGH)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tasks(study):
    return list(planned(study, file_digest).tasks.values())


# --- the same numbers -----------------------------------------------------------------------------


def test_numbers_are_those_of_evaluate(study, folder, expected):
    model = lamp.from_pretrained(folder / "model")
    assert len(expected) == 12
    for point, run in zip(study.points(), expected, strict=True):
        source, setting = point.source, point.setting
        text = source.read(model)
        sizes = {"length": text.length, "stride": text.stride}
        machine = model.with_hardware(setting.hardware, setting.lamp)
        found = lamp.evaluate(model.with_hardware("fp64"), machine, text.tokens, **sizes)
        assert found == run.metrics, run


def test_two_processes_give_the_same_numbers(study, tmp_path, expected, processes):
    found = lamp.sweep(study, store=tmp_path / "s.sqlite", workers=lambda spill: processes)
    assert results(found.runs) == expected
    assert len(processes.free()) == 2  # it is left open


def test_a_cluster_gives_the_same_numbers(study, tmp_path, expected, cluster):
    found = lamp.sweep(study, store=tmp_path / "s.sqlite", cluster=cluster)
    assert results(found.runs) == expected
    assert cluster.status == "running"  # it is left open


def test_a_cluster_is_found_by_its_address(study, tmp_path, expected, cluster):
    address = cluster.scheduler.address
    found = lamp.sweep(study, store=tmp_path / "s.sqlite", cluster=address)
    assert results(found.runs) == expected


def test_a_local_cluster_begins_and_ends_with_the_sweep(tmp_path, folder, study, expected):
    few = replace(study, lamp=["none"], texts=study.texts[1:], document=None)
    found = lamp.sweep(few, store=tmp_path / "s.sqlite", cluster="local", jobs=1)
    known = {run.key: run.metrics for run in expected}
    assert [run.metrics for run in found.runs] == [known[run.key] for run in found.runs]


# --- references -----------------------------------------------------------------------------------


def measured(worker, tasks):
    measured = [worker.run(task) for task in tasks]
    assert [result.error for result in measured] == [""] * len(tasks)
    return [result.metrics for result in measured]


@pytest.fixture
def forwards(monkeypatch):
    """Counts forward passes in float64."""
    count = []
    forward = Decoder.forward

    def counted(self, tokens):
        if self.hardware.name == "fp64":
            count.append(tokens)
        return forward(self, tokens)

    monkeypatch.setattr(Decoder, "forward", counted)
    return count


def test_a_reference_is_computed_once(tasks, forwards, tmp_path, expected):
    found = measured(Worker(ENOUGH, tmp_path / "spill"), tasks)
    assert found == [run.metrics for run in expected]
    assert len(forwards) == 3 + 1  # windows of the two texts
    assert not (tmp_path / "spill").exists()


def test_a_reference_that_does_not_fit_into_memory_goes_to_a_file(tasks, forwards, tmp_path):
    found = measured(Worker(0, tmp_path / "spill"), tasks)
    assert found == measured(Worker(ENOUGH), tasks)
    assert len(forwards) == 2 * 4
    names = sorted(file.name for file in (tmp_path / "spill").iterdir())
    assert names == sorted({f"{task.reference_key}.logits" for task in tasks})
    # Another worker finds it there.
    measured(Worker(0, tmp_path / "spill"), tasks)
    assert len(forwards) == 2 * 4


def test_memory_is_for_the_references_used_last(tasks, forwards):
    rows = max(sum(len(window.tokens) for window in task.text.windows) for task in tasks)
    worker = Worker(8 * tiny_studies.VOCABULARY * rows)
    first, *_, last = tasks
    for task, computed in ((first, 3), (first, 3), (last, 4), (last, 4), (first, 7)):
        measured(worker, [task])
        assert len(forwards) == computed


@pytest.mark.parametrize("hindrance", ["no folder", "no room", "a full disk", "cleared away"])
def test_without_room_a_reference_is_computed_again(
    tasks, forwards, tmp_path, monkeypatch, hindrance
):
    spill = tmp_path / "spill"
    if hindrance == "no folder":
        spill.touch()
    elif hindrance == "no room":
        usage = type("usage", (), {"free": 1000})
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    elif hindrance == "a full disk":

        def full(number):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(os, "replace", lambda old, new: None)
    few = tasks[:3]
    assert measured(Worker(0, spill), few) == measured(Worker(ENOUGH), few)
    again = {"no folder": 3, "no room": 3, "a full disk": 4, "cleared away": 6}
    assert len(forwards) == 3 * again[hindrance] + 3
    assert not spill.is_dir() or list(spill.iterdir()) == []


# --- failures -------------------------------------------------------------------------------------


def error(worker, task):
    result = worker.run(task)
    assert result.metrics is None
    assert result.traceback.startswith("Traceback")
    return result.error


def test_a_worker_with_another_model_or_other_packages_fails(tasks, tmp_path):
    task = tasks[0]
    other = replace(task, numerics=-1)
    assert "are others than the sweep's" in error(Worker(ENOUGH), other)
    # The same name stands for another model here.
    tiny_studies.save_checkpoint(tmp_path / "model", seed=1)
    moved = replace(task, checkpoint=replace(task.checkpoint, name=str(tmp_path / "model")))
    assert "is another than the sweep's" in error(Worker(ENOUGH), moved)
    tiny_studies.save_checkpoint(tmp_path / "model")
    assert Worker(ENOUGH).run(moved).metrics == Worker(ENOUGH).run(task).metrics


def test_a_model_that_does_not_fit_into_memory_is_said_so(tasks, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("lamp.studies.worker.physical_memory", lambda: 1000)
        message = error(Worker(ENOUGH), tasks[0])
    assert "does not fit into memory: the files of" in message

    def exhausted(*arguments, **options):
        raise MemoryError("Unable to allocate 12.0 GiB for an array")

    monkeypatch.setattr("lamp.models.loading.from_pretrained", exhausted)
    message = error(Worker(ENOUGH), tasks[0])
    assert message == "it does not fit into memory: Unable to allocate 12.0 GiB for an array"


def waited(engine, count):
    found = []
    while len(found) < count:
        found += engine.wait(10)
    return found


def test_a_process_that_dies_is_replaced_and_its_run_is_measured(tasks, processes):
    one, other = processes.free()
    (process,) = processes._pools[one]._processes.values()
    processes.submit(other, tasks[1])
    os.kill(process.pid, signal.SIGSTOP)  # so that it cannot be done too soon
    processes.submit(one, tasks[0])
    os.kill(process.pid, signal.SIGKILL)
    found = {task.key: result.metrics for task, result in waited(processes, 2)}
    assert processes.free() == [one, other]
    worker = Worker(ENOUGH)
    assert found == {task.key: worker.run(task).metrics for task in tasks[:2]}


def test_a_run_whose_process_dies_again_and_again_fails(tasks, processes):
    class Deadly:
        """A text that kills who unpickles it."""

        def __reduce__(self):
            return os._exit, (1,)

    deadly = replace(tasks[0], text=Deadly())
    one, other = processes.free()
    processes.submit(one, deadly)
    ((task, result),) = waited(processes, 1)
    assert task is deadly
    assert "died 3 times" in result.error
    processes.submit(other, tasks[0])
    ((_, result),) = waited(processes, 1)
    assert result.metrics == Worker(ENOUGH).run(tasks[0]).metrics


def test_a_run_that_cannot_be_sent_fails(tasks, processes):
    processes.submit(processes.free()[0], replace(tasks[0], text=lambda: None))
    ((_, result),) = waited(processes, 1)
    assert "pickle" in result.error


def test_a_cluster_tries_a_failed_run_again(study, tmp_path, expected, cluster):
    """It may remember how the run ended before, as here, where someone holds on to it."""
    held = []

    def hold(status):
        held.extend(distributed.Future(key, cluster) for key in list(cluster.futures))

    def change():
        from lamp.studies.worker import Worker

        Worker.real, Worker._measured = Worker._measured, None

    def change_back():
        from lamp.studies.worker import Worker

        Worker._measured = Worker.real

    few = replace(study, lamp=["none"], document=None)
    cluster.run(change)
    try:
        first = lamp.sweep(few, store=tmp_path / "s.sqlite", cluster=cluster, progress=hold)
    finally:
        cluster.run(change_back)
    assert len(first.failed) == first.ran == 6
    second = lamp.sweep(few, store=tmp_path / "s.sqlite", cluster=cluster)
    assert (second.ran, second.failed) == (6, ())


def test_a_worker_of_a_cluster_that_is_killed_changes_nothing_in_the_store(
    study, folder, tmp_path, expected, cluster
):
    """As ``analysis/scale.py cluster`` shows of a thousand runs and four workers."""
    kill = scale.Killer(cluster)
    lamp.sweep(study, store=tmp_path / "s.sqlite", cluster=cluster, progress=kill)
    assert kill.killed
    found = scale.contents(tmp_path / "s.sqlite")
    assert [len(found[table]) for table in ("runs", "members", "claims")] == [12, 12, 0]
    assert found == scale.contents(folder / "expected.sqlite")
    cluster.wait_for_workers(2)


def test_stores_are_the_same_but_for_times_and_places(folder, expected, tmp_path):
    """Else the comparison with a cluster's would show nothing."""
    place = tmp_path / "s.sqlite"
    before = scale.contents(folder / "expected.sqlite")
    for change, is_the_same in {
        "UPDATE runs SET seconds = 1, started_at = '', finished_at = ''": True,
        "UPDATE environments SET record = '{}'": True,
        "UPDATE runs SET kl = kl * (1 + 1e-15) WHERE kl = (SELECT max(kl) FROM runs)": False,
        "UPDATE rates SET rate = 1 - rate WHERE layer = 1 AND step = 'all'": False,
        "UPDATE clusters SET flips = flips + 1 WHERE cluster = 0": False,
        "DELETE FROM members WHERE position = 7": False,
        "INSERT INTO claims VALUES ('k', 'o', 'h', 1, 0)": False,
    }.items():
        with (
            contextlib.closing(sqlite3.connect(folder / "expected.sqlite")) as source,
            contextlib.closing(sqlite3.connect(place)) as copy,
        ):
            source.backup(copy)
            copy.execute(change)
            copy.commit()
        assert (scale.contents(place) == before) is is_the_same, change


def test_a_cluster_that_goes_away_ends_the_sweep_and_keeps_what_there_is(study, tmp_path, expected):
    with launching.without_interrupts():  # whose scheduler is in a thread anyway: the worker, too
        local = distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=":0",
            processes=False,
            protocol="tcp://",
        )
    closing = []

    def close(status):
        if len(status.ended) >= 2 and not closing:
            closing.append(threading.Thread(target=local.close))
            closing[0].start()

    store = tmp_path / "s.sqlite"
    with pytest.raises(ConnectionError, match=r"the cluster at .* is gone"):
        lamp.sweep(study, store=store, cluster=local.scheduler_address, progress=close)
    closing[0].join()
    resumed = lamp.sweep(study, store=store)
    assert 0 < resumed.ran <= 10
    assert results(resumed.runs) == expected


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(engines, "_PATIENCE", "0.5s")
    with pytest.raises(ConnectionError, match=r"no dask scheduler at tcp://127\.0\.0\.1:9"):
        Cluster("tcp://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="no dask scheduler at nonsense://x"):
        Cluster("nonsense://x")


def test_workers_with_other_packages_are_refused(cluster):
    def change():
        from lamp.studies import worker

        worker.real, worker.package_version = worker.package_version, lambda: "other"

    def change_back():
        from lamp.studies import worker

        worker.package_version = worker.real

    cluster.run(change)
    try:
        with pytest.raises(RuntimeError, match="has other packages than this process"):
            Cluster(cluster)
    finally:
        cluster.run(change_back)


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fpemu-lamp\[cluster\]'"):
        engines.engine(cluster="local")


@pytest.mark.parametrize("name", ["jobs", "memory"])
def test_less_than_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, not -1"):
        engines.engine(**{name: -1})


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from lamp.studies import engines\nengines.Processes(1, 2**20)\n")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "has to do so under if __name__ == '__main__'" in run.stderr


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "jobs", "shares"), [(8, 3, [3, 3, 2]), (2, 4, [1, 1, 1, 1])])
def test_processes_share_the_threads_of_this_one(monkeypatch, threads, jobs, shares):
    monkeypatch.setattr(engines.launching, "thread_count", lambda: threads)
    monkeypatch.setattr(Processes, "_pool", lambda self, name: _NoPool())
    engine = Processes(jobs, ENOUGH)
    assert list(engine._threads.values()) == shares


class _NoPool:
    def submit(self, function):
        return self

    def result(self):
        return None


def test_one_job_is_this_process():
    for jobs in (None, 0, 1):
        assert isinstance(engines.engine(jobs), InProcess)


def test_threads_do_not_change_a_bit(tasks):
    found = []
    for threads in (1, 3):
        with on_threads(threads):
            found.append([Worker(ENOUGH).run(task).metrics for task in tasks[:3]])
    assert found[0] == found[1]
