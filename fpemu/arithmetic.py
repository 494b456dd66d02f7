"""Arithmetic on carrier values, rounded once into a format.

References
----------
IEEE Std 754-2019, sections 5.4.1 and 6.3.
"""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
from numpy.typing import ArrayLike

from fpemu import formats as _formats
from fpemu._kernels import arithmetic as kernels
from fpemu._kernels import launching
from fpemu.carriers import Carrier, as_carrier, check_out, result_dtype
from fpemu.formats import Format, FormatLike
from fpemu.rounding import Rounding, RoundingLike, as_rounding

__all__ = ["add", "divide", "fma", "multiply", "sqrt", "subtract"]

_NEAREST: Final = Rounding()
_OF_PROCESSOR: Final[dict[tuple[int, bool], np.ufunc]] = {
    (kernels.ADD, False): np.add,
    (kernels.ADD, True): np.subtract,
    (kernels.MULTIPLY, False): np.multiply,
    (kernels.DIVIDE, False): np.divide,
    (kernels.SQRT, False): np.sqrt,
}
"""What processors round to nearest, by operation and whether the second operand is negated."""


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
    place = None if out is None else check_out(out, shape, format)
    result = np.empty(shape, dtype)
    ufunc = _OF_PROCESSOR.get((operation, flip))
    if ufunc is not None and rounding == _NEAREST and format == _formats.format(dtype.name):
        ufunc(*arrays, out=result, dtype=dtype)
        not_numbers = np.isnan(result)
        if not_numbers.any():  # kernels return this NaN, whatever the operands
            result[not_numbers] = np.nan
    else:
        _run_kernel(operation, arrays, flip, result, format, rounding)
        _check_result(result, format)
    if place is None:
        return result[()]
    place[...] = result
    return out


def _run_kernel(
    operation: int,
    arrays: list[Carrier],
    flip: bool,
    result: Carrier,
    format: Format,
    rounding: Rounding,
) -> None:
    """Fill a result by the kernel of an operation."""
    if operation == kernels.FMA and all(array.dtype == np.float32 for array in arrays):
        operation = kernels.FMA_FLOAT32
    flat = [_flattened(array, result.shape, result.dtype) for array in arrays]
    flat += [flat[0]] * (3 - len(flat))
    steps = np.array([0 if operand.size == 1 else 1 for operand in flat])
    kernels.apply(operation, (*flat, steps, flip), result.reshape(-1), format, rounding)


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
    return _apply(kernels.ADD, {"a": a, "b": b}, format, rounding, out)


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
    return _apply(kernels.ADD, {"a": a, "b": b}, format, rounding, out, flip=True)


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
    return _apply(kernels.MULTIPLY, {"a": a, "b": b}, format, rounding, out)


def divide(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """``a / b``, exact and then rounded once; parameters and results as for :func:`add`.

    A nonzero number divided by zero is an infinity, in a P3109 format NaN.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.divide(1.0, 3.0, "bfloat16")
    np.float64(0.333984375)
    """
    return _apply(kernels.DIVIDE, {"a": a, "b": b}, format, rounding, out)


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
    return _apply(kernels.SQRT, {"a": a}, format, rounding, out)


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
    return _apply(kernels.FMA, {"a": a, "b": b, "c": c}, format, rounding, out)
