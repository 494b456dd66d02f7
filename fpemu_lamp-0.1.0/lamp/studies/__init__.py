"""Studies: grids of runs, their sweeps on engines, and the store of their results."""

from lamp.studies.engines import Engine, engine
from lamp.studies.equal_rates import equal_rate_grid, spread_windows
from lamp.studies.members import Members, in_parts
from lamp.studies.plans import Planner, planned
from lamp.studies.runs import Result, Run, TaskRun
from lamp.studies.status import Status
from lamp.studies.store import Store
from lamp.studies.study import Point, Study
from lamp.studies.sweeps import Interrupted, Sweep, sweep
from lamp.studies.tasks import file_digest

__all__ = [
    "Engine",
    "Interrupted",
    "Members",
    "Planner",
    "Point",
    "Result",
    "Run",
    "Status",
    "Store",
    "Study",
    "Sweep",
    "TaskRun",
    "engine",
    "equal_rate_grid",
    "file_digest",
    "in_parts",
    "planned",
    "spread_windows",
    "sweep",
]
