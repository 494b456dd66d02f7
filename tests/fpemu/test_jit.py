"""Scalar functions for users' kernels: the same bits as the array functions, anywhere."""

import functools
import math

import mpmath
import numba
import numpy as np
import pytest

import fpemu
from fpemu._kernels import arithmetic, array_rounding, enclosures, rounding, scalars
from tests.oracle.bits import assert_same_bits
from tests.oracle.points import MODES, SOME_MODES

EDGES = [
    *(0.0, -0.0, 5e-324, -5e-324, 2.0**-1022, 2.0**-149, 2.0**-133, 2.0**-24, 2.0**-14),
    *(1 / 3, 1.0, -1.0, 1 + 2.0**-52, 1 + 2.0**-8, 1 + 2.0**-9 + 2.0**-60, 3.0, -448.0, 464.0),
    *(65504.0, 65520.0, 1e30, 3.4e38, 1e300, -1.7976931348623157e308, np.inf, -np.inf, np.nan),
]
# The formats take the quick way (precision at most 51), a flushing one, and the integer way.
FORMATS = (
    "bfloat16",
    "float8_e4m3fn",
    "float64",
    fpemu.Format("flushing", 16, 8, 127, subnormals=False),
)
MAKERS = {
    "rounder": (fpemu.round, 1),
    "square_root": (fpemu.sqrt, 1),
    "adder": (fpemu.add, 2),
    "subtractor": (fpemu.subtract, 2),
    "multiplier": (fpemu.multiply, 2),
    "divider": (fpemu.divide, 2),
    "fma": (fpemu.fma, 3),
}


def operands_of(count):
    """Edges in all combinations of two, and cancelling third operands."""
    edges = np.array(EDGES)
    if count == 1:
        return (edges,)
    a, b = (side.ravel() for side in np.meshgrid(edges, edges))
    with np.errstate(all="ignore"):
        c = np.where(np.arange(a.size) % 3 == 0, -(a * b), np.roll(a, 11))
    return (a, b, c)[:count]


@pytest.mark.parametrize("maker", MAKERS)
def test_every_function_is_its_array_function(maker):
    array_function, count = MAKERS[maker]
    operands = operands_of(count)
    # Compiling is what takes time here: rounding has every mode, and two in every format; the
    # operations hand theirs on to it.
    if maker == "rounder":
        cases = [("bfloat16", mode) for mode in MODES]
        cases += [(format, mode) for format in FORMATS[1:] for mode in ("rne", "rtn")]
    else:
        cases = [("bfloat16", mode) for mode in SOME_MODES]
        cases += zip(FORMATS[1:], ("rne", "rtn", "rto"), strict=True)
    cases += [("float8_e4m3fn", fpemu.Rounding("rtp", "saturate"))]
    for format, mode in cases:
        function = getattr(fpemu.jit, maker)(format, mode)
        rows = zip(*(x.tolist() for x in operands), strict=True)
        actual = [function(*row) for row in rows]
        expected = array_function(*operands, format, mode)
        assert_same_bits(actual, expected, operands[0], (maker, format, mode))


@pytest.fixture
def _threads_of_torch():
    """Leave PyTorch as many threads as it had.

    Those of Numba are OpenMP's, and as many are PyTorch's from then on, which wait busily for one
    another: tests that come later in this process took twice the time.
    """
    import torch

    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


