"""TOML files that people write: what they say, and on which line.

The standard library's reader tells no lines.  They are found by looking at the text again: tables
and keys at the beginning of a line, entries of a list behind their key.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["Document"]

_TABLE: Final = re.compile(r"\s*\[\s*([\w-]+)\s*\]")
_TABLE_OF_SEVERAL: Final = re.compile(r"\s*\[\[\s*([\w-]+)\s*\]\]")
_KEY: Final = re.compile(r"\s*\"?([\w-]+)\"?\s*(?:\.[^=]*)?=")


class Document:
    r"""A TOML text.

    A table among several of a name, ``[[texts]]``, is called ``texts[0]``, ``texts[1]``.

    Parameters
    ----------
    text : str
        The text.
    source : str
        What messages call it.

    Raises
    ------
    ValueError
        If it is not TOML; the message names the line.

    Examples
    --------
    >>> from lamp.toml_files import Document
    >>> document = Document('name = "mine"\n[grid]\nmu = [2, 4]', "study.toml")
    >>> document.error("too few", "grid", "mu")
    ValueError('study.toml, line 3: too few')
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._text = text.splitlines()
        try:
            self.values: Mapping[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            end = f"line {len(self._text)}, at the end"
            reason = str(error).replace("at end of document", end)
            raise ValueError(f"{source} is not TOML: {reason}") from error
        self._lines = self._places()

    @classmethod
    def read(cls, path: str | os.PathLike[str], kind: str) -> Document:
        """The document in a file.

        Parameters
        ----------
        path : str or path-like
            The file.
        kind : str
            What it should be, in words.

        Returns
        -------
        Document

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not TOML.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"no {kind} file {str(file)!r}")
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: {error}") from error
        return cls(text, str(file))

    def _places(self) -> dict[tuple[str, str], int]:
        """The lines of tables and keys; those of the first table come under an empty name."""
        lines: dict[tuple[str, str], int] = {}
        counts: dict[str, int] = {}
        table = ""
        for number, line in enumerate(self._text, 1):
            if match := _TABLE_OF_SEVERAL.match(line):
                index = counts.get(match[1], 0)
                counts[match[1]] = index + 1
                table = f"{match[1]}[{index}]"
                lines.setdefault((match[1], ""), number)
                lines[table, ""] = number
            elif match := _TABLE.match(line):
                table = match[1]
                lines.setdefault((table, ""), number)
            elif match := _KEY.match(line):
                lines.setdefault((table, match[1]), number)
        return lines

    def line(self, table: str, key: str = "", entry: str = "") -> int | None:
        """Where something stands.

        Parameters
        ----------
        table : str
            Its name; empty for what comes before all tables.
        key : str
            A key of the table.
        entry : str
            A string in the list behind the key.

        Returns
        -------
        int or None
            From 1; the line of what is around it if it is not found.
        """
        found = self._lines.get((table, key)) or self._lines.get((table, ""))
        # A table may also be a key of the first.
        found = found or self._lines.get(("", table))
        if found is None or not entry:
            return found
        for number, line in enumerate(self._text[found - 1 :], found):
            if f'"{entry}"' in line or f"'{entry}'" in line:
                return number
        return found

    def error(self, message: object, table: str, key: str = "", entry: str = "") -> ValueError:
        """An error that says where.

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
        given, known : iterable of str
            Keys.
        table : str
            Where they are.
        """
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
                where = (table, name) if table else (name, "")
                what = f"of [{table.partition('[')[0]}] " if table else ""
                raise self.error(f"unknown key {name!r} {what}- {hint}", *where)
