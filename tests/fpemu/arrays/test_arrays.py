"""Ordinary numpy code on emulated arrays, against the same algorithm rounded step by step."""

import copy
import math
import operator
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

import fpemu
from fpemu import devices, functions
from fpemu.arrays import protocol as array_functions
from fpemu.reference import function, round_exact
from tests.cases import for_each
from tests.oracle.bits import assert_same_bits
from tests.threads import on_threads

FORMATS = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "e5m7", "float32")
MODES = ("rne", "rtz", "rtp", "rto")
GENERATOR = np.random.default_rng(1)


class Stepwise:
    """Exact arithmetic on rationals, every result rounded: the same as one element of an Array."""

    def __init__(self, x, format, mode):
        self.format, self.mode = format, mode
        self.x = Fraction(round_exact(x, format, mode)) if x else Fraction(0)

    def of(self, x):
        return Stepwise(x, self.format, self.mode)

    def other(self, y):
        return y.x if isinstance(y, Stepwise) else self.of(Fraction(y)).x

    def __add__(self, y):
        return self.of(self.x + self.other(y))

    def __sub__(self, y):
        return self.of(self.x - self.other(y))

    def __mul__(self, y):
        return self.of(self.x * self.other(y))

    def __truediv__(self, y):
        return self.of(self.x / self.other(y))

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, y):
        return self.of(self.other(y) - self.x)

    def __rtruediv__(self, y):
        return self.of(self.other(y) / self.x)


def stepwise(values, format, mode="rne"):
    return [Stepwise(Fraction(x), format, mode) for x in np.ravel(values).tolist()]


def values_of(numbers):
    return [float(number.x) for number in numbers]


def ordinary(format, count=12):
    return fpemu.round(GENERATOR.uniform(0.5, 3, count), format)


# Algorithms, written once, run on arrays and on single numbers


def newton(a, x):
    for _ in range(5):
        x = (x + a / x) / 2
    return x


def horner(x):
    result = x * 0.3 + 1.7
    for coefficient in (-0.2, 1.1, 0.05):
        result = result * x + coefficient
    return result


def logistic_map(x):
    for _ in range(8):
        x = 2.9 * x * (1 - x)
    return x


