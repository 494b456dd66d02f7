"""Tuning a machine, and its result."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from lamp import integrations
from lamp.evaluation import STANDARD_INPUT, Estimate, Setting, Text, without_nan
from lamp.machines import STEPS, Hardware
from lamp.studies import Run, Status
from lamp.tuning import tuner
from lamp.tuning.decisions import Assignment, Decision
from lamp.tuning.knapsack import Corner
from lamp.tuning.measuring import Measurements
from lamp.tuning.menus import TEXTS, Menu
from lamp.tuning.tuner import Found, Reading, Round

__all__ = ["Choice", "Measured", "Tuned", "tune"]

_ROUNDS: Final = 12
_COMPARED: Final = "compared"  # the stage in which the result is put beside other machines
_FRONT: Final = 5  # corners of the front that are measured
_SHINGLE: Final = 32  # tokens in a row that two texts should not share
_SHARED: Final = 0.01


@dataclass(frozen=True)
class Choice:
    """What was decided for a step in a group of layers.

    Parameters
    ----------
    step, layers : str
        The step and its layers; empty for a step that is in none.
    option : str
        The label of the option.
    cost : float
        For a token.
    divergence : float
        What it adds alone, on the calibration text.
    """

    step: str
    layers: str
    option: str
    cost: float
    divergence: float


@dataclass(frozen=True)
class Measured:
    """A machine, what it costs, what was predicted for it and what was measured.

    Parameters
    ----------
    name : str
    kind : {"tuned", "front", "uniform", "allowed"}
        The result; a corner of the convex front; one machine of the menu for all that is decided;
        or the machine whose divergence is allowed.
    cost : float
        For a token; NaN for a machine that has no price in a table of costs.
    predicted : float
        The divergence on the calibration text by the sum; NaN if it was not predicted.
    readings : mapping of str to Reading
        The divergence on each text that it was measured on.
    """

    name: str
    kind: str
    cost: float
    predicted: float
    readings: Mapping[str, Reading]


@dataclass(frozen=True)
class Tuned:
    """The cheapest machine that was found for what is allowed.

    Parameters
    ----------
    menu : Menu
    setting : Setting
        The machine and its rules.
    choices : tuple of Choice
        What was decided.
    result : Measured
        What it costs and causes.
    allowed : mapping of str to float
        What is allowed on each text.
    difference : Estimate or None
        How much larger its divergence on the held-out text is than that of the machine whose
        divergence is allowed; None if a number is allowed.
    bound : float
        No machine of the menu whose sum is as allowed in the last round costs less.
    gap : float
        The duality gap of that round, as a share of the cost.
    rounds : tuple of Round
    interactions : int
        The number of pairs of options that were measured.
    front : tuple of Measured
        The corners of the convex front, as predicted; some of them are measured.
    others : tuple of Measured
        Uniform machines of the menu, and the machine whose divergence is allowed.
    accumulator_bits : float
        The bits of the accumulator of a multiply-add, on average.
    store : Path
    ran : int
        The number of runs that were not in the store before.
    notes : tuple of str
    """

    menu: Menu
    setting: Setting
    choices: tuple[Choice, ...]
    result: Measured
    allowed: Mapping[str, float]
    difference: Estimate | None
    bound: float
    gap: float
    rounds: tuple[Round, ...]
    interactions: int
    front: tuple[Measured, ...]
    others: tuple[Measured, ...]
    accumulator_bits: float
    store: Path
    ran: int
    notes: tuple[str, ...]

    @property
    def machine(self) -> Hardware:
        """The machine."""
        return self.setting.hardware  # type: ignore[no-any-return]

    @property
    def cheapest_uniform(self) -> Measured | None:
        """The cheapest uniform machine of the menu that holds on both texts."""
        holding = [
            each
            for each in self.others
            if each.kind == "uniform"
            and all(each.readings[text].value <= self.allowed[text] for text in TEXTS)
        ]
        return min(holding, key=lambda each: each.cost, default=None)

    @property
    def factor(self) -> float:
        """The cost of the cheapest uniform machine that holds over that of this one."""
        uniform = self.cheapest_uniform
        return math.nan if uniform is None else uniform.cost / self.result.cost

    def record(self) -> dict[str, Any]:
        """Return the result as plain data; numbers may be NaN or infinite."""
        uniform = self.cheapest_uniform
        return {
            "tuning": self.menu.record(),
            **self.setting.record(),
            "cost": self.result.cost,
            "bound": self.bound,
            "duality_gap": self.gap,
            "accumulator_bits": self.accumulator_bits,
            "allowed": dict(self.allowed),
            "predicted": self.result.predicted,
            "divergence": _plain(self.result.readings),
            "difference": None
            if self.difference is None
            else {"value": self.difference.value, "interval": self.difference.interval()},
            "cheapest_uniform": None if uniform is None else uniform.name,
            "factor": self.factor,
            "choices": [asdict(each) for each in self.choices],
            "rounds": [_round(each) for each in self.rounds],
            "interactions": self.interactions,
            "front": [_measured(each) for each in self.front],
            "others": [_measured(each) for each in self.others],
            "store": str(self.store),
            "ran": self.ran,
            "notes": list(self.notes),
        }


def _plain(readings: Mapping[str, Reading]) -> dict[str, Any]:
    return {
        text: {"value": each.value, "interval": [each.low, each.high]}
        for text, each in readings.items()
    }


def _measured(each: Measured) -> dict[str, Any]:
    return {
        "name": each.name,
        "kind": each.kind,
        "cost": each.cost,
        "predicted": each.predicted,
        "divergence": _plain(each.readings),
    }


def _round(each: Round) -> dict[str, Any]:
    return {
        "cost": each.cost,
        "predicted": each.predicted,
        "divergence": _plain(each.readings),
        "taken": each.taken,
        "limit": each.limit,
        "bound": each.solution.bound,
        "relaxed": each.solution.relaxed,
        "holds": each.holds,
        "repair": each.repair,
    }


def tune(
    menu: Menu | str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | None = None,
    rounds: int = _ROUNDS,
    front: int = _FRONT,
    jobs: int | None = None,
    cluster: Any = None,
    memory: int | None = None,
    progress: Callable[[Status], None] | bool = False,
) -> Tuned:
    """Find the cheapest machine of a menu whose divergence is allowed.

    Every measurement is a run of a store: a call that is stopped goes on where it was, and a second
    call with another allowance measures hardly anything.

    Parameters
    ----------
    menu : Menu, str or path-like
        What is tuned, or its TOML file.
    store : str or path-like, optional
        The SQLite file of the results; by default the menu's file with the ending .sqlite.
    rounds : int
        How often a solution is measured and repaired, at most.
    front : int
        How many corners of the front are measured.
    jobs, cluster, memory, progress
        As :func:`lamp.sweep` takes them.

    Returns
    -------
    Tuned

    Raises
    ------
    ValueError, FileNotFoundError
        If the menu says something impossible, a file is missing, both texts are the same, or no
        machine of the menu holds.
    RuntimeError
        If a run failed.
    Interrupted
        After Ctrl-C; it is a KeyboardInterrupt.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import lamp
    >>> from lamp.tuning import Menu
    >>> menu = Menu(
    ...     "scores",
    ...     {"scores": ["fp32", "ps7", "ps4"]},
    ...     {"kl": 1e-3},
    ...     groups=2,
    ...     calibration={"source": "macbeth", "tokens": 64, "length": 32},
    ...     held_out={"source": "jargon", "tokens": 64, "length": 32},
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     found = lamp.tune(menu, store=f"{folder}/scores.sqlite")
    >>> found.result.readings["held_out"].value <= 1e-3
    True
    """
    if not isinstance(menu, Menu):
        store = Path(menu).with_suffix(".sqlite") if store is None else store
        menu = Menu.load(menu)
    if store is None:
        raise ValueError("store must name the file of the results, as the menu is from no file")
    for name, value in (("rounds", rounds), ("front", front)):
        least = int(name == "rounds")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    with menu.blamed("", "model"):
        reader = integrations.reader(menu.place)
    notes = _check_texts(menu, _texts(menu, reader))
    decisions = menu.decisions(reader.shape)
    workers = {"jobs": jobs, "cluster": cluster, "memory": memory}
    bench = Measurements(menu, decisions, reader.shape, Path(store), progress, workers)
    with contextlib.closing(bench):
        found = _Tuning(menu, decisions, bench, notes).run(rounds, front)
        bench.note(_COMPARED, without_nan(found.record()))
        return found


def _texts(menu: Menu, reader: Any) -> dict[str, Text]:
    found = {}
    for text in TEXTS:
        with menu.blamed(text):
            source = getattr(menu, text)
            if source.source == STANDARD_INPUT:
                raise ValueError("standard input can be read once, but texts are read repeatedly")
            found[text] = source.read(reader)
    return found


def _check_texts(menu: Menu, texts: Mapping[str, Text]) -> list[str]:
    """Raise a ValueError if what is held out was calibrated on; say in words if a little was."""
    known, held_out = (set(_shingles(texts[text].tokens)) for text in TEXTS)
    shared = len(known & held_out) / len(held_out)
    if shared > _SHARED:
        with menu.blamed("held_out"):
            raise ValueError(
                f"{shared:.0%} of the held-out text is in the calibration text: a machine is "
                "verified on text that it was not made for"
            )
    return [f"{shared:.2%} of the held-out text is in the calibration text"] if shared else []


def _shingles(tokens: Any) -> Iterator[bytes]:
    """All runs of tokens of some length; a text that is shorter is one of them."""
    length = min(_SHINGLE, len(tokens))
    for start in range(len(tokens) - length + 1):
        yield tokens[start : start + length].tobytes()


class _Tuning:
    """What is known while a machine is tuned."""

    def __init__(
        self, menu: Menu, decisions: Sequence[Decision], bench: Measurements, notes: list[str]
    ) -> None:
        self._menu, self._decisions, self._bench, self._notes = menu, decisions, bench, notes

    def run(self, rounds: int, front: int) -> Tuned:
        """Measure, solve, repair, and compare with other machines."""
        bench, limit = self._bench, self._menu.limit
        found = tuner.alone(bench, [len(each.options) for each in self._decisions])
        if isinstance(limit, float):
            allowed = dict.fromkeys(TEXTS, limit)
        else:
            (runs,) = bench.runs("allowed", [Setting(limit)], TEXTS)
            allowed = {text: bench.reading(run).value for text, run in runs.items()}
        uniform = [*self._uniform.values()]
        corners = tuner.tuned(bench, found, allowed, uniform=uniform, rounds=rounds)
        best = found.best
        if best is None:
            raise ValueError(self._nothing(found, allowed))
        return self._compared(found, best, allowed, corners, front)

    def _nothing(self, found: Found, allowed: Mapping[str, float]) -> str:
        """Why no machine of the menu is the result."""
        metric = self._menu.metric
        words = {text: text.replace("_", "-") for text in TEXTS}
        what = ", ".join(f"{metric} {allowed[t]:.3g} on the {words[t]} text" for t in TEXTS)
        message = f"no machine of the menu was found that causes at most {what}"
        if found.rounds:
            nearest = min(found.rounds, key=lambda each: each.taken)
            count = len(found.rounds)
            rounds = f"{count} round{'s' * (count != 1)}"
            return (
                f"{message}, in {rounds}: the nearest takes {nearest.taken:.3g} times as much as "
                "is allowed"
            )
        return f"{message}: every option of a step causes divergences that are no numbers"

    # --- beside it --------------------------------------------------------------------------------

    def _compared(
        self,
        found: Found,
        best: Round,
        allowed: Mapping[str, float],
        corners: Sequence[tuple[Corner, Assignment]],
        front: int,
    ) -> Tuned:
        """The result, beside corners of the front and uniform machines, all on both texts."""
        bench, limit = self._bench, self._menu.limit
        picked = _spread(len(corners), front)
        uniform = self._uniform
        wanted = [best.assignment, *(corners[i][1] for i in picked), *uniform.values()]
        settings = [bench.setting(each) for each in wanted]
        whole = [] if isinstance(limit, float) else [Setting(limit)]
        runs = bench.runs(_COMPARED, [*settings, *whole], TEXTS)
        readings = [{text: bench.reading(run) for text, run in each.items()} for each in runs]
        on_front = dict(zip(picked, readings[1:], strict=False))
        others = [
            Measured(name, "uniform", self._cost(each), found.predicted(each), measured)
            for (name, each), measured in zip(
                uniform.items(), readings[1 + len(picked) :], strict=False
            )
        ]
        others += [
            Measured(str(each), "allowed", bench.price(each.hardware), math.nan, readings[-1])
            for each in whole
        ]
        return Tuned(
            menu=self._menu,
            setting=settings[0],
            choices=tuple(self._choices(found, best)),
            result=Measured(
                str(settings[0]), "tuned", self._cost(best.assignment), best.predicted, readings[0]
            ),
            allowed=allowed,
            difference=_difference(runs[0], runs[-1]) if whole and self._has_kl else None,
            bound=best.solution.bound + bench.fixed,
            gap=best.solution.gap / self._cost(best.assignment),
            rounds=tuple(found.rounds),
            interactions=len(found.interactions),
            front=tuple(
                Measured(
                    str(bench.setting(each)),
                    "front",
                    self._cost(each),
                    found.base.value + corner.divergence,
                    on_front.get(number, {}),
                )
                for number, (corner, each) in enumerate(corners)
            ),
            others=tuple(others),
            accumulator_bits=bench.accumulator_bits(settings[0].hardware),
            store=bench.store,
            ran=bench.ran,
            notes=(*self._notes, *bench.notes),
        )

    @property
    def _has_kl(self) -> bool:
        return self._menu.metric == "kl"

    def _cost(self, assignment: Assignment) -> float:
        parts = (self._bench.cost(i, choice) for i, choice in enumerate(assignment))
        return math.fsum([self._bench.fixed, *parts])

    @functools.cached_property
    def _uniform(self) -> dict[str, Assignment]:
        """Each option that all products have, or all functions or sums, everywhere.

        A step without that option is as in the base.
        """
        kinds: dict[type, list[set[str]]] = {}
        for each in self._decisions:
            labels = {option.label for option in each.options}
            kinds.setdefault(STEPS[each.step], []).append(labels)
        shared = set().union(*(set.intersection(*labels) for labels in kinds.values()))
        listed = dict.fromkeys(o.label for each in self._decisions for o in each.options)
        found: dict[str, Assignment] = {}
        for label in listed:
            choices = ((each, _choice(each, label)) for each in self._decisions)
            assignment = tuple(
                _as_base(each) if choice is None else choice for each, choice in choices
            )
            if label in shared and assignment not in found.values():
                found[label] = assignment
        return found

    def _choices(self, found: Found, best: Round) -> Iterator[Choice]:
        for i, (decision, choice) in enumerate(zip(self._decisions, best.assignment, strict=True)):
            yield Choice(
                decision.step,
                decision.where,
                decision.option(choice).label,
                self._bench.cost(i, choice),
                found.added(i, choice),
            )


def _choice(decision: Decision, label: str) -> int | None:
    """The number of the option with a label."""
    labels = [option.label for option in decision.options]
    return labels.index(label) if label in labels else None


def _as_base(decision: Decision) -> int | None:
    """The number of the option that is as in the base."""
    steps = [option.step if not option.rules else None for option in decision.options]
    return steps.index(decision.base) if decision.base in steps else None


def _spread(count: int, most: int) -> list[int]:
    """At most so many numbers below a count, evenly spread, both ends among them."""
    if not count or not most:
        return []
    return [int(n) for n in np.unique(np.linspace(0, count - 1, most).round())]


def _difference(mine: Mapping[str, Run], other: Mapping[str, Run]) -> Estimate | None:
    """How much larger the divergence of one is on the held-out text, by clusters of tokens."""
    ours, theirs = (each[TEXTS[1]].metrics for each in (mine, other))
    found = ours.against(theirs) if ours is not None and theirs is not None else None
    return found and found.kl
