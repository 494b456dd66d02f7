"""Rules compared at equal recomputation rates: the grid of the demo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lamp.evaluation import Clock, evaluate, reference_logits
from lamp.lookahead import LAMP
from lamp.studies.runs import Run

if TYPE_CHECKING:
    from lamp.models import GPT2

__all__ = ["equal_rate_grid", "spread_windows"]


def spread_windows(tokens: ArrayLike, length: int, count: int) -> NDArray[np.int64]:
    """Cut windows out of a text, evenly spread from its beginning to its end.

    Parameters
    ----------
    tokens : array_like of int, shape (n,)
        The text.
    length, count : int
        The number of tokens in a window, and of windows.  They overlap only if the text is too
        short for them to lie side by side.

    Returns
    -------
    ndarray of int64, shape (count, length)

    Raises
    ------
    ValueError
        If the text has fewer than `length` tokens.
    """
    text = np.asarray(tokens, dtype=np.int64)
    if length < 1 or count < 1:
        raise ValueError(f"windows need a positive length and count, not {length} and {count}")
    if len(text) < length:
        raise ValueError(f"the text has {len(text)} tokens, but a window takes {length}")
    starts = np.linspace(0, len(text) - length, count).astype(np.int64)
    return np.stack([text[start : start + length] for start in starts])


def equal_rate_grid(
    model: GPT2,
    windows: NDArray[np.int64],
    stored_bits: Sequence[int],
    taus: Sequence[float],
    seed: int = 0,
) -> Iterator[Run]:
    """Compare rules at the recomputation rates of the rule of the paper's version 1.

    For each number of stored bits there is a run without recomputation; then for each tau one with
    the normwise rule, one with the random control, and one with one threshold per layer on
    ``|y| z (1 - z)``, the criterion of version 2, whose budget is the normwise rule's rate.  The
    reference is the same model in float64.

    Parameters
    ----------
    model : GPT2
        The weights.
    windows : ndarray of int, shape (windows, length)
        The text.
    stored_bits, taus : sequence
        The grid.
    seed : int
        The seed of the random control.

    Yields
    ------
    Run
        In the order of the grid, each as soon as it is measured.  Its variables are ``mu``, the
        stored bits, and ``tau``, that of the normwise run whose rate it has.
    """
    reference = reference_logits(model.with_hardware("fp64"), windows)

    def run(mu: int, lamp: LAMP | None = None, **tau: float) -> Run:
        clock, machine = Clock(), f"scores-ps{mu}"
        with clock.running():
            metrics = evaluate(reference, model.with_hardware(machine, lamp), windows)
        labels = "", "", machine, str(lamp or "none"), "fp64"
        found = Run("", *labels, {"mu": mu, **tau}, metrics=metrics, seconds=clock.seconds)
        return replace(found, state="done")

    for mu in stored_bits:
        yield run(mu)
        for tau in taus:
            authors = run(mu, LAMP("normwise", tau=tau), tau=tau)
            yield authors
            yield run(mu, LAMP("random", tau=tau, seed=seed), tau=tau)
            assert authors.metrics is not None
            budget = authors.metrics.recomputation_rate
            yield run(mu, LAMP("total_variation", budget=budget, weights="abs"), tau=tau)
