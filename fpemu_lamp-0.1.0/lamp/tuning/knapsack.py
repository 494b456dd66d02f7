"""The cheapest choice of one option per group whose divergences sum to at most what is allowed.

This is the multiple-choice knapsack problem.  Its Lagrangian relaxation, minimise the sum of
``cost + multiplier * divergence``, falls apart into the groups.  As the multiplier falls from
infinity to 0, each group goes through the options on the lower convex hull of its (divergence,
cost) points; all these steps in the order of their slopes are the convex front of the whole
problem, whose corners are assignments and whose line is a lower bound of every cost.  The problem
is then solved exactly: sums of cost and divergence are extended group by group, and a sum is
dropped if another is no worse in both, or if the bound of the groups that are left cannot bring it
below the best assignment known.

References
----------
P. Sinha, A. A. Zoltners, "The multiple-choice knapsack problem", Operations Research 27, 1979;
D. Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", European Journal of
Operational Research 83, 1995.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Corner", "Group", "Solution", "front", "solve"]

_MOST_STATES: Final = 2**17
_ROUNDING: Final = 1e-12  # relative: sums in another order may be off by as much


@dataclass(frozen=True)
class Group:
    """The options of one decision.

    Parameters
    ----------
    costs : array_like of float, shape (options,)
        Finite numbers.
    divergences : array_like of float, shape (options,)
        An option whose divergence is NaN or infinite cannot be taken.

    Raises
    ------
    ValueError
        If shapes differ, there are no options, or a cost is not finite.
    """

    costs: NDArray[np.float64]
    divergences: NDArray[np.float64]

    def __init__(self, costs: ArrayLike, divergences: ArrayLike) -> None:
        for name, given in (("costs", costs), ("divergences", divergences)):
            object.__setattr__(self, name, np.asarray(given, np.float64))
        if self.costs.ndim != 1 or self.costs.shape != self.divergences.shape:
            raise ValueError(
                f"a group needs a cost and a divergence for each option, not shapes "
                f"{self.costs.shape} and {self.divergences.shape}"
            )
        if not len(self.costs):
            raise ValueError("a group needs at least one option")
        if not np.isfinite(self.costs).all():
            raise ValueError(f"costs must be finite, not {self.costs.tolist()}")

    @property
    def possible(self) -> NDArray[np.intp]:
        """The options that can be taken."""
        return np.flatnonzero(np.isfinite(self.divergences))

    def hull(self) -> list[int]:
        """The options on the lower convex hull, from the least divergence to the least cost.

        Of options that are equal, the first is taken.
        """
        ordered = sorted(self.possible.tolist(), key=lambda i: (*self._point(i), i))
        found: list[int] = []
        for option in ordered:
            if found and self.costs[option] >= self.costs[found[-1]]:
                continue
            while len(found) > 1 and self._is_above(found[-2], found[-1], option):
                found.pop()
            found.append(option)
        return found

    def _point(self, option: int) -> tuple[float, float]:
        return float(self.divergences[option]), float(self.costs[option])

    def _is_above(self, first: int, middle: int, last: int) -> bool:
        """Whether the middle option is on or above the line through two others."""
        return self.slope(first, middle) <= self.slope(middle, last)

    def slope(self, first: int, second: int) -> float:
        """The cost saved for each unit of divergence from an option to the next of the hull."""
        rise = float(self.divergences[second] - self.divergences[first])
        saved = float(self.costs[first] - self.costs[second])
        return saved / rise if rise > 0 else math.inf


class Corner(NamedTuple):
    """A corner of the convex front: an assignment, its cost and its divergence."""

    cost: float
    divergence: float
    choices: tuple[int, ...]


@dataclass(frozen=True)
class Solution:
    """An assignment, one option for each group.

    Parameters
    ----------
    choices : tuple of int
        The number of the option of each group.
    cost, divergence : float
        Their sums.
    bound : float
        No assignment that is allowed costs less.
    relaxed : float
        The bound of the Lagrangian relaxation.
    """

    choices: tuple[int, ...]
    cost: float
    divergence: float
    bound: float
    relaxed: float

    @property
    def is_exact(self) -> bool:
        """Whether no other assignment is cheaper."""
        return self.cost <= self.bound

    @property
    def gap(self) -> float:
        """The duality gap: how much more it costs than the bound of the relaxation."""
        return self.cost - self.relaxed


def front(groups: Sequence[Group]) -> list[Corner]:
    """All corners of the convex front, from the least divergence to the least cost.

    Parameters
    ----------
    groups : sequence of Group

    Returns
    -------
    list of Corner
        Empty if a group has no option that can be taken.

    Examples
    --------
    >>> from lamp.tuning.knapsack import Group, front
    >>> for corner in front([Group([8, 4, 2], [0, 1, 4]), Group([8, 2], [0, 2])]):
    ...     print(corner)
    Corner(cost=16.0, divergence=0.0, choices=(0, 0))
    Corner(cost=12.0, divergence=1.0, choices=(1, 0))
    Corner(cost=6.0, divergence=3.0, choices=(1, 1))
    Corner(cost=4.0, divergence=6.0, choices=(2, 1))
    """
    hulls = [group.hull() for group in groups]
    if not all(hulls):
        return []
    steps = [
        (-group.slope(first, second), number, second)
        for number, (group, hull) in enumerate(zip(groups, hulls, strict=True))
        for first, second in pairwise(hull)
    ]
    choices = [hull[0] for hull in hulls]
    corners = [_corner(groups, choices)]
    # A hull is convex: a group's own steps come in their order.
    for _, number, option in sorted(steps, key=lambda step: step[:2]):
        choices[number] = option
        corners.append(_corner(groups, choices))
    return corners


def _corner(groups: Sequence[Group], choices: Sequence[int]) -> Corner:
    pairs = list(zip(groups, choices, strict=True))
    cost = math.fsum(float(group.costs[option]) for group, option in pairs)
    divergence = math.fsum(float(group.divergences[option]) for group, option in pairs)
    return Corner(cost, divergence, tuple(choices))


def solve(
    groups: Sequence[Group], allowed: float, *, most_states: int = _MOST_STATES
) -> Solution | None:
    """The cheapest assignment whose divergences sum to at most what is allowed.

    Of assignments of equal cost it has the least divergence.

    Parameters
    ----------
    groups : sequence of Group
        Integers are summed without error; sums of other numbers count as allowed up to 1e-12.
    allowed : float
        The most that the divergences may sum to.
    most_states : int
        The number of partial sums that are kept.  Beyond it, those with the worst bounds are
        dropped: the solution is then the best one found, and its `bound` says how much cheaper
        another might be.

    Returns
    -------
    Solution or None
        None if no assignment is allowed.

    Raises
    ------
    ValueError
        If `allowed` is NaN or `most_states` is not positive.

    Examples
    --------
    >>> from lamp.tuning.knapsack import Group, solve
    >>> solution = solve([Group([8, 4, 2], [0, 1, 4]), Group([8, 2], [0, 2])], allowed=4)
    >>> solution.choices, solution.cost, solution.divergence, round(solution.gap, 6)
    ((1, 1), 6.0, 3.0, 0.666667)
    """
    if math.isnan(allowed):
        raise ValueError("allowed must be a number, not NaN")
    if most_states < 1:
        raise ValueError(f"most_states must be positive, not {most_states}")
    limit = allowed + _ROUNDING * abs(allowed)
    corners = front(groups)
    if not corners or corners[0].divergence > limit:
        return None
    rests = [_Relaxed(front(groups[number:])) for number in range(len(groups) + 1)]
    incumbent = min(c.cost for c in corners if c.divergence <= limit)
    states, dropped = _States.first(), math.inf
    trail: list[_States] = []
    for number, group in enumerate(groups):
        states = states.extended(group)
        bounds = states.costs + rests[number + 1](limit - states.divergences)
        states, bounds = states.kept(bounds <= incumbent + _ROUNDING * abs(incumbent), bounds)
        states, bounds = states.without_dominated(bounds)
        if len(bounds) > most_states:
            best = np.sort(np.argsort(bounds, kind="stable")[:most_states])
            dropped = min(dropped, float(np.delete(bounds, best).min()))
            states, bounds = states.kept(best, bounds)
        trail.append(states)
    return _best(groups, corners, limit, trail, dropped, rests[0])


class _Relaxed:
    """The least cost of groups by what they may diverge, on the convex front."""

    def __init__(self, corners: Sequence[Corner]) -> None:
        self._divergences = np.array([corner.divergence for corner in corners])
        self._costs = np.array([corner.cost for corner in corners])

    def __call__(self, allowed: NDArray[np.float64]) -> NDArray[np.float64]:
        """The bound; infinite where less is allowed than the least divergence."""
        least = self._divergences[0]
        # Differences may be off in their last bits.
        slack = _ROUNDING * (np.abs(allowed) + abs(least))
        costs = np.interp(allowed, self._divergences, self._costs)
        return np.where(allowed + slack < least, np.inf, costs)


@dataclass(frozen=True)
class _States:
    """Sums over the first groups, and how each came about."""

    costs: NDArray[np.float64]
    divergences: NDArray[np.float64]
    parents: NDArray[np.intp]
    options: NDArray[np.intp]

    @classmethod
    def first(cls) -> _States:
        """The sums over no groups."""
        zero, none = np.zeros(1), np.zeros(1, np.intp)
        return cls(zero, zero, none, none)

    def extended(self, group: Group) -> _States:
        """Every sum with every option of a group."""
        options, before = group.possible, len(self.costs)
        return _States(
            np.add.outer(self.costs, group.costs[options]).ravel(),
            np.add.outer(self.divergences, group.divergences[options]).ravel(),
            np.repeat(np.arange(before), len(options)),
            np.tile(options, before),
        )

    def kept(
        self, which: NDArray[np.bool_] | NDArray[np.intp], bounds: NDArray[np.float64]
    ) -> tuple[_States, NDArray[np.float64]]:
        """Some of the sums, and their bounds."""
        kept = _States(
            self.costs[which], self.divergences[which], self.parents[which], self.options[which]
        )
        return kept, bounds[which]

    def without_dominated(self, bounds: NDArray[np.float64]) -> tuple[_States, NDArray[np.float64]]:
        """The sums of which no other costs as little and diverges as little."""
        order = np.lexsort((self.costs, self.divergences))  # stable: of equal ones the first stays
        costs = self.costs[order]
        least = np.minimum.accumulate(costs)
        is_new = np.append(True, costs[1:] < least[:-1])[: len(costs)]
        return self.kept(order[is_new], bounds)


def _best(
    groups: Sequence[Group],
    corners: Sequence[Corner],
    limit: float,
    trail: Sequence[_States],
    dropped: float,
    relaxed: _Relaxed,
) -> Solution:
    """The cheapest of the sums over all groups and of the corners of the front."""
    found = [corner for corner in corners if corner.divergence <= limit]
    if trail and len(trail[-1].costs):
        found += [_corner(groups, _traced(trail, state)) for state in range(len(trail[-1].costs))]
    best = min(found, key=lambda corner: (corner.cost, corner.divergence))
    bound = float(relaxed(np.array([limit]))[0])
    exact = dropped >= best.cost
    return Solution(
        best.choices,
        best.cost,
        best.divergence,
        best.cost if exact else max(bound, min(dropped, best.cost)),
        min(bound, best.cost),
    )


def _traced(trail: Sequence[_States], state: int) -> list[int]:
    """The options of a sum over all groups."""
    options = []
    for states in reversed(trail):
        options.append(int(states.options[state]))
        state = int(states.parents[state])
    return options[::-1]
