"""What differs between machines, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from fpemu import Format, Rounding
from fpemu.scaling import BlockFormat
from lamp.machines import files as machine_files
from lamp.machines.machine import STEPS, Function, Hardware, Product, Sum

__all__ = ["Difference", "differences"]

_WEIGHTS: Final = ("qkv", "attention_output", "mlp_up", "mlp_down", "lm_head")


def _steps(*kinds: type) -> tuple[str, ...]:
    return tuple(name for name, kind in STEPS.items() if kind in kinds and name != "recomputed")


_LONGEST_LABEL: Final = 32
_MOST_MISSING: Final = 1  # steps of a group that has its name all the same
_GROUPS: Final = {
    _steps(Product, Function, Sum): "every step",
    _steps(Product): "every product",
    _steps(Function): "every function",
    _steps(Sum): "every sum",
    _WEIGHTS: "products of weights",
}


@dataclass(frozen=True)
class Difference:
    """Something in which machines differ.

    Parameters
    ----------
    steps : tuple of str
        At which steps, all of them alike.
    what : str
        What it is: operands, sums, result, ...
    values : tuple of str
        What it is on each machine.
    """

    steps: tuple[str, ...]
    what: str
    values: tuple[str, ...]

    def labels(self) -> tuple[str, ...]:
        """The steps for a table: one name for a known group, all or most of which they are."""
        usual = [name for name in self.steps if name != "recomputed"]
        known = _of_group(usual) or ", ".join(usual)
        together = len(known) <= _LONGEST_LABEL
        return (*([known] if together else usual), *self.steps[len(usual) :])


def _of_group(steps: Sequence[str]) -> str | None:
    """The group that steps are, or that one is missing from."""
    for group, name in _GROUPS.items():
        missing = [step for step in group if step not in steps]
        if len(missing) <= _MOST_MISSING and len(missing) + len(steps) == len(group):
            return name + (f" but {' and '.join(missing)}" if missing else "")
    return None


def differences(machines: Sequence[Hardware], *, recomputed: bool = True) -> list[Difference]:
    """What differs between machines, step by step; steps that differ alike are together.

    Parameters
    ----------
    machines : sequence of Hardware
        The machines.
    recomputed : bool
        Whether look-ahead is on, so that the step of that name is of interest.

    Returns
    -------
    list of Difference
        In the order of the steps; empty if the machines compute alike.

    Examples
    --------
    >>> import lamp
    >>> from lamp.differences import differences
    >>> for found in differences([lamp.hardware("fp32"), lamp.hardware("scores-ps4")]):
    ...     print(found.steps, found.what, found.values)
    ('scores',) sums ('sequential(float32, rne)', 'sequential(e8m4, rne)')
    ('scores',) result ('float32', 'e8m4')
    """
    steps: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in ("weights", *STEPS):
        if name == "recomputed" and not recomputed:
            continue
        for what, values in _differing(machines, name):
            steps.setdefault((what, values), []).append(name)
    return [Difference(tuple(names), what, values) for (what, values), names in steps.items()]


def _differing(machines: Sequence[Hardware], name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The parts of a step in which machines differ."""
    steps = [getattr(machine, name) for machine in machines]
    if all(step == steps[0] for step in steps):
        return
    in_words = [dict(_parts(step, each.name)) for step, each in zip(steps, machines, strict=True)]
    # Words do not tell everything, such as seeds within a unit.
    yield from list(_unequal(in_words)) or _unequal([dict(_leaves(step)) for step in steps])


def _unequal(described: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The entries in which descriptions are not all equal."""
    for what in dict.fromkeys(name for each in described for name in each):
        values = tuple(each.get(what, "-") for each in described)
        if len(set(values)) > 1:
            yield what, values


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """All that a step is made of."""
    if not is_dataclass(value):
        yield path, str(value)
        return
    for each in fields(value):
        yield from _leaves(getattr(value, each.name), f"{path}.{each.name}".strip("."))


def _parts(step: Any, machine: str) -> Iterator[tuple[str, str]]:
    """A step in words, part by part."""
    if isinstance(step, Format):
        yield "stored in", str(step)
        return
    if isinstance(step, Product):
        yield "operands", "as they are" if step.operands is None else str(step.operands)
        yield "scaling", _scaling(step)
        yield "sums", _sums(step.accumulator, machine)
    elif isinstance(step, Function):
        yield "inside", "float64" if step.steps is None else f"{step.steps}, every step"
    yield "result", str(step.output)
    yield "rounding", _rounding(step.rounding)


def _scaling(step: Product) -> str:
    if isinstance(step.operands, BlockFormat) and step.scale != 1.0:
        return f"all over {step.scale:g}"
    return step.scales.removeprefix(" scaled").strip() or "none"


def _rounding(rounding: Rounding) -> str:
    saturated = ", saturated" if rounding.overflow == "saturate" else ""
    bits = "" if rounding.random_bits is None else f", {rounding.random_bits} random bits"
    seed = "" if rounding.seed is None else f", seed {rounding.seed}"
    return f"{rounding.mode}{saturated}{bits}{seed}"


def _sums(accumulator: Any, machine: str) -> str:
    """A unit by its name, that most like the machine's if several are alike; else in words."""
    words = machine.split("-")
    names = machine_files.unit_names(accumulator)
    alike = sorted(names, key=lambda name: -sum(word in name for word in words))
    return [*alike, str(accumulator)][0]
