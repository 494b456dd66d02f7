"""What each step of each layer costs: the divergence that it causes alone.

A rank is a study of machines that differ by layer, as any other: its runs are in a store, where a
second call finds them.  Each step that a machine computes otherwise than the exact one is put on
the exact machine alone, and on the machine the exact step is put in its place.

Divergences are nearly quadratic in errors, and errors of different steps are hardly correlated: the
parts add up to nearly the whole.  How nearly is measured.

With look-ahead, a step alone is recomputed by its rule in its layer alone, and a step that is put
right is not recomputed: what steps cost is what their rules leave of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lamp import integrations
from lamp.evaluation import Estimate, Setting, Source, ratio
from lamp.lookahead import LAMP, LookAhead
from lamp.machines import LAYER_FIELDS, STEPS, Hardware, HardwareLike, hardware
from lamp.studies import Point, Run, Study, sweep
from lamp.tuning.decisions import PLACES, joined

__all__ = ["OUTSIDE", "Part", "Rank", "RankStudy", "rank", "rank_study", "ranked_steps"]

OUTSIDE: Final = ("weights", "embedding", "norm", "lm_head")
"""What is computed in no layer: the weights of embeddings, last norm and head among it."""

_RANKED: Final = tuple(name for name in LAYER_FIELDS if name != "recomputed")
_Place = tuple[str, int | None]


# --- machines with one step of another ------------------------------------------------------------


def _own(machine: Hardware, layer: int | None) -> Hardware:
    """The machine without layers of one layer, or of what is in none; layers are counted."""
    return machine.machines.get(layer, machine.machines[None])


def _places(machine: Hardware, exact: Hardware, layers: int) -> list[_Place]:
    """The steps that two machines compute differently, in the order of the model."""
    every: list[_Place] = [(step, None) for step in OUTSIDE[:2]]
    every += [(step, layer) for layer in range(layers) for step in _RANKED]
    every += [(step, None) for step in OUTSIDE[2:]]
    return [
        (step, layer)
        for step, layer in every
        if getattr(_own(machine, layer), step) != getattr(_own(exact, layer), step)
    ]


def _with_step(base: Hardware, other: Hardware, place: _Place, layers: int, name: str) -> Hardware:
    """A machine with one step as on another, both with their layers counted."""
    step, layer = place
    value = getattr(_own(other, layer), step)
    if layer is not None:
        return base.with_layers({layer: {step: value}}, name)
    found = replace(base, name=name, **{step: value})
    if step not in LAYER_FIELDS:
        return found
    # The layers stay as they are.
    kept = {each: {step: getattr(_own(base, each), step)} for each in range(layers)}
    return found.with_layers(kept, name)


# --- rules of one step ----------------------------------------------------------------------------


def _recomputing(exact: Hardware, machine: Hardware, layers: int) -> Hardware:
    """The exact machine with what recomputes on the machine: no step of it does without a rule."""
    own = {layer: {"recomputed": _own(machine, layer).recomputed} for layer in range(layers)}
    return replace(exact, recomputed=machine.recomputed).with_layers(own, exact.name)


def _by_place(look_ahead: LookAhead, layers: int) -> dict[_Place, LAMP]:
    """The rule of each step of each layer that has one."""
    return {
        (PLACES[rule.on], None if rule.on == "logits" else layer): rule
        for layer in range(layers)
        for rule in look_ahead.of_layer(layer, layers).rules
    }


def _joined(rules: Mapping[_Place, LAMP], layers: int) -> tuple[LAMP, ...]:
    """The rules for some steps, each for its layers."""
    own = ((rule, () if layer is None else (layer,)) for (_, layer), rule in rules.items())
    return joined(own, layers)


def _checked(lamp: LAMP | Iterable[LAMP] | None, layers: int) -> LookAhead:
    look_ahead = LookAhead.of(lamp)
    look_ahead.check_layers(layers)
    for rule in look_ahead.rules:
        if rule.on not in PLACES:
            raise ValueError(
                f"{rule} recomputes attention_output and mlp_down together: steps are ranked one "
                f"by one, with rules for {', '.join(PLACES)}"
            )
    return look_ahead


# --- the study ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The machines of a rank; rules are by the name of the machine."""

    machine: Hardware
    exact: Hardware
    label: str
    layers: int
    alone: Mapping[_Place, Hardware]
    repaired: Mapping[_Place, Hardware]
    rules: Mapping[str, tuple[LAMP, ...]]

    @property
    def machines(self) -> list[Hardware]:
        return [self.machine, *self.alone.values(), *self.repaired.values()]


