"""Block-scaled formats against a plain reading of their specifications, number by number."""

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from gmpy2 import mpq

import fpemu
import lamp
from fpemu import devices, scaling
from fpemu.explain import anatomy
from fpemu.reference import decode_exact
from fpemu.reference import members as reference_members
from lamp.machines import digest
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits
from tests.oracle.rounding import round_exact

NAMES = tuple(scaling.FORMATS)
POWER_NAMES = tuple(name for name in NAMES if name != "nvfp4")
E2M1, E4M3, E8M0 = map(fpemu.format, ("float4_e2m1fn", "float8_e4m3fn", "float8_e8m0fnu"))


def floor_log2(x):
    return math.frexp(x)[1] - 1


def power_scale(largest, format, rule):
    """OCP MX section 6.3 and the other rules, as their descriptions say."""
    if not math.isfinite(largest):
        return math.nan
    element, limit = format.element, 127
    if largest == 0:
        return 2.0**-limit
    if rule == "even":
        # Rounded to the precision of the elements, whatever the exponent.
        quantum = Fraction(2) ** (floor_log2(largest) - element.precision + 1)
        largest = float(round(Fraction(largest) / quantum) * quantum)
    exponent = floor_log2(largest) - element.emax
    if rule == "ceil" and largest != 2.0 ** floor_log2(largest):
        exponent += 1
    if rule == "fit":
        exponent = min(
            e for e in (exponent, exponent + 1) if largest <= element.max_finite * 2.0**e
        )
    return 2.0 ** max(-limit, min(limit, exponent))


def blocks_of(row, size):
    return [row[start : start + size] for start in range(0, len(row), size)]


def quantised(row, format, rule, mode, tensor_scale=1.0):
    """Elements and scales of one row."""
    elements, scales = [], []
    for block in blocks_of(row, format.block):
        largest = max(map(abs, block)) if not any(map(math.isnan, block)) else math.nan
        if format.tensor_scale:
            scale = math.nan
            if math.isfinite(largest):
                exact = mpq(largest) / (6 * mpq(tensor_scale))
                scale = round_exact(exact, format.scale, "rne", "saturate") if exact else 0.0
        else:
            scale = power_scale(largest, format, rule)
        scales.append(scale)
        unit = mpq(scale) * mpq(tensor_scale) if scale > 0 else None
        for x in block:
            usable = scale > 0 and math.isfinite(x)
            exact = mpq(x) / unit if usable else 0
            zero = math.copysign(0.0, x) if usable else 0.0
            elements.append(round_exact(exact or zero, format.element, mode, "saturate"))
    return elements, scales


def data(kind, shape):
    generator = np.random.default_rng(len(kind))
    x = generator.normal(size=shape)
    if kind == "spread":
        x = np.ldexp(x, generator.integers(-20, 20, shape))
    if kind == "beyond the scales":
        x = np.ldexp(x, generator.choice([-300, -140, 140, 300], shape))
    if kind == "ties":
        x = generator.choice([0.0, -0.0, 1.0, 1.25, 1.75, 6.5, -7.0, 448.0, 464.0, 2**-7], shape)
    if kind == "specials":
        x[generator.random(shape) < 0.02] = np.nan
        x[generator.random(shape) < 0.02] = -np.inf
        x[0] = 0.0
    return x


@for_each("kind", ["ordinary", "spread", "beyond the scales", "ties", "specials"])
@for_each("mode", ["rne", "rtz"])
@pytest.mark.parametrize("rule", scaling.RULES)
@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_quantised_as_specified(name, rule, mode, kind):
    format = scaling.FORMATS[name]
    x = data(kind, (4, 75))
    actual = scaling.quantize(x, name, rule=rule, rounding=mode)
    if name == "nvfp4":
        finite_blocks = [
            max(map(abs, block))
            for row in x.tolist()
            for block in blocks_of(row, 16)
            if all(map(math.isfinite, block))
        ]
        scale = round_exact(mpq(max(finite_blocks)) / (6 * 448), "float32", "rne", "saturate")
        assert actual.tensor_scale == scale
    rows = [quantised(row, format, rule, mode, actual.tensor_scale) for row in x.tolist()]
    assert_same_bits(actual.elements, [elements for elements, _ in rows])
    assert_same_bits(actual.scales, [scales for _, scales in rows])
    with np.errstate(invalid="ignore"):
        spread = np.repeat(actual.scales, format.block, 1)[:, :75]
        expected = actual.elements * spread * actual.tensor_scale
    assert_same_bits(scaling.dequantize(actual), expected)