@pytest.mark.usefixtures("_threads_of_torch")
@pytest.mark.parametrize("parallel", [False, True])
def test_functions_work_in_users_loops(parallel):
    add, multiply = fpemu.jit.adder("e5m7", "rtp"), fpemu.jit.multiplier("e4m3")
    fused, root = fpemu.jit.fma("float64", "rtz"), fpemu.jit.square_root("float16")
    divide, subtract = fpemu.jit.divider("bfloat16"), fpemu.jit.subtractor("e11m51", "rtn")
    rounded = fpemu.jit.rounder("float8_e5m2", "rto")

    @numba.njit(parallel=parallel)
    def work(a, b, out):
        for i in numba.prange(a.size):
            out[0, i] = add(a[i], b[i])
            out[1, i] = multiply(a[i], b[i])
            out[2, i] = fused(a[i], b[i], a[i])
            out[3, i] = root(a[i])
            out[4, i] = divide(a[i], b[i])
            out[5, i] = subtract(a[i], b[i])
            out[6, i] = rounded(a[i])

    a, b = operands_of(2)
    out = np.empty((7, a.size))
    work(a, b, out)
    expected = [
        fpemu.add(a, b, "e5m7", "rtp"),
        fpemu.multiply(a, b, "e4m3"),
        fpemu.fma(a, b, a, "float64", "rtz"),
        fpemu.sqrt(a, "float16"),
        fpemu.divide(a, b, "bfloat16"),
        fpemu.subtract(a, b, "e11m51", "rtn"),
        fpemu.round(a, "float8_e5m2", "rto"),
    ]
    assert_same_bits(out, np.array(expected), np.tile(a, 7))


def test_scalar_functions_are_kept_on_disk_by_all_that_they_are_made_of():
    target, down = (
        rounding.target_of(fpemu.format("e5m7"), fpemu.Rounding(mode), np.dtype(np.float64))
        for mode in ("rtp", "rtn")
    )
    makers = [
        functools.partial(scalars.adder.__wrapped__, target, 1, True, 1.0),
        functools.partial(scalars.adder.__wrapped__, down, 1, True, 1.0),
        functools.partial(scalars.adder.__wrapped__, down, 1, True, -1.0),
    ]
    for make, expected in zip(makers, (1.0078125, 1.0, -1.0), strict=True):
        for times in (1, 2):  # the first may have been made by an earlier run
            function = make()
            assert function(2.0**-9 if expected > 0 else 0.0, 1.0) == expected
            hits = sum(function.stats.cache_hits.values())
            assert times == 1 or hits == 1


def test_float32_and_integer_arguments_are_widened():
    third = np.float32(1 / 3)
    assert fpemu.jit.rounder("float64")(third) == float(third)
    assert fpemu.jit.adder("float64")(third, np.float32(2.0**-40)) == float(third) + 2.0**-40
    assert fpemu.jit.multiplier("float64")(third, third) == float(third) ** 2
    assert fpemu.jit.divider("float64")(1, 3) == 1 / 3
    assert fpemu.jit.square_root("float64")(2) == math.sqrt(2)
    assert fpemu.jit.fma("float64")(third, third, np.float32(-1)) == fpemu.fma(
        third, third, np.float32(-1), "float64"
    )


def test_newtons_iteration_takes_every_step_in_the_format():
    add, divide = fpemu.jit.adder("e5m7"), fpemu.jit.divider("e5m7")

    @numba.njit
    def newton(a):
        x = a
        for _ in range(6):
            x = divide(add(x, divide(a, x)), 2.0)
        return x

    for a in (2.0, 3.0, 10.0, 0.125):
        x = a
        for _ in range(6):
            x = fpemu.divide(fpemu.add(x, fpemu.divide(a, x, "e5m7"), "e5m7"), 2.0, "e5m7")
        assert newton(a) == x
    assert newton(2.0) == 1.4140625


FUNCTION_EDGES = [*EDGES, 1e-10, -0.7, 0.4, 2.5, -20.0, 88.5, 600.0, -1e-300, -1e5]


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("exp", [("bfloat16", mode) for mode in SOME_MODES]),
        ("log", [("float32", "rtn"), ("float8_e4m3fn", "rne")]),
        ("rsqrt", [("binary8p4se", "rne"), ("float16", "rtp")]),
        ("gelu", [("e5m7", "rne")]),
    ],
)
def test_every_compiled_function_is_its_array_function(name, cases):
    x = np.array(FUNCTION_EDGES)
    for format, mode in cases:
        function = getattr(fpemu.jit, name)(format, mode)
        expected = getattr(fpemu.functions, name)(x, format, mode)
        assert_same_bits([function(each) for each in x.tolist()], expected, x, (format, mode))


def test_all_functions_have_compiled_versions():
    names = set(fpemu.functions.__all__) - {"softmax", "layer_norm", "rms_norm", "relu"}
    assert names <= set(fpemu.jit.__all__)
    assert fpemu.jit.sqrt is fpemu.jit.square_root
    for name in names:
        assert getattr(fpemu.jit, name).__name__ == name


