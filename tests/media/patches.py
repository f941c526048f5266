"""Changes of files that the FFmpeg command line cannot write. Each function returns a function of the file's bytes."""

import struct
from collections.abc import Callable


def matrix(values: tuple[int, int, int, int]) -> Callable[[bytes], bytes]:
    """Return a function that sets the display matrix in the track header of an mp4 file."""

    def fixed(numbers: tuple[int, ...]) -> bytes:
        a, b, c, d = (value * 65536 for value in numbers)
        return b"".join(value.to_bytes(4, "big", signed=True) for value in (a, b, 0, c, d, 0))

    def patch(data: bytes) -> bytes:
        at = data.index(fixed((1, 0, 0, 1)), data.index(b"tkhd"))
        return data[:at] + fixed(values) + data[at + 24 :]

    return patch


def aperture(crop: tuple[int, int, int, int], size: tuple[int, int]) -> Callable[[bytes], bytes]:
    """Return a function that adds a clean aperture to an mp4 file whose header is at the end.

    Args:
        crop: invisible pixels at the left, top, right and bottom.
        size: stored height and width.
    """
    left, top, right, bottom = crop
    height, width = size
    # The offset of the center is half of the difference of the margins.
    numbers = (width - left - right, 1, height - top - bottom, 1, left - right, 2, top - bottom, 2)
    box = struct.pack(">I4sIIIIiIiI", 40, b"clap", *numbers)

    def patch(data: bytes) -> bytes:
        at = 0
        for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
            start = data.index(name, at) - 4
            size = int.from_bytes(data[start : start + 4], "big") + len(box)
            data = data[:start] + size.to_bytes(4, "big") + data[start + 4 :]
            at = start + 8
        entry = at + 8  # after the version and the number of entries
        end = entry + int.from_bytes(data[entry : entry + 4], "big")
        size = end - entry + len(box)
        return data[:entry] + size.to_bytes(4, "big") + data[entry + 4 : end] + box + data[end:]

    return patch


def matroska_element(old: bytes, new: bytes, value: int) -> Callable[[bytes], bytes]:
    """Return a function that replaces a number in the first track of a Matroska file by another element."""

    def patch(data: bytes) -> bytes:
        at = data.index(old, data.index(b"\x16\x54\xae\x6b"))
        size = data[at + 2] & 0x7F
        return data[:at] + new + data[at + 2 : at + 3] + value.to_bytes(size, "big") + data[at + 3 + size :]

    return patch


def pixel_crop(left: int, top: int) -> Callable[[bytes], bytes]:
    """Return a function that replaces the display size in a Matroska file by a crop."""
    columns = matroska_element(b"\x54\xb0", b"\x54\xcc", left)
    rows = matroska_element(b"\x54\xba", b"\x54\xbb", top)
    return lambda data: rows(columns(data))
