"""Runs that are tasks of lm-evaluation-harness; the harness itself is not needed here."""

import contextlib
import io
import json
import math
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

import lamp
from lamp import reports
from lamp.cli.application import main
from lamp.integrations import Score, TaskResult, TaskSource, compared_scores
from lamp.reports.runs import scored
from lamp.studies import Result, Run, Store, TaskRun, planned, progress, sweeps
from lamp.studies.runs import Counts, now
from lamp.studies.worker import Worker
from tests.lamp import tiny_studies

ACCURACY = Score("arc", "acc", "none", "1.0", 3, 2 / 3, 1 / 3, True, {0: 1.0, 1: 0.0, 2: 1.0})
PERPLEXITY = Score("arc", "perplexity", "strict", "1.0", 3, math.inf, math.nan, None)
ANSWERED = TaskResult((ACCURACY, PERPLEXITY), 5)


def run(key, hardware="bf16", task="arc", **more):
    return TaskRun(key, "m", task, hardware, "none", "fp64", {"mu": 4}, subject="s", **more)


def finished(answered, error=""):
    return Result(answered, 1.25, now(), now(), {"host": "here"}, error)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.sqlite"


# --- stores ---------------------------------------------------------------------------------------


def test_a_store_gives_back_what_was_scored(path):
    with Store.open(path, write=True) as store:
        runs = [run("a", "fp64"), Run("t", "m", "text", "bf16", "none", "fp64"), run("b"), run("c")]
        store.plan("study", {"name": "study"}, runs)
        store.finish("a", "{}", finished(ANSWERED))
        store.finish("b", "{}", finished(None, "it broke"))
        assert store.counts("study") == Counts(done=1, failed=1, missing=2, running=0)
        assert [each.key for each in store.runs()] == ["t"]
    with Store.open(path) as store:
        done, failed, missing = store.task_runs("study")
        assert store.task_runs("other") == []
    assert (done.key, done.text, done.hardware, done.subject) == ("a", "arc", "fp64", "s")
    assert [each.position for each in (done, failed, missing)] == [0, 2, 3]
    assert (done.seconds, done.metrics, done.variables) == (1.25, None, {"mu": 4})
    assert repr(done.result) == repr(ANSWERED)  # NaN is not equal to itself
    assert [dict(score.documents) for score in done.result.scores] == [ACCURACY.documents, {}]
    assert (failed.state, failed.error, failed.result) == ("failed", "it broke", None)
    assert (missing.state, missing.result) == ("missing", None)


def test_a_store_of_schema_3_gets_tables_for_tasks(path):
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [Run("t", "m", "text", "bf16", "none", "fp64")])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP VIEW task_results; DROP TABLE scores; DROP TABLE answers; "
            "DROP TABLE task_members; DROP TABLE notes; PRAGMA user_version = 3;"
        )
    with pytest.raises(ValueError, match=r"schema 3.*lamp sweep brings it up to date"):
        Store.open(path)
    with Store.open(path, write=True) as store:
        store.plan("tasks", {}, [run("a")])
        store.finish("a", "{}", replace(finished(ANSWERED), notes=("it has no norm",)))
        assert store.task_runs()[0].result.not_finite == 5
        assert store.task_runs()[0].notes == ("it has no norm",)
        assert len(store.runs()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("scores SET higher_is_better = 7", "higher_is_better is 7, not 0, 1 or nothing"),
        ("scores SET score = 'x'", "score is 'x', not a number"),
        ("scores SET not_finite = -1", "not_finite is -1, not an integer from 0"),
        ("answers SET document = -1 WHERE document = 0", "document is -1"),
        ("task_members SET subject = x'00ff'", "subject is b"),
    ],
)
def test_values_that_no_score_has_are_named(path, change, message):
    with Store.open(path, write=True) as store:
        store.plan("study", {}, [run("a")])
        store.finish("a", "{}", finished(ANSWERED))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE {change}")
        connection.commit()
    with Store.open(path) as store, pytest.raises(ValueError, match=message):
        store.task_runs()


