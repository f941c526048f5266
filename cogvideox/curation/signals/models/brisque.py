"""BRISQUE: image quality without a reference, from statistics of natural images (Mittal et al., IEEE TIP 2012).

The 36 features are computed here. The regression and the ranges of the features are read from OpenCV's files.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from cogvideox.curation.model_files import ModelFile, sha256
from cogvideox.curation.signals.base import ClipInput, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages
from cogvideox.errors import UserError

_SOURCE = "it is in Debian's package opencv-data and in opencv_contrib (modules/quality/samples)"
_FOLDER = "usr/share/opencv4/quality"
MODEL = ModelFile(
    "brisque_model_live.yml",
    "4c44c7eec9e5139830c0bb0e4a044c9cd351ba5bbc9e3798beca3243e2782ff4",
    _SOURCE,
    archive="deb:opencv-data",
    member=f"{_FOLDER}/brisque_model_live.yml",
)
RANGE = ModelFile(
    "brisque_range_live.yml",
    "a18427f4f7ad087524bd0d63389649a3899b51ca6d44a4d5f8d8171f1f914a9c",
    _SOURCE,
    archive="deb:opencv-data",
    member=f"{_FOLDER}/brisque_range_live.yml",
)
_SHIFTS = ((0, 1), (1, 0), (1, 1), (-1, 1))


@dataclass(frozen=True)
class Brisque:
    """BRISQUE of single frames. See `signals.base.Signal`.

    Attributes:
        model, range: paths of OpenCV's `brisque_model_live.yml` and `brisque_range_live.yml`.
        num_frames: number of evenly spaced frames to measure.
        longest_side: longest side of these frames, in pixels; the model was trained on images of 480 to 768 pixels.
    """

    name: ClassVar[str] = "brisque"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "brisque.score", "float", "BRISQUE, median over frames: 0 (natural) to 100 (distorted).", "", 0.0, 100.0
        ),
    )
    memory: ClassVar[int] = 100 * 2**20
    cost: ClassVar[float] = 0.05

    model: str = ""
    range: str = ""
    num_frames: int = 5
    longest_side: int = 768

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=self.longest_side),)

    def missing_requirements(self) -> list[str]:
        files = MODEL.missing("signals.brisque.model", self.model) + RANGE.missing("signals.brisque.range", self.range)
        return missing_packages("curate", "cv2") + files

    def weights_hash(self) -> str:
        return sha256(MODEL.path(self.model)) + sha256(RANGE.path(self.range))

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        predict = load_regression(str(MODEL.path(self.model)), str(RANGE.path(self.range)))

        def measure(clip: ClipInput) -> dict[str, Value]:
            scores = [score for frame in clip.frames[0].frames if (score := predict(features(frame))) is not None]
            return {"brisque.score": float(np.median(scores)) if scores else None}

        return measure


def load_regression(model: str, ranges: str) -> Callable[[Float64[np.ndarray, " 36"]], float | None]:
    """Load OpenCV's files and return a function from features to the score; None if features are not finite.

    Raises:
        UserError: the files are not OpenCV's.
    """
    import cv2

    machine_learning: Any = cv2.ml  # it has no type stubs
    try:
        regression = machine_learning.SVM_load(model)
        storage = cv2.FileStorage(ranges, cv2.FILE_STORAGE_READ)  # keeps the nodes valid
        low, high = storage.getNode("range").mat()
        valid = regression.getVarCount() == len(low) == 36
    except (cv2.error, SystemError, TypeError, ValueError):
        valid = False
    if not valid:
        raise UserError(f"{model} and {ranges} are not OpenCV's model of BRISQUE and the ranges of its features")

    def predict(values: Float64[np.ndarray, " 36"]) -> float | None:
        if not np.isfinite(values).all():
            return None  # a frame with a single color
        scaled = (2.0 * (values - low) / (high - low) - 1.0).astype(np.float32)
        return float(np.clip(regression.predict(scaled[None])[1][0, 0], 0.0, 100.0))

    return predict


def features(frame: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, " 36"]:
    """Return the 36 features of the paper, section III: 18 at full size, then 18 at half size."""
    import cv2

    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0
    values: list[float] = []
    for scale in (1, 2):
        size = (max(1, gray.shape[1] // scale), max(1, gray.shape[0] // scale))
        normalized = normalize(cv2.resize(gray, size, interpolation=cv2.INTER_CUBIC))
        shape, left, right = fit_asymmetric_gaussian(normalized)
        values += [shape, (left**2 + right**2) / 2]
        for shift in _SHIFTS:
            shape, left, right = fit_asymmetric_gaussian(normalized * _shift(normalized, *shift))
            ratio = math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
            mean = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape) * ratio
            values += [shape, mean, left**2, right**2]
    return np.array(values)


def normalize(gray: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Subtract the local mean and divide by the local standard deviation (equation 1)."""
    import cv2

    def blur(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (7, 7), 7 / 6, borderType=cv2.BORDER_REPLICATE)

    mean = blur(gray)
    variance = np.abs(blur(gray * gray) - mean * mean)  # rounding may make it negative
    return (gray - mean) / (np.sqrt(variance) + 1 / 255)


def fit_asymmetric_gaussian(values: np.ndarray) -> tuple[float, float, float]:
    """Fit an asymmetric generalized Gaussian by its moments (equations 7 to 10).

    Returns:
        The shape and the standard deviations of the negative and positive values; NaN if all have the same sign.
    """
    flat = values.ravel().astype(np.float64)
    negative, positive = flat[flat < 0], flat[flat > 0]
    if not len(negative) or not len(positive):
        return 10.0, math.nan, math.nan
    left, right = math.sqrt((negative**2).mean()), math.sqrt((positive**2).mean())
    ratio = left / right
    moment = np.abs(flat).mean() ** 2 / (flat**2).mean()
    target = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, moments = _moment_table()
    return float(shapes[np.abs(moments - target).argmin()]), left, right


@lru_cache(maxsize=1)
def _moment_table() -> tuple[np.ndarray, np.ndarray]:
    shapes = np.arange(0.2, 10.0, 0.001)
    gamma = np.vectorize(math.gamma)
    return shapes, gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))


def _shift(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Shift an image up and to the left by this many pixels, and fill with zeros."""
    height, width = image.shape
    shifted = np.zeros_like(image)
    target = (slice(max(0, -rows), height - max(0, rows)), slice(0, width - columns))
    shifted[target] = image[max(0, rows) : height + min(0, rows), columns:]
    return shifted
