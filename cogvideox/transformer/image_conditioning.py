"""What latents become before the transformer sees them: whole patches of time, and an image beside the noise.

Axes, after any others: c latent channels, t h w latent frames, height and width.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def pad_image_latents(image: Float[Tensor, "*batch c 1 h w"], num_latents: int) -> Float[Tensor, "*batch c t h w"]:
    """The image's latents in the first of `num_latents` frames, and zeros in the others (paper, appendix D).

    Where frames are added in front to whole patches of time, the image stands in the first of those.
    """
    later = image.new_zeros(*image.shape[:-3], num_latents - 1, *image.shape[-2:])
    return torch.cat((image, later), dim=-3)


def repeat_first_frame(latents: Float[Tensor, "*batch c t h w"], num_missing: int) -> Float[Tensor, "*batch c _t h w"]:
    """The first frame again, so often before it, as the 1.5 models were trained (paper section 2.2)."""
    first = latents.narrow(-3, 0, 1)
    return torch.cat([first] * num_missing + [latents], dim=-3)
