"""The errors of inner products of random vectors against their length: :func:`sum_errors`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fpemu import formats as _formats
from fpemu import names, scaling
from fpemu._arguments import integer
from fpemu._kernels import launching
from fpemu.accumulators import Accumulator, AccumulatorLike, Exact, ScaledCore, as_accumulator
from fpemu.formats import Format, FormatLike
from fpemu.linalg import matmul
from fpemu.rounding import Rounding
from fpemu.rounding import round as round_into
from fpemu.scaling import BlockFormat

__all__ = ["DISTRIBUTIONS", "SumErrors", "UnitsLike", "sum_errors"]

UnitsLike: TypeAlias = AccumulatorLike | Iterable[AccumulatorLike] | Mapping[str, AccumulatorLike]

_Numbers: TypeAlias = NDArray[np.float64]

DISTRIBUTIONS: Final[dict[str, Callable[[np.random.Generator, tuple[int, int]], _Numbers]]] = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "uniform": lambda generator, shape: generator.uniform(-1, 1, shape),
    "positive": lambda generator, shape: generator.uniform(0, 1, shape),
}
"""Standard normal numbers, and uniform ones from -1 to 1 and from 0 to 1."""

_EXACT: Final = Exact("float64")
_SATURATING: Final = Rounding("rne", "saturate")


@dataclass(frozen=True)
class SumErrors:
    """The errors of a unit's inner products of one length, as :func:`sum_errors` measures them.

    An error is ``|computed - exact| / sum |a_i b_i|``; that of a sum of zeros is zero.

    Attributes
    ----------
    unit : str
        The name of the unit or accumulator.
    terms : int
        The length of the vectors.
    mean, median, largest : float
        The mean, the median and the largest of the errors; infinite if sums overflow to infinity
        or NaN.
    bound : float
        A proved bound of the error of every trial that does not overflow, from
        :meth:`fpemu.Accumulator.error_bound` and :meth:`fpemu.Accumulator.underflow_bound`;
        infinite if the accumulator states none.
    overflows : int
        The number of trials whose result is infinite, NaN, or the largest number of its format.
    trials : int
        The number of inner products.
    distribution : str
        What the elements are drawn from, one of :data:`fpemu.errors.DISTRIBUTIONS`.
    inputs : str
        The format, or the two formats, of the elements of the vectors; with that of the scales.
    seed : int
        The seed of the random numbers.
    """

    unit: str
    terms: int
    mean: float
    median: float
    largest: float
    bound: float
    overflows: int
    trials: int
    distribution: str
    inputs: str
    seed: int


@launching.default_environment()
def sum_errors(
    units: UnitsLike,
    terms: int | Iterable[int],
    *,
    trials: int = 64,
    distribution: str = "normal",
    inputs: FormatLike = "float32",
    seed: int = 0,
) -> list[SumErrors]:
    """Measure the errors of inner products of random vectors, by unit and length.

    Parameters
    ----------
    units : accumulator, or iterable or mapping of accumulators
        Accumulators, or names of them: a format for its sequential sums, a matrix unit such as
        ``"hopper.wgmma.e4m3"``, or a kind with its parameters such as ``"blocked:e8m7:16"`` (see
        :mod:`fpemu.names`).  A mapping has accumulators by the names that the results are to have.
    terms : int or iterable of int
        The lengths of the vectors.
    trials : int
        The number of inner products of each length: those of the rows of one matrix with the
        columns of another, both of about the square root of as many.
    distribution : {"normal", "uniform", "positive"}
        What the elements are drawn from: standard normal, uniform from -1 to 1, uniform from 0
        to 1.
    inputs : Format or str
        The format that the elements are rounded into.  The elements of a unit with input formats
        are then rounded into these, and those of a block-scaled unit quantized into its blocks, by
        :func:`fpemu.scaling.quantize` and without a scale of the whole array.
    seed : int
        The seed of the elements, and of stochastic roundings that have none.

    Returns
    -------
    list of SumErrors
        By unit, and of each by length.  The same arguments give the same numbers, and those of a
        unit and a length do not depend on the others.

    Raises
    ------
    ValueError
        If a name or the distribution is unknown, a number is out of range, or an element is
        negative and the format unsigned.
    TypeError
        If an argument is of another type.

    See Also
    --------
    plot_errors : the same as a picture.

    Notes
    -----
    An error is the exact difference rounded once to float64, so that an error of zero is a sum
    without any error.  The exact sum is that of the numbers that the unit reads: errors are those
    of its additions, not those of rounding or quantizing the elements.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2.

    Examples
    --------
    >>> import fpemu
    >>> units = ["e8m7", "hopper.wgmma.bfloat16", "exact:float64"]
    >>> options = {"distribution": "positive", "inputs": "bfloat16"}
    >>> for found in fpemu.sum_errors(units, [16, 1024], **options):
    ...     print(found.unit, found.terms, f"{found.median:.1e}", found.largest <= found.bound)
    e8m7 16 2.7e-03 True
    e8m7 1024 2.2e-01 True
    hopper.wgmma.bfloat16 16 0.0e+00 True
    hopper.wgmma.bfloat16 1024 1.8e-06 True
    exact:float64 16 0.0e+00 True
    exact:float64 1024 0.0e+00 True
    """
    chosen = {name: _checked(unit) for name, unit in _named(units)}
    if not chosen:
        raise ValueError("units must have at least one accumulator")
    lengths = sorted({integer("terms", each, 1) for each in _several(terms)})
    if not lengths:
        raise ValueError("terms must have at least one length")
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise ValueError(f"distribution must be one of {known}, not {distribution!r}")
    facts = {
        "trials": integer("trials", trials, 1),
        "distribution": distribution,
        "seed": integer("seed", seed, 0),
    }
    held = _formats.operand_format(inputs)
    found = {}
    for length in lengths:
        drawn = _drawn(length, facts, held)
        for name, unit in chosen.items():
            found[name, length] = _measured(name, unit.seeded(seed), drawn, held, facts)
    return [found[name, length] for name in chosen for length in lengths]


# --- arguments ------------------------------------------------------------------------------------


def _several(terms: Any) -> Iterable[Any]:
    return terms if isinstance(terms, Iterable) and not isinstance(terms, str) else (terms,)


def _named(units: Any) -> Iterator[tuple[str, Any]]:
    """Every unit and the name that results have for it."""
    if isinstance(units, Mapping):
        for name, unit in units.items():
            yield str(name), _found(unit)
        return
    one = isinstance(units, str | Format | Accumulator | ScaledCore)
    for unit in [units] if one or not isinstance(units, Iterable) else units:
        found = _found(unit)
        own = isinstance(unit, str | Accumulator | ScaledCore)
        yield str(unit if own else getattr(found, "format", found)), found


def _found(unit: Any) -> Any:
    return names.accumulator(unit) if isinstance(unit, str) else as_accumulator(unit)


def _checked(unit: Any) -> Accumulator | ScaledCore:
    if not isinstance(unit, Accumulator | ScaledCore):
        raise TypeError(f"units must be accumulators or names of them, not {unit!r}")
    return unit


# --- one length -----------------------------------------------------------------------------------


def _drawn(terms: int, facts: Mapping[str, Any], held: Format) -> tuple[_Numbers, _Numbers]:
    """Two matrices whose product has the trials among its elements."""
    generator = np.random.default_rng([facts["seed"], terms])
    rows = math.isqrt(facts["trials"])
    columns = -(-facts["trials"] // rows)
    draw = DISTRIBUTIONS[facts["distribution"]]
    a, b = draw(generator, (rows, terms)), draw(generator, (terms, columns))
    return _members(a, held), _members(b, held)


def _members(x: _Numbers, format: Format | None) -> Any:
    """The numbers in a format, in the carrier that holds it."""
    if format is None:
        return x
    if not format.signed and x.min() < 0:
        raise ValueError(f"{format} has no negative numbers: expected distribution='positive'")
    return round_into(x, format, _SATURATING).astype(format.carrier)


class _Sums(NamedTuple):
    """The inner products of a unit, and what they are of."""

    computed: _Numbers
    a: Any
    b: Any
    inputs: str
    underflow: Callable[[], float]
    """What underflow adds to an error at most."""


def _summed(unit: Accumulator, drawn: Any, held: Format) -> _Sums:
    """The inner products of an accumulator."""
    pair = [format or held for format in unit.input_formats]
    a, b = (_members(x, format) for x, format in zip(drawn, pair, strict=True))
    computed = matmul(a, b, unit).astype(np.float64)
    inputs = " and ".join(dict.fromkeys(map(str, pair)))
    largest = max(float(np.abs(a).max()), float(np.abs(b).max()))
    return _Sums(computed, a, b, inputs, lambda: unit.underflow_bound(a.shape[1], largest=largest))


def _summed_in_blocks(unit: ScaledCore, drawn: Any) -> _Sums:
    """The inner products of a block-scaled unit."""
    left, right = (
        scaling.quantize(x, BlockFormat(str(unit), format, unit.scale, unit.scale_block), axis=axis)
        for x, format, axis in zip(drawn, unit.input_formats, (1, 0), strict=True)
    )
    computed = scaling.matmul(left, right, unit).astype(np.float64)
    elements = " and ".join(dict.fromkeys(map(str, unit.input_formats)))
    largest = max(float(np.abs(each.elements).max()) for each in (left, right))
    scales = float(left.scales.max()), float(right.scales.max())
    return _Sums(
        computed,
        scaling.dequantize(left),
        scaling.dequantize(right),
        f"{elements} with a {unit.scale} per {unit.scale_block}",
        lambda: unit.underflow_bound(left.shape[1], largest=largest, scales=scales),
    )


def _measured(
    name: str, unit: Any, drawn: Any, held: Format, facts: Mapping[str, Any]
) -> SumErrors:
    """The errors of a unit on two matrices."""
    in_blocks = isinstance(unit, ScaledCore)
    sums = _summed_in_blocks(unit, drawn) if in_blocks else _summed(unit, drawn, held)
    computed, a, b = sums.computed, sums.a, sums.b
    magnitudes = matmul(np.abs(a), np.abs(b), _EXACT).astype(np.float64)
    # From the negative result on, the exact sum is the negative error, which is rounded once.
    off = np.abs(matmul(a, b, _EXACT, c=-computed).astype(np.float64))
    errors, computed, magnitudes = (
        x.reshape(-1)[: facts["trials"]] for x in (off, computed, magnitudes)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.divide(errors, magnitudes, out=np.zeros_like(errors), where=errors != 0)
    relative[~np.isfinite(computed)] = np.inf
    terms = a.shape[1]
    return SumErrors(
        unit=name,
        terms=terms,
        mean=math.fsum(relative) / relative.size,
        median=float(np.median(relative)),
        largest=float(relative.max()),
        bound=_bound(unit, sums, float(magnitudes[magnitudes > 0].min(initial=np.inf))),
        overflows=int(np.sum(~(np.abs(computed) < unit.format.max_finite))),
        inputs=sums.inputs,
        **facts,
    )


def _bound(unit: Accumulator | ScaledCore, sums: _Sums, magnitudes: float) -> float:
    """What no relative error of a sum exceeds that does not overflow."""
    try:
        relative = unit.error_bound(sums.a.shape[1])
        absolute = sums.underflow()
    except (NotImplementedError, TypeError, ValueError):  # of an accumulator of a user
        return math.inf
    return math.nextafter(relative + absolute / magnitudes * (1 + 2.0**-40), math.inf)
