"""Training pairs from output folders of `cogvideox caption`: summaries with their inputs, and clips with captions."""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox import config as configs
from cogvideox.curation.captions.back_ends.prompts import SUMMARY, summary_material
from cogvideox.curation.captions.base import TimedCaption
from cogvideox.curation.captions.config import CaptionPipelineConfig
from cogvideox.curation.captions.facts import ClipFacts
from cogvideox.curation.captions.outputs import CAPTIONS
from cogvideox.curation.captions.run import CONFIG
from cogvideox.curation.captions.run import SUMMARY as TOTALS
from cogvideox.errors import UserError
from cogvideox.untrusted.files import read_json, reading


@dataclass(frozen=True)
class SummaryPair:
    """The prompt of the summarizer for a clip, and the accepted summary.

    Attributes:
        short: the short caption of the clip, if it has an accepted one.
    """

    clip: str
    prompt: str
    summary: str
    short: str


@dataclass(frozen=True)
class CaptionedClip:
    """A clip (`row` has path, start, end and is_image) and its accepted caption."""

    clip: str
    row: dict[str, Any]
    caption: str


def summary_pairs(folders: Sequence[str]) -> list[SummaryPair]:
    """Return the accepted summaries of several folders, each with the prompt that the back-end `model` sends.

    Raises:
        UserError: a folder was not written by `cogvideox caption`, or there are no accepted summaries.
    """
    pairs = []
    for folder in map(Path, folders):
        config = _pipeline_config(folder)
        if config.summary is None:
            raise UserError(f"{folder} has no summaries: caption with the stage summary")
        prompt = config.summary.prompt or SUMMARY
        instruction = prompt.text.replace("{words}", str(config.max_words("summary")))
        for row in _rows(folder):
            summary = row.get("caption.summary")
            if row["status"] == "failed" or not summary or row.get("caption.summary_problems"):
                continue
            short = row.get("caption.short") if not row.get("caption.short_problems") else None
            frames = [TimedCaption(**frame) for frame in json.loads(row.get("caption.frames") or "[]")]
            facts = configs.from_dict(ClipFacts, json.loads(row["caption.facts"]))
            material = summary_material(short, frames, facts)
            pairs.append(SummaryPair(row["id"], f"{instruction}\n\n{material}", summary, short or ""))
    if not pairs:
        raise UserError(f"no accepted summaries in {', '.join(folders) or 'data'}: set data to folders of captions")
    return pairs


def captioned_clips(folders: Sequence[str]) -> list[CaptionedClip]:
    """Return the clips of several folders with their accepted captions: the long one, otherwise the short one.

    Raises:
        UserError: a folder was not written by `cogvideox caption`, or there are no accepted captions.
    """
    clips = []
    for folder in map(Path, folders):
        stage = _pipeline_config(folder).long_stage or "short"
        source = Path(read_json(folder / TOTALS)["source"])
        for row in _rows(folder):
            if row["status"] == "ok" and row.get(f"caption.{stage}"):
                location = {"path": str(source / row["file_name"])}
                location |= {name: row[name] for name in ("start", "end", "is_image")}
                clips.append(CaptionedClip(row["id"], location, row[f"caption.{stage}"]))
    if not clips:
        raise UserError(f"no accepted captions in {', '.join(folders)}: set data to folders of captions")
    return clips


def is_validation(clip: str, fraction: float) -> bool:
    """Return whether a clip is used for validation only, which is decided by a hash of its id."""
    return zlib.crc32(f"captioner validation {clip}".encode()) < fraction * 2**32


def _pipeline_config(folder: Path) -> CaptionPipelineConfig:
    if not (folder / CONFIG).is_file() or not (folder / CAPTIONS).is_file():
        raise UserError(f"{folder} is not an output folder of `cogvideox caption`: it has no {CONFIG} and {CAPTIONS}")
    return configs.load(CaptionPipelineConfig, folder / CONFIG)


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with reading(folder / CAPTIONS, "damaged or not a Parquet file"):
        yield from parquet.read_table(folder / CAPTIONS).to_pylist()