def _plan(
    model: str | os.PathLike[str],
    machine: HardwareLike,
    exact: HardwareLike,
    lamp: LAMP | Iterable[LAMP] | None,
    steps: Iterable[str] | None,
    layers: Iterable[int] | None,
    repaired: bool,
) -> _Plan:
    asked, truth = hardware(machine), hardware(exact)
    count = integrations.reader(model).shape.layers
    counted, counted_exact = asked.counted(count), truth.counted(count)
    look_ahead = _checked(lamp, count)
    label = str(Setting(asked, look_ahead.rules))
    places = _places(counted, counted_exact, count)
    if not places:
        raise ValueError(
            f"{asked.name!r} computes every step as {truth.name!r} does: nothing to rank"
        )
    chosen = _chosen(places, steps, layers, count)
    if not chosen:
        raise ValueError(
            f"none of the steps chosen is computed otherwise by {asked.name!r} than by "
            f"{truth.name!r}: {', '.join(dict.fromkeys(step for step, _ in places))} are"
        )
    of_step = _by_place(look_ahead, count)
    rules, alone, other = {asked.name: look_ahead.rules}, {}, {}
    recomputing = _recomputing(counted_exact, counted, count) if of_step else counted_exact
    for place in chosen:
        step, layer = place
        where = f"{'outside' if layer is None else layer}.{step}"
        base = recomputing if place in of_step else counted_exact
        name = f"{truth.name}@{where}={label}"
        alone[place] = _with_step(base, counted, place, count, name)
        rules[name] = _joined({place: of_step[place]} if place in of_step else {}, count)
        if repaired:
            name = f"{label}@{where}={truth.name}"
            other[place] = _with_step(counted, counted_exact, place, count, name)
            kept = {each: rule for each, rule in of_step.items() if each != place}
            rules[name] = look_ahead.rules if kept == of_step else _joined(kept, count)
    return _Plan(asked, truth, label, count, alone, other, rules)


def ranked_steps(steps: Iterable[str] | None = None) -> tuple[str, ...]:
    """The steps that can be ranked, or those of them that are asked for.

    Parameters
    ----------
    steps : iterable of str, optional
        Names of steps.

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        If there is no such step.
    """
    known = ("weights", *(step for step in STEPS if step != "recomputed"), "attention")
    names = known if steps is None else tuple(steps)
    for name in names:
        if name not in known:
            raise ValueError(f"unknown step {name!r}: expected {', '.join(known)}")
    return names


def _chosen(
    places: Sequence[_Place],
    steps: Iterable[str] | None,
    layers: Iterable[int] | None,
    count: int,
) -> list[_Place]:
    """The places that are asked for; where layers are, those outside of all are not."""
    names = ranked_steps(steps)
    if layers is None:
        return [place for place in places if place[0] in names]
    numbers = set()
    for layer in layers:
        if not -count <= layer < count:
            raise ValueError(f"there is no layer {layer}: the model has {count}")
        numbers.add(layer % count)
    return [place for place in places if place[0] in names and place[1] in numbers]


def rank_study(
    model: str | os.PathLike[str],
    machine: HardwareLike,
    *,
    source: Any = None,
    exact: HardwareLike = "fp64",
    lamp: LAMP | Iterable[LAMP] | None = None,
    steps: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    repaired: bool = True,
) -> RankStudy:
    """The study that :func:`rank` runs.

    Parameters
    ----------
    model, machine, source, exact, lamp, steps, layers, repaired
        As in :func:`rank`.

    Returns
    -------
    RankStudy
        Its machines are called ``EXACT@LAYER.STEP=MACHINE`` and ``MACHINE@LAYER.STEP=EXACT``; what
        is in no layer has ``outside`` for a number.
    """
    return _study(model, source, _plan(model, machine, exact, lamp, steps, layers, repaired))


