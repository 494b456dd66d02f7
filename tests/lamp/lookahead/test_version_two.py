"""The rules of the paper's second version against a plain transcription of their formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import exp, mp, mpf

import lamp
from lamp import LAMP
from lamp._kernels import picking
from lamp.lookahead import select_rows


def plain_strict(z, y, tau):
    return [2 * p * (1 - p) * abs(x) > tau for p, x in zip(z, y, strict=True)]


def plain_relaxed(y, tau):
    """As published, in enough digits and range that nothing overflows or ties by rounding."""
    with mp.workdps(60):
        scores = [abs(mpf(x)) * exp(mpf(x)) for x in y]
        return [score > mpf(tau) * max(scores) for score in scores]


def softmax(y):
    e = np.exp(y - y.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def many_rows():
    """Random rows of many spreads, some with ties, zeros, and numbers whose exp overflows."""
    generator = np.random.default_rng(1)
    y = generator.normal(size=(10_000, 12)) * np.exp2(generator.integers(-6, 11, (10_000, 1)))
    y[::5, 3] = y[::5, 7]
    y[::7, 2] = 0.0
    y[::11] = np.round(y[::11])
    return y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_are_those_of_the_published_formulas(dtype):
    y = many_rows().astype(dtype)
    z = softmax(y).astype(dtype)
    lengths = np.full(len(y), y.shape[1])
    for tau in (0.0, 1e-3, 0.03, 0.5, 1.0):
        strict = select_rows(z, lengths, LAMP("strict", tau), arguments=y)
        wide = z.astype(np.float64), y.astype(np.float64)
        np.testing.assert_array_equal(strict, 2 * wide[0] * (1 - wide[0]) * np.abs(wide[1]) > tau)
        relaxed = select_rows(z, lengths, LAMP("relaxed", tau), arguments=y)
        expected = [plain_relaxed(row, tau) for row in y[:300].tolist()]
        np.testing.assert_array_equal(relaxed[:300], expected)
        # All others in the logarithm, which the first ones show to be the same.
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.log(np.abs(wide[1])) + wide[1]
            above = scores - scores.max(axis=1, keepdims=True) - np.log(tau)
        certain = ~(np.abs(above) < 1e-12)
        np.testing.assert_array_equal(relaxed[certain], above[certain] > 0)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(-800, 800), min_size=1, max_size=9),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 64),
)
def test_thresholds_shrink_as_rows_grow(row, tau, length):
    y = np.array(row)
    scaled = min(1.0, tau * np.sqrt(length / len(row))) if length else tau
    given_ = lamp.select(softmax(y), y, rule="relaxed", tau=tau, length=length)
    np.testing.assert_array_equal(given_, lamp.select(softmax(y), y, rule="relaxed", tau=scaled))
    strict = lamp.select(softmax(y), y, rule="strict", tau=tau, length=length)
    assert strict.tolist() == plain_strict(softmax(y), y, scaled)


def test_strict_is_total_variation_with_weights_abs_and_half_of_tau():
    y = many_rows()[:500]
    z = softmax(y)
    half = lamp.select(z, y, rule="total_variation", weights="abs", tau=0.05)
    strict = lamp.select(z, y, rule="strict", tau=0.1)
    close = np.isclose(2 * z * (1 - z) * np.abs(y), 0.1, rtol=1e-6)  # of scores in float32
    np.testing.assert_array_equal(strict[~close], half[~close])
    for scope in ("row", "all"):
        np.testing.assert_array_equal(
            lamp.select(z, y, rule="strict", budget=0.2, scope=scope),
            lamp.select(z, y, rule="total_variation", weights="abs", budget=0.2, scope=scope),
        )


def test_a_budget_of_the_relaxed_rule_takes_its_largest_scores():
    y = many_rows()[1:200] / 8 + 1e-3  # no row is all zeros
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.log(np.abs(y)) + y
        scores -= scores.max(axis=1, keepdims=True)
    mask = lamp.select(softmax(y), y, rule="relaxed", budget=0.25, scope="row")
    assert (mask.sum(axis=1) == 3).all()
    for row, picked in zip(scores, mask, strict=True):
        assert row[picked].min() >= row[~picked].max() - 1e-6 * abs(row[~picked].max())


def plain_order(y, lengths):
    """Scores as float32 numbers, NaN for what comes first and -1 where there is no component."""
    wide = y.astype(np.float64)
    exists = np.arange(y.shape[1]) < lengths[:, np.newaxis]
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.log(np.abs(wide)) + wide
        tops = np.where(exists & (wide != -np.inf), scores, -np.inf).max(axis=1, keepdims=True)
        relative = np.where((tops == -np.inf) & (wide == 0.0), -np.inf, scores - tops)
        numbers = (1.0 / (1.0 - np.where(tops < np.inf, relative, np.nan))).astype(np.float32)
    return np.where(exists, numbers, np.float32(-1.0))


def first_of(scores, count):
    """The places of the largest of flat scores, NaN first and of equal ones the first."""
    keys = np.where(np.isnan(scores), np.inf, scores)
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-keys, kind="stable")[:count]] = True
    return mask


def strange_rows(normal):
    generator, y = np.random.default_rng(9), 3.0 * normal
    for number in (-np.inf, np.nan, np.inf, 0.0, -0.0, 5e-324):
        y[generator.integers(0, len(y), 20), generator.integers(0, 256, 20)] = number
    y[7] = 0.0
    return y


ARGUMENTS = {
    "usual": lambda normal: 2.5 * normal,
    "often equal": lambda normal: np.round(2.5 * normal * 4) / 4,
    "equal in float32": lambda normal: 3.0 + np.round(20.0 * normal) * 2.0**-21,
    "large": lambda normal: 1e4 * normal,
    "negative": lambda normal: -np.abs(normal) - 0.1,
    "between": lambda normal: 0.3 * normal,
    "flat": lambda normal: 4.0 + 1e-3 * normal,
    "strange": strange_rows,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("most", "sampled"),
    [*((name, name) for name in ARGUMENTS), ("usual", "flat"), ("flat", "usual")],
)
def test_budgets_of_the_relaxed_rule_are_as_if_all_scores_were_sorted(
    most, sampled, dtype, monkeypatch
):
    monkeypatch.setattr(picking, "_SAMPLE", 2**12)
    generator = np.random.default_rng(6)
    lengths = generator.integers(0, 257, 400)
    lengths[::2] = 256
    rows = picking.sampled(lengths)
    assert rows.step > 1
    normal = generator.normal(size=(400, 256))
    y = ARGUMENTS[most](normal)
    y[rows] = ARGUMENTS[sampled](normal)[rows]  # which may mislead
    y = y.astype(dtype)
    scores = plain_order(y, lengths)
    for share in (0.0, 0.001, 0.03, 0.5):
        of_rows = LAMP("relaxed", budget=share, scope="row")
        mask = select_rows(y, lengths, of_rows, arguments=y)
        counts = np.floor(share * lengths).astype(int)
        expected = [first_of(*row) for row in zip(scores, counts, strict=True)]
        np.testing.assert_array_equal(mask, expected)
        mask = select_rows(y, lengths, LAMP("relaxed", budget=share, scope="all"), arguments=y)
        expected = first_of(scores.ravel(), int(share * lengths.sum()))
        np.testing.assert_array_equal(mask.ravel(), expected)


def test_leading_columns_come_before_all_others_of_a_budget():
    y = (3.0 * np.random.default_rng(7).normal(size=(300, 256))).astype(np.float32)
    lengths = np.full(300, 256)
    scores = plain_order(y, lengths)
    scores[:, :2] = np.nan
    for scope, expected in (
        ("row", [first_of(row, 7) for row in scores]),
        ("all", first_of(scores.ravel(), 2304).reshape(y.shape)),
    ):
        settings_ = LAMP("relaxed", budget=0.03, scope=scope, leading_columns=2)
        np.testing.assert_array_equal(select_rows(y, lengths, settings_, arguments=y), expected)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.0, 0.0, 0.0], [False, False, False]),  # all zero: none is sensitive
        ([-0.0, 5.0, 5.0], [False, True, True]),  # equal scores are equal
        ([1.0, np.nan, -3.0], [True, True, True]),
        ([0.0, np.nan, 0.0], [True, True, True]),
        ([1.0, np.inf, -3.0], [True, True, True]),
        ([1.0, -np.inf, -3.0], [True, True, False]),
        ([-np.inf, -np.inf, -np.inf], [True, True, True]),
        ([-np.inf, 0.0, 0.0], [True, False, False]),
        ([3e4, 2e4, 3e4], [True, False, True]),  # exp overflows
        ([-2.0, -1.0, -9000.0], [True, True, False]),
        ([7.0], [True]),
    ],
)
def test_strange_rows_of_the_relaxed_rule(row, expected):
    y = np.array([row])
    mask = select_rows(y, np.array([len(row)]), LAMP("relaxed", 0.5), arguments=y)
    np.testing.assert_array_equal(mask[0], expected)


def test_a_tau_of_one_keeps_nothing_and_masked_components_are_out():
    y = np.array([[1.0, 4.0, 9.0], [2.0, 2.0, 9.0]])
    lengths = np.array([3, 2])
    assert not select_rows(y, lengths, LAMP("relaxed", 1.0), arguments=y).any()
    mask = select_rows(y, lengths, LAMP("relaxed", 0.9), arguments=y)
    np.testing.assert_array_equal(mask, [[False, False, True], [True, True, False]])
    leading = select_rows(y, lengths, LAMP("relaxed", 1.0, leading_columns=1), arguments=y)
    np.testing.assert_array_equal(leading, [[True, False, False], [True, False, False]])


@pytest.mark.parametrize("rule", ["strict", "relaxed", "normwise", "total_variation"])
def test_controls_move_what_a_rule_picks(rule):
    generator = np.random.default_rng(2)
    y = generator.normal(size=(400, 24)) * 2
    lengths = generator.integers(1, 25, 400)
    z = softmax(np.where(np.arange(24) < lengths[:, None], y, -np.inf))
    tau = {"normwise": 1.3}.get(rule, 0.05)
    exists = np.arange(24) < lengths[:, None]

    def mask(control, seed=0):
        settings_ = LAMP(rule, tau, control=control, seed=seed)
        return select_rows(z, lengths, settings_, arguments=y)

    plain, causal, padded = (mask(control) for control in ("none", "causal", "padded"))
    assert not (causal & ~exists).any()
    assert not (padded & ~exists).any()
    np.testing.assert_array_equal(causal.sum(axis=1), plain.sum(axis=1))
    # Of k components on n of 24 columns, k n / 24 stay on the average.
    expected = (plain.sum(axis=1) * lengths / 24).sum()
    assert abs(padded.sum() - expected) < 6 * np.sqrt(expected)
    assert (causal != plain).any()
    assert (mask("causal", 1) != causal).any()
    np.testing.assert_array_equal(mask("padded"), padded)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LAMP("relaxed", 1.5), r"tau of relaxed must lie in \[0, 1\], not 1.5"),
        (lambda: LAMP("strict", -1.0), r"tau of strict must lie in \[0, inf\)"),
        (lambda: LAMP("strict", float("inf")), "inf"),
        (lambda: LAMP("normwise", 1.0), r"\(1, 2\]"),
        (lambda: LAMP("kl", 0.1, length=1024), "length belongs to the rules strict and relaxed"),
        (lambda: LAMP("strict", budget=0.1, length=9), "with a tau"),
        (lambda: LAMP("strict", 0.1, length=-1), "length must be at least 0"),
        (lambda: LAMP("strict", 0.1, weights="abs"), "takes no weights"),
        (lambda: LAMP("random", 1.2, control="causal"), "is a control itself"),
        (lambda: LAMP("strict", 0.1, control="all"), "unknown control 'all'"),
        (lambda: lamp.select([0.5, 0.5], rule="strict", tau=0.1), "needs the arguments y"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_text_forms():
    text = "softmax:relaxed:0.03:length=1024:control=padded"
    assert str(LAMP.parse(text)) == text
    assert LAMP.parse(text) == LAMP("relaxed", 0.03, length=1024, control="padded")
    assert not LAMP.parse(text).is_causal
    assert LAMP("relaxed", 0.03).is_causal
