"""What all kernels that are written as vector code share."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["prefer_wide_vectors", "spread"]


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


def spread(builder: ir.IRBuilder, scalar: ir.Value, count: int) -> ir.Value:
    """A vector of so many lanes that all are the scalar."""
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), count), None)
    return builder.shuffle_vector(first, undefined, lanes)
