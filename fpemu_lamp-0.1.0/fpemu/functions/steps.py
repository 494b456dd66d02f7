"""Softmax and norms, each internal step rounded into a format of its own.

A machine computes a softmax in steps and rounds after each.  Here every step is one of the
package's correctly rounded operations on whole arrays.  An accumulator forms the sums: a sum is the
inner product of a row with ones, a sum of squares that of a row with itself.  All steps share one
rounding, except sums, which use the rounding of their accumulator.

References
----------
P. Blanchard, D. J. Higham, N. J. Higham, Accurately computing the log-sum-exp and softmax
functions, IMA J. Numer. Anal. 41 (2021).  J. L. Ba, J. R. Kiros, G. E. Hinton, Layer normalization,
arXiv 1607.06450 (2016).  B. Zhang, R. Sennrich, Root mean square layer normalization, NeurIPS 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import ArrayLike

from fpemu import formats as _formats
from fpemu._kernels import launching
from fpemu.accumulators import Accumulator, Sequential
from fpemu.arithmetic import add, divide, multiply, subtract
from fpemu.carriers import Carrier, as_carrier, result_dtype
from fpemu.formats import Format, FormatLike
from fpemu.functions.rounded import exp, rsqrt
from fpemu.linalg import row_sums, row_sums_of_squares
from fpemu.rounding import Rounding, RoundingLike, as_rounding

__all__ = ["layer_norm", "rms_norm", "softmax"]

_MOST_PRECISION: Final = 24  # of correctly rounded functions
_MOST_EXACT_FLOAT32: Final = 2**24
# The random bits of a step depend on its label, so that a new spelling would change results.
_LABELS: Final = {"centered": "centred", "normalized": "normalised"}


# --- arguments ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """The checked arguments that all operations have in common."""

    rows: Carrier  # with the axis moved to the end
    axis: int
    format: Format
    rounding: Rounding
    accumulator: Accumulator

    def draws(self, step: str) -> Rounding:
        """The rounding of a step, with random bits of its own."""
        return self.rounding.derived(_LABELS.get(step, step))

    def step(self, format: FormatLike | None) -> Format:
        """The format of a step; by default that of the result."""
        return self.format if format is None else _formats.format(format)

    def result(self, rows: Any, *parameters: Carrier | None) -> Any:
        """The result: the axis moved back, in float32 if inputs and format allow it."""
        inputs = [self.rows, *(vector for vector in parameters if vector is not None)]
        narrow = rows.astype(result_dtype(self.format, *inputs), copy=False)
        return np.ascontiguousarray(np.moveaxis(narrow, -1, self.axis))


def _call(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike,
    axis: int,
    accumulator: Accumulator | None,
) -> _Call:
    target, how = _formats.format(format), as_rounding(rounding)
    if accumulator is None:
        accumulator = Sequential(target, how.derived("accumulator"))
    if not isinstance(accumulator, Accumulator):
        raise TypeError(
            f"accumulator must be an accumulator such as Sequential('e8m7'), not {accumulator!r}"
        )
    array = as_carrier(x)
    place = normalize_axis_index(axis, array.ndim)
    if array.shape[place] == 0:
        raise ValueError(f"axis {axis} of x is empty: x has shape {array.shape}")
    return _Call(np.moveaxis(array, place, -1), place, target, how, accumulator)


def _check_function(format: Format, step: str, name: str) -> None:
    if format.precision > _MOST_PRECISION:
        raise ValueError(
            f"{name} is correctly rounded for formats of at most {_MOST_PRECISION} significand "
            f"bits, but {step} is {format}, which has {format.precision}: say {step}='float32'"
        )


def _parameter(vector: ArrayLike | None, name: str, count: int) -> Carrier | None:
    if vector is None:
        return None
    array = as_carrier(vector, name)
    if array.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), not {array.shape}")
    return array


def _check_epsilon(epsilon: float) -> float:
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be a nonnegative number, not {epsilon}")
    return float(epsilon)


# --- steps ----------------------------------------------------------------------------------------


def _means(sums: Any, count: int, format: Format, rounding: Rounding) -> Any:
    dtype = sums.dtype if count <= _MOST_EXACT_FLOAT32 else np.float64
    return divide(sums, np.asarray(count, dtype), format, rounding)


def _narrowed(numbers: Any, format: Format, rows: Carrier) -> Any:
    """Members of a format in the carrier of a result that depends on `rows` alone."""
    return numbers.astype(result_dtype(format, rows), copy=False)


# --- softmax --------------------------------------------------------------------------------------


@launching.default_environment()
def softmax(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    axis: int = -1,
    difference: FormatLike | None = None,
    exponential: FormatLike | None = None,
    accumulator: Accumulator | None = None,
) -> Any:
    """``exp(x) / sum(exp(x))`` along an axis, every step rounded.

    1. ``m``, the largest element, exactly;
    2. ``d = x - m``, rounded once into `difference`;
    3. ``e = exp(d)``, rounded once into `exponential`;
    4. ``s``, the sum of ``e``, formed by `accumulator` as the inner product with ones;
    5. ``e / s``, rounded once into `format`.

    Parameters
    ----------
    x : array_like
        Real numbers, at least one-dimensional; they need not be members of a format.  An element
        -inf is masked: its ``e`` is +0.
    format : Format or str
        The format of the result, and of each step whose format is not given.
    rounding : Rounding or str
        The rounding of all steps but the sum, or just its mode.  A stochastic one gives
        every step a seed derived from its own.
    axis : int
        The axis along which results sum to about 1.
    difference, exponential : Format or str, optional
        The formats of steps 2 and 3; `exponential` has at most 24 significand bits.
    accumulator : Accumulator, optional
        How step 4 sums; by default ``Sequential(format, rounding)``.

    Returns
    -------
    ndarray
        Shape of `x`; float32 if `x` is float32 and the format fits, else float64.  A slice along
        the axis that holds NaN or +inf, or only -inf, becomes NaN.

    Raises
    ------
    ValueError
        If the axis is empty or out of range, `exponential` has more than 24 significand bits, or
        NaN arises in a step whose format has no NaN.
    TypeError
        If `x` does not hold real numbers of at most 64 bits, or `accumulator` is not an
        accumulator.

    Notes
    -----
    A difference beyond the range of `difference` overflows as the rounding specifies.  A format
    without infinity then gives NaN, unless ``Rounding(overflow="saturate")``.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, Accurately computing the log-sum-exp and softmax
    functions, IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import fpemu
    >>> from fpemu import functions
    >>> functions.softmax([0.0, 1.0, 2.0, float("-inf")], "float8_e4m3fn")
    array([0.09375, 0.25   , 0.6875 , 0.     ])

    A sum in so few bits stops growing at 16:

    >>> functions.softmax([0.0] * 100, "float8_e4m3fn")[0]
    np.float64(0.0625)
    >>> functions.softmax([0.0] * 100, "float8_e4m3fn", accumulator=fpemu.Sequential("float32"))[0]
    np.float64(0.009765625)
    """
    call = _call(x, format, rounding, axis, accumulator)
    of_difference, of_exponential = call.step(difference), call.step(exponential)
    _check_function(of_exponential, "exponential", "exp")
    rows = call.rows
    largest = rows.max(axis=-1, keepdims=True)
    masked = rows == -np.inf
    # A masked element takes a value that overflows in no format.
    held = np.where(masked, largest, rows) if masked.any() else rows
    differences = subtract(held, largest, of_difference, call.draws("difference"))
    exponentials = exp(differences, of_exponential, call.draws("exponential"))
    exponentials[masked] = 0.0
    sums = row_sums(exponentials, call.accumulator)
    return call.result(divide(exponentials, sums, call.format, call.draws("quotient")))


# --- norms ----------------------------------------------------------------------------------------


@launching.default_environment()
def layer_norm(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    epsilon: float = 1e-5,
    axis: int = -1,
    statistics: FormatLike | None = None,
    centered: FormatLike | None = None,
    normalized: FormatLike | None = None,
    scaled: FormatLike | None = None,
    accumulator: Accumulator | None = None,
) -> Any:
    """``(x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias`` along an axis, every step rounded.

    1. the sum of ``x``, formed by `accumulator` as the inner product with ones;
    2. ``mean = sum / n``, rounded once into `statistics`;
    3. ``c = x - mean``, rounded once into `centered`;
    4. the sum of ``c * c``, formed by `accumulator`;
    5. ``variance = sum / n``, rounded once into `statistics`;
    6. ``variance + epsilon``, rounded once into `statistics`;
    7. ``r``, its reciprocal square root, rounded once into `statistics`;
    8. ``c * r``, rounded once into `normalized`;
    9. times `weight`, rounded once into `scaled`;
    10. plus `bias`.

    Without `weight` there is no step 9, and without `bias` no step 10.  The last step rounds into
    `format`.

    Parameters
    ----------
    x : array_like
        Real numbers, at least one-dimensional; they need not be members of a format.
    format : Format or str
        The format of the result, and of each step whose format is not given.
    rounding : Rounding or str
        The rounding of all steps but the sums, or just its mode.  A stochastic one gives
        every step a seed derived from its own.
    weight, bias : array_like, optional
        Vectors as long as the axis.
    epsilon : float
        A nonnegative number, added exactly in step 6.
    axis : int
        The axis along which to normalize.
    statistics, centered, normalized, scaled : Format or str, optional
        The formats of the steps; `statistics` has at most 24 significand bits.
    accumulator : Accumulator, optional
        How steps 1 and 4 sum; by default ``Sequential(format, rounding)``.

    Returns
    -------
    ndarray
        Shape of `x`; float32 if `x`, `weight` and `bias` are float32 and the format fits, else
        float64.

    Raises
    ------
    ValueError
        If the axis is empty or out of range, `weight` or `bias` has the wrong shape, `epsilon` is
        negative, `statistics` has more than 24 significand bits, or NaN arises in a step whose
        format has no NaN.
    TypeError
        If an argument does not hold real numbers of at most 64 bits, or `accumulator` is not an
        accumulator.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, Layer normalization, arXiv 1607.06450 (2016).

    Examples
    --------
    With sums, statistics and differences in float32, as is usual, and with bfloat16 alone:

    >>> import fpemu
    >>> from fpemu import functions
    >>> x = [100.0, 101.0, 102.0, 105.0]
    >>> functions.layer_norm(x, "bfloat16", statistics="float32", centered="float32",
    ...                     accumulator=fpemu.Sequential("float32"))
    array([-1.0703125 , -0.53515625,  0.        ,  1.6015625 ])
    >>> functions.layer_norm(x, "bfloat16")
    array([-1.0703125 , -0.53515625,  0.        ,  1.609375  ])
    """
    call = _call(x, format, rounding, axis, accumulator)
    count = call.rows.shape[-1]
    scale, shift = _parameter(weight, "weight", count), _parameter(bias, "bias", count)
    epsilon, of_statistics = _check_epsilon(epsilon), call.step(statistics)
    _check_function(of_statistics, "statistics", "rsqrt")
    of_centered, of_normalized = call.step(centered), call.step(normalized)
    of_scaled = call.step(scaled)
    sums = row_sums(call.rows, call.accumulator)
    means = _means(sums, count, of_statistics, call.draws("mean"))
    deviations = subtract(call.rows, means, of_centered, call.draws("centered"))
    factors = _reciprocal_roots(deviations, epsilon, of_statistics, call)
    rows = _scaled(call, deviations, factors, (of_normalized, of_scaled), scale, shift)
    return call.result(rows, scale, shift)


@launching.default_environment()
def rms_norm(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    weight: ArrayLike | None = None,
    epsilon: float = 1e-5,
    axis: int = -1,
    statistics: FormatLike | None = None,
    normalized: FormatLike | None = None,
    accumulator: Accumulator | None = None,
) -> Any:
    """``x / sqrt(mean(x**2) + epsilon) * weight`` along an axis, every step rounded.

    1. the sum of ``x * x``, formed by `accumulator`;
    2. ``square = sum / n``, rounded once into `statistics`;
    3. ``square + epsilon``, rounded once into `statistics`;
    4. ``r``, its reciprocal square root, rounded once into `statistics`;
    5. ``x * r``, rounded once into `normalized`;
    6. times `weight`, rounded once into `format`.

    Without `weight` there is no step 6, and step 5 rounds into `format`.

    Parameters
    ----------
    x, format, rounding, weight, epsilon, axis, statistics, normalized, accumulator
        As for :func:`layer_norm`.

    Returns
    -------
    ndarray
        Shape of `x`; float32 if `x` and `weight` are float32 and the format fits, else float64.

    Raises
    ------
    ValueError, TypeError
        As :func:`layer_norm`.

    References
    ----------
    B. Zhang, R. Sennrich, Root mean square layer normalization, NeurIPS 2019.

    Examples
    --------
    >>> from fpemu import functions
    >>> functions.rms_norm([3.0, 4.0, 12.0], "float8_e4m3fn", weight=[1.0, 1.0, 0.5])
    array([0.4375, 0.5625, 0.875 ])
    """
    call = _call(x, format, rounding, axis, accumulator)
    scale = _parameter(weight, "weight", call.rows.shape[-1])
    epsilon, of_statistics = _check_epsilon(epsilon), call.step(statistics)
    _check_function(of_statistics, "statistics", "rsqrt")
    factors = _reciprocal_roots(call.rows, epsilon, of_statistics, call)
    formats = (call.step(normalized), call.format)
    return call.result(_scaled(call, call.rows, factors, formats, scale, None), scale)


def _reciprocal_roots(deviations: Carrier, epsilon: float, format: Format, call: _Call) -> Any:
    """``1 / sqrt(mean(deviations**2) + epsilon)``, every step rounded into a format."""
    sums = row_sums_of_squares(deviations, call.accumulator.derived("squares"))
    squares = _means(sums, deviations.shape[-1], format, call.draws("variance"))
    raised = add(squares, epsilon, format, call.draws("epsilon"))
    return _narrowed(rsqrt(raised, format, call.draws("root")), format, call.rows)


def _scaled(
    call: _Call,
    deviations: Carrier,
    factors: Any,
    formats: tuple[Format, Format],
    weight: Carrier | None,
    bias: Carrier | None,
) -> Any:
    """The products with factors and weight and the sum with the bias; the last into `format`."""
    normalized, scaled = formats
    last = weight is None and bias is None
    rows = multiply(
        deviations, factors, call.format if last else normalized, call.draws("normalized")
    )
    if weight is not None:
        rows = multiply(rows, weight, call.format if bias is None else scaled, call.draws("scaled"))
    return rows if bias is None else add(rows, bias, call.format, call.draws("bias"))
