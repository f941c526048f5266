"""Frame counts of long videos, which are generated in windows of the model's length.

Counts are in video frames. A window has 4k+1 frames; an overlap is a multiple of 4 frames (whole latent frames).
"""

from cogvideox import geometry
from cogvideox.geometry import FRAME_RATIO


def default_overlap(window: int) -> int:
    """Return half a window, rounded up to latent frames: 49 -> 28. Every frame is then near the middle of a window."""
    latents = geometry.latent_frames(window)
    return (latents - latents // 2) * FRAME_RATIO


def num_context_frames(num_input_frames: int, overlap: int) -> int:
    """Return the number of last frames of a clip that condition its extension (text-to-video models): 49, 28 -> 25."""
    return min(geometry.video_frames(overlap // FRAME_RATIO), geometry.round_down_frame_count(num_input_frames))


def default_extension(num_input_frames: int, window: int, overlap: int | None) -> int:
    """Return the total number of frames of a clip extended by one window: 49, 49, 28 -> 73.

    Args:
        overlap: None for an image-to-video model, which continues from the last frame: 49, 49 -> 97.
    """
    num_new = window - (1 if overlap is None else num_context_frames(num_input_frames, overlap))
    return geometry.round_down_frame_count(num_input_frames + num_new)


def num_extension_frames(num_input_frames: int, num_frames: int, overlap: int) -> int:
    """Return the number of frames, with context, that a model generates to extend a clip: 49, 73, 28 -> 49.

    Applies to text-to-video models.

    Args:
        num_frames: total number of frames of the extended clip.
    """
    num_context = num_context_frames(num_input_frames, overlap)
    return num_context - (num_input_frames - num_frames) // FRAME_RATIO * FRAME_RATIO


def chain_lengths(num_frames: int, window: int, *, continued: bool) -> list[int]:
    """Return the frame counts of a chain of clips: 97, 49 -> [49, 49].

    Each clip starts with the last frame of the previous one. The last clip is as short as possible; the chain may
    exceed `num_frames` by up to three frames.

    Args:
        num_frames: number of new frames, without those of a clip that the chain continues.
        continued: whether the first clip also starts with an existing frame.
    """
    lengths, num_missing = [], num_frames
    while num_missing > 0:
        num_shared = 1 if lengths or continued else 0
        lengths.append(min(window, geometry.nearest_frame_counts(num_missing + num_shared)[-1]))
        num_missing -= lengths[-1] - num_shared
    return lengths
