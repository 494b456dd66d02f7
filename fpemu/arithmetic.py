"""Arithmetic on carrier values, rounded once into a format.

Two ways lead to one rounding.  The error of a float64 sum, product, quotient or square root is
known exactly, or at least its sign: so the result can be made odd and, having two bits more than
the format, be rounded again without harm.  Where the error underflows, the result overflows, or the
format has no fewer bits than float64, integer arithmetic does it.

References
----------
IEEE Std 754-2019, sections 5.4.1 and 6.3; S. Boldo, G. Melquiond, "Emulation of a FMA and correctly
rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 57(4), 2008.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from numpy.typing import ArrayLike

from fpemu import formats as _formats
from fpemu import parallel, words
from fpemu.formats import Format, FormatLike
from fpemu.parallel import inline
from fpemu.rounding import (
    RTN,
    Carrier,
    RoundingLike,
    Target,
    as_carrier,
    as_rounding,
    check_out,
    mode_number,
    result_dtype,
    round_word,
    target_of,
)
from fpemu.significand import INFINITY, ONE, SIGN, ZERO, round_significand, unpack

__all__ = ["add", "divide", "fma", "multiply", "sqrt", "subtract"]

ODD_PRECISION: Final = 51
"""An odd float64 number may be rounded again to this precision."""

# Magnitudes between which neither an error underflows nor a result overflows.
_SMALL: Final = 2.0**-900
_LARGE: Final = 2.0**900


# --- by error-free transformations --------------------------------------------------------------


@inline
def odd(result: float, error: float) -> Any:
    """The word of ``result + error`` rounded to odd, `result` being its rounding to nearest.

    Only the sign of the error counts.  Where there is one and the last bit is even, the result's
    odd neighbour in the direction of the error is the rounding to odd.
    """
    bits = words.word(result)
    even = words.bit_and(bits, 1) == 0
    # Comparisons with a NaN error (of an infinite result) are false.
    if even and error > 0.0:
        bits = words.add(bits, 1) if result > 0.0 else words.subtract(bits, 1)
    if even and error < 0.0:
        bits = words.subtract(bits, 1) if result > 0.0 else words.add(bits, 1)
    return bits


@inline
def odd_sum(a: float, b: float) -> Any:
    """The word of ``a + b`` rounded to odd: Knuth's TwoSum gives the error exactly."""
    total = a + b
    b_part = total - a
    return odd(total, (a - (total - b_part)) + (b - b_part))


@inline
def add_float32(a: float, b: float, target: Target, mode: int) -> Any:
    """``a + b`` rounded once into a target of precision at most 51.

    The sum must not overflow float64: `a` and `b` are products of float32 numbers or members of a
    format that holds such sums.
    """
    bits = odd_sum(a, b)
    if mode == RTN and a + b == 0.0 and words.word(a) != words.word(b):
        bits = SIGN  # IEEE 754 section 6.3: a sum that is zero is -0 when rounding down
    return words.floating(round_word(bits, target, mode))


@inline
def multiply_add_float32(
    total: float,
    a: float,
    b: float,
    target: Target,
    product_target: Target,
    via_target: Target,
    mode: int,
    unfused: bool,
    via: bool,
) -> Any:
    """One step of an accumulation of products of float32 numbers, held in float64."""
    product = a * b  # exact: 48 bits, exponents within float64's
    if unfused:
        product = words.floating(round_word(words.word(product), product_target, mode))
    if via:
        total = add_float32(total, product, via_target, mode)
        return words.floating(round_word(words.word(total), target, mode))
    return add_float32(total, product, target, mode)


# --- in integer arithmetic ----------------------------------------------------------------------


