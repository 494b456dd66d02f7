"""Which components of g(x) to recompute in high precision before f is evaluated at them.

A rule knows the cheap y and f(y) alone: where is f sensitive to the rounding errors in y?  Most
rules give every component a score, its part of a bound or of an expected error that is a sum over
components, and pick the largest scores: by exchange, no other choice of as many is better.  The
other rules meet a condition on each row of a softmax with as few components as they can.

References
----------
Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fpemu
from fpemu._kernels import elementary
from fpemu.carriers import check_not_masked
from lamp._kernels import componentwise, conditions, drawing, normwise, picking, scoring
from lamp._kernels.recomputing import Threshold
from lamp._kernels.rows import mapped
from lamp.lookahead.rules import LAMP, RULES, Rule

__all__ = ["select", "select_rows", "threshold_of", "value_distances"]

_BISECTIONS: Final = 40
_FIRST_STEP: Final = 2.0**-10  # of where tau may lie, from a guess that is wrong
_DEVIATIONS: Final = 3.0  # by which a sample may mislead
_MORE: Final = 8  # components, and kappas, besides
_ROOM: Final = 256  # for the kappas of a row of a sample


CONDITIONS: Final = {
    "normwise": normwise.PAPER,
    "random": normwise.PAPER,  # which picks as many
    "normwise_optimal": normwise.FEWEST,
    "componentwise": componentwise.COMPONENTWISE,
}


# --- for users ------------------------------------------------------------------------------------


def select(
    z: ArrayLike,
    y: ArrayLike | None = None,
    *,
    rule: str | LAMP = "normwise",
    tau: float | tuple[float, ...] | None = None,
    budget: float | tuple[float, ...] | None = None,
    weights: str | ArrayLike | None = None,
    seed: int | None = None,
    scope: str | None = None,
    leading_columns: int | None = None,
    length: int | None = None,
    control: str | None = None,
    row_lengths: ArrayLike | None = None,
    stream: int = 0,
    values: ArrayLike | None = None,
    sensitivity: ArrayLike | None = None,
    consumer: ArrayLike | None = None,
) -> NDArray[Any]:
    """Which components to recompute.

    Parameters
    ----------
    z : array_like, shape (..., n)
        f(y): probabilities, the softmax of `y` along the last axis.  For the rules activation and
        norm any numbers.
    y : array_like, shape (..., n), optional
        The computed arguments of f.  Required for weights ``"abs"`` and the rules strict and
        relaxed.
    rule : str or LAMP
        A rule's name, or a rule with all its settings, which must then not be given again.
    tau, budget, seed, scope, leading_columns, length, control : optional
        As in :class:`LAMP`.  A budget is a share of all components in the array, or of each row.
    weights : str or array_like, broadcast to the shape of z, optional
        What errors are proportional to: ``"one"``; ``"abs"`` for ``|y|``; or any nonnegative
        numbers, such as ``|a|^T |b|``, ``||a|| ||b||`` or running sums of :func:`fpemu.matmul`.
    row_lengths : array_like of int, optional
        The number of leading components of each row that exist, broadcast against the rows
        ``z.shape[:-1]``.  The rest is masked: never selected and never counted.  To the normwise
        rule masked components are zeros of the row, as in the authors' code.
    stream : int
        Rule random: tells calls with one seed apart.
    values : array_like, shape (..., n, d), optional
        Rule value_aware: the rows v that the probabilities weigh.
    sensitivity : array_like, broadcast to the shape of z, optional
        Rules activation and norm: how f reacts to each component, such as
        :meth:`lamp.bounds.compositions.Composition.sensitivity` or a relative condition.
    consumer : array_like, shape (n,), optional
        The factor by which the next matrix magnifies each component, such as the norm of its row.
        It multiplies the sensitivity.

    Returns
    -------
    ndarray of bool, shape (..., n)
        With several amounts an ndarray of uint8: by which of the products that recompute, counted
        from 1; 0 for none.

        Components whose score is NaN, such as those of an overflowed row, come before all others.
        Rules without scores select a row that holds a NaN as a whole, as far as a budget allows.
        Of equal scores the first is selected.  Scores are compared in float32; the rules strict
        and relaxed compare with tau in float64.  The relaxed rule selects a row whole whose
        largest y is infinite or that holds a NaN, and any component that is -inf.

    Raises
    ------
    ValueError
        If a parameter is out of range, shapes differ, or `z` holds a number outside [0, 1].
    TypeError
        If `rule` is a LAMP, and a setting of it is given besides.

    Notes
    -----
    For a budget over all rows, rules without scores use one tau for all rows: the smallest, to 12
    digits, that keeps the budget.

    Examples
    --------
    The normwise rule stops as soon as enough probability is covered:

    >>> import lamp
    >>> lamp.select([0.6, 0.25, 0.1, 0.05], tau=1.2)
    array([ True,  True, False, False])

    It may select one component too many.  Here recomputing the smallest alone is enough:

    >>> lamp.select([0.02, 0.49, 0.49], tau=1.4)
    array([False,  True,  True])
    >>> lamp.select([0.02, 0.49, 0.49], rule="normwise_optimal", tau=1.4)
    array([ True, False, False])

    Two precisions, of which the second takes the components with the highest scores:

    >>> lamp.select([0.6, 0.25, 0.1, 0.05], rule="largest", budget=(0.5, 0.25))
    array([2, 1, 1, 0], dtype=uint8)
    """
    if isinstance(y, LAMP):
        raise TypeError(f"y must be the arguments of f, not the rule {y}: give rule=...")
    named = weights if isinstance(weights, str) else None
    settings = _settings(
        rule,
        tau=tau,
        budget=budget,
        weights=named,
        seed=seed,
        scope=scope,
        leading_columns=leading_columns,
        length=length,
        control=control,
    )
    kind = RULES[settings.rule]
    probabilities = _checked_z(z, kind)
    arguments = _checked_y(y, probabilities)
    lengths = _checked_lengths(row_lengths, probabilities)
    numbers = None if weights is None or named else weights
    given = settings.weights if numbers is None else _checked_weights(numbers, kind)
    of_errors = _weights(given, arguments)
    if kind.name == "value_aware":
        sensitivity = _distances(probabilities, values, lengths) * probabilities
    elif kind.sensitivity == "given" and sensitivity is None:
        raise ValueError(f"rule {kind.name!r} needs the sensitivity of f")
    if not probabilities.size:
        several = len(settings.levels) > 1
        return np.zeros(probabilities.shape, np.uint8 if several else np.bool_)
    if kind.of_arguments and arguments is None:
        raise ValueError(f"rule {kind.name!r} needs the arguments y")
    if consumer is not None and sensitivity is not None:
        sensitivity = np.asarray(sensitivity) * np.asarray(consumer)
    mask = select_rows(
        _rows(probabilities, probabilities),
        lengths,
        settings,
        weights=None if of_errors is None else _rows(of_errors, probabilities),
        sensitivity=None if sensitivity is None else _rows(np.asarray(sensitivity), probabilities),
        arguments=None if arguments is None else _rows(arguments, probabilities),
        stream=operator.index(stream),
    )
    return mask.reshape(probabilities.shape)


# --- checks of arguments --------------------------------------------------------------------------


def _settings(rule: str | LAMP, **given: Any) -> LAMP:
    """A rule with all its settings, from its name and them, or from itself alone."""
    told = {name: value for name, value in given.items() if value is not None}
    if not isinstance(rule, LAMP):
        return LAMP(rule, **told)
    if told:
        twice = ", ".join(f"{name}={value!r}" for name, value in told.items())
        raise TypeError(f"rule {rule} has all settings already, and {twice} would be ignored")
    return rule


def _checked_z(z: ArrayLike, kind: Rule) -> NDArray[Any]:
    array = _as_float(z, "z")
    if array.ndim == 0:
        raise ValueError("z needs at least one dimension")
    if kind.name not in ("activation", "norm"):
        outside = (array < 0) | (array > 1)
        if outside.any():
            wrong = array[outside].ravel()[0]
            raise ValueError(f"z must hold probabilities: {wrong} is outside [0, 1]")
    return array


def _checked_y(y: ArrayLike | None, z: NDArray[Any]) -> NDArray[Any] | None:
    if y is None:
        return None
    array = np.asarray(y, dtype=z.dtype)
    if array.shape != z.shape:
        raise ValueError(f"y has shape {array.shape}, but z has shape {z.shape}")
    return array


def _checked_lengths(row_lengths: ArrayLike | None, z: NDArray[Any]) -> NDArray[np.int64]:
    columns, rows = z.shape[-1], z.shape[:-1]
    lengths = np.full(rows, columns) if row_lengths is None else np.asarray(row_lengths)
    if lengths.dtype.kind not in "iu":
        raise ValueError(f"row_lengths must be integers in 0..{columns}, not {lengths.dtype}")
    outside = lengths[(lengths < 0) | (lengths > columns)]
    if outside.size:
        raise ValueError(f"row_lengths must be integers in 0..{columns}, not {outside.ravel()[0]}")
    return np.ascontiguousarray(np.broadcast_to(lengths, rows), dtype=np.int64).reshape(-1)


def _checked_weights(weights: ArrayLike, kind: Rule) -> NDArray[Any]:
    if not kind.power:
        raise ValueError(f"rule {kind.name!r} takes no weights")
    numbers = _as_float(weights, "weights")
    if (numbers < 0).any():
        raise ValueError(f"weights must not be negative, as {numbers[numbers < 0].ravel()[0]} is")
    return numbers


def _weights(given: str | NDArray[Any], y: NDArray[Any] | None) -> NDArray[Any] | None:
    """Weights in numbers; None if all are one."""
    if not isinstance(given, str):
        return given
    if given == "one":
        return None
    if given != "abs":
        raise ValueError(f"weights {given!r} are not known here: give the numbers themselves")
    if y is None:
        raise ValueError("weights 'abs' need the scores y")
    return np.asarray(np.abs(y))


def _as_float(x: ArrayLike, name: str = "an argument") -> NDArray[Any]:
    check_not_masked(x, name)
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


# --- distances of values --------------------------------------------------------------------------


def _distances(z: NDArray[Any], values: ArrayLike | None, lengths: NDArray[np.int64]) -> Any:
    """``||v_j - o||`` with ``o = z V``, in the shape of z."""
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
    """Distances ``||v_j - o_i||`` of values from ``o = z V``, by ``||v||**2 + ||o||**2 - 2 v.o``.

    Parameters
    ----------
    z : ndarray, shape (..., m, n)
        Rows of probabilities.
    values : ndarray, shape (..., n, d)
        V.

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


