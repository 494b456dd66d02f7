"""Machines in TOML files, and machines by name.

A file has a table for each step that is not as in its preset, which is fp32 by default::

    name = "narrow scores on Hopper"
    preset = "hopper-fp8"
    weights = "bfloat16"

    [scores]
    accumulator = "e8m4"

    [mlp_up]
    unit = "hopper.wgmma.e5m2"
    operands = "float8_e5m2"
    rounding = {mode = "rne", overflow = "saturate"}

The tables ``[products]``, ``[functions]`` and ``[sums]`` apply to all steps of a kind except
``recomputed``, and before the tables of single steps.  A table changes the fields that it names.  A
machine without a name is called after its preset and its :func:`lamp.machines.digest`.

``attention = "plain"``, the default, goes by rows; a table of the kind ``"tiled"`` has the fields
of :class:`lamp.Tiled`::

    [attention]
    kind = "tiled"
    rows = 128
    columns = 64
    parts = 4
    exponential = {output = "bfloat16", steps = "bfloat16"}

Several products that recompute, the lowest precision first, are a list of strings or tables::

    [[recomputed]]
    accumulator = "e8m10"

    [[recomputed]]
    accumulator = "float32"

Layers that compute otherwise have tables of their own, by their numbers: ``0``, ``0-2,5``, where
negative numbers count from the end.  Such a table has a preset, groups and steps as the file has,
and says how those layers differ from the rest of the machine, or from its preset.  The first and
last layers in bfloat16, the rest in 8 bits::

    preset = "hopper-fp8"
    [layers."0,-1"]
    preset = "bf16"

Scores of the first two layers with few bits, the last one's ``mlp_down`` as on bf16::

    [layers.0-1.scores]
    accumulator = "e8m4"
    [layers.-1.mlp_down]
    preset = "bf16"

The table of any step may name a preset whose step it begins with.

The order of the channels of scores is ``order = "ascending"``, which :func:`lamp.calibrated` finds,
or a list of layers, each a list of heads, each a text of channel numbers, ``"2 0 1"``, or a list.

An accumulator of one's own, a subclass of :class:`fpemu.Accumulator`, goes by its module and name,
``accumulator = {kind = "package.module:Class", format = "bfloat16"}``.  A file never has a module
imported: a program imports its own, and the commands import those that the environment variable
``LAMP_MODULES`` lists, separated by commas.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import numpy as np
import tomli_w

import fpemu
from fpemu import Accumulator, Format, Rounding, accumulators, devices
from fpemu.accumulators import ScaledCore
from fpemu.formats import operand_format
from fpemu.rounding import as_rounding
from fpemu.scaling import FORMATS, BlockFormat
from lamp._files import Document, writing
from lamp.machines.definitions import kind_name
from lamp.machines.descriptions import unit_names
from lamp.machines.layers import read_numbers, spelled
from lamp.machines.machine import LAYER_FIELDS, STEPS, Hardware, digest
from lamp.machines.orders import Order
from lamp.machines.presets import preset
from lamp.machines.steps import Function, Product, Sum, Tiled

__all__ = ["HardwareLike", "dumps", "hardware", "load", "loads", "save"]

HardwareLike = Hardware | str | os.PathLike[str]

_GROUPS: Final = {"products": Product, "functions": Function, "sums": Sum}
_KINDS: Final = {**accumulators.KINDS, "scaled_core": ScaledCore}
_PLAIN: Final = ("name", "preset", "weights")
_ATTENTIONS: Final = ("plain", "tiled")
_MODULES: Final = "LAMP_MODULES"
_TYPES: Final[dict[str, Any]] = {"str": str, "int": int, "bool": bool}  # of a format's fields
_HINTS: Final[dict[Any, tuple[type, ...]]] = {  # what a file may give for a user's field
    int: (int,),
    float: (int, float),
    bool: (bool,),
    str: (str,),
    Format: (str, Mapping),
    Rounding: (str, Mapping),
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


# --- by name --------------------------------------------------------------------------------------


def hardware(spec: HardwareLike) -> Hardware:
    """The machine with a name, or the machine in a file.

    Parameters
    ----------
    spec : Hardware, str or path-like
        A Hardware (returned as it is), or a name:

        - ``"fp64"``, ``"fp32"``: all steps in that format, with sequential sums.
        - ``"bf16"``, ``"fp16"``: every number between two steps in that format, sums in float32.
        - ``"ps{mu}"``: float32, but every product is summed with mu stored significand bits
          (0..23), the PS(mu) of the LAMP paper; ``"scores-ps{mu}"``: the scores alone, as there;
          ``"published-ps{mu}"``: the same with the double rounding of the authors' code, which
          adds in float32 and then rounds.
        - ``"fp8-e4m3"``, ``"mxfp8"``, ``"nvfp4"``: operands of the weights' products in 8 or 4
          bits, everything else in bfloat16, sums in float32.
        - a GPU, such as ``"hopper"`` or ``"hopper-fp8"``: products on its matrix units, see
          :func:`lamp.machines.names`.
        - a file that ends in ``.toml``, see :mod:`lamp.machines.files`.

    Returns
    -------
    Hardware

    Raises
    ------
    ValueError
        If the name is unknown; the message lists similar ones.  If a file describes no possible
        machine; the message names the line.
    FileNotFoundError
        If there is no such file.
    TypeError
        If `spec` is none of these.

    Examples
    --------
    >>> import lamp
    >>> str(lamp.hardware("scores-ps4").scores.accumulator)
    'sequential(e8m4, rne)'
    >>> lamp.hardware("hopper-fp8").mlp_up.operands.name
    'float8_e4m3fn'
    """
    if isinstance(spec, Hardware):
        return spec
    if isinstance(spec, os.PathLike) or (isinstance(spec, str) and spec.endswith(".toml")):
        return load(spec)
    if not isinstance(spec, str):
        raise TypeError(f"hardware must be a Hardware or a name, not {type(spec).__name__}")
    return preset(spec)


# --- reading --------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Hardware:
    """Read a machine from a TOML file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`lamp.hardware`.
    """
    return _read(Document.read(path, "hardware"))


def loads(text: str, source: str = "<string>") -> Hardware:
    r"""Read a machine from a string.

    Parameters
    ----------
    text : str
        TOML, as this module describes it.
    source : str
        What error messages call the text.

    Returns
    -------
    Hardware

    Raises
    ------
    ValueError
        As :func:`load`.

    Examples
    --------
    >>> from lamp.machines import files
    >>> machine = files.loads('preset = "hopper"\n[scores]\naccumulator = "e8m4"')
    >>> print(machine.scores.accumulator, machine.scores.output, machine.qkv.output)
    sequential(e8m4, rne) bfloat16 bfloat16
    """
    return _read(Document(text, source))


def _read(document: Document) -> Hardware:
    return _Reader(document, document.values).machine()


class _Reader:
    """Builds the machine that a document describes, or what its table for some layers says."""

    def __init__(self, document: Document, values: Mapping[str, Any], at: str = "") -> None:
        self._document, self._values, self._at = document, values, at

    def machine(self) -> Hardware:
        """The machine of a document."""
        values = self._values
        if not isinstance(values.get("name", ""), str):
            raise self._error(f"name must be a string, not {values['name']!r}", "name")
        known = [*_PLAIN, *_GROUPS, *STEPS, "attention", "layers"]
        self._document.check_names(values, known, "")
        base = self._preset(values.get("preset", "fp32"), "")
        machine = self._changed_machine(base, tuple(STEPS))
        if "layers" in values:
            machine = self._with_layers(machine, values["layers"])
        return replace(machine, name=self._name(machine, base))

    def _name(self, machine: Hardware, base: Hardware) -> str:
        """The given name, or one that no other machine has."""
        if "name" in self._values:
            return str(self._values["name"])
        own = digest(machine)
        return base.name if own == digest(base) else f"{base.name}-{own[:8]}"

    def _with_layers(self, machine: Hardware, tables: Any) -> Hardware:
        """A machine with the layers that tables describe, each as they change its own."""
        if not isinstance(tables, Mapping):
            raise self._error(f"layers must be tables by number, not {tables!r}", "layers")
        found: dict[int, dict[str, Any]] = {}
        for key, table in tables.items():
            at = f"layers.{key}"
            values = {"preset": table} if isinstance(table, str) else table
            if not isinstance(values, Mapping):
                message = f"[{at}] must be a table or the name of a machine, not {table!r}"
                raise self._document.error(message, at)
            try:
                numbers = read_numbers(key)
            except ValueError as error:
                raise self._document.error(error, at) from error
            reader = _Reader(self._document, values, at)
            for number in numbers:
                own = machine.machines.get(number, machine.machines[None])
                held = found.setdefault(number, {})
                for name, step in reader.changes(own).items():
                    if held.setdefault(name, step) != step:
                        message = f"layer {number} is given {name} twice"
                        raise self._document.error(message, at)
        return machine.with_layers(found, machine.name)

    def changes(self, own: Hardware) -> dict[str, Any]:
        """What the table says of a layer; of all that is in a layer if it has a preset."""
        values = self._values
        steps = tuple(name for name in LAYER_FIELDS if name in STEPS)
        self._document.check_names(values, ["preset", *_GROUPS, *LAYER_FIELDS], self._at)
        if "preset" not in values:
            machine = self._changed_machine(own, steps)
            return {name: getattr(machine, name) for name in LAYER_FIELDS if self._says(name)}
        base = self._preset(values["preset"], self._at)
        if base.layers:
            message = f"{base.name!r} differs by layer itself: expected a machine that does not"
            raise self._error(message, "preset")
        machine = self._changed_machine(base, steps)
        return {name: getattr(machine, name) for name in LAYER_FIELDS}

    # --- steps ------------------------------------------------------------------------------------

    def _error(self, message: object, key: str) -> ValueError:
        """An error about one of the values."""
        return self._document.error(message, self._at, key)

    def _table(self, name: str) -> str:
        """A table by its full name."""
        return f"{self._at}.{name}" if self._at else name

    def _preset(self, name: Any, table: str) -> Hardware:
        """A machine by its name; not another file, which might name this one."""
        try:
            if not isinstance(name, str):
                raise ValueError(f"preset must be a name, not {name!r}")
            return preset(name)
        except ValueError as error:
            raise self._document.error(error, table, "preset") from error

    def _says(self, name: str) -> bool:
        """Whether a step, or a group that it belongs to, has a table."""
        return any(table in self._values for table in (*_groups_of(name), name))

    def _changed_machine(self, base: Hardware, steps: tuple[str, ...]) -> Hardware:
        """A machine as the tables change it."""
        values = self._values
        names = [name for name in steps if self._says(name)]
        changed = {name: self._changed(getattr(base, name), name) for name in names}
        if "weights" in values:
            changed["weights"] = self._format(values["weights"], "weights")
        if "attention" in values:
            changed["attention"] = self._attention(base.attention, values["attention"])
        try:
            return replace(base, **changed)
        except (ValueError, TypeError) as error:
            # Hardware's messages begin with the step.
            table = self._table(str(error).split()[0].rstrip(":"))
            raise self._document.error(error, table) from error

    def _changed(self, step: Any, name: str) -> Any:
        """A step as the tables of its kind and its own table change it."""
        if isinstance(step, tuple):
            step = step[-1]  # of several products that recompute, the one of highest precision
        if name == "recomputed" and isinstance(self._values.get(name), list):
            return self._levels(step, self._values[name])
        for table in (*_groups_of(name), name):
            if table in self._values:
                step = self._step(step, name, self._values[table], self._table(table))
        return step

    def _levels(self, step: Any, tables: list[Any]) -> Any:
        """The products that recompute, each as its own table changes that of the preset."""
        outer = self._table("recomputed")
        if not tables:
            message = "recomputed must be a product or a list of them, not an empty list"
            raise self._error(message, "recomputed")
        # Tables within a list of one line have no lines of their own.
        own = self._document.has_table(f"{outer}[0]")
        names = (f"{outer}[{number}]" if own else outer for number in range(len(tables)))
        pairs = zip(tables, names, strict=True)
        return tuple(self._step(step, "recomputed", table, name) for table, name in pairs)

    def _step(self, step: Any, name: str, table: Any, at: str) -> Any:
        """A step as one table, of that full name, changes it."""
        kind = STEPS[name]
        if not isinstance(table, Mapping):
            table = {"accumulator" if kind is Product else "output": table}
        if "preset" in table:
            step = getattr(self._preset(table["preset"], at), name)
        values = self._fields(table, kind, at)
        if "accumulator" in values and step.operands == step.accumulator.input_formats[0]:
            values.setdefault("operands", None)  # those that the new accumulator takes
        try:
            return replace(step, **values)
        except (ValueError, TypeError) as error:
            keys = [key for key, given in table.items() if str(given) in str(error)]
            raise self._document.error(f"[{at}]: {error}", at, keys[0] if keys else "") from error

    def _fields(self, table: Mapping[str, Any], kind: Any, name: str) -> dict[str, Any]:
        """The fields of a step that a table gives."""
        known = [*(field.name for field in fields(kind)), "preset"]
        self._document.check_names(table, [*known, "unit"] if kind is Product else known, name)
        if "unit" in table and "accumulator" in table:
            message = "a unit is an accumulator: give one of the two"
            raise self._document.error(message, name, "unit")
        values = {}
        for key, given in table.items():
            if key == "preset":
                continue
            try:
                values["accumulator" if key == "unit" else key] = _field(key, given)
            except (ValueError, TypeError) as error:
                raise self._document.error(f"{key} of [{name}]: {error}", name, key) from error
        return values

    def _attention(self, base: Tiled | None, given: Any) -> Tiled | None:
        """How attention goes through the keys, as a table or the name of a kind changes it."""
        table = dict(given) if isinstance(given, Mapping) else {"kind": given}
        at = self._table("attention")
        if "kind" in table:
            base = None
        kind = table.pop("kind", "tiled" if base is not None else None)
        if kind not in _ATTENTIONS:
            message = f"attention needs a kind, {' or '.join(map(repr, _ATTENTIONS))}, not {kind!r}"
            raise self._document.error(message, at, "kind")
        known = [field.name for field in fields(Tiled)] if kind == "tiled" else []
        self._document.check_names(table, known, at)
        if kind == "plain":
            return None
        base, changed = base or Tiled(), {}
        for key, value in table.items():
            try:
                changed[key] = _field_of_attention(getattr(base, key), key, value)
            except (ValueError, TypeError) as error:
                raise self._document.error(f"{key} of [{at}]: {error}", at, key) from error
        try:
            return replace(base, **changed)
        except (ValueError, TypeError) as error:
            # The messages of Tiled begin with the field.
            key = str(error).split()[0].rstrip(":")
            raise self._document.error(f"[{at}]: {error}", at, key) from error

    def _format(self, given: Any, key: str) -> Any:
        try:
            return _as_format(given)
        except (ValueError, TypeError) as error:
            raise self._error(error, key) from error


def _groups_of(name: str) -> list[str]:
    """The groups of steps that a step belongs to."""
    kind = None if name == "recomputed" else STEPS.get(name)
    return [group for group, of in _GROUPS.items() if of is kind]


def _field(key: str, given: Any) -> Any:
    """The value of a step's field, as a file gives it."""
    if key == "unit":
        return devices.get(given)
    if key == "accumulator":
        return _accumulator(given)
    if key == "rounding":
        return _rounding(given)
    if key == "order" and not isinstance(given, str):
        return _order(given)
    if key in ("operands", "output", "steps") and isinstance(given, Mapping):
        return _as_format(given)
    return given


