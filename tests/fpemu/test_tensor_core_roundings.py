"""Tensor cores in every mode, and with results that have no subnormal numbers."""

import math

import numpy as np
import pytest

import fpemu
from fpemu._kernels.rounding import MODES as KINDS
from fpemu.reference import round_exact
from fpemu.rounding import MODES, Rounding
from tests.oracle.bits import assert_same_bits
from tests.oracle.units import aligned_sum, largest_exponent, nonzero_products, split, value

SIDE, LENGTH, BLOCK, BITS = 24, 8, 4, 20


def inner_product(a, b, core):
    total = 0.0
    for first in range(0, len(a), BLOCK):
        if math.isinf(total):
            break
        part = slice(first, first + BLOCK)
        terms = nonzero_products(a[part], b[part], *core.inputs)
        terms += [split(total, core.format)] if total else []
        if terms:
            summed = aligned_sum(terms, BITS, largest_exponent(terms), "rtz")
            exact = value(summed.significand, summed.quantum)
            total = round_exact(exact, core.format, core.rounding) + 0.0  # no zero is negative
    return total


@pytest.mark.parametrize("subnormals", [True, False])
@pytest.mark.parametrize("mode", [mode for mode in MODES if not KINDS[mode].stochastic])
def test_tensor_cores_round_in_every_mode(mode, subnormals):
    """From below the smallest normal number, where formats may flush, up to infinity."""
    format = fpemu.Format("narrow", 12, 7, 15, subnormals=subnormals)
    core = fpemu.TensorCore(BLOCK, BITS, format, mode, inputs="float16")
    assert core.rounding == Rounding(mode, "infinity")
    generator = np.random.default_rng(5)
    seen = set()
    for exponent in (-8, -4, 0, 8):
        a, b = generator.normal(size=(2, SIDE, LENGTH)) * 2.0**exponent
        a, b = fpemu.round(a, "float16"), fpemu.round(b, "float16")
        expected = [[inner_product(x, y, core) for y in b.tolist()] for x in a.tolist()]
        assert_same_bits(fpemu.matmul(a, b.T, core), np.array(expected), about=(mode, exponent))
        seen |= {math.isfinite(x) for row in expected for x in row}
    assert seen == {True, False}


def test_an_overflow_that_a_unit_does_not_have_is_refused():
    for overflow in ("saturate", "propagate"):
        with pytest.raises(ValueError, match=f"overflow='{overflow}' would be ignored"):
            fpemu.TensorCore(4, 23, "float16", Rounding("rtz", overflow))
