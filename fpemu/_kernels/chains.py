"""Matrix products by chains of float32 multiply-adds that flush subnormal numbers: Chained.

The processor's own multiply-add rounds as these units do, but for one thing: where it rounds a
number just below the smallest normal one up to it, on the grid of subnormal numbers, a unit that
rounds to 24 bits first may see a subnormal number and flush it.  Such results are looked at again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, words
from fpemu._kernels.error_free import two_sum
from fpemu._kernels.facts import FormatFacts
from fpemu._kernels.operands import COLUMNS, Operands, aligned, in_order
from fpemu._kernels.rounding import Carrier

__all__ = ["product"]

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)
_LEAST: Final = np.float32(2.0**-126)  # the smallest normal number
_TINY: Final = 2.0**-126 - 2.0**-151  # what is below rounds to less than that in 24 bits
_COST: Final = 1.0  # nanoseconds of a multiply-add


class ChainedFacts(Protocol):
    """Interface of a :class:`fpemu.Chained`."""

    @property
    def input_formats(self) -> tuple[FormatFacts | None, FormatFacts | None]: ...
    @property
    def block(self) -> int: ...
    @property
    def chains(self) -> int: ...
    @property
    def order(self) -> tuple[int, ...] | None: ...
    @property
    def through(self) -> bool: ...


class _Unit(NamedTuple):
    """Parameters of the kernel."""

    block: int
    chains: int
    through: bool  # the accumulator begins the chain
    least: Any  # the smallest normal float32
    zero: Any  # of float32


class _Row(NamedTuple):
    """The workspace of a thread: float32 numbers, one for every column."""

    acc: Any
    total: Any
    chain: Any
    fresh: Any


@numba.njit(inline="always")
def _flushed(x, unit):  # type: ignore[no-untyped-def]
    """A zero of its sign for a subnormal number."""
    return x * unit.zero if abs(x) < unit.least else x


@numba.njit(inline="always")
def _is_tiny(a, b, c):  # type: ignore[no-untyped-def]
    """Whether ``a*b + c``, about the smallest normal number, is subnormal in 24 bits."""
    product, addend = np.float64(a) * np.float64(b), np.float64(c)  # both are exact
    total, error = two_sum(product, addend)
    inward = error < 0.0 if total > 0.0 else error > 0.0
    return abs(total) < _TINY or (abs(total) == _TINY and inward)


@numba.njit(inline="always")
def _multiply_add(sums, fresh, left, right, unit):  # type: ignore[no-untyped-def]
    """One step of a chain in all columns."""
    doubtful = False
    for j in range(COLUMNS):
        total = words.fused_multiply_add(left, right[j], sums[j])
        doubtful |= abs(total) == unit.least
        fresh[j] = _flushed(total, unit)
    if doubtful:
        for j in range(COLUMNS):
            if abs(fresh[j]) == unit.least and _is_tiny(left, right[j], sums[j]):
                fresh[j] = fresh[j] * unit.zero
    for j in range(COLUMNS):
        sums[j] = fresh[j]


@functools.cache
def _product_kernel() -> Callable[..., None]:
    @caching.kernel
    def chains_range(start, stop, work, arrays, unit):  # type: ignore[no-untyped-def]
        _, rows, steps = arrays.left.shape
        acc, total, chain, fresh = work.acc, work.total, work.chain, work.fresh
        for p in range(arrays.right.shape[1]):
            column = p * COLUMNS
            for index in range(start, stop):
                batch = index // rows
                row = index - batch * rows
                end = min(COLUMNS, arrays.lengths[row] - column)
                if end <= 0:
                    continue
                for j in range(COLUMNS):
                    acc[j] = unit.zero
                if arrays.initial.size > 0:
                    for j in range(end):
                        acc[j] = arrays.initial[batch, row, column + j]
                left, right = arrays.left[batch, row], arrays.right[batch, p]
                for first in range(0, steps, unit.block):
                    last = min(first + unit.block, steps)
                    for number in range(unit.chains):
                        for j in range(COLUMNS):
                            chain[j] = acc[j] if unit.through else unit.zero
                        for step in range(first + number, last, unit.chains):
                            _multiply_add(chain, fresh, left[step], right[step], unit)
                        # Sums of numbers without subnormal ones are exact where they are tiny.
                        for j in range(COLUMNS):
                            both = _flushed(total[j] + chain[j], unit)
                            total[j] = both if number > 0 else chain[j]
                    for j in range(COLUMNS):
                        both = _flushed(acc[j] + total[j], unit)
                        acc[j] = chain[j] if unit.through else both
                for j in range(end):
                    arrays.out[batch, row, column + j] = acc[j]

    return cast(Callable[..., None], chains_range)


def _without_subnormals(x: Any) -> Any:
    """Float32 numbers, the subnormal ones made zeros of their sign."""
    if x is None:
        return None
    numbers: NDArray[np.float32] = np.asarray(x, np.float32)
    return np.where(np.abs(numbers) < _LEAST, numbers * np.float32(0), numbers)


def product(operands: Operands, accumulator: ChainedFacts) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays, in float32."""
    out = np.zeros(operands.shape, np.float32)
    if out.size == 0:
        return out
    # Zeros fill the terms up to whole runs of the order and of the chains.
    order = accumulator.order or (0,)
    multiple = math.lcm(accumulator.chains, len(order))
    operands = replace(
        operands,
        a=_without_subnormals(in_order(operands.a, order, 2, multiple)),
        b=_without_subnormals(in_order(operands.b, order, 1, multiple)),
        initial=_without_subnormals(operands.initial),
    )
    unit = _Unit(accumulator.block, accumulator.chains, accumulator.through, _LEAST, np.float32(0))
    launching.run(
        _product_kernel(),
        out.shape[0] * out.shape[1],
        operands.arrays(_FLOAT32, out),
        unit,
        cost=_COST * operands.steps * out.shape[2],
        workspace=lambda: _Row(*aligned((len(_Row._fields), COLUMNS), _FLOAT32)),
    )
    return out
