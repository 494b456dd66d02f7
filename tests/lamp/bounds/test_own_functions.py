"""Bounds of functions, inner products and evaluations of one's own: all that is assumed is said."""

from dataclasses import dataclass
from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest

import fpemu
from lamp import bounds, evaluations, testing
from lamp.bounds.compositions import Composition, Residual, Softmax, value_exact

FLOAT32, TO_NEAREST = fpemu.format("float32"), fpemu.Rounding("rne")


class Square(Composition):
    """A function with a rigorous bound and without a statement of its value's error."""

    name = "square"

    def value(self, y):
        return np.square(y)

    def value_mpmath(self, y):
        return [x * x for x in y]

    def jacobian_product(self, y, direction):
        return 2 * np.asarray(y) * direction

    def amplified(self, y, errors):
        return np.abs(2 * np.asarray(y)) * errors

    def enclosure(self, y, errors):
        return (2 * np.abs(y) + errors) * errors * (1 + 2.0**-40)


class Cancelling(Square):
    """``(1 - cos y) / y**2``, which is near 1/2, and is computed as 0 for small y."""

    name = "cancelling"

    def value(self, y):
        return (1 - np.cos(y)) / np.square(y)

    def value_mpmath(self, y):
        return [(1 - mpmath.cos(x)) / x**2 for x in y]

    def jacobian_product(self, y, direction):
        raise NotImplementedError

    amplified = jacobian_product

    def enclosure(self, y, errors):
        return np.asarray(errors) * 0.5  # |f'| < 1/2


def exactly(y):
    return bounds.ProductErrors(y, np.zeros_like(y), 0.0, "exact")


# What is assumed


@pytest.mark.parametrize("y", [2.0**-27, 1e-160, 3.0])
def test_a_value_that_cancels_is_measured(y):
    found = bounds.bound(Cancelling(), exactly(np.array([y])))
    truth = float((1 - mpmath.cos(mpmath.mpf(y))) / mpmath.mpf(y) ** 2) if y > 1 else 0.5
    assert abs(found.computed[0] - truth) <= found.value[0]
    assert found.value[0] < 0.51
    text = found.explain()
    assert "nothing is left out" not in text
    assert "assumed: enclosure() bounds |f(y + d) - f(y)|" in text
    assert "value_mpmath() is f: the error of value() was measured against it" in text


def test_statements_of_a_base_class_are_not_inherited_by_another_value():
    class Doubled(Softmax):
        def value(self, y):
            return 2 * super().value(y) + 1e-3

    y = np.array([[0.1, 0.9]])
    assert Doubled.is_proved is False
    assert (Doubled().value_error(y) > 9e-4).all()  # measured against Softmax' value_mpmath
    assert (Softmax().value_error(y) < 1e-11).all()
    assert Softmax().assumptions("rigorous") == ()
    assert len(Doubled().assumptions("first_order")) == 2

    class Renamed(Softmax):
        name = "renamed"

    assert Renamed().assumptions("rigorous") == ()
    steps = evaluations.SoftmaxSteps("bfloat16")
    steps.value(Renamed(), y)
    with pytest.raises(TypeError, match="steps of a softmax"):
        steps.value(Doubled(), y)


class Shifted:
    """A value, which other classes take in."""

    def value(self, *arguments):
        return Softmax().value(arguments[-1]) + 1e-3


def test_statements_are_not_inherited_by_a_value_that_was_mixed_in():
    class Mixed(Shifted, Softmax):
        pass

    y = np.array([[0.1, 0.9]])
    assert Mixed.is_proved is False
    assert (Mixed().value_error(y) > 9e-4).all()


def test_an_evaluation_that_changes_another_one_states_its_own_error():
    class Mixed(Shifted, evaluations.InFloat64):
        pass

    class Overridden(evaluations.RoundedOnce):
        def error(self, composition, y):
            return np.zeros_like(y)

    class Renamed(evaluations.RoundedOnce):
        def __str__(self):
            return "renamed"

    scores = bounds.products([1.0, 2.0], np.ones((2, 3)), fpemu.Sequential("bfloat16"))
    for machine, assumed in (
        (Mixed(), 1),
        (Overridden("bfloat16"), 1),
        (Renamed("bfloat16"), 0),
    ):
        found = bounds.bound(Softmax(), scores, evaluation=machine)
        assert len(found.assumptions) == assumed
        assert all("error() bounds |value - f(y)|" in each for each in found.assumptions)


