"""The steps of a transformer around attention: matrix products, norms, activations, sums.

Kernels compute in float64, in a fixed order, and the result is rounded once as the step says.  No
function of the platform's mathematical library is part of a result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Format, Rounding, Sequential, formats, scaling
from fpemu._kernels import launching
from fpemu.scaling import BlockFormat, Scaled
from lamp._kernels import activations
from lamp._kernels.rows import mapped, total
from lamp._kernels.transformer import norm_rows, scaled_rows
from lamp.machines import Function, Operand, Product, Sum
from lamp.models import packed

__all__ = [
    "MANY_ROWS",
    "Checked",
    "Matrix",
    "Norm",
    "activation",
    "add",
    "checked_linear",
    "holds",
    "left_operand",
    "linear",
    "multiply",
    "norm",
    "overflowed",
    "products",
    "right_operand",
    "round_into",
    "sums_are_output",
    "written_type",
]

_COST: Final = 1.0  # nanoseconds of an element
_TOGETHER: Final = 2**18  # elements that are computed before they are rounded
MANY_ROWS: Final = 64  # rows whose product takes far longer than rounding the weights
_PART: Final = 2**20  # weights whose rounded numbers stay in a cache until they are multiplied
_PANEL: Final = 64  # columns that kernels take together
_NEAREST: Final = Rounding()


# --- operands -------------------------------------------------------------------------------------


class Matrix:
    """The weights of a linear layer.

    Large weights of a narrow format are held by codes of one or two bytes.  The operand of a step
    is kept in the same way for the next product.  An operand that takes more than two bytes per
    number is kept by products with few rows alone: others take far longer than rounding the
    weights.

    Parameters
    ----------
    weight : ndarray, shape (inputs, outputs), or None
        None in a subclass that makes its numbers when they are asked for.
    bias : ndarray, shape (outputs,), optional
    format : Format
        The format that the weights are members of.
    """

    def __init__(
        self, weight: NDArray[Any] | None, bias: NDArray[Any] | None, format: Format
    ) -> None:
        self._weight: Any = weight
        self._type = None if weight is None else weight.dtype
        if weight is not None and packed.is_worth_it(weight.size):
            self._weight = packed.narrowest(weight, format)
        self.bias, self.format = bias, format
        self._kept: tuple[Any, Operand] | None = None

    @property
    def weight(self) -> NDArray[Any]:
        """The numbers of the machine."""
        return packed.numbers(self._weight).astype(self._type, copy=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        inputs, outputs = self._weight.shape
        return inputs, outputs

    @property
    def size(self) -> int:
        """The number of weights, which is that of multiply-adds per row."""
        return math.prod(self.shape)

    def is_operand(self, step: Product) -> bool:
        """Whether a step takes the weights as they are."""
        return step.operands is None or (step.operands == self.format and step.scaling == "none")

    def operand(self, step: Product) -> Operand:
        """The numbers of the weights as the right operand of a step."""
        return self._taken(step, self.weight)

    def columns(self, part: slice) -> NDArray[Any]:
        """Some columns of the weights; a part begins with a multiple of 64."""
        found = packed.columns(Operand(self._weight), part).values
        return packed.numbers(found).astype(self._type, copy=False)

    def parts(self, step: Product, rows: int) -> Iterator[tuple[slice, Operand]]:
        """The weights as right operands of a step, some columns at a time where bits allow it.

        A part is rounded and put into a kernel's order while it is in a cache, and takes little
        memory.  What a product reads as it lies is taken as a whole.
        """
        few = rows < MANY_ROWS
        ready = self._ready(step, few)
        if ready is not None and packed.reads_codes(step):
            yield slice(0, self.shape[1]), packed.unpacked(ready)
            return
        scale = None if ready is not None else self._scale(step)
        for part in self._cuts(step):
            if ready is not None:
                yield part, packed.unpacked(packed.columns(ready, part))
            else:
                yield part, self._taken(step, self.columns(part), scale)

    def _taken(self, step: Product, numbers: NDArray[Any], scale: float | None = None) -> Operand:
        """Numbers of the weights as a step takes them."""
        return Operand(numbers) if self.is_operand(step) else right_operand(numbers, step, scale)

    def _scale(self, step: Product) -> float | None:
        """The scale of all weights, for steps that have one, without all numbers at a time."""
        if not has_scale(step):
            return None
        largest = (np.max(np.abs(self.columns(part)), initial=0.0) for part in self._cuts(step))
        return scale_of(float(max(largest)), step)

    def _cuts(self, step: Product) -> list[slice]:
        """Columns that are taken together."""
        inputs, outputs = self.shape
        width = max(1, _PART // (inputs * _PANEL)) * _PANEL
        if width >= outputs or not columns_apart(step):
            return [slice(0, outputs)]
        return [slice(i, min(i + width, outputs)) for i in range(0, outputs, width)]

    def _ready(self, step: Product, few: bool) -> Operand | None:
        """The weights as a step takes them, if they are in memory, or are kept for few rows."""
        if self.is_operand(step):
            numbers = self._numbers(few)
            return None if numbers is None else Operand(numbers)
        key = step.operands, step.rounding, step.scaling, step.block
        kept = self._kept  # read once: another thread may change it
        if kept is not None and kept[0] == key:
            return kept[1]
        self._kept = None
        if not (few or self._keeps(step)):
            return None
        scale = self._scale(step)
        parts = [self._narrow(step, self.columns(part), scale) for part in self._cuts(step)]
        self._kept = key, packed.joined(parts)
        return self._kept[1]

    def _keeps(self, step: Product) -> bool:
        """Whether products with many rows keep the operand, too: a byte or two per number."""
        # Weights that are made when they are asked for take no memory: only a block format, into
        # which it takes as long to bring them as to multiply them, is worth some.
        quantizes = isinstance(step.operands, BlockFormat)
        return packed.is_narrow(step, self.size) and (quantizes or self._weight is not None)

    def _numbers(self, few: bool) -> Any:
        """The weights if they are in memory; None in a subclass that makes them."""
        return self._weight

    def _narrow(self, step: Product, numbers: NDArray[Any], scale: float | None) -> Operand:
        """Columns as a step takes them, in the width of their format."""
        operand = right_operand(numbers, step, scale)
        return packed.packed(operand, step) if packed.is_worth_it(self.size) else operand

    @functools.cached_property
    def row_norms(self) -> NDArray[np.float64]:
        """2-norms of the rows: how much the output changes with each input."""
        return np.sqrt(total(np.square(self.weight, dtype=np.float64)))[:, 0]


def left_operand(a: NDArray[Any], step: Product) -> Operand:
    """The left operand of a product, rounded; a scale is one of a row or of a block of a row.

    Parameters
    ----------
    a : ndarray, shape (..., m, k)
    step : Product

    Returns
    -------
    Operand
    """
    return _operand(a, step, -1, step.scale)


def right_operand(b: NDArray[Any], step: Product, scale: float | None) -> Operand:
    """The right operand of a product, rounded; a scale is one of a column or of a block of it.

    Parameters
    ----------
    b : ndarray, shape (..., k, n)
    step : Product
    scale : float or None
        The scale of the whole operand, for steps that have one; None to compute it from `b`.

    Returns
    -------
    Operand
    """
    return _operand(b, step, -2, scale)


def _operand(x: NDArray[Any], step: Product, axis: int, scale: float | None) -> Operand:
    """An operand whose inner products run along `axis`."""
    if step.operands is None:
        return Operand(x)
    if isinstance(step.operands, BlockFormat):
        return _block_operand(x, step, axis, scale)
    if step.scaling == "none":
        return Operand(fpemu.round(x, step.operands, step.rounding))
    if step.scaling == "tensor":
        scales: Any = _scales(x, step.operands, None) if scale is None else np.float32(scale)
        divisors = scales
    elif step.scaling == "row":
        divisors = scales = _scales(x, step.operands, axis)
    else:
        starts = range(0, x.shape[axis], step.block)
        blocks = np.split(x, starts[1:], axis)
        scales = np.concatenate([_scales(block, step.operands, axis) for block in blocks], axis)
        widths = [block.shape[axis] for block in blocks]
        divisors = np.repeat(scales, widths, axis)
    return Operand(fpemu.divide(x, divisors, step.operands, step.rounding), scales)


def has_scale(step: Product) -> bool:
    """Whether the right operand of a step has a scale as a whole."""
    block_scaled = isinstance(step.operands, BlockFormat) and step.operands.tensor_scale
    return bool(block_scaled or step.scaling == "tensor")


def scale_of(largest: float, step: Product) -> float:
    """The scale of a right operand as a whole, from its largest magnitude."""
    number = np.array([largest])
    if isinstance(step.operands, BlockFormat):
        return scaling.quantize(number, step.operands).tensor_scale
    return float(_scales(number, step.operands, None))


def _block_operand(x: NDArray[Any], step: Product, axis: int, scale: float | None) -> Operand:
    """An operand in a block format, matrix by matrix."""
    matrices = x.reshape(-1, *x.shape[-2:])
    options: dict[str, Any] = {"axis": axis, "rounding": step.rounding, "tensor_scale": scale}
    return Operand(tuple(scaling.quantize(each, step.operands, **options) for each in matrices))


def _scales(x: NDArray[Any], format: Format, axis: int | None) -> Any:
    """Scales that divide the largest magnitude into the largest number of a format, or are 1."""
    largest = np.max(np.abs(x), axis=axis, keepdims=axis is not None, initial=0.0)
    usable = np.where((largest > 0) & np.isfinite(largest), largest, format.max_finite)
    scales = fpemu.divide(usable, format.max_finite, "float32", "rtp")
    return np.maximum(scales, formats.float32.smallest_normal).astype(np.float32)


# --- matrix products ------------------------------------------------------------------------------


def products(
    a: Operand, b: Operand, step: Product, lengths: NDArray[np.int64] | None = None
) -> NDArray[Any]:
    """The sums of a matrix product as a step forms them, before they are rounded into its output.

    Parameters
    ----------
    a, b : Operand
        Of shapes (..., m, k) and (..., k, n).
    step : Product
    lengths : ndarray of int64, shape (m,), optional
        The number of leading columns to compute in each row; the rest are +0.

    Returns
    -------
    ndarray, shape (..., m, n)
        Members of the accumulator's format, or float32 numbers where operands have scales.
    """
    if isinstance(step.operands, BlockFormat):
        pairs = zip(a.values, b.values, strict=True)
        sums = [_block_scaled(x, y, step, lengths) for x, y in pairs]
        return sums[0] if len(sums) == 1 else np.stack(sums)
    if step.scaling == "none":
        return np.asarray(fpemu.matmul(a.values, b.values, step.accumulator, row_lengths=lengths))
    return _scaled(a, b, step, lengths)


def _block_scaled(
    a: Scaled, b: Scaled, step: Product, lengths: NDArray[np.int64] | None
) -> NDArray[Any]:
    sums = np.asarray(scaling.matmul(a, b, step.accumulator))
    if lengths is None:
        return sums
    return np.where(np.arange(sums.shape[1]) < lengths[:, np.newaxis], sums, sums.dtype.type(0))


def _scaled(
    a: Operand, b: Operand, step: Product, lengths: NDArray[np.int64] | None
) -> NDArray[Any]:
    """Sums times the scales of their operands, block by block, added in float32."""
    terms = a.values.shape[-1]
    width = step.block if step.scaling == "block" else terms
    right = packed.numbers(b.values) if width < terms else b.values
    result: Any = None
    for index, first in enumerate(range(0, terms, width)):
        part = slice(first, first + width)
        x, y = a.values[..., part], right if width >= terms else right[..., part, :]
        x_scales, y_scales = a.scales, b.scales
        if step.scaling == "block":
            here = slice(index, index + 1)
            x_scales, y_scales = x_scales[..., here], y_scales[..., here, :]
        sums = fpemu.matmul(x, y, step.accumulator, row_lengths=lengths)
        scaled = _times_scales(sums, x_scales, y_scales)
        result = scaled if result is None else fpemu.add(result, scaled, formats.float32)
    return np.asarray(result)


def _times_scales(sums: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Sums times the scales of their rows and columns, in float32; `sums` may be written."""
    if sums.dtype == np.float32 and sums.flags.c_contiguous and sums.size:
        *batch, rows, columns = sums.shape
        launching.run(
            scaled_rows,
            sums.size // columns,
            sums.reshape(-1, columns),
            *launching.reading(
                np.broadcast_to(left, (*batch, rows, 1)).reshape(-1),
                np.broadcast_to(right, (*batch, 1, columns)).reshape(-1, columns),
            ),
            cost=_COST * columns,
        )
        return sums
    both = np.multiply(left, right, dtype=np.float64)  # exact, of two float32 numbers
    return np.asarray(fpemu.multiply(sums, both, formats.float32))


