"""P3109 formats: every value, every midpoint, every mode and saturation, against the report."""

import functools
import random

import numpy as np
import pytest

import fpemu
from fpemu import Rounding, formats
from fpemu._kernels import random_bits as philox
from fpemu.reference import round_exact
from tests.oracle import p3109
from tests.oracle.bits import assert_same_bits

MODES = ("rne", "rna", "rtz", "rtp", "rtn", "rto")
OVERFLOWS = tuple(p3109.SATURATION)
SEED = 7


@functools.lru_cache(1)  # what follows differs in the mode and the overflow alone
def numbers(format, points):
    return np.array([format.number(point) for point in points])


@functools.lru_cache(1)
def rounded_by(format, points, mode):
    return [p3109.round_to_precision(format, point, mode) for point in points]


def check(format, points, mode, overflow):
    """`round`, and arithmetic that ends in the same rounding, against the projection."""
    points = tuple(points)
    x, rounded = numbers(format, points), rounded_by(format, points, mode)
    expected = np.array(p3109.saturated(format, rounded, mode, overflow))
    rounding, about = Rounding(mode, overflow), (format.name, mode, overflow)
    assert_same_bits(fpemu.round(x, format.name, rounding), expected, x, about)
    narrow = x.astype(np.float32)
    same = (narrow == x) | np.isnan(x)
    assert_same_bits(
        fpemu.round(narrow[same], format.name, rounding), expected[same], x[same], about
    )
    return x, expected


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("width", range(3, 9))
def test_all_values_and_midpoints_are_projected_as_the_report_has_it(width):
    for format in p3109.formats([width]):
        points = p3109.points_around(format, range(format.largest_code + 2))
        for mode in MODES:
            for overflow in OVERFLOWS:
                x, expected = check(format, points, mode, overflow)
            # The exact kernels end in another function than `round`.
            finite = x[np.isfinite(x)]
            sums = fpemu.fma(finite, 0.5, finite * 0.5, format.name, Rounding(mode, overflow))
            assert_same_bits(sums, expected[np.isfinite(x)], finite, (format.name, mode, "fma"))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("width", range(9, 17))
def test_wide_formats_are_projected_as_the_report_has_it(width):
    generator = random.Random(width)
    for format in p3109.formats([width]):
        if not format.holds_float64:
            with pytest.raises(ValueError, match="float64"):
                formats.format(format.name)
            continue
        top = format.largest_code
        codes = {0, 1, 2, top - 1, top, *(generator.randrange(top) for _ in range(4))}
        points = [p for p in p3109.points_around(format, codes) if format.is_float64(p)]
        for mode in MODES:
            check(format, points, mode, generator.choice(OVERFLOWS))


@pytest.mark.parametrize("mode", MODES)
def test_the_judge_projects_as_the_report_has_it(mode):
    for format in p3109.formats(range(3, 6)):
        points = p3109.points_around(format, range(format.largest_code + 2))
        x = [format.number(point) for point in points]
        for overflow in OVERFLOWS:
            expected = p3109.project(format, points, mode, overflow)
            judged = [round_exact(number, format.name, mode, overflow) for number in x]
            assert_same_bits(judged, expected, x, (format.name, mode, overflow))


