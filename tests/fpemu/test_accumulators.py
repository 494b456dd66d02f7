"""Inner products and matrix products against the step-by-step oracle, bit for bit."""

import ctypes
import ctypes.util
import dataclasses
import functools
import itertools
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fpemu
from fpemu import formats, linalg
from fpemu._kernels import launching
from fpemu.reference import round_exact
from tests.cases import for_each
from tests.oracle.accumulators import blocked, sequential
from tests.oracle.bits import assert_same_bits, differences
from tests.oracle.flushing import under_flush_to_zero
from tests.oracle.forking import holds_after_fork
from tests.oracle.matrices import sequential_matrix
from tests.oracle.points import MODES, SOME_MODES, UNUSUAL, label
from tests.oracle.rounding import rounded
from tests.threads import on_threads

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=300)

NAMES = (
    "e8m2 e8m4 bfloat16 e8m10 e8m22 float32 float16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz "
    "binary8p4se e11m20 float64"
)
FORMATS = [*map(formats.format, NAMES.split()), UNUSUAL[0]]
DTYPES = for_each("dtype", [np.float32, np.float64])
FUSED = for_each("fused", [True, False])
VIA = for_each("via", [None, "float32"])


def result_dtype(a, b, format):
    both_narrow = np.asarray(a).dtype == np.asarray(b).dtype == np.float32
    return format.carrier if both_narrow else np.dtype(np.float64)


def matrix_product(a, b, inner_product):
    """The matrix of ``inner_product(row, column)`` for Python floats."""
    columns = b.T.tolist()
    return np.array([[inner_product(row, column) for column in columns] for row in a.tolist()])


def assert_is_sequential(a, b, format, mode="rne", overflow="ieee", **options):
    rounding = fpemu.Rounding(mode, overflow)
    accumulator = fpemu.Sequential(format, rounding, **options)
    expected = sequential_matrix(a, b, format, rounding, **options)
    actual = fpemu.matmul(a, b, accumulator)
    assert actual.dtype == result_dtype(a, b, formats.format(format))
    assert_same_bits(actual, expected, about=(str(format), mode, options))
    column = expected.shape[1] // 2
    single = fpemu.dot(a[-1], b[:, column], accumulator)
    assert_same_bits(single, expected[-1, column], about=(str(format), mode, options, "dot"))


def assert_is_sequential_in_every_mode(a, b, format, **options):
    for mode in MODES:
        assert_is_sequential(a, b, format, mode, **options)


def spread(generator, shape, exponents, dtype):
    """Random numbers of both signs with exponents in a range."""
    significands = generator.uniform(1, 2, shape) * generator.choice([-1, 1], shape)
    with np.errstate(all="ignore"):
        return np.ldexp(significands, generator.integers(*exponents, shape)).astype(dtype)


