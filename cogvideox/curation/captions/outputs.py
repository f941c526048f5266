"""Output tables: all captions, and the training clips with short or long captions."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cogvideox.curation.captions.config import MIX_COLUMN, CaptionPipelineConfig
from cogvideox.curation.captions.stages import ALL_COLUMNS
from cogvideox.curation.manifest import arrow_type
from cogvideox.curation.stage import Column, Row

if TYPE_CHECKING:
    import pyarrow as pa

CAPTIONS, METADATA = "captions.parquet", "metadata.parquet"
CLIP_COLUMNS = (
    Column("id", "str", "Content hash of the clip."),
    Column("source", "str", "Path of the file."),
    Column("file_name", "str", "Path of the file, relative to the captioned folder."),
    Column("start", "float", "Start of the clip in its file.", "s", 0.0),
    Column("end", "float", "End of the clip in its file.", "s", 0.0),
    Column("is_image", "bool", "Whether the clip is a still image."),
    Column("status", "str", "ok, rejected (problems remain after all retries), failed or pending."),
    Column("reason", "str", "Reason why the caption was rejected or failed."),
)
_NOT_SCORES = ("start", "end", "index", "attempts", "file_bytes", "clip_bytes")


def captions_table(rows: Sequence[Row]) -> "pa.Table":
    """Return the table of all captions."""
    import pyarrow as pa

    columns = (*CLIP_COLUMNS, *ALL_COLUMNS)
    fields = [
        pa.field(column.name, arrow_type(column), metadata={"description": column.description}) for column in columns
    ]
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in fields]
    return pa.table(arrays, schema=pa.schema(fields))


def training_table(
    rows: Sequence[Row], pipeline_config: CaptionPipelineConfig, source: Path, output: Path
) -> "pa.Table":
    """Return the table of training clips; with `short_fraction`, two rows per clip: short and long caption.

    The column `caption_mix` is a hash of the clip's id in [0, 1) for short captions, and the hash plus 1 for long
    captions.
    """
    import pyarrow as pa

    relative = os.path.relpath(source.resolve(), output.resolve()).replace(os.sep, "/")
    stage = pipeline_config.long_stage or ("short" if pipeline_config.short is not None else None)
    usable = [row for row in rows if row["status"] == "ok"] if stage is not None else []
    listed: list[tuple[Row, str, bool]] = []
    for row in usable:
        short = row.get("caption.short") if not row.get("caption.short_problems") else None
        if pipeline_config.short_fraction is not None:
            listed.append((row, short or row[f"caption.{stage}"], True))
        listed.append((row, row[f"caption.{stage}"], stage == "short"))
    scores = sorted(
        {
            name
            for row in usable
            for name, value in row.items()
            if isinstance(value, int | float) and not name.startswith("caption.") and name not in _NOT_SCORES
        }
        - {"whole"}
    )
    data: dict[str, list[Any]] = {
        "file_name": [f"{relative}/{row['file_name']}" for row, _, _ in listed],
        "caption": [caption for _, caption, _ in listed],
        "start": [None if row["whole"] else row["start"] for row, _, _ in listed],
        "end": [None if row["whole"] else row["end"] for row, _, _ in listed],
        "clip_id": [row["id"] for row, _, _ in listed],
        "caption_words": [len(caption.split()) for _, caption, _ in listed],
        MIX_COLUMN: [mix_value(row["id"]) + (not short) for row, _, short in listed],
    }
    types = {"start": pa.float64(), "end": pa.float64(), "caption_words": pa.int64(), MIX_COLUMN: pa.float64()}
    arrays = {name: pa.array(values, types.get(name, pa.string())) for name, values in data.items()}
    for name in scores:
        values = [row.get(name) for row, _, _ in listed]
        is_boolean = all(value is None or isinstance(value, bool) for value in values)
        arrays[name] = (
            pa.array(values, pa.bool_())
            if is_boolean
            else pa.array([None if value is None else float(value) for value in values], pa.float64())
        )
    return pa.table(arrays)


@dataclass(frozen=True)
class WrittenStyle:
    """Style of the training captions, with the fields of `generation.enhance.CaptionStyle`."""

    words: tuple[int, int, int]
    examples: tuple[str, ...]


def caption_style(rows: Sequence[Row], pipeline_config: CaptionPipelineConfig) -> WrittenStyle:
    """Return length percentiles of the long captions, and examples."""
    stage = pipeline_config.long_stage or "short"
    captions = [row[f"caption.{stage}"] for row in rows if row["status"] == "ok" and row.get(f"caption.{stage}")]
    lengths = [len(caption.split()) for caption in captions] or [0]
    low, middle, high = (round(float(value)) for value in np.percentile(lengths, (10, 50, 90)))
    examples = sorted(captions, key=lambda caption: abs(len(caption.split()) - middle))[:3]
    return WrittenStyle((low, middle, high), tuple(examples))


def mix_value(id: str) -> float:
    """Return a uniformly distributed hash of the id in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"caption mix {id}".encode()).digest()[:6], "big") / 2**48
