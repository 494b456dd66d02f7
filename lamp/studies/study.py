"""Studies: the same texts under many machines and rules, written down and expanded into runs.

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

Every model reads every text on all hardware with each setting of look-ahead.  What has a variable
in braces stands for as many entries as the grid has values; a variable has one value in a run,
wherever it occurs.  Settings for several places are joined: ``"softmax:tv:1%+norm:norm:1%"``.
Files are looked for beside the study's own.  :class:`lamp.evaluation.Source` says what a text is;
``tokens = "all"`` takes the whole.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lamp._files import Document
from lamp.evaluation import Metrics, Setting, Source, evaluate, reference_logits
from lamp.lookahead import LAMP
from lamp.machines import Hardware, hardware

if TYPE_CHECKING:
    from lamp.models import GPT2

__all__ = ["Case", "Result", "Study", "equal_rate_grid", "spread_windows"]

_VARIABLE: Final = re.compile(r"\{(\w+)\}")
_NONE: Final = "none"
_ALL: Final = "all"
_FIELDS: Final = tuple(each.name for each in fields(Source))
_Place = tuple[str, str, str]
_WORDS: Final = ("source", "kind", "field", "subset", "split", "name")  # of a source: strings
_SINGULAR: Final = {"models": "model", "texts": "text", "hardware": "hardware", "lamp": "lamp"}
_LISTS: Final = tuple(_SINGULAR)


@dataclass(frozen=True)
class Case:
    """A run of a study, as the study says it.

    Parameters
    ----------
    model : str
        A model's name or where it is.
    source : Source
        The text.
    setting : Setting
        The machine and what is recomputed on it.
    reference : Hardware
        The machine that it is compared with.
    labels : mapping of str to str
        What people call model, text, hardware, lamp and reference.
    variables : mapping
        The values that the grid has in it.
    places : mapping of str to tuple of str
        Where in the study's file model and text stand.
    """

    model: str
    source: Source
    setting: Setting
    reference: Hardware
    labels: Mapping[str, str]
    variables: Mapping[str, Any]
    places: Mapping[str, _Place]


@dataclass(frozen=True)
class Study:
    """What is to be run: every model reads every text on all hardware with each look-ahead.

    Strings may have variables of the grid in braces.

    Parameters
    ----------
    name : str
        What the study is called; a store has one study of a name.
    models : sequence of str or path-like
        As :func:`lamp.from_pretrained` takes them.
    texts : sequence of Source, str or mapping
        Texts; a string is a file or a name, a mapping has the fields of a Source.
    hardware : sequence of Hardware, str or path-like
        Machines.
    lamp : sequence of LAMP, sequences of LAMP, str or None
        What is recomputed; ``"none"`` or None for nothing.
    reference : Hardware, str or path-like
        The machine that all are compared with.
    grid : mapping of str to sequence
        The values of each variable: numbers or strings.
    folder : path-like
        Where files are looked for.
    document : Document, optional
        The file that the study is from.

    Raises
    ------
    ValueError
        If a part is not what it should be; says which, and where in the file.

    Examples
    --------
    >>> import lamp
    >>> study = lamp.Study(
    ...     "scores",
    ...     hardware=["scores-ps{mu}"],
    ...     lamp=["none", "softmax:normwise:{tau}"],
    ...     grid={"mu": [2, 4], "tau": [1.5, 1.2]},
    ... )
    >>> for case in study.cases():
    ...     print(case.setting)
    scores-ps2
    scores-ps4
    scores-ps2+softmax:normwise:1.5
    scores-ps2+softmax:normwise:1.2
    scores-ps4+softmax:normwise:1.5
    scores-ps4+softmax:normwise:1.2
    """

    name: str
    models: Sequence[Any] = ("embedded",)
    texts: Sequence[Any] = (Source(),)
    hardware: Sequence[Any] = ("fp32",)
    lamp: Sequence[Any] = (_NONE,)
    reference: Any = "fp64"
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    folder: str | os.PathLike[str] = ""
    document: Document | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise self._error(f"name must be a string, not {self.name!r}", "", "name")
        for key in _LISTS:
            given = getattr(self, key)
            if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or not given:
                raise self._error(f"{key} must be a list with at least one entry", "", key)
        if not isinstance(self.grid, Mapping):
            raise self._error("grid must be a table of lists", "", "grid")
        for name, values in self.grid.items():
            self._check_values(name, values)
        entries = itertools.chain.from_iterable(self._entries.values())
        used = {variable for entry in entries for variable in entry.variables}
        for name in self.grid:
            if name not in used:
                raise self._error(f"no entry uses the variable {name!r}", "grid", name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Study:
        """The study in a file.

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
            If there is no such file.
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
        """What the study says, as plain data.

        Returns
        -------
        dict
        """
        found: dict[str, Any] = {"name": self.name}
        for key, entries in self._entries.items():
            found[key] = [entry.record() for entry in entries]
        found["reference"] = _shown(self.reference)
        found["grid"] = {name: list(values) for name, values in self.grid.items()}
        return found

    def cases(self) -> list[Case]:
        """All runs, in order: model by model, text by text, machine by machine.

        Returns
        -------
        list of Case
            Each once, though the study may say it twice.

        Raises
        ------
        ValueError, FileNotFoundError
            If there is no such machine, settings cannot be read, or two of a kind have the same
            name.
        """
        reader = _Reader(self)
        found: dict[tuple[str, ...], Case] = {}
        for entries in itertools.product(*self._entries.values()):
            names = [name for name in self.grid if any(name in e.variables for e in entries)]
            for values in itertools.product(*(self.grid[name] for name in names)):
                case = reader.case(entries, dict(zip(names, values, strict=True)))
                found.setdefault(tuple(case.labels.values()), case)
        return list(found.values())

    def where(self, *place: str) -> str:
        """Where in its file a study says something, for messages.

        Parameters
        ----------
        *place : str
            See :meth:`lamp.toml_files.Document.line`.

        Returns
        -------
        str
            Empty if the study is from no file.
        """
        if self.document is None:
            return ""
        return str(self.document.error("", *place))

    @contextmanager
    def blamed(self, *place: str) -> Iterator[None]:
        """Errors in here are due to what a study says; they say where.

        Parameters
        ----------
        *place : str
            See :meth:`lamp.toml_files.Document.line`.
        """
        try:
            yield
        except (ValueError, TypeError, OSError, ImportError) as error:
            kinds = (FileNotFoundError, ModuleNotFoundError, OSError, ValueError)
            kind = next((kind for kind in kinds if isinstance(error, kind)), ValueError)
            raise kind(f"{self.where(*place)}{error}") from error

    def _error(self, message: str, *place: str) -> ValueError:
        return ValueError(f"{self.where(*place)}{message}")

    def _check_values(self, name: str, values: Any) -> None:
        listed = isinstance(values, Sequence) and not isinstance(values, str)
        if not listed or not values:
            raise self._error(f"{name} of [grid] must be a list of values", "grid", name)
        for value in values:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (isinstance(value, str) or (number and math.isfinite(value))):
                raise self._error(
                    f"{name} of [grid] must have numbers or strings, not {value!r}", "grid", name
                )

    @cached_property
    def _entries(self) -> Mapping[str, list[_Entry]]:
        """Whatever the study lists."""
        return {
            key: [self._entry(key, i) for i in range(len(getattr(self, key)))] for key in _LISTS
        }

    def _entry(self, key: str, index: int) -> _Entry:
        given = getattr(self, key)[index]
        is_table = isinstance(given, Mapping)
        place = (f"{key}[{index}]", "", "") if is_table else ("", key, _shown(given))
        if is_table and self.document is not None:
            self.document.check_names(given, _FIELDS, place[0])
        with self.blamed(*place):
            entry = _Entry(key, index, place, _fields(given) if key == "texts" else given)
            for variable in entry.variables:
                if variable not in self.grid:
                    known = ", ".join(self.grid) or "no variables"
                    raise ValueError(f"unknown variable {variable!r}: the grid has {known}")
        return entry


