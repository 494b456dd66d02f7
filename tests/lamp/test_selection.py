"""The rules against slow, plain versions of their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lamp import LAMP, select


def softmax(y):
    e = np.exp(y - y.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def authors_rule(row, tau):
    """Descending order, while the sum of those before plus twice the smallest is below 2 - tau."""
    mask = np.zeros(len(row), bool)
    before = 0.0
    for j in np.argsort(-row, kind="stable"):
        if not before + 2 * row.min() < 2 - tau:
            break
        mask[j] = True
        before += row[j]
    return mask


def condition(row, mask):
    """THEORY's kappa: the infinity norm of I - 1 z^T restricted to the columns not selected."""
    jacobian = (np.eye(len(row)) - row)[:, ~mask]
    return np.abs(jacobian).sum(axis=1).max(initial=0.0)


rows_of_scores = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 40)),
    elements=st.floats(-12, 12, width=32),
)


@given(rows_of_scores, st.floats(1.001, 2.0))
def test_normwise_is_the_authors_rule(y, tau):
    z = softmax(y)
    expected = np.array([authors_rule(row, tau) for row in z])
    np.testing.assert_array_equal(select(z, tau=tau), expected)


@given(rows_of_scores, st.floats(1.001, 1.999))
def test_normwise_keeps_the_condition_below_tau(y, tau):
    z = softmax(y)
    for row, mask in zip(z, select(z, tau=tau), strict=True):
        assert condition(row, mask) <= tau + 1e-12


def test_normwise_may_take_one_component_too_many():
    # The best single choice is the smallest component: 1.00 against 1.47.
    z = np.array([0.02, 0.49, 0.49])
    assert condition(z, np.array([True, False, False])) == pytest.approx(1.00)
    assert condition(z, np.array([False, True, False])) == pytest.approx(1.47)
    assert select(z, tau=1.4).sum() == 2


def test_masked_positions_are_zeros_of_the_row_to_the_normwise_rule():
    z = softmax(np.array([[0.0, 0.1, 0.2, 0.3]]))
    padded = np.zeros((1, 6))
    padded[:, :4] = z
    expected = authors_rule(padded[0], 1.05)
    mask = select(padded, tau=1.05, row_lengths=[4])
    np.testing.assert_array_equal(mask[0], expected & (np.arange(6) < 4))
    # Without the padding the smallest probability counts and less is taken.
    assert select(z, tau=1.05).sum() < mask.sum()


def test_equal_probabilities_are_taken_from_the_front():
    np.testing.assert_array_equal(select(np.full(4, 0.25), tau=1.2), [True, True, False, False])


def test_tau_of_two_selects_nothing():
    assert not select(softmax(np.arange(8.0)), tau=2.0).any()


@given(rows_of_scores, st.floats(0, 0.3), st.sampled_from(["one", "abs"]))
def test_total_variation_is_one_threshold(y, tau, weights):
    z = softmax(y)
    w = np.abs(y) if weights == "abs" else 1.0
    mask = select(z, y, rule="total_variation", tau=tau, weights=weights)
    score = (w * z * (1 - z)).astype(np.float32)
    np.testing.assert_array_equal(mask, score > np.float32(tau))


@given(rows_of_scores, st.floats(0, 1), st.sampled_from(["one", "abs"]), st.randoms())
def test_a_budget_takes_exactly_its_share_and_the_largest(y, budget, weights, random):
    z = softmax(y)
    lengths = np.array([random.randint(1, y.shape[1]) for _ in y])
    exists = np.arange(y.shape[1]) < lengths[:, None]
    mask = select(z, y, rule="total_variation", budget=budget, weights=weights, row_lengths=lengths)
    assert mask.sum() == int(np.floor(budget * lengths.sum()))
    assert not (mask & ~exists).any()
    w = np.abs(y) if weights == "abs" else 1.0
    score = (w * z * (1 - z)).astype(np.float32)
    if mask.any() and (exists & ~mask).any():
        assert score[mask].min() >= score[exists & ~mask].max()


