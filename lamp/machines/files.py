"""Machines in TOML files.

A file has a table for each step that is not as in its preset (fp32 if it names none)::

    name = "narrow scores on Hopper"
    preset = "hopper-fp8"
    weights = "bfloat16"

    [scores]
    accumulator = "e8m4"

    [mlp_up]
    unit = "hopper.wgmma.e5m2"
    operands = "float8_e5m2"
    rounding = {mode = "rne", overflow = "saturate"}

The tables ``[products]``, ``[functions]`` and ``[sums]`` are for all steps of a kind but
``recomputed``; those of single steps come after them.  A table changes the fields that it names.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import fpemu
from fpemu import Accumulator, Format, Rounding, accumulators, devices
from fpemu.accumulators import ScaledCore
from fpemu.scaling import BlockFormat
from lamp._files import Document
from lamp.machines.machine import STEPS, Function, Hardware, Product, Sum

__all__ = ["dumps", "load", "loads", "save", "unit_names"]

_GROUPS: Final = {"products": Product, "functions": Function, "sums": Sum}
_KINDS: Final = {
    "sequential": accumulators.Sequential,
    "blocked": accumulators.Blocked,
    "pairwise": accumulators.Pairwise,
    "exact": accumulators.Exact,
    "tensor_core": accumulators.TensorCore,
    "floored_core": accumulators.FlooredCore,
    "scaled_core": ScaledCore,
    "promoted": accumulators.Promoted,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


# --- reading --------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Hardware:
    """The machine in a file.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Hardware

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not TOML or says something impossible; the message names the line.
    """
    return _Reader(Document.read(path, "hardware")).machine()


def loads(text: str, source: str = "<string>") -> Hardware:
    r"""The machine in a text.

    Parameters
    ----------
    text : str
        TOML, as this module describes it.
    source : str
        What messages call it.

    Returns
    -------
    Hardware

    Raises
    ------
    ValueError
        As :func:`load`.

    Examples
    --------
    >>> from lamp import machine_files
    >>> machine = machine_files.loads('preset = "hopper"\n[scores]\naccumulator = "e8m4"')
    >>> print(machine.scores.accumulator, machine.scores.output, machine.qkv.output)
    sequential(e8m4, rne) bfloat16 bfloat16
    """
    return _Reader(Document(text, source)).machine()


class _Reader:
    """Turns a document into a machine."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def machine(self) -> Hardware:
        """The machine in the document."""
        document = self._document.values
        known = ["name", "preset", "weights", *_GROUPS, *STEPS]
        self._document.check_names(document, known, "")
        base = self._base(document.get("preset", "fp32"))
        changed: dict[str, Any] = {"name": str(document.get("name", base.name))}
        if "weights" in document:
            changed["weights"] = self._format(document["weights"], "weights")
        for name, kind in STEPS.items():
            step = getattr(base, name)
            groups = [group for group, of in _GROUPS.items() if of is kind]
            for table in (*(groups if name != "recomputed" else ()), name):
                if table in document:
                    step = self._step(step, kind, document[table], table)
            changed[name] = step
        try:
            return replace(base, **changed)
        except (ValueError, TypeError) as error:
            raise self._document.error(error, str(error).split()[0]) from error

    def _base(self, name: Any) -> Hardware:
        from lamp.machines.named import hardware

        try:
            return hardware(name)
        except (ValueError, TypeError, OSError) as error:
            raise self._document.error(error, "", "preset") from error

    def _step(self, step: Any, kind: Any, table: Any, name: str) -> Any:
        if not isinstance(table, Mapping):
            table = {"accumulator" if kind is Product else "output": table}
        names = [field.name for field in fields(kind)]
        self._document.check_names(table, [*names, "unit"] if kind is Product else names, name)
        if "unit" in table and "accumulator" in table:
            raise self._document.error(
                "a unit is an accumulator: give one of the two", name, "unit"
            )
        values = {}
        for key, given in table.items():
            try:
                values["accumulator" if key == "unit" else key] = _field(key, given)
            except (ValueError, TypeError) as error:
                raise self._document.error(f"{key} of [{name}]: {error}", name, key) from error
        if "accumulator" in values and step.operands == step.accumulator.input_formats[0]:
            values.setdefault("operands", None)  # what the new accumulator takes
        try:
            return replace(step, **values)
        except (ValueError, TypeError) as error:
            keys = [key for key, given in table.items() if str(given) in str(error)]
            raise self._document.error(
                f"[{name}]: {error}", name, keys[0] if keys else ""
            ) from error

    def _format(self, given: Any, key: str) -> Format:
        try:
            return _as_format(given)
        except (ValueError, TypeError) as error:
            raise self._document.error(error, "", key) from error


