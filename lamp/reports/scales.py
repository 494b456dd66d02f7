"""Axes: from values to places, and what is written along them.

A logarithmic axis has no place for zero, and no axis for infinity and NaN.  Values that are such
have a band of their own beside it, so that they are seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from lamp.reports.numbers import power

__all__ = ["Axis", "Band", "axis"]

Kind = Literal["zero", "infinite", "nan"]

_NAMES: Final[dict[Kind, str]] = {"zero": "0", "infinite": "∞", "nan": "NaN"}
_GAP: Final = 5.0  # between a band and the axis
_DIGITS: Final = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9))
_LEAST: Final = 1e-300  # what is less is as good as zero
_MOST_TICKS: Final = 100
_STEPS: Final = (8, 6, 5, 4, 3, 2)  # decades from one tick to the next


@dataclass(frozen=True)
class Band:
    """A place for values that an axis has none for.

    Parameters
    ----------
    kind : {"zero", "infinite", "nan"}
    start, stop : float
        Where it is.
    """

    kind: Kind
    start: float
    stop: float

    @property
    def middle(self) -> float:
        """Its middle."""
        return (self.start + self.stop) / 2

    @property
    def name(self) -> str:
        """What stands beside it."""
        return _NAMES[self.kind]


@dataclass(frozen=True)
class Axis:
    """From values to places.

    Parameters
    ----------
    low, high : float
        The values at the ends of the axis proper.
    start, stop : float
        Where those ends are.
    bands : tuple of Band
        Beyond them.
    log : bool
        Whether it is logarithmic.
    label : callable
        Writes a value.
    room : float
        What a label takes, along the axis.
    marked : tuple of float
        The values that may be written along it; if there are none, round ones are.
    """

    low: float
    high: float
    start: float
    stop: float
    bands: tuple[Band, ...]
    log: bool
    label: Callable[[float], str]
    room: float
    marked: tuple[float, ...] = ()

    def place(self, value: float, share: float = 0.5) -> float:
        """Where a value is.

        Parameters
        ----------
        value : float
        share : float
            Of the width of a band, if the value belongs into one.

        Returns
        -------
        float
        """
        kind = _kind(value, self.log)
        if kind is not None:
            band = next(band for band in self.bands if band.kind == kind)
            return band.start + share * (band.stop - band.start)
        low, high = self._line(self.low), self._line(self.high)
        return self.start + (self._line(value) - low) / (high - low) * (self.stop - self.start)

    def in_band(self, value: float) -> bool:
        """Whether a value is in a band.

        Parameters
        ----------
        value : float

        Returns
        -------
        bool
        """
        return _kind(value, self.log) is not None

    def _line(self, value: float) -> float:
        return math.log10(value) if self.log else value

    @cached_property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and what is written there."""
        chosen: Sequence[float] = ()
        for values in self._candidates():
            if len(values) < 2 or self._fit(values):
                chosen = values if len(values) > len(chosen) else chosen
            else:
                break
        marks = ((self.place(value), self.label(value)) for value in chosen)
        return [(place, label) for place, label in marks if self._is_clear(place)]

    def _is_clear(self, place: float) -> bool:
        """Whether what is written there is clear of the names of bands."""
        return all(abs(place - band.middle) >= 0.7 * self.room for band in self.bands)

    def _fit(self, values: Sequence[float]) -> bool:
        """Whether there is room for all of their labels."""
        places = sorted(map(self.place, values))
        return all(after - here >= self.room for here, after in itertools.pairwise(places))

    def _candidates(self) -> Iterable[list[float]]:
        """Values to write along the axis, from few to many."""
        if self.marked:
            for step in (16, 8, 4, 2, 1):
                yield list(self.marked[::step])
        elif self.log:
            yield from self._powers()
        if not self.marked and not (self.log and self.high / self.low > 3):
            yield from self._multiples()

    def _powers(self) -> Iterable[list[float]]:
        """Powers of ten, and what lies between them."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for step in _STEPS:
            yield self._within(10.0**n for n in range(first, last + 1) if n % step == 0)
        for digits in _DIGITS:
            yield self._within(
                float(f"{digit}e{n}") for n in range(first, last + 1) for digit in digits
            )

    def _multiples(self) -> Iterable[list[float]]:
        """Multiples of a round number."""
        exponent = math.floor(math.log10(self.high - self.low)) + 1
        for n in (exponent, exponent - 1, exponent - 2):
            for digit in (5, 2, 1):
                first = math.ceil(self.low / float(f"{digit}e{n}"))
                last = math.floor(self.high / float(f"{digit}e{n}"))
                if last - first < _MOST_TICKS:
                    yield self._within(float(f"{i * digit}e{n}") for i in range(first, last + 1))

    def _within(self, values: Iterable[float]) -> list[float]:
        return [value for value in values if self.low <= value <= self.high]


def _kind(value: float, log: bool) -> Kind | None:
    """The band that a value belongs into."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "infinite"
    return "zero" if log and value < _LEAST else None


def axis(
    values: Iterable[float],
    start: float,
    stop: float,
    *,
    log: bool = True,
    label: Callable[[float], str] = power,
    room: float = 30.0,
    band: float = 18.0,
    marked: Sequence[float] = (),
) -> Axis:
    """An axis on which all values have a place.

    Parameters
    ----------
    values : iterable of float
    start, stop : float
        Where it begins and ends, its bands included.
    log : bool
        Whether it is logarithmic; otherwise it begins at 0 or before, unless values are marked.
    label : callable
        Writes a value.
    room : float
        What a label takes, along the axis.
    band : float
        The width of a band.
    marked : sequence of float
        The values that may be written along it; if there are none, round ones are.

    Returns
    -------
    Axis
    """
    listed = list(values)
    kinds = {_kind(value, log) for value in listed}
    way = math.copysign(1.0, stop - start)
    bands = []
    if "zero" in kinds:
        bands.append(Band("zero", start, start + way * band))
        start += way * (band + _GAP)
    for kind in ("nan", "infinite"):  # from the end inward
        if kind in kinds:
            bands.append(Band(kind, stop, stop - way * band))
            stop -= way * (band + _GAP)
    finite = [value for value in listed if _kind(value, log) is None]
    low, high = _limits(finite, log, anchored=not marked)
    return Axis(low, high, start, stop, tuple(bands), log, label, room, tuple(sorted(marked)))


def _limits(values: Sequence[float], log: bool, anchored: bool) -> tuple[float, float]:
    """The ends of an axis, somewhat beyond the values."""
    if not log and anchored:
        low, high = min(values, default=0.0), max(values, default=0.0)
        return min(0.0, 1.05 * low), (1.05 * high if high > _LEAST else 1.0)
    if not log:
        margin = max(0.05 * (max(values) - min(values)), 0.1)
        return min(values) - margin, max(values) + margin
    if not values:
        return 1e-3, 1.0
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.07 * (high - low), 0.1)
    return 10.0 ** max(low - margin, -307), 10.0 ** min(high + margin, 308)
