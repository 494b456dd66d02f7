"""Studies: grids of runs, their sweeps on engines, and the store of their results."""

from lamp.studies.equal_rates import EqualRateRun, equal_rate_grid, spread_windows
from lamp.studies.plans import planned, walk
from lamp.studies.runs import Result, Run, TaskRun
from lamp.studies.status import Status
from lamp.studies.store import Store
from lamp.studies.study import Point, Study
from lamp.studies.sweeps import Interrupted, Sweep, sweep
from lamp.studies.tasks import file_digest

__all__ = [
    "EqualRateRun",
    "Interrupted",
    "Point",
    "Result",
    "Run",
    "Status",
    "Store",
    "Study",
    "Sweep",
    "TaskRun",
    "equal_rate_grid",
    "file_digest",
    "planned",
    "spread_windows",
    "sweep",
    "walk",
]
