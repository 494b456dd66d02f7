"""The functions against MPFR and exact rationals, bit for bit."""

import functools
import math

import gmpy2
import mpmath
import numpy as np
import pytest
from gmpy2 import mpq
from hypothesis import given, settings
from hypothesis import strategies as st

from fpemu import Rounding, formats, functions, multiprecision, reference
from fpemu._kernels import caching, enclosures
from tests.cases import for_each
from tests.oracle.compiling import called_of_the_library, object_code
from tests.oracle.rounding import Numbers, rounded
from tests.threads import on_threads

MODES = ("rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto")
NAMES = (*enclosures.NAMES, "relu")
SMALL_FORMATS = [f.name for f in formats.named_formats().values() if f.bits <= 8]
SMALL_FORMATS += ["binary8p3se", "binary8p4uf", "binary5p3sf", "e2m2"]
INF = math.inf

# --- the oracle: the exact value, or so close that no rounding tells the difference --------------

OF_MPFR = {
    "exp": gmpy2.exp,
    "exp2": gmpy2.exp2,
    "expm1": gmpy2.expm1,
    "log": gmpy2.log,
    "log2": gmpy2.log2,
    "log1p": gmpy2.log1p,
    "tanh": gmpy2.tanh,
    "sigmoid": lambda x: 1 / (1 + gmpy2.exp(-x)),
    "erf": gmpy2.erf,
    "rsqrt": gmpy2.rec_sqrt,
    "reciprocal": lambda x: 1 / x,
    "gelu": lambda x: x / 2 * gmpy2.erfc(-x / gmpy2.sqrt(gmpy2.mpfr(2))),
    "gelu_tanh": lambda x: (
        x / (1 + gmpy2.exp(-gmpy2.sqrt(8 / gmpy2.const_pi()) * (x + x**3 * 44715 / 1000000)))
    ),
    "silu": lambda x: x / (1 + gmpy2.exp(-x)),
}
# At -inf, -0, +0 and inf.
SPECIAL = {
    "exp": (0.0, 1.0, 1.0, INF),
    "exp2": (0.0, 1.0, 1.0, INF),
    "expm1": (-1.0, -0.0, 0.0, INF),
    "log": (math.nan, -INF, -INF, INF),
    "log2": (math.nan, -INF, -INF, INF),
    "log1p": (math.nan, -0.0, 0.0, INF),
    "tanh": (-1.0, -0.0, 0.0, 1.0),
    "sigmoid": (0.0, 0.5, 0.5, 1.0),
    "erf": (-1.0, -0.0, 0.0, 1.0),
    "rsqrt": (math.nan, -INF, INF, 0.0),
    "reciprocal": (-0.0, -INF, INF, 0.0),
    "gelu": (-0.0, -0.0, 0.0, INF),
    "gelu_tanh": (-0.0, -0.0, 0.0, INF),
    "silu": (-0.0, -0.0, 0.0, INF),
    "relu": (0.0, 0.0, 0.0, INF),
}
# From here on the distance from the limit is below anything: 2**-2000 and less.
FAR = {"erf": 45.0, "gelu": 60.0, "gelu_tanh": 30.0}
USUALLY_FAR = 1500.0
NEAR = mpq(1, 2**4000)
BITS = 100


@functools.cache
def with_bits(precision):
    """A context of MPFR in which no exponent of a format is near an end."""
    return gmpy2.context(precision=precision, emin=-(10**6), emax=10**6)


def sticky(value):
    """The number of an mpfr with its bits beyond the hundredth gathered in the last."""
    sign = -1 if gmpy2.is_signed(value) else 1
    if value == 0 or gmpy2.is_infinite(value) or abs(gmpy2.get_exp(value)) > 3000:
        return sign * mpq(2) ** (3500 if abs(value) > 1 else -3500)
    significand, exponent = value.as_mantissa_exp()
    significand = abs(significand)
    drop = max(significand.bit_length() - BITS, 0)
    kept = significand >> drop
    kept |= kept << drop != significand
    return sign * kept * mpq(2) ** (exponent + drop)


