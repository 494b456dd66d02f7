"""Scalar operations into one fixed target, each a compiled function of its own.

The target, the kind of code and the key of the random bits are constants of the compiled code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np

from fpemu._kernels import caching, enclosures, random_bits, words
from fpemu._kernels.caching import inline
from fpemu._kernels.error_free import quick_add, quick_divide, quick_multiply, quick_sqrt
from fpemu._kernels.exact import (
    divide_word,
    divide_word_at,
    fma_word,
    fma_word_at,
    multiply_word,
    multiply_word_at,
    number_word_at,
    sqrt_word,
    sqrt_word_at,
)
from fpemu._kernels.rounding import round_word

__all__ = [
    "ADD",
    "DIVIDE",
    "MULTIPLY",
    "SUBTRACT",
    "Scalar",
    "adder",
    "divider",
    "fma",
    "function",
    "multiplier",
    "rounder",
    "square_root",
    "stochastic_binary",
    "stochastic_fma",
    "stochastic_function",
    "stochastic_unary",
]

Scalar = Callable[..., float]

ADD, SUBTRACT, MULTIPLY, DIVIDE = range(4)

# They close over the address of a function of this process.
_not_kept: Final = functools.partial(caching.scalar, kept=False)


@functools.lru_cache(maxsize=256)
def rounder(target: Any, kind: int) -> Scalar:
    @caching.scalar
    def rounded(x):  # type: ignore[no-untyped-def]
        return words.floating(round_word(words.word(np.float64(x)), target, kind))

    return cast(Scalar, rounded)


@functools.lru_cache(maxsize=256)
def adder(target: Any, kind: int, quick: bool, sign: float) -> Scalar:
    @caching.scalar
    def added(a, b):  # type: ignore[no-untyped-def]
        x, y = np.float64(a), sign * np.float64(b)
        if quick:
            return words.floating(quick_add(x, y, target, kind))
        return words.floating(fma_word(1.0, x, y, target, kind))

    return cast(Scalar, added)


@functools.lru_cache(maxsize=256)
def multiplier(target: Any, kind: int, quick: bool) -> Scalar:
    @caching.scalar
    def multiplied(a, b):  # type: ignore[no-untyped-def]
        x, y = np.float64(a), np.float64(b)
        if quick:
            return words.floating(quick_multiply(x, y, target, kind))
        return words.floating(multiply_word(x, y, target, kind))

    return cast(Scalar, multiplied)


@functools.lru_cache(maxsize=256)
def divider(target: Any, kind: int, quick: bool) -> Scalar:
    @caching.scalar
    def divided(a, b):  # type: ignore[no-untyped-def]
        x, y = np.float64(a), np.float64(b)
        if quick:
            return words.floating(quick_divide(x, y, target, kind))
        return words.floating(divide_word(x, y, target, kind))

    return cast(Scalar, divided)


@functools.lru_cache(maxsize=256)
def square_root(target: Any, kind: int, quick: bool) -> Scalar:
    @caching.scalar
    def rooted(a):  # type: ignore[no-untyped-def]
        x = np.float64(a)
        if quick:
            return words.floating(quick_sqrt(x, target, kind))
        return words.floating(sqrt_word(x, target, kind))

    return cast(Scalar, rooted)


@functools.lru_cache(maxsize=256)
def fma(target: Any, kind: int) -> Scalar:
    @caching.scalar
    def fused(a, b, c):  # type: ignore[no-untyped-def]
        bits = fma_word(np.float64(a), np.float64(b), np.float64(c), target, kind)
        return words.floating(bits)

    return cast(Scalar, fused)


# --- stochastic rounding --------------------------------------------------------------------------


@inline
def _drawn(i: int, key: Any, unused: Any) -> Any:
    """The random bits of element i of a call, the unused ones cleared."""
    bits = random_bits.element_word(i, key)
    return words.shift_left(words.shift_right(bits, unused), unused)


@functools.lru_cache(maxsize=256)
def stochastic_unary(target: Any, kind: int, key: Any, unused: Any, *, root: bool) -> Scalar:
    @caching.scalar
    def rounded(a, i):  # type: ignore[no-untyped-def]
        x, random = np.float64(a), _drawn(i, key, unused)
        if root:
            return words.floating(sqrt_word_at(x, target, kind, random, unused))
        return words.floating(number_word_at(words.word(x), target, kind, random, unused))

    return cast(Scalar, rounded)


@functools.lru_cache(maxsize=256)
def stochastic_binary(target: Any, kind: int, key: Any, unused: Any, *, operation: int) -> Scalar:
    @caching.scalar
    def rounded(a, b, i):  # type: ignore[no-untyped-def]
        x, y, random = np.float64(a), np.float64(b), _drawn(i, key, unused)
        if operation == DIVIDE:
            bits = divide_word_at(x, y, target, kind, random, unused)
        elif operation == MULTIPLY:
            bits = multiply_word_at(x, y, target, kind, random, unused)
        else:
            addend = -y if operation == SUBTRACT else y
            bits = fma_word_at(1.0, x, addend, target, kind, random, unused)
        return words.floating(bits)

    return cast(Scalar, rounded)


@functools.lru_cache(maxsize=256)
def stochastic_fma(target: Any, kind: int, key: Any, unused: Any) -> Scalar:
    @caching.scalar
    def fused(a, b, c, i):  # type: ignore[no-untyped-def]
        x, y, z, random = np.float64(a), np.float64(b), np.float64(c), _drawn(i, key, unused)
        return words.floating(fma_word_at(x, y, z, target, kind, random, unused))

    return cast(Scalar, fused)


# --- functions ------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _odd_function(name: str, fallback: Any, bits: int, poles: bool) -> Any:
    """A function rounded to odd; `fallback` makes what computes undecided values."""
    enclosure, low_bits = enclosures.ENCLOSURES[name], enclosures.low_bits_of(bits)
    exactly = fallback(name)

    @inline
    def odd(x):  # type: ignore[no-untyped-def]
        high, low, error, exponent = enclosure(x)
        value, undecided = enclosures.odd_of(high, low, error, exponent, low_bits)
        if undecided:
            value = exactly(x)
        if not poles and x == 0.0:
            value = np.nan
        return words.word(value)

    return odd


@functools.lru_cache(maxsize=256)
def function(name: str, fallback: Any, target: Any, kind: int, bits: int, *, poles: bool) -> Scalar:
    odd = _odd_function(name, fallback, bits, poles)

    @_not_kept
    def rounded(x):  # type: ignore[no-untyped-def]
        return words.floating(round_word(odd(np.float64(x)), target, kind))

    return cast(Scalar, rounded)


@functools.lru_cache(maxsize=256)
def stochastic_function(
    name: str,
    fallback: Any,
    target: Any,
    kind: int,
    key: Any,
    unused: Any,
    bits: int,
    *,
    poles: bool,
) -> Scalar:
    odd = _odd_function(name, fallback, bits, poles)

    @_not_kept
    def rounded(x, i):  # type: ignore[no-untyped-def]
        random = _drawn(i, key, unused)
        return words.floating(number_word_at(odd(np.float64(x)), target, kind, random, unused))

    return cast(Scalar, rounded)
