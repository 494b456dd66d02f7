"""Block-scaled formats: MX and NVFP4, and the products of matrices in them.

A block of numbers shares one scale; each is held as a small element times that scale.

References
----------
Open Compute Project, Microscaling Formats (MX) Specification, version 1.0, 2023, sections 5 and 6.
B. D. Rouhani et al., "Microscaling data formats for deep learning", arXiv 2310.10537.  NVIDIA,
"Pretraining large language models with NVFP4", arXiv 2509.25149, appendix C.
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Final

import numpy as np
from numpy.lib.array_utils import normalize_axis_index
from numpy.typing import ArrayLike, NDArray

from fpemu import _html
from fpemu import formats as _formats
from fpemu._arguments import integer
from fpemu._kernels import launching
from fpemu._kernels import tensor_core as fused
from fpemu._kernels.operands import Operands, whole_rows
from fpemu._kernels.panels import Narrow, narrowed
from fpemu._reprs import constructed
from fpemu.accumulators import Accumulator, ScaledCore
from fpemu.arithmetic import divide, multiply
from fpemu.carriers import Carrier, as_carrier, check_no_nan
from fpemu.formats import Format
from fpemu.linalg import matmul as _matmul
from fpemu.rounding import Rounding, RoundingLike, as_rounding
from fpemu.rounding import round as round_into

__all__ = ["FORMATS", "RULES", "BlockFormat", "Scaled", "dequantize", "matmul", "quantize"]

RULES: Final = ("floor", "ceil", "even", "fit")
"""How the power of two of a block is found, see :func:`quantize`."""

Array = NDArray[Any]

_LONGEST_BLOCK: Final = 2**31


@dataclass(frozen=True, repr=False)
class BlockFormat:
    """A block-scaled format.

    Parameters
    ----------
    name : str
    element : Format or str
        The format of the elements.
    scale : Format or str
        The format of the scales: powers of two if it has precision 1, else any positive numbers.
    block : int
        Elements that share a scale.
    tensor_scale : bool
        Whether the whole array has a float32 scale besides (NVFP4).

    Raises
    ------
    ValueError
        If a format is unknown, or `block` is not positive.
    TypeError
        If a field is of another type.
    """

    name: str
    element: Format
    scale: Format
    block: int
    tensor_scale: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {self.name!r}")
        if not isinstance(self.tensor_scale, bool):
            raise TypeError(f"tensor_scale must be True or False, not {self.tensor_scale!r}")
        for name in ("element", "scale"):
            object.__setattr__(self, name, _formats.operand_format(getattr(self, name)))
        object.__setattr__(self, "block", integer("block", self.block, 1, _LONGEST_BLOCK))
        self._check_products()

    def _check_products(self) -> None:
        """Raise ValueError unless elements times scales are float64 numbers."""
        parts = [self.element, self.scale, *([_formats.float32] if self.tensor_scale else [])]
        within = (
            sum(part.precision for part in parts) <= _formats.float64.precision
            and sum(part.quantum_exponent for part in parts) >= _formats.float64.quantum_exponent
            and sum(part.emax + 1 for part in parts) <= _formats.float64.emax + 1
        )
        if not within:
            raise ValueError(
                f"block-scaled format {self.name!r}: elements in {self.element} times scales in "
                f"{' and '.join(map(str, parts[1:]))} are not all float64 numbers"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def _short_name(self) -> str | None:
        """The name, if it stands for the format."""
        return self.name if FORMATS.get(self.name) == self else None

    def __repr__(self) -> str:
        if self._short_name is not None:
            return f"fpemu.scaling.FORMATS[{self.name!r}]"
        return constructed(self, "fpemu.scaling")

    def _repr_html_(self) -> str:
        scale = f"{self.scale}, one for {self.block} elements"
        whole = [("scale of an array", "float32")] if self.tensor_scale else []
        return _html.facts(self.name, [("elements", self.element), ("scales", scale), *whole])


# MXINT8's elements, the multiples of 2**-6 from -127/64 to 127/64 (OCP MX section 5.3.4, -2 being
# left unused), are the subnormal numbers and the one binade of such a format.
_INT8: Final = Format(
    "int8", 8, 7, 1, infinities=False, high_nans=0, negative_zero=False, twos_complement=True
)
_E8M0: Final = _formats.float8_e8m0fnu
_NEAREST: Final = Rounding("rne", "saturate")

FORMATS: Final = {
    format.name: format
    for format in (
        BlockFormat("mxfp8_e5m2", _formats.float8_e5m2, _E8M0, 32),
        BlockFormat("mxfp8_e4m3", _formats.float8_e4m3fn, _E8M0, 32),
        BlockFormat("mxfp6_e3m2", _formats.float6_e3m2fn, _E8M0, 32),
        BlockFormat("mxfp6_e2m3", _formats.float6_e2m3fn, _E8M0, 32),
        BlockFormat("mxfp4", _formats.float4_e2m1fn, _E8M0, 32),
        BlockFormat("mxint8", _INT8, _E8M0, 32),
        BlockFormat("nvfp4", _formats.float4_e2m1fn, _formats.float8_e4m3fn, 16, True),
    )
}
"""The block-scaled formats by name."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """An array in a block-scaled format.

    Two are equal if they have equal elements and scales, NaN being equal to NaN, and the same
    format, axis and scale of the whole array.

    Parameters
    ----------
    elements : array_like
        Members of the element format, shape of the array.
    scales : array_like
        Members of the scale format, none of them negative: the shape of the array, but along `axis`
        one for each block.
    format : BlockFormat or str
    axis : int
        Along which blocks lie.
    tensor_scale : float
        The scale of the whole array, a positive float32 number; 1 if the format has none.

    Raises
    ------
    ValueError
        If shapes do not fit, or an element or a scale is not what it has to be.
    TypeError
        If `elements` or `scales` are not real numbers.
    """

    elements: Array
    scales: Array
    format: BlockFormat
    axis: int
    tensor_scale: float = 1.0

    __hash__ = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        format = block_format(self.format)
        elements = _carrier_of_members(self.elements, format.element, "elements")
        scales = _carrier_of_members(self.scales, format.scale, "scales")
        if elements.ndim == 0:
            raise ValueError("elements must have at least one dimension")
        axis = normalize_axis_index(integer("axis", self.axis), elements.ndim)
        blocks = list(elements.shape)
        blocks[axis] = -(-blocks[axis] // format.block)
        if scales.shape != tuple(blocks):
            raise ValueError(
                f"elements of shape {elements.shape} in blocks of {format.block} along axis {axis} "
                f"have scales of shape {tuple(blocks)}, not {scales.shape}"
            )
        if (scales < 0).any():
            raise ValueError(f"scales must not be negative, as {scales[scales < 0][0]} is")
        own = _given_scale(self.tensor_scale)
        if own != 1.0 and not format.tensor_scale:
            raise ValueError(f"{format} has no scale of the whole array, such as {own}")
        self._hold(elements, scales, format, axis, own)

    def _hold(self, *values: Any) -> None:
        for each, value in zip(fields(self), values, strict=True):
            if isinstance(value, np.ndarray):
                value.flags.writeable = False  # or the checks would hold for a moment
            object.__setattr__(self, each.name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return Scaled, tuple(getattr(self, each.name) for each in fields(self))

    @classmethod
    def _of(cls, *values: Any) -> Scaled:
        """An array whose parts are known to fit, without checks."""
        scaled = object.__new__(cls)
        scaled._hold(*values)
        return scaled

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scaled):
            return NotImplemented
        facts = (self.format, self.axis, self.tensor_scale)
        return facts == (other.format, other.axis, other.tensor_scale) and all(
            np.array_equal(mine, theirs, equal_nan=True)
            for mine, theirs in (
                (self.elements, other.elements),
                (self.scales, other.scales),
            )
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.elements.shape

    def spread_scales(self) -> Array:
        """The scale of every element, without that of the whole array."""
        spread = np.repeat(self.scales, self.format.block, self.axis)
        inside = [slice(0, size) for size in self.shape]
        return spread[tuple(inside)]

    @functools.cached_property
    def _codes(self) -> Narrow | None:
        """The elements of a matrix as products read them, a byte each; None if some are NaN."""
        return narrowed(self.elements, self.format.element)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"Scaled({self.format}, {shape}, blocks along axis {self.axis})"

    @launching.default_environment()
    def _repr_html_(self) -> str:
        kind, shape = self.format, " x ".join(map(str, self.shape))
        scales = self.scales.size
        rows = [
            ("elements", f"{kind.element}, blocks of {kind.block} along axis {self.axis}"),
            ("scales", f"{kind.scale}, {scales:,} of them" + _extent(self.scales)),
        ]
        if kind.tensor_scale:
            rows.append(("scale of the array", f"{self.tensor_scale!r}"))
        numbers = np.array2string(self.elements, separator=", ", threshold=200)
        return _html.facts(f"{kind}: {shape}", [*rows, ("values", _html.lines(numbers))])


def _extent(scales: Array) -> str:
    """The smallest and largest of the scales that are numbers, in words."""
    finite = scales[np.isfinite(scales)]
    return f", from {finite.min():.3g} to {finite.max():.3g}" if finite.size else ""


def _carrier_of_members(x: ArrayLike, format: Format, name: str) -> Array:
    """An array of the base class whose numbers are members of a format."""
    array: Carrier = as_carrier(x, name).copy()
    check_no_nan(array, format, name)
    rounded = np.asarray(round_into(array, format, "rtz"))
    strange = (rounded != array) & ~(np.isnan(rounded) & np.isnan(array))
    if strange.any():
        index = tuple(int(i) for i in np.argwhere(strange)[0])
        raise ValueError(
            f"{name}{list(index)} is {array[index]}, which is not a member of {format}"
        )
    return array


def block_format(format: BlockFormat | str) -> BlockFormat:
    """The block-scaled format that a name stands for.

    Raises
    ------
    ValueError
        If there is none; lists near names.
    """
    if isinstance(format, BlockFormat):
        return format
    if format not in FORMATS:
        near = difflib.get_close_matches(str(format), FORMATS, 3, 0.3) or [*FORMATS]
        raise ValueError(f"unknown block-scaled format {format!r}: did you mean {', '.join(near)}?")
    return FORMATS[format]


# --- quantising -----------------------------------------------------------------------------------


def _block_maxima(magnitude: Array, block: int) -> Array:
    """The largest magnitude of each block along the last axis; NaN and infinity stay."""
    length = magnitude.shape[-1]
    padded = np.pad(magnitude, [(0, 0)] * (magnitude.ndim - 1) + [(0, -length % block)])
    blocks = padded.reshape(*magnitude.shape[:-1], -(-length // block), block)
    return np.asarray(np.max(blocks, axis=-1, initial=0.0))


def _exponents(largest: Array, format: BlockFormat, rule: str) -> Array:
    """The exponents of the blocks' scales, not yet held to the range of the scale format."""
    element = format.element
    if rule == "even":  # a format of the same precision with the range of float64
        largest = round_into(largest, f"e11m{element.precision - 1}")
    leading = np.frexp(largest)[1] - 1  # floor(log2), and -1 for 0
    exponents: Array = leading - element.emax
    if rule == "ceil":
        exponents = exponents + (largest > np.ldexp(1.0, leading))
    if rule == "fit":
        exponents = exponents + (np.ldexp(largest, -exponents) > element.max_finite)
    return exponents


