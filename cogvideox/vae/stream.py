"""What a chunk of video knows of the frames before it: the one seam of every time-aware layer of the VAE.

A layer never asks where its chunk stands. It asks its `past`:

    past.extend(layer, x, n)    x with the n frames before it in front (and the tail of x is remembered)
    past.holds_first            whether the chunk begins with the first frame of the video
    past.group_norm(x, ...)     GroupNorm over the statistics that belong together

`FirstFrame` is a clip in one piece: nothing comes before it, so its first frame is repeated (paper section 2.1).
`Stream` carries the tails from chunk to chunk, so that a long video passes through in little memory.

Axes: b batch, c channels, t frames, h w height and width.
"""

from collections.abc import Iterator

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


def chunks(x: Float[Tensor, "b c t h w"], sizes: list[int]) -> Iterator[Float[Tensor, "b c n h w"]]:
    """Cut x along time into pieces of the given sizes, which must add up to t."""
    assert sum(sizes) == x.shape[2], (sizes, x.shape)
    yield from x.split(sizes, dim=2)


class Tiling:
    """Overlapping tiles with linearly blended borders, as diffusers does it. An approximation: each tile has norm
    statistics of its own, so seams may show. Sizes in pixels of the video.

    Args:
        height, width: size of a tile.
        overlap_height, overlap_width: the share of a tile that its neighbour repeats (official: 1/6 and 1/5).
    """

    def __init__(
        self, height: int = 240, width: int = 360, overlap_height: float = 1 / 6, overlap_width: float = 1 / 5
    ) -> None:
        self.height, self.width = height, width
        self.overlap_height, self.overlap_width = overlap_height, overlap_width

    def plan(self, source_ratio: int, target_ratio: int) -> "TilePlan":
        """The plan in source cells (a cell is `source_ratio` pixels wide) for a result in cells of `target_ratio`."""
        size = (self.height // source_ratio, self.width // source_ratio)
        result = (self.height // target_ratio, self.width // target_ratio)
        overlap = (self.overlap_height, self.overlap_width)
        stride = tuple(int(n * (1 - share)) for n, share in zip(size, overlap, strict=True))
        blend = tuple(int(n * share) for n, share in zip(result, overlap, strict=True))
        keep = tuple(n - b for n, b in zip(result, blend, strict=True))
        return TilePlan(size, stride, blend, keep)


class TilePlan:
    """Where tiles begin and how their results are put together; pairs are (height, width)."""

    def __init__(self, size: tuple, stride: tuple, blend: tuple, keep: tuple) -> None:
        self.size, self.stride, self.blend, self.keep = size, stride, blend, keep

    def covers(self, height: int, width: int) -> bool:
        """Whether one tile holds everything."""
        return height <= self.size[0] and width <= self.size[1]

    def grid(self, x: Float[Tensor, "b c t h w"]) -> list[list[Float[Tensor, "b c t y x"]]]:
        (size_y, size_x), (stride_y, stride_x) = self.size, self.stride
        return [
            [x[..., i : i + size_y, j : j + size_x] for j in range(0, x.shape[-1], stride_x)]
            for i in range(0, x.shape[-2], stride_y)
        ]

    def assemble(self, rows: list[list[Float[Tensor, "b c t _y _x"]]]) -> Float[Tensor, "b c t h w"]:
        """Blend every tile with the one above and the one to the left (both blended before), then cut and join."""
        (blend_y, blend_x), (keep_y, keep_x) = self.blend, self.keep
        for i, row in enumerate(rows):
            for j, tile in enumerate(row):
                if i > 0:
                    tile = _blend(rows[i - 1][j], tile, blend_y, dim=3)
                if j > 0:
                    tile = _blend(row[j - 1], tile, blend_x, dim=4)
                row[j] = tile
        return torch.cat([torch.cat([tile[..., :keep_y, :keep_x] for tile in row], dim=4) for row in rows], dim=3)


def _blend(before: Tensor, tile: Tensor, extent: int, dim: int) -> Tensor:
    """Cross-fade the end of `before` into the beginning of `tile` over `extent` cells."""
    extent = min(before.shape[dim], tile.shape[dim], extent)
    shape = [1] * tile.ndim
    shape[dim] = extent
    ramp = (torch.arange(extent, device=tile.device, dtype=tile.dtype) / max(extent, 1)).view(shape)
    tail = before.narrow(dim, before.shape[dim] - extent, extent)
    faded = tail * (1 - ramp) + tile.narrow(dim, 0, extent) * ramp
    return torch.cat([faded, tile.narrow(dim, extent, tile.shape[dim] - extent)], dim=dim)
