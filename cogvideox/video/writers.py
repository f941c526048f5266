"""Writers of video files: mp4 and gif with PyAV, png with Pillow.

Axes: `t` frames, `h w` height and width in pixels.
"""

import math
import warnings
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from jaxtyping import Float32, UInt8
from PIL import Image

from cogvideox.atomic_io import atomic_write
from cogvideox.errors import UserError
from cogvideox.video.reading.display import ACCURATE
from cogvideox.video.sheet import contact_sheet

Frames = UInt8[np.ndarray, "t h w 3"]
Frame = UInt8[np.ndarray, "h w 3"]

ENCODER = "libx264"


def write(path: str | Path, frames: Frames | Float32[np.ndarray, "t h w 3"], fps: float) -> None:
    """Write uint8 frames, or float frames in 0..1, atomically, in the format given by the suffix of `path`.

    Raises:
        UserError: unsupported suffix, no permission, or full disk.
    """
    path = Path(path)
    check_format(path)
    check_fps(fps)
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


def check_fps(fps: float) -> None:
    """Raise UserError unless a frame rate is at least 0.001 and finite."""
    if not 0.001 <= fps < math.inf:
        raise UserError(f"fps={fps:g} must be above 0 (at least 0.001); typical values are 8 and 16")


def _to_av_frame(image: Frame) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")


def add_h264_stream(container: OutputContainer, rate: Fraction | int, height: int, width: int, crf: int) -> VideoStream:
    """Add an H.264 stream in yuv420p (even height and width) with the color space BT.709."""
    stream = container.add_stream(ENCODER, rate=rate)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    # Without mbtree, whose AVX-512 code reads uninitialized memory if the width is not a multiple of 128, so that its
    # output may vary.
    stream.options = {"crf": str(crf), "preset": "medium", "mbtree": "0"}
    # Store the color space in the file, because players assume different defaults.
    codec = stream.codec_context
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def to_yuv420p(image: Frame) -> av.VideoFrame:
    """Convert an RGB frame to the pixel format of `add_h264_stream`."""
    return _to_av_frame(image).reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=ACCURATE,
    )


def _write_mp4(path: Path, frames: Frames, fps: float) -> None:
    """Write H.264 in yuv420p with the index at the start of the file, as browsers and players require.

    yuv420p halves the color resolution, so an odd height or width is padded by one row or column.
    """
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    height, width = frames.shape[1:3]
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path.absolute()), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        # Higher quality for small videos, which are often enlarged.
        stream = add_h264_stream(container, rate, height, width, crf=12 if height * width <= 256 * 256 else 15)
        for i, image in enumerate(frames):
            frame = to_yuv420p(image)
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Frames, fps: float) -> None:
    """Write an endlessly looping GIF with one palette of 256 colors for the whole video."""
    if fps > 50:
        warnings.warn("gif files have at most 50 fps, so this file plays slower than requested", stacklevel=4)
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
    with av.open(str(path.absolute()), "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=1 / tick)
        stream.height, stream.width, stream.pix_fmt = height, width, "pal8"
        for _ in frames:
            container.mux(stream.encode(graph.vpull()))
        container.mux(stream.encode())


def _write_png(path: Path, frames: Frames, fps: float) -> None:
    Image.fromarray(contact_sheet(frames)).save(path, "PNG")


FORMATS = {".mp4": _write_mp4, ".gif": _write_gif, ".png": _write_png}
"""Writers by file suffix: (path, frames, fps)."""
