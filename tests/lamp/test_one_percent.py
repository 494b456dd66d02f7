"""The study of what can be had at 1%: its scores are those of the rules, its table continues."""

import math
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lamp
from lamp.models.gpt2 import GPT2, GPT2Config
from tests.lamp.tiny_models import gpt2_tensors

sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))
import one_percent as study

CONFIG = GPT2Config(40, 40, 24, 1, 2, 24, "gelu_new", 1e-5)  # of one layer: what is recomputed
RATE = 0.2  # there changes no other score


@pytest.fixture(scope="module")
def texts():
    model = GPT2(CONFIG, gpt2_tensors(CONFIG))
    tokens = np.random.default_rng(0).integers(0, 40, 400)
    return study.Texts.of(model, tokens, 30, 3)


def test_calibration_and_test_texts_are_apart(texts):
    marked = study.Texts.of(texts.model, np.repeat(np.arange(40), 10), 30, 3)
    assert marked.windows.max() < marked.calibration.min()
    assert marked.windows.shape == (3, 30)
    assert marked.reference.shape == (3, 30, 40)


def test_a_model_that_comes_in_no_package_needs_its_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LAMP_GEMMA3", raising=False)
    with pytest.raises(SystemExit, match="LAMP_GEMMA3 must name its folder"):
        study.main(["--models", study.GEMMA, "--jobs", "1", "--output", str(tmp_path)])


@pytest.mark.parametrize("order", ["sequential", "ascending"])
def test_thresholds_of_scores_are_those_of_the_rules(texts, order):
    group = study.Group("tiny", "PS(4)", order)
    hardware = study.machine(group, texts)
    assert (hardware.scores.order is None) == (order == "sequential")
    scores = study.known_scores(hardware, texts)
    for name, rule in study.RULES.items():
        settings = study.settings(rule, scores[name], RATE)
        assert (settings.tau is None) == rule.per_layer
        model = texts.model.with_hardware(hardware, settings)
        found = [model.forward(window).recomputation_rate for window in texts.calibration]
        # The last row of a window has a smallest probability above zero, which version 1 counts.
        assert np.mean(found) == pytest.approx(RATE, abs=0.01 if name == "version 1" else 0.002)


def test_a_rule_that_takes_one_of_each_row_takes_no_less(texts):
    hardware = study.machine(study.Group("tiny", "PS(4)", "sequential"), texts)
    scores = study.known_scores(hardware, texts)
    taken = {name: study.settings(rule, scores[name], 0.01) for name, rule in study.RULES.items()}
    assert {name for name, settings in taken.items() if settings is None} == {
        "version 1",
        "relaxed",
    }


def test_thresholds_and_what_is_left():
    scores = np.array([0.1, 4.0, 3.0, 2.0, 0.2], np.float32)
    assert study.threshold(scores, 0.4) == 2.0  # two lie above it
    assert study.threshold(np.append(scores[1:], np.float32("nan")), 0.4) == 3.0
    tied = np.array([np.nan, 1.0, 1.0, 0.5], np.float32)  # a row whose scores are all zero has NaN
    assert study.settings(study.RULES["relaxed"], tied, 0.5) is None
    other = np.array([5.0, 1.0, 2.0, 3.0, 4.0], np.float32)
    assert study.left(scores, other, 0.4) == pytest.approx(12 / 15)
    assert study.left(other, other, 0.4) == pytest.approx(6 / 15)


def test_runs_are_written_and_read(texts, tmp_path):
    group = study.Group("tiny", "PS(4)", "sequential")
    rows, limits = study.run(group, texts, [RATE])
    assert len(rows) == 3 * (1 + len(study.RULES))
    for path, found, kind in (("a", rows, study.Row), ("b", limits, study.Limit)):
        study.append(tmp_path / path, found[:4])
        study.append(tmp_path / path, found[4:])
        assert study.read(tmp_path / path, kind) == found
    assert study.read(tmp_path / "none", study.Row) == []
    table = study.Found(rows)
    base = "tiny", "PS(4)", "sequential", "none", 0.0
    key = "tiny", "PS(4)", "sequential", "KL score", RATE
    model = texts.model.with_hardware(study.machine(group, texts))
    kls = [
        lamp.evaluate(logits, model, window).kl
        for logits, window in zip(texts.reference, texts.windows, strict=True)
    ]
    assert table.kl(*base).value == pytest.approx(np.mean(kls))
    value, low, high = table.gain(base, key)
    logs = [math.log(a.kl / b.kl) for a, b in zip(table.runs[base], table.runs[key], strict=True)]
    reach = 4.302653 * np.std(logs, ddof=1) / math.sqrt(3)  # Student's, of two degrees of freedom
    expected = np.exp(np.mean(logs) + np.array([0.0, -reach, reach]))
    np.testing.assert_allclose((value, low, high), expected, rtol=1e-5)
    assert value > 1.0
    assert table.gain(base, base) == (1.0, 1.0, 1.0)
    # The errors themselves leave least of what they are weighed by.
    shares = {each.rule: each.left for each in limits}
    assert min(shares.values()) == shares["true errors, KL score"]
    assert 0 < min(shares.values()) < max(shares.values()) < 1.0


