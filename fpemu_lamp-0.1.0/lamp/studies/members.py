"""The runs of a plan by position, on the disk: there may be millions."""

from __future__ import annotations

import errno
import itertools
import json
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from lamp.studies import database
from lamp.studies.records import LABELS
from lamp.studies.runs import Run, TaskRun

__all__ = ["Members", "in_parts"]

_AT_ONCE: Final = 1000
_Item = TypeVar("_Item")
_CACHE: Final = 16_000  # KiB
_SETTINGS: Final = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    f"PRAGMA cache_size = -{_CACHE}",
)
_TABLE: Final = f"""
CREATE TABLE members (
    position INTEGER PRIMARY KEY, key TEXT, {", ".join(LABELS)}, variables TEXT, subject TEXT
)
"""


def in_parts(items: Iterable[_Item], size: int = _AT_ONCE) -> Iterator[list[_Item]]:
    """Iterate over lists of some items at a time.

    Parameters
    ----------
    items : iterable
    size : int
        How many are in a list; the last may have fewer.

    Yields
    ------
    list

    Examples
    --------
    >>> from lamp.studies.members import in_parts
    >>> list(in_parts("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while part := [*itertools.islice(iterator, size)]:
        yield part


class Members:
    """The runs of a plan in order.

    They are in a file without a name, in the folder for temporary files, which is gone when this is
    closed.  Where there is no room for it, an OSError says so.
    """

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        for statement in (*_SETTINGS, _TABLE, "CREATE INDEX by_key ON members (key, position)"):
            self._connection.execute(statement)

    @classmethod
    def of(cls, runs: Iterable[Run]) -> Self:
        """Write runs down.

        Parameters
        ----------
        runs : iterable of Run
            In order; their results are not read.

        Returns
        -------
        Members
        """
        found = cls()
        for several in in_parts(runs):
            found.add(several)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def add(self, runs: Iterable[Run]) -> None:
        """Write further runs down.

        Parameters
        ----------
        runs : iterable of Run
        """
        rows = map(database.plain, map(_row, runs))
        with _explained():
            self._connection.execute("BEGIN")
            self._connection.executemany(database.insert("members", 4 + len(LABELS)), rows)
            self._connection.execute("COMMIT")

    def __iter__(self) -> Iterator[Run]:
        for position, key, *labels, variables, subject in self._rows("SELECT * FROM members"):
            known: dict[str, Any] = dict(zip(LABELS, labels, strict=True))
            known |= {"key": key, "variables": json.loads(variables), "position": position - 1}
            yield Run(**known) if subject is None else TaskRun(**known, subject=subject)

    def rows(self, *, tasks: bool) -> Iterator[tuple[Any, ...]]:
        """Iterate over the rows for a store's table, without the name of the study.

        Parameters
        ----------
        tasks : bool
            Whether those of tasks or those of texts are wanted.

        Yields
        ------
        tuple
        """
        columns = f"position - 1, key, {', '.join(LABELS)}, variables{', subject' * tasks}"
        is_task = "NOT NULL" if tasks else "NULL"
        return self._rows(f"SELECT {columns} FROM members WHERE subject IS {is_task}")

    def __contains__(self, key: str) -> bool:
        return next(self._rows("SELECT 1 FROM members WHERE key = ?", key), None) is not None

    def missing(self, finished: Callable[[Sequence[str]], Set[str]]) -> tuple[int, array[int]]:
        """Return the number of runs, and the positions of those that are to be measured.

        Runs that have a key in common count once, at the first of their positions.

        Parameters
        ----------
        finished : callable
            Tells which of some keys are those of runs that are done.

        Returns
        -------
        count : int
        positions : array of int
            In order.
        """
        count, positions = 0, array("q")
        query = "SELECT key, min(position) - 1 FROM members GROUP BY key"
        for rows in in_parts(self._rows(query)):
            done = finished([key for key, _ in rows])
            positions.extend(position for key, position in rows if key not in done)
            count += len(rows)
        return count, array("q", sorted(positions))

    def _rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with _explained():
            yield from self._connection.execute(query, values)


@contextmanager
def _explained() -> Iterator[None]:
    """Raise the errors of SQLite in words."""
    try:
        yield
    except sqlite3.Error as error:
        message = f"no room for the plan of the runs in the folder for temporary files ({error})"
        raise OSError(errno.ENOSPC, f"{message}; TMPDIR names another") from error


def _row(run: Run) -> tuple[Any, ...]:
    variables = json.dumps(dict(run.variables), allow_nan=False)
    subject = run.subject if isinstance(run, TaskRun) else None
    return None, run.key, *(getattr(run, label) for label in LABELS), variables, subject
