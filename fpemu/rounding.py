"""Rounding into a format: ``Rounding``, :func:`round` and the scalar kernels.

The exact kernel works on the bits of the carrier in integer arithmetic.  Everything that depends on
the format, on overflow or on sign is data (:class:`Target`), so that one compiled kernel serves all
formats of a carrier and mode.  A second kernel in floating-point arithmetic serves the common case
at the speed of memory; it defers to the exact one wherever its proof does not reach.

References
----------
IEEE Std 754-2019, sections 4.3 (rounding directions) and 7.4 (overflow).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, cast

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import formats as _formats
from fpemu._kernels import caching, launching, words
from fpemu._kernels import random_bits as philox
from fpemu._kernels.caching import inline
from fpemu.formats import Format, FormatLike

__all__ = ["Rounding", "RoundingLike", "round"]

Carrier = NDArray[np.float32] | NDArray[np.float64]

MODES: Final = ("rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto", "sr", "sr_equal")
RNE, RNA, RNZ, RTZ, RTP, RTN, RTO, SR, SR_EQUAL = range(len(MODES))
_OVERFLOWS: Final = ("ieee", "saturate", "infinity")
_MOST_RANDOM_BITS: Final = 64


@dataclass(frozen=True)
class Rounding:
    """How a value that is not in the format becomes one that is.

    Parameters
    ----------
    mode : {"rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto", "sr", "sr_equal"}
        To nearest with ties to even, away from or toward zero; toward zero, up, down; to odd;
        stochastic, going away from zero with the probability of the discarded fraction;
        stochastic, going either way with equal probability.
    overflow : {"ieee", "saturate", "infinity"}
        ``"ieee"``: infinity or the largest finite number by mode (IEEE 754 section 7.4), with NaN
        for infinity in a format that has only NaN.  ``"saturate"``: the largest finite number.
        ``"infinity"``: as to nearest in every mode, which is what many matrix units do.
    random_bits : int, optional
        Mode sr: the discarded fraction is truncated to that many bits, 1 to 64.  Left out, the
        probability is exact, or as exact as the operation says.
    seed : int, optional
        Modes sr and sr_equal: the key of the random numbers; element i of a call draws those of
        (seed, i).  Left out, every call draws others.

    Raises
    ------
    ValueError
        If a field has a value that is not listed here.
    TypeError
        If `random_bits` or `seed` is not an integer.
    """

    mode: str = "rne"
    overflow: str = "ieee"
    random_bits: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown rounding mode {self.mode!r}: expected {', '.join(MODES)}")
        if self.overflow not in _OVERFLOWS:
            raise ValueError(
                f"unknown overflow {self.overflow!r}: expected {', '.join(_OVERFLOWS)}"
            )
        for name in ("random_bits", "seed"):
            value = getattr(self, name)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                    raise TypeError(f"{name} must be an int, not {type(value).__name__}")
                object.__setattr__(self, name, int(value))
        if self.random_bits is not None:
            if self.mode != "sr":
                raise ValueError(f"random_bits belong to mode 'sr', not {self.mode!r}")
            if not 1 <= self.random_bits <= _MOST_RANDOM_BITS:
                raise ValueError(f"random_bits must lie in 1..64, not {self.random_bits}")
        if self.seed is not None and not self.is_stochastic:
            raise ValueError(f"a seed belongs to the modes 'sr' and 'sr_equal', not {self.mode!r}")

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        return self.mode in ("sr", "sr_equal")

    def derived(self, *labels: Any) -> Rounding:
        """The rounding of one of several steps: with a seed of its own, if it has one.

        Parameters
        ----------
        *labels
            Strings and integers that tell the step from the others.

        Returns
        -------
        Rounding
            The same one if it is not stochastic or has no seed.
        """
        if self.seed is None:
            return self
        digest = hashlib.blake2b(repr((self.seed, labels)).encode(), digest_size=8).digest()
        return replace(self, seed=int.from_bytes(digest, "little"))


RoundingLike = Rounding | str


def as_rounding(rounding: RoundingLike) -> Rounding:
    """A Rounding from itself or from a mode string."""
    if isinstance(rounding, Rounding):
        return rounding
    if not isinstance(rounding, str):
        raise TypeError(f"rounding must be a Rounding or a mode, not {type(rounding).__name__}")
    return Rounding(rounding)


def mode_number(rounding: Rounding) -> int:
    """The kernels' number of a mode."""
    return MODES.index(rounding.mode)


