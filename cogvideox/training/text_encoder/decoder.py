"""T5's decoder and language-model head, used only to train the encoder (Raffel et al. 2020).

Axes: b batch, n target tokens, m source tokens, d width, k heads.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.linear import Linear
from cogvideox.text.config import T5Config
from cogvideox.text.encoder import RMSNorm, T5Attention, T5Encoder, T5FeedForward, position_buckets
from cogvideox.text.init_weights import init_weights
from cogvideox.text.tokenizer import PAD_ID


class CrossAttention(nn.Module):
    """Attention from target tokens to the encoder's features, without a position bias."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        width = config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.q = Linear(config.d_model, width, bias=False)
        self.kv = Linear(config.d_model, 2 * width, bias=False)
        self.out = Linear(width, config.d_model, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], source: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        q = rearrange(self.q(x), "b n (k e) -> b k n e", k=self.num_heads)
        k, v = rearrange(self.kv(source), "b m (two k e) -> two b k m e", two=2, k=self.num_heads)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.out(rearrange(mixed, "b k n e -> b n (k e)"))


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention and feed-forward, each with a pre-norm and a residual connection."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.norms = nn.ModuleList(RMSNorm(config.d_model, config.layer_norm_epsilon) for _ in range(3))
        self.attention, self.cross = T5Attention(config), CrossAttention(config)
        self.mlp = T5FeedForward(config)

    def forward(
        self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "k n n"], source: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b n d"]:
        x = x + self.attention(self.norms[0](x), bias)
        x = x + self.cross(self.norms[1](x), source)
        return x + self.mlp(self.norms[2](x))


class SpanCorruptionModel(nn.Module):
    """Encoder and decoder that compute the loss of removed spans from corrupted token ids."""

    def __init__(self, encoder: T5Encoder, num_decoder_layers: int) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.position_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(num_decoder_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.head = Linear(config.d_model, config.vocab_size, bias=False)

    def forward(self, source: Int[Tensor, "b m"], target: Int[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """Compute the mean negative log-likelihood of the tokens of each target, in nats. Padding is not counted."""
        config = self.encoder.config
        inputs = F.pad(target[:, :-1], (1, 0), value=PAD_ID)  # T5 starts decoding with the padding token
        x, features = self.embed(inputs), self.encoder(source)
        length = target.shape[1]
        buckets = position_buckets(
            length,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            self.position_bias.weight.device,
        )
        later = torch.ones(length, length, dtype=torch.bool, device=target.device).triu(1)
        bias = rearrange(self.position_bias(buckets), "n m k -> k n m").masked_fill(later, -torch.inf)
        for block in self.blocks:
            x = block(x, bias, features)
        logits = self.head(self.norm(x)).float()
        losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        counted = target != PAD_ID
        return (losses * counted).sum(dim=1) / counted.sum(dim=1)


@torch.no_grad()
def build_model(config: T5Config, num_decoder_layers: int, generator: torch.Generator) -> SpanCorruptionModel:
    """Build the model on the CPU with T5's initial weights, except for the encoder's position bias.

    Queries are scaled as in `text.init_weights`. With T5's small initial position bias, a small encoder ignores word
    order for hundreds of thousands of documents. Therefore each head initially prefers near tokens: half of the heads
    those before the query, the other half those after it.
    """
    model = SpanCorruptionModel(T5Encoder(config), num_decoder_layers)
    init_weights(model.encoder, generator)
    per_direction = config.relative_attention_num_buckets // 2
    distance = torch.arange(per_direction, dtype=torch.float32)
    for head in range(config.num_heads):
        slope = 1.0 / (1 + head // 2)
        before, after = -slope * distance, -slope * distance
        (before if head % 2 else after).sub_(3.0)
        model.encoder.position_bias.weight[:, head] = torch.cat((before, after))
    d, d_kv, width = config.d_model, config.d_kv, config.num_heads * config.d_kv
    model.embed.weight.normal_(std=1, generator=generator)
    model.position_bias.weight.normal_(std=d**-0.5, generator=generator)
    model.head.weight.normal_(std=d**-0.5, generator=generator)
    for module in model.blocks.modules():
        match module:
            case T5Attention():
                for matrix, std in zip(module.qkv.weight.chunk(3), ((d * d_kv) ** -0.5, d**-0.5, d**-0.5)):
                    matrix.normal_(std=std, generator=generator)
                module.out.weight.normal_(std=width**-0.5, generator=generator)
            case CrossAttention():
                module.q.weight.normal_(std=(d * d_kv) ** -0.5, generator=generator)
                module.kv.weight.normal_(std=d**-0.5, generator=generator)
                module.out.weight.normal_(std=width**-0.5, generator=generator)
            case T5FeedForward():
                module.wi.weight.normal_(std=d**-0.5, generator=generator)
                module.wo.weight.normal_(std=config.d_ff**-0.5, generator=generator)
    return model
