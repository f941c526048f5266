"""Causal padding in time for the VAE: the frames that a convolution needs before a chunk (paper section 2.1).

Every layer that depends on time takes a `conv_cache` as its last argument and uses three members of it:

    conv_cache.pad_time(conv, x, n)   causal padding: x with the n previous frames in front of it
    conv_cache.is_first               whether the chunk starts with the first frame of the video
    conv_cache.group_norm(x, ...)     GroupNorm with statistics over the whole chunk or clip

The caches differ in the frames that they pad with. `ConvCache` is for a whole clip: copies of its first frame.
`StreamingCache` is for consecutive chunks of one video: the last frames of the previous chunk.
`parallel.vae_context_parallel.HaloCache` is for a clip whose frames are split over ranks: the last frames of the
previous rank (halo exchange). The forward pass without gradients has its own cache (`inference.sliced_cache`).

Axes: b batch, c channels, t frames, h w height and width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvCache:
    """Cache for a whole clip: pads with copies of the first frame, and norms pool over the whole clip."""

    is_first = True

    def pad_time(self, conv: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        """Put `num_frames` frames in front of x, the input of `conv`."""
        first = x[:, :, :1].expand(-1, -1, num_frames, -1, -1)
        return torch.cat([first, x], dim=2)

    def group_norm(
        self, x: Float[Tensor, "b c t h w"], num_groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Float[Tensor, "b c t h w"]:
        """GroupNorm with statistics over the whole chunk, time included."""
        return F.group_norm(x, num_groups, weight, bias, eps)


class StreamingCache(ConvCache):
    """Cache for consecutive chunks of one video, with `advance()` called between chunks.

    Args:
        is_last: the first chunk is also the last one, so no frames are kept.
    """

    def __init__(self, *, is_last: bool = False) -> None:
        self.is_first = True
        self.is_last = is_last
        self._frames: dict[nn.Module, Tensor] = {}

    def pad_time(self, conv: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        if self.is_first:
            padded = super().pad_time(conv, x, num_frames)
        else:
            padded = torch.cat([self._frames.pop(conv), x], dim=2)
        if not self.is_last:
            # A copy: a view would keep the whole chunk in memory until the next one.
            self._frames[conv] = padded[:, :, -num_frames:].clone()
        return padded

    def advance(self, *, is_last: bool = False) -> None:
        """Continue with the next chunk."""
        self.is_first, self.is_last = False, is_last
