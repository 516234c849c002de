"""The coordinator's durable state in one SQLite file: leases, counters, versions of weights, the log.

A killed process loses no committed transaction. Heartbeats are not forced to disk, so a power failure may lose the last counts.
Anything that a caller relies on for ever (an incarnation, a term, a version, a log entry) is durable before the answer.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import Message

from sbrl.coordination.fleet import CUT_COUNTER, STEPS_COUNTER
from sbrl.errors import RunError
from sbrl.v1.episodes_pb2 import Episode, Evaluation
from sbrl.v1.fleet_pb2 import EndedActor, LearnerProgress

SCHEMA_VERSION = 4
MAX_INTEGER = 2**63 - 1  # SQLite's

_SCHEMA = """
CREATE TABLE leases (
  incarnation INTEGER PRIMARY KEY AUTOINCREMENT, role TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL,
  joined_time REAL NOT NULL, metrics_address TEXT NOT NULL, health_address TEXT NOT NULL, process_id INTEGER NOT NULL,
  seen_time REAL NOT NULL, step_limit INTEGER NOT NULL DEFAULT 0, ended INTEGER NOT NULL DEFAULT 0,
  origin INTEGER NOT NULL DEFAULT 0, process TEXT NOT NULL DEFAULT '', counters TEXT NOT NULL DEFAULT '{}');
CREATE INDEX leases_by_role ON leases (role, seen_time);
CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE texts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE progress (row INTEGER PRIMARY KEY CHECK (row = 1), message BLOB NOT NULL);
CREATE TABLE weights (
  version INTEGER PRIMARY KEY, term INTEGER NOT NULL, updates INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
  crc32 INTEGER NOT NULL, published_time REAL NOT NULL);
