"""LPIPS: how different two pictures look (Zhang et al. 2018, arXiv 1801.03924), the version on VGG16.

Both pictures go through VGG16; at five depths their features are scaled to length 1 over the channels, and the squared
differences are added up with a learned weight for each channel. Nothing of it is trained here: the trunk comes from a
file of torchvision's VGG16, the weights from a file of the original implementation (`vgg.pth`, 7 KB).

Axes: n pictures, c channels, h w height and width; pixels in [-1, 1].
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.state_dict.keymap import Rename
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights

Pictures = Float[Tensor, "n 3 h w"]

VGG_WIDTHS = (64, 128, 256, 512, 512)
"""Channels of VGG16's five stages, which have this many convolutions:"""
VGG_DEPTHS = (2, 2, 3, 3, 3)

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""(pixels - SHIFT) / SCALE are ImageNet's pixels, as the trunk knows them: their mean and deviation, in [-1, 1]."""


RANDOM_WIDTHS = (16, 32, 64)
"""Channels at full size, half and a quarter."""


class PerceptualLoss(NamedTuple):
    """A distance of pictures (n of one to n of the other, giving n numbers) and the name that its term is logged by."""

    name: str
    distance: Callable[[Tensor, Tensor], Tensor]


class VGG16(nn.Module):
    """The convolutions of VGG16 (Simonyan & Zisserman 2014), under torchvision's names `features.{n}.weight`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        before = 3
        for width, depth in zip(VGG_WIDTHS, VGG_DEPTHS, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, x: Pictures) -> list[Float[Tensor, "n _c _h _w"]]:
        """The features after the last ReLU of each stage."""
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found


class LPIPS(nn.Module):
    """The distance of pictures. `load` reads the weights that give it its meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = VGG16()
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in VGG_WIDTHS)
        self.requires_grad_(False)

    @classmethod
    def load(cls, trunk: str | Path, heads: str | Path) -> "LPIPS":
        """LPIPS with the weights of two files, safetensors or `.pt`/`.pth`.

        Args:
            trunk: VGG16 as torchvision saves it; of its names, those of the classifier are passed over.
            heads: the channels' weights as the original saves them, `lin{k}.model.1.weight`.

        Raises:
            UserError: a file is missing, damaged or of something else; what does not fit is named.
        """
        with torch.device("meta"):
            lpips = cls()
        stored = open_weights(trunk)
        features = stored.select({name: name for name in stored if not name.startswith("classifier.")})
        load_strict(lpips.trunk, features, where=str(trunk), dtype=torch.float32)
        rules = [Rename("lin{n}.model.1.weight", "{n}.weight")]
        load_strict(lpips.heads, open_weights(heads), where=str(heads), rules=rules, dtype=torch.float32)
        return lpips.requires_grad_(False)

    def forward(self, x: Pictures, y: Pictures) -> Float[Tensor, " n"]:
        """The distance of each picture of x to that of y: 0 for the same, about 1 for nothing in common."""
        shift, scale = (x.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        ours, theirs = (self.trunk((pictures - shift) / scale) for pictures in (x, y))
        weights = [weight.flatten() for weight in self.heads.parameters()]
        return unit_distance(ours, theirs, weights)


class RandomFeatures(nn.Module):
    """The distance of pictures in the features of a small network with fixed random weights, always the same."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.convs = nn.ModuleList()
        for before, width in zip((3, *RANDOM_WIDTHS), RANDOM_WIDTHS):
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
        return unit_distance(ours, theirs, [x.new_ones(width) for width in RANDOM_WIDTHS])

    def _features(self, x: Pictures) -> list[Float[Tensor, "n _c _h _w"]]:
        found = []
        for level, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(F.avg_pool2d(x, 2) if level else x), 0.1)
            found.append(x)
        return found


def unit_distance(
    ours: Sequence[Float[Tensor, "n _c _h _w"]],
    theirs: Sequence[Float[Tensor, "n _c _h _w"]],
    weights: Sequence[Float[Tensor, " _c"]],
) -> Float[Tensor, " n"]:
    """Over all depths: squared differences of features of length 1, weighted by channel, as a mean over places."""
    distances = []
    for x, y, weight in zip(ours, theirs, weights, strict=True):
        difference = (_unit(x) - _unit(y)).square().mean((2, 3))
        distances.append(difference @ weight)
    return torch.stack(distances).sum(0)


def _unit(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    # This norm has the gradient 0 where all features are 0; the root of a sum of squares would have none.
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