def saturated(name, x):
    """The value where MPFR would need thousands of bits to tell it from its limit."""
    if abs(x) < FAR.get(name, USUALLY_FAR):
        return None
    if name in ("tanh", "erf") or (name == "sigmoid" and x > 0) or (name == "expm1" and x < 0):
        return (1 - NEAR) * (1 if x > 0 else -1)
    if name in ("gelu", "gelu_tanh", "silu") and x > 0:
        return mpq(x) * (1 - NEAR)
    if name in ("gelu", "gelu_tanh", "silu"):
        return -NEAR
    return None


def rational(name, x):
    """The value if it is rational, or None."""
    if name == "reciprocal":
        return 1 / mpq(x)
    if name == "relu":
        return mpq(x) if x > 0 else 0.0
    if name == "exp2" and x == int(x) and abs(x) < 4000:
        return mpq(2) ** int(x)
    mantissa, exponent = math.frexp(x)
    if name == "log2" and mantissa == 0.5:
        return mpq(exponent - 1) or 0.0
    if name == "rsqrt" and mantissa == 0.5 and exponent % 2 == 1:
        return mpq(2) ** (-(exponent - 1) // 2)
    return 0.0 if name == "log" and x == 1.0 else None


@functools.cache
def exact_nonzero(name, x):
    if x < 0 and name in ("log", "log2", "rsqrt"):
        return math.nan
    if x <= -1 and name == "log1p":
        return -INF if x == -1 else math.nan
    for known in (rational(name, x), saturated(name, x)):
        if known is not None:
            return known
    precision = 160
    while True:
        with with_bits(precision):
            value = OF_MPFR[name](gmpy2.mpfr(x))
        with with_bits(2 * precision):
            margin = gmpy2.exp2(40 - precision)
            first, second = (sticky(value * (1 + e)) for e in (-margin, margin))
        if first == second:
            return first
        precision *= 2
        assert precision < 20000, f"{name}({x}) seems to be rational"


def exact(name, x):
    x = float(x)
    if math.isnan(x):
        return x
    if x == 0 or math.isinf(x):
        index = 1 + (math.copysign(1, x) > 0) if x == 0 else 0 if x < 0 else 3
        return SPECIAL[name][index]
    return exact_nonzero(name, x)


def compute(name, x, format, rounding="rne", **keywords):
    return getattr(functions, name)(x, format, rounding, **keywords)


def assert_correct(name, x, format, modes=MODES):
    format = formats.format(format)
    x = np.asarray(x)
    values = [exact(name, v) for v in x]
    if format.p3109 and name in ("rsqrt", "reciprocal"):  # zero has no sign
        values = [math.nan if v == 0 else value for v, value in zip(x, values, strict=True)]
    if not format.has_nan:
        valid = np.array([not (isinstance(v, float) and math.isnan(v)) for v in values])
        x, values = x[valid], [v for v, keep in zip(values, valid, strict=True) if keep]
    values = Numbers(values)
    for mode in modes:
        got = compute(name, x, format, mode)
        expected = rounded(values, format, mode)
        same = (got == expected) & (np.signbit(got) == np.signbit(expected))
        wrong = np.flatnonzero(~(same | (np.isnan(got) & np.isnan(expected))))
        shown = [(float(x[i]).hex(), float(got[i]), float(expected[i])) for i in wrong[:5]]
        assert not wrong.size, f"{name} {format} {mode}: {wrong.size} wrong, such as {shown}"


# --- whole formats --------------------------------------------------------------------------------


@functools.cache
def members(format):
    """All members of a 16-bit format; to list them takes longer than to test some of them."""
    return np.array(reference.members(format), np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_every_small_format(name):
    for format in SMALL_FORMATS:
        x = reference.members(format)
        assert_correct(name, np.array(x, formats.format(format).carrier), format)


@pytest.mark.long
@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_exp_of_every_value_of_the_16_bit_formats(format):
    assert_correct("exp", members(format), format)


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_exp_of_the_16_bit_formats(format):
    assert_correct("exp", members(format)[::7], format)


@pytest.mark.parametrize("name", NAMES)
@for_each("format", ["float16", "bfloat16"])
def test_functions_of_the_16_bit_formats(name, format):
    assert_correct(name, members(format)[NAMES.index(name) :: 97], format)


# --- float32 and float64 arguments ----------------------------------------------------------------


def hard_arguments(name):
    """Where values come close to members, to limits and to each other's regions."""
    powers = 2.0 ** np.arange(-149, 128, 6)
    ones = 1 + np.arange(-4, 5) * 2.0**-23
    edges = np.array([0.35, 0.36, 0.41, 0.7, 1.0, 1.4142135, 1.0 - 2.0**-24, 0.29, 0.5])
    limits = np.array([9.0, 13.0, 17.4, 20.0, 40.0, 60.0, 89.0, 104.0, 128.0, 150.0, 800.0])
    multiples = np.log(2) * np.arange(1, 150, 13)
    x = np.concatenate([powers, ones, edges, limits, multiples, np.arange(1.0, 150.0, 9)])
    x = np.concatenate([x, np.random.default_rng(NAMES.index(name)).normal(0, 4, 150)])
    return np.concatenate([x, -x, [0.0, -0.0, INF, -INF, math.nan]])


@pytest.mark.parametrize("name", NAMES)
@for_each("format", ["float32", "e5m22", "tf32", "e8m0", "binary14p4se"])
def test_float32_arguments(name, format):
    assert_correct(name, hard_arguments(name).astype(np.float32), format)


@pytest.mark.parametrize("name", NAMES)
def test_float64_arguments_in_a_format_with_the_range_of_float64(name):
    far = 2.0 ** np.concatenate([np.arange(-1074, 1024, 31), [-1022, -1023, 1023, -300, -301]])
    deep = np.array([700.0, 708.4, 709.78, 709.79, 720.1, 744.4, 745.2, 1022.5, 1045.5, 1075.0])
    tails = np.array([26.0, 26.5, 37.5, 38.4, 38.6, 21.9, 22.0, 55.0, 61.0])
    x = np.concatenate([hard_arguments(name), far, -far, deep, -deep, tails, -tails])
    # gelu's float64 argument beside a rounding boundary, and 1 seen from as near as float64 gets
    x = np.concatenate([x, np.nextafter(1.0, [0.0, 2.0]), 1 + 2.0 ** -np.arange(30.0, 53)])
    assert_correct(name, x, "e11m23")
    assert_correct(name, x, "binary13p2se", ("rne", "rtp", "rto"))


@pytest.mark.parametrize("name", NAMES)
@given(x=st.lists(st.floats(width=32), min_size=1, max_size=20), mode=st.sampled_from(MODES))
@settings(max_examples=40)  # beside hard arguments, and members of whole formats in every mode
def test_any_float32(name, x, mode):
    assert_correct(name, np.array(x, np.float32), "float32", [mode])


# --- what naive code gets wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "x", "mode", "expected"),
    [
        ("tanh", 40.0, "rtz", 1 - 2.0**-11),
        ("tanh", -1e300, "rtp", -1 + 2.0**-11),
        ("tanh", 40.0, "rne", 1.0),
        ("erf", 6.0, "rtn", 1 - 2.0**-11),
        ("sigmoid", 1e9, "rto", 1 - 2.0**-11),
        ("sigmoid", -1e9, "rtp", 2.0**-24),
        ("exp", 1e-300, "rtp", 1 + 2.0**-10),
        ("exp", -5e-324, "rtz", 1 - 2.0**-11),
        ("exp", -1e300, "rtp", 2.0**-24),
        ("exp", 1e300, "rtz", 65504.0),
        ("gelu", -1e300, "rtn", -(2.0**-24)),
        ("gelu", -1e300, "rne", -0.0),
        ("silu", 2.0, "rtz", 1.7607421875),
        ("log2", 8.0, "rtp", 3.0),
        ("rsqrt", 0.25, "rtp", 2.0),
        ("reciprocal", -3.0, "rtp", -0.333251953125),
    ],
)
def test_results_beside_a_member_go_the_right_way(name, x, mode, expected):
    got = compute(name, x, "float16", mode)
    assert got == expected
    assert np.signbit(got) == np.signbit(expected)


def test_saturation_is_the_roundings():
    saturating = Rounding(overflow="saturate")
    assert functions.exp(1000.0, "float8_e4m3fn", saturating) == 448
    assert np.isnan(functions.exp(1000.0, "float8_e4m3fn"))
    assert functions.log(0.0, "float6_e2m3fn") == -7.5


@pytest.mark.parametrize("name", enclosures.NAMES)
def test_precise_formats_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} .*24 significand bits.* float64 has 53"):
        compute(name, 1.0, "float64")


