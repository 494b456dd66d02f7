"""The rounds of tuning: measure, solve, verify, repair.

1. The divergence that each option of each decision causes alone is measured on the calibration
   text.  What an option adds to that of the base is taken to add up over decisions.
2. The cheapest assignment whose sum is allowed is found (:mod:`lamp.tuning.knapsack`).
3. It is measured on both texts.  It holds if the divergence is at most what is allowed on each.
4. If it does not on the calibration text, the options that add most are measured in pairs.  Where
   a pair differs from the sum of its two, both decisions become one, whose options are all
   combinations of theirs; a combination of which no pair is measured keeps the sum.  The problem is
   solved again.
5. If it does not on the held-out text, no pair is left to measure, or pairs explain less than a
   fifth of what is missing, the sum is allowed to be what it was for the assignment, over the share
   of what is allowed that it took: less if the assignment does not hold, more if it leaves room.
   Between a limit that held and one that did not, the next is halfway, in logarithms.

The rounds end after a number of them or when the assignment leaves no more than a twentieth of what
is allowed.  Then uniform assignments that are cheaper are measured: where sums are rough, one of
them may hold.  If one does, the rounds that are left go down from it: they take the cheaper options
whose additions fit into what it leaves, and half of that if the outcome does not hold.  The
cheapest assignment that holds is the result.  Nothing is random.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

import numpy as np

from lamp.tuning import knapsack
from lamp.tuning.decisions import Assignment
from lamp.tuning.knapsack import Corner, Group, Solution

__all__ = ["ALONE", "Bench", "Found", "Interaction", "Reading", "Round", "alone", "tuned"]

ALONE: Final = "alone"
"""The stage in which options are measured alone: it does not depend on what is allowed."""

CALIBRATION: Final = "calibration"
_ROUNDS: Final = 12
_PAIRED: Final = 4  # the options of an assignment that add most, which are measured in pairs
_SHARE: Final = 0.01  # of what is allowed: smaller interactions are none
_EXPLAINED: Final = 0.2
_ROOM: Final = 0.95  # of what is allowed: an assignment that takes more leaves no room
_SAFE: Final = 0.99
_TINY: Final = 1e-300
_CLOSE: Final = 1.01  # the ratio of two limits between which nothing is looked for
_STEEPEST: Final = 8.0  # by which a limit is divided at once, at most
_MOST_COMBINED: Final = 4096  # options of decisions that became one


class Reading(NamedTuple):
    """A divergence on a text, and the ends of its confidence interval."""

    value: float
    low: float = math.nan
    high: float = math.nan


class Bench(Protocol):
    """What assignments are measured on."""

    def measure(
        self, stage: str, assignments: Sequence[Assignment], texts: Sequence[str]
    ) -> list[dict[str, Reading]]:
        """Measure assignments on texts; the stage is what the runs are called."""

    def cost(self, decision: int, choice: int | None) -> float:
        """The cost of an option, once the options are measured alone."""


class Interaction(NamedTuple):
    """Two options that cause more or less together than the sum of both."""

    first: tuple[int, int]
    second: tuple[int, int]
    divergence: float


@dataclass(frozen=True)
class Round:
    """An assignment, what was predicted for it, and what was measured.

    Parameters
    ----------
    assignment : tuple of int
    cost : float
    predicted : float
        Its divergence on the calibration text, by the sum.
    readings : mapping of str to Reading
        Its divergence on each text.
    taken : float
        The largest share of what is allowed that it takes on a text: it holds up to 1.
    limit : float
        What the sum was allowed to be.
    solution : Solution
        Its bound and its duality gap.
    repair : str
        What was done next, in words.
    """

    assignment: Assignment
    cost: float
    predicted: float
    readings: Mapping[str, Reading]
    taken: float
    limit: float
    solution: Solution
    repair: str = ""

    @property
    def holds(self) -> bool:
        """Whether the divergence is at most what is allowed, on each text."""
        return self.taken <= 1


@dataclass
class Found:
    """What tuning has found.

    Parameters
    ----------
    base : Reading
        The divergence of the base on the calibration text.
    alone : list of list of Reading
        That of each option of each decision alone, all else as in the base.
    rounds : list of Round
    interactions : list of Interaction
    """

    base: Reading
    alone: list[list[Reading]]
    rounds: list[Round] = field(default_factory=list)
    interactions: list[Interaction] = field(default_factory=list)

    @property
    def best(self) -> Round | None:
        """The cheapest round that holds; None if there is none."""
        holding = [each for each in self.rounds if each.holds]
        return min(holding, key=lambda each: (each.cost, each.taken), default=None)

    def added(self, decision: int, choice: int | None) -> float:
        """What an option adds to the divergence of the base, alone."""
        return 0.0 if choice is None else self.alone[decision][choice].value - self.base.value

    def predicted(self, assignment: Assignment) -> float:
        """The divergence of an assignment by the sum, with the interactions that are known."""
        parts = (self.added(decision, choice) for decision, choice in enumerate(assignment))
        return math.fsum([self.base.value, *parts, *self._between(assignment)])

    def _between(self, assignment: Assignment) -> Iterator[float]:
        chosen = set(enumerate(assignment))
        for each in self.interactions:
            if each.first in chosen and each.second in chosen:
                yield each.divergence

    def pairs(self, assignment: Assignment) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """The pairs of an assignment's options that add most."""
        chosen = [(decision, c) for decision, c in enumerate(assignment) if c is not None]
        most = sorted(chosen, key=lambda part: (-self.added(*part), part))[:_PAIRED]
        return list(itertools.combinations(sorted(most), 2))


