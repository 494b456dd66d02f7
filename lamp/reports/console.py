"""Results for people: tables, CSV files and plots.

Tables fit into 80 columns, whatever the machines and models are called.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp.reports import numbers

if TYPE_CHECKING:
    from rich.table import Table

    from lamp.evaluation import Comparison, Metrics
    from lamp.harness import Scores
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

_CSV_METRICS: Final = (
    "kl",
    "flip_rate",
    "perplexity",
    "reference_perplexity",
    "recomputation_rate",
    "tokens",
    "kl_error",
    "flip_rate_error",
    "perplexity_error",
    "clusters",
    "windows",
)
_RULES: Final = {
    "random": "random control",
    "normwise": "normwise, version 1's rule",
    "total_variation, |y|": "one threshold on |y| z(1 - z)",
}
"""The rules of the demo's plot, by what results call them."""


def results_table(results: Sequence[EqualRateRun], title: str) -> Table:
    """A table of runs for the terminal.

    Parameters
    ----------
    results : sequence of EqualRateRun
        The runs, in the order of the rows.
    title : str
        Stands above the table.

    Returns
    -------
    rich.table.Table
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("mu", "tau", "rule", "KL", "flips", "perplexity", "rate", "s"):
        table.add_column(heading, justify="left" if heading == "rule" else "right", no_wrap=True)
    previous = None
    for result in results:
        if previous is not None and previous != result.stored_bits:
            table.add_section()
        previous = result.stored_bits
        metrics = result.metrics
        table.add_row(
            str(result.stored_bits),
            "-" if result.tau is None else f"{result.tau:g}",
            result.rule,
            numbers.scientific(metrics.kl),
            f"{metrics.flip_rate:.2%}",
            numbers.decimals(metrics.perplexity),
            f"{metrics.recomputation_rate:.2%}",
            f"{result.seconds:.1f}",
        )
    return table


def metrics_table(run: Comparison, reference: str) -> Table:
    """A table of the metrics of a run for the terminal.

    Parameters
    ----------
    run : Comparison
        The run.
    reference : str
        The name of the machine that it is compared with.

    Returns
    -------
    rich.table.Table
    """
    table = _plain_table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    metrics = run.metrics
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
    """How much the divergence of each run differs from the first's, a line for each.

    Parameters
    ----------
    runs : sequence of Comparison
        The runs of a comparison.

    Yields
    ------
    str
    """
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
    """A table of recomputation rates for the terminal: a row per step, a column per layer.

    Parameters
    ----------
    metrics : Metrics
        The metrics of a run with look-ahead.
    width : int
        Columns of the terminal; layers that do not fit go below the first.

    Returns
    -------
    rich.table.Table
    """
    rows = {step: _percentages(rates) for step, rates in metrics.step_rates.items()}
    head = rows.pop(_HEAD, None)
    if len(rows.keys() - {"tiles", "parts"}) > 1:
        rows["all"] = _percentages(metrics.layer_rates)
    columns = [f"layer {n}" if n == 0 else str(n) for n in range(len(metrics.layer_rates))]
    if rows and all(len(set(cells)) == 1 for cells in rows.values()):
        columns = ["each layer"]
    heading = "recomputed, %"
    label = 2 + max(map(len, (heading, _HEAD, *rows)))
    across = max(1, min(len(columns), (width - label) // _RATE_WIDTH))
    table = _plain_table(show_header=False)
    table.padding = 0
    table.add_column(no_wrap=True, min_width=label)
    for _ in range(across):
        table.add_column(justify="right", no_wrap=True, min_width=_RATE_WIDTH)
    for start in range(0, len(columns), across):
        chosen = slice(start, start + across)
        table.add_row("" if start else heading, *columns[chosen], style="bold")
        for step, cells in rows.items():
            table.add_row(step, *cells[: len(columns)][chosen])
    if head is not None:
        table.add_row("" if rows else heading, "head", style="bold")
        table.add_row(_HEAD, *head)
    return table


def _percentages(rates: Sequence[float]) -> list[str]:
    return [f"{100 * rate:.2f}" for rate in rates]


def comparison_heading(runs: Sequence[Comparison], reference: str) -> str:
    """What stands above the table of a comparison.

    Parameters
    ----------
    runs : sequence of Comparison
    reference : str
        The name of the machine that all are compared with.

    Returns
    -------
    str
    """
    perplexity = numbers.decimals(runs[0].metrics.reference_perplexity)
    return f"How far they are from {reference}, whose perplexity is {perplexity}"


def comparison_table(runs: Sequence[Comparison]) -> Table:
    """A table of one model and text on several machines, a letter for each.

    Parameters
    ----------
    runs : sequence of Comparison
        The runs; each is also compared with the first.

    Returns
    -------
    rich.table.Table
    """
    headings = ["", "KL", "±", "flips", "perp-\nlexity"]
    high = any(run.setting.lamp for run in runs)
    headings += ["recom-\nputed", "high\nprec."] if high else []
    headings += ["time\ns", "KL\nfrom A"]
    table = _headed_table(headings)
    for letter, run in zip(LETTERS, runs, strict=False):
        metrics, first = run.metrics, run.first
        rates = metrics.recomputation_rate, metrics.high_precision_share
        look_ahead = [f"{rate:.2%}" for rate in rates] if run.setting.lamp else ["-", "-"]
        table.add_row(
            letter,
            numbers.scientific(metrics.kl),
            numbers.error(metrics.kl_error)[1:],
            f"{metrics.flip_rate:.2%}",
            numbers.decimals(metrics.perplexity),
            *(look_ahead if high else []),
            numbers.seconds(run.seconds),
            "-" if first is None else numbers.scientific(first.kl),
        )
    return table


def scores_tables(found: Scores) -> Iterator[tuple[str, Table]]:
    """A table of the scores of each task, on a machine and on the reference.

    Parameters
    ----------
    found : lamp.harness.Scores

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
    """A table of what differs between machines, a letter for each.

    Parameters
    ----------
    found : sequence of Difference
        As ``lamp.machines.differences`` gives it; at least one.
    width : int
        Columns of the terminal; machines that do not fit side by side go one below the other.

    Returns
    -------
    rich.table.Table
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


def _plain_table(**options: Any) -> Table:
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, **options)


def _headed_table(headings: Sequence[str], justify: Any = "right") -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify=justify, vertical="bottom", overflow="fold")
    return table


def write_csv(results: Sequence[EqualRateRun], path: Path) -> None:
    """Write runs to a CSV file, one per line, whole or not at all.

    Parameters
    ----------
    results : sequence of EqualRateRun
        The runs.
    path : Path
        The file; its folder must exist.
    """
    from lamp._files import writing
    from lamp.reports import exports

    columns = ("stored_bits", "rule", "tau", *_CSV_METRICS, "seconds")
    lines = (
        {
            "stored_bits": result.stored_bits,
            "rule": result.rule,
            "tau": result.tau,
            **{name: getattr(result.metrics, name) for name in _CSV_METRICS},
            "seconds": round(result.seconds, 3),
        }
        for result in results
    )
    writing.write(path, exports.written_csv(columns, lines))


def plot_results(results: Sequence[EqualRateRun], path: Path) -> None:
    """Plot KL divergence against recomputation rate, and save it whole or not at all.

    Parameters
    ----------
    results : sequence of EqualRateRun
        The runs; those without recomputation become level lines.
    path : Path
        The picture; its ending (.png, .svg, .pdf) says its kind.
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
    from lamp.reports import figures, scales

    title = "query-key products recomputed in float32"
    looked_ahead = [result for result in results if result.lamp is not None]
    rates = [result.metrics.recomputation_rate for result in looked_ahead]
    x = scales.scale(title, rates, label=numbers.short_percent)
    divergences = [result.metrics.kl for result in results]
    y = scales.scale("KL(float64 || model), nats per token", divergences, room=0.09, band=0.065)
    precisions = sorted({result.stored_bits for result in results})
    lines, points = [], []
    for color, mu in enumerate(precisions):
        own = [result for result in results if result.stored_bits == mu]
        for shape, rule in enumerate(("none", *_RULES)):
            places = [
                (x.place(each.metrics.recomputation_rate), y.place(each.metrics.kl))
                for each in own
                if each.rule == rule
            ]
            if rule == "none":
                lines += [figures.Line((place,), color, "level") for place in places]
            elif places:
                lines.append(figures.Line(tuple(sorted(places)), color))
                points += [figures.Point(*place, color, shape, "") for place in places]
    legend = (
        *(figures.Entry(f"{mu} stored bits", i) for i, mu in enumerate(precisions)),
        *(figures.Entry(text, None, i, "rule") for i, text in enumerate(_RULES.values(), 1)),
        figures.Entry("no recomputation", role="level"),
    )
    draw = partial(figures.plot, x, y, points, lines)
    return figures.Picture("demo", "Look-ahead in attention scores", title, legend, draw)
