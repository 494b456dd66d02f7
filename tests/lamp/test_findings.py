"""The findings of the documentation: their intervals, and that pages show what was measured."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))
import claims
import findings
import over_texts
import paper

QUANTILES = {1: 12.7062, 2: 4.30265, 3: 3.18245}  # of Student's distribution, from a printed table


def measured(*windows):
    """A run with these divergences, and no flips."""
    parts = (np.array(window, dtype=float) for window in windows)
    return claims.Measured(tuple(np.stack([x, 0 * x], axis=1) for x in parts), 0.25, 0.01)


def students(logs):
    mean, error = np.mean(logs), np.std(logs, ddof=1) / math.sqrt(len(logs))
    reach = QUANTILES[len(logs) - 1] * error
    return np.exp([mean, mean - reach, mean + reach])


def test_a_geometric_mean_has_students_interval_of_the_logarithms():
    logs = [0.1, 0.7, -0.2, 0.4]
    assert over_texts.geometric(logs) == pytest.approx(students(logs), rel=1e-4)


def on_four_texts(firsts, seconds):
    rows = []
    for text, first, second in zip(over_texts.TEXTS, firsts, seconds, strict=True):
        row = claims.Row("PS(4)", "rule", measured(*second), "nothing", measured(*first))
        rows.append(claims.on_text("rates", SimpleNamespace(name="embedded", text=text), row))
    return rows, claims.on_all(rows)


def test_a_claim_is_of_windows_on_a_text_and_of_texts_on_all():
    generator = np.random.default_rng(1)
    firsts = generator.uniform(1.0, 2.0, (4, 3, 5))
    seconds = firsts / 4 * generator.uniform(0.9, 1.1, (4, 3, 5))
    seconds[3] = firsts[3] * generator.uniform(0.99, 1.01, (3, 5))
    rows, over_all = on_four_texts(firsts, seconds)
    logs = np.log(firsts.mean(axis=2) / seconds.mean(axis=2))
    for row, of_text in zip(rows, logs, strict=True):
        assert (row.times, row.low, row.high) == pytest.approx(tuple(students(of_text)), rel=1e-4)
    found = over_all.times, over_all.low, over_all.high
    assert found == pytest.approx(tuple(students(logs.mean(axis=1))), rel=1e-4)
    assert [row.smaller for row in rows] == [1, 1, 1, 0]
    assert (over_all.smaller, over_all.larger, over_all.tokens) == (3, 0, 60)
    _, reversed_ = on_four_texts(seconds, firsts)
    assert (reversed_.smaller, reversed_.larger) == (0, 3)


def test_tokens_that_are_lost_are_counted_and_have_no_divergence():
    rows, over_all = on_four_texts(
        np.ones((4, 2, 2)), np.tile([[1.0, math.nan], [0.5, 0.5]], (4, 1, 1))
    )
    assert rows[0].lost == over_all.lost == 0.25
    assert rows[0].value == pytest.approx(2.0 / 3.0)


def record(text, mu, rule, kl, rate):
    metrics = SimpleNamespace(
        kl=kl, recomputation_rate=rate, flip_rate=0.0, tokens=10, perplexity=2.0,
        reference_perplexity=1.0,
    )  # fmt: skip
    return SimpleNamespace(text=text, variables={"mu": mu}, lamp=rule, metrics=metrics)


def test_a_share_is_the_geometric_mean_of_the_shares_of_the_texts():
    records = []
    for text, share in (("a", 0.1), ("b", 0.4)):
        records.append(record(f"{text}, natural", 4, "none", 1.0, 0.0))
        for tau, kl, rate in ((0.9, 0.5, share / 4), (0.3, 0.1, share), (0.1, 1e-3, 2 * share)):
            records.append(record(f"{text}, natural", 4, f"softmax:relaxed:{tau}", kl, rate))
            records.append(record(f"{text}, natural", 4, f"softmax:strict:{tau}", 0.5, rate))
            for rule in ("relaxed", "strict"):
                setting = f"softmax:{rule}:{tau}:control=padded"
                records.append(
                    record(f"{text}, natural", 4, setting, 0.8 + 0.1 * (tau > 0.5), rate)
                )
    runs = paper.Runs(records)
    shares = {(row.rule, row.factor): row for row in runs.shares(paper.VERSIONS[2])}
    ten = shares["relaxed", 10]
    assert (ten.share, ten.low, ten.high) == pytest.approx(
        tuple(students(np.log([0.1, 0.4]))), rel=1e-4
    )
    assert ten.at_random == pytest.approx(1.25)
    assert (shares["strict", 10].reached, shares["relaxed", 1000].reached) == (0, 2)
    points = [point for point in runs.points() if point.rule == "relaxed"]
    assert [point.times for point in points] == pytest.approx([2.0, 10.0, 1000.0])
    assert [point.perplexity for point in points] == pytest.approx([2.0] * 3)


def test_results_survive_a_file(tmp_path):
    _, over_all = on_four_texts(np.ones((4, 2, 2)), np.full((4, 2, 2), 1 / 2.3456))
    over_texts.write(tmp_path / "a.csv", [over_all])
    (again,) = over_texts.read(tmp_path / "a.csv", claims.Claimed)
    assert (again.text, again.times, again.smaller) == ("all", pytest.approx(2.3456), 4)
    assert over_texts.read(tmp_path / "none.csv", claims.Claimed) == []


def test_the_tables_of_the_pages_are_those_of_the_results():
    data = findings.Data(over_texts.DATA)
    pages = "".join(page.read_text(encoding="utf-8") for page in findings.PAGES)
    assert {found[2] for found in findings._MARKED.finditer(pages)} == set(findings.TABLES)
    assert [path.name for path, _ in findings.changed(data)] == []
