"""UMT (Li et al. 2023, arXiv 2303.16058): a video transformer fine-tuned to classify the actions of Kinetics-400.

Names are those of the original checkpoints, such as `l16_ptk710_ftk710_ftk400_f16_res224.pth`.

Axes: b batch, c channels, t frames, h w height and width in pixels, d width; pixels normalized by the statistics of
ImageNet.
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

NUM_FRAMES, SIDE, HEAD_WIDTH = 16, 224, 64
PRETRAINED_FRAMES = 8
"""Frames in pre-training, for which position embeddings are defined; they are interpolated for more frames."""


class UMT(nn.Module):
    """Video classifier: tokens of single frames, mean pooling, and a linear layer."""

    def __init__(self, width: int, depth: int, num_heads: int, patch_size: int, num_tokens: int, num_classes: int):
        super().__init__()
        size = (1, patch_size, patch_size)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, size, stride=size)})
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, width))
        self.blocks = nn.ModuleList(Block(width, num_heads, split_bias=True) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b classes"]:
        """Return the logits of the classes."""
        x = self.patch_embed["proj"](video).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.fc_norm(x.mean(dim=1)))


def load_umt(file: str | Path, num_frames: int = NUM_FRAMES, side: int = SIDE) -> UMT:
    """Load a checkpoint; the size of the network is that of its tensors.

    Raises:
        UserError: the file is missing or damaged, or its tensors do not match.
    """
    state = open_weights(file)
    if not {"patch_embed.proj.weight", "head.weight"} <= set(state):
        raise UserError(f"{file} is not a checkpoint of UMT's classifier")
    width, _, _, patch_size, _ = state["patch_embed.proj.weight"].shape
    side //= patch_size
    shape = {"num_tokens": num_frames * side**2, "num_classes": state["head.weight"].shape[0]}
    with torch.device("meta"):
        network = UMT(width, count_blocks(list(state), "blocks."), width // HEAD_WIDTH or 1, patch_size, **shape)
    tensors = {name: state[name] for name in state}
    tensors.setdefault("pos_embed", sinusoidal_positions(num_frames, side, width))
    load_strict(network, tensors, where=str(file), dtype=torch.float32)
    return network.requires_grad_(False).eval()


def sinusoidal_positions(num_frames: int, side: int, width: int) -> Float[Tensor, "1 n d"]:
    """Return the position embeddings of `num_frames` grids of `side` x `side` tokens, row by row.

    The table of all tokens of 8 frames is interpolated linearly to `num_frames`, as in the original.
    """
    index = torch.arange(width, dtype=torch.float64)
    rates = torch.exp(-math.log(10000.0) * 2 * (index // 2) / width)
    angles = torch.arange(PRETRAINED_FRAMES * side**2, dtype=torch.float64)[:, None] * rates
    table = torch.where(index % 2 == 0, angles.sin(), angles.cos()).float()
    if num_frames != PRETRAINED_FRAMES:
        table = table.view(PRETRAINED_FRAMES, side**2, width).permute(1, 2, 0)
        table = F.interpolate(table, size=num_frames, mode="linear").permute(2, 0, 1).reshape(-1, width)
    return table[None]
