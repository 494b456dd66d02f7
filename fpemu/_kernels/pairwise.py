"""Matrix products summed by balanced binary trees: Pairwise.

The terms are taken in index order and merged on a stack: once a subtree is complete, its sum
replaces those of its halves.  A product of float32 numbers is exact in float64 and waits on the
stack as it is; wider factors wait themselves, to be multiplied and added in a superaccumulator.

One kernel (:func:`_product_kernel`) takes the terms of all trees whose sums the processor does not
form itself: what rounds the products of a term is a part of it (:mod:`fpemu._kernels.parts`), and
what merges two subtrees is another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol, cast

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from fpemu._kernels import caching, launching, parts, quick_trees, random_bits, words
from fpemu._kernels.caching import inline
from fpemu._kernels.error_free import add_float32, holds_float32_sums
from fpemu._kernels.exact import fma_word_at, multiply_word_at
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.operands import (
    COLUMNS,
    INNER,
    OUTER,
    PRODUCTS,
    RANDOM_TYPE,
    Operands,
    Random,
    aligned,
    random_of,
)
from fpemu._kernels.parts import Part
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
from fpemu._kernels.targets import TABLE_TYPE, target_at, targets_of

__all__ = ["product"]

_COST: Final = 4.0  # nanoseconds of a multiply-add
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


class _Roundings(NamedTuple):
    """How products and sums are rounded."""

    targets: Any  # INNER, PRODUCTS
    random: Random
    least: Any  # smaller products are flushed to zero, if it is not zero
    least_sum: Any  # and smaller sums


class _Tree(NamedTuple):
    """How a kernel forms a sum, as far as that is data."""

    block: int  # terms of a tree
    merges: Any  # how many subtrees a term completes, by its index in the tree
    add_trees: bool  # to a total, which begins with the initial value
    lone: bool  # there is one term: nothing rounds it but the sum with a zero of its sign
    waiting: bool  # products are not formed at once
    roundings: _Roundings
    push: int  # the address of the part that rounds products, or 0 if they are exact
    merge: int  # and of that which merges subtrees, or 0 if the processor does


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


# --- parts of the kernel --------------------------------------------------------------------------

_INDEX: Final = types.intp
_NUMBERS: Final = types.Array(types.float64, 2, "C")
_DIGITS: Final = types.Array(types.int64, 1, "C")
_LEFT, _RIGHT = (types.Array(types.float64, n, "C", readonly=True) for n in (1, 2))
_ROUNDINGS: Final = types.NamedTuple(
    [
        TABLE_TYPE,
        RANDOM_TYPE,
        *[types.float64] * 2,
    ],
    _Roundings,
)
_TO_PUSH: Final = _NUMBERS, _LEFT, _RIGHT, *[_INDEX] * 4, _ROUNDINGS
_TO_MERGE: Final = _NUMBERS, _NUMBERS, _DIGITS, *[_INDEX] * 5, _ROUNDINGS
_call_to_push: Final = parts.calling(len(_TO_PUSH))
_call_to_merge: Final = parts.calling(len(_TO_MERGE))


@functools.cache
def _pushing(kind: int, mode: str, way: int, flush: bool) -> Part:
    """The part that puts the rounded products of some steps on the stack.

    ``f(sums, left, right, top, first, stop, element, roundings)``: those of the first step are at
    `top`, and `element` is the first of the sums.
    """
    narrow = way == _NARROW

    @caching.part
    def push(sums, left, right, top, first, stop, element, roundings):  # type: ignore[no-untyped-def]
        target = with_mode(target_at(roundings.targets, PRODUCTS), mode)
        (key, unused), bits = roundings.random, ZERO
        for step in range(first, stop):
            at = top + step - first
            for j in range(COLUMNS):
                a, b = left[step], right[step, j]
                if narrow and kind != STOCHASTIC:
                    product = round_word(words.word(a * b), target, kind)
                else:
                    if kind == STOCHASTIC:
                        bits = random_bits.step_bits(element + j, step, PRODUCTS, key, unused)
                    product = multiply_word_at(a, b, target, kind, bits, unused)
                number = words.floating(product)
                sums[at, j] = _flushed(number, roundings.least) if flush else number
        return 0

    return parts.compiled(push, *_TO_PUSH)


@functools.cache
def _merging(kind: int, mode: str, way: int, waiting: bool, flush: bool) -> Part:
    """The part that replaces the two highest subtrees on the stack by their sum, some times.

    ``f(sums, factors, digits, top, count, element, number, stream, roundings)``: the first is the
    sum of this number in its stream.
    """
    narrow = way == _NARROW

    @caching.part
    def merge(sums, factors, digits, top, count, element, number, stream, roundings):  # type: ignore[no-untyped-def]
        target = with_mode(target_at(roundings.targets, INNER), mode)
        (key, unused), bits = roundings.random, ZERO
        for i in range(count):
            to, at = top - i - 1, top - i
            for j in range(COLUMNS):
                a, b = sums[to, j], sums[at, j]
                if kind == STOCHASTIC:
                    bits = random_bits.step_bits(element + j, number + i, stream, key, unused)
                if waiting:
                    total = _exact_sum(
                        digits, a, factors[to, j], b, factors[at, j], target, kind, bits, unused
                    )
                    factors[to, j] = 1.0
                elif narrow and kind != STOCHASTIC:
                    total = add_float32(a, b, target, kind)
                else:
                    total = words.floating(fma_word_at(1.0, a, b, target, kind, bits, unused))
                sums[to, j] = _flushed(total, roundings.least_sum) if flush else total
        return 0

    return parts.compiled(merge, *_TO_MERGE)


# --- the kernel -----------------------------------------------------------------------------------


@inline
def _is_below(a: float, b: float, least: float) -> Any:
    """Whether the exact product of two numbers is below a positive number in magnitude."""
    product = abs(a) * abs(b)
    rest = words.fused_multiply_add(abs(a), abs(b), -least)  # -0.0 where it underflows
    return product < least or (product == least and np.signbit(rest))


@numba.njit(inline="always")
def _push(sums, factors, waiting, left, right, top, first, stop, least, flush):  # type: ignore[no-untyped-def]
    """Put the exact products of some steps on the stack, or their factors if those are to wait."""
    for step in range(first, stop):
        at, number = top + step - first, left[step]
        for j in range(COLUMNS):
            if waiting:
                tiny = flush and _is_below(number, right[step, j], least)
                sums[at, j] = np.copysign(0.0, number) if tiny else number
                factors[at, j] = right[step, j]
            else:
                product = number * right[step, j]
                sums[at, j] = _flushed(product, least) if flush else product


@numba.njit(inline="always")
def _merge(sums, top, count, least, flush):  # type: ignore[no-untyped-def]
    """Replace the two highest subtrees on the stack by the processor's sum, some times."""
    for i in range(count):
        to, at = top - i - 1, top - i
        for j in range(COLUMNS):
            total = sums[to, j] + sums[at, j]
            sums[to, j] = _flushed(total, least) if flush else total


