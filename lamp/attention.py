"""Causal attention under a Hardware, with look-ahead recomputation of its scores.

The scores of a row are accumulated in the low precision, divided and rounded again; the softmax of
these cheap scores tells which of them matter; those alone are computed in the high precision and
the softmax is taken again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Accumulator, elementary, parallel
from lamp.hardware import Hardware
from lamp.rows import total
from lamp.selection import LAMP, select_rows, value_distances

__all__ = ["Recomputation", "attention", "softmax"]

_ROW_GRAIN: Final = 16  # rows worth a thread
_GROUP_BYTES: Final = 2**24  # of the scores of a group of heads


@dataclass(frozen=True)
class Recomputation:
    """How much of a layer's attention was recomputed.

    Parameters
    ----------
    selected : int
        Query-key products computed in the high precision.
    pairs : int
        Causal query-key pairs.
    """

    selected: int
    pairs: int


def attention(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    *,
    hardware: Hardware,
    lamp: LAMP | None = None,
    layer: int = 0,
    scaled: bool = True,
) -> tuple[NDArray[Any], Recomputation]:
    """Causal attention of all heads of a layer.

    Parameters
    ----------
    query : ndarray, shape (heads, rows, d)
        In the hardware's storage format; the last tokens of those that there are keys of.
    key, value : ndarray, shape (heads, tokens, d)
        Of all tokens so far.
    hardware : Hardware
        The arithmetic of every step.
    lamp : LAMP, optional
        What to recompute; nothing if left out or if the scores are in the high precision anyway.
    layer : int
        The layer's number, which random selections depend on.
    scaled : bool
        Whether scores are divided by the square root of d.

    Returns
    -------
    output : ndarray, shape (heads, rows, d)
        In the storage format.
    recomputation : Recomputation
    """
    heads, count, dimension = query.shape
    tokens = key.shape[1]
    if lamp is None or not hardware.scores_are_low:
        lamp = None
    divisor = query.dtype.type(np.sqrt(dimension) if scaled else 1.0)
    lengths = np.arange(tokens - count + 1, tokens + 1)
    output = np.empty_like(query)
    selected = 0
    for group in _groups(heads, query.itemsize * count * tokens, lamp):
        q, k, v = query[group], key[group], value[group]
        low = _Scores(q, k, hardware.scores, divisor, lengths)
        scores = low.values
        rows = scores.reshape(-1, tokens)
        row_lengths = np.tile(lengths, scores.shape[0])
        probabilities = softmax(rows, row_lengths)
        if lamp is not None:
            weights = low.weights(lamp.weights)
            mask = select_rows(
                probabilities,
                row_lengths,
                lamp,
                weights=None if weights is None else weights.reshape(rows.shape),
                sensitivity=_sensitivity(lamp, probabilities.reshape(scores.shape), v),
                stream=layer,
                first_row=group.start * count,
            )
            selected += int(np.count_nonzero(mask))
            # All high-precision scores take less time than picking out the selected ones.
            high = _Scores(q, k, hardware.recomputed, divisor, lengths).values
            np.copyto(scores, high, where=mask.reshape(scores.shape))
            probabilities = softmax(rows, row_lengths)
        output[group] = fpemu.matmul(probabilities.reshape(scores.shape), v, hardware.products)
    return output, Recomputation(selected, heads * int(lengths.sum()))


def _groups(heads: int, head_bytes: int, lamp: LAMP | None) -> Iterator[slice]:
    """Heads that are worked on together: as few as memory asks for, but all if a rule needs them.

    No result depends on the grouping.
    """
    together = max(1, _GROUP_BYTES // head_bytes)
    if lamp is not None and lamp.needs_all_rows:
        together = heads
    for start in range(0, heads, together):
        yield slice(start, min(start + together, heads))


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
    """Scores of the causal pairs: accumulated, divided, and rounded into the format again."""

    def __init__(
        self,
        query: NDArray[Any],
        key: NDArray[Any],
        accumulator: Accumulator,
        divisor: Any,
        lengths: NDArray[np.int64],
    ) -> None:
        self._query, self._key, self._accumulator = query, key.transpose(0, 2, 1), accumulator
        self._divisor, self._lengths = divisor, lengths
        sums = self._products(query, self._key, accumulator)
        np.divide(sums, divisor, out=sums)
        if accumulator.format.carrier != sums.dtype or accumulator.format.precision < 24:
            fpemu.round(sums, accumulator.format, accumulator.rounding, out=sums)
        self.values = sums

    def _products(
        self, query: NDArray[Any], key: NDArray[Any], accumulator: Accumulator
    ) -> NDArray[Any]:
        return np.asarray(fpemu.matmul(query, key, accumulator, row_lengths=self._lengths))

    def weights(self, name: str) -> NDArray[Any] | None:
        """What the errors of the scores are taken to be proportional to, None for 1."""
        query, key = self._query, self._key
        if name == "one":
            return None
        if name == "abs":
            return np.asarray(np.abs(self.values))
        if name == "products":
            exact = fpemu.Sequential("float32" if query.dtype == np.float32 else "float64")
            weights = self._products(np.abs(query), np.abs(key), exact)
        elif name == "norms":
            of_query, of_key = (_norms(x) for x in (query, key.swapaxes(1, 2)))
            weights = (of_query * of_key.swapaxes(1, 2)).astype(query.dtype)
        else:
            weights = self._running("first" if name == "running_1" else "second")
        return np.asarray(weights / self._divisor)

    def _running(self, name: str) -> NDArray[Any]:
        """Running sums, head by head, as they come in float64."""
        weights = np.empty_like(self.values)
        for head, (query, key) in enumerate(zip(self._query, self._key, strict=True)):
            _, running = fpemu.matmul(
                query, key, self._accumulator, row_lengths=self._lengths, running=True
            )
            weights[head] = getattr(running, name)
        return weights


def _norms(x: NDArray[Any]) -> NDArray[np.float64]:
    """The lengths of vectors along the last axis, which is kept."""
    return np.sqrt(total(np.square(x, dtype=np.float64)))


def softmax(y: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """Softmax of the leading components of each row, zeros after them.

    Computed in float64 and rounded once into the type of `y`.

    Parameters
    ----------
    y : ndarray, shape (rows, n)
        Scores, float32 or float64, C-contiguous.
    lengths : ndarray of int64, shape (rows,)
        How many components of each row exist, at least 1.

    Returns
    -------
    ndarray, shape (rows, n)
    """
    out = np.zeros_like(y)
    parallel.run(_softmax_rows, y.shape[0], y, lengths, out, grain=_ROW_GRAIN)
    return out


@parallel.kernel
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
