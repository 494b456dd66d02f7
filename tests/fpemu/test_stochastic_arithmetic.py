"""Stochastically rounded arithmetic, jit kernels and functions: every draw against the definition.

The oracle has the exact result (a rational, or the square root of one), truncates
its discarded fraction to r bits and goes up if adding the r random bits of the element carries.
"""

import functools
import itertools
import math

import mpmath
import numba
import numpy as np
import pytest
from gmpy2 import mpq

import fpemu
from fpemu import formats
from fpemu._kernels import caching
from fpemu._kernels import exact as exact_arithmetic
from fpemu._kernels import random_bits as philox
from fpemu._kernels import rounding as kernels
from fpemu.rounding import Rounding
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits
from tests.oracle.stochastic import Root, signed
from tests.threads import on_threads

SEED = 2024
NAMES = [
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu", "float4_e2m1fn"),
    *("float6_e3m2fn", "binary8p4se", "bfloat16", "float16", "tf32", "float32", "e8m4"),
    *("e11m40", "float64"),
]


@functools.cache
def random_words(count, seed=SEED):
    """The 64 random bits that elements 0, 1, ... of a call draw."""
    words = np.empty(philox.BLOCK_WORDS, np.uint32)
    drawn = []
    for block in range(-(-count // 1024)):
        philox.fill_block(block, philox.key_of(seed), words)
        drawn += [
            int(h) << 32 | int(low) for h, low in zip(words[:1024], words[1024:], strict=True)
        ]
    return drawn[:count]


def words_of_block(seed=SEED):
    words = np.empty(philox.BLOCK_WORDS, np.uint32)
    philox.fill_block(0, philox.key_of(seed), words)
    return words.tolist()


OPERATIONS = {
    "add": (2, lambda a, b: a + b),
    "subtract": (2, lambda a, b: a - b),
    "multiply": (2, lambda a, b: a * b),
    "divide": (2, lambda a, b: a / b),
    "sqrt": (1, lambda a: Root(a)),
    "fma": (3, lambda a, b, c: a * b + c),
}


def operands_for(operation, format, dtype, count=160):
    """Finite numbers, not zero: near each other, far apart, at the ends of the format's range."""
    generator = np.random.default_rng([format.bits, format.bias, len(operation)])
    arity = OPERATIONS[operation][0]
    info = np.finfo(dtype)
    near = generator.integers(-2, 3, (arity, count))
    low, high = max(format.quantum_exponent, info.minexp) // 2, min(format.emax, info.maxexp) // 2
    wide = generator.integers(low - 3, high + 2, (arity, count))
    exponents = np.where(generator.random(count) < 0.5, near, wide)
    significands = generator.uniform(1, 2, (arity, count))
    coarse = np.floor(significands * 8) / 8
    numbers = np.where(generator.random((arity, count)) < 0.3, coarse, significands)
    signs = 1 if operation == "sqrt" else generator.choice([-1, 1], (arity, count))
    numbers = np.ldexp(numbers * signs, exponents).astype(dtype)
    return numbers if format.signed else np.abs(numbers)


def expected_of(operation, operands, format, mode, random_bits=64):
    exact = OPERATIONS[operation][1]
    words = random_words(operands.shape[1])
    return np.array(
        [
            signed(exact(*map(mpq, column)), False, format, mode, word, random_bits)
            for column, word in zip(operands.T.tolist(), words, strict=True)
        ]
    )


@for_each("dtype", [np.float32, np.float64])
@for_each("mode", ["sr", "sr_equal"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_draw_rounds_as_defined(name, operation, mode, dtype):
    format = formats.format(name)
    operands = operands_for(operation, format, dtype)
    actual = getattr(fpemu, operation)(*operands, format, Rounding(mode, seed=SEED))
    expected = expected_of(operation, operands, format, mode)
    assert_same_bits(actual, expected, operands.T, about=(name, operation, mode))


@for_each("random_bits", [1, 5, 32, 63])
@for_each("mode", ["sr", "sr_b", "sr_c"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["bfloat16", "float64"])
def test_the_fraction_is_taken_to_the_random_bits(name, operation, mode, random_bits):
    format = formats.format(name)
    operands = operands_for(operation, format, np.float64)
    rounding = Rounding(mode, random_bits=random_bits, seed=SEED)
    actual = getattr(fpemu, operation)(*operands, format, rounding)
    expected = expected_of(operation, operands, format, mode, random_bits)
    assert_same_bits(actual, expected, operands.T, about=(name, operation, mode, random_bits))


@for_each("dtype", [np.float32, np.float64])
@for_each("random_bits", [1, 4, 20, 31, 32, 63])
@pytest.mark.parametrize("mode", ["sr_b", "sr_c"])
def test_numbers_far_below_the_quantum_meet_the_random_bits_as_defined(mode, random_bits, dtype):
    format = formats.format("float8_e4m3fn")
    generator = np.random.default_rng(random_bits)
    exponents = generator.integers(-9 - random_bits - 30, -6, 1024)
    coarse = np.floor(generator.uniform(4, 8, 1024)) / 4
    x = np.ldexp(np.where(generator.random(1024) < 0.5, coarse, 1.0), exponents).astype(dtype)
    rounding = Rounding(mode, random_bits=random_bits, seed=SEED)
    wide = dtype == np.float64 or random_bits > 31
    words = random_words(1024) if wide else [word << 32 for word in words_of_block()[:1024]]
    expected = [
        signed(mpq(float(number)), False, format, mode, word, random_bits)
        for number, word in zip(x, words, strict=True)
    ]
    assert_same_bits(fpemu.round(x, format, rounding), expected, x)


@caching.kernel
def _fused(a, b, c, target, random, unused):
    return exact_arithmetic.fma_word_at(a, b, c, target, kernels.STOCHASTIC, random, unused)


@pytest.mark.parametrize("less", [0, 1])
def test_what_a_shift_loses_of_a_product_breaks_a_tie_of_its_fraction(less):
    # 2**66 + 1 is a product of float64 numbers whose 1 lies in the low word.  At half of the last
    # of 63 bits of the fraction it is above the tie, and the largest random integer goes up.
    a, b = 2.0**22 + 1, 2.0**44 - 2.0**22 + 1 - less
    c = 2.0 ** (66 + 116)
    target = kernels.target_of(formats.float64, Rounding("sr_c", random_bits=63), np.dtype(float))
    word = int(_fused(a, b, c, target, np.uint64(2**64 - 2), np.uint64(1)))
    result = np.array(word, np.uint64).view(np.float64)
    assert result == (c if less else np.nextafter(c, np.inf))


# All bits of quotients and roots, as no draw shows the last of them


@caching.kernel
def _quotients(dividends, divisors, high, low):
    for i in range(high.size):
        high[i], low[i] = exact_arithmetic._quotient_pair(dividends[i], divisors[i])


@caching.kernel
def _roots(radicands, high, low):
    for i in range(high.size):
        high[i], low[i] = exact_arithmetic._root_pair(radicands[i])


def test_quotients_have_122_bits_and_whether_there_are_more():
    generator = np.random.default_rng(9)
    integers = generator.integers(2**52, 2**53, (2, 2000), dtype=np.uint64)
    integers[:, :4] = [[2**52, 2**53 - 1, 2**52, 2**53 - 1], [2**52, 2**52, 2**53 - 1, 2**53 - 1]]
    high, low = np.empty((2, 2000), np.uint64)
    _quotients(*integers, high, low)
    for a, b, upper, lower in zip(*integers.tolist(), high.tolist(), low.tolist(), strict=True):
        quotient, rest = divmod(a << 121, b)
        assert upper << 64 | lower == 2 * quotient + (rest > 0)


def test_roots_have_125_bits_and_whether_there_are_more():
    generator = np.random.default_rng(10)
    radicands = generator.integers(2**52, 2**54, 2000, dtype=np.uint64)
    squares = generator.integers(2**26, 2**27, 100, dtype=np.uint64) ** 2
    radicands = np.concatenate([radicands, squares, squares[squares > 2**52] - np.uint64(1)])
    high, low = np.empty((2, radicands.size), np.uint64)
    _roots(radicands, high, low)
    for radicand, upper, lower in zip(radicands.tolist(), high.tolist(), low.tolist(), strict=True):
        root = math.isqrt(radicand << 2 * 98)
        assert upper << 64 | lower == 2 * root + (root * root != radicand << 2 * 98)


# Exceptional operands and exact results


def settled(function, operands, format):
    """The results rounded to nearest, and where rounding up or down gives no other."""
    nearest, up, down = (function(*operands, format, mode) for mode in ("rne", "rtp", "rtn"))
    toward_zero = function(*operands, format, "rtz")
    return nearest, (up == down) | np.isnan(toward_zero)


@for_each("mode", ["sr", "sr_equal"])
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "fma"])
@for_each("name", ["float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu", "float64"])
def test_what_needs_no_rounding_is_not_random(name, operation, mode):
    source = formats.format("float8_e5m2" if name == "float64" else name)
    codes = np.arange(2**source.bits, dtype=np.uint8)
    members = fpemu.decode(codes, source)
    if operation == "sqrt":
        operands = [members]
    else:
        operands = [a.ravel() for a in np.meshgrid(members, members)]
    function = getattr(fpemu, operation)
    actual = function(*operands, name, Rounding(mode, seed=SEED))
    nearest, same = settled(function, operands, name)
    assert same.sum() > members.size / 4
    assert_same_bits(actual[same], nearest[same], about=(name, operation))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_signs_of_zeros_are_those_of_nearest(operation):
    values = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 5e-324, 2.0**1000]
    arity = OPERATIONS[operation][0]
    operands = np.array(list(itertools.product(values, repeat=arity))).T
    function = getattr(fpemu, operation)
    nearest, same = settled(function, operands, "float64")
    actual = function(*operands, "float64", Rounding("sr", seed=SEED))
    assert same.sum() > 0.7 * same.size
    assert_same_bits(actual[same], nearest[same], operands.T[same])


@pytest.mark.parametrize("mode", ["sr", "sr_equal"])
def test_overflow_is_that_of_the_rounding(mode):
    big = np.full(64, 1.0e300)
    ieee = fpemu.multiply(big, big, "float16", Rounding(mode, seed=SEED))
    saturated = fpemu.multiply(big, -big, "float16", Rounding(mode, "saturate", seed=SEED))
    assert np.isposinf(ieee).all()
    assert (saturated == -65504).all()


# The draws


def test_an_element_draws_what_rounding_in_its_place_draws():
    x = np.random.default_rng(3).normal(size=(3, 1000))
    for mode in ("sr", "sr_equal"):
        rounding = Rounding(mode, seed=SEED)
        expected = fpemu.round(x, "bfloat16", rounding)
        assert_same_bits(fpemu.add(x, 0.0, "bfloat16", rounding), expected)
        transposed = fpemu.multiply(np.asfortranarray(x), 1.0, "bfloat16", rounding)
        assert_same_bits(transposed, expected)
        assert_same_bits(fpemu.fma(x, 1.0, 0.0, "bfloat16", rounding), expected)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_number_of_threads_does_not_matter(threads):
    a, b = np.random.default_rng(4).normal(size=(2, 50_000))
    rounding = Rounding("sr", seed=SEED)
    expected = fpemu.divide(a, b, "bfloat16", rounding)
    expected_exp = fpemu.functions.exp(a, "bfloat16", rounding)
    with on_threads(threads):
        assert_same_bits(fpemu.divide(a, b, "bfloat16", rounding), expected)
        assert_same_bits(fpemu.functions.exp(a, "bfloat16", rounding), expected_exp)


def test_without_a_seed_every_call_draws_others():
    a = np.linspace(1, 2, 200)
    calls = [fpemu.add(a, 1e-3, "float8_e4m3fn", "sr") for _ in range(2)]
    assert (calls[0] != calls[1]).any()


# Users' kernels


def scalar_results(function, operands):
    @numba.njit
    def run(columns, out):
        for i in range(out.size):
            if columns.shape[0] == 1:
                out[i] = function(columns[0, i], i)
        return out

    @numba.njit
    def run_two(columns, out):
        for i in range(out.size):
            out[i] = function(columns[0, i], columns[1, i], i)
        return out

    @numba.njit
    def run_three(columns, out):
        for i in range(out.size):
            out[i] = function(columns[0, i], columns[1, i], columns[2, i], i)
        return out

    kernel = (run, run_two, run_three)[operands.shape[0] - 1]
    return kernel(operands, np.empty(operands.shape[1]))


JIT_NAMES = {
    "add": "adder",
    "subtract": "subtractor",
    "multiply": "multiplier",
    "divide": "divider",
    "sqrt": "square_root",
    "fma": "fma",
}


@pytest.mark.parametrize("mode", ["sr", "sr_equal"])
@pytest.mark.parametrize("operation", JIT_NAMES)
def test_a_users_kernel_draws_what_the_array_operation_draws(operation, mode):
    format = formats.format("bfloat16")
    rounding = Rounding(mode, seed=SEED)
    operands = operands_for(operation, format, np.float64, 3000)
    function = getattr(fpemu.jit, JIT_NAMES[operation])(format, rounding)
    expected = getattr(fpemu, operation)(*operands, format, rounding)
    assert_same_bits(scalar_results(function, operands), expected, operands.T)


def test_a_users_kernel_rounds_as_round_does():
    x = np.random.default_rng(5).normal(size=(1, 3000))
    rounding = Rounding("sr", random_bits=7, seed=SEED)
    function = fpemu.jit.rounder("float8_e4m3fn", rounding)
    assert_same_bits(scalar_results(function, x), fpemu.round(x[0], "float8_e4m3fn", rounding))


# Functions

DEFINITIONS = {
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log2": lambda x: mpmath.log(x) / mpmath.log(2),
    "log1p": mpmath.log1p,
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "erf": mpmath.erf,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
}


def as_fraction(number):
    numerator, denominator = mpmath.libmp.to_rational(number._mpf_)
    return mpq(numerator, denominator)


@for_each("random_bits", [None, 3])
@for_each("format", ["float32", "bfloat16", "float8_e5m2"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_functions_round_every_draw_as_defined(name, format, random_bits):
    format = formats.format(format)
    generator = np.random.default_rng(len(name))
    x = generator.normal(0, 2, 300).astype(np.float32)
    x = abs(x) if name in ("log", "log2", "log1p", "rsqrt") else x
    rounding = Rounding("sr", random_bits=random_bits, seed=SEED)
    actual = getattr(fpemu.functions, name)(x, format, rounding)
    with mpmath.workprec(400):
        exact = [as_fraction(DEFINITIONS[name](mpmath.mpf(float(v)))) for v in x]
    expected = [
        signed(value, value < 0, format, "sr", word, random_bits or 20)
        for value, word in zip(exact, random_words(x.size), strict=True)
    ]
    assert_same_bits(actual, expected, x, about=(name, format))


def test_functions_draw_no_more_bits_than_they_say():
    with pytest.raises(ValueError, match="exp draws at most 20 random_bits, not 21"):
        fpemu.functions.exp(1.0, "bfloat16", Rounding("sr", random_bits=21))
