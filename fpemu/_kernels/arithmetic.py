"""Arithmetic on arrays, element by element.

There are two loops.  The first is floating-point arithmetic that a compiler turns into vector
instructions: it rounds into the format wherever the proof below reaches, and writes NaN elsewhere.
The second looks at the NaN alone, and computes those elements exactly.  Usually there are none; it
is a kernel of its own, so that it is compiled only where it is needed.  Both go through the arrays
by blocks; what computes a block is a part of them (:mod:`fpemu._kernels.parts`), one for each
operation.

**The carrier's own format, to nearest.**  The operation of the processor is the answer: IEEE 754
has it round the exact result once, to nearest with ties to even, subnormal results and operands
included (:mod:`fpemu._kernels.launching` runs kernels with nothing flushed), and overflow to
infinity.  Signs of zeros are IEEE 754's as well.  Only a NaN is replaced, by the one that all
kernels return.

**Other formats and modes.**  The exact result r is replaced by a number v of a lane (float32 or
float64) that rounds into the format as r does, and :func:`~fpemu._kernels.rounding.round_number`
rounds v.  All that a rounding asks of r is how it compares with the members of the format, the
midpoints of neighbors, and powers of two below the smallest: numbers of at most p + 1 bits,
*boundaries*, if the format has precision p.

- *Odd numbers.*  v is r rounded to odd in a lane that has two bits more than the format, and so
  holds all boundaries as even numbers: v lies where r does (Boldo and Melquiond 2008).  A sum is so
  rounded with the error of TwoSum.  float32 lanes serve formats of up to 22 bits: the error is
  exact, as no sum underflows, and a sum of subnormal size is itself exact.  No step of TwoSum
  overflows unless v is beyond the limit of `round_number`, which is at most 2**125: if an operand
  is above 2**126, the other one has the opposite sign and at least half its size, so that sum and
  differences are exact (Sterbenz); float64 lanes likewise.  Products, quotients and roots of
  float64 numbers come with the sign of their errors from a fused multiply-add, which is right
  where nothing underflows.
- *float32 operands in float64 lanes*, formats of up to 24 bits.  A product has at most 48 bits and
  is exact.  A product plus a number is a sum as above.  A quotient x / y that is not a boundary b
  differs from it by more than 2**-49 of its size: with integers X, Y < 2**24, B < 2**25 and
  exponents i, k, ``|x/y - b| / b = |X 2**i - B Y 2**k| / (B Y 2**k)``, the numerator is at least
  the smaller of the powers of two, B Y < 2**49, and where ``2**i`` is the smaller one, X 2**i is
  below 2**24 times it and within a factor of two of the denominator.  A root differs by more than
  2**-52: ``|sqrt(x) - b| = |x - b**2| / (sqrt(x) + b)`` where ``b**2 = B**2 2**2k`` has 50 bits,
  by the same argument.  Rounding to float64 moves them by at most 2**-53 of their size: never to a
  boundary or past one.  So v is the float64 quotient or root.

What is beyond the limit of `round_number`, infinite or NaN, or whose error may have underflowed, is
left to the second loop.

References
----------
IEEE Std 754-2019, sections 4.3.1, 5.4.1 and 6.3.  S. Boldo, G. Melquiond, "Emulation of a FMA and
correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 57(4), 2008.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numba import types
from numba.np import numpy_support
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, parts, random_bits, words
from fpemu._kernels.caching import inline
from fpemu._kernels.error_free import (
    quick_add,
    quick_divide,
    quick_multiply,
    quick_sqrt,
    takes_odd,
    two_product,
    two_sum,
)
from fpemu._kernels.exact import (
    divide_word,
    divide_word_at,
    fma_word,
    fma_word_at,
    multiply_word,
    multiply_word_at,
    sqrt_word,
    sqrt_word_at,
)
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import read_only
from fpemu._kernels.parts import Part
from fpemu._kernels.random_bits import wide_bits
from fpemu._kernels.rounding import (
    DETERMINISTIC,
    LAYOUTS,
    NEAREST_EVEN,
    STOCHASTIC,
    Carrier,
    is_own_format,
    kind_of,
    round_number,
    shortcut_of,
    target_of,
    unused_bits,
)
from fpemu._kernels.targets import TABLE_TYPE, shortcut_at, shortcuts_of, target_at, targets_of

__all__ = [
    "ADD",
    "DIVIDE",
    "FMA",
    "MULTIPLY",
    "SQRT",
    "Operands",
    "apply",
    "apply_stochastic",
    "span",
]

ADD, MULTIPLY, DIVIDE, SQRT, FMA = range(5)
_OPERANDS: Final = {ADD: 2, MULTIPLY: 2, DIVIDE: 2, SQRT: 1, FMA: 3}
_BLOCK: Final = 2048  # elements that stay in the first-level cache while they are read twice
_COST: Final = 1.0  # nanoseconds of an element
_SLOW_COST: Final = 15.0  # where a step takes integer arithmetic
_FLOAT32_LANES: Final = 22  # the most precise formats whose sums float32 lanes form

# What the first loop of a kernel does: nothing, the processor's operation, or odd numbers in lanes
# of the carrier, or float64 lanes for float32 operands.
_NOTHING, _PROCESSOR, _OWN, _WIDE = range(4)

_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)
_PER_BLOCK: Final = random_bits.BLOCK_WORDS // 2  # elements that a block of random bits serves

# Magnitudes between which no error underflows, neither of the numbers nor of results.
_SMALL: Final = 2.0**-900
_LARGE: Final = 2.0**900


class Operands(NamedTuple):
    """Three operands, broadcast: element (i, j, k) of operand n is number ``steps[n] @ (i, j, k)``.

    An operation of one or two operands does not look at the others.
    """

    arrays: tuple[Carrier, ...]  # flat, read-only, of the type of the result
    steps: NDArray[np.int64]  # shape (3, 3), not negative
    shape: tuple[int, ...]  # of the result, three numbers
    flip: bool  # whether to negate the second operand, to subtract


def span(steps: Sequence[int], shape: Sequence[int]) -> int:
    """How many elements of memory an operand takes from the first to the last."""
    return 1 + sum(step * (count - 1) for step, count in zip(steps, shape, strict=True))


# --- the first loop -------------------------------------------------------------------------------


@inline
def _odd(result: Any, error: Any) -> Any:
    """:func:`~fpemu._kernels.error_free.odd` in either type, of two instructions less.

    An infinite or NaN result becomes any number beyond the limit.
    """
    bits = words.word(result)
    differ = words.bit_xor(words.word(error), bits)
    nothing = words.bit_xor(bits, bits)
    toward_zero = words.shift_right(differ, words.subtract(words.leading_zeros(nothing), 1))
    neighbor = words.bit_or(words.subtract(bits, toward_zero), 1)
    return neighbor if error != 0 else bits


@inline
def _odd_sum(x: Any, y: Any, zero_sum: Any, kind: int) -> Any:
    """The word of ``x + y`` rounded to odd; a zero of terms of both signs has that of the mode."""
    total, error = two_sum(x, y)
    bits = _odd(total, error)
    if kind != NEAREST_EVEN:
        both_signs = (total == 0) & (words.word(x) != words.word(y))
        bits = zero_sum if both_signs else bits  # IEEE 754 section 6.3
    return bits


@inline
def _processors(operation: int, x: Any, y: Any, z: Any) -> Any:
    """An operation rounded to nearest in its operands' type."""
    if operation == ADD:
        return x + y
    if operation == MULTIPLY:
        return x * y
    if operation == DIVIDE:
        return x / y
    if operation == SQRT:
        return np.sqrt(x)
    return words.fused_multiply_add(x, y, z)


