"""The judge judged: against ml_dtypes, against numpy, and against a search through all values."""

import bisect
import functools
import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpemu import formats
from fpemu.formats import Format
from fpemu.reference import decode_exact, dot, dot_exact, members, round_exact
from tests.oracle.bits import assert_same_bits
from tests.oracle.points import ALL_FORMATS, MODES, NAMED, UNUSUAL, label, rounded, rounding_points

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=300)

WITH_DTYPE = [format for format in NAMED if format.name not in ("tf32", "float32", "float64")]
SMALL = [format for format in ALL_FORMATS if format.bits <= 8]


def dtype_of(format):
    return np.dtype(getattr(ml_dtypes, format.name, format.name))


def comparable(x, format):
    """`x` without what ml_dtypes does not convert, or not to the nearest value."""
    x = x if format.has_nan else x[~np.isnan(x)]
    if format == formats.float8_e8m0fnu:
        # ml_dtypes 0.6 takes every float32 subnormal above 2**-127 up to 2**-126.
        x = x[~((x > 2.0**-127) & (x < 1.5 * 2.0**-127))]
    return x


def converted(x, dtype):
    with np.errstate(all="ignore"):
        return x.astype(dtype).astype(np.float64)


@pytest.mark.parametrize("format", WITH_DTYPE, ids=label)
def test_rne_of_float16_values_is_ml_dtypes_conversion(format):
    # A stride prime to 2 meets every exponent, every low bit and both signs.
    codes = np.concatenate([np.arange(0, 2**16, 7), [0x7C00, 0xFC00, 0x7BFF, 0xFBFF, 0, 0x8000]])
    x = codes.astype(np.uint16).view(np.float16).astype(np.float32)
    x = comparable(x, format)
    assert_same_bits(rounded(x, format), converted(x, dtype_of(format)), x)


@pytest.mark.parametrize("format", WITH_DTYPE, ids=label)
def test_rne_of_float32_values_is_ml_dtypes_conversion(format):
    x = rounding_points(format, np.float32)
    bits = np.random.default_rng(1).integers(0, 2**32, 3000, dtype=np.uint32)
    x = np.concatenate([x, bits.view(np.float32)])
    x = comparable(x, format)
    assert_same_bits(rounded(x, format), converted(x, dtype_of(format)), x)


@repeatable
@given(st.floats(width=64))
def test_rne_into_float32_and_float16_is_numpys_conversion(x):
    for name in ("float32", "float16"):
        assert_same_bits(round_exact(x, name), converted(np.float64(x), name), x)


@repeatable
@given(st.fractions(), st.integers(-1100, 1100))
def test_rne_of_fractions_into_float64_is_pythons_division(x, exponent):
    x *= Fraction(2) ** exponent
    try:
        expected = x.numerator / x.denominator
    except OverflowError:
        expected = math.inf if x > 0 else -math.inf
    assert_same_bits(round_exact(x, "float64"), expected)


@repeatable
@given(st.floats(width=64))
def test_every_mode_leaves_float64_numbers_alone_in_float64(x):
    for mode in MODES:
        assert_same_bits(round_exact(x, "float64", mode), x)


@functools.cache
def magnitudes(format: Format) -> list[Fraction]:
    values = sorted({Fraction(value) for value in members(format) if value >= 0})
    return [*values, values[-1] + Fraction(2) ** (format.emax - format.precision + 1)]


def nearest_by_search(x: Fraction, format: Format, mode: str) -> float:
    """What the definition of each mode picks from the list of all values.

    The list goes one step beyond the largest value, as if the exponent range had no end, and that
    step stands for overflow.  A value and its position in the list, 0 for zero, are even together.
    """
    values = magnitudes(format)
    magnitude, negative = abs(x), x < 0
    position = min(bisect.bisect_right(values, magnitude), len(values) - 1) - 1
    below, above = values[position], values[position + 1]
    to_below, to_above = magnitude - below, above - magnitude
    nearer = position if to_below < to_above else position + 1
    tie = to_below == to_above
    if magnitude == below:
        chosen = position
    elif mode == "rne":
        chosen = position + position % 2 if tie else nearer
    elif mode == "rna":
        chosen = position + 1 if tie else nearer
    elif mode == "rnz":
        chosen = position if tie else nearer
    elif mode == "rto":
        chosen = position + (position + 1) % 2
    else:
        upward = {"rtz": False, "rtp": not negative, "rtn": negative}[mode]
        chosen = position + 1 if upward else position
    if chosen < len(values) - 1:
        return float(-values[chosen]) if negative else float(values[chosen])
    if mode in ("rtz", "rto") or mode == ("rtp" if negative else "rtn"):
        return -format.max_finite if negative else format.max_finite
    infinite = math.inf if format.infinities else math.nan if format.has_nan else format.max_finite
    return -infinite if negative else infinite


