"""Inner products g in some arithmetic, and bounds of their errors.

References
----------
N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 3.3.
N. J. Higham, T. Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci.
Comput. 41(5), 2019.  M. P. Connolly, N. J. Higham, T. Mary, "Stochastic rounding and its
probabilistic backward error analysis", SIAM J. Sci. Comput. 43(1), 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fpemu
from fpemu import Accumulator, Format, Rounding
from fpemu.carriers import as_carrier, check_not_masked
from lamp._kernels.callables import call, name_of
from lamp._kernels.rows import Float64, outward, rows_of
from lamp.bounds.evaluations import NEAREST

__all__ = ["KINDS", "Kernel", "ProductErrors", "claims_of", "products"]

KINDS: Final = ("deterministic", "probabilistic", "stochastic", "running")
"""The kinds of bounds of inner products."""


class Kernel(Protocol):
    """An inner product of one's own: a function of two vectors, and of what the sum begins with."""

    def __call__(self, *arguments: Any, **nothing: Any) -> float:
        """The computed inner product, or a bound of its error."""
        ...


@dataclass(frozen=True)
class ProductErrors:
    """Computed inner products and bounds of their errors.

    Parameters
    ----------
    computed : ndarray of float64, shape (..., n)
        The results of the accumulator.
    errors : ndarray of float64, shape (..., n)
        Bounds of ``|computed - exact|``; infinite where a sum has overflowed, or may have.
    failure_probability : float
        The probability that one of these bounds fails; 0 unless the kind is probabilistic.
    description : str
        The kind of the bound, in words.
    recomputed : ndarray of bool, shape (..., n), optional
        Which components were recomputed in high precision.
    assumptions : tuple of str
        What the bounds take on trust, in sentences.

    Raises
    ------
    ValueError
        If shapes differ, or a bound is negative or NaN.
    """

    computed: Float64
    errors: Float64
    failure_probability: float
    description: str
    recomputed: NDArray[np.bool_] | None = None
    assumptions: tuple[str, ...] = ("the given errors bound |computed - exact|",)

    def __post_init__(self) -> None:
        for name in ("computed", "errors"):
            check_not_masked(getattr(self, name), name)
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        if self.errors.shape != self.computed.shape:
            raise ValueError(
                f"errors have shape {self.errors.shape}, but the computed inner products have "
                f"shape {self.computed.shape}"
            )
        if not (self.errors >= 0).all():
            wrong = self.errors[~(self.errors >= 0)].ravel()[0]
            raise ValueError(f"errors must be bounds of magnitudes, but {wrong} is negative or NaN")
        if not 0 <= self.failure_probability < 1:
            raise ValueError(
                f"failure_probability must lie in [0, 1), not {self.failure_probability!r}"
            )

    def with_recomputed(self, high: ProductErrors, selected: ArrayLike) -> ProductErrors:
        """Replace selected components by those of a computation in high precision.

        Parameters
        ----------
        high : ProductErrors
            The same inner products, computed in high precision.
        selected : array_like of bool, shape (..., n)
            Which components to replace.

        Returns
        -------
        ProductErrors

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        mask = np.asarray(selected, dtype=bool)
        if not self.computed.shape == high.computed.shape == mask.shape:
            raise ValueError(
                f"shapes differ: {self.computed.shape} of the products, {high.computed.shape} of "
                f"those in high precision, {mask.shape} of the selection"
            )
        return ProductErrors(
            np.where(mask, high.computed, self.computed),
            np.where(mask, high.errors, self.errors),
            max(self.failure_probability, high.failure_probability),
            f"{self.description}; recomputed: {high.description}",
            mask,
            tuple(dict.fromkeys(self.assumptions + high.assumptions)),
        )


def products(
    a: ArrayLike,
    b: ArrayLike,
    accumulator: Accumulator | Kernel,
    *,
    c: ArrayLike | None = None,
    kind: str = "deterministic",
    failure_probability: float = 1e-3,
    error_bound: Accumulator | Kernel | None = None,
) -> ProductErrors:
    """Inner products under an accumulator, or by a kernel of one's own, and bounds of their errors.

    Parameters
    ----------
    a, b : array_like
        As for :func:`fpemu.matmul`, members of the accumulator's input formats.
    accumulator : Accumulator or callable
        How sums are formed; or a kernel of one's own, compiled by Numba or not: a function of a row
        of `a` and a column of `b`, both float64 vectors, and of the element of `c` if that is
        given, that returns the computed inner product.
    c : array_like, optional
        The initial values of the sums.
    kind : {"deterministic", "probabilistic", "stochastic", "running"}
        ``"deterministic"``: ``error_bound(k) sum |a b| + underflow_bound(k)``, for any data.
        ``"probabilistic"``: the errors of roundings to nearest are modelled as independent with
        mean zero.  ``"stochastic"``: the same for stochastic rounding, where it is a theorem.
        ``"running"``: the sum of the bounds of all roundings, from the computed partial sums;
        rigorous, and the only useful kind at few bits.
    failure_probability : float
        The probability that the bound of an inner product fails, for the probabilistic kinds.
    error_bound : Accumulator or callable, optional
        What bounds the errors of a kernel, which must say so: an accumulator whose deterministic
        bound holds for the kernel, too, or a function of the kernel's arguments that returns a
        bound of ``|computed - exact|``.

    Returns
    -------
    ProductErrors

    Raises
    ------
    ValueError
        If the kind is unknown or does not fit the accumulator's rounding, an argument of
        :func:`fpemu.matmul` is wrong, an element of `a` or `b` is not a member of the accumulator's
        input format, or `error_bound` gives a negative number or NaN.
    TypeError
        If the kind needs an accumulator that consists of roundings alone, and this one does not, or
        a kernel comes without `error_bound`, or does not take two vectors.

    Notes
    -----
    With n_i roundings of unit e_i on the way of a term, k terms and failure probability P the
    probabilistic constant is ``exp(lambda sqrt(sum n_i e_i**2) + sum n_i e_i**2 / (1 - e)) - 1``,
    ``lambda = sqrt(2 log(2 k / P)) / (1 - e)``, e the largest unit: Higham and Mary's theorem 2.4,
    with Hoeffding's inequality for terms of several sizes.

    Examples
    --------
    >>> import fpemu
    >>> from lamp import bounds
    >>> found = bounds.products([1.0, 2.0**-9], [1.0, 1.0], fpemu.Sequential("e8m7"))
    >>> float(found.computed), bool(found.errors >= 2.0**-9)
    (1.0, True)
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of bound {kind!r}: expected {', '.join(KINDS)}")
    left, right = rows_of(a, "a"), rows_of(b, "b")
    if not isinstance(accumulator, Accumulator) and callable(accumulator):
        return _by_kernel(left, right, accumulator, c, kind, error_bound)
    if error_bound is not None:
        raise TypeError(
            f"error_bound is for a kernel of one's own: {accumulator} has its own bound"
        )
    _check_accumulator(accumulator)
    _check_members(left, right, accumulator)
    terms, initial = left.shape[-1], c is not None
    floor = accumulator.underflow_bound(terms, initial=initial)
    failure = 0.0
    if kind == "running":
        computed, running = fpemu.matmul(left, right, accumulator, c=c, running="first")
        errors = outward(running.roundoff * running.first, 1) + floor
        description = f"{accumulator}, running bound over {terms} terms"
    else:
        computed = fpemu.matmul(left, right, accumulator, c=c)
        if kind == "deterministic":
            constant = accumulator.error_bound(terms, initial=initial)
        else:
            _check_rounding(accumulator, kind)
            failure = _check_probability(failure_probability)
            constant = _probabilistic_constant(accumulator, terms, initial, failure)
        errors = outward(constant * _magnitudes(left, right, c), 2) + floor
        description = (
            f"{accumulator}, {kind} bound {constant:.3g} sum |a b|, {terms} terms"
            f"{_MODELS.get(kind, '')}"
        )
    computed = np.asarray(computed, np.float64)
    within = np.isfinite(computed)
    limit = _saturation(accumulator)
    if np.isfinite(limit):
        # A sum that reached the limit may have saturated without a trace.
        growth = 1.0 + accumulator.error_bound(terms, initial=initial)
        within = within & (growth * _magnitudes(left, right, c) + floor < limit)
    return ProductErrors(
        computed,
        np.where(within, errors, np.inf),
        failure,
        description,
        assumptions=claims_of(accumulator),
    )


