"""The numerical analyst, who tests three bounds of their own in fp8 and bfloat16.

Only what docs/fpemu.md and docs/own-bounds.md show is used.  The judge is rational arithmetic.
"""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fpemu
from fpemu import testing
from lamp import compositions
from lamp import testing as bound_testing

FORMATS = ("float8_e4m3fn", "bfloat16")
TERMS = 6


def unit_roundoff(name):
    """By the precisions in the table of docs/fpemu.md."""
    return Fraction(1, {"float8_e4m3fn": 2**4, "bfloat16": 2**8}[name])


# --- rounding: |fl(x) - x| <= u / (1 + u) |x| -----------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_one_rounding_is_off_by_less_than_the_unit_roundoff(name):
    limits, u = fpemu.finfo(name), unit_roundoff(name)
    worst = []

    @testing.settings(max_examples=40)
    @given(testing.numbers(name).filter(lambda x: limits.smallest_normal <= abs(x) <= limits.max))
    def check(x):
        error = abs(Fraction(float(fpemu.round(x, name))) - Fraction(x)) / abs(Fraction(x))
        assert error <= u / (1 + u)
        worst.append(error)

    check()
    assert max(worst) > u / 4  # the strategy draws ties
    tie = 1 + u
    assert abs(Fraction(float(fpemu.round(float(tie), name))) - tie) / tie == u / (1 + u)


# --- inner products: |fl(x'y) - x'y| <= (n u + underflow) |x|'|y| ---------------------------------


def small_vectors(name):
    """Vectors whose inner products do not overflow in fp8: 6 * 8 * 8 < 448."""
    member = testing.members(name, finite=True).filter(lambda x: abs(x) <= 8)
    return st.lists(member, min_size=TERMS, max_size=TERMS)


def off_and_size(name, x, y):
    """The error of an inner product and the sum of the magnitudes of its terms."""
    terms = [Fraction(a) * Fraction(b) for a, b in zip(x, y, strict=True)]
    computed = Fraction(float(fpemu.dot(x, y, fpemu.Sequential(name))))
    return abs(computed - sum(terms)), sum(map(abs, terms))


@pytest.mark.parametrize("name", FORMATS)
def test_an_inner_product_is_off_by_n_units(name):
    u, tiny = unit_roundoff(name), Fraction(float(fpemu.finfo(name).smallest_subnormal))

    @testing.settings(max_examples=40)
    @given(small_vectors(name), small_vectors(name))
    def check(x, y):
        off, size = off_and_size(name, x, y)
        assert off <= TERMS * u * size + TERMS * tiny / 2
        assert off <= Fraction(fpemu.Sequential(name).error_bound(TERMS)) * size + TERMS * tiny / 2

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_a_claim_of_one_unit_for_any_length_is_refuted(name):
    """One and five terms that are each rounded away, of nearly half an ulp."""
    u = unit_roundoff(name)
    x, y = [1.0] * TERMS, [1.0] + [float(u)] * (TERMS - 1)
    off, size = off_and_size(name, x, y)
    assert off == (TERMS - 1) * u > u * size


# --- f(g(x)): the softplus of an inner product ----------------------------------------------------


class Softplus(compositions.Composition):
    """log(1 + exp(y)), whose slope is the sigmoid, which increases."""

    name = "softplus"

    def value(self, y):
        return np.logaddexp(0.0, y)

    def value_mpmath(self, y):
        return [mpmath.log1p(mpmath.exp(x)) for x in y]

    def slope(self, y):
        return 1 / (1 + np.exp(-np.asarray(y, float)))

    def jacobian_product(self, y, direction):
        return self.slope(y) * direction

    def amplified(self, y, errors):
        return self.slope(y) * errors

    def enclosure(self, y, errors):
        return errors * self.slope(np.asarray(y) + errors) * (1 + 2.0**-40)


class Optimist(Softplus):
    """Takes the slope at the computed point for the largest within reach."""

    def enclosure(self, y, errors):
        return self.amplified(y, errors) / 2


@pytest.mark.parametrize("name", FORMATS)
def test_a_softplus_of_inner_products_keeps_its_bound(name):
    sums = fpemu.Sequential(name)

    @bound_testing.settings(max_examples=8)
    @given(small_vectors(name), small_vectors(name))
    def check(x, y):
        tightness = bound_testing.assert_bound_holds(Softplus(), x, np.array(y)[:, None], sums)
        assert tightness.max() <= 1

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_a_bound_that_is_too_good_is_found(name):
    x, y = np.ones(TERMS), np.array([1.0] + [float(unit_roundoff(name))] * (TERMS - 1))
    with pytest.raises(AssertionError, match="softplus"):
        bound_testing.assert_bound_holds(Optimist(), x, y[:, None], fpemu.Sequential(name))
    with pytest.raises(AssertionError, match=r"enclosure, .* of softplus is off"):
        bound_testing.assert_claims_hold(Optimist(), [0.5, 2.0], errors=0.25)
