"""Menus: what is decided, in which groups, and what is refused."""

import dataclasses

import pytest

import lamp
from lamp import LAMP, Product
from lamp.models import Shape
from lamp.tuning import Menu
from lamp.tuning.decisions import assembled

SHAPE = Shape(7, 6, 18, 36, 6, 2, 2, 9, "gelu_new", 1e-5)
BASE = lamp.hardware("fp32")


def menu(menu, **changes):
    return Menu("mine", menu, changes.pop("allowed", {"kl": 1e-3}), **changes)


def write(folder, text):
    path = folder / "study.toml"
    path.write_text('name = "mine"\n' + text, encoding="utf-8")
    return path


def test_a_list_of_a_step_comes_before_that_of_its_kind():
    found = menu({"products": ["ps7", "ps4"], "qkv": ["fp32"]}, groups=1).decisions(SHAPE)
    labels = {each.step: [option.label for option in each.options] for each in found}
    assert labels["qkv"] == ["fp32"]
    assert labels["scores"] == ["ps7", "ps4"]
    assert "softmax" not in labels
    assert "recomputed" not in labels


@pytest.mark.parametrize(
    ("groups", "layers"),
    [
        (1, [(0, 1, 2, 3, 4, 5)]),
        (4, [(0, 1), (2, 3), (4,), (5,)]),
        ("layers", [(0,), (1,), (2,), (3,), (4,), (5,)]),
        (["0,-1", "1-4"], [(0, 5), (1, 2, 3, 4)]),
        ([0, [5, 1], [2, 3, 4]], [(0,), (1, 5), (2, 3, 4)]),
    ],
)
def test_groups_of_layers(groups, layers):
    found = menu({"scores": ["ps7"], "lm_head": ["ps7"]}, groups=groups).decisions(SHAPE)
    assert [each.layers for each in found] == [*layers, ()]


def test_look_ahead_is_decided_by_group():
    options = ["ps7", {"machine": "ps4", "lamp": "softmax:kl:1%"}]
    decisions = menu({"scores": options}, groups=3).decisions(SHAPE)
    assert [each.layers for each in decisions] == [(0, 1), (2, 3), (4, 5)]
    assert decisions[0].options[1].label == "ps4+softmax:kl:1%"
    assert decisions[0].options[1].rules == (LAMP.parse("softmax:kl:1%"),)
    for assignment, rules in {
        (1, 0, 1): ["softmax:kl:1%:layers=0-1,4-5"],
        (None, None, 1): ["softmax:kl:1%:layers=4-5"],
        (1, 1, 1): ["softmax:kl:1%"],
        (0, 0, 0): [],
    }.items():
        found = assembled(BASE, decisions, assignment, "mine")
        assert [str(each) for each in found.lamp] == rules
    with pytest.raises(ValueError, match="names layers, but the rule of an option is for those of"):
        menu({"scores": [{"machine": "ps4", "lamp": "softmax:kl:1%:layers=0"}]})


def test_an_option_may_be_a_machine_a_table_or_a_step():
    given = [
        lamp.hardware("ps7"),
        {"accumulator": "e8m5", "output": "bfloat16"},
        {"accumulator": "e8m6", "label": "six"},
        Product("e8m2"),
    ]
    (found,) = menu({"lm_head": given}).decisions(SHAPE)
    assert [each.label for each in found.options[:3]] == [
        "ps7",
        "accumulator e8m5, output bfloat16",
        "six",
    ]
    assert [each.step.accumulator.format.name for each in found.options] == [
        "e8m7",
        "e8m5",
        "e8m6",
        "e8m2",
    ]
    assert found.options[1].step.output.name == "bfloat16"


def test_an_assignment_is_a_machine():
    given = {"scores": ["ps7", "ps4"], "norm": ["bf16"], "lm_head": ["ps9"]}
    decisions = menu(given, groups=["0-3", "4-5"]).decisions(SHAPE)
    assert list(map(str, decisions)) == [
        "norm 0-3", "norm 4-5", "scores 0-3", "scores 4-5", "lm_head",
    ]  # fmt: skip
    machine = assembled(BASE, decisions, (None, 0, 0, 1, 0), "mine").hardware
    layers = [machine.of_layer(layer, 6) for layer in range(7)]
    assert [each.scores.output.name for each in layers[:6]] == ["e8m7"] * 4 + ["e8m4"] * 2
    # The norm behind the last layer is as that of the last group.
    outputs = [each.norm.output.name for each in layers]
    assert outputs == ["float32"] * 4 + ["bfloat16"] * 3
    assert machine.lm_head.output.name == "e8m9"
    assert machine.qkv == BASE.qkv


def test_an_assignment_of_nothing_is_the_base():
    decisions = menu({"products": ["ps7"], "functions": ["bf16"]}).decisions(SHAPE)
    found = assembled(BASE, decisions, (None,) * len(decisions), "fp32")
    assert found.hardware == BASE
    assert found.lamp == ()


