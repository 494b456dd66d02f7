"""Arithmetic: all operands of narrow formats, SoftFloat, MPFR and exact rationals."""

import functools
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import fpemu
from fpemu import formats
from fpemu.reference import decode_exact
from tests.cases import for_each
from tests.oracle import operations
from tests.oracle.bits import assert_same_bits
from tests.oracle.points import MODES, label
from tests.oracle.tables import magnitudes, round_by_table

NARROW = [format for format in formats.named_formats().values() if format.bits <= 8]
NARROW += [fpemu.format("binary8p3se"), fpemu.format("binary8p4uf")]
BINARY = ("add", "subtract", "multiply", "divide")


def all_values(format):
    """The values of all codes, one NaN among them."""
    numbers = np.array([decode_exact(code, format) for code in range(2**format.bits)])
    numbers = numbers[~np.isnan(numbers)]
    return np.append(numbers, np.nan) if format.has_nan else numbers


# All operands of narrow formats

_APART = 2.0**-40


def exact_sum(a, b, mode):
    """``a + b``, or a float64 number on the same side of every number of at most 6 bits.

    Members of a format have at most 5 bits, and its boundaries (members and midpoints) at most 6.
    A sum of members within 2**40 of each other is exact in float64.  Beyond that, the larger one
    has at most 5 bits and the smaller is too small to carry the sum past any boundary near it, so
    that a number of the smaller one's sign and of 2**-40 of the larger one's size serves as well.
    """
    both = np.isfinite(a) & np.isfinite(b) & (a != 0) & (b != 0)
    a, b = (
        np.where(both & (np.abs(x) < _APART * np.abs(y)), np.copysign(_APART * np.abs(y), x), x)
        for x, y in ((a, b), (b, a))
    )
    total = a + b
    minus_zero = (total == 0) & (np.signbit(a) | np.signbit(b)) if mode == "rtn" else False
    return np.where(minus_zero, -0.0, total)


def exact_result(operation, a, b, mode):
    """The result in float64, where it is exact or rounds as the exact one does.

    Products of members have at most 10 bits and exponents within 2*127 of 0: they are exact.  A
    quotient A/B * 2**k of significands A, B < 2**5 that is not a boundary T * 2**j, T < 2**6,
    differs from it by |A*2**m - T*B*2**n| / (A*2**m) >= 2**-11 of its size (m or n is 0, the
    numerator is a nonzero integer, and where n is 0, A*2**m < 2**12 or the two are not close at
    all).  The rounding to 53 bits keeps it on its side; a quotient that is a boundary is exact.
    """
    with np.errstate(all="ignore"):
        if operation == "multiply":
            return a * b
        if operation == "divide":
            return a / b
        return exact_sum(a, b if operation == "add" else -b, mode)


@pytest.mark.parametrize("format", NARROW, ids=label)
def test_all_pairs_are_computed_correctly_in_every_mode(format):
    members = all_values(format)
    a, b = (side.ravel() for side in np.meshgrid(members, members, indexing="ij"))
    narrow_a, narrow_b = a.astype(format.carrier), b.astype(format.carrier)
    saturating = format.name in ("float8_e4m3fn", "float8_e5m2")
    for mode in MODES:
        for operation in BINARY:
            exact = exact_result(operation, a, b, mode)
            if format.p3109 and operation == "divide":
                exact = np.where(b == 0, np.nan, exact)
            answered = ~np.isnan(exact) | format.has_nan
            for overflow in ("ieee", "saturate") if saturating else ("ieee",):
                expected = round_by_table(exact[answered], format, mode, overflow)
                actual = getattr(fpemu, operation)(
                    narrow_a[answered],
                    narrow_b[answered],
                    format,
                    fpemu.Rounding(mode, overflow),
                )
                assert_same_bits(
                    actual, expected, exact[answered], (format.name, operation, mode, overflow)
                )


