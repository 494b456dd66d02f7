"""How far a model under simulated hardware is from its reference.

References
----------
The metrics of Budzinskiy et al., arXiv 2601.21623, section 5: KL divergence, flip rate, perplexity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import elementary, parallel

if TYPE_CHECKING:
    from lamp.gpt2 import GPT2

__all__ = ["Metrics", "evaluate"]

_GRAIN = 16  # rows of logits worth a thread


@dataclass(frozen=True)
class Metrics:
    """A model against its reference on a text.

    Parameters
    ----------
    tokens : int
        Positions compared.
    kl : float
        Mean over positions of KL(reference || model) of the next-token distributions, in nats.
    flip_rate : float
        Share of positions whose most probable next token differs.
    reference_perplexity, perplexity : float
        exp of the mean negative log-probability of the text's own next tokens; NaN if the text has
        none.
    recomputation_rate : float
        Recomputed share of the causal query-key products.
    layer_rates : tuple of float
        The same of each layer.
    """

    tokens: int
    kl: float
    flip_rate: float
    reference_perplexity: float
    perplexity: float
    recomputation_rate: float
    layer_rates: tuple[float, ...]


def evaluate(
    reference: GPT2 | ArrayLike,
    model: GPT2,
    tokens: ArrayLike,
) -> Metrics:
    """Run a model and compare it with a reference, position by position.

    Parameters
    ----------
    reference : GPT2 or array_like
        The reference model, usually the same weights in float64, or its logits for these tokens.
    model : GPT2
        The model under test.
    tokens : array_like of int, shape (length,) or (windows, length)
        Token numbers; each window is a text of its own.

    Returns
    -------
    Metrics

    Raises
    ------
    ValueError
        If there are no tokens, a token is out of range, or logits have another shape.

    Examples
    --------
    >>> import lamp
    >>> model = lamp.GPT2.from_pretrained("embedded", hardware="ps4")
    >>> tokens = model.encode("When shall we three meet again?")
    >>> metrics = lamp.evaluate(model.with_hardware("fp64"), model, tokens)
    >>> 0 < metrics.kl < 0.1
    True
    """
    windows = np.atleast_2d(np.asarray(tokens))
    expected = reference_logits(reference, windows)
    divergences, flips, losses, reference_losses = [], [], [], []
    selected: Any = 0
    pairs: Any = 0
    for window, reference_rows in zip(windows, expected, strict=True):
        result = model.forward(window)
        if reference_rows.shape != result.logits.shape:
            raise ValueError(
                f"reference logits have shape {reference_rows.shape}, but the model's have "
                f"{result.logits.shape}"
            )
        following = np.append(window[1:], -1).astype(np.int64)
        rows = _compare(reference_rows, result.logits, following)
        divergences.append(rows[:, 0])
        flips.append(rows[:, 1])
        reference_losses.append(rows[:-1, 2])
        losses.append(rows[:-1, 3])
        selected = selected + result.selected
        pairs = pairs + result.pairs
    return Metrics(
        tokens=windows.size,
        kl=_mean(divergences),
        flip_rate=_mean(flips),
        reference_perplexity=_perplexity(reference_losses),
        perplexity=_perplexity(losses),
        recomputation_rate=float(np.sum(selected) / np.sum(pairs)),
        layer_rates=tuple(float(rate) for rate in np.atleast_1d(selected / pairs)),
    )


def reference_logits(reference: GPT2 | ArrayLike, windows: NDArray[Any]) -> NDArray[Any]:
    """The logits of a reference for (windows, length) tokens: (windows, length, vocabulary)."""
    if hasattr(reference, "forward"):
        return np.stack([reference.forward(window).logits for window in windows])
    logits = np.asarray(reference)
    if logits.ndim == 2 and len(windows) == 1:
        logits = logits[np.newaxis]
    if logits.ndim != 3 or logits.shape[:2] != windows.shape:
        raise ValueError(
            f"reference logits have shape {logits.shape}, but the tokens have shape {windows.shape}"
        )
    return logits


def _mean(parts: list[NDArray[np.float64]]) -> float:
    """The mean, correctly rounded, so that it does not depend on how the text was cut up."""
    values = np.concatenate(parts)
    return math.fsum(values) / len(values) if len(values) else math.nan


def _perplexity(losses: list[NDArray[np.float64]]) -> float:
    with np.errstate(over="ignore"):  # a loss above 700 nats is a perplexity of infinity
        return float(np.exp(_mean(losses)))


def _compare(
    reference: NDArray[Any], model: NDArray[Any], following: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Per position: KL, flip (0 or 1), and the loss of the following token (NaN for -1) of both."""
    rows = np.empty((len(following), 4))
    parallel.run(_compare_rows, len(following), reference, model, following, rows, grain=_GRAIN)
    return rows


@parallel.kernel
def _compare_rows(start, stop, reference, model, following, rows):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        expected, actual = reference[row], model[row]
        best, guess = 0, 0
        for j in range(expected.size):
            if expected[j] > expected[best]:
                best = j
            if actual[j] > actual[guess]:
                guess = j
        top, model_top = np.float64(expected[best]), np.float64(actual[guess])
        total, model_total = 0.0, 0.0
        for j in range(expected.size):
            total += elementary.exp(np.float64(expected[j]) - top)
            model_total += elementary.exp(np.float64(actual[j]) - model_top)
        offset = top + elementary.log(total)
        model_offset = model_top + elementary.log(model_total)
        divergence = 0.0
        for j in range(expected.size):
            log_p = np.float64(expected[j]) - offset
            divergence += _divergence_term(log_p, (np.float64(actual[j]) - model_offset) - log_p)
        rows[row, 0] = divergence
        rows[row, 1] = 0.0 if best == guess else 1.0
        token = following[row]
        rows[row, 2] = offset - np.float64(expected[token]) if token >= 0 else np.nan
        rows[row, 3] = model_offset - np.float64(actual[token]) if token >= 0 else np.nan


@parallel.kernel
def _divergence_term(log_p, ratio):  # type: ignore[no-untyped-def]
    """``p (exp(r) - 1 - r)`` with r = log(q/p), which sums to KL(p || q).

    The terms are not negative, so that nothing cancels between them, unlike those of -p r.
    """
    p = elementary.exp(log_p)
    if abs(ratio) > 0.1:
        return elementary.exp(log_p + ratio) - p - p * ratio
    # Taylor's series to r**12 / 12!; the rest is below 1e-20 of the sum.
    term = ratio * ratio / 2.0
    total = term
    for n in range(3, 13):
        term *= ratio / n
        total += term
    return p * total
