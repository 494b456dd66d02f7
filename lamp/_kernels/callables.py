"""Functions of users, compiled by Numba or not, called with their mistakes told in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core.errors import NumbaError

__all__ = ["call", "name_of"]


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called in messages."""
    return str(getattr(function, "__name__", type(function).__name__))


def call(function: Callable[..., Any], role: str, *arguments: Any) -> Any:
    """What a function returns.

    Raises
    ------
    TypeError
        If Numba cannot compile the function for these arguments, or a plain function does not take
        them.
    """
    try:
        return function(*arguments)
    except (NumbaError, TypeError) as error:
        given = ", ".join(map(_kind, arguments))
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise TypeError(f"{role} {name_of(function)} does not take {given}: {reason}") from None


def _kind(argument: Any) -> str:
    if np.ndim(argument) == 0:
        return "a number"
    shape = " x ".join(map(str, np.shape(argument)))
    return f"a float64 array of {shape}"
