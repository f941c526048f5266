"""Results of stages on disk, by stage, fingerprint and row: what has been computed is not computed again.

    OUT/results/<stage>/<fingerprint>/<time>-<job>.parquet     finished results, a row per file or clip
    OUT/results/log-<job>.jsonl                                results that are not in a Parquet file yet

Every result is appended to the log at once, so a killed run loses only what was in progress. A truncated last line is
ignored. The log is turned into Parquet files when it is long, and at the end. Several jobs may write to one folder.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.atomic_io import cannot_write, remove_stale_files, write_text
from cogvideox.curation.manifest import arrow_type, write_table
from cogvideox.curation.stage import Column, Value, fingerprint
from cogvideox.untrusted.files import reading

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS = "results"
MAX_LOG_LINES = 50_000
IDLE = 600.0  # seconds without a write after which a temporary file is considered stale


@dataclass(frozen=True)
class Result:
    """What a stage computed for one row.

    Attributes:
        id: id of the file or clip.
        values: values by column; empty if it failed.
        error: reason of a failure.
        attempts: number of attempts.
        seconds: processor time, or wall time in a process of its own.
    """

    stage: str
    id: str
    values: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None
    attempts: int = 1
    seconds: float = 0.0


class ResultStore:
    """The results of the given stages, at their present fingerprints, in a folder."""

    def __init__(self, folder: str | Path, stages: Iterable[Any], job: str = "0-of-1") -> None:
        """Open the store, and read which rows have results.

        Args:
            stages: stages and signals; results at other fingerprints stay on disk and are ignored.
            job: name of this job; no two running jobs may have the same.
        """
        self.folder = Path(folder) / RESULTS
        self.stages = {stage.name: stage for stage in stages}
        self.fingerprints = {name: fingerprint(stage, self.stages.values()) for name, stage in self.stages.items()}
        self.job = job
        self._log_path = self.folder / f"log-{job}.jsonl"
        self._log: Any = None
        self._num_lines = 0
        remove_stale_files(self.folder, *self._folders(), idle=IDLE)
        self.compact()
        self._tables = {name: self.table(name) for name in self.stages}
        self._rows = {name: _index(table) for name, table in self._tables.items()}
        self._new: dict[str, set[str]] = {name: set() for name in self.stages}

    def has(self, stage: str, id: str) -> bool:
        """Whether a stage has a result, or a failure, for a row."""
        return id in self._rows[stage] or id in self._new[stage]

    def get(self, stage: str, id: str) -> Result | None:
        """Return a result that was on disk when the store was opened; None if there was none."""
        row = self._rows[stage].get(id)
        if row is None:
            return None
        table, columns = self._tables[stage], self.stages[stage].columns
        values = {column.name: _load(column, table[column.name][row].as_py()) for column in columns}
        return Result(stage, id, values, *(table[name][row].as_py() for name in ("error", "attempts", "seconds")))

    def column(self, stage: str, name: str) -> list[Value]:
        """Return the values of a column that were on disk when the store was opened."""
        return self._tables[stage][name].to_pylist()

    def forget_failures(self) -> int:
        """Treat failed rows as not computed, and return their number."""
        number = 0
        for name, rows in self._rows.items():
            errors = self._tables[name]["error"].to_pylist()
            failed = [id for id, row in rows.items() if errors[row] is not None]
            number += len(failed)
            for id in failed:
                del rows[id]
        return number

    def add(self, results: Iterable[Result]) -> None:
        """Append results to the log. Raises UserError if it cannot be written."""
        lines = []
        for result in results:
            self._new[result.stage].add(result.id)
            lines.append(_line(self.fingerprints[result.stage], result))
        try:
            if self._log is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._log = self._log_path.open("a", encoding="utf-8")
            self._log.write("".join(lines))
            self._log.flush()
        except OSError as error:
            raise cannot_write(self._log_path, error) from error
        self._num_lines += len(lines)
        if self._num_lines >= MAX_LOG_LINES:
            self.compact()

    def compact(self) -> None:
        """Turn the log of this job into Parquet files, except results of other stages or at other fingerprints.

        If this is interrupted, results may be in both.
        """
        if self._log is not None:
            self._log.close()
            self._log, self._num_lines = None, 0
        groups: dict[str, list[Result]] = defaultdict(list)
        others = []
        for printed, result in _read_log(self._log_path):
            if self.fingerprints.get(result.stage) == printed:
                groups[result.stage].append(result)
            else:
                others.append(_line(printed, result))
        for name, results in groups.items():
            path = self.folder / name / self.fingerprints[name] / f"{time.time_ns():020d}-{self.job}.parquet"
            write_table(_to_table(results, self.stages[name].columns), path)
        if others:
            write_text(self._log_path, "".join(others))
        else:
            self._log_path.unlink(missing_ok=True)

    def table(self, stage: str) -> "pa.Table":
        """Return all results of a stage on disk, of all jobs: id, error, attempts, seconds, and its columns."""
        import pyarrow as pa
        from pyarrow import parquet

        columns, printed = self.stages[stage].columns, self.fingerprints[stage]
        tables = [_to_table([], columns)]
        for part in sorted((self.folder / stage / printed).glob("*.parquet")):
            if part.name.startswith("."):
                continue
            with reading(part, "damaged"):
                tables.append(parquet.read_table(part))
        for log in sorted(self.folder.glob("log-*.jsonl")):
            found = [result for mark, result in _read_log(log) if (result.stage, mark) == (stage, printed)]
            tables.append(_to_table(found, columns))
        return pa.concat_tables(tables).combine_chunks()

    def _folders(self) -> list[Path]:
        return [self.folder / name / printed for name, printed in self.fingerprints.items()]


def _index(table: "pa.Table") -> dict[str, int]:
    """Map ids to rows; a later result replaces an earlier one."""
    return {id: row for row, id in enumerate(table["id"].to_pylist())}


def _line(printed: str, result: Result) -> str:
    return json.dumps([printed, *vars(result).values()]) + "\n"


def _read_log(path: Path) -> Iterator[tuple[str, Result]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    printed, *parts = json.loads(line)
                    yield printed, Result(*parts)
                except (ValueError, TypeError):  # the last line of a killed process
                    continue
    except FileNotFoundError:
        return


def _to_table(results: list[Result], columns: tuple[Column, ...]) -> "pa.Table":
    import pyarrow as pa

    arrays = {
        "id": pa.array([result.id for result in results], pa.string()),
        "error": pa.array([result.error for result in results], pa.string()),
        "attempts": pa.array([result.attempts for result in results], pa.int64()),
        "seconds": pa.array([result.seconds for result in results], pa.float64()),
    }
    for column in columns:
        values = [_store(column, result.values.get(column.name)) for result in results]
        arrays[column.name] = pa.array(values, arrow_type(column))
    return pa.table(arrays)


def _store(column: Column, value: Value) -> Value:
    return json.dumps(value) if column.type == "clips" and value is not None else value


def _load(column: Column, value: Value) -> Value:
    return json.loads(value) if column.type == "clips" and value is not None else value
