"""The status of a sweep, as its display sees it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from lamp.studies.runs import Result, Run

__all__ = ["Status"]

_MOST_KEPT: Final = 10_000  # results: more than end between two looks


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
    ended : deque of (Run, Result)
        The runs that this sweep has measured last, at most 10,000, in order.
    measured : int
        The number of runs that this sweep has measured.
    failed : int
        The number of those that have failed.
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
    ended: deque[tuple[Run, Result]] = field(default_factory=lambda: deque(maxlen=_MOST_KEPT))
    measured: int = 0
    failed: int = 0
    elsewhere: int = 0
    share: float = 0.0
    stopping: bool = False
    begun: float = field(default_factory=time.monotonic)

    def add(self, run: Run, result: Result) -> None:
        """Note how a run has ended.

        Parameters
        ----------
        run : Run
        result : Result
        """
        self.ended.append((run, result))
        self.measured += 1
        self.failed += result.metrics is None

    def since(self, count: int) -> list[tuple[Run, Result]]:
        """Return the runs that have ended after the first ones.

        Parameters
        ----------
        count : int
            The number of the first ones, such as an earlier `measured`.

        Returns
        -------
        list of (Run, Result)
        """
        return list(islice(self.ended, max(0, len(self.ended) - (self.measured - count)), None))

    @property
    def left(self) -> int:
        """The number of runs that have not ended."""
        return self.total - self.before - self.measured

    @property
    def seconds_left(self) -> float | None:
        """The time left at the pace so far; None if no run has ended."""
        if not self.measured:
            return None
        return (time.monotonic() - self.begun) / self.measured * self.left
