"""Axes on which every value has a place.

A logarithmic axis has no place for zero, and no axis for infinity and NaN.  Values that are such
have a band of their own beside the axis proper, so that they are seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from fpemu.pictures.colors import LIGHT
from lamp.reports.numbers import alike, power

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Scale"]

_LEAST, _MOST = 1e-200, 1e200  # values beyond these are as good as zero or infinity
_GAP: Final = 0.017  # between a band and what it is beside, as a share of the axis proper
_ROOM: Final = 0.09, 0.065  # for a label and a band, likewise, along an upright axis
_ACROSS: Final = 0.17, 0.085  # and from left to right
_TICKS: Final = 20  # at most
_DIGITS: Final = ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))  # of ticks within a decade


class Scale:
    """An axis of a figure, with room for values and for bars of their errors.

    `label` writes a value.  The axis is upright or goes `across`.  If values are `marked`, only
    they are written along it, else round ones, and a linear axis begins at 0.
    """

    def __init__(
        self,
        title: str,
        values: Iterable[float],
        label: Callable[[float], str] = power,
        *,
        log: bool = True,
        across: bool = False,
        errors: Iterable[float] = (),
        marked: Sequence[float] = (),
    ) -> None:
        self.title, self.label, self.log = title, label, log
        self.room, self.band = _ACROSS if across else _ROOM
        self._marked = sorted(marked)
        listed = list(values)
        found, step = set(map(self._band, listed)), _GAP + self.band
        bars = [(x, e) for x, e in zip(listed, errors, strict=False) if math.isfinite(x + e)]
        shown = (*listed, *(x + e for x, e in bars), *(max(x - e, x / 2) for x, e in bars))
        self.low, self.high = self._limits([value for value in shown if not self._band(value)])
        above = [name for name in ("∞", "NaN") if name in found]
        self.bands = {"0": -step + self.band / 2} if "0" in found else {}
        self.bands |= {name: 1 + i * step - self.band / 2 for i, name in enumerate(above, 1)}

    def place(self, value: float, share: float = 0.5) -> float:
        """Where a value is drawn: there, or within its band, at a share of its width."""
        name = self._band(value)
        return self._at(self.bands[name] + (share - 0.5) * self.band) if name else value

    def in_band(self, value: float) -> bool:
        """Whether a value is drawn in a band."""
        return bool(self._band(value))

    def reach(self, value: float, error: float) -> tuple[float, float]:
        """How far a bar of an error goes to either side of a value, within the axis proper."""
        if self.in_band(value) or not 0 < error < math.inf:
            return 0.0, 0.0
        return value - max(value - error, self.low), min(value + error, self.high) - value

    @property
    def ends(self) -> tuple[float, float]:
        """Where the axis ends, its bands included."""
        shares = (0.0, 1.0, *(x + s * self.band for x in self.bands.values() for s in (-0.5, 0.5)))
        return self._at(min(shares)), self._at(max(shares))

    @property
    def ticks(self) -> list[float]:
        """The values that are written along the axis proper: as many as there is room for."""
        far, names = 0.75 * self.room, np.array([*self.bands.values()])
        for values in self._candidates():
            if (np.diff([*map(self._share, values)]) >= self.room).all():
                return [x for x in values if (np.abs(self._share(x) - names) >= far).all()]
        return []

    @property
    def labels(self) -> list[str]:
        """What is written at the ticks."""
        return alike(self.label, self.ticks)

    def draw(self, axes: Axes, way: Literal["x", "y"]) -> None:
        """Set up an axis of a figure: scale, ends, bands, and what is written along it."""
        axis = getattr(axes, f"{way}axis")
        axes.set(**{f"{way}scale": "log" if self.log else "linear"})
        axis.set_ticks(self.ticks, labels=self.labels)
        axis.set_ticks([*map(self._at, self.bands.values())], labels=[*self.bands], minor=True)
        for middle in self.bands.values():
            ends = [self._at(middle + side * self.band / 2) for side in (-1, 1)]
            getattr(axes, "axvspan" if way == "x" else "axhspan")(*ends, color=LIGHT["pale"], lw=0)
        axes.set(**{f"{way}lim": self.ends})

    def _band(self, value: float) -> str:
        """The band that a value belongs into; empty if it has a place on the axis proper."""
        if math.isnan(value):
            return "NaN"
        return "∞" if value > _MOST else "0" if self.log and value < _LEAST else ""

    def _limits(self, values: Sequence[float]) -> tuple[float, float]:
        """The ends of the axis proper, somewhat beyond the values."""
        if not values:
            return (1e-3, 1.0) if self.log else (0.0, 1.0)
        least, most = min(values), max(values)
        if self.log:
            margin = 10 ** max(0.07 * (math.log10(most) - math.log10(least)), 0.1)
            return least / margin, most * margin
        if not self._marked:
            return min(0.0, 1.05 * least), 1.05 * most if most > _LEAST else 1.0
        margin = max(0.05 * (most - least), 0.1)
        return least - margin, most + margin

    def _at(self, share: float) -> float:
        """The value at a share of the axis proper."""
        low, high = self._line(self.low), self._line(self.high)
        place = low + share * (high - low)
        return 10.0**place if self.log else place

    def _share(self, value: float) -> float:
        low, high = self._line(self.low), self._line(self.high)
        return (self._line(value) - low) / (high - low)

    def _line(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _candidates(self) -> Iterator[list[float]]:
        """Values to write along the axis, the closest first, all round."""
        from matplotlib.ticker import Locator, LogLocator, MaxNLocator

        if self._marked:
            yield from (self._marked[::step] for step in (1, 2, 4, 8, 16))
            return
        most = range(round(1 / self.room), 0, -1)
        locators: list[Locator] = [MaxNLocator(count, steps=[1, 2, 5, 10]) for count in most]
        if self.log and self.high >= 10 * self.low:
            locators = [LogLocator(subs=digits, numticks=_TICKS) for digits in _DIGITS]
            locators += [LogLocator(numticks=count) for count in most]
        for locator in locators:
            with np.errstate(over="ignore"):  # locators also look beyond the axis
                values = locator.tick_values(self.low, self.high)
            yield [float(value) for value in values if self.low <= value <= self.high]
