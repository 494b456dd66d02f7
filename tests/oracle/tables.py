"""Rounding by a sorted table of all members: vectorised, for formats of at most 16 bits.

A number is looked up among the members; the two neighbors, their midpoint and the parity of their
codes say the rest.  The members come from `decode_exact`; no arithmetic is shared with the kernels.
"""

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu.formats import Format
from fpemu.reference import decode_exact

AWAY = {"rne", "rna", "rnz"}  # modes that overflow to infinity for either sign


@functools.cache
def magnitudes(format: Format) -> NDArray[np.float64]:
    """Zero, the positive members, and the number that would come after the largest."""
    codes = range(format.max_finite_code + 1)
    members = [decode_exact(code, format) for code in codes]
    if not format.has_zero:
        members.insert(0, 0.0)
    members.append(members[-1] + 2.0 ** (format.emax - format.precision + 1))
    return np.array(members)


def round_by_table(
    x: ArrayLike, format: Format, mode: str, overflow: str = "ieee"
) -> NDArray[np.float64]:
    """Each element rounded; NaN also where a format without NaN has no answer.

    Formats without subnormals are not provided for, unless their precision is 1.
    """
    assert format.subnormals or format.precision == 1
    x = np.asarray(x, np.float64)
    table = magnitudes(format)
    negative, magnitude = np.signbit(x), np.abs(x)
    last = table.size - 1  # the index of what lies beyond the format
    below = np.clip(np.searchsorted(table, magnitude, side="right") - 1, 0, last - 1)
    lower, upper = table[below], table[below + 1]
    middle = (lower + upper) / 2  # exact: one bit more than the format
    # Two powers of two are the odd and the even multiple of the spacing between them.
    powers = format.precision == 1 and not format.p3109
    lower_is_even = below == 0 if powers else below % 2 == 0
    up = {
        "rne": (magnitude > middle) | ((magnitude == middle) & ~lower_is_even),
        "rna": magnitude >= middle,
        "rnz": magnitude > middle,
        "rtz": np.zeros(x.shape, bool),
        "rtp": ~negative,
        "rtn": negative,
        "rto": lower_is_even,
    }[mode]
    index = np.where((magnitude > lower) & up, below + 1, below)
    index = np.where(magnitude >= table[last], last, index)

    to_infinity = mode in AWAY or (mode == "rtp") & ~negative | (mode == "rtn") & negative
    shows = format.has_nan and not format.p3109
    infinity = np.inf if format.infinities else np.nan if shows else table[last - 1]
    if format.p3109 and mode == "rto":
        to_infinity = last % 2 == 1  # it would be the code of infinity
    if overflow == "saturate":
        infinity = table[last - 1]
    result = np.where(index < last, table[index], np.where(to_infinity, infinity, table[last - 1]))
    result = np.where(np.isinf(x), infinity, result)
    if not format.has_zero:
        result = np.where(magnitude == 0, np.nan, np.maximum(result, table[1]))
    result = np.where(negative, -result, result)
    if not format.signed:
        invalid = np.nan if shows else 0.0
        result = np.where(negative & ((result != 0) | (not format.has_zero)), invalid, result)
    if not format.has_negative_zero:
        result = result + 0.0
    return np.where(np.isnan(x), np.nan, result)
