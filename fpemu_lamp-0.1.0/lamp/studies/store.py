"""The results of studies, in one SQLite file.

A store is in WAL mode: readers never wait, writers wait their turn, and a process that is killed
leaves the store as it was before its last transaction.  WAL needs shared memory, so the store lies
on a disk of the machine that sweeps.  Its tables:

``runs``
    A row per run that has ended, written in one transaction with its rates.  ``key`` is the SHA-256
    of ``configuration``, a JSON text with everything that the numbers depend on.  ``state`` is
    ``done`` or ``failed``.  A run that is done has ``tokens``, ``kl``, ``flip_rate``,
    ``reference_perplexity``, ``perplexity``, ``recomputation_rate``, ``high_precision_share``,
    the standard errors ``kl_error`` and so on, ``clusters`` and ``windows``, as in
    :class:`lamp.Metrics`.  SQLite has no NaN: a metric that is NULL in a run that is done is
    NaN.  Infinity is itself.  A run that has failed has ``error``, a line, and ``traceback``.
    ``seconds`` is the wall time of the forward passes and comparisons, without loading the model,
    without compiling kernels and without the reference; ``started_at`` and ``finished_at`` are UTC,
    as ISO 8601.  ``environment`` says where it was measured.  A run that is done never changes.
``rates``
    Recomputation rates by ``key``, ``step`` and ``layer``, those of ``Metrics.step_rates``; the
    step ``all`` is all steps together (``Metrics.layer_rates``).
``clusters``
    What each cluster of tokens adds up to, by ``key`` and ``cluster``: ``positions``, ``kl`` and
    ``flips`` (``Metrics.sums``).  Runs on the same text are compared by them.  Schema 2 had no such
    table: a store of that schema gets it when it is next written to, and the runs that it has done
    stay without.
``environments``
    ``id`` and ``record``: JSON with host, processor, cores, threads, versions.
``studies``
    ``name``, ``definition`` (JSON, what the study says), ``planned_at``.
``members``
    The runs of each study and their labels: ``study``, ``position`` (from 0, in the study's order),
    ``key``, ``model``, ``text``, ``hardware``, ``lamp``, ``reference``, and ``variables``, a JSON
    object with the values of the grid.  It is written before anything is measured, so that missing
    runs are known.  A study that changes gets new rows; if it has
    lost runs that are done, it stays as it was under another name.
``task_members``
    The runs of each study that are tasks of lm-evaluation-harness, as in ``members``, with ``task``
    in place of ``text``.  The reference of a run is a run of the same study, on the machine
    ``reference`` and of the same ``subject``, the SHA-256 of model, task and documents.  In
    ``runs`` they have no metrics.
``scores``
    Their scores by ``key`` and ``number`` (from 0, in the harness's order): ``task``, ``metric``,
    ``filter`` and ``version``, as the harness calls them; ``documents``, their number; ``score``
    and ``score_error``; ``higher_is_better`` (0, 1, NULL if the harness does not say); and
    ``not_finite``, the tokens of the run whose logits held NaN or infinity.
``answers``
    The ``score`` of each document, by ``key``, ``number`` and ``document``, of scores that are
    means of their documents.
``notes``
    What the model of a run that is done said of itself on its machine, by ``key`` and ``number``: a
    ``note`` per line, such as the steps that the machine names and the model does not have.  Runs
    of stores of earlier schemas have none.
``claims``
    Runs that a process is measuring: ``key``, ``owner``, ``host``, ``pid``, and ``expires``, when
    the claim lapses unless it is renewed (seconds since 1970).
``files``
    Digests of files by ``path``, ``size`` and ``changed``, the time of the last change of the file
    itself (nanoseconds since 1970), so that they are not read again.

The view ``results`` has a row per run of each study: its labels, ``state`` (``missing`` if it has
not ended), and the columns of ``runs``::

    sqlite3 study.sqlite "SELECT hardware, lamp, kl FROM results WHERE state = 'done' ORDER BY kl"

The view ``task_results`` does the same for tasks::

    sqlite3 study.sqlite "SELECT hardware, metric, score FROM task_results JOIN scores USING (key)"

In Python, :meth:`Store.runs` gives the same as :class:`Run` objects, and :meth:`Store.task_runs` as
:class:`TaskRun` objects.  A store of schema 2 to 4 gets the tables that it lacks when it is next
written to.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from lamp._files import writing
from lamp.evaluation import Metrics, Sums
from lamp.integrations import Score, TaskResult
from lamp.studies import database, records
from lamp.studies.members import Members
from lamp.studies.records import ALL, ANSWERS, LABELS, METRICS, SCORES, TASK_LABELS
from lamp.studies.runs import Counts, Result, Run, State, TaskRun, now

__all__ = ["Store", "last_change"]

Values = Sequence[Any] | Mapping[str, Any]

_LEASE: Final = 60.0  # seconds after which a claim lapses that is not renewed
_BATCH: Final = 1000  # runs that are read at a time
_RACY: Final = 2 * 10**9  # nanoseconds in which a file may change twice at one time
_MEMBERS: Final = "SELECT study, key FROM members UNION ALL SELECT study, key FROM task_members"
_COLUMNS: Final = (
    "key",
    "state",
    "configuration",
    *METRICS,
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
        self._file = path.absolute()
        self._identity = _identity(self._file)
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
            If the file cannot be written to, or another program holds it for itself.
        """
        file = Path(path)
        if write and not file.parent.is_dir():
            raise FileNotFoundError(f"no folder {str(file.parent)!r} for the store {str(file)!r}")
        if write:
            writing.check(file)
        elif not file.is_file():
            raise FileNotFoundError(f"no store {str(file)!r}")
        with database.explained(file):
            connection = database.connect(file, write=write)
            try:
                database.check(connection, file, write=write)
                if write:
                    database.create(connection, file)
                return cls(file, connection)
            except BaseException:
                connection.close()
                raise

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

    def check_place(self) -> None:
        """Raise an error if the file was deleted or replaced: what is written then is lost.

        Raises
        ------
        FileNotFoundError
        """
        if _identity(self._file) != self._identity:
            raise FileNotFoundError(
                f"the store {self.path} was deleted or replaced while it was open, and what was "
                "written to it is gone"
            )

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        self.check_place()
        with database.transaction(self._connection, self.path, durable=durable):
            yield
        self.check_place()

    def _execute(self, statement: str, values: Iterable[Any]) -> sqlite3.Cursor:
        return self._connection.execute(statement, database.plain(values))

    def _execute_many(self, statement: str, rows: Iterable[Iterable[Any]]) -> None:
        self._connection.executemany(statement, map(database.plain, rows))

    def _rows(self, query: str, values: Values = ()) -> list[tuple[Any, ...]]:
        with database.explained(self.path):
            if not isinstance(values, Mapping):
                values = database.plain(values)
            return self._connection.execute(query, values).fetchall()

    def _records(
        self, names: Sequence[str], source: str, values: Values = ()
    ) -> list[dict[str, Any]]:
        """Return the rows of a query with their columns by name, checked."""
        rows = self._rows(f"SELECT {', '.join(names)} FROM {source}", values)
        return [records.checked(self.path, names, row) for row in rows]

    # --- reading ----------------------------------------------------------------------------------

    def studies(self) -> dict[str, Any]:
        """Return what each study says, by its name.

        Returns
        -------
        dict
            Name to plain data.
        """
        rows = self._records(("name", "definition"), "studies ORDER BY name")
        return {row["name"]: row["definition"] for row in rows}

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
            # In order of their keys: then each page of the table of runs is read once.
            f"WITH own AS MATERIALIZED (SELECT key FROM ({_MEMBERS}) WHERE study = ? GROUP BY key) "
            "SELECT coalesce(state, 'missing') AS state, count(*), "
            "count(CASE WHEN state IS NOT 'done' AND expires BETWEEN ? AND ? THEN 1 END) "
            "FROM own LEFT JOIN runs USING (key) LEFT JOIN claims USING (key) GROUP BY 1"
        )
        rows = self._rows(query, (study, *_valid()))
        found = {state: count for state, count, _ in rows}
        done, failed, missing = (found.get(state, 0) for state in ("done", "failed", "missing"))
        return Counts(done, failed, missing, running=sum(running for *_, running in rows))

    def runs(
        self, study: str | None = None, state: State | None = None, last: int | None = None
    ) -> list[Run]:
        """Return the runs of a study, or of all, in order.

        Parameters
        ----------
        study : str, optional
            The name of the study; by default all studies.
        state : {"done", "failed", "missing"}, optional
            The state of the runs; by default they may be in any.
        last : int, optional
            How many runs are wanted: those that ended last, the last one first.

        Returns
        -------
        list of Run

        Examples
        --------
        >>> from lamp.studies import Store
        >>> with Store.open("study.sqlite") as store:  # doctest: +SKIP
        ...     best = min(store.runs(), key=lambda run: run.metrics.kl)
        """
        return list(self.each_run(study, state, last))

    def each_run(
        self, study: str | None = None, state: State | None = None, last: int | None = None
    ) -> Iterator[Run]:
        """Iterate over the runs of :meth:`runs`, of which few are held at a time.

        Parameters
        ----------
        study : str, optional
        state : {"done", "failed", "missing"}, optional
        last : int, optional
            As for :meth:`runs`.

        Yields
        ------
        Run
        """
        for rows in self._batches("results", "members", study, state, last):
            keys = [row["key"] for row in rows]
            # In order by key and step, the rates of the layers; and by key, the sums of clusters.
            rates: dict[str, dict[str, list[float]]] = {}
            sums: dict[str, list[Sums]] = {}
            for each in self._of(keys, "rates", ("step", "layer", "rate"), "step, layer"):
                rates.setdefault(each["key"], {}).setdefault(each["step"], []).append(each["rate"])
            for each in self._of(keys, "clusters", Sums._fields, "cluster"):
                sums.setdefault(each.pop("key"), []).append(Sums(**each))
            notes = self._notes(keys)
            for key, row in zip(keys, rows, strict=True):
                own = rates.get(key, {}), sums.get(key, ()), notes.get(key, ())
                yield records.run(self.path, row, *own)

    def task_runs(
        self, study: str | None = None, state: State | None = None, last: int | None = None
    ) -> list[TaskRun]:
        """Return the runs of a study, or of all, that are tasks of lm-evaluation-harness, in order.

        Parameters
        ----------
        study : str, optional
            The name of the study; by default all studies.
        state : {"done", "failed", "missing"}, optional
            The state of the runs; by default they may be in any.
        last : int, optional
            How many runs are wanted: those that ended last, the last one first.

        Returns
        -------
        list of TaskRun
        """
        return list(self.each_task_run(study, state, last))

    def each_task_run(
        self, study: str | None = None, state: State | None = None, last: int | None = None
    ) -> Iterator[TaskRun]:
        """Iterate over the runs of :meth:`task_runs`, of which few are held at a time.

        Parameters
        ----------
        study : str, optional
        state : {"done", "failed", "missing"}, optional
        last : int, optional
            As for :meth:`task_runs`.

        Yields
        ------
        TaskRun
        """
        for rows in self._batches("task_results", "task_members", study, state, last):
            keys = [row["key"] for row in rows]
            documents: dict[tuple[str, int], dict[int, float]] = {}
            for each in self._of(keys, "answers", ANSWERS, "number, document"):
                found = documents.setdefault((each["key"], each["number"]), {})
                found[each["document"]] = each["score"]
            scores: dict[str, list[Score]] = {}
            overflows: dict[str, int] = {}
            for each in self._of(keys, "scores", SCORES, "number"):
                key = each["key"]
                score = records.score(each, documents.get((key, each["number"]), {}))
                scores.setdefault(key, []).append(score)
                overflows[key] = each["not_finite"]
            notes = self._notes(keys)
            for key, row in zip(keys, rows, strict=True):
                own = scores.get(key, ()), overflows.get(key, 0), notes.get(key, ())
                yield records.task_run(self.path, row, *own)

    def _notes(self, keys: Sequence[str]) -> dict[str, list[str]]:
        """Return the notes of runs, by their keys."""
        found: dict[str, list[str]] = {}
        for each in self._of(keys, "notes", ("note",), "number"):
            found.setdefault(each["key"], []).append(each["note"])
        return found

    def _batches(
        self, view: str, members: str, study: str | None, state: State | None, last: int | None
    ) -> Iterator[list[dict[str, Any]]]:
        """Iterate over the rows of a view in lists of a thousand, all as of one moment."""
        condition, values = _chosen(members, study, state, last)
        order = "" if last is None else "ORDER BY finished_at DESC"
        cursor = self._connection.cursor()
        cursor.row_factory = sqlite3.Row
        with database.explained(self.path):
            cursor.execute(f"SELECT * FROM {view} {condition} {order}", values)
        while True:
            with database.explained(self.path):
                rows = [dict(row) for row in cursor.fetchmany(_BATCH)]
            if not rows:
                return
            for row in rows:  # which are asked for by their keys before all else is checked
                records.checked(self.path, ("key",), (row["key"],))
            yield rows

    def _of(
        self, keys: Sequence[str], table: str, names: Sequence[str], order: str
    ) -> Iterator[dict[str, Any]]:
        """Iterate over the rows of runs in a table, checked, in order by key."""
        wanted = f"{table} WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key, {order}"
        for row in self._rows(f"SELECT key, {', '.join(names)} FROM {wanted}", [json.dumps(keys)]):
            yield records.checked(self.path, ("key", *names), row)

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
        for row in self._records(("configuration",), "runs WHERE key = ?", (key,)):
            return dict(row["configuration"])
        raise KeyError(key)

    def traceback(self, key: str) -> str:
        """Return the traceback of a run that failed; empty for any other.

        Parameters
        ----------
        key : str

        Returns
        -------
        str
        """
        rows = self._records(("traceback",), "runs WHERE key = ?", (key,))
        return (rows[0]["traceback"] or "") if rows else ""

    def environments(self) -> dict[str, dict[str, Any]]:
        """Return the environments that runs were measured in.

        Returns
        -------
        dict
            ``Run.environment`` to plain data.
        """
        rows = self._records(("id", "record"), "environments ORDER BY id")
        return {row["id"]: row["record"] for row in rows}

    def finished(self, keys: Iterable[str] | None = None) -> frozenset[str]:
        """Return the keys of runs that are done.

        Parameters
        ----------
        keys : iterable of str, optional
            The keys that are looked for; by default all of the store.

        Returns
        -------
        frozenset of str
        """
        query, values = "SELECT key FROM runs WHERE state = 'done'", []
        if keys is not None:
            query += " AND key IN (SELECT value FROM json_each(?))"
            values = [json.dumps([*keys])]
        return frozenset(key for (key,) in self._rows(query, values))

    # --- writing ----------------------------------------------------------------------------------

    def plan(
        self,
        study: str,
        definition: Mapping[str, Any],
        runs: Iterable[Run] | Members,
        *,
        grow: bool = False,
    ) -> str | None:
        """Write down the runs of a study, in place of those it had before.

        If the store has a study of the same name with results that this one has not, that study
        stays under another name: its own and when it was planned.

        Parameters
        ----------
        study : str
            The name of the study.
        definition : mapping
            What the study says; plain data.
        runs : iterable of Run, or Members
            The runs in order; their results are not read.
        grow : bool
            Whether the study keeps the runs that it had before, but for those whose labels are
            given again.

        Returns
        -------
        str or None
            The new name of the other study, if there is one.
        """
        with ExitStack() as stack:
            # Before the transaction, for which others wait.
            given = runs if isinstance(runs, Members) else stack.enter_context(Members.of(runs))
            stack.enter_context(self._transaction())
            if grow:
                definition = self._joined(study, definition)
                given = stack.enter_context(Members.of(self._grown(study, given)))
            kept = None if grow else self._set_aside(study, given)
            values = study, json.dumps(definition), now()
            self._execute(database.insert("studies", 3, "REPLACE"), values)
            sizes = {"members": 4 + len(LABELS), "task_members": 5 + len(TASK_LABELS)}
            for table, size in sizes.items():
                self._execute(f"DELETE FROM {table} WHERE study = ?", (study,))
                rows = given.rows(tasks=table == "task_members")
                own = database.plain([study])
                self._connection.executemany(
                    database.insert(table, size), ((*own, *row) for row in rows)
                )
        return kept

    def _joined(self, study: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a study says, with the entries of its lists from before."""
        before = self.studies().get(study, {})
        lists = {name: entries for name, entries in before.items() if isinstance(entries, list)}
        found = {**lists, **definition}
        for name, entries in lists.items():
            own = definition.get(name, [])
            found[name] = [*entries, *(entry for entry in own if entry not in entries)]
        return found

    def _grown(self, study: str, runs: Iterable[Run]) -> list[Run]:
        """Return the runs that a study has, and behind them more; labels of new ones win."""
        before = sorted([*self.runs(study), *self.task_runs(study)], key=lambda run: run.position)
        found = {_labels(run): run for run in (*before, *runs)}
        return list(found.values())

    def _set_aside(self, study: str, members: Members) -> str | None:
        """Give a study another name if it has results with other keys; return that name."""
        query = (
            f"SELECT key FROM ({_MEMBERS}) JOIN runs USING (key) WHERE study = ? AND state = 'done'"
        )
        if all(key in members for (key,) in self._execute(query, [study])):
            return None
        copied = "SELECT ?, definition, planned_at FROM studies WHERE name = ?"
        ((planned_at,),) = self._execute("SELECT planned_at FROM studies WHERE name = ?", [study])
        name = f"{study}, planned {planned_at}"
        self._execute(f"INSERT OR REPLACE INTO studies {copied}", [name, study])
        for table in ("members", "task_members"):
            self._execute(f"UPDATE OR REPLACE {table} SET study = ? WHERE study = ?", [name, study])
        return name

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
            other = self._execute(query, (key,)).fetchone()
            if other is not None and other[0] != owner and self._lives(*other[1:]):
                return "taken"
            values = key, owner, self._host, os.getpid(), time.time() + _LEASE
            self._execute(database.insert("claims", 5, "REPLACE"), values)
            return "claimed"

    def _lives(self, host: Any, pid: Any, expires: Any) -> bool:
        """Whether the owner of a claim lives, as far as can be told."""
        earliest, latest = _valid()
        if not (isinstance(expires, (int, float)) and earliest <= expires <= latest):
            return False
        if host != self._host or os.name != "posix":
            return True
        if not isinstance(pid, int) or pid < 1:
            return False
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
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
            self._execute("UPDATE claims SET expires = ? WHERE owner = ?", values)

    def release(self, owner: str) -> None:
        """Give up all claims of an owner.

        Parameters
        ----------
        owner : str
        """
        with self._transaction(durable=False):
            self._execute("DELETE FROM claims WHERE owner = ?", (owner,))

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
            *(getattr(metrics, name) if isinstance(metrics, Metrics) else None for name in METRICS),
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
            self._execute(database.insert("environments", 2, "IGNORE"), place)
            new = self._execute(statement, values).rowcount == 1
            if new and isinstance(metrics, Metrics):
                self._execute_many(database.insert("rates", 4), _rates(key, metrics))
                sums = ((key, number, *each) for number, each in enumerate(metrics.sums))
                self._execute_many(database.insert("clusters", 5), sums)
            elif new and isinstance(metrics, TaskResult):
                scores = database.insert("scores", 1 + len(SCORES))
                self._execute_many(scores, _scores(key, metrics))
                answers = database.insert("answers", 1 + len(ANSWERS))
                self._execute_many(answers, _answers(key, metrics))
            if new:
                notes = ((key, number, note) for number, note in enumerate(result.notes))
                self._execute_many(database.insert("notes", 3), notes)
            self._execute("DELETE FROM claims WHERE key = ?", (key,))
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
        known = self._rows(query, (path, size, changed))
        if known:
            return str(known[0][0])
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if time.time_ns() - changed < _RACY:
            return digest
        with self._transaction(durable=False):
            values = path, size, changed, digest
            self._execute(database.insert("files", 4, "REPLACE"), values)
        return digest


def _identity(file: Path) -> tuple[int, int] | None:
    """Return what tells a file from another that takes its place; None if there is none."""
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _chosen(
    table: str, study: str | None, state: State | None, last: int | None
) -> tuple[str, dict[str, Any]]:
    """Return a condition for the rows of members, and its values.

    What is asked of runs is asked of their table by itself: to look each member up takes longer.
    """
    own = "TRUE" if study is None else "study = :study"
    of_state = "TRUE" if state is None else "state = :state"
    parts = [own]
    if state == "missing":
        parts.append("key NOT IN (SELECT key FROM runs)")
    elif last is not None:
        parts.append(
            f"key IN (SELECT key FROM runs WHERE {of_state} AND "
            f"+key IN (SELECT key FROM {table} WHERE {own}) ORDER BY finished_at DESC LIMIT :last)"
        )
    elif state is not None:
        parts.append(f"key IN (SELECT key FROM runs WHERE {of_state})")
    named = database.plain([study, state, last])
    return f"WHERE {' AND '.join(parts)}", dict(zip(("study", "state", "last"), named, strict=True))


def _valid() -> tuple[float, float]:
    """Return between which times a claim may lapse that has not lapsed yet.

    None is for longer than a lease: one that is was written by another clock or program.
    """
    return time.time(), time.time() + _LEASE + 1.0


# --- rows -----------------------------------------------------------------------------------------


def _rates(key: str, metrics: Metrics) -> Iterator[tuple[str, str, int, float]]:
    """Iterate over the rows of the table ``rates`` for a run."""
    steps = {**metrics.step_rates, ALL: metrics.layer_rates}
    for step, rates in steps.items():
        for layer, rate in enumerate(rates):
            yield key, step, layer, rate


def _scores(key: str, result: TaskResult) -> Iterator[tuple[Any, ...]]:
    """Iterate over the rows of the table ``scores`` for a run."""
    for number, score in enumerate(result.scores):
        names = score.task, score.metric, score.filter, score.version
        numbers = score.count, score.value, score.error, score.higher_is_better
        yield key, number, *names, *numbers, result.not_finite


def _answers(key: str, result: TaskResult) -> Iterator[tuple[str, int, int, float]]:
    """Iterate over the rows of the table ``answers`` for a run."""
    for number, score in enumerate(result.scores):
        for document, value in score.documents.items():
            yield key, number, document, value


def _labels(run: Run) -> tuple[Any, ...]:
    """Return what a run is called, and of which kind it is."""
    return type(run), *(getattr(run, label) for label in LABELS)
