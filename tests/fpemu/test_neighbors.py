"""The numbers next to a number, against a search among all members and against the libraries."""

import bisect
import functools
import itertools
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import fpemu
from fpemu import reference
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits
from tests.oracle.points import ALL_FORMATS

members = functools.cache(reference.members)
SMALL = [format for format in ALL_FORMATS if format.bits <= 8]
FLOATS = (np.float16, np.float32, np.float64)
# float8_e8m0fnu apart, whose zero is NaN.
NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e3m4")
TINY = ("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn")


def points(format):
    """All members, what lies halfway between two, and numbers beyond the range."""
    numbers = members(format)
    halfway = [(a + b) / 2 for a, b in itertools.pairwise(numbers)]
    largest = format.max_finite
    beyond = [s * x for s in (1, -1) for x in (largest * (1 + 2.0**-40), math.inf)]
    return numbers + halfway + beyond + [0.0, -0.0, 5e-324, -5e-324]


def following(x, format):
    """The smallest member above x, found in the list of all."""
    numbers = members(format)
    place = bisect.bisect_right(numbers, x)
    if place < len(numbers):
        zero = -0.0 if x < 0 and format.has_negative_zero else 0.0
        return numbers[place] or zero
    if format.infinities:
        return math.inf
    return format.max_finite if format.p3109 or not format.has_nan else math.nan


def preceding(x, format):
    """The largest member below x of a signed format, or of one that has such a member."""
    numbers = members(format)
    place = bisect.bisect_left(numbers, x) - 1
    if place >= 0:
        found = numbers[place]
        return found or (math.copysign(0.0, x) if format.has_negative_zero else 0.0)
    return None if not format.signed else -following(-x, format)


@for_each("format", SMALL)
def test_the_next_member_is_the_one_that_a_search_finds(format):
    numbers = points(format)
    below = [x for x in numbers if x < math.inf]
    up = fpemu.nextafter(below, math.inf, format)
    assert_same_bits(up, [following(x, format) for x in below], below, format)
    down = fpemu.nextafter(numbers, -math.inf, format)
    cases = [
        (actual, preceding(x, format), x)
        for actual, x in zip(down.tolist(), numbers, strict=True)
        if x > -math.inf and preceding(x, format) is not None
    ]
    actual, expected, numbers = map(np.array, zip(*cases, strict=True))
    assert_same_bits(actual, expected, numbers, format)


@for_each("format", SMALL)
def test_a_unit_in_the_last_place_is_the_gap_between_two_members(format):
    sizes = sorted({abs(Fraction(x)) for x in members(format)})
    numbers = [x for x in points(format) if math.isfinite(x)]
    expected = []
    for x in map(abs, numbers):
        place = bisect.bisect_right(sizes, x)
        gap = sizes[place] - sizes[place - 1] if 0 < place < len(sizes) else sizes[0]
        largest = Fraction(2) ** (format.emax - format.precision + 1)
        expected.append(largest if place == len(sizes) else gap)
    assert list(map(Fraction, fpemu.ulp(numbers, format).tolist())) == expected
    signed = [-gap if x < 0 else gap for x, gap in zip(numbers, expected, strict=True)]
    assert list(map(Fraction, fpemu.spacing(numbers, format).tolist())) == signed
    assert fpemu.ulp([math.inf, -math.inf], format).tolist() == [math.inf] * 2
    assert np.isnan(fpemu.spacing([math.inf, -math.inf], format)).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_numpys_own_types_are_as_numpy_has_them(dtype):
    unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
    width = 8 * unsigned.itemsize
    codes = np.random.default_rng(0).integers(0, 2**width, 20_000, unsigned)
    edges = [0, 1, 2, 2 ** (width - 1), 2 ** (width - 1) + 1]
    edges += [int(np.array(x, dtype).view(unsigned)) + d for x in (1.0, -1.0) for d in (-1, 0, 1)]
    codes = np.concatenate([codes, np.array(edges, unsigned)])
    codes = np.arange(2**16, dtype=unsigned) if width == 16 else codes
    x = codes.view(dtype)
    for y in (np.inf, -np.inf, 0.0, -0.0, 1.5):
        with np.errstate(all="ignore"):
            expected = np.nextafter(x, dtype(y))
        actual = fpemu.nextafter(x, y, dtype)
        equal = x == y  # numpy's float16 returns x there, and its others y, as C has it
        assert_same_bits(actual[equal].astype(np.float64), np.full(equal.sum(), y))
        expected[equal] = y
        assert_same_bits(actual.astype(np.float64), expected.astype(np.float64), x, (dtype, y))
    inside = np.isfinite(x) & (np.abs(x) < np.finfo(dtype).max)
    with np.errstate(all="ignore"):
        gaps = np.spacing(x)
    if dtype == np.float16:  # for which numpy looks upward from negative numbers, too
        inside &= x >= 0
    assert_same_bits(fpemu.spacing(x[inside], dtype), gaps[inside], x[inside])
    assert np.isnan(fpemu.spacing(x, dtype)[~np.isfinite(x)]).all()


def test_the_unit_in_the_last_place_of_float64_is_pythons():
    numbers = [0.0, -0.0, 5e-324, -1e-310, 1.0, -3.0, 1e300, 1.7976931348623157e308, math.inf]
    assert fpemu.ulp(numbers, "float64").tolist() == [math.ulp(x) for x in numbers]
    assert math.isnan(fpemu.ulp(math.nan, "float64"))


@pytest.mark.parametrize("name", NARROW + TINY)
def test_ml_dtypes_agrees_on_what_comes_next(name):
    dtype = np.dtype(getattr(ml_dtypes, name))
    format = fpemu.format(name)
    x = np.arange(2**format.bits, dtype=f"u{dtype.itemsize}").view(dtype)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        given = x.astype(np.float64)
        finite = x[np.isfinite(given)]
        for y in finite if name in TINY else finite[:: len(finite) // 7]:
            expected = np.nextafter(x, y).astype(np.float64)
            assert_same_bits(fpemu.nextafter(given, float(y), format), expected, given, (name, y))


def test_types_shapes_and_values_are_as_documented():
    x = np.array([[1.0, 0.3]], np.float32)
    for function in (fpemu.ulp, fpemu.spacing):
        assert function(x, "bfloat16").dtype == np.float32
        assert function(x, "float64").dtype == np.float64
        assert function(x, "bfloat16").shape == (1, 2)
        assert isinstance(function(1.0, "bfloat16"), np.float64)
    assert fpemu.nextafter(x, np.ones((3, 1), np.float32), "bfloat16").shape == (3, 2)
    assert fpemu.nextafter(x, np.ones((3, 1), np.float32), "bfloat16").dtype == np.float32
    assert fpemu.nextafter(0.3, 0.3, "float8_e4m3fn") == 0.3125
    assert fpemu.nextafter([], 1.0, "bfloat16").shape == (0,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fpemu.ulp("1", "bfloat16"), TypeError, "x must hold real numbers"),
        (lambda: fpemu.spacing(1.0, "float9"), ValueError, "unknown format 'float9'"),
        (lambda: fpemu.nextafter([1, 2], [1, 2, 3], "bfloat16"), ValueError, "do not broadcast"),
        (lambda: fpemu.nextafter(1.0, math.nan, "float4_e2m1fn"), ValueError, "y is NaN"),
        (lambda: fpemu.nextafter(1.0, 1j, "bfloat16"), TypeError, "y must hold real numbers"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
