"""Results for people: tables of the terminal.

Tables fit into 80 columns, whatever the machines and models are called.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from fpemu._printing import fitting_table
from lamp.machines import STEPS
from lamp.reports import numbers
from lamp.reports.runs import rule

if TYPE_CHECKING:
    from rich.table import Table

    from lamp.evaluation import Comparison, Metrics
    from lamp.integrations import Scores
    from lamp.machines import Difference
    from lamp.reports.tables import Column
    from lamp.studies import Run

__all__ = [
    "LETTERS",
    "columns_table",
    "comparison_heading",
    "comparison_table",
    "differences_table",
    "headed_table",
    "metrics_table",
    "more_than_first",
    "rates_table",
    "scores_tables",
    "results_table",
    "where_errors_are_from",
]

LETTERS: Final = string.ascii_uppercase
"""What machines are called in a table of several."""

_HEAD: Final = "lm_head"  # the step that is in no layer
_GAP: Final = 2  # between the columns of a table with a heading
_RATE_WIDTH: Final = 7  # of a column of percentages, the space before it included
_PLAIN: Final[dict[str, Any]] = {"box": None, "pad_edge": False, "show_header": False}

# The rows of a table of metrics: what is shown, its name, how it and its error are, and of what.
_percent: Final = "{:.2%}".format
_MEASURED: Final[Sequence[tuple[str, str, Callable[[float], str], str, str]]] = (
    ("kl", "KL divergence", numbers.scientific, "scientific", "nats per token, from {reference}"),
    ("flip_rate", "flips", _percent, "percent", "of the most probable next tokens"),
    ("perplexity", "perplexity", numbers.decimals, "plain", "{other}"),
    ("recomputation_rate", "recomputed", _percent, "percent", "of candidate components"),
    ("high_precision_share", "high precision", _percent, "", "of all multiply-adds, added to them"),
)

# The columns of tables: a heading, and what stands under it.
_Columns = Sequence[tuple[str, Callable[[Any], str]]]
_METRICS: Final[_Columns] = (
    ("KL", lambda run: numbers.scientific(run.metrics.kl)),
    ("±", lambda run: numbers.error(run.metrics.kl_error)[1:]),
    ("flips", lambda run: f"{run.metrics.flip_rate:.2%}"),
    ("perp-\nlexity", lambda run: numbers.decimals(run.metrics.perplexity)),
)
_RESULTS: Final[_Columns] = (
    ("mu", lambda run: str(run.variables["mu"])),
    ("tau", lambda run: f"{run.variables['tau']:g}" if "tau" in run.variables else "-"),
    ("rule", lambda run: _rule(run.lamp)),
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


def _rule(lamp: str) -> str:
    """The name of a rule for the softmax, with its weights."""
    return rule(lamp).removeprefix("softmax:").replace(":weights=abs", ", |y|")


def _if_any(run: Comparison, rate: float) -> str:
    return f"{rate:.2%}" if run.setting.lamp else "-"


def results_table(results: Sequence[Run], title: str) -> Table:
    """A table of the demo's runs, one per row, below a title."""
    table = headed_table([heading for heading, _ in _RESULTS], _cells(_RESULTS, results))
    table.title, table.title_justify, table.padding = title, "left", (0, 0)
    table.columns[2].justify = "left"
    for row, (run, following) in zip(table.rows, itertools.pairwise(results), strict=False):
        row.end_section = run.hardware != following.hardware
    return table


def metrics_table(run: Comparison, reference: str) -> Table:
    """A table of the metrics of a run, compared with the machine named `reference`."""
    metrics = run.metrics
    table = fitting_table(padding=(0, 2, 0, 0), **_PLAIN)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right", style="bold")
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    other = f"{reference}: {numbers.decimals(metrics.reference_perplexity)}"
    for metric, name, show, style, of in _MEASURED if run.setting.lamp else _MEASURED[:3]:
        error = getattr(metrics, f"{metric}_error", math.nan)
        table.add_row(
            name,
            show(getattr(metrics, metric)),
            numbers.error(error, style),
            of.format(reference=reference, other=other),
        )
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
        decided = "" if difference.is_decided else ", undecided"
        yield (
            f"KL of {letter} less KL of A: {numbers.scientific(difference.value)}, "
            f"95% interval {numbers.scientific(low)} to {numbers.scientific(high)}{decided}"
        )


