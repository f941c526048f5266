"""Signs of screen recordings and filmed screens: flat areas, straight lines, few colors, moire.

No model is needed. Each value is the median over a few frames. The values are features of the trained filters for noisy
screenshots and text-dominated clips (paper, Section 3.4).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from cogvideox.curation.signals.base import ClipInput, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages

_BLOCK = 16
_SPECTRUM = 256


@dataclass(frozen=True)
class Screen:
    """Signs of screens in single frames. See `signals.base.Signal`.

    Attributes:
        num_frames: number of evenly spaced frames to measure.
        longest_side: longest side of these frames, in pixels.
    """

    name: ClassVar[str] = "screen"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column("screen.flat_share", "float", "Fraction of 16x16 blocks with a single color.", "", 0.0, 1.0),
        Column(
            "screen.line_share", "float", "Fraction of edge pixels on long horizontal or vertical lines.", "", 0.0, 1.0
        ),
        Column("screen.color_share", "float", "Fraction of pixels in the 8 most frequent colors.", "", 0.0, 1.0),
        Column("screen.moire", "float", "Highest isolated peak of the spectrum, log10 of its power ratio.", "", 0.0),
    )
    memory: ClassVar[int] = 100 * 2**20
    cost: ClassVar[float] = 0.02

    num_frames: int = 5
    longest_side: int = 640

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=self.longest_side),)

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "cv2")

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        return self.measure

    def measure(self, clip: ClipInput) -> dict[str, Value]:
        """Return the columns."""
        measured = [measure_frame(frame) for frame in clip.frames[0].frames]
        return {f"screen.{name}": float(np.median([frame[name] for frame in measured])) for name in measured[0]}


def measure_frame(frame: UInt8[np.ndarray, "h w 3"]) -> dict[str, float]:
    """Measure one frame."""
    import cv2

    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    codes = (frame // 8).astype(np.int64) @ np.array([1024, 32, 1])
    counts = np.sort(np.bincount(codes.ravel()))[::-1]
    return {
        "flat_share": flat_share(gray),
        "line_share": line_share(gray),
        "color_share": float(counts[:8].sum() / counts.sum()),
        "moire": moire_peak(frame),
    }


def flat_share(gray: UInt8[np.ndarray, "h w"]) -> float:
    """Return the fraction of blocks with a brightness range of at most 3 on the 0-255 scale."""
    rows, columns = gray.shape[0] // _BLOCK, gray.shape[1] // _BLOCK
    if rows * columns == 0:
        return 0.0
    blocks = gray[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    return float((blocks.max((1, 3)).astype(int) - blocks.min((1, 3)) <= 3).mean())


def line_share(gray: UInt8[np.ndarray, "h w"]) -> float:
    """Return the fraction of edge pixels on horizontal or vertical lines of at least an eighth of the frame's side."""
    import cv2

    edges = cv2.Canny(gray, 60, 120)
    lines = np.zeros_like(edges)
    for size in ((gray.shape[1] // 8, 1), (1, gray.shape[0] // 8)):
        if max(size) > 1:
            lines = np.maximum(lines, cv2.morphologyEx(edges, cv2.MORPH_OPEN, np.ones(size[::-1], np.uint8)))
    total = np.count_nonzero(edges)
    return float(np.count_nonzero(lines) / total) if total > 20 else 0.0


def moire_peak(frame: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the height of the highest peak of the chroma spectrum above its surroundings, as log10 of the power.

    Interference between the pixels of the screen and of the camera is colored and periodic: an isolated peak off the
    axes.
    """
    import cv2

    height, width = (min(side, _SPECTRUM) for side in frame.shape[:2])
    if min(height, width) < 64:
        return 0.0
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    part = frame[top : top + height, left : left + width].astype(np.float64)
    window = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    peaks = []
    for chroma in (part[..., 0] - part[..., 1], part[..., 2] - part[..., 1]):
        power = np.abs(np.fft.fftshift(np.fft.fft2((chroma - chroma.mean()) * window))) ** 2
        level = np.log10(power + 1e-3 * height * width).astype(np.float32)
        around = cv2.blur(level, (25, 25), borderType=cv2.BORDER_REFLECT)
        smooth = cv2.GaussianBlur(level, (0, 0), 1.0)
        peaks.append(float((smooth - around)[_searched(height, width)].max()))
    return max(0.0, *peaks)


def _searched(height: int, width: int) -> np.ndarray:
    """Return a mask of frequencies that are neither low nor on the axes, where lines and borders appear."""
    y, x = np.abs(np.mgrid[:height, :width] - np.array([height // 2, width // 2])[:, None, None])
    return (np.hypot(y / height, x / width) > 0.06) & (y > 3) & (x > 3)
