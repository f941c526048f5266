"""RAFT (Teed & Deng 2020, arXiv 2003.12039): dense optical flow by recurrent updates, with the original names.

Axes: n pairs of images, c channels, h w height and width; pixels 0..255. Flows are (right, down) in pixels.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights

Features = Float[Tensor, "n c h w"]
Flow = Float[Tensor, "n 2 h w"]

LEVELS, RADIUS = 4, 4
"""Levels of the correlation pyramid, and the radius of the lookup in each."""
HIDDEN, CONTEXT = 128, 128
"""Channels of the recurrent state, and of the context."""
STRIDE = 8
MIN_SIDE = 2 * STRIDE * 2 ** (LEVELS - 1)
"""Shortest side in pixels: the smallest level of the pyramid must have two rows and columns."""


class ResidualBlock(nn.Module):
    """Two convolutions with norms and a residual connection."""

    def __init__(self, in_width: int, width: int, norm: type[nn.Module], stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1, stride=stride)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.downsample = (
            None if stride == 1 else nn.Sequential(nn.Conv2d(in_width, width, 1, stride=stride), norm(width))
        )

    def forward(self, x: Features) -> Float[Tensor, "n _c _h _w"]:
        """Apply the block."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


class Encoder(nn.Module):
    """Feature network at an eighth of the resolution."""

    def __init__(self, out_width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 7, stride=2, padding=3), norm(64)
        in_width = 64
        for number, (width, stride) in enumerate(((64, 1), (96, 2), (128, 2)), start=1):
            layers = ResidualBlock(in_width, width, norm, stride), ResidualBlock(width, width, norm, 1)
            self.add_module(f"layer{number}", nn.Sequential(*layers))
            in_width = width
        self.conv2 = nn.Conv2d(in_width, out_width, 1)

    def forward(self, x: Features) -> Float[Tensor, "n _c _h _w"]:
        """Return the features."""
        x = F.relu(self.norm1(self.conv1(x)))
        for number in (1, 2, 3):
            x = getattr(self, f"layer{number}")(x)
        return self.conv2(x)


class MotionEncoder(nn.Module):
    """Features of the correlations and the current flow."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(64 + 192, 128 - 2, 3, padding=1)

    def forward(self, flow: Flow, correlations: Features) -> Float[Tensor, "n 128 h w"]:
        """Return the features."""
        x = F.relu(self.convc2(F.relu(self.convc1(correlations))))
        y = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([x, y], dim=1))), flow], dim=1)


class SeparableGRU(nn.Module):
    """Convolutional GRU, first along rows and then along columns."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        for number, (kernel, padding) in enumerate((((1, 5), (0, 2)), ((5, 1), (2, 0))), start=1):
            for gate in "zrq":
                conv = nn.Conv2d(HIDDEN + in_width, HIDDEN, kernel, padding=padding)
                self.add_module(f"conv{gate}{number}", conv)

    def forward(self, state: Features, x: Float[Tensor, "n _c h w"]) -> Features:
        """Return the next state."""
        for number in (1, 2):
            z, r, q = (getattr(self, f"conv{gate}{number}") for gate in "zrq")
            joined = torch.cat([state, x], dim=1)
            update, reset = torch.sigmoid(z(joined)), torch.sigmoid(r(joined))
            state = (1 - update) * state + update * torch.tanh(q(torch.cat([reset * state, x], dim=1)))
        return state


class FlowHead(nn.Module):
    """Update of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, state: Features) -> Flow:
        """Return the update."""
        return self.conv2(F.relu(self.conv1(state)))


class UpdateBlock(nn.Module):
    """One recurrent update: the next state, the update of the flow, and weights for its upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru, self.flow_head = MotionEncoder(), SeparableGRU(CONTEXT + 128), FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, STRIDE**2 * 9, 1))

    def forward(
        self, state: Features, context: Features, correlations: Float[Tensor, "n _c h w"], flow: Flow
    ) -> tuple[Features, Flow, Float[Tensor, "n _m h w"]]:
        """Apply the update."""
        state = self.gru(state, torch.cat([context, self.encoder(flow, correlations)], dim=1))
        return state, self.flow_head(state), 0.25 * self.mask(state)


