"""What the rules that bound a condition number of each row have in common.

A rule gives each row a number kappa of the components that are picked, and picks the fewest whose
kappa is at most tau.  The more are picked, the smaller kappa can be: how many a row needs within
any tau is known from the least kappas of each number of components.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching
from lamp._kernels.ordering import Lengths, Mask, Numbers, Sorting, numbers_of, sorting

__all__ = [
    "Condition",
    "Curves",
    "Limit",
    "Rows",
    "Work",
    "clear",
    "curves",
    "pick",
    "pick_first",
]

_COST: Final = 2.0  # nanoseconds of a component


class Rows(NamedTuple):
    """The rows of a softmax: probabilities, weights of their errors, and how many exist."""

    z: NDArray[Any]
    weights: NDArray[Any]
    lengths: Lengths


class Limit(NamedTuple):
    """How many components a row may take: as tau requires, or `counts` if they are not -1.

    Where a search for the least of the largest begins, of each row, or 0; a thread goes on from
    there.
    """

    tau: float
    counts: Lengths
    guesses: NDArray[np.uint32]


class Curves(NamedTuple):
    """How many components rows take within a tau, and fewer as it grows to another.

    The least kappas of the next smaller numbers, in ascending order, up to the greater tau or as
    many as there is room for; inf fills the rest.
    """

    counts: Lengths
    kappas: NDArray[np.float64]
    guesses: NDArray[np.uint32]


class Condition(NamedTuple):
    """The kernels of a rule: one picks components, the other finds curves.

    Between which taus any number is picked, of weights up to 1, and whether there are weights.
    """

    pick: Any
    curves: Any
    taus: tuple[float, float]
    is_weighted: bool


class Work(NamedTuple):
    """What a thread works in.

    The numbers of a row, and its caps; what numbers are sorted in, and sums of them; the largest
    costs and caps in ascending order, and their places; how each component is picked; and guesses
    of the least of the largest numbers and caps.
    """

    numbers: Numbers
    open: Numbers
    caps: Numbers
    sorting: Sorting
    sums: NDArray[np.float64]
    costs: NDArray[np.float64]
    cost_places: NDArray[np.int64]
    cap_sizes: NDArray[np.float64]
    cap_places: NDArray[np.int64]
    state: NDArray[np.int8]
    guesses: NDArray[np.uint32]


def _work(columns: int) -> Work:
    return Work(
        numbers_of(columns),
        numbers_of(columns),
        numbers_of(columns),
        sorting(columns),
        np.zeros(columns + 1),
        np.empty(columns),
        np.empty(columns, np.int64),
        np.empty(columns),
        np.empty(columns, np.int64),
        np.zeros(columns, np.int8),
        np.zeros(2, np.uint32),
    )


def pick(
    condition: Condition,
    rows: Rows,
    tau: float,
    counts: Lengths | None = None,
    guesses: NDArray[np.uint32] | None = None,
) -> Mask:
    """The fewest components within tau, or `counts` of each row with the least kappa.

    A row that holds a NaN, or whose sums overflow, is picked as a whole; of a count its first
    components.
    """
    mask = np.empty(rows.z.shape, np.bool_)
    count = len(mask)
    limit = Limit(
        tau,
        *launching.reading(
            np.full(count, -1) if counts is None else counts,
            np.zeros((count, 2), np.uint32) if guesses is None else guesses,
        ),
    )
    _run(condition.pick, rows, limit, mask)
    return mask


def curves(condition: Condition, rows: Rows, low: float, high: float, room: int) -> Curves:
    """The curves of rows between two taus, of each no more than `room` kappas."""
    count = len(rows.z)
    found = Curves(
        np.empty(count, np.int64), np.full((count, room), np.inf), np.zeros((count, 2), np.uint32)
    )
    _run(condition.curves, rows, low, high, found)
    return found


def _run(kernel: Any, rows: Rows, *arguments: Any) -> None:
    count, columns = rows.z.shape
    launching.run(
        kernel,
        count,
        Rows(*launching.reading(*rows)),
        *arguments,
        cost=_COST * columns,
        workspace=lambda: _work(columns),
    )


@caching.inline
def pick_first(mask, count):  # type: ignore[no-untyped-def]
    """Pick the first `count` components of a row and no others."""
    for j in range(count):
        mask[j] = True
    clear(mask, count)


@caching.inline
def clear(mask, begin):  # type: ignore[no-untyped-def]
    """Pick none of the components from one on."""
    for j in range(begin, mask.size):
        mask[j] = False