def unused_bits(rounding: Rounding) -> np.uint64:
    """How many of 64 random bits an operation leaves alone; it uses all if no number is given."""
    return np.uint64(64 - (rounding.random_bits or 64))


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


def word_of(value: float, dtype: np.dtype[Any]) -> int:
    """The bits of a number that the carrier holds exactly."""
    layout = LAYOUTS[dtype]
    return int(layout.dtype(value).view(layout.word))


@functools.lru_cache(maxsize=4096)
def target_of(format: Format, rounding: Rounding, dtype: np.dtype[Any]) -> Target:
    """The parameters of the exact kernel for a format, a rounding and a carrier."""
    layout = LAYOUTS[dtype]
    magnitude = functools.partial(word_of, dtype=dtype)
    sign = magnitude(-0.0)
    infinity = magnitude(np.inf)
    nan = magnitude(np.nan) & ~sign
    width = layout.word().itemsize * 8
    never = 2**width - 1

    quantum_exponent = format.quantum_exponent
    half = magnitude(float(np.ldexp(1.0, quantum_exponent - 1)))
    up_above = {"rna": max(half - 1, 0), "rtz": never, "rtp": 0, "rtn": never, "rto": 0}
    up_above_negative = {**up_above, "rtp": never, "rtn": 0}
    smallest = magnitude(format.smallest_subnormal)
    largest = magnitude(format.max_finite)

    to_infinity = {"rne": "+-", "rna": "+-", "rnz": "+-", "rtp": "+", "rtn": "-"}
    to_infinity |= {"sr": "+-", "sr_equal": "+-"}
    infinite = infinity if format.infinities else nan if format.has_nan else largest
    if rounding.overflow == "saturate":
        infinite = largest

    def overflowed(direction: str) -> int:
        always = rounding.overflow == "infinity"
        return infinite if always or direction in to_infinity.get(rounding.mode, "") else largest

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
        invalid = nan if format.has_nan else zero
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
        "most_dropped": width - 1 if rounding.is_stochastic else layout.precision,
        "quantum": magnitude(float(np.ldexp(1.0, quantum_exponent))),
        "up_above": up_above.get(rounding.mode, half) if format.has_zero else 0,
        "up_above_negative": up_above_negative.get(rounding.mode, half) if format.has_zero else 0,
        "flush_below": 0 if format.subnormals else magnitude(format.smallest_normal),
        "largest": largest,
        "overflow": overflowed("+"),
        "infinity": infinite,
        "zero": zero,
        "nan": nan,
        **negative,
    }
    return Target(**{name: layout.word(value) for name, value in fields.items()})


# --- the scalar kernels -------------------------------------------------------------------------


@inline
def increment(
    significand: Any, dropped: Any, tail: Any, negative: bool, mode: int, random: Any
) -> Any:
    """What to add to a significand so that clearing its ``dropped`` low bits rounds it.

    ``tail`` has the low ``dropped`` bits set, none if nothing is dropped: the increment is then 0.
    Stochastic modes use the highest bits of ``random``; a random number below ``2**dropped`` makes
    the sum carry into the bits that are kept with just the probability of the discarded fraction.
    """
    if mode == SR:
        # Shifting in two steps, as a shift by all bits of a word would be undefined.
        return words.shift_right(words.shift_right(random, words.subtract(_top(tail), dropped)), 1)
    if mode == SR_EQUAL:
        nothing = words.subtract(tail, tail)
        return tail if words.shift_right(random, _top(tail)) != 0 else nothing
    half_down = words.shift_right(tail, 1)
    any_tail = words.bit_and(tail, 1)
    odd = words.bit_and(words.shift_right(significand, dropped), any_tail)
    if mode == RNE:
        return words.add(half_down, odd)
    if mode == RNA:
        return words.add(half_down, any_tail)
    if mode == RNZ:
        return half_down
    nothing = words.subtract(tail, tail)
    if mode == RTZ:
        return nothing
    if mode == RTP:
        return nothing if negative else tail
    if mode == RTN:
        return tail if negative else nothing
    return nothing if odd == any_tail else tail  # RTO


