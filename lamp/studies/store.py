"""The results of sweeps, in one SQLite file.

A store is in WAL mode: whoever reads never waits, whoever writes waits its turn, and a process that
is killed leaves it as it was before its last transaction.  It lies on a disk of the machine that
sweeps, as WAL needs shared memory.  Its tables:

``runs``
    A row for each run that has ended, written in one transaction with its rates.  ``key`` is the
    SHA-256 of ``configuration``, a JSON text with everything that determines the numbers.
    ``state`` is ``done`` or ``failed``.  Of a run that is done: ``tokens``, ``kl``, ``flip_rate``,
    ``reference_perplexity``, ``perplexity``, ``recomputation_rate``, ``high_precision_share``, as
    in :class:`lamp.Metrics`.  SQLite has no NaN: a metric that is NULL in a run that is done is
    NaN.  Infinity is itself.  Of one that has failed: ``error``, a line, and ``traceback``.
    ``seconds`` is the wall time of its forward passes and comparisons, without the loading of the
    model and without the reference; ``started_at`` and ``finished_at`` are UTC, as ISO 8601.
    ``environment`` says where it ran.  A run that is done is never changed.
``rates``
    Recomputation rates of runs under look-ahead by ``key``, ``step`` and ``layer``; the step
    ``all`` is that of all steps together (``Metrics.layer_rates``).
``environments``
    ``id`` and ``record``: JSON with host, processor, cores, threads, versions.
``studies``
    ``name``, ``definition`` (JSON, what the study says), ``planned_at``.
``members``
    Which runs a study consists of, and what people call them: ``study``, ``position`` (from 0, in
    the study's order), ``key``, the labels ``model``, ``text``, ``hardware``, ``lamp``,
    ``reference``, and ``variables``, a JSON object with the values of the grid.  It is written
    before anything runs, so that what is missing can be told.  A study that has changed has new
    members; runs that are in no study any more stay.
``claims``
    Runs that some process is at: ``key``, ``owner``, ``host``, ``pid``, and until when
    (``expires``, seconds since 1970) unless it says again that it lives.
``files``
    Digests of files by ``path``, ``size`` and ``changed``, the time of the last change of the file
    itself (nanoseconds since 1970), so that they are not read again.

The view ``results`` has a row for each member of each study: its labels, ``state`` (``missing`` if
it has not run), and the columns of ``runs``.  It is what most people want::

    sqlite3 study.sqlite "SELECT hardware, lamp, kl FROM results WHERE state = 'done' ORDER BY kl"

From Python, :meth:`Store.records` gives the same as :class:`Record` objects.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from lamp.evaluation import Metrics

__all__ = ["Counts", "Member", "Outcome", "Record", "Store", "now"]

State = Literal["done", "failed", "missing"]

_APPLICATION: Final = 0x4C414D50  # "LAMP"
_SCHEMA: Final = 1
_PATIENCE: Final = 60.0  # seconds to wait for another process that writes
_LEASE: Final = 60.0  # seconds after which a claim lapses, if its owner has not been heard of
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
_RUN: Final = (
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

_TABLES: Final = """
CREATE TABLE environments (
    id TEXT PRIMARY KEY,
    record TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE runs (
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('done', 'failed')),
    configuration TEXT NOT NULL,
    tokens INTEGER,
    kl REAL,
    flip_rate REAL,
    reference_perplexity REAL,
    perplexity REAL,
    recomputation_rate REAL,
    high_precision_share REAL,
    seconds REAL NOT NULL,
    started_at TEXT NOT NULL,
    finished_at TEXT NOT NULL,
    error TEXT,
    traceback TEXT,
    environment TEXT NOT NULL REFERENCES environments (id)
) WITHOUT ROWID;

CREATE TABLE rates (
    key TEXT NOT NULL REFERENCES runs (key),
    step TEXT NOT NULL,
    layer INTEGER NOT NULL,
    rate REAL,
    PRIMARY KEY (key, step, layer)
) WITHOUT ROWID;

