"""Amount of text in the frame, classified as an overlay or part of the scene.

Text that keeps its position while the camera moves is an overlay: a title, subtitle or watermark. Text that moves with
its surroundings is part of the scene, and useful for captions. Under a static camera, position does not distinguish
overlays from scene text, so text under a static camera has its own column. Text is detected and recognized by PP-OCR,
whose models are included in the package `rapidocr`.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""

Kind = Literal["overlay", "scene", "still"]

_MOVED = 1.5  # pixels
_JUMP = 12.0  # pixels
_MIN_MATCH, _MIN_CLEAR_MATCH = 0.6, 0.85  # correlation of a match, and of a reliable match
_SHORT_LINE, _MIN_SHORT_SCORE = 2, 0.9  # textures are often read as one or two characters
_PATCH = 48  # pixels


@dataclass(frozen=True)
class Text:
    """Area of detected text, split by whether the text moves with the scene. See `signals.base.Signal`.

    Attributes:
        num_frames: number of evenly spaced frames used for text detection.
        longest_side: longest side of these frames, in pixels.
        detection_side: smaller frames are enlarged for detection until their shorter side has this many pixels.
        min_score: minimum confidence of a line of text.
        step: interval in seconds between the frames that are compared to detect motion.
    """

    name: ClassVar[str] = "text"
    version: ClassVar[int] = 3
    columns: ClassVar[tuple[Column, ...]] = (
        Column("text.area", "float", "Fraction of the frame covered by text, mean over frames.", "", 0.0, 1.0),
        Column(
            "text.overlay_area",
            "float",
            "Fraction covered by text that stays in place while the camera moves.",
            "",
            0.0,
            1.0,
        ),
        Column("text.scene_area", "float", "Fraction covered by text that moves with the scene.", "", 0.0, 1.0),
        Column("text.still_area", "float", "Fraction covered by text while the camera is still.", "", 0.0, 1.0),
        Column("text.num_boxes", "float", "Number of lines of text, mean over frames.", "", 0.0),
        Column("text.content", "str", "Recognized lines of text without repetitions, separated by line feeds."),
    )
    memory: ClassVar[int] = 500 * 2**20
    cost: ClassVar[float] = 0.1

    num_frames: int = 4
    longest_side: int = 640
    detection_side: int = 384
    min_score: float = 0.6
    step: float = 0.25

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(fps=1.0 / self.step, longest_side=self.longest_side),)

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "cv2", "rapidocr", "onnxruntime")

    def weights_hash(self) -> str:
        from importlib.metadata import version

        return f"rapidocr {version('rapidocr')}"  # the package contains the models

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        read = load_reader(self.min_score, self.detection_side)
        return lambda clip: self.measure(clip.frames[0], read)

    def measure(
        self, sampled: SampledFrames, read: Callable[[UInt8[np.ndarray, "h w 3"]], list[tuple[Box, str]]]
    ) -> dict[str, Value]:
        """Return the value of each column for a clip.

        Args:
            read: function that returns the box and the content of each line of text in a frame.
        """
        frames = sampled.frames
        later = max(1, round(1.0 / self.step))
        chosen = np.unique(np.linspace(0, max(0, len(frames) - 1 - later), self.num_frames).round().astype(int))
        areas: dict[Kind, list[float]] = {"overlay": [], "scene": [], "still": []}
        total, counts, content = [], [], []
        for index in chosen:
            frame = frames[index]
            lines = read(frame)
            boxes = [box for box, _ in lines]
            others = [frames[step] for step in (index + 1, index - 1, index + later) if 0 <= step < len(frames)]
            kinds = classify_boxes(frame, others, boxes)
            for kind, values in areas.items():
                matching = [box for box, box_kind in zip(boxes, kinds, strict=True) if box_kind == kind]
                values.append(float(cover(matching, frame.shape[:2]).mean()))
            total.append(float(cover(boxes, frame.shape[:2]).mean()))
            counts.append(len(boxes))
            content += [line for _, line in lines if line not in content]
        values = {f"text.{kind}_area": float(np.mean(areas[kind])) for kind in areas}
        values |= {"text.area": float(np.mean(total)), "text.num_boxes": float(np.mean(counts))}
        return {**values, "text.content": "\n".join(content) or None}


def load_reader(min_score: float, detection_side: int) -> Callable[[UInt8[np.ndarray, "h w 3"]], list[tuple[Box, str]]]:
    """Load PP-OCR and return a function that recognizes the lines of text in a frame."""
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    parameters = {
        "Global.log_level": "error",
        "Global.use_cls": False,
        "Det.limit_type": "min",
        "Det.limit_side_len": detection_side,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    }
    engine: Any = RapidOCR(params=parameters)

    def read(frame: UInt8[np.ndarray, "h w 3"]) -> list[tuple[Box, str]]:
        result = engine(np.ascontiguousarray(frame[..., ::-1]), use_det=True, use_cls=False, use_rec=True)
        if result.boxes is None:
            return []
        lines = zip(result.boxes, result.txts, result.scores, strict=True)
        return [
            (_bounds(corners, frame), content)
            for corners, content, score in lines
            if score >= (max(min_score, _MIN_SHORT_SCORE) if len(content) <= _SHORT_LINE else min_score)
        ]

    return read


def classify_boxes(
    frame: UInt8[np.ndarray, "h w 3"], others: list[UInt8[np.ndarray, "h w 3"]], boxes: list[Box]
) -> list[Kind]:
    """Classify boxes of text as overlay, scene text, or text under a static camera.

    Args:
        others: nearby frames in which to look for the boxes and the background.
    """
    if not boxes:  # most clips have no text, and matching the background is expensive
        return []
    text = cover(boxes, frame.shape[:2])
    distances = [background_motion(frame, other, text) for other in others]
    if any(len(values) and np.median(values) <= _MOVED for values in distances):
        # A static background does not jump far within a second; such a jump means that the picture was replaced.
        distances = [values[values < _JUMP] for values in distances]
    camera_moved = [bool(len(values) and np.median(values) > _MOVED) for values in distances]
    return [_classify_box(frame, list(zip(others, camera_moved)), box) for box in boxes]


def _classify_box(frame: UInt8[np.ndarray, "h w 3"], others: list[tuple[np.ndarray, bool]], box: Box) -> Kind:
    """Classify a box of text.

    Args:
        others: (frame, camera_moved) pairs.
    """
    clear = [displacement(frame, other, box, _MIN_CLEAR_MATCH) for other, _ in others]
    if any(distance is not None and distance > _MOVED for distance in clear):
        return "scene"
    moving = [displacement(frame, other, box) for other, camera_moved in others if camera_moved]
    if any(distance is not None and distance <= _MOVED for distance in moving):
        return "overlay"
    return "scene" if moving else "still"


def background_motion(
    frame: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"], text: Bool[np.ndarray, "h w"]
) -> Float64[np.ndarray, " patches"]:
    """Return the displacement in pixels of each background patch with a match."""
    distances = []
    height, width = text.shape
    for top in range(0, height - _PATCH + 1, _PATCH):
        for left in range(0, width - _PATCH + 1, _PATCH):
            part = (slice(top, top + _PATCH), slice(left, left + _PATCH))
            if text[part].any() or frame[part].std(axis=(0, 1)).max() < 6:
                continue
            distance = displacement(frame, other, (left, top, left + _PATCH, top + _PATCH))
            if distance is not None:
                distances.append(distance)
    return np.array(distances, np.float64)


def displacement(
    frame: UInt8[np.ndarray, "h w 3"], later: UInt8[np.ndarray, "h w 3"], box: Box, min_match: float = _MIN_MATCH
) -> float | None:
    """Return the displacement of a box's content in pixels; None if there is no match nearby."""
    import cv2

    left, top, right, bottom = box
    reach = max(frame.shape) // 12
    x, y = max(0, left - reach), max(0, top - reach)
    search = later[y : bottom + reach, x : right + reach]
    scores = cv2.matchTemplate(search, np.ascontiguousarray(frame[top:bottom, left:right]), cv2.TM_CCOEFF_NORMED)
    _, best, _, (column, row) = cv2.minMaxLoc(scores)
    in_place = scores[top - y, left - x]
    if best < min_match:
        return None
    return 0.0 if in_place > best - 0.02 else float(np.hypot(x + column - left, y + row - top))


def cover(boxes: list[Box], size: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """Return a mask of the given height and width that marks the pixels inside any box."""
    covered = np.zeros(size, bool)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] = True
    return covered


def _bounds(corners: np.ndarray, frame: UInt8[np.ndarray, "h w 3"]) -> Box:
    height, width = frame.shape[:2]
    (left, top), (right, bottom) = np.floor(np.min(corners, 0)), np.ceil(np.max(corners, 0))
    return max(0, int(left)), max(0, int(top)), min(width, int(right) + 1), min(height, int(bottom) + 1)
