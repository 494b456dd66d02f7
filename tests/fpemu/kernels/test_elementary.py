"""The float64 elementary functions against MPFR, within the errors they state."""

import operator

import gmpy2
import numpy as np
import pytest

from fpemu._kernels import caching, elementary
from tests.oracle.compiling import called_of_the_library, object_code

UNIT = 2.0**-53


def _over(x):
    out = np.empty_like(x)
    for i in range(x.size):
        out[i] = function(x[i])  # noqa: F821 - given below
    return out


def compiled(function):
    return caching.specialized(_over, function.py_func.__name__, function=function)


def exact_sigmoid(x):
    return 1 / (1 + gmpy2.exp(-x))


# name: exact function, error in units, range of arguments
FUNCTIONS = {
    "exp": (gmpy2.exp, 1.5, (-700.0, 709.0)),
    "expm1": (gmpy2.expm1, 4, (-60.0, 709.0)),
    "log": (gmpy2.log, 2, (0.0, 1e308)),
    "tanh": (gmpy2.tanh, 8, (-25.0, 25.0)),
    "sigmoid": (exact_sigmoid, 4, (-700.0, 700.0)),
    "erf": (gmpy2.erf, 16, (-6.5, 6.5)),
    "erfc": (gmpy2.erfc, 64, (-6.5, 26.0)),
}


def many_bits():
    """A context in which errors are far below those that are looked for."""
    return gmpy2.context(precision=160, emin=-(10**6), emax=10**6)


def arguments(low, high):
    rng = np.random.default_rng(0)
    scales = 2.0 ** rng.uniform(-60, 10, 6000)
    x = np.concatenate(
        [
            rng.uniform(low, high, 4000) if high < 1e300 else 2.0 ** rng.uniform(-1074, 1024, 4000),
            scales,
            -scales,
            1 + 2.0 ** rng.uniform(-52, -1, 1000),
            1 - 2.0 ** rng.uniform(-53, -1, 1000),
            # The ends of the reduced range, where the polynomials are at their worst.
            (np.arange(-40, 41) + 0.5) * np.log(2),
            np.arange(-40, 41) * np.log(2),
            np.sqrt(2.0) * (1 + np.arange(-5, 6) * 2.0**-52),
            np.sqrt(0.5) * (1 + np.arange(-5, 6) * 2.0**-52),
        ]
    )
    return x[(x >= low) & (x <= high) & (x != 0)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_is_what_the_function_states(name):
    exact, units, (low, high) = FUNCTIONS[name]
    x = arguments(low, high)
    assert len(x) > 5000
    values = compiled(getattr(elementary, name))(x)
    with many_bits():
        given = map(gmpy2.mpfr, x.tolist())
        ratios = map(operator.truediv, values.tolist(), map(exact, given))
        worst = max(abs(ratio - 1) for ratio in ratios)
    assert worst < units * UNIT, f"{float(worst) / UNIT} units"


def test_exp_underflows_gradually():
    x = np.linspace(-745.5, -708.0, 3000)
    values = compiled(elementary.exp)(x)
    with many_bits():
        exact = np.array([float(gmpy2.exp(gmpy2.mpfr(a))) for a in x.tolist()])
    np.testing.assert_allclose(values, exact, rtol=2 * UNIT, atol=2.0**-1074)


EXP_EXPECTED = [1, 1, np.inf, 0, np.inf, 0, np.inf]
LOG_EXPECTED = [0, -np.inf, -np.inf, np.inf, np.nan, np.nan]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("exp", [0.0, -0.0, np.inf, -np.inf, 710.0, -746.0, 1e300], EXP_EXPECTED),
        ("expm1", [0.0, np.inf, -np.inf, 800.0, -1e9], [0, np.inf, -1, np.inf, -1]),
        ("log", [1.0, 0.0, -0.0, np.inf, -1.0, -np.inf], LOG_EXPECTED),
        ("tanh", [0.0, np.inf, -np.inf, 100.0], [0, 1, -1, 1]),
        ("sigmoid", [0.0, np.inf, -np.inf, -800.0], [0.5, 1, 0, 0]),
        ("erf", [0.0, np.inf, -np.inf, 7.0], [0, 1, -1, 1]),
        ("erfc", [0.0, np.inf, -np.inf, -7.0, 30.0], [1, 0, 2, 2, 0]),
    ],
)  # fmt: skip
def test_special_arguments(name, given, expected):
    function = compiled(getattr(elementary, name))
    np.testing.assert_array_equal(function(np.array(given)), np.array(expected, float))
    assert np.isnan(function(np.array([np.nan]))[0])


@pytest.mark.parametrize("name", ["expm1", "tanh", "erf"])
def test_odd_functions_keep_the_sign_of_zero(name):
    values = compiled(getattr(elementary, name))(np.array([0.0, -0.0]))
    np.testing.assert_array_equal(np.signbit(values), [False, True])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_call_to_a_mathematical_library_is_compiled(name):
    kernel = compiled(getattr(elementary, name))
    kernel(np.ones(1))
    assert b"_over" in object_code(kernel)
    assert called_of_the_library(kernel) == []
