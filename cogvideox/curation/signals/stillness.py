"""Still clips: frozen frames, and still images with a slow zoom.

Allegro and others drop clips whose frames hardly change; the paper calls it lack of motion connectivity (Section 3.4).

The frames of an encoded freeze are not equal: an encoder refines the picture, and frames of different types differ a
little. But after a few frames the picture is the same again, while even slow motion moves it away.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from cogvideox.curation.signals.base import ClipInput, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages

# Largest difference of consecutive frames of a freeze, and of frames 4 to 8 apart, relative to equal frames. The frame
# types of an encoder recur after so many frames.
_STEP, _SAME, _SPANS = 5.0, 2.0, range(8, 3, -1)
_MOST = 0.75


@dataclass(frozen=True)
class Stillness:
    """Frozen frames and changes in structure. See `signals.base.Signal`.

    Attributes:
        longest_side: longest side of the frames, in pixels.
        frozen_difference: two frames count as equal if the mean difference of every 16x16 block is at most this, on the
            0-255 scale. Encoded freezes may differ more; see `frozen_frames`.
        change_fps: rate at which frames are sampled to compare their structure.
    """

    name: ClassVar[str] = "stillness"
    version: ClassVar[int] = 2
    columns: ClassVar[tuple[Column, ...]] = (
        Column("stillness.frozen_share", "float", "Fraction of the time without a change of the frame.", "", 0.0, 1.0),
        Column("stillness.longest_freeze", "float", "Longest time without a change of the frame.", "s", 0.0),
        Column("stillness.change", "float", "Mean of 1 - SSIM between frames half a second apart.", "", 0.0, 2.0),
        Column("stillness.largest_change", "float", "Largest 1 - SSIM between such frames.", "", 0.0, 2.0),
    )
    memory: ClassVar[int] = 100 * 2**20
    cost: ClassVar[float] = 0.02

    longest_side: int = 256
    frozen_difference: float = 1.0
    change_fps: float = 2.0

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (
            Sampling(longest_side=self.longest_side),
            Sampling(fps=self.change_fps, longest_side=self.longest_side),
        )

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "cv2")

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        return self.measure

    def measure(self, clip: ClipInput) -> dict[str, Value]:
        """Return the columns; None for a clip of one frame."""
        all_frames, spaced_frames = clip.frames
        if len(all_frames.frames) < 2:
            return dict.fromkeys(column.name for column in self.columns)
        frozen = frozen_frames(all_frames.frames, self.frozen_difference)
        fraction, longest = frozen_time(frozen, np.diff(all_frames.times))
        changes = [1.0 - ssim(a, b) for a, b in zip(spaced_frames.frames, spaced_frames.frames[1:], strict=False)]
        return {
            "stillness.frozen_share": fraction,
            "stillness.longest_freeze": longest,
            "stillness.change": float(np.mean(changes)) if changes else None,
            "stillness.largest_change": float(np.max(changes)) if changes else None,
        }


def frozen_frames(frames: UInt8[np.ndarray, "t h w 3"], equal: float) -> Bool[np.ndarray, " pairs"]:
    """Return whether each frame shows the same picture as the next.

    Args:
        equal: largest block difference of equal frames.
    """
    differences = np.array([block_difference(before, after) for before, after in pairwise(frames)])
    frozen = differences <= equal
    edges = np.flatnonzero(np.diff(np.pad(differences <= _STEP * equal, 1).astype(int)))
    for first, last in edges.reshape(-1, 2).tolist():
        for start, span in product(range(first, last), _SPANS):
            end = start + span
            if end > last or frozen[start:end].all():
                continue
            if block_difference(frames[start], frames[end]) <= _SAME * equal:
                frozen[start:end] = True
        if frozen[first:last].mean() >= _MOST:  # the rest is the refinement at the start
            frozen[first:last] = True
    return frozen


def frozen_time(frozen: np.ndarray, seconds: Float64[np.ndarray, " t"]) -> tuple[float, float]:
    """Return the frozen fraction of the time, and the longest freeze in seconds.

    Args:
        frozen: whether each frame equals the next.
        seconds: time from each frame to the next.
    """
    longest = current = 0.0
    for still, duration in zip(frozen, seconds, strict=True):
        current = current + float(duration) if still else 0.0
        longest = max(longest, current)
    return float(seconds[frozen].sum() / seconds.sum()), longest


def block_difference(before: UInt8[np.ndarray, "h w 3"], after: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the largest mean difference of a 16x16 block, on the 0-255 scale."""
    import cv2

    difference = cv2.absdiff(before, after).max(-1)
    blocks = (max(1, difference.shape[1] // 16), max(1, difference.shape[0] // 16))
    return float(cv2.resize(difference.astype(np.float32), blocks, interpolation=cv2.INTER_AREA).max())


def ssim(first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the mean structural similarity of the brightness of two frames (Wang et al. 2004), -1 to 1."""
    import cv2

    a, b = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64) for frame in (first, second))

    def smooth(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean())
