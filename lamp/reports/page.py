"""One HTML page of the results of a store: everything is in it, and it fetches nothing.

The same results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any, Final

from lamp.reports import numbers, svg, tables
from lamp.reports.charts import TIME, Chart, charts
from lamp.reports.colours import DARK, LIGHT
from lamp.reports.drawing import Drawing, Entry
from lamp.reports.markup import Child, Element, element, written
from lamp.reports.results import Results, metrics
from lamp.studies import Run

__all__ = ["page"]

_MOST_LABELS: Final = 40  # of a kind, listed one by one


def page(studies: Sequence[Results]) -> str:
    """The page.

    Parameters
    ----------
    studies : sequence of Results
        What is on it; of one store.

    Returns
    -------
    str
        HTML.
    """
    title = ", ".join(study.name for study in studies)
    body = [svg.symbols(), _header(studies)]
    body += (_section(study, i, len(studies) > 1) for i, study in enumerate(studies))
    body.append(
        element("footer", "Numbers in full precision: lamp report --csv, or the store itself.")
    )
    script = _file("page.js")
    colours = {"light": _variables(LIGHT), "dark": _variables(DARK)}
    return Template(_file("page.html")).substitute(
        title=written(element("title", f"{title} · lamp")),
        style=Template(_file("page.css")).substitute(colours),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        body="\n".join(map(written, body)),
    )


def _file(name: str) -> str:
    return resources.files("lamp.reports").joinpath(name).read_text(encoding="utf-8")


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def _header(studies: Sequence[Results]) -> Element:
    several, store = len(studies) > 1, studies[0].store
    title = store if several else studies[0].name
    what = f"{len(studies)} studies of look-ahead" if several else f"A study in {store}"
    links = (
        element("li", element("a", study.name, href=f"#study-{i}"))
        for i, study in enumerate(studies)
    )
    return element(
        "header",
        element(
            "div",
            element("h1", title),
            element("p", f"{what}: language models under simulated hardware"),
            element("nav", element("ul", links)) if several else None,
        ),
        element("button", "Dark", id="theme", type="button", hidden="hidden"),
    )


def _section(study: Results, index: int, several: bool) -> Element:
    heading = element("h2", study.name) if several else None
    parts: list[Child] = [heading, *_state(study), _facts(study)]
    if study.having("failed"):
        parts += [element("h3", "Failed"), tables.failures(study)]
    if study.having("missing"):
        parts += [element("h3", "Still to run"), tables.missing(study)]
    if study.done:
        parts += _runs(study)
        for chart in charts(study):
            parts += _chart(chart, study)
    return element("section", *parts, id=f"study-{index}")


# --- what a study is ------------------------------------------------------------------------------


def _state(study: Results) -> Iterator[Element]:
    """How far it is, in words and as a bar."""
    counts = study.counts
    total = counts.total()
    words = [f"{counts['done']:,} of {_counted(total, 'run')} done"]
    words += [f"{counts[state]:,} {state}" for state in ("failed", "missing") if counts[state]]
    yield element("p", " · ".join(words), _overflows(study.done), class_="state")
    shares = ((state, counts[state] / total) for state in ("done", "failed") if total)
    parts = (element("span", class_=s, style=f"width:{share:.2%}") for s, share in shares)
    yield element("div", parts, class_="bar", aria_hidden="true")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _overflows(records: Sequence[Run]) -> Element | None:
    """How many runs have no finite divergence."""
    count = sum(not math.isfinite(metrics(record).kl) for record in records)
    if not count:
        return None
    return element("span", f" · {_counted(count, 'run')} without a finite KL", class_="bad")


def _facts(study: Results) -> Element:
    facts: list[tuple[str, Child]] = [
        ("models", _listed(study.labels("model"))),
        ("texts", _listed(study.labels("text"))),
        ("hardware", _listed(_said(study, "hardware"))),
        ("look-ahead", _listed(_said(study, "lamp"))),
        ("grid", _grid(study)),
        ("reference", _listed(study.labels("reference"))),
        ("when", _when(study.records)),
        ("where", _places(study)),
    ]
    return element(
        "dl",
        (
            part
            for name, fact in facts
            if fact
            for part in (element("dt", name), element("dd", fact))
        ),
    )


def _said(study: Results, kind: str) -> Sequence[str]:
    """What a study says of a kind, with its variables; else the labels of all its runs."""
    entries = study.definition.get(kind)
    if isinstance(entries, list) and entries and all(isinstance(each, str) for each in entries):
        return entries
    return study.labels(kind)


def _listed(labels: Sequence[str]) -> list[str | Element]:
    """Labels, each as code."""
    found: list[str | Element] = []
    for label in labels[:_MOST_LABELS]:
        found += [", " if found else "", element("code", label)]
    if len(labels) > _MOST_LABELS:
        found.append(f" and {len(labels) - _MOST_LABELS:,} more")
    return found


def _grid(study: Results) -> list[str | Element]:
    found: list[str | Element] = []
    for name, values in study.variables.items():
        listed = ", ".join(map(str, values))
        found += ["; " if found else "", element("code", name), f" = {listed}"]
    return found


def _when(records: Iterable[Run]) -> str:
    ended = [record for record in records if record.started_at and record.finished_at]
    if not ended:
        return ""
    first = min(record.started_at or "" for record in ended)
    last = max(record.finished_at or "" for record in ended)
    spent = sum(record.seconds or 0.0 for record in ended)
    return f"{_minute(first)} to {_minute(last)} UTC, {numbers.seconds(spent)} of computing"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _places(study: Results) -> Element | None:
    """The machines that runs were computed on."""
    if not study.environments:
        return None
    return element("ul", (element("li", _place(place)) for place in study.environments.values()))


def _place(place: Mapping[str, Any]) -> str:
    """An environment in words: what it is worth knowing first, then the rest."""
    known = [str(place[name]) for name in ("host", "processor", "system") if place.get(name)]
    if place.get("cores"):
        known.append(f"{place['cores']} cores")
    if place.get("threads"):
        known.append(f"{place['threads']} threads")
    memory = place.get("memory")
    if isinstance(memory, (int, float)):
        known.append(f"{memory / 2**30:.0f} GiB")
    shown = ("host", "processor", "system", "cores", "threads", "memory")
    rest = {name: value for name, value in place.items() if name not in shown and value is not None}
    known += [f"{name} {_plain(value)}" for name, value in rest.items()]
    return ", ".join(known)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- what was found -------------------------------------------------------------------------------


def _runs(study: Results) -> Iterator[Element]:
    yield element("h3", "Texts")
    yield element("p", "What the models read, and the reference's perplexity.", class_="note")
    yield tables.texts(study)
    yield element("h3", "Runs")
    yield element(
        "p",
        "KL is the mean divergence of the next token's distribution from the reference's, in nats; "
        "◆ marks runs that no other on the same machine beats in both KL and rate.",
        class_="note",
    )
    yield tables.runs(study)


def _chart(chart: Chart, study: Results) -> Iterator[Element]:
    yield element("h3", chart.title)
    yield element(
        "div",
        element("p", chart.note, class_="note"),
        _legend(chart.legend),
        (element("div", _panels(chart, group, study), class_="panels") for group in chart.groups),
        class_="charts",
    )


def _panels(
    chart: Chart, group: Iterable[tuple[str, Drawing]], study: Results
) -> Iterator[Element]:
    for name, drawing in group:
        yield _figure(drawing, name)
        if chart.title == TIME:
            yield tables.times(study, drawing.title)


def _figure(drawing: Drawing, name: str) -> Element:
    about = element("span", drawing.title) if name else drawing.title
    caption = element("figcaption", f"{name} " if name else None, about)
    return element("figure", caption, svg.picture(drawing))


def _legend(entries: Sequence[Entry]) -> Element | None:
    """What colours and shapes mean; those of machines and rules can be picked."""
    items: list[Element] = []
    previous = None
    for entry in entries:
        kind = "m" if entry.colour is not None else "r"
        if previous not in (None, kind):
            items.append(element("li", class_="apart", aria_hidden="true"))
        previous = kind
        number = entry.shape if entry.colour is None else entry.colour
        pick = None if number is None else f"{kind}{number}"
        items.append(element("li", svg.swatch(entry), entry.text, data_pick=pick))
    return element("ul", items, class_="legend") if items else None
