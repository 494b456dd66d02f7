"""Which components of g(x) to recompute in higher precision before f is taken of them.

A rule looks at the cheap y and at f(y) alone: where is the composition sensitive to the rounding
errors in y?  Most rules give every component a score, its share in a bound or in an expected error
that is a sum over components, and the largest scores are taken: exactly the best choice, by
exchange.  The others meet a condition of a softmax's row with as few components as they can.

References
----------
Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fpemu
from fpemu._kernels import caching, launching
from lamp._kernels import picking as taking
from lamp.lookahead.rules import LAMP, RULES, Rule

__all__ = ["select"]

_GRAIN: Final = 16  # rows worth a thread
_BISECTIONS: Final = 40


def select(
    z: ArrayLike,
    y: ArrayLike | None = None,
    *,
    rule: str | LAMP = "normwise",
    tau: float | None = None,
    budget: float | None = None,
    weights: str | ArrayLike = "one",
    seed: int = 0,
    scope: str = "all",
    exact_columns: int = 0,
    row_lengths: ArrayLike | None = None,
    stream: int = 0,
    values: ArrayLike | None = None,
    sensitivity: ArrayLike | None = None,
    consumer: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """Which components to recompute.

    Parameters
    ----------
    z : array_like, shape (..., n)
        f(y): probabilities, the softmax of `y` along the last axis.  For the rules activation and
        norm any numbers.
    y : array_like, shape (..., n), optional
        The computed arguments of f; needed for weights ``"abs"``.
    rule, tau, budget, seed, scope, exact_columns
        As in :class:`LAMP`, which may be given as `rule`.  A budget is a share of all the
        components in the array, or of each row.
    weights : str or array_like, broadcast to the shape of z
        ``"one"``, ``"abs"`` for ``|y|``, or any nonnegative numbers to which errors are
        proportional: ``|a|^T |b|``, ``||a|| ||b||``, running sums of :func:`fpemu.matmul`.
    row_lengths : array_like of int, optional
        How many leading components of each row exist, broadcast against the rows ``z.shape[:-1]``;
        the rest are masked: never selected and never counted, but for the normwise rule they are
        zeros of the row, as in the authors' code.
    stream : int
        Random rule: distinguishes calls under one seed.
    values : array_like, shape (..., n, d), optional
        The rows v that the probabilities weigh, for the rule value_aware.
    sensitivity : array_like, broadcast to the shape of z, optional
        How f reacts to each component, for the rules activation and norm:
        :meth:`lamp.compositions.Composition.sensitivity`, or a relative condition.
    consumer : array_like, shape (n,), optional
        What the next matrix makes of each component, such as the norms of its rows; multiplies the
        sensitivity.

    Returns
    -------
    ndarray of bool, shape (..., n)
        A component whose score is NaN, of an overflowed row say, comes before all others; a row
        that holds a NaN is taken whole by the rules without scores, as far as a budget allows.  Of
        equal scores the first is taken.  Scores are compared in float32.

    Raises
    ------
    ValueError
        If a parameter is out of range, shapes differ, or `z` holds a value outside [0, 1].

    Notes
    -----
    The rules without scores, with a budget over all rows, take one tau for all: the smallest, to
    12 digits, with which they keep it.

    Examples
    --------
    The normwise rule stops when enough probability is covered:

    >>> import lamp
    >>> lamp.select([0.6, 0.25, 0.1, 0.05], tau=1.2)
    array([ True,  True, False, False])

    It may take one too many: here recomputing the smallest alone is enough.

    >>> lamp.select([0.02, 0.49, 0.49], tau=1.4)
    array([False,  True,  True])
    >>> lamp.select([0.02, 0.49, 0.49], rule="normwise_optimal", tau=1.4)
    array([ True, False, False])
    """
    named = weights if isinstance(weights, str) else "one"
    settings = rule
    if not isinstance(settings, LAMP):
        settings = LAMP(str(rule), tau, budget, named, seed, scope, exact_columns)
    rule_ = RULES[settings.rule]
    shares = _as_float(z)
    if shares.ndim == 0:
        raise ValueError("z needs at least one dimension")
    if rule_.name not in ("activation", "norm") and ((shares < 0) | (shares > 1)).any():
        wrong = shares[(shares < 0) | (shares > 1)].ravel()[0]
        raise ValueError(f"z must hold probabilities: {wrong} is outside [0, 1]")
    arguments = shares if y is None else np.asarray(y, dtype=shares.dtype)
    if arguments.shape != shares.shape:
        raise ValueError(f"y has shape {arguments.shape}, but z has shape {shares.shape}")
    lengths = _checked_lengths(row_lengths, shares)
    if rule_.name == "value_aware":
        sensitivity = _distances(shares, values, lengths) * shares
    elif rule_.sensitivity == "given" and sensitivity is None:
        raise ValueError(f"rule {rule_.name!r} needs the sensitivity of f")
    if consumer is not None and sensitivity is not None:
        sensitivity = np.asarray(sensitivity) * np.asarray(consumer)
    given = settings.weights if isinstance(weights, str) else _numbers(weights, settings)
    weight = _weights(given, None if y is None else arguments)
    mask = select_rows(
        _rows(shares, shares),
        lengths,
        settings,
        weights=None if weight is None else _rows(weight, shares),
        sensitivity=None if sensitivity is None else _rows(np.asarray(sensitivity), shares),
        stream=stream,
    )
    return mask.reshape(shares.shape)


def _as_float(x: ArrayLike) -> NDArray[Any]:
    array = np.asarray(x)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _rows(x: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """An array broadcast to the shape of another, as rows in float32 or float64."""
    try:
        whole = np.broadcast_to(_as_float(x), like.shape)
    except ValueError as error:
        raise ValueError(
            f"shape {x.shape} does not broadcast to {like.shape}, that of z"
        ) from error
    return np.ascontiguousarray(whole).reshape(-1, like.shape[-1])


def _checked_lengths(row_lengths: ArrayLike | None, z: NDArray[Any]) -> NDArray[np.int64]:
    columns, rows = z.shape[-1], z.shape[:-1]
    lengths = np.full(rows, columns) if row_lengths is None else np.asarray(row_lengths)
    if lengths.dtype.kind not in "iu" or (
        lengths.size and (lengths.min() < 0 or lengths.max() > columns)
    ):
        raise ValueError(f"row_lengths must be integers in 0..{columns}")
    return np.ascontiguousarray(np.broadcast_to(lengths, rows), dtype=np.int64).reshape(-1)


def _numbers(weights: ArrayLike, settings: LAMP) -> NDArray[Any]:
    """Weights that are given as numbers, checked."""
    if not RULES[settings.rule].power:
        raise ValueError(f"rule {settings.rule!r} takes no weights")
    numbers = _as_float(weights)
    if (numbers < 0).any():
        raise ValueError(f"weights must not be negative, as {numbers[numbers < 0].ravel()[0]} is")
    return numbers


def _weights(given: str | NDArray[Any], y: NDArray[Any] | None) -> NDArray[Any] | None:
    """The numbers that weights by name or in numbers stand for, None for ones."""
    if not isinstance(given, str):
        return given
    if given == "one":
        return None
    if given != "abs":
        raise ValueError(f"weights {given!r} are not known here: give the numbers themselves")
    if y is None:
        raise ValueError("weights 'abs' need the scores y")
    return np.asarray(np.abs(y))


def _distances(z: NDArray[Any], values: ArrayLike | None, lengths: NDArray[np.int64]) -> Any:
    """``||v_j - o||`` with ``o = z V``, shaped as z."""
    if values is None:
        raise ValueError("rule 'value_aware' needs the values")
    v = np.asarray(values, np.float64)
    if v.ndim < 2 or v.shape[-2] != z.shape[-1]:
        raise ValueError(f"values have shape {v.shape}, but z has rows of {z.shape[-1]}")
    exists = np.arange(z.shape[-1]) < lengths.reshape(*z.shape[:-1], 1)
    rows = np.where(exists, z, 0.0).astype(np.float64)
    rows = rows if z.ndim > 1 else rows[np.newaxis]
    return value_distances(rows, v).reshape(z.shape)


def value_distances(z: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """``||v_j - o_i||`` with ``o = z V``, by ``||v||**2 + ||o||**2 - 2 v.o``.

    Parameters
    ----------
    z : ndarray, shape (..., m, n)
    values : ndarray, shape (..., n, d)

    Returns
    -------
    ndarray, shape (..., m, n)
    """
    sums = fpemu.Sequential("float32" if z.dtype == np.float32 else "float64")
    output = fpemu.matmul(z, values, sums)
    across = fpemu.matmul(output, np.swapaxes(values, -1, -2), sums)
    of_values = (values * values).sum(axis=-1)[..., np.newaxis, :]
    of_output = (output * output).sum(axis=-1)[..., np.newaxis]
    return np.asarray(np.sqrt(np.maximum(of_values + of_output - 2 * across, 0)))


def select_rows(
    z: NDArray[Any],
    lengths: NDArray[np.int64],
    settings: LAMP,
    *,
    weights: NDArray[Any] | None = None,
    sensitivity: NDArray[Any] | None = None,
    stream: int = 0,
    first_row: int = 0,
) -> NDArray[np.bool_]:
    """`select` on checked, C-contiguous (rows, n) arrays, part of a larger one from `first_row`."""
    rule = RULES[settings.rule]
    if rule.condition and not (rule.name == "random" and settings.budget is not None):
        mask = _by_condition(z, lengths, settings, weights)
        if rule.name == "random":
            taking.shuffle(mask, lengths, settings.seed, stream, first_row)
        mask[:, : settings.exact_columns] = True
        mask &= np.arange(z.shape[1]) < lengths[:, np.newaxis]
        return mask
    if rule.name == "random":
        scores = taking.uniform(lengths, z.shape[1], settings.seed, stream, first_row)
        scores[:, : settings.exact_columns][scores[:, : settings.exact_columns] >= 0] = np.nan
    else:
        scores = _scores(z, lengths, rule, weights, sensitivity, settings.exact_columns)
    if settings.tau is not None:
        return taking.above(scores, settings.tau)
    share = float(settings.budget or 0.0)
    if settings.scope == "all":
        return taking.largest(scores, int(np.floor(share * int(lengths.sum()))))
    return taking.largest_of_rows(scores, np.floor(share * lengths).astype(np.int64))


def _scores(
    z: NDArray[Any],
    lengths: NDArray[np.int64],
    rule: Rule,
    weights: NDArray[Any] | None,
    sensitivity: NDArray[Any] | None,
    exact_columns: int,
) -> NDArray[np.float32]:
    scores = np.full(z.shape, -1.0, np.float32)
    given = z if sensitivity is None else sensitivity
    launching.run(
        _score_rows,
        len(z),
        given,
        lengths,
        z if weights is None else weights,
        rule.sensitivity == "spread",
        0 if weights is None else rule.power,
        exact_columns,
        scores,
        grain=_GRAIN,
    )
    return scores


@caching.kernel
def _score_rows(start, stop, given, lengths, weights, spread, power, exact_columns, scores):  # type: ignore[no-untyped-def]
    """The sensitivity, ``z (1 - z)`` if `spread`, times a power of the weight.

    ``z (1 - z)`` is half of the column sums of the absolute Jacobian of softmax.
    """
    for row in range(start, stop):
        for j in range(lengths[row]):
            score = np.float64(given[row, j])
            if spread:
                score *= 1.0 - score
            if power > 0:
                weight = np.float64(weights[row, j])
                score *= weight if power == 1 else weight * weight
            scores[row, j] = abs(score) if score == score else np.nan
        for j in range(min(exact_columns, lengths[row])):
            scores[row, j] = np.nan  # which comes first


def _by_condition(
    z: NDArray[Any], lengths: NDArray[np.int64], settings: LAMP, weights: NDArray[Any] | None
) -> NDArray[np.bool_]:
    """The rules that bound a condition number: by tau, by row, or by one tau for all rows."""
    if settings.tau is not None:
        return _within(z, lengths, settings.rule, weights, settings.tau)
    share = float(settings.budget or 0.0)
    if settings.scope == "row":
        counts = np.floor(share * lengths).astype(np.int64)
        if settings.rule == "normwise":
            scores = np.where(np.arange(z.shape[1]) < lengths[:, np.newaxis], z, -1)
            return taking.largest_of_rows(scores.astype(np.float32), counts)
        return _within(z, lengths, settings.rule, weights, 0.0, counts)
    allowed = int(np.floor(share * int(lengths.sum())))
    low, high = (1.0, 2.0) if settings.rule == "normwise" else (0.0, 2.0)
    if weights is not None:
        high *= float(np.max(weights, initial=0.0, where=np.isfinite(weights)))
    mask = _within(z, lengths, settings.rule, weights, high)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        found = _within(z, lengths, settings.rule, weights, middle)
        if np.count_nonzero(found) <= allowed:
            mask, high = found, middle
        else:
            low = middle
    # Rows that are taken whole, as they hold a NaN, may be more than is allowed.
    mask.reshape(-1)[np.flatnonzero(mask)[allowed:]] = False
    return mask


def _within(
    z: NDArray[Any],
    lengths: NDArray[np.int64],
    rule: str,
    weights: NDArray[Any] | None,
    tau: float,
    counts: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    if rule == "normwise_optimal":
        return taking.least_normwise(z, lengths, tau, counts)
    if rule == "componentwise":
        ones = np.ones_like(z) if weights is None else weights
        return taking.least_componentwise(z, ones, lengths, tau, counts)
    return taking.normwise(z, lengths, tau)
