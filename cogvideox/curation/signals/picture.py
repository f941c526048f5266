"""Technical quality of the picture: sharpness, exposure, borders, blockiness, noise, bit rate.

No weights; each value is the median over a few frames. Values depend on the content, too, so they are features for a
trained filter rather than filters of their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, UInt8

from cogvideox.curation.signals.base import ClipInput, Sampling, missing_packages
from cogvideox.curation.stage import Column, Value

_UNIFORM = 6.0  # largest range of brightness in a row of a border, of 255


@dataclass(frozen=True)
class Picture:
    """Quality of single frames. See `signals.base.Signal`.

    Attributes:
        num_frames: evenly spaced frames that are measured.
        border_level: brightness up to which a row at the edge counts as border if it is uniform, of 255.
    """

    name: ClassVar[str] = "picture"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column("picture.sharpness", "float", "Variance of the Laplacian over the variance of the brightness.", "", 0.0),
        Column("picture.resolution", "float", "Share of the variance that halving the size removes.", "", 0.0, 1.0),
        Column("picture.brightness", "float", "Mean brightness.", "", 0.0, 1.0),
        Column("picture.contrast", "float", "Standard deviation of the brightness.", "", 0.0, 0.5),
        Column("picture.colorfulness", "float", "Colorfulness of Hasler and Suesstrunk (2003).", "", 0.0),
        Column("picture.overexposed", "float", "Share of pixels that are nearly white.", "", 0.0, 1.0),
        Column("picture.underexposed", "float", "Share of pixels that are nearly black.", "", 0.0, 1.0),
        Column("picture.borders", "float", "Share of the frame that uniform dark borders cover.", "", 0.0, 1.0),
        Column("picture.blockiness", "float", "Gradient at edges of 8x8 blocks over that elsewhere, minus 1.", ""),
        Column("picture.noise", "float", "Standard deviation of the noise (Immerkaer 1996), of 255.", "", 0.0),
        Column("picture.bits_per_pixel", "float", "Bit rate over pixels per second.", "bit", 0.0),
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
    """Measure one frame. The borders are left out of everything but their own share."""
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
    """Return how much larger gradients are at the edges of 8x8 blocks than elsewhere: 0 if not at all.

    The largest of the eight possible positions of the blocks counts, less the median over all positions, since a video
    may have been cropped.
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
