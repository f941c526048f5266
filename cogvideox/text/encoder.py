"""The T5 v1.1 encoder (Raffel et al. 2020, arXiv 1910.10683; v1.1: gated GELU, Shazeer 2020, arXiv 2002.05202).

CogVideoX pads prompts to a fixed length. The encoder and the transformer attend to the padding, so there is no
attention mask. Positions enter as a learned bias on the attention scores, shared by all layers. Scores are not divided
by sqrt(d); the initialization accounts for it.

Axes: b batch, n tokens, d width, k heads.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.linear import Linear
from cogvideox.text.config import T5Config


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # a cached tensor must also work in training
def position_buckets(length: int, num_buckets: int, max_distance: int, device: torch.device) -> Int[Tensor, "n n"]:
    """Return the bucket of the distance from each query (row) to each key (column) (Raffel et al. 2020, section 2.1).

    Half of the buckets are for keys after the query, and half for all other keys. In each half, the first buckets are
    for one distance each; the sizes of the others grow logarithmically up to `max_distance`, and the last bucket
    includes all larger distances. The logarithm decides ties, so it is computed in float32, as in training of the
    published weights, and on the CPU, because other devices may round differently.
    """
    index = torch.arange(length, device="cpu")
    offset = index[None, :] - index[:, None]
    distance = offset.abs()
    per_direction = num_buckets // 2
    num_exact = per_direction // 2
    growth = torch.log(distance.float() / num_exact) / math.log(max_distance / num_exact)
    logarithmic = num_exact + (growth.clamp(min=0) * (per_direction - num_exact)).long()
    bucket = torch.where(distance < num_exact, distance, logarithmic.clamp(max=per_direction - 1))
    return (bucket + per_direction * (offset > 0)).to(device)


class RMSNorm(nn.Module):
    """RMS norm, without mean subtraction and bias. The result has the dtype of the weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(self.weight.dtype) * self.weight


class T5Attention(nn.Module):
    """Self-attention over all tokens, with a bias [k n n] on the scores."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        width = config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.qkv = Linear(config.d_model, 3 * width, bias=False)
        self.out = Linear(width, config.d_model, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "k n n"]) -> Float[Tensor, "b n d"]:
        q, k, v = rearrange(self.qkv(x), "b n (three k e) -> three b k n e", three=3, k=self.num_heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=1.0)
        return self.out(rearrange(attended, "b k n e -> b n (k e)"))


class T5FeedForward(nn.Module):
    """Gated GELU: wo(gelu(gate) * value), with gate and value from one matrix `wi`, and the tanh form of GELU."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = Linear(config.d_model, 2 * config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        gate, value = self.wi(x).chunk(2, dim=-1)
        hidden = F.gelu(gate, approximate="tanh") * value
        if hidden.dtype == torch.float16:
            # In XXL, this product exceeds 65504, the largest float16, so it is computed in float32.
            return F.linear(hidden.float(), self.wo.weight.float())
        return self.wo(hidden)


class T5Block(nn.Module):
    """Attention, then feed-forward, each with a pre-norm and a residual connection."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = T5Attention(config)
        self.mlp_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.mlp = T5FeedForward(config)

    def forward(self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "k n n"]) -> Float[Tensor, "b n d"]:
        x = x + self.attention(self.attention_norm(x), bias)
        return x + self.mlp(self.mlp_norm(x))


class T5Encoder(nn.Module):
    """The T5 encoder: token ids to embeddings. `text.checkpoint_keys` maps its weights to transformers' names."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.position_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.blocks = nn.ModuleList(T5Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Embed token ids [b n], padding included. The result has the dtype of the weights."""
        x = self.embed(ids)
        # The residual stream is at least float32: float16 would overflow, and bfloat16 would round at every addition.
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        bias = self._bias(ids.shape[1])
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x)

    def _bias(self, length: int) -> Float[Tensor, "k n n"]:
        config, table = self.config, self.position_bias
        buckets = position_buckets(
            length,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            table.weight.device,
        )
        return rearrange(table(buckets), "n m k -> k n m").contiguous()
