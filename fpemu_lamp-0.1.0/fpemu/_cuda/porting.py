"""Scalar kernels of the processor as device functions: one source, two compilers."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

from numba import config, cuda
from numpy.typing import NDArray

from fpemu._cuda import words as simulated_words
from fpemu._kernels import words as machine_words

__all__ = ["launch", "ported", "words"]

_BLOCK = 128  # threads of a block: no result depends on it

words = simulated_words if config.ENABLE_CUDASIM else machine_words
"""What kernels of this folder, and the functions ported for them, know as `words`."""


def launch(kernel: Any, inputs: tuple[Any, ...], out: NDArray[Any], *data: Any) -> None:
    """Run ``kernel(*inputs, out, *data)`` with a thread for each element of its result.

    All arrays are sent to the device; `data` are tuples of numbers.
    """
    if out.size == 0:
        return
    result = cuda.to_device(out)
    kernel[-(-out.size // _BLOCK), _BLOCK](*map(cuda.to_device, inputs), result, *data)
    result.copy_to_host(out)


@functools.cache
def ported(function: Any) -> Any:
    """The device function with the source of a scalar kernel and of all that it calls.

    The scalar kernel is one decorated by :func:`fpemu._kernels.caching.inline`.
    """
    source = function.py_func
    variables = {
        name: _on_device(source.__globals__[name])
        for name in source.__code__.co_names
        if name in source.__globals__
    }
    return cuda.jit(device=True)(FunctionType(source.__code__, variables, source.__name__))


def _on_device(variable: Any) -> Any:
    if variable is machine_words:
        return words
    return ported(variable) if hasattr(variable, "py_func") else variable
