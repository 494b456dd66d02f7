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
    what = f"{role} {name_of(function)}"
    try:
        with telling(what, *arguments):
            return function(*arguments)
    except TypeError as error:
        if str(error).startswith(what):
            raise
        raise _mismatch(what, error, arguments) from error


@contextmanager
def telling(what: str, *arguments: Any) -> Iterator[None]:
    """Name what is called, and with what, where Numba cannot compile it for that."""
    try:
        yield
    except NumbaError as error:  # without a page of Numba's own frames
        raise _mismatch(what, error, arguments) from None


def _mismatch(what: str, error: Exception, arguments: tuple[Any, ...]) -> TypeError:
    given = ", ".join(map(_kind, arguments))
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    return TypeError(f"{what} does not take {given}: {reason}")


def _kind(argument: Any) -> str:
    if np.ndim(argument) == 0:
        return "a number"
    shape = " x ".join(map(str, np.shape(argument)))
    return f"a float64 array of {shape}"