class _Problem:
    """The knapsack as it is with the interactions that are known."""

    def __init__(self, found: Found, costs: Sequence[Sequence[float]], threshold: float) -> None:
        self._found = found
        self._costs = costs
        self._known = {
            (each.first, each.second): each.divergence
            for each in found.interactions
            if not abs(each.divergence) <= threshold  # NaN, too
        }
        self._clusters = self._merged()
        self._combined = [
            list(itertools.product(*(range(len(costs[i])) for i in cluster)))
            for cluster in self._clusters
        ]
        self.groups = [
            self._group(cluster, combined)
            for cluster, combined in zip(self._clusters, self._combined, strict=True)
        ]

    def _merged(self) -> list[tuple[int, ...]]:
        """The decisions, those together that interact, the strongest interaction first."""
        cluster_of: dict[int, tuple[int, ...]] = {i: (i,) for i in range(len(self._costs))}
        strongest = sorted(self._known, key=lambda pair: (-abs(self._known[pair]), pair))
        for (first, _), (second, _) in strongest:
            together = tuple(sorted({*cluster_of[first], *cluster_of[second]}))
            if math.prod(len(self._costs[i]) for i in together) <= _MOST_COMBINED:
                cluster_of |= dict.fromkeys(together, together)
        return sorted(set(cluster_of.values()))

    def _group(self, cluster: tuple[int, ...], combined: Sequence[tuple[int, ...]]) -> Group:
        costs, divergences = [], []
        for choices in combined:
            parts = list(zip(cluster, choices, strict=True))
            pairs = itertools.combinations(parts, 2)
            costs.append(math.fsum(self._costs[i][choice] for i, choice in parts))
            with np.errstate(invalid="ignore"):
                alone = sum(self._found.added(i, choice) for i, choice in parts)
                divergences.append(alone + sum(self._known.get(pair, 0.0) for pair in pairs))
        return Group(costs, divergences)

    def solve(self, limit: float) -> tuple[Solution, Assignment] | None:
        """The cheapest assignment whose divergences sum to at most a limit."""
        solution = knapsack.solve(self.groups, limit)
        return None if solution is None else (solution, self.assignment(solution.choices))

    def assignment(self, choices: Sequence[int]) -> Assignment:
        """The options of the decisions from those of the groups."""
        found: dict[int, int] = {}
        for cluster, combined, choice in zip(self._clusters, self._combined, choices, strict=True):
            found |= dict(zip(cluster, combined[choice], strict=True))
        return tuple(found[i] for i in range(len(self._costs)))

    @property
    def least(self) -> float:
        """The least sum of divergences; infinite if there is none."""
        corners = knapsack.front(self.groups)
        return corners[0].divergence if corners else math.inf

    def front(self) -> list[tuple[Corner, Assignment]]:
        """The corners of the convex front."""
        return [(each, self.assignment(each.choices)) for each in knapsack.front(self.groups)]


def alone(bench: Bench, sizes: Sequence[int]) -> Found:
    """Measure the base and each option alone, on the calibration text.

    Parameters
    ----------
    bench : Bench
    sizes : sequence of int
        The number of options of each decision.

    Returns
    -------
    Found
    """
    nothing: Assignment = (None,) * len(sizes)
    singles = [
        (*nothing[:decision], choice, *nothing[decision + 1 :])
        for decision, size in enumerate(sizes)
        for choice in range(size)
    ]
    base, *readings = bench.measure(ALONE, [nothing, *singles], [CALIBRATION])
    of_each = iter(readings)
    parts = [[next(of_each)[CALIBRATION] for _ in range(size)] for size in sizes]
    return Found(base[CALIBRATION], parts)


