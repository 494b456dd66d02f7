"""Tables of a page: what stands in each cell, how it is styled, and by what it is sorted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import compress
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lamp.evaluation import Estimate
from lamp.reports import numbers
from lamp.reports.front_maps import reading
from lamp.reports.quantities import FLIPS, KL, RATE, SHARE
from lamp.reports.results import Results
from lamp.reports.runs import (
    MOST,
    NONE,
    Beside,
    Mean,
    Scored,
    compared,
    evenly,
    grouped,
    is_part,
    metrics,
    scored,
    speed,
)

if TYPE_CHECKING:
    from lamp.integrations import ComparedScore
    from lamp.studies import Run

__all__ = [
    "BESIDE",
    "SCORES",
    "Cell",
    "Column",
    "Table",
    "common",
    "comparisons",
    "machines",
    "runs",
    "scores",
    "seeds",
    "texts",
    "times",
    "tuned",
]

_LONG: Final = 24  # letters that may stand in a line of a narrow column


class Cell(NamedTuple):
    """What is shown, its class in the style sheet, and its value in full for the script."""

    text: str
    style: str = ""
    value: str | None = None


class Column(NamedTuple):
    """A column: its heading, a row's value in it, how a number is shown, what the heading means.

    Without a way to show them, values are labels, or intervals as they stand.
    """

    heading: str
    value: Callable[[Any], Any]
    show: Callable[[Any], str] | None = None
    meaning: str = ""
    longest: int = _LONG

    def cell(self, item: Any) -> Cell:
        """The cell of a row."""
        value = self.value(item)
        if self.show is None:
            long = "long" if len(str(value)) > self.longest else ""
            return Cell(str(value), "none" if value == NONE else long)
        shown = self.show(value)
        if isinstance(value, tuple):
            return Cell(shown, "n", _full(value[0]))
        return Cell(shown, "n" if math.isfinite(value) or not shown else "n bad", _full(value))


class Table:
    """A table: its items are rows.

    A column of labels that says the same in all rows is left out.  Of more than 5,000 items, 5,000
    are shown, evenly among those that need not be `kept`.

    Parameters
    ----------
    name : str
    columns : sequence of Column
    items : sequence
    style : str
        Its class in the style sheet.
    kept : callable
        Whether an item is shown however many there are.

    Attributes
    ----------
    columns : list of Column
        Those that are shown.
    rows : list of list of Cell
    same : list of tuple of str
        The headings and labels of the columns that are left out.
    count : int
        The number of all items.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        items: Sequence[Any],
        style: str = "",
        kept: Callable[[Any], bool] = lambda item: False,
    ) -> None:
        self.name, self.style, self.count = name, style, len(items)
        self.items = items = evenly(items, MOST, kept)
        cells = [[column.cell(item) for item in items] for column in columns]
        varying = [_varies(*pair) for pair in zip(columns, cells, strict=True)]
        self.columns = [*compress(columns, varying)]
        self.rows = [*zip(*compress(cells, varying), strict=True)]
        self.same = [
            (column.heading, own[0].text)
            for column, own, varies in zip(columns, cells, varying, strict=True)
            if items and not varies
        ]

    @property
    def left_out(self) -> str:
        """What is said of rows that are left out; empty if none are."""
        shown = len(self.items)
        return f"{shown:,} of {self.count:,} rows are shown." if shown < self.count else ""


def _varies(column: Column, cells: Sequence[Cell]) -> bool:
    """Whether a column has to be shown: numbers always, labels unless all are the same."""
    return column.show is not None or len({cell.text for cell in cells}) > 1


def _full(value: float) -> str:
    """A number as scripts read it."""
    return str(value).replace("inf", "Infinity").replace("nan", "NaN")


# --- runs -----------------------------------------------------------------------------------------


def _labels(run: str = "") -> tuple[Column, ...]:
    """The labels of rows, which are runs or have one under a name."""
    names = ("model", "text", "hardware")
    lamp = Column("look-ahead", attrgetter(f"{run}lamp"), None, "the rules", 40)
    return (*(Column(name, attrgetter(f"{run}{name}")) for name in names), lamp)


def _hundredths(seconds: float) -> str:
    return numbers.decimals(seconds, 2)


def _seconds(run: Run) -> float:
    return math.nan if run.seconds is None else run.seconds


