"""The operands of a matrix product in the shape that all product kernels take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, words
from fpemu._kernels.rounding import LAYOUTS, Carrier

__all__ = ["INNER", "OUTER", "PRODUCTS", "VIA", "Operands", "as_float32", "panels"]

# Whose random bits: every kind of rounding in a sum has a stream of its own.
INNER, PRODUCTS, VIA, OUTER = range(4)

_NOT_FINITE = -(2**20)  # the exponent of a last bit that is not there


@dataclass(frozen=True)
class Operands:
    """Two stacks of matrices, what their sums begin with and how much of them is wanted.

    Parameters
    ----------
    a : ndarray, shape (batch, m, k)
    b : ndarray, shape (batch, k, n)
        Both float32 if all numbers are (`narrow`).
    initial : ndarray, shape (batch, m, n), or None
        Members of the format that the accumulator holds; None for +0.
    row_lengths : ndarray of int64, shape (m,)
        How many leading columns of each row to compute.
    running : ndarray of float64, shape (2, batch, m, n), or of size 0
        Where to put the sums of the magnitudes of all rounded sums, and of their squares.
    """

    a: Carrier
    b: Carrier
    initial: Carrier | None
    row_lengths: NDArray[np.int64]
    running: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 0, 0, 0)))

    @classmethod
    def of(
        cls, a: Carrier, b: Carrier, initial: Carrier | None, row_lengths: NDArray[np.int64]
    ) -> Operands:
        """The operands, narrowed if they can be."""
        narrow_a, narrow_b = as_float32(a), as_float32(b)
        if narrow_a is not None and narrow_b is not None:
            a, b = narrow_a, narrow_b
        return cls(a, b, initial, row_lengths)

    @property
    def narrow(self) -> bool:
        """Whether all numbers in `a` and `b` are float32 numbers."""
        return self.a.dtype == self.b.dtype == np.float32

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the product."""
        return self.a.shape[0], self.a.shape[1], self.b.shape[2]

    def last_bit_exponent(self, *, with_initial: bool) -> int:
        """An e such that every product is a multiple of 2**e; very small unless all are finite.

        With `with_initial` so are the initial values.
        """
        exponent = _last_bit_exponent(self.a) + _last_bit_exponent(self.b)
        if with_initial and self.initial is not None:
            exponent = min(exponent, _last_bit_exponent(self.initial))
        return exponent


def _last_bit_exponent(x: Carrier) -> int:
    least, greatest = _extremes(np.ascontiguousarray(x).reshape(-1), LAYOUTS[x.dtype].word(1))
    if not np.isfinite(greatest):
        return _NOT_FINITE
    return int(np.frexp(least)[1]) - LAYOUTS[x.dtype].precision if greatest > 0 else 0


@caching.kernel
def _extremes(x, one):  # type: ignore[no-untyped-def]
    """The least nonzero and the greatest magnitude; NaN counts as greater than infinity."""
    nothing = words.subtract(one, one)
    magnitude_bits = words.shift_right(words.subtract(nothing, one), 1)
    # Taking one off turns zero into the greatest word, out of the way of the minimum.
    least, greatest = words.subtract(nothing, one), nothing
    for i in range(x.size):
        magnitude = words.bit_and(words.word(x[i]), magnitude_bits)
        least = words.minimum(least, words.subtract(magnitude, one))
        greatest = words.maximum(greatest, magnitude)
    return words.floating(words.add(least, one)), words.floating(greatest)


def as_float32(x: Carrier) -> Carrier | None:
    """The same numbers as float32, if they all are."""
    if x.dtype == np.float32:
        return x
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        narrow = x.astype(np.float32)
    return narrow if np.array_equal(narrow, x, equal_nan=True) else None


def panels(b: Any, width: int) -> Any:
    """The columns of (batch, k, n) in panels: (batch, panels, k, width), padded with zeros."""
    batch, steps, columns = b.shape
    count = -(-columns // width)
    whole = columns // width
    packed = np.empty((batch, count, steps, width), b.dtype)
    split = b[:, :, : whole * width].reshape(batch, steps, whole, width)
    packed[:, :whole] = split.transpose(0, 2, 1, 3)
    if whole < count:
        rest = columns - whole * width
        packed[:, whole, :, :rest] = b[:, :, whole * width :]
        packed[:, whole, :, rest:] = 0.0
    return packed
