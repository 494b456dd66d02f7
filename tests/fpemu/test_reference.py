"""The judge judged: against ml_dtypes, numpy, MPFR, and a search through all values."""

import bisect
import dataclasses
import functools
import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import gmpy2
import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpemu import formats, functions, reference
from fpemu.formats import Format
from fpemu.reference import (
    attention,
    decode_exact,
    dot,
    dot_exact,
    function,
    gelu,
    layer_norm,
    members,
    rms_norm,
    round_exact,
    softmax,
)
from tests.cases import for_each
from tests.oracle import rounding as oracle
from tests.oracle.bits import assert_same_bits
from tests.oracle.points import ALL_FORMATS, MODES, NAMED, UNUSUAL, label, rounding_points
from tests.oracle.rounding import Numbers, one_by_one, rounded

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
    assert_same_bits(one_by_one(x, format), converted(x, dtype_of(format)), x)


@pytest.mark.parametrize("format", WITH_DTYPE, ids=label)
def test_rne_of_float32_values_is_ml_dtypes_conversion(format):
    x = rounding_points(format, np.float32)
    bits = np.random.default_rng(1).integers(0, 2**32, 3000, dtype=np.uint32)
    x = np.concatenate([x, bits.view(np.float32)])
    x = comparable(x, format)
    assert_same_bits(one_by_one(x, format), converted(x, dtype_of(format)), x)


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
def magnitudes(format: Format) -> list[gmpy2.mpq]:
    values = sorted({gmpy2.mpq(value) for value in members(format) if value >= 0})
    return [*values, values[-1] + gmpy2.mpq(2) ** (format.emax - format.precision + 1)]


def nearest_by_search(x: gmpy2.mpq, format: Format, mode: str) -> float:
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


# P3109's formats have an oracle of their own.
SEARCHABLE = [f for f in SMALL if f.signed and f.subnormals and f.precision > 1 and not f.p3109]


