"""Properties of video streams for curation, and frames one by one with exact times."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from cogvideox.errors import UserError
from cogvideox.untrusted.files import check_limit
from cogvideox.video import io
from cogvideox.video.reading import containers, images
from cogvideox.video.reading.timing import TimedFrame


@dataclass(frozen=True, eq=False)
class StreamInfo:
    """Properties of the video stream of a file, or of an image.

    Attributes:
        times: display times of the frames in seconds from the first one, from the packets.
        seconds: duration; 0 for an image.
        fps: average frame rate in frames per second; 0 for an image.
        width, height: displayed size in pixels: upright, with square pixels.
        rotation: clockwise rotation in degrees that players apply: 0, 90, 180 or 270.
        pixel_aspect: width of a stored pixel divided by its height.
        bit_rate: bits per second of the video stream, without audio; 0 for an image.
    """

    times: Float64[np.ndarray, " t"] = field(repr=False)
    seconds: float
    fps: float
    width: int
    height: int
    codec: str
    pixel_format: str
    bit_depth: int
    rotation: int
    pixel_aspect: float
    interlaced: bool
    has_audio: bool
    bit_rate: float
    is_image: bool

    @property
    def variable_rate(self) -> bool:
        """Whether frame durations differ from the median by more than a tenth (and 2 ms, for rounded timestamps)."""
        gaps = np.diff(self.times)
        median = float(np.median(gaps)) if len(gaps) else 0.0
        return bool((np.abs(gaps - median) > max(0.002, 0.1 * median)).any())


def inspect(path: str | Path) -> StreamInfo:
    """Read the timing of all frames from the packets, and the properties of the first frame.

    Raises:
        UserError: the file is missing, damaged, not a video or an image, or above a limit.
    """
    if not Path(path).is_file():
        raise UserError(f"cannot read {path}: {'it is not a file' if Path(path).exists() else 'there is no such file'}")
    info = io.probe(path)
    io.check_gaps(path)
    common = {"width": info.width, "height": info.height, "codec": info.codec, "is_image": info.is_image}
    if images.is_image(path):
        times = images.timeline(path)
        return StreamInfo(
            times=np.zeros(1) if times is None else times.times,
            seconds=0.0 if times is None else times.seconds,
            fps=0.0 if times is None else info.fps,
            pixel_format="rgb24",
            bit_depth=8,
            rotation=0,
            pixel_aspect=1.0,
            interlaced=False,
            has_audio=False,
            bit_rate=0.0 if times is None else 8 * Path(path).stat().st_size / times.seconds,
            **common,
        )
    times = containers.timeline(path)
    check_limit("VIDEO_SECONDS", times.seconds, f"cannot read {path}: its length of {times.seconds:,.0f} s")
    with containers.open_video(path) as (container, stream):
        num_bytes = sum(packet.size for packet in container.demux(stream))
    with containers.open_video(path) as (container, stream):
        frame = next(container.decode(stream))
        return StreamInfo(
            times=times.times,
            seconds=times.seconds,
            fps=info.fps,
            pixel_format=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            rotation=round(-frame.rotation / 90) % 4 * 90,
            pixel_aspect=float(stream.sample_aspect_ratio or 1),
            interlaced=bool(frame.interlaced_frame),
            has_audio=bool(container.streams.audio),
            bit_rate=8 * num_bytes / times.seconds if times.seconds else 0.0,
            **common,
        )


def frames(path: str | Path, start: float = 0.0, end: float | None = None) -> Iterator[TimedFrame]:
    """Decode the frames that start between two times, in display order.

    Args:
        start, end: seconds from the first frame; `end` is exclusive, None means the end of the file.

    Raises:
        UserError: the file is missing, not a video or damaged; frames before the damage are yielded first.
    """
    all_frames = images.timed_frames(path) if images.is_image(path) else containers.timed_frames(path, start)
    for frame in all_frames:
        if end is not None and frame.time >= end - 1e-6:
            return
        if frame.time >= start - 1e-6:
            yield frame


def missing_decoders(names: tuple[str, ...]) -> list[str]:
    """Return the codecs that the installed FFmpeg cannot decode."""
    import av

    return [name for name in names if name not in av.codecs_available]


def missing_encoder(name: str) -> bool:
    """Return whether the installed FFmpeg lacks an encoder."""
    import av

    try:
        av.codec.Codec(name, "w")
    except (ValueError, av.error.FFmpegError):
        return True
    return False
