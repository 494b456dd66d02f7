"""The rules against slow, plain versions of their definitions."""

import itertools
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lamp
from lamp import LAMP, select
from lamp._kernels import conditions, normwise, ordering, picking
from lamp.bounds.compositions import Entrywise, LayerNorm, SoftmaxProduct
from lamp.lookahead import LookAhead, selection
from lamp.lookahead.rules import RULES
from tests.threads import on_threads


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


@pytest.mark.parametrize("tau", [1.25, np.nextafter(1.25, 1), np.nextafter(1.25, 2), 1.3, 1.75])
def test_normwise_among_equal_numbers_and_where_a_sum_meets_the_goal(tau):
    generator = np.random.default_rng(0)
    sixteenths = generator.permuted(np.tile([4, 4, 2, 2, 1, 1, 1, 1, 0, 0], (3, 1)), axis=1) / 16
    few = generator.choice([0.5**9, 0.5**8, 3 * 0.5**9, 0.1], (3, 200), p=[0.5, 0.3, 0.19, 0.01])
    for z in (sixteenths, few / few.sum(axis=1, keepdims=True), few * 2):
        expected = np.array([authors_rule(row, tau) for row in z])
        np.testing.assert_array_equal(select(z, tau=tau), expected)
        narrow = z.astype(np.float32)
        expected = np.array([authors_rule(row, tau) for row in narrow.astype(np.float64)])
        np.testing.assert_array_equal(select(narrow, tau=tau), expected)


def test_normwise_stops_where_its_own_sum_meets_the_goal():
    z = softmax(np.random.default_rng(1).normal(size=(20, 300)))
    for row in z:
        before = np.add.accumulate(np.sort(row)[::-1])[40]  # one after the other, as the rule does
        tau = 2 - (before + 2 * row.min())
        for close in (tau, np.nextafter(tau, 1), np.nextafter(tau, 2)):
            expected = authors_rule(row, close)
            np.testing.assert_array_equal(select(row, tau=close), expected)


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
    z = softmax(np.random.default_rng(2).standard_normal((500, 60)))
    masks = []
    for threads in (1, 3):
        with on_threads(threads):
            masks.append([select(z, rule=r, tau=1.1) for r in ("normwise", "random")])
    np.testing.assert_array_equal(masks[0], masks[1])


