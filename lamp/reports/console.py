"""Results for people: tables, CSV files and plots.

Tables fit into 80 columns, whatever the machines and models are called.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp.machines import STEPS
from lamp.reports import numbers

if TYPE_CHECKING:
    from rich.table import Table

    from lamp.evaluation import Comparison, Metrics
    from lamp.integrations import Scores
    from lamp.machines import Difference
    from lamp.reports.figures import Picture
    from lamp.studies import EqualRateRun

__all__ = [
    "LETTERS",
    "comparison_heading",
    "comparison_table",
    "differences_table",
    "metrics_table",
    "more_than_first",
    "plot_results",
    "rates_table",
    "scores_tables",
    "results_table",
    "where_errors_are_from",
    "write_csv",
]

LETTERS: Final = string.ascii_uppercase
"""What machines are called in a table of several."""

_HEAD: Final = "lm_head"  # the step that is in no layer
_GAP: Final = 2  # between the columns of a table with a heading
_RATE_WIDTH: Final = 7  # of a column of percentages, the space before it included

_RULES: Final = {
    "random": "random control",
    "normwise": "normwise, version 1's rule",
    "total_variation, |y|": "one threshold on |y| z(1 - z)",
}
"""The rules of the demo's plot, by what results call them."""

# The columns of tables: a heading, and what stands under it.
_Columns = Sequence[tuple[str, Callable[[Any], str]]]
_METRICS: Final[_Columns] = (
    ("KL", lambda run: numbers.scientific(run.metrics.kl)),
    ("±", lambda run: numbers.error(run.metrics.kl_error)[1:]),
    ("flips", lambda run: f"{run.metrics.flip_rate:.2%}"),
    ("perp-\nlexity", lambda run: numbers.decimals(run.metrics.perplexity)),
)
_RESULTS: Final[_Columns] = (
    ("mu", lambda run: str(run.stored_bits)),
    ("tau", lambda run: "-" if run.tau is None else f"{run.tau:g}"),
    ("rule", lambda run: run.rule),
    *_METRICS[:3],
    ("±", lambda run: numbers.error(run.metrics.flip_rate_error, "percent")[1:]),
    _METRICS[3],
    ("rate", lambda run: f"{run.metrics.recomputation_rate:.2%}"),
    ("s", lambda run: f"{run.seconds:.1f}"),
)
_LOOK_AHEAD: Final[_Columns] = (
    ("recom-\nputed", lambda run: _if_any(run, run.metrics.recomputation_rate)),
    ("high\nprec.", lambda run: _if_any(run, run.metrics.high_precision_share)),
)
_TIMES: Final[_Columns] = (
    ("time\ns", lambda run: numbers.seconds(run.seconds)),
    ("KL\nfrom A", lambda run: "-" if run.first is None else numbers.scientific(run.first.kl)),
)


def _if_any(run: Comparison, rate: float) -> str:
    return f"{rate:.2%}" if run.setting.lamp else "-"


def results_table(results: Sequence[EqualRateRun], title: str) -> Table:
    """A table of the demo's runs, one per row, below a title."""
    table = _headed_table([heading for heading, _ in _RESULTS])
    table.title, table.title_justify, table.padding = title, "left", (0, 0)
    table.columns[2].justify = "left"
    for index, run in enumerate(results):
        if index and results[index - 1].stored_bits != run.stored_bits:
            table.add_section()
        table.add_row(*(show(run) for _, show in _RESULTS))
    return table


def metrics_table(run: Comparison, reference: str) -> Table:
    """A table of the metrics of a run, compared with the machine named `reference`."""
    metrics = run.metrics
    table = _plain_table()
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right", style="bold")
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    table.add_row(
        "KL divergence",
        numbers.scientific(metrics.kl),
        numbers.error(metrics.kl_error),
        f"nats per token, from {reference}",
    )
    table.add_row(
        "flips",
        f"{metrics.flip_rate:.2%}",
        numbers.error(metrics.flip_rate_error, "percent"),
        "of the most probable next tokens",
    )
    table.add_row(
        "perplexity",
        numbers.decimals(metrics.perplexity),
        numbers.error(metrics.perplexity_error, "plain"),
        f"{reference}: {numbers.decimals(metrics.reference_perplexity)}",
    )
    if run.setting.lamp:
        table.add_row(
            "recomputed",
            f"{metrics.recomputation_rate:.2%}",
            numbers.error(metrics.recomputation_rate_error, "percent"),
            "of candidate components",
        )
        share = f"{metrics.high_precision_share:.2%}"
        table.add_row("high precision", share, "", "of all multiply-adds, added to them")
    table.add_row("time", f"{numbers.seconds(run.seconds)} s", "", f"{run.speed:,.0f} tokens/s")
    return table


