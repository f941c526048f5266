"""Perceptual hashes (pHash), which are robust to resizing, re-encoding and small changes of brightness.

Each bit says whether one of the 8x8 lowest frequencies of the cosine transform of the 32x32 grayscale image is above
their median.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from cogvideox.curation.signals.base import ClipInput, Sampling
from cogvideox.curation.stage import Column, Value

_SIZE, _NUM_FREQUENCIES = 32, 8  # per axis
_COSINES = np.cos(np.pi / _SIZE * (np.arange(_SIZE) + 0.5) * np.arange(1, _NUM_FREQUENCIES + 1)[:, None])  # no DC term
_EPSILON = 1.0  # about the effect of one cell of 32x32 that differs by one level on the 0-255 scale


@dataclass(frozen=True)
class PerceptualHash:
    """Hashes of frames evenly spaced over the clip. See `signals.base.Signal`.

    Attributes:
        num_frames: number of frames to hash.
    """

    name: ClassVar[str] = "phash"
    version: ClassVar[int] = 2
    columns: ClassVar[tuple[Column, ...]] = (
        Column("phash.frames", "str", "Perceptual hashes of evenly spaced frames, 16 hexadecimal digits each."),
    )
    memory: ClassVar[int] = 0
    cost: ClassVar[float] = 0.0005

    num_frames: int = 4

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=64),)

    def missing_requirements(self) -> list[str]:
        return []

    def weights_hash(self) -> str:
        return ""

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        return lambda clip: {"phash.frames": "".join(f"{hash_frame(frame):016x}" for frame in clip.frames[0].frames)}


def hash_frame(frame: UInt8[np.ndarray, "h w 3"]) -> int:
    """Return the 64-bit perceptual hash of a frame; 0 if it has a single color or varies along one axis only."""
    gray = _resize(frame @ np.array([0.299, 0.587, 0.114]))
    coefficients = (_COSINES @ gray @ _COSINES.T).ravel()
    coefficients[np.abs(coefficients) < _EPSILON] = 0.0
    bits = coefficients > np.median(coefficients)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _resize(image: np.ndarray) -> np.ndarray:
    """Average an image over 32x32 cells of equal size, which need not be aligned with pixels."""
    for axis in (0, 1):
        edges = np.linspace(0, image.shape[axis], _SIZE + 1)
        sums = np.concatenate([np.zeros_like(image.take([0], axis)), image.cumsum(axis)], axis)
        lower, weight = np.floor(edges).astype(int), edges % 1
        upper = np.minimum(lower + 1, image.shape[axis])
        weight = weight[:, None] if axis == 0 else weight[None, :]
        at_edges = sums.take(lower, axis) * (1 - weight) + sums.take(upper, axis) * weight
        image = np.diff(at_edges, axis=axis)
    return image
