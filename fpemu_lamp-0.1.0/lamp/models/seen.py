"""The keys that each row of attention sees, and scores packed by rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Seen"]


@dataclass(frozen=True)
class Seen:
    """The keys that each row sees.

    Scores are packed: those of the keys that a row sees stand one behind the other, zeros after
    them.  Where every row sees leading keys, as causal ones do, packed scores are the scores.

    Parameters
    ----------
    lengths : ndarray of int64, shape (rows,)
        How many keys each row sees.
    tokens : int
        The number of all keys.
    columns : ndarray of int64, shape (rows, width), optional
        Which keys these are, in order; None if they lead.
    """

    lengths: NDArray[np.int64]
    tokens: int
    columns: NDArray[np.int64] | None = None

    @classmethod
    def causal(cls, rows: int, tokens: int) -> Seen:
        """The last rows of a text, each of which sees the keys up to its own."""
        return cls(np.arange(tokens - rows + 1, tokens + 1), tokens)

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Seen:
        """What a mask of shape (rows, tokens) leaves to each row.

        Parameters
        ----------
        mask : ndarray of bool
            True where a row sees a key.

        Returns
        -------
        Seen
        """
        lengths = np.count_nonzero(mask, axis=1).astype(np.int64)
        tokens = mask.shape[1]
        if np.array_equal(mask, np.arange(tokens) < lengths[:, np.newaxis]):
            return cls(lengths, tokens)
        # A stable sort takes what is seen to the front and keeps its order.
        order = np.argsort(~mask, axis=1, kind="stable")
        return cls(lengths, tokens, order[:, : int(lengths.max(initial=1))])

    @property
    def is_causal(self) -> bool:
        """Whether each row sees one leading key more than the row before it, the last one all."""
        rows = len(self.lengths)
        return self.columns is None and np.array_equal(
            self.lengths, Seen.causal(rows, self.tokens).lengths
        )

    @property
    def ends(self) -> NDArray[np.int64]:
        """The number of leading keys up to the last that each row sees."""
        if self.columns is None:
            return self.lengths
        last = np.maximum(self.lengths - 1, 0)[:, np.newaxis]
        ends = np.take_along_axis(self.columns, last, axis=1)[:, 0] + 1
        return np.where(self.lengths > 0, ends, 0)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which keys each row sees, of shape (rows, tokens)."""
        width = self.tokens if self.columns is None else self.columns.shape[1]
        ones = np.ones((1, len(self.lengths), width), np.bool_)
        return np.asarray(self.spread(self.cleared(ones))[0])

    def packed(self, x: NDArray[Any]) -> NDArray[Any]:
        """Numbers of shape (heads, rows, tokens), packed."""
        if self.columns is None:
            return x
        return self.cleared(np.take_along_axis(x, self.columns[np.newaxis], axis=2))

    def cleared(self, packed: NDArray[Any]) -> NDArray[Any]:
        """Packed numbers, with zeros behind those of the keys that a row sees."""
        exist = np.arange(packed.shape[-1]) < self.lengths[:, np.newaxis]
        return np.where(exist, packed, packed.dtype.type(0))

    def spread(self, x: NDArray[Any]) -> NDArray[Any]:
        """Packed numbers at the places of their keys, in shape (heads, rows, tokens)."""
        if self.columns is None:
            return x
        out = np.zeros((*x.shape[:2], self.tokens), x.dtype)
        np.put_along_axis(out, self.columns[np.newaxis], self.cleared(x), 2)
        return out

    def groups(self) -> Iterator[tuple[NDArray[np.int64] | slice, int]]:
        """Rows whose first key is the same, and which key that is."""
        if self.columns is None:
            yield slice(None), 0
            return
        first = self.columns[:, 0]
        for key in np.unique(first):
            yield np.flatnonzero(first == key), int(key)