def _fields(given: Any) -> dict[str, Any]:
    """A text as fields of a Source."""
    if isinstance(given, Source):
        return {name: getattr(given, name) for name in _FIELDS}
    if isinstance(given, (str, os.PathLike)):
        return {"source": os.fspath(given)}
    if not isinstance(given, Mapping):
        raise TypeError(f"a text is a Source, a name or a table, not {given!r}")
    if unknown := [name for name in given if name not in _FIELDS]:
        raise ValueError(f"unknown field {unknown[0]!r}: expected {', '.join(_FIELDS)}")
    return dict(given)


def _shown(given: Any) -> str:
    """What people call a model, a machine or settings."""
    if given is None:
        return _NONE
    if isinstance(given, Hardware):
        return given.name
    if isinstance(given, (str, os.PathLike)):
        return os.fspath(given)
    several = isinstance(given, Iterable) and not isinstance(given, Mapping)
    return "+".join(map(str, given if several else [given])) or _NONE


@dataclass(frozen=True)
class _Entry:
    """One entry of a list of a study, before variables have values."""

    key: str
    index: int
    place: _Place
    given: Any

    @cached_property
    def variables(self) -> frozenset[str]:
        """The variables that occur in it."""
        parts = self.given.values() if isinstance(self.given, Mapping) else [self.given]
        texts = (os.fspath(part) for part in parts if isinstance(part, (str, os.PathLike)))
        return frozenset(name for text in texts for name in _VARIABLE.findall(text))

    def record(self) -> Any:
        """As plain data."""
        return self.given if isinstance(self.given, Mapping) else _shown(self.given)

    def filled(self, values: Mapping[str, Any]) -> Any:
        """What it lists, with values for its variables."""
        if isinstance(self.given, Mapping):
            return {name: _filled(name, part, values) for name, part in self.given.items()}
        if isinstance(self.given, (str, os.PathLike)):
            return _substituted(os.fspath(self.given), values)
        return self.given


