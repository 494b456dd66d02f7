"""What users test their own bounds with."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fpemu
from lamp import bounds, testing
from lamp._kernels.rows import outward
from lamp.bounds.compositions import Composition, Softmax


class Doubled(Composition):
    """A composition that states too little, or just enough."""

    name = "twice y"

    def __init__(self, stated):
        self.stated = stated

    def value(self, y):
        return 2 * np.asarray(y, float)

    def value_mpmath(self, y):
        return [2 * x for x in y]

    def jacobian_product(self, y, direction):
        return 2 * np.broadcast_to(direction, np.shape(y))

    def amplified(self, y, errors):
        return self.stated * np.broadcast_to(errors, np.shape(y))

    def enclosure(self, y, errors):
        return self.amplified(y, errors)


TIE = np.array([[1.0]]), np.array([[1.0 + 2.0**-7, 1.5]])


def test_a_statement_that_is_right_passes_and_one_that_is_wrong_does_not():
    accumulator = fpemu.Sequential("e8m6")
    ratios = testing.assert_bound_holds(Doubled(2.0), *TIE, accumulator)
    assert ratios.shape == (1, 2)
    assert 0.9 < ratios.max() <= 1
    assert ratios[0, 1] == 0
    with pytest.raises(AssertionError) as failure:
        testing.assert_bound_holds(Doubled(1.0), *TIE, accumulator)
    message = str(failure.value)
    assert "component (0, 0) of twice y is 2.0, off by 1." in message
    assert "sequential(e8m6, rne), deterministic bound" in message


def test_what_a_composition_leaves_out_is_made_of_the_rest():
    y = np.array([1.0, -2.0])
    doubled = Doubled(2.0)
    np.testing.assert_array_equal(doubled.jacobian(y), 2 * np.eye(2))
    np.testing.assert_array_equal(doubled.sensitivity(y), [2.0, 2.0])
    np.testing.assert_array_equal(doubled.sensitivity(y, 2), [2.0, 2.0])
    np.testing.assert_array_equal(doubled.output_condition(y), [1.0, 1.0])

    class Unbounded(Doubled):
        enclosure = Composition.enclosure

    found = bounds.products(*TIE, fpemu.Sequential("e8m6"))
    with pytest.raises(NotImplementedError, match="no rigorous bound of twice y is known"):
        bounds.bound(Unbounded(2.0), found)
    bounds.bound(Unbounded(2.0), found, order="first_order")


def test_ratios_are_never_rounded_across_one():
    exact = [[mpmath.mpf(1)]]

    def ratio(value, limit):
        found = bounds.Bound(
            np.array([[value]]), {"all": np.array([[limit]])}, "rigorous", 0.0, "f", {"all": ""}
        )
        return testing.tightness(found, exact)[0, 0]

    limit = float(2.0**-30)
    grown = outward(np.array(limit), 4)  # a bound is rounded up once more
    assert ratio(1.0 + 2.0**-30, limit) < 1
    assert ratio(1.0 + 2 * float(grown), limit) > 1
    assert ratio(1.0, 0.0) == 0
    assert ratio(np.inf, np.inf) == 0
    assert ratio(np.inf, 1.0) == np.inf


def test_exact_products_are_rational():
    a, b = np.array([[0.1, 0.2]]), np.array([[0.3], [0.7]])
    (row,) = testing.exact_products(a, b, c=1.0)
    expected = Fraction(0.1) * Fraction(0.3) + Fraction(0.2) * Fraction(0.7) + 1
    assert row == [expected]
    with mpmath.workdps(30):
        (values,) = testing.reference_values(Softmax(), [[Fraction(0), Fraction(1, 3)]])
        assert abs(values[1] - 1 / (1 + mpmath.exp(-mpmath.mpf(1) / 3))) < 1e-25


def test_integers_that_are_no_float64_numbers_have_no_exact_products():
    wide = np.array([2**53 + 1])
    for a, b in ((wide, np.ones((1, 1))), (np.ones(1), wide[:, None])):
        with pytest.raises(ValueError, match="holds the integer 9007199254740993, which is not"):
            testing.exact_products(a, b)
        with pytest.raises(ValueError, match="holds the integer 9007199254740993, which is not"):
            bounds.products(a, b, fpemu.Sequential("float64"))
    with pytest.raises(ValueError, match="c holds the integer"):
        testing.exact_products([1.0], [[1.0]], c=2**53 + 1)
    with pytest.raises(ValueError, match="y holds the integer"):
        Softmax().value(wide)
    with pytest.raises(TypeError, match="y must hold real numbers of at most 64 bits"):
        Softmax().value(np.ones(2, np.longdouble))


@given(testing.formats(), st.data())
@settings(max_examples=30)
def test_vectors_are_members_of_their_format(format, data):
    vector = data.draw(testing.vectors(5, format))
    np.testing.assert_array_equal(fpemu.round(vector, format), vector)


@given(testing.cancelling_vectors(8))
@settings(max_examples=50)
def test_cancelling_vectors_cancel(pair):
    a, b = pair
    terms = a * b
    undone = terms[:3] + terms[4:7]
    np.testing.assert_array_equal(undone, 0)


@given(testing.peaked_logits(6))
@settings(max_examples=50)
def test_peaked_logits_are_scores(scores):
    assert scores.shape == (6,)
    assert np.isfinite(scores).all()


@given(testing.accumulators(), testing.accumulators(stochastic=True))
@settings(max_examples=50, deadline=None)
def test_accumulators_round_as_they_are_asked_to(plain, stochastic):
    def is_stochastic(accumulator):
        inner = getattr(accumulator, "inner", None)
        return accumulator.rounding.is_stochastic and (inner is None or is_stochastic(inner))

    assert not plain.rounding.is_stochastic
    assert is_stochastic(stochastic)


@pytest.mark.parametrize("kind", bounds.KINDS)
def test_accumulators_of_a_kind_have_its_bound(kind):
    @testing.settings(max_examples=40)
    @given(testing.accumulators(kind=kind), testing.vectors(3))
    def each(accumulator, a):
        assert accumulator.is_stochastic == (kind == "stochastic")
        bounds.products(a, np.ones((3, 1)), accumulator, kind=kind)

    each()


def test_accumulators_that_no_bound_takes_are_refused():
    for options in ({"kind": "probabilistic", "stochastic": True}, {"kind": "none"}):
        with pytest.raises(ValueError, match="kind"):
            testing.accumulators(**options)
    with pytest.raises(ValueError, match="no other rounding has a bound of kind 'stochastic'"):
        testing.accumulators(kind="stochastic", stochastic=False)
    found = testing.accumulators(kind="running", stochastic=True).map(type)
    classes = {fpemu.Pairwise, fpemu.Exact}

    @settings(max_examples=20)
    @given(found)
    def each(drawn):
        assert drawn in classes

    each()


def test_a_failure_shrinks_to_something_simple_in_few_runs():
    runs = []

    @testing.settings(max_examples=200, database=None, derandomize=True)
    @given(testing.accumulators(kind="running"), testing.vectors(6), testing.vectors(6))
    def half_of_it(accumulator, a, b):
        found = bounds.products(a, b[:, None], accumulator, kind="running")
        off = abs(Fraction(found.computed[0]) - testing.exact_products(a, b[:, None])[0][0])
        runs.append(np.count_nonzero(a))
        assert off <= found.errors[0] / 4

    with pytest.raises(AssertionError):
        half_of_it()
    assert runs[-1] <= 2
    assert len(runs) < 3000


def test_the_settings_have_no_deadline_and_may_be_overridden():
    from hypothesis import Phase

    assert testing.settings().deadline is None
    assert Phase.explain not in testing.settings().phases
    assert testing.settings(max_examples=7, deadline=1000).deadline.total_seconds() == 1
    assert testing.settings(max_examples=7).max_examples == 7


@settings(max_examples=5)
@given(
    testing.vectors(np.int64(4)),
    testing.cancelling_vectors(np.int32(6)),
    testing.peaked_logits(np.uint8(3)),
)
def test_numpy_integers_are_lengths(vector, pair, logits):
    assert len(vector) == 4
    assert [len(each) for each in pair] == [6, 6]
    assert len(logits) == 3
