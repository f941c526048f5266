"""A block of the transformer: joint attention, then an MLP, each with an adaptive norm and a gated residual connection.

Axes: b batch, n tokens of the merged stream, d width; s timesteps, or clips of a packed row; e time embedding.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.linear import Linear
from cogvideox.transformer.attention import Attend, JointAttention, StreamLayout
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.modulation import AdaptiveNorm, BlockModulation, add_gated


class TransformerBlock(nn.Module):
    """The expert block: text and video share all weights except the modulation (or also the modulation)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = Linear(config.time_embed_dim, 6 * config.num_modulations * width)
        self.norm1 = AdaptiveNorm(width, eps=config.norm_eps)
        self.attention = JointAttention(width, config.num_attention_heads)
        self.norm2 = AdaptiveNorm(width, eps=config.norm_eps)
        self.mlp = FeedForward(width, config.mlp_width)

    def compute_modulation(self, emb: Float[Tensor, "s e"]) -> BlockModulation:
        """Return the block's modulation at the timesteps of `emb`, [s 2 d] each."""
        width = self.mlp.out.out_features
        vectors = self.modulation(emb).unflatten(-1, (6, -1, width)).expand(-1, -1, 2, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = vectors.unbind(1)
        return BlockModulation(*self.norm1.fold(shift1, scale1), gate1, *self.norm2.fold(shift2, scale2), gate2)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        *,
        emb: Float[Tensor, "s e"] | None,
        modulation: BlockModulation | None,
        rope: Float[Tensor, "n p 2"] | None,
        layout: StreamLayout,
        attend: Attend,
    ) -> Float[Tensor, "b n d"]:
        """Apply the block to the stream.

        Args:
            emb: the time embedding, with a row for each segment of each row of x. Used if `modulation` is None, which
                is then computed here, because wrappers may gather or recompute the weights of one block at a time.
            modulation: the precomputed `compute_modulation(emb)`.
        """
        if modulation is None:
            assert emb is not None
            modulation = BlockModulation._make(by_row(self.compute_modulation(emb), len(x)))
        m, spans = modulation, layout.spans
        if torch.compiler.is_compiling() and layout.span_of_token is not None:
            spans = layout.span_of_token
        update = self.attention(self.norm1(x, m.attention_shift, m.attention_scale, spans), rope, layout, attend)
        x = add_gated(x, update, m.attention_gate, spans)
        return add_gated(x, self.mlp(self.norm2(x, m.mlp_shift, m.mlp_scale, spans)), m.mlp_gate, spans)


class FeedForward(nn.Module):
    """MLP with tanh-approximated GELU."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.hidden = Linear(width, hidden_width)
        self.out = Linear(hidden_width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.out(self.hidden(x, gelu=True))


def by_row(tables: Sequence[Tensor], batch: int) -> list[Float[Tensor, "b r d"]]:
    """Reshape modulation per segment [b*k r d] to modulation per row [b k*r d], for k segments in each row."""
    return [table.reshape(batch, -1, table.shape[-1]) for table in tables]