@for_each("mode", MODES)
@pytest.mark.parametrize("format", SEARCHABLE, ids=label)
def test_rounding_is_what_a_search_through_all_values_finds(format, mode):
    points = rounding_points(format, np.float64)
    points = points[np.isfinite(points) & (points != 0)]
    for x in points[:: 1 + points.size // 400].tolist():
        expected = nearest_by_search(gmpy2.mpq(x), format, mode)
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


def in_rationals(x):
    return [gmpy2.mpq(v) if v and math.isfinite(v) else v for v in x.tolist()]


def assert_arrays_round_as_their_elements_do(format, step):
    """Of all points, each of as many ways to round takes those of another start."""
    for dtype in (np.float32, np.float64):
        points = rounding_points(format, dtype)
        some = Numbers(in_rationals(points[::step]))
        for number, way in enumerate(itertools.product(MODES, reference._OVERFLOWS)):
            x = points[number % step :: step]
            expected = one_by_one(x, format, *way)
            assert_same_bits(rounded(x, format, *way), expected, x, way)
            for values in (x.tolist(), in_rationals(x)):
                singly = [oracle.round_exact(v, format, *way) for v in values]
                assert_same_bits(singly, expected, x, way)
            assert_same_bits(rounded(some, format, *way), rounded(points[::step], format, *way))


@pytest.mark.parametrize("format", ALL_FORMATS, ids=label)
def test_arrays_round_as_their_elements_do(format):
    assert_arrays_round_as_their_elements_do(format, 41)


@for_each("format", ALL_FORMATS)
def test_the_oracle_tells_numbers_from_ties_that_lie_as_near_as_any(format):
    points = rounding_points(format, np.float64)
    points = points[np.isfinite(points) & (points != 0)]
    step = 1 + points.size // 50
    for number, mode in enumerate(MODES):
        numbers = [
            gmpy2.mpq(x) * (1 + gmpy2.mpq(sign, 3 * 2**100))
            for x in points[number % step :: step].tolist()
            for sign in (-1, 1)
        ]
        expected = [round_exact(x, format, mode) for x in numbers]
        assert_same_bits(rounded(Numbers(numbers), format, mode), expected, about=mode)


@repeatable
@given(
    st.fractions(),
    st.integers(-1100, 1100),
    st.sampled_from(ALL_FORMATS),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_the_oracle_rounds_fractions_as_the_definition_does(x, exponent, format, mode, binary):
    """Those over a power of two, and others."""
    x = gmpy2.mpq(x.numerator) if binary else gmpy2.mpq(x)
    x *= gmpy2.mpq(2) ** exponent
    expected = round_exact(x, format, mode)
    assert_same_bits(oracle.round_exact(x, format, mode), expected, about=x)
    assert_same_bits(rounded(Numbers([x]), format, mode), [expected], about=x)


@pytest.mark.long
@pytest.mark.parametrize("format", ALL_FORMATS, ids=label)
def test_arrays_of_all_points_round_as_their_elements_do(format):
    assert_arrays_round_as_their_elements_do(format, 1)


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
    with_nan, without = dataclasses.replace(formats.Binary6p3uf, p3109=False), UNUSUAL[6]
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


@for_each("format", SMALL)
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


# --- functions of one number ---------------------------------------------------------------------

NATIVE = {  # what MPFR rounds correctly by itself
    "erf": gmpy2.erf,
    "exp": gmpy2.exp,
    "exp2": gmpy2.exp2,
    "expm1": gmpy2.expm1,
    "log": gmpy2.log,
    "log1p": gmpy2.log1p,
    "log2": gmpy2.log2,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": gmpy2.rec_sqrt,
    "sqrt": gmpy2.sqrt,
    "tanh": gmpy2.tanh,
}
COMPOSITE = {  # with relative errors far below 2**-64 of what the precision gives
    "gelu": lambda x: x * gmpy2.erfc(-x / gmpy2.sqrt(gmpy2.mpfr(2))) / 2,
    "gelu_tanh": lambda x: (
        x / (1 + gmpy2.exp(-2 * gmpy2.sqrt(2 / gmpy2.const_pi()) * x * (1 + 44715 * x * x / 10**6)))
    ),
    "sigmoid": lambda x: 1 / (1 + gmpy2.exp(-x)),
    "silu": lambda x: x / (1 + gmpy2.exp(-x)),
}
FUNCTIONS = (*NATIVE, *COMPOSITE, "relu")
EXTREMES = (1e300, 1e200, 1e10, 3001.0, 2999.0, 81.0, 79.0, 61.0, 59.0, 41.0, 39.0, 1e-300, 5e-324)


def fraction(number):
    return Fraction(*map(int, number.as_integer_ratio()))


@functools.cache
def native(name, x):
    """The value or what rounds alike.

    MPFR gives the neighbors of 200 bits.  A rounding changes at numbers of 54 bits at most, and
    there is none between those; beyond the exponents of the context any numbers will do.
    """
    ends = []
    for direction in (gmpy2.RoundDown, gmpy2.RoundUp):
        with gmpy2.context(precision=200, emin=-5000, emax=5000, round=direction):
            end = NATIVE[name](gmpy2.mpfr(x, 53))
            assert not gmpy2.is_nan(end)
            ends.append(fraction(end) if gmpy2.is_finite(end) else None)
    low, high = (end if end is not None else 2 * sum(filter(None, ends)) for end in ends)
    return (low + high) / 2 or 0.0


@functools.cache
def composite(name, x, precision):
    with gmpy2.context(precision=precision, emin=-(10**6), emax=10**6):
        return fraction(COMPOSITE[name](gmpy2.mpfr(x, 53)))


def by_mpfr(name, x, format, mode):
    if name in NATIVE:
        return round_exact(native(name, x), format, mode)
    for precision in (200, 1000, 5000, 20000):
        margin = Fraction(1, 2 ** (precision - 64))
        ends = [composite(name, x, precision) * (1 + e) for e in (-margin, margin)]
        low, high = (round_exact(end, format, mode) for end in ends)
        if (low, math.copysign(1, low)) == (high, math.copysign(1, high)):
            return low
    raise AssertionError(f"20000 bits do not tell {name}({x}) from a member or midpoint")


def arguments(name, count):
    """Arguments of every size, and some whose values lie next to a number of 11 or 12 bits."""
    generator = np.random.default_rng(FUNCTIONS.index(name))
    x = np.concatenate(
        [
            generator.normal(0, 3, count),
            2.0 ** generator.uniform(-40, 8, count) * generator.choice([-1, 1], count),
            2.0 ** np.arange(-1074, 1024, 150),
            1 + np.arange(-3, 4) * 2.0**-52,
            np.arange(-9.0, 10.0),
            0.25 * np.arange(1, 9),
            np.log(1 + np.arange(1, 9) / 2048),
            np.sqrt(1 + np.arange(1, 9) / 2048),
            EXTREMES,
            np.negative(EXTREMES),
        ]
    )
    x = x[x != 0]
    least = {"log": 0.0, "log2": 0.0, "sqrt": 0.0, "rsqrt": 0.0, "log1p": -1.0}.get(name, -math.inf)
    return np.where(x > least, x, np.abs(x)).tolist()


@pytest.mark.parametrize("format", ["float64", "float32", "float16", "e8m4", "e11m9"])
@pytest.mark.parametrize("name", NATIVE)
def test_functions_are_what_mpfr_encloses(name, format):
    x = arguments(name, 25)
    for mode in MODES if format == "float64" else ("rne", "rto"):
        expected = [by_mpfr(name, value, format, mode) for value in x]
        assert_same_bits([function(name, value, format, mode) for value in x], expected, x, mode)


@pytest.mark.parametrize("name", COMPOSITE)
def test_functions_that_mpfr_has_not_are_what_it_encloses(name):
    x = [value for value in arguments(name, 30) if abs(value) < 3500 and abs(value) > 1e-150]
    if name.startswith("gelu"):
        x = [value for value in x if abs(value) < (45 if name == "gelu_tanh" else 100)]
    for format, mode in (
        ("float64", "rne"),
        ("float64", "rto"),
        ("float16", "rtp"),
        ("e8m4", "rnz"),
    ):
        expected = [by_mpfr(name, value, format, mode) for value in x]
        assert_same_bits([function(name, value, format, mode) for value in x], expected, x, mode)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "sqrt"])
