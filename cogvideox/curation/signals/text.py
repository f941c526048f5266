"""Text in the picture: how much of it there is, and whether it lies over the picture or belongs to the scene.

Text that stays at its place while the camera moves is an overlay: a title, subtitle or watermark. Text that moves with
its surroundings belongs to the scene, and is kept for captions. With a still camera, position does not tell them
apart, so such text has a column of its own. Text is detected and read by PP-OCR (package `rapidocr`, offline).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling, missing_packages
from cogvideox.curation.stage import Column, Value

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""

Kind = Literal["overlay", "scene", "still"]

_MOVED = 1.5  # pixels
_JUMP = 12.0  # pixels
_MIN_MATCH, _MIN_CLEAR_MATCH = 0.6, 0.85  # correlations from which a patch is found again, and without doubt
_SHORT_LINE, _MIN_SHORT_SCORE = 2, 0.9  # textures are often read as one or two characters
_PATCH = 48  # pixels


@dataclass(frozen=True)
class Text:
    """Detected text and what it moves with. See `signals.base.Signal`.

    Attributes:
        num_frames: evenly spaced frames in which text is detected.
        longest_side: of these frames, in pixels.
        min_score: confidence from which detected text counts.
        step: seconds after which a box is looked up again to see whether it moved.
    """

    name: ClassVar[str] = "text"
    version: ClassVar[int] = 2
    columns: ClassVar[tuple[Column, ...]] = (
        Column("text.area", "float", "Share of the frame that text covers, mean over frames.", "", 0.0, 1.0),
        Column("text.overlay_area", "float", "Share covered by text that stays while the camera moves.", "", 0.0, 1.0),
        Column("text.scene_area", "float", "Share covered by text that moves with the scene.", "", 0.0, 1.0),
        Column("text.still_area", "float", "Share covered by text while the camera is still.", "", 0.0, 1.0),
        Column("text.num_boxes", "float", "Number of lines of text, mean over frames.", "", 0.0),
        Column("text.content", "str", "Lines of text that were read, each once, separated by line feeds."),
    )
    memory: ClassVar[int] = 500 * 2**20
    cost: ClassVar[float] = 0.54

    num_frames: int = 4
    longest_side: int = 640
    min_score: float = 0.6
    step: float = 0.25

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(fps=1.0 / self.step, longest_side=self.longest_side),)

    def missing_requirements(self) -> list[str]:
        return missing_packages("curate", "cv2", "rapidocr", "onnxruntime")

    def weights_hash(self) -> str:
        from importlib.metadata import version

        return f"rapidocr {version('rapidocr')}"  # the package contains its weights

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        read = load_reader(self.min_score)
        return lambda clip: self.measure(clip.frames[0], read)

    def measure(
        self, sampled: SampledFrames, read: Callable[[UInt8[np.ndarray, "h w 3"]], list[tuple[Box, str]]]
    ) -> dict[str, Value]:
        """Return the columns.

        Args:
            read: returns the box and the content of each line of text in a frame.
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
                of_kind = [box for box, its_kind in zip(boxes, kinds, strict=True) if its_kind == kind]
                values.append(float(cover(of_kind, frame.shape[:2]).mean()))
            total.append(float(cover(boxes, frame.shape[:2]).mean()))
            counts.append(len(boxes))
            content += [line for _, line in lines if line not in content]
        values = {f"text.{kind}_area": float(np.mean(areas[kind])) for kind in areas}
        values |= {"text.area": float(np.mean(total)), "text.num_boxes": float(np.mean(counts))}
        return {**values, "text.content": "\n".join(content) or None}


def load_reader(min_score: float) -> Callable[[UInt8[np.ndarray, "h w 3"]], list[tuple[Box, str]]]:
    """Load PP-OCR and return a function that reads the lines of text in a frame."""
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    parameters = {
        "Global.log_level": "error",
        "Global.use_cls": False,
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
    """Tell overlays, text of the scene and text under a still camera apart.

    Args:
        others: frames shortly before or after, nearest first, in which the boxes and the background are looked up.
    """
    text = cover(boxes, frame.shape[:2])
    distances = [background_motion(frame, other, text) for other in others]
    if any(len(each) and np.median(each) <= _MOVED for each in distances):
        # A background that is still does not jump far within a second: the whole picture was replaced.
        distances = [each[each < _JUMP] for each in distances]
    moves = [bool(len(each) and np.median(each) > _MOVED) for each in distances]
    return [_classify_box(frame, list(zip(others, moves)), box) for box in boxes]


def _classify_box(frame: UInt8[np.ndarray, "h w 3"], others: list[tuple[np.ndarray, bool]], box: Box) -> Kind:
    """Classify a box; each of the other frames comes with whether the camera moved in between."""
    clear = [displacement(frame, other, box, _MIN_CLEAR_MATCH) for other, _ in others]
    if any(distance is not None and distance > _MOVED for distance in clear):
        return "scene"
    moving = [displacement(frame, other, box) for other, camera_moves in others if camera_moves]
    if any(distance is not None and distance <= _MOVED for distance in moving):
        return "overlay"
    return "scene" if moving else "still"


def background_motion(
    frame: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"], text: Bool[np.ndarray, "h w"]
) -> Float64[np.ndarray, " patches"]:
    """Return how far each patch of background that is found again moved, in pixels."""
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
    """Return how far the content of a box moved, in pixels; None if nothing near its position matches it."""
    import cv2

    left, top, right, bottom = box
    reach = max(frame.shape) // 12
    x, y = max(0, left - reach), max(0, top - reach)
    search = later[y : bottom + reach, x : right + reach]
    scores = cv2.matchTemplate(search, np.ascontiguousarray(frame[top:bottom, left:right]), cv2.TM_CCOEFF_NORMED)
    _, best, _, (column, row) = cv2.minMaxLoc(scores)
    at_place = scores[top - y, left - x]
    if best < min_match:
        return None
    return 0.0 if at_place > best - 0.02 else float(np.hypot(x + column - left, y + row - top))


def cover(boxes: list[Box], size: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """Mark the pixels of a frame of this height and width that are in one of the boxes."""
    covered = np.zeros(size, bool)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] = True
    return covered


def _bounds(corners: np.ndarray, frame: UInt8[np.ndarray, "h w 3"]) -> Box:
    height, width = frame.shape[:2]
    (left, top), (right, bottom) = np.floor(np.min(corners, 0)), np.ceil(np.max(corners, 0))
    return max(0, int(left)), max(0, int(top)), min(width, int(right) + 1), min(height, int(bottom) + 1)
