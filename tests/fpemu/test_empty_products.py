"""Products with dimensions of no length: numpy's shapes, and sums of no terms."""

import itertools

import numpy as np
import pytest

import fpemu
from fpemu import devices, scaling
from tests.oracle.bits import assert_same_bits

ACCUMULATORS = [
    fpemu.Sequential("bfloat16"),
    fpemu.Blocked("bfloat16", 2),
    fpemu.Pairwise("bfloat16"),
    fpemu.Exact("bfloat16"),
    fpemu.Promoted(fpemu.Sequential("bfloat16"), "float32", 2),
    fpemu.Promoted(devices.get("hopper.wgmma.bfloat16"), "float32", 64),
    devices.get("hopper.wgmma.bfloat16"),
    devices.get("cdna3.mfma.bfloat16"),
    fpemu.Sequential("bfloat16", fpemu.Rounding("sr", seed=1)),
]
STACKS = [
    ((), ()),
    ((2,), (2,)),
    ((0,), (0,)),
    ((2,), (1,)),
    ((0,), (1,)),
    ((2, 0), ()),
    ((), (3,)),
]
SIZES = [(m, k, n) for m, k, n in itertools.product((0, 3), (0, 2), (0, 4)) if 0 in (m, k, n)]


@pytest.mark.parametrize("accumulator", ACCUMULATORS, ids=str)
def test_products_without_terms_or_elements(accumulator):
    for (left, right), (m, k, n) in itertools.product([*STACKS, ((0,), (0,))], [*SIZES, (3, 2, 4)]):
        if 0 not in (*left, *right, m, k, n):
            continue
        a, b = np.ones((*left, m, k)), np.ones((*right, k, n))
        assert_same_bits(fpemu.matmul(a, b, accumulator), np.matmul(a, b))
        c = np.full((n,), 2.0)
        assert_same_bits(fpemu.matmul(a, b, accumulator, c=c), np.matmul(a, b) + 2.0)
        if not left:
            lengths = np.arange(m) % (n + 1)
            assert fpemu.matmul(a, b, accumulator, row_lengths=lengths).shape == (*right, m, n)


@pytest.mark.parametrize("accumulator", ACCUMULATORS, ids=str)
def test_vectors_without_terms(accumulator):
    none = np.zeros(0)
    assert fpemu.dot(none, none, accumulator) == 0.0
    assert fpemu.matmul(none, np.ones((0, 3)), accumulator).tolist() == [0.0] * 3
    assert fpemu.matmul(np.ones((2, 0)), none, accumulator).tolist() == [0.0] * 2
    assert fpemu.matmul(np.ones((5, 0, 2)), np.ones(2), accumulator).shape == (5, 0)


@pytest.mark.parametrize("accumulator", ACCUMULATORS[:4], ids=str)
def test_running_sums_without_terms_are_zero(accumulator):
    for shape in ((2, 3, 0), (0, 3, 2), (2, 0, 2)):
        b = np.ones((shape[0], shape[2], 4))
        product, sums = fpemu.matmul(np.ones(shape), b, accumulator, running=True)
        assert product.shape == sums.first.shape == sums.second.shape == (*shape[:2], 4)
        if not shape[2]:
            assert not sums.first.any()


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "mxint8"])
def test_block_scaled_arrays_without_elements(name):
    for rows, terms in ((0, 64), (3, 0), (0, 0)):
        a = scaling.quantize(np.ones((rows, terms)), name)
        b = scaling.quantize(np.ones((terms, 2)), name, axis=0)
        assert scaling.dequantize(a).shape == (rows, terms)
        found = scaling.matmul(a, b, fpemu.Sequential("float32"))
        assert_same_bits(found, np.zeros((rows, 2)) + (1.0 * terms if terms else 0.0))
        if name == "mxfp4":
            unit = devices.get("blackwell.tcgen05-mxf8f6f4.e2m1-e8m0-32")
            assert scaling.matmul(a, b, unit).shape == (rows, 2)