# --- rows -----------------------------------------------------------------------------------------


def select_rows(
    z: NDArray[Any],
    lengths: NDArray[np.int64],
    settings: LAMP,
    *,
    weights: NDArray[Any] | None = None,
    sensitivity: NDArray[Any] | None = None,
    arguments: NDArray[Any] | None = None,
    stream: int = 0,
    first_row: int = 0,
) -> NDArray[Any]:
    """Which components of rows to recompute: :func:`select` without its checks.

    Parameters
    ----------
    z : ndarray of float32 or float64, shape (rows, n)
        f(y), C-contiguous, as all arrays here.
    lengths : ndarray of int64, shape (rows,)
        The number of leading components of each row that exist.
    settings : LAMP
    weights, sensitivity : ndarray, shape (rows, n), optional
        In numbers; of weights the magnitudes count.
    arguments : ndarray, shape (rows, n), optional
        y, for the rules of arguments.
    stream : int
        Tells random selections apart.
    first_row : int
        The number of the first row in the array that these rows are a part of.

    Returns
    -------
    ndarray of bool, shape (rows, n)
        Of uint8 if the settings have several amounts, see :func:`select`.
    """
    picked = [
        _picked(
            z,
            lengths,
            each,
            weights=weights,
            sensitivity=sensitivity,
            arguments=arguments,
            draws=(each.seed, stream, first_row),
        )
        for each in settings.levels
    ]
    if len(picked) == 1:
        return picked[0]
    levels = np.zeros(z.shape, np.uint8)
    for level, mask in enumerate(picked, 1):
        levels[mask] = level
    return levels