@inline
def _shift_pair(high: Any, low: Any, distance: int) -> Any:
    """A 128-bit integer shifted right; the lowest bit stands for all that falls off."""
    if distance == 0:
        return high, low
    if distance < 64:
        lost = words.shift_left(low, np.uint64(64 - distance))
        carried = words.shift_left(high, np.uint64(64 - distance))
        low = words.bit_or(words.shift_right(low, np.uint64(distance)), carried)
        high = words.shift_right(high, np.uint64(distance))
    elif distance < 128:
        rest = distance - 64
        lost = words.bit_or(low, words.shift_left(high, np.uint64(64 - rest)) if rest else ZERO)
        low = words.shift_right(high, np.uint64(rest))
        high = ZERO
    else:
        lost = words.bit_or(high, low)
        high = low = ZERO
    return high, words.bit_or(low, ONE if lost != 0 else ZERO)


@inline
def _zero_of(sign_a: Any, sign_b: Any, target: Target, mode: int) -> Any:
    """The zero that a sum of terms of these signs gives when it is exactly zero."""
    negative = sign_a != 0 if sign_a == sign_b else mode == RTN
    return target.zero_negative if negative else target.zero


@inline
def fma_word(a: float, b: float, c: float, target: Target, mode: int) -> Any:
    """The word of ``a*b + c`` rounded once into the target, for any float64 operands."""
    bits_a, bits_b, bits_c = words.word(a), words.word(b), words.word(c)
    sign_c = words.bit_and(bits_c, SIGN)
    sign_p = words.bit_and(words.bit_xor(bits_a, bits_b), SIGN)
    magnitude_a = words.bit_and(bits_a, ~SIGN)
    magnitude_b = words.bit_and(bits_b, ~SIGN)
    magnitude_c = words.bit_and(bits_c, ~SIGN)
    if magnitude_a >= INFINITY or magnitude_b >= INFINITY:
        return round_word(words.word(a * b + c), target, mode)
    if magnitude_c >= INFINITY:  # a*b is finite, whatever float64 makes of it
        return round_word(bits_c, target, mode)
    if magnitude_a == 0 or magnitude_b == 0:
        if magnitude_c == 0:
            return _zero_of(sign_p, sign_c, target, mode)
        return round_word(bits_c, target, mode)

    left, exponent_a = unpack(magnitude_a)
    right, exponent_b = unpack(magnitude_b)
    high = words.multiply_high(left, right)
    low = left * right
    exponent = exponent_a + exponent_b  # of the lowest of the 128 bits
    sign = sign_p
    if magnitude_c != 0:
        # The highest bit of each term goes to 126 (or 125), so that a sum does not overflow.
        high, low = _shift_pair(high, low, 1)
        exponent += 1
        high_c, exponent_c = unpack(magnitude_c)
        high_c = words.shift_right(high_c, 1)
        low_c = ZERO
        exponent_c += 1 - 64
        if exponent_c >= exponent:
            high, low = _shift_pair(high, low, exponent_c - exponent)
            exponent = exponent_c
        else:
            high_c, low_c = _shift_pair(high_c, low_c, exponent - exponent_c)
        if sign_p == sign_c:
            total = words.add(low, low_c)
            high = words.add(words.add(high, high_c), ONE if total < low else ZERO)
            low = total
        else:
            if high < high_c or (high == high_c and low < low_c):
                high, high_c = high_c, high
                low, low_c = low_c, low
                sign = sign_c
            borrow = ONE if low < low_c else ZERO
            high = words.subtract(words.subtract(high, high_c), borrow)
            low = words.subtract(low, low_c)
            if high == 0 and low == 0:
                return _zero_of(sign_p, sign_c, target, mode)
    if high == 0:
        high, low = low, ZERO
        exponent -= 64
    shift = np.int64(words.leading_zeros(high))
    if shift > 0:
        carried = words.shift_right(low, np.uint64(64 - shift))
        high = words.bit_or(words.shift_left(high, np.uint64(shift)), carried)
        low = words.shift_left(low, np.uint64(shift))
    significand = words.bit_or(high, ONE if low != 0 else ZERO)
    return round_significand(sign, significand, exponent - shift + 64, target, mode)


