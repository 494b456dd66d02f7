"""Results for people: tables, CSV files and plots.

Tables fit into 80 columns, whatever the machines and models are called.
"""

from __future__ import annotations

import csv
import math
import os
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp.evaluation import Comparison, Metrics
from lamp.machines import Difference
from lamp.studies import EqualRateRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import LineStyleType
    from rich.table import Table

__all__ = [
    "LETTERS",
    "comparison_table",
    "differences_table",
    "metrics_table",
    "perplexity",
    "plot_results",
    "rates_table",
    "results_table",
    "write_csv",
]

LETTERS: Final = string.ascii_uppercase
"""What machines are called in a table of several."""

_HEAD: Final = "lm_head"  # the step that is in no layer
_GAP: Final = 2  # between the columns of a table with a heading
_RATE_WIDTH: Final = 7  # of a column of percentages, the space before it included
_LONGEST_NAME: Final = 4  # of a reference in the heading of a column

_CSV_FIELDS: Final = (
    "stored_bits",
    "rule",
    "tau",
    "kl",
    "flip_rate",
    "perplexity",
    "reference_perplexity",
    "recomputation_rate",
    "tokens",
    "seconds",
)

# One colour a precision (Okabe and Ito's, safe for the colour-blind), one style a rule.
_COLOURS: Final = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES: Final[dict[str, tuple[LineStyleType, str, str]]] = {
    "random": (":", "x", "random control"),
    "normwise": ("--", "o", "authors' rule (normwise)"),
    "total_variation, |y|": ("-", "s", "one threshold on $|y|\\,z(1-z)$"),
}


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
            f"{metrics.kl:.2e}",
            f"{metrics.flip_rate:.2%}",
            f"{metrics.perplexity:.3f}",
            f"{metrics.recomputation_rate:.2%}",
            f"{result.seconds:.1f}",
        )
    return table


def metrics_table(run: Comparison, reference: str) -> Table:
    """A table of a run for the terminal: what was measured, how much, of what.

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
    table.add_column(style="dim")
    metrics = run.metrics
    table.add_row("KL divergence", _scientific(metrics.kl), f"nats a token, from {reference}")
    table.add_row("flips", f"{metrics.flip_rate:.2%}", "of the most probable next tokens")
    table.add_row(
        "perplexity",
        perplexity(metrics.perplexity),
        f"{reference}: {perplexity(metrics.reference_perplexity)}",
    )
    if run.setting.lamp:
        of = "of what look-ahead looks at"
        table.add_row("recomputed", f"{metrics.recomputation_rate:.2%}", of)
        share = f"{metrics.high_precision_share:.2%}"
        table.add_row("high precision", share, "of all multiply-adds, on top of them")
    table.add_row("time", f"{_seconds(run.seconds)} s", f"{run.speed:,.0f} tokens/s")
    return table


def rates_table(metrics: Metrics, width: int) -> Table:
    """A table of recomputation rates for the terminal: steps from top to bottom, layers across.

    Parameters
    ----------
    metrics : Metrics
        Of a run under look-ahead.
    width : int
        How many columns there are; more layers go below the first.

    Returns
    -------
    rich.table.Table
    """
    rows = {step: _percentages(rates) for step, rates in metrics.step_rates.items()}
    head = rows.pop(_HEAD, None)
    if len(rows) > 1:
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


def comparison_table(runs: Sequence[Comparison], reference: str) -> Table:
    """A table of the same model and text under several machines, which letters stand for.

    Parameters
    ----------
    runs : sequence of Comparison
        The runs; all are compared with the first, too.
    reference : str
        The name of the machine that all are compared with.

    Returns
    -------
    rich.table.Table
    """
    name = reference if len(reference) <= _LONGEST_NAME else "ref."
    headings = ["", f"KL\nfrom {name}", f"flips\nfrom {name}", "perplexity"]
    high = any(run.setting.lamp for run in runs)
    headings += ["recom-\nputed", "high\nprec."] if high else []
    headings += ["time\ns", "KL\nfrom A", "flips\nfrom A"]
    table = _headed_table(headings)
    for letter, run in zip(LETTERS, runs, strict=False):
        metrics, first = run.metrics, run.first
        rates = metrics.recomputation_rate, metrics.high_precision_share
        look_ahead = [f"{rate:.2%}" for rate in rates] if run.setting.lamp else ["-", "-"]
        table.add_row(
            letter,
            _scientific(metrics.kl),
            f"{metrics.flip_rate:.2%}",
            perplexity(metrics.perplexity),
            *(look_ahead if high else []),
            _seconds(run.seconds),
            "-" if first is None else _scientific(first.kl),
            "-" if first is None else f"{first.flip_rate:.2%}",
        )
    return table


def differences_table(found: Sequence[Difference], width: int) -> Table:
    """A table of what differs between machines, which letters stand for.

    Parameters
    ----------
    found : sequence of Difference
        As :func:`lamp.machines.differences` gives it; at least one.
    width : int
        How many columns there are; machines go one below the other if they do not fit side by side.

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


