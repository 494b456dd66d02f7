"""Numbers taken apart: a 64-bit significand and an exponent, and the way back with one rounding.

Every operation in integer arithmetic begins with :func:`unpack` and ends in
:func:`round_significand`; both work on float64 words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fpemu import words
from fpemu.parallel import inline
from fpemu.rounding import RNA, RNE, RNZ, RTN, RTO, RTP, Target, signed_result

__all__ = ["assemble", "round_significand", "rounds_up", "unpack"]

SIGN = np.uint64(2**63)
INFINITY = np.uint64(0x7FF << 52)
ZERO = np.uint64(0)
ONE = np.uint64(1)
_BIAS = 1023
_FRACTION_BITS = 52
_FRACTION = np.uint64(2**52 - 1)
_IMPLICIT = np.uint64(2**52)
_HALF = np.uint64(2**63)


@inline
def rounds_up(odd: bool, against_half: int, negative: bool, mode: int) -> bool:
    """Whether an inexact magnitude goes up, its tail being below (-1), at (0) or above half."""
    if mode == RNE:
        return against_half > 0 or (against_half == 0 and odd)
    if mode == RNA:
        return against_half >= 0
    if mode == RNZ:
        return against_half > 0
    if mode == RTP:
        return not negative
    if mode == RTN:
        return negative
    return not odd if mode == RTO else False


@inline
def round_significand(sign: Any, significand: Any, exponent: int, target: Target, mode: int) -> Any:
    """The word of ``significand * 2**exponent`` rounded into the target.

    The significand has its highest bit set; its lowest bit may stand for any nonzero rest.
    """
    quantum = np.int64(target.quantum_field) - (_BIAS + _FRACTION_BITS)
    excess = np.int64(target.quantum_field) - np.int64(target.normal_field)
    # A normal_field of 0 stands for emin = -1023, below float64's own normal numbers.
    dropped = max(64 - _FRACTION_BITS - 1 + excess, quantum - exponent)
    if dropped < 64:
        kept = words.shift_right(significand, np.uint64(dropped))
        tail = words.shift_left(significand, np.uint64(64 - dropped))
    else:
        kept = ZERO
        tail = significand if dropped == 64 else ONE
    if tail != 0:
        against_half = 1 if tail > _HALF else 0 if tail == _HALF else -1
        if rounds_up(words.bit_and(kept, 1) != 0, against_half, sign != 0, mode):
            kept = words.add(kept, 1)
    return signed_result(assemble(kept, exponent + dropped), sign, target)


@inline
def assemble(integer: Any, exponent: int) -> Any:
    """The magnitude word of ``integer * 2**exponent``, at most 2**53 each; infinity beyond."""
    if integer == 0:
        return integer
    top = 63 - np.int64(words.leading_zeros(integer))
    field = top + exponent + _BIAS
    if field >= 2 * _BIAS + 1:
        return INFINITY
    if field <= 0:
        shift = exponent + _BIAS + _FRACTION_BITS - 1
        return words.shift_left(integer, np.uint64(shift))
    if top <= _FRACTION_BITS:
        fraction = words.shift_left(integer, np.uint64(_FRACTION_BITS - top))
    else:
        fraction = words.shift_right(integer, np.uint64(top - _FRACTION_BITS))
    return words.add(
        words.bit_and(fraction, _FRACTION), words.shift_left(np.uint64(field), _FRACTION_BITS)
    )


@inline
def unpack(magnitude: Any) -> Any:
    """Significand with its highest bit at 63, and its exponent, of a nonzero finite magnitude."""
    field = np.int64(words.shift_right(magnitude, _FRACTION_BITS))
    fraction = words.bit_and(magnitude, _FRACTION)
    significand = words.bit_or(fraction, _IMPLICIT) if field > 0 else fraction
    shift = np.int64(words.leading_zeros(significand))
    return (
        words.shift_left(significand, np.uint64(shift)),
        max(field, np.int64(1)) - _BIAS - _FRACTION_BITS - shift,
    )
