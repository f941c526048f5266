"""Assemble the manifest from the results of all stages, and write the table that `encode` and `train` read.

Rows are written in groups, so a whole column is in memory only if it determines which rows are kept: status,
perceptual hash, embedding, and columns with bounds.
"""

import os
import posixpath
from collections import ChainMap, Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64

from cogvideox import config
from cogvideox.atomic_io import atomic_write
from cogvideox.curation import manifest
from cogvideox.curation.files import RawFile
from cogvideox.curation.manifest import DROPPED, FAILED, IDENTITY, MANIFEST, OK, PENDING, clip_id
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.results import Result, ResultStore
from cogvideox.curation.stage import Column, Row
from cogvideox.curation.stages.duplicates import by_preference
from cogvideox.curation.stages.split import CLIP_COLUMNS
from cogvideox.filter_policy.resolve import resolve
from cogvideox.filter_policy.rows import Rows
from cogvideox.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = "metadata.parquet"
KEEP = "keep"
GROUP_ROWS = 10_000
_SCORE_TYPES = ("float", "int", "bool")
_NOT_SCORES = ("index", "file_bytes", "clip_bytes", "attempts", "start", "end")


@dataclass(frozen=True)
class FileRow:
    """A clip of a file, or a file without clips.

    Attributes:
        row: the file's key, path and caption, and the columns that `probe` and `split` wrote.
        status, stage, reason, attempts: see `manifest.IDENTITY`.
    """

    row: Row
    status: str = OK
    stage: str | None = None
    reason: str | None = None
    attempts: int | None = None


def clips_of(
    file: RawFile, probed: Result | None, split: Result | None, first_source: str | None, output: Path
) -> Iterator[FileRow]:
    """Yield the rows of a file: one per clip, or a single row with the reason why there are no clips.

    Args:
        first_source: an earlier file with the same bytes; None if there is none.
    """
    base: dict[str, Any] = {
        "id": file.key,
        "key": file.key,
        "source": file.source,
        "path": str(file.path),
        "out": str(output),
        "caption": file.caption,
    }
    if probed is None:
        yield FileRow(base, PENDING, "probe")
        return
    if probed.error is not None:
        yield FileRow(base, FAILED, "probe", probed.error, probed.attempts)
        return
    source_id = base["id"] = probed.values["source_id"]
    file_row = ChainMap(base, probed.values)  # type: ignore[arg-type]
    if first_source is not None:
        yield FileRow(file_row, DROPPED, "probe", f"an exact copy of {first_source}")
    elif split is None:
        yield FileRow(file_row, PENDING, "split")
    elif split.error is not None:
        yield FileRow(file_row, FAILED, "split", split.error, split.attempts)
    else:
        for clip in split.values["clips"]:
            reason = clip.get("reason")
            clip_row = {column.name: clip[column.name] for column in CLIP_COLUMNS}
            clip_row["id"] = clip_id(source_id, clip["start"], clip["end"])
            yield FileRow(file_row.new_child(clip_row), DROPPED if reason else OK, "split" if reason else None, reason)


def file_rows(files: Sequence[RawFile], store: ResultStore, output: Path) -> Iterator[FileRow]:
    """Yield the rows of all files from the results on disk."""
    sources: dict[str, str] = {}
    for file in files:
        probed = store.get("probe", file.key)
        split, first = None, None
        if probed is not None and probed.error is None:
            source_id = probed.values["source_id"]
            first = sources.setdefault(source_id, file.source)
            split = store.get("split", source_id)
        yield from clips_of(file, probed, split, None if first == file.source else first, output)