@inline
def _top(word: Any) -> Any:
    """The position of the highest bit, as a word of the same width."""
    return words.subtract(words.leading_zeros(words.bit_xor(word, word)), 1)


@inline
def round_word(bits: Any, target: Target, mode: int) -> Any:
    """`round_word_at` for the modes that need no random bits."""
    return round_word_at(bits, target, mode, bits)


@inline
def round_word_at(bits: Any, target: Target, mode: int, random: Any) -> Any:
    """The bits of a carrier number rounded into the target: exact, integer arithmetic throughout.

    The number is ``significand * 2**s`` with ``s`` fixed by its exponent field (at least 1, so that
    subnormal carriers are no case of their own).  Dropping bits down to the format's spacing and
    adding the field back gives the result, a carry into the next binade included.  That holds from
    the quantum upward; below it the result is zero or the quantum.
    """
    sign = words.bit_and(bits, target.sign)
    magnitude = words.bit_xor(bits, sign)
    negative = sign != 0
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
    raised = words.add(significand, increment(significand, dropped, tail, negative, mode, random))
    kept = words.subtract(raised, words.bit_and(raised, tail))
    rounded = words.add(kept, base)
    nothing = words.subtract(tail, tail)
    up_above = target.up_above_negative if negative else target.up_above
    if magnitude < target.quantum:
        up = magnitude > up_above
        if mode in (SR, SR_EQUAL):
            up = words.shift_right(raised, dropped) != 0 or target.up_above == 0
        rounded = target.quantum if up else nothing
    result = signed_result(nothing if magnitude == 0 else rounded, sign, target)
    if magnitude == target.carrier_infinity:
        result = target.infinity_negative if negative else target.infinity
    if magnitude > target.carrier_infinity:
        result = target.nan
    return result


@inline
def signed_result(rounded: Any, sign: Any, target: Target) -> Any:
    """The word of a rounded magnitude and its sign: flushed, overflowed, zero or just that."""
    negative = sign != 0
    result = words.bit_or(rounded, sign)
    if rounded > (target.largest_negative if negative else target.largest):
        result = target.overflow_negative if negative else target.overflow
    if rounded < target.flush_below or rounded == 0:
        result = target.zero_negative if negative else target.zero
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


@functools.lru_cache(maxsize=4096)
def shortcut_of(format: Format, rounding: Rounding, dtype: np.dtype[Any]) -> Shortcut:
    """The parameters of :func:`round_number`; a limit of zero where it does not apply."""
    layout = LAYOUTS[dtype]
    target = target_of(format, rounding, dtype)
    excess = layout.precision - format.precision
    applies = (
        format.has_negative_zero
        and format.subnormals
        and 1 - layout.bias <= format.emin < layout.bias - excess
        and 0 < excess < layout.precision
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
    )


@inline
def round_number(number: Any, shortcut: Shortcut, mode: int) -> Any:
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
    if mode != RNE:
        nearest = mend(exact, nearest, shifted, constant * shortcut.quantum_scale, sign != 0, mode)
    rounded = words.word(nearest)
    if rounded > shortcut.largest:
        rounded = shortcut.overflow_negative if sign != 0 else shortcut.overflow
    return words.floating(words.bit_or(rounded, sign))


@inline
def mend(exact: Any, nearest: Any, shifted: Any, quantum: Any, negative: bool, mode: int) -> Any:
    """Turn the nearest multiple of the quantum (ties to even) into that of another mode."""
    below = nearest < exact
    above = nearest > exact
    if mode == RNA:
        return nearest + quantum if exact - nearest == quantum - (exact - nearest) else nearest
    if mode == RNZ:
        return nearest - quantum if nearest - exact == quantum - (nearest - exact) else nearest
    if mode == RTZ:
        return nearest - quantum if above else nearest
    if mode == RTO:  # the last bit of the shifted sum is the parity of the multiple
        if words.bit_and(words.word(shifted), 1) != 0:
            return nearest
        return nearest + quantum if below else nearest - quantum if above else nearest
    away = negative if mode == RTN else not negative
    if away:
        return nearest + quantum if below else nearest
    return nearest - quantum if above else nearest


# --- arrays -------------------------------------------------------------------------------------

_BLOCK: Final = 2048  # elements that stay in the first-level cache while they are read twice


