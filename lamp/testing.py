"""Tests of error bounds: hypothesis strategies, and checks of bounds against mpmath.

:func:`settings`, :func:`vectors` and :func:`cancelling_vectors` are those of :mod:`fpemu.testing`,
which has strategies for formats, numbers and ties, too.  Strategies need hypothesis, which the
extra ``hypothesis`` installs.  Decorate a test that draws from them with :func:`settings`: a kernel
is compiled when it first runs, which takes longer than hypothesis allows an example by default.

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

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray

import fpemu
from fpemu import Accumulator, Format
from fpemu._arguments import integer
from fpemu.carriers import as_carrier
from fpemu.reference import dot_exact
from fpemu.testing import cancelling_vectors, check_hypothesis, settings, vectors
from lamp._kernels.rows import Float64, rows_of
from lamp.bounds import KINDS, Bound, Evaluation, Kernel, ProductErrors, bound, products
from lamp.bounds.compositions import Composition, value_exact
from lamp.bounds.evaluations import NEAREST

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = [
    "accumulators",
    "assert_bound_holds",
    "assert_claims_hold",
    "cancelling_vectors",
    "exact_products",
    "reference_values",
    "formats",
    "peaked_logits",
    "settings",
    "tightness",
    "vectors",
]

_DIGITS: Final = 60


# --- checks of bounds -----------------------------------------------------------------------------


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

    Raises
    ------
    ValueError
        If `a` and `b` are not matrices that fit, or a number is not finite, or an integer not a
        float64 number.
    TypeError
        If they do not hold real numbers.
    """
    left, right = np.atleast_2d(rows_of(a, "a")), rows_of(b, "b")
    if left.ndim != 2 or right.ndim != 2:
        raise ValueError(
            "a must be a row or a matrix and b a matrix, not of shapes "
            f"{left.shape} and {right.shape}"
        )
    first = np.zeros(1) if c is None else as_carrier(c, "c")
    start = np.broadcast_to(first, (len(left), right.shape[1]))
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
    """Values of f at exact arguments, to at least 40 digits.

    Parameters
    ----------
    composition : Composition
        f, whose method `value_mpmath` is trusted: it is evaluated to so many digits that more of
        them change nothing.
    exact : sequence of sequences of Fraction, m rows of n
        The arguments, such as those of :func:`exact_products`.

    Returns
    -------
    list of list of mpmath.mpf
        m rows.

    Raises
    ------
    ValueError, TypeError
        If `value_mpmath` fails, does not return real numbers of mpmath, or does not settle.
    """
    rows = [value_exact(composition, row) for row in exact]
    for number, row in enumerate(rows):
        for i, x in enumerate(row):
            if mpmath.isnan(x):
                raise ValueError(
                    f"value_mpmath of {composition} is NaN, or depends on the number of digits, at "
                    f"component {i} of row {number}"
                )
    return rows


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
    return _ratios(bound.computed, bound.value, exact)


def _ratios(computed: Float64, limits: Float64, exact: Sequence[Sequence[Any]]) -> Float64:
    """Errors over their bounds; exact values are numbers of mpmath or Fractions."""
    rows = zip(np.atleast_2d(computed).tolist(), exact, np.atleast_2d(limits).tolist(), strict=True)
    with mpmath.workdps(_DIGITS):
        ratios = [[_ratio(*each) for each in zip(*row, strict=True)] for row in rows]
    return np.array(ratios, np.float64).reshape(computed.shape)


def _number(x: Any) -> Any:
    return mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def _ratio(computed: float, exact: Any, limit: float) -> float:
    if math.isinf(limit):
        return 0.0
    if not math.isfinite(computed):
        return math.inf  # a bound that is finite promises a number
    error = abs(mpmath.mpf(computed) - _number(exact))
    if error == 0:
        return 0.0
    if limit == 0.0:
        return math.inf
    ratio = float(error / limit)
    # Rounding keeps order: only a ratio of 1 may have been on its other side.
    return math.nextafter(1.0, 2.0) if ratio == 1.0 and error > limit else ratio


