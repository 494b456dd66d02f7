"""The kernels for CUDA beside those of the processor; run where there is a device or a simulator.

``python -m tests.fpemu.cuda_kernels`` prints the cases of which a bit differs, and their number;
with the argument ``half`` it takes every other case, so that each format and each rounding, sum and
kind of operands has its turn.
"""

import itertools
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numba
import numpy as np

import fpemu
from fpemu._cuda import porting, rounding, sequential
from fpemu._kernels import array_rounding
from fpemu._kernels import sequential as sums_on_processor
from fpemu._kernels.operands import Operands

MODES = ("rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto")
FORMATS = (
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e8m0fnu",
    "Binary8p1se",
    "Binary8p4sf",
)
ROUNDINGS = (*map(fpemu.Rounding, MODES), fpemu.Rounding(overflow="saturate"))
ACCUMULATORS = (
    *map(fpemu.Sequential, ("float32", "float64", "e8m7", "float16", "float8_e4m3fn")),
    *(fpemu.Sequential("float16", mode) for mode in MODES[1:]),
    fpemu.Sequential("e8m7", fused=False, product="float16"),
    fpemu.Sequential("bfloat16", via="float32"),
    fpemu.Sequential("float16", fpemu.Rounding(overflow="saturate")),
)


def same(x: Any, y: Any) -> bool:
    """Whether arrays have one type and the same bits, any NaN for any other."""
    word = f"u{x.dtype.itemsize}"
    return x.dtype == y.dtype and bool(
        np.all((x.view(word) == y.view(word)) | (np.isnan(x) & np.isnan(y)))
    )


def numbers(dtype: Any, format: Any) -> Any:
    """Any bits at all; the ends of the format, ties, and what is beside them."""
    generator = np.random.default_rng(1)
    width = np.dtype(dtype).itemsize
    anything = generator.integers(0, 256, 8 * width, np.uint8).view(dtype)
    with np.errstate(all="ignore"):
        ends = np.array([format.smallest_subnormal, format.smallest_normal, format.max_finite])
        units = ends * np.array([1.0, 0.5, 1 + format.unit_roundoff])[:, None]
        near = np.concatenate([units.ravel(), [1.0, np.inf, 0.0, 1 + format.unit_roundoff]])
        near = near.astype(dtype)
        beside = [np.nextafter(near, dtype(end)) for end in (0, np.inf)]
    some = np.concatenate([near, *beside])
    return np.concatenate([anything, some, -some])


def taken(*lists: Iterable[Any], half: bool) -> Iterator[tuple[Any, ...]]:
    """All combinations, or half of them, in which any two elements of two lists meet."""
    for numbered in itertools.product(*map(enumerate, lists)):
        if not (half and sum(number for number, _ in numbered) % 2):
            yield tuple(element for _, element in numbered)


def rounded(half: bool) -> Iterator[tuple[str, bool]]:
    for name, dtype, each in taken(FORMATS, (np.float32, np.float64), ROUNDINGS, half=half):
        format = fpemu.format(name)
        x = numbers(dtype, format)
        results = np.empty_like(x), np.empty_like(x)
        rounding.round_flat(x, results[0], format, each)
        array_rounding.round_flat(x, results[1], format, each)
        yield f"{np.dtype(dtype)} into {name} by {each}", same(*results)


def operands(dtype: Any, format: Any) -> Iterator[Operands]:
    """Stacks of products: with and without initial values, short rows, infinities and NaN."""
    generator = np.random.default_rng(2)
    a = generator.standard_normal((2, 3, 6)).astype(np.float32).astype(dtype)
    b = generator.standard_normal((2, 6, 3)).astype(np.float32).astype(dtype)
    if dtype == np.float64:
        a, b = a * (1 + 2.0**-40), b * 2.0**-140
    initial = fpemu.round(generator.standard_normal((2, 3, 3)), format)
    yield Operands.of(a, b, None, np.array([3, 1, 2]))
    a[0, 0, 0], a[0, 1, :] = np.inf, a[0, 1, :] * 2.0**100
    b[0, 1, 0], b[1, :, 1] = np.nan, -0.0
    yield Operands.of(a, b, initial, np.full(3, 3))


def summed(half: bool) -> Iterator[tuple[str, bool]]:
    for accumulator, dtype, number in taken(
        ACCUMULATORS, (np.float32, np.float64), range(2), half=half
    ):
        given = next(itertools.islice(operands(dtype, accumulator.format), number, None))
        results = (
            module.product(given, accumulator).astype(np.float64)
            for module in (sequential, sums_on_processor)
        )
        yield f"{np.dtype(dtype)} operands {number}, {accumulator}", same(*results)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the simulator adds infinities in numpy's numbers
    if numba.config.ENABLE_CUDASIM:  # where each thread is one of Python's, and takes as long
        porting._BLOCK = 8
    half = "half" in sys.argv
    cases = [*rounded(half), *summed(half)]
    different = [name for name, equal in cases if not equal]
    print(json.dumps({"cases": len(cases), "different": different}))