def test_stochastic_functions_draw_what_the_array_functions_draw():
    x = np.linspace(-3, 3, 1500)
    for bits in (None, 6):
        how = fpemu.Rounding("sr", random_bits=bits, seed=3)
        function = fpemu.jit.exp("bfloat16", how)
        drawn = [function(each, i) for i, each in enumerate(x.tolist())]
        assert_same_bits(drawn, fpemu.functions.exp(x, "bfloat16", how), x, how)


def undecided_arguments():
    """Arguments whose logarithms lie nearer to numbers of 26 bits than the kernels can tell."""
    with mpmath.workprec(200):
        x = np.array([float(mpmath.exp(k + 2.0**-16)) for k in range(300, 340)])
    return x[enclosures.odd_values("log", x, 26)[1]]


@pytest.mark.usefixtures("_threads_of_torch")
@pytest.mark.parametrize("parallel", [False, True])
def test_values_that_are_undecided_are_computed_by_mpmath_from_compiled_code(parallel):
    x = undecided_arguments()
    assert x.size > 10
    log = fpemu.jit.log("float32", "rtz")

    @numba.njit(parallel=parallel)
    def work(x, out):
        for i in numba.prange(x.size):
            out[i] = log(x[i])

    out = np.empty(x.size)
    work(x, out)
    assert_same_bits(
        out, [fpemu.reference.function("log", v, "float32", "rtz") for v in x.tolist()]
    )


def test_functions_are_for_formats_of_few_bits():
    with pytest.raises(
        ValueError, match=r"exp is correctly rounded .* at most 24 .*float64 has 53"
    ):
        fpemu.jit.exp("float64")
    with pytest.raises(ValueError, match="at most 20 random_bits, not 21"):
        fpemu.jit.exp("bfloat16", fpemu.Rounding("sr", random_bits=21))


def test_formats_and_roundings_that_do_not_fit_are_errors():
    for maker in MAKERS:
        with pytest.raises(ValueError, match="float7"):
            getattr(fpemu.jit, maker)("float7")
        with pytest.raises(ValueError, match="up"):
            getattr(fpemu.jit, maker)("float16", "up")


def test_no_array_function_compiles_anew_when_only_the_format_or_mode_changes():
    x = np.linspace(-3, 3, 50)
    operations = {
        arithmetic.ADD: fpemu.add,
        arithmetic.MULTIPLY: fpemu.multiply,
        arithmetic.DIVIDE: fpemu.divide,
    }
    # Formats of two kinds, for the vector loop and for the exact one, and modes of two kinds.
    first, others = ("e5m7", "float8_e4m3fnuz"), ("bfloat16", "e11m3", "binary8p3se", "e3m2")
    for name in first:
        fpemu.round(x, name)
        for function in operations.values():
            function(x, x, name)
            function(x, x, name, "rtz")
    made_of = (arithmetic._computing, arithmetic._settling, arithmetic._quick_kernel)
    made = [cache.cache_info().currsize for cache in made_of]
    float64, kernels = x.dtype, [array_rounding._array_kernel(rounding.NEAREST_EVEN, False)]
    for operation in operations:
        found = [
            arithmetic._computing(operation, kind, arithmetic._OWN, float64, float64)
            for kind in (rounding.NEAREST_EVEN, rounding.DETERMINISTIC)
        ]
        kernels.append(arithmetic._quick_kernel(found[0].takes))
        found.append(arithmetic._settling(operation, True, float64))
        kernels.append(arithmetic._exact_kernel(found[-1].takes))
    assert [cache.cache_info().currsize for cache in made_of] == made  # they are those in use
    compiled = [len(kernel.signatures) for kernel in kernels]
    assert min(compiled) > 0
    for name in others:
        fpemu.round(x, name)
        for function in operations.values():
            function(x, x, name)
            function(x, x, name, "rtp")
    assert [len(kernel.signatures) for kernel in kernels] == compiled
    assert [cache.cache_info().currsize for cache in made_of] == made
