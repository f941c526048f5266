"""Single frames as JPEG, for models that read images and for web pages."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def encode_jpeg(frame: UInt8[np.ndarray, "h w 3"], longest_side: int | None = None, quality: int = 90) -> bytes:
    """Encode a frame as JPEG, downscaled to at most `longest_side` pixels on its longer side."""
    image = Image.fromarray(frame)
    if longest_side is not None and max(image.size) > longest_side:
        scale = longest_side / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG image to an RGB frame."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))