def test_functions_are_the_kernels(name):
    x = np.array([*arguments(name, 250), 0.0, -0.0, math.inf, -math.inf, math.nan, -2.0, -1.0])
    cases = [("float32", "rne"), ("bfloat16", "rtp"), ("float8_e4m3fn", "rto"), ("e5m7", "rna")]
    cases += [("float8_e8m0fnu", "rne"), ("binary6p3uf", "rtn"), ("float8_e5m2fnuz", "rnz")]
    for i, (format, mode) in enumerate(cases):
        some = x if i == 0 else x[i::3]
        actual = [function(name, value, format, mode) for value in some.tolist()]
        assert_same_bits(actual, getattr(functions, name)(some, format, mode), some, (format, mode))


@pytest.mark.parametrize("name", ["log", "sqrt", "rsqrt", "log1p", "log2"])
def test_a_value_that_is_nan_in_a_format_without_nan_is_a_value_error(name):
    with pytest.raises(ValueError, match=rf"{name}\(-2.0\) is nan.*float4_e2m1fn"):
        function(name, -2.0, "float4_e2m1fn")


def test_functions_check_their_arguments():
    with pytest.raises(ValueError, match=r"'add'.*erf, exp, .*tanh"):
        function("add", 1.0, "float16")
    with pytest.raises(ValueError, match=r"exp\(nan\) is nan.*float4_e2m1fn"):
        function("exp", math.nan, "float4_e2m1fn")
    with pytest.raises(ValueError, match="'sr'"):
        function("exp", 1.0, "float16", "sr")
    with pytest.raises(TypeError, match="str"):
        function("exp", "1", "float16")


