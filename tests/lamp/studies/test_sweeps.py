"""Sweeps: nothing is done twice and nothing is lost, whatever happens."""

import contextlib
import errno
import importlib.metadata
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import lamp
from lamp.cli.application import main
from lamp.evaluation import Source, numerics
from lamp.studies import Interrupted, Result, Status, Store, file_digest, planned, progress, sweeps
from lamp.studies.runs import now
from lamp.studies.tasks import Checkpoint, Task, windows_digest
from lamp.studies.worker import Worker
from tests.lamp import killed_sweeps, tiny_studies
from tests.lamp.tiny_studies import results
from tests.oracle.forking import forked, holds_after_fork

TOML = """
name = "scores"
models = ["model"]
hardware = ["scores-ps{mu}"]

[grid]
mu = [1, 2, 3]

[[texts]]
source = "text.txt"
tokens = 6
"""


@pytest.fixture
def study(tmp_path):
    return killed_sweeps.study(tmp_path)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "study.sqlite"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    return results(lamp.sweep(killed_sweeps.study(folder), store=folder / "s.sqlite").runs)


@pytest.fixture
def command(capsys):
    """Runs `lamp` in this process: its exit code and what it printed."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
        return stop.value.code or 0, *capsys.readouterr()

    return run


# --- what is missing ------------------------------------------------------------------------------


def test_a_second_call_runs_nothing(study, store, expected, monkeypatch):
    first = lamp.sweep(study, store=store)
    assert (first.ran, len(first.failed)) == (8, 0)
    assert results(first.runs) == expected
    content = store.read_bytes()
    monkeypatch.setattr(sweeps, "engine", None)  # it needs none
    second = lamp.sweep(study, store=store)
    assert (second.ran, second.runs) == (0, first.runs)
    assert len(store.read_bytes()) == len(content)
    assert sorted(file.name for file in store.parent.iterdir()) == [
        "model",
        "study.sqlite",
        "text.txt",
    ]


def test_a_study_that_grows_runs_what_is_new(study, store):
    lamp.sweep(replace(study, grid={**study.grid, "mu": [1]}), store=store)
    found = lamp.sweep(study, store=store)
    assert found.ran == 8 - 4
    smaller = lamp.sweep(replace(study, lamp=["none"], grid={"mu": [2]}), store=store)
    assert (smaller.ran, len(smaller.runs)) == (0, 2)


def new_runs(study, store):
    return lamp.sweep(study, store=store).ran


def test_names_are_no_part_of_a_run(study, store, tmp_path):
    lamp.sweep(study, store=store)
    (tmp_path / "model").rename(tmp_path / "other")
    (tmp_path / "text.txt").rename(tmp_path / "other.txt")
    machines = [lamp.Hardware("mine", scores=f"e8m{mu}") for mu in (1, 2, 3)]
    texts = [{"source": "other.txt", "tokens": 6, "name": "mine"}]
    renamed = replace(study, name="renamed", models=["other"], texts=texts)
    assert new_runs(renamed, store) == 0
    machines = [replace(machine, name=f"mine {i}") for i, machine in enumerate(machines)]
    grid = {"tau": [1.2]}
    assert new_runs(replace(renamed, hardware=["fp32", *machines], grid=grid), store) == 0
    with Store.open(store) as opened:
        assert [record.hardware for record in opened.runs("renamed")][2] == "mine 0"


@pytest.mark.parametrize("change", ["weights", "configuration", "text", "numerics"])
def test_what_changes_is_run_again(study, store, tmp_path, monkeypatch, change):
    lamp.sweep(study, store=store)
    if change == "weights":
        tiny_studies.save_checkpoint(tmp_path / "model", seed=1)
    elif change == "configuration":
        path = tmp_path / "model" / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "layer_norm_epsilon": 2e-5}))
    elif change == "text":
        (tmp_path / "text.txt").write_text("Another text.", encoding="utf-8")
    else:
        monkeypatch.setattr(numerics, "NUMERICS", numerics.NUMERICS + 1)
    assert new_runs(study, store) == 8
    with Store.open(store) as opened:
        assert len(opened.finished()) == 16  # the old ones stay


@pytest.mark.parametrize(
    "changes",
    [
        {"texts": [{"source": "text.txt", "tokens": 7}]},
        {"texts": [{"source": "text.txt", "tokens": 6, "length": 4}]},
        {"texts": [{"source": "text.txt", "tokens": 6, "shuffled": True}]},
        {"texts": [{"source": "text.txt", "tokens": 6, "length": 4, "stride": 2}]},
        {"reference": "fp32"},
        {"lamp": ["norm:norm:50%", "softmax:normwise:{tau}:leading_columns=1"]},
    ],
    ids=str,
)
def test_every_part_of_a_run_counts(study, store, changes):
    lamp.sweep(study, store=store)
    assert new_runs(replace(study, **changes), store) == 8


def test_a_text_that_is_fed_alike_is_the_same(study, store):
    lamp.sweep(study, store=store)
    same = [{"source": "text.txt", "tokens": 6, "length": 20, "stride": 20}]
    assert new_runs(replace(study, texts=same), store) == 0


def test_windows_that_are_compared_elsewhere_are_others(tmp_path):
    """A monotonous text: the windows have the same tokens, and other numbers are compared."""
    tiny_studies.save_checkpoint(tmp_path / "model")
    (tmp_path / "text.txt").write_text("a" * 9)
    model = lamp.models.reader(tmp_path / "model")

    def read(**sizes):
        return Source(str(tmp_path / "text.txt"), length=4, **sizes).read(model)

    one, other = read(tokens=6, stride=2), read(tokens=7, stride=3)
    for ours, theirs in zip(one.windows, other.windows, strict=True):
        assert (ours.tokens == theirs.tokens).all()
        assert (ours.following == theirs.following).all()
    assert windows_digest(one) != windows_digest(other)


def test_a_configuration_says_everything(study, store):
    found = lamp.sweep(study, store=store)
    machine = lamp.hardware("scores-ps1")
    with Store.open(store) as opened:
        record = next(r for r in found.runs if r.hardware == "scores-ps1")
        configuration = opened.configuration(record.key)
        environment = opened.environments()[record.environment]
    assert set(configuration) == {
        "numerics",
        "checkpoint",
        "text",
        "hardware",
        "lamp",
        "reference",
    }
    loaded = lamp.machines.files.loads(configuration["hardware"])
    assert replace(loaded, name=machine.name) == machine
    assert {"numpy", "numba", "fpemu-lamp", "processor", "host", "threads"} <= set(environment)


def test_another_release_with_the_same_numbers_finds_its_runs(study, store, monkeypatch):
    lamp.sweep(study, store=store)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    assert new_runs(study, store) == 0


# --- failures -------------------------------------------------------------------------------------


def test_a_run_that_fails_is_tried_again_by_the_next_sweep(study, store, expected, monkeypatch):
    measured = Worker._measured

    def breaking(self, task):
        if task.setting.hardware.name == "scores-ps2":
            raise ZeroDivisionError("it broke\nin two lines")
        return measured(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_measured", breaking)
        first = lamp.sweep(study, store=store)
        assert (first.ran, len(first.failed)) == (8, 2)
        assert {r.error for r in first.failed} == {"ZeroDivisionError: it broke in two lines"}
        with Store.open(store) as opened:
            trace = opened.traceback(first.failed[0].key)
        assert "in breaking" in trace
        assert lamp.sweep(study, store=store).ran == 2
    second = lamp.sweep(study, store=store)
    assert (second.ran, second.failed) == (2, ())
    assert results(second.runs) == expected


def test_metrics_that_are_nan_survive(study, store, tmp_path):
    """A model whose logits overflow."""
    from safetensors.numpy import load_file, save_file

    lamp.sweep(study, store=store)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["transformer.ln_f.weight"][:] = 3e38
    save_file(weights, tmp_path / "model" / "model.safetensors")
    found = lamp.sweep(study, store=store)
    assert found.failed == ()
    for record in found.runs:
        assert record.metrics.kl != record.metrics.kl
        assert record.metrics.tokens == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["no-such-model"]}, "no model 'no-such-model'"),
        ({"texts": ["missing.txt"]}, r"no text file '.*missing\.txt'"),
        ({"texts": [{"source": "text.txt", "length": 25}]}, r"length must lie in 1\.\.24"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(study, store, changes, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sweeps, "engine", None)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        lamp.sweep(replace(study, **changes), store=store)
    assert not store.exists()


def test_an_error_in_a_study_file_names_the_line(tmp_path, store, study):
    path = tmp_path / "study.toml"
    path.write_text(TOML.replace("tokens = 6", "tokens = 6\nlength = 25"))
    with pytest.raises(ValueError, match=r"study\.toml, line 9: length must lie in 1\.\.24"):
        lamp.sweep(path, store=store)


def test_a_full_disk_ends_a_sweep_that_the_next_one_finishes(study, store, expected, monkeypatch):
    finish = Store.finish
    count = []

    def full(self, *arguments):
        count.append(arguments)
        if len(count) == 4:
            raise OSError(errno.ENOSPC, "the disk is full", str(self.path))
        return finish(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", full)
        with pytest.raises(OSError, match="the disk is full"):
            lamp.sweep(study, store=store)
    with Store.open(store) as opened:
        assert len(opened.finished()) == 3
    resumed = lamp.sweep(study, store=store)
    assert resumed.ran == 5
    assert results(resumed.runs) == expected


def test_files_may_not_grow_and_nothing_is_lost(study, store, expected):
    """The same, at the layer of files, in a process whose files may not grow."""

    def limit(status):
        if len(status.ended) == 3:
            size = store.with_name("study.sqlite-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def sweep():
        with pytest.raises(OSError, match="disk I/O error"):
            lamp.sweep(study, store=store, progress=limit)
        return True

    assert holds_after_fork(sweep)
    with Store.open(store) as opened:
        assert len(opened.finished()) == 3
    assert results(lamp.sweep(study, store=store).runs) == expected


# --- kills ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [30, pytest.param(300, marks=pytest.mark.long)])
def test_a_store_is_as_if_no_one_had_been_killed(tmp_path, least):
    run = subprocess.run(
        [sys.executable, "-m", "tests.lamp.killed_sweeps", tmp_path, "0", str(least)],
        capture_output=True,
        text=True,
        check=False,
        # One thread: a pool of threads would not be there after a fork.
        env={**os.environ, "NUMBA_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert run.returncode == 0, run.stderr
    kills, middle = map(int, run.stdout.split())
    assert kills >= least
    assert middle > least / 20
    with Store.open(tmp_path / killed_sweeps.UNDISTURBED) as store:
        expected = results(store.runs())
    assert len(expected) == 8
    stores = list(tmp_path.glob("killed-*.sqlite"))
    assert stores
    for path in stores:
        with Store.open(path) as store:
            assert results(store.runs()) == expected
            assert store.counts("tiny").done == 8
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
            assert connection.execute("SELECT count(*) FROM runs").fetchone() == (8,)
    assert not [file for file in tmp_path.iterdir() if "references" in file.name]


def test_a_sweep_with_processes_that_is_killed_leaves_none_behind(tmp_path, store, expected):
    study = killed_sweeps.study(tmp_path)
    others = {child.pid for child in multiprocessing.active_children()}

    def write(status):
        if len(status.ended) >= 2:
            found = {child.pid for child in multiprocessing.active_children()} - others
            (tmp_path / "children").write_text(" ".join(map(str, found)))
            os.kill(os.getpid(), signal.SIGKILL)

    sweeping = forked(lambda: lamp.sweep(study, store=store, jobs=2, progress=write).ran == 8)
    _, status = os.waitpid(sweeping, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    children = [int(word) for word in (tmp_path / "children").read_text().split()]
    assert len(children) == 2
    deadline = time.monotonic() + 60
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.01)
    left = [child for child in children if is_running(child)]
    for child in left:
        os.kill(child, signal.SIGKILL)
    assert left == []
    resumed = lamp.sweep(study, store=store)
    assert 0 < resumed.ran <= 6
    assert results(resumed.runs) == expected


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# --- two at a store -------------------------------------------------------------------------------


def test_two_sweeps_share_the_runs(study, store, expected):
    """Each run is done once, though both sweeps begin together."""
    together = threading.Barrier(2, timeout=300)
    found = []

    def sweep():
        waited = []

        def wait(status):
            if not waited:
                waited.append(together.wait())

        found.append(lamp.sweep(study, store=store, progress=wait))

    threads = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.ran for each in found) == 8
    for each in found:
        assert results(each.runs) == expected


def test_a_sweep_waits_for_the_runs_of_another_and_takes_them_if_it_dies(study, store, expected):
    lamp.sweep(replace(study, hardware=["fp32"], grid={"tau": [1.2]}), store=store)
    keys = [run.key for run in expected]
    answers, answer = os.pipe()

    def claim():
        opened = Store.open(store, write=True)
        os.write(answer, "".join(f"{opened.claim(key, 'other')}\n" for key in keys[-2:]).encode())
        time.sleep(600)

    other = forked(claim)
    with open(answers) as lines:
        os.close(answer)
        assert [lines.readline(), lines.readline()] == ["claimed\n", "claimed\n"]
    seen, killed = [], []

    def watch(status):
        seen.append(status.elsewhere)
        if status.elsewhere == 2 and not status.running and not killed:
            os.kill(other, signal.SIGKILL)
            killed.append(os.waitpid(other, 0))

    found = lamp.sweep(study, store=store, progress=watch)
    assert killed
    assert max(seen) == 2
    assert (found.ran, seen[-1]) == (6, 0)
    assert results(found.runs) == expected


def test_a_claim_is_renewed_while_a_run_is_measured(study, store, monkeypatch):
    monkeypatch.setattr(sweeps, "_BEAT", 0.01)
    renewed = threading.Event()
    renew = Store.renew

    def renewing(self, owner):
        renew(self, owner)
        renewed.set()

    monkeypatch.setattr(Store, "renew", renewing)
    run = Worker.run

    def slow(self, task):
        assert renewed.wait(60)
        return run(self, task)

    monkeypatch.setattr(Worker, "run", slow)
    assert lamp.sweep(study, store=store).ran == 8


# --- Ctrl-C ---------------------------------------------------------------------------------------


def test_ctrl_c_finishes_what_runs(study, store, expected, monkeypatch):
    run = Worker.run

    def interrupted(self, task):
        if task.setting.hardware.name == "scores-ps2":
            signal.raise_signal(signal.SIGINT)
        return run(self, task)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "run", interrupted)
        with pytest.raises(Interrupted) as caught:
            lamp.sweep(study, store=store)
    assert signal.getsignal(signal.SIGINT) is before
    done = [record.hardware for record in caught.value.sweep.runs if record.metrics]
    assert done.count("scores-ps2") == 1  # the one that ran
    assert caught.value.sweep.ran == len(done) < 8
    assert results(lamp.sweep(study, store=store).runs) == expected


def test_ctrl_c_twice_stops_at_once(study, store, expected, monkeypatch):
    run = Worker.run

    def interrupted(self, task):
        result = run(self, task)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "run", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            lamp.sweep(study, store=store)
    assert not isinstance(caught.value, Interrupted)
    with Store.open(store) as opened:
        counts = opened.counts("tiny")
    assert (counts.done, counts.running) == (0, 0)  # claims are given back
    assert results(lamp.sweep(study, store=store).runs) == expected


# --- order ----------------------------------------------------------------------------------------


def task(group, weights="fp32"):
    text, setting = type("text", (), {}), lamp.evaluation.Setting(weights)
    checkpoint = Checkpoint(group, group, ())
    return Task(checkpoint, text, group, setting, lamp.hardware("fp64"), 1)


def taken(queue, workers):
    return [queue.take(worker).checkpoint.name for worker in workers]


def test_a_worker_keeps_its_model_and_text_as_long_as_it_can():
    queue = sweeps._Queue([task(group) for group in "abcabca"])
    assert taken(queue, "1111111") == list("aaabbcc")
    assert not queue
    queue = sweeps._Queue([task(group) for group in "abcabca"])
    assert taken(queue, "1212121") == list("ababacc")
    # More workers than groups: the largest is shared.
    queue = sweeps._Queue([task(group) for group in "abaaab"])
    assert taken(queue, "12341") == list("abaaa")


def test_weights_that_are_stored_alike_follow_each_other():
    queue = sweeps._Queue([task("a", each) for each in ("fp32", "bf16", "ps4", "bf16", "fp64")])
    found = [queue.take("1").setting.hardware.weights.name for _ in range(5)]
    assert found == ["float32", "float32", "bfloat16", "bfloat16", "float64"]


# --- what people see ------------------------------------------------------------------------------


def shown(console, status):
    with progress.shown(console) as show:
        show(status)
    return console.export_text()


@pytest.fixture
def status(expected):
    def ended(index):
        return expected[index], Result(expected[index].metrics, 1.5, now(), now(), {})

    failed = expected[3], Result(None, 0.1, now(), now(), {}, "it [broke]")
    running = {"key": (expected[4], "here", time.monotonic())}
    found = Status("tiny", 8, 1, running, elsewhere=2)
    for run, result in (ended(0), ended(5), failed):
        found.add(run, result)
    return found


def test_a_terminal_shows_a_table(status, expected):
    from rich.console import Console

    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=100, force_terminal=True, file=nowhere)
        text = shown(console, status)
    assert "4/8" in text
    assert f"running {expected[4]}" in text
    assert "2 in another sweep" in text
    assert "1 failed" in text
    assert f"{status.ended[2][0]}: it [broke]" in text
    assert "least KL" in text
    assert f"{status.ended[1][1].metrics.kl:.3e}" in text


def test_runs_are_put_into_order_some_at_a_time(study, store, expected, monkeypatch):
    monkeypatch.setattr(sweeps, "_MOST_WAITING", 3)
    found = lamp.sweep(study, store=store)
    assert (found.ran, results(found.runs)) == (8, expected)
    assert (found.counts.done, found.counts.total) == (8, 8)


def test_a_brief_sweep_reads_failed_runs_alone(study, store, monkeypatch):
    def broken(worker, task):
        if "LAMP" in str(task.setting.lamp):
            raise ValueError("it broke")
        return real(worker, task)

    real = Worker._measured
    monkeypatch.setattr(Worker, "_measured", broken)
    found = lamp.sweep(study, store=store, brief=True)
    assert found.runs == found.failed
    assert {run.error for run in found.runs} == {"it broke"}
    counts = found.counts
    assert (counts.failed, counts.done, counts.total) == (len(found.runs), 4, 8)


def test_a_file_gets_lines(status):
    from rich.console import Console

    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=40, file=nowhere)
        status.stopping = True
        lines = shown(console, status).splitlines()
    assert lines[0].startswith("Ctrl-C")
    assert lines[1].startswith("2/8  model, text.txt: fp32: KL ")
    assert lines[3].endswith("failed: it [broke]")
    assert len(lines) == 4


def test_who_waits_is_told_for_whom():
    from rich.console import Console

    with open(os.devnull, "w") as nowhere:
        text = shown(Console(record=True, file=nowhere), Status("tiny", 8, 6, elsewhere=2))
    assert text == "waiting for another sweep, which has 2 of the runs\n"


def test_time_left_is_at_the_pace_so_far(status, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: status.begun + 60)
    assert (status.left, status.failed, status.seconds_left) == (4, 1, 80)
    assert Status("tiny", 8, 1).seconds_left is None


def test_a_status_holds_the_last_runs_alone(expected):
    status = Status("tiny", 100_000, 0)
    result = Result(None, 0.1, now(), now(), {}, "it broke")
    status.add(expected[0], result)
    for _ in range(20_000):
        status.add(expected[1], result)
    assert (status.measured, status.failed, status.left) == (20_001, 20_001, 79_999)
    assert len(status.ended) == 10_000
    assert status.since(20_001) == []
    assert status.since(19_999) == 2 * [(expected[1], result)]
    assert len(status.since(0)) == 10_000


# --- commands -------------------------------------------------------------------------------------


def test_the_commands_from_first_to_last(tmp_path, study, command, monkeypatch):
    path, store = tmp_path / "study.toml", tmp_path / "study.sqlite"
    path.write_text(TOML)
    code, output, errors = command("sweep", path, "--dry-run")
    assert code == 0, errors
    assert output.startswith("missing  model, text.txt: scores-ps1\n")
    assert "3 runs, 3 to do" in output
    assert not store.exists()

    code, output, errors = command("sweep", path)
    assert code == 0, errors
    assert "3/3  model, text.txt: scores-ps3: KL" in errors
    assert f"scores: 3 runs, 3 of them new, 0 failed; results in {store}" in " ".join(
        output.split()
    )
    monkeypatch.chdir(tmp_path)
    assert "3 runs, 0 of them new" in command("sweep", "study.toml", "--store", store.name)[1]
    assert command("sweep", path, "--dry-run")[1].startswith("done     model, text.txt: scores-ps1")

    code, output, errors = command("status", store)
    assert code == 0, errors
    assert output.splitlines()[1].split() == ["scores", "3", "3", "0", "0", "0"]
    (found,) = json.loads(command("status", store, "--json")[1])["studies"]
    assert (found["name"], found["done"], len(found["runs"])) == ("scores", 3, 3)
    with Store.open(store) as opened:
        metrics = [record.metrics for record in opened.runs()]
    assert [run["metrics"]["kl"] for run in found["runs"]] == [each.kl for each in metrics]


def test_what_models_say_of_themselves_is_told_wherever_results_are(
    tmp_path, study, store, command, monkeypatch
):
    note = "'bf16' names norm, but <model> has no such step"
    monkeypatch.setattr(lamp.GPT2, "notes", lambda model: [note])
    (tmp_path / "study.toml").write_text(TOML)
    command("sweep", tmp_path / "study.toml")
    assert command("status", store)[1].splitlines()[-1] == f"note: {note}"
    (found,) = json.loads(command("status", store, "--json")[1])["studies"]
    assert [run["notes"] for run in found["runs"]] == [[note]] * 3
    page = tmp_path / "page.html"
    assert command("report", store, "--output", page)[0] == 0
    assert page.read_text().count("names norm, but &lt;model&gt; has no such step") == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_at_the_command_says_how_to_resume(tmp_path, study, jobs):
    # More runs than can be done before the signal comes.
    long = TOML.replace("[1, 2, 3]", str(list(range(24)))).replace("tokens = 6", "tokens = 60")
    (tmp_path / "study.toml").write_text(long)
    command = [sys.executable, "-m", "lamp", "sweep", str(tmp_path / "study.toml")]
    child = subprocess.Popen(
        [*command, "--jobs", str(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        start_new_session=True,
    )
    line = child.stderr.readline()
    assert line.startswith("1/24"), line + child.stderr.read()
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    output, errors = child.communicate()
    assert child.returncode == 130, errors
    assert "the same command does the rest" in errors
    assert "results in" in output
    with Store.open(tmp_path / "study.sqlite") as store:
        counts = store.counts("scores")
    assert 1 <= counts.done < 24
    assert (counts.failed, counts.running) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sweep"], 2, "Missing argument"),
        (["sweep", "missing.toml"], 1, "no study file 'missing.toml'"),
        (["sweep", "wrong.toml"], 1, "wrong.toml, line 2: unknown key 'hardwear'"),
        (["sweep", "study.toml", "--jobs", "-1"], 2, "--jobs"),
        (["sweep", "study.toml", "--memory", "much"], 2, "'much' is no size, such as 500M or 4G"),
        (["sweep", "study.toml", "--store", "text.txt"], 1, "text.txt is not a store"),
        (["status", "missing.sqlite"], 1, "no store 'missing.sqlite'"),
        (["status", "text.txt"], 1, "text.txt is not a store: it is no SQLite file"),
    ],
)
def test_bad_usage_gives_one_clear_line(
    tmp_path, study, command, monkeypatch, arguments, code, message
):
    (tmp_path / "study.toml").write_text(TOML)
    (tmp_path / "wrong.toml").write_text('name = "a"\nhardwear = ["fp32"]\n')
    (tmp_path / "text.txt").write_text(tiny_studies.TEXT * 10)
    monkeypatch.chdir(tmp_path)
    found, _, errors = command(*arguments)
    assert found == code, errors
    assert message in errors


def test_a_failed_run_makes_the_command_fail(tmp_path, study, monkeypatch, command):
    (tmp_path / "study.toml").write_text(TOML)

    def breaking(self, task):
        raise ZeroDivisionError("it broke")

    monkeypatch.setattr(Worker, "_measured", breaking)
    code, output, errors = command("sweep", tmp_path / "study.toml")
    assert code == 1
    assert "failed: model, text.txt: scores-ps1: ZeroDivisionError: it broke" in errors
    assert "3 failed" in output
    assert "failed: model, text.txt: scores-ps3" in command("status", tmp_path / "study.sqlite")[1]


@pytest.mark.parametrize(
    ("text", "size"),
    [("500M", 500 * 2**20), ("4G", 2**32), ("1.5k", 1536), ("7", 7), ("2 GiB", 2**31)],
)
def test_sizes_of_memory_are_read(text, size):
    from lamp.cli.sweep import _memory

    assert _memory(text) == size


# --- what happens to files ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["store", "folder"])
def test_a_store_that_is_deleted_while_a_sweep_runs_is_noticed(tmp_path, study, command, what):
    folder = tmp_path / "results"
    folder.mkdir()
    store = folder / "s.sqlite"

    def delete(status):
        if len(status.ended) == 2 and folder.exists():
            store.unlink(missing_ok=True) if what == "store" else shutil.rmtree(folder)

    with pytest.raises(FileNotFoundError, match=r"s\.sqlite was deleted or replaced while"):
        lamp.sweep(study, store=store, progress=delete)
    assert not store.exists()


def test_the_command_says_that_the_store_is_gone(tmp_path, study, command, monkeypatch):
    (tmp_path / "study.toml").write_text(TOML)
    finish = Store.finish

    def deleting(self, *arguments):
        self.path.unlink(missing_ok=True)
        return finish(self, *arguments)

    monkeypatch.setattr(Store, "finish", deleting)
    code, output, errors = command("sweep", tmp_path / "study.toml")
    assert code == 1
    assert "study.sqlite was deleted or replaced" in errors
    assert "new" not in output


def test_another_study_of_the_same_name_is_said_to_stay(tmp_path, store, command):
    killed_sweeps.study(tmp_path)
    path = tmp_path / "study.toml"
    for values, other in (("1, 2", False), ("1, 2, 3", False), ("3", True)):
        path.write_text(TOML.replace("1, 2, 3", values))
        code, _, errors = command("sweep", path, "--store", store)
        assert code == 0
        assert ("had another study 'scores', whose results stay there" in errors) == other
    code, output, _ = command("status", store)
    assert "planned" in output
    with Store.open(store) as opened:
        assert sorted(map(len, (opened.runs(name) for name in opened.studies()))) == [1, 3]


@pytest.mark.parametrize("harm", ["half of it zero", "short", "empty", "a bit", "garbage behind"])
def test_reference_logits_that_are_left_are_checked(study, tmp_path, harm):
    tasks = list(planned(study, file_digest).tasks.values())[:2]
    spill = tmp_path / "spill"
    expected = [Worker(0, spill).run(task).metrics for task in tasks]
    (file,) = spill.iterdir()
    good = content = file.read_bytes()
    if harm == "half of it zero":
        content = bytes(len(good) // 2) + good[len(good) // 2 :]
    elif harm == "a bit":
        content = good[:-50] + bytes([good[-50] ^ 1]) + good[-49:]
    else:
        content = {"short": good[:-8], "empty": b"", "garbage behind": good + b"x"}[harm]
    file.write_bytes(content)
    assert [Worker(0, spill).run(task).metrics for task in tasks] == expected
    assert file.read_bytes() == good
    assert [each.name for each in spill.iterdir()] == [file.name]


def test_a_dry_run_lists_the_first_runs_and_counts_all(tmp_path, command, monkeypatch):
    killed_sweeps.study(tmp_path)
    path = tmp_path / "study.toml"
    rules = 'lamp = ["none", "softmax:random:{tau}:seed={seed}"]'
    grid = f"tau = [1.5, 1.2]\nseed = [{', '.join(map(str, range(700)))}]"
    path.write_text(TOML.replace("[grid]", f"{rules}\n[grid]\n{grid}"))
    code, output, _ = command("sweep", path, "--dry-run")
    lines = output.splitlines()
    assert code == 0
    assert lines[1000] == "and 3,203 more"
    last = f"4203 runs, 4203 to do; results in {tmp_path / 'study.sqlite'}"
    assert " ".join(lines[1001:]) == last
    assert not (tmp_path / "study.sqlite").exists()


def test_a_study_that_is_too_large_is_refused_at_once(tmp_path, command):
    path = tmp_path / "study.toml"
    many = ", ".join(map(str, range(20_000)))
    path.write_text(
        'name = "a"\nhardware = ["ps{mu}"]\nlamp = ["softmax:tv:{tau}", "none"]\n'
        f"[grid]\nmu = [{many}]\ntau = [{many}]"
    )
    code, _, errors = command("sweep", path, "--dry-run")
    assert code == 1
    assert f"{path}, line 4: the study has 400,020,000 points, more than 10,000,000" in errors


def test_keys_are_those_of_plain_json(study):
    for task in planned(study, file_digest).tasks.values():
        facts = json.loads(task.configuration)
        assert task.configuration == json.dumps(facts, sort_keys=True, separators=(",", ":"))
        assert facts["lamp"] == sorted(map(str, task.setting.lamp))
