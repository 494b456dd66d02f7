"""Pairwise, exact and promoted sums, and sums that begin with a value, against exact oracles."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fpemu
from fpemu import formats
from fpemu._kernels import anchored_sums, superaccumulator
from fpemu._kernels.operands import Operands
from fpemu.reference import round_exact
from tests.cases import for_each
from tests.oracle import trees
from tests.oracle.accumulators import add, exact, multiply
from tests.oracle.bits import assert_same_bits
from tests.oracle.matrices import pairwise_matrix
from tests.oracle.points import MODES, SOME_MODES

NAMES = ("e8m4", "bfloat16", "float16", "float8_e4m3fn", "float32", "e11m20", "float64")
DTYPES = for_each("dtype", [np.float32, np.float64])
LENGTHS = (0, 1, 2, 3, 8)


def far_apart(generator, shape, format):
    low, high = max(format.emin // 2, -500) - 3, min(format.emax // 2, 500) + 2
    return np.ldexp(generator.normal(size=shape), generator.integers(low, high, shape))


def few_numbers(generator, shape, format):
    """Numbers whose products tie, cancel, vanish and overflow."""
    half = 2.0**-format.precision
    numbers = [0.0, -0.0, 1.0, -1.0, 1 + half, -1 - half, half, -half, 1.5, 2.0**-60]
    return generator.choice(numbers, shape)


def specials(generator, shape, format):
    values = [math.inf, -math.inf, math.nan, 0.0] if format.has_nan else [0.0]
    return np.where(
        generator.random(shape) < 0.06,
        generator.choice(values, shape),
        generator.normal(size=shape),
    )


KINDS = (far_apart, few_numbers, specials)


@functools.cache  # for each mode and each option
def operands(kind, format, dtype, length):
    generator = np.random.default_rng([length, KINDS.index(kind)])
    with np.errstate(all="ignore"):
        a = kind(generator, (2, length), format).astype(dtype)
        b = kind(generator, (length, 2), format).astype(dtype)
    c = fpemu.round(generator.normal(size=(2, 2)), format)
    c[0, 0] = -0.0 if format.has_negative_zero else 0.0
    for array in (a, b, c):
        array.flags.writeable = False
    return a, b, c


def check(accumulator, a, b, c, oracle):
    """The product with and without a beginning, element by element."""
    for start in (None, c):
        expected = [
            [
                oracle(
                    a[i].tolist(), b[:, j].tolist(), None if start is None else float(start[i, j])
                )
                for j in range(b.shape[1])
            ]
            for i in range(a.shape[0])
        ]
        actual = fpemu.matmul(a, b, accumulator, c=start)
        assert_same_bits(actual, expected, about=(str(accumulator), a.shape[1], start is not None))


@DTYPES
@pytest.mark.parametrize("options", [{}, {"fused": False}, {"product": "float16"}, {"block": 4}])
@for_each("mode", SOME_MODES)
@pytest.mark.parametrize("name", NAMES)
def test_trees_are_summed_by_halves(name, mode, options, dtype):
    format, rounding = formats.format(name), fpemu.Rounding(mode)
    accumulator = fpemu.Pairwise(name, rounding, **options)

    def oracle(a, b, start):
        return trees.pairwise(
            a,
            b,
            format,
            rounding,
            fused=accumulator.fused,
            product=accumulator.product,
            block=accumulator.block,
            start=start,
        )

    for kind, length in itertools.product(KINDS, LENGTHS):
        check(accumulator, *operands(kind, format, dtype, length), oracle)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mode", ["rne", "rto"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [  # no product of float32 numbers is below those of float64
        ("float16", np.float32), ("float32", np.float32),
        ("float16", np.float64), ("float32", np.float64), ("float64", np.float64),
    ],
)  # fmt: skip
def test_products_and_sums_below_the_normal_numbers_are_flushed(name, dtype, mode, fused):
    format, rounding = formats.format(name), fpemu.Rounding(mode)
    accumulator = fpemu.Pairwise(name, rounding, fused=fused, flush="signed")
    low = math.frexp(format.smallest_normal)[1] - 1
    unit = float(np.finfo(dtype).eps)
    # Products of one more and one less than a power of two come as near to another as can be.
    near = np.array([1, 1 - unit / 2, 1 + unit, 1 - unit, 1.5, 0.75, 3, 0.4, 0, np.inf, np.nan])
    generator = np.random.default_rng(7)
    a = generator.choice(near[:-1], (40, 6)) * generator.choice([-1, 1], (40, 6))
    a, b = (a * 2.0 ** (low // 2)).astype(dtype), generator.choice(near[:-2], (6, 40))
    b = (b * 2.0 ** (low - low // 2)).astype(dtype)
    a[0, 0] = np.nan

    expected = pairwise_matrix(a, b, format, rounding, fused=fused, flush=True)
    few = [
        [trees.pairwise(x, y, format, rounding, fused=fused, flush=True) for y in b.T[:5].tolist()]
        for x in a[:5].tolist()
    ]
    assert_same_bits(expected[:5, :5], few, about="the oracle")
    assert_same_bits(fpemu.matmul(a, b, accumulator), expected, about=str(accumulator))
    single = fpemu.matmul(a[:, :1], b[:1], accumulator)
    assert (single == 0).any()
    assert (np.abs(single) == format.smallest_normal).any()


@DTYPES
@for_each("block", [None, 1, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_exact_sums_are_rounded_once_or_once_a_block(name, mode, block, dtype):
    format, rounding = formats.format(name), fpemu.Rounding(mode)
    accumulator = fpemu.Exact(name, rounding, block)

    def oracle(a, b, start):
        return trees.exactly(a, b, format, rounding, block=block, start=start or 0.0)

    for kind, length in itertools.product(KINDS, LENGTHS):
        check(accumulator, *operands(kind, format, dtype, length), oracle)


def test_exact_sums_of_extreme_numbers():
    tiny, huge = 5e-324, 1.7e308
    for a, b, expected in (
        ([tiny, huge, -huge], [tiny, huge, huge], 0.0),
        ([tiny, huge, -huge], [1.0, huge, huge], tiny),
        ([huge, huge, -huge, 1.0], [huge, huge, huge, 1.0], math.inf),
        ([1.0, 2.0**-1000, -1.0], [1.0, 2.0**-74, 1.0], tiny),
        ([-1.0, 2.0**-1000, 1.0], [1.0, -(2.0**-74), 1.0], -tiny),
    ):
        assert fpemu.dot(a, b, fpemu.Exact("float64")) == expected
    assert fpemu.dot([tiny], [tiny], fpemu.Exact("float64", "rtp")) == tiny
    assert math.copysign(1, fpemu.dot([1.0, -1.0], [1.0, 1.0], fpemu.Exact("float64", "rtn"))) == 1


def test_sums_that_are_zero_are_positive():
    for accumulator in (
        fpemu.Exact("e8m4"),
        fpemu.Exact("e8m4", block=1),
        fpemu.Exact("e8m4", "rtn", block=2),
    ):
        assert_same_bits(fpemu.dot([-0.0], [1.0], accumulator, c=-0.0), 0.0)
        for c in (-0.0, 0.0, None):
            result = fpemu.dot([-0.0, 0.0, 1.0], [1.0, -2.0, -0.0], accumulator, c=c)
            assert_same_bits(result, 0.0)


def test_trees_that_saturate():
    a, b = np.float32([2.0**127, 2.0**127, 1.0]), np.float32([1.0, 1.0, 1.0])
    for fused in (False, True):
        for overflow, expected in (("saturate", formats.float32.max_finite), ("ieee", math.inf)):
            rounding = fpemu.Rounding(overflow=overflow)
            accumulator = fpemu.Pairwise("float32", rounding, fused)
            assert fpemu.dot(a, b, accumulator) == expected


@pytest.mark.parametrize("make", [fpemu.Exact, fpemu.Pairwise])
def test_no_bit_below_a_sum_is_lost(make):
    """However far below, and wherever digits begin: the sum is above the number."""
    for distance in range(1, 500):
        for power in (0, distance % 32):
            number = 2.0**power
            # 2**-600 is no float32 number.
            a, b = [number, 2.0**-600], [1.0, 2.0 ** (600 + power - distance)]
            result = fpemu.dot(a, b, make("e8m4", "rtp"))
            assert result == round_exact(Fraction(2) ** power * (1 + Fraction(1, 2**distance)),
                                         "e8m4", "rtp")  # fmt: skip
            assert result > number


@pytest.mark.parametrize("block", [None, 4])
def test_parts_of_rows_of_exact_sums(block):
    generator = np.random.default_rng(3)
    a, b = fpemu.round(generator.normal(size=(2, 9, 9)), "float8_e4m3fn").astype(np.float32)
    lengths = np.arange(9)
    whole = fpemu.matmul(a, b, fpemu.Exact("float16", block=block))
    part = fpemu.matmul(a, b, fpemu.Exact("float16", block=block), row_lengths=lengths)
    assert_same_bits(part, np.where(np.arange(9) < lengths[:, None], whole, 0.0))


def test_sums_of_more_bits_than_float64_has():
    for power in range(48, 60):
        a, b = [2.0**26, 1.0], [2.0 ** (power - 26), 1.0]
        assert fpemu.dot(a, b, fpemu.Exact("e11m40", "rtp")) > 2.0**power
        small = 2.0**-power
        assert fpemu.dot([1.0], [1.0], fpemu.Exact("e11m40", "rtp"), c=small) > 1.0
        assert fpemu.dot([small], [small], fpemu.Exact("e11m40", "rtp"), c=1.0) > 1.0


def test_the_quick_exact_way_and_the_superaccumulator_agree(monkeypatch):
    generator = np.random.default_rng(1)
    a, b = fpemu.round(generator.normal(size=(2, 30, 30)), "float8_e4m3fn").astype(np.float32)
    quick = fpemu.matmul(a, b, fpemu.Exact("float16"))
    operands = Operands.of(a[None], b[None], None, np.full(30, 30))
    reach = superaccumulator._Reach.of(operands)
    assert superaccumulator._float64_product(operands, reach) is not None
    monkeypatch.setattr(superaccumulator, "_quick_product", lambda *_: None)
    assert_same_bits(fpemu.matmul(a, b, fpemu.Exact("float16")), quick)


@pytest.mark.parametrize("mode", [mode for mode in MODES if not mode.startswith("sr")])
@pytest.mark.parametrize("block", [None, 4])
def test_sums_of_two_numbers_and_the_superaccumulator_agree(mode, block, monkeypatch):
    generator = np.random.default_rng(2)
    # Few exponents, so that sums are short, cancel and tie, and many, so that some are not.
    for spread in (0, 12, 60, 120):
        exponents = generator.integers(-spread, spread + 1, (2, 40, 40))
        a, b = fpemu.round(np.ldexp(generator.normal(size=(2, 40, 40)), exponents), "e8m2")
        a, b = a.astype(np.float32), b.astype(np.float32)
        c = fpemu.round(generator.normal(size=(40, 40)), "e8m3")
        accumulator = fpemu.Exact("e8m3", mode, block)
        with monkeypatch.context() as patch:
            patch.setattr(superaccumulator, "_quick_product", lambda *_: None)
            quick = fpemu.matmul(a, b, accumulator, c=c)
            patch.setattr(superaccumulator, "holds_float32_sums", lambda _: False)
            assert_same_bits(fpemu.matmul(a, b, accumulator, c=c), quick, about=spread)


def without_quick_products(monkeypatch, *arguments, **options):
    """An exact product by superaccumulators alone."""
    with monkeypatch.context() as patch:
        patch.setattr(superaccumulator, "_quick_product", lambda *_: None)
        patch.setattr(superaccumulator, "holds_float32_sums", lambda _: False)
        return fpemu.matmul(*arguments, **options)


@pytest.fixture
def anchored(monkeypatch):
    """The calls of anchored sums, where float64 is said to hold none."""
    calls = []
    product = anchored_sums.product

    def watched(*arguments):
        calls.append(arguments)
        return product(*arguments)

    monkeypatch.setattr(anchored_sums, "product", watched)
    monkeypatch.setattr(superaccumulator, "_float64_product", lambda *_: None)
    return calls


@pytest.mark.parametrize("mode", ["rne", "rna", "rtz", "rtn", "rto"])
@pytest.mark.parametrize("steps", [9, 40])
def test_anchored_sums_and_the_superaccumulator_agree(mode, steps, monkeypatch, anchored):
    """Of many exponents; of rows that cancel; of what is far below what two rows have in common."""
    generator = np.random.default_rng(steps)
    half = steps // 2
    for format in ("float32", "e8m3", "e10m40"):
        spread = generator.integers(-9, 10, (2, 70, steps))
        a, b = np.ldexp(generator.standard_normal((2, 70, steps)), spread).astype(np.float32)
        a, b = a[:20], b.T.copy()
        a[5:15, half : 2 * half], b[half : 2 * half] = -a[5:15, :half], b[:half]
        accumulator = fpemu.Exact(format, mode)
        c = fpemu.round(np.ldexp(generator.standard_normal((20, 70)), -9), format)
        c[::3] = -fpemu.matmul(a[::3], b, accumulator)
        for initial in (None, c):
            found = fpemu.matmul(a, b, accumulator, c=initial)
            expected = without_quick_products(monkeypatch, a, b, accumulator, c=initial)
            assert_same_bits(found, expected, about=format)
    assert len(anchored) == 6


def test_anchored_sums_of_stacks_and_of_rows_of_any_length(monkeypatch, anchored):
    generator = np.random.default_rng(1)
    shapes = (3, 20, 9), (3, 9, 130), (3, 20, 130)
    a, b, c = (generator.standard_normal(shape).astype(np.float32) for shape in shapes)
    options = {"c": c, "row_lengths": generator.integers(0, 131, 20)}
    found = fpemu.matmul(a, b, fpemu.Exact("float32"), **options)
    assert len(anchored) == 1
    expected = without_quick_products(monkeypatch, a, b, fpemu.Exact("float32"), **options)
    assert_same_bits(found, expected)


def test_anchored_sums_hold_what_they_take(anchored):
    """Sums of a product many times, less all but 1 of it; a number that is taken back grows."""
    generator = np.random.default_rng(0)
    left, right, times = 2**24 - 1, 2 * generator.integers(2**22, 2**23, 70) + 1, 250
    digits = [(left * right * times - 1) >> 24 * i & 2**24 - 1 for i in range(3)]
    ones, taken = np.ones(70), []
    for power in range(50, 72):
        big = 2.0**power
        a = np.tile([big, *[left] * times, 1.0, 2.0**24, 2.0**48, -big], (9, 1))
        b = np.stack([big * ones, *[right] * times, *np.negative(digits), big * ones])
        before = len(anchored)
        found = fpemu.matmul(a.astype(np.float32), b.astype(np.float32), fpemu.Exact("float32"))
        taken.append(len(anchored) > before)
        assert (found == 1.0).all()
    assert taken == sorted(taken, reverse=True)
    assert taken[0]
    assert not taken[-1]


@DTYPES
@for_each("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_sequential_sums_may_begin_with_a_value(name, mode, dtype):
    format, rounding = formats.format(name), fpemu.Rounding(mode)

    def oracle(a, b, start):
        total = 0.0 if start is None else start
        for x, y in zip(a, b, strict=True):
            term = multiply(exact(x), exact(y))
            total = round_exact(add(exact(total), term, rounding), format, rounding)
        return total

    for kind, length in itertools.product(KINDS, LENGTHS):
        a, b, c = operands(kind, format, dtype, length)
        check(fpemu.Sequential(name, rounding), a, b, c, oracle)


@pytest.mark.parametrize("mode", ["rne", "rtp"])
@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2", "float32"])
def test_a_promoted_sequential_sum_is_a_blocked_one(name, mode):
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(3, 50)).astype(np.float32), generator.normal(size=(50, 4))
    c = fpemu.round(generator.normal(size=(3, 4)), "float32")
    promoted = fpemu.Promoted(fpemu.Sequential(name), "float32", 7, mode)
    blocked = fpemu.Blocked("float32", 7, name, mode)
    assert_same_bits(fpemu.matmul(a, b, promoted), fpemu.matmul(a, b, blocked))
    assert_same_bits(fpemu.matmul(a, b, promoted, c=c), fpemu.matmul(a, b, blocked, c=c))
    lengths = [1, 4, 0]
    part = fpemu.matmul(a, b, promoted, c=c, row_lengths=lengths)
    assert_same_bits(part, fpemu.matmul(a, b, blocked, c=c, row_lengths=lengths))
    assert (part[2] == 0).all()


def test_any_accumulator_may_be_promoted():
    generator = np.random.default_rng(3)
    a, b = fpemu.round(generator.normal(size=(2, 60)), "float16")
    for inner in (
        fpemu.Pairwise("bfloat16"),
        fpemu.Exact("bfloat16"),
        fpemu.devices.get("volta.mma.float16"),
    ):
        total = 0.0
        for first in range(0, 60, 16):
            part = fpemu.dot(a[first : first + 16], b[first : first + 16], inner)
            total = fpemu.add(total, part, "e8m4")
        assert fpemu.dot(a, b, fpemu.Promoted(inner, "e8m4", 16)) == total


@given(
    st.lists(
        st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32)), max_size=25
    ),
    st.sampled_from(NAMES),
    st.sampled_from(MODES),
)
def test_any_sum_is_that_of_the_definition(pairs, name, mode):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    format, rounding = formats.format(name), fpemu.Rounding(mode)
    assert_same_bits(
        fpemu.dot(a, b, fpemu.Pairwise(name, rounding)), trees.pairwise(a, b, format, rounding)
    )
    assert_same_bits(
        fpemu.dot(a, b, fpemu.Exact(name, rounding)), trees.exactly(a, b, format, rounding)
    )