@pytest.mark.parametrize("tau", [1.0, 0.5, 2.01, -1.0, float("nan")])
def test_tau_out_of_range_is_refused(tau):
    with pytest.raises(ValueError, match=r"tau of normwise must lie in \(1, 2\], not"):
        LAMP(tau=tau)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"rule": "best", "tau": 1.5}, "unknown rule 'best'"),
        ({}, "takes either tau or a budget"),
        ({"rule": "total_variation", "tau": 0.1, "budget": 0.1}, "takes either tau or a budget"),
        ({"rule": "total_variation", "budget": 1.5}, r"share in \[0, 1\], not 1.5"),
        ({"rule": "total_variation", "tau": -0.1}, r"must lie in \[0, inf\), not -0.1"),
        ({"rule": "total_variation", "tau": 0.1, "weights": "y"}, "unknown weights 'y'"),
        ({"rule": "kl", "budget": 0.1, "scope": "head"}, "unknown scope 'head'"),
        ({"rule": "kl", "tau": float("nan")}, r"tau of kl must lie in \[0, inf\), not nan"),
        ({"rule": "largest", "tau": 0.1, "weights": "abs"}, "takes no weights"),
        ({"rule": "kl", "tau": 10**400}, "tau is too large"),
        ({"tau": 1.5, "leading_columns": -1}, "leading_columns must be at least 0, not -1"),
        ({"rule": "normwise", "tau": 1.5, "weights": "abs"}, "takes no weights"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        LAMP(**settings_)


def test_a_text_form_says_everything_once():
    with pytest.raises(ValueError, match=r"softmax:tv:3%:seed=1:seed=2': seed is given twice"):
        LAMP.parse("softmax:tv:3%:seed=1:seed=2")
    with pytest.raises(TypeError, match=r"must be a text such as .*, not None"):
        LAMP.parse(None)


def test_bad_arrays_are_refused():
    z = np.array([0.5, 0.5])
    with pytest.raises(TypeError, match="z is a masked array"):
        select(np.ma.masked_array([0.1, 0.9], mask=[False, True]), tau=1.2)
    with pytest.raises(TypeError, match=r"softmax:normwise:1\.2: give rule="):
        select(z, LAMP(tau=1.2))
    with pytest.raises(ValueError, match=r"1.5 is outside \[0, 1\]"):
        select([0.5, 1.5], tau=1.5)
    with pytest.raises(ValueError, match=r"-0.5 is outside \[0, 1\]"):
        select([-0.5, np.nan], tau=1.5)
    with pytest.raises(ValueError, match=r"weights must not be negative, as -1\.0 is"):
        select(z, rule="kl", tau=0.1, weights=[1.0, -1.0])
    with pytest.raises(ValueError, match=r"shape \(3,\) does not broadcast"):
        select(z, rule="kl", tau=0.1, weights=[1.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="weights 'norms' are not known here"):
        select(z, rule="kl", tau=0.1, weights="norms")
    with pytest.raises(ValueError, match="rule 'normwise' takes no weights"):
        select(z, tau=1.5, weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="'value_aware' needs the values"):
        select(z, rule="value_aware", tau=0.1)
    with pytest.raises(ValueError, match=r"values have shape \(3, 1\)"):
        select(z, rule="value_aware", tau=0.1, values=np.ones((3, 1)))
    with pytest.raises(ValueError, match="'activation' needs the sensitivity"):
        select(z, rule="activation", tau=0.1)
    with pytest.raises(ValueError, match="need the scores y"):
        select(z, rule="total_variation", tau=0.1, weights="abs")
    with pytest.raises(ValueError, match="y has shape"):
        select(z, [1.0], rule="total_variation", tau=0.1)
    with pytest.raises(ValueError, match=r"integers in 0\.\.2"):
        select(z, tau=1.5, row_lengths=3)
    with pytest.raises(ValueError, match="at least one dimension"):
        select(0.5, tau=1.5)


def test_rows_are_sorted_whatever_their_numbers():
    generator = np.random.default_rng(2)
    close = 1.0 + generator.integers(0, 40, 300) * 2.0**-52  # the upper halves of words are equal
    wide = np.exp(generator.uniform(-740, 700, 300))
    few = generator.choice([0.0, 5e-324, 0.25, 1e300], 300)
    work = ordering.sorting(300)
    mixed = np.concatenate([close[:100], wide[:100], few[:100]])
    for keys in (close, wide, few, mixed, few[:1], mixed[80:144], mixed[80:145], mixed[150:240]):
        ordering.sort(keys, len(keys), work)
        order = np.argsort(keys, kind="stable")
        np.testing.assert_array_equal(work.order[: len(keys)], order)
        np.testing.assert_array_equal(work.keys[: len(keys)], keys[order])


@pytest.mark.parametrize("special", ["usual", "equal", "misleading", "empty rows", "strange"])
def test_the_largest_of_many_numbers(special, monkeypatch):
    monkeypatch.setattr(picking, "_SAMPLE", 2**12)
    generator = np.random.default_rng(8)
    scores = generator.exponential(size=(300, 200)).astype(np.float32) ** 3
    lengths = np.full(300, 200)
    if special == "equal":
        scores = np.round(scores)
    elif special == "misleading":  # of all rows those that are sampled
        scores[picking.sampled(lengths)] += 1e6
    elif special == "empty rows":
        lengths[generator.permutation(300)[:40]] = 0
        while lengths[picking.sampled(lengths)].any():
            lengths[picking.sampled(lengths)] = 0
    elif special == "strange":
        scores[generator.integers(0, 300, 50), generator.integers(0, 200, 50)] = np.nan
        scores[5], scores[9] = np.inf, 0.0
    exists = np.arange(200) < lengths[:, np.newaxis]
    keys = np.where(np.isnan(scores), np.inf, scores)
    keys[np.isinf(scores)] = 3e38
    keys[~exists] = -1.0
    for share in (0.0001, 0.03, 0.5, 1.0):
        count = int(share * lengths.sum())
        expected = np.zeros(scores.size, bool)
        expected[np.argsort(-keys.ravel(), kind="stable")[:count]] = True
        mask = picking.largest(scores, lengths, count)
        np.testing.assert_array_equal(mask.ravel(), expected)
        counts = np.floor(share * lengths).astype(int)
        places = np.argsort(-keys, axis=1, kind="stable")
        ranks = np.argsort(places, axis=1)
        mask = picking.largest_of_rows(scores, lengths, counts)
        np.testing.assert_array_equal(mask, ranks < counts[:, np.newaxis])


# --- the rules that sort, against plain versions that do -----------------------------------------


def plain_normwise_optimal(z, tau, count):
    """The longest window of the ascending row within tau, or the best of all but `count`."""
    order = np.argsort(z, kind="stable")
    sums = np.concatenate([[0.0], np.add.accumulate(z[order])])
    best = (0, np.inf, 0)
    for first in range(len(z)):
        cap = max(0.0, 1.0 - 2.0 * z[order[first]])
        kappas = sums[first + 1 :] - sums[first] + cap
        size = np.count_nonzero(kappas <= tau) if count is None else len(z) - count
        if 0 < size <= len(kappas):
            best = min(best, (-size, kappas[size - 1], first))
    mask = np.ones(len(z), bool)
    mask[order[best[2] : best[2] - best[0]]] = False
    return mask


def plain_componentwise(z, w, tau, count):
    """Under each cap those with the smallest costs: as many as can be, or all but count."""
    caps, costs = np.maximum(0.0, w * (1.0 - 2.0 * z)), w * z
    best, chosen = (0, np.inf), np.empty(0, int)
    order = np.argsort(caps, kind="stable")
    for k in range(len(z)):
        under = np.sort(order[: k + 1])
        under = under[np.argsort(costs[under], kind="stable")]
        kappas = np.add.accumulate(costs[under]) + caps[order[k]]
        size = np.count_nonzero(kappas <= tau) if count is None else min(k + 1, len(z) - count)
        if size and (-size, kappas[size - 1]) < best:
            best, chosen = (-size, kappas[size - 1]), under[:size]
    mask = np.ones(len(z), bool)
    mask[chosen] = False
    return mask


def rows_to_sort():
    """Rows near and far from equal, and some in which a few components are nearly all."""
    generator = np.random.default_rng(5)
    for n in (1, 2, 3, 5, 30, 200):
        for scale in (0.1, 1.0, 3.0, 10.0):
            yield softmax(generator.normal(size=n) * scale), generator.exponential(size=n)
    peaks = np.concatenate([[0.5, 0.3, 0.1], np.full(40, 0.1 / 40)])
    yield peaks * generator.uniform(0.9, 1.0, 43), generator.exponential(size=43)
    yield np.array([0.45, 0.30, 0.24, 0.006, 0.003, 0.001]), np.array([3.0, 1, 4, 1, 5, 9])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5, 0.9, 1.0])
def test_sorted_rules_pick_the_best_of_a_given_number(share):
    for z, w in rows_to_sort():
        count = int(np.floor(share * len(z)))
        budget = {"budget": share, "scope": "row"}
        np.testing.assert_array_equal(
            select(z, rule="normwise_optimal", **budget), plain_normwise_optimal(z, None, count)
        )
        np.testing.assert_array_equal(
            select(z, rule="componentwise", weights=w, **budget),
            plain_componentwise(z, w, None, count),
        )


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.6, 0.9, 0.999, 1.0, 1.001, 1.05, 1.2, 1.6, 1.99])
def test_sorted_rules_pick_the_fewest_within_tau(tau):
    for z, w in rows_to_sort():
        np.testing.assert_array_equal(
            select(z, rule="normwise_optimal", tau=tau), plain_normwise_optimal(z, tau, None)
        )
        np.testing.assert_array_equal(
            select(z, rule="componentwise", weights=w, tau=tau),
            plain_componentwise(z, w, tau, None),
        )


