"""What is measured of runs, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lamp.reports import numbers
from lamp.reports.labels import NONE
from lamp.reports.results import Measure, metrics, speed

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = ["FLIPS", "KL", "RATE", "SHARE", "SPEED", "Quantity", "described"]


@dataclass(frozen=True)
class Quantity:
    """Something that is measured of a run.

    Parameters
    ----------
    name : str
        A word that can be part of a file's name.
    title : str
        The title of an axis.
    value : callable
        Its value for a run.
    show, label : callable
        Write a value in a sentence, and along an axis.
    """

    name: str
    title: str
    value: Measure
    show: Callable[[float], str]
    label: Callable[[float], str]


KL: Final = Quantity(
    "kl",
    "KL divergence, nats per token",
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
    "candidate components recomputed",
    lambda record: metrics(record).recomputation_rate,
    lambda value: f"{numbers.percent(value)} recomputed",
    numbers.short_percent,
)
SHARE: Final = Quantity(
    "share",
    "multiply-adds in high precision",
    lambda record: metrics(record).high_precision_share,
    lambda value: f"{numbers.percent(value)} in high precision",
    numbers.short_percent,
)
SPEED: Final = Quantity(
    "speed", "tokens per second", speed, lambda value: f"{value:,.0f} tokens/s", "{:,g}".format
)


def described(record: Run, *quantities: Quantity) -> str:
    """The tooltip of a run's mark: a line each for the machine, the rule and what is measured."""
    member = record
    values = ", ".join(each.show(each.value(record)) for each in quantities)
    return "\n".join([member.hardware, *[member.lamp] * (member.lamp != NONE), values])
