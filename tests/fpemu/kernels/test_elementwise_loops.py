"""The two loops of elementwise arithmetic: the quick one does what the exact one does."""

import functools

import numpy as np
import pytest

import fpemu
from fpemu import arithmetic
from fpemu._kernels import arithmetic as kernels
from fpemu._kernels import launching
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits
from tests.oracle.points import MODES

FORMATS = ("bfloat16", "float16", "float8_e4m3fn", "e8m21", "e8m22", "float32")
OVERFLOWS = ("ieee", "saturate", "infinity")
OPERATIONS = {"add": 2, "subtract": 2, "multiply": 2, "divide": 2, "sqrt": 1, "fma": 3}
LIMITS = (0.0, 1.0, 3.0, 1e-45, 2.0**-126, 2.0**-133, 448.0, 464.0, 65504.0, 65520.0, 2.0**103)
LIMITS += (2.0**110, 2.0**111, 2.0**119, 2.0**126, 3.3895314e38, 3.4028235e38, np.inf, np.nan)


def bits(words):
    return np.asarray(words, np.uint32).view(np.float32)


@functools.cache
def operands():
    """Triples of float32 numbers: any, at ties and beside them, at limits, small, canceling."""
    generator = np.random.default_rng(19)
    count = 500
    groups = [bits(generator.integers(0, 2**32, (3, count)))]
    for dropped in (1, 2, 8, 13, 16, 20):
        kept = generator.integers(0, 2 ** (32 - dropped), count) << dropped
        tie = bits(kept | 2 ** (dropped - 1))
        smaller = generator.choice([-1, 0, 1], count) * 2.0 ** -generator.integers(20, 60, count)
        any_size = generator.choice([-1, 1], count) * 2.0 ** generator.integers(-149, 127, count)
        with np.errstate(all="ignore"):
            beside = tie * smaller.astype(np.float32)
        groups.append(np.stack([tie, beside, any_size.astype(np.float32)]))
    limits = np.array([*LIMITS, *(-x for x in LIMITS)], np.float32)
    groups.append(np.stack([side.ravel() for side in np.meshgrid(limits, limits, limits[::5])]))
    groups.append((generator.integers(-(2**24), 2**24, (3, count)) * 2.0**-149).astype(np.float32))
    ordinary = generator.standard_normal((2, count)).astype(np.float32)
    with np.errstate(all="ignore"):
        groups.append(np.stack([*ordinary, -ordinary[0] * ordinary[1]]))
    triples = np.concatenate(groups, axis=1)
    return np.where(np.isnan(triples), np.float32(np.nan), triples)  # no signaling ones


@pytest.fixture
def by_the_exact_loop(monkeypatch):
    """A function that computes something without the first loop."""

    def run(compute):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "_first_loop", lambda *given: (kernels._NOTHING, given[-1]))
            kernels._plan.cache_clear()
            result = compute()
        kernels._plan.cache_clear()
        return result

    return run


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_first_loop_computes_what_the_exact_one_does(operation, dtype, by_the_exact_loop):
    function, given = getattr(fpemu, operation), operands()[: OPERATIONS[operation]]
    wide = given.astype(np.float64)
    if dtype == np.float64:  # near the ends of where errors of float64 operations are known
        given = wide = np.ldexp(wide, np.resize([0, -450, 450, -900, 800], wide.shape[1]))
    for name in (*FORMATS, "e11m49") if dtype == np.float64 else FORMATS:
        for mode in MODES:
            for overflow in OVERFLOWS if mode in ("rne", "rtn") else OVERFLOWS[:1]:
                rounding = fpemu.Rounding(mode, overflow)
                exact = by_the_exact_loop(functools.partial(function, *wide, name, rounding))
                expected = exact.astype(dtype)
                same_words(function(*given, name, rounding), expected, (name, mode, overflow))


def same_words(actual, expected, about=""):
    """Equal bits, those of NaN included."""
    unsigned = actual.dtype.str.replace("f", "u")
    assert actual.dtype == expected.dtype
    wrong = np.flatnonzero(actual.view(unsigned) != expected.view(unsigned))
    assert not wrong.size, (
        about,
        wrong[:5],
        actual.ravel()[wrong[:5]],
        expected.ravel()[wrong[:5]],
    )


