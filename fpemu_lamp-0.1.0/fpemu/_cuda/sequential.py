"""Products over Sequential accumulators, a thread for each element, term after term."""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from numba import cuda

from fpemu._cuda.porting import launch, ported, words
from fpemu._kernels.error_free import (
    holds_float32_sums,
    multiply_add_float32,
    multiply_add_float64,
)
from fpemu._kernels.facts import FormatFacts
from fpemu._kernels.operands import Operands
from fpemu._kernels.rounding import Carrier, is_own_format, kind_of, target_of
from fpemu._kernels.sequential import SequentialFacts

__all__ = ["product"]

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)
_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)


@cuda.jit(device=True)
def _fused(total, a, b, target, of_product, of_via, kind, unfused, via):  # type: ignore[no-untyped-def]
    """A step in the carrier's own format, to nearest: the processor's fused multiply-add."""
    return words.fused_multiply_add(a, b, total)


@functools.cache
def _kernel(step: Any, kind: int, unfused: bool, via: bool) -> Any:
    """The kernel whose steps are a device function; formats and modes are data."""

    @cuda.jit
    def sum_terms(left, right, initial, lengths, out, target, of_product, of_via):  # type: ignore[no-untyped-def]
        element = cuda.grid(1)
        columns = out.shape[2]
        if element < out.size:
            stack, j = element // columns, element % columns
            batch, row = stack // out.shape[1], stack % out.shape[1]
            if j < lengths[row]:
                total = out[batch, row, j]  # of its type, and zero
                if initial.size > 0:
                    total = initial[batch, row, j]
                for k in range(left.shape[2]):
                    a, b = left[batch, row, k], right[batch, k, j]
                    total = step(total, a, b, target, of_product, of_via, kind, unfused, via)
                out[batch, row, j] = total

    return sum_terms


def _formats(accumulator: SequentialFacts) -> tuple[FormatFacts, FormatFacts, FormatFacts]:
    """The formats of the sums, of the products, and of what is rounded on the way."""
    format = accumulator.format
    return format, accumulator.product or format, accumulator.via or format


def _step_of(accumulator: SequentialFacts, operands: Operands) -> tuple[Any, np.dtype[Any]]:
    """The device function of a step, and the type of its operands and sums."""
    format, rounding = accumulator.format, accumulator.rounding
    nearest = rounding.mode == "rne" and rounding.overflow == "ieee"
    if nearest and accumulator.fused and accumulator.via is None:
        for dtype in (_FLOAT32, _FLOAT64):
            if is_own_format(format, dtype) and (operands.narrow or dtype == _FLOAT64):
                return _fused, dtype
    narrow = operands.narrow and all(map(holds_float32_sums, _formats(accumulator)))
    return ported(multiply_add_float32 if narrow else multiply_add_float64), _FLOAT64


def product(operands: Operands, accumulator: SequentialFacts) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays, in the carrier it is computed in.

    The counterpart of :func:`fpemu._kernels.sequential.product` for deterministic modes, without
    running sums.

    Raises
    ------
    NotImplementedError
        If the rounding is stochastic, or running sums are asked for.
    """
    rounding = accumulator.rounding
    if rounding.is_stochastic or operands.wants_running:
        raise NotImplementedError("no CUDA kernel has stochastic or running sums")
    step, dtype = _step_of(accumulator, operands)
    given, out = operands.with_numbers(), np.zeros(operands.shape, dtype)
    left, right = (np.ascontiguousarray(x, dtype) for x in (given.a, given.b))
    kernel = _kernel(step, kind_of(rounding), not accumulator.fused, accumulator.via is not None)
    targets = (target_of(format, rounding, _FLOAT64) for format in _formats(accumulator))
    launch(kernel, (left, right, given.initial_as(dtype), given.row_lengths), out, *targets)
    return out