@functools.cache
def _array_kernel(mode: int, in_place: bool) -> Callable[..., None]:
    """The kernel of a deterministic mode, for a result that is its source if `in_place`."""

    @caching.kernel
    def round_range(start, stop, x, out, target, shortcut):  # type: ignore[no-untyped-def]
        spare = np.empty(_BLOCK, x.dtype)
        for first in range(start, stop, _BLOCK):
            source = x[first : min(first + _BLOCK, stop)]
            result = out[first : min(first + _BLOCK, stop)]
            if in_place:  # the exact kernel may need what the quick one overwrites
                spare[: source.size] = source
                source = spare[: source.size]
            top = words.subtract(shortcut.limit, shortcut.limit)
            for i in range(source.size):
                bits = words.word(source[i])
                top = words.maximum(top, words.bit_xor(bits, words.bit_and(bits, shortcut.sign)))
                result[i] = round_number(source[i], shortcut, mode)
            if top >= shortcut.limit:
                for i in range(source.size):
                    result[i] = words.floating(round_word(words.word(source[i]), target, mode))

    return cast(Callable[..., None], round_range)


@inline
def _below_reach(bits: Any, target: Target) -> Any:
    """Whether a number is so small that more bits are dropped than a word has, and not zero."""
    magnitude = words.bit_and(bits, words.subtract(target.sign, 1))
    field = words.maximum(words.shift_right(magnitude, target.field_shift), 1)
    return magnitude != 0 and target.quantum_field > words.add(field, target.most_dropped)


@inline
def _taken_apart(bits: Any, target: Target) -> Any:
    """The significand of such a number, and how many bits are dropped from it."""
    magnitude = words.bit_and(bits, words.subtract(target.sign, 1))
    field = words.maximum(words.shift_right(magnitude, target.field_shift), 1)
    base = words.shift_left(words.subtract(field, 1), target.field_shift)
    return words.subtract(magnitude, base), words.subtract(target.quantum_field, field)


@inline
def _tiny_fraction_goes_up(bits: Any, target: Target, random: Any, unused: Any) -> Any:
    """Whether such a number goes up when its fraction is truncated to the random bits.

    `random` has its ``unused`` low bits clear; the others are an integer below ``2**r``, as is the
    truncated fraction.  The sum of the two carries with the fraction's probability.
    """
    significand, dropped = _taken_apart(bits, target)
    past = words.minimum(
        words.subtract(words.add(dropped, unused), words.add(target.most_dropped, 1)),
        target.most_dropped,
    )
    fraction = words.shift_right(significand, past)
    nothing = words.subtract(fraction, fraction)
    greatest = words.shift_right(words.subtract(nothing, 1), unused)
    return words.shift_right(random, unused) > words.subtract(greatest, fraction)


@inline
def _tiny_goes_up(bits: Any, target: Target, index: int, key: Any) -> Any:
    """Whether such a number x is rounded up to the quantum q, with probability exactly x / q.

    x / q is an integer t over ``2**d``.  A random integer of d bits is below t if its highest bits
    are zero, all but as many as a significand has, and the rest is below t.
    """
    significand, dropped = _taken_apart(bits, target)
    low = np.int64(target.field_shift) + 1
    high = np.int64(dropped) - low
    number = 0
    while high > 0:
        count = high if high < 32 else np.int64(32)
        if words.shift_right(philox.further_word(index, number, key), np.uint32(32 - count)) != 0:
            return False
        high -= count
        number += 1
    rest = np.uint64(philox.further_word(index, number, key)) << np.uint64(32)
    rest |= np.uint64(philox.further_word(index, number + 1, key))
    return (rest >> np.uint64(64 - low)) < np.uint64(significand)


@numba.njit(inline="always")
def element_bits(random, i, per_block, wide):  # type: ignore[no-untyped-def]
    """The random word of element i of a block, 64 bits if `wide`."""
    if wide:
        high = words.shift_left(np.uint64(random[i]), 32)
        return words.bit_or(high, np.uint64(random[per_block + i]))
    return random[i]