def rates_table(metrics: Metrics, width: int) -> Table:
    """A table of recomputation rates: a row per step, a column per layer.

    Layers that do not fit into `width` columns of the terminal go below the first.
    """
    rates = dict(metrics.step_rates)
    head = {step: rates.pop(step) for step in [*rates] if step.startswith(_HEAD)}
    if len(rates.keys() & STEPS.keys()) > 1:
        rates["all"] = metrics.layer_rates
    columns = [f"layer {n}" if n == 0 else str(n) for n in range(len(metrics.layer_rates))]
    if rates and all(len({f"{100 * x:.2f}" for x in row}) == 1 for row in rates.values()):
        columns = ["each layer"]
    heading = "recomputed, %"
    label = 2 + max(map(len, (heading, _HEAD, *head, *rates)))
    across = max(1, min(len(columns), (width - label) // _RATE_WIDTH))
    parts = [slice(start, start + across) for start in range(0, len(columns), across)]
    blocks = [(columns[part], {step: row[part] for step, row in rates.items()}) for part in parts]
    blocks += [(["head"], head)] if head else []
    table = fitting_table(padding=0, **_PLAIN)
    table.add_column(no_wrap=True, min_width=label)
    for _ in range(across):
        table.add_column(justify="right", no_wrap=True, min_width=_RATE_WIDTH)
    for above, (names, block) in zip([heading, *[""] * len(blocks)], blocks, strict=False):
        table.add_row(above, *names, style="bold")
        for step, row in block.items():
            table.add_row(step, *(f"{100 * rate:.2f}" for rate in row[: len(names)]))
    return table


def comparison_heading(runs: Sequence[Comparison], reference: str) -> str:
    """What stands above the table of a comparison with the machine named `reference`."""
    perplexity = numbers.decimals(runs[0].metrics.reference_perplexity)
    return f"How far they are from {reference}, whose perplexity is {perplexity}"


def comparison_table(runs: Sequence[Comparison]) -> Table:
    """A table of one model and text on several machines, a letter for each."""
    high = any(run.setting.lamp for run in runs)
    columns = (*_METRICS, *(_LOOK_AHEAD if high else ()), *_TIMES)
    rows = ((letter, *row) for letter, row in zip(LETTERS, _cells(columns, runs), strict=False))
    return headed_table(["", *(heading for heading, _ in columns)], rows)


def scores_tables(found: Scores) -> Iterator[tuple[str, Table]]:
    """A heading and a table for each task: its scores on a machine and on the reference."""
    from lamp.reports.tables import SCORES

    columns = [
        column._replace(heading=column.heading.replace("reference", found.reference))
        for column in SCORES
    ]
    for task, group in itertools.groupby(found.scores, lambda score: score.task):
        scores = list(group)
        count = scores[-1].count
        documents = f", {count} document{'s' if count > 1 else ''}" if count else ""
        yield f"{task}{documents}", columns_table(columns, scores)


def differences_table(found: Sequence[Difference], width: int) -> Table:
    """A table of what ``lamp.machines.differences`` found between machines, a letter for each.

    Machines that do not fit side by side into `width` columns go one below the other.
    """
    rows = [(label, each.what, *each.values) for each in found for label in each.labels()]
    headings = ("step", "", *LETTERS[: len(found[0].values)])
    needed = sum(_GAP + max(map(len, column)) for column in zip(headings, *rows, strict=True))
    above = ("", *(label for label, *_ in rows))  # a label that repeats the one above is left out
    rows = [
        (label * (label != last), *row) for last, (label, *row) in zip(above, rows, strict=False)
    ]
    if needed - _GAP <= width:
        return headed_table(headings, rows, len(headings))
    return headed_table(("step", "", "", ""), itertools.chain(*map(_by_value, rows)), 4)


def _by_value(row: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """A row for each value, with the letters of the machines that have it."""
    label, what, *values = row
    lettered = list(zip(LETTERS, values, strict=False))
    for value in dict.fromkeys(values):
        yield label, what, " ".join(letter for letter, own in lettered if own == value), value
        label = what = ""


def columns_table(columns: Sequence[Column], items: Iterable[Any]) -> Table:
    """A table with columns of the page's, the first of which has labels."""
    rows = ([column.cell(item).text or "-" for column in columns] for item in items)
    return headed_table([column.heading for column in columns], rows, left=1)


def headed_table(
    headings: Sequence[str], rows: Iterable[Iterable[str]] = (), left: int = 0
) -> Table:
    """A table with a heading, whose first columns are set to the left, the others to the right."""
    from rich.box import SIMPLE_HEAD

    table = fitting_table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for number, heading in enumerate(headings):
        side: Any = "left" if number < left else "right"
        table.add_column(heading, justify=side, vertical="bottom", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _cells(columns: _Columns, rows: Iterable[Any]) -> Iterator[list[str]]:
    """What stands in each row under the headings of columns."""
    return ([show(row) for _, show in columns] for row in rows)