@inline
def _wide_word(operation: int, x: float, y: float, z: float, zero_sum: Any, kind: int) -> Any:
    """The word of a float64 number that rounds as the exact result of float32 operands does."""
    if operation == FMA:
        return _odd_sum(x * y, z, zero_sum, kind)
    return words.word(_processors(operation, x, y, z))


@inline
def _odd_word(operation: int, x: Any, y: Any, zero_sum: Any, kind: int) -> Any:
    """The word of a result rounded to odd, and whether its error cannot have underflowed."""
    if operation == ADD:
        return _odd_sum(x, y, zero_sum, kind), True
    if operation == MULTIPLY:
        product, error = two_product(x, y)
        return _odd(product, error), _is_inside(product) | (x == 0.0) | (y == 0.0)
    if operation == DIVIDE:
        quotient = x / y
        error = words.fused_multiply_add(-quotient, y, x)
        inside = _is_inside(y) & ((_is_inside(x) & _is_inside(quotient)) | (x == 0.0))
        return _odd(quotient, error if y > 0.0 else -error), inside
    root = np.sqrt(x)
    error = words.fused_multiply_add(-root, root, x)
    return _odd(root, error), _is_inside(x) | (x == 0.0)


@inline
def _is_inside(x: float) -> Any:
    """Whether a float64 number is so large that no error underflows, and not too large."""
    return (abs(x) > _SMALL) & (abs(x) < _LARGE)


