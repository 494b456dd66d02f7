"""Components drawn at random, each by a counter: no result depends on the number of threads."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from fpemu._kernels import caching, launching
from lamp._kernels.ordering import Lengths, Mask

__all__ = [
    "shuffle",
    "uniform",
]

_COST: Final = 2.0  # nanoseconds of a component


class Key(NamedTuple):
    """What random draws are keyed by, so that no thread depends on another."""

    seed: np.uint64
    stream: np.uint64
    first_row: np.uint64


def _key(seed: int, stream: int, first_row: int) -> Key:
    return Key(*(np.uint64(number % 2**64) for number in (seed, stream, first_row)))


def shuffle(mask: Mask, lengths: Lengths, seed: int, stream: int, first_row: int) -> None:
    """Move each row's selected components to places drawn at random, in place."""
    key = _key(seed, stream, first_row)
    arguments = *launching.reading(lengths), key, mask
    launching.run(_shuffle_rows, len(mask), *arguments, cost=_COST * mask.shape[1])


@caching.kernel
def _shuffle_rows(start, stop, lengths, key, mask):  # type: ignore[no-untyped-def]
    """Fisher-Yates."""
    for row in range(start, stop):
        base = _mix(_mix(_mix(key.seed) ^ key.stream) ^ (key.first_row + np.uint64(row)))
        for j in range(lengths[row] - 1, 0, -1):
            # The remainder's bias is below 2**-40 for any row that fits in memory.
            other = np.int64(_mix(base + np.uint64(j)) % np.uint64(j + 1))
            mask[row, j], mask[row, other] = mask[row, other], mask[row, j]


def uniform(lengths: Lengths, columns: int, seed: int, stream: int, first_row: int) -> Any:
    """Scores drawn at random, -1 where there is no component: float32, shape (rows, columns)."""
    scores = np.full((len(lengths), columns), -1.0, np.float32)
    key = _key(seed, stream, first_row)
    arguments = *launching.reading(lengths), key, scores
    launching.run(_uniform_rows, len(lengths), *arguments, cost=_COST * columns)
    return scores


@caching.kernel
def _uniform_rows(start, stop, lengths, key, scores):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        base = _mix(_mix(_mix(key.seed) ^ key.stream) ^ (key.first_row + np.uint64(row)))
        for j in range(lengths[row]):
            scores[row, j] = np.float64(_mix(base + np.uint64(j)) >> np.uint64(40)) * 2.0**-24


@caching.inline
def _mix(counter):  # type: ignore[no-untyped-def]
    """SplitMix64: a 64-bit counter to 64 well-mixed bits (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = counter + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
