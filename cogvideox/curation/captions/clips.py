"""Clips of an input folder: curated clips with their measurements, or whole video and image files."""

from pathlib import Path
from typing import Any

from cogvideox.curation.files import list_files
from cogvideox.curation.manifest import MANIFEST, clip_id, read_manifest
from cogvideox.curation.stages.probe import Probe
from cogvideox.errors import UserError
from cogvideox.untrusted.files import reading

_METADATA = "metadata.parquet"


def list_clips(folder: Path, output: Path) -> list[dict[str, Any]]:
    """Return the clips, each with id, source, path, start and end in seconds, is_image, and measured columns.

    In folders without a manifest, unreadable files are skipped.

    Raises:
        UserError: the folder does not exist or has no clips, or the manifest is damaged.
    """
    clips = _curated(folder) if (folder / MANIFEST).is_file() else _whole_files(folder, output)
    if not clips:
        raise UserError(f"{folder} has no usable clips")
    return clips


def _curated(folder: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    manifest = {row["id"]: row for row in read_manifest(folder).to_pylist()}
    with reading(folder / _METADATA, "damaged or not written by `cogvideox curate`"):
        listed = parquet.read_table(folder / _METADATA).to_pylist()
    clips = []
    for row in listed:
        columns = manifest.get(row["clip_id"])
        if columns is None:
            raise UserError(f"{folder / _METADATA} lists {row['clip_id']}, which is not in {MANIFEST}: curate again")
        end = columns["seconds"] if row["start"] is None else row["end"]
        location = {"path": str(folder / row["file_name"]), "start": row["start"] or 0.0, "end": end}
        clips.append(columns | location | {"file_name": row["file_name"], "whole": row["start"] is None})
    return clips


def _whole_files(folder: Path, output: Path) -> list[dict[str, Any]]:
    probe = Probe().open()
    clips = []
    for file in list_files(folder, output)[0]:
        try:
            values = probe({"path": str(file.path)})
        except UserError:
            continue
        seconds = values["file_seconds"]
        clips.append(
            {
                **values,
                "id": clip_id(values["source_id"], 0.0, seconds),
                "source": file.source,
                "path": str(file.path),
                "file_name": file.source,
                "start": 0.0,
                "end": seconds,
                "seconds": seconds,
                "whole": True,
            }
        )
    return clips
