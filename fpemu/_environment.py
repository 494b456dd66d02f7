"""The floating-point environment: rounding direction, flushing of subnormals, traps.

Other libraries change it for the whole thread (``torch.set_flush_denormal``, any shared object
linked with ``-ffast-math``, C's ``fesetround``), and new threads inherit it.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

__all__ = ["default_environment", "in_default_environment"]

_Saved: Final = ctypes.c_char * 512  # more than any C library's fenv_t
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _load_calls() -> tuple[Any, Any, Any] | None:
    """C's fegetenv, fesetenv and the address of the default environment, if they can be had."""
    try:
        # PyDLL keeps the GIL: to let it go for so short a call would cost a wait to get it back.
        library = ctypes.PyDLL(None)
        get, set_ = library.fegetenv, library.fesetenv
    except (AttributeError, OSError, TypeError):
        return None
    get.argtypes = set_.argtypes = [ctypes.c_void_p]
    try:
        default = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "_FE_DFL_ENV")))
    except ValueError:
        default = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl
    return get, set_, default


_CALLS: Final = _load_calls()


class _Depth(threading.local):
    """How many blocks of the default environment this thread is in."""

    blocks = 0


_depth: Final = _Depth()


class default_environment:  # noqa: N801 - used like a function
    """Run a block with round-to-nearest, subnormals kept and no traps or warnings, then restore.

    A block within another does nothing unless something has changed the environment since: a
    product is four of them deep.  As a decorator it runs a function in such a block.

    Warns
    -----
    RuntimeWarning
        If the environment can be neither set nor found to be the default one.
    """

    _saved: Any = None
    _errors: Any = None

    def __call__(self, function: _Function) -> _Function:
        @functools.wraps(function)
        def within(*arguments: Any, **options: Any) -> Any:
            if _depth.blocks and is_usual():
                return function(*arguments, **options)
            with default_environment():  # one of its own: a function may call itself
                return function(*arguments, **options)

        return cast(_Function, within)

    def __enter__(self) -> None:
        if _CALLS is None:
            _warn_unless_usual()
        elif not (_depth.blocks and is_usual()):
            import numpy as np  # here, so that the commands need not import it

            get, set_, default = _CALLS
            self._saved = _Saved()
            get(self._saved)
            set_(default)
            self._errors = np.errstate(all="ignore")
            self._errors.__enter__()
        _depth.blocks += 1

    def __exit__(self, *exception: object) -> None:
        _depth.blocks -= 1
        if _CALLS is not None and self._saved is not None:
            self._errors.__exit__(*exception)
            _CALLS[1](self._saved)


def _warn_unless_usual() -> None:
    if not is_usual():
        warnings.warn(
            "this process flushes subnormal numbers to zero or rounds in a direction of its own, "
            "and the C library offers no way to change that: results are not reliable",
            RuntimeWarning,
            stacklevel=4,
        )


# Numbers that Python computes with at run time, not constants of the compiler.
_probes = [2.0**-60, 2.0**-1022, float.fromhex("0x1p-1074")]


def is_usual() -> bool:
    """Whether operations round to nearest, and keep subnormal operands and results."""
    small, normal, subnormal = _probes
    to_nearest = 1.0 + small == 1.0 and 1.0 - small == 1.0
    return to_nearest and normal * 0.5 != 0.0 and subnormal + subnormal != 0.0


def in_default_environment(function: _Function) -> _Function:
    """Decorator: :func:`default_environment`, entered only where the environment is another one.

    For functions of a few microseconds.  Warnings of numpy stay on.
    """

    @functools.wraps(function)
    def within(*arguments: Any, **options: Any) -> Any:
        if is_usual():
            return function(*arguments, **options)
        with default_environment():
            return function(*arguments, **options)

    return cast(_Function, within)