@pytest.mark.parametrize("name", NAMES)
def test_any_axis_may_have_the_blocks(name):
    x = np.random.default_rng(3).normal(size=(40, 3, 50))
    for axis in (0, 1, -1):
        moved = scaling.quantize(np.moveaxis(x, axis, -1), name)
        actual = scaling.quantize(x, name, axis=axis)
        assert_same_bits(actual.elements, np.moveaxis(moved.elements, -1, axis))
        assert_same_bits(actual.scales, np.moveaxis(moved.scales, -1, axis))
        assert_same_bits(
            scaling.dequantize(actual), np.moveaxis(scaling.dequantize(moved), -1, axis)
        )


@pytest.mark.parametrize("name", POWER_NAMES)
def test_quantising_again_changes_nothing_and_scaling_commutes(name):
    x = np.random.default_rng(4).normal(size=(5, 64))
    once = scaling.quantize(x, name, rule="fit")
    again = scaling.quantize(scaling.dequantize(once), name, rule="fit")
    assert_same_bits(scaling.dequantize(again), scaling.dequantize(once))
    larger = scaling.quantize(np.ldexp(x, 9), name, rule="fit")
    assert_same_bits(larger.elements, once.elements)
    assert_same_bits(larger.scales, np.ldexp(once.scales, 9))


def test_mxint8_elements_are_rounded_integers_over_64():
    x = np.random.default_rng(5).normal(size=(20, 32))
    actual = scaling.quantize(x, "mxint8")
    scales = 2.0 ** np.floor(np.log2(np.abs(x).max(1, keepdims=True)))
    integers = np.clip(np.rint(x / scales * 64), -127, 127)
    assert_same_bits(actual.elements + 0.0, integers / 64 + 0.0)


def test_stochastic_elements_are_neighbours_and_right_on_average():
    x = np.full((1, 32), 0.3)
    rounding = [fpemu.Rounding("sr", seed=seed) for seed in range(400)]
    draws = np.array(
        [scaling.dequantize(scaling.quantize(x, "mxfp4", rounding=r)) for r in rounding]
    )
    assert set(draws.ravel().tolist()) == {0.25, 0.375}
    assert abs(draws.mean() - 0.3) < 0.004


def test_products_with_an_ordinary_accumulator_are_those_of_the_numbers():
    generator = np.random.default_rng(6)
    a = scaling.quantize(generator.normal(size=(3, 70)), "mxfp6_e2m3")
    b = scaling.quantize(generator.normal(size=(70, 4)), "mxfp8_e4m3", axis=0)
    accumulator = fpemu.Sequential("e8m10")
    expected = fpemu.matmul(scaling.dequantize(a), scaling.dequantize(b), accumulator)
    assert_same_bits(scaling.matmul(a, b, accumulator), expected)


def test_scales_of_arrays_multiply_the_result():
    generator = np.random.default_rng(7)
    a = scaling.quantize(generator.normal(size=(3, 70)), "nvfp4")
    b = scaling.quantize(generator.normal(size=(70, 4)), "nvfp4", axis=0)
    unit = devices.get("blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16")
    plain = [scaling.Scaled(s.elements, s.scales, s.format, s.axis) for s in (a, b)]
    factor = np.float32(a.tensor_scale) * np.float32(b.tensor_scale)
    expected = scaling.matmul(*plain, unit) * factor
    actual = scaling.matmul(a, b, unit)
    assert_same_bits(actual, expected)
    exact = scaling.dequantize(a) @ scaling.dequantize(b)
    np.testing.assert_allclose(actual, exact, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="c cannot be given"):
        scaling.matmul(a, b, unit, c=1.0)


