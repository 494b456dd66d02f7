"""Results for people: tables, CSV files and plots."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp.studies import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import LineStyleType
    from rich.table import Table

__all__ = ["plot_results", "results_table", "write_csv"]

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


def results_table(results: Sequence[Result], title: str) -> Table:
    """A table of runs for the terminal.

    Parameters
    ----------
    results : sequence of Result
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


def write_csv(results: Sequence[Result], path: Path) -> None:
    """Write runs to a CSV file, one a row, whole or not at all.

    Parameters
    ----------
    results : sequence of Result
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


def _csv_row(result: Result) -> dict[str, Any]:
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


def plot_results(results: Sequence[Result], path: Path) -> None:
    """Plot KL divergence against recomputation rate, and save it.

    Parameters
    ----------
    results : sequence of Result
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


def _plot_precision(axes: Axes, results: Sequence[Result], colour: str) -> None:
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