def _power_scales(largest: Array, format: BlockFormat, rule: str) -> Array:
    """The blocks' scales, powers of two."""
    finite = np.isfinite(largest)
    exponents = _exponents(np.where(finite, largest, 0.0), format, rule)
    exponents = np.where(largest == 0, format.scale.emin, exponents)
    held = np.clip(exponents, format.scale.emin, format.scale.emax)
    return np.where(finite, np.ldexp(1.0, held), np.nan)


def _tensor_scale(largest: Array, format: BlockFormat) -> float:
    """The scale that takes the largest magnitude of all to the largest element and scale."""
    finite = largest[np.isfinite(largest)]
    greatest = float(np.max(finite, initial=0.0))
    if greatest == 0.0:
        return 1.0
    reach = format.element.max_finite * format.scale.max_finite
    scale = float(divide(greatest, reach, "float32", _NEAREST))
    return max(scale, _formats.float32.smallest_subnormal)


def _given_scale(scale: float) -> float:
    """The scale of an array that is not found from it, checked."""
    is_number = isinstance(scale, Real) and not isinstance(scale, bool)
    if not (is_number and 0 < scale < np.inf and round_into(float(scale), "float32") == scale):
        raise ValueError(f"tensor_scale must be a positive float32 number, not {scale!r}")
    return float(scale)


