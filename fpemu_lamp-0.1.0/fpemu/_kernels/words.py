"""Machine words inside kernels: integers that keep their width, and the bits of a float.

Numba widens ``uint32 + uint32`` to 64 bits, which halves the lanes of a vector loop and costs a
factor of two to three.  These intrinsics are the one machine instruction each, on ``uint32`` and
``uint64`` alike, so that one kernel source serves the float32 and the float64 carrier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "add",
    "bit_and",
    "bit_or",
    "bit_xor",
    "floating",
    "floor",
    "fused_multiply_add",
    "leading_zeros",
    "maximum",
    "minimum",
    "multiply",
    "multiply_high",
    "shift_left",
    "shift_right",
    "subtract",
    "truncate",
    "word",
]

_FLOAT_OF_WORD = {types.uint32: types.float32, types.uint64: types.float64}
_WORD_OF_FLOAT = {number: word for word, number in _FLOAT_OF_WORD.items()}


def _width_keeping(instruction: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Any:
    """An intrinsic of two words; an integer literal on the right takes the width of the left."""

    def typed(_typing_context: Any, left: Any, right: Any) -> Any:
        if left not in _FLOAT_OF_WORD or not isinstance(right, types.Integer):
            return None
        if right != left and not isinstance(right, types.IntegerLiteral):
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            first, second = arguments
            return instruction(builder, first, context.cast(builder, second, right, left))

        return left(left, right), generate

    return intrinsic(typed)


add = _width_keeping(lambda builder, a, b: builder.add(a, b))
subtract = _width_keeping(lambda builder, a, b: builder.sub(a, b))
multiply = _width_keeping(lambda builder, a, b: builder.mul(a, b))
bit_and = _width_keeping(lambda builder, a, b: builder.and_(a, b))
bit_or = _width_keeping(lambda builder, a, b: builder.or_(a, b))
bit_xor = _width_keeping(lambda builder, a, b: builder.xor(a, b))
shift_left = _width_keeping(lambda builder, a, b: builder.shl(a, b))
shift_right = _width_keeping(lambda builder, a, b: builder.lshr(a, b))
minimum = _width_keeping(
    lambda builder, a, b: builder.select(builder.icmp_unsigned("<", a, b), a, b)
)
maximum = _width_keeping(
    lambda builder, a, b: builder.select(builder.icmp_unsigned(">", a, b), a, b)
)


def _multiply_high(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    width = a.type.width
    double = ir.IntType(2 * width)
    product = builder.mul(builder.zext(a, double), builder.zext(b, double))
    return builder.trunc(builder.lshr(product, double(width)), a.type)


multiply_high = _width_keeping(_multiply_high)


@intrinsic
def leading_zeros(_typing_context: Any, bits: Any) -> Any:
    """How many zeros stand above the highest set bit of a word."""
    if bits not in _FLOAT_OF_WORD:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.IntType(1)(0))

    return bits(bits), generate


@intrinsic
def word(_typing_context: Any, number: Any) -> Any:
    """The bits of a float32 (as uint32) or float64 (as uint64)."""
    if number not in _WORD_OF_FLOAT:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return _WORD_OF_FLOAT[number](number), generate


@intrinsic
def floating(_typing_context: Any, bits: Any) -> Any:
    """The float32 (of a uint32) or float64 (of a uint64) with these bits."""
    if bits not in _FLOAT_OF_WORD:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return _FLOAT_OF_WORD[bits](bits), generate


@intrinsic
def fused_multiply_add(_typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a*b + c`` rounded once to nearest, in float32 or float64."""
    if a not in _WORD_OF_FLOAT or not a == b == c:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.return_type)
        name = f"llvm.fma.f{context.get_abi_sizeof(kind) * 8}"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * 3), name
        )
        return builder.call(function, arguments)

    return a(a, a, a), generate


def _rounding_to_integer(name: str) -> Any:
    """An intrinsic that takes a float32 or float64 to an integer of its type."""

    def typed(_typing_context: Any, number: Any) -> Any:
        if number not in _WORD_OF_FLOAT:
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = context.get_value_type(signature.return_type)
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(kind, [kind]),
                f"llvm.{name}.f{context.get_abi_sizeof(kind) * 8}",
            )
            return builder.call(function, arguments)

        return number(number), generate

    return intrinsic(typed)


truncate = _rounding_to_integer("trunc")
floor = _rounding_to_integer("floor")
