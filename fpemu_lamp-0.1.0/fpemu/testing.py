"""Strategies of hypothesis for tests of arithmetic: formats, their members, ties, vectors.

They need hypothesis, which the extra ``hypothesis`` installs.  Decorate a test that draws from them
with :func:`settings`: a kernel is compiled when it first runs, which takes longer than hypothesis
allows an example by default.

Examples
--------
Sterbenz's lemma, in every format with subnormal numbers:

>>> from hypothesis import given, strategies as st
>>> import fpemu
>>> from fpemu import testing
>>> @testing.settings(max_examples=20)
... @given(st.data())
... def test_differences_of_near_numbers_are_exact(data):
...     format = data.draw(testing.formats(most_bits=16).filter(lambda each: each.subnormals))
...     a, b = sorted(abs(data.draw(testing.members(format, finite=True))) for _ in range(2))
...     if b <= 2 * a:
...         assert fpemu.subtract(b, a, format) == b - a
>>> test_differences_of_near_numbers_are_exact()
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fpemu import formats as _formats
from fpemu._arguments import integer
from fpemu.codec import decode
from fpemu.formats import Format, FormatLike
from fpemu.neighbors import ulp
from fpemu.rounding import Rounding
from fpemu.rounding import round as round_into

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = [
    "arrays",
    "cancelling_vectors",
    "check_hypothesis",
    "formats",
    "members",
    "numbers",
    "settings",
    "ties",
    "vectors",
]


def check_hypothesis() -> None:
    """Raise ImportError if hypothesis is not installed; the message says how to install it."""
    try:
        import hypothesis  # noqa: F401
    except ImportError as error:
        message = f"{error}: pip install 'fpemu-lamp[hypothesis]' installs it"
        raise ImportError(message) from error


def settings(**options: Any) -> Any:
    """Settings of hypothesis for tests that draw from these strategies.

    There is no deadline, since a kernel is compiled when it first runs, and no phase `explain`,
    which runs a failing test hundreds of times more after it has been shrunk.

    Parameters
    ----------
    **options
        As for ``hypothesis.settings``; they come before these.

    Returns
    -------
    hypothesis.settings
        A decorator.

    Examples
    --------
    >>> from hypothesis import given
    >>> import fpemu
    >>> from fpemu import testing
    >>> @testing.settings(max_examples=20)
    ... @given(testing.ties("bfloat16"))
    ... def test_ties_go_to_even_numbers(x):
    ...     assert fpemu.encode(x, "bfloat16", "rne") % 2 == 0
    >>> test_ties_go_to_even_numbers()
    """
    check_hypothesis()
    from hypothesis import Phase
    from hypothesis import settings as hypothesis_settings

    phases = tuple(phase for phase in Phase if phase is not Phase.explain)
    return hypothesis_settings(**{"deadline": None, "phases": phases, **options})


# --- formats --------------------------------------------------------------------------------------

_LEAST_BITS: Final = 3


def formats(*, most_bits: int = 64, subnormals: bool | None = None) -> SearchStrategy[Format]:
    """Formats of every kind: the named ones, shapes, P3109's, and formats of arbitrary facts.

    They shrink to a named format.

    Parameters
    ----------
    most_bits : int
        The most bits of a code, at least 3.
    subnormals : bool, optional
        Whether the formats have subnormal numbers; by default some have.

    Returns
    -------
    SearchStrategy of Format
    """
    check_hypothesis()
    from hypothesis import strategies as st

    most = integer("most_bits", most_bits, _LEAST_BITS, 64)

    def wanted(format: Format | None) -> bool:
        fits = format is not None and format.bits <= most
        return fits and subnormals in (None, format.subnormals)  # type: ignore[union-attr]

    named = [each for each in reversed(_formats.named_formats().values()) if wanted(each)]
    widest, longest = st.integers(2, min(11, most - 1)), st.integers(0, min(52, most - 3))
    kinds: list[SearchStrategy[Any]] = [
        st.builds(_shape, widest, longest),
        st.builds(_p3109, st.integers(3, min(16, most)), st.integers(1, 16), *[st.booleans()] * 2),
        st.builds(
            _of_facts, widest, longest, st.integers(-8, 8), st.integers(0, 3), *[st.booleans()] * 4
        ),
    ]
    several = [kind.filter(wanted) for kind in kinds]
    return st.one_of([*([st.sampled_from(named)] if named else []), *several])


def _shape(exponent_bits: int, stored_bits: int) -> Format:
    return _formats.format(f"e{exponent_bits}m{stored_bits}")


def _p3109(bits: int, precision: int, signed: bool, extended: bool) -> Format | None:
    held = min(precision, bits - int(signed))
    name = f"Binary{bits}p{held}{'s' if signed else 'u'}{'e' if extended else 'f'}"
    return _made(_formats.format, name)


def _of_facts(
    exponent_bits: int,
    stored_bits: int,
    shift: int,
    nans: int,
    signed: bool,
    subnormals: bool,
    infinities: bool,
    negative_zero: bool,
) -> Format | None:
    bits = int(signed) + exponent_bits + stored_bits
    bias = 2 ** (exponent_bits - 1) + shift
    facts = (signed, subnormals, infinities, nans, negative_zero)
    return _made(Format, f"drawn, {bits} bits", bits, stored_bits + 1, bias, *facts)


def _made(make: Any, *arguments: Any) -> Format | None:
    """A format, or None where its facts contradict each other."""
    try:
        format: Format = make(*arguments)
    except ValueError:
        return None
    return format


# --- numbers --------------------------------------------------------------------------------------


def members(format: FormatLike, *, finite: bool = False) -> SearchStrategy[float]:
    """Members of a format, each as likely as any other: drawn by their codes.

    They shrink to zero, or to the smallest number if there is no zero.

    Parameters
    ----------
    format : Format, str or dtype
    finite : bool
        Whether to leave out the infinities and the NaN that the format has.

    Returns
    -------
    SearchStrategy of float
    """
    check_hypothesis()
    from hypothesis import strategies as st

    known = _formats.format(format)
    magnitudes = st.integers(0, known.max_finite_code).map(lambda code: float(decode(code, known)))
    signs = st.booleans() if known.signed else st.just(False)
    drawn = st.tuples(magnitudes, signs).map(lambda pair: _signed(*pair, known))
    special = [math.inf] if known.infinities else []
    special += [-math.inf] if known.infinities and known.signed else []
    special += [math.nan] if known.has_nan else []
    return drawn if finite or not special else st.one_of(drawn, st.sampled_from(special))


def _signed(magnitude: float, negative: bool, format: Format) -> float:
    if magnitude == 0 and not format.has_negative_zero:
        return 0.0
    return -magnitude if negative else magnitude


def ties(format: FormatLike) -> SearchStrategy[float]:
    """Numbers halfway between two neighboring members of a format, or to the first beyond it.

    Parameters
    ----------
    format : Format, str or dtype
        A format whose ties are float64 numbers.

    Returns
    -------
    SearchStrategy of float

    Raises
    ------
    ValueError
        If they are not, as those of float64.
    """
    known = _formats.format(format)
    wide = _formats.float64
    last = known.quantum_exponent if known.subnormals else known.emin - known.precision + 1
    if known.precision >= wide.precision or last - 1 < wide.quantum_exponent:
        raise ValueError(f"the ties of {known} are not all float64 numbers")
    return members(known, finite=True).map(lambda x: x + math.copysign(float(ulp(x, known)) / 2, x))


def numbers(format: FormatLike) -> SearchStrategy[float]:
    """Finite numbers at which roundings into a format go wrong, if ever they do.

    These are members, ties, the float64 numbers next to both, and float64 numbers of all sizes, the
    most of them beyond the range of the format.

    Parameters
    ----------
    format : Format, str or dtype

    Returns
    -------
    SearchStrategy of float
    """
    check_hypothesis()
    from hypothesis import strategies as st

    known = _formats.format(format)
    near = members(known, finite=True)
    with contextlib.suppress(ValueError):  # for float64, which has none
        near = st.one_of(near, ties(known))
    beside = st.tuples(near, st.sampled_from([math.inf, -math.inf])).map(
        lambda x: math.nextafter(*x)
    )
    every = st.floats(allow_nan=False, allow_infinity=False)
    return st.one_of(near, beside.filter(math.isfinite), every)


def arrays(
    format: FormatLike, shape: Any, *, finite: bool = False
) -> SearchStrategy[NDArray[np.floating[Any]]]:
    """Arrays of members of a format.

    Parameters
    ----------
    format : Format, str or dtype
    shape : int, tuple of int or SearchStrategy of these
        As ``hypothesis.extra.numpy.arrays`` takes it.
    finite : bool
        Whether to leave out the infinities and the NaN that the format has.

    Returns
    -------
    SearchStrategy of ndarray
        float32 if that holds the format, else float64.
    """
    check_hypothesis()
    from hypothesis.extra import numpy as extra

    known = _formats.format(format)
    return extra.arrays(known.carrier, shape, elements=members(known, finite=finite))


# --- vectors --------------------------------------------------------------------------------------


def _numbers(count: int, format: Format) -> SearchStrategy[NDArray[Any]]:
    """Members of a format made from pairs of integers, which shrink fast: to ones and to zeros."""
    check_hypothesis()
    from hypothesis import strategies as st

    spread = min(12, format.emax // 2)
    pair = st.tuples(st.integers(-1024, 1024), st.integers(-spread, spread))

    def assembled(pairs: list[tuple[int, int]]) -> NDArray[Any]:
        integers = np.array(pairs, np.float64).reshape(-1, 2)
        numbers = np.ldexp(integers[:, 0] / 512.0, integers[:, 1].astype(int))
        return np.asarray(round_into(numbers, format, Rounding(overflow="saturate")))

    return st.lists(pair, min_size=count, max_size=count).map(assembled)


def vectors(length: int, format: FormatLike = "bfloat16") -> SearchStrategy[NDArray[Any]]:
    """Vectors of members of a format, with exponents that differ widely.

    Parameters
    ----------
    length : int
        The number of components.
    format : Format, str or dtype

    Returns
    -------
    SearchStrategy of ndarray of float64, shape (length,)
    """
    return _numbers(integer("length", length, 0), _formats.format(format))


def cancelling_vectors(
    length: int, format: FormatLike = "bfloat16"
) -> SearchStrategy[tuple[NDArray[Any], NDArray[Any]]]:
    """Pairs of vectors whose inner product nearly cancels, the second half undoing the first.

    Parameters
    ----------
    length : int
        The number of components.
    format : Format, str or dtype

    Returns
    -------
    SearchStrategy of a pair of ndarrays of float64, shape (length,)
    """
    check_hypothesis()
    from hypothesis import strategies as st

    size = integer("length", length, 0)
    half = size // 2

    def paired(drawn: tuple[NDArray[Any], NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        a, b = (vector.copy() for vector in drawn)
        a[half : 2 * half] = -a[:half]
        b[half : 2 * half - 1] = b[: max(half - 1, 0)]
        return a, b

    return st.tuples(vectors(size, format), vectors(size, format)).map(paired)
