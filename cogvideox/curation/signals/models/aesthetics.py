"""The aesthetic score of LAION's improved predictor: a small head on CLIP embeddings, trained on human ratings.

No package contains the two models, so they are read from the paths in the parameters. Without them, use the signal
`technical`, which measures something different.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cogvideox.curation.model_files import sha256
from cogvideox.curation.signals.base import ClipInput, Sampling
from cogvideox.curation.stage import Column, Value, missing_packages
from cogvideox.errors import UserError

_WIDTHS = (1024, 128, 64, 16, 1)
_LAYERS = (0, 2, 4, 6, 7)  # in the published state dict, with dropout but no activations between them


@dataclass(frozen=True)
class Aesthetics:
    """Predicted rating of frames. See `signals.base.Signal`.

    Attributes:
        clip: folder of CLIP ViT-L/14 in the format of transformers, with `config.json` and its image processor.
        head: path of `sac+logos+ava1-l14-linearMSE.pth`.
        num_frames: number of evenly spaced frames to rate.
    """

    name: ClassVar[str] = "aesthetics"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column("aesthetics.score", "float", "Predicted rating from 1 to 10, mean over frames.", ""),
        Column("aesthetics.embedding", "floats", "CLIP embedding, mean over frames, normalized."),
    )
    memory: ClassVar[int] = 2 * 2**30
    cost: ClassVar[float] = 1.0

    clip: str = ""
    head: str = ""
    num_frames: int = 4

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        return (Sampling(num_frames=self.num_frames, longest_side=400),)

    def missing_requirements(self) -> list[str]:
        requirements = (
            []
            if missing_packages("", "transformers") == []
            else ["transformers is not installed: pip install transformers"]
        )
        if not (self.clip and (Path(self.clip) / "config.json").is_file()):
            requirements.append("CLIP ViT-L/14 was not found: set signals.aesthetics.clip to its folder")
        if not (self.head and Path(self.head).is_file()):
            requirements.append(
                "LAION's head was not found: set signals.aesthetics.head to sac+logos+ava1-l14-linearMSE.pth"
            )
        return requirements

    def weights_hash(self) -> str:
        return sha256(Path(self.head)) + "".join(sha256(path) for path in sorted(Path(self.clip).glob("*.safetensors")))

    def open(self) -> Callable[[ClipInput], Mapping[str, Value]]:
        embed = load_clip(self.clip)
        rate = load_head(self.head)

        def measure(clip: ClipInput) -> dict[str, Value]:
            embeddings = embed(clip.frames[0].frames)
            mean = embeddings.mean(0)
            return {
                "aesthetics.score": float(rate(embeddings).mean()),
                "aesthetics.embedding": (mean / max(float(np.linalg.norm(mean)), 1e-12)).tolist(),
            }

        return measure


def load_clip(folder: str) -> Callable[[np.ndarray], np.ndarray]:
    """Load CLIP and return a function from frames (uint8, `t h w 3`) to normalized embeddings (`t d`).

    Raises:
        UserError: the folder cannot be loaded.
    """
    import torch
    import torch.nn.functional as F
    from transformers import CLIPVisionModelWithProjection

    try:
        model: Any = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True).eval()
    except Exception as problem:
        raise UserError(f"cannot load CLIP from {folder}: {problem}") from None
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    side = model.config.image_size

    def embed(frames: np.ndarray) -> np.ndarray:
        size = min(frames.shape[1:3])
        top, left = (frames.shape[1] - size) // 2, (frames.shape[2] - size) // 2
        square = torch.from_numpy(frames[:, top : top + size, left : left + size]).permute(0, 3, 1, 2).float() / 255
        resized = F.interpolate(square, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        with torch.inference_mode():
            embeddings = model(pixel_values=(resized - mean) / std).image_embeds
        return F.normalize(embeddings, dim=-1).numpy()

    return embed


def load_head(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Load the head and return a function from embeddings to ratings.

    Raises:
        UserError: the file is not LAION's head.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        layers = [
            (state[f"layers.{index}.weight"].float().numpy(), state[f"layers.{index}.bias"].float().numpy())
            for index in _LAYERS
        ]
    except Exception:
        layers = []
    if tuple(len(bias) for _, bias in layers) != _WIDTHS:
        raise UserError(f"{path} is not LAION's improved aesthetic predictor (docs/curation.md)")

    def rate(embeddings: np.ndarray) -> np.ndarray:
        for weight, bias in layers:
            embeddings = embeddings @ weight.T + bias
        return embeddings[:, 0]

    return rate
