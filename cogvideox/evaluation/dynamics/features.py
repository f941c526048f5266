"""Measurements of motion in a video (DEVIL, section 3), as the official code computes them.

Axes: t frames, h w height and width in pixels, d width of embeddings.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped, UInt8

from cogvideox.errors import UserError
from cogvideox.evaluation.models.interfaces import FlowEstimator
from cogvideox.evaluation.reconstruction.structural_similarity import ssim
from cogvideox.video.official_tools import grayscale_pillow

Frames = UInt8[np.ndarray, "t h w 3"]
Embeddings = Float[np.ndarray, "t d"]

TARGET_FPS, LONG_SIDE = 8.0, 512
_HASH_SIDE, _HASH_FREQUENCIES = 32, 8
_COSINES = 2 * np.cos(np.pi / _HASH_SIDE * (np.arange(_HASH_SIDE) + 0.5) * np.arange(_HASH_FREQUENCIES)[:, None])
SEGMENT_FRACTION, SEGMENT_FRAMES = 0.25, 8


def at_target_rate(frames: Frames, fps: float) -> UInt8[np.ndarray, "_t h w 3"]:
    """Return every n-th frame, or repeat frames, so that the rate is about 8 fps; ratios are rounded down."""
    if fps > TARGET_FPS:
        return frames[:: int(fps / TARGET_FPS)]
    return frames.repeat(int(TARGET_FPS / fps), axis=0)


def resize_long_side(frames: Frames) -> UInt8[np.ndarray, "t _h _w 3"]:
    """Resize the longer side to 512 pixels, bilinearly without antialiasing."""
    height, width = frames.shape[1:3]
    scale = LONG_SIDE / max(height, width)
    size = (int(height * scale), LONG_SIDE) if width > height else (LONG_SIDE, int(width * scale))
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def mean_speed(frames: Shaped[np.ndarray, "t h w 3"], estimate: FlowEstimator) -> float:
    """Return the mean length of the flow over pixels and pairs of frames, in pixels per frame.

    Raises:
        UserError: fewer than two frames.
    """
    _check_two_frames(frames)
    speeds = [float(np.sqrt(np.square(flow).sum(-1)).mean()) for flow in estimate(frames)]
    return float(np.mean(speeds))


def neighbor_similarity(frames: Frames) -> float:
    """Return the mean SSIM of consecutive frames. It is 1 for still videos."""
    _check_two_frames(frames)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
    return float(ssim(pixels[:-1], pixels[1:]).mean())


def hash_distance(frames: Frames) -> float:
    """Return the mean number of bits, of 64, in which the perceptual hashes of consecutive frames differ."""
    _check_two_frames(frames)
    hashes = [perceptual_hash(frame) for frame in frames]
    return float(np.mean([np.count_nonzero(first != second) for first, second in pairwise(hashes)]))


def perceptual_hash(frame: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "8 8"]:
    """Return pHash as the package ImageHash defines it: low frequencies above their median, including the DC term."""
    gray = grayscale_pillow(frame, _HASH_SIDE).astype(np.float64)
    frequencies = _COSINES @ gray @ _COSINES.T
    return frequencies > np.median(frequencies)


def embedding_variance(embeddings: Embeddings) -> float:
    """Return the mean cosine distance of frames to their mean (unit-length embeddings)."""
    mean = embeddings.mean(axis=0)
    cosines = embeddings @ mean / np.maximum(np.linalg.norm(embeddings, axis=1) * np.linalg.norm(mean), 1e-8)
    return float(np.mean(1 - cosines))


def autocorrelation_distance(embeddings: Embeddings) -> float:
    """Return the mean distance of frames at lags from an eighth of the video to its length.

    The official code fails for fewer than eight frames, whose shortest lag is 0; here it is 1.
    """
    length = len(embeddings)
    if length < 2:
        raise UserError("the autocorrelation needs at least two frames")
    lags = range(max(1, length // 8), length)
    return float(np.mean([abs(1 - (embeddings[:-lag] * embeddings[lag:]).sum(-1).mean()) for lag in lags]))


def segments(num_frames: int) -> list[list[int]]:
    """Return the frames of each segment of a quarter of the video, eight of each, for a video encoder.

    A shorter remainder is filled by repeating each of its frames. Segments of fewer than eight frames repeat the
    last one.
    """
    length = int(num_frames * SEGMENT_FRACTION)
    if length < 1:
        raise UserError("segments need at least four frames")
    chosen = []
    for start in range(0, num_frames, length):
        indices = list(range(start, min(start + length, num_frames)))
        if len(indices) < length:
            repeats = length // len(indices) + 1
            indices = [index for index in indices for _ in range(repeats)][:length]
        if length > SEGMENT_FRAMES:
            indices = [indices[int(position)] for position in np.linspace(0, length - 1, SEGMENT_FRAMES)]
        else:
            indices += [indices[-1]] * (SEGMENT_FRAMES - length)
        chosen.append(indices)
    return chosen


def segment_distance(embeddings: Embeddings) -> float:
    """Return 1 minus the mean cosine of all pairs of segments, including each with itself."""
    cosines = embeddings @ embeddings.T
    return float(1 - cosines[np.triu_indices(len(embeddings))].mean())


def consistency(embeddings: Embeddings) -> float:
    """Return VBench's consistency of frames: the mean similarity to the previous and to the first frame.

    Raises:
        UserError: fewer than two frames.
    """
    _check_two_frames(embeddings)
    previous = (embeddings[1:] * embeddings[:-1]).sum(-1)
    first = (embeddings[1:] * embeddings[0]).sum(-1)
    return float(np.mean((np.maximum(previous, 0) + np.maximum(first, 0)) / 2))


def _check_two_frames(frames: Sequence | np.ndarray) -> None:
    if len(frames) < 2:
        raise UserError("motion needs at least two frames")
