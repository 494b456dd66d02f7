"""Whatever the process has done before, the same bits: threads, forks and flush-to-zero.

What the functions return here in the ordinary state is checked against oracles elsewhere.
"""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.oracle.bits import differences
from tests.oracle.flushing import under_flush_to_zero
from tests.oracle.forking import holds_after_fork

WORK = """
import numpy as np


def work(inputs):
    import fpemu

    sr = fpemu.Rounding("sr", seed=7)
    a, b, c, narrow = inputs["a"], inputs["b"], inputs["c"], inputs["narrow"]
    results = {}
    for name, mode in (("e11m20", "rtp"), ("float64", "rne"), ("bfloat16", sr), ("float64", sr)):
        case = f"{name} {getattr(mode, 'mode', mode)}"
        for operation in (fpemu.add, fpemu.subtract, fpemu.multiply, fpemu.divide):
            results[f"{operation.__name__} {case}"] = operation(a, b, name, mode)
        results[f"sqrt {case}"] = fpemu.sqrt(np.abs(a), name, mode)
        results[f"fma {case}"] = fpemu.fma(a, b, c, name, mode)
        results[f"round {case}"] = fpemu.round(a, name, mode)
    for name in ("float32", "e8m4", "e11m20"):
        for mode in ("rne", "rtp", sr):
            for function in ("expm1", "tanh", "erf", "gelu", "silu", "log1p", "reciprocal"):
                case = f"{function} {name} {getattr(mode, 'mode', mode)}"
                results[case] = getattr(fpemu.functions, function)(np.abs(narrow), name, mode)
    codes = fpemu.encode(narrow, "e8m4", rounding="rne")
    results["encode"], results["decode"] = codes, fpemu.decode(codes, "e8m4")
    square = narrow[: 160 * 160].reshape(160, 160)
    for accumulator in (fpemu.Sequential("e8m4"), fpemu.Blocked("e11m20", 8, "e8m4")):
        results[str(accumulator)] = fpemu.matmul(square, square, accumulator)
    return results
"""


def make_inputs(count):
    """Subnormals and what makes subnormal sums, products and results, among ordinary numbers."""
    generator = np.random.default_rng(8)
    exponents = generator.choice([-1074, -1060, -1022, -540, -520, -30, 0, 3], (3, count))
    signs = generator.choice([-1, 1], (3, count))
    a, b, c = np.ldexp(signs * generator.uniform(1, 2, (3, count)), exponents)
    narrow = np.ldexp(generator.uniform(1, 2, count), generator.choice([-149, -130, -70, 0], count))
    return {"a": a, "b": b, "c": c, "narrow": (narrow * signs[0]).astype(np.float32)}


@pytest.fixture(scope="module")
def inputs():
    return make_inputs(40_000)


def run_work(inputs):
    namespace = {}
    exec(WORK, namespace)
    return namespace["work"](inputs)


@pytest.fixture(scope="module")
def expected(inputs):
    results = run_work(inputs)
    assert any(((x != 0) & (abs(x) < 2.0**-1022)).any() for x in results.values())
    return results


def wrong_cases(results, expected):
    assert results.keys() == expected.keys()
    return [case for case in expected if differences(results[case], expected[case]).size]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_number_of_numba_threads_does_not_matter(threads, inputs, expected, tmp_path):
    script = f"{WORK}\nimport sys\nnp.savez(sys.argv[2], **work(dict(np.load(sys.argv[1]))))"
    np.savez(tmp_path / "inputs.npz", **inputs)
    command = [sys.executable, "-c", script, tmp_path / "inputs.npz", tmp_path / "results.npz"]
    subprocess.run(command, check=True, env={**os.environ, "NUMBA_NUM_THREADS": str(threads)})
    assert wrong_cases(dict(np.load(tmp_path / "results.npz")), expected) == []


def test_several_python_threads_may_compute_at_once(inputs, expected):
    together = threading.Barrier(4)

    def compute(_index):
        together.wait()
        return wrong_cases(run_work(inputs), expected)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(compute, range(4))) == [[]] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_everything_works_after_a_fork(inputs, expected):
    assert holds_after_fork(lambda: wrong_cases(run_work(inputs), expected) == [])


KILLED = """
import multiprocessing, os, signal
import fpemu, numba, numpy
from numba.np.ufunc import parallel
multiprocessing.set_start_method("fork")
if LAUNCHED:
    numba.set_num_threads(1)
else:
    parallel._set_init_process_lock()
child = os.fork()
if child == 0:
    parallel._backend_init_process_lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
assert (fpemu.round(numpy.full(2**17, 1.001), "bfloat16") == 1).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("launched", [False, True])
def test_a_forked_process_may_be_killed_at_any_moment(launched):
    """Numba has a lock that forked processes share; one that is killed may leave it locked."""
    script = KILLED.replace("LAUNCHED", str(launched))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("setter", ["torch", "libm"])
def test_flush_to_zero_of_another_library_does_not_matter(setter, warm, inputs, expected, tmp_path):
    results = under_flush_to_zero(setter, warm, WORK, inputs, tmp_path)
    assert wrong_cases(results, expected) == []
