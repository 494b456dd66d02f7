"""Values and bit patterns: ``encode``, ``decode``, ``values``, and packed storage.

Codes are laid out as IEEE 754, ml_dtypes, the OCP specifications and P3109 have them: sign,
exponent field, fraction, from the top down.  An array of codes of a format that ml_dtypes knows may
be viewed as its type, ``encode(x, "float8_e4m3fn").view(ml_dtypes.float8_e4m3fn)``, without a copy,
and back.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Final, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import formats as _formats
from fpemu._arguments import integer
from fpemu._kernels import codes as kernels
from fpemu._kernels import launching
from fpemu.carriers import Carrier, as_carrier, check_not_masked, is_tensor, plain
from fpemu.formats import Format, FormatLike
from fpemu.rounding import RoundingLike
from fpemu.rounding import round as round_into

__all__ = ["decode", "encode", "pack", "unpack", "values"]

_TABLE_BITS: Final = 16  # formats up to this width are decoded by a table


def code_dtype(format: Format) -> np.dtype[Any]:
    """The smallest unsigned integer type that holds the codes of a format."""
    return np.dtype(f"uint{next(width for width in (8, 16, 32, 64) if format.bits <= width)}")


@functools.lru_cache(maxsize=256)
@launching.default_environment()
def _table(format: Format) -> Carrier:
    """The values of all codes of a format of at most 16 bits, in its carrier."""
    codes = np.arange(1 << format.bits, dtype=code_dtype(format))
    table = _decoded(codes, format).astype(format.carrier)
    table.flags.writeable = False
    return table


def _encoded(x: NDArray[np.float64], format: Format) -> NDArray[np.unsignedinteger[Any]]:
    """The codes of the members of a format in a flat array; other numbers get some code."""
    out = np.empty(x.size, code_dtype(format))
    if format.twos_complement:
        multiples = np.ldexp(
            np.clip(x, -format.max_finite, format.max_finite), -format.quantum_exponent
        )
        out[:] = np.nan_to_num(multiples).astype(np.int64) & ((1 << format.bits) - 1)
    else:
        kernels.encode_flat(x, out, format)
    return out


def _decoded(codes: NDArray[Any], format: Format) -> NDArray[np.float64]:
    """The values of the codes in a flat array."""
    if not format.twos_complement:
        return kernels.decode_flat(codes, format)
    multiples = codes.astype(np.float64)
    multiples -= np.where(codes >> (format.bits - 1), 2.0**format.bits, 0.0)
    return np.ldexp(multiples, format.quantum_exponent)


@launching.default_environment()
def encode(
    x: ArrayLike, format: FormatLike, rounding: RoundingLike | None = None
) -> NDArray[np.unsignedinteger[Any]] | np.unsignedinteger[Any]:
    """The bit patterns of values.

    Parameters
    ----------
    x : array_like
        Members of the format, or any numbers if `rounding` is given.
    format : Format or str
        The format.
    rounding : Rounding or str, optional
        How to round `x` into the format first.

    Returns
    -------
    ndarray or scalar of unsigned int
        Codes in the smallest of uint8, uint16, uint32, uint64; shape of `x`.  Where the format has
        NaNs of both signs, a NaN has the sign of the element that it comes from.

    Raises
    ------
    ValueError
        If no rounding is given and an element is not a member of the format.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.encode([1.0, -448.0, float("nan")], "float8_e4m3fn")
    array([ 56, 254, 127], dtype=uint8)
    """
    format = _formats.format(format)
    given = as_carrier(x)
    array = given if rounding is None else np.asarray(round_into(given, format, rounding))
    if rounding is not None and np.isnan(array).any():
        array = np.where(np.isnan(array), np.copysign(array, given), array)
    flat = np.ascontiguousarray(array, dtype=np.float64).reshape(-1)
    out = _encoded(flat, format)
    if rounding is None:
        _check_members(flat, _decoded(out, format), array.shape, format)
    return out.reshape(array.shape)[()]


def _check_members(
    given: NDArray[np.float64],
    decoded: NDArray[np.float64],
    shape: tuple[int, ...],
    format: Format,
) -> None:
    same = given.view(np.uint64) == decoded.view(np.uint64)
    strangers = np.flatnonzero(~(same | (np.isnan(given) & np.isnan(decoded))))
    if strangers.size:
        index = tuple(int(i) for i in np.unravel_index(strangers[0], shape))
        where = f" at index {index[0] if len(index) == 1 else index}" if index else ""
        raise ValueError(
            f"{float(given[strangers[0]])!r}{where} is not a value of {format}: "
            "give a rounding to round it"
        )


@launching.default_environment()
def decode(codes: ArrayLike, format: FormatLike) -> Any:
    """The values of bit patterns.

    Parameters
    ----------
    codes : array_like of int
        Codes of the format: integers; or an array or tensor whose dtype is the format's in numpy
        (of any byte order), ml_dtypes or torch, whose bits are the codes.
    format : Format or str
        The format.

    Returns
    -------
    ndarray or scalar
        The values in the format's carrier; shape of `codes`.  Without subnormals, the codes that
        would be subnormal are zeros.

    Raises
    ------
    ValueError
        If a code is negative or has more bits than the format.
    TypeError
        If `codes` does not hold integers; Python floats are none.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.decode([0x38, 0xFE, 0x7F], "float8_e4m3fn")
    array([   1., -448.,   nan], dtype=float32)
    """
    format = _formats.format(format)
    array = _as_codes(codes, format)
    if format.bits <= _TABLE_BITS:
        return _table(format)[array]
    flat = np.ascontiguousarray(array, dtype=code_dtype(format)).reshape(-1)
    return _decoded(flat, format).astype(format.carrier).reshape(array.shape)[()]


def _as_codes(codes: ArrayLike, format: Format) -> NDArray[Any]:
    check_not_masked(codes, "codes")
    codes = _codes_of_tensor(codes, format)
    array = np.asarray(codes)
    if array.size == 0:
        return array.astype(np.uint8)
    if not (hasattr(codes, "dtype") or hasattr(codes, "__array__")):
        array = _listed_codes(codes, array, format)
    elif array.dtype.kind in "fV" and _formats.named_formats().get(array.dtype.name) == format:
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        array = native.view(code_dtype(format))
    if array.dtype.kind not in "iu":
        raise TypeError(f"codes must be integers, not {array.dtype}")
    wrong = (array < 0) | (array > (1 << format.bits) - 1)
    if wrong.any():
        first = array[wrong].ravel()[0]
        raise ValueError(f"code {first} of {format} is not in 0..2**{format.bits} - 1")
    return array


def _codes_of_tensor(codes: Any, format: Format) -> Any:
    """Codes themselves, or those that a tensor of PyTorch holds as numbers of the format."""
    if not is_tensor(codes):
        return codes
    numbers = codes.detach()
    if numbers.is_floating_point() and not str(numbers.dtype).endswith("_x2"):
        width = numbers.element_size()
        if _formats.format(numbers.dtype) == format and width == code_dtype(format).itemsize:
            integers = sys.modules["torch"].__dict__[f"int{8 * width}"]
            return plain(numbers.view(integers), "codes").view(code_dtype(format))
    return plain(numbers, "codes")


def _listed_codes(codes: ArrayLike, array: NDArray[Any], format: Format) -> NDArray[Any]:
    """The codes of a list, of which numpy makes floats or objects where they differ in size."""
    if array.dtype.kind in "iu":
        return array
    listed = np.asarray(codes, object)
    for code in listed.ravel():
        if isinstance(code, bool | np.bool_) or not isinstance(code, int | np.integer):
            raise TypeError(f"codes must be integers, not {type(code).__name__}")
        if not 0 <= code < 1 << format.bits:
            raise ValueError(f"code {code} of {format} is not in 0..2**{format.bits} - 1")
    return listed.astype(np.uint64)


@launching.default_environment()
def values(format: FormatLike) -> Carrier:
    """All finite values of a format of at most 16 bits.

    Parameters
    ----------
    format : Format or str
        The format.

    Returns
    -------
    ndarray, 1-d
        In ascending order, in the format's carrier; -0, where there is one, before +0.

    Raises
    ------
    ValueError
        If the format has more than 16 bits.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.values("float4_e2m1fn")
    array([-6. , -4. , -3. , -2. , -1.5, -1. , -0.5, -0. ,  0. ,  0.5,  1. ,
            1.5,  2. ,  3. ,  4. ,  6. ], dtype=float32)
    """
    format = _formats.format(format)
    if format.bits > _TABLE_BITS:
        raise ValueError(f"{format} has {format.bits} bits: too many values to list")
    table = _table(format)
    if format.twos_complement:
        return cast(Carrier, np.sort(table[np.abs(table) <= format.max_finite]))
    half = table.size // 2 if format.signed else 0
    negative: Any = table[half:][::-1] if format.signed else table[:0]
    positive: Any = table[:half] if format.signed else table
    if not format.subnormals and format.has_zero:
        # Exponent field 0 holds zero alone, many times over.
        positive, negative = (_one_zero(side) for side in (positive, negative))
        if not format.has_negative_zero:
            negative = negative[negative != 0]
    everything = np.concatenate([negative, positive])
    return cast(Carrier, everything[np.isfinite(everything)])


def _one_zero(side: Carrier) -> Carrier:
    zeros = np.flatnonzero(side == 0)
    return cast(Carrier, np.delete(side, zeros[1:]))


def pack(codes: ArrayLike, format: FormatLike) -> NDArray[np.uint8]:
    """Codes of a narrow format without gaps between them.

    Bits go from the lowest of the first byte upward: two fp4 codes a byte, the first in the low
    half; four fp6 codes in three bytes.

    Parameters
    ----------
    codes : array_like of int, shape (..., n)
        Codes of the format.
    format : Format or str
        A format of at most 8 bits.

    Returns
    -------
    ndarray of uint8, shape (..., ceil(n * bits / 8))
        The last byte is filled up with zeros.

    Raises
    ------
    ValueError
        If the format has more than 8 bits, or a code more bits than the format.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.pack(fpemu.encode([1.0, -6.0, 0.5], "float4_e2m1fn"), "float4_e2m1fn")
    array([242,   1], dtype=uint8)
    """
    format = _narrow(format)
    array = np.atleast_1d(_as_codes(codes, format)).astype(np.uint8)
    bits = np.unpackbits(array[..., np.newaxis], axis=-1, bitorder="little", count=format.bits)
    stream = bits.reshape(*array.shape[:-1], array.shape[-1] * format.bits)
    return np.packbits(stream, axis=-1, bitorder="little")


def unpack(packed: ArrayLike, format: FormatLike, count: int | None = None) -> NDArray[np.uint8]:
    """The codes that :func:`pack` put together.

    Parameters
    ----------
    packed : bytes-like or array_like of uint8, shape (..., bytes)
        Packed codes.
    format : Format or str
        A format of at most 8 bits.
    count : int, optional
        How many codes there are; as many as fit if left out.

    Returns
    -------
    ndarray of uint8, shape (..., count)

    Raises
    ------
    ValueError
        If the bytes hold fewer than `count` codes, or are no bytes.
    TypeError
        If `packed` does not hold integers.
    """
    format = _narrow(format)
    array = _as_bytes(packed)
    fitting = array.shape[-1] * 8 // format.bits
    number = fitting if count is None else integer("count", count)
    if not 0 <= number <= fitting:
        raise ValueError(
            f"{array.shape[-1]} bytes hold {fitting} codes of {format.bits} bits, not {count}"
        )
    bits = np.unpackbits(array, axis=-1, bitorder="little", count=number * format.bits)
    codes = bits.reshape(*array.shape[:-1], number, format.bits)
    return np.packbits(codes, axis=-1, bitorder="little")[..., 0]


def _as_bytes(packed: ArrayLike) -> NDArray[np.uint8]:
    if isinstance(packed, bytes | bytearray | memoryview):
        packed = np.frombuffer(packed, np.uint8)
    check_not_masked(packed, "packed")
    array = np.atleast_1d(np.asarray(packed))
    if array.size == 0:
        return array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise TypeError(f"packed codes must be bytes, not {array.dtype}")
    if array.size and (array.min() < 0 or array.max() > 255):
        raise ValueError(f"packed codes must be bytes, not {array.min()}..{array.max()}")
    return array.astype(np.uint8)


def _narrow(format: FormatLike) -> Format:
    format = _formats.format(format)
    if format.bits > 8:
        raise ValueError(f"only formats of at most 8 bits are packed, not {format}")
    return format
