"""Clip windows: the frames of a clip that the VAE encodes, and their size."""

import math
from dataclasses import dataclass, replace

from cogvideox import geometry
from cogvideox.dataset.cache_keys import window_id
from cogvideox.dataset.config import ClipFormat
from cogvideox.errors import UserError
from cogvideox.geometry import FRAME_RATIO, format_frame_count, round_down_frame_count
from cogvideox.records import Clip

MIN_FPS_RATIO = 0.75
"""Lowest frame rate of a clip relative to the target; below it, more than every fourth frame would be repeated."""


@dataclass(frozen=True)
class ClipWindow:
    """A window of a clip in the format that the VAE encodes.

    Attributes:
        clip: the part of the file, with `start` and `end` unless it is the whole file.
        fps: frame rate at which the file is read; 0 for an image.
        num_frames: number of frames at that rate, 4k+1.
        height, width: size to which the frames are resized and cropped.
        crop: top, left, height and width of the visible region, in pixels of the source frames.
    """

    clip: Clip
    fps: float
    num_frames: int
    height: int
    width: int
    crop: tuple[int, int, int, int]

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        return self.num_frames, self.height, self.width


def clip_windows(clip: Clip, target: ClipFormat) -> list[ClipWindow]:
    """Cut a clip into consecutive windows of `target.num_frames` frames.

    The remainder becomes a window of 4k+1 frames, or is dropped if it has fewer than 5 frames.

    Raises:
        UserError: the clip is too small or too short, or its frame rate is too low.
    """
    height, width = _size(clip, target)
    size = height, width, _crop(clip, height, width)
    if clip.is_image:
        return [ClipWindow(clip, 0.0, 1, *size)]
    if clip.fps < MIN_FPS_RATIO * target.fps:
        raise UserError(f"its frame rate of {clip.fps:g} fps is too low for {target.fps:g} fps")
    total = math.ceil(clip.seconds * target.fps - 0.01)  # ignores a fraction of 1% of a frame, like `video.io.read`
    minimum = min(FRAME_RATIO + 1, target.num_frames)
    if total < minimum:
        raise UserError(
            f"it is too short: {format_frame_count(total)} at {target.fps:g} fps, and the minimum is {minimum}"
        )
    windows = []
    for start in range(0, total, target.num_frames):
        num_frames = round_down_frame_count(min(target.num_frames, total - start))
        if num_frames >= minimum:
            windows.append((start, num_frames))
    if target.windows == "first":
        windows = windows[:1]
    if len(windows) == 1:
        return [ClipWindow(clip, target.fps, windows[0][1], *size)]
    return [
        ClipWindow(_part(clip, start, num_frames, target.fps), target.fps, num_frames, *size)
        for start, num_frames in windows
    ]


def _part(clip: Clip, first_frame: int, num_frames: int, fps: float) -> Clip:
    """Return the part of a clip that starts at frame `first_frame`, counted at `fps`."""
    offset = clip.start or 0.0
    start, end = offset + first_frame / fps, offset + (first_frame + num_frames) / fps
    num_source_frames = max(1, round(num_frames / fps * clip.fps))
    return replace(clip, id=window_id(clip.id, start, end), start=start, end=end, num_frames=num_source_frames)


def _size(clip: Clip, target: ClipFormat) -> tuple[int, int]:
    if min(clip.height, clip.width) < target.multiple:
        minimum = f"{target.multiple}x{target.multiple}"
        raise UserError(f"it is too small: {clip.width}x{clip.height} pixels, and the minimum is {minimum}")
    if target.max_area is not None:
        return geometry.size_for_area(clip.height, clip.width, target.max_area, target.multiple)
    assert target.height is not None
    assert target.width is not None
    return target.height, target.width


def _crop(clip: Clip, height: int, width: int) -> tuple[int, int, int, int]:
    fit = geometry.cover(clip.height, clip.width, height, width)
    scale_y, scale_x = clip.height / fit.height, clip.width / fit.width
    return (
        round(fit.top * scale_y),
        round(fit.left * scale_x),
        round(height * scale_y),
        round(width * scale_x),
    )
