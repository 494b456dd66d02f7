"""Choose the next token from logits.

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
    """Draws tokens from the softmax of logits.

    Parameters
    ----------
    temperature : float
        Logits are divided by it; at 0 the most probable token is taken.
    top_k : int, optional
        The number of most probable tokens to draw from.
    top_p : float, optional
        Draw from the smallest number of most probable tokens whose probabilities sum to at least
        this.
    seed : int
        Seed of the draws.

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
            raise ValueError(f"temperature must be finite and not negative, not {self.temperature}")
        if self.top_k is not None:
            if not isinstance(self.top_k, (int, np.integer)) or self.top_k < 1:
                raise ValueError(f"top_k must be a positive integer, not {self.top_k!r}")
            self.top_k = int(self.top_k)
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")
        if not isinstance(self.seed, (int, np.integer)) or self.seed < 0:
            raise ValueError(f"seed must be an integer that is not negative, not {self.seed!r}")
        self.seed = int(self.seed)
        self._generator = np.random.default_rng(self.seed)

    def draw(self, logits: NDArray[Any]) -> int:
        """Draw a token.

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
        tokens, probabilities = self._candidates(logits)
        sums = np.cumsum(probabilities)
        place = np.searchsorted(sums, self._generator.random() * sums[-1], "right")
        return int(tokens[min(int(place), len(tokens) - 1)])

    def _candidates(self, logits: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The tokens to draw from, most probable first, and their probabilities."""
        tokens = np.argsort(-logits, kind="stable")[: self.top_k]
        with np.errstate(over="ignore", invalid="ignore"):
            # Small temperatures give minus infinity, which is right; infinite logits give NaN.
            differences = logits[tokens].astype(np.float64) - float(logits.max())
            differences /= self.temperature
        probabilities = rows.exp(np.where(np.isnan(differences), 0.0, differences))
        probabilities /= np.cumsum(probabilities)[-1]
        if self.top_p is not None:
            kept = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
            tokens, probabilities = tokens[:kept], probabilities[:kept]
        return tokens, probabilities
