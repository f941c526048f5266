"""Exact timing of a video, and its frames one by one at reduced size, for analysis.

`io.read` returns a clip at a constant frame rate, as networks need it. Here every frame occurs once, with its own
timestamp, and is converted to RGB only where it is used, at the size needed. Times are seconds from the first frame.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from jaxtyping import Float64, Int64, UInt8

from cogvideox.errors import UserError
from cogvideox.untrusted import check_limit, limit, reading
from cogvideox.video import limits

_AREA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
_BICUBIC = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True, eq=False)
class StreamInfo:
    """Properties of the video stream of a file, from its packets and its first frame.

    Attributes:
        pts: timestamps of all frames in display order, in units of `time_base` seconds; not all may be decodable.
        origin: timestamp of time 0.
        end_pts: timestamp at which the last frame ends.
        width, height: displayed size in pixels: after rotation, with square pixels.
        rotation: clockwise rotation in degrees that players apply, 0, 90, 180 or 270.
        pixel_aspect: width of a stored pixel divided by its height.
        bit_rate: bits per second of the video stream.
        header_frames: number of frames according to the header; 0 if it does not say.
    """

    pts: Int64[np.ndarray, " t"] = field(repr=False)
    end_pts: int
    origin: int
    time_base: Fraction
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
    header_frames: int
    is_image: bool

    @property
    def times(self) -> Float64[np.ndarray, " t"]:
        """Times of the frames in seconds from the first."""
        return np.array([float((int(pts) - self.origin) * self.time_base) for pts in self.pts])

    @property
    def seconds(self) -> float:
        """Duration in seconds; 0 for an image."""
        return 0.0 if self.is_image else float((self.end_pts - int(self.pts[0])) * self.time_base)

    @property
    def fps(self) -> float:
        """Average frame rate in frames per second; 0 for an image."""
        return 0.0 if self.is_image or not self.seconds else len(self.pts) / self.seconds

    @property
    def variable_rate(self) -> bool:
        """Whether frames are shown for times that differ by more than a tenth and the rounding of timestamps."""
        if len(self.pts) < 3:
            return False
        gaps = np.diff(self.pts)
        middle = float(np.median(gaps))
        return bool((np.abs(gaps - middle) > max(2.0, 0.1 * middle)).any())


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """A decoded frame.

    Attributes:
        time: seconds from the first frame of the file.
        seconds: time until the next frame.
    """

    time: float
    seconds: float
    frame: av.VideoFrame = field(repr=False)
    pixel_aspect: float = 1.0

    @cached_property
    def size(self) -> tuple[int, int]:
        """Displayed height and width: upright, with square pixels."""
        height, width = self.frame.height, self.frame.width
        width = max(1, round(width * self.pixel_aspect))
        return (width, height) if self.frame.rotation % 180 else (height, width)

    def rgb(self, longest_side: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """Convert to upright RGB with square pixels, reduced so that the longer side is at most `longest_side`."""
        scale = 1.0 if longest_side is None else min(1.0, longest_side / max(self.size))
        height, width = (max(1, round(side * scale)) for side in self.size)
        if self.frame.rotation % 180:
            height, width = width, height
        frame = self.frame
        matrix = frame.colorspace
        if matrix == 2 and frame.height >= 720:  # unspecified: players assume BT.709 for HD
            matrix = Colorspace.ITU709
        rgb = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=matrix,
            src_color_range=frame.color_range,
            dst_color_range=ColorRange.JPEG,
            interpolation=_AREA if scale < 1 else _BICUBIC,
        )
        return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)))


def inspect(path: str | Path) -> StreamInfo:
    """Read the timing of all frames without decoding them, and the properties of the first frame.

    Raises:
        UserError: the file is missing, damaged or not a video, or has no frames.
    """
    with _open(path, threads=1) as (container, stream):
        origin, rate = stream.start_time or 0, stream.average_rate or stream.guessed_rate or Fraction(25)
        tick = stream.time_base or 1 / rate
        pts, end, num_bytes = _timestamps(container, stream)
    pts = pts[pts >= origin]
    if not len(pts):  # a raw stream without timestamps: frames follow each other at the nominal rate
        origin, tick, pts = 0, 1 / rate, np.arange(max(1, end), dtype=np.int64)
    if end <= pts[-1]:  # the last packet has no duration
        end = int(pts[-1]) + (int(np.median(np.diff(pts))) if len(pts) > 1 else max(1, round(1 / rate / tick)))
    seconds = float((end - int(pts[0])) * tick)
    check_limit("VIDEO_SECONDS", seconds, f"cannot read {path}: its length of {seconds:,.0f} s")
    limits.check_gap(path, float(np.diff(pts, append=end).max() * tick))
    with _open(path, threads=1) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise UserError(f"cannot read {path}: it has no frames that can be decoded")
        shown = StreamFrame(0.0, 0.0, frame, _pixel_aspect(stream))
        return StreamInfo(
            pts=pts,
            end_pts=end,
            origin=origin,
            time_base=tick,
            width=shown.size[1],
            height=shown.size[0],
            codec=stream.codec_context.name,
            pixel_format=frame.format.name,
            bit_depth=max(part.bits for part in frame.format.components),
            rotation=round(-frame.rotation / 90) % 4 * 90,
            pixel_aspect=shown.pixel_aspect,
            interlaced=bool(frame.interlaced_frame),
            has_audio=bool(container.streams.audio),
            bit_rate=8 * num_bytes / seconds if len(pts) > 1 else 0.0,
            header_frames=stream.frames,
            is_image=len(pts) == 1,
        )


def frames(
    path: str | Path, start: float = 0.0, end: float | None = None, *, threads: int = 0
) -> Iterator[StreamFrame]:
    """Decode the frames that start between two times, in display order.

    Args:
        start, end: seconds from the first frame; `end` is exclusive, None means the end of the file.
        threads: decoding threads; 0 lets FFmpeg decide.

    Raises:
        UserError: the file is missing or not a video, or damaged; frames before the damage have been returned then.
    """
    with _open(path, threads) as (container, stream):
        pixel_aspect = _pixel_aspect(stream)
        previous: tuple[float, av.VideoFrame] | None = None
        typical = 0.0
        for time, frame in _timed(container, stream, start):
            if previous is not None:
                typical = time - previous[0]
                if previous[0] >= start - 1e-6:
                    yield StreamFrame(previous[0], typical, previous[1], pixel_aspect)
            if end is not None and time >= end - 1e-6:
                return
            previous = time, frame
        if previous is not None and previous[0] >= start - 1e-6:
            yield StreamFrame(previous[0], typical, previous[1], pixel_aspect)


@contextmanager
def _open(
    path: str | Path, threads: int
) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    options = {"max_pixels": str(limit("PIXELS"))}
    if not Path(path).is_file():
        raise UserError(f"cannot read {path}: {'it is not a file' if Path(path).exists() else 'there is no such file'}")
    with (
        reading(path, "damaged or not a video"),
        av.open(str(Path(path).absolute()), options=options) as container,
    ):
        stream = container.streams.best("video")
        if stream is None:
            raise UserError(f"cannot read {path}: it contains no video")
        codec = stream.codec_context
        if threads:
            codec.thread_count = threads
        else:
            stream.thread_type = "AUTO"
        codec.options = options
        limits.check_pixels(path, codec.width, codec.height)
        yield container, stream


def _timestamps(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> tuple[Int64[np.ndarray, " t"], int, int]:
    """Return the sorted timestamps of all packets, the end of the last one, and the number of bytes.

    Without timestamps, the first is empty and the second is the number of packets.
    """
    pts: list[int] = []
    end = num_packets = num_bytes = 0
    try:
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            num_packets += 1
            num_bytes += packet.size
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:
                pts.append(stamp)
                end = max(end, stamp + (packet.duration or 0))
    except av.error.FFmpegError:
        if not num_packets:
            raise
    if len(pts) < num_packets:
        return np.empty(0, np.int64), num_packets, num_bytes
    return np.unique(np.array(pts, dtype=np.int64)), end, num_bytes


def _timed(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, start: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield frames with their times in seconds, from `start` or a little before it."""
    origin, tick = stream.start_time or 0, stream.time_base or Fraction(1)
    rate = float(stream.average_rate or stream.guessed_rate or 25)

    def decode(from_time: float) -> Iterator[tuple[float, av.VideoFrame]]:
        container.seek(origin + int(from_time / tick), stream=stream)
        for frame in container.decode(stream):
            yield (float("nan") if frame.pts is None else float((frame.pts - origin) * tick)), frame

    if start > 0:
        decoded = decode(start)
        first = next(decoded, None)
        if first is not None and first[0] <= start:
            yield first
            yield from decoded
            return
        container.seek(origin, stream=stream)  # the seek overshot, or frames have no timestamps
    for number, frame in enumerate(container.decode(stream)):
        yield (number / rate if frame.pts is None else float((frame.pts - origin) * tick)), frame


def _pixel_aspect(stream: av.video.stream.VideoStream) -> float:
    ratio = stream.sample_aspect_ratio
    return float(ratio) if ratio and 0.1 < ratio < 10 else 1.0
