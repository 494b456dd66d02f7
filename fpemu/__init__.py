"""fpemu: what the floating-point arithmetic of a machine does, bit for bit."""

from fpemu import devices, formats, functions, jit, reference, scaling
from fpemu.accumulators import (
    Accumulator,
    Blocked,
    Exact,
    FlooredCore,
    Pairwise,
    Promoted,
    Sequential,
    TensorCore,
)
from fpemu.arithmetic import add, divide, fma, multiply, sqrt, subtract
from fpemu.arrays.container import Array, array
from fpemu.codec import decode, encode, pack, unpack, values
from fpemu.formats import Format, format
from fpemu.linalg import RunningSums, dot, matmul
from fpemu.rounding import Rounding, round

__all__ = [
    "Accumulator",
    "Array",
    "Blocked",
    "Exact",
    "FlooredCore",
    "Format",
    "Pairwise",
    "Promoted",
    "Rounding",
    "RunningSums",
    "Sequential",
    "TensorCore",
    "add",
    "array",
    "decode",
    "devices",
    "divide",
    "dot",
    "encode",
    "fma",
    "format",
    "formats",
    "functions",
    "jit",
    "matmul",
    "multiply",
    "pack",
    "reference",
    "round",
    "scaling",
    "sqrt",
    "subtract",
    "unpack",
    "values",
]