def within_one_tau(z, lengths, rule, weights, allowed):
    """What the smallest of 2**40 taus selects that selects no more than is allowed."""
    low, high = (1.0, 2.0) if rule == "normwise" else (0.0, 2.0 * float(weights.max()))

    def within(tau):
        of_errors = weights if rule == "componentwise" else None
        return lamp.lookahead.select_rows(z, lengths, LAMP(rule, tau=tau), weights=of_errors)

    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if within(middle).sum() <= allowed else (middle, high)
    return within(high)


@pytest.mark.parametrize("sample", [2**8, 2**10, 2**11, 2**40])
@pytest.mark.parametrize("spread", [0.1, 2.0, 6.0])
@pytest.mark.parametrize("rule", ["normwise", "normwise_optimal", "componentwise"])
def test_a_budget_of_all_rows_is_one_tau(rule, spread, sample, monkeypatch):
    monkeypatch.setattr(picking, "_SAMPLE", sample)
    generator = np.random.default_rng(10)
    y = spread * generator.normal(size=(80, 60))
    y[::3] = np.round(y[::3])
    y[picking.sampled(np.full(80, 60)) or slice(0)] *= 2.0  # which misleads
    z, weights = softmax(y), np.abs(y) if rule == "componentwise" else np.ones_like(y)
    lengths = generator.integers(0, 61, 80)
    of_errors = weights if rule == "componentwise" else None
    for share in (0.0, 0.01, 0.1, 0.6, 1.0):
        settings_ = LAMP(rule, budget=share, scope="all")
        mask = lamp.lookahead.select_rows(z, lengths, settings_, weights=of_errors)
        allowed = int(share * lengths.sum())
        assert mask.sum() <= allowed
        expected = within_one_tau(z, lengths, rule, weights, allowed)
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("rule", ["normwise", "normwise_optimal", "componentwise"])
@pytest.mark.parametrize("kind", ["one each", "alike", "equal", "half are peaks", "weightless"])
def test_a_budget_of_all_rows_that_are_much_alike(rule, kind, monkeypatch):
    monkeypatch.setattr(picking, "_SAMPLE", 2**9)
    monkeypatch.setattr(selection, "_ROOM", 4)
    generator = np.random.default_rng(16)
    y = 2.0 * generator.normal(size=(80, 60))
    if kind == "half are peaks":
        y[::2] *= 10.0
        y[1::2] *= 0.01
    elif kind in ("alike", "equal"):
        y[:] = y[0] if kind == "alike" else 1.0
    z = np.eye(80, 60) if kind == "one each" else softmax(y)
    weights = np.zeros_like(z) if kind == "weightless" else np.ones_like(z)
    of_errors = weights if rule == "componentwise" else None
    lengths = np.full(80, 60)
    for share in (0.0, 0.001, 0.03, 0.5, 0.99, 1.0):
        settings_ = LAMP(rule, budget=share, scope="all")
        mask = lamp.lookahead.select_rows(z, lengths, settings_, weights=of_errors)
        allowed = int(share * lengths.sum())
        taus = weights if rule == "componentwise" else np.ones_like(z)
        expected = within_one_tau(z, lengths, rule, taus, allowed)
        expected.reshape(-1)[np.flatnonzero(expected)[allowed:]] = False
        np.testing.assert_array_equal(mask, expected, err_msg=str(share))


def test_rows_with_a_nan_come_first_of_all_rows_as_far_as_is_allowed():
    z = softmax(np.random.default_rng(11).normal(size=(40, 30)))
    z[[3, 30], 5] = np.nan
    settings_ = LAMP("normwise_optimal", budget=0.02, scope="all")
    mask = lamp.lookahead.select_rows(z, np.full(40, 30), settings_)
    assert np.flatnonzero(mask).tolist() == list(range(90, 114))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [3, 8, 60, 300])
def test_the_sign_of_a_zero_says_nothing(n, dtype):
    generator = np.random.default_rng(n)
    y = np.round(6 * generator.normal(size=(80, n))) / 2
    z = softmax(3 * generator.normal(size=(80, n)))
    z[generator.random(z.shape) < generator.choice([0.1, 0.5], (80, 1))] = 0.0
    weights = np.abs(y)
    lengths = np.where(np.arange(80) % 2, n, generator.integers(0, n + 1, 80))
    arrays = [each.astype(dtype) for each in (z, y, weights)]
    signed = [np.where(each == 0.0, -each, each) for each in arrays]
    for name, rule in RULES.items():
        taus = (1.05, 1.3) if rule.condition else (0.001, 0.1)
        amounts = [{"tau": tau} for tau in taus]
        amounts += [{"budget": 0.1, "scope": scope} for scope in ("row", "all")]
        for amount in amounts:
            settings_ = LAMP(name, **amount, **({"seed": 1} if name == "random" else {}))
            masks = [
                lamp.lookahead.select_rows(
                    z,
                    lengths,
                    settings_,
                    arguments=y,
                    weights=weights if rule.power else None,
                    sensitivity=z if rule.sensitivity == "given" else None,
                )
                for z, y, weights in (arrays, signed)
            ]
            np.testing.assert_array_equal(*masks, err_msg=str(settings_))


