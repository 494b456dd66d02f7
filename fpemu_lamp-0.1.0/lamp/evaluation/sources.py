"""Sources of texts: files, tables, data sets, standard input.

A source has documents in a fixed order; a plain text is one document.  They are tokenized one by
one, separated by an empty line, until there are as many tokens as are asked for.  No more of a text
is read and tokenized than its first tokens depend on.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamp._files import Stream
from lamp.evaluation.texts import Text, fitting, window_sizes
from lamp.models import checkpoints

if TYPE_CHECKING:
    from types import ModuleType

    from lamp.models import Decoder

__all__ = [
    "HELD_OUT",
    "KINDS",
    "SAMPLES",
    "STANDARD_INPUT",
    "Source",
    "read_standard_input",
    "special_tokens",
    "standard_input",
]

HELD_OUT: Final = "held-out"
"""The name of the held-out sample that comes with the embedded model."""


class Sample(NamedTuple):
    """A text that comes with lamp: a part of a file, and what it is in words."""

    path: Path
    words: str
    begin: str = ""
    end: str = ""

    def text(self) -> str:
        """The text: the file from where it says `begin`, to before where it says `end`."""
        text = self.path.read_text(encoding="utf-8")
        stop = text.index(self.end) if self.end else len(text)
        return text[text.index(self.begin) : stop]


_PLAYS: Final = checkpoints.EMBEDDED / "held_out.txt"
_FOLDER: Final = Path(__file__).parent / "samples"
_SECOND: Final = "TWELFTH NIGHT; OR, WHAT YOU WILL"

SAMPLES: Final = {
    HELD_OUT: Sample(_PLAYS, "the held-out sample"),
    "macbeth": Sample(_PLAYS, "the opening of Macbeth", end=_SECOND),
    "twelfth-night": Sample(_PLAYS, "the opening of Twelfth Night", begin=_SECOND),
    "ecclesiastes": Sample(_FOLDER / "ecclesiastes.txt", "Ecclesiastes, King James Version"),
    "jargon": Sample(_FOLDER / "jargon.txt", "the Jargon File 4.4.7, introduction"),
}
"""The texts that come with lamp, by name: none of them is in the embedded model's training."""

STANDARD_INPUT: Final = "-"
"""The name of standard input."""

_SUFFIXES: Final = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tsv": "csv",
}
_PACKED: Final = (".gz", ".bz2", ".xz")
"""Endings that compressed files have behind their own."""
_NO_TEXTS: Final = (".doc", ".docx", ".epub", ".ods", ".pdf", ".xls", ".xlsx", ".zip", ".zst")
"""Endings of files whose texts would have to be taken out of them."""
_DELIMITERS: Final = ",;\t"
_LONGEST_CELL: Final = 2**24  # characters
_SEPARATOR: Final = "\n\n"
_EXTRAS: Final = {"pyarrow": "parquet", "datasets": "datasets"}
_ROWS: Final = 1024  # of a table that are in memory at a time
_PER_TOKEN: Final = 8  # characters that a token has at most, on average
_SAMPLE: Final = "a"  # a text to see what is put around it
_BEYOND: Final = 4096  # characters beyond the tokens that are wanted