def write_manifest(
    files: Sequence[RawFile], store: ResultStore, recipe: Recipe, signals: Sequence[Any], raw: Path, output: Path
) -> Counter[str]:
    """Write `manifest.parquet` and `metadata.parquet`, and return the number of rows by status.

    Args:
        store: opened after all results were written.
        signals: signals whose columns the manifest contains.

    Raises:
        UserError: a bound names a column that does not exist, or a file cannot be written.
    """
    from pyarrow import parquet

    table = _Assembly(files, store, recipe, signals, output)
    exported = _usable_clips(table.schema.empty_table(), raw, output).schema
    with (
        atomic_write(output / MANIFEST) as manifest_path,
        atomic_write(output / METADATA) as metadata_path,
        parquet.ParquetWriter(manifest_path, table.schema, compression="zstd") as manifest_writer,
        parquet.ParquetWriter(metadata_path, exported, compression="zstd") as metadata_writer,
    ):
        for group in table.groups():
            manifest_writer.write_table(group)
            metadata_writer.write_table(_usable_clips(group, raw, output))
    return Counter(table.status)


class _Assembly:
    """The rows of a manifest with their status; other columns are read when a group of rows is written."""

    def __init__(
        self, files: Sequence[RawFile], store: ResultStore, recipe: Recipe, signals: Sequence[Any], output: Path
    ) -> None:
        self.files, self.store, self.recipe, self.output = files, store, recipe, output
        self.stages = [recipe.cut, *signals]
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.status: list[str] = []
        self.stage: list[str | None] = []
        self.reason: list[str | None] = []
        self.attempts: list[int | None] = []
        self.size: list[tuple[int, float]] = []  # pixels and seconds
        for file_row in self._file_rows():
            self.ids.append(file_row.row["id"])
            self.sources.append(file_row.row["source"])
            self.status.append(file_row.status)
            self.stage.append(file_row.stage)
            self.reason.append(file_row.reason)
            self.attempts.append(file_row.attempts)
            pixels = file_row.row.get("width", 0) * file_row.row.get("height", 0)
            self.size.append((pixels, file_row.row.get("seconds", 0.0)))
        self.is_clip = [status == OK for status in self.status]
        self.duplicate_of: list[str | None] = [None] * len(self.ids)
        columns = [*recipe.probe.columns, *CLIP_COLUMNS]
        columns += [column for stage in (*self.stages, recipe.labels, recipe.duplicates) for column in stage.columns]
        self.schema = manifest.schema(columns, self._records())
        for stage in self.stages:
            self._mark_failures(stage.name)
        self.labels = self._predict_labels() if recipe.labels.model else {}
        self._drop()

    def groups(self) -> "Iterator[pa.Table]":
        """Yield the manifest, `GROUP_ROWS` rows at a time."""
        import pyarrow as pa

        rows = self._file_rows()
        probe = self.recipe.probe
        names = [column.name for column in (*IDENTITY, *CLIP_COLUMNS)]
        for part in self._parts():
            values = [file_row.row for file_row in islice(rows, GROUP_ROWS)]
            data: dict[str, Any] = {name: [row.get(name) for row in values] for name in names}
            data |= {"status": self.status[part], "stage": self.stage[part], "reason": self.reason[part]}
            data |= {"attempts": self.attempts[part], "duplicate_of": self.duplicate_of[part]}
            data |= {name: column[part] for name, column in self.labels.items()}
            arrays = {name: pa.array(column, self.schema.field(name).type) for name, column in data.items()}
            probed = self.store.take(
                probe.name, [row["key"] for row in values], [column.name for column in probe.columns]
            )
            arrays |= {name: probed[name] for name in probed.column_names} | self._measured(part)
            yield pa.table([arrays[field.name] for field in self.schema], schema=self.schema)

    def _parts(self) -> Iterator[slice]:
        return (slice(first, first + GROUP_ROWS) for first in range(0, len(self.ids), GROUP_ROWS))

    def _file_rows(self) -> Iterator[FileRow]:
        return file_rows(self.files, self.store, self.output)

    def _take(self, stage: str, columns: list[str], part: slice = slice(None)) -> "pa.Table":
        ids = [id if is_clip else None for id, is_clip in zip(self.ids[part], self.is_clip[part], strict=True)]
        return self.store.take(stage, ids, columns)

    def _measured(self, part: slice) -> "dict[str, pa.Array]":
        """Return the columns of the stages that process clips, for some rows."""
        tables = [self._take(stage.name, [column.name for column in stage.columns], part) for stage in self.stages]
        return {name: table[name].combine_chunks() for table in tables for name in table.column_names}

    def _predict_labels(self) -> dict[str, list[float | None]]:
        labels: dict[str, list[float | None]] = {column.name: [] for column in self.recipe.labels.columns}
        for part in self._parts():
            for name, values in self.recipe.labels.predict(self._measured(part)).items():
                labels[name] += values
        return labels

    def _column(self, name: str) -> "pa.Array | None":
        """Return a whole column; None if the manifest has no such column."""
        import pyarrow as pa

        stage = next((stage for stage in self.stages if any(column.name == name for column in stage.columns)), None)
        if stage is not None:
            return self._take(stage.name, [name])[name].combine_chunks()
        if name not in self.schema.names:
            return None
        known: dict[str, list[Any]] = {"id": self.ids, "source": self.sources, "status": self.status}
        known |= {"stage": self.stage, "reason": self.reason, "attempts": self.attempts, **self.labels}
        values = known[name] if name in known else [file_row.row.get(name) for file_row in self._file_rows()]
        return pa.array(values, self.schema.field(name).type)

    def _mark_failures(self, stage: str) -> None:
        """Record which clips failed or were not processed. A row keeps the first reason."""
        taken = self._take(stage, ["error", "attempts"])
        errors, attempts = taken["error"].to_pylist(), taken["attempts"].to_pylist()
        for row in np.flatnonzero(self.is_clip).tolist():
            if self.status[row] == FAILED or (errors[row] is None and attempts[row] is not None):
                continue
            if errors[row] is not None:
                self.status[row], self.stage[row] = FAILED, stage
                self.reason[row], self.attempts[row] = errors[row], attempts[row]
            elif self.status[row] == OK:
                self.status[row], self.stage[row] = PENDING, stage

    def _drop(self) -> None:
        """Drop near-duplicates, and clips out of bounds at step 0.

        The kept clip of a group of near-duplicates is the preferred one of those within bounds, so that a group is
        dropped only if all its clips are out of bounds. Quantiles are those of the preferred clips.
        """
        rows = [row for row, status in enumerate(self.status) if status == OK]
        sizes = [self.size[row] for row in rows]
        preferred = self._find_duplicates(rows, sizes)
        reasons = self._check_bounds(rows, np.unique(preferred))
        kept: dict[int, int] = {}  # by preferred clip
        for position in by_preference(sizes):
            if reasons[position] is None:
                kept.setdefault(int(preferred[position]), position)
        for position, row in enumerate(rows):
            kept_row = rows[kept.get(int(preferred[position]), int(preferred[position]))]
            if kept_row != row:
                self.duplicate_of[row] = self.ids[kept_row]
                self.status[row], self.stage[row] = DROPPED, self.recipe.duplicates.name
                self.reason[row] = f"a near-duplicate of {self.sources[kept_row]}"
            elif reasons[position] is not None:
                self.status[row], self.stage[row], self.reason[row] = DROPPED, KEEP, reasons[position]

    def _find_duplicates(self, rows: list[int], sizes: list[tuple[int, float]]) -> Int64[np.ndarray, " rows"]:
        """Return, for each row, the position in `rows` of the preferred clip of its group."""
        duplicates = self.recipe.duplicates
        hashes, embeddings = self._column("phash.frames"), self._column(duplicates.embedding)
        values = [None] * len(self.ids) if hashes is None else hashes.to_pylist()
        vectors = None if embeddings is None else _vectors(embeddings)
        return duplicates.find([values[row] for row in rows], None if vectors is None else vectors[rows], sizes)

    def _check_bounds(self, rows: list[int], preferred: Int64[np.ndarray, " groups"]) -> list[str | None]:
        """Return the reason why each row is out of bounds; None if it is within.

        Args:
            preferred: positions in `rows` whose values determine quantiles.
        """
        keep = self.recipe.keep
        keep.check_columns(self.schema.names)
        columns: dict[str, list[Any]] = {}
        for name in {*keep.columns, *(["is_image"] if keep.columns else [])}:
            column = self._column(name)
            assert column is not None  # its name was checked
            values = column.to_pylist()
            columns[name] = [values[row] for row in rows]
        sample = {name: [values[position] for position in preferred.tolist()] for name, values in columns.items()}
        reasons: list[str | None] = [None] * len(rows)
        for bound in resolve(keep, Rows(sample, len(preferred))).conditions:
            for position in np.flatnonzero(~bound.mask(Rows(columns, len(rows)))).tolist():
                problem = "missing" if columns[bound.column][position] is None else "out of bounds"
                reasons[position] = reasons[position] or f"{bound.column} is {problem}"
        return reasons

    def _records(self) -> dict[str, Any]:
        """Return the record of each stage for the manifest's metadata."""
        records: dict[str, Any] = {
            stage.name: {
                "version": stage.version,
                "parameters": config.to_dict(stage),
                "weights_hash": stage.weights_hash(),
                "fingerprint": self.store.fingerprints[stage.name],
            }
            for stage in (self.recipe.probe, self.recipe.split, *self.stages)
        }
        labels, duplicates = self.recipe.labels, self.recipe.duplicates
        if labels.model:
            weights = labels.weights_hash()
            records[labels.name] = {
                "version": labels.version,
                "parameters": config.to_dict(labels),
                "weights_hash": weights,
            }
        records[duplicates.name] = {"version": duplicates.version, "parameters": config.to_dict(duplicates)}
        records[KEEP] = config.to_dict(self.recipe.keep)
        records["cogvideox"] = __version__
        return records


