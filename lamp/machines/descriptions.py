"""Machines in words: for tables, and for what differs between machines."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from fpemu import Format, Rounding, Sequential, devices
from fpemu.scaling import BlockFormat
from lamp.machines.machine import Hardware
from lamp.machines.steps import OVERFLOWS, Function, Product, Tiled

__all__ = ["parts", "summary", "unit_names"]


def unit_names(accumulator: Any) -> list[str]:
    """The names that :mod:`fpemu.devices` has for an accumulator.

    Parameters
    ----------
    accumulator : Accumulator or ScaledCore

    Returns
    -------
    list of str
        Empty for a sequential sum, which is not specific to a unit.
    """
    # An accumulator of a user's, which need not be hashable, is of no kind that units have.
    alike = _units().get(type(accumulator))
    return [] if alike is None else [*alike.get(accumulator, ())]


@cache
def _units() -> dict[type, dict[Any, list[str]]]:
    """The names of units by their accumulators, which are grouped by kind."""
    found: dict[type, dict[Any, list[str]]] = {}
    for device in devices.entries():
        if not isinstance(device.accumulator, Sequential):
            kind = found.setdefault(type(device.accumulator), {})
            kind.setdefault(device.accumulator, []).append(device.name)
    return found


def summary(machine: Hardware, step: str) -> str:
    """Operands and sums of a product in a few words.

    Parameters
    ----------
    machine : Hardware
    step : str
        The name of one of its products.

    Returns
    -------
    str
    """
    product = getattr(machine, step)
    names = unit_names(product.accumulator)
    # Several machines may have the same unit.
    own = [name for name in names if machine.name.startswith(name.split(".")[0])]
    sums = [*own, *names, f"{product.accumulator.format} sums"][0]
    return sums if product.operands is None else f"{product.operands}{product.scales}, {sums}"


def parts(step: Any, machine: str) -> Iterator[tuple[str, str]]:
    """The parts of a step and how it computes each, in words.

    Parameters
    ----------
    step : Product, Function, Sum, Tiled, Format, tuple of Product or None
        A step, how attention goes through the keys, the format of stored weights, or the products
        that recompute, if they are several.
    machine : str
        The name of the machine, which chooses among units that compute alike.

    Yields
    ------
    tuple of (str, str)
    """
    if isinstance(step, Format):
        yield "stored in", str(step)
        return
    if step is None or isinstance(step, Tiled):
        yield from _attention(step)
        return
    if isinstance(step, tuple):
        yield from ((f"product {level}", str(each)) for level, each in enumerate(step, 1))
        return
    if isinstance(step, Product):
        yield "operands", "as they are" if step.operands is None else str(step.operands)
        yield "scaling", _scaling(step)
        yield "sums", _sums(step.accumulator, machine)
        if step.order is not None:
            yield "channels", str(step.order)
    elif isinstance(step, Function):
        yield "inside", "float64" if step.steps is None else f"{step.steps}, every step"
    yield "result", str(step.output)
    yield "rounding", _rounding(step.rounding)


def _attention(step: Tiled | None) -> Iterator[tuple[str, str]]:
    """The parts of attention by tiles; that by rows has none."""
    if step is None:
        yield "goes by", "rows"
        return
    yield "goes by", f"tiles of {step.rows} x {step.columns}"
    yield "parts of a tile", str(step.parts)
    maximum = step.running_maximum
    rounded = "exact" if maximum is None else f"{maximum.output}, {_rounding(maximum.rounding)}"
    yield "running maximum", rounded
    yield "exponential", str(step.exponential)
    yield "rescaling", str(step.rescaling)
    yield "running sum", str(step.running_sum)
    yield "division", step.division


def _scaling(step: Product) -> str:
    if isinstance(step.operands, BlockFormat) and step.scale != 1.0:
        return f"all over {step.scale:g}"
    return step.scales.removeprefix(" scaled").strip() or "none"


def _rounding(rounding: Rounding) -> str:
    bits = "" if rounding.random_bits is None else f", {rounding.random_bits} random bits"
    seed = "" if rounding.seed is None else f", seed {rounding.seed}"
    return f"{rounding.mode}{OVERFLOWS[rounding.overflow]}{bits}{seed}"


def _sums(accumulator: Any, machine: str) -> str:
    """The unit whose name shares most words with the machine's; without one, the accumulator."""
    words = machine.split("-")
    alike = sorted(unit_names(accumulator), key=lambda name: -sum(word in name for word in words))
    return [*alike, str(accumulator)][0]
