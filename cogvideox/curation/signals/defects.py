"""Visible defects of the picture, measured where they show: at edges, and in the darkest and brightest parts.

Blur, exposure and enlarged pixels are measured relative to the picture itself, so that a scene with few details does
not count as blurred, nor a dark scene with lights as underexposed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from cogvideox.curation.signals.base import ClipInput, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages

_MIN_STEP = 16.0  # brightness range of an edge, on the 0-255 scale
_WIDE, _NARROW = 13, 3  # pixels over which an edge's range is measured


@dataclass(frozen=True)
class Defects:
    """Blur along each axis, exposure and enlarged pixels. See `signals.base.Signal`.

    Attributes:
        num_frames: number of evenly spaced frames to measure.
        longest_side: longest side of these frames, in pixels.
    """

    name: ClassVar[str] = "defects"
    version: ClassVar[int] = 2
    columns: ClassVar[tuple[Column, ...]] = (
        Column("defects.edge_sharpness", "float", "Fraction of an edge's step within 3 pixels, median.", "", 0.0, 1.0),
        Column("defects.sharpest_edges", "float", "The same, 90th percentile of the edges.", "", 0.0, 1.0),
        Column("defects.directional_blur", "float", "Difference of the edge sharpness along the two axes.", "", 0.0),
        Column("defects.darkest", "float", "5th percentile of the brightness of the pixels.", "", 0.0, 1.0),
        Column("defects.brightest", "float", "95th percentile of the brightness of the pixels.", "", 0.0, 1.0),
        Column("defects.repeated_pixels", "float", "Fraction of the steps at edges on a coarse grid.", "", 0.0, 1.0),
        Column("defects.fine_detail", "float", "Fraction of the blocks at edges with detail of 1 pixel.", "", 0.0, 1.0),
        Column("defects.combing", "float", "Log2 of the change between lines over that at a distance of two.", ""),
        Column("defects.smooth_blocks", "float", "Fraction of textured blocks without detail.", "", 0.0, 1.0),
        Column("defects.texture_detail", "float", "Detail of the blocks in textured parts over their range.", "", 0.0),
        Column("defects.edge_detail", "float", "The same for blocks with a strong edge.", "", 0.0),
        Column("defects.ringing", "float", "Detail of weak blocks beside strong ones.", "", 0.0),
        Column("defects.detail_peaks", "float", "Kurtosis of the detail, log.", ""),
        Column("defects.fine_to_medium", "float", "Detail of 1 pixel over detail of 2 pixels, log2.", ""),
        Column("defects.medium_to_coarse", "float", "Detail of 2 pixels over detail of 4 pixels, log2.", ""),
        Column("defects.lower_quartile", "float", "25th percentile of the brightness of the pixels.", "", 0.0, 1.0),
        Column("defects.median", "float", "Median brightness.", "", 0.0, 1.0),
        Column("defects.tones", "float", "Entropy of the brightness.", "bit", 0.0, 8.0),
        Column("defects.main_tone", "float", "Fraction of pixels in the most frequent 16 tones.", "", 0.0, 1.0),
    )
    memory: ClassVar[int] = 100 * 2**20
    cost: ClassVar[float] = 0.04

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
        return self.measure

    def measure(self, clip: ClipInput) -> dict[str, Value]:
        """Return the columns."""
        measured = [measure_frame(frame) for frame in clip.frames[0].frames]
        return {f"defects.{name}": float(np.median([frame[name] for frame in measured])) for name in measured[0]}


def measure_frame(frame: UInt8[np.ndarray, "h w 3"]) -> dict[str, float]:
    """Measure one frame. A frame without edges counts as sharp."""
    import cv2

    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    ratios = [edge_ratios(gray, axis) for axis in (0, 1)]
    medians = [float(np.median(ratio)) for ratio in ratios]
    darkest, brightest = np.percentile(gray, (5, 95)) / 255
    return {
        "edge_sharpness": min(medians),
        "sharpest_edges": min(float(np.percentile(ratio, 90)) for ratio in ratios),
        "directional_blur": abs(medians[0] - medians[1]),
        "darkest": float(darkest),
        "brightest": float(brightest),
        "repeated_pixels": repeated_pixels(gray),
        "fine_detail": fine_detail(gray),
        "combing": combing(gray),
        **detail_scales(gray),
        **tones(gray),
    }


def edge_ratios(gray: Float32[np.ndarray, "h w"], axis: int) -> Float32[np.ndarray, " edges"]:
    """Return, for each pixel on an edge across the axis, its step over 3 pixels relative to the step over 13 pixels."""
    import cv2

    def step(length: int) -> Float32[np.ndarray, "h w"]:
        kernel = np.ones((length, 1) if axis == 0 else (1, length), np.uint8)
        return cv2.dilate(gray, kernel) - cv2.erode(gray, kernel)

    wide, gradient = step(_WIDE), np.abs(np.gradient(gray, axis=axis))
    # An edge is where the gradient is the largest within the wide window.
    kernel = np.ones((_WIDE, 1) if axis == 0 else (1, _WIDE), np.uint8)
    edge = (wide > _MIN_STEP) & (gradient >= cv2.dilate(gradient, kernel) - 1e-3)
    ratios = step(_NARROW)[edge] / wide[edge]
    return ratios if len(ratios) > 20 else np.ones(1, np.float32)


def repeated_pixels(gray: Float32[np.ndarray, "h w"]) -> float:
    """Return the largest fraction, over grids of 2 to 8 pixels, of the steps at edges that lie on the grid lines.

    The fraction that lines of unenlarged pixels have by chance is subtracted. The smaller value of both axes counts.
    """
    largest = 0.0
    for spacing in range(2, 9):
        fractions = []
        for axis in (0, 1):
            steps = np.abs(np.diff(gray, axis=axis))
            total = np.where(steps > _MIN_STEP / 2, steps, 0.0).sum(1 - axis)
            on_grid = max(total[start::spacing].sum() for start in range(spacing))
            fractions.append((on_grid / max(total.sum(), 1.0) - 1 / spacing) / (1 - 1 / spacing))
        largest = max(largest, min(fractions))
    return float(min(1.0, largest))


def fine_detail(gray: Float32[np.ndarray, "h w"]) -> float:
    """Return the fraction of the 8x8 blocks with an edge whose pixels differ from the mean of their neighbors."""
    import cv2

    rows, columns = gray.shape[0] // 8 * 8, gray.shape[1] // 8 * 8
    if not rows * columns:
        return 1.0
    part = gray[:rows, :columns]

    def blocks(values: np.ndarray) -> np.ndarray:
        return values.reshape(rows // 8, 8, columns // 8, 8)

    textured = blocks(part).max((1, 3)) - blocks(part).min((1, 3)) > _MIN_STEP
    detail = np.abs(blocks(cv2.Laplacian(part, cv2.CV_32F))).mean((1, 3)) > 6.0
    return float(detail[textured].mean()) if textured.sum() > 4 else 1.0


def combing(gray: Float32[np.ndarray, "h w"]) -> float:
    """Return how much more neighboring lines differ than every second line, as log2; above 0 in interlaced frames."""
    if len(gray) < 4:
        return 0.0
    neighbors, second = (np.abs(gray[distance:] - gray[:-distance]).mean() for distance in (1, 2))
    return float(np.log2((neighbors + 0.5) / (second + 0.5)))


def detail_scales(gray: Float32[np.ndarray, "h w"]) -> dict[str, float]:
    """Return how much detail is left in textured parts and at edges. Compression removes the fine part of textures.

    Detail is the difference from a Gaussian blur of 1 pixel, its root mean square over blocks of 8x8 pixels.
    """
    import cv2

    rows, columns = gray.shape[0] // 8, gray.shape[1] // 8
    image = gray[: rows * 8, : columns * 8] if rows and columns else cv2.resize(gray, (8, 8))
    blurred = [image, *(cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (1.0, 2.0, 4.0))]
    fine, medium, coarse = (first - second for first, second in pairwise(blurred))

    def blocks(values: np.ndarray) -> np.ndarray:
        return values.reshape(image.shape[0] // 8, 8, image.shape[1] // 8, 8)

    detail = np.sqrt((blocks(fine) ** 2).mean((1, 3)))
    contrast = blocks(image).max((1, 3)) - blocks(image).min((1, 3))
    near = cv2.dilate(contrast, np.ones((3, 3), np.uint8))
    textured, strong = near > 1.5 * _MIN_STEP, contrast > 2.5 * _MIN_STEP
    weak = textured & (contrast < 1.5 * _MIN_STEP)

    def median(values: np.ndarray, default: float) -> float:
        return float(np.median(values)) if len(values) > 4 else default

    return {
        "smooth_blocks": float((detail[textured] < 1.0).mean()) if textured.sum() > 4 else 0.0,
        "texture_detail": median(detail[textured] / near[textured], 0.1),
        "edge_detail": median(detail[strong] / contrast[strong], 0.1),
        "ringing": median(detail[weak], 0.0),
        "detail_peaks": float(np.log(np.mean(fine**4) / max(1e-6, float(np.mean(fine**2)) ** 2) + 1e-6)),
        "fine_to_medium": float(np.log2((fine.std() + 0.2) / (medium.std() + 0.2))),
        "medium_to_coarse": float(np.log2((medium.std() + 0.2) / (coarse.std() + 0.2))),
    }


def tones(gray: Float32[np.ndarray, "h w"]) -> dict[str, float]:
    """Return how the brightness is distributed."""
    quartile, median = np.percentile(gray, (25, 50)) / 255
    histogram = np.bincount(gray.astype(np.uint8).ravel(), minlength=256) / gray.size
    used = histogram[histogram > 0]
    return {
        "lower_quartile": float(quartile),
        "median": float(median),
        "tones": float(max(0.0, -(used * np.log2(used)).sum())),
        "main_tone": float(min(1.0, np.convolve(histogram, np.ones(16), "valid").max())),
    }