@numba.njit(inline="always")
def _add_to_running(running, sums, top):  # type: ignore[no-untyped-def]
    """Add the magnitudes and squares of sums to their running sums, if those are wanted."""
    for j in range(running.shape[1]):
        rounded = np.float64(sums[top, j])
        running[0, j] += abs(rounded)
        running[1, j] += rounded * rounded


@numba.njit(inline="always")
def _push_zeros(sums, factors, waiting):  # type: ignore[no-untyped-def]
    """Put zeros of the lone products' signs on top of them."""
    for j in range(COLUMNS):
        zero = np.copysign(0.0, sums[0, j])
        if waiting:
            zero = np.copysign(1.0, factors[0, j]) * zero
            factors[1, j] = 1.0
        sums[1, j] = zero


@numba.njit(inline="always")
def _push_below(sums, factors, total, waiting):  # type: ignore[no-untyped-def]
    """Put the total below the tree."""
    for j in range(COLUMNS):
        sums[1, j] = sums[0, j]
        sums[0, j] = total[j]
    if waiting:
        for j in range(COLUMNS):
            factors[1, j] = factors[0, j]
            factors[0, j] = 1.0


@functools.cache
def _product_kernel(native: bool, flush: bool) -> Callable[..., None]:
    """The kernel of sums by the processor's own arithmetic, or by parts.

    It flushes what it forms itself if `flush`: a kernel that only might takes twice the time.
    """
    to_push, to_merge = parts.takes(*_TO_PUSH), parts.takes(*_TO_MERGE)

    @caching.kernel
    def tree_range(start, stop, work, arrays, tree):  # type: ignore[no-untyped-def]
        _, rows, steps = arrays.left.shape
        initial, lengths, out = arrays.initial, arrays.lengths, arrays.out
        sums, factors, total, running = work.sums, work.factors, work.total, work.running
        columns, block, merges, roundings = out.shape[2], tree.block, tree.merges, tree.roundings
        waiting = False
        if not native:
            waiting = tree.waiting
        for p in range(arrays.right.shape[1]):
            column = p * COLUMNS
            for index in range(start, stop):
                batch = index // rows
                row = index - batch * rows
                end = min(COLUMNS, lengths[row] - column)
                if end <= 0:
                    continue
                left, right = arrays.left[batch, row], arrays.right[batch, p]
                element = index * columns + column
                merged = 0
                for j in range(running.shape[1]):
                    running[0, j] = 0.0
                    running[1, j] = 0.0
                for j in range(COLUMNS):
                    total[j] = 0.0
                if initial.size > 0:
                    for j in range(end):
                        total[j] = initial[batch, row, column + j]
                for first in range(0, steps, block):
                    top, i = -1, 0
                    while i < block:
                        begin = first + i
                        i += 1
                        while i < block and merges[i - 1] == 0:
                            i += 1
                        if native or tree.push == 0:
                            _push(
                                sums, factors, waiting, left, right, top + 1, begin, first + i,
                                roundings.least, flush,
                            )  # fmt: skip
                        else:
                            _call_to_push(
                                tree.push, to_push, sums, left, right, top + 1, begin, first + i,
                                element, roundings,
                            )  # fmt: skip
                        top += first + i - begin
                        if tree.lone:
                            _push_zeros(sums, factors, waiting)
                            top = 1
                        # One place to merge all kinds of sums makes less code to compile.
                        wanted, done = merges[i - 1], 0
                        last = 1 if tree.add_trees and i == block else 0
                        while done < wanted + last:
                            count = wanted - done if running.size == 0 else 1
                            stream, number = INNER, merged
                            if done == wanted:  # the tree is added to the total
                                _push_below(sums, factors, total, waiting)
                                top, count, stream, number = 1, 1, OUTER, first // block
                            else:
                                merged += count
                            if native:
                                _merge(sums, top, count, roundings.least_sum, flush)
                            else:
                                _call_to_merge(
                                    tree.merge, to_merge, sums, factors, work.digits, top, count,
                                    element, number, stream, roundings,
                                )  # fmt: skip
                            top -= count
                            done += count
                            _add_to_running(running, sums, top)
                    for j in range(COLUMNS):
                        total[j] = sums[0, j]
                for j in range(end):
                    out[batch, row, column + j] = total[j]
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
    way = _way_of(accumulator, operands.narrow, lone)
    dtype = np.dtype(np.float32 if way == _NATIVE else np.float64)
    out = np.zeros(operands.shape, dtype)
    if out.size == 0:
        return out
    flush, waiting = accumulator.flush is not None, way == _WIDE and accumulator.fused
    # Those of Arm's units, which flush, and stochastic ones take a fifth longer by the code for any
    # mode.
    kind, mode = kind_of(rounding), known_mode(rounding, "sr", *(("rto",) if flush else ()))
    native = way == _NATIVE
    least = dtype.type(format.smallest_normal if flush else 0)
    tree = _Tree(
        block=block,
        merges=np.ones(1, np.int64) if lone else _merges(block),
        add_trees=add_trees,
        lone=lone,
        waiting=waiting,
        roundings=_Roundings(
            targets=targets_of((format, rounding), (accumulator.product or format, rounding)),
            random=random_of(rounding),
            least=least,
            least_sum=dtype.type(0) if lone else least,
        ),
        push=0 if native or accumulator.fused else _pushing(kind, mode, way, flush).address,
        merge=0 if native else _merging(kind, mode, way, waiting, flush).address,
    )
    operands = _whole_trees(_flushed_inputs(operands, accumulator), block)
    launching.run(
        _product_kernel(native, flush and (native or accumulator.fused)),
        out.shape[0] * out.shape[1],
        operands.arrays(dtype, out),
        tree,
        cost=_COST * operands.steps * out.shape[2],
        workspace=lambda: _stack(dtype, waiting=waiting, running=operands.wants_running),
    )
    return out