SEARCHABLE = [f for f in SMALL if f.signed and f.subnormals and f.precision > 1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("format", SEARCHABLE, ids=label)
def test_rounding_is_what_a_search_through_all_values_finds(format, mode):
    points = rounding_points(format, np.float64)
    points = points[np.isfinite(points) & (points != 0)]
    for x in points[:: 1 + points.size // 400].tolist():
        expected = nearest_by_search(Fraction(x), format, mode)
        actual = round_exact(x, format, mode)
        assert actual == expected or (math.isnan(actual) and math.isnan(expected)), (x, format)


def test_the_search_itself_finds_what_is_known():
    assert nearest_by_search(Fraction(5, 2), formats.float4_e2m1fn, "rne") == 2.0
    assert nearest_by_search(Fraction(5, 2), formats.float4_e2m1fn, "rna") == 3.0
    assert nearest_by_search(Fraction(-7, 2), formats.float4_e2m1fn, "rne") == -4.0
    assert nearest_by_search(Fraction(-1, 8), formats.float4_e2m1fn, "rto") == -0.5
    assert math.isnan(nearest_by_search(Fraction(465), formats.float8_e4m3fn, "rne"))


@pytest.mark.parametrize("mode", MODES)
def test_ties_at_precision_1_have_the_larger_magnitude_even(mode):
    expected = {"rne": 4.0, "rna": 4.0, "rnz": 2.0, "rtz": 2.0, "rtp": 4.0, "rtn": 2.0, "rto": 2.0}
    assert round_exact(3, "e8m0", mode) == expected[mode]
    assert round_exact(3, "float8_e8m0fnu", mode) == expected[mode]
    mirrored = {"rtp": "rtn", "rtn": "rtp"}.get(mode, mode)
    assert round_exact(-3, "e8m0", mode) == -expected[mirrored]


def test_half_the_smallest_number_goes_to_zero_which_is_even():
    assert round_exact(2.0**-127, "e8m0") == 0.0
    assert round_exact(2.0**-127, "e8m0", "rna") == 2.0**-126
    assert round_exact(2.0**-127, "e8m0", "rto") == 2.0**-126


@pytest.mark.parametrize("mode", MODES)
def test_without_subnormals_the_result_of_the_fixed_quantum_is_flushed(mode):
    format = Format("flushed", 8, 4, 7, subnormals=False)
    twin = formats.float8_e4m3
    points = rounding_points(twin, np.float64)
    for x in points[np.isfinite(points)].tolist():
        result = round_exact(x, twin, mode)
        if abs(result) < twin.smallest_normal:
            result = math.copysign(0.0, x)
        assert_same_bits(round_exact(x, format, mode), result, x)


def test_a_number_just_below_the_smallest_normal_may_round_up_to_it_without_subnormals():
    format = Format("flushed", 8, 4, 7, subnormals=False)
    assert round_exact(2.0**-6 - 2.0**-10, format) == 2.0**-6
    assert round_exact(2.0**-6 - 2.0**-10, format, "rnz") == 0.0
    assert round_exact(2.0**-6 - 2.0**-40, format) == 2.0**-6
    assert round_exact(2.0**-6 - 2.0**-40, format, "rtz") == 0.0
    assert round_exact(2.0**-200, format, "rtp") == 0.0
    assert_same_bits(round_exact(-(2.0**-200), format, "rtn"), -0.0)


@pytest.mark.parametrize(
    ("mode", "positive", "negative"),
    [
        ("rne", math.inf, -math.inf),
        ("rna", math.inf, -math.inf),
        ("rnz", math.inf, -math.inf),
        ("rtz", 65504.0, -65504.0),
        ("rto", 65504.0, -65504.0),
        ("rtp", math.inf, -65504.0),
        ("rtn", 65504.0, -math.inf),
    ],
)
def test_overflow_follows_the_mode(mode, positive, negative):
    for x in (65536, 1e30, 2.0**1023, Fraction(10) ** 400):
        assert round_exact(x, "float16", mode) == positive
        assert round_exact(-x, "float16", mode) == negative
        assert round_exact(x, "float16", mode, "saturate") == 65504.0
        assert round_exact(-x, "float16", mode, "saturate") == -65504.0
        # No infinity, but a NaN; then neither.
        for finite, bounded in ((positive, formats.float8_e4m3fn), (negative, None)):
            x = x if bounded else -x
            result = round_exact(x, "float8_e4m3fn", mode)
            if math.isinf(finite):
                assert math.isnan(result)
            else:
                assert result == math.copysign(448.0, finite)
            assert round_exact(x, "float4_e2m1fn", mode) == math.copysign(6.0, finite)


@pytest.mark.parametrize("mode", MODES)
def test_infinity_stays_infinite_or_becomes_nan_or_the_largest(mode):
    for sign in (1.0, -1.0):
        x = sign * math.inf
        assert round_exact(x, "float16", mode) == x
        assert math.isnan(round_exact(x, "float8_e4m3fn", mode))
        assert round_exact(x, "float6_e2m3fn", mode) == sign * 7.5
        assert round_exact(x, "float16", mode, "saturate") == sign * 65504.0
        assert round_exact(x, "float8_e4m3fnuz", mode, "saturate") == sign * 240.0
        assert round_exact(x, "float6_e2m3fn", mode, "saturate") == sign * 7.5


@pytest.mark.parametrize("overflow", ["ieee", "saturate"])
@pytest.mark.parametrize("mode", MODES)
def test_nan_stays_nan_and_is_an_error_where_there_is_none(mode, overflow):
    assert math.isnan(round_exact(math.nan, "float16", mode, overflow))
    assert math.isnan(round_exact(math.nan, "float8_e5m2fnuz", mode, overflow))
    assert math.isnan(round_exact(math.nan, "float8_e8m0fnu", mode, overflow))
    with pytest.raises(ValueError, match="float4_e2m1fn"):
        round_exact(math.nan, "float4_e2m1fn", mode, overflow)


@pytest.mark.parametrize("mode", MODES)
def test_zeros_and_underflowed_numbers_keep_their_sign_where_the_format_has_both(mode):
    for name, negative in (("bfloat16", -0.0), ("float4_e2m1fn", -0.0), ("float8_e4m3fnuz", 0.0)):
        assert_same_bits(round_exact(0.0, name, mode), 0.0)
        assert_same_bits(round_exact(-0.0, name, mode), negative)
        if mode not in ("rtn", "rto"):
            assert_same_bits(round_exact(-(2.0**-1000), name, mode), negative)
        if mode not in ("rtp", "rto"):
            assert_same_bits(round_exact(2.0**-1000, name, mode), 0.0)


@pytest.mark.parametrize("overflow", ["ieee", "saturate"])
@pytest.mark.parametrize("mode", MODES)
def test_unsigned_formats_take_no_negative_number_but_those_that_round_to_zero(mode, overflow):
    with_nan, without = formats.format("binary6p3uf"), UNUSUAL[6]
    assert not without.signed
    assert not without.has_nan
    tiny_is_zero = mode not in ("rtn", "rto")
    for format in (with_nan, without):
        assert_same_bits(round_exact(-0.0, format, mode, overflow), 0.0)
        tiny = round_exact(-(2.0**-1000), format, mode, overflow)
        assert_same_bits(tiny, 0.0 if tiny_is_zero or not format.has_nan else math.nan)
        for x in (-1.0, -1e300, -math.inf, Fraction(-1, 3)):
            invalid = round_exact(x, format, mode, overflow)
            assert_same_bits(invalid, math.nan if format.has_nan else 0.0)


@pytest.mark.parametrize("mode", MODES)
def test_formats_without_zero_take_the_smallest_number_instead(mode):
    smallest = 2.0**-127
    for x in (2.0**-127, 2.0**-128, 5e-324, Fraction(1, 10**400)):
        assert round_exact(x, "float8_e8m0fnu", mode) == smallest
    for x in (0.0, -0.0, 0, -5e-324, -1.0, -math.inf):
        assert math.isnan(round_exact(x, "float8_e8m0fnu", mode))
    no_nan = UNUSUAL[8]
    assert not no_nan.has_nan
    assert not no_nan.has_zero
    for x in (0.0, -0.0, -1.0, -math.inf, 1e-300):
        assert round_exact(x, no_nan, mode) == no_nan.smallest_normal


def test_rounding_takes_a_mode_or_an_object_and_overflow_overrides():
    rounding = SimpleNamespace(mode="rtp", overflow="saturate")
    assert round_exact(1e9, "float16", rounding) == 65504.0
    assert round_exact(1e9, "float16", rounding, "ieee") == math.inf
    assert round_exact(Fraction(1, 3), "float16", rounding) > Fraction(1, 3)


@pytest.mark.parametrize("rounding", ["sr", "nearest", "", "RNE"])
def test_unknown_modes_are_value_errors(rounding):
    with pytest.raises(ValueError, match=f"'{rounding}'.*rne"):
        round_exact(1.0, "float16", rounding)
    with pytest.raises(ValueError, match=r"'wrap'.*saturate"):
        round_exact(1.0, "float16", "rne", "wrap")


@pytest.mark.parametrize("x", ["1.0", None, 1j, [1.0]])
def test_what_is_no_real_number_is_a_type_error(x):
    with pytest.raises(TypeError, match=type(x).__name__):
        round_exact(x, "float16")


@repeatable
@given(st.floats(allow_nan=False, width=32), st.sampled_from(MODES))
def test_the_type_of_a_number_does_not_matter(x, mode):
    expected = round_exact(x, "e5m7", mode)
    for same in (np.float32(x), np.float64(x), np.longdouble(x), mpmath.mpf(x)):
        if not (isinstance(same, mpmath.mpf) and x == 0):  # mpmath has no -0
            assert_same_bits(round_exact(same, "e5m7", mode), expected)
    if math.isfinite(x) and x != 0:
        assert_same_bits(round_exact(Fraction(x), "e5m7", mode), expected)


@pytest.mark.parametrize("mode", MODES)
def test_integers_of_any_size_are_taken_exactly(mode):
    for value in (0, 7, 2**53 + 1, -(2**70) - 1, 3**200):
        expected = round_exact(Fraction(value), "e11m20", mode)
        assert round_exact(value, "e11m20", mode) == expected
    assert round_exact(np.int64(2**53 + 1), "float64", "rtp") == 2.0**53 + 2


@pytest.mark.parametrize("mode", MODES)
def test_mpmath_numbers_are_taken_exactly_however_far_out(mode):
    with mpmath.workprec(200):
        third = mpmath.mpf(1) / 3
    assert mpmath.mp.prec == 53
    exact = Fraction(*map(int, mpmath.libmp.to_rational(third._mpf_)))
    assert exact.denominator > 2**199
    assert round_exact(third, "float64", mode) == round_exact(exact, "float64", mode)
    # Written out, these have 10**15 digits.
    huge, tiny = mpmath.ldexp(1, 10**15), mpmath.ldexp(1, -(10**15))
    for sign in (1, -1):
        far = Fraction(sign) * 2**2000
        assert_same_bits(
            round_exact(sign * huge, "float64", mode), round_exact(far, "float64", mode)
        )
        assert_same_bits(
            round_exact(sign * tiny, "float64", mode), round_exact(1 / far, "float64", mode)
        )
    assert round_exact(mpmath.inf, "float64", mode) == math.inf
    assert round_exact(-mpmath.inf, "float64", mode) == -math.inf
    assert math.isnan(round_exact(mpmath.nan, "float64", mode))
    assert_same_bits(round_exact(mpmath.mpf(0), "float64", mode), 0.0)


@pytest.mark.parametrize("format", WITH_DTYPE, ids=label)
def test_decoding_is_that_of_ml_dtypes_for_every_code(format):
    codes = np.arange(2**format.bits)
    with np.errstate(invalid="ignore"):
        expected = codes.astype(f"u{dtype_of(format).itemsize}").view(dtype_of(format))
        expected = expected.astype(np.float64)
    step = 1 if format.bits <= 8 else 5
    actual = [decode_exact(code, format) for code in codes[::step].tolist()]
    assert_same_bits(actual, expected[::step])


def test_decoding_float64_and_float32_is_numpys():
    for name, unsigned in (("float64", np.uint64), ("float32", np.uint32)):
        bits = 8 * np.dtype(unsigned).itemsize
        codes = np.random.default_rng(2).integers(0, 2**bits - 1, 2000, unsigned, endpoint=True)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            expected = codes.view(name).astype(np.float64)
        assert_same_bits([decode_exact(code, name) for code in codes.tolist()], expected)


def test_decoding_a_code_out_of_range_is_a_value_error():
    for code in (-1, 256):
        with pytest.raises(ValueError, match=f"{code}.*255"):
            decode_exact(code, "float8_e4m3")


@pytest.mark.parametrize("format", SMALL, ids=label)
def test_members_are_fixed_points_and_there_is_nothing_between_them(format):
    values = members(format)
    assert values == sorted(values)
    assert values[-1] == format.max_finite
    assert min(value for value in values if value > 0) == format.smallest_subnormal
    for mode in MODES:
        assert_same_bits([round_exact(value, format, mode) for value in values], values)
    for below, above in itertools.pairwise(values):
        middle = Fraction(below) / 2 + Fraction(above) / 2
        if below == above:
            assert_same_bits([below, above], [-0.0, 0.0])
        elif middle != 0:  # between the numbers next to zero of a format that has none
            for mode in MODES:
                assert round_exact(middle, format, mode) in (below, above)


def test_members_are_counted_by_the_facts():
    assert len(members("float8_e4m3fn")) == 254
    assert len(members("float8_e4m3fnuz")) == 255
    assert len(members("float8_e8m0fnu")) == 255
    assert len(members("float16")) == 2 * 0x7C00
    assert len(members(Format("flushed", 8, 4, 7, subnormals=False))) == 2 * (15 * 8 - 8 + 1)
    assert_same_bits(members("float4_e2m1fn")[7:9], [-0.0, 0.0])
    with pytest.raises(ValueError, match=r"tf32.*19 bits"):
        members("tf32")


finite = st.floats(allow_nan=False, allow_infinity=False)


@repeatable
@given(st.lists(st.tuples(finite, finite), max_size=8), st.randoms(use_true_random=False))
def test_exact_inner_products_do_not_depend_on_the_order(pairs, random):
    expected = sum((Fraction(x) * Fraction(y) for x, y in pairs), Fraction(0))
    shuffled = random.sample(pairs, len(pairs))
    a, b = [x for x, _ in shuffled], [y for _, y in shuffled]
    assert dot_exact(a, b) == expected
    assert dot_exact(np.array(a), np.array(b)) == expected
    for mode in MODES:
        assert_same_bits(dot(a, b, "e8m7", mode), round_exact(expected, "e8m7", mode))


def test_inner_products_survive_what_float64_does_not():
    assert dot_exact([1e300, 1.0, -1e300], [1e300, 5e-324, 1e300]) == Fraction(5e-324)
    assert dot([2.0**-149] * 2, [2.0**-149] * 2, "float32", "rtp") == 2.0**-149
    assert dot([3e38, 3e38], [1.0, 1.0], "float32") == math.inf
    assert dot([3e38, 3e38], [1.0, 1.0], "float32", "rne", "saturate") == float(
        np.finfo(np.float32).max
    )
    assert_same_bits(dot([], [], "float32"), 0.0)


def test_inner_products_of_other_things_are_value_errors():
    with pytest.raises(ValueError, match=r"2 elements.*1"):
        dot_exact([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match=r"b\[1\] is nan"):
        dot_exact([1.0, 2.0], [1.0, math.nan])
    with pytest.raises(ValueError, match=r"a\[0\] is -inf"):
        dot([-math.inf], [1.0], "float32")
