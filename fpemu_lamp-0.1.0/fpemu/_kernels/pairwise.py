"""Matrix products summed by balanced binary trees: Pairwise.

The terms are taken in index order and merged on a stack: once a subtree is complete, its sum
replaces those of its halves.  A product of float32 numbers is exact in float64 and waits on the
stack as it is; wider factors wait themselves, to be multiplied and added in a superaccumulator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol, cast

import numba
import numpy as np
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, quick_trees, random_bits, words
from fpemu._kernels.error_free import add_float32, holds_float32_sums
from fpemu._kernels.exact import fma_word_at, multiply_word_at
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import (
    COLUMNS,
    INNER,
    OUTER,
    PRODUCTS,
    Operands,
    aligned,
    random_of,
    target_at,
    targets_of,
)
from fpemu._kernels.rounding import (
    STOCHASTIC,
    Carrier,
    is_own_format,
    kind_of,
    known_mode,
    round_word,
    with_mode,
)
from fpemu._kernels.significands import SIGN, ZERO
from fpemu._kernels.superaccumulator import DIGITS, add_product, round_digits

__all__ = ["product"]

_WORK_PER_PIECE: Final = 2**15  # multiply-adds worth a thread
_DEEPEST: Final = 64  # subtrees that wait at a time, in trees of fewer than 2**63 terms

# How sums are formed: in float32 by the processor, in float64 made odd, in integer arithmetic.
_NATIVE, _NARROW, _WIDE = range(3)


class PairwiseFacts(Protocol):
    """What is to be known of a :class:`fpemu.Pairwise`."""

    @property
    def format(self) -> FormatFacts: ...
    @property
    def rounding(self) -> RoundingFacts: ...
    @property
    def fused(self) -> bool: ...
    @property
    def product(self) -> FormatFacts | None: ...
    @property
    def block(self) -> int | None: ...
    @property
    def flush(self) -> str | None: ...
    @property
    def inputs(self) -> FormatFacts | None: ...


class _Tree(NamedTuple):
    """How a kernel forms a sum, as far as that is data."""

    block: int  # terms of a tree
    merges: Any  # how many subtrees a term completes, by its index in the tree
    add_trees: bool  # to a total, which begins with the initial value
    lone: bool  # there is one term: nothing rounds it but the sum with a zero of its sign
    least: Any  # smaller products are flushed to zero
    least_sum: Any  # and smaller sums
    targets: Any  # INNER, PRODUCTS
    random: Any


class _Stack(NamedTuple):
    """What a thread works in."""

    sums: Any  # of the subtrees that wait, (depth, COLUMNS)
    factors: Any  # what they are still to be multiplied by, where products are not formed at once
    total: Any
    running: Any
    digits: Any  # a superaccumulator


@caching.kernel
def _merges_after(counts):  # type: ignore[no-untyped-def]
    """How many subtrees a term completes, by its index, in a tree of ``counts.size`` terms."""
    for i in range(counts.size):
        low, high = 0, counts.size
        while high - low > 1:
            if high - 1 == i:
                counts[i] += 1
            middle = low + (high - low) // 2
            if i < middle:
                high = middle
            else:
                low = middle


def _merges(terms: int) -> NDArray[np.int64]:
    counts = np.zeros(terms, np.int64)
    _merges_after(counts)
    return counts


@numba.njit(inline="always")
def _flushed(x, least):  # type: ignore[no-untyped-def]
    """A zero of its sign for a number below `least` in magnitude."""
    return x * (least - least) if abs(x) < least else x


@numba.njit(inline="always")
def _sum(x, y, target, kind, way, random, unused):  # type: ignore[no-untyped-def]
    if way == _NATIVE:
        return x + y
    if way == _NARROW and kind != STOCHASTIC:
        return add_float32(x, y, target, kind)
    return words.floating(fma_word_at(1.0, x, y, target, kind, random, unused))


@numba.njit(inline="always")
def _leaf(a, b, product_target, kind, fused, way, random, unused):  # type: ignore[no-untyped-def]
    """A product: exact if fused (and narrow), else rounded."""
    if way == _NATIVE or (fused and way == _NARROW):
        return a * b
    if fused:
        return a  # a wide product is formed when it is merged
    if way == _NARROW and kind != STOCHASTIC:
        return words.floating(round_word(words.word(a * b), product_target, kind))
    return words.floating(multiply_word_at(a, b, product_target, kind, random, unused))


@numba.njit(inline="always")
def _exact_sum(digits, a, b, c, d, target, kind, random, unused):  # type: ignore[no-untyped-def]
    """``a*b + c*d`` rounded once."""
    special, negative = 0.0, 0
    for x, y in ((a, b), (c, d)):
        sign = words.bit_and(words.bit_xor(words.word(x), words.word(y)), SIGN)
        negative += 1 if sign != 0 else 0
        if abs(x) < np.inf and abs(y) < np.inf:
            add_product(digits, x, y)
        else:
            special += x * y
    # IEEE 754 section 6.3
    minus = negative == 2 or (negative == 1 and target.zero_sum != 0)
    zero = target.zero_negative if minus else target.zero
    bits = round_digits(digits, zero, target, kind, random, unused)
    return words.floating(round_word(words.word(special), target, kind) if special != 0.0 else bits)


@numba.njit(inline="always")
def _merge(  # type: ignore[no-untyped-def]
    work, top, tree, target, kind, fused, way, flush, element, number, stream
):
    """Replace the two highest subtrees on the stack by their sum; add it to the running sums."""
    sums, factors = work.sums, work.factors
    random = ZERO
    for j in range(COLUMNS):
        if kind == STOCHASTIC:
            random = random_bits.step_bits(
                element + j, number, stream, tree.random.key, tree.random.unused
            )
        if fused and way == _WIDE:
            total = _exact_sum(
                work.digits, sums[top - 1, j], factors[top - 1, j], sums[top, j], factors[top, j],
                target, kind, random, tree.random.unused,
            )  # fmt: skip
            factors[top - 1, j] = 1.0
        else:
            total = _sum(
                sums[top - 1, j], sums[top, j], target, kind, way, random, tree.random.unused
            )
        sums[top - 1, j] = _flushed(total, tree.least_sum) if flush else total
    for j in range(work.running.shape[1]):
        rounded = np.float64(sums[top - 1, j])
        work.running[0, j] += abs(rounded)
        work.running[1, j] += rounded * rounded


@numba.njit(inline="always")
def _push(work, top, left, right, tree, target, kind, fused, way, flush, element, step):  # type: ignore[no-untyped-def]
    """Put the products of a step on the stack."""
    random = ZERO
    for j in range(COLUMNS):
        if kind == STOCHASTIC and not fused:
            random = random_bits.step_bits(
                element + j, step, PRODUCTS, tree.random.key, tree.random.unused
            )
        product = _leaf(left, right[j], target, kind, fused, way, random, tree.random.unused)
        work.sums[top, j] = _flushed(product, tree.least) if flush else product
        if fused and way == _WIDE:
            work.factors[top, j] = right[j]


@numba.njit(inline="always")
def _push_zeros(work, wide_products):  # type: ignore[no-untyped-def]
    """Put zeros of the lone products' signs on top of them."""
    for j in range(COLUMNS):
        zero = np.copysign(0.0, work.sums[0, j])
        if wide_products:
            zero = np.copysign(1.0, work.factors[0, j]) * zero
            work.factors[1, j] = 1.0
        work.sums[1, j] = zero