@dataclass(frozen=True)
class Stating(fpemu.Accumulator):
    """An accumulator of a user's that states what does not hold."""

    format: fpemu.Format = FLOAT32
    rounding: fpemu.Rounding = TO_NEAREST

    def inner_product(self, a, b, c):
        return Fraction(7)

    def error_bound(self, terms, *, initial=False):
        return 0.0

    def underflow_bound(self, terms, *, initial=False, largest=None):
        return 0.0


def test_what_an_accumulator_of_a_user_states_is_said_to_be_taken_on_trust():
    claim = "error_bound() and underflow_bound() of Stating(float32, rne) hold"
    scores = bounds.products([1.0, 2.0], np.ones((2, 3)), Stating())
    assert claim in bounds.bound(Softmax(), scores).explain()
    assert "nothing is left out" not in bounds.bound(Softmax(), scores).explain()
    known = bounds.products([1.0, 2.0], np.ones((2, 3)), fpemu.Exact("float32"))
    steps = evaluations.SoftmaxSteps("bfloat16", accumulator=Stating())
    (assumed,) = bounds.bound(Softmax(), known, evaluation=steps).assumptions
    assert assumed.startswith(claim)


def test_a_statement_of_ones_own_is_said_to_be_one():
    class Stated(Square):
        def value_error(self, y):
            return 2.0**-52 * np.square(y)

    found = bounds.bound(Stated(), exactly(np.array([3.0])))
    assert "value_error() bounds |value(y) - f(y)|, as square states" in found.explain()
    own = bounds.bound(Softmax(), exactly(np.array([3.0, 4.0])))
    assert own.assumptions == ("the given errors bound |computed - exact|",)
    scores = bounds.products([1.0, 2.0], np.ones((2, 3)), fpemu.Sequential("bfloat16"))
    assert "rigorous: nothing is left out" in bounds.bound(Softmax(), scores).explain()
    modelled = bounds.products(
        [1.0, 2.0], np.ones((2, 3)), fpemu.Sequential("bfloat16"), kind="probabilistic"
    )
    assert "independently and with mean zero" in bounds.bound(Softmax(), modelled).explain()


def test_reference_values_take_as_many_digits_as_they_need():
    (value,) = value_exact(Cancelling(), [1e-160])
    assert abs(value - mpmath.mpf("0.5")) < 1e-40
    ((value,),) = testing.reference_values(Cancelling(), [[Fraction(1, 10**200)]])
    assert abs(value - mpmath.mpf("0.5")) < 1e-40


def test_the_digits_are_doubled_until_they_suffice():
    class Deep(Square):
        def value_mpmath(self, y):
            return [(1 - mpmath.cos(x**8)) / x**16 for x in y]

    (value,) = value_exact(Deep(), [1e-20])  # which cancels 320 digits
    assert abs(value - mpmath.mpf("0.5")) < 1e-40


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda y: [float(x) for x in y], TypeError, "numbers of mpmath, not float"),
        (lambda y: [mpmath.sqrt(-x) for x in y], ValueError, "complex at component 0.*domain"),
        (lambda y: [1 / (x - x) for x in y], ValueError, "value_mpmath of square failed at y = "),
        (lambda y: [*y, *y], ValueError, "has 2 components, but value has 1"),
    ],
)
def test_a_reference_that_cannot_be_trusted_is_named(returned, error, message):
    class Wrong(Square):
        def value_mpmath(self, y):
            return returned(y)

    with pytest.raises(error, match=message):
        bounds.bound(Wrong(), exactly(np.array([2.0])))


def test_a_reference_that_depends_on_the_digits_is_no_reference():
    class Unsettled(Square):
        def value_mpmath(self, y):
            return [mpmath.mpf(mpmath.mp.dps) for _ in y]

    assert Unsettled().value_error([1.0]) == np.inf
    with pytest.raises(ValueError, match="depends on the number of digits"):
        testing.reference_values(Unsettled(), [[Fraction(1)]])


# What is no bound


@pytest.mark.parametrize("wrong", [np.nan, -1.0])
@pytest.mark.parametrize("method", ["enclosure", "amplified"])
def test_a_term_that_is_no_bound_is_named(method, wrong):
    composition = Square()
    setattr(composition, method, lambda y, errors: np.where(np.asarray(y) > 2, wrong, 1.0))
    order = "rigorous" if method == "enclosure" else "first_order"
    found = bounds.ProductErrors([[1.0, 1.5], [1.0, 3.0]], np.full((2, 2), 0.1), 0.0, "given")
    message = (
        rf"'inner products' of the bound of square is {wrong} at component \(1, 1\), where y is "
        r"\[1.0, 3.0\] and its errors \[0.1, 0.1\]"
    )
    with pytest.raises(ValueError, match=message):
        bounds.bound(composition, found, order=order)


