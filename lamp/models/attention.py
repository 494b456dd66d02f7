"""Causal attention under a Hardware, with look-ahead recomputation of its scores.

The scores of a row are accumulated in the low precision, divided and rounded again; the softmax of
these cheap scores tells which of them matter; those alone are computed in the high precision and
the softmax is taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu._kernels import caching, elementary, launching
from lamp.lookahead import LAMP, Recomputation, error_weights, select_rows, value_distances
from lamp.machines import Function, Hardware, Product
from lamp.models.layers import (
    left_operand,
    overflowed,
    products,
    right_operand,
    sums_are_output,
    written_type,
)

__all__ = ["attention", "softmax"]

_ROW_GRAIN: Final = 16  # rows worth a thread
_GROUP_BYTES: Final = 2**24  # of the scores of a group of heads
_ROUNDED_ROWS: Final = 1024  # rows of probabilities in float64 at a time


def attention(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    *,
    hardware: Hardware,
    lamp: LAMP | None = None,
    layer: int = 0,
    scaled: bool = True,
    observe: Callable[[str, NDArray[Any]], None] | None = None,
) -> tuple[NDArray[Any], Recomputation]:
    """Causal attention of all heads of a layer.

    Parameters
    ----------
    query : ndarray, shape (heads, rows, d)
        In the hardware's carrier; the last tokens of those that there are keys of.
    key, value : ndarray, shape (key heads, tokens, d)
        Of all tokens so far; each serves as many heads as there are more of those.
    hardware : Hardware
        The arithmetic of every step.
    lamp : LAMP, optional
        What to recompute; nothing if left out or if the scores are in the high precision anyway.
    layer : int
        The layer's number, which random selections depend on.
    scaled : bool
        Whether scores are divided by the square root of d, rounded into float64.
    observe : callable, optional
        Is given the scores as they are first computed (``"low_scores"``), which of them are
        recomputed (``"mask"``), the ``"scores"`` and the ``"probabilities"``, all of shape
        (heads, rows, tokens); zeros stand for later tokens.

    Returns
    -------
    output : ndarray, shape (heads, rows, d)
    recomputation : Recomputation
    """
    heads, count, dimension = query.shape
    tokens, shared = key.shape[1], heads // key.shape[0]
    if lamp is None or not hardware.scores_are_low:
        lamp = None
    divisor = float(np.sqrt(dimension)) if scaled else 1.0
    lengths = np.arange(tokens - count + 1, tokens + 1)
    output = np.empty_like(query)
    selected = 0
    together = observe is not None or (lamp is not None and lamp.needs_all_rows)
    for group in _groups(heads, query.itemsize * count * tokens, together):
        of_keys = np.arange(group.start, group.stop) // shared
        q, k, v = query[group], key[of_keys], value[of_keys]
        low = _Scores(q, k, hardware.scores, divisor, lengths, watched=lamp is not None)
        scores = low.values
        if observe is not None:
            observe("low_scores", scores.copy())
            observe("mask", np.zeros(scores.shape, np.bool_))
        rows = scores.reshape(-1, tokens)
        row_lengths = np.tile(lengths, scores.shape[0])
        if lamp is not None:
            # All high-precision scores take less time than picking out the selected ones.
            high = _Scores(q, k, hardware.recomputed, divisor, lengths).values.reshape(rows.shape)
            mask = low.overflowed.reshape(rows.shape)
            np.copyto(rows, high, where=mask)
            probabilities = softmax(rows, row_lengths, hardware.softmax)
            weights = low.weights(lamp.weights)
            mask |= select_rows(
                probabilities,
                row_lengths,
                lamp,
                weights=None if weights is None else weights.reshape(rows.shape),
                sensitivity=_sensitivity(lamp, probabilities.reshape(scores.shape), v),
                stream=layer,
                first_row=group.start * count,
            )
            selected += int(np.count_nonzero(mask))
            np.copyto(rows, high, where=mask)
            if observe is not None:
                observe("mask", mask.reshape(scores.shape))
        probabilities = softmax(rows, row_lengths, hardware.softmax).reshape(scores.shape)
        if observe is not None:
            observe("scores", scores)
            observe("probabilities", probabilities)
        output[group] = _weighted(probabilities, v, hardware.values)
    return output, Recomputation(selected, heads * int(lengths.sum()), dimension)


def _weighted(probabilities: NDArray[Any], value: NDArray[Any], step: Product) -> NDArray[Any]:
    """Probabilities times values."""
    a, b = left_operand(probabilities, step), right_operand(value, step, step.scale)
    sums = products(a, b, step)
    if sums_are_output(step):
        return sums
    return np.asarray(fpemu.round(sums, step.output, step.rounding))


def _groups(heads: int, head_bytes: int, together: bool) -> Iterator[slice]:
    """Heads that are worked on at a time: as few as memory asks for, or all `together`.

    No result depends on the grouping.
    """
    step = heads if together else max(1, _GROUP_BYTES // head_bytes)
    for start in range(0, heads, step):
        yield slice(start, min(start + step, heads))


def _sensitivity(
    lamp: LAMP, probabilities: NDArray[Any], value: NDArray[Any]
) -> NDArray[Any] | None:
    """What rules need that look behind the softmax: how far values lie from the output."""
    if lamp.rule != "value_aware":
        return None
    distances = value_distances(probabilities, value)
    distances *= probabilities
    return distances.reshape(-1, distances.shape[-1])


class _Scores:
    """Scores of the causal pairs: sums over the root, that exact quotient rounded once."""

    def __init__(
        self,
        query: NDArray[Any],
        key: NDArray[Any],
        step: Product,
        divisor: float,
        lengths: NDArray[np.int64],
        watched: bool = False,
    ) -> None:
        self._query, self._key, self._step = query, key.transpose(0, 2, 1), step
        self._divisor, self._lengths = divisor, lengths
        self._operands = left_operand(query, step), right_operand(self._key, step, step.scale)
        sums = products(*self._operands, step, lengths)
        self._beyond = overflowed(sums, step.accumulator.format) if watched else None
        self.values = _quotient(sums, divisor, step).astype(query.dtype, copy=False)

    @property
    def overflowed(self) -> NDArray[np.bool_]:
        """Which scores the step may have had no room for."""
        assert self._beyond is not None, "these scores were not watched"
        return self._beyond | overflowed(self.values, self._step.output)

    def weights(self, name: str) -> NDArray[Any] | None:
        """What the errors of the scores are taken to be proportional to, None for 1."""
        if name in ("one", "abs"):
            return None if name == "one" else np.asarray(np.abs(self.values))
        found = error_weights(
            name, (self._query, self._key), self._operands, self._step, self._lengths
        )
        return np.asarray(found / self._divisor)


def _quotient(sums: NDArray[Any], divisor: float, step: Product) -> NDArray[Any]:
    """``sums / divisor``, the exact quotient rounded once into the output of a step."""
    smallest = step.accumulator.format.smallest_subnormal / divisor
    power = np.frexp(divisor)[0] == 0.5
    if power and smallest >= np.finfo(sums.dtype).smallest_subnormal:  # exact in the carrier
        np.multiply(sums, sums.dtype.type(1 / divisor), out=sums)
        return np.asarray(fpemu.round(sums, step.output, step.rounding))
    return np.asarray(fpemu.divide(sums, divisor, step.output, step.rounding))


def softmax(y: NDArray[Any], lengths: NDArray[np.int64], step: Function) -> NDArray[Any]:
    """Softmax of the leading components of each row, zeros after them.

    Parameters
    ----------
    y : ndarray, shape (rows, n)
        Scores, float32 or float64, C-contiguous.
    lengths : ndarray of int64, shape (rows,)
        How many components of each row exist, at least 1.
    step : Function
        In float64 and rounded once, or every inner step rounded.

    Returns
    -------
    ndarray, shape (rows, n)
        Members of the step's output format, in the type of `y`.
    """
    out = np.zeros_like(y)
    written = written_type(y, step) == y.dtype and step.output == fpemu.format(y.dtype.name)
    if step.steps is None and written:
        launching.run(_softmax_rows, y.shape[0], y, lengths, out, grain=_ROW_GRAIN)
        return out
    # Some rows at a time, as they are float64 for a while.
    for start in range(0, len(y), _ROUNDED_ROWS):
        part = slice(start, start + _ROUNDED_ROWS)
        out[part] = _softmax_rounded(y[part], lengths[part], _for_rows(step, start))
    return out


def _for_rows(step: Function, start: int) -> Function:
    """A step with random bits of its own for the rows from `start`."""
    return step.derived("rows", start) if step.is_stochastic else step


def _softmax_rounded(y: NDArray[Any], lengths: NDArray[np.int64], step: Function) -> NDArray[Any]:
    if step.steps is None:
        wide = np.zeros(y.shape)
        launching.run(_softmax_rows, len(y), y, lengths, wide, grain=_ROW_GRAIN)
        return np.asarray(fpemu.round(wide, step.output, step.rounding))
    exists = np.arange(y.shape[1]) < lengths[:, np.newaxis]
    masked = np.where(exists, y, y.dtype.type(-np.inf))
    return np.asarray(
        fpemu.functions.softmax(
            masked,
            step.output,
            step.rounding,
            difference=step.steps,
            exponential=step.steps,
            accumulator=fpemu.Sequential(step.steps, step.rounding),
        )
    )


@caching.kernel
def _softmax_rows(start, stop, y, lengths, out):  # type: ignore[no-untyped-def]
    exponentials = np.empty(y.shape[1], np.float64)
    for row in range(start, stop):
        length = lengths[row]
        largest = np.float64(y[row, 0])
        for j in range(1, length):
            largest = max(largest, np.float64(y[row, j]))
        for j in range(length):
            exponentials[j] = elementary.exp(np.float64(y[row, j]) - largest)
        total = 0.0
        for j in range(length):
            total += exponentials[j]
        for j in range(length):
            out[row, j] = exponentials[j] / total
