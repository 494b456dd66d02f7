"""Assignments measured as runs of a store, by the engines of sweeps."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fpemu import format as named_format
from lamp.evaluation import Setting
from lamp.machines import Hardware, Product, digest
from lamp.models import Shape
from lamp.studies import Engine, Point, Run, Store, engine, sweep
from lamp.tuning.costs import COSTS, width, work
from lamp.tuning.decisions import OUTSIDE, Assignment, Decision, assembled
from lamp.tuning.menus import METRICS, Menu
from lamp.tuning.tuner import ALONE, Reading

__all__ = ["Measurements"]


@dataclass(frozen=True)
class _Trials:
    """A study whose points are settings on texts."""

    name: str
    menu: Menu
    settings: Sequence[Setting]
    texts: Sequence[str]

    def record(self) -> dict[str, Any]:
        """Return what the study says as plain data."""
        found = self.menu.record()
        return {**found, "name": self.name, "settings": [str(each) for each in self.settings]}

    def walk(self) -> Iterator[Point]:
        """Iterate over the points: by text, then setting."""
        for text in self.texts:
            source = getattr(self.menu, text)
            for setting in self.settings:
                yield Point(
                    model=self.menu.place,
                    source=source,
                    setting=setting,
                    reference=self.menu.reference,
                    labels={
                        "model": os.fspath(self.menu.model),
                        "text": f"{text.replace('_', '-')}: {source.label}",
                        "hardware": setting.hardware.name,
                        "lamp": "+".join(map(str, setting.lamp)) or "none",
                        "reference": self.menu.reference.name,
                    },
                    variables={},
                    places={"model": ("", "model", ""), "text": (text, "", "")},
                )

    def blamed(self, *place: str) -> AbstractContextManager[None]:
        """Raise errors with the file and line of a place."""
        return self.menu.blamed(*place)


@dataclass
class Measurements:
    """A bench for :func:`lamp.tuning.tuner.tuned`: runs of a store.

    Parameters
    ----------
    menu : Menu
    decisions : sequence of Decision
    shape : lamp.models.Shape
        The sizes of the model.
    store : Path
        The SQLite file of the results.
    progress : callable or bool
        As :func:`lamp.sweep` takes it.
    workers : mapping
        What :func:`lamp.studies.engine` takes: jobs, cluster, memory.

    Attributes
    ----------
    ran : int
        The number of runs that were measured, and were not in the store before.
    notes : list of str
        What sweeps said.
    """

    menu: Menu
    decisions: Sequence[Decision]
    shape: Shape
    store: Path
    progress: Any = False
    workers: Mapping[str, Any] = field(default_factory=dict)
    ran: int = field(default=0, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    _rates: dict[tuple[int, int], float] = field(default_factory=dict, init=False)
    _engine: Engine | None = field(default=None, init=False)

    # --- measuring --------------------------------------------------------------------------------

    def measure(
        self, stage: str, assignments: Sequence[Assignment], texts: Sequence[str]
    ) -> list[dict[str, Reading]]:
        """Measure assignments on texts.

        Parameters
        ----------
        stage : str
            What the runs are called in the store, behind the name of the menu.
        assignments : sequence of tuple of (int or None)
        texts : sequence of str

        Returns
        -------
        list of dict of str to Reading
            For each assignment, by text.
        """
        runs = self.runs(stage, [self.setting(each) for each in assignments], texts)
        for assignment, of_texts in zip(assignments, runs, strict=True):
            self._note_rates(assignment, of_texts[texts[0]])
        return [{text: self.reading(run) for text, run in each.items()} for each in runs]

    def runs(
        self, stage: str, settings: Sequence[Setting], texts: Sequence[str]
    ) -> list[dict[str, Run]]:
        """The runs of settings on texts.

        Parameters
        ----------
        stage, texts
            As for :meth:`measure`.
        settings : sequence of Setting

        Returns
        -------
        list of dict of str to Run
            For each setting, by text.

        Raises
        ------
        RuntimeError
            If a run failed.
        """
        found = sweep(
            _Trials(self._name(stage), self.menu, settings, texts),
            store=self.store,
            progress=self.progress,
            workers=self._begun,
        )
        self.ran += found.ran
        self.notes += [note for note in found.notes if note not in self.notes]
        for run in found.failed:
            raise RuntimeError(f"{run}: {run.error}.  The same call goes on from here")
        at = {run.position: run for run in found.runs}
        count = len(settings)
        return [
            {text: at[of_text * count + number] for of_text, text in enumerate(texts)}
            for number in range(count)
        ]

    def _name(self, stage: str) -> str:
        """The name of the study of a stage."""
        allowed = "" if stage == ALONE else f", {_in_words(self.menu.record()['allowed'])}"
        return f"{self.menu.name}{allowed}, {stage}"

    def note(self, stage: str, record: Mapping[str, Any]) -> None:
        """Keep a result beside the runs of a stage, for reports.

        Parameters
        ----------
        stage : str
        record : mapping
            Plain data, without NaN.
        """
        name = self._name(stage)
        with Store.open(self.store, write=True) as opened:
            said = {**opened.studies()[name], "tuned": record}
            opened.plan(name, said, opened.runs(name))

    def _begun(self, spill: Path) -> Engine:
        """The engine of all sweeps, so that they load the model and its reference once."""
        if self._engine is None:
            self._engine = engine(spill=spill, **self.workers)
        return self._engine

    def close(self) -> None:
        """Let the workers go."""
        if self._engine is not None:
            self._engine.close()

    def reading(self, run: Run) -> Reading:
        """What a run says of what is allowed."""
        assert run.metrics is not None
        estimate = run.metrics.estimate(METRICS[self.menu.metric])
        return Reading(estimate.value, *estimate.interval())

    def setting(self, assignment: Assignment) -> Setting:
        """The machine of an assignment: that of one choice is called after it."""
        chosen = [(i, choice) for i, choice in enumerate(assignment) if choice is not None]
        name = "" if chosen else self.menu.base.name
        if len(chosen) <= 2:
            name = (
                "; ".join(
                    f"{self.decisions[i]} {self.decisions[i].option(choice).label}"
                    for i, choice in chosen
                )
                or self.menu.base.name
            )
        found = assembled(self.menu.base, self.decisions, assignment, name)
        if name:
            return found
        named = f"{self.menu.name}-{digest(found.hardware)[:8]}"
        return replace(found, hardware=replace(found.hardware, name=named))

    # --- costs ------------------------------------------------------------------------------------

    def cost(self, decision: int, choice: int | None) -> float:
        """The cost of an option for a token.

        Parameters
        ----------
        decision : int
        choice : int or None
            None for the step as it is in the base.

        Returns
        -------
        float
        """
        decided = self.decisions[decision]
        option = decided.option(choice)
        amount = self._work[decided.step] * max(len(decided.layers), 1)
        if isinstance(self.menu.costs, Mapping):
            return 0.0 if choice is None else amount * self.menu.cost(decided.step, option)
        unit = self.menu.cost(decided.step, option)
        if option.rules and choice is not None:
            again = replace(option, step=self.menu.base.levels[-1])
            unit += self._rates[decision, choice] * self.menu.cost(decided.step, again)
        return amount * unit

    @property
    def fixed(self) -> float:
        """The cost of the steps that are not decided, as they are in the base."""
        if isinstance(self.menu.costs, Mapping):
            return 0.0
        decided = {each.step for each in self.decisions}
        plain = named_format(self.menu.base.carrier.name)
        return sum(
            amount
            * (1 if step in OUTSIDE else self.shape.layers)
            * COSTS[self.menu.costs](getattr(self.menu.base, step), plain)
            for step, amount in self._work.items()
            if step not in decided
        )

    def price(self, machine: Hardware) -> float:
        """The cost of a token on a machine without look-ahead.

        Parameters
        ----------
        machine : Hardware

        Returns
        -------
        float
            NaN if costs go by the labels of options.
        """
        if isinstance(self.menu.costs, Mapping):
            return math.nan
        unit, plain = COSTS[self.menu.costs], named_format(machine.carrier.name)
        return math.fsum(amount * unit(step, plain) for amount, step in self._steps(machine))

    def accumulator_bits(self, machine: Hardware) -> float:
        """The bits of the accumulator of a multiply-add on a machine, on average over a token.

        Parameters
        ----------
        machine : Hardware

        Returns
        -------
        float
        """
        products = [
            (amount, width(step.accumulator))
            for amount, step in self._steps(machine)
            if isinstance(step, Product)
        ]
        done = math.fsum(amount for amount, _ in products)
        return math.fsum(amount * bits for amount, bits in products) / done

    def _steps(self, machine: Hardware) -> Iterator[tuple[float, Any]]:
        """The work of each step in each layer, and how a machine does it."""
        layers = [machine.of_layer(layer, self.shape.layers) for layer in range(self.shape.layers)]
        for name, amount in self._work.items():
            for each in [machine] if name in OUTSIDE else layers:
                yield amount, getattr(each, name)

    @property
    def _work(self) -> dict[str, float]:
        source = self.menu.calibration
        length = source.length or min(self.shape.positions, source.tokens or self.shape.positions)
        return work(self.shape, length)

    def _note_rates(self, assignment: Assignment, run: Run) -> None:
        """Keep the share that an option recomputes, from the run of it alone."""
        chosen = [(i, choice) for i, choice in enumerate(assignment) if choice is not None]
        if len(chosen) != 1 or run.metrics is None:
            return
        ((decision, choice),) = chosen
        decided = self.decisions[decision]
        if decided.options[choice].rules:
            rates = run.metrics.step_rates[decided.step]
            own = [rates[layer] for layer in decided.layers] or rates
            self._rates[decision, choice] = float(np.mean(own))


def _in_words(allowed: Mapping[str, Any]) -> str:
    return ", ".join(f"{metric} {given}" for metric, given in allowed.items())
