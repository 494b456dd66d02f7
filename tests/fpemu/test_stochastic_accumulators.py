"""Accumulators whose roundings are stochastic: every step against its definition."""

import functools

import numpy as np
import pytest
from gmpy2 import mpq

import fpemu
from fpemu._kernels import caching
from fpemu._kernels import random_bits as philox
from fpemu._kernels import tensor_core as kernels
from fpemu._kernels.operands import INNER, OUTER, PRODUCTS, VIA
from fpemu.rounding import Rounding
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits
from tests.oracle.stochastic import signed
from tests.oracle.units import aligned_sum, largest_exponent, multiply, split, value
from tests.threads import on_threads

SEED = 77
FLOAT32 = fpemu.format("float32")
ZERO = mpq(0)


@caching.kernel
def _step_words(element, steps, stream, key, out):
    for step in range(steps):
        out[step] = philox.step_bits(element, step, stream, key, np.uint64(0))


@functools.cache
def words_of(element, stream, seed=SEED):
    """The random words of the steps of an element of the result, for one kind of rounding."""
    out = np.empty(64, np.uint64)
    _step_words(element, out.size, stream, philox.key_of(seed), out)
    return out.tolist()


class Steps:
    """Roundings of one element of the result, with the random bits that belong to it."""

    def __init__(self, element, mode, random_bits):
        self.element, self.mode, self.random_bits = element, mode, random_bits

    def __call__(self, exact, format, stream, step):
        word = words_of(self.element, stream)[step]
        rounded = signed(mpq(exact), False, format, self.mode, word, self.random_bits)
        return mpq(rounded)


def sequential(terms, steps, accumulator, start=ZERO):
    total = start
    for step, (a, b) in enumerate(terms):
        product = a * b
        if not accumulator.fused:
            product = steps(product, accumulator.product or accumulator.format, PRODUCTS, step)
        total += product
        if accumulator.via is not None:
            total = steps(total, accumulator.via, VIA, step)
        total = steps(total, accumulator.format, INNER, step)
    return total


def blocked(terms, steps, accumulator):
    total, inner = ZERO, accumulator.inner
    for number, first in enumerate(range(0, len(terms), accumulator.block)):
        block_sum = ZERO
        for a, b in terms[first : first + accumulator.block]:
            exact = block_sum + a * b
            block_sum = mpq(fpemu.reference.round_exact(exact, inner.format)) if exact else exact
        total = steps(total + block_sum, accumulator.format, OUTER, number)
    return total


def pairwise(terms, steps, accumulator):
    merged = 0

    def tree(part):
        nonlocal merged
        if len(part) == 1:
            return part[0]
        half = len(part) // 2
        exact = tree(part[:half]) + tree(part[half:])
        merged += 1
        return steps(exact, accumulator.format, INNER, merged - 1)

    leaves = [a * b for a, b in terms]
    if not accumulator.fused:
        leaves = [
            steps(leaf, accumulator.product or accumulator.format, PRODUCTS, step)
            for step, leaf in enumerate(leaves)
        ]
    if accumulator.block is None:
        return tree(leaves) if len(leaves) > 1 else steps(leaves[0], accumulator.format, INNER, 0)
    total = ZERO
    leaves += [ZERO] * (-len(leaves) % accumulator.block)
    for number, first in enumerate(range(0, len(leaves), accumulator.block)):
        block_sum = tree(leaves[first : first + accumulator.block])
        total = steps(total + block_sum, accumulator.format, OUTER, number)
    return total


def exactly(terms, steps, accumulator):
    total = ZERO
    block = accumulator.block or len(terms)
    for number, first in enumerate(range(0, len(terms), block)):
        total += sum(a * b for a, b in terms[first : first + block])
        total = steps(total, accumulator.format, OUTER, number)
    return total


def tensor_core(terms, steps, accumulator):
    """Float32 inputs of a core without a floor, whose results keep their exponent's emin."""
    total = ZERO
    for number, first in enumerate(range(0, len(terms), accumulator.block)):
        products = [
            multiply(split(float(a), FLOAT32), split(float(b), FLOAT32))
            for a, b in terms[first : first + accumulator.block]
        ]
        if total:
            products.append(split(float(total), accumulator.format))
        exponent = largest_exponent(products)
        summed = aligned_sum(products, accumulator.fraction_bits, exponent, "rtz")
        exact = value(summed.significand, summed.quantum)
        total = steps(exact, accumulator.format, OUTER, number)
    return total


def core_maker(name, rounding):
    """The core for a format, if it may be of one; the test's others get the next one."""
    name = {"float8_e5m2": "float16", "e11m40": "e8m11"}.get(name, name)
    return fpemu.TensorCore(4, 23, name, rounding)


