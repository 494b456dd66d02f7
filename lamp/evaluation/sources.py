"""Sources of texts: files, tables, data sets, standard input.

A source has documents in a fixed order; a plain text is one document.  They are tokenized one by
one, separated by an empty line, until there are as many tokens as are asked for.
"""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lamp.evaluation.texts import Text
from lamp.models import checkpoints

if TYPE_CHECKING:
    from types import ModuleType

    from lamp.models import Decoder

__all__ = ["HELD_OUT", "KINDS", "STANDARD_INPUT", "Source", "read_standard_input"]

HELD_OUT: Final = "held-out"
"""The name of the held-out sample that comes with the embedded model."""

STANDARD_INPUT: Final = "-"
"""The name of standard input."""

_SUFFIXES: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_SEPARATOR: Final = "\n\n"
_EXTRAS: Final = {"pyarrow": "parquet", "datasets": "datasets"}
_ROWS: Final = 1024  # of a table that are in memory at a time


@dataclass(frozen=True)
class Source:
    """A source of a text, and how much of it is read in which windows.

    Parameters
    ----------
    source : str
        A file, ``"held-out"``, ``"-"`` for standard input, or the name of a data set.
    kind : {"plain", "jsonl", "parquet", "datasets"}, optional
        By default the file's ending decides.  ``"plain"``: UTF-8.  ``"jsonl"``: a JSON object on
        each line.  ``"parquet"``: a table; needs the extra ``parquet``.  ``"datasets"``: a name on
        the Hugging Face hub or a directory; needs the extra ``datasets``.
    field : str
        The field of the objects, the table or the data set that holds the text.
    subset : str, optional
        The configuration of a data set.
    split : str
        The split of a data set.
    tokens : int, optional
        The number of tokens to take from the start; None for all.
    length : int, optional
        The number of tokens in a window; by default as many as the model has positions, at most
        512.
    stride : int, optional
        The number of tokens from one window to the next; by default the length.
    shuffled : bool
        Whether the tokens that were taken are shuffled: a control that is no language.
    seed : int
        The seed of the shuffling.
    name : str
        The label of the text; by default the source, and whether it is shuffled.

    Raises
    ------
    ValueError
        If a field is out of range.

    Examples
    --------
    >>> import lamp
    >>> from lamp.evaluation import Source
    >>> text = Source("held-out", tokens=1000, length=128).read(lamp.from_pretrained("embedded"))
    >>> len(text.tokens), len(text.windows)
    (1000, 8)
    """

    source: str = HELD_OUT
    kind: str = ""
    field: str = "text"
    subset: str = ""
    split: str = "train"
    tokens: int | None = 4096
    length: int | None = None
    stride: int | None = None
    shuffled: bool = False
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source:
            raise ValueError(f"source must be a file, a name or '-', not {self.source!r}")
        kind = self.kind or _SUFFIXES.get(Path(self.source).suffix, "plain")
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}: expected {', '.join(KINDS)}")
        object.__setattr__(self, "kind", kind)
        if self.is_given and kind not in ("plain", "jsonl"):
            raise ValueError(f"{self.source!r} cannot be of kind {kind!r}: expected plain or jsonl")
        for field in ("tokens", "length", "stride"):
            if getattr(self, field) is not None:
                self._make_integer(field, 1, "a positive integer")
        if not isinstance(self.shuffled, bool):
            raise ValueError(f"shuffled must be true or false, not {self.shuffled!r}")
        self._make_integer("seed", 0, "an integer from 0")
        for field in ("field", "subset", "split", "name"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"{field} must be a string, not {getattr(self, field)!r}")

    def _make_integer(self, field: str, least: int, expected: str) -> None:
        """Make a field an int, if it is an integer of Python or numpy and large enough."""
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{field} must be {expected}, not {value!r}")
        object.__setattr__(self, field, int(value))

    @property
    def is_given(self) -> bool:
        """Whether the text is neither a file nor a data set."""
        return self.source in (HELD_OUT, STANDARD_INPUT)

    @property
    def label(self) -> str:
        """The name of the text for people."""
        return self.name or self.source + (", shuffled" if self.shuffled else "")

    def inside(self, folder: Path) -> Source:
        """Return the source with its file relative to a folder.

        Parameters
        ----------
        folder : Path

        Returns
        -------
        Source
        """
        place = folder / self.source
        if self.is_given or (self.kind == "datasets" and not place.is_dir()):
            return self
        return replace(self, source=str(place), name=self.label)

    def documents(self, given: str | None = None) -> Iterator[str]:
        """Iterate over the documents that are not blank.

        Parameters
        ----------
        given : str, optional
            Standard input, if it has been read already: it can be read once.

        Yields
        ------
        str

        Raises
        ------
        FileNotFoundError
            If the file or data set does not exist.
        ValueError
            If it is not of its kind; the message says where.
        ModuleNotFoundError
            If the package that reads it is not installed; the message names the extra.
        """
        found = (document for document in KINDS[self.kind](self, given) if document.strip())
        first = next(found, None)
        if first is None:
            raise ValueError(f"{self.source} holds no text")
        yield from itertools.chain([first], found)

    def read(self, model: Decoder, given: str | None = None) -> Text:
        """Read the text as tokens of a model.

        Parameters
        ----------
        model : Decoder
            The model.
        given : str, optional
            As for :meth:`documents`.

        Returns
        -------
        lamp.evaluation.Text

        Raises
        ------
        FileNotFoundError, ModuleNotFoundError
            As :meth:`documents`.
        ValueError
            As :meth:`documents`, or if a window does not fit the model.
        """
        parts: list[NDArray[np.int64]] = []
        count = 0
        for document in self.documents(given):
            parts.append(model.encode(_SEPARATOR + document if parts else document))
            count += len(parts[-1])
            if self.tokens is not None and count >= self.tokens:
                break
        return Text.of(
            np.concatenate(parts),
            model,
            source=self.label,
            count=self.tokens,
            length=self.length,
            stride=self.stride,
            shuffled=self.seed if self.shuffled else None,
        )


