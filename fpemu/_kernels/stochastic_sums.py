"""Sequential sums with stochastic rounding, 64 columns at once.

A step adds a product to an accumulator and rounds once, by random bits that are a function of the
element and the step.  In lanes:

- The sum w of float64's multiply-add has an error of at most half a unit in its last place.
- The highest 32 of the random bits, as a fraction of the format's spacing, are added to the bits of
  w, whose tail is then cleared.  That is the result unless the error, or the random bits that were
  left out, would carry into what is kept or take that away: the tail is then at most as far below a
  carry as those bits reach, or 0.
- Sums outside the format's normal numbers are doubtful, too, but for zeros, which are exact, as no
  sum of products of float32 numbers underflows in float64.

Doubtful lanes are computed again, exactly and with all random bits.

The generator has seven rounds.  Its counter is an element, which differs from column to column by
the lowest word alone, and a step: what depends on one of the two is computed once for a row or for
a step, and of the last rounds only what the highest word needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, random_bits, words
from fpemu._kernels.exact import fma_word_at
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import COLUMNS, INNER, Operands, Random, aligned, random_of
from fpemu._kernels.random_bits import MULTIPLIER_A, MULTIPLIER_C, mixed, times
from fpemu._kernels.rounding import MODES, STOCHASTIC, word_of
from fpemu._kernels.targets import target_at, targets_of
from fpemu._kernels.vectors import prefer_wide_vectors

__all__ = ["product", "takes"]

_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)
_PRECISION: Final = 53
_LEAST_EMIN: Final = -1022
_MAGNITUDE: Final = np.uint64(2**63 - 1)
_COST: Final = 2.0  # nanoseconds of a multiply-add


class _Rounding(NamedTuple):
    """How words of float64 are rounded; numbers alone, as arrays would be counted at every use."""

    kept: Any  # of the highest 32 random bits
    forced: Any  # of the same
    shift: Any  # what makes of 64 random bits a tail
    tail: Any
    gap: Any  # how far the random bits reach that are left out
    least: Any  # the smallest normal number
    span: Any  # the largest number less that


class _Row(NamedTuple):
    """The workspace of a thread, a number for every column."""

    sums: Any
    old: Any
    doubts: Any
    # The element's part in the generator's second round.
    first: Any
    second: Any
    third: Any


def takes(operands: Operands, format: FormatFacts, rounding: RoundingFacts) -> bool:
    """Whether sums of fused products, each rounded once into a format, can be formed here."""
    mode = MODES[rounding.mode]
    return (
        mode.stochastic
        and not (mode.equal or mode.nearest_fraction)
        and operands.narrow
        and format.signed
        and format.has_negative_zero
        and format.emin >= _LEAST_EMIN
        and 1 < _PRECISION - format.precision < _PRECISION - 1
    )


def _rounding_of(format: FormatFacts, random: Random, forced: bool) -> _Rounding:
    unused = int(random.unused)
    dropped = _PRECISION - format.precision
    least, largest = (word_of(x, _FLOAT64) for x in (format.smallest_normal, format.max_finite))
    fields = (
        2**64 - 2**unused >> 32,
        2**unused >> 32 if forced else 0,
        64 - dropped,
        2**dropped - 1,
        2 ** max(dropped - 32, 0),
        least,
        largest - least,
    )
    return _Rounding(*map(np.uint64, fields))


@numba.njit(inline="always")
def _prepare(first, second, third, element, stream, key_0, key_1):  # type: ignore[no-untyped-def]
    """Compute what the elements from `element` on do in the first two rounds."""
    for j in range(COLUMNS):
        product = times(MULTIPLIER_A, words.add(element, np.uint64(j)))
        first[j] = product
        product = times(MULTIPLIER_C, mixed(product, stream, key_0[1]))
        second[j] = words.bit_xor(words.shift_right(product, 32), key_1[0])
        third[j] = product


@functools.cache
def _kernel() -> Callable[..., None]:
    @caching.kernel
    def stochastic_lanes_range(start, stop, work, arrays, table, random, rounding):  # type: ignore[no-untyped-def]
        prefer_wide_vectors()
        _, rows, steps = arrays.left.shape
        right = arrays.right
        sums, old, doubts = work.sums, work.old, work.doubts
        first, second, third = work.first, work.second, work.third
        kept, forced, shift, tail, gap, least, span = rounding
        target = target_at(table, 0)
        low_key, high_key = random.key
        k0, k1, k2, k3, k4, k5, k6 = (
            random_bits.key_of_round(low_key, high_key, 0),
            random_bits.key_of_round(low_key, high_key, 1),
            random_bits.key_of_round(low_key, high_key, 2),
            random_bits.key_of_round(low_key, high_key, 3),
            random_bits.key_of_round(low_key, high_key, 4),
            random_bits.key_of_round(low_key, high_key, 5),
            random_bits.key_of_round(low_key, high_key, 6),
        )
        stream = np.uint64(INNER + 1)
        for p in range(right.shape[1]):
            column = p * COLUMNS
            for index in range(start, stop):
                batch = index // rows
                row = index - batch * rows
                end = min(COLUMNS, arrays.lengths[row] - column)
                if end <= 0:
                    continue
                element = index * arrays.out.shape[2] + column
                # Columns on both sides of a multiple of 2**32 differ by more than the lowest word.
                apart = (element >> 32) != ((element + COLUMNS - 1) >> 32)
                above = words.shift_right(np.uint64(element), 32)
                _prepare(first, second, third, np.uint64(element), stream, k0, k1)
                for j in range(COLUMNS):
                    sums[j] = 0.0
                if arrays.initial.size > 0:
                    for j in range(end):
                        sums[j] = arrays.initial[batch, row, column + j]
                for step in range(steps):
                    left = arrays.left[batch, row, step]
                    of_step = times(MULTIPLIER_C, np.uint64(step))
                    fourth = times(MULTIPLIER_A, mixed(of_step, above, k0[0]))
                    fifth = words.bit_xor(words.shift_right(fourth, 32), k1[1])
                    doubtful = apart
                    for j in range(COLUMNS):
                        pa = times(MULTIPLIER_A, words.bit_xor(second[j], of_step))
                        pc = times(MULTIPLIER_C, words.bit_xor(first[j], fifth))
                        a, c = mixed(pc, third[j], k2[0]), mixed(pa, fourth, k2[1])
                        qa, qc = times(MULTIPLIER_A, a), times(MULTIPLIER_C, c)
                        a, c = mixed(qc, pc, k3[0]), mixed(qa, pa, k3[1])
                        pa, pc = times(MULTIPLIER_A, a), times(MULTIPLIER_C, c)
                        a, c = mixed(pc, qc, k4[0]), mixed(pa, qa, k4[1])
                        qa, qc = times(MULTIPLIER_A, a), times(MULTIPLIER_C, c)
                        c = mixed(qa, pa, k5[1])
                        drawn = mixed(times(MULTIPLIER_C, c), qc, k6[0])
                        drawn = words.bit_or(words.bit_and(drawn, kept), forced)
                        drawn = words.shift_right(words.shift_left(drawn, 32), shift)

                        total = words.fused_multiply_add(left, right[batch, p, step, j], sums[j])
                        bits = words.word(total)
                        raised = words.add(bits, drawn)
                        rest = words.bit_and(words.add(raised, gap), tail)
                        magnitude = words.bit_and(bits, _MAGNITUDE)
                        doubt = (rest <= gap) | (words.subtract(magnitude, least) > span)
                        doubt &= total != 0.0
                        doubtful |= doubt
                        doubts[j] = doubt
                        old[j] = sums[j]
                        cleared = words.bit_xor(raised, words.bit_and(raised, tail))
                        sums[j] = words.floating(cleared) if total != 0.0 else total
                    if doubtful:
                        for j in range(end):
                            if doubts[j] != 0 or apart:
                                bits = random_bits.step_bits(
                                    element + j, step, INNER, random.key, random.unused
                                )
                                bits = fma_word_at(
                                    left, right[batch, p, step, j], old[j], target, STOCHASTIC,
                                    bits, random.unused,
                                )  # fmt: skip
                                sums[j] = words.floating(bits)
                for j in range(end):
                    arrays.out[batch, row, column + j] = sums[j]

    return cast(Callable[..., None], stochastic_lanes_range)


def product(
    operands: Operands, format: FormatFacts, rounding: RoundingFacts
) -> NDArray[np.float64]:
    """The product by a format and a rounding that :func:`takes` has accepted.

    Parameters
    ----------
    operands : Operands
        Float32 numbers.
    format, rounding : FormatFacts, RoundingFacts
        What every sum is rounded into.

    Returns
    -------
    ndarray of float64, shape (batch, m, n)
    """
    out = np.zeros(operands.shape)
    random = random_of(rounding)
    launching.run(
        _kernel(),
        out.shape[0] * out.shape[1],
        operands.arrays(_FLOAT64, out),
        targets_of((format, rounding)),
        random,
        _rounding_of(format, random, MODES[rounding.mode].forced),
        cost=_COST * operands.steps * out.shape[2],
        workspace=lambda: _Row(*(aligned((COLUMNS,), dtype) for dtype in "ddBQQQ")),
    )
    return out
