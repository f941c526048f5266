"""Inputs of image-to-video models: padding of image latents and of frames (paper section 2.2, appendix D).

Axes, after any others: c latent channels, t h w latent frames, height and width.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def pad_image_latents(image: Float[Tensor, "*batch c 1 h w"], num_latents: int) -> Float[Tensor, "*batch c t h w"]:
    """Image latents as the first of `num_latents` frames, followed by zeros (paper, appendix D).

    If frames are padded to whole temporal patches (`repeat_first_frame`), the image is the first of the padded ones.
    """
    later = image.new_zeros(*image.shape[:-3], num_latents - 1, *image.shape[-2:])
    return torch.cat((image, later), dim=-3)


def repeat_first_frame(latents: Float[Tensor, "*batch c t h w"], num_missing: int) -> Float[Tensor, "*batch c _t h w"]:
    """Repeat the first frame `num_missing` times in front, as in training of the 1.5 models (paper section 2.2)."""
    first = latents.narrow(-3, 0, 1)
    return torch.cat([first] * num_missing + [latents], dim=-3)
