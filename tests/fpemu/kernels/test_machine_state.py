"""Whatever the process has done before, the same bits: threads, forks and flush-to-zero.

What the functions return here in the ordinary state is checked against oracles elsewhere.
"""

import contextlib
import ctypes
import gc
import os
import platform
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fpemu._kernels import launching
from tests.oracle.bits import differences
from tests.oracle.flushing import UPWARD, under_flush_to_zero
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
    small = narrow[:64]
    results["relu"] = fpemu.functions.relu(small, "float32")
    for name in ("bfloat16", "float8_e5m2", "Binary12p1se"):
        results["values " + name] = fpemu.values(name)
    for name in ("float8_e5m2", "Binary12p1se"):
        results["members " + name] = np.array(fpemu.reference.members(name)[::97])
    facts = ("smallest_normal", "smallest_subnormal", "max_finite", "epsilon", "unit_roundoff")
    for name in ("float64", "e11m3", "Binary12p1se", "bfloat16"):
        format = fpemu.format(name)
        results["facts " + name] = np.array([getattr(format, fact) for fact in facts])
        judged = [fpemu.reference.round_exact(x, name, "rtp") for x in a[:99].tolist()]
        results["judge " + name] = np.array(judged)
    bounds = fpemu.Sequential("float64")
    results["bounds"] = np.array([bounds.error_bound(9), bounds.underflow_bound(9)])
    left, right = fpemu.array(small, "float32"), fpemu.array(small[::-1].copy(), "float32")
    for ufunc in (np.sign, np.absolute, np.floor, np.logical_not, np.signbit):
        results[ufunc.__name__] = np.asarray(ufunc(left))
    for ufunc in (np.maximum, np.fmin, np.equal, np.less, np.logical_and, np.copysign):
        results[ufunc.__name__] = np.asarray(ufunc(left, right))
    for function in (np.sum, np.min, np.argmin, np.sort, np.argsort, np.count_nonzero, np.cumsum):
        results["array " + function.__name__] = np.asarray(function(left))
    results["clip"] = np.asarray(np.clip(left, 0, 1))
    scalar = [float(left[0]), left[1].item(), *left.tolist(), bool(left[2]), bool(left.any())]
    results["scalars"] = np.array(scalar)
    results["astype"] = left.astype(np.float64)
    left[0] = 3e-45
    results["set"] = left.values
    square = narrow[: 160 * 160].reshape(160, 160)
    for accumulator in (fpemu.Sequential("e8m4"), fpemu.Blocked("e11m20", 8, "e8m4")):
        results[str(accumulator)] = fpemu.matmul(square, square, accumulator)
    return results
"""


OF_NUMBA = """
import sys

import numba
from fpemu._kernels import launching

inputs = dict(np.load(sys.argv[1]))
launching._WORTH = 1.0  # however short a kernel is
assert launching.thread_count() == 4
results = {f"4 {case}": result for case, result in work(inputs).items()}
numba.set_num_threads(1)
assert launching.thread_count() == 1
results |= {f"1 {case}": result for case, result in work(inputs).items()}
numba.set_num_threads(4)
assert launching.thread_count() == 4
np.savez(sys.argv[2], **results)
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
    return make_inputs(26_000)


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


def test_the_number_of_numba_threads_does_not_matter(inputs, expected, tmp_path):
    np.savez(tmp_path / "inputs.npz", **inputs)
    command = [sys.executable, "-c", WORK + OF_NUMBA]
    command += [tmp_path / "inputs.npz", tmp_path / "results.npz"]
    subprocess.run(command, check=True, env={**os.environ, "NUMBA_NUM_THREADS": "4"})
    results = dict(np.load(tmp_path / "results.npz"))
    expected = {f"{count} {case}": expected[case] for count in (4, 1) for case in expected}
    assert wrong_cases(results, expected) == []


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


# Python compiles the constants of a module in the direction of the moment: no cold start there.
@pytest.mark.parametrize(
    ("setter", "warm"),
    [("libm", False), ("torch", True), ("upward", True)],  # torch sets the bits that libm does
)
def test_what_another_library_does_to_the_processor_does_not_matter(
    setter, warm, inputs, expected, tmp_path
):
    results = under_flush_to_zero(setter, warm, WORK, inputs, tmp_path)
    assert wrong_cases(results, expected) == []


