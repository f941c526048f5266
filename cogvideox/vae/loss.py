"""The VAE's loss on pixels and latents: reconstruction and KL (paper section 2.1).

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.vae.config import LossWeights
from cogvideox.vae.posterior import Posterior

Pixels = Float[Tensor, "b c t h w"]


def vae_loss(
    reconstruction: Pixels, target: Pixels, posterior: Posterior, weights: LossWeights
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The weighted sum, and its terms unweighted: `l1`, `l2` (means over pixels) and `kl` (mean over latent elements).

    The paper's versions disagree on L1 or L2; both are here.
    """
    error = reconstruction - target
    terms = {
        "l1": error.abs().mean(),
        "l2": error.square().mean(),
        "kl": posterior.kl().mean() / math.prod(posterior.mean.shape[1:]),
    }
    total = sum((getattr(weights, name) * term for name, term in terms.items()), error.new_zeros(()))
    return total, terms


def psnr(reconstruction: Pixels, target: Pixels) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each clip in dB, for pixels in [-1, 1] (a peak-to-peak range of 2)."""
    mse = (reconstruction.clamp(-1, 1) - target).square().flatten(1).mean(1)
    return 10.0 * torch.log10(4.0 / mse.clamp_min(1e-12))
