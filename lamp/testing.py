"""Tests of error bounds: hypothesis strategies, and checks of bounds against mpmath.

The strategies need hypothesis, which the extra ``test`` installs.

Examples
--------
Define a function of your own and check that its bound holds:

>>> import mpmath, numpy as np, fpemu
>>> from lamp import testing
>>> from lamp.bounds.compositions import Composition
>>> class Square(Composition):
...     name = "square"
...     def value(self, y):
...         return np.square(y)
...     def value_mpmath(self, y):
...         return [x * x for x in y]
...     def jacobian_product(self, y, direction):
...         return 2 * np.asarray(y) * direction
...     def amplified(self, y, errors):
...         return np.abs(2 * np.asarray(y)) * errors
...     def enclosure(self, y, errors):
...         return (2 * np.abs(y) + errors) * errors * (1 + 2.0**-40)
>>> rng = np.random.default_rng(0)
>>> a, b = fpemu.round(rng.normal(size=(4, 32)), "e8m7"), fpemu.round(rng.normal(size=32), "e8m7")
>>> tightness = testing.assert_bound_holds(Square(), b, a.T, fpemu.Sequential("e8m4"))
>>> bool((tightness <= 1).all())
True
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray

import fpemu
from fpemu import Accumulator, Format
from fpemu.reference import dot_exact
from lamp._kernels.rows import Float64, rows_of
from lamp.bounds import Bound, Evaluation, bound, products
from lamp.bounds.compositions import Composition

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = [
    "accumulators",
    "assert_bound_holds",
    "cancelling_vectors",
    "exact_products",
    "reference_values",
    "formats",
    "peaked_logits",
    "tightness",
    "vectors",
]

_DIGITS: Final = 60


# --- checks of bounds -----------------------------------------------------------------------------


def _number(x: Fraction) -> Any:
    return mpmath.mpf(x.numerator) / x.denominator


def exact_products(a: ArrayLike, b: ArrayLike, c: ArrayLike | None = None) -> list[list[Fraction]]:
    """The exact inner products of rows with columns.

    Parameters
    ----------
    a : array_like, shape (k,) or (m, k)
    b : array_like, shape (k, n)
    c : array_like, shape broadcast to (m, n), optional
        The initial values of the sums.

    Returns
    -------
    list of list of Fraction
        m rows of n.
    """
    left, right = np.atleast_2d(rows_of(a, "a")), np.asarray(b, np.float64)
    start = np.broadcast_to(
        np.zeros(1) if c is None else np.asarray(c, np.float64), (len(left), right.shape[1])
    )
    return [
        [
            dot_exact(row.tolist(), column.tolist()) + Fraction(float(start[i, j]))
            for j, column in enumerate(right.T)
        ]
        for i, row in enumerate(left)
    ]


def reference_values(
    composition: Composition, exact: Sequence[Sequence[Fraction]]
) -> list[list[Any]]:
    """Values of f at exact arguments, to 60 digits.

    Parameters
    ----------
    composition : Composition
        f, whose method `value_mpmath` is trusted.
    exact : sequence of sequences of Fraction, m rows of n
        The arguments, such as those of :func:`exact_products`.

    Returns
    -------
    list of list of mpmath.mpf
        m rows.
    """
    with mpmath.workdps(_DIGITS):
        return [composition.value_mpmath([_number(x) for x in row]) for row in exact]


def tightness(bound: Bound, exact: Sequence[Sequence[Any]]) -> Float64:
    """Actual errors, relative to a bound.

    Parameters
    ----------
    bound : Bound
        A bound of m rows, or of one.
    exact : sequence of sequences of mpmath.mpf, m rows
        The exact values, such as those of :func:`reference_values`.

    Returns
    -------
    ndarray of float64
        In the shape of the computed values: above 1 where the bound fails, 0 where there is no
        error.  Ratios are rounded to nearest, but never across 1.
    """
    computed, limits = np.atleast_2d(bound.computed), np.atleast_2d(bound.value)
    with mpmath.workdps(_DIGITS):
        ratios = [
            [_ratio(*each) for each in zip(numbers, row, of_row, strict=True)]
            for numbers, row, of_row in zip(computed.tolist(), exact, limits.tolist(), strict=True)
        ]
    return np.array(ratios).reshape(bound.computed.shape)


def _ratio(computed: float, exact: Any, limit: float) -> float:
    if np.isinf(limit):
        return 0.0
    if not np.isfinite(computed):
        return float("inf")  # a bound that is finite promises a number
    error = abs(mpmath.mpf(float(computed)) - exact)
    if error == 0:
        return 0.0
    if limit == 0.0:
        return float("inf")
    ratio = float(error / mpmath.mpf(float(limit)))
    exceeds = bool(error > mpmath.mpf(float(limit)))
    return max(ratio, float(np.nextafter(1.0, 2.0))) if exceeds else min(ratio, 1.0)


def assert_bound_holds(
    composition: Composition,
    a: ArrayLike,
    b: ArrayLike,
    accumulator: Accumulator,
    *,
    c: ArrayLike | None = None,
    kind: str = "deterministic",
    order: str = "rigorous",
    evaluation: Evaluation | None = None,
) -> Float64:
    """Compute f(a b) under an accumulator, and check its error against the bound.

    Parameters
    ----------
    composition : Composition
        f.
    a : array_like, shape (k,) or (m, k)
    b : array_like, shape (k, n)
        Members of the accumulator's input formats.
    accumulator : Accumulator
        How the inner products are summed.
    c, kind
        As for :func:`lamp.bounds.products`.
    order, evaluation
        As for :func:`lamp.bounds.bound`.

    Returns
    -------
    ndarray of float64
        The error of every component, relative to its bound.

    Raises
    ------
    AssertionError
        If an error exceeds its bound.  The message has the worst component and explains the bound.
    """
    arguments = products(a, b, accumulator, c=c, kind=kind)
    found = bound(composition, arguments, order=order, evaluation=evaluation)
    ratios = tightness(found, reference_values(composition, exact_products(a, b, c)))
    if (ratios <= 1).all():
        return ratios
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(ratios), ratios.shape))
    raise AssertionError(
        f"component {worst} of {composition} is {float(found.computed[worst])!r}, off by "
        f"{ratios[worst]:.6g} times the bound {float(found.value[worst])!r}\n{found.explain()}"
    )


# --- strategies -----------------------------------------------------------------------------------

_FORMATS: Final = (
    *(f"ps{mu}" for mu in range(2, 11)),
    "bfloat16",
    "float16",
    "float8_e4m3fn",
    "float8_e5m2",
)


def formats() -> SearchStrategy[Format]:
    """Formats of few bits: PS(2) to PS(10), bfloat16, float16, both fp8.

    Returns
    -------
    SearchStrategy of Format
    """
    from hypothesis import strategies

    return strategies.sampled_from(_FORMATS).map(fpemu.format)


def accumulators(*, stochastic: bool = False) -> SearchStrategy[Accumulator]:
    """Accumulators that consist of roundings: sequential, blocked, pairwise, exact, promoted.

    Parameters
    ----------
    stochastic : bool
        Whether all of them round stochastically; otherwise none does.

    Returns
    -------
    SearchStrategy of Accumulator
    """
    from hypothesis import strategies as st

    if stochastic:
        roundings = st.integers(0, 2**32).map(lambda seed: fpemu.Rounding("sr", seed=seed))
    else:
        roundings = st.sampled_from(("rne", "rna", "rtz", "rtp", "rtn")).map(fpemu.Rounding)
    inner = st.builds(fpemu.Sequential, formats(), roundings)
    return st.one_of(
        st.builds(fpemu.Sequential, formats(), roundings, st.booleans()),
        st.builds(fpemu.Blocked, formats(), st.integers(1, 16), inner, roundings),
        st.builds(fpemu.Pairwise, formats(), roundings, st.booleans()),
        st.builds(fpemu.Exact, formats(), roundings),
        st.builds(fpemu.Promoted, inner, formats(), st.integers(1, 16), roundings),
    )


def vectors(length: int, format: Format | str = "bfloat16") -> SearchStrategy[NDArray[Any]]:
    """Vectors of members of a format, with exponents that differ widely.

    Parameters
    ----------
    length : int
        The number of components.
    format : Format or str

    Returns
    -------
    SearchStrategy of ndarray of float64, shape (length,)
    """
    from hypothesis import strategies as st

    member = fpemu.format(format)
    spread = min(12, member.emax // 2)
    number = st.tuples(st.floats(-2, 2, width=16), st.integers(-spread, spread))

    def assembled(pairs: list[tuple[float, int]]) -> NDArray[Any]:
        numbers = np.array([x * 2.0**exponent for x, exponent in pairs])
        return np.asarray(fpemu.round(numbers, member, fpemu.Rounding(overflow="saturate")))

    size = operator.index(length)
    return st.lists(number, min_size=size, max_size=size).map(assembled)


def cancelling_vectors(
    length: int, format: Format | str = "bfloat16"
) -> SearchStrategy[tuple[NDArray[Any], NDArray[Any]]]:
    """Pairs of vectors whose inner product nearly cancels, the second half undoing the first.

    Parameters
    ----------
    length : int
        The number of components.
    format : Format or str

    Returns
    -------
    SearchStrategy of a pair of ndarrays of float64, shape (length,)
    """
    from hypothesis import strategies as st

    half = operator.index(length) // 2

    def paired(drawn: tuple[NDArray[Any], NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        a, b = drawn
        a = a.copy()
        a[half : 2 * half] = -a[:half]
        b = b.copy()
        b[half : 2 * half - 1] = b[: max(half - 1, 0)]
        return a, b

    return st.tuples(vectors(length, format), vectors(length, format)).map(paired)


def peaked_logits(length: int) -> SearchStrategy[NDArray[Any]]:
    """Arguments of a softmax with ties and with a few components far above the others.

    Parameters
    ----------
    length : int
        The number of components.

    Returns
    -------
    SearchStrategy of ndarray of float64, shape (length,)
    """
    from hypothesis import strategies as st

    size = operator.index(length)
    base = st.lists(st.floats(-4, 4, width=16), min_size=size, max_size=size)
    peaks = st.lists(st.tuples(st.integers(0, size - 1), st.floats(0, 60, width=16)), max_size=3)

    def raised(drawn: tuple[list[float], list[tuple[int, float]]]) -> NDArray[Any]:
        scores = np.array(drawn[0])
        for place, height in drawn[1]:
            scores[place] += height
        return scores

    return st.tuples(base, peaks).map(raised)