_MODELS: Final = {"probabilistic": ", if roundings err independently and with mean zero"}


def claims_of(accumulator: Accumulator) -> tuple[str, ...]:
    """What a bound takes on trust from an accumulator.

    Parameters
    ----------
    accumulator : Accumulator

    Returns
    -------
    tuple of str
        Sentences; none if it and its parts are fpemu's.
    """
    if accumulator.is_proved:
        return ()
    return (f"error_bound() and underflow_bound() of {accumulator} hold, as its class states",)


def _check_accumulator(accumulator: Any) -> None:
    if not isinstance(accumulator, Accumulator):
        raise TypeError(
            "accumulator must be an accumulator such as Sequential('e8m7'), or a function of two "
            f"vectors, not {type(accumulator).__name__} {str(accumulator)[:60]!r}"
        )


def _check_members(a: Float64, b: Float64, accumulator: Accumulator) -> None:
    """Raise a ValueError for a number that the accumulator would have to round or flush first.

    Bounds are of the difference from the exact product of what is given.
    """
    flushes = any(getattr(part, "flush", None) is not None for part in accumulator.parts())
    for name, x, format in zip("ab", (a, b), accumulator.input_formats, strict=True):
        if format is None:
            continue
        strange = (np.asarray(fpemu.round(x, format, "rtz")) != x) & ~np.isnan(x)
        what = f"not a member of {format}"
        if flushes and not strange.any():
            strange = (x != 0) & (np.abs(x) < format.smallest_normal)
            what = f"subnormal in {format}, which the accumulator reads as zero"
        if strange.any():
            index = tuple(int(i) for i in np.argwhere(strange)[0])
            raise ValueError(
                f"{name}{list(index)} is {x[index]}, {what}: give the inner products of what the "
                f"accumulator reads, for example those of fpemu.round({name}, {str(format)!r})"
            )


