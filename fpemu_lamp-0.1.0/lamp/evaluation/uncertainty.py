"""How far a mean over the tokens of a text may be from the mean over all such text.

Divergences of tokens are heavy-tailed, and those of one window depend on each other.  A standard
error is therefore taken from clusters of tokens: the windows, or where there is one window alone,
blocks of its tokens.

References
----------
W. G. Cochran, Sampling Techniques, 3rd ed., 1977, section 6.4 (ratio estimators) and chapter 9
(clusters); Student, "The probable error of a mean", Biometrika 6, 1908.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import mpmath
import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCKS", "Bounded", "Estimate", "clusters_of", "paired", "ratio"]

BLOCKS: Final = 16
"""How many blocks of tokens stand for the clusters of a single window."""

_BISECTIONS: Final = 60


@dataclass(frozen=True)
class Estimate:
    """A number found on a text, and how far the same number on other text may be from it.

    Parameters
    ----------
    value : float
    error : float
        Its standard error; NaN with fewer than two clusters.
    clusters : int
        The number of clusters of tokens that the error is from.
    """

    value: float
    error: float
    clusters: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The ends of a confidence interval, by Student's distribution.

        Parameters
        ----------
        level : float
            The probability that it holds the number of all such text, as far as clusters are
            independent and their means nearly normal.

        Returns
        -------
        tuple of (float, float)

        Raises
        ------
        ValueError
            If the level does not lie between 0 and 1.

        Examples
        --------
        >>> from lamp.evaluation import Estimate
        >>> low, high = Estimate(1.0, 0.1, 5).interval()
        >>> round(low, 3), round(high, 3)
        (0.722, 1.278)
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, not {level!r}")
        if self.clusters < 2:
            return math.nan, math.nan
        reach = _student_quantile(level, self.clusters - 1) * self.error
        return self.value - reach, self.value + reach

    @property
    def is_decided(self) -> bool:
        """Whether the sign of a difference is decided: its 95% interval does not hold zero."""
        low, high = self.interval()
        return low > 0 or high < 0

    def factor_interval(self, level: float = 0.95) -> tuple[float, float]:
        """The ends of the confidence interval of a factor, symmetric in its logarithm.

        Parameters
        ----------
        level : float
            As for :meth:`interval`.

        Returns
        -------
        tuple of (float, float)
            NaN if the value is not a positive number.
        """
        if not 0 < self.value < math.inf:
            return math.nan, math.nan
        logarithm = Estimate(math.log(self.value), self.error / self.value, self.clusters)
        with np.errstate(over="ignore"):
            low, high = np.exp(logarithm.interval(level)).tolist()
        return low, high


@dataclass(frozen=True)
class Bounded(Estimate):
    """An estimate of a number that cannot lie everywhere, such as a share.

    Parameters
    ----------
    least, most : float
        The values that are possible.
    """

    least: float = 0.0
    most: float = math.inf

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The ends of a confidence interval, cut to the values that are possible.

        Parameters
        ----------
        level : float
            As for :meth:`Estimate.interval`.

        Returns
        -------
        tuple of (float, float)

        Notes
        -----
        Cutting changes nothing of how often the interval holds the true number, which lies among
        the values that are possible.

        Examples
        --------
        >>> from lamp.evaluation import Bounded
        >>> Bounded(0.25, 0.25, 5, most=1.0).interval()[0]
        0.0
        """
        low, high = super().interval(level)  # NaN stays, as it is first
        return max(low, min(self.least, self.value)), min(high, max(self.most, self.value))


@functools.lru_cache(maxsize=256)
def _student_quantile(level: float, freedom: int) -> float:
    """The t with probability `level` between -t and t, by bisection of the incomplete beta."""

    def inside(t: float) -> float:
        x = freedom / (freedom + t * t)
        return 1.0 - float(mpmath.betainc(freedom / 2, 0.5, 0, x, regularized=True))

    low, high = 0.0, 1.0
    while inside(high) < level:
        high *= 2.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return high


def clusters_of(windows: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """The positions of a text by clusters: its windows, or blocks of a single one.

    Parameters
    ----------
    windows : sequence of ndarray, shapes (positions, ...)

    Returns
    -------
    list of ndarray
        None of them is empty.
    """
    parts = windows if len(windows) != 1 else np.array_split(windows[0], BLOCKS)
    return [part for part in parts if len(part)]


def ratio(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> Estimate:
    """The mean of all elements and its standard error, from sums over clusters.

    Parameters
    ----------
    sums, sizes : ndarray of float64, shape (clusters,)
        The sum over each cluster, and how many elements it has.

    Returns
    -------
    Estimate
        Sums of zero elements give NaN.
    """
    total = _total(sizes)
    if not total:
        return Estimate(math.nan, math.nan, 0)
    value, count = _total(sums) / total, len(sums)
    if count < 2:
        return Estimate(value, math.nan, count)
    with np.errstate(all="ignore"):  # a mean may be infinite or NaN, and so is then its error
        squares = (sums - value * sizes) ** 2
    variance = _total(squares) * count / (count - 1)
    return Estimate(value, math.sqrt(variance) / total, count)


def _total(values: NDArray[np.float64]) -> float:
    """The sum, correctly rounded; infinite or NaN where there is none."""
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):  # infinities of both signs; a sum beyond all numbers
        with np.errstate(all="ignore"):
            return float(np.sum(values))


def paired(first: Sequence[NDArray[np.float64]], second: Sequence[NDArray[np.float64]]) -> Estimate:
    """The difference of two means over the same positions: the second less the first.

    Parameters
    ----------
    first, second : sequence of ndarray, shapes (positions,)
        A number for each position, window by window.

    Returns
    -------
    Estimate
        Its error is that of the differences, which is what tells whether one is better: both means
        go up and down together with the text.

    Raises
    ------
    ValueError
        If the windows are not the same.
    """
    if [len(part) for part in first] != [len(part) for part in second]:
        raise ValueError("paired means need the same windows")
    with np.errstate(invalid="ignore"):  # both may be infinite
        parts = clusters_of([b - a for a, b in zip(first, second, strict=True)])
    sums = np.array([_total(part) for part in parts])
    return ratio(sums, np.array([float(len(part)) for part in parts]))
