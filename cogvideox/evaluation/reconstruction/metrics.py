"""Reconstruction metrics of the VAE (paper table 1): PSNR, fine detail and flicker.

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import torch
from jaxtyping import Float
from torch import Tensor

Pixels = Float[Tensor, "b c t h w"]


def psnr(reconstruction: Pixels, target: Pixels) -> Float[Tensor, " b"]:
    """Return the peak signal-to-noise ratio of each clip in dB, for pixels in [-1, 1] (a peak-to-peak range of 2)."""
    mse = (reconstruction.clamp(-1, 1) - target).square().flatten(1).mean(1)
    return 10.0 * torch.log10(4.0 / mse.clamp_min(1e-12))


def detail(video: Pixels) -> Float[Tensor, " b"]:
    """Measure the fine detail of each clip: the mean absolute Laplacian over pixels and channels.

    A reconstruction with less detail than the original is blurred; one with more is noisy.
    """
    x = video.clamp(-1, 1)
    neighbors = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return (4 * x[..., 1:-1, 1:-1] - neighbors).abs().flatten(1).mean(1)


def flicker(video: Pixels) -> Float[Tensor, " b"]:
    """Return the mean absolute difference of consecutive frames, in levels of 0..255 (paper table 1).

    Motion also makes frames differ, so compare it with the flicker of the original. NaN for single frames.
    """
    x = (video.clamp(-1, 1) + 1) * 127.5
    return (x[:, :, 1:] - x[:, :, :-1]).abs().flatten(1).mean(1)
