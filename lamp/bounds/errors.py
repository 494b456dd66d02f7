"""Error bounds of f(g(x)), where g are inner products in some arithmetic.

There are two steps.  :func:`products` computes g under an accumulator and bounds its errors;
:func:`bound` carries these bounds through a composition f and adds the rounding errors of f.

Both start from computed numbers: y^ is known, y is not, and differs from y^ by at most the bound.
The resulting bound of ``|fl(f(y^)) - f(y)|`` is therefore a certificate that needs no exact result.

References
----------
N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 3.3.
N. J. Higham, T. Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci.
Comput. 41(5), 2019.  M. P. Connolly, N. J. Higham, T. Mary, "Stochastic rounding and its
probabilistic backward error analysis", SIAM J. Sci. Comput. 43(1), 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fpemu
from fpemu import Accumulator, Format, Rounding
from lamp._kernels.rows import Float64, outward, rows_of
from lamp.bounds.compositions import Composition
from lamp.bounds.evaluations import NEAREST, Evaluation, InFloat64

__all__ = [
    "KINDS",
    "ORDERS",
    "Bound",
    "ProductErrors",
    "bound",
    "products",
]

KINDS: Final = ("deterministic", "probabilistic", "stochastic", "running")
"""The kinds of bounds of inner products."""

ORDERS: Final = ("rigorous", "first_order")
"""The ways to carry errors through a composition."""


# --- g: inner products ----------------------------------------------------------------------------


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
    """

    computed: Float64
    errors: Float64
    failure_probability: float
    description: str
    recomputed: NDArray[np.bool_] | None = None

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
        )


