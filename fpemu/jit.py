"""Scalar operations for users' own Numba kernels.

Each maker returns a compiled function of float64 scalars (float32 ones are widened) that is inlined
where it is called and rounds once into a fixed format.  It needs nothing of Python at run time: it
works in ``@njit`` code with or without ``parallel`` and ``nogil``.

Under a stochastic rounding a function takes one more argument, an integer i from 0, and draws the
random bits that element i of a call such as :func:`fpemu.add` on float64 arrays draws.  Give every
operation of a kernel an i of its own, or a function with a seed of its own.

Examples
--------
Newton's iteration for the square root of 2 in an arithmetic with 8 significant bits:

>>> import numba
>>> import fpemu
>>> add, divide = fpemu.jit.adder("e5m7"), fpemu.jit.divider("e5m7")
>>> @numba.njit
... def newton(a):
...     x = a
...     for _ in range(6):
...         x = divide(add(x, divide(a, x)), 2.0)
...     return x
>>> newton(2.0)
1.4140625
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, cast

import numba
import numpy as np

from fpemu import formats as _formats
from fpemu._kernels import random_bits as philox
from fpemu._kernels import words
from fpemu._kernels.caching import inline
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
    number_word_at,
    sqrt_word,
    sqrt_word_at,
)
from fpemu._kernels.rounding import kind_of, round_word, target_of, unused_bits
from fpemu.formats import FormatLike
from fpemu.rounding import RoundingLike, as_rounding

__all__ = ["adder", "divider", "fma", "multiplier", "rounder", "square_root", "subtractor"]

Scalar = Callable[..., float]

_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE = range(4)

_constant: Final = numba.njit(forceinline=True, error_model="numpy")


def _parameters(format: FormatLike, rounding: RoundingLike) -> tuple[Any, int, bool]:
    """What a scalar function is made of: target, kind, and whether the quick way will do."""
    format, rounding = _formats.format(format), as_rounding(rounding)
    target = target_of(format, rounding, np.dtype(np.float64))
    return target, kind_of(rounding), takes_odd(format, rounding)


def _stochastic_parameters(
    format: FormatLike, rounding: RoundingLike
) -> tuple[Any, int, tuple[Any, Any], Any]:
    """Target, kind, key and unused bits of a stochastic function."""
    format, rounding = _formats.format(format), as_rounding(rounding)
    target = target_of(format, rounding, np.dtype(np.float64))
    return target, kind_of(rounding), philox.key_of(rounding.seed), unused_bits(rounding)


@inline
def _drawn(i: int, key: Any, unused: Any) -> Any:
    bits = philox.element_word(i, key)
    return words.shift_left(words.shift_right(bits, unused), unused)


def rounder(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``x -> round(x)``.

    Parameters
    ----------
    format : Format or str
        The format to round into.
    rounding : Rounding or str
        The rounding.  A stochastic one truncates the discarded fraction to `random_bits` bits, 64
        if that is None.

    Returns
    -------
    callable
        An ``@njit`` function of one float64, a member of the format; under a stochastic rounding of
        that and an integer.

    Raises
    ------
    ValueError
        If the format or mode is unknown.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.jit.rounder("float8_e4m3fn")(0.3)
    0.3125
    >>> up_or_down = fpemu.jit.rounder("float8_e4m3fn", fpemu.Rounding("sr", seed=1))
    >>> sorted({up_or_down(0.3, i) for i in range(100)})
    [0.28125, 0.3125]
    """
    if as_rounding(rounding).is_stochastic:
        return _stochastic_unary(*_stochastic_parameters(format, rounding), root=False)
    return _rounder(*_parameters(format, rounding)[:2])


@functools.lru_cache(maxsize=256)
def _rounder(target: Any, kind: int) -> Scalar:
    @_constant
    def rounded(x):  # type: ignore[no-untyped-def]
        return words.floating(round_word(words.word(np.float64(x)), target, kind))

    return cast(Scalar, rounded)


def adder(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b) -> round(a + b)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return _stochastic_binary(*_stochastic_parameters(format, rounding), operation=_ADD)
    return _adder(*_parameters(format, rounding), sign=1.0)


def subtractor(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b) -> round(a - b)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return _stochastic_binary(*_stochastic_parameters(format, rounding), operation=_SUBTRACT)
    return _adder(*_parameters(format, rounding), sign=-1.0)


