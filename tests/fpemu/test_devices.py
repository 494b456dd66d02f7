"""Every matrix unit against an independent exact oracle, and what is known of real machines."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import fpemu
from fpemu import devices, scaling
from fpemu._kernels import tensor_core as fused
from fpemu.accumulators import ScaledCore
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits
from tests.oracle.units import UNITS, promoted
from tests.threads import on_threads

ORDINARY = [name for name in devices.list() if name in UNITS and "mxf" not in name]
SCALED = [name for name in devices.list() if "mxf" in name]
SATURATED = fpemu.Rounding(overflow="saturate")


# Units whose operands have one format are tested with all kinds of numbers, equal ones once.
def is_mixed(name):
    return name in UNITS and len(set(UNITS[name].input_formats)) > 1


def first_ones(names):
    """The first name of each accumulator."""
    return list({devices.get(name): name for name in reversed(names)}.values())[::-1]


def test_every_unit_has_an_oracle():
    promoted_units = {name for name in devices.list() if "promoted" in name}
    exact_units = {name for name in UNITS if name.startswith("kulisch")}
    assert set(devices.list()) - promoted_units == set(UNITS) - exact_units


def test_units_are_alike_if_their_oracles_are():
    for names in (ORDINARY, SCALED):
        first = {devices.get(name): UNITS[name] for name in first_ones(names)}
        for name in names:
            assert (
                replace(UNITS[name], name=first[devices.get(name)].name) == first[devices.get(name)]
            )


def near_one(generator, format, shape):
    return fpemu.round(generator.normal(size=shape), format, SATURATED)


def far_apart(generator, format, shape):
    low, high = format.emin // 2 - 3, format.emax // 2 + 2
    numbers = np.ldexp(generator.normal(size=shape), generator.integers(low, high, shape))
    return fpemu.round(numbers, format, SATURATED)


def edges(generator, format, shape):
    """Zeros, subnormals, the ends of the range, few distinct numbers that tie and cancel."""
    least, normal, largest = format.smallest_subnormal, format.smallest_normal, format.max_finite
    numbers = [0.0, -0.0, 1.0, -1.0, 1.5, -0.75, least, -least, normal, -normal, largest, -largest]
    numbers += [2.0 ** (format.emax // 2), -(2.0 ** (format.emin // 2)), 3 * least]
    return fpemu.round(generator.choice(numbers, shape), format)


def any_codes(generator, format, shape):
    codes = generator.integers(0, 2**format.bits, shape, dtype=np.uint64)
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
    width = next(size for size in kind if 8 * size >= format.bits)
    return fpemu.decode(codes.astype(kind[width]), format)


def with_specials(generator, format, shape):
    numbers = near_one(generator, format, shape)
    specials = [math.inf, -math.inf, math.nan] if format.infinities else [math.nan, 0.0, 0.0]
    specials = specials if format.has_nan else [0.0, -0.0, 1.0]
    return np.where(generator.random(shape) < 0.04, generator.choice(specials, shape), numbers)


KINDS = (near_one, far_apart, edges, any_codes, with_specials)


def expected_of(unit, a, b, c, *scales):
    rows, columns = a.shape[0], b.shape[1]
    return [
        [
            unit(
                a[i].tolist(),
                b[:, j].tolist(),
                0.0 if c is None else float(c[i, j]),
                *(part for pair in scales for part in (pair[0][i], pair[1][:, j])),
            )
            for j in range(columns)
        ]
        for i in range(rows)
    ]


def scaled_operands(generator, kind, unit, shape, near):
    """Operands of a block-scaled unit; with `near`, their scales are so."""
    rows, length, columns = shape
    a_format, b_format = (
        scaling.BlockFormat("any", element, unit.scale, unit.scale_block)
        for element in unit.core.inputs
    )
    scales = fpemu.values(unit.scale)
    scales = scales[scales >= 0]
    middle = len(scales) // 2
    choice = scales[middle - 3 : middle + 4] if near else [*scales, math.nan]
    blocks = -(-length // unit.scale_block)
    a_scales = generator.choice(choice, (rows, blocks))
    b_scales = generator.choice(choice, (blocks, columns))
    a = kind(generator, a_format.element, (rows, length))
    b = kind(generator, b_format.element, (length, columns))
    return scaling.Scaled(a, a_scales, a_format, 1), scaling.Scaled(b, b_scales, b_format, 0)


@for_each("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in first_ones(ORDINARY) if not is_mixed(name)])
def test_a_unit_is_what_the_oracle_says(name, kind):
    unit, accumulator = UNITS[name], devices.get(name)
    generator = np.random.default_rng([len(name), KINDS.index(kind)])
    for length, given in itertools.product((1, 8, 19, 33), (False, True)):
        a = kind(generator, unit.input_formats[0], (3, length))
        b = kind(generator, unit.input_formats[1], (length, 4))
        c = kind(generator, unit.c_format, (3, 4)) if given else None
        actual = fpemu.matmul(a, b, accumulator, c=c)
        assert_same_bits(actual, expected_of(unit, a, b, c), about=(name, kind.__name__, length))


@pytest.mark.parametrize("name", [name for name in first_ones(ORDINARY) if is_mixed(name)])
def test_a_unit_of_two_formats_is_what_the_oracle_says(name):
    unit, generator = UNITS[name], np.random.default_rng(len(name))
    a_format, b_format = unit.input_formats
    a, b = any_codes(generator, a_format, (3, 40)), any_codes(generator, b_format, (40, 4))
    c = near_one(generator, unit.c_format, (3, 4))
    actual = fpemu.matmul(a, b, devices.get(name), c=c)
    assert_same_bits(actual, expected_of(unit, a, b, c))
    assert devices.get(name).input_formats == (a_format, b_format)


@pytest.mark.parametrize("name", [name for name in first_ones(SCALED) if is_mixed(name)])
def test_a_block_scaled_unit_of_two_formats_is_what_the_oracle_says(name):
    unit, generator = devices.get(name), np.random.default_rng(len(name))
    a, b = scaled_operands(generator, any_codes, unit, (2, 40, 3), near=True)
    expected = expected_of(UNITS[name], a.elements, b.elements, None, (a.scales, b.scales))
    assert_same_bits(scaling.matmul(a, b, unit), expected)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", [name for name in first_ones(SCALED) if not is_mixed(name)])
def test_a_block_scaled_unit_is_what_the_oracle_says(name, kind):
    unit, accumulator = UNITS[name], devices.get(name)
    generator = np.random.default_rng([len(name), KINDS.index(kind)])
    for length, near, given in itertools.product((16, 70), (False, True), (False, True)):
        a, b = scaled_operands(generator, kind, accumulator, (2, length, 3), near)
        c = kind(generator, fpemu.format("float32"), (2, 3)) if given else None
        actual = scaling.matmul(a, b, accumulator, c=c)
        expected = expected_of(unit, a.elements, b.elements, c, (a.scales, b.scales))
        assert_same_bits(actual, expected, about=(name, kind.__name__, length))


# Alignment exponents end at a floor.  That shows where a sum lies next to a number that rounding
# distinguishes, by less than what is cut off at the floor.


def least_exponent(core):
    """The exponent of what is cut off where terms are aligned to the floor."""
    return core.exponent_floor - core.fraction_bits


def terms_about_the_floor(generator, core, shape):
    """Powers of two of both signs, and zeros, rows by terms.

    Even terms lie at what rounding distinguishes; odd ones just are, or just are not, cut off.
    """
    quantum = round(math.log2(core.format.smallest_subnormal))
    cut = least_exponent(core) - np.arange(shape[0])[:, None] % 2
    powers = np.where(np.arange(shape[1]) % 2, cut, quantum + generator.choice([-1, 0, 1], shape))
    return np.ldexp(generator.choice([-1.0, 0.0, 1.0], shape), powers)


FLOORED = [
    name
    for name in ORDINARY
    if isinstance(devices.get(name), fpemu.TensorCore)
    and devices.get(name).exponent_floor is not None
    and (name.endswith(("bfloat16", "tf32")) or name.endswith(".float16.float16"))
]


@pytest.mark.parametrize("name", FLOORED)
def test_terms_about_the_floor(name):
    unit, core = UNITS[name], devices.get(name)
    generator = np.random.default_rng(len(name))
    terms = terms_about_the_floor(generator, core, (200, core.block))
    # Half of each exponent: so the large terms are products of normal numbers.
    powers_of_b = np.log2(np.abs(terms).max(0)) // 2
    b = 2.0 ** powers_of_b[:, None]
    a = terms / b.T
    expected = expected_of(unit, a, b, None)
    assert_same_bits(fpemu.matmul(a, b, core), expected)
    # A subnormal accumulator is aligned with the least exponent of its format.
    c = core.format.smallest_subnormal * generator.choice([-2.0, -1.0, 1.0, 3.0], (200, 1))
    assert_same_bits(fpemu.matmul(a, b, core, c=c), expected_of(unit, a, b, c))
    # The test would be none if the floor did not show.
    aligned_lower = fpemu.TensorCore(
        core.block,
        core.fraction_bits,
        core.format,
        core.rounding.mode,
        exponent_floor=core.exponent_floor - 1,
        inputs=core.inputs,
    )
    assert (fpemu.matmul(a, b, aligned_lower) != fpemu.matmul(a, b, core)).any()


def scaled_terms_about_the_floor(generator, core, format):
    """The same as elements and scales of rows, to be multiplied by ones scaled by 2**-60."""
    rows = 200
    if core.group > 1:  # a term of every block, and scales about the floor
        blocks = core.block // format.block
        terms = terms_about_the_floor(generator, core, (rows, blocks))
        a = np.zeros((rows, blocks, format.block))
        a[:, :, 0] = np.sign(terms)
        scales = np.where(terms == 0, 1.0, np.abs(terms) * 2.0**60)
        return a.reshape(rows, -1), scales
    # Elements as far apart as they are, which share a scale.
    terms = terms_about_the_floor(generator, core, (rows, core.block))
    scale = 2.0 ** (least_exponent(core) - 1 - math.log2(format.element.smallest_normal))
    return terms / scale, np.full((rows, 1), scale * 2.0**60)


@pytest.mark.parametrize("name", [n for n in SCALED if ".e4m3-e8m0" in n or "e2m1-e8m0-16" in n])
def test_scaled_terms_about_the_floor(name):
    unit, scaled = UNITS[name], devices.get(name)
    core = scaled.core
    format = scaling.BlockFormat("any", core.inputs[0], scaled.scale, scaled.scale_block)
    a, a_scales = scaled_terms_about_the_floor(np.random.default_rng(len(name)), core, format)
    b, b_scales = np.ones((a.shape[1], 1)), np.full((a.shape[1] // format.block, 1), 2.0**-60)

    def product(core, c=None):
        return scaling.matmul(
            scaling.Scaled(a, a_scales, format, 1),
            scaling.Scaled(b, b_scales, format, 0),
            ScaledCore(core, scaled.scale, scaled.scale_block),
            c=c,
        )

    subnormal = core.format.smallest_subnormal * np.arange(-1.0, 3.0)[np.arange(200) % 4, None]
    for c in (None, subnormal):
        expected = expected_of(unit, a, b, c, (a_scales, b_scales))
        assert_same_bits(product(core, c), expected)
    aligned_lower = fpemu.TensorCore(
        core.block,
        core.fraction_bits,
        exponent_floor=core.exponent_floor - 1,
        inputs=core.inputs,
        group=core.group,
    )
    assert (product(aligned_lower) != product(core)).any()


@pytest.mark.parametrize("name", ["cdna3.mfma.e4m3fnuz", "cdna3.mfma.e5m2fnuz"])
def test_accumulators_out_of_reach(name):
    """They are dropped from a known distance on; a negative one within it is floored."""
    unit = UNITS[name]
    a = np.array([[1.0], [-1.5], [0.25]])
    b = np.array([[1.0, 2.0]])
    for distance in (23, 24, 25, 26, 27):
        for sign in (1.0, -1.0, 1.75, -1.75):
            c = sign * 2.0**-distance * 2.0 ** np.floor(np.log2(np.abs(a * b)))
            expected = expected_of(unit, a, b, c)
            assert_same_bits(fpemu.matmul(a, b, devices.get(name), c=c), expected, about=distance)
    assert fpemu.dot([1.0], [1.0], devices.get(name), c=-(2.0**-25)) == 1.0 - 2.0**-24
    assert fpemu.dot([1.0], [1.0], devices.get(name), c=-(2.0**-26)) == 1.0


@pytest.mark.parametrize("name", ["cdna3.mfma.bfloat16", "cdna3.mfma.tf32"])
def test_subnormal_accumulators_of_cdna3(name):
    """They are aligned with float32's least exponent, which shows beside ties of the result."""
    unit, core = UNITS[name], devices.get(name)
    generator = np.random.default_rng(9)
    powers = generator.choice([-150, -149, -157, -158, -159, -160], (300, core.block))
    a = np.ldexp(generator.choice([-1.0, 0.0, 1.0], powers.shape), powers + 75)
    b = np.full((core.block, 1), 2.0**-75)
    c = np.ldexp(generator.choice([-3.0, -1.0, 1.0, 2.0], (300, 1)), -149)
    assert_same_bits(fpemu.matmul(a, b, core, c=c), expected_of(unit, a, b, c))