CASES = {
    "sequential": (fpemu.Sequential, {}, sequential),
    "unfused": (fpemu.Sequential, {"fused": False}, sequential),
    "product": (fpemu.Sequential, {"product": "float16"}, sequential),
    "via": (fpemu.Sequential, {"via": "float32"}, sequential),
    "blocked": (fpemu.Blocked, {"block": 4, "inner": "float32"}, blocked),
    "pairwise": (fpemu.Pairwise, {}, pairwise),
    "pairwise, unfused": (fpemu.Pairwise, {"fused": False}, pairwise),
    "trees": (fpemu.Pairwise, {"block": 4}, pairwise),
    "exact": (fpemu.Exact, {}, exactly),
    "exact blocks": (fpemu.Exact, {"block": 5}, exactly),
    "tensor core": (core_maker, {}, tensor_core),
}


def operands(dtype, length):
    generator = np.random.default_rng(length)
    exponents = generator.integers(-9, 4, (2, 3, length))
    a, b = np.ldexp(generator.normal(size=(2, 3, length)), exponents).astype(dtype)
    return a, np.ascontiguousarray(b.T)


@for_each("dtype", [np.float32, np.float64])
@for_each("mode, random_bits", [("sr", None), ("sr", 6), ("sr_equal", None)])
@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2", "float32", "e11m40"])
@pytest.mark.parametrize("case", CASES)
def test_every_step_draws_and_rounds_as_defined(case, name, mode, random_bits, dtype):
    maker, options, oracle = CASES[case]
    accumulator = maker(
        name, rounding=Rounding(mode, random_bits=random_bits, seed=SEED), **options
    )
    for length in (1, 2, 13):
        a, b = operands(np.float32 if case == "tensor core" else dtype, length)
        a, b = a.astype(dtype), b.astype(dtype)
        expected = np.empty((3, 3))
        for element, (i, j) in enumerate(np.ndindex(3, 3)):
            terms = [(mpq(x), mpq(y)) for x, y in zip(a[i].tolist(), b[:, j].tolist(), strict=True)]
            steps = Steps(element, mode, random_bits or 64)
            expected[i, j] = oracle(terms, steps, accumulator)
        actual = fpemu.matmul(a, b, accumulator)
        assert_same_bits(actual, expected, about=(case, name, mode, length))


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_threads_does_not_matter(case):
    maker, options, _ = CASES[case]
    accumulator = maker("bfloat16", rounding=Rounding("sr", seed=SEED), **options)
    a, b = np.random.default_rng(1).normal(size=(2, 70, 70)).astype(np.float32)
    with on_threads(1):
        alone = fpemu.matmul(a, b, accumulator)
    with on_threads(3):
        assert_same_bits(fpemu.matmul(a, b, accumulator), alone)
    assert_same_bits(fpemu.matmul(a[:5], b, accumulator), alone[:5])


def test_strips_of_a_tensor_core_draw_what_the_whole_draws(monkeypatch):
    core = core_maker("bfloat16", Rounding("sr", seed=SEED))
    a, b = np.random.default_rng(4).normal(size=(2, 140, 140)).astype(np.float32)
    whole = fpemu.matmul(a, b, core)
    monkeypatch.setattr(kernels, "_STRIP", 140 * 64)
    assert_same_bits(fpemu.matmul(a, b, core), whole)


@pytest.mark.parametrize("case", [*CASES, "promoted"])
def test_sums_are_right_on_average(case):
    if case == "promoted":
        maker = functools.partial(promoted, 8)
        options = {}
    else:
        maker, options, _ = CASES[case]
    a, b = np.random.default_rng(2).normal(size=(2, 64)).astype(np.float32).astype(float)
    results = np.array(
        [
            fpemu.dot(a, b, maker("bfloat16", rounding=Rounding("sr", seed=seed), **options))
            for seed in range(300)
        ]
    )
    assert len(set(results.tolist())) > 1
    error = results.mean() - a @ b
    assert abs(error) < 5 * results.std() / np.sqrt(results.size) + 1e-9


def promoted(interval, name, rounding):
    return fpemu.Promoted(fpemu.Sequential(name, rounding), "bfloat16", interval, rounding)


def test_intervals_draw_apart():
    """Two equal intervals: were their draws the same, so would be their rounding errors."""
    a = np.tile(np.random.default_rng(3).normal(size=16), 2)
    sums = []
    for seed in range(40):
        inner = fpemu.Sequential("bfloat16", Rounding("sr", seed=seed))
        both = fpemu.dot(a, np.ones(32), fpemu.Promoted(inner, "float64", 16))
        first = fpemu.dot(a[:16], np.ones(16), fpemu.Promoted(inner, "float64", 16))
        sums.append(both == 2 * first)
    assert sum(sums) < 20


def test_derived_roundings_have_seeds_of_their_own():
    rounding = Rounding("sr", seed=1)
    assert rounding.derived("a", 1) == rounding.derived("a", 1)
    seeds = {rounding.derived(*labels).seed for labels in (("a", 1), ("a", 2), ("b", 1), ())}
    assert len(seeds | {1}) == 5
    assert Rounding("rne").derived("a") == Rounding("rne")
    assert Rounding("sr").derived("a").seed is None
