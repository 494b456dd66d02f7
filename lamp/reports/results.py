"""The studies of a store, and their runs in groups."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from lamp.reports.labels import NONE, rule

if TYPE_CHECKING:
    from lamp.evaluation import Metrics
    from lamp.studies import Run, Store

__all__ = ["Pair", "Measure", "Results", "Rung", "front", "grouped", "metrics", "read", "speed"]

Measure = Callable[["Run"], float]
_Key = TypeVar("_Key")

_VARIABLE: Final = re.compile(r"\{(\w+)\}")
_MOST: Final = 10  # studies named in a message


def metrics(record: Run) -> Metrics:
    """The metrics of a run that is done."""
    assert record.metrics is not None
    return record.metrics


def speed(record: Run) -> float:
    """Tokens per second of a run that is done; NaN if its time could not be measured."""
    return metrics(record).tokens / record.seconds if record.seconds else math.nan


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which finite points are on the Pareto front: both coordinates are to be small.

    Of equal points only the first is on the front.  The indices go from left to right.

    Examples
    --------
    >>> from lamp.reports.results import front
    >>> front([(1, 5), (2, 3), (3, 4), (4, 1)])
    [0, 1, 3]
    """
    finite = (i for i, point in enumerate(points) if all(map(math.isfinite, point)))
    found: list[int] = []
    for i in sorted(finite, key=lambda i: points[i]):
        if not found or points[i][1] < points[found[-1]][1]:
            found.append(i)
    return found


@dataclass(frozen=True)
class Pair:
    """A model and a text, with their runs that are done, in the study's order."""

    model: str
    text: str
    records: tuple[Run, ...]

    @property
    def title(self) -> str:
        """The model and the text."""
        return f"{self.model} · {self.text}"

    @property
    def plain(self) -> tuple[Run, ...]:
        """The runs without look-ahead."""
        return tuple(record for record in self.records if record.lamp == NONE)

    @property
    def looked_ahead(self) -> tuple[Run, ...]:
        """The runs with look-ahead."""
        return tuple(record for record in self.records if record.lamp != NONE)

    def by_machine(self) -> dict[str, list[Run]]:
        """Its runs by machine."""
        return grouped(self.records, lambda record: record.hardware)


