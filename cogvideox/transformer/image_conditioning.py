"""Image conditioning of image-to-video models: noise on the image and padding of its latents (paper, appendix D).

Axes, after any others: c latent channels, t h w latent frames, height and width.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# Mean and standard deviation of the logarithm of the noise scale, from the official code.
IMAGE_NOISE_LOG_MEAN, IMAGE_NOISE_LOG_STD = -3.0, 0.5


def add_image_noise(image: Float[Tensor, "3 1 h w"], num_copies: int, key: str) -> Float[Tensor, "num_copies 3 1 h w"]:
    """Return noisy copies of a conditioning image in -1..1, for training (paper, appendix D).

    The noise is Gaussian, with a log-normal scale per copy. It keeps the model from copying the image into every frame.

    Args:
        key: random seed as a hexadecimal string.
    """
    generator = torch.Generator().manual_seed(int(key[:8], 16))  # torch uses only 32 bits of the seed
    scale = (IMAGE_NOISE_LOG_MEAN + IMAGE_NOISE_LOG_STD * torch.randn(num_copies, generator=generator)).exp()
    return image + scale[:, None, None, None, None] * torch.randn(num_copies, *image.shape, generator=generator)


def pad_image_latents(image: Float[Tensor, "*batch c 1 h w"], num_latents: int) -> Float[Tensor, "*batch c t h w"]:
    """Return `num_latents` latent frames: the image latents, then zeros (paper, appendix D).

    With temporal padding (`temporal_padding`), the image is the first padding frame.
    """
    later = image.new_zeros(*image.shape[:-3], num_latents - 1, *image.shape[-2:])
    return torch.cat((image, later), dim=-3)
