"""Mean and variance for GroupNorm, computed from a feature map in strips.

On CPUs, `F.group_norm` and `batch_norm_update_stats` accumulate channels-last float32 tensors sequentially, with an
error of 1e-3 over a million pixels. This module accumulates blocks of pixels separately.

Axes: b batch, c channels, g groups of channels, t frames, h w height and width.
"""

import math
from collections.abc import Iterable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.dtype import widest_float

Strip = Float[Tensor, "b c t _ w"]

_BLOCK = 4096
"""Number of pixels that are accumulated sequentially, with an error of about 1e-6."""


def group_moments(strips: Iterable[Strip], num_groups: int) -> tuple[Float[Tensor, "b g"], Float[Tensor, "b g"]]:
    """Return the mean and (biased) variance of each group over all strips, in float64 if the device supports it."""
    counts, means, variances = zip(*(_channel_moments(strip) for strip in strips), strict=True)
    dtype = widest_float(counts[0].device)
    weight = torch.cat(counts)
    weight = rearrange(weight / weight.sum(), "n -> n 1 1 1")
    mean, variance = (
        rearrange(torch.cat(moments).to(dtype), "n b (g c) -> n b g c", g=num_groups) for moments in (means, variances)
    )
    group_mean = (weight * mean).sum(0).mean(-1)
    squared_deviation = variance + (mean - rearrange(group_mean, "b g -> 1 b g 1")).square()
    return group_mean, (weight * squared_deviation).sum(0).mean(-1)


def _channel_moments(x: Strip) -> tuple[Float[Tensor, " n"], Float[Tensor, "n b c"], Float[Tensor, "n b c"]]:
    """Return the number of pixels, the mean and the variance of each block of x."""
    if x.device.type == "cpu" and x.dtype != torch.float64:
        # For this layout, `var_mean` is 25 times slower. Blocks of 16-bit values are cast while they are in cache.
        blocks = rearrange(x, "b c t h w -> b (t h w) c").split(_BLOCK, dim=1)
        moments = [
            torch.batch_norm_update_stats(pixels.float().T[None, :, None], None, None, 0.0)
            for block in blocks
            for pixels in block
        ]
        mean, variance = (torch.stack(part).unflatten(0, (len(blocks), -1)) for part in zip(*moments, strict=True))
        counts = torch.full((len(blocks),), _BLOCK, dtype=torch.float64)
        counts[-1] = blocks[-1].shape[1]
        return counts, mean, variance
    count = math.prod(x.shape[2:])
    if x.dtype in (torch.float16, torch.bfloat16):
        # Without a float32 copy. Subtracting the squared mean is precise enough for 16-bit inputs.
        mean = x.mean((2, 3, 4), dtype=torch.float32)
        square = torch.linalg.vector_norm(x, dim=(2, 3, 4), dtype=torch.float32).square() / count
        variance = (square - mean.square()).clamp_min(0)
    else:
        variance, mean = torch.var_mean(x, (2, 3, 4), correction=0)
    # Created on the device, because a copy would synchronize.
    return torch.full((1,), count, dtype=widest_float(x.device), device=x.device), mean[None], variance[None]