@numba.njit(inline="always")
def _push_below(work, wide_products):  # type: ignore[no-untyped-def]
    """Put the total below the tree."""
    for j in range(COLUMNS):
        work.sums[1, j] = work.sums[0, j]
        work.sums[0, j] = work.total[j]
        if wide_products:
            work.factors[1, j] = work.factors[0, j]
            work.factors[0, j] = 1.0


@functools.cache
def _product_kernel(
    kind: int, mode: str, fused: bool, way: int, flush: bool
) -> Callable[..., None]:
    """The kernel of one way to form sums; the arguments are constants to the compiler."""
    wide_products = fused and way == _WIDE

    @caching.kernel
    def tree_range(start, stop, work, arrays, tree):  # type: ignore[no-untyped-def]
        _, rows, steps = arrays.left.shape
        target = with_mode(target_at(tree.targets, INNER), mode)
        of_products = with_mode(target_at(tree.targets, PRODUCTS), mode)
        running, columns = work.running, arrays.out.shape[2]
        for p in range(arrays.right.shape[1]):
            column = p * COLUMNS
            for index in range(start, stop):
                batch = index // rows
                row = index - batch * rows
                end = min(COLUMNS, arrays.lengths[row] - column)
                if end <= 0:
                    continue
                element = index * columns + column
                merged = 0
                for j in range(running.shape[1]):
                    running[0, j] = 0.0
                    running[1, j] = 0.0
                for j in range(COLUMNS):
                    work.total[j] = 0.0
                if arrays.initial.size > 0:
                    for j in range(end):
                        work.total[j] = arrays.initial[batch, row, column + j]
                for first in range(0, steps, tree.block):
                    top = -1
                    for i in range(tree.block):
                        top += 1
                        _push(
                            work, top, arrays.left[batch, row, first + i],
                            arrays.right[batch, p, first + i], tree, of_products,
                            kind, fused, way, flush, element, first + i,
                        )  # fmt: skip
                        if tree.lone:
                            _push_zeros(work, wide_products)
                            top = 1
                        # One call of _merge for all kinds of sums makes less code to compile.
                        last = 1 if tree.add_trees and i == tree.block - 1 else 0
                        for number in range(tree.merges[i] + last):
                            stream, place = INNER, merged
                            if number == tree.merges[i]:  # the tree is added to the total
                                _push_below(work, wide_products)
                                top, stream, place = 1, OUTER, first // tree.block
                            else:
                                merged += 1
                            _merge(
                                work, top, tree, target, kind, fused, way, flush,
                                element, place, stream,
                            )  # fmt: skip
                            top -= 1
                    for j in range(COLUMNS):
                        work.total[j] = work.sums[0, j]
                for j in range(end):
                    arrays.out[batch, row, column + j] = work.total[j]
                if running.size > 0:
                    for j in range(end):
                        arrays.running[0, batch, row, column + j] = running[0, j]
                        arrays.running[1, batch, row, column + j] = running[1, j]

    return cast(Callable[..., None], tree_range)


