"""Stochastic rounding: probabilities by enumeration of the random bits, laws, and statistics."""

import math
from fractions import Fraction

import numpy as np
import pytest
from gmpy2 import mpq
from hypothesis import given
from hypothesis import strategies as st

import fpemu
from fpemu import Rounding
from fpemu._kernels import array_rounding, caching
from fpemu._kernels import random_bits as philox
from fpemu._kernels import rounding as kernels
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits
from tests.oracle.points import ALL_FORMATS, label, rounding_points
from tests.oracle.rounding import rounded
from tests.threads import on_threads

FORMATS = [
    format
    for format in ALL_FORMATS
    if format.name
    in (
        *("float8_e4m3fn", "float8_e5m2", "float6_e3m2fn", "float4_e2m1fn", "bfloat16", "float16"),
        *("e8m0", "e3m0", "binary8p1se", "binary8p4se", "e4m3 without subnormals"),
    )
]
WIDTH = {np.dtype(np.float32): 32, np.dtype(np.float64): 64}
WORD = {np.dtype(np.float32): np.uint32, np.dtype(np.float64): np.uint64}


@caching.kernel
def _rounded_with(words, target, randoms, equal, out):
    for i in range(words.size):
        for j in range(randoms.size):
            if equal:
                out[i, j] = kernels.round_word_at(words[i], target, kernels.EQUAL, randoms[j])
            else:
                out[i, j] = kernels.round_word_at(words[i], target, kernels.STOCHASTIC, randoms[j])


@caching.kernel
def _tiny(words, target):
    out = np.zeros(words.size, np.bool_)
    for i in range(words.size):
        out[i] = array_rounding._below_reach(words[i], target)
    return out


@caching.kernel
def _tiny_ups(words, target, randoms, unused, out):
    for i in range(words.size):
        for j in range(randoms.size):
            out[i, j] = array_rounding._tiny_fraction_goes_up(words[i], target, randoms[j], unused)


def results_for(x, format, randoms, mode="sr"):
    """Every number rounded with every random word, as rows."""
    dtype = x.dtype
    target = kernels.target_of(format, Rounding(mode), dtype)
    out = np.empty((x.size, randoms.size), WORD[dtype])
    _rounded_with(x.view(WORD[dtype]), target, randoms, mode == "sr_equal", out)
    return out.view(dtype), target


def between(format, dtype, count=40):
    """Finite numbers strictly inside the format's range, and their neighbors below and above."""
    x = rounding_points(format, dtype)
    generator = np.random.default_rng(format.bits)
    exponents = generator.integers(format.quantum_exponent - 3, format.emax + 1, count)
    drawn = np.ldexp(generator.uniform(1, 2, count), exponents).astype(dtype)
    x = x[np.isfinite(x) & (np.abs(x) < format.max_finite)]
    x = np.concatenate([generator.choice(x, min(count, x.size), replace=False), drawn, -drawn])
    x = x[np.abs(x) < format.max_finite]
    x = x if format.signed else np.abs(x)
    return x


def neighbors(x, format):
    """The members next to each number, by magnitude, without the flushing of subnormals."""
    full = fpemu.Format(
        "full",
        format.bits,
        format.precision,
        format.bias,
        format.signed,
        True,
        format.infinities,
        format.high_nans,
        format.negative_zero,
    )
    magnitude = np.abs(x).astype(np.float64)
    return rounded(magnitude, full, "rtz"), rounded(magnitude, full, "rtp")


def fractions_of(x, format):
    lower, upper = neighbors(x, format)
    return [
        (mpq(float(abs(number))) - mpq(low)) / (mpq(high) - mpq(low)) if high != low else mpq(0)
        for number, low, high in zip(x, lower.tolist(), upper.tolist(), strict=True)
    ]


# Enumeration of the random bits