def test_square_roots_at_the_ends_of_their_domain():
    assert_same_bits([function("sqrt", x, "float64") for x in (0.0, -0.0)], [0.0, -0.0])
    assert function("sqrt", math.inf, "float64") == math.inf
    assert math.isnan(function("sqrt", -math.inf, "float64"))
    assert math.isnan(function("sqrt", -5e-324, "float64"))


@pytest.mark.parametrize("mode", MODES)
def test_exact_values_are_themselves_in_every_mode(mode):
    for name, x, value in (
        ("exp2", -1074.0, 5e-324),
        ("exp2", 1023, 2.0**1023),
        ("log2", 2.0**-1074, -1074.0),
        ("log2", Fraction(1, 2**2000), -2000.0),
        ("log2", 1.0, 0.0),
        ("log", 1.0, 0.0),
        ("sqrt", Fraction(9, 64), 0.375),
        ("rsqrt", Fraction(9, 64), 8 / 3),
        ("rsqrt", Fraction(64, 9), 0.375),
        ("reciprocal", Fraction(3, 2), 2 / 3),
        ("relu", Fraction(2, 3), 2 / 3),
    ):
        if value in (8 / 3, 2 / 3):
            value = round_exact(Fraction(8 if value > 1 else 2, 3), "float64", mode)
        assert_same_bits(function(name, x, "float64", mode), value, about=(name, x))


def test_overflow_of_functions_is_the_roundings():
    saturating = SimpleNamespace(mode="rne", overflow="saturate")
    assert function("exp", 1e300, "float16", saturating) == 65504.0
    assert function("exp", 1e300, "float16", saturating, "ieee") == math.inf
    assert function("exp", 12.0, "float16", "rtz") == 65504.0
    assert math.isnan(function("exp", 12.0, "float8_e4m3fn"))


def test_arguments_of_any_type_are_taken_exactly():
    with mpmath.workprec(300):
        beside_1 = 1 + mpmath.ldexp(1, -250)
    assert function("log", beside_1, "float64") == 2.0**-250
    assert function("log", Fraction(10) ** 1000, "float64") == 1000 * math.log(10)
    assert function("log1p", Fraction(1, 2**3000) - 1, "float64") == -3000 * math.log(2)
    assert function("log1p", Fraction(1, 3**2000), "float64", "rtp") == 5e-324
    assert function("reciprocal", 3**700, "float64") == 1 / 3**700
    for value in (np.float32(0.1), np.float64(0.1), mpmath.mpf(0.1), Fraction(0.1)):
        exact = Fraction(float(value))
        assert function("tanh", value, "float64") == function("tanh", exact, "float64")
    # A third lies between any two floats, and so does its exponential.
    below, above = math.nextafter(1 / 3, 0), math.nextafter(1 / 3, 1)
    for mode in MODES:
        value = function("exp", Fraction(1, 3), "float64", mode)
        assert function("exp", below, "float64", mode) <= value
        assert value <= function("exp", above, "float64", mode)


def test_silu_and_gelu_of_arguments_with_many_bits_near_their_minimum():
    # silu' = 0 where x = -(1 + exp(-x)); neighbors enclose the extremum.
    with mpmath.workdps(60):
        x = mpmath.findroot(lambda x: 1 + mpmath.exp(-x) + x * mpmath.exp(-x), -1.278)
        expected = x / (1 + mpmath.exp(-x))
    third = Fraction(*map(int, mpmath.libmp.to_rational(x._mpf_))) + Fraction(1, 3 * 2**180)
    assert function("silu", third, "float64") == round_exact(expected, "float64")


@pytest.mark.parametrize(
    "x", [2**4097, Fraction(1, 3**4000), mpmath.ldexp(1, 10**12), mpmath.ldexp(-1, -(10**12))]
)
def test_arguments_that_cannot_be_written_out_are_value_errors(x):
    with pytest.raises(ValueError, match="x is no ratio of integers of at most 4096 bits"):
        function("log1p", x, "float64")


