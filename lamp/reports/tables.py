"""Tables of a page: what stands in each cell, how it is styled, and by what it is sorted."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from lamp.evaluation import ratio
from lamp.reports import numbers
from lamp.reports.labels import NONE
from lamp.reports.quantities import FLIPS, KL, RATE, SHARE
from lamp.reports.results import Results, grouped, metrics, speed

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = ["Cell", "Heading", "Table", "runs", "seeds", "texts", "times"]

_LONG: Final = 24  # letters that may stand in a line of a narrow column
_SEED: Final = re.compile(r":?\bseed=\d+")


class Heading(NamedTuple):
    """The head of a column, what it means, and whether numbers stand under it."""

    text: str
    number: bool = False
    meaning: str = ""


class Cell(NamedTuple):
    """What is shown, its class in the style sheet, and its value in full for the script."""

    text: str
    style: str = ""
    value: str | None = None


class Table(NamedTuple):
    """A table that scrolls in a box of its own."""

    name: str
    headings: Sequence[Heading]
    rows: Iterable[Sequence[Cell]]
    style: str = ""


class _Column(NamedTuple):
    """A column of labels, or of numbers if a way to show them is given."""

    heading: str
    value: Callable[[Run], float | str]
    show: Callable[[float], str] | None = None
    meaning: str = ""
    longest: int = _LONG


_RUNS: Final = (
    _Column("#", lambda record: record.position, "{:g}".format, "place in the study"),
    _Column("model", lambda record: record.model),
    _Column("text", lambda record: record.text),
    _Column("hardware", lambda record: record.hardware),
    _Column("look-ahead", lambda record: record.lamp, None, "the rules", 40),
    _Column("KL", KL.value, numbers.scientific, "divergence from the reference, nats per token"),
    _Column(
        "±",
        lambda record: metrics(record).kl_error,
        lambda error: numbers.error(error)[1:],
        "standard error of KL",
    ),
    _Column("flips", FLIPS.value, numbers.percent, FLIPS.title),
    _Column("perplexity", lambda record: metrics(record).perplexity, numbers.decimals),
    _Column("rate", RATE.value, numbers.percent, "share of candidate components recomputed"),
    _Column(
        "high precision",
        SHARE.value,
        numbers.percent,
        "multiply-adds of recomputed components, as a share of all",
    ),
    _Column(
        "seconds",
        lambda record: math.nan if record.seconds is None else record.seconds,
        lambda seconds: numbers.decimals(seconds, 2),
    ),
)


def runs(study: Results) -> Table:
    """All runs of a study that are done, to be sorted by any column."""
    best = study.fronts(RATE.value, KL.value)
    headings = [Heading(each.heading, each.show is not None, each.meaning) for each in _RUNS]
    meaning = "on the Pareto front of KL and rate of its model, text and machine"
    headings.append(Heading("front", meaning=meaning))
    rows = (
        [*(_cell(column, record) for column in _RUNS), _front(record.position in best)]
        for record in study.done
    )
    return Table(f"runs of {study.name}", headings, rows, "runs")


def _cell(column: _Column, record: Run) -> Cell:
    value = column.value(record)
    if column.show is None or isinstance(value, str):
        long = "long" if len(str(value)) > column.longest else ""
        return Cell(str(value), "none" if value == NONE else long)
    full = str(value).replace("inf", "Infinity").replace("nan", "NaN")  # as scripts read them
    shown = column.show(value)
    return Cell(shown, "n" if math.isfinite(value) or not shown else "n bad", full)


def _front(on_front: bool) -> Cell:
    return Cell("◆" if on_front else "", "f", str(int(not on_front)))


def _plain(row: Sequence[str], headings: Sequence[Heading]) -> list[Cell]:
    return [Cell(text, "n" * head.number) for text, head in zip(row, headings, strict=True)]


def seeds(study: Results) -> Table | None:
    """The runs of a study that differ in their seeds alone, as means; None if there are none.

    The interval is that of other seeds on the same text; it says nothing of other text.
    """
    groups = grouped(study.done, _but_for_seeds)
    rows = [_mean_over_seeds(key[:4], runs) for key, runs in groups.items() if len(runs) > 1]
    headings = [
        *map(Heading, ("model", "text", "hardware", "look-ahead")),
        Heading("seeds", True),
        Heading("KL", True, "mean over seeds"),
        Heading("95% interval", True, "of the mean KL, over seeds"),
        Heading("flips", True, "mean over seeds"),
        Heading("95% interval", True, "of the mean share of flips, over seeds"),
    ]
    if not rows:
        return None
    return Table(f"seeds of {study.name}", headings, [_plain(row, headings) for row in rows])


def _but_for_seeds(record: Run) -> tuple[str, ...]:
    """What runs have in common that differ in their seeds alone."""
    labels = record.model, record.text, record.hardware, record.lamp
    others = sorted((k, str(v)) for k, v in record.variables.items() if k != "seed")
    plain = [_SEED.sub("", label) for label in labels]
    return (*plain, record.reference, *(part for pair in others for part in pair))


def _mean_over_seeds(labels: Sequence[str], records: Sequence[Run]) -> list[str]:
    cells = [*labels, str(len(records))]
    for value, show in ((KL.value, numbers.scientific), (FLIPS.value, numbers.percent)):
        found = np.array([value(record) for record in records])
        mean = ratio(found, np.ones(len(found)))
        cells += [show(mean.value), " to ".join(map(show, mean.interval()))]
    return cells


def texts(study: Results) -> Table:
    """What models have read, and how well the reference predicts it."""
    headings = [
        *map(Heading, ("model", "text")),
        Heading("tokens", True),
        Heading("reference"),
        Heading("perplexity", True),
    ]
    found = dict.fromkeys(map(_text, study.done))
    return Table(f"texts of {study.name}", headings, [_plain(row, headings) for row in found])


def _text(record: Run) -> tuple[str, ...]:
    member, found = record, metrics(record)
    perplexity = numbers.decimals(found.reference_perplexity)
    return member.model, member.text, f"{found.tokens:,}", member.reference, perplexity


def times(study: Results, model: str) -> Table:
    """How long the runs of a model took, by machine."""
    headings = [
        Heading("hardware"),
        *(Heading(text, True) for text in ("runs", "seconds", "least", "most", "tokens/s")),
    ]
    own = (record for record in study.done if record.model == model)
    groups = grouped(own, lambda record: record.hardware)
    rows = [_plain([machine, *_times(records)], headings) for machine, records in groups.items()]
    return Table(f"times of {model}", headings, rows)


def _times(records: Sequence[Run]) -> list[str]:
    """How many runs; the median, least and most seconds; the median speed."""
    seconds = [record.seconds or 0.0 for record in records]
    speeds = [value for value in map(speed, records) if math.isfinite(value)]
    return [
        f"{len(records):,}",
        *(numbers.decimals(each(seconds), 2) for each in (statistics.median, min, max)),
        f"{statistics.median(speeds):,.0f}" if speeds else "NaN",
    ]