def test_costs_of_ones_own_go_by_label_and_step():
    costs = {"ps7": 3, "ps4": 2.5, "scores": {"ps4": 1}}
    found = menu({"products": ["ps7", "ps4"]}, costs=costs)
    decisions = {each.step: each for each in found.decisions(SHAPE)}
    priced = {
        step: [found.cost(step, option) for option in each.options]
        for step, each in decisions.items()
    }
    assert priced["qkv"] == [3, 2.5]
    assert priced["scores"] == [3, 1]


def test_a_file_says_the_same_as_python(tmp_path):
    path = write(
        tmp_path,
        'allowed = {flips = "ps7"}\ngroups = ["0-1", "2-5"]\n'
        'base = "bf16"\ncosts = "accumulators"\n'
        '[menu]\nscores = ["ps7", {machine = "ps4", lamp = "softmax:kl:1%"}]\n'
        '[calibration]\nsource = "ecclesiastes"\ntokens = "all"\n'
        '[held_out]\nsource = "jargon"\ntokens = 64\n',
    )
    mine = Menu(
        "mine",
        {"scores": ["ps7", {"machine": "ps4", "lamp": "softmax:kl:1%"}]},
        {"flips": "ps7"},
        groups=["0-1", "2-5"],
        base="bf16",
        costs="accumulators",
        calibration={"source": "ecclesiastes", "tokens": None},
        held_out={"source": "jargon", "tokens": 64},
        folder=tmp_path,
    )
    assert Menu.load(path) == mine
    assert Menu.load(path).limit == lamp.hardware("ps7")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("allowed = {kl = 1}", "", "tuning needs menu"),
        ('allowed = {}\nmenu = {scores = ["ps7"]}', ", line 2", "allowed must be"),
        ('allowed = {kl = -1}\nmenu = {scores = ["ps7"]}', ", line 2", "kl allowed must be posi"),
        ('allowed = {k = 1}\nmenu = {scores = ["ps7"]}', ", line 2", "expected kl or flips"),
        ('allowed = {kl = "pss"}\nmenu = {scores = ["ps7"]}', ", line 2", "unknown hardware 'pss'"),
        ("allowed = {kl = 1}\n[menu]\nscore = ['ps7']", ", line 4", "did you mean 'scores'"),
        ("allowed = {kl = 1}\n[menu]\nscores = 'ps7'", ", line 4", "must be a list of options"),
        ("allowed = {kl = 1}\n[menu]\nscores = [\n'ps7',\n'p7']", ", line 6", "unknown hardware"),
        (
            "allowed = {kl = 1}\n[menu]\nscores = ['ps7', 'ps7']",
            ", line 4",
            "two options of scores",
        ),
        (
            "allowed = {kl = 1}\n[menu]\nqkv = [{machine = 'ps4', lamp = 'softmax:kl:1%'}]",
            ", line 4",
            "softmax:kl:1% is no rule for qkv: expected softmax for scores",
        ),
        (
            "allowed = {kl = 1}\n[menu]\nqkv = [{machine = 'ps4', accumulator = 'e8m3'}]",
            ", line 4",
            "a machine or fields of a step, not both",
        ),
        (
            "allowed = {kl = 1}\ncosts = {ps7 = 1}\n[menu]\nscores = ['ps7', 'ps4']",
            ", line 5",
            "costs has none for 'ps4', an option of scores",
        ),
        (
            "allowed = {kl = 1}\n[menu]\nscores = ['ps7']\n[costs]\nps7 = -1",
            ", line 6",
            "cost of ps7 must be a number from 0, not -1",
        ),
        ("allowed = {kl = 1}\ncosts = 'bit'\nmenu = {scores = ['ps7']}", ", line 3", "costs must"),
        (
            "allowed = {kl = 1}\n[menu]\nscores = ['ps7']\n[held_out]\ntoken = 5",
            ", line 5",
            "unknown field 'token' of a text",
        ),
    ],
)
def test_what_is_impossible_is_refused_with_its_line(tmp_path, text, line, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=r"study\.toml") as error:
        Menu.load(path)
    assert f"study.toml{line}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (7, "groups must lie in 1..6, not 7"),
        (["0-3"], "each of the 6 layers once"),
        (["0-3", "3-5"], "each of the 6 layers once"),
        (["0-6"], "layer 6 is not in 0..5"),
        ("all", "groups must be a number, 'layers' or a list"),
        ([1.5], "a group has numbers of layers, not 1.5"),
    ],
)
def test_groups_that_are_not_all_layers_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        menu({"scores": ["ps7"]}, groups=groups).decisions(SHAPE)


def test_a_base_that_differs_by_layer_is_refused():
    layered = BASE.with_layers({0: {"scores": "e8m4"}})
    with pytest.raises(ValueError, match="base must compute all layers alike"):
        menu({"scores": ["ps7"]}, base=layered)
    with pytest.raises(ValueError, match="differs by layer: no option is its scores"):
        menu({"scores": [dataclasses.replace(layered, name="mine")]})
