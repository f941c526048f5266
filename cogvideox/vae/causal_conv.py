"""The causal 3D convolution and its padding in time: the frames before a chunk (paper section 2.1).

A convolution over three frames pads its input with the two frames before it. A `conv_cache`, the last argument of every
layer that depends on time, provides these frames:

    conv_cache.pad_time(conv, x, n)   causal padding: x with the n previous frames in front of it
    conv_cache.is_first               whether the chunk starts with the first frame of the video
    conv_cache.group_norm(x, ...)     GroupNorm with statistics over the whole chunk or clip

`ConvCache` is for a whole clip and pads with copies of its first frame. `StreamingCache` is for consecutive chunks of a
video and pads with the last frames of the previous chunk. `parallel.vae_context_parallel.HaloCache` is for a clip whose
frames are split over ranks and pads with the last frames of the previous rank (halo exchange). `SymmetricCache` is for
the variant that is not causal. The forward pass without gradients has its own cache (`inference.sliced_cache`).

Axes: b batch, c channels, t frames, h w height and width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvCache:
    """Cache for a whole clip: pads with copies of the first frame; norm statistics are those of the whole clip."""

    is_first = True

    def pad_time(self, conv: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        """Return x, the input of `conv`, with `num_frames` previous frames in front of it."""
        first = x[:, :, :1].expand(-1, -1, num_frames, -1, -1)
        return torch.cat([first, x], dim=2)

    def group_norm(
        self, x: Float[Tensor, "b c t h w"], num_groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Float[Tensor, "b c t h w"]:
        """Apply GroupNorm with statistics over the whole chunk, including time."""
        return F.group_norm(x, num_groups, weight, bias, eps)


class StreamingCache(ConvCache):
    """Cache for consecutive chunks of one video, with `advance()` called between chunks.

    Args:
        is_last: whether the first chunk is also the last one, so that no frames have to be kept.
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
            # Copied, because a view would keep the whole chunk in memory until the next one.
            self._frames[conv] = padded[:, :, -num_frames:].clone()
        return padded

    def advance(self, *, is_last: bool = False) -> None:
        """Continue with the next chunk."""
        self.is_first, self.is_last = False, is_last


class SymmetricCache(StreamingCache):
    """Cache for a whole clip: pads with copies of the first frame before it, and as many of the last frame after it."""

    def pad_time(self, conv: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        first, last = (x[:, :, i : i + 1].expand(-1, -1, num_frames // 2, -1, -1) for i in (0, x.shape[2] - 1))
        return torch.cat([first, x, last], dim=2)


class CausalConv3d(nn.Conv3d):
    """3x3x3 convolution with causal padding in time (`conv_cache.pad_time`) and zero padding in space."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=(0, 1, 1))

    def forward(self, x: Float[Tensor, "b c t h w"], conv_cache: ConvCache) -> Float[Tensor, "b _c _t _h _w"]:
        return super().forward(conv_cache.pad_time(self, x, 2))
