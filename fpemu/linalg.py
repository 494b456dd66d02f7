"""Inner and matrix products over accumulators.

:func:`fpemu.matmul` checks its arguments, stacks the operands into three dimensions and runs the
kernel of the accumulator's class.  A kernel may keep the running sums of an element on the way,
which bound its error.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final, Literal, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu._arguments import remembered
from fpemu._kernels import (
    chains,
    defined,
    launching,
    pairwise,
    running_sums,
    sequential,
    superaccumulator,
    tensor_core,
)
from fpemu._kernels.operands import Operands, first_stranger, read_only, whole_rows
from fpemu._kernels.panels import Narrow
from fpemu.accumulators import (
    Accumulator,
    AccumulatorLike,
    Blocked,
    Chained,
    Exact,
    FlooredCore,
    Pairwise,
    Promoted,
    ScaledCore,
    Sequential,
    TensorCore,
    as_accumulator,
)
from fpemu.arithmetic import add
from fpemu.carriers import (
    Carrier,
    as_carrier,
    check_no_nan,
    check_out,
    result_dtype,
    working_dtype,
)
from fpemu.formats import Format
from fpemu.packed import Packed, operand_of
from fpemu.rounding import Rounding, RoundingLike, as_rounding
from fpemu.rounding import round as round_into

__all__ = ["RunningSums", "dot", "matmul"]


# --- running sums ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunningSums:
    """The sums of the magnitudes of all partial sums, and of their squares.

    Parameters
    ----------
    first : ndarray or scalar of float64, or None
        ``R1 = sum_l |s_l|`` over the results s_l of all roundings, rounded up; roundings with a
        unit other than the accumulator's count in proportion to it.  None if not asked for.
    second : ndarray or scalar of float64, or None
        ``R2 = sqrt(sum_l s_l**2)``, in the same way.
    roundoff : float
        The unit of the accumulator's own roundings, see :attr:`fpemu.Accumulator.roundoff`.

    Notes
    -----
    Every rounding errs by no more than its unit times its result, and additions are exact but for
    that.  So ``|computed - exact| <= roundoff * first + accumulator.underflow_bound(k)``, whatever
    the data, unless something overflows; where no infinity arises, a `first` below the format's
    largest number shows that nothing did.  ``roundoff * second / sqrt(3)`` is the standard
    deviation of the error if the errors are independent and evenly spread: a model, not a bound.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.3.
    """

    first: Any
    second: Any
    roundoff: float


_RUNNING: Final = {True: ("first", "second"), "first": ("first",), "second": ("second",)}


def _asked(running: bool | str, accumulator: Accumulator) -> tuple[str, ...]:
    """The names of the running sums that are asked for, of an accumulator that must have them."""
    if running is False:
        return ()
    names = _RUNNING.get(running) if isinstance(running, bool | str) else None
    if names is None:
        raise ValueError(f"running must be True, False, 'first' or 'second', not {running!r}")
    if not isinstance(accumulator, Sequential | Blocked | Pairwise | Exact) or (
        not isinstance(accumulator, Pairwise | Exact) and accumulator.is_stochastic
    ):
        raise TypeError(
            f"{accumulator} has no running sums: they are those of one rounding after another, "
            "and of sequential or blocked sums only where no rounding is stochastic"
        )
    return names


def _float64_product(a: Any, b: Any, operands: Operands) -> Any:
    """A product in float64, term after term: numpy's own has other bits for other layouts."""
    return sequential.product(Operands.of(a, b, None, operands.row_lengths), Sequential("float64"))


