"""One HTML page of the results of a store: everything is in it, and it fetches nothing.

The same results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fpemu._printing import clean
from lamp._files import writing
from lamp.reports import numbers, svg, tables
from lamp.reports.charts import charts
from lamp.reports.colors import DARK, LIGHT
from lamp.reports.results import Results, grouped, metrics

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = ["page", "write_page"]

_MOST_LABELS: Final = 40  # of a kind, listed one by one
_MOST_RUNS: Final = 200  # in a list
_LISTED: Final = {"models": "model", "texts": "text", "hardware": "hardware", "look-ahead": "lamp"}
_FIRST: Final = ("host", "processor", "system", "cores", "threads", "memory")


def write_page(studies: Sequence[Results], path: Path) -> None:
    """Write one HTML page with everything in it.

    Parameters
    ----------
    studies : sequence of Results
    path : Path
        The file; its folder must exist.
    """
    writing.check(path)
    writing.write(path, page(studies).encode())


def page(studies: Sequence[Results]) -> str:
    """The page of studies of one store, as HTML."""
    script = resources.files("lamp.reports").joinpath("templates", "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _templates().get_template("page.html")
    return template.render(
        studies=[_described(study) for study in studies],
        store=studies[0].store,
        themes={"light": LIGHT, "dark": DARK},
        script=Markup(script),
        digest=digest,
    )


@cache
def _templates() -> Environment:
    """The templates of the package; whatever they are given is text and is escaped."""
    found = Environment(
        loader=PackageLoader("lamp.reports"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["picture"] = lambda picture: Markup(svg.picture(picture))
    found.filters["swatch"] = lambda entry: Markup(svg.swatch(entry))
    return found


def _described(study: Results) -> dict[str, Any]:
    """What the template says of a study."""
    failed = grouped(study.having("failed"), lambda each: each.error or "for no known reason")
    return {
        "name": study.name,
        "counts": study.counts,
        "total": study.counts.total(),
        "overflows": sum(not math.isfinite(metrics(each).kl) for each in study.done),
        "facts": [(name, fact) for name, fact in _facts(study) if fact],
        "failed": {reason: _listed(records) for reason, records in failed.items()},
        "missing": _listed(study.having("missing")),
        "texts": tables.texts(study),
        "comparisons": tables.comparisons(study),
        "seeds": tables.seeds(study),
        "runs": tables.runs(study),
        "scores": tables.scores(study),
        "charts": charts(study),
        "times": {model: tables.times(study, model) for model in study.labels("model")},
    }


def _listed(runs: Sequence[Run]) -> tuple[str, list[str]]:
    """How many runs, and what they are called."""
    items = [str(run) for run in runs[:_MOST_RUNS]]
    if len(runs) > _MOST_RUNS:
        items.append(f"and {len(runs) - _MOST_RUNS:,} more")
    return f"{len(runs):,} run{'' if len(runs) == 1 else 's'}", items


# --- what a study is ------------------------------------------------------------------------------


def _facts(study: Results) -> Iterator[tuple[str, Any]]:
    """Names and facts: a list of (what is code, what is not), or plain lines."""
    for name, kind in _LISTED.items():
        yield name, _codes(_said(study, kind))
    grid = study.variables.items()
    yield "grid", [(name, f" = {', '.join(map(str, values))}") for name, values in grid]
    yield "reference", _codes(tuple(dict.fromkeys(run.reference for run in study.all)))
    yield "tasks", _codes(tuple(dict.fromkeys(run.text for run in study.tasks)))
    yield "when", _when(study.all)
    yield "where", [_place(place) for place in study.environments.values()]


def _said(study: Results, kind: str) -> Sequence[str]:
    """What a study says of machines and rules, with its variables; else the labels of its runs."""
    entries = study.definition.get(kind)
    if isinstance(entries, list) and entries and all(isinstance(each, str) for each in entries):
        return entries
    return study.labels(kind)


def _codes(labels: Sequence[str]) -> list[tuple[str, str]]:
    more = len(labels) - _MOST_LABELS
    return [(label, "") for label in labels[:_MOST_LABELS]] + [("", f"{more:,} more")] * (more > 0)


def _when(records: Iterable[Run]) -> list[str]:
    ended = [record for record in records if record.started_at and record.finished_at]
    if not ended:
        return []
    first = min(record.started_at or "" for record in ended)
    last = max(record.finished_at or "" for record in ended)
    spent = numbers.duration(sum(record.seconds or 0.0 for record in ended))
    minutes = [time[:16].replace("T", " ") for time in (first, last)]
    return [f"{minutes[0]} to {minutes[1]} UTC, {spent} of computing"]


def _place(place: Mapping[str, Any]) -> str:
    """Where runs were computed: the machine first, then the rest."""
    known = [str(place[name]) for name in _FIRST[:3] if place.get(name)]
    known += [f"{place[name]} {name}" for name in _FIRST[3:5] if place.get(name)]
    memory = place.get("memory")
    if isinstance(memory, (int, float)):
        known.append(f"{memory / 2**30:.0f} GiB")
    rest = {k: v for k, v in place.items() if k not in _FIRST and v is not None}
    known += [f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in rest.items()]
    return ", ".join(known)
