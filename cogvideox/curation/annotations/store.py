"""The annotation store: an append-only log of events in an SQLite file.

Events are never changed or removed: an undo is an event too, and triggers reject updates and deletions. The current
annotations are derived from the log: for each annotator and clip, the latest annotation that was not undone is valid.

    with AnnotationStore("annotations.db") as store:
        store.annotate("3f2a...", "ann", ["editing", "text"], seconds=2.5)
        store.undo("ann")
        annotations = store.annotations()
        labels = store.majority()
"""

import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, get_args

from cogvideox.atomic_io import lock_database
from cogvideox.curation.labels.definitions import DEFINITIONS_VERSION, LABELS, check_labels
from cogvideox.errors import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

STORE = "annotations.db"
"""File name of the store in a curation's output folder."""

Kind = Literal["annotation", "skip", "gold", "undo", "consent"]
"""Kinds of events. A skip marks a clip that the annotator could not decide; a gold item has known labels.
A consent has no clip: the annotator agreed that the answers are stored."""

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    clip_id TEXT NOT NULL,
    annotator TEXT NOT NULL,
    labels TEXT NOT NULL,       -- names, as a JSON list
    time TEXT NOT NULL,         -- ISO 8601, UTC
    seconds REAL,               -- time spent on the clip
    definitions INTEGER NOT NULL,
    undone INTEGER REFERENCES events (number)
);
CREATE INDEX events_by_clip ON events (clip_id);
CREATE TRIGGER no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
"""
_COLUMNS = "number, kind, clip_id, annotator, labels, time, seconds, definitions, undone"


@dataclass(frozen=True)
class Event:
    """An entry of the log.

    Attributes:
        number: position in the log, from 1.
        kind: see `Kind`.
        clip_id: id of the clip in the manifest; empty for a consent.
        annotator: name of the person or model that annotated the clip.
        labels: names of the labels, in the order of `LABELS`; empty for a clip without defects.
        time: time of the event, ISO 8601 in UTC.
        seconds: time spent on the clip, if known.
        definitions: version of the label definitions that the annotation follows.
        undone: number of the event that an undo cancels; None for all other kinds.
    """

    number: int
    kind: Kind
    clip_id: str
    annotator: str
    labels: tuple[str, ...]
    time: str
    seconds: float | None = None
    definitions: int = DEFINITIONS_VERSION
    undone: int | None = None


class AnnotationStore:
    """Append-only store of annotation events. Safe for concurrent use by several threads and processes."""

    def __init__(
        self, path: str | Path, *, wal: bool = False, read_only: bool = False, exclusive: bool = False
    ) -> None:
        """Open a store, or create it if the file does not exist.

        Args:
            wal: use write-ahead logging with full synchronization, for a server that writes with one connection.
            read_only: open for reading only, while another process may write.
            exclusive: hold a lock until the store is closed, so that no other process opens it as exclusive. The
                annotation page and the commands that write use it.

        Raises:
            UserError: the file cannot be opened, is not a store, or was written by a newer version; with `exclusive`,
                another process holds the lock.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        self._exclusive: "BaseFileLock | None" = None
        try:
            if exclusive:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._exclusive = lock_database(self.path)
            self._open(wal, read_only)
        except BaseException:
            self._release()
            raise

    def _open(self, wal: bool, read_only: bool) -> None:
        try:
            if not read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}",
                timeout=30.0,
                isolation_level=None,
                check_same_thread=False,
                uri=True,
            )
            if wal:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
            with self._transaction("BEGIN" if read_only else "BEGIN IMMEDIATE"):
                (version,) = self._connection.execute("PRAGMA user_version").fetchone()
                tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if version == 0 and tables == 0 and not read_only:
                    for statement in _statements(_SCHEMA):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
                elif version != _SCHEMA_VERSION:
                    raise UserError(
                        f"cannot open {self.path}: it is not an annotation store with format version {_SCHEMA_VERSION}"
                    )
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"cannot open {self.path} as an annotation store: {error}") from None

    def annotate(
        self,
        clip_id: str,
        annotator: str,
        labels: Collection[str],
        *,
        seconds: float | None = None,
        kind: Kind = "annotation",
        time: str | None = None,
        definitions: int = DEFINITIONS_VERSION,
    ) -> Event:
        """Append an annotation, skip or gold item.

        Args:
            labels: names of the labels; empty for a clip without defects, and for a skip.
            kind: "annotation", "skip" or "gold".
            time: ISO 8601 with a UTC offset; None uses the current time.

        Raises:
            UserError: a label is unknown, a name is empty, or the store cannot be written.
        """
        (event,) = self.append([Event(0, kind, clip_id, annotator, tuple(labels), time or now(), seconds, definitions)])
        return event

    def consent(self, annotator: str) -> None:
        """Append an annotator's consent, unless there is one."""
        if annotator not in self.consents():
            self.append([Event(0, "consent", "", annotator, (), now())])

    def consents(self) -> dict[str, str]:
        """Return the time of each annotator's first consent."""
        consents = [event for event in reversed(self.events()) if event.kind == "consent"]
        return {event.annotator: event.time for event in consents}

    def append(self, events: Iterable[Event]) -> list[Event]:
        """Append events in one transaction; their numbers are ignored. See `annotate`."""
        checked = [normalize(event) for event in events]
        with self._transaction():
            return [self._insert(event) for event in checked]

    def undo(self, annotator: str) -> Event | None:
        """Cancel the annotator's latest event that was not undone, and return this event; None if there is none.

        The annotator's previous annotation of the same clip becomes valid again.
        """
        with self._transaction():
            annotator_events = [event for event in _not_undone(self._select()) if event.annotator == annotator]
            valid = [event for event in annotator_events if event.kind != "consent"]
            if not valid:
                return None
            last = valid[-1]
            self._insert(Event(0, "undo", last.clip_id, annotator, (), now(), undone=last.number))
        return last

    def events(self, clip_id: str | None = None) -> list[Event]:
        """Return all events, or the events of one clip, oldest first."""
        with self._lock:
            return self._select(clip_id)

    def annotations(self, clip_id: str | None = None, *, skipped: bool = False) -> list[Event]:
        """Return the valid annotations, oldest first: the latest per annotator and clip that was not undone.

        Args:
            skipped: also return skips. A clip whose latest event is a skip has no annotation by this annotator.
        """
        last: dict[tuple[str, str], Event] = {}
        for event in _not_undone(self.events(clip_id)):
            if event.kind in ("annotation", "skip"):
                last[event.clip_id, event.annotator] = event
        valid = sorted(last.values(), key=lambda event: event.number)
        return [event for event in valid if skipped or event.kind == "annotation"]

    def gold(self) -> dict[str, tuple[str, ...]]:
        """Return the labels of the gold items by clip id."""
        return {event.clip_id: event.labels for event in _not_undone(self.events()) if event.kind == "gold"}

    def votes(self) -> dict[str, dict[str, float]]:
        """Return for each clip the fraction of its annotators that assigned each label; 0 or 1 for gold items."""
        label_sets: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for event in self.annotations():
            label_sets[event.clip_id].append(event.labels)
        label_sets |= {clip_id: [labels] for clip_id, labels in self.gold().items()}
        return {
            clip_id: {name: sum(name in labels for labels in annotated) / len(annotated) for name in LABELS}
            for clip_id, annotated in label_sets.items()
        }

    def majority(self) -> dict[str, dict[str, bool | None]]:
        """Return for each clip whether most annotators assigned each label; None if the votes are tied."""
        return {
            clip_id: {name: None if vote == 0.5 else vote > 0.5 for name, vote in votes.items()}
            for clip_id, votes in self.votes().items()
        }

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
        self._release()

    def __enter__(self) -> "AnnotationStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _release(self) -> None:
        if self._exclusive is not None:
            self._exclusive.release()

    def _select(self, clip_id: str | None = None) -> list[Event]:
        where, values = ("", ()) if clip_id is None else ("WHERE clip_id = ?", (clip_id,))
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM events {where} ORDER BY number", values)
        events = []
        for number, kind, clip, annotator, labels, time, seconds, definitions, undone in rows:
            names = tuple(json.loads(labels))
            events.append(Event(number, kind, clip, annotator, names, time, seconds, definitions, undone))
        return events

    def _insert(self, event: Event) -> Event:
        values = (
            *(event.kind, event.clip_id, event.annotator, json.dumps(event.labels)),
            *(event.time, event.seconds, event.definitions, event.undone),
        )
        statement = f"INSERT INTO events ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
        number = self._connection.execute(statement, values).lastrowid
        return Event(number or 0, *values[:3], event.labels, *values[4:])

    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> "_Transaction":
        return _Transaction(self._connection, self._lock, self.path, begin)


