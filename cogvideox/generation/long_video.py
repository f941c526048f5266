"""Videos longer than a model makes at once: how much is made at a time, and what neighbours share. Imports no torch.

Everything here counts video frames. A window is 4k+1 frames; an overlap is whole latents, 4 frames each.
"""

from cogvideox import geometry
from cogvideox.geometry import FRAME_RATIO


def default_overlap(window: int) -> int:
    """Half of a window, so that every moment of a long video is in the middle of one: 49 -> 28."""
    latents = geometry.latent_frames(window)
    return (latents - latents // 2) * FRAME_RATIO


def kept(num_given: int, overlap: int) -> int:
    """How many of a clip's last frames a text model looks back at when it continues the clip: 49, 28 -> 25."""
    return min(geometry.video_frames(overlap // FRAME_RATIO), geometry.round_down_frames(num_given))


def default_extension(num_given: int, window: int, overlap: int | None) -> int:
    """Frames in all when a clip is continued by one window, at most: 49, 49, 28 -> 73.

    Without an overlap it is an image model, which goes on from the last frame alone: 49, 49 -> 97.
    """
    new = window - (1 if overlap is None else kept(num_given, overlap))
    return geometry.round_down_frames(num_given + new)


def made(num_given: int, num_frames: int, overlap: int) -> int:
    """Frames that a text model makes when it continues a clip to `num_frames`, those that it looks back at included:
    49, 73, 28 -> 49."""
    before = kept(num_given, overlap)
    return before - (num_given - num_frames) // FRAME_RATIO * FRAME_RATIO


def links(num_frames: int, window: int, *, from_given: bool) -> list[int]:
    """Frames of each clip in the chain by which an image model makes a long video, where every clip begins with the
    last frame of the one before: 97, 49 -> [49, 49].

    The last clip is as short as it can be, so that it may have up to three frames more than are needed.

    Args:
        num_frames: of the whole video, or where a clip is given, of what comes after its last frame.
    """
    lengths, left = [], num_frames
    while left > 0:
        shared = 1 if lengths or from_given else 0
        lengths.append(min(window, geometry.nearest_frames(left + shared)[-1]))
        left -= lengths[-1] - shared
    return lengths
