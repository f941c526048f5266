"""A single score of technical quality without a model: the default if no aesthetic model is available.

It does not measure beauty. It drops for images that are blurred, noisy, blocky, low in contrast or badly exposed. It
also depends on the content, so use it to compare versions of similar images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from cogvideox.curation.signals.base import ClipInput, Sampling
from cogvideox.curation.signals.picture import measure_frame
from cogvideox.curation.stage import Column, Value, missing_packages


@dataclass(frozen=True)
class Technical:
    """Technical quality as a single number. See `signals.base.Signal`.

    Attributes:
        num_frames: number of evenly spaced frames to measure.
        longest_side: longest side of these frames in pixels, which makes scores of different sizes comparable.
    """

    name: ClassVar[str] = "technical"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column("technical.score", "float", "Technical quality (not aesthetics), median over frames.", "", 0.0, 1.0),
    )
    memory: ClassVar[int] = 100 * 2**20
    cost: ClassVar[float] = 0.02

    num_frames: int = 5
    longest_side: int = 512

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=self.longest_side),)

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "cv2")

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        return lambda clip: {
            "technical.score": float(np.median([score_frame(frame) for frame in clip.frames[0].frames]))
        }


def score_frame(frame: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the geometric mean of six components between 0 and 1."""
    measured = measure_frame(frame, border_level=24.0)
    components = (
        saturating(measured["resolution"], 0.01),
        saturating(measured["contrast"], 0.1),
        1.0 - abs(2.0 * measured["brightness"] - 1.0) ** 2,
        1.0 - min(1.0, measured["overexposed"] + measured["underexposed"]),
        1.0 / (1.0 + max(0.0, measured["blockiness"])),
        1.0 / (1.0 + measured["noise"] / 8.0),
    )
    return float(np.exp(np.mean(np.log(np.maximum(components, 1e-4)))))


def saturating(value: float, half: float) -> float:
    """Map [0, inf) to [0, 1), with 0.5 at `half`."""
    return value / (value + half)