"""
# Schema 3 is schema 4 with another word for the term.
_FROM_SCHEMA_3 = """
ALTER TABLE weights RENAME COLUMN epoch TO term;
UPDATE numbers SET name = 'term' WHERE name = 'epoch';
"""
# The log's two tables: the message whose fields are the columns, and the columns that are unique together.
_LOG = {"episodes": (Episode, "incarnation, number"), "evaluations": (Evaluation, "weights_version, seed")}
_EPISODE_FIELDS = tuple(field.name for field in Episode.DESCRIPTOR.fields)
_EVALUATION_FIELDS = tuple(field.name for field in Evaluation.DESCRIPTOR.fields)


class LeaseRecord(NamedTuple):
    """A lease as last written."""

    incarnation: int
    role: str
    name: str
    position: int  # the index within its role ("index" is a keyword of SQL and a method of tuples)
    joined_time: float  # Unix seconds
    metrics_address: str
    health_address: str
    process_id: int
    seen_time: float  # Unix seconds of the last heartbeat
    step_limit: int  # env_steps that the actor may reach
    ended: bool
    origin: int  # the incarnation of the process's first lease: this one's, unless the process lost a lease before
    process: str  # see sbrl.coordination.process_identity


_LEASE_COLUMNS = ", ".join(LeaseRecord._fields)


class WeightsRecord(NamedTuple):
    """One version of the weights, without its bytes."""

    version: int
    term: int
    updates: int
    size_bytes: int
    crc32: int
    published_time: float  # Unix seconds


class Store:
    """One connection, shared by the server's threads. Every method is one transaction."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file, and holds it until `close`.

        Raises:
            RunError: another coordinator holds the file, or it is damaged, has another schema or cannot be written.
        """
        self._lock = threading.Lock()
        self._is_durable: bool | None = None  # whether transactions wait for the disk at present
        try:
            self._connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
            try:
                self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # the system releases it when the process dies
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._create_tables(path)
            except (sqlite3.DatabaseError, RunError):
                self._connection.close()
                raise
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise RunError(f"{path} is in use by another coordinator: stop it first") from None
            raise RunError(
                f"cannot use the coordinator's state {path}: {error}; restore it from a copy or move it away"
            ) from None
        self._num_episodes: int = self._connection.execute("SELECT COUNT(*) FROM episodes").fetchone()[0]

    def close(self) -> None:
        """Writes everything back into the one file and releases it."""
        with self._lock:
            self._connection.close()

    # Leases and counters

    def add_lease(self, record: LeaseRecord, replaced: int | None) -> int:
        """Adds a lease, ends the one it replaces, and returns its incarnation (the record's is ignored). Durable."""
        with self._transaction(durable=True) as execute:
            if replaced is not None:
                execute("UPDATE leases SET ended = 1 WHERE incarnation = ?", (replaced,))
            columns = LeaseRecord._fields[1:]
            statement = f"INSERT INTO leases ({', '.join(columns)}) VALUES ({_places(columns)})"
            added = execute(statement, record[1:]).lastrowid or 0
            if record.origin == 0:
                execute("UPDATE leases SET origin = incarnation WHERE incarnation = ?", (added,))
            return int(added)

    def update_lease(
        self, incarnation: int, counters: Mapping[str, float], step_limit: int, seen_time: float, ended: bool
    ) -> None:
        """Writes a lease's state after a heartbeat or after its end."""
        with self._transaction() as execute:
            execute(
                "UPDATE leases SET step_limit = ?, seen_time = ?, ended = ?, counters = ? WHERE incarnation = ?",
                (step_limit, seen_time, ended, json.dumps(counters), incarnation),
            )

    def skip_downtime(self, now: float) -> None:
        """Moves the times of all leases on, as if the newest were from now: nobody could be heard while nothing wrote here.

        Args:
            now: Unix seconds.
        """
        with self._transaction() as execute:
            (newest,) = execute("SELECT MAX(seen_time) FROM leases").fetchone()
            if newest is not None and newest < now:
                execute("UPDATE leases SET seen_time = seen_time + ?", (now - newest,))

    def lease(self, incarnation: int) -> LeaseRecord | None:
        """The lease of an incarnation, or None if it was never given."""
        query = f"SELECT {_LEASE_COLUMNS} FROM leases WHERE incarnation = ?"
        with self._lock:
            row = self._connection.execute(query, (min(incarnation, MAX_INTEGER),)).fetchone()
        return None if row is None else LeaseRecord(*row)

    def newest_leases(self, since: float) -> list[LeaseRecord]:
        """The newest lease of each role and name, if it has not ended or was seen after `since` (Unix seconds)."""
        query = f"""SELECT {_LEASE_COLUMNS} FROM leases WHERE (ended = 0 OR seen_time > ?)
                   AND incarnation IN (SELECT MAX(incarnation) FROM leases GROUP BY role, name) ORDER BY incarnation"""
        with self._lock:
            return [LeaseRecord(*row) for row in self._connection.execute(query, (since,))]

    def counters(self, incarnation: int) -> dict[str, float]:
        """The counters that an incarnation has reported."""
        with self._lock:
            row = self._connection.execute("SELECT counters FROM leases WHERE incarnation = ?", (incarnation,)).fetchone()
        return {} if row is None else dict(json.loads(row[0]))

    def totals(self) -> dict[tuple[str, str], float]:
        """The sums over all incarnations, by (role, counter)."""
        query = "SELECT role, key, SUM(json_each.value) FROM leases, json_each(leases.counters) GROUP BY 1, 2"
        with self._lock:
            return {(role, name): value for role, name, value in self._connection.execute(query)}

    # Single numbers

    def number(self, name: str) -> int:
        """A number by its name; 0 if it was never set."""
        with self._lock:
            return self._number(name)

    def set_number(self, name: str, value: int) -> None:
        """Sets a number. Durable."""
        with self._transaction(durable=True) as execute:
            execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (name, value))

    # Texts

    def text(self, name: str) -> str:
        """A text by its name; empty if it was never set."""
        with self._lock:
            row = self._connection.execute("SELECT value FROM texts WHERE name = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def set_text(self, name: str, value: str) -> None:
        """Sets a text. Durable."""
        with self._transaction(durable=True) as execute:
            execute("INSERT OR REPLACE INTO texts VALUES (?, ?)", (name, value))

    # The learner's progress, and the ended actors that it must know of

    def progress(self) -> LearnerProgress | None:
        """The newest progress that a learner has reported; None before the first."""
        with self._lock:
            row = self._connection.execute("SELECT message FROM progress").fetchone()
        return None if row is None else LearnerProgress.FromString(row[0])

    def set_progress(self, progress: LearnerProgress) -> None:
        """Replaces the stored progress."""
        with self._transaction() as execute:
            execute("INSERT OR REPLACE INTO progress VALUES (1, ?)", (progress.SerializeToString(),))

    def ended_actors(self, since: float) -> list[EndedActor]:
        """Actors whose last lease has ended and was seen after `since` (Unix seconds), with all that they collected.

        Here an actor is a process, identified by its first incarnation, as in the streams that it writes.
        """
        query = f"""SELECT origin, COALESCE(SUM(json_extract(counters, '$.{STEPS_COUNTER}')), 0)
                           - COALESCE(SUM(json_extract(counters, '$.{CUT_COUNTER}')), 0) FROM leases
                    WHERE role = 'actor' AND origin IN (SELECT origin FROM leases WHERE role = 'actor' AND seen_time > ?)
                    GROUP BY origin HAVING MIN(ended) = 1 ORDER BY origin"""
        with self._lock:
            rows = self._connection.execute(query, (since,)).fetchall()
        # A member that reports more cut episodes than steps must not keep learners from joining.
        return [EndedActor(incarnation=origin, transitions=max(0, int(steps))) for origin, steps in rows]

    # Weights

    def acquire_term(self, holder: str) -> int:
        """Raises the term by one, stores its holder, and returns it. Durable."""
        with self._transaction(durable=True) as execute:
            term = self._number("term") + 1
            execute("INSERT OR REPLACE INTO numbers VALUES ('term', ?)", (term,))
            execute("INSERT OR REPLACE INTO texts VALUES ('learner_holder', ?)", (holder,))
            return term

    @property
    def learner_holder(self) -> str:
        """Who holds the term; empty before the first learner."""
        return self.text("learner_holder")

    def add_weights(self, record: WeightsRecord, previous: int) -> bool:
        """Adds a version and deletes all others but `previous`. Does nothing and returns False on a stale term. Durable."""
        with self._transaction(durable=True) as execute:
            if record.term != self._number("term"):
                return False
            execute("INSERT INTO weights VALUES (?,?,?,?,?,?)", record)
            execute("DELETE FROM weights WHERE version NOT IN (?, ?)", (record.version, previous))
            return True

    def weights(self) -> list[WeightsRecord]:
        """The known versions, newest first."""
        with self._lock:
            return [WeightsRecord(*row) for row in self._connection.execute("SELECT * FROM weights ORDER BY version DESC")]

    # The log

    def append_episodes(self, episodes: Iterable[Episode]) -> None:
        """Appends the episodes that are not there yet. Durable."""
        statement = f"INSERT OR IGNORE INTO episodes ({', '.join(_EPISODE_FIELDS)}) VALUES ({_places(_EPISODE_FIELDS)})"
        with self._transaction(durable=True) as execute:
            added = sum(
                execute(statement, [getattr(episode, field) for field in _EPISODE_FIELDS]).rowcount for episode in episodes
            )
        with self._lock:
            self._num_episodes += added

    def append_evaluation(self, evaluation: Evaluation) -> None:
        """Appends an evaluation, or replaces the one with the same weights version and seed. Durable."""
        updates = ", ".join(f"{field} = excluded.{field}" for field in _EVALUATION_FIELDS)
        statement = f"""INSERT INTO evaluations ({", ".join(_EVALUATION_FIELDS)}) VALUES ({_places(_EVALUATION_FIELDS)})
                        ON CONFLICT (weights_version, seed) DO UPDATE SET {updates}"""
        with self._transaction(durable=True) as execute:
            execute(statement, [getattr(evaluation, field) for field in _EVALUATION_FIELDS])

    @property
    def num_episodes(self) -> int:
        """Number of episodes in the log."""
        with self._lock:
            return self._num_episodes

    def episodes(self, after_row: int, limit: int) -> tuple[list[Episode], int]:
        """Up to `limit` episodes after a row, oldest first, and the row of the last one (`after_row` if there are none)."""
        query = f"SELECT row, {', '.join(_EPISODE_FIELDS)} FROM episodes WHERE row > ? ORDER BY row LIMIT ?"
        with self._lock:
            rows = self._connection.execute(query, (min(after_row, MAX_INTEGER), limit)).fetchall()
        return [_episode(row[1:]) for row in rows], rows[-1][0] if rows else after_row

    def recent_episodes(self, limit: int) -> list[Episode]:
        """The last `limit` episodes, oldest first."""
        query = f"SELECT {', '.join(_EPISODE_FIELDS)} FROM episodes ORDER BY row DESC LIMIT ?"
        with self._lock:
            rows = self._connection.execute(query, (limit,)).fetchall()
        return [_episode(row) for row in reversed(rows)]

    def evaluations(self) -> list[Evaluation]:
        """All evaluations, oldest first."""
        query = f"SELECT {', '.join(_EVALUATION_FIELDS)} FROM evaluations ORDER BY row"
        with self._lock:
            rows = self._connection.execute(query).fetchall()
        return [_evaluation(row) for row in rows]

    def last_evaluation(self) -> Evaluation | None:
        """The last of `evaluations`, without reading the others; None before the first."""
        query = f"SELECT {', '.join(_EVALUATION_FIELDS)} FROM evaluations ORDER BY row DESC LIMIT 1"
        with self._lock:
            row = self._connection.execute(query).fetchone()
        return None if row is None else _evaluation(row)

    @contextmanager
    def _transaction(self, durable: bool = False) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """Yields `execute`; commits at the end, rolls back on an exception. `durable` waits for the disk."""
        with self._lock, self._connection:
            if durable is not self._is_durable:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._is_durable = durable
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection.execute

    def _number(self, name: str) -> int:
        row: tuple[int] | None = self._connection.execute("SELECT value FROM numbers WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else row[0]

    def _create_tables(self, path: Path) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            log = "".join(
                f"CREATE TABLE {table} (row INTEGER PRIMARY KEY, {', '.join(_columns(kind).values())}, UNIQUE ({unique}));\n"
                for table, (kind, unique) in _LOG.items()
            )
            self._connection.executescript(f"BEGIN; {_SCHEMA} {log} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version == 3:
            self._connection.executescript(f"BEGIN; {_FROM_SCHEMA_3} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise RunError(
                f"{path} has schema {version}, this version of sbrl uses {SCHEMA_VERSION}: "
                f"start a new run directory, or use the sbrl version that wrote it"
            )
        for table, (kind, _) in _LOG.items():  # fields added to the messages later become 0, as in the messages
            there = {name for _, name, *_ in self._connection.execute(f"PRAGMA table_info({table})")}
            for name, column in _columns(kind).items():
                if name not in there:
                    self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")


def _columns(kind: type[Message]) -> dict[str, str]:
    """SQL column declarations for a message of numbers, by field name."""
    real = {field.name: isinstance(field.default_value, float) for field in kind.DESCRIPTOR.fields}
    return {name: f"{name} {'REAL' if is_real else 'INTEGER'} NOT NULL DEFAULT 0" for name, is_real in real.items()}


def _places(fields: Sequence[str]) -> str:
    return ", ".join("?" * len(fields))


def _episode(row: Sequence[Any]) -> Episode:
    return Episode(**dict(zip(_EPISODE_FIELDS, row, strict=True)))


def _evaluation(row: Sequence[Any]) -> Evaluation:
    return Evaluation(**dict(zip(_EVALUATION_FIELDS, row, strict=True)))
