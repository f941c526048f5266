"""Reads and writes video files with PyAV: any window of a video at an even frame rate; mp4, gif, and png by Pillow.

Axes: `t` frames, `h w` height and width in pixels.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import av.filter
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from jaxtyping import Float32, UInt8
from PIL import Image

from cogvideox.atomic_io import atomic_write, cannot_read
from cogvideox.errors import UserError
from cogvideox.video.sheet import contact_sheet

Frames = UInt8[np.ndarray, "t h w 3"]
Picture = UInt8[np.ndarray, "h w 3"]

# Accurate rounding is only accurate together with full chroma: alone it darkens every picture by two levels.
_PRECISE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


class NoFrameError(UserError):
    """A video has no frame in the window that was asked for."""


@dataclass(frozen=True)
class Info:
    """A video file as its header tells it; height and width are those of the picture as it is shown."""

    num_frames: int  # as the file counts them, or else about how many
    fps: float  # on average: the frames of some files are not evenly spaced
    seconds: float
    height: int
    width: int
    codec: str


def probe(path: str | Path) -> Info:
    """Reads what a video is, without decoding more than a frame.

    Raises:
        UserError: the file is missing, damaged or no video.
    """
    with _open(path) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise UserError(f"cannot read {path}: it holds no frame")
        fps = _rate(stream)
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        else:
            seconds = (container.duration or 0) / av.time_base
        num_frames = stream.frames or max(1, round(seconds * fps))
        height, width = _shown(frame, (frame.height, frame.width))
        return Info(num_frames, fps, seconds or num_frames / fps, height, width, stream.codec_context.name)


def read(
    path: str | Path,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    each: Callable[[Picture], Picture] | None = None,
) -> tuple[Frames, float]:
    """Reads the frames of a video between two times, evenly spaced, and their rate.

    Frame k is the one nearest to `start + k / fps`, so files whose frames are not evenly spaced keep their pace, and a
    lower rate drops frames where a higher one repeats them.

    Args:
        start, end: seconds from the first frame; the whole video unless given. `end` is not included.
        fps: frames a second of the result; the average rate of the file unless given, which is then every frame.
        max_frames: stop after so many.
        each: what is done with each frame as it comes, such as to make it smaller, so that not all are held in full
            size.

    Raises:
        UserError: the file is missing, damaged or no video, or has no frame in the window (`NoFrameError`).
    """
    start, end = start or 0.0, math.inf if end is None else end
    if not 0 <= start < end:
        raise UserError(f"cannot read {path} from {start:g} s to {end:g} s: the start must be before the end")
    if fps is not None:
        _check_fps(fps)
    if max_frames is not None and max_frames < 1:
        raise UserError(f"max_frames={max_frames} must be 1 or more")
    with _open(path) as (container, stream):
        fps = fps or _rate(stream)
        sampled = _sample(container, stream, start, end, fps, max_frames)
        frames = list(sampled if each is None else map(each, sampled))
    if not frames:
        raise NoFrameError(
            f"{path} has no frame between {start:g} s and {end:g} s: it is {probe(path).seconds:g} s long"
        )
    return np.stack(frames), fps


def read_image(path: str | Path) -> Picture:
    """Reads an image, upright and in its own size; of a video, the first frame.

    Raises:
        UserError: the file is missing, damaged or no image.
    """
    with _open(path, "image") as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise UserError(f"cannot read {path}: it holds no image")
        return _picture(frame, (frame.height, frame.width))


def write(path: str | Path, frames: Frames | Float32[np.ndarray, "t h w 3"], fps: float) -> None:
    """Writes frames, as uint8 or in 0..1, in the format that the name of `path` ends in, whole or not at all.

    Raises:
        UserError: another ending, no permission, a full disk.
    """
    path = Path(path)
    check_format(path)
    _check_fps(fps)
    if frames.dtype != np.uint8:
        frames = (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)
    with atomic_write(path) as temporary:
        FORMATS[path.suffix.lower()](temporary, frames, fps)


def check_format(path: Path) -> None:
    """Whether the name of `path` ends in a format that can be written.

    Raises:
        UserError: it does not; the sentence has those that can.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"cannot write {path}: the name of a video ends in {', '.join(FORMATS)}")


