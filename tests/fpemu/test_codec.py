"""Codes against ml_dtypes, numpy, the rules of P3109 and the documented packing."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fpemu
from fpemu.formats import Format
from fpemu.reference import decode_exact, members
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits
from tests.oracle.points import ALL_FORMATS, NAMED, UNUSUAL, label

SMALL = [format for format in ALL_FORMATS if format.bits <= 16]
LARGE = [format for format in ALL_FORMATS if format.bits > 16]
WITH_DTYPE = [format for format in NAMED if format.name not in ("tf32", "float32", "float64")]


def dtype_of(format):
    return np.dtype(getattr(ml_dtypes, format.name, format.name))


def widened(typed):
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return typed.astype(np.float64)


def code_dtype(bits):
    return np.dtype(f"uint{max(8, 1 << (bits - 1).bit_length())}")


def all_codes(format):
    return np.arange(2**format.bits, dtype=code_dtype(format.bits))


def corner_codes(format):
    """Codes at the corners of a wide format, and random ones."""
    field = 2 ** (format.precision - 1)
    corners = {0, 1, 2, field - 1, field, field + 1, 2 * field - 1, 2 * field, 2 * field + 1}
    corners |= {format.max_finite_code + step for step in (-1, 0, 1, 2)}
    generator = np.random.default_rng(format.bits)
    top = 2 ** (format.bits - format.signed)
    corners |= set(generator.integers(0, top, 200, dtype=np.uint64).tolist())
    corners = {code for code in corners if code < top}
    if format.signed:
        corners |= {code + top for code in corners}
    return np.array(sorted(corners), code_dtype(format.bits))


def codes_to_try(format):
    return all_codes(format) if format.bits <= 16 else corner_codes(format)


# Decoding


@pytest.mark.parametrize("format", WITH_DTYPE, ids=label)
def test_codes_of_ml_dtypes_decode_as_it_reads_them(format):
    codes = all_codes(format)
    assert_same_bits(fpemu.decode(codes, format), widened(codes.view(dtype_of(format))))


@pytest.mark.parametrize("format", WITH_DTYPE, ids=label)
def test_encoded_values_are_arrays_of_ml_dtypes_without_a_copy(format):
    typed = all_codes(format).view(dtype_of(format))
    numbers = widened(typed)
    numbers = numbers[~np.isnan(numbers)]
    codes = fpemu.encode(numbers, format)
    viewed = codes.view(dtype_of(format))
    assert viewed.tobytes() == numbers.astype(dtype_of(format)).tobytes()
    assert np.shares_memory(viewed, codes)
    assert_same_bits(fpemu.decode(viewed, format), numbers)


@pytest.mark.parametrize("format", WITH_DTYPE, ids=label)
def test_arrays_of_ml_dtypes_decode_as_their_codes_do(format):
    codes = all_codes(format)
    for shaped in (codes, codes.reshape(4, -1), codes[::-3], codes[:0]):
        expected = fpemu.decode(shaped, format)
        assert_same_bits(fpemu.decode(shaped.view(dtype_of(format)), format), expected)


@pytest.mark.parametrize(("name", "dtype"), [("float32", np.float32), ("float64", np.float64)])
def test_codes_of_float32_and_float64_are_numpys(name, dtype):
    word = code_dtype(np.dtype(dtype).itemsize * 8)
    generator = np.random.default_rng(5)
    random = generator.integers(0, np.iinfo(word).max, 10_000, word, endpoint=True)
    codes = np.concatenate([random, corner_codes(fpemu.format(name))])
    numbers = codes.view(dtype)
    decoded = fpemu.decode(codes, name)
    assert decoded.dtype == dtype
    assert_same_bits(decoded, numbers)
    ordinary = ~np.isnan(numbers)
    assert fpemu.encode(numbers, name).dtype == word
    np.testing.assert_array_equal(fpemu.encode(numbers, name)[ordinary], codes[ordinary])


@for_each("format", ALL_FORMATS)
def test_decoding_is_the_reference_decoding(format):
    codes = codes_to_try(format)
    codes = codes if codes.size <= 2**13 else codes[::37]
    decoded = fpemu.decode(codes, format)
    assert decoded.dtype == format.carrier
    assert_same_bits(decoded, [decode_exact(int(code), format) for code in codes])


def p3109_value(code, width, precision, signed, extended):
    """What a code of a P3109 format means, written from the standard's rules."""
    nan = 2 ** (width - 1) if signed else 2**width - 1
    if code == nan:
        return math.nan
    sign = 1.0
    if signed and code > nan:
        code, sign = code - nan, -1.0
    largest_positive = nan - 1
    if extended and code == largest_positive:
        return sign * math.inf
    bias = 2 ** (width - precision - signed)
    exponent, fraction = divmod(code, 2 ** (precision - 1))
    if exponent == 0:
        return sign * fraction * 2.0 ** (2 - precision - bias)
    return sign * (1 + fraction / 2 ** (precision - 1)) * 2.0 ** (exponent - bias)


