"""The VAE's loss on pixels and latents: reconstruction, how it looks, and KL (paper section 2.1).

Axes: b batch, c channels, t frames, h w height and width, f frames chosen of each clip; pixels in [-1, 1].
The adversarial term has a file of its own (`discriminator`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.vae.config import LossWeights
from cogvideox.vae.posterior import Posterior

Pixels = Float[Tensor, "b c t h w"]
Pictures = Float[Tensor, "_n c h w"]


class Shares(NamedTuple):
    """What a mean over the pixels, latents or pictures at hand counts in a mean over several processes' (`vae_parts`):
    the number here times that of processes, over the number of all. Alone it is all there is."""

    pixels: float = 1.0
    latents: float = 1.0
    pictures: float = 1.0


class PerceptualLoss(NamedTuple):
    """A distance of pictures (n of one to n of the other, giving n numbers) and the name that its term is logged by."""

    name: str
    distance: Callable[[Tensor, Tensor], Tensor]


def vae_loss(
    reconstruction: Pixels,
    target: Pixels,
    posterior: Posterior,
    weights: LossWeights,
    perceptual: PerceptualLoss | None = None,
    frames: Int[Tensor, "n 2"] | None = None,
    shares: Shares = Shares(),  # noqa: B008 - it never changes
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
            ours, theirs = (pictures(video, frames) for video in (reconstruction, target))
            term = shares.pictures * perceptual.distance(ours, theirs).mean()
        terms[perceptual.name] = term
        total = total + weights.perceptual * term
    return total, terms


def pictures(video: Pixels, frames: Int[Tensor, "n 2"] | None) -> Pictures:
    """Some frames of some clips, or all of all."""
    if frames is None:
        return rearrange(video, "b c t h w -> (b t) c h w")
    clip, frame = frames.unbind(1)
    return video[clip, :, frame]


def psnr(reconstruction: Pixels, target: Pixels) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each clip in dB, for pixels in [-1, 1] (a peak-to-peak range of 2)."""
    mse = (reconstruction.clamp(-1, 1) - target).square().flatten(1).mean(1)
    return 10.0 * torch.log10(4.0 / mse.clamp_min(1e-12))


def detail(video: Pixels) -> Float[Tensor, " b"]:
    """How much fine detail a clip has: the mean of |4 p - its four neighbours| over all pixels p and colours.

    A reconstruction that has less of it than the original is blurred, one that has more is noisy.
    """
    x = video.clamp(-1, 1)
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return (4 * x[..., 1:-1, 1:-1] - around).abs().flatten(1).mean(1)


def flicker(video: Pixels) -> Float[Tensor, " b"]:
    """Mean absolute difference of neighbouring frames, in levels of 0..255 (paper table 1). NaN for single frames.

    What moves changes frames too, so it is to be compared with the original's.
    """
    x = (video.clamp(-1, 1) + 1) * 127.5
    return (x[:, :, 1:] - x[:, :, :-1]).abs().flatten(1).mean(1)
