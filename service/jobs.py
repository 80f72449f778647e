"""Accepted work on disk: records and events in SQLite, pictures as files beside it; one folder, one process."""

import json
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from time import time
from typing import Any, NamedTuple

from service.errors import Cancelled, DarkroomError, InvalidRequest, Unavailable
from service.metrics import Metrics

log = logging.getLogger("darkroom")

DATABASE, PICTURED = "jobs.sqlite", "job.picture"
FILE = re.compile(r"(job-[0-9a-f]{32})(-\d+\.(png|webp|jpeg|partial)|\.upload)")
RETRY = 2.0  # seconds after which a disk that refused is asked again
OPENING = (  # one process has the file; what is deleted is overwritten and its space given back
    *("locking_mode = EXCLUSIVE", "auto_vacuum = FULL", "journal_mode = WAL"),
    *("synchronous = FULL", "secure_delete = ON", "foreign_keys = ON"),
)
TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, spec TEXT NOT NULL, bytes INTEGER NOT NULL, idempotency_key TEXT,
    digest TEXT NOT NULL, created REAL NOT NULL, status TEXT NOT NULL DEFAULT 'queued', started REAL, finished REAL,
    crashes INTEGER NOT NULL DEFAULT 0, error TEXT, UNIQUE (owner, idempotency_key));
CREATE INDEX IF NOT EXISTS job_states ON jobs (status, bytes);
CREATE INDEX IF NOT EXISTS job_owners ON jobs (owner, bytes, finished);
CREATE TABLE IF NOT EXISTS events (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE, number INTEGER NOT NULL, name TEXT NOT NULL,
    data TEXT NOT NULL, file_bytes INTEGER NOT NULL, UNIQUE (job, number));
