"""The operands of a matrix product in the shape that all kernels of products take."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numba import types
from numpy.typing import DTypeLike, NDArray

from fpemu._kernels import caching, launching, random_bits, words
from fpemu._kernels.caching import inline
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.panels import (
    COLUMNS,
    Narrow,
    aligned,
    last_bit_exponent,
    panels,
    right_of,
    source_of,
)
from fpemu._kernels.rounding import LAYOUTS, Carrier, Target, unused_bits
from fpemu._kernels.targets import target_at, targets_of

__all__ = [
    "COLUMNS",
    "INNER",
    "OUTER",
    "PRODUCTS",
    "RANDOM_TYPE",
    "VIA",
    "Arrays",
    "Operands",
    "Random",
    "aligned",
    "as_float32",
    "first_stranger",
    "in_order",
    "last_bit_exponent",
    "longest",
    "panels",
    "pieces",
    "random_of",
    "read_only",
    "right_of",
    "source_of",
    "whole_rows",
]

# The kinds of roundings in a sum: each has a target and a stream of random bits of its own.
INNER, PRODUCTS, VIA, OUTER = range(4)

_FLOAT64: Final[np.dtype[Any]] = np.dtype(np.float64)
_CHUNK: Final = 1024  # numbers between two looks at what was found
_STRIP: Final = 2**16  # numbers that are looked at at once
_COST: Final = 0.3  # nanoseconds of a number that is looked at
_KEPT_ROWS: Final = 4096  # whose lengths are kept


class Arrays(NamedTuple):
    """What a kernel of products reads and, in `out` and `running`, what it writes.

    The arrays it reads are read-only to it whoever else may write them, so that it is compiled once
    for both.
    """

    left: Any  # (batch, m, k)
    right: Any  # (batch, panels, k, COLUMNS), or a `Source`
    initial: Any  # (batch, m, n), or of size 0
    lengths: Any  # (m,)
    out: Any  # (batch, m, n)
    running: Any  # (2, batch, m, n), or of size 0


class Random(NamedTuple):
    """Where the random bits of a rounding come from, and how many of 64 it leaves alone."""

    key: Any
    unused: Any


# Numba's type of random bits, for parts of kernels.
RANDOM_TYPE: Final = types.NamedTuple([types.UniTuple(types.uint32, 2), types.uint64], Random)


def random_of(rounding: RoundingFacts) -> Random:
    """The random bits of a rounding."""
    return Random(random_bits.key_of(rounding.seed), unused_bits(rounding))


def whole_rows(rows: int, columns: int) -> NDArray[np.int64]:
    """Row lengths of a product all of which is wanted; those of few rows are made once."""
    return _few_whole(rows, columns) if rows <= _KEPT_ROWS else np.full(rows, columns, np.int64)


@functools.lru_cache(maxsize=256)
def _few_whole(rows: int, columns: int) -> NDArray[np.int64]:
    lengths = np.full(rows, columns, np.int64)
    lengths.flags.writeable = False
    return lengths


_NO_SUMS: Final = np.zeros((2, 0, 0, 0))


@dataclass(frozen=True)
class Operands:
    """Two stacks of matrices, what their sums begin with and how much of them is wanted.

    Parameters
    ----------
    a : ndarray, shape (batch, m, k)
    b : ndarray, shape (batch, k, n), or Narrow
        Both float32 if all numbers are (`narrow`).
    initial : ndarray, shape (batch, m, n), or None
        Members of the format that the accumulator holds; None for +0.
    row_lengths : ndarray of int64, shape (m,)
        How many leading columns of each row to compute.
    running : ndarray of float64, shape (2, batch, m, n), or of size 0
        Where to put the sums of the magnitudes of all rounded sums, and of their squares.
    asked : tuple of str
        Which of both somebody wants, ``"first"`` and ``"second"``: a kernel may leave out others.

    Attributes
    ----------
    shape : tuple of int
        The shape of the product.
    steps : int
        The number of terms of a sum.
    whole : bool
        Whether all columns of all rows are to be computed.
    """

    a: Carrier
    b: Any
    initial: Carrier | None
    row_lengths: NDArray[np.int64]
    running: NDArray[np.float64] = field(default_factory=lambda: _NO_SUMS)
    asked: tuple[str, ...] = ()
    shape: tuple[int, int, int] = field(init=False)
    steps: int = field(init=False)
    whole: bool = field(init=False)

    @classmethod
    def of(
        cls, a: Carrier, b: Any, initial: Carrier | None, row_lengths: NDArray[np.int64]
    ) -> Operands:
        """The operands, narrowed if they can be."""
        narrow_a, narrow_b = as_float32(a), as_float32(b)
        if narrow_a is not None and narrow_b is not None:
            a, b = narrow_a, narrow_b
        return cls(a, b, initial, row_lengths)

    @property
    def narrow(self) -> bool:
        """Whether all numbers in `a` and `b` are float32 numbers."""
        return bool(self.a.dtype == self.b.dtype == np.float32)

    def with_numbers(self) -> Operands:
        """The same with the numbers of a right operand that is held by codes."""
        return replace(self, b=self.b.numbers()) if isinstance(self.b, Narrow) else self

    @property
    def wants_running(self) -> bool:
        """Whether there is room for running sums."""
        return self.running.size > 0

    def __post_init__(self) -> None:
        (batch, rows, steps), columns = self.a.shape, self.b.shape[2]
        launching.require_shapes((self.b, (batch, steps, columns)), (self.row_lengths, (rows,)))
        known = rows <= _KEPT_ROWS and self.row_lengths is _few_whole(rows, columns)
        whole = known or bool((self.row_lengths == columns).all())
        vars(self).update(shape=(batch, rows, columns), steps=steps, whole=whole)
        if self.initial is not None:
            launching.require_shapes((self.initial, self.shape))
        if self.wants_running:
            launching.require_shapes((self.running, (2, *self.shape)))
        if not (whole or 0 <= self.row_lengths.min() <= self.row_lengths.max() <= columns):
            raise ValueError(f"row_lengths must lie in 0..{columns}")

    def arrays(self, dtype: DTypeLike, out: Carrier, right: Any = None) -> Arrays:
        """What a kernel takes: operands in `dtype`, initial values in that of the result.

        The right operand is in panels if it is not given.
        """
        launching.require_shapes((out, self.shape))
        return Arrays(
            left=read_only(self.a, dtype),
            right=panels(self.b, dtype) if right is None else right,
            initial=self.initial_as(out.dtype),
            lengths=read_only(self.row_lengths, np.int64),
            out=out,
            running=self.running,
        )

    def initial_as(self, dtype: DTypeLike) -> Any:
        """What a kernel takes of the initial values: an array of size 0 if there are none."""
        return read_only(np.zeros((0, 0, 0)) if self.initial is None else self.initial, dtype)

    def last_bit_exponent(self, *, with_initial: bool) -> int:
        """An e such that every product is a multiple of 2**e; very small unless all are finite.

        With `with_initial` so are the initial values.
        """
        exponent = last_bit_exponent(self.a) + last_bit_exponent(self.b)
        if with_initial and self.initial is not None:
            exponent = min(exponent, last_bit_exponent(self.initial))
        return exponent


def pieces(
    operands: Operands, *, most: int, filling: int, cost: float, width: int = COLUMNS
) -> tuple[int, int, float]:
    """Pieces of work, a panel of columns for some rows each.

    There are more pieces than threads that they are worth, even if there are few panels.

    Parameters
    ----------
    operands : Operands
    most : int
        The most rows of a piece.
    filling : int
        How many rows can be multiplied in the time that it takes to fill a panel.
    cost : float
        Nanoseconds that a multiply-add takes.
    width : int
        Columns of a panel.

    Returns
    -------
    tuple of int, int and float
        The rows of a piece, the number of pieces, and how many nanoseconds each takes.
    """
    batch, rows, columns = operands.shape
    panels = batch * -(-columns // width)
    wanted = launching.pieces_for(cost * rows * operands.steps * panels * width)
    wanted = -(-wanted // max(panels, 1))
    each = min(max(-(-rows // wanted), filling), most)
    taken = (min(each, rows) + filling) * max(operands.steps, 1) * width
    return each, panels * -(-rows // each), cost * taken


@inline
def longest(lengths: Any, first: int, last: int) -> int:
    """The largest of some row lengths."""
    most = 0
    for row in range(first, last):
        most = max(most, lengths[row])
    return most


@inline
def _strange(bits: Any, target: Target) -> Any:
    """Whether a number is not a member of the format; NaN counts as one."""
    sign = words.bit_and(bits, target.sign)
    magnitude = words.bit_xor(bits, sign)
    raw_field = words.shift_right(magnitude, target.field_shift)
    field = words.maximum(raw_field, 1)
    significand = words.subtract(
        magnitude, words.shift_left(words.subtract(field, 1), target.field_shift)
    )
    last_field = target.normal_field if raw_field != 0 else target.one
    dropped = words.minimum(
        words.subtract(target.quantum_field, words.minimum(field, last_field)),
        target.most_dropped,
    )
    tail = words.subtract(words.shift_left(target.one, dropped), 1)
    largest = target.largest_negative if sign != 0 else target.largest
    strange = words.bit_and(significand, tail) != 0
    strange |= (magnitude > largest) | (magnitude < target.flush_below)
    zero = target.zero_negative if sign != 0 else target.zero
    infinity = target.infinity_negative if sign != 0 else target.infinity
    if magnitude == 0:
        strange = zero != sign and zero != 0
    if magnitude >= target.carrier_infinity:
        strange = magnitude == target.carrier_infinity and infinity != bits
    return strange


class _Members(NamedTuple):
    """What quickly tells most members of a format, as numbers of a carrier and their words."""

    least: Any  # the smallest normal number
    shift: Any  # to which a smaller number is added and from which it is taken: that rounds it
    largest: Any
    tail: Any  # the bits that normal numbers do not have

    @classmethod
    def of(cls, format: FormatFacts, dtype: np.dtype[Any]) -> _Members:
        """Those of a format; of one without subnormals or signed zeros nothing is told quickly."""
        layout = LAYOUTS[dtype]
        number, word = layout.dtype, layout.word
        bits = layout.precision - format.precision
        plain = format.signed and format.subnormals and format.has_negative_zero
        exponent = format.quantum_exponent + layout.precision - 1
        if not (plain and bits >= 0 and 2 - layout.bias <= exponent <= layout.bias):
            return cls(number(0), number(0), number(-1), word(0))
        return cls(
            number(format.smallest_normal),
            number(2.0**exponent),
            number(format.max_finite),
            word(2**bits - 1),
        )


@inline
def _is_plain_member(x: Any, members: _Members) -> Any:
    """Whether a number is a member of a format, for sure."""
    magnitude = abs(x)
    rounded = (magnitude + members.shift) - members.shift
    whole = words.bit_and(words.word(magnitude), members.tail) == 0
    return (magnitude <= members.largest) & (
        whole if magnitude >= members.least else rounded == magnitude
    )


@caching.kernel
def _strangers_range(start, stop, x, targets, members, found):  # type: ignore[no-untyped-def]
    """The index in each strip of a flat array of the first number that is not a member, or -1."""
    target = target_at(targets, 0)
    for piece in range(start, stop):
        found[piece] = -1
        strip = x[piece * _STRIP : (piece + 1) * _STRIP]
        for first in range(0, strip.size, _CHUNK):
            chunk = strip[first : first + _CHUNK]
            doubtful = False
            for i in range(chunk.size):
                doubtful |= not _is_plain_member(chunk[i], members)
            if doubtful and found[piece] < 0:
                for i in range(chunk.size):
                    if found[piece] < 0 and _strange(words.word(chunk[i]), target):
                        found[piece] = first + i


def first_stranger(x: NDArray[Any], format: FormatFacts, rounding: RoundingFacts) -> int:
    """The index of the first number of a flat array that is not a member of a format, or -1.

    Parameters
    ----------
    x : ndarray of float32 or float64, read-only
    format, rounding : FormatFacts, RoundingFacts

    Returns
    -------
    int
    """
    found = np.empty(-(-x.size // _STRIP), np.int64)
    targets = targets_of((format, rounding), dtype=x.dtype)
    arguments = x, targets, _Members.of(format, x.dtype), found
    launching.run(_strangers_range, found.size, *arguments, cost=_COST * min(x.size, _STRIP))
    strips = np.flatnonzero(found >= 0)
    return int(strips[0] * _STRIP + found[strips[0]]) if strips.size else -1


def as_float32(x: Any) -> Any:
    """The same numbers as float32, if they all are, or None."""
    if x.dtype == np.float32:
        return x
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        narrow = x.astype(np.float32)
    # Looking for NaN takes several times as long as comparing.
    same = np.array_equal(narrow, x) or np.array_equal(narrow, x, equal_nan=True)
    return narrow if same else None


def read_only(x: Any, dtype: DTypeLike) -> Any:
    """A C-contiguous array of the base class that cannot be written; a view of `x` if it can be."""
    (view,) = launching.reading(np.ascontiguousarray(x, dtype))
    return view


def in_order(x: Any, order: tuple[int, ...], axis: int, multiple: int) -> Any:
    """Terms in runs of another order, filled up with zeros to a multiple of whole runs.

    Parameters
    ----------
    x : ndarray, shape (batch, m, k) or (batch, k, n)
    order : tuple of int
        A permutation of the indices of a run.
    axis : int
        That of the terms.
    multiple : int
        A multiple of the length of the order.

    Returns
    -------
    ndarray
    """
    widths = [(0, -x.shape[i] % multiple if i == axis else 0) for i in range(x.ndim)]
    filled = np.pad(x, widths)
    runs = filled.shape[axis] // len(order)
    indices = (np.arange(runs)[:, None] * len(order) + np.array(order)).reshape(-1)
    return np.take(filled, indices, axis)