@for_each("mode", MODES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("algorithm", [horner, logistic_map])
def test_an_algorithm_runs_as_if_rounded_step_by_step(algorithm, format, mode):
    x = ordinary(format) / 4
    x = fpemu.round(x, format, mode)
    actual = algorithm(fpemu.array(x, format, mode))
    expected = [algorithm(number) for number in stepwise(x, format, mode)]
    assert_same_bits(actual.values + 0.0, values_of(expected))


@pytest.mark.parametrize("format", FORMATS)
def test_newtons_iteration(format):
    x = ordinary(format)
    actual = newton(fpemu.array(x, format), fpemu.array(np.ones(x.size), format))
    expected = [newton(a, a.of(1)) for a in stepwise(x, format)]
    assert_same_bits(actual.values, values_of(expected))


@pytest.mark.parametrize("format", ["bfloat16", "float16", "float8_e5m2"])
def test_gaussian_elimination(format):
    def eliminate(matrix, size):
        for k in range(size - 1):
            for i in range(k + 1, size):
                factor = matrix[i][k] / matrix[k][k]
                for j in range(size):
                    matrix[i][j] = matrix[i][j] - factor * matrix[k][j]
        return matrix

    size = 4
    a = fpemu.round(GENERATOR.uniform(1, 2, (size, size)) + 4 * np.eye(size), format)
    rows = [stepwise(row, format) for row in a]
    x = fpemu.array(a, format)
    for k in range(size - 1):
        factors = x[k + 1 :, k] / x[k, k]
        x[k + 1 :] = x[k + 1 :] - np.outer(factors, x[k])
    expected = [values_of(row) for row in eliminate(rows, size)]
    assert_same_bits(x.values + 0.0, expected)


@pytest.mark.parametrize("format", ["bfloat16", "float16", "e5m7"])
def test_softmax_written_in_numpy(format):
    x = fpemu.round(GENERATOR.normal(0, 2, 9), format)
    y = fpemu.array(x, format)
    e = np.exp(y - np.max(y))
    z = e / e.sum()
    largest = max(stepwise(x, format), key=lambda number: number.x)
    powers = [
        largest.of(Fraction(function("exp", float((number - largest).x), format)))
        for number in stepwise(x, format)
    ]
    total = largest.of(0)
    for power in powers:
        total = total + power
    assert_same_bits(z.values, values_of(power / total for power in powers))


def test_power_iteration_with_an_accumulator():
    matrix = fpemu.round(GENERATOR.normal(size=(6, 6)), "bfloat16")
    accumulator = fpemu.Blocked("bfloat16", 2, "float32")
    x = fpemu.array(np.ones(6), "bfloat16", accumulator=accumulator)
    a, plain = fpemu.array(matrix, "bfloat16"), np.ones(6)
    for _ in range(4):
        x = a @ x
        x = x / np.max(np.abs(x))
        plain = fpemu.matmul(matrix, plain, accumulator)
        plain = fpemu.divide(plain, np.max(np.abs(plain)), "bfloat16")
    assert_same_bits(x.values, plain)


# Every function


@pytest.mark.parametrize(
    "ufunc", [u for u in array_functions._ROUNDED if u.nin == 1], ids=lambda u: u.__name__
)
@pytest.mark.parametrize("mode", ["rne", "rtp"])
def test_functions_of_one_number_are_correctly_rounded(ufunc, mode):
    x = fpemu.round(GENERATOR.uniform(0.1, 3, 50), "bfloat16")
    actual = ufunc(fpemu.array(x, "bfloat16", mode))
    if ufunc is np.square:
        expected = [round_exact(Fraction(v) ** 2, "bfloat16", mode) for v in x.tolist()]
    else:
        expected = [function(ufunc.__name__, v, "bfloat16", mode) for v in x.tolist()]
    assert_same_bits(actual.values, expected)


@pytest.mark.parametrize("ufunc", sorted(array_functions._EXACT, key=str), ids=lambda u: u.__name__)
def test_what_selects_or_cuts_is_exact(ufunc):
    x, y = fpemu.round(GENERATOR.normal(0, 3, (2, 40)), "float8_e4m3fn")
    operands = (x, y)[: ufunc.nin]
    actual = ufunc(*(fpemu.array(operand, "float8_e4m3fn") for operand in operands))
    assert isinstance(actual, fpemu.Array)
    assert_same_bits(actual.values, ufunc(*operands))


def test_negatives_of_formats_without_a_sign_or_a_negative_zero():
    assert_same_bits((-fpemu.array([0.0, 1.0], "float8_e4m3fnuz")).values, [0.0, -1.0])
    assert np.isnan(-fpemu.array([1.0], "float8_e8m0fnu")).all()


@pytest.mark.parametrize("ufunc", sorted(array_functions._PLAIN, key=str), ids=lambda u: u.__name__)
def test_comparisons_and_tests_give_plain_arrays(ufunc):
    x, y = np.array([[1.0, 2.0, -0.0, np.inf, np.nan], [2.0, 2.0, 0.0, np.inf, 1.0]])
    operands = (x, y)[: ufunc.nin]
    actual = ufunc(*(fpemu.array(operand, "float16") for operand in operands))
    assert type(actual) is np.ndarray
    np.testing.assert_array_equal(actual, ufunc(*operands))


def test_sums_go_in_index_order_along_any_axes():
    x = fpemu.round(GENERATOR.uniform(0, 1, (3, 4, 5)), "float8_e4m3fn")
    y = fpemu.array(x, "float8_e4m3fn")

    def running(terms):
        total = 0.0
        for term in terms:
            total = round_exact(Fraction(total) + Fraction(term), "float8_e4m3fn")
        return total

    assert_same_bits(y.sum().values, running(x.ravel().tolist()))
    assert_same_bits(
        np.sum(y, axis=1).values,
        [[running(x[i, :, j].tolist()) for j in range(5)] for i in range(3)],
    )
    assert_same_bits(
        y.sum(axis=(0, 2), keepdims=True).values.ravel(),
        [running(x[:, j, :].ravel().tolist()) for j in range(4)],
    )
    assert_same_bits(np.add.reduce(y).values, y.sum(axis=0).values)
    assert y.sum(axis=(0, 2), keepdims=True).shape == (1, 4, 1)
    partial = np.cumsum(y, axis=2)
    assert_same_bits(partial.values[1, 2], [running(x[1, 2, :n].tolist()) for n in range(1, 6)])
    assert_same_bits(np.add.accumulate(y, 2).values, partial.values)


def test_means_norms_and_products():
    x = fpemu.round(GENERATOR.uniform(0.5, 2, (2, 7)), "bfloat16")
    y = fpemu.array(x, "bfloat16")
    expected = [
        round_exact(Fraction(float(total)) / 7, "bfloat16") for total in y.sum(axis=1).values
    ]
    assert_same_bits(np.mean(y, axis=1).values, expected)
    squares = fpemu.dot(x[0], x[0], fpemu.Sequential("bfloat16"))
    assert_same_bits(np.linalg.norm(y[0]).values, function("sqrt", float(squares), "bfloat16"))
    product = 1.0
    for number in x[1].tolist():
        product = round_exact(Fraction(product) * Fraction(number), "bfloat16")
    assert_same_bits(y.prod(axis=1).values[1], product)
    assert_same_bits(np.cumprod(y[1]).values[-1], product)
    assert_same_bits(np.multiply.reduce(y, axis=1).values[1], product)


def test_one_number_is_printed_as_a_float_is():
    x = fpemu.array([3.14159, -0.0], "bfloat16")
    assert f"{x[0]:.3f} {x[1]:+} {x[0]}" == f"{3.140625:.3f} -0.0 3.140625"
    assert f"{x}" == str(x)
    with pytest.raises(TypeError, match="unsupported format string"):
        f"{x:.3f}"


@pytest.mark.parametrize("take", ["tensor", "as_tensor", "asarray", "from_dlpack"])
def test_pytorch_takes_the_numbers_of_an_array(take):
    torch = pytest.importorskip("torch")
    x = fpemu.array([[0.1, 2.0], [3.0, 4.0]], "bfloat16")
    taken = getattr(torch, take)(x)
    assert taken.dtype == torch.float32
    assert_same_bits(taken.numpy(), x.values)


def test_joining_choosing_and_moving():
    x = fpemu.array([[1.0, 2.5], [3.0, -4.0]], "float16")
    assert_same_bits(np.concatenate([x, np.array([[0.1, 7.0]])]).values[2], np.float16([0.1, 7]))
    assert_same_bits(np.where(x.values > 0, x, 0.1).values, [[1, 2.5], [3, np.float16(0.1)]])
    assert_same_bits(np.clip(x, 0.1, 2.7).values, np.clip(x.values, *np.float16([0.1, 2.7])))
    assert_same_bits(np.stack([x, x]).values, np.stack([x.values] * 2))
    assert_same_bits(np.sort(x, axis=None).values, [-4, 1, 2.5, 3])
    assert [part.tolist() for part in np.split(x, 2)] == [[[1, 2.5]], [[3, -4]]]
    assert np.argmax(x) == 2
    assert np.array_equal(x.T.T, x)
    assert np.zeros_like(x).tolist() == [[0, 0], [0, 0]]
    assert np.full_like(x, 0.1).values[0, 0] == np.float16(0.1)
    assert_same_bits(np.max(x, axis=0).values, [3, 2.5])
    assert_same_bits(np.minimum.reduce(x).values, [1, -4])
    for moved in (np.reshape(x, 4), x.reshape(4), x.ravel(), np.ravel(x)):
        assert isinstance(moved, fpemu.Array)
        assert moved.tolist() == [1, 2.5, 3, -4]
    assert np.transpose(x).tolist() == x.transpose().tolist() == [[1, 3], [2.5, -4]]


# The array as a thing


def test_plain_operands_are_rounded_first():
    x = fpemu.array([1.0], "float8_e4m3fn")
    assert (x * 0.3).item() == 0.3125
    assert (0.3 * x).item() == 0.3125
    assert (np.array([0.3]) + x).item() == round_exact(Fraction(1.3125), "float8_e4m3fn")
    assert (x + 0.3).format == fpemu.format("float8_e4m3fn")


def test_an_element_stays_emulated():
    x = fpemu.array([1.0, 2.0**-9], "bfloat16")
    assert isinstance(x[0], fpemu.Array)
    assert (x[0] + x[1]).item() == 1.0
    assert [number.item() for number in x] == [1.0, 2.0**-9]
    assert (float(x[0]), int(x[0]), bool(x[1])) == (1.0, 1, True)
    assert x[x > 0.5].tolist() == [1.0]


def test_assignments_round_and_keep_the_format():
    x = fpemu.array(np.zeros(3), "float8_e4m3fn")
    x[0], x[1:] = 0.3, fpemu.array([1.0, 2.0], "float8_e4m3fn")
    assert x.tolist() == [0.3125, 1.0, 2.0]
    before = x
    x += 0.3
    assert x is before
    assert x.tolist() == (fpemu.array([0.3125, 1.0, 2.0], "float8_e4m3fn") + 0.3).tolist()
    with pytest.raises(TypeError, match="bfloat16"):
        x[0] = fpemu.array(1.0, "bfloat16")


def test_out_takes_results_of_its_own_format():
    x = fpemu.array([1.0, 3.0], "float16")
    out = np.zeros_like(x)
    assert np.divide(1.0, x, out=out) is out
    assert out.tolist() == (1.0 / x).tolist()
    flags = np.empty(2, bool)
    assert np.isnan(x, out=flags) is flags
    assert not flags.any()
    with pytest.raises(TypeError, match="out is in bfloat16, but the result is in float16"):
        np.add(x, x, out=fpemu.array([0.0, 0.0], "bfloat16"))
    with pytest.raises(TypeError, match="out must be an Array"):
        np.add(x, x, out=np.zeros(2))
    with pytest.raises(ValueError, match="shape"):
        np.add(x, x, out=fpemu.array([0.0], "float16"))


def test_what_is_shown():
    x = fpemu.array([0.3, 2.75], "float8_e4m3fn")
    assert repr(x) == "array([0.3125, 2.75  ], format=float8_e4m3fn)"
    assert repr(fpemu.array(1, "e5m7", "rtz")) == "array(1., format=e5m7, rounding=rtz)"
    assert str(x) == "[0.3125 2.75  ]"
    assert (x.shape, x.ndim, x.size, len(x), x.dtype) == ((2,), 1, 2, 2, np.float32)
    assert fpemu.array(1, "float64").dtype == np.float64


def test_copies_pickles_and_conversions():
    x = fpemu.array([1.1, 2.2], "bfloat16", "rtz", accumulator=fpemu.Pairwise("float32"))
    for twin in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert_same_bits(twin.values, x.values)
        assert (twin.format, twin.rounding, twin.accumulator) == (
            x.format,
            x.rounding,
            x.accumulator,
        )
    y = x.copy()
    y[0] = 5
    assert x[0].item() != 5
    narrow = x.astype("float8_e5m2")
    assert (narrow.format.name, narrow.rounding.mode) == ("float8_e5m2", "rtz")
    assert_same_bits(narrow.values, fpemu.round(x.values, "float8_e5m2", "rtz"))
    assert type(x.astype(np.float64)) is np.ndarray
    assert type(np.asarray(x)) is np.ndarray
    assert fpemu.add(x, 1.0, "float16").tolist() == fpemu.add(x.values, 1.0, "float16").tolist()
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)


