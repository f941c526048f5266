"""DINO's vision transformers (Caron et al. 2021, arXiv 2104.14294), with the names of the original checkpoints.

Axes: n images, c channels, h w height and width in pixels, d width; pixels normalized by the statistics of ImageNet.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.errors import UserError
from cogvideox.evaluation.models.vision_blocks import Block, count_blocks
from cogvideox.state_dict.strict_load import load_strict
from cogvideox.state_dict.torch_io import open_weights

HEAD_WIDTH = 64
"""Channels of an attention head in all published sizes."""


class DINO(nn.Module):
    """Vision transformer that returns the embedding of its class token."""

    def __init__(self, width: int, depth: int, num_heads: int, patch_size: int, num_patches: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch_size, stride=patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, width))
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return the embeddings. Sides are cropped at the end to multiples of the patch size."""
        height, width = images.shape[-2:]
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self._positions(height, width)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def _positions(self, height: int, width: int) -> Float[Tensor, "1 _n d"]:
        """Interpolate the position embeddings for images of a different size, as the original does."""
        rows, columns = height // self.patch_size, width // self.patch_size
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        scale = (rows + 0.1) / side, (columns + 0.1) / side  # 0.1 avoids rounding errors of the size
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def load_dino(file: str | Path) -> DINO:
    """Load a checkpoint of any size, such as `dino_vitbase16_pretrain.pth`; the size is that of its tensors.

    Raises:
        UserError: the file is missing or damaged, or its tensors do not match.
    """
    state = open_weights(file)
    if not {"patch_embed.proj.weight", "pos_embed"} <= set(state):
        raise UserError(f"{file} is not a checkpoint of DINO's vision transformer")
    width, _, patch_size, _ = state["patch_embed.proj.weight"].shape
    depth, num_patches = count_blocks(list(state), "blocks."), state["pos_embed"].shape[1] - 1
    with torch.device("meta"):
        network = DINO(width, depth, max(1, width // HEAD_WIDTH), patch_size, num_patches)
    load_strict(network, state, where=str(file), dtype=torch.float32)
    return network.requires_grad_(False).eval()
