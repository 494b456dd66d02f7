"""The studies of a store: their runs in groups, and what is known of them together."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from fpemu import _html
from lamp.machines import Hardware, files
from lamp.reports.runs import NONE, PART, but_for_seeds, front, grouped, is_part, mean, rule
from lamp.studies import Run, Store, TaskRun

__all__ = ["Pair", "Results", "Rung", "read"]

_VARIABLE: Final = re.compile(r"\{(\w+)\}")
_OF_LAYERS: Final = "[layers."  # of machines as TOML
_MOST: Final = 10  # studies named in a message


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
        return tuple(run for run in self.records if run.lamp == NONE)

    @property
    def looked_ahead(self) -> tuple[Run, ...]:
        """The runs with look-ahead."""
        return tuple(run for run in self.records if run.lamp != NONE)

    def by_machine(self) -> dict[str, list[Run]]:
        """Its runs by machine."""
        return grouped(self.records, lambda run: run.hardware)


class Rung(NamedTuple):
    """Where a machine is in a family: in ``ps{mu}``, at the value of the variable ``mu``."""

    family: str
    variable: str
    value: float


@dataclass(frozen=True, repr=False)
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
    tasks : tuple of TaskRun
        Its runs that are tasks of lm-evaluation-harness, likewise.
    layered : mapping of str to Hardware
        The machines of runs that differ by layer, by their labels, but for those of stages of
        tuning and those that have one step exchanged.
    """

    store: str
    name: str
    definition: Mapping[str, Any]
    records: tuple[Run, ...]
    environments: Mapping[str, Mapping[str, Any]]
    tasks: tuple[TaskRun, ...] = ()
    layered: Mapping[str, Hardware] = field(default_factory=dict)

    def __repr__(self) -> str:
        counted = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"<Results of study {self.name!r} in {self.store!r}: {counted or 'no runs'}>"

    def _repr_html_(self) -> str:
        return _html.facts(f"Results of study {self.name} in {self.store}", self.counts.items())

    @cached_property
    def all(self) -> tuple[Run, ...]:
        """All runs, those that are tasks among them, in order."""
        return tuple(sorted([*self.records, *self.tasks], key=lambda run: run.position))

    def having(self, state: str) -> tuple[Run, ...]:
        """All runs in a state: done, failed, or missing."""
        return tuple(run for run in self.all if run.state == state)

    @cached_property
    def done(self) -> tuple[Run, ...]:
        """The runs on texts that are done."""
        return tuple(run for run in self.records if run.state == "done")

    @cached_property
    def counts(self) -> Counter[str]:
        """How many runs are in which state; a run that has two names counts once."""
        return Counter({run.key: run.state for run in self.all}.values())

    @cached_property
    def averaged(self) -> Results:
        """The study with the mean of runs that differ in their seeds alone in place of them."""
        groups = grouped(self.records, but_for_seeds).values()
        apart = ([*{run.key: run for run in runs}.values()] for runs in groups)
        means = (runs[0] if len(runs) == 1 else mean(runs) for runs in apart)
        return replace(self, records=tuple(means))

    def labels(self, kind: str) -> tuple[str, ...]:
        """All labels of a kind, such as "hardware" or "lamp", in the study's order."""
        return tuple(dict.fromkeys(getattr(run, kind) for run in self.records))

    def stated(self, kind: str) -> Sequence[str]:
        """What the study's file says of a kind, with its variables; else the labels of its runs.

        Machines with a step exchanged are left out.
        """
        said = self.definition.get(kind)
        if isinstance(said, list) and said and all(isinstance(each, str) for each in said):
            return [each for each in said if not PART.fullmatch(each)]
        return [each for each in self.labels(kind) if not PART.fullmatch(each)]

    @property
    def tuned(self) -> Mapping[str, Any] | None:
        """What tuning has found, if these are the runs in which it was compared with others."""
        found = self.definition.get("tuned")
        return found if isinstance(found, dict) else None

    @property
    def is_stage(self) -> bool:
        """Whether the runs are those of a stage of tuning, but the last."""
        return "menu" in self.definition and self.tuned is None

    @property
    def failures(self) -> dict[str, list[Run]]:
        """The runs that failed, by reason."""
        return grouped(self.having("failed"), lambda run: run.error or "for no known reason")

    @property
    def notes(self) -> tuple[str, ...]:
        """What models said of themselves on their machines, each once."""
        return tuple(dict.fromkeys(note for run in self.all for note in run.notes))

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
        found = grouped(self.done, lambda run: (run.model, run.text))
        return tuple(Pair(*pair, tuple(runs)) for pair, runs in found.items())

    @cached_property
    def variables(self) -> dict[str, list[Any]]:
        """The values of each variable of the grid, in the study's order."""
        grid = self.definition.get("grid")
        names = grid if isinstance(grid, dict) else ()
        found: dict[str, dict[Any, None]] = {name: {} for name in names}
        for run in self.records:
            for name, value in run.variables.items():
                found.setdefault(name, {}).setdefault(value)
        return {name: list(values) for name, values in found.items() if values}

    @cached_property
    def _families(self) -> list[tuple[str, str]]:
        """The study's entries of hardware that have one variable, and its name."""
        entries = self.definition.get("hardware")
        listed = entries if isinstance(entries, list) else []
        named = (entry for entry in listed if isinstance(entry, str))
        found = ((entry, set(_VARIABLE.findall(entry))) for entry in named)
        return [(entry, names.pop()) for entry, names in found if len(names) == 1]

    def rung(self, run: Run) -> Rung | None:
        """Where its machine is in a family with one variable, a number; None if it is in none."""
        for entry, variable in self._families:
            value = run.variables.get(variable)
            filled = entry.replace(f"{{{variable}}}", str(value))
            if isinstance(value, (int, float)) and filled == run.hardware:
                return Rung(entry, variable, float(value))
        return None

    def to_pandas(self) -> Any:
        """All runs and scores as a data frame.

        Returns
        -------
        pandas.DataFrame
            As :func:`lamp.reports.to_pandas` gives it, for this study alone.

        Raises
        ------
        ModuleNotFoundError
            If pandas is not installed.
        """
        from lamp.reports import exports

        return exports.to_pandas([self])

    def color(self, run: Run) -> int:
        """The number of a run's machine."""
        return self.machines.index(run.hardware)

    def shape(self, run: Run) -> int:
        """The number of a run's rule; 0 is no look-ahead."""
        return self.rules.index(rule(run.lamp))

    def fronts(self, x: Callable[[Run], float], y: Callable[[Run], float]) -> frozenset[int]:
        """The positions of runs on the Pareto front of their model, text and machine.

        Both measures are to be small.
        """
        groups = (runs for pair in self.pairs for runs in pair.by_machine().values())
        return frozenset(
            runs[i].position for runs in groups for i in front([(x(run), y(run)) for run in runs])
        )