@for_each("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("format", FORMATS, ids=label)
@for_each("random_bits", [1, 3, 10])
def test_as_many_outcomes_go_up_as_the_truncated_fraction_says(format, dtype, random_bits):
    dtype = np.dtype(dtype)
    x = between(format, dtype)
    width, word = WIDTH[dtype], WORD[dtype]
    randoms = np.arange(2**random_bits, dtype=word) << word(width - random_bits)
    results, target = results_for(x, format, randoms)
    lower, upper = neighbors(x, format)
    if not format.subnormals:
        upper = np.where(upper < format.smallest_normal, 0, upper)
        lower = np.where(lower < format.smallest_normal, 0, lower)
    ups = np.abs(results) > lower[:, None]
    tiny = _tiny(x.view(word), target)
    tiny_ups = np.empty((tiny.sum(), randoms.size), bool)
    _tiny_ups(x[tiny].view(word), target, randoms, word(width - random_bits), tiny_ups)
    ups[tiny] = tiny_ups
    expected = [math.floor(fraction * 2**random_bits) for fraction in fractions_of(x, format)]
    vanished = upper == lower  # both neighbors are flushed to zero, or x is a member
    expected = np.where(vanished, 0, expected)
    if format.subnormals:
        np.testing.assert_array_equal(ups.sum(1), expected)
    else:
        np.testing.assert_array_equal(ups.sum(1)[~tiny], expected[~tiny])
    moved, low, high = np.abs(results[~tiny]), lower[~tiny, None], upper[~tiny, None]
    assert_same_bits(moved, np.where(moved > low, high, low))
    zero = results == 0
    same_sign = np.signbit(results) == np.signbit(x)[:, None]
    assert (same_sign | (zero & (not format.has_negative_zero))).all()


@for_each("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("format", FORMATS, ids=label)
def test_with_all_random_bits_the_probability_is_the_fraction_exactly(format, dtype):
    # The random words that go up are the highest ones; where they begin tells how many they are.
    dtype = np.dtype(dtype)
    x = between(format, dtype)
    width, word = WIDTH[dtype], WORD[dtype]
    target = kernels.target_of(format, Rounding("sr"), dtype)
    x = x[~_tiny(x.view(word), target)]
    lower, upper = neighbors(x, format)
    for number, fraction, low, high in zip(x, fractions_of(x, format), lower, upper, strict=True):
        if not format.subnormals and high <= format.smallest_normal:
            continue
        count = fraction * 2**width
        assert count.denominator == 1  # the word has enough bits for the probability to be exact
        first_up = 2**width - int(count)
        around = {first_up - 2, first_up - 1, first_up, first_up + 1, 0, 2**width - 1}
        around = sorted(r for r in around if 0 <= r < 2**width)
        results, _ = results_for(np.array([number]), format, np.array(around, word))
        expected = [high if random >= first_up else low for random in around]
        assert np.abs(results[0]).tolist() == expected


@for_each("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("format", [f for f in FORMATS if f.subnormals], ids=label)
def test_equal_stochastic_rounding_goes_by_one_bit(format, dtype):
    dtype = np.dtype(dtype)
    x = between(format, dtype)
    width, word = WIDTH[dtype], WORD[dtype]
    half = 2 ** (width - 1)
    randoms = np.array([0, 1, half - 1, half, half + 1, 2**width - 1], word)
    results, _ = results_for(x, format, randoms, "sr_equal")
    lower, upper = neighbors(x, format)
    np.testing.assert_array_equal(np.abs(results[:, :3]), np.tile(lower[:, None], 3))
    np.testing.assert_array_equal(np.abs(results[:, 3:]), np.tile(upper[:, None], 3))


# Statistics of the public function, fixed seeds


def assert_probability(ups, count, probability):
    deviation = math.sqrt(count * probability * (1 - probability))
    assert abs(ups - count * probability) < 5 * deviation, (ups, count * probability, deviation)


PROBABILITIES = [0.5, 0.25, 0.9, 1 / 3, 2.0**-6, 1 - 2.0**-7, 2.0**-9, 3 * 2.0**-13]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("fraction", PROBABILITIES)
def test_numbers_go_up_as_often_as_their_fraction_says(fraction, dtype):
    count = 400_000
    quantum = 2.0**-9  # smallest subnormal of float8_e4m3fn
    for low, step in ((0.0, quantum), (1.0, 0.125), (-1.0, -0.125), (-0.0, -quantum), (3.5, 0.25)):
        number = np.dtype(dtype).type(low + fraction * step)
        probability = float((Fraction(float(number)) - Fraction(low)) / Fraction(step))
        out = fpemu.round(np.full(count, number), "float8_e4m3fn", Rounding("sr", seed=11))
        up = out == low + step
        assert ((out == low) | up).all()
        assert (np.signbit(out) == np.signbit(number)).all()
        assert_probability(up.sum(), count, probability)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("exponent", [-8, -10, -12])
def test_numbers_far_below_the_smallest_subnormal_keep_their_probability(exponent, dtype):
    count = 2**21
    number = np.dtype(dtype).type(1.5 * 2.0 ** (exponent - 9))
    for random_bits in (None, 14):
        rounding = Rounding("sr", random_bits=random_bits, seed=5)
        out = fpemu.round(np.full(count, number), "float8_e4m3fn", rounding)
        assert np.isin(out, [0, 2.0**-9]).all()
        assert_probability((out != 0).sum(), count, 1.5 * 2.0**exponent)
    # With too few bits the truncated fraction is zero.
    rounding = Rounding("sr", random_bits=-exponent - 1, seed=5)
    assert not fpemu.round(np.full(count, number), "float8_e4m3fn", rounding).any()


def test_the_mean_of_a_tiny_number_in_float64_is_kept():
    # 11 bits of the fraction below what a 64-bit word drops at most, scaled up by repetition: the
    # number is 2**-14 of the quantum and has a significand of 53 bits.
    count = 2**22
    number = (1 + 2.0**-52) * 2.0 ** (-9 - 14)
    out = fpemu.round(np.full(count, number), "float8_e4m3fn", Rounding("sr", seed=3))
    assert_probability((out != 0).sum(), count, 2.0**-14)
    assert not fpemu.round(np.full(count, 1e-300), "float8_e4m3fn", Rounding("sr", seed=3)).any()
    assert not fpemu.round(np.full(10, 5e-324), "float8_e4m3fn", Rounding("sr", seed=3)).any()


@pytest.mark.parametrize("number", [1.01, 1.0625, 1.12, 2.0**-12, -1.01, 1e-30])
def test_equal_probability_is_one_half(number):
    count = 200_000
    for dtype in (np.float32, np.float64):
        out = fpemu.round(
            np.full(count, number, dtype), "float8_e4m3fn", Rounding("sr_equal", seed=2)
        )
        lower = math.copysign(1.0 if abs(number) > 1 else 0.0, number)
        assert np.unique(out).size == 2
        assert_probability((out != lower).sum(), count, 0.5)


def test_neighbouring_elements_are_independent():
    out = fpemu.round(np.full(200_001, 1.0625), "float8_e4m3fn", Rounding("sr", seed=1)) > 1
    for distance in (1, 2, 4, 512, 1024, 2048):
        agree = (out[distance:] == out[:-distance]).sum()
        assert_probability(agree, out.size - distance, 0.5)


# Laws


@given(
    x=st.floats(allow_nan=False, allow_infinity=False),
    name=st.sampled_from(["float8_e4m3fn", "bfloat16", "float32", "e11m51", "float6_e3m2fn"]),
    mode=st.sampled_from(["sr", "sr_equal"]),
    seed=st.integers(0, 2**64),
)
def test_a_result_is_one_of_the_two_neighbours(x, name, mode, seed):
    format = fpemu.format(name)
    out = fpemu.round(x, format, Rounding(mode, seed=seed))
    down, up = fpemu.round(x, format, "rtn"), fpemu.round(x, format, "rtp")
    overflowed = abs(x) > format.max_finite
    if overflowed:
        ieee = [fpemu.round(math.copysign(math.inf, x), format), down, up]
        assert any(np.array_equal(out, one, equal_nan=True) for one in ieee)
    else:
        assert out in (down, up)


@pytest.mark.parametrize("format", FORMATS, ids=label)
@for_each("mode", ["sr", "sr_equal"])
def test_members_never_move(format, mode):
    members = fpemu.values(format)
    for dtype in (np.float32, np.float64):
        for seed in range(3):
            out = fpemu.round(members.astype(dtype), format, Rounding(mode, seed=seed))
            assert_same_bits(out, members)
    special = [np.inf, -np.inf] + ([np.nan] if format.has_nan else [])
    out = fpemu.round(special, format, Rounding(mode, seed=1))
    assert_same_bits(out, fpemu.round(special, format))


def test_beyond_the_largest_number_the_probability_goes_on():
    # 448 is the largest of float8_e4m3fn, the spacing there is 32; what goes up is NaN.
    count = 200_000
    for number, probability in ((456.0, 0.25), (464.0, 0.5), (479.0, 31 / 32)):
        for sign in (1, -1):
            x = np.full(count, sign * number, np.float32)
            out = fpemu.round(x, "float8_e4m3fn", Rounding("sr", seed=4))
            assert (np.isnan(out) | (out == sign * 448)).all()
            assert_probability(np.isnan(out).sum(), count, probability)
            saturated = fpemu.round(x, "float8_e4m3fn", Rounding("sr", "saturate", seed=4))
            assert (saturated == sign * 448).all()
            assert np.isnan(fpemu.round(sign * 480.0, "float8_e4m3fn", Rounding("sr", seed=4)))
            # With an infinity: 57344 is the largest of float8_e5m2, 65536 would be next.
            x = np.full(count, sign * (57344 + 8192 * probability))
            out = fpemu.round(x, "float8_e5m2", Rounding("sr", seed=4))
            assert_probability((out == sign * np.inf).sum(), count, probability)
            assert ((out == sign * np.inf) | (out == sign * 57344)).all()


# Seeds, threads, slices


def blocks_at_the_edges(format, dtype):
    """Blocks of numbers of which none, some or all are special in a way that numbers can be."""
    quantum, normal, largest = format.smallest_subnormal, format.smallest_normal, format.max_finite
    generator = np.random.default_rng(format.bits)
    usual = [0.0, normal, 1.37 * normal, normal + 0.3 * quantum, largest, 0.77 * largest]
    usual += [np.nextafter(dtype(normal), dtype(np.inf)), np.nextafter(dtype(largest), dtype(0))]
    edge = dtype(quantum / 256)  # of numbers below, more than 31 bits of float32 are dropped
    small = [0.4 * quantum, quantum, 1.5 * quantum, normal - quantum / 3, edge]
    small += [np.nextafter(edge, dtype(np.inf)), np.nextafter(dtype(normal), dtype(0))]
    tiny = [np.nextafter(edge, dtype(0)), 0.7 * float(edge)]
    beyond = [np.nextafter(dtype(largest), dtype(np.inf)), 1.01 * largest]
    for numbers in (usual, usual + small, usual + small + tiny, usual + beyond, [0.0]):
        signs = generator.choice([-1, 1], 4 * philox.BLOCK_WORDS)
        yield (generator.choice(np.array(numbers), signs.size) * signs).astype(dtype)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("mode", "random_bits"), [("sr", None), ("sr", 8), ("sr_b", 8)])
def test_no_element_decides_how_another_is_rounded(mode, random_bits, dtype):
    # Blocks in which nothing is special go through quick kernels, from which infinity keeps them.
    rounding = Rounding(mode, seed=3, random_bits=random_bits)
    names = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "e8m0", "binary8p4se")
    for format in map(fpemu.format, names):
        for x in blocks_at_the_edges(format, dtype):
            strange = x.copy()
            strange[::1024] = np.inf
            alone, beside = (fpemu.round(each, format, rounding) for each in (x, strange))
            usual = np.isfinite(strange)
            assert_same_bits(alone[usual], beside[usual], x[usual], (format.name,))


@pytest.mark.parametrize("mode", ["sr", "sr_equal"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_the_same_seed_gives_the_same_bits_on_any_threads_and_for_any_slice(mode, dtype):
    x = np.random.default_rng(6).normal(size=300_001).astype(dtype)
    x[::7] *= 1e-12  # far below the smallest subnormal too
    rounding = Rounding(mode, seed=99)
    with on_threads(1):
        alone = fpemu.round(x, "float8_e4m3fn", rounding)
    with on_threads(3):
        assert_same_bits(fpemu.round(x, "float8_e4m3fn", rounding), alone)
    for size in (1, 5, 1023, 1024, 1025, 2048, 2049, 100_000):
        assert_same_bits(fpemu.round(x[:size], "float8_e4m3fn", rounding), alone[:size])
    assert_same_bits(fpemu.round(x[0], "float8_e4m3fn", rounding), alone[0])
    in_place = x.copy()
    fpemu.round(in_place, "float8_e4m3fn", rounding, out=in_place)
    assert_same_bits(in_place, alone)


def test_elements_are_counted_in_order_of_indices_for_any_layout():
    x = np.random.default_rng(7).normal(size=(50, 70))
    rounding = Rounding("sr", seed=1)
    expected = fpemu.round(x, "e4m3", rounding)
    assert_same_bits(fpemu.round(x.ravel(), "e4m3", rounding).reshape(x.shape), expected)
    strided = np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3]
    assert_same_bits(fpemu.round(strided, "e4m3", rounding), expected)
    assert_same_bits(fpemu.round(np.asfortranarray(x), "e4m3", rounding), expected)


@pytest.mark.parametrize("mode", ["sr", "sr_equal"])
def test_seeds_differ_and_no_seed_differs_each_time(mode):
    x = np.full(1000, 1.06)
    outcomes = {
        fpemu.round(x, "float8_e4m3fn", Rounding(mode, seed=seed)).tobytes() for seed in range(20)
    }
    assert len(outcomes) == 20
    outcomes = {fpemu.round(x, "float8_e4m3fn", mode).tobytes() for _ in range(5)}
    assert len(outcomes) == 5


def test_the_carrier_takes_as_many_bits_as_asked_for():
    x = np.full(10_000, 1.06, np.float32)
    for random_bits in (1, 24, 32, 33, 64):
        out = fpemu.round(x, "float8_e4m3fn", Rounding("sr", random_bits=random_bits, seed=1))
        assert out.dtype == np.float32
        assert set(out.tolist()) <= {1.0, 1.125}


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "sr", "random_bits": 0},
        {"mode": "sr", "random_bits": 65},
        {"mode": "sr", "random_bits": -3},
        {"mode": "rne", "random_bits": 8},
        {"mode": "sr_equal", "random_bits": 8},
        {"mode": "rne", "seed": 1},
        {"mode": "rtz", "seed": 0},
    ],
)
def test_descriptions_that_contradict_themselves_are_value_errors(arguments):
    with pytest.raises(ValueError, match=r"random_bits|seed"):
        Rounding(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"random_bits": 8.0}, {"random_bits": "8"}, {"seed": 1.5}, {"seed": "1"}]
)
def test_bits_and_seeds_that_are_no_integers_are_refused(arguments):
    with pytest.raises((TypeError, ValueError)):
        fpemu.round(1.06, "float8_e4m3fn", Rounding("sr", **arguments))


