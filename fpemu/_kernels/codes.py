"""Values to bit patterns and back, in compiled code."""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, words
from fpemu._kernels.caching import inline
from fpemu._kernels.facts import FormatFacts
from fpemu._kernels.significands import INFINITY, SIGN, ZERO, assemble
from fpemu._kernels.significands import unpack as significand_of

__all__ = ["decode_flat", "encode_flat"]

_COST: Final = 2.0  # nanoseconds of a number


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
def _codes_of(format: FormatFacts) -> _Codes:
    top = (1 << (format.bits - format.signed)) - 1
    sign = top + 1 if format.signed else 0
    one_nan = format.has_nan and format.signed and not format.negative_zero
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
    return words.bit_or(code, sign)


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
    given, result = x[start:stop], out[start:stop]  # an index from 0 on is known not to be negative
    for i in range(given.size):
        result[i] = _encode_word(words.word(given[i]), codes)


@caching.kernel
def _decode_range(start, stop, codes_array, out, codes):  # type: ignore[no-untyped-def]
    given, result = codes_array[start:stop], out[start:stop]
    for i in range(given.size):
        result[i] = words.floating(_decode_word(np.uint64(given[i]), codes))


def encode_flat(
    x: NDArray[np.float64], out: NDArray[np.unsignedinteger[Any]], format: FormatFacts
) -> None:
    """Put the codes of members of a format into `out`; others get codes that decode differently."""
    launching.require_shapes((x, (x.size,)), (out, (x.size,)))
    launching.run(_encode_range, x.size, x, out, _codes_of(format), cost=_COST)


def decode_flat(codes: NDArray[Any], format: FormatFacts) -> NDArray[np.float64]:
    """The values of the codes of a flat array."""
    out = np.empty(codes.size, np.float64)
    launching.require_shapes((codes, (codes.size,)))
    launching.run(_decode_range, codes.size, codes, out, _codes_of(format), cost=_COST)
    return out
