"""Inner products step by step, every step exact in rationals and then rounded.

Between roundings a number is a nonzero rational of GMP, which adds ten times as fast as Python's
Fraction, or a float where a rational cannot say it: a zero with its sign, an infinity, a NaN.  The
rules for those are IEEE 754-2019 §6.1 to §6.3.
"""

import functools
import math
from collections.abc import Iterable, Sequence

from gmpy2 import mpq

from fpemu.formats import FormatLike
from fpemu.reference import RoundingLike
from tests.oracle.rounding import round_exact

Exact = mpq | float


def sequential(
    a: Sequence[float],
    b: Sequence[float],
    format: FormatLike,
    rounding: str | RoundingLike = "rne",
    fused: bool = True,
    product: FormatLike | None = None,
    via: FormatLike | None = None,
) -> float:
    """From +0 in index order, ``acc <- round(acc + a*b)``.

    Not fused, the product is first rounded into `product`, or into `format` if that is None.  With
    `via`, every sum is rounded into `via` before it is rounded into `format`.
    """
    terms: Iterable[Exact] = (product_of(x, y) for x, y in zip(a, b, strict=True))
    if not fused:
        between = format if product is None else product
        terms = (exact(round_exact(term, between, rounding)) for term in terms)
    return _accumulate(terms, format, rounding, via)


def blocked(
    a: Sequence[float],
    b: Sequence[float],
    format: FormatLike,
    block: int,
    inner: FormatLike = "float32",
    rounding: str | RoundingLike = "rne",
) -> float:
    """Blocks of `block` terms summed fused in `inner`, rne, then ``acc <- round(acc + sum)``."""
    sums = (
        exact(sequential(a[start : start + block], b[start : start + block], inner))
        for start in range(0, len(a), block)
    )
    return _accumulate(sums, format, rounding, None)


def _accumulate(
    terms: Iterable[Exact],
    format: FormatLike,
    rounding: str | RoundingLike,
    via: FormatLike | None,
) -> float:
    accumulator = 0.0
    for term in terms:
        total = add(exact(accumulator), term, rounding)
        if via is not None:
            total = round_exact(total, via, rounding)
        accumulator = round_exact(total, format, rounding)
    return accumulator


def exact(x: float) -> Exact:
    """`x` as the numbers of this module are written."""
    x = float(x)
    return _nonzero(x) if math.isfinite(x) and x != 0 else x


# Tests ask for the same numbers in every mode.  Of equal zeros a cache would give either.
@functools.lru_cache(2**14)
def _nonzero(x: float) -> mpq:
    return mpq(x)


def product_of(x: float, y: float) -> Exact:
    """The exact product of two floats."""
    if x and y and math.isfinite(x) and math.isfinite(y):
        return _nonzero_product(x, y)
    return multiply(exact(x), exact(y))


@functools.lru_cache(2**14)
def _nonzero_product(x: float, y: float) -> mpq:
    return _nonzero(x) * _nonzero(y)


def multiply(x: Exact, y: Exact) -> Exact:
    """The exact product."""
    if isinstance(x, mpq) and isinstance(y, mpq):
        return x * y
    if _is_nan(x) or _is_nan(y):
        return math.nan
    magnitude = 0.0
    if _is_infinite(x) or _is_infinite(y):
        magnitude = math.nan if x == 0 or y == 0 else math.inf
    return -magnitude if _is_negative(x) != _is_negative(y) else magnitude


def add(x: Exact, y: Exact, rounding: str | RoundingLike) -> Exact:
    """The exact sum; the mode decides the sign of an exact zero (IEEE 754-2019 §6.3)."""
    if isinstance(x, mpq) and isinstance(y, mpq):
        total: Exact = x + y
    elif _is_nan(x) or _is_nan(y):
        return math.nan
    elif _is_infinite(x):
        return math.nan if _is_infinite(y) and x != y else x
    elif _is_infinite(y):
        return y
    elif x == 0 and y == 0 and _is_negative(x) == _is_negative(y):
        return x
    else:  # one of them is zero
        total = y if x == 0 else x
    if total == 0:
        mode = rounding if isinstance(rounding, str) else rounding.mode
        return -0.0 if mode == "rtn" else 0.0
    return total


def _is_nan(x: Exact) -> bool:
    return isinstance(x, float) and math.isnan(x)


def _is_infinite(x: Exact) -> bool:
    return isinstance(x, float) and math.isinf(x)


def _is_negative(x: Exact) -> bool:
    return math.copysign(1.0, x) < 0 if isinstance(x, float) else x < 0
