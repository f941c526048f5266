"""Tiling: overlapping tiles with blended borders, an approximation that saves memory for large frames.

Axes: b batch, c channels, t frames, h w height and width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.errors import UserError

Cells = Float[Tensor, "b c t h w"]
Tile = Float[Tensor, "b c t _ _"]
"""Tiles at the bottom and right edges may be smaller."""


@dataclass(frozen=True)
class Tiling:
    """Overlapping tiles with linearly blended borders, as in the official code.

    An approximation: each tile has its own norm statistics, so seams may be visible. Sizes are in pixels, and overlaps
    are fractions of a tile. The defaults are the official ones.

    Raises:
        UserError: a size is below 1, or an overlap is outside [0, 1).
    """

    height: int = 240
    width: int = 360
    overlap_height: float = 1 / 6
    overlap_width: float = 1 / 5

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise UserError(
                f"a tile of {self.height}x{self.width} pixels is empty: both sizes must be 1 or more (default: 240x360)"
            )
        for overlap in (self.overlap_height, self.overlap_width):
            if not 0 <= overlap < 1:
                raise UserError(f"a tile overlap of {overlap} must be in [0, 1), such as 0.2")

    def plan(self, ratio: int) -> "TilePlan":
        """Convert sizes to latent cells of `ratio` pixels, rounded down but at least one cell."""
        size = (max(self.height // ratio, 1), max(self.width // ratio, 1))
        overlaps = (self.overlap_height, self.overlap_width)
        stride = tuple(max(int(n * (1 - overlap)), 1) for n, overlap in zip(size, overlaps, strict=True))
        return TilePlan(size, (stride[0], stride[1]))


@dataclass(frozen=True)
class TilePlan:
    """Size and stride of tiles in latent cells, as (height, width).

    In the methods, `scale` is the number of a tensor's rows per latent row: 1 for latents, `ratio` for pixels.
    """

    size: tuple[int, int]
    stride: tuple[int, int]

    def covers(self, x: Cells, scale: int) -> bool:
        """Return whether a single tile covers the whole of x."""
        return x.shape[3] <= self.size[0] * scale and x.shape[4] <= self.size[1] * scale

    def cut(self, x: Cells, scale: int) -> list[list[Tile]]:
        """Cut x into rows of tiles."""
        (height, width), (down, right) = self._scaled(scale)
        return [
            [x[..., i : i + height, j : j + width] for j in range(0, x.shape[4], right)]
            for i in range(0, x.shape[3], down)
        ]

    def join(self, rows: list[list[Tile]], scale: int) -> Cells:
        """Blend each tile with its (already blended) upper and left neighbors, then concatenate them."""
        (height, width), (down, right) = self._scaled(scale)
        rows = [list(row) for row in rows]
        for i, row in enumerate(rows):
            for j, tile in enumerate(row):
                if i > 0:
                    tile = _blend(rows[i - 1][j], tile, height - down, dim=3)
                if j > 0:
                    tile = _blend(row[j - 1], tile, width - right, dim=4)
                row[j] = tile
        return torch.cat([torch.cat([tile[..., :down, :right] for tile in row], dim=4) for row in rows], dim=3)

    def _scaled(self, scale: int) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.size[0] * scale, self.size[1] * scale), (self.stride[0] * scale, self.stride[1] * scale)


def _blend(previous: Tensor, tile: Tensor, extent: int, dim: int) -> Tensor:
    """Cross-fade the end of the previous tile into the beginning of `tile` over `extent` cells."""
    extent = min(previous.shape[dim], tile.shape[dim], extent)
    shape = [1] * tile.ndim
    shape[dim] = extent
    ramp = (torch.arange(extent, device=tile.device, dtype=tile.dtype) / max(extent, 1)).view(shape)
    tail = previous.narrow(dim, previous.shape[dim] - extent, extent)
    blended = tail * (1 - ramp) + tile.narrow(dim, 0, extent) * ramp
    return torch.cat([blended, tile.narrow(dim, extent, tile.shape[dim] - extent)], dim=dim)