AFTER = """
import ctypes
import numpy as np
import fpemu
from fpemu._kernels import launching

assert launching.thread_count() == 1
libm = ctypes.CDLL("libm.so.6")


def environment():
    held = ctypes.create_string_buffer(256)
    libm.fegetenv(held)
    return held


usual = environment()
flushing = environment()
ctypes.c_uint32.from_buffer(flushing, 28).value |= 0x8040
libm.fesetenv(flushing)
rounders = [fpemu.jit.rounder(name, "rtp") for name in ("float64", "Binary12p1se")]
fpemu.values("bfloat16"), fpemu.format("float64").smallest_subnormal
libm.fesetenv(usual)
assert fpemu.decode(1, "bfloat16") == 2.0**-133
assert [rounder(5e-324) for rounder in rounders] == [5e-324, 2.0**-1023]
assert fpemu.round(5e-324, "Binary12p1se", "rtp") == 2.0**-1023
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="sets the MXCSR of x86-64"
)
def test_nothing_is_remembered_from_a_time_of_flushing():
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}  # which is heeded, too
    subprocess.run([sys.executable, "-c", AFTER], check=True, timeout=300, env=environment)


LATE = """
import atexit, sys, threading

if {early}:
    import fpemu
    fpemu.round([1.1] * 2**17, "bfloat16")


def compute(name):
    import fpemu
    rounded = fpemu.round([1.1] * 2**17, "bfloat16")
    print(name, set(rounded.tolist()), fpemu.functions.exp([1.0], "bfloat16")[0])


def late():
    threading.main_thread().join()
    compute("thread")


