"""Block-scaled formats against a plain reading of their specifications, number by number."""

import math
from fractions import Fraction

import numpy as np
import pytest

import fpemu
from fpemu import devices, scaling
from fpemu.reference import round_exact
from tests.oracle.bits import assert_same_bits

NAMES = tuple(scaling.FORMATS)
POWER_NAMES = tuple(name for name in NAMES if name != "nvfp4")


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
                exact = Fraction(largest) / (6 * Fraction(tensor_scale))
                scale = round_exact(exact, format.scale, "rne", "saturate") if exact else 0.0
        else:
            scale = power_scale(largest, format, rule)
        scales.append(scale)
        for x in block:
            usable = scale > 0 and math.isfinite(x)
            exact = Fraction(x) / (Fraction(scale) * Fraction(tensor_scale)) if usable else 0
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


@pytest.mark.parametrize("kind", ["ordinary", "spread", "beyond the scales", "ties", "specials"])
@pytest.mark.parametrize("mode", ["rne", "rtz"])
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
        scale = round_exact(Fraction(max(finite_blocks)) / (6 * 448), "float32", "rne", "saturate")
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