@pytest.mark.parametrize("rule", ["normwise", "normwise_optimal", "componentwise"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_curves_say_how_many_are_picked_within_any_tau(rule, dtype):
    condition = selection.CONDITIONS[rule]
    generator = np.random.default_rng(12)
    for columns, scale in ((9, 1.0), (70, 0.1), (70, 2.0), (300, 1.5), (300, 5.0)):
        y = scale * generator.normal(size=(60, columns))
        y[::4] = np.round(y[::4])
        lengths = np.where(np.arange(60) % 2, columns, generator.integers(0, columns + 1, 60))
        z = softmax(y).astype(dtype)
        z[7, lengths[7] // 2] = np.nan
        rows = conditions.Rows(z, np.abs(y).astype(dtype), lengths)
        least, greatest = condition.taus
        greatest *= float(np.abs(y).max()) if condition.is_weighted else 1.0
        for _ in range(3):
            low, high = np.sort(generator.uniform(least, greatest, 2))
            found = conditions.curves(condition, rows, low, high, columns)
            assert (np.diff(np.where(np.isinf(found.kappas), 1e9, found.kappas)) >= 0).all()
            for tau in (low, *generator.uniform(low, high, 5)):
                number = found.counts - (found.kappas <= tau).sum(axis=1)
                mask = conditions.pick(condition, rows, tau)
                np.testing.assert_array_equal(number, mask.sum(axis=1))
                again = conditions.pick(condition, rows, 0.0, number, found.guesses)
                np.testing.assert_array_equal(again, mask)
            short = conditions.curves(condition, rows, low, high, 2)
            np.testing.assert_array_equal(short.counts, found.counts)
            np.testing.assert_array_equal(short.kappas, found.kappas[:, :2])


@numba.njit
def parts_of_searches(numbers, total, short, enough, guess, work):
    length = numbers.keys.size
    low, at_least, high, beyond = ordering.enclose(numbers, length, total, short, enough, 8, guess)
    size = ordering.gather(numbers.narrow, length, low, high, work.members)
    below = ordering.sum_below(numbers, length, low, work.given)
    above = ordering.sum_from(numbers, length, high, work.given)
    return low, at_least, high, beyond, size, below, above


def test_words_enclose_where_the_largest_numbers_sum_to_a_goal():
    generator = np.random.default_rng(13)
    for keys in (
        generator.exponential(size=200) ** 4,
        generator.integers(0, 4, 100) / 3,
        np.exp(generator.uniform(-60, 0, 333)),
        1e-40 * generator.random(33),
        1.5e-31 * generator.random(33),
        1e-29 * generator.random(100),
        1e27 * generator.random(33),
    ):
        n = len(keys)
        numbers, work = ordering.numbers_of(n), ordering.sorting(n)
        numbers.keys[:] = keys
        numbers.narrow[:] = keys.astype(np.float32).view(np.uint32)
        sums = np.concatenate([[0.0], np.add.accumulate(np.sort(keys)[::-1])])
        total = sums[-1]
        for share, width in itertools.product((-0.1, 0.0, 0.01, 0.3, 0.9, 1.0, 1.1), (0, 0.05)):
            goals = share * total, (share + width) * total
            guess = generator.choice(numbers.narrow)
            found = parts_of_searches(numbers, total, *goals, guess, work)
            low, at_least, high, beyond, size, below, above = found
            narrow = numbers.narrow
            assert at_least == (narrow >= low).sum()
            assert beyond == (narrow >= high).sum()
            between = np.flatnonzero((narrow >= low) & (narrow < high))
            np.testing.assert_array_equal(work.members[:size], between)
            assert below == pytest.approx(keys[narrow < low].sum(), rel=1e-13, abs=0)
            assert above == pytest.approx(keys[narrow >= high].sum(), rel=1e-13, abs=0)
            assert at_least == n or sums[at_least] >= goals[1]
            assert beyond == 0 or sums[beyond] <= goals[0]
            # No more than needed, but for what fixed point cannot tell.
            if 1e-28 < total < 1e28:
                unsure = total * (n + 256) / 2**30
                needed = np.searchsorted(sums, goals[1] + 2 * unsure)
                spare = np.searchsorted(sums, goals[0] - 2 * unsure, "right") - 1
                ties = max((narrow == low).sum(), (narrow == high).sum())
                assert at_least <= needed + 8 + ties
                assert beyond >= spare - 8 - ties


@numba.njit
def shares_of_sure_rows(z, tau, count, work):
    within, with_count = 0, 0
    for row in z:
        total = normwise._read(row, row.size, work)
        within += normwise._sort_for_fewest(row.size, total, tau, work)[3]
        least = np.sort(row)[row.size - count]
        with_count += normwise._is_sure_of(row.size, total, count, least, row)
    return within / len(z), with_count / len(z)


def test_long_rows_are_picked_without_sorting_them():
    generator = np.random.default_rng(6)
    rows = softmax(generator.normal(size=(50, 300)) * 2.0)
    assert min(shares_of_sure_rows(rows, 1.2, 9, conditions._work(300))) > 0.9


def test_where_costs_and_caps_are_often_equal_a_choice_is_as_good_as_any():
    generator = np.random.default_rng(7)
    for step, count in itertools.product((0.0, 0.25), (1, 5, 40)):
        for _ in range(60):
            y = 3.0 * generator.normal(size=150)
            y = np.round(y / step) * step if step else y  # scores of few bits
            z, w = softmax(y), np.abs(y)
            budget = {"budget": (count + 0.5) / 150, "scope": "row"}
            mask = select(z, rule="componentwise", weights=w, **budget)
            assert mask.sum() == count
            best = plain_componentwise(z, w, None, count)
            if not step:
                np.testing.assert_array_equal(mask, best)
            kappas = [componentwise_condition(z, w, each) for each in (mask, best)]
            assert kappas[0] == pytest.approx(kappas[1], rel=1e-12)


# --- optimality, by brute force over all subsets --------------------------------------------------


def componentwise_condition(row, weights, mask):
    """sum w z + max(0, max w (1 - 2 z)) over the components that are not selected."""
    left = ~mask
    if not left.any():
        return 0.0
    return (weights * row)[left].sum() + max(0.0, (weights * (1 - 2 * row))[left].max())


def subsets(n):
    return np.array(list(itertools.product([False, True], repeat=n)))


def fewest(conditions, masks, tau):
    """The least number of components with which a condition is at most tau."""
    return masks[conditions <= tau].sum(axis=1).min()


short_rows = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.floats(-5, 5, width=16)),
        hnp.arrays(np.float64, n, elements=st.floats(0, 4, width=16)),
    )
)