def test_far_arguments_round_as_those_just_before_them():
    for name in ("exp", "exp2", "expm1", "sigmoid", "silu", "tanh", "erf", "gelu", "gelu_tanh"):
        far = reference._FAR_OUT.get(name, reference._USUALLY_FAR_OUT)
        for mode, sign in itertools.product(("rne", "rtz", "rtp", "rtn"), (1, -1)):
            if name in ("silu", "gelu", "gelu_tanh") and sign > 0:
                x = [sign * far, math.nextafter(far, 0)]
                drop = mode in ("rtz", "rtn")
                expected = [math.nextafter(value, 0) if drop else value for value in x]
            else:
                x = [sign * far, sign * math.nextafter(far, 0)]
                expected = [function(name, x[1], "float64", mode)] * 2
            assert_same_bits([function(name, value, "float64", mode) for value in x], expected, x)


def test_a_value_that_no_precision_tells_from_a_boundary_ends_in_an_error(monkeypatch):
    monkeypatch.setattr(reference, "_LAST_PRECISION", 1024)
    assert function("log2", 8.0, "float16", "rtz") == 3.0
    monkeypatch.delitem(reference._RATIONAL_VALUES, "log2")
    with pytest.raises(ArithmeticError, match=r"1024 bits.*log2\(8.0\)"):
        function("log2", 8.0, "float16", "rtz")


def test_functions_neither_use_nor_change_mpmaths_precision():
    x = [0.1, 0.5, 0.7]
    expected = [function(name, 0.7, "float64") for name in FUNCTIONS]
    vectors = [softmax(x), layer_norm(x), rms_norm(x), gelu(x), attention([x], [x], [x])]
    reference._enclosure.cache_clear()
    with mpmath.workprec(7):
        assert [function(name, 0.7, "float64") for name in FUNCTIONS] == expected
        again = [softmax(x), layer_norm(x), rms_norm(x), gelu(x), attention([x], [x], [x])]
        assert mpmath.mp.prec == 7
    assert mpmath.mp.prec == 53
    for before, after in zip(vectors, again, strict=True):
        assert (before == after).all()
        assert {type(z) for z in before.ravel()} == {mpmath.mpf}


# --- vectors --------------------------------------------------------------------------------------


def assert_within(actual, expected, digits, scale=None):
    """Componentwise |actual - expected| <= 10**-digits scale, that of `expected` if left out."""
    with mpmath.workdps(digits + 400):
        for i, (got, wanted) in enumerate(zip(np.ravel(actual), np.ravel(expected), strict=True)):
            size = abs(wanted) if scale is None else np.ravel(scale)[i]
            assert abs(got - wanted) <= size * mpmath.mpf(10) ** -digits, (i, got, wanted)


NASTY = [0.1, -0.1, 1e-300, 5e-324, 700.25, -700.0, 1e5, 99999.5, -1e4]


def test_softmax_sums_to_1():
    for x in (NASTY, [0.0], [3.0] * 7, np.random.default_rng(0).normal(0, 30, 200)):
        z = softmax(x)
        with mpmath.workdps(80):
            assert abs(mpmath.fsum(z) - 1) < mpmath.mpf(10) ** -49
    with mpmath.workdps(150):
        assert abs(mpmath.fsum(softmax(NASTY, digits=120)) - 1) < mpmath.mpf(10) ** -119


def test_softmax_of_two_is_the_logistic_function():
    for difference in (0.0, 1.0, -0.3, 1e-20, 800.0, -1e6, 1e300):
        with mpmath.workdps(400):
            expected = 1 / (1 + mpmath.exp(mpmath.mpf(difference)))
        assert_within(softmax([0.0, difference])[0], expected, 50)


