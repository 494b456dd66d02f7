"""Composed operations against their steps, one number at a time in exact arithmetic."""

import functools
import itertools
import math

import ml_dtypes
import numpy as np
import pytest

import fpemu
from fpemu import Blocked, Rounding, Sequential, formats, functions
from fpemu.functions import steps as composed
from fpemu.reference import function
from tests.oracle import accumulators, operations
from tests.oracle.bits import assert_same_bits

INF = math.inf
MODES = ("rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto")

# --- the oracle: the steps in plain Python --------------------------------------------------------


def summed(a, b, accumulator):
    """The inner product of two rows."""
    if isinstance(accumulator, Blocked):
        block, inner = accumulator.block, accumulator.inner.format
        return accumulators.blocked(a, b, accumulator.format, block, inner, accumulator.rounding)
    facts = (accumulator.fused, accumulator.product, accumulator.via)
    return accumulators.sequential(a, b, accumulator.format, accumulator.rounding, *facts)


def softmax_by_steps(row, format, mode, difference=None, exponential=None, accumulator=None):
    accumulator = accumulator or Sequential(format, mode)
    if any(math.isnan(x) or x == INF for x in row) or max(row) == -INF:
        return [math.nan] * len(row)
    exponentials = []
    for x in row:
        d = 0.0 if x == -INF else operations.subtract(x, max(row), difference or format, mode)
        e = function("exp", d, exponential or format, mode)
        exponentials.append(0.0 if x == -INF else e)
    total = summed(exponentials, [1.0] * len(row), accumulator)
    return [operations.divide(e, total, format, mode) for e in exponentials]


def norm_by_steps(
    row,
    format,
    mode,
    weight=None,
    bias=None,
    epsilon=1e-5,
    statistics=None,
    centered=None,
    normalized=None,
    scaled=None,
    accumulator=None,
    mean=True,
):
    accumulator = accumulator or Sequential(format, mode)
    statistics, count, deviations = statistics or format, len(row), row
    if mean:
        total = summed(row, [1.0] * count, accumulator)
        middle = operations.divide(total, count, statistics, mode)
        deviations = [operations.subtract(x, middle, centered or format, mode) for x in row]
    squares = summed(deviations, deviations, accumulator)
    square = operations.divide(squares, count, statistics, mode)
    raised = operations.add(square, epsilon, statistics, mode)
    factor = function("rsqrt", raised, statistics, mode)
    last = weight is None and bias is None
    first = format if last else normalized or format
    result = [operations.multiply(d, factor, first, mode) for d in deviations]
    if weight is not None:
        into = format if bias is None else scaled or format
        pairs = zip(result, weight, strict=True)
        result = [operations.multiply(z, w, into, mode) for z, w in pairs]
    if bias is not None:
        result = [operations.add(z, b, format, mode) for z, b in zip(result, bias, strict=True)]
    return result


# --- rows -----------------------------------------------------------------------------------------


def rows_for(seed, count, length):
    """Random rows of many scales, and rows in which steps cancel, tie, underflow and overflow."""
    rng = np.random.default_rng(seed)
    random = rng.normal(0, 1, (count, length)) * 2.0 ** rng.integers(-12, 9, (count, 1))
    random += rng.choice([0.0, 100.0, -3e4], (count, 1))
    ties = rng.integers(-64, 64, (count, length)) / 16
    masked = np.where(rng.random((count, length)) < 0.4, -INF, random)
    masked[:, 0] = ties[:, 0]
    far = rng.choice([1e30, -1e30, 1.0, 2e-40, -1e-45, 65504.0, 0.0, -0.0], (count, length))
    near = 1.0 + rng.integers(0, 3, (count, length)) * 2.0**-23
    constant = np.repeat(rng.normal(0, 3, (count, 1)), length, axis=1)
    small = rng.normal(0, 1, (count, length)) * 2.0 ** rng.integers(-149, -10, (count, length))
    return np.concatenate([random, ties, masked, far, near, constant, small]).astype(np.float32)


def finite(rows):
    return np.where(np.isfinite(rows), rows, np.float32(-0.5))


def assert_rows(actual, x, expected, about):
    assert_same_bits(actual, np.array(expected).reshape(x.shape), np.asarray(x, float), about)


FORMATS = ("float16", "bfloat16", "e5m7", "float8_e4m3fn", "float8_e5m2", "float32")

# --- softmax --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("format", FORMATS)
def test_softmax_is_its_steps(format, mode):
    for length in (1, 2, 7):
        x = rows_for(length, 10, length)
        expected = [softmax_by_steps(row, format, mode) for row in x.tolist()]
        assert_rows(composed.softmax(x, format, mode), x, expected, (format, mode, length))


