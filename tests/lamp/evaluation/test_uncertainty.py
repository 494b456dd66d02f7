"""Standard errors: against their definition, and against what repeated texts show."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lamp
from lamp.evaluation import (
    ESTIMATED,
    Bounded,
    Estimate,
    Metrics,
    Setting,
    Text,
    Totals,
    paired,
    side_by_side,
)
from lamp.evaluation.uncertainty import BLOCKS, clusters_of, ratio


def drawn(generator, windows, length, within):
    """Heavy-tailed positions whose windows have means of their own."""
    means = generator.lognormal(0, within, (windows, 1))
    return list(means * generator.lognormal(0, 1, (windows, length)))


def test_the_error_is_that_of_means_of_clusters():
    windows = drawn(np.random.default_rng(1), 9, 20, 0.5)
    sums = np.array([part.sum() for part in windows])
    found = ratio(sums, np.full(9, 20.0))
    means = np.array([part.mean() for part in windows])
    assert found.value == pytest.approx(means.mean())
    assert found.error == pytest.approx(means.std(ddof=1) / 3)
    assert found.clusters == 9


@pytest.mark.parametrize("within", [0.0, 0.7])
def test_intervals_hold_as_often_as_they_say(within):
    """Errors of single tokens would be far too small where windows differ."""
    generator = np.random.default_rng(2)
    truth = math.exp(0.5 + within**2 / 2)
    held = naive = 0
    for _ in range(400):
        windows = drawn(generator, 24, 30, within)
        sums = np.array([part.sum() for part in windows])
        low, high = ratio(sums, np.full(24, 30.0)).interval(0.9)
        held += low <= truth <= high
        tokens = np.concatenate(windows)
        reach = 1.645 * tokens.std() / math.sqrt(tokens.size)
        naive += abs(tokens.mean() - truth) <= reach
    assert 0.80 <= held / 400 <= 0.95
    assert within == 0 or naive / 400 < 0.7


def test_clusters_of_unequal_sizes():
    """Against the leave-one-out estimate, which is near it for many clusters."""
    generator = np.random.default_rng(3)
    sizes = generator.integers(5, 40, 200).astype(float)
    sums = sizes * generator.normal(3, 1, 200)
    found = ratio(sums, sizes)
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    jackknife = math.sqrt(199 / 200 * ((without - without.mean()) ** 2).sum())
    assert found.error == pytest.approx(jackknife, rel=0.02)


@pytest.mark.parametrize(
    ("level", "freedom", "quantile"),
    [(0.95, 1, 12.706205), (0.95, 4, 2.776445), (0.95, 30, 2.042272), (0.99, 9, 3.249836)],
)
def test_quantiles_of_students_distribution(level, freedom, quantile):
    low, high = Estimate(0.0, 1.0, freedom + 1).interval(level)
    assert high == -low == pytest.approx(quantile, rel=1e-6)


def test_what_has_no_error():
    assert math.isnan(ratio(np.array([3.0]), np.array([4.0])).error)
    assert ratio(np.array([]), np.array([])).clusters == 0
    assert all(map(math.isnan, Estimate(1.0, math.nan, 1).interval()))
    infinite = ratio(np.array([math.inf, 1.0]), np.array([1.0, 1.0]))
    assert infinite.value == math.inf
    assert math.isnan(infinite.error)
    halves = [np.array([math.inf, 1.0]), np.array([1.0, math.inf]), np.full(2, math.inf)]
    assert math.isnan(paired([halves[0]], [halves[1]]).value)
    assert math.isnan(paired([halves[0]], [halves[2]]).value)
    assert ratio(np.array([1e308, 1e308]), np.ones(2)).value == math.inf
    with pytest.raises(ValueError, match="level must lie between 0 and 1, not 95"):
        Estimate(1.0, 0.1, 5).interval(95)


@pytest.mark.parametrize(
    ("value", "error", "clusters", "decided"),
    [(1.0, 0.1, 5, True), (-1.0, 0.1, 5, True), (0.2, 0.1, 5, False), (1.0, math.nan, 1, False)],
)
def test_a_difference_is_decided_where_its_interval_leaves_zero_out(
    value, error, clusters, decided
):
    assert Estimate(value, error, clusters).is_decided == decided


def test_intervals_of_what_has_a_range_end_with_it():
    metrics = Metrics(9, 0.01, 0.98, 1.2, 1.1, 0.5, (), {}, 0.0, clusters=2, windows=2)
    errors = {f"{name}_error": 0.1 for name in ESTIMATED}
    found = {name: replace(metrics, **errors).estimate(name) for name in ESTIMATED}
    assert found["kl"].interval() == (0.0, pytest.approx(0.01 + 1.2706, abs=1e-4))
    assert found["flip_rate"].interval() == (0.0, 1.0)
    assert found["perplexity"].interval()[0] == 1.0
    low, high = found["recomputation_rate"].interval(0.5)
    assert (low, high) == pytest.approx((0.4, 0.6))  # within the range nothing is cut
    tiny = Bounded(-1e-17, 1e-18, 2)  # a KL that rounding has made negative
    low, high = tiny.interval()
    assert low <= tiny.value < high
    assert all(map(math.isnan, metrics.estimate("kl").interval()))


def test_one_window_is_cut_into_blocks():
    assert [len(part) for part in clusters_of([np.arange(40)])] == [3] * 8 + [2] * 8
    assert len(clusters_of([np.arange(5)])) == 5
    assert len(clusters_of([np.arange(4), np.arange(0), np.arange(2)])) == 2
    assert BLOCKS == 16


def test_pairs_know_more_than_two_means():
    generator = np.random.default_rng(4)
    first = drawn(generator, 20, 30, 1.0)
    second = [part * 0.9 for part in first]
    found = paired(first, second)
    assert found.interval()[1] < 0
    apart = [ratio(np.array([p.sum() for p in x]), np.full(20, 30.0)) for x in (first, second)]
    assert found.value == pytest.approx(apart[1].value - apart[0].value)
    assert abs(found.value) < apart[0].error  # two means would not have told
    assert paired(second, first).value == -found.value
    with pytest.raises(ValueError, match="the same windows"):
        paired(first, second[:3])


class Model:
    """A forward pass by given logits."""

    def __init__(self, logits):
        self.logits, self.repeated, self.multiply_adds, self.recomputed = logits, 0, 1, {}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 5))
def test_metrics_have_the_errors_of_their_windows(count, length, context):
    generator = np.random.default_rng(count * 100 + length)
    totals, kls, losses = Totals(), [], []
    for _ in range(count):
        expected, actual = generator.normal(size=(2, length + context, 7))
        following = generator.integers(0, 7, length + context)
        following[-1] = -1
        window = type("Window", (), {"following": following, "context": context})
        totals.add(expected, Model(actual), window)
        p = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
        q = np.exp(actual) / np.exp(actual).sum(axis=1, keepdims=True)
        kls.append((p * np.log(p / q)).sum(axis=1)[context:])
        losses.append(-np.log(q[np.arange(len(q)), following])[context:-1])
    found = totals.metrics()
    sums, sizes = (np.array([f(part) for part in clusters_of(kls)]) for f in (np.sum, len))
    assert found.windows == count
    assert found.estimate("kl").clusters == found.clusters == len(sums)
    np.testing.assert_allclose(found.kl_error, ratio(sums, sizes * 1.0).error, rtol=1e-9)
    assert [each.positions for each in found.sums] == sizes.tolist()
    np.testing.assert_allclose([each.kl for each in found.sums], sums, rtol=1e-9)
    assert sum(each.flips for each in found.sums) == round(found.flip_rate * found.tokens)
    parts = clusters_of(losses)
    if parts:
        sums, sizes = (np.array([f(part) for part in parts]) for f in (np.sum, len))
        expected_error = ratio(sums, sizes * 1.0).error * found.perplexity
        np.testing.assert_allclose(found.perplexity_error, expected_error, rtol=1e-9)
    with pytest.raises(ValueError, match="no metric 'tokens' with an error"):
        found.estimate("tokens")


def sums_of(comparison):
    return comparison.metrics.sums


def test_machines_are_compared_over_the_same_positions():
    model = lamp.from_pretrained("embedded")
    tokens = model.encode(lamp.checkpoints.read_text())[:240]
    text = Text.of(tokens, model, length=40)
    names = ("scores-ps4", "scores-ps4+softmax:strict:0.1", "scores-ps4")
    first, second, same = side_by_side(model, text, [Setting.parse(name) for name in names])
    assert first.more_than_first is None
    low, high = second.more_than_first.interval()
    assert low < second.metrics.kl - first.metrics.kl < high < 0
    assert second.more_than_first.clusters == second.metrics.windows == 6
    assert (same.more_than_first.value, same.more_than_first.error) == (0.0, 0.0)
    sums = np.array(
        [[b.kl - a.kl, a.positions] for a, b in zip(*map(sums_of, (first, second)), strict=True)]
    )
    again, more = ratio(*sums.T), second.more_than_first
    assert (again.value, again.error) == pytest.approx((more.value, more.error), rel=1e-12)
    assert second.metrics.recomputation_rate_error > 0
    record = second.record()
    assert record["metrics"]["kl_error"] == second.metrics.kl_error
    assert record["more_than_first"]["kl_interval"] == (low, high)
    assert replace(second.metrics, windows=1).estimate("recomputation_rate").clusters == 1