def _way_of(accumulator: PairwiseFacts, narrow: bool, lone: bool) -> int:
    """How sums can be formed: native float32 arithmetic rounds to nearest and knows no flushing."""
    formats = (accumulator.format, accumulator.product or accumulator.format)
    rounding = accumulator.rounding
    to_infinity = rounding.overflow in ("ieee", "infinity")  # the same rule to nearest
    native = rounding.mode == "rne" and to_infinity and not accumulator.fused and not lone
    if narrow and native and all(is_own_format(each, np.dtype(np.float32)) for each in formats):
        return _NATIVE
    holds_sums = all(map(holds_float32_sums, formats))
    return _NARROW if narrow and holds_sums else _WIDE


def _is_quick(operands: Operands, accumulator: PairwiseFacts, block: int) -> bool:
    """Whether the product is one for :mod:`quick_trees`."""
    format, rounding = accumulator.format, accumulator.rounding
    if operands.wants_running or not operands.narrow:
        return False
    if accumulator.fused:
        return accumulator.flush is None and quick_trees.takes(format, rounding, block)
    return (
        accumulator.flush == "signed"
        and accumulator.product in (None, format)
        and quick_trees.takes_odd(format, rounding, accumulator.inputs, block)
    )


def _quick_product(
    operands: Operands, accumulator: PairwiseFacts, block: int, add_trees: bool
) -> Carrier:
    """A product by the processor's arithmetic; rows that are not known, by the general kernel."""
    # What the kernel reads of b it flushes itself.
    flushed = _flushed_inputs(operands, accumulator, right=False)
    out, doubtful = quick_trees.product(
        flushed, accumulator.format, accumulator.rounding, block, add_trees
    )
    rows = np.flatnonzero(doubtful.any(axis=0))
    if rows.size:
        initial = operands.initial
        again = replace(
            operands,
            a=operands.a[:, rows],
            initial=None if initial is None else initial[:, rows],
            row_lengths=operands.row_lengths[rows],
        )
        out[:, rows] = _general_product(again, accumulator, block, add_trees)
    return out


