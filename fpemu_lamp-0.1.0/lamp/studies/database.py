"""The SQLite file of a store: its tables, connections to it, its errors in words.

A file is read as what others may have tampered with: its tables must be those of a store, so that
no view and no trigger of another's runs, and no value is larger than a store's may be.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

__all__ = ["check", "connect", "create", "explained", "first", "insert", "transaction"]

_APPLICATION: Final = 0x4C414D50  # "LAMP"
_SCHEMA: Final = 5
# Tables and views that older schemas lack, which writers add.
_SINCE: Final = {
    "clusters": 3,
    **dict.fromkeys(("task_members", "scores", "answers", "task_results"), 4),
    "notes": 5,
}
_OLDEST: Final = 2
_PATIENCE: Final = 60.0  # seconds to wait for another process that writes
_PATIENCE_TO_READ: Final = 3.0  # seconds: readers never wait for the writers of stores
_LARGEST: Final = 2**26  # bytes of a value

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
    kl_error REAL,
    flip_rate_error REAL,
    reference_perplexity_error REAL,
    perplexity_error REAL,
    recomputation_rate_error REAL,
    clusters INTEGER,
    windows INTEGER,
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

CREATE TABLE clusters (
    key TEXT NOT NULL REFERENCES runs (key),
    cluster INTEGER NOT NULL,
    positions INTEGER NOT NULL,
    kl REAL,
    flips INTEGER NOT NULL,
    PRIMARY KEY (key, cluster)
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

CREATE TABLE task_members (
    study TEXT NOT NULL REFERENCES studies (name),
    position INTEGER NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    task TEXT NOT NULL,
    hardware TEXT NOT NULL,
    lamp TEXT NOT NULL,
    reference TEXT NOT NULL,
    variables TEXT NOT NULL,
    subject TEXT NOT NULL,
    PRIMARY KEY (study, position)
) WITHOUT ROWID;

CREATE TABLE scores (
    key TEXT NOT NULL REFERENCES runs (key),
    number INTEGER NOT NULL,
    task TEXT NOT NULL,
    metric TEXT NOT NULL,
    filter TEXT NOT NULL,
    version TEXT NOT NULL,
    documents INTEGER NOT NULL,
    score REAL,
    score_error REAL,
    higher_is_better INTEGER,
    not_finite INTEGER NOT NULL,
    PRIMARY KEY (key, number)
) WITHOUT ROWID;

CREATE TABLE answers (
    key TEXT NOT NULL REFERENCES runs (key),
    number INTEGER NOT NULL,
    document INTEGER NOT NULL,
    score REAL,
    PRIMARY KEY (key, number, document)
) WITHOUT ROWID;

CREATE TABLE notes (
    key TEXT NOT NULL REFERENCES runs (key),
    number INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (key, number)
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
    recomputation_rate, high_precision_share, kl_error, flip_rate_error,
    reference_perplexity_error, perplexity_error, recomputation_rate_error, clusters, windows,
    seconds, started_at, finished_at, error, environment
FROM members LEFT JOIN runs USING (key)
ORDER BY study, position;

CREATE VIEW task_results AS
SELECT study, position, model, task, hardware, lamp, reference, variables, subject, key,
    coalesce(state, 'missing') AS state, seconds, started_at, finished_at, error, environment
FROM task_members LEFT JOIN runs USING (key)
ORDER BY study, position;
"""

_STATEMENTS: Final = [part.strip() for part in _TABLES.split(";") if part.strip()]
_MOST_TABLES: Final = 1000


# --- connections ----------------------------------------------------------------------------------


def connect(file: Path, *, write: bool) -> sqlite3.Connection:
    """Open a file; each statement is a transaction of its own unless one is begun."""
    if write:
        return _connect(file, "mode=rwc")
    # A reader that may write clears away the files beside a store if it is the last to close it.
    ways = ["mode=rw", "mode=ro"]
    log = file.with_name(f"{file.name}-wal")
    if not log.is_file() or not log.stat().st_size:
        # Without the right to write beside a store, memory cannot be shared with its writers.  If
        # there are none, the file can be read as it is.
        ways.append("immutable=1")
    for way in ways[:-1]:
        try:
            return _connect(file, way)
        except sqlite3.OperationalError as error:
            if _code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise  # such as for a lock, which holds for all ways
    return _connect(file, ways[-1])


