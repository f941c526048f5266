"""Video file I/O with PyAV: reading segments at a constant frame rate, and writing mp4, gif and (with Pillow) png.

Axes: `t` frames, `h w` height and width in pixels.
"""

import errno
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import av.filter
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from jaxtyping import Float32, UInt8
from PIL import Image

from cogvideox.atomic_io import atomic_write
from cogvideox.errors import UserError
from cogvideox.untrusted import check_limit, limit, reading
from cogvideox.video import limits
from cogvideox.video.sheet import contact_sheet

Frames = UInt8[np.ndarray, "t h w 3"]
Frame = UInt8[np.ndarray, "h w 3"]

# Accurate rounding requires the full-chroma flags: on its own it darkens every image by two levels.
_ACCURATE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


class NoFrameError(UserError):
    """Raised if a video has no frames in the requested segment."""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file, from its header.

    Attributes:
        num_frames: number of frames according to the header, or an estimate.
        fps: average frame rate; some files have a variable frame rate.
        height, width: displayed frame size in pixels, after rotation.
    """

    num_frames: int
    fps: float
    seconds: float
    height: int
    width: int
    codec: str


def probe(path: str | Path) -> VideoInfo:
    """Read the properties of a video by decoding one frame.

    Raises:
        UserError: the file is missing, damaged or not a video.
    """
    with _open(path) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise UserError(f"cannot read {path}: it has no frames")
        fps = _rate(stream)
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        else:
            seconds = (container.duration or 0) / av.time_base
        check_limit("VIDEO_SECONDS", seconds, f"cannot read {path}: its length of {seconds:,.0f} s")
        num_frames = stream.frames or max(1, round(seconds * fps))
        height, width = _rotated_size(frame, (frame.height, frame.width))
        return VideoInfo(num_frames, fps, seconds or num_frames / fps, height, width, stream.codec_context.name)


def check_gaps(path: str | Path, seconds: float) -> None:
    """Check that the frames of a video follow each other closely up to its end, without decoding them.

    Args:
        seconds: length of the video.

    Raises:
        UserError: the file cannot be read, or has a gap above the limit.
    """
    with _open(path) as (container, stream):
        unit = stream.time_base
        if unit is None:  # no timestamps to compare
            return
        times = [float(packet.dts * unit) for packet in container.demux(stream) if packet.dts is not None]
    for time, following in pairwise([*times, times[0] + seconds] if times else []):
        limits.check_gap(path, following - time)


def read(
    path: str | Path,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    transform: Callable[[Frame], Frame] | None = None,
) -> tuple[Frames, float]:
    """Read the frames of a video between two times, at a constant frame rate.

    Frame k is the one nearest to `start + k / fps`. So files with a variable frame rate keep their timing, a lower
    frame rate drops frames, and a higher one repeats them.

    Args:
        start, end: seconds from the first frame; by default the whole video. `end` is exclusive.
        fps: frame rate of the result; defaults to the average frame rate of the file, which returns every frame.
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
            f"cannot read {path} from {start:g} s to {end:g} s: the start must be 0 or more and before the end"
        )
    if fps is not None:
        _check_fps(fps)
    if max_frames is not None and max_frames < 1:
        raise UserError(f"max_frames={max_frames} must be 1 or more")
    with _open(path) as (container, stream):
        fps = fps or _rate(stream)
        sampled = _resample(container, stream, start, end, fps, max_frames)
        frames = _collect(path, sampled if transform is None else map(transform, sampled))
    if frames is None:
        raise NoFrameError(
            f"{path} has no frame between {start:g} s and {end:g} s: it is {probe(path).seconds:g} s long"
        )
    return frames, fps


def read_image(path: str | Path) -> Frame:
    """Read an image (upright, at its original size), or the first frame of a video.

    Raises:
        UserError: the file is missing, damaged or not an image.
    """
    with _open(path, "image") as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise UserError(f"cannot read {path}: it has no image")
        return _to_rgb(frame, (frame.height, frame.width))


