"""Axes on which every value has a place.

A logarithmic axis has no place for zero, and no axis for infinity and NaN.  Values that are such
have a band of their own beside the axis proper, so that they are seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from lamp.reports.colors import LIGHT
from lamp.reports.numbers import power

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

__all__ = ["Scale", "scale"]

_BEYOND: Final[tuple[str, ...]] = ("∞", "NaN")  # the bands behind the upper end, inner first
_LEAST, _MOST = 1e-200, 1e200  # values beyond these are as good as zero or infinity
_GAP: Final = 0.017  # between a band and what it is beside, as a share of the axis proper
_TICKS: Final = 20  # at most
_DIGITS: Final = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0))  # of ticks within a decade


@dataclass(frozen=True)
class Scale:
    """An axis of a figure.

    Parameters
    ----------
    title : str
    label : callable
        Writes a value.
    low, high : float
        The ends of the axis proper.
    bands : tuple of {"0", "∞", "NaN"}
        The values that have bands beside it.
    log : bool
    room, band : float
        What a label and a band take along the axis, as shares of the axis proper.
    marked : tuple of float
        The values that may be written along it; round ones if there are none.
    """

    title: str
    label: Callable[[float], str]
    low: float
    high: float
    bands: tuple[str, ...]
    log: bool
    room: float
    band: float
    marked: tuple[float, ...]

    def place(self, value: float, share: float = 0.5) -> float:
        """Where a value is drawn: there, or within its band, at a share of its width."""
        name = _band(value, self.log)
        if name is None:
            return value
        start, stop = self._span(name)
        return self._at(start + share * (stop - start))

    def in_band(self, value: float) -> bool:
        """Whether a value is drawn in a band."""
        return _band(value, self.log) is not None

    @property
    def ends(self) -> tuple[float, float]:
        """Where the axis ends, its bands included."""
        shares = [0.0, 1.0, *(share for name in self.bands for share in self._span(name))]
        return self._at(min(shares)), self._at(max(shares))

    @property
    def ticks(self) -> list[float]:
        """The values that are written along the axis proper: as many as there is room for."""
        chosen: Sequence[float] = ()
        for values in self._candidates():
            if len(chosen) < len(values) <= _TICKS and self._fit(values):
                chosen = values
        return [value for value in chosen if self._is_clear(value)]

    def draw(self, axes: Axes, way: Literal["x", "y"]) -> None:
        """Set up an axis of a figure: scale, ends, bands, and what is written along it."""
        axis = getattr(axes, f"{way}axis")
        axes.set(**{f"{way}scale": "log" if self.log else "linear"})
        axis.set_ticks(self.ticks, labels=[self.label(value) for value in self.ticks])
        middles = [self._at(sum(self._span(name)) / 2) for name in self.bands]
        axis.set_ticks(middles, labels=list(self.bands), minor=True)
        for name in self.bands:
            start, stop = map(self._at, self._span(name))
            span = axes.axvspan if way == "x" else axes.axhspan
            span(start, stop, color=LIGHT["pale"], linewidth=0)
        axes.set(**{f"{way}lim": self.ends})

    def _span(self, name: str) -> tuple[float, float]:
        """Where a band is, in shares of the axis proper."""
        if name == "0":
            return -_GAP - self.band, -_GAP
        beyond = [each for each in _BEYOND if each in self.bands]
        start = 1 + _GAP + beyond.index(name) * (_GAP + self.band)
        return start, start + self.band

    def _at(self, share: float) -> float:
        """The value at a share of the axis proper."""
        low, high = self._line(self.low), self._line(self.high)
        place = low + share * (high - low)
        return 10.0**place if self.log else place

    def _line(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _share(self, value: float) -> float:
        low, high = self._line(self.low), self._line(self.high)
        return (self._line(value) - low) / (high - low)

    def _candidates(self) -> Iterator[list[float]]:
        """Values to write along the axis, from few to many."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.marked:
            for step in (16, 8, 4, 2, 1):
                yield list(self.marked[::step])
            return
        if self.log:
            for most in range(2, 1 + round(1 / self.room)):
                yield self._within(LogLocator(numticks=most))
            for digits in _DIGITS:
                yield self._within(LogLocator(subs=digits, numticks=_TICKS))
        if not self.log or self.high / self.low < 10:
            for most in range(2, 1 + round(1 / self.room)):
                yield self._within(MaxNLocator(most, steps=[1, 2, 5, 10]))

    def _within(self, locator: Locator) -> list[float]:
        with np.errstate(over="ignore"):  # locators also look beyond the axis
            values = locator.tick_values(self.low, self.high)
        return [float(value) for value in values if self.low <= value <= self.high]

    def _fit(self, values: Sequence[float]) -> bool:
        """Whether there is room for all of their labels."""
        shares = map(self._share, values)
        return all(after - here >= self.room for here, after in pairwise(shares))

    def _is_clear(self, value: float) -> bool:
        """Whether a label is clear of the names of bands."""
        middles = (sum(self._span(name)) / 2 for name in self.bands)
        return all(abs(self._share(value) - middle) >= 0.75 * self.room for middle in middles)


def _band(value: float, log: bool) -> str | None:
    """The band that a value belongs into."""
    if math.isnan(value):
        return "NaN"
    if value > _MOST:
        return "∞"
    return "0" if log and value < _LEAST else None


def scale(
    title: str,
    values: Iterable[float],
    *,
    label: Callable[[float], str] = power,
    log: bool = True,
    room: float = 0.16,
    band: float = 0.075,
    marked: Sequence[float] = (),
) -> Scale:
    """An axis on which all values have a place; a linear one begins at 0, unless some are marked.

    The parameters are those of :class:`Scale`.
    """
    listed = list(values)
    found = {_band(value, log) for value in listed}
    bands = tuple(name for name in ("0", *_BEYOND) if name in found)
    finite = [value for value in listed if _band(value, log) is None]
    low, high = _limits(finite, log, anchored=not marked)
    return Scale(title, label, low, high, bands, log, room, band, tuple(sorted(marked)))


def _limits(values: Sequence[float], log: bool, anchored: bool) -> tuple[float, float]:
    """The ends of an axis, somewhat beyond the values."""
    if not values:
        return (1e-3, 1.0) if log else (0.0, 1.0)
    least, most = min(values), max(values)
    if log:
        margin = max(0.07 * (math.log10(most) - math.log10(least)), 0.1)
        return least / 10**margin, most * 10**margin
    if anchored:
        return min(0.0, 1.05 * least), 1.05 * most if most > _LEAST else 1.0
    margin = max(0.05 * (most - least), 0.1)
    return least - margin, most + margin