def test_a_term_of_another_shape_is_named():
    composition = Square()
    composition.enclosure = lambda y, errors: np.ones(5)
    with pytest.raises(ValueError, match=r"shape \(5,\), but f has shape \(2,\)"):
        bounds.bound(composition, exactly(np.ones(2)))


def test_where_nothing_is_known_of_y_nothing_is_known_of_f():
    """Zero times infinity, in a formula of one's own, is no bound of zero and no error."""
    found = bounds.ProductErrors([0.0, 1.0], [np.inf, 0.5], 0.0, "given")
    for order in bounds.ORDERS:
        limits = bounds.bound(Square(), found, order=order).value
        assert limits[0] == np.inf
        assert limits[1] < 2


@pytest.mark.parametrize("errors", [[1.0], [-1.0, 0.0], [np.nan, 0.0]])
def test_errors_given_by_hand_are_checked(errors):
    with pytest.raises(ValueError, match="errors"):
        bounds.ProductErrors([1.0, 2.0], errors, 0.0, "given")


class Reciprocal(Square):
    """A function that does not exist at zero."""

    name = "reciprocal"

    def value(self, y):
        assert (np.asarray(y) > 0).all()
        return 1 / np.asarray(y)

    def value_mpmath(self, y):
        return [1 / x for x in y]

    def enclosure(self, y, errors):
        return np.where(y > errors, errors / (y * (y - errors)) * (1 + 2.0**-40), np.inf)


def test_numbers_are_taken_as_they_are_or_refused():
    with pytest.raises(ValueError, match=f"a holds the integer {2**53 + 1}"):
        bounds.products([2**53 + 1, 0.5], [1.0, 1.0], fpemu.Exact("float64"))
    masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    for call in (
        lambda: bounds.products(masked, [1.0, 1.0], fpemu.Exact("float64")),
        lambda: bounds.ProductErrors([1.0, 2.0], masked, 0.0, "by hand"),
    ):
        with pytest.raises(TypeError, match="masked"):
            call()


def test_f_is_not_evaluated_where_sums_have_overflowed():
    a = np.array([[1.0, 1.5], [60000.0, 60000.0]])
    ratios = testing.assert_bound_holds(
        Reciprocal(), a, np.ones((2, 1)), fpemu.Sequential("float16")
    )
    assert ratios[1, 0] == 0
    found = bounds.bound(Reciprocal(), exactly(np.array([[0.5], [np.inf]])))
    assert found.value[0, 0] < 1e-14
    assert found.value[1, 0] == np.inf
    assert np.isnan(found.computed[1, 0])


class Root(Square):
    """A function that is no real number below zero."""

    name = "root"

    def value(self, y):
        with np.errstate(invalid="ignore"):
            return np.sqrt(y)

    def value_mpmath(self, y):
        return [mpmath.sqrt(x) for x in y]

    def enclosure(self, y, errors):
        with np.errstate(invalid="ignore"):
            return np.where(y > errors, errors / np.sqrt(y - errors), np.inf)


def test_components_outside_the_domain_have_no_bound_and_the_others_have_theirs():
    found = bounds.bound(Root(), exactly(np.array([-0.5, 2.0, np.pi])))
    assert found.value[0] == np.inf
    assert (found.value[1:] < 1e-15).all()
    with pytest.raises(ValueError, match="complex at component 0"):
        testing.reference_values(Root(), [[Fraction(-1)]])


@numba.njit
def of_a_row(y):
    out = np.empty(len(y))
    for j in range(len(y)):
        out[j] = y[j] + 1.0 if y[j] > 0 else 0.0
    return out


@pytest.mark.parametrize("method", ["value", "value_error", "enclosure"])
def test_a_compiled_method_that_does_not_take_rows_is_named(method):
    composition = Square()
    kernel = of_a_row if method != "enclosure" else lambda y, errors: of_a_row(y)
    setattr(composition, method, kernel)
    with pytest.raises(
        TypeError, match=f"^{method} of square does not take a float64 array of 2 x"
    ):
        bounds.bound(composition, exactly(np.ones((2, 3))))


# Inner products and evaluations of one's own