_FRONT: Final = "on the Pareto front of KL and rate of its model, text and machine"
_SHARE: Final = "multiply-adds of recomputed components, as a share of all"
_RUNS: Final = (
    Column("#", attrgetter("position"), "{:g}".format, "place in the study"),
    *_labels(),
    Column("KL", KL.value, numbers.scientific, "divergence from the reference, nats per token"),
    Column("±", KL.error, lambda error: numbers.error(error)[1:], "standard error of KL"),
    Column("flips", FLIPS.value, numbers.percent, FLIPS.title),
    Column("perplexity", attrgetter("metrics.perplexity"), numbers.decimals),
)
_WORK: Final = (
    Column("rate", RATE.value, numbers.percent, "share of candidate components recomputed"),
    Column("high precision", SHARE.value, numbers.percent, _SHARE),
)
_TIME: Final = Column("seconds", _seconds, _hundredths)
_SAME: Final = (*_labels(), Column("reference", attrgetter("reference")))
_TEXT: Final = attrgetter(
    "model", "text", "metrics.tokens", "reference", "metrics.reference_perplexity"
)
_TEXTS: Final = (
    Column("model", itemgetter(0)),
    Column("text", itemgetter(1)),
    Column("tokens", itemgetter(2), "{:,}".format),
    Column("reference", itemgetter(3)),
    Column("perplexity", itemgetter(4), numbers.decimals),
)


def runs(study: Results) -> Table:
    """All runs of a study that are done, to be sorted by any column."""
    best = study.fronts(RATE.value, KL.value)
    front = Column(
        "front", lambda run: run.position not in best, lambda beaten: "◆" * (not beaten), _FRONT
    )
    columns = (*_RUNS, _TIME)
    if any(run.lamp != NONE for run in study.done):
        columns = (*_RUNS, *_WORK, _TIME, front)
    return Table(
        f"runs of {study.name}", columns, study.done, "runs", lambda run: run.position in best
    )


def common(study: Results) -> list[tuple[str, str]]:
    """What all runs of a study have in common: the names of columns and counts, and what it is."""
    labels = {column.heading: {column.cell(run).text for run in study.all} for column in _SAME}
    counts = {
        name: {f"{getattr(metrics(run), name):,}" for run in study.done}
        for name in ("tokens", "windows")
    }
    found = {**labels, **counts}
    return [(name, next(iter(each))) for name, each in found.items() if len(each) == 1]


def texts(study: Results) -> Table:
    """What models have read, and how well the reference predicts it."""
    shown = {tuple(map(str, _TEXT(run))): _TEXT(run) for run in study.done}
    return Table(f"texts of {study.name}", _TEXTS, list(shown.values()))


# --- scores of tasks ------------------------------------------------------------------------------


def _metric(score: ComparedScore) -> str:
    return score.metric if score.filter == "none" else f"{score.metric}, {score.filter}"


def _of_difference(part: str) -> Callable[[ComparedScore], float]:
    """The difference from the reference, or its error; NaN if the score is not a mean."""
    return lambda score: getattr(score.difference, part, math.nan)


def _if_known(show: Callable[[float], str]) -> Callable[[float], str]:
    return lambda value: "" if math.isnan(value) else show(value)


def _error(value: float) -> str:
    return numbers.error(value, "plain")[1:]


_MORE: Final = "the score less the reference's"
SCORES: Final = (
    Column("metric", _metric),
    Column("score", attrgetter("value"), numbers.decimals),
    Column("±", attrgetter("value_error"), _error, "standard error of the score"),
    Column("reference", attrgetter("reference"), numbers.decimals, "its score"),
    Column("more", _of_difference("value"), _if_known(numbers.decimals), _MORE),
    Column("±", _of_difference("error"), _error, "of the difference, document by document"),
    Column(
        "changed",
        lambda score: math.nan if score.changed is None else score.changed,
        _if_known("{:,}".format),
        "documents whose own score is another than on the reference",
    ),
)
"""The columns of a task's scores."""


def scores(study: Results) -> Table:
    """What models achieve in tasks on machines, beside the reference."""
    model, _, *machine = _labels("run.")
    metric, score, error, reference, *compared = (
        column._replace(value=partial(_within, column.value)) for column in SCORES
    )
    own = Column("±", attrgetter("score.reference_error"), _error, "standard error of its score")
    columns = (
        *(model, Column("task", attrgetter("score.task")), metric, *machine),
        Column("documents", attrgetter("score.count"), "{:,}".format),
        *(score, error, reference, own, *compared),
    )
    return Table(f"scores of {study.name}", columns, list(scored(study.tasks)), "compared")


def _within(value: Callable[[ComparedScore], Any], item: Scored) -> Any:
    return value(item.score)


# --- intervals ------------------------------------------------------------------------------------


def _interval(show: Callable[[float], str]) -> Callable[[tuple[float, float]], str]:
    return lambda ends: "" if math.isnan(sum(ends)) else " to ".join(map(show, ends))


def _estimate(
    heading: str, name: str, value: Callable[[Any], Estimate], show: Callable[[float], str]
) -> tuple[Column, Column]:
    """Columns of an estimate and its interval."""
    return (
        Column(heading, lambda item: value(item).value, show, name),
        Column("95% interval", lambda item: value(item).interval(), _interval(show), f"of {name}"),
    )