def test_a_study_grows_and_new_runs_of_the_same_labels_win(path):
    with Store.open(path, write=True) as store:
        store.plan("eval", {"hardware": ["bf16"], "tasks": ["arc"]}, [run("a", "fp64"), run("b")])
        for key in ("a", "b"):
            store.finish(key, "{}", finished(ANSWERED))
        kept = store.plan(
            "eval", {"hardware": ["fp8"], "tasks": ["arc"]}, [run("z", "fp64"), run("c", "fp8")],
            grow=True,
        )  # fmt: skip
        assert kept is None
        found = [(each.key, each.hardware, each.position) for each in store.task_runs("eval")]
        assert found == [("z", "fp64", 0), ("b", "bf16", 1), ("c", "fp8", 2)]
        assert store.studies() == {"eval": {"hardware": ["bf16", "fp8"], "tasks": ["arc"]}}
        assert store.task_runs("eval")[1].result.not_finite == 5
        kept = store.plan("eval", {}, [run("c", "fp8")])  # without growing, results are set aside
        assert kept.startswith("eval, planned ")
        assert [each.key for each in store.task_runs(kept)] == ["z", "b", "c"]
        assert sorted(store.studies()) == ["eval", kept]


# --- studies --------------------------------------------------------------------------------------

TOML = """
name = "tasks"
models = ["model"]
hardware = ["scores-ps{mu}"]
tasks = ["arc", {task = "own", folder = "mine", limit = "{count}", name = "my own"}]

[grid]
mu = [2, 4]
count = [1, 2]
"""


def test_a_study_may_have_tasks_in_place_of_texts(tmp_path):
    (tmp_path / "study.toml").write_text(TOML.replace(', name = "my own"', ""))
    points = lamp.Study.load(tmp_path / "study.toml").points()
    assert [(point.labels["hardware"], point.labels["text"]) for point in points] == [
        ("scores-ps2", "arc"),
        ("scores-ps4", "arc"),
        ("scores-ps2", "own, first 1"),
        ("scores-ps2", "own, first 2"),
        ("scores-ps4", "own, first 1"),
        ("scores-ps4", "own, first 2"),
    ]
    assert points[-1].source == TaskSource("own", tmp_path / "mine", 2)
    assert points[-1].variables == {"mu": 4, "count": 2}
    both = lamp.Study("both", texts=["held-out"], tasks=[TaskSource("arc", shots=0)])
    assert [point.labels["text"] for point in both.points()] == ["held-out", "arc, 0 shots"]
    assert [entry["task"] for entry in both.record()["tasks"]] == ["arc"]
    assert "tasks" not in lamp.Study("texts").record()


def test_two_tasks_of_one_label_are_refused(tmp_path):
    (tmp_path / "study.toml").write_text(TOML)
    with pytest.raises(ValueError, match=r"study\.toml: two tasks are called 'my own'"):
        lamp.Study.load(tmp_path / "study.toml").points()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"task": "arc", "limits": 3}, "unknown field 'limits': expected task, folder, limit"),
        ({"task": "arc", "limit": 0}, "limit must be an integer from 1, not 0"),
        ({"task": "arc", "shots": True}, "shots must be an integer from 0, not True"),
        ({"task": "arc", "chat": "yes"}, "chat must be true or false, not 'yes'"),
        ({"task": ""}, "task must be a name, not ''"),
        (3, "a task is a TaskSource, a name or a table, not 3"),
    ],
)
def test_tasks_that_say_something_impossible_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        lamp.Study("tasks", tasks=[entry]).points()
    with pytest.raises(ValueError, match="texts must be a list with at least one entry"):
        lamp.Study("nothing", texts=[])


# --- sweeps ---------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """A harness that scores each of three documents by the width of the machine's scores."""
    calls = []

    def digest(source, model):
        assert not hasattr(model, "_weights")  # which planning does not need
        return f"digest of {source.label}"

    def answered(source, model, *, progress):
        calls.append((source.task, model.hardware.name))
        progress(0.5)
        if source.task == "broken":
            raise ValueError("it asks for what is not there")
        right = [float(model.hardware.scores.output.precision > least) for least in (3, 5, 20)]
        score = Score(source.task, "acc", "none", "1", 3, np.mean(right), 0.1, True,
                      dict(enumerate(right)))  # fmt: skip
        return TaskResult((score,), 0, digest(source, object()), {"much": "more"})

    monkeypatch.setattr(TaskSource, "digest", digest)
    monkeypatch.setattr(TaskSource, "answered", answered)
    monkeypatch.setattr(TaskSource, "manager", lambda source: None)
    return calls


