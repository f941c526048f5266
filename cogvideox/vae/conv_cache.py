"""The `conv_cache` of the VAE: what a chunk of video needs of the frames before it (paper section 2.1).

Every layer that depends on time takes a `conv_cache` as its last argument and reads three things from it:

    conv_cache.prepend(conv, x, n)    x with the n frames before it in front; the last n frames of x are kept
    conv_cache.is_first               whether the chunk starts with the first frame of the video
    conv_cache.group_norm(x, ...)     GroupNorm over all elements whose statistics belong together

`ConvCache` is for a clip in one piece, `StreamingCache` for chunks of one video in order, and
`parallel.vae_context_parallel.HaloCache` for a clip whose frames are split over ranks. The forward pass without
gradients has a cache of its own (`inference.sliced_cache`).

Axes: b batch, c channels, t frames, h w height and width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvCache:
    """A clip in one piece: its first frame is repeated in front of it, and norms pool over the whole clip."""

    is_first = True

    def prepend(self, conv: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        """Put `num_frames` frames in front of x, the input of `conv`."""
        first = x[:, :, :1].expand(-1, -1, num_frames, -1, -1)
        return torch.cat([first, x], dim=2)

    def group_norm(
        self, x: Float[Tensor, "b c t h w"], num_groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Float[Tensor, "b c t h w"]:
        """GroupNorm with statistics over the whole chunk, time included."""
        return F.group_norm(x, num_groups, weight, bias, eps)


class StreamingCache(ConvCache):
    """Chunks of one video in order, with `advance()` called between chunks.

    Args:
        is_last: the first chunk is also the last one, so nothing has to be kept.
    """

    def __init__(self, *, is_last: bool = False) -> None:
        self.is_first = True
        self.is_last = is_last
        self._frames: dict[nn.Module, Tensor] = {}

    def prepend(self, conv: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        if self.is_first:
            extended = super().prepend(conv, x, num_frames)
        else:
            extended = torch.cat([self._frames.pop(conv), x], dim=2)
        if not self.is_last:
            # A copy: a view would keep the whole chunk in memory until the next one.
            self._frames[conv] = extended[:, :, -num_frames:].clone()
        return extended

    def advance(self, *, is_last: bool = False) -> None:
        """Continue with the next chunk. After the last one nothing follows."""
        self.is_first, self.is_last = False, is_last
