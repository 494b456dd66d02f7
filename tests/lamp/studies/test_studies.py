"""Studies: what they stand for, and what is wrong with them, on which line."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lamp
from lamp import LAMP, Study
from lamp.evaluation import Source
from lamp.machines import files as machine_files

TOML = """
name = "scores"
models = ["embedded", "mine"]
hardware = ["fp32", "scores-ps{mu}", "machine.toml"]
lamp = [
    "none",
    "softmax:normwise:{tau}",
    "softmax:random:{tau}:seed={seed}",
    "softmax:tv:{mu}%+norm:norm:1%",
]
reference = "machine.toml"

[grid]
mu = [2, 4]
tau = [1.5, 1.2]
seed = [0, 7]

[[texts]]
source = "held-out"
tokens = 2048

[[texts]]
source = "text.txt"
name = "mine of {length}"
length = "{length}"
tokens = "all"
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a machine and a directory that may be a model."""
    machine_files.save(lamp.hardware("bf16"), tmp_path / "machine.toml")
    (tmp_path / "mine").mkdir()
    return tmp_path


def load(folder, text):
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return Study.load(folder / "study.toml")


def settings(study):
    return [str(point.setting) for point in study.points()]


# --- what they stand for --------------------------------------------------------------------------


def test_an_entry_stands_for_all_values_of_its_variables():
    study = Study(
        "a",
        hardware=["fp32", "scores-ps{mu}"],
        lamp=["none", "softmax:normwise:{tau}"],
        grid={"tau": [1.5, 1.2], "mu": [2, 4]},
    )
    assert settings(study) == [
        "fp32",
        "fp32+softmax:normwise:1.5",
        "fp32+softmax:normwise:1.2",
        "scores-ps2",
        "scores-ps4",
        "scores-ps2+softmax:normwise:1.5",
        "scores-ps4+softmax:normwise:1.5",
        "scores-ps2+softmax:normwise:1.2",
        "scores-ps4+softmax:normwise:1.2",
    ]
    first, *_, last = study.points()
    assert first.variables == {}
    assert last.variables == {"tau": 1.2, "mu": 4}
    assert last.labels == {
        "model": "embedded",
        "text": "held-out",
        "hardware": "scores-ps4",
        "lamp": "softmax:normwise:1.2",
        "reference": "fp64",
    }


def test_a_variable_has_one_value_in_a_run():
    study = Study("a", hardware=["scores-ps{n}"], lamp=["softmax:tv:{n}%"], grid={"n": [1, 3]})
    assert settings(study) == [
        "scores-ps1+softmax:total_variation:1%",
        "scores-ps3+softmax:total_variation:3%",
    ]


def test_a_file_says_the_same_as_an_object(folder):
    text = TOML.replace("seed = [0, 7]", "seed = [0, 7]\nlength = [128, 256]")
    loaded = load(folder, text)
    made = Study(
        "scores",
        models=["embedded", Path("mine")],
        hardware=["fp32", "scores-ps{mu}", "machine.toml"],
        lamp=[
            None,
            "softmax:normwise:{tau}",
            "softmax:random:{tau}:seed={seed}",
            "softmax:tv:{mu}%+norm:norm:1%",
        ],
        texts=[
            Source("held-out", tokens=2048),
            {
                "source": "text.txt",
                "name": "mine of {length}",
                "length": "{length}",
                "tokens": None,
            },
        ],
        reference=Path("machine.toml"),
        grid={"mu": [2, 4], "tau": [1.5, 1.2], "seed": [0, 7], "length": [128, 256]},
        folder=folder,
    )
    ours, theirs = loaded.points(), made.points()
    # Two models, three texts, and a variable in both machine and rule has one value.
    assert len(ours) == 2 * 3 * (4 + 4 * 2 + 4 * 2 * 2 + 3 * 2)
    for one, other in zip(ours, theirs, strict=True):
        assert one.setting == other.setting
        assert (one.model, one.source, one.reference) == (
            other.model,
            other.source,
            other.reference,
        )
        assert (one.labels, one.variables) == (other.labels, other.variables)


def test_files_are_looked_for_beside_the_study(folder):
    text = TOML.replace('"{length}"', "128").replace("of {length}", "")
    models, sources = {}, {}
    for point in load(folder, text).points():
        models[point.labels["model"]] = point.model
        sources[point.labels["text"]] = point.source.source
    assert models == {"embedded": "embedded", "mine": str(folder / "mine")}
    assert sources == {"held-out": "held-out", "mine ": str(folder / "text.txt")}
    assert point.reference.name == "bf16"


def test_places_do_not_depend_on_where_a_worker_is(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (point,) = Study("a", models=["mine"], texts=["text.txt"]).points()
    assert (point.model, point.source.source) == (str(folder / "mine"), str(folder / "text.txt"))


def test_a_rule_may_have_an_amount_for_each_of_several_precisions(folder):
    (folder / "three.toml").write_text('name = "three"\nrecomputed = ["e8m10", "float32"]')
    text = """
        name = "a"
        hardware = ["three.toml"]
        lamp = ["softmax:tv:{mid}%,1%+logits:tv:0.1,0.2"]
        grid = {mid = [2, 5]}
        """
    points = load(folder, text).points()
    assert [point.setting.lamp[0].budget for point in points] == [(0.02, 0.01), (0.05, 0.01)]
    assert {point.setting.lamp[1].tau for point in points} == {(0.1, 0.2)}


def test_a_grid_may_have_numbers_of_numpy():
    grid = {"mu": np.arange(2, 5, 2), "tau": [np.float64(1.5)]}
    hardware, rules = ["scores-ps{mu}"], ["softmax:normwise:{tau}"]
    study = Study("a", hardware=hardware, lamp=rules, grid=grid)
    assert study.grid == {"mu": [2, 4], "tau": [1.5]}
    assert json.loads(json.dumps(study.record()["grid"])) == study.grid
    assert settings(study) == ["scores-ps2+softmax:normwise:1.5", "scores-ps4+softmax:normwise:1.5"]


def test_a_text_has_the_values_of_its_variables_as_numbers():
    text = {"source": "a-{seed}.txt", "length": "{length}", "shuffled": True, "seed": "{seed}"}
    study = Study("a", texts=[text], grid={"length": [64], "seed": [3, 4]})
    sources = [point.source for point in study.points()]
    assert [(each.length, each.seed, each.name) for each in sources] == [
        (64, 3, "a-3.txt, shuffled"),
        (64, 4, "a-4.txt, shuffled"),
    ]


def test_objects_do_for_names():
    machine = lamp.Hardware("mine", scores="e8m4")
    rules = [LAMP("norm", budget=0.01), LAMP(tau=1.2)]
    study = Study("a", hardware=[machine], lamp=[None, LAMP(tau=1.5), rules, ()])
    points = study.points()
    assert [point.labels["lamp"] for point in points] == [
        "none",
        "softmax:normwise:1.5",
        "norm:norm:1%+softmax:normwise:1.2",
    ]
    assert all(point.setting.hardware is machine for point in points)
    assert points[-1].setting.lamp == tuple(rules)


def test_what_is_said_twice_is_run_once():
    study = Study("a", hardware=["scores-ps4", "scores-ps{mu}"], grid={"mu": [4, 2]})
    assert settings(study) == ["scores-ps4", "scores-ps2"]


MACHINES = ["scores-ps{a}", "scores-ps{b}", "scores-ps{c}", "scores-ps2", "fp32"]
RULES = ["none", *(f"softmax:normwise:1.{x}" for x in ("{a}", "{b}", "{c}{a}", "2", "{a}{b}"))]
NAMES = ["x", "x{a}", "x1", "{b}1"]


@pytest.mark.parametrize("seed", range(30))
def test_points_that_a_study_names_twice_come_once_where_they_come_first(seed):
    """However entries and values come to the same labels; against a list of all labels."""
    draw = random.Random(seed)
    machines, rules, names = (
        [draw.choice(entries) for _ in range(draw.randint(1, 3))]
        for entries in (MACHINES, RULES, NAMES)
    )
    texts = [{"source": "held-out", "tokens": 16, "name": name} for name in names]
    entries = [machines, rules, names]
    grid = {
        variable: [draw.choice([1, 2, 11, 21]) for _ in range(draw.randint(1, 3))]
        for variable in "abc"
        if f"{{{variable}}}" in str(entries)
    }
    study = lamp.Study("study", texts=texts, hardware=machines, lamp=rules, grid=grid)
    expected = []
    for name, machine, rule in itertools.product(names, machines, rules):
        used = [variable for variable in grid if f"{{{variable}}}" in name + machine + rule]
        for values in itertools.product(*(grid[variable] for variable in used)):
            known = dict(zip(used, values, strict=True))
            labels = tuple(entry.format(**known) for entry in (name, machine, rule))
            if labels not in [other for other, _ in expected]:
                expected.append((labels, known))
    for _ in range(2):  # the second time all labels are known from the beginning
        assert [
            (tuple(point.labels[part] for part in ("text", "hardware", "lamp")), point.variables)
            for point in study.walk()
        ] == expected


def test_a_machine_is_read_once_however_its_file_changes(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(machine_files.dumps(lamp.hardware("bf16")))
    study = lamp.Study("study", hardware=["mine.toml"], folder=tmp_path)
    (point,) = study.points()
    file.write_text(machine_files.dumps(lamp.hardware("fp32")))
    assert [each.setting for each in study.walk()] == [point.setting]
    (other,) = replace(study).points()
    assert other.setting != point.setting


def test_a_study_can_be_written_down_as_json(folder):
    text = TOML.replace("seed = [0, 7]", "seed = [0, 7]\nlength = [128, 256]")
    record = load(folder, text).record()
    assert json.loads(json.dumps(record)) == record
    assert record["grid"] == {"mu": [2, 4], "tau": [1.5, 1.2], "seed": [0, 7], "length": [128, 256]}
    assert record["texts"][0] == {"source": "held-out", "tokens": 2048}
    made = Study("a", texts=[Source()], hardware=[lamp.hardware("bf16")], lamp=[LAMP(tau=1.5)])
    assert json.loads(json.dumps(made.record()))["hardware"] == ["bf16"]


# --- what is wrong with them ----------------------------------------------------------------------

GOOD = 'name = "a"\nhardware = ["ps{mu}"]\n[grid]\nmu = [2, 4]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name =", "study.toml is not TOML: .*line 1"),
        ('hardware = ["fp32"]', "study.toml: a study needs a name"),
        ("name = 7", "line 1: name must be a string, not 7"),
        ('\nnam = "a"', r"line 2: unknown key 'nam' - did you mean 'name'\?"),
        ('name = "a"\n\nhardware = []', "line 3: hardware must be a list with at least one entry"),
        (
            'name = "a"\nhardware = "fp32"',
            "line 2: hardware must be a list with at least one entry",
        ),
        ('name = "a"\nlamp = [\n"none",\n7]', "line 2: "),
        (
            'name = "a"\nhardware = [\n  "fp32",\n  "scroes-ps4",\n]',
            "line 4: unknown hardware 'scroes-ps4': did you mean",
        ),
        ('name = "a"\nhardware = ["fp32", "x.toml"]', "line 2: no hardware file '.*x.toml'"),
        ('name = "a"\nhardware = [\n"bad.toml"]', r"line 3: .*bad\.toml, line 2: unknown key 'q'"),
        ('name = "a"\nreference = "fp63"', "line 2: unknown hardware 'fp63'"),
        (
            'name = "a"\nlamp = [\n"none",\n"softmax:tv"]',
            "line 4: 'softmax:tv' is not PLACE:RULE:AMOUNT",
        ),
        (
            'name = "a"\nlamp = ["softmax:normwise:3"]',
            r"line 2: .*tau of normwise must lie in \(1, 2\], not 3",
        ),
        (
            'name = "a"\nlamp = ["softmax:tv:1%+softmax:tv:2%"]',
            "line 2: there are two rules for softmax",
        ),
        (
            'name = "a"\nlamp = ["none", "softmax:tv:2%,1%"]',
            "line 2: fp32 recomputes by one product, so that a rule takes as many amounts, not 2",
        ),
        (GOOD.replace("ps{mu}", "ps{nu}"), "line 2: unknown variable 'nu': the grid has mu"),
        (GOOD.replace("ps{mu}", "ps4"), "line 4: no entry uses the variable 'mu'"),
        (GOOD.replace("[2, 4]", "2"), r"line 4: mu of \[grid\] must be a list of values"),
        (GOOD.replace("[2, 4]", "[]"), r"line 4: mu of \[grid\] must be a list of values"),
        (GOOD.replace("[2, 4]", "[[2]]"), r"line 4: mu of \[grid\] must have numbers or strings"),
        (GOOD.replace("[2, 4]", "[inf]"), "must have numbers or strings, not inf"),
        (GOOD.replace("[2, 4]", "[2, 44]"), "line 2: unknown hardware 'ps44'"),
        ('name = "a"\ngrid = 7', "line 2: grid must be a table of lists"),
        (
            'name = "a"\n[[texts]]\nsource = "a"\n[[texts]]\n\nsorce = "b"',
            r"line 6: unknown key 'sorce' of \[texts\] - did you mean 'source'\?",
        ),
        (
            'name = "a"\n[[texts]]\nsource = "a"\n[[texts]]\ntokens = 0',
            "line 4: tokens must be a positive integer, not 0",
        ),
        (
            'name = "a"\n[[texts]]\ntokens = 5\n[[texts]]\ntokens = 6',
            "line 4: two texts are called 'held-out': name one differently",
        ),
        ('name = "a"\ntexts = ["a", "{b}"]', "line 2: unknown variable 'b': the grid has no var"),
        ('name = "a"\ntexts = [7]', "line 2: a text is a Source, a name or a table, not 7"),
        ('name = "a"\nmodels = ["a"]\nmodel = "b"', "line 3: unknown key 'model'"),
    ],
)
def test_errors_name_the_line(folder, text, message):
    (folder / "bad.toml").write_text("name = 'x'\nq = 1\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load(folder, text).points()
    assert "study.toml" in str(caught.value)


def test_a_missing_study_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no study file '.*study\.toml'"):
        Study.load(tmp_path / "study.toml")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "name must be a string, not ''"),
        ({"models": "embedded"}, "models must be a list"),
        ({"hardware": [7]}, "hardware must be a Hardware or a name, not int"),
        ({"lamp": [7]}, "lamp must be a LAMP, several, a string or None, not 7"),
        ({"models": [7]}, "a model is a name or a path, not 7"),
        ({"texts": [{"tokens": 4, "lenght": 2}]}, "unknown field 'lenght': expected source"),
        (
            {"grid": {"mu": [True]}, "hardware": ["ps{mu}"]},
            "must have numbers or strings, not True",
        ),
        ({"hardware": [lamp.Hardware("fp32", scores="e8m4"), "fp32"]}, "two hardware are called"),
    ],
)
def test_errors_of_objects_name_no_file(fields, message):
    with pytest.raises(ValueError, match=message):
        Study(**{"name": "a", **fields}).points()


def test_equal_numbers_of_a_grid_are_one():
    def labels(*values):
        study = Study(
            "s",
            texts=[{"source": "held-out", "tokens": np.int64(64)}],
            hardware=["scores-ps{mu}"],
            lamp=["softmax:tv:{mu}"],
            grid={"mu": values},
        )
        json.dumps(study.record())
        return [(point.labels["hardware"], point.labels["lamp"]) for point in study.points()]

    expected = [("scores-ps2", "softmax:total_variation:2.0")]
    for values in ([2], [2.0], [np.int64(2)], [np.float32(2)], [2, 2.0], [2.0, 2]):
        assert labels(*values) == expected
