"""Interface of a row-wise function, and checks of arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Final

import mpmath
import numpy as np
from numpy.typing import ArrayLike

from lamp._kernels.rows import Float64, outward, rows_of, total
from lamp.bounds.claims import keeps_claims, place_of

__all__ = [
    "Composition",
    "as_matrix",
    "as_vector",
    "check_norm",
    "few_ulps",
    "ratio",
    "value_exact",
    "with_errors",
    "with_vector",
]


_DIGITS: Final = 60
_DOUBLINGS: Final = 4
_AGREEMENT: Final = 40  # digits that two precisions must share
_CLAIMS: Final = ("value", "value_error", "value_mpmath", "amplified", "enclosure")


class Composition(ABC):
    """Interface of a row-wise function f: value, Jacobian, condition, enclosure.

    To test bounds of your own function, derive from this class and define `name`, `value`,
    `jacobian_product`, `amplified`, `value_mpmath`, and `enclosure` if you have a rigorous bound.
    Define `value_error` if you know one: the inherited one measures the error of `value` against
    `value_mpmath`, number by number, which is slow.

    Attributes
    ----------
    name : str
        What f is called in messages.
    is_proved : bool
        Whether the claims of this class have a proof and are tested in this package.  What a bound
        takes on trust from other classes is in its `assumptions`.  A class that overrides a claim
        of its base class loses the base's True, and one that overrides `value` its `value_error`.
    """

    name: str
    is_proved: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not keeps_claims(cls, *_CLAIMS):
            cls.is_proved = False
        if place_of(cls, "value") < place_of(cls, "value_error"):
            # What a base class states of its own value says nothing of another one.
            cls.value_error = Composition.value_error  # type: ignore[method-assign]

    def assumptions(self, order: str) -> tuple[str, ...]:
        """What a bound takes on trust from this class.

        Parameters
        ----------
        order : {"rigorous", "first_order"}
            The order of the bound.

        Returns
        -------
        tuple of str
            Sentences; none if the class has a proof.
        """
        if self.is_proved:
            return ()
        carried = {
            "rigorous": "enclosure() bounds |f(y + d) - f(y)| for all |d| <= errors",
            "first_order": "amplified() is |J(y)| errors",
        }[order]
        is_measured = type(self).value_error is Composition.value_error
        of_value = (
            "value_mpmath() is f: the error of value() was measured against it"
            if is_measured
            else "value_error() bounds |value(y) - f(y)|"
        )
        return (f"{carried}, as {self} states", f"{of_value}, as {self} states")

    @abstractmethod
    def value(self, y: ArrayLike) -> Float64:
        """f(y).

        Parameters
        ----------
        y : array_like, shape (..., n)
            Real numbers.

        Returns
        -------
        ndarray of float64, shape (..., m)
        """

    def value_error(self, y: ArrayLike) -> Float64:
        """A bound of ``|value(y) - f(y)|``, the error of float64.

        Unless a class defines its own, the error is measured: `value_mpmath` is evaluated to so
        many digits that more of them change nothing.

        Parameters
        ----------
        y : array_like, shape (..., n)

        Returns
        -------
        ndarray of float64, shape (..., m)
            Infinite where `value` is not finite, or `value_mpmath` does not settle.

        Raises
        ------
        ValueError, TypeError
            If `value_mpmath` fails, or does not return m real numbers of mpmath.
        """
        rows = rows_of(y, "y")
        value = np.asarray(self.value(rows), np.float64)
        found = value.reshape(-1, value.shape[-1]).tolist()
        errors = [
            _measured(self, row, numbers)
            for row, numbers in zip(rows.reshape(-1, rows.shape[-1]).tolist(), found, strict=True)
        ]
        return np.array(errors).reshape(value.shape)

    @abstractmethod
    def value_mpmath(self, y: Sequence[Any]) -> list[Any]:
        """The value at one row of mpmath numbers in mpmath's precision, the reference of tests.

        Parameters
        ----------
        y : sequence of mpmath.mpf, length n

        Returns
        -------
        list of mpmath.mpf, length m
        """

    @abstractmethod
    def jacobian_product(self, y: ArrayLike, direction: ArrayLike) -> Float64:
        """The Jacobian at y times a vector.

        Parameters
        ----------
        y, direction : array_like, shape (..., n)
            Rows, and a vector for each.

        Returns
        -------
        ndarray of float64, shape (..., m)
        """

    def jacobian(self, y: ArrayLike) -> Float64:
        """The Jacobian at y as a matrix, computed column by column.

        Parameters
        ----------
        y : array_like, shape (..., n)

        Returns
        -------
        ndarray of float64, shape (..., m, n)
        """
        rows = rows_of(y, "y")[..., np.newaxis, :]
        identity = np.eye(rows.shape[-1])
        directions = np.broadcast_to(identity, (*rows.shape[:-2], *identity.shape))
        rows = np.broadcast_to(rows, directions.shape)
        return np.swapaxes(self.jacobian_product(rows, directions), -1, -2)

    @abstractmethod
    def amplified(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """``|J(y)| errors``: a bound of the error of f(y), to first order in the errors of y.

        Parameters
        ----------
        y : array_like, shape (..., n)
        errors : array_like, shape (..., n)
            Bounds of the absolute errors of y.

        Returns
        -------
        ndarray of float64, shape (..., m)
        """

    def enclosure(self, y: ArrayLike, errors: ArrayLike) -> Float64:
        """A bound of ``|f(y + d) - f(y)|`` for all d with ``|d| <= errors``, small or large.

        No remainder is neglected, and all roundings are outward.

        Parameters
        ----------
        y, errors : array_like, shape (..., n)
            Errors may be infinite.

        Returns
        -------
        ndarray of float64, shape (..., m)

        Raises
        ------
        NotImplementedError
            If no such bound is known.
        """
        raise NotImplementedError(f"no rigorous bound of {self.name} is known")

    def sensitivity(self, y: ArrayLike, norm: int = 1) -> Float64:
        """The norms of the Jacobian's columns: how an error of each component changes f(y).

        They are the weights by which to select components for recomputation.

        Parameters
        ----------
        y : array_like, shape (..., n)
        norm : {1, 2}
            Which norm.

        Returns
        -------
        ndarray of float64, shape (..., n)
        """
        check_norm(norm)
        columns = np.abs(self.jacobian(y))
        if norm == 1:
            return np.asarray(columns.sum(axis=-2))
        return np.asarray(np.sqrt((columns * columns).sum(axis=-2)))

    def output_condition(self, y: ArrayLike) -> Float64:
        """``sum_j |J_ij y_j| / |f_i|``: how relative errors of y are magnified in each f_i.

        Parameters
        ----------
        y : array_like, shape (..., n)

        Returns
        -------
        ndarray of float64, shape (..., m)
            0 where no error changes f_i, infinity where errors change an f_i that is 0.
        """
        rows = rows_of(y, "y")
        return ratio(self.amplified(rows, np.abs(rows)), np.abs(self.value(rows)))

    def input_condition(self, y: ArrayLike) -> Float64:
        """``|y_j| ||J_:j|| / ||f||`` in the 2-norm: how a relative error of each y_j changes f.

        Parameters
        ----------
        y : array_like, shape (..., n)

        Returns
        -------
        ndarray of float64, shape (..., n)
        """
        rows = rows_of(y, "y")
        value = self.value(rows)
        return ratio(np.abs(rows) * self.sensitivity(rows, 2), np.sqrt(total(value * value)))

    def __str__(self) -> str:
        return self.name


def few_ulps(value: Float64, terms: int) -> Float64:
    """The error of a value computed without cancellation from sums of `terms` terms."""
    magnitude = np.abs(value)
    return outward(magnitude, terms) - magnitude


def value_exact(
    composition: Composition,
    y: Sequence[float | Fraction],
    needed: Sequence[bool] | None = None,
) -> list[Any]:
    """The value of f at one row of exact numbers, to at least 40 digits.

    Parameters
    ----------
    composition : Composition
        f, whose `value_mpmath` is trusted to be f in mpmath's precision.
    y : sequence of float or Fraction, length n
    needed : sequence of bool, length m, optional
        Which components must be real numbers; by default all.  If not all must, y may be outside
        the domain of f.

    Returns
    -------
    list of mpmath.mpf, length m
        NaN where a component need not be a real number and is none, and where the digits are
        doubled four times, and still do not settle the value.

    Raises
    ------
    ValueError, TypeError
        If `value_mpmath` fails, or does not return real numbers of mpmath.
    """
    if composition.is_proved:
        return _evaluated(composition, y, _DIGITS, needed)
    digits = _DIGITS + 4 * _decades(y)  # 1 - cos y loses twice the decades of y
    found = _evaluated(composition, y, digits, needed)
    settled: list[bool] = []
    for _ in range(_DOUBLINGS):
        digits *= 2
        last, found = found, _evaluated(composition, y, digits, needed)
        with mpmath.workdps(digits):
            settled = [_agree(*pair) for pair in zip(last, found, strict=True)]
        if all(settled) and all(found):  # a zero may still be one that cancels
            break
    return [x if sure else mpmath.nan for x, sure in zip(found, settled, strict=True)]


def _decades(y: Sequence[float | Fraction]) -> int:
    """How many decades the numbers are away from 1 at most."""
    sizes = [Fraction(x) for x in y if x and abs(x) != np.inf]
    exponents = (x.numerator.bit_length() - x.denominator.bit_length() for x in sizes)
    return max(map(abs, exponents), default=0) * 3 // 10 + 1


def _agree(one: Any, other: Any) -> bool:
    if not (mpmath.isfinite(one) and mpmath.isfinite(other)):
        return bool(one == other or (mpmath.isnan(one) and mpmath.isnan(other)))
    return bool(abs(one - other) <= abs(other) * mpmath.mpf(10) ** -_AGREEMENT)


def _evaluated(
    composition: Composition,
    y: Sequence[float | Fraction],
    digits: int,
    needed: Sequence[bool] | None,
) -> list[Any]:
    """`value_mpmath` in a precision, and what it returns checked."""
    with mpmath.workdps(digits):
        numbers = [
            mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else mpmath.mpf(x)
            for x in y
        ]
        try:
            found = list(composition.value_mpmath(numbers))
        except (ArithmeticError, ValueError) as error:
            if needed is not None and not all(needed):
                return [mpmath.nan] * len(needed)
            raise ValueError(
                f"value_mpmath of {composition} failed at y = {_shown(y)}: "
                f"{type(error).__name__}: {error}"
            ) from error
    for i, x in enumerate(found):
        if isinstance(x, mpmath.mpc):
            if needed is not None and i < len(needed) and not needed[i]:
                found[i] = mpmath.nan
                continue
            raise ValueError(
                f"value_mpmath of {composition} is complex at component {i}: y = {_shown(y)} is "
                "outside its domain"
            )
        if isinstance(x, float) or not isinstance(x, mpmath.mpf | int):
            raise TypeError(
                f"value_mpmath of {composition} must return numbers of mpmath, not "
                f"{type(x).__name__} {x!r} at component {i}"
            )
    return [mpmath.mpf(x) if isinstance(x, int) else x for x in found]


def _shown(y: Sequence[float | Fraction]) -> str:
    shown = ", ".join(f"{float(x):.17g}" for x in y[:4])
    return f"[{shown}{', ...' if len(y) > 4 else ''}]"


def _measured(composition: Composition, y: list[float], found: list[float]) -> list[float]:
    """Bounds of the errors of one row of values, each rounded up; infinite for no number."""
    if not np.isfinite(found).any():
        return [np.inf] * len(found)
    exact = value_exact(composition, y, np.isfinite(found).tolist())
    if len(exact) != len(found):
        raise ValueError(
            f"value_mpmath of {composition} has {len(exact)} components, but value has {len(found)}"
        )
    errors = []
    for x, truth in zip(found, exact, strict=True):
        if not (np.isfinite(x) and mpmath.isfinite(truth)):
            errors.append(np.inf)
            continue
        with mpmath.workdps(_DIGITS):
            size = abs(mpmath.mpf(x) - truth) + abs(truth) * mpmath.mpf(10) ** -_AGREEMENT
            errors.append(float(np.nextafter(float(size), np.inf)))
    return errors


def ratio(numerator: Float64, denominator: Float64) -> Float64:
    """Quotients of nonnegative numbers, with 0/0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(numerator == 0, 0.0, numerator / denominator)


