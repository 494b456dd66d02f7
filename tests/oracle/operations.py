"""Operations on float64 numbers, exact in rationals and rounded once (IEEE 754-2019 §5.4.1, §6)."""

import math

from gmpy2 import mpq

from fpemu import formats
from fpemu.formats import FormatLike
from fpemu.reference import RoundingLike
from tests.oracle import accumulators
from tests.oracle.accumulators import Exact, exact
from tests.oracle.rounding import round_exact

_MORE_BITS = 200  # of a square root than any format has


def add(a: float, b: float, format: FormatLike, rounding: str | RoundingLike = "rne") -> float:
    """``a + b``."""
    return round_exact(accumulators.add(exact(a), exact(b), rounding), format, rounding)


def subtract(a: float, b: float, format: FormatLike, rounding: str | RoundingLike = "rne") -> float:
    """``a - b``."""
    return add(a, -b, format, rounding)


def multiply(a: float, b: float, format: FormatLike, rounding: str | RoundingLike = "rne") -> float:
    """``a * b``."""
    return round_exact(accumulators.multiply(exact(a), exact(b)), format, rounding)


def divide(a: float, b: float, format: FormatLike, rounding: str | RoundingLike = "rne") -> float:
    """``a / b``."""
    if b == 0 and formats.format(format).p3109:
        return math.nan
    return round_exact(_quotient(float(a), float(b)), format, rounding)


def _quotient(a: float, b: float) -> Exact:
    if math.isnan(a) or math.isnan(b) or (math.isinf(a) and math.isinf(b)) or a == b == 0:
        return math.nan
    sign = math.copysign(1.0, a) * math.copysign(1.0, b)
    if math.isinf(a) or b == 0:
        return sign * math.inf
    if math.isinf(b) or a == 0:
        return sign * 0.0
    return mpq(a) / mpq(b)


def fma(
    a: float, b: float, c: float, format: FormatLike, rounding: str | RoundingLike = "rne"
) -> float:
    """``a*b + c``."""
    product = accumulators.multiply(exact(a), exact(b))
    return round_exact(accumulators.add(product, exact(c), rounding), format, rounding)


def sqrt(a: float, format: FormatLike, rounding: str | RoundingLike = "rne") -> float:
    """The square root of `a`."""
    a = float(a)
    if not a > 0 or math.isinf(a):
        return round_exact(a if a == 0 or a == math.inf else math.nan, format, rounding)
    # a * 4**k is an integer whose root has far more bits than any boundary of a format; where it is
    # not a square, the number halfway to the next integer lies on the same side of all of them.
    shift = 1100 + _MORE_BITS
    square = mpq(a) * 4**shift
    root = math.isqrt(int(square))
    if root * root == square:
        return round_exact(mpq(root, 2**shift), format, rounding)
    return round_exact(mpq(2 * root + 1, 2 ** (shift + 1)), format, rounding)