def write(path: str | Path, frames: Frames | Float32[np.ndarray, "t h w 3"], fps: float) -> None:
    """Write uint8 frames, or float frames in 0..1, atomically, in the format given by the suffix of `path`.

    Raises:
        UserError: unsupported suffix, no permission, or full disk.
    """
    path = Path(path)
    check_format(path)
    _check_fps(fps)
    if frames.dtype != np.uint8:
        frames = (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)
    with atomic_write(path) as temporary:
        FORMATS[path.suffix.lower()](temporary, frames, fps)


def check_format(path: Path) -> None:
    """Check that the suffix of `path` is a supported output format.

    Raises:
        UserError: unsupported suffix; the message lists the supported formats.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"cannot write {path}: the name of a video must end in {', '.join(FORMATS)}")


@contextmanager
def _open(
    path: str | Path, kind: str = "video"
) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    # Without these options, a small file can make FFmpeg allocate frames of any size.
    options = {"max_pixels": str(limit("PIXELS"))}
    with reading(path, f"damaged or not {'an' if kind == 'image' else 'a'} {kind}"):
        try:
            # Use an absolute path, because FFmpeg interprets names such as "http:..." and "concat:..." as protocols.
            with av.open(str(Path(path).absolute()), options=options) as container:
                if not container.streams.video:
                    raise UserError(f"cannot read {path}: it contains no {kind}")
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                stream.codec_context.options = options
                limits.check_pixels(path, stream.codec_context.width, stream.codec_context.height)
                yield container, stream
        except av.error.FFmpegError as error:
            limits.check_pixels(path, *limits.size_in_header(path))
            if error.errno == errno.EINVAL:  # the only information FFmpeg provides
                most = f"{limit('PIXELS'):,}; COGVIDEOX_MAX_PIXELS raises it"
                raise UserError(f"cannot read {path}: it is damaged, or above the limit of {most}") from error
            raise error


def _rate(stream: av.video.stream.VideoStream) -> float:
    """Return the average frame rate, computed from the duration because some headers guess it from the first frames."""
    # Still images and raw streams have no timing; FFmpeg assumes 25 fps for them.
    from_header = float(stream.average_rate or stream.guessed_rate or 25)
    if not (stream.frames and stream.duration and stream.time_base):
        return from_header
    computed = float(stream.frames / (stream.duration * stream.time_base))
    return from_header if math.isclose(from_header, computed, rel_tol=0.02) else computed


def _resample(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    start: float,
    end: float,
    fps: float,
    max_frames: int | None,
) -> Iterator[Frame]:
    """Yield the frames nearest to start, start + 1/fps, ... before `end`, decoding each frame once."""
    num_frames = 0
    target = start
    size: tuple[int, int] | None = None
    previous: tuple[float, av.VideoFrame] | None = None
    for time, frame in _timed_frames(container, stream, start):
        if previous is not None:
            image = None
            # The previous frame is the nearest until halfway to this one; the last frame is until its own end.
            until = time - 0.01 / fps if frame is None else (previous[0] + time) / 2
            if target < min(until, end):
                limits.check_gap(container.name, min(time, end) - max(previous[0], start))
            while target < min(until, end):
                size = size or (previous[1].height, previous[1].width)
                image = _to_rgb(previous[1], size) if image is None else image
                yield image
                num_frames += 1
                if num_frames == max_frames:
                    return
                target = start + num_frames / fps
            if target >= end:
                return
        if frame is not None:
            previous = time, frame


def _collect(path: str | Path, frames: Iterable[Frame]) -> Frames | None:
    """Collect frames into one array that grows as needed; None if there are no frames.

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