MULTIPLY, ADD = fpemu.jit.multiplier("bfloat16"), fpemu.jit.adder("bfloat16")


@numba.njit
def backward(x, y):
    """A sum from the last term to the first."""
    total = 0.0
    for i in range(len(x) - 1, -1, -1):
        total = ADD(total, MULTIPLY(x[i], y[i]))
    return total


def operands(rows=3, terms=12, columns=4):
    generator = np.random.default_rng(7)
    x = generator.normal(size=(rows, terms)), generator.normal(size=(terms, columns))
    return tuple(fpemu.round(each, "bfloat16") for each in x)


CLAIM = fpemu.Sequential("bfloat16", fused=False)


def test_a_compiled_kernel_is_tested_as_it_is():
    a, b = operands()
    found = bounds.products(a, b, backward, error_bound=CLAIM)
    for i, j in np.ndindex(3, 4):
        assert found.computed[i, j] == fpemu.dot(a[i, ::-1], b[::-1, j], CLAIM)
    ratios = testing.assert_bound_holds(Square(), a, b, backward, error_bound=CLAIM)
    assert ratios.shape == (3, 4)
    assert 0 < ratios.max() <= 1
    assert testing.assert_bound_holds(
        Square(), a[0], b, backward, error_bound=lambda x, y: 0.05 * np.abs(x) @ np.abs(y)
    ).shape == (4,)
    text = bounds.bound(Softmax(), found).explain()
    assert "kernel backward, bound of sequential(bfloat16, rne, product in bfloat16)" in text
    assert "assumed: the error_bound of kernel backward holds" in text


def test_a_kernel_beyond_its_bound_is_found_out_at_the_inner_products():
    a, b = operands()
    with pytest.raises(
        AssertionError, match=r"of the inner products is .*, off by .* times the bound"
    ):
        testing.assert_bound_holds(
            Residual(np.zeros(4)), a, b, backward, error_bound=fpemu.Sequential("float32")
        )


def test_where_a_kernel_overflows_or_may_have_there_is_no_bound():
    a, b = np.array([[256.0, 256.0], [1.0, 1.0]]), np.ones((2, 1))

    def overflows(number):
        return np.inf if number == 1 else number

    found = bounds.products(a, b, lambda x, y: overflows(x[0]), error_bound=lambda x, y: 9.0)
    assert found.errors.ravel().tolist() == [9.0, np.inf]
    saturating = fpemu.Sequential("float8_e4m3fn", fpemu.Rounding(overflow="saturate"))

    def cut(x, y):
        return min(float(x @ y), 448.0)

    found = bounds.products(a, b, cut, error_bound=saturating)
    assert found.errors[0, 0] == np.inf
    assert 0 < found.errors[1, 0] < 1


def test_a_kernel_may_begin_with_a_value():
    def biased(x, y, start):
        return start + float(np.dot(x, y))

    a, b = operands()
    found = bounds.products(a, b, biased, c=2.0, error_bound=lambda x, y, start: 1e-12)
    np.testing.assert_allclose(found.computed, a @ b + 2.0)
    testing.assert_bound_holds(Square(), a, b, biased, c=2.0, error_bound=lambda x, y, s: 1e-12)


@pytest.mark.parametrize(
    ("kernel", "options", "error", "message"),
    [
        (backward, {}, TypeError, "kernel backward needs error_bound"),
        (backward, {"error_bound": 0.1}, TypeError, "needs error_bound.*not 0.1"),
        (backward, {"error_bound": CLAIM, "kind": "running"}, ValueError, "kind 'running'"),
        (numba.njit(lambda x: x), {"error_bound": CLAIM}, TypeError, "does not take a float64 arr"),
        (numba.njit(lambda x, y: x.no), {"error_bound": CLAIM}, TypeError, "does not take"),
        (CLAIM, {"error_bound": CLAIM}, TypeError, "has its own bound"),
        (lambda x, y: x, {"error_bound": CLAIM}, TypeError, "kernel <lambda> must return a number"),
        (lambda x, y: "1", {"error_bound": CLAIM}, TypeError, "must return a number, not str '1'"),
        (
            backward,
            {"error_bound": lambda x, y: np.nan},
            ValueError,
            "error_bound <lambda> gives nan for row 0 of a and column 0 of b",
        ),
        ("float32", {}, TypeError, "or a function of two vectors, not str 'float32'"),
    ],
)
def test_kernels_that_say_too_little_are_errors(kernel, options, error, message):
    with pytest.raises(error, match=message):
        bounds.products(*operands(), kernel, **options)