@caching.kernel
def _further_words(indices, key, out):
    for i in range(indices.size):
        for number in range(3):
            out[i, number] = philox.further_word(indices[i], number, key)


def test_a_tiny_number_goes_up_if_a_random_integer_is_below_its_significand_and_not_if_equal():
    # x = s * q / 2**32 with a significand s of 24 bits: 8 zero bits, then an integer below s.
    seed, indices = 11, np.arange(2**15)
    words = np.empty((indices.size, 3), np.uint32)
    _further_words(indices, philox.key_of(seed), words)
    drawn = words[:, 1] >> np.uint32(8)
    hits = np.flatnonzero(
        (words[:, 0] >> np.uint32(24) == 0) & (drawn >= 2**23) & (drawn < 2**24 - 1)
    )
    assert hits.size > 10
    quantum = 2.0**-9
    for more, expected in ((0, 0.0), (1, quantum)):
        x = np.zeros(indices.size, np.float32)
        x[hits] = (drawn[hits] + np.uint32(more)) * (quantum * 2.0**-32)
        rounded_up = fpemu.round(x, "float8_e4m3fn", Rounding("sr", seed=seed))[hits]
        assert_same_bits(rounded_up, np.full(hits.size, expected))


@pytest.mark.parametrize("mode", ["sr", "sr_equal", "sr_b", "sr_c"])
def test_a_format_without_zero_has_nothing_below_its_smallest_number(mode):
    bits = 8 if mode in ("sr_b", "sr_c") else None
    x = np.array([1e-300, 2.0**-1074, 2.0**-200, 2.0**-140, 2.0**-127] * 50)
    rounding = Rounding(mode, random_bits=bits)
    assert_same_bits(fpemu.round(x, "float8_e8m0fnu", rounding), np.full(x.size, 2.0**-127))
    narrow = x.astype(np.float32)[x > 2.0**-149]
    result = fpemu.round(narrow, "float8_e8m0fnu", rounding)
    assert_same_bits(result, np.full(narrow.size, 2.0**-127))