STEPS = [
    ("float8_e4m3fn", "rne", {"difference": "float16", "exponential": "bfloat16"}),
    ("float8_e4m3fn", "rne", {"accumulator": Sequential("float32")}),
    (
        "float8_e5m2",
        "rtz",
        {"exponential": "float32", "accumulator": Blocked("float16", 3, "e8m4")},
    ),
    ("bfloat16", "rtp", {"difference": "float64", "accumulator": Sequential("float64", "rtn")}),
    ("bfloat16", "rne", {"accumulator": Sequential("e8m9", fused=False, product="float8_e5m2")}),
    ("float64", "rna", {"exponential": "float32", "accumulator": Sequential("e11m40", "rto")}),
    ("float16", Rounding("rne", "saturate"), {"difference": "float8_e4m3fn"}),
    (
        "e5m7",
        "rto",
        {"exponential": "binary8p4ue", "accumulator": Sequential("float32", via="e8m9")},
    ),
    ("float6_e2m3fn", "rne", {"exponential": "e11m20", "accumulator": Sequential("e11m20")}),
]


@pytest.mark.parametrize(("format", "rounding", "steps"), STEPS)
def test_every_step_of_softmax_has_its_format(format, rounding, steps):
    x = rows_for(3, 20, 9)
    x = x if formats.format(format).has_nan else x[np.isfinite(x).any(axis=1)]
    expected = [softmax_by_steps(row, format, rounding, **steps) for row in x.tolist()]
    assert_rows(composed.softmax(x, format, rounding, **steps), x, expected, (format, steps))


def test_softmax_of_float64_numbers_that_no_float32_holds():
    x = np.random.default_rng(0).normal(0, 1, (20, 6)) * [1.0, 1e-60, 3.0, 1e100, 1e-300, 2.0]
    for format, mode in itertools.product(("float32", "e11m12", "bfloat16"), ("rne", "rto")):
        expected = [softmax_by_steps(row, format, mode) for row in x.tolist()]
        assert_rows(composed.softmax(x, format, mode), x, expected, (format, mode))


@pytest.mark.parametrize("format", ["bfloat16", "float8_e4m3fn", "float8_e5m2fnuz"])
def test_masked_elements_are_not_there(format):
    x = np.array([[1.0, -INF, 2.0, -INF, -3.0], [-INF, 0.5, -INF, -INF, -INF]])
    z = composed.softmax(x, format)
    assert_same_bits(z[0, [1, 3]], [0.0, 0.0])
    assert_same_bits(z[0, [0, 2, 4]], composed.softmax(x[0, [0, 2, 4]], format))
    assert_same_bits(z[1], [0.0, 1.0, 0.0, 0.0, 0.0])
    # The difference of a masked element would be NaN here, and there is no exponential of that.
    steps = {"difference": "float8_e4m3fn", "exponential": "float6_e2m3fn"}
    assert_same_bits(composed.softmax([0.0, -INF, 0.0], format, **steps), [0.5, 0.0, 0.5])


def test_rows_without_an_answer_are_nan_and_leave_the_others_alone():
    x = np.array(
        [[-INF] * 3, [0.0, math.nan, -INF], [INF, 0.0, -INF], [INF, INF, 1.0], [1.0, 1.0, -INF]]
    )
    for format in ("bfloat16", "float8_e4m3fn", "float32"):
        z = composed.softmax(x, format)
        assert np.isnan(z[:4]).all()
        assert_same_bits(z[4], [0.5, 0.5, 0.0])
    for row in x[:4]:
        with pytest.raises(ValueError, match="float6_e2m3fn has no NaN"):
            composed.softmax(row, "float6_e2m3fn")


# --- norms ----------------------------------------------------------------------------------------

NORMS = [
    ("float16", "rne", {}),
    ("bfloat16", "rtp", {}),
    ("e5m7", "rto", {}),
    ("float8_e4m3fn", "rne", {}),
    ("float8_e5m2", "rtn", {}),
    ("float32", "rne", {}),
    ("float32", "rtz", {"epsilon": 0.0}),
    ("bfloat16", "rne", {"statistics": "float32", "accumulator": Sequential("float32")}),
    ("bfloat16", "rna", {"normalized": "float8_e5m2", "accumulator": Blocked("e8m7", 4)}),
    ("float8_e4m3fn", "rne", {"statistics": "e8m12", "normalized": "float16", "epsilon": 0.1}),
    ("float64", "rnz", {"statistics": "tf32", "accumulator": Sequential("float64")}),
    ("float16", "rtz", {"accumulator": Sequential("e8m9", fused=False, product="e8m4")}),
    ("float16", Rounding("rne", "saturate"), {"statistics": "float8_e4m3fn"}),
]


def parameters(length):
    rng = np.random.default_rng(length)
    weight, bias = (rng.normal(0, 2, length).astype(np.float32) for _ in range(2))
    return [(None, None), (weight, None), (None, bias), (weight, bias)]