def _by_kernel(
    a: Float64,
    b: Float64,
    kernel: Kernel,
    c: ArrayLike | None,
    kind: str,
    error_bound: Accumulator | Kernel | None,
) -> ProductErrors:
    """Inner products by a kernel of the user's, with what is said of their errors."""
    name = name_of(kernel)
    _check_kernel(name, a, b, kind, error_bound)
    rows, columns = np.atleast_2d(a), b.reshape(len(b), -1).T
    computed = _of_pairs(kernel, "kernel", rows, columns, c)
    if isinstance(error_bound, Accumulator):
        errors = _bounds_by(error_bound, rows, columns.T, c)
        description = f"kernel {name}, bound of {error_bound}, {a.shape[-1]} terms"
    else:
        assert error_bound is not None
        errors = _of_pairs(error_bound, "error_bound", rows, columns, c)
        if not (errors >= 0).all():
            i, j = (int(index) for index in np.argwhere(~(errors >= 0))[0])
            raise ValueError(
                f"error_bound {name_of(error_bound)} gives {errors[i, j]} for row {i} of a and "
                f"column {j} of b: a bound is at least 0, and infinite where there is none"
            )
        description = f"kernel {name}, bound by {name_of(error_bound)}"
    shape = a.shape[:-1] + b.shape[1:]
    return ProductErrors(
        computed.reshape(shape),
        np.where(np.isfinite(computed), errors, np.inf).reshape(shape),
        0.0,
        description,
        assumptions=(f"the error_bound of kernel {name} holds",),
    )


def _check_kernel(name: str, a: Float64, b: Float64, kind: str, error_bound: Any) -> None:
    """Raise an error unless a kernel comes with its bound, and a and b are what it multiplies."""
    if not (isinstance(error_bound, Accumulator) or callable(error_bound)):
        raise TypeError(
            f"kernel {name} needs error_bound, an accumulator whose bound holds for it or a "
            f"function that bounds its error, not {error_bound!r}"
        )
    if kind != "deterministic":
        raise ValueError(f"the bound of kernel {name} is its error_bound: kind {kind!r} has none")
    if a.ndim > 2 or b.ndim > 2 or a.shape[-1] != b.shape[0]:
        raise ValueError(
            f"kernel {name} multiplies rows of a by columns of b, but a has shape {a.shape} and b "
            f"shape {b.shape}"
        )