def test_softmax_does_not_change_with_a_shift():
    x = np.arange(-5, 6) / 8
    assert (softmax(x) == softmax(x + 2.0**40)).all()
    assert not (softmax(x) == softmax(x * 2)).any()
    ratio = softmax([5e-324, 0.0])
    with mpmath.workdps(400):
        assert abs((ratio[0] / ratio[1] - 1) - mpmath.mpf(5e-324)) < mpmath.mpf(10) ** -49


def test_vector_functions_reach_the_digits_they_promise():
    matrix = np.random.default_rng(1).normal(0, 8, (4, 4))
    with mpmath.workdps(300):
        one_root = [1 + mpmath.mpf(10) ** -i for i in range(1, 200, 50)]
    for f in (softmax, gelu, rms_norm, layer_norm):
        for x in (NASTY, np.array(NASTY) * 1e200, one_root, matrix):
            for digits in (5, 50):
                assert_within(f(x, digits=digits), f(x, digits=digits + 60), digits)
    low = attention(matrix, matrix, matrix)
    weights = attention(matrix, matrix, np.abs(matrix), digits=110)
    assert_within(low, attention(matrix, matrix, matrix, digits=110), 50, scale=weights)


def test_layer_norm_of_known_vectors():
    with mpmath.workdps(80):
        root = mpmath.sqrt(mpmath.mpf(3) / 2)
        zero = mpmath.mpf(0)
        expected = [-root, zero, root]
    assert_within(layer_norm([1e16, 1e16 + 2, 1e16 + 4], 0), expected, 50)
    assert_within(layer_norm([-1.0, 1.0], 3.0), [mpmath.mpf(-0.5), mpmath.mpf(0.5)], 50)
    assert_within(layer_norm([7.0]), [zero], 50)
    scaled = layer_norm(
        [[1.0, 2.0, 3.0, 6.0]] * 2, 0.5, [2.0, 1.0, 5.0, 0.5], [0.5, 0.0, -1.0, 0.0]
    )
    assert scaled.shape == (2, 4)
    assert_within(scaled, list(map(mpmath.mpf, (-1.5, -0.5, -1.0, 0.75))) * 2, 50)


def test_layer_norm_has_mean_zero_and_rms_norm_the_mean_square_1():
    x = np.random.default_rng(2).normal(1e6, 1.0, 50)
    with mpmath.workdps(80):
        assert abs(mpmath.fsum(layer_norm(x))) < mpmath.mpf(10) ** -47
        for z in (layer_norm(x, 0.0), rms_norm(x, epsilon=0.0)):
            assert abs(mpmath.fdot(z, z) / 50 - 1) < mpmath.mpf(10) ** -48


def test_rms_norm_of_known_vectors():
    with mpmath.workdps(80):
        expected = [3 / mpmath.sqrt(mpmath.mpf("12.5")), -8 / mpmath.sqrt(mpmath.mpf("12.5"))]
        exact_epsilon = 3 / mpmath.sqrt(9 + mpmath.mpf(10) ** -5)
    assert_within(rms_norm([3.0, 4.0], 0.0, [1.0, -2.0]), expected, 50)
    assert_within(rms_norm([3.0], Fraction(1, 10**5)), [exact_epsilon], 50)
    with pytest.raises(AssertionError):
        assert_within(rms_norm([3.0]), [exact_epsilon], 50)


def test_gelu_is_the_normal_distributions():
    x = [0.0, 1.0, 0.5, 3.0, 1e-300, 12.0, 40.0, 1e10]
    positive, negative = gelu(x), gelu(np.negative(x))
    with mpmath.workdps(80):
        expected = [value * mpmath.ncdf(mpmath.mpf(value)) for value in x[:4]]
        sums = [a - b for a, b in zip(positive, negative, strict=True)]
        differences = [a + b for a, b in zip(positive[:4], negative[:4], strict=True)]
        odd = [value * mpmath.erf(value / mpmath.sqrt(2)) for value in map(mpmath.mpf, x[:4])]
    assert_within(positive[:4], expected, 50)
    assert_within(sums, list(map(mpmath.mpf, x)), 49)
    assert_within(differences, odd, 48)
    with gmpy2.context(precision=400):
        tail = -20 * gmpy2.erfc(40 / gmpy2.sqrt(gmpy2.mpfr(2)))
        assert abs(gmpy2.mpfr(mpmath.nstr(negative[6], 60)) / tail - 1) < 1e-50