def where_errors_are_from(metrics: Metrics) -> str:
    """What the standard errors of metrics are from, in words; empty where there are none."""
    if metrics.clusters < 2:
        return ""
    of_one = f"{metrics.clusters} blocks of the one window"
    clusters = of_one if metrics.windows == 1 else f"{metrics.clusters} windows"
    return f"±: standard errors, from {clusters}."


def more_than_first(runs: Sequence[Comparison]) -> Iterator[str]:
    """How much the divergence of each run differs from the first's, a line for each."""
    for letter, run in zip(LETTERS, runs, strict=False):
        difference = run.more_than_first
        if difference is None or math.isnan(difference.error):
            continue
        low, high = difference.interval()
        decided = "" if low > 0 or high < 0 else ", undecided"
        yield (
            f"KL of {letter} less KL of A: {numbers.scientific(difference.value)}, "
            f"95% interval {numbers.scientific(low)} to {numbers.scientific(high)}{decided}"
        )


def rates_table(metrics: Metrics, width: int) -> Table:
    """A table of recomputation rates: a row per step, a column per layer.

    Layers that do not fit into `width` columns of the terminal go below the first.
    """
    rows = {step: _percentages(rates) for step, rates in metrics.step_rates.items()}
    head = {step: rows.pop(step) for step in [*rows] if step.startswith(_HEAD)}
    if len(rows.keys() & STEPS.keys()) > 1:
        rows["all"] = _percentages(metrics.layer_rates)
    columns = [f"layer {n}" if n == 0 else str(n) for n in range(len(metrics.layer_rates))]
    if rows and all(len(set(cells)) == 1 for cells in rows.values()):
        columns = ["each layer"]
    heading = "recomputed, %"
    label = 2 + max(map(len, (heading, _HEAD, *head, *rows)))
    across = max(1, min(len(columns), (width - label) // _RATE_WIDTH))
    table = _plain_table()
    table.padding = 0
    table.add_column(no_wrap=True, min_width=label)
    for _ in range(across):
        table.add_column(justify="right", no_wrap=True, min_width=_RATE_WIDTH)
    for start in range(0, len(columns), across):
        chosen = slice(start, start + across)
        table.add_row("" if start else heading, *columns[chosen], style="bold")
        for step, cells in rows.items():
            table.add_row(step, *cells[: len(columns)][chosen])
    if head:
        table.add_row("" if rows else heading, "head", style="bold")
    for step, cells in head.items():
        table.add_row(step, *cells)
    return table


def _percentages(rates: Sequence[float]) -> list[str]:
    return [f"{100 * rate:.2f}" for rate in rates]


def comparison_heading(runs: Sequence[Comparison], reference: str) -> str:
    """What stands above the table of a comparison with the machine named `reference`."""
    perplexity = numbers.decimals(runs[0].metrics.reference_perplexity)
    return f"How far they are from {reference}, whose perplexity is {perplexity}"


def comparison_table(runs: Sequence[Comparison]) -> Table:
    """A table of one model and text on several machines, a letter for each."""
    high = any(run.setting.lamp for run in runs)
    columns = (*_METRICS, *(_LOOK_AHEAD if high else ()), *_TIMES)
    table = _headed_table(["", *(heading for heading, _ in columns)])
    for letter, run in zip(LETTERS, runs, strict=False):
        table.add_row(letter, *(show(run) for _, show in columns))
    return table


def scores_tables(found: Scores) -> Iterator[tuple[str, Table]]:
    """A table of the scores of each task, on a machine and on the reference.

    Parameters
    ----------
    found : lamp.integrations.Scores

    Yields
    ------
    heading : str
    table : rich.table.Table
    """
    for task, scores in itertools.groupby(found.scores, lambda score: score.task):
        table = _headed_table(["metric", "score", "±", found.reference, "more", "±", "changed"])
        table.columns[0].justify = "left"
        count = 0
        for score in scores:
            difference, changed, count = score.difference, score.changed, score.count
            metric = score.metric if score.filter == "none" else f"{score.metric}, {score.filter}"
            table.add_row(
                metric,
                numbers.decimals(score.value),
                numbers.error(score.value_error, "decimals")[1:],
                numbers.decimals(score.reference),
                "-" if difference is None else numbers.decimals(difference.value),
                "-" if difference is None else numbers.error(difference.error, "decimals")[1:],
                "-" if changed is None else str(changed),
            )
        documents = f", {count} document{'s' if count > 1 else ''}" if count else ""
        yield f"{task}{documents}", table


def differences_table(found: Sequence[Difference], width: int) -> Table:
    """A table of what ``lamp.machines.differences`` found between machines, a letter for each.

    Machines that do not fit side by side into `width` columns go one below the other.
    """
    rows = [(label, each.what, each.values) for each in found for label in each.labels()]
    cells = [("step", "", LETTERS[: len(rows[0][2])]), *rows]
    columns = [[label, what, *values] for label, what, values in cells]
    needed = sum(_GAP + max(map(len, column)) for column in zip(*columns, strict=True))
    if needed - _GAP <= width:
        table = _headed_table(columns[0], "left")
        for label, row in zip(_once(rows), columns[1:], strict=True):
            table.add_row(label, *row[1:])
        return table
    table = _headed_table(["step", "", "", ""], "left")
    for label, (_, what, values) in zip(_once(rows), rows, strict=True):
        owners: dict[str, list[str]] = {}
        for letter, value in zip(LETTERS, values, strict=False):
            owners.setdefault(value, []).append(letter)
        for index, (value, letters) in enumerate(owners.items()):
            table.add_row(*((label, what) if index == 0 else ("", "")), " ".join(letters), value)
    return table


def _once(rows: Sequence[tuple[str, Any, Any]]) -> Iterator[str]:
    """Labels, those that repeat the one above left empty."""
    previous = ""
    for label, *_ in rows:
        yield "" if label == previous else label
        previous = label


def _plain_table() -> Table:
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)


def _headed_table(headings: Iterable[str], justify: Any = "right") -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify=justify, vertical="bottom", overflow="fold")
    return table


