"""What is tuned: a menu of ways to compute each step, what is allowed, and the texts.

A menu is a TOML file or a :class:`Menu`::

    name = "small"
    model = "embedded"
    allowed = {kl = 1e-3}
    groups = ["0-1", "2-3", "4-5"]

    [menu]
    products = ["fp32", "ps7", "ps4"]
    scores = ["fp32", "ps4", {machine = "ps4", lamp = "softmax:kl:1%"}]
    functions = ["fp32", "bf16"]
    mlp_up = ["fp32", "hopper-fp8", {accumulator = "e8m5", output = "bfloat16"}]

    [calibration]
    source = "twelfth-night"
    tokens = 2048
    length = 256

    [held_out]
    source = "macbeth"
    tokens = 2048
    length = 256

``menu``
    The options of each step, by its name, or of all ``products``, ``functions`` or ``sums`` that
    have none of their own.  An option is the name of a machine, whose step it is, or a table: the
    name of a ``machine`` or the fields of the step as in the file of a machine; a rule of ``lamp``
    for the place that the step belongs to; and a ``label``.  A step that no list is for stays as it
    is in ``base``.
``allowed``
    The largest divergence, ``kl``, or share of changed tokens, ``flips``: a number, or the name of
    a machine that has it on the same text.
``groups``
    The layers that are decided together: lists of them, a number of groups of equal size, or
    ``"layers"`` for each layer on its own.
``costs``
    ``"bits"`` or ``"accumulators"``, see :mod:`lamp.tuning.costs`, or a table with the cost of a
    multiply-add, or of an element, by the label of each option; a table of a step within it comes
    first.
``calibration``, ``held_out``
    The text that choices are made on, and another that the result is verified on: what
    :class:`lamp.evaluation.Source` has.
``base``, ``reference``
    What all else is computed in while one choice is measured, by default ``"fp32"``; and the
    machine that all are compared with, by default ``"fp64"``.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import tomli_w

from fpemu import format as named_format
from lamp._files import Document, blamed, where
from lamp.evaluation import Source
from lamp.lookahead import LAMP
from lamp.machines import STEPS, Function, Hardware, Product, Sum, files, hardware, read_numbers
from lamp.models import Shape
from lamp.tuning.costs import COSTS
from lamp.tuning.decisions import OUTSIDE, PLACES, Decision, Option

__all__ = ["METRICS", "TEXTS", "Menu"]

METRICS: Final = {"kl": "kl", "flips": "flip_rate"}
"""What may be allowed, and the metric that it is."""

TEXTS: Final = ("calibration", "held_out")
"""The texts: what choices are made on, and what they are verified on."""

_GROUPS: Final = {"products": Product, "functions": Function, "sums": Sum}
_DECIDED: Final = tuple(name for name in STEPS if name != "recomputed")
_EACH: Final = "layers"
_OF_OPTION: Final = ("machine", "lamp", "label")
_DEFAULT: Final[Mapping[str, Any]] = {"tokens": 2048, "length": 256}
_Place = tuple[str, ...]


@dataclass(frozen=True)
class Menu:
    """What is tuned: options for each step, what is allowed, and the texts.

    Parameters
    ----------
    name : str
        The name, which its runs have in a store.
    menu : mapping of str to sequence
        The options of each step or group of steps: names of machines, Hardware, tables, or steps.
    allowed : mapping of str to (float or str)
        ``{"kl": 1e-3}``, ``{"flips": 0.01}``, or the name of a machine in place of the number.
    model : str or path-like
        The model, as :func:`lamp.from_pretrained` takes it.
    groups : int, str or sequence
        The layers that are decided together.
    costs : str or mapping
        The measure of cost, or the costs by label.
    calibration, held_out : Source, str or mapping
        The texts.
    base, reference : Hardware, str or path-like
        What all else is computed in while one choice is measured, and what all are compared with.
    folder : path-like
        The folder in which files are looked for.
    document : Document, optional
        The file that the menu is from.

    Raises
    ------
    ValueError
        If a part is not what it should be; the message says which, and where in the file.

    Examples
    --------
    >>> from lamp.tuning import Menu
    >>> menu = Menu("scores", {"scores": ["fp32", "ps7", "ps4"]}, {"kl": 1e-4})
    >>> menu.metric, menu.limit
    ('kl', 0.0001)
    """

    name: str
    menu: Mapping[str, Sequence[Any]]
    allowed: Mapping[str, Any]
    model: str | os.PathLike[str] = "embedded"
    groups: Any = 3
    costs: Any = "bits"
    calibration: Any = field(default_factory=lambda: {"source": "twelfth-night"})
    held_out: Any = field(default_factory=lambda: {"source": "macbeth"})
    base: Any = "fp32"
    reference: Any = "fp64"
    folder: str | os.PathLike[str] = ""
    document: Document | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise self._error(f"name must be a string, not {self.name!r}", "", "name")
        if not isinstance(self.model, (str, os.PathLike)):
            raise self._error(f"model must be a name or a path, not {self.model!r}", "", "model")
        for text in TEXTS:
            with self.blamed(text):
                object.__setattr__(self, text, _source(getattr(self, text), self._folder))
        for name in ("base", "reference"):
            with self.blamed("", name):
                object.__setattr__(self, name, self._machine(getattr(self, name)))
        if self.base.layers:
            raise self._error("base must compute all layers alike", "", "base")
        self._check_allowed()
        self._check_costs()
        self._check_menu()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Menu:
        """Read a menu from a file.

        Parameters
        ----------
        path : str or path-like
            TOML, as this module describes it.

        Returns
        -------
        Menu

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        ValueError
            If it is not TOML or says something impossible; the message names the line.
        """
        document = Document.read(path, "study")
        values = dict(document.values)
        known = [each.name for each in fields(cls) if each.name not in ("folder", "document")]
        document.check_names(values, known, "")
        for name in ("name", "menu", "allowed"):
            if name not in values:
                raise ValueError(f"{document.source}: tuning needs {name}")
        return cls(**values, folder=Path(path).parent, document=document)

    # --- what it says -----------------------------------------------------------------------------

    @property
    def metric(self) -> str:
        """What is allowed: ``"kl"`` or ``"flips"``."""
        return next(iter(self.allowed))

    @property
    def limit(self) -> float | Hardware:
        """How much of it is allowed, or the machine that has as much."""
        given = self.allowed[self.metric]
        return given if isinstance(given, float) else self._machine(given)

    def decisions(self, shape: Shape) -> list[Decision]:
        """What is to be decided for a model.

        Parameters
        ----------
        shape : lamp.models.Shape
            The sizes of the model.

        Returns
        -------
        list of Decision
            By step, in the order of the machine's, and group of layers.

        Raises
        ------
        ValueError
            If the groups are not all layers of the model, each once.
        """
        groups = self._groups(shape.layers)
        found = []
        for step in _DECIDED:
            options = self._options(step)
            layers = ((),) if step in OUTSIDE else groups
            if options:
                base = getattr(self.base, step)
                found += [Decision(step, each, options, base) for each in layers]
        return found

    def record(self) -> dict[str, Any]:
        """Return what the menu says as plain data."""
        return {
            "name": self.name,
            "model": os.fspath(self.model),
            "menu": {
                key: [str(_label(each)) for each in given] for key, given in self.menu.items()
            },
            "allowed": {key: _plain(given) for key, given in self.allowed.items()},
            "groups": _plain(self.groups),
            "costs": _plain(self.costs),
            "base": self.base.name,
            "reference": self.reference.name,
            **{text: _fields_of(getattr(self, text)) for text in TEXTS},
        }

    def blamed(self, *place: str) -> AbstractContextManager[None]:
        """Raise errors from here on with the file and line of a place.

        Parameters
        ----------
        *place : str
            As :meth:`lamp._files.Document.line` takes it.
        """
        return blamed(self.document, *place)

    def _error(self, message: object, *place: str) -> ValueError:
        return ValueError(f"{where(self.document, *place)}{message}")

    # --- checks -----------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return Path(self.folder).absolute()  # workers may be elsewhere

    @property
    def place(self) -> str:
        """The model's name, or its path in the folder of the menu."""
        beside = self._folder / self.model
        is_file = os.fspath(self.model).endswith(".gguf")
        return os.fspath(beside if is_file or beside.is_dir() else self.model)

    def _machine(self, given: Any) -> Hardware:
        is_file = isinstance(given, os.PathLike) or str(given).endswith(".toml")
        if is_file and not isinstance(given, Hardware):
            given = self._folder / given
        return hardware(given)

    def _check_allowed(self) -> None:
        place = ("", "allowed")
        if not isinstance(self.allowed, Mapping) or len(self.allowed) != 1:
            raise self._error(
                f"allowed must be {{kl = ...}} or {{flips = ...}}, not {self.allowed!r}", *place
            )
        ((metric, given),) = self.allowed.items()
        if metric not in METRICS:
            raise self._error(
                f"allowed has {metric!r}: expected {' or '.join(METRICS)}", "allowed", metric
            )
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            if not 0 < given < math.inf:
                raise self._error(f"{metric} allowed must be positive, not {given}", *place)
            given = float(given)
        else:
            with self.blamed(*place):
                self._machine(given)
        object.__setattr__(self, "allowed", {metric: given})

    def _check_costs(self) -> None:
        if isinstance(self.costs, Mapping):
            for key, given in self.costs.items():
                of_step = given if isinstance(given, Mapping) else {key: given}
                for label, cost in of_step.items():
                    number = isinstance(cost, (int, float)) and not isinstance(cost, bool)
                    if not (number and 0 <= cost < math.inf):
                        message = f"the cost of {label} must be a number from 0, not {cost!r}"
                        raise self._error(message, "costs", key)
        elif self.costs not in COSTS:
            raise self._error(
                f"costs must be {' or '.join(map(repr, COSTS))} or a table, not {self.costs!r}",
                "",
                "costs",
            )

    def _check_menu(self) -> None:
        if not isinstance(self.menu, Mapping) or not self.menu:
            raise self._error("menu must be a table with the options of steps", "menu")
        if self.document is not None:
            self.document.check_names(self.menu, [*_GROUPS, *_DECIDED], "menu")
        for key, given in self.menu.items():
            if key not in (*_GROUPS, *_DECIDED):
                known = ", ".join((*_GROUPS, *_DECIDED))
                raise self._error(f"unknown step {key!r}: expected {known}", "menu", key)
            if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or not given:
                raise self._error(f"{key} of the menu must be a list of options", "menu", key)
        for step in _DECIDED:
            self._options(step)

    # --- options ----------------------------------------------------------------------------------

    def _options(self, step: str) -> tuple[Option, ...]:
        """The options of a step; none if no list is for it."""
        group = next(name for name, kind in _GROUPS.items() if STEPS[step] is kind)
        key = step if step in self.menu else group
        found: dict[str, Option] = {}
        for given in self.menu.get(key, ()):
            with self.blamed("menu", key, given if isinstance(given, str) else ""):
                option = self._option(given, step)
                if option.label in found:
                    raise ValueError(f"two options of {step} are called {option.label!r}")
                if isinstance(self.costs, Mapping):
                    self.cost(step, option)
            found[option.label] = option
        return tuple(found.values())

    def cost(self, step: str, option: Option) -> float:
        """The cost of a unit of work of an option, without what look-ahead adds.

        Parameters
        ----------
        step : str
        option : Option

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If there is a table of costs and it has none for the option.
        """
        if not isinstance(self.costs, Mapping):
            return COSTS[self.costs](option.step, named_format(self.base.carrier.name))
        own = self.costs.get(step)
        for table in (own if isinstance(own, Mapping) else {}, self.costs):
            if isinstance(table.get(option.label), (int, float)):
                return float(table[option.label])
        raise ValueError(f"costs has none for {option.label!r}, an option of {step}")

    def _option(self, given: Any, step: str) -> Option:
        if isinstance(given, STEPS[step]):
            return Option(str(given), given)
        if not isinstance(given, Mapping):
            machine = self._machine(given)
            return Option(machine.name, self._step_of(machine, step))
        rules = _rules(given["lamp"], step) if "lamp" in given else ()
        own = {key: value for key, value in given.items() if key not in _OF_OPTION}
        if "machine" in given:
            if own:
                raise ValueError(f"an option has a machine or fields of a step, not both: {given}")
            machine = self._machine(given["machine"])
            label, found = machine.name, self._step_of(machine, step)
        else:
            found = _read_step(step, own)
            label = ", ".join(f"{key} {value}" for key, value in own.items())
        label = given.get("label", "+".join([label, *map(str, rules)]))
        if not isinstance(label, str) or not label:
            raise ValueError(f"the label of an option must be a string, not {label!r}")
        return Option(label, found, rules)

    def _step_of(self, machine: Hardware, step: str) -> Any:
        if machine.layers:
            raise ValueError(f"{machine.name} differs by layer: no option is its {step}")
        return getattr(machine, step)

    def _groups(self, layers: int) -> tuple[tuple[int, ...], ...]:
        """The layers that are decided together."""
        given = self.groups
        with self.blamed("", "groups"):
            if given == _EACH:
                return tuple((layer,) for layer in range(layers))
            if isinstance(given, int) and not isinstance(given, bool):
                if not 1 <= given <= layers:
                    raise ValueError(f"groups must lie in 1..{layers}, not {given}")
                parts = np.array_split(np.arange(layers), given)
                return tuple(tuple(part.tolist()) for part in parts)
            if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
                raise ValueError(f"groups must be a number, {_EACH!r} or a list, not {given!r}")
            groups = [_numbers(each) for each in given]
            for layer in itertools.chain.from_iterable(groups):
                if not -layers <= layer < layers:
                    raise ValueError(f"layer {layer} is not in 0..{layers - 1}")
            found = tuple(tuple(sorted(n % layers for n in group)) for group in groups)
            if sorted(itertools.chain.from_iterable(found)) != list(range(layers)):
                raise ValueError(
                    f"groups must have each of the {layers} layers once, not {given!r}"
                )
            return found


