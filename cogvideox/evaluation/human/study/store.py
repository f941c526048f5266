"""Votes of a study: an append-only log of events in an SQLite file (WAL, synchronous FULL).

Events are never changed or removed; an undo is an event too. One process writes, with one connection, and holds a lock.
Others open the file read-only.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from cogvideox.atomic_io import lock_database, write_text
from cogvideox.errors import UserError

Kind = Literal["consent", "vote", "undo", "close"]

_VERSION = 1
_SCHEMA = (
    "CREATE TABLE study (hash TEXT NOT NULL)",
    "CREATE TABLE events (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, rater TEXT NOT NULL, time TEXT NOT NULL, "
    "position INTEGER, item TEXT, swapped INTEGER, answer TEXT, seconds REAL)",
    "CREATE TRIGGER no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END",
    "CREATE TRIGGER no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never removed'); END",
)
_COLUMNS = "number, kind, rater, time, position, item, swapped, answer, seconds"


@dataclass(frozen=True)
class Event:
    """An entry of the log.

    Attributes:
        number: position in the log, from 1.
        rater: id of the rater; empty for the end of the study.
        position: position of the task in the rater's order, of votes and undos.
        item: id of the item.
        swapped: whether the second video was on the left.
        answer: scores, or choices by question, as the rater saw the sides.
        seconds: time from the display of the item to the answer.
    """

    number: int
    kind: Kind
    rater: str
    time: str
    position: int | None = None
    item: str | None = None
    swapped: bool | None = None
    answer: dict[str, Any] | None = None
    seconds: float | None = None


class RatingStore:
    """Append-only store of the votes of one study."""

    def __init__(self, path: str | Path, study_hash: str, *, read_only: bool = False) -> None:
        """Open a store, or create it unless `read_only`.

        Raises:
            UserError: another process has opened the store for writing; the file cannot be opened, is not a store, or
                belongs to another protocol.
        """
        self.path = Path(path)
        if read_only and not self.path.is_file():
            raise UserError(f"{self.path} does not exist: there are no votes yet")
        self._lock = None if read_only else lock_database(self.path)
        try:
            self._open(study_hash, read_only)
        except BaseException:
            self._release()
            raise

    def _open(self, study_hash: str, read_only: bool) -> None:
        try:
            mode = "ro" if read_only else "rwc"
            self._connection = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
            )
            if not read_only:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version == 0 and tables == 0 and not read_only:
                self._connection.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA:
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO study VALUES (?)", (study_hash,))
                self._connection.execute(f"PRAGMA user_version = {_VERSION}")
                self._connection.execute("COMMIT")
            elif version != _VERSION:
                raise UserError(f"cannot open {self.path}: it is not a rating store with format version {_VERSION}")
            if self._connection.execute("SELECT hash FROM study").fetchone()[0] != study_hash:
                raise UserError(
                    f"cannot open {self.path}: its votes belong to another study: move it away, or restore the "
                    "study.json of its votes"
                )
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"cannot open {self.path} as a rating store: {error}") from None

    def append(self, kind: Kind, rater: str, **values: Any) -> Event:
        """Append an event durably. `values` are attributes of `Event`."""
        assert kind in get_args(Kind)
        event = Event(0, kind, rater, datetime.now(UTC).isoformat(timespec="milliseconds"), **values)
        answer = None if event.answer is None else json.dumps(event.answer, sort_keys=True)
        row = (kind, rater, event.time, event.position, event.item, event.swapped, answer, event.seconds)
        try:
            cursor = self._connection.execute(f"INSERT INTO events VALUES (NULL{', ?' * len(row)})", row)
        except sqlite3.Error as error:
            raise UserError(f"cannot write {self.path}: {error}") from None
        return Event(**{**asdict(event), "number": cursor.lastrowid or 0})

    def events(self, rater: str | None = None) -> list[Event]:
        """Return all events, or those of a rater, oldest first."""
        where, values = ("", ()) if rater is None else (" WHERE rater = ?", (rater,))
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM events{where} ORDER BY number", values)
        return [
            Event(
                *(number, kind, name, time, position, item),
                *(None if swapped is None else bool(swapped), None if answer is None else json.loads(answer), seconds),
            )
            for number, kind, name, time, position, item, swapped, answer, seconds in rows
        ]

    def votes(self, rater: str | None = None) -> list[Event]:
        """Return the valid votes, oldest first: the latest per rater and position that was not undone."""
        return list(valid_votes(self.events(rater)))

    def is_closed(self) -> bool:
        """Return whether the study has ended."""
        return bool(self._connection.execute("SELECT count(*) FROM events WHERE kind = 'close'").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def valid_votes(events: list[Event]) -> Iterator[Event]:
    """Yield the votes that were not undone, oldest first."""
    current: dict[tuple[str, int | None], Event] = {}
    for event in events:
        if event.kind == "vote":
            current[event.rater, event.position] = event
        elif event.kind == "undo":
            current.pop((event.rater, event.position), None)
    yield from sorted(current.values(), key=lambda event: event.number)


def export_events(store: RatingStore, study_hash: str, path: str | Path) -> int:
    """Write all events as JSON lines, each with the hash of the protocol, and return their number."""
    events = store.events()
    lines = [json.dumps({"protocol": study_hash, **asdict(event)}, ensure_ascii=False) + "\n" for event in events]
    write_text(path, "".join(lines))
    return len(events)