def _field_of_attention(before: Any, key: str, given: Any) -> Any:
    """A field of attention by tiles; a table changes the fields of a function that it names."""
    if key == "running_sum":
        return _accumulator(given)
    if key not in ("exponential", "rescaling", "running_maximum"):
        return given
    if not isinstance(given, Mapping) or "precision" in given:  # a format, by its name or its facts
        given = {"output": given}
    known = [field.name for field in fields(Function)]
    for name in given:
        if name not in known:
            raise ValueError(f"unknown key {name!r}: expected {', '.join(known)}")
    return replace(before or Function(), **{name: _field(name, x) for name, x in given.items()})


def _order(given: Any) -> Order:
    """An order of channels from a list of layers, each a list of heads."""
    layers = given if isinstance(given, list) else [given]
    for layer in layers:
        if not isinstance(layer, list):
            raise ValueError(f"an order holds a list of heads for each layer, not {layer!r}")
    return Order([[_channels(head) for head in layer] for layer in layers])  # type: ignore[arg-type]


def _channels(head: Any) -> Any:
    """The numbers of a head's channels, which a file has as a text, for brevity, or as a list."""
    if not isinstance(head, str):
        return head
    words = head.split()
    wrong = [word for word in words if not (word.isascii() and word.isdecimal()) or len(word) > 9]
    if wrong:
        raise ValueError(f"channels must be numbers separated by blanks, unlike {wrong[0]!r}")
    return [int(word) for word in words]


