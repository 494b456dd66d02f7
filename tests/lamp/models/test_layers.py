"""Norms, activations and linear maps against definitions in exact or 40-digit arithmetic."""

import os
import subprocess
import sys
from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest

import fpemu
from fpemu.reference import round_exact
from lamp import Function, Product
from lamp._kernels import rows
from lamp._kernels.activations import ACTIVATIONS
from lamp.models import layers, packed
from lamp.models.layers import Norm
from tests.oracle import decoder
from tests.threads import on_threads

UNIT_64 = 2.0**-53
UNITS = {np.float32: 2.0**-24, np.float64: UNIT_64}
SATURATING = fpemu.Rounding("rne", "saturate")


def step_in(dtype):
    """A function in the precision of a carrier."""
    return Function(np.dtype(dtype).name)


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
    found = layers.activation(x, name, step_in(dtype))
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
    found = layers.activation(np.array([np.inf, np.nan], np.float32), name, Function())
    assert found[0] == (1 if name in ("sigmoid", "tanh") else np.inf)
    assert np.isnan(found[1])


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="unknown activation 'mish': expected gelu"):
        layers.activation(np.ones((4, 4), np.float32), "mish", Function())


def test_an_activation_of_any_layout_leaves_its_argument_alone():
    x = np.arange(-6.0, 6.0, dtype=np.float32).reshape(3, 4).T[::2]
    before = x.copy()
    np.testing.assert_array_equal(layers.activation(x, "relu", Function()), np.maximum(x, 0))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("mode", ["rne", "rtz", "rtp"])
@pytest.mark.parametrize("output", ["bfloat16", "float8_e4m3fn", "float32"])
def test_functions_are_rounded_once_into_their_output(output, mode):
    """From float64: a first rounding into float32 would move ties."""
    x = arguments(np.float32)
    step = Function(output, mode)
    found = layers.activation(x, "gelu_new", step)
    exact = layers.activation(x.astype(np.float64), "gelu_new", Function("float64"))
    expected = [round_exact(float(v), output, mode) for v in exact]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    weight = np.linspace(-2, 2, x.size).astype(np.float32)
    for parameters in (Norm(weight, weight[::-1].copy()), Norm(weight, None, centered=False)):
        rows = x[np.newaxis]
        found = layers.norm(rows, parameters, 1e-5, step)
        exact = layers.norm(rows.astype(np.float64), parameters, 1e-5, Function("float64"))
        expected = [round_exact(float(v), output, mode) for v in exact[0]]
        np.testing.assert_array_equal(found[0], np.array(expected, np.float32))


