"""The next token from logits.

References
----------
A. Holtzman et al., "The curious case of neural text degeneration", ICLR 2020, for top-p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamp._kernels import rows

__all__ = ["Sampler"]


@dataclass
class Sampler:
    """How tokens are drawn.

    Parameters
    ----------
    temperature : float
        What logits are divided by; 0 takes the most probable token.
    top_k : int, optional
        How many of the most probable tokens may be drawn.
    top_p : float, optional
        The probability that the fewest tokens which may be drawn have together.
    seed : int
        Of the draws.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    _generator: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must not be negative, as {self.temperature} is")
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise ValueError(f"top_k must be a positive integer, not {self.top_k!r}")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be an integer that is not negative, not {self.seed!r}")
        self._generator = np.random.default_rng(self.seed)

    def draw(self, logits: NDArray[Any]) -> int:
        """A token.

        Parameters
        ----------
        logits : ndarray, shape (vocabulary,)

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If a logit is NaN, or all are minus infinity.
        """
        if np.isnan(logits).any() or logits.max() == -np.inf:
            raise ValueError("the model gives no probabilities: its logits hold NaN or no number")
        if self.temperature == 0.0:
            return int(np.argmax(logits))
        order, shares = self._candidates(logits)
        sums = np.cumsum(shares)
        place = np.searchsorted(sums, self._generator.random() * sums[-1], "right")
        return int(order[min(int(place), len(order) - 1)])

    def _candidates(self, logits: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The tokens that may be drawn, most probable first, and their probabilities."""
        order = np.argsort(-logits, kind="stable")[: self.top_k]
        with np.errstate(over="ignore", invalid="ignore"):
            # Small temperatures make minus infinity, which is right; of infinities, NaN.
            below = (logits[order].astype(np.float64) - float(logits.max())) / self.temperature
        shares = rows.exp(np.where(np.isnan(below), 0.0, below))
        shares /= np.cumsum(shares)[-1]
        if self.top_p is not None:
            kept = int(np.searchsorted(np.cumsum(shares), self.top_p)) + 1
            order, shares = order[:kept], shares[:kept]
        return order, shares
