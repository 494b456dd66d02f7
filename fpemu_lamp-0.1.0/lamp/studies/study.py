"""Studies: grids of models, texts, machines and rules, and the runs that are their points.

A study is a TOML file or a :class:`Study`::

    name = "scores"
    models = ["embedded"]
    hardware = ["fp32", "scores-ps{mu}"]
    lamp = ["none", "softmax:normwise:{tau}", "softmax:random:{tau}:seed={seed}"]
    reference = "fp64"

    [grid]
    mu = [2, 4, 7]
    tau = [1.5, 1.2]
    seed = [0]

    [[texts]]
    source = "held-out"
    tokens = 2048

    [[texts]]
    source = "held-out"
    tokens = 2048
    shuffled = true

Every model reads every text on all hardware with each entry of lamp.  An entry with a variable in
braces stands for one entry per value of the grid; a variable has one value in a run, wherever it
occurs.  Rules for several places are joined by ``+``: ``"softmax:tv:1%+norm:norm:1%"``.  Files are
looked for in the folder of the study's own file.  :class:`lamp.evaluation.Source` describes texts;
``tokens = "all"`` takes the whole text.

A study may have tasks of lm-evaluation-harness beside texts or in place of them; an entry is a name
or a table with the fields of :class:`lamp.integrations.TaskSource`::

    tasks = ["arc_easy", "arc_challenge"]

The reference does each task as a run of its own, which comes first.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from fpemu import _html
from fpemu._listing import Listed
from fpemu._reprs import constructed
from lamp._files import Document, blamed, where
from lamp.evaluation import Setting, Source, setting_parts
from lamp.integrations import TaskSource
from lamp.lookahead import LAMP, LookAhead
from lamp.machines import Hardware, hardware

__all__ = ["Point", "Study"]

_VARIABLE: Final = re.compile(r"\{(\w+)\}")
_MOST: Final = 10_000_000  # points
_MOST_KEPT: Final = 2**14  # settings
_NONE: Final = "none"
_ALL: Final = "all"
_Place = tuple[str, str, str]
_Way = tuple[str, int, tuple[Any, ...]]  # an entry's list and index, the values of its variables
_SOURCES: Final = {"texts": Source, "tasks": TaskSource}
_FIELDS: Final = {key: [each.name for each in fields(kind)] for key, kind in _SOURCES.items()}
# Fields that are strings.
_WORDS: Final = ("source", "kind", "field", "subset", "split", "name", "task", "folder")
_LISTS: Final = ("models", "texts", "tasks", "hardware", "lamp")
_AXES: Final = {
    "model": ("models",),
    "text": ("texts", "tasks"),
    "hardware": ("hardware",),
    "lamp": ("lamp",),
}  # which lists each part of a point is from


@dataclass(frozen=True)
class Point:
    """A point of a study's grid, before anything that it names is read.

    Parameters
    ----------
    model : str
        A model's name or where it is.
    source : Source or TaskSource
        The text, or the task in place of one.
    setting : Setting
        The machine and its rules.
    reference : Hardware
        The machine of the reference.
    labels : mapping of str to str
        The names of model, text, hardware, lamp and reference for people.
    variables : mapping
        The values of the grid's variables.
    places : mapping of str to tuple of str
        The places of model and text in the study's file, for messages.
    """

    model: str
    source: Source | TaskSource
    setting: Setting
    reference: Hardware
    labels: Mapping[str, str]
    variables: Mapping[str, Any]
    places: Mapping[str, _Place]


@dataclass(frozen=True, repr=False)
class Study(metaclass=Listed):
    """A grid of runs: every model reads every text on all hardware with each entry of lamp.

    Strings may have variables of the grid in braces.  `points` and `walk` give the runs, `record`
    what the study says as plain data.

    Parameters
    ----------
    name : str
        The name of the study; names are unique within a store.
    models : sequence of str or path-like
        Models, as :func:`lamp.from_pretrained` takes them.
    texts : sequence of Source, str or mapping, optional
        Texts; a string is a file or a name, a mapping has the fields of a Source.  By default the
        beginning of the held-out text, or none if there are tasks.
    hardware : sequence of Hardware, str or path-like
        Machines.
    lamp : sequence of LAMP, sequences of LAMP, str or None
        Rules of look-ahead; ``"none"`` or None for no rule.
    reference : Hardware, str or path-like
        The machine of the reference.
    grid : mapping of str to sequence
        The values of each variable: numbers or strings.
    folder : path-like
        The folder in which files are looked for.
    document : Document, optional
        The file that the study is from.
    tasks : sequence of TaskSource, str or mapping
        Tasks of lm-evaluation-harness; a mapping has the fields of a TaskSource.

    Raises
    ------
    ValueError
        If a part is not what it should be; the message says which, and where in the file.

    Examples
    --------
    >>> import lamp
    >>> study = lamp.Study(
    ...     "scores",
    ...     hardware=["scores-ps{mu}"],
    ...     lamp=["none", "softmax:normwise:{tau}"],
    ...     grid={"mu": [2, 4], "tau": [1.5, 1.2]},
    ... )
    >>> for point in study.points():
    ...     print(point.setting)
    scores-ps2
    scores-ps4
    scores-ps2+softmax:normwise:1.5
    scores-ps2+softmax:normwise:1.2
    scores-ps4+softmax:normwise:1.5
    scores-ps4+softmax:normwise:1.2
    """

    name: str
    models: Sequence[Any] = ("embedded",)
    texts: Sequence[Any] | None = None
    hardware: Sequence[Any] = ("fp32",)
    lamp: Sequence[Any] = (_NONE,)
    reference: Any = "fp64"
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    folder: str | os.PathLike[str] = ""
    document: Document | None = field(default=None, compare=False, repr=False)
    tasks: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise self._error(f"name must be a string, not {self.name!r}", "", "name")
        if self.texts is None:
            object.__setattr__(self, "texts", () if self.tasks else (Source(),))
        for key in _LISTS:
            given = getattr(self, key)
            may_be_empty = key in _SOURCES and any(getattr(self, each) for each in _SOURCES)
            is_list = isinstance(given, Sequence) and not isinstance(given, (str, bytes))
            if not is_list or not (given or may_be_empty):
                raise self._error(f"{key} must be a list with at least one entry", "", key)
        if not isinstance(self.grid, Mapping):
            raise self._error("grid must be a table of lists", "", "grid")
        grid = {name: self._values(name, values) for name, values in self.grid.items()}
        object.__setattr__(self, "grid", grid)
        entries = itertools.chain.from_iterable(self._entries.values())
        used = {variable for entry in entries for variable in entry.variables}
        for name in self.grid:
            if name not in used:
                raise self._error(f"no entry uses the variable {name!r}", "grid", name)

    def __repr__(self) -> str:
        return constructed(self, "lamp")

    def _repr_html_(self) -> str:
        record = {**self.record(), "folder": os.fspath(self.folder)}
        title = f"Study {record.pop('name')}"
        return _html.facts(title, [(key, _listed(value)) for key, value in record.items() if value])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Study:
        """Read a study from a file.

        Parameters
        ----------
        path : str or path-like
            TOML, as this module describes it.

        Returns
        -------
        Study

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        ValueError
            If it is not TOML or says something impossible; the message names the line.
        """
        document = Document.read(path, "study")
        values = dict(document.values)
        document.check_names(values, ["name", *_LISTS, "reference", "grid"], "")
        if "name" not in values:
            raise ValueError(f"{document.source}: a study needs a name")
        return cls(**values, folder=Path(path).parent, document=document)

    def record(self) -> dict[str, Any]:
        """Return what the study says as plain data.

        Returns
        -------
        dict
        """
        found: dict[str, Any] = {"name": self.name}
        for key, entries in self._entries.items():
            if not entries:
                continue
            found[key] = [entry.record() for entry in entries]
        found["reference"] = _shown(self.reference)
        found["grid"] = {name: list(values) for name, values in self.grid.items()}
        return found

    def points(self) -> list[Point]:
        """Return all points of the grid in order: by model, then text, then machine, then rules.

        Returns
        -------
        list of Point
            Each once, though the study may name it twice.

        Raises
        ------
        ValueError, FileNotFoundError
            If a machine is unknown, rules cannot be read, two entries of a list have the same
            name, or there are more than 10,000,000 points.
        """
        return list(self.walk())

    def walk(self) -> Iterator[Point]:
        """Iterate over what :meth:`points` returns, without holding all of it.

        Yields
        ------
        Point
        """
        self._check_size()
        for entries in itertools.product(*self._axes):
            names = self._names(entry.variables for entry in entries)
            pick = self._reader.picker(entries, names)
            for values in itertools.product(*(dict.fromkeys(self.grid[name]) for name in names)):
                if (point := pick(values)) is not None:
                    yield point

    @cached_property
    def _reader(self) -> _Reader:
        """What the entries stand for; a machine's file is read once, though it may change."""
        return _Reader(self)

    def _names(self, variables: Iterable[Set[str]]) -> list[str]:
        """Return the variables that occur in any of some entries, in the grid's order."""
        used = frozenset().union(*variables)
        return [name for name in self.grid if name in used]

    def _check_size(self) -> None:
        """Raise a ValueError if there are too many points to go through."""
        kinds = (Counter(e.variables for e in entries) for entries in self._axes)
        count = 0
        for groups in itertools.product(*(kind.items() for kind in kinds)):
            variables, sizes = zip(*groups, strict=True)
            values = (len(self.grid[name]) for name in self._names(variables))
            count += math.prod(sizes) * math.prod(values)
        if count > _MOST:
            raise self._error(f"the study has {count:,} points, more than {_MOST:,}", "grid")

    def blamed(self, *place: str) -> AbstractContextManager[None]:
        """Raise errors from here on with the file and line of a place.

        Parameters
        ----------
        *place : str
            As :meth:`lamp._files.Document.line` takes it.
        """
        return blamed(self.document, *place)

    def _error(self, message: str, *place: str) -> ValueError:
        return ValueError(f"{where(self.document, *place)}{message}")

    def _values(self, name: str, values: Any) -> list[Any]:
        """Return the values of a variable, checked; equal numbers become the same number."""
        listed = isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, str)
        if not listed or not len(values):
            raise self._error(f"{name} of [grid] must be a list of values", "grid", name)
        plain = [_plain(value) for value in values]
        for value in plain:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (isinstance(value, str) or (number and math.isfinite(value))):
                raise self._error(
                    f"{name} of [grid] must have numbers or strings, not {value!r}", "grid", name
                )
        return plain

    @cached_property
    def _entries(self) -> Mapping[str, list[_Entry]]:
        """The entries of each list of the study."""
        return {
            key: [self._entry(key, i) for i in range(len(getattr(self, key)))] for key in _LISTS
        }

    @property
    def _axes(self) -> list[list[_Entry]]:
        """The entries that each part of a point is one of."""
        return [[e for key in keys for e in self._entries[key]] for keys in _AXES.values()]

    def _entry(self, key: str, index: int) -> _Entry:
        given = getattr(self, key)[index]
        is_table = isinstance(given, Mapping)
        place = (f"{key}[{index}]", "", "") if is_table else ("", key, _shown(given))
        if is_table and key in _SOURCES and self.document is not None:
            self.document.check_names(given, _FIELDS[key], place[0])
        with self.blamed(*place):
            entry = _Entry(key, index, place, _fields(key, given) if key in _SOURCES else given)
            for variable in entry.variables:
                if variable not in self.grid:
                    known = ", ".join(self.grid) or "no variables"
                    raise ValueError(f"unknown variable {variable!r}: the grid has {known}")
        return entry


