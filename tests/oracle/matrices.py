"""The sequential oracle of whole matrix products: all elements take each step at once.

A number is a Python integer, in units of a power of two that all terms are multiples of, and a sign
where that is zero.  An element that meets infinities, NaN or an overflow on its way is left to the
oracle of one inner product.
"""

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu import formats
from fpemu.formats import Format, FormatLike
from fpemu.reference import RoundingLike
from tests.oracle.accumulators import sequential
from tests.oracle.rounding import TO_INTEGER

Integers = NDArray[np.object_]
Signs = NDArray[np.bool_]

_bit_length = np.frompyfunc(int.bit_length, 1, 1)


def sequential_matrix(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    format: FormatLike,
    rounding: str | RoundingLike = "rne",
    fused: bool = True,
    product: FormatLike | None = None,
    via: FormatLike | None = None,
) -> NDArray[np.float64]:
    """`sequential` of every row and every column."""
    mode = rounding if isinstance(rounding, str) else rounding.mode
    between = None if fused else format if product is None else product
    stages = [formats.format(each) for each in (via, format) if each is not None]
    (rows, low_a), (columns, low_b) = _integers(a), _integers(b)
    low = low_a + low_b
    shape = len(a), b.shape[1]
    sums, below = np.full(shape, 0, object), np.full(shape, False)
    ordinary = np.isfinite(a).all(1)[:, None] & np.isfinite(b).all(0)
    for step in range(a.shape[1]):
        terms = rows[:, step, None] * columns[step]
        minus = np.signbit(a[:, step, None]) ^ np.signbit(b[step])
        if between is not None:
            terms, minus = _rounded(terms, minus, low, formats.format(between), mode, ordinary)
        # Zeros of both signs, and numbers that cancel, give the zero of the mode.
        of_zero = np.where(below == minus, below, mode == "rtn")
        sums = sums + terms
        below = np.where(sums == 0, of_zero, sums < 0)
        for stage in stages:
            sums, below = _rounded(sums, below, low, stage, mode, ordinary)
    result = np.empty(shape)
    for i, j in np.ndindex(shape):
        if ordinary[i, j]:
            magnitude = abs(sums[i, j])
            magnitude = magnitude / (1 << -low) if low < 0 else float(magnitude << low)
            result[i, j] = -magnitude if below[i, j] else magnitude
        else:
            numbers = a[i].tolist(), b[:, j].tolist()
            result[i, j] = sequential(*numbers, format, rounding, fused, product, via)
    return result


def _integers(x: NDArray[np.floating]) -> tuple[Integers, int]:
    """Numbers as multiples of a power of two, and its exponent; 0 for what is not finite."""
    wide = np.asarray(x, np.float64)
    fractions, exponents = np.frexp(np.where(np.isfinite(wide), wide, 0.0))
    low = int(exponents.min()) - 53
    significands = np.ldexp(fractions, 53).astype(np.int64).astype(object)
    return significands << (exponents - 53 - low).astype(object), low


def _rounded(
    x: Integers, below: Signs, low: int, format: Format, mode: str, ordinary: Signs
) -> tuple[Integers, Signs]:
    """Multiples of ``2**low`` rounded, and which are below zero or -0; overflows are noted."""
    quanta = np.maximum(_bit_length(x) + (low - format.precision), format.quantum_exponent)
    dropped: Any = np.maximum(quanta - low, 0)
    whole = x >> dropped
    result = TO_INTEGER[mode](whole, x - (whole << dropped), 1 << dropped) << dropped
    unit = Fraction(2) ** low
    if not format.subnormals:
        result[np.abs(result) < Fraction(format.smallest_normal) / unit] = 0
    zeros = result == 0
    ordinary &= np.abs(result) <= floor(Fraction(format.max_finite) / unit)
    ordinary &= (format.signed or ~below | zeros) & (format.has_zero or ~zeros)
    ordinary &= not (format.p3109 and format.precision == 1)
    return result, below & (format.has_negative_zero or ~zeros)
