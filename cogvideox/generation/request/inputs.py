"""The picture or clip that a video is made from, read from wherever it is. Imports no torch.

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
from cogvideox.generation.request.provenance import Source, file_of, source_of_file
from cogvideox.records import Video


@dataclass(frozen=True, eq=False)
class Inputs:
    """A picture and a clip in their own size, each None where there is none, and what to call them later."""

    image: UInt8[np.ndarray, "h w 3"] | None = None
    video: UInt8[np.ndarray, "t h w 3"] | None = None
    image_source: Source | None = None
    video_source: Source | None = None


def read_inputs(image: Any, video: Any, *, fps: float, max_frames: int | None = None) -> Inputs:
    """Reads a picture and a clip.

    Args:
        image: the path of an image file, an array [h w 3] (uint8, or float in 0..1), a PIL image, or None.
        video: the path of a video file, a `Video`, an array [t h w 3], or None. A file or a `Video` is read at `fps`
            frames a second, so that it keeps its pace; the frames of an array are taken as they are.
        max_frames: no more than so many frames of the clip.

    Raises:
        UserError: no such file, one that cannot be read, or something else than these kinds; a `Source` whose file has
            changed or which had none.
    """
    picture, picture_source = (None, None) if image is None else _read_image(image)
    frames, frames_source = (None, None) if video is None else _read_video(video, fps, max_frames)
    return Inputs(picture, frames, picture_source, frames_source)


def _read_image(image: Any) -> tuple[UInt8[np.ndarray, "h w 3"], Source]:
    if isinstance(image, Source):
        image = file_of(image, "image")
    if isinstance(image, str | Path):
        from cogvideox.video import io  # PyAV takes a moment to import, and most videos are made of words alone

        return io.read_picture(image), source_of_file(image)
    if hasattr(image, "getexif"):  # a PIL image, which may be transparent, have a palette or lie on its side
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image).convert("RGB")
    pixels = _uint8("image", np.asarray(image), "[h w 3]", 3)
    return pixels, _source_of_pixels(pixels)


def _read_video(video: Any, fps: float, max_frames: int | None) -> tuple[UInt8[np.ndarray, "t h w 3"], Source]:
    if isinstance(video, Source):
        video = file_of(video, "video")
    if isinstance(video, str | Path):
        from cogvideox.video import io

        return io.read(video, fps=fps, max_frames=max_frames)[0], source_of_file(video)
    if isinstance(video, Video):
        pixels = _uint8("video", video.frames, "[t h w 3]", 4)
        # The frame nearest to each time before the end, as in a file.
        count = max(1, math.ceil(len(pixels) / video.fps * fps - 0.01))
        nearest = (np.arange(count) * video.fps / fps + 0.5).astype(int).clip(max=len(pixels) - 1)
        frames = pixels if video.fps == fps else pixels[nearest]
    else:
        pixels = frames = _uint8("video", np.asarray(video), "[t h w 3]", 4)
    return frames[:max_frames], _source_of_pixels(pixels)


def _uint8(name: str, pixels: np.ndarray, shape: str, ndim: int) -> np.ndarray:
    """Floats in 0..1 as uint8.

    Raises:
        UserError: another shape or range.
    """
    if pixels.ndim != ndim or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise UserError(f"{name} must be the path of a file or an array {shape}, got one of shape {pixels.shape}")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating) or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise UserError(f"{name} must be uint8, or floating point in 0 to 1, got {pixels.dtype} beyond that range")
    return (pixels * 255).round().astype(np.uint8)


def _source_of_pixels(pixels: np.ndarray) -> Source:
    return Source(None, hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16])