@contextmanager
def _open(
    path: str | Path, kind: str = "video"
) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    try:
        # An absolute path, because FFmpeg takes names like "http:..." and "concat:..." for something else.
        with av.open(str(Path(path).absolute())) as container:
            if not container.streams.video:
                raise UserError(f"cannot read {path}: there is no {kind} in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except OSError as error:
        raise cannot_read(path, error) from error
    except av.error.FFmpegError as error:
        raise UserError(f"cannot read {path}: it is damaged or no {kind} ({error.strerror})") from error


def _rate(stream: av.video.stream.VideoStream) -> float:
    """Frames a second on average. The header of some formats only guesses it, from the first frames."""
    # Streams without any timing are stills and raw streams, for which FFmpeg assumes 25.
    stated = float(stream.average_rate or stream.guessed_rate or 25)
    if not (stream.frames and stream.duration and stream.time_base):
        return stated
    counted = float(stream.frames / (stream.duration * stream.time_base))
    return stated if math.isclose(stated, counted, rel_tol=0.02) else counted


def _sample(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    start: float,
    end: float,
    fps: float,
    max_frames: int | None,
) -> Iterator[Picture]:
    """The frames nearest to start, start + 1/fps, ... before `end`, each decoded once."""
    num_frames = 0
    target = start
    size: tuple[int, int] | None = None
    before: tuple[float, av.VideoFrame] | None = None
    # The last frame lasts until its end; a sentinel there makes it the nearest until then.
    for time, frame in _timed(container, stream, start):
        if before is not None:
            shown = None
            # Half-way to the next frame; the end of the video is no frame, and nothing is near it.
            until = time - 0.01 / fps if frame is None else (before[0] + time) / 2
            while target < min(until, end):
                size = size or (before[1].height, before[1].width)
                shown = _picture(before[1], size) if shown is None else shown
                yield shown
                num_frames += 1
                if num_frames == max_frames:
                    return
                target = start + num_frames / fps
            if target >= end:
                return
        if frame is not None:
            before = time, frame


def _timed(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, start: float
) -> Iterator[tuple[float, av.VideoFrame | None]]:
    """Frames from at or before `start` on with their times in seconds, and None at the end of the last one."""
    origin, tick, rate = stream.start_time or 0, stream.time_base or Fraction(1), _rate(stream)

    def seconds(frame: av.VideoFrame, number: int) -> float:
        return number / rate if frame.pts is None else float((frame.pts - origin) * tick)

    frames = container.decode(stream)
    if start > 0:
        container.seek(origin + int(start / tick), stream=stream)
        first = next(frames := container.decode(stream), None)
        if first is None or first.pts is None or seconds(first, 0) > start:
            # An index that leads too far, or no times to go by: from the beginning then.
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


def _picture(frame: av.VideoFrame, size: tuple[int, int]) -> Picture:
    """A decoded frame in RGB, upright, in the size of the first."""
    matrix = frame.colorspace
    if matrix == 2 and frame.height >= 720:  # unspecified: players take HD for BT.709 and the rest for BT.601
        matrix = Colorspace.ITU709
    rgb = frame.reformat(
        width=size[1],
        height=size[0],
        format="rgb24",
        src_colorspace=matrix,
        src_color_range=frame.color_range,
        dst_color_range=ColorRange.JPEG,
        interpolation=_PRECISE,
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)))


def _shown(frame: av.VideoFrame, size: tuple[int, int]) -> tuple[int, int]:
    return size[::-1] if frame.rotation % 180 == 90 else size


def _frame(picture: Picture) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")


def _check_fps(fps: float) -> None:
    if not 0 < fps < math.inf:
        raise UserError(f"fps={fps:g} must be above 0; 8 and 16 are usual")


def _write_mp4(path: Path, frames: Frames, fps: float) -> None:
    """H.264 in yuv420p with the index in front: what every browser and player opens.

    That format halves the resolution of colour, so an odd height or width gets one more row or column.
    """
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    height, width = frames.shape[1:3]
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        # Small videos are looked at enlarged, and cost nothing. Without mbtree, as its AVX-512 code in x264 reads
        # memory that nothing was written to, in widths that are no multiple of 128: the same frames made other files.
        quality = "12" if height * width <= 256 * 256 else "15"
        stream.options = {"crf": quality, "preset": "medium", "mbtree": "0"}
        # Said in the file, because players guess differently.
        codec = stream.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for i, picture in enumerate(frames):
            frame = _frame(picture).reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=_PRECISE,
            )
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Frames, fps: float) -> None:
    """An endless loop, with one palette of 256 colours made for this video."""
    if fps > 50:
        warnings.warn("a gif shows at most 50 frames a second, so this one plays slower", stacklevel=4)
        fps = 50
    height, width = frames.shape[1:3]
    tick = Fraction(1, 100)  # all that the format knows
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=tick)
    fork, make, use = graph.add("split"), graph.add("palettegen"), graph.add("paletteuse", "dither=bayer:bayer_scale=4")
    sink = graph.add("buffersink")
    source.link_to(fork)
    fork.link_to(make, 0, 0)
    fork.link_to(use, 1, 0)
    make.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for i, picture in enumerate(frames):
        frame = _frame(picture)
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
"""Writers by the ending of the name: (path, frames, fps)."""