def as_list(vector):
    return None if vector is None else vector.tolist()


@pytest.mark.parametrize(("format", "rounding", "steps"), NORMS)
def test_layer_norm_is_its_steps(format, rounding, steps):
    extra = [{}, {"centered": "float32"}, {"scaled": "e8m4", "centered": "e8m9"}]
    for length, more in zip((1, 2, 7), extra, strict=True):
        x = finite(rows_for(length, 6, length))
        for weight, bias in parameters(length):
            vectors = {"weight": as_list(weight), "bias": as_list(bias)}
            expected = [
                norm_by_steps(row, format, rounding, **vectors, **steps, **more)
                for row in x.tolist()
            ]
            actual = composed.layer_norm(
                x, format, rounding, weight=weight, bias=bias, **steps, **more
            )
            assert_rows(actual, x, expected, (format, steps, more, vectors))


@pytest.mark.parametrize(("format", "rounding", "steps"), NORMS)
def test_rms_norm_is_its_steps(format, rounding, steps):
    for length in (1, 2, 7):
        x = finite(rows_for(length, 6, length))
        for weight, _ in parameters(length)[:2]:
            expected = [
                norm_by_steps(row, format, rounding, as_list(weight), mean=False, **steps)
                for row in x.tolist()
            ]
            actual = composed.rms_norm(x, format, rounding, weight=weight, **steps)
            assert_rows(actual, x, expected, (format, steps, weight))


def test_squares_of_float64_numbers_are_not_rounded_before_they_are_summed():
    x = 1 + np.random.default_rng(1).integers(1, 2**52, (30, 5)) * 2.0**-52
    steps = {"statistics": "float32", "accumulator": Sequential("float64", "rtp")}
    for norm, mean in ((composed.layer_norm, True), (composed.rms_norm, False)):
        expected = [norm_by_steps(row, "float64", "rtp", mean=mean, **steps) for row in x.tolist()]
        assert_rows(norm(x, "float64", "rtp", **steps), x, expected, norm)


def test_a_tensor_core_squares_the_numbers_themselves():
    # It aligns a product by the sum of its factors' exponents, not by its own.
    core = fpemu.TensorCore(4, 6, inputs="bfloat16")
    x = np.random.default_rng(2).normal(0, 1, (40, 9)).astype(ml_dtypes.bfloat16).astype(np.float32)
    actual = composed.rms_norm(x, "float32", epsilon=0.0, accumulator=core)
    sums = [float(fpemu.dot(row, row, core)) for row in x]
    of_squares = [float(fpemu.dot(row * row, np.ones(9), fpemu.TensorCore(4, 6))) for row in x]
    assert sums != of_squares
    for row, total, result in zip(x.tolist(), sums, actual, strict=True):
        factor = function("rsqrt", operations.divide(total, 9, "float32"), "float32")
        assert_same_bits(result, [operations.multiply(v, factor, "float32") for v in row])


def test_norms_of_rows_with_nan_or_infinity_are_nan():
    x = np.array([[1.0, math.nan, 2.0], [INF, 1.0, -1.0], [3.0, 1.0, -1.0]])
    layer, rms = composed.layer_norm(x, "float16"), composed.rms_norm(x, "float16")
    assert np.isnan(layer[:2]).all()
    assert_same_bits(rms[0], [math.nan] * 3)
    assert_same_bits(rms[1], [math.nan, 0.0, -0.0])
    assert np.isfinite(layer[2]).all()
    with pytest.raises(ValueError, match="float6_e2m3fn has no NaN"):
        composed.layer_norm(x[0], "float6_e2m3fn")


def test_a_constant_row_without_epsilon_is_nan():
    assert np.isnan(composed.layer_norm([2.0, 2.0], "bfloat16", epsilon=0.0)).all()
    assert_same_bits(composed.layer_norm([2.0, 2.0], "bfloat16"), [0.0, 0.0])


# --- arrays ---------------------------------------------------------------------------------------


def operation(name, x, axis=-1, format="bfloat16"):
    if name == "softmax":
        return composed.softmax(x, format, axis=axis)
    weight = np.arange(1, np.shape(x)[axis] + 1, dtype=np.float32)
    return getattr(composed, name)(x, format, axis=axis, weight=weight)


NAMES = ("softmax", "layer_norm", "rms_norm")


@pytest.mark.parametrize("name", NAMES)
def test_every_axis_is_worked_on_alike(name):
    x = np.random.default_rng(3).normal(0, 2, (3, 70, 5)).astype(np.float32)
    for axis in (0, 1, 2):
        moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
        by_rows = [operation(name, row) for row in moved.reshape(-1, moved.shape[-1])]
        expected = np.moveaxis(np.array(by_rows).reshape(moved.shape), -1, axis)
        for same in (axis, axis - 3):
            assert_same_bits(operation(name, x, same), expected, about=same)


