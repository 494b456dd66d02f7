"""Error bounds of f(g(x)), where g are inner products in some arithmetic.

There are two steps.  :func:`lamp.bounds.products` computes g under an accumulator and bounds its
errors; :func:`bound` carries these bounds through a composition f and adds the rounding errors of
f.

Both start from computed numbers: the computed y is known, the exact one is not, and differs from it
by at most the bound.  The resulting bound of ``|computed - f(y)|`` is therefore a certificate that
needs no exact result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu import Accumulator, _html
from lamp._kernels.callables import telling
from lamp._kernels.rows import Float64, outward
from lamp.bounds.claims import keeps_claims
from lamp.bounds.compositions import Composition
from lamp.bounds.evaluations import Evaluation, InFloat64
from lamp.bounds.inner_products import ProductErrors, claims_of

__all__ = ["ORDERS", "Bound", "bound"]

ORDERS: Final = ("rigorous", "first_order")
"""The ways to carry errors through a composition."""


@dataclass(frozen=True, repr=False)
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
    assumptions : tuple of str
        What the bound takes on trust, in sentences.
    """

    computed: Float64
    parts: Mapping[str, Float64]
    order: str
    failure_probability: float
    composition: str
    descriptions: Mapping[str, str]
    assumptions: tuple[str, ...] = ()

    @property
    def value(self) -> Float64:
        """The bound: the sum of all terms, rounded up."""
        return outward(np.asarray(sum(self.parts.values())), 4)

    @property
    def covers(self) -> tuple[str, ...]:
        """The sources of error that the bound covers."""
        return tuple(self.parts)

    def __repr__(self) -> str:
        return f"<Bound of {self.composition}, {self.order}: {_extent(self.value)}>"

    def _repr_html_(self) -> str:
        title, *rest = self.explain().splitlines()
        parts = [
            (name, f"{_extent(part)}; {self.descriptions[name]}")
            for name, part in self.parts.items()
        ]
        said = [("", line.strip()) for line in rest[len(parts) :]]
        return _html.facts(title, [*parts, *said])

    def explain(self) -> str:
        """The bound and its terms, in words.

        Returns
        -------
        str
        """
        size = self.value
        lines = [
            f"|computed - exact| of {self.composition}, {size.shape[-1]} components a row: "
            f"{_extent(size)}"
        ]
        for name, part in self.parts.items():
            how = self.descriptions[name]
            lines.append(f"  {name}: {_extent(part)}; {how}")
        if self.order == "first_order":
            lines.append("  to first order: terms in products of errors are left out")
        elif self.assumptions:
            lines.append("  rigorous as far as these assumptions hold; roundings are outward")
        else:
            lines.append("  rigorous: nothing is left out, and roundings are outward")
        lines += [f"  assumed: {assumption}" for assumption in self.assumptions]
        if self.failure_probability:
            lines.append(f"  a row's bound fails with probability {self.failure_probability:.3g}")
        return "\n".join(lines)


def _extent(sizes: Float64) -> str:
    if not sizes.size:
        return "there are no rows"
    return f"at most {sizes.max():.3g}, median {np.median(sizes):.3g}"


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
        If the order is unknown, or f or a term of the bound is not what it has to be.
    TypeError
        If `composition`, `arguments` or `evaluation` is none, or a compiled method does not take
        rows.

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
    if not isinstance(composition, Composition):
        raise TypeError(f"composition must be a Composition, not {composition!r}")
    if not (hasattr(machine, "value") and hasattr(machine, "error")):
        raise TypeError(
            "evaluation must have a value and an error, as evaluations.ByKernel(kernel, "
            f"error_bound) has, not {machine!r}"
        )
    if not isinstance(arguments, ProductErrors):
        raise TypeError(f"arguments must be ProductErrors, as products() gives, not {arguments!r}")
    y = arguments.computed
    if y.ndim == 0:
        raise ValueError("f takes rows: the inner products need at least one dimension")
    # A row that overflowed has no bound.
    known = np.asarray(np.isfinite(y).all(axis=-1, keepdims=True))
    held, errors = _held(y, known), np.where(known, arguments.errors, 0.0)
    value = _value(composition, machine, held, known)
    computed = np.where(known, value, np.nan)
    if known.any():
        parts = _carried(composition, held, errors, arguments.recomputed, order)
        with telling(f"value_error of {composition}", held):
            rounding = machine.error(composition, held)
    else:
        parts, rounding = {"inner products": np.full(value.shape, np.inf)}, value
    descriptions = dict.fromkeys(parts, arguments.description) | {_ROUNDING: str(machine)}
    is_number = np.isfinite(computed)
    unbounded = np.asarray(np.isinf(errors).any(axis=-1, keepdims=True))
    return Bound(
        computed,
        {
            name: _checked_part(part, _Place(name, composition, held, errors), is_number, unbounded)
            for name, part in {**parts, _ROUNDING: rounding}.items()
        },
        order,
        min(1.0, y.shape[-1] * arguments.failure_probability),
        str(composition),
        descriptions,
        (*arguments.assumptions, *composition.assumptions(order), *_of_machine(machine)),
    )