@inline
def multiply_add_float64(
    total: float,
    a: float,
    b: float,
    target: Target,
    product_target: Target,
    via_target: Target,
    mode: int,
    unfused: bool,
    via: bool,
) -> Any:
    """One step of an accumulation of products of any float64 numbers."""
    if unfused:
        zero = words.floating(words.bit_and(words.bit_xor(words.word(a), words.word(b)), SIGN))
        a = words.floating(fma_word(a, b, zero, product_target, mode))
        b = 1.0
    if via:
        total = words.floating(fma_word(a, b, total, via_target, mode))
        return words.floating(round_word(words.word(total), target, mode))
    return words.floating(fma_word(a, b, total, target, mode))


@inline
def _round_with_error(
    sign: Any, result: float, error: float, exponent: int, target: Target, mode: int
) -> Any:
    """The word of ``(result + error) * 2**exponent``, of which `result` > 0 is the nearest float64.

    Only the sign of the error counts, and it must not be a tie's: a last bit that says "a little
    more" or "a little less" stands for it.  A result with a negative error must not be a power of
    two; no quotient or square root of float64 numbers is rounded up to one.
    """
    significand, place = unpack(words.word(result))
    if error > 0.0:
        significand = words.bit_or(significand, ONE)
    if error < 0.0:
        significand = words.subtract(significand, ONE)
    return round_significand(sign, significand, place + exponent, target, mode)


@inline
def _scaled(magnitude: Any) -> Any:
    """A positive finite magnitude as ``m * 2**e``, m a float64 in [2**52, 2**53)."""
    significand, exponent = unpack(magnitude)
    return np.float64(np.int64(words.shift_right(significand, 11))), exponent + 11


@inline
def divide_word(a: float, b: float, target: Target, mode: int) -> Any:
    """The word of ``a / b`` rounded once into the target, for any float64 operands."""
    magnitude_a = words.bit_and(words.word(a), ~SIGN)
    magnitude_b = words.bit_and(words.word(b), ~SIGN)
    if magnitude_a >= INFINITY or magnitude_b >= INFINITY or magnitude_a == 0 or magnitude_b == 0:
        return round_word(words.word(a / b), target, mode)
    sign = words.bit_and(words.bit_xor(words.word(a), words.word(b)), SIGN)
    dividend, exponent_a = _scaled(magnitude_a)
    divisor, exponent_b = _scaled(magnitude_b)
    quotient = dividend / divisor
    error = words.fused_multiply_add(-quotient, divisor, dividend)
    # No quotient of two numbers lies halfway between two numbers of their precision.
    return _round_with_error(sign, quotient, error, exponent_a - exponent_b, target, mode)


