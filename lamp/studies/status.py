"""The status of a sweep, as its display sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lamp.studies.runs import Result, Run

__all__ = ["Status"]


@dataclass
class Status:
    """The status of a sweep; one object that changes.

    Parameters
    ----------
    study : str
        The name of the study.
    total : int
        The number of its runs.
    before : int
        The number of runs that this sweep found done.
    running : dict
        By key, the runs being measured: the run, the worker, and since when.
    ended : list of (Run, Result)
        The runs that this sweep has measured, in order.
    elsewhere : int
        The number of runs that another sweep is measuring.
    share : float
        How much is done of the run that this process itself measures.
    stopping : bool
        Whether Ctrl-C was pressed.
    begun : float
        ``time.monotonic()`` at the beginning.
    """

    study: str
    total: int
    before: int
    running: dict[str, tuple[Run, str, float]] = field(default_factory=dict)
    ended: list[tuple[Run, Result]] = field(default_factory=list)
    elsewhere: int = 0
    share: float = 0.0
    stopping: bool = False
    begun: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> int:
        """The number of runs that have failed."""
        return sum(result.metrics is None for _, result in self.ended)

    @property
    def left(self) -> int:
        """The number of runs that have not ended."""
        return self.total - self.before - len(self.ended)

    @property
    def seconds_left(self) -> float | None:
        """The time left at the pace so far; None if no run has ended."""
        if not self.ended:
            return None
        return (time.monotonic() - self.begun) / len(self.ended) * self.left
