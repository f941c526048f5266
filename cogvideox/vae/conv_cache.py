"""What a chunk of video knows of the frames before it: the one seam of every time-aware layer of the VAE.

A layer never asks where its chunk stands. It asks its `conv_cache`:

    conv_cache.prepend(layer, x, n)    x with the n frames before it in front (and the tail of x is remembered)
    conv_cache.is_first           whether the chunk begins with the first frame of the video
    conv_cache.group_norm(x, ...)     GroupNorm over the statistics that belong together

`ConvCache` is a clip in one piece: nothing comes before it, so its first frame is repeated (paper section 2.1).
`StreamingCache` carries the tails from chunk to chunk, so that a long video passes through in little memory.

The networks hand their layers to `conv_cache` as well, which here just calls them. `SlicedCache` does the same work
without gradients, faster and in strips of rows; what passes from layer to layer is then a list.

Axes: b batch, c channels, t frames, h w height and width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Features = Any
"""What passes from layer to layer, as the past makes it: a tensor [b c t h w] or, in strips, a list of them."""


class ConvCache:
    """A clip in one piece. Before its first frame stands that frame again."""

    is_first = True

    def prepend(self, layer: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        """Return x with `num_frames` frames in front."""
        first = x[:, :, :1].expand(-1, -1, num_frames, -1, -1)
        return torch.cat([first, x], dim=2)

    def group_norm(
        self, x: Float[Tensor, "b c t h w"], num_groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Float[Tensor, "b c t h w"]:
        """GroupNorm whose statistics pool over all of the chunk, time included."""
        return F.group_norm(x, num_groups, weight, bias, eps)

    def advance(self, *, is_last: bool = False) -> None:
        """There is no next chunk to prepare for."""

    def open(self, x: Float[Tensor, "b c t h w"], rows: int) -> Features:
        """What the first layer takes. A latent stands for this many rows of x."""
        return x

    def convolve(self, x: Features, norm: nn.Module | None, conv: nn.Module, latents: Tensor | None) -> Features:
        """Norm and SiLU, where there is a norm, then the convolution."""
        return conv(x if norm is None else F.silu(norm(x, latents, self)), self)

    def resnet(self, block: nn.Module, x: Features, latents: Tensor | None) -> Features:
        """A ResNet block. The caller gives x away."""
        return block(x, latents, self)

    def resample(self, layer: nn.Module, x: Features) -> Features:
        """A change of resolution. The caller gives x away."""
        return layer(x, self)

    def close(self, x: Features) -> Float[Tensor, "b c t h w"]:
        """What the last layer put out, in one piece."""
        return x


class StreamingCache(ConvCache):
    """Chunks of one video in order. Call `advance()` between chunks.

    Args:
        holds_last: the first chunk is also the last one, so that nothing has to be remembered.
    """

    def __init__(self, *, is_last: bool = False) -> None:
        self.is_first = True
        self.is_last = is_last
        self._tails: dict[nn.Module, Tensor] = {}

    def prepend(self, layer: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        if self.is_first:
            extended = super().prepend(layer, x, num_frames)
        else:
            extended = torch.cat([self._tails.pop(layer), x], dim=2)
        if not self.is_last:
            # A copy: a view would keep the whole chunk alive until the next one.
            self._tails[layer] = extended[:, :, -num_frames:].clone()
        return extended

    def advance(self, *, is_last: bool = False) -> None:
        """The next chunk continues this one; after the last one nothing follows."""
        self.is_first, self.is_last = False, is_last
