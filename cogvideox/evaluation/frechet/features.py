"""Features of videos for distances between sets. Results differ by extractor, so its name is in the protocol.

- random: a small spatio-temporal network with fixed random weights; it needs no files, and separates sets by color,
  texture and motion, but it is not the I3D network of published FVD numbers;
- vae:MODEL: mean and standard deviation of each latent channel of a model's VAE, over frames and positions;
- efficientnet:FILE: the mean of EfficientNet-Lite0's embeddings of up to 16 frames (ImageNet weights); no motion.

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.errors import UserError
from cogvideox.video.transform import to_model

RANDOM_WIDTHS = (16, 32, 32)
"""Channels of the random network at full, half and quarter size."""
RANDOM_SIDE = 64
"""Height and width in pixels of the random network's input."""
MAX_IMAGES = 16
VAE_FRAMES = 17
"""Maximum number of frames that the VAE encodes."""

Frames = UInt8[np.ndarray, "t h w 3"]
Extractor = Callable[[Frames], Float[Tensor, " d"]]


def check_extractor(name: str) -> dict[str, str]:
    """Return the identity of an extractor in a protocol: its name, and a hash of its weights.

    Raises:
        UserError: unknown extractor, or its file does not exist.
    """
    kind, _, argument = name.partition(":")
    if name == "random":
        return {"features": "random", "version": "1"}
    if kind == "vae" and argument:
        from cogvideox.dataset.cache_keys import weights_hash
        from cogvideox.pretrained.model_spec import read_spec, weights_file
        from cogvideox.state_dict.torch_io import open_weights

        state = open_weights(weights_file(read_spec(argument).path / "vae", "vae"))
        encoder = [tensor for tensor in state if tensor.startswith("encoder.")]
        return {"features": name, "weights": weights_hash(state, encoder, None)}
    if kind == "efficientnet" and argument:
        if not Path(argument).is_file():
            raise UserError(f"cannot read {argument}: file not found; it must be EfficientNet-Lite0's weights")
        return {"features": kind, "weights": hashlib.sha256(Path(argument).read_bytes()).hexdigest()[:16]}
    raise UserError(f"unknown features {name!r}: choose random, vae:MODEL or efficientnet:FILE")


def open_extractor(name: str) -> Extractor:
    """Load an extractor (see the top of this file)."""
    kind, _, argument = name.partition(":")
    return {"random": _random, "vae": _vae, "efficientnet": _efficientnet}[kind](argument)


def _random(_: str) -> Extractor:
    generator = torch.Generator().manual_seed(0)
    weights, in_width = [], 3
    for width in RANDOM_WIDTHS:
        weight = torch.randn(width, in_width, 3, 3, 3, generator=generator)
        weight -= 0.5 * weight.mean(dim=(2, 3, 4), keepdim=True)  # emphasizes edges and changes
        weights.append(weight * (2 / weight[0].numel()) ** 0.5)
        in_width = width

    @torch.inference_mode()
    def extract(frames: Frames) -> Float[Tensor, " d"]:
        x = F.interpolate(
            to_model(torch.from_numpy(frames)).transpose(0, 1),
            size=(RANDOM_SIDE, RANDOM_SIDE),
            mode="bilinear",
            antialias=True,
        ).transpose(0, 1)[None]
        pooled = []
        for level, weight in enumerate(weights):
            x = F.conv3d(F.avg_pool3d(x, (1, 2, 2)) if level else x, weight, padding=1)
            x = F.leaky_relu(x, 0.1)
            pooled.append(x.mean(dim=(0, 2, 3, 4)))
        return torch.cat(pooled)

    return extract


def _vae(model: str) -> Extractor:
    from cogvideox.geometry import round_down_frame_count
    from cogvideox.pretrained.components import load_network
    from cogvideox.pretrained.model_spec import read_spec

    spec = read_spec(model)
    vae, multiple = load_network(spec.path, spec.vae), spec.vae.spatial_compression_ratio

    @torch.inference_mode()
    def extract(frames: Frames) -> Float[Tensor, " d"]:
        num_frames = round_down_frame_count(min(len(frames), VAE_FRAMES))
        height, width = (side - side % multiple for side in frames.shape[1:3])
        video = to_model(torch.from_numpy(frames[:num_frames, :height, :width]))[None]
        latents = vae.encode(video).mean[0].flatten(1)
        return torch.cat([latents.mean(dim=1), latents.std(dim=1)])

    return extract


def _efficientnet(file: str) -> Extractor:
    from cogvideox.curation.signals.models.efficientnet_lite import load, prepare

    network = load(file)

    @torch.inference_mode()
    def extract(frames: Frames) -> Float[Tensor, " d"]:
        chosen = frames[np.linspace(0, len(frames) - 1, min(len(frames), MAX_IMAGES)).round().astype(int)]
        return network(prepare(torch.from_numpy(chosen)))[0].mean(dim=0)

    return extract