def _vectors(column: "pa.ListArray") -> Float32[np.ndarray, "n d"] | None:
    """Convert a column of lists of equal length; missing lists become zeros. None if all are missing."""
    valid = np.asarray(column.is_valid())
    if not valid.any():
        return None
    values = column.drop_null().flatten().to_numpy(zero_copy_only=False)
    vectors = np.zeros((len(valid), len(values) // int(valid.sum())), dtype=np.float32)
    vectors[valid] = values.reshape(int(valid.sum()), -1)
    return vectors


def _usable_clips(table: "pa.Table", raw: Path, output: Path) -> "pa.Table":
    import pyarrow as pa

    usable = table.filter(pa.array([status == OK for status in table["status"].to_pylist()], pa.bool_()))
    return training_table(usable, raw, output, output)


def training_table(table: "pa.Table", raw: Path, curated: Path, output: Path) -> "pa.Table":
    """Return the table that `encode` and `train` read: file, time range, caption, and all numeric columns as scores.

    Args:
        raw: folder of the raw files.
        curated: folder of the manifest, with encoded clips.
        output: folder of the table, to which its paths are relative.
    """
    import pyarrow as pa

    raw_path, curated_path = (
        os.path.relpath(folder.resolve(), output.resolve()).replace(os.sep, "/") for folder in (raw, curated)
    )
    files, starts, ends = [], [], []
    keys = ("source", "clip_file", "start", "end", "is_image", "file_seconds")
    for source, clip_file, start, end, is_image, seconds in zip(*(table[key].to_pylist() for key in keys), strict=True):
        is_whole_file = clip_file is not None or is_image or (start == 0 and end >= seconds)
        files.append(f"{raw_path}/{source}" if clip_file is None else posixpath.normpath(f"{curated_path}/{clip_file}"))
        starts.append(None if is_whole_file else start)
        ends.append(None if is_whole_file else end)
    arrays = {
        "file_name": pa.array(files, pa.string()),
        "caption": table["caption"],
        "start": pa.array(starts, pa.float64()),
        "end": pa.array(ends, pa.float64()),
        "clip_id": table["id"],
    }
    score_types = {manifest.arrow_type(Column("", name, "")) for name in _SCORE_TYPES}
    for field in table.schema:
        if field.name not in arrays and field.name not in _NOT_SCORES and field.type in score_types:
            arrays[field.name] = table[field.name]
    return pa.table(arrays)
