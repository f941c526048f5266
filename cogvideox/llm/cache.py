"""Response cache: a SQLite file with one row per answer, and a journal of all calls.

A call is written to the journal before it starts, and its answer is committed before the next call of the same thread.
If the process is killed, calls in progress have no end time in the journal; such calls may have been charged and count
towards the budget.
"""

import json
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import UserError
from cogvideox.llm.chat import Answer, ChatRequest

VERSION = 1
UNANSWERED = "unanswered: "
"""Start of the outcome of calls without an answer that may have been charged."""
_TABLES = """
CREATE TABLE IF NOT EXISTS responses (
    key TEXT PRIMARY KEY, created REAL NOT NULL, model TEXT NOT NULL, prompt_id TEXT NOT NULL,
    prompt_version INTEGER NOT NULL, clip TEXT NOT NULL, frames TEXT NOT NULL, request TEXT NOT NULL,
    text TEXT NOT NULL, raw TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    finish_reason TEXT NOT NULL, seconds REAL NOT NULL, attempts INTEGER NOT NULL, cost REAL NOT NULL, error TEXT);
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, started REAL NOT NULL, ended REAL, outcome TEXT, reserved REAL NOT NULL,
    tokens INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS calls_ended ON calls (ended);
"""


@dataclass(frozen=True)
class Spent:
    """Totals of all calls of all runs that share a cache file.

    Attributes:
        calls: number of started calls, including failed attempts.
        unknown: number of calls without an answer that may have been charged: timeouts, broken connections, and calls
            interrupted by a killed process.
        prompt_tokens, completion_tokens: token counts of all answers.
        cost: cost of all answers plus the maximum cost of unknown calls.
    """

    calls: int = 0
    unknown: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    unknown_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens, including the maximum number of tokens of unknown calls."""
        return self.prompt_tokens + self.completion_tokens + self.unknown_tokens


class ResponseCache:
    """Thread-safe response cache in a SQLite file, for use by one process."""

    def __init__(self, path: str | Path) -> None:
        """Open or create the file; ":memory:" keeps responses in memory.

        Raises:
            UserError: the file cannot be opened, or is not a response cache of this version.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            if str(path) != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60.0)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise UserError(
                    f"cannot read {path}: its responses have format version {version}, but only {VERSION} is "
                    "supported: choose another folder"
                )
            self._database.executescript(_TABLES)
            self._database.execute(f"PRAGMA user_version={VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise UserError(f"cannot open {path} as a file of stored responses: {error}") from error

    def get(self, key: str) -> Answer | None:
        """Return the stored answer for a key, or None."""
        names = "text, raw, model, prompt_tokens, completion_tokens, finish_reason, seconds, attempts, cost, error"
        with self._lock:
            row = self._database.execute(f"SELECT {names} FROM responses WHERE key = ?", (key,)).fetchone()
        return None if row is None else Answer(*row, cached=True)

    def start(self, key: str, reserved: float, tokens: int) -> int:
        """Record the start of a call, and return its id.

        Args:
            key: cache key of the request.
            reserved, tokens: maximum cost and maximum number of tokens.
        """
        with self._lock:
            values = (key, time.time(), reserved, tokens)
            query = "INSERT INTO calls (key, started, reserved, tokens) VALUES (?, ?, ?, ?)"
            number = self._database.execute(query, values).lastrowid
        assert number is not None
        return number

    def end(self, call: int, outcome: str) -> None:
        """Record that a call ended without an answer, with the reason.

        A call whose outcome begins with `UNANSWERED` counts towards the budget with its maximum cost.
        """
        with self._lock:
            query = "UPDATE calls SET ended = ?, outcome = ? WHERE id = ?"
            self._database.execute(query, (time.time(), outcome[:500], call))

    def cancel(self, call: int) -> None:
        """Remove a call that did not reach the server from the journal."""
        with self._lock:
            self._database.execute("DELETE FROM calls WHERE id = ?", (call,))

    def put(self, call: int, key: str, model_id: str, request: ChatRequest, answer: Answer) -> None:
        """Store the answer and the end of a call in one transaction."""
        now = time.time()
        values = (
            *(key, now, model_id, request.prompt_id, request.prompt_version, request.clip),
            *(json.dumps(request.frame_indices), json.dumps(request.description(), ensure_ascii=True)),
            *(_storable(answer.text), _storable(answer.raw), answer.prompt_tokens, answer.completion_tokens),
            *(answer.finish_reason, answer.seconds, answer.attempts, answer.cost, answer.error),
        )
        with self._lock, self._database:  # commits, or rolls back if a value cannot be stored
            self._database.execute("BEGIN IMMEDIATE")
            marks = ", ".join("?" * len(values))
            self._database.execute(f"INSERT OR REPLACE INTO responses VALUES ({marks})", values)
            self._database.execute("UPDATE calls SET ended = ?, outcome = 'answer' WHERE id = ?", (now, call))

    def forget_errors(self) -> int:
        """Delete stored errors, so that the failed requests are sent again, and return the number of deleted rows."""
        with self._lock:
            return self._database.execute("DELETE FROM responses WHERE error IS NOT NULL").rowcount

    def spent(self) -> Spent:
        """Return the totals of all calls."""
        with self._lock:
            calls = self._database.execute("SELECT COUNT(*) FROM calls").fetchone()[0]
            unknown, reserved, tokens = self._database.execute(
                "SELECT COUNT(*), COALESCE(SUM(reserved), 0), COALESCE(SUM(tokens), 0) FROM calls "
                "WHERE ended IS NULL OR substr(outcome, 1, ?) = ?",
                (len(UNANSWERED), UNANSWERED),
            ).fetchone()
            query = "SELECT SUM(prompt_tokens), SUM(completion_tokens), SUM(cost) FROM responses"
            prompt_tokens, completion_tokens, cost = (value or 0 for value in self._database.execute(query).fetchone())
        return Spent(calls, unknown, prompt_tokens, completion_tokens, float(cost + reserved), tokens)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


def _storable(text: str) -> str:
    """Replace lone surrogates, which SQLite cannot store."""
    return text.encode("utf-8", "replace").decode("utf-8")
