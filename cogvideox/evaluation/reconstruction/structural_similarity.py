"""SSIM (Wang et al. 2004) and MS-SSIM (Wang et al. 2003) of videos, frame by frame and channel by channel.

Local means and variances are weighted by a Gaussian window of 11 pixels and standard deviation 1.5, without padding, as
in the original implementation. Axes: b batch, c channels, t frames, h w height and width; pixels in [-1, 1].
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cogvideox.errors import UserError

Pixels = Float[Tensor, "b c t h w"]

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales of MS-SSIM."""
MIN_SIDE = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
"""Shortest side in pixels for which MS-SSIM is defined: the smallest scale must be larger than the window."""
FRAMES_PER_BATCH = 64


def ssim(reconstruction: Pixels, target: Pixels) -> Float[Tensor, " b"]:
    """Return the structural similarity of each clip, 1 for equal clips: the mean over pixels, channels and frames.

    Raises:
        UserError: a side is shorter than the window.
    """
    _check_side(target, WINDOW, "SSIM")
    return _per_clip(reconstruction, target, lambda x, y: _similarity(x, y)[0])


def ms_ssim(reconstruction: Pixels, target: Pixels) -> Float[Tensor, " b"]:
    """Return the multi-scale structural similarity of each clip, 1 for equal clips.

    Negative contrast terms count as 0.

    Raises:
        UserError: a side is shorter than `MIN_SIDE`.
    """
    _check_side(target, MIN_SIDE, "MS-SSIM")

    def compute(x: Tensor, y: Tensor) -> Tensor:
        product = x.new_ones(x.shape[:2])
        for scale, weight in enumerate(SCALE_WEIGHTS):
            if scale:
                x, y = (F.avg_pool2d(plane, 2, padding=[side % 2 for side in plane.shape[-2:]]) for plane in (x, y))
            similarity, contrast = _similarity(x, y)
            term = similarity if scale == len(SCALE_WEIGHTS) - 1 else contrast
            product = product * term.clamp_min(0.0) ** weight
        return product

    return _per_clip(reconstruction, target, compute)


def _check_side(target: Pixels, least: int, name: str) -> None:
    height, width = target.shape[-2:]
    if min(height, width) < least:
        raise UserError(f"{name} needs a height and width of at least {least} pixels, got {height}x{width}")


def _per_clip(reconstruction: Pixels, target: Pixels, compute) -> Float[Tensor, " b"]:
    """Apply a function of frames ([n c h w] in 0..1, twice -> [n c]) and average over frames and channels."""
    b, _, t = target.shape[:3]
    planes = [
        ((video.clamp(-1, 1).double() + 1) / 2).transpose(1, 2).flatten(0, 1).split(FRAMES_PER_BATCH)
        for video in (reconstruction, target)
    ]
    values = torch.cat([compute(x, y) for x, y in zip(*planes, strict=True)])
    return values.view(b, t, -1).mean(dim=(1, 2)).float()


def _similarity(
    x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Return SSIM and its contrast-structure term, for values in 0..1."""
    c1, c2 = K1**2, K2**2
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    contrast = (2 * covariance + c2) / (variance_x + variance_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * contrast).mean(dim=(2, 3)), contrast.mean(dim=(2, 3))


def _blur(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c _h _w"]:
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    kernel = torch.exp(-offsets.square() / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    x = F.conv2d(x, kernel[..., None], groups=x.shape[1])
    return F.conv2d(x, kernel[:, :, None], groups=x.shape[1])
