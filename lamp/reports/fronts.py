"""Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["front"]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other beats: in one coordinate smaller, in the other not larger.

    Of equal points only the first is on the front.

    Parameters
    ----------
    points : sequence of (float, float)
        Those that are not finite are beaten by being so.

    Returns
    -------
    list of int
        Their indices, from the least first coordinate to the largest.

    Examples
    --------
    >>> from lamp.reports.fronts import front
    >>> front([(1, 5), (2, 3), (3, 4), (4, 1)])
    [0, 1, 3]
    """
    finite = (i for i, point in enumerate(points) if all(map(math.isfinite, point)))
    found: list[int] = []
    for i in sorted(finite, key=lambda i: points[i]):
        if not found or points[i][1] < points[found[-1]][1]:
            found.append(i)
    return found
