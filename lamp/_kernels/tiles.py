"""Kernels of attention by tiles: which parts are recomputed, and the exponentials of a tile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu._kernels import caching, elementary, launching, words
from fpemu._kernels.error_free import odd_sum, quick_add, takes_odd
from fpemu._kernels.exact import fma_word
from fpemu._kernels.facts import FormatFacts, RoundingFacts
from fpemu._kernels.rounding import kind_of, round_number
from fpemu._kernels.targets import shortcut_at, shortcuts_of, target_at, targets_of
from lamp._kernels.scoring import running_largest, running_score

__all__ = [
    "Choice",
    "Tile",
    "differences",
    "exponentials",
    "largest",
    "looked_up",
    "recompute_parts",
]

_COST: Final = 2.0  # nanoseconds of a score
_LN2: Final = 0.6931471805599453

# What a kernel makes of a difference: its exponential in float64, from a table, or nothing.
_COMPUTED, _LOOKED_UP, _DIFFERENCES = range(3)


# --- look-ahead -----------------------------------------------------------------------------------


class Choice(NamedTuple):
    """What a rule needs to choose parts of tiles.

    Parameters
    ----------
    rows, columns, width : int
        The rows and the columns of a tile, and the columns of a part.
    position : int
        The position of the first row in the text.
    leading : int
        How many leading columns have their parts recomputed whatever the rule.
    """

    rows: Any
    columns: Any
    width: Any
    position: Any
    leading: Any


class Counts(NamedTuple):
    """What was recomputed: scores; tiles, and how many there are; parts, and how many there are."""

    scores: int
    tiles_recomputed: int
    tiles: int
    parts_recomputed: int
    parts: int


def recompute_parts(
    y: NDArray[Any],
    high: NDArray[Any],
    overflowed: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    thresholds: NDArray[np.float64],
    choice: Choice,
) -> tuple[NDArray[np.bool_], Counts]:
    """Choose parts of tiles by the relaxed rule and replace their scores, in place.

    Parameters
    ----------
    y, high : ndarray, shape (heads, rows, tokens)
        Scores in low precision, of which those that overflowed are in high precision already, and
        all scores in high precision.
    overflowed : ndarray of bool, shape (heads, rows, tokens)
        Scores whose parts are recomputed whatever the rule.
    lengths : ndarray of int64, shape (rows,)
        How many scores of each row there are.
    thresholds : ndarray of float64, shape (rows,)
        The logarithm of tau for each row.
    choice : Choice

    Returns
    -------
    mask : ndarray of bool, shape (heads, tiles of rows, parts of all tiles of columns)
    counts : Counts
    """
    heads, rows, tokens = y.shape
    tiles = (choice.position + rows - 1) // choice.rows - choice.position // choice.rows + 1
    parts = -(-tokens // choice.columns) * (choice.columns // choice.width)
    mask = np.zeros((heads, tiles, parts), np.bool_)
    counts = np.zeros((heads, tiles, len(Counts._fields)), np.int64)
    arrays = y, high, overflowed, lengths, thresholds
    cost = _COST * choice.rows * tokens
    launching.run(_choose_range, heads * tiles, *arrays, choice, mask, counts, cost=cost)
    return mask, Counts(*(int(count) for count in counts.sum(axis=(0, 1))))


@caching.kernel
def _choose_range(  # type: ignore[no-untyped-def]
    start, stop, y, high, overflowed, lengths, thresholds, choice, mask, counts
):
    """Tile after tile of columns: the running maxima of its rows, then its parts."""
    _, all_rows, tokens = y.shape
    tiles = mask.shape[1]
    largest = np.empty(choice.rows, np.float64)
    scores = np.empty((choice.rows, choice.columns), np.float64)
    for index in range(start, stop):
        head = index // tiles
        tile = index - head * tiles
        # Tiles of rows are those of the whole text.
        top = (choice.position // choice.rows + tile) * choice.rows - choice.position
        first_row, last_row = max(top, 0), min(top + choice.rows, all_rows)
        for r in range(last_row - first_row):
            largest[r] = -np.inf
        for first in range(0, lengths[last_row - 1], choice.columns):
            for r in range(last_row - first_row):
                row = first_row + r
                for j in range(first, min(first + choice.columns, lengths[row])):
                    number = np.float64(y[head, row, j])
                    # The logarithm is below this by more than its error: most scores need none.
                    exponent = np.int64(words.word(abs(number)) >> np.uint64(52)) - 1021
                    if -np.inf < number + exponent * _LN2 < largest[r] + thresholds[row]:
                        scores[r, j - first] = -np.inf
                        continue
                    score = running_score(number)
                    scores[r, j - first] = score
                    largest[r] = running_largest(largest[r], number, score)
            touched = np.int64(0)
            last = min(first + choice.columns, tokens)
            for begin in range(first, last, choice.width):
                chosen, exist = False, np.int64(0)
                for r in range(last_row - first_row):
                    row = first_row + r
                    end = min(begin + choice.width, lengths[row])
                    exist += max(end - begin, 0)
                    if chosen or end <= begin:
                        continue
                    # A NaN or an infinity, or a column that is recomputed whatever the rule.
                    chosen = not largest[r] < np.inf or begin < choice.leading
                    for j in range(begin, end):
                        above = scores[r, j - first] - largest[r]
                        if largest[r] == -np.inf:  # all are 0 or -inf
                            above = -np.inf if y[head, row, j] == 0.0 else np.nan
                        chosen |= overflowed[head, row, j] or not above <= thresholds[row]
                if exist == 0:
                    break
                counts[head, tile, 4] += 1
                if chosen:
                    touched = np.int64(1)
                    mask[head, tile, begin // choice.width] = True
                    counts[head, tile, 0] += exist
                    counts[head, tile, 3] += 1
                    for row in range(first_row, last_row):
                        for j in range(begin, min(begin + choice.width, lengths[row])):
                            y[head, row, j] = high[head, row, j]
            counts[head, tile, 1] += touched
            counts[head, tile, 2] += 1


# --- exponentials ---------------------------------------------------------------------------------


class Tile(NamedTuple):
    """A tile of scores: columns from `first` on, rows from `first_row` on.

    Parameters
    ----------
    y : ndarray, shape (heads, all rows, tokens)
    lengths : ndarray of int64, shape (all rows,)
        How many scores of each row there are.
    first_row, first, width : int
    """

    y: Any
    lengths: Any
    first_row: Any
    first: Any
    width: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, rows, columns."""
        return self.y.shape[0], self.y.shape[1] - self.first_row, self.width


