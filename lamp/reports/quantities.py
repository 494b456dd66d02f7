"""What is measured of runs, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lamp.reports import numbers
from lamp.reports.results import NONE, Measure, metrics, speed
from lamp.studies import Run

__all__ = ["FLIPS", "KL", "RATE", "SHARE", "SPEED", "Quantity", "described"]


@dataclass(frozen=True)
class Quantity:
    """Something that is measured.

    Parameters
    ----------
    name : str
        In a word or two that can be part of a file's name.
    title : str
        What stands at an axis.
    value : callable
        Of a run.
    show : callable
        For a sentence.
    label : callable
        For an axis.
    """

    name: str
    title: str
    value: Measure
    show: Callable[[float], str]
    label: Callable[[float], str]


KL: Final = Quantity(
    "kl",
    "KL divergence, nats a token",
    lambda record: metrics(record).kl,
    lambda value: f"KL {numbers.scientific(value)}",
    numbers.power,
)
FLIPS: Final = Quantity(
    "flips",
    "flips of the most probable token",
    lambda record: metrics(record).flip_rate,
    lambda value: f"{numbers.percent(value)} flips",
    numbers.short_percent,
)
RATE: Final = Quantity(
    "rate",
    "recomputed, of what look-ahead looks at",
    lambda record: metrics(record).recomputation_rate,
    lambda value: f"{numbers.percent(value)} recomputed",
    numbers.short_percent,
)
SHARE: Final = Quantity(
    "share",
    "multiply-adds in high precision, of all",
    lambda record: metrics(record).high_precision_share,
    lambda value: f"{numbers.percent(value)} in high precision",
    numbers.short_percent,
)
SPEED: Final = Quantity(
    "speed", "tokens a second", speed, lambda value: f"{value:,.0f} tokens/s", "{:,g}".format
)


def described(record: Run, *quantities: Quantity) -> str:
    """A run and what was measured, for who points at its mark.

    Parameters
    ----------
    record : Run
    *quantities : Quantity
        What is to be said of it.

    Returns
    -------
    str
        Lines.
    """
    member = record
    lamp = "" if member.lamp == NONE else f"\n{member.lamp}"
    values = ", ".join(each.show(each.value(record)) for each in quantities)
    return f"{member.hardware}{lamp}\n{values}"
