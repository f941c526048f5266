"""Shift-tolerant LPIPS (Ghildyal & Liu 2022, arXiv 2207.13686): LPIPS with trunks that tolerate shifts of a few pixels.

Every strided layer of the trunk is replaced by a dense layer and a blur with stride 2 (Zhang 2019), after reflection
padding. The distance is that of LPIPS, but its values are not LPIPS values. The weights are those of the package
`stlpips-pytorch`, which users install themselves: one file has trunk and heads.

Axes: n images, c channels, h w height and width; pixels in [-1, 1].
"""

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.state_dict.key_rules import Rename
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights
from cogvideox.vae.losses.perceptual import SCALE, SHIFT, VGG_DEPTHS, VGG_WIDTHS, Images, normalize_features

PACKAGE = "stlpips_pytorch"
TRUNKS = ("alex", "vgg")
ALEX_WIDTHS = (64, 192, 384, 256, 256)
_WIDTHS = {"alex": ALEX_WIDTHS, "vgg": VGG_WIDTHS}
_FIXED = (".filt", "scaling_layer.")
"""Parts of the names of tensors in the file that are constants of the architecture."""


class BlurPool(nn.Module):
    """Blur with the binomial kernel (1, 2, 1) in both directions and stride 2, after reflection padding of 2 pixels."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c _h _w"]:
        weights = x.new_tensor((0.25, 0.5, 0.25))
        kernel = (weights[:, None] * weights).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


class ShiftTolerantLPIPS(nn.Module):
    """Distance between images. `load` creates it with trained weights.

    Module names in `net` are those of the file: `net.slice{stage}.{layer}`.
    """

    def __init__(self, trunk: str = "alex") -> None:
        super().__init__()
        stages = _alex_stages() if trunk == "alex" else _vgg_stages()
        self.net, first = nn.Module(), 0
        for number, layers in enumerate(stages, start=1):
            stage = nn.Sequential()
            for index, layer in enumerate(layers, start=first):
                stage.add_module(str(index), layer)
            self.net.add_module(f"slice{number}", stage)
            first += len(layers)
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in _WIDTHS[trunk])
        self.requires_grad_(False)

    @classmethod
    def load(cls, file: str | Path) -> "ShiftTolerantLPIPS":
        """Load `alex_shift_tolerant.pth` or `vgg_shift_tolerant.pth`.

        Raises:
            UserError: the file is missing or damaged, or its tensors do not match; the message names them.
        """
        stored = open_weights(file)
        shape = stored["net.slice1.0.weight"].shape if "net.slice1.0.weight" in stored else ()
        with torch.device("meta"):
            distance = cls("alex" if tuple(shape[-2:]) == (11, 11) else "vgg")
        learned = stored.select({name: name for name in stored if not any(part in name for part in _FIXED)})
        rules = [Rename("lin{n}.model.1.weight", "heads.{n}.weight")]
        load_strict(distance, learned, where=str(file), rules=rules, dtype=torch.float32)
        return distance.requires_grad_(False)

    def forward(self, x: Images, y: Images) -> Float[Tensor, " n"]:
        """Return the distance of each pair of images: 0 for equal images."""
        features = []
        for images in (x, y):
            shift, scale = (images.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
            hidden, stages = (images - shift) / scale, []
            for stage in self.net.children():
                hidden = stage(hidden)
                stages.append(hidden)
            features.append(stages)
        distances = [  # the weighted sum before the mean, as in the original, whose published value this reproduces
            F.conv2d((normalize_features(first) - normalize_features(second)).square(), head).mean(dim=(1, 2, 3))
            for first, second, head in zip(*features, self.heads.parameters(), strict=True)
        ]
        return torch.stack(distances).sum(0)


def installed_weights(trunk: str = "alex") -> Path:
    """Return the weights file in the user's install of `stlpips-pytorch`, which is not imported.

    Raises:
        UserError: unknown trunk, or the package is not installed.
    """
    if trunk not in TRUNKS:
        raise UserError(f"unknown trunk {trunk!r} of ST-LPIPS: choose {' or '.join(TRUNKS)}")
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "ST-LPIPS needs weights: run `pip install --no-deps stlpips-pytorch`, or give the path of "
            f"{trunk}_shift_tolerant.pth"
        )
    return Path(spec.submodule_search_locations[0]) / "weights" / "vST0.0" / f"{trunk}_shift_tolerant.pth"


def _alex_stages() -> list[list[nn.Module]]:
    def conv(in_width: int, width: int, kernel: int, padding: int) -> nn.Module:
        return nn.Conv2d(in_width, width, kernel, padding=padding)

    def pool() -> list[nn.Module]:
        return [nn.MaxPool2d(3, stride=1), BlurPool()]

    return [
        [conv(3, 64, 11, 2), BlurPool(), nn.ReLU()],
        [*pool(), conv(64, 192, 5, 2), nn.ReLU()],
        [*pool(), conv(192, 384, 3, 1), nn.ReLU()],
        [conv(384, 256, 3, 1), nn.ReLU()],
        [conv(256, 256, 3, 1), nn.ReLU()],
    ]


def _vgg_stages() -> list[list[nn.Module]]:
    stages: list[list[nn.Module]] = []
    in_width = 3
    for width, depth in zip(VGG_WIDTHS, VGG_DEPTHS, strict=True):
        stage: list[nn.Module] = [nn.MaxPool2d(2, stride=1), BlurPool()] if stages else []
        for _ in range(depth):
            stage += [nn.Conv2d(in_width, width, 3, padding=1), nn.ReLU()]
            in_width = width
        stages.append(stage)
    return stages
