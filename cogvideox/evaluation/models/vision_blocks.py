"""The transformer block of vision transformers (Dosovitskiy et al. 2020), shared by `umt` and `dino`.

Axes: b batch, n tokens, d width. Module names are those of the original checkpoints.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Tokens = Float[Tensor, "b n d"]


class Attention(nn.Module):
    """Multi-head self-attention. With `split_bias`, queries and values have a bias, and keys have none."""

    def __init__(self, width: int, num_heads: int, *, split_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=not split_bias)
        if split_bias:
            self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tokens) -> Tokens:
        """Apply attention."""
        bias = self.qkv.bias
        if bias is None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        b, n, d = x.shape
        qkv = F.linear(x, self.qkv.weight, bias).view(b, n, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tokens) -> Tokens:
        """Apply the layers."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, *, split_bias: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = Attention(width, num_heads, split_bias=split_bias)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Tokens) -> Tokens:
        """Apply attention and MLP with residual connections."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def count_blocks(names: list[str], prefix: str) -> int:
    """Return the number of blocks in a state dict whose tensors are named `{prefix}{n}.*`."""
    numbers = {int(name[len(prefix) :].split(".")[0]) for name in names if name.startswith(prefix)}
    return max(numbers, default=-1) + 1