def test_attention_to_one_key_is_its_value():
    v = [[0.1, -7.0, 1e300]]
    assert_within(
        attention([[1.0, 2.0], [3.0, -1e5]], [[5.0, 6.0]], v), [*map(mpmath.mpf, v[0])] * 2, 50
    )


def test_attention_is_softmax_of_scaled_scores():
    generator = np.random.default_rng(3)
    q, k, v = (generator.normal(size=shape) for shape in ((2, 4), (3, 4), (3, 5)))
    result = attention(q, k, v)
    assert result.shape == (2, 5)
    for i in range(2):
        # The root of 4 is exact.
        scores = [dot_exact(q[i], key) / 2 for key in k]
        weights = softmax(scores, digits=60)
        with mpmath.workdps(70):
            expected = [mpmath.fdot(weights, map(mpmath.mpf, column)) for column in v.T.tolist()]
        assert_within(result[i], expected, 50, scale=[mpmath.mpf(10)] * 5)
    equal = attention([[3.0]], [[2.0]] * 4, [[1.0], [2.0], [4.0], [5.0]])
    assert_within(equal, [mpmath.mpf(3)], 50)


def test_causal_attention_sees_no_later_key():
    generator = np.random.default_rng(4)
    q, k, v = (generator.normal(size=(4, 3)) for _ in range(3))
    causal = attention(q, k, v, causal=True)
    for i in range(4):
        assert (causal[i] == attention(q[i : i + 1], k[: i + 1], v[: i + 1])[0]).all()
    assert not (causal[2] == attention(q, k, v)[2]).any()


def test_vector_functions_agree_with_float64():
    generator = np.random.default_rng(5)
    x, weight, bias = generator.normal(size=(3, 40)) * 3, *generator.normal(size=(2, 40))
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    z = e / e.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(softmax(x).astype(float), z, rtol=1e-14)
    centered = x - x.mean(axis=-1, keepdims=True)
    normal = centered / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    actual = layer_norm(x, weight=weight, bias=bias).astype(float)
    np.testing.assert_allclose(actual, normal * weight + bias, rtol=1e-13, atol=1e-14)
    root = np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(rms_norm(x, weight=weight).astype(float), x / root * weight, 1e-13)
    expected = [value / 2 * math.erfc(-value / math.sqrt(2)) for value in x.ravel()]
    np.testing.assert_allclose(gelu(x).astype(float).ravel(), expected, rtol=1e-12)
    scores = x @ x.T / math.sqrt(40)
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = (e / e.sum(axis=1, keepdims=True)) @ x
    np.testing.assert_allclose(attention(x, x, x).astype(float), expected, rtol=1e-12)


def test_vectors_of_any_type_are_taken_exactly():
    x = [0.5, -3.0, 1.0]
    for same in (
        np.array(x, np.float16),
        np.array(x, np.float32),
        np.array(x, ml_dtypes.bfloat16),
        np.array(x, ml_dtypes.float8_e4m3fn),
        np.array(x, np.longdouble),
        list(map(mpmath.mpf, x)),
        list(map(Fraction, x)),
        tuple(x),
    ):
        assert (softmax(same) == softmax(x)).all()
    assert (softmax([2**60 + 1, 2**60]) == softmax([1, 0])).all()
    with mpmath.workdps(60):
        third = mpmath.mpf(1) / 3
    assert softmax([third, 0.0])[0] != softmax([1 / 3, 0.0])[0]
    assert softmax(np.zeros((2, 3, 4))).shape == (2, 3, 4)


