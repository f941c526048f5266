"""Conversion of decoded frames to what players display: deinterlaced, upright RGB with square pixels.

Axes: `h w` height and width in pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from cogvideox.errors import UserError
from cogvideox.video import limits
from cogvideox.video.reading import tone_mapping
from cogvideox.video.reading.headers import Header, read_header

# Without the full-chroma flags, accurate rounding darkens every image by two levels.
ACCURATE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)

DisplayMatrix = Float[np.ndarray, "2 2"]

_UNSPECIFIED = (0, 2, 3)  # RGB, unspecified and reserved, which FFmpeg ignores for YUV
_SUPPORTED = (1, 4, 5, 6, 7, 9)
_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "derived from the primaries",
    13: "derived from the primaries, with constant luminance",
    14: "ICtCp",
    15: "IPT-C2 of Dolby Vision",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
_UNSPECIFIED_TRANSFER = 2
_DOLBY_VISION = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
"""Codec tags of Dolby Vision. Profiles other than 5 specify a transfer characteristic that other players understand."""

_TRANSFERS = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "SMPTE 428"}


class Display:
    """Converter of the frames of one video to RGB, with the size and orientation of the first frame.

    Args:
        matrix: display matrix of the first frame of the file; by default that of the first frame to be converted.
    """

    def __init__(
        self, path: str | Path, stream: VideoStream, header: Header | None = None, matrix: DisplayMatrix | None = None
    ) -> None:
        self._path = path
        self._is_dolby_vision = stream.codec_context.codec_tag in _DOLBY_VISION
        self._aspect = stream.sample_aspect_ratio or Fraction(1)
        self._header = header or read_header(path, stream)
        self._matrix = matrix
        self._layout: _Layout | None = None

    def rgb(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """Convert a frame.

        Raises:
            UserError: its color matrix or transfer characteristic is not supported.
        """
        layout = self._layout = self._layout or self._read_layout(frame)
        check_colors(self._path, frame)
        if self._is_dolby_vision and int(frame.color_trc) == _UNSPECIFIED_TRANSFER:
            raise UserError(
                f"cannot read {self._path}: its colors (Dolby Vision profile 5) are not supported; "
                "convert it to HDR10, HLG or SDR"
            )
        transfer = int(frame.color_trc)
        primaries, is_hdr = int(frame.color_primaries), transfer in tone_mapping.HDR_TRANSFERS
        is_wide = not is_hdr and primaries in tone_mapping.WIDE_GAMUT_PRIMARIES
        converted = frame.reformat(
            width=layout.width,
            height=layout.height,
            format="rgb48le" if is_hdr or is_wide else "rgb24",
            src_colorspace=_matrix_of(frame),
            src_color_range=frame.color_range,
            dst_color_range=ColorRange.JPEG,
            interpolation=ACCURATE,
        ).to_ndarray()[layout.visible]
        rgb = converted
        if is_hdr:
            rgb = tone_mapping.to_sdr(converted, transfer, primaries)
        elif is_wide:
            rgb = tone_mapping.to_bt709(converted, primaries)
        return np.ascontiguousarray(_orient(rgb, layout.matrix))

    def _read_layout(self, frame: av.VideoFrame) -> "_Layout":
        """Read the side data of the first frame. `frame.side_data` would keep it until the garbage collector runs."""
        self._is_dolby_vision |= SideDataContainer(frame).get("DOVI_RPU_BUFFER") is not None  # pyrefly: ignore[bad-argument-count]
        matrix = display_matrix(frame) if self._matrix is None else self._matrix
        width, height = _square_pixels(frame, self._aspect, _is_transposed(matrix))
        limits.check_pixels(self._path, width, height)
        return _Layout(width, height, _visible(self._header, frame, width, height), matrix)


@dataclass(frozen=True)
class _Layout:
    """Size of stored frames with square pixels, and their visible rows and columns."""

    width: int
    height: int
    visible: tuple[slice, slice]
    matrix: DisplayMatrix


def check_colors(path: str | Path, frame: av.VideoFrame) -> None:
    """Raise UserError if FFmpeg does not support the color matrix or transfer characteristic of a frame."""
    matrix, transfer = int(frame.colorspace), int(frame.color_trc)
    if not frame.format.is_rgb and matrix not in _UNSPECIFIED and matrix not in _SUPPORTED:
        name = _MATRICES.get(matrix, f"code {matrix}")
        raise UserError(f"cannot read {path}: its color matrix ({name}) is not supported; convert it to BT.709")
    if transfer in _TRANSFERS:
        raise UserError(
            f"cannot read {path}: its transfer characteristic ({_TRANSFERS[transfer]}) is not supported; "
            "convert it to BT.709"
        )


def deinterlaced(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Deinterlace interlaced frames with FFmpeg's yadif, at the same frame rate."""
    graph: av.filter.Graph | None = None
    frame_format = None
    for frame in frames:
        if graph is not None and (frame.width, frame.height, frame.format.name) != frame_format:
            yield from _filter_frame(graph, None)
            graph = None
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None:
            frame_format = frame.width, frame.height, frame.format.name
            graph = _yadif(frame)
        if frame.pts is None:
            frame.pts = frame.dts
        yield from _filter_frame(graph, frame)
    if graph is not None:
        yield from _filter_frame(graph, None)