@given(rows_of_scores, st.floats(1.001, 2.0), st.integers(0, 2**64), st.integers(0, 1000))
def test_random_takes_as_many_of_each_row_as_normwise(y, tau, seed, stream):
    z = softmax(y)
    lengths = np.maximum(1, np.arange(len(z)) * 7 % y.shape[1])
    normwise = select(z, tau=tau, row_lengths=lengths)
    options = {"tau": tau, "seed": seed, "row_lengths": lengths, "stream": stream}
    mask = select(z, rule="random", **options)
    np.testing.assert_array_equal(mask.sum(axis=1), normwise.sum(axis=1))
    assert not (mask & (np.arange(y.shape[1]) >= lengths[:, None])).any()
    np.testing.assert_array_equal(mask, select(z, rule="random", **options))


def test_random_is_uniform_over_the_places_of_a_row():
    rows, columns = 40_000, 5
    z = np.tile(softmax(np.array([3.0, 0.0, 0.0, 0.0, 0.0])), (rows, 1))
    mask = select(z, rule="random", tau=1.2)
    assert mask.sum() == rows
    # Each place is hit with probability 1/5: five standard deviations.
    spread = np.sqrt(rows * 0.2 * 0.8)
    assert np.abs(mask.sum(axis=0) - rows / columns).max() < 5 * spread


def test_random_depends_on_seed_and_stream():
    z = softmax(np.random.default_rng(0).standard_normal((50, 50)))
    first = select(z, rule="random", tau=1.5)
    assert (first != select(z, rule="random", tau=1.5, seed=1)).any()
    assert (first != select(z, rule="random", tau=1.5, stream=1)).any()


@settings(max_examples=20)
@given(st.sampled_from([LAMP(tau=1.2), LAMP("random", tau=1.2), LAMP("total_variation", tau=0.01)]))
def test_float32_and_batches_are_accepted(rule):
    z = softmax(np.random.default_rng(1).standard_normal((2, 3, 20))).astype(np.float32)
    mask = select(z, rule=rule)
    assert mask.shape == z.shape
    if rule.rule != "random":
        np.testing.assert_array_equal(mask[1, 2], select(z[1, 2], rule=rule))


def test_the_same_selection_on_any_number_of_threads():
    import numba

    z = softmax(np.random.default_rng(2).standard_normal((500, 60)))
    before = numba.get_num_threads()
    masks = []
    for threads in (1, before):
        numba.set_num_threads(threads)
        masks.append([select(z, rule=r, tau=1.1) for r in ("normwise", "random")])
    numba.set_num_threads(before)
    np.testing.assert_array_equal(masks[0], masks[1])


@pytest.mark.parametrize("tau", [1.0, 0.5, 2.01, -1.0, float("nan")])
def test_tau_out_of_range_is_refused(tau):
    with pytest.raises(ValueError, match=r"tau must lie in \(1, 2\], not"):
        LAMP(tau=tau)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"rule": "best", "tau": 1.5}, "unknown rule 'best'"),
        ({}, "takes either tau or a budget"),
        ({"rule": "total_variation", "tau": 0.1, "budget": 0.1}, "takes either tau or a budget"),
        ({"rule": "total_variation", "budget": 1.5}, r"share in \[0, 1\], not 1.5"),
        ({"rule": "total_variation", "tau": -0.1}, "at least 0, not -0.1"),
        ({"rule": "total_variation", "tau": 0.1, "weights": "y"}, "unknown weights 'y'"),
        ({"rule": "normwise", "budget": 0.1}, "takes tau, not a budget"),
        ({"rule": "normwise", "tau": 1.5, "weights": "abs"}, "takes no weights"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        LAMP(**settings_)


def test_bad_arrays_are_refused():
    z = np.array([0.5, 0.5])
    with pytest.raises(ValueError, match="NaN or outside"):
        select([0.5, np.nan], tau=1.5)
    with pytest.raises(ValueError, match="NaN or outside"):
        select([0.5, 1.5], tau=1.5)
    with pytest.raises(ValueError, match="need the scores y"):
        select(z, rule="total_variation", tau=0.1, weights="abs")
    with pytest.raises(ValueError, match="y has shape"):
        select(z, [1.0], rule="total_variation", tau=0.1)
    with pytest.raises(ValueError, match=r"integers in 0\.\.2"):
        select(z, tau=1.5, row_lengths=3)
    with pytest.raises(ValueError, match="at least one dimension"):
        select(0.5, tau=1.5)