def _connect(file: Path, way: str) -> sqlite3.Connection:
    address = f"{file.absolute().as_uri()}?{way}"
    patience = _PATIENCE if way == "mode=rwc" else _PATIENCE_TO_READ
    connection = sqlite3.connect(
        address, timeout=patience, isolation_level=None, uri=True, check_same_thread=False
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA query_only = {int(way != 'mode=rwc')}")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def check(connection: sqlite3.Connection, path: Path, *, write: bool) -> None:
    """Raise an error unless a file is a store, or is empty and may be written to."""
    application = first(connection, "PRAGMA application_id")
    schema = first(connection, "PRAGMA user_version")
    if application != _APPLICATION:
        if first(connection, "SELECT count(*) FROM sqlite_master"):
            raise ValueError(f"{path} is an SQLite file of another program, not a store")
        if not write:
            raise ValueError(f"{path} is empty, not a store")
    elif not (_OLDEST if write else _SCHEMA) <= schema <= _SCHEMA:
        way = ": a newer version reads it" if schema > _SCHEMA else ""
        way = "; lamp sweep brings it up to date" if _OLDEST <= schema < _SCHEMA else way
        raise ValueError(
            f"{path} has schema {schema}, from another version of this package; this one knows "
            f"schema {_SCHEMA}{way}"
        )
    else:
        _check_schema(connection, path, schema)
    found = first(connection, "PRAGMA quick_check(1)")
    if found != "ok":
        raise sqlite3.DatabaseError(str(found))


def _check_schema(connection: sqlite3.Connection, path: Path, schema: int) -> None:
    """Raise a ValueError unless the tables are a store's; a user may have added tables and views.

    A trigger is refused, which would change what is written.
    """
    query = "SELECT type, name, substr(sql, 1, 10000) FROM sqlite_master WHERE sql IS NOT NULL"
    rows = connection.execute(query).fetchmany(_MOST_TABLES)
    found = {name: statement.split() for _, name, statement in rows}
    for statement in _STATEMENTS:
        _, kind, name, *_ = statement.split()
        if schema < _SINCE.get(name, 0):
            continue
        if found.get(name) != statement.split():
            raise ValueError(
                f"the store {path} is damaged: its {kind.lower()} {name!r} is not that of a store"
            )
    if triggers := [name for kind, name, _ in rows if kind == "trigger"]:
        raise ValueError(f"the store {path} is damaged: it has a trigger {triggers[0]!r}")


def create(connection: sqlite3.Connection, path: Path) -> None:
    """Make a file a store in WAL mode, unless it is one; add the tables that an older one lacks."""
    _use_wal(connection)
    with transaction(connection, path):
        new = first(connection, "PRAGMA application_id") != _APPLICATION
        schema = first(connection, "PRAGMA user_version")
        for statement in _STATEMENTS:
            if new or schema < _SINCE.get(statement.split()[2], 0):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_SCHEMA}")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode; SQLite does not wait for another process that is switching."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


# --- statements -----------------------------------------------------------------------------------


def first(connection: sqlite3.Connection, query: str, *values: Any) -> Any:
    """Return the first value of the first row of a query; None if there is no row."""
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]


def plain(values: Iterable[Any]) -> list[Any]:
    """Return values that SQLite can hold, with escapes for what in a file's name is not UTF-8."""
    return [
        value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for value in values
    ]


def insert(table: str, count: int, otherwise: str = "ABORT") -> str:
    """Return the statement that inserts a row of `count` values."""
    return f"INSERT OR {otherwise} INTO {table} VALUES ({', '.join('?' * count)})"


@contextmanager
def transaction(
    connection: sqlite3.Connection, path: Path, *, durable: bool = True
) -> Iterator[None]:
    """Write all or nothing; if durable, it is on the disk at the end."""
    with explained(path):
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


# --- errors ---------------------------------------------------------------------------------------


@contextmanager
def explained(file: Path) -> Iterator[None]:
    """Raise the errors of SQLite as errors that name the store."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explanation(error, file) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the store {file} is damaged: it has text that is not UTF-8") from error


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)) & 0xFF


def _explanation(error: sqlite3.Error, file: Path) -> Exception:
    code, reason = _code(error), str(error)
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
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return TimeoutError(
            errno.ETIMEDOUT, f"another program holds the store for itself ({reason})", str(file)
        )
    if code == sqlite3.SQLITE_TOOBIG:
        return ValueError(f"the store {file} is damaged: a value has more than {_LARGEST} bytes")
    return OSError(errno.EIO, f"the store could not be read or written ({reason})", str(file))
