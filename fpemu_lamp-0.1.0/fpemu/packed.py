"""Matrices that are multiplied many times, held in the width of their format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu._kernels import launching
from fpemu._kernels.panels import Narrow, Widening, narrowed
from fpemu.accumulators import (
    AccumulatorLike,
    Blocked,
    Exact,
    FlooredCore,
    Pairwise,
    Sequential,
    TensorCore,
    as_accumulator,
)
from fpemu.carriers import as_carrier
from fpemu.formats import FormatLike
from fpemu.formats import format as as_format

__all__ = ["Packed"]

_READERS: Final = (Sequential, Blocked, Pairwise, Exact, TensorCore, FlooredCore)


class Packed:
    """A matrix that is the right operand of many products, held in the width of its format.

    It takes one or two bytes per number.  Products read these bytes and make numbers of them on the
    way, which a product with few rows, bound by memory, does faster than it reads float32 numbers.
    That holds for sequential, blocked, pairwise and exact sums and matrix units that take members
    of the format, where no rounding is stochastic and neither `row_lengths` nor running sums are
    asked for.  Elsewhere the numbers are made first.

    Parameters
    ----------
    b : array_like, shape (k, n)
        Finite members of the format.
    format : Format or str
        A signed format within the range of float32, of at most 16 bits: a sign, the exponent and
        the fraction.

    Raises
    ------
    ValueError
        If `b` is not a matrix, the format is wider, or a number is not a finite member of it.

    Examples
    --------
    >>> import fpemu
    >>> weights = fpemu.Packed([[1.0, 0.5], [2.0, -3.0]], "bfloat16")
    >>> fpemu.matmul([1.0, 1.0], weights, fpemu.Sequential("float32"))
    array([ 3. , -2.5])
    """

    @launching.default_environment()
    def __init__(self, b: ArrayLike, format: FormatLike) -> None:
        array, self.format = as_carrier(b, "b"), as_format(format)
        if array.ndim != 2:
            raise ValueError(f"b must be a matrix, not an array of shape {array.shape}")
        if not self.holds(self.format):
            raise ValueError(
                f"{self.format} cannot be packed: expected a signed format of at most 16 bits "
                "within the range of float32"
            )
        narrow = narrowed(array, self.format)
        if narrow is None:
            raise ValueError(f"b holds a number that is not a finite member of {self.format}")
        self._narrow = narrow

    @staticmethod
    def holds(format: FormatLike) -> bool:
        """Whether matrices of a format can be packed."""
        return Widening.of(as_format(format)) is not None

    @staticmethod
    def is_read_by(accumulator: AccumulatorLike) -> bool:
        """Whether products by an accumulator read the bytes as they are.

        Examples
        --------
        >>> import fpemu
        >>> fpemu.Packed.is_read_by("e8m7")
        True
        >>> fpemu.Packed.is_read_by(fpemu.Promoted(fpemu.Sequential("e8m7"), "float32", 16))
        False
        """
        sums = as_accumulator(accumulator)
        return isinstance(sums, _READERS) and not (sums.has_definition() or sums.is_stochastic)

    @property
    def ndim(self) -> int:
        """The number of dimensions: 2."""
        return 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers: float32."""
        return self._narrow.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix."""
        return self._narrow.shape[1:]

    @property
    def nbytes(self) -> int:
        """The bytes of its numbers; columns are filled up to a multiple of 64."""
        return self._narrow.codes.nbytes

    def numbers(self) -> NDArray[np.float32]:
        """The numbers of the matrix."""
        matrix: NDArray[np.float32] = self._narrow.numbers()[0]
        return matrix

    def columns(self, first: int, last: int) -> Packed:
        """Some columns, without a copy.

        Parameters
        ----------
        first, last : int
            The first column, a multiple of 64, and the one behind the last.
        """
        if first % 64 or not 0 <= first <= last <= self.shape[1]:
            raise ValueError(
                f"columns {first} to {last} of {self.shape[1]}: expected a multiple of 64 first"
            )
        return self._like(self._narrow.part(first, last))

    @staticmethod
    def beside(parts: Iterable[Packed], columns: int) -> Packed:
        """Matrices of one format and height side by side, each of which is asked for once.

        Parameters
        ----------
        parts : iterable of Packed
            All but the last have a multiple of 64 columns.
        columns : int
            How many columns all of them have.

        Raises
        ------
        ValueError
            If formats or heights differ, or the columns are others.
        """
        whole: Packed | None = None
        codes: Any = None
        first = 0
        for part in parts:
            if whole is None:
                narrow = part._narrow
                codes = np.empty((-(-columns // 64), *narrow.codes.shape[1:]), narrow.codes.dtype)
                shape = (1, part.shape[0], columns)
                whole = part._like(Narrow(codes, narrow.widening, shape))
            if (part.format, part.shape[0]) != (whole.format, whole.shape[0]):
                raise ValueError(f"{part!r} beside {whole!r}: expected the same format and height")
            if first % 64 or first + part.shape[1] > columns:
                raise ValueError(
                    f"{part!r} from column {first} to {columns}: it does not fit there"
                )
            codes[first // 64 : -(-(first + part.shape[1]) // 64)] = part._narrow.codes
            first += part.shape[1]
        if whole is None or first != columns:
            raise ValueError(f"parts have {first} columns, expected {columns}")
        codes.flags.writeable = False
        return whole

    def _like(self, narrow: Narrow) -> Packed:
        """Another matrix of the format."""
        other: Packed = object.__new__(Packed)
        other.format, other._narrow = self.format, narrow
        return other

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"Packed({rows} x {columns}, {self.format})"


def operand_of(b: Any) -> Narrow | None:
    """What kernels take of a packed matrix."""
    return b._narrow if isinstance(b, Packed) else None