def largest(tile: Tile) -> NDArray[np.float64]:
    """The largest score of each row, NaN left out; -inf if there is none."""
    heads, rows, _ = tile.shape
    out = np.empty((heads, rows))
    launching.run(_largest_range, heads * rows, tile, out, cost=_COST * tile.width)
    return out


@caching.kernel
def _largest_range(start, stop, tile, out):  # type: ignore[no-untyped-def]
    rows = out.shape[1]
    for index in range(start, stop):
        head = index // rows
        r = index - head * rows
        row = tile.first_row + r
        most = -np.inf
        scores = tile.y[head, row, tile.first : min(tile.first + tile.width, tile.lengths[row])]
        for j in range(scores.size):
            most = max(most, np.float64(scores[j]))
        out[head, r] = most


@functools.cache
def _kernel(flavor: int, quick: bool, kind: int) -> Callable[..., None]:
    """The kernel of exponentials; `quick` if the target of differences takes odd numbers."""
    nothing = -np.inf if flavor == _DIFFERENCES else 0.0  # whose exponential is +0

    @caching.kernel
    def exponential_range(start, stop, tile, maxima, targets, shortcuts, table, out):  # type: ignore[no-untyped-def]
        target, shortcut = target_at(targets, 0), shortcut_at(shortcuts, 0)
        rows, limit = out.shape[1], words.floating(shortcut.limit)
        for index in range(start, stop):
            head = index // rows
            r = index - head * rows
            row, maximum = tile.first_row + r, maxima[head, r]
            scores, result = tile.y[head, row, tile.first : tile.first + tile.width], out[head, r]
            count = max(min(tile.width, tile.lengths[row] - tile.first), 0)
            for j in range(count):
                number = np.float64(scores[j])
                if flavor == _COMPUTED:
                    result[j] = elementary.exp(number - maximum)
                else:
                    if quick and abs(number - maximum) < limit:
                        odd = words.floating(odd_sum(number, -maximum))
                        value = round_number(odd, shortcut, kind)
                    elif quick:
                        value = words.floating(quick_add(number, -maximum, target, kind))
                    else:
                        value = words.floating(fma_word(1.0, number, -maximum, target, kind))
                    if flavor == _LOOKED_UP:
                        found = table.values[words.word(np.float32(value)) >> table.shift]
                        value = found if value == value else value
                    result[j] = value
            if maximum == -np.inf:
                for j in range(count):
                    number = np.float64(scores[j])
                    result[j] = nothing if number == number else number
            for j in range(count, tile.width):
                result[j] = nothing

    return cast(Callable[..., None], exponential_range)