def _study(model: str | os.PathLike[str], source: Any, plan: _Plan) -> RankStudy:
    study = Study(
        f"rank {plan.label}",
        models=[model],
        texts=[Source() if source is None else source],
        hardware=plan.machines,
        reference=plan.exact,
    )
    return RankStudy(study, plan.rules)


@dataclass(frozen=True)
class RankStudy:
    """A study whose machines have rules of look-ahead of their own.

    Parameters
    ----------
    study : Study
        The study without look-ahead.
    rules : mapping of str to tuple of LAMP
        The rules of each machine, by its name.
    """

    study: Study
    rules: Mapping[str, tuple[LAMP, ...]]

    @property
    def name(self) -> str:
        """The name."""
        return self.study.name

    @property
    def hardware(self) -> list[Hardware]:
        """The machines."""
        return list(self.study.hardware)

    def record(self) -> dict[str, Any]:
        """Return what the study says as plain data."""
        return {**self.study.record(), "lamp": [self._label(self.hardware[0])]}

    def walk(self) -> Iterator[Point]:
        """Iterate over the points."""
        for point in self.study.walk():
            machine = point.setting.hardware
            labels = {**point.labels, "lamp": self._label(machine)}
            yield replace(point, setting=Setting(machine, self.rules[machine.name]), labels=labels)

    def _label(self, machine: Hardware) -> str:
        """The rules of a machine in words."""
        return "+".join(map(str, self.rules[machine.name])) or "none"

    def blamed(self, *place: str) -> AbstractContextManager[None]:
        """Raise errors as a study does."""
        return self.study.blamed(*place)


# --- what comes of it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """What one step of one layer costs.

    Parameters
    ----------
    step : str
    layer : int or None
        None for what is in no layer.
    alone : Estimate
        The divergence of the exact machine with this step as on the machine, in nats.
    won : Estimate or None
        How much less the machine diverges with this step as on the exact one; None if it was not
        measured.  Both are from the same tokens.
    """

    step: str
    layer: int | None
    alone: Estimate
    won: Estimate | None = None

    @property
    def place(self) -> str:
        """The layer for people."""
        return "outside" if self.layer is None else str(self.layer)


@dataclass(frozen=True)
class Rank:
    """What each step of each layer costs on a machine.

    Parameters
    ----------
    model, text, machine, exact : str
        Their names; the machine's with its rules.
    layers : int
        How many layers the model has.
    whole : Estimate
        The divergence of the machine, in nats.
    parts : tuple of Part
        In the order of the model.
    sum : Estimate
        The divergences that the parts cause alone, added up.
    explained : Estimate
        That sum over the divergence of the machine.  It says how well the parts add up if they are
        all of them.
    complete : bool
        Whether they are.
    """

    model: str
    text: str
    machine: str
    exact: str
    layers: int
    whole: Estimate
    parts: tuple[Part, ...]
    sum: Estimate
    explained: Estimate
    complete: bool

    @cached_property
    def ranked(self) -> tuple[Part, ...]:
        """The parts, those that cost most first."""
        return tuple(sorted(self.parts, key=lambda part: -_sortable(part.alone.value)))

    def share(self, part: Part) -> float:
        """What a part costs alone, as a share of the machine's divergence."""
        return part.alone.value / self.whole.value if self.whole.value else math.nan

    def by(self, kind: str) -> dict[str, float]:
        """What steps or layers cost alone, added up, those that cost most first.

        Parameters
        ----------
        kind : {"step", "place"}

        Returns
        -------
        dict of str to float
            In nats.
        """
        found: dict[str, list[float]] = {}
        for part in self.parts:
            found.setdefault(getattr(part, kind), []).append(part.alone.value)
        sums = {name: math.fsum(values) for name, values in found.items()}
        return dict(sorted(sums.items(), key=lambda item: -_sortable(item[1])))

    def record(self) -> dict[str, Any]:
        """Return all of it as plain data, ranked."""
        return {
            "model": self.model,
            "text": self.text,
            "hardware": self.machine,
            "exact": self.exact,
            "layers": self.layers,
            "kl": _record(self.whole),
            "parts": [
                {
                    "step": part.step,
                    "layer": part.layer,
                    "alone": _record(part.alone),
                    "share": self.share(part),
                    "won": None if part.won is None else _record(part.won),
                }
                for part in self.ranked
            ],
            "sum": _record(self.sum),
            "explained": _record(self.explained),
            "complete": self.complete,
        }