def _stochastic_kernel(mode: int, wide: bool) -> Callable[..., None]:
    """The kernel of a stochastic mode, for float64 if `wide`: its ranges are blocks of elements."""
    per_block = philox.BLOCK_WORDS // 2 if wide else philox.BLOCK_WORDS

    @caching.kernel
    def round_blocks(start, stop, x, out, target, key, unused, exact):  # type: ignore[no-untyped-def]
        random = np.empty(philox.BLOCK_WORDS, np.uint32)
        for block in range(start, stop):
            philox.fill_block(block, key, random)
            source = x[block * per_block : min((block + 1) * per_block, x.size)]
            result = out[block * per_block : min((block + 1) * per_block, x.size)]
            tiny = 0
            for i in range(source.size):
                tiny |= _below_reach(words.word(source[i]), target)
            for i in range(source.size):
                bits = element_bits(random, i, per_block, wide)
                bits = words.shift_left(words.shift_right(bits, unused), unused)
                number = words.word(source[i])
                result[i] = words.floating(round_word_at(number, target, mode, bits))
            if tiny and mode == SR:
                for i in range(source.size):
                    number = words.word(source[i])
                    if _below_reach(number, target):
                        if exact:
                            up = _tiny_goes_up(number, target, block * per_block + i, key)
                        else:
                            bits = element_bits(random, i, per_block, wide)
                            up = _tiny_fraction_goes_up(number, target, bits, unused)
                        magnitude = target.quantum if up else words.bit_xor(number, number)
                        sign = words.bit_and(number, target.sign)
                        result[i] = words.floating(signed_result(magnitude, sign, target))

    return cast(Callable[..., None], round_blocks)


@functools.cache
def _stochastic_kernel_of(mode: int, dtype: np.dtype[Any]) -> Callable[..., None]:
    return _stochastic_kernel(mode, dtype == np.float64)


