"""Accumulators of one's own: a definition in rational numbers, a compiled one, and their bounds."""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fpemu
from fpemu.reference import round_exact
from tests.oracle.bits import assert_same_bits
from tests.threads import on_threads

BFLOAT16, TO_NEAREST = fpemu.format("bfloat16"), fpemu.Rounding("rne")


@dataclass(frozen=True)
class Defined(fpemu.Accumulator):
    """Sequential sums, as a user would write them."""

    format: fpemu.Format = BFLOAT16
    rounding: fpemu.Rounding = TO_NEAREST

    def inner_product(self, a, b, c):
        for x, y in zip(a, b, strict=True):
            total = round_exact(c + x * y, self.format, self.rounding)
            if math.isinf(total):
                return total
            c = Fraction(total)
        return c


@functools.cache  # to compile one takes half a second
def compiled_sum(format, rounding):
    step = fpemu.jit.fma(format, rounding)

    @numba.njit
    def inner_product(a, b, c):
        for i in range(a.size):
            c = step(a[i], b[i], c)
        return c

    return inner_product


@dataclass(frozen=True)
class Compiled(Defined):
    def compiled(self):
        return compiled_sum(self.format, self.rounding)


@dataclass(frozen=True)
class Bounded(Compiled):
    def roundings(self, terms, *, initial=False):
        return fpemu.Sequential(self.format, self.rounding).roundings(terms, initial=initial)

    def underflow_bound(self, terms, *, initial=False, largest=None):
        like = fpemu.Sequential(self.format, self.rounding)
        return like.underflow_bound(terms, initial=initial, largest=largest)

    @property
    def ignores_trailing_zeros(self):
        return True


OWN = [Defined, Compiled]
SHAPES = [
    ((5,), (5,)),
    ((3, 5), (5, 2)),
    ((2, 3, 5), (2, 5, 4)),
    ((3, 0), (0, 2)),
    ((0, 5), (5, 2)),
]


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("mode", ["rne", "rtz", "rto"])
def test_they_compute_what_they_define(kind, left, right, mode):
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=left), generator.normal(size=right)
    expected = fpemu.matmul(a, b, fpemu.Sequential("bfloat16", mode))
    actual = fpemu.matmul(a, b, kind(rounding=fpemu.Rounding(mode)))
    assert_same_bits(np.abs(actual), np.abs(expected))  # a rational zero has no sign


@pytest.mark.parametrize("kind", OWN)
def test_initial_values_row_lengths_and_outputs(kind):
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(4, 6)), generator.normal(size=(6, 4))
    c = fpemu.round(generator.normal(size=(4, 4)), "bfloat16")
    options = {"c": c, "row_lengths": np.arange(1, 5)}
    expected = fpemu.matmul(a, b, fpemu.Sequential("bfloat16"), **options)
    out = np.empty((4, 4))
    assert fpemu.matmul(a, b, kind(), out=out, **options) is out
    assert_same_bits(out, expected.astype(np.float64))


NUMBERS = st.sampled_from([0.0, -1.5, 2.0**60, -(2.0**40), 1e-30, math.inf, -math.inf, math.nan])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), NUMBERS)
def test_infinities_and_nan_among_the_terms(pairs, begin):
    """A definition never sees them, and a compiled function does."""
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    begin = fpemu.round(begin, "bfloat16")
    expected = fpemu.dot(a, b, fpemu.Sequential("bfloat16"), c=begin)
    for kind in OWN:
        np.testing.assert_equal(np.abs(fpemu.dot(a, b, kind(), c=begin)), np.abs(expected))


@pytest.mark.parametrize("kind", OWN)
def test_inside_others_and_with_any_number_of_threads(kind):
    a, b = np.random.default_rng(3).normal(size=(2, 30, 30))
    expected = fpemu.matmul(a, b, fpemu.Promoted(fpemu.Sequential("bfloat16"), "float32", 8))
    assert_same_bits(fpemu.matmul(a, b, fpemu.Promoted(kind(), "float32", 8)), expected)
    for count in (1, 3):
        with on_threads(count):
            assert_same_bits(fpemu.matmul(a, b, fpemu.Promoted(kind(), "float32", 8)), expected)


def test_equal_accumulators_are_compiled_once():
    made = []

    @dataclass(frozen=True)
    class Counted(Compiled):
        def compiled(self):
            made.append(self.rounding.mode)
            return super().compiled()

    for mode in ("rne", "rne", "rtz"):
        fpemu.dot([1.0], [1.0], Counted(rounding=fpemu.Rounding(mode)))
    assert made == ["rne", "rtz"]


def own(**members):
    return dataclass(frozen=True)(type("Own", (Defined,), members))()


@numba.njit
def unfit(a, b):
    return 0.0


@numba.njit
def mistyped(a, b, c):
    return a


@numba.njit
def stranger(a, b, c):
    return 1.00390625


@dataclass
class Thawed(fpemu.Accumulator):
    format: fpemu.Format = BFLOAT16

    inner_product = Defined.inner_product


