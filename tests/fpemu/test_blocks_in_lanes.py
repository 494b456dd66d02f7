"""Sums of blocks that are added in lanes, against the same sums added exactly, one by one."""

import numpy as np
import pytest

import fpemu
from fpemu import Blocked, Rounding, Sequential
from fpemu._kernels import sequential as kernels
from tests.oracle.bits import assert_same_bits

SATURATED = Rounding(overflow="saturate")
OWN = (fpemu.formats.float32, fpemu.formats.float64)
HALF = Blocked("float16", 4, Sequential("float16", SATURATED), SATURATED)

# Each with how its outer sums are added, in plain arithmetic or with a rounding, and in what lanes.
WAYS = {
    "plain": (Blocked("float32", 4), kernels.PLAIN_NARROW, "float32"),
    "long blocks": (Blocked("float32", 200), kernels.PLAIN_NARROW, "float32"),
    "plain, wide": (Blocked("float64", 4, "float64"), kernels.PLAIN_WIDE, "float64"),
    "widened": (Blocked("float64", 4), kernels.PLAIN_WIDE, "float64"),
    "rounded inside": (Blocked("float32", 3, "e8m4"), kernels.PLAIN_NARROW, "float32"),
    "rounded, widened": (Blocked("e8m15", 4), kernels.FAST_NARROW, "float64"),
    "into fewer bits": (Blocked("float32", 4, "float64"), kernels.FAST_WIDE, "float64"),
    "saturated": (HALF, kernels.FAST_NARROW, "float32"),
}


def _normal(generator, shape):
    return generator.standard_normal(shape)


def _spread(generator, shape):
    return generator.standard_normal(shape) * 2.0 ** generator.integers(-40, 41, shape)


def _ties(generator, shape):
    """Few bits, so that sums of blocks often lie halfway, or next to it by a last bit."""
    few = generator.integers(-8, 9, shape) / 8.0
    return few + generator.choice([0.0, 2.0**-20, -(2.0**-20)], shape)


def _huge(generator, shape):
    return generator.choice([1.0, -1.0], shape) * 2.0 ** generator.uniform(60, 64, shape)


def _tiny(generator, shape):
    return generator.standard_normal(shape) * 2.0 ** generator.integers(-75, -60, shape)


def _sparse(generator, shape):
    return generator.standard_normal(shape) * (generator.random(shape) < 0.1)


def _special(generator, shape):
    x = generator.standard_normal(shape)
    places = generator.random(shape) < 0.01
    odd = np.uint32(0x7FFFFFFF).view(np.float32)  # a NaN that a rounding would carry out of
    x[places] = generator.choice([np.inf, -np.inf, np.nan, -0.0, odd], places.sum())
    return x


KINDS = [_normal, _ties, _spread, _huge, _tiny, _sparse, _special]


def _exactly(monkeypatch, *arguments, **options):
    """The product with every outer sum formed exactly."""
    chain = kernels._outer_chain

    def exact(inner, operands, accumulator, outer):
        narrow = kernels.EXACT_NARROW
        flavour = chain(inner, operands, accumulator, outer).flavour
        known = flavour in (kernels.FAST_NARROW, narrow)
        return kernels._Chain(narrow if known else kernels.EXACT_WIDE)

    with monkeypatch.context() as context:
        context.setattr(kernels, "_outer_chain", exact)
        return fpemu.matmul(*arguments, **options)


@pytest.mark.parametrize("which", WAYS)
def test_lanes_add_blocks_as_exact_sums_do(monkeypatch, which):
    accumulator, flavour, dtype = WAYS[which]
    found = []
    chain = kernels._outer_chain

    def watched(*arguments):
        found.append(chain(*arguments))
        return found[-1]

    monkeypatch.setattr(kernels, "_outer_chain", watched)
    generator = np.random.default_rng(5)
    # Other numbers are summed by other kernels inside, unless those are plain.
    for kind in KINDS if accumulator.inner.format in OWN else KINDS[:2]:
        a = kind(generator, (7, 270)).astype(np.float32)  # no multiple of rows, blocks or columns
        b = kind(generator, (270, 70)).astype(np.float32)
        actual = fpemu.matmul(a, b, accumulator)
        assert (found[-1].flavour, found[-1].dtype) == (flavour, np.dtype(dtype))
        with np.errstate(over="ignore"):
            c = np.asarray(fpemu.round(kind(generator, (7, 70)), accumulator.format))
        promoted = fpemu.Promoted(
            accumulator.inner, accumulator.format, accumulator.block, accumulator.rounding
        )
        begun = fpemu.matmul(a, b, promoted, c=c)
        expected = _exactly(monkeypatch, a, b, accumulator)
        assert_same_bits(actual, expected, about=kind.__name__)
        assert_same_bits(
            np.signbit(actual[np.isnan(actual)]), np.signbit(expected[np.isnan(expected)])
        )
        assert_same_bits(begun, _exactly(monkeypatch, a, b, promoted, c=c), about=kind.__name__)


@pytest.mark.parametrize("which", ["plain", "widened"])
def test_running_sums_of_blocks_are_those_of_exact_sums(monkeypatch, which):
    accumulator, _, _ = WAYS[which]
    generator = np.random.default_rng(6)
    for kind in (_normal, _ties, _tiny):
        a, b = (kind(generator, shape).astype(np.float32) for shape in ((3, 270), (270, 70)))
        actual, running = fpemu.matmul(a, b, accumulator, running=True)
        expected, exact = _exactly(monkeypatch, a, b, accumulator, running=True)
        assert_same_bits(actual, expected)
        assert_same_bits(running.first, exact.first)
        assert_same_bits(running.second, exact.second)