def study(folder, **changes):
    if not (folder / "model").is_dir():
        tiny_studies.save_checkpoint(folder / "model")
    given = {"models": ["model"], "tasks": ["arc"], "hardware": ["scores-ps2", "scores-ps4"]}
    return lamp.Study("tasks", folder=folder, **{**given, **changes})


def test_the_reference_is_a_run_of_its_own_and_nothing_is_done_twice(tmp_path, path, asked):
    first = lamp.sweep(study(tmp_path), store=path)
    assert asked == [("arc", "fp64"), ("arc", "scores-ps2"), ("arc", "scores-ps4")]
    assert [(each.hardware, each.state) for each in first.runs] == [
        ("fp64", "done"), ("scores-ps2", "done"), ("scores-ps4", "done"),
    ]  # fmt: skip
    asked.clear()
    assert lamp.sweep(study(tmp_path), store=path).ran == 0
    hardware = ["fp64", "scores-ps2", "scores-ps4", "bf16"]
    more = lamp.sweep(study(tmp_path, hardware=hardware), store=path)
    assert asked == [("arc", "bf16")]
    assert [each.hardware for each in more.runs] == hardware


def test_a_worker_hands_on_scores_alone(tmp_path, asked):
    """What else the harness gives, every question among it, goes through no process."""
    (task, *_) = planned(study(tmp_path), lamp.studies.file_digest).tasks.values()
    found = Worker(0).run(task).metrics
    assert [score.value for score in found.scores] == [1.0]
    assert found.results == {}


def test_the_status_says_how_much_of_a_run_is_done(tmp_path, path, asked, monkeypatch):
    shares, table = [], progress._Table()

    def follow(status, share, own=sweeps._Runner._follow):
        own(status, share)
        console = Console(record=True, width=100, file=io.StringIO())
        console.print(table.render())
        shares.append((share, "running model, arc: fp64 50% in " in console.export_text()))

    monkeypatch.setattr(sweeps._Runner, "_follow", follow)
    lamp.sweep(study(tmp_path, hardware=["fp64"]), store=path, progress=table)
    assert shares == [(0.5, True)]
    text = tmp_path / "text.txt"
    text.write_text(tiny_studies.TEXT)
    read = {"source": "text.txt", "tokens": 48, "length": 24}
    lamp.sweep(study(tmp_path, tasks=[], texts=[read], hardware=["fp64"]), store=path)
    assert [share for share, _ in shares[1:]] == [0.5, 1.0]


def test_a_key_holds_what_a_score_depends_on(tmp_path, asked):
    def keys(**changes):
        plan = planned(study(tmp_path, **changes), lamp.studies.file_digest)
        return {run.hardware + run.lamp: run.key for run in plan.runs}, plan

    first, plan = keys()
    second, _ = keys(reference="fp32")
    assert first["scores-ps2none"] == second["scores-ps2none"]  # the reference does its own run
    assert first["fp64none"] != second["fp32none"]
    assert len({run.subject for run in plan.runs}) == 1
    assert len({*first.values(), *keys(lamp=["softmax:tv:1%"])[0].values()}) == 5
    assert not {*first.values()} & {*keys(tasks=["hellaswag"])[0].values()}
    tiny_studies.save_checkpoint(tmp_path / "model", seed=1)
    assert not {*first.values()} & {*keys()[0].values()}


def test_tasks_that_fail_or_change_are_failed_runs(tmp_path, path, asked, monkeypatch):
    found = lamp.sweep(study(tmp_path, tasks=["broken", "arc"]), store=path)
    assert [each.error for each in found.failed] == ["it asks for what is not there"] * 3
    assert [each.state for each in found.runs if each.text == "arc"] == ["done"] * 3
    monkeypatch.setattr(TaskSource, "digest", lambda source, model: "planned with other documents")
    (failed, *_) = lamp.sweep(study(tmp_path, tasks=["arc"]), store=path).failed
    assert "is another than the sweep's: its documents or its definition differ" in failed.error


