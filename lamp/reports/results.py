"""What reports are made of: the studies of a store, and their runs in groups."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from lamp.evaluation import Metrics
from lamp.reports.drawing import Entry
from lamp.reports.fronts import front
from lamp.studies import Run, Store

__all__ = ["NONE", "Case", "Measure", "Results", "Rung", "metrics", "read", "rule", "speed"]

Measure = Callable[[Run], float]

NONE: Final = "none"
"""The label of runs without look-ahead."""

_JOINED: Final = re.compile(r"\+(?=[A-Za-z])")  # not the sign in an amount such as 1e+1
_VARIABLE: Final = re.compile(r"\{(\w+)\}")


def rule(lamp: str) -> str:
    """A label of look-ahead without amounts and seeds: what runs have in common.

    Parameters
    ----------
    lamp : str
        Such as :class:`lamp.LAMP` writes it, or several joined by ``+``; any other is its own rule.

    Returns
    -------
    str

    Examples
    --------
    >>> from lamp.reports.results import rule
    >>> rule("softmax:total_variation:1%:weights=abs+norm:norm:5%")
    'softmax:total_variation:weights=abs+norm:norm'
    """
    return "+".join(map(_without_amount, _JOINED.split(lamp)))


def _without_amount(setting: str) -> str:
    parts = setting.split(":")
    if len(parts) < 3:
        return setting
    return ":".join(part for part in parts[:2] + parts[3:] if not part.startswith("seed="))


def metrics(record: Run) -> Metrics:
    """The metrics of a run that is done.

    Parameters
    ----------
    record : Run

    Returns
    -------
    Metrics
    """
    assert record.metrics is not None
    return record.metrics


def speed(record: Run) -> float:
    """Tokens a second of a run that is done; NaN if its time could not be measured.

    Parameters
    ----------
    record : Run

    Returns
    -------
    float
    """
    return metrics(record).tokens / record.seconds if record.seconds else math.nan


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    """In the order in which they come first."""
    return tuple(dict.fromkeys(values))


@dataclass(frozen=True)
class Case:
    """The runs of a model on a text that are done.

    Parameters
    ----------
    model, text : str
        Labels.
    records : tuple of Run
        In the study's order.
    """

    model: str
    text: str
    records: tuple[Run, ...]

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.model} · {self.text}"

    @property
    def plain(self) -> tuple[Run, ...]:
        """Those without look-ahead."""
        return tuple(record for record in self.records if record.lamp == NONE)

    @property
    def looked_ahead(self) -> tuple[Run, ...]:
        """Those with it."""
        return tuple(record for record in self.records if record.lamp != NONE)

    def by_machine(self) -> dict[str, list[Run]]:
        """Its runs by hardware."""
        found: dict[str, list[Run]] = {}
        for record in self.records:
            found.setdefault(record.hardware, []).append(record)
        return found


@dataclass(frozen=True)
class Rung:
    """Where a machine is in a family of machines.

    Parameters
    ----------
    family : str
        As the study says it, such as ``ps{mu}``.
    variable : str
        The name in braces.
    value : float
        The variable's value.
    """

    family: str
    variable: str
    value: float


@dataclass(frozen=True)
class Results:
    """A study and its runs.

    Parameters
    ----------
    store : str
        The name of the file that it is from.
    name : str
        The study.
    definition : mapping
        What it says.
    records : tuple of Run
        Its runs in order, those that are missing or have failed as well.
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
        """How many runs are in which state; one that has two names counts once."""
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
        return _distinct(getattr(record, kind) for record in self.records)

    @cached_property
    def machines(self) -> tuple[str, ...]:
        """All hardware."""
        return self.labels("hardware")

    @cached_property
    def rules(self) -> tuple[str, ...]:
        """All rules of look-ahead."""
        return _distinct(rule(lamp) for lamp in self.labels("lamp") if lamp != NONE)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Models and texts of which runs are done."""
        found: dict[tuple[str, str], list[Run]] = {}
        for record in self.done:
            found.setdefault((record.model, record.text), []).append(record)
        return tuple(Case(*labels, tuple(records)) for labels, records in found.items())

    @cached_property
    def variables(self) -> dict[str, list[Any]]:
        """The values of each variable of the grid, in the study's order."""
        grid = self.definition.get("grid")
        found: dict[str, list[Any]] = {name: [] for name in grid} if isinstance(grid, dict) else {}
        for record in self.records:
            for name, value in record.variables.items():
                values = found.setdefault(name, [])
                if value not in values:
                    values.append(value)
        return {name: values for name, values in found.items() if values}

    def family(self, record: Run) -> Rung | None:
        """The family that the machine of a run is of.

        Parameters
        ----------
        record : Run

        Returns
        -------
        Rung or None
            None if it is of no family, or of one that has no variable that is a number, or several.
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
        """What the study says of hardware with one variable, and its name."""
        entries = self.definition.get("hardware")
        listed = entries if isinstance(entries, list) else []
        found = (
            (entry, set(_VARIABLE.findall(entry))) for entry in listed if isinstance(entry, str)
        )
        return [(entry, names.pop()) for entry, names in found if len(names) == 1]

    def colour(self, record: Run) -> int:
        """The number of a run's machine."""
        return self._places["hardware"][record.hardware]

    def shape(self, record: Run) -> int:
        """The number of a run's rule of look-ahead; 0 is none."""
        return self._places["rule"][rule(record.lamp)]

    @cached_property
    def _places(self) -> dict[str, dict[str, int]]:
        """What comes where in the study."""
        kinds = {"hardware": self.machines, "rule": (NONE, *self.rules)}
        return {kind: {name: i for i, name in enumerate(names)} for kind, names in kinds.items()}

    def legend(self, records: Iterable[Run]) -> tuple[Entry, ...]:
        """What the shapes of runs mean.

        Parameters
        ----------
        records : iterable of Run

        Returns
        -------
        tuple of Entry
            None if all have the same.
        """
        shapes = {self.shape(record) for record in records}
        if len(shapes) < 2:
            return ()
        names = ("no look-ahead", *self.rules)
        return tuple(Entry(names[i], None, i, "rule") for i in sorted(shapes))

    def fronts(self, x: Measure, y: Measure) -> frozenset[int]:
        """Which runs are on the Pareto front of their model, text and machine.

        Parameters
        ----------
        x, y : callable
            What is to be small.

        Returns
        -------
        frozenset of int
            Their positions in the study.
        """
        found: set[int] = set()
        for case in self.cases:
            for records in case.by_machine().values():
                best = front([(x(record), y(record)) for record in records])
                found.update(records[i].position for i in best)
        return frozenset(found)


def read(store: Store, study: str | None = None) -> list[Results]:
    """The studies of a store.

    Parameters
    ----------
    store : Store
    study : str, optional
        Only that.

    Returns
    -------
    list of Results
        By name.

    Raises
    ------
    LookupError
        If there is no such study.
    ValueError
        If there is none at all.
    """
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


def _listed(names: Iterable[str], most: int = 10) -> str:
    several = list(names)
    more = f" and {len(several) - most} more" if len(several) > most else ""
    return ", ".join(several[:most]) + more


def _results(
    store: Store, name: str, definition: Any, environments: Mapping[str, Mapping[str, Any]]
) -> Results:
    records = tuple(store.runs(name))
    used = {record.environment for record in records}
    places = {key: place for key, place in environments.items() if key in used}
    says = definition if isinstance(definition, Mapping) else {}
    return Results(store.path.name, name, says, records, places)
