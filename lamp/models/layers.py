"""The steps of a transformer around attention: matrix products, norms, activations, sums.

Kernels compute in float64, in a fixed order; what a step says is rounded once.  No function of the
platform's mathematical library is part of a result.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Format, Rounding, Sequential, formats, scaling
from fpemu._kernels import caching, launching
from fpemu.scaling import BlockFormat, Scaled
from lamp._kernels import activations
from lamp._kernels.rows import total
from lamp.machines import Function, Operand, Product, Sum

__all__ = [
    "Matrix",
    "Norm",
    "Operand",
    "activation",
    "add",
    "left_operand",
    "linear",
    "norm",
    "overflowed",
    "products",
    "right_operand",
    "rounded",
    "sums_are_output",
    "written_type",
]

_GRAIN: Final = 2**12  # elements worth a thread
_MANY_ROWS: Final = 64  # which take far longer to multiply than weights to round
_NEAREST: Final = Rounding()


# --- matrix products ------------------------------------------------------------------------------


class Matrix:
    """The weights of a linear layer.

    What a step makes of them is kept for the next time, for one step at a time and as long as few
    rows are multiplied: many take far longer than that, and a second copy of a model is large.

    Parameters
    ----------
    weight : ndarray, shape (inputs, outputs)
    bias : ndarray, shape (outputs,), optional
    format : Format
        Whose members they are.
    """

    def __init__(self, weight: NDArray[Any], bias: NDArray[Any] | None, format: Format) -> None:
        self.weight, self.bias, self.format = weight, bias, format
        self._prepared: tuple[Any, Operand] | None = None

    def operand(self, step: Product, rows: int) -> Operand:
        """The weights as a step takes them to multiply so many rows."""
        if step.operands is None or (step.operands == self.format and step.scaling == "none"):
            return Operand(self.weight)
        key = step.operands, step.rounding, step.scaling, step.block
        kept = self._prepared  # which another thread may change
        if kept is not None and kept[0] == key:
            return kept[1]
        self._prepared = None
        operand = right_operand(self.weight, step, None)
        if rows < _MANY_ROWS:
            self._prepared = key, operand
        return operand

    @functools.cached_property
    def row_norms(self) -> NDArray[np.float64]:
        """What the output makes of each input: the lengths of the rows."""
        return np.sqrt(total(np.square(self.weight, dtype=np.float64)))[:, 0]


def left_operand(a: NDArray[Any], step: Product) -> Operand:
    """The left operand of a product, rounded; its rows have scales, or their blocks.

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
    """The right operand of a product, rounded; its columns have scales, or their blocks.

    Parameters
    ----------
    b : ndarray, shape (..., k, n)
    step : Product
    scale : float or None
        That of the whole operand, for steps with one; None to find it from the numbers.

    Returns
    -------
    Operand
    """
    return _operand(b, step, -2, scale)


def _operand(x: NDArray[Any], step: Product, axis: int, scale: float | None) -> Operand:
    """An operand whose terms lie along an axis."""
    if step.operands is None:
        return Operand(x)
    if isinstance(step.operands, BlockFormat):
        matrices = x.reshape(-1, *x.shape[-2:])
        settings: dict[str, Any] = {"axis": axis, "rounding": step.rounding, "tensor_scale": scale}
        return Operand(
            tuple(scaling.quantize(each, step.operands, **settings) for each in matrices)
        )
    if step.scaling == "none":
        return Operand(fpemu.round(x, step.operands, step.rounding))
    if step.scaling == "tensor":
        scales: Any = _scales(x, step.operands, None) if scale is None else np.float32(scale)
        spread = scales
    elif step.scaling == "row":
        spread = scales = _scales(x, step.operands, axis)
    else:
        starts = range(0, x.shape[axis], step.block)
        blocks = np.split(x, starts[1:], axis)
        scales = np.concatenate([_scales(block, step.operands, axis) for block in blocks], axis)
        widths = [block.shape[axis] for block in blocks]
        spread = np.repeat(scales, widths, axis)
    return Operand(fpemu.divide(x, spread, step.operands, step.rounding), scales)


