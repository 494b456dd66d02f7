"""The knapsack's solution against all assignments, one after the other."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamp.tuning.knapsack import Group, front, solve

small = st.integers(0, 6)
untakable = st.sampled_from([math.nan, math.inf])
options = st.lists(st.tuples(small, small | untakable), min_size=1, max_size=4)
menus = st.lists(options, min_size=0, max_size=4)
reals = st.lists(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=4), max_size=4
)


def groups_of(menu):
    return [Group(*zip(*each, strict=True)) for each in menu]


def assignments(menu):
    """Cost, divergence and choices of every assignment that can be taken, in exact arithmetic."""
    for chosen in itertools.product(*(range(len(each)) for each in menu)):
        points = [each[option] for each, option in zip(menu, chosen, strict=True)]
        if all(math.isfinite(divergence) for _, divergence in points):
            yield (
                sum(Fraction(cost) for cost, _ in points),
                sum(Fraction(divergence) for _, divergence in points),
                chosen,
            )


def cheapest(menu, allowed):
    """The least cost, and with it the least divergence."""
    return min(((c, d) for c, d, _ in assignments(menu) if d <= allowed), default=None)


@settings(max_examples=300, deadline=None)
@given(menus, st.integers(-1, 20))
def test_a_solution_is_the_cheapest_of_all_assignments(menu, allowed):
    found, expected = solve(groups_of(menu), allowed), cheapest(menu, allowed)
    if expected is None:
        assert found is None
        return
    assert (found.cost, found.divergence) == expected
    taken = [each[option] for each, option in zip(menu, found.choices, strict=True)]
    assert (sum(c for c, _ in taken), sum(d for _, d in taken)) == expected
    assert found.is_exact
    assert found.relaxed <= found.cost


@settings(max_examples=200, deadline=None)
@given(reals, st.floats(0, 30))
def test_a_solution_in_real_numbers_is_as_cheap_as_rounding_allows(menu, allowed):
    found, expected = solve(groups_of(menu), allowed), cheapest(menu, Fraction(allowed))
    if expected is None:
        assert found is None or found.divergence <= allowed * (1 + 1e-11)
        return
    assert found.cost <= float(expected[0]) * (1 + 1e-12)
    assert found.divergence <= allowed * (1 + 1e-11)


@settings(max_examples=200, deadline=None)
@given(menus, st.integers(0, 20), st.integers(1, 3))
def test_beyond_the_cap_the_best_found_comes_with_a_bound_that_holds(menu, allowed, most):
    found, expected = solve(groups_of(menu), allowed, most_states=most), cheapest(menu, allowed)
    if expected is None:
        assert found is None
        return
    assert found.relaxed <= found.bound <= expected[0] <= found.cost
    assert found.divergence <= allowed


@settings(max_examples=200, deadline=None)
@given(menus)
def test_the_front_is_the_convex_hull_of_all_assignments(menu):
    corners, points = front(groups_of(menu)), list(assignments(menu))
    if not points:
        assert corners == []
        return
    assert corners[0][:2] == min((d, c) for c, d, _ in points)[::-1]
    assert corners[-1][:2] == min((c, d) for c, d, _ in points)
    for (cost, divergence, _), (less, more, _) in itertools.pairwise(corners):
        assert less < cost
        assert more > divergence
        # No assignment lies below the line through two neighbouring corners.
        for c, d, _ in points:
            across = (c - Fraction(cost)) * Fraction(more - divergence)
            assert across >= Fraction(less - cost) * (d - Fraction(divergence))


def test_a_cap_of_one_state_may_miss_the_cheapest_and_says_so():
    # The bound of the relaxation prefers what cannot be completed.
    menu = [[(10, 0), (5, 3), (0, 7)]] * 6
    best = solve(groups_of(menu), 20)
    capped = solve(groups_of(menu), 20, most_states=1)
    assert best.is_exact
    assert capped.bound <= best.cost <= capped.cost


def test_ties_go_to_the_first_option():
    menu = [[(1, 1), (1, 1)], [(2, 0), (2, 0), (2, 0)]]
    assert solve(groups_of(menu), 5).choices == (0, 0)


def test_an_option_without_a_number_is_never_taken():
    assert solve([Group([0, 5], [math.nan, 1])], 9).choices == (1,)
    assert solve([Group([0, 5], [math.inf, 1])], math.inf).choices == (1,)
    assert solve([Group([0], [math.nan])], 9) is None


def test_many_groups_are_solved_exactly_with_few_states():
    draw = np.random.default_rng(0)
    groups = [
        Group(np.sort(draw.integers(1, 1000, 8))[::-1], np.sort(draw.lognormal(-8, 2, 8)))
        for _ in range(60)
    ]
    found = solve(groups, 60 * 3e-4)
    assert found.is_exact
    assert 0 <= found.gap < 1e-3 * found.cost


@pytest.mark.parametrize(
    ("costs", "divergences", "message"),
    [
        ([1, 2], [1], "shapes"),
        ([], [], "at least one option"),
        ([math.inf], [1], "costs must be finite, not .inf."),
    ],
)
def test_a_group_that_is_none_is_refused(costs, divergences, message):
    with pytest.raises(ValueError, match=message):
        Group(costs, divergences)


def test_what_is_allowed_is_a_number():
    with pytest.raises(ValueError, match="allowed must be a number"):
        solve([], math.nan)
    with pytest.raises(ValueError, match="most_states must be positive, not 0"):
        solve([], 1.0, most_states=0)
