"""LPIPS: how different two pictures look (Zhang et al. 2018, arXiv 1801.03924), the version on VGG16.

Both pictures go through VGG16; at five depths their features are scaled to length 1 over the channels, and the squared
differences are added up with a learned weight for each channel. Nothing of it is trained here: the trunk comes from a
file of torchvision's VGG16, the weights from a file of the original implementation (`vgg.pth`, 7 KB).

Axes: n pictures, c channels, h w height and width; pixels in [-1, 1].
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.state_dict.keymap import Rename
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights

Pictures = Float[Tensor, "n 3 h w"]

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of VGG16's five stages, which have this many convolutions:"""
DEPTHS = (2, 2, 3, 3, 3)

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""(pixels - SHIFT) / SCALE are ImageNet's pixels, as the trunk knows them: their mean and deviation, in [-1, 1]."""


class VGG16(nn.Module):
    """The convolutions of VGG16 (Simonyan & Zisserman 2014), under torchvision's names `features.{n}.weight`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        before = 3
        for width, depth in zip(WIDTHS, DEPTHS, strict=True):
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
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in WIDTHS)
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
        features = stored.renamed({name: name for name in stored if not name.startswith("classifier.")})
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