def columns_apart(step: Product) -> bool:
    """Whether a column of a product depends on its own column of the right operand alone.

    It does not if random bits go by places.  A scale of the whole operand is found before.
    """
    return not step.is_stochastic


def sums_are_output(step: Product) -> bool:
    """Whether rounding the sums of a product into its output changes nothing."""
    has_scales = step.scaling != "none" or isinstance(step.operands, BlockFormat)
    saturates = step.rounding.overflow in ("saturate", "propagate")
    return bool(step.output == step.accumulator.format and not has_scales and not saturates)


def holds(array: NDArray[Any], format: Format) -> bool:
    """Whether the numbers of a format are numbers of an array's type."""
    return bool(array.dtype == np.float64 or format.carrier == np.float32)


def overflowed(x: NDArray[Any], format: Format) -> NDArray[np.bool_]:
    """Which numbers may have overflowed in a format: its largest finite number, infinities, NaN."""
    most = format.max_finite
    inside = x < most
    inside &= x > -most
    return np.asarray(~inside)


def linear(x: NDArray[Any], matrix: Matrix, step: Product) -> NDArray[Any]:
    """``x @ weight + bias``, the exact sum of product and bias rounded once.

    Parameters
    ----------
    x : ndarray, shape (rows, inputs)
    matrix : Matrix
    step : Product

    Returns
    -------
    ndarray, shape (rows, outputs)
        Members of the step's output format, in the type of `x`.
    """
    sums = _sums(x, matrix, step)
    return _add_bias(sums, matrix, step, x, sums if holds(sums, step.output) else None)