_ROUNDING: Final = "rounding of f"
_QUIET: Final[dict[str, Any]] = {"all": "ignore"}


def _held(y: Float64, known: NDArray[np.bool_]) -> Float64:
    """Rows at which f can be evaluated: unknown ones are replaced by a known one, or by zeros."""
    rows = y.reshape(-1, y.shape[-1])
    first = rows[np.argmax(known)] if known.any() else np.zeros(y.shape[-1])
    return np.where(known, y, first)


def _value(
    composition: Composition, machine: Evaluation, held: Float64, known: NDArray[np.bool_]
) -> Float64:
    """The computed f of rows, checked; quietly where no row is known."""
    quiet = np.errstate(**({} if known.any() else _QUIET))
    with quiet, telling(f"value of {composition}", held):
        value = np.asarray(machine.value(composition, held), np.float64)
    if value.ndim != held.ndim or value.shape[:-1] != held.shape[:-1]:
        raise ValueError(
            f"the value of {composition} has shape {value.shape} for rows of shape {held.shape}"
        )
    return value


def _of_machine(machine: Evaluation) -> tuple[str, ...]:
    is_proved = getattr(machine, "is_proved", False)
    if is_proved and keeps_claims(type(machine), "value", "error"):
        held = (value for value in vars(machine).values() if isinstance(value, Accumulator))
        return tuple(claim for each in held for claim in claims_of(each))
    return (f"error() bounds |value - f(y)|, as the evaluation {machine} states",)


class _Place(NamedTuple):
    """What a term of a bound was computed from."""

    name: str
    composition: Composition
    y: Float64
    errors: Float64


def _checked_part(
    part: Any, place: _Place, is_number: NDArray[np.bool_], unbounded: NDArray[np.bool_]
) -> Float64:
    """A term of a bound: infinite where there is no number or no bound of the arguments."""
    part = np.asarray(part, np.float64)
    source = f"the term {place.name!r} of the bound of {place.composition}"
    try:
        part = np.broadcast_to(part, is_number.shape)
    except ValueError:
        raise ValueError(
            f"{source} has shape {part.shape}, but f has shape {is_number.shape}"
        ) from None
    nothing = ~is_number | (unbounded & np.isnan(part))
    part = np.where(nothing, np.inf, part)
    wrong = ~(part >= 0)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        row, errors = place.y[index[:-1]], place.errors[index[:-1]]
        method = "error" if place.name == _ROUNDING else "enclosure or amplified"
        raise ValueError(
            f"{source} is {part[index]} at component {index}, where y is {row[:4].tolist()} and "
            f"its errors {errors[:4].tolist()}: {method} must give bounds, at least 0, infinite "
            "where there is none"
        )
    return np.asarray(part)


def _carried(
    composition: Composition,
    y: Float64,
    errors: Float64,
    recomputed: NDArray[np.bool_] | None,
    order: str,
) -> dict[str, Float64]:
    """The terms of a bound that come from the errors of the arguments."""
    method = "enclosure" if order == "rigorous" else "amplified"
    carry = getattr(composition, method)
    # What is NaN is looked at later.
    with (
        telling(f"{method} of {composition}", y, errors),
        np.errstate(invalid="ignore", over="ignore"),
    ):
        if order == "rigorous" or recomputed is None:
            return {"inner products": carry(y, errors)}
        return {
            "low inner products": carry(y, np.where(recomputed, 0.0, errors)),
            "recomputed products": carry(y, np.where(recomputed, errors, 0.0)),
        }