@inline
def sqrt_word(a: float, target: Target, mode: int) -> Any:
    """The word of the square root of `a` rounded once into the target, for any float64."""
    bits = words.word(a)
    if bits >= INFINITY or bits == 0:  # infinite, NaN, negative or zero
        return round_word(words.word(np.sqrt(a)), target, mode)
    radicand, exponent = _scaled(bits)
    if exponent % 2 != 0:
        radicand *= 2.0
        exponent -= 1
    root = np.sqrt(radicand)
    error = words.fused_multiply_add(-root, root, radicand)
    # Nor does a square root.
    return _round_with_error(ZERO, root, error, exponent // 2, target, mode)


@inline
def multiply_word(a: float, b: float, target: Target, mode: int) -> Any:
    """The word of ``a * b`` rounded once into the target, for any float64 operands."""
    sign = words.bit_and(words.bit_xor(words.word(a), words.word(b)), SIGN)
    return fma_word(a, b, words.floating(sign), target, mode)


# --- whichever is quicker -----------------------------------------------------------------------


@inline
def quick_add(a: float, b: float, target: Target, mode: int) -> Any:
    """`fma_word(1, a, b)`, for a target of at most ODD_PRECISION."""
    if abs(a + b) < np.inf and a + b != 0.0:
        return round_word(odd_sum(a, b), target, mode)
    return fma_word(1.0, a, b, target, mode)


@inline
def quick_multiply(a: float, b: float, target: Target, mode: int) -> Any:
    """`multiply_word`, for a target of at most ODD_PRECISION."""
    product = a * b
    if _SMALL < abs(product) < _LARGE:
        error = words.fused_multiply_add(a, b, -product)
        return round_word(odd(product, error), target, mode)
    return multiply_word(a, b, target, mode)


@inline
def quick_divide(a: float, b: float, target: Target, mode: int) -> Any:
    """`divide_word`, for a target of at most ODD_PRECISION."""
    quotient = a / b
    if _SMALL < abs(a) < _LARGE and _SMALL < abs(b) < _LARGE and _SMALL < abs(quotient) < _LARGE:
        error = words.fused_multiply_add(-quotient, b, a)
        return round_word(odd(quotient, error if b > 0.0 else -error), target, mode)
    return divide_word(a, b, target, mode)


@inline
def quick_sqrt(a: float, target: Target, mode: int) -> Any:
    """`sqrt_word`, for a target of at most ODD_PRECISION."""
    if _SMALL < a < _LARGE:
        root = np.sqrt(a)
        return round_word(odd(root, words.fused_multiply_add(-root, root, a)), target, mode)
    return sqrt_word(a, target, mode)


# --- arrays -------------------------------------------------------------------------------------

_ADD, _MULTIPLY, _DIVIDE, _SQRT, _FMA, _FMA_FLOAT32 = range(6)
_GRAIN: Final = 2**13


@functools.cache
def _array_kernel(operation: int, mode: int, quick: bool) -> Callable[..., None]:
    """The kernel of an operation and mode; `quick` if the format has at most ODD_PRECISION.

    Operands of one element have step 0, others step 1.  `flip` negates b, to subtract.
    """
    adds, multiplies, divides = operation == _ADD, operation == _MULTIPLY, operation == _DIVIDE
    roots, narrow = operation == _SQRT, operation == _FMA_FLOAT32

    @parallel.kernel
    def array_range(start, stop, a, b, c, steps, flip, out, target):  # type: ignore[no-untyped-def]
        for i in range(start, stop):
            x = np.float64(a[i * steps[0]])
            y = np.float64(b[i * steps[1]])
            if flip:
                y = -y
            if adds:
                bits = quick_add(x, y, target, mode) if quick else fma_word(1.0, x, y, target, mode)
            elif multiplies:
                bits = (
                    quick_multiply(x, y, target, mode)
                    if quick
                    else multiply_word(x, y, target, mode)
                )
            elif divides:
                bits = (
                    quick_divide(x, y, target, mode) if quick else divide_word(x, y, target, mode)
                )
            elif roots:
                bits = quick_sqrt(x, target, mode) if quick else sqrt_word(x, target, mode)
            elif narrow and quick:
                bits = quick_add(x * y, np.float64(c[i * steps[2]]), target, mode)
            else:
                bits = fma_word(x, y, np.float64(c[i * steps[2]]), target, mode)
            out[i] = words.floating(bits)

    return cast(Callable[..., None], array_range)


@parallel.default_environment()
def _apply(
    operation: int,
    operands: dict[str, ArrayLike],
    format: FormatLike,
    rounding: RoundingLike,
    out: Carrier | None,
    *,
    flip: bool = False,
) -> Any:
    """Check the arguments, broadcast the operands, run the kernel."""
    format = _formats.format(format)
    rounding = as_rounding(rounding)
    mode = mode_number(rounding)
    arrays = [as_carrier(operand, name) for name, operand in operands.items()]
    dtype = result_dtype(format, *arrays)
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in zip(operands, arrays, strict=True))
        raise ValueError(f"operands do not broadcast: {shapes}") from None
    if out is not None:
        check_out(out, shape, format)
    if operation == _FMA and all(array.dtype == np.float32 for array in arrays):
        operation = _FMA_FLOAT32
    working = dtype if all(array.dtype == dtype for array in arrays) else np.dtype(np.float64)
    flat = [_flattened(array, shape, working) for array in arrays]
    flat += [flat[0]] * (3 - len(flat))
    count = int(np.prod(shape))
    result = np.empty(shape, dtype)
    parallel.run(
        _array_kernel(operation, mode, format.precision <= ODD_PRECISION),
        count,
        *flat,
        np.array([0 if operand.size == 1 else 1 for operand in flat]),
        flip,
        result.reshape(-1),
        target_of(format, rounding, np.dtype(np.float64)),
        grain=_GRAIN,
    )
    _check_result(result, format)
    if out is None:
        return result[()]
    out[...] = result
    return out


