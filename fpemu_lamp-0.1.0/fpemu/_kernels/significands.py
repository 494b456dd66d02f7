"""Numbers taken apart: a 64-bit significand and an exponent, and the way back with one rounding.

Every operation in integer arithmetic begins with :func:`unpack` and ends in
:func:`round_significand`; both work on float64 words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fpemu._kernels import words
from fpemu._kernels.caching import inline
from fpemu._kernels.rounding import STOCHASTIC, Target, increment, signed_result

__all__ = ["assemble", "round_pair", "round_significand", "unpack"]

SIGN = np.uint64(2**63)
INFINITY = np.uint64(0x7FF << 52)
ZERO = np.uint64(0)
ONE = np.uint64(1)
_BIAS = 1023
_FRACTION_BITS = 52
_FRACTION = np.uint64(2**52 - 1)
_IMPLICIT = np.uint64(2**52)
_HALF = np.uint64(2**63)
_ALL_BITS = np.uint64(2**64 - 1)


@inline
def round_significand(sign: Any, significand: Any, exponent: int, target: Target, kind: int) -> Any:
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
    # At precision 1 the last bit of a P3109 code is that of the exponent.
    parity = words.bit_or(np.uint64(exponent + dropped), target.exponent_parity)
    odd = words.bit_and(words.bit_and(kept, parity), 1)
    # A carry out of the tail is one into what is kept.
    raised = words.add(tail, increment(odd, _ALL_BITS, sign, target, kind))
    if raised < tail:
        kept = words.add(kept, 1)
    kept = _at_least_smallest(kept, target)
    return signed_result(assemble(kept, exponent + dropped), sign, target)


@inline
def _at_least_smallest(kept: Any, target: Target) -> Any:
    """One quantum instead of none where the format has no zero, whatever a zero becomes there."""
    return ONE if kept == 0 and target.zero != 0 else kept


@inline
def round_pair(
    sign: Any,
    high: Any,
    low: Any,
    exponent: int,
    target: Target,
    kind: int,
    random: Any,
    unused: Any,
) -> Any:
    """The word of ``(high + low / 2**64) * 2**exponent`` rounded into the target.

    The highest bit of `high` is set; the lowest one of `low` may stand for any nonzero rest.  A
    stochastic mode takes the discarded fraction to ``64 - unused`` bits, truncated or to nearest,
    and goes up if adding `random`, whose ``unused`` low bits are clear, carries out of them.
    """
    if kind != STOCHASTIC:
        significand = words.bit_or(high, ONE if low != 0 else ZERO)
        return round_significand(sign, significand, exponent, target, kind)
    quantum = np.int64(target.quantum_field) - (_BIAS + _FRACTION_BITS)
    excess = np.int64(target.quantum_field) - np.int64(target.normal_field)
    dropped = max(64 - _FRACTION_BITS - 1 + excess, quantum - exponent)
    kept, fraction, rest = ZERO, ZERO, high
    if dropped < 64:
        kept = words.shift_right(high, np.uint64(dropped))
        fraction = words.shift_left(high, np.uint64(64 - dropped))
        fraction = words.bit_or(fraction, words.shift_right(low, np.uint64(dropped)))
        rest = words.shift_left(low, np.uint64(64 - dropped))
    elif dropped < 128:
        fraction = words.shift_right(high, np.uint64(dropped - 64))
        lost = words.shift_left(high, np.uint64(128 - dropped)) if dropped > 64 else ZERO
        rest = words.bit_or(low, lost)
    if target.equal != 0:
        up = words.bit_or(fraction, rest) != 0 and words.bit_and(random, _HALF) != 0
    else:
        up = _carries(fraction, rest, words.bit_or(random, target.forced), unused, target)
    if up:
        kept = words.add(kept, 1)
    kept = _at_least_smallest(kept, target)
    return signed_result(assemble(kept, exponent + dropped), sign, target)


@inline
def _carries(fraction: Any, rest: Any, random: Any, unused: Any, target: Target) -> Any:
    """Whether a random number and a fraction, of which `rest` is more, are 1 or more together."""
    kept = words.shift_right(fraction, unused)
    if target.fraction_bits < 64:
        tail = words.subtract(words.shift_left(ONE, unused), 1)
        beyond = words.bit_and(fraction, tail)
        half = words.add(words.shift_right(tail, 1), 1)
        tie_goes_up = rest != 0 or words.bit_and(kept, 1) != 0
        if beyond > half or (beyond == half and tie_goes_up):
            kept = words.add(kept, 1)
    greatest = words.shift_right(_ALL_BITS, unused)
    return kept > greatest or words.shift_right(random, unused) > words.subtract(greatest, kept)


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