def _fields(key: str, given: Any) -> dict[str, Any]:
    """Return the fields of a text's Source or a task's TaskSource."""
    kind, known = _SOURCES[key], _FIELDS[key]
    if isinstance(given, kind):
        return {name: getattr(given, name) for name in known}
    if isinstance(given, (str, os.PathLike)):
        return {known[0]: os.fspath(given)}
    if not isinstance(given, Mapping):
        raise TypeError(
            f"a {key.removesuffix('s')} is a {kind.__name__}, a name or a table, not {given!r}"
        )
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"unknown field {unknown[0]!r}: expected {', '.join(known)}")
    return {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    """Return a number as Python's, an integer as an int; anything else as it is."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(given: Any) -> str:
    """Return the label of a model, a machine or rules."""
    if given is None:
        return _NONE
    if isinstance(given, Hardware):
        return given.name
    if isinstance(given, (str, os.PathLike)):
        return os.fspath(given)
    several = isinstance(given, Iterable) and not isinstance(given, Mapping)
    return "+".join(map(str, given if several else [given])) or _NONE


def _listed(value: Any) -> str:
    """A part of a study in words."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_listed(each)}" for name, each in value.items())
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return ", ".join(map(_listed, value)) if several else str(value)


@dataclass(frozen=True)
class _Entry:
    """An entry of one of the study's lists, before variables have values."""

    key: str
    index: int
    place: _Place
    given: Any

    @cached_property
    def variables(self) -> frozenset[str]:
        """The variables that the entry has."""
        parts = self.given.values() if isinstance(self.given, Mapping) else [self.given]
        texts = (os.fspath(part) for part in parts if isinstance(part, (str, os.PathLike)))
        return frozenset(name for text in texts for name in _VARIABLE.findall(text))

    @cached_property
    def names(self) -> list[str]:
        """The variables in a fixed order."""
        return sorted(self.variables)

    def record(self) -> Any:
        """Return the entry as plain data."""
        return self.given if isinstance(self.given, Mapping) else _shown(self.given)

    def filled(self, values: Mapping[str, Any]) -> Any:
        """Return the entry with values in place of its variables."""
        if isinstance(self.given, Mapping):
            return {name: _filled(name, part, values) for name, part in self.given.items()}
        if isinstance(self.given, (str, os.PathLike)):
            return _substituted(os.fspath(self.given), values)
        return self.given


