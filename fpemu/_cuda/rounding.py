"""Rounding of arrays, a thread for each element."""

from __future__ import annotations

import functools
from typing import Any

from numba import cuda

from fpemu._cuda.porting import launch, ported, words
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.launching import require_shapes
from fpemu._kernels.rounding import MODES, Carrier, kind_of, round_word, target_of

__all__ = ["round_flat"]


@functools.cache
def _kernel(kind: int) -> Any:
    """The kernel of a kind of code; the format, the mode and overflow are data."""
    rounded = ported(round_word)

    @cuda.jit
    def round_elements(x, out, target):  # type: ignore[no-untyped-def]
        i = cuda.grid(1)
        if i < x.size:
            out[i] = words.floating(rounded(words.word(x[i]), target, kind))

    return round_elements


def round_flat(
    source: Carrier, result: Carrier, format: FormatFacts, rounding: RoundingFacts
) -> None:
    """Round a flat array into another of its type, or into itself.

    The counterpart of :func:`fpemu._kernels.array_rounding.round_flat` for deterministic modes.

    Raises
    ------
    NotImplementedError
        If the mode is stochastic.
    """
    require_shapes((source, (source.size,)), (result, source.shape))
    if MODES[rounding.mode].stochastic:
        raise NotImplementedError(f"no CUDA kernel rounds by {rounding.mode}, which is stochastic")
    launch(_kernel(kind_of(rounding)), (source,), result, target_of(format, rounding, source.dtype))