def products(
    a: ArrayLike,
    b: ArrayLike,
    accumulator: Accumulator,
    *,
    c: ArrayLike | None = None,
    kind: str = "deterministic",
    failure_probability: float = 1e-3,
) -> ProductErrors:
    """Inner products under an accumulator, and bounds of their errors.

    Parameters
    ----------
    a, b : array_like
        As for :func:`fpemu.matmul`, members of the accumulator's input formats.
    accumulator : Accumulator
        How sums are formed.
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

    Returns
    -------
    ProductErrors

    Raises
    ------
    ValueError
        If the kind is unknown or does not fit the accumulator's rounding, or an argument of
        :func:`fpemu.matmul` is wrong.
    TypeError
        If the kind needs an accumulator that consists of roundings alone, and this one does not.

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
    terms, initial = left.shape[-1], c is not None
    floor = accumulator.underflow_bound(terms, initial=initial)
    failure = 0.0
    if kind == "running":
        computed, running = fpemu.matmul(left, right, accumulator, c=c, running=True)
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
        description = f"{accumulator}, {kind} bound {constant:.3g} sum |a b|, {terms} terms"
    computed = np.asarray(computed, np.float64)
    within = np.isfinite(computed)
    limit = _saturation(accumulator)
    if np.isfinite(limit):
        # A sum that reached the limit may have saturated without a trace.
        growth = 1.0 + accumulator.error_bound(terms, initial=initial)
        within = within & (growth * _magnitudes(left, right, c) + floor < limit)
    return ProductErrors(computed, np.where(within, errors, np.inf), failure, description)


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


# --- f of g ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """A bound of ``|computed - f(y)|`` for every component, and its terms.

    Parameters
    ----------
    computed : ndarray of float64, shape (..., m)
        f of the computed arguments, as the machine evaluates it.
    parts : mapping of str to ndarray of float64, shape (..., m)
        The terms of the bound, by what they cover.
    order : str
        ``"rigorous"`` or ``"first_order"``.
    failure_probability : float
        The probability that the bound of a row fails.
    composition : str
        The name of f.
    descriptions : mapping of str to str
        The kind of each term, in words.
    """

    computed: Float64
    parts: Mapping[str, Float64]
    order: str
    failure_probability: float
    composition: str
    descriptions: Mapping[str, str]

    @property
    def value(self) -> Float64:
        """The bound: the sum of all terms, rounded up."""
        return outward(np.asarray(sum(self.parts.values())), 4)

    @property
    def covers(self) -> tuple[str, ...]:
        """The sources of error that the bound covers."""
        return tuple(self.parts)

    def explain(self) -> str:
        """The bound and its terms, in words.

        Returns
        -------
        str
        """
        size = self.value
        lines = [
            f"|computed - exact| of {self.composition}, {size.shape[-1]} components a row: "
            f"at most {size.max():.3g}, median {np.median(size):.3g}"
        ]
        for name, part in self.parts.items():
            how = self.descriptions[name]
            lines.append(f"  {name}: at most {part.max():.3g}, median {np.median(part):.3g}; {how}")
        if self.order == "first_order":
            lines.append("  to first order: terms in products of errors are left out")
        else:
            lines.append("  rigorous: nothing is left out, and roundings are outward")
        if self.failure_probability:
            lines.append(f"  a row's bound fails with probability {self.failure_probability:.3g}")
        return "\n".join(lines)


def bound(
    composition: Composition,
    arguments: ProductErrors,
    *,
    order: str = "rigorous",
    evaluation: Evaluation | None = None,
) -> Bound:
    """Bound the error of f at computed inner products: theirs, carried through f, and f's own.

    Parameters
    ----------
    composition : Composition
        f.
    arguments : ProductErrors
        The computed arguments of f and the bounds of their errors, with rows along the last axis.
    order : {"rigorous", "first_order"}
        ``"rigorous"``: :meth:`Composition.enclosure`, which neglects nothing.  ``"first_order"``:
        ``|J| errors``, separately for recomputed and other components; terms of second order in
        the errors are neglected.
    evaluation : Evaluation, optional
        How the machine evaluates f, by default in float64.

    Returns
    -------
    Bound

    Raises
    ------
    ValueError
        If the order is unknown.

    Examples
    --------
    >>> import fpemu
    >>> from lamp import bounds, compositions
    >>> key, query = [[1.0, 0.5], [0.25, 2.0]], [0.5, 1.0]
    >>> scores = bounds.products(query, key, fpemu.Sequential("e8m4"))
    >>> found = bounds.bound(compositions.Softmax(), scores)
    >>> found.covers
    ('inner products', 'rounding of f')
    >>> bool((found.value < 0.1).all())
    True
    """
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}: expected {', '.join(ORDERS)}")
    machine = InFloat64() if evaluation is None else evaluation
    y = arguments.computed
    if y.ndim == 0:
        raise ValueError("f takes rows: the inner products need at least one dimension")
    known = np.isfinite(y).all(axis=-1, keepdims=True)  # a row that overflowed has no bound
    held, errors = np.where(known, y, 0.0), np.where(known, arguments.errors, 0.0)
    parts = _carried(composition, held, errors, arguments.recomputed, order)
    descriptions = dict.fromkeys(parts, arguments.description) | {"rounding of f": str(machine)}
    parts["rounding of f"] = machine.error(composition, held)
    computed = np.where(known, machine.value(composition, held), np.nan)
    is_number = np.isfinite(computed)
    return Bound(
        computed,
        {name: np.where(is_number, part, np.inf) for name, part in parts.items()},
        order,
        min(1.0, y.shape[-1] * arguments.failure_probability),
        str(composition),
        descriptions,
    )


def _carried(
    composition: Composition,
    y: Float64,
    errors: Float64,
    recomputed: NDArray[np.bool_] | None,
    order: str,
) -> dict[str, Float64]:
    """The terms of a bound that come from the errors of the arguments."""
    if order == "rigorous":
        return {"inner products": composition.enclosure(y, errors)}
    if recomputed is None:
        return {"inner products": composition.amplified(y, errors)}
    return {
        "low inner products": composition.amplified(y, np.where(recomputed, 0.0, errors)),
        "recomputed products": composition.amplified(y, np.where(recomputed, errors, 0.0)),
    }