def _timed_frames(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, start: float
) -> Iterator[tuple[float, av.VideoFrame | None]]:
    """Yield frames and times in seconds from `start` or shortly before it, then None and the last frame's end time."""
    origin, tick, rate = stream.start_time or 0, stream.time_base or Fraction(1), _rate(stream)

    def seconds(frame: av.VideoFrame, number: int) -> float:
        return number / rate if frame.pts is None else float((frame.pts - origin) * tick)

    frames = container.decode(stream)
    if start > 0:
        container.seek(origin + int(start / tick), stream=stream)
        first = next(frames := container.decode(stream), None)
        if first is None or first.pts is None or seconds(first, 0) > start:
            # The seek overshot, or the frames have no timestamps: decode from the beginning.
            container.seek(origin, stream=stream)
            frames = container.decode(stream)
        else:
            frames = chain([first], frames)
    end = None
    for number, frame in enumerate(frames):
        time = seconds(frame, number)
        end = time + (float(frame.duration * tick) if frame.duration else 1 / rate)
        yield time, frame
    if end is not None:
        yield end, None


def _to_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> Frame:
    """Convert a decoded frame to upright RGB at the size (before rotation) of the first frame."""
    matrix = frame.colorspace
    if matrix == 2 and frame.height >= 720:  # unspecified: players assume BT.709 for HD and BT.601 for smaller videos
        matrix = Colorspace.ITU709
    rgb = frame.reformat(
        width=size[1],
        height=size[0],
        format="rgb24",
        src_colorspace=matrix,
        src_color_range=frame.color_range,
        dst_color_range=ColorRange.JPEG,
        interpolation=_ACCURATE,
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)))


def _rotated_size(frame: av.VideoFrame, size: tuple[int, int]) -> tuple[int, int]:
    return size[::-1] if frame.rotation % 180 == 90 else size


def _to_av_frame(image: Frame) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")


def _check_fps(fps: float) -> None:
    if not 0 < fps < math.inf:
        raise UserError(f"fps={fps:g} must be above 0; typical values are 8 and 16")


def _write_mp4(path: Path, frames: Frames, fps: float) -> None:
    """Write H.264 in yuv420p with the index at the start of the file, for compatibility with browsers and players.

    yuv420p halves the color resolution, so an odd height or width is padded by one row or column.
    """
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    height, width = frames.shape[1:3]
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        # Small videos are viewed enlarged and are cheap to store, so they get higher quality. mbtree is off: its
        # AVX-512 code reads uninitialized memory at widths that are not a multiple of 128, so its output may vary.
        quality = "12" if height * width <= 256 * 256 else "15"
        stream.options = {"crf": quality, "preset": "medium", "mbtree": "0"}
        # Store the color space in the file, because players assume different defaults.
        codec = stream.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for i, image in enumerate(frames):
            frame = _to_av_frame(image).reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=_ACCURATE,
            )
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Frames, fps: float) -> None:
    """Write an endlessly looping GIF with one palette of 256 colors for the whole video."""
    if fps > 50:
        warnings.warn("gif files have at most 50 fps, so this one plays slower than requested", stacklevel=4)
        fps = 50
    height, width = frames.shape[1:3]
    tick = Fraction(1, 100)  # time resolution of the format
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=tick)
    split, palette = graph.add("split"), graph.add("palettegen")
    dither = graph.add("paletteuse", "dither=bayer:bayer_scale=4")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(dither, 1, 0)
    palette.link_to(dither, 0, 1)
    dither.link_to(sink)
    graph.configure()
    for i, image in enumerate(frames):
        frame = _to_av_frame(image)
        frame.pts, frame.time_base = round(i / fps / tick), tick
        source.push(frame)
    source.push(None)
    options = {"loop": "0", "final_delay": str(round(1 / fps / tick))}
    with av.open(str(path), "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=1 / tick)
        stream.height, stream.width, stream.pix_fmt = height, width, "pal8"
        for _ in frames:
            container.mux(stream.encode(graph.vpull()))
        container.mux(stream.encode())


def _write_png(path: Path, frames: Frames, fps: float) -> None:
    Image.fromarray(contact_sheet(frames)).save(path, "PNG")


FORMATS = {".mp4": _write_mp4, ".gif": _write_gif, ".png": _write_png}
"""Writers by file suffix: (path, frames, fps)."""
