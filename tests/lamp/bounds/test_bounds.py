"""No bound is exceeded, against exact rationals and mpmath; and a wrong bound is found out."""

import dataclasses
import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fpemu
from fpemu import devices
from fpemu.accumulators import Accumulator
from lamp import bounds, testing
from lamp.bounds.compositions import (
    Entrywise,
    LayerNorm,
    Residual,
    RMSNorm,
    Softmax,
    SoftmaxProduct,
)
from lamp.bounds.evaluations import InFloat64, NormSteps, RoundedOnce, SoftmaxSteps
from tests.lamp.compositions import COMPOSITIONS, NAMES, N

EVERY = pytest.mark.parametrize("composition", COMPOSITIONS, ids=NAMES)
FORMATS = (*(f"ps{mu}" for mu in range(2, 11)), "bfloat16", "float16", "float8_e4m3fn")
KINDS = ("deterministic", "running")
TERMS = 12


def near_one(generator, rows):
    return generator.normal(size=(rows, TERMS)), generator.normal(size=(TERMS, N))


def cancelling(generator, rows):
    a, b = near_one(generator, rows)
    a[:, 1::2] = -a[:, ::2]
    b[1::2] = b[::2]
    b[-1] *= 1.01
    return a, b


def peaked(generator, rows):
    a, b = near_one(generator, rows)
    b[:, 3] = 4 * np.sign(a[0])
    return 2 * a, b


def tiny(generator, rows):
    a, b = near_one(generator, rows)
    return a * 2.0**-5, b * 2.0**-5


DATA = (near_one, cancelling, peaked, tiny)


def operands(data, format, rows=3):
    generator = np.random.default_rng([DATA.index(data), rows])
    saturating = fpemu.Rounding(overflow="saturate")
    return tuple(np.asarray(fpemu.round(x, format, saturating)) for x in data(generator, rows))


@functools.cache
def exact_values(composition, data, inputs):
    """f of the exact products, which every accumulator of the same operands is compared with."""
    return testing.reference_values(composition, testing.exact_products(*operands(data, inputs)))


@functools.cache
def products_of(data, inputs, name, kind):
    """Products in a format with their bounds, which all compositions read."""
    return bounds.products(*operands(data, inputs), fpemu.Sequential(name), kind=kind)


def ratios_of(composition, arguments, exact, **options):
    """Actual errors over their bounds, and the bound."""
    found = bounds.bound(composition, arguments, **options)
    return testing.tightness(found, testing.reference_values(composition, exact)), found


@pytest.mark.parametrize("kind", KINDS)
@EVERY
def test_no_bound_is_exceeded(composition, kind):
    for name in FORMATS:
        inputs = name if name.startswith("float8") else "bfloat16"
        for data in DATA:
            products = products_of(data, inputs, name, kind)
            found = bounds.bound(composition, products, evaluation=RoundedOnce(name))
            ratios = testing.tightness(found, exact_values(composition, data, inputs))
            assert (ratios <= 1).all(), (name, data, found.explain())


ACCUMULATORS = [
    fpemu.Sequential("e8m4", "rtz", fused=False),
    fpemu.Sequential("e8m3", via="e8m8"),
    fpemu.Blocked("e8m4", 4, "e8m6"),
    fpemu.Pairwise("e8m4", "rtp"),
    fpemu.Exact("e8m4", "rna"),
]
MACHINES = [
    fpemu.Promoted(fpemu.Sequential("e8m4"), "e8m6", 4),
    devices.get("volta.mma.float16"),
    devices.get("hopper.wgmma.e4m3"),
    devices.get("cdna3.mfma.bfloat16"),
    devices.get("intel.amx.bfloat16"),
]


@pytest.mark.parametrize("accumulator", [*ACCUMULATORS, *MACHINES], ids=str)
def test_bounds_hold_under_every_accumulator(accumulator):
    composition = SoftmaxProduct(np.linspace(-1, 2, 3 * N).reshape(N, 3))
    inputs = accumulator.input_formats[0] or fpemu.format("bfloat16")
    for data in DATA:
        a, b = operands(data, inputs)
        c = fpemu.round(np.random.default_rng(1).normal(size=(3, N)), accumulator.initial_format)
        for kind in KINDS if accumulator in ACCUMULATORS else KINDS[:1]:
            for start in (None, c):
                testing.assert_bound_holds(composition, a, b, accumulator, kind=kind, c=start)