@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_the_oracle_of_matrices_is_that_of_inner_products(format):
    """Formats, modes, operands and options take turns."""
    generator = np.random.default_rng(19)
    options = itertools.cycle(
        [{}, {"fused": False}, {"via": "float32"}, {"fused": False, "product": "e8m4"}]
    )
    overflows = itertools.cycle(["ieee", "saturate", "ieee", "propagate", "infinity"])
    low = format.quantum_exponent // 2 - 2
    for mode, dtype in itertools.product(MODES, (np.float32, np.float64)):
        for exponents in ((-2, 2), (low, low + 9), (low, max(format.emax // 2, low + 2))):
            a = spread(generator, (2, 5), exponents, dtype)
            b = spread(generator, (5, 7), exponents, dtype)
            b[:, 5:] = generator.choice([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan], (5, 2))
            way, rounding = next(options), fpemu.Rounding(mode, next(overflows))
            oracle = functools.partial(sequential, format=format, rounding=rounding, **way)
            expected = matrix_product(a, b, oracle)
            assert_same_bits(sequential_matrix(a, b, format, rounding, **way), expected, about=way)


# Random and crafted vectors


@DTYPES
@FUSED
@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_random_products_are_rounded_step_by_step(format, fused, dtype):
    generator = np.random.default_rng(20)
    a, b = spread(generator, (3, 12), (-2, 2), dtype), spread(generator, (12, 19), (-2, 2), dtype)
    assert_is_sequential_in_every_mode(a, b, format, fused=fused)


@DTYPES
@FUSED
@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_products_of_huge_spread_are_rounded_step_by_step(format, fused, dtype):
    generator = np.random.default_rng(21)
    # The exponents of the products go from far below the smallest number to the largest.
    low = max(format.quantum_exponent, np.finfo(dtype).minexp) // 2 - 5
    exponents = low, min(format.emax, np.finfo(dtype).maxexp - 1) // 2 + 1
    a, b = spread(generator, (3, 8), exponents, dtype), spread(generator, (8, 19), exponents, dtype)
    assert_is_sequential_in_every_mode(a, b, format, fused=fused)


def crafted(format, dtype, scale):
    """Rows and columns whose inner products end on ties of a format, or next to them.

    A column starts with a number of full precision, to which the second entry adds half a unit in
    its last place.  What the rows and the entries deviate from 1 and from that half decides the
    direction; the smallest deviation of a product is the square of the dtype's unit, too little for
    any ordinary addition to see.  All products are scaled by ``2**scale``.
    """
    p = format.precision
    unit = float(np.finfo(dtype).eps)
    # (1 + g + h) * (1 - g + h) = 1 + h**2 when g**2 = 2 * h.
    g, h = (2.0**-11, 2.0**-23) if dtype == np.float32 else (2.0**-25, 2.0**-51)
    rows = [
        [1, 1, 1, 1],
        [-1, -1, -1, 1],
        [1, 1 + unit, 1, 1 + unit],
        [1, 1 + g + h, 1, 1],
    ]
    half = 2.0**-p
    deviations = [1, 1 - unit, 1 + unit, 1 - g + h, 1 + 2.0 ** (p - 24), 1 - 2.0 ** (p - 24), 0.5]
    columns = []
    for start in (1.0, 1 + 2 * half, 2 - 2 * half):
        for deviation, sign in itertools.product(deviations, (1, -1)):
            index = len(columns)
            third = (0.0, -start, half, -half * deviation, 2.0**-60 * sign)[index % 5]
            fourth = (-0.0, half, 0.0, -start)[index % 4]
            columns.append([start, sign * half * deviation, third, fourth])
    row_scale = scale // 2
    a = np.ldexp(np.array(rows, np.float64), row_scale)
    b = np.ldexp(np.array(columns).T, scale - row_scale)
    with np.errstate(all="ignore"):
        return a.astype(dtype), b.astype(dtype)


@DTYPES
@FUSED
@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_ties_and_what_is_next_to_them_are_told_apart(format, fused, dtype):
    quantum = format.quantum_exponent
    scales = [0, quantum, format.emin, quantum - 1, format.emin - 1, format.emax]
    products = [crafted(format, dtype, scale) for scale in scales]
    for number, mode in enumerate(MODES):
        # All with what float64 holds and one rounding a step, else two of them, in turn.
        all_of_them = fused and dtype == np.float64
        for a, b in products if all_of_them else products[number % 3 :: 3]:
            assert_is_sequential(a, b, format, mode, fused=fused)


@DTYPES
@FUSED
@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_a_product_that_is_a_tie_goes_where_a_tiny_accumulator_pulls_it(format, fused, dtype):
    half = 2.0**-format.precision
    exponents = sorted({format.emin, format.quantum_exponent, format.emin // 2, -1})
    columns = [
        [start * 2.0**exponent, tie]
        for start in (1, -1, 0)
        for exponent in exponents
        for tie in (1 + half, 1 + 3 * half, 2 - half)
    ]
    b = np.array(columns).T.astype(dtype)
    assert_is_sequential_in_every_mode(
        np.array([[1, 1], [1, -1], [-1, 1]], dtype), b, format, fused=fused
    )


@DTYPES
@for_each("mode", MODES)
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float32", "e11m20"])
def test_overflow_saturates_at_every_step_when_asked_to(name, mode, dtype):
    format = formats.format(name)
    a, b = crafted(format, dtype, format.emax)
    assert_is_sequential(a, b, format, mode, "saturate")
    a = np.array([[1, 1, 1, np.inf], [1, 1, -1, -np.inf]], dtype)
    assert_is_sequential(a, np.abs(b) + 1, format, mode, "saturate")


@DTYPES
@FUSED
@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_exceptional_operands_follow_ieee_754(format, fused, dtype):
    info = np.finfo(dtype)
    extremes = [info.max, info.smallest_subnormal, info.smallest_normal]
    scales = [format.max_finite, format.smallest_subnormal, 1.0, 0.0, np.inf]
    with np.errstate(over="ignore"):
        magnitudes = np.array([*extremes, *scales], dtype)
    values = np.concatenate([magnitudes, -magnitudes, [np.nan]]).astype(dtype)
    generator = np.random.default_rng(22)
    # A quarter of the operands are from the list; otherwise nearly every result would be NaN.
    a, b = generator.choice([1.0, -1.0, 0.0], (4, 5)), generator.choice([1.0, -2.0], (5, 23))
    for array in (a, b):
        chosen = generator.random(array.shape) < 0.25
        array[chosen] = generator.choice(values, np.count_nonzero(chosen))
    assert_is_sequential_in_every_mode(a.astype(dtype), b.astype(dtype), format, fused=fused)


@DTYPES
@FUSED
@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_exact_zeros_have_the_sign_of_ieee_754(format, fused, dtype):
    a = np.array([[1, 1, 1], [-1, -1, -1], [-0.0, 0.0, -0.0], [1, -1, 0]], dtype)
    columns = list(itertools.product([0.0, -0.0, 1.0, -1.0], repeat=3))
    assert_is_sequential_in_every_mode(a, np.array(columns, dtype).T, format, fused=fused)


@DTYPES
@VIA
@for_each("mode", SOME_MODES)
@pytest.mark.parametrize("product", ["float32", "e8m4", "float8_e4m3fn", "float64"])
def test_a_format_for_the_products_is_a_rounding_before_the_sum(product, mode, via, dtype):
    generator = np.random.default_rng(23)
    a, b = spread(generator, (2, 10), (-3, 3), dtype), spread(generator, (10, 17), (-3, 3), dtype)
    for name in ("bfloat16", "e8m10", "float32", "e11m20"):
        assert_is_sequential(a, b, name, mode, fused=False, product=product, via=via)


@DTYPES
@FUSED
@for_each("mode", SOME_MODES)
@pytest.mark.parametrize("name", ["e8m4", "bfloat16", "e8m10", "float16", "float8_e4m3fn"])
def test_via_rounds_twice(name, mode, fused, dtype):
    format = formats.format(name)
    for scale in (0, format.quantum_exponent, format.emax):
        a, b = crafted(format, dtype, scale)
        assert_is_sequential(a, b, format, mode, fused=fused, via="float32")


def test_via_and_once_differ_where_the_first_rounding_makes_a_tie():
    # 1 + 2**-8 + 2**-25: float32 loses the last bit, and the tie goes down to even.
    a = np.array([1.0, 1.0], np.float32)
    b = np.array([1.0, 2.0**-8 + 2.0**-25], np.float32)
    assert fpemu.dot(a, b, fpemu.Sequential("bfloat16")) == 1 + 2.0**-7
    assert fpemu.dot(a, b, fpemu.Sequential("bfloat16", via="float32")) == 1.0


def test_a_residual_below_float64_decides_a_tie():
    # The product is 2**-8 * (1 -+ 2**-46), and float64 sees 1 + 2**-7 plus it as a tie.
    above = fpemu.dot(
        np.array([1 + 2.0**-7, 1 + 2.0**-11 + 2.0**-23], np.float32),
        np.array([1, 2.0**-8 * (1 - 2.0**-11 + 2.0**-23)], np.float32),
        fpemu.Sequential("bfloat16", "rnz"),
    )
    assert above == 1 + 2.0**-6
    below = fpemu.dot(
        np.array([1 + 2.0**-7, 1 + 2.0**-23], np.float32),
        np.array([1, 2.0**-8 * (1 - 2.0**-23)], np.float32),
        fpemu.Sequential("bfloat16"),
    )
    assert below == 1 + 2.0**-7


def test_products_that_float64_cannot_hold_are_exact():
    a, b = [1e300, 1e300, 1.0], [1e300, -1e300, 1.0]
    # Fused, the first sum overflows, but the second product is a finite number.
    assert fpemu.dot(a, b, fpemu.Sequential("float64")) == math.inf
    assert math.isnan(fpemu.dot(a, b, fpemu.Sequential("float64", fused=False)))
    bounded = fpemu.Sequential("float64", fpemu.Rounding("rtz"))
    assert fpemu.dot([1e300, 1e300], [1e300, -1e300], bounded) == -np.finfo(np.float64).max
    cancelled = fpemu.dot([2.0**700] * 2, [2.0**323, -(2.0**323)], fpemu.Sequential("float64"))
    assert_same_bits(cancelled, 0.0)
    a, b = [1e200, -1e200], [1e108, 1e108]
    residual = fpemu.dot(a, b, fpemu.Sequential("float64"))
    assert residual == sequential(a, b, "float64") != 0
    upward = fpemu.Sequential("float64", "rtp")
    assert fpemu.dot([1.0, 1e-300], [1.0, 1e-300], upward) == 1 + 2.0**-52
    assert fpemu.dot([5e-324], [5e-324], upward) == 5e-324
    downward = fpemu.Sequential("float64", "rtn")
    assert fpemu.dot([1.0, 1e-300], [1.0, -1e-300], downward) == 1 - 2.0**-53
    assert fpemu.dot([5e-324], [5e-324], downward) == 0.0
    # The product is 2**-1074 * (1/2 + 2**-53), just above half the smallest number.
    half = fpemu.dot([2.0**-1022 * (1 + 2.0**-52)], [2.0**-53], fpemu.Sequential("float64"))
    assert half == 5e-324
    assert fpemu.dot([2.0**-1022], [2.0**-53], fpemu.Sequential("float64")) == 0.0


def test_float32_extremes_survive():
    tiny = np.array([2.0**-149, 2.0**-149], np.float32)
    assert_same_bits(fpemu.dot(tiny, tiny, fpemu.Sequential("float32")), 0.0)
    assert fpemu.dot(tiny, tiny, fpemu.Sequential("float32", "rtp")) == 2.0**-148
    assert fpemu.dot(tiny, tiny, fpemu.Sequential("float64")) == 2.0**-297
    big = np.array([2.0**127, 2.0**127, 2.0**127], np.float32)
    signs = np.array([1, 1, -1], np.float32)
    assert fpemu.dot(big, signs, fpemu.Sequential("float32")) == np.inf
    assert fpemu.dot(big, signs, fpemu.Sequential("float64")) == 2.0**127
    saturating = fpemu.Sequential("float32", fpemu.Rounding(overflow="saturate"))
    assert fpemu.dot(big, signs, saturating) == np.finfo(np.float32).max - np.float32(2.0**127)
    # A product beyond float32 that the sum brings back is no overflow.
    assert (
        fpemu.dot(
            np.array([2.0**127, 2.0**126, 2.0**64], np.float32),
            np.array([-1, -1, 2.0**64], np.float32),
            fpemu.Sequential("float32"),
        )
        == 2.0**126
    )
    unfused = fpemu.Sequential("float32", fused=False)
    assert fpemu.dot(big[:2], np.array([-1, 2], np.float32), unfused) == np.inf


def test_once_nan_always_nan():
    ones = np.ones(4, np.float32)
    for accumulator in (
        fpemu.Sequential("bfloat16"),
        fpemu.Sequential("bfloat16", "rtz", fused=False),
        fpemu.Sequential("float8_e4m3fn", fpemu.Rounding("rne", "saturate")),
        fpemu.Blocked("bfloat16", 2),
    ):
        for operand in ([np.nan, 1, 1, 1], [1, np.nan, 1, 1]):
            assert np.isnan(fpemu.dot(np.array(operand, np.float32), ones, accumulator))
    # Overflow into a format that has no infinity.
    overflowing = np.array([400, 400, -400, -400], np.float32)
    assert np.isnan(fpemu.dot(overflowing, ones, fpemu.Sequential("float8_e4m3fn")))


@repeatable
@given(
    pairs=st.lists(st.tuples(*2 * [st.floats(width=32)]), max_size=6),
    format=st.sampled_from(FORMATS),
    mode=st.sampled_from(MODES),
    fused=st.booleans(),
    via=st.sampled_from([None, "float32", "e11m30"]),
    single=st.booleans(),
)
def test_any_inner_product_is_that_of_the_definition(pairs, format, mode, fused, via, single):
    a, b = np.array(pairs, np.float32 if single else np.float64).reshape(-1, 2).T
    accumulator = fpemu.Sequential(format, mode, fused=fused, via=via)
    expected = sequential(a.tolist(), b.tolist(), format, mode, fused=fused, via=via)
    assert_same_bits(fpemu.dot(a, b, accumulator), expected)


@repeatable
@given(
    pairs=st.lists(st.tuples(*2 * [st.floats(width=64)]), max_size=6),
    format=st.sampled_from(FORMATS),
    mode=st.sampled_from(MODES),
    fused=st.booleans(),
)
def test_any_inner_product_of_doubles_is_that_of_the_definition(pairs, format, mode, fused):
    a, b = np.array(pairs).reshape(-1, 2).T
    expected = sequential(a.tolist(), b.tolist(), format, mode, fused=fused)
    assert_same_bits(fpemu.dot(a, b, fpemu.Sequential(format, mode, fused=fused)), expected)


@pytest.mark.parametrize("name", ["float4_e2m1fn", "float6_e3m2fn", "e8m0", "binary8p1se"])
@for_each("mode", MODES)
def test_the_smallest_formats_accumulate_too(name, mode):
    generator = np.random.default_rng(24)
    a = generator.choice([0.5, 1.0, -1.5, 3.0], (3, 9)).astype(np.float32)
    b = generator.choice([0.25, -1.0, 1.5, 6.0], (9, 17)).astype(np.float32)
    assert_is_sequential(a, b, name, mode)
    assert_is_sequential(a, b, name, mode, fused=False)


# Long sums


@pytest.mark.parametrize("name", ["e8m4", "bfloat16", "float32", "float16", "e11m20", "float64"])
def test_long_sums_are_rounded_step_by_step(name):
    generator = np.random.default_rng(25)
    for dtype, length in ((np.float32, 2000), (np.float64, 1037)):
        a, b = generator.standard_normal((2, length)).astype(dtype)
        for mode in ("rne", "rtz", "rto"):
            expected = sequential(a.tolist(), b.tolist(), name, mode)
            assert_same_bits(fpemu.dot(a, b, fpemu.Sequential(name, mode)), expected)


def test_long_sums_stagnate_as_they_do_in_the_format():
    ones = np.ones(1000, np.float32)
    assert fpemu.dot(ones, ones, fpemu.Sequential("bfloat16")) == 256
    assert fpemu.dot(ones, ones, fpemu.Sequential("e8m4")) == 32
    assert fpemu.dot(ones, ones, fpemu.Sequential("float8_e4m3fn", "rtp")) != 16
    assert fpemu.dot(ones, ones, fpemu.Blocked("bfloat16", 100)) == 1000
    assert fpemu.dot(ones, ones, fpemu.Sequential("float32")) == 1000


def _library_fma(name, kind):
    path = ctypes.util.find_library("m")
    if path is None:
        pytest.skip("no C math library was found")
    function = getattr(ctypes.CDLL(path), name)
    function.restype, function.argtypes = kind, [kind] * 3
    return function


@pytest.mark.parametrize(
    ("name", "function", "kind"),
    [("float32", "fmaf", ctypes.c_float), ("float64", "fma", ctypes.c_double)],
)
def test_fused_rne_in_a_native_format_is_a_chain_of_the_c_librarys_fma(name, function, kind):
    fma = _library_fma(function, kind)
    generator = np.random.default_rng(26)
    for low, high in ((-2, 3), (-70, 60)):
        a = spread(generator, (5, 300), (low, high), name)
        b = spread(generator, (300, 7), (low, high), name)
        expected = np.zeros((5, 7), name)
        for i, j in np.ndindex(5, 7):
            accumulator = 0.0
            for x, y in zip(a[i].tolist(), b[:, j].tolist(), strict=True):
                accumulator = fma(x, y, accumulator)
            expected[i, j] = accumulator
        assert_same_bits(fpemu.matmul(a, b, fpemu.Sequential(name)), expected)


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
def test_unfused_rne_in_a_native_format_is_numpys_arithmetic(name):
    generator = np.random.default_rng(27)
    a = spread(generator, (5, 100), (-4, 3), name)
    b = spread(generator, (100, 7), (-4, 3), name)
    expected = np.zeros((5, 7), name)
    for k in range(100):
        expected = expected + a[:, k : k + 1] * b[k]
    accumulator = fpemu.Sequential(name, fused=False)
    assert_same_bits(fpemu.matmul(a, b, accumulator), expected)


def test_via_float32_in_bfloat16_is_an_fma_and_ml_dtypes_conversion():
    fma = _library_fma("fmaf", ctypes.c_float)
    generator = np.random.default_rng(28)
    a, b = generator.standard_normal((2, 500)).astype(np.float32)
    accumulator = np.float32(0)
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        step = np.float32(fma(x, y, float(accumulator)))
        accumulator = step.astype(ml_dtypes.bfloat16).astype(np.float32)
    actual = fpemu.dot(a, b, fpemu.Sequential("bfloat16", via="float32"))
    assert_same_bits(actual, accumulator)


# Blocks


@DTYPES
@for_each("mode", SOME_MODES)
@pytest.mark.parametrize("block", [1, 2, 3, 8, 13, 40])
def test_blocks_are_summed_apart_and_then_added(block, mode, dtype):
    generator = np.random.default_rng(29)
    for exponents in ((-2, 2), (-60, 60)):
        a = spread(generator, (2, 13), exponents, dtype)
        b = spread(generator, (13, 11), exponents, dtype)
        for name, inner in (
            ("e8m4", "float32"),
            ("bfloat16", "e8m10"),
            ("float32", "float64"),
            ("e11m20", "float32"),
            ("float64", "bfloat16"),
        ):
            accumulator = fpemu.Blocked(name, block, inner, mode)
            expected = matrix_product(
                a,
                b,
                functools.partial(blocked, format=name, block=block, inner=inner, rounding=mode),
            )
            actual = fpemu.matmul(a, b, accumulator)
            assert actual.dtype == result_dtype(a, b, formats.format(name))
            assert_same_bits(actual, expected, about=(name, inner))
            single = fpemu.dot(a[0], b[:, 3], accumulator)
            assert_same_bits(single, expected[0, 3], about=(name, inner, "dot"))


@pytest.mark.parametrize("mode", SOME_MODES)
def test_block_sums_on_ties_and_exceptional_ones_are_added_exactly(mode):
    for name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz"):
        format = formats.format(name)
        for scale in (0, format.quantum_exponent, format.emax):
            a, b = crafted(format, np.float32, scale)
            b[2, 5], b[1, 6], b[0, 7], b[2, 8] = np.inf, -np.inf, np.nan, -np.inf
            for block in (1, 2, 3):
                oracle = functools.partial(blocked, format=name, block=block, rounding=mode)
                expected = matrix_product(a, b, oracle)
                accumulator = fpemu.Blocked(name, block, rounding=mode)
                assert_same_bits(fpemu.matmul(a, b, accumulator), expected, about=(name, block))


def test_one_block_is_one_rounding_of_the_inner_sum():
    generator = np.random.default_rng(30)
    a, b = generator.standard_normal((2, 50)).astype(np.float32)
    inner = fpemu.dot(a, b, fpemu.Sequential("float32"))
    for block in (50, 51, 1000):
        blocks = fpemu.Blocked("e8m4", block, "float32", "rna")
        assert_same_bits(fpemu.dot(a, b, blocks), fpemu.round(inner, "e8m4", "rna"))


def test_blocks_of_one_round_the_product_in_the_inner_format():
    generator = np.random.default_rng(31)
    a, b = generator.standard_normal((2, 50)).astype(np.float32)
    blocks = fpemu.Blocked("e8m4", 1, "e8m10")
    unfused = fpemu.Sequential("e8m4", fused=False, product="e8m10")
    assert_same_bits(fpemu.dot(a, b, blocks), fpemu.dot(a, b, unfused))


# Matrices


SEQUENTIAL = {
    "e8m4": ("e8m4", "rne", {}),
    "e8m7 rtz": ("e8m7", "rtz", {}),
    "e8m10 unfused": ("e8m10", "rne", {"fused": False}),
    "e8m7 via float32": ("e8m7", "rne", {"via": "float32"}),
    "float32": ("float32", "rne", {}),
    "float8_e4m3fn": ("float8_e4m3fn", "rne", {}),
    "e11m20 rto": ("e11m20", "rto", {}),
}
# Each with its oracle.
ACCUMULATORS = {
    name: (
        fpemu.Sequential(format, mode, **options),
        functools.partial(sequential, format=format, rounding=mode, **options),
    )
    for name, (format, mode, options) in SEQUENTIAL.items()
}
ACCUMULATORS["blocked"] = (
    fpemu.Blocked("e8m7", 16),
    functools.partial(blocked, format="e8m7", block=16),
)
EACH = pytest.mark.parametrize("which", ACCUMULATORS)


def matrices(dtype):
    generator = np.random.default_rng(32)
    a = generator.standard_normal((70, 130)).astype(dtype)
    b = generator.standard_normal((130, 90)).astype(dtype)
    # A row and a column that no short way for ordinary numbers may be taken for.
    a[11] = np.ldexp(a[11], -120)
    b[:, 17] = np.ldexp(b[:, 17], 126)
    a[50, 60] = np.inf
    b[100, 80] = np.nan
    return a, b


@DTYPES
@EACH
def test_every_element_of_a_matrix_product_is_its_inner_product(which, dtype):
    accumulator, oracle = ACCUMULATORS[which]
    a, b = matrices(dtype)
    with np.errstate(over="ignore"):
        product = fpemu.matmul(a, b, accumulator)
    assert product.shape == (70, 90)
    rows = [0, 5, 11, 50, 68, 69]
    columns = slice(2, None, 3)  # columns 17, 80 and 89 are among them
    singles = [[fpemu.dot(a[row], column, accumulator) for column in b.T[columns]] for row in rows]
    assert_same_bits(product[rows][:, columns], np.array(singles))
    sample = [*np.random.default_rng(33).integers(0, (70, 90), (15, 2)), (11, 3), (5, 17), (11, 17)]
    for i, j in [*sample, (50, 50), (69, 89)]:
        expected = oracle(a[i].tolist(), b[:, j].tolist())
        assert_same_bits(product[i, j], expected, about=(i, j))
    assert np.isnan(product[:, 80]).all()


@DTYPES
@EACH
def test_parts_of_a_matrix_product_are_products_of_parts(which, dtype):
    accumulator, _ = ACCUMULATORS[which]
    a, b = matrices(dtype)
    whole = fpemu.matmul(a, b, accumulator)
    for rows, columns in itertools.product((1, 2, 3, 4, 7, 65), (1, 2, 5, 8, 9, 16, 31, 33, 64)):
        part = fpemu.matmul(a[-rows:], b[:, :columns], accumulator)
        assert_same_bits(part, whole[-rows:, :columns], about=(rows, columns))


@DTYPES
@EACH
def test_layout_of_the_operands_does_not_matter(which, dtype):
    accumulator, _ = ACCUMULATORS[which]
    a, b = matrices(dtype)
    a, b = a[:20, :40], b[:40, :35]
    expected = fpemu.matmul(a.copy(), b.copy(), accumulator)

    def variants(x):
        read_only = x.copy()
        read_only.flags.writeable = False
        return {
            "as sliced": x,
            "fortran": np.asfortranarray(x),
            "strided": np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
            "reversed": x[::-1, ::-1].copy()[::-1, ::-1],
            "read-only": read_only,
        }

    for (left, x), (right, y) in itertools.product(variants(a).items(), variants(b).items()):
        before = x.copy(), y.copy()
        actual = fpemu.matmul(x, y, accumulator)
        assert_same_bits(actual, expected, about=(left, right))
        assert x.tobytes() == before[0].tobytes()
        assert y.tobytes() == before[1].tobytes()
    swapped = fpemu.matmul(b.T, a.T, accumulator)
    assert_same_bits(swapped, expected.T)
    spread_rows = np.broadcast_to(a[3], a.shape)
    actual = fpemu.matmul(spread_rows, b, accumulator)
    assert_same_bits(actual, np.broadcast_to(expected[3], actual.shape))


@EACH
def test_results_are_members_of_the_format(which):
    accumulator, _ = ACCUMULATORS[which]
    name = which.split()[0].replace("blocked", "e8m7")
    for dtype in (np.float32, np.float64):
        product = fpemu.matmul(*matrices(dtype), accumulator)
        assert_same_bits(fpemu.round(product, name), product)
        assert_same_bits(rounded(product[:5], formats.format(name)), product[:5])


SHAPES = [
    ((4,), (4,)),
    ((4,), (4, 3)),
    ((5, 4), (4,)),
    ((5, 4), (4, 3)),
    ((2, 5, 4), (4, 3)),
    ((5, 4), (2, 4, 3)),
    ((2, 5, 4), (2, 4, 3)),
    ((2, 1, 5, 4), (3, 4, 3)),
    ((7, 1, 2, 4), (1, 3, 4, 2)),
    ((4,), (2, 3, 4, 5)),
    ((2, 3, 5, 4), (4,)),
    ((1, 4), (4, 1)),
    ((0, 4), (4, 3)),
    ((5, 4), (4, 0)),
    ((0, 5, 4), (4, 3)),
    ((5, 0), (0, 3)),
    ((0,), (0,)),
    ((2, 5, 0), (0, 3)),
]


@DTYPES
@for_each("left, right", SHAPES)
def test_shapes_are_those_of_numpys_matmul(left, right, dtype):
    generator = np.random.default_rng(34)
    # Small integers: every order and every format used here gives the exact result.
    a = generator.integers(-4, 5, left).astype(dtype)
    b = generator.integers(-4, 5, right).astype(dtype)
    expected = np.matmul(a, b)
    for accumulator in (
        fpemu.Sequential("float32"),
        fpemu.Sequential("e8m10", "rtz", fused=False),
        fpemu.Blocked("bfloat16", 2),
    ):
        actual = fpemu.matmul(a, b, accumulator)
        assert np.shape(actual) == np.shape(expected)
        assert actual.dtype == dtype
        assert_same_bits(actual, np.asarray(expected) + 0.0)


def test_an_empty_sum_is_positive_zero():
    for mode in MODES:
        product = fpemu.matmul(np.ones((3, 0)), np.ones((0, 4)), fpemu.Sequential("e8m4", mode))
        assert_same_bits(product, np.zeros((3, 4)))
    assert_same_bits(fpemu.dot([], [], fpemu.Sequential("e8m4", "rtn")), 0.0)
    assert_same_bits(fpemu.dot([], [], fpemu.Blocked("e8m4", 4)), 0.0)


def test_batches_are_products_of_their_own():
    generator = np.random.default_rng(35)
    a = generator.standard_normal((3, 1, 6, 9)).astype(np.float32)
    b = generator.standard_normal((2, 9, 5)).astype(np.float32)
    for accumulator, _ in ACCUMULATORS.values():
        product = fpemu.matmul(a, b, accumulator)
        for i, j in np.ndindex(3, 2):
            assert_same_bits(product[i, j], fpemu.matmul(a[i, 0], b[j], accumulator))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 4), (5, 6)),
        ((3, 4), (3, 4)),
        ((4,), (5,)),
        ((4,), (3, 4)),
        ((3, 4), (3,)),
        ((2, 3, 4), (3, 4, 5)),
        ((3, 4), (1, 5)),
    ],
)
def test_shapes_that_do_not_match_are_an_error_naming_both(left, right):
    written = r"(?=.*{}).*{}".format(
        *(str(s).replace("(", r"\(").replace(")", r"\)") for s in (left, right))
    )
    with pytest.raises(ValueError, match=written):
        fpemu.matmul(np.ones(left), np.ones(right), fpemu.Sequential("e8m4"))


def test_scalars_are_no_matrices():
    with pytest.raises(ValueError, match=r"\ba\b|dimension"):
        fpemu.matmul(np.float32(1), np.ones(1), fpemu.Sequential("e8m4"))
    with pytest.raises(ValueError, match=r"\bb\b|dimension"):
        fpemu.matmul(np.ones((2, 1)), 1.0, fpemu.Sequential("e8m4"))


def test_dtype_of_a_product_follows_operands_and_format():
    single, double = np.ones((2, 2), np.float32), np.ones((2, 2), np.float64)
    half, brain = np.ones((2, 2), np.float16), np.ones((2, 2), ml_dtypes.bfloat16)
    narrow, wide = fpemu.Sequential("bfloat16"), fpemu.Sequential("e11m20")
    for a, b in itertools.product((single, half, brain), repeat=2):
        assert fpemu.matmul(a, b, narrow).dtype == np.float32
        assert fpemu.matmul(a, b, wide).dtype == np.float64
    for other in (double, [[1, 1], [1, 1]], [[1.0, 1.0], [1.0, 1.0]], np.ones((2, 2), np.int8)):
        assert fpemu.matmul(single, other, narrow).dtype == np.float64
        assert fpemu.matmul(other, single, narrow).dtype == np.float64
        assert fpemu.matmul(other, other, wide).dtype == np.float64
    assert type(fpemu.dot(single[0], single[0], narrow)) is np.float32
    assert type(fpemu.dot([1.0], [1.0], narrow)) is np.float64
    assert fpemu.matmul(single, single, fpemu.Blocked("e11m20", 2)).dtype == np.float64
    assert fpemu.matmul(single, single, fpemu.Blocked("bfloat16", 2, "float64")).dtype == np.float32


def test_operands_of_small_dtypes_are_widened_exactly():
    generator = np.random.default_rng(36)
    a, b = generator.standard_normal((5, 6)), generator.standard_normal((6, 7))
    for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        small_a, small_b = a.astype(dtype), b.astype(dtype)
        accumulator = fpemu.Sequential("e8m4")
        expected = fpemu.matmul(small_a.astype(np.float32), small_b.astype(np.float32), accumulator)
        assert_same_bits(fpemu.matmul(small_a, small_b, accumulator), expected)


@pytest.mark.parametrize("wrong", [[1j, 1j], ["1", "2"], [None, 1.0]], ids=str)
def test_operands_that_hold_no_real_numbers_are_type_errors(wrong):
    for a, b in ((wrong, [1.0, 1.0]), ([1.0, 1.0], wrong)):
        with pytest.raises(TypeError, match=r"\ba\b" if a is wrong else r"\bb\b"):
            fpemu.dot(a, b, fpemu.Sequential("e8m4"))


def test_integers_that_float64_does_not_hold_are_refused():
    with pytest.raises(ValueError, match="9007199254740993"):
        fpemu.dot([2**53 + 1], [1], fpemu.Sequential("float64"))


@pytest.mark.parametrize("accumulator", [None, int, fpemu.Sequential, 16], ids=str)
def test_what_is_no_accumulator_is_a_type_error(accumulator):
    with pytest.raises(TypeError, match="accumulator"):
        fpemu.matmul(np.ones((2, 2)), np.ones((2, 2)), accumulator)


def test_wrong_descriptions_of_accumulators_are_errors():
    for describe, message in (
        (lambda: fpemu.Sequential("float99"), "float99"),
        (lambda: fpemu.Sequential("e8m4", "nearest"), "nearest"),
        (lambda: fpemu.Sequential("e8m4", fused=False, product="float99"), "float99"),
        (lambda: fpemu.Sequential("e8m4", via="float99"), "float99"),
        (lambda: fpemu.Blocked("e8m4", 0), "block"),
        (lambda: fpemu.Blocked("e8m4", -3), "block"),
        (lambda: fpemu.Blocked("e8m4", 4, "float99"), "float99"),
        (lambda: fpemu.Blocked("e8m4", 4, rounding="nearest"), "nearest"),
    ):
        with pytest.raises(ValueError, match=message):
            describe()
    for describe in (
        lambda: fpemu.Sequential(8),
        lambda: fpemu.Sequential("e8m4", 3),
        lambda: fpemu.Sequential("e8m4", via=32),
        lambda: fpemu.Blocked("e8m4", 2.5),
        lambda: fpemu.Blocked("e8m4", "4"),
    ):
        with pytest.raises(TypeError, match=r"."):
            describe()


# Whatever the process does and has done


@pytest.fixture(scope="module")
def large():
    generator = np.random.default_rng(37)
    a = spread(generator, (150, 200), (-3, 3), np.float32)
    b = spread(generator, (200, 180), (-3, 3), np.float32)
    # Part of the results are subnormal.
    a[40:80] = np.ldexp(a[40:80], -128)
    return a, b


@EACH
def test_the_number_of_threads_does_not_matter(which, large):
    accumulator, _ = ACCUMULATORS[which]
    with on_threads(1):
        serial = fpemu.matmul(*large, accumulator)
    with on_threads(3):
        assert_same_bits(fpemu.matmul(*large, accumulator), serial)


def test_several_python_threads_may_multiply_at_once(large):
    a, b = large
    chosen = [ACCUMULATORS[which][0] for which in ("e8m4", "float32", "blocked", "e11m20 rto")]
    expected = [fpemu.matmul(a, b, accumulator) for accumulator in chosen]
    together = threading.Barrier(4)

    def work(index):
        together.wait()
        wrong = 0
        for turn in range(6):
            which = (index + turn) % 4
            wrong += differences(fpemu.matmul(a, b, chosen[which]), expected[which]).size
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 0, 0, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_multiplying_works_after_fork(large):
    accumulator = fpemu.Sequential("e8m4")
    expected = fpemu.matmul(*large, accumulator)
    assert holds_after_fork(
        lambda: differences(fpemu.matmul(*large, accumulator), expected).size == 0
    )


FLUSHED_WORK = """
def work(inputs):
    import fpemu

    a, b = inputs["a"], inputs["b"]
    wide_a, wide_b = inputs["wide a"], inputs["wide b"]
    return {
        "e8m4": fpemu.matmul(a, b, fpemu.Sequential("e8m4")),
        "e8m7 via": fpemu.matmul(a, b, fpemu.Sequential("e8m7", via="float32")),
        "e8m7 rtz": fpemu.matmul(a, b, fpemu.Sequential("e8m7", "rtz")),
        "e8m7 unfused": fpemu.matmul(a, b, fpemu.Sequential("e8m7", fused=False)),
        "float32": fpemu.matmul(a, b, fpemu.Sequential("float32")),
        "float32 unfused": fpemu.matmul(a, b, fpemu.Sequential("float32", fused=False)),
        "float64": fpemu.matmul(a, b, fpemu.Sequential("float64")),
        "blocked": fpemu.matmul(a, b, fpemu.Blocked("e8m7", 16)),
        "wide": fpemu.matmul(wide_a, wide_b, fpemu.Sequential("float64")),
        "wide rto": fpemu.matmul(wide_a, wide_b, fpemu.Sequential("float64", "rto")),
        "wide e11m20": fpemu.matmul(wide_a, wide_b, fpemu.Sequential("e11m20")),
        "dot": fpemu.dot(a[45], b[:, 7], fpemu.Sequential("e8m4", "rtp")),
    }
"""


# test_machine_state.py has other ways and times to set the bits.
def test_flush_to_zero_of_another_library_does_not_matter(large, tmp_path):
    a, b = large
    wide_a, wide_b = np.ldexp(a.astype(np.float64), -1020), b.astype(np.float64)
    inputs = {"a": a, "b": b, "wide a": wide_a, "wide b": wide_b}
    namespace = {}
    exec(FLUSHED_WORK, namespace)
    expected = namespace["work"](inputs)
    subnormal = expected["float32"][40:80]
    assert np.count_nonzero((subnormal != 0) & (np.abs(subnormal) < 2.0**-126)) > 100
    results = under_flush_to_zero("libm", True, FLUSHED_WORK, inputs, tmp_path)
    assert results.keys() == expected.keys()
    wrong = [name for name in expected if differences(results[name], expected[name]).size]
    assert wrong == []
    for i, j in ((0, 0), (45, 7), (79, 179)):
        element = sequential(a[i].tolist(), b[:, j].tolist(), "e8m4")
        assert_same_bits(results["e8m4"][i, j], element)
        assert element == round_exact(element, "e8m4")


@for_each("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name", ["float64", "float32", "float16", "bfloat16", "tf32", "e11m40", "float8_e4m3fn",
             "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn", "e5m2", "binary8p1ue"],
)  # fmt: skip
@for_each("facts", [{}, {"subnormals": False}, {"signed": False}])
def test_operands_are_members_if_rounding_leaves_them_alone(name, facts, dtype):
    try:
        format = dataclasses.replace(formats.format(name), **facts)
    except ValueError:
        return  # there is no such format
    generator = np.random.default_rng(4)
    word = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    # Few: what decides is at the edges.
    numbers = generator.integers(0, np.iinfo(word).max, 100, word).view(dtype)
    edges = [format.max_finite, format.smallest_normal, format.smallest_subnormal, 0, 1.5, np.inf]
    with np.errstate(all="ignore"):
        edges = np.array(edges, dtype)
        near = [edges, np.nextafter(edges, dtype(0)), np.nextafter(edges, dtype(np.inf)), edges / 2]
        x = np.concatenate([numbers, *near, np.ldexp(generator.normal(size=60), 3).astype(dtype)])
        x = np.concatenate([x, -x])
        x = x if format.has_nan else x[~np.isnan(x)]
        x = np.concatenate([x, fpemu.round(x, format).astype(dtype)])
        x = x if format.has_nan else x[~np.isnan(x)]
        unchanged = (fpemu.round(x, format) == x) | np.isnan(x)
    assert _strangers(x, format) == np.flatnonzero(~unchanged).tolist()
    if not unchanged.all():
        where = rf"^a\[{np.argmin(unchanged)}\] is "
        with launching.default_environment(), pytest.raises(ValueError, match=where):
            linalg._members(x, format, None, "a")


@launching.default_environment()
def _strangers(x, format):
    """The indices of all numbers that are not taken: each is the first of what follows the last."""
    found = [-1]
    while (index := linalg._first_stranger(x[found[-1] + 1 :], format)) is not None:
        found.append(found[-1] + 1 + index[0])
    return found[1:]


@pytest.mark.parametrize(
    "accumulator",
    [
        fpemu.Sequential("e8m7"),
        fpemu.Sequential("e8m7", "rtz"),
        fpemu.Sequential("e8m7", fpemu.Rounding("sr", seed=1)),
        fpemu.Pairwise("e8m7"),
        fpemu.Exact("e8m7", block=2),
        fpemu.devices.get("hopper.wgmma.bfloat16"),
    ],
    ids=str,
)
def test_no_layout_of_operands_compiles_a_kernel_again(accumulator, monkeypatch):
    """Views, subclasses and read-only arrays reach a kernel as the same types."""
    kinds = set()
    launch = launching.run

    def noted(function, count, *arguments, **options):
        kinds.add((function, *map(numba.typeof, arguments)))
        launch(function, count, *arguments, **options)

    monkeypatch.setattr(launching, "run", noted)
    a = np.ones((2, 6, 6), np.float32)
    constant = a.copy()
    constant.flags.writeable = False
    for x in (a, constant, a[:, ::2, ::2], a.transpose(0, 2, 1), a[0].view(np.matrix), a[:1]):
        fpemu.matmul(x, x, accumulator)
        fpemu.matmul(x, x, accumulator, c=np.zeros(x.shape[-1], x.dtype))
    assert len(kinds) == len({function for function, *_ in kinds})


@pytest.mark.parametrize("spec", ["bfloat16", fpemu.format("bf16"), ml_dtypes.bfloat16])
def test_a_format_stands_for_its_sequential_accumulator(spec):
    a, b = [1.0, 2.0**-8, 2.0**-8], [1.0, 1.0, 1.0]
    expected = fpemu.dot(a, b, fpemu.Sequential("bfloat16"))
    assert fpemu.dot(a, b, spec) == expected == 1.0 != fpemu.dot(a, b, "float32")
    assert fpemu.matmul([a], np.transpose([b]), spec) == expected
    assert fpemu.array(a, "float32", accumulator=spec).sum() == expected


def test_names_that_are_no_formats_are_refused():
    with pytest.raises(
        ValueError, match=r"matrix unit is fpemu.devices.get\('hopper.wgmma.e4m3'\)"
    ):
        fpemu.dot([1.0], [1.0], "hopper.wgmma.e4m3")
    with pytest.raises(ValueError, match="unknown format 'float9'"):
        fpemu.dot([1.0], [1.0], "float9")
