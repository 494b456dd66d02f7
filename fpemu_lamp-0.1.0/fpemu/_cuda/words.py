"""The machine words of :mod:`fpemu._kernels.words` in Python, for the simulator.

On a device the intrinsics themselves are compiled.  Here each is written down as what it must give,
and a shift by as many bits as a word has, which no machine defines, is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

_WORDS = {np.float32: np.uint32, np.float64: np.uint64}
_FLOATS = {word: number for number, word in _WORDS.items()}


def _width(bits: Any) -> int:
    return int(bits.dtype.itemsize) * 8


def _width_keeping(operation: Callable[[int, int, int], int]) -> Callable[[Any, Any], Any]:
    """An operation of two words, or of a word and an integer, that keeps the width of the first."""

    def of_words(left: Any, right: Any) -> Any:
        if type(left) not in _FLOATS or type(right) not in (type(left), int):
            raise TypeError(f"not two words of one width: {left!r}, {right!r}")
        width = _width(left)
        return type(left)(operation(int(left), int(right), width) % 2**width)

    return of_words


def _within(distance: int, width: int) -> int:
    if distance >= width:
        raise ValueError(f"a word of {width} bits is shifted by {distance}")
    return distance


add = _width_keeping(lambda a, b, _: a + b)
subtract = _width_keeping(lambda a, b, _: a - b)
bit_and = _width_keeping(lambda a, b, _: a & b)
bit_or = _width_keeping(lambda a, b, _: a | b)
bit_xor = _width_keeping(lambda a, b, _: a ^ b)
minimum = _width_keeping(lambda a, b, _: min(a, b))
maximum = _width_keeping(lambda a, b, _: max(a, b))
multiply_high = _width_keeping(lambda a, b, width: a * b >> width)
shift_left = _width_keeping(lambda a, b, width: a << _within(b, width))
shift_right = _width_keeping(lambda a, b, width: a >> _within(b, width))


def leading_zeros(bits: Any) -> Any:
    """How many zeros stand above the highest set bit of a word."""
    return type(bits)(_width(bits) - int(bits).bit_length())


def word(number: Any) -> Any:
    """The bits of a float32 (as uint32) or float64 (as uint64); a number written down is one."""
    number = np.float64(number) if type(number) is float else number
    return number.view(_WORDS[type(number)])


def floating(bits: Any) -> Any:
    """The float32 (of a uint32) or float64 (of a uint64) with these bits."""
    return bits.view(_FLOATS[type(bits)])


def fused_multiply_add(a: Any, b: Any, c: Any) -> Any:
    """``a*b + c`` rounded once to nearest, in float32 or float64."""
    number = type(c)
    if not all(map(math.isfinite, (a, b, c))):
        return number(a * b + c)
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return number(a * b + c)  # its sign is right: a*b is zero, or -c and thus exact
    try:
        nearest = np.float64(float(exact))
    except OverflowError:
        return number(math.inf if exact > 0 else -math.inf)
    rest = exact - Fraction(float(nearest))
    if number is np.float32 and rest != 0 and nearest.view(np.uint64) % 2 == 0:
        # Rounded to odd in float64, it rounds to float32 as if it were exact.
        nearest = np.nextafter(nearest, math.copysign(math.inf, rest))
    with np.errstate(over="ignore"):
        return number(nearest)