def _running_sums(
    operands: Operands, accumulator: Accumulator, asked: tuple[str, ...], shape: tuple[int, ...]
) -> RunningSums:
    """R1 and R2 from what a kernel has put into `operands`: the magnitudes and squares of its sums.

    Kernels leave out two kinds of roundings.  Those of products err by no more than their unit
    times the exact product.  Those into the format of `via` have results that are no larger than
    the sums by more than a factor ``1 / (1 - e)``.
    """
    first, squares = operands.running
    inner = accumulator.inner if isinstance(accumulator, Blocked) else accumulator
    if isinstance(inner, Sequential) and inner.via is not None:
        share = Sequential(inner.via, inner.rounding).roundoff / inner.roundoff
        first *= 1.0 + share / (1.0 - inner.roundoff)
        squares *= 1.0 + share * share
    if isinstance(inner, Sequential | Pairwise) and not inner.fused:
        product = Sequential(inner.product or inner.format, inner.rounding)
        share = product.roundoff / accumulator.roundoff
        a, b = np.abs(operands.a.astype(np.float64)), np.abs(operands.b.astype(np.float64))
        with np.errstate(over="ignore", invalid="ignore"):
            first += share * _float64_product(a, b, operands)
            squares += share**2 * _float64_product(a * a, b * b, operands)
    # The factor is more than the roundings of all these sums take away.
    running_sums.finish(operands, 1.0 + (4.0 * operands.steps + 64.0) * 2.0**-53)
    found = {
        name: sums.reshape(shape)[()]
        for name, sums in (("first", first), ("second", squares))
        if name in asked
    }
    return RunningSums(found.get("first"), found.get("second"), accumulator.roundoff)


# --- products -------------------------------------------------------------------------------------


def _promoted_product(operands: Operands, accumulator: Promoted) -> Carrier:
    """Block by block: the inner accumulator's product, added to the outer accumulators."""
    inner, format, block = accumulator.inner, accumulator.format, accumulator.block
    if isinstance(inner, Sequential) and not accumulator.is_stochastic:
        blocked = Blocked(format, block, inner, accumulator.rounding)
        return sequential.blocked_product(operands, blocked)
    total: Any = np.zeros(operands.shape) if operands.initial is None else operands.initial
    product = _product_of(inner)
    assert product is not None  # as checked for its parts
    for first in range(0, operands.steps, block):
        terms = slice(first, first + block)
        part = replace(operands, a=operands.a[:, :, terms], b=operands.b[:, terms], initial=None)
        # Every block draws random bits of its own.
        inner_sums = product(part, inner.derived("interval", first))
        total = add(total, inner_sums, format, accumulator.rounding.derived("interval", first))
    beyond = np.arange(operands.shape[2]) >= operands.row_lengths[:, None]
    return cast(Carrier, np.where(beyond, 0.0, total))


# The kernels by accumulator; each gives the product in the carrier it is computed in.
_PRODUCTS: Final[dict[type, Callable[[Operands, Any], Carrier]]] = {
    Sequential: sequential.product,
    Blocked: sequential.blocked_product,
    Pairwise: pairwise.product,
    Chained: chains.product,
    Exact: superaccumulator.product,
    TensorCore: tensor_core.product,
    FlooredCore: tensor_core.floored_product,
    Promoted: _promoted_product,
}


def _product_of(accumulator: Accumulator) -> Callable[[Operands, Any], Carrier] | None:
    """What computes products by an accumulator: its own definition, or that of its class."""
    if isinstance(accumulator, Accumulator) and accumulator.has_definition():
        return _own_product
    return next((_PRODUCTS[kind] for kind in type(accumulator).__mro__ if kind in _PRODUCTS), None)


@functools.lru_cache(maxsize=64)
def _compiled(accumulator: Accumulator) -> Any:
    """The compiled inner product of equal accumulators, or None."""
    function = accumulator.compiled()
    reason = None if function is None else defined.compilable(function)
    if reason is not None:
        raise TypeError(
            f"{type(accumulator).__name__}.compiled() must return a function compiled by "
            f"numba.njit that takes two float64 vectors and a float64: {reason}"
        )
    return function


def _own_product(operands: Operands, accumulator: Accumulator) -> Carrier:
    """The product by an accumulator's own definition, compiled if it has it so."""
    compiled = _compiled(accumulator)
    product = (
        _defined_product(operands, accumulator)
        if compiled is None
        else defined.product(operands, compiled)
    )
    found = _first_stranger(product, accumulator.format)
    if found is not None:
        raise ValueError(
            f"{type(accumulator).__name__} gives {product[found]} for element {list(found)}, which "
            f"is not a member of its {accumulator.format}"
        )
    return product


