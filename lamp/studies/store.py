"""The results of studies, in one SQLite file.

A store is in WAL mode: readers never wait, writers wait their turn, and a process that is killed
leaves the store as it was before its last transaction.  WAL needs shared memory, so the store lies
on a disk of the machine that sweeps.  Its tables:

``runs``
    A row per run that has ended, written in one transaction with its rates.  ``key`` is the SHA-256
    of ``configuration``, a JSON text with everything that the numbers depend on.  ``state`` is
    ``done`` or ``failed``.  A run that is done has ``tokens``, ``kl``, ``flip_rate``,
    ``reference_perplexity``, ``perplexity``, ``recomputation_rate``, ``high_precision_share``, as
    in :class:`lamp.Metrics`.  SQLite has no NaN: a metric that is NULL in a run that is done is
    NaN.  Infinity is itself.  A run that has failed has ``error``, a line, and ``traceback``.
    ``seconds`` is the wall time of the forward passes and comparisons, without loading the model
    and without the reference; ``started_at`` and ``finished_at`` are UTC, as ISO 8601.
    ``environment`` says where it was measured.  A run that is done never changes.
``rates``
    Recomputation rates by ``key``, ``step`` and ``layer``; the step ``all`` is all steps together
    (``Metrics.layer_rates``).
``environments``
    ``id`` and ``record``: JSON with host, processor, cores, threads, versions.
``studies``
    ``name``, ``definition`` (JSON, what the study says), ``planned_at``.
``members``
    The runs of each study and their labels: ``study``, ``position`` (from 0, in the study's order),
    ``key``, ``model``, ``text``, ``hardware``, ``lamp``, ``reference``, and ``variables``, a JSON
    object with the values of the grid.  It is written before anything is measured, so that missing
    runs are known.  A study that changes gets new rows; runs that no study has any more stay.
``claims``
    Runs that a process is measuring: ``key``, ``owner``, ``host``, ``pid``, and ``expires``, when
    the claim lapses unless it is renewed (seconds since 1970).
``files``
    Digests of files by ``path``, ``size`` and ``changed``, the time of the last change of the file
    itself (nanoseconds since 1970), so that they are not read again.

The view ``results`` has a row per run of each study: its labels, ``state`` (``missing`` if it has
not ended), and the columns of ``runs``::

    sqlite3 study.sqlite "SELECT hardware, lamp, kl FROM results WHERE state = 'done' ORDER BY kl"

In Python, :meth:`Store.runs` gives the same as :class:`Run` objects.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from lamp.evaluation import Metrics
from lamp.studies import database
from lamp.studies.runs import Counts, Result, Run, now

__all__ = ["Store", "last_change"]

_LEASE: Final = 60.0  # seconds after which a claim lapses that is not renewed
_ALL: Final = "all"
_METRICS: Final = (
    "tokens",
    "kl",
    "flip_rate",
    "reference_perplexity",
    "perplexity",
    "recomputation_rate",
    "high_precision_share",
)
_LABELS: Final = ("model", "text", "hardware", "lamp", "reference")
_ENDED: Final = ("seconds", "started_at", "finished_at", "error", "environment")
_COLUMNS: Final = (
    "key",
    "state",
    "configuration",
    *_METRICS,
    "seconds",
    "started_at",
    "finished_at",
    "error",
    "traceback",
    "environment",
)


def last_change(status: os.stat_result) -> int:
    """Return when a file changed last, in nanoseconds since 1970.

    The time of modification does not do: a program that replaces a file may set it to that of the
    old one, as ``cp -p``, ``rsync`` and ``tar`` do.  No program sets the time of change (POSIX
    ctime).

    Parameters
    ----------
    status : os.stat_result

    Returns
    -------
    int
    """
    return status.st_ctime_ns if os.name == "posix" else status.st_mtime_ns


class Store:
    """A file of results, opened by :meth:`open`.

    Parameters
    ----------
    path : Path
        The file.
    connection : sqlite3.Connection
        A connection to it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._host = socket.gethostname()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, write: bool = False) -> Self:
        """Open a store.

        Parameters
        ----------
        path : str or path-like
            The file.
        write : bool
            Whether to write to it; a file that does not exist is made.

        Returns
        -------
        Store
            A context manager that closes the file.

        Raises
        ------
        FileNotFoundError
            If there is no such file to read, or no folder to make it in.
        ValueError
            If the file is no store, is damaged, or is from a newer version; it is left as it is.
        OSError
            If the file cannot be written to.
        """
        file = Path(path)
        if write and not file.parent.is_dir():
            raise FileNotFoundError(f"no folder {str(file.parent)!r} for the store {str(file)!r}")
        if not write and not file.is_file():
            raise FileNotFoundError(f"no store {str(file)!r}")
        with database.explained(file):
            store = cls(file, database.connect(file, write=write))
            try:
                database.check(store._connection, file, write=write)
                if write:
                    database.create(store._connection, file)
            except BaseException:
                store.close()
                raise
            return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _transaction(self, *, durable: bool = True) -> AbstractContextManager[None]:
        return database.transaction(self._connection, self.path, durable=durable)

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with database.explained(self.path):
            return self._connection.execute(query, values).fetchall()

    # --- reading ----------------------------------------------------------------------------------

    def studies(self) -> dict[str, Any]:
        """Return what each study says, by its name.

        Returns
        -------
        dict
            Name to plain data.
        """
        rows = self._rows("SELECT name, definition FROM studies ORDER BY name")
        return {name: json.loads(definition) for name, definition in rows}

    def counts(self, study: str) -> Counts:
        """Count the runs of a study by state, each once, whatever its labels.

        Parameters
        ----------
        study : str
            The name of the study.

        Returns
        -------
        Counts
        """
        query = (
            "SELECT state, count(*), count(CASE WHEN state != 'done' AND expires > ? THEN 1 END) "
            "FROM (SELECT DISTINCT key, state, expires FROM results LEFT JOIN claims USING (key) "
            "WHERE study = ?) GROUP BY state"
        )
        rows = self._rows(query, time.time(), study)
        found = {state: count for state, count, _ in rows}
        done, failed, missing = (found.get(state, 0) for state in ("done", "failed", "missing"))
        return Counts(done, failed, missing, running=sum(running for *_, running in rows))

    def runs(self, study: str | None = None) -> list[Run]:
        """Return the runs of a study, or of all, in order.

        Parameters
        ----------
        study : str, optional
            The name of the study; by default all studies.

        Returns
        -------
        list of Run

        Examples
        --------
        >>> from lamp.studies import Store
        >>> with Store.open("study.sqlite") as store:  # doctest: +SKIP
        ...     best = min(store.runs(), key=lambda run: run.metrics.kl)
        """
        condition, values = ("WHERE study = ?", (study,)) if study is not None else ("", ())
        with database.explained(self.path):
            rates = self._rates(condition, values)
            cursor = self._connection.cursor()
            cursor.row_factory = sqlite3.Row
            rows = cursor.execute(f"SELECT * FROM results {condition}", values)
            return [_run(row, rates) for row in rows]

    def _rates(self, condition: str, values: tuple[str, ...]) -> dict[str, dict[str, list[float]]]:
        """Return the rates of the layers, in order, by key and step."""
        query = (
            "SELECT key, step, rate FROM rates WHERE key IN "
            f"(SELECT key FROM members {condition}) ORDER BY key, step, layer"
        )
        rates: dict[str, dict[str, list[float]]] = {}
        for key, step, rate in self._connection.execute(query, values):
            rates.setdefault(key, {}).setdefault(step, []).append(_number(rate))
        return rates

    def configuration(self, key: str) -> dict[str, Any]:
        """Return everything that the numbers of a run depend on.

        Parameters
        ----------
        key : str
            The key of a run that has ended.

        Returns
        -------
        dict

        Raises
        ------
        KeyError
            If the run has not ended.
        """
        rows = self._rows("SELECT configuration FROM runs WHERE key = ?", key)
        if not rows:
            raise KeyError(key)
        found: dict[str, Any] = json.loads(rows[0][0])
        return found

    def traceback(self, key: str) -> str:
        """Return the traceback of a run that failed; empty for any other.

        Parameters
        ----------
        key : str

        Returns
        -------
        str
        """
        rows = self._rows("SELECT traceback FROM runs WHERE key = ?", key)
        return (rows[0][0] or "") if rows else ""

    def environments(self) -> dict[str, dict[str, Any]]:
        """Return the environments that runs were measured in.

        Returns
        -------
        dict
            ``Run.environment`` to plain data.
        """
        rows = self._rows("SELECT id, record FROM environments ORDER BY id")
        return {name: json.loads(record) for name, record in rows}

    def finished(self) -> frozenset[str]:
        """Return the keys of all runs that are done.

        Returns
        -------
        frozenset of str
        """
        return frozenset(key for (key,) in self._rows("SELECT key FROM runs WHERE state = 'done'"))

    # --- writing ----------------------------------------------------------------------------------

    def plan(self, study: str, definition: Mapping[str, Any], runs: Sequence[Run]) -> None:
        """Write down the runs of a study, in place of those it had before.

        Parameters
        ----------
        study : str
            The name of the study.
        definition : mapping
            What the study says; plain data.
        runs : sequence of Run
            The runs in order; their results are not read.
        """
        rows = (
            (
                study,
                position,
                run.key,
                *(getattr(run, label) for label in _LABELS),
                json.dumps(dict(run.variables), allow_nan=False),
            )
            for position, run in enumerate(runs)
        )
        values = study, json.dumps(definition), now()
        with self._transaction():
            self._connection.execute("DELETE FROM members WHERE study = ?", (study,))
            self._connection.execute(database.insert("studies", 3, "REPLACE"), values)
            self._connection.executemany(database.insert("members", 4 + len(_LABELS)), rows)

    def claim(self, key: str, owner: str) -> Literal["claimed", "taken", "done"]:
        """Claim a run for this process.

        Parameters
        ----------
        key : str
            The run.
        owner : str
            The name of the sweep.

        Returns
        -------
        {"claimed", "taken", "done"}
            ``"taken"`` if a process that lives has claimed the run.
        """
        with self._transaction(durable=False):
            state = database.first(self._connection, "SELECT state FROM runs WHERE key = ?", key)
            if state == "done":
                return "done"
            query = "SELECT owner, host, pid, expires FROM claims WHERE key = ?"
            other = self._connection.execute(query, (key,)).fetchone()
            if other is not None and other[0] != owner and self._lives(*other[1:]):
                return "taken"
            values = key, owner, self._host, os.getpid(), time.time() + _LEASE
            self._connection.execute(database.insert("claims", 5, "REPLACE"), values)
            return "claimed"

    def _lives(self, host: str, pid: int, expires: float) -> bool:
        """Whether the owner of a claim lives, as far as can be told."""
        if time.time() > expires:
            return False
        if host != self._host or os.name != "posix":
            return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # a process of another user
        return True

    def renew(self, owner: str) -> None:
        """Renew all claims of an owner.

        Parameters
        ----------
        owner : str
        """
        with self._transaction(durable=False):
            values = time.time() + _LEASE, owner
            self._connection.execute("UPDATE claims SET expires = ? WHERE owner = ?", values)

    def release(self, owner: str) -> None:
        """Give up all claims of an owner.

        Parameters
        ----------
        owner : str
        """
        with self._transaction(durable=False):
            self._connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))

    def finish(self, key: str, configuration: str, result: Result) -> bool:
        """Write down the result of a run; it is on the disk when this returns.

        Parameters
        ----------
        key : str
            The run.
        configuration : str
            Everything that its numbers depend on, as JSON.
        result : Result

        Returns
        -------
        bool
            False if the run was done already: then nothing changes.
        """
        record = json.dumps(result.environment, sort_keys=True)
        environment = hashlib.sha256(record.encode()).hexdigest()[:16]
        metrics = result.metrics
        values = (
            key,
            "failed" if metrics is None else "done",
            configuration,
            *(None if metrics is None else getattr(metrics, name) for name in _METRICS),
            result.seconds,
            result.started_at,
            result.finished_at,
            result.error or None,
            result.traceback or None,
            environment,
        )
        changes = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])
        statement = (
            f"{database.insert('runs', len(_COLUMNS))} ON CONFLICT (key) DO UPDATE SET {changes} "
            "WHERE runs.state = 'failed'"
        )
        with self._transaction():
            place = environment, record
            self._connection.execute(database.insert("environments", 2, "IGNORE"), place)
            new = self._connection.execute(statement, values).rowcount == 1
            if new and metrics is not None:
                self._connection.executemany(database.insert("rates", 4), _rates(key, metrics))
            self._connection.execute("DELETE FROM claims WHERE key = ?", (key,))
        return new

    def digest(self, file: Path) -> str:
        """Return the SHA-256 of a file, which is read once as long as it does not change.

        Parameters
        ----------
        file : Path

        Returns
        -------
        str
        """
        path = str(file.resolve())
        status = file.stat()
        size, changed = status.st_size, last_change(status)
        query = "SELECT sha256 FROM files WHERE (path, size, changed) = (?, ?, ?)"
        known = self._rows(query, path, size, changed)
        if known:
            return str(known[0][0])
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        with self._transaction(durable=False):
            values = path, size, changed, digest
            self._connection.execute(database.insert("files", 4, "REPLACE"), values)
        return digest


# --- rows -----------------------------------------------------------------------------------------


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _rates(key: str, metrics: Metrics) -> Iterator[tuple[str, str, int, float]]:
    """Iterate over the rows of the table ``rates`` for a run."""
    steps = {**metrics.step_rates, _ALL: metrics.layer_rates}
    for step, rates in steps.items():
        for layer, rate in enumerate(rates):
            yield key, step, layer, rate


def _run(row: sqlite3.Row, rates: Mapping[str, Mapping[str, list[float]]]) -> Run:
    """Return the run of a row of the view ``results``."""
    values = {name: row[name] for name in ("study", "position", "key", *_LABELS, "state", *_ENDED)}
    done = values["state"] == "done"
    metrics = _metrics(row, rates.get(values["key"], {})) if done else None
    return Run(**values, variables=json.loads(row["variables"]), metrics=metrics)


def _metrics(row: sqlite3.Row, rates: Mapping[str, list[float]]) -> Metrics:
    steps = {step: tuple(layers) for step, layers in rates.items()}
    layers = steps.pop(_ALL, ())
    values: dict[str, Any] = {name: _number(row[name]) for name in _METRICS}
    return Metrics(layer_rates=layers, step_rates=steps, **values)
