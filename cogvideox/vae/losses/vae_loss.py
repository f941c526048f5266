"""The VAE's loss on pixels and latents: reconstruction, how it looks, and KL (paper section 2.1).

Axes: b batch, c channels, t frames, h w height and width, f frames chosen of each clip; pixels in [-1, 1].
The adversarial term has a file of its own (`discriminator`).
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
Pictures = Float[Tensor, "_n c h w"]


class RankShares(NamedTuple):
    """What a mean over the pixels, latents or pictures at hand counts in a mean over several processes' (`vae_parts`):
    the number here times that of processes, over the number of all. Alone it is all there is."""

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
    shares: RankShares = RankShares(),  # noqa: B008 - it never changes
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The weighted sum, and its terms unweighted: `l1`, `l2` (means over pixels), `kl` (mean over latent elements) and,
    under its name, how far the chosen `frames` look from what they should, by `looks`.

    The paper's versions disagree on L1 or L2; both are here.

    Args:
        frames: the clip and the frame of each picture that is looked at; None for all.
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
            ours, theirs = (select_frames(video, frames) for video in (reconstruction, target))
            term = shares.frames * perceptual.distance(ours, theirs).mean()
        terms[perceptual.name] = term
        total = total + weights.perceptual * term
    return total, terms


def select_frames(video: Pixels, frames: Int[Tensor, "n 2"] | None) -> Pictures:
    """Some frames of some clips, or all of all."""
    if frames is None:
        return rearrange(video, "b c t h w -> (b t) c h w")
    clip, frame = frames.unbind(1)
    return video[clip, :, frame]
