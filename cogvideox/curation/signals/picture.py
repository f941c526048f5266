"""Technical image quality: sharpness, exposure, borders, blockiness, noise, bit rate.

No model is needed. Each value is the median over a few frames. The values also depend on the content, so they are
features of a trained filter rather than filters themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, UInt8

from cogvideox.curation.signals.base import ClipInput, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages

_UNIFORM = 6.0  # largest brightness range within a row of a border, on the 0-255 scale


@dataclass(frozen=True)
class Picture:
    """Quality of single frames. See `signals.base.Signal`.

    Attributes:
        num_frames: number of evenly spaced frames to measure.
        border_level: largest brightness of a uniform row at the edge that counts as a border, on the 0-255 scale.
    """

    name: ClassVar[str] = "picture"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column("picture.sharpness", "float", "Variance of the Laplacian relative to that of the brightness.", "", 0.0),
        Column("picture.resolution", "float", "Fraction of the variance lost when the size is halved.", "", 0.0, 1.0),
        Column("picture.brightness", "float", "Mean brightness.", "", 0.0, 1.0),
        Column("picture.contrast", "float", "Standard deviation of the brightness.", "", 0.0, 0.5),
        Column("picture.colorfulness", "float", "Colorfulness of Hasler and Suesstrunk (2003).", "", 0.0),
        Column("picture.overexposed", "float", "Fraction of nearly white pixels.", "", 0.0, 1.0),
        Column("picture.underexposed", "float", "Fraction of nearly black pixels.", "", 0.0, 1.0),
        Column("picture.borders", "float", "Fraction of the frame covered by uniform dark borders.", "", 0.0, 1.0),
        Column("picture.blockiness", "float", "Gradient at edges of 8x8 blocks relative to elsewhere, minus 1.", ""),
        Column("picture.noise", "float", "Standard deviation of the noise (Immerkaer 1996), 0-255 scale.", "", 0.0),
        Column("picture.bits_per_pixel", "float", "Bit rate divided by pixels per second.", "bit", 0.0),
    )
    memory: ClassVar[int] = 100 * 2**20
    cost: ClassVar[float] = 0.04

    num_frames: int = 5
    border_level: float = 24.0

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=None),)

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "cv2")

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        return self.measure

    def measure(self, clip: ClipInput) -> dict[str, Value]:
        """Return the columns."""
        measured = [measure_frame(frame, self.border_level) for frame in clip.frames[0].frames]
        values: dict[str, Value] = {
            f"picture.{name}": float(np.median([frame[name] for frame in measured])) for name in measured[0]
        }
        bit_rate, fps, width, height = (clip.row.get(name) or 0 for name in ("bit_rate", "fps", "width", "height"))
        pixels_per_second = fps * width * height
        values["picture.bits_per_pixel"] = bit_rate / pixels_per_second if bit_rate and pixels_per_second else None
        return values


def measure_frame(frame: UInt8[np.ndarray, "h w 3"], border_level: float) -> dict[str, float]:
    """Measure one frame. All values except `borders` exclude dark borders."""
    import cv2

    top, bottom, left, right = picture_area(frame, border_level)
    inner = np.ascontiguousarray(frame[top:bottom, left:right])
    gray = cv2.cvtColor(inner, cv2.COLOR_RGB2GRAY).astype(np.float64)
    height, width = gray.shape
    half = cv2.resize(gray, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    lost = gray - cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR)
    variance = gray.var() + 1.0
    return {
        "sharpness": float(cv2.Laplacian(gray, cv2.CV_64F).var() / variance),
        "resolution": float(min(1.0, lost.var() / variance)),
        "brightness": float(gray.mean() / 255),
        "contrast": float(gray.std() / 255),
        "colorfulness": colorfulness(inner),
        "overexposed": float((gray >= 250).mean()),
        "underexposed": float((gray <= 8).mean()),
        "borders": 1.0 - height * width / (frame.shape[0] * frame.shape[1]),
        "blockiness": blockiness(gray),
        "noise": noise_level(gray),
    }


def picture_area(frame: UInt8[np.ndarray, "h w 3"], border_level: float) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of the picture inside uniform dark borders."""
    gray = frame.max(-1)
    edges: list[int] = []
    for axis in (1, 0):
        darkest, brightest = np.quantile(gray, (0.02, 0.98), axis=axis)
        content = np.flatnonzero((brightest > border_level) | (brightest - darkest > _UNIFORM))
        edges += [int(content[0]), int(content[-1]) + 1] if len(content) else [0, gray.shape[1 - axis]]
    return edges[0], edges[1], edges[2], edges[3]


def blockiness(gray: Float64[np.ndarray, "h w"]) -> float:
    """Return the relative increase of the gradient at the edges of 8x8 blocks; 0 without visible blocks.

    A video may have been cropped, so the gradient at the best of the eight block positions is compared with the median
    over all positions.
    """
    ratios = []
    for axis in (0, 1):
        gradient = np.abs(np.diff(gray, axis=axis)).mean(axis=1 - axis)
        if len(gradient) < 16:
            return 0.0
        at_position = np.array([gradient[position::8].mean() for position in range(8)])
        ratios.append(at_position.max() / max(np.median(at_position), 0.1) - 1.0)
    return float(min(ratios))


def noise_level(gray: Float64[np.ndarray, "h w"]) -> float:
    """Return the standard deviation of the noise, after J. Immerkaer, Fast noise variance estimation (1996)."""
    import cv2

    if min(gray.shape) < 3:
        return 0.0
    kernel = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
    response = np.abs(cv2.filter2D(gray, cv2.CV_64F, kernel)[1:-1, 1:-1])
    return float(np.sqrt(np.pi / 2) * np.median(response) / 0.8453 / 6)


def colorfulness(frame: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the colorfulness of Hasler and Suesstrunk (2003): 0 for gray, about 100 for very colorful frames."""
    red, green, blue = np.moveaxis(frame.astype(np.float64), -1, 0)
    a, b = red - green, 0.5 * (red + green) - blue
    return float(np.hypot(a.std(), b.std()) + 0.3 * np.hypot(a.mean(), b.mean()))