def test_texts_and_tasks_share_a_sweep_and_are_not_mixed(tmp_path, path, asked):
    (tmp_path / "text.txt").write_text(tiny_studies.TEXT)
    text = {"source": "text.txt", "tokens": 12}
    both = study(tmp_path, texts=[text], hardware=["scores-ps2"])
    found = lamp.sweep(both, store=path)
    assert [type(each).__name__ for each in found.runs] == ["Run", "TaskRun", "TaskRun"]
    with Store.open(path) as store:
        assert [each.text for each in store.runs()] == ["text.txt"]
        assert [each.text for each in store.task_runs()] == ["arc", "arc"]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM results").fetchone() == (1,)


def test_a_name_that_the_reference_has_too_is_refused(tmp_path, asked):
    mine = lamp.Hardware("fp64", scores=lamp.hardware("scores-ps2").scores)
    with pytest.raises(ValueError, match="another machine is called 'fp64', like the reference"):
        planned(study(tmp_path, hardware=[mine]), lamp.studies.file_digest)


# --- what is shown --------------------------------------------------------------------------------


def test_scores_are_compared_document_by_document():
    one = Score("arc", "acc", "none", "1", 4, 0.5, 0.3, True, {0: 1.0, 1: 0.0, 2: 1.0, 5: 0.0})
    other = Score("arc", "acc", "none", "1", 4, 0.75, 0.2, True, {0: 1.0, 1: 1.0, 2: 1.0, 5: 0.0})
    (found,) = compared_scores([one], [other])
    differences = np.array([0, -1, 0, 0])
    assert (found.value, found.reference, found.changed) == (0.5, 0.75, 1)
    assert found.difference.value == pytest.approx(differences.mean())
    assert found.difference.error == pytest.approx(differences.std(ddof=1) / 2)
    (unpaired,) = compared_scores([one], [Score("arc", "acc", "none", "1", 4, 0.5, 0.3, True)])
    assert unpaired.difference is unpaired.changed is None
    assert list(compared_scores([one], [PERPLEXITY])) == []


def test_reports_show_scores_beside_the_reference(tmp_path, path, asked, capsys):
    lamp.sweep(study(tmp_path), store=path)
    (read,) = reports.read(path)
    found = [
        (each.run.hardware, each.score.value, each.score.changed) for each in scored(read.tasks)
    ]
    assert found == [("scores-ps2", 0.0, 3), ("scores-ps4", 1 / 3, 2)]
    assert read.counts == {"done": 3}
    assert read.done == ()  # they are no runs on texts
    page = tmp_path / "page.html"
    reports.write_page([read], page)
    html = page.read_text()
    assert "<h3>Tasks</h3>" in html
    assert "3 of 3 runs done" in html
    assert "In all rows: task arc, metric acc." in html
    assert html.count("<td>scores-ps") == 2
    with pytest.raises(SystemExit) as stop:
        main(["status", str(path)])
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert "last tasks" in shown
    assert "last runs" not in shown
    with pytest.raises(SystemExit):
        main(["status", str(path), "--json"])
    (listed,) = json.loads(capsys.readouterr().out)["studies"]
    assert listed["runs"] == []
    assert [each["scores"][0]["value"] for each in listed["tasks"]] == [1.0, 0.0, 1 / 3]


def test_the_command_keeps_its_runs_in_a_store(tmp_path, path, asked, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_studies.save_checkpoint(tmp_path / "model")

    def evaluated(*options):
        with pytest.raises(SystemExit) as stop:
            main(["eval", "--model", "model", "--store", str(path), *options])
        return stop.value.code or 0, capsys.readouterr()

    code, shown = evaluated("--tasks", "arc", "--hardware", "scores-ps2", "--json")
    assert code == 0
    record = json.loads(shown.out)
    assert (record["hardware"], record["reference"]) == ("scores-ps2", "fp64")
    (score,) = record["scores"]
    assert (score["value"], score["reference"], score["changed"]) == (0.0, 1.0, 3)
    assert record["task_versions"] == {"arc": "1"}
    code, shown = evaluated("--tasks", "arc", "--hardware", "scores-ps4")
    assert "arc, 3 documents" in shown.out
    assert asked == [("arc", "fp64"), ("arc", "scores-ps2"), ("arc", "scores-ps4")]
    with Store.open(path) as store:
        assert [each.hardware for each in store.task_runs("lamp eval")] == [
            "fp64", "scores-ps2", "scores-ps4",
        ]  # fmt: skip
    code, shown = evaluated("--tasks", "broken")
    assert code == 1
    assert "failed: model, broken: fp64: it asks for what is not there" in shown.err
