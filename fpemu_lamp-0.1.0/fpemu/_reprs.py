"""Short representations: what makes an equal object, without what is by default as it is."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["constructed"]


def constructed(value: Any, package: str) -> str:
    """The call that makes an object of a class whose attributes are named as its arguments are.

    Parameters
    ----------
    value : object
        Its class has arguments that may be left out, and compares by them.
    package : str
        What is imported where the call is read.

    Returns
    -------
    str

    Examples
    --------
    >>> import fpemu
    >>> fpemu.Sequential("bfloat16", via="float32")
    fpemu.Sequential('bfloat16', via='float32')
    """
    kind = type(value)
    parameters = inspect.signature(kind).parameters
    given = {name: getattr(value, name) for name in parameters}
    needed = dict(given)
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            others = {other: held for other, held in needed.items() if other != name}
            if _makes(kind, others, value):
                needed = others
    words: list[str] = []
    in_order = True
    for name in parameters:
        in_order = in_order and name in needed and len(words) < 2
        if name in needed:
            words.append(_spelled(needed[name]) if in_order else f"{name}={_spelled(needed[name])}")
    return f"{package}.{kind.__name__}({', '.join(words)})"


def _makes(kind: type, arguments: dict[str, Any], value: Any) -> bool:
    try:
        return bool(kind(**arguments) == value)
    except (TypeError, ValueError):
        return False


def _spelled(value: Any) -> str:
    """An argument: what has a short name by that."""
    short = getattr(value, "_short_name", None)
    if short is not None:
        return repr(short)
    if isinstance(value, tuple):
        inner = ", ".join(map(_spelled, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)
