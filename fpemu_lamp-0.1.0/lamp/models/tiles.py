"""Attention by tiles: an online softmax whose inner steps are rounded, as :class:`lamp.Tiled` says.

:func:`weighted` reads like the definition: it goes through the tiles of keys with a running
maximum, a running sum and running outputs of all rows of all heads.  Look-ahead comes first
(:func:`recompute`): whether a part of a tile is recomputed depends on scores alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Accumulator, Format, Rounding, formats
from fpemu._kernels import elementary
from lamp._kernels import tiles as kernels
from lamp._kernels.rows import exp, mapped
from lamp.lookahead import LAMP, Tiles
from lamp.machines import Function, Hardware, Product, Tiled
from lamp.models.layers import left_operand, right_operand, sums_are_output

__all__ = ["Recomputed", "check_rule", "mask_of", "recompute", "weighted"]

_TABLE_BITS: Final = 11  # the precision up to which exponentials come from a table
_NEAREST: Final = Rounding()
_TOGETHER: Final = 64  # columns that kernels of products work on at once


# --- look-ahead -----------------------------------------------------------------------------------


class Recomputed(NamedTuple):
    """The parts that were recomputed, how many scores these are, and how many tiles and parts."""

    parts: NDArray[np.bool_]
    selected: int
    tiles: Tiles

    @classmethod
    def nothing(cls) -> Recomputed:
        """What there is without a rule."""
        return cls(np.zeros((0, 0, 0), np.bool_), 0, Tiles())


def check_rule(rule: LAMP | None, tiled: Tiled | None) -> None:
    """Raise a ValueError if attention by tiles cannot follow a rule as it goes."""
    if rule is None or tiled is None:
        return
    if len(rule.levels) > 1:
        raise ValueError(f"attention by tiles recomputes parts in one precision, unlike {rule}")
    if rule.rule != "relaxed" or rule.tau is None or rule.control != "none":
        raise ValueError(
            "attention by tiles takes the rule relaxed with a tau, whose running maximum is known "
            f"at every tile, not {rule}"
        )


def recompute(
    low: NDArray[Any],
    high: NDArray[Any],
    overflowed: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    rule: LAMP,
    tiled: Tiled,
) -> Recomputed:
    """Take the parts of tiles that a rule selects from high precision, in place.

    Parameters
    ----------
    low, high : ndarray, shape (heads, rows, tokens)
        Scores in both precisions; those that overflowed are in high precision in both.
    overflowed : ndarray of bool, shape (heads, rows, tokens)
        Scores whose parts are recomputed whatever the rule.
    lengths : ndarray of int64, shape (rows,)
        How many keys each row sees.
    rule : LAMP
        The relaxed rule, see :func:`check_rule`.
    tiled : Tiled

    Returns
    -------
    Recomputed
        ``parts`` has the shape (heads, tiles of rows, parts of all tiles of columns).
    """
    taus = rule.thresholds(lengths)
    choice = kernels.Choice(
        tiled.rows,
        tiled.columns,
        tiled.columns // tiled.parts,
        int(lengths[0]) - 1,
        rule.leading_columns,
    )
    thresholds = mapped(elementary.log, taus)
    parts, counts = kernels.recompute_parts(low, high, overflowed, lengths, thresholds, choice)
    tiles = Tiles(counts.tiles_recomputed, counts.tiles, counts.parts_recomputed, counts.parts)
    return Recomputed(parts, counts.scores, tiles)


def mask_of(parts: NDArray[np.bool_], lengths: NDArray[np.int64], tiled: Tiled) -> Any:
    """Which scores lie in given parts, of shape (heads, rows, tokens)."""
    tokens = int(lengths[-1])
    tiles = (lengths - 1) // tiled.rows
    by_row = parts[:, tiles - tiles[0]]
    mask = np.repeat(by_row, tiled.columns // tiled.parts, axis=2)[:, :, :tokens]
    return mask & (np.arange(tokens) < lengths[:, np.newaxis])


# --- the online softmax ---------------------------------------------------------------------------


@dataclass
class _Running:
    """What rows carry from tile to tile, each of shape (heads, rows)."""

    maxima: NDArray[np.float64]
    sums: NDArray[Any]

    def behind(self, row: int) -> _Running:
        """The rows from one on, as views."""
        return _Running(self.maxima[:, row:], self.sums[:, row:])


def weighted(
    scores: NDArray[Any], lengths: NDArray[np.int64], value: NDArray[Any], hardware: Hardware
) -> NDArray[Any]:
    """The softmax of scores times values, tile after tile of keys.

    Parameters
    ----------
    scores : ndarray, shape (heads, rows, tokens)
    lengths : ndarray of int64, shape (rows,)
        How many keys each row sees: ascending, each one more than the last.
    value : ndarray, shape (heads, tokens, d)
    hardware : Hardware
        Its attention goes by tiles.

    Returns
    -------
    ndarray, shape (heads, rows, d)
        Members of the output of the step values.
    """
    tiled, step = hardware.attention, hardware.values
    heads, rows, tokens = scores.shape
    width = tiled.columns
    if step.is_causal and tiled.running_sum.ignores_trailing_zeros:
        width = min(width, tokens)  # keys that nobody sees change nothing
    values = right_operand(_padded(value, width), step, step.scale).values
    running = _Running(
        np.full((heads, rows), -np.inf), np.zeros((heads, rows), tiled.running_sum.format.carrier)
    )
    outputs = np.zeros((heads, rows, value.shape[2]), step.accumulator.format.carrier)
    for number, first in enumerate(range(0, tokens, width)):
        row = max(0, first + 1 - int(lengths[0]))  # the first that sees a key of the tile
        tile = kernels.Tile(scores, lengths, row, first, width)
        arithmetic = _Arithmetic.of(hardware, number)
        held = running.behind(row)
        factors, terms = arithmetic.advance(tile, held)
        before = None if number == 0 else arithmetic.rescaled(outputs[:, row:], factors)
        outputs[:, row:] = fpemu.matmul(
            left_operand(terms, arithmetic.values).values,
            values[:, first : first + width],
            arithmetic.values.accumulator,
            c=before,
        )
    return _finished(outputs, running.sums, tiled, step).astype(scores.dtype, copy=False)


def _padded(value: NDArray[Any], width: int) -> NDArray[Any]:
    """Values of whole tiles of keys, zeros at the end."""
    missing = -value.shape[1] % width
    return np.pad(value, ((0, 0), (0, missing), (0, 0))) if missing else value


def _finished(
    outputs: NDArray[Any], sums: NDArray[Any], tiled: Tiled, step: Product
) -> NDArray[Any]:
    """The running outputs behind the last tile, scaled, divided and rounded."""
    unscaled = step.scaling == "none"
    if not unscaled:
        outputs = fpemu.multiply(outputs, np.float64(step.scale) ** 2, "float32")
    if tiled.division == "last":
        divisors = sums[..., np.newaxis]
        return np.asarray(fpemu.divide(outputs, divisors, step.output, step.rounding))
    if sums_are_output(step):
        return outputs
    return np.asarray(fpemu.round(outputs, step.output, step.rounding))


@dataclass(frozen=True)
class _Arithmetic:
    """The arithmetic of one tile; stochastic steps have random bits of its own.

    Parameters
    ----------
    tiled : Tiled
    softmax : Function
        The quotients, if it divides at each tile.
    values : Product
    """

    tiled: Tiled
    softmax: Function
    values: Product

    @classmethod
    def of(cls, hardware: Hardware, number: int) -> _Arithmetic:
        """The arithmetic of the tile with a number."""
        steps = hardware.attention, hardware.softmax, hardware.values
        return cls(*(s.derived("tile", number) if s.is_stochastic else s for s in steps))

    def advance(self, tile: kernels.Tile, running: _Running) -> tuple[NDArray[Any], NDArray[Any]]:
        """Take up the scores of a tile: the factors of the outputs, and what multiplies values.

        The running maxima and sums are changed.
        """
        tiled = self.tiled
        maxima = self._maxima(tile, running.maxima)
        exponentials = _exponentials(tile, maxima, tiled.exponential)
        factors = _factors(running.maxima, maxima, tiled.rescaling)
        sums = self.rescaled_sums(running.sums, factors)
        running.maxima[:] = maxima
        running.sums[:] = _added(sums, exponentials, tiled.running_sum)
        if tiled.division == "last":
            return factors, exponentials
        of_outputs, of_terms = tiled.rescaling, self.softmax
        divisors = running.sums
        factors = fpemu.divide(sums, divisors, of_outputs.output, of_outputs.rounding)
        terms = fpemu.divide(
            exponentials, divisors[..., np.newaxis], of_terms.output, of_terms.rounding
        )
        return factors, terms.astype(of_terms.output.carrier, copy=False)

    def _maxima(self, tile: kernels.Tile, before: NDArray[np.float64]) -> NDArray[np.float64]:
        """The running maxima with a tile, rounded where they grow."""
        found, step = kernels.largest(tile), self.tiled.running_maximum
        grow = found > before
        if step is None:
            return np.where(grow, found, before)
        rounded = fpemu.round(np.where(grow, found, 0.0), step.output, step.rounding)
        return np.where(grow, rounded, before)

    def rescaled_sums(self, sums: NDArray[Any], factors: NDArray[Any]) -> NDArray[Any]:
        """The running sums times factors, in the format that further terms are added in."""
        accumulator = self.tiled.running_sum
        return _times(sums, factors, accumulator.initial_format, accumulator.rounding)

    def rescaled(self, outputs: NDArray[Any], factors: NDArray[Any]) -> NDArray[Any]:
        """The running outputs times factors, in the format that further terms are added in."""
        accumulator = self.values.accumulator
        factors = np.broadcast_to(factors[..., np.newaxis], outputs.shape)
        return _times(outputs, factors, accumulator.initial_format, self.values.rounding)


def _times(
    x: NDArray[Any], factors: NDArray[Any], format: Format, rounding: Rounding
) -> NDArray[Any]:
    """``x`` times factors, rounded once; x is a member of the format."""
    if x.dtype == factors.dtype and format == fpemu.format(x.dtype.name) and rounding == _NEAREST:
        return np.asarray(np.multiply(x, factors))  # rounds just so
    changes = factors != 1.0  # few of them
    result = x.astype(format.carrier)
    result[changes] = fpemu.multiply(x[changes], factors[changes], format, rounding)
    return result


def _added(sums: NDArray[Any], terms: NDArray[Any], accumulator: Accumulator) -> NDArray[Any]:
    """Terms of shape (heads, rows, columns), added to sums of shape (heads, rows).

    Rows become columns, because kernels of products work on many columns at once.
    """
    count, width = sums.size, terms.shape[2]
    groups = -(-count // _TOGETHER)
    columns = np.zeros((groups, _TOGETHER, width), terms.dtype)
    columns.reshape(-1, width)[:count] = terms.reshape(-1, width)
    initial = np.zeros((groups, 1, _TOGETHER), sums.dtype)
    initial.reshape(-1)[:count] = sums.reshape(-1)
    ones = np.ones((1, width), terms.dtype)
    added = fpemu.matmul(ones, columns.transpose(0, 2, 1), accumulator, c=initial)
    return np.asarray(added).reshape(-1)[:count].reshape(sums.shape)


# --- exponentials ---------------------------------------------------------------------------------


def _exponentials(tile: kernels.Tile, maxima: NDArray[np.float64], step: Function) -> NDArray[Any]:
    """``exp(y - m)`` as a step rounds it; +0 for keys that a row does not see."""
    inner, rounding = step.steps, step.rounding
    if inner is None:
        stores = _stores_float32(step)
        wide = kernels.exponentials(tile, maxima, np.dtype(np.float32 if stores else np.float64))
        return wide if stores else _rounded(wide, step)
    if not rounding.is_stochastic and _has_table(inner):
        table = _table(inner.precision, step.output, rounding)
        return _checked(kernels.looked_up(tile, maxima, inner, rounding, table), step)
    if rounding.is_stochastic:
        given = _drawn_differences(tile, maxima, step)
    else:
        given = kernels.differences(tile, maxima, inner, rounding)
    return _exp(_checked(given, step), step)


def _factors(before: NDArray[Any], after: NDArray[Any], step: Function) -> NDArray[Any]:
    """``exp(before - after)`` as a step rounds it; 1 while there is nothing to rescale."""
    begun = before > -np.inf
    before = np.where(begun, before, 0.0)
    after = np.where(begun, after, 0.0)
    if step.steps is None:
        with np.errstate(invalid="ignore"):  # of two infinities
            factors = _rounded(exp(before - after), step)
    else:
        seed = step.rounding.derived("difference")
        factors = _exp(fpemu.subtract(before, after, step.steps, seed), step)
    return np.where(begun, factors, factors.dtype.type(1))


def _stores_float32(step: Function) -> bool:
    """Whether storing into float32 is the step's rounding."""
    return bool(step.output == formats.float32 and step.rounding == _NEAREST)


