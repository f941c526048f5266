"""Reconstruction metrics of the VAE (paper section 2.1, table 1): PSNR, fine detail and flicker.

Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import torch
from jaxtyping import Float
from torch import Tensor

Pixels = Float[Tensor, "b c t h w"]


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