threading.Thread(target=late).start()
atexit.register(compute, "atexit")
"""


@pytest.mark.parametrize("early", [False, True])
def test_threads_that_outlive_the_main_one_and_exit_functions_may_compute(early):
    done = subprocess.run(
        [sys.executable, "-c", LATE.format(early=early)],
        env={**os.environ, "NUMBA_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sorted(lines) == [f"{who} {{1.1015625}} 2.71875" for who in ("atexit", "thread")]


def fresh_pool(monkeypatch, threads):
    """A pool of our own for calls that use so many threads."""
    pool = launching._Pool()
    monkeypatch.setattr(launching, "_pool", pool)
    monkeypatch.setattr(launching, "thread_count", lambda: threads)
    return pool


def test_where_no_thread_can_be_started_a_call_does_all_by_itself(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    pool = fresh_pool(monkeypatch, 4)
    monkeypatch.setattr(threading.Thread, "start", start)
    done = []
    launching.run(lambda start, stop: done.append((start, stop)), 64)
    assert [stop for _, stop in done] == list(range(4, 65, 4))
    assert pool.start(done.clear, 3) == []


def test_nobody_waits_for_threads_that_have_not_begun(monkeypatch):
    """A call whose threads are all busy elsewhere ends all the same, and they do nothing later."""
    pool = fresh_pool(monkeypatch, 4)
    free, done = threading.Event(), []
    busy = pool.start(lambda: free.wait(60), 3)
    launching.run(lambda start, stop: done.append((start, stop)), 64)
    ended_first = not free.is_set()
    free.set()
    assert [share.end() for share in busy] == [None] * 3
    last = pool.start(lambda: None, 3)  # is taken after what was left
    while not all(share._work is None for share in last):
        time.sleep(0.001)
    assert ended_first
    assert [stop for _, stop in done] == list(range(4, 65, 4))


def test_what_goes_wrong_in_another_thread_is_raised_when_all_have_ended(monkeypatch):
    fresh_pool(monkeypatch, 4)
    together, ended = threading.Barrier(4, timeout=60), []

    def piece(start, stop):
        if start < 16:  # a piece for each thread
            together.wait()
        if threading.current_thread() is not caller:
            time.sleep(0.01)
            ended.append(start)
            raise ValueError(f"piece {start}")

    caller = threading.current_thread()
    with pytest.raises(ValueError, match="piece "):
        launching.run(piece, 64)
    assert len(ended) == 3


def test_after_an_interruption_no_thread_goes_on(monkeypatch):
    fresh_pool(monkeypatch, 2)
    both, done = threading.Barrier(2, timeout=60), []

    def piece(start, stop):
        done.append(start)
        if start < 16:
            both.wait()
            if threading.current_thread() is caller:
                raise KeyboardInterrupt
            time.sleep(0.2)  # until the caller clears the pieces

    caller = threading.current_thread()
    with pytest.raises(KeyboardInterrupt):
        launching.run(piece, 64)
    assert sorted(done) == [0, 8]


@pytest.mark.parametrize("wrong", [False, True])
def test_arrays_are_let_go_when_a_call_has_ended(monkeypatch, wrong):
    """The thread that has helped keeps nothing until it helps again, be it in a traceback."""
    fresh_pool(monkeypatch, 2)
    array, both = np.zeros(8), threading.Barrier(2, timeout=60)
    held, caller = weakref.ref(array), threading.current_thread()

    def piece(start, stop, x):
        if start < 16:
            both.wait()
        if wrong and threading.current_thread() is not caller:
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong") if wrong else contextlib.nullcontext():
        launching.run(piece, 64, array)
    del array
    for _ in range(1000):
        gc.collect()
        if held() is None:
            return
        time.sleep(0.001)
    raise AssertionError("a thread still holds the array")


@pytest.mark.parametrize(
    ("cost", "threads"), [(0.0, 1), (1e5, 1), (5e5, 1), (7e5, 2), (1e6, 3), (1e9, 4), (1e20, 4)]
)
def test_as_many_threads_work_as_it_is_worth(monkeypatch, cost, threads):
    monkeypatch.setattr(launching, "thread_count", lambda: 4)
    assert launching.threads_for(cost) == threads
    assert launching.pieces_for(cost) == (1 if threads == 1 else 4 * threads)


def test_a_call_waits_for_threads_that_have_begun(monkeypatch):
    """The last piece is done when the call returns, whoever has taken it."""
    monkeypatch.setattr(launching, "thread_count", lambda: 2)
    both, done = threading.Barrier(2, timeout=60), []

    def piece(start, stop):
        if start < 16:  # the first two pieces are taken by two threads
            both.wait()
        if threading.current_thread() is not caller:
            ended.wait(0.05)
        done.append((start, stop))

    caller, ended = threading.current_thread(), threading.Event()
    launching.run(piece, 64)
    assert sorted(stop for _, stop in done) == list(range(8, 65, 8))


@pytest.mark.skipif(
    platform.machine() not in UPWARD, reason="the C library's constant is not known"
)
def test_a_block_within_another_mends_what_was_changed_between():
    rounding = ctypes.CDLL(None).fesetround, ctypes.CDLL(None).fegetround
    tiny = [2.0**-60]  # no constant of the compiler
    with launching.default_environment():
        rounding[0](UPWARD[platform.machine()])
        assert 1.0 + tiny[0] > 1.0
        with launching.default_environment():
            assert rounding[1]() == 0
            assert 1.0 + tiny[0] == 1.0
            with launching.default_environment(), np.errstate(all="raise"):
                assert rounding[1]() == 0
        assert 1.0 + tiny[0] > 1.0
        rounding[0](0)
    assert np.geterr()["divide"] == "warn"


def test_a_decorated_function_may_call_itself_and_others_may_while_it_runs():
    begun, proceed = threading.Event(), threading.Event()

    @launching.default_environment()
    def factorial(n):
        begun.set()
        assert proceed.wait(20)
        return n * factorial(n - 1) if n else 1

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(factorial, n) for n in (5, 3)]
        assert begun.wait(20)
        proceed.set()
        assert [result.result() for result in results] == [120, 6]
    assert np.geterr()["divide"] == "warn"


def test_numba_told_not_to_compile_is_an_import_error_that_says_so():
    done = subprocess.run(
        [sys.executable, "-c", "import fpemu"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ImportError: fpemu is made of kernels" in done.stderr
    assert "unset NUMBA_DISABLE_JIT" in done.stderr


@pytest.mark.parametrize("home", [None, "/dev/null/home", "."], ids=str)
def test_without_a_home_kernels_are_compiled_in_memory_with_one_warning(home, tmp_path):
    script = "import fpemu; print(fpemu.encode(1.0, 'float16'))"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HOME", "XDG", "NUMBA"))}
    environment = kept | ({} if home is None else {"HOME": home})
    environment |= {"PYTHONPATH": str(Path(launching.__file__).parents[2])}
    if home is None:  # of a user whom nobody knows
        script = f"import os, pwd; pwd.getpwuid = {{}}.__getitem__; {script}"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "15360\n"), done.stderr
    assert done.stderr.count("RuntimeWarning") == 1
    assert "NUMBA_CACHE_DIR" in done.stderr
    assert list(tmp_path.iterdir()) == []
