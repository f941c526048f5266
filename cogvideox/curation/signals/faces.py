"""Faces: how often they appear, and how large they are. A lecture shows one large face most of the time.

Frontal faces and profiles are detected by the Haar cascades (Viola and Jones 2001) that OpenCV ships.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages

_CASCADES = ("haarcascade_frontalface_default.xml", "haarcascade_profileface.xml")


@dataclass(frozen=True)
class Faces:
    """Detected faces. See `signals.base.Signal`.

    Attributes:
        fps: rate at which frames are sampled.
        longest_side: longest side of these frames, in pixels.
        min_size: height of the smallest detected face, as a fraction of the frame's height.
    """

    name: ClassVar[str] = "faces"
    version: ClassVar[int] = 3
    columns: ClassVar[tuple[Column, ...]] = (
        Column("faces.time_share", "float", "Fraction of the sampled frames with a face.", "", 0.0, 1.0),
        Column(
            "faces.area", "float", "Fraction of the frame covered by its largest face, mean over frames.", "", 0.0, 1.0
        ),
        Column("faces.num_faces", "float", "Number of faces, mean over frames.", "", 0.0),
    )
    memory: ClassVar[int] = 100 * 2**20
    cost: ClassVar[float] = 0.11

    fps: float = 1.0
    longest_side: int = 480
    min_size: float = 0.08

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(fps=self.fps, longest_side=self.longest_side),)

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "cv2")

    def weights_hash(self) -> str:
        import cv2

        return f"opencv {cv2.__version__}"  # the cascades are part of the package

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        import cv2
        from cv2 import data

        cascades = [cv2.CascadeClassifier(data.haarcascades + name) for name in _CASCADES]
        return lambda clip: self.measure(clip.frames[0], partial(detect_faces, cascades, self.min_size))

    def measure(
        self, sampled: SampledFrames, detect: Callable[[UInt8[np.ndarray, "h w 3"]], list[tuple[int, int, int, int]]]
    ) -> dict[str, Value]:
        """Return the columns; `detect` returns left, top, width and height of the faces in a frame."""
        faces = [detect(frame) for frame in sampled.frames]
        pixels = sampled.frames.shape[1] * sampled.frames.shape[2]
        largest = [max((width * height for _, _, width, height in boxes), default=0) for boxes in faces]
        return {
            "faces.time_share": float(np.mean([bool(boxes) for boxes in faces])),
            "faces.area": float(np.mean(largest) / pixels),
            "faces.num_faces": float(np.mean([len(boxes) for boxes in faces])),
        }


def detect_faces(
    cascades: list[Any], min_size: float, frame: UInt8[np.ndarray, "h w 3"]
) -> list[tuple[int, int, int, int]]:
    """Return left, top, width and height of the faces in a frame; a face found by both cascades counts once."""
    import cv2

    gray = cv2.equalizeHist(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
    side = max(20, round(min_size * frame.shape[0]))
    faces: list[tuple[int, int, int, int]] = []
    for cascade in cascades:
        for x, y, width, height in cascade.detectMultiScale(gray, 1.2, 5, minSize=(side, side)):
            if not any(_overlap((x, y, width, height), other) > 0.3 for other in faces):
                faces.append((int(x), int(y), int(width), int(height)))
    return faces


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> float:
    """Return the intersection of two boxes relative to the smaller one."""
    sides = [
        max(0, min(first[axis] + first[axis + 2], second[axis] + second[axis + 2]) - max(first[axis], second[axis]))
        for axis in (0, 1)
    ]
    return sides[0] * sides[1] / min(first[2] * first[3], second[2] * second[3])