def assert_bound_holds(
    composition: Composition,
    a: ArrayLike,
    b: ArrayLike,
    accumulator: Accumulator | Kernel,
    *,
    c: ArrayLike | None = None,
    kind: str = "deterministic",
    order: str = "rigorous",
    evaluation: Evaluation | None = None,
    error_bound: Accumulator | Kernel | None = None,
) -> Float64:
    """Compute f(a b) under an accumulator, and check its error against the bound.

    Parameters
    ----------
    composition : Composition
        f.
    a : array_like, shape (k,) or (m, k)
    b : array_like, shape (k, n)
        Members of the accumulator's input formats.
    accumulator : Accumulator or callable
        How the inner products are summed; or a kernel of one's own, such as an ``@njit`` function,
        with `error_bound`.
    c, kind, error_bound
        As for :func:`lamp.bounds.products`.  Bounds of the kinds ``"probabilistic"`` and
        ``"stochastic"`` may fail, in one inner product of a thousand.
    order, evaluation
        As for :func:`lamp.bounds.bound`.

    Returns
    -------
    ndarray of float64
        The error of every component, relative to its bound; 0 where the bound is infinite, as where
        a sum has overflowed.

    Raises
    ------
    AssertionError
        If an error exceeds its bound.  The message has the worst component, says which of the terms
        of the bound fails by itself, and explains the bound.  The inner products of a kernel must
        keep to `error_bound` by themselves.
    ValueError, TypeError
        If f or a bound is not what it has to be, such as NaN; the message names the term.
    """
    arguments = products(a, b, accumulator, c=c, kind=kind, error_bound=error_bound)
    inner = exact_products(a, b, c)
    of_inner = _ratios(arguments.computed, arguments.errors, inner)
    if error_bound is not None and not (of_inner <= 1).all():
        raise AssertionError(_worst("the inner products", arguments, arguments.errors, of_inner))
    found = bound(composition, arguments, order=order, evaluation=evaluation)
    ratios = tightness(found, reference_values(composition, inner))
    if (ratios <= 1).all():
        return ratios
    worst = _worst(f"{composition}", found, found.value, ratios)
    blame = _blame(composition, arguments, found, of_inner)
    raise AssertionError(f"{worst}\n{blame}{found.explain()}")


def _worst(what: str, found: Bound | ProductErrors, limits: Float64, ratios: Float64) -> str:
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(ratios), ratios.shape))
    return (
        f"component {worst} of {what} is {float(found.computed[worst])!r}, off by "
        f"{ratios[worst]:.6g} times the bound {float(limits[worst])!r}"
    )


def _blame(
    composition: Composition, arguments: ProductErrors, found: Bound, of_inner: Float64
) -> str:
    """The terms of a bound that do not hold by themselves, a line each."""
    lines = []
    if not (of_inner <= 1).all():
        lines.append(f"  the inner products are off by {of_inner.max():.6g} times their own bound")
    y = np.atleast_2d(arguments.computed)
    known = np.isfinite(y).all(axis=-1)
    own = np.atleast_2d(found.computed)[known], np.atleast_2d(found.parts["rounding of f"])[known]
    at_computed = reference_values(
        composition, [list(map(Fraction, row)) for row in y[known].tolist()]
    )
    of_value = _ratios(*own, at_computed)
    if not (of_value <= 1).all():
        lines.append(
            f"  the computed f is off by {of_value.max():.6g} times the term 'rounding of f'"
        )
    if not lines:
        lines.append("  these terms hold by themselves: errors are carried through f by too little")
    return "".join(f"{line}\n" for line in lines)


_STEP: Final = 20  # digits of the step of a difference quotient
_SLACK: Final = 2.0**-20


def assert_claims_hold(
    composition: Composition, y: ArrayLike, errors: ArrayLike, *, directions: int = 8
) -> None:
    """Check what a composition states of itself against mpmath, each claim alone.

    These are: `value` and `value_error`; `jacobian_product` against difference quotients;
    `amplified`, which must be the magnitude of the Jacobian times the errors, to 6 digits; and
    `enclosure`, if there is one, at the ends of the intervals, together and one by one, and at
    random corners.  It passes if nothing was found, which is no proof.

    Parameters
    ----------
    composition : Composition
    y : array_like, shape (n,) or (m, n)
        Rows within the domain of f.
    errors : array_like, broadcast to the shape of y
        Bounds of the errors of y, finite.
    directions : int
        The number of random corners.

    Raises
    ------
    AssertionError
        If a claim does not hold; the message names it, the component and the row.

    Examples
    --------
    >>> from lamp import compositions, testing
    >>> testing.assert_claims_hold(compositions.Softmax(), [0.5, -1.0, 2.0], [0.1, 0.2, 0.0])
    """
    rows = np.atleast_2d(rows_of(y, "y"))
    widths = np.broadcast_to(np.asarray(errors, np.float64), rows.shape)
    for row, width in zip(rows, widths, strict=True):
        _check_value(composition, row)
        jacobian = _difference_quotients(composition, row)
        found = np.stack(
            [composition.jacobian_product(row, unit) for unit in np.eye(len(row))], axis=-1
        )
        scale = np.abs(jacobian).max(initial=2.0**-1000)
        _check("jacobian_product", composition, row, np.abs(found - jacobian), scale * _SLACK)
        size = np.abs(jacobian) @ width
        off = np.abs(composition.amplified(row, width) - size)
        _check("amplified", composition, row, off, scale * width.max() * len(row) * _SLACK)
        if type(composition).enclosure is not Composition.enclosure:
            _check_enclosure(composition, row, width, integer("directions", directions, 0))


def _check(claim: str, composition: Composition, row: Float64, off: Any, limit: Any) -> None:
    wrong = ~(np.asarray(off) <= limit)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        allowed = float(np.broadcast_to(limit, wrong.shape)[index])
        raise AssertionError(
            f"{claim} of {composition} is off by {float(off[index]):.6g} at component {index}, "
            f"where {allowed:.6g} is allowed; y is {row.tolist()[:6]}"
        )