def _round_stochastically(
    source: Carrier, result: Carrier, format: Format, rounding: Rounding
) -> None:
    """Round flat arrays of the same type; they may be the same array."""
    dtype = source.dtype
    width = dtype.itemsize * 8
    exact = rounding.random_bits is None
    random_bits = width if rounding.random_bits is None else rounding.random_bits
    per_block = philox.BLOCK_WORDS * 32 // width
    launching.run(
        _stochastic_kernel_of(MODES.index(rounding.mode), dtype),
        -(-source.size // per_block),
        source.copy() if np.shares_memory(source, result) else source,
        result,
        target_of(format, rounding, dtype),
        philox.key_of(rounding.seed),
        LAYOUTS[dtype].word(width - random_bits),
        exact,
        grain=2**15 // per_block,
    )


def as_carrier(x: ArrayLike, name: str = "x") -> Carrier:
    """An argument as a float32 or float64 array, without any loss.

    float16 and ml_dtypes arrays are widened to float32, integers and Python floats to float64.

    Raises
    ------
    TypeError
        If the values are not real numbers of at most 64 bits.
    ValueError
        If an integer is not a float64 number.
    """
    array = np.asarray(x)
    kind = array.dtype.kind
    if kind == "f" and not (array.dtype.isnative and array.flags.aligned):
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in LAYOUTS:
        return array
    if kind in "biu":
        return _integers_as_carrier(array, name)
    if kind in "fV" and array.dtype.names is None and np.can_cast(array.dtype, np.float32):
        return array.astype(np.float32)
    raise TypeError(f"{name} must hold real numbers of at most 64 bits, not {array.dtype}")


def _integers_as_carrier(array: NDArray[Any], name: str) -> NDArray[np.float64]:
    numbers = array.astype(np.float64)
    if array.dtype.itemsize == 8:
        # Comparing in float64 would round the integers again; 2**63 and 2**64 do not convert back.
        inside = np.abs(numbers) < 2.0**63 if array.dtype.kind == "i" else numbers < 2.0**64
        exact = inside & (np.where(inside, numbers, 0).astype(array.dtype) == array)
        if not exact.all():
            first = array.ravel()[np.flatnonzero(~exact)[0]]
            raise ValueError(f"{name} holds the integer {first}, which is not a float64 number")
    return numbers


def result_dtype(format: Format, *inputs: Carrier) -> np.dtype[Any]:
    """float32 if all inputs are and the format fits, else float64."""
    if format.carrier == np.float32 and all(array.dtype == np.float32 for array in inputs):
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def working_dtype(format: Format, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The carrier to compute in: `dtype`, or float64 where the format reaches below float32."""
    return dtype if format.emin >= LAYOUTS[dtype].least_emin else np.dtype(np.float64)


def check_out(out: Any, shape: tuple[int, ...], format: Format) -> Carrier:
    """Check an ``out`` argument against the shape and format of a result."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy array, not {type(out).__name__}")
    if out.dtype not in LAYOUTS or (out.dtype == np.float32 and format.carrier != np.float32):
        raise TypeError(f"out has dtype {out.dtype}, which does not hold the values of {format}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, but the result has shape {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    return out


def _same_place(a: Carrier, b: Carrier) -> bool:
    """Whether two arrays are views of the same elements in the same order."""
    return (a.ctypes.data, a.strides, a.dtype) == (b.ctypes.data, b.strides, b.dtype)


def check_no_nan(array: Carrier, format: Format, name: str = "x") -> None:
    """Raise ValueError if a format without NaN is to receive one."""
    if not format.has_nan and np.isnan(array).any():
        index = tuple(int(i) for i in np.argwhere(np.isnan(array))[0])
        where = f" at index {index[0] if len(index) == 1 else index}" if index else ""
        raise ValueError(f"{name} is NaN{where}, but {format} has no NaN")


@launching.default_environment()
def round(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    out: Carrier | None = None,
) -> Any:
    """Round each element once, exactly.

    Subnormal results are rounded at the fixed spacing ``2**(emin-precision+1)``; in a format
    without subnormals a result that is then below ``2**emin`` becomes a zero of its sign.

    Parameters
    ----------
    x : array_like
        Real numbers, any shape.
    format : Format or str
        The format to round into.
    rounding : Rounding or str
        The rounding, or just its mode.
    out : ndarray, optional
        Where to put the result: float64, or float32 if that holds the format; may be `x` itself.

    Returns
    -------
    ndarray or scalar
        Members of `format`, shape of `x`; float32 if `x` is and the format fits, else float64.

    Raises
    ------
    ValueError
        If the format or mode is unknown, `out` has another shape, or a NaN meets a format
        without NaN.
    TypeError
        If `x` does not hold real numbers of at most 64 bits.

    Notes
    -----
    A negative number that does not round to zero is invalid in an unsigned format: NaN, or the
    smallest value of a format without NaN.  A format without zero (float8_e8m0fnu) turns zero into
    NaN and anything below its smallest number into that, as ml_dtypes does.

    References
    ----------
    IEEE Std 754-2019, sections 4.3 and 7.4.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.round([0.3, 1000.0, -1e-9], "float8_e4m3fn")
    array([ 0.3125,     nan, -0.    ])
    >>> fpemu.round(1000.0, "float8_e4m3fn", fpemu.Rounding(overflow="saturate"))
    np.float64(448.0)
    """
    format = _formats.format(format)
    rounding = as_rounding(rounding)
    array = as_carrier(x)
    check_no_nan(array, format)
    dtype = result_dtype(format, array)
    if out is not None:
        check_out(out, array.shape, format)
    working = working_dtype(format, dtype)
    if rounding.random_bits is not None and rounding.random_bits > working.itemsize * 8:
        working = np.dtype(np.float64)
    # Random bits go by the element's place in the call, and so by C order.
    order: Literal["C", "F"] = "F" if array.flags.fnc and not rounding.is_stochastic else "C"
    source = np.asarray(array, dtype=working, order=order)
    direct = (
        out is not None
        # A result may replace its own element, but no other one that is still to be read.
        and (_same_place(out, array) or not np.may_share_memory(out, array))
        and out.dtype == working
        and (out.flags.fnc if order == "F" else out.flags.c_contiguous)
    )
    result = out if direct and out is not None else np.empty(array.shape, working, order=order)
    flat_source, flat_result = (a.reshape(-1, order=order) for a in (source, result))
    if rounding.is_stochastic:
        _round_stochastically(flat_source, flat_result, format, rounding)
    else:
        launching.run(
            _array_kernel(mode_number(rounding), np.shares_memory(flat_source, flat_result)),
            array.size,
            flat_source,
            flat_result,
            target_of(format, rounding, working),
            shortcut_of(format, rounding, working),
            grain=2**15,
        )
    if out is None:
        return result.astype(dtype, copy=False)[()]
    if not direct:
        out[...] = result
    return out