def _flushed_inputs(
    operands: Operands, accumulator: PairwiseFacts, *, right: bool = True
) -> Operands:
    """The operands as the unit reads them, b only if that is asked for: subnormals made zeros."""

    def flushed(x: Any, format: FormatFacts | None) -> Any:
        if x is None or format is None or accumulator.flush is None:
            return x
        zeros = x * x.dtype.type(0) if accumulator.flush == "signed" else np.zeros_like(x)
        return cast(Carrier, np.where(np.abs(x) < format.smallest_normal, zeros, x))

    return replace(
        operands,
        a=flushed(operands.a, accumulator.inputs),
        b=flushed(operands.b, accumulator.inputs) if right else operands.b,
        initial=flushed(operands.initial, accumulator.format),
    )


def _whole_trees(operands: Operands, block: int) -> Operands:
    """The operands with the last tree filled up with zeros."""
    missing = -operands.steps % block
    if not missing:
        return operands
    a: Any = np.pad(operands.a, ((0, 0), (0, 0), (0, missing)))
    b: Any = np.pad(operands.b, ((0, 0), (0, missing), (0, 0)))
    return replace(operands, a=a, b=b)


def _stack(dtype: np.dtype[Any], *, waiting: bool, running: bool) -> _Stack:
    """A workspace; with room for the factors of `waiting` products, and for `running` sums."""
    numbers = aligned((_DEEPEST + 1, COLUMNS), dtype)
    return _Stack(
        sums=numbers[1:],
        factors=aligned((_DEEPEST, COLUMNS)) if waiting else np.empty((0, COLUMNS)),
        total=numbers[0],
        running=np.zeros((2, COLUMNS if running else 0)),
        digits=np.zeros(DIGITS if waiting else 0, np.int64),
    )


def product(operands: Operands, accumulator: PairwiseFacts) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays, summed by trees."""
    block = accumulator.block or max(operands.steps, 1)
    add_trees = accumulator.block is not None or operands.initial is not None
    if _is_quick(operands, accumulator, block):
        return _quick_product(operands, accumulator, block, add_trees)
    return _general_product(operands, accumulator, block, add_trees)


def _general_product(
    operands: Operands, accumulator: PairwiseFacts, block: int, add_trees: bool
) -> Carrier:
    """A product whose terms are taken one by one, in any rounding."""
    operands = operands.with_numbers()
    format, rounding = accumulator.format, accumulator.rounding
    lone = block == 1 and not add_trees
    flush = accumulator.flush is not None
    way = _way_of(accumulator, operands.narrow, lone)
    dtype = np.dtype(np.float32 if way == _NATIVE else np.float64)
    out = np.zeros(operands.shape, dtype)
    if out.size == 0:
        return out
    least = dtype.type(format.smallest_normal)
    tree = _Tree(
        block=block,
        merges=np.ones(1, np.int64) if lone else _merges(block),
        add_trees=add_trees,
        lone=lone,
        least=least,
        least_sum=dtype.type(0) if lone else least,
        targets=targets_of((format, rounding), (accumulator.product or format, rounding)),
        random=random_of(rounding),
    )
    operands = _whole_trees(_flushed_inputs(operands, accumulator), block)
    waiting = way == _WIDE and accumulator.fused
    launching.run(
        # Those of Arm's units, and stochastic ones, take a fifth longer by the code for any mode.
        _product_kernel(
            kind_of(rounding), known_mode(rounding, "rto", "sr"), accumulator.fused, way, flush
        ),
        out.shape[0] * out.shape[1],
        operands.arrays(dtype, out),
        tree,
        grain=max(1, _WORK_PER_PIECE // (max(operands.steps, 1) * out.shape[2])),
        workspace=lambda: _stack(dtype, waiting=waiting, running=operands.wants_running),
    )
    return out
