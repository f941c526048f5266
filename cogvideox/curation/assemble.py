"""Assemble the manifest from the results of all stages, and the table that `encode` and `train` read."""

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cogvideox import config
from cogvideox.curation import manifest
from cogvideox.curation.files import RawFile
from cogvideox.curation.manifest import DROPPED, FAILED, IDENTITY, OK, PENDING, clip_id
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.results import Result, ResultStore
from cogvideox.curation.stage import Column, Row
from cogvideox.curation.stages.split import CLIP_COLUMNS
from cogvideox.filter_policy.resolve import resolve
from cogvideox.filter_policy.rows import Rows
from cogvideox.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = "metadata.parquet"
KEEP = "keep"
_EXPORTED = ("float", "int", "bool")
_NOT_SCORES = ("index", "file_bytes", "clip_bytes", "attempts", "start", "end")


@dataclass(frozen=True)
class FileRow:
    """A row that became no clip, or a clip: its columns, and why it goes no further (None if it does)."""

    row: Row
    status: str = OK
    stage: str | None = None
    reason: str | None = None
    attempts: int | None = None


def clips_of(
    file: RawFile, probed: Result | None, split: Result | None, first_source: str | None, output: Path
) -> Iterator[FileRow]:
    """Yield the rows of a file: a clip each, or one row that says why there are none.

    Args:
        first_source: an earlier file with the same bytes.
    """
    base: dict[str, Any] = {
        "id": file.key,
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
    base |= {**probed.values, "id": probed.values["source_id"]}
    if first_source is not None:
        yield FileRow(base, DROPPED, "probe", f"an exact copy of {first_source}")
    elif split is None:
        yield FileRow(base, PENDING, "split")
    elif split.error is not None:
        yield FileRow(base, FAILED, "split", split.error, split.attempts)
    else:
        for clip in split.values["clips"]:
            reason = clip.get("reason")
            row = base | {column.name: clip[column.name] for column in CLIP_COLUMNS}
            row["id"] = clip_id(base["source_id"], clip["start"], clip["end"])
            yield FileRow(row, DROPPED if reason else OK, "split" if reason else None, reason)


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


def assemble(
    files: Sequence[RawFile], store: ResultStore, recipe: Recipe, signals: Sequence[Any], output: Path
) -> "pa.Table":
    """Return the manifest.

    Args:
        store: opened after all results were written.
        signals: signals whose columns the manifest has.
    """
    import pyarrow as pa

    per_clip = [recipe.cut, *signals]
    columns = [*recipe.probe.columns, *CLIP_COLUMNS]
    names = [column.name for column in (*IDENTITY, *columns)]
    data: dict[str, list[Any]] = {name: [] for name in names}
    for found in file_rows(files, store, output):
        verdict = {"status": found.status, "stage": found.stage, "reason": found.reason, "attempts": found.attempts}
        for name in names:
            data[name].append(verdict[name] if name in verdict else found.row.get(name))
    is_clip = np.array([status == OK for status in data["status"]], dtype=bool)
    arrays: dict[str, Any] = {}
    for stage in per_clip:
        table = store.table(stage.name)
        rows = {id: row for row, id in enumerate(table["id"].to_pylist())}
        places = [rows.get(id) if clip else None for id, clip in zip(data["id"], is_clip.tolist())]
        taken = table.take(pa.array(places, pa.int64()))
        for column in stage.columns:
            arrays[column.name] = taken[column.name].combine_chunks()
        _mark_failures(data, stage.name, taken, is_clip)
    for name, values in recipe.labels.predict(arrays).items():
        arrays[name] = pa.array(values, pa.float64())
    arrays["duplicate_of"] = pa.array(_find_duplicates(data, arrays, recipe), pa.string())
    _apply_bounds(data, arrays, recipe)
    columns += [column for stage in (*per_clip, recipe.labels, recipe.duplicates) for column in stage.columns]
    schema = manifest.schema(columns, _records(store, recipe, per_clip))
    for column in (*IDENTITY, *recipe.probe.columns, *CLIP_COLUMNS):
        arrays[column.name] = pa.array(data[column.name], manifest.arrow_type(column))
    return pa.table([arrays[field.name] for field in schema], schema=schema)


def export(table: "pa.Table", raw: Path, output: Path) -> "pa.Table":
    """Return the table of usable clips (`metadata.parquet`)."""
    import pyarrow as pa

    usable = table.filter(pa.array([status == OK for status in table["status"].to_pylist()], pa.bool_()))
    return training_table(usable, raw, output, output)


def training_table(table: "pa.Table", raw: Path, curated: Path, output: Path) -> "pa.Table":
    """Return the table that `encode` and `train` read: file, part, caption, and all numbers as scores.

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
    for source, clip_file, start, end, is_image, seconds in zip(*(table[key].to_pylist() for key in keys)):
        whole = clip_file is not None or is_image or (start == 0 and end >= seconds)
        files.append(f"{raw_path}/{source}" if clip_file is None else posixpath.normpath(f"{curated_path}/{clip_file}"))
        starts.append(None if whole else start)
        ends.append(None if whole else end)
    arrays = {
        "file_name": pa.array(files, pa.string()),
        "caption": table["caption"],
        "start": pa.array(starts, pa.float64()),
        "end": pa.array(ends, pa.float64()),
        "clip_id": table["id"],
    }
    for name in table.column_names:
        if name not in arrays and name not in _NOT_SCORES and _is_number(table.schema.field(name).type):
            arrays[name] = table[name]
    return pa.table(arrays)


def _is_number(kind: Any) -> bool:
    return kind in {manifest.arrow_type(Column("", name, "")) for name in _EXPORTED}


def _mark_failures(data: dict[str, list[Any]], stage: str, taken: "pa.Table", is_clip: np.ndarray) -> None:
    """Record what failed or was not computed. A row keeps the first reason."""
    errors, attempts = taken["error"].to_pylist(), taken["attempts"].to_pylist()
    for row in np.flatnonzero(is_clip).tolist():
        if data["status"][row] == FAILED or (errors[row] is None and attempts[row] is not None):
            continue
        if errors[row] is not None:
            data["status"][row], data["stage"][row] = FAILED, stage
            data["reason"][row], data["attempts"][row] = errors[row], attempts[row]
        elif data["status"][row] == OK:
            data["status"][row], data["stage"][row] = PENDING, stage


def _find_duplicates(data: dict[str, list[Any]], arrays: Mapping[str, Any], recipe: Recipe) -> list[str | None]:
    """Drop near-duplicates, and return for each the id of the clip that is kept."""
    duplicate_of: list[str | None] = [None] * len(data["id"])
    rows = [row for row, status in enumerate(data["status"]) if status == OK]
    hashes, vectors = (
        arrays[name].to_pylist() if name in arrays else [None] * len(duplicate_of)
        for name in ("phash.frames", recipe.duplicates.embedding)
    )
    kept = recipe.duplicates.find(
        [hashes[row] for row in rows],
        [vectors[row] for row in rows],
        [data["width"][row] * data["height"][row] for row in rows],
        [data["seconds"][row] for row in rows],
    )
    for row, other in zip(rows, kept.tolist()):
        if rows[other] != row:
            duplicate_of[row] = data["id"][rows[other]]
            data["status"][row], data["stage"][row] = DROPPED, recipe.duplicates.name
            data["reason"][row] = f"a near-duplicate of {data['source'][rows[other]]}"
    return duplicate_of


def _apply_bounds(data: dict[str, list[Any]], arrays: Mapping[str, Any], recipe: Recipe) -> None:
    """Drop clips out of the recipe's bounds, those that apply at step 0."""
    recipe.keep.check_columns([*data, *arrays])
    usable = [row for row, status in enumerate(data["status"]) if status == OK]
    columns = {name: arrays[name].to_pylist() if name in arrays else data[name] for name in recipe.keep.columns}
    columns = {name: [values[row] for row in usable] for name, values in columns.items()}
    rows = Rows(columns | {"is_image": [data["is_image"][row] for row in usable]}, len(usable))
    for bound in resolve(recipe.keep, rows).conditions:
        for place in np.flatnonzero(~bound.mask(rows)).tolist():
            row, value = usable[place], columns[bound.column][place]
            if data["status"][row] == OK:
                data["status"][row], data["stage"][row] = DROPPED, KEEP
                data["reason"][row] = f"{bound.column} is {'missing' if value is None else 'out of bounds'}"


def _records(store: ResultStore, recipe: Recipe, per_clip: Sequence[Any]) -> dict[str, Any]:
    """Return the record of each stage for the manifest's metadata."""
    records: dict[str, Any] = {
        stage.name: {
            "version": stage.version,
            "parameters": config.to_dict(stage),
            "weights_hash": stage.weights_hash(),
            "fingerprint": store.fingerprints[stage.name],
        }
        for stage in (recipe.probe, recipe.split, *per_clip)
    }
    labels, duplicates = recipe.labels, recipe.duplicates
    if labels.model:
        weights = labels.weights_hash()
        records[labels.name] = {"version": labels.version, "parameters": config.to_dict(labels), "weights": weights}
    records[duplicates.name] = {"version": duplicates.version, "parameters": config.to_dict(duplicates)}
    records[KEEP] = config.to_dict(recipe.keep)
    records["cogvideox"] = __version__
    return records
