"""Mean and variance for norms, from a feature map in strips.

Accurate where the libraries are not: of channels-last tensors in float32, `F.group_norm` and
`batch_norm_update_stats` on a CPU add up one number after another, which over a million pixels is wrong by 1e-3.

Axes: b batch, c channels, g groups of them, t frames, h w height and width.
"""

import math
from collections.abc import Iterable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Strip = Float[Tensor, "b c t _ w"]

_BLOCK = 4096
"""Pixels that are added up one after another; an error of about 1e-6."""


def group_moments(strips: Iterable[Strip], num_groups: int) -> tuple[Float[Tensor, "b g"], Float[Tensor, "b g"]]:
    """Mean and (biased) variance of each group over all strips, in float64."""
    counts, means, variances = [], [], []
    for strip in strips:
        for count, mean, variance in _channel_moments(strip):
            counts.append(torch.full_like(mean, count, dtype=torch.float64))
            means.append(mean.double())
            variances.append(variance.double())
    count, mean, variance = (
        rearrange(torch.stack(parts), "n b (g c) -> b g (n c)", g=num_groups) for parts in (counts, means, variances)
    )
    share = count / count.sum(-1, keepdim=True)
    total = (share * mean).sum(-1)
    return total, (share * (variance + (mean - total.unsqueeze(-1)).square())).sum(-1)


def _channel_moments(x: Strip) -> list[tuple[int, Tensor, Tensor]]:
    """How many, mean and variance [b c] of pieces of x."""
    count = math.prod(x.shape[2:])
    if x.dtype in (torch.float16, torch.bfloat16):
        # Without a copy in float32. The square of the mean costs no digits that 16 bits have.
        mean = x.mean((2, 3, 4), dtype=torch.float32)
        square = torch.linalg.vector_norm(x, dim=(2, 3, 4), dtype=torch.float32).square() / count
        return [(count, mean, (square - mean.square()).clamp_min(0))]
    if x.device.type != "cpu" or x.dtype != torch.float32:
        variance, mean = torch.var_mean(x, (2, 3, 4), correction=0)
        return [(count, mean, variance)]
    # `var_mean` takes 25 times as long on a CPU.
    found = []
    for pixels in rearrange(x, "b c t h w -> b (t h w) c").split(_BLOCK, dim=1):
        one = [torch.batch_norm_update_stats(rearrange(p, "n c -> 1 c 1 n"), None, None, 0.0) for p in pixels]
        mean, variance = (torch.stack(part) for part in zip(*one, strict=True))
        found.append((pixels.shape[1], mean, variance))
    return found
