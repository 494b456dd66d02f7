"""Scalar operations for users' own Numba kernels.

Each function of this module returns a compiled function of float64 scalars, which rounds its exact
result once into a fixed format.  float32 arguments are widened.  Numba inlines the compiled
function where ``@njit`` code calls it, with or without ``parallel`` and ``nogil``.

Functions such as ``exp`` serve formats of at most 24 significand bits, and at most 20 random bits.
They leave a value that lies too near to where the rounding changes, about one of 2**30, to mpmath,
and so call Python.  Numba does not cache kernels that use them.

Under stochastic rounding the compiled function takes one more argument, an integer ``i >= 0``.  It
draws the random bits of element i of a call such as :func:`fpemu.add` on float64 arrays.  Give each
operation of a kernel its own i or its own seed, so that their draws are independent.

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

import ctypes
import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fpemu import formats as _formats
from fpemu._kernels import enclosures, random_bits, scalars
from fpemu._kernels.error_free import takes_odd
from fpemu._kernels.rounding import kind_of, target_of, unused_bits
from fpemu._kernels.scalars import Scalar
from fpemu.formats import FormatLike
from fpemu.multiprecision import odd_value
from fpemu.rounding import RoundingLike, as_rounding

__all__ = [
    "adder",
    "divider",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "fma",
    "gelu",
    "gelu_tanh",
    "log",
    "log1p",
    "log2",
    "multiplier",
    "reciprocal",
    "rounder",
    "rsqrt",
    "sigmoid",
    "silu",
    "sqrt",
    "square_root",
    "subtractor",
    "tanh",
]


def _parameters(format: FormatLike, rounding: RoundingLike) -> tuple[Any, int, bool]:
    """Target, kind of code, and whether quick arithmetic serves the target."""
    format, rounding = _formats.format(format), as_rounding(rounding)
    target = target_of(format, rounding, np.dtype(np.float64))
    return target, kind_of(rounding), takes_odd(format, rounding)


def _stochastic_parameters(
    format: FormatLike, rounding: RoundingLike
) -> tuple[Any, int, tuple[Any, Any], Any]:
    """Target, kind, key and unused bits of a stochastic function."""
    format, rounding = _formats.format(format), as_rounding(rounding)
    target = target_of(format, rounding, np.dtype(np.float64))
    return target, kind_of(rounding), random_bits.key_of(rounding.seed), unused_bits(rounding)


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
        An ``@njit`` function from float64 to members of the format; under stochastic rounding it
        takes an integer too.

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
        return scalars.stochastic_unary(*_stochastic_parameters(format, rounding), root=False)
    return scalars.rounder(*_parameters(format, rounding)[:2])


def adder(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b) -> round(a + b)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return scalars.stochastic_binary(
            *_stochastic_parameters(format, rounding), operation=scalars.ADD
        )
    return scalars.adder(*_parameters(format, rounding), sign=1.0)


def subtractor(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b) -> round(a - b)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return scalars.stochastic_binary(
            *_stochastic_parameters(format, rounding), operation=scalars.SUBTRACT
        )
    return scalars.adder(*_parameters(format, rounding), sign=-1.0)


def multiplier(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b) -> round(a * b)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return scalars.stochastic_binary(
            *_stochastic_parameters(format, rounding), operation=scalars.MULTIPLY
        )
    return scalars.multiplier(*_parameters(format, rounding))


def divider(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b) -> round(a / b)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return scalars.stochastic_binary(
            *_stochastic_parameters(format, rounding), operation=scalars.DIVIDE
        )
    return scalars.divider(*_parameters(format, rounding))


def square_root(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``a -> round(sqrt(a))``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return scalars.stochastic_unary(*_stochastic_parameters(format, rounding), root=True)
    return scalars.square_root(*_parameters(format, rounding))


def fma(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
    """A compiled ``(a, b, c) -> round(a*b + c)``; parameters as for :func:`rounder`."""
    if as_rounding(rounding).is_stochastic:
        return scalars.stochastic_fma(*_stochastic_parameters(format, rounding))
    return scalars.fma(*_parameters(format, rounding)[:2])


sqrt = square_root


# --- functions ------------------------------------------------------------------------------------

_QUOTIENTS: Final = ("reciprocal", "rsqrt")  # of a zero, which has no sign in P3109
_Pointer: Final = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)


@functools.cache
def _fallback(name: str) -> Any:
    """Exact values for compiled code: a pointer to a function that takes the GIL while it runs."""
    return _Pointer(functools.partial(odd_value, name))


def _maker(name: str, value: str) -> Callable[..., Scalar]:
    """What makes the compiled versions of one function."""

    def make(format: FormatLike, rounding: RoundingLike = "rne") -> Scalar:
        format, rounding = _formats.format(format), as_rounding(rounding)
        enclosures.check_decidable(name, format, rounding)
        target = target_of(format, rounding, np.dtype(np.float64))
        bits = enclosures.bits_to_decide(format, rounding)
        poles = not (format.p3109 and name in _QUOTIENTS)
        if rounding.is_stochastic:
            key, unused = random_bits.key_of(rounding.seed), enclosures.unused_by(rounding)
            facts = (target, kind_of(rounding), key, unused, bits)
            return scalars.stochastic_function(name, _fallback, *facts, poles=poles)
        return scalars.function(name, _fallback, target, kind_of(rounding), bits, poles=poles)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = (
        f"A compiled ``x -> round({value})``, as :func:`fpemu.functions.{name}`; parameters as for "
        ":func:`rounder`."
    )
    return make


exp = _maker("exp", "e**x")
exp2 = _maker("exp2", "2**x")
expm1 = _maker("expm1", "e**x - 1")
log = _maker("log", "log(x)")
log2 = _maker("log2", "log2(x)")
log1p = _maker("log1p", "log(1 + x)")
tanh = _maker("tanh", "tanh(x)")
sigmoid = _maker("sigmoid", "1 / (1 + e**-x)")
erf = _maker("erf", "erf(x)")
rsqrt = _maker("rsqrt", "1 / sqrt(x)")
reciprocal = _maker("reciprocal", "1 / x")
gelu = _maker("gelu", "x Phi(x)")
gelu_tanh = _maker("gelu_tanh", "gelu(x) by tanh")
silu = _maker("silu", "x / (1 + e**-x)")