def _picked(
    z: NDArray[Any],
    lengths: NDArray[np.int64],
    settings: LAMP,
    *,
    weights: NDArray[Any] | None,
    sensitivity: NDArray[Any] | None,
    arguments: NDArray[Any] | None,
    draws: tuple[int, int, int],
) -> NDArray[np.bool_]:
    """Which components a rule with one amount picks; `draws` key random choices."""
    kind = RULES[settings.rule]
    if kind.name == "random" and settings.budget is not None:
        scores = drawing.uniform(lengths, z.shape[1], *draws)
        first = scores[:, : settings.leading_columns]
        first[first >= 0] = np.nan  # which comes before all numbers
        return _by_budget(scores, lengths, settings)
    if kind.condition:
        mask = _by_condition(z, lengths, settings, weights)
        if kind.name == "random":
            drawing.shuffle(mask, lengths, *draws)
        if settings.leading_columns:
            mask[:, : settings.leading_columns] = True
            mask &= np.arange(z.shape[1]) < lengths[:, np.newaxis]
    elif kind.of_arguments:
        assert arguments is not None
        mask = _by_arguments(z, arguments, lengths, settings)
    else:
        power = 0 if weights is None else kind.power
        given = (
            z if sensitivity is None else sensitivity,
            z if weights is None else weights,
            lengths,
            scoring.Scoring(kind.sensitivity == "spread", power, settings.leading_columns),
        )
        if settings.tau is not None:
            mask = scoring.above(*given, settings.tau)
        else:
            mask = _by_budget(scoring.score(*given), lengths, settings)
    return _moved(mask, lengths, settings.control, draws)