def test_wrong_arguments_are_errors():
    with pytest.raises(ValueError, match=r"unknown block-scaled format 'mxfp5'.*mxfp"):
        scaling.quantize([1.0], "mxfp5")
    with pytest.raises(ValueError, match="unknown rule 'round'"):
        scaling.quantize([1.0], "mxfp4", rule="round")
    with pytest.raises(ValueError, match="a scalar has no blocks"):
        scaling.quantize(1.0, "mxfp4")
    unit = devices.get("blackwell.tcgen05-mxf8f6f4.e2m1-e8m0-32")
    a, b = scaling.quantize(np.ones((2, 64)), "mxfp4"), scaling.quantize(np.ones((64, 2)), "mxfp4")
    right = scaling.quantize(np.ones((64, 2)), "mxfp4", axis=0)
    with pytest.raises(ValueError, match="blocks of b must lie along axis 0, not 1"):
        scaling.matmul(a, b, unit)
    with pytest.raises(TypeError, match="a must be a Scaled, not ndarray"):
        scaling.matmul(np.ones((2, 64)), right, unit)
    with pytest.raises(ValueError, match="do not match: 64 columns against 32 rows"):
        scaling.matmul(a, scaling.quantize(np.ones((32, 2)), "mxfp4", axis=0), unit)
    with pytest.raises(ValueError, match="a is in mxfp8_e4m3, but the unit takes blocks of 32"):
        scaling.matmul(scaling.quantize(np.ones((2, 64)), "mxfp8_e4m3"), right, unit)
    with pytest.raises(ValueError, match="not members of float32"):
        scaling.matmul(a, right, unit, c=0.1)
    with pytest.raises(ValueError, match=r"shape \(3,\) of c does not broadcast to \(2, 2\)"):
        scaling.matmul(a, right, unit, c=np.ones(3))
    with pytest.raises(TypeError, match="axis must be an int, not float"):
        scaling.quantize([1.0], "mxfp4", axis=0.0)
    with pytest.raises(TypeError, match="scaled must be a Scaled, not ndarray"):
        scaling.dequantize(np.ones(3))


# Codes of MXINT8


def test_mxint8_codes_are_twos_complements():
    """OCP MX section 5.3.4: an 8-bit two's complement integer over 64."""
    element = scaling.FORMATS["mxint8"].element
    scaled = scaling.quantize([1.0, -0.5, -0.001], "mxint8")
    codes = fpemu.encode(scaled.elements, element)
    assert [hex(code) for code in codes.tolist()] == ["0x40", "0xe0", "0x0"]
    assert not np.signbit(scaled.elements[2])
    every = np.arange(256, dtype=np.uint8)
    expected = every.view(np.int8) / 64
    assert_same_bits(fpemu.decode(every, element), expected.astype(np.float32))
    assert [decode_exact(code, element) for code in range(256)] == expected.tolist()
    members = expected[expected > -2]
    assert_same_bits(fpemu.values(element), np.sort(members).astype(np.float32))
    assert reference_members(element) == np.sort(members).tolist()
    assert fpemu.encode(members, element).tolist() == np.delete(every, 128).tolist()
    assert not element.has_nan
    assert fpemu.unpack(fpemu.pack(codes, element), element).tolist() == codes.tolist()


def test_the_anatomy_of_a_twos_complement_has_no_exponent():
    found = anatomy(-0.5, scaling.FORMATS["mxint8"].element)
    assert (found.sign, found.exponent, found.fraction) == ("1", "", "1100000")
    assert found.meaning == "two's complement: -32 * 2**-6"


@pytest.mark.parametrize("stranger", [-2.0, 2.0, -0.0, 1 / 128, np.nan, np.inf])
def test_what_is_no_mxint8_element_has_no_code(stranger):
    with pytest.raises(ValueError, match="is not a value of int8"):
        fpemu.encode([0.5, stranger], scaling.FORMATS["mxint8"].element)


