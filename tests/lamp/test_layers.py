"""Norms, activations and linear maps against definitions in exact or 40-digit arithmetic."""

from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest

import fpemu
from lamp import layers
from lamp.activations import ACTIVATIONS

UNIT_64 = 2.0**-53
UNITS = {np.float32: 2.0**-24, np.float64: UNIT_64}


def exact_activation(name, y):
    if name == "relu":
        return max(y, mpmath.mpf(0))
    if name in ("silu", "swish"):
        return y / (1 + mpmath.exp(-y))
    if name == "sigmoid":
        return 1 / (1 + mpmath.exp(-y))
    if name == "tanh":
        return mpmath.tanh(y)
    if name == "gelu":
        return y * mpmath.erfc(-y / mpmath.sqrt(2)) / 2
    return (
        y * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (y + mpmath.mpf("0.044715") * y**3))) / 2
    )


def arguments(dtype):
    generator = np.random.default_rng(0)
    special = [0.0, -0.0, 1e-30, -1e-30, 0.5, -0.5, 5.9, -5.9, 8.5, -8.5, 40.0, -40.0, 1e4, -1e4]
    values = [special, generator.normal(0, 1, 80), generator.normal(0, 5, 80)]
    return np.concatenate(values).astype(dtype)


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_definitions(name, dtype):
    x = arguments(dtype)
    found = layers.activation(x.copy(), name)
    assert found.dtype == dtype
    with mpmath.workdps(800):  # 1 + tanh cancels
        for y, value in zip(x.tolist(), found.tolist(), strict=True):
            exact = exact_activation(name, mpmath.mpf(y))
            # One rounding into the type; before it the errors of erfc and exp, of which an
            # argument t makes |t| times its own error: at most 700 units before exp underflows.
            bound = (UNITS[dtype] + 2000 * UNIT_64) * abs(exact) + np.finfo(
                dtype
            ).smallest_subnormal
            assert abs(mpmath.mpf(value) - exact) <= bound, (y, value, exact)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_infinity_and_nan(name):
    found = layers.activation(np.array([np.inf, np.nan], np.float32), name)
    assert found[0] == (1 if name in ("sigmoid", "tanh") else np.inf)
    assert np.isnan(found[1])


def test_an_activation_replaces_its_argument():
    x = np.array([[-1.0, 2.0]], np.float32)
    assert layers.activation(x, "relu") is x
    np.testing.assert_array_equal(x, [[0.0, 2.0]])


def test_an_activation_that_cannot_work_is_refused():
    x = np.ones((4, 4), np.float32)
    with pytest.raises(ValueError, match="unknown activation 'mish': expected gelu"):
        layers.activation(x, "mish")
    with pytest.raises(ValueError, match="C-contiguous"):
        layers.activation(x.T[::2], "relu")


def exact_layer_norm(row, weight, bias, epsilon):
    row, weight, bias = ([Fraction(float(v)) for v in values] for values in (row, weight, bias))
    mean = sum(row) / len(row)
    variance = sum((v - mean) ** 2 for v in row) / len(row) + Fraction(epsilon)
    root = mpmath.sqrt(mpmath.mpf(variance.numerator) / variance.denominator)
    return [
        mpmath.mpf((d := (v - mean) * w).numerator) / d.denominator / root + float(b)
        for v, w, b in zip(row, weight, bias, strict=True)
    ]


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
@pytest.mark.parametrize(("rows", "n", "shift"), [(1, 1, 0.0), (3, 7, 0.0), (5, 32, 100.0)])
def test_layer_norm_is_its_definition(dtype, epsilon, rows, n, shift):
    generator = np.random.default_rng(n)
    x = (generator.normal(0, 3, (rows, n)) + shift).astype(dtype)
    weight, bias = generator.normal(1, 1, (2, n)).astype(dtype)
    before = x.copy()
    found = layers.layer_norm(x, weight, bias, epsilon)
    assert found.dtype == dtype
    np.testing.assert_array_equal(x, before)
    with mpmath.workdps(40):
        for row, values in zip(x, found.tolist(), strict=True):
            exact = exact_layer_norm(row, weight, bias, epsilon)
            # The mean of n numbers is off by n units of the largest, which the division by the
            # deviation magnifies; then one rounding into the type.
            largest, deviation = np.abs(row).max(), np.sqrt(row.astype(float).var() + epsilon)
            for value, target, w, b in zip(values, exact, weight, bias, strict=True):
                size = abs(target) + abs(float(b))
                inner = (n + 8) * UNIT_64 * (largest / deviation * abs(float(w)) + size)
                assert abs(value - target) <= UNITS[dtype] * abs(target) + inner


def test_layer_norm_subtracts_the_mean_before_squaring():
    """The mean of the squares less the square of the mean would lose all digits here."""
    x = np.array([[2.0**26 + 1, 2.0**26 - 1, 2.0**26 + 1, 2.0**26 - 1]])
    found = layers.layer_norm(x, np.ones(4), np.zeros(4), 0.0)
    np.testing.assert_array_equal(found, [[1.0, -1.0, 1.0, -1.0]])


def test_rows_do_not_depend_on_one_another_or_on_threads():
    generator = np.random.default_rng(5)
    x = generator.normal(size=(500, 33)).astype(np.float32)
    weight, bias = generator.normal(size=(2, 33)).astype(np.float32)
    norms = layers.layer_norm(x, weight, bias, 1e-5)
    values = layers.activation(x.copy(), "gelu_new")
    for row in (0, 250, 499):
        one = layers.layer_norm(x[row : row + 1], weight, bias, 1e-5)
        np.testing.assert_array_equal(norms[row], one[0])
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(layers.layer_norm(x, weight, bias, 1e-5), norms)
        np.testing.assert_array_equal(layers.activation(x.copy(), "gelu_new"), values)
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("accumulator", ["float32", "float64", "e8m4"])
@pytest.mark.parametrize("dtype", UNITS)
def test_linear_is_the_product_and_the_bias_in_the_type_of_its_input(accumulator, dtype):
    generator = np.random.default_rng(6)
    x, weight = (generator.normal(size=s).astype(dtype) for s in [(4, 9), (9, 5)])
    bias = generator.normal(size=5).astype(dtype)
    chain = fpemu.Sequential(accumulator)
    product = fpemu.matmul(x, weight, chain)
    found = layers.linear(x, weight, bias, chain)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, (product + bias).astype(dtype))
    bare = layers.linear(x, weight, None, chain)
    assert bare.dtype == dtype
    np.testing.assert_array_equal(bare, product.astype(dtype))
