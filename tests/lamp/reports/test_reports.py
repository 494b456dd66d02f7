"""Reports: their numbers are the store's, whatever these are and whatever things are called."""

import base64
import csv
import functools
import hashlib
import html.parser
import io
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.markers import MarkerStyle
from PIL import Image

from fpemu._printing import clean
from fpemu.pictures import colors
from lamp import reports
from lamp.cli.application import main
from lamp.evaluation import Metrics, Sums
from lamp.integrations import Score, TaskResult
from lamp.lookahead import LAMP
from lamp.reports import (
    charts,
    console,
    exports,
    figures,
    numbers,
    papers,
    pictures,
    svg,
    tables,
)
from lamp.reports.page import _unbroken, page
from lamp.reports.quantities import FLIPS, KL, RATE, SHARE, described
from lamp.reports.runs import NONE, compared, front, rule
from lamp.reports.scales import Scale
from lamp.studies import Result, Run, Store, TaskRun
from lamp.studies.runs import now
from tests.lamp import canned_stores

METRICS = ("kl", "flip_rate", "perplexity", "recomputation_rate", "high_precision_share")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return canned_stores.write(tmp_path_factory.mktemp("stores") / "canned.sqlite")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A store with fewer charts, for what has to draw them again."""
    place = tmp_path_factory.mktemp("stores") / "few.sqlite"
    names = (canned_stores.MARKUP,), (canned_stores.QUOTED,)
    return canned_stores.write(place, 2, ("scores", "words"), *names)


@pytest.fixture(scope="module")
def page_of_one(few):
    return page(one_of(few)).encode()


def one_of(store):
    """A study of a store, with charts of every kind."""
    (study,) = (each for each in reports.read(store) if each.name == "scores")
    return [study]


@pytest.fixture(scope="module")
def studies(path):
    return reports.read(path)


@pytest.fixture(scope="module")
def study(studies):
    return studies[0]


@pytest.fixture(scope="module")
def written(canned_page):
    return canned_page.read_bytes().decode()


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


class Tree(html.parser.HTMLParser):
    """An HTML document as nested (tag, attributes, children), strict about nesting."""

    EMPTY = ("meta", "link")

    def __init__(self, text):
        super().__init__()
        self.root = ("", {}, [])
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert len(self._open) == 1, f"not closed: {self._open[-1][0]}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute of {tag} twice: {names}"
        node = (tag, dict(attrs), [])
        self._open[-1][2].append(node)
        if tag not in self.EMPTY:
            self._open.append(node)

    def handle_endtag(self, tag):
        assert self._open[-1][0] == tag, f"</{tag}> within <{self._open[-1][0]}>"
        self._open.pop()

    def handle_data(self, data):
        self._open[-1][2].append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


def every(node, tag, style=None):
    """All elements of a tag, and of a class if one is given."""
    for child in node[2]:
        if not isinstance(child, str):
            if child[0] == tag and (style is None or style in child[1].get("class", "").split()):
                yield child
            yield from every(child, tag, style)


def text(node):
    return "".join(child if isinstance(child, str) else text(child) for child in node[2])


@pytest.fixture(scope="module")
def tree(written):
    return Tree(written).root


# --- the page -------------------------------------------------------------------------------------


def test_table_has_the_numbers_of_the_store(tree, path):
    tables = list(every(tree, "table", "runs"))
    with Store.open(path) as store:
        assert len(tables) == len(store.studies()) == 2
        for table, name in zip(tables, store.studies(), strict=True):
            done = [record for record in store.runs(name) if record.state == "done"]
            rows = list(every(next(every(table, "tbody")), "tr"))
            assert len(done) > 50
            assert any(math.isnan(record.metrics.kl) for record in done)
            for record, row in zip(done, rows, strict=True):
                check_row(record, list(every(row, "td")))


def check_row(record, cells):
    member = record
    labels = [text(cell) for cell in cells[1:5]]
    assert labels == [*map(clean, (member.model, member.text, member.hardware, member.lamp))]
    given = [record.position, *(getattr(record.metrics, name) for name in METRICS), record.seconds]
    for value, cell in zip(given, [cells[0], cells[5], *cells[7:12]], strict=True):
        assert same(float(cell[1]["data-v"]), value)
    shown = text(cells[5])
    assert shown == ("NaN" if math.isnan(given[1]) else "∞" if given[1] > 1e9 else shown)
    assert ("bad" in cells[5][1]["class"]) == (not math.isfinite(given[1]))
    if math.isfinite(given[1]):
        assert float(shown) == pytest.approx(given[1], rel=5e-3)
    assert same(float(cells[6][1]["data-v"]), record.metrics.kl_error)
    assert float(text(cells[9]).rstrip("%")) == pytest.approx(100 * given[4], rel=1e-2, abs=5e-4)


def test_runs_that_differ_in_their_seeds_are_grouped():
    """The interval of a mean over seeds, which are its clusters."""

    def run(position, seed, kl, text="a", tau=1.2):
        lamp = f"softmax:random:{tau}" + (f":seed={seed}" if seed else "")
        variables = {"tau": tau, "seed": seed}
        metrics = Metrics(9, kl, kl / 10, 1.0, 1.0, 0.1, (), {}, 0.0)
        labels = "m", text, "ps4", lamp, "fp64"
        return Run(f"{position}", *labels, variables, "s", position, "done", metrics, seconds=1.0)

    records = [run(0, 0, 1.0), run(1, 1, 2.0), run(2, 2, 6.0), run(3, 0, 5.0, tau=1.5)]
    records += [run(4, 0, 8.0, text="b"), run(5, 1, 8.0, text="b")]
    study = reports.Results("store", "s", {}, tuple(records), {})
    (picture,) = (
        p for p in charts.charts(study)[0].pictures if p.title == "m · a" and p.kind == "kl-rate"
    )
    sheet = drawn(picture)
    assert sorted(mark[1] for mark in marks(sheet).values()) == [3.0, 5.0]
    ((low, high),) = (bar for bar in bars(sheet)["m0"] if bar[0][0] == bar[1][0])
    error = np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    assert (low[1], high[1]) == pytest.approx((3 - error, 3 + error))
    table = tables.seeds(study)
    assert table.same == [("model", "m"), ("hardware", "ps4"), ("look-ahead", "softmax:random:1.2")]
    first, second = ([cell.text for cell in row] for row in table.rows)
    assert first[:3] == ["a", "3", "3.00e+00"]
    low, high = (float(end) for end in first[3].split(" to "))
    reach = 4.302653 * np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    assert 3 - reach < 0  # and no divergence is: the interval is cut
    assert (low, high) == pytest.approx((0.0, 3 + reach), rel=5e-3)
    assert second[:4] == ["b", "2", "8.00e+00", "8.00e+00 to 8.00e+00"]
    assert not tables.seeds(reports.Results("store", "s", {}, tuple(records[3:5]), {})).items


def test_runs_are_compared_with_their_baseline_cluster_by_cluster(study):
    found = list(compared(study.records))
    groups = {}
    for run in study.done:
        groups.setdefault((run.model, run.text, run.hardware), []).append(run)
    expected = {}
    for group in groups.values():
        first = next((run for run in group if run.lamp == NONE), group[0])
        expected |= {run.position: first for run in group if run is not first}
    assert {each.run.position: each.baseline for each in found} == expected
    assert {each.baseline.lamp == NONE for each in found} == {True, False}
    finite = 0
    for each in found:
        a, b = (
            np.array([s.kl for s in run.metrics.sums]) / 64 for run in (each.baseline, each.run)
        )
        value = np.mean(b - a)
        assert same(each.found.kl.value, pytest.approx(value, nan_ok=True)) or math.isnan(value)
        if np.isfinite(a).all() and np.isfinite(b).all() and a.all() and b.all():
            finite += 1
            factor = np.mean(b) / np.mean(a)
            assert each.found.kl.error == pytest.approx(np.std(b - a, ddof=1) / 4)
            error = np.std(b - factor * a, ddof=1) / 4 / np.mean(a)
            assert (each.found.factor.value, each.found.factor.error) == pytest.approx(
                (factor, error)
            )
            low, high = each.found.factor.factor_interval()
            reach = 2.131450 * error / factor
            assert (low, high) == pytest.approx((factor * np.exp(-reach), factor * np.exp(reach)))
        sums = zip(each.baseline.metrics.sums, each.run.metrics.sums, strict=True)
        flips = [b.flips - a.flips for a, b in sums]
        assert each.found.flips.value == pytest.approx(np.mean(flips) / 64)
    assert finite > 30


def test_runs_without_sums_or_on_other_windows_are_not_compared(study):
    done = study.done[:3]
    other = [
        replace(done[1].metrics, sums=()),
        replace(done[2].metrics, sums=done[2].metrics.sums[1:]),
    ]
    changed = (done[0], *(replace(r, metrics=m) for r, m in zip(done[1:], other, strict=True)))
    assert len({run.hardware for run in done}) == 1
    assert len(list(compared(done))) == 2
    assert not list(compared(changed))


def test_comparisons_stand_on_the_page(study, tree):
    table = next(every(tree, "table", "compared"))
    rows = [list(every(row, "td")) for row in every(next(every(table, "tbody")), "tr")]
    for each, cells in zip(compared(study.records), rows, strict=True):
        labels = [clean(getattr(each.run, name)) for name in ("model", "text", "hardware", "lamp")]
        assert [text(cell) for cell in cells[:5]] == [*labels, clean(each.baseline.lamp)]
        for cell, value in ((cells[5], each.found.factor.value), (cells[7], each.found.kl.value)):
            assert same(float(cell[1]["data-v"]), value)
        shown = text(cells[6])
        assert shown == "" or all(float(end.replace("∞", "inf")) > 0 for end in shown.split(" to "))


def test_front_of_the_table_is_that_of_brute_force(tree, path):
    with Store.open(path) as store:
        done = [record for record in store.runs("scores") if record.state == "done"]
    groups = {}
    for record in done:
        member = record
        groups.setdefault((member.model, member.text, member.hardware), []).append(record)
    expected = {record.position for group in groups.values() for record in brute_front(group)}
    table = next(every(tree, "table", "runs"))
    rows = [list(every(row, "td")) for row in every(next(every(table, "tbody")), "tr")]
    assert {int(row[0][1]["data-v"]) for row in rows if text(row[12]) == "◆"} == expected
    assert len(done) > len(expected) > 20


def brute_front(records):
    points = [(r.metrics.recomputation_rate, r.metrics.kl) for r in records]
    for i, (x, y) in enumerate(points):
        beaten = any(
            u <= x and v <= y and ((u, v) != (x, y) or j < i)
            for j, (u, v) in enumerate(points)
            if j != i
        )
        if math.isfinite(y) and not beaten:
            yield records[i]


def test_states_are_counted_and_failures_explained(tree, path):
    sections = list(every(tree, "section"))
    with Store.open(path) as store:
        for section, name in zip(sections, store.studies(), strict=True):
            counts, records = store.counts(name), store.runs(name)
            state = text(next(every(section, "p", "state")))
            assert state.startswith(f"{counts.done} of {counts.total} runs done")
            assert f"{counts.failed} failed · {counts.missing} missing" in state
            finite = [r for r in records if r.state == "done" and math.isfinite(r.metrics.kl)]
            assert f" {counts.done - len(finite)} runs without a finite KL" in state
            (failure,) = every(next(every(section, "ul", "failures")), "p")
            assert text(failure) == canned_stores.ERROR
            listed = [
                text(item) for details in every(section, "details") for item in every(details, "li")
            ]
            assert Counter(listed) == Counter(
                clean(str(record)) for record in records if record.state != "done"
            )


def test_what_a_study_is_stands_on_the_page(tree):
    section = next(every(tree, "section"))
    names = [text(name) for name in every(section, "dt")]
    facts = dict(zip(names, map(text, every(section, "dd")), strict=True))
    assert facts["models"] == f"embedded, {canned_stores.MARKUP}"
    assert facts["texts"] == f"held-out, {clean(canned_stores.QUOTED)}"
    assert facts["hardware"].startswith("scores-ps{mu}, bf16")
    assert facts["grid"].startswith("mu = 2, 3, 4; share = <script>")
    assert facts["all runs"] == "reference fp64, tokens 1,024, windows 1"
    assert facts["when"].startswith("2026-01-01 00:30 to 2026-01-28 23:30 UTC, ")
    assert "here, 2 cores, 2 threads, 16 GiB, numpy 2.4" in facts["where"]
    assert 'nested {"b": [1, 2]}' in facts["where"]


@pytest.mark.parametrize(
    ("sentence", "numbers_"),
    [
        ("by 1.64e-12 ± 6.1e-14 nats, and ps3 most.", ["1.64e-12 ± 6.1e-14"]),
        (
            "KL 1.89e-03 [1.82e-03, 1.95e-03], 23% of it.",
            ["1.89e-03", "1.82e-03", "1.95e-03", "23"],
        ),
        ("on hopper-fp8@0,-1=bf16: -0.245 ± 0.030, to 0.415.", ["-0.245 ± 0.030", "0.415"]),
        ("<b>none</b> & e-05", []),
    ],
)
def test_no_line_ends_within_a_number(sentence, numbers_):
    written = _unbroken(sentence)
    root = Tree(f"<p>{written}</p>").root
    assert text(root) == sentence
    assert [text(each) for each in every(root, "span", "number")] == numbers_


def test_labels_are_text_whatever_they_look_like(written, tree):
    assert [node[1] for node in every(tree, "script")] == [{}]
    assert not list(every(tree, "img"))
    assert "alert(" not in text(next(every(tree, "script")))
    assert len(list(every(tree, "title"))) > 100
    titles = {text(title) for title in every(next(every(tree, "body")), "title")}
    assert any(canned_stores.MARKUP in title for title in titles)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", written)
    written.encode()


def test_page_is_whole_and_fetches_nothing(written, tree):
    assert written.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "http:" not in written
    assert "https:" not in written
    assert "@import" not in written
    assert "url(" not in written
    attributes = [pair for node in walk(tree) for pair in node[1].items()]
    assert not [value for name, value in attributes if name in ("src", "srcset", "xlink:href")]
    links = {value for name, value in attributes if name == "href"}
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link for link in links if not link.startswith("#")} == {"data:,"}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def walk(node):
    for child in node[2]:
        if not isinstance(child, str):
            yield child
            yield from walk(child)


def test_only_the_script_of_the_page_may_run(written):
    (script,) = re.findall("<script>(.*)</script>\n</body>", written, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', written)
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy.partition("script-src")[2]


def test_same_store_gives_the_same_bytes(few, page_of_one):
    studies = one_of(few)
    program = (
        "import sys; from lamp import reports; from lamp.reports.page import page;"
        "study, = (each for each in reports.read(sys.argv[1]) if each.name == 'scores');"
        "sys.stdout.buffer.write(page([study]).encode())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "UTC-1"}  # here it is another
    command = [sys.executable, "-c", program, str(few)]
    again = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    assert again == page_of_one
    picture, *_ = charts.charts(studies[0])[0].pictures
    for kind in pictures.KINDS:
        assert pictures.painted(picture, kind) == pictures.painted(picture, kind)
    assert exports.as_parquet(studies) == exports.as_parquet(one_of(few))


def test_one_study_is_enough_for_charts_of_every_kind(few, studies):
    one, every_kind = (
        {picture.kind for s in found for chart in charts.charts(s) for picture in chart.pictures}
        for found in (one_of(few), studies)
    )
    assert one == every_kind


def test_study_without_results_has_a_page(tmp_path):
    place = tmp_path / "planned.sqlite"
    with Store.open(place, write=True) as store:
        labels = ("m", "t", "h", "none", "fp64")
        members = [Run(f"k{i}", *labels) for i in range(300)]
        store.plan("later", {"name": "later"}, members)
        store.plan("none", {}, [])
    root = Tree(page(reports.read(place))).root
    states = [text(state) for state in every(root, "p", "state")]
    assert states == ["0 of 300 runs done · 300 missing", "0 of 0 runs done"]
    assert not list(every(root, "svg", "chart"))
    assert not list(every(root, "table"))
    listed = [text(item) for item in every(next(every(root, "details")), "li")]
    assert listed == ["m, t: h"] * 200 + ["and 100 more"]
    assert not reports.write_pictures(reports.read(place), tmp_path / "pictures")


# --- charts ---------------------------------------------------------------------------------------


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 2.0, math.inf, math.nan])] * 2)))
def test_front_is_that_of_brute_force(points):
    finite = [(i, p) for i, p in enumerate(points) if all(map(math.isfinite, p))]
    expected = [
        i
        for i, (x, y) in finite
        if not any(u <= x and v <= y and ((u, v) != (x, y) or j < i) for j, (u, v) in finite)
    ]
    found = front(points)
    assert sorted(found) == sorted(expected)
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def drawn(picture):
    """The sheet of a picture."""
    with figures.style(10):
        return picture.draw()


def marks(sheet):
    """The marks of a sheet: place, class of color, class of shape, by tooltip."""
    found = {}
    for line in sheet.axes.lines:
        classes, tooltip = sheet.marked[line.get_gid()]
        if classes.startswith("mark "):
            for text, place in zip(tooltip, line.get_xydata().tolist(), strict=True):
                assert text not in found
                found[text] = (*place, *classes.split()[1:])
    return found


def lines(sheet, role):
    """The lines of a role: their classes and where they go."""
    return [
        (sheet.marked[line.get_gid()][0].split()[1], line.get_xydata().tolist())
        for line in sheet.axes.lines
        if sheet.marked[line.get_gid()][0].split()[0] == role
    ]


def bands(axis):
    """Where the bands of an axis have their middles, by name."""
    names = [text.get_text() for text in axis.get_minorticklabels()]
    return dict(zip(names, axis.get_minorticklocs(), strict=True))


def name_of_band(value):
    return "NaN" if math.isnan(value) else {math.inf: "∞", 0.0: "0"}.get(value)


@pytest.mark.parametrize("x", [RATE, SHARE])
@pytest.mark.parametrize("y", [KL, FLIPS])
def test_marks_are_where_their_numbers_are(study, x, y):
    found = charts.scatter(study, x, y)
    assert [picture.title for picture in found] == [pair.title for pair in study.pairs]
    for picture, pair in zip(found, study.pairs, strict=True):
        sheet = drawn(picture)
        placed = marks(sheet)
        assert len(placed) == len(pair.looked_ahead) > 15
        for record in pair.looked_ahead:
            mark = placed[described(record, y, x)]
            assert mark[2] == f"m{study.machines.index(record.hardware)}"
            assert mark[3] == f"r{study.rules.index(rule(record.lamp))}"
            for way, axis, quantity in ((0, sheet.axes.xaxis, x), (1, sheet.axes.yaxis, y)):
                value = quantity.value(record)
                low, high = axis.get_view_interval()
                assert axis.get_scale() == "log"
                assert low < mark[way] < high
                if (name := name_of_band(value)) is not None:
                    assert mark[way] == pytest.approx(bands(axis)[name], rel=1e-12)
                else:
                    assert mark[way] == value


def test_values_that_a_logarithmic_axis_has_no_place_for_are_beside_it(study):
    names = set()
    for picture, pair in zip(charts.scatter(study, RATE, KL), study.pairs, strict=True):
        axis = drawn(picture).axes.yaxis
        finite = [KL.value(r) for r in pair.records if 0 < KL.value(r) < math.inf]
        middles = bands(axis)
        names |= {*middles}
        assert {*middles} == {*map(name_of_band, map(KL.value, pair.records))} - {None}
        assert middles.get("0", 0) < min(finite)
        assert max(finite) < middles.get("∞", math.inf) <= middles.get("NaN", math.inf)
        ends = middles.get("0", 0), middles.get("∞", math.inf)
        assert all(ends[0] < place < ends[1] for place in axis.get_ticklocs())
    assert names == {"NaN", "∞", "0"}


def bars(sheet, role="bar"):
    """The ends of bars or the corners of bands, by class of color, as {((x, y), ...)}."""
    found = {}
    for artist in sheet.axes.collections:
        kind, color, *_ = sheet.marked.get(artist.get_gid(), ("", ()))[0].split() or ["", ""]
        if kind == role:
            parts = {tuple(map(tuple, path.vertices.tolist())) for path in artist.get_paths()}
            seen = {part for part in parts if len(set(part)) > 1}
            found.setdefault(color, set()).update(seen)
    return found


@pytest.mark.parametrize("y", [KL, FLIPS])
def test_bars_are_one_standard_error(study, y):
    for picture, pair in zip(charts.scatter(study, RATE, y), study.pairs, strict=True):
        sheet = drawn(picture)
        placed, expected = marks(sheet), {}
        bottom = min(sheet.axes.get_ylim())
        for run in pair.looked_ahead:
            x, _, color, _ = placed[described(run, y, RATE)]
            value, error = y.value(run), y.error(run)
            if 0 < value < math.inf and error > 0:
                ends = ((x, value - error), (x, value + error))
                expected.setdefault(color, set()).add(ends)
                assert bottom < value - error
        assert sum(map(len, expected.values())) > 10 or y is FLIPS
        found = bars(sheet)
        assert found.keys() == expected.keys()
        for color, ends in expected.items():
            np.testing.assert_allclose(sorted(found[color]), sorted(ends), rtol=1e-12)


def test_bars_end_with_the_axis_and_there_are_none_of_what_is_in_a_band():
    axis = Scale("x", [1.0, 2.0, 0.0], errors=[1.5, 0.1, 0.0])
    assert axis.low < 0.5
    low, high = axis.reach(1.0, 1.5)
    assert 1.0 - low == pytest.approx(axis.low)
    assert 1.0 + high == pytest.approx(2.5)
    assert axis.high > 2.5
    for value, error in [(x, 1.0) for x in (0.0, math.nan, math.inf)] + [
        (1.0, math.nan),
        (1.0, -1.0),
    ]:
        assert axis.reach(value, error) == (0.0, 0.0)


def test_lines_of_runs_without_look_ahead_have_bands_of_one_standard_error(study):
    for picture, pair in zip(charts.scatter(study, RATE, KL), study.pairs, strict=True):
        found = bars(drawn(picture), "band")
        expected = {}
        for run in pair.plain:
            if 0 < KL.value(run) < math.inf:
                ends = KL.value(run) - KL.error(run), KL.value(run) + KL.error(run)
                expected.setdefault(f"m{study.color(run)}", []).append(ends)
        assert found.keys() == expected.keys()
        for color, bands_ in expected.items():
            heights = sorted((min(y for _, y in c), max(y for _, y in c)) for c in found[color])
            np.testing.assert_allclose(heights, sorted(bands_), rtol=1e-12)


def test_runs_without_look_ahead_are_level_lines(study):
    for picture, pair in zip(charts.scatter(study, RATE, KL), study.pairs, strict=True):
        sheet = drawn(picture)
        levels = lines(sheet, "level")
        assert len(levels) == len(pair.plain) > 3
        heights = [places[0][1] for _, places in levels]
        assert all(places[0][1] == places[1][1] for _, places in levels)
        assert len(set(heights)) == len(heights)
        low, high = sheet.axes.get_ylim()
        for (color, _), height, record in zip(levels, heights, pair.plain, strict=True):
            assert color == f"m{study.machines.index(record.hardware)}"
            assert low < height < high
            if 0 < KL.value(record) < math.inf:
                assert height == KL.value(record)


def test_front_lines_go_through_the_runs_of_the_front_of_each_rule(study):
    several = 0
    for picture, pair in zip(charts.scatter(study, RATE, KL), study.pairs, strict=True):
        sheet = drawn(picture)
        placed = marks(sheet)
        groups = {}
        for record in pair.looked_ahead:
            groups.setdefault((study.color(record), study.shape(record)), []).append(record)
        expected = []
        for (color, _), group in groups.items():
            places = [placed[described(record, KL, RATE)][:2] for record in brute_front(group)]
            if len(places) > 1:
                expected.append((f"m{color}", sorted(map(list, places))))
        assert sorted(lines(sheet, "front")) == sorted(expected)
        several += len(expected)
    assert several > 3


def test_ladders_join_the_machines_of_a_family(study):
    found = charts.ladders(study)
    assert [picture.title for picture in found] == [pair.title for pair in study.pairs]
    for picture, pair in zip(found, study.pairs, strict=True):
        assert picture.kind == "ladder-mu"
        assert [entry.text for entry in picture.legend if entry.role == "path"] == ["scores-ps{mu}"]
        records = [r for r in pair.records if r.hardware.startswith("scores-ps")]
        sheet = drawn(picture)
        placed = marks(sheet)
        assert len(placed) == len(records)
        assert all(placed[described(r, KL)][0] == r.variables["mu"] for r in records)
        axis = sheet.axes.xaxis
        assert [text.get_text() for text in axis.get_ticklabels()] == ["2", "3", "4"]
        assert axis.get_label_text() == "mu, stored significand bits"
        paths = lines(sheet, "path") + lines(sheet, "front")
        assert sum(len(places) - 1 for _, places in paths) == sum(
            math.isfinite(a.metrics.kl) and math.isfinite(b.metrics.kl)
            for a, b in itertools.pairwise(sorted(records, key=lambda r: (r.lamp, r.position)))
            if a.lamp == b.lamp
        )


def test_speeds_are_in_a_row_for_each_machine_with_their_median(study):
    found = charts.speeds(study)
    assert [picture.title for picture in found] == [*study.labels("model")]
    for picture in found:
        records = [r for r in study.done if r.model == picture.title]
        sheet = drawn(picture)
        rows, medians = {}, [places for _, places in lines_of_medians(sheet)]
        for line in sheet.axes.lines:
            classes = sheet.marked[line.get_gid()][0].split()
            if classes[0] == "mark":
                rows.setdefault(classes[1], []).extend(line.get_xydata().tolist())
        assert len(rows) == len(medians) == len(study.machines)
        for i, machine in enumerate(study.machines):
            own = [r.metrics.tokens / r.seconds for r in records if r.hardware == machine]
            assert sorted(x for x, _ in rows[f"m{i}"]) == sorted(own)
            assert len({y for _, y in rows[f"m{i}"]}) == 1
            assert medians[i][0][0] == medians[i][1][0] == np.median(own)
            assert medians[i][0][1] < rows[f"m{i}"][0][1] < medians[i][1][1]


def lines_of_medians(sheet):
    for line in sheet.axes.lines:
        if sheet.marked[line.get_gid()][0] == "median":
            yield line, line.get_xydata().tolist()


def test_divergences_are_shown_by_machine_if_nothing_looks_ahead(study):
    plain = tuple(record for record in study.records if record.lamp == NONE)
    alone = reports.Results("s", "plain", study.definition, plain, {})
    found = charts.divergences(alone)
    assert not charts.divergences(study)
    assert [picture.title for picture in found] == [pair.title for pair in alone.pairs]
    for picture, pair in zip(found, alone.pairs, strict=True):
        sheet = drawn(picture)
        placed = marks(sheet)
        for record in pair.records:
            x, value = placed[described(record, KL)][0], KL.value(record)
            if (name := name_of_band(value)) is None:
                assert x == value
            else:
                assert x == pytest.approx(bands(sheet.axes.xaxis)[name], rel=1e-12)


def test_heat_maps_show_rates_and_are_few(study):
    found = charts.heat_maps(study)
    best = study.fronts(RATE.value, KL.value)
    assert [picture.title for picture in found] == [pair.title for pair in study.pairs]
    for picture, pair in zip(found, study.pairs, strict=True):
        sheet = drawn(picture)
        cells, strengths = {}, {}
        for mesh in sheet.axes.collections:
            tooltip = sheet.marked[mesh.get_gid()][1]
            cells |= dict(zip(tooltip, mesh.get_array().ravel().tolist(), strict=True))
            mesh.update_scalarmappable()
            strengths |= dict(zip(tooltip, mesh.get_facecolor()[:, 3].tolist(), strict=True))
        names = dict.fromkeys(
            tooltip.rpartition(", layer")[0].rpartition("\n")[0] for tooltip in cells
        )
        assert 1 < len(names) <= 12
        by_name = {f"{r.hardware} + {r.lamp}": r for r in pair.looked_ahead}
        assert all(by_name[name].position in best for name in names)
        assert cells == {
            f"{name}\n{step}, layer {layer}: {numbers.percent(rate)}": rate
            for name in names
            for step, row in by_name[name].metrics.step_rates.items()
            for layer, rate in enumerate(row)
        }
        ordered = [strengths[tooltip] for tooltip in sorted(cells, key=cells.__getitem__)]
        assert ordered == sorted(ordered)
        assert 0 <= ordered[0] < ordered[-1] <= 1


def test_nothing_recomputed_is_not_a_faint_color():
    rates = {"scores": (0.0, 1e-6, 1e-4, 1.0, math.nan), "lm_head": (0.0,)}
    with figures.style(10):
        sheet = figures.heat_map([figures.Block("run", "its rates", rates)])
        entries = figures.heat_scale("none", "all")
        scale_ = [tuple(figures.handle(entry).get_markerfacecolor()) for entry in entries]
    first, second = sheet.axes.collections
    for mesh in (first, second):
        mesh.update_scalarmappable()
    none, least, faint, all_, nan = map(tuple, first.get_facecolor().tolist())
    assert none == nan == tuple(second.get_facecolor()[0].tolist()) == scale_[0]
    assert least == faint == scale_[1] != none
    assert all_ == scale_[-1]
    assert [entry.text for entry in (entries[0], entries[-1])] == ["none", "all"]
    assert sheet.marked[first.get_gid()][1][0] == "run\nscores, layer 0: 0%"


def test_charts_have_titles_legends_and_words_for_who_cannot_see_them(tree):
    found = list(every(tree, "svg", "chart"))
    assert len(found) == 34
    for picture in found:
        assert picture[1]["role"] == "img"
        assert len(picture[1]["aria-label"]) > 30
    assert len(list(every(tree, "ul", "legend"))) == len(list(every(tree, "div", "charts"))) == 8


def test_every_mark_of_the_page_says_what_it_is(study, tree):
    shown = iter(every(next(every(tree, "section")), "svg", "chart"))
    for chart in charts.charts(study):
        for picture in chart.pictures:
            node = next(shown)
            assert node[1]["class"] == f"chart {picture.kind}"
            sheet = drawn(picture)
            tooltip = [clean(text) for _, texts in sheet.marked.values() for text in texts]
            assert Counter(map(text, every(node, "title"))) == Counter(tooltip)
            groups = [group for group in every(node, "g") if "mark" in group[1]["class"].split()]
            assert sum(len(list(every(group, "path"))) for group in groups) == len(marks(sheet))


def test_colors_of_figures_are_those_of_the_theme_of_the_page(written):
    figures_ = re.findall("<svg.*?</svg>", written, re.DOTALL)
    assert len(figures_) > 34  # with the samples of legends
    for figure in figures_:
        assert not re.search("#[0-9a-f]{3}", figure)
        names = set(re.findall(r"var\(--(\w+)\)", figure))
        assert names <= colors.LIGHT.keys()
        assert names or "chart" not in figure


def test_labels_that_no_font_has_letters_for_are_drawn():
    point = figures.Point(1.0, 1.0, 0, 0, "重み \ud800")
    rows = {"機械 \x00 $x^2$": [point]}
    across = Scale("x", [1.0], log=False)
    draw = functools.partial(figures.strips, across, rows)
    picture = figures.Picture("k", "重み", "s", (figures.Entry("語 \udcff", 0),), draw)
    assert "機械 \ufffd $x^2$" in svg.picture(picture)
    for kind in pictures.KINDS:
        assert pictures.painted(picture, kind)


NUMBERS = st.one_of(
    st.floats(0, 1e300), st.floats(1e-6, 1), st.sampled_from([0.0, 1.0, 5e-324, math.inf, math.nan])
)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.booleans(), st.booleans())
def test_every_value_has_a_place_on_an_axis(values, log, across):
    line = Scale("title", values, log=log, across=across)
    low, high = line.ends
    places = [line.place(value) for value in values]
    assert all(low <= place <= high and math.isfinite(place) for place in places)
    pairs = zip(values, places, strict=True)
    finite = [place for _, place in sorted(pair for pair in pairs if not math.isnan(pair[0]))]
    assert finite == sorted(finite)

    def share(value):
        if log:
            return math.log10(value / low) / math.log10(high / low)
        return (value - low) / (high - low)

    written = [share(tick) for tick in line.ticks]
    middles = [share(line.place(float(name.replace("∞", "inf")))) for name in line.bands]
    assert all(0 <= place <= 1 for place in written)
    for place, other in itertools.permutations(written + middles, 2):
        # Room is a share of the axis proper, which takes three quarters of it or more.
        assert abs(place - other) >= 0.55 * line.room or {place, other} <= {*middles}


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1e-6, 1.0], ["10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "0.01", "0.1", "1"]),
        ([1e-12, 1.0], ["10⁻¹²", "10⁻¹⁰", "10⁻⁸", "10⁻⁶", "10⁻⁴", "0.01", "1"]),
        ([0.011, 0.9], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
        ([3e-5], [f"{digits}·10⁻⁵" for digits in ("2.4", "2.6", "2.8", "3", "3.2", "3.4", "3.6")]),
    ],
)
def test_ticks_are_round_numbers(values, shown):
    line = Scale("title", values)
    assert [line.label(value) for value in line.ticks] == shown


def test_colors_and_shapes_can_be_told_apart():
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def contrast(a, b):
        low, high = sorted(map(luminance, (a, b)))
        return (high + 0.05) / (low + 0.05)

    assert colors.LIGHT.keys() == colors.DARK.keys()
    for theme in (colors.LIGHT, colors.DARK):
        hues = [theme[f"c{i}"] for i in range(colors.HUES)]
        assert len(set(hues)) == len(hues)
        assert f"c{colors.HUES}" not in theme
        for ground in (theme["paper"], theme["pale"]):
            assert all(contrast(hue_, ground) >= 3 for hue_ in hues)
            assert all(contrast(theme[name], ground) >= 4.5 for name in ("ink", "soft", "bad"))
            assert contrast(theme["accent"], ground) >= 4.5
    entries = [figures.Entry("x", i, 0) for i in range(2 * colors.HUES)]
    assert len(set(map(svg.swatch, entries))) == len(entries)
    shapes = [figures.Entry("x", None, i, "rule") for i in range(len(figures.SHAPES))]
    assert len(set(map(svg.swatch, shapes))) == len(shapes) == 8
    areas = [polygon_area(shape) for shape in range(len(shapes))]
    assert max(areas) < 1.9 * min(areas)


def polygon_area(shape):
    """The area of a mark, as it is drawn."""
    with figures.style(10):
        line = figures.handle(figures.Entry("x", 0, shape))
    marker = MarkerStyle(line.get_marker())
    path = marker.get_path().transformed(marker.get_transform())
    corners = (line.get_markersize() * path.to_polygons()[0]).tolist()
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    return abs(sum(x * v - y * u for (x, y), (u, v) in pairs)) / 2


@pytest.mark.parametrize(
    ("show", "number", "expected"),
    [
        (numbers.scientific, 1.23456e-5, "1.23e-05"),
        (numbers.scientific, math.nan, "NaN"),
        (numbers.scientific, math.inf, "∞"),
        (numbers.scientific, 0.0, "0"),
        (numbers.percent, 0.123456, "12.346%"),
        (numbers.percent, 1e-9, "1.0e-07%"),
        (numbers.percent, 0.0, "0%"),
        (numbers.percent, math.nan, "NaN"),
        (numbers.short_percent, 0.123456, "12.3%"),
        (numbers.short_percent, 0.00288, "0.288%"),
        (numbers.short_percent, 1.0, "100%"),
        (numbers.short_percent, 0.1, "10%"),
        (numbers.short_percent, 0.0, "0"),
        (numbers.short_percent, 1e-8, "10⁻⁶%"),
        (numbers.decimals, 12345.678, "12,345.678"),
        (numbers.decimals, 1e9, "1.000e+09"),
        (numbers.duration, 12.345, "12.3 s"),
        (numbers.duration, 150, "2 min"),
        (numbers.duration, 7260, "2 h 01 min"),
        (numbers.seconds, 99.994, "99.99"),
        (numbers.seconds, 12345.6, "12346"),
        (numbers.power, 2.5e-7, "2.5·10⁻⁷"),
        (numbers.power, 1e6, "10⁶"),
    ],
)
def test_numbers_are_short(show, number, expected):
    assert show(number) == expected


@pytest.mark.parametrize(
    ("lamp", "expected"),
    [
        ("none", "none"),
        ("softmax:normwise:1.5", "softmax:normwise"),
        ("softmax:random:1e+1%:seed=3", "softmax:random"),
        ("softmax:tv:1%:weights=abs+norm:norm:5%", "softmax:tv:weights=abs+norm:norm"),
        ("whatever: it is", "whatever: it is"),
    ],
)
def test_rules_are_settings_without_amounts(lamp, expected):
    assert rule(lamp) == expected


# --- files ----------------------------------------------------------------------------------------


def test_csv_round_trips(studies, path):
    lines = list(csv.DictReader(io.StringIO(exports.as_csv(studies).decode(), newline="")))
    with Store.open(path) as store:
        records = [record for name in store.studies() for record in store.runs(name)]
    comparisons = {(s.name, e.run.position): e for s in studies for e in compared(s.records)}
    assert len(comparisons) > 100
    for line, record in zip(lines, records, strict=True):
        member, metrics = record, record.metrics
        assert line["study"] == record.study
        assert int(line["position"]) == record.position
        assert line["state"] == record.state
        assert line["key"] == member.key
        for label in ("model", "text", "hardware", "lamp", "reference"):
            assert line[label] == getattr(member, label)
        for name in (*METRICS, "reference_perplexity", "tokens"):
            value = line[name]
            assert value == "" if metrics is None else same(float(value), getattr(metrics, name))
        assert line["seconds"] == ("" if record.seconds is None else repr(record.seconds))
        assert line["error"] == (record.error or "")
        assert line["mu"] == str(member.variables.get("mu", ""))
        known = comparisons.get((record.study, record.position))
        assert line["baseline"] == ("" if known is None else str(known.baseline.position))
        for name, estimate in (("kl_factor", "factor"), ("kl_more", "kl")):
            value = None if known is None else getattr(known.found, estimate)
            numbers_ = [line[name], line[f"{name}_error"]]
            assert numbers_ == ["", ""] if value is None else same(float(numbers_[0]), value.value)
        assert line["grid_tokens"] == str(member.variables.get("tokens", ""))
    assert {line["state"] for line in lines} == {"done", "failed", "missing"}


def of_task(hardware, right, position, *, state="done", answered=True):
    """A run of a task of 10 documents, the first ones of which are answered rightly."""
    documents = {i: float(i < right) for i in range(10)}
    scores = (
        Score("arc", "acc", "none", "1", 10, right / 10, 0.15, True, documents),
        Score("arc", "perplexity", "strict", "1", 10, 3.5, math.nan, None),
    )
    labels = "m", "arc, 0 shots", hardware, NONE, "fp64"
    run = TaskRun(f"k{position}", *labels, {"mu": 4}, "s", position, subject="s")
    return replace(run, state=state, result=TaskResult(scores, 5) if answered else None)


@pytest.fixture
def with_tasks(study):
    """A study with a run on a text between runs of a task."""
    run = replace(study.done[0], position=1, study="s", variables={"mu": 4})
    tasks = (
        of_task("fp64", 6, 0),
        of_task("ps4", 3, 2),
        of_task("ps2", 0, 3, state="failed", answered=False),
    )
    return reports.Results("store", "s", {"grid": {"mu": [4]}}, (run,), {}, tasks)


def test_exports_have_scores_of_tasks_beside_the_reference(with_tasks):
    written = exports.as_csv([with_tasks]).decode()
    lines = list(csv.DictReader(io.StringIO(written, newline="")))
    assert [line["position"] for line in lines] == ["0", "0", "1", "2", "2", "3"]
    assert [line["metric"] for line in lines] == ["acc", "perplexity", "", "acc", "perplexity", ""]
    exact, _, on_text, worse, unpaired, failed = lines
    differences = np.array([0.0] * 3 + [-1.0] * 3 + [0.0] * 4)
    expected = {
        "task": "arc", "text": "arc, 0 shots", "filter": "none", "documents": "10", "mu": "4",
        "higher_is_better": "True", "score": "0.3", "score_error": "0.15",
        "reference_score": "0.6", "reference_score_error": "0.15", "changed": "3",
        "not_finite": "5", "kl": "", "baseline": "",
    }  # fmt: skip
    assert {name: worse[name] for name in expected} == expected
    assert float(worse["score_more"]) == pytest.approx(differences.mean())
    error = differences.std(ddof=1) / np.sqrt(10)
    assert float(worse["score_more_error"]) == pytest.approx(error)
    assert (exact["score"], exact["reference_score"], exact["score_more"]) == ("0.6", "", "")
    assert (unpaired["score"], unpaired["reference_score"]) == ("3.5", "3.5")
    assert (unpaired["score_error"], unpaired["higher_is_better"]) == ("nan", "")
    assert (unpaired["filter"], unpaired["score_more"], unpaired["changed"]) == ("strict", "", "")
    assert (on_text["score"], on_text["not_finite"]) == ("", "")
    assert float(on_text["kl"]) == with_tasks.records[0].metrics.kl
    assert (failed["state"], failed["score"], failed["not_finite"]) == ("failed", "", "")


def test_data_frames_and_parquet_have_scores_too(with_tasks):
    pandas = pytest.importorskip("pandas", reason="pandas comes with datasets")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    found = with_tasks.to_pandas()
    read = pandas.read_csv(io.BytesIO(exports.as_csv([with_tasks])))
    assert list(found) == list(read)
    for name in ("score", "score_error", "reference_score", "score_more_error", "changed", "kl"):
        np.testing.assert_array_equal(found[name].astype(float), read[name].astype(float))
    means = found.pivot_table("score", "hardware", ["task", "metric"])
    assert means.loc["ps4", ("arc", "acc")] == 0.3
    table = parquet.read_table(io.BytesIO(exports.as_parquet([with_tasks])))
    types = {field.name: str(field.type) for field in table.schema}
    assert types["score_more"] == types["reference_score_error"] == "double"
    assert types["changed"] == types["not_finite"] == types["documents"] == "int64"
    assert (types["higher_is_better"], types["metric"]) == ("bool", "string")
    assert table.column("higher_is_better").to_pylist() == [True, None, None, True, None, None]


def test_every_column_of_exports_is_documented(with_tasks):
    described = exports.__doc__.partition("The columns:")[2]
    for name in set(exports.columns([with_tasks])) - {"mu"}:
        assert f"``{name.removesuffix('_error')}``" in described or name in Metrics.__doc__, name


def test_parquet_has_the_same_in_types(studies):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    table = parquet.read_table(io.BytesIO(exports.as_parquet(studies)))
    types = {field.name: str(field.type) for field in table.schema}
    assert list(types) == exports.columns(studies)
    assert types["kl"] == types["seconds"] == "double"
    assert types["mu"] == types["tokens"] == types["position"] == "int64"
    assert types["share"] == types["model"] == types["error"] == "string"
    for found, expected in zip(table.to_pylist(), exports.lines(studies), strict=True):
        for name, value in expected.items():
            if isinstance(value, str):
                value = value.encode("utf-8", "replace").decode()
            both = found[name], value
            assert both[0] == value or (both[0] is not None and same(*both)), name


def test_parquet_without_pyarrow_says_what_to_install(studies, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fpemu-lamp\[parquet\]'"):
        exports.as_parquet(studies)


def test_pictures_are_those_of_the_page(few, tmp_path):
    studies = one_of(few)
    files = reports.write_pictures(studies, tmp_path / "a" / "pictures")
    found = [chart for study in studies for chart in charts.charts(study)]
    drawings = [picture for chart in found for picture in chart.pictures]
    assert len(files) == len(drawings) == len(set(files)) == 6
    for file, picture in zip(files, drawings, strict=True):
        assert re.fullmatch(r"[\w.-]+\.png", file.name)
        with Image.open(file) as painted:
            pixels = np.asarray(painted)
        width, height = drawn(picture).figure.get_size_inches()
        assert pixels.shape[1] > 144 * width
        assert pixels.shape[0] > 130 * height
        assert len(np.unique(pixels[::3, ::3, :3] @ (1, 256, 65536))) > 20


def test_pictures_are_also_svg_and_pdf(studies, tmp_path):
    picture, *_ = charts.charts(studies[1])[0].pictures
    written = pictures.painted(picture, "svg").decode()
    shown = {node.text for node in ET.fromstring(written).iter() if node.text}
    assert {f"{picture.name} · {picture.title}", KL.title, RATE.title} <= shown
    assert {entry.text for entry in picture.legend} <= shown
    assert pictures.painted(picture, "pdf").startswith(b"%PDF")
    with pytest.raises(ValueError, match=r"kind='gif': expected png, svg, pdf"):
        reports.write_pictures(studies, tmp_path / "none", "gif")
    assert not list(tmp_path.iterdir())


def test_pictures_have_names_of_their_own(study):
    picture, *_ = charts.charts(study)[0].pictures
    first = pictures.file_name("a", picture, "png")
    second = f"{first.removesuffix('.png')}-2.png"
    assert pictures.file_name("a", picture, "png", [first]) == second
    assert pictures.file_name("a", picture, "png", [first, second]).endswith("-3.png")
    assert pictures.file_name("../..", picture, "svg").startswith("unnamed-kl-rate-")


# --- the command ----------------------------------------------------------------------------------


def run(capsys, *arguments):
    """The exit code, standard output and standard error of `lamp report`."""
    try:
        main(["report", *map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, " ".join(err.replace("│", " ").split())


def test_command_writes_the_page_beside_the_store(few, capsys, monkeypatch):
    monkeypatch.setattr(svg, "picture", lambda picture: picture.kind)  # a page below is whole
    code, out, _ = run(capsys, few)
    beside = few.with_suffix(".html")
    assert code == 0
    assert out.startswith(f"{beside}: ")
    assert beside.read_bytes() == page(reports.read(few)).encode()
    beside.unlink()


def test_command_writes_everything_that_is_asked_for(
    few, page_of_one, tmp_path, capsys, monkeypatch
):
    def named(picture, kind, chart):  # what is in pictures is tested above
        return f"{kind}: {chart}, {picture.title}".encode()

    monkeypatch.setattr(pictures, "painted", named)
    studies = one_of(few)
    drawn_ = [(c.title, p) for c in charts.charts(studies[0]) for p in c.pictures]
    kinds = ("output", "csv", "parquet", "png", "svg", "pdf")
    names = {option: tmp_path / f"x.{option}" for option in kinds} | {"tables": tmp_path / "x.tex"}
    options = [word for option, name in names.items() for word in (f"--{option}", name)]
    code, _, _ = run(capsys, few, "--study", "scores", *options)
    assert code == 0
    assert names["output"].read_bytes() == page_of_one
    assert names["csv"].read_bytes() == exports.as_csv(studies)
    assert names["parquet"].read_bytes() == exports.as_parquet(studies)
    assert names["tables"].read_bytes() == papers.as_text(studies, ".tex").encode()
    for kind in ("png", "svg", "pdf"):
        found = sorted(file.read_bytes() for file in names[kind].glob(f"*.{kind}"))
        assert found == sorted(named(picture, kind, title) for title, picture in drawn_)
        assert len(found) == 6
    assert sorted(tmp_path.iterdir()) == sorted(names.values())


def test_tables_for_papers_say_what_the_page_does(studies):
    for study in studies:
        markdown = papers.as_text([study], ".md").splitlines()
        latex = papers.as_text([study], ".tex").splitlines()
        for title, make in papers._TABLES.items():
            table = make(study)
            if not table.items:
                assert f"## {title}" not in markdown
                continue
            cells = [[clean(cell.text).replace("\n", " ") for cell in row] for row in table.rows]
            start = markdown.index(f"## {title}")
            at = next(i for i in range(start, len(markdown)) if markdown[i].startswith("|"))
            found = [
                [cell.strip() for cell in re.split(r"(?<!\\)\|", markdown[at + 2 + i])[1:-1]]
                for i in range(len(cells))
            ]
            assert [[plain_markdown(cell) for cell in row] for row in found] == [
                [cell.strip() for cell in row] for row in cells
            ]
            caption = plain_markdown(" ".join(markdown[start:at]))
            assert all(f"{heading}: {clean(label)}" in caption for heading, label in table.same)
            first = next(i for i, line in enumerate(latex) if f"caption{{{title} (" in line)
            rows = latex[latex.index(r"\midrule", first) + 1 :][: len(cells)]
            assert all(line.endswith(r" \\") for line in rows)
            separators = {len(re.findall(r"(?<!\\)&", line)) for line in rows}
            assert separators == {len(table.columns) - 1}


def test_labels_that_are_the_same_in_all_rows_are_told_once():
    columns = [
        tables.Column("text", lambda item: item[0]),
        tables.Column("machine", lambda item: item[1]),
        tables.Column("KL", lambda item: item[2], "{:.1f}".format),
    ]
    table = tables.Table("t", columns, [("a", "x", 1.0), ("a", "y", 1.0)])
    assert [column.heading for column in table.columns] == ["machine", "KL"]
    assert [[cell.text for cell in row] for row in table.rows] == [["x", "1.0"], ["y", "1.0"]]
    assert table.same == [("text", "a")]
    none = tables.Table("t", columns, [])
    assert (none.rows, none.same) == ([], [])


def plain_markdown(text):
    return re.sub(r"\\(.)", r"\1", text)


def test_signs_that_mean_something_to_latex_are_written_as_signs():
    text = r"50% of a_b & $c #1 {d} \e ~f ^g <h>"
    written = papers._templates(".tex").from_string("<< text >>").render(text=text)
    assert written == (
        r"50\% of a\_b \& \$c \#1 \{d\} \textbackslash{}e \textasciitilde{}f "
        r"\textasciicircum{}g $<$h$>$"
    )


def test_large_tables_and_charts_show_some_of_the_runs_and_say_so(study, monkeypatch):
    best = study.fronts(RATE.value, KL.value)
    assert 0 < len(best) < 100 < len(study.done) < 200
    for module in (tables, charts):
        monkeypatch.setattr(module, "MOST", 100)
    table = tables.runs(study)
    assert [table.count, len(table.rows)] == [len(study.done), 100]
    assert best <= {run.position for run in table.items}
    gaps = np.diff([run.position for run in table.items])
    assert gaps.min() > 0
    assert gaps.max() < 6
    assert table.left_out == f"100 of {len(study.done)} rows are shown."
    assert tables.texts(study).left_out == ""
    drawn = charts._few(study)
    assert len(drawn.records) == 100
    assert drawn.machines == study.machines
    assert best & {run.position for run in drawn.records} == best
    monkeypatch.setattr("lamp.reports.page.MOST", 100)
    monkeypatch.setattr(svg, "picture", lambda picture: "")  # which the page of all runs draws
    for kind in (".md", ".tex"):
        assert f"100 of {len(study.done)} rows are shown." in papers.as_text([study], kind)
    assert f" 100 of {len(study.done)} rows are shown.</p>" in page([study])


def test_data_frames_have_the_rows_of_csv(studies, monkeypatch):
    pandas = pytest.importorskip("pandas", reason="pandas comes with datasets")
    found = reports.to_pandas(studies)
    read = pandas.read_csv(io.BytesIO(exports.as_csv(studies)))
    assert list(found) == list(read)
    np.testing.assert_array_equal(found.kl.astype(float), read.kl.astype(float))
    assert found.position.tolist() == read.position.tolist()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        reports.to_pandas(studies)


def test_command_opens_the_page(tmp_path, monkeypatch, capsys):
    store, opened = tmp_path / "planned.sqlite", []
    with Store.open(store, write=True) as planned:
        planned.plan("none", {}, [])
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    output = tmp_path / "a page.html"
    assert run(capsys, store, "--output", output, "--open")[0] == 0
    assert opened == [output.as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    code, _, err = run(capsys, store, "--output", output, "--open")
    assert code == 1
    assert "no browser" in err


def test_command_says_what_is_wrong(path, tmp_path, capsys):
    def fails(code, words, *arguments):
        before = sorted(tmp_path.iterdir())
        found, _, err = run(capsys, *arguments)
        assert found == code
        assert words in err
        assert "Traceback" not in err
        assert sorted(tmp_path.iterdir()) == before

    foreign, empty, unplanned = (tmp_path / name for name in ("f.txt", "e.sqlite", "u.sqlite"))
    foreign.write_text("no database, but long enough to look at")
    empty.touch()
    Store.open(unplanned, write=True).close()
    output = ("--output", tmp_path / "x.html")
    fails(1, "no store", tmp_path / "missing.sqlite")
    fails(1, "is not a store", foreign)
    fails(1, "is empty, not a store", empty)
    fails(1, "has no studies yet", unplanned)
    fails(2, "did you mean scores?", path, "--study", "score", *output)
    fails(2, "it has scores, words", path, "--study", "zzz", *output)
    fails(2, "is the store: name another file", path, "--output", path)
    fails(2, "is the file of --output", path, *output, "--csv", tmp_path / "x.html")
    fails(1, "no folder", path, "--output", tmp_path / "no" / "x.html")
    fails(1, "is a folder", path, "--output", tmp_path)
    assert path.read_bytes()[:15] == b"SQLite format 3"


def test_files_are_written_whole_or_not_at_all(studies, tmp_path, monkeypatch):
    place = tmp_path / "x.csv"
    place.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        reports.write_csv(studies, place)
    assert place.read_text() == "before"
    assert list(tmp_path.iterdir()) == [place]


def test_folder_of_pictures_is_no_file(studies, tmp_path):
    place = tmp_path / "file"
    place.touch()
    with pytest.raises(NotADirectoryError, match="not a folder for pictures"):
        reports.write_pictures(studies, place)


def test_runs_that_have_two_names_count_once(tmp_path):
    place = tmp_path / "twice.sqlite"
    with Store.open(place, write=True) as store:
        labels = ("m", "t", "h", NONE, "fp64")
        store.plan("twice", {}, [Run("k", *labels), Run("k", "other", *labels[1:])])
        total = store.counts("twice").total
    (found,) = reports.read(place)
    assert found.counts.total() == total == 1
    assert len(found.records) == 2


def test_texts_are_no_formulas_to_a_spreadsheet():
    values = [
        "=1+1",
        "+1",
        "-1",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "a=1",
        -1.5,
        7,
        None,
        "",
    ]
    content = exports.written_csv(["a", "=b"], [{"a": value, "=b": ""} for value in values])
    found = [row[0] for row in csv.reader(io.StringIO(content.decode(), newline=""))]
    assert content.decode().splitlines()[0] == "a,'=b"
    assert found[1:] == [f"'{value}" for value in values[:8]] + ["a=1", "-1.5", "7", "", ""]


def test_nothing_turns_the_text_of_a_page(tmp_path):
    odd = "evil\u202egnp.exe\u2066\x1b[31m"
    member = Run("a", model=odd, text=odd, hardware=odd, lamp=odd, reference="fp64")
    path = tmp_path / "s.sqlite"
    with Store.open(path, write=True) as store:
        store.plan(odd, {"name": odd, "grid": {odd: [1]}}, [member])
        store.finish("a", "{}", Result(None, 1.0, now(), now(), {"host": odd}, odd, odd))
    page = tmp_path / "s.html"
    reports.write_page(reports.read(path), page)
    written = page.read_text(encoding="utf-8")
    assert "evil\ufffdgnp.exe" in written
    assert not set("\u202e\u2066\x1b") & set(written)


def test_the_command_writes_no_device_and_no_file_of_the_store(few, tmp_path, capsys):
    store = tmp_path / "s.sqlite"
    shutil.copy(few, store)
    for option, path in (
        ("--output", "/dev/full"),
        ("--csv", "/dev/stdout"),
        ("--output", f"{store}-wal"),
        ("--parquet", f"{store}-journal"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["report", str(store), option, str(path)])
        assert stop.value.code == 1
        assert str(path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["s.sqlite"]


def test_pictures_of_long_names_have_files(study, tmp_path):
    picture = replace(charts.charts(study)[0].pictures[0], title="字" * 300)
    (tmp_path / pictures.file_name("漢" * 300, picture, "png")).touch()


# --- the demo -------------------------------------------------------------------------------------


def demo_grid():
    def run(mu, rate, lamp):
        kl = 4.0**-mu / (1 + 9 * rate)
        errors = {"kl_error": kl / 4, "flip_rate_error": 0.0123}
        metrics = Metrics(64, kl, 0.25, 30.0, 31.0, rate, (), {}, rate, **errors, clusters=4)
        variables = {"mu": mu} | ({} if lamp is None else {"tau": 1.25})
        labels = "m", "t", f"scores-ps{mu}", str(lamp or NONE), "fp64"
        return Run("", *labels, variables, state="done", metrics=metrics, seconds=12.5)

    rules = None, LAMP("normwise", tau=1.25), LAMP("total_variation", budget=0.1, weights="abs")
    return [run(mu, 0.1 * i, lamp) for mu in (2, 7) for i, lamp in enumerate(rules)]


def test_the_demo_draws_its_errors():
    grid = demo_grid()
    picture = charts.demo(reports.Results("", "demo", {}, tuple(grid), {}))
    sheet = drawn(picture)

    def ends(run):
        return run.metrics.kl - run.metrics.kl_error, run.metrics.kl + run.metrics.kl_error

    for color, mu in (("m0", 2), ("m1", 7)):
        own = [run for run in grid if run.variables["mu"] == mu]
        found = sorted((low[1], high[1]) for low, high in bars(sheet)[color])
        np.testing.assert_allclose(found, sorted(map(ends, own[1:])), rtol=1e-12)
        ((*corners,),) = bars(sheet, "band")[color]
        heights = [y for _, y in corners]
        assert (min(heights), max(heights)) == pytest.approx(ends(own[0]))
    assert charts.ERRORS in picture.legend


def test_the_table_of_the_demo_has_its_errors_and_fits_80_columns():
    from rich.console import Console

    grid = demo_grid()
    terminal = Console(record=True, width=80, file=io.StringIO())
    terminal.print(console.results_table(grid, "title"))
    rows = [line.split() for line in terminal.export_text().splitlines() if " 12.5" in line]
    assert " ".join(rows[0]) == "2 - none 6.25e-02 1.6e-02 25.00% 1.2% 31.000 0.00% 12.5"
    assert rows[2][2:5] == ["total_variation,", "|y|", f"{grid[2].metrics.kl:.2e}"]
    assert len(rows) == len(grid)


# --- what is told ---------------------------------------------------------------------------------


def told(*records, definition=None, tasks=()):
    numbered = (replace(run, key=f"{i}", position=i) for i, run in enumerate(records))
    return reports.story(reports.Results("s", "s", definition or {}, tuple(numbered), {}, tasks))


def done(hardware, kl, lamp=NONE, rate=0.0, *, error=math.nan, shares=(), mu=None):
    """A run on 4 windows of 5 tokens each, whose divergences have given shares of the mean."""
    given = {"kl_error": error, "clusters": 4, "windows": 4} if error == error else {}
    sums = tuple(Sums(5, 5 * kl * share, 0) for share in shares)
    steps = {"scores": (rate,)} if lamp != NONE else {}
    metrics = Metrics(20, kl, 0.1, 3.0, 3.1, rate, (), steps, rate, **given, sums=sums)
    variables = {} if mu is None else {"mu": mu}
    run = Run("k", "embedded", "held-out", hardware, lamp, "fp64", variables)
    return replace(run, state="done", metrics=metrics, seconds=1.0)


def test_one_run_is_a_sentence():
    (sentence,) = told(done("ps4", 0.0571, error=0.0031))
    assert sentence == (
        "On embedded (held-out: 20 tokens, 4 windows), ps4 diverges by 0.0571 ± 0.0031 nats per "
        "token from fp64."
    )
    (sentence,) = told(done("ps4", 1e-5))
    assert sentence.endswith("20 tokens), ps4 diverges by 1e-05 nats per token from fp64.")
    (sentence,) = told(done("fp8", math.nan), done("ps4", math.inf), done("ps7", 0.25))
    assert sentence.endswith("ps7 diverges by 0.25 nats per token from fp64. 2 of 3 machines "
                             "without look-ahead give no numbers.")  # fmt: skip
    (sentence,) = told(done("fp8", math.nan))
    assert sentence.endswith("1 of 1 machines without look-ahead gives no numbers.")
    (sentence,) = told(done("fp64", 0.0))
    assert sentence.endswith("nothing is measured but the reference itself.")
    assert told(replace(done("ps4", 0.1), state="missing", metrics=None)) == []


def test_look_ahead_is_told_by_the_least_work_that_leaves_a_tenth():
    shares = (0.8, 1.2, 0.9, 1.1)
    plain = done("ps4", 0.5, error=0.05, shares=shares)
    some = [
        done("ps4", kl, f"softmax:relaxed:{tau}", rate, error=kl / 9, shares=shares)
        for kl, tau, rate in ((0.2, 0.3, 0.03), (0.04, 0.03, 0.072), (0.01, 0.003, 0.2))
    ]
    (sentence,) = told(plain, *some, done("bf16", 0.001))
    assert (
        "bf16 diverges least of 2 machines without look-ahead, by 0.001 nats per token from fp64, "
        "and ps4 most, by 0.500 ± 0.050. On ps4, softmax:relaxed:0.03 leaves 0.0400 ± 0.0044 by "
        "recomputing 7.2% of the scores: 12.5 times less [12.5, 12.5], the least work that leaves "
        "a tenth or less, of 3 settings."
    ) in sentence
    (sentence,) = told(plain, some[0])
    assert sentence.endswith("by recomputing 3% of the scores: 2.5 times less [2.5, 2.5].")
    (sentence,) = told(plain, some[0], done("ps4", 0.3, "softmax:kl:1%", 0.01))
    assert "On ps4, softmax:relaxed:0.3 leaves" in sentence
    assert sentence.endswith("times less [2.5, 2.5], the least of 2 settings.")
    (sentence,) = told(some[1])  # nothing to compare it with
    assert sentence.endswith(
        "ps4 with softmax:relaxed:0.03 diverges least, by 0.0400 ± 0.0044 by recomputing 7.2% of "
        "the scores."
    )


def test_the_fewest_bits_within_a_limit_count_the_whole_interval():
    definition = {"hardware": ["ps{mu}"]}
    runs = [done(f"ps{mu}", kl, error=1e-3, mu=mu) for mu, kl in ((2, 0.1), (4, 0.009), (7, 1e-4))]
    ahead = [done("ps2", 1e-3, "softmax:kl:9%", 0.09, error=1e-4, mu=2)]
    (sentence,) = told(*runs, *ahead, definition=definition)
    assert sentence.endswith(  # 0.009 itself is within it, its interval is not
        "Within 0.01 nats, the 95% interval included, the smallest mu of ps{mu} is 7 without "
        "look-ahead and 2 with it by softmax:kl:9%, 9% of the scores."
    )
    (sentence,) = told(*runs[:2], definition=definition)
    assert sentence.endswith("No ps{mu} stays within 0.01 nats, the 95% interval included.")


def test_tasks_are_told_by_what_is_decided():
    def task(hardware, right):
        documents = {i: float(i < right) for i in range(100)}
        score = Score("arc", "acc", "none", "1", 100, right / 100, 0.05, True, documents)
        run = TaskRun("k", "m", "arc", hardware, NONE, "fp64", subject="s")
        return replace(run, state="done", result=TaskResult((score,), 0))

    exact, same, worse = task("fp64", 60), task("ps7", 59), task("ps4", 40)
    (sentence,) = told(tasks=(exact, same, worse))
    assert sentence == (
        "In 1 task, 1 of 2 scores differs from those of fp64 by more than chance would have it "
        "(95% intervals). The largest of these changes is that of acc in arc, m on ps4: -0.200 ± "
        "0.040, to 0.400."
    )
    assert "0 of 1 scores differ from" in told(tasks=(exact, same))[0]
    assert told(tasks=(same,)) == ["No score of a task is compared: fp64 has none yet."]