def _defined_product(operands: Operands, accumulator: Accumulator) -> NDArray[np.float64]:
    """Element by element, in rational numbers; where a term is not finite, by IEEE 754."""
    out = np.zeros(operands.shape)
    initial = np.zeros(operands.shape) if operands.initial is None else operands.initial
    for batch in range(out.shape[0]):
        rows, columns = operands.a[batch], operands.b[batch].T
        exact_rows, exact_columns = ([_exactly(x) for x in side] for side in (rows, columns))
        for i, left in enumerate(exact_rows):
            for j, right in enumerate(exact_columns[: operands.row_lengths[i]]):
                begin = float(initial[batch, i, j])
                if left is None or right is None or not math.isfinite(begin):
                    out[batch, i, j] = _special_sum(rows[i], columns[j], begin)
                else:
                    given = accumulator.inner_product(left, right, Fraction(begin))
                    out[batch, i, j] = _as_float(given, accumulator)
    return out


def _as_float(given: Any, accumulator: Accumulator) -> float:
    """What a definition gives, if it is a float64 number."""
    try:
        number = float(given)
        exact = not math.isfinite(number) or number == given
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise ValueError(
            f"{type(accumulator).__name__}.inner_product() must return a member of "
            f"{accumulator.format}, not {given!r:.80}"
        )
    return number


def _exactly(vector: Any) -> list[Fraction] | None:
    """A vector in rational numbers, if all of it is finite."""
    numbers = vector.tolist()
    return [Fraction(x) for x in numbers] if all(map(math.isfinite, numbers)) else None


def _special_sum(a: Any, b: Any, begin: float) -> float:
    """The sum of what is not finite among the terms: an infinity or NaN."""
    terms = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    special = terms[~(np.isfinite(a) & np.isfinite(b))]
    return float(special.sum() + (0.0 if math.isfinite(begin) else begin))


def _check_row_lengths(row_lengths: ArrayLike | None, rows: int, columns: int) -> NDArray[np.int64]:
    if row_lengths is None:
        return whole_rows(rows, columns)
    lengths = np.asarray(row_lengths)
    if lengths.dtype.kind not in "iu" or lengths.shape != (rows,):
        raise ValueError(
            f"row_lengths must be {rows} integers, one a row of the result, not an array of "
            f"{lengths.dtype} with shape {lengths.shape}"
        )
    if lengths.size and (lengths.min() < 0 or lengths.max() > columns):
        raise ValueError(
            f"row_lengths must lie in 0..{columns}, not {lengths.min()}..{lengths.max()}"
        )
    return lengths.astype(np.int64)


def _first_stranger(x: Carrier, format: Format) -> tuple[int, ...] | None:
    """The index of the first number that is not a member of a format, if there is one."""
    dtype = working_dtype(format, result_dtype(format, x))
    found = first_stranger(read_only(x, dtype).reshape(-1), format, Rounding())
    return None if found < 0 else tuple(int(i) for i in np.unravel_index(found, x.shape))


def _members(x: Carrier, format: Format | None, rounding: Rounding | None, name: str) -> Carrier:
    """The numbers themselves if they are members of a format, or rounded into it if that is asked.

    Raises
    ------
    ValueError
        If a number is not a member and there is no rounding, naming the first.
    """
    if format is None:
        return x
    if rounding is not None:
        return cast(Carrier, round_into(x, format, rounding))
    check_no_nan(x, format, name)
    index = _first_stranger(x, format)
    if index is not None:
        raise ValueError(
            f"{name}{list(index)} is {x[index]}, which is not a member of {format}: round it, or "
            "say convert='rne'"
        )
    return x


