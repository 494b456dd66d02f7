"""What differs between machines, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from lamp.machines.descriptions import parts
from lamp.machines.layers import in_words, place, spelled
from lamp.machines.machine import LAYER_FIELDS, STEPS, Hardware
from lamp.machines.steps import Function, Product, Sum

__all__ = ["Difference", "differences"]

_LONGEST_LABEL: Final = 32
_MOST_MISSING: Final = 1  # steps that a group may lack and still be called by its name


def _steps(*kinds: type) -> tuple[str, ...]:
    return tuple(name for name, kind in STEPS.items() if kind in kinds and name != "recomputed")


_GROUPS: Final = {
    _steps(Product, Function, Sum): "every step",
    _steps(Product): "every product",
    _steps(Function): "every function",
    _steps(Sum): "every sum",
    ("qkv", "attention_output", "mlp_up", "mlp_down", "lm_head"): "products of weights",
}


@dataclass(frozen=True)
class Difference:
    """One part of a step in which machines differ.

    Parameters
    ----------
    steps : tuple of str
        The steps that differ in this way.
    what : str
        The part that differs: operands, sums, result, ...
    values : tuple of str
        The part on each machine, in words.
    layers : str
        The layers that differ in this way, as :meth:`lamp.Hardware.with_layers` reads them; empty
        for all that are not named elsewhere.
    """

    steps: tuple[str, ...]
    what: str
    values: tuple[str, ...]
    layers: str = ""

    def labels(self) -> tuple[str, ...]:
        """The steps for a table: by the name of their group if they have one."""
        usual = [name for name in self.steps if name != "recomputed"]
        label = _name_of_group(usual) or ", ".join(usual)
        together = usual and len(label) <= _LONGEST_LABEL
        labels = (*([label] if together else usual), *self.steps[len(usual) :])
        if not self.layers:
            return labels
        return tuple(f"{in_words(self.layers)}: {each}" for each in labels)


def _name_of_group(steps: Sequence[str]) -> str | None:
    """The name of the group that these steps form, at most one of its steps missing."""
    for group, name in _GROUPS.items():
        missing = [step for step in group if step not in steps]
        if len(missing) <= _MOST_MISSING and len(missing) + len(steps) == len(group):
            return name + (f" but {' and '.join(missing)}" if missing else "")
    return None


def differences(machines: Sequence[Hardware], *, recomputed: bool = True) -> list[Difference]:
    """What differs between machines.  Steps that differ in the same way share an entry.

    Parameters
    ----------
    machines : sequence of Hardware
        The machines.
    recomputed : bool
        Whether to compare the step `recomputed`, which matters with look-ahead alone.

    Returns
    -------
    list of Difference
        In the order of the steps; empty if the machines give equal results.

    Examples
    --------
    >>> import lamp
    >>> from lamp.machines import differences
    >>> for found in differences([lamp.hardware("fp32"), lamp.hardware("scores-ps4")]):
    ...     print(found.steps, found.what, found.values)
    ('scores',) sums ('sequential(float32, rne)', 'sequential(e8m4, rne)')
    ('scores',) result ('float32', 'e8m4')
    """
    skipped = () if recomputed else ("recomputed",)
    rest = [machine.machines[None] for machine in machines]
    names = [name for name in ("weights", *STEPS, "attention") if name not in skipped]
    found = {name: dict(_differing(rest, name)) for name in names}
    groups: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for name, parts_ in found.items():
        for what, values in parts_.items():
            groups.setdefault((what, values, ""), []).append(name)
    for (name, what, values), numbers in _of_layers(machines, found).items():
        groups.setdefault((what, values, spelled(numbers)), []).append(name)
    return [Difference(tuple(steps), *key) for key, steps in groups.items()]


def _of_layers(
    machines: Sequence[Hardware], rest: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> dict[tuple[str, str, tuple[str, ...]], list[int]]:
    """The layers that do not differ as the rest does, by step, part and each machine's."""
    found: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
    numbers = {number for machine in machines for number, _ in machine.layers}
    for number in sorted(numbers, key=place):
        here = [machine.machines.get(number, machine.machines[None]) for machine in machines]
        for name in LAYER_FIELDS:
            if name not in rest:
                continue
            differing = dict(_differing(here, name))
            for what in {**rest[name], **differing}:
                values = differing.get(what) or _alike(here, name, what)
                if values != rest[name].get(what):
                    found.setdefault((name, what, values), []).append(number)
    return found


def _alike(machines: Sequence[Hardware], name: str, what: str) -> tuple[str, ...]:
    """A part of a step that all machines have alike in a layer, but not elsewhere."""
    step = getattr(machines[0], name)
    held = dict(parts(step, machines[0].name))
    return (held.get(what) or dict(_leaves(step)).get(what, "-"),) * len(machines)


def _differing(machines: Sequence[Hardware], name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The parts of a step in which machines differ, and each machine's."""
    steps = [getattr(machine, name) for machine in machines]
    if any(isinstance(step, tuple) for step in steps):
        steps = [machine.levels for machine in machines]  # one product beside several
    if all(step == steps[0] for step in steps):
        return
    in_words = [dict(parts(step, each.name)) for step, each in zip(steps, machines, strict=True)]
    # The words leave out some fields, such as the seed of a unit.
    yield from list(_unequal(in_words)) or _unequal([dict(_leaves(step)) for step in steps])


def _unequal(described: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The entries in which descriptions are not all equal."""
    for what in dict.fromkeys(name for each in described for name in each):
        values = tuple(each.get(what, "-") for each in described)
        if len(set(values)) > 1:
            yield what, values


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """All fields of a step, nested ones by their path."""
    if not is_dataclass(value):
        yield path, str(value)
        return
    for each in fields(value):
        yield from _leaves(getattr(value, each.name), f"{path}.{each.name}".strip("."))
