"""Cut: what training reads, a window of the source file or a file of its own."""

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
_MAX_DIFFERENCE = 20.0  # root mean square of 0 to 255, at 32 pixels


@dataclass(frozen=True)
class Cut:
    """Leaves the clip where it is, or writes it to a file. See `stage.Stage`.

    Attributes:
        mode: "window" refers to a part of the source file, which is lossless; "encode" writes every clip as H.264,
            upright and with square pixels, without sound.
        crf: quality of "encode": 0 is lossless, 15 hardly visible.
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
            raise UserError(f"crf={self.crf} must be from 0 to 51; 15 is hardly visible")

    def missing_requirements(self) -> list[str]:
        from cogvideox.video import stream, writers

        lacks = self.mode == "encode" and stream.missing_encoder(writers.ENCODER)
        return [f"the encoder {writers.ENCODER}: use a build of PyAV with it, or mode=window"] if lacks else []

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[Row], Mapping[str, Value]]:
        return self._encode if self.mode == "encode" else lambda row: {}

    def _encode(self, row: Row) -> dict[str, Value]:
        from cogvideox.video import stream, transcode

        if row["is_image"]:
            return {}
        # Clips of other settings have other names: a stale file is never taken for a current one.
        name = f"{CLIPS}/{row['id'][:2]}/{row['id']}-{fingerprint(self)[:8]}.mp4"
        source, path = Path(row["path"]), Path(row["out"]) / name
        start, end = row["start"], row["end"]
        written = transcode.write_frames(path, stream.frames(source, start, end), start, crf=self.crf)
        found = stream.inspect(path)
        if written != len(found.times):
            path.unlink()
            raise UserError(f"{written} frames were encoded, but the file has {len(found.times)}")
        wanted = _ends(stream.frames(source, start, end))
        for which, one, other in zip(("first", "last"), wanted, _ends(stream.frames(path))):
            if np.sqrt(np.mean((one - other) ** 2)) > _MAX_DIFFERENCE:
                path.unlink()
                raise UserError(f"the {which} frame of the encoded file differs from that of the source")
        return {"clip_file": name, "clip_bytes": path.stat().st_size}


def _ends(frames) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last frame as thumbnails."""
    first = last = next(frames)
    for last in frames:  # noqa: B007
        pass
    one, other = (reduce(frame.rgb(), _SIDE).astype(np.float32) for frame in (first, last))
    return one, other