@settings(max_examples=150)
@given(short_rows, st.floats(1.001, 2.0))
def test_the_authors_rule_takes_at_most_one_too_many_and_the_optimal_one_none(row, tau):
    z = softmax(row[0])
    masks = subsets(len(z))
    conditions = np.array([condition(z, mask) for mask in masks])
    best = fewest(conditions, masks, tau)
    # Within the rounding of sums the condition may be met or not.
    assert fewest(conditions, masks, tau + 1e-12) <= select(
        z, rule="normwise_optimal", tau=tau
    ).sum() <= fewest(conditions, masks, tau - 1e-12)  # fmt: skip
    assert condition(z, select(z, rule="normwise_optimal", tau=tau)) <= tau + 1e-12
    assert select(z, tau=tau).sum() <= best + 1


def test_the_authors_rule_does_take_one_too_many():
    generator = np.random.default_rng(3)
    excess = []
    for _ in range(500):
        z = softmax(generator.normal(size=generator.integers(3, 12)))
        tau = generator.uniform(1.0, 2.0)
        taken, fewest_ = (
            select(z, rule=rule, tau=tau).sum() for rule in ("normwise", "normwise_optimal")
        )
        excess.append(taken - fewest_)
    assert set(excess) == {0, 1}
    assert sum(excess) > 5


@settings(max_examples=150)
@given(short_rows, st.floats(0.01, 4.0))
def test_componentwise_takes_the_fewest(row, tau):
    z, w = softmax(row[0]), row[1]
    masks = subsets(len(z))
    conditions = np.array([componentwise_condition(z, w, mask) for mask in masks])
    mask = select(z, rule="componentwise", tau=tau, weights=w)
    assert componentwise_condition(z, w, mask) <= tau + 1e-12
    low, high = (fewest(conditions, masks, tau + sign * 1e-12) for sign in (1, -1))
    assert low <= mask.sum() <= high


@settings(max_examples=100)
@given(short_rows, st.floats(0, 1))
def test_budgets_of_a_row_are_spent_best(row, share):
    z, w = softmax(row[0]), row[1]
    count = int(np.floor(share * len(z)))
    masks = subsets(len(z))
    masks = masks[masks.sum(axis=1) == count]
    for rule, of in (
        ("normwise_optimal", lambda mask: condition(z, mask)),
        ("componentwise", lambda mask: componentwise_condition(z, w, mask)),
    ):
        weights = {"weights": w} if rule == "componentwise" else {}
        mask = select(z, rule=rule, budget=share, scope="row", **weights)
        assert mask.sum() == count
        assert of(mask) <= min(map(of, masks)) + 1e-12


VALUES = np.random.default_rng(4).normal(size=(9, 3))


@settings(max_examples=100)
@given(short_rows, st.floats(0, 1))
def test_the_largest_scores_leave_the_least(row, share):
    z, w = softmax(row[0]), row[1]
    values = VALUES[: len(z)]
    distances = np.linalg.norm(values - z @ values, axis=1)
    count = int(np.floor(share * len(z)))
    masks = subsets(len(z))
    masks = masks[masks.sum(axis=1) == count]
    for rule, scores in (
        ("total_variation", w * z * (1 - z)),
        ("kl", w**2 * z * (1 - z)),
        ("value_aware", w * z * distances),
        ("activation", w * distances),
        ("norm", w * distances),
        ("largest", z),
    ):
        options = {} if rule == "largest" else {"weights": w}
        if rule == "value_aware":
            options["values"] = values
        if rule in ("activation", "norm"):
            options["sensitivity"] = distances
        for scope in ("row", "all"):
            mask = select(z, rule=rule, budget=share, scope=scope, **options)
            assert mask.sum() == count
            left = [scores[~other].sum() for other in masks]
            assert scores[~mask].sum() <= min(left) + 1e-6


# --- budgets, masks, ties, NaN --------------------------------------------------------------------


def batch():
    generator = np.random.default_rng(5)
    y = generator.normal(size=(3, 7, 20)) * 2
    return softmax(y), y, generator.integers(1, 21, (3, 7))


def options_of(rule, z):
    if RULES[rule].of_arguments:
        return {"y": np.log(z + 1e-9)}
    if rule == "value_aware":
        return {"values": np.random.default_rng(6).normal(size=(z.shape[0], z.shape[-1], 4))}
    if rule in ("activation", "norm"):
        return {"sensitivity": z * 2}
    return {}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scope", ["row", "all"])
def test_budgets_are_kept_by_every_rule(rule, scope):
    z, _, lengths = batch()
    exists = np.arange(20) < lengths[..., None]
    z = np.where(exists, z, 0.0)
    z /= z.sum(axis=-1, keepdims=True)
    for share in (0.0, 0.1, 0.37, 1.0):
        mask = select(
            z, rule=rule, budget=share, scope=scope, row_lengths=lengths, **options_of(rule, z)
        )
        assert not (mask & ~exists).any()
        if scope == "row":
            np.testing.assert_array_equal(mask.sum(-1), np.floor(share * lengths))
            continue
        allowed = int(np.floor(share * lengths.sum()))
        if RULES[rule].condition and rule != "random":
            assert mask.sum() <= allowed
            assert mask.sum() >= allowed - 25  # one tau for all rows takes steps
        else:
            assert mask.sum() == allowed


@pytest.mark.parametrize("rule", [name for name in RULES if name != "random"])
def test_rows_of_a_batch_do_not_depend_on_each_other(rule):
    z, _, lengths = batch()
    z = np.where(np.arange(20) < lengths[..., None], z, 0.0)
    tau = 1.3 if RULES[rule].condition else 0.05
    options = options_of(rule, z)
    whole = select(z, rule=rule, tau=tau, row_lengths=lengths, **options)
    for i, j in np.ndindex(3, 7):
        n = lengths[i, j]
        part = {name: x[i][:n] if name == "values" else x[i, j][:n] for name, x in options.items()}
        # To the normwise rule masked positions are zeros of the row.
        row, length = (z[i, j], n) if rule == "normwise" else (z[i, j, :n], n)
        alone = select(row, rule=rule, tau=tau, row_lengths=length, **part)
        np.testing.assert_array_equal(whole[i, j, :n], alone[:n])
        assert not whole[i, j, n:].any()


