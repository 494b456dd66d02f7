"""What is measured of runs, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from lamp.reports import numbers
from lamp.reports.runs import NONE, Mean, speed

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = ["FLIPS", "KL", "RATE", "SHARE", "SPEED", "Quantity", "described"]


@dataclass(frozen=True)
class Quantity:
    """Something that is measured of a run, with its standard error.

    `show` writes a value in a sentence, `label` along an axis.  The name can be part of a file's.
    """

    name: str
    title: str
    value: Callable[[Run], float]
    show: Callable[[float], str]
    label: Callable[[float], str] = numbers.short_percent
    error: Callable[[Run], float] = lambda run: math.nan

    def words(self, run: Run) -> str:
        """A run's value and standard error in a sentence."""
        style = "scientific" if self.label is numbers.power else "percent"
        return f"{self.show(self.value(run))} {numbers.error(self.error(run), style)}".strip()


KL: Final = Quantity(
    "kl",
    "KL divergence, nats per token",
    attrgetter("metrics.kl"),
    lambda value: f"KL {numbers.scientific(value)}",
    numbers.power,
    attrgetter("metrics.kl_error"),
)
FLIPS: Final = Quantity(
    "flips",
    "flips of the most probable token",
    attrgetter("metrics.flip_rate"),
    lambda value: f"{numbers.percent(value)} flips",
    error=attrgetter("metrics.flip_rate_error"),
)
RATE: Final = Quantity(
    "rate",
    "candidate components recomputed",
    attrgetter("metrics.recomputation_rate"),
    lambda value: f"{numbers.percent(value)} recomputed",
    error=attrgetter("metrics.recomputation_rate_error"),
)
SHARE: Final = Quantity(
    "share",
    "multiply-adds in high precision",
    attrgetter("metrics.high_precision_share"),
    lambda value: f"{numbers.percent(value)} in high precision",
)
SPEED: Final = Quantity(
    "speed", "tokens per second", speed, lambda value: f"{value:,.0f} tokens/s", "{:,g}".format
)


def described(run: Run, *quantities: Quantity) -> str:
    """The tooltip of a run's mark: a line each for the machine, the rule and what is measured."""
    rules = [run.lamp] if run.lamp != NONE else []
    seeds = [f"mean of {run.seeds} seeds"] if isinstance(run, Mean) else []
    values = ", ".join(each.words(run) for each in quantities)
    return "\n".join([run.hardware, *rules, *seeds, values])