def _scientific(number: float) -> str:
    """A number of any size; 0 if it is that exactly."""
    return "NaN" if math.isnan(number) else f"{number:.2e}" if number else "0"


def _seconds(number: float) -> str:
    return f"{number:.2f}" if number < 100 else f"{number:.0f}"


def perplexity(number: float) -> str:
    """A perplexity for people."""
    if math.isnan(number):
        return "NaN"
    return f"{number:.3f}" if number < 1e5 else f"{number:.3e}"


def write_csv(results: Sequence[EqualRateRun], path: Path) -> None:
    """Write runs to a CSV file, one a row, whole or not at all.

    Parameters
    ----------
    results : sequence of EqualRateRun
        The runs.
    path : Path
        The file; its folder must exist.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _CSV_FIELDS)
        writer.writeheader()
        writer.writerows(_csv_row(result) for result in results)
    os.replace(partial, path)


def _csv_row(result: EqualRateRun) -> dict[str, Any]:
    metrics = result.metrics
    return {
        "stored_bits": result.stored_bits,
        "rule": result.rule,
        "tau": "" if result.tau is None else result.tau,
        "kl": metrics.kl,
        "flip_rate": metrics.flip_rate,
        "perplexity": metrics.perplexity,
        "reference_perplexity": metrics.reference_perplexity,
        "recomputation_rate": metrics.recomputation_rate,
        "tokens": metrics.tokens,
        "seconds": round(result.seconds, 3),
    }


def plot_results(results: Sequence[EqualRateRun], path: Path) -> None:
    """Plot KL divergence against recomputation rate, and save it.

    Parameters
    ----------
    results : sequence of EqualRateRun
        The runs; those without recomputation become horizontal lines.
    path : Path
        The picture; its ending says its kind.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    precisions = sorted({result.stored_bits for result in results})
    colours = dict(zip(precisions, _COLOURS * len(precisions), strict=False))
    for mu in precisions:
        _plot_precision(axes, [r for r in results if r.stored_bits == mu], colours[mu])
    axes.set_xscale("log")
    axes.set_yscale("log")
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter(lambda share, _: f"{100 * share:.3g}%")
    axes.xaxis.set_tick_params(which="both", length=3.5, pad=4.0)  # all labels in one line
    axes.set_xlabel("query-key products recomputed in float32")
    axes.set_ylabel("KL(float64 model || model), nats per token")
    axes.set_title("Look-ahead recomputation of attention scores", loc="left", weight="bold")
    axes.grid(which="major", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _legend(axes, colours)
    figure.savefig(path, dpi=160)


def _plot_precision(axes: Axes, results: Sequence[EqualRateRun], colour: str) -> None:
    for result in results:
        if result.lamp is None:
            axes.axhline(result.metrics.kl, color=colour, linewidth=0.8, alpha=0.6)
    for rule, (style, marker, _) in _STYLES.items():
        points = sorted(
            (r.metrics.recomputation_rate, r.metrics.kl) for r in results if r.rule == rule
        )
        if points:
            rates, divergences = zip(*points, strict=True)
            axes.plot(
                rates, divergences, linestyle=style, marker=marker, markersize=5, color=colour
            )


def _legend(axes: Axes, colours: dict[int, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, linewidth=4, label=f"{mu} stored bits")
        for mu, colour in colours.items()
    ]
    handles += [
        Line2D([], [], color="0.25", linestyle=style, marker=marker, markersize=5, label=label)
        for style, marker, label in _STYLES.values()
    ]
    handles.append(Line2D([], [], color="0.25", linewidth=0.8, label="no recomputation"))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