def drawn(count, width):
    """The random words that elements 0, 1, ... of a call of `round` draw."""
    words, result = np.empty(philox.BLOCK_WORDS, np.uint32), []
    while len(result) < count:
        philox.fill_block(len(result) * width // (32 * words.size), philox.key_of(SEED), words)
        if width == 32:
            result += words.tolist()
        else:
            high, low = np.split(words.astype(np.uint64), 2)
            result += (high << np.uint64(32) | low).tolist()
    return result[:count]


@pytest.mark.parametrize("mode", ["sr", "sr_b", "sr_c"])
@pytest.mark.parametrize("random_bits", [1, 2, 3, 31])
def test_stochastic_variants_go_up_as_the_report_has_it(mode, random_bits):
    rounding = Rounding(mode, random_bits=random_bits, seed=SEED)
    for format in p3109.formats([3, 5]):
        points = p3109.points_around(format, range(format.largest_code + 1))
        points = [point for point in points if point != p3109.NAN] * 4
        x = np.array([format.number(point) for point in points])
        for dtype, width in ((np.float32, 32), (np.float64, 64)):
            if mode != "sr" and random_bits + 1 > width:
                continue
            random = [word >> width - random_bits for word in drawn(len(points), width)]
            expected = p3109.project(format, points, mode, "ieee", random_bits, random)
            actual = fpemu.round(x.astype(dtype), format.name, rounding)
            assert_same_bits(actual, expected, x, (format.name, mode, random_bits, width))


# Examples of the report's rules


@pytest.mark.parametrize(
    ("x", "name", "rounding", "expected"),
    [
        (300.0, "Binary8p4sf", "rne", 240.0),
        (-np.inf, "Binary8p4sf", "rne", -240.0),
        (230.0, "Binary8p4se", "rto", np.inf),
        (-230.0, "Binary8p4se", "rto", -np.inf),
        (1e9, "Binary8p4ue", "rto", 53248.0),
        (1e9, "Binary8p4ue", "rne", np.inf),
        (-3.0, "Binary8p4ue", "rtn", 0.0),
        (-np.inf, "Binary8p4uf", "rne", 0.0),
        (300.0, "Binary8p4se", Rounding("rne", "propagate"), 224.0),
        (np.inf, "Binary8p4se", Rounding("rne", "propagate"), np.inf),
        (np.inf, "Binary8p4se", Rounding("rne", "saturate"), 224.0),
        (1.5, "Binary8p1se", "rne", 1.0),
        (3.0, "Binary8p1se", "rne", 4.0),
        (1.25, "Binary8p1se", "rto", 2.0),
        (2.25, "Binary8p1se", "rto", 2.0),
    ],
)
def test_examples(x, name, rounding, expected):
    for number in (x, np.float32(x)):
        assert_same_bits(fpemu.round(number, name, rounding), expected)
    assert_same_bits(fpemu.multiply(x, 1.0, name, rounding), expected)
    if np.isfinite(x):
        exact = fpemu.matmul([[x]], [[1.0]], fpemu.Exact(name, rounding))
        assert_same_bits(exact, [[expected]])


@pytest.mark.parametrize("name", ["Binary8p4se", "Binary8p4uf", "Binary8p1se"])
def test_a_quotient_by_zero_is_nan(name):
    for mode in ("rne", "rtz", "sr"):
        assert np.isnan(fpemu.divide([1.0, 0.0, np.inf], 0.0, name, mode)).all()
        assert np.isnan(fpemu.functions.reciprocal([0.0, -0.0], name, mode)).all()
        assert np.isnan(fpemu.functions.rsqrt(0.0, name, mode))
    assert fpemu.divide(0.0, 2.0, name) == 0
    assert fpemu.divide(1.0, 0.0, "float8_e5m2") == np.inf
    assert np.isnan(fpemu.reference.function("reciprocal", 0.0, name))


def test_sums_in_a_p3109_format_are_projected():
    ones = np.ones((1, 300), np.float32)
    # 1 + 1 = 2, 2 + 1 ties between 2 and 4, whose code is even, and 4 + 1 is nearer to 4.
    assert fpemu.matmul(ones, ones.T, fpemu.Sequential("Binary8p1se")) == 4.0
    assert fpemu.matmul(ones, ones.T, fpemu.Exact("Binary8p4sf")) == 240.0


@pytest.mark.parametrize(
    "facts",
    [
        {"mode": "sr_b"},
        {"mode": "sr_c"},
        {"mode": "sr_b", "random_bits": 64},
        {"mode": "sr_c", "random_bits": 0},
        {"mode": "sr_equal", "random_bits": 3},
        {"overflow": "SatNone"},
    ],
)
def test_roundings_that_make_no_sense_are_value_errors(facts):
    with pytest.raises(ValueError, match=r"random_bits|overflow"):
        Rounding(**facts)