def _check_value(composition: Composition, row: Float64) -> None:
    (exact,) = reference_values(composition, [list(map(Fraction, row.tolist()))])
    limits = np.asarray(composition.value_error(row), np.float64)
    ratios = _ratios(np.asarray(composition.value(row), np.float64), limits, [exact])
    _check("value, over value_error,", composition, row, ratios, 1.0)


def _difference_quotients(composition: Composition, row: Float64) -> Float64:
    numbers = list(map(Fraction, row.tolist()))
    columns = []
    for j, x in enumerate(numbers):
        step = (abs(x) or 1) / Fraction(10**_STEP)
        above, below = (
            value_exact(composition, [*numbers[:j], x + moved, *numbers[j + 1 :]])
            for moved in (step, -step)
        )
        with mpmath.workdps(_DIGITS):
            width = mpmath.mpf(2 * step.numerator) / step.denominator
            columns.append(
                [float((up - down) / width) for up, down in zip(above, below, strict=True)]
            )
    return np.array(columns).T


def _check_enclosure(
    composition: Composition, row: Float64, width: Float64, directions: int
) -> None:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (directions, len(row)))
    units = np.eye(len(row))
    corners = np.concatenate([signs, [np.ones(len(row)), -np.ones(len(row))], units, -units])
    limits = np.asarray(composition.enclosure(row, width), np.float64)
    start = value_exact(composition, list(map(Fraction, row.tolist())))
    for corner in corners:
        moved = [
            Fraction(x) + Fraction(d)
            for x, d in zip(row.tolist(), (corner * width).tolist(), strict=True)
        ]
        with mpmath.workdps(_DIGITS):
            off = [abs(x - y) for x, y in zip(value_exact(composition, moved), start, strict=True)]
        ratios = _ratios(np.zeros(len(off)), limits, [off])
        _check("enclosure, a movement over it,", composition, row, ratios, 1.0)


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
    check_hypothesis()
    from hypothesis import strategies as st

    return st.sampled_from(_FORMATS).map(fpemu.format)


_DIRECTED: Final = ("rtz", "rtp", "rtn", "rto")
# The classes whose running sums are known: all, or those whose roundings may be stochastic.
_RUNNING: Final = ("sequential", "blocked", "pairwise", "exact")
_STOCHASTIC_RUNNING: Final = ("pairwise", "exact")


def accumulators(
    *, kind: str = "deterministic", stochastic: bool | None = None
) -> SearchStrategy[Accumulator]:
    """Accumulators that consist of roundings: sequential, blocked, pairwise, exact, promoted.

    Parameters
    ----------
    kind : {"deterministic", "probabilistic", "stochastic", "running"}
        The kind of bound that they are for, see :func:`lamp.bounds.products`; only accumulators
        that have such a bound are drawn.
    stochastic : bool, optional
        Whether all of them round stochastically; otherwise none does.  By default those of kind
        ``"stochastic"`` do.

    Returns
    -------
    SearchStrategy of Accumulator

    Raises
    ------
    ValueError
        If the kind is unknown, or has no bound for such roundings.
    """
    check_hypothesis()
    from hypothesis import strategies as st

    if kind not in KINDS:
        raise ValueError(f"unknown kind of bound {kind!r}: expected {', '.join(KINDS)}")
    random = kind == "stochastic" if stochastic is None else bool(stochastic)
    if random != (kind == "stochastic") and kind in ("stochastic", "probabilistic"):
        how = "stochastic" if random else "other"
        raise ValueError(f"no {how} rounding has a bound of kind {kind!r}")
    if random:
        roundings = st.integers(0, 2**32).map(lambda seed: fpemu.Rounding("sr", seed=seed))
    else:
        modes = NEAREST if kind == "probabilistic" else (*NEAREST, *_DIRECTED)
        roundings = st.sampled_from(modes).map(fpemu.Rounding)
    inner = st.builds(fpemu.Sequential, formats(), roundings)
    every: dict[str, SearchStrategy[Accumulator]] = {
        "sequential": st.builds(fpemu.Sequential, formats(), roundings, st.booleans()),
        "blocked": st.builds(fpemu.Blocked, formats(), st.integers(1, 16), inner, roundings),
        "pairwise": st.builds(fpemu.Pairwise, formats(), roundings, st.booleans()),
        "exact": st.builds(fpemu.Exact, formats(), roundings),
        "promoted": st.builds(fpemu.Promoted, inner, formats(), st.integers(1, 16), roundings),
    }
    running = _STOCHASTIC_RUNNING if random else _RUNNING
    return st.one_of([every[name] for name in (running if kind == "running" else every)])


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
    check_hypothesis()
    from hypothesis import strategies as st

    size = integer("length", length, 1)
    base = st.lists(st.integers(-2048, 2048), min_size=size, max_size=size)
    peaks = st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, 7680)), max_size=3)

    def raised(drawn: tuple[list[int], list[tuple[int, int]]]) -> NDArray[Any]:
        scores = np.array(drawn[0]) / 512.0
        for place, height in drawn[1]:
            scores[place] += height / 128.0
        return scores

    return st.tuples(base, peaks).map(raised)
