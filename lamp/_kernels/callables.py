"""Functions of users, compiled by Numba or not, called with their mistakes told in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.core.errors import NumbaError

__all__ = ["call", "name_of", "telling"]


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
    with telling(f"{role} {name_of(function)}", *arguments):
        return function(*arguments)


@contextmanager
def telling(what: str, *arguments: Any) -> Iterator[None]:
    """Name what is called, and with what, if Numba cannot compile it or it does not take that."""
    try:
        yield
    except (NumbaError, TypeError) as error:
        given = ", ".join(map(_kind, arguments))
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        cause = None if isinstance(error, NumbaError) else error  # a page of Numba's own frames
        raise TypeError(f"{what} does not take {given}: {reason}") from cause


def _kind(argument: Any) -> str:
    if np.ndim(argument) == 0:
        return "a number"
    shape = " x ".join(map(str, np.shape(argument)))
    return f"a float64 array of {shape}"