def p3109_formats():
    for width in range(3, 9):
        for signed in (True, False):
            for precision in range(1, width + (not signed)):
                for extended in (True, False):
                    kind = "su"[not signed] + "fe"[extended]
                    yield width, precision, signed, extended, f"binary{width}p{precision}{kind}"


@for_each("width, precision, signed, extended, name", p3109_formats())
def test_p3109_formats_decode_by_the_rules_of_p3109(width, precision, signed, extended, name):
    codes = np.arange(2**width, dtype=np.uint8)
    expected = [p3109_value(int(c), width, precision, signed, extended) for c in codes]
    assert_same_bits(fpemu.decode(codes, name), expected)
    np.testing.assert_array_equal(fpemu.encode(expected, name), codes)  # P3109 has one NaN


# Encoding


@for_each("format", ALL_FORMATS)
def test_every_member_survives_encoding_bit_for_bit(format):
    numbers = fpemu.decode(codes_to_try(format), format)
    codes = fpemu.encode(numbers, format)
    assert codes.dtype == code_dtype(format.bits)
    assert_same_bits(fpemu.decode(codes, format), numbers)


@for_each("format", ALL_FORMATS)
def test_every_code_survives_decoding_nans_and_unused_codes_apart(format):
    codes = codes_to_try(format)
    numbers = fpemu.decode(codes, format)
    canonical = ~np.isnan(numbers)
    if not format.subnormals:
        canonical &= numbers != 0
    np.testing.assert_array_equal(fpemu.encode(numbers, format)[canonical], codes[canonical])


@pytest.mark.parametrize("format", [f for f in UNUSUAL if not f.subnormals], ids=label)
def test_would_be_subnormal_codes_are_zeros_of_their_sign(format):
    field = 2 ** (format.precision - 1)
    if not format.has_zero:
        assert fpemu.decode(0, format) == format.smallest_normal
        return
    count = min(field, 2**10)
    low = fpemu.decode(np.arange(count), format)
    assert_same_bits(low, np.zeros(count))
    assert fpemu.decode(field, format) == format.smallest_normal
    assert fpemu.encode(0.0, format) == 0
    if format.has_negative_zero:
        sign = 2 ** (format.bits - 1)
        codes = np.arange(count, dtype=np.uint64) + np.uint64(sign)
        assert_same_bits(fpemu.decode(codes, format), -np.zeros(count))
        assert fpemu.encode(-0.0, format) == sign


STRANGERS = [
    ("float8_e4m3fn", 449.0),
    ("float8_e4m3fn", np.inf),
    ("float8_e4m3fn", 2.0**-10),
    ("float8_e4m3fn", 1.0 + 2.0**-40),
    ("float8_e4m3fnuz", -0.0),
    ("float4_e2m1fn", np.nan),
    ("float4_e2m1fn", 5.0),
    ("float8_e8m0fnu", 0.0),
    ("float8_e8m0fnu", -1.0),
    ("float8_e8m0fnu", 1.5),
    ("binary8p3uf", -1.0),
    ("binary8p3uf", -0.0),
    ("float16", 65536.0),
    ("float16", 2.0**-25),
    ("bfloat16", 1e-300),
    ("bfloat16", 1e300),
    ("float32", 1.0 + 2.0**-52),
    ("float32", 2.0**-150),
    ("e11m51", 1.0 + 2.0**-52),
    ("e11m51", 2.0**-1074),
    ("e2m0", 5e-324),
]


