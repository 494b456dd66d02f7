"""One HTML page of the results of a store: everything is in it, and it fetches nothing.

The same results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fpemu._printing import clean
from fpemu.pictures import colors
from lamp._files import writing
from lamp.reports import numbers, svg, tables
from lamp.reports.charts import charts
from lamp.reports.results import Results
from lamp.reports.runs import MOST
from lamp.reports.stories import story

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = ["page", "write_page"]

_NUMBER: Final = re.compile(r"((?<![^\s\[(])-?\d(?:[\d.]*\d)?(?:e[-+]\d+)?(?: ± [\d.e+-]*\d)?)")
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
    ordered = sorted(studies, key=lambda study: study.is_stage)
    return template.render(studies=ordered, script=Markup(script), digest=digest)


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
    found.filters |= {
        "picture": lambda picture: Markup(svg.picture(picture)),
        "swatch": lambda entry: Markup(svg.swatch(entry)),
        "unbroken": _unbroken,
        "when": _when,
        "place": _place,
        "thousands": "{:,}".format,
    }
    found.tests["finite"] = math.isfinite
    found.globals |= {"charts": charts, "colors": colors, "story": story, "tables": tables}
    found.globals["most"] = MOST
    return found


def _unbroken(sentence: str) -> Markup:
    """A sentence in which no line ends within a number, or between it and its error."""
    parts = _NUMBER.split(clean(sentence))
    numbers = (Markup('<span class="number">{}</span>').format(each) for each in parts[1::2])
    return Markup("").join(
        itertools.chain(*itertools.zip_longest(parts[::2], numbers, fillvalue=""))
    )


def _when(runs: Iterable[Run]) -> str:
    """From when to when runs were computed, and how long it took; empty if none were."""
    ended = [run for run in runs if run.started_at and run.finished_at]
    if not ended:
        return ""
    first = min(run.started_at or "" for run in ended)
    last = max(run.finished_at or "" for run in ended)
    spent = numbers.duration(sum(run.seconds or 0.0 for run in ended))
    minutes = [time[:16].replace("T", " ") for time in (first, last)]
    return f"{minutes[0]} to {minutes[1]} UTC, {spent} of computing"


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
