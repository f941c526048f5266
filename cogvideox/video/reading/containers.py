"""Video files read with FFmpeg: choice of the video stream, display times, and decoding from any time."""

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.format import ContainerFormat
from av.stream import Disposition
from av.video.stream import VideoStream

from cogvideox.errors import UserError
from cogvideox.untrusted.files import limit, reading
from cogvideox.video import limits
from cogvideox.video.reading.display import Display, DisplayMatrix, deinterlaced, display_matrix
from cogvideox.video.reading.headers import read_header
from cogvideox.video.reading.timing import TimedFrame, Timeline

FORMATS = (
    *("mov", "matroska", "avi", "mpeg", "mpegts", "mpegvideo", "flv", "asf", "ogg", "gif", "mxf", "nut", "ivf", "dv"),
    *("wav", "mp3", "aac", "flac"),  # audio files, for a clear error message
    *("h264", "hevc", "vvc", "obu", "av1", "m4v", "h263", "mjpeg", "yuv4mpegpipe", "rm", "vc1", "gxf", "wtv"),
)
"""Supported containers, with FFmpeg's names. Formats that refer to other files, such as playlists, are excluded."""

_GENERATE_PTS = 1
_NO_TIMESTAMPS = 0x80
_RESET = 0.5
"""Minimum decrease of timestamps, in seconds, between two joined recordings."""

_MIN_GIF_DELAY, _DEFAULT_GIF_DELAY = 0.015, 0.1
"""Shorter delays of GIFs are replaced by the default delay, as in FFmpeg before version 8 and in browsers."""

_MAX_THREADED_PIXELS = 2**25
"""Larger frames are not decoded in parallel, because each thread needs memory for one."""

_SEEK_MARGINS = (0, 2, 10, 60)  # seconds


@dataclass(frozen=True)
class Origin:
    """Properties of the first decodable frame.

    Attributes:
        time: its timestamp in seconds.
        is_exact: whether the file stores presentation times (PTS), not only decoding times (DTS).
        matrix: its display matrix, which other frames may not have.
    """

    time: float
    is_exact: bool
    matrix: DisplayMatrix


@contextmanager
def open_video(path: str | Path, kind: str = "video") -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and choose its video stream. Errors in the block are raised as `UserError`.

    Args:
        kind: expected type of file ("video" or "image"), for messages.

    Raises:
        UserError: the file is missing, damaged, not a video in one of `FORMATS`, or above a limit.
    """
    pixel_limit = "PIXELS" if kind == "image" else "FRAME_PIXELS"
    problem = f"damaged or not {'an' if kind == 'image' else 'a'} {kind}"
    with reading(path, problem), open_container(path) as container:
        # With this flag, FFmpeg guesses missing timestamps wrongly if frames are stored in a different order.
        container.flags &= ~_GENERATE_PTS
        stream = _video_stream(path, container, kind)
        width, height = stream.codec_context.width, stream.codec_context.height
        limits.check_pixels(path, width, height, pixel_limit)
        stream.thread_type = "AUTO" if width * height <= _MAX_THREADED_PIXELS else "SLICE"
        stream.codec_context.options = _max_pixels(pixel_limit)
        try:
            yield container, stream
        except av.error.FFmpegError as error:
            if error.errno == errno.EINVAL:  # FFmpeg reports no other reason
                limits.check_gif(path, pixel_limit)
                maximum = f"{limit(pixel_limit):,}; COGVIDEOX_MAX_{pixel_limit} raises it"
                raise UserError(f"cannot read {path}: it is damaged, or above the limit of {maximum}") from error
            raise _without_path(error) from error


def open_container(path: str | Path) -> InputContainer:
    """Open a file in one of `FORMATS`, without following references to other files or the network.

    Raises:
        UserError: the file is missing, or not a regular file.
        OSError, ValueError: the file is damaged or has an unsupported format.
    """
    limits.file_version(path)
    restrictions = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
    # FFmpeg would open raw MJPEG as a sequence of images.
    raw_format = "mjpeg" if Path(path).suffix.lower() in (".mjpeg", ".mjpg") else None
    try:
        # Use an absolute path, because FFmpeg interprets names such as "http:..." and "concat:..." as protocols.
        return av.open(str(Path(path).absolute()), format=raw_format, options=_max_pixels("PIXELS") | restrictions)
    except av.error.FFmpegError as error:
        if error.errno == errno.EINVAL:
            raise ValueError("its container is not supported, or its header is invalid") from error
        raise _without_path(error) from error


def _max_pixels(name: limits.PixelLimit) -> dict[str, str]:
    """Return FFmpeg's option for the maximum frame size, which prevents that a small file allocates much memory."""
    return {"max_pixels": str(limit(name))}