def _substituted(text: str, values: Mapping[str, Any]) -> str:
    return _VARIABLE.sub(lambda match: str(values[match[1]]), text)


def _filled(name: str, part: Any, values: Mapping[str, Any]) -> Any:
    """A field of a text; a variable alone keeps its type."""
    if not isinstance(part, str):
        return part
    if name not in _WORDS and (match := _VARIABLE.fullmatch(part)):
        return values[match[1]]
    return _substituted(part, values)


class _Reader:
    """Makes cases of entries; what occurs in many is read once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._folder = Path(study.folder).absolute()  # workers may be elsewhere
        self._read: dict[tuple[Any, ...], tuple[str, Any]] = {}
        self._called: dict[tuple[str, str], Any] = {}
        with study.blamed("", "reference"):
            self._reference = self._machine(study.reference)

    def case(self, entries: Sequence[_Entry], values: Mapping[str, Any]) -> Case:
        """A run."""
        read = {entry.key: self._value(entry, values) for entry in entries}
        labels = {_SINGULAR[key]: label for key, (label, _) in read.items()}
        return Case(
            model=read["models"][1],
            source=read["texts"][1],
            setting=Setting(read["hardware"][1], read["lamp"][1]),
            reference=self._reference,
            labels={**labels, "reference": _shown(self._study.reference)},
            variables=values,
            places={_SINGULAR[entry.key]: entry.place for entry in entries},
        )

    def _value(self, entry: _Entry, values: Mapping[str, Any]) -> tuple[str, Any]:
        """The label of an entry and what it stands for."""
        own = tuple(values[name] for name in sorted(entry.variables))
        at = entry.key, entry.index, own
        if at not in self._read:
            with self._study.blamed(*entry.place):
                label, found = self._parsed(entry.key, entry.filled(values))
                if self._called.setdefault((entry.key, label), found) != found:
                    raise ValueError(f"two {entry.key} are called {label!r}: name one differently")
            self._read[at] = label, found
        return self._read[at]

    def _parsed(self, key: str, given: Any) -> tuple[str, Any]:
        if key == "texts":
            fields = dict(given)
            if fields.get("tokens") == _ALL:
                fields["tokens"] = None
            source = Source(**fields)
            return source.label, source.inside(self._folder)
        if key == "models":
            if not isinstance(given, (str, os.PathLike)):
                raise TypeError(f"a model is a name or a path, not {given!r}")
            return _shown(given), os.fspath(self._beside(given))
        if key == "hardware":
            return _shown(given), self._machine(given)
        rules = _settings(given)
        return _shown(rules), rules

    def _machine(self, given: Any) -> Hardware:
        return hardware(self._beside(given))

    def _beside(self, given: Any) -> Any:
        """A file or directory beside the study; anything else is as it is."""
        if not isinstance(given, (str, os.PathLike)):
            return given
        place = self._folder / given
        is_file = os.fspath(given).endswith((".toml", ".gguf"))
        return place if is_file or place.is_dir() else given


def _settings(given: Any) -> tuple[LAMP, ...]:
    """What is recomputed."""
    if given is None or given == _NONE:
        return ()
    if isinstance(given, str):
        return tuple(Setting.parse(f"fp32+{given}").lamp)
    several = [given] if isinstance(given, LAMP) else given
    if not isinstance(several, Iterable):
        raise TypeError(f"lamp must be a LAMP, several, a string or None, not {given!r}")
    return tuple(Setting("fp32", several).lamp)


# --- the grid of the demo -------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One run of a grid.

    Parameters
    ----------
    stored_bits : int
        Stored significand bits (mu) of the scores' accumulator.
    lamp : LAMP or None
        What was recomputed.
    tau : float or None
        The tau of the normwise run whose rate this run has.
    metrics : Metrics
        The model against the reference.
    seconds : float
        Wall time of the run.
    """

    stored_bits: int
    lamp: LAMP | None
    tau: float | None
    metrics: Metrics
    seconds: float

    @property
    def rule(self) -> str:
        """The rule in words, weights included."""
        if self.lamp is None:
            return "none"
        return self.lamp.rule + (", |y|" if self.lamp.weights == "abs" else "")


