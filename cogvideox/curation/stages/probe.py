"""Probe: properties of a file, from its packets and its first frame."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cogvideox.curation.stage import Column, Row, Value
from cogvideox.errors import UserError

DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "prores", "mjpeg", "gif")
"""Common codecs of raw videos. Their decoders are checked before a run, because files would be dropped without them."""


@dataclass(frozen=True)
class Probe:
    """Stage that reads timing, size and codec of a file, and hashes its bytes. See `stage.Stage`."""

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[Column, ...]] = (
        Column("source_id", "str", "Hash of the file content."),
        Column("file_bytes", "int", "Size of the file.", "bytes", 0.0),
        Column("file_seconds", "float", "Duration of the file; 0 for an image.", "s", 0.0),
        Column("file_frames", "int", "Number of frames in the file.", "", 1.0),
        Column("fps", "float", "Average frame rate of the file; 0 for an image.", "frames per second", 0.0),
        Column("variable_rate", "bool", "Whether the time between frames varies."),
        Column("width", "int", "Displayed width: after rotation, with square pixels.", "pixels", 1.0),
        Column("height", "int", "Displayed height.", "pixels", 1.0),
        Column("rotation", "int", "Clockwise rotation that players apply.", "degrees", 0.0, 270.0),
        Column("pixel_aspect", "float", "Width of a stored pixel divided by its height.", "", 0.0),
        Column("codec", "str", "Codec, or format of an image."),
        Column("pixel_format", "str", "Pixel format, by FFmpeg's name."),
        Column("bit_depth", "int", "Bits per color component.", "bits", 1.0),
        Column("interlaced", "bool", "Whether the first frame is interlaced."),
        Column("has_audio", "bool", "Whether the file has audio."),
        Column("bit_rate", "float", "Bit rate of the video stream; 0 for an image.", "bits per second", 0.0),
        Column("is_image", "bool", "Whether the file is a still image."),
    )
    memory: ClassVar[int] = 200 * 2**20
    cost: ClassVar[float] = 0.02

    def missing_requirements(self) -> list[str]:
        from cogvideox.video import stream

        return [
            f"the decoder of {name} is missing: use a build of PyAV with it"
            for name in stream.missing_decoders(DECODERS)
        ]

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[Row], Mapping[str, Value]]:
        return lambda row: _probe(Path(row["path"]))


def _probe(path: Path) -> dict[str, Value]:
    from cogvideox.video import stream

    if path.is_file() and path.stat().st_size == 0:
        raise UserError("it is empty")
    info = stream.inspect(path)
    with path.open("rb") as file:
        source_id = hashlib.file_digest(file, "sha256").hexdigest()[:24]
    return {
        "source_id": source_id,
        "file_bytes": path.stat().st_size,
        "file_seconds": info.seconds,
        "file_frames": len(info.times),
        "fps": info.fps,
        "variable_rate": info.variable_rate,
        "width": info.width,
        "height": info.height,
        "rotation": info.rotation,
        "pixel_aspect": info.pixel_aspect,
        "codec": info.codec,
        "pixel_format": info.pixel_format,
        "bit_depth": info.bit_depth,
        "interlaced": info.interlaced,
        "has_audio": info.has_audio,
        "bit_rate": info.bit_rate,
        "is_image": info.is_image,
    }