@numba.njit
def narrow_square(y):
    out = np.empty_like(y)
    for j in range(len(y)):
        out[j] = MULTIPLY(y[j], y[j])
    return out


def test_what_is_no_function_and_no_evaluation_is_named():
    a, b = operands()
    found = bounds.products(a, b, CLAIM)
    with pytest.raises(TypeError, match="composition must be a Composition, not <class"):
        bounds.bound(Square, found)
    with pytest.raises(
        TypeError, match=r"evaluation must have a value and an error, as .*ByKernel"
    ):
        bounds.bound(Square(), found, evaluation=narrow_square)
    with pytest.raises(ValueError, match=r"b a matrix, not of shapes \(3, 12\) and \(12,\)"):
        testing.assert_bound_holds(Square(), a, b[:, 0], CLAIM)


def test_f_may_be_computed_by_a_kernel():
    a, b = operands()
    u = 2.0**-8
    machine = evaluations.ByKernel(narrow_square, lambda y: u * np.square(y) * (1 + 2.0**-40))
    ratios = testing.assert_bound_holds(Square(), a, b, CLAIM, evaluation=machine)
    assert 0 < ratios.max() <= 1
    text = bounds.bound(Square(), bounds.products(a, b, CLAIM), evaluation=machine).explain()
    assert "assumed: error() bounds |value - f(y)|, as the evaluation by narrow_square" in text
    wrong = evaluations.ByKernel(narrow_square, lambda y: 2.0**-12 * np.square(y))
    exact = fpemu.Exact("float32")
    with pytest.raises(AssertionError, match=r"the computed f is off by .* 'rounding of f'"):
        testing.assert_bound_holds(Square(), a, b, exact, evaluation=wrong)
    with pytest.raises(ValueError, match="must return a vector for a row"):
        evaluations.ByKernel(lambda y: y[0], lambda y: y).value(Square(), np.ones((2, 3)))
    with pytest.raises(TypeError, match="error_bound must be a function of a row"):
        evaluations.ByKernel(narrow_square, 0.1)


# Inputs that an accumulator would change


@pytest.mark.parametrize(
    ("unit", "element", "message"),
    [
        ("ampere.mma.tf32", 1 + 2.0**-20, r"a\[0, 1\] is .*, not a member of tf32"),
        ("hopper.wgmma.e4m3", 0.3, "not a member of float8_e4m3fn"),
        ("cdna2.mfma.bfloat16", 2.0**-130, "subnormal in bfloat16, which .* reads as zero"),
    ],
)
def test_inputs_that_a_unit_would_change_have_no_bound(unit, element, message):
    unit = fpemu.devices.get(unit)
    a = np.array([[1.0, element]])
    with pytest.raises(ValueError, match=message) as found:
        bounds.products(a, np.ones((2, 1)), unit)
    assert "convert" not in str(found.value)


def test_no_rows_have_no_errors():
    scores = bounds.products(np.ones((0, 4)), np.ones((4, 2)), fpemu.Sequential("bfloat16"))
    for composition in (Softmax(), Square()):
        found = bounds.bound(composition, scores)
        assert found.value.shape == (0, 2)
        assert "2 components a row: there are no rows" in found.explain()


# The claims, one by one


def test_claims_that_hold_pass():
    rows = np.random.default_rng(3).normal(size=(2, 4))
    testing.assert_claims_hold(Square(), rows, 0.25)
    testing.assert_claims_hold(Softmax(), rows, [[0.5, 0.0, 1.0, 0.1]])


@pytest.mark.parametrize(
    ("method", "claim", "message"),
    [
        ("value_error", lambda y: 0.0 * np.asarray(y), "value, over value_error,"),
        ("jacobian_product", lambda y, d: np.asarray(y) * d, "jacobian_product"),
        ("amplified", lambda y, e: np.abs(y) * e, "amplified"),
        ("enclosure", lambda y, e: 2 * np.abs(y) * e, "enclosure, a movement over it,"),
        ("enclosure", lambda y, e: np.nan * np.abs(y) * e, "enclosure, a movement over it,"),
    ],
)
def test_a_claim_that_does_not_hold_is_named(method, claim, message):
    composition = Square()
    setattr(composition, method, claim)
    with pytest.raises(AssertionError, match=f"^{message} of square is off by"):
        testing.assert_claims_hold(composition, [1.1, -2.3], 0.25)
