"""Which charts a report has, in which order, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lamp.reports.drawing import Drawing, Entry
from lamp.reports.heat_maps import heat_maps
from lamp.reports.ladders import ladders
from lamp.reports.quantities import FLIPS, KL, RATE, SHARE
from lamp.reports.results import Results
from lamp.reports.rows import divergences, speeds
from lamp.reports.scatter import scatter

__all__ = ["TIME", "Chart", "charts"]

TIME: Final = "Time"
"""The title of the last chart, which goes with a table."""

_TIME_NOTE: Final = (
    "Each mark is a run. Seconds are those of forward passes and comparisons, without the loading "
    "of the model and without the reference; the table has the median, the least and the most."
)
_WORK: Final = (
    ("KL against recomputation rate", RATE, KL),
    ("KL against work in high precision", SHARE, KL),
    ("Flips against recomputation rate", RATE, FLIPS),
)


@dataclass(frozen=True)
class Chart:
    """Drawings that belong together.

    Parameters
    ----------
    title : str
    note : str
        What is to be seen.
    groups : tuple of tuple of (str, Drawing)
        Each drawing with what tells it from those of the same model and text; side by side within
        a group.
    """

    title: str
    note: str
    groups: tuple[tuple[tuple[str, Drawing], ...], ...]

    @property
    def named(self) -> list[tuple[str, Drawing]]:
        """All of them, with their names."""
        return [each for group in self.groups for each in group]

    @property
    def drawings(self) -> list[Drawing]:
        """All of them."""
        return [drawing for _, drawing in self.named]

    @property
    def legend(self) -> tuple[Entry, ...]:
        """What colours and shapes mean in any of them."""
        entries = dict.fromkeys(entry for each in self.drawings for entry in each.legend)
        return tuple(sorted(entries, key=_rank))


def _rank(entry: Entry) -> tuple[bool, bool, int]:
    """Machines first, then rules, then lines, in the study's order."""
    colour, shape = entry.colour, entry.shape
    return colour is None, shape is None, (colour if colour is not None else shape) or 0


def _chart(title: str, note: str, drawings: Iterable[Drawing]) -> list[Chart]:
    group = tuple(("", drawing) for drawing in drawings)
    return [Chart(title, note, (group,))] if group else []


def _work(study: Results) -> list[Chart]:
    note = (
        "Each mark is a run: a colour is a machine, a shape a rule. Thin lines join the runs that "
        "no other on the same machine beats; dotted lines are runs without look-ahead."
    )
    groups = [tuple((name, drawing) for drawing in scatter(study, x, y)) for name, x, y in _WORK]
    if not groups[0]:
        return []
    if len(groups[0]) == 1:
        groups = [tuple(each for group in groups for each in group)]
    return [Chart("Divergence against work", note, tuple(groups))]


def charts(study: Results) -> Sequence[Chart]:
    """The charts of a study.

    Parameters
    ----------
    study : Results

    Returns
    -------
    sequence of Chart
        Those for which it has runs.
    """
    return [
        *_work(study),
        *_chart(
            "Divergence by machine",
            "Each mark is a run; none looks ahead.",
            divergences(study),
        ),
        *_chart(
            "Precision ladders",
            "KL along families of machines; thin lines join runs with the same look-ahead.",
            ladders(study),
        ),
        *_chart(
            "Where it recomputes",
            "The share that each step recomputes in each layer, for runs on the Pareto front; at "
            "most twelve for each model and text.",
            heat_maps(study),
        ),
        *_chart(TIME, _TIME_NOTE, speeds(study)),
    ]
