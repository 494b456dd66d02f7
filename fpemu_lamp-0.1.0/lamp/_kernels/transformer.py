"""Kernels of a transformer's functions of rows: norm and softmax.

Each computes in float64, in index order; the caller rounds the result.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, elementary, words
from fpemu._kernels.error_free import odd, two_product

__all__ = [
    "TOGETHER",
    "divide",
    "exponentiate",
    "largest",
    "norm_rows",
    "quotient_rows",
    "scaled_rows",
    "softmax_rows",
    "softmax_workspace",
    "sums",
]

TOGETHER: Final = 4  # rows whose sums are formed side by side


@caching.kernel
def norm_rows(start, stop, x, weight, bias, epsilon, centered, out):  # type: ignore[no-untyped-def]
    """LayerNorm of rows, RMSNorm if `centered` is false."""
    n = x.shape[1]
    for row in range(start, stop):
        mean = 0.0
        if centered:
            for j in range(n):
                mean += np.float64(x[row, j])
            mean /= n
        squares = 0.0
        for j in range(n):
            deviation = np.float64(x[row, j]) - mean
            squares += deviation * deviation
        scale = 1.0 / np.sqrt(squares / n + epsilon)
        for j in range(n):
            normalized = (np.float64(x[row, j]) - mean) * scale
            out[row, j] = normalized * np.float64(weight[j]) + np.float64(bias[j])


def softmax_workspace(columns: int) -> NDArray[np.float64]:
    """What a thread works in: the exponentials of rows that are summed together."""
    return np.empty((TOGETHER, columns))


@caching.kernel
def softmax_rows(start, stop, exponentials, y, lengths, out):  # type: ignore[no-untyped-def]
    """Softmax of the first ``lengths[row]`` components of each row, zeros after them.

    A sum waits for each of its terms, so four rows are summed side by side.  `out` may be `y`.
    """
    for first in range(start, stop, TOGETHER):
        last = min(first + TOGETHER, stop)
        for row in range(first, last):
            top = largest(y[row], lengths[row])
            exponentiate(exponentials[row - first], y[row], top, lengths[row])
        totals = sums(exponentials, lengths, first, last)
        for row in range(first, last):
            divide(exponentials[row - first], totals[row - first], lengths[row], out[row])


@caching.inline
def exponentiate(exponentials, y, top, length):  # type: ignore[no-untyped-def]
    """Exponentials of the first numbers of a row less its largest one, in float64."""
    for j in range(length):
        exponentials[j] = elementary.exp(np.float64(y[j]) - top)


@caching.inline
def sums(exponentials, lengths, first, last):  # type: ignore[no-untyped-def]
    """The sums of up to four rows of exponentials, each in index order."""
    longest = np.int64(0)
    for row in range(first, last):
        longest = max(longest, lengths[row])
    for slot in range(TOGETHER):
        length = lengths[first + slot] if first + slot < last else np.int64(0)
        for j in range(length, longest):
            exponentials[slot, j] = 0.0  # which changes no sum
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for j in range(longest):
        a += exponentials[0, j]
        b += exponentials[1, j]
        c += exponentials[2, j]
        d += exponentials[3, j]
    return a, b, c, d


@caching.inline
def divide(exponentials, total, length, out):  # type: ignore[no-untyped-def]
    """A row of quotients, and zeros behind its components."""
    for j in range(length):
        out[j] = exponentials[j] / total
    for j in range(length, out.size):
        out[j] = 0.0


@caching.inline
def largest(y, length):  # type: ignore[no-untyped-def]
    """The largest of the first numbers, in float64; a NaN may be it.

    As words in the order of the numbers: a processor compares many of them at once.
    """
    nothing = words.word(y[0])
    nothing = words.subtract(nothing, nothing)
    everything = words.subtract(nothing, 1)
    sign = words.subtract(everything, words.shift_right(everything, 1))
    top = nothing
    for j in range(length):
        bits = words.word(y[j])
        negative = words.bit_and(bits, sign) != 0
        top = words.maximum(top, words.bit_xor(bits, everything if negative else sign))
    negative = words.bit_and(top, sign) == 0
    return np.float64(words.floating(words.bit_xor(top, everything if negative else sign)))


@caching.kernel
def quotient_rows(  # type: ignore[no-untyped-def]
    start, stop, sums, lengths, facts, overflow, small
):
    """Multiply the first ``lengths[row]`` numbers of each row by a factor, in place.

    `facts` are the factor, the largest finite number and the least normal one, in the type of the
    sums.  `overflow` tells which sums and quotients are not below the largest in magnitude, unless
    it has size 0; `small` in which rows a quotient that is not zero is below the least.
    """
    factor, most, least = facts
    checks = overflow.size > 0
    for row in range(start, stop):
        length, tiny = lengths[row], False
        if checks:
            for j in range(length):
                number = sums[row, j]
                quotient = number * factor
                inside = (abs(number) < most) & (abs(quotient) < most)
                overflow[row, j] = not inside
                tiny |= (abs(quotient) < least) & (number != 0)
                sums[row, j] = quotient
            for j in range(length, overflow.shape[1]):
                overflow[row, j] = False
        else:
            for j in range(length):
                number = sums[row, j]
                quotient = number * factor
                tiny |= (abs(quotient) < least) & (number != 0)
                sums[row, j] = quotient
        small[row] = tiny


@caching.kernel
def scaled_rows(start, stop, sums, left, right):  # type: ignore[no-untyped-def]
    """Multiply float32 numbers by the scales of rows and columns, rounding each once, in place.

    The product of two scales is exact in float64.  That of it and a number is rounded to odd, which
    float64 has bits enough for, and float32 makes of that what it makes of the exact product.
    Nothing underflows: a product and its error are zero or above ``2**-600``.
    """
    together = len(sums) // len(right)
    for row in range(start, stop):
        scales, scale = right[row // together], np.float64(left[row])
        for j in range(sums.shape[1]):
            product, error = two_product(np.float64(sums[row, j]), scale * np.float64(scales[j]))
            result = np.float32(words.floating(odd(product, error)))
            sums[row, j] = result if result == result else np.float32(np.nan)
