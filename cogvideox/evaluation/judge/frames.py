"""The eight frames that GPT4o-MTScore shows to the judge, equal in every pixel to those of the official script."""

import numpy as np
from jaxtyping import UInt8

from cogvideox.errors import UserError
from cogvideox.evaluation.scorer import VideoFile
from cogvideox.video.official_tools import count_frames_opencv, read_opencv, resize_opencv

NUM_FRAMES, SHORT_SIDE = 8, 256

Frame = UInt8[np.ndarray, "h w 3"]


def frame_indices(num_frames: int) -> list[int]:
    """Return the indices: the first, the last, and six multiples of (n - 1) // 7 between them.

    Raises:
        UserError: fewer than eight frames; the official script silently skips such videos.
    """
    if num_frames < NUM_FRAMES:
        raise UserError(f"MTScore needs {NUM_FRAMES} frames, and the video has {num_frames}")
    step = (num_frames - 1) // (NUM_FRAMES - 1)
    return [*range(0, step * (NUM_FRAMES - 1), step), num_frames - 1]


def judged_frames(file: VideoFile) -> dict[int, UInt8[np.ndarray, "_h _w 3"]]:
    """Return the frames by index, decoded by OpenCV, with a shorter side of at most 256 pixels.

    Raises:
        UserError: the file cannot be read, or is too short.
    """
    if file.start is None and file.end is None:
        indices = frame_indices(count_frames_opencv(file.path))
        frames = read_opencv(file.path, indices)
    else:  # a segment of a file
        indices = frame_indices(len(file.video.frames))
        frames = {index: file.video.frames[index] for index in indices}
    if len(frames) < NUM_FRAMES:
        raise UserError(f"{file.path} has fewer frames than its header says")
    return {index: _reduced(frame) for index, frame in frames.items()}


def _reduced(frame: Frame) -> UInt8[np.ndarray, "_h _w 3"]:
    height, width = frame.shape[:2]
    if min(height, width) <= SHORT_SIDE:
        return frame
    scale = SHORT_SIDE / width if height > width else SHORT_SIDE / height
    return resize_opencv(frame, int(height * scale), int(width * scale), "area")
