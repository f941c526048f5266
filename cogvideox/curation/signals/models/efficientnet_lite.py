"""EfficientNet-Lite0, a small classifier of ImageNet's 1000 classes (Tan and Le 2019; Lite variant of 2020).

Module names are those of the published state dict.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SIDE = 224
"""Height and width of the input, in pixels."""

# kernel, stride, expansion, channels, number of blocks (EfficientNet, table 1; Lite removes squeeze-and-excitation)
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's padding: the output has ceil(side / stride) pixels; extra zeros are at the end."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        padding: list[int] = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Inverted residual block (MobileNetV2)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = SameConv(channels, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = SameConv(wide, out, 1, bias=False)
        self._bn2 = _norm(out)
        self.is_residual = stride == 1 and channels == out

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """The network; `forward` takes RGB in [-1, 1] of `SIDE` pixels."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, channels = [], 32
        for kernel, stride, expansion, out, count in _STAGES:
            for index in range(count):
                blocks.append(Block(channels, out, kernel, stride if index == 0 else 1, expansion))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(320, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 1280"], Float[Tensor, "b 1000"]]:
        """Return the embedding (spatial mean of the last features) and the logits of the classes."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        embedding = F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return embedding, self._fc(embedding)


def prepare(frames: Tensor) -> Float[Tensor, "b 3 h w"]:
    """Convert frames (uint8, `b h w 3`) to the input: the central square, resized, as (value - 127) / 128."""
    side = min(frames.shape[1:3])
    top, left = (frames.shape[1] - side) // 2, (frames.shape[2] - side) // 2
    square = frames[:, top : top + side, left : left + side].permute(0, 3, 1, 2).float()
    resized = F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return (resized - 127.0) / 128.0


def load(path: str) -> EfficientNetLite0:
    """Load the published state dict.

    Raises:
        RuntimeError, UnpicklingError: the file is not this state dict.
    """
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()
