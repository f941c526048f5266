"""Small JPEG pictures of videos and images, for web pages."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from cogvideox.video.stream import frames


def thumbnail(path: str | Path, times: list[float], height: int = 72) -> bytes:
    """Return frames of a video side by side as a JPEG.

    Args:
        times: seconds from the first frame of the file, increasing.

    Raises:
        UserError: the file cannot be read.
    """
    parts = []
    for time in times:
        frame = next(frames(path, time), None) or next(frames(path))
        picture = Image.fromarray(frame.rgb())
        width = max(1, round(picture.width * height / picture.height))
        parts.append(np.asarray(picture.resize((min(width, 4 * height), height), Image.Resampling.BOX)))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(parts, axis=1)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()