def _field(key: str, given: Any) -> Any:
    """The value that a key of a step has in a file."""
    if key == "unit":
        return devices.get(given)
    if key == "accumulator":
        return _accumulator(given)
    if key == "rounding":
        return _rounding(given)
    if key in ("operands", "output", "steps") and isinstance(given, Mapping):
        return _as_format(given)
    return given


def _accumulator(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    if "unit" in given:
        return devices.get(given["unit"])
    values = dict(given)
    name = values.pop("kind", None)
    if name not in _KINDS:
        raise ValueError(f"unknown kind {name!r}: expected {', '.join(_KINDS)}")
    kind: Any = _KINDS[name]
    known = inspect.signature(kind).parameters
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"unknown key {key!r} of {name}: expected {', '.join(known)}")
        values[key] = _parameter(key, value)
    return kind(**values)


def _parameter(key: str, value: Any) -> Any:
    """A parameter of an accumulator."""
    if key in ("rounding", "convert"):
        return _rounding(value)
    if isinstance(value, list):
        return tuple(_parameter(key, each) for each in value)
    if isinstance(value, Mapping):
        nested = "kind" in value or "unit" in value
        return _accumulator(value) if nested else _as_format(value)
    return fpemu.format(value) if key == "scale" else value


def _rounding(given: Any) -> Any:
    if isinstance(given, Mapping):
        try:
            return Rounding(**given)
        except TypeError as error:
            raise ValueError(
                f"a rounding has a mode, overflow, random_bits, seed: {error}"
            ) from None
    return given


def _as_format(given: Any) -> Format:
    return Format(**given) if isinstance(given, Mapping) else fpemu.format(given)


# --- writing --------------------------------------------------------------------------------------


def save(machine: Hardware, path: str | os.PathLike[str]) -> None:
    """Write a machine to a file, every step in full; whole or not at all.

    Parameters
    ----------
    machine : Hardware
    path : str or path-like
        The file; its folder must exist.
    """
    file = Path(path)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(dumps(machine), encoding="utf-8")
    os.replace(partial, file)


def dumps(machine: Hardware) -> str:
    """A machine as TOML, every step in full.

    Parameters
    ----------
    machine : Hardware

    Returns
    -------
    str
        What :func:`loads` makes an equal machine of.
    """
    lines = [f"name = {_text(machine.name)}", f"weights = {_value(machine.weights)}"]
    for name in STEPS:
        step = getattr(machine, name)
        lines += ["", f"[{name}]"]
        for field in fields(step):
            value = getattr(step, field.name)
            if value is None or (field.name in ("scale", "block") and value == field.default):
                continue
            units = unit_names(value) if field.name == "accumulator" else []
            key = "unit" if units else field.name
            lines.append(f"{key} = {_text(units[0]) if units else _value(value)}")
    return "\n".join(lines) + "\n"


def unit_names(accumulator: Any) -> list[str]:
    """The names of a unit in :mod:`fpemu.devices`; none of a plain sum, term after term."""
    if isinstance(accumulator, accumulators.Sequential):
        return []
    return [device.name for device in devices.entries() if device.accumulator == accumulator]


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'


def _value(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_value(each) for each in value)}]"
    if isinstance(value, BlockFormat):
        return _text(value.name)
    if isinstance(value, Format):
        return _text(value.name) if _is_named(value) else _table(_format_fields(value))
    if isinstance(value, Rounding):
        return _rounding_value(value)
    return _accumulator_value(value)


def _is_named(format: Format) -> bool:
    try:
        return fpemu.format(format.name) == format
    except ValueError:
        return False


def _format_fields(format: Format) -> dict[str, Any]:
    return {field.name: getattr(format, field.name) for field in fields(format)}


def _rounding_value(rounding: Rounding) -> str:
    # Units alone have the overflow "infinity", of which their mode says enough.
    if rounding in (Rounding(rounding.mode), Rounding(rounding.mode, "infinity")):
        return _text(rounding.mode)
    return _table({field.name: getattr(rounding, field.name) for field in fields(rounding)})


def _accumulator_value(accumulator: Accumulator | ScaledCore) -> str:
    if accumulator == accumulators.Sequential(accumulator.format) and _is_named(accumulator.format):
        return _text(accumulator.format.name)
    if names := unit_names(accumulator):
        return _table({"unit": names[0]})
    parameters = inspect.signature(type(accumulator)).parameters
    values = {name: getattr(accumulator, name) for name in parameters}
    return _table({"kind": _NAMES[type(accumulator)], **values})


def _table(values: Mapping[str, Any]) -> str:
    pairs = (f"{key} = {_value(value)}" for key, value in values.items() if value is not None)
    return "{" + ", ".join(pairs) + "}"
