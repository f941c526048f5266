"""Embedding of the timestep and other scalar conditions.

Axes: s timesteps, or clips of a packed row; e time embedding.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.linear import Linear

Timestep = Float[Tensor, " s"] | Int[Tensor, " s"]


class ScalarEmbedding(nn.Module):
    """Embedding of a scalar such as the timestep: cosines and sines of decreasing frequencies, then an MLP."""

    def __init__(self, num_frequencies: int, width: int) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.hidden = Linear(num_frequencies, width)
        self.out = Linear(width, width)

    def forward(self, value: Timestep) -> Float[Tensor, "s e"]:
        half = self.num_frequencies // 2
        frequency = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=value.device))
        angle = value[:, None].float() * frequency
        sinusoids = torch.cat((angle.cos(), angle.sin()), dim=1)  # in float32, because bfloat16 cannot represent 999
        return self.out(F.silu(self.hidden(sinusoids.to(self.hidden.bias.dtype))))
