"""`fpemu.round` against the exact oracle, against ml_dtypes, and against the laws of rounding."""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fpemu
from fpemu import Rounding, formats
from fpemu._kernels import array_rounding, launching, targets
from fpemu._kernels import rounding as kernels
from fpemu.reference import decode_exact, round_exact
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits, differences
from tests.oracle.flushing import under_flush_to_zero
from tests.oracle.forking import holds_after_fork
from tests.oracle.points import ALL_FORMATS, MODES, NAMED, label, rounding_points
from tests.oracle.rounding import rounded
from tests.threads import on_threads

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=200)

OVERFLOWS = ("ieee", "saturate")
ALL_OVERFLOWS = (*OVERFLOWS, "propagate", "infinity")
SYMMETRIC = ("rne", "rna", "rnz", "rtz", "rto")
WITH_DTYPE = [format for format in NAMED if format.name not in ("tf32", "float32", "float64")]


def result_dtype(dtype, format):
    return format.carrier if np.dtype(dtype) == np.float32 else np.dtype(np.float64)


def dtype_of(format):
    return np.dtype(getattr(ml_dtypes, format.name, format.name))


def random_float32(count, seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)
    return bits.view(np.float32)


# Against the oracle and against ml_dtypes


@for_each("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("format", ALL_FORMATS, ids=label)
def test_every_mode_rounds_exactly(format, dtype):
    x = rounding_points(format, dtype)
    pieces = np.array_split(x, x.size // 14)
    blocks = np.stack([np.resize(piece, array_rounding._BLOCK) for piece in pieces])
    their_own = np.arange(array_rounding._BLOCK) < np.array([[piece.size] for piece in pieces])
    for i, mode in enumerate(MODES):
        for j, overflow in enumerate(OVERFLOWS):
            rounding = fpemu.Rounding(mode, overflow)
            about = format.name, mode, overflow
            expected = rounded(x, format, mode, overflow)
            actual = fpemu.round(x, format, rounding)
            assert actual.dtype == result_dtype(dtype, format)
            assert_same_bits(actual, expected, x, about)
            # A kernel looks at what a block holds and may take a shorter way; so numbers of like
            # magnitude fill blocks of their own too, overflowing in one way for each mode in turn.
            if (i + j) % 2 == 0:
                with on_threads(1):  # which would begin blocks elsewhere
                    actual = fpemu.round(blocks, format, rounding)
                assert_same_bits(actual[their_own], expected, x, (*about, "in blocks"))
            if j == i % len(OVERFLOWS):  # as few as these take other instructions
                actual = np.concatenate([fpemu.round(piece, format, rounding) for piece in pieces])
                assert_same_bits(actual, expected, x, (*about, "in pieces"))


@for_each("format", ALL_FORMATS)
def test_random_bit_patterns_round_exactly(format):
    generator = np.random.default_rng(format.bits)
    doubles = generator.integers(0, 2**64 - 1, 60, np.uint64).view(np.float64)
    # Random patterns hardly ever meet a narrow range, so half are moved into it.
    significands = generator.uniform(-2, 2, 60)
    middle = np.ldexp(
        significands, generator.integers(format.quantum_exponent, format.emax + 1, 60)
    )
    for dtype in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            x = np.concatenate([doubles, middle]).astype(dtype)
        x = x if format.has_nan else x[~np.isnan(x)]
        for mode in MODES:
            actual = fpemu.round(x, format, mode)
            assert_same_bits(actual, rounded(x, format, mode), x, (format.name, mode))


@repeatable
@given(
    x=st.floats(width=64) | st.floats(width=32),
    format=st.sampled_from(ALL_FORMATS),
    mode=st.sampled_from(MODES),
    overflow=st.sampled_from(ALL_OVERFLOWS),
)
def test_any_float_rounds_exactly(x, format, mode, overflow):
    if math.isnan(x) and not format.has_nan:
        x = 1.0
    rounding = fpemu.Rounding(mode, overflow)
    expected = round_exact(x, format, mode, overflow)
    assert_same_bits(fpemu.round(x, format, rounding), expected, x)
    if not math.isfinite(x) or round_exact(x, "float32") == x:
        assert_same_bits(fpemu.round(np.float32(x), format, rounding), expected, x)


@repeatable
@given(
    format=st.sampled_from(ALL_FORMATS),
    mode=st.sampled_from(MODES),
    position=st.floats(0, 1),
    offset=st.sampled_from([0.25, 0.5, 0.75, 2.0**-20, 2.0**-40, 1 - 2.0**-20, 1 - 2.0**-40]),
    negative=st.booleans(),
)
def test_numbers_between_adjacent_values_round_exactly(format, mode, position, offset, negative):
    code = min(int(position * format.max_finite_code), format.max_finite_code - 1)
    below, above = decode_exact(code, format), decode_exact(code + 1, format)
    x = below + (above - below) * offset
    x = -x if negative else x
    for same in (np.float64(x), np.float32(min(max(x, -3e38), 3e38))):
        assert_same_bits(fpemu.round(same, format, mode), round_exact(same, format, mode), same)


def formats_of_any_facts(draw):
    """Formats that nobody has named, wherever they lie in the range of float64."""
    while True:
        bits, signed = draw.randint(2, 24), draw.random() < 0.5
        precision = draw.randint(1, bits - signed)
        top_field = 2 ** (bits - signed - precision + 1) - 1
        # Biases that put a format at either end of float32 or float64, or further inside.
        ends = (top_field - 1023, top_field - 127, 151 - precision, 1024)
        at_an_end = draw.choice(ends) + draw.randint(0, 60) * draw.choice([-1, 1])
        facts = {
            "bits": bits,
            "precision": precision,
            "bias": draw.choice([at_an_end, draw.randint(-4, 2 ** min(bits, 10))]),
            "signed": signed,
            "subnormals": draw.random() < 0.5,
            "infinities": draw.random() < 0.5,
            "negative_zero": draw.random() < 0.5,
        }
        if draw.random() < 0.5:
            facts["high_nans"] = draw.randint(0, 5)
        with contextlib.suppress(ValueError):  # of facts that contradict one another
            yield formats.Format("drawn", **facts)


def test_formats_of_any_facts_are_rounded_to_exactly():
    draw = random.Random(7)
    for format in itertools.islice(formats_of_any_facts(draw), 600):
        points = rounding_points(format, draw.choice([np.float32, np.float64]))
        for size in (draw.choice([1, 5, 40]), points.size):
            rounding = fpemu.Rounding(draw.choice(MODES), draw.choice(ALL_OVERFLOWS))
            start = draw.randint(0, points.size - size)
            x = points[start : start + size]
            expected = rounded(x, format, rounding)
            assert_same_bits(fpemu.round(x, format, rounding), expected, x, (format, rounding))


def comparable(x, format):
    """`x` without what ml_dtypes does not convert, or not to the nearest value."""
    x = x if format.has_nan else x[~np.isnan(x)]
    if format == formats.float8_e8m0fnu:
        # ml_dtypes 0.6 takes every float32 subnormal above 2**-127 up to 2**-126.
        x = x[~((x > 2.0**-127) & (x < 1.5 * 2.0**-127))]
    return x


@pytest.mark.parametrize("format", WITH_DTYPE, ids=label)
def test_rne_is_ml_dtypes_conversion(format):
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    for x in (halves, random_float32(10**6, seed=3)):
        x = comparable(x, format)
        with np.errstate(all="ignore"):
            expected = x.astype(dtype_of(format)).astype(np.float32)
        assert_same_bits(fpemu.round(x, format), expected, x)


def test_rne_of_doubles_into_float32_and_float16_is_numpys_conversion():
    doubles = np.random.default_rng(4).integers(0, 2**64 - 1, 10**5, np.uint64).view(np.float64)
    near = np.random.default_rng(5).standard_normal(10**5) * 1e-5
    for x in (doubles, near):
        for name in ("float32", "float16"):
            with np.errstate(all="ignore"):
                expected = x.astype(name).astype(np.float64)
            assert_same_bits(fpemu.round(x, name), expected, x)


def test_float64_is_left_alone_in_float64_and_float32_in_float32():
    doubles = np.random.default_rng(6).integers(0, 2**64 - 1, 10**4, np.uint64).view(np.float64)
    floats = random_float32(10**4, seed=7)
    for mode in MODES:
        assert_same_bits(fpemu.round(doubles, "float64", mode), doubles)
        assert_same_bits(fpemu.round(floats, "float64", mode), floats)
        assert_same_bits(fpemu.round(floats, "float32", mode), floats)


# Errors that other libraries make


@for_each("dtype", [np.float32, np.float64])
@for_each(
    "x, format, mode, expected",
    [
        # Values in the binade above the largest finite number.
        (70000.0, "e5m10", "rne", math.inf),
        (100000.0, "e5m10", "rtz", 65504.0),
        (300.0, "e4m3", "rne", math.inf),
        (-300.0, "e4m3", "rtp", -240.0),
        # Values that round past the largest finite number.
        (65520.0, "float16", "rne", math.inf),
        (65519.996, "float16", "rne", 65504.0),
        (65520.0, "float16", "rnz", 65504.0),
        (248.0, "float8_e4m3", "rne", math.inf),
        (464.0, "float8_e4m3fn", "rne", 448.0),
        (464.0, "float8_e4m3fn", "rna", math.nan),
        # Round to odd leaves members alone.
        (1.0, "e8m7", "rto", 1.0),
        (-2.5, "e8m7", "rto", -2.5),
        (1.0 + 2.0**-20, "e8m7", "rto", 1.0078125),
        # Ties of negative numbers.
        (-1.00390625, "bfloat16", "rne", -1.0),
        (-1.00390625, "bfloat16", "rna", -1.0078125),
        (-1.00390625, "bfloat16", "rnz", -1.0),
        (-1.01171875, "bfloat16", "rne", -1.015625),
        (-1.01171875, "bfloat16", "rnz", -1.0078125),
        # Next to a tie is no tie.
        (1.00390625 + 2.0**-23, "bfloat16", "rne", 1.0078125),
        (1.01171875 - 2.0**-23, "bfloat16", "rne", 1.0078125),
        (1.00390625 + 2.0**-23, "bfloat16", "rnz", 1.0078125),
        (1.00390625 - 2.0**-23, "bfloat16", "rna", 1.0),
        # Negative zero.
        (-0.0, "bfloat16", "rne", -0.0),
        (-1e-45, "float8_e5m2", "rne", -0.0),
        (-1e-45, "float8_e5m2", "rtp", -0.0),
        # Subnormal numbers that round up to the smallest normal one.
        (0.0146484375, "float8_e4m3", "rne", 0.015625),
        (5.340576171875e-05, "float8_e5m2", "rtp", 2.0**-14),
        (5.7220458984375e-05, "float8_e5m2", "rne", 2.0**-14),
    ],
)
def test_errors_of_other_libraries_are_not_made(x, format, mode, expected, dtype):
    x = np.array([x], dtype)
    assert rounded(x, formats.format(format), mode)[0] == expected or math.isnan(expected)
    assert_same_bits(fpemu.round(x, format, mode), [expected], x)


@pytest.mark.parametrize("mode", MODES)
def test_every_nan_stays_nan(mode):
    bits = [0x7FFFFFFF, 0x7F800001, 0x7FC00000, 0xFFFFFFFF, 0xFF800001, 0x7FBFFFFF, 0x7F80FFFF]
    nans = np.array(bits, np.uint32).view(np.float32)
    doubles = np.array(
        [0x7FF0000000000001, 0x7FFFFFFFFFFFFFFF, 0xFFF0000000000001, 0xFFF00000FFFFFFFF], np.uint64
    ).view(np.float64)
    for format in ALL_FORMATS:
        if format.has_nan:
            for overflow in OVERFLOWS:
                rounding = fpemu.Rounding(mode, overflow)
                assert np.isnan(fpemu.round(nans, format, rounding)).all(), format
                assert np.isnan(fpemu.round(doubles, format, rounding)).all(), format


def test_overflow_saturates_only_when_asked_to():
    x = np.array([449.0, 465.0, 1e30, np.inf, -np.inf, -500.0, np.nan], np.float32)
    ieee = fpemu.round(x, "float8_e4m3fn")
    assert_same_bits(ieee, [448.0] + 6 * [np.nan])
    saturated = fpemu.round(x, "float8_e4m3fn", fpemu.Rounding(overflow="saturate"))
    assert_same_bits(saturated, [448.0, 448.0, 448.0, 448.0, -448.0, -448.0, np.nan])


def test_propagated_infinities_stay_where_there_are_any():
    x, rounding = [1e30, -1e30, np.inf, -np.inf, np.nan], fpemu.Rounding("rtp", "propagate")
    assert_same_bits(
        fpemu.round(x, "float16", rounding), [65504.0, -65504.0, np.inf, -np.inf, np.nan]
    )
    largest = [448.0, -448.0, 448.0, -448.0, np.nan]
    assert_same_bits(fpemu.round(x, "float8_e4m3fn", rounding), largest)
    assert_same_bits(fpemu.round(x[:4], "float4_e2m1fn", rounding), [6.0, -6.0, 6.0, -6.0])


# Arrays in and out


def test_dtype_of_the_result_follows_input_and_format():
    x = [1.0, 2.7]
    for format, floats in (
        ("bfloat16", np.float32),
        ("e11m20", np.float64),
        ("float64", np.float64),
    ):
        assert fpemu.round(np.array(x, np.float32), format).dtype == floats
        assert fpemu.round(np.array(x, np.float16), format).dtype == floats
        assert fpemu.round(np.array(x, ml_dtypes.bfloat16), format).dtype == floats
        assert fpemu.round(np.array(x, ml_dtypes.float8_e4m3fn), format).dtype == floats
        assert fpemu.round(np.array(x, np.float64), format).dtype == np.float64
        assert fpemu.round(x, format).dtype == np.float64
        assert fpemu.round([1, 2], format).dtype == np.float64
        assert fpemu.round(np.array([1, 2], np.uint8), format).dtype == np.float64
        assert fpemu.round(np.array([1, 2], np.int64), format).dtype == np.float64


def test_scalars_give_numpy_scalars():
    for scalar, dtype in (
        (2.7, np.float64),
        (3, np.float64),
        (np.float64(2.7), np.float64),
        (np.float32(2.7), np.float32),
        (np.float16(2.7), np.float32),
        (ml_dtypes.bfloat16(2.7), np.float32),
        (np.int32(3), np.float64),
    ):
        result = fpemu.round(scalar, "e8m3")
        assert type(result) is dtype, type(scalar)
        assert float(result) == round_exact(float(scalar), "e8m3")


@pytest.mark.parametrize("format", WITH_DTYPE, ids=label)
def test_arrays_of_small_dtypes_are_widened_exactly(format):
    codes = np.arange(2**format.bits).astype(f"u{dtype_of(format).itemsize}")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        small = codes.view(dtype_of(format))
        wide = small.astype(np.float32)
    assert_same_bits(fpemu.round(small, format), wide)
    assert_same_bits(fpemu.round(small, "e5m1", "rtp"), fpemu.round(wide, "e5m1", "rtp"))


def test_integers_are_taken_exactly_or_refused():
    assert_same_bits(fpemu.round([2**53, -(2**53), 0], "float64"), [2.0**53, -(2.0**53), 0.0])
    assert_same_bits(fpemu.round(np.array([2**62 + 2**10]), "e8m7"), [2.0**62])
    for inexact in (2**53 + 1, np.array([1, 2**53 + 1]), np.array([-(2**63) + 1])):
        with pytest.raises(ValueError, match=r"\d"):
            fpemu.round(inexact, "float32")
    assert_same_bits(fpemu.round([2**64, -(2**63), 1], "float64"), [2.0**64, -(2.0**63), 1.0])
    for least in (-(2**63), [-(2**63)], np.array([-(2**63), 0])):
        assert_same_bits(np.ravel(fpemu.round(least, "float32"))[:1], [-(2.0**63)])
    for inexact in (-(2**63) - 1, [2**53 + 1, 0.5], [2**64 + 1, 1], 10**400, [[1.5], [2**63 + 1]]):
        with pytest.raises(
            ValueError, match=r"(the integer -?\d+|an integer of \d+ bits), which is not a float64"
        ):
            fpemu.round(inexact, "float32")
    with pytest.raises(ValueError, match="18446744073709551615"):
        fpemu.round(np.array([2**64 - 1], np.uint64), "float32")


@pytest.mark.parametrize(
    "x",
    [
        "1.0",
        b"1.0",
        None,
        1j,
        np.array([1 + 0j]),
        np.array(["1.0"]),
        np.array([1.0, None]),
        np.array(["2020-01-01"], "datetime64[D]"),
        {"a": 1.0},
    ],
    ids=lambda x: f"{type(x).__name__}-{getattr(x, 'dtype', '')}",
)
def test_what_holds_no_real_numbers_is_a_type_error(x):
    with pytest.raises(TypeError, match=r"\bx\b"):
        fpemu.round(x, "bfloat16")


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("mode", MODES)
def test_layout_and_shape_do_not_matter(mode, dtype):
    values = np.random.default_rng(8).standard_normal((6, 10, 14)).astype(dtype)
    expected = rounded(values, formats.float8_e4m3, mode)
    result = fpemu.round(values, "float8_e4m3", mode)
    assert_same_bits(result, expected)
    variants = {
        "fortran": np.asfortranarray(values),
        "strided": np.repeat(values, 3, axis=2)[..., ::3],
        "reversed": values[::-1, :, ::-1][::-1, :, ::-1],
        "big-endian": values.astype(np.dtype(dtype).newbyteorder(">")),
        "nested lists": values.astype(np.float64).tolist(),
        "misaligned": _misaligned(values),
    }
    for name, variant in variants.items():
        assert_same_bits(fpemu.round(variant, "float8_e4m3", mode), expected, about=name)
    transposed = fpemu.round(values.T, "float8_e4m3", mode)
    assert_same_bits(transposed, expected.T)
    row = values[0, 0]
    spread = np.broadcast_to(row, (5, 7, row.size))
    assert_same_bits(
        fpemu.round(spread, "float8_e4m3", mode), np.broadcast_to(expected[0, 0], spread.shape)
    )
    backwards = fpemu.round(values[:, ::-1], "float8_e4m3", mode)
    assert_same_bits(backwards, expected[:, ::-1])


def _misaligned(array):
    """A copy that starts one byte off its dtype's alignment."""
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    moved = buffer[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_arrays_of_any_length_round_alike(dtype):
    x = rounding_points(formats.float8_e5m2, dtype)[:150]
    whole = rounded(x, formats.float8_e5m2, "rna")
    for start in (0, 1, 3):
        for length in range(120):
            part = fpemu.round(x[start : start + length], "float8_e5m2", "rna")
            assert_same_bits(part, whole[start : start + length])


@for_each("mode", MODES)
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "e11m20", "float8_e8m0fnu"])
def test_large_arrays_round_like_small_ones(name, mode):
    format = formats.format(name)
    for dtype in (np.float32, np.float64):
        x = rounding_points(format, dtype)
        copies = 700_001 // x.size + 1
        expected = np.tile(rounded(x, format, mode), copies)[:700_001]
        assert_same_bits(fpemu.round(np.tile(x, copies)[:700_001], format, mode), expected)


def test_empty_and_zero_dimensional_arrays_are_arrays_like_others():
    for shape in ((0,), (3, 0, 2), (0, 5)):
        for dtype in (np.float32, np.float64):
            result = fpemu.round(np.empty(shape, dtype), "bfloat16")
            assert result.shape == shape
            assert result.dtype == dtype
    assert fpemu.round([], "bfloat16").shape == (0,)
    result = fpemu.round(np.array(2.7, np.float32), "e8m3")
    assert np.shape(result) == ()
    assert result.dtype == np.float32
    assert result == 2.75


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_inputs_are_never_modified_and_may_be_read_only(dtype):
    for name in ("bfloat16", "float32", "float64"):
        x = rounding_points(formats.bfloat16, dtype).copy()
        before = x.copy()
        result = fpemu.round(x, name)
        assert x.tobytes() == before.tobytes()
        assert not np.shares_memory(result, x)
        x.flags.writeable = False
        result = fpemu.round(x, name)
        assert result.flags.writeable
        assert x.tobytes() == before.tobytes()


def test_out_receives_the_result_and_is_returned():
    x = random_float32(1000, seed=9).reshape(10, 100)
    expected = fpemu.round(x, "bfloat16")
    out = np.zeros_like(x)
    assert fpemu.round(x, "bfloat16", out=out) is out
    assert_same_bits(out, expected)
    wide = np.zeros((10, 200), np.float32)
    for view in (wide[:, ::2], wide[::-1, 100:], np.zeros((100, 10), np.float32).T):
        assert fpemu.round(x, "bfloat16", out=view) is view
        assert_same_bits(view, expected)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        doubles = x.astype(np.float64)
    out = np.zeros_like(doubles)
    assert fpemu.round(doubles, "bfloat16", out=out) is out
    assert_same_bits(out, expected)
    single = np.zeros((), np.float32)
    assert fpemu.round(np.float32(2.7), "e8m3", out=single) is single
    assert single == 2.75


@pytest.mark.parametrize("size", [50, 300_000])
def test_out_may_overlap_the_input(size):
    x = comparable(random_float32(size, seed=10), formats.bfloat16)
    expected = fpemu.round(x, "bfloat16", "rtp")
    same = x.copy()
    assert fpemu.round(same, "bfloat16", "rtp", out=same) is same
    assert_same_bits(same, expected)
    for source, target in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
        buffer = x.copy()
        fpemu.round(buffer[source], "bfloat16", "rtp", out=buffer[target])
        assert_same_bits(buffer[target], expected[source])
    buffer = x.copy()
    fpemu.round(buffer[::-1], "bfloat16", "rtp", out=buffer)
    assert_same_bits(buffer, expected[::-1])


def test_an_out_that_cannot_hold_the_result_is_an_error():
    x = np.ones((2, 3), np.float32)
    read_only = np.zeros((2, 3), np.float32)
    read_only.flags.writeable = False
    for out in (
        np.zeros((3, 2), np.float32),
        np.zeros(6, np.float32),
        np.zeros((1, 3), np.float32),
        np.zeros((2, 3), np.int64),
        np.zeros((2, 3), np.float16),
        np.zeros((2, 3), ml_dtypes.bfloat16),
        read_only,
        [[0.0] * 3] * 2,
    ):
        with pytest.raises((TypeError, ValueError), match=r"\bout\b"):
            fpemu.round(x, "bfloat16", out=out)
    with pytest.raises((TypeError, ValueError), match=r"\bout\b"):
        fpemu.round(x, "float64", out=np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ["float4_e2m1fn", "float6_e3m2fn", "e5m0"])
def test_nan_into_a_format_without_nan_is_an_error_naming_the_first(name, dtype):
    x = np.zeros(50, dtype)
    x[[37, 41]] = np.nan
    for overflow in OVERFLOWS:
        with pytest.raises(ValueError, match=rf"(?s)(?=.*\b37\b)(?!.*\b41\b)(?=.*{name})"):
            fpemu.round(x, name, fpemu.Rounding(overflow=overflow))
    with pytest.raises(ValueError, match=r"3, 7"):
        fpemu.round(x.reshape(5, 10), name)
    with pytest.raises(ValueError, match=r"1, 4"):
        fpemu.round(x.reshape(5, 10).T, name)
    large = np.zeros(500_000, dtype)
    large[[123_456, 400_000]] = np.nan
    with pytest.raises(ValueError, match="123456"):
        fpemu.round(large, name)
    with pytest.raises(ValueError, match=name):
        fpemu.round(dtype(np.nan), name)


def test_a_failed_call_in_place_leaves_the_array_as_it_was():
    x = np.array([0.3, 0.7, np.nan, 0.2], np.float32)
    before = x.copy()
    with pytest.raises(ValueError, match="2"):
        fpemu.round(x, "float4_e2m1fn", out=x)
    assert x.tobytes() == before.tobytes()


# The description of a rounding


def test_rounding_is_a_frozen_description():
    rounding = fpemu.Rounding()
    assert (rounding.mode, rounding.overflow) == ("rne", "ieee")
    assert (rounding.random_bits, rounding.seed) == (None, None)
    assert rounding == fpemu.Rounding("rne", "ieee")
    assert hash(rounding) == hash(fpemu.Rounding("rne", "ieee"))
    assert rounding != fpemu.Rounding("rtz")
    with pytest.raises(dataclasses.FrozenInstanceError):
        rounding.mode = "rtz"


@pytest.mark.parametrize("mode", ["nearest", "", "RNE", "ru"])
def test_unknown_modes_are_value_errors_that_list_the_modes(mode):
    for mistaken in (
        lambda: fpemu.Rounding(mode),
        lambda: fpemu.round(1.0, "bfloat16", mode),
        lambda: fpemu.round(1.0, "bfloat16", rounding=mode),
    ):
        with pytest.raises(ValueError, match=rf"'{mode}'.*rne"):
            mistaken()


def test_wrong_descriptions_are_errors():
    with pytest.raises(ValueError, match=r"'wrap'.*saturate"):
        fpemu.Rounding("rne", "wrap")
    with pytest.raises(ValueError, match="float99"):
        fpemu.round(1.0, "float99")
    for wrong in (1, None, 0.5, ["rne"]):
        with pytest.raises(TypeError, match="rounding"):
            fpemu.round(1.0, "bfloat16", wrong)
    with pytest.raises(TypeError, match="format"):
        fpemu.round(1.0, 16)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_string_is_a_rounding_of_that_mode(mode):
    x = rounding_points(formats.float16, np.float32)
    expected = fpemu.round(x, "float16", fpemu.Rounding(mode))
    assert_same_bits(fpemu.round(x, "float16", mode), expected)
    assert_same_bits(fpemu.round(x, formats.float16, rounding=mode), expected)


# Laws


@functools.cache
def numbers_for(format, dtype):
    """Numbers about those of a format, others in its range, and any: in ascending order."""
    generator = np.random.default_rng(format.bits)
    exponents = generator.integers(format.quantum_exponent - 2, format.emax + 1, 200)
    with np.errstate(over="ignore"):
        # Out of the range of `dtype` this gives zeros and infinities, which are welcome too.
        scaled = np.ldexp(generator.uniform(-2, 2, 200), exponents).astype(dtype)
    patterns = generator.bytes(200 * np.dtype(dtype).itemsize)
    x = np.concatenate([rounding_points(format, dtype), scaled, np.frombuffer(patterns, dtype)])
    return np.sort(x[~np.isnan(x)])


def with_numbers(formats_of_a_law=ALL_FORMATS):
    """Each format with float32 numbers and with float64 ones."""
    for format in formats_of_a_law:
        for dtype in (np.float32, np.float64):
            yield format, numbers_for(format, dtype)


def test_rounding_is_idempotent():
    for format, x in with_numbers():
        for rounding in itertools.starmap(Rounding, itertools.product(MODES, OVERFLOWS)):
            once = fpemu.round(x, format, rounding)
            if not format.has_zero:
                once = once[once != 0]
            twice = fpemu.round(once, format, rounding)
            assert_same_bits(twice, once, once, (format.name, x.dtype, rounding))


def test_members_are_fixed_in_every_mode():
    for format, x in with_numbers():
        for mode in MODES:
            members = fpemu.round(x, format, mode)
            for other in MODES:
                again = fpemu.round(members, format, other)
                assert_same_bits(again, members, members, (format.name, x.dtype, mode, other))


def test_rounding_is_monotone():
    for format, x in with_numbers():
        for rounding in itertools.starmap(Rounding, itertools.product(MODES, OVERFLOWS)):
            y = fpemu.round(x, format, rounding)
            y = y[~np.isnan(y)]
            assert (y[:-1] <= y[1:]).all(), (format.name, x.dtype, rounding)


def test_rounding_commutes_with_the_sign():
    for format, x in with_numbers([format for format in ALL_FORMATS if format.signed]):
        for mode in MODES:
            mirrored = {"rtp": "rtn", "rtn": "rtp"}.get(mode, mode)
            positive, negative = fpemu.round(x, format, mode), -fpemu.round(-x, format, mirrored)
            if not format.has_negative_zero:
                positive, negative = positive + 0.0, negative + 0.0
            assert_same_bits(positive, negative, x, (format.name, x.dtype, mode))
            assert (mode == mirrored) == (mode in SYMMETRIC)


PLAIN = [f for f in ALL_FORMATS if f.signed and f.subnormals]


def test_directed_modes_enclose_the_number_and_the_others_pick_one_of_them():
    for format, x in with_numbers(PLAIN):
        about = format.name, x.dtype
        x = x[np.abs(x.astype(np.float64)) <= format.max_finite]
        down, up = fpemu.round(x, format, "rtn"), fpemu.round(x, format, "rtp")
        assert (down <= x).all(), about
        assert (x <= up).all(), about
        assert ((down == x) == (up == x)).all(), about
        for mode in ("rne", "rna", "rnz", "rtz", "rto"):
            y = fpemu.round(x, format, mode)
            assert ((y == down) | (y == up)).all(), (*about, mode)
        nearest = fpemu.round(x, format, "rne").astype(np.float64)
        wide, down, up = (part.astype(np.float64) for part in (x, down, up))
        # Differences of neighbors and of a number between them are within a factor of two, or have
        # few bits, in all formats but the widest.
        if format.precision <= 24:
            assert (np.abs(wide - nearest) <= np.minimum(wide - down, up - wide)).all(), about


def test_round_to_odd_makes_every_inexact_result_odd():
    for format, x in with_numbers([format for format in PLAIN if format.precision > 1]):
        about = format.name, x.dtype
        x = x[np.abs(x.astype(np.float64)) <= format.max_finite]
        y = fpemu.round(x, format, "rto").astype(np.float64)
        # An odd number of p bits is not a number of p - 1 bits.
        assert np.isfinite(y).all(), about
        exponents = np.maximum(np.frexp(y)[1] - 1, format.emin)
        steps = np.ldexp(y, format.precision - 1 - exponents)
        assert (steps == np.rint(steps)).all(), about
        inexact = y != x
        assert (steps[inexact] % 2 == 1).all(), about


def test_rounding_to_odd_first_with_two_more_bits_changes_nothing():
    for stored in range(6):
        wide, narrow = fpemu.format(f"e8m{stored + 2}"), fpemu.format(f"e8m{stored}")
        for _, x in with_numbers([narrow]):
            x = x[np.abs(x.astype(np.float64)) <= narrow.max_finite]
            first = fpemu.round(x, wide, "rto")
            for mode in MODES:
                direct = fpemu.round(x, narrow, mode)
                about = stored, x.dtype, mode
                assert_same_bits(fpemu.round(first, narrow, mode), direct, x, about)


# Whatever the process does and has done


MANY = 400_000


@pytest.fixture(scope="module")
def many():
    x = random_float32(MANY, seed=11)
    x[::7] = np.float32(1e-40) * np.arange(x[::7].size, dtype=np.float32) / 1000
    return np.where(np.isnan(x), np.float32(1e-40), x)


@pytest.fixture(scope="module")
def many_rounded(many):
    # In pieces small enough for any implementation to take the serial way, and checked in samples.
    pieces = [fpemu.round(piece, "bfloat16", "rna") for piece in np.split(many, MANY // 500)]
    whole = np.concatenate(pieces)
    assert_same_bits(whole[::97], rounded(many[::97], formats.bfloat16, "rna"))
    return whole


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_does_not_matter(many, many_rounded, count):
    with on_threads(count):
        assert_same_bits(fpemu.round(many, "bfloat16", "rna"), many_rounded)


def test_several_python_threads_may_round_at_once(many, many_rounded):
    together = threading.Barrier(4)

    def work(index):
        together.wait()
        shift = 1000 * index
        wrong = 0
        for _ in range(15):
            result = fpemu.round(np.roll(many, shift), "bfloat16", "rna")
            wrong += differences(np.roll(result, -shift), many_rounded).size
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 0, 0, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_rounding_works_after_fork(many, many_rounded):
    fpemu.round(many, "bfloat16", "rna")  # threads exist in the parent
    assert holds_after_fork(
        lambda: differences(fpemu.round(many, "bfloat16", "rna"), many_rounded).size == 0
    )
    assert_same_bits(fpemu.round(many, "bfloat16", "rna"), many_rounded)


FLUSHED_CASES = [
    *((name, "float32") for name in ("bfloat16", "e8m2", "float8_e8m0fnu", "float8_e5m2")),
    *((name, "float32") for name in ("float32", "e11m20", "float64")),
    *((name, "float64") for name in ("float32", "e11m20", "float64", "bfloat16")),
]
FLUSHED_WORK = f"""
def work(inputs):
    import fpemu

    return {{
        f"{{name}} {{dtype}} {{mode}}": fpemu.round(inputs[dtype], name, mode)
        for name, dtype in {FLUSHED_CASES}
        for mode in ("rne", "rtp")
    }}
"""


# test_machine_state.py has other ways and times to set the bits.
def test_flush_to_zero_of_another_library_does_not_matter(tmp_path):
    points = {
        dtype: np.concatenate(
            [rounding_points(formats.format(name), dtype) for name in ("e8m2", "e11m20")]
        )
        for dtype in ("float32", "float64")
    }
    copies = 80
    inputs = {dtype: np.tile(x, copies) for dtype, x in points.items()}
    results = under_flush_to_zero("libm", True, FLUSHED_WORK, inputs, tmp_path)
    assert len(results) == 2 * len(FLUSHED_CASES)
    wrong = []
    for case, result in results.items():
        name, dtype, mode = case.split()
        expected = np.tile(rounded(points[dtype], formats.format(name), mode), copies)
        if differences(result, expected).size:
            wrong.append(case)
    assert wrong == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("mode", MODES)
def test_the_code_for_all_modes_serves_each_of_them(mode, dtype):
    # Kernels of products know no other; kernels of arrays have shorter code for some modes.
    dtype, rounding = np.dtype(dtype), Rounding(mode)
    for format in map(fpemu.format, ("float8_e4m3fn", "float8_e5m2", "e8m5", "float16")):
        x = rounding_points(format, dtype)
        x = np.concatenate([x, -x])
        result = np.empty_like(x)
        kernel = array_rounding._array_kernel(kernels.DETERMINISTIC, False)
        tables = (
            make((format, rounding), dtype=dtype)
            for make in (targets.targets_of, targets.shortcuts_of)
        )
        kernel(0, x.size, *launching.reading(x), result, *tables)
        assert_same_bits(result, rounded(x, format, mode))
