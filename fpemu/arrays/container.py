"""An array on which ordinary numpy code runs in emulated arithmetic: :func:`array`.

The operations of numpy that :mod:`fpemu.arrays.protocol` lists compute with members of the array's
format and round once into it.  All others raise TypeError, so that nothing is computed in float64
unnoticed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import ArrayLike, NDArray

from fpemu import _html
from fpemu import formats as _formats
from fpemu._environment import in_default_environment
from fpemu.accumulators import Accumulator, AccumulatorLike, Sequential, as_accumulator
from fpemu.carriers import as_carrier
from fpemu.formats import Format, FormatLike
from fpemu.rounding import Rounding, RoundingLike, as_rounding
from fpemu.rounding import round as round_into

__all__ = ["Array", "array"]


class Count:
    """The number of operations so far of an array and of what was computed from it.

    Threads may share it; a deep copy or pickle goes on from the same number by itself.
    """

    def __init__(self, number: int = 0) -> None:
        self._number = number
        self._lock = threading.Lock()

    def next(self) -> int:
        """The number of the next operation."""
        with self._lock:
            self._number += 1
            return self._number

    def __reduce__(self) -> tuple[Any, ...]:
        return Count, (self._number,)


@dataclass(frozen=True)
class Style:
    """The arithmetic of an array: its format, its rounding and the accumulator of its sums."""

    format: Format
    rounding: Rounding
    accumulator: Accumulator | None = None
    operations: Count = field(default_factory=Count, compare=False)

    @property
    def sums(self) -> Accumulator:
        """The accumulator of sums and matrix products."""
        return self.accumulator or Sequential(self.format, self.rounding)

    def step(self, *labels: Any) -> Style:
        """The style of one operation, with random bits of its own."""
        number = self.operations.next()
        if self.rounding.seed is None and self.accumulator is None:
            return self
        return replace(
            self,
            rounding=self.rounding.derived(number, *labels),
            accumulator=self.sums.derived(number, *labels),
        )

    def rounded(self, x: ArrayLike, *labels: Any) -> NDArray[Any]:
        """Numbers rounded into the format, in the dtype that holds its members."""
        rounded = round_into(x, self.format, self.rounding.derived(*labels))
        return np.asarray(rounded).astype(self.format.carrier)

    def wrap(self, values: Any) -> Array:
        """An array of numbers that are already members of the format."""
        return Array(np.asarray(values).astype(self.format.carrier, copy=False), self)


def common_style(operands: Any) -> Style:
    """The common style of all operands that are arrays; plain operands have none.

    Raises
    ------
    TypeError
        If formats, roundings (apart from their seeds) or accumulators differ.
    """
    styles = [operand.style for operand in operands if isinstance(operand, Array)]
    first = styles[0]
    for other in styles[1:]:
        if other.format != first.format:
            raise TypeError(
                f"operands are in {first.format} and {other.format}: name the format of the result "
                "as in fpemu.add(a, b, format), or convert one operand with astype(format)"
            )
        if replace(other.rounding, seed=None) != replace(first.rounding, seed=None):
            raise TypeError(
                f"operands have roundings {first.rounding.mode!r} and {other.rounding.mode!r}: "
                "convert one operand with astype(format, rounding)"
            )
        given = {style.accumulator for style in (first, other)} - {None}
        if len(given) > 1:
            raise TypeError(f"operands have accumulators {' and '.join(map(str, given))}")
        accumulator = first.accumulator or other.accumulator
        first = replace(first, accumulator=accumulator)
        if other.rounding.seed != first.rounding.seed and first.rounding.seed is not None:
            first = replace(first, rounding=first.rounding.derived("with", other.rounding.seed))
    return first


class Array(NDArrayOperatorsMixin):
    """An array of members of a format with its arithmetic; made by :func:`array`.

    Attributes
    ----------
    values : ndarray
        The numbers: float32 if that holds every member of the format, else float64.
    format : Format
        The format of the numbers and of every result.
    rounding : Rounding
        The rounding of every operation.  A stochastic one with a seed draws for every element of
        every operation by itself: also for the same operation again, as in a loop, and for parts of
        one array.  Random bits are keyed by the seed, the number of the operation and the index
        of the element in its result; operations are counted, in the order in which the program
        runs, over an array made by :func:`array` and all that was computed from it.  So a program
        gives the same bits in every run, on any number of Numba's threads.  Two arrays that were
        made with the same seed draw the same bits, as do an array and a deep or pickled copy of
        it: give each a seed of its own.
    accumulator : Accumulator
        Forms sums, means and matrix products: sums as inner products with ones, in index order.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: NDArray[Any], style: Style) -> None:
        self.values = values
        self.style = style

    @property
    def format(self) -> Format:
        """The format of the numbers and of every result."""
        return self.style.format

    @property
    def rounding(self) -> Rounding:
        """The rounding of every operation."""
        return self.style.rounding

    @property
    def accumulator(self) -> Accumulator:
        """The accumulator of sums and matrix products."""
        return self.style.sums

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each dimension."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.values.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.values.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of `values`."""
        return self.values.dtype

    @property
    def T(self) -> Array:  # noqa: N802 - numpy's name
        """The transpose, a view."""
        return Array(self.values.T, self.style)

    # fpemu.arrays.protocol, which imports this module, sets both.
    on_ufunc: ClassVar[Callable[..., Any]]
    on_function: ClassVar[Callable[..., Any]]

    # --- numpy's protocols ------------------------------------------------------------------------

    @in_default_environment
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The numbers as a plain array."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return self.on_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        return self.on_function(function, arguments, options)

    def __dlpack__(self, **options: Any) -> Any:
        """The numbers for another library, such as PyTorch, which shares their memory."""
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The processor, as DLPack counts devices."""
        return self.values.__dlpack_device__()

    # --- a container ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> Array:
        """A part of the array; a single element is a zero-dimensional array."""
        return Array(np.asarray(self.values[_plain_key(key)]), self.style)

    @in_default_environment
    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, Array):
            common_style((self, value))
            self.values[_plain_key(key)] = value.values
        else:
            self.values[_plain_key(key)] = self.style.step("set").rounded(value)

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))

    @in_default_environment
    def __bool__(self) -> bool:
        return bool(self.values)

    @in_default_environment
    def __float__(self) -> float:
        return float(self.values)

    @in_default_environment
    def __int__(self) -> int:
        return int(self.values)

    @in_default_environment
    def item(self) -> float:
        """The one element as a Python float."""
        return float(self.values.item())

    @in_default_environment
    def tolist(self) -> Any:
        """The elements as Python floats."""
        return self.values.tolist()

    @in_default_environment
    def __repr__(self) -> str:
        numbers = np.array2string(self.values, separator=", ", prefix="array(")
        mode = self.rounding.mode
        rounding = "" if mode == "rne" else f", rounding={mode}"
        return f"array({numbers}, format={self.format}{rounding})"

    @in_default_environment
    def __str__(self) -> str:
        return str(self.values)

    @in_default_environment
    def __format__(self, spec: str) -> str:
        """The text of one number as a float has it; that of several takes no specification."""
        if spec and not self.ndim:
            return format(self.item(), spec)
        return super().__format__(spec)

    @in_default_environment
    def _repr_html_(self) -> str:
        shape = " x ".join(map(str, self.shape)) or "one number"
        numbers = np.array2string(self.values, separator=", ", threshold=200)
        rows = (
            ("rounding", self.rounding.mode),
            ("sums", self.accumulator),
            ("values", _html.lines(numbers)),
        )
        return _html.facts(f"array: {shape}, {self.format}", rows)

    # --- methods that numpy's arrays have ---------------------------------------------------------

    @in_default_environment
    def astype(self, format: Any, rounding: RoundingLike | None = None) -> Any:
        """The numbers rounded into another format, or as a plain array of a dtype.

        An accumulator that was given to the array stays; left out, it is that of the new format.

        Parameters
        ----------
        format : Format, str or dtype
            A format, or ``numpy.float64`` and the like for a plain array.
        rounding : Rounding or str, optional
            The rounding of the result; by default that of this array.

        Returns
        -------
        Array or ndarray
        """
        if isinstance(format, np.dtype | type):
            return self.values.astype(format)
        wanted = self.rounding if rounding is None else as_rounding(rounding)
        style = replace(self.style, format=_formats.format(format), rounding=wanted)
        return style.wrap(style.step("astype").rounded(self.values))

    def copy(self) -> Array:
        """A copy of the numbers."""
        return Array(self.values.copy(), self.style)

    def reshape(self, *shape: Any) -> Array:
        """The same numbers in another shape."""
        return Array(self.values.reshape(*shape), self.style)

    def transpose(self, *axes: Any) -> Array:
        """The dimensions in another order."""
        return Array(self.values.transpose(*axes), self.style)

    def ravel(self) -> Array:
        """The same numbers in one dimension."""
        return Array(self.values.ravel(), self.style)

    def sum(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """Sums by the accumulator, in index order."""
        return np.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """The sum, divided by the exact number of terms and rounded again."""
        return np.mean(self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """Products in index order, each rounded."""
        return np.prod(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """The largest numbers."""
        return np.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, *, keepdims: bool = False) -> Any:
        """The smallest numbers."""
        return np.min(self, axis=axis, keepdims=keepdims)

    def clip(self, min: Any = None, max: Any = None) -> Any:
        """The numbers between bounds, which are compared as they are and rounded where taken."""
        return np.clip(self, min, max)

    @in_default_environment
    def argmax(self, axis: Any = None) -> Any:
        """Indices of the largest numbers."""
        return np.argmax(self.values, axis=axis)

    @in_default_environment
    def argmin(self, axis: Any = None) -> Any:
        """Indices of the smallest numbers."""
        return np.argmin(self.values, axis=axis)

    def cumsum(self, axis: int | None = None) -> Any:
        """Partial sums in index order, each rounded."""
        return np.cumsum(self, axis=axis)

    def dot(self, other: Any) -> Any:
        """The inner or matrix product by the accumulator."""
        return np.dot(self, other)

    @in_default_environment
    def any(self, axis: Any = None) -> Any:
        """Whether any number is nonzero."""
        return np.any(self.values, axis=axis)

    @in_default_environment
    def all(self, axis: Any = None) -> Any:
        """Whether all numbers are nonzero."""
        return np.all(self.values, axis=axis)


def _plain_key(key: Any) -> Any:
    return key.values if isinstance(key, Array) else key


def array(
    x: ArrayLike,
    format: FormatLike,
    rounding: RoundingLike = "rne",
    *,
    accumulator: AccumulatorLike | None = None,
) -> Array:
    """An array on which numpy's ufuncs, reductions and ``@`` run in emulated arithmetic.

    Parameters
    ----------
    x : array_like
        Real numbers, rounded into the format.
    format : Format or str
        The format of the elements and of every result.
    rounding : Rounding or str
        The rounding of every operation.
    accumulator : Accumulator, Format, str or dtype, optional
        Forms sums and matrix products, a format term after term; by default
        ``Sequential(format, rounding)``.  If its format is another one, its results are rounded
        into `format`.

    Returns
    -------
    Array
        Plain operands of arithmetic are first rounded into the format, like constants of a program
        for the machine.  Comparisons, clip, maximum and minimum take them as they are and round
        results.  Operands in different formats raise TypeError.

    Raises
    ------
    ValueError
        If a format or mode is unknown, or `x` holds NaN and the format has no NaN.
    TypeError
        If `x` does not hold real numbers or `accumulator` is not an accumulator.

    Examples
    --------
    >>> import numpy as np
    >>> import fpemu
    >>> x = fpemu.array([1.0, 0.3, 3.0], "float8_e4m3fn")
    >>> x * 0.1 + 1
    array([1.125, 1.   , 1.25 ], format=float8_e4m3fn)
    >>> np.exp(x) @ x
    array(64., format=float8_e4m3fn)
    """
    sums = None if accumulator is None else as_accumulator(accumulator)
    if sums is not None and not isinstance(sums, Accumulator):
        raise TypeError(
            f"accumulator must be an accumulator such as Sequential('e8m7'), not {accumulator!r}"
        )
    style = Style(_formats.format(format), as_rounding(rounding), sums)
    return style.wrap(style.step("array").rounded(as_carrier(x)))