def test_inputs_are_never_modified():
    x = np.array([0.3, 0.7])
    y = fpemu.array(x, "float8_e4m3fn")
    held = y.values.copy()
    _ = (-y, y + y, np.sort(y), np.exp(y), y.sum(), y @ y, np.clip(y, 0, 1))
    assert x.tolist() == [0.3, 0.7]
    assert_same_bits(y.values, held)


# Errors


def test_formats_roundings_and_accumulators_do_not_mix():
    x = fpemu.array([1.0], "bfloat16")
    for other, message in (
        (fpemu.array([1.0], "float16"), "in bfloat16 and float16: name the format of the result"),
        (fpemu.array([1.0], "bfloat16", "rtz"), "roundings 'rne' and 'rtz'"),
    ):
        for call in (np.add, np.maximum, np.matmul, np.equal, lambda a, b: np.concatenate([a, b])):
            with pytest.raises(TypeError, match=message):
                call(x, other)
    first = fpemu.array([1.0], "bfloat16", accumulator=fpemu.Pairwise("bfloat16"))
    second = fpemu.array([1.0], "bfloat16", accumulator=fpemu.Exact("bfloat16"))
    with pytest.raises(TypeError, match=r"accumulators (pairwise|exact)"):
        first @ second
    assert (first + x).accumulator == first.accumulator


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (np.sin, "numpy.sin is not emulated"),
        (np.var, "numpy.var is not emulated"),
        (np.linalg.inv, "numpy.linalg.inv is not emulated"),
        (lambda x: np.einsum("i->", x), "numpy.einsum is not emulated"),
        (lambda x: x**3, "exponent 2 alone"),
        (lambda x: x // 2, "floor_divide is not emulated"),
        (lambda x: np.add(x, 1, where=[True, False]), "where= is not emulated"),
        (lambda x: np.sum(x, dtype=np.float64), "dtype= is not emulated"),
        (lambda x: np.add.reduceat(x, [0]), "add.reduceat is not emulated"),
        (lambda x: np.divide.reduce(x), "divide.reduce is not emulated"),
        (lambda x: np.linalg.norm(x, 1), "2-norm of vectors alone"),
    ],
)
def test_what_is_not_emulated_says_so(call, message):
    with pytest.raises(TypeError, match=message):
        call(fpemu.array([1.0, 2.0], "bfloat16"))


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="unknown format 'float7'"):
        fpemu.array([1.0], "float7")
    with pytest.raises(TypeError, match=r"must be an accumulator such as .*, not 32"):
        fpemu.array([1.0], "bfloat16", accumulator=32)
    with pytest.raises(ValueError, match="NaN at index 1"):
        fpemu.array([1.0, math.nan], "float4_e2m1fn")
    with pytest.raises(TypeError, match="real numbers"):
        fpemu.array(["a"], "bfloat16")
    with pytest.raises(ValueError, match="no mean"):
        fpemu.array([], "bfloat16").mean()