# --- the second loop ------------------------------------------------------------------------------


@inline
def _exact(operation: int, quick: bool, narrow: bool, x: Any, y: Any, z: Any, target: Any) -> Any:
    """The word of an exact result rounded once; float32 operands if `narrow`."""
    kind = DETERMINISTIC  # a version for rounding to nearest even gains less than a tenth
    if operation == ADD:
        if quick:
            return quick_add(x, y, target, kind)
        return fma_word(1.0, x, y, target, kind)
    if operation == MULTIPLY:
        if quick:
            return quick_multiply(x, y, target, kind)
        return multiply_word(x, y, target, kind)
    if operation == DIVIDE:
        if quick:
            return quick_divide(x, y, target, kind)
        return divide_word(x, y, target, kind)
    if operation == SQRT:
        return quick_sqrt(x, target, kind) if quick else sqrt_word(x, target, kind)
    if quick and narrow:
        return quick_add(x * y, z, target, kind)
    return fma_word(x, y, z, target, kind)


# --- parts of the kernels -------------------------------------------------------------------------

_NUMBERS: Final = types.Array(types.float64, 1, "C")
_TO_DRAW: Final = *[_NUMBERS] * 4, types.Array(types.uint32, 1, "C"), TABLE_TYPE, types.uint64
_DRAWN: Final = parts.takes(*_TO_DRAW)

_call_to_compute: Final = parts.calling(8)
_call_to_settle: Final = parts.calling(7)
_call_to_draw: Final = parts.calling(len(_TO_DRAW))


def _block(dtype: np.dtype[Any]) -> tuple[types.Type, ...]:
    """The types of a block: three operands, the result, and what negates the second operand."""
    number, word = (numpy_support.from_dtype(np.dtype(x)) for x in (dtype, LAYOUTS[dtype].word))
    operand = types.Array(number, 1, "C", readonly=True)
    return operand, operand, operand, types.Array(number, 1, "C"), word


@functools.cache
def _computing(
    operation: int, kind: int, loop: int, dtype: np.dtype[Any], lane: np.dtype[Any]
) -> Part:
    """The part that has the first loop, ``f(x, y, z, result, flip, nan, shortcuts, zero_sum)``.

    It leaves NaN to the second loop, and returns whether there is none of those.

    Parameters
    ----------
    operation : int
    kind : int
        ``NEAREST_EVEN`` or ``DETERMINISTIC``.
    loop : int
        What the loop does.
    dtype, lane : dtype
        The carrier and the lanes.
    """

    @caching.part
    def compute(x, y, z, result, flip, nan, shortcuts, zero_sum):  # type: ignore[no-untyped-def]
        shortcut, settled = shortcut_at(shortcuts, 0), True
        for i in range(result.size):
            second = words.floating(words.bit_xor(words.word(y[i]), flip))
            if loop == _PROCESSOR:
                number = _processors(operation, x[i], second, z[i])
                result[i] = number if number == number else nan
            else:
                if loop == _WIDE:
                    a, b, c = np.float64(x[i]), np.float64(second), np.float64(z[i])
                    bits, reached = _wide_word(operation, a, b, c, zero_sum, kind), True
                else:
                    bits, reached = _odd_word(operation, x[i], second, zero_sum, kind)
                magnitude = words.bit_xor(bits, words.bit_and(bits, shortcut.sign))
                reached &= magnitude < shortcut.limit
                rounded = round_number(words.floating(bits), shortcut, kind)
                # An overflow may be NaN, too, and have a sign.
                result[i] = rounded if reached & (rounded == rounded) else nan
                settled &= reached
        return np.int64(settled)

    number = numpy_support.from_dtype(dtype)
    lane_word = numpy_support.from_dtype(np.dtype(LAYOUTS[lane].word))
    table = types.Array(lane_word, 2, "C", readonly=True)
    return parts.compiled(compute, *_block(dtype), number, table, lane_word)


