"""Compile the kernels for CUDA to PTX, which takes no device, and count their operations on floats.

    pip install 'numba-cuda[cu12]'
    python analysis/check_cuda.py [--capability 9 0] [--output FOLDER]

Rounding must have no operation on floats, and a sum in the carrier's own format fused multiply-adds
alone.  Other sums may: those of float32 operands have exact products, so that it does not matter
whether the compiler contracts one and a sum; those of any operands are formed in integers, but for
infinities and NaN.  Nothing may flush subnormal numbers to zero.  Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numba import cuda, types

from fpemu._cuda import rounding, sequential
from fpemu._cuda.porting import ported
from fpemu._kernels.error_free import multiply_add_float32, multiply_add_float64
from fpemu._kernels.rounding import DETERMINISTIC, NEAREST_EVEN, Target

FLOATS = {types.uint32: types.float32, types.uint64: types.float64}
KINDS = {"to nearest even": NEAREST_EVEN, "in any mode": DETERMINISTIC}
STEPS = {
    "fused float32": (sequential._fused, types.float32),
    "fused float64": (sequential._fused, types.float64),
    "of float32 operands": (ported(multiply_add_float32), types.float64),
    "of any operands": (ported(multiply_add_float64), types.float64),
}
OPERATION = re.compile(r"^\s*(?:@\S+\s+)?((?:add|sub|mul|fma|div|sqrt)\.[\w.]*f(?:32|64))\b", re.M)


def kernels() -> Iterator[tuple[str, set[str] | None, Any, Any]]:
    """Name, the operations that a kernel may have (None for any), kernel and signature."""
    for word, number in FLOATS.items():
        target = types.NamedUniTuple(word, len(Target._fields), Target)
        for name, kind in KINDS.items():
            signature = types.void(number[::1], number[::1], target)
            yield f"round {number} {name}", set(), rounding._kernel(kind), signature
    target = types.NamedUniTuple(types.uint64, len(Target._fields), Target)
    for name, (step, number) in STEPS.items():
        matrices = number[:, :, ::1]
        initial = types.Array(number, 3, "C", readonly=True)
        lengths = types.int64[::1]
        signature = types.void(matrices, matrices, initial, lengths, matrices, *[target] * 3)
        allowed = {f"fma.rn.f{number.bitwidth}"} if "fused" in name else None
        for rounded in (False,) if allowed else (False, True):
            kernel = sequential._kernel(step, DETERMINISTIC, rounded, rounded)
            more = ", products and sums rounded on the way" if rounded else ""
            yield f"sums {name}{more}", allowed, kernel, signature


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, nargs=2, default=(9, 0), metavar="N")
    parser.add_argument("--output", type=Path, help="folder for the PTX of each kernel")
    options = parser.parse_args()
    # Device functions ask for the device that they are compiled for.
    stand_in = SimpleNamespace(compute_capability=tuple(options.capability))
    sys.modules["numba.cuda.dispatcher"].get_current_device = lambda: stand_in
    wrong = []
    for name, allowed, kernel, signature in kernels():
        text, _ = cuda.compile(
            kernel.py_func, signature, device=False, abi="numba", cc=stand_in.compute_capability
        )
        operations = Counter(OPERATION.findall(text))
        print(f"{name}: {dict(operations) or 'no operation on floats'}")
        if ".ftz" in text or (allowed is not None and not set(operations) <= allowed):
            wrong.append(name)
        if options.output:
            (options.output / f"{re.sub(r'[^a-z0-9]+', '-', name)}.ptx").write_text(text)
    if wrong:
        sys.exit(f"operations that are not expected: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
