"""Texts from where people have them: files, tables, data sets, standard input.

A source gives documents in a fixed order; a plain text is one.  They are tokenised one by one, each
but the first with an empty line before it, until there are as many tokens as are asked for.
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

from lamp.evaluation import runs
from lamp.models import checkpoints

if TYPE_CHECKING:
    from types import ModuleType

    from lamp.models import Decoder

__all__ = ["HELD_OUT", "KINDS", "STANDARD_INPUT", "Source", "read_standard_input"]

HELD_OUT: Final = "held-out"
"""The sample that comes with the embedded model."""

STANDARD_INPUT: Final = "-"

_SUFFIXES: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_SEPARATOR: Final = "\n\n"
_EXTRAS: Final = {"pyarrow": "parquet", "datasets": "datasets"}
_ROWS: Final = 1024  # of a table, in memory at a time


@dataclass(frozen=True)
class Source:
    """A text and how much of it is read, in which windows.

    Parameters
    ----------
    source : str
        A file, ``"held-out"``, ``"-"`` for standard input, or the name of a data set.
    kind : {"plain", "jsonl", "parquet", "datasets"}, optional
        Left out, by the ending of the file.  ``"plain"``: UTF-8.  ``"jsonl"``: a JSON object on
        each line.  ``"parquet"``: a table, which takes the extra ``parquet``.  ``"datasets"``: a
        name on the Hugging Face hub or a directory, for the extra ``datasets``.
    field : str
        Where the objects, the table or the data set have their text.
    subset : str, optional
        Of a data set: its configuration.
    split : str
        Of a data set.
    tokens : int, optional
        How many to take, from the first; None for all.
    length : int, optional
        How many are in a window; left out, as many as the model has positions, but at most 512.
    stride : int, optional
        From one window to the next; left out, the length.
    shuffled : bool
        Whether the tokens that were taken are shuffled: a control without any language.
    seed : int
        Of the shuffling.
    name : str
        What people call it; left out, the source, shuffled or not.

    Raises
    ------
    ValueError
        If a field is out of range.

    Examples
    --------
    >>> import lamp
    >>> from lamp.texts import Source
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
            _check_count(field, getattr(self, field))
        if not isinstance(self.shuffled, bool):
            raise ValueError(f"shuffled must be true or false, not {self.shuffled!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed must be an integer from 0, not {self.seed!r}")
        for field in ("field", "subset", "split", "name"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"{field} must be a string, not {getattr(self, field)!r}")

    @property
    def is_given(self) -> bool:
        """Whether the text is neither a file nor a data set."""
        return self.source in (HELD_OUT, STANDARD_INPUT)

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name or self.source + (", shuffled" if self.shuffled else "")

    def inside(self, folder: Path) -> Source:
        """The same source, its file being relative to a folder.

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
        """The documents, those that are blank left out.

        Parameters
        ----------
        given : str, optional
            Standard input, if it has been read, which is possible once.

        Yields
        ------
        str

        Raises
        ------
        FileNotFoundError
            If there is no such file or data set.
        ValueError
            If it is not what it should be; says where.
        ModuleNotFoundError
            If the package that reads it is not installed; names the extra.
        """
        found = (document for document in KINDS[self.kind](self, given) if document.strip())
        first = next(found, None)
        if first is None:
            raise ValueError(f"{self.source} holds no text")
        yield from itertools.chain([first], found)

    def read(self, model: Decoder, given: str | None = None) -> runs.Text:
        """The tokens that a model reads.

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
        return runs.Text.of(
            np.concatenate(parts),
            model,
            source=self.label,
            count=self.tokens,
            length=self.length,
            stride=self.stride,
            shuffled=self.seed if self.shuffled else None,
        )


def _check_count(field: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{field} must be a positive integer, not {value!r}")


# --- kinds ----------------------------------------------------------------------------------------


def read_standard_input() -> str:
    """All of standard input.

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
    """The lines of a file, read as they are wanted."""
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
            # A field that is missing is told of where it is looked for.
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
    except Exception as error:  # offline, unknown, gated: each has an error of its own
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
    """An optional package."""
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
"""The kinds of sources and what reads them."""