UPDATE jobs SET status = 'queued', crashes = crashes + 1 WHERE status = 'in_progress';
"""


@dataclass(frozen=True)
class Job:
    """One record. Times are seconds since 1970."""

    id: str
    owner: str  # name of an API key; empty where keys are not asked for
    spec: Mapping[str, Any]  # recipes, steps, output_format, quality, previews, request_id, deadline, upload
    bytes: int  # on disk; until it is finished, what it may come to need
    idempotency_key: str | None
    digest: str  # of the request's body
    created: float
    status: str = "queued"  # in_progress, succeeded, failed, cancelled
    started: float | None = None
    finished: float | None = None
    crashes: int = 0  # times that the service died while this was in progress
    error: Mapping[str, Any] | None = None  # status, message, code, param
    pictures: tuple[Mapping[str, Any], ...] = ()  # number, seed, timings

    @property
    def count(self) -> int:
        """Of its pictures."""
        return len(self.spec["recipes"])

    @property
    def steps(self) -> int:
        """Of each picture."""
        return int(self.spec["steps"])


class Event(NamedTuple):
    """What a watcher hears. One without a number is not stored."""

    number: int | None
    name: str
    data: Mapping[str, Any]


class Jobs:
    """The records. Every method may be called from many threads; Unavailable where the disk refuses."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self._folder, self._metrics, self._lock = folder, metrics, threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(folder / DATABASE, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(folder / DATABASE, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            hint = "another process has it, or it is damaged and must be moved away"
            raise InvalidRequest(f"DARKROOM_JOBS_DIR {folder / DATABASE}: {error}; {hint}", field="jobs_dir") from error

    def _prepare(self) -> None:
        try:
            for pragma in OPENING:
                self._db.execute(f"PRAGMA {pragma}")
            (damage,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)
            self._db.executescript(TABLES)
            known = {row["id"] for row in self._db.execute("SELECT * FROM jobs")}
        except BaseException:
            self._db.close()
            raise
        with self._writing():
            pass  # the gauges
        for file in self._folder.iterdir():
            ours = FILE.fullmatch(file.name)
            if ours and (ours[1] not in known or file.suffix == ".partial"):
                file.unlink()

    def add(self, job: Job, upload: bytes) -> None:
        """A new record, with its first event, and beside it the caller's own picture if it is about one."""
        columns = "id, owner, spec, bytes, idempotency_key, digest, created"
        values = job.id, job.owner, json.dumps(job.spec), job.bytes, job.idempotency_key, job.digest, job.created
        try:
            if upload:
                with self._refusing():
                    _write(self._upload(job), upload)
            with self._writing() as db:
                db.execute(f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
                _add_event(db, job.id, "job.queued", {})
        except BaseException:
            self._upload(job).unlink(missing_ok=True)
            raise

    def record(self, job: str, name: str, data: Mapping[str, Any], *, was: str, status: str) -> None:
        """One more event of a job that was in the one state and is in the other now; nothing if it was not."""
        started = "CASE status WHEN 'queued' THEN ? ELSE started END"
        with self._writing() as db:
            change = f"UPDATE jobs SET status = ?, started = {started} WHERE id = ? AND status = ?"
            if db.execute(change, (status, time(), job, was)).rowcount:
                _add_event(db, job, name, data)

    def keep(self, job: Job, number: int, picture: bytes, data: Mapping[str, Any]) -> None:
        """A picture: whole and on disk before anyone hears of it."""
        target = self.picture(job, number)
        partial = target.with_suffix(".partial")
        with self._refusing():
            try:
                _write(partial, picture)
                with self._writing() as db:
                    if _add_event(db, job.id, PICTURED, {"number": number, **data}, len(picture)):
                        partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def finish(self, job: str, failure: DarkroomError | None) -> None:
        """How it ended."""
        status = "cancelled" if isinstance(failure, Cancelled) else "failed" if failure else "succeeded"
        names = {"status": "status", "message": "message", "code": "code", "param": "field"}
        error = {name: getattr(failure, attribute) for name, attribute in names.items()} if failure else None
        own = "length(spec) + coalesce(json_extract(spec, '$.upload'), 0)"
        size = f"{own} + (SELECT sum(length(data) + file_bytes) FROM events WHERE job = id)"
        with self._writing() as db:
            _add_event(db, job, f"job.{status}", {"error": error} if error else {})
            change = f"UPDATE jobs SET status = ?, error = ?, finished = ?, bytes = {size} WHERE id = ?"
            db.execute(change, (status, error and json.dumps(error), time(), job))

    def find(self, job: str) -> Job | None:
        """The record of this id."""
        return next(iter(self._select("id = ?", job)), None)

    def keyed(self, owner: str, idempotency_key: str) -> Job | None:
        """The record that came with this key."""
        return next(iter(self._select("owner = ? AND idempotency_key = ?", owner, idempotency_key)), None)

    def unfinished(self) -> list[Job]:
        """What was accepted and is not done, oldest first."""
        return self._select("finished IS NULL ORDER BY created")

    def used(self, owner: str) -> tuple[int, float | None]:
        """Bytes on disk, or promised to work in progress; when the oldest job that is done was finished."""
        (row,) = self._rows("SELECT coalesce(sum(bytes), 0), min(finished) FROM jobs WHERE owner = ?", owner)
        return row[0], row[1]

    def event(self, job: str, after: int) -> Event | None:
        """The first event after this number. One at a time, since previews are large."""
        query = "SELECT number, name, data FROM events WHERE job = ? AND number > ? ORDER BY number LIMIT 1"
        rows = self._rows(query, job, after)
        return Event(rows[0]["number"], rows[0]["name"], json.loads(rows[0]["data"])) if rows else None

    def picture(self, job: Job, number: int) -> Path:
        """The file of a picture."""
        return self._folder / f"{job.id}-{number}.{job.spec['output_format']}"

    def upload(self, job: Job) -> bytes:
        """The caller's own picture, empty where there is none."""
        with self._refusing():
            return self._upload(job).read_bytes() if job.spec.get("upload") else b""

    def remove(self, *jobs: Job) -> None:
        """Forget these, files and all."""
        with self._writing() as db:
            db.executemany("DELETE FROM jobs WHERE id = ?", [(job.id,) for job in jobs])
            for job in jobs:
                for file in (self._upload(job), *(self.picture(job, number) for number in range(job.count))):
                    file.unlink(missing_ok=True)
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)")  # the log of changes still holds what was deleted

    def expire(self, before: float) -> None:
        """Forget what was finished before this time."""
        while expired := self._select("finished < ? LIMIT 100", before):
            self.remove(*expired)

    def close(self) -> None:
        """Release the folder."""
        with self._lock:
            self._db.close()

    def _upload(self, job: Job) -> Path:
        return self._folder / f"{job.id}.upload"

    def _select(self, where: str, *values: Any) -> list[Job]:
        def job(row: sqlite3.Row) -> Job:
            pictures = self._rows("SELECT data FROM events WHERE job = ? AND name = ?", row["id"], PICTURED)
            columns = dict(row) | {"spec": json.loads(row["spec"]), "error": row["error"] and json.loads(row["error"])}
            made = sorted((json.loads(picture["data"]) for picture in pictures), key=itemgetter("number"))
            return Job(**columns, pictures=tuple(made))

        return [job(row) for row in self._rows(f"SELECT * FROM jobs WHERE {where}", *values)]

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, self._refusing():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, and the gauges after it."""
        with self._lock, self._refusing():
            with self._db:
                yield self._db
            totals = "SELECT status, count(*), sum(bytes) FROM jobs GROUP BY status"
            self._metrics.jobs_are({row[0]: (row[1], row[2]) for row in self._db.execute(totals)})

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            log.error("jobs in %s: %s", self._folder, error)
            why = error.strerror if isinstance(error, OSError) else error
            raise Unavailable(f"the jobs cannot be stored or read: {why}", retry_after=RETRY) from error


def _write(file: Path, data: bytes) -> None:
    """For its owner alone, and on disk."""
    with open(file, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _add_event(db: sqlite3.Connection, job: str, name: str, data: Mapping[str, Any], file_bytes: int = 0) -> bool:
    """Whether there is such a job, unfinished."""
    following = "(SELECT coalesce(max(number), 0) + 1 FROM events WHERE job = id)"
    insert = f"INSERT INTO events SELECT id, {following}, ?, ?, ? FROM jobs WHERE id = ? AND finished IS NULL"
    return db.execute(insert, (name, json.dumps(data), file_bytes, job)).rowcount > 0
