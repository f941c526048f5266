"""Pictures and clips as latents: what a video is made from beside its prompt.

Axes: z latent channels, lt lh lw latent frames, height and width; t h w frames, height and width in pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.generation.request.inputs import Inputs
from cogvideox.generation.request.request import ImageLatentScale, Request
from cogvideox.pretrained.offload.vae_cost import UNSLICED, VAEMemoryMode
from cogvideox.vae.model import CausalVAE
from cogvideox.video.transform import resize, to_model

Frames = UInt8[np.ndarray, "t h w 3"]
Latents = Float[Tensor, "1 z lt lh lw"]


@dataclass(frozen=True)
class Given:
    """Latents at the transformer's scale, each None where the task has none of it.

    image: [1 z 1 lh lw], for the first frame of an image model.
    start: all frames, to which noise is added, or which are inverted.
    known: the first frames, which stay what they are.
    """

    image: Float[Tensor, "1 z 1 lh lw"] | None = None
    start: Latents | None = None
    known: Float[Tensor, "1 z known lh lw"] | None = None


def in_size(inputs: Inputs, request: Request) -> Inputs:
    """The inputs in the size of the request, filled as its `fit` says."""

    def fitted(frames: Frames) -> UInt8[np.ndarray, "t new_h new_w 3"]:
        own = torch.from_numpy(np.array(frames))  # a copy: what is given may be read-only, or run backwards
        return resize(own, request.height, request.width, request.fit or "cover").numpy()

    return Inputs(
        image=None if inputs.image is None else fitted(inputs.image[None])[0],
        video=None if inputs.video is None else fitted(inputs.video),
        image_source=inputs.image_source,
        video_source=inputs.video_source,
    )


def encode(
    vae: CausalVAE,
    frames: Frames,
    generator: torch.Generator,
    *,
    scale: float,
    device: torch.device,
    dtype: torch.dtype,
    how: VAEMemoryMode = UNSLICED,
) -> Latents:
    """A sample of the posterior of 4k+1 frames, times `scale`, in float32."""
    video = to_model(torch.from_numpy(frames)).to(device=device, dtype=dtype)
    return vae.encode(video[None], strips=how.strips, offload=how.offload).sample(generator).float() * scale


def image_scale(vae: CausalVAE, choice: ImageLatentScale | None) -> float:
    """What the latents of an image are multiplied by: as all latents, but for models that say otherwise."""
    if choice == "diffusers" and vae.config.invert_scale_latents:
        return 1 / vae.config.scaling_factor
    return vae.config.image_scaling_factor