def write_csv(results: Sequence[EqualRateRun], path: Path) -> None:
    """Write the demo's runs to a CSV file, one per line, whole or not at all."""
    from lamp._files import writing
    from lamp.evaluation import NUMBERS
    from lamp.reports import exports

    own = ("stored_bits", "rule", "tau", "seconds")
    measured = ("tokens", *NUMBERS, "clusters", "windows")
    lines = (
        {name: getattr(run if name in own else run.metrics, name) for name in (*own, *measured)}
        for run in results
    )
    writing.write(path, exports.written_csv((*own, *measured), lines))


def plot_results(results: Sequence[EqualRateRun], path: Path) -> None:
    """Plot the demo's KL divergences against recomputation rates, whole or not at all.

    The ending of the path (.png, .svg, .pdf) says the kind of picture.  Another is a ValueError.
    """
    from lamp._files import writing
    from lamp.reports import pictures

    kind = path.suffix[1:]
    if kind not in pictures.KINDS:
        kinds = ", ".join(f".{each}" for each in pictures.KINDS)
        raise ValueError(f"{str(path)!r} ends in no kind of picture: expected {kinds}")
    writing.check(path)
    writing.write(path, pictures.painted(_picture(results), kind))


def _picture(results: Sequence[EqualRateRun]) -> Picture:
    """A color for each precision, a shape for each rule, and lines that join runs of both."""
    from lamp.reports import charts, figures, scales

    title = "query-key products recomputed in float32"
    rates = [run.metrics.recomputation_rate for run in results if run.lamp is not None]
    x = scales.Scale(title, rates, numbers.short_percent, room=0.16, band=0.075)
    each = [run.metrics for run in results]
    divergences, errors = [run.kl for run in each], [run.kl_error for run in each]
    y = scales.Scale("KL(float64 || model), nats per token", divergences, errors=errors)
    precisions = sorted({result.stored_bits for result in results})
    lines, points = [], []
    for color, mu in enumerate(precisions):
        for shape, rule in enumerate(("none", *_RULES)):
            own = [run.metrics for run in results if (run.stored_bits, run.rule) == (mu, rule)]
            places = sorted((each.recomputation_rate, each.kl, each.kl_error) for each in own)
            if rule == "none":
                lines += [figures.Line((place,), color, "level") for place in places]
                continue
            lines += [figures.Line(tuple(places), color)] if places else []
            points += [
                figures.Point(rate, kl, color, shape, "", y_error=error)
                for rate, kl, error in places
            ]
    legend = (
        *(figures.Entry(f"{mu} stored bits", i) for i, mu in enumerate(precisions)),
        *(figures.Entry(text, None, i, "rule") for i, text in enumerate(_RULES.values(), 1)),
        figures.Entry("no recomputation", role="level"),
        charts.ERRORS,
    )
    draw = partial(figures.plot, x, y, points, lines)
    return figures.Picture("demo", "Look-ahead in attention scores", title, legend, draw)
