"""Products of few rows by the lanes' own multiply-adds: the right operand is read once.

A product of many rows copies the right operand into panels, each of which many rows use.  With a
few rows that copy takes longer than the product.  So numbers go from the operand as it lies in
memory into the multiply-adds; every sum still takes one term after another, with one rounding each.

- By rows: accumulators of many columns lie in the first cache, and a row of the operand, times an
  element of the left one, is added to them.  Several rows at a time keep the accumulators in
  registers for as many steps.
- By columns: squares of the operand, of as many rows and columns as a vector has lanes, are
  transposed in registers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import DTypeLike

from fpemu._kernels import caching, launching, words
from fpemu._kernels.operands import COLUMNS, Operands, aligned, read_only, right_of
from fpemu._kernels.panels import Narrow
from fpemu._kernels.rounding import Carrier
from fpemu._kernels.vectors import INT64, VECTOR_BYTES, Vectors, data_of, vector_of

__all__ = ["product", "takes"]

_MOST_ROWS: Final = 8  # filling panels pays for itself with some more
_LEAST: Final = 2**16  # numbers of a right operand that are worth the compilation of a kernel
_COST: Final = 0.3  # nanoseconds of a multiply-add, which memory takes
_WIDEST: Final = 1024  # columns of a piece: their accumulators and some rows stay in a cache
_TOGETHER: Final = 4  # rows of the right operand that are added at a time


@intrinsic
def _add_rows(_typing_context, memory, places, left, at, out, first, last):  # type: ignore[no-untyped-def]
    """An intrinsic that adds some rows of the right operand, times elements of the left one.

    ``f(memory, places, left, at, out, first, last)``: rows begin at `places` of `memory`, which go
    with the elements from `at` on of the flat `left`.  The elements of the flat `out` from `first`
    to `last`, whole vectors, are added to.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, given, target = (
            data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 4)
        )
        vectors, kind = Vectors(builder), vector_of(source.type.pointee)
        count = kind.count
        starts = cgutils.unpack_tuple(builder, arguments[1])
        factors = [
            vectors.spread(
                vectors.load(given, builder.add(arguments[3], INT64(i)), kind.element), count
            )
            for i in range(len(starts))
        ]

        def body(place: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            total = vectors.load(target, place, kind)
            column = builder.sub(place, arguments[5])
            for factor, start in zip(factors, starts, strict=True):
                row = vectors.load(source, builder.add(start, column), kind)
                total = vectors.call("fma", factor, row, total)
            vectors.store(total, target, place)
            return []

        vectors.loop(arguments[5], arguments[6], count, [], body)
        return context.get_dummy_value()

    return types.none(memory, places, left, at, out, first, last), generate


@intrinsic
def _add_square(_typing_context, memory, start, stride, columns, left, at, steps, rows, sums):  # type: ignore[no-untyped-def]
    """An intrinsic that adds the products of a square of terms and columns.

    ``f(memory, start, stride, columns, left, at, steps, rows, sums)``: the terms of a column lie
    side by side, and its next one `stride` behind; the last of `columns` stands for those that are
    missing.  The terms of a row of the flat `left` begin at `at`, and `steps` behind those of the
    row before.  Each of the rows of the flat `sums` is a vector.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, given, target = (
            data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 4, 8)
        )
        vectors, kind = Vectors(builder), vector_of(source.type.pointee)
        count = kind.count
        last = builder.sub(arguments[3], INT64(1))
        square = []
        for lane in range(count):
            column = vectors.smaller(INT64(lane), last)
            place = builder.add(arguments[1], builder.mul(column, arguments[2]))
            square.append(vectors.load(source, place, kind))
        terms = vectors.transposed(square)

        def body(row: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            first = builder.add(arguments[5], builder.mul(row, arguments[6]))
            place = builder.mul(row, INT64(count))
            total = vectors.load(target, place, kind)
            for i, term in enumerate(terms):
                factor = vectors.load(given, builder.add(first, INT64(i)), kind.element)
                total = vectors.call("fma", vectors.spread(factor, count), term, total)
            vectors.store(total, target, place)
            return []

        vectors.loop(INT64(0), arguments[7], 1, [], body)
        return context.get_dummy_value()

    return types.none(memory, start, stride, columns, left, at, steps, rows, sums), generate


@caching.kernel
def _by_rows(start, stop, left, right, out, shape, width):  # type: ignore[no-untyped-def]
    """Pieces of so many columns of a right operand whose rows are contiguous."""
    rows, steps, columns = shape
    memory = right.memory
    lanes = VECTOR_BYTES // out.itemsize
    pieces = (columns + width - 1) // width
    for index in range(start, stop):
        batch = index // pieces
        first = (index - batch * pieces) * width
        count = min(width, columns - first)
        whole = count - count % lanes
        for step in range(0, steps, _TOGETHER):
            place = batch * right.batch + step * right.step + first
            for r in range(batch * rows, batch * rows + rows):
                at, to = r * steps + step, r * columns + first
                if step + _TOGETHER <= steps:
                    if whole > 0:
                        places = (
                            place,
                            place + right.step,
                            place + 2 * right.step,
                            place + 3 * right.step,
                        )
                        _add_rows(memory, places, left, at, out, to, to + whole)
                elif whole > 0:
                    for i in range(steps - step):
                        here = (place + i * right.step,)
                        _add_rows(memory, here, left, at + i, out, to, to + whole)
                for i in range(min(_TOGETHER, steps - step)):
                    for j in range(whole, count):
                        out[to + j] = words.fused_multiply_add(
                            left[at + i], memory[place + i * right.step + j], out[to + j]
                        )


@caching.kernel
def _by_columns(start, stop, sums, left, right, out, shape, width):  # type: ignore[no-untyped-def]
    """Pieces of so many columns, each of which is contiguous."""
    rows, steps, columns = shape
    memory, stride = right.memory, right.column
    lanes = VECTOR_BYTES // out.itemsize
    pieces = (columns + width - 1) // width
    whole = steps - steps % lanes
    for index in range(start, stop):
        batch = index // pieces
        begin = (index - batch * pieces) * width
        for first in range(begin, min(begin + width, columns), lanes):
            count = min(lanes, columns - first)
            place = batch * right.batch + first * stride
            for r in range(rows):
                for j in range(count):
                    sums[r * lanes + j] = out[(batch * rows + r) * columns + first + j]
            for step in range(0, whole, lanes):
                _add_square(
                    memory, place + step, stride, count,
                    left, batch * rows * steps + step, steps, rows, sums,
                )  # fmt: skip
            for r in range(rows):
                for j in range(count):
                    total = sums[r * lanes + j]
                    for step in range(whole, steps):
                        total = words.fused_multiply_add(
                            left[(batch * rows + r) * steps + step],
                            memory[place + j * stride + step],
                            total,
                        )
                    out[(batch * rows + r) * columns + first + j] = total


def takes(operands: Operands) -> bool:
    """Whether a product has so few rows, and is large enough, that it is computed here."""
    _, rows, columns = operands.shape
    return (
        rows <= _MOST_ROWS
        and operands.steps * columns >= _LEAST
        and not isinstance(operands.b, Narrow)
        and not operands.wants_running
        and operands.whole
    )


def product(operands: Operands, dtype: DTypeLike) -> Carrier:
    """The product of (batch, m, k) and (batch, k, n) arrays by multiply-adds in a type.

    Parameters
    ----------
    operands : Operands
        Of few rows, see :func:`takes`.
    dtype : dtype
        Float32, if all numbers are of this type, or float64.

    Returns
    -------
    ndarray, shape (batch, m, n)
    """
    initial = operands.initial
    out: Carrier = np.zeros(operands.shape, dtype)
    if initial is not None:
        out[...] = initial
    batch, rows, columns = operands.shape
    right = right_of(operands.b, dtype)
    pieces = launching.pieces_for(_COST * rows * operands.steps * batch * columns)
    panels = -(-columns // (COLUMNS * pieces))
    width = min(panels * COLUMNS, _WIDEST)
    by_rows = right.column == 1
    launching.run(
        _by_rows if by_rows else _by_columns,
        batch * -(-columns // width),
        read_only(operands.a, dtype).reshape(-1),
        right,
        out.reshape(-1),
        (rows, operands.steps, columns),
        width,
        cost=_COST * rows * operands.steps * width,
        workspace=None if by_rows else lambda: aligned((rows * VECTOR_BYTES,), dtype),
    )
    return out