class Checked(NamedTuple):
    """The components of a product, and which of them may have overflowed."""

    values: NDArray[Any]
    overflow: NDArray[np.bool_]


def checked_linear(x: NDArray[Any], matrix: Matrix, step: Product) -> Checked:
    """:func:`linear`, with the components that may have overflowed in accumulator or output.

    Parameters
    ----------
    x : ndarray, shape (rows, inputs)
    matrix : Matrix
    step : Product

    Returns
    -------
    values : ndarray, shape (rows, outputs)
    overflow : ndarray of bool, shape (rows, outputs)
    """
    sums = _sums(x, matrix, step)
    values = _add_bias(sums, matrix, step, x)
    overflow = overflowed(sums, step.accumulator.format) | overflowed(values, step.output)
    return Checked(values, overflow)


def _sums(x: NDArray[Any], matrix: Matrix, step: Product) -> NDArray[Any]:
    left, rows = left_operand(x, step), len(x)
    found = ((part, products(left, operand, step)) for part, operand in matrix.parts(step, rows))
    part, sums = next(found)
    outputs = matrix.shape[1]
    if part.stop == outputs:
        return sums
    out = np.empty((rows, outputs), x.dtype if holds(x, step.accumulator.format) else sums.dtype)
    out[:, part] = sums
    for part, sums in found:
        out[:, part] = sums
    return out


