"""What tells classes of a user's apart: their names, and the code that they consist of.

A machine may hold accumulators of a user's, of which files and keys would otherwise have the name
alone: an edited class would be taken for the one that results were computed with.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType
from typing import Any, Final

__all__ = ["definitions", "kind_name"]

_OURS: Final = ("fpemu", "lamp")


def _is_ours(module: str | None) -> bool:
    return str(module).partition(".")[0] in _OURS


def kind_name(kind: type) -> str:
    """What digests and files call a class: its name, with its module if it is a user's."""
    ours = _is_ours(kind.__module__)
    return kind.__name__ if ours else f"{kind.__module__}:{kind.__qualname__}"


def definitions(value: Any) -> dict[str, str]:
    """The code of the users' classes in a machine, or a part of one.

    Parameters
    ----------
    value : object
        Dataclasses within dataclasses and tuples.

    Returns
    -------
    dict of str to str
        For every class that is not of fpemu or lamp, by its name, the SHA-256 of its compiled
        methods and of those functions and constants of its module that they use.  Another version
        of Python compiles other code.
    """
    kinds = {kind_name(kind): kind for kind in _kinds(value) if not _is_ours(kind.__module__)}
    return {name: _digest(kinds[name]) for name in sorted(kinds)}


def _kinds(value: Any) -> Iterator[type]:
    if is_dataclass(value):
        yield type(value)
        for each in fields(value):
            yield from _kinds(getattr(value, each.name))
    elif isinstance(value, tuple):
        for each in value:
            yield from _kinds(each)


def _digest(kind: type) -> str:
    seen: set[FunctionType] = set()
    bases = (base for base in kind.__mro__ if base is not object and not _is_ours(base.__module__))
    held = [
        (name, _described(value, seen))
        for base in bases
        for name, value in sorted(vars(base).items())
        if not name.startswith("__")
    ]
    return hashlib.sha256(repr(held).encode()).hexdigest()


def _described(value: Any, seen: set[FunctionType]) -> Any:
    """A method, function or constant as plain data."""
    for name in ("fget", "__func__", "py_func"):  # properties, static methods, Numba's functions
        value = getattr(value, name, value)
    if isinstance(value, FunctionType):
        if value in seen or _is_ours(value.__module__):
            return value.__qualname__
        seen.add(value)
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        closed = {name: cell.cell_contents for name, cell in cells if name != "__class__"}
        return _of_code(value.__code__, ChainMap(closed, value.__globals__), seen)
    if isinstance(value, CodeType):
        return _of_code(value, {}, seen)
    if isinstance(value, tuple):
        return [_described(each, seen) for each in value]
    return repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__


def _of_code(code: CodeType, names: Mapping[str, Any], seen: set[FunctionType]) -> Any:
    """Instructions and constants, those of functions within, and what is named from outside."""
    constants = [
        _of_code(each, names, seen) if isinstance(each, CodeType) else repr(each)
        for each in code.co_consts
    ]
    used = [name for name in (*code.co_names, *code.co_freevars) if name in names]
    outside = [(name, _described(names[name], seen)) for name in used]
    return code.co_code.hex(), code.co_names, code.co_varnames, constants, outside