def _yadif(frame: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    yadif, sink = graph.add("yadif", "deint=interlaced"), graph.add("buffersink")
    source.link_to(yadif)
    yadif.link_to(sink)
    graph.configure()
    return graph


def _filter_frame(graph: av.filter.Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    graph.push(frame)
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, av.error.EOFError):
            return


def _matrix_of(frame: av.VideoFrame) -> int:
    """Return the color matrix of a frame; if unspecified, the one that players assume for its size."""
    matrix = int(frame.colorspace)
    if matrix not in _UNSPECIFIED or frame.format.is_rgb:
        return matrix
    return Colorspace.ITU709 if frame.width >= 1280 or frame.height > 576 else Colorspace.ITU601


def display_matrix(frame: av.VideoFrame) -> DisplayMatrix:
    """Return the matrix that maps stored to displayed positions."""
    data = SideDataContainer(frame).get("DISPLAYMATRIX")  # pyrefly: ignore[bad-argument-count]
    if not isinstance(data, SideData):
        return np.eye(2)
    return np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]].reshape(2, 2) / 65536


def _is_transposed(matrix: DisplayMatrix) -> bool:
    (a, b), (c, d) = matrix
    return bool(abs(a) + abs(d) < abs(b) + abs(c))


def _square_pixels(frame: av.VideoFrame, aspect: Fraction, is_transposed: bool) -> tuple[int, int]:
    """Return the stored width and height with square pixels and the same displayed height."""
    if is_transposed:
        return frame.width, max(1, round(frame.height / aspect))
    return max(1, round(frame.width * aspect)), frame.height


def _visible(header: Header, frame: av.VideoFrame, width: int, height: int) -> tuple[slice, slice]:
    """Return the rows and columns of a resized frame that the crop of the container leaves."""
    left, top, right, bottom = header.crop
    if header.size != (frame.width, frame.height) or left + right >= frame.width or top + bottom >= frame.height:
        return slice(None), slice(None)
    scale_x, scale_y = width / frame.width, height / frame.height
    rows = slice(round(top * scale_y), max(round(top * scale_y) + 1, round((frame.height - bottom) * scale_y)))
    columns = slice(round(left * scale_x), max(round(left * scale_x) + 1, round((frame.width - right) * scale_x)))
    return rows, columns


def _orient(rgb: np.ndarray, matrix: DisplayMatrix) -> np.ndarray:
    """Rotate by a multiple of 90 degrees and mirror an image, as close as possible to the display matrix."""
    (a, b), (c, d) = matrix
    flip_x, flip_y = a < 0, d < 0
    if _is_transposed(matrix):
        rgb = rgb.swapaxes(0, 1)
        flip_x, flip_y = c < 0, b < 0
    return rgb[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