def _fitted_scales(largest: Array, format: BlockFormat, tensor_scale: float) -> Array:
    """The blocks' scales relative to the array's: the nearest that take them to the largest."""
    finite = np.isfinite(largest)
    # The divisor is exact: the product of a number of few bits and a float32.
    divisor = format.element.max_finite * tensor_scale
    fitted = divide(np.where(finite, largest, 0.0), divisor, format.scale, _NEAREST)
    if not format.scale.has_zero:
        fitted = np.where(largest == 0, format.scale.smallest_normal, fitted)
    if not (format.scale.has_nan or finite.all()):
        raise ValueError(
            f"x holds a NaN or an infinity, but {format} has no NaN for the scale of its block"
        )
    return np.where(finite, fitted, np.nan)


def _elements(x: Array, scales: Array, format: BlockFormat, rounding: Rounding) -> Array:
    """The numbers over their scales, rounded once; zeros in blocks whose scale is zero or NaN."""
    usable = (scales > 0) & np.isfinite(x)
    numbers, divisors = np.where(usable, x, 0.0), np.where(usable, scales, 1.0)
    return np.asarray(divide(numbers, divisors, format.element, rounding))


@launching.default_environment()
def quantize(
    x: ArrayLike,
    format: BlockFormat | str,
    *,
    axis: int = -1,
    rule: str = "floor",
    rounding: RoundingLike = "rne",
    tensor_scale: float | None = None,
) -> Scaled:
    """Put an array into a block-scaled format.

    Parameters
    ----------
    x : array_like
        Real numbers, at least one dimension.
    format : BlockFormat or str
        One of :data:`FORMATS`: ``"mxfp8_e4m3"``, ``"mxfp8_e5m2"``, ``"mxfp6_e2m3"``,
        ``"mxfp6_e3m2"``, ``"mxfp4"``, ``"mxint8"``, ``"nvfp4"``.
    axis : int
        Along which blocks lie; the last block may be shorter.
    rule : {"floor", "ceil", "even", "fit"}
        How the exponent of a scale that is a power of two comes from the largest magnitude m of its
        block, emax being the exponent of the largest element: ``"floor"``, ``floor(log2 m) - emax``
        (OCP MX section 6.3), with which m may have to saturate; ``"ceil"``, ``ceil(log2 m) -
        emax``; ``"even"``, floor after rounding m to the elements' precision; ``"fit"``, the least
        with which m does not exceed the largest element.  A format whose scales are not powers of
        two knows no rule: its scales are the numbers of the scale format nearest to ``m / M`` over
        the scale of the array, M being the largest element, as NVIDIA's recipe for NVFP4 has it
        (arXiv 2509.25149, appendix C).  The scale of the array is ``max |x| / (M * S)`` in float32,
        S being the largest scale, and 1 in a format without one.
    rounding : Rounding or str
        The rounding of the elements, which saturate on overflow.
    tensor_scale : float, optional
        The scale of the whole array for a format that has one, a positive float32 number; others
        take no notice of it.  Left out, it is found from the array.

    Returns
    -------
    Scaled
        A block with a NaN or an infinity has the scale NaN; one of zeros the smallest scale.

    Raises
    ------
    ValueError
        If the format or rule is unknown, `x` has no dimension, or `tensor_scale` is no positive
        float32 number.

    Examples
    --------
    >>> from fpemu import scaling
    >>> scaled = scaling.quantize([1.0, 3.3, -0.2, 0.0], "mxfp4")
    >>> scaled.elements, scaled.scales
    (array([ 2. ,  6. , -0.5,  0. ]), array([0.5]))
    >>> scaling.dequantize(scaled)
    array([ 1.  ,  3.  , -0.25,  0.  ])
    """
    format = block_format(format)
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: expected {', '.join(RULES)}")
    rounding = as_rounding(rounding)
    rounding = Rounding(rounding.mode, "saturate", rounding.random_bits, rounding.seed)
    array = np.asarray(as_carrier(x), np.float64)
    if array.ndim == 0:
        raise ValueError("a scalar has no blocks: x needs at least one dimension")
    axis = normalize_axis_index(integer("axis", axis), array.ndim)
    moved = np.moveaxis(array, axis, -1)
    largest = _block_maxima(np.abs(moved), format.block)
    own = 1.0
    if format.tensor_scale:
        own = _tensor_scale(largest, format) if tensor_scale is None else _given_scale(tensor_scale)
    if format.tensor_scale or format.scale.precision > 1:
        scales = _fitted_scales(largest, format, own)
    else:
        scales = _power_scales(largest, format, rule)
    spread = np.repeat(scales, format.block, -1)[..., : moved.shape[-1]]
    elements = _elements(moved, spread * own, format, rounding)
    elements, scales = (np.moveaxis(x, -1, axis) for x in (elements, scales))
    return Scaled._of(elements, scales, format, axis, own)


