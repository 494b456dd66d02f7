"""Tensor cores in narrow lanes against the same units in float64."""

import numpy as np
import pytest

import fpemu
from fpemu import devices, scaling
from fpemu._environment import is_usual
from fpemu._kernels import directed_blocks, narrow_core, tensor_core
from tests.oracle import units
from tests.threads import on_threads

# One unit for each number of fraction bits and terms of a block, for each way to end a block, for
# each order of terms and each kind of block.
UNITS = (
    "volta.mma.float16",
    "volta.mma.float16.float16",
    "ampere.mma.bfloat16",
    "ampere.mma.tf32",
    "hopper.wgmma.float16",
    "hopper.wgmma.e4m3",
    "hopper.wgmma.e4m3-e5m2.float16",
    "blackwell.tcgen05.e5m2",
    "blackwell.tcgen05.e4m3.float16",
    "hopper.mma.e4m3",
    "cdna3.mfma.bfloat16",
    "cdna3.mfma.tf32",
    "cdna3.mfma.e5m2fnuz-e4m3fnuz",
)
SCALED = {
    "blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32": "mxfp8_e4m3",
    "blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16": "nvfp4",
    "blackwell.tcgen05-mxf4nvf4.e2m1-e8m0-32": "mxfp4",
}

needs_directions = pytest.mark.skipif(
    not directed_blocks.are_there(), reason="this processor has no multiply-adds toward zero"
)


@pytest.fixture
def taken(monkeypatch):
    """The share of rows that narrow lanes left at each call."""
    shares = []
    product = narrow_core.product

    def watched(*arguments):
        found = product(*arguments)
        shares.append(float(found[1].mean()))
        return found

    monkeypatch.setattr(narrow_core, "product", watched)
    return shares


def wide(monkeypatch, *arguments, matmul=fpemu.matmul, **options):
    with monkeypatch.context() as context:
        for unit_of in ("unit_of", "floored_unit"):
            context.setattr(narrow_core, unit_of, lambda *_: None)
        return matmul(*arguments, **options)


def members(generator, shape, format, spread):
    """Random finite members of a format, over so many binades to both sides."""
    x = generator.standard_normal(shape) * 2.0 ** generator.integers(-spread, spread + 1, shape)
    with np.errstate(over="ignore"):
        rounded = np.asarray(fpemu.round(x.astype(np.float32), format))
    return np.where(np.isfinite(rounded), rounded, np.float32(1.0))


def assert_same(found, expected):
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def _plain(generator, a, b):
    return a, b


def _canceling(generator, a, b):
    a[:, 1::2], b[1::2] = -a[:, :-1:2], b[:-1:2]
    return a, b


def _sparse(generator, a, b):
    a[generator.random(a.shape) < 0.6] = 0.0
    b[generator.random(b.shape) < 0.6] = -0.0
    return a, b


def _full(generator, a, b):
    """Sums of blocks as large as they can be: all terms have significands of ones."""
    for x in (a, b):
        x[:] = 2.0 - np.spacing(np.ones(1, np.float16))[0]
    return a, -b