def _scales(x: NDArray[Any], format: Format, axis: int | None) -> Any:
    """What takes the largest magnitude to the largest number of a format, 1 where there is none."""
    largest = np.max(np.abs(x), axis=axis, keepdims=axis is not None, initial=0.0)
    usable = np.where((largest > 0) & np.isfinite(largest), largest, format.max_finite)
    scales = fpemu.divide(usable, format.max_finite, "float32", "rtp")
    return np.maximum(scales, formats.float32.smallest_normal).astype(np.float32)


def products(
    a: Operand, b: Operand, step: Product, lengths: NDArray[np.int64] | None = None
) -> NDArray[Any]:
    """The sums of a matrix product as a step forms them, not yet rounded into its output.

    Parameters
    ----------
    a, b : Operand
        Of shapes (..., m, k) and (..., k, n).
    step : Product
    lengths : ndarray of int64, shape (m,), optional
        How many leading columns of each row are wanted; the others are +0.

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
    """Sums times the scales of their operands, in float32, and the sum of those in float32."""
    terms = a.values.shape[-1]
    width = step.block if step.scaling == "block" else terms
    result: Any = None
    for index, first in enumerate(range(0, terms, width)):
        here = slice(first, first + width)
        x, y = a.values[..., here], b.values[..., here, :]
        of_x, of_y = a.scales, b.scales
        if step.scaling == "block":
            of_x, of_y = of_x[..., index : index + 1], of_y[..., index : index + 1, :]
        sums = fpemu.matmul(x, y, step.accumulator, row_lengths=lengths)
        both = np.multiply(of_x, of_y, dtype=np.float64)  # exact, of two float32 numbers
        scaled = fpemu.multiply(sums, both, formats.float32)
        result = scaled if result is None else fpemu.add(result, scaled, formats.float32)
    return np.asarray(result)


def sums_are_output(step: Product) -> bool:
    """Whether the sums of a product are what its rounding into the output would make of them."""
    has_scales = step.scaling != "none" or isinstance(step.operands, BlockFormat)
    saturates = step.rounding.overflow == "saturate"
    return bool(step.output == step.accumulator.format and not has_scales and not saturates)


def overflowed(x: NDArray[Any], format: Format) -> NDArray[np.bool_]:
    """Which numbers a format may not have had room for: as large as its largest, infinite, NaN."""
    return np.asarray(~(np.abs(x) < format.max_finite))


def linear(
    x: NDArray[Any], matrix: Matrix, step: Product, beyond: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """``x @ weight + bias``, the exact sum of product and bias rounded once.

    Parameters
    ----------
    x : ndarray, shape (rows, inputs)
    matrix : Matrix
    step : Product
    beyond : ndarray of bool, shape (rows, outputs), optional
        Where to mark the components that accumulator or output may have had no room for.

    Returns
    -------
    ndarray, shape (rows, outputs)
        Members of the step's output format, in the type of `x`.
    """
    sums = products(left_operand(x, step), matrix.operand(step, len(x)), step)
    result = _biased(sums, matrix, step, x)
    if beyond is not None:
        beyond |= overflowed(sums, step.accumulator.format) | overflowed(result, step.output)
    return result


def _biased(sums: NDArray[Any], matrix: Matrix, step: Product, x: NDArray[Any]) -> NDArray[Any]:
    if matrix.bias is not None:
        return _into(fpemu.add(sums, matrix.bias, step.output, step.rounding), x)
    if sums_are_output(step):
        return _into(sums, x)
    return _into(fpemu.round(sums, step.output, step.rounding), x)


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
    return _into(fpemu.add(x, y, step.output, step.rounding), x)


def _into(numbers: Any, like: NDArray[Any]) -> NDArray[Any]:
    """Numbers in the machine's carrier, which holds them."""
    return np.asarray(numbers).astype(like.dtype, copy=False)