@pytest.mark.parametrize(("name", "stranger"), STRANGERS)
def test_a_number_that_is_not_a_member_is_refused_by_value_and_index(name, stranger):
    one = fpemu.values("float8_e8m0fnu")[127]  # 1, a member of every format here
    with pytest.raises(ValueError, match="index 2") as error:
        fpemu.encode([one, one, stranger, stranger], name)
    assert repr(float(stranger)) in str(error.value)
    assert name in str(error.value)
    with pytest.raises(ValueError, match=r"\(1, 0\)"):
        fpemu.encode([[one, one], [stranger, one]], name)
    with pytest.raises(ValueError, match=repr(float(stranger)).replace("+", r"\+")):
        fpemu.encode(stranger, name)


def test_a_number_between_any_two_members_is_refused():
    for format in SMALL:
        numbers = fpemu.values(format).astype(np.float64)
        gaps = numbers[1:] != numbers[:-1]  # -0 and +0 are next to each other
        between = np.concatenate(
            [
                ((numbers[1:] + numbers[:-1]) / 2)[gaps],
                np.nextafter(numbers[:-1], np.inf)[gaps],
                np.nextafter(numbers[1:], -np.inf)[gaps],
            ]
        )
        # Midpoints below float64's smallest number round to members.
        between = np.setdiff1d(between, numbers)
        for number in between[:: max(1, between.size // 20)]:
            with pytest.raises(ValueError, match="is not a value of"):
                fpemu.encode(number, format)


def test_with_a_rounding_anything_is_encoded_as_rounded():
    x = np.random.default_rng(3).normal(0, 200, 1000)
    for name in ("float8_e4m3fn", "float6_e3m2fn", "bfloat16", "float32", "e11m20"):
        for rounding in ("rne", "rtz", fpemu.Rounding("rtp", "saturate")):
            expected = fpemu.encode(fpemu.round(x, name, rounding), name)
            np.testing.assert_array_equal(fpemu.encode(x, name, rounding), expected)
    assert fpemu.encode(1e9, "float4_e2m1fn", "rne") == 7


def test_scalars_give_scalars_and_shapes_are_kept():
    assert isinstance(fpemu.encode(1.0, "float16"), np.uint16)
    assert isinstance(fpemu.decode(0x3C00, "float16"), np.float32)
    assert isinstance(fpemu.decode(0x3C00, "float64"), np.float64)
    assert isinstance(fpemu.decode(0x3C00, "float32"), np.float32)
    for name in ("bfloat16", "float32"):
        for shape in ((0,), (3, 0), (2, 3), (2, 1, 4)):
            x = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
            assert fpemu.encode(x, name).shape == shape
            assert_same_bits(fpemu.decode(fpemu.encode(x, name), name), x)
        x = np.arange(24.0).reshape(4, 6)
        for view in (x.T, x[::2, ::-3], x[:, 1], np.broadcast_to(x[0], (3, 6))):
            assert_same_bits(fpemu.decode(fpemu.encode(view, name), name), view)


@pytest.mark.parametrize("name", ["float4_e2m1fn", "float6_e2m3fn", "float16", "tf32", "float32"])
def test_codes_out_of_range_are_value_errors_that_say_which(name):
    bits = fpemu.format(name).bits
    for code in (-1, 2**bits, 2**bits + 5, -(2**31)):
        with pytest.raises(ValueError, match=str(code)):
            fpemu.decode([0, code], name)


@pytest.mark.parametrize("codes", [1.0, [0.0, 1.0], "1", [None], [1j], np.zeros(2, np.float64)])
def test_codes_that_are_not_integers_are_type_errors(codes):
    with pytest.raises(TypeError, match="codes"):
        fpemu.decode(codes, "bfloat16")


def test_floats_of_the_codes_width_that_are_not_the_format_are_type_errors():
    # numpy's float16 is no bfloat16, nor is a float8 of another layout the one asked for.
    with pytest.raises(TypeError, match="codes"):
        fpemu.decode(np.ones(2, np.float16), "bfloat16")
    with pytest.raises(TypeError, match="codes"):
        fpemu.decode(np.ones(2, ml_dtypes.float8_e5m2), "float8_e4m3fn")


# The list of values


@for_each("format", SMALL)
def test_values_are_all_members_in_order(format):
    assert_same_bits(fpemu.values(format), members(format))
    assert fpemu.values(format).dtype == format.carrier


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("float4_e2m1fn", 16),
        ("float6_e2m3fn", 64),
        ("float8_e4m3fn", 254),
        ("float8_e4m3fnuz", 255),
        ("float8_e5m2", 248),
        ("float8_e8m0fnu", 255),
        ("binary8p3se", 253),
        ("binary8p3uf", 255),
        ("bfloat16", 2**16 - 2**8),
        ("float16", 2**16 - 2**11),
    ],
)
def test_there_are_as_many_values_as_finite_codes(name, count):
    listed = fpemu.values(name)
    assert listed.size == count
    assert (np.diff(listed) >= 0).all()
    assert (np.diff(listed) == 0).sum() == fpemu.format(name).has_negative_zero