@pytest.mark.parametrize("rounding", ["rne", "rto", fpemu.Rounding("sr", seed=3)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_parts_in_which_functions_are_computed_do_not_matter(dtype, rounding, monkeypatch):
    x = np.random.default_rng(8).normal(size=(23, 12)).astype(dtype)
    parameters = Norm(*np.random.default_rng(9).normal(size=(2, 12)).astype(np.float32))
    for output in ("bfloat16", "float32"):
        step = Function(output, rounding)
        whole = layers.activation(x, "gelu", step), layers.norm(x, parameters, 1e-5, step)
        with monkeypatch.context() as patch:
            patch.setattr(layers, "_TOGETHER", 50)  # four rows, three at the end
            parts = layers.activation(x, "gelu", step), layers.norm(x, parameters, 1e-5, step)
        for expected, found in zip(whole, parts, strict=True):
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("centered", [True, False])
def test_a_norm_in_steps_is_fpemu_s(centered):
    generator = np.random.default_rng(7)
    x = fpemu.round(generator.normal(0, 3, (4, 24)).astype(np.float32), "bfloat16")
    weight, bias = generator.normal(1, 1, (2, 24)).astype(np.float32)
    step = Function("bfloat16", "rne", "float16")
    inner = {"statistics": "float16", "normalized": "float16"}
    if centered:
        inner |= {"centered": "float16", "scaled": "float16", "bias": bias}
    plain = fpemu.functions.layer_norm if centered else fpemu.functions.rms_norm
    expected = plain(x, "bfloat16", weight=weight, accumulator=fpemu.Sequential("float16"), **inner)
    found = layers.norm(x, Norm(weight, bias if centered else None, centered), 1e-5, step)
    np.testing.assert_array_equal(found, expected)
    assert (found != layers.norm(x, Norm(weight, bias), 1e-5, Function("bfloat16"))).any()


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
    found = layers.norm(x, Norm(weight, bias), epsilon, step_in(dtype))
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
    found = layers.norm(x, Norm(np.ones(4), np.zeros(4)), 0.0, Function("float64"))
    np.testing.assert_array_equal(found, [[1.0, -1.0, 1.0, -1.0]])


def test_rows_do_not_depend_on_one_another_or_on_threads():
    generator = np.random.default_rng(5)
    x = generator.normal(size=(500, 33)).astype(np.float32)
    weight, bias = generator.normal(size=(2, 33)).astype(np.float32)
    norms = layers.norm(x, Norm(weight, bias), 1e-5, Function())
    values = layers.activation(x, "gelu_new", Function())
    for row in (0, 250, 499):
        one = layers.norm(x[row : row + 1], Norm(weight, bias), 1e-5, Function())
        np.testing.assert_array_equal(norms[row], one[0])
    for threads in (1, 3):
        with on_threads(threads):
            again = layers.norm(x, Norm(weight, bias), 1e-5, Function())
            np.testing.assert_array_equal(again, norms)
            np.testing.assert_array_equal(layers.activation(x, "gelu_new", Function()), values)


PRODUCTS = {
    "sequential": Product("e8m7"),
    "output narrower than the sums": Product("float32", output="bfloat16", rounding="rtz"),
    "rounded operands": Product("float32", "float8_e4m3fn", "bfloat16"),
    "tensor": Product("float32", "float8_e4m3fn", "bfloat16", SATURATING, "tensor", 0.5),
    "row": Product("float32", "float8_e4m3fn", "bfloat16", SATURATING, "row"),
    "block": Product("e8m10", "float8_e5m2", "float32", SATURATING, "block", block=5),
    "mxfp8": Product("float32", "mxfp8_e4m3", "bfloat16"),
    "nvfp4": Product("float32", "nvfp4", "bfloat16", scale=2.0),
}


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_linear_is_the_oracle_s(name, dtype):
    generator = np.random.default_rng(3)
    x, weight = generator.normal(size=(3, 13)), generator.normal(size=(13, 5))
    x[1], weight[:, 2] = 0.0, 0.0  # no largest magnitude to make a scale of
    x, weight = (fpemu.round(v, "float32").astype(dtype) for v in (x, weight))
    bias = generator.normal(size=5).astype(np.float32).astype(dtype)
    step = PRODUCTS[name]
    for of_bias in (bias, None):
        matrix = layers.Matrix(weight, of_bias, fpemu.formats.float32)
        for _ in range(2):  # the second time from what it has kept
            found = layers.linear(x, matrix, step)
            np.testing.assert_array_equal(found, decoder.linear(x, weight, of_bias, step))
            assert found.dtype == dtype


RANDOM = Product("float32", operands="bfloat16", rounding=fpemu.Rounding("sr", seed=1))


@pytest.mark.parametrize("step", [*PRODUCTS.values(), RANDOM], ids=[*PRODUCTS, "random"])
@pytest.mark.parametrize("rows", [3, 64])
def test_columns_are_multiplied_some_at_a_time(step, rows, monkeypatch):
    monkeypatch.setattr(layers, "_PANEL", 1)
    generator = np.random.default_rng(4)
    x, weight = (generator.normal(size=shape).astype(np.float32) for shape in ((rows, 13), (13, 5)))
    whole = layers.linear(x, layers.Matrix(weight, None, fpemu.formats.float32), step)
    monkeypatch.setattr(layers, "_PART", 2 * 13)
    matrix = layers.Matrix(weight, None, fpemu.formats.float32)
    np.testing.assert_array_equal(layers.linear(x, matrix, step), whole)
    matrix = layers.Matrix(weight, None, fpemu.formats.float32)  # has kept nothing
    together = [part for part, _ in matrix.parts(step, 64)]
    as_it_lies = matrix.is_operand(step) and layers.packed.reads_codes(step)
    apart = layers.columns_apart(step) and not as_it_lies
    assert together == ([slice(0, 2), slice(2, 4), slice(4, 5)] if apart else [slice(0, 5)])


UNIT = Product(fpemu.devices.get("hopper.wgmma.bfloat16"), "bfloat16", "bfloat16")


@pytest.mark.parametrize(
    "step", [*PRODUCTS.values(), RANDOM, UNIT], ids=[*PRODUCTS, "random", "unit"]
)
@pytest.mark.parametrize("rows", [3, 64])
def test_weights_in_the_width_of_their_format_change_no_bit(step, rows, monkeypatch):
    monkeypatch.setattr(layers, "_PART", 64 * 13)
    generator = np.random.default_rng(4)
    x, weight = (
        fpemu.round(generator.normal(size=shape).astype(np.float32), "bfloat16")
        for shape in ((rows, 13), (13, 150))
    )
    plain = layers.Matrix(weight, None, fpemu.formats.bfloat16)
    expected = layers.linear(x, plain, step)
    monkeypatch.setattr(packed, "_LEAST", 0)
    matrix = layers.Matrix(weight, None, fpemu.formats.bfloat16)
    assert isinstance(matrix._weight, fpemu.Packed)
    for _ in range(2):  # the second time from what it has kept
        np.testing.assert_array_equal(layers.linear(x, matrix, step), expected)
    np.testing.assert_array_equal(matrix.weight, weight)


def test_what_a_matrix_has_kept_is_for_one_step():
    weight = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    matrix = layers.Matrix(weight, None, fpemu.formats.float32)
    x = np.ones((1, 8), np.float32)
    for name in ("row", "rounded operands", "row", "nvfp4", "sequential"):
        found = layers.linear(x, matrix, PRODUCTS[name])
        np.testing.assert_array_equal(found, decoder.linear(x, weight, None, PRODUCTS[name]))


@pytest.mark.parametrize(("rows", "kept"), [(1, True), (63, True), (64, False)])
def test_weights_are_kept_as_a_step_takes_them_for_few_rows(rows, kept, monkeypatch):
    prepared = []

    def counted(*arguments):
        prepared.append(arguments)
        return right_operand(*arguments)

    right_operand = layers.right_operand
    monkeypatch.setattr(layers, "right_operand", counted)
    weight = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    matrix = layers.Matrix(weight, None, fpemu.formats.float32)
    for _ in range(3):
        layers.linear(np.ones((rows, 8), np.float32), matrix, PRODUCTS["row"])
    assert len(prepared) == (1 if kept else 3)


COMPILED = """
import numpy, lamp
from lamp._kernels import activations, rows
from lamp.models import layers
from lamp.machines import Function
x = numpy.zeros((2, 3))
layers.activation(x, "gelu", Function())
rows.mapped(activations.activation("gelu").slope, x)
layers.norm(x, layers.Norm(x[0]), 1e-5, Function())
"""


def test_a_second_process_compiles_nothing(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COMPILED], check=True, env=environment)
        found.append({file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nb?")})
    assert found[0]
    assert found[0] == found[1]


def test_a_function_of_ones_own_is_mapped_as_it_is_now():
    """Its name does not stand for it: it is not kept for other processes."""

    def scaled(factor):
        return numba.njit(lambda x: factor * x)

    for factor in (2.0, 3.0):
        assert rows.mapped(scaled(factor), np.array([1.5]))[0] == 1.5 * factor


def test_sums_times_scales_are_rounded_once():
    """Subnormal results, infinities and zeros among them, and what float64 rounds to a tie."""
    rng = np.random.default_rng(21)
    for binades in (0, 130):
        sums = rng.standard_normal((2, 6, 9)) * 2.0 ** rng.integers(-binades, 2, (2, 6, 9))
        sums = sums.astype(np.float32)
        sums[0, 0, :4] = 0.0, -0.0, np.inf, 14184389.0
        left = (1 + rng.random((2, 6, 1))).astype(np.float32)
        left[0, 0], left[1, 3] = 8748301.0, 2.0**-126
        right = (1 + rng.random((2, 1, 9))).astype(np.float32)
        right[0, 0, 3] = 12304271.0
        expected = [
            round_exact(Fraction(float(x)) * Fraction(float(a)) * Fraction(float(b)), "float32")
            if np.isfinite(x) and x
            else x
            for x, a, b in zip(*map(np.ravel, np.broadcast_arrays(sums, left, right)), strict=True)
        ]
        found = layers._times_scales(sums, left, right)
        expected = np.reshape(np.asarray(expected, np.float32), sums.shape)
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
