"""Video file I/O: reading of segments at a constant frame rate, with frames as players show them, and writing.

Axes: `t` frames, `h w` height and width in pixels.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cogvideox.errors import UserError
from cogvideox.untrusted.files import check_limit, limit, reading
from cogvideox.video import limits
from cogvideox.video.reading import containers, images
from cogvideox.video.reading.display import Display
from cogvideox.video.reading.timing import TimedFrame, Timeline
from cogvideox.video.writers import FORMATS, check_format, check_fps, write

__all__ = ["FORMATS", "NoFrameError", "VideoInfo", "check_format", "check_gaps", "probe", "read", "read_image", "write"]

Frames = UInt8[np.ndarray, "t h w 3"]
Frame = UInt8[np.ndarray, "h w 3"]

_IMAGE_FPS = 25.0  # images have no timing


class NoFrameError(UserError):
    """Raised if a video has no frames in the requested segment."""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of the video stream of a file, or of an image.

    Attributes:
        num_frames: number of displayed frames.
        fps: average frame rate; some files have a variable frame rate.
        seconds: duration from the start of the first frame to the end of the last one.
        height, width: frame size in pixels as displayed: upright, with square pixels.
        codec: name of the codec, or of the image format.
        is_image: True for a still image.
    """

    num_frames: int
    fps: float
    seconds: float
    height: int
    width: int
    codec: str
    is_image: bool = False


def probe(path: str | Path) -> VideoInfo:
    """Return the properties of a video, from its packets and its first frame.

    Raises:
        UserError: the file is missing, damaged, not a video or an image, or above a limit.
    """
    with reading(path, "damaged or not a video or an image"):
        return _probe(str(path), limits.file_version(path), limits.pixel_limits(), limit("VIDEO_SECONDS"))


@lru_cache(maxsize=8)  # a table may have many rows of the same file
def _probe(path: str, version: limits.FileVersion, pixel_limits: tuple[int, ...], max_seconds: int) -> VideoInfo:
    if images.is_image(path):
        height, width, codec = images.image_size(path)
        times = images.timeline(path)
        if times is None:
            return VideoInfo(1, _IMAGE_FPS, 1 / _IMAGE_FPS, height, width, codec, is_image=True)
        return VideoInfo(times.num_frames, times.num_frames / times.seconds, times.seconds, height, width, codec)
    times = containers.timeline(path)
    check_limit("VIDEO_SECONDS", times.seconds, f"cannot read {path}: its length of {times.seconds:,.0f} s")
    with containers.open_video(path) as (container, stream):
        height, width = Display(path, stream).rgb(next(container.decode(stream))).shape[:2]
        fps = containers.header_rate(stream)
        measured = times.num_frames / times.seconds if times.seconds > 0 else fps
        # Headers store common rates exactly, but may guess the rate from the first frames.
        if not math.isclose(fps, measured, rel_tol=0.02) or abs(fps * times.seconds - times.num_frames) >= 0.5:
            fps = measured
        return VideoInfo(times.num_frames, fps, times.seconds, height, width, stream.codec_context.name)


def check_gaps(path: str | Path, start: float = 0.0, end: float = math.inf) -> None:
    """Check that there are no long gaps between the frames of a video in an interval.

    Args:
        start, end: seconds from the first frame.

    Raises:
        UserError: the file cannot be read, or has a gap above the limit.
    """
    times = _timeline(path)
    if times is not None:
        limits.check_gap(path, float(times.gaps(start, end).max()))


def read(
    path: str | Path,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    transform: Callable[[Frame], Frame] | None = None,
) -> tuple[Frames, float]:
    """Read the frames of a video between two times, at a constant frame rate.

    Frame k of the result is the frame nearest to `start + k / fps`. So the timing of files with a variable frame rate
    is kept, a lower frame rate drops frames, and a higher one repeats frames.

    Args:
        start, end: seconds from the first frame; by default the whole video. `end` is exclusive.
        fps: frame rate of the result; defaults to the average frame rate of the file.
        max_frames: maximum number of frames.
        transform: function applied to each decoded frame, such as a resize, so that full-size frames are not kept.

    Returns:
        The frames and their frame rate.

    Raises:
        UserError: the file is missing, damaged or not a video, or has no frames in this segment (`NoFrameError`).
    """
    start, end = start or 0.0, math.inf if end is None else end
    if not 0 <= start < end:
        raise UserError(
            f"cannot read {path} from {start:g} s to {end:g} s: the start must be at least 0 and before the end"
        )
    if fps is not None:
        check_fps(fps)
    if max_frames is not None and max_frames < 1:
        raise UserError(f"max_frames={max_frames} must be 1 or more")
    fps = fps or probe(path).fps
    frames = images.timed_frames(path) if images.is_image(path) else containers.timed_frames(path, start)
    sampled = _resample(path, frames, start, end, fps, max_frames)
    collected = _collect(path, sampled if transform is None else map(transform, sampled))
    if collected is None:
        raise NoFrameError(
            f"{path} has no frame between {start:g} s and {end:g} s: it is {probe(path).seconds:g} s long"
        )
    return collected, fps


def read_image(path: str | Path) -> Frame:
    """Read an image (upright, at its original size), or the first frame of a video.

    Raises:
        UserError: the file is missing, damaged or not an image.
    """
    if images.is_image(path):
        return images.read_image(path)
    return next(containers.timed_frames(path, kind="image")).rgb()


def _timeline(path: str | Path) -> Timeline | None:
    return images.timeline(path) if images.is_image(path) else containers.timeline(path)


def _resample(
    path: str | Path, frames: Iterator[TimedFrame], start: float, end: float, fps: float, max_frames: int | None
) -> Iterator[Frame]:
    """Yield the frames nearest to start, start + 1/fps, ... before `end`, decoding each frame once."""
    num_frames = 0
    target = start
    previous: TimedFrame | None = None
    for following in chain(frames, [None]):
        if previous is not None:
            # The previous frame is the nearest one until halfway to this frame; the last frame until its end.
            time = previous.time + previous.seconds if following is None else following.time
            boundary = time - 0.01 / fps if following is None else (previous.time + time) / 2
            image = None
            if target < min(boundary, end):
                limits.check_gap(path, min(time, end) - max(previous.time, start))
            while target < min(boundary, end):
                image = previous.rgb() if image is None else image
                yield image
                num_frames += 1
                if num_frames == max_frames:
                    return
                target = start + num_frames / fps
            if target >= end:
                return
        previous = following


def _collect(path: str | Path, frames: Iterable[Frame]) -> Frames | None:
    """Return the frames in one array, which grows as needed; None if there are no frames.

    Raises:
        UserError: there are too many frames, or their sizes differ.
    """
    pixels, shape = bytearray(), None
    for frame in frames:
        if shape is not None and frame.shape != shape:
            raise UserError(f"cannot read {path}: its frames differ in size, {shape[:2]} and {frame.shape[:2]}")
        shape = frame.shape
        pixels += np.ascontiguousarray(frame).data.cast("B")
        check_limit("VIDEO_PIXELS", len(pixels) // 3, f"cannot read {path}: the number of pixels in all its frames")
    return None if shape is None else np.frombuffer(pixels, dtype=np.uint8).reshape(-1, *shape)