def test_a_nan_result_in_a_format_without_nan_is_an_error():
    with pytest.raises(ValueError, match=r"log\(-2.0\) is NaN \(element 1\)"):
        functions.log([1.0, -2.0], "float4_e2m1fn")
    with pytest.raises(ValueError, match="x is NaN at index 0"):
        functions.exp([math.nan], "float4_e2m1fn")


# --- arrays ---------------------------------------------------------------------------------------


def test_shapes_types_and_out():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8
    whole = functions.tanh(x, "bfloat16")
    assert whole.dtype == np.float32
    assert functions.tanh(x.astype(np.float64), "bfloat16").dtype == np.float64
    assert isinstance(functions.tanh(0.5, "bfloat16"), np.float64)
    assert functions.tanh([], "bfloat16").shape == (0,)
    np.testing.assert_array_equal(functions.tanh(x[:, ::2, ::-1], "bfloat16"), whole[:, ::2, ::-1])
    np.testing.assert_array_equal(functions.tanh(x.T, "bfloat16"), whole.T)
    x.flags.writeable = False
    out = np.empty((2, 3, 4))
    assert functions.tanh(x, "bfloat16", out=out) is out
    np.testing.assert_array_equal(out, whole)
    own = x.copy()
    functions.tanh(own, "bfloat16", out=own)
    np.testing.assert_array_equal(own, whole)
    with pytest.raises(ValueError, match="shape"):
        functions.tanh(x, "bfloat16", out=np.empty(3))


