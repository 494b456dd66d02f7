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


PROGRAM = f"""{LISTENING}
import numpy as np
import fpemu

a = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
for format in ("bfloat16", "e8m4"):
    print(fpemu.matmul(a, a.T, fpemu.Sequential(format)).sum())
print(compiled.count("product_range"), compiled.count("advance"), compiled.count("fill_rows"))
"""


def test_parts_are_kept_on_disk_and_formats_share_them(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert runs[0][-1] == "1 1 1"
    assert runs[1][-1] == "0 0 0"
    assert runs[0][:-1] == runs[1][:-1]