@functools.cache
def _settling(operation: int, quick: bool, dtype: np.dtype[Any]) -> Part:
    """The part that has the second loop, ``f(x, y, z, result, flip, whole, targets)``.

    It computes what is NaN, or all of a result if `whole`.

    Parameters
    ----------
    operation : int
    quick : bool
        Whether the target :func:`~fpemu._kernels.error_free.takes_odd`.
    dtype : dtype
        The carrier.
    """
    narrow = dtype == np.float32

    @caching.part
    def settle(x, y, z, result, flip, whole, targets):  # type: ignore[no-untyped-def]
        target = target_at(targets, 0)
        for i in range(result.size):
            if whole or result[i] != result[i]:
                second = words.floating(words.bit_xor(words.word(y[i]), flip))
                a, b, c = np.float64(x[i]), np.float64(second), np.float64(z[i])
                bits = _exact(operation, quick, narrow, a, b, c, target)
                result[i] = words.floating(bits)
        return 0

    return parts.compiled(settle, *_block(dtype), types.boolean, TABLE_TYPE)


@functools.cache
def _drawing(operation: int) -> Part:
    """The part that rounds stochastically, ``f(x, y, z, result, random, targets, unused)``."""

    @caching.part
    def draw(x, y, z, result, random, targets, unused):  # type: ignore[no-untyped-def]
        target = target_at(targets, 0)
        for i in range(result.size):
            drawn = wide_bits(random, i, _PER_BLOCK)
            drawn = words.shift_left(words.shift_right(drawn, unused), unused)
            if operation == ADD:
                bits = fma_word_at(1.0, x[i], y[i], target, STOCHASTIC, drawn, unused)
            elif operation == MULTIPLY:
                bits = multiply_word_at(x[i], y[i], target, STOCHASTIC, drawn, unused)
            elif operation == DIVIDE:
                bits = divide_word_at(x[i], y[i], target, STOCHASTIC, drawn, unused)
            elif operation == SQRT:
                bits = sqrt_word_at(x[i], target, STOCHASTIC, drawn, unused)
            else:
                bits = fma_word_at(x[i], y[i], z[i], target, STOCHASTIC, drawn, unused)
            result[i] = words.floating(bits)
        return 0

    return parts.compiled(draw, *_TO_DRAW)


# --- arrays ---------------------------------------------------------------------------------------


@inline
def _block_of(array: Any, steps: Any, place: Any, count: int, own: Any) -> Any:
    """Elements of a row of an operand, side by side: its own, or copies of them."""
    start = place[0] * steps[0] + place[1] * steps[1] + place[2] * steps[2]
    if steps[2] == 1:
        return array[start : start + count]
    if steps[2] == 0:
        for i in range(count):
            own[i] = array[start]
    else:
        for i in range(count):
            own[i] = array[start + i * steps[2]]
    return own[:count]


@inline
def _in_float64(array: Any, start: int, step: int, flip: Any, own: Any) -> None:
    """Copy elements of an operand, negated if that is what `flip` does, as float64 numbers."""
    for i in range(own.size):
        own[i] = np.float64(
            words.floating(words.bit_xor(words.word(array[start + i * step]), flip))
        )


