"""`lamp depth`: errors of the residual stream by layer, in numbers, as a table and as files."""

import csv
import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

import lamp
from lamp.cli.application import app
from lamp.models import DepthMap
from lamp.reports import depths
from tests.lamp.tiny_studies import TEXT, save_checkpoint

MACHINES = ["bf16", "scores-ps2+softmax:tv:1%"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("depth")
    save_checkpoint(place / "model")
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    return place


def call(folder, *arguments):
    given = ["--model", folder / "model", "--text", folder / "text.txt", "--tokens", 30]
    runner = CliRunner()
    return runner.invoke(app, list(map(str, ["depth", *arguments, *given, "--length", 16])))


@pytest.fixture(scope="module")
def expected(folder):
    """Two windows, one behind the other."""
    model = lamp.from_pretrained(folder / "model")
    tokens = model.encode(TEXT)[:30]
    rule = lamp.LAMP.parse("softmax:tv:1%")
    models = model.with_hardware("bf16"), model.with_hardware("scores-ps2", rule)
    return [
        np.hstack([each.depth_map(part).relative for part in (tokens[:16], tokens[16:])])
        for each in models
    ]


def test_the_command_prints_medians_and_writes_what_they_are_from(folder, expected, tmp_path):
    result = call(folder, *MACHINES, "--json", "--output", tmp_path / "depth.csv")
    runs = json.loads(result.stdout)["runs"]
    names = ["bf16", "scores-ps2+softmax:total_variation:1%"]
    assert [run["hardware"] for run in runs] == names
    for run, relative in zip(runs, expected, strict=True):
        low, middle, high = np.quantile(relative, [0.1, 0.5, 0.9], axis=1).tolist()
        assert (run["low"], run["median"], run["high"]) == (low, middle, high)
    with (tmp_path / "depth.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 3 * 30
    found = [float(line["error"]) / float(line["size"]) for line in lines]
    np.testing.assert_array_equal(np.reshape(found, (2, 3, 30)), expected)
    lines = call(folder, "bf16").stdout.splitlines()
    # Sentences are wrapped where the name of the directory ends: a line may be a number alone.
    table = [line for line in lines if re.fullmatch(r" *\d+ +\S+e\S+", line)]
    medians = np.median(expected[0], axis=1)
    assert [line.split() for line in table] == [
        [str(layer), f"{median:.2e}"] for layer, median in enumerate(medians)
    ]


def test_pictures_have_a_line_for_each_machine(folder, tmp_path):
    errors = np.array([[0.0, 0.0], [1e-3, 2e-3], [np.nan, 1.0]])
    maps = {"a": DepthMap(errors, np.ones((3, 2))), "b": DepthMap(errors / 10, np.ones((3, 2)))}
    drawn = depths.picture(maps, "model · text")
    assert [entry.text for entry in drawn.legend[:2]] == ["a", "b"]
    marks = [own for classes, own in drawn.draw().marked.values() if classes.startswith("mark")]
    assert marks[0] == ["a\n0 layers: 0", "a\n1 layers: 1.50e-03", "a\n2 layers: NaN"]
    for kind, begins in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        path = tmp_path / f"depth.{kind}"
        assert call(folder, "bf16", "--output", path).exit_code == 0
        assert path.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bf16", "--output", "depth.gif"], "'depth.gif' ends in none of .csv, .png, .svg, .pdf"),
        (["bf17"], "unknown hardware 'bf17'"),
        (["bf16"] * 27, "expected 1 to 26 machines, not 27"),
    ],
)
def test_bad_usage_is_refused(folder, arguments, message):
    result = call(folder, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
