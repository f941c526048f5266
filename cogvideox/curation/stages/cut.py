"""Cut: keep a clip as a window of its source file, or encode it to a separate file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cogvideox.curation.stage import Column, Row, Value, fingerprint
from cogvideox.curation.stages.split import reduce
from cogvideox.errors import UserError

CLIPS = "clips"
_SIDE = 32
_MAX_DIFFERENCE = 20.0  # root mean square difference on the 0-255 scale, at 32 pixels


@dataclass(frozen=True)
class Cut:
    """Stage that keeps the clip as a window, or encodes it to a file. See `stage.Stage`.

    Attributes:
        mode: "window" refers to a part of the source file, which is lossless; "encode" writes every clip as H.264,
            upright, with square pixels and without audio.
        crf: H.264 quality of "encode": 0 is lossless; at 15 the loss is hardly visible.
    """

    name: ClassVar[str] = "cut"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[Column, ...]] = (
        Column("clip_file", "str", "File of the clip, relative to the output folder; missing for a window."),
        Column("clip_bytes", "int", "Size of that file.", "bytes", 0.0),
    )
    memory: ClassVar[int] = 500 * 2**20
    cost: ClassVar[float] = 0.33

    mode: Literal["window", "encode"] = "window"
    crf: int = 15

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise UserError(f"crf={self.crf} must be from 0 to 51; at 15 the loss is hardly visible")

    def missing_requirements(self) -> list[str]:
        from cogvideox.video import stream, writers

        is_missing = self.mode == "encode" and stream.missing_encoder(writers.ENCODER)
        return (
            [f"the encoder {writers.ENCODER} is missing: use a build of PyAV with it, or mode=window"]
            if is_missing
            else []
        )

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[Row], Mapping[str, Value]]:
        return self._encode if self.mode == "encode" else lambda row: {}

    def _encode(self, row: Row) -> dict[str, Value]:
        from cogvideox.video import stream, transcode

        if row["is_image"]:
            return {}
        # The name depends on the settings, so a stale file is never mistaken for a current one.
        name = f"{CLIPS}/{row['id'][:2]}/{row['id']}-{fingerprint(self)[:8]}.mp4"
        source, path = Path(row["path"]), Path(row["out"]) / name
        start, end = row["start"], row["end"]
        written = transcode.write_frames(path, stream.frames(source, start, end), start, crf=self.crf)
        info = stream.inspect(path)
        if written != len(info.times):
            path.unlink()
            raise UserError(f"{written} frames were encoded, but the file has {len(info.times)}")
        expected = _ends(stream.frames(source, start, end))
        for position, frame, encoded in zip(("first", "last"), expected, _ends(stream.frames(path))):
            if np.sqrt(np.mean((frame - encoded) ** 2)) > _MAX_DIFFERENCE:
                path.unlink()
                raise UserError(f"the {position} frame of the encoded file differs from that of the source")
        return {"clip_file": name, "clip_bytes": path.stat().st_size}


def _ends(frames) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last frame as thumbnails."""
    first = last = next(frames)
    for last in frames:  # noqa: B007
        pass
    first, last = (reduce(frame.rgb(), _SIDE).astype(np.float32) for frame in (first, last))
    return first, last
