"""What a chunk of video knows of the frames before it: the one seam of every time-aware layer of the VAE.

A layer never asks where its chunk stands. It asks its `past`:

    past.extend(layer, x, n)    x with the n frames before it in front (and the tail of x is remembered)
    past.holds_first            whether the chunk begins with the first frame of the video
    past.group_norm(x, ...)     GroupNorm over the statistics that belong together

`FirstFrame` is a clip in one piece: nothing comes before it, so its first frame is repeated (paper section 2.1).
`Stream` carries the tails from chunk to chunk, so that a long video passes through in little memory.

Axes: b batch, c channels, t frames, h w height and width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FirstFrame:
    """A clip in one piece. Before its first frame stands that frame again."""

    holds_first = True

    def extend(self, layer: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        """Return x with `num_frames` frames in front."""
        first = x[:, :, :1].expand(-1, -1, num_frames, -1, -1)
        return torch.cat([first, x], dim=2)

    def group_norm(
        self, x: Float[Tensor, "b c t h w"], num_groups: int, weight: Tensor, bias: Tensor, eps: float
    ) -> Float[Tensor, "b c t h w"]:
        """GroupNorm whose statistics pool over all of the chunk, time included."""
        return F.group_norm(x, num_groups, weight, bias, eps)

    def advance(self) -> None:
        """There is no next chunk to prepare for."""


class Stream(FirstFrame):
    """Chunks of one video in order. Call `advance()` between chunks."""

    def __init__(self) -> None:
        self.holds_first = True
        self._tails: dict[nn.Module, Tensor] = {}

    def extend(self, layer: nn.Module, x: Float[Tensor, "b c t h w"], num_frames: int) -> Float[Tensor, "b c T h w"]:
        if self.holds_first:
            extended = super().extend(layer, x, num_frames)
        else:
            extended = torch.cat([self._tails[layer], x], dim=2)
        # A copy: a view would keep the whole chunk alive until the next one.
        self._tails[layer] = extended[:, :, -num_frames:].clone()
        return extended

    def advance(self) -> None:
        """The next chunk continues this one."""
        self.holds_first = False