def _read_step(step: str, fields: Mapping[str, Any]) -> Any:
    """A step from its fields, as the file of a machine has them."""
    source = "the option"
    try:
        return getattr(files.loads(tomli_w.dumps({step: fields}), source), step)
    except ValueError as error:
        raise ValueError(str(error).replace(f"{source}, line 1: ", "")) from error


def _numbers(given: Any) -> tuple[int, ...]:
    """The layers of a group."""
    if isinstance(given, str):
        return read_numbers(given)
    numbers = tuple(given) if isinstance(given, Sequence) else (given,)
    for number in numbers:
        if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
            raise ValueError(f"a group has numbers of layers, not {number!r}")
    return tuple(int(number) for number in numbers)


def _rules(given: Any, step: str) -> tuple[LAMP, ...]:
    """The rule of an option, which must belong to its step."""
    rule = given if isinstance(given, LAMP) else LAMP.parse(given)
    if PLACES.get(rule.on) != step:
        known = ", ".join(f"{place} for {name}" for place, name in PLACES.items())
        raise ValueError(f"{rule} is no rule for {step}: expected {known}")
    if rule.layers:
        raise ValueError(f"{rule} names layers, but the rule of an option is for those of a group")
    return (rule,)


def _source(given: Any, folder: Path) -> Source:
    """The source of a text."""
    if isinstance(given, Source):
        return given.inside(folder)
    if isinstance(given, (str, os.PathLike)):
        given = {"source": os.fspath(given)}
    if not isinstance(given, Mapping):
        raise TypeError(f"a text is a Source, a name or a table, not {given!r}")
    known = [each.name for each in fields(Source)]
    for name in given:
        if name not in known:
            raise ValueError(f"unknown field {name!r} of a text: expected {', '.join(known)}")
    values = {**_DEFAULT, **given}
    if values["tokens"] == "all":
        values["tokens"] = None
    return Source(**values).inside(folder)


def _fields_of(source: Source) -> dict[str, Any]:
    return {each.name: getattr(source, each.name) for each in fields(source)}


def _label(given: Any) -> Any:
    return given.name if isinstance(given, Hardware) else given


def _plain(given: Any) -> Any:
    """A value as what JSON has."""
    if isinstance(given, Mapping):
        return {str(key): _plain(value) for key, value in given.items()}
    if isinstance(given, (list, tuple)):
        return [_plain(each) for each in given]
    given = _label(given)
    return given if isinstance(given, (int, float, str)) else os.fspath(given)