@functools.cache
def _quick_kernel(to_compute: str) -> Callable[..., None]:
    """The kernel of the first loop by a part that takes this; its ranges count blocks.

    A block with elements that are left to the second loop is marked.  It has NaN there, or is not
    written at all if the result replaces operands.
    """

    @caching.kernel
    def quick_range(  # type: ignore[no-untyped-def]
        start, stop, own, compute, operands, arrays, steps, shape, flip, out, unsettled, in_place,
        nan, shortcuts, zero_sum,
    ):  # fmt: skip
        columns, length = shape[1], shape[2]
        blocks = -(-length // _BLOCK)
        for unit in range(start, stop):
            row, first = unit // blocks, unit % blocks * _BLOCK
            count = min(_BLOCK, length - first)
            place = row // columns, row % columns, first
            x = _block_of(arrays[0], steps[0], place, count, own[0])
            y = _block_of(arrays[1], steps[1], place, count, own[1]) if operands > 1 else x
            z = _block_of(arrays[2], steps[2], place, count, own[2]) if operands > 2 else x
            final = out[row * length + first : row * length + first + count]
            result = own[3][:count] if in_place else final
            settled = _call_to_compute(
                compute, to_compute, x, y, z, result, flip, nan, shortcuts, zero_sum
            )
            unsettled[unit] = settled == 0
            if in_place and settled != 0:
                for i in range(count):
                    final[i] = result[i]

    return cast(Callable[..., None], quick_range)


@functools.cache
def _exact_kernel(to_settle: str) -> Callable[..., None]:
    """The kernel of the second loop, for blocks that are marked; its ranges count blocks."""

    @caching.kernel
    def exact_range(  # type: ignore[no-untyped-def]
        start, stop, own, settle, operands, arrays, steps, shape, flip, out, unsettled, whole,
        targets,
    ):  # fmt: skip
        columns, length = shape[1], shape[2]
        blocks = -(-length // _BLOCK)
        for unit in range(start, stop):
            if unsettled[unit]:
                row, first = unit // blocks, unit % blocks * _BLOCK
                count = min(_BLOCK, length - first)
                place = row // columns, row % columns, first
                x = _block_of(arrays[0], steps[0], place, count, own[0])
                y = _block_of(arrays[1], steps[1], place, count, own[1]) if operands > 1 else x
                z = _block_of(arrays[2], steps[2], place, count, own[2]) if operands > 2 else x
                result = out[row * length + first : row * length + first + count]
                _call_to_settle(settle, to_settle, x, y, z, result, flip, whole, targets)

    return cast(Callable[..., None], exact_range)


@caching.kernel
def _stochastic_range(  # type: ignore[no-untyped-def]
    start, stop, own, draw, operands, arrays, steps, flip, out, targets, key, unused
):
    """An operation under stochastic rounding; its ranges count blocks of elements.

    An element draws the same bits as a float64 element of that index does in :func:`fpemu.round`.
    """
    numbers, random = own
    no_flip = words.bit_xor(flip, flip)
    for block in range(start, stop):
        random_bits.fill_block(block, key, random)
        first = block * _PER_BLOCK
        final = out[first : first + _PER_BLOCK]
        for k in range(operands):
            used = flip if k == 1 else no_flip
            _in_float64(arrays[k], first * steps[k], steps[k], used, numbers[k, : final.size])
        result = numbers[3, : final.size]
        _call_to_draw(
            draw, _DRAWN, numbers[0, : final.size], numbers[1, : final.size],
            numbers[2, : final.size], result, random, targets, unused,
        )  # fmt: skip
        for i in range(final.size):
            final[i] = result[i]


class _Plan(NamedTuple):
    """What a format, a rounding and a carrier make of an operation."""

    loop: int
    lane: np.dtype[Any]
    targets: Any  # in a row, as the shortcut
    shortcuts: Any
    zero_sum: Any  # a word of the lanes


@functools.lru_cache(maxsize=1024)
def _plan(
    operation: int, format: FormatFacts, rounding: RoundingFacts, dtype: np.dtype[Any]
) -> _Plan:
    loop, lane = _first_loop(operation, format, rounding, dtype)
    target = target_of(format, rounding, _FLOAT64)
    return _Plan(
        loop,
        lane,
        targets_of((format, rounding)),
        shortcuts_of((format, rounding), dtype=lane),
        _sign_if(target.zero_sum != 0, lane),
    )


def _first_loop(
    operation: int, format: FormatFacts, rounding: RoundingFacts, dtype: np.dtype[Any]
) -> tuple[int, np.dtype[Any]]:
    """What the first loop does, and in which type."""
    narrow = dtype == np.float32
    if is_own_format(format, dtype) and rounding.mode == "rne" and rounding.overflow == "ieee":
        return _PROCESSOR, dtype
    if narrow and not (operation == ADD and format.precision <= _FLOAT32_LANES):
        lanes, lane = _WIDE, _FLOAT64
    else:
        lanes, lane = _OWN, dtype
    # The error of a fused operation is no number of the carrier.
    possible = takes_odd(format, rounding) and not (lanes == _OWN and operation == FMA)
    if possible and shortcut_of(format, rounding, lane).limit:
        return lanes, lane
    return _NOTHING, dtype


def _fused(operands: Operands) -> Operands:
    """Operands of the fused operation that is a sum: b times 1, plus a."""
    a, b = operands.arrays[:2]
    one = np.ones(1, a.dtype)
    one.flags.writeable = False
    steps = np.stack([operands.steps[1], np.zeros(3, np.int64), operands.steps[0]])
    return operands._replace(arrays=(b, one, a), steps=steps)


def _sign_if(condition: bool, dtype: np.dtype[Any]) -> Any:
    """The sign bit of a type as a word, or 0."""
    layout = LAYOUTS[dtype]
    return layout.word(2 ** (8 * dtype.itemsize - 1) if condition else 0)


def _workspace(dtype: np.dtype[Any], size: int = _BLOCK) -> NDArray[Any]:
    """A block of each operand and of the result."""
    return np.empty((4, size), dtype)


def _drawing_workspace() -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
    """The same of what a block of random bits serves, and those."""
    return _workspace(_FLOAT64, _PER_BLOCK), np.empty(random_bits.BLOCK_WORDS, np.uint32)


def apply(
    operation: int,
    operands: Operands,
    result: Carrier,
    in_place: bool,
    format: FormatFacts,
    rounding: RoundingFacts,
) -> None:
    """Compute an operation on broadcast operands, in a mode that is not stochastic.

    Parameters
    ----------
    operation : int
        ``ADD`` to ``FMA``.
    operands : Operands
    result : ndarray, 1-d
        Receives the result.
    in_place : bool
        Whether elements of the result replace the operands that they are computed from.
    format, rounding : Format, Rounding
        The format of the result and its rounding.
    """
    dtype, shape = result.dtype, operands.shape
    launching.require_shapes((result, (math.prod(shape),)), (operands.steps, (3, 3)))
    for array, steps in zip(operands.arrays, operands.steps.tolist(), strict=True):
        launching.require_shapes((array, (span(steps, shape),)))
    plan = _plan(operation, format, rounding, dtype)
    units, flip = shape[0] * shape[1] * -(-shape[2] // _BLOCK), _sign_if(operands.flip, dtype)
    unsettled = np.ones(units, np.bool_)
    width = min(shape[2], _BLOCK)
    if plan.loop != _NOTHING:
        summed = operation == ADD and plan.loop == _WIDE
        taken, given = (FMA, _fused(operands)) if summed else (operation, operands)
        part = _computing(taken, kind_of(rounding), plan.loop, dtype, plan.lane)
        launching.run(
            _quick_kernel(part.takes),
            units,
            *(part.address, _OPERANDS[taken], given.arrays, given.steps, shape, flip, result),
            *(unsettled, in_place),
            dtype.type(np.nan),  # a float64 one would make the loop one of float64 numbers
            *(plan.shortcuts, plan.zero_sum),
            cost=_COST * width,
            workspace=functools.partial(_workspace, dtype),
        )
    if unsettled.any():
        part = _settling(operation, takes_odd(format, rounding), dtype)
        launching.run(
            _exact_kernel(part.takes),
            units,
            *(part.address, _OPERANDS[operation], operands.arrays, operands.steps, shape, flip),
            *(result, unsettled, in_place or plan.loop == _NOTHING, plan.targets),
            cost=_SLOW_COST * width,
            workspace=functools.partial(_workspace, dtype),
        )


def apply_stochastic(
    operation: int,
    operands: tuple[Any, ...],
    result: Carrier,
    format: FormatFacts,
    rounding: RoundingFacts,
) -> None:
    """Compute an operation on flat operands under stochastic rounding.

    Parameters
    ----------
    operation : int
        ``ADD`` to ``FMA``.
    operands : tuple
        Three flat arrays, their steps (0 for those of one element, else 1) and whether to negate
        the second one.
    result : ndarray, 1-d
        Receives the result.
    format, rounding : Format, Rounding
        The format of the result and its rounding.
    """
    size, (*arrays, steps, flips) = result.size, operands
    launching.require_shapes(
        (result, (size,)),
        (steps, (3,)),
        *((x, (size if moves else 1,)) for x, moves in zip(arrays, steps.tolist(), strict=True)),
    )
    launching.run(
        _stochastic_range,
        -(-size // _PER_BLOCK),
        *(_drawing(operation).address, _OPERANDS[operation]),
        tuple(read_only(x, result.dtype) for x in arrays),
        *(steps, _sign_if(flips, result.dtype), result),
        targets_of((format, rounding)),
        random_bits.key_of(rounding.seed),
        unused_bits(rounding),
        cost=_SLOW_COST * _PER_BLOCK,
        workspace=_drawing_workspace,
    )