def _blank(generator, a, b):
    a[:, : a.shape[1] // 2] = 0.0  # whole blocks of zeros
    return a, b


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("spread", [0, 5, 40])
def test_narrow_lanes_keep_every_bit(name, spread, monkeypatch, taken):
    unit = devices.get(name)
    generator = np.random.default_rng(spread)
    for change in (_plain, _canceling, _sparse, _full, _blank):
        for m, k, n in ((5, 50, 70), (1, 33, 1), (34, 64, 64)):
            left, right = unit.input_formats
            a, b = (
                members(generator, (m, k), left, spread),
                members(generator, (k, n), right, spread),
            )
            a, b = change(generator, a[:, : k // 2 * 2], b[: k // 2 * 2])
            a, b = (fpemu.round(x, f, "rtz") for x, f in ((a, left), (b, right)))
            initial = members(generator, (m, n), unit.initial_format, 2 * spread)
            for c in (None, initial):
                assert_same(fpemu.matmul(a, b, unit, c=c), wide(monkeypatch, a, b, unit, c=c))
                # Beside an accumulator, sums as large as they can be may not be within int32.
                assert spread or taken[-1] == 0.0 or (change is _full and c is not None)
    assert taken


@pytest.mark.parametrize(
    "name", ["ampere.mma.bfloat16", "hopper.wgmma.float16.float16", "hopper.wgmma.e5m2"]
)
def test_infinities_and_nans_take_their_rows_to_float64(name, monkeypatch, taken):
    unit = devices.get(name)
    generator = np.random.default_rng(1)
    left, right = unit.input_formats
    a, b = members(generator, (8, 40), left, 1), members(generator, (40, 9), right, 1)
    c = members(generator, (8, 9), unit.initial_format, 1)
    a[1, 3], a[4, 0], c[2, 2], c[3, 3], c[5, 8] = np.inf, np.nan, np.inf, -np.inf, np.nan
    assert_same(fpemu.matmul(a, b, unit, c=c), wide(monkeypatch, a, b, unit, c=c))
    assert 0.0 < taken[0] < 1.0
    a[6:], b[7, 7] = 0.0, -np.inf
    assert_same(fpemu.matmul(a, b, unit, c=c), wide(monkeypatch, a, b, unit, c=c))
    assert taken[1:] == [1.0]


def test_sums_that_overflow_stay_infinite(monkeypatch, taken):
    unit = devices.get("hopper.wgmma.float16.float16")
    a, b = np.full((3, 48), 240.0, np.float32), np.full((48, 5), 240.0, np.float32)
    a[1], a[2, 16:] = -240.0, -240.0
    found = fpemu.matmul(a, b, unit)
    assert_same(found, wide(monkeypatch, a, b, unit))
    assert np.all(found == np.array([[np.inf], [-np.inf], [np.inf]], np.float32))
    assert taken == [0.0]


@pytest.mark.parametrize("exponent", [-140, -96, -95, -94, 124, 125, 126, 127, 128, 129])
def test_rows_of_far_exponents_are_done_in_float64(exponent, monkeypatch, taken):
    """Every other row's largest exponent is the one given: narrow lanes take -95 to 125."""
    unit = devices.get("ampere.mma.bfloat16")
    generator = np.random.default_rng(abs(exponent))
    a, b = (
        np.asarray(fpemu.round(generator.uniform(1.0, 1.99, shape), "bfloat16"), np.float32)
        * generator.choice(np.float32([-1.0, 1.0]), shape)
        for shape in ((6, unit.block), (unit.block, 5))
    )
    half = exponent // 2
    a[1::2] *= np.float32(2.0**half)
    b *= np.float32(2.0 ** (exponent - half))
    assert_same(fpemu.matmul(a, b, unit), wide(monkeypatch, a, b, unit))
    assert taken == [float(not -95 <= exponent <= 125)]


@pytest.mark.parametrize("name", ["ampere.mma.float16", "hopper.wgmma.e4m3"])
def test_stacks_triangles_and_strips(name, monkeypatch, taken):
    unit = devices.get(name)
    generator = np.random.default_rng(2)
    left, right = unit.input_formats
    a, b = members(generator, (3, 70, 40), left, 2), members(generator, (3, 40, 150), right, 2)
    monkeypatch.setattr(tensor_core, "_STRIP", 2**13)
    lengths = np.arange(70) * 2
    for options in ({}, {"row_lengths": lengths}):
        with on_threads(4):
            found = fpemu.matmul(a, b, unit, **options)
        assert_same(found, wide(monkeypatch, a, b, unit, **options))
    assert set(taken) == {0.0}


def test_floored_blocks_drop_and_floor_what_is_far_below(monkeypatch, taken):
    """Random numbers do not show it: terms one bit above and below where they are lost."""
    generator = np.random.default_rng(5)
    for name in ("cdna3.mfma.bfloat16", "cdna3.mfma.e4m3fnuz", "cdna3.mfma-k4.bfloat16"):
        unit = devices.get(name)
        k = unit.block
        for shift in range(20, 36):
            a = np.zeros((64, k), np.float32)
            a[:, 0] = generator.choice([-1.0, 1.0], 64)
            a[:, 1:] = generator.choice([0.0, -1.0, 1.0, -1.875, 1.875], (64, k - 1))
            a[:, 2:] *= np.float32(2.0 ** -(shift % 7))
            b = np.ones((k, 3), np.float32)
            b[1:] *= np.float32(2.0 ** -(shift // 4))
            c = generator.choice(np.float32([-1.0, 1.0, 1.9999999]), (64, 3))
            c *= np.float32(2.0) ** generator.choice([-shift, shift, 0], (64, 3)).astype(np.float32)
            assert_same(fpemu.matmul(a, b, unit, c=c), wide(monkeypatch, a, b, unit, c=c))
    assert set(taken) == {0.0}


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("spread", [1, 12])
def test_scaled_operands(name, spread, monkeypatch, taken):
    unit, format = devices.get(name), SCALED[name]
    generator = np.random.default_rng(3)
    for change in (_plain, _canceling, _sparse, _blank):
        for m, k, n in ((9, 96, 70), (1, 70, 5)):
            a, b = change(
                generator,
                members(generator, (m, k), "float32", spread),
                members(generator, (k, n), "float32", spread),
            )
            a = scaling.quantize(a, format, axis=1, tensor_scale=1.0)
            b = scaling.quantize(b, format, axis=0, tensor_scale=1.0)
            for c in (None, members(generator, (m, n), "float32", 2 * spread)):
                found = scaling.matmul(a, b, unit, c=c)
                expected = wide(monkeypatch, a, b, unit, matmul=scaling.matmul, c=c)
                assert_same(found, expected)
    assert set(taken) == {0.0}


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32", 2.0**-60, 2.0**-50),
        ("blackwell.tcgen05-mxf4nvf4.e2m1-e8m0-32", 2.0**-70, 2.0**-60),
        ("blackwell.tcgen05-mxf4nvf4.e2m1-e8m0-32", 2.0**60, 2.0**55),
    ],
)
def test_far_scales_are_done_in_float64(name, left, right, monkeypatch, taken):
    unit, format = devices.get(name), SCALED[name]
    generator = np.random.default_rng(4)
    a, b = generator.standard_normal((4, 64)), generator.standard_normal((64, 3))
    a[1] *= left
    b *= right
    a, b = scaling.quantize(a, format, axis=1), scaling.quantize(b, format, axis=0)
    found = scaling.matmul(a, b, unit)
    assert_same(found, wide(monkeypatch, a, b, unit, matmul=scaling.matmul))
    assert 0.0 < taken[0] <= 1.0


def test_scales_and_elements_that_are_nan(monkeypatch, taken):
    unit = devices.get("blackwell.tcgen05-mxf8f6f4.e4m3-e8m0-32")
    a, b = np.ones((3, 64)), np.ones((64, 70))
    a[1, 40] = np.nan
    a, b = (scaling.quantize(x, "mxfp8_e4m3", axis=axis) for x, axis in ((a, 1), (b, 0)))
    elements = b.elements.copy()
    elements[3, 69] = np.nan
    b = scaling.Scaled(elements, b.scales, b.format, 0)
    found = scaling.matmul(a, b, unit)
    assert_same(found, wide(monkeypatch, a, b, unit, matmul=scaling.matmul))
    assert np.isnan(found).sum() == 70 + 2
    assert taken == [1.0]


@pytest.mark.parametrize("name", ["hopper.wgmma.e4m3", "ada.mma.e5m2", "ampere.mma.tf32"])
def test_without_roundings_toward_zero_bits_are_the_same(name, monkeypatch):
    unit = devices.get(name)
    generator = np.random.default_rng(7)
    for change in (_plain, _canceling, _sparse, _full, _blank):
        a = members(generator, (5, 150), unit.input_formats[0], 3)
        b = members(generator, (150, 70), unit.input_formats[1], 3)
        x, y = change(generator, a, b)
        a, b = (fpemu.round(z, f) for z, f in zip((x, y), unit.input_formats, strict=True))
        c = members(generator, (5, 70), unit.initial_format, 20)
        found = fpemu.matmul(a, b, unit, c=c)
        with monkeypatch.context() as context:
            context.setattr(directed_blocks, "are_there", lambda: False)
            assert_same(found, fpemu.matmul(a, b, unit, c=c))


@pytest.mark.parametrize("first", [2.0**112, -(2.0**127), 2.0**-96, 2.0**-126, np.inf, np.nan])
@pytest.mark.parametrize("name", ["hopper.wgmma.e4m3", "volta.mma.float16"])
def test_first_accumulators_out_of_range_are_refused(name, first, monkeypatch, taken):
    unit = devices.get(name)
    generator = np.random.default_rng(8)
    a, b = (members(generator, shape, unit.input_formats[0], 1) for shape in ((4, 64), (64, 70)))
    a[:, :32] = 0.0  # the first block leaves the accumulator alone
    c = np.full((4, 70), 2.0**-95, np.float32)
    c[1, 69] = first
    c[2] = 2.0**111
    assert_same(fpemu.matmul(a, b, unit, c=c), wide(monkeypatch, a, b, unit, c=c))
    assert taken == [0.25]


def test_sums_that_overflow_int32_are_done_in_float64(monkeypatch, taken):
    """Sixteen products of Hopper's unit fill int32; an accumulator of their exponent overflows."""
    unit = devices.get("hopper.wgmma.float16")
    a = np.full((3, 16), 2.0 - 2.0**-10, np.float32)
    b = np.full((16, 70), 2.0 - 2.0**-10, np.float32)
    c = np.zeros((3, 70), np.float32)
    c[1, 3] = 1.5
    c[2, 5] = -1.5
    assert_same(fpemu.matmul(a, b, unit, c=c), wide(monkeypatch, a, b, unit, c=c))
    assert taken == [2 / 3]  # a row and its neighbor


@needs_directions
@pytest.mark.parametrize("name", ["hopper.wgmma.e4m3", "ada.mma.e5m2-e4m3", "hopper.wgmma.e5m2"])
def test_directed_sums_are_what_the_oracle_says_at_their_limits(name, taken):
    """Least and greatest numbers and accumulators, sums that cancel, zeros of both signs."""
    unit, oracle = devices.get(name), units.UNITS[name]
    generator = np.random.default_rng(9)
    assert narrow_core.unit_of(unit, None).kind == narrow_core._DIRECTED
    least, greatest = directed_blocks.LEAST, np.nextafter(directed_blocks.GREATEST, np.float32(0))
    accumulators = [0.0, least, np.float32(1.9998779) * least, 2.0**-20, 3.0, 2.0**10, greatest]
    accumulators = fpemu.round(np.array(accumulators, np.float32), unit.initial_format, "rtz")
    for part in range(4):
        shapes = (7, 2 * unit.block + 5), (2 * unit.block + 5, 5)
        a, b = (
            generator.choice(limits_of(format, part), shape)
            for format, shape in zip(unit.input_formats, shapes, strict=True)
        )
        a[1, 1::2], b[1::2] = -a[1, :-1:2], b[:-1:2]  # products that cancel
        a[2, : unit.block], a[3] = 0.0, -0.0
        c = generator.choice(np.concatenate([accumulators, -accumulators]), (7, 5))
        c[3] = np.resize([-0.0, 0.0, -least], 5)
        found = fpemu.matmul(a, b, unit, c=c)
        expected = [
            [oracle(row, column, start) for column, start in zip(b.T, starts, strict=True)]
            for row, starts in zip(a, c, strict=True)
        ]
        assert_same(found, np.float32(expected))
    assert set(taken) == {0.0}


def limits_of(format, part):
    """Numbers of a format: all, the least and the greatest, the least alone, the greatest alone."""
    x = fpemu.values(format)
    x = np.sort(x[np.isfinite(x) & (x > 0)])
    some = (x, np.concatenate([x[:3], x[-3:]]), x[:9], x[-9:])[part]
    return np.concatenate([some, -some, [0.0, -0.0]]).astype(np.float32)


@needs_directions
def test_a_kernel_leaves_the_rounding_direction_as_it_was(monkeypatch):
    kernel_of, usual = narrow_core._kernel, []

    def watched(*choice):
        def run(*arguments):
            kernel_of(*choice)(*arguments)
            usual.append(is_usual())

        return run

    monkeypatch.setattr(narrow_core, "_kernel", watched)
    x = members(np.random.default_rng(10), (70, 70), "float8_e4m3fn", 2)
    fpemu.matmul(x, x, devices.get("hopper.wgmma.e4m3"))
    assert usual
    assert all(usual)