def _moved(
    mask: NDArray[np.bool_], lengths: NDArray[np.int64], control: str, draws: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """The selection, or as a control the same number of components a row at random."""
    if control == "causal":
        drawing.shuffle(mask, lengths, *draws)
    elif control == "padded":
        drawing.shuffle(mask, np.full(len(mask), mask.shape[1]), *draws)
        mask &= np.arange(mask.shape[1]) < lengths[:, np.newaxis]
    return mask


def _by_arguments(
    z: NDArray[Any], y: NDArray[Any], lengths: NDArray[np.int64], settings: LAMP
) -> NDArray[np.bool_]:
    """The rules of version 2, whose scores are computed from y."""
    running = RULES[settings.rule].sensitivity == "running"
    given = z, y, lengths, scoring.Arguments(running, settings.leading_columns)
    if settings.tau is not None:
        return scoring.above_arguments(*given, _limits(settings, lengths))
    if settings.scope == "all":
        return picking.largest_arguments(*given, _allowed(settings, lengths))
    return picking.largest_arguments_of_rows(*given, _allowed_of_rows(settings, lengths))


def _limits(settings: LAMP, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """What a rule of version 2 compares the scores of each row with."""
    taus = settings.thresholds(lengths)
    return mapped(elementary.log, taus) if RULES[settings.rule].sensitivity == "running" else taus


def threshold_of(settings: LAMP, lengths: NDArray[np.int64]) -> Threshold | None:
    """How a rule picks by comparing each score with a threshold; None if it needs anything else."""
    kind = RULES[settings.rule]
    compares = settings.tau is not None and not kind.condition and kind.sensitivity != "given"
    if not compares or len(settings.levels) > 1 or settings.control != "none":
        return None
    leading, power = settings.leading_columns, 0 if settings.weights == "one" else kind.power
    limits = np.full(len(lengths), np.float32(settings.tau), np.float64)
    return Threshold(
        kind.of_arguments,
        scoring.Arguments(kind.sensitivity == "running", leading),
        scoring.Scoring(kind.sensitivity == "spread", power, leading),
        _limits(settings, lengths) if kind.of_arguments else limits,
    )


def _by_budget(
    scores: NDArray[np.float32], lengths: NDArray[np.int64], settings: LAMP
) -> NDArray[np.bool_]:
    """The largest scores that a budget allows."""
    if settings.scope == "all":
        return picking.largest(scores, lengths, _allowed(settings, lengths))
    return picking.largest_of_rows(scores, lengths, _allowed_of_rows(settings, lengths))


def _allowed(settings: LAMP, lengths: NDArray[np.int64]) -> int:
    """How many of all components a budget allows."""
    return int(np.floor(float(settings.budget or 0.0) * int(lengths.sum())))


def _allowed_of_rows(settings: LAMP, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many components of each row it allows."""
    allowed = np.floor(float(settings.budget or 0.0) * lengths)
    return np.asarray(allowed, np.int64)


# --- rules that bound a condition number ----------------------------------------------------------


def _by_condition(
    z: NDArray[Any], lengths: NDArray[np.int64], settings: LAMP, weights: NDArray[Any] | None
) -> NDArray[np.bool_]:
    """By tau, or by a budget of each row or of all."""
    condition = CONDITIONS[settings.rule]
    if weights is None:
        weights = np.ones_like(z) if condition.is_weighted else z
    rows = conditions.Rows(z, weights, lengths)
    if settings.tau is not None:
        return conditions.pick(condition, rows, settings.tau)
    if settings.scope == "row":
        return conditions.pick(condition, rows, 0.0, _allowed_of_rows(settings, lengths))
    allowed = _allowed(settings, lengths)
    mask = _within_one_tau(condition, rows, allowed)
    if np.count_nonzero(mask) > allowed:  # rows that hold a NaN are selected whole
        mask.reshape(-1)[np.flatnonzero(mask)[allowed:]] = False
    return mask


def _within_one_tau(
    condition: conditions.Condition, rows: conditions.Rows, allowed: int
) -> NDArray[np.bool_]:
    """What one tau for all rows selects, the smallest that keeps a budget."""
    low, high = condition.taus
    if condition.is_weighted:
        high *= _largest_magnitude(rows.weights)
    sample = picking.sampled(rows.lengths)
    if sample is None:
        within = partial(_number_within, condition, rows)
        return conditions.pick(condition, rows, _smallest_tau(within, allowed, low, high))
    known = _Curves.near(
        condition, rows, allowed, (low, high), _guess(condition, rows, sample, allowed, low, high)
    )
    tau = _smallest_tau(known.number_within, allowed, low, high)
    if tau > known.high:  # by less than a step of the bisection
        return conditions.pick(condition, rows, tau)
    return conditions.pick(condition, rows, tau, known.counts_within(tau), known.curves.guesses)


def _largest_magnitude(numbers: NDArray[Any]) -> float:
    """Of the finite numbers; 0 if there is none."""
    largest = max(float(numbers.max(initial=0.0)), -float(numbers.min(initial=0.0)))
    if np.isfinite(largest):
        return largest
    return float(np.max(np.abs(numbers), initial=0.0, where=np.isfinite(numbers)))


def _number_within(condition: conditions.Condition, rows: conditions.Rows, tau: float) -> int:
    return int(conditions.curves(condition, rows, tau, tau, 0).counts.sum())


def _smallest_tau(
    number_within: Callable[[float], float], allowed: float, low: float, high: float
) -> float:
    """The smallest tau between two that selects no more than is allowed, to 12 digits."""
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if number_within(middle) <= allowed:
            high = middle
        else:
            low = middle
    return high


def _guess(
    condition: conditions.Condition,
    rows: conditions.Rows,
    sample: slice,
    allowed: int,
    low: float,
    high: float,
) -> tuple[float, float, int]:
    """Between which taus the smallest most likely lies, and how many kappas rows have there.

    A sample of the rows is searched for a tau that selects more than its share by a few standard
    deviations, and its curves for one that selects as much less.  Neighbors tell the deviation of
    rows: these are as long.
    """
    some = conditions.Rows(*(np.ascontiguousarray(each[sample]) for each in rows))
    share, greatest = allowed * some.lengths.sum() / rows.lengths.sum(), high
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        counts = conditions.curves(condition, some, middle, middle, 0).counts
        more = _DEVIATIONS * np.sqrt(0.5 * (np.diff(counts) ** 2).sum()) + _MORE
        if counts.sum() < share + more:
            high = middle
            continue
        low = middle
        if counts.sum() <= share + 2.0 * more:
            break
    found = conditions.curves(condition, some, low, greatest, _ROOM)
    kappas = np.sort(found.kappas, axis=None)
    fewer = int(np.clip(found.counts.sum() - max(share - more, 0.0), 0, kappas.size - 1))
    high = min(float(kappas[fewer]), float(found.kappas[:, -1].min()), greatest)
    room = int(np.count_nonzero(found.kappas <= high, axis=1).max(initial=0))
    return low, high, room + room // 4 + _MORE


class _Curves:
    """How many components rows select within taus between `low` and `high`.

    The first selects more than is allowed and the second does not, unless they are the least and
    the greatest of all.
    """

    def __init__(self, curves: conditions.Curves, low: float, high: float) -> None:
        self.curves, self.low, self.high = curves, low, high
        self._most = int(curves.counts.sum())
        self._kappas = np.sort(curves.kappas[curves.kappas <= high])

    @classmethod
    def near(
        cls,
        condition: conditions.Condition,
        rows: conditions.Rows,
        allowed: int,
        limits: tuple[float, float],
        guess: tuple[float, float, int],
    ) -> _Curves:
        """From a guess on until the smallest tau that fits lies between two."""
        low, high, room = guess
        step = max(high - low, (limits[1] - limits[0]) * _FIRST_STEP)
        while True:
            curves = conditions.curves(condition, rows, low, high, room)
            full = curves.kappas[:, -1].min()  # of rows that may have more, as large as this
            bound = min(high, float(np.nextafter(full, -np.inf)))
            known = cls(curves, low, bound)
            if known.number_within(low) <= allowed and low > limits[0]:
                high, low = low, max(low - step, limits[0])
            elif known.number_within(bound) > allowed and bound < limits[1]:
                if bound < high:
                    room = min(2 * room, rows.z.shape[1] + 1)
                else:
                    high = min(high + step, limits[1])
                low = bound
            else:
                return known
            step *= 4.0

    def number_within(self, tau: float) -> int:
        """How many components are selected, or more below `low` and fewer above `high`."""
        return self._most - int(np.searchsorted(self._kappas, tau, "right"))

    def counts_within(self, tau: float) -> NDArray[np.int64]:
        """How many each row selects within a tau between the two."""
        fewer = np.count_nonzero(self.curves.kappas <= tau, axis=1)
        return np.asarray(self.curves.counts - fewer)
