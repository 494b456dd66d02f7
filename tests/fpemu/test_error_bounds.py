"""The error bounds of accumulators: never exceeded, and not much too large."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fpemu
from fpemu import devices
from fpemu.accumulators import ScaledCore
from fpemu.reference import dot_exact
from tests.cases import for_each

MODES = ("rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto", "sr")


def rounding(mode):
    return fpemu.Rounding(mode, seed=1) if mode == "sr" else fpemu.Rounding(mode)


ACCUMULATORS = [
    *(fpemu.Sequential("bfloat16", rounding(mode)) for mode in MODES),
    *(fpemu.Sequential("e8m4", rounding(mode), fused=False) for mode in MODES),
    fpemu.Sequential("e8m4", product="e8m2"),
    fpemu.Sequential("e8m4", via="e8m8"),
    fpemu.Blocked("e8m4", 8, "e8m6"),
    fpemu.Blocked("e8m4", 8, fpemu.Sequential("e8m6", "rtz"), "rtn"),
    *(fpemu.Pairwise("e8m4", rounding(mode)) for mode in MODES),
    fpemu.Pairwise("e8m4", fused=False),
    fpemu.Pairwise("e8m4", "rtz", block=4),
    fpemu.Exact("e8m4"),
    fpemu.Exact("e8m4", "rtz", 8),
    fpemu.Promoted(fpemu.Sequential("e8m4"), "e8m6", 8),
    # Each once, and of those for operands of two formats some.
    *dict.fromkeys(
        device.accumulator
        for device in devices.entries()
        if not isinstance(device.accumulator, ScaledCore)
        if len(set(device.accumulator.input_formats)) == 1 or "e4m3fnuz-" in device.name
    ),
]


def sum_and_magnitude(a, b):
    """The exact inner product, and that of the magnitudes."""
    return dot_exact(a.tolist(), b.tolist()), dot_exact(np.abs(a).tolist(), np.abs(b).tolist())


def error_and_magnitude(computed, c, exact):
    """The error of a sum that began with c, or with nothing, and the sum of magnitudes."""
    start = Fraction(0 if c is None else float(c))
    product, magnitude = exact
    return abs(Fraction(float(computed)) - product - start), magnitude + abs(start)


def relative_error(accumulator, a, b, c=None):
    """The error over the sum of magnitudes, exactly."""
    computed = fpemu.dot(a, b, accumulator, c=c)
    error, magnitude = error_and_magnitude(computed, c, sum_and_magnitude(a, b))
    return float(error / magnitude)


def inputs_of(accumulator):
    return [format or fpemu.format("float32") for format in accumulator.input_formats]


def factors(generator, accumulator, kind, length):
    """Normal numbers of the input formats: far enough from the ends of all ranges."""
    numbers = []
    for format in inputs_of(accumulator):
        spread = min(3, (format.emax - format.emin) // 4)
        middle = (format.emax + format.emin) // 2 if format.bits <= 8 else 0
        x = generator.uniform(1, 2, length)
        if kind != "alike":
            x = np.ldexp(x, generator.integers(-spread, spread + 1, length))
        x = np.ldexp(x, middle)
        numbers.append(fpemu.round(x, format, "rtz"))
    a, b = numbers
    if kind == "cancelling":
        a[1::2], b[1::2] = -a[: length // 2 * 2 : 2][: a[1::2].size], b[::2][: b[1::2].size]
    elif kind == "mixed":
        a = a * generator.choice([-1, 1], length)
    return a, b


@pytest.mark.parametrize("accumulator", ACCUMULATORS, ids=str)
def test_no_sum_is_farther_off_than_the_bound(accumulator):
    generator = np.random.default_rng(2)
    kinds = ("positive", "alike", "mixed", "cancelling")
    for length in (1, 2, 3, 7, 16, 33, 120):
        pairs = [factors(generator, accumulator, kind, length) for kind in kinds]
        exact = [sum_and_magnitude(*pair) for pair in pairs]
        a, b = (np.array(part, part[0].dtype) for part in zip(*pairs, strict=True))
        starts = fpemu.round(generator.normal(size=len(kinds)), accumulator.initial_format)
        for c in (None, starts[:, None, None]):
            sums = fpemu.matmul(a[:, None, :], b[:, :, None], accumulator, c=c).ravel()
            begun = [None] * len(kinds) if c is None else starts
            bound = accumulator.error_bound(length, initial=c is not None)
            for kind, *of_sum in zip(kinds, sums, begun, exact, strict=True):
                error, magnitude = error_and_magnitude(*of_sum)
                assert float(error / magnitude) <= bound, (kind, length, of_sum)


def worst_terms(accumulator, length, choices):
    """Terms chosen one after the other so that the error grows fastest."""
    a = np.zeros(0)
    for _ in range(length):
        candidates = np.array([np.append(a, choice) for choice in choices])
        sums = fpemu.matmul(candidates, np.ones(a.size + 1), accumulator)
        errors = np.abs(candidates.sum(1) - sums) / np.abs(candidates).sum(1)
        a = candidates[np.argmax(errors)]
    return a


@pytest.mark.parametrize(
    ("accumulator", "length", "share"),
    [
        (fpemu.Sequential("e8m6"), 12, 0.3),
        (fpemu.Sequential("e8m6", "rtz"), 12, 0.4),
        (fpemu.Pairwise("e8m6", "rtz"), 8, 0.3),
        (devices.get("volta.mma.float16"), 12, 0.2),
        (devices.get("hopper.wgmma.e4m3"), 31, 0.2),
    ],
    ids=str,
)
def test_a_search_comes_near_the_bound(accumulator, length, share):
    p = accumulator.format.precision
    small = [2.0**-e * (2 - 2.0**-g) for e in (p - 2, p - 1, p, p + 1) for g in (2, 3)]
    if hasattr(accumulator, "fraction_bits"):
        # Just below the unit of truncation behind the largest term.
        unit = 2.0**-(accumulator.fraction_bits)
        a = np.array([1.0] + [np.sqrt(unit) * 0.99] * (length - 1))
        a = fpemu.round(a, inputs_of(accumulator)[0], "rtz")
        b = a
    else:
        a = worst_terms(accumulator, length, [1.0, *small])
        b = np.ones(a.size)
    reached = relative_error(accumulator, a, b) / accumulator.error_bound(a.size)
    assert share < reached <= 1


def test_half_of_the_bound_is_not_enough():
    rtz = fpemu.Sequential("e8m6", "rtz")
    a = np.array([1.0, 2.0**-6 * (1 - 2.0**-10)])
    assert relative_error(rtz, a, np.ones(2)) > 0.45 * rtz.error_bound(1)
    one = fpemu.Exact("e8m6")
    tie = np.array([1.0, 2.0**-7])
    assert relative_error(one, tie, np.ones(2)) > 0.9 * one.error_bound(2)


def test_the_bound_of_no_terms_is_zero_and_a_large_one_is_infinite():
    assert fpemu.Sequential("e8m4").error_bound(0) == 0
    assert fpemu.Sequential("e8m0").error_bound(10**6) == np.inf
    with pytest.raises(ValueError, match="at least 0, not -1"):
        fpemu.Exact("e8m4").error_bound(-1)


@given(
    st.lists(st.tuples(st.floats(0.25, 8, width=16), st.floats(-8, 8, width=16)), min_size=1),
    st.sampled_from(["e8m2", "bfloat16", "float32"]),
    st.sampled_from(["rne", "rtz", "rtp"]),
)
def test_any_sum_keeps_the_bound(pairs, name, mode):
    a, b = np.array(pairs).T
    b = np.where(np.abs(b) < 2.0**-6, 1.0, b)
    for accumulator in (
        fpemu.Sequential(name, mode),
        fpemu.Pairwise(name, mode),
        fpemu.Blocked(name, 3, name, mode),
        fpemu.Exact(name, mode),
    ):
        assert relative_error(accumulator, a, b) <= accumulator.error_bound(a.size)


# Underflow


def near_underflow(generator, accumulator, length):
    """Factors whose products lie about the least numbers of the accumulator's format."""
    a_format, b_format = inputs_of(accumulator)
    format = accumulator.format
    least = np.log2(format.smallest_subnormal)
    exponents = least + generator.integers(-2, format.precision + 2, length)
    of_a = np.clip(exponents // 2, a_format.emin, a_format.emax)
    numbers = generator.uniform(-2, 2, (2, length))
    numbers *= 2.0 ** np.stack([of_a, np.clip(exponents - of_a, b_format.emin, b_format.emax)])
    return numbers


def subnormal_times_large(generator, accumulator, length):
    """Subnormal numbers of a's format by large ones of b's, in part the other way round."""
    a_format, b_format = inputs_of(accumulator)
    count = 2 ** (a_format.precision - 1)
    a = generator.integers(-count, count + 1, length) * a_format.smallest_subnormal
    most = min(b_format.emax, 60, accumulator.format.emax - a_format.emin - 6) - 2
    b = generator.normal(size=length) * 2.0 ** generator.integers(most - 3, most + 1, length)
    swapped = generator.random(length) < 0.3 if a_format == b_format else np.zeros(length, bool)
    return np.where(swapped, [b, a], [a, b])


def read_by(accumulator, x, format):
    """The numbers as the accumulator reads them."""
    x = fpemu.round(x, format)
    least = 0.0
    if isinstance(accumulator, fpemu.Chained):
        least = fpemu.format("float32").smallest_normal
    elif getattr(accumulator, "flush", None) and accumulator.inputs is not None:
        least = format.smallest_normal
    return np.where(np.abs(x) < least, 0.0, x)


@for_each("kind", [near_underflow, subnormal_times_large])
@pytest.mark.parametrize("accumulator", ACCUMULATORS, ids=str)
def test_underflow_adds_no_more_than_its_bound(accumulator, kind):
    generator = np.random.default_rng(3)
    formats = inputs_of(accumulator)
    for length in (1, 2, 3, 7, 16, 33, 100):
        numbers = kind(generator, accumulator, length)
        a, b = (read_by(accumulator, *each) for each in zip(numbers, formats, strict=True))
        exact = sum_and_magnitude(a, b)
        relative = Fraction(accumulator.error_bound(length, initial=True))
        largest = max(np.abs(a).max(), np.abs(b).max())
        bounds = {
            most: Fraction(accumulator.underflow_bound(length, initial=True, largest=most))
            for most in (None, largest)
        }
        format = accumulator.initial_format
        starts = np.array([0.0, 3 * format.smallest_subnormal, -format.smallest_normal])
        starts = read_by(accumulator, starts, format)
        sums = fpemu.matmul(np.array([a] * 3), b[:, None], accumulator, c=starts[:, None]).ravel()
        for computed, c in zip(sums, starts, strict=True):
            error, magnitude = error_and_magnitude(computed, c, exact)
            for most, absolute in bounds.items():
                assert error <= relative * magnitude + absolute, (length, c, most)


@pytest.mark.parametrize(
    ("accumulator", "a", "b", "c", "share"),
    [
        (fpemu.Sequential("float8_e4m3fn"), [2.0**-5] * 8, [2.0**-5] * 8, 0.0, 0.4),
        (fpemu.Sequential("float8_e4m3fn", "rtz"), [2.0**-5] * 2, [2.0**-5] * 2, 0.0, 0.3),
        (fpemu.Pairwise("float16", fused=False), [2.0**-5] * 8, [2.0**-20] * 8, 0.0, 0.4),
        (fpemu.Exact("float16", "rtz"), [1.0], [2.0**-24 * 0.99], 0.0, 0.9),
        (
            devices.get("hopper.wgmma.float16"),
            [2.0**-24] + [2.0**-6] * 15,
            [2.0**15] + [2.0**-19] * 15,
            0.0,
            0.0,
        ),
        (devices.get("volta.mma.float16.float16"), [2.0**-12], [2.0**-13], 0.0, 0.01),
    ],
    ids=lambda value: str(value) if isinstance(value, fpemu.accumulators.Accumulator) else "",
)
def test_the_bound_of_underflow_is_needed(accumulator, a, b, c, share):
    a, b = np.array(a), np.array(b)
    computed = fpemu.dot(a, b, accumulator, c=c)
    error, magnitude = error_and_magnitude(computed, c, sum_and_magnitude(a, b))
    relative = Fraction(accumulator.error_bound(len(a))) * magnitude
    assert error > relative
    assert error > share * (relative + Fraction(accumulator.underflow_bound(len(a))))


def test_no_terms_have_no_underflow():
    assert fpemu.Sequential("e8m4").underflow_bound(0) == 0
    assert fpemu.Sequential("float64").underflow_bound(1) > 0
    with pytest.raises(ValueError, match="at least 0, not -1"):
        fpemu.Sequential("e8m4").underflow_bound(-1)