@pytest.mark.parametrize("random_bits", [1, 9, 20, 31])
@pytest.mark.parametrize("mode", ["sr_b", "sr_c"])
def test_tiny_numbers_meet_the_random_bits_of_p3109s_variants(mode, random_bits):
    # Fractions s / 2**d with a significand s of 24 bits and d > 31, and the random integers that
    # are just enough for them to go up, or just not.
    rounding = Rounding(mode, random_bits=random_bits)
    target = kernels.target_of(fpemu.format("float8_e4m3fn"), rounding, np.dtype(np.float32))
    unused = np.uint32(kernels.unused_bits(rounding, 32))
    generator = np.random.default_rng(random_bits)
    for d in (32, 33, 40, 55):
        significands = generator.integers(2**23, 2**24, 40)
        significands[:8] &= -(2**20)  # ties
        x = (significands * 2.0 ** (-9 - d)).astype(np.float32)
        assert _tiny(x.view(np.uint32), target).all()
        for number, s in zip(x, significands.tolist(), strict=True):
            if mode == "sr_b":  # floor + 2R + 1 >= 2**(N+1)
                floor = s * 2 ** (random_bits + 1) >> d
                least = -((floor + 1 - 2 ** (random_bits + 1)) // 2)
            else:
                least = 2**random_bits - round(Fraction(s * 2**random_bits, 2**d))
            for drawn in {max(least - 1, 0), min(least, 2**random_bits - 1)}:
                words = np.array([drawn << (32 - random_bits)], np.uint32)
                out = np.empty((1, 1), np.bool_)
                _tiny_ups(np.array([number]).view(np.uint32), target, words, unused, out)
                assert out[0, 0] == (drawn >= least), (s, d, drawn)


@pytest.mark.parametrize("format", ["float8_e4m3fn", "e5m7"])
def test_what_is_far_below_the_smallest_number_hardly_ever_goes_up(format):
    quantum = fpemu.format(format).smallest_subnormal
    for dtype, farthest in ((np.float32, 90), (np.float64, 200)):
        x = np.ldexp(
            np.full((farthest - 40, 2000), 1.5 * quantum), -np.arange(40, farthest)[:, None]
        )
        rounded = fpemu.round(x.astype(dtype), format, fpemu.Rounding("sr", seed=7))
        assert not rounded.any()
