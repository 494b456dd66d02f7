"""A tiny model tuned by runs of a store."""

import csv
import itertools
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import lamp
from lamp import Hardware, reports
from lamp.cli.application import app
from lamp.evaluation import Source, side_by_side
from lamp.machines import digest
from lamp.reports import charts, fronts, tables
from lamp.studies import Store, worker
from lamp.tuning import Menu, measuring, tune
from lamp.tuning.decisions import assembled
from tests.lamp.tiny_studies import TEXT, save_checkpoint

OTHER = "Pack my box with five dozen jugs, said the wizard. How quickly? At once!\n"
STUDY = """
name = "tiny"
model = "model"
allowed = {kl = 3e-5}
groups = "layers"
costs = "accumulators"

[menu]
scores = ["fp32", "ps4", "ps1"]
mlp_up = ["fp32", "ps3"]

[calibration]
source = "text.txt"
tokens = 60
length = 20

[held_out]
source = "other.txt"
tokens = 60
length = 20
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tuning")
    save_checkpoint(place / "model")
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    (place / "other.txt").write_text(OTHER, encoding="utf-8")
    (place / "study.toml").write_text(STUDY, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def found(folder):
    return tune(folder / "study.toml")


@pytest.fixture(scope="module")
def model(folder):
    return lamp.from_pretrained(folder / "model")


def divergences(model, menu, settings, text):
    """Measured without a store."""
    found = side_by_side(model, getattr(menu, text).read(model), settings)
    return [each.metrics.kl for each in found]


def test_the_result_is_the_cheapest_of_all_machines_of_the_menu(model, found):
    menu = found.menu
    decisions = menu.decisions(model.shape)
    assignments = [*itertools.product(*(range(len(d.options)) for d in decisions))]
    settings = [assembled(menu.base, decisions, each, "any") for each in assignments]
    costs = {}
    kls = [divergences(model, menu, settings, text) for text in ("calibration", "held_out")]
    for each, *both in zip(assignments, *kls, strict=True):
        if max(both) <= 3e-5:
            costs[each] = sum(
                cost(model.shape, d, choice) for d, choice in zip(decisions, each, strict=True)
            )
    best = min(costs.values())
    assert sum(each.cost for each in found.choices) == pytest.approx(best)
    assert 1 < len(costs) < len(assignments) == 36


def cost(shape, decision, choice):
    """The cost of an option: the bits of its accumulator."""
    terms = {"scores": 8 * 10.5, "mlp_up": 8 * 16}
    assert (shape.width, shape.inner) == (8, 16)
    label = decision.options[choice].label
    bits = 32 if label == "fp32" else 9 + int(label.removeprefix("ps"))
    return terms[decision.step] * bits


def test_the_result_is_what_it_says(model, found):
    for text in ("calibration", "held_out"):
        expected = divergences(model, found.menu, [found.setting], text)
        assert [found.result.readings[text].value] == expected
    low, high = found.result.readings["held_out"][1:]
    assert low < found.result.readings["held_out"].value < high
    assert len({each.option for each in found.choices}) > 1
    assert found.bound <= found.result.cost


def test_a_second_call_measures_nothing(folder, found):
    again = tune(folder / "study.toml")
    assert again.ran == 0
    assert found.ran > 0
    assert replace(again, ran=found.ran) == found


def test_another_allowance_measures_little(folder, found):
    menu = replace(Menu.load(folder / "study.toml"), allowed={"kl": 6e-5})
    other = tune(menu, store=folder / "study.sqlite")
    assert other.result.cost < found.result.cost
    assert other.ran < found.ran / 2
    with Store.open(folder / "study.sqlite") as store:
        names = set(store.studies())
    assert {"tiny, alone", "tiny, kl 3e-05, round 1", "tiny, kl 6e-05, compared"} <= names


def test_all_sweeps_have_the_same_workers(folder, tmp_path, monkeypatch):
    begun, computed = [], []
    compute = worker.Worker._computed

    def engine(**options):
        begun.append(measuring_engine(**options))
        return begun[-1]

    def counted(self, task, model):
        computed.append(task.reference_key)
        return compute(self, task, model)

    measuring_engine = measuring.engine
    monkeypatch.setattr(measuring, "engine", engine)
    monkeypatch.setattr(worker.Worker, "_computed", counted)
    menu = replace(Menu.load(folder / "study.toml"), menu={"scores": ["ps4"]})
    tune(menu, store=tmp_path / "own.sqlite", front=0)
    assert len(begun) == 1
    assert len(computed) == len(set(computed)) == 2  # one for each text


def test_a_machine_may_say_what_is_allowed(folder, model):
    menu = replace(Menu.load(folder / "study.toml"), allowed={"kl": "scores-ps4"})
    result = tune(menu, store=folder / "study.sqlite")
    for text in ("calibration", "held_out"):
        expected = divergences(model, menu, [_setting("scores-ps4")], text)
        assert [result.allowed[text]] == expected
        assert result.result.readings[text].value <= result.allowed[text]
    # Of all that is in its products, 2 * 8 * 10.5 multiply-adds are in 13 bits, the rest in 32.
    (machine,) = [each for each in result.others if each.kind == "allowed"]
    (plain,) = [each for each in result.others if each.name == "fp32"]
    assert machine.cost == pytest.approx(plain.cost - 2 * 8 * 10.5 * (32 - 13))
    assert "at most that of scores-ps4, which costs" in fronts.sentence(result.record())
    assert result.difference.value == pytest.approx(
        result.result.readings["held_out"].value - result.allowed["held_out"]
    )


def _setting(name):
    return lamp.evaluation.Setting.parse(name)


def test_recomputation_costs_its_share(folder):
    rule = {"machine": "ps4", "lamp": "softmax:kl:25%"}
    menu = replace(Menu.load(folder / "study.toml"), menu={"scores": [rule]}, allowed={"kl": 1.0})
    result = tune(menu, store=folder / "study.sqlite", front=0)
    assert [each.layers for each in result.choices] == ["0", "1"]
    model = lamp.from_pretrained(menu.place, hardware=result.machine, lamp=result.setting.lamp)
    text = menu.calibration.read(model)
    share = lamp.evaluate(model.with_hardware("fp64"), model, text.tokens, length=20)
    rate = share.recomputation_rate
    assert 0.2 < rate <= 0.25
    low, high = 13, 32
    cost = sum(each.cost for each in result.choices)
    assert cost == pytest.approx(2 * 8 * 10.5 * (low + rate * high), rel=1e-3)
    assert [str(each) for each in result.setting.lamp] == ["softmax:kl:25%"]


def test_costs_may_be_of_ones_own(folder):
    menu = replace(
        Menu.load(folder / "study.toml"),
        menu={"scores": ["ps4", "ps1"]},
        costs={"ps4": 5, "ps1": 1},
        allowed={"kl": "scores-ps4"},
    )
    result = tune(menu, store=folder / "study.sqlite", front=0)
    prices = [5 if each.option == "ps4" else 1 for each in result.choices]
    assert result.result.cost == pytest.approx(8 * 10.5 * sum(prices))
    assert "at most that of scores-ps4.  Its" in fronts.sentence(result.record())


def test_flips_may_be_what_is_allowed(folder):
    menu = replace(Menu.load(folder / "study.toml"), allowed={"flips": 0.1})
    result = tune(menu, store=folder / "study.sqlite", front=0)
    assert result.result.readings["held_out"].value <= 0.1


def test_text_that_was_calibrated_on_is_not_held_out(folder):
    menu = replace(Menu.load(folder / "study.toml"), held_out=Source(str(folder / "text.txt")))
    with pytest.raises(ValueError, match="of the held-out text is in the calibration text"):
        tune(menu, store=folder / "study.sqlite")


def test_what_nothing_can_do_is_said(folder):
    menu = replace(Menu.load(folder / "study.toml"), menu={"scores": ["ps1"]}, allowed={"kl": 1e-9})
    with pytest.raises(ValueError, match=r"in 1 round: the nearest takes .* times as much as"):
        tune(menu, store=folder / "study.sqlite")


def test_results_are_files(found, tmp_path):
    files = fronts.write_tuned(found, tmp_path / "out")
    assert [path.name for path in files] == [
        "machine.toml",
        "tuned.json",
        "front.csv",
        "front.svg",
        "front.png",
    ]
    machine = Hardware.load(tmp_path / "out" / "machine.toml")
    assert digest(machine) == digest(found.machine)
    record = json.loads((tmp_path / "out" / "tuned.json").read_text())
    assert record["cost"] == found.result.cost
    assert record["divergence"]["held_out"]["value"] == found.result.readings["held_out"].value
    rows = list(csv.DictReader((tmp_path / "out" / "front.csv").read_text().splitlines()))
    assert rows[0]["kind"] == "tuned"
    assert float(rows[0]["held_out"]) == found.result.readings["held_out"].value
    assert {"front", "uniform"} <= {row["kind"] for row in rows}
    before = [path.read_bytes() for path in files]
    assert [path.read_bytes() for path in fronts.write_tuned(found, tmp_path / "out")] == before


def check_machines(table, found):
    """Every machine that was measured, the cheapest first, in the numbers of the result."""
    measured = [found.result, *(each for each in (*found.front, *found.others) if each.readings)]
    ordered = sorted(measured, key=lambda each: each.cost)
    assert [item["name"] for item in table.items] == [each.name for each in ordered]
    for row, each in zip(table.rows, ordered, strict=True):
        _, role, cost, predicted, calibration, held_out, interval = (cell.text for cell in row)
        assert (role == "the result") == (each is found.result)
        assert float(cost) == pytest.approx(each.cost / found.result.cost, rel=6e-3)
        assert float(predicted) == pytest.approx(each.predicted, rel=6e-3)
        assert float(calibration) == pytest.approx(each.readings["calibration"].value, rel=6e-3)
        reading = each.readings["held_out"]
        assert float(held_out) == pytest.approx(reading.value, rel=6e-3)
        low, high = map(float, interval.split(" to "))
        assert (low, high) == pytest.approx((reading.low, reading.high), rel=6e-3)


def test_the_page_shows_the_front_and_what_was_chosen(folder, found):
    studies = reports.read(folder / "study.sqlite")
    (study,) = (each for each in studies if each.tuned and each.name.startswith("tiny, kl 3e-05"))
    assert {each.name for each in studies if each.is_stage} >= {"tiny, alone"}
    assert reports.story(study) == [fronts.sentence(found.record())]
    assert found.machine.name in fronts.sentence(found.record())
    check_machines(tables.tuned(study), found)
    assert not any(tables.tuned(each).items for each in studies if not each.tuned)
    chart = next(each for each in charts.charts(study) if each.title == "The tuned machine")
    front, chosen = (picture.draw() for picture in chart.pictures)
    tooltips = [text for _, own in chosen.marked.values() for text in own]
    for choice in found.choices:
        assert (
            f"{found.machine.name}\n{choice.step}, layer {choice.layers}: {choice.option}"
            in tooltips
        )
    heights = [y for line in front.axes.lines for y in line.get_ydata()]
    for each in (found.result, *(each for each in found.others if each.kind == "uniform")):
        assert each.readings["held_out"].value in heights


def test_the_terminal_shows_the_machines_of_the_page(found):
    table = fronts.machines_table(found)
    shown = [*zip(*(column.cells for column in table.columns), strict=True)]
    items = tables.machines(found.record())
    rows = ([cell.text for cell in row] for row in tables.Table("", tables.BESIDE, items).rows)
    assert [list(row[1:]) for row in shown] == [row[2:] for row in rows]
    (bold,) = [i for i, row in enumerate(table.rows) if row.style == "bold"]
    assert shown[bold][0] == "tuned"
    assert {row[0] for row in shown} == {"tuned", "on the front", "fp32"}


def test_the_front_falls_in_cost_as_the_divergence_rises(found):
    costs = [each.cost for each in found.front]
    predicted = [each.predicted for each in found.front]
    assert costs == sorted(costs, reverse=True)
    assert predicted == sorted(predicted)


def test_the_command_prints_what_was_found(folder, found):
    shown = CliRunner().invoke(app, ["tune", str(folder / "study.toml")])
    assert shown.exit_code == 0, shown.output
    assert found.machine.name in shown.stdout
    assert "0 runs new" in shown.stdout
    asked = CliRunner().invoke(app, ["tune", str(folder / "study.toml"), "--json"])
    record = json.loads(asked.stdout)
    assert record["choices"][0]["step"] == "scores"
    assert record["rounds"][-1]["holds"] in (True, False)