def _rounded(x: NDArray[np.float64], step: Function) -> NDArray[Any]:
    """Numbers rounded into the output of a step."""
    if step.output == formats.float64:
        return x
    return np.asarray(fpemu.round(x, step.output, step.rounding)).astype(step.output.carrier)


def _exp(x: NDArray[Any], step: Function) -> NDArray[Any]:
    """The exponential, correctly rounded into the output of a step."""
    found = fpemu.functions.exp(x, step.output, step.rounding)
    return np.asarray(found).astype(step.output.carrier, copy=False)


def _checked(x: NDArray[Any], step: Function) -> NDArray[Any]:
    """The numbers themselves.

    Raises
    ------
    ValueError
        If NaN is among them and a format of the step has none.
    """
    without = [each for each in (step.steps, step.output) if not each.has_nan]
    if without and np.isnan(x).any():
        raise ValueError(f"a score minus the running maximum is NaN, but {without[0]} has no NaN")
    return x


def _drawn_differences(tile: kernels.Tile, maxima: NDArray[np.float64], step: Function) -> Any:
    """Differences rounded stochastically; -inf for keys that a row does not see."""
    heads, rows, width = tile.shape
    scores = np.full((heads, rows, width), -np.inf)
    found = tile.y[:, tile.first_row :, tile.first : tile.first + width]
    scores[..., : found.shape[2]] = found
    seen = np.arange(tile.first, tile.first + width) < tile.lengths[tile.first_row :, np.newaxis]
    given = seen & ~((maxima == -np.inf)[..., np.newaxis] & ~np.isnan(scores))
    least = np.broadcast_to(maxima[..., np.newaxis], scores.shape)
    arguments = np.where(given, scores, 0.0), np.where(given, least, 0.0)
    seed = step.rounding.derived("difference")
    return np.where(given, fpemu.subtract(*arguments, step.steps, seed), -np.inf)


def _has_table(format: Format) -> bool:
    """Whether exponentials of a format's numbers come from a table."""
    return bool(format.precision <= _TABLE_BITS and format.carrier == np.float32)


@functools.lru_cache(maxsize=16)
def _table(precision: int, output: Format, rounding: Rounding) -> NDArray[Any]:
    """Correctly rounded exponentials of all float32 numbers of a precision, in order of words."""
    words = np.arange(2 ** (precision + 8), dtype=np.uint32) << np.uint32(24 - precision)
    arguments = words.view(np.float32)
    arguments[np.isnan(arguments)] = 0.0
    return np.asarray(fpemu.functions.exp(arguments, output, rounding)).astype(output.carrier)
