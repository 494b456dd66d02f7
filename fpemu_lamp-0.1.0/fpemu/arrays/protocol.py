"""numpy's ufuncs and functions on an :class:`fpemu.Array`, as tables of implementations."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from numpy.typing import NDArray

from fpemu import arithmetic, functions
from fpemu._kernels import launching
from fpemu._kernels.scans import scan
from fpemu.accumulators import Accumulator
from fpemu.arrays.container import Array, Style, common_style
from fpemu.carriers import as_carrier, check_not_masked
from fpemu.formats import Format
from fpemu.linalg import matmul
from fpemu.rounding import round as round_into

__all__ = ["apply_function", "apply_ufunc"]

_Operation = Callable[..., Any]
_MISSING: Final = object()

# --- ufuncs ---------------------------------------------------------------------------------------


def _square(x: Any, format: Any, rounding: Any) -> Any:
    return arithmetic.multiply(x, x, format, rounding)


def _reciprocal(x: Any, format: Any, rounding: Any) -> Any:
    return arithmetic.divide(1.0, x, format, rounding)


def _power(x: Any, exponent: Any, format: Any, rounding: Any) -> Any:
    if not np.all(np.asarray(exponent) == 2):
        raise TypeError("numpy.power is emulated for the exponent 2 alone: multiply instead")
    shape = np.broadcast_shapes(np.shape(x), np.shape(exponent))
    return _square(np.broadcast_to(x, shape), format, rounding)


# Ufuncs whose exact result is rounded once: functions of values, format and rounding.
_ROUNDED: Final[dict[Any, _Operation]] = {
    np.add: arithmetic.add,
    np.subtract: arithmetic.subtract,
    np.multiply: arithmetic.multiply,
    np.divide: arithmetic.divide,
    np.sqrt: arithmetic.sqrt,
    np.square: _square,
    np.reciprocal: _reciprocal,
    np.power: _power,
    np.exp: functions.exp,
    np.exp2: functions.exp2,
    np.expm1: functions.expm1,
    np.log: functions.log,
    np.log2: functions.log2,
    np.log1p: functions.log1p,
    np.tanh: functions.tanh,
}
# Ufuncs that numpy computes exactly, of plain numbers as they are.  Rounding matters only where a
# result is not a member, such as -x in an unsigned format, or a number that was given.
_EXACT: Final = {
    np.negative,
    np.positive,
    np.absolute,
    np.fabs,
    np.maximum,
    np.minimum,
    np.fmax,
    np.fmin,
    np.sign,
    np.copysign,
    np.floor,
    np.ceil,
    np.trunc,
    np.rint,
}
# Ufuncs whose results are plain arrays.
_PLAIN: Final = {
    np.equal,
    np.not_equal,
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
    np.isnan,
    np.isinf,
    np.isfinite,
    np.signbit,
    np.logical_and,
    np.logical_or,
    np.logical_xor,
    np.logical_not,
}


def _members(style: Style, operand: Any, *labels: Any) -> NDArray[Any]:
    """The values of an array, or plain numbers rounded into the format."""
    return operand.values if isinstance(operand, Array) else style.rounded(operand, *labels)


def _exactly(operand: Any) -> NDArray[Any]:
    """The numbers of an operand, none of which is changed: float64, or integers that are wider.

    Python compares integers and floats exactly, and so numpy compares arrays of Python's objects.
    """
    check_not_masked(operand, "an operand")
    given = np.asarray(operand.values if isinstance(operand, Array) else operand)
    if given.dtype.kind == "O" and all(isinstance(x, int) for x in given.ravel().tolist()):
        return given
    try:
        return as_carrier(given).astype(np.float64)
    except ValueError:
        return given.astype(object)


def _call(ufunc: Any, inputs: tuple[Any, ...]) -> Any:
    name = ufunc.__name__
    if not any(isinstance(each, Array) for each in inputs):
        raise TypeError(f"numpy.{name} of plain numbers has no format: give it an fpemu.Array")
    style = common_style(inputs)
    if ufunc in _PLAIN:
        return _plain(ufunc, inputs)
    step = style.step(name)
    if ufunc in _EXACT:
        exact = ufunc(*map(_exactly, inputs))
        return style.wrap(step.rounded(exact.astype(np.float64)))
    if ufunc is np.power:
        operands = [_members(step, inputs[0], 0), _exactly(inputs[1])]
    else:
        operands = [_members(step, x, i) for i, x in enumerate(inputs)]
    if ufunc is np.matmul:
        return _product(style, step, *operands)
    if ufunc not in _ROUNDED:
        raise TypeError(f"numpy.{name} is not emulated: its result would be computed in float64")
    return style.wrap(_ROUNDED[ufunc](*operands, style.format, step.rounding))


def _plain(ufunc: Any, inputs: tuple[Any, ...]) -> Any:
    """A comparison or a test of numbers as they are."""
    operands = [_exactly(x) for x in inputs]
    result = ufunc(*operands)
    return result if isinstance(result, np.bool_) else np.asarray(result).astype(np.bool_)[()]


def _outer(ufunc: Any, inputs: tuple[Any, ...]) -> Any:
    left, right = inputs
    shape = np.shape(left) + (1,) * np.ndim(right)
    return _call(ufunc, (np.reshape(left, shape), right))


@launching.default_environment()
def apply_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A ufunc or one of its methods, on arrays of which at least one is an Array."""
    out = options.pop("out", (None,))[0]
    if options.pop("where", True) is not True:
        raise TypeError(f"where= is not emulated in numpy.{ufunc.__name__}: use numpy.where")
    if method in ("reduce", "accumulate") and not isinstance(inputs[0], Array):
        raise TypeError(f"numpy.{ufunc.__name__} of plain numbers has no format: use fpemu.array")
    if method == "reduce" and ufunc in _REDUCTIONS:
        result = _REDUCTIONS[ufunc](*inputs, **_reduction_options(options))
    elif method == "accumulate" and ufunc in _SCANS:
        result = _accumulated(ufunc, *inputs, **options)
    elif options:
        raise TypeError(f"numpy.{ufunc.__name__} is emulated without {', '.join(options)}")
    elif method == "__call__":
        result = _call(ufunc, inputs)
    elif method == "outer":
        result = _outer(ufunc, inputs)
    else:
        raise TypeError(f"numpy.{ufunc.__name__}.{method} is not emulated")
    return result if out is None else _store(result, out)