@pytest.mark.parametrize("rule", RULES)
def test_the_same_choice_on_any_number_of_threads_and_in_any_layout(rule):

    generator = np.random.default_rng(7)
    z = softmax(generator.normal(size=(300, 40)))
    tau = 1.2 if RULES[rule].condition else 0.03
    options = options_of(rule, z[None]) | (
        {"values": generator.normal(size=(40, 4))} if rule == "value_aware" else {}
    )
    for name in {"sensitivity", "y"} & set(options):
        options[name] = options[name][0]

    def masks(z):
        return [
            select(z, rule=rule, **amount, **options)
            for amount in ({"tau": tau}, {"budget": 0.1}, {"budget": 0.1, "scope": "row"})
        ]

    expected = masks(z)
    for threads in (1, 3):
        with on_threads(threads):
            np.testing.assert_array_equal(masks(z), expected)
    np.testing.assert_array_equal(masks(np.asfortranarray(z)), expected)


@pytest.mark.parametrize("rule", ["normwise", "normwise_optimal", "componentwise"])
def test_many_rows_of_equal_numbers_on_any_number_of_threads(rule, monkeypatch):
    monkeypatch.setattr(picking, "_SAMPLE", 2**13)
    y = np.round(4.0 * np.random.default_rng(14).normal(size=(3000, 50))) / 2
    z = softmax(y)
    weights = {"weights": np.abs(y)} if rule == "componentwise" else {}
    amounts = [{"tau": 1.3}, {"budget": 0.1}, {"budget": 0.1, "scope": "row"}]
    masks = []
    for threads in (1, 2, 3):
        with on_threads(threads):
            masks.append([select(z, rule=rule, **weights, **each) for each in amounts])
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])


def test_infinite_weights_pick_their_rows_and_bound_no_tau():
    generator = np.random.default_rng(15)
    y = generator.normal(size=(40, 30))
    z, w = softmax(y), np.abs(y)
    w[4, 7] = np.inf
    mask = select(z, rule="componentwise", budget=0.1, weights=w)
    assert mask[4].all()
    rest = np.delete(np.arange(40), 4)
    expected = within_one_tau(z[rest], np.full(39, 30), "componentwise", w[rest], 120 - 30)
    np.testing.assert_array_equal(mask[rest], expected)


def test_of_equal_scores_the_first_are_taken():
    z = np.full((2, 4), 0.25)
    for rule in ("total_variation", "kl", "largest"):
        np.testing.assert_array_equal(
            select(z, rule=rule, budget=0.5, scope="row"), [[True, True, False, False]] * 2
        )
        mask = select(z, rule=rule, budget=3 / 8)
        np.testing.assert_array_equal(mask, [[True, True, True, False], [False] * 4])


def test_many_equal_scores_are_taken_from_the_front_over_all_pieces():
    generator = np.random.default_rng(8)
    z = generator.choice([0.0, 0.25, 0.5], (50, 40))
    for share in (0.1, 0.5, 0.9):
        mask = select(z, rule="largest", budget=share).ravel()
        count = int(np.floor(share * z.size))
        expected = np.zeros(z.size, bool)
        expected[np.argsort(-z.ravel(), kind="stable")[:count]] = True
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("rule", [name for name in RULES if name != "random"])
def test_what_is_not_a_number_comes_first(rule):
    z = softmax(np.random.default_rng(9).normal(size=(4, 6)))
    z[1] = np.nan  # a row that overflowed
    tau = 1.99 if RULES[rule].condition else 0.9
    options = options_of(rule, z[None])
    options = {name: x[0] for name, x in options.items()}
    mask = select(z, rule=rule, tau=tau, **options)
    assert mask[1].all()
    assert not mask[[0, 2, 3]].all(axis=1).any()
    few = select(z, rule=rule, budget=4 / 24, **options)
    np.testing.assert_array_equal(few.sum(axis=1), [0, 4, 0, 0])
    if not RULES[rule].condition:
        budget = select(z, rule=rule, budget=6 / 24, **options)
        np.testing.assert_array_equal(budget.sum(axis=1), [0, 6, 0, 0])
        infinite = select(
            np.full((1, 3), 1 / 3), rule="kl", budget=1 / 3, weights=[[1.0, np.inf, 2.0]]
        )
        np.testing.assert_array_equal(infinite, [[False, True, False]])


def test_leading_columns_may_always_be_exact():
    z = softmax(np.random.default_rng(10).normal(size=(5, 10)))
    for rule in ("kl", "total_variation", "normwise", "componentwise", "random"):
        tau = 1.9 if RULES[rule].condition else 0.2
        plain = select(z, rule=rule, tau=tau)
        mask = select(z, rule=rule, tau=tau, leading_columns=2)
        np.testing.assert_array_equal(mask[:, :2], True)
        if rule != "random":
            np.testing.assert_array_equal(mask[:, 2:], plain[:, 2:])
    mask = select(z, rule="kl", budget=0.3, leading_columns=2)
    assert mask.sum() == 15
    assert mask[:, :2].all()


def test_sensitivities_come_from_compositions():
    generator = np.random.default_rng(11)
    y = generator.normal(size=(4, 8))
    gelu = Entrywise("gelu_new")
    norms = np.linalg.norm(generator.normal(size=(8, 5)), axis=1)
    w = np.abs(y)
    mask = select(
        gelu.value(y), y, rule="activation", tau=0.5, weights="abs",
        sensitivity=gelu.sensitivity(y), consumer=norms,
    )  # fmt: skip
    np.testing.assert_array_equal(mask, w * np.abs(gelu.slope(y)) * norms > 0.5)
    norm = LayerNorm()
    mask = select(norm.value(y), rule="norm", budget=0.25, sensitivity=norm.sensitivity(y, 2))
    scores = np.linalg.norm(norm.jacobian(y), axis=-2)
    assert scores[mask].min() >= scores[~mask].max()
    values = generator.normal(size=(8, 3))
    z = softmax(y)
    mask = select(z, rule="value_aware", budget=0.5, values=values)
    scores = SoftmaxProduct(values).sensitivity(y, 2)
    assert scores[mask].min() >= scores[~mask].max()


