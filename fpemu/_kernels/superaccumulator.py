"""Exact inner products: a fixed-point number as long as the range of float64 products.

Digits of 32 bits are held in 64-bit integers, so that 2**30 additions fit before a carry has to be
passed on.  A product is added into at most five neighbouring digits.

Most sums do not need that.  Products of float32 numbers are float64 numbers, and those of not too
many exponents are summed by :mod:`fpemu._kernels.anchored_sums`.  Else a chain of error-free
additions gives their float64 sum and, as long as the errors' own sum is exact too, what is missing
from it.  Two numbers say all that rounding has to know; only where an error's error is not zero
does the long number decide.

References
----------
U. Kulisch, Computer Arithmetic and Validity, 2nd ed., 2013, chapter 8.  T. Ogita, S. M. Rump,
S. Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26(6), 2005.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import anchored_sums, caching, launching, random_bits, words
from fpemu._kernels.array_rounding import round_flat
from fpemu._kernels.caching import inline
from fpemu._kernels.error_free import holds_float32_sums, odd_sum, two_sum
from fpemu._kernels.exact import round_shifted
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import (
    COLUMNS,
    OUTER,
    Operands,
    Random,
    aligned,
    longest,
    pieces,
    random_of,
    source_of,
)
from fpemu._kernels.panels import extent, fill
from fpemu._kernels.rounding import (
    STOCHASTIC,
    Carrier,
    kind_of,
    round_word,
)
from fpemu._kernels.significands import ONE, SIGN, ZERO, unpack
from fpemu._kernels.targets import target_at, targets_of

__all__ = ["DIGITS", "add_number", "add_product", "product", "round_digits"]

# The last bit of the least product, 2**-2148, is in digit 0; 2**2048 and 2**31 additions fit.
_BASE: Final = -2176
DIGITS: Final = 136
"""Digits of a superaccumulator: an int64 array of this length."""

_DIGIT: Final = np.uint64(0xFFFFFFFF)
_MOST_TERMS: Final = 2**30
_FLOAT64_BITS: Final = 53
_ALMOST_ONE: Final = 1.0 - 2.0**-40
_COST: Final = 5.0  # nanoseconds of a multiply-add
_MOST_ROWS: Final = 256  # of a piece of work
_FEW_ROWS: Final = 8  # for which it takes longer to look at all numbers than to sum them


class ExactFacts(Protocol):
    """What is to be known of a :class:`fpemu.Exact`."""

    @property
    def format(self) -> FormatFacts: ...
    @property
    def rounding(self) -> RoundingFacts: ...
    @property
    def block(self) -> int | None: ...


class _Sum(NamedTuple):
    """How a kernel forms a sum, as far as that is data."""

    block: int
    rows: int  # of the result, in a piece of work
    short: bool  # whether a sum of two numbers is tried first
    targets: Any  # one
    random: Random


class _Work(NamedTuple):
    """What a thread works in: a superaccumulator, a number for every column, and a panel."""

    digits: Any
    total: Any
    rounded: Any
    errors: Any
    lost: Any
    panel: Any  # of the right operand


@inline
def _add_pair(digits: Any, negative: bool, high: Any, low: Any, exponent: int) -> None:
    """Add a 128-bit integer times ``2**exponent``, or subtract it."""
    place = exponent - _BASE
    first = place >> 5
    shift = np.uint64(place & 31)
    sign = np.int64(-1 if negative else 1)
    carried = ZERO
    for i in range(4):
        half = low if i < 2 else high
        digit = words.bit_and(words.shift_right(half, np.uint64(32 * (i & 1))), _DIGIT)
        shifted = words.bit_or(words.shift_left(digit, shift), carried)
        digits[first + i] += sign * np.int64(words.bit_and(shifted, _DIGIT))
        carried = words.shift_right(shifted, 32)
    digits[first + 4] += sign * np.int64(carried)


@inline
def add_product(digits: Any, a: float, b: float) -> None:
    """Add the exact product of two finite float64 numbers."""
    bits_a, bits_b = words.word(a), words.word(b)
    magnitude_a, magnitude_b = words.bit_and(bits_a, ~SIGN), words.bit_and(bits_b, ~SIGN)
    if magnitude_a == 0 or magnitude_b == 0:
        return
    left, exponent_a = unpack(magnitude_a)
    right, exponent_b = unpack(magnitude_b)
    # 53 bits each, so that the last bit of the product is one that a product can have.
    left, right = words.shift_right(left, 11), words.shift_right(right, 11)
    negative = words.bit_and(words.bit_xor(bits_a, bits_b), SIGN) != 0
    high, low = words.multiply_high(left, right), words.multiply(left, right)
    _add_pair(digits, negative, high, low, exponent_a + exponent_b + 22)


@inline
def add_number(digits: Any, x: float) -> None:
    """Add a finite float64 number."""
    add_product(digits, x, 1.0)


@inline
def round_digits(digits: Any, zero: Any, target: Any, kind: int, random: Any, unused: Any) -> Any:
    """The word of the sum rounded into a target, `zero` if it is zero.  The digits are cleared."""
    carry = np.int64(0)
    for i in range(DIGITS):
        carried = digits[i] + carry
        digits[i] = np.int64(words.bit_and(np.uint64(carried), _DIGIT))
        carry = carried >> np.int64(32)
    sign = SIGN if carry < 0 else ZERO
    if carry < 0:  # the two's complement of the digits
        carried = np.int64(1)
        for i in range(DIGITS):
            carried += np.int64(words.bit_xor(np.uint64(digits[i]), _DIGIT))
            digits[i] = np.int64(words.bit_and(np.uint64(carried), _DIGIT))
            carried >>= np.int64(32)
    top = DIGITS - 1
    while top >= 0 and digits[top] == 0:
        top -= 1
    if top < 0:
        return zero
    # The lowest digits hold no bits of products, so there are five from the top one down.
    high = words.bit_or(words.shift_left(np.uint64(digits[top]), 32), np.uint64(digits[top - 1]))
    low = words.bit_or(words.shift_left(np.uint64(digits[top - 2]), 32), np.uint64(digits[top - 3]))
    following = words.shift_left(np.uint64(digits[top - 4]), 32)
    sticky = ZERO
    for i in range(top - 4):
        sticky = words.bit_or(sticky, np.uint64(digits[i]))
    shift = words.leading_zeros(high)
    if shift != 0:
        back = words.subtract(np.uint64(64), shift)
        high = words.bit_or(words.shift_left(high, shift), words.shift_right(low, back))
        low = words.bit_or(words.shift_left(low, shift), words.shift_right(following, back))
        following = words.shift_left(following, shift)
    if words.bit_or(following, sticky) != 0:
        low = words.bit_or(low, ONE)
    for i in range(DIGITS):
        digits[i] = 0
    exponent = _BASE + 32 * (top - 3) - np.int64(shift)
    return round_shifted(sign, high, low, exponent, target, kind, random, unused)


@numba.njit(inline="always")
def _short_sums(work, left, right, first, stop, target, kind):  # type: ignore[no-untyped-def]
    """Sums of the total and a block of products, each as two numbers and then rounded.

    `lost` stays zero where the two numbers are the exact sum; a NaN in it stands for a sum that is
    not finite.
    """
    sums, errors, lost = work.rounded, work.errors, work.lost
    for j in range(COLUMNS):
        sums[j] = work.total[j]
        errors[j] = 0.0
        lost[j] = 0.0
    for step in range(first, stop):
        for j in range(COLUMNS):
            total, error = two_sum(sums[j], left[step] * right[step, j])
            corrected, missed = two_sum(errors[j], error)
            sums[j] = total
            errors[j] = corrected
            lost[j] += abs(missed)
    for j in range(COLUMNS):
        # No sum that is zero is negative, as the errors' zero is positive.
        odd = odd_sum(sums[j], errors[j])
        sums[j] = words.floating(round_word(odd, target, kind))


@numba.njit(inline="always")
def _long_sum(digits, total, left, right, j, first, stop, target, kind, random, unused):  # type: ignore[no-untyped-def]
    """A number and a block of products, summed in a superaccumulator and rounded."""
    special = 0.0
    if abs(total) < np.inf:
        add_number(digits, total)
    else:
        special = total
    for step in range(first, stop):
        x, y = left[step], right[step, j]
        if abs(x) < np.inf and abs(y) < np.inf:
            add_product(digits, x, y)
        else:
            special += x * y
    bits = round_digits(digits, target.zero, target, kind, random, unused)
    return words.floating(round_word(words.word(special), target, kind) if special != 0.0 else bits)


@functools.cache
def _product_kernel(kind: int) -> Callable[..., None]:
    """The kernel of a kind of rounding."""

    @caching.kernel
    def exact_range(start, stop, work, arrays, sums):  # type: ignore[no-untyped-def]
        _, rows, steps = arrays.left.shape
        target, block = target_at(sums.targets, 0), sums.block
        total, right, columns = work.total, work.panel, arrays.out.shape[2]
        panels = (columns + COLUMNS - 1) // COLUMNS
        parts = (rows + sums.rows - 1) // sums.rows
        random = ZERO
        for piece in range(start, stop):
            stack, p = piece // panels, piece % panels
            batch, column = stack // parts, p * COLUMNS
            top = (stack - batch * parts) * sums.rows
            bottom = min(top + sums.rows, rows)
            if column >= longest(arrays.lengths, top, bottom):
                continue
            if steps > 0:
                fill(right, arrays.right, batch, p, 0, steps)
            for row in range(top, bottom):
                index = batch * rows + row
                end = min(COLUMNS, arrays.lengths[row] - column)
                if end <= 0:
                    continue
                left = arrays.left[batch, row]
                for j in range(COLUMNS):
                    total[j] = 0.0
                    work.lost[j] = 1.0
                if arrays.initial.size > 0:
                    for j in range(end):
                        total[j] = arrays.initial[batch, row, column + j]
                for first in range(0, max(steps, 1), block):
                    last = min(first + block, steps)
                    if sums.short and kind != STOCHASTIC:
                        _short_sums(work, left, right, first, last, target, kind)
                    for j in range(end):
                        if work.lost[j] == 0.0:
                            total[j] = work.rounded[j]
                            continue
                        if kind == STOCHASTIC:
                            random = random_bits.step_bits(
                                index * columns + column + j, first // block, OUTER,
                                sums.random.key, sums.random.unused,
                            )  # fmt: skip
                        total[j] = _long_sum(
                            work.digits, total[j], left, right, j, first, last,
                            target, kind, random, sums.random.unused,
                        )  # fmt: skip
                    if arrays.running.size > 0:
                        for j in range(end):
                            arrays.running[0, batch, row, column + j] += abs(total[j])
                            arrays.running[1, batch, row, column + j] += total[j] * total[j]
                for j in range(end):
                    arrays.out[batch, row, column + j] = total[j]

    return cast(Callable[..., None], exact_range)


def _workspace(steps: int) -> _Work:
    panel = aligned((max(steps, 1), COLUMNS))
    return _Work._make([np.zeros(DIGITS, np.int64), *aligned((4, COLUMNS)), panel])


class _Reach(NamedTuple):
    """What all terms of a product's sums have in common."""

    last_bit: int  # every term is a multiple of two to this power
    bound: float  # of the magnitudes of a sum's terms, together

    @classmethod
    def of(cls, operands: Operands) -> _Reach:
        """That of narrow operands."""
        exponent, greatest = 0, 1.0
        for each in (operands.a, operands.b):
            found = extent(each)
            exponent, greatest = exponent + found.last_bit, greatest * found.greatest
        bound = max(operands.steps, 1) * greatest
        if operands.initial is not None:
            initial = extent(np.asarray(operands.initial))
            exponent, bound = min(exponent, initial.last_bit), bound + initial.greatest
        return cls(exponent, bound)


