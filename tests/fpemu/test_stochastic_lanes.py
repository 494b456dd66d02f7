"""Stochastic sums in lanes against those formed element by element: the same random bits."""

import numpy as np
import pytest

import fpemu
from fpemu import Rounding, Sequential
from fpemu._kernels import stochastic_sums
from tests.oracle.bits import assert_same_bits

ROUNDINGS = [
    Rounding("sr", seed=2**40 + 7),
    Rounding("sr", seed=8, random_bits=3),
    Rounding("sr", "saturate", seed=9, random_bits=40),
    Rounding("sr_b", seed=10, random_bits=3),
    Rounding("sr_b", seed=11, random_bits=40),
]
FORMATS = ["e8m7", "float32", "float16", "float8_e4m3fn", "e8m2"]


def _few(generator, shape):
    """Few bits: sums need no rounding, or have fractions of as many bits as are drawn."""
    return generator.integers(-8, 9, shape) / 8.0


def _normal(generator, shape):
    return generator.standard_normal(shape)


def _spread(generator, shape):
    return generator.standard_normal(shape) * 2.0 ** generator.integers(-60, 61, shape)


def _sparse(generator, shape):
    return generator.standard_normal(shape) * (generator.random(shape) < 0.1)


def _tiny(generator, shape):
    """Products about float32's and float16's smallest numbers."""
    return generator.standard_normal(shape) * 2.0 ** generator.choice([-7, -12, -66], shape)


def _special(generator, shape):
    x = generator.standard_normal(shape)
    places = generator.random(shape) < 0.01
    x[places] = generator.choice([np.inf, -np.inf, np.nan, -0.0], places.sum())
    return x


def both(monkeypatch, *arguments, **options):
    """The product in lanes, and element by element."""
    calls = []
    product = stochastic_sums.product

    def watched(*given):
        calls.append(given)
        return product(*given)

    with monkeypatch.context() as context:
        context.setattr(stochastic_sums, "product", watched)
        quick = fpemu.matmul(*arguments, **options)
    assert len(calls) == 1
    with monkeypatch.context() as context:
        context.setattr(stochastic_sums, "takes", lambda *_: False)
        return quick, fpemu.matmul(*arguments, **options)


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
def test_lanes_draw_and_round_as_single_elements_do(monkeypatch, rounding):
    generator = np.random.default_rng(3)
    for format in FORMATS:
        accumulator = Sequential(format, rounding)
        for kind in (_normal, _few, _spread, _sparse, _tiny, _special):
            if kind in (_spread, _special) and not accumulator.format.infinities:
                kind = _normal  # whose NaNs would be an error
            a, b = (kind(generator, shape).astype(np.float32) for shape in ((3, 90), (90, 70)))
            actual, expected = both(monkeypatch, a, b, accumulator)
            assert_same_bits(actual, expected, about=(format, kind.__name__))


def test_stacks_row_lengths_and_initial_values_are_those_of_single_elements(monkeypatch):
    generator = np.random.default_rng(4)
    a = generator.standard_normal((3, 5, 20)).astype(np.float32)
    b = generator.standard_normal((3, 20, 130)).astype(np.float32)
    c = np.asarray(fpemu.round(generator.standard_normal((3, 5, 130)), "e8m7"), np.float32)
    accumulator = Sequential("e8m7", Rounding("sr", seed=5))
    lengths = np.array([0, 130, 1, 64, 65])
    actual, expected = both(monkeypatch, a, b, accumulator, c=c, row_lengths=lengths)
    assert_same_bits(actual, expected)
    assert (actual != 0).sum() > 700


@pytest.mark.parametrize(
    "accumulator",
    [
        Sequential("e8m7", Rounding("sr_c", seed=1, random_bits=8)),
        Sequential("e8m7", Rounding("sr_equal", seed=1)),
        Sequential("e8m7", Rounding("sr", seed=1), fused=False),
        Sequential("e8m7", Rounding("sr", seed=1), via="float32"),
        Sequential("float8_e4m3fnuz", Rounding("sr", seed=1)),
        fpemu.Blocked("e8m7", 4, rounding=Rounding("sr", seed=1)),
    ],
    ids=str,
)
def test_other_sums_are_not_formed_in_lanes(monkeypatch, accumulator):
    monkeypatch.setattr(stochastic_sums, "product", lambda *_: pytest.fail("formed in lanes"))
    fpemu.matmul(np.ones((2, 3), np.float32), np.ones((3, 2), np.float32), accumulator)
