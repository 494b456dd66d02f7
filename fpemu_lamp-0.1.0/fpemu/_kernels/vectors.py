"""What all kernels that are written as vector code share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen
from numba.extending import intrinsic
from numba.np import arrayobj

__all__ = [
    "DOUBLES",
    "FLOATS",
    "INT16",
    "INT32",
    "INT64",
    "INTS",
    "LANES",
    "LONGS",
    "PAIRS",
    "VECTOR_BYTES",
    "Vectors",
    "data_of",
    "every",
    "has_features",
    "prefer_wide_vectors",
    "spread",
    "vector_of",
]

VECTOR_BYTES: Final = 64
"""Bytes of a vector; narrower machines split it, with no change of result."""

LANES: Final = VECTOR_BYTES // 4
"""Float32 numbers of a vector."""

INT16, INT32, INT64 = (ir.IntType(bits) for bits in (16, 32, 64))
FLOATS: Final = ir.VectorType(ir.FloatType(), LANES)
INTS: Final = ir.VectorType(INT32, LANES)
PAIRS: Final = ir.VectorType(INT16, 2 * LANES)
DOUBLES: Final = ir.VectorType(ir.DoubleType(), LANES // 2)
LONGS: Final = ir.VectorType(INT64, LANES // 2)


@functools.cache
def _features() -> frozenset[str]:
    given = numba.config.CPU_FEATURES
    return frozenset((codegen.get_host_cpu_features() if given is None else given).split(","))


def has_features(*names: str) -> bool:
    """Whether the processor that kernels are compiled for has all these features.

    The key of a kernel in the cache has them as well, so that code that is chosen by them fits.
    """
    return {f"+{name}" for name in names} <= _features()


@intrinsic
def prefer_wide_vectors(_typing_context: Any) -> Any:
    """Let loops of the function that calls it become vectors of 512 bits where there are such.

    For many processors that have them the compiler takes half of that, which lets code that uses
    them now and then run at a higher clock.  llvmlite adds no attribute that it does not know.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), generate


def vector_of(number: ir.Type) -> ir.VectorType:
    """The vector of float32 or float64 numbers."""
    return {FLOATS.element: FLOATS, DOUBLES.element: DOUBLES}[number]


def data_of(context: Any, builder: ir.IRBuilder, kind: types.Array, array: ir.Value) -> ir.Value:
    """The data pointer of an array."""
    return arrayobj.make_array(kind)(context, builder, array).data


def spread(builder: ir.IRBuilder, scalar: ir.Value, count: int) -> ir.Value:
    """A vector of so many lanes that all are the scalar."""
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    lanes = ir.Constant(ir.VectorType(INT32, count), None)
    return builder.shuffle_vector(first, undefined, lanes)


def every(kind: ir.VectorType, number: float) -> ir.Constant:
    """A constant vector whose lanes all are a number."""
    return ir.Constant(kind, [ir.Constant(kind.element, number)] * kind.count)


class Vectors:
    """A builder of vector code."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def _address(self, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.bitcast(self.builder.gep(base, [index]), kind.as_pointer())

    def load(self, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        """What lies at an element of an array."""
        return self.builder.load(self._address(base, index, kind), align=1)

    def store(self, value: ir.Value, base: ir.Value, index: ir.Value) -> None:
        """Put a value at an element of an array."""
        self.builder.store(value, self._address(base, index, value.type), align=1)

    def spread(self, scalar: ir.Value, count: int = LANES) -> ir.Value:
        """A vector whose lanes all are the scalar."""
        return spread(self.builder, scalar, count)

    def half(self, vector: ir.Value, which: int) -> ir.Value:
        """The lower or the upper half of the lanes."""
        count = LANES // 2
        lanes = [INT32(count * which + i) for i in range(count)]
        return self.builder.shuffle_vector(
            vector,
            ir.Constant(vector.type, ir.Undefined),
            ir.Constant(ir.VectorType(INT32, count), lanes),
        )

    def joined(self, lower: ir.Value, upper: ir.Value) -> ir.Value:
        """Both halves of the lanes."""
        lanes = ir.Constant(INTS, [INT32(i) for i in range(LANES)])
        return self.builder.shuffle_vector(lower, upper, lanes)

    def transposed(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """The columns of a square of as many vectors as these have lanes, a power of two.

        One bit after the other is exchanged between the numbers of vectors and of lanes.
        """
        side, result = len(rows), list(rows)
        kind = ir.VectorType(INT32, side)
        bit = 1
        while bit < side:
            lower = [lane if not lane & bit else side + lane - bit for lane in range(side)]
            masks = [ir.Constant(kind, [INT32(x + up) for x in lower]) for up in (0, bit)]
            for i in range(side):
                if not i & bit:
                    pair = result[i], result[i + bit]
                    result[i], result[i + bit] = (
                        self.builder.shuffle_vector(*pair, mask) for mask in masks
                    )
            bit *= 2
        return result

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The larger of signed integers."""
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The smaller of signed integers."""
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def call(self, name: str, *arguments: ir.Value) -> ir.Value:
        """An intrinsic of the compiler, of vectors of one kind."""
        kind = arguments[0].type
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(kind, [kind] * len(arguments)),
            f"llvm.{name}.v{kind.count}{kind.element.intrinsic_name}",
        )
        return self.builder.call(function, arguments)

    def any(self, flags: ir.Value) -> ir.Value:
        """Whether a lane is true."""
        bits = ir.IntType(flags.type.count)
        return self.builder.icmp_unsigned("!=", self.builder.bitcast(flags, bits), bits(0))

    def loop(
        self,
        first: ir.Value,
        stop: ir.Value,
        stride: int | ir.Value,
        state: Sequence[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]],
    ) -> list[ir.Value]:
        """``state = body(step, state)`` for every step; there is at least one."""
        builder = self.builder
        before = builder.block
        inside, after = builder.append_basic_block(), builder.append_basic_block()
        builder.branch(inside)
        builder.position_at_end(inside)
        step = builder.phi(INT64)
        old = [builder.phi(value.type) for value in state]
        new: list[Any] = list(body(step, old))
        following = builder.add(step, stride if isinstance(stride, ir.Value) else INT64(stride))
        end = builder.block
        builder.cbranch(builder.icmp_signed("<", following, stop), inside, after)
        step.add_incoming(first, before)
        step.add_incoming(following, end)
        for phi, start, value in zip(old, state, new, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(value, end)
        builder.position_at_end(after)
        return new
