"""Partial sums and products along rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, random_bits, words
from fpemu._kernels.exact import fma_word_at, multiply_word_at
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.rounding import STOCHASTIC, kind_of, unused_bits
from fpemu._kernels.significands import ZERO
from fpemu._kernels.targets import target_at, targets_of

__all__ = ["scan"]

_COST: Final = 10.0  # nanoseconds of an element


@functools.cache
def _scan_kernel(products: bool, kind: int) -> Callable[..., None]:
    """The kernel of partial sums or products along rows, each rounded once."""

    @caching.kernel
    def scan_range(start, stop, x, out, targets, key, unused):  # type: ignore[no-untyped-def]
        target = target_at(targets, 0)
        for row in range(start, stop):
            total = np.float64(x[row, 0])
            out[row, 0] = total
            for i in range(1, x.shape[1]):
                random = ZERO
                if kind == STOCHASTIC:
                    random = random_bits.step_bits(row, i, 0, key, unused)
                number = np.float64(x[row, i])
                if products:
                    bits = multiply_word_at(total, number, target, kind, random, unused)
                else:
                    bits = fma_word_at(1.0, number, total, target, kind, random, unused)
                total = words.floating(bits)
                out[row, i] = total

    return cast(Callable[..., None], scan_range)


@launching.default_environment()
def scan(
    rows: NDArray[Any], format: FormatFacts, rounding: RoundingFacts, *, products: bool
) -> NDArray[np.float64]:
    """Partial sums, or products, of each row of a matrix, each rounded once."""
    launching.require_shapes((rows, (len(rows), rows.shape[-1])))
    out = np.empty(rows.shape)
    if out.size:
        launching.run(
            _scan_kernel(products, kind_of(rounding)),
            rows.shape[0],
            np.ascontiguousarray(rows),
            out,
            targets_of((format, rounding)),
            random_bits.key_of(rounding.seed),
            unused_bits(rounding),
            cost=_COST * rows.shape[1],
        )
    return out
