"""Exact inner products: a fixed-point number as long as the range of float64 products.

Digits of 32 bits are held in 64-bit integers, so that 2**30 additions fit before a carry has to be
passed on.  A product is added into at most five neighbouring digits.

References
----------
U. Kulisch, Computer Arithmetic and Validity, 2nd ed., 2013, chapter 8.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from fpemu import parallel, philox, words
from fpemu.accumulators import Exact
from fpemu.exact_arithmetic import round_shifted
from fpemu.operands import OUTER, Operands
from fpemu.parallel import inline
from fpemu.rounding import (
    SR,
    Carrier,
    mode_number,
    round_word,
    target_of,
    unused_bits,
)
from fpemu.rounding import round as round_into
from fpemu.significand import ONE, SIGN, ZERO, unpack

__all__ = ["DIGITS", "add_number", "add_product", "product", "round_digits"]

# The last bit of the least product, 2**-2148, is in digit 0; 2**2048 and 2**31 additions fit.
_BASE: Final = -2176
DIGITS: Final = 136
"""Digits of a superaccumulator: an int64 array of this length."""

_DIGIT: Final = np.uint64(0xFFFFFFFF)
_MOST_TERMS: Final = 2**30
_FLOAT64_BITS: Final = 53
_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)
_WORK_PER_PIECE: Final = 2**14  # multiply-adds worth a thread


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
def round_digits(digits: Any, zero: Any, target: Any, mode: int, random: Any, unused: Any) -> Any:
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
    return round_shifted(sign, high, low, exponent, target, mode, random, unused)


@functools.cache
def _product_kernel(mode: int) -> Callable[..., None]:
    @parallel.kernel
    def exact_range(  # type: ignore[no-untyped-def]
        start, stop, a, columns, initial, out, lengths, block, target, key, unused
    ):
        _, rows, steps = a.shape
        digits = np.zeros(DIGITS, np.int64)
        for index in range(start, stop):
            batch = index // rows
            row = index - batch * rows
            left = a[batch, row]
            for j in range(lengths[row]):
                right = columns[batch, j]
                total = initial[batch, row, j] if initial.size > 0 else 0.0
                for first in range(0, max(steps, 1), block):
                    special = 0.0
                    if abs(total) < np.inf:
                        add_number(digits, total)
                    else:
                        special = total
                    for step in range(first, min(first + block, steps)):
                        x, y = np.float64(left[step]), np.float64(right[step])
                        if abs(x) < np.inf and abs(y) < np.inf:
                            add_product(digits, x, y)
                        else:
                            special += x * y
                    random = ZERO
                    if mode >= SR:
                        element = index * columns.shape[1] + j
                        random = philox.step_bits(element, first // block, OUTER, key, unused)
                    bits = round_digits(digits, target.zero, target, mode, random, unused)
                    if special != 0.0:
                        bits = round_word(words.word(special), target, mode)
                    total = words.floating(bits)
                out[batch, row, j] = total

    return cast(Callable[..., None], exact_range)


def _last_bit(x: Carrier) -> int:
    """The exponent of the lowest bit that is set in any of the finite numbers; 0 without one."""
    fractions, exponents = np.frexp(x[x != 0].astype(np.float64))
    if fractions.size == 0:
        return 0
    integers = np.ldexp(fractions, _FLOAT64_BITS).astype(np.int64)
    lowest = np.frexp((integers & -integers).astype(np.float64))[1] - 1
    return int(np.min(exponents + lowest)) - _FLOAT64_BITS


def _float64_product(operands: Operands) -> NDArray[np.float64] | None:
    """The exact product, if no sum needs more bits than float64 has.

    Narrow operands are normal float64 numbers: nothing here can be flushed to zero.
    """
    if not operands.narrow:
        return None
    if not all(np.isfinite(x).all() for x in (operands.a, operands.b)):
        return None
    exponent = _last_bit(operands.a) + _last_bit(operands.b)
    if operands.initial is not None:
        if not np.isfinite(operands.initial).all():
            return None
        exponent = min(exponent, _last_bit(operands.initial))
    greatest = [float(np.max(np.abs(x), initial=0.0)) for x in (operands.a, operands.b)]
    bound = max(operands.a.shape[2], 1) * greatest[0] * greatest[1]
    if operands.initial is not None:
        bound += float(np.max(np.abs(operands.initial), initial=0.0))
    if not -1022 <= exponent <= 900 or not bound <= np.ldexp(1.0, exponent + _FLOAT64_BITS):
        return None
    result = np.matmul(operands.a.astype(np.float64), operands.b.astype(np.float64))
    if operands.initial is not None:
        result += operands.initial
    beyond = np.arange(operands.shape[2]) >= operands.row_lengths[:, None]
    return cast(NDArray[np.float64], np.where(beyond, 0.0, result + 0.0))  # no zero is negative


def product(operands: Operands, accumulator: Exact) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays, rounded once or once a block."""
    batch, rows, columns = operands.shape
    steps = operands.a.shape[2]
    if steps >= _MOST_TERMS:
        raise ValueError(f"an exact sum takes fewer than 2**30 terms, not {steps}")
    mode = mode_number(accumulator.rounding)
    whole = accumulator.block is None or accumulator.block >= steps
    deterministic = not accumulator.rounding.is_stochastic
    exact = _float64_product(operands) if whole and deterministic else None
    if exact is not None:
        return cast(Carrier, round_into(exact, accumulator.format, accumulator.rounding))
    out = np.zeros(operands.shape)
    initial = operands.initial
    parallel.run(
        _product_kernel(mode),
        batch * rows,
        np.ascontiguousarray(operands.a),
        np.ascontiguousarray(operands.b.transpose(0, 2, 1)),
        np.zeros((0, 0, 0)) if initial is None else initial.astype(np.float64),
        out,
        operands.row_lengths,
        accumulator.block or max(steps, 1),
        target_of(accumulator.format, accumulator.rounding, _FLOAT64),
        philox.key_of(accumulator.rounding.seed),
        unused_bits(accumulator.rounding),
        grain=max(1, _WORK_PER_PIECE // (max(steps, 1) * max(columns, 1))),
    )
    return out
