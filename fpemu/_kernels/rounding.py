"""Rounding in compiled code: words of a carrier into a format, exactly.

The exact kernel works on the bits of the carrier in integer arithmetic.  Everything that depends on
the format, the mode, overflow or the sign is data (:class:`Target`), so that one compiled kernel
serves all formats of a carrier and all deterministic modes; rounding to nearest even, by far the
most used, has a shorter version of its own, and stochastic rounding needs random bits.  A second
kernel in floating-point arithmetic (:class:`Shortcut`) serves the common case at the speed of
memory; it defers to the exact one wherever its proof does not reach.

References
----------
IEEE Std 754-2019, sections 4.3 (rounding directions) and 7.4 (overflow).
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from fpemu._kernels import launching, words
from fpemu._kernels.caching import inline
from fpemu._kernels.facts import FormatFacts, RoundingFacts

__all__ = [
    "ALL_OF_A_FRACTION",
    "DETERMINISTIC",
    "DIRECTED",
    "EQUAL",
    "LAYOUTS",
    "MODES",
    "NEAREST_EVEN",
    "STOCHASTIC",
    "TIES",
    "TO_ODD",
    "Layout",
    "Shortcut",
    "Target",
    "increment",
    "is_own_format",
    "is_plain",
    "kind_of",
    "known_mode",
    "nearest_increment",
    "read_bits",
    "round_number",
    "round_word",
    "round_word_at",
    "shortcut_of",
    "signed_result",
    "target_of",
    "unused_bits",
    "with_mode",
    "word_of",
    "zero_of",
]

Carrier = NDArray[np.float32] | NDArray[np.float64]

# --- modes as data --------------------------------------------------------------------------------

NEAREST_EVEN, DETERMINISTIC, STOCHASTIC = range(3)
"""The kinds of code that are compiled: for rne, for any mode without random bits, for sr."""

ALL_OF_A_FRACTION: Final = 2**31 - 1
"""More bits than any fraction has."""

# Kinds for whole arrays, for speed: rtz, rtp and rtn of whole arrays take a quarter less time,
# so does sr_equal, and rto, rna and rnz take half.
DIRECTED: Final = 3
EQUAL: Final = 4
TO_ODD: Final = 5
TIES: Final = 6


class Mode(NamedTuple):
    """What a rounding mode does, each a condition for going up in magnitude."""

    nearest: bool = False  # beyond half a unit
    ties_even: bool = False  # and at half of one, if that makes it even
    ties_away: bool = False  # and at half of one
    directed: bool = False  # anything, if positive
    directed_negative: bool = False  # anything, if negative
    to_odd: bool = False  # anything, if that makes it odd
    equal: bool = False  # stochastic: with probability one half
    forced: bool = False  # stochastic: a one is appended to the random bits
    nearest_fraction: bool = False  # stochastic: the fraction is rounded to the random bits
    overflows: str = ""  # the signs for which overflow gives infinity (IEEE 754 section 7.4)
    stochastic: bool = False

    @property
    def more_bits(self) -> int:
        """How many bits of the fraction count beside as many as there are random bits."""
        return int(self.forced or self.nearest_fraction)


MODES: Final = {
    "rne": Mode(nearest=True, ties_even=True, overflows="+-"),
    "rna": Mode(nearest=True, ties_away=True, overflows="+-"),
    "rnz": Mode(nearest=True, overflows="+-"),
    "rtz": Mode(),
    "rtp": Mode(directed=True, overflows="+"),
    "rtn": Mode(directed_negative=True, overflows="-"),
    "rto": Mode(to_odd=True),
    "sr": Mode(overflows="+-", stochastic=True),
    "sr_b": Mode(forced=True, overflows="+-", stochastic=True),
    "sr_c": Mode(nearest_fraction=True, overflows="+-", stochastic=True),
    "sr_equal": Mode(equal=True, overflows="+-", stochastic=True),
}


def kind_of(rounding: RoundingFacts) -> int:
    """The kind of code that a rounding needs."""
    if rounding.mode == "rne":
        return NEAREST_EVEN
    return STOCHASTIC if MODES[rounding.mode].stochastic else DETERMINISTIC


def read_bits(rounding: RoundingFacts, unlimited: int) -> int:
    """How many bits of the fraction a stochastic rounding reads, if no number of them is given."""
    if rounding.random_bits is None:
        return unlimited
    return rounding.random_bits + MODES[rounding.mode].more_bits


def unused_bits(rounding: RoundingFacts, width: int = 64) -> np.uint64:
    """How many of the random bits of a word an operation leaves alone."""
    if rounding.random_bits is None:
        return np.uint64(0)
    return np.uint64(width - rounding.random_bits - MODES[rounding.mode].forced)


# --- what a kernel needs to know of a format and a rounding -------------------------------------


class Layout(NamedTuple):
    """The bit layout of a carrier."""

    dtype: type[np.floating[Any]]
    word: type[np.unsignedinteger[Any]]
    precision: int
    bias: int
    least_emin: int  # targets with a smaller emin need a wider carrier


LAYOUTS: Final = {
    np.dtype(np.float32): Layout(np.float32, np.uint32, 24, 127, -127),
    np.dtype(np.float64): Layout(np.float64, np.uint64, 53, 1023, -1023),
}


class Target(NamedTuple):
    """A format and a rounding as words of the carrier, the exact kernel's only parameters.

    Magnitude words are the bits of a nonnegative carrier number; as integers they are ordered as
    the numbers are.  Names ending in ``_negative`` hold for negative values.
    """

    sign: Any  # the sign bit
    one: Any
    field_shift: Any  # position of the exponent field
    carrier_infinity: Any
    normal_field: Any  # exponent field of 2**emin: from there on the precision is constant
    quantum_field: Any  # bits dropped at exponent field e <= normal_field: quantum_field - e
    most_dropped: Any
    quantum: Any  # magnitude of the smallest spacing
    up_above: Any  # below the quantum: round up to it if greater than this
    up_above_negative: Any
    flush_below: Any
    largest: Any
    largest_negative: Any
    overflow: Any
    overflow_negative: Any
    infinity: Any
    infinity_negative: Any
    zero: Any
    zero_negative: Any
    nan: Any
    # The mode, see `increment`.
    upward: Any  # all bits set if it ever goes up in magnitude
    upward_negative: Any
    halved: Any  # 1 if only from half a unit on
    ties_even: Any  # 1 if, at half a unit, to an even significand
    ties_away: Any  # 1 if, at half a unit, always
    to_odd: Any  # 1 if never from an odd significand
    equal: Any  # 1 if with probability one half
    forced: Any  # the bit that is set in all random words
    fraction_bits: Any  # as many bits are kept of the fraction, rounded; all of them where larger
    code_parity: Any  # what of a magnitude tells even codes from odd ones, see `round_word_at`
    exponent_parity: Any  # 0 if the exponent does (at precision 1)
    pole: Any  # what is set in the quotient of a number and zero: all bits of a NaN, or none
    zero_sum: Any  # the sign of a sum of terms of both signs that is zero


def is_own_format(format: FormatFacts, dtype: np.dtype[Any]) -> bool:
    """Whether a format is that of a carrier itself."""
    layout = LAYOUTS[dtype]
    return (
        (format.bits, format.precision) == (layout.dtype(0).itemsize * 8, layout.precision)
        and (format.emin, format.emax) == (1 - layout.bias, layout.bias)
        and format.infinities
        and format.subnormals
        and format.has_negative_zero
    )


def word_of(value: float, dtype: np.dtype[Any]) -> int:
    """The bits of a number that the carrier holds exactly."""
    layout = LAYOUTS[dtype]
    return int(layout.dtype(value).view(layout.word))


def _of_mode(kind: type, mode: Mode, every: int = -1) -> dict[str, Any]:
    """The fields of a Target or a Shortcut that the mode alone decides; `every` has all bits."""
    if kind is Target:
        upward, upward_negative = mode.directed, mode.directed_negative
        both = mode.nearest or mode.to_odd
        return {
            "upward": every if upward or both else 0,
            "upward_negative": every if upward_negative or both else 0,
            "halved": int(mode.nearest),
            "ties_even": int(mode.ties_even),
            "ties_away": int(mode.ties_away),
            "to_odd": int(mode.to_odd),
            "equal": int(mode.equal),
            "forced": 0,
            "fraction_bits": ALL_OF_A_FRACTION,
        }
    return {
        "threshold": _threshold(mode, negative=False),
        "threshold_negative": _threshold(mode, negative=True),
        "at_threshold": int(mode.ties_away),
        "ties_even": int(mode.ties_even),
        "to_odd": int(mode.to_odd),
    }


def _threshold(mode: Mode, negative: bool) -> float:
    """The share of the quantum beyond which a mode goes up in magnitude."""
    if mode.nearest:
        return 0.5
    directed = mode.directed_negative if negative else mode.directed
    return 0.0 if directed or mode.to_odd else 1.0


@functools.lru_cache(maxsize=4096)
@launching.default_environment()
def target_of(format: FormatFacts, rounding: RoundingFacts, dtype: np.dtype[Any]) -> Target:
    """The parameters of the exact kernel for a format, a rounding and a carrier."""
    layout = LAYOUTS[dtype]
    magnitude = functools.partial(word_of, dtype=dtype)
    sign = magnitude(-0.0)
    infinity = magnitude(np.inf)
    nan = magnitude(np.nan) & ~sign
    width = layout.word().itemsize * 8
    never = 2**width - 1

    mode = MODES[rounding.mode]
    quantum_exponent = format.quantum_exponent
    half = magnitude(float(np.ldexp(1.0, quantum_exponent - 1)))
    if mode.nearest or mode.stochastic:
        above, above_negative = (max(half - 1, 0) if mode.ties_away else half,) * 2
    else:
        above = 0 if mode.directed or mode.to_odd else never
        above_negative = 0 if mode.directed_negative or mode.to_odd else never
    smallest = magnitude(format.smallest_subnormal)
    largest = magnitude(format.max_finite)

    infinite = _infinite(format, rounding, infinity, nan, largest)

    def overflowed(direction: str) -> int:
        return infinite if _overflows(format, rounding, direction) else largest

    def negated(word: int) -> int:
        return word if word == nan else word | sign

    zero = 0 if format.has_zero else nan if format.has_nan else smallest
    if format.signed:
        negative = {
            "largest_negative": largest,
            "overflow_negative": negated(overflowed("-")),
            "infinity_negative": negated(infinite),
            "zero_negative": sign if format.has_negative_zero else zero,
        }
    else:  # a negative value that does not round to zero is invalid
        invalid = nan if format.has_nan and not format.p3109 else zero
        negative = {
            "largest_negative": 0,
            "overflow_negative": invalid,
            "infinity_negative": invalid,
            "zero_negative": zero,
        }
    fields = {
        "sign": sign,
        "one": 1,
        "field_shift": layout.precision - 1,
        "carrier_infinity": infinity,
        "normal_field": max(format.emin + layout.bias, 0),
        "quantum_field": quantum_exponent + layout.bias + layout.precision - 1,
        # So many that all of a significand goes; a stochastic rounding tells smaller numbers apart.
        "most_dropped": width - 1 if mode.stochastic else layout.precision,
        "quantum": magnitude(float(np.ldexp(1.0, quantum_exponent))),
        "up_above": above if format.has_zero else 0,
        "up_above_negative": above_negative if format.has_zero else 0,
        "flush_below": 0 if format.subnormals else magnitude(format.smallest_normal),
        "largest": largest,
        "overflow": overflowed("+"),
        "infinity": infinite,
        "zero": zero,
        "nan": nan,
        **negative,
        **_of_mode(Target, mode, every=never),
        **_of_fraction(rounding, mode, width),
        "code_parity": 2 ** (layout.precision - 1) if _by_exponent(format) else 0,
        "exponent_parity": 0 if _by_exponent(format) else 1,
        "pole": nan if format.p3109 else 0,
        "zero_sum": sign if mode.directed_negative else 0,
    }
    return Target(**{name: layout.word(value) for name, value in fields.items()})


def _infinite(
    format: FormatFacts, rounding: RoundingFacts, infinity: int, nan: int, largest: int
) -> int:
    """The word of a positive infinity as a format has it."""
    if rounding.overflow == "saturate":
        return largest
    if format.infinities:
        return infinity
    finite = format.p3109 or rounding.overflow == "propagate" or not format.has_nan
    return largest if finite else nan


def _overflows(format: FormatFacts, rounding: RoundingFacts, direction: str) -> bool:
    """Whether finite numbers of a sign beyond the largest become infinite."""
    mode = MODES[rounding.mode]
    if rounding.overflow == "propagate":
        return False
    if rounding.overflow == "infinity":
        return True
    if format.p3109 and mode.to_odd:
        return format.max_finite_code % 2 == 0  # the code of infinity is odd then
    return direction in mode.overflows


def _by_exponent(format: FormatFacts) -> bool:
    """Whether the last bit of a code is one of its exponent."""
    return format.p3109 and format.precision == 1


def _of_fraction(rounding: RoundingFacts, mode: Mode, width: int) -> dict[str, int]:
    """The fields of a Target that say what random bits meet which bits of the fraction."""
    bits = rounding.random_bits
    if bits is None or read_bits(rounding, width) > width:  # a carrier that is not used
        return {}
    return {
        "forced": 2 ** int(unused_bits(rounding, width)) if mode.forced else 0,
        "fraction_bits": bits if mode.nearest_fraction else ALL_OF_A_FRACTION,
    }


# --- the scalar kernels -------------------------------------------------------------------------


@inline
def increment(odd: Any, tail: Any, sign: Any, target: Target, kind: int) -> Any:
    """What to add to a significand so that clearing the bits of ``tail`` rounds it.

    ``tail`` has the bits set that are dropped, none if nothing is: the increment is then 0.
    ``odd`` is the lowest of the bits that are kept, 0 if nothing is dropped.
    """
    if kind == NEAREST_EVEN:
        return words.add(words.shift_right(tail, 1), odd)
    upward = _of_sign(target.upward_negative, target.upward, sign, target)
    share = words.bit_and(words.shift_right(tail, target.halved), upward)
    # All bits, but none where an odd significand is to stay.
    stays = words.subtract(words.bit_and(odd, target.to_odd), 1)
    tie_away = words.bit_and(tail, target.ties_away)  # 1, as the lowest bit of a tail is set
    tie = words.bit_or(words.bit_and(odd, target.ties_even), tie_away)
    return words.add(words.bit_and(share, stays), tie)


@inline
def _random_increment(
    significand: Any, dropped: Any, tail: Any, random: Any, target: Target
) -> Any:
    """The increment of sr, made of the highest bits of ``random``.

    A random number below ``2**dropped`` makes the sum carry into the bits that are kept with just
    the probability of the discarded fraction.
    """
    # Shifting in two steps, as a shift by all bits of a word would be undefined.
    drawn = words.bit_or(random, target.forced)
    increment = words.shift_right(words.shift_right(drawn, words.subtract(_top(tail), dropped)), 1)
    surplus = words.subtract(dropped, words.minimum(dropped, target.fraction_bits))
    return words.add(increment, nearest_increment(significand, surplus, target))


@inline
def nearest_increment(integer: Any, surplus: Any, target: Target) -> Any:
    """What to add so that clearing the low ``surplus`` bits rounds to nearest, ties to even."""
    tail = words.subtract(words.shift_left(target.one, surplus), target.one)
    odd = words.bit_and(words.shift_right(integer, surplus), words.bit_and(tail, 1))
    return words.add(words.shift_right(tail, 1), odd)


@inline
def _equal_increment(tail: Any, random: Any) -> Any:
    """The increment of sr_equal, by the highest bit of ``random``."""
    nothing = words.subtract(tail, tail)
    return tail if words.shift_right(random, _top(tail)) != 0 else nothing


@inline
def _top(word: Any) -> Any:
    """The position of the highest bit, as a word of the same width."""
    return words.subtract(words.leading_zeros(words.bit_xor(word, word)), 1)


@inline
def round_word(bits: Any, target: Target, kind: int) -> Any:
    """`round_word_at` for the kinds that need no random bits."""
    return round_word_at(bits, target, kind, bits)


@inline
def round_word_at(bits: Any, target: Target, kind: int, random: Any) -> Any:
    """The bits of a carrier number rounded into the target: exact, integer arithmetic throughout.

    The number is ``significand * 2**s`` with ``s`` fixed by its exponent field (at least 1, so that
    subnormal carriers are no case of their own).  Dropping bits down to the format's spacing and
    adding the field back gives the result, a carry into the next binade included.  That holds from
    the quantum upward; below it the result is zero or the quantum.
    """
    sign = words.bit_and(bits, target.sign)
    magnitude = words.bit_xor(bits, sign)
    raw_field = words.shift_right(magnitude, target.field_shift)
    field = words.maximum(raw_field, 1)
    base = words.shift_left(words.subtract(field, 1), target.field_shift)
    significand = words.subtract(magnitude, base)
    # A normal_field of 0 is that of normal numbers which the carrier holds as subnormals.
    last_field = target.normal_field if raw_field != 0 else target.one
    dropped = words.minimum(
        words.subtract(target.quantum_field, words.minimum(field, last_field)),
        target.most_dropped,
    )
    tail = words.subtract(words.shift_left(target.one, dropped), 1)
    if kind == STOCHASTIC:
        raised = words.add(
            significand, _random_increment(significand, dropped, tail, random, target)
        )
    elif kind == EQUAL:
        raised = words.add(significand, _equal_increment(tail, random))
    else:
        # At precision 1 the last bit of a P3109 code is that of the exponent field; the highest bit
        # of the significand, the one that is kept, is flipped where the field is odd.
        code = words.bit_xor(significand, words.bit_and(magnitude, target.code_parity))
        odd = words.bit_and(words.shift_right(code, dropped), words.bit_and(tail, 1))
        if kind == DIRECTED:  # which knows no parity
            odd = words.subtract(tail, tail)
        raised = words.add(significand, increment(odd, tail, sign, target, kind))
    kept = words.subtract(raised, words.bit_and(raised, tail))
    rounded = words.add(kept, base)
    nothing = words.subtract(tail, tail)
    up_above = _of_sign(target.up_above_negative, target.up_above, sign, target)
    if magnitude < target.quantum:
        up = magnitude > up_above
        if kind in (STOCHASTIC, EQUAL):
            up = words.shift_right(raised, dropped) != 0 or target.up_above == 0
        rounded = target.quantum if up else nothing
    result = signed_result(nothing if magnitude == 0 else rounded, sign, target)
    if magnitude == target.carrier_infinity:
        result = _of_sign(target.infinity_negative, target.infinity, sign, target)
    if magnitude > target.carrier_infinity:
        result = target.nan
    return result


@inline
def _of_sign(if_negative: Any, if_positive: Any, sign: Any, target: Target) -> Any:
    """One of two words, by masks: no processor predicts the signs of numbers."""
    mask = words.subtract(words.shift_right(sign, words.leading_zeros(target.one)), target.one)
    return words.bit_xor(if_negative, words.bit_and(words.bit_xor(if_negative, if_positive), mask))


@inline
def signed_result(rounded: Any, sign: Any, target: Target) -> Any:
    """The word of a rounded magnitude and its sign: flushed, overflowed, zero or just that."""
    result = words.bit_or(rounded, sign)
    if rounded > _of_sign(target.largest_negative, target.largest, sign, target):
        result = _of_sign(target.overflow_negative, target.overflow, sign, target)
    if rounded < target.flush_below or rounded == 0:
        result = _of_sign(target.zero_negative, target.zero, sign, target)
    return result


class Shortcut(NamedTuple):
    """The parameters of the floating-point kernel, in words and numbers of the carrier."""

    sign: Any
    exponent_mask: Any
    smallest_normal: Any
    shift: Any  # carrier precision minus precision, in the exponent field
    limit: Any  # magnitudes from here on are for the exact kernel
    largest: Any
    overflow: Any
    overflow_negative: Any
    quantum_scale: Any  # 2**(1 - carrier precision), a number
    zero: Any  # what added to a zero gives it its sign: -0.0 if it keeps its own
    # The mode: what must lie beyond a multiple of the quantum for the next one, as a share of it.
    threshold: Any  # a number, as the next
    threshold_negative: Any
    at_threshold: Any  # 1 if what lies just there is enough
    ties_even: Any  # 1 if the nearest multiple, ties to even, is what the mode wants
    to_odd: Any  # 1 if the multiple must be even, too


@functools.lru_cache(maxsize=4096)
@launching.default_environment()
def shortcut_of(format: FormatFacts, rounding: RoundingFacts, dtype: np.dtype[Any]) -> Shortcut:
    """The parameters of :func:`round_number`; a limit of zero where it does not apply."""
    layout = LAYOUTS[dtype]
    target = target_of(format, rounding, dtype)
    mode = MODES[rounding.mode]
    excess = layout.precision - format.precision
    applies = (
        is_plain(format, target)
        and 1 - layout.bias <= format.emin < layout.bias - excess
        and 0 < excess < layout.precision - _by_exponent(format)
    )
    limit = word_of(float(np.ldexp(1.0, layout.bias - excess)), dtype) if applies else 0
    return Shortcut(
        sign=target.sign,
        exponent_mask=target.carrier_infinity,
        smallest_normal=layout.word(word_of(format.smallest_normal, dtype)),
        shift=layout.word(max(excess, 0) << (layout.precision - 1)),
        limit=layout.word(limit),
        largest=target.largest,
        overflow=target.overflow,
        overflow_negative=layout.word(target.overflow_negative & ~target.sign),
        quantum_scale=layout.dtype(np.ldexp(1.0, 1 - layout.precision)),
        zero=zero_of(format, dtype),
        **{
            name: (layout.dtype if isinstance(value, float) else layout.word)(value)
            for name, value in _of_mode(Shortcut, mode).items()
        },
    )


def is_plain(format: FormatFacts, target: Target) -> bool:
    """Whether magnitudes alone are rounded, with subnormals, and zeros at most lose their sign."""
    # A NaN has the sign of what overflowed in formats with a negative zero, and none in others.
    overflows = format.has_negative_zero or target.overflow_negative != target.nan
    return format.signed and format.has_zero and format.subnormals and bool(overflows)


def zero_of(format: FormatFacts, dtype: np.dtype[Any]) -> Any:
    """What added to a zero gives it the sign that it has in a format, and changes no other number.

    A zero keeps its sign beside -0.0, and loses it beside +0.0.
    """
    return LAYOUTS[dtype].dtype(-0.0 if format.has_negative_zero else 0.0)


@inline
def round_number(number: Any, shortcut: Shortcut, kind: int) -> Any:
    """A carrier number below the limit, rounded in floating-point arithmetic.

    Let q be the format's spacing at ``|x|`` (that of its subnormals below ``2**emin``), and c the
    power of two ``q * 2**(P-1)`` with P the carrier's precision.  ``|x| <= c`` because the format
    has fewer bits than the carrier, so ``|x| + c`` lies in [c, 2c], where the carrier's spacing is
    q: the addition rounds ``|x|`` to a multiple of q, ties to even as c is an even multiple, and
    taking c off again is exact.  The other modes mend that by one q where it went the other way;
    every difference below is a multiple of the carrier's spacing at x and at most q, hence exact.
    """
    bits = words.word(number)
    sign = words.bit_and(bits, shortcut.sign)
    magnitude = words.bit_xor(bits, sign)
    field = words.maximum(
        words.bit_and(magnitude, shortcut.exponent_mask), shortcut.smallest_normal
    )
    constant = words.floating(words.add(field, shortcut.shift))
    exact = words.floating(magnitude)
    shifted = exact + constant
    nearest = shifted - constant
    if kind == TO_ODD:
        nearest = _odd(exact, nearest, shifted, constant)
    elif kind != NEAREST_EVEN:
        quantum = constant * shortcut.quantum_scale
        if kind == TIES:
            nearest = _with_ties(exact, nearest, quantum, shortcut)
        elif kind == DIRECTED:
            nearest = _moved_one_way(exact, nearest, quantum, sign != 0, shortcut)
        else:
            nearest = _moved(exact, nearest, shifted, quantum, sign != 0, shortcut)
    rounded = words.word(nearest)
    if rounded > shortcut.largest:
        rounded = shortcut.overflow_negative if sign != 0 else shortcut.overflow
    return words.floating(words.bit_or(rounded, sign)) + shortcut.zero


@inline
def _odd(exact: Any, nearest: Any, shifted: Any, constant: Any) -> Any:
    """`_moved` for rounding to odd, on the bits of the shifted sum, the last of which is a quantum.

    A sum that was rounded up is one bit less toward zero; if anything was dropped, its last bit is
    set.
    """
    bits = words.word(shifted)
    nothing = words.subtract(bits, bits)
    one = words.add(nothing, 1)
    bits = words.subtract(bits, one if nearest > exact else nothing)
    bits = words.bit_or(bits, one if nearest != exact else nothing)
    return words.floating(bits) - constant


@inline
def _moved(
    exact: Any, nearest: Any, shifted: Any, quantum: Any, negative: bool, shortcut: Shortcut
) -> Any:
    """Turn the nearest multiple of the quantum (ties to even) into that of the mode."""
    above = nearest > exact
    below = nearest - quantum if above else nearest  # the last multiple that is not above
    rest = exact - below
    share = shortcut.threshold_negative if negative else shortcut.threshold
    threshold = quantum * share
    up = (rest > threshold) | ((rest == threshold) & (shortcut.at_threshold != 0))
    # The last bit of the shifted sum is the parity of the nearest multiple.
    even = (words.bit_and(words.word(shifted), 1) == 0) != above
    up &= even | (shortcut.to_odd == 0)
    moved = below + quantum if up else below
    return nearest if shortcut.ties_even != 0 else moved


@inline
def _moved_one_way(
    exact: Any, nearest: Any, quantum: Any, negative: bool, shortcut: Shortcut
) -> Any:
    """`_moved` for the directed modes, which know neither ties nor parity: a third less time."""
    share = shortcut.threshold_negative if negative else shortcut.threshold
    raised = nearest + quantum if nearest < exact else nearest
    lowered = nearest - quantum if nearest > exact else nearest
    return raised if share == 0 else lowered


@inline
def _with_ties(exact: Any, nearest: Any, quantum: Any, shortcut: Shortcut) -> Any:
    """`_moved` for rna and rnz, which differ from rne at ties alone, and there one way."""
    half = quantum * shortcut.threshold
    raised = nearest + quantum if exact - nearest == half else nearest
    lowered = nearest - quantum if nearest - exact == half else nearest
    return raised if shortcut.at_threshold != 0 else lowered


# --- modes that a kernel knows ------------------------------------------------------------------


@intrinsic
def with_mode(_typing_context: Any, parameters: Any, mode: Any) -> Any:
    """A Target or a Shortcut whose mode is a constant to the compiler; any mode if it is "".

    For the hot kernels: what a mode does not need costs them no time.  `mode` is a constant.
    """
    if not isinstance(mode, types.StringLiteral):
        return None
    known = mode.literal_value
    constants = _of_mode(parameters.instance_class, MODES[known]) if known else {}

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = cgutils.unpack_tuple(builder, arguments[0], len(parameters))
        for index, name in enumerate(parameters.fields):
            if name in constants:
                values[index] = values[index].type(constants[name])
        return context.make_tuple(builder, parameters, values)

    return parameters(parameters, mode), generate


def known_mode(rounding: RoundingFacts, *modes: str) -> str:
    """The mode for :func:`with_mode` in a kernel that is compiled for these, and once for all."""
    return rounding.mode if rounding.mode in modes else ""
