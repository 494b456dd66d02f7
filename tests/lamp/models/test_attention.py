"""Causal attention against a plain version, step by step."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest

import fpemu
import lamp
from fpemu import Sequential
from fpemu.reference import round_exact
from lamp import LAMP, select
from lamp.models.attention import _quotient, attention, softmax
from tests.threads import on_threads


def heads(tokens=20, dimension=16, count=3, seed=0, dtype=np.float32, scale=1.5):
    rng = np.random.default_rng(seed)
    shape = (3, count, tokens, dimension)
    return (scale * rng.standard_normal(shape)).astype(dtype)


# Tests of all rules read the same scores and weights, which are computed once.
@cache
def plain_scores(accumulator, tokens=20, dimension=16, count=3):
    """Accumulate, divide, round the exact quotient once; one pair of `heads` at a time."""
    query, key, _ = heads(tokens, dimension, count)
    scores = np.zeros((count, tokens, tokens), query.dtype)
    for h in range(count):
        for i in range(tokens):
            for j in range(i + 1):
                total = fpemu.dot(query[h, i], key[h, j], accumulator)
                exact = Fraction(float(total)) / Fraction(float(np.sqrt(dimension)))
                scores[h, i, j] = round_exact(exact, accumulator.format) if exact else 0.0
    return scores


def plain_softmax(scores):
    """In float64, rounded once."""
    causal = np.tril(np.ones(scores.shape[-2:], bool))
    y = np.where(causal, scores.astype(np.float64), -np.inf)
    e = np.exp(y - y.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)).astype(scores.dtype)


@pytest.mark.parametrize("accumulator", ["e8m2", "e8m4", "e8m7"])
@pytest.mark.parametrize("dimension", [16, 12])  # a square root that is exact, and one that is not
def test_scores_are_accumulated_divided_and_rounded_again(accumulator, dimension):
    query, key, value = heads(dimension=dimension)
    machine = lamp.Hardware("test", scores=Sequential(accumulator))
    output, report = attention(query, key, value, hardware=machine)
    z = plain_softmax(plain_scores(machine.scores.accumulator, dimension=dimension))
    np.testing.assert_allclose(output, z @ value, rtol=2e-6, atol=2e-6)
    assert report.selected == 0
    assert report.components == 3 * 20 * 21 // 2


@pytest.mark.parametrize(
    "settings",
    [
        LAMP(tau=1.2),
        LAMP("total_variation", tau=0.01),
        LAMP("total_variation", tau=0.02, weights="abs"),
        LAMP("total_variation", budget=0.05, weights="abs"),
    ],
    ids=str,
)
def test_selected_scores_are_those_of_the_high_precision(settings):
    query, key, value = heads()
    tokens = query.shape[1]
    machine = lamp.hardware("scores-ps4")
    low = plain_scores(machine.scores.accumulator)
    high = plain_scores(Sequential("float32"))
    lengths = np.tile(np.arange(1, tokens + 1), (3, 1))
    mask = select(plain_softmax(low), low, rule=settings, row_lengths=lengths)
    z = plain_softmax(np.where(mask, high, low))
    output, report = attention(query, key, value, hardware=machine, lamp=settings)
    assert report.selected == mask.sum() > 0
    np.testing.assert_allclose(output, z @ value, rtol=2e-6, atol=2e-6)
    # The mixture is neither of the two: the comparison would notice an empty or a full mask.
    for other in (low, high):
        assert np.abs(output - plain_softmax(other) @ value).max() > 1e-4


@cache
def weights_of(name, accumulator, tokens, dimension, count):
    """What the errors of scores are taken to be proportional to, one pair at a time."""
    query, key, _ = heads(tokens, dimension, count)
    weights = np.zeros((count, tokens, tokens))
    for h, i in np.ndindex(count, tokens):
        for j in range(i + 1):
            q, k = query[h, i], key[h, j]
            if name == "products":
                weights[h, i, j] = np.abs(q).astype(float) @ np.abs(k)
            elif name == "norms":
                weights[h, i, j] = np.linalg.norm(q.astype(float)) * np.linalg.norm(k.astype(float))
            elif name == "errors":
                weights[h, i, j] = abs(float(fpemu.dot(q, k, accumulator)) - float(q @ k))
            else:
                sums = [
                    float(fpemu.dot(q[:n], k[:n], accumulator)) for n in range(1, dimension + 1)
                ]
                power = int(name[-1])
                weights[h, i, j] = np.linalg.norm(sums, power)
    return weights / np.sqrt(dimension)


@pytest.mark.parametrize("weights", ["products", "norms", "running_1", "running_2", "errors"])
@pytest.mark.parametrize("rule", ["kl", "total_variation", "componentwise", "value_aware"])
def test_rules_take_weights_from_queries_and_keys(rule, weights):
    sizes = 12, 4, 2
    query, key, value = heads(*sizes)
    machine = lamp.hardware("scores-ps4")
    low = plain_scores(machine.scores.accumulator, *sizes)
    high = plain_scores(Sequential("float32"), *sizes)
    lengths = np.tile(np.arange(1, 13), (2, 1))
    settings = LAMP(rule, budget=0.3, weights=weights, leading_columns=1)
    w = weights_of(weights, machine.scores.accumulator, *sizes).astype(np.float32)
    options = {"values": value} if rule == "value_aware" else {}
    mask = select(
        plain_softmax(low), low, rule=rule, budget=0.3, weights=w, leading_columns=1,
        row_lengths=lengths, **options,
    )  # fmt: skip
    output, report = attention(query, key, value, hardware=machine, lamp=settings)
    assert abs(report.selected - mask.sum()) <= 1  # one tau, and weights rounded otherwise
    if report.selected == mask.sum():
        z = plain_softmax(np.where(mask, high, low))
        np.testing.assert_allclose(output, z @ value, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("scope", ["row", "all"])
@pytest.mark.parametrize("rule", ["normwise", "normwise_optimal", "largest", "random", "kl"])
def test_every_rule_keeps_its_budget(rule, scope):
    query, key, value = heads(tokens=30)
    _, report = attention(
        query,
        key,
        value,
        hardware=lamp.hardware("scores-ps4"),
        lamp=LAMP(rule, budget=0.2, scope=scope),
    )
    assert 0.1 * report.components < report.selected <= 0.2 * report.components


def test_only_the_random_control_depends_on_seed_and_layer():
    query, key, value = heads()
    machine = lamp.hardware("scores-ps2")

    def run(settings, layer=0):
        return attention(query, key, value, hardware=machine, lamp=settings, layer=layer)

    first, report = run(LAMP("random", tau=1.2))
    again, _ = run(LAMP("random", tau=1.2))
    np.testing.assert_array_equal(first, again)
    for settings, layer in ((LAMP("random", tau=1.2, seed=1), 0), (LAMP("random", tau=1.2), 1)):
        other, other_report = run(settings, layer)
        assert (other != first).any()
        assert other_report.selected == report.selected
    np.testing.assert_array_equal(run(LAMP(tau=1.2))[0], run(LAMP(tau=1.2), 1)[0])


@pytest.mark.parametrize("name", ["scores-ps3", "fp32", "fp64", "bf16"])
def test_a_token_does_not_depend_on_later_ones(name):
    machine = lamp.hardware(name)
    dtype = machine.carrier
    query, key, value = heads(dtype=dtype)
    whole, _ = attention(query, key, value, hardware=machine)
    start, _ = attention(query[:, :7], key[:, :7], value[:, :7], hardware=machine)
    np.testing.assert_array_equal(whole[:, :7], start)
    assert whole.dtype == dtype


def test_what_stands_beyond_the_diagonal_is_not_even_looked_at():
    query, key, value = heads()
    machine = lamp.hardware("scores-ps4")
    whole, _ = attention(query, key, value, hardware=machine)
    key[:, -1] = 1e30
    changed, _ = attention(query, key, value, hardware=machine)
    np.testing.assert_array_equal(whole[:, :-1], changed[:, :-1])


def test_grouping_heads_to_save_memory_changes_nothing(monkeypatch):
    query, key, value = heads()
    for settings in (None, LAMP(tau=1.2), LAMP("random", tau=1.2)):
        outputs = []
        for size in (1, 2**24):
            monkeypatch.setattr("lamp.models.attention._GROUP_BYTES", size)
            machine = lamp.hardware("scores-ps4")
            outputs.append(attention(query, key, value, hardware=machine, lamp=settings, layer=3))
        np.testing.assert_array_equal(outputs[0][0], outputs[1][0])
        assert outputs[0][1] == outputs[1][1]


@pytest.mark.parametrize(
    "rule",
    [
        LAMP("total_variation", tau=0.02),
        LAMP("total_variation", tau=0.02, weights="abs", leading_columns=2),
        LAMP("kl", tau=0.001, weights="norms"),
        LAMP("kl", tau=0.001, weights="errors"),
        LAMP("largest", tau=0.1),
        LAMP("strict", tau=0.1, leading_columns=1),
        LAMP("relaxed", tau=0.2, length=8),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1.5, 80.0], ids=["usual", "overflowing"])
def test_thresholds_in_one_pass_are_those_step_by_step(rule, scale):
    """Who observes the scores sees every step; nobody does, and rows are done at once."""
    query, key, value = heads(150, count=2, scale=scale)
    key[0, 40], key[0, 41], key[1, 9] = np.nan, np.inf, 0.0
    value = np.abs(value)
    machine = lamp.Hardware("test", scores=Sequential("e5m3"))
    seen = {}
    given = {"hardware": machine, "lamp": rule}
    with np.errstate(all="ignore"):
        steps, count = attention(query, key, value, **given, observe=seen.__setitem__)
        whole, whole_count = attention(query, key, value, **given)
    np.testing.assert_array_equal(whole.view(np.uint32), steps.view(np.uint32))
    assert whole_count == count
    assert 0 < np.count_nonzero(seen["mask"]) < count.components
    overflowed = np.isinf(seen["low_scores"]).any()
    assert overflowed == (scale > 10)


def test_high_precision_scores_leave_nothing_to_recompute():
    query, key, value = heads()
    plain, report = attention(
        query, key, value, hardware=lamp.hardware("fp32"), lamp=LAMP(tau=1.05)
    )
    assert report.selected == 0
    np.testing.assert_array_equal(
        plain, attention(query, key, value, hardware=lamp.hardware("fp32"))[0]
    )


def test_all_stored_bits_are_float32():
    query, key, value = heads()
    np.testing.assert_array_equal(
        attention(query, key, value, hardware=lamp.hardware("scores-ps23"))[0],
        attention(query, key, value, hardware=lamp.hardware("fp32"))[0],
    )


def test_softmax_is_rounded_once_and_sums_to_one():
    rng = np.random.default_rng(0)
    y = (20 * rng.standard_normal((50, 64))).astype(np.float32)
    lengths = rng.integers(1, 65, 50)
    z = softmax(y, lengths, lamp.Function())
    for row, scores, length in zip(z, y, lengths, strict=True):
        e = np.exp(scores[:length].astype(np.float64) - scores[:length].max())
        # The reference is off by some float64 roundings, which move a float32 by at most one place.
        np.testing.assert_array_max_ulp(row[:length], (e / e.sum()).astype(np.float32), 1)
        assert not row[length:].any()


def test_the_same_bits_on_any_number_of_threads():
    query, key, value = heads(tokens=90)
    machine, settings, outputs = lamp.hardware("scores-ps4"), LAMP("random", tau=1.1), []
    for threads in (1, 3):
        with on_threads(threads):
            outputs.append(attention(query, key, value, hardware=machine, lamp=settings)[0])
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_unknown_hardware_is_refused():
    for name in ("ps24", "fp8", "", "PS4", "scores-ps24"):
        with pytest.raises(ValueError, match="unknown hardware"):
            lamp.hardware(name)
    with pytest.raises(TypeError, match="not int"):
        lamp.hardware(4)


@pytest.mark.parametrize("tiny", [False, True])
def test_float32_sums_over_a_power_of_two_are_rounded_once(tiny):
    """A quotient that would be subnormal in float32 is rounded from its exact value."""
    step = lamp.hardware("hopper-fp8").scores
    rng = np.random.default_rng(22)
    sums = rng.standard_normal((2, 3, 7)).astype(np.float32)
    sums[0, 0, 0], sums[0, 0, 1] = 0.0, -np.inf
    if tiny:  # float32 would round the quotient to a tie of bfloat16, and that to even
        sums[1, 2, 6] = (8 * (2**16 + 2**15) + 4 - 8 * 2**16) * 2.0**-149
    expected = [
        round_exact(Fraction(float(x)) / 8, step.output) if np.isfinite(x) and x else x
        for x in sums.ravel()
    ]
    found = _quotient(sums, 8.0, step)
    np.testing.assert_array_equal(found.ravel(), np.asarray(expected, np.float32))