def _matrices(a: Carrier, b: Carrier) -> tuple[Any, Any, tuple[int, ...], tuple[int, ...]]:
    """Both operands as stacks of matrices, the shape of the stack, the shape of the result."""
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("matmul does not take scalars: a and b need at least one dimension")
    left = a[np.newaxis, :] if a.ndim == 1 else a
    right = b[:, np.newaxis] if b.ndim == 1 else b
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(
            f"shapes {a.shape} of a and {b.shape} of b do not match: "
            f"{left.shape[-1]} columns against {right.shape[-2]} rows"
        )
    batch = left.shape[:-2]
    if batch != right.shape[:-2]:
        try:
            batch = np.broadcast_shapes(batch, right.shape[:-2])
        except ValueError as error:
            raise ValueError(
                f"batch shapes of a {a.shape} and b {b.shape} do not broadcast"
            ) from error
    shape = batch + left.shape[-2:-1] * (a.ndim > 1) + right.shape[-1:] * (b.ndim > 1)
    return left, right, batch, shape


def _initial(c: ArrayLike | None, shape: tuple[int, ...], format: Format, mode: Any) -> Any:
    """What the sums begin with, checked and broadcast to the shape of the result, or None."""
    if c is None:
        return None
    initial = _members(as_carrier(c, "c"), format, mode, "c")
    try:
        return np.broadcast_to(initial, shape)
    except ValueError as error:
        raise ValueError(
            f"shape {initial.shape} of c does not broadcast to {shape}, that of the result"
        ) from error


@overload
def matmul(
    a: ArrayLike,
    b: ArrayLike | Packed,
    accumulator: AccumulatorLike,
    *,
    c: ArrayLike | None = ...,
    convert: RoundingLike | None = ...,
    out: Carrier | None = ...,
    row_lengths: ArrayLike | None = ...,
    running: Literal[False] = ...,
) -> Any: ...


@overload
def matmul(
    a: ArrayLike,
    b: ArrayLike | Packed,
    accumulator: AccumulatorLike,
    *,
    c: ArrayLike | None = ...,
    convert: RoundingLike | None = ...,
    out: Carrier | None = ...,
    row_lengths: ArrayLike | None = ...,
    running: Literal[True, "first", "second"],
) -> tuple[Any, RunningSums]: ...


