"""Two models' logits compared, position by position."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, elementary, launching

__all__ = ["compare"]

_COST: Final = 15.0  # nanoseconds of a logit


def compare(
    reference: NDArray[Any], model: NDArray[Any], following: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Compare logits with those of a reference.

    Parameters
    ----------
    reference, model : ndarray, shape (positions, vocabulary)
        Logits.
    following : ndarray of int64, shape (positions,)
        The token behind each position; -1 for none.

    Returns
    -------
    ndarray of float64, shape (positions, 4)
        KL(reference || model) in nats, whether the most probable token differs (0 or 1), and the
        negative log-probability of the following token by reference and model (NaN for none).
    """
    found = np.empty((len(following), 4))
    arrays = launching.reading(reference, model, following)
    launching.run(_compare_rows, len(following), *arrays, found, cost=_COST * reference.shape[1])
    return found


@caching.kernel
def _compare_rows(start, stop, reference, model, following, found):  # type: ignore[no-untyped-def]
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
        found[row, 0] = divergence
        found[row, 1] = 0.0 if best == guess else 1.0
        token = following[row]
        found[row, 2] = offset - np.float64(expected[token]) if token >= 0 else np.nan
        found[row, 3] = model_offset - np.float64(actual[token]) if token >= 0 else np.nan


@caching.part
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
