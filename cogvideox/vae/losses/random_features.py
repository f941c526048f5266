"""What stands in for LPIPS where its files are not at hand: the same distance, in features that nobody trained.

Random convolutions keep edges and textures apart well enough that a reconstruction which matches them is sharper than
one that matches pixels alone. They know nothing of what people see, so this is not LPIPS, and it
is never logged under that name.

Axes: n pictures, c channels, h w height and width; pixels in [-1, 1].
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.losses.lpips import unit_distance

Pictures = Float[Tensor, "n 3 h w"]

WIDTHS = (16, 32, 64)
"""Channels at full size, half and a quarter."""


class RandomFeatures(nn.Module):
    """The distance of pictures in the features of a small network with fixed random weights, always the same."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.convs = nn.ModuleList()
        for before, width in zip((3, *WIDTHS), WIDTHS):
            conv = nn.Conv2d(before, width, 3, padding=1)
            weight = torch.randn(conv.weight.shape, generator=generator)
            # Half of what is flat taken out, so that edges count for more; biases keep flat grey from being all zero.
            weight -= 0.5 * weight.mean((2, 3), keepdim=True)
            conv.weight.data = weight * (2 / weight[0].numel()) ** 0.5
            conv.bias = nn.Parameter(0.3 * torch.randn(width, generator=generator))
            self.convs.append(conv)
        self.requires_grad_(False)

    def forward(self, x: Pictures, y: Pictures) -> Float[Tensor, " n"]:
        """The distance of each picture of x to that of y; 0 for the same."""
        ours, theirs = self._features(x), self._features(y)
        return unit_distance(ours, theirs, [x.new_ones(width) for width in WIDTHS])

    def _features(self, x: Pictures) -> list[Float[Tensor, "n _c _h _w"]]:
        found = []
        for level, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(F.avg_pool2d(x, 2) if level else x), 0.1)
            found.append(x)
        return found