@launching.default_environment()
def matmul(
    a: ArrayLike,
    b: ArrayLike | Packed,
    accumulator: AccumulatorLike,
    *,
    c: ArrayLike | None = None,
    convert: RoundingLike | None = None,
    out: Carrier | None = None,
    row_lengths: ArrayLike | None = None,
    running: bool | Literal["first", "second"] = False,
) -> Any:
    """Matrix product whose sums are formed by an accumulator.

    Parameters
    ----------
    a, b : array_like
        Shapes (..., m, k) and (..., k, n), or (k,), with numpy.matmul's rules.  Any carrier values
        for an accumulator without input formats, else members of those.  `b` may be a
        :class:`fpemu.Packed` matrix.
    accumulator : Accumulator, Format, str or dtype
        How each inner product is summed; a format stands for ``Sequential(format)``.
    c : array_like, optional
        What the sums begin with, broadcast to the result's shape: members of the accumulator's
        `initial_format`.  Left out, they begin with +0.
    convert : Rounding or str, optional
        How to round elements of `a`, `b` and `c` that are not members of the accumulator's formats.
        Left out, they are an error, unless the accumulator has a conversion of its own.
    out : ndarray, optional
        Where to put the result.
    row_lengths : array_like of int, shape (m,), optional
        How many leading columns of each row to compute; the others are +0.  A causal attention
        needs ``arange(1, m + 1)``.
    running : bool, "first" or "second"
        Whether to keep the sums of the magnitudes of all partial sums (``"first"``), which bound
        the error of each element, and of their squares (``"second"``), which model it.  One of
        them takes less time than both.

    Returns
    -------
    ndarray or scalar
        Members of the accumulator's format: float32 if `a` and `b` are and the format fits, else
        float64.  The same bits for any number of threads and any memory layout.
    RunningSums
        Only with `running`; arrays of the shape of the product.

    Raises
    ------
    ValueError
        If the shapes do not match, an element is not a member of its format, a NaN arises in a
        format without NaN, or `running` is none of its values.
    TypeError
        If `accumulator` is not one, or has no running sums though they are asked for, or `a`, `b`
        or `c` does not hold real numbers.

    Examples
    --------
    >>> import fpemu
    >>> a = [[1.0, 2.0**-8], [3.0, 4.0]]
    >>> fpemu.matmul(a, a, fpemu.Sequential("e8m7"))
    array([[ 1.015625 ,  0.01953125],
           [15.       , 16.       ]])

    The partial sums of an element, here 3 and 15, bound its error by 2**-8 times their sum:

    >>> product, running = fpemu.matmul(a, a, fpemu.Sequential("e8m7"), running=True)
    >>> round(running.first[1, 0]), running.roundoff == 2.0**-8
    (18, True)
    """
    sums: Accumulator = as_accumulator(accumulator)
    product = _checked_product(sums)
    asked = _asked(running, sums)
    right_given: Any = b
    if isinstance(b, Packed) and not (
        Packed.is_read_by(sums)
        and not asked
        and row_lengths is None
        and _holds(sums.input_formats[1], b.format)
    ):
        right_given = b.numbers()
    narrow = operand_of(right_given)
    carriers = as_carrier(a, "a"), as_carrier(right_given, "b") if narrow is None else right_given
    left, right, batch, shape = _matrices(*carriers)
    place = None if out is None else check_out(out, shape, sums.format)
    given = None if convert is None else as_rounding(convert)
    a_format, b_format = sums.input_formats
    left = _members(left, a_format, given or sums.convert, "a")
    # Packed numbers of the unit's format are members.
    if narrow is None and not (isinstance(b, Packed) and b.format == b_format):
        right = _members(right, b_format, given or sums.convert, "b")
    initial = _initial(c, shape, sums.initial_format, given)
    operands = _stacked(left, right if narrow is None else narrow, initial, batch, row_lengths)
    if asked:  # zeros that are not written take no memory
        operands = replace(operands, running=np.zeros((2, *operands.shape)), asked=asked)
    found = product(operands, sums).reshape(shape)
    result = _result(found, sums, carriers, place)
    if place is not None:
        result = out
    return (result, _running_sums(operands, sums, asked, shape)) if asked else result


def _holds(format: Format | None, packed: Format) -> bool:
    """Whether all finite members of a packed format are members of another; None takes any."""
    return format is None or (
        format.precision >= packed.precision
        and format.quantum_exponent <= packed.quantum_exponent
        and format.max_finite >= packed.max_finite
        and format.signed
        and format.subnormals
        and format.has_negative_zero
    )


@remembered
def _checked_product(accumulator: Any) -> Callable[[Operands, Any], Carrier]:
    """What computes products by an accumulator; a TypeError if nothing does."""
    if isinstance(accumulator, ScaledCore):
        raise TypeError(f"{accumulator} takes operands with scales: use fpemu.scaling.matmul")
    parts = accumulator.parts() if isinstance(accumulator, Accumulator) else [accumulator]
    for part in parts:
        if not isinstance(part, Accumulator) or _product_of(part) is None:
            raise TypeError(
                "accumulator must be an accumulator such as Sequential('e8m7'), or one of your own "
                f"with an inner_product, not {type(part).__name__} {str(part)[:60]!r}"
            )
        if not part.has_definition():
            continue
        if type(part).__hash__ is None:
            raise TypeError(f"{type(part).__name__} must be a frozen dataclass: it has no hash")
        if part.is_stochastic:
            raise TypeError(
                f"{type(part).__name__} has a stochastic rounding, but there are no random bits "
                "for accumulators of one's own"
            )
    product = _product_of(accumulator)
    assert product is not None
    return product