def test_random_budgets_are_uniform():
    z = np.full((2000, 10), 0.1)
    mask = select(z, rule="random", budget=0.3, scope="row")
    np.testing.assert_array_equal(mask.sum(axis=1), 3)
    assert np.abs(mask.mean(axis=0) - 0.3).max() < 5 * np.sqrt(0.21 / 2000)
    whole = select(z, rule="random", budget=0.3)
    assert whole.sum() == 6000
    assert (whole != select(z, rule="random", budget=0.3, seed=1)).any()


TEXTS = {
    "softmax:tv:0.01": LAMP("total_variation", tau=0.01),
    "softmax:normwise:1.2": LAMP(tau=1.2),
    "softmax:kl:7%:weights=running_2:scope=row": LAMP(
        "kl", budget=0.07, weights="running_2", scope="row"
    ),
    "norm:norm:1%": LAMP("norm", budget=0.01),
    "activation:random:12.5%:seed=7": LAMP("random", budget=0.125, seed=7, on="activation"),
    "softmax:value_aware:1e-3:leading_columns=1": LAMP("value_aware", tau=1e-3, leading_columns=1),
    "softmax:kl:10%,0%,1%:weights=abs": LAMP("kl", budget=(0.1, 0.0, 0.01), weights="abs"),
    "softmax:normwise:1.1,1.5": LAMP(tau=(1.1, 1.5)),
    "softmax:kl:0.5": LAMP("kl", tau=(0.5,)),
}


@pytest.mark.parametrize("text", TEXTS)
def test_settings_in_words(text):
    assert LAMP.parse(text) == TEXTS[text]
    assert LAMP.parse(str(TEXTS[text])) == TEXTS[text]


@given(st.floats(0, 1), st.booleans(), st.sampled_from(list(RULES.values())))
def test_settings_survive_being_written_down(amount, is_budget, rule):
    tau = 1 + max(amount, 2**-50) if rule.name in ("normwise", "random") else amount
    chosen = LAMP(rule.name, **({"budget": amount} if is_budget else {"tau": tau}))
    assert LAMP.parse(str(chosen)) == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tv:0.01", "begins with 'tv': expected one of softmax, norm, activation"),
        ("softmax:tv", "is not PLACE:RULE:AMOUNT"),
        ("softmax:tv:much", "'much' is neither a tau nor a share in percent"),
        ("softmax:tw:0.1", "unknown rule 'tw'"),
        ("softmax:tv:101%", r"budget must be a share in \[0, 1\], not 1.01"),
        ("softmax:norm:1%", "rule 'norm' with a budget is for norm, not 'softmax'"),
        ("softmax:tv:1%:weight=abs", "'weight=abs' is not one of weights=..., seed=..."),
        ("softmax:random:1%:seed=x", "invalid literal"),
        ("softmax:tv:10%,0.1", "'10%,0.1' mixes taus with shares in percent"),
        ("softmax:tv:10%,", "mixes"),
        ("softmax:tv:0.2,0.1", r"several tau must ascend, unlike \(0.2, 0.1\)"),
        ("softmax:tv:0.2,0.2", "several tau must ascend"),
        ("softmax:normwise:1.2,2.1", r"tau of normwise must lie in \(1, 2\], not 2.1"),
        ("softmax:tv:60%,50%", r"budgets must sum to 1 at most, unlike \(0.6, 0.5\)"),
        ("softmax:tv:10%,101%", r"budget must be a share in \[0, 1\], not 1.01"),
        ("softmax:componentwise:0.2,0.3", "rule 'componentwise' takes one amount"),
        ("softmax:normwise_optimal:10%,5%", "rule 'normwise_optimal' takes one amount"),
    ],
)
def test_settings_in_wrong_words_are_refused(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        LAMP.parse(text)
    assert str(caught.value).startswith(repr(text))


def test_numbers_of_numpy_are_numbers():
    plain = LAMP("random", budget=0.25, seed=7, leading_columns=1)
    same = LAMP("random", budget=np.float32(0.25), seed=np.int64(7), leading_columns=np.uint8(1))
    assert str(same) == str(plain)
    assert LAMP.parse(str(same)) == plain
    assert str(LAMP(tau=np.float64(1.2))) == "softmax:normwise:1.2"
    assert str(LAMP("kl", tau=1)) == str(LAMP("kl", tau=1.0))
    z = softmax(np.random.default_rng(12).normal(size=(4, 9)))
    np.testing.assert_array_equal(
        select(z, rule=same, stream=np.int16(3)), select(z, rule=plain, stream=3)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tau": "1.2"}, "tau must be a number, not '1.2'"),
        ({"rule": "kl", "budget": 1j}, "budget must be a number, not 1j"),
        ({"rule": "random", "budget": 0.1, "seed": 1.5}, "seed must be an integer, not 1.5"),
        ({"rule": "kl", "tau": (0.1, "0.2")}, "tau must be a number, not '0.2'"),
        ({"tau": 1.5, "leading_columns": None}, "leading_columns must be an integer, not None"),
    ],
)
def test_settings_that_are_no_numbers_are_refused(fields, message):
    with pytest.raises(TypeError, match=message):
        LAMP(**fields)


def plain_levels(z, y, rule, **amounts):
    """By which of two products each component is recomputed, from the definition of a rule."""
    if rule == "normwise":
        low, high = (np.array([authors_rule(row, tau) for row in z]) for tau in amounts["tau"])
        return np.where(high, 2, np.where(low, 1, 0))
    scores = np.abs(y) ** 2 * z * (1 - z) if rule == "kl" else z
    if "tau" in amounts:
        low, high = amounts["tau"]
        return np.where(scores > high, 2, np.where(scores > low, 1, 0))
    low, high = (int(share * scores.size + 1e-9) for share in amounts["budget"])
    order, levels = np.argsort(-scores, axis=None, kind="stable"), np.zeros(scores.size, int)
    levels[order[: low + high]] = 1
    levels[order[:high]] = 2
    return levels.reshape(scores.shape)


