"""The service's memory: every job and every change of its state, on disk before anyone hears of it.

SQLite in WAL mode with synchronous=FULL. Each change is one row with a growing number (seq) that is
never used twice, written in the same transaction as the job itself; a client that remembers the last
seq it saw can be told exactly what it missed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flux_core.errors import Corrupt, EngineDied, Internal, RequestInvalid, StorageFull
from flux_core.messages import Failed, JobEvent, JobRecord, JobState

MAX_INTERRUPTIONS = 2  # a job that was running twice when a service was killed is not tried again

_VERSION = 1
_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of arrival
    job_id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL,
    fingerprint TEXT NOT NULL,                 -- of what was first submitted
    has_begun INTEGER NOT NULL DEFAULT 0,      -- an engine said something about it since it runs
    interruptions INTEGER NOT NULL DEFAULT 0,
    acknowledged_at REAL
);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX events_of_job ON events (job_id);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A job as the journal holds it.

    Attributes:
        number: Order of arrival; 0 before it is written.
        fingerprint: Of the submission, to tell a repeated one from a different one.
        has_begun: Whether an engine has said something about it since it runs.
        interruptions: How often a service was killed while an engine worked on this job.
        acknowledged_at: Seconds since the epoch; None until the client has the result.
    """

    record: JobRecord
    fingerprint: str
    number: int = 0
    has_begun: bool = False
    interruptions: int = 0
    acknowledged_at: float | None = None


class Journal:
    """Owns the database; one thread uses it.

    Raises:
        Corrupt: The file is damaged or no journal.
        RequestInvalid: The file was written by a newer version, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._mapped():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            with self._mapped():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Closes the file; everything written is already on disk."""
        self._db.close()

    @property
    def last_seq(self) -> int:
        """The number of the last change ever written, 0 before the first."""
        return self._last_seq

    def find(self, job_id: str) -> Entry | None:
        rows = self._entries("WHERE job_id = ?", (job_id,))
        return rows[0] if rows else None

    def entries(self) -> list[Entry]:
        """Every job, in order of arrival."""
        return self._entries("ORDER BY number", ())

    def events_after(self, seq: int, limit: int = 100) -> list[JobEvent]:
        """The changes after number `seq`, oldest first, at most `limit`."""
        with self._mapped():
            rows = self._db.execute(
                "SELECT seq, job_id, record FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
            ).fetchall()
            return [
                JobEvent(
                    seq=row[0], job_id=row[1], kind="state", record=JobRecord.model_validate_json(row[2])
                )
                for row in rows
            ]

    def write(self, entry: Entry) -> Entry:
        """Writes a new job or a change of one, durably, and numbers it.

        Raises:
            StorageFull: The disk is full; the journal is as it was before.
        """
        seq = self._last_seq + 1
        record = entry.record.model_copy(update={"seq": seq, "progress": None, "position": None})
        text = record.model_dump_json()
        with self._transaction():
            self._db.execute("INSERT INTO events VALUES (?, ?, ?)", (seq, record.job_id, text))
            cursor = self._db.execute(
                "INSERT INTO jobs (job_id, record, fingerprint, interruptions, acknowledged_at)"
                " VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (job_id) DO UPDATE"
                " SET record = ?2, has_begun = 0, interruptions = ?4, acknowledged_at = ?5 RETURNING number",
                (record.job_id, text, entry.fingerprint, entry.interruptions, entry.acknowledged_at),
            )
            number = cursor.fetchall()[0][0]
        self._last_seq = seq
        return replace(entry, record=record, number=number, has_begun=False)

    def mark_begun(self, job_id: str) -> None:
        """Notes that an engine works on this job; no change of state, so nobody is told."""
        with self._transaction():
            self._db.execute("UPDATE jobs SET has_begun = 1 WHERE job_id = ?", (job_id,))

    def recover(self) -> list[Entry]:
        """Puts jobs that were running when a service was killed back into the queue; returns them.

        A job to which this happens MAX_INTERRUPTIONS times while an engine worked on it fails instead:
        it may be what kills.
        """
        recovered: list[Entry] = []
        for entry in self.entries():
            if entry.record.state is not JobState.RUNNING:
                continue
            interruptions = entry.interruptions + entry.has_begun
            change: dict[str, Any] = {"state": JobState.QUEUED}
            if interruptions >= MAX_INTERRUPTIONS:
                error = EngineDied(
                    f"The service was ended {interruptions} times while this job ran, so it was given up.",
                    "If the machine ran out of memory, make the job smaller; otherwise send it again.",
                )
                change = {"state": JobState.FAILED, "failed": Failed.of(error)}
            record = entry.record.model_copy(update=change)
            recovered.append(self.write(replace(entry, record=record, interruptions=interruptions)))
        return recovered

    def remove(self, job_ids: Iterable[str]) -> None:
        """Forgets jobs and their changes."""
        keys = [(job_id,) for job_id in job_ids]
        with self._transaction():
            self._db.executemany("DELETE FROM events WHERE job_id = ?", keys)
            self._db.executemany("DELETE FROM jobs WHERE job_id = ?", keys)

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            message = f"The journal {self._path} was written by a newer version of Flowbrush."
            raise RequestInvalid(message, "Use that version, or another home folder.")
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        self._last_seq = int(row[0]) if row else 0

    def _entries(self, where: str, values: tuple[Any, ...]) -> list[Entry]:
        with self._mapped():
            rows = self._db.execute(
                "SELECT record, fingerprint, number, has_begun, interruptions, acknowledged_at"
                f" FROM jobs {where}",
                values,
            ).fetchall()
            return [
                Entry(JobRecord.model_validate_json(row[0]), row[1], row[2], bool(row[3]), row[4], row[5])
                for row in rows
            ]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._mapped():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                message = "There is no space left to write down what the jobs do."
                raise StorageFull(message, "Free some space; nothing that was written is lost.") from err
            if err.sqlite_errorcode == sqlite3.SQLITE_CANTOPEN:
                message = f"The journal {self._path} cannot be opened."
                raise RequestInvalid(message, "Check the folder's permissions.") from err
            raise Internal(f"The journal {self._path} cannot be used: {err}.") from err
        except (sqlite3.DatabaseError, ValueError) as err:
            message = f"The journal {self._path} is damaged: {str(err).splitlines()[0]}."
            raise Corrupt(message, "Move it away and start again; pictures on disk stay.") from err