def _accumulated(ufunc: Any, x: Any, axis: Any = 0, dtype: Any = None) -> Array:
    if dtype is not None:
        raise TypeError("dtype= is not emulated: use astype(format)")
    if np.ndim(x) == 0:
        raise TypeError(f"{ufunc.__name__}.accumulate needs at least one dimension")
    if axis is None and np.ndim(x) != 1:
        raise ValueError(f"{ufunc.__name__}.accumulate goes along one axis, of {np.ndim(x)}")
    return _scan(x, axis, ufunc)


def _reduction_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options that numpy passes to ``ufunc.reduce``, without defaults."""
    given = dict(options)
    axis = given.pop("axis", 0)
    keepdims = given.pop("keepdims", False)
    for name in ("dtype", "initial"):
        if given.pop(name, None) not in (None, np._NoValue):
            raise TypeError(f"{name}= is not emulated in a reduction")
    if given:
        raise TypeError(f"{', '.join(given)} is not emulated in a reduction")
    return {"axis": axis, "keepdims": keepdims}


def _store(result: Any, out: Any) -> Any:
    """Store a result in ``out``, an Array of its format or a plain array for a plain result."""
    if isinstance(result, Array) != isinstance(out, Array):
        kind = "an Array" if isinstance(result, Array) else "a plain array"
        raise TypeError(f"out must be {kind}, not {type(out).__name__}")
    if not isinstance(out, Array):
        out[...] = result
        return out
    if out.format != result.format:
        raise TypeError(f"out is in {out.format}, but the result is in {result.format}")
    if out.shape != result.shape:
        raise ValueError(f"out has shape {out.shape}, but the result has shape {result.shape}")
    out.values[...] = result.values
    out.style = result.style
    return out


# --- sums and products ----------------------------------------------------------------------------


def _product(style: Style, step: Style, left: NDArray[Any], right: NDArray[Any]) -> Array:
    """The matrix product by the accumulator of a step, in the style of its operands."""
    sums = step.sums
    for operand, format in zip((left, right), sums.input_formats, strict=True):
        if format is not None and sums.convert is None:
            _check_members(operand, format, sums)
    product = matmul(left, right, sums)
    if sums.format != style.format:
        product = step.rounded(product)
    return style.wrap(product)


def _check_members(x: NDArray[Any], format: Format, sums: Accumulator) -> None:
    """Raise a ValueError for numbers that an accumulator does not take, as matmul does."""
    strange = (np.asarray(round_into(x, format, "rtz")) != x) & ~np.isnan(x)
    if strange.any():
        raise ValueError(
            f"{sums} takes members of {format}, and {x[strange][0]} is none: use "
            f"astype({str(format)!r}) first"
        )


def _rows(x: Array, axis: Any) -> tuple[NDArray[Any], tuple[int, ...], tuple[int, ...]]:
    """Rows along the axes to reduce; the result's shapes without and with these axes."""
    axes = tuple(range(x.ndim)) if axis is None else normalize_axis_tuple(axis, x.ndim)
    kept = tuple(i for i in range(x.ndim) if i not in axes)
    shape = tuple(x.shape[i] for i in kept)
    length = math.prod(x.shape[i] for i in axes)
    rows = x.values.transpose(*kept, *axes).reshape(math.prod(shape), length)
    return rows, shape, tuple(1 if i in axes else x.shape[i] for i in range(x.ndim))