@functools.lru_cache(maxsize=256)
def _adder(target: Any, kind: int, quick: bool, sign: float) -> Scalar:
    @_constant
    def added(a, b):  # type: ignore[no-untyped-def]
        x, y = np.float64(a), sign * np.float64(b)
        if quick:
            return words.floating(quick_add(x, y, target, kind))
        return words.floating(fma_word(1.0, x, y, target, kind))

    return cast(Scalar, added)


def multiplier(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b) -> round(a * b)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return _stochastic_binary(*_stochastic_parameters(format, rounding), operation=_MULTIPLY)
    return _multiplier(*_parameters(format, rounding))


@functools.lru_cache(maxsize=256)
def _multiplier(target: Any, kind: int, quick: bool) -> Scalar:
    @_constant
    def multiplied(a, b):  # type: ignore[no-untyped-def]
        x, y = np.float64(a), np.float64(b)
        if quick:
            return words.floating(quick_multiply(x, y, target, kind))
        return words.floating(multiply_word(x, y, target, kind))

    return cast(Scalar, multiplied)


def divider(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b) -> round(a / b)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return _stochastic_binary(*_stochastic_parameters(format, rounding), operation=_DIVIDE)
    return _divider(*_parameters(format, rounding))


@functools.lru_cache(maxsize=256)
def _divider(target: Any, kind: int, quick: bool) -> Scalar:
    @_constant
    def divided(a, b):  # type: ignore[no-untyped-def]
        x, y = np.float64(a), np.float64(b)
        if quick:
            return words.floating(quick_divide(x, y, target, kind))
        return words.floating(divide_word(x, y, target, kind))

    return cast(Scalar, divided)


def square_root(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``a -> round(sqrt(a))``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return _stochastic_unary(*_stochastic_parameters(format, rounding), root=True)
    return _square_root(*_parameters(format, rounding))


@functools.lru_cache(maxsize=256)
def _square_root(target: Any, kind: int, quick: bool) -> Scalar:
    @_constant
    def rooted(a):  # type: ignore[no-untyped-def]
        x = np.float64(a)
        if quick:
            return words.floating(quick_sqrt(x, target, kind))
        return words.floating(sqrt_word(x, target, kind))

    return cast(Scalar, rooted)


def fma(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b, c) -> round(a*b + c)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return _stochastic_fma(*_stochastic_parameters(format, rounding))
    return _fma(*_parameters(format, rounding)[:2])


@functools.lru_cache(maxsize=256)
def _fma(target: Any, kind: int) -> Scalar:
    @_constant
    def fused(a, b, c):  # type: ignore[no-untyped-def]
        bits = fma_word(np.float64(a), np.float64(b), np.float64(c), target, kind)
        return words.floating(bits)

    return cast(Scalar, fused)


@functools.lru_cache(maxsize=256)
def _stochastic_unary(target: Any, kind: int, key: Any, unused: Any, *, root: bool) -> Scalar:
    @_constant
    def rounded(a, i):  # type: ignore[no-untyped-def]
        x, random = np.float64(a), _drawn(i, key, unused)
        if root:
            return words.floating(sqrt_word_at(x, target, kind, random, unused))
        return words.floating(number_word_at(words.word(x), target, kind, random, unused))

    return cast(Scalar, rounded)


@functools.lru_cache(maxsize=256)
def _stochastic_binary(target: Any, kind: int, key: Any, unused: Any, *, operation: int) -> Scalar:
    @_constant
    def rounded(a, b, i):  # type: ignore[no-untyped-def]
        x, y, random = np.float64(a), np.float64(b), _drawn(i, key, unused)
        if operation == _DIVIDE:
            bits = divide_word_at(x, y, target, kind, random, unused)
        elif operation == _MULTIPLY:
            bits = multiply_word_at(x, y, target, kind, random, unused)
        else:
            addend = -y if operation == _SUBTRACT else y
            bits = fma_word_at(1.0, x, addend, target, kind, random, unused)
        return words.floating(bits)

    return cast(Scalar, rounded)


@functools.lru_cache(maxsize=256)
def _stochastic_fma(target: Any, kind: int, key: Any, unused: Any) -> Scalar:
    @_constant
    def fused(a, b, c, i):  # type: ignore[no-untyped-def]
        x, y, z, random = np.float64(a), np.float64(b), np.float64(c), _drawn(i, key, unused)
        return words.floating(fma_word_at(x, y, z, target, kind, random, unused))

    return cast(Scalar, fused)
