"""Oracles of whole matrix products: all elements take each step at once.

A finite number is a Python integer, in units of a power of two that all terms are multiples of, and
a sign where that is zero.  Beside it stands a float: an infinity or NaN instead of the number, or
zero.  Into formats of an unusual kind the oracles of one inner product round.
"""

import functools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from gmpy2 import mpq
from numpy.typing import NDArray

from fpemu import formats
from fpemu.formats import Format, FormatLike
from fpemu.reference import RoundingLike
from tests.oracle.accumulators import sequential
from tests.oracle.rounding import TO_INTEGER, by_definition

Integers = NDArray[np.object_]

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
    between = [] if fused else [formats.format(format if product is None else product)]
    stages = [formats.format(each) for each in (via, format) if each is not None]
    if any(map(_is_unusual, (*between, *stages))):
        options = format, rounding, fused, product, via
        columns = b.T.tolist()
        return np.array([[sequential(x, y, *options) for y in columns] for x in a.tolist()])
    work = _Work(a, b, rounding)
    sums = work.zeros()
    for step in range(a.shape[1]):
        sums = work.add(sums, work.rounded(work.product(step), *between))
        sums = work.rounded(sums, *stages)
    return work.floats(sums)


def pairwise_matrix(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    format: Format,
    rounding: str | RoundingLike,
    *,
    fused: bool,
    flush: bool,
) -> NDArray[np.float64]:
    """`trees.pairwise` of every row and every column, in a format of the usual kind."""
    work = _Work(a, b, rounding)

    def ended(x: _Numbers, *into: Format) -> _Numbers:
        x = work.rounded(x, *into)
        return work.flushed(x, format) if flush else x

    def tree(first: int, last: int) -> _Numbers:
        if last - first == 1:
            return ended(work.product(first), *([] if fused else [format]))
        middle = first + (last - first) // 2
        return ended(work.add(tree(first, middle), tree(middle, last)), format)

    return work.floats(ended(tree(0, a.shape[1]), format))


class _Numbers(NamedTuple):
    multiples: Integers
    negative: NDArray[np.bool_]
    special: NDArray[np.float64]


class _Limits(NamedTuple):
    least: int  # normal multiple
    most: int


def _is_unusual(format: Format) -> bool:
    one_bit = format.p3109 and format.precision == 1
    return one_bit or not (format.signed and format.has_zero)


@functools.cache
def _limits(format: Format, low: int) -> _Limits:
    """Of a format, in units of ``2**low``."""
    unit = Fraction(2) ** low
    least, most = Fraction(format.smallest_normal) / unit, Fraction(format.max_finite) / unit
    return _Limits(math.ceil(least), math.floor(most))


class _Work:
    """The products of rows and columns, and what sums of them are made with.

    Parameters
    ----------
    a, b : ndarray
        The matrices.
    rounding : str or Rounding
        That of all steps.
    """

    def __init__(
        self, a: NDArray[np.floating], b: NDArray[np.floating], rounding: str | RoundingLike
    ) -> None:
        self._a, self._b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        self._rounding = rounding
        self._mode = rounding if isinstance(rounding, str) else rounding.mode
        (self._rows, low_a), (self._columns, low_b) = _integers(self._a), _integers(self._b)
        self._low = low_a + low_b

    def zeros(self) -> _Numbers:
        """+0 for each element."""
        shape = self._a.shape[0], self._b.shape[1]
        return _Numbers(np.full(shape, 0, object), np.full(shape, False), np.zeros(shape))

    def product(self, step: int) -> _Numbers:
        """A column of `a` times a row of `b`."""
        x, y = self._a[:, step, None], self._b[step]
        with np.errstate(all="ignore"):
            special = np.where(np.isfinite(x) & np.isfinite(y), 0.0, x * y)
        multiples = self._rows[:, step, None] * self._columns[step]
        return _Numbers(multiples, np.signbit(x) ^ np.signbit(y), special)

    def add(self, x: _Numbers, y: _Numbers) -> _Numbers:
        """The exact sums (IEEE 754-2019 §6.1 to §6.3)."""
        sums = x.multiples + y.multiples
        # Zeros of both signs, and numbers that cancel, give the zero of the mode.
        of_zero = np.where(x.negative == y.negative, x.negative, self._mode == "rtn")
        with np.errstate(invalid="ignore"):
            special = x.special + y.special
        return _Numbers(sums, np.where(sums == 0, of_zero, sums < 0), special)

    def rounded(self, x: _Numbers, *into: Format) -> _Numbers:
        """Numbers rounded into formats, one after the other."""
        for format in into:
            x = self._rounded(x, format)
        return x

    def _rounded(self, x: _Numbers, format: Format) -> _Numbers:
        limits, low = _limits(format, self._low), self._low
        quanta = _bit_length(x.multiples) + (low - format.precision)
        dropped: Any = np.maximum(np.maximum(quanta, format.quantum_exponent) - low, 0)
        whole = x.multiples >> dropped
        rest = x.multiples - (whole << dropped)
        multiples = TO_INTEGER[self._mode](whole, rest, 1 << dropped) << dropped
        magnitudes = np.abs(multiples)
        if not format.subnormals:
            multiples[magnitudes < limits.least] = 0
        negative = x.negative & ((multiples != 0) | format.has_negative_zero)
        beyond = (magnitudes > limits.most) & (x.special == 0)
        if beyond.any() or x.special.any():
            return self._ended(_Numbers(multiples, negative, x.special), beyond, format)
        return _Numbers(multiples, negative, x.special)

    def _ended(self, x: _Numbers, beyond: NDArray[np.bool_], format: Format) -> _Numbers:
        """What numbers become that are beyond the largest of a format, infinite or NaN."""
        multiples, negative, special = (part.copy() for part in x)
        far = mpq(2) ** (format.emax + 2)
        for where, given in (
            (beyond & ~x.negative, far),
            (beyond & x.negative, -far),
            (x.special == math.inf, math.inf),
            (x.special == -math.inf, -math.inf),
            (np.isnan(x.special), math.nan),
        ):
            if where.any():
                end = by_definition(given, format, self._rounding)
                finite = math.isfinite(end)
                multiples[where] = int(mpq(end) / mpq(2) ** self._low) if finite else 0
                negative[where] = math.copysign(1.0, end) < 0
                special[where] = 0.0 if finite else end
        return _Numbers(multiples, negative, special)

    def flushed(self, x: _Numbers, format: Format) -> _Numbers:
        """Zeros of their sign for what is below the normal numbers of a format."""
        tiny = np.abs(x.multiples) < _limits(format, self._low).least
        return x._replace(multiples=np.where(tiny, 0, x.multiples))

    def floats(self, x: _Numbers) -> NDArray[np.float64]:
        """Numbers of float64."""
        low, magnitudes = self._low, np.abs(x.multiples)
        wide = (magnitudes / (1 << -low) if low < 0 else magnitudes << low).astype(np.float64)
        return np.where(x.special == 0, np.where(x.negative, -wide, wide), x.special)


def _integers(x: NDArray[np.float64]) -> tuple[Integers, int]:
    """Numbers as multiples of a power of two, and its exponent; 0 for what is not finite."""
    fractions, exponents = np.frexp(np.where(np.isfinite(x), x, 0.0))
    low = int(exponents.min()) - 53
    significands = np.ldexp(fractions, 53).astype(np.int64).astype(object)
    return significands << (exponents - 53 - low).astype(object), low
