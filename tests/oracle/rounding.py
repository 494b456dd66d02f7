"""`fpemu.reference.round_exact` once more, several times as fast, for oracles that round a lot.

Both a number with a power of two below its fraction line, and all numbers of an array at once, are
rounded to a multiple of the quantum in integers.  Where that is no ordinary number of the format,
after an overflow for example, and for all other numbers, `fpemu.reference` decides.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from gmpy2 import mpq
from numpy.typing import NDArray

from fpemu import formats, reference
from fpemu.formats import Format, FormatLike
from fpemu.reference import Number, RoundingLike

Integers = NDArray[np.int64]

# To look at the floating-point environment takes as long as to round; oracles run in the usual one.
by_definition = inspect.unwrap(reference.round_exact)

# From this quantum on, math.ldexp may raise an error: what it makes may be no number of float64.
_HIGH: Final = 1023 - 53
# float64 has 53 bits: of a number shifted by this many, all lie below a quarter of the quantum.
_FARTHEST: Final = 60

# The integer that ``below + rest / unit`` rounds to, where ``0 <= rest < unit``: of one or of many.
TO_INTEGER: Final[dict[str, Callable[[Any, Any, Any], Any]]] = {
    "rne": lambda below, rest, unit: below + (2 * rest + below % 2 > unit),
    "rna": lambda below, rest, unit: below + (2 * rest + (below >= 0) > unit),
    "rnz": lambda below, rest, unit: below + (2 * rest + (below < 0) > unit),
    "rtz": lambda below, rest, unit: below + ((below < 0) & (rest > 0)),
    "rtp": lambda below, rest, unit: below + (rest > 0),
    "rtn": lambda below, rest, unit: below,
    "rto": lambda below, rest, unit: below + ((rest > 0) & (below % 2 == 0)),
}


def round_exact(
    x: Number,
    format: FormatLike,
    rounding: str | RoundingLike = "rne",
    overflow: str | None = None,
) -> float:
    """`fpemu.reference.round_exact`."""
    target = formats.format(format)
    if isinstance(x, float):
        ratio = x.as_integer_ratio() if math.isfinite(x) else (0, 1)
    else:
        ratio = (x.numerator, x.denominator) if isinstance(x, mpq) else (0, 1)
    result = _ordinary(*ratio, target, rounding if isinstance(rounding, str) else rounding.mode)
    return by_definition(x, target, rounding, overflow) if result is None else result


def _ordinary(numerator: Any, denominator: Any, target: Format, mode: str) -> float | None:
    """What a fraction over a power of two rounds to, if no zero and no overflow is near."""
    scale = denominator.bit_length() - 1
    if denominator != 1 << scale or (target.p3109 and target.precision == 1):
        return None
    quantum = max(numerator.bit_length() - scale - target.precision, target.quantum_exponent)
    dropped = quantum + scale
    if dropped > 0:
        below = numerator >> dropped
        rest = numerator - (below << dropped)
        multiple = TO_INTEGER[mode](below, rest, 1 << dropped)
    else:
        multiple = numerator << -dropped
    result = math.ldexp(multiple, quantum) if quantum < _HIGH else math.inf
    least = 0.0 if target.subnormals else target.smallest_normal
    ordinary = result != 0 and least <= abs(result) <= target.max_finite
    return result if ordinary and (target.signed or result > 0) else None


def rounded(
    x: NDArray[np.floating],
    format: Format,
    rounding: str | RoundingLike = "rne",
    overflow: str | None = None,
) -> NDArray[np.float64]:
    """`round_exact` of every element; the same as :func:`one_by_one`, ten times as fast."""
    mode = rounding if isinstance(rounding, str) else rounding.mode
    flat = np.asarray(x, np.float64).ravel()
    result = _to_multiples(np.where(np.isfinite(flat), flat, 0.0), format, mode)
    for alike in _that_end_alike(flat, result, format):
        # One number at a time, or the first for all.
        result[alike] = by_definition(float(flat[alike[0]]), format, rounding, overflow)
    return result.reshape(np.shape(x))


def one_by_one(
    x: NDArray[np.floating],
    format: Format,
    rounding: str | RoundingLike = "rne",
    overflow: str | None = None,
) -> NDArray[np.float64]:
    """`round_exact` of every element, called for each."""
    flat = [by_definition(value, format, rounding, overflow) for value in x.ravel().tolist()]
    return np.array(flat, np.float64).reshape(x.shape)


def _to_multiples(x: NDArray[np.float64], format: Format, mode: str) -> NDArray[np.float64]:
    """What finite numbers round to if the format ends nowhere, with their signs."""
    fractions, exponents = np.frexp(x)
    significands = np.ldexp(fractions, 53).astype(np.int64)
    quanta = np.maximum(exponents - format.precision, format.quantum_exponent)
    shift = np.clip(quanta - (exponents - 53), -_FARTHEST, _FARTHEST)
    left, right = np.maximum(-shift, 0), np.maximum(shift, 0)
    unit = np.int64(1) << right
    below = (significands << left) >> right
    rest = significands & (unit - 1)
    offset = np.int64(0)
    if format.p3109 and format.precision == 1:
        # Even and odd are codes: one is a power of two, and zero lies below the first.
        codes = np.where(np.abs(significands) << left >= unit, quanta + format.bias - 1, 0)
        offset = np.where(significands < 0, -codes, codes)
    multiples = TO_INTEGER[mode](below + offset, rest, unit) - offset
    with np.errstate(over="ignore"):
        magnitudes = np.ldexp(np.abs(multiples).astype(np.float64), quanta)
    return np.copysign(magnitudes, x)


def _that_end_alike(
    x: NDArray[np.float64], multiples: NDArray[np.float64], format: Format
) -> Iterator[NDArray[np.intp]]:
    """Indices of numbers that round to no multiple, all of a part to the same number."""
    magnitudes = np.abs(multiples)
    least = format.smallest_subnormal if format.subnormals else format.smallest_normal
    beyond = np.isfinite(x) & (magnitudes > format.max_finite)
    within = np.isfinite(x) & (least <= magnitudes) & ~beyond
    outside = [beyond & (x > 0), beyond & (x < 0), within & (x < 0) & (not format.signed)]
    yield from filter(np.size, map(np.flatnonzero, outside))
    are_zero = np.isfinite(x) & (magnitudes == 0) & format.has_negative_zero
    yield from np.flatnonzero(~(beyond | within | are_zero))[:, None]
