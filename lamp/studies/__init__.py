"""Studies: grids of runs, their sweeps on engines, and the store of their results."""

from lamp.studies import study, sweeps
from lamp.studies.store import Record, Store
from lamp.studies.study import Result, Study
from lamp.studies.sweeps import Sweep, planned, sweep
from lamp.studies.worker import file_digest

__all__ = [
    "Record",
    "Result",
    "Store",
    "Study",
    "Sweep",
    "file_digest",
    "planned",
    "study",
    "sweep",
    "sweeps",
]