# Plain numbers that are not members


@for_each(
    "format, value, constant",
    [
        ("float8_e4m3fn", 448.0, np.inf),
        ("float8_e4m3fn", 448.0, 1000),
        ("float8_e4m3fn", 448.0, -1e30),
        ("float4_e2m1fn", 6.0, 100),
        ("float4_e2m1fn", 6.0, np.nan),
        ("float4_e2m1fn", 0.0, 0.01),
        ("bfloat16", 1.0, 1 + 2**-30),
        ("float32", 2.0**24, 2**24 + 1),
        ("float64", 2.0**53, 2**53 + 1),
        ("float64", 2.0**62, np.int64(2**62 + 1)),
        ("float64", 2.0**70, 2**70 + 1),
    ],
)
@for_each("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_constants_are_compared_as_they_are(name, format, value, constant):
    compare = getattr(operator, name)  # Python compares integers and floats exactly
    of_python = constant.item() if isinstance(constant, np.generic) else constant
    found = compare(fpemu.array([value], format), constant)
    assert found.dtype == bool
    assert found.tolist() == [compare(value, of_python)]
    found = compare(constant, fpemu.array(value, format))
    assert found == compare(of_python, value)


def test_a_constant_that_would_round_to_zero_is_true():
    assert np.logical_and(fpemu.array([1.0], "float4_e2m1fn"), 0.01).tolist() == [True]
    with pytest.raises(TypeError, match="real numbers"):
        np.less(fpemu.array([1.0], "bfloat16"), "a")


def test_bounds_beyond_a_format_cut_nothing_off():
    x = fpemu.array([448.0, -448.0, 0.5], "float8_e4m3fn")
    assert np.clip(x, 0, 1000).tolist() == x.clip(0, 1000).tolist() == [448.0, 0.0, 0.5]
    assert np.clip(x, min=-np.inf, max=0.3).tolist() == [0.3125, -448.0, 0.3125]
    assert np.minimum(x, np.inf).tolist() == np.maximum(-1e30, x).tolist() == x.tolist()
    assert np.isnan(np.maximum(x, 1000).values).all()  # what does not fit overflows as usual
    narrow = fpemu.array([6.0, -1.0], "float4_e2m1fn")
    assert np.clip(narrow, -np.inf, np.inf).tolist() == [6.0, -1.0]
    with pytest.raises(ValueError, match="not both"):
        np.clip(narrow, 0, 1, max=2)
    assert np.clip(narrow, np.array([-5.0, -0.5]), np.array([4, 4])).tolist() == [4.0, -0.5]
    assert np.clip(narrow, min=narrow[1], max=np.array([2.0, 3.0])).tolist() == [2.0, -1.0]
    assert np.clip(5.0, a_min=narrow, a_max=None).tolist() == [6.0, 4.0]
    out = np.zeros_like(narrow)
    assert np.clip(narrow, 0, None, out=out) is out
    assert out.tolist() == [6.0, 0.0]


def test_powers_broadcast():
    x = fpemu.array([1.0, 2.0, 3.0], "bfloat16")
    assert (x ** np.full((2, 1), 2)).tolist() == [[1.0, 4.0, 9.0]] * 2
    assert (x ** fpemu.array([2.0], "bfloat16")).tolist() == [1.0, 4.0, 9.0]
    assert (x ** np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(TypeError, match="exponent 2 alone"):
        x ** (2 + 2**-30)


def test_an_accumulator_that_was_given_stays():
    given = fpemu.Pairwise("float32")
    x = fpemu.array([1.0, 2.0], "bfloat16", accumulator=given)
    assert x.astype("float16").accumulator == given
    assert x.astype("float16", "rtz").accumulator == given
    plain = fpemu.array([1.0], "bfloat16").astype("float16")
    assert plain.accumulator == fpemu.Sequential("float16")


def test_units_take_of_arrays_what_they_take_of_matmul():
    unit = devices.get("hopper.wgmma.bfloat16")
    fine = fpemu.array([1.0, 2.0], "bfloat16", accumulator=unit)
    assert fine.sum().item() == (fine @ fine - 2).item() == 3.0
    x = fpemu.array([1.0 + 2.0**-20, 2.0], "float32", accumulator=unit)
    with pytest.raises(ValueError, match="not a member"):
        fpemu.matmul(x.values, x.values, unit)
    for call in (np.sum, np.mean, np.linalg.norm, lambda x: x @ x, lambda x: x.dot(x)):
        with pytest.raises(ValueError, match=r"takes members of bfloat16, and 1\.0000.* is none"):
            call(x)


# Stochastic rounding


def test_draws_of_different_operations_are_independent_and_repeatable():
    rounding = fpemu.Rounding("sr", seed=5)

    def program():
        x = fpemu.array(np.full(2000, 1.125), "float8_e4m3fn", rounding)
        once = x + 0.03
        return once, once + 0.03, x * x, np.exp(x)

    first, second = program(), program()
    for a, b in zip(first, second, strict=True):
        assert_same_bits(a.values, b.values)
    ups = [(a.values > a.values.min()).astype(float) for a in (first[0], first[2], first[3])]
    correlations = np.corrcoef(ups) - np.eye(3)
    assert (abs(correlations) < 0.1).all()
    assert 0 < ups[0].mean() < 1
    assert abs(first[1].values.astype(float).mean() - (1.125 + 2 * 0.03)) < 0.02


def stochastic(x, **options):
    return fpemu.array(x, "float8_e4m3fn", fpemu.Rounding("sr", seed=5), **options)


PROGRAMS = {
    "elements in a loop": lambda y: [(y[i] * y[i]).item() for i in range(len(y))],
    "one element again": lambda y: [(y[0] * y[0]).item() for _ in range(400)],
    "iteration": lambda y: [(x * x).item() for x in y],
    "two parts": lambda y: np.concatenate([y[:200] * y[:200], y[200:] * y[200:]]).tolist(),
    "an operation again": lambda y: [*np.square(y[:200]).tolist(), *np.square(y[:200]).tolist()],
    "rows of a stack": lambda y: [row.sum().item() for row in (y.reshape(200, 2) * 0.5 + 0.01)],
    "sums in a loop": lambda y: [y[i : i + 3].sum().item() for i in range(397)],
    "products in a loop": lambda y: [(y[i : i + 3] @ y[i : i + 3]).item() for i in range(397)],
    "scans in a loop": lambda y: [y[i : i + 3].cumsum()[2].item() for i in range(397)],
    "conversions": lambda y: [y[i].astype("float4_e2m1fn").item() for i in range(400)],
    "reductions": lambda y: [np.multiply.reduce(y[i : i + 3]).item() for i in range(397)],
    "assignments": lambda y: [y.__setitem__(i, 1.03) or y[i].item() for i in range(400)],
    "constants": lambda y: [np.where([True], 1.03, y[i]).item() for i in range(400)],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_operation_draws_by_itself(name):
    """Of 400 draws no half, and no half against the other, is one-sided; nor is a lag."""
    first = np.array(PROGRAMS[name](stochastic(np.full(400, 1.125))))
    second = np.array(PROGRAMS[name](stochastic(np.full(400, 1.125))))
    assert_same_bits(first, second)
    up = first > first.min()
    assert 4 < up.sum() < len(up) - 4
    half = len(up) // 2
    for a, b in ((up[:half], up[half : 2 * half]), (up[1:], up[:-1])):
        assert a.any()
        assert b.any()
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.3


def test_the_same_bits_on_any_number_of_threads():
    def program():
        y = stochastic(np.linspace(0.5, 3, 40000).reshape(200, 200))
        return ((y * y + 0.1) @ y).values

    whole = program()
    for count in (1, 3):
        with on_threads(count):
            assert_same_bits(program(), whole)


def test_random_bits_of_an_accumulator_are_drawn_by_operation():
    sums = fpemu.Sequential("float8_e4m3fn", fpemu.Rounding("sr", seed=1))
    y = fpemu.array([1.0, 0.03], "float8_e4m3fn", accumulator=sums)
    assert y.accumulator == sums
    assert len({y.sum().item() for _ in range(60)}) == 2


def test_a_copy_goes_on_from_the_same_number():
    y = stochastic(np.full(300, 1.125))
    _ = y * y
    twin, sharing = pickle.loads(pickle.dumps(y)), y.copy()
    expected = (twin * twin).values
    assert_same_bits(np.multiply(*[copy.deepcopy(y)] * 2).values, expected)
    assert_same_bits((sharing * sharing).values, expected)
    assert ((y * y).values != expected).any()  # the copy has counted for both


@given(
    st.data(),
    hypothesis_numpy.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4),
)
def test_operations_broadcast_as_numpy_does(data, shapes):
    a, b = (
        data.draw(hypothesis_numpy.arrays(np.float64, shape, elements=st.floats(-8, 8, width=16)))
        for shape in shapes.input_shapes
    )
    actual = fpemu.array(a, "bfloat16") + fpemu.array(b, "bfloat16")
    expected = fpemu.add(fpemu.round(a, "bfloat16"), fpemu.round(b, "bfloat16"), "bfloat16")
    assert actual.shape == shapes.result_shape
    assert_same_bits(actual.values, expected)


def test_functions_of_formats_beyond_24_bits_are_an_error():
    with pytest.raises(ValueError, match="24 significand"):
        np.exp(fpemu.array([1.0], "float64"))
    assert functions.exp(1.0, "float32") == np.float32(math.e)


def test_what_is_not_emulated_of_a_function_is_named():
    x = fpemu.array([1.0, 2.0], "bfloat16")
    with pytest.raises(TypeError, match=r"numpy.sum is emulated without this: .*'initial'"):
        np.sum(x, initial=5.0)
    for call in (
        lambda: np.add(1.0, 2.0, out=x[0]),
        lambda: np.add.reduce(np.ones(2), out=x[0]),
        lambda: np.multiply.accumulate(np.ones(2), out=x),
    ):
        with pytest.raises(TypeError, match="of plain numbers has no format"):
            call()
