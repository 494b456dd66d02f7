"""Arithmetic on carrier values, rounded once into a format.

References
----------
IEEE Std 754-2019, sections 5.4.1 and 6.3.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

import numpy as np
from numpy.typing import ArrayLike

from fpemu import formats as _formats
from fpemu._kernels import arithmetic as kernels
from fpemu._kernels import launching
from fpemu.carriers import Carrier, as_carrier, check_out, result_dtype, same_place
from fpemu.formats import Format, FormatLike
from fpemu.rounding import Rounding, RoundingLike, as_rounding, is_for_processor, with_one_nan

__all__ = ["add", "divide", "fma", "multiply", "sqrt", "subtract"]

_OF_PROCESSOR: Final[dict[tuple[int, bool], np.ufunc]] = {
    (kernels.ADD, False): np.add,
    (kernels.ADD, True): np.subtract,
    (kernels.MULTIPLY, False): np.multiply,
    (kernels.DIVIDE, False): np.divide,
    (kernels.SQRT, False): np.sqrt,
}
"""What processors round to nearest, by operation and whether the second operand is negated."""
_MOST_AXES: Final = 3  # that a kernel walks along
_LEAST_ROW: Final = 16  # elements in a row for which a kernel is started
# The steps of three operands along one axis; no kernel writes to them.
_IN_A_ROW: Final = np.array([[0] * (_MOST_AXES - 1) + [1]] * 3, np.int64)


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
    shape = _shape(operands, arrays)
    place = None if out is None else check_out(out, shape, format)
    result, in_place = _result(arrays, shape, dtype, format, rounding, place)
    ufunc = _OF_PROCESSOR.get((operation, flip))
    if ufunc is not None and is_for_processor(format, rounding, dtype, shape):
        ufunc(*arrays, out=result, dtype=dtype)
        with_one_nan(result)
    elif rounding.is_stochastic:
        _draw(operation, arrays, flip, result, format, rounding)
    elif result.size:
        broadcast = _broadcast(arrays, shape, dtype, flip)
        kernels.apply(operation, broadcast, result.reshape(-1), in_place, format, rounding)
    _check_result(result, format)
    if place is None:
        return result[()]
    if result is not place:
        place[...] = result
    return out


def _shape(operands: dict[str, ArrayLike], arrays: list[Carrier]) -> tuple[int, ...]:
    """The shape of a result; operands of one shape are the most."""
    shape = arrays[0].shape
    if all(array.shape == shape for array in arrays):
        return shape
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in zip(operands, arrays, strict=True))
        raise ValueError(f"operands do not broadcast: {shapes}") from None


def _draw(
    operation: int,
    arrays: list[Carrier],
    flip: bool,
    result: Carrier,
    format: Format,
    rounding: Rounding,
) -> None:
    """Fill a result by stochastic rounding."""
    flat = [_flattened(array, result.shape, result.dtype) for array in arrays]
    flat += [flat[0]] * (3 - len(flat))
    steps = np.array([0 if operand.size == 1 else 1 for operand in flat])
    operands = (*flat, steps, flip)
    kernels.apply_stochastic(operation, operands, result.reshape(-1), format, rounding)


def _result(
    arrays: list[Carrier],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    format: Format,
    rounding: Rounding,
    place: Carrier | None,
) -> tuple[Carrier, bool]:
    """Where a kernel puts the result, and whether operands are there.

    That is `place` if it has the kernel's type and order, and shares elements with operands only
    where each is replaced by its own result; and if no NaN can turn out to be an error.
    """
    if (
        place is None
        or place.dtype != dtype
        or not (place.flags.c_contiguous and place.flags.aligned and format.has_nan)
        or rounding.is_stochastic
    ):
        return np.empty(shape, dtype), False
    shared = [array for array in arrays if np.may_share_memory(array, place)]
    if all(same_place(array, place) for array in shared):
        return place, bool(shared)
    return np.empty(shape, dtype), False


def _broadcast(
    arrays: list[Carrier], shape: tuple[int, ...], dtype: np.dtype[Any], flip: bool
) -> kernels.Operands:
    """Operands as a kernel takes them, copied only where their types or axes are others."""
    arrays = [array if array.dtype == dtype else array.astype(dtype) for array in arrays]
    if all(array.shape == shape and array.flags.c_contiguous for array in arrays):
        return _in_a_row(arrays, flip)
    axes = _merged_axes(arrays, shape)
    if not _are_walkable(axes):
        arrays = [_flattened(array, shape, dtype) for array in arrays]
        axes = _merged_axes(arrays, (math.prod(shape),))
    arrays += [arrays[0]] * (3 - len(arrays))
    axes = [(1, (0, 0, 0))] * (_MOST_AXES - len(axes)) + axes
    counts = tuple(count for count, _ in axes)
    steps = np.array([steps for _, steps in axes], np.int64).T
    flat = tuple(_spread(a, counts, own) for a, own in zip(arrays, steps.tolist(), strict=True))
    return kernels.Operands(flat, steps, counts, flip)


def _in_a_row(arrays: list[Carrier], flip: bool) -> kernels.Operands:
    """Operands that lie in memory alike, which most do: their axes are one."""
    counts = (1,) * (_MOST_AXES - 1) + (arrays[0].size,)
    flat = [_flat(array) for array in arrays]
    flat += [flat[0]] * (3 - len(flat))
    return kernels.Operands(tuple(flat), _IN_A_ROW, counts, flip)


_Axis = tuple[int, tuple[int, ...]]  # elements, and the step of each of three operands


def _merged_axes(arrays: list[Carrier], shape: tuple[int, ...]) -> list[_Axis]:
    """The axes of a result, those that are one in all operands merged."""
    every = [_steps(array, len(shape)) for array in arrays]
    every += [every[0]] * (3 - len(every))
    axes: list[_Axis] = []
    for count, steps in zip(shape, zip(*every, strict=True), strict=True):
        if count == 1:
            continue
        if axes and axes[-1][1] == tuple(step * count for step in steps):
            axes[-1] = (axes[-1][0] * count, steps)
        else:
            axes.append((count, steps))
    return axes


def _steps(array: Carrier, axes: int) -> list[int]:
    """How many elements of memory lie from one element to the next, 0 where it is the same."""
    size = array.itemsize  # divides the strides of an aligned array
    own = zip(array.shape, array.strides, strict=True)
    return [0] * (axes - array.ndim) + [0 if n == 1 else stride // size for n, stride in own]


def _are_walkable(axes: list[_Axis]) -> bool:
    """Whether a kernel goes along the axes in good time."""
    if len(axes) > _MOST_AXES or (len(axes) > 1 and axes[-1][0] < _LEAST_ROW):
        return False
    return all(step >= 0 for _, steps in axes for step in steps)


def _flat(array: Carrier) -> Carrier:
    """The elements of a contiguous operand, read-only."""
    flat = array.reshape(-1)
    flat.flags.writeable = False  # a kernel is compiled for either kind of array
    return flat


def _spread(array: Carrier, counts: tuple[int, ...], steps: list[int]) -> Carrier:
    """The memory from the first to the last element of an operand, read-only."""
    if array.flags.c_contiguous:
        return _flat(array)
    memory = np.lib.stride_tricks.as_strided(
        array, (kernels.span(steps, counts),), (array.itemsize,), writeable=False
    )
    return cast(Carrier, memory)


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