class Table(NamedTuple):
    """Exponentials by the leading bits of a float32 argument, those that `shift` leaves."""

    values: Any
    shift: Any


_UNUSED: Final = fpemu.format("float32"), fpemu.Rounding()
_NO_TABLE: Final = Table(np.zeros(1), np.uint32(0))


def _run(
    flavor: int,
    tile: Tile,
    maxima: NDArray[np.float64],
    rounded: tuple[FormatFacts, RoundingFacts],
    table: Table,
    out: NDArray[Any],
) -> NDArray[Any]:
    kernel = _kernel(flavor, takes_odd(*rounded), kind_of(rounded[1]))
    heads, rows, _ = tile.shape
    arguments = tile, maxima, targets_of(rounded), shortcuts_of(rounded), table, out
    launching.run(kernel, heads * rows, *arguments, cost=_COST * tile.width)
    return out


def exponentials(tile: Tile, maxima: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """``exp(y - m)`` in float64, stored in a type; +0 for scores that do not exist.

    Parameters
    ----------
    tile : Tile
    maxima : ndarray of float64, shape (heads, rows)
        Where one is -inf, exponentials are +0, too.
    dtype : dtype
        Of the result.

    Returns
    -------
    ndarray, shape (heads, rows, columns)
        NaN where a score is NaN.
    """
    return _run(_COMPUTED, tile, maxima, _UNUSED, _NO_TABLE, np.empty(tile.shape, dtype))


def differences(
    tile: Tile, maxima: NDArray[np.float64], format: FormatFacts, rounding: RoundingFacts
) -> NDArray[np.float64]:
    """``y - m``, rounded once; -inf where :func:`exponentials` are +0."""
    out = np.empty(tile.shape)
    return _run(_DIFFERENCES, tile, maxima, (format, rounding), _NO_TABLE, out)


def looked_up(
    tile: Tile,
    maxima: NDArray[np.float64],
    format: FormatFacts,
    rounding: RoundingFacts,
    table: NDArray[Any],
) -> NDArray[Any]:
    """The entries of a table for ``y - m``, rounded once; +0 where :func:`exponentials` are.

    Parameters
    ----------
    tile : Tile
    maxima : ndarray of float64, shape (heads, rows)
    format, rounding : Format, Rounding
        Of the differences, which are float32 numbers.
    table : ndarray
        One entry for each number of the leading bits of a float32.

    Returns
    -------
    ndarray, shape (heads, rows, columns)
        In the type of the table.  NaN where a difference is NaN.
    """
    shift = np.uint32(32 - (table.size.bit_length() - 1))
    out = np.empty(tile.shape, table.dtype)
    return _run(_LOOKED_UP, tile, maxima, (format, rounding), Table(table, shift), out)
