"""The kernels for CUDA, in Numba's simulator and on a device where there is one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from numba import cuda

import fpemu
from fpemu._cuda import rounding, sequential, words
from fpemu._kernels.operands import Operands
from tests.fpemu.cuda_kernels import ACCUMULATORS, FORMATS, ROUNDINGS


@pytest.mark.parametrize(
    ("place", "share"),
    [("simulator", "half"), pytest.param("simulator", "all", marks=pytest.mark.long),
     ("device", "all")],
)  # fmt: skip
def test_cuda_kernels_give_the_bits_of_the_processor(place, share):
    if place == "device" and not cuda.is_available():
        pytest.skip("no CUDA device, or no driver for one")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": str(int(place == "simulator"))}
    command = [sys.executable, "-m", "tests.fpemu.cuda_kernels", share]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["different"] == []
    cases = 2 * len(FORMATS) * len(ROUNDINGS) + 4 * len(ACCUMULATORS)
    assert found["cases"] == (cases // 2 if share == "half" else cases)


def test_what_has_no_cuda_kernel_is_refused():
    x, sr = np.zeros(1), fpemu.Rounding("sr", seed=1)
    with pytest.raises(NotImplementedError, match="rounds by sr"):
        rounding.round_flat(x, x, fpemu.format("bfloat16"), sr)
    one = np.zeros((1, 1, 1))
    operands = Operands(one, one, None, np.ones(1, np.int64))
    with pytest.raises(NotImplementedError, match="stochastic or running"):
        sequential.product(operands, fpemu.Sequential("bfloat16", sr))


@pytest.mark.parametrize("word", [np.uint32, np.uint64])
def test_words_of_the_simulator_keep_their_width(word):
    bits = word(0).itemsize * 8
    numbers = [0, 1, 2, 3, 0x9E3779B9, 2 ** (bits - 1), 2**bits - 2, 2**bits - 1]
    a, b = (x.ravel() for x in np.meshgrid(np.array(numbers, word), np.array(numbers, word)))
    distance = b % word(bits)
    expected = {
        "add": a + b,
        "subtract": a - b,
        "bit_and": a & b,
        "bit_or": a | b,
        "bit_xor": a ^ b,
        "minimum": np.minimum(a, b),
        "maximum": np.maximum(a, b),
        "shift_left": a << distance,
        "shift_right": a >> distance,
        "multiply_high": [int(x) * int(y) >> bits for x, y in zip(a, b, strict=True)],
    }
    for name, results in expected.items():
        right = distance if "shift" in name else b
        found = [getattr(words, name)(x, y) for x, y in zip(a, right, strict=True)]
        assert {*map(type, found)} == {word}
        assert found == list(results), name
    assert [words.leading_zeros(x) for x in a[:3]] == [bits, bits - 1, bits - 2]
    with pytest.raises(ValueError, match=f"{bits} bits is shifted by {bits}"):
        words.shift_left(word(1), bits)
    with pytest.raises(TypeError, match="one width"):
        words.add(word(1), np.uint8(1))


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_the_simulator_rounds_a_fused_multiply_add_once(name):
    number = np.dtype(name).type
    unit = fpemu.format(name).epsilon
    half, near = unit**0.5 / 2, 1 - unit  # half a unit is half**2, up to a factor of two
    least, most = fpemu.format(name).smallest_subnormal, fpemu.format(name).max_finite
    cases = [
        (half * (1 + unit), half * near, 1 + unit),
        (half * 2**0.5 * (1 + unit), half * 2**0.5 * near, 1 + unit),
        (unit / 2 * (1 + unit), near, 1 + unit),
        (unit / 2 * (1 + unit), near, -1 - unit),
        (unit / 2, 1.0, 1.0),
        (least, 0.5, 0.0),
        (least, 0.75, -0.0),
        (most, 2.0, 0.0),
        (-most, 1.0, -unit * most),
        (0.0, -1.0, -0.0),
        (2.0, 3.0, -6.0),
        (np.inf, 1.0, 0.0),
    ]
    a, b, c = np.array(cases, number).T
    found = np.array([words.fused_multiply_add(*each) for each in zip(a, b, c, strict=True)])
    assert found.dtype == number
    assert found.tobytes() == fpemu.fma(a, b, c, name).tobytes()
