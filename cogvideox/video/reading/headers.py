"""Crops and edit lists in the headers of mp4, mov and Matroska files, which PyAV does not expose."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from av.video.stream import VideoStream

Element = tuple[bytes, int, int]
"""Type, and start and end of the content, in bytes from the start of the file."""

_MAX_ELEMENTS = 20_000  # of a folder of elements, because damaged ones may be tiny
_MAX_VALUE = 200  # bytes
_SAMPLE_ENTRY = 78  # bytes of a video sample entry before the boxes in it
_UNKNOWN = (0, 2**32 - 1, 2**64 - 1)

_SEGMENT, _TRACKS, _TRACK = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae"
_TRACK_TYPE, _VIDEO, _CLUSTER = b"\x83", b"\xe0", b"\x1f\x43\xb6\x75"
_CROPS, _SIZE = (b"\x54\xcc", b"\x54\xbb", b"\x54\xdd", b"\x54\xaa"), (b"\xb0", b"\xba")


@dataclass(frozen=True)
class Header:
    """Properties of a video track.

    Attributes:
        crop: invisible pixels at the left, top, right and bottom of the stored frame, from a clean aperture (mp4, mov)
            or a crop of Matroska.
        size: stored width and height that the crop belongs to; None if it is not known.
        end: timestamp in seconds at which the edit list ends; None without an edit list.
        tick: resolution of `end` in seconds.
    """

    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    size: tuple[int, int] | None = None
    end: float | None = None
    tick: float = 0.0


def read_header(path: str | Path, stream: VideoStream) -> Header:
    """Return the properties of a stream. Damaged or unknown properties have their defaults."""
    container = stream.container.format.name
    with Path(path).open("rb") as file:
        try:
            if "mp4" in container:
                return _mp4_header(file, stream.id)
            if "matroska" in container:
                return _matroska_header(file, stream.container.streams.video.index(stream))
        except (struct.error, ValueError, ZeroDivisionError):
            pass
    return Header()


def _mp4_header(file: BinaryIO, track_id: int) -> Header:
    movie = _child(file, _boxes, (b"", 0, file.seek(0, 2)), b"moov")
    movie_header = _child(file, _boxes, movie, b"mvhd")
    if movie is None or movie_header is None:
        return Header()
    timescale, _ = _mp4_times(file, movie_header)
    is_fragmented = _child(file, _boxes, movie, b"mvex") is not None
    for track in _boxes(file, *movie[1:]):
        track_header = _child(file, _boxes, track, b"tkhd") if track[0] == b"trak" else None
        if track_header is None:
            continue
        number, duration = _mp4_times(file, track_header)
        if number != track_id:
            continue
        descriptions = _child(file, _boxes, track, b"mdia", b"minf", b"stbl", b"stsd")
        crop, size = ((0, 0, 0, 0), None) if descriptions is None else _clean_aperture(file, descriptions)
        has_edits = _child(file, _boxes, track, b"edts", b"elst") is not None
        if not has_edits or is_fragmented or duration in _UNKNOWN:
            return Header(crop, size)
        return Header(crop, size, duration / timescale, 1 / timescale)
    return Header()


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Element]:
    """Yield the boxes of an mp4 file between two positions."""
    for _ in range(_MAX_ELEMENTS):
        if start + 8 > end:
            return
        size, name = struct.unpack(">I4s", _read(file, start, 8))
        header = 8
        if size == 1:
            (size,), header = struct.unpack(">Q", _read(file, start + 8, 8)), 16
        size = end - start if size == 0 else size
        if size < header:
            return
        yield name, start + header, min(start + size, end)
        start += size


def _mp4_times(file: BinaryIO, box: Element) -> tuple[int, int]:
    """Return timescale and duration of a movie header, or identifier and duration of a track header."""
    name, start, _ = box
    is_long = _read(file, start, 1) == b"\1"
    layout = ">I" + ("" if name == b"mvhd" else "4x") + ("Q" if is_long else "I")
    return struct.unpack(layout, _read(file, start + (20 if is_long else 12), struct.calcsize(layout)))


def _clean_aperture(file: BinaryIO, descriptions: Element) -> tuple[tuple[int, int, int, int], tuple[int, int] | None]:
    """Return the crop and the size of stored frames."""
    entry = next(_boxes(file, descriptions[1] + 8, descriptions[2]), None)
    if entry is None:
        return (0, 0, 0, 0), None
    width, height = struct.unpack(">HH", _read(file, entry[1] + 24, 4))
    for name, start, _ in _boxes(file, entry[1] + _SAMPLE_ENTRY, entry[2]):
        if name == b"clap":
            values = struct.unpack(">IIIIiIiI", _read(file, start, 32))
            w, h, x, y = (Fraction(*values[k : k + 2]) for k in range(0, 8, 2))
            left, top = round((width - w) / 2 + x), round((height - h) / 2 + y)
            crop = left, top, width - left - round(w), height - top - round(h)
            return (crop if min(crop) >= 0 else (0, 0, 0, 0)), (width, height)
    return (0, 0, 0, 0), (width, height)


def _matroska_header(file: BinaryIO, index: int) -> Header:
    """Return the properties of a video track, by its index among the video tracks."""
    tracks = _child(file, _elements, (b"", 0, file.seek(0, 2)), _SEGMENT, _TRACKS)
    if tracks is None:
        return Header()
    entries = [track for track in _elements(file, *tracks[1:]) if track[0] == _TRACK]
    videos = [track for track in entries if _number(file, _child(file, _elements, track, _TRACK_TYPE)) == 1]
    if index >= len(videos):
        return Header()
    left, top, right, bottom, width, height = (
        _number(file, _child(file, _elements, videos[index], _VIDEO, name)) for name in (*_CROPS, *_SIZE)
    )
    return Header((left, top, right, bottom), (width, height))


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[Element]:
    """Yield the EBML elements of a Matroska file between two positions."""
    for _ in range(_MAX_ELEMENTS):
        if start >= end:
            return
        head = _read(file, start, min(12, end - start))
        name = head[: _vint_length(head[0])]
        digits = head[len(name) : len(name) + _vint_length(head[len(name)])] if len(head) > len(name) else b""
        if not digits:
            return
        size = int.from_bytes(digits, "big") & ((1 << 7 * len(digits)) - 1)
        content = start + len(name) + len(digits)
        is_unknown = size == (1 << 7 * len(digits)) - 1
        if is_unknown and name == _CLUSTER:
            return
        yield name, content, end if is_unknown else min(content + size, end)
        start = end if is_unknown else content + size


def _vint_length(first: int) -> int:
    if first == 0:
        raise ValueError("invalid EBML number")
    return 9 - first.bit_length()


def _child(
    file: BinaryIO, children: Callable[[BinaryIO, int, int], Iterator[Element]], parent: Element | None, *path: bytes
) -> Element | None:
    """Return the first descendant with these types, one for each level."""
    for name in path:
        if parent is None:
            return None
        parent = next((element for element in children(file, *parent[1:]) if element[0] == name), None)
    return parent


def _number(file: BinaryIO, element: Element | None) -> int:
    return 0 if element is None else int.from_bytes(_read(file, element[1], min(8, element[2] - element[1])), "big")


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
