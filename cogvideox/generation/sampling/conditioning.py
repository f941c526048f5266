"""Conditioning: latents of input images and videos.

Axes: z latent channels, lt lh lw latent frames, height and width; t h w frames, height and width in pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.generation.request.inputs import Inputs
from cogvideox.generation.request.request import ImageLatentScale, Request
from cogvideox.pretrained.offload.vae_cost import UNSLICED, VAESlicing
from cogvideox.vae.latent_scaling import scale_latents
from cogvideox.vae.model import CausalVAE
from cogvideox.video.transform import resize, to_model

Frames = UInt8[np.ndarray, "t h w 3"]
Latents = Float[Tensor, "1 z lt lh lw"]


@dataclass(frozen=True)
class Conditioning:
    """Latents that condition a clip, at the transformer's scale. Latents that the task does not use are None.

    Attributes:
        image: [1 z 1 lh lw], the first frame, for an image-to-video model.
        start: all frames of the input video, to be noised or inverted.
        known: the first frames of the clip, if it extends a video.
    """

    image: Float[Tensor, "1 z 1 lh lw"] | None = None
    start: Latents | None = None
    known: Float[Tensor, "1 z known lh lw"] | None = None


def resize_inputs(inputs: Inputs, request: Request) -> Inputs:
    """Resize the inputs to the request's height and width, according to its `fit`."""
    return Inputs(
        image=None if inputs.image is None else _resize(inputs.image[None], request)[0],
        video=None if inputs.video is None else _resize(inputs.video, request),
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
    slicing: VAESlicing = UNSLICED,
) -> Latents:
    """Encode 4k+1 frames and sample the posterior; returns float32 latents multiplied by `scale`."""
    video = to_model(torch.from_numpy(frames)).to(device=device, dtype=dtype)
    posterior = vae.encode(video[None], strips=slicing.strips, offload=slicing.offload)
    return scale_latents(posterior.sample(generator).float(), scale)


def image_scale(vae: CausalVAE, choice: ImageLatentScale | None) -> float:
    """Return the scale of image latents (`ImageLatentScale`)."""
    if choice == "diffusers" and vae.config.invert_scale_latents:
        return 1 / vae.config.scaling_factor
    return vae.config.image_scaling_factor


def _resize(frames: Frames, request: Request) -> UInt8[np.ndarray, "t new_h new_w 3"]:
    copy = torch.from_numpy(np.array(frames))  # torch supports neither read-only arrays nor negative strides
    return resize(copy, request.height, request.width, request.fit or "cover").numpy()
