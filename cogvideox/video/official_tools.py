"""Decoding and resizing with the libraries of official evaluation tools, whose scores depend on the exact pixels.

OpenCV is in the extra `curate`. Axes: `t` frames, `h w` height and width in pixels.
"""

import io
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cogvideox.errors import UserError

Frame = UInt8[np.ndarray, "h w 3"]


def resize_opencv(
    frame: Frame, height: int, width: int, method: Literal["linear", "area"]
) -> UInt8[np.ndarray, "_h _w 3"]:
    """Resize with OpenCV: "linear" without antialiasing, "area" averages the pixels of each cell."""
    import cv2

    interpolation = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}[method]
    return cv2.resize(frame, (width, height), interpolation=interpolation)


def resize_pillow(frame: Frame, height: int, width: int) -> UInt8[np.ndarray, "_h _w 3"]:
    """Resize with Pillow's bicubic filter, which is antialiased."""
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def grayscale_pillow(frame: Frame, side: int) -> UInt8[np.ndarray, "_h _w"]:
    """Convert to grayscale and resize to a square with Pillow's Lanczos filter."""
    return np.asarray(Image.fromarray(frame).convert("L").resize((side, side), Image.Resampling.LANCZOS))


def read_opencv(path: Path, indices: Collection[int]) -> dict[int, UInt8[np.ndarray, "_h _w 3"]]:
    """Decode a video with OpenCV, and return the frames with these indices. Missing indices are omitted.

    Raises:
        UserError: OpenCV cannot open the file.
    """
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise UserError(f"cannot read {path}: OpenCV cannot open it as a video")
        frames: dict[int, UInt8[np.ndarray, "_h _w 3"]] = {}
        for index in range(max(indices, default=-1) + 1):
            success, frame = video.read()
            if not success:
                break
            if index in indices:
                frames[index] = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        return frames
    finally:
        video.release()


def count_frames_opencv(path: Path) -> int:
    """Return the number of frames that OpenCV reports for a file, from its header; 0 if it cannot be opened."""
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        return int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 0
    finally:
        video.release()


def encode_png(frame: Frame) -> bytes:
    """Encode a frame as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()