def _substituted(text: str, values: Mapping[str, Any]) -> str:
    return _VARIABLE.sub(lambda match: str(values[match[1]]), text)


def _filled(name: str, part: Any, values: Mapping[str, Any]) -> Any:
    """Return a field of a text with values; a variable that stands alone keeps its type."""
    if not isinstance(part, str):
        return part
    if name not in _WORDS and (match := _VARIABLE.fullmatch(part)):
        return values[match[1]]
    return _substituted(part, values)


class _Reader:
    """Makes points of entries; each entry is read once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._folder = Path(study.folder).absolute()  # workers may be elsewhere
        self._read: dict[_Way, tuple[list[_Way], str, Any]] = {}
        self._called: dict[tuple[str, str], tuple[list[_Way], Any]] = {}
        self._settings: dict[tuple[int, int], Setting] = {}
        self._positions = {
            name: {value: i for i, value in reversed([*enumerate(values)])}
            for name, values in study.grid.items()
        }
        with study.blamed("", "reference"):
            self._reference = self._machine(study.reference)

    def picker(
        self, entries: Sequence[_Entry], names: Sequence[str]
    ) -> Callable[[Sequence[Any]], Point | None]:
        """Return a function of the variables' values, with an entry of each list.

        It gives the point, or None if a point before it has the same labels.  There may be millions
        of points: they are not remembered.
        """
        own = [[names.index(name) for name in entry.names] for entry in entries]
        places = {part: entry.place for part, entry in zip(_AXES, entries, strict=True)}
        reference = _shown(self._study.reference)

        def pick(values: Sequence[Any]) -> Point | None:
            ways: list[_Way] = [
                (entry.key, entry.index, tuple([values[i] for i in at]))
                for entry, at in zip(entries, own, strict=True)
            ]
            parts = [self._value(entry, way) for entry, way in zip(entries, ways, strict=True)]
            known = [part[0] for part in parts]
            if any(len(each) > 1 for each in known) and not self._is_first(ways, known):
                return None
            (model, text, machine, rules) = parts
            labels = (model[1], text[1], machine[1], rules[1], reference)
            return Point(
                model=model[2],
                source=text[2],
                setting=self._setting(machine[2], rules[2]),
                reference=self._reference,
                labels=dict(zip((*_AXES, "reference"), labels, strict=True)),
                variables=dict(zip(names, values, strict=True)),
                places=places,
            )

        return pick

    def _is_first(self, ways: Sequence[_Way], known: Sequence[Sequence[_Way]]) -> bool:
        """Whether a point comes first of those with its labels, each of which is of known ways.

        Where each label is of one entry and its values alone, no other point has the same labels.
        """
        own = self._order(ways)
        others = filter(None, map(self._order, itertools.product(*known)))
        return own is not None and own <= min(others)

    def _order(self, ways: Sequence[_Way]) -> tuple[Any, ...] | None:
        """Return where a point is among all; None if a variable has two values in it."""
        values: dict[str, Any] = {}
        for key, index, own in ways:
            for name, value in zip(self._study._entries[key][index].names, own, strict=True):
                if values.setdefault(name, value) != value:
                    return None
        entries = [(_LISTS.index(key), index) for key, index, _ in ways]
        return entries, [at[values[name]] for name, at in self._positions.items() if name in values]

    def _setting(self, machine: Hardware, rules: tuple[LAMP, ...]) -> Setting:
        """Return the setting of a machine and rules, the same object if it is asked for again."""
        at = id(machine), id(rules)  # which stay in _read
        if at not in self._settings:
            if len(self._settings) >= _MOST_KEPT:
                self._settings.clear()
            with self._study.blamed("", "lamp"):
                self._settings[at] = Setting(machine, rules)
        return self._settings[at]

    def _value(self, entry: _Entry, way: _Way) -> tuple[list[_Way], str, Any]:
        """Return what has an entry's label, the label, and what the entry stands for."""
        found = self._read.get(way)
        if found is None:
            values = dict(zip(entry.names, way[-1], strict=True))
            with self._study.blamed(*entry.place):
                label, part = self._parsed(entry.key, entry.filled(values))
                ways, known = self._called.setdefault((entry.key, label), ([], part))
                if known != part:
                    raise ValueError(f"two {entry.key} are called {label!r}: name one differently")
            ways.append(way)
            found = self._read[way] = ways, label, known
        return found

    def _parsed(self, key: str, given: Any) -> tuple[str, Any]:
        if key in _SOURCES:
            fields = dict(given)
            if fields.get("tokens") == _ALL:
                fields["tokens"] = None
            source = _SOURCES[key](**fields)
            return source.label, source.inside(self._folder)
        if key == "models":
            if not isinstance(given, (str, os.PathLike)):
                raise TypeError(f"a model is a name or a path, not {given!r}")
            return _shown(given), os.fspath(self._beside(given))
        if key == "hardware":
            return _shown(given), self._machine(given)
        rules = _rules(given)
        return _shown(rules), rules

    def _machine(self, given: Any) -> Hardware:
        return hardware(self._beside(given))

    def _beside(self, given: Any) -> Any:
        """Return the path of a file or directory in the study's folder, or else the name."""
        if not isinstance(given, (str, os.PathLike)):
            return given
        place = self._folder / given
        is_file = os.fspath(given).endswith((".toml", ".gguf"))
        return place if is_file or place.is_dir() else given


def _rules(given: Any) -> tuple[LAMP, ...]:
    """Return the rules of an entry of lamp."""
    if given is None or given == _NONE:
        return ()
    if isinstance(given, str):
        _, texts = setting_parts(f"any+{given}")
        given = [LAMP.parse(text) for text in texts]
    several = [given] if isinstance(given, LAMP) else given
    if not isinstance(several, Iterable):
        raise TypeError(f"lamp must be a LAMP, several, a string or None, not {given!r}")
    rules = tuple(several)
    LookAhead.of(rules)  # raises if two are for the same place
    return rules