def _add_bias(
    sums: NDArray[Any],
    matrix: Matrix,
    step: Product,
    x: NDArray[Any],
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Sums and the bias in the step's output, in the type of `x`; `out` may be the sums."""
    if matrix.bias is not None:
        return _as_type(fpemu.add(sums, matrix.bias, step.output, step.rounding, out=out), x)
    if sums_are_output(step):
        return _as_type(sums, x)
    return _as_type(fpemu.round(sums, step.output, step.rounding, out=out), x)


# --- elementwise sums and products ----------------------------------------------------------------


def add(x: NDArray[Any], y: NDArray[Any], step: Sum) -> NDArray[Any]:
    """``x + y``, rounded once.

    Parameters
    ----------
    x, y : ndarray, of one shape
    step : Sum

    Returns
    -------
    ndarray
        Members of the step's output format, in the type of `x`.
    """
    return _as_type(fpemu.add(x, y, step.output, step.rounding), x)


def multiply(x: NDArray[Any], y: NDArray[Any], step: Function) -> NDArray[Any]:
    """``x * y``, rounded once: an activated gate times what it gates.

    Parameters
    ----------
    x, y : ndarray, of one shape
    step : Function

    Returns
    -------
    ndarray
        Members of the step's output format, in the type of `x`.
    """
    return _as_type(fpemu.multiply(x, y, step.output, step.rounding), x)


def round_into(x: NDArray[Any], step: Sum) -> NDArray[Any]:
    """`x` rounded as a sum is: token embeddings of a model without embeddings of positions.

    Parameters
    ----------
    x : ndarray
    step : Sum

    Returns
    -------
    ndarray
        Members of the step's output format, in the type of `x`.
    """
    return _as_type(fpemu.round(x, step.output, step.rounding), x)


def _as_type(numbers: Any, like: NDArray[Any]) -> NDArray[Any]:
    """Numbers in the machine's carrier, which holds them exactly."""
    return np.asarray(numbers).astype(like.dtype, copy=False)


# --- functions ------------------------------------------------------------------------------------


def written_type(x: NDArray[Any], step: Function) -> np.dtype[Any]:
    """The type a kernel writes: float32 if storing into it is the step's rounding, else float64."""
    narrow = step.output == formats.float32 and step.rounding == _NEAREST
    return x.dtype if narrow and x.dtype == np.float32 else np.dtype(np.float64)


def _computed_and_rounded(
    compute: Callable[[NDArray[Any]], NDArray[Any]], x: NDArray[Any], step: Function
) -> NDArray[Any]:
    """What a kernel makes of rows, in :func:`written_type`, rounded into the step's output.

    In parts that are still in a cache when they are rounded, unless bits are drawn for the whole.
    """
    rows = max(1, _TOGETHER // max(1, x[:1].size))
    whole = step.is_stochastic or step.output in (formats.float32, formats.float64)
    if whole or len(x) <= rows:
        return _rounded(compute(x), x, step)
    out = np.empty_like(x)
    for first in range(0, len(x), rows):
        part = x[first : first + rows]
        out[first : first + rows] = _rounded(compute(part), part, step)
    return out


def _rounded(values: NDArray[Any], x: NDArray[Any], step: Function) -> NDArray[Any]:
    """What a kernel has written, rounded into the step's output, in the type of `x`."""
    if step.output == formats.float64 or values.dtype == np.float32:
        return _as_type(values, x)
    return _as_type(fpemu.round(values, step.output, step.rounding), x)


@dataclass(frozen=True)
class Norm:
    """The parameters of a norm.

    Parameters
    ----------
    weight : ndarray, shape (n,)
    bias : ndarray, shape (n,), optional
        For LayerNorm.
    centered : bool
        Whether the mean is subtracted, as in LayerNorm; RMSNorm does not.
    """

    weight: NDArray[Any]
    bias: NDArray[Any] | None = None
    centered: bool = True


def norm(x: NDArray[Any], parameters: Norm, epsilon: float, step: Function) -> NDArray[Any]:
    """LayerNorm or RMSNorm of each row.

    Parameters
    ----------
    x : ndarray, shape (rows, n)
    parameters : Norm
    epsilon : float
        Added to the variance, or to the mean square.
    step : Function

    Returns
    -------
    ndarray, shape (rows, n)
        Members of the step's output format, in the type of `x`.
    """
    if step.steps is not None:
        return _as_type(_norm_in_steps(x, parameters, epsilon, step), x)
    weight = parameters.weight
    bias = np.zeros_like(weight) if parameters.bias is None else parameters.bias

    def normed(rows: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(rows.shape, written_type(rows, step))
        given = launching.reading(rows, weight, bias)
        arguments = (*given, epsilon, parameters.centered, out)
        launching.run(norm_rows, len(rows), *arguments, cost=_COST * rows.shape[1])
        return out

    return _computed_and_rounded(normed, x, step)


def _norm_in_steps(x: NDArray[Any], parameters: Norm, epsilon: float, step: Function) -> Any:
    """Every inner step and every sum in one format, the last step rounded into the output."""
    inner = dict.fromkeys(("statistics", "normalized"), step.steps)
    common: dict[str, Any] = {
        "weight": parameters.weight,
        "epsilon": epsilon,
        "accumulator": Sequential(step.steps, step.rounding),
        **inner,
    }
    if not parameters.centered:
        return fpemu.functions.rms_norm(x, step.output, step.rounding, **common)
    common |= dict.fromkeys(("centered", "scaled"), step.steps) | {"bias": parameters.bias}
    return fpemu.functions.layer_norm(x, step.output, step.rounding, **common)


def activation(x: NDArray[Any], name: str, step: Function) -> NDArray[Any]:
    """An activation of each element.

    Parameters
    ----------
    x : ndarray
    name : str
        One of :data:`lamp._kernels.activations.ACTIVATIONS`, by transformers' names.
    step : Function

    Returns
    -------
    ndarray
        Members of the step's output format, of the shape and type of `x`.

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    function = activations.activation(name).value
    return _computed_and_rounded(
        lambda rows: mapped(function, rows, written_type(rows, step)), x, step
    )