def _float64_product(operands: Operands, reach: _Reach) -> NDArray[np.float64] | None:
    """The exact product, if no sum needs more bits than float64 has.

    Narrow operands are normal float64 numbers: nothing here can be flushed to zero.
    """
    exponent, bound = reach
    # The bound itself is rounded, if only a little.
    if not -1022 <= exponent <= 900 or not bound < np.ldexp(_ALMOST_ONE, exponent + _FLOAT64_BITS):
        return None
    operands = operands.with_numbers()
    result = np.matmul(operands.a.astype(np.float64), operands.b.astype(np.float64))
    if operands.initial is not None:
        result += operands.initial
    beyond = np.arange(operands.shape[2]) >= operands.row_lengths[:, None]
    return cast(NDArray[np.float64], np.where(beyond, 0.0, result + 0.0))  # no zero is negative


def _quick_product(operands: Operands, accumulator: ExactFacts) -> Carrier | None:
    """The product in float64 or by anchored sums, if these hold all sums."""
    format, rounding = accumulator.format, accumulator.rounding
    reach = _Reach.of(operands)
    exact = _float64_product(operands, reach)
    if exact is not None:
        rounded = np.empty_like(exact)
        round_flat(exact.reshape(-1), rounded.reshape(-1), format, rounding)
        if operands.wants_running:
            operands.running[:] = np.abs(rounded), np.square(rounded, dtype=np.float64)
        return rounded
    if operands.wants_running or not holds_float32_sums(format):
        return None
    anchors = anchored_sums.Anchors.of(reach.bound, reach.last_bit, operands.steps)
    if anchors is None:
        return None
    return anchored_sums.product(operands, format, rounding, anchors)


def product(operands: Operands, accumulator: ExactFacts) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays, rounded once or once a block."""
    steps = operands.steps
    if steps >= _MOST_TERMS:
        raise ValueError(f"an exact sum takes fewer than 2**30 terms, not {steps}")
    format, rounding = accumulator.format, accumulator.rounding
    whole = accumulator.block is None or accumulator.block >= steps
    short = operands.narrow and holds_float32_sums(format)
    few = short and operands.shape[0] * operands.shape[1] <= _FEW_ROWS
    if whole and operands.narrow and not few and not rounding.is_stochastic:
        found = _quick_product(operands, accumulator)
        if found is not None:
            return found
    out = np.zeros(operands.shape)
    rows, count, cost = pieces(operands, most=_MOST_ROWS, filling=1, cost=_COST)
    launching.run(
        _product_kernel(kind_of(rounding)),
        count,
        operands.arrays(np.float64, out, source_of(operands.b, np.float64)),
        _Sum(
            accumulator.block or max(steps, 1),
            rows,
            short,
            targets_of((format, rounding)),
            random_of(rounding),
        ),
        cost=cost,
        workspace=lambda: _workspace(steps),
    )
    return out