def _of_pairs(
    function: Kernel, role: str, rows: Float64, columns: Float64, c: ArrayLike | None
) -> Float64:
    """What a function gives for every row and column, shape (rows, columns)."""
    shape = len(rows), len(columns)
    starts = np.broadcast_to(np.zeros(1) if c is None else as_carrier(c, "c"), shape)

    def one(i: int, j: int) -> Any:
        begin = () if c is None else (float(starts[i, j]),)
        found = call(function, role, rows[i].copy(), columns[j].copy(), *begin)
        if np.ndim(found) or not isinstance(found, Real):
            kind = type(found).__name__
            raise TypeError(
                f"{role} {name_of(function)} must return a number, not {kind} {found!r}"
            )
        return found

    found = [one(i, j) for i, j in np.ndindex(shape)]
    return np.array(found, np.float64).reshape(shape)


def _bounds_by(accumulator: Accumulator, a: Float64, b: Float64, c: ArrayLike | None) -> Float64:
    """The deterministic bounds of an accumulator; infinite where it may saturate."""
    _check_members(a, b, accumulator)
    constant = accumulator.error_bound(a.shape[-1], initial=c is not None)
    floor = accumulator.underflow_bound(a.shape[-1], initial=c is not None)
    sizes = _magnitudes(a, b, c)
    errors = outward(constant * sizes, 2) + floor
    return np.where((1.0 + constant) * sizes + floor < _saturation(accumulator), errors, np.inf)


def _saturation(accumulator: Accumulator) -> float:
    """The least number at which a sum may saturate; infinity if it cannot."""
    limits = [math.inf]
    fields = list(vars(accumulator).values())
    directed = [
        each
        for each in fields
        if isinstance(each, Rounding)
        and each.overflow != "infinity"
        and (each.overflow in ("saturate", "propagate") or each.mode not in NEAREST)
    ]
    for each in fields:
        if isinstance(each, Accumulator):
            limits.append(_saturation(each))
        elif isinstance(each, Format) and (directed or not _overflow_shows(each)):
            limits.append(each.max_finite)
    return min(limits)


def _overflow_shows(format: Format) -> bool:
    """Whether what overflows to nearest is infinite or NaN."""
    return format.infinities or (format.has_nan and not format.p3109)


def _magnitudes(a: Float64, b: Float64, c: ArrayLike | None) -> Float64:
    """``|a| |b| + |c|``, rounded up."""
    with np.errstate(over="ignore"):
        sums = np.matmul(np.abs(a), np.abs(b))
    if c is not None:
        sums = sums + np.abs(np.asarray(c, np.float64))
    return outward(sums, a.shape[-1])


def _check_probability(probability: float) -> float:
    if not 0.0 < probability < 1.0:
        raise ValueError(f"failure_probability must lie between 0 and 1, not {probability!r}")
    return float(probability)


def _roundings_of(accumulator: Accumulator) -> list[Rounding]:
    """The roundings of an accumulator and of those that it is made of."""
    fields = (value for part in accumulator.parts() for value in vars(part).values())
    return [value for value in fields if isinstance(value, Rounding)]


def _check_rounding(accumulator: Accumulator, kind: str) -> None:
    for rounding in _roundings_of(accumulator):
        if kind == "probabilistic" and rounding.mode not in NEAREST:
            raise ValueError(
                f"a probabilistic bound takes roundings to nearest, but {accumulator} rounds by "
                f"{rounding.mode}, whose errors do not average out"
            )
        if kind == "stochastic" and (
            rounding.mode not in ("sr", "sr_equal") or rounding.random_bits is not None
        ):
            raise ValueError(
                "a stochastic bound takes stochastic rounding by the exact fraction "
                f"(random_bits=None), but {accumulator} has {rounding}"
            )
        if kind == "stochastic" and rounding.mode == "sr_equal":
            raise ValueError("sr_equal rounds up and down alike: its errors are not of mean zero")


def _probabilistic_constant(
    accumulator: Accumulator, terms: int, initial: bool, failure: float
) -> float:
    roundings = accumulator.roundings(terms, initial=initial)
    largest = max(unit for _, unit in roundings)
    if largest >= 1.0:
        return math.inf
    squares = math.fsum(count * unit * unit for count, unit in roundings)
    factor = math.sqrt(2.0 * math.log(2.0 * (terms + initial) / failure)) / (1.0 - largest)
    exponent = factor * math.sqrt(squares) + squares / (1.0 - largest)
    return math.expm1(exponent) * (1.0 + 2.0**-40) if exponent < 700.0 else math.inf