CREATE TABLE studies (
    name TEXT PRIMARY KEY,
    definition TEXT NOT NULL,
    planned_at TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE members (
    study TEXT NOT NULL REFERENCES studies (name),
    position INTEGER NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    text TEXT NOT NULL,
    hardware TEXT NOT NULL,
    lamp TEXT NOT NULL,
    reference TEXT NOT NULL,
    variables TEXT NOT NULL,
    PRIMARY KEY (study, position)
) WITHOUT ROWID;

CREATE TABLE claims (
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE files (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    sha256 TEXT NOT NULL
) WITHOUT ROWID;

CREATE VIEW results AS
SELECT study, position, model, text, hardware, lamp, reference, variables, key,
    coalesce(state, 'missing') AS state, tokens, kl, flip_rate, reference_perplexity, perplexity,
    recomputation_rate, high_precision_share, seconds, started_at, finished_at, error, environment
FROM members LEFT JOIN runs USING (key)
ORDER BY study, position;
"""


def now() -> str:
    """The time, as stores have it: UTC, ISO 8601.

    Returns
    -------
    str
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def last_change(status: os.stat_result) -> int:
    """When a file changed last, in nanoseconds since 1970.

    The time of modification does not tell: whoever replaces a file may set it to that of the old
    one, as ``cp -p``, ``rsync`` and ``tar`` do.  No program sets the time of change (POSIX ctime).

    Parameters
    ----------
    status : os.stat_result

    Returns
    -------
    int
    """
    return status.st_ctime_ns if os.name == "posix" else status.st_mtime_ns


@dataclass(frozen=True)
class Member:
    """A run of a study, whether it has run or not, and what people call it.

    Parameters
    ----------
    key : str
        The SHA-256 of its configuration.
    model, text, hardware, lamp, reference : str
        Labels.
    variables : mapping
        The values that the study's grid has in it.
    """

    key: str
    model: str
    text: str
    hardware: str
    lamp: str
    reference: str
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        looked_ahead = "" if self.lamp == "none" else f" + {self.lamp}"
        return f"{self.model}, {self.text}: {self.hardware}{looked_ahead}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    metrics : Metrics or None
        None if it failed.
    seconds : float
        Wall time of its forward passes and comparisons.
    started_at, finished_at : str
        As :func:`now` gives them.
    environment : mapping
        Where it ran; plain data.
    error, traceback : str
        Why it failed: a line, and all of it; empty if it did not.
    """

    metrics: Metrics | None
    seconds: float
    started_at: str
    finished_at: str
    environment: Mapping[str, Any]
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Record:
    """A run of a study as a store has it.

    Parameters
    ----------
    study : str
        The name of the study.
    position : int
        Its place in the study, from 0.
    member : Member
        Its key and labels.
    state : {"done", "failed", "missing"}
    metrics : Metrics or None
        None unless it is done.
    seconds : float or None
        Wall time; None if it is missing.
    started_at, finished_at : str or None
        UTC, as ISO 8601.
    error : str or None
        Why it failed.
    environment : str or None
        See :meth:`Store.environments`.
    """

    study: str
    position: int
    member: Member
    state: State
    metrics: Metrics | None = None
    seconds: float | None = None
    started_at: str | None = None
    finished_at: str | None = None
    error: str | None = None
    environment: str | None = None


@dataclass(frozen=True)
class Counts:
    """How far a study is: how many runs it has, and how many of them are in which state.

    Parameters
    ----------
    done, failed, missing : int
        Runs by state.
    running : int
        Those of the failed and missing ones that a process is at.
    """

    done: int
    failed: int
    missing: int
    running: int

    @property
    def total(self) -> int:
        """All runs of the study."""
        return self.done + self.failed + self.missing


class Store:
    """A file of results; opened by :meth:`open`.

    Parameters
    ----------
    path : Path
        The file.
    connection : sqlite3.Connection
        To it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._host = socket.gethostname()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, write: bool = False) -> Self:
        """A store.

        Parameters
        ----------
        path : str or path-like
            The file.
        write : bool
            Whether to write to it; it is made if there is none.

        Returns
        -------
        Store
            To be closed; a context manager.

        Raises
        ------
        FileNotFoundError
            If there is no such file to read, or no folder to make it in.
        ValueError
            If the file is no store, is damaged, or is from a newer version; it is left as it is.
        OSError
            If it cannot be written to.
        """
        file = Path(path)
        if write and not file.parent.is_dir():
            raise FileNotFoundError(f"no folder {str(file.parent)!r} for the store {str(file)!r}")
        if not write and not file.is_file():
            raise FileNotFoundError(f"no store {str(file)!r}")
        with _explained(file):
            store = cls(file, _connected(file, write))
            try:
                store._check(write)
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

    def _check(self, write: bool) -> None:
        """That the file is a store, or empty and to be one."""
        application, schema = self._pragma("application_id"), self._pragma("user_version")
        if application != _APPLICATION:
            if self._one("SELECT count(*) FROM sqlite_master"):
                raise ValueError(f"{self.path} is an SQLite file of another program, not a store")
            if not write:
                raise ValueError(f"{self.path} is empty, not a store")
        elif schema != _SCHEMA:
            raise ValueError(
                f"{self.path} has schema {schema}, from a newer version of this package, which "
                f"knows schema {_SCHEMA}"
            )
        found = self._one("PRAGMA quick_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError(str(found))
        if write:
            _keep_a_log(self._connection)
            self._create()

    def _create(self) -> None:
        with self._transaction():
            if self._pragma("application_id") == _APPLICATION:
                return
            for statement in _TABLES.split(";"):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._connection.execute(f"PRAGMA user_version = {_SCHEMA}")

    def _pragma(self, name: str) -> Any:
        return self._one(f"PRAGMA {name}")

    def _one(self, query: str, *values: Any) -> Any:
        """The first value of the first row; None if there is none."""
        row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All or nothing; if it is to be durable, on the disk when it has ended."""
        with _explained(self.path):
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    # --- reading ----------------------------------------------------------------------------------

    def studies(self) -> dict[str, Any]:
        """What each study says, by its name.

        Returns
        -------
        dict
            Name to plain data.
        """
        with _explained(self.path):
            rows = self._connection.execute("SELECT name, definition FROM studies ORDER BY name")
            return {name: json.loads(definition) for name, definition in rows}

    def counts(self, study: str) -> Counts:
        """How far a study is.

        Parameters
        ----------
        study : str
            Its name.

        Returns
        -------
        Counts
        """
        query = (
            "SELECT state, count(*), count(CASE WHEN state != 'done' AND expires > ? THEN 1 END) "
            "FROM (SELECT DISTINCT key, state, expires FROM results LEFT JOIN claims USING (key) "
            "WHERE study = ?) GROUP BY state"
        )
        with _explained(self.path):
            rows = self._connection.execute(query, (time.time(), study)).fetchall()
        found = {state: count for state, count, _ in rows}
        done, failed, missing = (found.get(state, 0) for state in ("done", "failed", "missing"))
        return Counts(done, failed, missing, running=sum(running for *_, running in rows))

    def records(self, study: str | None = None) -> list[Record]:
        """The runs of a study, or of all, in order.

        Parameters
        ----------
        study : str, optional
            Its name.

        Returns
        -------
        list of Record

        Examples
        --------
        >>> from lamp.store import Store
        >>> with Store.open("study.sqlite") as store:  # doctest: +SKIP
        ...     best = min(store.records(), key=lambda record: record.metrics.kl)
        """
        chosen = ("WHERE study = ?", (study,)) if study is not None else ("", ())
        with _explained(self.path):
            rates = self._rates(*chosen)
            cursor = self._connection.cursor()
            cursor.row_factory = sqlite3.Row
            rows = cursor.execute(f"SELECT * FROM results {chosen[0]}", chosen[1])
            return [_record(row, rates) for row in rows]

    def _rates(self, condition: str, values: tuple[str, ...]) -> dict[str, dict[str, list[float]]]:
        """By key and step, those of the layers in order."""
        query = (
            "SELECT key, step, rate FROM rates WHERE key IN "
            f"(SELECT key FROM members {condition}) ORDER BY key, step, layer"
        )
        rates: dict[str, dict[str, list[float]]] = {}
        for key, step, rate in self._connection.execute(query, values):
            rates.setdefault(key, {}).setdefault(step, []).append(_number(rate))
        return rates

    def configuration(self, key: str) -> dict[str, Any]:
        """Everything that determines the numbers of a run that has ended.

        Parameters
        ----------
        key : str

        Returns
        -------
        dict

        Raises
        ------
        KeyError
            If it has not.
        """
        with _explained(self.path):
            text = self._one("SELECT configuration FROM runs WHERE key = ?", key)
        if text is None:
            raise KeyError(key)
        found: dict[str, Any] = json.loads(text)
        return found

    def traceback(self, key: str) -> str:
        """All that is known of why a run failed; empty if it did not.

        Parameters
        ----------
        key : str

        Returns
        -------
        str
        """
        with _explained(self.path):
            return self._one("SELECT traceback FROM runs WHERE key = ?", key) or ""

    def environments(self) -> dict[str, dict[str, Any]]:
        """Where runs have run.

        Returns
        -------
        dict
            ``Record.environment`` to plain data.
        """
        with _explained(self.path):
            rows = self._connection.execute("SELECT id, record FROM environments ORDER BY id")
            return {name: json.loads(record) for name, record in rows}

    # --- writing ----------------------------------------------------------------------------------

    def plan(self, study: str, definition: Mapping[str, Any], members: Sequence[Member]) -> None:
        """Write down which runs a study consists of, in place of what it did before.

        Parameters
        ----------
        study : str
            Its name.
        definition : mapping
            What it says; plain data.
        members : sequence of Member
            Its runs in order.
        """
        rows = (
            (
                study,
                position,
                member.key,
                *(getattr(member, label) for label in _LABELS),
                json.dumps(dict(member.variables), allow_nan=False),
            )
            for position, member in enumerate(members)
        )
        values = study, json.dumps(definition), now()
        with self._transaction():
            self._connection.execute("DELETE FROM members WHERE study = ?", (study,))
            self._connection.execute("INSERT OR REPLACE INTO studies VALUES (?, ?, ?)", values)
            self._connection.executemany(_insert("members", 4 + len(_LABELS)), rows)

    def finished(self) -> frozenset[str]:
        """The keys of all runs that are done.

        Returns
        -------
        frozenset of str
        """
        with _explained(self.path):
            rows = self._connection.execute("SELECT key FROM runs WHERE state = 'done'")
            return frozenset(key for (key,) in rows)

    def claim(self, key: str, owner: str) -> Literal["claimed", "taken", "done"]:
        """Say that this process is going to do a run.

        Parameters
        ----------
        key : str
            The run.
        owner : str
            Tells sweeps apart.

        Returns
        -------
        {"claimed", "taken", "done"}
            Whether it may, or a process that lives is at it, or it is done.
        """
        with self._transaction(durable=False):
            state = self._one("SELECT state FROM runs WHERE key = ?", key)
            if state == "done":
                return "done"
            query = "SELECT owner, host, pid, expires FROM claims WHERE key = ?"
            other = self._connection.execute(query, (key,)).fetchone()
            if other is not None and other[0] != owner and self._lives(*other[1:]):
                return "taken"
            values = key, owner, self._host, os.getpid(), time.time() + _LEASE
            self._connection.execute(f"{_insert('claims', 5, 'REPLACE')}", values)
            return "claimed"

    def _lives(self, host: str, pid: int, expires: float) -> bool:
        """Whether the owner of a claim does, as far as can be told."""
        if time.time() > expires:
            return False
        if host != self._host or os.name != "posix":
            return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # there is such a process, of another user
        return True

    def renew(self, owner: str) -> None:
        """Say that the owner of claims lives.

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

    def finish(self, key: str, configuration: str, outcome: Outcome) -> bool:
        """Write down how a run ended; when this returns it is on the disk.

        Parameters
        ----------
        key : str
            The run.
        configuration : str
            JSON.
        outcome : Outcome
            How it ended.

        Returns
        -------
        bool
            False if it is done already: then nothing is changed.
        """
        record = json.dumps(outcome.environment, sort_keys=True)
        environment = hashlib.sha256(record.encode()).hexdigest()[:16]
        metrics = outcome.metrics
        values = (
            key,
            "failed" if metrics is None else "done",
            configuration,
            *(None if metrics is None else getattr(metrics, name) for name in _METRICS),
            outcome.seconds,
            outcome.started_at,
            outcome.finished_at,
            outcome.error or None,
            outcome.traceback or None,
            environment,
        )
        changes = ", ".join(f"{name} = excluded.{name}" for name in _RUN[1:])
        written = (
            f"{_insert('runs', len(_RUN))} ON CONFLICT (key) DO UPDATE SET {changes} "
            "WHERE runs.state = 'failed'"
        )
        with self._transaction():
            place = environment, record
            self._connection.execute(_insert("environments", 2, "IGNORE"), place)
            new = self._connection.execute(written, values).rowcount == 1
            if new and metrics is not None:
                self._connection.executemany(_insert("rates", 4), _rate_rows(key, metrics))
            self._connection.execute("DELETE FROM claims WHERE key = ?", (key,))
        return new

    def digest(self, file: Path) -> str:
        """The SHA-256 of a file, which is read once as long as it does not change.

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
        with _explained(self.path):
            known = self._one(query, path, size, changed)
        if known is not None:
            return str(known)
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        with self._transaction(durable=False):
            values = path, size, changed, digest
            self._connection.execute(_insert("files", 4, "REPLACE"), values)
        return digest


def _insert(table: str, count: int, otherwise: str = "ABORT") -> str:
    return f"INSERT OR {otherwise} INTO {table} VALUES ({', '.join('?' * count)})"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _rate_rows(key: str, metrics: Metrics) -> Iterator[tuple[str, str, int, float]]:
    steps = {**metrics.step_rates, _ALL: metrics.layer_rates}
    for step, rates in steps.items():
        for layer, rate in enumerate(rates):
            yield key, step, layer, rate


def _record(row: sqlite3.Row, rates: Mapping[str, Mapping[str, list[float]]]) -> Record:
    labels = {label: row[label] for label in ("key", *_LABELS)}
    member = Member(**labels, variables=json.loads(row["variables"]))
    state = row["state"]
    metrics = _metrics(row, rates.get(member.key, {})) if state == "done" else None
    ended = {name: row[name] for name in _ENDED}
    return Record(row["study"], row["position"], member, state, metrics, **ended)


def _metrics(row: sqlite3.Row, rates: Mapping[str, list[float]]) -> Metrics:
    steps = {step: tuple(layers) for step, layers in rates.items()}
    layers = steps.pop(_ALL, ())
    values: dict[str, Any] = {name: _number(row[name]) for name in _METRICS}
    return Metrics(layer_rates=layers, step_rates=steps, **values)


# --- files ----------------------------------------------------------------------------------------


def _connected(file: Path, write: bool) -> sqlite3.Connection:
    """A connection; statements are transactions by themselves unless one is begun."""
    if write:
        return _connect(file, "mode=rwc")
    # A reader that may write clears away the files beside a store if it is the last to close it.
    ways = ["mode=rw", "mode=ro"]
    log = file.with_name(f"{file.name}-wal")
    if not log.is_file() or not log.stat().st_size:
        # Whoever may not write beside a store cannot share memory with those who write to it.  If
        # there are none, it can be read as it is.
        ways.append("immutable=1")
    for way in ways[:-1]:
        with suppress(sqlite3.OperationalError):
            return _connect(file, way)
    return _connect(file, ways[-1])


def _connect(file: Path, way: str) -> sqlite3.Connection:
    address = f"{file.absolute().as_uri()}?{way}"
    connection = sqlite3.connect(
        address, timeout=_PATIENCE, isolation_level=None, uri=True, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA query_only = {int(way != 'mode=rwc')}")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """WAL mode; SQLite does not wait by itself for another process that switches to it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Errors of SQLite in words of this project."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explanation(error, file) from error


def _explanation(error: sqlite3.Error, file: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    reason = str(error)
    if code == sqlite3.SQLITE_NOTADB:
        return ValueError(f"{file} is not a store: it is no SQLite file")
    if code == sqlite3.SQLITE_CORRUPT:
        return ValueError(
            f"the store {file} is damaged ({reason}); it is left as it is: what can be read of it "
            f"is shown by sqlite3 {file} .recover"
        )
    if code == sqlite3.SQLITE_FULL:
        return OSError(
            errno.ENOSPC,
            f"the disk is full; what the store holds is unharmed ({reason})",
            str(file),
        )
    if code == sqlite3.SQLITE_READONLY:
        return PermissionError(
            errno.EACCES, f"the store cannot be written to ({reason})", str(file)
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return PermissionError(errno.EACCES, f"the store cannot be opened ({reason})", str(file))
    if code == sqlite3.SQLITE_BUSY:
        return TimeoutError(
            errno.ETIMEDOUT,
            f"another process has been writing to the store for {_PATIENCE:.0f} seconds",
            str(file),
        )
    return OSError(errno.EIO, f"the store could not be read or written ({reason})", str(file))