def test_the_first_loop_serves_what_it_is_meant_for():
    # Else the test before compares the exact loop with itself.
    narrow, wide = np.dtype(np.float32), np.dtype(np.float64)
    for mode in MODES:
        how = fpemu.Rounding(mode)
        for name in ("bfloat16", "float16", "e8m3", "float8_e4m3fn", "float8_e5m2"):
            format = fpemu.format(name)
            for operation in (kernels.MULTIPLY, kernels.DIVIDE, kernels.SQRT, kernels.FMA):
                assert kernels._first_loop(operation, format, how, narrow) == (kernels._WIDE, wide)
            assert kernels._first_loop(kernels.ADD, format, how, narrow) == (kernels._OWN, narrow)
            assert kernels._first_loop(kernels.ADD, format, how, wide) == (kernels._OWN, wide)
    for dtype in (narrow, wide):
        own, nearest = fpemu.format(dtype.name), fpemu.Rounding()
        for operation in range(5):
            assert kernels._first_loop(operation, own, nearest, dtype)[0] == kernels._PROCESSOR


LAYOUTS = {
    "bias": lambda x: (x(300, 70), x(70)),
    "row scales": lambda x: (x(300, 70), x(300, 1)),
    "heads": lambda x: (x(5, 40, 50), x(40, 50)),
    "rows of heads": lambda x: (x(5, 40, 50), x(5, 1, 50)),
    "outer": lambda x: (x(300, 1), x(1, 70)),
    "scalar": lambda x: (x(300, 70), x()),
    "one element": lambda x: (x(1, 1), x(300, 70)),
    "transposed": lambda x: (x(70, 300).T, x(300, 70)),
    "both transposed": lambda x: (x(70, 300).T, x(70, 300).T),
    "every third": lambda x: (x(300, 210)[:, ::3], x(600, 70)[::2]),
    "backward": lambda x: (x(300, 70)[::-1], x(300, 70)[:, ::-1]),
    "short rows": lambda x: (x(5000, 5), x(5)),
    "four axes": lambda x: (x(6, 5, 40, 20), x(6, 1, 40, 1)),
    "axes swapped": lambda x: (x(5, 40, 6, 20).swapaxes(1, 2), x(20)),
    "one block and a bit": lambda x: (x(3, 2049), x(3, 1)),
}


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
@for_each("layout", LAYOUTS)
def test_no_layout_of_operands_matters(layout, name):
    generator = np.random.default_rng(3)

    def array(*shape):
        numbers = generator.standard_normal(shape).astype(np.float32)
        return np.where(generator.random(shape) < 0.001, np.float32(np.inf), numbers)

    a, b = (np.asarray(x) for x in LAYOUTS[layout](array))
    kept = a.copy(), b.copy()
    plain = [np.ascontiguousarray(x) for x in np.broadcast_arrays(a, b)]
    for function in (fpemu.subtract, fpemu.divide):
        same_words(function(a, b, name), function(*plain, name), layout)
    same_words(fpemu.fma(a, b, b, name), fpemu.fma(*plain, plain[1], name), layout)
    assert_same_bits(a, kept[0])
    assert_same_bits(b, kept[1])


def test_ordinary_broadcasts_are_not_copied():
    for layout in LAYOUTS:
        a, b = LAYOUTS[layout](lambda *shape: np.ones(shape, np.float32))
        made = arithmetic._broadcast(
            [a, np.asarray(b)], np.broadcast_shapes(a.shape, np.shape(b)), a.dtype, False
        )
        copied = layout in ("backward", "short rows", "four axes", "axes swapped")
        shared = [np.shares_memory(x, y) for x, y in zip(made.arrays, (a, b), strict=False)]
        assert all(shared) != copied, layout


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_threads_do_not_matter(name, monkeypatch):
    a, b = np.random.default_rng(4).standard_normal((2, 300_001)).astype(np.float32)
    results = []
    for threads in (1, 2, 4):
        monkeypatch.setattr(launching, "thread_count", lambda threads=threads: threads)
        results.append(fpemu.add(a, b, name))
    same_words(results[0], results[1])
    same_words(results[0], results[2])


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float32"])
def test_a_result_may_replace_an_operand(name):
    a, b = np.random.default_rng(5).standard_normal((2, 5000)).astype(np.float32)
    a[::700], b[1::700] = np.inf, np.nan
    expected = fpemu.subtract(a, b, name), fpemu.subtract(b, a, name)
    out = a.copy()
    assert fpemu.subtract(out, b, name, out=out) is out
    same_words(out, expected[0])
    out = a.copy()
    fpemu.subtract(b, out, name, out=out)
    same_words(out, expected[1])
    moved = np.append(a, np.float32(0))  # each element of the result over the operand of the next
    fpemu.subtract(moved[:-1], b, name, out=moved[1:])
    same_words(moved[1:], expected[0])


def test_an_overflow_to_nan_has_no_sign():
    big = np.full(5000, -3e4, np.float32)
    for result in (
        fpemu.add(big, big, "float8_e4m3fn"),
        fpemu.multiply(big, -big, "float8_e4m3fn"),
    ):
        same_words(result, np.full(5000, np.nan, np.float32))