@dataclass(frozen=True)
class Source:
    """A source of a text, and how much of it is read in which windows.

    Parameters
    ----------
    source : str
        A file, ``"-"`` for standard input, the name of a data set, or a text that comes with lamp:
        ``"held-out"``, which is ``"macbeth"`` and ``"twelfth-night"``; ``"ecclesiastes"``;
        ``"jargon"``.
    kind : {"plain", "json", "jsonl", "csv", "parquet", "datasets"}, optional
        By default the file's ending decides.  ``"plain"``: UTF-8, or UTF-16 and UTF-32 with a
        byte-order mark, which is left out; lines end with a line feed whatever they end with in the
        file.  ``"json"``: an array of texts or of objects, or one object.  ``"jsonl"``: a JSON
        object on each line.  ``"csv"``: a table with a heading, its columns separated by commas,
        semicolons or tabs.  ``"parquet"``: a table; needs the extra ``parquet``.  ``"datasets"``: a
        name on the Hugging Face hub or a directory; needs the extra ``datasets``.  Files but those
        of Parquet may be compressed by gzip, bzip2 or xz; what is compressed has no known length.
    field : str
        The field of the objects, the table or the data set that holds the text.
    subset : str, optional
        The configuration of a data set.
    split : str
        The split of a data set.
    tokens : int, optional
        The number of tokens to take from the start, with those that begin windows; None for all.
    length : int, optional
        The number of tokens in a window; by default as many as the model has positions, at most
        512.
    stride : int, optional
        The number of tokens from one window to the next; by default the length.
    shuffled : bool
        Whether the tokens that were taken are shuffled: a control that is no language.
    seed : int
        The seed of the shuffling.
    special_tokens : bool
        Whether every window begins with the tokens that the model's tokenizer puts in front of a
        text, and the text ends with those that it puts behind one.
    name : str
        The label of the text; by default the source, how much is skipped, whether it is shuffled,
        and whether its special tokens are left out.
    skip : int
        The number of tokens to leave out at the start.

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
    special_tokens: bool = True
    name: str = ""
    skip: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source:
            raise ValueError(f"source must be a file, a name or '-', not {self.source!r}")
        suffix = _suffix(self.source)
        if not self.kind and suffix in _NO_TEXTS:
            raise ValueError(
                f"{self.source!r} is not read as a text: expected plain text, "
                f"{', '.join(_SUFFIXES)}, or one of them compressed ({', '.join(_PACKED)}); "
                "kind = 'plain' takes it as it is"
            )
        kind = self.kind or _SUFFIXES.get(suffix, "plain")
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}: expected {', '.join(KINDS)}")
        object.__setattr__(self, "kind", kind)
        if self.is_given and kind not in _OF_TEXT:
            expected = ", ".join(_OF_TEXT)
            raise ValueError(f"{self.source!r} cannot be of kind {kind!r}: expected {expected}")
        for field in ("tokens", "length", "stride"):
            if getattr(self, field) is not None:
                self._make_integer(field, 1, "a positive integer")
        for field in ("shuffled", "special_tokens"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"{field} must be true or false, not {getattr(self, field)!r}")
        for field in ("seed", "skip"):
            self._make_integer(field, 0, "an integer from 0")
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
        return self.source in SAMPLES or self.source == STANDARD_INPUT

    @property
    def label(self) -> str:
        """The name of the text for people."""
        behind = f", from token {self.skip}" if self.skip else ""
        plain = "" if self.special_tokens else ", without special tokens"
        return self.name or self.source + behind + (", shuffled" if self.shuffled else "") + plain

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

    def documents(self, given: str | Stream | None = None) -> Iterator[str]:
        """Iterate over the documents that are not blank.

        Parameters
        ----------
        given : str or lamp._files.Stream, optional
            Standard input, if it has been opened or read already: it can be read once.

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
        return (document.head() for document in self._documents(given))

    def _documents(self, given: str | Stream | None) -> Generator[Stream, None, None]:
        """Iterate over the documents that are not blank, which may be read in part."""
        stream = Stream.of(given, STANDARD_INPUT) if isinstance(given, str) else given
        found = (each for each in KINDS[self.kind](self, stream) if not each.is_blank())
        first = next(found, None)
        if first is None:
            raise ValueError(f"{self.source} holds no text")
        yield from itertools.chain([first], found)

    def read(self, model: Decoder, given: str | Stream | None = None) -> Text:
        """Read the text as tokens of a model.

        The tokens that the model's tokenizer puts in front of a text are in front of every window;
        those that it puts behind are behind the last document, if that is read to its end.

        Parameters
        ----------
        model : Decoder
            The model.
        given : str or lamp._files.Stream, optional
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
        before, after = special_tokens(model) if self.special_tokens else ((), ())
        sizes = window_sizes(model, self.length, self.stride, len(before))
        fit = None if self.tokens is None else fitting(self.tokens, *sizes, len(before))
        most = None if fit is None else fit + self.skip
        parts: list[NDArray[np.int64]] = []
        count, share = 0, None
        with contextlib.closing(self._documents(given)) as documents:
            for document in documents:
                wanted = None if most is None else max(most - count, 0)
                part = _first_tokens(model, _SEPARATOR if parts else "", document, wanted)
                parts.append(part.tokens)
                count += len(part.tokens)
                if part.is_cut or (count == most and _has_more(documents)):
                    share = part.share
                    break
            else:
                parts.append(np.array(after, np.int64))
        if self.skip >= sum(map(len, parts)):
            raise ValueError(f"{self.label} has no tokens behind the {self.skip} that are skipped")
        text = Text.of(
            np.concatenate(parts)[self.skip :],
            model,
            source=self.label,
            count=self.tokens,
            length=self.length,
            stride=self.stride,
            shuffled=self.seed if self.shuffled else None,
            begins=before,
        )
        if share is not None and self.skip:
            share = 0.0  # what is skipped was read, too
        return replace(text, left_out=self._left_out(share, text.read) or text.left_out)

    def _left_out(self, share: float | None, read: int) -> str:
        """What is not read of the source, in words; `share` of it is read, None for all of it."""
        if share is None or self.source in SAMPLES:
            return ""
        part = f", about {100 * share:.2g} % of it" if share else ", and it has more"
        return f"{self.label}: the first {read} tokens are read{part}"


# --- tokens ---------------------------------------------------------------------------------------


def special_tokens(model: Decoder) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that a model's tokenizer puts in front of a text and behind it.

    Parameters
    ----------
    model : Decoder

    Returns
    -------
    before, after : tuple of int

    Examples
    --------
    >>> import lamp
    >>> from lamp.evaluation import special_tokens
    >>> special_tokens(lamp.from_pretrained("embedded"))
    ((), ())
    """
    whole = tuple(model.encode(_SAMPLE).tolist())
    plain = tuple(model.encode(_SAMPLE, add_special_tokens=False).tolist())
    for first in range(len(whole) - len(plain) + 1):
        if whole[first : first + len(plain)] == plain:
            return whole[:first], whole[first + len(plain) :]
    return (), ()


