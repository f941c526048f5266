"""Read the input image and video of a request, from a file or from memory.

Axes: t frames, h w height and width in pixels.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cogvideox.errors import UserError
from cogvideox.generation.request.input_sources import InputSource, checked_path, source_of_file
from cogvideox.records import Video


@dataclass(frozen=True, eq=False)
class Inputs:
    """The input image and video at their original size, with their sources; None if absent."""

    image: UInt8[np.ndarray, "h w 3"] | None = None
    video: UInt8[np.ndarray, "t h w 3"] | None = None
    image_source: InputSource | None = None
    video_source: InputSource | None = None


def read_inputs(image: Any, video: Any, *, fps: float, max_frames: int | None = None) -> Inputs:
    """Read an image and a video.

    Args:
        image: the path of an image, an array [h w 3] (uint8, or float in 0..1), a PIL image, an `InputSource`, or None.
        video: the path of a video, a `Video`, an array [t h w 3], an `InputSource`, or None. Files and `Video`s are
            resampled to `fps`, so that motion keeps its speed; arrays are not resampled.
        max_frames: maximum number of frames to read.

    Raises:
        UserError: the file does not exist or cannot be read; an array has the wrong shape or range; an `InputSource`
            has changed or was passed in memory.
    """
    pixels, image_source = (None, None) if image is None else _read_image(image)
    frames, video_source = (None, None) if video is None else _read_video(video, fps, max_frames)
    return Inputs(pixels, frames, image_source, video_source)


def _read_image(image: Any) -> tuple[UInt8[np.ndarray, "h w 3"], InputSource]:
    if isinstance(image, InputSource):
        image = checked_path(image, "image")
    if isinstance(image, str | Path):
        from cogvideox.video import io  # importing PyAV is slow, and most requests have no input

        return io.read_image(image), source_of_file(image)
    if hasattr(image, "getexif"):  # a PIL image
        from cogvideox.video.reading.images import to_rgb

        image = to_rgb(image)
    pixels = _to_uint8("image", np.asarray(image), "[h w 3]", 3)
    return pixels, _source_of_pixels(pixels)


def _read_video(video: Any, fps: float, max_frames: int | None) -> tuple[UInt8[np.ndarray, "t h w 3"], InputSource]:
    if isinstance(video, InputSource):
        video = checked_path(video, "video")
    if isinstance(video, str | Path):
        from cogvideox.video import io

        return io.read(video, fps=fps, max_frames=max_frames)[0], source_of_file(video)
    if isinstance(video, Video):
        pixels = _to_uint8("video", video.frames, "[t h w 3]", 4)
        # Nearest-frame resampling, as when reading files.
        num_frames = max(1, math.ceil(len(pixels) / video.fps * fps - 0.01))
        nearest = (np.arange(num_frames) * video.fps / fps + 0.5).astype(int).clip(max=len(pixels) - 1)
        frames = pixels if video.fps == fps else pixels[nearest]
    else:
        pixels = frames = _to_uint8("video", np.asarray(video), "[t h w 3]", 4)
    return frames[:max_frames], _source_of_pixels(pixels)


def _to_uint8(name: str, pixels: np.ndarray, shape: str, ndim: int) -> np.ndarray:
    if pixels.ndim != ndim or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise UserError(f"{name} must be the path of a file or an array {shape}, got an array of shape {pixels.shape}")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating) or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise UserError(
            f"{name} must be uint8, or floating point between 0 and 1, got {pixels.dtype} outside of that range"
        )
    return (pixels * 255).round().astype(np.uint8)


def _source_of_pixels(pixels: np.ndarray) -> InputSource:
    return InputSource(None, hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16])
