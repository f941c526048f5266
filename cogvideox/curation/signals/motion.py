"""Amount of motion in a clip, split into camera motion, shake and object motion.

Values are in frame diagonals per second, so they depend on neither the size nor the frame rate. The paper filters by a
flow score (Section 3.1); later reports distinguish steady cameras, shaky cameras and moving objects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages
from cogvideox.video.flow import global_motion, optical_flow

_UNIT = "diagonals/s"
_TOP = 0.05


@dataclass(frozen=True)
class Motion:
    """Optical flow between sampled frames, and its components. See `signals.base.Signal`.

    Attributes:
        fps: rate at which frames are sampled.
        longest_side: longest side of the frames, in pixels.
        smoothing: seconds over which the camera velocity is averaged; the remainder is shake.
    """

    name: ClassVar[str] = "motion"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column("motion.flow_mean", "float", "Mean optical flow.", _UNIT, 0.0),
        Column("motion.flow_p95", "float", "95th percentile of the flow over pixels, mean over frames.", _UNIT, 0.0),
        Column("motion.flow_top5", "float", "Mean of the largest 5 % of the flow, mean over frames.", _UNIT, 0.0),
        Column("motion.flow_per_second", "floats", "Mean flow of each second.", _UNIT, 0.0),
        Column("motion.camera", "float", "Mean flow of the smoothed camera motion.", _UNIT, 0.0),
        Column("motion.shake", "float", "Root mean square of the camera motion removed by smoothing.", _UNIT, 0.0),
        Column("motion.object", "float", "Mean of the largest 5 % of the flow not caused by the camera.", _UNIT, 0.0),
        Column("motion.global_share", "float", "Fraction of points that move with the camera.", "", 0.0, 1.0),
    )
    memory: ClassVar[int] = 200 * 2**20
    cost: ClassVar[float] = 0.06

    fps: float = 8.0
    longest_side: int = 256
    smoothing: float = 1.0

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(fps=self.fps, longest_side=self.longest_side),)

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "cv2")

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        return lambda clip: self.measure(clip.frames[0])

    def measure(self, sampled: SampledFrames) -> dict[str, Value]:
        """Return the columns; None for a clip of one frame."""
        frames = sampled.frames
        if len(frames) < 2:
            return dict.fromkeys(column.name for column in self.columns)
        per_second = 1.0 / np.diff(sampled.times) / np.hypot(*frames.shape[1:3])
        points = np.ix_(*((2 * np.arange(4) + 1) * side // 8 for side in frames.shape[1:3]))
        magnitudes, residuals, velocities, fractions = [], [], [], []
        for flow, frame, rate in zip(optical_flow(frames), frames, per_second, strict=False):
            motion = global_motion(flow, frame)
            magnitudes.append(np.linalg.norm(motion.flow + motion.residual, axis=-1).ravel() * rate)
            residuals.append(np.linalg.norm(motion.residual, axis=-1).ravel() * rate)
            velocities.append(motion.flow[points].reshape(-1, 2) * rate)
            fractions.append(motion.inliers)
        camera, shake = split_camera_motion(np.stack(velocities), self.smoothing * sampled.fps)
        seconds = sampled.times[:-1].astype(int)
        means = np.array([magnitude.mean() for magnitude in magnitudes])
        return {
            "motion.flow_mean": float(means.mean()),
            "motion.flow_p95": float(np.mean([np.quantile(magnitude, 0.95) for magnitude in magnitudes])),
            "motion.flow_top5": float(np.mean([_top_mean(magnitude) for magnitude in magnitudes])),
            "motion.flow_per_second": [float(means[seconds == second].mean()) for second in np.unique(seconds)],
            "motion.camera": camera,
            "motion.shake": shake,
            "motion.object": float(np.mean([_top_mean(residual) for residual in residuals])),
            "motion.global_share": float(np.mean(fractions)),
        }


def split_camera_motion(velocities: Float64[np.ndarray, "t points 2"], window: float) -> tuple[float, float]:
    """Split the velocities of points that move with the camera into steady motion and shake.

    Args:
        window: number of frames over which velocities are averaged.

    Returns:
        Mean speed of the averaged motion, and root mean square of the deviations from it.
    """
    half = min(round(window / 2), (len(velocities) - 1) // 2)
    padded = np.concatenate([velocities[:half][::-1], velocities, velocities[len(velocities) - half :][::-1]])
    sums = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), axis=0)
    smooth = (sums[2 * half + 1 :] - sums[: len(velocities)]) / (2 * half + 1)
    steady = np.linalg.norm(smooth, axis=-1).mean()
    return float(steady), float(np.sqrt(((velocities - smooth) ** 2).sum(-1).mean()))


def _top_mean(values: np.ndarray) -> float:
    """Return the mean of the largest 5 % of the values."""
    count = max(1, int(len(values) * _TOP))
    return float(np.partition(values, -count)[-count:].mean())