def test_twos_complement_is_for_fixed_point():
    with pytest.raises(
        ValueError, match="two's complement is for signed numbers with one exponent"
    ):
        fpemu.Format("x", 8, 4, 7, infinities=False, high_nans=0, twos_complement=True)


# Scales


def test_scales_that_are_no_powers_of_two_are_the_nearest():
    """NVIDIA's recipe for NVFP4, here without a scale of the whole array."""
    one_level = scaling.BlockFormat("one level", E2M1, E4M3, 16)
    scaled = scaling.quantize([7.0], one_level)
    assert (scaled.scales.tolist(), scaled.elements.tolist()) == ([1.125], [6.0])
    assert scaled.tensor_scale == 1.0
    x = np.random.default_rng(8).normal(size=(4, 75)) * 40
    actual = scaling.quantize(x, one_level)
    for row, scales in zip(x, actual.scales, strict=True):
        maxima = [max(map(abs, block)) for block in blocks_of(row.tolist(), 16)]
        nearest = [round_exact(mpq(m) / 6, E4M3, "rne", "saturate") for m in maxima]
        assert scales.tolist() == nearest
    assert np.abs(scaling.dequantize(actual) - x).max() < np.abs(x).max() / 6


def test_blocks_of_zeros_have_the_smallest_scale():
    for scale, least in ((E4M3, 0.0), (E8M0, 2.0**-127)):
        for tensor_scale in (False, True):
            format = scaling.BlockFormat("zeros", E2M1, scale, 2, tensor_scale)
            assert scaling.quantize([0.0, 0.0, 1.0], format).scales[0] == least


def test_a_block_without_a_finite_scale_is_an_error_where_there_is_no_nan():
    format = scaling.BlockFormat("none", E2M1, "float6_e3m2fn", 4)
    assert scaling.quantize([1.0], format).scales.tolist() == [0.1875]
    with pytest.raises(ValueError, match="x holds a NaN or an infinity, but none has no NaN"):
        scaling.quantize([1.0, np.nan], format)


def test_block_formats_are_checked_and_made_plain():
    by_name = scaling.BlockFormat("x", "float4_e2m1fn", "float8_e8m0fnu", np.int64(32))
    assert by_name == scaling.BlockFormat("x", E2M1, E8M0, 32)
    assert type(by_name.block) is int
    for fields, error, message in (
        ({"block": 0}, ValueError, r"block must lie in 1..2147483648, not 0"),
        ({"block": 10**20}, ValueError, r"block must lie in 1..2147483648, not 1000"),
        ({"scale": "float64"}, ValueError, "in float64 are not all float64 numbers"),
        ({"scale": "e11m5", "element": "e11m5"}, ValueError, "not all float64 numbers"),
        (
            {"element": "e5m20", "scale": "e5m10", "tensor_scale": True},
            ValueError,
            "times scales in e5m10 and float32 are not all float64 numbers",
        ),
        ({"block": 2.0}, TypeError, "block must be an int"),
        ({"element": "fp5"}, ValueError, "unknown format 'fp5'"),
        ({"name": None}, TypeError, "name must be a string"),
        ({"tensor_scale": 1}, TypeError, "tensor_scale must be True or False"),
    ):
        with pytest.raises(error, match=message):
            scaling.BlockFormat(
                **{"name": "x", "element": E2M1, "scale": E8M0, "block": 2} | fields
            )


def test_two_formats_of_one_name_make_two_machines():
    machines = [
        lamp.Hardware(
            "m", qkv=lamp.Product(operands=scaling.BlockFormat("own", E2M1, scale, block))
        )
        for scale, block in ((E8M0, 32), (E4M3, 32), (E8M0, 16))
    ]
    assert len({digest(machine) for machine in machines}) == 3


# Arrays made by hand


def made(**parts):
    given = {
        "elements": np.ones((40, 64)),
        "scales": np.ones((40, 2)),
        "format": "mxfp4",
        "axis": 1,
    }
    return scaling.Scaled(**given | parts)