class RAFT(nn.Module):
    """The full (not small) model."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder(256, nn.InstanceNorm2d)
        self.cnet = Encoder(HIDDEN + CONTEXT, nn.BatchNorm2d)
        self.update_block = UpdateBlock()

    def forward(
        self, first: Float[Tensor, "n 3 h w"], second: Float[Tensor, "n 3 h w"], num_updates: int = 20
    ) -> Float[Tensor, "n 2 h w"]:
        """Return the flow from `first` to `second`; sides must be multiples of 8 and at least `MIN_SIDE`."""
        first, second = (2 * (images / 255.0) - 1.0 for images in (first, second))
        pyramid = correlation_pyramid(self.fnet(first), self.fnet(second))
        state, context = self.cnet(first).split([HIDDEN, CONTEXT], dim=1)
        state, context = torch.tanh(state), torch.relu(context)
        flow = first.new_zeros(len(first), 2, *state.shape[-2:])
        mask = None
        for _ in range(num_updates):
            state, change, mask = self.update_block(state, context, look_up(pyramid, flow), flow)
            flow = flow + change
        assert mask is not None
        return upsample(flow, mask)


def correlation_pyramid(first: Features, second: Features) -> list[Float[Tensor, "pixels 1 _h _w"]]:
    """Return the correlations of each position of `first` with all of `second`, at all levels."""
    n, c, h, w = first.shape
    correlations = torch.einsum("ncp,ncq->npq", first.flatten(2), second.flatten(2)) / c**0.5
    pyramid = [correlations.reshape(n * h * w, 1, h, w)]
    for _ in range(LEVELS - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def look_up(pyramid: list[Float[Tensor, "pixels 1 _h _w"]], flow: Flow) -> Float[Tensor, "n _c h w"]:
    """Sample the correlations around the current matches, at all levels.

    The outer axis of the window is the horizontal offset, as in the original.
    """
    n, _, h, w = flow.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    matches = (flow + torch.stack([columns, rows]).to(flow)).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=flow.device, dtype=flow.dtype)
    window = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)
    sampled = []
    for level, correlations in enumerate(pyramid):
        size = correlations.new_tensor(correlations.shape[:1:-1])  # width, height
        grid = 2 * (matches / 2**level + window) / (size - 1) - 1
        sampled.append(F.grid_sample(correlations, grid, align_corners=True).reshape(n, h, w, -1))
    return torch.cat(sampled, dim=-1).permute(0, 3, 1, 2)


def upsample(flow: Flow, mask: Float[Tensor, "n _m h w"]) -> Float[Tensor, "n 2 _h _w"]:
    """Upsample a flow eightfold: each pixel is a convex combination of the nine nearest coarse ones."""
    n, _, h, w = flow.shape
    weights = mask.view(n, 1, 9, STRIDE, STRIDE, h, w).softmax(dim=2)
    neighbors = F.unfold(STRIDE * flow, 3, padding=1).view(n, 2, 9, 1, 1, h, w)
    return (weights * neighbors).sum(dim=2).permute(0, 1, 4, 2, 5, 3).reshape(n, 2, STRIDE * h, STRIDE * w)


def pad_images(images: Features) -> Float[Tensor, "n c _h _w"]:
    """Repeat edge pixels on both sides until the sides are multiples of 8; odd pixels are added at the end."""
    rows, columns = (-side % STRIDE for side in images.shape[-2:])
    return F.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), mode="replicate")


def load_raft(file: str | Path) -> RAFT:
    """Load a checkpoint of the original implementation, such as `raft-things.pth`.

    Raises:
        UserError: the file is missing or damaged, or its tensors do not match.
    """
    with torch.device("meta"):
        network = RAFT()
    state = open_weights(file)
    # The norm of a shortcut is stored twice. Names of checkpoints from data-parallel training begin with "module.".
    names = {name.removeprefix("module."): name for name in state if ".norm3." not in name}
    load_strict(network, state.select(names), where=str(file), dtype=torch.float32)
    return network.requires_grad_(False).eval()