def grouped(records: Iterable[Run], key: Callable[[Run], _Key]) -> dict[_Key, list[Run]]:
    """Runs that have a key in common, in the order in which the keys come first."""
    found: dict[_Key, list[Run]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return found


class Rung(NamedTuple):
    """Where a machine is in a family: in ``ps{mu}``, at the value of the variable ``mu``."""

    family: str
    variable: str
    value: float


@dataclass(frozen=True)
class Results:
    """A study and its runs.

    Parameters
    ----------
    store : str
        The name of the store's file.
    name : str
        The study.
    definition : mapping
        What the study's file says.
    records : tuple of Run
        Its runs in order; those that are missing or have failed are among them.
    environments : mapping
        Where they ran, by ``Run.environment``.
    """

    store: str
    name: str
    definition: Mapping[str, Any]
    records: tuple[Run, ...]
    environments: Mapping[str, Mapping[str, Any]]

    def having(self, state: str) -> tuple[Run, ...]:
        """The runs in a state.

        Parameters
        ----------
        state : {"done", "failed", "missing"}

        Returns
        -------
        tuple of Run
        """
        return tuple(record for record in self.records if record.state == state)

    @cached_property
    def counts(self) -> Counter[str]:
        """How many runs are in which state; a run that has two names counts once."""
        return Counter({record.key: record.state for record in self.records}.values())

    @cached_property
    def done(self) -> tuple[Run, ...]:
        """The runs that are done."""
        return self.having("done")

    def labels(self, kind: str) -> tuple[str, ...]:
        """All labels of a kind, in the study's order.

        Parameters
        ----------
        kind : {"model", "text", "hardware", "lamp", "reference"}

        Returns
        -------
        tuple of str
        """
        return tuple(dict.fromkeys(getattr(record, kind) for record in self.records))

    @cached_property
    def machines(self) -> tuple[str, ...]:
        """All machines; the place of one in this order is its color."""
        return self.labels("hardware")

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """All rules of look-ahead, behind "none"; the place of one is its shape."""
        return tuple(dict.fromkeys([NONE, *map(rule, self.labels("lamp"))]))

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Each model and text of which runs are done."""
        found = grouped(self.done, lambda record: (record.model, record.text))
        return tuple(Pair(*pair, tuple(records)) for pair, records in found.items())

    @cached_property
    def variables(self) -> dict[str, list[Any]]:
        """The values of each variable of the grid, in the study's order."""
        grid = self.definition.get("grid")
        found: dict[str, dict[Any, None]] = {}
        for name in grid if isinstance(grid, dict) else ():
            found[name] = {}
        for record in self.records:
            for name, value in record.variables.items():
                found.setdefault(name, {}).setdefault(value)
        return {name: list(values) for name, values in found.items() if values}

    def rung(self, record: Run) -> Rung | None:
        """Where the machine of a run is in a family of machines.

        Parameters
        ----------
        record : Run

        Returns
        -------
        Rung or None
            None if it is in no family with exactly one variable, or the variable is no number.
        """
        for entry, variable in self._families:
            value = record.variables.get(variable)
            if isinstance(value, (int, float)):
                filled = entry.replace(f"{{{variable}}}", str(value))
                if filled == record.hardware:
                    return Rung(entry, variable, float(value))
        return None

    @cached_property
    def _families(self) -> list[tuple[str, str]]:
        """The study's entries of hardware that have one variable, and its name."""
        entries = self.definition.get("hardware")
        listed = entries if isinstance(entries, list) else []
        named = (entry for entry in listed if isinstance(entry, str))
        found = ((entry, set(_VARIABLE.findall(entry))) for entry in named)
        return [(entry, names.pop()) for entry, names in found if len(names) == 1]

    def color(self, record: Run) -> int:
        """The number of a run's machine.

        Parameters
        ----------
        record : Run

        Returns
        -------
        int
        """
        return self.machines.index(record.hardware)

    def shape(self, record: Run) -> int:
        """The number of a run's rule; 0 is no look-ahead.

        Parameters
        ----------
        record : Run

        Returns
        -------
        int
        """
        return self.rules.index(rule(record.lamp))

    def fronts(self, x: Measure, y: Measure) -> frozenset[int]:
        """Which runs are on the Pareto front of their model, text and machine.

        Parameters
        ----------
        x, y : callable
            Measures of a run that are to be small.

        Returns
        -------
        frozenset of int
            Their positions in the study.
        """
        found: set[int] = set()
        for pair in self.pairs:
            for records in pair.by_machine().values():
                best = front([(x(record), y(record)) for record in records])
                found.update(records[i].position for i in best)
        return frozenset(found)


def read(store: Store, study: str | None = None) -> list[Results]:
    """The studies of an open store, or the one that is named; see :func:`lamp.reports.read`."""
    definitions = store.studies()
    if not definitions:
        raise ValueError(f"the store {store.path} has no studies yet")
    if study is not None and study not in definitions:
        near = difflib.get_close_matches(study, definitions, 3, 0.6)
        hint = f"did you mean {', '.join(near)}?" if near else f"it has {_listed(definitions)}"
        raise LookupError(f"the store {store.path} has no study {study!r}: {hint}")
    environments = store.environments()
    return [
        _results(store, name, definition, environments)
        for name, definition in definitions.items()
        if study in (None, name)
    ]


def _listed(names: Iterable[str]) -> str:
    several = list(names)
    more = f" and {len(several) - _MOST} more" if len(several) > _MOST else ""
    return ", ".join(several[:_MOST]) + more


def _results(
    store: Store, name: str, definition: Any, environments: Mapping[str, Mapping[str, Any]]
) -> Results:
    records = tuple(store.runs(name))
    used = {record.environment for record in records}
    places = {key: place for key, place in environments.items() if key in used}
    says = definition if isinstance(definition, Mapping) else {}
    return Results(store.path.name, name, says, records, places)