# --- functions ------------------------------------------------------------------------------------


def written_type(x: NDArray[Any], step: Function) -> np.dtype[Any]:
    """The type a kernel writes: float32 if that is the step's rounding, else float64."""
    narrow = step.output == formats.float32 and step.rounding == _NEAREST
    return x.dtype if narrow and x.dtype == np.float32 else np.dtype(np.float64)


def rounded(values: NDArray[Any], x: NDArray[Any], step: Function) -> NDArray[Any]:
    """What a kernel has written, rounded into the step's output, in the type of `x`."""
    if step.output == formats.float64 or values.dtype == np.float32:
        return _into(values, x)
    return _into(fpemu.round(values, step.output, step.rounding), x)


@dataclass(frozen=True)
class Norm:
    """The parameters of a norm.

    Parameters
    ----------
    weight : ndarray, shape (n,)
    bias : ndarray, shape (n,), optional
        For LayerNorm.
    centred : bool
        Whether the mean is subtracted: LayerNorm, otherwise RMSNorm.
    """

    weight: NDArray[Any]
    bias: NDArray[Any] | None = None
    centred: bool = True


def norm(x: NDArray[Any], parameters: Norm, epsilon: float, step: Function) -> NDArray[Any]:
    """LayerNorm or RMSNorm of each row.

    Parameters
    ----------
    x : ndarray, shape (rows, n)
    parameters : Norm
    epsilon : float
        Is added to the variance, or to the mean square.
    step : Function

    Returns
    -------
    ndarray, shape (rows, n)
        Members of the step's output format, in the type of `x`.
    """
    if step.steps is not None:
        return _into(_norm_in_steps(x, parameters, epsilon, step), x)
    weight = parameters.weight
    bias = np.zeros_like(weight) if parameters.bias is None else parameters.bias
    out = np.empty(x.shape, written_type(x, step))
    arguments = (x, weight, bias, epsilon, parameters.centred, out)
    launching.run(_norm_rows, x.shape[0], *arguments, grain=max(1, _GRAIN // x.shape[1]))
    return rounded(out, x, step)


def _norm_in_steps(x: NDArray[Any], parameters: Norm, epsilon: float, step: Function) -> Any:
    """Every inner step and every sum in one format, the last step rounded into the output."""
    inner = dict.fromkeys(("statistics", "normalised"), step.steps)
    common: dict[str, Any] = {
        "weight": parameters.weight,
        "epsilon": epsilon,
        "accumulator": Sequential(step.steps, step.rounding),
        **inner,
    }
    if not parameters.centred:
        return fpemu.functions.rms_norm(x, step.output, step.rounding, **common)
    common |= dict.fromkeys(("centred", "scaled"), step.steps) | {"bias": parameters.bias}
    return fpemu.functions.layer_norm(x, step.output, step.rounding, **common)


@caching.kernel
def _norm_rows(start, stop, x, weight, bias, epsilon, centred, out):  # type: ignore[no-untyped-def]
    n = x.shape[1]
    for row in range(start, stop):
        mean = 0.0
        if centred:
            for j in range(n):
                mean += np.float64(x[row, j])
            mean /= n
        squares = 0.0
        for j in range(n):
            deviation = np.float64(x[row, j]) - mean
            squares += deviation * deviation
        scale = 1.0 / np.sqrt(squares / n + epsilon)
        for j in range(n):
            normalised = (np.float64(x[row, j]) - mean) * scale
            out[row, j] = normalised * np.float64(weight[j]) + np.float64(bias[j])


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
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty(flat.shape, written_type(x, step))
    launching.run(caching.mapping(function), flat.size, flat, out, grain=_GRAIN)
    return rounded(out, x, step).reshape(x.shape)
