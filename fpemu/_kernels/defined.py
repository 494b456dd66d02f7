"""Products whose inner products a user's own compiled function computes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from fpemu._kernels import launching
from fpemu._kernels.operands import Operands, read_only

__all__ = ["compilable", "product"]

_COST: Final = 10.0  # nanoseconds of a term, of simple definitions
_VECTOR: Final = numba.types.Array(numba.float64, 1, "C", readonly=True)


def compilable(inner_product: Callable[..., Any]) -> str | None:
    """Why a compiled function cannot take two vectors and a number of float64, or None.

    Parameters
    ----------
    inner_product : callable
        What should be a function that Numba has compiled.

    Returns
    -------
    str or None
        The reason in a line.
    """
    if not isinstance(inner_product, numba.core.dispatcher.Dispatcher):
        return f"it is no function compiled by numba.njit, but {inner_product!r:.60}"
    try:
        inner_product.compile((_VECTOR, _VECTOR, numba.float64))
    except (NumbaError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return next((line for line in lines if "rror" in line or "nvalid" in line), lines[0])[:200]
    returned = inner_product.overloads[_VECTOR, _VECTOR, numba.float64].signature.return_type
    number = isinstance(returned, (numba.types.Float, numba.types.Integer))
    return None if number else f"it returns {returned}, not a float64"


@functools.lru_cache(maxsize=64)
def _product_kernel(inner_product: Any) -> Callable[..., None]:
    """The kernel around a compiled function, which is compiled for this process alone."""

    @numba.njit(nogil=True)
    def defined_range(start, stop, left, right, initial, lengths, out):  # type: ignore[no-untyped-def]
        rows = out.shape[1]
        for index in range(start, stop):
            batch = index // rows
            row = index - batch * rows
            for j in range(lengths[row]):
                begin = initial[batch, row, j] if initial.size > 0 else 0.0
                out[batch, row, j] = inner_product(left[batch, row], right[batch, j], begin)

    return defined_range  # type: ignore[no-any-return]


def product(operands: Operands, inner_product: Callable[..., Any]) -> NDArray[np.float64]:
    """The product of (batch, m, k) and (batch, k, n) arrays by a function of two vectors.

    Parameters
    ----------
    operands : Operands
    inner_product : callable
        Compiled by Numba: ``(a, b, c) -> float64`` of read-only vectors and what the sum begins
        with.

    Returns
    -------
    ndarray of float64, shape (batch, m, n)
    """
    out = np.zeros(operands.shape)
    launching.run(
        _product_kernel(inner_product),
        out.shape[0] * out.shape[1],
        read_only(operands.a, np.float64),
        read_only(operands.b.transpose(0, 2, 1), np.float64),
        operands.initial_as(np.float64),
        read_only(operands.row_lengths, np.int64),
        out,
        cost=_COST * operands.steps * out.shape[2],
    )
    return out
