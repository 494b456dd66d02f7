"""Operations of kernels that are rounded toward zero, by what the processor has for it.

AVX-512 has instructions that name their direction.  Other processors of x86-64 round as their
control register says, which each thread has for itself.  It is set for as much work as is at hand,
as that takes some tens of cycles; and the compiler, which takes every operation to be rounded to
nearest, may move one across.  So:

- Between `turn_toward_zero` and `turn_back` a kernel has integers alone, and calls of functions
  that are never inlined (`call_apart`).
- In these functions the operations of floating point are all of those that the compiler is told the
  direction of (`multiplied_and_added`), which it may neither move nor compute itself to nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fpemu._kernels.vectors import FLOATS, INT32, INTS, LANES, every, has_features

__all__ = [
    "ARE_NAMED",
    "ARE_THERE",
    "call_apart",
    "converted",
    "multiplied_and_added",
    "turn_back",
    "turn_toward_zero",
]

ARE_NAMED: Final = has_features("avx512f", "avx512bw")
"""Whether instructions name their direction."""

ARE_THERE: Final = ARE_NAMED or has_features("avx2", "fma")
"""Whether there is a way to multiply, add and round toward zero."""

_NAMED: Final = 3 | 8  # toward zero, and no exceptions
_TOWARD_ZERO: Final = 3 << 13  # of the control register
_CONSTRAINTS: Final = ("round.towardzero", "fpexcept.ignore")


def multiplied_and_added(
    builder: ir.IRBuilder, a: ir.Value, b: ir.Value, total: ir.Value
) -> ir.Value:
    """``a * b + total`` of vectors, rounded toward zero."""
    if ARE_NAMED:
        name, how = "llvm.x86.avx512.vfmadd.ps.512", [INT32(_NAMED)]
    else:
        name, words = f"llvm.experimental.constrained.fma.v{LANES}f32", _CONSTRAINTS
        how = [ir.MetaDataString(builder.module, each) for each in words]
    return _call(builder, name, [a, b, total, *how])


def converted(builder: ir.IRBuilder, integers: ir.Value) -> ir.Value:
    """Vectors of int32 as float32 numbers, rounded toward zero, in any direction of the processor.

    The highest bit of ``m >> 24`` is the highest of those that a magnitude m loses.  Without the
    bits of that number m has the same leading 24, and loses less than half of the last one: to
    nearest it is rounded down.
    """
    if ARE_NAMED:
        name = "llvm.x86.avx512.sitofp.round.v16f32.v16i32"
        return _call(builder, name, [integers, INT32(_NAMED)])
    negative = builder.ashr(integers, every(INTS, 31))
    magnitude = builder.sub(builder.xor(integers, negative), negative)
    lost = builder.lshr(magnitude, every(INTS, 24))
    kept = builder.and_(magnitude, builder.xor(lost, every(INTS, -1)))
    sign = builder.and_(integers, every(INTS, -(2**31)))
    word = builder.or_(builder.bitcast(builder.sitofp(kept, FLOATS), INTS), sign)
    return builder.bitcast(word, FLOATS)


def _call(builder: ir.IRBuilder, name: str, arguments: Sequence[ir.Value]) -> ir.Value:
    """Call an intrinsic of the compiler that gives float32 numbers."""
    kind = ir.FunctionType(FLOATS, [each.type for each in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def call_apart(
    builder: ir.IRBuilder,
    emit: Callable[..., ir.Value],
    parts: Sequence[Sequence[ir.Value]],
) -> ir.Value:
    """Call ``emit(builder, *parts)``, which gives a truth value, as a function of its own."""
    values = [value for part in parts for value in part]
    module = builder.module
    kind = ir.FunctionType(ir.IntType(1), [value.type for value in values])
    function = ir.Function(module, kind, module.get_unique_name("toward_zero"))
    function.linkage = "internal"
    function.attributes.add("noinline")
    set.add(function.attributes, "strictfp")  # llvmlite does not know it
    inside, rest = ir.IRBuilder(function.append_basic_block()), iter(function.args)
    inside.ret(emit(inside, *([next(rest) for _ in part] for part in parts)))
    return builder.call(function, values)


@intrinsic
def turn_toward_zero(_typing_context: Any) -> Any:
    """Round toward zero from now on; returns what `turn_back` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if ARE_NAMED:
            return INT32(0)
        place = cgutils.alloca_once(builder, INT32)
        _control(builder, "stmxcsr", place)
        before = builder.load(place)
        builder.store(builder.or_(before, INT32(_TOWARD_ZERO)), place)
        _control(builder, "ldmxcsr", place)
        return before

    return types.int32(), generate


@intrinsic
def turn_back(_typing_context: Any, before: Any) -> Any:
    """Round as before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not ARE_NAMED:
            place = cgutils.alloca_once(builder, INT32)
            builder.store(arguments[0], place)
            _control(builder, "ldmxcsr", place)
        return context.get_dummy_value()

    return types.none(types.int32), generate


def _control(builder: ir.IRBuilder, name: str, place: ir.Value) -> None:
    """Store or load the control register."""
    pointer = ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer]), f"llvm.x86.sse.{name}"
    )
    builder.call(function, [builder.bitcast(place, pointer)])
