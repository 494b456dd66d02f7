"""mpmath for several threads: private contexts, and functions rounded to odd by them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import mpmath
import numpy as np

__all__ = ["odd_value", "own_context"]


class _Guard:
    """A lock that is free in a forked process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.lock = threading.Lock()


_guard = _Guard()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guard.forget)


@contextmanager
def own_context() -> Iterator[Any]:
    """A private mpmath context, whose precision no other code changes.

    mpmath caches constants such as pi without a lock, so only one thread at a time holds a context;
    others wait.

    Yields
    ------
    mpmath.MPContext

    Examples
    --------
    >>> from fpemu.multiprecision import own_context
    >>> with own_context() as mp:
    ...     mp.dps = 30
    ...     print(mp.exp(1))
    2.71828182845904523536028747135
    """
    with _guard.lock:
        yield mpmath.MPContext()


# --- functions rounded to odd ---------------------------------------------------------------------

# No formula cancels where it is used.  Relative errors grow by at most 2**12 (exp of an argument of
# that size).  Exact values never arise here.
_DEFINITIONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "exp": lambda mp, x: mp.exp(x),
    "exp2": lambda mp, x: mp.exp(x * mp.ln2),
    "expm1": lambda mp, x: mp.expm1(x),
    "log": lambda mp, x: mp.log(x),
    "log2": lambda mp, x: mp.log(x) / mp.ln2,
    "log1p": lambda mp, x: mp.log1p(x),
    "tanh": lambda mp, x: mp.tanh(x),
    "sigmoid": lambda mp, x: 1 / (1 + mp.exp(-x)),
    "erf": lambda mp, x: mp.erf(x),
    "rsqrt": lambda mp, x: 1 / mp.sqrt(x),
    "reciprocal": lambda mp, x: 1 / x,
    "gelu": lambda mp, x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "gelu_tanh": lambda mp, x: (
        x / (1 + mp.exp(-2 * mp.sqrt(2 / mp.pi) * (x + x**3 * 44715 / mp.mpf(10) ** 6)))
    ),
    "silu": lambda mp, x: x / (1 + mp.exp(-x)),
}
_FIRST_PRECISION: Final = 90
_LAST_PRECISION: Final = 20000
_GUARD_BITS: Final = 24


def _odd_float(number: Any) -> float:
    """An mpf rounded to odd into float64."""
    sign, significand, exponent, bits = number._mpf_
    significand = int(significand)
    drop = max(bits - 53, -1074 - exponent, 0)
    kept = significand >> drop
    kept |= int(kept << drop != significand)
    try:
        magnitude = float(np.ldexp(float(kept), exponent + drop))
    except OverflowError:
        magnitude = np.inf
    return float(np.copysign(min(magnitude, float(np.finfo(np.float64).max)), -sign or 1))


def odd_value(name: str, x: float) -> float:
    """The value of a function rounded to odd into float64, by Ziv's strategy.

    Parameters
    ----------
    name : str
        One of :data:`fpemu._kernels.enclosures.NAMES`.
    x : float
        Where the value is no number of few bits, see :mod:`fpemu.functions.rounded`.

    Returns
    -------
    float

    Raises
    ------
    ArithmeticError
        If the value cannot be told from a float64 number.  The kernels decide all such values.
    """
    with own_context() as context:
        return _odd_by_ziv(name, x, context)


def _odd_by_ziv(name: str, x: float, context: Any) -> float:
    precision = _FIRST_PRECISION
    while precision <= _LAST_PRECISION:
        context.prec = precision + _GUARD_BITS
        value = _DEFINITIONS[name](context, context.mpf(x))
        context.prec = 2 * precision + _GUARD_BITS
        margin = context.ldexp(1, -precision)
        first, second = (_odd_float(value * (1 + e)) for e in (-margin, margin))
        if first == second and context.isfinite(value):
            return first
        precision *= 2
    raise ArithmeticError(f"{name}({x!r}) cannot be told from a float64 number")
