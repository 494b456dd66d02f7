"""Ranks: what each step of each layer costs alone, as runs of a store."""

import csv
import json
import math
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import lamp
from lamp import LAMP, Hardware, Product, reports
from lamp.cli.application import app
from lamp.evaluation import Setting, Source, compare, side_by_side
from lamp.reports import charts, ranks
from lamp.reports.page import page
from lamp.tuning import Part, Rank, rank, rank_study
from tests.lamp.tiny_studies import TEXT, save_checkpoint

FP64 = lamp.hardware("fp64")
# Three steps of two layers, one that differs in the last layer alone, and two outside of layers.
MACHINE = replace(
    FP64,
    name="low",
    norm="bfloat16",
    scores=Product("e8m3", output="float32"),
    lm_head=Product("e8m4", output="float32"),
).with_layers({-1: {"mlp_down": "e8m5"}}, "low")
EXPECTED = [
    ("norm", 0),
    ("scores", 0),
    ("norm", 1),
    ("scores", 1),
    ("mlp_down", 1),
    ("norm", None),
    ("lm_head", None),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("rank")
    save_checkpoint(place / "model")
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def asked(folder):
    source = Source(str(folder / "text.txt"), tokens=60, length=15)
    return {"model": folder / "model", "machine": MACHINE, "source": source}


@pytest.fixture(scope="module")
def found(folder, asked):
    return rank(**asked, store=folder / "rank.sqlite")


def divergences(folder, asked, machines):
    """Measured without a store."""
    model = lamp.from_pretrained(folder / "model")
    settings = [Setting(machine) for machine in machines]
    found = side_by_side(model, asked["source"].read(model), settings)
    return [each.metrics.kl for each in found]


def test_each_part_is_the_divergence_of_the_machine_with_that_step(folder, asked, found):
    assert [(part.step, part.layer) for part in found.parts] == EXPECTED
    alone, won = ({(p.step, p.layer): each(p) for p in found.parts} for each in (_alone, _won))
    kept = {0: {"norm": FP64.norm}, 1: {"norm": FP64.norm}}
    with_one = {
        ("scores", 1): FP64.with_layers({1: {"scores": MACHINE.scores}}),
        ("mlp_down", 1): FP64.with_layers({1: {"mlp_down": "e8m5"}}),
        ("norm", 0): FP64.with_layers({0: {"norm": "bfloat16"}}),
        ("norm", None): replace(FP64, norm="bfloat16").with_layers(kept),
        ("lm_head", None): replace(FP64, lm_head=MACHINE.lm_head),
    }
    without_one = {
        ("mlp_down", 1): replace(MACHINE, layers=()),
        ("scores", 0): MACHINE.with_layers({0: {"scores": FP64.scores}}),
        ("lm_head", None): replace(MACHINE, lm_head=FP64.lm_head),
    }
    machines = [MACHINE, *with_one.values(), *without_one.values()]
    whole, *rest = divergences(folder, asked, machines)
    assert found.whole.value == whole
    for place, expected in zip(with_one, rest[: len(with_one)], strict=True):
        assert alone[place] == expected > 0
    for place, left in zip(without_one, rest[len(with_one) :], strict=True):
        assert won[place] == pytest.approx(whole - left, abs=1e-15 + 1e-12 * whole)


def _alone(part):
    return part.alone.value


def _won(part):
    return part.won.value


def test_parts_add_up_as_far_as_they_do(folder, asked, found):
    total = math.fsum(part.alone.value for part in found.parts)
    assert found.sum.value == pytest.approx(total)
    assert found.explained.value == pytest.approx(total / found.whole.value)
    assert 0.5 < found.explained.value < 2
    assert found.complete
    assert found.explained.clusters == found.whole.clusters == 4
    assert [part.alone.value for part in found.ranked] == sorted(map(_alone, found.parts))[::-1]
    assert sum(found.by("step").values()) == pytest.approx(total)
    assert list(found.by("place")) == sorted(found.by("place"), key=found.by("place").get)[::-1]
    # A machine with one step of its own is all explained by it, without any error.
    single = FP64.with_layers({0: {"scores": "e8m3"}}, "single")
    one = rank(**{**asked, "machine": single}, store=folder / "one.sqlite")
    assert (one.explained.value, one.explained.error) == (1.0, 0.0)
    assert one.parts[0].alone == one.whole
    assert one.parts[0].won.value == pytest.approx(one.whole.value)


def test_a_second_call_finds_its_runs(folder, asked, found):
    study = rank_study(**asked)
    again = lamp.sweep(study, store=folder / "rank.sqlite", grow=True)
    assert (again.ran, len(again.runs)) == (0, 1 + 2 * len(EXPECTED))
    assert rank(**asked, store=folder / "rank.sqlite") == found
    part = rank(
        **asked, store=folder / "rank.sqlite", steps=["scores"], layers=[-1], repaired=False
    )
    (own,) = part.parts
    assert own == replace(found.parts[3], won=None)
    assert not part.complete
    assert "add up" not in ranks.heading(part)


def test_steps_with_look_ahead_cost_what_their_rules_leave(folder, asked):
    rules = [LAMP("kl", budget=0.5), LAMP("kl", budget=0.2, on="logits")]
    low = replace(MACHINE, recomputed="float32")
    given = {**asked, "machine": low, "lamp": rules, "steps": ["scores", "mlp_down", "lm_head"]}
    found = rank(**given, store=folder / "ahead.sqlite")
    model = lamp.from_pretrained(folder / "model")
    text = asked["source"].read(model)

    def measured(machine, *rules):
        return compare(model, text, Setting(machine, rules)).metrics.kl

    recomputing = replace(FP64, recomputed=low.recomputed)
    softmax, logits = rules
    last = replace(softmax, layers="1")
    parts = {(part.step, part.layer): part for part in found.parts}
    assert found.machine == "low+softmax:kl:50%+logits:kl:20%"
    assert found.whole.value == measured(low, *rules)
    for place, machine, own in (
        (("scores", 1), recomputing.with_layers({1: {"scores": low.scores}}), [last]),
        (("mlp_down", 1), FP64.with_layers({1: {"mlp_down": "e8m5"}}), []),
        (("lm_head", None), replace(recomputing, lm_head=low.lm_head), [logits]),
    ):
        assert parts[place].alone.value == measured(machine, *own) > 0
    plain = measured(FP64.with_layers({1: {"scores": low.scores}}))
    assert parts["scores", 1].alone.value < 0.7 * plain
    for place, machine, own in (
        (("scores", 0), low.with_layers({0: {"scores": FP64.scores}}), [last, logits]),
        (("mlp_down", 1), replace(low, layers=()), rules),
        (("lm_head", None), replace(low, lm_head=FP64.lm_head), [softmax]),
    ):
        expected = found.whole.value - measured(machine, *own)
        assert parts[place].won.value == pytest.approx(expected, abs=1e-15)
    (study,) = reports.read(folder / "ahead.sqlite")
    (drawn,) = (each for each in charts.charts(study) if each.title == "What each step costs")
    assert [each.name for each in drawn.pictures] == [found.machine]
    assert f"{found.machine} diverges by" in reports.story(study)[0]
    with pytest.raises(ValueError, match="norm:norm:1% recomputes attention_output and mlp_down"):
        rank_study(**asked, lamp=LAMP("norm", budget=0.01))


def test_machines_of_a_rank_say_what_they_are(asked):
    names = [machine.name for machine in rank_study(**asked, steps=["norm"]).hardware]
    assert names == [
        "low",
        *(f"fp64@{where}.norm=low" for where in ("0", "1", "outside")),
        *(f"low@{where}.norm=fp64" for where in ("0", "1", "outside")),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": "fp64"}, "'fp64' computes every step as 'fp64' does: nothing to rank"),
        ({"steps": ["score"]}, "unknown step 'score': expected weights, embedding, norm, qkv"),
        ({"layers": [2]}, "there is no layer 2: the model has 2"),
        ({"steps": ["qkv"]}, "none of the steps chosen is computed otherwise by 'low' than by"),
        (
            {"machine": Hardware("far", layers={7: {"norm": "e8m4"}})},
            "'far' says what layer 7 computes, but the model has 2 layers",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(asked, changes, message):
    with pytest.raises(ValueError, match=message):
        rank_study(**{**asked, **changes})


def test_the_page_shows_shares_in_place_of_a_row_for_each_machine(folder, found):
    (study,) = reports.read(folder / "rank.sqlite")
    titles = {chart.title: chart.pictures for chart in charts.charts(study)}
    assert titles.keys() == {"What each step costs", "Machines by layer"}
    headings = re.findall("<h3>(.*?)</h3>", page([study]))
    assert headings.index("What each step costs") < headings.index("Runs")
    (drawn,) = titles["What each step costs"]
    assert drawn == replace(ranks.picture(found), draw=drawn.draw)
    sheet = drawn.draw()
    tooltips = [text for _, own in sheet.marked.values() for text in own]
    share = found.share(found.parts[4])
    assert f"each step alone\nmlp_down, layer 1: {share:.3%}" in tooltips
    assert "each step alone\nmlp_down, layer 0: not measured" in tooltips
    outside = next(each for each in found.parts if each.place == "outside")
    share = found.share(outside)
    assert f"each step alone\n{outside.step}, outside: {share:.3%}" in tooltips
    columns = [tick.get_text() for tick in sheet.axes.get_xticklabels()]
    assert columns == ["0", "1", "outside"]


def test_files_have_all_of_it(folder, found, tmp_path):
    paths = ranks.write_rank(found, tmp_path / "new" / "rank")
    assert [path.name for path in paths] == ["rank.json", "rank.csv", "rank.svg", "rank.png"]
    record = json.loads(paths[0].read_text())
    assert record == {**json.loads(json.dumps(found.record())), "nulls": {}}
    assert record["parts"][0]["alone"]["value"] == found.ranked[0].alone.value
    with paths[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["step"], line["layer"]) for line in lines] == [
        (part.step, part.place) for part in found.ranked
    ]
    assert float(lines[0]["won_error"]) == found.ranked[0].won.error
    with pytest.raises(NotADirectoryError, match="is a file, not a folder for a rank"):
        ranks.write_rank(found, paths[0])


def test_overflow_is_ranked_first():
    nan = lamp.evaluation.Estimate(math.nan, math.nan, 2)
    one = lamp.evaluation.Estimate(1.0, 0.1, 2)
    parts = Part("qkv", 0, one), Part("scores", 1, nan)
    whole = Rank("m", "t", "a", "fp64", 2, nan, parts, nan, nan, True)
    assert [part.step for part in whole.ranked] == ["scores", "qkv"]
    assert [*whole.by("step")] == ["scores", "qkv"]


def test_the_command_prints_what_was_found(folder, found, tmp_path):
    file = tmp_path / "low.toml"
    MACHINE.save(file)
    given = ["rank", "--hardware", file, "--model", folder / "model", "--text", folder / "text.txt"]
    given += ["--tokens", 60, "--length", 15, "--store", folder / "rank.sqlite"]
    result = CliRunner().invoke(app, list(map(str, [*given, "--top", 2, "--output", tmp_path])))
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    best = found.ranked[0]
    assert f"1 {best.step} {best.place} {best.alone.value:.2e}" in text
    assert f"add up to {found.explained.value:.1%}" in text
    assert "and 5 more" in text
    assert (tmp_path / "rank.csv").is_file()
    whole = CliRunner().invoke(app, list(map(str, [*given, "--json"])))
    record = json.loads(whole.stdout)
    assert record["parts"] == json.loads(json.dumps(found.record()["parts"]))
    wrong = CliRunner().invoke(app, list(map(str, [*given, "--layers", "x"])))
    assert (wrong.exit_code, "'x' is no list of layers" in wrong.stderr) == (2, True)
