"""Values, Jacobians, conditions and enclosures of the compositions against mpmath."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamp._kernels import activations, rows
from lamp.bounds.compositions import (
    Entrywise,
    EntrywiseProduct,
    LayerNorm,
    Residual,
    RMSNorm,
    Softmax,
    SoftmaxProduct,
)
from tests.lamp.compositions import COMPOSITIONS, NAMES, N

EVERY = pytest.mark.parametrize("composition", COMPOSITIONS, ids=NAMES)
SMALL_STEP = mpmath.mpf(2) ** -100


def exact(composition, y):
    return composition.value_mpmath([mpmath.mpf(float(x)) for x in y])


def arguments(kind):
    generator = np.random.default_rng(3)
    y = generator.normal(size=(12, N)) * 3
    if kind == "peaked":
        y[:, 2] += generator.uniform(5, 60, 12)
    elif kind == "far apart":
        y = np.ldexp(y, generator.integers(-40, 6, y.shape))
    elif kind == "alike":
        y = 5.0 + y * 2.0**-20
    return y


KINDS = ("near one", "peaked", "far apart", "alike")


@pytest.mark.parametrize("kind", KINDS)
@EVERY
def test_values_are_exact_up_to_what_they_state(composition, kind):
    y = arguments(kind)
    values, errors = composition.value(y), composition.value_error(y)
    with mpmath.workdps(60):
        for row, value, error in zip(y, values, errors, strict=True):
            for found, limit, truth in zip(value, error, exact(composition, row), strict=True):
                assert abs(mpmath.mpf(float(found)) - truth) <= limit
    if kind == "near one":  # the statement is not empty
        assert (errors <= 1e-11 * np.abs(values).max()).all()


@pytest.mark.parametrize("kind", ["near one", "peaked", "far apart"])
@EVERY
def test_jacobians_are_the_derivatives(composition, kind):
    y = arguments(kind)[:4]
    found = composition.jacobian(y)
    with mpmath.workdps(120):
        for row, matrix in zip(y, found, strict=True):
            numbers = [mpmath.mpf(float(x)) for x in row]
            for j in range(N):
                above, below = (
                    composition.value_mpmath([*numbers[:j], numbers[j] + step, *numbers[j + 1 :]])
                    for step in (SMALL_STEP, -SMALL_STEP)
                )
                for i, (up, down) in enumerate(zip(above, below, strict=True)):
                    derivative = (up - down) / (2 * SMALL_STEP)
                    limit = 1e-300 + 1e-12 * float(np.abs(matrix).max())
                    if isinstance(composition, SoftmaxProduct):  # of V - o, which cancels
                        limit += 1e-14
                    assert abs(matrix[i, j] - derivative) <= limit, (i, j)


@EVERY
def test_what_acts_on_vectors_is_what_the_matrix_says(composition):
    y = arguments("near one")
    generator = np.random.default_rng(4)
    direction, errors = generator.normal(size=(2, *y.shape))
    errors = np.abs(errors)
    matrix = composition.jacobian(y)

    def close(found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)

    close(composition.jacobian_product(y, direction), (matrix @ direction[..., None])[..., 0])
    close(composition.amplified(y, errors), (np.abs(matrix) @ errors[..., None])[..., 0])
    for norm in (1, 2):
        close(composition.sensitivity(y, norm), np.linalg.norm(matrix, norm, axis=-2))
    value = np.abs(composition.value(y))
    moved = (np.abs(matrix) @ np.abs(y)[..., None])[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        close(composition.output_condition(y), np.where(moved == 0, 0, moved / value))
        each = np.abs(y) * np.linalg.norm(matrix, axis=-2)
        whole = np.linalg.norm(value, axis=-1, keepdims=True)
        close(composition.input_condition(y), np.where(each == 0, 0, each / whole))


def errors_of_size(generator, shape, size):
    return size * np.where(generator.random(shape) < 0.2, 0.0, generator.uniform(0, 1, shape))


@pytest.mark.parametrize("kind", KINDS)
@EVERY
def test_no_error_leaves_the_enclosure(composition, kind):
    generator = np.random.default_rng(5)
    y = arguments(kind)
    with mpmath.workdps(60):
        numbers = [[mpmath.mpf(float(x)) for x in row] for row in y]
        values = [composition.value_mpmath(row) for row in numbers]
    for size in (1e-12, 1e-3, 0.3, 3.0, 100.0):
        errors = errors_of_size(generator, y.shape, size)
        enclosures = composition.enclosure(y, errors)
        for corner in range(3):
            signs = generator.choice([-1, 1], y.shape)
            if corner == 2:  # one against all others
                signs = np.where(np.arange(N) == generator.integers(N), 1, -1)
            moves = errors * (signs if corner else generator.uniform(-1, 1, y.shape))
            with mpmath.workdps(60):
                rows = zip(numbers, values, moves, enclosures, strict=True)
                for row, value, move, limits in rows:
                    moved = [x + mpmath.mpf(float(d)) for x, d in zip(row, move, strict=True)]
                    found = zip(composition.value_mpmath(moved), value, limits, strict=True)
                    for there, here, limit in found:
                        assert abs(there - here) <= limit, (size, corner)


@pytest.mark.parametrize(
    "composition", [Softmax(), RMSNorm(), Entrywise("relu"), Residual(np.ones(N))], ids=str
)
def test_some_enclosures_are_attained(composition):
    """The worst case for component i: it grows, the others shrink in magnitude or score."""
    generator = np.random.default_rng(6)
    for size in (1e-2, 0.5):
        y = np.abs(generator.normal(size=N)) + 1.0
        errors = size * generator.uniform(0.1, 1, N)
        limits = composition.enclosure(y, errors)
        reached = np.zeros(N)
        with mpmath.workdps(60):
            for i in range(N):
                for sign in (1, -1):
                    signs = np.where(np.arange(N) == i, sign, -sign)
                    moved = composition.value(y + signs * errors)
                    reached[i] = max(reached[i], abs(moved - composition.value(y))[i])
        np.testing.assert_allclose(reached, limits, rtol=1e-9)


@EVERY
def test_the_remainder_of_the_first_order_is_quadratic(composition):
    generator = np.random.default_rng(7)
    y = arguments("near one")[0]
    direction = generator.normal(size=N)
    product = composition.jacobian_product(y, direction)
    remainders = []
    with mpmath.workdps(60):
        here = exact(composition, y)
        for step in (2.0**-8, 2.0**-9):
            there = exact(composition, y + step * direction)
            steps = [mpmath.mpf(float(b)) - mpmath.mpf(float(a)) for a, b in zip(
                y, y + step * direction, strict=True)]  # fmt: skip
            scale = steps[0] / mpmath.mpf(float(direction[0]))
            remainders.append(
                float(
                    max(
                        abs(b - a - scale * mpmath.mpf(float(p)))
                        for a, b, p in zip(here, there, product, strict=True)
                    )
                )
            )
    coarse, fine = remainders
    assert fine <= coarse / 3.5 + 1e-12
    assert (
        coarse <= 100 * 2.0**-16 * (1 + np.abs(composition.value(y)).max()) * (direction**2).sum()
    )


# Softmax


def test_masked_scores_take_no_part():
    y = np.array([1.0, -np.inf, 0.5, -np.inf])
    errors = np.array([0.1, 0.0, 0.1, 0.5])
    part = Softmax().enclosure(y[[0, 2]], errors[[0, 2]])
    np.testing.assert_allclose(Softmax().enclosure(y, errors)[[0, 2]], part, rtol=1e-9)
    assert (Softmax().enclosure(y, errors)[[1, 3]] < 1e-300).all()
    np.testing.assert_array_equal(Softmax().amplified(y, errors)[[1, 3]], 0)


@pytest.mark.parametrize("composition", COMPOSITIONS[:2], ids=NAMES[:2])
def test_infinite_errors_leave_what_is_always_true(composition):
    y = arguments("near one")
    errors = np.full(y.shape, np.inf)
    limits = composition.enclosure(y, errors)
    assert np.isfinite(limits).all()
    z = Softmax().value(y)
    farthest = np.maximum(z, 1 - z)
    if isinstance(composition, SoftmaxProduct):
        values = composition.values
        farthest = np.maximum(
            values.max(0) - composition.value(y), composition.value(y) - values.min(0)
        )
    np.testing.assert_allclose(limits, farthest, rtol=1e-9)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=10), st.floats(0, 50))
def test_the_softmax_enclosure_is_the_formula(scores, size):
    """e^h_i / (z_i e^h_i + sum of the others e^-h_j), straight from its definition."""
    errors = size * np.linspace(0.1, 1, len(scores))
    limits = Softmax().enclosure(np.array(scores), errors)
    with mpmath.workdps(400):
        z = Softmax().value_mpmath([mpmath.mpf(x) for x in scores])
        h = [mpmath.mpf(float(e)) for e in errors]
        for i in range(len(z)):
            up, down = (
                z[i] * mpmath.exp(s * h[i])
                / (
                    z[i] * mpmath.exp(s * h[i])
                    + sum(z[j] * mpmath.exp(-s * h[j]) for j in range(len(z)) if j != i)
                )
                for s in (1, -1)
            )  # fmt: skip
            worst = max(up - z[i], z[i] - down)
            assert worst <= limits[i] <= worst * (1 + 1e-9) + 1e-290


# Rows


def test_sums_of_the_others_do_not_cancel():
    x = np.array([[1e20, 1.0, 2.0], [0.0, 5.0, 0.0]])
    np.testing.assert_array_equal(rows.others(x), [[3.0, 1e20, 1e20], [5.0, 0.0, 5.0]])


def test_the_bounds_of_slopes_and_curvatures_hold_and_are_near():
    names = [name for name in activations.ACTIVATIONS if name != "relu"]
    for name in names:
        activation = activations.ACTIVATIONS[name]
        with mpmath.workdps(30):
            points = [mpmath.mpf(i) / 32 for i in range(-320, 321)]
            slopes = max(abs(mpmath.diff(activation.value_mpmath, x)) for x in points)
            curvatures = max(abs(mpmath.diff(activation.value_mpmath, x, 2)) for x in points)
        assert slopes <= activation.steepest <= slopes * 1.002
        assert curvatures <= activation.curvature <= curvatures * 1.002


# Errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Softmax().value(1.0), ValueError, "last axis that is not empty"),
        (lambda: Softmax().value([]), ValueError, "last axis that is not empty"),
        (lambda: Softmax().value(["a"]), TypeError, "real numbers"),
        (lambda: Softmax().amplified([1.0, 2.0], [-1.0, 0.0]), ValueError, "negative or NaN"),
        (lambda: Softmax().amplified([1.0, 2.0], [1.0, 2.0, 3.0]), ValueError, "does not match"),
        (lambda: Softmax().sensitivity([1.0], 3), ValueError, "norm must be 1 or 2, not 3"),
        (lambda: SoftmaxProduct([1.0]), ValueError, "values must be a matrix"),
        (lambda: SoftmaxProduct([[1.0]]).value([1.0, 2.0]), ValueError, "there are 1 values"),
        (lambda: RMSNorm(epsilon=-1.0), ValueError, "epsilon must be a nonnegative number"),
        (lambda: RMSNorm([1.0]).value([1.0, 2.0]), ValueError, "y has rows of 2"),
        (lambda: LayerNorm([[1.0]]), ValueError, "gain must be a vector"),
        (lambda: Entrywise("mish"), ValueError, "unknown activation 'mish'"),
        (lambda: EntrywiseProduct("relu", [1.0]), ValueError, "matrix must be a matrix"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