class _Part(NamedTuple):
    """The first tokens of a document, and which share of a file they are, if that is known."""

    tokens: NDArray[np.int64]
    is_cut: bool = False
    share: float = 0.0


def _first_tokens(model: Decoder, before: str, document: Stream, wanted: int | None) -> _Part:
    """The first tokens of a text and a document, which are those of all of it.

    Where a text is cut, its last tokens may differ from those of the whole text.  Two cuts at
    different places have the wanted tokens in common, or more of the text is taken.
    """

    def encoded(text: str) -> NDArray[np.int64]:
        return model.encode(before + text, add_special_tokens=False)

    if wanted is None:
        return _Part(encoded(document.head()))
    size = _PER_TOKEN * wanted + _BEYOND
    while document.is_longer(size):
        text = document.head(size)
        first, second = encoded(text), encoded(document.head(size + size // 4))
        if len(first) > wanted and np.array_equal(first[:wanted], second[:wanted]):
            read = len(text.encode()) * wanted / len(first)
            return _Part(first[:wanted], True, read / document.size if document.size else 0.0)
        size *= 2
    tokens = encoded(document.head())
    share = wanted / len(tokens) if document.size and len(tokens) else 0.0
    return _Part(tokens[:wanted], len(tokens) > wanted, share)


def _has_more(documents: Iterator[Stream]) -> bool:
    """Whether there are more documents, even broken ones."""
    try:
        return next(documents, None) is not None
    except ValueError:
        return True


# --- kinds ----------------------------------------------------------------------------------------


def standard_input() -> Stream:
    """Standard input as a text, which is read as far as it is needed.

    Returns
    -------
    lamp._files.Stream
        It can be given to several sources.
    """
    return Stream("standard input", sys.stdin.buffer)


def read_standard_input() -> str:
    """Read standard input to its end.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is empty or not UTF-8, or does not end.
    """
    text = standard_input().head()
    if not text:
        raise ValueError("standard input is empty: expected a text")
    return text


@contextlib.contextmanager
def _opened(source: Source, given: Stream | None, *, keep: bool) -> Iterator[Stream]:
    """The text of a file, which is closed at the end, or of standard input, which is not."""
    if source.source == STANDARD_INPUT:
        stream = standard_input() if given is None else given
        if not stream.head(1):
            raise ValueError("standard input is empty: expected a text")
        yield stream
        return
    if source.source in SAMPLES:
        yield Stream.of(SAMPLES[source.source].text(), source.source)
        return
    with contextlib.closing(Stream.open(Path(source.source), keep=keep)) as stream:
        yield stream


def _plain(source: Source, given: Stream | None) -> Iterator[Stream]:
    with _opened(source, given, keep=True) as stream:
        yield stream


def _jsonl(source: Source, given: Stream | None) -> Iterator[Stream]:
    with _opened(source, given, keep=source.is_given) as stream:
        for number, line in enumerate(stream.lines(), 1):
            if line.strip():
                where = f"{source.source}, line {number}"
                yield _field(_object(_parsed(line, where), where), source, where)


def _json(source: Source, given: Stream | None) -> Iterator[Stream]:
    with _opened(source, given, keep=True) as stream:
        found = _parsed(stream.head(), source.source)
    if not isinstance(found, list):
        yield _field(_object(found, source.source), source, source.source)
        return
    for number, entry in enumerate(found):
        where = f"{source.source}, entry {number}"
        if isinstance(entry, str):
            yield _text(entry, "it", where)
        else:
            yield _field(_object(entry, where), source, where)


def _parsed(text: str, where: str) -> Any:
    """What a text in JSON stands for."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{where} is not JSON: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _object(found: Any, where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"{where} is not a JSON object, but {json.dumps(found)[:40]}")
    return found


def _csv(source: Source, given: Stream | None) -> Iterator[Stream]:
    with _opened(source, given, keep=source.is_given) as stream:
        lines = (line + "\n" for line in stream.lines())
        heading = next((line for line in lines if line.strip()), "")
        delimiter = _delimiter(heading, source)
        # The library's own limit is one of the process, and too low for documents.
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        rows = csv.DictReader(
            itertools.chain([heading], lines), delimiter=delimiter, strict=True, restval=""
        )
        try:
            for number, row in enumerate(rows):
                where = f"{source.source}, row {number}"
                if None in row:
                    raise ValueError(f"{where} has more cells than the heading has columns")
                yield _field(row, source, where)
        except csv.Error as error:
            raise ValueError(f"{source.source} is not a table: {error}") from error


def _delimiter(heading: str, source: Source) -> str:
    """What separates columns, so that the field is one of them."""
    for delimiter in _DELIMITERS:
        names = next(csv.reader([heading], delimiter=delimiter), [])
        if source.field in names:
            return delimiter
    raise ValueError(
        f"{source.source} has no column {source.field!r} in its heading: {heading.strip()[:80]!r}"
    )


def _field(record: dict[str, Any], source: Source, where: str) -> Stream:
    if source.field not in record:
        raise ValueError(f"{where} has no field {source.field!r}: it has {', '.join(record)}")
    return _text(record[source.field], f"field {source.field!r}", where)


def _text(value: Any, what: str, where: str) -> Stream:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {what} is not a string, but {value!r:.40}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {what} is not Unicode: {error}") from error
    return Stream.of(value, where)


def _parquet(source: Source, given: Stream | None) -> Iterator[Stream]:
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


def _dataset(source: Source, given: Stream | None) -> Iterator[Stream]:
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


def _suffix(name: str) -> str:
    """The ending that tells a file's kind, without that of its compression."""
    path = Path(name.lower())
    return (path.with_suffix("") if path.suffix in _PACKED else path).suffix


_OF_TEXT: Final[dict[str, Callable[[Source, Stream | None], Iterator[Stream]]]] = {
    "plain": _plain,
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
}
KINDS: Final[dict[str, Callable[[Source, Stream | None], Iterator[Stream]]]] = {
    **_OF_TEXT,
    "parquet": _parquet,
    "datasets": _dataset,
}
"""The kinds of sources, each with the function that iterates over its documents."""