@pytest.mark.parametrize("name", ["cdna3.mfma.bfloat16", "cdna3.mfma.tf32"])
def test_products_beyond_float32_are_infinities_on_cdna3(name):
    unit, core = UNITS[name], devices.get(name)
    for a, b, expected in (
        ([2.0**64], [2.0**64], math.inf),
        ([2.0**64], [-(2.0**64)], -math.inf),
        ([2.0**64 * 1.25], [2.0**64], math.inf),
        ([2.0**64, 2.0**64], [2.0**64, -(2.0**64)], math.nan),
        ([2.0**64, 1.0], [2.0**63 * 1.75, 1.0], 2.0**127 * 1.75),
    ):
        assert_same_bits(fpemu.dot(a, b, core), expected)
        assert_same_bits(expected, unit(a, b, 0.0))


FLUSHING = [name for name in ORDINARY if getattr(devices.get(name), "flush", None)]


@pytest.mark.parametrize("name", FLUSHING)
def test_sums_that_become_subnormal_are_flushed(name):
    unit, accumulator = UNITS[name], devices.get(name)
    generator = np.random.default_rng(10)
    # For float16 inputs no product is as small; there the sums are out of reach too.
    power = max(-126, 2 * unit.input_formats[0].emin)
    a = np.ldexp(generator.choice([-1.0, 1.0, 1.25, -1.5], (60, 8)), power // 2 + 1)
    b = np.ldexp(generator.choice([1.0, 1.5], (8, 3)), power // 2)
    c = np.ldexp(generator.choice([-1.0, 1.0, -1.75], (60, 3)), -126)
    for start in (None, c):
        expected = expected_of(unit, a, b, start)
        assert_same_bits(fpemu.matmul(a, b, accumulator, c=start), expected)
    if power == -126:
        kept = fpemu.Pairwise("float32", accumulator.rounding, fused=False, block=accumulator.block)
        assert (fpemu.matmul(a, b, kept) != fpemu.matmul(a, b, accumulator)).any()


@pytest.mark.parametrize("name", FLUSHING)
def test_flushed_inputs_have_the_signs_that_they_have(name):
    unit, accumulator = UNITS[name], devices.get(name)
    least = unit.input_formats[0].smallest_subnormal
    a = np.array([[-least, -least], [least, -least], [least, least], [-0.0, -0.0]])
    b = np.array([[1.0, -1.0], [1.0, -1.0]])
    for start in (None, np.array([[-0.0]]), np.array([[0.0]]), np.array([[-(2.0**-140)]])):
        c = None if start is None else np.broadcast_to(start, (4, 2))
        expected = expected_of(unit, a, b, c)
        assert_same_bits(fpemu.matmul(a, b, accumulator, c=c), expected)


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_deepseeks_promotion_is_what_the_oracle_says(name):
    unit = UNITS[f"hopper.wgmma.{name}"]
    accumulator = devices.get(f"hopper.wgmma-promoted.{name}")
    generator = np.random.default_rng(3)
    a = near_one(generator, unit.input_formats[0], (2, 300))
    b = near_one(generator, unit.input_formats[0], (300, 2))
    expected = [[promoted(unit, a[i], b[:, j]) for j in range(2)] for i in range(2)]
    assert_same_bits(fpemu.matmul(a, b, accumulator), expected)


def test_nvidias_nan_has_all_its_bits_set():
    for name in ORDINARY:
        if "mma" in name and "mfma" not in name and "float64" not in name:
            result = fpemu.matmul(
                np.full((1, 1), np.nan, np.float32), np.ones((1, 1), np.float32), devices.get(name),
                convert="rne",
            ) if UNITS[name].input_formats[0].has_nan else None  # fmt: skip
            if result is not None and "hopper.mma.e" not in name and "blackwell.mma.e" not in name:
                assert result.view(np.uint32) == 0x7FFFFFFF, name


# What is known of the machines


def test_volta_loses_what_is_below_2_to_the_minus_23():
    small = [1.0] + [2.0**-12] * 3
    assert fpemu.dot(small, small, devices.get("volta.mma.float16")) == 1.0
    assert fpemu.dot(small, small, fpemu.Exact("float32")) > 1.0


def test_truncation_makes_sums_biased_toward_zero():
    generator = np.random.default_rng(4)
    a, b = fpemu.round(generator.uniform(0.5, 1, (2, 200, 512)), "float16")
    exact = (a * b).sum(1)

    def errors(accumulator):
        return fpemu.matmul(a[:, None], b[:, :, None], accumulator).ravel() - exact

    truncated, nearest = errors(devices.get("volta.mma.float16")), errors(fpemu.Exact("float32"))
    assert (truncated < 0).all()
    assert abs(nearest.mean()) < abs(truncated.mean()) / 20


def test_hopper_keeps_14_bits_of_fp8_sums_and_promotion_repairs_the_drift():
    unit = devices.get("hopper.wgmma.e4m3")
    assert fpemu.dot([1.0, 2.0**-6], [1.0, 2.0**-7], unit) == 1 + 2.0**-13
    assert fpemu.dot([1.0, 2.0**-7], [1.0, 2.0**-7], unit) == 1.0
    a, b = fpemu.round(np.random.default_rng(5).uniform(0.5, 1, (2, 20, 8192)), "float8_e4m3fn")
    exact = np.cumsum(a * b, axis=1)

    def error(accumulator, k):
        sums = fpemu.matmul(a[:, None, :k], b[:, :k, None], accumulator).ravel()
        return np.abs(sums / exact[:, k - 1] - 1).mean()

    repaired = devices.get("hopper.wgmma-promoted.e4m3")
    assert error(unit, 8192) > 10 * error(unit, 128)
    assert error(repaired, 8192) < 2 * error(repaired, 128) < error(unit, 8192) / 5


def test_cdna3_is_not_symmetric_in_sign_and_nvidia_is():
    generator = np.random.default_rng(6)
    a, b = fpemu.round(generator.normal(size=(2, 300, 64)), "bfloat16")
    for name, symmetric in (("cdna3.mfma.bfloat16", False), ("hopper.wgmma.bfloat16", True)):
        unit = devices.get(name)
        plus = fpemu.matmul(a[:, None], b[:, :, None], unit)
        minus = fpemu.matmul(-a[:, None], b[:, :, None], unit)
        assert (plus == -minus).all() == symmetric


def test_order_matters_between_blocks_only():
    generator = np.random.default_rng(7)
    a, b = fpemu.round(generator.normal(size=(2, 200, 32)), "float16")
    unit = devices.get("hopper.wgmma.float16")

    def results(order):
        return fpemu.matmul(a[:, None, order], b[:, order, None], unit)

    within = np.concatenate([generator.permutation(16), 16 + generator.permutation(16)])
    assert_same_bits(results(within), results(np.arange(32)))
    assert (results(np.arange(32)[::-1]) != results(np.arange(32))).any()


# Layout and threads


@pytest.mark.parametrize("name", ["hopper.wgmma.float16", "cdna2.mfma.bfloat16", "hopper.mma.e4m3"])
def test_threads_layout_and_parts_do_not_matter(name):
    unit, format = devices.get(name), UNITS[name].input_formats[0]
    generator = np.random.default_rng(8)
    a, b = near_one(generator, format, (70, 96)), near_one(generator, format, (96, 130))
    whole = fpemu.matmul(a, b, unit)
    for count in (1, 3):
        with on_threads(count):
            assert_same_bits(fpemu.matmul(a, b, unit), whole)
    assert_same_bits(fpemu.matmul(np.asfortranarray(a), b[:, ::-1], unit), whole[:, ::-1])
    lengths = np.arange(70) + 1
    part = fpemu.matmul(a, b, unit, row_lengths=lengths)
    assert_same_bits(part, np.where(np.arange(130) < lengths[:, None], whole, 0.0))
    stacked = fpemu.matmul(np.stack([a, -a]), b, unit)
    assert_same_bits(stacked[0], whole)


# One of each kernel.
STRIPPED = ["hopper.wgmma.e4m3", "cdna3.mfma.bfloat16", "cdna3.mfma.e4m3fnuz"]


@pytest.mark.parametrize("name", STRIPPED)
def test_large_products_are_formed_strip_by_strip(name, monkeypatch):
    """With what sums begin with, short rows, and numbers that are not finite in some strips."""
    unit, format = devices.get(name), UNITS[name].input_formats[0]
    generator = np.random.default_rng(9)
    a, b = near_one(generator, format, (2, 9, 64)), near_one(generator, format, (2, 64, 300))
    b[1, 3, 200] = np.nan
    initial = generator.normal(size=(9, 300)).astype(np.float32)
    options = {"c": initial, "row_lengths": np.arange(9) * 37}
    whole = fpemu.matmul(a, b, unit, **options)
    assert np.isnan(whole[1, :, 200]).sum() == 3
    monkeypatch.setattr(fused, "_STRIP", 2 * 64 * 128)
    assert_same_bits(fpemu.matmul(a, b, unit, **options), whole)


@pytest.mark.parametrize("name", [n for n in SCALED if ".e4m3-e8m0" in n or "e2m1-e8m0-16" in n])
def test_large_scaled_products_are_formed_strip_by_strip(name, monkeypatch):
    unit = devices.get(name)
    format = scaling.BlockFormat("own", unit.core.inputs[0], unit.scale, unit.scale_block)
    generator = np.random.default_rng(10)
    a, b = (
        generator.normal(size=(5, 64)),
        generator.normal(size=(64, 200)) * np.exp2(np.arange(200) % 7),
    )
    operands = scaling.quantize(a, format), scaling.quantize(b, format, axis=0)
    whole = scaling.matmul(*operands, unit)
    monkeypatch.setattr(fused, "_STRIP", 64 * 64)
    assert_same_bits(scaling.matmul(*operands, unit), whole)


# Errors


def test_unknown_units_are_errors_that_name_near_ones():
    with pytest.raises(ValueError, match=r"unknown unit 'hopper.wgma.e4m3'.*hopper.wgmma.e4m3"):
        devices.get("hopper.wgma.e4m3")


def test_inputs_that_are_no_members_are_errors_unless_converted():
    unit = devices.get("hopper.wgmma.e4m3")
    with pytest.raises(ValueError, match=r"a\[0, 1\] is 0.3, which is not a member of float8_e4m3"):
        fpemu.dot([1.0, 0.3], [1.0, 1.0], unit)
    with pytest.raises(ValueError, match=r"b\[1, 0\] is 0.3"):
        fpemu.dot([1.0, 1.0], [1.0, 0.3], unit)
    with pytest.raises(ValueError, match=r"c.* is 0.1, which is not a member of float32"):
        fpemu.dot([1.0, 1.0], [1.0, 1.0], unit, c=0.1)
    with pytest.raises(ValueError, match=r"shape \(3,\) of c"):
        fpemu.dot([1.0, 1.0], [1.0, 1.0], unit, c=[0.0, 0.0, 0.0])
    assert fpemu.dot([1.0, 0.3], [1.0, 1.0], unit, convert="rne") == 1.3125
    assert fpemu.dot([1.0, 0.3], [1.0, 1.0], unit, convert="rtz") == 1.28125


def test_tf32_units_truncate_by_themselves():
    x = np.float32(1 + 2.0**-11 + 2.0**-20)
    assert fpemu.dot([x], [1.0], devices.get("ampere.mma.tf32")) == 1.0
    assert fpemu.dot([x], [1.0], devices.get("ampere.mma.tf32"), convert="rne") == 1 + 2.0**-10


def test_flushing_leaves_zeros_their_signs():
    product = fpemu.dot([1.0], [-0.0], fpemu.Pairwise("float32", fused=False))
    assert math.copysign(1, product) == -1
    # CDNA2's are +0 where they are inputs, as flushed ones are.
    for name, sign in (("arm.bfdot.bfloat16", -1), ("cdna2.mfma.bfloat16", 1)):
        for c in (-0.0, -(2.0**-140)):
            result = fpemu.dot([1.0, 1.0], [-0.0, -0.0], devices.get(name), c=c)
            assert math.copysign(1, result) == sign


def test_scaled_units_take_scaled_operands():
    unit = devices.get("blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32")
    assert isinstance(unit, ScaledCore)
    with pytest.raises(TypeError, match=r"use fpemu.scaling.matmul"):
        fpemu.dot([1.0], [1.0], unit)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fpemu.TensorCore(0, 24), ValueError, r"block must lie in 1\.\.2147483647, not 0"),
        (lambda: fpemu.TensorCore(8.0, 24), TypeError, "block must be an int"),
        (lambda: fpemu.TensorCore(8, 50), ValueError, "takes 56 bits"),
        (lambda: fpemu.TensorCore(8, 24, "float8_e4m3fn"), ValueError, "infinities"),
        (lambda: fpemu.TensorCore(8, 24, "float64"), ValueError, "float32 numbers"),
        (lambda: fpemu.TensorCore(8, 24, order=(0, 0)), ValueError, "permutation"),
        (lambda: fpemu.TensorCore(8, 24, group=3), ValueError, "multiple of group 3"),
        (lambda: fpemu.TensorCore(8, 24, exponent_floor=9999), ValueError, "exponent_floor"),
        (lambda: fpemu.FlooredCore(8, "float64"), ValueError, "float32 numbers"),
        (lambda: fpemu.FlooredCore(8, "float16", 60), ValueError, "bits"),
        (
            lambda: fpemu.Promoted("float32", "float32", 4),
            TypeError,
            "inner must be an accumulator",
        ),
        (lambda: fpemu.Promoted(fpemu.Exact("e8m7"), "float32", 0), ValueError, "block"),
        (lambda: fpemu.Pairwise("float32", block=-1), ValueError, "block must lie in 1"),
        (lambda: fpemu.Pairwise("float32", flush="yes"), ValueError, "flush must be"),
        (lambda: fpemu.Exact("float33"), ValueError, "unknown format"),
    ],
)
def test_accumulators_check_their_parameters(make, error, message):
    with pytest.raises(error, match=message):
        make()