def test_a_second_call_does_what_is_missing_alone():
    options = Namespace(
        levels=False, rules=["strict", "relaxed"], rates=[0.1, 0.2], formats=["PS(4)"],
        models=["embedded"], orders=["sequential", "pairwise"],
    )  # fmt: skip
    group, other = (study.Group("embedded", "PS(4)", order) for order in options.orders)
    held = [
        study.Limit("embedded", "PS(4)", "sequential", rule, rate, 0.5)
        for rule, rate in (("strict", 0.1), ("relaxed", 0.1), ("strict", 0.2), ("KL score", 0.2))
    ]
    assert study.missing(options, held) == {group: (0.2,), other: (0.1, 0.2)}
    options.rules = ["strict"]
    assert study.missing(options, held) == {other: (0.1, 0.2)}
    options.levels = True
    done = [
        study.Level("embedded", "PS(4)", "pairwise", name, 0.1, 0, 0.1, 0.1, 0.1)
        for name in study.LEVELS
    ]
    assert study.missing(options, done) == {group: (0.1, 0.2), other: (0.2,)}
    assert study.missing(options, done[1:]) == {group: (0.1, 0.2), other: (0.1, 0.2)}


def test_precisions_are_compared_at_the_same_cost(texts, tmp_path):
    # Half of 20% in float32, of 32 bits, and as many bits in PS(10), of 19.
    rates = 0.1 * 32 / 19, 0.1
    group = study.Group("tiny", "PS(4)", "sequential")
    (rows,) = study.run_levels(group, texts, [RATE])
    assert len(rows) == 3 * len(study.LEVELS)
    for name in study.LEVELS:
        bits = np.mean([row.bits for row in rows if row.levels == name])
        assert bits == pytest.approx(RATE * 32 / 13, rel=0.1)  # on another text
    study.append(tmp_path / "a", rows)
    found = study.Found(study.unique(2 * study.read(tmp_path / "a", study.Level)))
    key = "tiny", "PS(4)", "sequential", "PS(10), float32", RATE
    hardware = study.machine(group, texts)
    scores = study.known_scores(hardware, texts)["KL score"]
    taus = study.threshold(scores, sum(rates)), study.threshold(scores, rates[1])
    assert study.taus_of("PS(10), float32", scores, 0.2, "e8m4") == [*taus]
    # A score in PS(10) for 3 bits more than in PS(7), which leaves 64 times less of it.
    low, high = study.taus_of("PS(7), PS(10), best taus", scores, 0.2, "e8m4")
    assert high / low == pytest.approx(64 * 3 / 16)
    assert np.mean(scores > low) * 16 + np.mean(scores > high) * 3 == pytest.approx(6.4, rel=0.01)
    several = replace(hardware, recomputed=("e8m10", "float32"))
    model = texts.model.with_hardware(several, lamp.LAMP("kl", taus, weights="running_2"))
    own = [
        lamp.evaluate(logits, model, window)
        for logits, window in zip(texts.reference, texts.windows, strict=True)
    ]
    assert [row.kl for row in found.runs[key]] == [metrics.kl for metrics in own]
    shares = np.mean([[m.step_rates[f"scores_{level}"] for level in (1, 2)] for m in own], axis=0)
    assert shares.ravel() == pytest.approx(rates, rel=0.25)
    heading, _, line = study.level_table(found)
    assert heading.count("|") == line.count("|")
    assert line.startswith("| tiny | sequential | 20.0% |")


def test_tables_and_the_figure_show_all_runs(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "MODELS", {"tiny": 30})
    rows = []
    for order in ("sequential", "ascending"):
        rows += study.run(study.Group("tiny", "PS(4)", order), texts, [0.1, 0.3])[0]
    found = study.Found(rows)
    lines = list(study.order_table(found, "tiny", "PS(4)", 0.3))
    assert [line.split(" |")[0] for line in lines[2:]] == ["| sequential", "| ascending"]
    assert len({line.count("|") for line in lines[:1] + lines[2:]}) == 1
    best = list(study.best_table(found, 0.3))
    assert len(best) == 3
    runs = {
        (order, name): found.kl("tiny", "PS(4)", order, name, 0.3).value
        for order in ("sequential", "ascending")
        for name in study.IN_PRACTICE
    }
    order, name = min(runs, key=lambda key: runs[key])
    assert best[2].startswith("| tiny | PS(4) |")
    assert f"| {order} | {name} |" in best[2]
    rates = {0.1: 0.01, 0.3: 0.03, 0.0: 0.0}
    drawn = study.Found(replace(row, rate=rates[row.rate]) for row in rows)
    study.draw(drawn, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size > 5000
    study.draw(found, tmp_path / "y.svg", "PS(7)")  # at which nothing was measured
    assert not (tmp_path / "y.svg").exists()
