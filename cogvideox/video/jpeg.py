"""Single frames as JPEG, for models that read images and for web pages."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def encode_jpeg(frame: UInt8[np.ndarray, "h w 3"], longest_side: int | None = None, quality: int = 90) -> bytes:
    """Return a frame as JPEG, reduced so that its longer side has at most `longest_side` pixels."""
    picture = Image.fromarray(frame)
    if longest_side is not None and max(picture.size) > longest_side:
        scale = longest_side / max(picture.size)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Return the frame of `encode_jpeg`."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))
