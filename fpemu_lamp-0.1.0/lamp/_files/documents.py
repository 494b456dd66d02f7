"""TOML files that people write: their values, and the line of each.

The standard library's reader does not report lines.  They are found by a second look at the text:
headers of tables and keys stand at the beginning of a line, entries of a list behind their key.

What people write is small.  A text is refused if it is so large, or so deeply nested, that it would
take long to read.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

__all__ = ["Document", "blamed", "where"]

_PART: Final = r"(?:[\w-]+|\"[^\"]*\"|'[^']*')"
_NAME: Final = rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*"
_TABLE: Final = re.compile(rf"\s*\[{_NAME}\]")
_TABLE_OF_SEVERAL: Final = re.compile(rf"\s*\[\[{_NAME}\]\]")
_KEY: Final = re.compile(rf"{_NAME}=")

_MOST_BYTES: Final = 2**20
_DEEPEST: Final = 16  # brackets within brackets, and parts of a dotted key
_LONGEST_KEY: Final = 200
_INTEGERS: Final = range(-(2**63), 2**64)  # TOML's own, and seeds of 64 bits
_QUOTED: Final = re.compile(
    r"\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}.*?'{3}|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|\#[^\n]*", re.DOTALL
)
_DOTTED: Final = re.compile(
    rf"(?<![\w\"-])[\w\"-]++(?:\s*+\.\s*+[\w\"-]++){{{_DEEPEST}}}"  # in linear time
)


class Document:
    r"""A TOML text and the lines of its tables and keys.

    The tables of an array ``[[texts]]`` are called ``texts[0]``, ``texts[1]``, ...

    Parameters
    ----------
    text : str
        The text.
    source : str
        What error messages call it.

    Raises
    ------
    ValueError
        If the text is not TOML, has more than 1 MiB, or is too deeply nested; the message names
        the line.

    Examples
    --------
    >>> from lamp._files import Document
    >>> document = Document('name = "mine"\n[grid]\nmu = [2, 4]', "study.toml")
    >>> document.error("too few", "grid", "mu")
    ValueError('study.toml, line 3: too few')
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._text = text.splitlines()
        _check_size(text, source)
        try:
            self.values: Mapping[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            end = f"line {len(self._text)}, at the end"
            reason = str(error).replace("at end of document", end)
            raise ValueError(f"{source} is not TOML: {reason}") from error
        except ValueError as error:  # Python converts no more than 4,300 digits
            raise ValueError(f"{source} is not TOML: an integer is too large") from error
        self._lines = self._find_lines()
        for key, value in self.values.items():
            table = isinstance(value, Mapping)
            self._check_value(value, key if table else "", "" if table else key)

    @classmethod
    def read(cls, path: str | os.PathLike[str], kind: str) -> Document:
        """Read a document from a file.

        Parameters
        ----------
        path : str or path-like
            The file.
        kind : str
            What the file holds, for error messages.

        Returns
        -------
        Document

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not TOML.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"no {kind} file {str(file)!r}")
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise _too_large(str(file))
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: {error}") from error
        return cls(text.replace("\r\n", "\n"), str(file))

    def _check_value(self, value: Any, table: str, key: str) -> None:
        """Raise a ValueError for a key or an integer that nothing here can mean."""
        if max(len(table), len(key)) > _LONGEST_KEY:
            raise self.error(f"a key has {len(table or key)} letters, more than {_LONGEST_KEY}", "")
        if isinstance(value, Mapping):
            for name, part in value.items():
                if len(name) > _LONGEST_KEY:
                    raise self.error(f"a key has {len(name)} letters, too many", table, key)
                self._check_value(part, table, key or name)
        elif isinstance(value, list):
            for part in value:
                self._check_value(part, table, key)
        elif isinstance(value, int) and value not in _INTEGERS:
            raise self.error(f"an integer of {key!r} has more than 64 bits", table, key)

    def _find_lines(self) -> dict[tuple[str, str], int]:
        """The line of each (table, key); the table of the first lines is the empty string.

        A table within a table, ``[scores.accumulator]``, is also a key of the outer one.
        """
        lines: dict[tuple[str, str], int] = {}
        counts: dict[str, int] = {}
        table = ""
        for number, line in enumerate(self._text, 1):
            if match := _TABLE_OF_SEVERAL.match(line):
                name = _plain(match[1])
                table = f"{name}[{counts.get(name, 0)}]"
                counts[name] = counts.get(name, 0) + 1
                lines.setdefault((name, ""), number)
                lines[table, ""] = number
            elif match := _TABLE.match(line):
                table = _plain(match[1])
                lines.setdefault((table, ""), number)
                parts = table.split(".")
                for depth in range(1, len(parts)):
                    lines.setdefault((".".join(parts[:depth]), parts[depth]), number)
            elif match := _KEY.match(line):
                lines.setdefault((table, _plain(match[1]).partition(".")[0]), number)
        return lines

    def has_table(self, table: str) -> bool:
        """Whether a table has a header of its own."""
        return (table, "") in self._lines

    def line(self, table: str, key: str = "", entry: str = "") -> int | None:
        """The line of a table, of a key, or of an entry in a list.

        Parameters
        ----------
        table : str
            The name of the table; empty for the keys before all tables.
        key : str
            A key of the table.
        entry : str
            A string in the list behind the key.

        Returns
        -------
        int or None
            The line, counted from 1.  If the entry or key is not found, the line of what contains
            it; None if that is not found either.
        """
        found = self._lines.get((table, key)) or self._lines.get((table, ""))
        # A table may also be a key of the first, or of the one that it is in.
        outer, _, name = table.rpartition(".")
        found = found or self._lines.get((outer, name))
        found = found or (self.line(outer) if outer else None)
        if found is None or not entry:
            return found
        for number, line in enumerate(self._text[found - 1 :], found):
            if f'"{entry}"' in line or f"'{entry}'" in line:
                return number
        return found

    def error(self, message: object, table: str, key: str = "", entry: str = "") -> ValueError:
        """An error whose message begins with the source and the line.

        Parameters
        ----------
        message : object
            What is wrong.
        table, key, entry : str
            See :meth:`line`.

        Returns
        -------
        ValueError
        """
        line = self.line(table, key, entry)
        where = f"{self.source}, line {line}" if line else self.source
        return ValueError(f"{where}: {message}")

    def check_names(self, given: Iterable[str], known: Iterable[str], table: str) -> None:
        """Raise a ValueError for the first key that is not known.

        Parameters
        ----------
        given : iterable of str
            Keys of the table.
        known : iterable of str
            Keys that the table may have.
        table : str
            The name of the table.
        """
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
                where = (table, name) if table else (name, "")
                what = f"of [{table.partition('[')[0]}] " if table else ""
                raise self.error(f"unknown key {name!r} {what}- {hint}", *where)


def _too_large(source: str) -> ValueError:
    return ValueError(f"{source} has more than {_MOST_BYTES:,} bytes: such a file is not read")


def _check_size(text: str, source: str) -> None:
    """Raise a ValueError for a text that would take long to read."""
    if len(text) > _MOST_BYTES:
        raise _too_large(source)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{source} has half a character: {error}") from error
    # Strings stay as empty ones on as many lines.
    bare = _QUOTED.sub(lambda match: '""' + "\n" * match[0].count("\n"), text)
    found = _DOTTED.search(bare)
    end = found.start() if found else None
    depth = 0
    for match in re.finditer(r"[\[\]{}]", bare):
        depth += 1 if match[0] in "[{" else -1
        if depth > _DEEPEST:
            end = match.start() if end is None else min(end, match.start())
            break
    if end is not None:
        line = bare.count("\n", 0, end) + 1
        raise ValueError(f"{source}, line {line}: nested more than {_DEEPEST} deep")


def _plain(name: str) -> str:
    """A dotted name without blanks and quotes around its parts."""
    return re.sub(r"\s*\.\s*", ".", name.strip()).replace('"', "").replace("'", "")


def where(document: Document | None, *place: str) -> str:
    """The source and line of a place, to begin a message with; empty if there is no document.

    Parameters
    ----------
    document : Document or None
    *place : str
        As :meth:`Document.line` takes it.

    Returns
    -------
    str
    """
    return "" if document is None else str(document.error("", *place))


@contextmanager
def blamed(document: Document | None, *place: str) -> Iterator[None]:
    """Raise errors from here on with the source and line of a place.

    Parameters
    ----------
    document : Document or None
    *place : str
        As :meth:`Document.line` takes it.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        kinds = (FileNotFoundError, ModuleNotFoundError, OSError, ValueError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), ValueError)
        raise kind(f"{where(document, *place)}{error}") from error