def _mean(heading: str, name: str, metric: str, show: Callable[[float], str]) -> tuple[Column, ...]:
    return _estimate(heading, name, lambda run: metrics(run).estimate(metric), show)


_SEEDS: Final = (
    *_labels(),
    Column("seeds", attrgetter("seeds"), "{:g}".format),
    *_mean("KL", "the mean KL, over seeds", "kl", numbers.scientific),
    *_mean("flips", "the mean share of flips, over seeds", "flip_rate", numbers.percent),
)


def _factors(item: Beside) -> tuple[float, float]:
    return item.found.factor.factor_interval()


_FLIPS: Final = "flips less the baseline's"
_COMPARED: Final = (
    *_labels("run."),
    Column("against", attrgetter("baseline.lamp"), None, "the baseline", 40),
    Column("KL factor", attrgetter("found.factor.value"), numbers.factor, "KL over the baseline's"),
    Column("95% interval", _factors, _interval(numbers.factor), "of that factor"),
    *_estimate(
        "KL difference", "KL less the baseline's", attrgetter("found.kl"), numbers.scientific
    ),
    *_estimate("flips difference", _FLIPS, attrgetter("found.flips"), numbers.percent),
)


def seeds(study: Results) -> Table:
    """The runs of a study that differ in their seeds alone, as means.

    The interval is that of other seeds on the same text; it says nothing of other text.
    """
    means = [run for run in study.averaged.records if isinstance(run, Mean)]
    return Table(f"seeds of {study.name}", _SEEDS, means)


def comparisons(study: Results) -> Table:
    """Each setting of look-ahead beside the baseline of its model, text and machine."""
    found = list(compared(study.averaged.records))
    return Table(f"comparisons of {study.name}", _COMPARED, found, "compared")


# --- tuning ---------------------------------------------------------------------------------------


def _divergence(text: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda item: reading(item, text).value


def _ends(item: Mapping[str, Any]) -> tuple[float, float]:
    return reading(item)[1:]


BESIDE: Final = (
    Column("machine", itemgetter("name")),
    Column("is", itemgetter("is")),
    Column("cost", itemgetter("times"), _if_known(numbers.factor), "over the tuned machine's"),
    Column(
        "predicted",
        lambda item: numbers.real(item["predicted"]),
        _if_known(numbers.scientific),
        "the divergence on the calibration text, as the sum of what choices add alone",
    ),
    Column("calibration", _divergence("calibration"), numbers.scientific, "measured there"),
    Column("held-out", _divergence("held_out"), numbers.scientific, "measured on other text"),
    Column("95% interval", _ends, _interval(numbers.scientific), "of that"),
)
"""The columns of machines beside each other, of which records are."""
_ROLES: Final = {
    "tuned": "the result",
    "front": "on the front",
    "uniform": "one option everywhere",
    "allowed": "what is allowed",
}


def machines(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What tuning has found beside uniform machines and corners of the front, cheapest first."""
    result = {**record, "name": record["hardware"], "kind": "tuned"}
    found = [
        {**each, "is": _ROLES[each["kind"]], "times": numbers.real(each["cost"]) / record["cost"]}
        for each in (result, *record["front"], *record["others"])
        if each["divergence"]
    ]
    return sorted(found, key=lambda each: (math.isnan(each["times"]), each["times"]))


def tuned(study: Results) -> Table:
    """The machines of a study of tuning; none of another study."""
    found = [] if study.tuned is None else machines(study.tuned)
    return Table(f"machines of {study.name}", BESIDE, found, "compared")


# --- times ----------------------------------------------------------------------------------------


def _of(
    which: Callable[[list[float]], float], measured: Callable[[Run], float]
) -> Callable[[tuple[str, list[Run]]], float]:
    """Something of what was measured of a machine's runs; NaN if nothing was."""

    def found(item: tuple[str, list[Run]]) -> float:
        known = [value for value in map(measured, item[1]) if math.isfinite(value)]
        return which(known) if known else math.nan

    return found


_TIMES: Final = (
    Column("hardware", itemgetter(0)),
    Column("runs", lambda item: len(item[1]), "{:,}".format),
    Column("seconds", _of(statistics.median, _seconds), _hundredths, "the median"),
    Column("least", _of(min, _seconds), _hundredths),
    Column("most", _of(max, _seconds), _hundredths),
    Column(
        "tokens/s", _of(statistics.median, speed), lambda x: numbers.decimals(x, 0), "the median"
    ),
)


def times(study: Results, model: str) -> Table:
    """How long the runs of a model took, by machine."""
    runs = (run for run in study.done if run.model == model and not is_part(run))
    own = grouped(runs, lambda run: run.hardware)
    return Table(f"times of {model}", _TIMES, list(own.items()))
