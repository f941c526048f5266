"""The VAE's loss without the adversarial term: L1, L2, perceptual and KL (paper section 2.1).

Axes: b batch, c channels, t frames, h w height and width, n selected frames; pixels in [-1, 1].
"""

import math
from typing import NamedTuple

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.vae.config import LossWeights
from cogvideox.vae.losses.perceptual import PerceptualLoss
from cogvideox.vae.posterior import Posterior

Pixels = Float[Tensor, "b c t h w"]
Images = Float[Tensor, "_n c h w"]


class RankShares(NamedTuple):
    """Weights that turn this rank's means into means over all ranks: number of ranks * local elements / all elements.

    All are 1 in a single process.
    """

    pixels: float = 1.0
    latents: float = 1.0
    frames: float = 1.0


def vae_loss(
    reconstruction: Pixels,
    target: Pixels,
    posterior: Posterior,
    weights: LossWeights,
    perceptual: PerceptualLoss | None = None,
    frames: Int[Tensor, "n 2"] | None = None,
    shares: RankShares = RankShares(),  # noqa: B008 - immutable
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Return the weighted loss and its unweighted terms.

    The terms are `l1` and `l2` (means over pixels), `kl` (mean over latent elements), and the perceptual term under its
    own name. Versions of the paper disagree on L1 or L2, so both are available.

    Args:
        perceptual: the distance of the perceptual term; None omits the term.
        frames: (clip, frame) indices of the frames in the perceptual term; None for all frames.
        shares: weights of this rank's means, see `RankShares`.
    """
    error = reconstruction - target
    terms = {
        "l1": shares.pixels * error.abs().mean(),
        "l2": shares.pixels * error.square().mean(),
        "kl": shares.latents * posterior.kl().mean() / math.prod(posterior.mean.shape[1:]),
    }
    total = sum((getattr(weights, name) * term for name, term in terms.items()), error.new_zeros(()))
    if perceptual is not None:
        term = error.new_zeros(())
        if frames is None or len(frames):
            reconstructed, original = (select_frames(video, frames) for video in (reconstruction, target))
            term = shares.frames * perceptual.distance(reconstructed, original).mean()
        terms[perceptual.name] = term
        total = total + weights.perceptual * term
    return total, terms


def select_frames(video: Pixels, frames: Int[Tensor, "n 2"] | None) -> Images:
    """Return the frames with these (clip, frame) indices, or all frames of all clips."""
    if frames is None:
        return rearrange(video, "b c t h w -> (b t) c h w")
    clip, frame = frames.unbind(1)
    return video[clip, :, frame]
