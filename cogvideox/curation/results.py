"""Results of stages on disk, by stage, fingerprint and row. A result on disk is never recomputed.

    OUT/results/<stage>/<fingerprint>/<time>-<job>.parquet     finished results, a row per file or clip
    OUT/results/log-<job>.jsonl                                results that are not in a Parquet file yet

Every result is appended to the log at once, so a killed run loses only the batches in progress. A truncated last line
is ignored. The log is converted to Parquet files when it grows long, and at the end of a run. Several jobs may write to
the same folder.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cogvideox.atomic_io import cannot_write, remove_stale_files, write_text
from cogvideox.curation.manifest import arrow_type, write_table
from cogvideox.curation.stage import Column, Value, fingerprint
from cogvideox.untrusted.files import reading

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS = "results"
MAX_LOG_LINES = 50_000
STALE_SECONDS = 600.0  # a temporary file that has not been written to for this long belongs to a killed process
_STATUS = ("id", "error", "attempts", "seconds")


@dataclass(frozen=True)
class Result:
    """The result of a stage for one row.

    Attributes:
        id: id of the file or clip.
        values: values by column; empty if the stage failed.
        error: reason for a failure; None if there was none.
        attempts: number of attempts.
        seconds: wall time of all attempts, in one process.
    """

    stage: str
    id: str
    values: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None
    attempts: int = 1
    seconds: float = 0.0


class ResultStore:
    """The results of some stages at their current fingerprints, in a folder.

    Opening the store reads only ids and errors. Values are read when they are needed: whole columns for `get` and
    `column`, a few thousand rows at a time for `take`.
    """

    def __init__(self, folder: str | Path, stages: Iterable[Any], job: str = "0-of-1") -> None:
        """Open the store and read which rows have results.

        Args:
            stages: stages and signals. Results with other fingerprints stay on disk and are ignored.
            job: name of this job; running jobs need different names.
        """
        self.folder = Path(folder) / RESULTS
        self.stages = {stage.name: stage for stage in stages}
        self.fingerprints = {name: fingerprint(stage, self.stages.values()) for name, stage in self.stages.items()}
        self.job = job
        self._log_path = self.folder / f"log-{job}.jsonl"
        self._log: Any = None
        self._num_lines = 0
        remove_stale_files(self.folder, *self._folders(), idle=STALE_SECONDS)
        self.compact()
        self._columns = {name: {column.name: column for column in stage.columns} for name, stage in self.stages.items()}
        self._parts = self._list_parts()
        self._tables: dict[str, pa.Table] = {}
        self._errors: dict[str, list[str | None]] = {}
        self._rows: dict[str, dict[str, int]] = {}
        for name in self.stages:
            status = self._read(name, ["id", "error"])
            self._errors[name] = status["error"].to_pylist()
            # A later result replaces an earlier one, but a failure (from an old log) never replaces a success.
            rows, errors = self._rows.setdefault(name, {}), self._errors[name]
            for row, id in enumerate(status["id"].to_pylist()):
                if errors[row] is None or id not in rows or errors[rows[id]] is not None:
                    rows[id] = row
        self._new: dict[str, set[str]] = {name: set() for name in self.stages}

    def has(self, stage: str, id: str) -> bool:
        """Return whether a stage has a result, or a failure, for a row."""
        return id in self._rows[stage] or id in self._new[stage]

    def get(self, stage: str, id: str) -> Result | None:
        """Return a result that was on disk when the store was opened; None if there was none."""
        row = self._rows[stage].get(id)
        if row is None:
            return None
        table = self._table(stage)
        values = _StoredValues(table, row, self._columns[stage])
        attempts, seconds = (table[name][row].as_py() for name in ("attempts", "seconds"))
        return Result(stage, id, values, self._errors[stage][row], attempts, seconds)

    def column(self, stage: str, name: str) -> list[Value]:
        """Return the values of a column that were on disk when the store was opened."""
        return self._read(stage, [name])[name].to_pylist()

    def take(self, stage: str, ids: Sequence[str | None], columns: Sequence[str] | None = None) -> "pa.Table":
        """Return a table with a row for each id: error, attempts, seconds, and the columns of the stage.

        Args:
            ids: ids of rows; the values of None and of rows without a result are missing.
            columns: names of the columns to return; all by default.
        """
        import pyarrow as pa

        rows = np.array([-1 if id is None else self._rows[stage].get(id, -1) for id in ids], dtype=np.int64)
        names = ["error", "attempts", "seconds", *(column.name for column in self.stages[stage].columns)]
        names = names if columns is None else list(columns)
        empty = _to_table([], self.stages[stage].columns).select(names)
        tables, positions = [empty], [np.empty(0, dtype=np.int64)]
        first = 0
        for part, num_rows in self._parts[stage]:
            selected = np.flatnonzero((rows >= first) & (rows < first + num_rows))
            if len(selected):
                tables.append(_read_part(part, names).take(pa.array(rows[selected] - first)))
                positions.append(selected)
            first += num_rows
        missing = np.flatnonzero(rows < 0)
        tables.append(pa.table({field.name: pa.nulls(len(missing), field.type) for field in empty.schema}))
        order = np.argsort(np.concatenate([*positions, missing]), kind="stable")
        return pa.concat_tables(tables).take(pa.array(order)).combine_chunks()

    def forget_failures(self) -> int:
        """Treat failed rows as if they had not been processed, and return their number."""
        number = 0
        for name, rows in self._rows.items():
            failed = [id for id, row in rows.items() if self._errors[name][row] is not None]
            number += len(failed)
            for id in failed:
                del rows[id]
        return number

    def add(self, results: Iterable[Result]) -> None:
        """Append results to the log. Raises UserError if the log cannot be written."""
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
        """Convert the log of this job to Parquet files; results of other stages or fingerprints stay in the log.

        If this is interrupted, a result may be in both.
        """
        if self._log is not None:
            self._log.close()
            self._log, self._num_lines = None, 0
        groups: dict[str, list[Result]] = defaultdict(list)
        others = []
        for mark, result in _read_log(self._log_path):
            if self.fingerprints.get(result.stage) == mark:
                groups[result.stage].append(result)
            else:
                others.append(_line(mark, result))
        for name, results in groups.items():
            path = self.folder / name / self.fingerprints[name] / f"{time.time_ns():020d}-{self.job}.parquet"
            write_table(_to_table(results, self.stages[name].columns), path)
        if others:
            write_text(self._log_path, "".join(others))
        else:
            self._log_path.unlink(missing_ok=True)

    def _list_parts(self) -> "dict[str, list[tuple[Path | pa.Table, int]]]":
        """Return the Parquet files of each stage and the results in all logs, with their numbers of rows."""
        from pyarrow import parquet

        # Read the logs first: results that another job moves to Parquet files meanwhile are in both, not in neither.
        logs = [list(_read_log(log)) for log in sorted(self.folder.glob("log-*.jsonl"))]
        parts: dict[str, list[tuple[Path | pa.Table, int]]] = {name: [] for name in self.stages}
        for name, folder in zip(self.stages, self._folders(), strict=True):
            for path in sorted(folder.glob("*.parquet")):
                if not path.name.startswith("."):
                    with reading(path, "damaged"):
                        parts[name].append((path, parquet.read_metadata(path).num_rows))
        for lines in logs:
            groups: dict[str, list[Result]] = defaultdict(list)
            for mark, result in lines:
                if self.fingerprints.get(result.stage) == mark:
                    groups[result.stage].append(result)
            for name, results in groups.items():
                parts[name].append((_to_table(results, self.stages[name].columns), len(results)))
        return parts

    def _read(self, stage: str, columns: list[str]) -> "pa.Table":
        import pyarrow as pa

        empty = _to_table([], self.stages[stage].columns).select(columns)
        return pa.concat_tables([empty, *(_read_part(part, columns) for part, _ in self._parts[stage])])

    def _table(self, stage: str) -> "pa.Table":
        if stage not in self._tables:
            names = [column.name for column in self.stages[stage].columns]
            self._tables[stage] = self._read(stage, [*_STATUS, *names]).combine_chunks()
        return self._tables[stage]

    def _folders(self) -> list[Path]:
        return [self.folder / name / mark for name, mark in self.fingerprints.items()]


class _StoredValues(Mapping[str, Value]):
    """The values of a row of a table, each converted when it is read."""

    def __init__(self, table: "pa.Table", row: int, columns: Mapping[str, Column]) -> None:
        self._table, self._row, self._columns = table, row, columns

    def __getitem__(self, name: str) -> Value:
        return _load(self._columns[name], self._table[name][self._row].as_py())

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _read_part(part: "Path | pa.Table", columns: list[str]) -> "pa.Table":
    from pyarrow import parquet

    if not isinstance(part, Path):
        return part.select(columns)
    with reading(part, "damaged"):
        return parquet.read_table(part, columns=columns)


def _line(mark: str, result: Result) -> str:
    return json.dumps([mark, *vars(result).values()]) + "\n"


def _read_log(path: Path) -> Iterator[tuple[str, Result]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    mark, *parts = json.loads(line)
                    result = Result(*parts)
                    if isinstance(result.stage, str) and isinstance(result.id, str) and isinstance(result.values, dict):
                        yield mark, result
                except (ValueError, TypeError, RecursionError):  # such as the last line of a killed process
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