def test_the_table_oracle_agrees_with_the_reference():
    for format in (*NARROW, fpemu.format("bfloat16")):
        table = magnitudes(format)[:: 1 + magnitudes(format).size // 50]
        x = np.concatenate([table, (table[1:] + table[:-1]) / 2, table * 1.01, [0, np.inf, 1e300]])
        x = np.concatenate([x, -x])
        for mode in MODES:
            for overflow in ("ieee", "saturate"):
                expected = [
                    operations.round_exact(number, format, mode, overflow) for number in x.tolist()
                ]
                actual = round_by_table(x, format, mode, overflow)
                assert_same_bits(actual, expected, x, (format.name, mode, overflow))


@pytest.mark.parametrize("mode", MODES)
def test_all_triples_of_fp4_are_fused_correctly(mode):
    format = formats.float4_e2m1fn
    triples = np.meshgrid(*[all_values(format)] * 3, indexing="ij")
    check_fused(*(side.ravel() for side in triples), format, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_a_million_triples_of_fp8_are_fused_correctly(name, mode):
    # Products of e5m2 have 6 bits between 2**-32 and 2**32, and members are multiples of 2**-16
    # below 2**16.  A product that is no multiple of 2**-16 is below 2**-10: every sum fits into 49
    # bits.  The range of e4m3fn is smaller.
    format = fpemu.format(name)
    generator = np.random.default_rng(MODES.index(mode))
    members = all_values(format)
    check_fused(*generator.choice(members, (3, 10**6 // len(MODES) + 1)), format, mode)


def check_fused(a, b, c, format, mode):
    with np.errstate(invalid="ignore"):
        product = a * b
        exact = product + c
    opposite = np.signbit(product) | np.signbit(c)
    exact = np.where((exact == 0) & opposite & (mode == "rtn"), -0.0, exact)
    expected = round_by_table(exact, format, mode)
    narrow = [side.astype(format.carrier) for side in (a, b, c)]
    assert_same_bits(fpemu.fma(*narrow, format, mode), expected, exact, (format.name, mode))
    if format.bits == 4:
        assert_same_bits(fpemu.fma(a, b, c, format, mode), expected, exact, (format.name, mode))


NARROW_ROOTS = [*NARROW, *(fpemu.format(name) for name in ("float16", "bfloat16", "e5m7", "e8m4"))]


@pytest.mark.parametrize("format", NARROW_ROOTS, ids=label)
def test_the_square_root_of_every_value_is_correct(format):
    # A member has an even exponent and a significand of at most 12 bits.  Its root is an integer of
    # at most 6 bits times a power of two, or irrational: and then it differs from any boundary t of
    # at most 12 bits by |x - t*t| / (x + t*sqrt(x)) > 2**-26 of its size, and float64 tells.
    x = all_values(format)
    with np.errstate(invalid="ignore"):
        root = np.sqrt(x)
    answered = ~np.isnan(root) | format.has_nan
    for mode in MODES:
        expected = round_by_table(root[answered], format, mode)
        for dtype in (format.carrier, np.float64):
            actual = fpemu.sqrt(x[answered].astype(dtype), format, mode)
            assert_same_bits(actual, expected, x[answered], (format.name, mode))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_square_roots_rounded_down_bracket_the_number_in_integers(name):
    # An oracle without any square root: r <= sqrt(x) < next(r), squared, in rationals.
    format = fpemu.format(name)
    codes = np.arange(1, format.max_finite_code + 1, 7)
    x = fpemu.decode(codes, format)
    roots = fpemu.encode(fpemu.sqrt(x, format, "rtn"), format)
    for number, code in zip(x.tolist(), roots.tolist(), strict=True):
        lower, upper = (Fraction(decode_exact(c, format)) for c in (code, code + 1))
        assert lower**2 <= Fraction(number) < upper**2


# Against SoftFloat and MPFR


def draw(format, count, seed):
    """Three arrays of members whose results lie where floating-point arithmetic goes wrong.

    Significands are sparse, dense or next to a power of two; the exponents of the second and third
    operand are such that a sum cancels or ties, a product or quotient comes to lie at the
    subnormal boundary or at the overflow threshold.
    """
    generator = np.random.default_rng(seed)
    precision, span = format.precision, format.precision + 2
    emin, emax = format.emin, format.emax

    def significands():
        ulp = 2.0 ** (1 - precision)
        sparse = 1 + sum(2.0 ** -generator.integers(1, precision + 3, count) for _ in range(2)) / 2
        kinds = [
            generator.uniform(1, 2, count),
            1 + ulp * generator.integers(0, 3, count),
            2 - ulp * generator.integers(1, 4, count),
            sparse,
            np.ones(count),
        ]
        return np.choose(generator.integers(0, len(kinds), count), kinds)

    def member(exponent):
        number = np.ldexp(significands(), np.clip(exponent, format.quantum_exponent - 1, emax))
        quantum = np.maximum(np.frexp(number)[1] - precision, format.quantum_exponent)
        whole = np.ldexp(np.trunc(np.ldexp(number, -quantum)), quantum)
        whole = np.where(whole > format.max_finite, format.max_finite, whole)
        specials = [0.0, np.inf, np.nan, format.max_finite, format.smallest_subnormal]
        special = np.choose(generator.integers(0, 5, count), specials)
        whole = np.where(generator.random(count) < 0.03, special, whole)
        return np.where(generator.random(count) < 0.5, -whole, whole)

    def near():
        return np.where(
            generator.random(count) < 0.5,
            generator.integers(-2, 3, count),
            generator.integers(-span, span + 1, count),
        )

    first = generator.integers(format.quantum_exponent, emax + 1, count)
    second = np.choose(
        generator.integers(0, 7, count),
        [
            first + near(),
            emin - first + near(),
            emin - precision - first + near(),
            emax - first + near(),
            first - emin + near(),
            first - emax + near(),
            generator.integers(format.quantum_exponent, emax + 1, count),
        ],
    )
    third = first + second + np.where(generator.random(count) < 0.3, -precision, 0) + near()
    a, b, c = member(first), member(second), member(third)
    # Nearly the same number, for massive cancellation; and what cancels a product.
    twin = generator.random(count) < 0.1
    steps = generator.integers(-3, 4, count) * generator.choice([1, 2 ** (precision // 2)], count)
    close = generator.choice([-1.0, 1.0], count) * (1 + np.ldexp(steps.astype(float), -precision))
    with np.errstate(invalid="ignore"):
        b = np.where(twin, a * close, b)
    with np.errstate(all="ignore"):
        c = np.where(generator.random(count) < 0.2, -(a * b), c)
        return [fpemu.round(x, format, "rtz").astype(np.float64) for x in (a, b, c)]


ARITY = {"add": 2, "subtract": 2, "multiply": 2, "divide": 2, "sqrt": 1, "fma": 3}


def operands_of(operation, format, count, seed):
    a, b, c = draw(format, count, seed)
    operands = (a, b, c)[: ARITY[operation]]
    # A negative number has a root worth a look only now and then.
    return (
        (np.where(np.arange(count) % 16 == 0, a, np.abs(a)),) if operation == "sqrt" else operands
    )


def test_drawn_operands_meet_what_they_are_drawn_for():
    for name in ("float16", "bfloat16", "float32"):
        format = fpemu.format(name)
        a, b, c = draw(format, 10_000, 1)
        for x in (a, b, c):
            np.testing.assert_array_equal(fpemu.round(x, format), x)
        with np.errstate(all="ignore"):
            product, total = np.abs(a * b), a + b
        tie = fpemu.round(product, format, "rna") != fpemu.round(product, format, "rnz")
        near_emin = (product < 2 * format.smallest_normal) & (product > format.smallest_subnormal)
        near_top = np.isfinite(product) & (product > format.max_finite / 2)
        near_top &= product < 2 * format.max_finite
        cancelled = (np.abs(total) < np.abs(a) / 2**6) & (total != 0)
        events = {"tie": tie, "emin": near_emin, "top": near_top, "cancelled": cancelled}
        counts = {event: int(happened.sum()) for event, happened in events.items()}
        assert min(counts.values()) > 100, (name, counts)


PEERS = ("float16", "bfloat16", "float32")
# Of each of six operations and five modes: 10**6 a format where tests may take long.
PEER_COUNTS = pytest.mark.parametrize(
    "count", [8_000, pytest.param(34_000, marks=pytest.mark.long)]
)


@PEER_COUNTS
@pytest.mark.parametrize("operation", ARITY)
@pytest.mark.parametrize("name", ["float16", "float32"])
def test_softfloat_agrees(name, operation, count):
    softfloat = pytest.importorskip("softfloatpy", reason="SoftFloat is the peer of this test")
    modes = {
        "rne": softfloat.RoundingMode.NEAR_EVEN,
        "rna": softfloat.RoundingMode.NEAR_MAX_MAG,
        "rtz": softfloat.RoundingMode.MIN_MAG,
        "rtp": softfloat.RoundingMode.MAX,
        "rtn": softfloat.RoundingMode.MIN,
    }
    names = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div"}
    names |= {"sqrt": "sqrt", "fma": "mul_add"}
    width, kind = (16, softfloat.Float16) if name == "float16" else (32, softfloat.Float32)
    function = getattr(softfloat, f"f{width}_{names[operation]}")
    format, big_endian = fpemu.format(name), np.dtype(f">f{width // 8}")

    def boxed(x):
        raw = x.astype(big_endian).tobytes()
        return [kind.from_bytes(raw[i : i + width // 8]) for i in range(0, len(raw), width // 8)]

    for seed, (mode, number) in enumerate(modes.items()):
        operands = operands_of(operation, format, count, seed)
        softfloat.set_rounding_mode(number)
        results = map(function, *(boxed(x) for x in operands))
        expected = np.frombuffer(b"".join(x.to_bytes() for x in results), big_endian)
        narrow = [x.astype(np.float32) for x in operands]
        actual = getattr(fpemu, operation)(*narrow, format, mode)
        assert_same_bits(actual, expected.astype(np.float64), operands[0], (operation, mode))
    softfloat.set_rounding_mode(softfloat.RoundingMode.NEAR_EVEN)


@PEER_COUNTS
@pytest.mark.parametrize("operation", ARITY)
@pytest.mark.parametrize("name", PEERS)
def test_mpfr_agrees(name, operation, count):
    gmpy2 = pytest.importorskip("gmpy2", reason="MPFR is the peer of this test")
    format = fpemu.format(name)
    modes = {
        "rne": gmpy2.RoundToNearest,
        "rtz": gmpy2.RoundToZero,
        "rtp": gmpy2.RoundUp,
        "rtn": gmpy2.RoundDown,
    }
    for seed, (mode, number) in enumerate(modes.items(), 100):
        # MPFR's significands lie in [1/2, 1): its exponents are one more.
        context = gmpy2.context(
            precision=format.precision,
            emin=format.quantum_exponent + 1,
            emax=format.emax + 1,
            subnormalize=True,
            round=number,
        )
        function = {
            "add": context.add,
            "subtract": context.sub,
            "multiply": context.mul,
            "divide": context.div,
            "sqrt": context.sqrt,
            "fma": context.fma,
        }[operation]
        operands = operands_of(operation, format, count, seed)
        with gmpy2.context(precision=53):
            boxed = [list(map(gmpy2.mpfr, x.tolist())) for x in operands]
        with context:
            expected = list(map(float, map(function, *boxed)))
        actual = getattr(fpemu, operation)(*operands, format, mode)
        assert_same_bits(actual, expected, operands[0], (operation, mode))


@pytest.mark.parametrize("overflow", ["ieee", "infinity"])
def test_float32_and_float64_operations_are_the_processors(overflow):
    # Both overflow alike to nearest, but one goes to the processor and the other to the kernel.
    rne = fpemu.Rounding(overflow=overflow)
    for dtype in (np.float32, np.float64):
        format = fpemu.format(np.dtype(dtype).name)
        if dtype == np.float32:
            a, b, _ = draw(format, 10**5, 9)
        else:
            words = np.random.default_rng(9).integers(0, 2**64, (2, 10**5), np.uint64)
            a, b = words.view(np.float64)
        a, b = a.astype(dtype), b.astype(dtype)
        with np.errstate(all="ignore"):
            assert_same_bits(fpemu.add(a, b, format, rne), a + b)
            assert_same_bits(fpemu.subtract(a, b, format, rne), a - b)
            assert_same_bits(fpemu.multiply(a, b, format, rne), a * b)
            assert_same_bits(fpemu.divide(a, b, format, rne), a / b)
            assert_same_bits(fpemu.sqrt(a, format, rne), np.sqrt(a))


@pytest.mark.parametrize("overflow", ["ieee", "infinity"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nan_has_the_same_bits_whatever_it_comes_from(dtype, overflow):
    name, unsigned = np.dtype(dtype).name, np.dtype(dtype).str.replace("f", "u")
    payload = np.array([-np.nan], dtype)
    payload.view(unsigned)[...] |= 5
    zero, infinity = np.zeros(1, dtype), np.full(1, np.inf, dtype)
    rne = fpemu.Rounding(overflow=overflow)
    for found in (
        fpemu.add(payload, zero, name, rne),
        fpemu.subtract(infinity, infinity, name, rne),
        fpemu.multiply(zero, payload, name, rne),
        fpemu.divide(zero, zero, name, rne),
        fpemu.sqrt(-infinity, name, rne),
    ):
        assert found.dtype == dtype
        assert found.view(unsigned) == np.array([np.nan], dtype).view(unsigned)


# Against exact rationals: wide formats, any operands

TINY = 5e-324
HUGE = float(np.finfo(np.float64).max)
EDGES = (
    *(0.0, TINY, 3 * TINY, 2.0**-1022, 2.0**-1022 - TINY, 2.0**-1022 + TINY, 2.0**-1021 - TINY),
    *(2.0**-969, 2.0**-900, 2.0**-537, 2.0**-512, 1.5 * 2.0**-149, 2.0**-53, 2.0**-54, 1 / 3),
    *(1 - 2.0**-53, 1.0, 1 + 2.0**-52, 1 + 2.0**-51, 1.5, 2 - 2.0**-52, 3.0, 2.0**53 - 1),
    *(2.0**53 + 2, 2.0**512, 2.0**511 * (2 - 2.0**-52), 2.0**900, 2.0**1023, HUGE, HUGE / 2),
    *(2.0**970, 2.0**969, 1e300, np.inf, np.nan),
)


def adversarial(count, seed):
    """Three arrays of float64 numbers: edges, neighbors of edges, and operands that cancel."""
    generator = np.random.default_rng(seed)
    edges = np.array(EDGES)

    def one():
        sparse = 1 + 2.0 ** -generator.integers(1, 60, count)
        dense = generator.uniform(1, 2, count)
        significand = np.where(generator.random(count) < 0.5, sparse, dense)
        near_one = generator.integers(-60, 61, count)
        anywhere = generator.integers(-1074, 1024, count)
        exponent = np.where(generator.random(count) < 0.5, near_one, anywhere)
        number = np.where(
            generator.random(count) < 0.4,
            generator.choice(edges, count),
            np.ldexp(significand, exponent),
        )
        return np.where(generator.random(count) < 0.5, -number, number)

    a, b, c = one(), one(), one()
    with np.errstate(all="ignore"):
        c = np.where(generator.random(count) < 0.25, -(a * b), c)
        c = np.where(generator.random(count) < 0.1, np.nextafter(c, 0), c)
        # Exponents of the product at the ends of the range.
        at_end = generator.random(count) < 0.2
        target = generator.choice([-1074, -1022, 1023, 1024, -1075, -970], count)
        moved = np.ldexp(np.frexp(b)[0], np.clip(target - np.frexp(a)[1] + 1, -1074, 1023))
        b = np.where(at_end & np.isfinite(a) & np.isfinite(b), moved, b)
    return a, b, c


WIDE = ("float64", "e11m51", "e11m50", "e11m20", "float32", "e9m40", "e2m52", "e11m1")


@for_each("mode", MODES)
@pytest.mark.parametrize("name", WIDE)
def test_any_float64_operands_are_computed_exactly_and_rounded_once(name, mode):
    format = fpemu.format(name)
    a, b, c = adversarial(350, [WIDE.index(name), MODES.index(mode)])
    operands = {"sqrt": (np.abs(a),), "fma": (a, b, c)}
    for operation in ARITY:
        given_operands = operands.get(operation, (a, b))
        oracle = getattr(operations, operation)
        expected = [
            oracle(*numbers, format, mode)
            for numbers in zip(*(x.tolist() for x in given_operands), strict=True)
        ]
        actual = getattr(fpemu, operation)(*given_operands, format, mode)
        assert_same_bits(actual, expected, np.arange(350), (name, operation, mode))


@pytest.mark.parametrize("mode", MODES)
def test_narrow_formats_take_operands_that_are_not_their_members(mode):
    for name in ("float8_e4m3fn", "float8_e8m0fnu", "bfloat16", "binary8p4uf", "e3m0"):
        format = fpemu.format(name)
        generator = np.random.default_rng(17)
        # Sums that end a hair beside a boundary of the format, where a float64 would hide the hair.
        table = magnitudes(format)[1:]
        boundary = generator.choice(np.concatenate([table, (table[1:] + table[:-1]) / 2]), 150)
        side, distance = generator.choice([-1, 1], 150), generator.integers(50, 200, 150)
        hair = side * np.ldexp(boundary, -distance)
        sign = generator.choice([-1.0, 1.0], 150)
        a, b = boundary * sign, hair
        factor = generator.choice([1.5, 3.0, 5.0, 7.0], 150)
        cases = {
            "add": (a, b),
            "subtract": (a, b),
            "multiply": (a / factor, factor),
            "divide": (a * factor * (1 + 2.0**-52), factor),
            "fma": (a / 2, np.full(150, 2.0), b),
            "sqrt": (np.nextafter(boundary**2, b * np.inf),),
        }
        for operation, operands in cases.items():
            oracle = getattr(operations, operation)
            expected = [
                oracle(*numbers, format, mode)
                for numbers in zip(*(x.tolist() for x in operands), strict=True)
            ]
            actual = getattr(fpemu, operation)(*operands, format, mode)
            assert_same_bits(actual, expected, a, (name, operation, mode))


TRAPS = [
    # A float64 sum, product or fma is a tie of the format that the exact one is not.
    ("add", (1 + 2.0**-11, 2.0**-70), "float16", "rne", 1 + 2.0**-10),
    ("add", (1 + 2.0**-11, -(2.0**-70)), "float16", "rna", 1.0),
    ("add", (1.0, -TINY), "float64", "rtz", 1 - 2.0**-53),
    ("add", (1.0, TINY), "float64", "rtp", 1 + 2.0**-52),
    ("add", (HUGE, TINY), "float64", "rtp", math.inf),
    ("add", (HUGE, HUGE), "float64", "rtz", HUGE),
    ("add", (-HUGE, -HUGE), "float64", "rtp", -HUGE),
    ("subtract", (1.0, 1.0), "float64", "rtn", -0.0),
    ("add", (-0.0, 0.0), "float64", "rtn", -0.0),
    ("add", (-0.0, -0.0), "float64", "rtp", -0.0),
    ("multiply", (TINY, 0.5), "float64", "rne", 0.0),
    ("multiply", (TINY, 0.5), "float64", "rna", TINY),
    ("multiply", (TINY, -TINY), "float64", "rtn", -TINY),
    ("multiply", (TINY, -TINY), "float64", "rto", -TINY),
    ("multiply", (TINY, -TINY), "float16", "rtp", -0.0),
    ("multiply", (1e300, 1e300), "bfloat16", "rtz", fpemu.format("bfloat16").max_finite),
    ("divide", (TINY, 2.0), "float64", "rtp", TINY),
    ("divide", (HUGE, TINY), "float64", "rtz", HUGE),
    ("divide", (1.0, HUGE), "float64", "rtz", 2.0**-1024),
    ("fma", (HUGE, HUGE, -math.inf), "float64", "rne", -math.inf),
    ("fma", (HUGE, 2.0, -HUGE), "float64", "rne", HUGE),
    ("fma", (TINY, TINY, 1.0), "float64", "rtp", 1 + 2.0**-52),
    ("fma", (TINY, TINY, -HUGE), "float64", "rtz", -HUGE + 2.0**971),
    ("fma", (2.0**-537, 2.0**-537, -TINY), "float64", "rne", 0.0),
    ("fma", (2.0**-537, 2.0**-537, -TINY), "float64", "rtn", -0.0),
    ("fma", (1 + 2.0**-52, 1 - 2.0**-52, -1.0), "float64", "rne", -(2.0**-104)),
    ("sqrt", (1 + 2.0**-52,), "float64", "rtp", 1 + 2.0**-52),
    ("sqrt", (TINY,), "float64", "rtz", 2.0**-537),
    ("sqrt", (-0.0,), "float16", "rtp", -0.0),
]


@for_each("operation, operands, name, mode, expected", TRAPS)
def test_traps(operation, operands, name, mode, expected):
    assert_same_bits(getattr(fpemu, operation)(*operands, name, mode), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["float16", "float64"])
def test_exceptional_operands_follow_ieee_754(name, mode):
    inf, nan = math.inf, math.nan
    for sign in (1.0, -1.0):
        assert math.isnan(fpemu.add(sign * inf, -sign * inf, name, mode))
        assert math.isnan(fpemu.subtract(sign * inf, sign * inf, name, mode))
        assert math.isnan(fpemu.multiply(sign * inf, 0.0, name, mode))
        assert math.isnan(fpemu.divide(sign * 0.0, 0.0, name, mode))
        assert math.isnan(fpemu.divide(sign * inf, inf, name, mode))
        assert math.isnan(fpemu.fma(sign * inf, 0.0, 1.0, name, mode))
        assert math.isnan(fpemu.fma(sign * inf, 1.0, -sign * inf, name, mode))
        # Exact infinities are not overflow: no mode makes them finite.
        assert fpemu.divide(sign, 0.0, name, mode) == sign * inf
        assert fpemu.divide(sign, -0.0, name, mode) == -sign * inf
        assert fpemu.multiply(sign * inf, 2.0, name, mode) == sign * inf
        assert fpemu.fma(1e308, 1e308, sign * inf, name, mode) == sign * inf
        assert_same_bits(fpemu.divide(sign, inf, name, mode), sign * 0.0)
    assert math.isnan(fpemu.sqrt(-1.0, name, mode))
    assert math.isnan(fpemu.sqrt(-TINY, name, mode))
    assert fpemu.sqrt(inf, name, mode) == inf
    for operation, count in ARITY.items():
        assert math.isnan(getattr(fpemu, operation)(*[nan] * count, name, mode))


# Arrays


def test_operands_broadcast_as_numpys_do():
    column, row = np.arange(4.0)[:, None], np.arange(1.0, 6.0)
    assert_same_bits(fpemu.multiply(column, row, "float64"), column * row)
    assert_same_bits(fpemu.divide(1.0, row, "float64"), 1 / row)
    assert_same_bits(fpemu.fma(column, row, [[7.0]], "float64"), column * row + 7)
    assert_same_bits(fpemu.subtract([3.0], row, "float64"), 3 - row)
    cube = np.arange(24.0).reshape(2, 3, 4)
    rows = np.arange(3.0)[:, None]
    assert_same_bits(fpemu.add(cube, rows, "float64"), cube + rows)
    assert fpemu.add(np.zeros((0, 3)), np.zeros(3), "float16").shape == (0, 3)
    assert fpemu.add(np.zeros((1, 3)), np.zeros((0, 1)), "float16").shape == (0, 3)
    assert fpemu.add(np.zeros((1, 1)), np.zeros(1), "float16").shape == (1, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layout_does_not_matter_and_operands_are_left_alone(dtype):
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(2, 40, 30)).astype(dtype)
    expected = fpemu.multiply(a, b, "e5m7")
    kept = a.copy(), b.copy()
    assert_same_bits(fpemu.multiply(np.asfortranarray(a), b, "e5m7"), expected)
    assert_same_bits(fpemu.multiply(a.T, b.T, "e5m7"), expected.T)
    assert_same_bits(fpemu.multiply(a[::-2, ::3], b[::-2, ::3], "e5m7"), expected[::-2, ::3])
    swapped = a.astype(a.dtype.newbyteorder(">"))
    assert_same_bits(fpemu.multiply(swapped, b, "e5m7"), expected)
    a.flags.writeable = False
    assert_same_bits(fpemu.multiply(a, b, "e5m7"), expected)
    assert_same_bits(a, kept[0])
    assert_same_bits(b, kept[1])


def test_large_arrays_are_computed_like_small_ones():
    a, b = np.random.default_rng(8).normal(size=(2, 100_003))
    whole = fpemu.divide(a, b, "bfloat16", "rtp")
    for part in (slice(0, 100), slice(50_000, 50_100), slice(-100, None)):
        assert_same_bits(fpemu.divide(a[part], b[part], "bfloat16", "rtp"), whole[part])


def test_dtype_of_the_result_follows_operands_and_format():
    narrow, wide = np.ones(2, np.float32), np.ones(2)
    for operation, count in ARITY.items():
        function = getattr(fpemu, operation)
        assert function(*[narrow] * count, "bfloat16").dtype == np.float32
        assert function(*[narrow] * count, "float32").dtype == np.float32
        assert function(*[narrow] * count, "e8m30").dtype == np.float64
        assert function(*[narrow] * (count - 1), wide, "bfloat16").dtype == np.float64
        assert function(*[1.0] * count, "bfloat16").dtype == np.float64
        assert isinstance(function(*[np.float32(1)] * count, "bfloat16"), np.float32)
        assert isinstance(function(*[1] * count, "float8_e4m3fn"), np.float64)
        assert function(*[narrow.astype(np.float16)] * count, "bfloat16").dtype == np.float32
        assert function(*[narrow.astype(ml_dtypes.bfloat16)] * count, "e4m3").dtype == np.float32


def test_the_result_is_the_same_in_either_carrier():
    for name in ("bfloat16", "float16", "float8_e5m2", "float32"):
        operands = [x.astype(np.float32) for x in draw(formats.float32, 5000, 4)]
        for operation, count in ARITY.items():
            function = getattr(fpemu, operation)
            narrow = function(*operands[:count], name, "rtn")
            wide = function(*(x.astype(np.float64) for x in operands[:count]), name, "rtn")
            assert_same_bits(narrow, wide, operands[0], (name, operation))


def test_out_receives_the_result_and_may_be_an_operand():
    a, b = np.arange(1.0, 7.0).reshape(2, 3), np.full((2, 3), 3.0)
    expected = fpemu.divide(a, b, "e5m7")
    out = np.empty((2, 3))
    assert fpemu.divide(a, b, "e5m7", out=out) is out
    assert_same_bits(out, expected)
    strided = np.zeros((4, 6))[::2, ::-2]
    fpemu.divide(a, b, "e5m7", out=strided)
    assert_same_bits(strided, expected)
    narrow = np.empty((2, 3), np.float32)
    fpemu.divide(a, b, "e5m7", out=narrow)
    assert_same_bits(narrow, expected)
    shifted = np.arange(1.0, 8.0)
    expected = fpemu.add(shifted[:-1], 1.0, "e5m7")
    fpemu.add(shifted[:-1], 1.0, "e5m7", out=shifted[1:])
    assert_same_bits(shifted[1:], expected)
    fpemu.divide(a, b, "e5m7", out=a)
    assert_same_bits(a, fpemu.divide(np.arange(1.0, 7.0).reshape(2, 3), b, "e5m7"))


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.empty(3), ValueError),
        (np.empty((1, 2)), ValueError),
        (np.empty(2, np.float32), TypeError),
        (np.empty(2, np.int64), TypeError),
        ([0.0, 0.0], TypeError),
    ],
)
def test_an_out_that_cannot_hold_the_result_is_an_error(out, error):
    with pytest.raises(error, match="out"):
        fpemu.add([1.0, 2.0], 1.0, "float64", out=out)
    read_only = np.zeros(2)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        fpemu.add([1.0, 2.0], 1.0, "float64", out=read_only)


def test_shapes_that_do_not_broadcast_are_named():
    with pytest.raises(ValueError, match=r"a \(2,\), b \(3,\)"):
        fpemu.add(np.zeros(2), np.zeros(3), "float16")
    with pytest.raises(ValueError, match=r"c \(5,\)"):
        fpemu.fma(np.zeros(2), 1.0, np.zeros(5), "float16")


@pytest.mark.parametrize("name", ["float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"])
@pytest.mark.parametrize("saturating", [False, True])
def test_a_nan_result_in_a_format_without_nan_is_an_error_and_out_is_untouched(name, saturating):
    rounding = fpemu.Rounding("rne", "saturate" if saturating else "ieee")
    out = np.array([5.0, 6.0, 7.0])
    for operation, operands in {
        "add": ([1.0, np.inf, np.nan], [1.0, -np.inf, 1.0]),
        "divide": ([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        "multiply": ([1.0, np.inf, 1.0], [1.0, 0.0, 1.0]),
        "sqrt": ([1.0, -1.0, 4.0],),
        "fma": ([1.0, np.inf, 1.0], [1.0, 0.0, 1.0], 1.0),
    }.items():
        with pytest.raises(ValueError, match="1") as error:
            getattr(fpemu, operation)(*operands, name, rounding, out=out)
        assert name in str(error.value)
        assert "NaN" in str(error.value)
        assert out.tolist() == [5, 6, 7]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="float7"):
        fpemu.add(1.0, 1.0, "float7")
    with pytest.raises(ValueError, match="up"):
        fpemu.add(1.0, 1.0, "float16", "up")
    with pytest.raises(TypeError, match="b must hold real numbers"):
        fpemu.add(1.0, 1j, "float16")
    with pytest.raises(TypeError, match="a must hold real numbers"):
        fpemu.sqrt("2", "float16")
    with pytest.raises(ValueError, match=f"c holds the integer {2**53 + 1}"):
        fpemu.fma(1.0, 1.0, 2**53 + 1, "float16")
    with pytest.raises(ValueError, match="b holds an integer of 20001 bits, which"):
        fpemu.add(1.0, 2**20000, "float16")
    with pytest.raises(TypeError, match=r"not Fraction, which fpemu\.reference takes"):
        fpemu.add(Fraction(1, 3), 1.0, "float16")
    with pytest.raises(
        TypeError, match="b must hold real numbers of at most 64 bits, not NoneType"
    ):
        fpemu.add(1.0, [1.0, None], "float16")
    with pytest.raises(TypeError, match="of at most 64 bits, not integers of more beside other"):
        fpemu.add(1.0, [2**70, 1.5], "float16")
    with pytest.raises(ValueError, match=r"^b is no array: "):
        fpemu.add(1.0, [[1.0, 2.0], [3.0]], "float16")


# Laws

numbers = st.floats(allow_nan=False)
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)
some_formats = st.sampled_from(
    [fpemu.format(name) for name in ("float64", "float32", "bfloat16", "float8_e4m3", "e11m51")]
)
some_modes = st.sampled_from(MODES)


@given(numbers, numbers, some_formats, some_modes)
def test_addition_and_multiplication_commute(a, b, format, mode):
    assert_same_bits(fpemu.add(a, b, format, mode), fpemu.add(b, a, format, mode))
    assert_same_bits(fpemu.multiply(a, b, format, mode), fpemu.multiply(b, a, format, mode))
    assert_same_bits(fpemu.fma(a, b, a, format, mode), fpemu.fma(b, a, a, format, mode))


@given(numbers, some_formats, some_modes)
def test_neutral_operands_just_round(x, format, mode):
    rounded = fpemu.round(x, format, mode)
    assert_same_bits(fpemu.multiply(x, 1.0, format, mode), rounded)
    assert_same_bits(fpemu.divide(x, 1.0, format, mode), rounded)
    assert_same_bits(fpemu.add(x, -0.0 if mode != "rtn" or x else 0.0, format, mode), rounded)
    assume(x != 0)
    assert_same_bits(fpemu.add(x, 0.0, format, mode), rounded)
    assert_same_bits(fpemu.subtract(x, 0.0, format, mode), rounded)
    assert_same_bits(fpemu.fma(x, 1.0, 0.0, format, mode), rounded)


@given(numbers, numbers, numbers, some_formats, some_modes)
def test_addition_is_monotone(x, y, z, format, mode):
    x, y = min(x, y), max(x, y)
    assume(math.isfinite(z))
    assert fpemu.add(x, z, format, mode) <= fpemu.add(y, z, format, mode)
    if z > 0:
        assert fpemu.divide(x, z, format, mode) <= fpemu.divide(y, z, format, mode)
        assert fpemu.sqrt(abs(x), format, mode) <= fpemu.sqrt(max(abs(x), abs(y)), format, mode)


@given(numbers, numbers, numbers, some_formats)
def test_down_is_at_most_nearest_and_nearest_at_most_up(a, b, c, format):
    for operation, count in ARITY.items():
        down, near, up = (
            getattr(fpemu, operation)(*(a, b, c)[:count], format, mode)
            for mode in ("rtn", "rne", "rtp")
        )
        assert (down <= near <= up) or (np.isnan(down) and np.isnan(near) and np.isnan(up))


@given(singles, st.floats(0.5, 2), some_modes)
def test_sterbenz_differences_are_exact(x, ratio, mode):
    y = float(np.float32(x * ratio)) if abs(x) < 2**126 else x
    assume(y / 2 <= x <= 2 * y or 2 * y <= x <= y / 2)
    assert fpemu.subtract(x, y, "float32", mode) == x - y


@given(singles, singles)
def test_two_sum_built_from_float32_operations_is_exact(a, b):
    add = functools.partial(fpemu.add, format="float32")
    subtract = functools.partial(fpemu.subtract, format="float32")
    total = add(a, b)
    assume(np.isfinite(total))
    b_part = subtract(total, a)
    error = add(subtract(a, subtract(total, b_part)), subtract(b, b_part))
    assert Fraction(float(total)) + Fraction(float(error)) == Fraction(a) + Fraction(b)


@given(numbers, numbers, some_formats, st.sampled_from(["rne", "rna", "rnz", "rtz", "rto"]))
def test_symmetric_modes_commute_with_the_sign(a, b, format, mode):
    assert_same_bits(fpemu.multiply(-a, b, format, mode), -fpemu.multiply(a, b, format, mode))
    assert_same_bits(fpemu.divide(-a, b, format, mode), -fpemu.divide(a, b, format, mode))
    total = fpemu.fma(a, b, a, format, mode)
    assume(total != 0)  # an exact zero is +0 either way
    assert_same_bits(fpemu.fma(-a, b, -a, format, mode), -total)


@pytest.mark.parametrize("mode", [*MODES, "sr", "sr_equal"])
def test_a_format_without_zero_takes_what_is_too_small_for_it_to_its_smallest(mode):
    tiny = np.array([2.0**-600, 2.0**-1000, 5e-324])
    smallest = np.full(3, 2.0**-127)
    for result in (
        fpemu.multiply(tiny, tiny, "float8_e8m0fnu", mode),
        fpemu.fma(tiny, tiny, tiny, "float8_e8m0fnu", mode),
        fpemu.divide(tiny, 2.0**1000, "float8_e8m0fnu", mode),
        fpemu.sqrt(tiny, "float8_e8m0fnu", mode),
    ):
        assert_same_bits(result, smallest)
