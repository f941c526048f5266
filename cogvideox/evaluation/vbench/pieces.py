"""Sampling of frames, and the pieces in which VBench-Long scores a video.

Axes: t frames, h w height and width.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Shaped

NUM_FRAMES = 16
PIECE_SECONDS = {
    "human_action": 10,
    "scene": 2,
    "multiple_objects": 2,
    "dynamic_degree": 2,
    "appearance_style": 2,
}
"""Length of the pieces of each dimension (`clip_length_mix.yaml`)."""

Frames = Shaped[np.ndarray, "t h w 3"]


def middle_frames(num_frames: int, number: int = NUM_FRAMES) -> list[int]:
    """Return the indices of the middle frames of `number` equal intervals; the last one is repeated in short videos."""
    edges = np.linspace(0, num_frames, min(number, num_frames) + 1).astype(int)
    indices = [int(first + last - 1) // 2 for first, last in pairwise(edges)]
    return indices + [indices[-1]] * (number - len(indices))


def split(num_frames: int, fps: float, seconds: int) -> list[range]:
    """Return the frames of each piece of a long video.

    A remainder is filled with frames before it, so that the last two pieces may overlap and the end counts twice. A
    video that is shorter than one piece is scored whole. The frame rate is rounded down, as in the official tool.
    """
    length = int(fps + 1e-6) * seconds
    if length < 1 or num_frames < length:
        return [range(num_frames)]
    pieces = [range(start, start + length) for start in range(0, num_frames - length + 1, length)]
    if num_frames % length:
        pieces.append(range(max(0, num_frames - length), num_frames))
    return pieces