def _axis_of_scalar(x: Array, axis: Any) -> Any:
    """The axis of a sum or product, of which numpy lets scalars have one."""
    return None if x.ndim == 0 and axis in (0, -1) else axis


def _sum(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    rows, shape, shape_kept = _rows(x, _axis_of_scalar(x, axis))
    total = _product(x.style, x.style.step("sum"), rows, np.ones(rows.shape[1], x.dtype))
    return total.reshape(shape_kept if keepdims else shape)


def _mean(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    if axis is not None:
        normalize_axis_tuple(axis, x.ndim)
    total = _sum(x, axis, keepdims)
    if total.size and not x.size:
        raise ValueError(f"an array of shape {x.shape} has no mean")
    count = x.size // total.size if total.size else 1
    rounding = x.style.step("mean").rounding
    return x.style.wrap(arithmetic.divide(total.values, count, x.format, rounding))


def _prod(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    rows, shape, shape_kept = _rows(x, _axis_of_scalar(x, axis))
    result = np.ones(rows.shape[0])
    if rows.shape[1]:
        result = _scanned(x.style, rows, np.multiply)[:, -1]
    return x.style.wrap(result).reshape(shape_kept if keepdims else shape)


def _extreme_of_axes(function: _Operation) -> _Operation:
    def select(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return x.style.wrap(function(x.values, axis=axis, keepdims=keepdims))

    return select


def _norm(x: Array, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Array:
    """The 2-norm of vectors: the accumulator's inner product, then the square root."""
    if ord not in (None, 2) or (ord == 2 and axis is None and x.ndim != 1):
        raise TypeError("numpy.linalg.norm is emulated for the 2-norm of vectors alone")
    rows, shape, shape_kept = _rows(x, axis)
    step = x.style.step("norm")
    squares = _product(x.style, step, rows[:, np.newaxis, :], rows[:, :, np.newaxis])
    root = cast(Array, np.sqrt(squares))
    return root.reshape(shape_kept if keepdims else shape)


def _scanned(style: Style, rows: NDArray[Any], ufunc: Any) -> NDArray[np.float64]:
    rounding = style.step("scan", ufunc.__name__).rounding
    return scan(rows, style.format, rounding, products=ufunc is np.multiply)


_SCANS: Final = {np.add, np.multiply}


def _scan(x: Array, axis: int | None, ufunc: Any) -> Array:
    flat = x.ravel() if axis is None or x.ndim == 0 else x
    place = normalize_axis_index(0 if axis is None else axis, flat.ndim)
    moved = np.moveaxis(flat.values, place, -1)
    rows = moved.reshape(math.prod(moved.shape[:-1]), moved.shape[-1])
    result = _scanned(x.style, rows, ufunc).reshape(moved.shape)
    return x.style.wrap(np.moveaxis(result, -1, place))


_REDUCTIONS: Final[dict[Any, _Operation]] = {
    np.add: _sum,
    np.multiply: _prod,
    np.maximum: _extreme_of_axes(np.max),
    np.minimum: _extreme_of_axes(np.min),
}

# --- functions ------------------------------------------------------------------------------------


def _dot(left: Any, right: Any) -> Array:
    style = common_style((left, right))
    step = style.step("dot")
    a, b = _members(step, left, 0), _members(step, right, 1)
    if a.ndim == 0 or b.ndim == 0:
        return cast(Array, np.multiply(left, right))
    if b.ndim > 2:
        raise TypeError("numpy.dot is emulated for up to two dimensions: use @")
    return _product(style, step, a, b)


def _where(condition: Any, x: Any = _MISSING, y: Any = _MISSING) -> Any:
    plain = _unwrapped(condition)
    if x is _MISSING and y is _MISSING:
        return np.where(plain)
    styled = [each for each in (x, y) if isinstance(each, Array)]
    if not styled:  # a condition alone is emulated
        return np.where(plain, x, y)
    style = common_style(styled)
    step = style.step("where")
    return style.wrap(np.where(plain, _members(step, x, 1), _members(step, y, 2)))


def _clip(
    a: Any,
    a_min: Any = None,
    a_max: Any = None,
    out: Any = None,
    *,
    min: Any = None,
    max: Any = None,
) -> Any:
    """Bounds are compared as they are, and rounded where they are taken."""
    given, named = ([x for x in pair if x is not None] for pair in ((a_min, a_max), (min, max)))
    if given and named:
        raise ValueError("numpy.clip takes a_min and a_max, or min and max, not both")
    low, high = (min, max) if named else (a_min, a_max)
    given = given or named
    style = common_style((a, *given))
    plain = [None if bound is None else _exactly(bound) for bound in (low, high)]
    clipped = np.clip(_exactly(a), *cast(Any, plain)) if given else _exactly(a)
    result = style.wrap(style.step("clip").rounded(clipped.astype(np.float64)))
    return result if out is None else _store(result, out)


def _joined(function: _Operation) -> _Operation:
    def join(arrays: Any, *arguments: Any, **options: Any) -> Array:
        style = common_style(arrays)
        step = style.step("join")
        parts = [_members(step, x, i) for i, x in enumerate(arrays)]
        return style.wrap(function(parts, *arguments, **options))

    return join


def _filled(value: float) -> _Operation:
    def fill(x: Array, shape: Any = None) -> Array:
        return _full_like(x, value, shape)

    return fill


def _full_like(x: Array, fill_value: Any, shape: Any = None) -> Array:
    style = x.style
    values = np.empty(x.shape if shape is None else shape, x.dtype)
    values[...] = _members(style.step("full"), fill_value)
    return style.wrap(values)


def _as_numpy_reduction(function: _Operation) -> _Operation:
    """A reduction with the signature of numpy's function."""

    def reduce(
        a: Array, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False
    ) -> Any:
        if dtype is not None:
            raise TypeError("dtype= is not emulated: use astype(format)")
        result = function(a, axis=axis, keepdims=keepdims is True)
        return result if out is None else _store(result, out)

    return reduce


def _extreme(function: _Operation) -> _Operation:
    def reduce(a: Array, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
        result = a.style.wrap(function(a.values, axis=axis, keepdims=keepdims is True))
        return result if out is None else _store(result, out)

    return reduce


def _cumulative(ufunc: Any) -> _Operation:
    def scan(a: Array, axis: Any = None) -> Array:
        return _scan(a, axis, ufunc)

    return scan


_FUNCTIONS: Final[dict[Any, _Operation]] = {
    np.sum: _as_numpy_reduction(_sum),
    np.mean: _as_numpy_reduction(_mean),
    np.prod: _as_numpy_reduction(_prod),
    np.max: _extreme(np.max),
    np.min: _extreme(np.min),
    np.amax: _extreme(np.max),
    np.amin: _extreme(np.min),
    np.cumsum: _cumulative(np.add),
    np.cumprod: _cumulative(np.multiply),
    np.dot: _dot,
    np.linalg.norm: _norm,
    np.outer: lambda a, b: _outer(np.multiply, (np.ravel(a), np.ravel(b))),
    np.where: _where,
    np.clip: _clip,
    np.zeros_like: _filled(0.0),
    np.ones_like: _filled(1.0),
    np.full_like: _full_like,
    np.empty_like: _filled(0.0),
    **{
        function: _joined(function)
        for function in (np.concatenate, np.stack, np.vstack, np.hstack, np.column_stack)
    },
}
# Functions that rearrange elements; some return a list of arrays.
_REARRANGEMENTS: Final = {
    np.reshape,
    np.ravel,
    np.transpose,
    np.swapaxes,
    np.moveaxis,
    np.squeeze,
    np.expand_dims,
    np.broadcast_to,
    np.atleast_1d,
    np.atleast_2d,
    np.flip,
    np.fliplr,
    np.flipud,
    np.roll,
    np.rot90,
    np.repeat,
    np.tile,
    np.take,
    np.take_along_axis,
    np.diag,
    np.diagonal,
    np.tril,
    np.triu,
    np.sort,
    np.copy,
    np.split,
    np.array_split,
}
# Functions whose results are plain arrays or Python objects.
_QUERIES: Final = {
    np.shape,
    np.ndim,
    np.size,
    np.argmax,
    np.argmin,
    np.argsort,
    np.any,
    np.all,
    np.nonzero,
    np.flatnonzero,
    np.count_nonzero,
    np.array_equal,
    np.allclose,
    np.isclose,
    np.array2string,
    np.array_repr,
    np.array_str,
}


def _unwrapped(argument: Any) -> Any:
    if isinstance(argument, Array):
        return argument.values
    if isinstance(argument, list | tuple):
        return type(argument)(map(_unwrapped, argument))
    return argument


@launching.default_environment()
def apply_function(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A function of numpy, on arrays of which at least one is an Array."""
    name = f"{function.__module__}.{function.__name__}"
    if function in _FUNCTIONS:
        emulated = _FUNCTIONS[function]
        try:
            inspect.signature(emulated).bind(*arguments, **options)
        except TypeError as error:
            raise TypeError(f"{name} is emulated without this: {error}") from None
        return emulated(*arguments, **options)
    plain = {name: _unwrapped(option) for name, option in options.items()}
    if function in _QUERIES:
        return function(*map(_unwrapped, arguments), **plain)
    if function in _REARRANGEMENTS:
        style = common_style(x for x in (*arguments, *options.values()) if isinstance(x, Array))
        moved = function(*map(_unwrapped, arguments), **plain)
        return [*map(style.wrap, moved)] if isinstance(moved, list) else style.wrap(moved)
    raise TypeError(f"{name} is not emulated: convert to plain numbers with numpy.asarray first")


Array.on_ufunc = staticmethod(apply_ufunc)
Array.on_function = staticmethod(apply_function)