def _result(
    product: Carrier, accumulator: Accumulator, carriers: tuple[Carrier, ...], out: Carrier | None
) -> Any:
    """A product in the carrier that is due, or in `out`."""
    format = accumulator.format
    if not format.has_nan and np.isnan(product).any():
        raise ValueError(f"a sum is NaN, but the accumulator's {format} has no NaN")
    if out is None:
        return product.astype(result_dtype(format, *carriers), copy=False)[()]
    out[...] = product
    return out


def _stacked(
    left: Any, right: Any, initial: Any, batch: tuple[int, ...], row_lengths: ArrayLike | None
) -> Operands:
    """The operands of the kernels: three-dimensional."""
    (rows, steps), columns = left.shape[-2:], right.shape[-1]
    if isinstance(right, Narrow) or (right.ndim == 2 and row_lengths is None):
        # One matrix on the right: the batch is just more rows.
        left = left.reshape(1, math.prod(left.shape[:-1]), steps)
        right = right if isinstance(right, Narrow) else right[np.newaxis]
        lengths = whole_rows(left.shape[1], columns)
    else:
        lengths = _check_row_lengths(row_lengths, rows, columns)
        size = math.prod(batch)
        left = np.broadcast_to(left, (*batch, rows, steps)).reshape(size, rows, steps)
        right = np.broadcast_to(right, (*batch, steps, columns)).reshape(size, steps, columns)
    if initial is not None:
        initial = np.ascontiguousarray(initial).reshape(left.shape[0], left.shape[1], columns)
    return Operands.of(left, right, initial, lengths)


@launching.default_environment()
def dot(
    a: ArrayLike,
    b: ArrayLike,
    accumulator: AccumulatorLike,
    *,
    c: ArrayLike | None = None,
    convert: RoundingLike | None = None,
) -> Any:
    """Inner product whose sum is formed by an accumulator.

    Parameters
    ----------
    a, b : array_like
        Vectors of the same length; matrices as in :func:`matmul`.
    accumulator : Accumulator, Format, str or dtype
        How the terms are summed; a format stands for ``Sequential(format)``.
    c, convert
        As in :func:`matmul`.

    Returns
    -------
    scalar or ndarray
        As for :func:`matmul`.

    Raises
    ------
    ValueError
        If the lengths differ, an argument has more than two dimensions, or as for :func:`matmul`.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.dot([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], "float8_e4m3fn")
    np.float64(32.0)
    """
    left, right = as_carrier(a, "a"), as_carrier(b, "b")
    if max(left.ndim, right.ndim) > 2:
        raise ValueError(
            f"dot takes vectors and matrices, not shapes {left.shape} and {right.shape}: use matmul"
        )
    return matmul(left, right, accumulator, c=c, convert=convert)


# --- sums along rows ------------------------------------------------------------------------------

_ROWS_TOGETHER: Final = 64  # columns that product kernels work on at once


def row_sums(rows: Carrier, accumulator: Accumulator) -> Any:
    """The inner product of each row with ones, the axis kept.

    Rows become columns, because product kernels work on many columns at once.
    """
    terms = rows.shape[-1]
    count = math.prod(rows.shape[:-1])
    width = max(1, min(count, _ROWS_TOGETHER))
    groups = -(-count // width)
    columns = np.zeros((groups, width, terms), rows.dtype)
    columns.reshape(groups * width, terms)[:count] = rows.reshape(count, terms)
    sums = matmul(np.ones(terms, rows.dtype), columns.transpose(0, 2, 1), accumulator)
    return sums.reshape(-1)[:count].reshape(*rows.shape[:-1], 1)


def row_sums_of_squares(rows: Carrier, accumulator: Accumulator) -> Any:
    """The inner product of each row with itself, the axis kept."""
    # Squares of float32 numbers are exact in float64, and these accumulators use only the product.
    # Tensor cores also use the exponents of both factors.
    if rows.dtype == np.float32 and isinstance(accumulator, Sequential | Blocked):
        wide = rows.astype(np.float64)
        sums = row_sums(wide * wide, accumulator)
        return sums.astype(result_dtype(accumulator.format, rows), copy=False)
    return matmul(rows[..., np.newaxis, :], rows[..., np.newaxis], accumulator)[..., 0]
