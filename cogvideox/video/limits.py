"""Checks of the sizes and times declared in videos and images against `cogvideox.untrusted.files.LIMITS`."""

import errno
import os
import stat
import struct
from pathlib import Path
from typing import Literal

from cogvideox.errors import UserError
from cogvideox.untrusted.files import check_limit, limit

FileVersion = tuple[int, ...]
"""Cache key of the content of a file: device, inode, size and modification time."""


def file_version(path: str | Path) -> FileVersion:
    """Return a cache key for the content of a regular file.

    Raises:
        UserError: the path is a pipe, a device or a different special file, which may never end.
        OSError: there is no such file, or it is a folder.
    """
    try:
        status = Path(path).stat()
    except ValueError:  # a name that no file system allows
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"cannot read {path}: it is not a regular file but a pipe, a device or a socket")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


PixelLimit = Literal["PIXELS", "FRAME_PIXELS"]
"""The limit on images, or on frames of videos."""


def pixel_limits() -> tuple[int, ...]:
    """Return the limits on images and on frames, as part of cache keys."""
    return limit("PIXELS"), limit("FRAME_PIXELS")


def check_pixels(path: str | Path, width: int, height: int, name: PixelLimit = "PIXELS") -> None:
    """Raise UserError if an image or a frame of this size has too many pixels."""
    check_limit(name, width * height, f"cannot read {path}: its size of {width}x{height} pixels")


def check_gif(path: str | Path, name: PixelLimit) -> None:
    """Raise UserError if a file is a GIF with too many pixels, whose size FFmpeg does not report."""
    with Path(path).open("rb") as file:
        start = file.read(10)
    if start[:3] == b"GIF" and len(start) == 10:
        width, height = struct.unpack("<HH", start[6:])
        check_pixels(path, width, height, name)


def check_gap(path: str | Path, seconds: float) -> None:
    """Raise UserError if the time between two frames is too long."""
    check_limit("FRAME_GAP", seconds, f"cannot read {path}: the gap of {seconds:g} s between two frames")
