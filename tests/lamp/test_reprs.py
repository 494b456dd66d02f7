"""What is seen of machines, models, metrics, bounds, studies and results."""

import pydoc
from dataclasses import fields

import numpy as np
import pytest

import fpemu
import lamp
from lamp import bounds, compositions
from lamp.cli.application import main
from lamp.evaluation import Metrics
from lamp.machines import names, summary
from lamp.reports import Results
from tests.fpemu.test_fpemu_reprs import read

MACHINES = [
    *(lamp.hardware(name) for name in ("fp32", "scores-ps4", "hopper-fp8", "nvfp4")),
    lamp.Hardware("low <b>", scores="e8m4"),
    lamp.hardware("hopper-fp8").with_layers({(0, -1): "bf16"}),
    lamp.Hardware("tiled", attention=lamp.Tiled(64, 64, 2)),
]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_the_representation_of_a_machine_makes_an_equal_one(machine):
    assert eval(repr(machine)) == machine


@pytest.mark.parametrize(
    "text",
    ["softmax:normwise:1.2", "softmax:kl:10%,1%:layers=-1", "softmax:tv:0.1:weights=abs:scope=row"],
)
def test_the_representation_of_rules_makes_equal_ones(text):
    rules = lamp.LAMP.parse(text)
    assert eval(repr(rules)) == rules
    assert repr(lamp.LAMP(tau=1.2)) == "lamp.LAMP(tau=1.2)"


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_a_machine_is_seen_as_its_command_prints_it(machine):
    text = " ".join(read(machine).split())
    for label, how in machine.described():
        assert " ".join(f"{label} {how}".split()) in text


def test_named_machines_are_represented_by_their_names():
    assert repr(lamp.hardware("hopper-fp8")) == "lamp.hardware('hopper-fp8')"
    assert repr(lamp.Hardware("fp32", scores="e8m4")) == (
        "lamp.Hardware('fp32', scores=lamp.Product(fpemu.Sequential('e8m4')))"
    )


def test_the_help_on_machines_fits_a_screen():
    text = pydoc.plain(pydoc.render_doc(lamp.Hardware))
    head, table = text.split("A machine that runs", 1)
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    # New Pythons break the call of the class into a line for each argument.
    assert len(lines) <= 50
    assert len(head) < 700
    for field in fields(lamp.Hardware):
        assert any(line.startswith(f" |  {field.name} ") for line in lines), field.name


@pytest.mark.parametrize("kind", [fpemu.Format, fpemu.Rounding, lamp.LAMP, lamp.Study])
def test_help_on_data_classes_shows_their_docstrings_and_no_machinery(kind):
    text = pydoc.plain(pydoc.render_doc(kind))
    # From Python 3.14 on, each parameter of a long signature has a line of its own.
    most = len(kind.__doc__.splitlines()) + len(fields(kind)) + 30
    assert len(text.splitlines()) <= most
    for noise in ("__dataclass_fields__", "__setattr__", "__weakref__", "<factory>:"):
        assert noise not in text
    for field in fields(kind):
        assert f" |  {field.name} : " in text


def test_instances_of_data_classes_list_all_that_they_have():
    machine = lamp.hardware("fp32")
    assert {"with_layers", "scores", "save", "carrier", "__eq__"} <= set(dir(machine))
    assert "load" in dir(lamp.Hardware)


def test_models_metrics_bounds_and_results_say_what_they_are_at_a_glance():
    rules = lamp.LAMP.parse("softmax:normwise:1.5")
    model = lamp.from_pretrained("embedded", hardware="scores-ps4", lamp=rules)
    for words in ("embedded", "6 of width 256", "scores-ps4", "softmax:normwise:1.5"):
        assert words in repr(model)
        assert words in read(model)
    metrics = Metrics(1000, 1.25e-3, 0.01, 30.2, 30.5, 0.02, (), {}, 0.001, kl_error=2e-5)
    assert repr(metrics).startswith("<Metrics: tokens 1,000, kl 0.00125 ± 2e-05, flip rate 0.01, ")
    assert "0.00125 ± 2e-05" in read(metrics)
    a = fpemu.round(np.random.default_rng(0).normal(size=(40, 8)), "bfloat16")
    found = bounds.products(a[:8].T @ np.eye(8), np.eye(8), fpemu.Sequential("float64"))
    bound = bounds.bound(compositions.Softmax(), found)
    assert repr(bound).startswith("<Bound of softmax, rigorous: at most ")
    text = " ".join(read(bound).split())
    for line in bound.explain().splitlines():
        line = line.strip()
        assert line in text or line.replace(": ", " ", 1) in text
    empty = Results("store", "study <i>", {}, (), {})
    assert repr(empty) == "<Results of study 'study <i>' in 'store': no runs>"
    assert "study <i>" in read(empty)


def test_the_representation_of_a_study_makes_an_equal_one():
    study = lamp.Study("s", hardware=["scores-ps{mu}"], lamp=["none"], grid={"mu": [2, 4]})
    assert repr(study) == (
        "lamp.Study('s', hardware=['scores-ps{mu}'], lamp=['none'], grid={'mu': [2, 4]})"
    )
    assert eval(repr(study)) == study
    assert "mu: 2, 4" in read(study)


@pytest.mark.parametrize("columns", [20, 40, 80, 200, None])
def test_the_list_of_machines_is_whole_in_every_width(columns, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as end:
        main(["hardware", "list"])
    printed = capsys.readouterr().out
    assert not end.value.code
    assert "\u2026" not in printed
    words = printed.split()
    for name in names():
        assert name in words
        machine = lamp.hardware(name.format(mu=4))
        for word in summary(machine, "qkv").split():
            assert word in words, (name, word)
    if columns is None:
        rows = printed.split("\n\n")[0].splitlines()[1:]
        assert [row.split()[0] for row in rows] == [*names()]
