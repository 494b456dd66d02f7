"""Arithmetic on flat arrays, element by element."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np

from fpemu._kernels import caching, launching, random_bits, words
from fpemu._kernels.error_free import (
    quick_add,
    quick_divide,
    quick_multiply,
    quick_sqrt,
    takes_odd,
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
    STOCHASTIC,
    Carrier,
    target_of,
    unused_bits,
    wide_bits,
)

__all__ = ["ADD", "DIVIDE", "FMA", "FMA_FLOAT32", "MULTIPLY", "SQRT", "apply"]

ADD, MULTIPLY, DIVIDE, SQRT, FMA, FMA_FLOAT32 = range(6)
_GRAIN: Final = 2**13


@functools.cache
def _array_kernel(operation: int, quick: bool) -> Callable[..., None]:
    """The kernel of an operation in all modes but stochastic ones.

    Parameters
    ----------
    operation : int
    quick : bool
        Whether the target :func:`~fpemu._kernels.error_free.takes_odd`.

    Returns
    -------
    callable
        Operands of one element have step 0, others step 1.  `flip` negates b, to subtract.
    """
    # A version for rounding to nearest even would be faster by less than a tenth.
    kind = DETERMINISTIC
    adds, multiplies, divides = operation == ADD, operation == MULTIPLY, operation == DIVIDE
    roots, narrow = operation == SQRT, operation == FMA_FLOAT32

    @caching.kernel
    def array_range(start, stop, a, b, c, steps, flip, out, target):  # type: ignore[no-untyped-def]
        for i in range(start, stop):
            x = np.float64(a[i * steps[0]])
            y = np.float64(b[i * steps[1]])
            if flip:
                y = -y
            if adds:
                bits = quick_add(x, y, target, kind) if quick else fma_word(1.0, x, y, target, kind)
            elif multiplies:
                bits = (
                    quick_multiply(x, y, target, kind)
                    if quick
                    else multiply_word(x, y, target, kind)
                )
            elif divides:
                bits = (
                    quick_divide(x, y, target, kind) if quick else divide_word(x, y, target, kind)
                )
            elif roots:
                bits = quick_sqrt(x, target, kind) if quick else sqrt_word(x, target, kind)
            elif narrow and quick:
                bits = quick_add(x * y, np.float64(c[i * steps[2]]), target, kind)
            else:
                bits = fma_word(x, y, np.float64(c[i * steps[2]]), target, kind)
            out[i] = words.floating(bits)

    return cast(Callable[..., None], array_range)


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


def apply(
    operation: int,
    operands: tuple[Any, ...],
    result: Carrier,
    format: FormatFacts,
    rounding: RoundingFacts,
) -> None:
    """Compute an operation on flat operands.

    Parameters
    ----------
    operation : int
        ``ADD`` to ``FMA_FLOAT32``; ``FMA_FLOAT32`` if all operands are float32.
    operands : tuple
        Three flat arrays, their steps and whether to negate the second, see `_array_kernel`.
    result : ndarray, 1-d
        Receives the result.
    format, rounding : Format, Rounding
        The format of the result and its rounding.
    """
    flat = [operands[i] for i in range(3)]
    step = operands[3]
    size = result.size
    launching.require_shapes(
        (result, (size,)),
        (step, (3,)),
        *((x, (size if moves else 1,)) for x, moves in zip(flat, step.tolist(), strict=True)),
    )
    target = target_of(format, rounding, np.dtype(np.float64))
    if rounding.is_stochastic:
        per_block = random_bits.BLOCK_WORDS // 2
        launching.run(
            _stochastic_kernel(operation),
            -(-result.size // per_block),
            *operands,
            result,
            target,
            random_bits.key_of(rounding.seed),
            unused_bits(rounding),
            grain=_GRAIN // per_block,
        )
        return
    kernel = _array_kernel(operation, takes_odd(format, rounding))
    launching.run(kernel, result.size, *operands, result, target, grain=_GRAIN)
