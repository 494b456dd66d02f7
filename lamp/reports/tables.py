"""Tables of a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lamp.reports import numbers
from lamp.reports.markup import Child, Element, element
from lamp.reports.quantities import KL, RATE
from lamp.reports.results import NONE, Results, metrics, speed
from lamp.studies import Run

__all__ = ["failures", "missing", "runs", "texts", "times"]

_MOST: Final = 200  # runs in a list


@dataclass(frozen=True)
class _Column:
    """A column of numbers or of words."""

    heading: str
    value: Callable[[Run], float | str]
    show: Callable[[float], str] | None = None
    meaning: str = ""
    longest: int = 24  # letters in a line


_RUNS: Final = (
    _Column("#", lambda record: record.position, "{:g}".format, "place in the study"),
    _Column("model", lambda record: record.model),
    _Column("text", lambda record: record.text),
    _Column("hardware", lambda record: record.hardware),
    _Column("LAMP", lambda record: record.lamp, None, "what look-ahead recomputes", 40),
    _Column("KL", KL.value, numbers.scientific, "divergence from the reference, nats a token"),
    _Column(
        "flips",
        lambda record: metrics(record).flip_rate,
        numbers.percent,
        "of the most probable token",
    ),
    _Column("perplexity", lambda record: metrics(record).perplexity, numbers.decimals),
    _Column("rate", RATE.value, numbers.percent, "recomputed, of what look-ahead looks at"),
    _Column(
        "high precision",
        lambda record: metrics(record).high_precision_share,
        numbers.percent,
        "multiply-adds of recomputed components, of all",
    ),
    _Column(
        "seconds",
        lambda record: math.nan if record.seconds is None else record.seconds,
        lambda seconds: numbers.decimals(seconds, 2),
    ),
)


def _exact(value: float | str) -> str:
    """A value in full, for scripts that sort."""
    if isinstance(value, str):
        return value
    return str(value).replace("inf", "Infinity").replace("nan", "NaN")


def _boxed(table: Element, name: str) -> Element:
    """A table in a box of its own, within which it scrolls."""
    return element("div", table, class_="box", tabindex=0, role="region", aria_label=name)


def _table(headings: Sequence[Element], rows: Iterable[Element], style: str = "") -> Element:
    head = element("thead", element("tr", headings))
    return element("table", head, element("tbody", rows), class_=style or None)


def _plain(name: str, headings: Mapping[str, bool], rows: Iterable[Sequence[Child]]) -> Element:
    """A table; of each heading is told whether numbers stand under it."""
    styles = ["n" if number else None for number in headings.values()]
    heads = [
        element("th", heading, class_=style, scope="col")
        for heading, style in zip(headings, styles, strict=True)
    ]
    body = (
        element(
            "tr",
            (element("td", cell, class_=s) for cell, s in zip(row, styles, strict=True)),
        )
        for row in rows
    )
    return _boxed(_table(heads, body), name)


def runs(study: Results) -> Element:
    """All runs of a study that are done, to be sorted by any column.

    Parameters
    ----------
    study : Results

    Returns
    -------
    Element
    """
    best = study.fronts(RATE.value, KL.value)
    heads = [
        element(
            "th",
            column.heading,
            class_="n" if column.show else None,
            title=column.meaning or None,
            scope="col",
        )
        for column in _RUNS
    ]
    meaning = "on the Pareto front of KL and rate of its model, text and machine"
    heads.append(element("th", "front", title=meaning, scope="col"))
    rows = (_run(record, record.position in best) for record in study.done)
    return _boxed(_table(heads, rows, "runs"), f"runs of {study.name}")


def _run(record: Run, on_front: bool) -> Element:
    cells = [_cell(column, record) for column in _RUNS]
    mark = element("td", "◆" if on_front else None, data_v=int(not on_front), class_="f")
    return element("tr", cells, mark)


def _cell(column: _Column, record: Run) -> Element:
    value = column.value(record)
    if column.show is None or isinstance(value, str):
        long = "long" if len(str(value)) > column.longest else None
        return element("td", str(value), class_="none" if value == NONE else long)
    style = "n" if math.isfinite(value) else "n bad"
    return element("td", column.show(value), class_=style, data_v=_exact(value))


def texts(study: Results) -> Element:
    """What models have read, and how well they predict it without simulated hardware.

    Parameters
    ----------
    study : Results

    Returns
    -------
    Element
    """
    rows: dict[tuple[str, ...], None] = {}
    for record in study.done:
        found = metrics(record)
        member = record
        row = (
            member.model,
            member.text,
            f"{found.tokens:,}",
            member.reference,
            numbers.decimals(found.reference_perplexity),
        )
        rows[row] = None
    headings = {
        "model": False,
        "text": False,
        "tokens": True,
        "reference": False,
        "perplexity": True,
    }
    return _plain(f"texts of {study.name}", headings, rows)


def failures(study: Results) -> Element:
    """Why runs have failed, and which.

    Parameters
    ----------
    study : Results

    Returns
    -------
    Element
    """
    reasons: dict[str, list[Run]] = {}
    for record in study.having("failed"):
        reasons.setdefault(record.error or "for no known reason", []).append(record)
    items = (
        element("li", element("p", reason, class_="bad"), _listed(records))
        for reason, records in reasons.items()
    )
    return element("ul", items, class_="failures")


def missing(study: Results) -> Element:
    """Runs that are still to be done.

    Parameters
    ----------
    study : Results

    Returns
    -------
    Element
    """
    return _listed(study.having("missing"))


def _listed(records: Sequence[Run]) -> Element:
    """Runs, of which at first only the number is to be seen."""
    items = [element("li", str(record)) for record in records[:_MOST]]
    if len(records) > _MOST:
        items.append(element("li", f"and {len(records) - _MOST:,} more"))
    count = f"{len(records):,} run{'' if len(records) == 1 else 's'}"
    return element("details", element("summary", count), element("ul", items))


def times(study: Results, model: str) -> Element:
    """How long the runs of a model took, by machine.

    Parameters
    ----------
    study : Results
    model : str

    Returns
    -------
    Element
    """
    groups: dict[str, list[Run]] = {}
    for record in study.done:
        if record.model == model:
            groups.setdefault(record.hardware, []).append(record)
    headings = {
        "hardware": False,
        "runs": True,
        "seconds": True,
        "least": True,
        "most": True,
        "tokens/s": True,
    }
    rows = (
        (machine, f"{len(records):,}", *_durations(records), _median_speed(records))
        for machine, records in groups.items()
    )
    return _plain(f"times of {model}", headings, rows)


def _durations(records: Sequence[Run]) -> list[str]:
    seconds = [record.seconds or 0.0 for record in records]
    return [f"{each(seconds):,.2f}" for each in (statistics.median, min, max)]


def _median_speed(records: Sequence[Run]) -> str:
    speeds = [value for value in map(speed, records) if math.isfinite(value)]
    return f"{statistics.median(speeds):,.0f}" if speeds else "NaN"