@launching.default_environment()
def dequantize(scaled: Scaled) -> Array:
    """The numbers that a block-scaled array stands for, exactly.

    Parameters
    ----------
    scaled : Scaled

    Returns
    -------
    ndarray of float64

    Examples
    --------
    >>> from fpemu import scaling
    >>> scaling.dequantize(scaling.quantize([1e-3, 5e-3], "mxint8"))
    array([0.00097656, 0.00500488])
    """
    if not isinstance(scaled, Scaled):
        raise TypeError(f"scaled must be a Scaled, not {type(scaled).__name__}")
    return scaled.elements * scaled.spread_scales() * scaled.tensor_scale


# --- products -------------------------------------------------------------------------------------


@launching.default_environment()
def matmul(
    a: Scaled, b: Scaled, unit: ScaledCore | Accumulator, *, c: ArrayLike | None = None
) -> Any:
    """The product of two block-scaled matrices.

    Parameters
    ----------
    a : Scaled, shape (m, k)
        Blocks along the last axis.
    b : Scaled, shape (k, n)
        Blocks along the first axis.
    unit : ScaledCore or Accumulator
        A block-scaled unit of :mod:`fpemu.devices`, or any accumulator, to which the scaled
        elements go as exact numbers.
    c : array_like, optional
        What the sums begin with, broadcast to (m, n).

    Returns
    -------
    ndarray, shape (m, n)
        The unit's result.  Scales of whole arrays are not its business: their product, rounded to
        float32, multiplies the result in float32 at the end; `c` takes no part in that.

    Raises
    ------
    ValueError
        If shapes or axes do not match, or the unit takes another format.

    Examples
    --------
    >>> import numpy as np
    >>> from fpemu import devices, scaling
    >>> a = scaling.quantize(np.eye(2, 64), "mxfp4")
    >>> b = scaling.quantize(np.full((64, 2), 1.5), "mxfp4", axis=0)
    >>> scaling.matmul(a, b, devices.get("blackwell.tcgen05-mxf8f6f4.e2m1-e8m0-32"))
    array([[1.5, 1.5],
           [1.5, 1.5]], dtype=float32)
    """
    _check_matrices(a, b)
    if isinstance(unit, ScaledCore):
        result = _unit_product(a, b, unit, c)
    else:
        result = _matmul(_numbers(a), _numbers(b), unit, c=c)
        result = result.astype(np.float64, copy=False)
    if a.tensor_scale == b.tensor_scale == 1.0:
        return result
    if c is not None:
        raise ValueError("c cannot be given where arrays have scales of their own: add it after")
    return multiply(result, multiply(a.tensor_scale, b.tensor_scale, "float32"), "float32")