@given(st.data())
@settings(max_examples=150)
def test_any_bound_holds(data):
    composition = data.draw(st.sampled_from(COMPOSITIONS))
    accumulator = data.draw(testing.accumulators())
    a, b = data.draw(testing.cancelling_vectors(6)), data.draw(testing.vectors(6))
    matrix = np.stack([a[1], b, *np.random.default_rng(2).normal(size=(N - 2, 6)).round(1)], 1)
    matrix = np.asarray(fpemu.round(matrix, "bfloat16"))
    kinds = ("deterministic",) if isinstance(accumulator, fpemu.Promoted) else KINDS
    testing.assert_bound_holds(
        composition, a[0], matrix, accumulator, kind=data.draw(st.sampled_from(kinds))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_products_that_underflow_are_covered(kind):
    """A product below half of the least number is lost whole, far beyond any relative bound."""
    a, b = np.array([[2.0**-6]]), np.array([[2.0**-5, -(2.0**-5), 1.75 * 2.0**-5]])
    accumulator = fpemu.Sequential("float8_e4m3fn")
    ratios = testing.assert_bound_holds(Residual(np.zeros(3)), a, b, accumulator, kind=kind)
    assert ratios.max() > 0.5
    relative = accumulator.error_bound(1) * np.abs(a @ b)
    lost = np.abs(a @ b - fpemu.matmul(a, b, accumulator))
    assert (lost > relative).any()


# A wrong bound is found out


def ties(seed):
    """A row of products of one factor that are all ties: each errs by nearly u."""
    generator = np.random.default_rng(seed)
    p = fpemu.format("e8m6").precision
    significands = (generator.integers(2 ** (p - 1), 2**p, N) + 0.5) / 2 ** (p - 1)
    values = significands * generator.choice([-1, 1], N) * 2.0 ** generator.integers(-2, 2)
    return np.ones((1, 1)), values[None]


@EVERY
def test_half_of_the_constant_is_found_out(composition, monkeypatch):
    accumulator = fpemu.Sequential("e8m6")
    ratios = {
        seed: testing.assert_bound_holds(composition, *ties(seed), accumulator).max()
        for seed in range(30)
    }
    tightest = max(ratios, key=ratios.__getitem__)
    assert 0.5 < ratios[tightest] <= 1
    whole = Accumulator.error_bound
    monkeypatch.setattr(Accumulator, "error_bound", lambda *a, **k: whole(*a, **k) / 2)
    with pytest.raises(AssertionError, match="times the bound"):
        testing.assert_bound_holds(composition, *ties(tightest), accumulator)


def test_half_of_a_running_bound_is_found_out():
    a, b = np.ones((1, 1)), np.array([[1.0 + 2.0**-7, 1.5]])
    found = bounds.products(a, b, fpemu.Sequential("e8m6"), kind="running")
    halved = dataclasses.replace(found, errors=found.errors / 2)
    exact = testing.exact_products(a, b)
    whole, _ = ratios_of(Residual(np.zeros(2)), found, exact)
    half, _ = ratios_of(Residual(np.zeros(2)), halved, exact)
    assert whole.max() <= 1 < half.max()


# Probabilistic


def errors_and_bounds(accumulator, kind, probability, generator, cases=400, terms=256):
    a = fpemu.round(generator.normal(size=(cases, terms)), "bfloat16")
    b = fpemu.round(generator.normal(size=(terms, 5)), "bfloat16")
    found = bounds.products(a, b, accumulator, kind=kind, failure_probability=probability)
    exact = a.astype(np.float64) @ b.astype(np.float64)  # exact but for 2**-45
    return np.abs(found.computed - exact), found.errors


@pytest.mark.parametrize(
    ("accumulator", "kind"),
    [
        (fpemu.Sequential("e8m10"), "probabilistic"),
        (fpemu.Blocked("e8m7", 16, "e8m10"), "probabilistic"),
        (fpemu.Pairwise("e8m7"), "probabilistic"),
        (fpemu.Sequential("e8m7", fpemu.Rounding("sr", seed=3)), "stochastic"),
        (fpemu.Pairwise("e8m4", fpemu.Rounding("sr", seed=4)), "stochastic"),
    ],
    ids=str,
)
def test_probabilistic_bounds_fail_no_more_often_than_they_say(accumulator, kind):
    generator = np.random.default_rng(5)
    for probability in (0.5, 0.1):
        errors, limits = errors_and_bounds(accumulator, kind, probability, generator)
        assert (errors > limits).mean() <= probability
    deterministic = errors_and_bounds(accumulator, "deterministic", None, generator)[1]
    probable = errors_and_bounds(accumulator, kind, 1e-6, generator)[1]
    if isinstance(accumulator, fpemu.Sequential):  # sqrt(k) instead of k
        assert np.median(probable) < np.median(deterministic)


def test_the_probabilistic_constant_is_that_of_higham_and_mary():
    accumulator, k, failure = fpemu.Sequential("e8m10"), 300, 1e-4
    u = 2.0**-11
    factor = math.sqrt(2 * math.log(2 * k / failure)) / (1 - u)
    constant = math.expm1(factor * math.sqrt(k) * u + k * u * u / (1 - u))
    a = np.ones(k)
    found = bounds.products(
        a, np.eye(k)[:, :1], accumulator, kind="probabilistic", failure_probability=failure
    )
    assert found.errors[0] == pytest.approx(constant, rel=1e-9)
    assert found.failure_probability == failure
    row = bounds.bound(Residual(np.zeros(1)), found)
    assert row.failure_probability == failure


# First order


@EVERY
def test_first_order_bounds_are_of_first_order(composition):
    """What exceeds them, in the corners of the errors, shrinks as the square of the roundoff."""
    generator = np.random.default_rng(7)
    y = generator.normal(size=N)
    corners = generator.choice([-1, 1], (60, N)) * np.where(generator.random((60, N)) < 0.3, 0, 1)
    excess = []
    for u in (2.0**-8, 2.0**-12, 2.0**-16):
        errors = np.broadcast_to(u * np.abs(y), corners.shape)
        found = bounds.ProductErrors(np.broadcast_to(y, corners.shape), errors, 0.0, "given")
        exact = [
            [
                Fraction(x) + int(sign) * Fraction(e)
                for x, sign, e in zip(y, signs, row, strict=True)
            ]
            for signs, row in zip(corners, errors, strict=True)
        ]
        ratios, bound = ratios_of(composition, found, exact, order="first_order")
        excess.append(float(((ratios - 1) * bound.value).max()))
    for coarse, fine in itertools.pairwise(excess):
        assert fine <= max(coarse, 0.0) / 2.0**7 + 1e-13
    if isinstance(composition, Entrywise) and composition.name != "relu":
        assert excess[0] > 0  # there is a remainder to shrink


def test_first_order_bounds_tell_what_was_recomputed():
    a, b = operands(near_one, "bfloat16")
    low = bounds.products(a, b, fpemu.Sequential("e8m4"))
    high = bounds.products(a, b, fpemu.Sequential("float32"))
    selected = np.zeros((3, N), bool)
    selected[:, :4] = True
    mixed = low.with_recomputed(high, selected)
    np.testing.assert_array_equal(mixed.computed[:, :4], high.computed[:, :4])
    found = bounds.bound(Softmax(), mixed, order="first_order")
    assert found.covers == ("low inner products", "recomputed products", "rounding of f")
    errors = np.where(selected, 0.0, low.errors)
    expected = Softmax().amplified(mixed.computed, errors)
    np.testing.assert_array_equal(found.parts["low inner products"], expected)
    assert (found.parts["recomputed products"] < 0.1 * expected).all()
    rigorous, _ = ratios_of(Softmax(), mixed, testing.exact_products(a, b))
    assert (rigorous <= 1).all()
    with pytest.raises(ValueError, match="shapes differ"):
        low.with_recomputed(high, selected[:2])


# f's own rounding


@pytest.mark.parametrize("name", ["ps2", "ps7", "bfloat16", "float16", "float8_e4m3fn"])
@EVERY
def test_rounding_of_f_is_covered(composition, name):
    generator = np.random.default_rng(8)
    y = np.concatenate([generator.normal(size=(4, N)), 20 * generator.normal(size=(4, N))])
    exact = [[Fraction(float(x)) for x in row] for row in y]
    found = bounds.ProductErrors(y, np.zeros_like(y), 0.0, "exact")
    for mode in ("rne", "rtz", "rtp"):
        rounding = fpemu.Rounding(mode, overflow="saturate")
        ratios, bound = ratios_of(composition, found, exact, evaluation=RoundedOnce(name, rounding))
        assert (ratios <= 1).all()
        assert np.isfinite(bound.value).all()
    assert ratios.max() > 0.05


@pytest.mark.parametrize(
    "steps",
    [
        SoftmaxSteps("bfloat16"),
        SoftmaxSteps("float8_e4m3fn"),
        SoftmaxSteps("e8m4", "rtz"),
        SoftmaxSteps("float16", accumulator=fpemu.Pairwise("float32")),
        SoftmaxSteps("e8m3", difference="bfloat16", exponential="e8m5"),
        SoftmaxSteps("e8m6", "rtp", accumulator=fpemu.Exact("e8m6", "rtn")),
    ],
    ids=str,
)
def test_steps_of_a_softmax_are_covered(steps):
    generator = np.random.default_rng(9)
    y = np.concatenate([generator.normal(size=(15, N)) * scale for scale in (0.1, 2, 30)])
    y[::7, 2] = -np.inf
    held = np.where(np.isfinite(y), y, -1000.0)
    exact = [[Fraction(float(x)) for x in row] for row in held]
    found = bounds.ProductErrors(held, np.zeros_like(y), 0.0, "exact")
    ratios, bound = ratios_of(Softmax(), found, exact, evaluation=steps)
    assert (ratios <= 1).all()
    assert ratios.max() > 0.02
    assert np.isfinite(bound.value).mean() > 0.8
    masked = steps.error(Softmax(), y)
    assert (masked[~np.isfinite(y)] == 0).all()
    with pytest.raises(TypeError, match="steps of a softmax do not evaluate layer_norm"):
        steps.value(LayerNorm(), y)


@pytest.mark.parametrize(
    "composition",
    [RMSNorm(), RMSNorm(np.linspace(-2, 1, N), 0.1), LayerNorm(),
     LayerNorm(np.linspace(-2, 1, N), np.linspace(0, 3, N)), LayerNorm(epsilon=0.0)],
    ids=lambda each: f"{each} {each.epsilon}",
)  # fmt: skip
@pytest.mark.parametrize(
    "steps",
    [
        NormSteps("bfloat16"),
        NormSteps("e8m4", "rtz"),
        NormSteps("float16", statistics="float32", accumulator=fpemu.Sequential("float32")),
        NormSteps("e8m6", "rtp", centered="float32", accumulator=fpemu.Pairwise("e8m9", "rtn")),
        NormSteps("bfloat16", normalized="e8m5", scaled="e8m9", statistics="float16"),
    ],
    ids=str,
)
def test_steps_of_a_norm_are_covered(composition, steps):
    generator = np.random.default_rng(10)
    y = np.concatenate([generator.normal(size=(8, N)) * scale for scale in (0.01, 1, 30)])
    y[1::3] += 20.0  # means that cancel
    y = np.asarray(fpemu.round(y, "bfloat16"))
    exact = [[Fraction(float(x)) for x in row] for row in y]
    found = bounds.ProductErrors(y, np.zeros_like(y), 0.0, "exact")
    ratios, bound = ratios_of(composition, found, exact, evaluation=steps)
    assert (ratios <= 1).all()
    assert ratios.max() > 0.02
    assert np.isfinite(bound.value).mean() > 0.5
    with pytest.raises(TypeError, match="steps of a norm do not evaluate softmax"):
        steps.value(Softmax(), y)


FLOAT32 = fpemu.Sequential("float32")
COARSE_SOFTMAX = {
    "difference": SoftmaxSteps("float32", difference="e8m3", accumulator=FLOAT32),
    "exponential": SoftmaxSteps("float32", exponential="e8m3", accumulator=FLOAT32),
    "subnormal exponential": SoftmaxSteps("float32", exponential="e3m2", accumulator=FLOAT32),
    "sum": SoftmaxSteps("float32", accumulator=fpemu.Exact("e8m3")),
    "subnormal sum": SoftmaxSteps("float32", accumulator=fpemu.Exact("e5m3", "rtz")),
    "quotient": SoftmaxSteps(
        "e8m3", difference="float32", exponential="float32", accumulator=FLOAT32
    ),
    "subnormal quotient": SoftmaxSteps(
        "e3m2", difference="float32", exponential="float32", accumulator=FLOAT32
    ),
}
COARSE_NORM = {
    "statistics": NormSteps("float32", statistics="e8m3", accumulator=FLOAT32),
    "centered": NormSteps("float32", centered="e8m3", accumulator=FLOAT32),
    "normalized": NormSteps("float32", normalized="e8m3", accumulator=FLOAT32),
    "scaled": NormSteps("float32", scaled="e8m3", accumulator=FLOAT32),
    "result": NormSteps(
        "e8m3",
        statistics="float32",
        centered="float32",
        normalized="float32",
        scaled="float32",
        accumulator=FLOAT32,
    ),
    "sums": NormSteps("float32", accumulator=fpemu.Exact("e8m3")),
    "subnormal sums": NormSteps("float32", accumulator=fpemu.Exact("e4m3", "rtz")),
}


def reached(composition, steps, rows):
    """Errors over bounds upward and downward; float64 is exact beside one coarse step."""
    exact, found = composition.value(rows), steps.value(composition, rows)
    with np.errstate(invalid="ignore"):
        ratios = np.abs(found - exact) / steps.error(composition, rows)
        ratios = np.where(np.isnan(ratios), 0.0, ratios)
    assert ratios.max() <= 1
    larger = (found > exact) == (exact > 0)
    return np.where(larger, ratios, 0.0).max(), np.where(larger, 0.0, ratios).max()


@pytest.mark.parametrize("step", COARSE_SOFTMAX)
def test_each_step_of_a_softmax_counts(step):
    """With one coarse step the bound is nearly reached: without that step's term it would fail."""
    generator = np.random.default_rng(11)
    a, b = -generator.uniform(0, 1.4, (2, 20000, 1))
    a *= generator.choice([1, 8], a.shape)
    b *= generator.choice([1, 4], b.shape)
    rows = np.concatenate([np.zeros_like(a), *[a] * 6, b], axis=1)
    up, down = reached(Softmax(), COARSE_SOFTMAX[step], rows)
    assert max(up, down) > 0.4
    if step in ("difference", "exponential", "sum", "quotient"):
        assert min(up, down) > 0.6


@pytest.mark.parametrize("step", COARSE_NORM)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "gain"])
@pytest.mark.parametrize("norm", [RMSNorm, LayerNorm])
def test_each_step_of_a_norm_counts(norm, step, plain):
    gain = None if plain else np.linspace(0.5, 2, N)
    composition = norm(gain) if norm is RMSNorm or plain else norm(gain, np.linspace(0, 3, N))
    missing = ["normalized"] if plain else []  # which is the result then
    missing += ["scaled"] if norm is RMSNorm or plain else []
    missing += ["centered"] if norm is RMSNorm else []
    generator = np.random.default_rng(12)
    rows = generator.normal(size=(6000, N))
    alike = np.where(np.arange(N) == 3, rows, rows[:, :1])
    rows = np.concatenate([rows, alike, alike + 5, 0.02 * rows])
    up, down = reached(composition, COARSE_NORM[step], rows)
    if step not in missing:
        assert max(up, down) > 0.55
        assert min(up, down) > 0.4 or step == "subnormal sums"