def start_time(path: str | Path) -> float:
    """Return the timestamp of the first video frame, which is time 0 in this package, in seconds.

    Raises:
        UserError: the file cannot be read, or has no frames.
    """
    return _origin(str(path), limits.file_version(path), limits.pixel_limits()).time


def timeline(path: str | Path) -> Timeline:
    """Return the display times of a video, from its packets, because headers are often wrong.

    The result is cached. Only the first frame is decoded.

    Raises:
        UserError: the file cannot be read, or has no frames.
    """
    with reading(path, "damaged or not a video"):
        return _timeline(str(path), limits.file_version(path), limits.pixel_limits())


def header_rate(stream: VideoStream) -> float:
    """Return the average frame rate according to the header; 25 if there is none."""
    return float(stream.average_rate or stream.guessed_rate or 25)


def timed_frames(path: str | Path, start: float = 0.0, kind: str = "video") -> Iterator[TimedFrame]:
    """Yield the frames of a video in display order, from `start` (seconds) or shortly before it.

    Args:
        kind: expected type of file ("video" or "image"), for messages.

    Raises:
        UserError: the file is missing, damaged or not a video.
    """
    origin = _origin(str(path), limits.file_version(path), limits.pixel_limits()) if start > 0 else None
    with open_video(path, kind) as (container, stream):
        frames = _decode_from(path, container, stream, origin, start)
        if frames is not None:
            header = read_header(path, stream)
            display = Display(path, stream, header, None if origin is None else origin.matrix)
            yield from _with_times(frames, stream, display, origin, header.end)
            return
    yield from timed_frames(path, kind=kind)


def _with_times(
    frames: Iterator[av.VideoFrame], stream: VideoStream, display: Display, origin: Origin | None, end: float | None
) -> Iterator[TimedFrame]:
    """Add display times to frames. A frame whose timestamp is missing or decreases follows the previous frame.

    Args:
        end: timestamp at which the edit list ends.
    """
    container_format, step = stream.container.format, 1 / header_rate(stream)
    is_gif = container_format.name == "gif"
    # In program streams, FFmpeg may assign the timestamp of a pack to the frame before or after its frame.
    jitter = math.inf if _has_only_durations(container_format) else 1.5 if container_format.name == "mpeg" else 0.0
    start = 0.0 if origin is None else origin.time
    previous, offset = None, 0.0
    for frame in deinterlaced(frames):
        time = _seconds(frame)
        if previous is None:
            time = time or 0.0
            start = time if origin is None else start
        else:
            if time is not None and time + offset < previous - _RESET:
                offset = previous + step - time
            expected = previous + step
            if time is None or time + offset < previous or abs(time + offset - expected) < jitter * step:
                time = expected
            else:
                time += offset
            step = time - previous if time > previous else step
        step = _shown(frame, is_gif) or step
        previous = time
        seconds = step if end is None or time >= end else min(step, end - time)
        yield TimedFrame(time - start, seconds, lambda frame=frame: display.rgb(frame))


def _without_path(error: av.error.FFmpegError) -> Exception:
    """Return an error without the path, which the message already contains."""
    return error if isinstance(error, OSError) else ValueError(error.strerror)


