"""The rounds of tuning on made-up machines, whose divergences are formulas."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamp.tuning import tuner
from lamp.tuning.tuner import Reading

BASE = 0.001


class Toy:
    """A model whose divergence is the sum over decisions, and more for some pairs of options."""

    def __init__(self, alone, costs, pairs=(), factors=None):
        self.alone, self.costs, self.pairs = alone, costs, dict(pairs)
        self.factors = factors or {"calibration": 1.0, "held_out": 1.0}
        self.measured = []

    def divergence(self, assignment):
        chosen = [(i, choice) for i, choice in enumerate(assignment) if choice is not None]
        parts = [self.alone[i][choice] for i, choice in chosen]
        together = [extra for pair, extra in self.pairs.items() if set(pair) <= set(chosen)]
        return BASE + sum(parts) + sum(together)

    def measure(self, stage, assignments, texts):
        self.measured += [(stage, each) for each in assignments]
        return [
            {text: Reading(self.divergence(each) * self.factors[text]) for text in texts}
            for each in assignments
        ]

    def cost(self, decision, choice):
        return 100.0 if choice is None else self.costs[decision][choice]

    def cheapest(self, allowed):
        """The least cost of all assignments that are allowed on both texts."""
        most = max(self.factors.values())
        return min(
            sum(self.costs[i][choice] for i, choice in enumerate(each))
            for each in itertools.product(*(range(len(options)) for options in self.alone))
            if self.divergence(each) * most <= allowed
        )


def tune(toy, allowed, **options):
    found = tuner.alone(toy, [len(options) for options in toy.alone])
    corners = tuner.tuned(toy, found, dict.fromkeys(toy.factors, allowed), **options)
    return found, corners


def two_layers(**changes):
    """Two layers of which either may be cheap, but not both."""
    given = {
        "alone": [[0.0, 0.1], [0.0, 0.1]],
        "costs": [[10.0, 1.0], [10.0, 2.0]],
        "pairs": {((0, 1), (1, 1)): 1.0},
        **changes,
    }
    return Toy(**given)


def test_the_repair_finds_an_interaction_that_defeats_the_sum():
    toy = two_layers()
    found, _ = tune(toy, 0.5)
    first = found.rounds[0]
    assert first.assignment == (1, 1)
    assert first.predicted == pytest.approx(BASE + 0.2)
    assert first.readings["calibration"].value == pytest.approx(BASE + 1.2)
    assert not first.holds
    assert [(each.first, each.second) for each in found.interactions] == [((0, 1), (1, 1))]
    assert found.interactions[0].divergence == pytest.approx(1.0)
    assert found.best.assignment == (1, 0)
    assert found.best.cost == toy.cheapest(0.5) == 11.0


def test_what_interacts_is_decided_together_and_the_rest_keeps_its_sum():
    # A smaller sum alone would give up the third choice, too, whose sum is right.
    toy = Toy(
        [[0.0, 0.1], [0.0, 0.1], [0.0, 0.25]],
        [[10.0, 1.0], [10.0, 2.0], [10.0, 5.0]],
        {((0, 1), (1, 1)): 1.0},
    )
    found, corners = tune(toy, 0.5)
    assert found.best.assignment == (1, 0, 1)
    assert found.best.cost == toy.cheapest(0.5) == 16.0
    # With what was measured of the pair, the sum is right for all of them.
    for each in itertools.product(range(2), repeat=3):
        assert found.predicted(each) == pytest.approx(toy.divergence(each))
    for corner, assignment in corners:
        assert BASE + corner.divergence == pytest.approx(toy.divergence(assignment))


def test_a_sum_that_is_right_needs_no_repair():
    toy = two_layers(pairs={})
    found, corners = tune(toy, 0.5)
    assert [each.assignment for each in found.rounds] == [(1, 1)]
    assert found.rounds[0].taken == pytest.approx((BASE + 0.2) / 0.5)
    assert found.interactions == []
    assert corners[-1][0].cost == 3.0


def test_held_out_text_on_which_more_is_lost_tightens_the_sum():
    alone = [[0.0, 0.1 * (i + 1)] for i in range(6)]
    costs = [[10.0, 1.0]] * 6
    toy = Toy(alone, costs, factors={"calibration": 1.0, "held_out": 2.0})
    found, _ = tune(toy, 1.0)
    assert not found.rounds[0].holds
    assert "tightened" in found.rounds[0].repair
    assert found.best.readings["held_out"].value <= 1.0
    assert found.best.cost == toy.cheapest(1.0)
    assert len(found.rounds) == 2  # by the ratio that was found


def test_a_sum_that_is_too_large_is_loosened():
    alone = [[0.0, 0.1 * (i + 1)] for i in range(6)]
    toy = Toy(alone, [[10.0, 1.0]] * 6, factors={"calibration": 0.5, "held_out": 0.5})
    # Measured alone they are half as large, too; what is larger is the base's part alone.
    found, _ = tune(toy, 0.5)
    assert found.best.cost == toy.cheapest(0.5)


def test_numbers_that_are_none_are_never_taken():
    toy = Toy([[0.0, math.nan], [0.0, math.inf], [0.0, 0.1]], [[10.0, 1.0]] * 3)
    found, _ = tune(toy, 0.5)
    assert found.best.assignment == (0, 0, 1)


@pytest.mark.parametrize("none", [math.inf, math.nan])
def test_overflow_of_the_whole_is_repaired(none):
    toy = two_layers(pairs={((0, 1), (1, 1)): none})
    found, _ = tune(toy, 0.5)
    assert found.best.cost == 11.0


def test_nothing_holds_where_nothing_can():
    found, _ = tune(two_layers(alone=[[0.7, 0.9], [0.0, 0.1]]), 0.5)
    assert found.best is None
    assert [each.assignment for each in found.rounds] == [(0, 0)]
    found, _ = tune(two_layers(alone=[[math.nan, math.inf], [0.0, 0.1]]), 0.5)
    assert found.rounds == []


def test_the_most_accurate_assignment_is_measured_even_if_its_sum_is_too_large():
    toy = Toy([[0.3, 0.9], [0.3, 0.9]], [[2.0, 1.0]] * 2, {((0, 0), (1, 0)): -0.2})
    found, _ = tune(toy, 0.5)
    assert found.best.assignment == (0, 0)


def helping(count, costs):
    """Decisions of three options; all of the second together lose half of what they add alone."""
    alone = [[0.0, 0.1, 0.101]] * count
    pairs = {((i, 1), (i + 1, 1)): -0.05 * count / (count - 1) for i in range(count - 1)}
    return Toy(alone, [costs] * count, pairs)


def test_a_uniform_assignment_that_is_cheaper_and_holds_is_gone_down_from():
    # By the sum, three of the four may be the second option; all four are, and one the third.
    toy = helping(4, [10.0, 5.0, 4.0])
    blind, _ = tune(toy, 0.32, rounds=1)
    found, _ = tune(toy, 0.32, uniform=[(0,) * 4, (1,) * 4, (2,) * 4], rounds=8)
    assert blind.best.cost > 20.0
    begun = [each.assignment for each in found.rounds].index((1, 1, 1, 1))
    assert found.rounds[begun].repair.startswith("uniform")
    assert all(not each.holds or each.cost > 20.0 for each in found.rounds[:begun])
    later = found.rounds[begun + 1 :]
    assert later
    assert all(each.cost < 20.0 for each in later)
    assert found.best.holds
    assert found.best.cost < 20.0
    stages = [stage for stage, _ in toy.measured]
    assert stages.count("uniform") == 2  # the one that is dearer is not measured
    for each in found.rounds:
        assert each.cost == sum(toy.costs[i][choice] for i, choice in enumerate(each.assignment))
        assert each.solution.relaxed <= each.cost


def test_a_uniform_assignment_that_does_not_hold_changes_nothing():
    toy = two_layers()
    plain, _ = tune(toy, 0.5)
    found, _ = tune(toy, 0.5, uniform=[(1, 1), (0, 0)])
    assert found.rounds == plain.rounds


def test_rounds_end_after_their_number():
    toy = two_layers()
    found, _ = tune(toy, 0.5, rounds=1)
    assert len(found.rounds) == 1
    assert found.best is None


numbers = st.integers(0, 20).map(lambda n: n / 20)
menus = st.lists(
    st.lists(st.tuples(numbers, st.integers(0, 20)), min_size=2, max_size=3),
    min_size=2,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(menus, st.integers(1, 60).map(lambda n: n / 20))
def test_divergences_that_add_up_give_the_cheapest_assignment(menu, allowed):
    alone = [[d for d, _ in options] for options in menu]
    costs = [[float(c) for _, c in options] for options in menu]
    toy = Toy(alone, costs)
    found, _ = tune(toy, allowed + 2 * BASE)
    if found.best is None:
        assert sum(map(min, alone)) > allowed + BASE
    else:
        assert found.best.cost == toy.cheapest(allowed + 2 * BASE)


@settings(max_examples=150, deadline=None)
@given(menus, st.data())
def test_what_is_found_holds_and_is_what_was_measured(menu, data):
    alone = [[0.0, *(d for d, _ in options)] for options in menu]
    costs = [[50.0, *(float(c) for _, c in options)] for options in menu]
    pairs = {}
    for i, j in itertools.combinations(range(len(menu)), 2):
        for a, b in itertools.product(range(1, len(alone[i])), range(1, len(alone[j]))):
            pairs[(i, a), (j, b)] = data.draw(numbers) - 0.1
    toy = Toy(alone, costs, pairs, {"calibration": 1.0, "held_out": 1.25})
    first = tune(toy, 0.6)[0]
    if first.best is not None:
        assert toy.divergence(first.best.assignment) * 1.25 <= 0.6
        assert first.best.cost == sum(
            costs[i][choice] for i, choice in enumerate(first.best.assignment)
        )
        assert first.best.cost >= toy.cheapest(0.6)
    again = tune(toy, 0.6)[0]
    assert again.rounds == first.rounds
