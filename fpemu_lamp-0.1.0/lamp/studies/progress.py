"""The progress of a sweep on standard error: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from fpemu import _printing as printing
from lamp.evaluation import Metrics
from lamp.integrations import TaskResult
from lamp.studies.runs import Result, Run
from lamp.studies.status import Status

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

__all__ = ["duration", "shown"]

_BANDS: Final = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)  # upper ends of ranges of recomputation rates
_MOST_RUNNING: Final = 8
_LAST: Final = 3
_MOST_SCORES: Final = 3
_NARROWEST: Final = len("recomputed")
_REFRESH: Final = 4  # times a second


@contextlib.contextmanager
def shown(console: Console | None = None) -> Iterator[Callable[[Status], None]]:
    """Show the progress of a sweep.

    Parameters
    ----------
    console : rich.console.Console, optional
        By default standard error.

    Yields
    ------
    callable
        Takes the status of the sweep whenever it has changed.
    """
    from rich.live import Live

    where = printing.console(stderr=True, markup=True) if console is None else console
    if not where.is_terminal:
        yield _Lines(where)
        return
    table = _Table()
    with Live(get_renderable=table.render, console=where, refresh_per_second=_REFRESH):
        yield table


def duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str

    Examples
    --------
    >>> from lamp.studies.progress import duration
    >>> duration(7.6), duration(754), duration(8000), duration(200000)
    ('8 s', '12 min 34 s', '2 h 13 min', '2 d 7 h')
    """
    whole = round(seconds)
    sizes = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (size, name), (smaller, other) in itertools.pairwise(sizes):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {other}" if rest else "")
    return f"{whole} s"


class _Lines:
    """Writes a line per run that has ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._written = 0
        self._stopping = False
        self._waiting = False

    def __call__(self, status: Status) -> None:
        """Write what has changed."""
        if status.elsewhere and not status.running and not self._waiting:
            self._waiting = True
            self._print(f"waiting for another sweep, which has {status.elsewhere} of the runs")
        if status.stopping and not self._stopping:
            self._stopping = True
            self._print(_STOPPING)
        for run, result in status.since(self._written):
            self._written += 1
            count = f"{status.before + self._written}/{status.total}"
            self._print(f"{count}  {run}: {_summary(result)}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, emoji=False, soft_wrap=True)


_STOPPING: Final = "Ctrl-C: the runs that have begun are finished; once more to stop at once"


def _summary(result: Result) -> str:
    """Say in a line how a run ended."""
    if result.metrics is None:
        return f"failed: {result.error}"
    metrics = result.metrics
    if isinstance(metrics, TaskResult):
        return f"{_scores(metrics)}, {result.seconds:.2f} s"
    rate = f", recomputed {metrics.recomputation_rate:.2%}" if metrics.layer_rates else ""
    return f"KL {_number(metrics.kl)}{rate}, {result.seconds:.2f} s"


def _scores(result: TaskResult) -> str:
    """The scores of a task in a line, the first ones."""
    shown = [f"{score.metric} {score.value:.3f}" for score in result.scores[:_MOST_SCORES]]
    return ", ".join([*shown, *(["..."] if len(result.scores) > _MOST_SCORES else [])])


def _number(value: float) -> str:
    return f"{value:.3e}" if math.isfinite(value) else str(value)


class _Table:
    """Shows the runs being measured, the time left, and the best results so far."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._seen = 0
        self._best: dict[float, tuple[float, Run]] = {}

    def __call__(self, status: Status) -> None:
        """Keep the status for the next refresh."""
        self._status = status
        for run, result in status.since(self._seen):
            self._seen += 1
            metrics = result.metrics
            if isinstance(metrics, Metrics) and not math.isnan(metrics.kl):
                rate = metrics.recomputation_rate
                band = next((band for band in _BANDS if rate <= band), _BANDS[-1])
                if band not in self._best or metrics.kl < self._best[band][0]:
                    self._best[band] = metrics.kl, run

    def render(self) -> RenderableType:
        """Return the table as of now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        status = self._status
        if status is None:
            return "preparing"
        done = status.total - status.left
        head = Table.grid(padding=(0, 2))
        head.add_row(
            f"[bold]{_plain(status.study)}",
            ProgressBar(total=status.total, completed=done, width=30),
            f"{done}/{status.total}",
            _times(status),
        )
        parts: list[Any] = [head, *_running(status)]
        if status.ended:
            parts += ["", _last(status), "", _bands(self._best)]
        if status.stopping:
            parts.append(f"[yellow]{_STOPPING}")
        return Group(*parts)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _times(status: Status) -> str:
    parts = []
    if status.seconds_left is not None:
        parts.append(f"{duration(status.seconds_left)} left")
    parts.append(f"{duration(time.monotonic() - status.begun)} gone")
    if status.failed:
        parts.append(f"[red]{status.failed} failed[/]")
    return ", ".join(parts)


def _running(status: Status) -> list[str]:
    running = list(status.running.values())  # the sweep's thread may change it
    share = f"{status.share:.0%} in " if status.share else ""
    lines = [
        f"[dim]running[/] {_plain(str(run))} [dim]{share}{duration(time.monotonic() - since)}[/]"
        for run, _, since in running[:_MOST_RUNNING]
    ]
    if len(running) > _MOST_RUNNING:
        lines.append(f"[dim]and {len(running) - _MOST_RUNNING} more[/]")
    if status.elsewhere:
        lines.append(f"[dim]{status.elsewhere} in another sweep[/]")
    return lines


def _bands(best: dict[float, tuple[float, Run]]) -> Table:
    """Return a table of the least divergence for each range of recomputation rates."""
    table = _headed("least KL", "recomputed", "of")
    for band, (kl, run) in sorted(best.copy().items()):
        label = f"to {band:.0%}" if band else "nothing"
        table.add_row(_number(kl), label, _plain(str(run)))
    return table


def _last(status: Status) -> Table:
    table = _headed("last", "recomputed", "of")
    for run, result in itertools.islice(reversed(status.ended), _LAST):
        metrics, label = result.metrics, _plain(str(run))
        if metrics is None:
            table.add_row("failed", "", f"{label}: {_plain(result.error)}", style="red")
        elif isinstance(metrics, TaskResult):
            table.add_row("done", "", f"{label}: {_plain(_scores(metrics))}")
        else:
            rate = f"{metrics.recomputation_rate:.2%}" if metrics.layer_rates else "nothing"
            table.add_row(_number(metrics.kl), rate, label)
    return table


def _headed(*columns: str) -> Table:
    """Return a table of which the last column alone is cut."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True, min_width=_NARROWEST)
    table.add_column(columns[-1], no_wrap=True)
    return table