def spread_windows(tokens: ArrayLike, length: int, count: int) -> NDArray[np.int64]:
    """Windows of a text, evenly spread from its beginning to its end.

    Parameters
    ----------
    tokens : array_like of int, shape (n,)
        The text.
    length, count : int
        Tokens in a window, and how many windows; they overlap only if the text is too short for
        them to lie side by side.

    Returns
    -------
    ndarray of int64, shape (count, length)

    Raises
    ------
    ValueError
        If the text has fewer than `length` tokens.
    """
    text = np.asarray(tokens, dtype=np.int64)
    if length < 1 or count < 1:
        raise ValueError(f"windows need a positive length and count, not {length} and {count}")
    if len(text) < length:
        raise ValueError(f"the text has {len(text)} tokens, but a window takes {length}")
    starts = np.linspace(0, len(text) - length, count).astype(np.int64)
    return np.stack([text[start : start + length] for start in starts])


def equal_rate_grid(
    model: GPT2,
    windows: NDArray[np.int64],
    stored_bits: Sequence[int],
    taus: Sequence[float],
    seed: int = 0,
) -> Iterator[Result]:
    """Rules compared at equal recomputation rates, the rates being those of the authors' rule.

    For each number of stored bits: no recomputation; then for each tau the normwise rule, the
    random control, and one threshold a layer on ``|y| z (1 - z)`` with the normwise rule's rate as
    its budget.  The reference is the same model in float64.

    Parameters
    ----------
    model : GPT2
        The weights.
    windows : ndarray of int, shape (windows, length)
        The text.
    stored_bits, taus : sequence
        The grid.
    seed : int
        Of the random control.

    Yields
    ------
    Result
        In the order of the grid, each as soon as it is there.
    """
    reference = reference_logits(model.with_hardware("fp64"), windows)

    def run(mu: int, lamp: LAMP | None, tau: float | None) -> Result:
        start = time.perf_counter()
        metrics = evaluate(reference, model.with_hardware(f"scores-ps{mu}", lamp), windows)
        return Result(mu, lamp, tau, metrics, time.perf_counter() - start)

    for mu in stored_bits:
        yield run(mu, None, None)
        for tau in taus:
            authors = run(mu, LAMP("normwise", tau=tau), tau)
            yield authors
            yield run(mu, LAMP("random", tau=tau, seed=seed), tau)
            budget = authors.metrics.recomputation_rate
            yield run(mu, LAMP("total_variation", budget=budget, weights="abs"), tau)