def _accumulator(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    if "unit" in given:
        return devices.get(given["unit"])
    values = dict(given)
    name = values.pop("kind", None)
    kind: Any = _KINDS.get(name) or _own_kind(name)
    known = inspect.signature(kind).parameters
    types = {} if name in _KINDS else get_type_hints(kind)
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"unknown key {key!r} of {name}: expected {', '.join(known)}")
        values[key] = _parameter(key, value, types.get(key))
    return kind(**values)


def _own_kind(name: Any) -> type[Accumulator]:
    """The user's class of a name such as ``package.module:Class``, which has been imported."""
    module, colon, _ = str(name).partition(":")
    if not colon:
        raise ValueError(
            f"unknown kind {name!r}: expected {', '.join(_KINDS)}, or package.module:Class"
        )
    if module in map(str.strip, os.environ.get(_MODULES, "").split(",")):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a user's module does
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{module} of {_MODULES} cannot be imported: {reason}") from error
    for kind in _subclasses(Accumulator):
        if kind_name(kind) == name:
            return kind
    raise ValueError(
        f"no accumulator {name!r}: import {module} first, or list it in the environment variable "
        f"{_MODULES}"
    )


def _subclasses(kind: type[Accumulator]) -> Iterator[type[Accumulator]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _parameter(key: str, value: Any, hint: Any = None) -> Any:
    """The value of an accumulator's parameter, as a file gives it; `hint` is a user's field's."""
    hinted = (hint, *get_args(hint))
    for kind, taken in _HINTS.items():
        if hint is kind and (
            not isinstance(value, taken) or isinstance(value, bool) != (kind is bool)
        ):
            raise ValueError(f"{key} must be of type {kind.__name__}, not {value!r}")
    if Format in hinted and isinstance(value, (str, Mapping)):
        return _as_format(value)
    if Rounding in hinted and isinstance(value, (str, Mapping)):
        return as_rounding(_rounding(value))
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


def _as_format(given: Any) -> Any:
    """A named format, or a format or block format by its facts."""
    if not isinstance(given, Mapping):
        return fpemu.format(given)
    kind = BlockFormat if "element" in given else Format
    types = {field.name: _TYPES.get(str(field.type)) for field in fields(kind)}
    for key, value in given.items():
        if key not in types:
            raise ValueError(f"unknown key {key!r} of a format: expected {', '.join(types)}")
        expected = types[key]
        if expected is not None and type(value) is not expected:
            raise ValueError(f"{key} of a format must be {expected.__name__}, not {value!r}")
    if kind is Format:
        return Format(**given)
    held = {key: _as_format(given[key]) for key in ("element", "scale") if key in given}
    return BlockFormat(**{**given, **held})


# --- writing --------------------------------------------------------------------------------------


def save(machine: Hardware, path: str | os.PathLike[str]) -> None:
    """Write a machine to a TOML file, every step in full; whole or not at all.

    Parameters
    ----------
    machine : Hardware
    path : str or path-like
        The file, which is replaced if it exists; its folder must exist.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    IsADirectoryError
        If `path` is a folder.
    """
    writing.write(Path(path), dumps(machine).encode())


def dumps(machine: Hardware) -> str:
    """A machine as TOML, every step in full.

    Parameters
    ----------
    machine : Hardware

    Returns
    -------
    str
        :func:`loads` makes an equal machine of it.
    """
    held = {"name": machine.name, "weights": _written(machine.weights)}
    held |= {name: _written_step(getattr(machine, name)) for name in STEPS}
    if machine.attention is not None:
        held["attention"] = _written_attention(machine.attention)
    if machine.layers:
        held["layers"] = {
            spelled(numbers): {name: _written_of_layer(name, step) for name, step in steps}
            for numbers, steps in machine.layers_alike()
        }
    return tomli_w.dumps(held)


def _written_attention(attention: Tiled | None) -> Any:
    if attention is None:
        return "plain"
    return {"kind": "tiled", **_table(_fields_of(attention))}


def _written_of_layer(name: str, step: Any) -> Any:
    """A field of a layer; steps in full, whatever those of the rest are."""
    if name == "weights":
        return _written(step)
    if name == "attention":
        return _written_attention(step)
    several = step if isinstance(step, tuple) else (step,)
    full = [{"preset": "fp32", **_written_step(each)} for each in several]
    return full if isinstance(step, tuple) else full[0]


def _written_step(step: Any) -> Any:
    if isinstance(step, tuple):
        return [_written_step(each) for each in step]
    held = {field.name: getattr(step, field.name) for field in fields(step)}
    for name in ("scale", "block"):  # of interest to few steps
        if name in held and held[name] == getattr(Product, name):
            del held[name]
    if names := unit_names(held.get("accumulator")):
        held = {"unit": names[0], **held}
        del held["accumulator"]
    return _table(held)


def _table(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _written(value) for key, value in values.items() if value is not None}


def _written(value: Any) -> Any:
    """A value as what TOML has: numbers, text, lists and tables."""
    if isinstance(value, tuple):
        return [_written(each) for each in value]
    if isinstance(value, (Format, BlockFormat)):
        return value.name if _is_named(value) else _table(_fields_of(value))
    if isinstance(value, Order):
        return [[" ".join(map(str, head)) for head in layer] for layer in value.permutations]
    if isinstance(value, Rounding):
        plain = (value.overflow, value.random_bits, value.seed) == ("ieee", None, None)
        return value.mode if plain else _table(_fields_of(value))
    if isinstance(value, (Accumulator, ScaledCore)):
        return _written_accumulator(value)
    if isinstance(value, Function):
        return _table(_fields_of(value))
    return value.item() if isinstance(value, np.generic) else value


def _is_named(format: Format | BlockFormat) -> bool:
    try:
        named: Any = FORMATS.get(format.name) or operand_format(format.name)
    except ValueError:
        return False
    return bool(named == format)


def _fields_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _written_accumulator(accumulator: Accumulator | ScaledCore) -> Any:
    if accumulator == accumulators.Sequential(accumulator.format) and _is_named(accumulator.format):
        return accumulator.format.name
    if names := unit_names(accumulator):
        return {"unit": names[0]}
    kind = type(accumulator)
    values = {name: getattr(accumulator, name) for name in inspect.signature(kind).parameters}
    if kind is accumulators.TensorCore:  # whose overflow is fixed
        values["rounding"] = replace(values["rounding"], overflow="ieee")
    return _table({"kind": _NAMES.get(kind) or kind_name(kind), **values})


Hardware.load = staticmethod(load)
Hardware.save = save
Hardware._named = staticmethod(hardware)