@pytest.mark.parametrize("name", ["exp", "gelu"])
def test_the_same_bits_on_any_number_of_threads(name):
    x = np.random.default_rng(0).normal(0, 5, 200_000).astype(np.float32)
    results = []
    for count in (1, 3):
        with on_threads(count):
            results.append(compute(name, x, "float32", "rtn"))
    np.testing.assert_array_equal(results[0].view(np.uint32), results[1].view(np.uint32))


# --- the kernels' enclosures ----------------------------------------------------------------------


def _over(x):
    out = np.empty((x.size, 4))
    for i in range(x.size):
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = function(x[i])  # noqa: F821 - given below
    return out


def enclosed(name, x):
    return caching.specialized(_over, name, function=getattr(enclosures, f"_{name}"))(x)


def everywhere(name, count):
    """Arguments where the enclosure is a plain one: no limit or tiny stand-in."""
    rng = np.random.default_rng(NAMES.index(name))
    x = np.concatenate(
        [
            rng.uniform(-2, 2, count // 4),
            rng.uniform(-38, 38, count // 4),
            rng.normal(0, 300, count // 4),
            2.0 ** rng.uniform(-60, 10, count // 4) * rng.choice([-1, 1], count // 4),
            (np.arange(-200, 200) + 0.5) * np.log(2),
            np.arange(-200, 200) * np.log(2),
            np.linspace(0.69, 1.42, 101),
            -np.linspace(0.69, 1.42, 101),
            np.sqrt(0.5) * (1 + np.arange(-5, 6) * 2.0**-53),
        ]
    )
    x = x[x != 0]
    if name in ("log", "log2", "rsqrt"):
        x = np.where(x < 0, 2.0 ** (x % 2000 - 1000), x)
    if name == "log1p":
        x = np.where(x <= -1, -1 / (1 - x), x)
    limit = {"gelu": 54, "gelu_tanh": 19, "silu": 700, "sigmoid": 690, "tanh": 290}
    least = {"expm1": -299, "gelu": -54, "gelu_tanh": -19}
    x = x[x > least.get(name, -790)]
    return x[(x < limit.get(name, 790)) & (abs(x) < limit.get(name, 790))]


@pytest.mark.parametrize("count", [1000, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", enclosures.NAMES)
def test_the_enclosures_hold_with_half_their_width(name, count):
    x = everywhere(name, count)
    assert len(x) > count * 0.6
    worst, least = 0.0, mpq(1, 2**150)
    with with_bits(320):
        rows = zip(x.tolist(), enclosed(name, x).tolist(), strict=True)
        for v, (high, low, error, exponent) in rows:
            value = OF_MPFR[name](gmpy2.mpfr(v)) / gmpy2.exp2(int(exponent))
            distance = abs(value - high - low)
            if distance > abs(value) * least:
                worst = max(worst, float(distance / error) if error else INF)
    assert worst <= 0.5, f"{name}: {worst} of the bound"


def test_few_enclosures_are_undecided():
    x = np.float64(np.random.default_rng(1).normal(0, 3, 400_000).astype(np.float32))
    for name in enclosures.NAMES:
        arguments = abs(x) if name in ("log", "log2", "log1p", "rsqrt") else x
        assert enclosures.odd_values(name, arguments, 26)[1].sum() <= 2


decided_by_mpmath = functools.cache(multiprecision.odd_value)  # whatever the bits to decide


@pytest.mark.parametrize("bits", [26, 45])
@pytest.mark.parametrize("name", enclosures.NAMES)
def test_mpmath_decides_what_the_kernels_decide(name, bits):
    x = np.float64(hard_arguments(name).astype(np.float32))
    odd, undecided = enclosures.odd_values(name, x, bits)
    usual = np.isfinite(odd) & (odd != 0) & (abs(x) < 25) & (abs(x) > 1e-20) & ~undecided
    usual &= odd.view(np.uint64) & np.uint64(1) == 1  # exact values never go to mpmath
    assert usual.sum() > 100
    decided = np.array([decided_by_mpmath(name, float(v)) for v in x[usual]])
    # Of the odd numbers so many bits and whether there are more count.
    high = ~np.uint64(2 ** (53 - bits) - 1)
    np.testing.assert_array_equal(odd[usual].view(np.uint64) & high, decided.view(np.uint64) & high)


def test_no_use_of_the_private_context_of_mpmath_changes_the_next_one():
    with multiprecision.own_context() as mp:
        mp.dps, mp.trap_complex = 300, True
        third = mp.mpf(1) / 3
    with multiprecision.own_context() as mp:
        assert (mp.prec, mp.trap_complex) == (53, False)
        assert mp.mpf(1) / 3 == 1 / 3 != third


def test_as_many_bits_are_decided_as_a_rounding_looks_at():
    sr = functools.partial(Rounding, "sr")
    for name, rounding, bits in (
        ("bfloat16", Rounding("rtp"), 26),
        ("bfloat16", sr(random_bits=7), 16),
        ("float32", sr(), 45),
        ("float8_e4m3fn", Rounding("sr_equal"), 25),
    ):
        assert enclosures.bits_to_decide(formats.format(name), rounding) == bits


@pytest.mark.parametrize("name", ["exp", "gelu"])
def test_what_mpmath_decides_reaches_the_result(name, monkeypatch):
    x = np.linspace(0.1, 4, 30, dtype=np.float32)
    expected = compute(name, x, "float32", "rtp")

    def undecided_everywhere(_name, part, _bits):
        return np.full(part.size, math.nan), np.full(part.size, True)

    monkeypatch.setattr(enclosures, "odd_values", undecided_everywhere)
    np.testing.assert_array_equal(compute(name, x, "float32", "rtp"), expected)


def test_the_polynomial_of_erfc_is_the_interpolation_it_is_said_to_be():
    center, count = enclosures._ERFC_CENTER, len(enclosures._ERFC_POLYNOMIAL)
    with mpmath.workprec(250):
        low, high = ((a - center) / (a + center) for a in (mpmath.mpf("0.7"), mpmath.mpf(41)))
        angles = [mpmath.pi * (2 * j + 1) / (2 * count) for j in range(count)]
        nodes = [(low + high) / 2 + (high - low) / 2 * mpmath.cos(angle) for angle in angles]
        rows, values = [], []
        for t in nodes:
            a = center * (1 + t) / (1 - t)
            rows.append([t**n for n in range(count)])
            values.append((1 + 2 * a) * mpmath.exp(a * a) * mpmath.erfc(a))
        solution = mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix(values))
        assert [float(c) for c in solution] == list(enclosures._ERFC_POLYNOMIAL)


@pytest.mark.parametrize("name", enclosures.NAMES)
def test_no_call_to_a_mathematical_library_is_compiled(name):
    kernel = enclosures._kernel_of(name)
    kernel(np.ones(1), np.empty(1), np.empty(1, np.bool_), np.uint64(2**27 - 1))
    assert b"odd_range" in object_code(kernel)
    assert called_of_the_library(kernel) == []


@caching.scalar
def calling(x):
    return math.erf(x) + math.exp(x)


def test_a_call_to_a_mathematical_library_is_seen_in_what_is_compiled():
    calling(1.0)
    assert called_of_the_library(calling) == [b"erf", b"exp"]