def _flattened(array: Carrier, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Carrier:
    """One element where there is one, else all of them in C order."""
    spread: Any = array.astype(dtype, copy=False)
    if array.size != 1 and array.shape != shape:
        spread = np.broadcast_to(spread, shape)
    return cast(Carrier, np.ascontiguousarray(spread).reshape(-1))


def _check_result(result: Carrier, format: Format) -> None:
    if not format.has_nan and np.isnan(result).any():
        index = tuple(int(i) for i in np.argwhere(np.isnan(result))[0])
        raise ValueError(f"the result at index {index} is NaN, but {format} has no NaN")


def add(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``a + b``, exact and then rounded once (IEEE 754 formatOf-addition).

    Parameters
    ----------
    a, b : array_like
        Any carrier values, broadcast together; they need not be members of `format`.
    format : Format or str
        The format of the result.
    rounding : Rounding or str
        The rounding.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray or scalar
        Members of `format`: float32 if the operands are and the format fits, else float64.

    Raises
    ------
    ValueError
        If the shapes do not broadcast, or a result is NaN and the format has no NaN.
    TypeError
        If an operand does not hold real numbers.

    References
    ----------
    IEEE Std 754-2019, sections 5.4.1 and 6.3.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.add(1.0, [2.0**-3, 2.0**-4 + 2.0**-50], "float8_e4m3fn")
    array([1.125, 1.125])
    """
    return _apply(_ADD, {"a": a, "b": b}, format, rounding, out)


def subtract(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``a - b``, exact and then rounded once; parameters and results as for :func:`add`.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.subtract(1.0, 2.0**-60, "float8_e4m3fn", "rtz")
    np.float64(0.9375)
    """
    return _apply(_ADD, {"a": a, "b": b}, format, rounding, out, flip=True)


def multiply(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``a * b``, exact and then rounded once; parameters and results as for :func:`add`.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.multiply(1e300, 1e300, "float16", "rtz")
    np.float64(65504.0)
    """
    return _apply(_MULTIPLY, {"a": a, "b": b}, format, rounding, out)


def divide(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``a / b``, exact and then rounded once; parameters and results as for :func:`add`.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.divide(1.0, 3.0, "bfloat16")
    np.float64(0.333984375)
    """
    return _apply(_DIVIDE, {"a": a, "b": b}, format, rounding, out)


def sqrt(
    a: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """The square root, exact and then rounded once; parameters and results as for :func:`add`.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.sqrt([2.0, -0.0, -1.0], "float16")
    array([ 1.4140625, -0.       ,        nan])
    """
    return _apply(_SQRT, {"a": a}, format, rounding, out)


def fma(
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``a*b + c``, exact and then rounded once; parameters and results as for :func:`add`.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.fma(1.0 + 2.0**-7, 1.0 + 2.0**-7, -1.0, "bfloat16")
    np.float64(0.015625)
    >>> fpemu.fma(1.0 + 2.0**-7, 1.0 + 2.0**-7, -1.0, "bfloat16", "rtp")
    np.float64(0.0157470703125)
    """
    return _apply(_FMA, {"a": a, "b": b, "c": c}, format, rounding, out)