def _numbers(scaled: Scaled) -> Array:
    """Elements of a matrix times their scales, exactly: in float32 where that is sure to hold."""
    element, scales = scaled.format.element, scaled.scales
    largest, least = float(np.max(scales, initial=0.0)), float(np.min(scales, initial=np.inf))
    float32 = _formats.float32
    narrow = (
        largest * element.max_finite <= float32.max_finite
        and min(least, 1.0) * element.smallest_subnormal >= float32.smallest_subnormal
        and element.precision + scaled.format.scale.precision <= float32.precision
    )
    dtype = np.float32 if narrow else np.float64
    elements, scales = (each.astype(dtype, copy=False) for each in (scaled.elements, scales))
    block, length = scaled.format.block, scaled.shape[scaled.axis]
    if length % block:
        scales = np.repeat(scales, block, scaled.axis)
        return np.asarray(elements * scales[tuple(slice(0, size) for size in scaled.shape)])
    split = list(scaled.shape)
    split[scaled.axis : scaled.axis + 1] = [length // block, block]
    spread = np.expand_dims(scales, scaled.axis + 1)
    return np.asarray((elements.reshape(split) * spread).reshape(scaled.shape))


def _check_matrices(a: Scaled, b: Scaled) -> None:
    for name, scaled, axis in (("a", a, 1), ("b", b, 0)):
        if not isinstance(scaled, Scaled):
            raise TypeError(f"{name} must be a Scaled, not {type(scaled).__name__}: quantize it")
        if len(scaled.shape) != 2:
            raise ValueError(f"{name} must be a matrix, not an array of shape {scaled.shape}")
        if scaled.axis != axis:
            raise ValueError(f"the blocks of {name} must lie along axis {axis}, not {scaled.axis}")
    if a.shape[1] != b.shape[0]:
        raise ValueError(
            f"shapes {a.shape} of a and {b.shape} of b do not match: "
            f"{a.shape[1]} columns against {b.shape[0]} rows"
        )


def _unit_product(a: Scaled, b: Scaled, unit: ScaledCore, c: ArrayLike | None) -> Carrier:
    for name, scaled, format in (("a", a, unit.core.inputs[0]), ("b", b, unit.core.inputs[1])):
        held = (scaled.format.element, scaled.format.scale, scaled.format.block)
        if held != (format, unit.scale, unit.scale_block):
            raise ValueError(
                f"{name} is in {scaled.format}, but the unit takes blocks of {unit.scale_block} "
                f"elements in {format} with scales in {unit.scale}"
            )
    initial: Any = None
    if c is not None:
        given, shape = as_carrier(c, "c"), (a.shape[0], b.shape[1])
        try:
            initial = np.broadcast_to(given, shape)[np.newaxis]
        except ValueError as error:
            raise ValueError(
                f"shape {given.shape} of c does not broadcast to {shape}, that of the result"
            ) from error
        if not np.array_equal(round_into(initial, unit.core.initial), initial, equal_nan=True):
            raise ValueError(f"c has elements that are not members of {unit.core.initial}")
    left = a.elements.astype(np.float32)[np.newaxis]
    codes = b._codes
    right = b.elements.astype(np.float32)[np.newaxis] if codes is None else codes
    lengths = whole_rows(a.shape[0], b.shape[1])
    operands = Operands(left, right, initial, lengths)
    scales = fused.Scales(a.scales[np.newaxis], b.scales[np.newaxis], unit.scale_block)
    result: Carrier = fused.scaled_product(operands, scales, unit)[0]
    return result
