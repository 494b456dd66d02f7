"""Checks that many public functions make of their arguments."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["integer", "remembered"]

_Result = TypeVar("_Result")
_REMEMBERED = 1024  # arguments


def remembered(function: Callable[[Any], _Result]) -> Callable[[Any], _Result]:
    """Decorator: what a function gives for an argument is computed once for all equal ones.

    An argument without a hash is looked at each time.
    """
    known = functools.lru_cache(_REMEMBERED)(function)

    @functools.wraps(function)
    def found(argument: Any) -> _Result:
        with contextlib.suppress(TypeError):  # for want of a hash, or one that comes again below
            return known(argument)
        return function(argument)

    return found


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """An argument that must be an integer, numpy's among them, within limits.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : int
        What was given.
    least, most : int, optional
        The limits, themselves allowed.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If `value` is no integer; a bool is none.
    ValueError
        If it lies outside the limits.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        limits = f"lie in {least}..{most}"
        if most is None or least is None:
            limits = f"be at most {most}" if least is None else f"be at least {least}"
        raise ValueError(f"{name} must {limits}, not {number}")
    return number
