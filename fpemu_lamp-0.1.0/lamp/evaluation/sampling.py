"""Runs on a stochastic machine, beside the truth: an estimate where nothing can be proved.

Digits that all runs share are taken to be right, as by CADNA and Verificarlo.  That is no bound:
:class:`Samples` says what it misses.

References
----------
J. Vignes, "Discrete stochastic arithmetic for validating results of numerical software", Numerical
Algorithms 37, 2004.  C. Denis, P. de Oliveira Castro, E. Petit, "Verificarlo: checking floating
point accuracy through Monte Carlo arithmetic", ARITH 2016.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import Accumulator, Rounding
from lamp.lookahead import LAMP
from lamp.machines import STEPS, Hardware, HardwareLike, hardware
from lamp.models import Decoder

__all__ = ["Samples", "samples", "stochastic"]

Float64 = NDArray[np.float64]


def stochastic(machine: HardwareLike, seed: int = 0) -> Hardware:
    """A machine whose roundings are all stochastic.

    Parameters
    ----------
    machine : Hardware or str
        The machine.  Units that do more than to round, such as tensor cores, stay as they are
        inside; what is rounded behind them is rounded stochastically.
    seed : int
        The seed of all random bits; runs with several seeds are independent samples.

    Returns
    -------
    Hardware
        Its weights are those of `machine`, rounded to nearest.

    Examples
    --------
    >>> from lamp.evaluation import stochastic
    >>> print(stochastic("ps7").scores.accumulator)
    sequential(e8m7, sr)
    """

    def drawn(plain: Hardware) -> Hardware:
        steps = {name: _randomized(getattr(plain, name), seed, (name,)) for name in STEPS}
        return replace(plain, **steps)

    given = hardware(machine)
    return replace(given.mapped(drawn), name=f"{given.name}, stochastic")


def _randomized(part: Any, seed: int, labels: tuple[str, ...]) -> Any:
    """A step or an accumulator with stochastic roundings, each with a seed of its own."""
    if isinstance(part, Rounding):
        return Rounding("sr", part.overflow, seed=seed).derived(*labels)
    if isinstance(part, tuple):  # products that recompute
        levels = enumerate(part, 1)
        return tuple(_randomized(each, seed, (*labels, str(level))) for level, each in levels)
    found = copy.copy(part)
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Rounding | Accumulator):
            changed = _randomized(value, seed, (*labels, field.name))
            object.__setattr__(found, field.name, changed)
    return found


@dataclass(frozen=True)
class Samples:
    """Runs on a stochastic machine beside the truth, a run in float64.

    Parameters
    ----------
    digits : ndarray of float64, shape (tokens,)
        Decimal digits that the runs have in common in the margin between the machine's two largest
        logits: the logarithm of its mean over its standard deviation, at least 0.
    right : ndarray of float64, shape (tokens,)
        Decimal digits of the machine's margin that are right, at least 0.
    stable : ndarray of bool, shape (tokens,)
        Whether all runs and the machine have the same most probable token.
    flipped : ndarray of bool, shape (tokens,)
        Whether the machine's most probable token is not that of float64.
    """

    digits: Float64
    right: Float64
    stable: NDArray[np.bool_]
    flipped: NDArray[np.bool_]

    @property
    def missed(self) -> NDArray[np.bool_]:
        """Tokens that are wrong though all runs agree."""
        return np.asarray(self.stable & self.flipped)

    @property
    def alarms(self) -> NDArray[np.bool_]:
        """Tokens that are right though runs differ."""
        return np.asarray(~self.stable & ~self.flipped)

    @property
    def overrated(self) -> NDArray[np.bool_]:
        """Tokens whose margin has fewer right digits than the runs have in common, by one or more.

        One digit is what a spread of three standard deviations amounts to, and more.
        """
        return np.asarray(self.digits > self.right + 1.0)


def samples(
    model: Decoder,
    tokens: ArrayLike,
    hardware: HardwareLike,
    lamp: LAMP | None = None,
    *,
    count: int = 8,
    seed: int = 0,
) -> Samples:
    """Run a model several times on a machine with stochastic roundings, and compare with float64.

    Parameters
    ----------
    model : Decoder
        The weights.
    tokens : array_like of int, shape (length,)
        The text.
    hardware : Hardware or str
        The machine; its runs are on :func:`stochastic` versions of it.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead.
    count : int
        The number of runs, at least 2.
    seed : int
        Seed of the first run; the others have the following ones.

    Returns
    -------
    Samples

    Raises
    ------
    ValueError
        If there are fewer than two runs, or as in :meth:`lamp.models.Decoder.logits`.
    TypeError
        If tokens are not integers.

    Examples
    --------
    >>> import lamp
    >>> from lamp.evaluation import samples
    >>> model = lamp.GPT2.from_pretrained("embedded")
    >>> found = samples(model, model.encode("To be, or"), "fp32", count=3)
    >>> bool(found.stable.all()), bool(found.flipped.any()), bool((found.digits > 3).all())
    (True, False, True)
    """
    if not isinstance(count, (int, np.integer)) or count < 2:
        raise ValueError(f"count must be an integer of at least 2, not {count!r}")
    computed = _logits(model, tokens, hardware, lamp)
    expected = _logits(model, tokens, "fp64", None)
    order = np.argsort(-computed, axis=1, kind="stable")[:, :2]
    winners, margins = [], []
    for number in range(count):
        run = _logits(model, tokens, stochastic(hardware, seed + number), lamp)
        winners.append(np.argmax(run, axis=1))
        margins.append(_margin(run, order))
    spread, mean = np.std(margins, axis=0, ddof=1), np.abs(np.mean(margins, axis=0))
    margin, truth = _margin(computed, order), _margin(expected, order)
    return Samples(
        _digits(mean, spread),
        _digits(np.abs(truth), np.abs(margin - truth)),
        np.asarray((np.array(winners) == order[:, 0]).all(axis=0)),
        np.asarray(order[:, 0] != np.argmax(expected, axis=1)),
    )


def _logits(model: Decoder, tokens: ArrayLike, machine: HardwareLike, lamp: LAMP | None) -> Float64:
    return np.asarray(model.with_hardware(machine, lamp).logits(tokens), np.float64)


def _margin(logits: Float64, order: NDArray[np.int64]) -> Float64:
    found = np.take_along_axis(logits, order, axis=1)
    return np.asarray(found[:, 0] - found[:, 1])


def _digits(size: Float64, error: Float64) -> Float64:
    """Decimal digits of a number that an error leaves, from 0 to 16."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log10(size / error)
    return np.asarray(np.clip(np.nan_to_num(found, nan=0.0, posinf=16.0, neginf=0.0), 0.0, 16.0))
