"""Matrices held in the width of their format: the same numbers, the same products."""

import numpy as np
import pytest

import fpemu
from tests.oracle.bits import assert_same_bits

WIDTHS = {
    "bfloat16": 2,
    "float16": 2,
    "e8m4": 2,
    "e8m2": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float6_e2m3fn": 1,
    "float4_e2m1fn": 1,
}
FORMATS = pytest.mark.parametrize("format", WIDTHS)


def members(format, *shape):
    numbers = np.random.default_rng(5).normal(scale=0.4, size=shape).astype(np.float32)
    return fpemu.round(numbers, format, fpemu.Rounding("rne", "saturate"))


@FORMATS
def test_every_finite_number_of_a_format_keeps_its_bits(format):
    values = np.asarray(fpemu.values(format), np.float32)
    values = values[np.isfinite(values)]
    for matrix in (values[None], values[:, None]):
        packed = fpemu.Packed(matrix, format)
        assert_same_bits(packed.numbers(), matrix)
    assert fpemu.Packed(values[None], format).nbytes == WIDTHS[format] * -(-len(values) // 64) * 64


def test_infinities_and_nans_of_bfloat16_keep_their_bits():
    matrix = np.array([[np.inf, -np.inf, np.nan, -np.nan, 3.0]], np.float32)
    numbers = fpemu.Packed(matrix, "bfloat16").numbers()
    assert np.array_equal(numbers.view(np.uint32), matrix.view(np.uint32))


@FORMATS
@pytest.mark.parametrize("order", "CF")
def test_products_are_those_of_the_numbers(format, order):
    a, b = members("bfloat16", 3, 70), np.asarray(members(format, 70, 130), order=order)
    packed = fpemu.Packed(b, format)
    for accumulator in (fpemu.Sequential("float32"), fpemu.Sequential("e8m7")):
        found = fpemu.matmul(a, packed, accumulator)
        assert found.dtype == np.float32
        assert_same_bits(found, fpemu.matmul(a, b, accumulator))


def unit(name):
    return fpemu.devices.get(name), {}


OTHERS = {
    "float64": (fpemu.Sequential("float64"), {}),
    "rtz": (fpemu.Sequential("float32", "rtz"), {}),
    "random": (fpemu.Sequential("e8m7", fpemu.Rounding("sr", seed=3)), {}),
    "blocked": (fpemu.Blocked("float32", 16), {}),
    "pairwise": (fpemu.Pairwise("float32"), {}),
    "pairwise, rtz": (fpemu.Pairwise("float32", "rtz"), {}),
    "exact": (fpemu.Exact("float32"), {}),
    "exact, in blocks": (fpemu.Exact("float32", block=8), {}),
    "hopper": unit("hopper.wgmma.bfloat16"),
    "ordered": unit("hopper.mma.bfloat16"),
    "floored": unit("cdna3.mfma.bfloat16"),
    "to odd": unit("arm.bfdot.bfloat16"),
    "chained": unit("intel.avx512.bfloat16"),
    "promoted": (fpemu.Promoted(fpemu.Pairwise("float32"), "float32", 32), {}),
    "of wider inputs": unit("cdna3.mfma.float32"),
    "row lengths": (fpemu.Sequential("float32"), {"row_lengths": [3, 70, 130]}),
    "c": (fpemu.Sequential("float32"), {"c": np.arange(130.0)}),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_accumulator_takes_packed_matrices(name, dtype):
    accumulator, options = OTHERS[name]
    a, b = members("bfloat16", 3, 70).astype(dtype), members("bfloat16", 70, 130).astype(dtype)
    found = fpemu.matmul(a, fpemu.Packed(b, "bfloat16"), accumulator, **options)
    expected = fpemu.matmul(a, b, accumulator, **options)
    assert_same_bits(found, expected)
    assert found.dtype == expected.dtype


@pytest.mark.parametrize(
    ("name", "read"),
    [("rtz", True), ("hopper", True), ("random", False), ("chained", False), ("promoted", False)],
)
def test_numbers_are_made_where_bytes_are_not_read(name, read, monkeypatch):
    accumulator, _ = OTHERS[name]
    made, numbers = [], fpemu.Packed.numbers
    monkeypatch.setattr(fpemu.Packed, "numbers", lambda x: made.append(1) or numbers(x))
    a, b = members("bfloat16", 3, 70), members("bfloat16", 70, 130)
    fpemu.matmul(a, fpemu.Packed(b, "bfloat16"), accumulator)
    assert fpemu.Packed.is_read_by(accumulator) == read == (not made)


def test_numbers_that_are_far_below_are_read_from_codes_too():
    """Rows that narrow lanes leave to float64."""
    accumulator, _ = unit("hopper.wgmma.bfloat16")
    a, b = members("bfloat16", 3, 70), members("bfloat16", 70, 130)
    a[1] *= np.float32(2.0**-110)
    assert_same_bits(
        fpemu.matmul(a, fpemu.Packed(b, "bfloat16"), accumulator), fpemu.matmul(a, b, accumulator)
    )


def test_members_of_another_format_are_not_taken_for_the_inputs():
    a, b = members("float16", 3, 20), members("bfloat16", 20, 9) * np.float32(2.0**-30)
    hopper, _ = unit("hopper.wgmma.float16")
    packed = fpemu.Packed(b, "bfloat16")
    with pytest.raises(ValueError, match=r"b\[0, 0\] is .*not a member of float16"):
        fpemu.matmul(a, packed, hopper)
    assert_same_bits(
        fpemu.matmul(a, packed, hopper, convert="rtz"), fpemu.matmul(a, b, hopper, convert="rtz")
    )


def test_columns_share_the_memory():
    b = members("bfloat16", 20, 200)
    packed = fpemu.Packed(b, "bfloat16")
    part = packed.columns(64, 150)
    assert part.shape == (20, 86)
    assert_same_bits(part.numbers(), b[:, 64:150])
    a = members("bfloat16", 1, 20)
    accumulator = fpemu.Sequential("float32")
    assert_same_bits(fpemu.matmul(a, part, accumulator), fpemu.matmul(a, b[:, 64:150], accumulator))
    with pytest.raises(ValueError, match="columns 3 to 70 of 200: expected a multiple of 64"):
        packed.columns(3, 70)


def test_parts_side_by_side():
    b = members("bfloat16", 20, 200)
    parts = [fpemu.Packed(b[:, first : first + 128], "bfloat16") for first in (0, 128)]
    assert_same_bits(fpemu.Packed.beside(iter(parts), 200).numbers(), b)
    one = fpemu.Packed([[1.0]], "bfloat16")
    for wrong in (parts[::-1], parts[:1], [parts[0], parts[0]], [parts[0], one]):
        with pytest.raises(ValueError, match=r"expected|does not fit"):
            fpemu.Packed.beside(wrong, 200)


@pytest.mark.parametrize(
    ("b", "format", "message"),
    [
        ([1.0], "bfloat16", r"must be a matrix, not an array of shape \(1,\)"),
        ([[1.0]], "float32", "float32 cannot be packed"),
        ([[1.0]], "e8m8", "cannot be packed"),
        ([[1.0]], "float8_e8m0fnu", "cannot be packed"),
        ([[1.0, 1.0 + 2.0**-9]], "bfloat16", "not a finite member of bfloat16"),
        ([[2.0**-60]], "float8_e5m2", "not a finite member"),
        ([[2.0**40]], "float16", "not a finite member"),
        ([[np.nan]], "float8_e4m3fn", "not a finite member"),
    ],
)
def test_what_cannot_be_packed_is_refused(b, format, message):
    with pytest.raises(ValueError, match=message):
        fpemu.Packed(b, format)


def test_empty_matrices():
    for shape in ((0, 3), (3, 0)):
        packed = fpemu.Packed(np.zeros(shape), "bfloat16")
        assert packed.numbers().shape == packed.shape == shape
        found = fpemu.matmul(np.zeros((2, shape[0])), packed, fpemu.Sequential("float32"))
        assert_same_bits(found, np.zeros((2, shape[1])))


def test_numbers_of_another_format_are_members_or_an_error():
    unit = fpemu.devices.get("hopper.wgmma.bfloat16")
    packed = fpemu.Packed([[1.0 + 2.0**-9]], "float16")
    with pytest.raises(ValueError, match=r"b\[0, 0\] is 1\.001953125, which is not a member"):
        fpemu.matmul([[1.0]], packed, unit)
