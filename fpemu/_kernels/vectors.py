"""What all kernels that are written as vector code share."""

from __future__ import annotations

from llvmlite import ir

__all__ = ["spread"]


def spread(builder: ir.IRBuilder, scalar: ir.Value, count: int) -> ir.Value:
    """A vector of so many lanes that all are the scalar."""
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), count), None)
    return builder.shuffle_vector(first, undefined, lanes)