@pytest.mark.parametrize("f", [softmax, layer_norm, rms_norm, gelu], ids=lambda f: f.__name__)
def test_vectors_that_are_not_finite_or_none_are_value_errors(f):
    with pytest.raises(ValueError, match=r"x\[1\] is nan"):
        f([1.0, math.nan])
    with pytest.raises(ValueError, match=r"x\[1, 0\] is -inf"):
        f(np.array([[1.0, 2.0], [-math.inf, 3.0]]))
    with pytest.raises(ValueError, match=r"x\[0\] is \+inf"):
        f([mpmath.inf])
    with pytest.raises(ValueError, match=r"x\[1\] is no ratio"):
        f([mpmath.mpf(1), mpmath.ldexp(1, 10**12)])
    with pytest.raises(ValueError, match=r"\(2, 0\)"):
        f(np.empty((2, 0)))
    with pytest.raises(ValueError, match=r"\(\)"):
        f(1.0)
    with pytest.raises(ValueError, match="digits must be positive, not 0"):
        f([1.0], digits=0)
    with pytest.raises(TypeError, match="NoneType"):
        f([1.0, None])


def test_norms_check_their_parameters():
    for f in (layer_norm, rms_norm):
        with pytest.raises(ValueError, match=r"epsilon .*-1"):
            f([1.0, 2.0], -1.0)
        with pytest.raises(ValueError, match="epsilon is nan"):
            f([1.0, 2.0], math.nan)
        with pytest.raises(ValueError, match="epsilon is 0"):
            f([0.0, 0.0], 0.0)
        with pytest.raises(ValueError, match=r"weight has shape \(3,\).*2"):
            f([1.0, 2.0], weight=[1.0] * 3)
    with pytest.raises(ValueError, match=r"bias\[1\] is inf"):
        layer_norm([1.0, 2.0], bias=[0.0, math.inf])


def test_attention_checks_its_shapes():
    one = [[1.0, 2.0]]
    with pytest.raises(ValueError, match=r"matrices.*q \(2,\)"):
        attention(one[0], one, one)
    with pytest.raises(ValueError, match=r"k \(1, 1\)"):
        attention(one, [[1.0]], one)
    with pytest.raises(ValueError, match=r"v \(2, 2\)"):
        attention(one, one, one * 2)
    with pytest.raises(ValueError, match="causal"):
        attention(one, one * 2, one * 2, causal=True)
    with pytest.raises(ValueError, match=r"v\[0, 1\] is nan"):
        attention(one, one, [[1.0, math.nan]])


@pytest.mark.parametrize("format", ["float8_e4m3fn", "float8_e5m2fnuz", "float16"])
def test_codes_and_digits_may_be_integers_of_numpy(format):
    codes = np.arange(2 ** min(formats.format(format).bits, 8))
    for code in codes.astype(np.uint8 if formats.format(format).bits == 8 else np.uint16):
        assert_same_bits(
            np.float64(reference.decode_exact(code, format)),
            np.float64(reference.decode_exact(int(code), format)),
        )
    assert (
        reference.softmax([1.0, 2.0], digits=np.int64(30))[0]
        == reference.softmax([1.0, 2.0], digits=30)[0]
    )


def test_exact_products_take_integers_and_rationals():
    thousand = np.arange(1000)
    assert dot_exact(thousand, thousand) == sum(i * i for i in range(1000))
    assert dot_exact(np.array([2**62 + 1]), np.array([2], np.uint8)) == 2**63 + 2
    assert dot_exact([Fraction(1, 3), 2], [3, 0.5]) == 2
    assert dot_exact(np.array([0.1], np.float32), [1]) == Fraction(float(np.float32(0.1)))
    for vector in ([np.inf], [np.nan], np.array([-np.inf], np.float32)):
        with pytest.raises(ValueError, match=r"a\[0\] is"):
            dot_exact(vector, [1])
    with pytest.raises(TypeError, match="not str"):
        dot_exact(["1"], [1])
