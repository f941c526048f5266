"""Perceptual distances between images: LPIPS, and random features if its weight files are missing (paper section 2.1).

LPIPS (Zhang et al. 2018, arXiv 1801.03924, equation 1, on VGG16) compares the features of both images at five depths:
features are normalized over the channels, and squared differences are summed with a learned weight for each channel.
Weights are loaded from two files: torchvision's VGG16 (trunk) and the original implementation's `vgg.pth` (heads).

`RandomFeatures` is the same distance between features of a small network with fixed random weights. Training with it
gives sharper reconstructions than with pixel losses alone, but it does not model human perception and is never logged
as LPIPS.

Axes: n images, c channels, h w height and width; pixels in [-1, 1].
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.state_dict.key_rules import Rename
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights

Images = Float[Tensor, "n 3 h w"]

VGG_WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five stages of VGG16."""
VGG_DEPTHS = (2, 2, 3, 3, 3)
"""Convolutions of the five stages of VGG16."""

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Mean and standard deviation of ImageNet for pixels in [-1, 1]; VGG16's inputs are (pixels - SHIFT) / SCALE."""

RANDOM_WIDTHS = (16, 32, 64)
"""Channels of `RandomFeatures` at full, half and quarter size."""


class PerceptualLoss(NamedTuple):
    """A distance between two image batches ([n 3 h w], [n 3 h w] -> [n]), and its name in logs."""

    name: str
    distance: Callable[[Tensor, Tensor], Tensor]


class VGG16(nn.Module):
    """The convolutions of VGG16 (Simonyan & Zisserman 2014), with torchvision's names `features.{n}.weight`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.stage_ends: list[int] = []
        in_width = 3
        for width, depth in zip(VGG_WIDTHS, VGG_DEPTHS, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [nn.Conv2d(in_width, width, 3, padding=1), nn.ReLU()]
                in_width = width
            self.stage_ends.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, x: Images) -> list[Float[Tensor, "n _c _h _w"]]:
        """Return the features after the last ReLU of each stage."""
        stages = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.stage_ends:
                stages.append(x)
        return stages


class LPIPS(nn.Module):
    """LPIPS distance between images. `load` creates it with trained weights."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = VGG16()
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in VGG_WIDTHS)
        self.requires_grad_(False)

    @classmethod
    def load(cls, trunk: str | Path, heads: str | Path) -> "LPIPS":
        """Load LPIPS from two files, safetensors or `.pt`/`.pth`.

        Args:
            trunk: VGG16 as saved by torchvision; the classifier is ignored.
            heads: channel weights as saved by the original implementation, `lin{k}.model.1.weight`.

        Raises:
            UserError: a file is missing or damaged, or its tensors do not match; the message names them.
        """
        with torch.device("meta"):
            lpips = cls()
        stored = open_weights(trunk)
        features = stored.select({name: name for name in stored if not name.startswith("classifier.")})
        load_strict(lpips.trunk, features, where=str(trunk), dtype=torch.float32)
        rules = [Rename("lin{n}.model.1.weight", "{n}.weight")]
        load_strict(lpips.heads, open_weights(heads), where=str(heads), rules=rules, dtype=torch.float32)
        return lpips.requires_grad_(False)

    def forward(self, x: Images, y: Images) -> Float[Tensor, " n"]:
        """Return the distance of each pair of images: 0 for equal images, about 1 for unrelated ones."""
        shift, scale = (x.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        features_x, features_y = (self.trunk((images - shift) / scale) for images in (x, y))
        weights = [weight.flatten() for weight in self.heads.parameters()]
        return feature_distance(features_x, features_y, weights)


class RandomFeatures(nn.Module):
    """Distance between images, measured in the features of a small network with fixed random weights."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.convs = nn.ModuleList()
        for in_width, width in zip((3, *RANDOM_WIDTHS), RANDOM_WIDTHS):
            conv = nn.Conv2d(in_width, width, 3, padding=1)
            weight = torch.randn(conv.weight.shape, generator=generator)
            # Subtracting half of the mean emphasizes edges; biases keep the features of uniform gray nonzero.
            weight -= 0.5 * weight.mean((2, 3), keepdim=True)
            conv.weight.data = weight * (2 / weight[0].numel()) ** 0.5
            conv.bias = nn.Parameter(0.3 * torch.randn(width, generator=generator))
            self.convs.append(conv)
        self.requires_grad_(False)

    def forward(self, x: Images, y: Images) -> Float[Tensor, " n"]:
        """Return the distance of each pair of images: 0 for equal images."""
        features_x, features_y = self._features(x), self._features(y)
        return feature_distance(features_x, features_y, [x.new_ones(width) for width in RANDOM_WIDTHS])

    def _features(self, x: Images) -> list[Float[Tensor, "n _c _h _w"]]:
        levels = []
        for level, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(F.avg_pool2d(x, 2) if level else x), 0.1)
            levels.append(x)
        return levels


def feature_distance(
    features_x: Sequence[Float[Tensor, "n _c _h _w"]],
    features_y: Sequence[Float[Tensor, "n _c _h _w"]],
    weights: Sequence[Float[Tensor, " _c"]],
) -> Float[Tensor, " n"]:
    """LPIPS, equation 1: weighted squared differences of normalized features, mean over space, sum over depths."""
    distances = []
    for x, y, weight in zip(features_x, features_y, weights, strict=True):
        difference = (normalize_features(x) - normalize_features(y)).square().mean((2, 3))
        distances.append(difference @ weight)
    return torch.stack(distances).sum(0)


def normalize_features(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Scale the features of each position to unit length."""
    # Where all features are 0, vector_norm has gradient 0; the square root of the sum of squares would give NaN.
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
