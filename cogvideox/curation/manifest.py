"""The manifest: a Parquet table with one row per clip, and one per file without clips.

It has the columns `IDENTITY`, then those that the stages declare. The schema's metadata contains the version of the
manifest, and the version, parameters, weights hash and fingerprint of every stage.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.atomic_io import atomic_write
from cogvideox.curation.stage import Column
from cogvideox.errors import UserError
from cogvideox.untrusted.files import reading

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 2
MANIFEST = "manifest.parquet"
_KEY = b"cogvideox.manifest"

OK, FAILED, DROPPED, PENDING = "ok", "failed", "dropped", "pending"

IDENTITY = (
    Column("id", "str", "Hash of the file content, start and end."),
    Column("source", "str", "Path of the file, relative to the raw folder."),
    Column("status", "str", "ok, failed, dropped (too short, a duplicate, ...) or pending (not processed yet)."),
    Column("stage", "str", "Stage at which the row failed or was dropped; missing if its status is ok."),
    Column("reason", "str", "Why the row failed or was dropped."),
    Column("attempts", "int", "Number of attempts of the failed stage."),
    Column("caption", "str", "Caption of the file; missing without a caption file."),
)
"""The first columns of every manifest."""


def clip_id(source_id: str, start: float, end: float) -> str:
    """Return the id of a clip: a part (in seconds) of the file with the content hash `source_id`."""
    return hashlib.sha256(f"{source_id} {start!r} {end!r}".encode()).hexdigest()[:24]


def arrow_type(column: Column) -> "pa.DataType":
    """Return the Arrow type of a column."""
    import pyarrow as pa

    return {
        "float": pa.float64(),
        "int": pa.int64(),
        "bool": pa.bool_(),
        "str": pa.string(),
        "floats": pa.list_(pa.float32()),
        "ints": pa.list_(pa.int64()),
        "clips": pa.string(),  # JSON
    }[column.type]


def schema(columns: Iterable[Column], stages: Mapping[str, Any] | None = None) -> "pa.Schema":
    """Return the schema of a manifest with the columns `IDENTITY` and `columns`.

    Args:
        stages: record of each stage, as JSON values, for the metadata.
    """
    import pyarrow as pa

    fields = []
    for column in (*IDENTITY, *columns):
        details = {"unit": column.unit, "description": column.description}
        details |= {} if column.low is None else {"low": repr(column.low)}
        details |= {} if column.high is None else {"high": repr(column.high)}
        fields.append(pa.field(column.name, arrow_type(column), metadata=details))
    metadata = {_KEY: json.dumps({"version": VERSION, "stages": dict(stages or {})}, sort_keys=True).encode()}
    return pa.schema(fields, metadata=metadata)


def write_table(table: "pa.Table", path: str | Path) -> None:
    """Write a table to a Parquet file atomically. Raises UserError if this fails."""
    from pyarrow import parquet

    with atomic_write(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def manifest_path(path: str | Path) -> Path:
    """Return the path of a manifest: the file itself, or the one in the folder that `curate` wrote."""
    path = Path(path)
    return path / MANIFEST if path.is_dir() else path


def read_manifest(path: str | Path, columns: Collection[str] | None = None) -> "pa.Table":
    """Read a manifest.

    Args:
        path: the file, or the folder that `curate` wrote.
        columns: names of the columns to read; those that do not exist are ignored. None reads all columns.

    Raises:
        UserError: the manifest does not exist, is damaged, or has another version.
    """
    schema = read_schema(path)
    from pyarrow import parquet

    path = manifest_path(path)
    with reading(path, "damaged or not a Parquet file"):
        names = None if columns is None else [name for name in schema.names if name in columns]
        return parquet.read_table(path, columns=names)


def read_schema(path: str | Path) -> "pa.Schema":
    """Read the schema of a manifest. Raises UserError as `read_manifest` does."""
    from pyarrow import parquet

    path = manifest_path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: `cogvideox curate` writes it")
    with reading(path, "damaged or not a Parquet file"):
        schema = parquet.read_schema(path)
        record = json.loads((schema.metadata or {}).get(_KEY, b"{}"))
        if record.get("version") == VERSION and not isinstance(record["stages"], dict):
            raise ValueError("its metadata has no stages")
    if record.get("version") != VERSION:
        problem = "it is not a manifest" if "version" not in record else f"it has version {record['version']}"
        raise UserError(f"cannot read {path} as manifest version {VERSION}: {problem}; run `cogvideox curate` again")
    return schema


def scalar_columns(path: str | Path) -> list[str]:
    """Return the columns of a manifest without those of lists, such as embeddings, which take most of the memory."""
    import pyarrow as pa

    return [field.name for field in read_schema(path) if not pa.types.is_list(field.type)]


def stage_records(table: "pa.Table") -> dict[str, Any]:
    """Return the record of each stage of a manifest: version, parameters, weights hash, fingerprint."""
    return json.loads(table.schema.metadata[_KEY])["stages"]
