"""The durable log of answers: what is acknowledged is on disk."""

import contextlib
import json
import os
import pathlib
import sqlite3
import time
from collections.abc import Sequence

from pal_jax.active.questions import Answer, answer_from_dict, answer_to_dict
from pal_jax.errors import UserError

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x50414C4A  # "PALJ": stands in the file's header, so that no other is touched

# Append-only, and without gaps: REPLACE fails at the insert trigger like any other rewriting.
_SCHEMA = (
    "CREATE TABLE answers (position INTEGER PRIMARY KEY, written REAL NOT NULL, "
    "answer TEXT NOT NULL) STRICT",
    "CREATE TRIGGER in_order BEFORE INSERT ON answers "
    "WHEN NEW.position <> (SELECT coalesce(max(position), 0) + 1 FROM answers) "
    "BEGIN SELECT raise(ABORT, 'answers are numbered without gaps'); END",
    "CREATE TRIGGER no_update BEFORE UPDATE ON answers "
    "BEGIN SELECT raise(ABORT, 'answers are never changed'); END",
    "CREATE TRIGGER no_delete BEFORE DELETE ON answers "
    "BEGIN SELECT raise(ABORT, 'answers are never deleted'); END",
)


_INSTEAD = (
    "remove it and the -wal and -shm beside it, and put a copy in its place; without one, the "
    "answers up to the newest checkpoint come back from that"
)


class Journal:
    """All answers ever given, in order, in one SQLite file that one process may write.

    `append` returns after the commit has been synced to disk (WAL, synchronous=FULL, checked
    at opening): neither a killed process nor a power cut loses an acknowledged answer. Each row
    also has the wall time at which it was written; `answers` leaves it out, so that two runs
    with the same answers are equal.

    Beside the file lie SQLite's -wal and -shm while it is open, and `PATH.lock`: an unfinished
    transaction on an empty database, which the operating system drops with the process,
    however that ends.

    Args:
        path: the file; made with its folder if there is none.

    Raises:
        UserError: another process writes to it; the folder cannot be made or written to; the
            file is not a journal, is damaged, was made by a newer pal_jax or was changed by
            hand. Nothing is overwritten.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        with contextlib.ExitStack() as undo:
            try:
                self._lock = undo.enter_context(contextlib.closing(_lock(self.path)))
                if not self.path.exists():
                    _create(self.path)
                _check_header(self.path)
            except (OSError, sqlite3.Error) as error:
                raise UserError(
                    f"the journal {self.path} cannot be opened ({error}); choose a workdir that "
                    "can be read and written"
                ) from error
            try:
                self._db = undo.enter_context(contextlib.closing(_open(self.path)))
                self._length = self._db.execute("SELECT count(*) FROM answers").fetchone()[0]
            except sqlite3.Error as error:
                raise UserError(
                    f"the journal {self.path} cannot be read ({error}); {_INSTEAD}"
                ) from error
            undo.pop_all()

    def append(self, answers: Sequence[Answer]) -> None:
        """Writes all of `answers` or none; they are on disk when this returns.

        Raises:
            UserError: the disk is full or fails; nothing of this call was acknowledged.
        """
        now = time.time()
        rows = [
            (self._length + 1 + m, now, json.dumps(answer_to_dict(answer)))
            for m, answer in enumerate(answers)
        ]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT INTO answers VALUES (?, ?, ?)", rows)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise UserError(
                f"{len(rows)} answers could not be written to {self.path} ({error}); "
                "make room on the disk and start again: all earlier ones are safe"
            ) from error
        self._length += len(rows)

    def answers(self, since: int = 0) -> list[Answer]:
        """Those from position `since` on, in the order in which they were written."""
        rows = self._db.execute(
            "SELECT position, answer FROM answers WHERE position > ? ORDER BY position", (since,)
        )
        return [_parse(self.path, position, text) for position, text in rows]

    def snapshot(self) -> list[str]:
        """All answers as text, for `refill`; JSON-able, and fast to take."""
        rows = self._db.execute("SELECT answer FROM answers ORDER BY position")
        return [text for (text,) in rows]

    def refill(self, snapshot: Sequence[str]) -> None:
        """Appends what a snapshot has and the journal lacks: one that was lost comes back.

        Raises:
            UserError: the two begin with different answers; nothing is changed.
        """
        here = self.snapshot()
        shared = min(len(here), len(snapshot))
        if here[:shared] != list(snapshot[:shared]):
            raise UserError(
                f"the journal {self.path} and the checkpoint hold different answers; put the "
                "journal of this run back, or remove it to take the answers of the checkpoint"
            )
        missing = enumerate(snapshot[shared:], shared + 1)
        self.append([_parse(self.path, position, text) for position, text in missing])

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(path: pathlib.Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = sqlite3.connect(f"{path}.lock", timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise UserError(
            f"the journal {path} is in use by another process ({error}); stop that one first"
        ) from error
    return lock


def _create(path: pathlib.Path) -> None:
    """An empty journal, complete or not there at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as db:
        for statement in ("BEGIN", *_SCHEMA, "COMMIT"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    for old in ("-wal", "-shm"):  # of a journal that was taken away: SQLite would read it again
        path.with_name(path.name + old).unlink(missing_ok=True)
    os.replace(fresh, path)
    if os.name == "posix":  # the name must be on disk before the first answer is acknowledged
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _check_header(path: pathlib.Path) -> None:
    """Looks before SQLite does: opening a foreign database may already write to it."""
    with path.open("rb") as file:
        header = file.read(100)
    if header[:16] != b"SQLite format 3\0" or header[68:72] != _APPLICATION_ID.to_bytes(4):
        raise UserError(f"{path} is not a journal of pal_jax; choose another workdir or move it")
    version = int.from_bytes(header[60:64])
    if version != SCHEMA_VERSION:
        raise UserError(
            f"the journal {path} has schema version {version}, this pal_jax reads "
            f"{SCHEMA_VERSION}; use the pal_jax that wrote it"
        )


def _open(path: pathlib.Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA trusted_schema = OFF")
        found = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_schema")}
        health = db.execute("PRAGMA integrity_check").fetchone()[0]
        if found != set(_SCHEMA) or health != "ok":
            reason = health if health != "ok" else "its tables are not those of pal_jax"
            raise UserError(f"the journal {path} is damaged: {reason}; {_INSTEAD}")
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        db.execute("PRAGMA synchronous = FULL")
        if (mode, db.execute("PRAGMA synchronous").fetchone()[0]) != ("wal", 2):
            raise UserError(
                f"the disk of {path} cannot hold a durable journal (SQLite's mode there is "
                f"{mode}); choose a workdir on a local disk"
            )
    except BaseException:
        db.close()
        raise
    return db


def _parse(path: pathlib.Path, position: int, text: str) -> Answer:
    try:
        return answer_from_dict(json.loads(text))
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(
            f"answer {position} of the journal {path} is damaged ({error}); {_INSTEAD}"
        ) from error