# --- kinds ----------------------------------------------------------------------------------------


def read_standard_input() -> str:
    """Read standard input to its end.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is empty or not UTF-8.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8 text: {error}") from error
    if not text:
        raise ValueError("standard input is empty: expected a text")
    return text


def _plain(source: Source, given: str | None) -> Iterator[str]:
    if source.source == STANDARD_INPUT:
        yield read_standard_input() if given is None else given
    else:
        yield checkpoints.read_text(None if source.source == HELD_OUT else Path(source.source))


def _lines(source: Source, given: str | None) -> Iterator[str]:
    """Iterate over the lines of a file, which are read one by one."""
    if source.is_given:
        yield from next(_plain(source, given)).split("\n")
        return
    path = Path(source.source)
    if not path.is_file():
        raise FileNotFoundError(f"no text file {str(path)!r}")
    with path.open(encoding="utf-8") as file:
        try:
            yield from file
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def _jsonl(source: Source, given: str | None) -> Iterator[str]:
    for number, line in enumerate(_lines(source, given), 1):
        if not line.strip():
            continue
        where = f"{source.source}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where} is not a JSON object, but {line.strip()[:40]!r}")
        yield _field(record, source, where)


def _field(record: dict[str, Any], source: Source, where: str) -> str:
    if source.field not in record:
        raise ValueError(f"{where} has no field {source.field!r}: it has {', '.join(record)}")
    value = record[source.field]
    if not isinstance(value, str):
        raise ValueError(f"{where}: field {source.field!r} is not a string, but {value!r:.40}")
    return value


def _parquet(source: Source, given: str | None) -> Iterator[str]:
    pyarrow = _module("pyarrow", source)
    path = Path(source.source)
    if not path.is_file():
        raise FileNotFoundError(f"no text file {str(path)!r}")
    try:
        with _module("pyarrow.parquet", source).ParquetFile(path) as table:
            names = table.schema_arrow.names
            # Where the field is missing, all columns are read: the message lists them.
            wanted = [source.field] if source.field in names else names
            for batch in table.iter_batches(_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    yield _field(row, source, str(path))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error


def _dataset(source: Source, given: str | None) -> Iterator[str]:
    datasets = _module("datasets", source)
    try:
        rows = datasets.load_dataset(source.source, source.subset or None, split=source.split)
    except Exception as error:  # offline, unknown, gated: each raises another error
        reason = " ".join(str(error).split())[:200]
        subset = f", {source.subset}" if source.subset else ""
        raise FileNotFoundError(
            f"no data set {source.source!r}{subset}, split {source.split}: it could neither be "
            f"read from the cache ({datasets.config.HF_DATASETS_CACHE}) nor be fetched: "
            f"{type(error).__name__}: {reason}"
        ) from error
    for number, row in enumerate(rows):
        yield _field(row, source, f"{source.source}, row {number}")


def _module(name: str, source: Source) -> ModuleType:
    """Import an optional package."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ModuleNotFoundError(
            f"{source.source} needs the package {package}, which is not installed: "
            f"pip install 'fpemu-lamp[{_EXTRAS[package]}]'"
        ) from error


KINDS: Final[dict[str, Callable[[Source, str | None], Iterator[str]]]] = {
    "plain": _plain,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "datasets": _dataset,
}
"""The kinds of sources, each with the function that iterates over its documents."""