def check_norm(norm: int) -> None:
    """Raise a ValueError unless the norm is the 1-norm or the 2-norm."""
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, not {norm!r}")


def with_vector(y: ArrayLike, other: ArrayLike, name: str) -> tuple[Float64, Float64]:
    """Rows, and another array broadcast against them."""
    rows, values = rows_of(y, "y"), rows_of(other, name)
    if values.shape[-1] not in (1, rows.shape[-1]):
        raise ValueError(
            f"{name} has shape {values.shape}, which does not match shape {rows.shape} of y"
        )
    return rows, np.broadcast_to(values, np.broadcast_shapes(rows.shape, values.shape))


def with_errors(y: ArrayLike, errors: ArrayLike) -> tuple[Float64, Float64]:
    """Rows and the bounds of their absolute errors."""
    rows, bounds = with_vector(y, errors, "errors")
    if not (bounds >= 0).all():
        wrong = bounds[~(bounds >= 0)].ravel()[0]
        raise ValueError(f"errors must be bounds of magnitudes, but {wrong} is negative or NaN")
    return rows, bounds


def as_vector(x: ArrayLike | None, name: str) -> Float64 | None:
    """A parameter that is a vector, or None."""
    if x is None:
        return None
    array = rows_of(x, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must be a vector, not of shape {array.shape}")
    return array


def as_matrix(x: ArrayLike, name: str) -> Float64:
    """A parameter that is a matrix."""
    array = rows_of(x, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix, not of shape {array.shape}")
    return array
