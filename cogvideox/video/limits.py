"""Limits on what a video or an image may claim in its header (`cogvideox.untrusted.LIMITS`)."""

import warnings
from pathlib import Path

from PIL import Image

from cogvideox.errors import UserError
from cogvideox.untrusted import check_limit, limit


def check_pixels(path: str | Path, width: int, height: int) -> None:
    """Raises UserError if frames of this size have too many pixels."""
    check_limit("PIXELS", width * height, f"cannot read {path}: its size of {width}x{height} pixels")


def check_gap(path: str | Path, seconds: float) -> None:
    """Raises UserError if two frames are too far apart."""
    check_limit("FRAME_GAP", seconds, f"cannot read {path}: the gap of {seconds:g} s between two frames")


def size_in_header(path: str | Path) -> tuple[int, int]:
    """Return width and height of an image without decoding it; zeros if the file is not an image.

    Raises:
        UserError: they are above Pillow's own limit, which is larger than the default of ours.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return image.size
    except Image.DecompressionBombError:
        most = limit("PIXELS")
        raise UserError(
            f"cannot read {path}: its number of pixels is above the limit of {most:,}; COGVIDEOX_MAX_PIXELS raises it"
        ) from None
    except Exception:
        return 0, 0
