"""Scaling of latents between the VAE and the transformer.

The factor is `VAEConfig.scaling_factor`, or `VAEConfig.image_scaling_factor` for the latents of a conditioning image.
"""

from torch import Tensor


def scale_latents(latents: Tensor, factor: float) -> Tensor:
    """Convert latents from the VAE's scale to the transformer's."""
    return latents * factor


def unscale_latents(latents: Tensor, factor: float) -> Tensor:
    """Convert latents from the transformer's scale to the VAE's."""
    return latents / factor
