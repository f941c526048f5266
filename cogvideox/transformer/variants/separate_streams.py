"""Separate streams for text and video, which meet only in attention (MMDiT, Esser et al. 2024, section 4): the baseline
of the expert transformer (paper section 2.2 and figure 8).

A block has twice the matrices of an expert block of the same width. `training.diffusion.parameter_matching` chooses a
smaller width, so that both models have the same number of parameters.

Axes: b batch, n tokens of the merged stream, d width; s timesteps, or clips of a packed row; e time embedding.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.transformer.attention import Attend, JointAttention, StreamLayout
from cogvideox.transformer.block import FeedForward, TransformerBlock, by_row
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.modulation import AdaptiveNorm, BlockModulation, Spans, Table, add_gated
from cogvideox.transformer.position import rotate

Stream = Float[Tensor, "b n d"]


class TextWeights(nn.Module):
    """Norms, attention and MLP of the text tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = AdaptiveNorm(width, eps=config.norm_eps)
        self.attention = JointAttention(width, config.num_attention_heads)
        self.norm2 = AdaptiveNorm(width, eps=config.norm_eps)
        self.mlp = FeedForward(width, config.mlp_width)


class SeparateStreamsBlock(TransformerBlock):
    """A block in which text has its own weights, in `text`; the other weights are those of the video."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.text = TextWeights(config)

    def compute_modulation(self, emb: Float[Tensor, "s e"]) -> BlockModulation:
        """Return the block's modulation at the timesteps of `emb`, [s 2 d] each."""
        vectors = self.modulation(emb).unflatten(-1, (6, 2, -1)).unbind(1)
        shift1, scale1, gate1, shift2, scale2, gate2 = vectors
        shift1, scale1 = _fold(self.text.norm1, self.norm1, shift1, scale1)
        shift2, scale2 = _fold(self.text.norm2, self.norm2, shift2, scale2)
        return BlockModulation(shift1, scale1, gate1, shift2, scale2, gate2)

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
        """Apply the block to the stream; see `TransformerBlock`."""
        if modulation is None:
            assert emb is not None
            modulation = BlockModulation._make(by_row(self.compute_modulation(emb), len(x)))
        m, spans = modulation, layout.spans
        text, video = _split_streams(self.norm1(x, m.attention_shift, m.attention_scale, spans), spans)
        heads = zip(self.text.attention.project(text), self.attention.project(video))
        q, k, v = (_merge_streams(text_heads, video_heads, spans) for text_heads, video_heads in heads)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        text, video = _split_streams(attend(q, k, v, layout).flatten(2), spans)
        update = _merge_streams(self.text.attention.out(text), self.attention.out(video), spans)
        x = add_gated(x, update, m.attention_gate, spans)
        text, video = _split_streams(self.norm2(x, m.mlp_shift, m.mlp_scale, spans), spans)
        return add_gated(x, _merge_streams(self.text.mlp(text), self.mlp(video), spans), m.mlp_gate, spans)


def _fold(text_norm: AdaptiveNorm, video_norm: AdaptiveNorm, shift: Table, scale: Table) -> tuple[Table, Table]:
    """Fold the weights of the norms of both streams into shift and scale (`AdaptiveNorm.fold`)."""
    (text_shift, text_scale), (video_shift, video_scale) = (
        norm.fold(shift[:, i : i + 1], scale[:, i : i + 1]) for i, norm in enumerate((text_norm, video_norm))
    )
    return torch.cat((text_shift, video_shift), dim=1), torch.cat((text_scale, video_scale), dim=1)


def _split_streams(x: Stream, spans: Spans) -> list[Tensor]:
    """Return all text tokens, then all video tokens."""
    pieces = x.split(spans, dim=1)
    return [torch.cat(pieces[modality::2], dim=1) for modality in (0, 1)]


def _merge_streams(text: Tensor, video: Tensor, spans: Spans) -> Tensor:
    """Merge text and video tokens, in the inverse order of `_split_streams`."""
    pieces = zip(text.split(spans[::2], dim=1), video.split(spans[1::2], dim=1))
    return torch.cat([piece for pair in pieces for piece in pair], dim=1)
