"""Arithmetic on carrier values, rounded once into a format.

Two ways lead to one rounding.  The error of a float64 sum, product, quotient or square root is
known exactly, or at least its sign: so the result can be made odd and, having two bits more than
the format, be rounded again without harm.  Where the error underflows, the result overflows, or the
format has no fewer bits than float64, integer arithmetic does it, and for the stochastic modes.

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
from fpemu._kernels import caching, launching, words
from fpemu._kernels import random_bits as philox
from fpemu._kernels.caching import inline
from fpemu._kernels.exact import (
    divide_word,
    divide_word_at,
    fma_word,
    fma_word_at,
    multiply_word,
    multiply_word_at,
    sqrt_word,
    sqrt_word_at,
)
from fpemu._kernels.significands import SIGN
from fpemu.formats import Format, FormatLike
from fpemu.rounding import (
    MODES,
    RTN,
    Carrier,
    Rounding,
    RoundingLike,
    Target,
    as_carrier,
    as_rounding,
    check_out,
    element_bits,
    result_dtype,
    round_word,
    target_of,
    unused_bits,
)

__all__ = ["add", "divide", "fma", "multiply", "sqrt", "subtract"]

ODD_PRECISION: Final = 51
"""An odd float64 number may be rounded again to this precision."""

_FLOAT64_EMAX: Final = 1023

# Magnitudes between which neither an error underflows nor a result overflows.
_SMALL: Final = 2.0**-900
_LARGE: Final = 2.0**900


# --- by error-free transformations --------------------------------------------------------------


def holds_float32_sums(format: Format) -> bool:
    """Whether float64 arithmetic adds its members to products of float32 numbers exactly enough.

    The precision leaves the odd sum two bits to spare, and no sum overflows float64.
    """
    return format.precision <= ODD_PRECISION and format.emax < _FLOAT64_EMAX


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

    @caching.kernel
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


@functools.cache
def _stochastic_kernel(operation: int, mode: int) -> Callable[..., None]:
    """The kernel of an operation and a stochastic mode: its ranges are blocks of elements.

    An element draws the bits that :func:`fpemu.round` draws for a float64 in its place.
    """
    multiplies, divides, roots = operation == _MULTIPLY, operation == _DIVIDE, operation == _SQRT
    adds, per_block = operation == _ADD, philox.BLOCK_WORDS // 2

    @caching.kernel
    def stochastic_range(  # type: ignore[no-untyped-def]
        start, stop, a, b, c, steps, flip, out, target, key, unused
    ):
        random = np.empty(philox.BLOCK_WORDS, np.uint32)
        for block in range(start, stop):
            philox.fill_block(block, key, random)
            first = block * per_block
            for i in range(first, min(first + per_block, out.size)):
                drawn = element_bits(random, i - first, per_block, True)
                drawn = words.shift_left(words.shift_right(drawn, unused), unused)
                x = np.float64(a[i * steps[0]])
                y = np.float64(b[i * steps[1]])
                if flip:
                    y = -y
                if adds:
                    bits = fma_word_at(1.0, x, y, target, mode, drawn, unused)
                elif multiplies:
                    bits = multiply_word_at(x, y, target, mode, drawn, unused)
                elif divides:
                    bits = divide_word_at(x, y, target, mode, drawn, unused)
                elif roots:
                    bits = sqrt_word_at(x, target, mode, drawn, unused)
                else:
                    z = np.float64(c[i * steps[2]])
                    bits = fma_word_at(x, y, z, target, mode, drawn, unused)
                out[i] = words.floating(bits)

    return cast(Callable[..., None], stochastic_range)


def _run(
    operation: int,
    operands: tuple[Any, ...],
    result: Carrier,
    format: Format,
    rounding: Rounding,
) -> None:
    """Fill a flat result from the operands, steps and flip that the kernels take."""
    target = target_of(format, rounding, np.dtype(np.float64))
    mode = MODES.index(rounding.mode)
    if rounding.is_stochastic:
        per_block = philox.BLOCK_WORDS // 2
        launching.run(
            _stochastic_kernel(operation, mode),
            -(-result.size // per_block),
            *operands,
            result,
            target,
            philox.key_of(rounding.seed),
            unused_bits(rounding),
            grain=_GRAIN // per_block,
        )
        return
    kernel = _array_kernel(operation, mode, format.precision <= ODD_PRECISION)
    launching.run(kernel, result.size, *operands, result, target, grain=_GRAIN)


@launching.default_environment()
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
    steps = np.array([0 if operand.size == 1 else 1 for operand in flat])
    result = np.empty(shape, dtype)
    _run(operation, (*flat, steps, flip), result.reshape(-1), format, rounding)
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
        The rounding.  A stochastic one truncates the discarded fraction, which need not end, to
        `random_bits` bits, 64 if that is None.
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
