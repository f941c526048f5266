"""Padding of an odd number of latent frames, for the 1.5 models, whose patches cover two latent frames.

The number of padding frames is `geometry.num_padding_latents`. They come first and are dropped from the output.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def prepend_padding(latents: Float[Tensor, "*batch c t h w"], num_padding: int) -> Float[Tensor, "*batch c _t h w"]:
    """Repeat the first latent frame `num_padding` times in front, as in training of the 1.5 models (paper section 2.2).

    Axes, after any others: c latent channels, t h w latent frames, height and width.
    """
    first = latents.narrow(-3, 0, 1)
    return torch.cat([first] * num_padding + [latents], dim=-3)


def drop_padding(latents: Float[Tensor, "*batch c _t h w"], num_padding: int) -> Float[Tensor, "*batch c t h w"]:
    """Undo `prepend_padding`."""
    return latents[..., num_padding:, :, :]
