"""JPEG thumbnails of videos and images, for web pages."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from cogvideox.video.stream import frames


def thumbnail(path: str | Path, times: list[float], height: int = 72) -> bytes:
    """Return frames of a video side by side, as JPEG.

    Args:
        times: seconds from the first frame of the file, increasing.
        height: height of the thumbnail in pixels.

    Raises:
        UserError: the file cannot be read.
    """
    tiles = []
    for time in times:
        frame = next(frames(path, time), None) or next(frames(path))
        image = Image.fromarray(frame.rgb())
        width = max(1, round(image.width * height / image.height))
        tiles.append(np.asarray(image.resize((min(width, 4 * height), height), Image.Resampling.BOX)))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(tiles, axis=1)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()