def _video_stream(path: str | Path, container: InputContainer, kind: str) -> VideoStream:
    """Return the stream that FFmpeg selects: the largest one, preferably a default stream, and no cover image."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise UserError(f"cannot read {path}: it contains no {kind}")

    def rank(stream: VideoStream) -> int:
        bonus = 5_000_000 if stream.disposition & Disposition.default else 0
        return stream.codec_context.width * stream.codec_context.height + bonus

    return max(streams, key=rank)


@lru_cache(maxsize=8)
def _timeline(path: str, version: limits.FileVersion, pixel_limits: tuple[int, ...]) -> Timeline:
    origin = _origin(path, version, pixel_limits)
    with open_video(path) as (container, stream):
        container.flags |= _GENERATE_PTS  # the order of timestamps does not matter here
        has_only_durations, is_gif = _has_only_durations(container.format), container.format.name == "gif"
        step = 1 / header_rate(stream)
        following, end, times, num_packets = 0.0, -math.inf, [], 0
        previous, offset = None, 0.0
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            num_packets += 1
            if packet.is_discard:  # outside the edit list
                continue
            tick = packet.time_base or Fraction(1)
            if packet.dts is not None:
                decoded = float(packet.dts * tick)
                if previous is not None and decoded < previous - _RESET:
                    offset += previous + step - decoded
                previous = decoded
            stamp = packet.dts if packet.pts is None else packet.pts
            time = following if stamp is None or has_only_durations else float(stamp * tick) + offset
            following = time + (_shown(packet, is_gif) or step)
            if (
                origin.is_exact and not has_only_durations and time < origin.time - 1e-6
            ):  # not decodable without an earlier key frame
                continue
            times.append(time)
            if packet.duration:
                end = max(end, following)
        if not times:
            raise UserError(f"cannot read {path}: it has no frames")
        declared = len(getattr(stream, "index_entries", ())) if "mp4" in container.format.name else 0
        if num_packets < declared:
            raise UserError(f"cannot read {path}: it is truncated, with {num_packets} of {declared} frames")
        header = read_header(path, stream)
        if header.end is not None and max(times) < header.end < end - header.tick:
            end = header.end
        if container.format.name == "mpeg":
            times, end = _without_jitter(times, step), -math.inf
    latest = sorted(times)[-2:]
    last_step = latest[1] - latest[0] if len(latest) == 2 and latest[1] > latest[0] else step
    return Timeline.of(times, end if end > latest[-1] else latest[-1] + last_step, is_continuous=offset == 0)


def _without_jitter(times: list[float], step: float) -> list[float]:
    """Return equidistant times if timestamps of a program stream repeat although its frame rate is constant."""
    first, last = min(times), max(times)
    has_repeated = bool((np.diff(np.sort(times)) < step / 2).any())
    is_constant = abs(last - first - (len(times) - 1) * step) < 2.5 * step
    return [first + k * step for k in range(len(times))] if has_repeated and is_constant else times


@lru_cache(maxsize=1024)
def _origin(path: str, version: limits.FileVersion, pixel_limits: tuple[int, ...]) -> Origin:
    with open_video(path) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise UserError(f"cannot read {path}: it has no frames")
        return Origin(_seconds(frame) or 0.0, frame.pts is not None, display_matrix(frame))


def _has_only_durations(container_format: ContainerFormat) -> bool:
    """Return whether times are sums of durations: for GIF, and raw streams, for which FFmpeg generates wrong times."""
    return bool(container_format.flags & _NO_TIMESTAMPS) or container_format.name == "gif"


def _shown(item: av.Packet | av.VideoFrame, is_gif: bool) -> float | None:
    """Return how long a packet or frame is shown, in seconds; None if it is not known."""
    seconds = float((item.duration or 0) * (item.time_base or 0))
    if is_gif and seconds < _MIN_GIF_DELAY:
        return _DEFAULT_GIF_DELAY
    return seconds or None


def _seconds(frame: av.VideoFrame) -> float | None:
    stamp = frame.dts if frame.pts is None else frame.pts
    return None if stamp is None or frame.time_base is None else float(stamp * frame.time_base)


def _decode_from(
    path: str | Path, container: InputContainer, stream: VideoStream, origin: Origin | None, start: float
) -> Iterator[av.VideoFrame] | None:
    """Decode from the key frame at or before `start`; None if it is not found and the file has to be reopened."""
    if origin is None:
        return container.decode(stream)
    if _has_only_durations(container.format):
        return None
    if container.format.name in ("mpeg", "mpegts") and not timeline(path).is_continuous:
        return None
    tick = stream.time_base or Fraction(1)
    for margin in _SEEK_MARGINS:
        if margin >= start:
            break
        try:
            container.seek(int((origin.time + start - margin) / tick), stream=stream)
        except av.error.FFmpegError:
            return None
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None or not first.key_frame or (first.pts is None and origin.is_exact):
            continue
        time = _seconds(first)
        if time is not None and time <= origin.time + start:
            return chain([first], frames)
    return None
