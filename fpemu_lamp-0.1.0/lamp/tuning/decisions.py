"""What is decided in tuning: the arithmetic of a step in a group of layers, one of several options.

An assignment has the number of an option for each decision, or None, which leaves the step as it is
in the machine that all else has while one choice is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from lamp.evaluation import Setting
from lamp.lookahead import LAMP
from lamp.machines import Hardware, spelled

__all__ = ["OUTSIDE", "PLACES", "Assignment", "Decision", "Option", "assembled", "joined"]

Assignment = tuple[int | None, ...]

OUTSIDE: Final = ("embedding", "lm_head")
"""The steps that are in no layer."""

PLACES: Final = {"softmax": "scores", "activation": "mlp_up", "logits": "lm_head"}
"""The step that look-ahead recomputes, for each place that has one."""


@dataclass(frozen=True)
class Option:
    """A way to compute a step.

    Parameters
    ----------
    label : str
        What it is called: the name of a machine and its rule.
    step : Product, Function or Sum
        The step.
    rules : tuple of LAMP
        The rule of look-ahead, or none.
    """

    label: str
    step: Any
    rules: tuple[LAMP, ...] = ()


@dataclass(frozen=True)
class Decision:
    """A step in a group of layers, and the options for it.

    Parameters
    ----------
    step : str
        The name of the step.
    layers : tuple of int
        The layers; empty for a step that is in none.
    options : tuple of Option
    base : Product, Function or Sum
        The step as it is while another decision is measured.
    """

    step: str
    layers: tuple[int, ...]
    options: tuple[Option, ...]
    base: Any

    def __str__(self) -> str:
        return f"{self.step} {self.where}".strip()

    @property
    def where(self) -> str:
        """The layers in words, such as ``0-3``; empty for a step that is in none."""
        return spelled(self.layers)

    def option(self, choice: int | None) -> Option:
        """The option with a number; that of None is the step as it is."""
        return Option("", self.base) if choice is None else self.options[choice]


def assembled(
    base: Hardware, decisions: Sequence[Decision], assignment: Assignment, name: str
) -> Setting:
    """The machine of an assignment, and its rules.

    The norm behind the last layer is as that of the last layer.

    Parameters
    ----------
    base : Hardware
        The machine that all else is from.
    decisions : sequence of Decision
    assignment : tuple of (int or None)
        An option for each decision.
    name : str
        What the machine is called.

    Returns
    -------
    Setting
    """
    rest: dict[str, Any] = {}
    layers: dict[int, dict[str, Any]] = {}
    rules: list[tuple[LAMP, tuple[int, ...]]] = []
    last = max((layer for each in decisions for layer in each.layers), default=0)
    for decision, choice in zip(decisions, assignment, strict=True):
        option = decision.option(choice)
        rules += [(rule, decision.layers) for rule in option.rules]
        for layer in decision.layers:
            layers.setdefault(layer, {})[decision.step] = option.step
        if decision.step in OUTSIDE or (decision.step == "norm" and last in decision.layers):
            rest[decision.step] = option.step
    machine = replace(base, **rest)
    # Most layers that compute alike are those of the machine itself, so that it reads well.
    common = _most_common(layers.values())
    machine = replace(machine, **{step: each for step, each in common.items() if step not in rest})
    return Setting(machine.with_layers(layers, name), joined(rules, last + 1))


def joined(rules: Iterable[tuple[LAMP, Iterable[int]]], layers: int) -> tuple[LAMP, ...]:
    """Rules for some layers each as rules of a model.

    Parameters
    ----------
    rules : iterable of tuple of (LAMP, iterable of int)
        No layers stand for a rule outside of them.
    layers : int
        How many layers the model has: a rule for all of them has none of its own.

    Returns
    -------
    tuple of LAMP
    """
    found: dict[LAMP, set[int]] = {}
    for rule, own in rules:
        found.setdefault(replace(rule, layers=""), set()).update(own)
    return tuple(
        rule if len(own) in (0, layers) else replace(rule, layers=own)
        for rule, own in found.items()
    )


def _most_common(layers: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """For each step, how most layers compute it; the first of several such ways."""
    counts: dict[str, dict[Any, int]] = {}
    for steps in layers:
        for name, step in steps.items():
            of_step = counts.setdefault(name, {})
            of_step[step] = of_step.get(step, 0) + 1
    return {name: max(ways, key=ways.__getitem__) for name, ways in counts.items()}
