"""Parts of kernels: compiled for themselves, kept on disk, and called with what they take."""

import subprocess
import sys

import numba
import numpy as np
import pytest
from numba import types
from numba.core.errors import TypingError

from fpemu._kernels import caching, parts
from tests.oracle.compiling import LISTENING

NUMBERS = types.Array(types.float64, 1, "C")
call = parts.calling(3)


@caching.part
def add_scaled(x, y, n):
    """``y += n * x``; returns how many numbers that are."""
    for i in range(x.size):
        y[i] += n * x[i]
    return x.size


@pytest.fixture(scope="module")
def part():
    return parts.compiled(add_scaled, NUMBERS, NUMBERS, types.intp)


def calling_with(wanted):
    @numba.njit
    def run(address, x, y, times):
        count = 0
        for n in range(times):
            count += call(address, wanted, x, y[n:], n)
        return count

    return run


def test_a_kernel_calls_a_part_by_its_address(part):
    x, y = np.arange(4.0), np.zeros(9)
    assert calling_with(part.takes)(part.address, x, y, 5) == 20
    expected = np.zeros(9)
    for n in range(5):
        expected[n : n + 4] += n * x
    np.testing.assert_array_equal(y, expected)


def test_a_part_is_compiled_once(part):
    assert parts.compiled(add_scaled, NUMBERS, NUMBERS, types.intp) is part


@pytest.mark.parametrize(
    "arguments",
    [
        (np.zeros(3, np.float32), np.zeros(3)),
        (np.zeros((3, 1)), np.zeros(3)),
        (np.zeros(6)[::2], np.zeros(3)),
        (np.zeros(3), np.broadcast_to(np.zeros(3), 3)),
    ],
    ids=["other numbers", "more dimensions", "apart in memory", "read-only"],
)
def test_a_kernel_that_gives_a_part_anything_else_is_not_compiled(part, arguments):
    with pytest.raises(TypingError, match=r"a part takes array\(float64, 1d, C\), array"):
        calling_with(part.takes)(part.address, *arguments, 1)


def test_python_cannot_call_a_part():
    with pytest.raises(TypeError, match="add_scaled can be called in compiled code only"):
        add_scaled(np.zeros(3), np.zeros(3), 1)


def test_an_array_in_a_closure_is_refused():
    table = np.zeros(3)
    with pytest.raises(TypeError, match="closes over table, a ndarray"):

        @caching.part
        def first(x):
            return table[0]


PRODUCTS = """
import numpy as np
import fpemu

a = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
sums = [fpemu.matmul(a, a.T, fpemu.Sequential(format)).sum() for format in ("bfloat16", "e8m4")]
"""
PROGRAM = f"""{LISTENING}
from fpemu._kernels import caching

looked_for, load = set(), caching._Files.load


def noted(files, key):
    looked_for.add(files.path(key).name)
    return load(files, key)


caching._Files.load = noted
{PRODUCTS}
parts = ("product_range", "advance", "fill_rows")
print(*sums)
print(*(sum(f".{{part}}-" in file for file in looked_for) for part in parts))
print(*(compiled.count(part) for part in parts))
"""


def test_parts_are_kept_on_disk_and_formats_share_them():
    """What this process has compiled, or found, another finds: one version for both formats."""
    here = {}
    exec(PRODUCTS, here)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    sums, versions, compiled_there = done.stdout.splitlines()
    assert sums == " ".join(map(str, here["sums"]))
    assert versions == "1 1 1"
    assert compiled_there == "0 0 0"