class _Transaction:
    """A transaction that holds the thread lock and the file's write lock; commits, or rolls back after an error."""

    def __init__(self, connection: sqlite3.Connection, lock: threading.Lock, path: Path, begin: str) -> None:
        self._connection, self._lock, self._path, self._begin = connection, lock, path, begin

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._connection.execute(self._begin)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._connection.execute("COMMIT" if error is None else "ROLLBACK")
        finally:
            self._lock.release()
        if isinstance(error, sqlite3.Error):
            raise UserError(f"cannot write {self._path}: {error}") from None


def now() -> str:
    """Return the current time, ISO 8601 in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def normalize(event: Event) -> Event:
    """Return an event with its labels in the order of `LABELS` and its time in UTC.

    Raises:
        UserError: see `AnnotationStore.annotate`.
    """
    if event.kind not in get_args(Kind) or event.kind == "undo":
        raise UserError(f"kind={event.kind!r} must be annotation, skip or gold")
    if event.kind == "consent" and (event.clip_id or event.labels):
        raise UserError("a consent has no clip and no labels")
    if not event.annotator or not (event.clip_id or event.kind == "consent"):
        raise UserError("an annotation needs a clip id and the name of its annotator")
    labels = check_labels(event.labels)
    if event.kind == "skip" and labels:
        raise UserError("a skipped clip has no labels")
    try:
        parsed = datetime.fromisoformat(event.time)
    except (TypeError, ValueError):
        raise UserError(f"time={event.time!r} must be ISO 8601, such as 2026-05-01T12:00:00+00:00") from None
    parsed = parsed.replace(tzinfo=parsed.tzinfo or UTC).astimezone(UTC)
    time = parsed.isoformat(timespec="milliseconds")
    return Event(0, event.kind, event.clip_id, event.annotator, labels, time, event.seconds, event.definitions)


def _not_undone(events: Iterable[Event]) -> list[Event]:
    """Return the events that were not undone, oldest first."""
    events = list(events)
    undone = {event.undone for event in events if event.kind == "undo"}
    return [event for event in events if event.kind != "undo" and event.number not in undone]


def _statements(script: str) -> Iterable[str]:
    """Yield the statements of an SQL script, in which triggers contain semicolons."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