def tuned(
    bench: Bench,
    found: Found,
    allowed: Mapping[str, float],
    *,
    uniform: Sequence[Assignment] = (),
    rounds: int = _ROUNDS,
) -> list[tuple[Corner, Assignment]]:
    """Solve, verify and repair until an assignment holds and leaves no room.

    Parameters
    ----------
    bench : Bench
    found : Found
        What :func:`alone` gives; rounds and interactions are added to it.
    allowed : mapping of str to float
        What is allowed on each text.
    uniform : sequence of tuple of int
        Assignments that are no dearer than the result if they hold.
    rounds : int
        How often assignments are measured, at most, without these.

    Returns
    -------
    list of tuple of (Corner, Assignment)
        The corners of the convex front at the end, as predicted.
    """
    return _Tuner(bench, found, allowed).run(uniform, rounds)


_Plan = tuple[float, Solution, Assignment]
"""What a sum may be, the solution of the problem, and the assignment that is measured."""


class _Tuner:
    """The state of the rounds."""

    def __init__(self, bench: Bench, found: Found, allowed: Mapping[str, float]) -> None:
        self._bench, self._found, self._allowed = bench, found, allowed
        self._room = allowed[CALIBRATION] - found.base.value
        self._costs = [
            [bench.cost(decision, choice) for choice in range(len(options))]
            for decision, options in enumerate(found.alone)
        ]
        self._paired: set[tuple[tuple[int, int], tuple[int, int]]] = set()
        self._low, self._high = 0.0, math.inf  # limits that held, and that did not

    def run(self, uniform: Sequence[Assignment], rounds: int) -> list[tuple[Corner, Assignment]]:
        """Go through the rounds, and down from a uniform assignment that is cheaper."""
        self._repair(rounds)
        started = self._uniform(uniform)
        if started is not None:
            self._go_down(started, rounds)
        return self._problem().front()

    def _repair(self, rounds: int) -> None:
        """Solve, measure and repair."""
        limit, seen = self._room, set[Assignment]()
        for number in range(1, rounds + 1):
            problem = self._problem()
            solved = problem.solve(limit)
            if solved is None and number == 1:
                # The sum may be wrong: the most accurate assignment is measured in any case.
                solved = problem.solve(limit := problem.least)
            if solved is None:
                break
            (latest,) = self._measured(f"round {number}", [(limit, *solved)])
            again = latest.assignment in seen
            seen.add(latest.assignment)
            if latest.holds and (latest.taken > _ROOM or again):
                repair, following = "", None
            else:
                repair, following = self._repaired(number, latest)
            self._found.rounds.append(replace(latest, repair=repair))
            if following is None:
                break
            limit = following

    def _uniform(self, uniform: Sequence[Assignment]) -> Round | None:
        """The cheapest uniform assignment that holds, if it is cheaper than all rounds."""
        best = self._found.best
        cheaper = [each for each in uniform if best is None or self._cost(each) < best.cost]
        plans = [plan for each in cheaper if (plan := self._plan(each)) is not None]
        holding = [each for each in self._measured("uniform", plans) if each.holds]
        if not holding:
            return None
        cheapest = min(holding, key=lambda each: (each.cost, each.taken))
        self._found.rounds.append(replace(cheapest, repair="uniform and cheaper: it holds"))
        return cheapest

    def _go_down(self, start: Round, rounds: int) -> None:
        """Take cheaper options than those of an assignment that holds, as long as all holds."""
        share = 1.0
        for number in range(len(self._found.rounds), rounds + 1):
            room = min(self._allowed[text] - start.readings[text].value for text in self._allowed)
            plan = self._plan(self._below(start.assignment, share * room))
            if plan is None or plan[-1] == start.assignment:
                break
            (latest,) = self._measured(f"round {number}", [plan])
            self._found.rounds.append(latest)
            start, share = (latest, 1.0) if latest.holds else (start, share / 2)

    def _below(self, start: Assignment, room: float) -> Assignment:
        """The cheapest assignment that changes only options of another into cheaper ones.

        What they add sums to a room at most; what would take away, by chance perhaps, adds nothing.
        """
        options, groups = [], []
        for decision, now in enumerate(start):
            costs, added = self._costs[decision], self._found.added
            least = self._bench.cost(decision, now)
            cheaper = [choice for choice, cost in enumerate(costs) if cost < least]
            beyond = [added(decision, choice) - added(decision, now) for choice in cheaper]
            options.append([now, *cheaper])
            groups.append(
                Group(
                    [least, *(costs[choice] for choice in cheaper)],
                    [0.0, *np.maximum(beyond, 0.0)],
                )
            )
        solution = knapsack.solve(groups, room)
        if solution is None:
            return start
        return tuple(own[i] for own, i in zip(options, solution.choices, strict=True))

    def _plan(self, assignment: Assignment) -> _Plan | None:
        """An assignment beside the solution of the problem for the sum that it is predicted."""
        limit = self._found.predicted(assignment) - self._found.base.value
        solved = self._problem().solve(limit) if limit < math.inf else None
        if solved is None:
            return None
        solution = replace(solved[0], cost=self._cost(assignment), divergence=limit)
        return limit, solution, assignment

    def _cost(self, assignment: Assignment) -> float:
        return math.fsum(self._bench.cost(i, choice) for i, choice in enumerate(assignment))

    def _problem(self) -> _Problem:
        return _Problem(self._found, self._costs, _SHARE * self._room)

    def _measured(self, stage: str, plans: Sequence[_Plan]) -> list[Round]:
        assignments = [assignment for _, _, assignment in plans]
        measured = self._bench.measure(stage, assignments, list(self._allowed)) if plans else []
        return [
            self._round(*plan, readings) for plan, readings in zip(plans, measured, strict=True)
        ]

    def _round(
        self,
        limit: float,
        solution: Solution,
        assignment: Assignment,
        readings: Mapping[str, Reading],
    ) -> Round:
        shares = [readings[text].value / self._allowed[text] for text in self._allowed]
        return Round(
            assignment,
            self._cost(assignment),
            self._found.predicted(assignment),
            readings,
            max(shares) if not any(map(math.isnan, shares)) else math.inf,
            limit,
            solution,
        )

    def _repaired(self, number: int, latest: Round) -> tuple[str, float | None]:
        """What is done about a round, in words, and the next limit; None if there is none."""
        measured = latest.readings[CALIBRATION].value
        if not measured <= self._allowed[CALIBRATION]:
            missing = measured - latest.predicted
            before = len(self._found.interactions)
            explained = self._measure_pairs(number, latest.assignment)
            count = len(self._found.interactions) - before
            if count and explained > _EXPLAINED * missing:
                self._low, self._high = 0.0, math.inf  # the sums are others now
                return f"{count} pairs measured: {explained:+.1e}", latest.limit
        return self._narrowed(latest)

    def _measure_pairs(self, number: int, assignment: Assignment) -> float:
        """Measure the pairs that add most; what they cause beyond their sums, all together."""
        pairs = [pair for pair in self._found.pairs(assignment) if pair not in self._paired]
        if not pairs:
            return 0.0
        self._paired.update(pairs)
        nothing: list[int | None] = [None] * len(self._costs)
        assignments = []
        for pair in pairs:
            chosen = nothing.copy()
            for decision, choice in pair:
                chosen[decision] = choice
            assignments.append(tuple(chosen))
        readings = self._bench.measure(f"pairs {number}", assignments, [CALIBRATION])
        beyond = []
        for (first, second), reading in zip(pairs, readings, strict=True):
            alone = self._found.added(*first) + self._found.added(*second)
            both = reading[CALIBRATION].value - self._found.base.value
            self._found.interactions.append(Interaction(first, second, both - alone))
            beyond.append(both - alone)
        return math.fsum(beyond)

    def _narrowed(self, latest: Round) -> tuple[str, float | None]:
        """The next limit, by the share of what is allowed that the sum turned out to take."""
        if latest.holds:
            self._low = max(self._low, latest.limit)
        else:
            self._high = min(self._high, latest.limit)
        limit = max(latest.solution.divergence / latest.taken, latest.limit / _STEEPEST)
        limit *= 1.0 if latest.holds else _SAFE
        if not self._low < limit < self._high:
            limit = math.sqrt(self._low * self._high)
        room = min(self._high, limit) / max(self._low, _TINY)
        if not (0 < limit < math.inf) or room <= _CLOSE:
            return "", None
        return f"the sum {'loosened' if latest.holds else 'tightened'} to {limit:.3g}", limit