@pytest.mark.parametrize(
    ("accumulator", "error", "message"),
    [
        (own(inner_product=lambda *_: Fraction(1, 3)), ValueError, "a member of bfloat16"),
        (own(inner_product=lambda *_: None), ValueError, r"inner_product\(\) must return"),
        (own(inner_product=lambda *_: Fraction(2) ** 2000), ValueError, "a member of bfloat16"),
        (own(inner_product=lambda *_: 1 + 2.0**-9), ValueError, r"element \[0, 0, 0\]"),
        (own(compiled=lambda _: unfit), TypeError, r"Own.compiled\(\) must return"),
        (own(compiled=lambda _: mistyped), TypeError, "it returns readonly array"),
        (own(compiled=lambda _: math.fsum), TypeError, "no function compiled by numba.njit"),
        (own(compiled=lambda _: stranger), ValueError, "gives 1.00390625 for element"),
        (Defined(rounding=fpemu.Rounding("sr", seed=1)), TypeError, "no random bits"),
        (Thawed(), TypeError, "frozen dataclass"),
        (fpemu.Accumulator(), TypeError, "with an inner_product"),
        (fpemu.Promoted(fpemu.Accumulator(), "float32", 4), TypeError, "with an inner_product"),
    ],
)
def test_what_is_wrong_with_one_is_said(accumulator, error, message):
    with pytest.raises(error, match=message):
        fpemu.dot([1.0, 2.0], [3.0, 4.0], accumulator)


def test_running_sums_and_bounds_are_those_it_states():
    a, b = np.random.default_rng(4).normal(size=(2, 20))
    exact = sum(Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    computed = Fraction(float(fpemu.dot(a, b, Bounded())))
    bound = Bounded().error_bound(20) * float(np.abs(a) @ np.abs(b))
    assert abs(computed - exact) <= bound + Bounded().underflow_bound(20)
    with pytest.raises(TypeError, match="no running sums"):
        fpemu.matmul(a, b, Bounded(), running=True)
    with pytest.raises(TypeError, match="no sequence of known roundings"):
        Defined().error_bound(20)
    with pytest.raises(TypeError, match="see underflow_bound"):
        own(roundings=Bounded.roundings).underflow_bound(20)


@pytest.mark.parametrize(
    ("accumulator", "ignores"),
    [
        (fpemu.Sequential("e8m4"), True),
        (fpemu.Blocked("e8m4", 3), True),
        (fpemu.Pairwise("e8m4"), False),
        (fpemu.Pairwise("e8m4", block=4), True),
        (fpemu.Promoted(fpemu.Pairwise("e8m4"), "float32", 4), False),
        (fpemu.Exact("float16"), True),
        (fpemu.TensorCore(4, 23, inputs="float16"), True),
        (fpemu.TensorCore(4, 10, inputs="float16"), False),
        (fpemu.TensorCore(4, 23, inputs="float16", exponent_floor=-100), False),
        (fpemu.devices.get("ada.mma.e4m3"), True),
        (fpemu.devices.get("hopper.wgmma.float16.float16"), True),
        (fpemu.FlooredCore(8, "float16", 20), False),
        (Defined(), False),
        (Bounded(), True),
    ],
)
def test_zeros_that_follow_the_terms(accumulator, ignores):
    """Where they are said to be ignored, they are; where not, there are sums that they change."""
    assert accumulator.ignores_trailing_zeros == ignores
    generator = np.random.default_rng(5)
    a, b = (fpemu.round(x, "float16") for x in generator.normal(size=(2, 60, 6)))
    format = accumulator.input_formats[0]
    if format is not None:
        a, b = (fpemu.round(x, format) for x in (a, b))
    if isinstance(accumulator, fpemu.TensorCore) and accumulator.exponent_floor == -100:
        a, b = fpemu.round(a * 2.0**-14, format), fpemu.round(b * 2.0**-14, format)
        a[:, 0], b[:, 0] = 2.0**-24, 2.0**-24
    padded = [np.pad(x, ((0, 0), (0, 9))) for x in (a, b)]
    short = fpemu.matmul(a[:, None], b[:, :, None], accumulator)
    long = fpemu.matmul(padded[0][:, None], padded[1][:, :, None], accumulator)
    if ignores:
        assert_same_bits(long, short)


def test_a_definition_takes_no_kernel_and_no_bound_from_an_accumulator_of_fpemu():
    class Seven:
        def inner_product(self, a, b, c):
            return Fraction(7)

    for kind, name in ((fpemu.Sequential, "Sequential"), (fpemu.Exact, "Exact")):
        with pytest.raises(TypeError, match=f"cannot be a kind of {name}"):
            type("Mine", (Seven, kind), {})
        with pytest.raises(TypeError, match=f"cannot be a kind of {name}"):
            type("Mine", (kind,), {"compiled": Compiled.compiled})
    renamed = type("Renamed", (fpemu.Sequential,), {})("bfloat16")
    assert fpemu.dot([1.0, 2.0**-9], [1.0, 1.0], renamed) == 1.0


def test_bounds_of_a_user_are_not_taken_for_fpemus():
    assert fpemu.Promoted(fpemu.TensorCore(4, 23), "float32", 8).is_proved
    assert not Bounded().is_proved
    assert not fpemu.Promoted(Bounded(), "float32", 8).is_proved
    assert not type("Tight", (fpemu.Sequential,), {})("bfloat16").is_proved


@dataclass(frozen=True)
class Staged(Defined):
    stages: tuple[fpemu.Rounding | fpemu.Accumulator, ...] = ()


def test_fields_may_be_tuples():
    inner = fpemu.Sequential("bfloat16", fpemu.Rounding("sr", seed=1))
    for stage in (inner, inner.rounding):
        assert Staged(stages=(TO_NEAREST, stage)).is_stochastic
        with pytest.raises(TypeError, match="Staged has a stochastic rounding"):
            fpemu.dot([1.0], [1.0], Staged(stages=(stage,)))
    assert inner in Staged(stages=(inner,)).parts()


def test_they_are_shown_by_their_fields():
    assert str(Defined()) == "Defined(bfloat16, rne)"
