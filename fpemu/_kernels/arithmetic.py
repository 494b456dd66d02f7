"""Arithmetic on arrays, element by element.

There are two loops.  The first is floating-point arithmetic that a compiler turns into vector
instructions: it rounds into the format wherever the proof below reaches, and writes NaN elsewhere.
The second looks at the NaN alone, and computes those elements exactly.  Usually there are none; it
is a kernel of its own, so that it is compiled only where it is needed.

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
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, random_bits, words
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
from fpemu._kernels.rounding import (
    DETERMINISTIC,
    GRAIN,
    LAYOUTS,
    NEAREST_EVEN,
    STOCHASTIC,
    Carrier,
    Shortcut,
    Target,
    is_own_format,
    kind_of,
    round_number,
    shortcut_of,
    target_of,
    unused_bits,
    wide_bits,
)

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
_BLOCK: Final = 2048  # elements that stay in the first-level cache while they are read twice
_SLOW_GRAIN: Final = 2**13  # elements worth a thread where a step takes integer arithmetic
_FLOAT32_LANES: Final = 22  # the most precise formats whose sums float32 lanes form

# What the first loop of a kernel does: nothing, the processor's operation, or odd numbers in lanes
# of the carrier, or float64 lanes for float32 operands.
_NOTHING, _PROCESSOR, _OWN, _WIDE = range(4)

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


@functools.cache
def _quick_kernel(operation: int, kind: int, loop: int) -> Callable[..., None]:
    """The kernel that has the first loop; its ranges count blocks.

    A block with elements that are left to the second loop is marked.  It has NaN there, or is not
    written at all if the result replaces operands.

    Parameters
    ----------
    operation : int
    kind : int
        ``NEAREST_EVEN`` or ``DETERMINISTIC``.
    loop : int
        What the loop does.
    """
    binary, fuses = operation != SQRT, operation == FMA

    @caching.kernel
    def quick_range(  # type: ignore[no-untyped-def]
        start,
        stop,
        own,
        arrays,
        steps,
        shape,
        flip,
        out,
        unsettled,
        in_place,
        nan,
        shortcut,
        zero_sum,
    ):
        columns, length = shape[1], shape[2]
        blocks = -(-length // _BLOCK)
        for unit in range(start, stop):
            row, first = unit // blocks, unit % blocks * _BLOCK
            count = min(_BLOCK, length - first)
            place = row // columns, row % columns, first
            x = _block_of(arrays[0], steps[0], place, count, own[0])
            y = _block_of(arrays[1], steps[1], place, count, own[1]) if binary else x
            z = _block_of(arrays[2], steps[2], place, count, own[2]) if fuses else x
            final = out[row * length + first : row * length + first + count]
            result = own[3][:count] if in_place else final
            settled = True
            for i in range(count):
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
            unsettled[unit] = not settled
            if in_place and settled:
                for i in range(count):
                    final[i] = result[i]

    return cast(Callable[..., None], quick_range)


@functools.cache
def _exact_kernel(operation: int, quick: bool, narrow: bool) -> Callable[..., None]:
    """The kernel that has the second loop, for blocks that are marked; its ranges count blocks.

    Parameters
    ----------
    operation : int
    quick : bool
        Whether the target :func:`~fpemu._kernels.error_free.takes_odd`.
    narrow : bool
        Whether the carrier is float32.
    """
    binary, fuses = operation != SQRT, operation == FMA

    @caching.kernel
    def exact_range(  # type: ignore[no-untyped-def]
        start, stop, own, arrays, steps, shape, flip, out, unsettled, whole, target
    ):
        columns, length = shape[1], shape[2]
        blocks = -(-length // _BLOCK)
        for unit in range(start, stop):
            if unsettled[unit]:
                row, first = unit // blocks, unit % blocks * _BLOCK
                count = min(_BLOCK, length - first)
                place = row // columns, row % columns, first
                x = _block_of(arrays[0], steps[0], place, count, own[0])
                y = _block_of(arrays[1], steps[1], place, count, own[1]) if binary else x
                z = _block_of(arrays[2], steps[2], place, count, own[2]) if fuses else x
                result = out[row * length + first : row * length + first + count]
                for i in range(count):
                    if whole or result[i] != result[i]:
                        second = words.floating(words.bit_xor(words.word(y[i]), flip))
                        a, b, c = np.float64(x[i]), np.float64(second), np.float64(z[i])
                        bits = _exact(operation, quick, narrow, a, b, c, target)
                        result[i] = words.floating(bits)

    return cast(Callable[..., None], exact_range)


@functools.cache
def _stochastic_kernel(operation: int) -> Callable[..., None]:
    """The kernel of an operation under stochastic rounding; its ranges count blocks of elements.

    An element draws the same bits as a float64 element of that index does in :func:`fpemu.round`.
    """
    multiplies, divides, roots = operation == MULTIPLY, operation == DIVIDE, operation == SQRT
    adds, per_block = operation == ADD, random_bits.BLOCK_WORDS // 2

    @caching.kernel
    def stochastic_range(  # type: ignore[no-untyped-def]
        start, stop, a, b, c, steps, flip, out, target, key, unused
    ):
        random = np.empty(random_bits.BLOCK_WORDS, np.uint32)
        for block in range(start, stop):
            random_bits.fill_block(block, key, random)
            first = block * per_block
            for i in range(first, min(first + per_block, out.size)):
                drawn = wide_bits(random, i - first, per_block)
                drawn = words.shift_left(words.shift_right(drawn, unused), unused)
                x = np.float64(a[i * steps[0]])
                y = np.float64(b[i * steps[1]])
                if flip:
                    y = -y
                if adds:
                    bits = fma_word_at(1.0, x, y, target, STOCHASTIC, drawn, unused)
                elif multiplies:
                    bits = multiply_word_at(x, y, target, STOCHASTIC, drawn, unused)
                elif divides:
                    bits = divide_word_at(x, y, target, STOCHASTIC, drawn, unused)
                elif roots:
                    bits = sqrt_word_at(x, target, STOCHASTIC, drawn, unused)
                else:
                    z = np.float64(c[i * steps[2]])
                    bits = fma_word_at(x, y, z, target, STOCHASTIC, drawn, unused)
                out[i] = words.floating(bits)

    return cast(Callable[..., None], stochastic_range)


class _Plan(NamedTuple):
    """What a format, a rounding and a carrier make of an operation."""

    loop: int
    quick: Callable[..., None]
    exact: Callable[..., None]
    target: Target
    shortcut: Shortcut
    zero_sum: Any  # a word of the lanes


@functools.lru_cache(maxsize=1024)
def _plan(
    operation: int, format: FormatFacts, rounding: RoundingFacts, dtype: np.dtype[Any]
) -> _Plan:
    loop, lane = _first_loop(operation, format, rounding, dtype)
    fused = operation == ADD and loop == _WIDE  # see `_fused`
    target = target_of(format, rounding, np.dtype(np.float64))
    return _Plan(
        loop,
        _quick_kernel(FMA if fused else operation, kind_of(rounding), loop),
        _exact_kernel(operation, takes_odd(format, rounding), dtype == np.float32),
        target,
        shortcut_of(format, rounding, lane),
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
        lanes, lane = _WIDE, np.dtype(np.float64)
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


def _workspace(dtype: np.dtype[Any]) -> NDArray[Any]:
    """A block of each operand and of the result."""
    return np.empty((4, _BLOCK), dtype)


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

    def run(kernel: Callable[..., None], given: Operands, grain: int, *others: Any) -> None:
        common = (given.arrays, given.steps, shape, flip, result, unsettled)
        own = functools.partial(_workspace, dtype)
        launching.run(kernel, units, *common, *others, grain=max(1, grain // width), workspace=own)

    if plan.loop != _NOTHING:
        summed = operation == ADD and plan.loop == _WIDE
        given = _fused(operands) if summed else operands
        nan = dtype.type(np.nan)  # a float64 one would make the loop one of float64 numbers
        run(plan.quick, given, GRAIN, in_place, nan, plan.shortcut, plan.zero_sum)
    if unsettled.any():
        whole = in_place or plan.loop == _NOTHING
        run(plan.exact, operands, _SLOW_GRAIN, whole, plan.target)


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
    size, steps = result.size, operands[3]
    launching.require_shapes(
        (result, (size,)),
        (steps, (3,)),
        *(
            (x, (size if moves else 1,))
            for x, moves in zip(operands[:3], steps.tolist(), strict=True)
        ),
    )
    per_block = random_bits.BLOCK_WORDS // 2
    launching.run(
        _stochastic_kernel(operation),
        -(-size // per_block),
        *launching.reading(*operands[:3]),
        *operands[3:],
        result,
        target_of(format, rounding, np.dtype(np.float64)),
        random_bits.key_of(rounding.seed),
        unused_bits(rounding),
        grain=_SLOW_GRAIN // per_block,
    )
