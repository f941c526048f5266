"""The annotation store: an append-only log of events in an SQLite file.

Nothing is changed or removed: an undo is an event, and triggers reject updates and deletions. What is valid now follows
from the log. Of each annotator, the last answer to a clip that was not undone counts.

    with AnnotationStore("annotations.db") as store:
        store.annotate("3f2a...", "ann", ["editing", "text"], seconds=2.5)
        store.undo("ann")
        answers = store.annotations()
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
from typing import Literal, get_args

from cogvideox.curation.labels.definitions import DEFINITIONS_VERSION, LABELS, check_labels
from cogvideox.errors import UserError

STORE = "annotations.db"
"""File name of the store in a curation's output folder."""

Kind = Literal["annotation", "skip", "gold", "undo"]
"""Kinds of events. A skip is a clip that the annotator could not decide; a gold item has labels that are known."""

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
        clip_id: id of the clip in the manifest.
        annotator: name of the person or model that answered.
        labels: names of the labels, in the order of `LABELS`; empty for a clip without defects.
        time: time of the answer, ISO 8601 in UTC.
        seconds: time spent on the clip, if known.
        definitions: version of the definitions that the answer follows.
        undone: number of the event that an undo cancels; None for other kinds.
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
    """Reads and appends events. An instance may be used by several threads, and a file by several processes."""

    def __init__(self, path: str | Path) -> None:
        """Open a store, or create it.

        Raises:
            UserError: the file cannot be opened, is not a store, or was written by a newer version.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=30.0, isolation_level=None, check_same_thread=False)
            with self._transaction():
                (version,) = self._connection.execute("PRAGMA user_version").fetchone()
                tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if version == 0 and tables == 0:
                    for statement in _statements(_SCHEMA):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
                elif version != _SCHEMA_VERSION:
                    raise UserError(
                        f"cannot open {self.path}: it is not a store of annotations of version {_SCHEMA_VERSION}"
                    )
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"cannot open {self.path} as a store of annotations: {error}") from None

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
        """Append an answer.

        Args:
            labels: names of the labels; empty for a clip without defects, and for a skip.
            kind: "annotation", "skip" or "gold".
            time: ISO 8601 with a UTC offset; the present if it is None.

        Raises:
            UserError: a label does not exist, a name is empty, or the store cannot be written.
        """
        (event,) = self.append([Event(0, kind, clip_id, annotator, tuple(labels), time or now(), seconds, definitions)])
        return event

    def append(self, events: Iterable[Event]) -> list[Event]:
        """Append answers in one transaction; their numbers are ignored. See `annotate`."""
        checked = [normalize(event) for event in events]
        with self._transaction():
            return [self._insert(event) for event in checked]

    def undo(self, annotator: str) -> Event | None:
        """Cancel the annotator's last answer that was not undone, and return it; None if there is none.

        An earlier answer of the annotator to the same clip becomes valid again.
        """
        with self._transaction():
            answers = [event for event in _not_undone(self._select()) if event.annotator == annotator]
            if not answers:
                return None
            last = answers[-1]
            self._insert(Event(0, "undo", last.clip_id, annotator, (), now(), undone=last.number))
        return last

    def events(self, clip_id: str | None = None) -> list[Event]:
        """Return the log, or what it says of one clip, oldest first."""
        with self._lock:
            return self._select(clip_id)

    def annotations(self, clip_id: str | None = None, *, skipped: bool = False) -> list[Event]:
        """Return the valid annotations: the last of each annotator and clip, without those undone, oldest first.

        Args:
            skipped: also return skips. A clip whose last answer is a skip has no annotation by this annotator.
        """
        last: dict[tuple[str, str], Event] = {}
        for event in _not_undone(self.events(clip_id)):
            if event.kind in ("annotation", "skip"):
                last[event.clip_id, event.annotator] = event
        valid = sorted(last.values(), key=lambda event: event.number)
        return [event for event in valid if skipped or event.kind == "annotation"]

    def gold(self) -> dict[str, tuple[str, ...]]:
        """Return the labels of the gold items, by clip."""
        return {event.clip_id: event.labels for event in _not_undone(self.events()) if event.kind == "gold"}

    def votes(self) -> dict[str, dict[str, float]]:
        """Return for each clip the fraction of its annotators that gave each label. Gold items have 0 or 1."""
        answers: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for event in self.annotations():
            answers[event.clip_id].append(event.labels)
        answers |= {clip_id: [labels] for clip_id, labels in self.gold().items()}
        return {
            clip_id: {name: sum(name in labels for labels in given) / len(given) for name in LABELS}
            for clip_id, given in answers.items()
        }

    def majority(self) -> dict[str, dict[str, bool | None]]:
        """Return for each clip whether most annotators gave each label; None if the votes are tied."""
        return {
            clip_id: {name: None if vote == 0.5 else vote > 0.5 for name, vote in votes.items()}
            for clip_id, votes in self.votes().items()
        }

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> "AnnotationStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

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

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._connection, self._lock, self.path)


class _Transaction:
    """Holds the lock of the threads and the write lock of the file; commits, or rolls back after an error."""

    def __init__(self, connection: sqlite3.Connection, lock: threading.Lock, path: Path) -> None:
        self._connection, self._lock, self._path = connection, lock, path

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
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
    """Return the present time, ISO 8601 in UTC, in milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def normalize(event: Event) -> Event:
    """Return an answer with its labels in order and its time in UTC.

    Raises:
        UserError: see `AnnotationStore.annotate`.
    """
    if event.kind not in get_args(Kind) or event.kind == "undo":
        raise UserError(f"kind={event.kind!r} must be annotation, skip or gold")
    if not event.clip_id or not event.annotator:
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
    """Return the answers that no undo cancels, oldest first."""
    events = list(events)
    undone = {event.undone for event in events if event.kind == "undo"}
    return [event for event in events if event.kind != "undo" and event.number not in undone]


def _statements(script: str) -> Iterable[str]:
    """Yield the statements of a script; triggers contain semicolons."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