def read(store: str | os.PathLike[str], study: str | None = None) -> list[Results]:
    """The studies of a store and their runs.

    Parameters
    ----------
    store : str or path-like
        The store's file.
    study : str, optional
        The name of one study; all of them if it is left out.

    Returns
    -------
    list of Results
        By name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LookupError
        If there is no such study; the message names near ones.
    ValueError
        If the file is no store, or has no studies.
    """
    with Store.open(store) as opened:
        definitions, environments = opened.studies(), opened.environments()
        if not definitions:
            raise ValueError(f"the store {opened.path} has no studies yet")
        if study is not None and study not in definitions:
            near = difflib.get_close_matches(study, definitions, 3, 0.6)
            hint = (
                f"did you mean {', '.join(near)}?" if near else f"it has {_listed([*definitions])}"
            )
            raise LookupError(f"the store {opened.path} has no study {study!r}: {hint}")
        return [
            _results(opened, name, definition, environments)
            for name, definition in definitions.items()
            if study in (None, name)
        ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _results(
    store: Store,
    name: str,
    definition: Mapping[str, Any],
    environments: Mapping[str, Mapping[str, Any]],
) -> Results:
    runs, tasks = tuple(store.runs(name)), tuple(store.task_runs(name))
    used = {run.environment for run in (*runs, *tasks)}
    places = {key: place for key, place in environments.items() if key in used}
    found = Results(store.path.name, name, definition, runs, places, tasks)
    tuning = found.is_stage or found.tuned is not None
    return found if tuning else replace(found, layered=_layered(store, found))


def _layered(store: Store, study: Results) -> dict[str, Hardware]:
    """The machines that differ by layer, those left out that this process cannot read."""
    runs = {run.hardware: run for run in study.having("done") if not is_part(run)}
    found = {}
    for label, run in runs.items():
        said = str(store.configuration(run.key).get("hardware", ""))
        if _OF_LAYERS not in said:
            continue
        with suppress(ValueError):  # an accumulator of a user's, which is not imported here
            found[label] = files.loads(said)
    return found