def test_values_belong_to_the_caller():
    fpemu.values("float4_e2m1fn")[:] = 7
    assert fpemu.values("float4_e2m1fn")[-1] == 6
    assert fpemu.decode(7, "float4_e2m1fn") == 6


def test_values_of_more_than_16_bits_are_not_listed():
    with pytest.raises(ValueError, match="tf32"):
        fpemu.values("tf32")


# Packing

NARROW = ("binary3p2se", "float4_e2m1fn", "binary5p2ue", "float6_e2m3fn", "e3m3", "float8_e4m3fn")


@given(
    name=st.sampled_from(NARROW),
    batch=st.lists(st.integers(0, 3), max_size=2),
    count=st.integers(0, 19),
    data=st.data(),
)
def test_unpacking_gives_back_what_was_packed(name, batch, count, data):
    bits = fpemu.format(name).bits
    number = math.prod(batch) * count
    drawn = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=number, max_size=number))
    codes = np.array(drawn, np.uint8).reshape(*batch, count)
    packed = fpemu.pack(codes, name)
    assert packed.dtype == np.uint8
    assert packed.shape == (*batch, -(-count * bits // 8))
    unpacked = fpemu.unpack(packed, name, count)
    assert unpacked.dtype == np.uint8
    np.testing.assert_array_equal(unpacked, codes)


@given(name=st.sampled_from(NARROW), codes=st.lists(st.integers(0, 255), max_size=20))
def test_a_packed_row_is_one_integer_lowest_code_first(name, codes):
    bits = fpemu.format(name).bits
    codes = [code % 2**bits for code in codes]
    integer = sum(code << (position * bits) for position, code in enumerate(codes))
    expected = integer.to_bytes(-(-len(codes) * bits // 8), "little")
    assert fpemu.pack(np.array(codes, np.uint8), name).tobytes() == expected


def test_packing_by_hand():
    assert fpemu.pack([0x1, 0xE, 0x7], "float4_e2m1fn").tolist() == [0xE1, 0x07]
    # aaaaaa, bbbbbb, cccccc, dddddd lie as bbaaaaaa ccccbbbb ddddddcc.
    codes = [0b000001, 0b110011, 0b101010, 0b011100]
    packed = [0b11000001, 0b10101100, 0b01110010]
    assert fpemu.pack(codes, "float6_e3m2fn").tolist() == packed
    assert fpemu.unpack(packed, "float6_e3m2fn").tolist() == codes


def test_unpacking_without_a_count_gives_all_that_fit():
    assert fpemu.unpack([0xE1, 0x07], "float4_e2m1fn").tolist() == [0x1, 0xE, 0x7, 0x0]
    assert fpemu.unpack([1, 2], "float6_e2m3fn").shape == (2,)


def test_misuse_of_packing_is_a_value_error():
    with pytest.raises(ValueError, match="float16"):
        fpemu.pack([1], "float16")
    with pytest.raises(ValueError, match="bfloat16"):
        fpemu.unpack([1], "bfloat16")
    with pytest.raises(ValueError, match="16"):
        fpemu.pack([1, 16], "float4_e2m1fn")
    with pytest.raises(ValueError, match="-1"):
        fpemu.pack([-1], "float4_e2m1fn")
    for count in (3, -1):
        with pytest.raises(ValueError, match=str(count)):
            fpemu.unpack([0xFF], "float4_e2m1fn", count)


@pytest.mark.parametrize("packed", [[256], [-1], [1.5]])
def test_packed_bytes_that_are_not_bytes_are_errors(packed):
    with pytest.raises((ValueError, TypeError, OverflowError)):
        fpemu.unpack(packed, "float4_e2m1fn")
    with pytest.raises((ValueError, TypeError, OverflowError)):
        fpemu.unpack(np.array(packed), "float4_e2m1fn")


def test_a_format_of_ones_own_has_codes_like_any_other():
    own = Format("own", 7, 3, 7, high_nans=2)
    codes = np.arange(128, dtype=np.uint8)
    numbers = fpemu.decode(codes, own)
    assert np.isnan(numbers).sum() == 4
    assert np.isinf(numbers).sum() == 2
    ordinary = ~np.isnan(numbers)
    np.testing.assert_array_equal(fpemu.encode(numbers, own)[ordinary], codes[ordinary])


# Lists, byte orders and floats as codes


def test_a_list_of_codes_is_taken_exactly():
    assert_same_bits(fpemu.decode([0x3FF0000000000000, 0xBFF0000000000000], "float64"), [1.0, -1.0])
    assert_same_bits(fpemu.decode([[0, 2**63]], "float64"), [[0.0, -0.0]])
    for wrong in ([2**70, 1], [-1, 2**63], 2**64):
        with pytest.raises(ValueError, match=r"code -?\d+ of float64"):
            fpemu.decode(wrong, "float64")


@pytest.mark.parametrize("codes", [[1.0, 2.0], 1.0, [True], [1, None], [1 << 63, 0.5], ["1"]])
def test_what_python_has_beside_integers_is_no_code(codes):
    with pytest.raises(TypeError, match="codes must be integers"):
        fpemu.decode(codes, "float64")


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_the_byte_order_of_codes_does_not_matter(name):
    values = np.array([1.0, -2.5, 0.0], name)
    for order in "<>":
        assert_same_bits(
            fpemu.decode(values.astype(values.dtype.newbyteorder(order)), name), values
        )
        codes = fpemu.encode(values, name)
        codes = codes.astype(codes.dtype.newbyteorder(order))
        assert_same_bits(fpemu.decode(codes, name), values)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e4m3fn", "Binary8p4se"])
def test_a_nan_keeps_its_sign_where_it_has_one_with_a_rounding_and_without(name):
    format = fpemu.format(name)
    for nan in (math.nan, -math.nan):
        codes = [int(fpemu.encode(nan, name)), int(fpemu.encode(nan, name, "rne"))]
        assert codes[0] == codes[1]
        negative = math.copysign(1, nan) < 0 and format.negative_zero
        assert (codes[0] >> (format.bits - 1) == 1) == (negative or not format.negative_zero)
    assert int(fpemu.encode(-math.inf, "float8_e4m3fn", "rne")) == 0xFF  # as ml_dtypes has it


def test_packed_codes_may_be_bytes_and_may_be_none():
    packed = fpemu.pack([2, 4, 1], "float4_e2m1fn")
    for same in (packed.tobytes(), bytearray(packed), memoryview(packed.tobytes())):
        np.testing.assert_array_equal(fpemu.unpack(same, "float4_e2m1fn", 3), [2, 4, 1])
    for nothing in (b"", [], np.zeros((0,)), np.zeros(0, np.uint8)):
        assert fpemu.unpack(nothing, "float6_e3m2fn").shape == (0,)
    assert fpemu.pack([], "float6_e3m2fn").shape == (0,)
    assert fpemu.unpack(np.zeros((3, 0), np.uint8), "float6_e3m2fn").shape == (3, 0)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2)])
def test_nothing_has_no_codes(shape):
    for empty in (np.zeros(shape), np.zeros(shape, np.float32)):
        codes = fpemu.encode(empty, "bfloat16", "rne")
        assert (codes.shape, codes.dtype) == (shape, np.uint16)
        assert fpemu.decode(codes, "bfloat16").shape == shape
