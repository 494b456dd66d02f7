"""Reports of machines that differ by layer: a map of how each step is computed where."""

import json

import lamp
from lamp import reports
from lamp.machines import files
from lamp.reports import charts, figures, layer_maps, pictures, svg
from lamp.studies import Result, Run, Store
from lamp.studies.runs import now

TITLE = "Machines by layer"
METRICS = lamp.Metrics(8, 0.5, 0.0, 1.0, 1.0, 0.0, (), {}, 0.0)


def shown(*machines):
    """The pictures of machines, by their names."""
    layered = {machine.name: machine for machine in machines}
    study = reports.Results("s", "s", {}, (), {}, layered=layered)
    return {picture.title: picture for picture in layer_maps.maps(study)}


def cells(picture):
    """What a map says of each step, by the names of its columns."""
    with figures.style(10):
        sheet = picture.draw()
    columns = [tick.get_text() for tick in sheet.axes.get_xticklabels()]
    said = {}
    for classes, tooltips in sheet.marked.values():
        if classes == "cells":
            step = tooltips[0].split("\n")[1].partition(",")[0]
            said[step] = [tooltip.rpartition(": ")[2] for tooltip in tooltips]
            where = [tooltip.rpartition(": ")[0].rpartition(", ")[2] for tooltip in tooltips]
            assert [place.removeprefix("layer ") for place in where] == columns
    return columns, said


def test_a_map_has_the_steps_that_differ_and_layers_that_are_alike_together():
    (picture,) = shown(lamp.hardware("ps7@0-2,4,-2--1.scores=ps4@5.norm=bf16")).values()
    columns, said = cells(picture)
    assert columns == ["0-2", "4", "5", "rest", "-2--1"]
    low, high = "e8m4 sums", "e8m7 sums"
    assert said["scores"] == [low, low, high, high, low]
    wide, narrow = "in float64 -> float32 (rne)", "in float64 -> bfloat16 (rne)"
    assert said["norm"] == [wide, wide, narrow, wide, wide]
    assert [*said] == ["norm", "scores"]


def test_equal_steps_have_one_color_in_all_maps():
    found = shown(
        lamp.hardware("hopper-fp8@0=bf16"),
        lamp.hardware("ps7@0=ps4"),
        lamp.hardware("bf16@-1=hopper-fp8"),
    )
    colors = {}
    for picture in found.values():
        for entry in picture.legend:
            assert colors.setdefault(entry.text, entry.color) == entry.color
    assert len(set(colors.values())) == len(colors)
    first, _, last = (cells(picture)[1] for picture in found.values())
    assert first["qkv"] == last["qkv"]


def test_labels_tell_steps_apart_by_more_where_few_words_do_not():
    machine = lamp.Hardware("m", scores="e8m4", values="e8m4")
    wide = lamp.Product("e8m4", output="float32")
    assert machine.scores.output != wide.output
    (picture,) = shown(machine.with_layers({0: {"scores": wide}}, "m")).values()
    assert cells(picture)[1] == {"scores": ["e8m4 sums -> float32", "e8m4 sums -> e8m4"]}
    tiled = {0: {"attention": lamp.Tiled(), "weights": "bfloat16", "recomputed": ["e8m7", "e8m10"]}}
    (picture,) = shown(machine.with_layers(tiled, "m")).values()
    said = cells(picture)[1]
    assert said["weights"] == ["stored in bfloat16", "stored in float32"]
    assert said["attention"][1] == "by rows"
    assert " / " in said["recomputed"][0]


def test_options_have_their_own_colors_beside_cells_without_one():
    options = [f"option {number}" for number in range(9)]
    rows = {"qkv": [float("nan"), 0, 1, 8], "scores": [2, 3, 4, 5]}
    with figures.style(10):
        sheet = figures.heat_map([figures.Block("m", "m", rows, options)])
        samples = [figures.handle(figures.Entry("o", i, role="option")) for i in range(9)]
    palette = [tuple(sample.get_markerfacecolor()) for sample in samples]
    assert len(set(palette)) == 9
    found = []
    for mesh in sheet.axes.collections:
        mesh.update_scalarmappable()
        found += map(tuple, mesh.get_facecolor().tolist())
    assert found[0] not in palette
    assert found[1:] == [palette[i] for i in (0, 1, 8, 2, 3, 4, 5)]


def stored(path, machines, definition=()):
    with Store.open(path, write=True) as store:
        labels = [each if isinstance(each, str) else each[0] for each in machines]
        runs = [Run(f"k{i}", "m", "t", label, "none", "fp64") for i, label in enumerate(labels)]
        store.plan("s", {"name": "s", **dict(definition)}, runs)
        for run, each in zip(runs, machines, strict=True):
            text = files.dumps(lamp.hardware(each)) if isinstance(each, str) else each[1]
            done = Result(METRICS, 1.0, now(), now(), {})
            store.finish(run.key, json.dumps({"hardware": text}), done)
    (found,) = reports.read(path)
    return found


def test_a_report_shows_the_machines_of_its_runs_that_differ_by_layer(tmp_path):
    unknown = "mine", '[layers.0.scores]\naccumulator = {kind = "nowhere:Own"}\n'
    machines = ["ps7", "ps7@0=ps4", "fp64@3.scores=ps4", unknown]
    study = stored(tmp_path / "s.sqlite", machines)
    assert [*study.layered] == ["ps7@0=ps4"]
    assert lamp.machines.digest(study.layered["ps7@0=ps4"]) == lamp.machines.digest(
        lamp.hardware("ps7@0=ps4")
    )
    (chart,) = (each for each in charts.charts(study) if each.title == TITLE)
    (picture,) = chart.pictures
    assert [entry.text for entry in chart.legend] == ["e8m4 sums", "e8m7 sums"]
    assert {entry.pick for entry in chart.legend} == {""}
    drawn = svg.picture(picture)
    assert "scores, layer 0: e8m4 sums</title>" in drawn
    assert "fill:var(--c0)" in drawn
    written = pictures.write_pictures([study], tmp_path / "svg", "svg")
    (file,) = (each for each in written if "machine" in each.name)
    assert "e8m7 sums" in file.read_text("utf-8")


def test_what_tuning_chose_is_not_shown_twice(tmp_path):
    study = stored(tmp_path / "s.sqlite", ["ps7@0=ps4"], {"menu": {}})
    assert study.is_stage
    assert study.layered == {}
