"""fpemu: what the floating-point arithmetic of a machine does, bit for bit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from fpemu._lazy import lazy

if TYPE_CHECKING:
    from fpemu import devices, formats, functions, jit, reference, scaling
    from fpemu.accumulators import (
        Accumulator,
        Blocked,
        Chained,
        Exact,
        FlooredCore,
        Pairwise,
        Promoted,
        Sequential,
        TensorCore,
    )
    from fpemu.arithmetic import add, divide, fma, multiply, sqrt, subtract
    from fpemu.arrays import Array, array
    from fpemu.codec import decode, encode, pack, unpack, values
    from fpemu.errors import SumErrors, sum_errors
    from fpemu.formats import Format, format
    from fpemu.limits import FloatInfo, finfo
    from fpemu.linalg import RunningSums, dot, matmul
    from fpemu.neighbors import nextafter, spacing, ulp
    from fpemu.packed import Packed
    from fpemu.pictures import plot_errors, plot_formats
    from fpemu.rounding import Rounding, round

__all__ = [
    "Accumulator",
    "Array",
    "Blocked",
    "Chained",
    "Exact",
    "FloatInfo",
    "FlooredCore",
    "Format",
    "Packed",
    "Pairwise",
    "Promoted",
    "Rounding",
    "RunningSums",
    "Sequential",
    "SumErrors",
    "TensorCore",
    "add",
    "array",
    "decode",
    "devices",
    "divide",
    "dot",
    "encode",
    "finfo",
    "fma",
    "format",
    "formats",
    "functions",
    "jit",
    "matmul",
    "multiply",
    "nextafter",
    "pack",
    "plot_errors",
    "plot_formats",
    "reference",
    "round",
    "scaling",
    "spacing",
    "sqrt",
    "subtract",
    "sum_errors",
    "ulp",
    "unpack",
    "values",
]

__version__: Final = "0.1.0"

# A module is imported when one of its names is first used, so that `import fpemu` costs nothing.
_NAMES: Final = {
    "accumulators": "Accumulator Blocked Chained Exact FlooredCore Pairwise Promoted Sequential "
    "TensorCore",
    "arithmetic": "add divide fma multiply sqrt subtract",
    "arrays": "Array array",
    "codec": "decode encode pack unpack values",
    "errors": "SumErrors sum_errors",
    "formats": "Format format",
    "limits": "FloatInfo finfo",
    "linalg": "RunningSums dot matmul",
    "neighbors": "nextafter spacing ulp",
    "packed": "Packed",
    "pictures": "plot_errors plot_formats",
    "rounding": "Rounding round",
}

if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
    raise ImportError(
        "fpemu is made of kernels that Numba compiles, and Numba is told not to: unset "
        "NUMBA_DISABLE_JIT"
    )

if not TYPE_CHECKING:  # to which every name is known by its import above
    __getattr__, __dir__ = lazy(__name__, _NAMES)