def test_an_array_made_by_hand_is_that_of_quantize():
    x = np.random.default_rng(9).normal(size=(40, 64))
    for name in NAMES:
        scaled = scaling.quantize(x, name)
        parts = (scaled.elements, scaled.scales, name, -1, scaled.tensor_scale)
        again = scaling.Scaled(*parts)
        assert again == scaled
        assert (again.axis, again.format) == (1, scaling.FORMATS[name])
        assert again != scaling.Scaled(scaled.elements * 0, *parts[1:])
        assert (again == "nvfp4") is False
    with pytest.raises(TypeError, match="unhashable"):
        hash(again)
    blank = scaling.quantize([[np.nan, 1.0]], "mxfp4")
    assert blank == scaling.quantize([[np.nan, 1.0]], "mxfp4")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"elements": np.full((40, 64), 0.3)},
            r"elements\[0, 0\] is 0.3, .* not a member of float4",
        ),
        ({"elements": np.full((40, 64), np.nan)}, "elements is NaN at index"),
        ({"scales": np.full((40, 2), -3.0)}, r"scales\[0, 0\] is -3.0, which is not a member of"),
        ({"scales": np.full((40, 2), 0.3)}, "not a member of float8_e8m0fnu"),
        ({"scales": np.ones((1, 2))}, r"have scales of shape \(40, 2\), not \(1, 2\)"),
        ({"scales": np.ones((40, 3))}, r"have scales of shape \(40, 2\), not \(40, 3\)"),
        ({"scales": np.ones((40, 64))}, r"not \(40, 64\)"),
        ({"axis": 0}, r"have scales of shape \(2, 64\), not \(40, 2\)"),
        ({"axis": 2}, "axis 2 is out of bounds"),
        ({"tensor_scale": 2.0}, "mxfp4 has no scale of the whole array, such as 2.0"),
        ({"tensor_scale": -1.0}, "tensor_scale must be a positive float32 number"),
        ({"format": "mxfp5"}, "unknown block-scaled format"),
        ({"elements": np.float64(1.0)}, "at least one dimension"),
    ],
)
def test_an_array_made_by_hand_is_checked(parts, message):
    with pytest.raises(ValueError, match=message):
        made(**parts)


def test_scales_made_by_hand_may_be_zero_or_nan_and_not_negative():
    parts = {"format": "nvfp4", "scales": np.full((40, 4), 0.0)}
    made(**parts)
    made(**parts | {"scales": np.full((40, 4), np.nan)})
    with pytest.raises(ValueError, match=r"scales must not be negative, as -2.0 is"):
        made(**parts | {"scales": np.full((40, 4), -2.0)})


def test_arrays_made_by_hand_are_of_the_base_class():
    class Own(np.ndarray):
        pass

    given = np.ones((40, 64))
    scaled = made(elements=given.view(Own), scales=np.ones((40, 2), int))
    given[0, 0] = 0.3
    with pytest.raises(ValueError, match="read-only"):
        scaled.elements[0, 0] = 0.3
    for copied in (copy.copy(scaled), copy.deepcopy(scaled), pickle.loads(pickle.dumps(scaled))):
        assert copied == scaled
        with pytest.raises(ValueError, match="read-only"):
            copied.elements[0, 0] = 0.3
    assert type(scaled.elements) is type(scaled.scales) is np.ndarray
    assert scaled.scales.dtype == np.float64
    b = scaling.quantize(np.ones((64, 2)), "mxfp4", axis=0)
    unit = devices.get("blackwell.tcgen05-mxf8f6f4.e2m1-e8m0-32")
    assert_same_bits(scaling.matmul(scaled, b, unit), np.full((40, 2), 64.0, np.float32))


def test_ceil_takes_a_power_of_two_as_it_is():
    assert scaling.quantize([4.0], "mxfp4", rule="ceil").scales.tolist() == [1.0]
    assert scaling.quantize([4.5], "mxfp4", rule="ceil").scales.tolist() == [2.0]


@pytest.mark.parametrize("name", NAMES)
def test_a_block_scaled_format_is_no_format_of_single_numbers(name):
    with pytest.raises(ValueError, match=rf"unknown format '{name}': block-scaled formats are"):
        fpemu.round(0.3, name)