# What it says


def test_a_bound_explains_itself():
    a, b = operands(near_one, "bfloat16")
    scores = bounds.products(a, b, fpemu.Sequential("e8m10"), kind="probabilistic")
    found = bounds.bound(Softmax(), scores, evaluation=RoundedOnce("bfloat16"))
    text = found.explain()
    for piece in (
        "of softmax, 8 components a row",
        "inner products: at most",
        "sequential(e8m10, rne), probabilistic bound",
        "rounded once into bfloat16 (rne)",
        "rigorous: nothing is left out",
        "fails with probability 0.008",
    ):
        assert piece in text, text
    first = bounds.bound(Softmax(), scores, order="first_order").explain()
    assert "terms in products of errors are left out" in first
    np.testing.assert_allclose(found.value, sum(found.parts.values()), rtol=1e-9)


def test_sums_that_overflow_have_no_bound():
    a, b = np.full((1, 4), 300.0), np.full((4, 2), 300.0)
    found = bounds.products(a, b, fpemu.Sequential("float16"))
    assert np.isinf(found.errors).all()
    bound = bounds.bound(Softmax(), found, evaluation=InFloat64())
    assert np.isinf(bound.value).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: bounds.products(a, a, fpemu.Exact("e8m4"), kind="sure"), ValueError, "'sure'"),
        (
            lambda a: bounds.products(a, a, fpemu.Sequential("e8m4", "rtz"), kind="probabilistic"),
            ValueError,
            "rounds by rtz, whose errors do not average out",
        ),
        (
            lambda a: bounds.products(a, a, fpemu.Sequential("e8m4"), kind="stochastic"),
            ValueError,
            "stochastic bound takes stochastic rounding",
        ),
        (
            lambda a: bounds.products(
                a, a, devices.get("hopper.wgmma.float16"), kind="probabilistic"
            ),
            ValueError,
            "rtz",
        ),
        (
            lambda a: bounds.products(
                a, a, fpemu.Exact("e8m4"), kind="probabilistic", failure_probability=2.0
            ),
            ValueError,
            "between 0 and 1, not 2.0",
        ),
        (
            lambda a: bounds.bound(
                Entrywise("relu"), bounds.products(a, a, fpemu.Exact("e8m4")), order="second"
            ),
            ValueError,
            "unknown order 'second'",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(np.eye(2))