@functools.cache
def rows_and_results(name):
    """Rows, and what each gives alone."""
    x = np.random.default_rng(4).normal(0, 2, (200, 3)).astype(np.float32)
    return x, [operation(name, row) for row in x]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 200])
def test_any_number_of_rows(count):
    for name in NAMES:
        x, expected = rows_and_results(name)
        assert_same_bits(operation(name, x[:count]), expected[:count])


@pytest.mark.parametrize("name", NAMES)
def test_layouts_and_types(name):
    x = np.random.default_rng(5).normal(0, 2, (6, 8)).astype(np.float32)
    x = fpemu.round(x, "bfloat16")
    expected = operation(name, x)
    assert expected.dtype == np.float32
    assert operation(name, x.astype(np.float64)).dtype == np.float64
    assert operation(name, x, format="e9m3").dtype == np.float64
    x.flags.writeable = False
    wide = np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)
    for same in (np.asfortranarray(x), wide[::2, ::3], x.astype(ml_dtypes.bfloat16)):
        assert_same_bits(operation(name, same), expected)
    assert_same_bits(operation(name, x.tolist()), expected)
    assert_same_bits(operation(name, x[:, ::-1][:, ::-1].astype(">f4")), expected)
    assert operation(name, np.empty((0, 4))).shape == (0, 4)
    assert operation(name, np.empty((4, 0, 3)), 0).shape == (4, 0, 3)


def test_parameters_widen_the_result():
    x = np.ones((2, 2), np.float32)
    wide, narrow = np.ones(2), np.ones(2, np.float32)
    assert composed.layer_norm(x, "float16", weight=narrow, bias=wide).dtype == np.float64
    assert composed.layer_norm(x, "float16", weight=wide).dtype == np.float64
    assert composed.layer_norm(x, "float16", weight=narrow, bias=narrow).dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_checked(name):
    f = getattr(composed, name)
    with pytest.raises(ValueError, match=r"axis 1 of x is empty.*\(2, 0\)"):
        f(np.empty((2, 0)), "float16", axis=1)
    for x in (np.empty((2, 3)), 1.0):
        with pytest.raises(ValueError, match="axis 2 is out of bounds"):
            f(x, "float16", axis=2)
    with pytest.raises(TypeError, match=r"accumulator .*'float16'"):
        f([1.0], "float16", accumulator="float16")
    with pytest.raises(TypeError, match="real numbers"):
        f([1j], "float16")
    function_name, step = ("exp", "exponential") if name == "softmax" else ("rsqrt", "statistics")
    with pytest.raises(ValueError, match=f"{function_name} .*24.*{step} is float64.*53.*{step}='"):
        f([1.0], "float64")
    with pytest.raises(ValueError, match=f"{step} is e11m24.*25"):
        f([1.0], "float16", **{step: "e11m24"})


@pytest.mark.parametrize("f", [composed.layer_norm, composed.rms_norm])
def test_parameters_of_norms_are_checked(f):
    for epsilon in (-1e-5, math.nan, INF):
        with pytest.raises(ValueError, match="epsilon must be a nonnegative number"):
            f([1.0], "float16", epsilon=epsilon)
    for shape in ((3,), (1, 2), ()):
        with pytest.raises(ValueError, match=r"weight must have shape \(2,\)"):
            f([1.0, 2.0], "float16", weight=np.ones(shape))
    with pytest.raises(ValueError, match=r"bias must have shape \(2,\), not \(1,\)"):
        composed.layer_norm([1.0, 2.0], "float16", bias=[1.0])


def test_every_step_of_a_stochastic_softmax_draws_apart():
    x = np.random.default_rng(8).normal(0, 2, (40, 9))
    rounding = Rounding("sr", seed=3)
    d = fpemu.subtract(x, x.max(1, keepdims=True), "bfloat16", rounding.derived("difference"))
    e = functions.exp(d, "bfloat16", rounding.derived("exponential"))
    accumulator = fpemu.Sequential("float32")
    sums = fpemu.matmul(e, np.ones(9), accumulator)[:, None]
    expected = fpemu.divide(e, sums, "bfloat16", rounding.derived("quotient"))
    actual = functions.softmax(x, "bfloat16", rounding, accumulator=accumulator)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_draws_again_and_another_one_others(name):
    f = getattr(functions, name)
    x = np.random.default_rng(9).normal(0, 2, (40, 9))
    first, again, other = (f(x, "bfloat16", Rounding("sr", seed=seed)) for seed in (1, 1, 2))
    assert_same_bits(first, again)
    assert (first != other).any()
    nearest = f(x, "bfloat16", accumulator=fpemu.Sequential("float32"))
    assert np.abs(first - nearest).max() < 0.2