@pytest.mark.parametrize(
    ("rule", "amounts"),
    [
        ("kl", {"budget": (0.2, 0.1)}),
        ("kl", {"tau": (0.01, 0.2)}),
        ("largest", {"budget": (0.25, 0.0)}),
        ("largest", {"budget": (0.0, 0.25)}),
        ("normwise", {"tau": (1.1, 1.6)}),
    ],
)
def test_the_highest_scores_are_for_the_highest_precision(rule, amounts):
    y = np.random.default_rng(5).normal(0, 2, (20, 30))
    z = softmax(y)
    levels = select(z, y, rule=rule, weights="abs" if rule == "kl" else None, **amounts)
    expected = plain_levels(z, y, rule, **amounts)
    np.testing.assert_array_equal(levels, expected)
    assert levels.dtype == np.uint8
    assert set(np.unique(levels)) == {0, 1, 2} - {
        number for number, share in enumerate(amounts.get("budget", ()), 1) if not share
    }


def test_taus_in_proportion_to_bits_over_errors_are_optimal():
    """Against all choices of a precision for each of eight components, see mathematics.md."""
    generator = np.random.default_rng(7)
    bits, errors = np.array([0, 10, 16]), np.array([1.0, 2.0**-4, 2.0**-6])
    ratios = np.diff(bits) / -np.diff(errors)
    choices = np.array(list(itertools.product(range(3), repeat=8)))
    costs, used = bits[choices].sum(axis=1), set()
    for scale in (1e-4, 1e-3, 1e-2):
        z, weights = softmax(generator.normal(size=8)), generator.exponential(size=8)
        taus = tuple((scale * ratios).tolist())
        levels = select(z, rule="kl", tau=taus, weights=weights)
        scores = weights**2 * z * (1 - z)
        left = (scores * errors[choices]).sum(axis=1)
        affordable = costs <= bits[levels].sum()
        assert (scores * errors[levels]).sum() == pytest.approx(left[affordable].min(), rel=1e-12)
        used |= set(levels.tolist())
    assert used == {0, 1, 2}


@pytest.mark.parametrize("control", ["causal", "padded"])
def test_a_control_moves_all_precisions_together(control):
    z = softmax(np.random.default_rng(6).normal(0, 2, (50, 16)))
    lengths = np.arange(1, 51).clip(max=16)
    options = {"rule": "largest", "budget": (0.2, 0.1), "row_lengths": lengths}
    levels, moved = (select(z, control=each, **options) for each in ("none", control))
    assert (moved != levels).any()
    counts = [[(each == level).sum(axis=1) for level in (1, 2)] for each in (levels, moved)]
    assert (np.array(counts[1]) <= counts[0]).all()  # what falls on masked columns is lost
    assert np.array_equal(*counts) == (control == "causal")
    assert not moved[np.arange(16) >= lengths[:, np.newaxis]].any()


def test_several_amounts_of_nothing_are_levels_too():
    assert select(np.zeros((0, 4)), rule="largest", budget=(0.1, 0.1)).dtype == np.uint8
    assert select(np.zeros((0, 4)), rule="largest", budget=0.1).dtype == np.bool_


@pytest.mark.parametrize(
    "again",
    [
        {"tau": 1.99, "budget": 0.5},
        {"tau": 1.2},
        {"budget": 0.5},
        {"seed": 0},
        {"scope": "all"},
        {"leading_columns": 0},
        {"weights": "one"},
    ],
)
def test_settings_beside_a_rule_that_has_them_are_refused(again):
    with pytest.raises(TypeError, match=f"has all settings already, and {next(iter(again))}="):
        select([0.6, 0.4], rule=LAMP(tau=1.2), **again)


def test_weights_in_numbers_go_with_any_rule():
    z = np.array([0.5, 0.3, 0.2])
    rule = LAMP("total_variation", budget=0.4, weights="products")
    np.testing.assert_array_equal(
        select(z, rule=rule, weights=[1.0, 9.0, 1.0]), [False, True, False]
    )


@pytest.mark.parametrize("number", [1.5, np.float64(1.5), np.float32(1.5), Fraction(3, 2)])
def test_equal_numbers_make_equal_settings_and_texts(number):
    settings_ = LAMP(tau=number)
    assert (settings_, str(settings_)) == (LAMP(tau=1.5), "softmax:normwise:1.5")
    assert LAMP.parse(str(settings_)) == settings_
    assert eval(repr(settings_), {"lamp": lamp}) == settings_
    whole = [str(LAMP(tau=each)) for each in (2, 2.0, np.int64(2), np.float32(2))]
    assert len(set(whole)) == 1


@pytest.mark.parametrize(
    "fields", [{"tau": True}, {"budget": True}, {"seed": True}, {"leading_columns": np.True_}]
)
def test_truth_is_no_number(fields):
    with pytest.raises(TypeError, match=next(iter(fields))):
        LAMP("kl", **{"tau": 0.5} | fields if "budget" not in fields else fields)


def test_places_take_their_own_rules_alone():
    with pytest.raises(ValueError, match="softmax must be a rule for that place, not norm:norm"):
        LookAhead(softmax=LAMP("norm", budget=0.1))
    with pytest.raises(TypeError, match="norm must be a LAMP or None, not 'norm:norm:1%'"):
        LookAhead(norm="norm:norm:1%")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 4), (2, 0, 3)])
def test_nothing_is_picked_of_nothing(rule, shape):
    z = np.zeros(shape)
    values = np.zeros((*shape[:-2], shape[-1], 2))
    options = {"values": values} if rule == "value_aware" else {"sensitivity": z}
    tau = 1.5 if RULES[rule].condition else 0.5
    for amount in ({"budget": 0.5}, {"budget": 0.5, "scope": "row"}, {"tau": tau}):
        mask = select(z, rule=rule, **amount, **options)
        assert (mask.shape, mask.dtype) == (shape, np.bool_)
