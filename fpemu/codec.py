"""Values and bit patterns: ``encode``, ``decode``, ``values``, and packed storage.

Codes are laid out as IEEE 754, ml_dtypes, the OCP specifications and P3109 have them: sign,
exponent field, fraction, from the top down.  An array of codes of a format that ml_dtypes knows may
be viewed as its type, ``encode(x, "float8_e4m3fn").view(ml_dtypes.float8_e4m3fn)``, without a copy,
and back.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import formats as _formats
from fpemu._kernels import caching, launching, words
from fpemu._kernels.caching import inline
from fpemu._kernels.significands import INFINITY, SIGN, ZERO, assemble
from fpemu._kernels.significands import unpack as significand_of
from fpemu.formats import Format, FormatLike
from fpemu.rounding import Carrier, RoundingLike, as_carrier
from fpemu.rounding import round as round_into

__all__ = ["decode", "encode", "pack", "unpack", "values"]

_GRAIN: Final = 2**15
_TABLE_BITS: Final = 16  # formats up to this width are decoded by a table


class _Codes(NamedTuple):
    """A format as integers, for the kernels that go between values and codes."""

    precision: Any
    emin: Any
    quantum_exponent: Any
    normal_field: Any  # exponent field of 2**emin: 1, or 0 in a format without zero
    subnormals: Any
    sign: Any  # the sign bit, 0 if there is none
    largest: Any  # code of the largest finite number
    infinity: Any  # code of infinity, or of what stands for it
    nan: Any
    nan_sign: Any  # the sign bit if NaNs come in both signs
    zero_sign: Any  # the sign bit if zeros do
    has_infinity: Any
    negative_zero_is_nan: Any


@functools.lru_cache(maxsize=4096)
def _codes_of(format: Format) -> _Codes:
    top = (1 << (format.bits - format.signed)) - 1
    sign = top + 1 if format.signed else 0
    one_nan = format.signed and not format.negative_zero
    # Of IEEE's NaNs the quiet one without payload; of a single one, that.
    nan = sign if one_nan else top - format.high_nans + (format.high_nans + 1) // 2
    fields = {
        "precision": format.precision,
        "emin": format.emin,
        "quantum_exponent": format.quantum_exponent,
        "normal_field": 1 if format.has_zero else 0,
        "subnormals": format.subnormals,
        "sign": sign,
        "largest": format.max_finite_code,
        "infinity": format.max_finite_code + 1,
        "nan": nan,
        "nan_sign": 0 if one_nan else sign,
        "zero_sign": sign if format.has_negative_zero else 0,
        "has_infinity": format.infinities,
        "negative_zero_is_nan": one_nan,
    }
    signed = {"precision", "emin", "quantum_exponent", "normal_field"}
    return _Codes(**{k: (np.int64 if k in signed else np.uint64)(v) for k, v in fields.items()})


def code_dtype(format: Format) -> np.dtype[Any]:
    """The smallest unsigned integer type that holds the codes of a format."""
    return np.dtype(f"uint{next(width for width in (8, 16, 32, 64) if format.bits <= width)}")


@inline
def _encode_word(bits: Any, codes: _Codes) -> Any:
    """The code of a member of the format; of anything else, some code that decodes differently."""
    magnitude = words.bit_and(bits, ~SIGN)
    negative = bits != magnitude
    if magnitude > INFINITY:
        return words.bit_or(codes.nan, codes.nan_sign if negative else ZERO)
    sign = codes.sign if negative else ZERO
    if magnitude == INFINITY:
        return words.bit_or(codes.infinity, sign)
    if magnitude == 0:
        return codes.zero_sign if negative else ZERO
    significand, exponent = significand_of(magnitude)
    if exponent + 63 >= codes.emin:
        field = exponent + 63 - codes.emin + codes.normal_field
        fraction_bits = np.uint64(codes.precision - 1)
        implicit = words.shift_left(np.uint64(1), fraction_bits)
        fraction = words.subtract(
            words.shift_right(significand, np.uint64(64 - codes.precision)), implicit
        )
        code = words.add(words.shift_left(np.uint64(field), fraction_bits), fraction)
    else:
        dropped = codes.quantum_exponent - exponent
        code = words.shift_right(significand, np.uint64(min(dropped, 63)))
    return words.bit_or(words.minimum(code, codes.largest), sign)


@inline
def _decode_word(code: Any, codes: _Codes) -> Any:
    """The word of the float64 number that a code stands for."""
    sign = words.bit_and(code, codes.sign)
    magnitude = words.bit_xor(code, sign)
    float_sign = SIGN if sign != 0 else ZERO
    if magnitude == 0 and sign != 0 and codes.negative_zero_is_nan != 0:
        return words.word(np.nan)
    if magnitude > codes.largest:
        if codes.has_infinity != 0 and magnitude == codes.infinity:
            return words.bit_or(INFINITY, float_sign)
        return words.bit_or(words.word(np.nan), float_sign)
    fraction_bits = np.uint64(codes.precision - 1)
    field = np.int64(words.shift_right(magnitude, fraction_bits))
    implicit = words.shift_left(np.uint64(1), fraction_bits)
    fraction = words.bit_and(magnitude, words.subtract(implicit, 1))
    exponent = codes.quantum_exponent
    if field >= codes.normal_field:
        fraction = words.bit_or(fraction, implicit)
        exponent += field - codes.normal_field
    elif codes.subnormals == 0:
        fraction = ZERO
    if fraction == 0 and codes.zero_sign == 0:
        float_sign = ZERO
    return words.bit_or(assemble(fraction, exponent), float_sign)


@caching.kernel
def _encode_range(start, stop, x, out, codes):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        out[i] = _encode_word(words.word(x[i]), codes)


@caching.kernel
def _decode_range(start, stop, codes_array, out, codes):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        out[i] = words.floating(_decode_word(np.uint64(codes_array[i]), codes))


def _decode_flat(codes: NDArray[Any], format: Format) -> NDArray[np.float64]:
    out = np.empty(codes.size, np.float64)
    launching.run(_decode_range, codes.size, codes, out, _codes_of(format), grain=_GRAIN)
    return out


@functools.lru_cache(maxsize=256)
def _table(format: Format) -> Carrier:
    """The values of all codes of a format of at most 16 bits, in its carrier."""
    codes = np.arange(1 << format.bits, dtype=code_dtype(format))
    table = _decode_flat(codes, format).astype(format.carrier)
    table.flags.writeable = False
    return table


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
        Codes in the smallest of uint8, uint16, uint32, uint64; shape of `x`.

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
    array = as_carrier(x) if rounding is None else np.asarray(round_into(x, format, rounding))
    flat = np.ascontiguousarray(array, dtype=np.float64).reshape(-1)
    out = np.empty(flat.size, code_dtype(format))
    launching.run(_encode_range, flat.size, flat, out, _codes_of(format), grain=_GRAIN)
    if rounding is None:
        _check_members(flat, _decode_flat(out, format), array.shape, format)
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
        Codes of the format: integers, or an array of an 8-bit or wider type that ml_dtypes has for
        it, which is viewed as codes.
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
        If `codes` does not hold integers.

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
    return _decode_flat(flat, format).astype(format.carrier).reshape(array.shape)[()]


def _as_codes(codes: ArrayLike, format: Format) -> NDArray[Any]:
    array = np.asarray(codes)
    if array.dtype.kind in "fV" and _formats.named_formats().get(array.dtype.name) == format:
        array = array.view(code_dtype(format))
    if array.dtype.kind not in "iu":
        if array.size == 0:
            return array.astype(np.uint8)
        raise TypeError(f"codes must be integers, not {array.dtype}")
    wrong = (array < 0) | (array > (1 << format.bits) - 1)
    if wrong.any():
        first = array[wrong].ravel()[0]
        raise ValueError(f"code {first} of {format} is not in 0..2**{format.bits} - 1")
    return array


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
    packed : array_like of uint8, shape (..., bytes)
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
    number = fitting if count is None else count
    if not 0 <= number <= fitting:
        raise ValueError(
            f"{array.shape[-1]} bytes hold {fitting} codes of {format.bits} bits, not {count}"
        )
    bits = np.unpackbits(array, axis=-1, bitorder="little", count=number * format.bits)
    codes = bits.reshape(*array.shape[:-1], number, format.bits)
    return np.packbits(codes, axis=-1, bitorder="little")[..., 0]


def _as_bytes(packed: ArrayLike) -> NDArray[np.uint8]:
    array = np.atleast_1d(np.asarray(packed))
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