def _sortable(value: float) -> float:
    """A divergence that is NaN, of a machine that overflows, is the worst."""
    return math.inf if math.isnan(value) else value


def _record(estimate: Estimate) -> dict[str, float]:
    low, high = estimate.interval()
    return {"value": estimate.value, "error": estimate.error, "low": low, "high": high}


def rank(
    model: str | os.PathLike[str],
    machine: HardwareLike,
    *,
    store: str | os.PathLike[str],
    source: Any = None,
    exact: HardwareLike = "fp64",
    lamp: LAMP | Iterable[LAMP] | None = None,
    steps: Iterable[str] | None = None,
    layers: Iterable[int] | None = None,
    repaired: bool = True,
    **engine: Any,
) -> Rank:
    """What each step of each layer costs on a machine.

    Parameters
    ----------
    model : str or path-like
        A model, as :func:`lamp.from_pretrained` takes it.
    machine : Hardware or str
        The machine.
    store : str or path-like
        The SQLite file of the runs, one for each step of each layer that differs, two if they are
        put right, and one for the machine; it is made if there is none.
    source : Source, str or mapping, optional
        The text, as in :class:`lamp.Study`; by default the held-out one.
    exact : Hardware or str
        What all else is computed in, and the reference.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead on the machine; none for norms, which are rules of two steps.
    steps : iterable of str, optional
        Only these steps; ``"weights"`` and ``"attention"`` are among them.
    layers : iterable of int, optional
        Only these layers, and nothing that is in none.
    repaired : bool
        Whether to measure what is won when a step alone is put right, too.
    **engine
        `jobs`, `cluster`, `memory` and `progress` of :func:`lamp.sweep`.

    Returns
    -------
    Rank

    Raises
    ------
    ValueError
        If the machines do not differ, a step or layer is unknown, a rule is for norms, or as in
        :func:`lamp.sweep`.
    RuntimeError
        If a run failed.
    Interrupted
        After Ctrl-C: the same call does the rest.

    Notes
    -----
    Alone, a step reads the numbers of the exact machine: a product that takes operands as they are
    multiplies float64 numbers.  Its own roundings are those that it has on the machine.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import lamp
    >>> text = {"source": "held-out", "tokens": 48}
    >>> with TemporaryDirectory() as folder:
    ...     found = lamp.rank(
    ...         "embedded", "fp64@2-3.scores=ps4", store=f"{folder}/rank.sqlite", source=text
    ...     )
    >>> [(part.step, part.layer) for part in found.parts], found.complete
    ([('scores', 2), ('scores', 3)], True)
    """
    plan = _plan(model, machine, exact, lamp, steps, layers, repaired)
    found = sweep(_study(model, source, plan), store=store, grow=True, **engine)
    if found.failed:
        first = found.failed[0]
        raise RuntimeError(f"{len(found.failed)} runs failed: {first}: {first.error}")
    runs = {run.hardware: run for run in found.runs if isinstance(run, Run)}
    whole = runs[plan.machine.name]
    sums = _sums(whole)
    parts, total = [], np.zeros(len(sums))
    for (step, layer), alone in plan.alone.items():
        total += _sums(runs[alone.name])[:, 1]
        won = None
        if (step, layer) in plan.repaired:
            won = ratio(sums[:, 1] - _sums(runs[plan.repaired[step, layer].name])[:, 1], sums[:, 0])
        parts.append(Part(step, layer, _divergence(runs[alone.name]), won))
    return Rank(
        whole.model,
        whole.text,
        plan.label,
        plan.exact.name,
        plan.layers,
        _divergence(whole),
        tuple(parts),
        ratio(total, sums[:, 0]),
        ratio(total, sums[:, 1]),
        steps is None and layers is None,
    )


def _divergence(run: Run) -> Estimate:
    assert run.metrics is not None
    return run.metrics.estimate("kl")


def _sums(run: Run) -> NDArray[np.float64]:
    """Positions and divergences of the clusters of a run, of shape (clusters, 2)."""
    assert run.metrics is not None
    return np.array([part[:2] for part in run.metrics.sums], np.float64)
